/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of batches: one status an item, and no item is another's trouble. */
#include "contract.h"

#include <stdlib.h>
#include <string.h>

/* A batch of `count` values of `bytes` each, keys "<prefix>-<i>", contents by tag i. */
struct batch {
    size_t count;
    uint64_t bytes;
    char (*rooms)[TEST_KEY_ROOM];
    struct umbp_key *keys;
    unsigned char *data;
    struct umbp_put_item *puts;
    struct umbp_get_item *gets;
    enum umbp_status *statuses;
};

static struct batch batch_make(const char *prefix, size_t count, uint64_t bytes)
{
    struct batch batch = {.count = count, .bytes = bytes};
    batch.rooms = calloc(count, sizeof(*batch.rooms));
    batch.keys = calloc(count, sizeof(*batch.keys));
    batch.data = malloc(count * bytes + 1);
    batch.puts = calloc(count, sizeof(*batch.puts));
    batch.gets = calloc(count, sizeof(*batch.gets));
    batch.statuses = calloc(count, sizeof(*batch.statuses));
    for (size_t i = 0; i < count; i++) {
        unsigned char *data = batch.data + i * bytes;
        batch.keys[i] = test_key_number(batch.rooms[i], prefix, i);
        test_fill(data, bytes, i);
        batch.puts[i] = (struct umbp_put_item){
            .key = batch.keys[i], .data = data, .bytes = bytes, .depth = (uint32_t)i};
        batch.gets[i] = (struct umbp_get_item){.key = batch.keys[i], .data = data, .bytes = bytes};
    }
    return batch;
}

/* No status may be what it was before the call. */
static void batch_taint(struct batch *batch)
{
    for (size_t i = 0; i < batch->count; i++) {
        batch->statuses[i] = UMBP_CANCELLED;
    }
}

static void batch_free(struct batch *batch)
{
    free(batch->rooms);
    free(batch->keys);
    free(batch->data);
    free(batch->puts);
    free(batch->gets);
    free(batch->statuses);
}

static void assert_statuses(const struct batch *batch, enum umbp_status status)
{
    for (size_t i = 0; i < batch->count; i++) {
        assert_int_equal(batch->statuses[i], status);
    }
}

static void batches_of_every_length_give_back_what_was_put(void **state)
{
    static const size_t lengths[] = {1, 2, 63, 64, 65, 127, 128, 129, 1000};
    struct fixture fixture = fixture_open(NULL);
    (void)state;
    for (size_t l = 0; l < sizeof(lengths) / sizeof(lengths[0]); l++) {
        struct batch batch = batch_make("b", lengths[l], 1000 + l);
        batch_taint(&batch);
        assert_ok(umbp_batch_put(fixture.client, batch.puts, batch.count, batch.statuses));
        assert_statuses(&batch, UMBP_OK);
        batch_taint(&batch);
        assert_ok(umbp_batch_put(fixture.client, batch.puts, batch.count, batch.statuses));
        assert_statuses(&batch, UMBP_ALREADY_EXISTS);
        memset(batch.data, 0xEE, batch.count * batch.bytes);
        batch_taint(&batch);
        assert_ok(umbp_batch_get(fixture.client, batch.gets, batch.count, batch.statuses));
        assert_statuses(&batch, UMBP_OK);
        for (size_t i = 0; i < batch.count; i++) {
            assert_true(test_check_fill(batch.gets[i].data, batch.bytes, i));
        }
        batch_taint(&batch);
        assert_ok(umbp_batch_remove(fixture.client, batch.keys, batch.count, batch.statuses));
        assert_statuses(&batch, UMBP_OK);
        batch_taint(&batch);
        assert_ok(umbp_batch_get(fixture.client, batch.gets, batch.count, batch.statuses));
        assert_statuses(&batch, UMBP_NOT_FOUND);
        batch_free(&batch);
    }
    fixture_close(&fixture);
}

static void an_empty_batch_is_fine(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    size_t hits = 9;
    (void)state;
    assert_ok(umbp_batch_put(fixture.client, NULL, 0, NULL));
    assert_ok(umbp_batch_get(fixture.client, NULL, 0, NULL));
    assert_ok(umbp_batch_exists(fixture.client, NULL, 0, NULL));
    assert_ok(umbp_batch_exists_consecutive(fixture.client, NULL, 0, &hits));
    assert_int_equal(hits, 0);
    assert_ok(umbp_batch_remove(fixture.client, NULL, 0, NULL));
    assert_ok(umbp_batch_put_ranges(fixture.client, NULL, 0, NULL));
    assert_ok(umbp_batch_get_ranges(fixture.client, NULL, 0, NULL));
    fixture_close(&fixture);
}

static void a_bad_item_in_the_middle_leaves_its_neighbours_alone(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct batch batch = batch_make("k", 200, 700);
    void *large = calloc(1, CONTRACT_DRAM_BYTES + 1);
    (void)state;

    batch.puts[100].key.bytes = 0;
    batch.puts[101].data = NULL;
    batch.puts[102].key.bytes = UMBP_KEY_BYTES_MAX + 1;
    batch.puts[103].data = large;
    batch.puts[103].bytes = CONTRACT_DRAM_BYTES + 1;
    assert_ok(umbp_batch_put(fixture.client, batch.puts, batch.count, batch.statuses));
    for (size_t i = 0; i < batch.count; i++) {
        const enum umbp_status bad[] = {UMBP_INVALID_KEY, UMBP_INVALID_VALUE, UMBP_INVALID_KEY,
                                        UMBP_TOO_LARGE};
        assert_int_equal(batch.statuses[i], i >= 100 && i < 104 ? bad[i - 100] : UMBP_OK);
    }

    batch.gets[50].key.bytes = 0;
    batch.gets[51].bytes = 699;
    batch.gets[52].data = NULL;
    memset(batch.data, 0xEE, batch.count * batch.bytes);
    assert_ok(umbp_batch_get(fixture.client, batch.gets, batch.count, batch.statuses));
    for (size_t i = 0; i < batch.count; i++) {
        static const enum umbp_status bad[] = {UMBP_INVALID_KEY, UMBP_SIZE_MISMATCH,
                                               UMBP_INVALID_VALUE};
        enum umbp_status want = i >= 50 && i < 53     ? bad[i - 50]
                                : i >= 100 && i < 104 ? UMBP_NOT_FOUND
                                                      : UMBP_OK;
        assert_int_equal(batch.statuses[i], want);
        if (want == UMBP_OK) {
            assert_true(test_check_fill(batch.gets[i].data, batch.bytes, i));
        }
    }

    batch.keys[30].bytes = 0;
    assert_ok(umbp_batch_remove(fixture.client, batch.keys, batch.count, batch.statuses));
    for (size_t i = 0; i < batch.count; i++) {
        assert_int_equal(batch.statuses[i], i == 30               ? UMBP_INVALID_KEY
                                            : i >= 100 && i < 104 ? UMBP_NOT_FOUND
                                                                  : UMBP_OK);
    }
    free(large);
    batch_free(&batch);
    fixture_close(&fixture);
}

static void a_key_that_is_twice_in_a_batch_is_stored_once_and_served_twice(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct batch batch = batch_make("k", 150, 640);
    (void)state;
    /* Pairs next to each other, in one window, and far apart. */
    batch.puts[11].key = batch.puts[10].key;
    batch.puts[60].key = batch.puts[5].key;
    batch.puts[140].key = batch.puts[5].key;
    for (unsigned round = 0; round < 3; round++) {
        assert_ok(umbp_batch_put(fixture.client, batch.puts, batch.count, batch.statuses));
        for (size_t i = 0; i < batch.count; i++) {
            bool again = round > 0 || i == 11 || i == 60 || i == 140;
            assert_int_equal(batch.statuses[i], again ? UMBP_ALREADY_EXISTS : UMBP_OK);
        }
    }
    /* 147 values of 640 bytes, and not a granule more (fault 11). */
    assert_int_equal(fixture_stat(&fixture, "keys"), 147);
    assert_int_equal(fixture_stat(&fixture, "dram.bytes_used"), 147 * 640);

    batch.gets[11].key = batch.gets[10].key;
    batch.gets[140].key = batch.gets[5].key;
    batch.gets[60].key = batch.gets[5].key;
    memset(batch.data, 0, batch.count * batch.bytes);
    assert_ok(umbp_batch_get(fixture.client, batch.gets, batch.count, batch.statuses));
    assert_statuses(&batch, UMBP_OK);
    for (size_t i = 0; i < batch.count; i++) {
        uint64_t tag = i == 11 ? 10 : i == 60 || i == 140 ? 5 : i;
        assert_true(test_check_fill(batch.gets[i].data, batch.bytes, tag));
    }

    struct umbp_key twice[2] = {batch.keys[7], batch.keys[7]};
    assert_ok(umbp_batch_remove(fixture.client, twice, 2, batch.statuses));
    assert_int_equal(batch.statuses[0], UMBP_OK);
    assert_int_equal(batch.statuses[1], UMBP_NOT_FOUND);
    batch_free(&batch);
    fixture_close(&fixture);
}

static void a_batch_over_the_limit_is_refused_whole_and_touches_nothing(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct batch batch = batch_make("k", UMBP_BATCH_MAX + 1, 1);
    uint8_t *found = malloc(batch.count);
    size_t hits = 7;
    (void)state;

    batch_taint(&batch);
    assert_status(umbp_batch_put(fixture.client, batch.puts, batch.count, batch.statuses),
                  UMBP_LIMIT);
    assert_statuses(&batch, UMBP_CANCELLED); /* also the statuses are not touched */
    assert_int_equal(fixture_stat(&fixture, "keys"), 0);
    batch_taint(&batch);
    assert_status(umbp_batch_get(fixture.client, batch.gets, batch.count, batch.statuses),
                  UMBP_LIMIT);
    assert_statuses(&batch, UMBP_CANCELLED);
    assert_status(umbp_batch_exists(fixture.client, batch.keys, batch.count, found), UMBP_LIMIT);
    assert_status(umbp_batch_exists_consecutive(fixture.client, batch.keys, batch.count, &hits),
                  UMBP_LIMIT);
    assert_int_equal(hits, 7);
    batch_taint(&batch);
    assert_status(umbp_batch_remove(fixture.client, batch.keys, batch.count, batch.statuses),
                  UMBP_LIMIT);
    assert_statuses(&batch, UMBP_CANCELLED);

    /* One less is fine. */
    assert_ok(umbp_batch_exists(fixture.client, batch.keys, UMBP_BATCH_MAX, found));
    assert_int_equal(found[UMBP_BATCH_MAX - 1], 0);
    assert_ok(umbp_batch_put(fixture.client, batch.puts, UMBP_BATCH_MAX, batch.statuses));
    for (size_t i = 0; i < UMBP_BATCH_MAX; i++) {
        assert_int_equal(batch.statuses[i], UMBP_OK);
    }
    free(found);
    batch_free(&batch);
    fixture_close(&fixture);
}

static void a_batch_larger_than_the_tier_stores_each_item_and_keeps_the_last(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    const size_t fit = CONTRACT_DRAM_BYTES / CONTRACT_PAGE_BYTES;
    struct batch batch = batch_make("k", 3 * fit + 5, CONTRACT_PAGE_BYTES);
    size_t held = 0;
    (void)state;

    for (size_t i = 0; i < batch.count; i++) {
        batch.puts[i].depth = UMBP_DEPTH_NONE; /* so that every policy goes by age alone */
    }
    assert_ok(umbp_batch_put(fixture.client, batch.puts, batch.count, batch.statuses));
    assert_statuses(&batch, UMBP_OK);
    assert_ok(umbp_flush(fixture.client, 0));
    memset(batch.data, 0, batch.count * batch.bytes);
    assert_ok(umbp_batch_get(fixture.client, batch.gets, batch.count, batch.statuses));
    for (size_t i = 0; i < batch.count; i++) {
        if (batch.statuses[i] == UMBP_OK) {
            assert_true(test_check_fill(batch.gets[i].data, batch.bytes, i));
            held++;
        } else {
            assert_int_equal(batch.statuses[i], UMBP_NOT_FOUND);
            assert_true(i < batch.count - fit * 3 / 4); /* the newest stay */
        }
    }
    assert_true(held >= fit * 3 / 4);
    batch_free(&batch);
    fixture_close(&fixture);
}

static void a_batch_larger_than_the_tier_and_full_of_large_values_loses_no_page(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct batch batch = batch_make("k", 9, CONTRACT_DRAM_BYTES / 2 + 1);
    (void)state;
    assert_ok(umbp_batch_put(fixture.client, batch.puts, batch.count, batch.statuses));
    assert_statuses(&batch, UMBP_OK);
    assert_ok(umbp_get(fixture.client, batch.keys[8], batch.data, batch.bytes));
    assert_true(test_check_fill(batch.data, batch.bytes, 8));
    batch_free(&batch);
    fixture_close(&fixture);
}

static void
batch_exists_tells_each_key_and_its_consecutive_form_stops_at_the_first_miss(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct batch batch = batch_make("k", 400, 64);
    static const size_t missing[] = {399, 300, 256, 255, 129, 128, 127, 64, 1, 0};
    uint8_t found[400];
    size_t hits;
    (void)state;

    assert_ok(umbp_batch_put(fixture.client, batch.puts, batch.count, batch.statuses));
    assert_ok(umbp_batch_exists_consecutive(fixture.client, batch.keys, 400, &hits));
    assert_int_equal(hits, 400);
    for (size_t m = 0; m < sizeof(missing) / sizeof(missing[0]); m++) {
        assert_ok(umbp_remove(fixture.client, batch.keys[missing[m]]));
        assert_ok(umbp_batch_exists_consecutive(fixture.client, batch.keys, 400, &hits));
        assert_int_equal(hits, missing[m]);
        memset(found, 9, sizeof(found));
        assert_ok(umbp_batch_exists(fixture.client, batch.keys, 400, found));
        for (size_t i = 0; i < 400; i++) {
            bool gone = false;
            for (size_t g = 0; g <= m; g++) {
                gone |= missing[g] == i;
            }
            assert_int_equal(found[i], !gone);
        }
    }
    /* A key of bad length is a miss like another. */
    batch.keys[2].bytes = 0;
    assert_ok(umbp_batch_exists_consecutive(fixture.client, batch.keys + 2, 10, &hits));
    assert_int_equal(hits, 0);
    batch_free(&batch);
    fixture_close(&fixture);
}

static void a_missing_array_is_refused_for_all_items(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct batch batch = batch_make("k", 3, 8);
    (void)state;
    batch_taint(&batch);
    assert_status(umbp_batch_put(fixture.client, NULL, 3, batch.statuses), UMBP_INVALID_VALUE);
    assert_statuses(&batch, UMBP_INVALID_VALUE);
    batch_taint(&batch);
    assert_status(umbp_batch_get(fixture.client, NULL, 3, batch.statuses), UMBP_INVALID_VALUE);
    assert_statuses(&batch, UMBP_INVALID_VALUE);
    batch_taint(&batch);
    assert_status(umbp_batch_remove(fixture.client, NULL, 3, batch.statuses), UMBP_INVALID_VALUE);
    assert_statuses(&batch, UMBP_INVALID_VALUE);
    assert_status(umbp_batch_put(fixture.client, batch.puts, 3, NULL), UMBP_INVALID_VALUE);
    assert_status(umbp_batch_get(fixture.client, batch.gets, 3, NULL), UMBP_INVALID_VALUE);
    assert_status(umbp_batch_remove(fixture.client, batch.keys, 3, NULL), UMBP_INVALID_VALUE);
    assert_status(umbp_batch_exists(fixture.client, batch.keys, 3, NULL), UMBP_INVALID_VALUE);
    assert_status(umbp_batch_exists_consecutive(fixture.client, batch.keys, 3, NULL),
                  UMBP_INVALID_VALUE);
    assert_int_equal(fixture_stat(&fixture, "keys"), 0);
    batch_free(&batch);
    fixture_close(&fixture);
}

static void a_batch_may_mix_sizes_from_nothing_to_half_the_tier(void **state)
{
    static const uint64_t sizes[] = {0, 1, 64, 65, 4096, 70000, 1048577, 3, 0, 131072, 2000};
    const size_t count = sizeof(sizes) / sizeof(sizes[0]);
    struct fixture fixture = fixture_open(NULL);
    struct umbp_put_item puts[sizeof(sizes) / sizeof(sizes[0])];
    struct umbp_get_item gets[sizeof(sizes) / sizeof(sizes[0])];
    enum umbp_status statuses[sizeof(sizes) / sizeof(sizes[0])];
    char rooms[sizeof(sizes) / sizeof(sizes[0])][TEST_KEY_ROOM];
    (void)state;

    for (size_t i = 0; i < count; i++) {
        void *data = malloc(sizes[i] + 1);
        test_fill(data, sizes[i], 90 + i);
        struct umbp_key key = test_key_number(rooms[i], "mix", i);
        puts[i] = (struct umbp_put_item){.key = key, .data = data, .bytes = sizes[i]};
        gets[i] = (struct umbp_get_item){.key = key, .data = data, .bytes = sizes[i]};
    }
    assert_ok(umbp_batch_put(fixture.client, puts, count, statuses));
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(statuses[i], UMBP_OK);
        memset(gets[i].data, 0, sizes[i]);
    }
    assert_ok(umbp_batch_get(fixture.client, gets, count, statuses));
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(statuses[i], UMBP_OK);
        assert_true(test_check_fill(gets[i].data, sizes[i], 90 + i));
        free(gets[i].data);
    }
    fixture_close(&fixture);
}

int contract_run_batches(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_of_every_length_give_back_what_was_put),
        cmocka_unit_test(an_empty_batch_is_fine),
        cmocka_unit_test(a_bad_item_in_the_middle_leaves_its_neighbours_alone),
        cmocka_unit_test(a_key_that_is_twice_in_a_batch_is_stored_once_and_served_twice),
        cmocka_unit_test(a_batch_over_the_limit_is_refused_whole_and_touches_nothing),
        cmocka_unit_test(a_batch_larger_than_the_tier_stores_each_item_and_keeps_the_last),
        cmocka_unit_test(a_batch_larger_than_the_tier_and_full_of_large_values_loses_no_page),
        cmocka_unit_test(
            batch_exists_tells_each_key_and_its_consecutive_form_stops_at_the_first_miss),
        cmocka_unit_test(a_missing_array_is_refused_for_all_items),
        cmocka_unit_test(a_batch_may_mix_sizes_from_nothing_to_half_the_tier),
    };
    return CONTRACT_TESTS("batches", tests);
}
