/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The heap: none of it on the steady data path, and a failing allocation, whichever it is, is a
 * status and leaves nothing behind.
 */
#include "store_support.h"
#include "support_client.h"

#include <malloc.h>
#include <stdatomic.h>

/* ------------------------------------------------------------------------------- counting -- */

static _Atomic uint64_t allocations;

static bool count_allocation(void *context, size_t bytes)
{
    (void)context;
    (void)bytes;
    atomic_fetch_add(&allocations, 1);
    return true;
}

#define BATCH 128u

struct traffic {
    struct store *store;
    uint64_t value_bytes;
    char keys[BATCH][32];
    unsigned char *data;
    struct umbp_put_item puts[BATCH];
    struct umbp_get_item gets[BATCH];
    struct umbp_key names[BATCH];
    enum umbp_status statuses[BATCH];
    struct umbp_range ranges[64];
};

static struct traffic *traffic_make(struct store *store, uint64_t value_bytes)
{
    struct traffic *traffic = calloc(1, sizeof(*traffic));
    traffic->store = store;
    traffic->value_bytes = value_bytes;
    traffic->data = calloc(BATCH, value_bytes);
    return traffic;
}

static void traffic_free(struct traffic *traffic)
{
    free(traffic->data);
    free(traffic);
}

/* One round of every operation of the data path, on keys of round `round`. */
static void traffic_round(struct traffic *traffic, uint64_t round)
{
    for (uint64_t i = 0; i < BATCH; i++) {
        int bytes = snprintf(traffic->keys[i], sizeof(traffic->keys[i]), "key-%010llu",
                             (unsigned long long)(round * BATCH + i));
        unsigned char *data = traffic->data + i * traffic->value_bytes;
        traffic->names[i] = (struct umbp_key){traffic->keys[i], (size_t)bytes};
        traffic->puts[i] = (struct umbp_put_item){
            .key = traffic->names[i], .data = data, .bytes = traffic->value_bytes, .depth = 3};
        traffic->gets[i] = (struct umbp_get_item){
            .key = traffic->names[i], .data = data, .bytes = traffic->value_bytes};
    }
    uint8_t found[BATCH];
    size_t hits;
    struct store_pin pin;
    struct store_reservation reservation;
    struct umbp_entry_info info;
    uint64_t part = traffic->value_bytes / 64;
    for (uint64_t i = 0; i < 64; i++) {
        traffic->ranges[i] = (struct umbp_range){traffic->data + i * part, part, i * part};
    }
    struct umbp_range_item ranged = {.key = traffic->names[0],
                                     .ranges = traffic->ranges,
                                     .range_count = 64,
                                     .object_bytes = traffic->value_bytes};

    assert_ok(store_batch_put(traffic->store, traffic->puts + 2, BATCH - 2, traffic->statuses));
    assert_ok(store_batch_put(traffic->store, traffic->puts + 1, 1, traffic->statuses));
    assert_ok(store_batch_put_ranges(traffic->store, &ranged, 1, traffic->statuses));
    assert_ok(store_batch_get(traffic->store, traffic->gets, BATCH, traffic->statuses));
    assert_ok(store_batch_get(traffic->store, traffic->gets + 9, 1, traffic->statuses));
    assert_ok(store_batch_get_ranges(traffic->store, &ranged, 1, traffic->statuses));
    assert_ok(store_batch_exists(traffic->store, traffic->names, BATCH, found));
    assert_ok(store_exists_consecutive(traffic->store, traffic->names, BATCH, &hits));
    assert_ok(store_batch_remove(traffic->store, traffic->names, 5, traffic->statuses));
    (void)!store_stat(traffic->store, traffic->names[50], &info);
    if (store_pin(traffic->store, traffic->names[60], 0, false, &pin) == UMBP_OK) {
        store_unpin(traffic->store, &pin);
    }
    if (store_reserve(traffic->store, traffic->names[1], 1000, 0, &reservation) == UMBP_OK) {
        store_abort(traffic->store, &reservation);
    }
    if (store_reserve(traffic->store, traffic->names[1], 1000, 0, &reservation) == UMBP_OK) {
        assert_ok(store_commit(traffic->store, &reservation));
    }
}

static uint64_t allocations_of(struct traffic *traffic, uint64_t warm_up, uint64_t rounds)
{
    uint64_t round = 0;
    for (; round < warm_up; round++) {
        traffic_round(traffic, round);
    }
    atomic_store(&allocations, 0);
    mem_set_hook(count_allocation, NULL);
    for (; round < warm_up + rounds; round++) {
        traffic_round(traffic, round);
    }
    mem_set_hook(NULL, NULL);
    return atomic_load(&allocations);
}

static void the_data_path_of_memory_allocates_nothing_once_it_is_warm(void **state)
{
    (void)state;
    for (size_t p = 0; store_policy_name(p) != NULL; p++) {
        struct store_options options = small_options(8 * MIB);
        options.policy = store_policy_name(p);
        options.copy_threads = 2;
        options.dram_checksum = p == 1;
        struct store *store = make_store(&options);
        struct traffic *traffic = traffic_make(store, 4096);
        uint64_t made = allocations_of(traffic, 600, 200);
        if (made > 0) {
            fail_msg("%s: %" PRIu64 " allocations", options.policy, made);
        }
        assert_true(stat_of(store, "evictions.dram") > 10000);
        traffic_free(traffic);
        finish_store(store);
    }
}

/* The hook counts: else the test above could not fail. */
static void what_is_not_warm_does_allocate(void **state)
{
    struct store_options options = small_options(8 * MIB);
    struct store *store = make_store(&options);
    struct traffic *traffic = traffic_make(store, 4096);
    (void)state;
    assert_true(allocations_of(traffic, 0, 1) > 0);
    traffic_free(traffic);
    finish_store(store);
}

struct warming {
    struct traffic *traffic;
    uint64_t round;
};

/* How fast the disk takes the copies is the machine's affair: warm is, when space came back once.
 */
static bool has_reclaimed(void *context)
{
    struct warming *warming = context;
    traffic_round(warming->traffic, warming->round++);
    return stat_of(warming->traffic->store, "reclaim.segments") > 0;
}

static void the_data_path_with_an_ssd_allocates_nothing_once_it_is_warm(void **state)
{
    char *directory = test_dir_create();
    struct store_options options = small_options(4 * MIB);
    (void)state;
    options.ssd_enabled = true;
    options.ssd.directory = directory;
    options.ssd.bytes = 16 * MIB;
    options.ssd.segment_bytes = 2 * MIB;
    options.disk_driver = "posix";
    struct store *store = make_store(&options);
    struct traffic *traffic = traffic_make(store, 16384);
    struct warming warming = {.traffic = traffic};
    assert_true(test_wait_until(has_reclaimed, &warming, 60000));
    assert_int_equal(allocations_of(traffic, 60, 60), 0);
    traffic_free(traffic);
    finish_store(store);
    test_dir_remove(directory);
}

/* -------------------------------------------------------------------------------- failing -- */

static _Atomic int64_t until_failure;
static _Atomic uint64_t failures;

/* The Nth fails, and each 16th after it. */
static bool fail_nth(void *context, size_t bytes)
{
    (void)context;
    (void)bytes;
    int64_t left = atomic_fetch_sub(&until_failure, 1) - 1;
    if (left > 0 || left % 16 != 0) {
        return true;
    }
    atomic_fetch_add(&failures, 1);
    return false;
}

static void assert_one_of(enum umbp_status status, const enum umbp_status *fine, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (status == fine[i]) {
            return;
        }
    }
    fail_msg("not a clear status: %s", umbp_status_name(status));
}
#define ASSERT_ONE_OF(status, ...)                                                                 \
    do {                                                                                           \
        static const enum umbp_status fine_[] = {__VA_ARGS__};                                     \
        assert_one_of((status), fine_, sizeof(fine_) / sizeof(fine_[0]));                          \
    } while (0)

/* What a session does. Every value that is served must be right, whatever failed. */
static void use_client(struct umbp_client *client)
{
    struct umbp_range_item item = {.key = test_key("ranged"), .range_count = 100};
    struct umbp_range ranges[100];
    char text[TEST_KEY_ROOM];
    unsigned char data[20000];
    enum umbp_status status;

    for (uint64_t i = 0; i < 40; i++) {
        status = test_put(client, test_key_number(text, "k", i), 20000, i);
        ASSERT_ONE_OF(status, UMBP_OK, UMBP_NO_MEMORY);
    }
    for (size_t i = 0; i < 100; i++) {
        ranges[99 - i] = (struct umbp_range){data + i * 200, 200, i * 200};
    }
    item.ranges = ranges;
    item.object_bytes = 20000;
    test_fill(data, sizeof(data), 77);
    assert_ok(umbp_batch_put_ranges(client, &item, 1, &status));
    ASSERT_ONE_OF(status, UMBP_OK, UMBP_NO_MEMORY);
    status = umbp_flush(client, 0);
    ASSERT_ONE_OF(status, UMBP_OK, UMBP_NO_MEMORY);
    status = umbp_register_memory(client, data, sizeof(data));
    ASSERT_ONE_OF(status, UMBP_OK, UMBP_NO_MEMORY);
    for (uint64_t i = 0; i < 40; i++) {
        status = test_get(client, test_key_number(text, "k", i), 20000, i);
        ASSERT_ONE_OF(status, UMBP_OK, UMBP_NOT_FOUND, UMBP_NO_MEMORY);
    }
    for (uint64_t i = 0; i < 40; i += 2) {
        status = umbp_remove(client, test_key_number(text, "k", i));
        ASSERT_ONE_OF(status, UMBP_OK, UMBP_NOT_FOUND, UMBP_NO_MEMORY);
    }
    status = umbp_flush(client, 0);
    ASSERT_ONE_OF(status, UMBP_OK, UMBP_NO_MEMORY);
    status = umbp_clear(client);
    ASSERT_ONE_OF(status, UMBP_OK, UMBP_NO_MEMORY);
    status = test_put(client, test_key("again"), 100, 5);
    ASSERT_ONE_OF(status, UMBP_OK, UMBP_NO_MEMORY);
    status = umbp_client_close(client, 0);
    ASSERT_ONE_OF(status, UMBP_OK, UMBP_NO_MEMORY);
}

/* False when the session went through without a failed allocation. */
static bool session(const char *const *options, int64_t nth)
{
    struct umbp_config *config = test_config(options);
    struct umbp_client *client = NULL;
    char error[256] = "";
    atomic_store(&failures, 0);
    atomic_store(&until_failure, nth);
    mem_set_hook(fail_nth, NULL);
    enum umbp_status status = umbp_client_create(config, &client, error, sizeof(error));
    if (status == UMBP_OK) {
        use_client(client);
        umbp_client_destroy(client);
    } else {
        mem_set_hook(NULL, NULL);
        assert_status(status, UMBP_NO_MEMORY);
        assert_true(error[0] != '\0');
        assert_null(client);
    }
    mem_set_hook(NULL, NULL);
    umbp_config_destroy(config);
    return atomic_load(&failures) > 0;
}

static uint64_t heap_in_use(void)
{
    return test_is_slow() ? 0 : mallinfo2().uordblks + mallinfo2().hblkhd;
}

static void run_sessions(const char *const *options, const char *directory)
{
    char *path = test_path(directory, "ssd");
    while (session(options, INT64_MAX)) {
    }
    struct test_holdings before = test_holdings();
    int64_t nth = 1;
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    for (; session(options, nth); nth += nth < 200 ? 1 : nth / 50) {
        test_holdings_are_back(before);
        if (nth == 3) { /* once all that is made once is made */
            while (session(options, INT64_MAX)) {
            }
        }
    }
    uint64_t heap = heap_in_use();
    for (int64_t again = 1; again < nth; again += 1 + again / 10) {
        (void)session(options, again);
    }
    assert_in_range(heap_in_use(), 0, heap + 4096);
    umbp_log_set(UMBP_LOG_WARN, NULL, NULL);
    assert_true(nth > 10); /* there was something to fail */
    free(path);
}

static void a_failing_allocation_is_a_status_and_leaks_nothing_in_a_session_on_memory(void **state)
{
    static const char *const options[] = {"dram.bytes", "512KiB", "dram.prefault", "false", NULL};
    char *directory = test_dir_create();
    (void)state;
    run_sessions(options, directory);
    test_dir_remove(directory);
}

static void
a_failing_allocation_is_a_status_and_leaks_nothing_in_a_session_with_an_ssd(void **state)
{
    char *directory = test_dir_create();
    const char *const options[] = {"dram.bytes",
                                   "512KiB",
                                   "dram.prefault",
                                   "false",
                                   "ssd.dir",
                                   directory,
                                   "ssd.bytes",
                                   "8MiB",
                                   "ssd.durability",
                                   "relaxed",
                                   "ssd.driver",
                                   "posix",
                                   "ssd.read_queues",
                                   "2",
                                   "index.shards",
                                   "4",
                                   "copy.workers",
                                   "1",
                                   NULL};
    (void)state;
    run_sessions(options, directory);
    test_dir_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_data_path_of_memory_allocates_nothing_once_it_is_warm),
        cmocka_unit_test(what_is_not_warm_does_allocate),
        cmocka_unit_test(the_data_path_with_an_ssd_allocates_nothing_once_it_is_warm),
        cmocka_unit_test(a_failing_allocation_is_a_status_and_leaks_nothing_in_a_session_on_memory),
        cmocka_unit_test(
            a_failing_allocation_is_a_status_and_leaks_nothing_in_a_session_with_an_ssd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
