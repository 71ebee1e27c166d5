/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer that passed the handshake and then says anything: frames of every kind with bytes changed
 * under a right sum, addresses and keys of nothing, masters' frames to a node. The node answers or
 * hangs up, and in the end has everything back and serves others.
 */
#include "node_rig.h"

#undef MAYBE_UNUSED
#include "proto_support.h"

static void mend(uint8_t *frame, size_t bytes)
{
    uint32_t body = (uint32_t)(bytes - PROTO_HEADER_BYTES);
    memcpy(frame + 24, &body, sizeof(body));
    uint32_t crc = crc32c(0, frame, 44);
    crc = crc32c(crc, frame + PROTO_HEADER_BYTES, body);
    memcpy(frame + 44, &crc, sizeof(crc));
}

static void say_anything(struct rig_world *world, struct rig_client *client, fabric_peer *peer,
                         struct test_rng *rng)
{
    uint8_t frame[SAMPLE_BYTES_MAX];
    struct rig_call call;
    size_t bytes = 0;
    assert_ok(sample_encode((unsigned)test_rng_below(rng, SAMPLES),
                            (struct proto_buffer){frame, sizeof(frame)}, &bytes));
    for (uint64_t n = test_rng_below(rng, 5); n; n--) {
        frame[test_rng_below(rng, bytes)] = (uint8_t)test_rng_next(rng);
    }
    if (test_rng_below(rng, 8) == 0) {
        bytes = PROTO_HEADER_BYTES + test_rng_below(rng, bytes - PROTO_HEADER_BYTES + 1);
    }
    mend(frame, bytes);
    if (!(fabric_peer_flags(client->fabric, *peer) & FABRIC_PEER_UP)) {
        *peer = rig_connect(client, 0);
    }
    if (test_rng_below(rng, 4) == 0) {
        const struct iovec part = {frame, bytes};
        (void)!fabric_send(client->fabric, *peer, &part, 1);
        rig_advance(world, 1);
    } else {
        rig_send(&call, client, *peer, frame, bytes, 1 + test_rng_below(rng, 100),
                 test_rng_below(rng, 2));
        rig_await(&call);
        rig_call_free(&call);
    }
}

static void a_hostile_peer_gets_answers_and_harms_nobody(void **state)
{
    const unsigned rounds = test_is_slow() ? 500 : 4000;
    const struct node_options options = {.pin_ms = 300, .slots_max = 8, .slot_ms = 300};
    (void)state;
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    for (uint32_t host = 0; host < 2; host++) {
        struct rig_world world;
        struct test_rng rng;
        struct store_options store_options = small_options(MIB);
        store_options.op_timeout_ms = 1000;
        test_rng_init(&rng, host);
        rig_begin(&world, test_seed());
        rig_node_open(&world, 0, 0, make_store(&store_options), &options);
        rig_client_open(&world, 0, host);
        rig_client_open(&world, 1, 1 - host);
        fabric_peer bad = rig_connect(&world.clients[0], 0);
        fabric_peer good = rig_connect(&world.clients[1], 0);
        for (unsigned i = 0; i < rounds; i++) {
            say_anything(&world, &world.clients[0], &bad, &rng);
            if (i % 50 == 0) {
                char prefix[32];
                snprintf(prefix, sizeof(prefix), "good%u-", i);
                rig_put(&world.clients[1], good, prefix, i, 3, 10000, UMBP_OK);
                rig_get(&world.clients[1], good, prefix, i, 3, 10000, UMBP_OK);
            }
        }
        rig_advance(&world, 5000);
        assert_int_equal(rig_node_stat(&world.nodes[0], "node.operations_now"), 0);
        assert_int_equal(rig_node_stat(&world.nodes[0], "node.grants_now"), 0);
        assert_int_equal(rig_node_stat(&world.nodes[0], "node.slots_now"), 0);
        assert_int_equal(stat_of(world.nodes[0].store, "reservations"), 0);
        rig_end(&world);
    }
}

/* The sum is right, and the version is not ours. */
static void a_frame_of_a_later_version_is_told_so(void **state)
{
    struct store_options store_options = small_options(MIB);
    struct rig_world world;
    struct rig_call call;
    uint8_t frame[SAMPLE_BYTES_MAX];
    const uint16_t version = PROTO_VERSION + 1;
    (void)state;
    rig_begin(&world, test_seed());
    rig_node_open(&world, 0, 0, make_store(&store_options), NULL);
    rig_client_open(&world, 0, 1);
    fabric_peer peer = rig_connect(&world.clients[0], 0);
    for (unsigned i = 0; i < SAMPLES; i++) {
        size_t bytes = 0;
        assert_ok(sample_encode(i, (struct proto_buffer){frame, sizeof(frame)}, &bytes));
        memcpy(frame + 4, &version, sizeof(version));
        mend(frame, bytes);
        rig_send(&call, &world.clients[0], peer, frame, bytes, 100, false);
        rig_await(&call);
        assert_status(call.status, UMBP_VERSION);
        rig_call_free(&call);
    }
    rig_put(&world.clients[0], peer, "k", 0, 3, 10000, UMBP_OK); /* and the connection goes on */
    rig_end(&world);
}

/* Pins are counted by more than their bytes, or values of no bytes could be pinned without an end.
 */
static void pins_of_tiny_values_are_bounded_too(void **state)
{
    const struct node_options options = {.pinned_bytes_max = 10 * 256 + 5};
    struct store_options store_options = small_options(MIB);
    struct rig_world world;
    struct rig_call call;
    unsigned placed = 0;
    (void)state;
    rig_begin(&world, test_seed());
    rig_node_open(&world, 0, 0, make_store(&store_options), &options);
    rig_client_open(&world, 0, 0);
    fabric_peer peer = rig_connect(&world.clients[0], 0);
    rig_put(&world.clients[0], peer, "k", 0, 50, 0, UMBP_OK);
    rig_get_begin(&call, &world.clients[0], peer, "k", 0, 50, 0, 1000);
    rig_await(&call);
    for (unsigned i = 0; i < 50; i++) {
        assert_ok(rig_got_at(&call, i).status);
        placed += rig_got_at(&call, i).has_places;
    }
    assert_int_equal(placed, 10);
    rig_call_free(&call);
    rig_end(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hostile_peer_gets_answers_and_harms_nobody),
        cmocka_unit_test(a_frame_of_a_later_version_is_told_so),
        cmocka_unit_test(pins_of_tiny_values_are_bounded_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
