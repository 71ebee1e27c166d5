/* SPDX-License-Identifier: Apache-2.0 */
/* The node's data service over the simulated network: what goes in comes out, by each way that
 * bytes can take, and what was given is given back whatever the peer does. */
#include "node_rig.h"

/* One node on host 0, one client on `client_host`. */
static fabric_peer begin(struct rig_world *world, uint64_t dram_bytes, uint32_t client_host,
                         const struct node_options *options)
{
    struct store_options store_options = small_options(dram_bytes);
    store_options.op_timeout_ms = 1000;
    store_options.dram_checksum = options && options->checks_memory;
    rig_begin(world, test_seed());
    rig_node_open(world, 0, 0, make_store(&store_options), options);
    rig_client_open(world, 0, client_host);
    return rig_connect(&world->clients[0], 0);
}

static uint64_t node_stat(struct rig_world *world, const char *name)
{
    return rig_node_stat(&world->nodes[0], name);
}

static uint64_t pins_of(struct rig_world *world, const char *key)
{
    struct umbp_entry_info info = {.struct_bytes = sizeof(info)};
    return store_stat(world->nodes[0].store, text_key(key), &info) == UMBP_OK ? info.pins : 999;
}

static void values_of_all_sizes_go_in_and_come_out(void **state)
{
    const uint64_t sizes[] = {0, 1, 63, 64, 65, 1000, 65535, 65536, 65537, 200000, 500000};
    (void)state;
    for (uint32_t host = 0; host < 2; host++) { /* by pulls and places; by RMA */
        struct rig_world world;
        fabric_peer peer = begin(&world, 4 * MIB, host, NULL);
        struct rig_client *client = &world.clients[0];
        for (unsigned i = 0; i < ARRAY_COUNT(sizes); i++) {
            rig_put(client, peer, "k", i, 1, sizes[i], UMBP_OK);
            rig_put(client, peer, "k", i, 1, sizes[i], UMBP_ALREADY_EXISTS);
        }
        for (unsigned i = 0; i < ARRAY_COUNT(sizes); i++) {
            rig_get(client, peer, "k", i, 1, sizes[i], UMBP_OK);
            rig_get(client, peer, "k", i, 1, sizes[i] + 1, UMBP_SIZE_MISMATCH);
            rig_get(client, peer, "other", i, 1, sizes[i], UMBP_NOT_FOUND);
        }
        assert_int_equal(node_stat(&world, "node.gets_placed") > 0, host == 0);
        assert_int_equal(node_stat(&world, "node.gets_written") > 0, host == 1);
        rig_advance(&world, 10);
        assert_int_equal(node_stat(&world, "node.grants_now"), 0);
        assert_int_equal(node_stat(&world, "node.operations_now"), 0);
        rig_end(&world);
    }
}

static void batches_larger_than_a_window_go_through(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 4; round++) {
        const struct node_options options = {.checks_memory = round >= 2};
        struct rig_world world;
        fabric_peer peer = begin(&world, 4 * MIB, round % 2, &options);
        struct rig_client *client = &world.clients[0];
        rig_put(client, peer, "k", 0, 200, 2500, UMBP_OK);
        rig_get(client, peer, "k", 0, 200, 2500, UMBP_OK);
        rig_end(&world);
    }
}

/* The tier is full of scattered free granules, so values have more pieces than a window. */
static void scattered_values_take_several_windows(void **state)
{
    (void)state;
    for (uint32_t host = 0; host < 2; host++) {
        struct rig_world world;
        fabric_peer peer = begin(&world, MIB, host, NULL);
        struct store *store = world.nodes[0].store;
        struct rig_client *client = &world.clients[0];
        struct named named;
        struct rig_call call;
        for (unsigned i = 0; i < 16384; i++) {
            assert_ok(put_value(store, name_key(&named, "small", i), 64, i, 0));
        }
        for (unsigned i = 0; i < 16384; i += 2) {
            assert_ok(remove_value(store, name_key(&named, "small", i)));
        }
        rig_put(client, peer, "k", 7, 1, 200000, UMBP_OK); /* 3,125 pieces */
        rig_get_begin(&call, client, peer, "k", 7, 1, 200000, 5000);
        rig_await(&call);
        struct proto_got got = rig_got_at(&call, 0);
        assert_ok(got.status);
        if (got.has_places) {
            assert_true(got.place_count > NODE_PIECES);
            assert_ok(rig_pull(&call, 0, 200000));
        }
        assert_true(test_check_fill(client->memory, 200000, 7));
        rig_release(client, peer, call.request_id);
        rig_call_free(&call);
        rig_end(&world);
    }
}

static void a_bad_item_does_not_fail_its_neighbours(void **state)
{
    struct rig_world world;
    struct rig_call call;
    (void)state;
    fabric_peer peer = begin(&world, MIB, 1, NULL);
    struct rig_client *client = &world.clients[0];
    struct proto_piece piece = {(uint64_t)(uintptr_t)client->memory, rig_key(client), 1000};
    struct proto_piece huge = {(uint64_t)(uintptr_t)client->memory, rig_key(client), 2 * MIB};
    const struct proto_put puts[] = {
        {.key = text_key("a"), .bytes = 1000, .pieces = &piece, .piece_count = 1},
        {.key = text_key("b"), .bytes = 2 * MIB, .pieces = &huge, .piece_count = 1},
        {.key = text_key("a"), .bytes = 1000, .pieces = &piece, .piece_count = 1},
        {.key = text_key("c"), .bytes = 1000, .pieces = &piece, .piece_count = 1},
    };
    size_t bytes = 0;
    test_fill(client->memory, 1000, 5);
    assert_ok(proto_put_encode(rig_buffer(), rig_next(client, 1000), puts, 4, &bytes));
    rig_send(&call, client, peer, rig_frame, bytes, 1000, true);
    rig_await(&call);
    assert_ok(rig_status_at(&call, 0));
    assert_status(rig_status_at(&call, 1), UMBP_TOO_LARGE);
    assert_status(rig_status_at(&call, 2), UMBP_ALREADY_EXISTS);
    assert_ok(rig_status_at(&call, 3));
    rig_call_free(&call);
    assert_ok(get_value(world.nodes[0].store, text_key("a"), 1000, 5));
    assert_ok(get_value(world.nodes[0].store, text_key("c"), 1000, 5));
    rig_end(&world);
}

static void ranges_are_read_and_checked(void **state)
{
    (void)state;
    for (uint32_t host = 0; host < 2; host++) {
        struct rig_world world;
        struct rig_call call;
        fabric_peer peer = begin(&world, MIB, host, NULL);
        struct rig_client *client = &world.clients[0];
        uint8_t whole[5000];
        size_t bytes = 0;
        rig_put(client, peer, "k", 1, 1, 5000, UMBP_OK);
        test_fill(whole, sizeof(whole), 1);
        uint64_t at = (uint64_t)(uintptr_t)client->memory;
        const struct proto_range good[] = {{4000, 1000, at, rig_key(client)},
                                           {10, 1, at + 1000, rig_key(client)}};
        const struct proto_range bad[] = {{4500, 501, at, rig_key(client)}};
        const struct proto_get gets[] = {
            {.key = text_key("k1"), .any_size = true, .ranges = good, .range_count = 2},
            {.key = text_key("k1"), .any_size = true, .ranges = bad, .range_count = 1}};
        assert_ok(proto_get_encode(rig_buffer(), rig_next(client, 1000), gets, 2, &bytes));
        rig_send(&call, client, peer, rig_frame, bytes, 1000, true);
        rig_await(&call);
        struct proto_got got = rig_got_at(&call, 0);
        assert_ok(got.status);
        assert_int_equal(got.bytes, 5000);
        if (got.has_places) {
            assert_ok(rig_pull(&call, 0, 1001));
        }
        assert_memory_equal(client->memory, whole + 4000, 1000);
        assert_int_equal(client->memory[1000], whole[10]);
        assert_status(rig_got_at(&call, 1).status, UMBP_INVALID_RANGE);
        rig_release(client, peer, call.request_id);
        rig_call_free(&call);
        rig_end(&world);
    }
}

/* Fault 18. Nothing moves, and who asked is told what would be right. */
static void another_size_is_refused_with_the_right_one(void **state)
{
    struct rig_world world;
    struct rig_call call;
    (void)state;
    fabric_peer peer = begin(&world, MIB, 1, NULL);
    struct rig_client *client = &world.clients[0];
    rig_put(client, peer, "k", 0, 1, 5000, UMBP_OK);
    rig_get_begin(&call, client, peer, "k", 0, 1, 4999, 1000);
    rig_await(&call);
    assert_status(rig_got_at(&call, 0).status, UMBP_SIZE_MISMATCH);
    assert_int_equal(rig_got_at(&call, 0).bytes, 5000);
    for (unsigned i = 0; i < 4999; i++) {
        assert_int_equal(client->memory[i], 0xee);
    }
    rig_call_free(&call);
    rig_end(&world);
}

static void keys_are_asked_for_resolved_and_removed(void **state)
{
    struct rig_world world;
    struct rig_call call;
    struct proto_walk walk;
    struct proto_resolved resolved;
    (void)state;
    fabric_peer peer = begin(&world, MIB, 1, NULL);
    struct rig_client *client = &world.clients[0];
    rig_put(client, peer, "k", 0, 10, 100, UMBP_OK);
    rig_keys_begin(&call, client, peer, PROTO_EXISTS, "k", 0, 10);
    rig_expect(&call, 10, UMBP_OK);
    rig_keys_begin(&call, client, peer, PROTO_RESOLVE, "k", 9, 2);
    rig_await(&call);
    assert_ok(proto_resolved_open(&call.frame, &walk));
    assert_true(proto_resolved_next(&walk, &resolved));
    assert_ok(resolved.status);
    assert_int_equal(resolved.bytes, 100);
    assert_int_equal(resolved.depth, 9);
    assert_int_equal(resolved.tiers, PROTO_TIER_BIT(PROTO_TIER_DRAM));
    assert_true(proto_resolved_next(&walk, &resolved));
    assert_status(resolved.status, UMBP_NOT_FOUND);
    rig_call_free(&call);
    rig_keys_begin(&call, client, peer, PROTO_REMOVE, "k", 0, 10);
    rig_expect(&call, 10, UMBP_OK);
    rig_keys_begin(&call, client, peer, PROTO_REMOVE, "k", 0, 10);
    rig_expect(&call, 10, UMBP_NOT_FOUND);
    rig_end(&world);
}

static void clear_evict_and_stats_are_answered(void **state)
{
    struct rig_world world;
    struct rig_call call;
    struct proto_walk walk;
    struct proto_stat stat;
    size_t bytes = 0;
    (void)state;
    fabric_peer peer = begin(&world, MIB, 1, NULL);
    struct rig_client *client = &world.clients[0];
    rig_put(client, peer, "k", 0, 10, 10000, UMBP_OK);
    assert_ok(proto_keys_encode(rig_buffer(), rig_next(client, 1000), PROTO_EVICT, 25000, NULL, 0,
                                &bytes));
    rig_send(&call, client, peer, rig_frame, bytes, 1000, false);
    rig_await(&call);
    assert_ok(call.status);
    assert_true(call.frame.header.aux >= 25000 && call.frame.header.aux < 100000);
    rig_call_free(&call);
    assert_ok(proto_bare_encode(rig_buffer(), rig_next(client, 1000), PROTO_STATS, 0, UMBP_OK, 0,
                                &bytes));
    rig_send(&call, client, peer, rig_frame, bytes, 1000, false);
    rig_await(&call);
    assert_ok(call.status);
    assert_ok(proto_stats_open(&call.frame, &walk));
    uint64_t stored = 0;
    while (proto_stats_next(&walk, &stat)) {
        if (stat.name.bytes == 16 && memcmp(stat.name.data, "node.puts_stored", 16) == 0) {
            stored = stat.value;
        }
    }
    assert_int_equal(stored, 10);
    rig_call_free(&call);
    assert_ok(proto_bare_encode(rig_buffer(), rig_next(client, 1000), PROTO_CLEAR, 0, UMBP_OK, 0,
                                &bytes));
    rig_send(&call, client, peer, rig_frame, bytes, 1000, false);
    rig_await(&call);
    assert_ok(call.status);
    rig_call_free(&call);
    rig_get(client, peer, "k", 0, 10, 10000, UMBP_NOT_FOUND);
    rig_end(&world);
}

/* Fault 18: exact sizes; here: what a hostile or newer peer says gets a status and harms nobody. */
static void hostile_frames_are_refused(void **state)
{
    struct rig_world world;
    struct rig_call call;
    struct test_rng rng;
    size_t bytes = 0;
    (void)state;
    fabric_peer peer = begin(&world, MIB, 1, NULL);
    struct rig_client *client = &world.clients[0];
    rig_put(client, peer, "k", 0, 1, 100, UMBP_OK);
    rig_send(&call, client, peer, "noise", 5, 1000, false);
    rig_await(&call);
    assert_status(call.status, UMBP_CORRUPT);
    rig_call_free(&call);
    assert_ok(proto_bare_encode(rig_buffer(), (struct proto_call){.version = PROTO_VERSION + 1},
                                PROTO_STATS, 0, UMBP_OK, 0, &bytes));
    rig_send(&call, client, peer, rig_frame, bytes, 1000, false);
    rig_await(&call);
    assert_status(call.status, UMBP_VERSION);
    rig_call_free(&call);
    assert_ok(
        proto_bare_encode(rig_buffer(), rig_next(client, 1), PROTO_LOOKUP, 0, UMBP_OK, 0, &bytes));
    rig_send(&call, client, peer, rig_frame, bytes, 1000, false);
    rig_await(&call);
    assert_status(call.status, UMBP_UNSUPPORTED);
    rig_call_free(&call);
    test_rng_init(&rng, 9);
    for (unsigned i = 0; i < 3000; i++) {
        uint16_t op = (uint16_t)(PROTO_PUT + test_rng_below(&rng, 12));
        uint32_t body = (uint32_t)test_rng_below(&rng, 100);
        assert_ok(proto_bare_encode(rig_buffer(), rig_next(client, 100), (enum proto_op)op, 0,
                                    UMBP_OK, test_rng_next(&rng), &bytes));
        if (op == PROTO_CLEAR) {
            continue;
        }
        uint32_t count = (uint32_t)test_rng_below(&rng, 4);
        for (uint32_t b = 0; b < body; b++) {
            rig_frame[PROTO_HEADER_BYTES + b] =
                (uint8_t)(test_rng_below(&rng, 3) ? test_rng_below(&rng, 3) : test_rng_next(&rng));
        }
        memcpy(rig_frame + 12, &count, 4);
        memcpy(rig_frame + 24, &body, 4);
        uint32_t crc = crc32c(0, rig_frame, 44);
        crc = crc32c(crc, rig_frame + PROTO_HEADER_BYTES, body);
        memcpy(rig_frame + 44, &crc, 4);
        rig_send(&call, client, peer, rig_frame, PROTO_HEADER_BYTES + body, 100, false);
        rig_await(&call);
        rig_call_free(&call);
    }
    rig_end(&world);
}

/* -------------------------------------------------------------- pins, peers that go ------ */

static void places_stay_pinned_until_they_are_released(void **state)
{
    struct rig_world world;
    struct rig_call call;
    (void)state;
    fabric_peer peer = begin(&world, MIB, 0, NULL);
    struct rig_client *client = &world.clients[0];
    rig_put(client, peer, "k", 0, 4, 100000, UMBP_OK);
    rig_get_begin(&call, client, peer, "k", 0, 1, 100000, 1000);
    rig_await(&call);
    assert_true(rig_got_at(&call, 0).has_places);
    assert_int_equal(pins_of(&world, "k0"), 1);
    /* Everything else is evicted, and what is pinned stays where it is, even removed. */
    assert_ok(remove_value(world.nodes[0].store, text_key("k0")));
    rig_put(client, peer, "new", 0, 1, 500000, UMBP_OK);
    assert_ok(rig_pull(&call, 0, 100000));
    assert_true(test_check_fill(client->memory, 100000, 0));
    assert_int_equal(node_stat(&world, "node.grants_now"), 1);
    rig_release(client, peer, call.request_id + 1); /* another's */
    rig_advance(&world, 5);
    assert_int_equal(node_stat(&world, "node.grants_now"), 1);
    rig_release(client, peer, call.request_id);
    rig_release(client, peer, call.request_id);
    rig_advance(&world, 5);
    assert_int_equal(node_stat(&world, "node.grants_now"), 0);
    rig_call_free(&call);
    rig_end(&world);
}

static void a_reader_that_dies_with_pins_held_gives_them_back(void **state)
{
    struct rig_world world;
    struct rig_call call;
    (void)state;
    fabric_peer peer = begin(&world, MIB, 0, NULL);
    struct rig_client *client = &world.clients[0];
    rig_put(client, peer, "k", 0, 1, 100000, UMBP_OK);
    rig_get_begin(&call, client, peer, "k", 0, 1, 100000, 1000);
    rig_await(&call);
    assert_int_equal(pins_of(&world, "k0"), 1);
    fabric_sim_kill(client->fabric);
    rig_advance(&world, 100);
    assert_int_equal(pins_of(&world, "k0"), 0);
    assert_int_equal(node_stat(&world, "node.grants_now"), 0);
    rig_call_free(&call);
    rig_end(&world);
}

/* Rule 2: the reader sleeps, its pages are reused, and what it then reads is thrown away. */
static void a_stopped_reader_can_not_take_reused_pages_for_its_value(void **state)
{
    const struct node_options options = {.pin_ms = 500, .pinned_bytes_max = MIB};
    struct rig_world world;
    struct rig_call call;
    (void)state;
    for (int by_timer = 0; by_timer < 2; by_timer++) {
        fabric_peer peer = begin(&world, MIB, 0, &options);
        struct rig_client *client = &world.clients[0];
        rig_client_open(&world, 1, 1);
        fabric_peer other = rig_connect(&world.clients[1], 0);
        rig_put(client, peer, "k", 0, 1, 500000, UMBP_OK);
        rig_get_begin(&call, client, peer, "k", 0, 1, 500000, 1000);
        rig_await(&call);
        assert_true(rig_got_at(&call, 0).has_places);
        fabric_sim_stop(client->fabric);
        rig_advance(&world, by_timer ? 1000 : 5000); /* pin_ms is over, or the connection */
        assert_int_equal(node_stat(&world, "node.grants_now"), 0);
        rig_put(&world.clients[1], other, "new", 1, 2, 250000, UMBP_OK);
        rig_put(&world.clients[1], other, "new", 3, 2, 250000, UMBP_OK);
        fabric_sim_continue(client->fabric);
        enum umbp_status status = rig_pull(&call, 0, 500000);
        assert_true(status == UMBP_STALE || status == UMBP_CLOSED);
        rig_call_free(&call);
        rig_end(&world);
    }
}

static void a_peer_may_pin_only_so_much(void **state)
{
    const struct node_options options = {.pinned_bytes_max = 250000};
    struct rig_world world;
    struct rig_call call;
    (void)state;
    fabric_peer peer = begin(&world, MIB, 0, &options);
    struct rig_client *client = &world.clients[0];
    rig_put(client, peer, "k", 0, 5, 100000, UMBP_OK);
    rig_get_begin(&call, client, peer, "k", 0, 5, 100000, 1000);
    rig_await(&call);
    for (unsigned i = 0; i < 5; i++) {
        struct proto_got got = rig_got_at(&call, i);
        assert_ok(got.status);
        assert_int_equal(got.has_places, i < 2);
        if (got.has_places) {
            assert_ok(rig_pull(&call, i, 100000));
        }
        assert_true(test_check_fill(client->memory + i * 100000, 100000, i));
    }
    rig_release(client, peer, call.request_id);
    rig_call_free(&call);
    rig_end(&world);
}

/* A writer that is killed, stopped or cut off amid a put, at many moments. */
static void a_writer_that_goes_leaves_no_page_and_no_torn_value(void **state)
{
    unsigned stored = 0;
    (void)state;
    for (unsigned round = 0; round < 120; round++) {
        struct rig_world world;
        struct rig_call call;
        fabric_peer peer = begin(&world, MIB, round % 2, NULL);
        struct rig_client *client = &world.clients[0];
        rig_put_begin(&call, client, peer, "k", 0, 4, 30000, 0, 3000);
        fabric_sim_run(world.sim, rig_in_ms(&world, 0) + round * 20 * NS_PER_US);
        if (round % 3 == 0) {
            fabric_sim_kill(client->fabric);
        } else if (round % 3 == 1) {
            fabric_sim_stop(client->fabric);
        } else {
            fabric_disconnect(client->fabric, peer);
        }
        rig_advance(&world, 10000);
        memset(client->memory, 0x55, RIG_MEMORY); /* the application has its buffer back */
        assert_int_equal(node_stat(&world, "node.operations_now"), 0);
        assert_int_equal(stat_of(world.nodes[0].store, "reservations"), 0);
        for (unsigned i = 0; i < 4; i++) {
            struct named named;
            enum umbp_status status =
                get_value(world.nodes[0].store, name_key(&named, "k", i), 30000, i);
            assert_true(status == UMBP_OK || status == UMBP_NOT_FOUND);
            stored += status == UMBP_OK;
        }
        rig_client_close(client);
        rig_call_free(&call);
        rig_end(&world);
    }
    assert_true(stored > 20 && stored < 460);
}

static void a_reader_that_goes_amid_a_get_gives_everything_back(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 180; round++) {
        const struct node_options options = {.checks_memory = round >= 90};
        struct rig_world world;
        struct rig_call call;
        fabric_peer peer = begin(&world, MIB, round % 2, &options);
        struct rig_client *client = &world.clients[0];
        rig_put(client, peer, "k", 0, 4, 30000, UMBP_OK);
        rig_get_begin(&call, client, peer, "k", 0, 4, 30000, 3000);
        fabric_sim_run(world.sim, rig_in_ms(&world, 0) + round % 90 * 20 * NS_PER_US);
        if (round % 3 == 0) {
            fabric_sim_kill(client->fabric);
        } else if (round % 3 == 1) {
            fabric_sim_stop(client->fabric);
        } else {
            fabric_disconnect(client->fabric, peer);
        }
        rig_advance(&world, 15000);
        assert_int_equal(node_stat(&world, "node.operations_now"), 0);
        assert_int_equal(node_stat(&world, "node.grants_now"), 0);
        assert_int_equal(pins_of(&world, "k0"), 0);
        rig_client_close(client);
        rig_call_free(&call);
        rig_end(&world);
    }
}

/* While values are summed up for somebody: their pins are nobody's but the request's. */
static void a_node_that_is_killed_amid_a_check_gives_everything_back(void **state)
{
    const struct node_options options = {.checks_memory = true};
    (void)state;
    for (unsigned round = 0; round < 60; round++) {
        struct rig_world world;
        struct rig_call call;
        fabric_peer peer = begin(&world, MIB, round % 2, &options);
        struct rig_client *client = &world.clients[0];
        rig_put(client, peer, "k", 0, 4, 30000, UMBP_OK);
        rig_get_begin(&call, client, peer, "k", 0, 4, 30000, 3000);
        fabric_sim_run(world.sim, rig_in_ms(&world, 0) + round * 30 * NS_PER_US);
        fabric_sim_kill(world.nodes[0].fabric);
        rig_await(&call);
        rig_call_free(&call);
        rig_end(&world); /* asserts that the store has nothing pinned */
    }
}

/* It would wait for weeks, beats, and its transfer does not end: it is believed for an hour. */
static void a_caller_without_an_end_is_closed_some_time(void **state)
{
    const struct fabric_fault_rule late = {
        .op = FABRIC_FAULT_WRITE, .first = 1, .every = 1, .delay_ms = UINT32_MAX};
    struct store_options store_options = small_options(MIB);
    struct rig_world world;
    struct rig_call call;
    (void)state;
    rig_begin(&world, test_seed());
    world.has_faults = true;
    rig_node_open(&world, 0, 0, make_store(&store_options), NULL);
    rig_client_open(&world, 0, 1);
    fabric_peer peer = rig_connect(&world.clients[0], 0);
    rig_put(&world.clients[0], peer, "k", 0, 1, 30000, UMBP_OK);
    assert_ok(fabric_fault_set(world.nodes[0].fabric, &late));
    rig_get_begin(&call, &world.clients[0], peer, "k", 0, 1, 30000, UINT32_MAX);
    rig_advance(&world, 3590000);
    assert_int_equal(node_stat(&world, "node.operations_now"), 1);
    assert_int_equal(pins_of(&world, "k0"), 1);
    rig_advance(&world, 20000);
    assert_int_equal(node_stat(&world, "node.peers_overdue"), 1);
    assert_true(call.is_done);
    rig_call_free(&call);
    rig_end(&world);
}

/* ------------------------------------------------------------------- room, admission ----- */

static void a_full_tier_evicts_for_a_put_and_waits_for_pins_only_so_long(void **state)
{
    const struct node_options options = {.pinned_bytes_max = MIB};
    struct rig_world world;
    struct rig_call call;
    struct rig_call put;
    (void)state;
    fabric_peer peer = begin(&world, MIB, 0, &options);
    struct rig_client *client = &world.clients[0];
    for (unsigned i = 0; i < 10; i++) {
        rig_put(client, peer, "k", i * 4, 4, 100000, UMBP_OK);
    }
    rig_get_begin(&call, client, peer, "k", 36, 4, 100000, 1000);
    rig_await(&call);
    rig_client_open(&world, 1, 1);
    fabric_peer other = rig_connect(&world.clients[1], 0);
    uint64_t before_ns = rig_in_ms(&world, 0);
    rig_put_begin(&put, &world.clients[1], other, "big", 0, 1, 500000, 0, 5000);
    rig_expect(&put, 1, UMBP_OK);
    rig_put_begin(&put, &world.clients[1], other, "big", 1, 1, 500000, 0, 5000);
    rig_expect(&put, 1, UMBP_OK);
    assert_ok(rig_pull(&call, 0, 100000));
    assert_true(test_check_fill(client->memory, 100000, 36));
    struct store_reservation held;
    assert_ok(store_reserve(world.nodes[0].store, text_key("held"), 600000, 0, &held));
    rig_put_begin(&put, &world.clients[1], other, "big", 2, 1, 500000, 0, 5000);
    rig_expect(&put, 1, UMBP_NO_SPACE);
    assert_true(rig_in_ms(&world, 0) - before_ns < 2000 * NS_PER_MS);
    rig_put_begin(&put, &world.clients[1], other, "big", 3, 1, 500000, 0, 5000);
    fabric_sim_run(world.sim, rig_in_ms(&world, 50));
    store_abort(world.nodes[0].store, &held); /* in time */
    rig_expect(&put, 1, UMBP_OK);
    rig_release(client, peer, call.request_id);
    rig_call_free(&call);
    rig_end(&world);
}

static void too_many_requests_at_once_are_told_busy(void **state)
{
    const struct node_options options = {.operations_max = 2};
    struct rig_world world;
    struct rig_call calls[4];
    unsigned busy = 0;
    (void)state;
    fabric_peer peer = begin(&world, MIB, 1, &options);
    struct rig_client *client = &world.clients[0];
    for (unsigned i = 0; i < 4; i++) {
        rig_put_begin(&calls[i], client, peer, "k", 0, 1, 100000, 0, 5000);
    }
    for (unsigned i = 0; i < 4; i++) {
        rig_await(&calls[i]);
        busy += calls[i].status == UMBP_BUSY;
        rig_call_free(&calls[i]);
    }
    assert_int_equal(busy, 2);
    rig_put(client, peer, "k", 1, 1, 100000, UMBP_OK);
    rig_end(&world);
}

/* ------------------------------------------------------------------------------ slots ---- */

static void reserve(struct rig_call *call, struct rig_client *client, fabric_peer peer,
                    const char *key, uint64_t bytes, uint64_t lifetime_ms)
{
    const struct proto_reserve item = {text_key(key), bytes, 0};
    size_t frame_bytes = 0;
    assert_ok(proto_reserve_encode(rig_buffer(), rig_next(client, 1000), lifetime_ms, &item, 1,
                                   &frame_bytes));
    rig_send(call, client, peer, rig_frame, frame_bytes, 1000, true);
    rig_await(call);
}

static struct proto_slot slot_of(const struct rig_call *call)
{
    struct proto_walk walk;
    struct proto_slot slot = {.status = call->status};
    if (call->status == UMBP_OK) {
        assert_ok(proto_slots_open(&call->frame, &walk));
        assert_true(proto_slots_next(&walk, &slot));
    }
    return slot;
}

static enum umbp_status commit(struct rig_client *client, fabric_peer peer, uint64_t slot,
                               const char *key, uint64_t bytes)
{
    struct rig_call call;
    size_t frame_bytes = 0;
    const struct proto_commit item = {
        .slot = slot, .bytes = bytes, .key_hash = hash_key(key, strlen(key), RIG_SEED).low};
    assert_ok(proto_commit_encode(rig_buffer(), rig_next(client, 1000), &item, 1, &frame_bytes));
    rig_send(&call, client, peer, rig_frame, frame_bytes, 1000, false);
    rig_await(&call);
    enum umbp_status status = rig_status_at(&call, 0);
    rig_call_free(&call);
    return status;
}

static enum umbp_status abort_slot(struct rig_client *client, fabric_peer peer, uint64_t slot)
{
    struct rig_call call;
    size_t frame_bytes = 0;
    assert_ok(proto_numbers_encode(rig_buffer(), rig_next(client, 1000), PROTO_ABORT, 0, &slot, 1,
                                   &frame_bytes));
    rig_send(&call, client, peer, rig_frame, frame_bytes, 1000, false);
    rig_await(&call);
    enum umbp_status status = rig_status_at(&call, 0);
    rig_call_free(&call);
    return status;
}

struct written {
    bool is_done;
    enum umbp_status status;
};

static void on_written(void *context, enum umbp_status status)
{
    *(struct written *)context = (struct written){true, status};
}

static bool is_written(void *context) { return ((struct written *)context)->is_done; }

static void write_slot(struct rig_client *client, fabric_peer peer, const struct proto_slot *slot,
                       uint64_t tag, uint64_t bytes)
{
    struct fabric_piece pieces[NODE_WINDOW];
    struct written written = {0};
    uint64_t at = 0;
    test_fill(client->memory, bytes, tag);
    for (uint32_t i = 0; i < slot->piece_count; i++) {
        struct proto_piece piece = proto_piece_at(slot->rows, i);
        pieces[i] = (struct fabric_piece){.local = client->memory + at,
                                          .region = client->region,
                                          .remote = piece.address,
                                          .key = {piece.key.key, piece.key.base},
                                          .bytes = piece.bytes};
        at += piece.bytes;
    }
    assert_true(at == bytes);
    assert_ok(fabric_write(client->fabric, peer, pieces, slot->piece_count, on_written, &written));
    assert_true(fabric_sim_run_until(client->world->sim, is_written, &written,
                                     rig_in_ms(client->world, 1000)));
    assert_ok(written.status);
}

static void a_slot_is_written_and_committed_and_both_may_be_repeated(void **state)
{
    struct rig_world world;
    struct rig_call call;
    struct rig_call again;
    (void)state;
    fabric_peer peer = begin(&world, MIB, 1, NULL);
    struct rig_client *client = &world.clients[0];
    reserve(&call, client, peer, "k", 100000, 5000);
    struct proto_slot slot = slot_of(&call);
    assert_ok(slot.status);
    reserve(&again, client, peer, "k", 100000, 5000);
    assert_int_equal(slot_of(&again).slot, slot.slot);
    assert_int_equal(stat_of(world.nodes[0].store, "reservations"), 1);
    write_slot(client, peer, &slot, 77, 100000);
    assert_false(holds(world.nodes[0].store, text_key("k")));
    assert_ok(commit(client, peer, slot.slot, "k", 100000));
    assert_ok(commit(client, peer, slot.slot, "k", 100000));
    assert_status(abort_slot(client, peer, slot.slot), UMBP_ALREADY_EXISTS);
    assert_ok(get_value(world.nodes[0].store, text_key("k"), 100000, 77));
    rig_call_free(&again);
    reserve(&again, client, peer, "k", 100000, 5000);
    assert_status(slot_of(&again).status, UMBP_ALREADY_EXISTS);
    assert_int_equal(node_stat(&world, "node.slots_now"), 0);
    rig_call_free(&call);
    rig_call_free(&again);
    rig_end(&world);
}

static void a_commit_of_another_value_rolls_back(void **state)
{
    struct rig_world world;
    struct rig_call call;
    (void)state;
    fabric_peer peer = begin(&world, MIB, 1, NULL);
    struct rig_client *client = &world.clients[0];
    reserve(&call, client, peer, "k", 1000, 5000);
    assert_status(commit(client, peer, slot_of(&call).slot, "k", 999), UMBP_SIZE_MISMATCH);
    assert_status(commit(client, peer, slot_of(&call).slot, "k", 1000), UMBP_STALE);
    rig_call_free(&call);
    reserve(&call, client, peer, "k", 1000, 5000);
    assert_status(commit(client, peer, slot_of(&call).slot, "other", 1000), UMBP_INVALID_KEY);
    rig_call_free(&call);
    reserve(&call, client, peer, "k", 1000, 5000);
    assert_ok(abort_slot(client, peer, slot_of(&call).slot));
    assert_ok(abort_slot(client, peer, slot_of(&call).slot));
    assert_status(commit(client, peer, slot_of(&call).slot, "k", 1000), UMBP_STALE);
    assert_status(commit(client, peer, UINT64_MAX, "k", 1000), UMBP_STALE);
    rig_call_free(&call);
    assert_int_equal(stat_of(world.nodes[0].store, "reservations"), 0);
    assert_int_equal(stat_of(world.nodes[0].store, "dram.bytes_used"), 0);
    /* Of another peer: as if it were not there. */
    rig_client_open(&world, 1, 1);
    fabric_peer other = rig_connect(&world.clients[1], 0);
    reserve(&call, client, peer, "k", 1000, 5000);
    assert_status(commit(&world.clients[1], other, slot_of(&call).slot, "k", 1000), UMBP_STALE);
    assert_ok(abort_slot(&world.clients[1], other, slot_of(&call).slot));
    assert_ok(commit(client, peer, slot_of(&call).slot, "k", 1000));
    rig_call_free(&call);
    rig_end(&world);
}

/* Its connection goes before its pages do: a late write can't hit what is put there next. */
static void an_expired_slot_takes_its_writers_connection_along(void **state)
{
    struct rig_world world;
    struct rig_call call;
    (void)state;
    fabric_peer peer = begin(&world, MIB, 1, NULL);
    struct rig_client *client = &world.clients[0];
    reserve(&call, client, peer, "k", 900000, 200);
    struct proto_slot slot = slot_of(&call);
    assert_ok(slot.status);
    test_fill(client->memory, 400000, 5);
    fabric_sim_stop(client->fabric);
    rig_advance(&world, 1000);
    assert_int_equal(stat_of(world.nodes[0].store, "reservations"), 0);
    assert_int_equal(node_stat(&world, "node.slots_expired"), 1);
    rig_client_open(&world, 1, 1);
    fabric_peer other = rig_connect(&world.clients[1], 0);
    rig_put(&world.clients[1], other, "new", 0, 1, 500000, UMBP_OK);
    fabric_sim_continue(client->fabric);
    struct proto_piece at = proto_piece_at(slot.rows, 0);
    struct fabric_piece piece = {.local = client->memory,
                                 .region = client->region,
                                 .remote = at.address,
                                 .key = {at.key.key, at.key.base},
                                 .bytes = 400000};
    struct written written = {0};
    if (fabric_write(client->fabric, peer, &piece, 1, on_written, &written) == UMBP_OK) {
        assert_true(fabric_sim_run_until(world.sim, is_written, &written, rig_in_ms(&world, 1000)));
        assert_int_not_equal(written.status, UMBP_OK);
    }
    rig_get(&world.clients[1], other, "new", 0, 1, 500000, UMBP_OK);
    rig_call_free(&call);
    rig_end(&world);
}

/* The writer is slow, not stopped: it comes back, with a new connection, and is too late. */
static void a_commit_after_expiry_stores_nothing(void **state)
{
    struct rig_world world;
    struct rig_call call;
    (void)state;
    fabric_peer peer = begin(&world, MIB, 1, NULL);
    struct rig_client *client = &world.clients[0];
    reserve(&call, client, peer, "k", 100000, 200);
    struct proto_slot slot = slot_of(&call);
    assert_ok(slot.status);
    write_slot(client, peer, &slot, 77, 100000);
    rig_advance(&world, 1000);
    assert_int_equal(node_stat(&world, "node.slots_expired"), 1);
    assert_int_equal(stat_of(world.nodes[0].store, "reservations"), 0);
    assert_int_equal(stat_of(world.nodes[0].store, "dram.bytes_used"), 0);
    peer = rig_connect(client, 0);
    assert_status(commit(client, peer, slot.slot, "k", 100000), UMBP_STALE);
    assert_false(holds(world.nodes[0].store, text_key("k")));
    rig_call_free(&call);
    reserve(&call, client, peer, "k", 100000, 5000); /* and may begin again */
    slot = slot_of(&call);
    write_slot(client, peer, &slot, 78, 100000);
    assert_ok(commit(client, peer, slot.slot, "k", 100000));
    assert_ok(get_value(world.nodes[0].store, text_key("k"), 100000, 78));
    rig_call_free(&call);
    rig_end(&world);
}

/* The same amid a write that takes longer than the slot lives. Its pages are wanted by somebody
 * else at once. */
static void a_write_into_an_expired_slot_stops_before_its_pages_are_given_away(void **state)
{
    struct store_options store_options = small_options(MIB);
    (void)state;
    for (unsigned round = 0; round < 5; round++) {
        struct rig_world world;
        struct rig_call call;
        struct rig_call put;
        struct written written = {0};
        enum umbp_status status = UMBP_NO_SPACE;
        rig_begin_slow(&world, test_seed() + round, true);
        rig_node_open(&world, 0, 0, make_store(&store_options), NULL);
        rig_client_open(&world, 0, 1);
        rig_client_open(&world, 1, 0);
        fabric_peer peer = rig_connect(&world.clients[0], 0);
        fabric_peer other = rig_connect(&world.clients[1], 0);
        struct rig_client *client = &world.clients[0];
        reserve(&call, client, peer, "other", 200000, 200);
        rig_call_free(&call);
        reserve(&call, client, peer, "k", 500000, 200); /* 348,576 are left */
        struct proto_slot slot = slot_of(&call);
        assert_ok(slot.status);
        struct proto_piece at = proto_piece_at(slot.rows, 0);
        struct fabric_piece piece = {.local = client->memory,
                                     .region = client->region,
                                     .remote = at.address,
                                     .key = {at.key.key, at.key.base},
                                     .bytes = at.bytes};
        test_fill(client->memory, 500000, 99);
        assert_ok(fabric_write(client->fabric, peer, &piece, 1, on_written, &written));
        for (unsigned i = 0; i < 50 && status == UMBP_NO_SPACE; i++) {
            rig_put_begin(&put, &world.clients[1], other, "new", 0, 1, 520000, 0, 2000);
            rig_await(&put);
            status = rig_status_at(&put, 0);
            rig_call_free(&put);
        }
        rig_advance(&world, 5000);
        assert_true(written.is_done);
        assert_int_not_equal(written.status, UMBP_OK);
        assert_ok(status);
        assert_ok(get_value(world.nodes[0].store, text_key("new0"), 520000, 0));
        rig_call_free(&call);
        rig_end(&world);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_all_sizes_go_in_and_come_out),
        cmocka_unit_test(batches_larger_than_a_window_go_through),
        cmocka_unit_test(scattered_values_take_several_windows),
        cmocka_unit_test(a_bad_item_does_not_fail_its_neighbours),
        cmocka_unit_test(ranges_are_read_and_checked),
        cmocka_unit_test(another_size_is_refused_with_the_right_one),
        cmocka_unit_test(keys_are_asked_for_resolved_and_removed),
        cmocka_unit_test(clear_evict_and_stats_are_answered),
        cmocka_unit_test(hostile_frames_are_refused),
        cmocka_unit_test(places_stay_pinned_until_they_are_released),
        cmocka_unit_test(a_reader_that_dies_with_pins_held_gives_them_back),
        cmocka_unit_test(a_stopped_reader_can_not_take_reused_pages_for_its_value),
        cmocka_unit_test(a_peer_may_pin_only_so_much),
        cmocka_unit_test(a_writer_that_goes_leaves_no_page_and_no_torn_value),
        cmocka_unit_test(a_reader_that_goes_amid_a_get_gives_everything_back),
        cmocka_unit_test(a_node_that_is_killed_amid_a_check_gives_everything_back),
        cmocka_unit_test(a_caller_without_an_end_is_closed_some_time),
        cmocka_unit_test(a_full_tier_evicts_for_a_put_and_waits_for_pins_only_so_long),
        cmocka_unit_test(too_many_requests_at_once_are_told_busy),
        cmocka_unit_test(a_slot_is_written_and_committed_and_both_may_be_repeated),
        cmocka_unit_test(a_commit_of_another_value_rolls_back),
        cmocka_unit_test(an_expired_slot_takes_its_writers_connection_along),
        cmocka_unit_test(a_commit_after_expiry_stores_nothing),
        cmocka_unit_test(a_write_into_an_expired_slot_stops_before_its_pages_are_given_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
