/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of flush, clear, registered memory, list, stat and stats. */
#include "contract.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static void a_flush_succeeds_and_may_be_repeated(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    char room[TEST_KEY_ROOM];
    (void)state;
    assert_ok(umbp_flush(fixture.client, 0));
    for (uint64_t i = 0; i < 30; i++) {
        assert_ok(test_put(fixture.client, test_key_number(room, "f", i), 5000, i));
    }
    assert_ok(umbp_flush(fixture.client, 0));
    assert_ok(umbp_flush(fixture.client, 20000));
    for (uint64_t i = 0; i < 30; i++) {
        assert_ok(test_get(fixture.client, test_key_number(room, "f", i), 5000, i));
    }
    fixture_close(&fixture);
}

static void clear_forgets_everything_and_the_store_serves_on(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    char room[TEST_KEY_ROOM];
    (void)state;
    for (unsigned round = 0; round < 4; round++) {
        for (uint64_t i = 0; i < 300; i++) {
            struct umbp_key key = test_key_number(room, "c", i);
            assert_ok(test_put(fixture.client, key, 1000, i + round));
        }
        if (round % 2) {
            assert_ok(umbp_flush(fixture.client, 0));
        }
        assert_ok(fixture_clear(&fixture));
        for (uint64_t i = 0; i < 300; i++) {
            fixture_is_gone(&fixture, test_key_number(room, "c", i));
        }
        fixture_stat_becomes(&fixture, "dram.bytes_used", 0);
        assert_int_equal(fixture_stat(&fixture, "keys"), 0);
    }
    assert_ok(fixture_clear(&fixture)); /* of nothing */
    fixture_close(&fixture);
}

struct busy {
    struct umbp_client *client;
    uint64_t number;
    _Atomic bool *stop;
    unsigned wrong;
};

#define BUSY_KEYS 64

/* Puts and gets its own keys; the content of a key is always the same. */
static void *stay_busy(void *context)
{
    struct busy *busy = context;
    char room[TEST_KEY_ROOM];
    unsigned char data[3000];
    for (uint64_t i = 0; !atomic_load(busy->stop); i++) {
        uint64_t tag = busy->number * 1000 + i % BUSY_KEYS;
        uint64_t bytes = 1000 + tag % 2000;
        struct umbp_key key = test_key_number(room, "busy", tag);
        test_fill(data, bytes, tag);
        enum umbp_status status = umbp_put(busy->client, key, data, bytes, 0);
        busy->wrong += !umbp_status_is_success(status);
        memset(data, 0, bytes);
        status = umbp_get(busy->client, key, data, bytes);
        if (status == UMBP_OK) {
            busy->wrong += !test_check_fill(data, bytes, tag);
        } else {
            busy->wrong += status != UMBP_NOT_FOUND;
        }
    }
    return NULL;
}

static void clear_beside_putting_threads_loses_no_page_and_serves_no_wrong_byte(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    _Atomic bool stop = false;
    struct busy busy[4];
    pthread_t threads[4];
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        busy[i] = (struct busy){.client = fixture.client, .number = i, .stop = &stop};
        assert_int_equal(pthread_create(&threads[i], NULL, stay_busy, &busy[i]), 0);
    }
    for (unsigned round = 0; round < (test_is_slow() ? 20 : 100); round++) {
        fixture_stat_reaches(&fixture, "puts.existing",
                             fixture_stat(&fixture, "puts.existing") + 20);
        assert_ok(fixture_clear(&fixture));
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(busy[i].wrong, 0);
    }
    fixture_close(&fixture); /* the last clear finds all that is left, and gets its pages back */
}

static void memory_is_registered_once_and_not_twice_where_it_overlaps(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    char *block = malloc(10000);
    (void)state;
    assert_status(umbp_register_memory(fixture.client, NULL, 100), UMBP_INVALID_VALUE);
    assert_status(umbp_register_memory(fixture.client, block, 0), UMBP_INVALID_VALUE);
    assert_status(umbp_register_memory(fixture.client, block, SIZE_MAX), UMBP_INVALID_VALUE);
    assert_ok(umbp_register_memory(fixture.client, block + 1000, 1000));
    assert_status(umbp_register_memory(fixture.client, block + 1000, 1000), UMBP_ALREADY_EXISTS);
    assert_status(umbp_register_memory(fixture.client, block + 1999, 10), UMBP_ALREADY_EXISTS);
    assert_status(umbp_register_memory(fixture.client, block + 500, 501), UMBP_ALREADY_EXISTS);
    assert_status(umbp_register_memory(fixture.client, block, 10000), UMBP_ALREADY_EXISTS);
    assert_status(umbp_register_memory(fixture.client, block + 1200, 1), UMBP_ALREADY_EXISTS);
    assert_ok(umbp_register_memory(fixture.client, block, 1000)); /* they only touch */
    assert_ok(umbp_register_memory(fixture.client, block + 2000, 1000));
    assert_status(umbp_deregister_memory(fixture.client, block + 1), UMBP_NOT_FOUND);
    assert_status(umbp_deregister_memory(fixture.client, NULL), UMBP_NOT_FOUND);
    assert_ok(umbp_deregister_memory(fixture.client, block + 1000));
    assert_status(umbp_deregister_memory(fixture.client, block + 1000), UMBP_NOT_FOUND);
    assert_ok(umbp_register_memory(fixture.client, block + 1000, 1000));
    /* Values go to and come from it like from any other. */
    test_fill(block, 3000, 5);
    assert_ok(umbp_put(fixture.client, test_key("registered"), block, 3000, 0));
    memset(block, 0, 3000);
    assert_ok(umbp_get(fixture.client, test_key("registered"), block, 3000));
    assert_true(test_check_fill(block, 3000, 5));
    fixture_close(&fixture); /* with three left registered */
    free(block);
}

static void many_buffers_may_be_registered(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    char *block = malloc(64000);
    (void)state;
    for (size_t i = 0; i < 1000; i++) {
        size_t at = (i * 389 % 1000) * 64;
        assert_ok(umbp_register_memory(fixture.client, block + at, 64));
    }
    for (size_t i = 0; i < 1000; i++) {
        size_t at = (i * 617 % 1000) * 64;
        assert_status(umbp_register_memory(fixture.client, block + at + 63, 1),
                      UMBP_ALREADY_EXISTS);
        assert_ok(umbp_deregister_memory(fixture.client, block + at));
    }
    free(block);
    fixture_close(&fixture);
}

/* ---- list, stat, stats ---- */

#define LISTED_MAX 300

struct listing {
    struct umbp_client *client;
    unsigned seen[LISTED_MAX];
    unsigned visits;
    unsigned stop_after; /* 0: never */
    unsigned wrong;
    bool calls;
};

static bool visit(void *context, const struct umbp_entry_info *info)
{
    struct listing *listing = context;
    char text[TEST_KEY_ROOM] = {0};
    unsigned number = LISTED_MAX;
    listing->visits++;
    if (info->key.bytes < sizeof(text)) {
        memcpy(text, info->key.data, info->key.bytes);
        number = (unsigned)strtoul(text + 2, NULL, 10);
    }
    if (number >= LISTED_MAX || info->bytes != 100 + number || info->depth != number ||
        !info->in_dram || info->struct_bytes != sizeof(*info)) {
        listing->wrong++;
    } else {
        listing->seen[number]++;
    }
    if (listing->calls) {
        struct umbp_entry_info same = {.struct_bytes = sizeof(same)};
        listing->wrong += umbp_stat(listing->client, info->key, &same) != UMBP_OK;
        listing->wrong += same.bytes != info->bytes;
        listing->wrong += umbp_remove(listing->client, info->key) != UMBP_OK;
    }
    return listing->visits != listing->stop_after;
}

/* A list is of what this process holds. */
static bool lists_values(void)
{
    const struct contract_owner *owner = contract_factory()->owner;
    return owner == NULL || !owner->has_values;
}

static void put_listed(struct umbp_client *client)
{
    char room[TEST_KEY_ROOM];
    unsigned char data[100 + LISTED_MAX];
    for (uint32_t i = 0; i < LISTED_MAX; i++) {
        test_fill(data, 100 + i, i);
        assert_ok(umbp_put(client, test_key_number(room, "l", i), data, 100 + i, i));
    }
}

static void list_visits_each_held_value_once_with_what_is_known_of_it(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct listing listing = {.client = fixture.client};
    (void)state;
    assert_ok(umbp_list(fixture.client, visit, &listing));
    assert_int_equal(listing.visits, 0);
    put_listed(fixture.client);
    assert_ok(umbp_list(fixture.client, visit, &listing));
    assert_int_equal(listing.wrong, 0);
    for (unsigned i = 0; i < LISTED_MAX; i++) {
        assert_int_equal(listing.seen[i], lists_values());
    }
    fixture_close(&fixture);
}

static void list_stops_when_the_visitor_says_so(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct listing listing = {.client = fixture.client, .stop_after = 77};
    (void)state;
    put_listed(fixture.client);
    assert_ok(umbp_list(fixture.client, visit, &listing));
    assert_int_equal(listing.visits, lists_values() ? 77 : 0);
    assert_status(umbp_list(fixture.client, NULL, NULL), UMBP_INVALID_VALUE);
    fixture_close(&fixture);
}

static void a_lists_visitor_may_call_the_client(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct listing listing = {.client = fixture.client, .calls = true};
    (void)state;
    put_listed(fixture.client);
    assert_ok(umbp_list(fixture.client, visit, &listing));
    assert_int_equal(listing.wrong, 0);
    assert_int_equal(listing.visits, lists_values() ? LISTED_MAX : 0);
    assert_int_equal(fixture_stat(&fixture, "keys"), lists_values() ? 0 : LISTED_MAX);
    fixture_close(&fixture);
}

static void stat_tells_size_depth_and_place(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct umbp_entry_info info = {.struct_bytes = sizeof(info)};
    struct umbp_key key = test_key("stat");
    (void)state;
    assert_ok(umbp_put(fixture.client, key, "abc", 3, 41));
    assert_ok(umbp_stat(fixture.client, key, &info));
    assert_int_equal(info.bytes, 3);
    assert_int_equal(info.depth, 41);
    assert_true(info.in_dram);
    assert_ptr_equal(info.key.data, key.data);
    assert_int_equal(info.key.bytes, key.bytes);
    assert_ok(umbp_put(fixture.client, test_key("none"), "abc", 3, UMBP_DEPTH_NONE));
    assert_ok(umbp_stat(fixture.client, test_key("none"), &info));
    assert_int_equal(info.depth, UMBP_DEPTH_NONE);
    assert_status(umbp_stat(fixture.client, key, NULL), UMBP_INVALID_VALUE);
    fixture_close(&fixture);
}

static void stats_count_what_happened(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    (void)state;
    assert_ok(test_put(fixture.client, test_key("a"), 6400, 1));
    assert_ok(test_put(fixture.client, test_key("b"), 64, 2));
    assert_status(test_put(fixture.client, test_key("b"), 64, 2), UMBP_ALREADY_EXISTS);
    assert_ok(test_get(fixture.client, test_key("a"), 6400, 1));
    assert_ok(test_get(fixture.client, test_key("a"), 6400, 1));
    assert_status(test_get(fixture.client, test_key("b"), 65, 1), UMBP_SIZE_MISMATCH);
    assert_status(test_get(fixture.client, test_key("c"), 1, 1), UMBP_NOT_FOUND);
    assert_int_equal(fixture_stat(&fixture, "dram.bytes_used"), 6464);
    assert_ok(umbp_remove(fixture.client, test_key("b")));
    assert_int_equal(fixture_stat(&fixture, "puts.stored"), 2);
    assert_int_equal(fixture_stat(&fixture, "puts.existing"), 1);
    assert_int_equal(fixture_stat(&fixture, "hits.dram"), 2);
    assert_int_equal(fixture_stat(&fixture, "misses"), 1);
    /* A node that answers another process does not count these. */
    assert_int_equal(fixture_stat(&fixture, "size_mismatches"), lists_values() ? 1 : 0);
    assert_int_equal(fixture_stat(&fixture, "removes"), 1);
    assert_int_equal(fixture_stat(&fixture, "bytes.in"), 6464);
    assert_int_equal(fixture_stat(&fixture, "bytes.dram_out"), 12800);
    assert_int_equal(fixture_stat(&fixture, "keys"), 1);
    assert_int_equal(fixture_stat(&fixture, "dram.bytes_total"), CONTRACT_DRAM_BYTES);
    fixture_close(&fixture);
}

static void stats_fill_what_there_is_room_for_and_tell_how_many_there_are(void **state)
{
    struct fixture fixture = fixture_open(NULL);
    struct umbp_stat_value values[256];
    size_t all = 0;
    size_t count = 0;
    (void)state;
    assert_ok(umbp_stats(fixture.client, NULL, 0, &all));
    assert_in_range(all, 10, 256);
    memset(values, 0xAB, sizeof(values));
    assert_ok(umbp_stats(fixture.client, values, 3, &count));
    assert_int_equal(count, all);
    unsigned char untouched[sizeof(values[0])];
    memset(untouched, 0xAB, sizeof(untouched));
    assert_memory_equal(&values[3], untouched, sizeof(untouched));
    assert_ok(umbp_stats(fixture.client, values, 256, &count));
    assert_int_equal(count, all);
    for (size_t i = 0; i < all; i++) {
        assert_true(strlen(values[i].name) > 0);
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(values[i].name, values[j].name);
        }
    }
    assert_status(umbp_stats(fixture.client, NULL, 3, &count), UMBP_INVALID_VALUE);
    assert_status(umbp_stats(fixture.client, values, 3, NULL), UMBP_INVALID_VALUE);
    fixture_close(&fixture);
}

int contract_run_upkeep(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flush_succeeds_and_may_be_repeated),
        cmocka_unit_test(clear_forgets_everything_and_the_store_serves_on),
        cmocka_unit_test(clear_beside_putting_threads_loses_no_page_and_serves_no_wrong_byte),
        cmocka_unit_test(memory_is_registered_once_and_not_twice_where_it_overlaps),
        cmocka_unit_test(many_buffers_may_be_registered),
        cmocka_unit_test(list_visits_each_held_value_once_with_what_is_known_of_it),
        cmocka_unit_test(list_stops_when_the_visitor_says_so),
        cmocka_unit_test(a_lists_visitor_may_call_the_client),
        cmocka_unit_test(stat_tells_size_depth_and_place),
        cmocka_unit_test(stats_count_what_happened),
        cmocka_unit_test(stats_fill_what_there_is_room_for_and_tell_how_many_there_are),
    };
    return CONTRACT_TESTS("upkeep", tests);
}
