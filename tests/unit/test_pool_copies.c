/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a pool client copies, in a simulated cluster: through its staging memory where registering
 * is dear, and into its own store what it read from others.
 */
#include "pool_rig.h"

#define STAGING ((uint64_t)64 * KIB)
#define STORE ((uint64_t)1 * MIB)

/* An owner of 16 MiB and a process with these wishes, on two hosts. */
struct pair {
    struct rig_world world;
    struct rig_master master;
    struct rig_process owner;
    struct rig_process user;
};

static struct store *open_store(uint64_t bytes)
{
    struct store_options options = small_options(bytes);
    options.hash_seed = RIG_SEED;
    options.event_bytes = MIB;
    return make_store(&options);
}

/* `has_store`: the user is a node too. */
static void begin(struct pair *pair, bool has_store, struct pool_options wishes)
{
    const struct pool_options patient = {.op_timeout_ms = 100000};
    memset(pair, 0, sizeof(*pair));
    wishes.op_timeout_ms = 100000;
    rig_begin(&pair->world, test_seed());
    rig_master_open(&pair->world, &pair->master, 9, "m0");
    rig_process_open(&pair->world, &pair->owner, "owner", 0, open_store(16 * MIB), NULL, &patient);
    rig_process_open(&pair->world, &pair->user, "user", 1, has_store ? open_store(STORE) : NULL,
                     NULL, &wishes);
    rig_advance(&pair->world, 1000);
}

static void end(struct pair *pair)
{
    rig_process_end(&pair->user);
    rig_process_end(&pair->owner);
    rig_master_close(&pair->master);
    rig_end(&pair->world);
}

/* ----------------------------------------------------------------------------- batches ---- */

#define BATCH 64u

struct batch {
    unsigned count;
    struct named names[BATCH];
    struct umbp_key keys[BATCH];
    uint64_t sizes[BATCH];
    uint8_t *data[BATCH];
    struct umbp_range ranges[BATCH][2]; /* the second half first */
    struct umbp_range_item items[BATCH];
    enum umbp_status statuses[BATCH];
};

static void batch_add(struct batch *batch, uint64_t bytes)
{
    unsigned i = batch->count++;
    uint64_t half = bytes / 2;
    batch->keys[i] = name_key(&batch->names[i], "k", i);
    batch->sizes[i] = bytes;
    batch->data[i] = calloc(1, bytes + 1);
    batch->ranges[i][0] = (struct umbp_range){batch->data[i] + half, bytes - half, half};
    batch->ranges[i][1] = (struct umbp_range){batch->data[i], half, 0};
    batch->items[i] = (struct umbp_range_item){
        .key = batch->keys[i], .ranges = batch->ranges[i], .range_count = 2, .object_bytes = bytes};
}

static void batch_put(struct batch *batch, struct pool *pool)
{
    for (unsigned i = 0; i < batch->count; i++) {
        test_fill(batch->data[i], batch->sizes[i], i);
    }
    assert_ok(pool_batch_put_ranges(pool, batch->items, batch->count, batch->statuses));
    for (unsigned i = 0; i < batch->count; i++) {
        assert_int_equal(batch->statuses[i], UMBP_OK);
    }
}

static void batch_get(struct batch *batch, struct pool *pool)
{
    for (unsigned i = 0; i < batch->count; i++) {
        memset(batch->data[i], 0xee, batch->sizes[i] + 1);
    }
    assert_ok(pool_batch_get_ranges(pool, batch->items, batch->count, batch->statuses));
    for (unsigned i = 0; i < batch->count; i++) {
        assert_int_equal(batch->statuses[i], UMBP_OK);
        assert_true(test_check_fill(batch->data[i], batch->sizes[i], i));
        assert_int_equal(batch->data[i][batch->sizes[i]], 0xee);
    }
}

static void batch_free(struct batch *batch)
{
    for (unsigned i = 0; i < batch->count; i++) {
        free(batch->data[i]);
    }
    *batch = (struct batch){0};
}

/* ----------------------------------------------------------------------------- staging ---- */

static uint64_t there_and_back(struct pair *pair, struct batch *batch)
{
    uint64_t before = rig_pool_stat(&pair->user, "pool.staged_bytes");
    batch_put(batch, pair->user.pool);
    batch_get(batch, pair->user.pool);
    assert_int_equal(rig_pool_stat(&pair->user, "pool.retries"), 0);
    return rig_pool_stat(&pair->user, "pool.staged_bytes") - before;
}

/* Fault 26. */
static void a_batch_larger_than_the_staging_memory_goes_in_pieces(void **state)
{
    struct pair pair;
    struct batch batch = {0};
    (void)state;
    begin(&pair, false, (struct pool_options){.staging_bytes = STAGING});
    for (unsigned i = 0; i < BATCH; i++) {
        batch_add(&batch, 20000 + i);
    }
    assert_int_equal(there_and_back(&pair, &batch), 2 * (BATCH * 20000 + BATCH * (BATCH - 1) / 2));
    batch_free(&batch);
    end(&pair);
}

static void a_value_larger_than_the_staging_memory_goes_without_it(void **state)
{
    struct pair pair;
    struct batch batch = {0};
    (void)state;
    begin(&pair, false, (struct pool_options){.staging_bytes = STAGING});
    batch_add(&batch, STAGING + 1);
    batch_add(&batch, STAGING);
    batch_add(&batch, 2);
    batch_add(&batch, 10 * STAGING);
    batch_add(&batch, STAGING - 1);
    assert_int_equal(there_and_back(&pair, &batch), 2 * (STAGING + 2 + STAGING - 1));
    batch_free(&batch);
    end(&pair);
}

static void a_registered_buffer_is_not_staged(void **state)
{
    struct pair pair;
    struct batch batch = {0};
    (void)state;
    begin(&pair, false, (struct pool_options){.staging_bytes = STAGING});
    batch_add(&batch, 30000);
    batch_add(&batch, 30001);
    batch_add(&batch, 30002);
    assert_ok(pool_register(pair.user.pool, batch.data[1], 30001));
    assert_int_equal(there_and_back(&pair, &batch), 2 * (30000 + 30002));
    assert_ok(pool_deregister(pair.user.pool, batch.data[1]));
    batch_free(&batch);
    end(&pair);
}

/* ----------------------------------------------------------------------------- recache ---- */

/* Reads by the user what only the owner has: that many values of that size, one call each. */
static void read_from_owner(struct pair *pair, const char *prefix, unsigned count, uint64_t bytes)
{
    uint8_t *data = malloc(bytes);
    struct named named;
    for (unsigned i = 0; i < count; i++) {
        assert_ok(put_value(pair->owner.store, name_key(&named, prefix, i), bytes, i, 0));
    }
    rig_advance(&pair->world, 200);
    for (unsigned i = 0; i < count; i++) {
        enum umbp_status status = UMBP_BUSY;
        const struct umbp_get_item item = {name_key(&named, prefix, i), data, bytes};
        assert_ok(pool_batch_get(pair->user.pool, &item, 1, &status));
        assert_int_equal(status, UMBP_OK);
        assert_true(test_check_fill(data, bytes, i));
    }
    free(data);
}

static unsigned own_has(struct pair *pair, const char *prefix, unsigned count)
{
    struct named named;
    unsigned has = 0;
    for (unsigned i = 0; i < count; i++) {
        has += holds(pair->user.store, name_key(&named, prefix, i));
    }
    return has;
}

static void what_was_read_elsewhere_is_kept_as_the_option_says(void **state)
{
    static const struct {
        enum pool_recache recache;
        unsigned small, large;
    } cases[] = {
        {POOL_RECACHE_NEVER, 0, 0}, {POOL_RECACHE_SIZE, 8, 0}, {POOL_RECACHE_ALWAYS, 8, 8}};
    (void)state;
    for (unsigned i = 0; i < ARRAY_COUNT(cases); i++) {
        struct pair pair;
        begin(&pair, true,
              (struct pool_options){
                  .recache = cases[i].recache, .recache_bytes = 9000, .recache_below = 1});
        read_from_owner(&pair, "small", 8, 9000);
        read_from_owner(&pair, "large", 8, 9001);
        assert_int_equal(own_has(&pair, "small", 8), cases[i].small);
        assert_int_equal(own_has(&pair, "large", 8), cases[i].large);
        assert_int_equal(rig_pool_stat(&pair.user, "pool.recached"),
                         cases[i].small + cases[i].large);
        end(&pair);
    }
}

/* Fault 27: the own store's values, which somebody put there, all outlive a stream of foreign ones
 * that is larger than the store. */
static void nothing_is_evicted_for_what_was_read_elsewhere(void **state)
{
    static const uint64_t sizes[] = {1, 700, PAGE - 1, PAGE + 1, 50000, STORE / 2};
    (void)state;
    for (unsigned i = 0; i < ARRAY_COUNT(sizes); i++) {
        struct pair pair;
        struct named named;
        unsigned count = (unsigned)(2 * STORE / u64_max(sizes[i], 700));
        begin(&pair, true,
              (struct pool_options){.recache = POOL_RECACHE_ALWAYS, .recache_below = 1});
        for (unsigned k = 0; k < 60; k++) {
            assert_ok(put_value(pair.user.store, name_key(&named, "own", k), 10000, k, 0));
        }
        read_from_owner(&pair, "foreign", count, sizes[i]);
        assert_int_equal(own_has(&pair, "own", 60), 60);
        assert_int_equal(own_has(&pair, "foreign", count),
                         rig_pool_stat(&pair.user, "pool.recached"));
        if (count * sizes[i] > STORE) {
            assert_true(rig_pool_stat(&pair.user, "pool.recache_refused") > 0);
        }
        end(&pair);
    }
}

/* The same in one batch. */
static void a_batch_evicts_nothing_to_be_kept(void **state)
{
    enum {
        BATCH_MAX = 500
    };
    static const uint64_t sizes[] = {1, 4000, PAGE - 1, PAGE + 1, 2 * PAGE + 5};
    static struct umbp_get_item items[BATCH_MAX];
    static struct named names[BATCH_MAX];
    static enum umbp_status statuses[BATCH_MAX];
    (void)state;
    for (unsigned s = 0; s < ARRAY_COUNT(sizes); s++) {
        struct pair pair;
        struct named named;
        unsigned count = (unsigned)u64_min(BATCH_MAX, 8 * STORE / sizes[s]);
        uint8_t *data = malloc(count * sizes[s]);
        begin(&pair, true,
              (struct pool_options){.recache = POOL_RECACHE_ALWAYS, .recache_below = 1});
        for (unsigned k = 0; k < 60; k++) {
            assert_ok(put_value(pair.user.store, name_key(&named, "own", k), 10000, k, 0));
        }
        for (unsigned i = 0; i < count; i++) {
            items[i] = (struct umbp_get_item){name_key(&names[i], "foreign", i),
                                              data + i * sizes[s], sizes[s]};
            assert_ok(put_value(pair.owner.store, items[i].key, sizes[s], i, 0));
        }
        rig_advance(&pair.world, 200);
        assert_ok(pool_batch_get(pair.user.pool, items, count, statuses));
        for (unsigned i = 0; i < count; i++) {
            assert_int_equal(statuses[i], UMBP_OK);
        }
        assert_int_equal(own_has(&pair, "own", 60), 60);
        assert_true(own_has(&pair, "foreign", count) > 0);
        assert_int_equal(own_has(&pair, "foreign", count),
                         rig_pool_stat(&pair.user, "pool.recached"));
        end(&pair);
        free(data);
    }
}

static void what_is_kept_stays_below_the_level(void **state)
{
    static const uint64_t sizes[] = {100, PAGE - 1, PAGE + 1, STORE / 5};
    (void)state;
    for (unsigned i = 0; i < ARRAY_COUNT(sizes); i++) {
        struct pair pair;
        struct store_capacity capacity;
        begin(&pair, true,
              (struct pool_options){.recache = POOL_RECACHE_ALWAYS, .recache_below = 0.25});
        read_from_owner(&pair, "foreign", (unsigned)(STORE / u64_max(sizes[i], 500)), sizes[i]);
        store_capacity(pair.user.store, STORE_TIER_DRAM, &capacity);
        assert_true(capacity.used_bytes > 0);
        assert_true(capacity.used_bytes <= capacity.total_bytes / 4);
        end(&pair);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_larger_than_the_staging_memory_goes_in_pieces),
        cmocka_unit_test(a_value_larger_than_the_staging_memory_goes_without_it),
        cmocka_unit_test(a_registered_buffer_is_not_staged),
        cmocka_unit_test(what_was_read_elsewhere_is_kept_as_the_option_says),
        cmocka_unit_test(nothing_is_evicted_for_what_was_read_elsewhere),
        cmocka_unit_test(a_batch_evicts_nothing_to_be_kept),
        cmocka_unit_test(what_is_kept_stays_below_the_level),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
