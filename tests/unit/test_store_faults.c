/* SPDX-License-Identifier: Apache-2.0 */
/* A disk that fails, fills up or hangs: memory serves on, calls end in time, nothing wedges. */
#include "store_rig.h"

#include <pthread.h>
#include <stdatomic.h>

/* ---------------------------------------------------------------------------------- errors -- */

static void check_all(struct store *store, uint64_t count, uint64_t bytes)
{
    struct named named;
    for (uint64_t i = 0; i < count; i++) {
        assert_ok(get_value(store, name_key(&named, "k", i), bytes, i));
    }
}

struct wanted {
    struct store *store;
    uint64_t count;
    uint64_t bytes;
};

static bool are_all_served(void *context)
{
    const struct wanted *wanted = context;
    struct named named;
    for (uint64_t i = 0; i < wanted->count; i++) {
        if (get_value(wanted->store, name_key(&named, "k", i), wanted->bytes, i) != UMBP_OK) {
            return false;
        }
    }
    return true;
}

/* For stores whose calls have little time. */
static void check_all_in_the_end(struct store *store, uint64_t count, uint64_t bytes)
{
    struct wanted wanted = {store, count, bytes};
    assert_true(test_wait_until(are_all_served, &wanted, WAIT_MS));
}

static void put_all(struct store *store, uint64_t from, uint64_t to, uint64_t bytes)
{
    struct named named;
    for (uint64_t i = from; i < to; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), bytes, i, 0));
    }
}

/* Whichever call fails, however often: memory serves, and when the disk works again all is written.
 */
static void whichever_call_of_the_disk_fails_nothing_wedges(void **state)
{
    static const enum disk_call calls[] = {
        DISK_CALL_WRITE, DISK_CALL_SYNC, DISK_CALL_READ,   DISK_CALL_CREATE, DISK_CALL_ALLOCATE,
        DISK_CALL_OPEN,  DISK_CALL_SIZE, DISK_CALL_UNLINK, DISK_CALL_CHANGE, DISK_CALL_ANY};
    static const uint64_t times[] = {1, 3, 50};
    (void)state;
    for (size_t c = 0; c < sizeof(calls) / sizeof(calls[0]); c++) {
        for (size_t t = 0; t < 3; t++) {
            for (uint64_t first = 1; first < 12; first += test_is_slow() ? 5 : 2) {
                struct rig rig = rig_make();
                const struct disk_fault fail = {
                    .call = calls[c], .first = first, .times = times[t]};
                rig_open(&rig);
                put_all(rig.store, 0, 20, 20000);
                assert_true(disk_fault_add(rig.fault, &fail));
                put_all(rig.store, 20, 60, 20000);
                enum umbp_status status = store_flush(rig.store, soon());
                assert_true(status == UMBP_OK || status == UMBP_IO);
                check_all(rig.store, 60, 20000);
                disk_fault_clear(rig.fault);
                assert_ok(store_flush(rig.store, soon()));
                assert_int_equal(stat_of(rig.store, "copies.dirty"), 0);
                empty_memory(rig.store);
                check_all(rig.store, 60, 20000);
                rig_kill(&rig);
                rig_open(&rig);
                check_all(rig.store, 60, 20000);
                rig_finish(&rig);
            }
        }
    }
}

static void a_failing_read_is_an_error_of_its_own_and_costs_no_other_value(void **state)
{
    struct rig rig = rig_make();
    const struct disk_fault fail = {.call = DISK_CALL_READ, .first = 1, .times = 1u << 30};
    (void)state;
    rig_open(&rig);
    put_all(rig.store, 0, 20, 20000);
    assert_ok(store_flush(rig.store, soon()));
    empty_memory(rig.store);
    assert_true(disk_fault_add(rig.fault, &fail));
    assert_status(get_value(rig.store, text_key("k7"), 20000, 7), UMBP_IO);
    for (unsigned i = 0; i < 50; i++) { /* more than there are I/O contexts */
        struct named named;
        enum umbp_status status = get_value(rig.store, name_key(&named, "k", i % 5), 20000, i % 5);
        assert_true(status == UMBP_IO || status == UMBP_NOT_FOUND);
    }
    disk_fault_clear(rig.fault);
    for (uint64_t i = 10; i < 20; i++) { /* those that nobody asked for meanwhile */
        struct named named;
        assert_ok(get_value(rig.store, name_key(&named, "k", i), 20000, i));
    }
    put_all(rig.store, 0, 5, 20000);
    rig_finish(&rig);
}

static void a_flipped_bit_is_counted_and_dropped_and_never_served(void **state)
{
    struct rig rig = rig_make();
    const struct disk_fault flip = {
        .call = DISK_CALL_READ, .first = 1, .times = 1u << 30, .action = DISK_FAULT_FLIP};
    (void)state;
    rig_open(&rig);
    put_all(rig.store, 0, 20, 20000);
    assert_ok(store_flush(rig.store, soon()));
    empty_memory(rig.store);
    assert_true(disk_fault_add(rig.fault, &flip));
    assert_status(get_value(rig.store, text_key("k3"), 20000, 3), UMBP_CORRUPT);
    assert_status(get_value(rig.store, text_key("k3"), 20000, 3), UMBP_NOT_FOUND);
    assert_int_equal(stat_of(rig.store, "corrupt"), 1);
    disk_fault_clear(rig.fault);
    assert_ok(put_value(rig.store, text_key("k3"), 20000, 3, 0)); /* computed again */
    check_all(rig.store, 20, 20000);
    rig_finish(&rig);
}

static void memory_with_checksums_notices_a_byte_that_changed(void **state)
{
    struct store_options options = small_options(MIB);
    struct store_pin pin;
    (void)state;
    options.dram_checksum = true;
    struct store *store = make_store(&options);
    assert_ok(put_value(store, text_key("good"), 100000, 1, 0));
    assert_ok(put_value(store, text_key("bad"), 100000, 2, 0));
    assert_ok(store_pin(store, text_key("bad"), 0, true, &pin));
    struct dram_piece piece = store_piece_at(store, &pin.block, 77777, NULL);
    *(unsigned char *)piece.data ^= 1;
    store_unpin(store, &pin);
    assert_ok(get_value(store, text_key("good"), 100000, 1));
    assert_status(get_value(store, text_key("bad"), 100000, 2), UMBP_CORRUPT);
    assert_status(get_value(store, text_key("bad"), 100000, 2), UMBP_NOT_FOUND);
    assert_int_equal(stat_of(store, "corrupt"), 1);
    finish_store(store);
}

static void a_full_file_system_is_a_clear_error_and_memory_serves_on(void **state)
{
    struct rig rig = rig_make();
    (void)state;
    rig_open(&rig);
    disk_memory_set_capacity(rig.memory, 512 * KIB);
    put_all(rig.store, 0, 60, 20000);
    enum umbp_status status = store_flush(rig.store, soon());
    assert_true(status == UMBP_NO_SPACE || status == UMBP_OK);
    check_all(rig.store, 60, 20000);
    disk_memory_set_capacity(rig.memory, GIB);
    assert_ok(store_flush(rig.store, soon()));
    check_all(rig.store, 60, 20000);
    rig_finish(&rig);
}

static void a_disk_that_fails_for_good_leaves_memory_to_serve(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    const struct disk_fault dead = {.call = DISK_CALL_ANY, .first = 1, .times = 1u << 30};
    (void)state;
    rig.options.dram_high_watermark = 0.9;
    rig.options.dram_low_watermark = 0.8;
    rig_open(&rig);
    assert_true(disk_fault_add(rig.fault, &dead));
    for (uint64_t i = 0; i < 500; i++) { /* seven times the tier */
        assert_ok(put_value(rig.store, name_key(&named, "k", i), PAGE, i, 0));
        assert_ok(get_value(rig.store, name_key(&named, "k", i), PAGE, i));
    }
    assert_int_not_equal(store_flush(rig.store, soon()), UMBP_OK);
    assert_true(stat_of(rig.store, "copies.drops.io") > 0);
    /* And when it works again, it is used again. */
    disk_fault_clear(rig.fault);
    assert_ok(store_flush(rig.store, soon()));
    assert_true(in_tier(rig.store, text_key("k499"), STORE_TIER_SSD));
    rig_finish(&rig);
}

/* ----------------------------------------------------------------------------------- hangs -- */

static const struct disk_fault hang_writes = {
    .call = DISK_CALL_WRITE, .first = 1, .times = 1u << 30, .action = DISK_FAULT_NEVER};

static void let_go(struct rig *rig)
{
    disk_fault_clear(rig->fault);
    disk_fault_release(rig->fault);
}

static void a_hanging_disk_delays_no_put_and_no_get_of_memory(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    (void)state;
    rig_open(&rig);
    assert_true(disk_fault_add(rig.fault, &hang_writes));
    for (uint64_t i = 0; i < 1000; i++) { /* if each waited for the disk, we were here for hours */
        assert_ok(put_value(rig.store, name_key(&named, "k", i), PAGE, i, 0));
        assert_ok(get_value(rig.store, name_key(&named, "k", i), PAGE, i));
    }
    let_go(&rig);
    rig_finish(&rig);
}

static void a_flush_on_a_hanging_disk_ends_with_its_deadline(void **state)
{
    struct rig rig = rig_make();
    (void)state;
    rig_open(&rig);
    assert_true(disk_fault_add(rig.fault, &hang_writes));
    put_all(rig.store, 0, 10, 20000);
    assert_status(store_flush(rig.store, clock_deadline_ns(clock_monotonic(), 100)), UMBP_TIMEOUT);
    let_go(&rig);
    assert_ok(store_flush(rig.store, soon()));
    rig_finish(&rig);
}

static void a_get_from_a_hanging_disk_ends_with_its_deadline(void **state)
{
    struct rig rig = rig_make();
    const struct disk_fault hang = {
        .call = DISK_CALL_READ, .first = 1, .times = 1u << 30, .action = DISK_FAULT_NEVER};
    (void)state;
    rig.options.op_timeout_ms = 100;
    rig_open(&rig);
    put_all(rig.store, 0, 10, 20000);
    assert_ok(store_flush(rig.store, soon()));
    empty_memory(rig.store);
    assert_true(disk_fault_add(rig.fault, &hang));
    for (unsigned i = 0; i < 5; i++) { /* also when all contexts are lost to the device */
        enum umbp_status status = get_value(rig.store, text_key("k1"), 20000, 1);
        assert_true(status == UMBP_TIMEOUT || status == UMBP_IO);
    }
    let_go(&rig);
    check_all_in_the_end(rig.store, 10, 20000);
    rig_finish(&rig);
}

struct closer {
    struct store *store;
    enum umbp_status status;
    _Atomic bool done;
};

static void *close_store(void *context)
{
    struct closer *closer = context;
    closer->status = store_close(closer->store, clock_deadline_ns(clock_monotonic(), 200));
    atomic_store(&closer->done, true);
    return NULL;
}

static bool closer_is_done(void *context) { return atomic_load(&((struct closer *)context)->done); }

static void a_close_on_a_hanging_disk_ends_in_time_and_says_so(void **state)
{
    struct rig rig = rig_make();
    struct closer closer;
    pthread_t thread;
    (void)state;
    rig.options.op_timeout_ms = 600000; /* what hangs has no end of its own */
    rig.options.ssd.io_timeout_ms = 600000;
    unsigned threads_before = test_thread_count();
    rig_open(&rig);
    assert_true(disk_fault_add(rig.fault, &hang_writes));
    put_all(rig.store, 0, 10, 20000);
    closer = (struct closer){.store = rig.store};
    assert_int_equal(pthread_create(&thread, NULL, close_store, &closer), 0);
    bool in_time = test_wait_until(closer_is_done, &closer, WAIT_MS);
    let_go(&rig);
    pthread_join(thread, NULL);
    assert_true(in_time);
    assert_status(closer.status, UMBP_TIMEOUT);
    /* The threads that were left behind end now that the disk goes on. What they used stays: nobody
     * can tell when the disk has done with it. */
    assert_true(test_threads_settle(threads_before));
    static struct store *volatile left_behind; /* reachable: it is left on purpose */
    left_behind = rig.store;
    store_destroy(left_behind);
}

/* Requests that the disk keeps, and nobody waits for any more: it writes from the values' memory.
 */
static void what_the_disk_keeps_over_a_close_stays_in_place(void **state)
{
    struct rig rig = rig_make();
    (void)state;
    rig.options.op_timeout_ms = 50;
    rig.options.close_timeout_ms = 50;
    rig_open(&rig);
    put_all(rig.store, 0, 1, 20000); /* makes the segment */
    assert_ok(store_flush(rig.store, soon()));
    assert_true(disk_fault_add(rig.fault, &hang_writes));
    put_all(rig.store, 1, 2, 20000);
    assert_status(store_flush(rig.store, clock_deadline_ns(clock_monotonic(), 50)), UMBP_TIMEOUT);
    static struct store *volatile left_behind; /* reachable: it is left on purpose */
    left_behind = rig.store;
    assert_status(store_close(rig.store, clock_deadline_ns(clock_monotonic(), 1000)), UMBP_TIMEOUT);
    store_destroy(left_behind);
    rig.store = NULL;
    let_go(&rig); /* the writes go on */
    /* Nobody else may write there meanwhile. */
    struct store *second = NULL;
    assert_status(store_create(&rig.options, &second, NULL, 0), UMBP_LOCKED);
}

static bool was_left_behind;

static void on_log(void *context, enum umbp_log_level level, const char *line)
{
    (void)context;
    (void)level;
    was_left_behind |= strstr(line, "left_behind") != NULL;
}

static bool nothing_waits(void *context) { return stat_of(context, "copies.waiting") == 0; }

/* Whether a close that has no time for it all left something behind. */
static bool leaves_something_behind(void)
{
    struct rig rig = rig_make();
    const struct disk_fault slow = {.call = DISK_CALL_WRITE,
                                    .first = 1,
                                    .times = 1u << 30,
                                    .action = DISK_FAULT_DELAY,
                                    .delay_ns = 40 * NS_PER_MS};
    static struct store *volatile left_behind; /* reachable: it may be left */
    rig.options.copy_workers = 1;
    rig_open(&rig);
    assert_true(disk_fault_add(rig.fault, &slow));
    put_all(rig.store, 0, 200, 16000);
    assert_true(test_wait_until(nothing_waits, rig.store, WAIT_MS)); /* a copier has them all */
    was_left_behind = false;
    umbp_log_set(UMBP_LOG_ERROR, on_log, NULL);
    left_behind = rig.store;
    (void)store_close(left_behind, clock_deadline_ns(clock_monotonic(), 1));
    store_destroy(left_behind);
    rig.store = NULL;
    umbp_log_set(UMBP_LOG_WARN, NULL, NULL);
    disk_fault_clear(rig.fault);
    if (was_left_behind) {
        return true;
    }
    rig_open(&rig); /* and the directory is free, and good */
    rig_finish(&rig);
    return false;
}

/* Slow is not dead: values may stay unwritten, but no memory stays. (Threads have a fifth of a
 * second to notice, which a busy machine may not give them each time.) */
static void a_close_on_a_slow_disk_leaves_nothing_behind(void **state)
{
    (void)state;
    unsigned tries = 1;
    while (leaves_something_behind() && tries < 20) {
        tries++;
    }
    assert_in_range(tries, 1, 19);
}

/* --------------------------------------------------- a file system that does not answer -- */

static void stall_next(struct rig *rig, enum disk_call call)
{
    const struct disk_fault stall = {.call = call, .first = 1, .action = DISK_FAULT_STALL};
    assert_true(disk_fault_add(rig->fault, &stall));
}

static bool opens_again(void *context)
{
    struct rig *rig = context;
    rig->options.ssd.io_timeout_ms = 0;
    return store_create(&rig->options, &rig->store, NULL, 0) == UMBP_OK;
}

/* The renaming may still come; until it has, nobody else may have the directory. */
static void a_close_ends_in_time_where_the_file_system_hangs(void **state)
{
    struct rig rig = rig_make();
    struct store *second = NULL;
    (void)state;
    rig.options.ssd.io_timeout_ms = 3600000;
    unsigned threads_before = test_thread_count();
    rig_open(&rig);
    put_all(rig.store, 0, 10, 20000);
    assert_ok(store_flush(rig.store, soon()));
    stall_next(&rig, DISK_CALL_RENAME);
    assert_status(store_close(rig.store, clock_deadline_ns(clock_monotonic(), 100)), UMBP_TIMEOUT);
    store_destroy(rig.store);
    rig.store = NULL;
    assert_status(store_create(&rig.options, &second, NULL, 0), UMBP_LOCKED);
    let_go(&rig);
    assert_true(test_wait_until(opens_again, &rig, WAIT_MS));
    check_all(rig.store, 10, 20000);
    rig_close(&rig);
    assert_true(test_threads_settle(threads_before));
    rig_finish(&rig);
}

static void a_start_where_the_file_system_hangs_is_refused_in_time(void **state)
{
    static const enum disk_call calls[] = {DISK_CALL_MAKE_DIRECTORY, DISK_CALL_CREATE,
                                           DISK_CALL_LOCK, DISK_CALL_LIST, DISK_CALL_RENAME};
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
        struct rig rig = rig_make();
        struct store *store = NULL;
        char error[256] = "";
        unsigned threads_before = test_thread_count();
        rig.options.ssd.io_timeout_ms = 50;
        stall_next(&rig, calls[i]);
        assert_status(store_create(&rig.options, &store, error, sizeof(error)), UMBP_TIMEOUT);
        assert_non_null(strstr(error, "does not answer"));
        let_go(&rig);
        assert_true(test_wait_until(opens_again, &rig, WAIT_MS));
        rig_close(&rig);
        assert_true(test_threads_settle(threads_before));
        rig_finish(&rig);
    }
}

/* A new segment can't be made. The values stay in memory, and go to the disk once it answers. */
static void a_flush_where_the_file_system_hangs_ends_with_its_deadline(void **state)
{
    static const enum disk_call calls[] = {DISK_CALL_CREATE, DISK_CALL_ALLOCATE, DISK_CALL_SYNC};
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
        struct rig rig = rig_make();
        rig.options.copy_mode = STORE_COPY_ON_EVICT; /* the flush makes the segment itself */
        rig.options.ssd.io_timeout_ms = 3600000;
        rig_open(&rig);
        put_all(rig.store, 0, 10, 20000);
        stall_next(&rig, calls[i]);
        assert_status(store_flush(rig.store, clock_deadline_ns(clock_monotonic(), 100)),
                      UMBP_TIMEOUT);
        assert_status(store_flush(rig.store, clock_deadline_ns(clock_monotonic(), 100)),
                      UMBP_TIMEOUT);
        check_all(rig.store, 10, 20000);
        let_go(&rig);
        assert_ok(store_flush(rig.store, soon()));
        rig_kill(&rig);
        rig_open(&rig);
        check_all(rig.store, 10, 20000);
        rig_finish(&rig);
    }
}

static void a_get_where_the_file_system_hangs_ends_with_its_deadline(void **state)
{
    struct rig rig = rig_make();
    (void)state;
    rig_open(&rig);
    put_all(rig.store, 0, 10, 20000);
    rig_close(&rig);
    rig.options.op_timeout_ms = 100;
    rig.options.ssd.io_timeout_ms = 3600000;
    rig_open(&rig);
    stall_next(&rig, DISK_CALL_OPEN); /* of the segment, by who reads it first */
    assert_status(get_value(rig.store, text_key("k1"), 20000, 1), UMBP_TIMEOUT);
    put_all(rig.store, 10, 20, 20000);
    struct named named;
    for (uint64_t i = 10; i < 20; i++) {
        assert_ok(get_value(rig.store, name_key(&named, "k", i), 20000, i));
    }
    let_go(&rig);
    check_all_in_the_end(rig.store, 20, 20000);
    rig_finish(&rig);
}

static bool clears(void *context)
{
    return store_clear(((struct rig *)context)->store, soon()) == UMBP_OK;
}

static void a_clear_where_the_file_system_hangs_ends_with_its_deadline(void **state)
{
    static const enum disk_call calls[] = {DISK_CALL_RENAME, DISK_CALL_UNLINK, DISK_CALL_CLOSE};
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
        struct rig rig = rig_make();
        rig.options.ssd.io_timeout_ms = 3600000;
        rig_open(&rig);
        put_all(rig.store, 0, 200, 20000); /* several segments */
        assert_ok(store_flush(rig.store, soon()));
        stall_next(&rig, calls[i]);
        enum umbp_status status = store_clear(rig.store, clock_deadline_ns(clock_monotonic(), 100));
        assert_true(status == UMBP_TIMEOUT || calls[i] != DISK_CALL_RENAME);
        assert_int_equal(stat_of(rig.store, "keys"), 0);
        let_go(&rig);
        assert_true(test_wait_until(clears, &rig, WAIT_MS));
        put_all(rig.store, 0, 10, 30000);
        rig_close(&rig);
        rig_open(&rig);
        assert_int_equal(stat_of(rig.store, "keys"), 10);
        check_all(rig.store, 10, 30000);
        rig_finish(&rig);
    }
}

static void a_clear_on_a_hanging_disk_ends_with_its_deadline_and_memory_is_empty(void **state)
{
    struct rig rig = rig_make();
    (void)state;
    rig_open(&rig);
    assert_true(disk_fault_add(rig.fault, &hang_writes));
    put_all(rig.store, 0, 10, 20000);
    enum umbp_status status = store_clear(rig.store, clock_deadline_ns(clock_monotonic(), 100));
    assert_true(status == UMBP_OK || status == UMBP_TIMEOUT);
    assert_int_equal(stat_of(rig.store, "keys"), 0);
    let_go(&rig);
    rig_finish(&rig);
}

/* --------------------------------------------------------------------------------- opening -- */

static void two_leaders_on_one_directory_are_refused(void **state)
{
    struct rig rig = rig_make();
    struct store *second = NULL;
    char error[256] = "";
    (void)state;
    rig.options.role = STORE_LEADER;
    rig_open(&rig);
    assert_status(store_create(&rig.options, &second, error, sizeof(error)), UMBP_LOCKED);
    assert_true(error[0] != '\0');
    assert_null(second);
    rig.options.role = STORE_STANDALONE;
    assert_status(store_create(&rig.options, &second, error, sizeof(error)), UMBP_LOCKED);
    put_all(rig.store, 0, 10, 20000);
    assert_ok(store_flush(rig.store, soon()));
    rig_close(&rig);
    rig_open(&rig); /* the lock went with its owner */
    check_all(rig.store, 10, 20000);
    rig_finish(&rig);
}

/* Every call of a start fails in turn: a status, a sentence, and nothing left behind. */
static void a_start_whose_nth_disk_call_fails_is_refused_or_serves_all(void **state)
{
    struct rig rig = rig_make();
    bool struck = true;
    (void)state;
    rig_open(&rig);
    put_all(rig.store, 0, 100, 20000);
    assert_ok(store_flush(rig.store, soon()));
    rig_kill(&rig);
    for (uint64_t nth = 1; struck; nth++) {
        struct test_holdings {
            unsigned threads;
            unsigned fds;
        } before = {test_thread_count(), test_fd_count()};
        const struct disk_fault fail = {.call = DISK_CALL_ANY, .first = nth};
        char error[256] = "";
        struct store *store = NULL;
        uint64_t calls = disk_fault_calls(rig.fault, DISK_CALL_ANY);
        assert_true(disk_fault_add(rig.fault, &fail));
        enum umbp_status status = store_create(&rig.options, &store, error, sizeof(error));
        struck = disk_fault_calls(rig.fault, DISK_CALL_ANY) - calls >= nth;
        disk_fault_clear(rig.fault);
        if (status == UMBP_OK) {
            /* What could not be read is a miss at worst. */
            for (uint64_t i = 0; i < 100; i++) {
                struct named named;
                enum umbp_status got = get_value(store, name_key(&named, "k", i), 20000, i);
                assert_true(got == UMBP_OK || (struck && got == UMBP_NOT_FOUND));
            }
            (void)store_close(store, soon());
            store_destroy(store);
        } else {
            assert_true(status == UMBP_IO || status == UMBP_CORRUPT);
            assert_true(error[0] != '\0');
            assert_null(store);
        }
        assert_true(test_threads_settle(before.threads));
        assert_int_equal(test_fd_count(), before.fds);
    }
    rig_open(&rig);
    check_all(rig.store, 100, 20000);
    rig_finish(&rig);
}

int main(void)
{
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whichever_call_of_the_disk_fails_nothing_wedges),
        cmocka_unit_test(a_failing_read_is_an_error_of_its_own_and_costs_no_other_value),
        cmocka_unit_test(a_flipped_bit_is_counted_and_dropped_and_never_served),
        cmocka_unit_test(memory_with_checksums_notices_a_byte_that_changed),
        cmocka_unit_test(a_full_file_system_is_a_clear_error_and_memory_serves_on),
        cmocka_unit_test(a_disk_that_fails_for_good_leaves_memory_to_serve),
        cmocka_unit_test(a_hanging_disk_delays_no_put_and_no_get_of_memory),
        cmocka_unit_test(a_flush_on_a_hanging_disk_ends_with_its_deadline),
        cmocka_unit_test(a_get_from_a_hanging_disk_ends_with_its_deadline),
        cmocka_unit_test(a_clear_on_a_hanging_disk_ends_with_its_deadline_and_memory_is_empty),
        cmocka_unit_test(two_leaders_on_one_directory_are_refused),
        cmocka_unit_test(a_start_whose_nth_disk_call_fails_is_refused_or_serves_all),
        cmocka_unit_test(a_close_on_a_hanging_disk_ends_in_time_and_says_so),
        cmocka_unit_test(what_the_disk_keeps_over_a_close_stays_in_place),
        cmocka_unit_test(a_close_on_a_slow_disk_leaves_nothing_behind),
        cmocka_unit_test(a_close_ends_in_time_where_the_file_system_hangs),
        cmocka_unit_test(a_start_where_the_file_system_hangs_is_refused_in_time),
        cmocka_unit_test(a_flush_where_the_file_system_hangs_ends_with_its_deadline),
        cmocka_unit_test(a_get_where_the_file_system_hangs_ends_with_its_deadline),
        cmocka_unit_test(a_clear_where_the_file_system_hangs_ends_with_its_deadline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
