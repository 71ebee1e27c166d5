/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <string.h>
#include <unistd.h>

#include "base/mem.h"

/* Every way to the heap, by one shape, so that each rule is checked on all. */
static void *by_alloc(size_t bytes) { return mem_alloc(bytes); }
static void *by_zalloc(size_t bytes) { return mem_zalloc(bytes); }
static void *by_calloc(size_t bytes) { return mem_calloc(1, bytes); }
static void *by_realloc(size_t bytes) { return mem_realloc(NULL, bytes); }
static void *by_aligned(size_t bytes) { return mem_aligned(4096, bytes); }

static void *(*const ways[])(size_t bytes) = {by_alloc, by_zalloc, by_calloc, by_realloc,
                                              by_aligned};
#define WAYS (sizeof ways / sizeof *ways)

static void mem_gives_blocks_that_can_be_written_whole(void **state)
{
    (void)state;
    for (size_t i = 0; i < WAYS; i++) {
        for (size_t bytes = 0; bytes < 10000; bytes = bytes * 3 + 1) {
            void *block = ways[i](bytes);
            assert_non_null(block);
            memset(block, 0x5A, bytes);
            mem_free(block);
        }
    }
    mem_free(NULL);
}

static void mem_zalloc_and_calloc_give_zeroes(void **state)
{
    (void)state;
    static const unsigned char zeroes[1000];
    void *block = mem_zalloc(1000);
    assert_memory_equal(block, zeroes, 1000);
    mem_free(block);
    block = mem_calloc(10, 100);
    assert_memory_equal(block, zeroes, 1000);
    mem_free(block);
}

static void mem_aligned_aligns_to_any_power_of_two(void **state)
{
    (void)state;
    for (size_t alignment = 1; alignment <= 65536; alignment *= 2) {
        void *block = mem_aligned(alignment, 100);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % alignment, 0);
        mem_free(block);
    }
}

static void mem_refuses_sizes_that_overflow(void **state)
{
    (void)state;
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - 4096, (SIZE_MAX >> 1) + 1};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (size_t i = 0; i < WAYS; i++) {
            assert_null(ways[i](sizes[s]));
        }
        assert_null(mem_map(sizes[s]));
    }
    assert_null(mem_calloc(SIZE_MAX / 2, 3));
    assert_null(mem_calloc(UINT64_C(1) << 33, UINT64_C(1) << 33));
}

static void mem_realloc_keeps_the_bytes_and_the_old_block_on_failure(void **state)
{
    (void)state;
    char *block = mem_strdup("twelve bytes");
    assert_null(mem_realloc(block, SIZE_MAX));
    assert_string_equal(block, "twelve bytes");
    block = mem_realloc(block, 100000);
    assert_non_null(block);
    assert_string_equal(block, "twelve bytes");
    mem_free(block);
}

static void mem_map_gives_zeroed_pages_and_unmap_returns_them(void **state)
{
    (void)state;
    size_t bytes = (64u << 20) + 123;
    size_t before = test_resident_bytes();
    unsigned char *block = mem_map(bytes);
    assert_non_null(block);
    assert_int_equal((uintptr_t)block % (uintptr_t)sysconf(_SC_PAGESIZE), 0);
    for (size_t at = 0; at < bytes; at += 4096) {
        assert_int_equal(block[at], 0);
    }
    memset(block, 1, bytes);
    mem_unmap(block, bytes);
    if (!test_is_slow()) {
        assert_true(test_resident_bytes() < before + (16u << 20));
    }
    mem_unmap(NULL, 5);
    block = mem_map(0);
    assert_non_null(block);
    mem_unmap(block, 0);
}

struct failing {
    unsigned calls;
    unsigned fail_at; /* counted from 1; 0: never */
    size_t last_bytes;
};

static bool failing_hook(void *context, size_t bytes)
{
    struct failing *failing = context;
    failing->last_bytes = bytes;
    return ++failing->calls != failing->fail_at;
}

static void mem_hook_sees_every_allocation_and_its_size(void **state)
{
    (void)state;
    struct failing failing = {0};
    mem_set_hook(failing_hook, &failing);
    for (size_t i = 0; i < WAYS; i++) {
        void *block = ways[i](1000 + i);
        assert_int_equal(failing.calls, i + 1);
        assert_int_equal(failing.last_bytes, 1000 + i);
        mem_free(block);
    }
    void *block = mem_calloc(7, 11);
    assert_int_equal(failing.last_bytes, 77);
    mem_free(block);
    block = mem_strdup("four");
    assert_int_equal(failing.last_bytes, 5);
    mem_free(block);
    block = mem_map(4096);
    assert_int_equal(failing.last_bytes, 4096);
    mem_unmap(block, 4096);
    assert_int_equal(failing.calls, WAYS + 3);
    mem_set_hook(NULL, NULL);
    mem_free(mem_alloc(1));
    assert_int_equal(failing.calls, WAYS + 3);
}

static void mem_hook_can_fail_each_way(void **state)
{
    (void)state;
    for (size_t i = 0; i < WAYS + 2; i++) {
        struct failing failing = {.fail_at = 1};
        mem_set_hook(failing_hook, &failing);
        void *block = i < WAYS ? ways[i](10) : i == WAYS ? mem_map(10) : mem_strdup("text");
        mem_set_hook(NULL, NULL);
        assert_null(block);
        assert_int_equal(failing.calls, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mem_gives_blocks_that_can_be_written_whole),
        cmocka_unit_test(mem_zalloc_and_calloc_give_zeroes),
        cmocka_unit_test(mem_aligned_aligns_to_any_power_of_two),
        cmocka_unit_test(mem_refuses_sizes_that_overflow),
        cmocka_unit_test(mem_realloc_keeps_the_bytes_and_the_old_block_on_failure),
        cmocka_unit_test(mem_map_gives_zeroed_pages_and_unmap_returns_them),
        cmocka_unit_test(mem_hook_sees_every_allocation_and_its_size),
        cmocka_unit_test(mem_hook_can_fail_each_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
