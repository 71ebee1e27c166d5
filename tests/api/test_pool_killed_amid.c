/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kill -9 of a node, a client, the master while a node lists everything to the master (a full
 * sync), and while nodes evict, at seeded moments and under load. What is asked: no wrong byte, no
 * call that hangs past its deadline, an index that soon says what the nodes have, and survivors
 * that hold nothing in the end.
 */
#include "support_cluster.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OP_TIMEOUT_MS 4000u
#define LOAD_KEYS 300u
#define NODES 2u

#define PATIENCE "op_timeout_ms", "4000", "pool.beat_ms", "100", "pool.peer_timeout_ms", "5000"
static const char *const roomy[] = {PATIENCE, "dram.bytes", "64MiB", NULL};
static const char *const narrow[] = {PATIENCE, "dram.bytes", "2MiB", NULL};
static const char *const client_only[] = {PATIENCE, "pool.serve", "false", NULL};

enum victim {
    VICTIM_NODE,
    VICTIM_CLIENT,
    VICTIM_MASTER,
    VICTIMS
};

struct rig {
    struct test_master master;
    struct test_member nodes[NODES];
    struct test_member users[2]; /* the first one is never killed */
    const char *const *node_options;
    struct test_rng rng;
};

static void user_start(struct rig *rig, unsigned which)
{
    test_member_start(&rig->users[which], &rig->master, client_only);
    test_member_load(&rig->users[which], which ? 3 : 1, test_rng_next(&rig->rng), LOAD_KEYS);
}

static void rig_start(struct rig *rig, const char *const *node_options, uint64_t stream)
{
    *rig = (struct rig){.node_options = node_options};
    test_rng_init(&rig->rng, stream);
    test_master_start(&rig->master, NULL);
    for (unsigned i = 0; i < NODES; i++) {
        test_member_start(&rig->nodes[i], &rig->master, node_options);
    }
    user_start(rig, 0);
    user_start(rig, 1);
}

/* Its calls that begin now come to an end. */
struct progress {
    struct test_member *member;
    uint64_t calls;
};

static bool has_progress(void *context)
{
    struct progress *progress = context;
    return test_member_load_now(progress->member).calls >= progress->calls;
}

static void load_goes_on(struct test_member *member)
{
    struct progress progress = {member, test_member_load_now(member).calls + 20};
    assert_true(test_wait_until(has_progress, &progress, TEST_WAIT_MS));
}

static void index_agrees(struct rig *rig, const char *const *prefixes, uint64_t keys)
{
    struct test_member asker;
    test_member_start(&asker, &rig->master, client_only);
    test_index_agrees_on_load(&asker, rig->nodes, NODES, LOAD_KEYS);
    for (; prefixes != NULL && *prefixes != NULL; prefixes++) {
        /* Here and there, the beginning and the end. */
        for (uint64_t first = 0; first < keys; first += (keys - TEST_FOUND_MAX) / 5) {
            test_index_agrees(&asker, rig->nodes, NODES,
                              (struct test_set){*prefixes, first, TEST_FOUND_MAX, 0});
        }
    }
    test_member_end(&asker);
}

static void rig_end(struct rig *rig)
{
    struct test_load_result result = test_member_load_stop(&rig->users[0]);
    (void)test_member_load_stop(&rig->users[1]);
    printf("%" PRIu64 " calls, %" PRIu64 " found or stored, %" PRIu64 " missing, %" PRIu64
           " failed (%s), slowest %u ms\n",
           result.calls, result.ok, result.missing, result.failed, umbp_status_name(result.failure),
           result.slowest_ms);
    assert_int_equal(result.wrong, 0);
    assert_true(result.ok > 0);
    assert_in_range(result.slowest_ms, 0, OP_TIMEOUT_MS + TEST_SLACK_MS);
    index_agrees(rig, NULL, 0);
    for (unsigned i = 0; i < NODES; i++) {
        test_member_is_idle(&rig->nodes[i]);
        test_member_tell(&rig->nodes[i], "clear x");
        assert_string_equal(test_member_answer(&rig->nodes[i], TEST_WAIT_MS),
                            umbp_status_name(UMBP_OK));
        test_member_stat_becomes(&rig->nodes[i], "keys", 0);
        test_member_stat_becomes(&rig->nodes[i], "dram.bytes_used", 0);
        test_member_stat_becomes(&rig->nodes[i], "index.entries", 0);
    }
    for (unsigned i = 0; i < NODES; i++) {
        test_member_end(&rig->users[i]);
        test_member_end(&rig->nodes[i]);
    }
    test_master_stop(&rig->master);
}

/* ------------------------------------------------------------------------- full sync ---- */

static uint64_t listed(void) { return test_is_slow() ? 20000 : 60000; }

static void fill(struct rig *rig, unsigned node, const char *prefix)
{
    for (uint64_t first = 0; first < listed(); first += 10000) {
        struct test_set set = {prefix, first, 10000, 16};
        assert_int_equal(test_member_put(&rig->nodes[node], set).failed, 0);
    }
}

struct sync {
    struct test_member *node;
    uint64_t begun;
};

static bool has_begun(void *context)
{
    struct sync *sync = context;
    return test_member_stat(sync->node, "node.syncs_begun") > sync->begun;
}

/* The master is new, the nodes list all that they have, and a moment later somebody dies. */
static void deaths_amid_full_syncs(enum victim victim, uint64_t stream)
{
    static const char *const prefixes[] = {"first", "second", NULL};
    struct rig rig;
    unsigned amid = 0;

    rig_start(&rig, roomy, stream);
    fill(&rig, 0, prefixes[0]);
    fill(&rig, 1, prefixes[1]);
    for (unsigned round = 0; round < (test_is_slow() ? 1 : 3) || (amid == 0 && round < 10);
         round++) {
        struct sync sync = {&rig.nodes[1], test_member_stat(&rig.nodes[1], "node.syncs_begun")};
        uint64_t done = test_member_stat(&rig.nodes[1], "node.syncs_done");
        test_master_kill(&rig.master);
        test_master_again(&rig.master, NULL);
        assert_true(test_wait_until(has_begun, &sync, TEST_WAIT_MS));
        test_sleep_ms((unsigned)test_rng_below(&rig.rng, 4));
        if (victim == VICTIM_MASTER) {
            test_master_kill(&rig.master);
        }
        amid += test_member_stat(&rig.nodes[1], "node.syncs_done") == done;
        switch (victim) {
        case VICTIM_NODE:
            test_member_kill(&rig.nodes[1]);
            test_member_start(&rig.nodes[1], &rig.master, roomy);
            break;
        case VICTIM_CLIENT:
            test_member_kill(&rig.users[1]);
            user_start(&rig, 1);
            break;
        default:
            test_master_again(&rig.master, NULL);
        }
        load_goes_on(&rig.users[0]);
        index_agrees(&rig, prefixes, listed());
        if (victim == VICTIM_NODE) {
            fill(&rig, 1, prefixes[1]);
        }
    }
    printf("%u deaths amid a full sync\n", amid);
    assert_true(amid > 0);
    rig_end(&rig);
}

static void a_node_that_is_killed_amid_its_full_sync_leaves_nothing_in_the_index(void **state)
{
    (void)state;
    deaths_amid_full_syncs(VICTIM_NODE, 61);
}

static void a_client_that_is_killed_amid_a_full_sync_costs_nobody_anything(void **state)
{
    (void)state;
    deaths_amid_full_syncs(VICTIM_CLIENT, 62);
}

static void a_master_that_is_killed_amid_a_full_sync_is_told_all_again(void **state)
{
    (void)state;
    deaths_amid_full_syncs(VICTIM_MASTER, 63);
}

/* -------------------------------------------------------------------------- eviction ---- */

static uint64_t evictions(struct rig *rig)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < NODES; i++) {
        sum += test_member_stat(&rig->nodes[i], "evictions.dram");
    }
    return sum;
}

struct evicting {
    struct rig *rig;
    uint64_t than;
};

static bool evicts(void *context)
{
    struct evicting *evicting = context;
    return evictions(evicting->rig) > evicting->than;
}

/* Kills the second user when a node has something under way for it: it is stopped here and there
 * until that is so. Tells whether it ever was. */
static bool user_dies_amid_calls(struct rig *rig)
{
    struct test_member *user = &rig->users[1];
    bool is_amid = false;
    for (unsigned i = 0; i < 1000 && !is_amid; i++) {
        test_sleep_ms((unsigned)test_rng_below(&rig->rng, 3));
        test_member_signal(user, SIGSTOP);
        test_sleep_ms(2); /* calls that need nothing of it any more end */
        for (unsigned n = 0; n < NODES; n++) {
            is_amid |= test_member_stat(&rig->nodes[n], "node.grants_now") > 0;
        }
        if (!is_amid) {
            test_member_signal(user, SIGCONT);
        }
    }
    test_member_kill(user);
    return is_amid;
}

/* Most puts evict: what is put is a hundred times what there is room for. */
static void deaths_amid_eviction(enum victim victim, uint64_t stream)
{
    struct rig rig;
    unsigned amid = 0;

    rig_start(&rig, narrow, stream);
    for (unsigned round = 0; round < (test_is_slow() ? 1 : 3); round++) {
        struct evicting evicting = {&rig, evictions(&rig)};
        assert_true(test_wait_until(evicts, &evicting, TEST_WAIT_MS));
        test_sleep_ms((unsigned)test_rng_below(&rig.rng, 30));
        switch (victim) {
        case VICTIM_NODE:
            test_member_kill(&rig.nodes[1]);
            break;
        case VICTIM_CLIENT:
            amid += user_dies_amid_calls(&rig);
            user_start(&rig, 1);
            break;
        default:
            test_master_kill(&rig.master);
            load_goes_on(&rig.users[0]);
            test_master_again(&rig.master, NULL);
        }
        load_goes_on(&rig.users[0]);
        if (victim == VICTIM_NODE) {
            test_member_start(&rig.nodes[1], &rig.master, narrow);
        }
    }
    struct evicting evicting = {&rig, evictions(&rig)};
    assert_true(test_wait_until(evicts, &evicting, TEST_WAIT_MS));
    if (victim == VICTIM_CLIENT) {
        printf("%u died with pins held\n", amid);
        assert_true(amid > 0);
    }
    rig_end(&rig);
}

static void a_node_that_is_killed_amid_eviction_costs_misses_only(void **state)
{
    (void)state;
    deaths_amid_eviction(VICTIM_NODE, 64);
}

static void a_client_that_is_killed_amid_eviction_leaves_no_pin_and_no_page(void **state)
{
    (void)state;
    deaths_amid_eviction(VICTIM_CLIENT, 65);
}

static void a_master_that_is_killed_amid_eviction_learns_what_is_left(void **state)
{
    (void)state;
    deaths_amid_eviction(VICTIM_MASTER, 66);
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_teardown(name, test_cluster_end)
    const struct CMUnitTest tests[] = {
        TEST(a_node_that_is_killed_amid_its_full_sync_leaves_nothing_in_the_index),
        TEST(a_client_that_is_killed_amid_a_full_sync_costs_nobody_anything),
        TEST(a_master_that_is_killed_amid_a_full_sync_is_told_all_again),
        TEST(a_node_that_is_killed_amid_eviction_costs_misses_only),
        TEST(a_client_that_is_killed_amid_eviction_leaves_no_pin_and_no_page),
        TEST(a_master_that_is_killed_amid_eviction_learns_what_is_left),
    };
    cmocka_set_test_filter(getenv("UMBP_TEST_FILTER"));
    return test_member_wanted(argc, argv) ? test_member_main(argc, argv)
                                          : cmocka_run_group_tests(tests, NULL, NULL);
}
