/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a client and nodes in other processes do with values of all sizes, long keys, large batches,
 * registered memory, full and busy nodes, and two nodes of one name; on one host and over TCP.
 */
#include "support_cluster.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const tcp_only[] = {"pool.same_host", "false", NULL};
static const char *const user_only[] = {"pool.serve", "false", NULL};
static const char *const tcp_user[] = {"pool.serve", "false", "pool.same_host", "false", NULL};

struct rig {
    struct test_master master;
    struct test_member node;
    struct umbp_client *user;
    struct test_holdings before;
};

static void rig_start(struct rig *rig, bool is_tcp)
{
    test_master_start(&rig->master, NULL);
    test_member_start(&rig->node, &rig->master, is_tcp ? tcp_only : NULL);
    rig->before = test_holdings();
    rig->user = test_pool_client(&rig->master, is_tcp ? tcp_user : user_only);
}

static void rig_end(struct rig *rig)
{
    test_member_is_idle(&rig->node);
    assert_ok(umbp_client_close(rig->user, 0));
    umbp_client_destroy(rig->user);
    test_holdings_are_back(rig->before);
    test_member_end(&rig->node);
    test_master_stop(&rig->master);
}

static struct umbp_key long_key(char *room, size_t bytes, uint64_t number)
{
    memset(room, 'k', bytes);
    int used = snprintf(room, 24, "%" PRIu64, number);
    room[used] = '-';
    return test_key_bytes(room, bytes);
}

static void values_and_keys_of_every_size(bool is_tcp)
{
    static const uint64_t sizes[] = {0,     1,     2,      63,      64,          65,
                                     4095,  4097,  65535,  65536,   65537,       131072,
                                     70001, 99999, 999999, 1 << 20, 5 << 20 | 77};
    static const size_t key_bytes[] = {24, 70, 1024};
    struct rig rig;
    char room[UMBP_KEY_BYTES_MAX + 8];

    rig_start(&rig, is_tcp);
    for (size_t k = 0; k < 3; k++) {
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
            struct umbp_key key = long_key(room, key_bytes[k], s);
            assert_ok(test_put(rig.user, key, sizes[s], k * 100 + s));
            assert_ok(test_get(rig.user, key, sizes[s], k * 100 + s));
            assert_status(test_put(rig.user, key, sizes[s], 7), UMBP_ALREADY_EXISTS);
            assert_ok(test_get(rig.user, key, sizes[s], k * 100 + s));
        }
        test_member_tell(&rig.node, "clear x");
        assert_string_equal(test_member_answer(&rig.node, TEST_WAIT_MS), umbp_status_name(UMBP_OK));
    }
    rig_end(&rig);
}

static void values_of_every_size_come_back_under_keys_of_every_size(void **state)
{
    (void)state;
    values_and_keys_of_every_size(false);
}

static void values_of_every_size_come_back_under_keys_of_every_size_over_tcp(void **state)
{
    (void)state;
    values_and_keys_of_every_size(true);
}

static void large_batches_come_back_whole(void **state)
{
    (void)state;
    for (unsigned is_tcp = 0; is_tcp < 2; is_tcp++) {
        struct rig rig;
        struct test_set set = {"many", 5, 4096, 1500};
        struct test_set tiny = {"tiny", 5, 10000, 1};
        rig_start(&rig, is_tcp);
        assert_int_equal(test_set_put(rig.user, set).ok, set.count);
        assert_int_equal(test_set_put(rig.user, tiny).ok, tiny.count);
        assert_int_equal(test_set_get(rig.user, set).ok, set.count);
        struct test_tally tally = test_set_get(rig.user, tiny);
        assert_int_equal(tally.ok, tiny.count);
        assert_int_equal(tally.wrong, 0);
        assert_int_equal(test_set_put(rig.user, set).existing, set.count);
        assert_int_equal(test_set_exists(rig.user, set).ok, set.count);
        assert_int_equal(test_member_get(&rig.node, set).ok, set.count);
        rig_end(&rig);
    }
}

static void registered_and_other_memory_serve_alike_and_together(void **state)
{
    (void)state;
    for (unsigned is_tcp = 0; is_tcp < 2; is_tcp++) {
        struct rig rig;
        unsigned char *block = malloc(3 << 20);
        char rooms[8][TEST_KEY_ROOM];
        struct umbp_range ranges[3];
        rig_start(&rig, is_tcp);
        assert_ok(umbp_register_memory(rig.user, block + (1 << 20), 1 << 20));
        for (unsigned i = 0; i < 8; i++) {
            /* In it, before it, behind it, and across its edges. */
            unsigned char *at = block + i * 350000;
            struct umbp_key key = test_key_number(rooms[i], "reg", i);
            test_fill(at, 300000, i);
            assert_ok(umbp_put(rig.user, key, at, 300000, UMBP_DEPTH_NONE));
            memset(at, 0, 300000);
            assert_ok(umbp_get(rig.user, key, at, 300000));
            assert_true(test_check_fill(at, 300000, i));
            ranges[0] = (struct umbp_range){at + 200000, 100000, 200000};
            ranges[1] = (struct umbp_range){at, 70000, 0};
            ranges[2] = (struct umbp_range){at + 70000, 130000, 70000};
            memset(at, 0, 300000);
            struct umbp_range_item item = {
                .key = key, .ranges = ranges, .range_count = 3, .object_bytes = 300000};
            enum umbp_status status = UMBP_CANCELLED;
            assert_ok(umbp_batch_get_ranges(rig.user, &item, 1, &status));
            assert_ok(status);
            assert_true(test_check_fill(at, 300000, i));
            assert_ok(umbp_remove(rig.user, key));
            assert_ok(umbp_batch_put_ranges(rig.user, &item, 1, &status));
            assert_ok(status);
            assert_ok(test_get(rig.user, key, 300000, i));
        }
        assert_ok(umbp_deregister_memory(rig.user, block + (1 << 20)));
        free(block);
        rig_end(&rig);
    }
}

static void a_node_with_few_requests_is_busy_and_never_wrong(void **state)
{
    static const char *const few[] = {"pool.requests", "16", NULL};
    struct test_master master;
    struct test_member node;
    struct test_member users[3];
    (void)state;

    test_master_start(&master, NULL);
    test_member_start(&node, &master, few);
    for (unsigned i = 0; i < 3; i++) {
        test_member_start(&users[i], &master, user_only);
        test_member_load(&users[i], 12, test_seed() + i, 100);
    }
    for (unsigned i = 0; i < 3; i++) {
        while (test_member_load_now(&users[i]).calls < (test_is_slow() ? 100 : 1000)) {
            test_sleep_ms(5);
        }
    }
    for (unsigned i = 0; i < 3; i++) {
        struct test_load_result result = test_member_load_stop(&users[i]);
        printf("%" PRIu64 " calls, %" PRIu64 " failed (%s), %" PRIu64 " missing\n", result.calls,
               result.failed, umbp_status_name(result.failure), result.missing);
        assert_int_equal(result.wrong, 0);
        assert_true(!result.failed || result.failure == UMBP_BUSY ||
                    result.failure == UMBP_NO_SPACE);
        test_member_end(&users[i]);
    }
    test_member_is_idle(&node);
    test_member_end(&node);
    test_master_stop(&master);
}

static void what_is_too_large_for_one_node_goes_to_another(void **state)
{
    static const char *const small[] = {"dram.bytes", "1MiB", NULL};
    struct test_master master;
    struct test_member nodes[2];
    struct test_member user;
    struct test_set set = {"large", 0, 6, 2 << 20};
    (void)state;

    test_master_start(&master, NULL);
    test_member_start(&nodes[0], &master, small);
    test_member_start(&nodes[1], &master, NULL);
    test_member_start(&user, &master, user_only);
    assert_int_equal(test_member_put(&user, set).ok, set.count);
    struct test_tally tally = test_member_get(&user, set);
    assert_int_equal(tally.ok, set.count);
    assert_int_equal(tally.wrong, 0);
    assert_int_equal(test_member_stat(&nodes[0], "keys"), 0);
    /* Full as a whole, they evict, and go on taking. */
    struct test_set flood = {"flood", 0, 500, 100000};
    tally = test_member_put(&user, flood);
    assert_int_equal(tally.failed, 0);
    tally = test_member_get(&user, flood);
    assert_int_equal(tally.wrong, 0);
    assert_true(tally.ok > 100);
    test_member_end(&user);
    for (unsigned i = 0; i < 2; i++) {
        test_member_is_idle(&nodes[i]);
        test_member_end(&nodes[i]);
    }
    test_master_stop(&master);
}

static void two_nodes_of_one_name_do_not_mix_their_values_up(void **state)
{
    static const char *const twin[] = {"pool.node_id", "twin", "pool.beat_ms", "100", NULL};
    struct test_master master;
    struct test_member nodes[2];
    struct test_member user;
    struct test_set sets[2] = {{"first", 0, 100, 3000}, {"second", 0, 100, 3000}};
    (void)state;

    test_master_start(&master, NULL);
    test_member_start(&nodes[0], &master, twin);
    assert_int_equal(test_member_put(&nodes[0], sets[0]).ok, 100);
    test_member_start_twin(&nodes[1], &master, twin);
    test_member_start(&user, &master, user_only);
    (void)test_member_put(&nodes[1], sets[1]);
    for (unsigned i = 0; i < 20; i++) {
        for (unsigned s = 0; s < 2; s++) {
            struct test_tally put = test_member_put(&user, sets[s]);
            struct test_tally got = test_member_get(&user, sets[s]);
            assert_int_equal(got.wrong, 0);
            assert_int_equal(got.failed, 0);
            assert_int_equal(put.wrong, 0);
        }
    }
    test_member_end(&user);
    test_member_end(&nodes[1]);
    test_member_end(&nodes[0]);
    test_master_stop(&master);
}

/* The owner forgets all, again and again, amid gets and puts of the same keys. */
/* Reads two sets of large values, one after the other, until it is told to stop. */
struct reading {
    struct umbp_client *client;
    struct test_member *node;
    unsigned round;
    _Atomic bool stop;
    _Atomic uint64_t calls, found, missing, wrong;
};

static struct test_set large_set(uint64_t round)
{
    return (struct test_set){round % 2 ? "large1" : "large0", 0, 12, 1 << 20}; /* of 16 MiB */
}

static void *read_on(void *context)
{
    struct reading *reading = context;
    for (uint64_t i = 0; !atomic_load(&reading->stop); i++) {
        struct test_tally tally = test_set_get(reading->client, large_set(i));
        atomic_fetch_add(&reading->found, tally.ok);
        atomic_fetch_add(&reading->missing, tally.missing);
        atomic_fetch_add(&reading->wrong, tally.wrong);
        atomic_fetch_add(&reading->calls, 1);
    }
    return NULL;
}

static bool is_read(void *context)
{
    struct reading *reading = context;
    /* Again: what is being read may have left no room for it. */
    (void)test_member_put(reading->node, large_set(reading->round));
    return atomic_load(&reading->found) > 0;
}

/* What is cleared amid a read is followed at once by other values, in the pages that it left: in a
 * tier that has hardly any others. */
static void clear_under_reads(struct rig *rig, unsigned rounds)
{
    struct reading reading = {.client = rig->user, .node = &rig->node};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, read_on, &reading), 0);
    for (unsigned i = 0; i < rounds; i++) {
        reading.round = i;
        atomic_store(&reading.found, 0);
        assert_true(test_wait_until(is_read, &reading, TEST_WAIT_MS));
        test_member_tell(&rig->node, "clear x");
        assert_string_equal(test_member_answer(&rig->node, TEST_WAIT_MS),
                            umbp_status_name(UMBP_OK));
    }
    atomic_store(&reading.stop, true);
    pthread_join(thread, NULL);
    printf("%" PRIu64 " reads of large values, %" PRIu64 " missing, %" PRIu64 " wrong\n",
           atomic_load(&reading.calls), atomic_load(&reading.missing), atomic_load(&reading.wrong));
    assert_int_equal(atomic_load(&reading.wrong), 0);
}

/* Of all sizes, by another process. */
static void clear_under_load(struct rig *rig, struct test_member *user, uint64_t seed)
{
    test_member_load(user, 3, seed, 10);
    for (unsigned i = 0; i < (test_is_slow() ? 10 : 60); i++) {
        uint64_t calls = test_member_load_now(user).calls;
        test_member_tell(&rig->node, "clear x");
        assert_string_equal(test_member_answer(&rig->node, TEST_WAIT_MS),
                            umbp_status_name(UMBP_OK));
        while (test_member_load_now(user).calls < calls + 10) {
            test_sleep_ms(1);
        }
    }
    struct test_load_result result = test_member_load_stop(user);
    printf("%" PRIu64 " calls, %" PRIu64 " found or stored, %" PRIu64 " missing, %" PRIu64
           " failed (%s)\n",
           result.calls, result.ok, result.missing, result.failed,
           umbp_status_name(result.failure));
    assert_int_equal(result.wrong, 0);
    assert_true(result.ok > 0 && result.missing > 0);
}

static void a_clear_while_others_read_costs_misses_only(void **state)
{
    (void)state;
    for (unsigned is_tcp = 0; is_tcp < 2; is_tcp++) {
        struct rig rig;
        struct test_member user;
        rig_start(&rig, is_tcp);
        clear_under_reads(&rig, test_is_slow() ? 10 : 40);
        test_member_start(&user, &rig.master, is_tcp ? tcp_user : user_only);
        clear_under_load(&rig, &user, test_seed() + is_tcp);
        test_member_end(&user);
        test_member_is_idle(&rig.node);
        test_member_tell(&rig.node, "clear x");
        assert_string_equal(test_member_answer(&rig.node, TEST_WAIT_MS), umbp_status_name(UMBP_OK));
        test_member_stat_becomes(&rig.node, "dram.bytes_used", 0);
        rig_end(&rig);
    }
}

static int by_value(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

/* A figure; the bar is 20 ms. */
static void a_put_is_visible_elsewhere_soon(void **state)
{
    enum {
        ROUNDS = 200
    };
    struct test_master master;
    struct test_member node;
    uint64_t us[ROUNDS];
    char room[TEST_KEY_ROOM];
    (void)state;

    test_master_start(&master, NULL);
    test_member_start(&node, &master, NULL);
    struct umbp_client *writer = test_pool_client(&master, NULL);
    struct umbp_client *reader = test_pool_client(&master, user_only);
    for (uint64_t i = 0; i < ROUNDS; i++) {
        struct umbp_key key = test_key_number(room, "seen", i);
        uint64_t limit_ns = test_now_ns() + UINT64_C(60000000000);
        assert_ok(test_put(writer, key, 1000, i));
        uint64_t began_ns = test_now_ns();
        while (umbp_exists(reader, key) != UMBP_OK) {
            assert_true(test_now_ns() < limit_ns);
        }
        us[i] = (test_now_ns() - began_ns) / 1000;
        assert_ok(test_get(reader, key, 1000, i));
    }
    qsort(us, ROUNDS, sizeof(us[0]), by_value);
    printf("visible elsewhere: median %.1f ms, p99 %.1f ms, worst %.1f ms\n",
           (double)us[ROUNDS / 2] / 1e3, (double)us[ROUNDS * 99 / 100] / 1e3,
           (double)us[ROUNDS - 1] / 1e3);
    umbp_client_destroy(reader);
    umbp_client_destroy(writer);
    test_member_end(&node);
    test_master_stop(&master);
}

/* A library that comes with libfabric has handlers of its own, which may wait for ever. */
static void a_process_that_joins_keeps_its_signals(void **state)
{
    static const int signals[] = {SIGABRT, SIGINT, SIGTERM}; /* cmocka has the others */
    struct test_master master;
    (void)state;

    test_master_start(&master, NULL);
    struct umbp_client *client = test_pool_client(&master, user_only);
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        struct sigaction action;
        assert_int_equal(sigaction(signals[i], NULL, &action), 0);
        assert_true(action.sa_handler == SIG_DFL);
    }
    umbp_client_destroy(client);
    test_master_stop(&master);
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_teardown(name, test_cluster_end)
    const struct CMUnitTest tests[] = {
        TEST(values_of_every_size_come_back_under_keys_of_every_size),
        TEST(values_of_every_size_come_back_under_keys_of_every_size_over_tcp),
        TEST(large_batches_come_back_whole),
        TEST(registered_and_other_memory_serve_alike_and_together),
        TEST(a_node_with_few_requests_is_busy_and_never_wrong),
        TEST(what_is_too_large_for_one_node_goes_to_another),
        TEST(two_nodes_of_one_name_do_not_mix_their_values_up),
        TEST(a_clear_while_others_read_costs_misses_only),
        TEST(a_put_is_visible_elsewhere_soon),
        TEST(a_process_that_joins_keeps_its_signals),
    };
    cmocka_set_test_filter(getenv("UMBP_TEST_FILTER"));
    return test_member_wanted(argc, argv) ? test_member_main(argc, argv)
                                          : cmocka_run_group_tests(tests, NULL, NULL);
}
