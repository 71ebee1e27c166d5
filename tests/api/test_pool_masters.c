/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Masters that move and masters that stop. A user knows a master by its gRPC address alone; where
 * its fabric door is, its signpost says, now and after each restart. And a master that says nothing
 * costs one call its wait, not each.
 */
#include "support_cluster.h"
#include "support_program.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *const node_options[] = {"pool.beat_ms", "100", "pool.peer_timeout_ms", "5000",
                                           NULL};
static const char *const user_options[] = {
    "pool.serve", "false", "pool.beat_ms", "100", "pool.peer_timeout_ms", "5000", NULL};

struct attempt {
    struct test_member *member;
    struct test_set set;
};

static bool all_exist(void *context)
{
    struct attempt *attempt = context;
    return test_member_exists(attempt->member, attempt->set).ok == attempt->set.count;
}

/* A client that is no node can only put what a master places. */
static bool is_placed(void *context)
{
    struct attempt *attempt = context;
    struct test_tally tally = test_member_put(attempt->member, attempt->set);
    return tally.ok + tally.existing == attempt->set.count;
}

/* ----------------------------------------------------------------------------- moved ---- */

static void a_master_whose_fabric_door_moved_is_found_again_by_nodes_and_clients(void **state)
{
    struct test_master master;
    struct test_member node;
    struct test_member user;
    struct test_member fresh;
    struct test_set old = {"old", 0, 100, 4000};
    struct test_set young = {"young", 0, 100, 4000};
    (void)state;

    test_master_start(&master, NULL);
    test_member_start(&node, &master, node_options);
    test_member_start(&user, &master, user_options);
    assert_int_equal(test_member_put(&user, old).ok, old.count);
    test_master_kill(&master);
    test_master_moved(&master, NULL);
    struct attempt put = {&user, young};
    assert_true(test_wait_until(is_placed, &put, TEST_WAIT_MS));
    test_member_start(&fresh, &master, user_options); /* asked the signpost after the move */
    struct attempt seen[] = {{&fresh, old}, {&fresh, young}, {&user, old}};
    for (unsigned i = 0; i < 3; i++) {
        assert_true(test_wait_until(all_exist, &seen[i], TEST_WAIT_MS));
    }
    assert_int_equal(test_member_get(&fresh, old).ok, old.count);
    test_member_end(&fresh);
    test_member_end(&user);
    test_member_end(&node);
    test_master_stop(&master);
}

static void a_master_that_comes_after_its_clients_is_found_wherever_its_door_is(void **state)
{
    struct test_master master;
    struct test_member node;
    struct test_member user;
    struct test_set set = {"set", 0, 100, 4000};
    (void)state;

    test_master_start(&master, NULL);
    test_master_kill(&master);
    test_member_start_twin(&node, &master, node_options);
    test_member_start_twin(&user, &master, user_options);
    assert_int_equal(test_member_get(&user, set).missing, set.count);
    test_master_moved(&master, NULL);
    struct attempt put = {&user, set};
    assert_true(test_wait_until(is_placed, &put, TEST_WAIT_MS));
    assert_int_equal(test_member_get(&user, set).ok, set.count);
    assert_true(test_member_stat(&node, "node.puts_stored") >= set.count);
    test_member_end(&user);
    test_member_end(&node);
    test_master_stop(&master);
}

/* ------------------------------------------------------------------------------- ids ---- */

static void a_node_with_the_id_of_a_living_one_says_so_and_ends(void **state)
{
    static const char *const named[] = {"pool.node_id", "same", NULL};
    struct test_master master;
    struct test_member first;
    struct test_output output;
    (void)state;

    test_master_start(&master, NULL);
    test_member_start(&first, &master, named);
    test_program(&output, "node", "--masters", master.address, "--pool.node_id", "same", "--dram",
                 "8MiB");
    if (output.code != 3 || output.out_bytes != 0 ||
        strstr(output.err, "umbp node: the id \"same\" is taken") == NULL) {
        fail_msg("exit code %d: %s%s", output.code, output.out, output.err);
    }
    test_output_free(&output);
    assert_int_equal(test_member_stat(&first, "node.masters_now"), 1);

    /* Its next life, that begins before the master has seen the end of this one, is let in. */
    test_stop(first.pid);
    struct test_member next;
    test_member_start(&next, &master, named);
    assert_int_equal(test_member_stat(&next, "node.masters_with_its_id_taken"), 0);
    test_member_end(&next);
    test_master_stop(&master);
}

/* The commands on a cluster where nobody listens. */
static void a_command_that_no_master_answers_says_at_which_address(void **state)
{
    static const char *const commands[][3] = {{"get", "key"}, {"exists", "key"}, {"put", "key"},
                                              {"rm", "key"},  {"stat", "key"},   {"stat"}};
    struct test_master master;
    char words[200];
    (void)state;

    test_master_start(&master, NULL);
    test_master_kill(&master);
    (void)snprintf(words, sizeof(words), "is one running at %s,", master.address);
    for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        struct test_output output;
        const char *const arguments[] = {commands[i][0], "--masters", master.address,
                                         commands[i][1], NULL};
        test_program_run(&output, arguments, "value", 5, NULL);
        if (output.code != 3 || strstr(output.err, words) == NULL) {
            fail_msg("umbp %s: exit code %d: %s%s", commands[i][0], output.code, output.out,
                     output.err);
        }
        test_output_free(&output);
    }
}

/* -------------------------------------------------------------------------- families ---- */

static bool has_six(void)
{
    const struct sockaddr_in6 one = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool can = fd >= 0 && bind(fd, (const struct sockaddr *)&one, sizeof(one)) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return can;
}

static void a_master_on_all_addresses_is_reached_by_both_families(void **state)
{
    static const char *const listens[] = {"*", "[::]"};
    static const char *const hosts[] = {"127.0.0.1", "[::1]"};
    (void)state;

    if (!has_six()) {
        printf("SKIP: no IPv6 here\n");
        skip();
    }
    for (unsigned i = 0; i < 2; i++) {
        struct test_master master;
        struct test_member nodes[2];
        unsigned port = 0;
        test_master_start_in(&master, NULL, listens[i]);
        assert_int_equal(sscanf(strrchr(master.address, ':'), ":%u", &port), 1);
        for (unsigned k = 0; k < 2; k++) {
            (void)snprintf(master.address, sizeof(master.address), "%s:%u", hosts[k], port);
            test_member_start(&nodes[k], &master, node_options);
        }
        for (unsigned k = 0; k < 2; k++) { /* and each reaches the other's */
            struct test_set set = {hosts[k], i * 100, 50, 4000};
            assert_int_equal(test_member_put(&nodes[k], set).ok, set.count);
            struct attempt seen = {&nodes[1 - k], set};
            assert_true(test_wait_until(all_exist, &seen, TEST_WAIT_MS));
            assert_int_equal(test_member_get(&nodes[1 - k], set).ok, set.count);
        }
        test_member_end(&nodes[0]);
        test_member_end(&nodes[1]);
        test_master_stop(&master);
    }
}

/* --------------------------------------------------------------------------- stopped ---- */

static void
a_stopped_master_costs_one_call_its_wait_and_is_asked_again_when_it_goes_on(void **state)
{
    enum {
        CALLS = 8
    };
    struct test_master master;
    struct test_member node;
    struct test_member user;
    struct test_set known = {"known", 0, 50, 4000};
    struct test_set young = {"young", 0, 50, 4000};
    (void)state;

    test_master_start(&master, NULL);
    test_member_start(&node, &master, node_options);
    test_member_start(&user, &master, user_options);
    assert_int_equal(test_member_put(&user, known).ok, known.count);
    uint64_t asked = test_member_stat(&user, "pool.master_calls");
    uint64_t skipped = test_member_stat(&user, "pool.master_skips");
    test_stop(master.pid);
    for (uint32_t i = 0; i < CALLS; i++) {
        struct test_set none = {"none", i * 10, 10, 4000};
        assert_int_equal(test_member_get(&user, none).missing, none.count);
    }
    /* It knows by itself where these are. */
    assert_int_equal(test_member_get(&user, known).ok, known.count);
    assert_int_equal(test_member_stat(&user, "pool.master_calls") - asked, 1);
    assert_int_equal(test_member_stat(&user, "pool.master_skips") - skipped, CALLS - 1);
    kill(master.pid, SIGCONT);
    struct attempt put = {&user, young};
    assert_true(test_wait_until(is_placed, &put, TEST_WAIT_MS));
    test_member_end(&user);
    test_member_end(&node);
    test_master_stop(&master);
}

static void of_two_masters_one_stops_and_the_other_serves(void **state)
{
    enum {
        CALLS = 8
    };
    struct test_master masters[2];
    struct test_member node;
    struct test_member user;
    char both[260];
    (void)state;

    test_master_start(&masters[0], NULL);
    test_master_start(&masters[1], NULL);
    snprintf(both, sizeof(both), "%s,%s", masters[0].address, masters[1].address);
    const char *const node_list[] = {"pool.masters", both, "pool.beat_ms", "100", NULL};
    /* Neither the call's deadline nor the connection's ends the wait for the master that stopped.
     */
    const char *const user_list[] = {
        "pool.masters",         both,    "pool.serve", "false", "op_timeout_ms", "60000",
        "pool.peer_timeout_ms", "60000", NULL};
    test_member_start(&node, &masters[0], node_list);
    test_member_start(&user, &masters[0], user_list);
    struct test_set before = {"before", 0, 10, 4000};
    struct attempt first = {&user, before};
    assert_true(
        test_wait_until(is_placed, &first, TEST_WAIT_MS)); /* by the first master: connected */
    uint64_t failures = test_member_stat(&user, "pool.master_failures");
    test_stop(masters[0].pid);
    for (uint32_t i = 0; i < CALLS; i++) {
        struct test_set set = {"set", i * 10, 10, 4000};
        struct attempt put = {&user, set};
        assert_true(test_wait_until(is_placed, &put, TEST_WAIT_MS));
        assert_int_equal(test_member_get(&user, set).ok, set.count);
    }
    assert_true(test_member_stat(&user, "pool.master_failures") - failures < CALLS);
    kill(masters[0].pid, SIGCONT);
    test_member_end(&user);
    test_member_end(&node);
    test_master_stop(&masters[0]);
    test_master_stop(&masters[1]);
}

static void a_remove_that_can_ask_no_master_says_so(void **state)
{
    struct test_master master;
    struct test_member node;
    struct test_set set = {"set", 0, 3, 4000};
    char room[TEST_KEY_ROOM];
    (void)state;

    test_master_start(&master, NULL);
    test_member_start(&node, &master, node_options);
    struct umbp_client *client = test_pool_client(&master, user_options);
    assert_int_equal(test_set_put(client, set).ok, set.count);
    assert_ok(umbp_remove(client, test_key_number(room, "set", 0)));
    assert_status(umbp_remove(client, test_key_number(room, "set", 9)), UMBP_NOT_FOUND);
    test_master_kill(&master);
    assert_status(umbp_remove(client, test_key_number(room, "set", 1)), UMBP_IO);
    assert_status(umbp_remove(client, test_key_number(room, "set", 9)), UMBP_IO);
    umbp_client_destroy(client);
    test_member_end(&node);
}

/* ------------------------------------------------------------------------- creation ---- */

/* Listens and never answers. */
static int mute_master(char *address_out, size_t bytes)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t at_bytes = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &at_bytes), 0);
    snprintf(address_out, bytes, "127.0.0.1:%u", (unsigned)ntohs(at.sin_port));
    return fd;
}

static bool is_ready(int fd, int timeout_ms)
{
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    return poll(&poller, 1, timeout_ms) == 1;
}

struct mutes {
    int fds[3];
    bool all_at_once;
};

/* Takes a question of each, answers none; were those that came first still asking when the last
 * one came? */
static void *hear(void *context)
{
    struct mutes *mutes = context;
    int connections[3];
    char byte;

    mutes->all_at_once = true;
    for (unsigned i = 0; i < 3; i++) {
        connections[i] =
            is_ready(mutes->fds[i], TEST_WAIT_MS) ? accept(mutes->fds[i], NULL, NULL) : -1;
        mutes->all_at_once &= connections[i] >= 0;
    }
    for (unsigned i = 0; i < 3 && mutes->all_at_once; i++) {
        ssize_t got = 1;
        while (got > 0 && is_ready(connections[i], 0)) {
            got = recv(connections[i], &byte, 1, MSG_DONTWAIT);
        }
        mutes->all_at_once &= got > 0;
    }
    for (unsigned i = 0; i < 3; i++) {
        close(connections[i]);
    }
    return NULL;
}

static void masters_that_do_not_answer_are_asked_all_at_once_when_a_client_is_made(void **state)
{
    struct mutes mutes;
    struct test_master master = {0};
    char addresses[3][32];
    char all[128];
    pthread_t thread;
    (void)state;

    for (unsigned i = 0; i < 3; i++) {
        mutes.fds[i] = mute_master(addresses[i], sizeof(addresses[i]));
    }
    snprintf(all, sizeof(all), "%s,%s,%s", addresses[0], addresses[1], addresses[2]);
    snprintf(master.address, sizeof(master.address), "%s", addresses[0]);
    assert_int_equal(pthread_create(&thread, NULL, hear, &mutes), 0);
    const char *const options[] = {"pool.masters", all, "pool.serve", "false", NULL};
    struct umbp_client *client = test_pool_client(&master, options);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(mutes.all_at_once);
    assert_ok(umbp_client_close(client, 0));
    umbp_client_destroy(client);
    for (unsigned i = 0; i < 3; i++) {
        close(mutes.fds[i]);
    }
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_teardown(name, test_cluster_end)
    const struct CMUnitTest tests[] = {
        TEST(a_master_whose_fabric_door_moved_is_found_again_by_nodes_and_clients),
        TEST(a_master_that_comes_after_its_clients_is_found_wherever_its_door_is),
        TEST(a_node_with_the_id_of_a_living_one_says_so_and_ends),
        TEST(a_command_that_no_master_answers_says_at_which_address),
        TEST(a_master_on_all_addresses_is_reached_by_both_families),
        TEST(a_stopped_master_costs_one_call_its_wait_and_is_asked_again_when_it_goes_on),
        TEST(of_two_masters_one_stops_and_the_other_serves),
        TEST(a_remove_that_can_ask_no_master_says_so),
        TEST(masters_that_do_not_answer_are_asked_all_at_once_when_a_client_is_made),
    };
    cmocka_set_test_filter(getenv("UMBP_TEST_FILTER"));
    return test_member_wanted(argc, argv) ? test_member_main(argc, argv)
                                          : cmocka_run_group_tests(tests, NULL, NULL);
}
