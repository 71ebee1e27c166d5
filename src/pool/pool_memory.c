/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that peers may reach during a call. Three ways, best first:
 *
 *   - the application registered the buffer: its region is used;
 *   - registering is cheap (tcp): regions for just these bytes and just this request, so that a
 *     peer's keys die with it;
 *   - registering is dear (RDMA pins pages): the bytes pass through the staging memory, which one
 *     call has at a time; what does not fit waits for the call's next round, and what never will is
 *     registered after all.
 */
#include "pool/pool_priv.h"

#define STAGE_ALIGN 64u

/* ----------------------------------------------------------------------- registered ------ */

/* Under the lock: the first that ends behind `at`. */
static uint32_t memory_after(const struct pool *pool, uintptr_t at)
{
    uint32_t low = 0;
    uint32_t high = pool->memory_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (pool->memory[middle]->to <= at) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Under the lock: the one that holds these bytes, or NULL. */
static struct pool_memory *memory_of(const struct pool *pool, uintptr_t from, uintptr_t to)
{
    uint32_t at = memory_after(pool, from);
    if (at < pool->memory_count && pool->memory[at]->from <= from && to <= pool->memory[at]->to) {
        return pool->memory[at];
    }
    return NULL;
}

/* Under the lock. */
static enum umbp_status memory_insert(struct pool *pool, struct pool_memory *memory)
{
    uint32_t at = memory_after(pool, memory->from);
    if (at < pool->memory_count && pool->memory[at]->from < memory->to) {
        return UMBP_ALREADY_EXISTS;
    }
    if (pool->memory_count == POOL_REGIONS_MAX) {
        return UMBP_LIMIT;
    }
    if (pool->memory_count == pool->memory_room) {
        uint32_t room = pool->memory_room ? pool->memory_room * 2 : 16;
        struct pool_memory **more = mem_realloc(pool->memory, room * sizeof(*more));
        if (!more) {
            return UMBP_NO_MEMORY;
        }
        pool->memory = more;
        pool->memory_room = room;
    }
    memmove(pool->memory + at + 1, pool->memory + at,
            (pool->memory_count - at) * sizeof(*pool->memory));
    pool->memory[at] = memory;
    pool->memory_count++;
    return UMBP_OK;
}

enum umbp_status pool_register(struct pool *pool, void *data, size_t bytes)
{
    if (!data || !bytes || (uintptr_t)data > UINTPTR_MAX - bytes) {
        return UMBP_INVALID_VALUE;
    }
    struct pool_memory *memory = mem_zalloc(sizeof(*memory));
    if (!memory) {
        return UMBP_NO_MEMORY;
    }
    memory->from = (uintptr_t)data;
    memory->to = memory->from + bytes;
    enum umbp_status status =
        fabric_region_create(pool->options.fabric, data, bytes,
                             FABRIC_REMOTE_READ | FABRIC_REMOTE_WRITE, -1, 0, &memory->region);
    if (status == UMBP_OK) {
        mutex_lock(&pool->lock);
        status = memory_insert(pool, memory);
        mutex_unlock(&pool->lock);
        if (status == UMBP_OK) {
            return UMBP_OK;
        }
        fabric_region_destroy(pool->options.fabric, memory->region);
    }
    mem_free(memory);
    return status;
}

enum umbp_status pool_deregister(struct pool *pool, void *data)
{
    enum umbp_status status = UMBP_NOT_FOUND;
    struct pool_memory *memory = NULL;

    mutex_lock(&pool->lock);
    uint32_t at = memory_after(pool, (uintptr_t)data);
    if (at < pool->memory_count && pool->memory[at]->from == (uintptr_t)data) {
        memory = pool->memory[at];
        status = memory->users ? UMBP_BUSY : UMBP_OK;
    }
    if (status == UMBP_OK) {
        pool->memory_count--;
        memmove(pool->memory + at, pool->memory + at + 1,
                (pool->memory_count - at) * sizeof(*pool->memory));
    }
    mutex_unlock(&pool->lock);
    if (status == UMBP_OK) {
        fabric_region_destroy(pool->options.fabric, memory->region);
        mem_free(memory);
    }
    return status;
}

void memory_destroy(struct pool *pool)
{
    for (uint32_t i = 0; i < pool->memory_count; i++) {
        fabric_region_destroy(pool->options.fabric, pool->memory[i]->region);
        mem_free(pool->memory[i]);
    }
    mem_free(pool->memory);
    pool->memory = NULL;
    pool->memory_count = 0;
    fabric_region_destroy(pool->options.fabric, pool->staging_region);
    if (pool->staging) {
        mem_unmap(pool->staging, pool->options.staging_bytes);
    }
}

/* ----------------------------------------------------------------------------- runs ------ */

static struct region_run *runs_add(struct pool_request *request)
{
    if (request->run_count == request->run_room) {
        uint32_t room = request->run_room ? request->run_room * 2 : 64;
        struct region_run *more = mem_realloc(request->runs, room * sizeof(*more));
        if (!more) {
            return NULL;
        }
        request->runs = more;
        request->run_room = room;
    }
    return &request->runs[request->run_count++];
}

/* One range more: it lengthens the last run, or begins another. */
static bool runs_extend(struct pool_request *request, uintptr_t from, uintptr_t to)
{
    struct pool *pool = request->area->pool;
    struct region_run *run = request->run_count ? &request->runs[request->run_count - 1] : NULL;

    if (run && run->memory && run->memory->from <= from && to <= run->memory->to) {
        return true;
    }
    if (run && !run->memory && from <= run->to && to >= run->from) {
        run->from = from < run->from ? from : run->from;
        run->to = to > run->to ? to : run->to;
        return true;
    }
    run = runs_add(request);
    if (!run) {
        return false;
    }
    *run = (struct region_run){.from = from, .to = to};
    mutex_lock(&pool->lock);
    run->memory = memory_of(pool, from, to);
    if (run->memory) {
        run->memory->users++;
        run->region = run->memory->region;
    }
    mutex_unlock(&pool->lock);
    return true;
}

static bool runs_scan(struct pool_request *request)
{
    struct pool_area *area = request->area;
    for (uint32_t i = 0; i < request->count; i++) {
        const struct pool_item *item = &area->items[area->order[request->first + i]];
        if (item->staged || item->is_unsound) {
            continue;
        }
        for (uint32_t r = 0; r < item->range_count; r++) {
            uintptr_t from = (uintptr_t)item->ranges[r].data;
            if (item->ranges[r].bytes &&
                !runs_extend(request, from, from + item->ranges[r].bytes)) {
                return false;
            }
        }
    }
    return true;
}

enum umbp_status runs_make(struct pool_request *request, unsigned access)
{
    struct fabric *fabric = request->area->pool->options.fabric;
    enum umbp_status status = UMBP_OK;

    request->run_count = 0;
    if (!runs_scan(request)) {
        status = UMBP_NO_MEMORY;
    }
    for (uint32_t i = 0; i < request->run_count && status == UMBP_OK; i++) {
        struct region_run *run = &request->runs[i];
        if (!run->region) {
            status = fabric_region_create(fabric, (void *)run->from, run->to - run->from, access,
                                          -1, 0, &run->region);
        }
        if (status == UMBP_OK) {
            run->key = fabric_region_key(fabric, run->region);
            if (run->memory) {
                run->from = run->memory->from;
                run->to = run->memory->to;
            }
        }
    }
    if (status != UMBP_OK) {
        runs_drop(request);
    }
    return status;
}

struct fabric_key runs_key(const struct pool_request *request, const void *data, uint64_t bytes,
                           uint32_t *cursor)
{
    uintptr_t from = (uintptr_t)data;
    const struct region_run *run = &request->runs[*cursor];
    while (from < run->from || from + bytes > run->to) {
        ASSERT(*cursor + 1 < request->run_count);
        run = &request->runs[++*cursor];
    }
    return run->key;
}

void runs_drop(struct pool_request *request)
{
    struct pool *pool = request->area->pool;
    for (uint32_t i = 0; i < request->run_count; i++) {
        struct region_run *run = &request->runs[i];
        if (run->memory) {
            mutex_lock(&pool->lock);
            run->memory->users--;
            mutex_unlock(&pool->lock);
        } else {
            fabric_region_destroy(pool->options.fabric, run->region);
        }
    }
    request->run_count = 0;
}

/* -------------------------------------------------------------------------- staging ------ */

/* Whether every range lies in registered memory. */
static bool is_registered(struct pool *pool, const struct pool_item *item)
{
    bool all = true;
    mutex_lock(&pool->lock);
    for (uint32_t r = 0; all && r < item->range_count; r++) {
        uintptr_t from = (uintptr_t)item->ranges[r].data;
        all = memory_of(pool, from, from + item->ranges[r].bytes) != NULL;
    }
    mutex_unlock(&pool->lock);
    return all;
}

static bool staging_take(struct pool_area *area)
{
    struct pool *pool = area->pool;
    mutex_lock(&pool->lock);
    bool in_time = true;
    while (in_time && pool->staging_owner && pool->staging_owner != area) {
        in_time = condition_wait(&pool->staging_free, &pool->lock, area->deadline_ns);
    }
    if (!pool->staging_owner) {
        pool->staging_owner = area;
        pool->staging_used = 0;
    }
    bool mine = pool->staging_owner == area;
    mutex_unlock(&pool->lock);
    return mine;
}

bool stage_item(struct pool_area *area, struct pool_item *item)
{
    struct pool *pool = area->pool;
    uint64_t held_back;

    item->staged = NULL;
    if (!pool->staging || item->payload > pool->options.staging_bytes ||
        is_registered(pool, item)) {
        return true;
    }
    if (!staging_take(area)) {
        return false;
    }
    uint64_t at = align_up(pool->staging_used, STAGE_ALIGN);
    if (at > pool->options.staging_bytes || item->payload > pool->options.staging_bytes - at) {
        return false;
    }
    item->staged = pool->staging + at;
    pool->staging_used = at + item->payload;
    COUNT(pool, staged_bytes, item->payload);
    if (log_limit_pass(&pool->log_staged, 60000, &held_back)) {
        log_warn("buffer_not_registered",
                 "bytes=%llu hint=\"register_memory saves a copy\" suppressed=%llu",
                 (unsigned long long)item->payload, (unsigned long long)held_back);
    }
    if (area->kind == AREA_PUT) {
        char *to = item->staged;
        for (uint32_t r = 0; r < item->range_count; r++) {
            copy_bytes(to, item->ranges[r].data, item->ranges[r].bytes);
            to += item->ranges[r].bytes;
        }
    }
    return true;
}

void stage_out(const struct pool_item *item)
{
    const char *from = item->staged;
    for (uint32_t r = 0; r < item->range_count; r++) {
        copy_bytes(item->ranges[r].data, from, item->ranges[r].bytes);
        from += item->ranges[r].bytes;
    }
}

void stage_end(struct pool_area *area)
{
    struct pool *pool = area->pool;
    if (!pool->staging) {
        return;
    }
    mutex_lock(&pool->lock);
    if (pool->staging_owner == area) {
        pool->staging_owner = NULL;
        condition_signal(&pool->staging_free);
    }
    mutex_unlock(&pool->lock);
}
