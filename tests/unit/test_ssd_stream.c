/* SPDX-License-Identifier: Apache-2.0 */
/* A record in parts: what comes, when it is vouched for, what is wrong, and what it holds. */
#include "ssd_fixture.h"

#define PART ((uint64_t)64 << 10)

static void stream_init(struct fx *fx)
{
    fx_init(fx, fx_faulty(fx_memory_disk()), "d");
    fx->options.segment_bytes = 2u << 20;
    fx->options.io_bytes = 64u << 10;
    fx->options.queue_depth = 2;
    fx_open(fx);
}

static void stream_fini(struct fx *fx)
{
    struct ssd_stats stats;
    ssd_stats(fx->tier, &stats);
    assert_int_equal(stats.streams_open, 0);
    fx_close(fx);
    disk_destroy(fx->disk);
}

static uint8_t key_bytes[SSD_BLOCK_BYTES];

static enum umbp_status stream_open(struct fx *fx, uint32_t number, struct ssd_stream *stream)
{
    const struct fx_slot *slot = &fx->index[number];
    fx_key(number, key_bytes, fx_key_bytes(number));
    return ssd_stream_open(fx->tier, (struct ssd_key){key_bytes, fx_key_bytes(number)},
                           slot->generation, slot->bytes, slot->location, stream);
}

/* The next part into its place in `value`. */
static enum umbp_status next(struct ssd_stream *stream, uint8_t *value, uint64_t from,
                             uint64_t bytes)
{
    const struct ssd_range range = {.to = value + from, .bytes = bytes, .offset = from};
    return ssd_stream_next(stream, bytes, &range, 1, fx_soon());
}

/* Every part up to the end, or to what is not UMBP_OK. Only the last one vouches. */
static enum umbp_status rest(struct ssd_stream *stream, uint8_t *value, uint64_t from,
                             uint64_t bytes, uint64_t part)
{
    enum umbp_status status;
    do {
        uint64_t now = u64_min(part, bytes - from);
        assert_false(stream->is_whole);
        status = next(stream, value, from, now);
        from += now;
        assert_true(stream->is_whole == (status == UMBP_OK && from == bytes));
    } while (status == UMBP_OK && from < bytes);
    return status;
}

static struct ssd_stats stats_now(const struct fx *fx)
{
    struct ssd_stats stats;
    ssd_stats(fx->tier, &stats);
    return stats;
}

static void parts_make_up_the_value_and_come_from_the_disk_once(void **state)
{
    const uint64_t sizes[] = {0,    1,        100,      4031,         4096,    5000,   PART - 1,
                              PART, PART + 1, 2 * PART, 2 * PART + 1, 1000000, 1 << 20};
    const uint64_t parts[] = {4096, 12288, PART, 5 * PART, 1 << 21};
    uint8_t *value = malloc(1 << 20);
    struct fx fx;
    (void)state;
    stream_init(&fx);
    for (uint32_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        assert_ok(fx_put(&fx, i, sizes[i]));
        for (unsigned p = 0; p < ARRAY_COUNT(parts); p++) {
            struct ssd_stream stream;
            bool is_inline = sizes[i] + 64 + fx_key_bytes(i) <= SSD_BLOCK_BYTES;
            uint64_t blocks = is_inline ? 1 : 1 + div_round_up(sizes[i], SSD_BLOCK_BYTES);
            struct ssd_stats before = stats_now(&fx);
            memset(value, 0xee, sizes[i]);
            assert_ok(stream_open(&fx, i, &stream));
            assert_int_equal(stats_now(&fx).streams_open, 1);
            assert_ok(rest(&stream, value, 0, sizes[i], parts[p]));
            assert_true(test_check_fill(value, sizes[i], fx.index[i].generation));
            assert_status(next(&stream, value, 0, 0), UMBP_INVALID_VALUE); /* there is no more */
            ssd_stream_close(&stream);
            ssd_stream_close(&stream);
            struct ssd_stats after = stats_now(&fx);
            assert_int_equal(after.bytes_read - before.bytes_read, blocks * SSD_BLOCK_BYTES);
            assert_int_equal(after.records_read - before.records_read, 1);
        }
    }
    free(value);
    stream_fini(&fx);
}

/* What nobody wants is read for the sum, and written nowhere. */
static void ranges_get_what_of_a_part_they_want(void **state)
{
    uint8_t value[5 * 4096];
    uint8_t want[5 * 4096];
    struct fx fx;
    struct ssd_stream stream;
    (void)state;
    stream_init(&fx);
    assert_ok(fx_put(&fx, 0, sizeof(value)));
    test_fill(want, sizeof(want), fx.index[0].generation);
    memset(value, 0xee, sizeof(value));
    const struct ssd_range ranges[] = {
        {.to = value + 100, .bytes = 10000, .offset = 100}, /* over three parts */
        {.to = value + 15000, .bytes = 5, .offset = 3},     /* out of order */
    };
    assert_ok(stream_open(&fx, 0, &stream));
    assert_ok(ssd_stream_next(&stream, 4096, ranges, 2, fx_soon()));
    assert_memory_equal(value + 100, want + 100, 3996);
    assert_memory_equal(value + 15000, want + 3, 5);
    assert_int_equal(value[4096], 0xee);
    assert_ok(ssd_stream_next(&stream, 4096, ranges, 1, fx_soon()));
    assert_ok(ssd_stream_next(&stream, 4096, ranges, 1, fx_soon()));
    assert_memory_equal(value + 100, want + 100, 10000);
    assert_int_equal(value[10100], 0xee);
    assert_ok(ssd_stream_next(&stream, 2 * 4096, NULL, 0, fx_soon()));
    assert_true(stream.is_whole);
    ssd_stream_close(&stream);
    stream_fini(&fx);
}

static void a_part_that_can_not_be_is_refused_and_costs_nothing(void **state)
{
    uint8_t *value = malloc(100000);
    struct ssd_stream stream = {0};
    struct fx fx;
    (void)state;
    assert_status(next(&stream, value, 0, 4096), UMBP_INVALID_VALUE); /* not open */
    ssd_stream_close(&stream);
    stream_init(&fx);
    assert_ok(fx_put(&fx, 0, 100000));
    assert_ok(stream_open(&fx, 0, &stream));
    assert_status(next(&stream, value, 0, 0), UMBP_INVALID_VALUE);
    assert_status(next(&stream, value, 0, 5000), UMBP_INVALID_VALUE);
    assert_status(next(&stream, value, 0, 102400), UMBP_INVALID_VALUE);
    assert_ok(rest(&stream, value, 0, 100000, 8192));
    assert_true(test_check_fill(value, 100000, fx.index[0].generation));
    ssd_stream_close(&stream);
    fx.index[1] = fx.index[0];
    fx.index[1].location.block = 0; /* the segment's own header */
    assert_status(stream_open(&fx, 1, &stream), UMBP_INVALID_VALUE);
    fx.index[1].location = (struct ssd_location){99999, 1};
    assert_status(stream_open(&fx, 1, &stream), UMBP_STALE);
    free(value);
    stream_fini(&fx);
}

/* The head proves the record before any byte is passed on. */
static void another_record_is_found_out_with_the_first_part(void **state)
{
    const uint64_t bytes = 3 * PART;
    uint8_t *value = malloc(bytes);
    struct fx fx;
    (void)state;
    stream_init(&fx);
    assert_ok(fx_put(&fx, 0, bytes));
    const struct fx_slot right = fx.index[0];
    for (unsigned wrong = 0; wrong < 3; wrong++) {
        struct ssd_stream stream;
        fx.index[0] = right;
        fx.index[0].generation += wrong == 0;
        fx.index[0].location.block += wrong == 1;
        fx.index[0].bytes -= wrong == 2;
        assert_ok(stream_open(&fx, 0, &stream));
        assert_status(next(&stream, value, 0, PART), UMBP_CORRUPT);
        uint64_t reads = disk_fault_calls(fx.disk, DISK_CALL_READ);
        assert_status(next(&stream, value, PART, PART), UMBP_CORRUPT); /* for ever, without I/O */
        assert_int_equal(disk_fault_calls(fx.disk, DISK_CALL_READ), reads);
        assert_int_equal(stats_now(&fx).corrupt_records, wrong + 1);
        ssd_stream_close(&stream);
    }
    free(value);
    stream_fini(&fx);
}

static uint8_t *byte_of_value(struct disk *memory, const struct fx_slot *slot, uint64_t at)
{
    char path[64];
    uint64_t bytes = 0;
    uint64_t place = ((uint64_t)slot->location.block + 1) * SSD_BLOCK_BYTES + at;
    snprintf(path, sizeof(path), "d/%016x.seg", slot->location.segment);
    uint8_t *file = disk_memory_file(memory, path, &bytes);
    assert_non_null(file);
    assert_true(place < bytes);
    return file + place;
}

/* Whichever bit it is: the parts come, and the last one says that they are no good. */
static void a_flipped_bit_shows_with_the_last_part_and_is_counted_once(void **state)
{
    const uint64_t bytes = 4 * PART + 77;
    const uint64_t places[] = {0, PART - 1, PART, 2 * PART + 5, 4 * PART, 4 * PART + 76};
    struct disk *memory = fx_memory_disk();
    uint8_t *value = malloc(bytes);
    struct fx fx;
    (void)state;
    fx_init(&fx, fx_faulty(memory), "d");
    fx_open(&fx);
    assert_ok(fx_put(&fx, 0, bytes));
    for (unsigned i = 0; i < ARRAY_COUNT(places); i++) {
        struct ssd_stream stream;
        assert_ok(stream_open(&fx, 0, &stream));
        *byte_of_value(memory, &fx.index[0], places[i]) ^= 1;
        for (uint64_t from = 0; from < 4 * PART; from += PART) {
            assert_ok(next(&stream, value, from, PART));
        }
        assert_status(next(&stream, value, 4 * PART, 77), UMBP_CORRUPT);
        assert_false(stream.is_whole);
        assert_int_equal(stats_now(&fx).corrupt_records, i + 1);
        assert_status(next(&stream, value, 0, 4096), UMBP_CORRUPT);
        assert_int_equal(stats_now(&fx).corrupt_records, i + 1);
        ssd_stream_close(&stream);
        *byte_of_value(memory, &fx.index[0], places[i]) ^= 1;
    }
    assert_ok(fx_get(&fx, 0));
    free(value);
    stream_fini(&fx);
}

static void a_disk_that_fails_or_hangs_ends_the_stream(void **state)
{
    const uint64_t bytes = 6 * PART;
    uint8_t *value = malloc(bytes);
    (void)state;
    for (unsigned round = 0; round < 12; round++) {
        const bool hangs = round % 2;
        const struct disk_fault fault = {.call = DISK_CALL_READ,
                                         .first = 1 + round / 2,
                                         .action = hangs ? DISK_FAULT_NEVER : DISK_FAULT_FAIL};
        struct fx fx;
        struct ssd_stream stream;
        fx_init(&fx, fx_faulty(fx_memory_disk()), "d");
        fx.options.io_timeout_ms = 50;
        fx.options.segment_bytes = 2u << 20;
        fx_open(&fx);
        assert_ok(fx_put(&fx, 0, bytes));
        assert_true(disk_fault_add(fx.disk, &fault));
        assert_ok(stream_open(&fx, 0, &stream));
        enum umbp_status status = rest(&stream, value, 0, bytes, PART);
        assert_status(status, hangs ? UMBP_TIMEOUT : UMBP_IO);
        assert_status(next(&stream, value, 0, PART), status);
        ssd_stream_close(&stream);
        disk_fault_clear(fx.disk);
        assert_ok(stream_open(&fx, 0, &stream)); /* a new one starts anew */
        assert_ok(rest(&stream, value, 0, bytes, PART));
        assert_true(test_check_fill(value, bytes, fx.index[0].generation));
        ssd_stream_close(&stream);
        stream_fini(&fx);
    }
    free(value);
}

/* Released or cleared amid the parts: the file is gone at once, the bytes are there to the end. */
static void a_segment_that_goes_stays_readable_for_its_streams(void **state)
{
    const uint64_t bytes = 20 * PART;
    uint8_t *value = malloc(bytes);
    (void)state;
    for (unsigned how = 0; how < 2; how++) {
        struct fx fx;
        struct ssd_stream streams[2];
        uint32_t segment = 0;
        stream_init(&fx);
        assert_ok(fx_put(&fx, 0, bytes));
        assert_ok(stream_open(&fx, 0, &streams[0]));
        assert_ok(stream_open(&fx, 0, &streams[1]));
        memset(value, 0, bytes);
        assert_ok(next(&streams[0], value, 0, 3 * PART));
        if (how == 0) {
            assert_ok(ssd_victim(fx.tier, true, &segment, fx_soon()));
            assert_int_equal(segment, fx.index[0].location.segment);
            ssd_segment_release(fx.tier, segment);
        } else {
            assert_ok(ssd_clear(fx.tier, ++fx.generation, fx_soon()));
        }
        struct ssd_stream late;
        assert_status(stream_open(&fx, 0, &late), UMBP_STALE);
        assert_int_equal(stats_now(&fx).records_live, 0);
        for (uint32_t i = 1; i < 40; i++) { /* other files take its place */
            assert_ok(fx_put(&fx, i, 100000));
        }
        assert_ok(rest(&streams[0], value, 3 * PART, bytes, PART));
        assert_true(test_check_fill(value, bytes, fx.index[0].generation));
        ssd_stream_close(&streams[0]);
        ssd_stream_close(&streams[1]); /* one that was not read to its end */
        for (uint32_t i = 1; i < 40; i++) {
            assert_ok(fx_get(&fx, i));
        }
        stream_fini(&fx); /* asserts that no file was left open */
    }
    free(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_make_up_the_value_and_come_from_the_disk_once),
        cmocka_unit_test(ranges_get_what_of_a_part_they_want),
        cmocka_unit_test(a_part_that_can_not_be_is_refused_and_costs_nothing),
        cmocka_unit_test(another_record_is_found_out_with_the_first_part),
        cmocka_unit_test(a_flipped_bit_shows_with_the_last_part_and_is_counted_once),
        cmocka_unit_test(a_disk_that_fails_or_hangs_ends_the_stream),
        cmocka_unit_test(a_segment_that_goes_stays_readable_for_its_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
