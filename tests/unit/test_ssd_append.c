/* SPDX-License-Identifier: Apache-2.0 */
/* Appending and reading on a healthy disk: sizes, keys, batches, ranges, restarts. */
#include "ssd_fixture.h"

static void open_memory(struct fx *fx)
{
    fx_init(fx, fx_memory_disk(), "d");
    fx_open(fx);
}

static void close_memory(struct fx *fx)
{
    fx_close(fx);
    disk_destroy(fx->disk);
}

static const uint64_t sizes[] = {0,      1,      511,    3800,   3900,   4000,  4095,
                                 4096,   4097,   8191,   8192,   8193,   65536, 65537,
                                 262143, 262144, 262145, 300000, 524288, 700001};

static void every_size_comes_back_from_aligned_and_unaligned_memory(void **state)
{
    (void)state;
    struct fx fx;
    open_memory(&fx);
    for (uint32_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        assert_ok(fx_put_as(&fx, 2 * i, sizes[i], true));
        assert_ok(fx_put_as(&fx, 2 * i + 1, sizes[i], false));
    }
    fx_check_all(&fx);
    fx_close(&fx);
    fx_open(&fx);
    assert_int_equal(fx_count(&fx), 2 * ARRAY_COUNT(sizes));
    assert_int_equal(fx.recovery.scanned_segments, 0);
    fx_check_all(&fx);
    close_memory(&fx);
}

static void every_size_comes_back_from_a_real_disk(void **state)
{
    static const char *const drivers[] = {"auto", "posix"};
    (void)state;
    for (unsigned d = 0; d < ARRAY_COUNT(drivers); d++) {
        struct fx fx;
        struct disk *disk;
        char *directory = test_dir_create();
        assert_ok(disk_auto_create(drivers[d], &disk));
        fx_init(&fx, disk, directory);
        fx.options.bytes = 64u << 20;
        fx.options.segment_bytes = 8u << 20;
        fx.options.io_bytes = 0;
        fx_open(&fx);
        for (uint32_t i = 0; i < ARRAY_COUNT(sizes); i++) {
            assert_ok(fx_put_as(&fx, 2 * i, sizes[i], true));
            assert_ok(fx_put_as(&fx, 2 * i + 1, sizes[i], false));
        }
        assert_ok(fx_put_as(&fx, 100, (1u << 20) + 1, true));
        assert_ok(fx_put_as(&fx, 101, FX_VALUE_MAX, true));
        fx_check_all(&fx);
        fx_close(&fx);
        fx_open(&fx);
        assert_int_equal(fx_count(&fx), 2 * ARRAY_COUNT(sizes) + 2);
        fx_check_all(&fx);
        fx_close(&fx);
        disk_destroy(disk);
        test_dir_remove(directory);
    }
}

static struct ssd_append an_append(const void *key, uint32_t key_bytes, uint64_t generation,
                                   const struct iovec *iov, unsigned iov_count)
{
    struct ssd_append append = {
        .key = {key, key_bytes}, .generation = generation, .iov = iov, .iov_count = iov_count};
    for (unsigned i = 0; i < iov_count; i++) {
        append.value_bytes += iov[i].iov_len;
    }
    return append;
}

static enum umbp_status read_ranges(struct fx *fx, const struct ssd_append *append,
                                    const struct ssd_range *ranges, uint32_t count)
{
    struct ssd_read read = {
        .key = append->key,
        .generation = append->generation,
        .value_bytes = append->value_bytes,
        .location = append->location,
        .ranges = ranges,
        .range_count = count,
    };
    enum umbp_status status = ssd_read(fx->tier, &read, 1, NULL, NULL, fx_soon());
    if (status == UMBP_OK) {
        assert_int_equal(read.value_crc, append->value_crc);
    }
    return status;
}

static void keys_of_every_length_hold_any_bytes(void **state)
{
    (void)state;
    struct fx fx;
    uint8_t key[SSD_BLOCK_BYTES] = {0};
    uint8_t value[5000];
    uint8_t back[5000];
    open_memory(&fx);
    for (uint32_t bytes = 1; bytes <= 1024; bytes = bytes < 4 ? bytes + 1 : bytes * 5 / 4) {
        for (unsigned size = 0; size <= sizeof(value); size += 1250) {
            struct iovec iov = {value, size};
            test_fill(key, bytes, bytes);
            key[bytes / 2] = 0;
            test_fill(value, size, bytes + size);
            struct ssd_append append = an_append(key, bytes, ++fx.generation, &iov, 1);
            assert_ok(ssd_append(fx.tier, &append, 1, false, fx_soon()));
            struct ssd_range range = {back, size, 0};
            assert_ok(read_ranges(&fx, &append, &range, 1));
            assert_memory_equal(value, back, size);
        }
    }
    struct iovec iov = {value, 10};
    struct ssd_append append = an_append(key, 0, 1, &iov, 1);
    assert_status(ssd_append(fx.tier, &append, 1, false, fx_soon()), UMBP_INVALID_KEY);
    append = an_append(key, 1025, 1, &iov, 1);
    assert_status(ssd_append(fx.tier, &append, 1, false, fx_soon()), UMBP_INVALID_KEY);
    append = an_append(key, 5, 1, &iov, 1);
    append.value_bytes = 11; /* not what the pieces come to */
    assert_status(ssd_append(fx.tier, &append, 1, false, fx_soon()), UMBP_INVALID_VALUE);
    ssd_close(fx.tier, fx_soon());
    disk_destroy(fx.disk);
}

static void values_in_odd_pieces_come_back_into_odd_ranges(void **state)
{
    (void)state;
    struct fx fx;
    struct test_rng rng;
    enum {
        MOST = 700000,
        PIECES = 40
    };
    uint8_t *value = aligned_alloc(4096, 2u << 20);
    uint8_t *back = malloc(MOST);
    fx_init(&fx, fx_memory_disk(), "d");
    fx_open(&fx);
    test_rng_init(&rng, 51);
    for (unsigned round = 0; round < (test_is_slow() ? 20 : 120); round++) {
        struct iovec iov[PIECES];
        struct ssd_range ranges[PIECES];
        uint64_t bytes = 0;
        uint64_t at = 0;
        unsigned count = 1 + (unsigned)test_rng_below(&rng, PIECES - 1);
        for (unsigned i = 0; i < count; i++) {
            uint64_t now = test_rng_below(&rng, 16000);
            if (test_rng_below(&rng, 2)) { /* from aligned memory, whole blocks */
                at = align_up(at, 4096);
                now = align_up(now, 4096);
            } else {
                at += test_rng_below(&rng, 3);
            }
            test_fill(value + at, now, round * 100 + i);
            iov[i] = (struct iovec){value + at, now};
            at += now;
            bytes += now;
        }
        struct ssd_append append = an_append("pieces", 6, ++fx.generation, iov, count);
        enum umbp_status status = ssd_append(fx.tier, &append, 1, false, fx_soon());
        if (status == UMBP_NO_SPACE) {
            assert_ok(ssd_clear(fx.tier, ++fx.generation, fx_soon()));
            status = ssd_append(fx.tier, &append, 1, false, fx_soon());
        }
        assert_ok(status);
        /* Ranges that cut the value elsewhere; every second time out of order. */
        unsigned range_count = 1 + (unsigned)test_rng_below(&rng, PIECES - 1);
        uint64_t offset = 0;
        for (unsigned i = 0; i < range_count; i++) {
            uint64_t now =
                i + 1 == range_count ? bytes - offset : test_rng_below(&rng, bytes - offset + 1);
            unsigned place = round % 2 ? range_count - 1 - i : i;
            ranges[place] = (struct ssd_range){back + offset, now, offset};
            offset += now;
        }
        memset(back, 0xee, bytes);
        assert_ok(read_ranges(&fx, &append, ranges, range_count));
        at = 0;
        for (unsigned i = 0; i < count; i++) {
            assert_memory_equal(back + at, iov[i].iov_base, iov[i].iov_len);
            at += iov[i].iov_len;
        }
        /* Overlapping ranges get the same bytes twice. */
        struct ssd_range twice[2] = {{back, bytes / 2 + 1, 0}, {back + MOST / 2, bytes / 3, 0}};
        if (bytes > 10 && bytes < MOST / 2) {
            assert_ok(read_ranges(&fx, &append, twice, 2));
            assert_memory_equal(back, back + MOST / 2, bytes / 3);
        }
    }
    free(value);
    free(back);
    ssd_close(fx.tier, fx_soon());
    disk_destroy(fx.disk);
}

static void staged_padding_holds_zeros_and_no_other_value(void **state)
{
    (void)state;
    struct fx fx;
    uint8_t secret[20000];
    char path[64];
    uint64_t bytes;
    fx_init(&fx, fx_memory_disk(), "d");
    fx_open(&fx);
    memset(secret, 0x5a, sizeof(secret));
    struct iovec iov = {secret, sizeof(secret)};
    struct ssd_append append = an_append("secret", 6, ++fx.generation, &iov, 1);
    assert_ok(ssd_append(fx.tier, &append, 1, false, fx_soon()));
    assert_ok(ssd_clear(fx.tier, ++fx.generation, fx_soon()));
    uint8_t plain[6001];
    memset(plain, 2, sizeof(plain));
    for (unsigned size = 4090; size < 6000; size += 191) { /* not aligned: staged, with a tail */
        struct iovec piece = {plain + 1, size};
        append = an_append("k", 1, ++fx.generation, &piece, 1);
        assert_ok(ssd_append(fx.tier, &append, 1, false, fx_soon()));
        (void)snprintf(path, sizeof(path), "d/%016x.seg", append.location.segment);
    }
    const uint8_t *file = disk_memory_file(fx.disk, path, &bytes);
    assert_non_null(file);
    for (uint64_t i = 0; i + 4 < bytes; i++) {
        assert_false(file[i] == 0x5a && file[i + 1] == 0x5a && file[i + 2] == 0x5a);
    }
    ssd_close(fx.tier, fx_soon());
    disk_destroy(fx.disk);
}

static void many_tombstones_share_blocks_and_all_count(void **state)
{
    (void)state;
    enum {
        MANY = 500
    };
    struct fx fx;
    static uint8_t keys[MANY][256];
    static struct ssd_append appends[MANY];
    open_memory(&fx);
    for (uint32_t i = 0; i < MANY; i++) {
        assert_ok(fx_put(&fx, i, 100));
    }
    struct ssd_stats before;
    struct ssd_stats after;
    ssd_stats(fx.tier, &before);
    for (uint32_t i = 0; i < MANY; i++) {
        fx_key(i, keys[i], fx_key_bytes(i));
        appends[i] = an_append(keys[i], fx_key_bytes(i), ++fx.generation, NULL, 0);
        appends[i].is_tombstone = true;
    }
    appends[7].key.bytes = 0; /* a bad item in the middle fails alone */
    assert_status(ssd_append(fx.tier, appends, MANY, false, fx_soon()), UMBP_INVALID_KEY);
    for (uint32_t i = 0; i < MANY; i++) {
        assert_int_equal(appends[i].status, i == 7 ? UMBP_INVALID_KEY : UMBP_OK);
        assert_int_equal(appends[i].location.segment, 0);
    }
    ssd_stats(fx.tier, &after);
    assert_true(after.bytes_written - before.bytes_written < MANY * SSD_BLOCK_BYTES / 10);
    assert_int_equal(after.syncs - before.syncs, 1); /* one a group */
    fx_close(&fx);
    fx_open(&fx);
    assert_int_equal(fx.recovery.tombstones, MANY - 1);
    assert_int_equal(fx_count(&fx), 1);
    assert_true(fx_has(&fx, 7));
    close_memory(&fx);
}

static void a_batch_spans_segments_and_syncs_once_for_each(void **state)
{
    (void)state;
    enum {
        COUNT = 60
    };
    struct fx fx;
    static uint8_t keys[COUNT][256];
    static struct ssd_append appends[COUNT];
    struct iovec iov[COUNT];
    open_memory(&fx);
    for (uint32_t i = 0; i < COUNT; i++) {
        fx_key(i, keys[i], fx_key_bytes(i));
        iov[i] = (struct iovec){malloc(150000), 150000};
        test_fill(iov[i].iov_base, 150000, ++fx.generation);
        appends[i] = an_append(keys[i], fx_key_bytes(i), fx.generation, &iov[i], 1);
        if (i % 3 == 0) { /* as a record that moves */
            appends[i].has_crc = true;
            appends[i].value_crc = crc32c(0, iov[i].iov_base, 150000);
        }
    }
    assert_ok(ssd_append(fx.tier, appends, COUNT, false, fx_soon()));
    uint32_t segments = 1;
    for (uint32_t i = 0; i < COUNT; i++) {
        fx.index[i] =
            (struct fx_slot){true, false, appends[i].generation, 150000, appends[i].location};
        segments += i > 0 && appends[i].location.segment != appends[i - 1].location.segment;
        free(iov[i].iov_base);
    }
    assert_true(segments >= 8);
    struct ssd_stats stats;
    ssd_stats(fx.tier, &stats);
    assert_true(stats.syncs <= 2 * segments);
    fx_check_all(&fx);
    fx_close(&fx);
    fx_open(&fx);
    assert_int_equal(fx_count(&fx), COUNT);
    fx_check_all(&fx);
    close_memory(&fx);
}

static unsigned done_calls;
static void on_done(void *context, struct ssd_read *read)
{
    assert_ptr_equal(context, &done_calls);
    assert_ptr_equal(read->user, read);
    done_calls++;
}

static void a_batch_of_reads_ends_each_item_once(void **state)
{
    (void)state;
    enum {
        COUNT = 200
    };
    struct fx fx;
    static uint8_t keys[COUNT][256];
    static uint8_t values[COUNT][12000];
    static struct ssd_read reads[COUNT];
    struct ssd_range ranges[COUNT];
    open_memory(&fx);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_ok(fx_put(&fx, i, i * 60));
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        const struct fx_slot *slot = &fx.index[i];
        fx_key(i, keys[i], fx_key_bytes(i));
        ranges[i] = (struct ssd_range){values[i], slot->bytes, 0};
        reads[i] = (struct ssd_read){
            .key = {keys[i], fx_key_bytes(i)},
            .generation = slot->generation + (i == 33),
            .value_bytes = slot->bytes,
            .location = slot->location,
            .ranges = &ranges[i],
            .range_count = 1,
            .user = &reads[i],
        };
    }
    reads[44].location.segment = 12345;
    done_calls = 0;
    assert_status(ssd_read(fx.tier, reads, COUNT, on_done, &done_calls, fx_soon()), UMBP_CORRUPT);
    assert_int_equal(done_calls, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(reads[i].status, i == 33 ? UMBP_CORRUPT : i == 44 ? UMBP_STALE : UMBP_OK);
        if (reads[i].status == UMBP_OK) {
            assert_true(test_check_fill(values[i], reads[i].value_bytes, reads[i].generation));
        }
    }
    assert_ok(ssd_read(fx.tier, NULL, 0, NULL, NULL, fx_soon()));
    assert_ok(ssd_append(fx.tier, NULL, 0, false, fx_soon()));
    close_memory(&fx);
}

/* Segments of 16 MiB and up have their successor made ahead. */
static void a_segment_made_ahead_is_used_next_and_never_left_behind(void **state)
{
    (void)state;
    struct fx fx;
    struct ssd_stats stats;
    uint64_t used;
    uint64_t capacity;
    fx_init(&fx, fx_faulty(fx_memory_disk()), "d");
    fx.options.bytes = 160u << 20;
    fx.options.segment_bytes = 16u << 20;
    fx.options.io_bytes = 1u << 20;
    fx_open(&fx);
    uint32_t number = 0;
    /* Several records a call: the spare is made while some are being written. */
    static uint8_t keys[4][256];
    static uint8_t value[1 << 20];
    for (unsigned round = 0; round < 9; round++) {
        struct ssd_append appends[4];
        struct iovec iov = {value, sizeof(value)};
        test_fill(value, sizeof(value), 77);
        for (unsigned i = 0; i < 4; i++) {
            fx_key(number, keys[i], fx_key_bytes(number));
            appends[i] = an_append(keys[i], fx_key_bytes(number), ++fx.generation, &iov, 1);
            number++;
        }
        assert_ok(ssd_append(fx.tier, appends, 4, false, fx_soon()));
    }
    ssd_stats(fx.tier, &stats);
    ssd_space(fx.tier, &used, &capacity);
    assert_int_equal(stats.segments, 3);
    assert_true(used <= 4u * (16u << 20));
    assert_ok(ssd_clear(fx.tier, ++fx.generation, fx_soon()));
    assert_ok(fx_put(&fx, 1, 1000));
    fx_close(&fx);
    fx_open(&fx);
    ssd_stats(fx.tier, &stats);
    assert_int_equal(stats.segments, 1);
    assert_int_equal(fx_count(&fx), 1);
    for (uint32_t i = 0; i < 10; i++) {
        assert_ok(fx_put(&fx, 100 + i, 1u << 20));
    }
    const struct disk_fault fault = {
        .call = DISK_CALL_CHANGE, .first = 1, .action = DISK_FAULT_CRASH};
    assert_true(disk_fault_add(fx.disk, &fault));
    assert_status(ssd_close(fx.tier, fx_soon()), UMBP_IO);
    disk_fault_clear(fx.disk);
    fx_open(&fx);
    assert_int_equal(fx_count(&fx), 11);
    assert_int_equal(fx.recovery.lost_records, 0);
    fx_check_all(&fx);
    fx_close(&fx);
    fx_open(&fx);
    assert_int_equal(fx.recovery.scanned_segments, 0);
    close_memory(&fx);
}

/* Neighbours in the log are read together; what fails in between fails alone. */
static void neighbours_that_are_read_together_fail_alone(void **state)
{
    (void)state;
    enum {
        COUNT = 100
    };
    struct fx fx;
    static uint8_t keys[COUNT][256];
    static uint8_t values[COUNT][3000];
    static struct ssd_read reads[COUNT];
    struct ssd_range ranges[COUNT];
    fx_init(&fx, fx_faulty(fx_memory_disk()), "d");
    fx.options.io_bytes = 64u << 10;
    fx_open(&fx);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_ok(fx_put(&fx, i, 3000));
    }
    uint64_t before = disk_fault_calls(fx.disk, DISK_CALL_READ);
    for (unsigned round = 0; round < 9; round++) {
        for (uint32_t i = 0; i < COUNT; i++) {
            fx_key(i, keys[i], fx_key_bytes(i));
            ranges[i] = (struct ssd_range){values[i], 3000, 0};
            reads[i] = (struct ssd_read){
                .key = {keys[i], fx_key_bytes(i)},
                .generation = fx.index[i].generation + (round == 1 && i == 50),
                .value_bytes = 3000,
                .location = fx.index[i].location,
                .ranges = &ranges[i],
                .range_count = 1,
            };
        }
        const struct disk_fault fault = {.call = DISK_CALL_READ, .first = round};
        if (round >= 2) {
            assert_true(disk_fault_add(fx.disk, &fault));
        }
        enum umbp_status status = ssd_read(fx.tier, reads, COUNT, NULL, NULL, fx_soon());
        disk_fault_clear(fx.disk);
        unsigned failed = 0;
        for (uint32_t i = 0; i < COUNT; i++) {
            failed += reads[i].status != UMBP_OK;
            assert_true(reads[i].status != UMBP_OK ||
                        test_check_fill(values[i], 3000, reads[i].generation));
        }
        if (round < 2) {
            assert_int_equal(failed, round);
            assert_true(round == 0 || reads[50].status == UMBP_CORRUPT);
        } else if (status != UMBP_OK) {
            assert_in_range(failed, 1, 18); /* 17 blocks a piece */
        }
    }
    assert_true(disk_fault_calls(fx.disk, DISK_CALL_READ) - before < 9 * COUNT / 10);
    close_memory(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_comes_back_from_aligned_and_unaligned_memory),
        cmocka_unit_test(every_size_comes_back_from_a_real_disk),
        cmocka_unit_test(keys_of_every_length_hold_any_bytes),
        cmocka_unit_test(values_in_odd_pieces_come_back_into_odd_ranges),
        cmocka_unit_test(staged_padding_holds_zeros_and_no_other_value),
        cmocka_unit_test(many_tombstones_share_blocks_and_all_count),
        cmocka_unit_test(a_batch_spans_segments_and_syncs_once_for_each),
        cmocka_unit_test(a_batch_of_reads_ends_each_item_once),
        cmocka_unit_test(a_segment_made_ahead_is_used_next_and_never_left_behind),
        cmocka_unit_test(neighbours_that_are_read_together_fail_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
