/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network that is cut and healed, and one that is slow: a master and a node in one network
 * namespace, a client in another, a veth pair between them. Needs the right to make namespaces (`ip
 * netns`), and netem in the kernel for the slow one; what is missing is said, and the test skipped.
 * (Delays, loss by broken connections and reordering across connections are simulated, on every
 * machine, in test_node_history and test_pool_history.)
 */
#include "support_cluster.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PEER_TIMEOUT_MS 1000u
#define OP_TIMEOUT_MS 4000u

static char here[32];
static char there[32];

static bool run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static bool run(const char *format, ...)
{
    char line[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    return system(line) == 0;
}

static bool networks_make(void)
{
    /* An interface's name has 15 bytes at most. */
    snprintf(here, sizeof(here), "umt%xa", (unsigned)getpid());
    snprintf(there, sizeof(there), "umt%xb", (unsigned)getpid());
    return run("ip netns add %s 2>/dev/null", here) && run("ip netns add %s", there) &&
           run("ip link add %s netns %s type veth peer name %s netns %s 2>/dev/null", here, here,
               there, there) &&
           run("ip -n %s addr add 10.91.7.1/24 dev %s", here, here) &&
           run("ip -n %s addr add 10.91.7.2/24 dev %s", there, there) &&
           run("ip -n %s link set %s up && ip -n %s link set lo up", here, here, here) &&
           run("ip -n %s link set %s up && ip -n %s link set lo up", there, there, there);
}

static int networks_end(void **state)
{
    test_cluster_end(state);
    (void)run("ip netns del %s 2>/dev/null", here);
    (void)run("ip netns del %s 2>/dev/null", there);
    return 0;
}

static void cut(void) { assert_true(run("ip -n %s link set %s down", there, there)); }
static void heal(void) { assert_true(run("ip -n %s link set %s up", there, there)); }

static const char *const node_options[] = {
    "pool.beat_ms", "100", "pool.peer_timeout_ms", "1000", "op_timeout_ms", "4000", NULL};
static const char *const user_options[] = {"pool.beat_ms",  "100",        "pool.peer_timeout_ms",
                                           "1000",          "pool.serve", "false",
                                           "op_timeout_ms", "4000",       NULL};

/* On both ends, what the command says. */
static bool shape(const char *how)
{
    return run("ip netns exec %s tc qdisc replace dev %s root netem %s 2>/dev/null", here, here,
               how) &&
           run("ip netns exec %s tc qdisc replace dev %s root netem %s 2>/dev/null", there, there,
               how);
}

static void result_is_sound(struct test_load_result result)
{
    printf("%" PRIu64 " calls, %" PRIu64 " found or stored, %" PRIu64 " missing, %" PRIu64
           " failed (%s), slowest %u ms\n",
           result.calls, result.ok, result.missing, result.failed, umbp_status_name(result.failure),
           result.slowest_ms);
    assert_int_equal(result.wrong, 0);
    assert_true(test_is_slow() || result.slowest_ms <= OP_TIMEOUT_MS + 1000);
}

struct found {
    struct test_member *member;
    struct test_set set;
};

static bool all_found(void *context)
{
    struct found *found = context;
    struct test_tally tally = test_member_get(found->member, found->set);
    assert_int_equal(tally.wrong, 0);
    return tally.ok == found->set.count;
}

static void a_cut_network_costs_misses_and_time_and_heals(void **state)
{
    struct test_master master;
    struct test_member node;
    struct test_member user;
    struct test_rng rng;
    struct test_set set = {"net", 0, 100, 100000};
    (void)state;

    if (!networks_make()) {
        print_message("skipped: no right to make network namespaces, or no `ip`\n");
        skip();
    }
    test_rng_init(&rng, 41);
    test_master_start_in(&master, here, "10.91.7.1");
    test_member_start_in(&node, here, &master, node_options);
    test_member_start_in(&user, there, &master, user_options);
    assert_int_equal(test_member_put(&user, set).ok, set.count);
    assert_int_equal(test_member_get(&user, set).ok, set.count);
    for (unsigned round = 0; round < 2; round++) {
        test_member_load(&user, 3, test_rng_next(&rng), 100);
        test_sleep_ms((unsigned)test_rng_below(&rng, 60));
        cut();
        /* Calls come to an end, the owner gives up what it did for the lost one. */
        struct test_load_result before = test_member_load_now(&user);
        test_member_is_idle(&node);
        test_sleep_ms(2 * PEER_TIMEOUT_MS);
        struct test_load_result after = test_member_load_now(&user);
        assert_true(after.calls > before.calls);
        heal();
        struct test_load_result result = test_member_load_stop(&user);
        result_is_sound(result);
        struct test_set fresh = {round ? "fresh1" : "fresh0", 0, 20, 70000};
        struct found found = {&user, fresh};
        (void)test_member_put(&node, fresh);
        assert_true(test_wait_until(all_found, &found, 20000));
    }
    test_member_is_idle(&node);
    test_member_end(&user);
    test_member_end(&node);
    test_master_stop(&master);
}

struct progress {
    struct test_member *member;
    uint64_t calls;
};

static bool has_progress(void *context)
{
    struct progress *progress = context;
    return test_member_load_now(progress->member).calls >= progress->calls;
}

static void a_slow_network_that_loses_and_reorders_costs_time_only(void **state)
{
    static const char *const ways[] = {"delay 20ms 10ms", "delay 5ms loss 1%",
                                       "delay 10ms reorder 99% 50%", "delay 2ms duplicate 1%"};
    struct test_master master;
    struct test_member node;
    struct test_member user;
    struct test_set set = {"slow", 0, 50, 100000};
    (void)state;

    if (!networks_make()) {
        print_message("skipped: no right to make network namespaces, or no `ip`\n");
        skip();
    }
    if (!shape("delay 1ms")) {
        print_message("skipped: no `tc`, or a kernel without netem\n");
        skip();
    }
    test_master_start_in(&master, here, "10.91.7.1");
    test_member_start_in(&node, here, &master, node_options);
    test_member_start_in(&user, there, &master, user_options);
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        assert_true(shape(ways[i]));
        test_member_load(&user, 2, test_seed() + i, 50);
        struct progress progress = {&user, 20};
        assert_true(test_wait_until(has_progress, &progress, 60000));
        result_is_sound(test_member_load_stop(&user));
        set.prefix = i % 2 ? "slow1" : "slow0";
        (void)test_member_put(&user, set);
        struct found found = {&user, set};
        assert_true(test_wait_until(all_found, &found, 30000));
    }
    assert_true(shape("delay 0ms"));
    test_member_is_idle(&node);
    test_member_end(&user);
    test_member_end(&node);
    test_master_stop(&master);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_cut_network_costs_misses_and_time_and_heals, networks_end),
        cmocka_unit_test_teardown(a_slow_network_that_loses_and_reorders_costs_time_only,
                                  networks_end),
    };
    return test_member_wanted(argc, argv) ? test_member_main(argc, argv)
                                          : cmocka_run_group_tests(tests, NULL, NULL);
}
