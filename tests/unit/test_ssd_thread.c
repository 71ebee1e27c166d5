/* SPDX-License-Identifier: Apache-2.0 */
/* Many threads in every call at once. Each thread has keys of its own, so it knows what to expect.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "ssd_fixture.h"

#define THREADS 8u
#define KEYS_EACH 16u

struct worker {
    struct ssd_tier *tier;
    unsigned number;
    _Atomic uint64_t *generation;
    _Atomic bool *is_over;
    struct fx_slot slots[KEYS_EACH];
    unsigned reads;
    unsigned rounds;
    bool clears;
};

static void worker_append(struct worker *worker, struct test_rng *rng)
{
    enum {
        BATCH = 6
    };
    static _Thread_local uint8_t keys[BATCH][256];
    struct iovec iov[BATCH];
    struct ssd_append appends[BATCH];
    uint32_t at[BATCH];
    for (unsigned i = 0; i < BATCH; i++) {
        uint64_t generation = atomic_fetch_add(worker->generation, 1) + 1;
        uint64_t bytes = test_rng_below(rng, 40000);
        uint8_t *value = aligned_alloc(4096, 45056);
        at[i] = (uint32_t)test_rng_below(rng, KEYS_EACH);
        uint32_t number = worker->number * KEYS_EACH + at[i];
        test_fill(value, bytes, generation);
        fx_key(number, keys[i], fx_key_bytes(number));
        iov[i] = (struct iovec){value, bytes};
        appends[i] = (struct ssd_append){
            .key = {keys[i], fx_key_bytes(number)},
            .generation = generation,
            .value_bytes = bytes,
            .is_tombstone = test_rng_below(rng, 8) == 0,
            .iov = &iov[i],
            .iov_count = 1,
        };
    }
    enum umbp_status status =
        ssd_append(worker->tier, appends, BATCH, test_rng_below(rng, 2) == 0, fx_soon());
    assert_true(status == UMBP_OK || status == UMBP_NO_SPACE || status == UMBP_STALE);
    for (unsigned i = 0; i < BATCH; i++) {
        struct fx_slot *slot = &worker->slots[at[i]];
        uint32_t number = worker->number * KEYS_EACH + at[i];
        free(iov[i].iov_base);
        if (appends[i].status != UMBP_OK) {
            continue;
        }
        if (slot->is_there) {
            ssd_mark_dead(worker->tier, slot->location, slot->bytes, fx_key_bytes(number));
        }
        *slot = (struct fx_slot){!appends[i].is_tombstone, false, appends[i].generation,
                                 appends[i].value_bytes, appends[i].location};
    }
}

static void worker_read(struct worker *worker)
{
    enum {
        MOST = KEYS_EACH
    };
    static _Thread_local uint8_t keys[MOST][256];
    static _Thread_local uint8_t values[MOST][40000];
    struct ssd_range ranges[MOST];
    struct ssd_read reads[MOST];
    unsigned count = 0;
    for (uint32_t i = 0; i < KEYS_EACH; i++) {
        const struct fx_slot *slot = &worker->slots[i];
        uint32_t number = worker->number * KEYS_EACH + i;
        if (!slot->is_there) {
            continue;
        }
        fx_key(number, keys[count], fx_key_bytes(number));
        ranges[count] = (struct ssd_range){values[count], slot->bytes, 0};
        reads[count] = (struct ssd_read){
            .key = {keys[count], fx_key_bytes(number)},
            .generation = slot->generation,
            .value_bytes = slot->bytes,
            .location = slot->location,
            .ranges = &ranges[count],
            .range_count = 1,
        };
        count++;
    }
    enum umbp_status status = ssd_read(worker->tier, reads, count, NULL, NULL, fx_soon());
    (void)status;
    for (unsigned i = 0; i < count; i++) {
        /* Only a release takes a record away. */
        assert_true(reads[i].status == UMBP_OK || reads[i].status == UMBP_STALE);
        if (reads[i].status == UMBP_OK) {
            assert_true(test_check_fill(values[i], reads[i].value_bytes, reads[i].generation));
            ssd_touch(worker->tier, reads[i].location, reads[i].generation);
            worker->reads++;
        }
    }
}

static void *worker_run(void *context)
{
    struct worker *worker = context;
    struct test_rng rng;
    test_rng_init(&rng, 700 + worker->number);
    for (unsigned round = 0; round < worker->rounds; round++) {
        uint64_t what = test_rng_below(&rng, 10);
        if (what < 5) {
            worker_append(worker, &rng);
        } else if (what < 9) {
            worker_read(worker);
        } else {
            enum umbp_status status = ssd_sync(worker->tier, fx_soon());
            assert_ok(status);
        }
    }
    return NULL;
}

/* Releases segments whenever space runs short; now and then clears. */
static void *reclaimer_run(void *context)
{
    struct worker *worker = context;
    struct fx_list *list = calloc(1, sizeof(*list));
    struct ssd_visitor visitor = {.record = fx_collect, .context = list};
    struct test_rng rng;
    test_rng_init(&rng, 799);
    while (!atomic_load(worker->is_over)) {
        uint64_t used;
        uint64_t capacity;
        uint32_t segment;
        struct ssd_stats stats;
        ssd_stats(worker->tier, &stats);
        ssd_space(worker->tier, &used, &capacity);
        assert_true(used <= capacity);
        if (worker->clears && test_rng_below(&rng, 400) == 0) {
            assert_ok(
                ssd_clear(worker->tier, atomic_fetch_add(worker->generation, 1) + 1, fx_soon()));
        } else if (used > capacity / 2 && ssd_victim(worker->tier, test_rng_below(&rng, 2) == 0,
                                                     &segment, fx_soon()) == UMBP_OK) {
            list->count = 0;
            enum umbp_status status =
                ssd_segment_records(worker->tier, segment, &visitor, fx_soon());
            assert_true(status == UMBP_OK || status == UMBP_STALE);
            (void)ssd_has_older(worker->tier, segment);
            if (test_rng_below(&rng, 5) == 0) {
                ssd_victim_return(worker->tier, segment);
            } else {
                ssd_segment_release(worker->tier, segment);
            }
        } else {
            test_sleep_ms(1);
        }
    }
    free(list);
    return NULL;
}

static void run_threads(struct disk *disk, const char *directory, bool clears,
                        enum ssd_durability durability)
{
    struct fx fx;
    pthread_t threads[THREADS];
    pthread_t reclaimer;
    _Atomic uint64_t generation = 0;
    _Atomic bool is_over = false;
    static struct worker workers[THREADS + 1];
    fx_init(&fx, disk, directory);
    fx.options.bytes = 4u << 20;
    fx.options.segment_bytes = 256u << 10;
    fx.options.io_bytes = 64u << 10;
    fx.options.durability = durability;
    fx_open(&fx);
    for (unsigned i = 0; i <= THREADS; i++) {
        workers[i] = (struct worker){.tier = fx.tier,
                                     .number = i,
                                     .generation = &generation,
                                     .is_over = &is_over,
                                     .rounds = test_is_slow() ? 40 : 150,
                                     .clears = clears};
    }
    assert_int_equal(pthread_create(&reclaimer, NULL, reclaimer_run, &workers[THREADS]), 0);
    for (unsigned i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, worker_run, &workers[i]), 0);
    }
    unsigned reads = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        reads += workers[i].reads;
    }
    atomic_store(&is_over, true);
    pthread_join(reclaimer, NULL);
    assert_true(reads > 0);
    for (unsigned i = 0; i < THREADS; i++) {
        worker_read(&workers[i]);
    }
    struct ssd_stats stats;
    ssd_stats(fx.tier, &stats);
    assert_int_equal(stats.corrupt_records + stats.io_errors + stats.io_timeouts, 0);
    fx_close(&fx);
    struct ssd_check_report report;
    assert_ok(ssd_check(directory, disk, NULL, NULL, NULL, &report, NULL, 0));
    assert_int_equal(report.corrupt_records + report.corrupt_segments + report.missing_footers, 0);
    fx.options.read_only = true;
    fx_open(&fx);
    fx_check_all(&fx);
    fx_close(&fx);
}

static void threads_in_every_call_on_a_memory_disk(void **state)
{
    (void)state;
    for (int strict = 0; strict < 2; strict++) {
        struct disk *disk = fx_memory_disk();
        run_threads(disk, "d", true, strict ? SSD_STRICT : SSD_RELAXED);
        disk_destroy(disk);
    }
}

static void threads_in_every_call_on_a_real_disk(void **state)
{
    static const char *const drivers[] = {"auto", "posix"};
    (void)state;
    for (unsigned i = 0; i < ARRAY_COUNT(drivers); i++) {
        struct disk *disk;
        char *directory = test_dir_create();
        assert_ok(disk_auto_create(drivers[i], &disk));
        unsigned files = test_fd_count();
        run_threads(disk, directory, i == 0, SSD_RELAXED);
        assert_int_equal(test_fd_count(), files);
        disk_destroy(disk);
        test_dir_remove(directory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_in_every_call_on_a_memory_disk),
        cmocka_unit_test(threads_in_every_call_on_a_real_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
