/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of one call. Blocks, each twice as large as the one before, filled from the front; the
 * first is kept from call to call, so that an ordinary one allocates nothing.
 */
#include "rpc/rpc_priv.h"

#include <stdalign.h>

#define FIRST_BLOCK_BYTES (256 * KIB)
#define BLOCK_BYTES_MAX (16 * MIB)
#define ALIGNMENT alignof(max_align_t)

struct block {
    struct block *next;
    size_t bytes; /* with this header */
};

struct rpc_arena {
    struct rpc_budget *budget;
    struct block *blocks; /* the newest first; the last one is the kept one */
    uint8_t *at;
    uint8_t *end;
    uint64_t left_bytes; /* of the call's limit */
};

#define HEADER_BYTES ((sizeof(struct block) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT)

void rpc_budget_init(struct rpc_budget *budget, uint64_t bytes)
{
    atomic_init(&budget->left_bytes, bytes);
}

/* relaxed: the number is all that is shared */
static bool budget_take(struct rpc_budget *budget, uint64_t bytes)
{
    uint64_t left = atomic_load_explicit(&budget->left_bytes, memory_order_relaxed);
    do {
        if (left < bytes) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&budget->left_bytes, &left, left - bytes,
                                                    memory_order_relaxed, memory_order_relaxed));
    return true;
}

static void budget_give(struct rpc_budget *budget, uint64_t bytes)
{
    atomic_fetch_add_explicit(&budget->left_bytes, bytes, memory_order_relaxed);
}

static bool add_block(struct rpc_arena *arena, size_t bytes)
{
    if (!budget_take(arena->budget, bytes)) {
        return false;
    }
    struct block *block = mem_alloc(bytes);
    if (block == NULL) {
        budget_give(arena->budget, bytes);
        return false;
    }
    *block = (struct block){.next = arena->blocks, .bytes = bytes};
    arena->blocks = block;
    arena->at = (uint8_t *)block + HEADER_BYTES;
    arena->end = (uint8_t *)block + bytes;
    return true;
}

static void drop_block(struct rpc_arena *arena)
{
    struct block *block = arena->blocks;
    arena->blocks = block->next;
    budget_give(arena->budget, block->bytes);
    mem_free(block);
}

enum umbp_status rpc_arena_create(struct rpc_budget *budget, struct rpc_arena **arena_out)
{
    struct rpc_arena *arena = mem_zalloc(sizeof *arena);
    if (arena == NULL) {
        return UMBP_NO_MEMORY;
    }
    arena->budget = budget;
    if (!add_block(arena, FIRST_BLOCK_BYTES)) {
        mem_free(arena);
        return UMBP_NO_MEMORY;
    }
    *arena_out = arena;
    return UMBP_OK;
}

void rpc_arena_destroy(struct rpc_arena *arena)
{
    if (arena == NULL) {
        return;
    }
    while (arena->blocks != NULL) {
        drop_block(arena);
    }
    mem_free(arena);
}

void rpc_arena_reset(struct rpc_arena *arena, uint64_t limit_bytes)
{
    while (arena->blocks->next != NULL) {
        drop_block(arena);
    }
    arena->at = (uint8_t *)arena->blocks + HEADER_BYTES;
    arena->end = (uint8_t *)arena->blocks + arena->blocks->bytes;
    arena->left_bytes = limit_bytes;
}

void *rpc_arena_alloc(struct rpc_arena *arena, size_t bytes)
{
    if (bytes > arena->left_bytes || bytes > SIZE_MAX / 2) {
        return NULL;
    }
    size_t taken = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if ((size_t)(arena->end - arena->at) < taken) {
        size_t block = size_min(arena->blocks->bytes * 2, BLOCK_BYTES_MAX);
        if (!add_block(arena, size_max(block, taken + HEADER_BYTES))) {
            return NULL;
        }
    }
    void *result = arena->at;
    arena->at += taken;
    arena->left_bytes -= bytes;
    return result;
}

void *rpc_arena_calloc(struct rpc_arena *arena, size_t count, size_t bytes)
{
    size_t all;
    if (__builtin_mul_overflow(count, bytes, &all)) {
        return NULL;
    }
    void *result = rpc_arena_alloc(arena, all);
    if (result != NULL) {
        memset(result, 0, all);
    }
    return result;
}
