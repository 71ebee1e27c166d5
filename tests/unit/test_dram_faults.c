/* SPDX-License-Identifier: Apache-2.0 */
/* The DRAM tier when its own bookkeeping cannot get memory: every allocation fails once. */
#include "support.h"

#include <stdlib.h>
#include <string.h>

#include "tier_dram/tier_dram.h"

struct failure {
    uint64_t seen;
    uint64_t fail_at; /* the allocation that fails, from 1; 0: none */
};

static bool fail_one(void *context, size_t bytes)
{
    struct failure *failure = context;
    (void)bytes;
    return ++failure->seen != failure->fail_at;
}

static void dram_create_survives_the_failure_of_any_allocation(void **state)
{
    (void)state;
    struct dram_options options = {
        .bytes = MIB, .buffer_count = 2, .backing = DRAM_BACKING_SHARED, .numa_node = -1};
    unsigned fds = test_fd_count();
    enum umbp_status status = UMBP_NO_MEMORY;
    uint64_t fail_at = 0;
    while (status != UMBP_OK) {
        struct failure failure = {.fail_at = ++fail_at};
        struct dram_tier *tier = NULL;
        mem_set_hook(fail_one, &failure);
        status = dram_create(&options, &tier);
        mem_set_hook(NULL, NULL);
        if (status != UMBP_OK) {
            assert_status(status, UMBP_NO_MEMORY);
            assert_null(tier);
        }
        dram_destroy(tier);
        assert_int_equal(test_fd_count(), fds);
    }
    assert_true(fail_at > 3);
}

/*
 * A tier in which a large value takes whole pages here and there and then granules here and there:
 * 1,024 pages of 4 KiB, a third of them free, the others full of values of 256 bytes of which every
 * second is free.
 */
struct rugged {
    struct dram_tier *tier;
    struct dram_block *blocks;
    size_t count;
};

static void rugged_make(struct rugged *rugged)
{
    struct dram_options options = {
        .bytes = 4 * MIB, .page_bytes = 4096, .buffer_count = 2, .numa_node = -1};
    assert_ok(dram_create(&options, &rugged->tier));
    rugged->blocks = calloc(4 * MIB / 64, sizeof(*rugged->blocks));
    assert_non_null(rugged->blocks);
    size_t count = 0;
    while (dram_alloc(rugged->tier, 256, &rugged->blocks[count]) == UMBP_OK) {
        count++;
    }
    for (size_t i = 0; i < count; i++) {
        if (i % 2 || (i / 16) % 3 == 0) {
            dram_free(rugged->tier, &rugged->blocks[i]);
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (rugged->blocks[i].extents) {
            rugged->blocks[kept++] = rugged->blocks[i];
        }
    }
    rugged->count = kept;
    for (size_t i = 0; i < kept; i++) {
        char data[256];
        test_fill(data, sizeof(data), i);
        dram_write(rugged->tier, &rugged->blocks[i], 0, data, sizeof(data));
    }
    struct dram_stats stats;
    dram_stats(rugged->tier, &stats);
    assert_true(stats.pages_free > 10 && stats.pages_split > 10);
}

/* What is free can be had to the last granule, and is none of the values'. */
static void rugged_check_and_end(struct rugged *rugged)
{
    assert_true(dram_check(rugged->tier));
    uint64_t left = dram_bytes_free(rugged->tier);
    struct dram_block rest = {0};
    assert_ok(dram_alloc(rugged->tier, left, &rest));
    char *zeros = calloc(left, 1);
    assert_non_null(zeros);
    dram_write(rugged->tier, &rest, 0, zeros, left);
    free(zeros);
    for (size_t i = 0; i < rugged->count; i++) {
        char data[256];
        dram_read(rugged->tier, &rugged->blocks[i], 0, data, sizeof(data));
        assert_true(test_check_fill(data, sizeof(data), i));
    }
    assert_true(dram_check(rugged->tier));
    dram_free(rugged->tier, &rest);
    dram_free_batch(rugged->tier, rugged->blocks, rugged->count);
    assert_int_equal(dram_bytes_free(rugged->tier), dram_bytes_total(rugged->tier));
    assert_true(dram_check(rugged->tier));
    dram_destroy(rugged->tier);
    free(rugged->blocks);
}

static void dram_alloc_rolls_back_exactly_when_any_allocation_fails(void **state)
{
    (void)state;
    enum umbp_status status = UMBP_NO_MEMORY;
    uint64_t fail_at = 0;
    while (status != UMBP_OK) {
        struct rugged rugged;
        rugged_make(&rugged);
        struct dram_stats before;
        dram_stats(rugged.tier, &before);
        struct failure failure = {.fail_at = ++fail_at};
        struct dram_block block = {0};
        mem_set_hook(fail_one, &failure);
        status = dram_alloc(rugged.tier, before.bytes_free - 1000, &block);
        mem_set_hook(NULL, NULL);
        if (status != UMBP_OK) {
            assert_status(status, UMBP_NO_MEMORY);
            assert_int_equal(block.extents, 0);
            struct dram_stats after;
            dram_stats(rugged.tier, &after);
            assert_int_equal(after.bytes_free, before.bytes_free);
            assert_int_equal(after.pages_free, before.pages_free);
            assert_int_equal(after.pages_split, before.pages_split);
            assert_int_equal(after.blocks, before.blocks);
            assert_int_equal(after.blocks_scattered, before.blocks_scattered);
        }
        dram_free(rugged.tier, &block);
        rugged_check_and_end(&rugged);
    }
    assert_true(fail_at >=
                4); /* the first list's pool, and its growth in the middle of the value */
}

static void dram_alloc_batch_keeps_what_came_before_a_failed_allocation(void **state)
{
    (void)state;
    struct rugged rugged;
    rugged_make(&rugged);
    uint64_t bytes[3] = {64, 100 * KIB, 64};
    bytes[1] = dram_bytes_free(rugged.tier) - 10000;
    struct dram_block blocks[3] = {{0}};
    size_t done = 9;
    struct failure failure = {.fail_at = 1};
    mem_set_hook(fail_one, &failure);
    enum umbp_status status = dram_alloc_batch(rugged.tier, bytes, 3, blocks, &done);
    mem_set_hook(NULL, NULL);
    assert_status(status, UMBP_NO_MEMORY);
    assert_int_equal(done, 1);
    assert_int_equal(blocks[0].extents, 1);
    assert_int_equal(blocks[1].extents, 0);
    dram_free_batch(rugged.tier, blocks, 3);
    rugged_check_and_end(&rugged);
}

static void dram_blocks_of_one_extent_need_no_memory_of_their_own(void **state)
{
    (void)state;
    struct dram_options options = {.bytes = 4 * MIB, .numa_node = -1};
    struct dram_tier *tier = NULL;
    assert_ok(dram_create(&options, &tier));
    struct failure failure = {0};
    mem_set_hook(fail_one, &failure);
    struct dram_block blocks[64] = {{0}};
    for (unsigned round = 0; round < 100; round++) {
        for (unsigned i = 0; i < 64; i++) {
            assert_ok(dram_alloc(tier, 1 + 1000 * i, &blocks[i]));
            assert_int_equal(blocks[i].extents, 1);
        }
        dram_free_batch(tier, blocks, 64);
    }
    mem_set_hook(NULL, NULL);
    assert_int_equal(failure.seen, 0);
    dram_destroy(tier);
}

static void dram_lists_are_reused_so_a_steady_state_allocates_nothing(void **state)
{
    (void)state;
    struct rugged rugged;
    rugged_make(&rugged);
    uint64_t bytes = dram_bytes_free(rugged.tier);
    struct dram_block block = {0};
    struct failure failure = {0};
    for (unsigned round = 0; round < 50; round++) {
        assert_ok(dram_alloc(rugged.tier, bytes, &block));
        dram_free(rugged.tier, &block);
        if (round == 0) {
            mem_set_hook(fail_one, &failure);
        }
    }
    mem_set_hook(NULL, NULL);
    assert_int_equal(failure.seen, 0);
    rugged_check_and_end(&rugged);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dram_create_survives_the_failure_of_any_allocation),
        cmocka_unit_test(dram_alloc_rolls_back_exactly_when_any_allocation_fails),
        cmocka_unit_test(dram_alloc_batch_keeps_what_came_before_a_failed_allocation),
        cmocka_unit_test(dram_blocks_of_one_extent_need_no_memory_of_their_own),
        cmocka_unit_test(dram_lists_are_reused_so_a_steady_state_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
