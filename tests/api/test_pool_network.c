/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network that is cut and healed, and one that is slow: a master and a node in one network
 * namespace, a client in another, and a third one between them, which forwards. It can be cut in
 * two ways: the client's link goes down, which its system tells it; or what is in the middle drops
 * everything, which nobody tells anybody. Needs the right to make namespaces (`ip
 * netns`), and netem in the kernel for the slow one; what is missing is said, and the test skipped.
 * (Delays, loss by broken connections and reordering across connections are simulated, on every
 * machine, in test_node_history and test_pool_history.)
 */
#include "support_cluster.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define OP_TIMEOUT_MS 1500u
#define CUT_MS 4000u /* a call that only its end ends takes that long */

static char here[32];
static char between[32];
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

/* One side of the middle: a pair of interfaces, and a way to the other side through it. */
static bool side_make(const char *side, const char *network)
{
    return run("ip link add %s netns %s type veth peer name %s netns %s 2>/dev/null", side, side,
               side, between) &&
           run("ip -n %s addr add %s.1/24 dev %s", side, network, side) &&
           run("ip -n %s addr add %s.2/24 dev %s", between, network, side) &&
           run("ip -n %s link set %s up", between, side) &&
           run("ip -n %s link set %s up && ip -n %s link set lo up", side, side, side) &&
           run("ip -n %s route add default via %s.2", side, network);
}

static bool forward(bool does)
{
    return run("ip netns exec %s sh -c 'echo %d >/proc/sys/net/ipv4/ip_forward' 2>/dev/null",
               between, does);
}

static bool networks_make(void)
{
    /* An interface's name has 15 bytes at most. */
    snprintf(here, sizeof(here), "umt%xa", (unsigned)getpid());
    snprintf(there, sizeof(there), "umt%xb", (unsigned)getpid());
    snprintf(between, sizeof(between), "umt%xc", (unsigned)getpid());
    return run("ip netns add %s 2>/dev/null", here) && run("ip netns add %s", there) &&
           run("ip netns add %s", between) && side_make(here, "10.91.7") &&
           side_make(there, "10.91.8") && forward(true);
}

static int networks_end(void **state)
{
    test_cluster_end(state);
    (void)run("ip netns del %s 2>/dev/null", here);
    (void)run("ip netns del %s 2>/dev/null", there);
    (void)run("ip netns del %s 2>/dev/null", between);
    return 0;
}

static void cut(bool is_silent)
{
    assert_true(is_silent ? forward(false) : run("ip -n %s link set %s down", there, there));
}

static void heal(bool is_silent)
{
    /* The way goes with the link. */
    assert_true(is_silent ? forward(true)
                          : run("ip -n %s link set %s up", there, there) &&
                                run("ip -n %s route add default via 10.91.8.2", there));
}

static const char *const node_options[] = {
    "pool.beat_ms", "100", "pool.peer_timeout_ms", "1000", "op_timeout_ms", "1500", NULL};
static const char *const user_options[] = {"pool.beat_ms",  "100",        "pool.peer_timeout_ms",
                                           "1000",          "pool.serve", "false",
                                           "op_timeout_ms", "1500",       NULL};
/* Whose calls nothing but their own deadline ends. */
static const char *const patient_options[] = {
    "pool.peer_timeout_ms", "30000", "pool.serve", "false", "op_timeout_ms", "1500", NULL};

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
    assert_in_range(result.slowest_ms, 0, OP_TIMEOUT_MS + TEST_SLACK_MS);
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

/* In as many calls as it takes, whose time is short. */
static bool all_put(void *context)
{
    struct found *found = context;
    struct test_tally tally = test_member_put(found->member, found->set);
    return tally.ok + tally.existing == found->set.count;
}

static void cut_and_heal(struct test_member *node, struct test_member *user, bool is_silent,
                         uint64_t seed)
{
    struct test_rng rng;
    test_rng_init(&rng, seed);
    test_member_load(user, 3, seed, 100);
    test_sleep_ms((unsigned)test_rng_below(&rng, 60));
    uint64_t cut_ns = test_now_ns();
    cut(is_silent);
    /* Calls come to an end, the owner gives up what it did for the lost one. */
    struct test_load_result before = test_member_load_now(user);
    test_member_is_idle(node);
    uint64_t passed_ms = (test_now_ns() - cut_ns) / 1000000;
    test_sleep_ms(passed_ms < CUT_MS ? (unsigned)(CUT_MS - passed_ms) : 1);
    struct test_load_result after = test_member_load_now(user);
    assert_true(after.calls > before.calls);
    heal(is_silent);
    result_is_sound(test_member_load_stop(user));
}

static void a_cut_network_costs_misses_and_time_and_heals(void **state)
{
    static const char *const prefixes[] = {"fresh0", "fresh1", "fresh2"};
    struct test_master master;
    struct test_member node;
    struct test_member users[2];
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
    test_member_start_in(&users[0], there, &master, user_options);
    test_member_start_in(&users[1], there, &master, patient_options);
    struct found stored = {&users[0], set};
    assert_true(test_wait_until(all_put, &stored, TEST_WAIT_MS));
    struct found first = {&users[1], set};
    assert_true(test_wait_until(all_found, &first, TEST_WAIT_MS));
    for (unsigned round = 0; round < 3; round++) {
        struct test_member *user = &users[round == 2];
        cut_and_heal(&node, user, round > 0, test_rng_next(&rng));
        struct test_set fresh = {prefixes[round], 0, 20, 70000};
        struct found found = {user, fresh};
        (void)test_member_put(&node, fresh);
        assert_true(test_wait_until(all_found, &found, TEST_WAIT_MS));
    }
    test_member_is_idle(&node);
    test_member_end(&users[1]);
    test_member_end(&users[0]);
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
        assert_true(test_wait_until(has_progress, &progress, TEST_WAIT_MS));
        result_is_sound(test_member_load_stop(&user));
        set.prefix = i % 2 ? "slow1" : "slow0";
        (void)test_member_put(&user, set);
        struct found found = {&user, set};
        assert_true(test_wait_until(all_found, &found, TEST_WAIT_MS));
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
    cmocka_set_test_filter(getenv("UMBP_TEST_FILTER"));
    return test_member_wanted(argc, argv) ? test_member_main(argc, argv)
                                          : cmocka_run_group_tests(tests, NULL, NULL);
}
