/* SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef bool (*hook_function)(void *context, size_t bytes);

static _Atomic(hook_function) mem_hook;
static _Atomic(void *) mem_hook_context;

/* The compiler, too, takes objects larger than this for impossible. */
#define BLOCK_BYTES_MAX ((size_t)PTRDIFF_MAX)

void mem_set_hook(bool (*hook)(void *context, size_t bytes), void *context)
{
    /* A hook with the wrong context must never be called: take it away before the change.
     * (A call that already took the old hook may still be running; tests know their threads.) */
    atomic_store_explicit(&mem_hook, NULL, memory_order_release);
    atomic_store_explicit(&mem_hook_context, context, memory_order_release);
    atomic_store_explicit(&mem_hook, hook, memory_order_release);
}

static bool may_allocate(size_t bytes)
{
    if (UNLIKELY(bytes > BLOCK_BYTES_MAX)) {
        return false;
    }
    /* Relaxed: outside of tests there is none to see. */
    if (LIKELY(atomic_load_explicit(&mem_hook, memory_order_relaxed) == NULL)) {
        return true;
    }
    /* Acquire: pairs with the release in mem_set_hook, so that the context is the hook's. */
    hook_function hook = atomic_load_explicit(&mem_hook, memory_order_acquire);
    void *context = atomic_load_explicit(&mem_hook_context, memory_order_acquire);
    return hook == NULL || hook(context, bytes);
}

void *mem_alloc(size_t bytes)
{
    /* Never of 0 bytes: NULL would look like a failure. */
    return may_allocate(bytes) ? malloc(size_max(bytes, 1)) : NULL;
}

void *mem_zalloc(size_t bytes)
{
    return may_allocate(bytes) ? calloc(1, size_max(bytes, 1)) : NULL;
}

void *mem_calloc(size_t count, size_t bytes)
{
    size_t total;
    return __builtin_mul_overflow(count, bytes, &total) ? NULL : mem_zalloc(total);
}

void *mem_realloc(void *old, size_t bytes)
{
    return may_allocate(bytes) ? realloc(old, size_max(bytes, 1)) : NULL;
}

void *mem_aligned(size_t alignment, size_t bytes)
{
    void *block;

    ASSERT(is_power_of_two(alignment));
    if (!may_allocate(bytes) ||
        posix_memalign(&block, size_max(alignment, sizeof(void *)), size_max(bytes, 1)) != 0) {
        return NULL;
    }
    return block;
}

char *mem_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = mem_alloc(bytes);
    if (copy != NULL) {
        memcpy(copy, text, bytes);
    }
    return copy;
}

void mem_free(void *block) { free(block); }

void *mem_map(size_t bytes)
{
    if (!may_allocate(bytes)) {
        return NULL;
    }
    void *block =
        mmap(NULL, size_max(bytes, 1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return block == MAP_FAILED ? NULL : block;
}

#define HUGE_BYTES ((size_t)2 << 20)

void *mem_map_huge(size_t bytes)
{
    size_t whole = (bytes + 4095) & ~(size_t)4095;
    if (bytes < HUGE_BYTES || whole < bytes || whole > SIZE_MAX - HUGE_BYTES) {
        return mem_map(bytes);
    }
    char *map = mem_map(whole + HUGE_BYTES);
    if (map == NULL) {
        return NULL;
    }
    size_t before = (size_t)(-(uintptr_t)map) % HUGE_BYTES;
    mem_unmap(before > 0 ? map : NULL, before);
    mem_unmap(map + before + whole, HUGE_BYTES - before);
    (void)madvise(map + before, whole, MADV_HUGEPAGE); /* a wish */
    return map + before;
}

void mem_unmap(void *block, size_t bytes)
{
    if (block != NULL) {
        int rc = munmap(block, size_max(bytes, 1));
        ASSERT(rc == 0);
    }
}
