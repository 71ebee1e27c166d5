/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of ranges: a put tiles its object exactly, a get takes what it likes of it. */
#include "contract.h"

#include <stdlib.h>
#include <string.h>

#define OBJECT_BYTES UINT64_C(200000) /* three pages and a bit */

struct object {
    unsigned char *data;
    struct umbp_range *ranges;
    size_t count;
};

/* Cut OBJECT_BYTES of test_fill(tag) into `count` pieces of uneven size, in order. */
static struct object object_cut(size_t count, uint64_t tag)
{
    struct object object = {.data = malloc(OBJECT_BYTES), .count = count};
    object.ranges = calloc(count, sizeof(*object.ranges));
    test_fill(object.data, OBJECT_BYTES, tag);
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t end = i + 1 == count ? OBJECT_BYTES : (i + 1) * OBJECT_BYTES / count + i % 3;
        object.ranges[i] = (struct umbp_range){object.data + at, end - at, at};
        at = end;
    }
    return object;
}

static void object_shuffle(struct object *object)
{
    struct test_rng rng;
    test_rng_init(&rng, object->count);
    for (size_t i = object->count; i > 1; i--) {
        size_t j = test_rng_below(&rng, i);
        struct umbp_range swap = object->ranges[i - 1];
        object->ranges[i - 1] = object->ranges[j];
        object->ranges[j] = swap;
    }
}

static void object_free(struct object *object)
{
    free(object->data);
    free(object->ranges);
}

static enum umbp_status put_ranges(struct umbp_client *client, struct umbp_key key,
                                   const struct umbp_range *ranges, size_t count, uint64_t bytes)
{
    struct umbp_range_item item = {
        .key = key, .ranges = ranges, .range_count = count, .object_bytes = bytes, .depth = 4};
    enum umbp_status status = UMBP_CANCELLED;
    assert_ok(umbp_batch_put_ranges(client, &item, 1, &status));
    return status;
}

static enum umbp_status get_ranges(struct umbp_client *client, struct umbp_key key,
                                   const struct umbp_range *ranges, size_t count, uint64_t bytes)
{
    struct umbp_range_item item = {
        .key = key, .ranges = ranges, .range_count = count, .object_bytes = bytes};
    enum umbp_status status = UMBP_CANCELLED;
    assert_ok(umbp_batch_get_ranges(client, &item, 1, &status));
    return status;
}

static void ranges_that_tile_an_object_are_stored_in_any_order(void **state)
{
    static const size_t counts[] = {1, 2, 3, 63, 64, 65, 1000};
    struct fixture fixture = fixture_open(NULL);
    char room[TEST_KEY_ROOM];
    (void)state;

    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
        for (unsigned shuffled = 0; shuffled < 2; shuffled++) {
            uint64_t tag = c * 2 + shuffled;
            struct umbp_key key = test_key_number(room, "tiled", tag);
            struct object object = object_cut(counts[c], tag);
            if (shuffled) {
                object_shuffle(&object);
            }
            assert_ok(put_ranges(fixture.client, key, object.ranges, object.count, OBJECT_BYTES));
            assert_ok(test_get(fixture.client, key, OBJECT_BYTES, tag));
            memset(object.data, 0, OBJECT_BYTES);
            assert_ok(get_ranges(fixture.client, key, object.ranges, object.count, OBJECT_BYTES));
            assert_true(test_check_fill(object.data, OBJECT_BYTES, tag));
            assert_status(
                put_ranges(fixture.client, key, object.ranges, object.count, OBJECT_BYTES),
                UMBP_ALREADY_EXISTS);
            object_free(&object);
        }
    }
    fixture_close(&fixture);
}

static void ranges_with_a_gap_an_overlap_or_no_bytes_are_refused_and_nothing_is_stored(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct umbp_key key = test_key("untiled");
    (void)state;

    for (unsigned shuffled = 0; shuffled < 2; shuffled++) {
        for (unsigned kind = 0; kind < 9; kind++) {
            struct object object = object_cut(90, 1);
            uint64_t bytes = OBJECT_BYTES;
            size_t count = object.count;
            switch (kind) {
            case 0: /* a gap */
                object.ranges[40].bytes--;
                break;
            case 1: /* an overlap */
                object.ranges[40].offset--;
                object.ranges[40].bytes++;
                break;
            case 2: /* one of no bytes */
                object.ranges[40].bytes = 0;
                break;
            case 3: /* the last goes past the end */
                object.ranges[89].bytes++;
                break;
            case 4: /* the last is missing */
                count--;
                break;
            case 5: /* the object is said to be longer */
                bytes++;
                break;
            case 6: /* ... and shorter */
                bytes--;
                break;
            case 7: /* sums right, places wrong */
                object.ranges[10].offset = object.ranges[9].offset;
                break;
            default: /* offset + bytes overflows */
                object.ranges[89].offset = UINT64_MAX - 1;
                break;
            }
            if (shuffled) {
                object.count = count;
                object_shuffle(&object);
            }
            assert_status(put_ranges(fixture.client, key, object.ranges, count, bytes),
                          UMBP_INVALID_RANGE);
            assert_status(umbp_exists(fixture.client, key), UMBP_NOT_FOUND);
            object_free(&object);
        }
    }
    assert_status(put_ranges(fixture.client, key, NULL, 0, 10), UMBP_INVALID_RANGE);
    assert_int_equal(fixture_stat(&fixture, "dram.bytes_used"), 0);
    fixture_close(&fixture);
}

static void an_empty_object_has_no_ranges(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct umbp_key key = test_key("nothing");
    (void)state;
    assert_ok(put_ranges(fixture.client, key, NULL, 0, 0));
    assert_ok(umbp_get(fixture.client, key, NULL, 0));
    assert_ok(get_ranges(fixture.client, key, NULL, 0, 0));
    fixture_close(&fixture);
}

static void a_get_takes_any_ranges_inside_the_object_also_overlapping_ones(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct umbp_key key = test_key("object");
    struct test_rng rng;
    unsigned char *whole = malloc(OBJECT_BYTES);
    unsigned char *pieces = malloc(64 * 70000);
    struct umbp_range ranges[64];
    (void)state;

    test_fill(whole, OBJECT_BYTES, 8);
    assert_ok(test_put(fixture.client, key, OBJECT_BYTES, 8));
    test_rng_init(&rng, 31);
    for (unsigned round = 0; round < (test_is_slow() ? 20 : 100); round++) {
        size_t count = 1 + test_rng_below(&rng, 64);
        memset(pieces, 0, 64 * 70000);
        for (size_t i = 0; i < count; i++) {
            uint64_t bytes = 1 + test_rng_below(&rng, i % 4 == 0 ? 69999 : 300);
            uint64_t offset = test_rng_below(&rng, OBJECT_BYTES - bytes + 1);
            ranges[i] = (struct umbp_range){pieces + i * 70000, bytes, offset};
        }
        assert_ok(get_ranges(fixture.client, key, ranges, count, round % 2 ? OBJECT_BYTES : 0));
        for (size_t i = 0; i < count; i++) {
            assert_memory_equal(ranges[i].data, whole + ranges[i].offset, ranges[i].bytes);
            assert_int_equal(pieces[i * 70000 + ranges[i].bytes], 0); /* and not a byte more */
        }
    }
    /* The first and the last byte, and each side of a page boundary. */
    static const uint64_t single[] = {0, OBJECT_BYTES - 1, 65535, 65536, 131071, 131072};
    for (size_t i = 0; i < 6; i++) {
        ranges[0] = (struct umbp_range){pieces, 1, single[i]};
        assert_ok(get_ranges(fixture.client, key, ranges, 1, OBJECT_BYTES));
        assert_int_equal(pieces[0], whole[single[i]]);
    }
    free(whole);
    free(pieces);
    fixture_close(&fixture);
}

static void a_range_past_the_end_is_refused_by_a_get(void **state)
{
    static const struct {
        uint64_t bytes;
        uint64_t offset;
    } bad[] = {{1, OBJECT_BYTES}, {OBJECT_BYTES + 1, 0}, {2, OBJECT_BYTES - 1},
               {1, UINT64_MAX},   {UINT64_MAX, 1},       {UINT64_MAX, UINT64_MAX}};
    struct fixture fixture = fixture_open(NULL);
    struct umbp_key key = test_key("object");
    char byte = 'x';
    (void)state;
    assert_ok(test_put(fixture.client, key, OBJECT_BYTES, 8));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct umbp_range range = {&byte, bad[i].bytes, bad[i].offset};
        assert_status(get_ranges(fixture.client, key, &range, 1, OBJECT_BYTES), UMBP_INVALID_RANGE);
        assert_status(get_ranges(fixture.client, key, &range, 1, 0), UMBP_INVALID_RANGE);
        assert_int_equal(byte, 'x');
    }
    fixture_close(&fixture);
}

static void a_ranged_get_of_another_object_size_is_refused_and_moves_no_byte(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct umbp_key key = test_key("object");
    char byte = 'x';
    struct umbp_range range = {&byte, 1, 0};
    (void)state;
    assert_ok(test_put(fixture.client, key, OBJECT_BYTES, 8));
    assert_status(get_ranges(fixture.client, key, &range, 1, OBJECT_BYTES - 1), UMBP_SIZE_MISMATCH);
    assert_status(get_ranges(fixture.client, key, &range, 1, OBJECT_BYTES + 1), UMBP_SIZE_MISMATCH);
    assert_int_equal(byte, 'x');
    assert_status(get_ranges(fixture.client, test_key("other"), &range, 1, 0), UMBP_NOT_FOUND);
    fixture_close(&fixture);
}

static void a_bad_ranged_item_leaves_its_neighbours_alone(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct object object = object_cut(10, 3);
    struct umbp_range_item items[7];
    enum umbp_status statuses[7];
    char rooms[7][TEST_KEY_ROOM];
    struct umbp_range no_data = {NULL, OBJECT_BYTES, 0};
    (void)state;

    for (size_t i = 0; i < 7; i++) {
        items[i] = (struct umbp_range_item){.key = test_key_number(rooms[i], "r", i),
                                            .ranges = object.ranges,
                                            .range_count = object.count,
                                            .object_bytes = OBJECT_BYTES};
    }
    items[1].range_count--;
    items[2].key.bytes = 0;
    items[3].ranges = NULL;
    items[4].ranges = &no_data;
    items[4].range_count = 1;
    items[5].range_count = UMBP_RANGES_MAX + 1;
    static const enum umbp_status want[7] = {UMBP_OK,
                                             UMBP_INVALID_RANGE,
                                             UMBP_INVALID_KEY,
                                             UMBP_INVALID_VALUE,
                                             UMBP_INVALID_VALUE,
                                             UMBP_LIMIT,
                                             UMBP_OK};
    assert_ok(umbp_batch_put_ranges(fixture.client, items, 7, statuses));
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(statuses[i], want[i]);
    }
    assert_ok(test_get(fixture.client, items[0].key, OBJECT_BYTES, 3));
    assert_ok(test_get(fixture.client, items[6].key, OBJECT_BYTES, 3));
    assert_int_equal(fixture_stat(&fixture, "keys"), 2);

    items[1] = items[0];
    items[1].object_bytes = 7;
    items[3].key = items[0].key;
    items[4].key = items[0].key;
    items[5].key = items[0].key;
    static const enum umbp_status got[7] = {UMBP_OK,
                                            UMBP_SIZE_MISMATCH,
                                            UMBP_INVALID_KEY,
                                            UMBP_INVALID_VALUE,
                                            UMBP_INVALID_VALUE,
                                            UMBP_LIMIT,
                                            UMBP_OK};
    assert_ok(umbp_batch_get_ranges(fixture.client, items, 7, statuses));
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(statuses[i], got[i]);
    }
    object_free(&object);
    fixture_close(&fixture);
}

static void a_ranged_batch_over_the_limit_is_refused_whole(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct umbp_range_item *items = calloc(UMBP_BATCH_MAX + 1, sizeof(*items));
    enum umbp_status *statuses = calloc(UMBP_BATCH_MAX + 1, sizeof(*statuses));
    (void)state;
    assert_status(umbp_batch_put_ranges(fixture.client, items, UMBP_BATCH_MAX + 1, statuses),
                  UMBP_LIMIT);
    assert_int_equal(statuses[0], UMBP_OK); /* untouched */
    assert_status(umbp_batch_get_ranges(fixture.client, items, UMBP_BATCH_MAX + 1, statuses),
                  UMBP_LIMIT);
    assert_status(umbp_batch_put_ranges(fixture.client, NULL, 2, statuses), UMBP_INVALID_VALUE);
    assert_int_equal(statuses[1], UMBP_INVALID_VALUE);
    free(items);
    free(statuses);
    fixture_close(&fixture);
}

int contract_run_ranges(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_that_tile_an_object_are_stored_in_any_order),
        cmocka_unit_test(
            ranges_with_a_gap_an_overlap_or_no_bytes_are_refused_and_nothing_is_stored),
        cmocka_unit_test(an_empty_object_has_no_ranges),
        cmocka_unit_test(a_get_takes_any_ranges_inside_the_object_also_overlapping_ones),
        cmocka_unit_test(a_range_past_the_end_is_refused_by_a_get),
        cmocka_unit_test(a_ranged_get_of_another_object_size_is_refused_and_moves_no_byte),
        cmocka_unit_test(a_bad_ranged_item_leaves_its_neighbours_alone),
        cmocka_unit_test(a_ranged_batch_over_the_limit_is_refused_whole),
    };
    return contract_factory()->supports_ranges ? CONTRACT_TESTS("ranges", tests) : 0;
}
