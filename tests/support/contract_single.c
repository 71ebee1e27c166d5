/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of single values: put, get, exists, remove. */
#include "contract.h"

#include <stdlib.h>
#include <string.h>

#define KEY_MAX UMBP_KEY_BYTES_MAX

static void
a_get_returns_the_bytes_that_were_put_for_every_size_around_granules_and_pages(void **state)
{
    static const uint64_t around[] = {64, 128, 4096, 32768, 65536, 131072, 1048576};
    struct fixture fixture = fixture_open(NULL);
    char room[TEST_KEY_ROOM];
    (void)state;

    assert_ok(test_put(fixture.client, test_key("empty"), 0, 1));
    assert_ok(test_get(fixture.client, test_key("empty"), 0, 1));
    assert_ok(test_put(fixture.client, test_key("one"), 1, 2));
    assert_ok(test_get(fixture.client, test_key("one"), 1, 2));
    for (size_t i = 0; i < sizeof(around) / sizeof(around[0]); i++) {
        for (int64_t off = -1; off <= 1; off++) {
            uint64_t bytes = (uint64_t)((int64_t)around[i] + off);
            struct umbp_key key = test_key_number(room, "size", bytes);
            assert_ok(test_put(fixture.client, key, bytes, bytes));
            assert_ok(test_get(fixture.client, key, bytes, bytes));
        }
    }
    /* Those that share a page did not write over each other. */
    for (size_t i = 0; i < 5; i++) {
        for (int64_t off = -1; off <= 1; off++) {
            uint64_t bytes = (uint64_t)((int64_t)around[i] + off);
            assert_status(
                test_get(fixture.client, test_key_number(room, "size", bytes), bytes, bytes),
                UMBP_OK);
        }
    }
    fixture_close(&fixture);
}

static void a_value_of_exactly_the_tier_is_stored(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    (void)state;
    assert_ok(test_put(fixture.client, test_key("small"), 1000, 1));
    assert_ok(test_put(fixture.client, test_key("whole"), CONTRACT_DRAM_BYTES, 2));
    assert_ok(test_get(fixture.client, test_key("whole"), CONTRACT_DRAM_BYTES, 2));
    fixture_close(&fixture);
}

static void a_put_larger_than_the_tier_is_refused_and_evicts_nothing(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    char room[TEST_KEY_ROOM];
    const uint64_t held = CONTRACT_DRAM_BYTES / CONTRACT_PAGE_BYTES;
    (void)state;

    for (uint64_t i = 0; i < held; i++) {
        assert_ok(
            test_put(fixture.client, test_key_number(room, "held", i), CONTRACT_PAGE_BYTES, i));
    }
    void *data = calloc(1, CONTRACT_DRAM_BYTES + 1);
    assert_status(
        umbp_put(fixture.client, test_key("big"), data, CONTRACT_DRAM_BYTES + 1, UMBP_DEPTH_NONE),
        UMBP_TOO_LARGE);
    assert_status(
        umbp_put(fixture.client, test_key("big"), data, UMBP_VALUE_BYTES_MAX + 1, UMBP_DEPTH_NONE),
        UMBP_TOO_LARGE);
    assert_status(umbp_put(fixture.client, test_key("big"), data, UINT64_MAX, UMBP_DEPTH_NONE),
                  UMBP_TOO_LARGE);
    free(data);
    assert_status(umbp_exists(fixture.client, test_key("big")), UMBP_NOT_FOUND);
    assert_int_equal(fixture_stat(&fixture, "evictions.dram"), 0);
    for (uint64_t i = 0; i < held; i++) {
        assert_ok(
            test_get(fixture.client, test_key_number(room, "held", i), CONTRACT_PAGE_BYTES, i));
    }
    fixture_close(&fixture);
}

static void a_put_of_a_held_key_succeeds_and_keeps_the_first_value(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct umbp_key key = test_key("first-writer-wins");
    (void)state;
    assert_ok(test_put(fixture.client, key, 5000, 1));
    assert_status(test_put(fixture.client, key, 5000, 2), UMBP_ALREADY_EXISTS);
    assert_status(test_put(fixture.client, key, 7000, 3), UMBP_ALREADY_EXISTS);
    assert_true(umbp_status_is_success(UMBP_ALREADY_EXISTS));
    assert_ok(test_get(fixture.client, key, 5000, 1));
    assert_int_equal(fixture_stat(&fixture, "puts.stored"), 1);
    assert_int_equal(fixture_stat(&fixture, "puts.existing"), 2);
    fixture_close(&fixture);
}

static void a_get_of_another_size_is_refused_and_moves_no_byte(void **state)
{
    static const uint64_t wrong[] = {0, 1, 4999, 5001, 65536};
    struct fixture fixture = fixture_open(NULL);
    struct umbp_key key = test_key("sized");
    unsigned char *data = malloc(65536);
    (void)state;

    assert_ok(test_put(fixture.client, key, 5000, 1));
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        memset(data, 0x5A, 65536);
        assert_status(umbp_get(fixture.client, key, data, wrong[i]), UMBP_SIZE_MISMATCH);
        for (size_t at = 0; at < 65536; at++) {
            assert_int_equal(data[at], 0x5A);
        }
    }
    assert_status(umbp_get(fixture.client, key, data, UINT64_MAX), UMBP_SIZE_MISMATCH);
    assert_status(umbp_get(fixture.client, key, data, UINT64_MAX - 1), UMBP_SIZE_MISMATCH);
    assert_ok(test_get(fixture.client, key, 5000, 1));
    free(data);
    fixture_close(&fixture);
}

static void what_was_never_put_is_not_found(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct umbp_key key = test_key("absent");
    struct umbp_entry_info info = {.struct_bytes = sizeof(info)};
    char data[8];
    (void)state;
    assert_status(umbp_get(fixture.client, key, data, sizeof(data)), UMBP_NOT_FOUND);
    assert_status(umbp_exists(fixture.client, key), UMBP_NOT_FOUND);
    assert_status(umbp_remove(fixture.client, key), UMBP_NOT_FOUND);
    assert_status(umbp_stat(fixture.client, key, &info), UMBP_NOT_FOUND);
    fixture_close(&fixture);
}

static void a_removed_key_is_gone_and_may_be_put_anew(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct umbp_key key = test_key("removed");
    (void)state;
    for (uint64_t round = 1; round <= 20; round++) {
        assert_ok(test_put(fixture.client, key, 3000 + round, round));
        assert_ok(test_get(fixture.client, key, 3000 + round, round));
        assert_ok(umbp_remove(fixture.client, key));
        assert_status(umbp_exists(fixture.client, key), UMBP_NOT_FOUND);
        assert_status(test_get(fixture.client, key, 3000 + round, round), UMBP_NOT_FOUND);
        assert_status(umbp_remove(fixture.client, key), UMBP_NOT_FOUND);
    }
    fixture_close(&fixture);
}

static void check_key_is_refused(struct umbp_client *client, struct umbp_key key)
{
    struct umbp_entry_info info = {.struct_bytes = sizeof(info)};
    char data[4] = {0};
    enum umbp_status status = UMBP_OK;
    uint8_t found = 9;
    size_t hits = 9;
    struct umbp_range range = {data, sizeof(data), 0};
    struct umbp_range_item item = {
        .key = key, .ranges = &range, .range_count = 1, .object_bytes = sizeof(data)};

    assert_status(umbp_put(client, key, data, sizeof(data), UMBP_DEPTH_NONE), UMBP_INVALID_KEY);
    assert_status(umbp_get(client, key, data, sizeof(data)), UMBP_INVALID_KEY);
    assert_status(umbp_exists(client, key), UMBP_INVALID_KEY);
    assert_status(umbp_remove(client, key), UMBP_INVALID_KEY);
    assert_status(umbp_stat(client, key, &info), UMBP_INVALID_KEY);
    assert_ok(umbp_batch_exists(client, &key, 1, &found));
    assert_int_equal(found, 0);
    assert_ok(umbp_batch_exists_consecutive(client, &key, 1, &hits));
    assert_int_equal(hits, 0);
    assert_ok(umbp_batch_remove(client, &key, 1, &status));
    assert_status(status, UMBP_INVALID_KEY);
    if (umbp_client_supports_ranges(client)) {
        assert_ok(umbp_batch_put_ranges(client, &item, 1, &status));
        assert_status(status, UMBP_INVALID_KEY);
        assert_ok(umbp_batch_get_ranges(client, &item, 1, &status));
        assert_status(status, UMBP_INVALID_KEY);
    }
}

static void keys_of_1_to_1024_bytes_are_taken_and_others_refused_everywhere(void **state)
{
    static const size_t good[] = {1, 2, 7, 8, 63, 64, 65, 255, 256, 1023, 1024};
    struct fixture fixture = fixture_open(NULL);
    unsigned char bytes[KEY_MAX + 1];
    (void)state;

    test_fill(bytes, sizeof(bytes), 77);
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_ok(test_put(fixture.client, test_key_bytes(bytes, good[i]), 100 + i, i));
    }
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_ok(test_get(fixture.client, test_key_bytes(bytes, good[i]), 100 + i, i));
    }
    check_key_is_refused(fixture.client, test_key_bytes(bytes, 0));
    check_key_is_refused(fixture.client, test_key_bytes(bytes, KEY_MAX + 1));
    check_key_is_refused(fixture.client, test_key_bytes(bytes, SIZE_MAX));
    check_key_is_refused(fixture.client, test_key_bytes(NULL, 0));
    check_key_is_refused(fixture.client, test_key_bytes(NULL, 8));
    assert_int_equal(fixture_stat(&fixture, "keys"), sizeof(good) / sizeof(good[0]));
    fixture_close(&fixture);
}

static void keys_are_bytes_of_any_kind_and_all_of_them_count(void **state)
{
    static const struct {
        const char *data;
        size_t bytes;
    } keys[] = {{"\0", 1},       {"\0\0", 2},        {"a", 1},    {"a\0", 2},
                {"a\0b", 3},     {"a\0c", 3},        {"\xff", 1}, {"\xff\xfe\x80", 3},
                {"\xc3\x28", 2}, {"caf\xe9", 4},     {"caf", 3},  {"\r\n\t ", 4},
                {"a/../b", 6},   {"\xed\xa0\x80", 3}};
    struct fixture fixture = fixture_open(NULL);
    (void)state;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        assert_ok(
            test_put(fixture.client, test_key_bytes(keys[i].data, keys[i].bytes), 200, 500 + i));
    }
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        assert_ok(
            test_get(fixture.client, test_key_bytes(keys[i].data, keys[i].bytes), 200, 500 + i));
    }
    fixture_close(&fixture);
}

static void a_null_value_is_refused_unless_it_is_empty(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    (void)state;
    assert_status(umbp_put(fixture.client, test_key("k"), NULL, 1, UMBP_DEPTH_NONE),
                  UMBP_INVALID_VALUE);
    assert_ok(umbp_put(fixture.client, test_key("k"), NULL, 0, UMBP_DEPTH_NONE));
    assert_ok(umbp_get(fixture.client, test_key("k"), NULL, 0));
    assert_ok(test_put(fixture.client, test_key("l"), 9, 1));
    assert_status(umbp_get(fixture.client, test_key("l"), NULL, 9), UMBP_INVALID_VALUE);
    fixture_close(&fixture);
}

static void a_key_belongs_to_the_caller_again_when_the_call_returns(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    char key[] = "changes-later";
    char data[] = "value of before";
    char back[sizeof(data)];
    (void)state;
    assert_ok(umbp_put(fixture.client, test_key(key), data, sizeof(data), 3));
    memset(key, 'x', sizeof(key) - 1);
    memset(data, 'y', sizeof(data));
    assert_status(umbp_exists(fixture.client, test_key(key)), UMBP_NOT_FOUND);
    assert_ok(umbp_get(fixture.client, test_key("changes-later"), back, sizeof(back)));
    assert_string_equal(back, "value of before");
    fixture_close(&fixture);
}

int contract_run_singles(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            a_get_returns_the_bytes_that_were_put_for_every_size_around_granules_and_pages),
        cmocka_unit_test(a_value_of_exactly_the_tier_is_stored),
        cmocka_unit_test(a_put_larger_than_the_tier_is_refused_and_evicts_nothing),
        cmocka_unit_test(a_put_of_a_held_key_succeeds_and_keeps_the_first_value),
        cmocka_unit_test(a_get_of_another_size_is_refused_and_moves_no_byte),
        cmocka_unit_test(what_was_never_put_is_not_found),
        cmocka_unit_test(a_removed_key_is_gone_and_may_be_put_anew),
        cmocka_unit_test(keys_of_1_to_1024_bytes_are_taken_and_others_refused_everywhere),
        cmocka_unit_test(keys_are_bytes_of_any_kind_and_all_of_them_count),
        cmocka_unit_test(a_null_value_is_refused_unless_it_is_empty),
        cmocka_unit_test(a_key_belongs_to_the_caller_again_when_the_call_returns),
    };
    return CONTRACT_TESTS("single values", tests);
}
