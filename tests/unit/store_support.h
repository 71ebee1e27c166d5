/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the store's inner door share. */
#ifndef TEST_STORE_SUPPORT_H
#define TEST_STORE_SUPPORT_H

#include "support.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/store.h"

/* For statics that not every test program uses. */
#define MAYBE_UNUSED __attribute__((unused))

#define PAGE (64 * KIB)
#define WAIT_MS TEST_WAIT_MS

/* A small store: evicts only what a put needs, no SSD, events on, deadlines far off. */
MAYBE_UNUSED static struct store_options small_options(uint64_t dram_bytes)
{
    struct store_options options;
    store_options_default(&options);
    options.dram.bytes = dram_bytes;
    options.dram.page_bytes = PAGE;
    options.dram.prefault = false;
    options.dram_high_watermark = 1;
    options.dram_low_watermark = 1;
    options.copy_threads = 1;
    options.shards = 4;
    options.event_bytes = MIB;
    return options;
}

MAYBE_UNUSED static struct store *make_store(const struct store_options *options)
{
    char error[256] = "";
    struct store *store = NULL;
    enum umbp_status status = store_create(options, &store, error, sizeof(error));
    if (status != UMBP_OK) {
        fail_msg("no store: %s: %s", umbp_status_name(status), error);
    }
    return store;
}

/* A key with room for its text. */
struct named {
    char text[96];
    struct umbp_key key;
};

MAYBE_UNUSED static struct umbp_key name_key(struct named *named, const char *prefix,
                                             uint64_t number)
{
    int bytes = snprintf(named->text, sizeof(named->text), "%s%" PRIu64, prefix, number);
    named->key = (struct umbp_key){named->text, (size_t)bytes};
    return named->key;
}

MAYBE_UNUSED static struct umbp_key text_key(const char *text)
{
    return (struct umbp_key){text, strlen(text)};
}

MAYBE_UNUSED static enum umbp_status put_value(struct store *store, struct umbp_key key,
                                               uint64_t bytes, uint64_t tag, uint32_t depth)
{
    void *data = malloc(bytes + 1);
    test_fill(data, bytes, tag);
    const struct umbp_put_item item = {.key = key, .data = data, .bytes = bytes, .depth = depth};
    enum umbp_status one = UMBP_CANCELLED;
    enum umbp_status status = store_batch_put(store, &item, 1, &one);
    free(data);
    return status == UMBP_OK ? one : status;
}

/* Fails the test when the status is UMBP_OK and a byte is wrong. */
MAYBE_UNUSED static enum umbp_status get_value(struct store *store, struct umbp_key key,
                                               uint64_t bytes, uint64_t tag)
{
    void *data = calloc(1, bytes + 1);
    const struct umbp_get_item item = {.key = key, .data = data, .bytes = bytes};
    enum umbp_status one = UMBP_CANCELLED;
    enum umbp_status status = store_batch_get(store, &item, 1, &one);
    bool right = status != UMBP_OK || one != UMBP_OK || test_check_fill(data, bytes, tag);
    free(data);
    assert_true(right);
    return status == UMBP_OK ? one : status;
}

MAYBE_UNUSED static enum umbp_status remove_value(struct store *store, struct umbp_key key)
{
    enum umbp_status one = UMBP_CANCELLED;
    enum umbp_status status = store_batch_remove(store, &key, 1, &one);
    return status == UMBP_OK ? one : status;
}

MAYBE_UNUSED static bool holds(struct store *store, struct umbp_key key)
{
    uint8_t found = 9;
    assert_ok(store_batch_exists(store, &key, 1, &found));
    return found == 1;
}

MAYBE_UNUSED static uint64_t soon(void) { return clock_deadline_ns(clock_monotonic(), WAIT_MS); }

MAYBE_UNUSED static uint64_t stat_of(struct store *store, const char *name)
{
    struct umbp_stat_value values[256];
    size_t count = 0;
    assert_ok(store_stats(store, values, 256, &count));
    for (size_t i = 0; i < count; i++) {
        if (strcmp(values[i].name, name) == 0) {
            return values[i].value;
        }
    }
    fail_msg("no statistic \"%s\"", name);
    return 0;
}

struct stat_wish {
    struct store *store;
    const char *name;
    uint64_t low;
    uint64_t high;
};

MAYBE_UNUSED static bool stat_is_within(void *context)
{
    struct stat_wish *wish = context;
    uint64_t value = stat_of(wish->store, wish->name);
    return value >= wish->low && value <= wish->high;
}

/* Wait until the statistic lies in [low, high]; fails the test if it never does. */
MAYBE_UNUSED static void await_stat(struct store *store, const char *name, uint64_t low,
                                    uint64_t high)
{
    struct stat_wish wish = {store, name, low, high};
    if (!test_wait_until(stat_is_within, &wish, WAIT_MS)) {
        fail_msg("%s is %" PRIu64 ", not %" PRIu64 " to %" PRIu64, name, stat_of(store, name), low,
                 high);
    }
}

/* Clear, check that every page, entry and reservation is given back, and destroy. */
MAYBE_UNUSED static void finish_store(struct store *store)
{
    assert_ok(store_clear(store, soon()));
    await_stat(store, "keys", 0, 0);
    await_stat(store, "dram.bytes_used", 0, 0);
    await_stat(store, "index.entries", 0, 0);
    assert_int_equal(stat_of(store, "reservations"), 0);
    assert_true(dram_check(store_dram(store)));
    assert_ok(store_close(store, soon()));
    store_destroy(store);
}

#endif
