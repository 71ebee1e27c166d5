/* SPDX-License-Identifier: Apache-2.0 */
/* The copy pipeline, promotion and demotion, and a full SSD, over a disk in memory. */
#include "store_rig.h"

#include <pthread.h>
#include <stdatomic.h>

/* -------------------------------------------------------------------------------- copies --- */

static void every_put_is_copied_and_served_from_the_ssd_when_memory_lost_it(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    (void)state;
    rig_open(&rig);
    for (uint64_t i = 0; i < 100; i++) {
        assert_ok(put_value(rig.store, name_key(&named, "k", i), 10000 + i, i, (uint32_t)i));
    }
    await_stat(rig.store, "copies.dirty", 0, 0);
    assert_int_equal(stat_of(rig.store, "copies.done"), 100);
    empty_memory(rig.store);
    for (uint64_t i = 0; i < 100; i++) {
        struct umbp_key key = name_key(&named, "k", i);
        assert_true(in_tier(rig.store, key, STORE_TIER_SSD));
        assert_false(in_tier(rig.store, key, STORE_TIER_DRAM));
        assert_status(get_value(rig.store, key, 10001 + i, i), UMBP_SIZE_MISMATCH);
        assert_ok(get_value(rig.store, key, 10000 + i, i));
    }
    assert_int_equal(stat_of(rig.store, "hits.ssd"), 100);
    assert_int_equal(stat_of(rig.store, "promotions"), 0);
    rig_finish(&rig);
}

static void values_of_every_size_come_back_from_the_ssd_whole_and_in_ranges(void **state)
{
    static const uint64_t sizes[] = {
        0,    1,     63,    64,    3000,   3900,   4000,    4095,          4096,   4097,
        8192, 65535, 65536, 65537, 100000, 262144, 1 << 20, (1 << 20) + 1, 1900000};
    struct rig rig = rig_make();
    unsigned char *whole = malloc(2 * MIB);
    unsigned char *part = malloc(2 * MIB);
    struct named named;
    (void)state;
    rig_open(&rig);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        assert_ok(put_value(rig.store, name_key(&named, "k", i), sizes[i], i, 0));
        assert_ok(store_flush(rig.store, soon()));
    }
    empty_memory(rig.store);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct umbp_key key = name_key(&named, "k", i);
        assert_ok(get_value(rig.store, key, sizes[i], i));
        if (sizes[i] < 3) {
            continue;
        }
        test_fill(whole, sizes[i], i);
        struct umbp_range ranges[3] = {{part, 1, 0},
                                       {part + 1, sizes[i] / 2, sizes[i] / 3},
                                       {part + 1 + sizes[i] / 2, 1, sizes[i] - 1}};
        struct umbp_range_item item = {.key = key, .ranges = ranges, .range_count = 3};
        enum umbp_status status;
        assert_ok(store_batch_get_ranges(rig.store, &item, 1, &status));
        assert_ok(status);
        assert_int_equal(part[0], whole[0]);
        assert_memory_equal(part + 1, whole + sizes[i] / 3, sizes[i] / 2);
        assert_int_equal(part[1 + sizes[i] / 2], whole[sizes[i] - 1]);
    }
    free(whole);
    free(part);
    rig_finish(&rig);
}

static void a_value_pinned_on_the_ssd_is_read_where_it_lies(void **state)
{
    struct rig rig = rig_make();
    struct store_pin pin;
    unsigned char bytes[100];
    unsigned char *whole = malloc(50000);
    (void)state;
    rig_open(&rig);
    assert_ok(put_value(rig.store, text_key("k"), 50000, 3, 0));
    assert_ok(store_flush(rig.store, soon()));
    empty_memory(rig.store);
    assert_ok(store_pin(rig.store, text_key("k"), 50000, false, &pin));
    assert_int_equal(pin.tier, STORE_TIER_SSD);
    struct ssd_range range = {bytes, sizeof(bytes), 49900};
    struct store_stream stream;
    assert_ok(store_stream_open(rig.store, &pin, &stream));
    assert_ok(store_stream_next(rig.store, &stream, 50000, &range, 1, soon()));
    assert_true(stream.ssd.is_whole);
    store_stream_close(&stream);
    test_fill(whole, 50000, 3);
    assert_memory_equal(bytes, whole + 49900, sizeof(bytes));
    store_unpin(rig.store, &pin);
    free(whole);
    rig_finish(&rig);
}

static void a_full_queue_drops_copies_and_counts_them_and_a_flush_makes_up_for_it(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    (void)state;
    rig.options.copy_queue_depth = 1;
    rig.options.copy_workers = 1;
    const struct disk_fault slow = {
        .call = DISK_CALL_WRITE, .first = 1, .times = 1u << 30, .action = DISK_FAULT_NEVER};
    rig_open(&rig);
    assert_true(disk_fault_add(rig.fault, &slow));
    for (uint64_t i = 0; i < 50; i++) { /* none of these puts waits for the disk */
        assert_ok(put_value(rig.store, name_key(&named, "k", i), 5000, i, 0));
    }
    assert_true(stat_of(rig.store, "copies.drops.queue_full") >= 40);
    disk_fault_clear(rig.fault);
    disk_fault_release(rig.fault);
    assert_ok(store_flush(rig.store, soon()));
    assert_int_equal(stat_of(rig.store, "copies.dirty"), 0);
    empty_memory(rig.store);
    for (uint64_t i = 0; i < 50; i++) {
        assert_ok(get_value(rig.store, name_key(&named, "k", i), 5000, i));
    }
    rig_finish(&rig);
}

static void a_flush_of_a_thousand_values_syncs_by_the_group(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    (void)state;
    rig.options.copy_mode = STORE_COPY_ON_EVICT; /* so that the flush writes them all */
    rig_open(&rig);
    uint64_t before = disk_fault_calls(rig.fault, DISK_CALL_SYNC);
    for (uint64_t i = 0; i < 1000; i++) {
        assert_ok(put_value(rig.store, name_key(&named, "k", i), 2000, i, 0));
    }
    assert_int_equal(stat_of(rig.store, "copies.done"), 0);
    assert_ok(store_flush(rig.store, soon()));
    assert_int_equal(stat_of(rig.store, "copies.done"), 1000);
    uint64_t syncs = disk_fault_calls(rig.fault, DISK_CALL_SYNC) - before;
    assert_in_range(syncs, 1, 100);
    rig_finish(&rig);
}

static void strict_puts_are_synced_by_the_group_too(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    struct umbp_put_item items[500];
    enum umbp_status statuses[500];
    static struct named names[500];
    static unsigned char data[4000];
    (void)state;
    (void)named;
    rig_open(&rig);
    uint64_t before = disk_fault_calls(rig.fault, DISK_CALL_SYNC);
    for (uint64_t i = 0; i < 500; i++) {
        items[i] = (struct umbp_put_item){
            .key = name_key(&names[i], "k", i), .data = data, .bytes = sizeof(data)};
    }
    assert_ok(store_batch_put(rig.store, items, 500, statuses));
    await_stat(rig.store, "copies.dirty", 0, 0);
    assert_in_range(disk_fault_calls(rig.fault, DISK_CALL_SYNC) - before, 1, 250);
    rig_finish(&rig);
}

/* ------------------------------------------------------------- promotion and demotion ------ */

static void a_promotion_keeps_the_copy_on_the_ssd_and_writes_nothing(void **state)
{
    struct rig rig = rig_make();
    (void)state;
    rig.options.promote_on_read = true;
    rig_open(&rig);
    assert_ok(put_value(rig.store, text_key("k"), 70000, 1, 0));
    assert_ok(store_flush(rig.store, soon()));
    empty_memory(rig.store);
    /* Its old pages get other bytes first: the right ones can only come from the SSD. */
    assert_ok(put_value(rig.store, text_key("all over"), 4 * MIB, 2, 0));
    assert_ok(remove_value(rig.store, text_key("all over")));
    assert_ok(store_flush(rig.store, soon()));
    await_stat(rig.store, "dram.bytes_used", 0, 0);
    uint64_t written = stat_of(rig.store, "ssd.bytes_written");
    assert_ok(get_value(rig.store, text_key("k"), 70000, 1));
    assert_true(in_tier(rig.store, text_key("k"), STORE_TIER_DRAM));
    assert_true(in_tier(rig.store, text_key("k"), STORE_TIER_SSD));
    assert_int_equal(stat_of(rig.store, "promotions"), 1);
    assert_ok(get_value(rig.store, text_key("k"), 70000, 1));
    assert_int_equal(stat_of(rig.store, "hits.dram"), 1);
    assert_int_equal(stat_of(rig.store, "hits.ssd"), 1);
    assert_ok(store_flush(rig.store, soon()));
    empty_memory(rig.store);
    assert_ok(get_value(rig.store, text_key("k"), 70000, 1));
    assert_int_equal(stat_of(rig.store, "ssd.bytes_written"), written);
    rig_finish(&rig);
}

static void what_leaves_memory_is_written_first_and_nothing_is_lost(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    (void)state;
    rig.options.copy_mode = STORE_COPY_ON_EVICT;
    rig.options.dram_high_watermark = 0.5;
    rig.options.dram_low_watermark = 0.25;
    rig_open(&rig);
    for (uint64_t i = 0; i < 200; i++) {
        assert_ok(put_value(rig.store, name_key(&named, "k", i), PAGE, i, 0));
        /* An engine that leaves the upkeep time to breathe. */
        await_stat(rig.store, "dram.bytes_used", 0, 3 * MIB);
    }
    await_stat(rig.store, "dram.bytes_used", 0, 2 * MIB);
    assert_int_equal(stat_of(rig.store, "copies.drops.evicted"), 0);
    unsigned in_memory = 0;
    for (uint64_t i = 0; i < 200; i++) {
        struct umbp_key key = name_key(&named, "k", i);
        in_memory += in_tier(rig.store, key, STORE_TIER_DRAM);
        assert_ok(get_value(rig.store, key, PAGE, i));
    }
    assert_in_range(in_memory, 16, 32);
    rig_finish(&rig);
}

static void copies_hold_so_little_memory_that_what_was_just_put_stays(void **state)
{
    static const enum store_copy_mode modes[] = {STORE_COPY_ON_COMMIT, STORE_COPY_ON_EVICT};
    (void)state;
    for (size_t m = 0; m < 2; m++) {
        struct rig rig = rig_make();
        struct named named;
        const struct disk_fault slow = {.call = DISK_CALL_WRITE,
                                        .first = 1,
                                        .times = 1u << 30,
                                        .action = DISK_FAULT_DELAY,
                                        .delay_ns = 5 * NS_PER_MS};
        rig.options.copy_mode = modes[m];
        rig_open(&rig);
        assert_true(disk_fault_add(rig.fault, &slow));
        /* Four times the tier. The newest are never what goes, although none is copied yet. */
        for (uint64_t i = 0; i < 256; i++) {
            assert_ok(put_value(rig.store, name_key(&named, "k", i), PAGE, i, 0));
            for (uint64_t back = 0; back < 24 && back <= i; back++) {
                assert_ok(get_value(rig.store, name_key(&named, "k", i - back), PAGE, i - back));
            }
        }
        disk_fault_clear(rig.fault);
        rig_finish(&rig);
    }
}

/* ------------------------------------------------------------------------------ full SSD --- */

struct sum {
    struct disk *disk;
    uint64_t bytes;
};

static void add_file(void *context, const char *name, bool is_regular_file)
{
    struct sum *sum = context;
    uint64_t bytes = 0;
    char *path = test_path(RIG_DIRECTORY, name);
    if (is_regular_file && disk_memory_file(sum->disk, path, &bytes) != NULL &&
        strstr(name, ".seg") != NULL) {
        sum->bytes += bytes;
    }
    free(path);
}

static void a_full_ssd_goes_on_copying_evicts_the_oldest_and_stays_within_its_size(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    const uint64_t all = test_is_slow() ? 1500 : 4000; /* 94 or 250 MiB through 32 */
    (void)state;
    rig_open(&rig);
    for (uint64_t i = 0; i < all; i++) {
        assert_ok(put_value(rig.store, name_key(&named, "k", i), PAGE, i, 0));
        if (i % 20 == 19) {
            assert_ok(store_flush(rig.store, soon()));
            struct store_capacity capacity;
            store_capacity(rig.store, STORE_TIER_SSD, &capacity);
            assert_int_equal(capacity.total_bytes, 32 * MIB);
            assert_in_range(capacity.used_bytes, 0, 32 * MIB);
        }
    }
    struct sum sum = {.disk = rig.memory};
    assert_ok(disk_list(rig.fault, RIG_DIRECTORY, add_file, &sum));
    assert_in_range(sum.bytes, 1, 32 * MIB);
    assert_int_equal(stat_of(rig.store, "copies.done"), all);
    assert_true(stat_of(rig.store, "evictions.ssd") > 0);
    empty_memory(rig.store);
    /* The newest half of the tier is there, in order; the oldest are gone. */
    for (uint64_t i = all - 200; i < all; i++) {
        assert_ok(get_value(rig.store, name_key(&named, "k", i), PAGE, i));
    }
    for (uint64_t i = 0; i < 500; i++) {
        assert_status(get_value(rig.store, name_key(&named, "k", i), PAGE, i), UMBP_NOT_FOUND);
    }
    rig_finish(&rig);
}

static void values_in_use_outlive_those_that_are_not_when_segments_are_reclaimed(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    (void)state;
    rig_open(&rig);
    for (uint64_t i = 0; i < 8; i++) {
        assert_ok(put_value(rig.store, name_key(&named, "hot", i), PAGE, i, 0));
    }
    assert_ok(store_flush(rig.store, soon()));
    for (uint64_t i = 0; i < 2000; i++) {
        assert_ok(put_value(rig.store, name_key(&named, "cold", i), PAGE, i, 0));
        if (i % 100 == 99) {
            assert_ok(store_flush(rig.store, soon()));
            empty_memory(rig.store);
            for (uint64_t k = 0; k < 8; k++) {
                assert_ok(get_value(rig.store, name_key(&named, "hot", k), PAGE, k));
            }
        }
    }
    assert_true(stat_of(rig.store, "evictions.ssd") > 0);
    rig_finish(&rig);
}

static void tombstones_and_small_values_do_not_clog_the_ssd(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    (void)state;
    rig.options.ssd.bytes = 4 * MIB;
    rig.options.ssd.segment_bytes = 512 * KIB;
    rig_open(&rig);
    for (uint64_t i = 0; i < (test_is_slow() ? 3000u : 10000u); i++) {
        assert_ok(put_value(rig.store, name_key(&named, "k", i), 100, i, 0));
        if (i >= 50) {
            (void)!remove_value(rig.store, name_key(&named, "k", i - 50));
        }
        if (i % 500 == 499) {
            assert_ok(store_flush(rig.store, soon()));
        }
    }
    struct store_capacity capacity;
    store_capacity(rig.store, STORE_TIER_SSD, &capacity);
    assert_in_range(capacity.used_bytes, 0, 4 * MIB);
    rig_finish(&rig);
}

static void a_value_too_large_for_the_ssd_stays_in_memory_and_fails_no_flush(void **state)
{
    struct rig rig = rig_make();
    (void)state;
    rig.options.ssd.bytes = 2 * MIB;
    rig.options.ssd.segment_bytes = 256 * KIB;
    rig_open(&rig);
    assert_ok(put_value(rig.store, text_key("large"), 3 * MIB, 1, 0));
    assert_ok(put_value(rig.store, text_key("small"), 10000, 2, 0));
    assert_ok(store_flush(rig.store, soon()));
    assert_ok(get_value(rig.store, text_key("large"), 3 * MIB, 1));
    assert_true(in_tier(rig.store, text_key("small"), STORE_TIER_SSD));
    assert_false(in_tier(rig.store, text_key("large"), STORE_TIER_SSD));
    assert_true(stat_of(rig.store, "copies.drops.too_large") > 0);
    rig_finish(&rig);
}

static void a_value_larger_than_segments_finds_room_on_a_full_ssd(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    (void)state;
    rig.options.ssd.bytes = 16 * MIB;
    rig.options.ssd.segment_bytes = 256 * KIB;
    rig_open(&rig);
    for (uint64_t i = 0; i < 400; i++) {
        assert_ok(put_value(rig.store, name_key(&named, "k", i), PAGE, i, 0));
        if (i % 20 == 19) {
            assert_ok(store_flush(rig.store, soon()));
        }
    }
    empty_memory(rig.store);
    assert_ok(put_value(rig.store, text_key("large"), 4 * MIB, 1, 0));
    assert_ok(store_flush(rig.store, soon()));
    assert_true(in_tier(rig.store, text_key("large"), STORE_TIER_SSD));
    empty_memory(rig.store);
    assert_ok(get_value(rig.store, text_key("large"), 4 * MIB, 1));
    rig_finish(&rig);
}

/* --------------------------------------------------- the same key again and again ---------- */

struct churner {
    struct store *store;
    uint64_t number;
    unsigned rounds;
    unsigned wrong;
};

#define CHURN_KEYS 6u

/* Puts, removes and gets keys of its own; a value's first 8 bytes say which put it was. */
static void *churn(void *context)
{
    struct churner *churner = context;
    struct test_rng rng;
    struct named named;
    uint64_t last[CHURN_KEYS] = {0}; /* the value that may be there; 0: none */
    unsigned char *data = malloc(20000);
    test_rng_init(&rng, churner->number);
    uint64_t until_ns = test_now_ns() + 30 * NS_PER_S;
    /* At least so many rounds, and until a busy machine has let the copiers take part. */
    for (uint64_t round = 1;
         round <= churner->rounds ||
         (stat_of(churner->store, "copies.done") == 0 && test_now_ns() < until_ns);
         round++) {
        uint64_t k = test_rng_below(&rng, CHURN_KEYS);
        struct umbp_key key = name_key(&named, "churn", churner->number * 100 + k);
        struct umbp_get_item get = {.key = key, .data = data, .bytes = 20000};
        enum umbp_status status;
        switch (test_rng_below(&rng, 3)) {
        case 0:
            (void)!remove_value(churner->store, key);
            last[k] = 0;
            break;
        case 1:
            status = put_value(churner->store, key, 20000, round, 0);
            if (status == UMBP_OK) {
                last[k] = round;
            } else {
                churner->wrong += status != UMBP_ALREADY_EXISTS || last[k] == 0;
            }
            break;
        default:
            churner->wrong += store_batch_get(churner->store, &get, 1, &status) != UMBP_OK;
            if (status == UMBP_OK) {
                churner->wrong += last[k] == 0 || !test_check_fill(data, 20000, last[k]);
            } else {
                churner->wrong += status != UMBP_NOT_FOUND;
            }
        }
        if (round % 32 == 0) {
            (void)store_evict(churner->store, MIB);
        }
    }
    free(data);
    return NULL;
}

static void a_key_put_anew_while_its_last_value_is_copied_never_gives_that_ones_bytes(void **state)
{
    struct rig rig = rig_make();
    struct churner churners[4];
    pthread_t threads[4];
    (void)state;
    for (unsigned promote = 0; promote < 2; promote++) {
        rig.options.promote_on_read = promote;
        rig_open(&rig);
        const struct disk_fault slow = {.call = DISK_CALL_WRITE,
                                        .first = 1,
                                        .times = 1u << 30,
                                        .action = DISK_FAULT_DELAY,
                                        .delay_ns = 300000};
        assert_true(disk_fault_add(rig.fault, &slow));
        for (unsigned i = 0; i < 4; i++) {
            churners[i] = (struct churner){.store = rig.store,
                                           .number = promote * 10 + i,
                                           .rounds = test_is_slow() ? 500 : 3000};
            assert_int_equal(pthread_create(&threads[i], NULL, churn, &churners[i]), 0);
        }
        for (unsigned i = 0; i < 4; i++) {
            pthread_join(threads[i], NULL);
            assert_int_equal(churners[i].wrong, 0);
        }
        disk_fault_clear(rig.fault);
        assert_true(stat_of(rig.store, "copies.done") > 0);
        assert_int_equal(stat_of(rig.store, "corrupt"), 0);
        finish_store(rig.store);
        rig.store = NULL;
    }
    rig_finish(&rig);
}

/* --------------------------------------------------------------------------------- clear --- */

struct clearer {
    struct store *store;
    uint64_t number;
    _Atomic bool *stop;
    unsigned wrong;
};

static void *put_beside_clear(void *context)
{
    struct clearer *clearer = context;
    struct named named;
    for (uint64_t i = 0; !atomic_load(clearer->stop); i++) {
        struct umbp_key key = name_key(&named, "c", clearer->number * 1000 + i % 200);
        clearer->wrong += !umbp_status_is_success(put_value(clearer->store, key, 5000, i % 200, 0));
        if (i % 50 == 0) {
            clearer->wrong += store_flush(clearer->store, soon()) != UMBP_OK;
        }
    }
    return NULL;
}

static void what_is_put_beside_a_clear_is_either_gone_or_wholly_there(void **state)
{
    struct rig rig = rig_make();
    _Atomic bool stop = false;
    struct clearer clearers[3];
    pthread_t threads[3];
    struct named named;
    (void)state;
    rig_open(&rig);
    for (unsigned i = 0; i < 3; i++) {
        clearers[i] = (struct clearer){.store = rig.store, .number = i, .stop = &stop};
        assert_int_equal(pthread_create(&threads[i], NULL, put_beside_clear, &clearers[i]), 0);
    }
    /* Counted from before each clear: the writers may be done with all keys before we look again.
     */
    uint64_t seen = 0;
    for (unsigned round = 0; round < (test_is_slow() ? 20 : 60); round++) {
        await_stat(rig.store, "copies.done", seen + 20, UINT64_MAX);
        seen = stat_of(rig.store, "copies.done");
        assert_ok(store_clear(rig.store, soon()));
    }
    await_stat(rig.store, "copies.done", seen + 100, UINT64_MAX);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(clearers[i].wrong, 0);
    }
    assert_ok(store_flush(rig.store, soon()));
    empty_memory(rig.store);
    uint64_t served = 0;
    for (uint64_t i = 0; i < 3000; i++) {
        struct umbp_key key = name_key(&named, "c", i);
        if (holds(rig.store, key)) {
            assert_ok(get_value(rig.store, key, 5000, i % 1000));
            served++;
        }
    }
    assert_true(served > 0);
    /* And what was flushed is there after a kill. */
    rig_kill(&rig);
    rig_open(&rig);
    for (uint64_t i = 0; i < 3000; i++) {
        struct umbp_key key = name_key(&named, "c", i);
        if (holds(rig.store, key)) {
            assert_ok(get_value(rig.store, key, 5000, i % 1000));
            served--;
        }
    }
    assert_int_equal(served, 0);
    rig_finish(&rig);
}

static void a_flush_beside_removing_threads_comes_to_an_end(void **state)
{
    struct rig rig = rig_make();
    struct churner churner = {.store = rig.store, .rounds = test_is_slow() ? 2000 : 20000};
    pthread_t thread;
    (void)state;
    rig_open(&rig);
    churner.store = rig.store;
    assert_int_equal(pthread_create(&thread, NULL, churn, &churner), 0);
    for (unsigned i = 0; i < 20; i++) {
        assert_ok(store_flush(rig.store, soon()));
    }
    pthread_join(thread, NULL);
    assert_int_equal(churner.wrong, 0);
    rig_finish(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_put_is_copied_and_served_from_the_ssd_when_memory_lost_it),
        cmocka_unit_test(values_of_every_size_come_back_from_the_ssd_whole_and_in_ranges),
        cmocka_unit_test(a_value_pinned_on_the_ssd_is_read_where_it_lies),
        cmocka_unit_test(a_full_queue_drops_copies_and_counts_them_and_a_flush_makes_up_for_it),
        cmocka_unit_test(a_flush_of_a_thousand_values_syncs_by_the_group),
        cmocka_unit_test(strict_puts_are_synced_by_the_group_too),
        cmocka_unit_test(a_promotion_keeps_the_copy_on_the_ssd_and_writes_nothing),
        cmocka_unit_test(what_leaves_memory_is_written_first_and_nothing_is_lost),
        cmocka_unit_test(copies_hold_so_little_memory_that_what_was_just_put_stays),
        cmocka_unit_test(a_full_ssd_goes_on_copying_evicts_the_oldest_and_stays_within_its_size),
        cmocka_unit_test(values_in_use_outlive_those_that_are_not_when_segments_are_reclaimed),
        cmocka_unit_test(tombstones_and_small_values_do_not_clog_the_ssd),
        cmocka_unit_test(a_value_too_large_for_the_ssd_stays_in_memory_and_fails_no_flush),
        cmocka_unit_test(a_value_larger_than_segments_finds_room_on_a_full_ssd),
        cmocka_unit_test(a_key_put_anew_while_its_last_value_is_copied_never_gives_that_ones_bytes),
        cmocka_unit_test(what_is_put_beside_a_clear_is_either_gone_or_wholly_there),
        cmocka_unit_test(a_flush_beside_removing_threads_comes_to_an_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
