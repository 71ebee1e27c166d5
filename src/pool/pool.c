/* SPDX-License-Identifier: Apache-2.0 */
/* The pool client's life, its work areas and hints, and the public calls cut into chunks. */
#include <stdlib.h>

#include "pool/pool_priv.h"

#define SETTLE_MS 1500u /* connections end that long after a deadline, at most */

/* ------------------------------------------------------------------------------- life ---- */

static uint64_t fabric_clock_now(void *context) { return fabric_now_ns(context); }

static enum umbp_status make_staging(struct pool *pool)
{
    const struct pool_options *options = &pool->options;
    if (options->fabric->ops->registering_is_cheap || !options->staging_bytes) {
        return UMBP_OK;
    }
    pool->staging = mem_map(options->staging_bytes);
    if (!pool->staging) {
        return UMBP_NO_MEMORY;
    }
    return fabric_region_create(options->fabric, pool->staging, options->staging_bytes,
                                FABRIC_REMOTE_READ | FABRIC_REMOTE_WRITE, -1, 0,
                                &pool->staging_region);
}

enum umbp_status pool_create(const struct pool_options *options, struct pool **pool_out)
{
    if (!options->fabric || !options->master_count || options->master_count > POOL_MASTERS_MAX) {
        return UMBP_INVALID_VALUE;
    }
    struct pool *pool = mem_zalloc(sizeof(*pool));
    if (!pool) {
        return UMBP_NO_MEMORY;
    }
    pool->options = *options;
    pool->fabric_clock = (struct clock_source){fabric_clock_now, options->fabric};
    pool->clock = &pool->fabric_clock;
    atomic_init(&pool->next_id, 1);
    (void)snprintf(pool->own_address, sizeof(pool->own_address), "%s",
                   fabric_address(options->fabric));
    if (options->node_id) {
        (void)snprintf(pool->node_id, sizeof(pool->node_id), "%s", options->node_id);
        pool->options.node_id = pool->node_id;
    }
    pool->release_timer.run = release_due;
    mutex_init(&pool->lock, RANK_POOL);
    mutex_init(&pool->hint_lock, RANK_POOL);
    condition_init(&pool->area_free);
    condition_init(&pool->staging_free);
    pool->hints = mem_calloc(POOL_HINTS, sizeof(*pool->hints));
    enum umbp_status status = pool->hints ? make_staging(pool) : UMBP_NO_MEMORY;
    if (status != UMBP_OK) {
        pool_destroy(pool);
        return status;
    }
    *pool_out = pool;
    return UMBP_OK;
}

static void area_destroy(struct pool_area *area)
{
    for (uint32_t i = 0; i < POOL_REQUESTS_MAX; i++) {
        mem_free(area->requests[i].pieces);
        mem_free(area->requests[i].runs);
    }
    mem_free(area->sub_rows);
    if (area->buffer) {
        mem_unmap(area->buffer, PROTO_FRAME_MAX);
    }
    mem_unmap(area, sizeof(*area));
}

void pool_destroy(struct pool *pool)
{
    if (!pool) {
        return;
    }
    while (pool->areas) {
        struct pool_area *area = pool->areas;
        pool->areas = area->next;
        pool->area_count--;
        area_destroy(area);
    }
    ASSERT(!pool->area_count); /* a call is running */
    for (uint32_t i = 0; i < POOL_MASTERS_MAX; i++) {
        mem_free(pool->masters[i].members);
    }
    memory_destroy(pool);
    links_destroy(pool);
    mem_free(pool->hints);
    condition_fini(&pool->staging_free);
    condition_fini(&pool->area_free);
    mutex_fini(&pool->hint_lock);
    mutex_fini(&pool->lock);
    mem_free(pool);
}

void pool_await(struct pool *pool, struct fabric_latch *latch, uint64_t deadline_ns)
{
    uint64_t until_ns = deadline_ns + SETTLE_MS * NS_PER_MS;
    while (fabric_wait(pool->options.fabric, latch, until_ns) != UMBP_OK) {
        /* The fabric promised that this can't be. The latch must stay, so all there is to do is
         * to say so and wait on. */
        log_error("call_overdue", "by_ms=%u", SETTLE_MS);
        until_ns += NS_PER_S;
    }
}

/* ------------------------------------------------------------------------------ areas ---- */

static struct pool_area *area_make(struct pool *pool)
{
    struct pool_area *area = mem_map(sizeof(*area));
    if (!area) {
        return NULL;
    }
    area->pool = pool;
    area->buffer = mem_map(PROTO_FRAME_MAX);
    if (!area->buffer) {
        area_destroy(area);
        return NULL;
    }
    return area;
}

struct pool_area *area_take(struct pool *pool, enum area_kind kind, enum umbp_status *status_out)
{
    uint64_t deadline_ns = clock_deadline_ns(pool->clock, pool->options.op_timeout_ms);
    uint64_t wait_until_ns = clock_deadline_ns(clock_monotonic(), pool->options.op_timeout_ms);
    struct pool_area *area = NULL;
    bool in_time = true;
    bool make = false;

    mutex_lock(&pool->lock);
    while (in_time && !pool->areas && pool->area_count == POOL_AREAS_MAX) {
        in_time = condition_wait(&pool->area_free, &pool->lock, wait_until_ns);
    }
    if (pool->areas) {
        area = pool->areas;
        pool->areas = area->next;
    } else if (pool->area_count < POOL_AREAS_MAX) {
        pool->area_count++;
        make = true;
    }
    mutex_unlock(&pool->lock);
    if (make) {
        area = area_make(pool);
        if (!area) {
            mutex_lock(&pool->lock);
            pool->area_count--;
            mutex_unlock(&pool->lock);
        }
    }
    if (!area) {
        *status_out = make ? UMBP_NO_MEMORY : UMBP_TIMEOUT;
        return NULL;
    }
    area->kind = kind;
    area->has_ranges = false;
    area->deadline_ns = deadline_ns;
    area->count = 0;
    return area;
}

void area_give(struct pool_area *area)
{
    struct pool *pool = area->pool;
    mutex_lock(&pool->lock);
    area->next = pool->areas;
    pool->areas = area;
    condition_signal(&pool->area_free);
    mutex_unlock(&pool->lock);
}

void *area_sub_rows(struct pool_area *area, size_t bytes)
{
    if (bytes > area->sub_bytes) {
        size_t room = size_max(bytes, (size_t)64 << 10);
        void *more = mem_alloc(room);
        if (!more) {
            return NULL;
        }
        mem_free(area->sub_rows);
        area->sub_rows = more;
        area->sub_bytes = room;
    }
    return area->sub_rows;
}

bool area_excludes(const struct pool_area *area, link_id link)
{
    for (uint32_t i = 0; i < area->exclude_count; i++) {
        if (area->excludes[i] == link) {
            return true;
        }
    }
    return false;
}

void area_exclude(struct pool_area *area, link_id link)
{
    if (link != LINK_NONE && !area_excludes(area, link) &&
        area->exclude_count < POOL_EXCLUDES_MAX) {
        area->excludes[area->exclude_count++] = link;
    }
}

/* ------------------------------------------------------------------------------ hints ---- */

static struct hint *hint_set(const struct pool *pool, struct fingerprint print)
{
    return &pool->hints[print.low & (POOL_HINTS - 1) & ~(uint64_t)(POOL_HINT_WAYS - 1)];
}

void hint_put(struct pool *pool, struct fingerprint print, link_id link)
{
    uint64_t high = print.high | 1; /* 0 is a free place */
    mutex_lock(&pool->hint_lock);
    struct hint *set = hint_set(pool, print);
    uint32_t at = 0;
    while (at < POOL_HINT_WAYS - 1 && set[at].print_high != high) {
        at++;
    }
    /* To the front; who was not used for longest falls out. */
    memmove(set + 1, set, at * sizeof(*set));
    set[0] = (struct hint){high, link};
    mutex_unlock(&pool->hint_lock);
}

/* Under the lock. */
static link_id hint_find(const struct pool *pool, struct fingerprint print)
{
    const struct hint *set = hint_set(pool, print);
    for (uint32_t i = 0; i < POOL_HINT_WAYS; i++) {
        if (set[i].print_high == (print.high | 1)) {
            return set[i].link;
        }
    }
    return LINK_NONE;
}

link_id hint_get(struct pool *pool, struct fingerprint print)
{
    mutex_lock(&pool->hint_lock);
    link_id link = hint_find(pool, print);
    mutex_unlock(&pool->hint_lock);
    return link == LINK_GONE ? LINK_NONE : link;
}

bool hint_is_gone(struct pool *pool, struct fingerprint print)
{
    mutex_lock(&pool->hint_lock);
    link_id link = hint_find(pool, print);
    mutex_unlock(&pool->hint_lock);
    return link == LINK_GONE;
}

void hints_read(struct pool_area *area)
{
    struct pool *pool = area->pool;
    mutex_lock(&pool->hint_lock);
    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        if (item->state == ITEM_OPEN) {
            item->hint = hint_find(pool, item->print);
        }
    }
    mutex_unlock(&pool->hint_lock);
}

void hints_look(struct question *question)
{
    struct pool_area *area = question->area;
    struct pool *pool = area->pool;
    bool any = false;
    mutex_lock(&pool->hint_lock);
    for (uint32_t i = 0; i < question->count; i++) {
        any |= hint_find(pool, area->wants[i].print) != LINK_NONE;
    }
    mutex_unlock(&pool->hint_lock);
    area->has_hints = any;
}

void hint_drop(struct pool *pool, struct fingerprint print)
{
    mutex_lock(&pool->hint_lock);
    struct hint *set = hint_set(pool, print);
    for (uint32_t i = 0; i < POOL_HINT_WAYS; i++) {
        if (set[i].print_high == (print.high | 1)) {
            set[i] = (struct hint){0};
        }
    }
    mutex_unlock(&pool->hint_lock);
}

/* ------------------------------------------------------------------------------ items ---- */

/* Item `i` of the chunk, fresh. */
static struct pool_item *item_begin(struct pool_area *area, struct umbp_key key)
{
    struct pool_item *item = &area->items[area->count++];
    *item = (struct pool_item){.key = key, .status = UMBP_NOT_FOUND};
    return item;
}

static void item_check(struct pool_area *area, struct pool_item *item, enum umbp_status status)
{
    if (status == UMBP_OK && !store_key_is_valid(item->key)) {
        status = UMBP_INVALID_KEY;
    }
    if (status != UMBP_OK) {
        item->state = ITEM_DONE;
        item->status = status;
        item->failure = status;
        return;
    }
    item->print = hash_key(item->key.data, item->key.bytes, area->pool->options.hash_seed);
    for (uint32_t r = 0; r < item->range_count; r++) {
        item->payload += item->ranges[r].bytes;
    }
}

static int by_offset(const void *a, const void *b)
{
    const struct umbp_range *left = a;
    const struct umbp_range *right = b;
    return (left->offset > right->offset) - (left->offset < right->offset);
}

/* The owner takes a value's bytes in order, so the ranges must be. */
static enum umbp_status sort_ranges(struct pool_item *item)
{
    bool in_order = true;
    for (uint32_t r = 1; r < item->range_count; r++) {
        in_order &= item->ranges[r - 1].offset <= item->ranges[r].offset;
    }
    if (in_order) {
        return UMBP_OK;
    }
    item->sorted = mem_calloc(item->range_count, sizeof(*item->sorted));
    if (!item->sorted) {
        return UMBP_NO_MEMORY;
    }
    memcpy(item->sorted, item->ranges, item->range_count * sizeof(*item->sorted));
    qsort(item->sorted, item->range_count, sizeof(*item->sorted), by_offset);
    item->ranges = item->sorted;
    return UMBP_OK;
}

static void item_put(struct pool_area *area, const struct umbp_range_item *source)
{
    struct pool_item *item = item_begin(area, source->key);
    item->bytes = source->object_bytes;
    item->depth = source->depth;
    enum umbp_status status = store_check_put(source);
    if (status == UMBP_OK && source->object_bytes > UMBP_VALUE_BYTES_MAX) {
        status = UMBP_TOO_LARGE;
    }
    if (status == UMBP_OK) {
        item->ranges = source->ranges;
        item->range_count = (uint32_t)source->range_count;
        status = sort_ranges(item);
    }
    item_check(area, item, status);
}

/* Whether a value of that size can have these bytes. */
static bool ranges_are_sound(const struct pool_item *item)
{
    uint64_t limit = item->any_size ? UMBP_VALUE_BYTES_MAX : item->bytes;
    for (uint32_t r = 0; r < item->range_count; r++) {
        const struct umbp_range *range = &item->ranges[r];
        if (range->offset > limit || range->bytes > limit - range->offset) {
            return false;
        }
    }
    return limit <= UMBP_VALUE_BYTES_MAX;
}

static void item_get(struct pool_area *area, const struct umbp_range_item *source, bool any_size)
{
    struct pool_item *item = item_begin(area, source->key);
    item->bytes = source->object_bytes;
    item->any_size = any_size;
    enum umbp_status status = store_check_get(source);
    if (status == UMBP_OK) {
        item->ranges = source->ranges;
        item->range_count = (uint32_t)source->range_count;
        item->is_unsound = !ranges_are_sound(item);
    }
    item_check(area, item, status);
}

/* The range of a plain put or get lives in the item. */
static void item_whole(struct pool_area *area, void *data, uint64_t bytes)
{
    struct pool_item *item = &area->items[area->count - 1];
    item->whole = (struct umbp_range){.data = data, .bytes = bytes};
    item->ranges = item->range_count ? &item->whole : NULL;
}

static void chunk_end(struct pool_area *area, enum umbp_status *statuses_out)
{
    for (uint32_t i = 0; i < area->count; i++) {
        if (statuses_out) {
            statuses_out[i] = area->items[i].status;
        }
        mem_free(area->items[i].sorted);
    }
    area->count = 0;
}

/* ------------------------------------------------------------------------------ calls ---- */

static enum umbp_status check_call(const void *items, size_t count, const void *out)
{
    if (count > UMBP_BATCH_MAX) {
        return UMBP_LIMIT;
    }
    return count && (!items || !out) ? UMBP_INVALID_VALUE : UMBP_OK;
}

/* A kind of batch: how the caller's item `index` is added to a chunk, and how a chunk is run. */
struct batch {
    enum area_kind kind;
    bool has_ranges;
    void (*add)(struct pool_area *area, const void *items, size_t index);
    void (*run)(struct pool_area *area);
};

static enum umbp_status batch_run(struct pool *pool, const struct batch *batch, const void *items,
                                  size_t count, enum umbp_status *statuses_out)
{
    enum umbp_status status = check_call(items, count, statuses_out);
    if (status != UMBP_OK) {
        return status;
    }
    struct pool_area *area = area_take(pool, batch->kind, &status);
    if (!area) {
        for (size_t i = 0; i < count; i++) {
            statuses_out[i] = status;
        }
        return status;
    }
    area->has_ranges = batch->has_ranges;
    for (size_t i = 0; i < count; i += POOL_CHUNK) {
        size_t end = size_min(count, i + POOL_CHUNK);
        for (size_t j = i; j < end; j++) {
            batch->add(area, items, j);
        }
        batch->run(area);
        chunk_end(area, statuses_out + i);
    }
    area_give(area);
    return UMBP_OK;
}

static void add_put(struct pool_area *area, const void *items, size_t index)
{
    const struct umbp_put_item *from = (const struct umbp_put_item *)items + index;
    const struct umbp_range range = {(void *)(uintptr_t)from->data, from->bytes, 0};
    const struct umbp_range_item item = {
        .key = from->key,
        .ranges = &range,
        .range_count = from->bytes != 0,
        .object_bytes = from->bytes,
        .depth = from->depth,
    };
    item_put(area, &item);
    item_whole(area, range.data, range.bytes);
}

static void add_get(struct pool_area *area, const void *items, size_t index)
{
    const struct umbp_get_item *from = (const struct umbp_get_item *)items + index;
    const struct umbp_range range = {from->data, from->bytes, 0};
    const struct umbp_range_item item = {
        .key = from->key,
        .ranges = &range,
        .range_count = from->bytes != 0,
        .object_bytes = from->bytes,
    };
    item_get(area, &item, false);
    item_whole(area, range.data, range.bytes);
}

static void add_put_ranges(struct pool_area *area, const void *items, size_t index)
{
    item_put(area, (const struct umbp_range_item *)items + index);
}

static void add_get_ranges(struct pool_area *area, const void *items, size_t index)
{
    const struct umbp_range_item *from = (const struct umbp_range_item *)items + index;
    item_get(area, from, from->object_bytes == 0);
}

static void add_key(struct pool_area *area, const void *items, size_t index)
{
    item_check(area, item_begin(area, ((const struct umbp_key *)items)[index]), UMBP_OK);
}

enum umbp_status pool_batch_put(struct pool *pool, const struct umbp_put_item *items, size_t count,
                                enum umbp_status *statuses_out)
{
    static const struct batch batch = {AREA_PUT, false, add_put, put_chunk};
    return batch_run(pool, &batch, items, count, statuses_out);
}

enum umbp_status pool_batch_get(struct pool *pool, const struct umbp_get_item *items, size_t count,
                                enum umbp_status *statuses_out)
{
    static const struct batch batch = {AREA_GET, false, add_get, get_chunk};
    return batch_run(pool, &batch, items, count, statuses_out);
}

enum umbp_status pool_batch_put_ranges(struct pool *pool, const struct umbp_range_item *items,
                                       size_t count, enum umbp_status *statuses_out)
{
    static const struct batch batch = {AREA_PUT, true, add_put_ranges, put_chunk};
    return batch_run(pool, &batch, items, count, statuses_out);
}

enum umbp_status pool_batch_get_ranges(struct pool *pool, const struct umbp_range_item *items,
                                       size_t count, enum umbp_status *statuses_out)
{
    static const struct batch batch = {AREA_GET, true, add_get_ranges, get_chunk};
    return batch_run(pool, &batch, items, count, statuses_out);
}

enum umbp_status pool_batch_remove(struct pool *pool, const struct umbp_key *keys, size_t count,
                                   enum umbp_status *statuses_out)
{
    static const struct batch batch = {AREA_REMOVE, false, add_key, remove_chunk};
    return batch_run(pool, &batch, keys, count, statuses_out);
}

enum umbp_status pool_batch_exists(struct pool *pool, const struct umbp_key *keys, size_t count,
                                   uint8_t *found_out)
{
    enum umbp_status status = check_call(keys, count, found_out);
    struct pool_area *area = status == UMBP_OK ? area_take(pool, AREA_EXISTS, &status) : NULL;
    if (!area) {
        return status;
    }
    for (size_t i = 0; i < count; i += POOL_CHUNK) {
        exists_chunk(area, keys + i, (uint32_t)size_min(count - i, POOL_CHUNK), found_out + i);
    }
    area_give(area);
    return UMBP_OK;
}

enum umbp_status pool_exists_consecutive(struct pool *pool, const struct umbp_key *keys,
                                         size_t count, size_t *hits_out)
{
    enum umbp_status status = hits_out ? check_call(keys, count, hits_out) : UMBP_INVALID_VALUE;
    struct pool_area *area = status == UMBP_OK ? area_take(pool, AREA_EXISTS, &status) : NULL;
    uint8_t found[POOL_CHUNK];
    size_t hits = 0;

    if (!area) {
        return status;
    }
    while (hits < count) {
        size_t some = size_min(count - hits, POOL_CHUNK);
        exists_chunk(area, keys + hits, (uint32_t)some, found);
        const uint8_t *miss = memchr(found, 0, some);
        hits += miss ? (size_t)(miss - found) : some;
        if (miss) {
            break;
        }
    }
    area_give(area);
    *hits_out = hits;
    return UMBP_OK;
}

enum umbp_status pool_stat(struct pool *pool, struct umbp_key key, struct umbp_entry_info *info_out)
{
    enum umbp_status status = UMBP_NOT_FOUND;

    if (pool->options.store) {
        status = store_stat(pool->options.store, key, info_out);
    } else if (!store_key_is_valid(key)) {
        status = UMBP_INVALID_KEY;
    }
    if (status != UMBP_NOT_FOUND) {
        return status;
    }
    struct pool_area *area = area_take(pool, AREA_STAT, &status);
    if (!area) {
        return status;
    }
    struct pool_item *item = item_begin(area, key);
    item_check(area, item, UMBP_OK);
    stat_chunk(area);
    status = item->status;
    if (status == UMBP_OK) {
        const struct umbp_entry_info info = {
            .struct_bytes = sizeof(info),
            .key = key,
            .bytes = item->bytes,
            .depth = item->depth,
            .in_dram = item->tiers & PROTO_TIER_BIT(PROTO_TIER_DRAM),
            .in_ssd = item->tiers & PROTO_TIER_BIT(PROTO_TIER_SSD),
        };
        size_t bytes = info_out->struct_bytes ? info_out->struct_bytes : sizeof(info);
        memcpy(info_out, &info, size_min(bytes, sizeof(info)));
    }
    chunk_end(area, NULL);
    area_give(area);
    return status;
}

/* ------------------------------------------------------------------------------ stats ---- */

void pool_stats(struct pool *pool, struct umbp_stat_value *values_out, size_t capacity,
                size_t *count_out)
{
    struct pool_counters *counters = &pool->counters;
    const struct {
        const char *name;
        _Atomic uint64_t *counter;
    } rows[] = {
        {"pool.hits_own", &counters->hits_own},
        {"pool.hits_remote", &counters->hits_remote},
        {"pool.misses", &counters->misses},
        {"pool.misses_unsure", &counters->misses_unsure},
        {"pool.puts_own", &counters->puts_own},
        {"pool.puts_remote", &counters->puts_remote},
        {"pool.puts_known", &counters->puts_known},
        {"pool.bytes_got", &counters->bytes_got},
        {"pool.bytes_put", &counters->bytes_put},
        {"pool.bytes_pulled", &counters->bytes_pulled},
        {"pool.stale_pulls", &counters->stale_pulls},
        {"pool.requests", &counters->requests},
        {"pool.requests_failed", &counters->requests_failed},
        {"pool.retries", &counters->retries},
        {"pool.master_calls", &counters->master_calls},
        {"pool.master_failures", &counters->master_failures},
        {"pool.master_skips", &counters->master_skips},
        {"pool.connects", &counters->connects},
        {"pool.connect_failures", &counters->connect_failures},
        {"pool.recached", &counters->recached},
        {"pool.recache_refused", &counters->recache_refused},
        {"pool.staged_bytes", &counters->staged_bytes},
        {"pool.removed", &counters->removed},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows) && i < capacity; i++) {
        values_out[i] = (struct umbp_stat_value){
            .name = rows[i].name,
            .value = atomic_load_explicit(rows[i].counter, memory_order_relaxed),
            .is_counter = true,
        };
    }
    *count_out = ARRAY_COUNT(rows);
}
