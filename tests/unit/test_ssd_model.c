/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log against a model, at random: appends in batches, removals, reads, reclaims, drops, clears,
 * restarts and kills, on a disk that now and then fails. UMBP_TEST_SEED changes the course.
 */
#include "ssd_fixture.h"

#define KEYS 64u
#define BATCH_MAX 24u

static void random_batch(struct fx *fx, struct test_rng *rng)
{
    static uint8_t keys[BATCH_MAX][256];
    struct iovec iov[BATCH_MAX][3];
    struct ssd_append appends[BATCH_MAX];
    uint32_t numbers[BATCH_MAX];
    uint8_t *values[BATCH_MAX];
    uint32_t count = 1 + (uint32_t)test_rng_below(rng, BATCH_MAX);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t generation = ++fx->generation;
        bool removes = test_rng_below(rng, 5) == 0;
        uint64_t bytes = removes ? 0 : test_rng_below(rng, test_rng_below(rng, 4) ? 9000 : 70000);
        numbers[i] = (uint32_t)test_rng_below(rng, KEYS);
        fx_key(numbers[i], keys[i], fx_key_bytes(numbers[i]));
        values[i] = aligned_alloc(4096, (bytes + 8192) / 4096 * 4096);
        uint8_t *value = values[i] + test_rng_below(rng, 2) * 11;
        test_fill(value, bytes, generation);
        uint64_t cut = bytes ? test_rng_below(rng, bytes) : 0;
        cut = test_rng_below(rng, 2) ? align_down(cut, SSD_BLOCK_BYTES) : cut;
        iov[i][0] = (struct iovec){value, cut};
        iov[i][1] = (struct iovec){value + cut, 0};
        iov[i][2] = (struct iovec){value + cut, bytes - cut};
        appends[i] = (struct ssd_append){
            .key = {keys[i], fx_key_bytes(numbers[i])},
            .generation = generation,
            .value_bytes = bytes,
            .is_tombstone = removes,
            .iov = iov[i],
            .iov_count = 3,
        };
    }
    enum umbp_status status = ssd_append(fx->tier, appends, count, false, fx_soon());
    (void)status;
    for (uint32_t i = 0; i < count; i++) {
        struct fx_slot *slot = &fx->index[numbers[i]];
        free(values[i]);
        if (appends[i].status != UMBP_OK) {
            continue;
        }
        if (fx_has(fx, numbers[i])) {
            ssd_mark_dead(fx->tier, slot->location, slot->bytes, fx_key_bytes(numbers[i]));
        }
        *slot = (struct fx_slot){true, appends[i].is_tombstone, appends[i].generation,
                                 appends[i].value_bytes, appends[i].location};
    }
}

static void read_some(struct fx *fx, struct test_rng *rng)
{
    for (unsigned i = 0; i < 4; i++) {
        uint32_t number = (uint32_t)test_rng_below(rng, KEYS);
        if (fx_has(fx, number)) {
            enum umbp_status status = fx_get(fx, number);
            assert_true(status == UMBP_OK || status == UMBP_IO || status == UMBP_NO_SPACE);
            ssd_touch(fx->tier, fx->index[number].location, fx->generation);
        }
    }
}

/* Give a segment up without moving its values. What lived there gets a tombstone, since an older
 * version of it may lie elsewhere; tombstones that are still needed move. */
static void drop_one(struct fx *fx)
{
    uint32_t segment;
    if (ssd_victim(fx->tier, true, &segment, fx_soon()) != UMBP_OK) {
        return;
    }
    struct fx_list *list = calloc(1, sizeof(*list));
    struct ssd_visitor visitor = {.record = fx_collect, .context = list};
    enum umbp_status status = ssd_segment_records(fx->tier, segment, &visitor, fx_soon());
    for (uint32_t i = 0; i < list->count && status == UMBP_OK; i++) {
        const struct fx_found *found = &list->found[i];
        const struct fx_slot *slot = &fx->index[found->number];
        if (!slot->is_there || slot->generation != found->generation) {
            continue;
        }
        if (!found->is_tombstone && slot->location.segment == segment) {
            status = fx_remove(fx, found->number);
        } else if (found->is_tombstone && ssd_has_older(fx->tier, segment)) {
            status = fx_move(fx, found);
        }
    }
    if (status == UMBP_OK) {
        ssd_segment_release(fx->tier, segment);
    } else {
        ssd_victim_return(fx->tier, segment);
    }
    free(list);
}

static void restart(struct fx *fx, bool kills)
{
    struct fx_slot before[KEYS];
    uint64_t generation = fx->generation;
    memcpy(before, fx->index, sizeof(before));
    if (kills) {
        const struct disk_fault fault = {
            .call = DISK_CALL_CHANGE, .first = 1, .action = DISK_FAULT_CRASH};
        disk_fault_clear(fx->disk);
        assert_true(disk_fault_add(fx->disk, &fault));
    }
    enum umbp_status status = ssd_close(fx->tier, fx_soon());
    assert_true(status == UMBP_OK || kills || status == UMBP_IO || status == UMBP_NO_SPACE);
    disk_fault_clear(fx->disk);
    fx_open(fx);
    fx->generation = u64_max(generation, fx->generation);
    for (uint32_t i = 0; i < KEYS; i++) {
        bool had = before[i].is_there && !before[i].is_tombstone;
        bool has = fx_has(fx, i);
        if (had != has || (had && before[i].generation != fx->index[i].generation)) {
            print_error("key %u: had %d %" PRIu64 ", has %d %" PRIu64 "\n", i, had,
                        before[i].generation, has, fx->index[i].generation);
            fail();
        }
    }
    fx_check_all(fx);
}

static void add_random_fault(struct fx *fx, struct test_rng *rng)
{
    static const enum disk_call calls[] = {DISK_CALL_WRITE,  DISK_CALL_READ,     DISK_CALL_ALLOCATE,
                                           DISK_CALL_CREATE, DISK_CALL_TRUNCATE, DISK_CALL_RENAME};
    const struct disk_fault fault = {
        .call = calls[test_rng_below(rng, ARRAY_COUNT(calls))],
        .first = 1 + test_rng_below(rng, 5),
        .status = test_rng_below(rng, 2) ? UMBP_IO : UMBP_NO_SPACE,
    };
    disk_fault_clear(fx->disk);
    assert_true(disk_fault_add(fx->disk, &fault));
}

static void course(uint64_t stream, bool fails, enum ssd_durability durability)
{
    struct fx fx;
    struct test_rng rng;
    test_rng_init(&rng, stream);
    fx_init(&fx, fx_faulty(fx_memory_disk()), "d");
    fx.options.bytes = 4u << 20;
    fx.options.segment_bytes = 192u << 10;
    fx.options.io_bytes = 64u << 10;
    fx.options.queue_depth = 4;
    fx.options.durability = durability;
    fx_open(&fx);
    for (unsigned step = 0; step < (test_is_slow() ? 150 : 600); step++) {
        uint64_t what = test_rng_below(&rng, 100);
        if (what < 50) {
            random_batch(&fx, &rng);
        } else if (what < 75) {
            read_some(&fx, &rng);
        } else if (what < 87) {
            enum umbp_status status = fx_reclaim(&fx);
            assert_true(status != UMBP_CORRUPT);
        } else if (what < 92) {
            drop_one(&fx);
        } else if (what < 94 && !fails) {
            assert_ok(ssd_clear(fx.tier, ++fx.generation, fx_soon()));
            memset(fx.index, 0, sizeof(fx.index));
        } else if (what < 97) {
            restart(&fx, test_rng_below(&rng, 2) == 0);
        } else if (fails) {
            add_random_fault(&fx, &rng);
        }
    }
    disk_fault_clear(fx.disk);
    restart(&fx, false);
    fx_close(&fx);
    struct ssd_check_report report;
    assert_ok(ssd_check("d", fx.disk, NULL, NULL, NULL, &report, NULL, 0));
    assert_int_equal(report.records, fx_count(&fx));
    assert_int_equal(report.corrupt_records + report.corrupt_segments, 0);
    disk_destroy(fx.disk);
}

static void a_random_course_agrees_with_the_model(void **state)
{
    (void)state;
    for (uint64_t stream = 0; stream < (test_is_slow() ? 2 : 8); stream++) {
        course(500 + stream, false, stream % 2 ? SSD_STRICT : SSD_RELAXED);
    }
}

static void a_random_course_on_a_failing_disk_agrees_with_the_model(void **state)
{
    (void)state;
    for (uint64_t stream = 0; stream < (test_is_slow() ? 2 : 8); stream++) {
        course(600 + stream, true, stream % 2 ? SSD_STRICT : SSD_RELAXED);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_random_course_agrees_with_the_model),
        cmocka_unit_test(a_random_course_on_a_failing_disk_agrees_with_the_model),
    };
    return cmocka_run_group_tests(tests, fx_quiet, NULL);
}
