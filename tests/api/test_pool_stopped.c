/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes that stop (SIGSTOP) and keep their sockets, and go on later. Calls end with the
 * peer's timeout, long before their own; and when they have ended, nobody touches the caller's
 * memory any more, nor takes bytes from it: neither then, nor when the stopped process goes on
 * (rules 1 and 2 of the design).
 */
#include "support_cluster.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define VALUE_BYTES ((size_t)1 << 20)
#define VALUES 12u

static const char *const host_node[] = {
    "pool.beat_ms", "100", "pool.peer_timeout_ms", "2000", "dram.bytes", "64MiB", NULL};
static const char *const host_user[] = {"pool.beat_ms",  "100",        "pool.peer_timeout_ms",
                                        "2000",          "pool.serve", "false",
                                        "op_timeout_ms", "3600000",    NULL};
static const char *const tcp_node[] = {"pool.beat_ms",   "100",        "pool.peer_timeout_ms",
                                       "2000",           "dram.bytes", "64MiB",
                                       "pool.same_host", "false",      NULL};
static const char *const tcp_user[] = {
    "pool.beat_ms",   "100",   "pool.peer_timeout_ms", "2000",    "pool.serve", "false",
    "pool.same_host", "false", "op_timeout_ms",        "3600000", NULL};

struct rig {
    struct test_master master;
    struct test_member node;
    struct umbp_client *user; /* in this process */
};

static void rig_start(struct rig *rig, bool is_tcp)
{
    test_master_start(&rig->master, NULL);
    test_member_start(&rig->node, &rig->master, is_tcp ? tcp_node : host_node);
    rig->user = test_pool_client(&rig->master, is_tcp ? tcp_user : host_user);
}

static void rig_end(struct rig *rig)
{
    assert_ok(umbp_client_close(rig->user, 0));
    umbp_client_destroy(rig->user);
    test_member_is_idle(&rig->node);
    test_member_end(&rig->node);
    test_master_stop(&rig->master);
}

struct found {
    struct umbp_client *client;
    struct test_set set;
};

static bool is_found(void *context)
{
    struct found *found = context;
    return test_set_get(found->client, found->set).ok == found->set.count;
}

static bool is_patterned(const unsigned char *data, size_t bytes, unsigned char pattern)
{
    for (size_t i = 0; i < bytes; i++) {
        if (data[i] != pattern) {
            printf("byte %zu of %zu is %02x\n", i, bytes, data[i]);
            return false;
        }
    }
    return true;
}

/* By itself the call would have an hour. */
static void in_time(uint64_t began_ns)
{
    printf("ended after %u ms\n", (unsigned)((test_now_ns() - began_ns) / 1000000));
}

/* Stops the node from another process, `delay_us` after a call has begun. */
static pid_t stop_soon(pid_t node, unsigned delay_us)
{
    struct timespec delay = {.tv_nsec = (long)delay_us * 1000};
    fflush(NULL);
    pid_t helper = fork();
    if (helper == 0) {
        nanosleep(&delay, NULL);
        kill(node, SIGSTOP);
        _exit(0);
    }
    assert_true(helper > 0);
    return helper;
}

/* Its signal may come late, but not after this: it would stop the node for good. */
static void await_stop(pid_t helper)
{
    if (helper > 0) {
        assert_int_equal(waitpid(helper, NULL, 0), helper);
    }
}

static void node_stops_amid_gets(bool is_tcp)
{
    struct rig rig;
    struct test_set set = {"stop", 0, VALUES, VALUE_BYTES};
    struct test_rng rng;
    unsigned char *data = malloc(VALUES * VALUE_BYTES);
    struct umbp_get_item items[VALUES];
    enum umbp_status statuses[VALUES];
    char rooms[VALUES][TEST_KEY_ROOM];

    test_rng_init(&rng, 21);
    rig_start(&rig, is_tcp);
    assert_int_equal(test_set_put(rig.user, set).ok, VALUES);
    for (size_t i = 0; i < VALUES; i++) {
        items[i] = (struct umbp_get_item){test_key_number(rooms[i], "stop", i),
                                          data + i * VALUE_BYTES, VALUE_BYTES};
    }
    for (unsigned round = 0; round < (test_is_slow() ? 2 : 4); round++) {
        uint64_t began_ns = test_now_ns();
        pid_t helper = 0;
        if (round == 0) {
            test_member_signal(&rig.node, SIGSTOP); /* before anything of the call */
        } else {
            helper = stop_soon(rig.node.pid, (unsigned)test_rng_below(&rng, 6000));
        }
        memset(data, 0xEE, VALUES * VALUE_BYTES);
        assert_ok(umbp_batch_get(rig.user, items, VALUES, statuses));
        in_time(began_ns);
        for (size_t i = 0; i < VALUES; i++) {
            if (statuses[i] == UMBP_OK) {
                assert_true(test_check_fill(items[i].data, VALUE_BYTES, test_set_tag("stop", i)));
            } else {
                assert_int_equal(statuses[i], UMBP_NOT_FOUND);
            }
        }
        /* The memory is ours again, whatever the node thinks. */
        memset(data, 0x77, VALUES * VALUE_BYTES);
        test_sleep_ms(20);
        await_stop(helper);
        test_member_signal(&rig.node, SIGSTOP);
        test_member_signal(&rig.node, SIGCONT);
        test_member_is_idle(&rig.node); /* it has done what it had still to do */
        assert_true(is_patterned(data, VALUES * VALUE_BYTES, 0x77));
        struct found found = {rig.user, set};
        assert_true(test_wait_until(is_found, &found, TEST_WAIT_MS));
    }
    free(data);
    rig_end(&rig);
}

static void a_stopped_node_ends_gets_in_time_and_no_byte_comes_late(void **state)
{
    (void)state;
    node_stops_amid_gets(false);
}

static void a_stopped_node_ends_gets_in_time_and_no_byte_comes_late_over_tcp(void **state)
{
    (void)state;
    node_stops_amid_gets(true);
}

struct takes {
    struct umbp_client *client;
    unsigned round;
    uint64_t tries;
};

static bool takes_puts(void *context)
{
    struct takes *takes = context;
    struct test_set probe = {"probe", takes->round * 1000000u + takes->tries++, 1, 100};
    return test_set_put(takes->client, probe).ok == 1;
}

/* A put that timed out returned the memory: what is in it from then on is not the value. */
static void node_stops_amid_puts(bool is_tcp)
{
    struct rig rig;
    struct test_rng rng;
    unsigned char *data = malloc(VALUES * VALUE_BYTES);
    struct umbp_put_item items[VALUES];
    enum umbp_status statuses[VALUES];
    char rooms[VALUES][TEST_KEY_ROOM];
    unsigned stored = 0;

    test_rng_init(&rng, 22);
    rig_start(&rig, is_tcp);
    for (unsigned round = 0; round < (test_is_slow() ? 2 : 5); round++) {
        char prefix[16];
        snprintf(prefix, sizeof(prefix), "late%u", round);
        struct test_set set = {prefix, 0, VALUES, VALUE_BYTES};
        for (size_t i = 0; i < VALUES; i++) {
            test_fill(data + i * VALUE_BYTES, VALUE_BYTES, test_set_tag(prefix, i));
            items[i] = (struct umbp_put_item){.key = test_key_number(rooms[i], prefix, i),
                                              .data = data + i * VALUE_BYTES,
                                              .bytes = VALUE_BYTES};
        }
        /* The last round's end may still be between them. */
        struct takes takes = {.client = rig.user, .round = round};
        assert_true(test_wait_until(takes_puts, &takes, TEST_WAIT_MS));
        uint64_t began_ns = test_now_ns();
        pid_t helper = 0;
        if (round == 0) {
            test_member_signal(&rig.node, SIGSTOP);
        } else {
            helper = stop_soon(rig.node.pid, (unsigned)test_rng_below(&rng, 8000));
        }
        assert_ok(umbp_batch_put(rig.user, items, VALUES, statuses));
        memset(data, 0x99, VALUES * VALUE_BYTES);
        in_time(began_ns);
        test_sleep_ms(20);
        await_stop(helper);
        test_member_signal(&rig.node, SIGSTOP);
        test_member_signal(&rig.node, SIGCONT);
        test_member_is_idle(&rig.node);
        struct test_tally tally = test_member_get(&rig.node, set); /* from its own store */
        assert_int_equal(tally.wrong, 0);
        for (size_t i = 0; i < VALUES; i++) {
            stored += statuses[i] == UMBP_OK;
        }
        printf("%u of %u in the store\n", tally.ok, VALUES);
        struct test_tally again = test_set_put(rig.user, set);
        assert_int_equal(again.ok + again.existing + again.failed, VALUES);
    }
    printf("%u stored in time\n", stored);
    free(data);
    rig_end(&rig);
}

static void a_stopped_node_ends_puts_in_time_and_commits_no_byte_of_later(void **state)
{
    (void)state;
    node_stops_amid_puts(false);
}

static void a_stopped_node_ends_puts_in_time_and_commits_no_byte_of_later_over_tcp(void **state)
{
    (void)state;
    node_stops_amid_puts(true);
}

static void others_go_on_beside_a_stopped_node(void **state)
{
    struct test_master master;
    struct test_member nodes[2];
    struct test_set mine = {"other", 0, 200, 4096};
    (void)state;

    test_master_start(&master, NULL);
    test_member_start(&nodes[0], &master, host_node);
    struct umbp_client *user = test_pool_client(&master, host_user);
    assert_int_equal(test_set_put(user, mine).ok, mine.count);
    test_member_start(&nodes[1], &master, host_node);
    test_member_signal(&nodes[1], SIGSTOP);
    for (unsigned i = 0; i < 10; i++) {
        struct test_tally tally = test_set_get(user, mine);
        assert_int_equal(tally.ok, mine.count);
        assert_int_equal(tally.wrong, 0);
    }
    /* New values find a place, if only after one that the stopped node does not take. */
    struct test_set more = {"more", 0, 64, 4096};
    uint64_t began_ns = test_now_ns();
    struct test_tally tally = test_set_put(user, more);
    in_time(began_ns);
    assert_int_equal(tally.ok, more.count);
    assert_int_equal(test_set_get(user, more).ok, more.count);
    test_member_signal(&nodes[1], SIGCONT);
    test_member_is_idle(&nodes[1]);
    test_member_is_idle(&nodes[0]);
    assert_ok(umbp_client_close(user, 0));
    umbp_client_destroy(user);
    test_member_end(&nodes[0]);
    test_member_end(&nodes[1]);
    test_master_stop(&master);
}

struct seen {
    struct test_member *member;
    struct test_set set;
};

static bool is_seen(void *context)
{
    struct seen *seen = context;
    struct test_tally tally = test_member_get(seen->member, seen->set);
    assert_int_equal(tally.wrong, 0);
    return tally.ok == seen->set.count;
}

/* The writer stops amid a put, is given up by the owner, goes on, and uses its memory anew. */
static void writer_stops(const char *const *node_options, const char *const *user_options)
{
    struct test_master master;
    struct test_member node;
    struct test_member writer;
    struct test_member reader;
    struct test_rng rng;

    test_rng_init(&rng, 23);
    test_master_start(&master, NULL);
    test_member_start(&node, &master, node_options);
    test_member_start(&writer, &master, user_options);
    test_member_start(&reader, &master, user_options);
    for (unsigned round = 0; round < (test_is_slow() ? 1 : 3); round++) {
        char prefix[16];
        snprintf(prefix, sizeof(prefix), "w%u", round);
        struct test_set set = {prefix, 0, 12, VALUE_BYTES};
        test_member_tell(&writer, "put %s 0 12 %zu", prefix, VALUE_BYTES);
        test_sleep_ms((unsigned)test_rng_below(&rng, 40));
        test_member_signal(&writer, SIGSTOP);
        test_member_is_idle(&node);          /* it has given the writer up, if it waited for it */
        test_sleep_ms(round % 2 ? 3000 : 0); /* within the timeout, and beyond it */
        test_member_signal(&writer, SIGCONT);
        struct test_tally put = test_member_tally(&writer, 2 * TEST_WAIT_MS);
        struct test_tally got = test_member_get(&reader, set);
        assert_int_equal(got.wrong, 0);
        printf("stored %u, failed %u; found %u\n", put.ok, put.failed, got.ok);
        assert_int_equal(test_member_put(&writer, set).failed, 0);
        struct seen seen = {&reader, set}; /* with the node's next beat */
        assert_true(test_wait_until(is_seen, &seen, TEST_WAIT_MS));
    }
    test_member_is_idle(&node);
    test_member_end(&reader);
    test_member_end(&writer);
    test_member_end(&node);
    test_master_stop(&master);
}

static void a_writer_that_stops_amid_a_put_leaves_the_value_or_nothing(void **state)
{
    (void)state;
    writer_stops(host_node, host_user);
}

static void a_writer_that_stops_amid_a_put_leaves_the_value_or_nothing_over_tcp(void **state)
{
    (void)state;
    writer_stops(tcp_node, tcp_user);
}

/* Pins of a reader that stopped go with its connection; when it goes on it sees right bytes or
 * none. */
static void a_reader_that_stops_is_given_up_and_reads_no_wrong_byte_afterwards(void **state)
{
    struct test_master master;
    struct test_member node;
    struct test_member reader;
    struct test_rng rng;
    struct test_set first = {"first", 0, 40, VALUE_BYTES};
    (void)state;

    test_rng_init(&rng, 24);
    test_master_start(&master, NULL);
    test_member_start(&node, &master, host_node);
    test_member_start(&reader, &master, host_user);
    for (unsigned round = 0; round < (test_is_slow() ? 1 : 3); round++) {
        test_member_put(&node, first);
        test_member_tell(&reader, "get first 0 40 %zu", VALUE_BYTES);
        test_sleep_ms(10 + (unsigned)test_rng_below(&rng, 60));
        test_member_signal(&reader, SIGSTOP);
        test_member_is_idle(&node); /* within the peer's timeout */
        test_member_tell(&node, "clear x");
        assert_string_equal(test_member_answer(&node, TEST_WAIT_MS), umbp_status_name(UMBP_OK));
        test_member_stat_becomes(&node, "dram.bytes_used", 0);
        struct test_set second = {"second", 0, 50, VALUE_BYTES}; /* over the same pages */
        assert_int_equal(test_member_put(&node, second).failed, 0);
        test_member_signal(&reader, SIGCONT);
        struct test_tally tally = test_member_tally(&reader, 2 * TEST_WAIT_MS);
        assert_int_equal(tally.wrong, 0);
        printf("found %u of %u\n", tally.ok, first.count);
    }
    test_member_end(&reader);
    test_member_end(&node);
    test_master_stop(&master);
}

static uint64_t asked_of_master(struct umbp_client *client)
{
    return test_stat(client, "pool.master_calls") + test_stat(client, "pool.master_skips");
}

/* Fault 22: what a client can do without the master it does at once, and what it can't ends in
 * time. */
static void a_stopped_master_delays_nobody_longer_than_its_timeout(void **state)
{
    /* The connection's own timeout is out of the way: the calls' must do. */
    static const char *const impatient[] = {"pool.peer_timeout_ms", "600000", "op_timeout_ms",
                                            "4000", NULL};
    struct test_master master;
    struct test_member node;
    struct test_set own = {"own", 0, 50, 4096};
    struct test_set far = {"far", 0, 50, 4096};
    struct test_set unknown = {"unknown", 0, 50, 4096};
    (void)state;

    test_master_start(&master, NULL);
    test_member_start(&node, &master, impatient);
    struct umbp_client *user = test_pool_client(&master, impatient); /* with a store of its own */
    assert_int_equal(test_member_put(&node, far).ok, far.count);
    assert_int_equal(test_set_put(user, own).ok, own.count);
    struct found found = {user, far};
    assert_true(test_wait_until(is_found, &found, TEST_WAIT_MS));
    test_stop(master.pid);
    for (unsigned round = 0; round < 3; round++) {
        char prefix[16];
        snprintf(prefix, sizeof(prefix), "new%u", round);
        struct test_set fresh = {prefix, 0, 20, 4096};
        uint64_t asked = asked_of_master(user);
        struct test_tally get = test_set_get(user, own);
        assert_int_equal(asked_of_master(user), asked); /* own values wait for nobody */
        struct test_tally miss = test_set_get(user, unknown);
        struct test_tally put = test_set_put(user, fresh);
        struct test_tally put_own = test_member_put(&node, fresh);
        printf("own %u ms, unknown %u ms, put %u and %u ms: %u and %u stored\n", get.ms, miss.ms,
               put.ms, put_own.ms, put.ok, put_own.ok + put_own.existing);
        assert_int_equal(get.ok, own.count);
        assert_int_equal(miss.missing, unknown.count);
        /* Stored at home, as nobody else can be asked. */
        assert_int_equal(put.ok, fresh.count);
        assert_int_equal(put_own.failed, 0);
        assert_int_equal(test_set_get(user, fresh).ok, fresh.count);
        /* Nothing waits longer than the call may: the connection would have ten minutes. */
        assert_in_range(miss.ms, 0, 4000 + TEST_SLACK_MS);
        assert_in_range(put.ms, 0, 4000 + TEST_SLACK_MS);
        assert_in_range(put_own.ms, 0, 4000 + TEST_SLACK_MS);
    }
    assert_int_equal(kill(master.pid, SIGCONT), 0);
    assert_true(test_wait_until(is_found, &found, TEST_WAIT_MS));
    test_pool_client_is_idle(user);
    assert_ok(umbp_client_close(user, 0));
    umbp_client_destroy(user);
    test_member_is_idle(&node);
    test_member_end(&node);
    test_master_stop(&master);
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_teardown(name, test_cluster_end)
    const struct CMUnitTest tests[] = {
        TEST(a_stopped_node_ends_gets_in_time_and_no_byte_comes_late),
        TEST(a_stopped_node_ends_gets_in_time_and_no_byte_comes_late_over_tcp),
        TEST(a_stopped_node_ends_puts_in_time_and_commits_no_byte_of_later),
        TEST(a_stopped_node_ends_puts_in_time_and_commits_no_byte_of_later_over_tcp),
        TEST(others_go_on_beside_a_stopped_node),
        TEST(a_stopped_master_delays_nobody_longer_than_its_timeout),
        TEST(a_writer_that_stops_amid_a_put_leaves_the_value_or_nothing),
        TEST(a_writer_that_stops_amid_a_put_leaves_the_value_or_nothing_over_tcp),
        TEST(a_reader_that_stops_is_given_up_and_reads_no_wrong_byte_afterwards),
    };
    cmocka_set_test_filter(getenv("UMBP_TEST_FILTER"));
    return test_member_wanted(argc, argv) ? test_member_main(argc, argv)
                                          : cmocka_run_group_tests(tests, NULL, NULL);
}
