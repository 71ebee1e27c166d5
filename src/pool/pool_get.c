/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batch get.
 *
 *   own store has it?  ->  copied from there, while the others' requests are under way
 *   hint?              ->  the node that this process wrote it to, or read it from
 *   master             ->  the node that it advises; nodes that failed this call are excluded
 *
 * A holder that answers not-found, or not at all, is excluded, and the item is routed again. One
 * that is busy, or whose bytes went stale under the reader, is asked again after a pause, for
 * BUSY_MS of a call: it has the value, after all.
 * What came from elsewhere may be kept in the own store (recache), but only in free memory: a read
 * must not push out what is hotter.
 */
#include "pool/pool_priv.h"

#define BUSY_MS 1000u
#define BUSY_PAUSE_MS 2u

/* ------------------------------------------------------------------------------ own ------ */

/* Mark what the own store has. */
static void find_own(struct pool_area *area)
{
    uint32_t count = own_exists(area);
    for (uint32_t i = 0; i < count; i++) {
        if (area->found[i]) {
            area->items[area->picked[i]].link = LINK_SELF;
        }
    }
}

/* ---------------------------------------------------------------------------- placing ---- */

static bool place_by_hint(struct pool_area *area, struct pool_item *item)
{
    link_id hint = hint_get(area->pool, item->print);
    if (hint == LINK_NONE || hint == LINK_SELF || area_excludes(area, hint)) {
        return false;
    }
    item->link = hint;
    return true;
}

/* Give a link to each open item that has none. Items that nobody has are done. */
static void place(struct pool_area *area, bool with_hints)
{
    uint32_t count = 0;
    uint32_t master;

    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        if (item->state == ITEM_OPEN && item->link == LINK_NONE &&
            !(with_hints && place_by_hint(area, item))) {
            area->picked[count++] = i;
        }
    }
    if (!count) {
        return;
    }
    enum umbp_status status = master_ask(area, PROTO_ROUTE_GET, count, &master);
    if (status == UMBP_OK) {
        master_learn_routes(area, master, count);
    }
    for (uint32_t i = 0; i < count; i++) {
        struct pool_item *item = &area->items[area->picked[i]];
        if (status == UMBP_OK && area->routes[i].status == UMBP_OK) {
            item->link = master_link_of(area, master, area->routes[i].node_index);
        }
        if (item->link == LINK_NONE || area_excludes(area, item->link)) {
            item->link = LINK_NONE;
            item->state = ITEM_DONE;
            item->is_unsure |= status != UMBP_OK;
            item->status = UMBP_NOT_FOUND;
        }
    }
}

/* --------------------------------------------------------------------------- outcome ----- */

static bool is_final(enum umbp_status status)
{
    return status == UMBP_OK || status == UMBP_SIZE_MISMATCH || status == UMBP_INVALID_RANGE ||
           status == UMBP_INVALID_VALUE || status == UMBP_INVALID_KEY || status == UMBP_LIMIT ||
           status == UMBP_NO_MEMORY;
}

/* Whether a busy node may be asked again in this call. */
static bool has_patience(struct pool_area *area)
{
    uint64_t now_ns = clock_now_ns(area->pool->clock);
    if (!area->busy_until_ns) {
        area->busy_until_ns = u64_min(area->deadline_ns, now_ns + BUSY_MS * NS_PER_MS);
    }
    return now_ns < area->busy_until_ns;
}

/* After a round: what is done, and what is to be tried elsewhere. True: something is;
 * `*busy_out`: of a node that was busy. */
static bool sort_out(struct pool_area *area, bool *busy_out)
{
    struct pool *pool = area->pool;
    bool again = false;

    *busy_out = false;
    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        if (item->state != ITEM_OPEN) {
            continue;
        }
        if (item->waits || !item->is_asked) {
            again = true; /* there was no room for it in this round */
            continue;
        }
        if (is_final(item->status)) {
            item->state = ITEM_DONE;
            item->came_from = item->link;
            continue;
        }
        /* Stale: its owner took back what it had shown, perhaps because of another's slow read. */
        bool has_it = item->status == UMBP_BUSY || item->status == UMBP_STALE;
        if (has_it && item->link != LINK_SELF && has_patience(area)) {
            COUNT(pool, retries, 1);
            *busy_out = true;
            again = true;
            continue;
        }
        area_exclude(area, item->link);
        if (item->link == LINK_SELF) {
            item->is_unsure |= item->status != UMBP_NOT_FOUND;
        } else {
            item->is_unsure |= item->status != UMBP_NOT_FOUND && item->status != UMBP_CORRUPT;
            if (item->status == UMBP_NOT_FOUND || item->status == UMBP_CORRUPT) {
                /* A master that has not heard of it yet is not to be believed by a put. What was
                 * corrupt its owner has dropped. */
                hint_put(pool, item->print, LINK_GONE);
            } else {
                hint_drop(pool, item->print);
            }
        }
        COUNT(pool, retries, 1);
        item->link = LINK_NONE;
        if (++item->tries > pool->options.retries) {
            item->state = ITEM_DONE;
            item->status = UMBP_NOT_FOUND;
            item->is_unsure = true;
        } else {
            again = true;
        }
    }
    return again;
}

static void pause_busy(struct pool_area *area)
{
    struct pool *pool = area->pool;
    struct fabric_latch never;
    fabric_latch_init(&never, 1);
    (void)!fabric_wait(pool->options.fabric, &never,
                       clock_now_ns(pool->clock) + BUSY_PAUSE_MS * NS_PER_MS);
}

/* ---------------------------------------------------------------------------- recache ---- */

static bool is_admitted(const struct pool *pool, const struct pool_item *item)
{
    switch (pool->options.recache) {
    case POOL_RECACHE_NEVER:
        return false;
    case POOL_RECACHE_SIZE:
        return item->bytes <= pool->options.recache_bytes;
    case POOL_RECACHE_ALWAYS:
        return true;
    }
    return false;
}

/* Keep what came from elsewhere, as far as there is free memory. */
static void recache(struct pool_area *area)
{
    struct pool *pool = area->pool;
    uint32_t count = 0;
    uint32_t kept = 0;
    uint32_t refused = 0;

    if (!pool->options.store || area->has_ranges) {
        return;
    }
    for (uint32_t i = 0; i < area->count; i++) {
        const struct pool_item *item = &area->items[i];
        if (item->status != UMBP_OK || item->came_from == LINK_SELF ||
            item->came_from == LINK_NONE || !is_admitted(pool, item)) {
            continue;
        }
        area->own.puts[count++] = (struct umbp_put_item){
            .key = item->key,
            .data = item->whole.data,
            .bytes = item->bytes,
            .depth = UMBP_DEPTH_NONE,
        };
    }
    if (!count || store_batch_put_spare(pool->options.store, area->own.puts, count,
                                        pool->options.recache_below, area->statuses) != UMBP_OK) {
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        kept += area->statuses[i] == UMBP_OK;
        refused += area->statuses[i] == UMBP_NO_SPACE || area->statuses[i] == UMBP_TOO_LARGE;
    }
    COUNT(pool, recached, kept);
    COUNT(pool, recache_refused, refused);
}

/* ---------------------------------------------------------------------------- the call --- */

static void finish(struct pool_area *area)
{
    struct pool *pool = area->pool;
    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        if (item->state == ITEM_OPEN) {
            /* The time ran out. */
            item->state = ITEM_DONE;
            item->status = UMBP_NOT_FOUND;
            item->is_unsure = true;
        }
        if (item->status == UMBP_OK && item->came_from != LINK_SELF) {
            COUNT(pool, hits_remote, 1);
            COUNT(pool, bytes_got, item->payload);
            hint_put(pool, item->print, item->came_from);
        } else if (item->status == UMBP_NOT_FOUND) {
            COUNT(pool, misses, 1);
            COUNT(pool, misses_unsure, item->is_unsure);
        }
    }
}

void get_chunk(struct pool_area *area)
{
    struct pool *pool = area->pool;
    bool again = true;
    bool busy;

    area->exclude_count = 0;
    area->busy_until_ns = 0;
    find_own(area);
    for (bool with_hints = true; again; with_hints = false) {
        place(area, with_hints);
        requests_send(area);
        own_run(area);
        requests_collect(area);
        again = sort_out(area, &busy);
        if (clock_left_ns(pool->clock, area->deadline_ns) == 0) {
            break;
        }
        if (busy) {
            pause_busy(area);
        }
    }
    finish(area);
    recache(area);
}
