/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction by lru: exactly the least recently used, never more than is needed, whatever the shards.
 */
#include "store_support.h"

#include <pthread.h>

#define KEYS 120u

/* The model: keys from the least to the most recently used, and the space they take. */
struct model {
    uint32_t order[KEYS];
    uint32_t count;
    uint64_t bytes[KEYS];
    uint64_t used;
    uint64_t total;
};

static bool model_holds(const struct model *model, uint32_t key)
{
    for (uint32_t i = 0; i < model->count; i++) {
        if (model->order[i] == key) {
            return true;
        }
    }
    return false;
}

static void model_drop(struct model *model, uint32_t key)
{
    for (uint32_t i = 0; i < model->count; i++) {
        if (model->order[i] == key) {
            memmove(&model->order[i], &model->order[i + 1],
                    (model->count - i - 1) * sizeof(model->order[0]));
            model->count--;
            model->used -= dram_footprint(model->bytes[key]);
            return;
        }
    }
}

static void model_touch(struct model *model, uint32_t key)
{
    if (model_holds(model, key)) {
        uint64_t used = model->used;
        model_drop(model, key);
        model->order[model->count++] = key;
        model->used = used;
    }
}

static void model_make_room(struct model *model, uint64_t need)
{
    while (model->total - model->used < need) {
        model_drop(model, model->order[0]);
    }
}

static void model_add(struct model *model, uint32_t key, uint64_t bytes)
{
    model->bytes[key] = bytes;
    model->order[model->count++] = key;
    model->used += dram_footprint(bytes);
}

static void assert_same(struct store *store, const struct model *model)
{
    struct named named;
    for (uint32_t key = 0; key < KEYS; key++) {
        assert_int_equal(holds(store, name_key(&named, "k", key)), model_holds(model, key));
    }
    assert_int_equal(stat_of(store, "dram.bytes_used"), model->used);
}

static uint64_t random_bytes(struct test_rng *rng, bool mixed)
{
    if (!mixed) {
        return PAGE;
    }
    static const uint64_t sizes[] = {0, 1, 64, 1000, 4096, 60000, PAGE, 100000};
    return sizes[test_rng_below(rng, sizeof(sizes) / sizeof(sizes[0]))];
}

static void one_put(struct store *store, struct model *model, struct test_rng *rng, bool mixed)
{
    struct named named;
    uint32_t key = (uint32_t)test_rng_below(rng, KEYS);
    uint64_t bytes = random_bytes(rng, mixed);
    enum umbp_status status = put_value(store, name_key(&named, "k", key), bytes, key, 0);
    if (model_holds(model, key)) {
        assert_status(status, UMBP_ALREADY_EXISTS);
        model_touch(model, key);
        return;
    }
    assert_ok(status);
    model_make_room(model, dram_footprint(bytes));
    model_add(model, key, bytes);
}

/* Distinct keys; those that are there are touched first, then room is made for all the others. */
static void batch_put(struct store *store, struct model *model, struct test_rng *rng, bool mixed)
{
    enum {
        COUNT = 3
    };
    struct named named[COUNT];
    struct umbp_put_item items[COUNT];
    enum umbp_status statuses[COUNT];
    uint32_t keys[COUNT];
    static unsigned char data[200000];
    uint64_t need = 0;
    uint32_t first = (uint32_t)test_rng_below(rng, KEYS);
    for (uint32_t i = 0; i < COUNT; i++) {
        keys[i] = (first + 37 * i) % KEYS;
        items[i] = (struct umbp_put_item){.key = name_key(&named[i], "k", keys[i]),
                                          .data = data,
                                          .bytes = random_bytes(rng, mixed)};
        if (model_holds(model, keys[i])) {
            model_touch(model, keys[i]);
        } else {
            need += dram_footprint(items[i].bytes);
        }
    }
    bool held[COUNT];
    for (uint32_t i = 0; i < COUNT; i++) {
        held[i] = model_holds(model, keys[i]);
    }
    assert_ok(store_batch_put(store, items, COUNT, statuses));
    model_make_room(model, need);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(statuses[i], held[i] ? UMBP_ALREADY_EXISTS : UMBP_OK);
        if (!held[i]) {
            model_add(model, keys[i], items[i].bytes);
        }
    }
}

static void access_one(struct store *store, struct model *model, struct test_rng *rng)
{
    struct named named;
    struct store_pin pin;
    unsigned char *data = malloc(200000);
    uint32_t key = (uint32_t)test_rng_below(rng, KEYS);
    struct umbp_key name = name_key(&named, "k", key);
    bool held = model_holds(model, key);
    struct umbp_get_item item = {.key = name, .data = data, .bytes = model->bytes[key]};
    enum umbp_status status;
    switch (test_rng_below(rng, 6)) {
    case 0:
        assert_int_equal(holds(store, name), held); /* no access */
        break;
    case 1:
        assert_int_equal(remove_value(store, name), held ? UMBP_OK : UMBP_NOT_FOUND);
        model_drop(model, key);
        break;
    case 2:
        status = store_pin(store, name, 0, true, &pin); /* quiet: no access */
        assert_int_equal(status, held ? UMBP_OK : UMBP_NOT_FOUND);
        if (held) {
            store_unpin(store, &pin);
        }
        break;
    case 3:
        status = store_pin(store, name, 0, false, &pin);
        assert_int_equal(status, held ? UMBP_OK : UMBP_NOT_FOUND);
        if (held) {
            store_unpin(store, &pin);
            model_touch(model, key);
        }
        break;
    default:
        assert_ok(store_batch_get(store, &item, 1, &status));
        assert_int_equal(status, held ? UMBP_OK : UMBP_NOT_FOUND);
        model_touch(model, key);
    }
    free(data);
}

static void run_model(uint32_t shards, bool mixed, uint64_t stream)
{
    struct store_options options = small_options(2 * MIB);
    struct model model = {.total = 2 * MIB};
    struct test_rng rng;
    options.shards = shards;
    options.event_bytes = 0;
    struct store *store = make_store(&options);
    test_rng_init(&rng, stream);
    for (unsigned round = 0; round < (test_is_slow() ? 1000 : 4000); round++) {
        switch (test_rng_below(&rng, 5)) {
        case 0:
        case 1:
            one_put(store, &model, &rng, mixed);
            break;
        case 2:
            batch_put(store, &model, &rng, mixed);
            break;
        default:
            access_one(store, &model, &rng);
        }
        if (round % 10 == 0) {
            assert_same(store, &model);
        }
    }
    assert_same(store, &model);
    finish_store(store);
}

static void lru_evicts_exactly_as_a_list_does_with_one_shard_and_with_many(void **state)
{
    static const uint32_t shards[] = {1, 2, 8, 64};
    (void)state;
    for (size_t i = 0; i < sizeof(shards) / sizeof(shards[0]); i++) {
        run_model(shards[i], false, 10 + i);
    }
}

static void lru_evicts_exactly_as_a_list_does_with_values_of_all_sizes(void **state)
{
    static const uint32_t shards[] = {1, 16};
    (void)state;
    for (size_t i = 0; i < sizeof(shards) / sizeof(shards[0]); i++) {
        run_model(shards[i], true, 20 + i);
    }
}

static void a_tier_of_n_blocks_holds_exactly_the_last_n(void **state)
{
    struct store_options options = small_options(64 * PAGE);
    struct store *store = make_store(&options);
    struct named named;
    (void)state;
    for (uint64_t i = 0; i < 1000; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), PAGE, i, 0));
        assert_int_equal(stat_of(store, "keys"), i < 64 ? i + 1 : 64);
    }
    for (uint64_t i = 0; i < 1000; i++) {
        assert_int_equal(holds(store, name_key(&named, "k", i)), i >= 1000 - 64);
    }
    assert_int_equal(stat_of(store, "evictions.dram"), 1000 - 64);
    finish_store(store);
}

static void one_big_put_evicts_about_its_own_bytes_and_not_more(void **state)
{
    struct store_options options = small_options(16 * MIB);
    struct store *store = make_store(&options);
    struct test_rng rng;
    struct named named;
    const uint64_t small = 16384;
    (void)state;
    /* Fill with small values, punch holes, fill again: as scattered as it gets (fault 13). */
    test_rng_init(&rng, 4);
    for (uint64_t i = 0; i < small; i++) {
        assert_ok(put_value(store, name_key(&named, "s", i), 1024, i, 0));
    }
    for (uint64_t i = 0; i < small / 2; i++) {
        (void)!remove_value(store, name_key(&named, "s", test_rng_below(&rng, small)));
    }
    for (uint64_t i = 0; stat_of(store, "dram.bytes_used") < 16 * MIB; i++) {
        assert_ok(put_value(store, name_key(&named, "t", i), 1024, i, 0));
    }
    uint64_t before = stat_of(store, "evictions.dram");
    assert_ok(put_value(store, text_key("big"), MIB, 1, 0));
    assert_int_equal(stat_of(store, "evictions.dram") - before, MIB / 1024);
    assert_ok(get_value(store, text_key("big"), MIB, 1));
    finish_store(store);
}

static void pinned_values_are_passed_by_and_the_next_oldest_go(void **state)
{
    struct store_options options = small_options(64 * PAGE);
    struct store *store = make_store(&options);
    struct store_pin pins[8];
    struct named named;
    (void)state;
    for (uint64_t i = 0; i < 64; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), PAGE, i, 0));
    }
    for (uint64_t i = 0; i < 8; i++) {
        assert_ok(store_pin(store, name_key(&named, "k", i), 0, true, &pins[i]));
    }
    for (uint64_t i = 0; i < 10; i++) {
        assert_ok(put_value(store, name_key(&named, "new", i), PAGE, i, 0));
    }
    for (uint64_t i = 0; i < 64; i++) {
        assert_int_equal(holds(store, name_key(&named, "k", i)), i < 8 || i >= 18);
    }
    for (uint64_t i = 0; i < 8; i++) {
        store_unpin(store, &pins[i]);
    }
    finish_store(store);
}

static void above_the_high_watermark_the_oldest_go_until_the_low_one(void **state)
{
    struct store_options options = small_options(100 * PAGE);
    options.dram_high_watermark = 0.8;
    options.dram_low_watermark = 0.5;
    struct store *store = make_store(&options);
    struct named named;
    (void)state;
    for (uint64_t i = 0; i < 80; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), PAGE, i, 0));
    }
    assert_int_equal(stat_of(store, "evictions.dram"), 0); /* 80 of 100 is not above */
    assert_ok(put_value(store, text_key("one more"), PAGE, 1, 0));
    await_stat(store, "dram.bytes_used", 0, 50 * PAGE);
    assert_int_equal(stat_of(store, "dram.bytes_used"), 50 * PAGE);
    for (uint64_t i = 0; i < 80; i++) {
        assert_int_equal(holds(store, name_key(&named, "k", i)), i >= 31);
    }
    finish_store(store);
}

static void an_eviction_that_is_asked_for_frees_the_oldest_and_tells_how_much(void **state)
{
    struct store_options options = small_options(64 * PAGE);
    struct store *store = make_store(&options);
    struct named named;
    (void)state;
    for (uint64_t i = 0; i < 64; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), PAGE, i, 0));
    }
    assert_int_equal(store_evict(store, 10 * PAGE - 5), 10 * PAGE);
    assert_int_equal(stat_of(store, "keys"), 54);
    assert_false(holds(store, text_key("k9")));
    assert_true(holds(store, text_key("k10")));
    assert_int_equal(store_evict(store, 0), 0);
    assert_int_equal(store_evict(store, UINT64_MAX), 54 * PAGE);
    assert_int_equal(store_evict(store, 1), 0);
    finish_store(store);
}

/* ---- many threads ---- */

struct hot {
    struct store *store;
    uint64_t stream;
    unsigned misses;
};

/* Ten keys that are used all the time, amid many that are used once. */
static void *use_hot_keys(void *context)
{
    struct hot *hot = context;
    struct named named;
    for (uint64_t i = 0; i < (test_is_slow() ? 300 : 2000); i++) {
        uint64_t cold = hot->stream * 1000000 + i;
        (void)!put_value(hot->store, name_key(&named, "cold", cold), PAGE, 1, 0);
        for (uint64_t k = 0; k < 10; k++) {
            enum umbp_status status = get_value(hot->store, name_key(&named, "hot", k), 4096, k);
            hot->misses += status != UMBP_OK;
        }
    }
    return NULL;
}

static void keys_in_constant_use_survive_a_flood_from_many_threads(void **state)
{
    struct store_options options = small_options(64 * PAGE);
    struct store *store = make_store(&options);
    struct named named;
    struct hot hot[4];
    pthread_t threads[4];
    (void)state;
    for (uint64_t k = 0; k < 10; k++) {
        assert_ok(put_value(store, name_key(&named, "hot", k), 4096, k, 0));
    }
    for (unsigned i = 0; i < 4; i++) {
        hot[i] = (struct hot){.store = store, .stream = i};
        assert_int_equal(pthread_create(&threads[i], NULL, use_hot_keys, &hot[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(hot[i].misses, 0);
    }
    finish_store(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lru_evicts_exactly_as_a_list_does_with_one_shard_and_with_many),
        cmocka_unit_test(lru_evicts_exactly_as_a_list_does_with_values_of_all_sizes),
        cmocka_unit_test(a_tier_of_n_blocks_holds_exactly_the_last_n),
        cmocka_unit_test(one_big_put_evicts_about_its_own_bytes_and_not_more),
        cmocka_unit_test(pinned_values_are_passed_by_and_the_next_oldest_go),
        cmocka_unit_test(above_the_high_watermark_the_oldest_go_until_the_low_one),
        cmocka_unit_test(an_eviction_that_is_asked_for_frees_the_oldest_and_tells_how_much),
        cmocka_unit_test(keys_in_constant_use_survive_a_flood_from_many_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
