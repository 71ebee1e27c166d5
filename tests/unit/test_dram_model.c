/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The DRAM tier against a model that knows nothing of pages: a map with one byte for each granule.
 * Random allocations and frees, with every byte of every block filled and checked, so that memory
 * handed out twice, lost or moved is seen whatever the allocator believes of itself.
 */
#include "support.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tier_dram/tier_dram.h"

struct shape {
    uint64_t bytes;
    uint32_t page_bytes;
    uint32_t buffer_count;
};

struct value {
    struct dram_block block;
    uint64_t bytes;
    uint64_t tag;
};

struct model {
    struct dram_tier *tier;
    uint64_t total;
    uint64_t used;   /* bytes, in whole granules */
    uint8_t *owned;  /* by granule, over the buffers one after the other */
    uint8_t *buffer; /* for filling and checking */
    struct value *values;
    size_t count;
    size_t room;
    uint64_t scattered;
    struct test_rng rng;
};

/* Bytes told by tag and position, like test_fill's but a word at a time: there are many of them.
 * Rounded up to words, which stays inside the value's last granule. */
static void fill(uint8_t *data, uint64_t bytes, uint64_t tag)
{
    for (uint64_t i = 0; i * 8 < bytes; i++) {
        uint64_t word = tag + i * UINT64_C(0x9E3779B97F4A7C15);
        memcpy(data + i * 8, &word, 8);
    }
}

static bool check_fill(const uint8_t *data, uint64_t bytes, uint64_t tag)
{
    uint64_t wrong = 0;
    for (uint64_t i = 0; i * 8 < bytes; i++) {
        uint64_t word;
        memcpy(&word, data + i * 8, 8);
        wrong |= word ^ (tag + i * UINT64_C(0x9E3779B97F4A7C15));
    }
    return wrong == 0;
}

/* Where an address lies in the tier's linear range, and in which buffer. */
static uint64_t offset_of(const struct model *model, const void *data, uint64_t bytes,
                          uint32_t *buffer_out)
{
    for (uint32_t i = 0; i < dram_buffer_count(model->tier); i++) {
        struct dram_buffer_info info;
        assert_ok(dram_buffer_get(model->tier, i, &info));
        uint64_t at = (uint64_t)((const char *)data - (char *)info.data);
        if ((const char *)data >= (char *)info.data && at < info.bytes) {
            assert_true(at + bytes <= info.bytes); /* no run crosses from one buffer to the next */
            *buffer_out = i;
            return info.offset + at;
        }
    }
    fail_msg("a piece outside of all buffers");
    return 0;
}

/* Marks the block's granules in the map; each must be in the other state. Returns its pieces. */
static unsigned mark(struct model *model, const struct value *value, uint8_t to)
{
    uint64_t footprint = dram_footprint(value->bytes);
    unsigned pieces = 0;
    uint32_t cursor = 0;
    assert_int_equal((uint64_t)value->block.granules * DRAM_GRANULE_BYTES, footprint);
    for (uint64_t offset = 0; offset < footprint; pieces++) {
        struct dram_piece piece = dram_piece_at(model->tier, &value->block, offset, &cursor);
        uint32_t buffer;
        uint64_t at = offset_of(model, piece.data, piece.bytes, &buffer);
        assert_int_equal(at % DRAM_GRANULE_BYTES, 0);
        assert_true(piece.bytes <= footprint - offset);
        for (uint64_t i = 0; i < piece.bytes / DRAM_GRANULE_BYTES; i++) {
            uint8_t *owned = &model->owned[at / DRAM_GRANULE_BYTES + i];
            if (*owned == to) {
                fail_msg("granule %llu is in two blocks",
                         (unsigned long long)(at / DRAM_GRANULE_BYTES + i));
            }
            *owned = to;
        }
        offset += piece.bytes;
    }
    assert_int_equal(pieces, value->block.extents);
    return pieces;
}

static void add_value(struct model *model, uint64_t bytes)
{
    struct value value = {.bytes = bytes, .tag = test_rng_next(&model->rng)};
    bool fits = dram_footprint(bytes) <= model->total - model->used;
    enum umbp_status status = dram_alloc(model->tier, bytes, &value.block);
    if (!fits) {
        assert_status(status, bytes > model->total ? UMBP_TOO_LARGE : UMBP_NO_SPACE);
        assert_int_equal(value.block.extents, 0);
        return;
    }
    assert_ok(status);
    assert_true(model->count < model->room);
    model->scattered += mark(model, &value, 1) > 1;
    model->used += dram_footprint(bytes);
    fill(model->buffer, bytes, value.tag);
    dram_write(model->tier, &value.block, 0, model->buffer, align_up(bytes, 8));
    model->values[model->count++] = value;
}

static void drop_value(struct model *model, size_t index)
{
    struct value *value = &model->values[index];
    uint64_t bytes = align_up(value->bytes, 8);
    memset(model->buffer, 0, bytes);
    dram_read(model->tier, &value->block, 0, model->buffer, bytes);
    assert_true(check_fill(model->buffer, bytes, value->tag));
    mark(model, value, 0);
    model->used -= dram_footprint(value->bytes);
    dram_free(model->tier, &value->block);
    assert_int_equal(value->block.extents, 0);
    dram_free(model->tier, &value->block); /* a second time changes nothing */
    *value = model->values[--model->count];
}

/* Small sizes often, large ones sometimes; multiples of the page and odd ones. */
static uint64_t random_size(struct model *model, uint64_t max)
{
    static const uint64_t usual[] = {64, 512, 4096, 5000, 65536, 70000, 262144, 1048576};
    struct test_rng *rng = &model->rng;
    uint64_t size;
    switch (test_rng_below(rng, 16)) {
    case 0:
        size = test_rng_below(rng, 256);
        break;
    case 1:
    case 2:
        size = test_rng_below(rng, 8192);
        break;
    case 3:
        size = test_rng_below(rng, max + 1);
        break;
    case 4:
        size = test_rng_below(rng, 131072);
        break;
    default:
        size = usual[test_rng_below(rng, ARRAY_COUNT(usual))];
    }
    return u64_min(size, max);
}

static void model_init(struct model *model, const struct shape *shape, uint64_t stream,
                       uint64_t max_bytes)
{
    struct dram_options options = {.bytes = shape->bytes,
                                   .page_bytes = shape->page_bytes,
                                   .buffer_count = shape->buffer_count,
                                   .numa_node = DRAM_NUMA_ANY};
    memset(model, 0, sizeof(*model));
    assert_ok(dram_create(&options, &model->tier));
    model->total = dram_bytes_total(model->tier);
    model->room = model->total / DRAM_GRANULE_BYTES;
    model->owned = calloc(model->room, 1);
    model->values = calloc(model->room, sizeof(*model->values));
    model->buffer = malloc(max_bytes + 8);
    assert_non_null(model->owned);
    assert_non_null(model->values);
    assert_non_null(model->buffer);
    test_rng_init(&model->rng, stream);
}

static void model_fini(struct model *model)
{
    while (model->count) {
        drop_value(model, model->count - 1);
    }
    assert_int_equal(dram_bytes_free(model->tier), model->total);
    assert_true(dram_check(model->tier));
    dram_destroy(model->tier);
    free(model->owned);
    free(model->values);
    free(model->buffer);
}

static void check_counts(const struct model *model)
{
    struct dram_stats stats;
    dram_stats(model->tier, &stats);
    assert_int_equal(stats.bytes_total, model->total);
    assert_int_equal(stats.bytes_free, model->total - model->used);
    assert_int_equal(stats.bytes_free, dram_bytes_free(model->tier));
    assert_int_equal(stats.blocks, model->count);
    uint64_t scattered = 0;
    for (size_t i = 0; i < model->count; i++) {
        scattered += model->values[i].block.extents > 1;
    }
    assert_int_equal(stats.blocks_scattered, scattered);
    assert_true(stats.pages_free + stats.pages_split <= stats.pages_total);
    assert_true(dram_check(model->tier));
}

/* Drives the tier between two levels of fill, so that it is full, and freed into, again and again.
 */
static void run_model(const struct shape *shape, uint64_t stream, unsigned operations)
{
    struct model model;
    uint64_t max_bytes = u64_min(4 * MIB, shape->bytes);
    model_init(&model, shape, stream, max_bytes);
    bool filling = true;
    unsigned full = 0;
    for (unsigned i = 0; i < operations; i++) {
        uint64_t left = model.total - model.used;
        if (filling && left < model.total / 64) {
            filling = false;
            full++;
            add_value(&model, left); /* to the last granule, out of what is left anywhere */
            if (left) {
                assert_int_equal(dram_bytes_free(model.tier), 0);
            }
        } else if (!filling && left > model.total / 4) {
            filling = true;
        }
        if (model.count && test_rng_below(&model.rng, 8) < (filling ? 2 : 6)) {
            drop_value(&model, test_rng_below(&model.rng, model.count));
        } else {
            add_value(&model, random_size(&model, max_bytes));
        }
        if (i % (operations / 64 + 1) == 0) {
            check_counts(&model);
        }
    }
    check_counts(&model);
    assert_true(full > 0);
    assert_true(model.scattered > 0 || shape->bytes < 1 * MIB);
    model_fini(&model);
}

static void dram_agrees_with_a_map_of_granules_over_random_operations(void **state)
{
    (void)state;
    static const struct shape shapes[] = {
        {64 * MIB, 0, 1},
        {64 * MIB, 4096, 1},
        {48 * MIB, 262144, 4},
        {32 * MIB + 12345, 65536, 3},
        {40 * MIB, 2097152, 2},
        {4 * MIB + 64, 16384, 64},
        {70 * MIB + 640, 67108864, 1},
        {1 * MIB, 65536, 1},
    };
    unsigned operations = (test_is_slow() ? 8000 : 100000) / ARRAY_COUNT(shapes);
    for (unsigned i = 0; i < ARRAY_COUNT(shapes); i++) {
        run_model(&shapes[i], i, operations);
    }
}

static void dram_agrees_with_a_map_of_granules_when_it_is_tiny(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {64, 100, 1000, 4096, 4160, 5000, 100000, 131072};
    for (unsigned i = 0; i < ARRAY_COUNT(sizes); i++) {
        run_model(&(struct shape){.bytes = sizes[i]}, 100 + i, 2000);
    }
}

/* ---- threads ---- */

struct worker {
    struct dram_tier *tier;
    uint64_t stream;
    unsigned rounds;
    unsigned wrong;
};

#define HELD 24u

static void *work(void *context)
{
    struct worker *worker = context;
    struct test_rng rng;
    test_rng_init(&rng, worker->stream);
    struct value held[HELD];
    memset(held, 0, sizeof(held));
    uint8_t *data = malloc(256 * KIB);
    for (unsigned round = 0; round < worker->rounds; round++) {
        struct value *value = &held[test_rng_below(&rng, HELD)];
        if (value->block.extents) {
            dram_read(worker->tier, &value->block, 0, data, value->bytes);
            worker->wrong += !test_check_fill(data, value->bytes, value->tag);
            dram_free(worker->tier, &value->block);
        }
        value->bytes = 1 + test_rng_below(&rng, round % 4 ? 8192 : 256 * KIB);
        value->tag = test_rng_next(&rng);
        enum umbp_status status = dram_alloc(worker->tier, value->bytes, &value->block);
        if (status == UMBP_OK) {
            test_fill(data, value->bytes, value->tag);
            dram_write(worker->tier, &value->block, 0, data, value->bytes);
        } else {
            worker->wrong += status != UMBP_NO_SPACE;
        }
        worker->wrong += dram_bytes_free(worker->tier) > dram_bytes_total(worker->tier);
    }
    for (unsigned i = 0; i < HELD; i++) {
        dram_free(worker->tier, &held[i].block);
    }
    free(data);
    return NULL;
}

static void dram_serves_eight_threads_in_a_tier_that_is_nearly_full(void **state)
{
    (void)state;
    struct dram_options options = {
        .bytes = 8 * MIB, .page_bytes = 16384, .buffer_count = 2, .numa_node = DRAM_NUMA_ANY};
    struct dram_tier *tier;
    assert_ok(dram_create(&options, &tier));
    struct worker workers[8];
    pthread_t threads[8];
    for (unsigned i = 0; i < 8; i++) {
        workers[i] = (struct worker){
            .tier = tier, .stream = 200 + i, .rounds = test_is_slow() ? 1000 : 10000};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].wrong, 0);
    }
    assert_int_equal(dram_bytes_free(tier), 8 * MIB);
    assert_true(dram_check(tier));
    dram_destroy(tier);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dram_agrees_with_a_map_of_granules_over_random_operations),
        cmocka_unit_test(dram_agrees_with_a_map_of_granules_when_it_is_tiny),
        cmocka_unit_test(dram_serves_eight_threads_in_a_tier_that_is_nearly_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
