/* SPDX-License-Identifier: Apache-2.0 */
/* What tier_dram.h promises about space, order and cost, through its interface. */
#include "support.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tier_dram/dram_priv.h" /* dram_words_read only */

#define PAGE (64 * KIB)

static struct dram_tier *make(uint64_t bytes, uint32_t page_bytes, uint32_t buffer_count)
{
    struct dram_options options = {.bytes = bytes,
                                   .page_bytes = page_bytes,
                                   .buffer_count = buffer_count,
                                   .numa_node = DRAM_NUMA_ANY};
    struct dram_tier *tier = NULL;
    assert_ok(dram_create(&options, &tier));
    return tier;
}

static struct dram_block get(struct dram_tier *tier, uint64_t bytes)
{
    struct dram_block block = {0};
    assert_ok(dram_alloc(tier, bytes, &block));
    return block;
}

static char *data_of(const struct dram_tier *tier, const struct dram_block *block)
{
    return dram_piece_at(tier, block, 0, NULL).data;
}

/* The one buffer that the block lies in, or -1 if there are several. */
static int buffer_of(const struct dram_tier *tier, const struct dram_block *block)
{
    int buffer = -2;
    uint64_t bytes = (uint64_t)block->granules * DRAM_GRANULE_BYTES;
    for (uint64_t offset = 0; offset < bytes;) {
        struct dram_piece piece = dram_piece_at(tier, block, offset, NULL);
        for (uint32_t i = 0; i < dram_buffer_count(tier); i++) {
            struct dram_buffer_info info;
            assert_ok(dram_buffer_get(tier, i, &info));
            if ((char *)piece.data >= (char *)info.data &&
                (char *)piece.data < (char *)info.data + info.bytes) {
                buffer = buffer == -2 || buffer == (int)i ? (int)i : -1;
            }
        }
        offset += piece.bytes;
    }
    return buffer;
}

/* Fills the tier with values of one size; returns how many there were room for. */
static size_t fill_with(struct dram_tier *tier, uint64_t bytes, struct dram_block **blocks_out)
{
    size_t room = dram_bytes_total(tier) / dram_footprint(bytes) + 1;
    struct dram_block *blocks = calloc(room, sizeof(*blocks));
    assert_non_null(blocks);
    size_t count = 0;
    while (count < room && dram_alloc(tier, bytes, &blocks[count]) == UMBP_OK) {
        count++;
    }
    *blocks_out = blocks;
    return count;
}

static void end(struct dram_tier *tier, struct dram_block *blocks, size_t count)
{
    dram_free_batch(tier, blocks, count);
    assert_int_equal(dram_bytes_free(tier), dram_bytes_total(tier));
    assert_true(dram_check(tier));
    dram_destroy(tier);
    free(blocks);
}

/* ---- creation ---- */

static void dram_create_refuses_options_that_make_no_tier(void **state)
{
    (void)state;
    static const struct dram_options wrong[] = {
        {.bytes = 0, .numa_node = -1},
        {.bytes = 63, .numa_node = -1},
        {.bytes = MIB, .page_bytes = 2048, .numa_node = -1},
        {.bytes = MIB, .page_bytes = 65537, .numa_node = -1},
        {.bytes = MIB, .page_bytes = 128 * 1024 * 1024, .numa_node = -1},
        {.bytes = MIB, .buffer_count = 65, .numa_node = -1},
        {.bytes = 4096, .buffer_count = 2, .numa_node = -1},
        {.bytes = MIB, .numa_node = -3},
        {.bytes = MIB, .backing = (enum dram_backing)4, .numa_node = -1},
        {.bytes = UINT64_MAX, .page_bytes = 4096, .numa_node = -1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        struct dram_tier *tier = (struct dram_tier *)&tier;
        assert_status(dram_create(&wrong[i], &tier), UMBP_INVALID_VALUE);
        assert_ptr_equal(tier, &tier);
    }
    dram_destroy(NULL);
}

static void dram_pages_shrink_when_the_tier_is_smaller_than_they_are(void **state)
{
    (void)state;
    struct dram_tier *tier = make(100000, DRAM_PAGE_BYTES_MAX, 1);
    struct dram_stats stats;
    dram_stats(tier, &stats);
    assert_int_equal(stats.bytes_total, 99968); /* in whole granules */
    assert_int_equal(stats.bytes_free, 99968);
    assert_int_equal(stats.pages_total, 2);
    assert_int_equal(stats.pages_free, 1);
    struct dram_block *blocks = calloc(1, sizeof(*blocks));
    blocks[0] = get(tier, 99968);
    assert_int_equal(blocks[0].extents, 1);
    assert_int_equal(dram_bytes_free(tier), 0);
    end(tier, blocks, 1);
}

static void dram_stats_tell_what_is_there(void **state)
{
    (void)state;
    struct dram_tier *tier = make(MIB, 0, 1);
    struct dram_block *blocks = calloc(2, sizeof(*blocks));
    blocks[0] = get(tier, PAGE);
    blocks[1] = get(tier, 100);
    struct dram_stats stats;
    dram_stats(tier, &stats);
    assert_int_equal(stats.bytes_total, MIB);
    assert_int_equal(stats.bytes_free, MIB - PAGE - 128);
    assert_int_equal(stats.pages_total, 16);
    assert_int_equal(stats.pages_free, 14);
    assert_int_equal(stats.pages_split, 1);
    assert_int_equal(stats.blocks, 2);
    assert_int_equal(stats.blocks_scattered, 0);
    assert_int_equal(stats.backing, DRAM_BACKING_ANONYMOUS);
    assert_in_range(stats.metadata_bytes, 1, MIB / 8);
    dram_free(tier, &blocks[1]); /* the split page becomes whole at once */
    dram_stats(tier, &stats);
    assert_int_equal(stats.pages_free, 15);
    assert_int_equal(stats.pages_split, 0);
    end(tier, blocks, 1);
}

/* ---- capacity ---- */

static void dram_512_byte_values_fill_a_tier_of_1_mib_to_the_last_byte(void **state)
{
    (void)state;
    struct dram_tier *tier = make(MIB, 0, 1);
    struct dram_block *blocks;
    size_t count = fill_with(tier, 512, &blocks);
    assert_int_equal(count, 2048);
    assert_int_equal(dram_bytes_free(tier), 0);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(blocks[i].extents, 1);
    }
    end(tier, blocks, count);
}

static void dram_holds_as_many_values_of_one_size_as_its_granules_allow(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {0,     1,      64,     65,     100,    512,
                                     4096,  5000,   40000,  65535,  65536,  65537,
                                     70000, 131072, 200000, 262145, 1000000};
    static const uint64_t tiers[] = {64, 1000, 5000, 100000, MIB, MIB + 64, 3 * MIB - 4096};
    for (size_t t = 0; t < ARRAY_COUNT(tiers); t++) {
        for (size_t s = 0; s < ARRAY_COUNT(sizes); s++) {
            struct dram_tier *tier = make(tiers[t], 0, 1);
            struct dram_block *blocks;
            size_t count = fill_with(tier, sizes[s], &blocks);
            assert_int_equal(count, dram_bytes_total(tier) / dram_footprint(sizes[s]));
            assert_true(dram_footprint(sizes[s]) - sizes[s] <= DRAM_GRANULE_BYTES);
            assert_int_equal(dram_bytes_free(tier),
                             dram_bytes_total(tier) - count * dram_footprint(sizes[s]));
            end(tier, blocks, count);
        }
    }
}

static void dram_64_kib_values_waste_nothing_with_pages_of_2_mib(void **state)
{
    (void)state;
    struct dram_tier *tier = make(8 * MIB, 2 * 1024 * 1024, 1);
    struct dram_block *blocks;
    size_t count = fill_with(tier, 64 * KIB, &blocks);
    assert_int_equal(count, 128);
    assert_int_equal(dram_bytes_free(tier), 0);
    end(tier, blocks, count);
}

static void dram_alloc_tells_too_large_from_no_space(void **state)
{
    (void)state;
    struct dram_tier *tier = make(MIB, 0, 1);
    struct dram_block *blocks = calloc(1, sizeof(*blocks));
    struct dram_block none = {0};
    assert_status(dram_alloc(tier, MIB + 1, &none), UMBP_TOO_LARGE);
    assert_status(dram_alloc(tier, UINT64_MAX, &none), UMBP_TOO_LARGE);
    blocks[0] = get(tier, 65);
    assert_status(dram_alloc(tier, MIB, &none), UMBP_NO_SPACE);
    assert_status(dram_alloc(tier, MIB - 127, &none), UMBP_NO_SPACE);
    assert_int_equal(none.extents, 0); /* written only on success */
    struct dram_block rest = get(tier, MIB - 128);
    assert_status(dram_alloc(tier, 0, &none), UMBP_NO_SPACE);
    dram_free(tier, &rest);
    end(tier, blocks, 1);
}

/* The C++ store evicted 9,585 of 16,384 small keys for one of these. */
static void dram_freeing_exactly_the_bytes_makes_room_for_1_mib_among_small_values(void **state)
{
    (void)state;
    struct dram_tier *tier = make(8 * MIB, 0, 1);
    struct dram_block *blocks;
    size_t count = fill_with(tier, 512, &blocks);
    assert_int_equal(count, 16384);
    struct test_rng rng;
    test_rng_init(&rng, 13);
    for (unsigned freed = 0; freed < 2048; freed++) {
        struct dram_block none = {0};
        assert_status(dram_alloc(tier, MIB, &none), UMBP_NO_SPACE);
        size_t i = test_rng_below(&rng, count);
        dram_free(tier, &blocks[i]);
        blocks[i] = blocks[--count];
    }
    struct dram_block large = get(tier, MIB);
    assert_true(large.extents > 1 && large.extents <= 2048);
    assert_int_equal(dram_bytes_free(tier), 0);
    char *data = malloc(MIB);
    char *back = malloc(MIB);
    test_fill(data, MIB, 1);
    dram_write(tier, &large, 0, data, MIB);
    dram_read(tier, &large, 0, back, MIB);
    assert_memory_equal(data, back, MIB);
    free(data);
    free(back);
    dram_free(tier, &large);
    end(tier, blocks, count);
}

/* ---- order of preference ---- */

static void dram_values_with_a_last_part_lie_in_one_run_that_begins_a_page(void **state)
{
    (void)state;
    struct dram_tier *tier = make(16 * MIB, 0, 1);
    struct dram_buffer_info info;
    assert_ok(dram_buffer_get(tier, 0, &info));
    struct dram_block *blocks = calloc(64, sizeof(*blocks));
    for (unsigned i = 0; i < 64; i++) {
        blocks[i] = get(tier, PAGE + 100 * i);
        assert_int_equal(blocks[i].extents, 1);
        assert_int_equal((uint64_t)(data_of(tier, &blocks[i]) - (char *)info.data) % PAGE, 0);
    }
    end(tier, blocks, 64);
}

static void dram_alloc_takes_the_run_that_was_freed_last(void **state)
{
    (void)state;
    struct dram_tier *tier = make(64 * MIB, 0, 1);
    struct dram_block *blocks;
    size_t count = fill_with(tier, MIB, &blocks);
    struct test_rng rng;
    test_rng_init(&rng, 1);
    for (unsigned i = 0; i < 1000; i++) {
        size_t at = test_rng_below(&rng, count);
        char *before = data_of(tier, &blocks[at]);
        uint64_t words = dram_words_read(tier);
        dram_free(tier, &blocks[at]);
        blocks[at] = get(tier, MIB);
        assert_ptr_equal(data_of(tier, &blocks[at]), before);
        assert_true(dram_words_read(tier) - words <= 4);
    }
    end(tier, blocks, count);
}

static void dram_alloc_finds_a_run_that_it_no_longer_remembers(void **state)
{
    (void)state;
    struct dram_tier *tier = make(64 * MIB, 0, 1);
    struct dram_block *blocks;
    size_t count = fill_with(tier, PAGE, &blocks);
    dram_free_batch(tier, &blocks[500], 16);
    for (unsigned i = 0; i < 100; i++) { /* more freed runs than are remembered */
        dram_free(tier, &blocks[2 * i]);
    }
    struct dram_block run = get(tier, MIB);
    assert_int_equal(run.extents, 1);
    dram_free(tier, &run);
    end(tier, blocks, count);
}

/* Two buffers of 64 pages each, in use but for `free0` and `free1` pages, none beside another. The
 * runs freed last, which are remembered, lie in both. */
static size_t make_holes(struct dram_tier *tier, struct dram_block **blocks_out, unsigned free0,
                         unsigned free1)
{
    size_t count = fill_with(tier, PAGE, blocks_out);
    unsigned left[2] = {free0, free1};
    assert_int_equal(count, 128);
    for (size_t i = 0; i < count; i++) {
        struct dram_block *block = &(*blocks_out)[i * 37 % count];
        struct dram_buffer_info info;
        int buffer = buffer_of(tier, block);
        assert_ok(dram_buffer_get(tier, (uint32_t)buffer, &info));
        bool odd = (uint64_t)(data_of(tier, block) - (char *)info.data) / PAGE % 2;
        if (odd && left[buffer]) {
            left[buffer]--;
            dram_free(tier, block);
        }
    }
    return count;
}

static void dram_alloc_scatters_in_one_buffer_before_it_uses_several(void **state)
{
    (void)state;
    static const unsigned holes[][2] = {{15, 20}, {20, 15}, {16, 31}, {3, 16}};
    for (size_t i = 0; i < ARRAY_COUNT(holes); i++) {
        struct dram_tier *tier = make(8 * MIB, 0, 2);
        struct dram_block *blocks;
        size_t count = make_holes(tier, &blocks, holes[i][0], holes[i][1]);
        struct dram_block value = get(tier, MIB);
        assert_int_equal(value.extents, 16);
        assert_true(buffer_of(tier, &value) >= 0);
        dram_free(tier, &value);
        end(tier, blocks, count);
    }
}

static void dram_alloc_uses_several_buffers_when_no_single_one_suffices(void **state)
{
    (void)state;
    struct dram_tier *tier = make(8 * MIB, 0, 2);
    struct dram_block *blocks;
    size_t count = make_holes(tier, &blocks, 9, 7);
    struct dram_block value = get(tier, MIB);
    assert_int_equal(value.extents, 16);
    assert_int_equal(buffer_of(tier, &value), -1);
    assert_int_equal(dram_bytes_free(tier), 0);
    dram_free(tier, &value);
    end(tier, blocks, count);
}

static void dram_a_run_never_crosses_from_one_buffer_to_the_next(void **state)
{
    (void)state;
    struct dram_tier *tier = make(8 * MIB, 0, 4);
    struct dram_block *blocks = calloc(2, sizeof(*blocks));
    blocks[0] = get(tier, 3 * MIB); /* larger than a buffer */
    assert_true(blocks[0].extents >= 2);
    assert_int_equal(buffer_of(tier, &blocks[0]), -1);
    blocks[1] = get(tier, 5 * MIB);
    assert_true(blocks[1].extents >= 3);
    for (uint64_t offset = 0; offset < 5 * MIB;) {
        struct dram_piece piece = dram_piece_at(tier, &blocks[1], offset, NULL);
        assert_true(piece.bytes <= 2 * MIB);
        offset += piece.bytes;
    }
    end(tier, blocks, 2);
}

static void dram_small_values_share_pages_before_another_is_split(void **state)
{
    (void)state;
    struct dram_tier *tier = make(MIB, 0, 1);
    struct dram_block *blocks = calloc(200, sizeof(*blocks));
    struct dram_stats stats;
    for (unsigned i = 0; i < 128; i++) {
        blocks[i] = get(tier, 512);
    }
    dram_stats(tier, &stats);
    assert_int_equal(stats.pages_split, 1);
    for (unsigned i = 128; i < 200; i++) {
        blocks[i] = get(tier, 512);
    }
    dram_stats(tier, &stats);
    assert_int_equal(stats.pages_split, 2);
    /* One hole in the full page, many granules in the other: the hole is what fits best. */
    char *hole = data_of(tier, &blocks[7]);
    dram_free(tier, &blocks[7]);
    blocks[7] = get(tier, 512);
    assert_ptr_equal(data_of(tier, &blocks[7]), hole);
    /* Likewise when the hole is somewhat larger than what is asked for. */
    dram_free_batch(tier, &blocks[7], 2);
    blocks[7] = get(tier, 640);
    assert_ptr_equal(data_of(tier, &blocks[7]), hole);
    end(tier, blocks, 200);
}

static void dram_scattered_values_take_the_longest_runs_first(void **state)
{
    (void)state;
    struct dram_tier *tier = make(2 * PAGE, 0, 1);
    struct dram_block *blocks;
    size_t count = fill_with(tier, 512, &blocks);
    for (size_t i = 0; i < 32; i += 2) { /* 16 runs of 512 bytes */
        dram_free(tier, &blocks[i]);
    }
    dram_free_batch(tier, &blocks[140], 16); /* one of 8 KiB */
    struct dram_block value = get(tier, 9000);
    assert_int_equal(value.extents, 3);
    dram_free(tier, &value);
    end(tier, blocks, count);
}

/* The page that fits best by its bound has no such run any more: the next one is tried. */
static void dram_small_values_find_a_run_behind_a_page_that_only_seems_to_have_one(void **state)
{
    (void)state;
    struct dram_tier *tier = make(2 * PAGE, 0, 1);
    struct dram_block *blocks;
    size_t count = fill_with(tier, 512, &blocks);
    assert_int_equal(count, 256);
    dram_free_batch(tier, &blocks[1], 3);
    dram_free(tier, &blocks[10]);
    blocks[1] = get(tier, 1024); /* leaves two runs of 512 in the first page */
    dram_free(tier, &blocks[150]);
    dram_free_batch(tier, &blocks[200], 3);
    blocks[2] = get(tier, 1024);
    assert_int_equal(blocks[1].extents, 1);
    assert_int_equal(blocks[2].extents, 1);
    end(tier, blocks, count);
}

static void dram_values_of_4_kib_begin_at_multiples_of_4_kib_among_small_ones(void **state)
{
    (void)state;
    struct dram_tier *tier = make(MIB, 0, 1);
    struct dram_block *blocks = calloc(100, sizeof(*blocks));
    for (unsigned i = 0; i < 100; i++) {
        bool page = i % 2;
        blocks[i] = get(tier, page ? 4096 * (1 + i % 3) : 512);
        if (page) {
            assert_int_equal((uintptr_t)data_of(tier, &blocks[i]) % 4096, 0);
        }
    }
    end(tier, blocks, 100);
}

/* ---- batches, freeing ---- */

static void dram_alloc_batch_stops_at_the_first_that_does_not_fit(void **state)
{
    (void)state;
    struct dram_tier *tier = make(MIB, 0, 1);
    enum {
        COUNT = 300
    };
    uint64_t *bytes = calloc(COUNT, sizeof(*bytes));
    struct dram_block *blocks = calloc(COUNT, sizeof(*blocks));
    for (unsigned i = 0; i < COUNT; i++) {
        bytes[i] = 4096;
    }
    size_t done = 1;
    assert_ok(dram_alloc_batch(tier, bytes, 0, blocks, &done));
    assert_int_equal(done, 0);
    assert_ok(dram_alloc_batch(tier, bytes, 200, blocks, &done));
    assert_int_equal(done, 200);
    assert_status(dram_alloc_batch(tier, bytes, 100, &blocks[200], &done), UMBP_NO_SPACE);
    assert_int_equal(done, 56);
    assert_int_equal(dram_bytes_free(tier), 0);
    assert_int_equal(blocks[256].extents, 0);
    dram_free_batch(tier, blocks, COUNT); /* cleared ones among them */
    bytes[1] = 2 * MIB;
    assert_status(dram_alloc_batch(tier, bytes, 3, blocks, &done), UMBP_TOO_LARGE);
    assert_int_equal(done, 1);
    free(bytes);
    end(tier, blocks, 1);
}

static void dram_free_of_a_cleared_block_changes_nothing(void **state)
{
    (void)state;
    struct dram_tier *tier = make(MIB, 0, 1);
    struct dram_block *blocks = calloc(2, sizeof(*blocks));
    blocks[0] = get(tier, 70000);
    blocks[1] = get(tier, 70000);
    dram_free(tier, &blocks[1]);
    assert_int_equal(blocks[1].extents, 0);
    uint64_t free_bytes = dram_bytes_free(tier);
    dram_free(tier, &blocks[1]);
    dram_free(tier, &(struct dram_block){0});
    assert_int_equal(dram_bytes_free(tier), free_bytes);
    end(tier, blocks, 1);
}

/* Else every page that changes while a child lives is copied. */
static void forked_children_do_not_get_the_memory(void **state)
{
    (void)state;
    struct dram_tier *tier = make(4 * MIB, 0, 1);
    struct dram_block block = get(tier, PAGE);
    void *data = dram_piece_at(tier, &block, 0, NULL).data;
    static const char secret[] = "what is in the tier";
    char seen[sizeof secret] = "";
    int pipes[2];
    int status = 0;
    memcpy(data, secret, sizeof secret);
    assert_int_equal(pipe(pipes), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        /* By a system call, which fails where nothing is mapped. Something else may be: what a
         * sanitizer has in a new process. */
        bool is_there = write(pipes[1], data, sizeof secret) == (ssize_t)sizeof secret &&
                        read(pipes[0], seen, sizeof seen) == (ssize_t)sizeof seen;
        _exit(is_there && memcmp(seen, secret, sizeof secret) == 0 ? 1 : 0);
    }
    close(pipes[0]);
    close(pipes[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    dram_free(tier, &block);
    dram_destroy(tier);
}

/* Runs `wrong` in a child, which must be stopped by an assertion. */
static void assert_stops(void (*wrong)(struct dram_tier *tier), struct dram_tier *tier)
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) {
            _exit(1);
        }
        wrong(tier);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void free_pages_twice(struct dram_tier *tier)
{
    struct dram_block block = get(tier, 2 * PAGE);
    struct dram_block copy = block;
    dram_free(tier, &block);
    dram_free(tier, &copy);
}

static void free_granules_twice(struct dram_tier *tier)
{
    struct dram_block other = get(tier, 64);
    struct dram_block block = get(tier, 640);
    struct dram_block copy = block;
    (void)other;
    dram_free(tier, &block);
    dram_free(tier, &copy);
}

static void free_scattered_twice(struct dram_tier *tier)
{
    struct dram_block *blocks;
    size_t count = fill_with(tier, 4096, &blocks);
    for (size_t i = 0; i < count; i += 2) {
        dram_free(tier, &blocks[i]);
    }
    struct dram_block block = get(tier, PAGE);
    struct dram_block copy = block;
    dram_free(tier, &block);
    dram_free(tier, &copy);
}

static void read_through_a_freed_block(struct dram_tier *tier)
{
    struct dram_block *blocks;
    size_t count = fill_with(tier, 4096, &blocks);
    for (size_t i = 0; i < count; i += 2) {
        dram_free(tier, &blocks[i]);
    }
    struct dram_block all = get(tier, dram_bytes_free(tier) - 8192);
    struct dram_block block = get(tier, 8192);
    struct dram_block copy = block;
    (void)all;
    dram_free(tier, &block);
    block = get(tier, 8192); /* the same list in the same place, of another generation */
    (void)dram_piece_at(tier, &copy, 0, NULL);
}

static void read_past_the_end(struct dram_tier *tier)
{
    struct dram_block block = get(tier, 100);
    (void)dram_piece_at(tier, &block, 128, NULL);
}

static void dram_wrong_frees_and_reads_are_caught(void **state)
{
    (void)state;
    struct dram_tier *tier = make(MIB, 0, 1);
    assert_stops(free_pages_twice, tier);
    assert_stops(free_granules_twice, tier);
    assert_stops(free_scattered_twice, tier);
    assert_stops(read_through_a_freed_block, tier);
    assert_stops(read_past_the_end, tier);
    dram_destroy(tier);
}

/* ---- pieces ---- */

static void dram_pieces_agree_with_and_without_a_cursor_in_any_order(void **state)
{
    (void)state;
    struct dram_tier *tier = make(MIB, 4096, 1);
    struct dram_block *blocks;
    size_t count = fill_with(tier, 192, &blocks);
    for (size_t i = 0; i < count; i += 2) {
        dram_free(tier, &blocks[i]);
    }
    uint64_t bytes = 200 * KIB + 7;
    struct dram_block value = get(tier, bytes);
    assert_true(value.extents > 500);
    uint32_t forward = 0;
    uint32_t any = 0;
    struct test_rng rng;
    test_rng_init(&rng, 5);
    for (uint64_t offset = 0; offset < bytes; offset += 61) {
        struct dram_piece alone = dram_piece_at(tier, &value, offset, NULL);
        struct dram_piece next = dram_piece_at(tier, &value, offset, &forward);
        assert_ptr_equal(alone.data, next.data);
        assert_int_equal(alone.bytes, next.bytes);
        uint64_t other = test_rng_below(&rng, bytes);
        alone = dram_piece_at(tier, &value, other, NULL);
        next = dram_piece_at(tier, &value, other, &any);
        assert_ptr_equal(alone.data, next.data);
        assert_int_equal(alone.bytes, next.bytes);
    }
    dram_free(tier, &value);
    end(tier, blocks, count);
}

static void dram_parts_of_a_value_are_read_and_written_at_any_offset(void **state)
{
    (void)state;
    struct dram_tier *tier = make(MIB, 4096, 2);
    struct dram_block *blocks;
    size_t count = fill_with(tier, 320, &blocks);
    for (size_t i = 0; i < count; i += 2) {
        dram_free(tier, &blocks[i]);
    }
    uint64_t bytes = 300000;
    struct dram_block value = get(tier, bytes);
    unsigned char *model = calloc(bytes, 1);
    unsigned char *part = malloc(bytes);
    dram_write(tier, &value, 0, model, bytes);
    struct test_rng rng;
    test_rng_init(&rng, 6);
    for (unsigned i = 0; i < 200; i++) {
        uint64_t offset = test_rng_below(&rng, bytes);
        uint64_t length = test_rng_below(&rng, bytes - offset + 1);
        test_fill(part, length, i);
        memcpy(model + offset, part, length);
        dram_write(tier, &value, offset, part, length);
        offset = test_rng_below(&rng, bytes);
        length = test_rng_below(&rng, bytes - offset + 1);
        dram_read(tier, &value, offset, part, length);
        assert_memory_equal(part, model + offset, length);
    }
    free(model);
    free(part);
    dram_free(tier, &value);
    end(tier, blocks, count);
}

/* ---- cost ---- */

struct cost {
    uint64_t most;
    uint64_t sum;
    unsigned count;
};

static void note_cost(struct cost *cost, uint64_t words)
{
    cost->most = words > cost->most ? words : cost->most;
    cost->sum += words;
    cost->count++;
}

/* Nine tenths full, no two free pages in a row. The C++ pool read 0.5 ms of bitmap for each. */
static void check_cost(uint32_t pages)
{
    struct dram_options options = {.bytes = (uint64_t)pages * 4096,
                                   .page_bytes = 4096,
                                   .backing = DRAM_BACKING_SHARED, /* so it need not be there */
                                   .numa_node = DRAM_NUMA_ANY};
    struct dram_tier *tier;
    enum umbp_status status = dram_create(&options, &tier);
    if (status == UMBP_NO_MEMORY) {
        print_message("a tier of %u pages cannot be mapped here\n", pages);
        return;
    }
    assert_ok(status);
    uint32_t holes = pages / 10;
    struct dram_block *used = calloc(holes, sizeof(*used));
    struct dram_block *single = calloc(holes, sizeof(*single));
    for (uint32_t i = 0; i < holes; i++) {
        used[i] = get(tier, 9 * 4096);
        single[i] = get(tier, 4096);
    }
    for (uint32_t i = 0; i < holes; i++) {
        dram_free(tier, &single[i]);
    }

    struct cost one = {0};
    struct cost run = {0};
    struct test_rng rng;
    test_rng_init(&rng, pages);
    for (unsigned i = 0; i < 2000; i++) {
        uint32_t at = (uint32_t)test_rng_below(&rng, holes);
        dram_free(tier, &single[at]);
        uint64_t before = dram_words_read(tier);
        single[at] = get(tier, 4096);
        note_cost(&one, dram_words_read(tier) - before);
        /* There is no run of two, until two neighbours are freed together. */
        before = dram_words_read(tier);
        struct dram_block pair = get(tier, 2 * 4096);
        note_cost(&run, dram_words_read(tier) - before);
        dram_free(tier, &pair);
    }
    assert_true(one.most <= 16);
    assert_true(one.sum <= 4 * one.count);
    assert_true(run.most <= 400);
    assert_true(run.sum <= 300 * run.count);
    dram_free_batch(tier, used, holes);
    dram_free_batch(tier, single, holes);
    assert_int_equal(dram_bytes_free(tier), dram_bytes_total(tier));
    dram_destroy(tier);
    free(used);
    free(single);
}

static void dram_alloc_reads_a_bounded_number_of_words_in_a_full_tier_of_any_size(void **state)
{
    (void)state;
    check_cost(64 * 1024);
    check_cost(test_is_slow() ? 1024 * 1024 : 16 * 1024 * 1024);
}

static void dram_small_values_in_full_pages_are_found_in_a_word_or_two(void **state)
{
    (void)state;
    static const uint32_t pages[] = {4096, 65536, 2 * 1024 * 1024};
    for (size_t p = 0; p < ARRAY_COUNT(pages); p++) {
        struct dram_tier *tier = make(8 * MIB, pages[p], 1);
        struct dram_block *blocks;
        size_t count = fill_with(tier, 512, &blocks);
        struct test_rng rng;
        test_rng_init(&rng, 28);
        uint64_t words = dram_words_read(tier);
        for (unsigned i = 0; i < 1000; i++) {
            struct dram_block *block = &blocks[test_rng_below(&rng, count)];
            dram_free(tier, block);
            *block = get(tier, 512);
        }
        assert_true(dram_words_read(tier) - words <= 2000);
        end(tier, blocks, count);
    }
}

/* Searches for runs in vain go around the bitmap once, in several steps, and then stop. A run that
 * a free made meanwhile, in the part that was searched already, must not be lost. */
static void dram_alloc_finds_a_run_that_was_freed_behind_the_search(void **state)
{
    (void)state;
    struct dram_tier *tier = make(256 * MIB, 4096, 1);
    struct dram_block *blocks;
    size_t count = fill_with(tier, 4096, &blocks);
    for (size_t i = 0; i < count; i += 3) {
        dram_free(tier, &blocks[i]);
    }
    bool found = false;
    for (unsigned i = 0; i < 40 && !found; i++) {
        struct dram_block value = get(tier, 64 * KIB);
        found = value.extents == 1;
        dram_free(tier, &value);
        if (i == 2) {
            dram_free_batch(tier, &blocks[19200], 17);
            for (size_t j = 0; j < 20; j++) { /* so that it is not remembered */
                dram_free(tier, &blocks[30001 + 3 * j]);
            }
        }
    }
    assert_true(found);
    end(tier, blocks, count);
}

static void dram_alloc_finds_a_run_across_the_place_where_a_search_stopped(void **state)
{
    (void)state;
    struct dram_tier *tier = make(256 * MIB, 4096, 1);
    struct dram_block *blocks;
    size_t count = fill_with(tier, 4096, &blocks);
    /* 128 words, or 8,192 pages, are one step. The only run lies half in the next one. */
    dram_free_batch(tier, &blocks[8190], 4);
    for (size_t i = 1; i < count; i += 3) {
        dram_free(tier, &blocks[i]);
    }
    bool found = false;
    for (unsigned i = 0; i < 20 && !found; i++) {
        struct dram_block value = get(tier, 4 * 4096);
        found = value.extents == 1;
        dram_free(tier, &value);
    }
    assert_true(found);
    end(tier, blocks, count);
}

static void dram_alloc_stops_searching_for_runs_when_there_are_none(void **state)
{
    (void)state;
    struct dram_tier *tier = make(64 * MIB, 4096, 1);
    struct dram_block *blocks;
    size_t count = fill_with(tier, 4096, &blocks);
    for (size_t i = 0; i < count; i += 3) {
        dram_free(tier, &blocks[i]);
    }
    uint64_t words = 0;
    for (unsigned i = 0; i < 100; i++) {
        uint64_t before = dram_words_read(tier);
        struct dram_block value = get(tier, 64 * KIB);
        words = dram_words_read(tier) - before;
        assert_int_equal(value.extents, 16);
        dram_free(tier, &value);
    }
    assert_true(words <= 40); /* two or so for each extent, none for the search */
    /* A run that appears is found, though it was not there when the search gave up. */
    dram_free_batch(tier, &blocks[3000], 17);
    for (size_t i = 0; i < 300; i += 3) { /* and is no longer remembered */
        dram_free(tier, &blocks[i + 1]);
    }
    struct dram_block value = get(tier, 64 * KIB);
    assert_int_equal(value.extents, 1);
    dram_free(tier, &value);
    end(tier, blocks, count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dram_create_refuses_options_that_make_no_tier),
        cmocka_unit_test(forked_children_do_not_get_the_memory),
        cmocka_unit_test(dram_pages_shrink_when_the_tier_is_smaller_than_they_are),
        cmocka_unit_test(dram_stats_tell_what_is_there),
        cmocka_unit_test(dram_512_byte_values_fill_a_tier_of_1_mib_to_the_last_byte),
        cmocka_unit_test(dram_holds_as_many_values_of_one_size_as_its_granules_allow),
        cmocka_unit_test(dram_64_kib_values_waste_nothing_with_pages_of_2_mib),
        cmocka_unit_test(dram_alloc_tells_too_large_from_no_space),
        cmocka_unit_test(dram_freeing_exactly_the_bytes_makes_room_for_1_mib_among_small_values),
        cmocka_unit_test(dram_values_with_a_last_part_lie_in_one_run_that_begins_a_page),
        cmocka_unit_test(dram_alloc_takes_the_run_that_was_freed_last),
        cmocka_unit_test(dram_alloc_finds_a_run_that_it_no_longer_remembers),
        cmocka_unit_test(dram_alloc_scatters_in_one_buffer_before_it_uses_several),
        cmocka_unit_test(dram_alloc_uses_several_buffers_when_no_single_one_suffices),
        cmocka_unit_test(dram_a_run_never_crosses_from_one_buffer_to_the_next),
        cmocka_unit_test(dram_small_values_share_pages_before_another_is_split),
        cmocka_unit_test(dram_scattered_values_take_the_longest_runs_first),
        cmocka_unit_test(dram_small_values_find_a_run_behind_a_page_that_only_seems_to_have_one),
        cmocka_unit_test(dram_values_of_4_kib_begin_at_multiples_of_4_kib_among_small_ones),
        cmocka_unit_test(dram_alloc_batch_stops_at_the_first_that_does_not_fit),
        cmocka_unit_test(dram_free_of_a_cleared_block_changes_nothing),
        cmocka_unit_test(dram_wrong_frees_and_reads_are_caught),
        cmocka_unit_test(dram_pieces_agree_with_and_without_a_cursor_in_any_order),
        cmocka_unit_test(dram_parts_of_a_value_are_read_and_written_at_any_offset),
        cmocka_unit_test(dram_alloc_reads_a_bounded_number_of_words_in_a_full_tier_of_any_size),
        cmocka_unit_test(dram_small_values_in_full_pages_are_found_in_a_word_or_two),
        cmocka_unit_test(dram_alloc_finds_a_run_that_was_freed_behind_the_search),
        cmocka_unit_test(dram_alloc_finds_a_run_across_the_place_where_a_search_stopped),
        cmocka_unit_test(dram_alloc_stops_searching_for_runs_when_there_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
