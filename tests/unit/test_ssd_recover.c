/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Crashes: a session is stopped at each of its changes to the disk in turn, the change itself torn;
 * then the directory is opened again. What was reported must be there, what was not may be, and no
 * byte may be wrong. The same with a power cut, which also loses what was not synced.
 */
#include "ssd_fixture.h"

#define KEYS 24u
#define ATTEMPTS_MAX 512u

/* A change that was not reported as done. */
struct attempt {
    uint32_t number;
    bool is_tombstone;
    uint64_t generation;
    uint64_t bytes;
};

struct crash {
    struct fx fx;
    struct disk *memory;
    struct attempt attempts[ATTEMPTS_MAX];
    uint32_t attempt_count;
    struct test_rng rng;
};

static void options_small(struct fx *fx)
{
    fx->options.bytes = 1u << 20;
    fx->options.segment_bytes = 64u << 10;
    fx->options.io_bytes = 64u << 10;
    fx->options.read_queues = 1;
    fx->options.queue_depth = 4;
}

static void crash_init(struct crash *crash, uint64_t stream)
{
    crash->attempt_count = 0;
    crash->memory = fx_memory_disk();
    test_rng_init(&crash->rng, stream);
    fx_init(&crash->fx, fx_faulty(crash->memory), "d");
    options_small(&crash->fx);
}

static void note_attempt(struct crash *crash, uint32_t number, bool is_tombstone, uint64_t bytes)
{
    assert_true(crash->attempt_count < ATTEMPTS_MAX);
    crash->attempts[crash->attempt_count++] =
        (struct attempt){number, is_tombstone, crash->fx.generation, bytes};
}

static void do_put(struct crash *crash, uint32_t number)
{
    static const uint32_t most[] = {100, 4000, 9000, 40000};
    uint64_t bytes = test_rng_below(&crash->rng, most[test_rng_below(&crash->rng, 4)]);
    enum umbp_status status = fx_put(&crash->fx, number, bytes);
    for (unsigned i = 0; status == UMBP_NO_SPACE && i < 8; i++) {
        crash->fx.generation--; /* the same once more */
        status = fx_reclaim(&crash->fx);
        if (status == UMBP_OK) {
            status = fx_put(&crash->fx, number, bytes);
        } else {
            crash->fx.generation++;
        }
    }
    if (status != UMBP_OK) {
        note_attempt(crash, number, false, bytes);
    }
}

static void do_remove(struct crash *crash, uint32_t number)
{
    if (fx_remove(&crash->fx, number) != UMBP_OK) {
        note_attempt(crash, number, true, 0);
    }
}

/* Puts, overwrites, removals and reclaims over several segments. */
static void session(struct crash *crash)
{
    for (unsigned step = 0; step < 60; step++) {
        uint32_t number = (uint32_t)test_rng_below(&crash->rng, KEYS);
        uint64_t what = test_rng_below(&crash->rng, 10);
        if (what < 7) {
            do_put(crash, number);
        } else if (what < 9) {
            do_remove(crash, number);
        } else {
            enum umbp_status status = fx_reclaim(&crash->fx);
            (void)status; /* the disk may be gone */
        }
    }
}

static bool was_attempted(const struct crash *crash, uint32_t number, const struct fx_slot *found,
                          uint64_t after)
{
    for (uint32_t i = 0; i < crash->attempt_count; i++) {
        const struct attempt *attempt = &crash->attempts[i];
        if (attempt->number == number && attempt->generation > after &&
            (!found->is_there || attempt->is_tombstone == found->is_tombstone) &&
            (found->is_there
                 ? attempt->generation == found->generation && attempt->bytes == found->bytes
                 : attempt->is_tombstone)) {
            return true;
        }
    }
    return false;
}

/* `before` is what was reported; the tier is open on what the crash left. */
static void check_promises(struct crash *crash, const struct fx_slot *before)
{
    for (uint32_t i = 0; i < KEYS; i++) {
        const struct fx_slot *found = &crash->fx.index[i];
        const struct fx_slot *was = &before[i];
        bool had = was->is_there && !was->is_tombstone;
        bool has = fx_has(&crash->fx, i);
        bool same = had == has &&
                    (!had || (was->generation == found->generation && was->bytes == found->bytes));
        if (!same && !was_attempted(crash, i, found, was->is_there ? was->generation : 0)) {
            print_error("key %u: had %d generation %" PRIu64 ", found %d generation %" PRIu64 "\n",
                        i, had, was->generation, has, found->generation);
            fail();
        }
    }
    fx_check_all(&crash->fx);
}

static void print_problem(void *context, const char *line)
{
    (void)context;
    print_message("fsck: %s\n", line);
}

static void check_fsck(struct crash *crash)
{
    struct ssd_check_report report;
    char error[256];
    assert_ok(
        ssd_check("d", crash->fx.disk, NULL, print_problem, NULL, &report, error, sizeof(error)));
    assert_int_equal(report.corrupt_records, 0);
    assert_int_equal(report.corrupt_segments, 0);
    assert_int_equal(report.missing_footers, 0);
    assert_int_equal(report.torn_bytes, 0);
    assert_int_equal(report.records, fx_count(&crash->fx));
}

/* True: the crash came before the session was over. */
static bool crash_at(uint64_t change, uint64_t torn_bytes, bool cuts_power, uint64_t second)
{
    struct crash *crash = calloc(1, sizeof(*crash));
    struct fx_slot before[FX_KEYS];
    assert_non_null(crash);
    crash_init(crash, 11);
    fx_open(&crash->fx);
    const struct disk_fault fault = {
        .call = DISK_CALL_CHANGE, .first = change, .action = DISK_FAULT_CRASH, .bytes = torn_bytes};
    assert_true(disk_fault_add(crash->fx.disk, &fault));
    session(crash);
    memcpy(before, crash->fx.index, sizeof(before));
    enum umbp_status status = ssd_close(crash->fx.tier, fx_soon());
    bool has_crashed = disk_fault_has_crashed(crash->fx.disk);
    assert_true(has_crashed || status == UMBP_OK);
    if (cuts_power) {
        disk_memory_power_cut(crash->memory);
    }
    disk_fault_clear(crash->fx.disk);
    if (second > 0) { /* and again while the log recovers */
        const struct disk_fault again = {.call = DISK_CALL_CHANGE,
                                         .first = second,
                                         .action = DISK_FAULT_CRASH,
                                         .bytes = torn_bytes};
        assert_true(disk_fault_add(crash->fx.disk, &again));
        if (fx_try_open(&crash->fx) == UMBP_OK) {
            status = ssd_close(crash->fx.tier, fx_soon());
            (void)status;
        }
        if (cuts_power) {
            disk_memory_power_cut(crash->memory);
        }
        disk_fault_clear(crash->fx.disk);
    }
    uint64_t generation = crash->fx.generation;
    fx_open(&crash->fx);
    check_promises(crash, before);
    /* What was cut off is not built upon: more work, and a clean restart. */
    crash->fx.generation = u64_max(generation, crash->fx.generation);
    for (uint32_t i = 0; i < 6; i++) {
        do_put(crash, i);
        assert_true(fx_has(&crash->fx, i));
    }
    memcpy(before, crash->fx.index, sizeof(before));
    fx_close(&crash->fx);
    fx_open(&crash->fx);
    assert_int_equal(crash->fx.recovery.scanned_segments, 0);
    crash->attempt_count = 0;
    check_promises(crash, before);
    check_fsck(crash);
    fx_close(&crash->fx);
    disk_destroy(crash->fx.disk);
    free(crash);
    return has_crashed;
}

static void a_kill_at_every_change_loses_nothing_that_was_reported(void **state)
{
    (void)state;
    static const uint64_t torn[] = {0, 512, 4096, 8192, 20480, UINT64_MAX};
    uint64_t step = test_is_slow() ? 7 : 1;
    uint64_t change = 1;
    while (crash_at(change, torn[change % ARRAY_COUNT(torn)], false, 0)) {
        change += step;
    }
    assert_true(change > 100);
}

static void a_power_cut_at_every_change_loses_nothing_that_was_reported(void **state)
{
    (void)state;
    static const uint64_t torn[] = {0, 512, 4096, 8192, 20480, UINT64_MAX};
    uint64_t step = test_is_slow() ? 7 : 1;
    uint64_t change = 1;
    while (crash_at(change, torn[change / 2 % ARRAY_COUNT(torn)], true, 0)) {
        change += step;
    }
    assert_true(change > 100);
}

static void a_crash_while_recovering_from_a_crash_loses_nothing_either(void **state)
{
    (void)state;
    struct test_rng rng;
    test_rng_init(&rng, 12);
    for (unsigned round = 0; round < (test_is_slow() ? 20 : 150); round++) {
        (void)crash_at(1 + test_rng_below(&rng, 200), test_rng_below(&rng, 40000), round % 2 == 0,
                       1 + test_rng_below(&rng, 12));
    }
}

static void relaxed_records_survive_a_kill(void **state)
{
    (void)state;
    struct crash *crash = calloc(1, sizeof(*crash));
    struct fx_slot before[FX_KEYS];
    assert_non_null(crash);
    crash_init(crash, 13);
    crash->fx.options.durability = SSD_RELAXED;
    fx_open(&crash->fx);
    for (uint32_t i = 0; i < KEYS; i++) {
        assert_ok(fx_put(&crash->fx, i, 1000 * i));
    }
    assert_ok(fx_remove(&crash->fx, 3));
    memcpy(before, crash->fx.index, sizeof(before));
    const struct disk_fault fault = {
        .call = DISK_CALL_CHANGE, .first = 1, .action = DISK_FAULT_CRASH};
    assert_true(disk_fault_add(crash->fx.disk, &fault));
    assert_status(ssd_close(crash->fx.tier, fx_soon()), UMBP_IO);
    disk_fault_clear(crash->fx.disk);
    fx_open(&crash->fx);
    assert_int_equal(crash->fx.recovery.scanned_segments, 1);
    assert_int_equal(crash->fx.recovery.lost_records, 0);
    check_promises(crash, before);
    assert_false(fx_has(&crash->fx, 3));
    fx_close(&crash->fx);
    disk_destroy(crash->fx.disk);
    free(crash);
}

static void synced_records_survive_a_power_cut_under_relaxed_too(void **state)
{
    (void)state;
    struct crash *crash = calloc(1, sizeof(*crash));
    struct fx_slot before[FX_KEYS];
    assert_non_null(crash);
    crash_init(crash, 14);
    crash->fx.options.durability = SSD_RELAXED;
    fx_open(&crash->fx);
    for (uint32_t i = 0; i < KEYS; i++) {
        assert_ok(fx_put(&crash->fx, i, 1000 * i));
    }
    assert_ok(ssd_sync(crash->fx.tier, fx_soon()));
    memcpy(before, crash->fx.index, sizeof(before));
    const struct disk_fault fault = {
        .call = DISK_CALL_CHANGE, .first = 1, .action = DISK_FAULT_CRASH};
    assert_true(disk_fault_add(crash->fx.disk, &fault));
    assert_status(ssd_close(crash->fx.tier, fx_soon()), UMBP_IO);
    disk_memory_power_cut(crash->memory);
    disk_fault_clear(crash->fx.disk);
    fx_open(&crash->fx);
    check_promises(crash, before);
    fx_close(&crash->fx);
    disk_destroy(crash->fx.disk);
    free(crash);
}

/* ---------------------------------------------------------------------------- clear ------ */

/* True: the crash came before the clear was over. */
static bool clear_crash_at(uint64_t change, bool cuts_power)
{
    struct crash *crash = calloc(1, sizeof(*crash));
    assert_non_null(crash);
    crash_init(crash, 15);
    fx_open(&crash->fx);
    for (uint32_t i = 0; i < KEYS; i++) {
        assert_ok(fx_put(&crash->fx, i, 9000));
    }
    const struct disk_fault fault = {
        .call = DISK_CALL_CHANGE, .first = change, .action = DISK_FAULT_CRASH, .bytes = 512};
    assert_true(disk_fault_add(crash->fx.disk, &fault));
    uint64_t mark = ++crash->fx.generation;
    enum umbp_status cleared = ssd_clear(crash->fx.tier, mark, fx_soon());
    bool has_crashed = disk_fault_has_crashed(crash->fx.disk);
    if (!has_crashed) {
        assert_ok(cleared);
        for (uint32_t i = 100; i < 104 && !has_crashed; i++) {
            enum umbp_status put = fx_put(&crash->fx, i, 5000);
            has_crashed = disk_fault_has_crashed(crash->fx.disk);
            assert_true(put == UMBP_OK || has_crashed);
        }
    }
    enum umbp_status status = ssd_close(crash->fx.tier, fx_soon());
    (void)status;
    if (cuts_power) {
        disk_memory_power_cut(crash->memory);
    }
    disk_fault_clear(crash->fx.disk);
    fx_open(&crash->fx);
    uint32_t left = 0;
    for (uint32_t i = 0; i < KEYS; i++) {
        left += fx_has(&crash->fx, i);
    }
    assert_true(left == 0 || (left == KEYS && cleared != UMBP_OK));
    assert_true(has_crashed || fx_count(&crash->fx) == 4);
    assert_true(left > 0 || crash->fx.recovery.max_generation >= mark);
    fx_check_all(&crash->fx);
    fx_close(&crash->fx);
    disk_destroy(crash->fx.disk);
    free(crash);
    return has_crashed;
}

static void a_clear_is_all_or_nothing_at_every_crash(void **state)
{
    (void)state;
    for (unsigned round = 0; round < (test_is_slow() ? 2 : 8); round++) {
        uint64_t change = 1;
        while (clear_crash_at(change, round > 0)) {
            change++;
        }
        assert_true(change > 6);
    }
}

static void segment_ids_are_never_used_twice(void **state)
{
    (void)state;
    struct crash *crash = calloc(1, sizeof(*crash));
    uint32_t newest = 0;
    assert_non_null(crash);
    crash_init(crash, 16);
    for (unsigned round = 0; round < 24; round++) {
        uint32_t segment;
        fx_open(&crash->fx);
        assert_ok(fx_put(&crash->fx, round, 1000));
        uint32_t id = crash->fx.index[round].location.segment;
        assert_true(id > newest);
        newest = id;
        if (round % 3 == 0) {
            assert_ok(ssd_clear(crash->fx.tier, ++crash->fx.generation, fx_soon()));
        } else {
            assert_ok(ssd_victim(crash->fx.tier, true, &segment, fx_soon()));
            ssd_segment_release(crash->fx.tier, segment);
        }
        if (round % 2 == 0) {
            fx_close(&crash->fx);
            continue;
        }
        const struct disk_fault fault = {
            .call = DISK_CALL_CHANGE, .first = 1, .action = DISK_FAULT_CRASH};
        assert_true(disk_fault_add(crash->fx.disk, &fault));
        assert_ok(ssd_close(crash->fx.tier, fx_soon())); /* but could not keep its spare ids */
        disk_fault_clear(crash->fx.disk);
    }
    disk_destroy(crash->fx.disk);
    free(crash);
}

/* The device wrote the record and said that it had not; then the machine died before the footer. */
static void a_record_whose_write_failed_does_not_come_back(void **state)
{
    (void)state;
    struct crash *crash = calloc(1, sizeof(*crash));
    assert_non_null(crash);
    crash_init(crash, 17);
    fx_open(&crash->fx);
    assert_ok(fx_put(&crash->fx, 1, 5000));
    const struct disk_fault lies = {
        .call = DISK_CALL_WRITE, .first = 1, .action = DISK_FAULT_SHORT, .bytes = UINT64_MAX};
    const struct disk_fault dies = {
        .call = DISK_CALL_WRITE, .first = 3, .action = DISK_FAULT_CRASH};
    assert_true(disk_fault_add(crash->fx.disk, &lies));
    assert_true(disk_fault_add(crash->fx.disk, &dies));
    assert_status(fx_put(&crash->fx, 2, 5000), UMBP_IO);
    assert_true(disk_fault_has_crashed(crash->fx.disk)); /* record, void, footer */
    enum umbp_status status = ssd_close(crash->fx.tier, fx_soon());
    (void)status;
    disk_fault_clear(crash->fx.disk);
    fx_open(&crash->fx);
    assert_int_equal(crash->fx.recovery.scanned_segments, 1);
    assert_int_equal(fx_count(&crash->fx), 1);
    assert_true(fx_has(&crash->fx, 1));
    fx_close(&crash->fx);
    disk_destroy(crash->fx.disk);
    free(crash);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kill_at_every_change_loses_nothing_that_was_reported),
        cmocka_unit_test(a_power_cut_at_every_change_loses_nothing_that_was_reported),
        cmocka_unit_test(a_crash_while_recovering_from_a_crash_loses_nothing_either),
        cmocka_unit_test(relaxed_records_survive_a_kill),
        cmocka_unit_test(synced_records_survive_a_power_cut_under_relaxed_too),
        cmocka_unit_test(a_clear_is_all_or_nothing_at_every_crash),
        cmocka_unit_test(segment_ids_are_never_used_twice),
        cmocka_unit_test(a_record_whose_write_failed_does_not_come_back),
    };
    return cmocka_run_group_tests(tests, fx_quiet, NULL);
}
