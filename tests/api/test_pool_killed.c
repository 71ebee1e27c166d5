/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cluster of processes under load, and kill -9 at seeded moments: of a node, a client, the
 * master. What is asked: no wrong byte, no call that hangs past its deadline, the index says
 * soon what the nodes have, and on the survivors every page, pin and reservation comes back.
 */
#include "support_cluster.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>

#define OP_TIMEOUT_MS 4000u
#define LOAD_KEYS 300u

static const char *const host_options[] = {
    "op_timeout_ms", "4000", "pool.beat_ms", "100", "pool.peer_timeout_ms", "5000", NULL};
static const char *const tcp_options[] = {
    "op_timeout_ms", "4000",           "pool.beat_ms", "100", "pool.peer_timeout_ms",
    "5000",          "pool.same_host", "false",        NULL};
static const char *const client_options[] = {
    "op_timeout_ms", "4000",       "pool.beat_ms", "100", "pool.peer_timeout_ms",
    "5000",          "pool.serve", "false",        NULL};
static const char *const tcp_client_options[] = {"op_timeout_ms",
                                                 "4000",
                                                 "pool.beat_ms",
                                                 "100",
                                                 "pool.peer_timeout_ms",
                                                 "5000",
                                                 "pool.serve",
                                                 "false",
                                                 "pool.same_host",
                                                 "false",
                                                 NULL};

static void result_is_sound(struct test_load_result result)
{
    if (result.wrong != 0 || result.calls == 0 ||
        result.slowest_ms > OP_TIMEOUT_MS + TEST_SLACK_MS) {
        fail_msg("%" PRIu64 " calls, %" PRIu64 " wrong, slowest %u ms", result.calls, result.wrong,
                 result.slowest_ms);
    }
    printf("%" PRIu64 " calls, %" PRIu64 " found or stored, %" PRIu64 " missing, %" PRIu64
           " failed (%s), slowest %u ms\n",
           result.calls, result.ok, result.missing, result.failed, umbp_status_name(result.failure),
           result.slowest_ms);
}

struct more {
    struct test_member *member;
    uint64_t calls;
};

static bool has_more(void *context)
{
    struct more *more = context;
    return test_member_load_now(more->member).calls >= more->calls;
}

/* Calls that began now have come to an end. */
static void load_goes_on(struct test_member *member)
{
    struct more more = {member, test_member_load_now(member).calls + 20};
    assert_true(test_wait_until(has_more, &more, TEST_WAIT_MS));
}

/* Clears it, and waits until nothing is held: a page that leaked would stay. */
static void gives_everything_back(struct test_member *member)
{
    test_member_is_idle(member);
    test_member_tell(member, "clear x");
    assert_string_equal(test_member_answer(member, TEST_WAIT_MS), umbp_status_name(UMBP_OK));
    test_member_stat_becomes(member, "keys", 0);
    test_member_stat_becomes(member, "dram.bytes_used", 0);
    test_member_stat_becomes(member, "index.entries", 0);
}

/* Asked by somebody who has no part in it. */
static void index_agrees(const struct test_master *master, struct test_member *nodes,
                         unsigned count)
{
    struct test_member asker;
    test_member_start(&asker, master, client_options);
    test_index_agrees_on_load(&asker, nodes, count, LOAD_KEYS);
    test_member_end(&asker);
}

static unsigned rounds(void) { return test_is_slow() ? 1 : 3; }

static void nodes_are_killed(const char *const *node_options, const char *const *user_options)
{
    struct test_master master;
    struct test_member nodes[3];
    struct test_member user;
    struct test_rng rng;

    test_rng_init(&rng, 11);
    test_master_start(&master, NULL);
    for (unsigned i = 0; i < 3; i++) {
        test_member_start(&nodes[i], &master, node_options);
    }
    test_member_start(&user, &master, user_options);
    test_member_load(&user, 3, test_rng_next(&rng), LOAD_KEYS);
    test_member_load(&nodes[0], 1, test_rng_next(&rng), LOAD_KEYS);
    for (unsigned round = 0; round < rounds(); round++) {
        unsigned which = 1 + (unsigned)test_rng_below(&rng, 2);
        load_goes_on(&user);
        test_sleep_ms((unsigned)test_rng_below(&rng, 100));
        test_member_kill(&nodes[which]);
        load_goes_on(&user);
        load_goes_on(&nodes[0]);
        test_member_start(&nodes[which], &master, node_options);
    }
    load_goes_on(&user);
    result_is_sound(test_member_load_stop(&user));
    result_is_sound(test_member_load_stop(&nodes[0]));
    index_agrees(&master, nodes, 3);
    for (unsigned i = 0; i < 3; i++) {
        gives_everything_back(&nodes[i]);
    }
    test_member_end(&user);
    for (unsigned i = 0; i < 3; i++) {
        test_member_end(&nodes[i]);
    }
    test_master_stop(&master);
}

static void a_node_that_is_killed_under_load_costs_misses_only(void **state)
{
    (void)state;
    nodes_are_killed(host_options, client_options);
}

static void a_node_that_is_killed_under_load_costs_misses_only_over_tcp(void **state)
{
    (void)state;
    nodes_are_killed(tcp_options, tcp_client_options);
}

static void clients_are_killed(const char *const *node_options, const char *const *user_options)
{
    struct test_master master;
    struct test_member node;
    struct test_member other;
    struct test_rng rng;

    test_rng_init(&rng, 12);
    test_master_start(&master, NULL);
    test_member_start(&node, &master, node_options);
    test_member_start(&other, &master, user_options);
    test_member_load(&other, 1, test_rng_next(&rng), LOAD_KEYS);
    uint64_t fds = 0;
    for (unsigned round = 0; round < rounds() + 2; round++) {
        struct test_member user;
        test_member_start(&user, &master, user_options);
        test_member_load(&user, 4, test_rng_next(&rng), LOAD_KEYS);
        load_goes_on(&user);
        test_sleep_ms((unsigned)test_rng_below(&rng, 50));
        test_member_kill(&user); /* with pins held, and amid puts */
        load_goes_on(&other);
        if (round == 0) {
            fds = test_member_stat(&node, "fds");
        }
    }
    result_is_sound(test_member_load_stop(&other));
    test_member_is_idle(&node);
    struct test_set whole = {"after", 0, 100, 60000};
    assert_int_equal(test_member_put(&other, whole).ok, 100);
    assert_int_equal(test_member_get(&other, whole).ok, 100);
    test_member_stat_becomes(&node, "fds", fds);
    index_agrees(&master, &node, 1);
    gives_everything_back(&node);
    test_member_end(&other);
    test_member_end(&node);
    test_master_stop(&master);
}

static void a_client_that_is_killed_leaves_no_pin_page_or_descriptor_at_the_owner(void **state)
{
    (void)state;
    clients_are_killed(host_options, client_options);
}

static void
a_client_that_is_killed_leaves_no_pin_page_or_descriptor_at_the_owner_over_tcp(void **state)
{
    (void)state;
    clients_are_killed(tcp_options, tcp_client_options);
}

struct whole {
    struct test_member *member;
    struct test_set set;
};

static bool all_exist(void *context)
{
    struct whole *whole = context;
    return test_member_exists(whole->member, whole->set).ok == whole->set.count;
}

static bool all_are_put(void *context)
{
    struct whole *whole = context;
    struct test_tally tally = test_member_put(whole->member, whole->set);
    return tally.ok + tally.existing == whole->set.count;
}

static void
a_masters_restart_makes_the_index_whole_again_and_own_values_are_served_meanwhile(void **state)
{
    struct test_master master;
    struct test_member nodes[2];
    struct test_member user;
    struct test_set set = {"kept", 0, 2000, 1000};
    (void)state;

    test_master_start(&master, NULL);
    test_member_start(&nodes[0], &master, host_options);
    test_member_start(&nodes[1], &master, host_options);
    test_member_start(&user, &master, client_options);
    assert_int_equal(test_member_put(&user, set).ok, set.count);
    struct test_set own = {"own", 0, 50, 3000};
    struct whole visible = {&user, own};
    assert_int_equal(test_member_put(&nodes[0], own).ok, own.count);
    assert_true(test_wait_until(all_exist, &visible, TEST_WAIT_MS));
    test_master_kill(&master);
    /* What this process wrote it knows where to find. */
    struct test_tally without = test_member_get(&user, set);
    assert_int_equal(without.wrong, 0);
    assert_int_equal(without.ok, set.count);
    struct test_set late = {"late", 0, 20, 500};
    struct test_tally put = test_member_put(&nodes[1], late);
    assert_int_equal(put.ok, late.count); /* into its own store */
    test_master_again(&master, NULL);
    uint64_t began_ns = test_now_ns();
    struct test_member fresh;
    test_member_start(&fresh, &master, client_options);
    struct whole whole[3] = {{&fresh, set}, {&fresh, own}, {&fresh, late}};
    for (unsigned i = 0; i < 3; i++) {
        assert_true(test_wait_until(all_exist, &whole[i], TEST_WAIT_MS));
    }
    printf("index whole again %.0f ms after the master listens\n",
           (double)(test_now_ns() - began_ns) / 1e6);
    assert_int_equal(test_member_get(&fresh, set).ok, set.count);
    assert_int_equal(test_member_get(&fresh, late).ok, late.count);
    assert_int_equal(test_member_get(&user, own).ok, own.count);
    test_member_end(&fresh);
    test_member_end(&user);
    test_member_end(&nodes[0]);
    test_member_end(&nodes[1]);
    test_master_stop(&master);
}

static void a_master_that_is_killed_under_load_costs_misses_only(void **state)
{
    struct test_master master;
    struct test_member node;
    struct test_member user;
    struct test_rng rng;
    (void)state;

    test_rng_init(&rng, 13);
    test_master_start(&master, NULL);
    test_member_start(&node, &master, host_options);
    test_member_start(&user, &master, client_options);
    test_member_load(&user, 3, test_rng_next(&rng), LOAD_KEYS);
    for (unsigned round = 0; round < rounds(); round++) {
        load_goes_on(&user);
        test_sleep_ms((unsigned)test_rng_below(&rng, 60));
        test_master_kill(&master);
        load_goes_on(&user);
        test_master_again(&master, NULL);
        load_goes_on(&user);
    }
    result_is_sound(test_member_load_stop(&user));
    index_agrees(&master, &node, 1);
    gives_everything_back(&node);
    test_member_end(&user);
    test_member_end(&node);
    test_master_stop(&master);
}

static void of_two_masters_the_one_that_lives_is_asked(void **state)
{
    struct test_master masters[2];
    struct test_member node;
    struct test_member user;
    char both[260];
    struct test_set set = {"two", 0, 200, 2000};
    (void)state;

    test_master_start(&masters[0], NULL);
    test_master_start(&masters[1], NULL);
    snprintf(both, sizeof(both), "%s,%s", masters[0].address, masters[1].address);
    const char *const node_list[] = {"pool.masters", both, "pool.beat_ms", "100", NULL};
    const char *const user_list[] = {"pool.masters", both, "pool.serve", "false", NULL};
    test_member_start(&node, &masters[0], node_list);
    test_member_start(&user, &masters[0], user_list);
    struct whole placed = {&user, set};
    assert_true(test_wait_until(all_are_put, &placed, TEST_WAIT_MS)); /* known to both masters */
    test_master_kill(&masters[0]);
    struct test_member second;
    const char *const other[] = {"pool.masters", masters[1].address, "pool.serve", "false", NULL};
    test_member_start(&second, &masters[1], other);
    struct whole whole = {&second, set};
    assert_true(test_wait_until(all_exist, &whole, TEST_WAIT_MS));
    assert_int_equal(test_member_get(&second, set).ok, set.count);
    struct test_set more = {"more", 0, 200, 2000};
    assert_int_equal(test_member_put(&user, more).ok, more.count);
    assert_int_equal(test_member_get(&user, more).ok, more.count);
    test_member_end(&second);
    test_member_end(&user);
    test_member_end(&node);
    test_master_stop(&masters[1]);
}

static void a_node_that_comes_back_under_its_id_is_a_new_one(void **state)
{
    static const char *const named[] = {"pool.node_id", "same", "pool.beat_ms", "100", NULL};
    struct test_master master;
    struct test_member node;
    struct test_member user;
    struct test_set old = {"old", 0, 100, 5000};
    struct test_set young = {"young", 0, 100, 5000};
    (void)state;

    test_master_start(&master, NULL);
    test_member_start(&node, &master, named);
    test_member_start(&user, &master, client_options);
    assert_int_equal(test_member_put(&user, old).ok, old.count);
    test_member_kill(&node);
    test_member_start(&node, &master, named);
    struct test_tally lost = test_member_get(&user, old);
    assert_int_equal(lost.missing, old.count); /* its memory is gone, and nothing else is said */
    assert_int_equal(lost.wrong, 0);
    assert_int_equal(test_member_put(&user, young).ok, young.count);
    assert_int_equal(test_member_put(&user, old).ok, old.count);
    assert_int_equal(test_member_get(&user, young).ok, young.count);
    assert_int_equal(test_member_get(&user, old).ok, old.count);
    gives_everything_back(&node);
    test_member_end(&user);
    test_member_end(&node);
    test_master_stop(&master);
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_teardown(name, test_cluster_end)
    const struct CMUnitTest tests[] = {
        TEST(a_node_that_is_killed_under_load_costs_misses_only),
        TEST(a_node_that_is_killed_under_load_costs_misses_only_over_tcp),
        TEST(a_client_that_is_killed_leaves_no_pin_page_or_descriptor_at_the_owner),
        TEST(a_client_that_is_killed_leaves_no_pin_page_or_descriptor_at_the_owner_over_tcp),
        TEST(a_masters_restart_makes_the_index_whole_again_and_own_values_are_served_meanwhile),
        TEST(a_master_that_is_killed_under_load_costs_misses_only),
        TEST(of_two_masters_the_one_that_lives_is_asked),
        TEST(a_node_that_comes_back_under_its_id_is_a_new_one),
    };
    return test_member_wanted(argc, argv) ? test_member_main(argc, argv)
                                          : cmocka_run_group_tests(tests, NULL, NULL);
}
