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

/* The node itself goes while jobs and transfers are under way. */
static void a_node_may_be_killed_with_reads_under_way(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 20; round++) {
        struct cold cold;
        struct rig_call call;
        begin_cold(&cold, 4, 100000, round % 2, 2, false);
        rig_get_begin(&call, &cold.world.clients[0], cold.peer, "k", 0, 4, 100000, 3000);
        fabric_sim_run(cold.world.sim, rig_in_ms(&cold.world, 0) + round * 150 * NS_PER_US);
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
        cmocka_unit_test(a_batch_larger_than_the_staging_memory_goes_through),
        cmocka_unit_test(a_read_promotes_as_the_stores_own_reads_do),
        cmocka_unit_test(memory_and_ssd_mix_in_one_batch),
        cmocka_unit_test(exhausted_staging_is_busy_and_not_a_miss),
        cmocka_unit_test(a_reader_of_the_ssd_may_go_at_any_moment),
        cmocka_unit_test(a_node_may_be_killed_with_reads_under_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
