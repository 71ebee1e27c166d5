/* SPDX-License-Identifier: Apache-2.0 */
/* Disks that fail, hang and fill up; memory that runs out. Nothing is stuck, leaked or wrong. */
#include "ssd_fixture.h"

static void options_small(struct fx *fx)
{
    fx->options.bytes = 2u << 20;
    fx->options.segment_bytes = 128u << 10;
    fx->options.io_bytes = 64u << 10;
    fx->options.read_queues = 1;
    fx->options.queue_depth = 4;
}

static void fault_init(struct fx *fx)
{
    fx_init(fx, fx_faulty(fx_memory_disk()), "d");
    options_small(fx);
}

static void add_fault(struct fx *fx, enum disk_call call, uint64_t first, uint64_t times,
                      enum umbp_status status)
{
    const struct disk_fault fault = {
        .call = call, .first = first, .times = times, .status = status};
    assert_true(disk_fault_add(fx->disk, &fault));
}

/* --------------------------------------------------------------------------- errors ------ */

/* Batches of several records, so that one failed write hits some of them and not others. */
#define BATCH 12u
static enum umbp_status put_batch(struct fx *fx, uint32_t first, uint32_t bytes)
{
    static uint8_t keys[BATCH][256];
    static uint8_t values[BATCH][100000];
    struct iovec iov[BATCH];
    struct ssd_append appends[BATCH];
    for (uint32_t i = 0; i < BATCH; i++) {
        uint64_t generation = ++fx->generation;
        fx_key(first + i, keys[i], fx_key_bytes(first + i));
        test_fill(values[i], bytes, generation);
        iov[i] = (struct iovec){values[i], bytes};
        appends[i] = (struct ssd_append){
            .key = {keys[i], fx_key_bytes(first + i)},
            .generation = generation,
            .value_bytes = bytes,
            .iov = &iov[i],
            .iov_count = 1,
        };
    }
    enum umbp_status status = ssd_append(fx->tier, appends, BATCH, false, fx_soon());
    bool has_failed = false;
    for (uint32_t i = 0; i < BATCH; i++) {
        has_failed = has_failed || appends[i].status != UMBP_OK;
        if (appends[i].status == UMBP_OK) {
            fx->index[first + i] =
                (struct fx_slot){true, false, appends[i].generation, bytes, appends[i].location};
        } else {
            assert_int_equal(appends[i].location.segment, 0);
        }
    }
    assert_int_equal(has_failed, status != UMBP_OK);
    return status;
}

static void an_error_at_every_write_costs_only_what_was_not_reported(void **state)
{
    (void)state;
    bool struck = true;
    for (uint64_t n = 1; struck; n++) {
        struct fx fx;
        fault_init(&fx);
        fx_open(&fx);
        uint64_t writes = disk_fault_calls(fx.disk, DISK_CALL_WRITE);
        add_fault(&fx, DISK_CALL_WRITE, n, 1, UMBP_IO);
        unsigned failed = 0;
        for (uint32_t batch = 0; batch < 4; batch++) {
            failed += put_batch(&fx, batch * BATCH, 20000) != UMBP_OK;
        }
        fx_check_all(&fx);
        uint32_t count = fx_count(&fx);
        struct ssd_stats stats;
        ssd_stats(fx.tier, &stats);
        assert_int_equal(stats.records_live, count);
        enum umbp_status status = ssd_close(fx.tier, fx_soon());
        struck = disk_fault_calls(fx.disk, DISK_CALL_WRITE) - writes >= n;
        assert_true(failed <= 1);
        assert_true(struck || (failed == 0 && count == 4 * BATCH));
        assert_true(status == UMBP_OK || struck);
        disk_fault_clear(fx.disk);
        fx_open(&fx);
        assert_int_equal(fx_count(&fx), count); /* what failed does not come back either */
        fx_check_all(&fx);
        fx_close(&fx);
        disk_destroy(fx.disk);
    }
}

static void an_error_at_every_sync_is_reported(void **state)
{
    (void)state;
    for (uint64_t n = 1; n < 12; n++) {
        struct fx fx;
        fault_init(&fx);
        fx_open(&fx);
        add_fault(&fx, DISK_CALL_SYNC, n, 1, UMBP_IO);
        for (uint32_t batch = 0; batch < 3; batch++) {
            enum umbp_status status = put_batch(&fx, batch * BATCH, 3000);
            (void)status;
        }
        fx_check_all(&fx);
        uint32_t count = fx_count(&fx);
        enum umbp_status status = ssd_close(fx.tier, fx_soon());
        (void)status;
        disk_fault_clear(fx.disk);
        fx_open(&fx);
        assert_int_equal(fx_count(&fx), count);
        fx_check_all(&fx);
        fx_close(&fx);
        disk_destroy(fx.disk);
    }
}

static void an_error_at_every_read_fails_that_get_or_costs_what_it_hit(void **state)
{
    (void)state;
    struct fx fx;
    fault_init(&fx);
    fx_open(&fx);
    for (uint32_t i = 0; i < 20; i++) {
        assert_ok(fx_put(&fx, i, i * 7000));
    }
    for (uint64_t n = 1; n < 60; n++) {
        add_fault(&fx, DISK_CALL_READ, n, 1, UMBP_IO);
        unsigned failed = 0;
        for (uint32_t i = 0; i < 20; i++) {
            enum umbp_status status = fx_get(&fx, i);
            assert_true(status == UMBP_OK || status == UMBP_IO);
            failed += status != UMBP_OK;
        }
        assert_in_range(failed, n < 20, 1);
        disk_fault_clear(fx.disk);
    }
    fx_check_all(&fx);
    fx_close(&fx);
    bool struck = true;
    fx.options.read_only = true;
    for (uint64_t n = 1; struck; n++) {
        uint64_t reads = disk_fault_calls(fx.disk, DISK_CALL_READ);
        add_fault(&fx, DISK_CALL_READ, n, 1, UMBP_IO);
        enum umbp_status status = fx_try_open(&fx);
        struck = disk_fault_calls(fx.disk, DISK_CALL_READ) - reads >= n;
        disk_fault_clear(fx.disk);
        assert_true(status == UMBP_OK || (struck && status == UMBP_IO));
        if (status == UMBP_OK) {
            assert_int_equal(fx_count(&fx), 20); /* a footer that can't be read costs a scan */
            fx_check_all(&fx);
            fx_close(&fx);
        }
    }
    disk_destroy(fx.disk);
}

static void an_error_at_every_call_of_an_open_leaks_nothing(void **state)
{
    (void)state;
    struct fx fx;
    fault_init(&fx);
    fx_open(&fx);
    for (uint32_t i = 0; i < 20; i++) {
        assert_ok(fx_put(&fx, i, i * 4000));
    }
    fx_close(&fx);
    bool struck = true;
    for (uint64_t n = 1; struck; n++) {
        uint64_t calls = disk_fault_calls(fx.disk, DISK_CALL_ANY);
        add_fault(&fx, DISK_CALL_ANY, n, 1, n % 2 ? UMBP_IO : UMBP_LIMIT);
        enum umbp_status status = fx_try_open(&fx);
        struck = disk_fault_calls(fx.disk, DISK_CALL_ANY) - calls >= n;
        disk_fault_clear(fx.disk);
        if (status == UMBP_OK) {
            fx_check_all(&fx);
            fx_close(&fx);
        } else {
            assert_true(fx.error[0] != '\0');
        }
        fx_open(&fx); /* the damage of an open is never lasting */
        assert_int_equal(fx_count(&fx), 20);
        fx_close(&fx);
    }
    disk_destroy(fx.disk); /* asserts that no file was left open */
}

/* ---------------------------------------------------------------------------- full ------- */

static void a_full_disk_says_no_space_and_takes_more_after_a_release(void **state)
{
    (void)state;
    struct fx fx;
    struct disk *memory = fx_memory_disk();
    fx_init(&fx, memory, "d");
    options_small(&fx);
    disk_memory_set_capacity(memory, 700u << 10); /* the file system, not the tier, is full */
    fx_open(&fx);
    uint32_t i = 0;
    enum umbp_status status;
    while ((status = fx_put(&fx, i, 30000)) == UMBP_OK) {
        i++;
        assert_true(i < 100);
    }
    assert_status(status, UMBP_NO_SPACE);
    struct ssd_stats stats;
    ssd_stats(fx.tier, &stats);
    assert_true(stats.disk_full >= 1);
    assert_true(stats.bytes_used <= 700u << 10); /* nothing is half accounted */
    fx_check_all(&fx);
    uint32_t segment;
    assert_ok(ssd_victim(fx.tier, false, &segment, fx_soon()));
    fx_gone(&fx, segment);
    ssd_segment_release(fx.tier, segment);
    assert_ok(fx_put(&fx, i, 30000));
    fx_check_all(&fx);
    fx_close(&fx);
    fx_open(&fx);
    fx_check_all(&fx);
    fx_close(&fx);
    disk_destroy(memory);
}

static void no_space_in_the_middle_of_a_write_loses_that_group_only(void **state)
{
    (void)state;
    struct fx fx;
    fault_init(&fx);
    fx_open(&fx);
    assert_ok(put_batch(&fx, 0, 5000));
    add_fault(&fx, DISK_CALL_ALLOCATE, 1, 1, UMBP_NO_SPACE);
    enum umbp_status status = put_batch(&fx, BATCH, 20000);
    assert_status(status, UMBP_NO_SPACE);
    assert_ok(put_batch(&fx, BATCH, 20000));
    fx_check_all(&fx);
    fx_close(&fx);
    fx_open(&fx);
    assert_int_equal(fx_count(&fx), 2 * BATCH);
    fx_check_all(&fx);
    fx_close(&fx);
    disk_destroy(fx.disk);
}

static void a_segment_that_can_not_be_made_leaves_no_file_open(void **state)
{
    (void)state;
    struct fx fx;
    struct disk *inner;
    char *directory = test_dir_create();
    assert_ok(disk_posix_create(0, &inner));
    fx_init(&fx, fx_faulty(inner), directory);
    options_small(&fx);
    fx_open(&fx);
    unsigned files = test_fd_count();
    for (unsigned i = 0; i < 20; i++) {
        add_fault(&fx, i % 2 ? DISK_CALL_ALLOCATE : DISK_CALL_WRITE, i % 2 ? 1 : 2, 1,
                  UMBP_NO_SPACE);
        enum umbp_status status = fx_put(&fx, 1, 100);
        assert_true(status == UMBP_NO_SPACE || i % 2 == 0);
        disk_fault_clear(fx.disk);
        if (status == UMBP_OK) {
            assert_ok(ssd_clear(fx.tier, ++fx.generation, fx_soon()));
            memset(fx.index, 0, sizeof(fx.index));
        }
        assert_int_equal(test_fd_count(), files);
    }
    fx_close(&fx);
    disk_destroy(fx.disk);
    test_dir_remove(directory);
}

static void a_file_system_without_preallocation_serves_too(void **state)
{
    (void)state;
    struct fx fx;
    fault_init(&fx);
    add_fault(&fx, DISK_CALL_ALLOCATE, 1, UINT64_MAX, UMBP_UNSUPPORTED);
    fx_open(&fx);
    for (uint32_t i = 0; i < 30; i++) {
        assert_ok(fx_put(&fx, i, i * 1500));
    }
    fx_check_all(&fx);
    fx_close(&fx);
    fx_open(&fx);
    assert_int_equal(fx_count(&fx), 30);
    fx_check_all(&fx);
    fx_close(&fx);
    disk_destroy(fx.disk);
}

/* ---------------------------------------------------------------------------- hangs ------ */

static uint64_t in_ms(uint64_t ms) { return clock_deadline_ns(clock_monotonic(), ms); }

/* Value `i`, which has `bytes` bytes, into `value`. */
static enum umbp_status read_until(struct fx *fx, uint32_t i, uint8_t *value, size_t bytes,
                                   uint64_t deadline_ns)
{
    uint8_t key[256];
    fx_key(i, key, fx_key_bytes(i));
    struct ssd_range range = {value, bytes, 0};
    struct ssd_read read = {
        .key = {key, fx_key_bytes(i)},
        .generation = fx->index[i].generation,
        .value_bytes = bytes,
        .location = fx->index[i].location,
        .ranges = &range,
        .range_count = 1,
    };
    return ssd_read(fx->tier, &read, 1, NULL, NULL, deadline_ns);
}

static void a_read_that_hangs_times_out_and_the_next_one_works(void **state)
{
    (void)state;
    struct fx fx;
    fault_init(&fx);
    fx.options.io_timeout_ms = 30;
    fx_open(&fx);
    for (uint32_t i = 0; i < 8; i++) {
        assert_ok(fx_put(&fx, i, 20000));
    }
    const struct disk_fault never = {
        .call = DISK_CALL_READ, .first = 2, .action = DISK_FAULT_NEVER};
    assert_true(disk_fault_add(fx.disk, &never));
    assert_ok(fx_get(&fx, 0));
    uint8_t value[20000]; /* the request's own time, not the call's hour, ends it */
    assert_status(read_until(&fx, 1, value, sizeof(value), in_ms(3600000)), UMBP_TIMEOUT);
    for (uint32_t i = 0; i < 8; i++) {
        assert_ok(fx_get(&fx, i)); /* the lost slot is left aside */
    }
    struct ssd_stats stats;
    ssd_stats(fx.tier, &stats);
    assert_int_equal(stats.io_timeouts, 1);
    disk_fault_release(fx.disk);
    fx_check_all(&fx);
    fx_close(&fx);
    disk_destroy(fx.disk);
}

static void when_every_slot_hangs_callers_time_out_until_one_returns(void **state)
{
    (void)state;
    struct fx fx;
    fault_init(&fx);
    fx.options.io_timeout_ms = 20;
    fx_open(&fx);
    for (uint32_t i = 0; i < 8; i++) {
        assert_ok(fx_put(&fx, i, 20000));
    }
    /* A reader has as many slots as the queue is deep. */
    const struct disk_fault never = {
        .call = DISK_CALL_READ, .first = 1, .times = 4, .action = DISK_FAULT_NEVER};
    assert_true(disk_fault_add(fx.disk, &never));
    for (uint32_t i = 0; i < 4; i++) {
        assert_status(fx_get(&fx, i), UMBP_TIMEOUT);
    }
    uint8_t value[20000];
    assert_status(read_until(&fx, 5, value, sizeof(value), in_ms(50)), UMBP_TIMEOUT);
    /* The segment goes; what hangs still holds its file. */
    assert_ok(fx_put(&fx, 20, 100));
    uint32_t segment;
    assert_ok(ssd_victim(fx.tier, true, &segment, fx_soon()));
    fx_gone(&fx, segment);
    ssd_segment_release(fx.tier, segment);
    assert_status(ssd_close(fx.tier, in_ms(50)), UMBP_BUSY); /* left in place */
    disk_fault_release(fx.disk);
    fx_close(&fx);
    fx_open(&fx);
    fx_check_all(&fx);
    fx_close(&fx);
    disk_destroy(fx.disk);
}

static void a_write_that_hangs_times_out_and_appends_go_on(void **state)
{
    (void)state;
    for (uint64_t n = 1; n <= 6; n++) {
        struct fx fx;
        fault_init(&fx);
        fx.options.io_timeout_ms = 30;
        fx_open(&fx);
        assert_ok(put_batch(&fx, 100, 1000));
        const struct disk_fault never = {
            .call = DISK_CALL_WRITE, .first = n, .action = DISK_FAULT_NEVER};
        assert_true(disk_fault_add(fx.disk, &never));
        unsigned failed = 0;
        for (uint32_t batch = 0; batch < 4; batch++) {
            failed += put_batch(&fx, batch * BATCH, 10000) != UMBP_OK;
        }
        assert_in_range(failed, 0, 1);
        fx_check_all(&fx);
        uint32_t count = fx_count(&fx);
        disk_fault_release(fx.disk); /* the write comes through after all */
        enum umbp_status status = ssd_close(fx.tier, fx_soon());
        assert_ok(status);
        disk_fault_clear(fx.disk);
        fx_open(&fx);
        assert_true(fx_count(&fx) >= count);
        fx_check_all(&fx);
        fx_close(&fx);
        disk_destroy(fx.disk);
    }
}

static void a_deadline_that_is_past_fails_at_once(void **state)
{
    (void)state;
    struct fx fx;
    fault_init(&fx);
    fx.options.io_timeout_ms = 3600000; /* who waited for the disk would be here for an hour */
    fx_open(&fx);
    assert_ok(fx_put(&fx, 1, 1000));
    const struct disk_fault never = {
        .call = DISK_CALL_READ, .first = 1, .action = DISK_FAULT_NEVER};
    assert_true(disk_fault_add(fx.disk, &never));
    uint8_t value[1000];
    assert_status(read_until(&fx, 1, value, sizeof(value), test_now_ns()), UMBP_TIMEOUT);
    disk_fault_clear(fx.disk);
    assert_ok(read_until(&fx, 1, value, sizeof(value), fx_soon()));
    assert_true(test_check_fill(value, sizeof(value), fx.index[1].generation));
    fx_close(&fx);
    disk_destroy(fx.disk);
}

/* --------------------------------------------------------------------------- memory ------ */

static unsigned allocations_left;
static unsigned allocations_seen;
static bool allow_some(void *context, size_t bytes)
{
    (void)context;
    (void)bytes;
    allocations_seen++;
    if (allocations_left == 0) {
        return false;
    }
    allocations_left--;
    return true;
}

static void no_memory_at_every_allocation_of_a_session_leaks_and_breaks_nothing(void **state)
{
    (void)state;
    struct disk *disk;
    char *directory = test_dir_create();
    assert_ok(disk_auto_create("auto", &disk));
    unsigned files = test_fd_count();
    unsigned threads = test_thread_count();
    struct fx fx;
    fx_init(&fx, disk, directory);
    options_small(&fx);
    fx_open(&fx);
    for (uint32_t i = 0; i < 10; i++) {
        assert_ok(fx_put(&fx, i, i * 4000));
    }
    fx_close(&fx);
    bool through = false;
    for (unsigned n = 0; !through; n++) {
        assert_true(n < 500);
        allocations_left = n;
        mem_set_hook(allow_some, NULL);
        enum umbp_status status = fx_try_open(&fx);
        if (status == UMBP_OK) {
            status = fx_put(&fx, 11, 5000);
            fx_check_all(&fx);
            enum umbp_status reclaimed = fx_reclaim(&fx);
            enum umbp_status closed = ssd_close(fx.tier, fx_soon());
            through = status == UMBP_OK && reclaimed == UMBP_OK && closed == UMBP_OK;
        }
        mem_set_hook(NULL, NULL);
        assert_true(through || status == UMBP_NO_MEMORY);
        assert_int_equal(test_fd_count(), files);
        fx_open(&fx);
        for (uint32_t i = 0; i < 10; i++) {
            assert_true(fx_has(&fx, i));
        }
        fx_check_all(&fx);
        fx_close(&fx);
    }
    assert_int_equal(test_fd_count(), files);
    assert_int_equal(test_thread_count(), threads);
    disk_destroy(disk);
    test_dir_remove(directory);
}

static void the_steady_data_path_allocates_nothing(void **state)
{
    (void)state;
    struct disk *disk;
    char *directory = test_dir_create();
    assert_ok(disk_auto_create("auto", &disk));
    struct fx fx;
    fx_init(&fx, disk, directory);
    options_small(&fx);
    fx_open(&fx);
    allocations_left = UINT32_MAX;
    allocations_seen = 0;
    mem_set_hook(allow_some, NULL);
    for (uint32_t i = 0; i < 300; i++) {
        enum umbp_status status = fx_put(&fx, i % 40, 1000 + i * 60);
        while (status == UMBP_NO_SPACE) {
            assert_ok(fx_reclaim(&fx));
            status = fx_put(&fx, i % 40, 1000 + i * 60);
        }
        assert_ok(status);
        assert_ok(fx_get(&fx, i % 40));
        if (i % 7 == 0) {
            assert_ok(fx_remove(&fx, i % 40));
        }
    }
    mem_set_hook(NULL, NULL);
    assert_int_equal(allocations_seen, 0);
    fx_close(&fx);
    disk_destroy(disk);
    test_dir_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_at_every_write_costs_only_what_was_not_reported),
        cmocka_unit_test(an_error_at_every_sync_is_reported),
        cmocka_unit_test(an_error_at_every_read_fails_that_get_or_costs_what_it_hit),
        cmocka_unit_test(an_error_at_every_call_of_an_open_leaks_nothing),
        cmocka_unit_test(a_full_disk_says_no_space_and_takes_more_after_a_release),
        cmocka_unit_test(no_space_in_the_middle_of_a_write_loses_that_group_only),
        cmocka_unit_test(a_segment_that_can_not_be_made_leaves_no_file_open),
        cmocka_unit_test(a_file_system_without_preallocation_serves_too),
        cmocka_unit_test(a_read_that_hangs_times_out_and_the_next_one_works),
        cmocka_unit_test(a_write_that_hangs_times_out_and_appends_go_on),
        cmocka_unit_test(a_deadline_that_is_past_fails_at_once),
        cmocka_unit_test(no_memory_at_every_allocation_of_a_session_leaks_and_breaks_nothing),
        cmocka_unit_test(the_steady_data_path_allocates_nothing),
        cmocka_unit_test(when_every_slot_hangs_callers_time_out_until_one_returns),
    };
    return cmocka_run_group_tests(tests, fx_quiet, NULL);
}
