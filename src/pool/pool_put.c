/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batch put.
 *
 *   own store has it?  ->  already there
 *   hint?              ->  the node that has it, which says already-there before a byte moves
 *   master             ->  already there, or the node that it advises
 *   no master          ->  the own store
 *
 * A node that has no room, is busy or does not answer is excluded and the item is routed again;
 * when no node is left, the own store is the last resort. A key that stands twice in a batch waits
 * for the first one's outcome.
 */
#include "pool/pool_priv.h"

/* ----------------------------------------------------------------------------- twins ----- */

static bool same_key(const struct pool_item *a, const struct pool_item *b)
{
    return a->print.low == b->print.low && a->print.high == b->print.high &&
           a->key.bytes == b->key.bytes && memcmp(a->key.data, b->key.data, a->key.bytes) == 0;
}

/* Items whose key stands before them in the chunk become twins of that one. */
static void find_twins(struct pool_area *area)
{
    uint32_t slots = ARRAY_COUNT(area->twins);

    memset(area->twins, 0, sizeof(area->twins));
    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        if (item->state != ITEM_OPEN) {
            continue;
        }
        uint32_t at = (uint32_t)item->print.low & (slots - 1);
        while (area->twins[at] && !same_key(&area->items[area->twins[at] - 1], item)) {
            at = (at + 1) & (slots - 1);
        }
        if (area->twins[at]) {
            item->state = ITEM_TWIN;
            item->twin = area->twins[at] - 1u;
        } else {
            area->twins[at] = (uint16_t)(i + 1);
        }
    }
}

/* Twins of what was stored are done; those of what failed have their own try. True: some have. */
static bool wake_twins(struct pool_area *area)
{
    bool again = false;
    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        if (item->state != ITEM_TWIN) {
            continue;
        }
        if (umbp_status_is_success(area->items[item->twin].status)) {
            item->state = ITEM_DONE;
            item->status = UMBP_ALREADY_EXISTS;
        } else {
            item->state = ITEM_OPEN;
            again = true;
        }
    }
    if (again) {
        find_twins(area); /* of three, the third waits for the second */
    }
    return again;
}

/* ---------------------------------------------------------------------------- placing ---- */

static void find_own(struct pool_area *area)
{
    uint32_t count = own_exists(area);
    for (uint32_t i = 0; i < count; i++) {
        if (area->found[i]) {
            struct pool_item *item = &area->items[area->picked[i]];
            item->state = ITEM_DONE;
            item->status = UMBP_ALREADY_EXISTS;
            COUNT(area->pool, puts_known, 1);
        }
    }
}

/* What the caller is told of an item for which no place was found. */
static enum umbp_status final_status(enum umbp_status status)
{
    switch (status) {
    case UMBP_OK:
    case UMBP_NOT_FOUND:
        return UMBP_NO_SPACE;
    case UMBP_CLOSED: /* a connection, not the caller's client */
    case UMBP_CANCELLED:
    case UMBP_STALE:
        return UMBP_IO;
    default:
        return status;
    }
}

/* What becomes of an item that no other node is to be had for. */
static void place_last(struct pool_area *area, struct pool_item *item)
{
    if (area->pool->options.store && !area_excludes(area, LINK_SELF)) {
        item->link = LINK_SELF;
        return;
    }
    item->state = ITEM_DONE;
    item->status = final_status(item->status);
}

static void place_routed(struct pool_area *area, struct pool_item *item, uint32_t master,
                         const struct proto_route *route)
{
    /* What this process removed, and the master still believes in, is put where it is said to be:
     * the owner knows. So does the own store, which has just been asked: evicted, or cleared. */
    bool is_gone = false;
    if (route->status == UMBP_ALREADY_EXISTS) {
        is_gone = hint_is_gone(area->pool, item->print) ||
                  master_link_of(area, master, route->node_index) == LINK_SELF;
    }
    if (route->status == UMBP_ALREADY_EXISTS && !is_gone) {
        item->state = ITEM_DONE;
        item->status = UMBP_ALREADY_EXISTS;
        COUNT(area->pool, puts_known, 1);
        return;
    }
    if (route->status == UMBP_OK || is_gone) {
        item->link = master_link_of(area, master, route->node_index);
    }
    if (route->status == UMBP_TOO_LARGE) {
        item->status = UMBP_TOO_LARGE;
    }
    if (item->link == LINK_NONE || area_excludes(area, item->link)) {
        item->link = LINK_NONE;
        place_last(area, item);
    }
}

static void place(struct pool_area *area, bool with_hints)
{
    struct pool *pool = area->pool;
    uint32_t count = 0;
    uint32_t master = 0;

    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        if (item->state != ITEM_OPEN || item->link != LINK_NONE) {
            continue;
        }
        link_id hint = with_hints ? hint_get(pool, item->print) : LINK_NONE;
        if (hint != LINK_NONE && hint != LINK_SELF && !area_excludes(area, hint)) {
            item->link = hint;
        } else {
            area->picked[count++] = i;
        }
    }
    if (!count) {
        return;
    }
    enum umbp_status status = master_ask(area, PROTO_ROUTE_PUT, count, &master);
    if (status == UMBP_OK) {
        master_learn_routes(area, master, count);
    }
    for (uint32_t i = 0; i < count; i++) {
        struct pool_item *item = &area->items[area->picked[i]];
        if (status == UMBP_OK) {
            place_routed(area, item, master, &area->routes[i]);
        } else {
            item->status = status;
            place_last(area, item);
        }
    }
}

/* ---------------------------------------------------------------------------- the call --- */

/* Another node may do what this one could not. */
static bool may_retry(enum umbp_status status)
{
    switch (status) {
    case UMBP_NO_SPACE:
    case UMBP_TOO_LARGE:
    case UMBP_BUSY:
    case UMBP_CLOSED:
    case UMBP_TIMEOUT:
    case UMBP_STALE:
    case UMBP_READ_ONLY:
    case UMBP_IO:
    case UMBP_CORRUPT:
    case UMBP_CANCELLED:
    case UMBP_UNSUPPORTED:
    case UMBP_VERSION:
        return true;
    default:
        return false;
    }
}

/* True: some item needs another round; `*failed_out`: because of a failure. */
static bool sort_out(struct pool_area *area, bool *failed_out)
{
    struct pool *pool = area->pool;
    bool again = false;

    *failed_out = false;
    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        if (item->state != ITEM_OPEN) {
            continue;
        }
        if (item->waits || !item->is_asked) {
            again = true;
            continue;
        }
        if (!may_retry(item->status)) {
            item->state = ITEM_DONE;
            item->came_from = item->link;
            continue;
        }
        area_exclude(area, item->link);
        if (item->link != LINK_SELF) {
            hint_drop(pool, item->print);
        }
        item->link = LINK_NONE;
        COUNT(pool, retries, 1);
        *failed_out = true;
        again = true;
    }
    return again;
}

static void put_rounds(struct pool_area *area)
{
    struct pool *pool = area->pool;
    bool failed;

    area->exclude_count = 0;
    area->failed_rounds = 0;
    for (bool with_hints = true;; with_hints = false) {
        if (area->failed_rounds > pool->options.retries) {
            for (uint32_t i = 0; i < area->count; i++) {
                if (area->items[i].state == ITEM_OPEN && area->items[i].link == LINK_NONE) {
                    place_last(area, &area->items[i]);
                }
            }
        } else {
            place(area, with_hints);
        }
        requests_send(area);
        own_run(area);
        requests_collect(area);
        bool again = sort_out(area, &failed);
        area->failed_rounds += failed;
        if (!again || clock_left_ns(pool->clock, area->deadline_ns) == 0) {
            break;
        }
    }
    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        if (item->state == ITEM_OPEN) {
            item->state = ITEM_DONE; /* the time is up */
            item->status = UMBP_TIMEOUT;
        }
    }
}

void put_chunk(struct pool_area *area)
{
    struct pool *pool = area->pool;

    find_twins(area);
    do {
        find_own(area);
        put_rounds(area);
    } while (wake_twins(area) && clock_left_ns(pool->clock, area->deadline_ns) > 0);
    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        if (item->state != ITEM_DONE) {
            item->state = ITEM_DONE; /* a twin that had no time for a try of its own */
            item->status = UMBP_TIMEOUT;
        }
        if (!umbp_status_is_success(item->status) || item->came_from == LINK_NONE) {
            continue;
        }
        if (item->came_from == LINK_SELF) {
            COUNT(pool, puts_own, 1);
        } else {
            COUNT(pool, puts_remote, 1);
            COUNT(pool, bytes_put, item->payload);
            hint_put(pool, item->print, item->came_from);
        }
    }
}
