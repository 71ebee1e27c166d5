/* SPDX-License-Identifier: Apache-2.0 */
/* Values that a node has on its SSD only, read through its staging memory. The store runs in real
 * time over a disk in memory, the network in the simulation's. */
#include "node_rig.h"
#include "store_rig.h"

#define LANE (64u * 1024u)

struct cold {
    struct rig disk;
    struct rig_world world;
    fabric_peer peer;
};

/* `count` values of `bytes` on the SSD, none in memory, and a client on `host`. */
static void begin_cold(struct cold *cold, unsigned count, uint64_t bytes, uint32_t host,
                       uint32_t lanes, bool promotes)
{
    struct node_options options = {.staging_bytes = (uint64_t)lanes * LANE, .staging_slots = lanes};
    struct named named;
    cold->disk = rig_make();
    cold->disk.options.promote_on_read = promotes;
    rig_open(&cold->disk);
    for (unsigned i = 0; i < count; i++) {
        assert_ok(put_value(cold->disk.store, name_key(&named, "k", i), bytes, i, 0));
    }
    assert_ok(store_flush(cold->disk.store, soon()));
    empty_memory(cold->disk.store);
    for (unsigned i = 0; i < count; i++) {
        assert_false(in_tier(cold->disk.store, name_key(&named, "k", i), STORE_TIER_DRAM));
        assert_true(in_tier(cold->disk.store, name_key(&named, "k", i), STORE_TIER_SSD));
    }
    rig_begin(&cold->world, test_seed());
    rig_node_open(&cold->world, 0, 0, cold->disk.store, &options);
    rig_client_open(&cold->world, 0, host);
    cold->peer = rig_connect(&cold->world.clients[0], 0);
}

static void end_cold(struct cold *cold)
{
    cold->world.nodes[0].store = NULL; /* the disk's */
    for (unsigned i = 0; i < RIG_CLIENTS; i++) {
        rig_client_close(&cold->world.clients[i]);
    }
    assert_int_equal(rig_node_stat(&cold->world.nodes[0], "node.lanes_now"), 0);
    assert_int_equal(rig_node_stat(&cold->world.nodes[0], "node.operations_now"), 0);
    rig_node_close(&cold->world.nodes[0]);
    rig_end(&cold->world);
    rig_finish(&cold->disk);
}

static void values_on_the_ssd_are_served_whatever_their_size(void **state)
{
    const uint64_t sizes[] = {1, 5000, LANE - 1, LANE, LANE + 1, 200000, 450000};
    (void)state;
    for (uint32_t lanes = 1; lanes <= 4; lanes++) { /* all in one, borrowed, part by part */
        for (unsigned i = 0; i < ARRAY_COUNT(sizes); i++) {
            struct cold cold;
            begin_cold(&cold, 1, sizes[i], lanes % 2, lanes, false);
            rig_get(&cold.world.clients[0], cold.peer, "k", 0, 1, sizes[i], UMBP_OK);
            assert_int_equal(rig_node_stat(&cold.world.nodes[0], "node.gets_staged"), 1);
            assert_int_equal(stat_of(cold.disk.store, "dram.bytes_used"), 0);
            end_cold(&cold);
        }
    }
}

/* What a value's record takes on the disk: its head's block, and its own. */
static uint64_t record_bytes(uint64_t bytes) { return SSD_BLOCK_BYTES + align_up(bytes, 4096); }

static void a_value_comes_from_the_disk_once_however_many_parts_it_takes(void **state)
{
    (void)state;
    for (uint32_t lanes = 1; lanes <= 4; lanes += lanes) {
        const uint64_t room = (uint64_t)lanes * LANE;
        const uint64_t sizes[] = {room - 1,        room,         room + 1,  room + 4096,
                                  2 * room - 4096, 2 * room + 1, 5 * LANE,  5 * LANE + 1,
                                  7 * LANE - 1,    7 * LANE,     RIG_MEMORY};
        for (unsigned i = 0; i < ARRAY_COUNT(sizes); i++) {
            const uint64_t bytes = u64_min(sizes[i], RIG_MEMORY);
            struct cold cold;
            begin_cold(&cold, 1, bytes, lanes % 2, lanes, false);
            uint64_t before = stat_of(cold.disk.store, "ssd.bytes_read");
            rig_get(&cold.world.clients[0], cold.peer, "k", 0, 1, bytes, UMBP_OK);
            assert_int_equal(stat_of(cold.disk.store, "ssd.bytes_read") - before,
                             record_bytes(bytes));
            assert_int_equal(stat_of(cold.disk.store, "hits.ssd"), 1);
            end_cold(&cold);
        }
    }
}

#define SCATTERED (5 * LANE + 300)

/* Asks for the ranges, one behind the other in the client's memory, and checks what came. */
static void get_ranges(struct cold *cold, const struct proto_range *wanted, uint32_t count)
{
    struct rig_client *client = &cold->world.clients[0];
    struct proto_range *ranges = calloc(count, sizeof(*ranges));
    uint8_t *value = malloc(SCATTERED);
    struct rig_call call;
    struct named named;
    size_t frame_bytes = 0;
    uint64_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        ranges[i] = wanted[i];
        ranges[i].address = (uint64_t)(uintptr_t)(client->memory + at);
        ranges[i].key = rig_key(client);
        at += wanted[i].bytes;
    }
    assert_true(at <= RIG_MEMORY);
    const struct proto_get item = {.key = name_key(&named, "k", 0),
                                   .bytes = SCATTERED,
                                   .ranges = ranges,
                                   .range_count = count};
    memset(client->memory, 0xee, RIG_MEMORY);
    assert_ok(proto_get_encode(rig_buffer(), rig_next(client, 5000), &item, 1, &frame_bytes));
    rig_send(&call, client, cold->peer, rig_frame, frame_bytes, 5000, true);
    rig_await(&call);
    assert_ok(rig_got_at(&call, 0).status);
    test_fill(value, SCATTERED, 0);
    at = 0;
    for (uint32_t i = 0; i < count; i++) {
        assert_memory_equal(client->memory + at, value + ranges[i].offset, ranges[i].bytes);
        at += ranges[i].bytes;
    }
    assert_true(at == RIG_MEMORY || client->memory[at] == 0xee);
    rig_call_free(&call);
    free(value);
    free(ranges);
}

static void ranges_of_a_value_in_parts_may_be_in_any_order_and_overlap(void **state)
{
    const struct proto_range mixed[] = {
        {.offset = 4 * LANE + 1, .bytes = LANE + 299}, /* the end first */
        {.offset = 0, .bytes = 2 * LANE + 5},
        {.offset = LANE - 1, .bytes = 2}, /* again */
        {.offset = SCATTERED - 1, .bytes = 1},
    };
    struct proto_range many[1000]; /* more than pieces of one write */
    struct proto_range backwards[1000];
    (void)state;
    for (unsigned i = 0; i < 1000; i++) {
        many[i] = (struct proto_range){.offset = i * 328, .bytes = 300};
        backwards[999 - i] = many[i];
    }
    for (uint32_t lanes = 1; lanes <= 2; lanes++) {
        struct cold cold;
        begin_cold(&cold, 1, SCATTERED, 1, lanes, false);
        get_ranges(&cold, mixed, ARRAY_COUNT(mixed));
        get_ranges(&cold, many, 1000);
        get_ranges(&cold, backwards, 1000);
        assert_int_equal(stat_of(cold.disk.store, "ssd.streams_open"), 0);
        end_cold(&cold);
    }
}

/* One bit of value k0 on the disk. */
static void spoil(struct cold *cold, uint64_t at)
{
    struct store_pin pin;
    char path[64];
    uint64_t bytes = 0;
    assert_ok(store_pin(cold->disk.store, text_key("k0"), 0, true, &pin));
    snprintf(path, sizeof(path), RIG_DIRECTORY "/%016x.seg", pin.location.segment);
    uint8_t *file = disk_memory_file(cold->disk.memory, path, &bytes);
    uint64_t place = ((uint64_t)pin.location.block + 1) * SSD_BLOCK_BYTES + at;
    assert_non_null(file);
    assert_true(place < bytes);
    file[place] ^= 0x40;
    store_unpin(cold->disk.store, &pin);
}

static void a_bad_byte_in_any_part_makes_the_whole_value_a_miss(void **state)
{
    const uint64_t bytes = 4 * LANE + 500;
    const uint64_t places[] = {0, LANE - 1, LANE, 2 * LANE + 7, 4 * LANE, 4 * LANE + 499};
    (void)state;
    for (unsigned i = 0; i < ARRAY_COUNT(places); i++) {
        struct cold cold;
        begin_cold(&cold, 2, bytes, i % 2, 1, false);
        spoil(&cold, places[i]);
        rig_get(&cold.world.clients[0], cold.peer, "k", 0, 1, bytes, UMBP_CORRUPT);
        assert_int_equal(stat_of(cold.disk.store, "corrupt"), 1);
        assert_int_equal(rig_node_stat(&cold.world.nodes[0], "node.gets_corrupt"), 1);
        assert_int_equal(rig_node_stat(&cold.world.nodes[0], "node.gets_staged"), 0);
        assert_int_equal(stat_of(cold.disk.store, "ssd.streams_open"), 0);
        rig_get(&cold.world.clients[0], cold.peer, "k", 0, 1, bytes, UMBP_NOT_FOUND);
        rig_get(&cold.world.clients[0], cold.peer, "k", 1, 1, bytes, UMBP_OK);
        end_cold(&cold);
    }
}

/* A disk that fails amid the parts costs the value; one that is slow costs the call. */
static void a_disk_that_fails_amid_the_parts_is_no_value(void **state)
{
    const uint64_t bytes = 6 * LANE;
    (void)state;
    for (uint64_t nth = 1; nth <= 6; nth++) {
        struct cold cold;
        const struct disk_fault fail = {.call = DISK_CALL_READ, .first = nth};
        begin_cold(&cold, 1, bytes, 1, 1, false);
        assert_true(disk_fault_add(cold.disk.fault, &fail));
        rig_get(&cold.world.clients[0], cold.peer, "k", 0, 1, bytes, UMBP_IO);
        assert_int_equal(stat_of(cold.disk.store, "ssd.streams_open"), 0);
        end_cold(&cold);
    }
}

static bool has_a_stream(void *context)
{
    const struct cold *cold = context;
    return stat_of(cold->disk.store, "ssd.streams_open") > 0;
}

static void what_happens_to_a_value_amid_its_parts_does_not_change_them(void **state)
{
    const uint64_t bytes = 6 * LANE + 1;
    (void)state;
    for (unsigned what = 0; what < 4; what++) {
        struct cold cold;
        struct rig_call call;
        struct named named;
        const struct umbp_key key = name_key(&named, "k", 0);
        enum umbp_status status = UMBP_OK;
        begin_cold(&cold, 1, bytes, 1, 1, false);
        struct rig_client *client = &cold.world.clients[0];
        struct store *store = cold.disk.store;
        rig_get_begin(&call, client, cold.peer, "k", 0, 1, bytes, 5000);
        assert_true(fabric_sim_run_until(cold.world.sim, has_a_stream, &cold,
                                         rig_in_ms(&cold.world, 5000)));
        if (what == 0) {
            assert_ok(store_clear(store, soon()));
        } else {
            assert_ok(store_batch_remove(store, &key, 1, &status));
        }
        if (what >= 2) { /* another value of that key, and the segments are needed */
            assert_ok(put_value(store, key, bytes, 77, 0));
            for (unsigned i = 0; what == 3 && i < 100; i++) {
                struct named other;
                assert_ok(put_value(store, name_key(&other, "other", i), 500000, i, 0));
                assert_ok(store_flush(store, soon()));
            }
        }
        rig_await(&call);
        assert_ok(rig_got_at(&call, 0).status);
        assert_true(test_check_fill(client->memory, bytes, 0));
        assert_int_equal(stat_of(store, "ssd.streams_open"), 0);
        rig_call_free(&call);
        end_cold(&cold);
    }
}

static void a_batch_larger_than_the_staging_memory_goes_through(void **state)
{
    struct cold cold;
    (void)state;
    begin_cold(&cold, 60, 8000, 1, 2, false);
    rig_get(&cold.world.clients[0], cold.peer, "k", 0, 60, 8000, UMBP_OK);
    end_cold(&cold);
}

static void a_read_promotes_as_the_stores_own_reads_do(void **state)
{
    struct cold cold;
    struct named named;
    (void)state;
    begin_cold(&cold, 3, 8000, 1, 2, true);
    rig_get(&cold.world.clients[0], cold.peer, "k", 0, 3, 8000, UMBP_OK);
    assert_true(in_tier(cold.disk.store, name_key(&named, "k", 1), STORE_TIER_DRAM));
    rig_get(&cold.world.clients[0], cold.peer, "k", 0, 3, 8000, UMBP_OK);
    assert_int_equal(rig_node_stat(&cold.world.nodes[0], "node.gets_staged"), 3);
    end_cold(&cold);
}

static void memory_and_ssd_mix_in_one_batch(void **state)
{
    (void)state;
    for (uint32_t host = 0; host < 2; host++) {
        struct cold cold;
        begin_cold(&cold, 20, 8000, host, 2, false);
        for (unsigned i = 20; i < 40; i++) {
            struct named named;
            assert_ok(put_value(cold.disk.store, name_key(&named, "k", i), 8000, i, 0));
        }
        rig_get(&cold.world.clients[0], cold.peer, "k", 10, 20, 8000, UMBP_OK);
        assert_int_equal(rig_node_stat(&cold.world.nodes[0], "node.gets_staged"), 10);
        end_cold(&cold);
    }
}

/* Fault 29: one request has all lanes; the other is told so, and not that the key is not there. */
static void exhausted_staging_is_busy_and_not_a_miss(void **state)
{
    struct cold cold;
    struct rig_call first;
    struct rig_call second;
    (void)state;
    begin_cold(&cold, 10, 8000, 1, 1, false);
    rig_client_open(&cold.world, 1, 2);
    fabric_peer other = rig_connect(&cold.world.clients[1], 0);
    rig_get_begin(&first, &cold.world.clients[0], cold.peer, "k", 0, 5, 8000, 5000);
    rig_advance(&cold.world, 1);
    assert_int_equal(rig_node_stat(&cold.world.nodes[0], "node.lanes_now"), 1);
    rig_get_begin(&second, &cold.world.clients[1], other, "k", 5, 5, 8000, 5000);
    rig_await(&first);
    rig_await(&second);
    for (unsigned i = 0; i < 5; i++) {
        assert_ok(rig_got_at(&first, i).status);
        assert_status(rig_got_at(&second, i).status, UMBP_BUSY);
    }
    rig_call_free(&first);
    rig_call_free(&second);
    rig_get(&cold.world.clients[1], other, "k", 5, 5, 8000, UMBP_OK);
    end_cold(&cold);
}

static void a_reader_of_the_ssd_may_go_at_any_moment(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 40; round++) {
        struct cold cold;
        struct rig_call call;
        begin_cold(&cold, 4, 100000, round % 2, 2, false);
        struct rig_client *client = &cold.world.clients[0];
        rig_get_begin(&call, client, cold.peer, "k", 0, 4, 100000, 3000);
        fabric_sim_run(cold.world.sim, rig_in_ms(&cold.world, 0) + round * 150 * NS_PER_US);
        if (round % 3 == 0) {
            fabric_sim_kill(client->fabric);
        } else if (round % 3 == 1) {
            fabric_sim_stop(client->fabric);
        } else {
            fabric_disconnect(client->fabric, cold.peer);
        }
        rig_advance(&cold.world, 10000);
        rig_client_close(client);
        rig_call_free(&call);
        end_cold(&cold);
    }
}

/* Half-way through a value: nothing stays pinned, whatever became of who wanted it. */
static void a_reader_that_goes_amid_the_parts_leaves_no_pin(void **state)
{
    const uint64_t bytes = 7 * LANE;
    unsigned met = 0;
    (void)state;
    for (unsigned round = 0; round < 60; round++) {
        struct cold cold;
        struct rig_call call;
        begin_cold(&cold, 1, bytes, round % 2, 1 + round % 2, false);
        struct rig_client *client = &cold.world.clients[0];
        rig_get_begin(&call, client, cold.peer, "k", 0, 1, bytes, 3000);
        fabric_sim_run(cold.world.sim, rig_in_ms(&cold.world, 0) + round * 100 * NS_PER_US);
        met += has_a_stream(&cold);
        if (round % 3 == 0) {
            fabric_sim_kill(client->fabric);
        } else if (round % 3 == 1) {
            fabric_sim_stop(client->fabric);
        } else {
            fabric_disconnect(client->fabric, cold.peer);
        }
        rig_advance(&cold.world, 10000);
        assert_int_equal(stat_of(cold.disk.store, "ssd.streams_open"), 0);
        struct umbp_entry_info info = {.struct_bytes = sizeof(info)};
        assert_ok(store_stat(cold.disk.store, text_key("k0"), &info));
        assert_int_equal(info.pins, 0);
        rig_client_close(client);
        rig_call_free(&call);
        end_cold(&cold);
    }
    assert_true(met > 10);
}

/* The node itself goes while jobs and transfers are under way. */
static void a_node_may_be_killed_with_reads_under_way(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 60; round++) {
        struct cold cold;
        struct rig_call call;
        uint64_t bytes = round < 20 ? 100000 : 131072 - 1; /* and in parts */
        begin_cold(&cold, 4, bytes, round % 2, round < 20 ? 2 : 1, false);
        rig_get_begin(&call, &cold.world.clients[0], cold.peer, "k", 0, 4, bytes, 3000);
        fabric_sim_run(cold.world.sim, rig_in_ms(&cold.world, 0) + round % 20 * 150 * NS_PER_US);
        fabric_sim_kill(cold.world.nodes[0].fabric);
        rig_await(&call);
        rig_call_free(&call);
        rig_node_close(&cold.world.nodes[0]);
        cold.world.nodes[0].store = NULL;
        rig_end(&cold.world);
        rig_finish(&cold.disk);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_on_the_ssd_are_served_whatever_their_size),
        cmocka_unit_test(a_value_comes_from_the_disk_once_however_many_parts_it_takes),
        cmocka_unit_test(ranges_of_a_value_in_parts_may_be_in_any_order_and_overlap),
        cmocka_unit_test(a_bad_byte_in_any_part_makes_the_whole_value_a_miss),
        cmocka_unit_test(a_disk_that_fails_amid_the_parts_is_no_value),
        cmocka_unit_test(what_happens_to_a_value_amid_its_parts_does_not_change_them),
        cmocka_unit_test(a_reader_that_goes_amid_the_parts_leaves_no_pin),
        cmocka_unit_test(a_batch_larger_than_the_staging_memory_goes_through),
        cmocka_unit_test(a_read_promotes_as_the_stores_own_reads_do),
        cmocka_unit_test(memory_and_ssd_mix_in_one_batch),
        cmocka_unit_test(exhausted_staging_is_busy_and_not_a_miss),
        cmocka_unit_test(a_reader_of_the_ssd_may_go_at_any_moment),
        cmocka_unit_test(a_node_may_be_killed_with_reads_under_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
