/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exists, remove and stat: own store first, then a master, then the nodes.
 *
 * Existence is the master's knowledge, which trails the nodes by some milliseconds. What this
 * process wrote itself it knows by its hints; those are asked of the node, so that a process sees
 * its own writes at once.
 */
#include "pool/pool_priv.h"

#define CLEARED_DOUBT_NS (5 * NS_PER_S) /* masters hear of it within milliseconds, as a rule */

/* ------------------------------------------------------------------------------ parts ---- */

/* Ask the nodes that the open items' links name, once; in several rounds if they are many. What
 * there was no time for has is_asked off. */
static void ask_nodes(struct pool_area *area)
{
    bool again = true;
    while (again) {
        again = false;
        requests_send(area);
        requests_collect(area);
        for (uint32_t i = 0; i < area->count; i++) {
            struct pool_item *item = &area->items[i];
            if (item->state == ITEM_OPEN && item->link >= LINK_FIRST) {
                again |= !item->is_asked;
                item->state = item->is_asked ? ITEM_ASKED : ITEM_OPEN;
            }
        }
        again = again && clock_left_ns(area->pool->clock, area->deadline_ns) > 0;
    }
    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        if (item->state == ITEM_ASKED) {
            item->state = ITEM_OPEN;
            item->is_asked = true;
        }
    }
}

/* Give the open items the links of their hints. True: there is one. `were_read`: just now. */
static bool link_by_hints(struct pool_area *area, bool were_read)
{
    bool any = false;
    if (!were_read) {
        hints_read(area);
    }
    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        item->link = LINK_NONE;
        if (item->state == ITEM_OPEN) {
            item->link = item->hint == LINK_GONE ? LINK_NONE : item->hint;
            any |= item->link != LINK_NONE;
        }
    }
    return any;
}

/* Give the open items the links that a master advises. True: there is one. Items that no master
 * could be asked about are unsure. */
static bool link_by_master(struct pool_area *area)
{
    uint32_t count = area_pick_open(area);
    bool any = false;
    uint32_t master;

    for (uint32_t i = 0; i < count; i++) {
        area->items[area->picked[i]].link = LINK_NONE;
    }
    if (!count) {
        return false;
    }
    if (master_ask(area, PROTO_ROUTE_GET, count, &master) != UMBP_OK) {
        for (uint32_t i = 0; i < count; i++) {
            area->items[area->picked[i]].is_unsure = true;
        }
        return false;
    }
    master_learn_routes(area, master, count);
    for (uint32_t i = 0; i < count; i++) {
        struct pool_item *item = &area->items[area->picked[i]];
        if (area->routes[i].status == UMBP_OK) {
            item->link = master_link_of(area, master, area->routes[i].node_index);
            item->replicas = area->routes[i].replicas;
            any |= item->link != LINK_NONE && item->link != LINK_SELF;
        }
    }
    return any;
}

/* ----------------------------------------------------------------------------- exists ---- */

void pool_cleared(struct pool *pool)
{
    /* relaxed: who clears and then asks does so in one thread, or has synchronized */
    atomic_store_explicit(&pool->cleared_until_ns, clock_now_ns(pool->clock) + CLEARED_DOUBT_NS,
                          memory_order_relaxed);
}

static bool is_cleared(struct pool *pool)
{
    return clock_now_ns(pool->clock) <
           atomic_load_explicit(&pool->cleared_until_ns, memory_order_relaxed);
}

/* The keys that the own store does not have: area->keys, ->picked (where the caller has them) and
 * ->wants. Returns how many. */
static uint32_t exists_own(struct pool_area *area, const struct umbp_key *keys, uint32_t count,
                           uint8_t *found_out)
{
    struct pool *pool = area->pool;
    struct store *store = pool->options.store;
    uint32_t open = 0;

    memset(found_out, 0, count);
    for (uint32_t i = 0; i < count; i++) {
        if (store_key_is_valid(keys[i])) {
            area->keys[open] = keys[i];
            area->picked[open++] = i;
        }
    }
    if (store && open && store_batch_exists(store, area->keys, open, area->found) == UMBP_OK) {
        uint32_t tried = open;
        open = 0;
        for (uint32_t i = 0; i < tried; i++) {
            if (area->found[i]) {
                found_out[area->picked[i]] = 1;
            } else {
                area->keys[open] = area->keys[i];
                area->picked[open++] = area->picked[i];
            }
        }
    }
    for (uint32_t i = 0; i < open; i++) {
        const struct umbp_key *key = &area->keys[i];
        area->wants[i] =
            (struct proto_want){hash_key(key->data, key->bytes, pool->options.hash_seed), 0};
    }
    return open;
}

/* Items of what was asked for, with what the master said if it answered. */
static void exists_items(struct pool_area *area, uint32_t count, bool has_answer, bool was_cleared)
{
    for (uint32_t i = 0; i < count; i++) {
        area->items[i] = (struct pool_item){
            .key = area->keys[i],
            .print = area->wants[i].print,
            .asked_at = area->picked[i],
            .status = UMBP_NOT_FOUND,
        };
    }
    area->count = count;
    hints_read(area);
    for (uint32_t i = 0; has_answer && i < count; i++) {
        struct pool_item *item = &area->items[i];
        if (area->found[i] && (was_cleared || item->hint == LINK_GONE)) {
            item->is_doubted = true; /* removed here: has the master heard, or is there another? */
        } else if (area->found[i]) {
            item->state = ITEM_DONE;
            item->status = UMBP_OK;
        }
    }
}

/* Those that a node has just said to hold are done. */
static void exists_settle(struct pool_area *area)
{
    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        if (item->state == ITEM_OPEN && item->link != LINK_NONE && item->is_asked &&
            item->status == UMBP_OK) {
            item->state = ITEM_DONE;
        }
    }
}

/* What the master knows of, but this process removed, is asked of who is said to hold it. False:
 * there is nothing of the kind. */
static bool exists_doubted(struct pool_area *area)
{
    bool any = false;
    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        any |= item->is_doubted;
        if (item->state == ITEM_OPEN && !item->is_doubted) {
            item->state = ITEM_TWIN; /* settled: not there */
        }
    }
    area_exclude(area, LINK_SELF); /* has been asked */
    if (any && link_by_master(area)) {
        ask_nodes(area);
    }
    return any;
}

void exists_chunk(struct pool_area *area, const struct umbp_key *keys, uint32_t count,
                  uint8_t *found_out)
{
    bool was_cleared = is_cleared(area->pool);
    uint32_t open = exists_own(area, keys, count, found_out);
    uint32_t master;

    area->exclude_count = 0;
    area->has_hints = false;
    bool has_answer = open && master_ask_wants(area, PROTO_LOOKUP, open, &master) == UMBP_OK;
    if (!open || (has_answer && !was_cleared && !area->has_hints)) {
        /* As a rule: nothing is known here that the master may not know. */
        for (uint32_t i = 0; i < open; i++) {
            found_out[area->picked[i]] = area->found[i] != 0;
        }
        return;
    }
    exists_items(area, open, has_answer, was_cleared);
    if (link_by_hints(area, true)) {
        ask_nodes(area);
        exists_settle(area);
    }
    if (exists_doubted(area)) {
        exists_settle(area);
    }
    for (uint32_t i = 0; i < area->count; i++) {
        const struct pool_item *item = &area->items[i];
        found_out[item->asked_at] = item->state == ITEM_DONE && item->status == UMBP_OK;
    }
    area->count = 0;
}

/* ----------------------------------------------------------------------------- remove ---- */

static void remove_own(struct pool_area *area)
{
    struct pool *pool = area->pool;
    uint32_t count = area_pick_open(area);
    if (!count || !pool->options.store ||
        store_batch_remove(pool->options.store, area->keys, count, area->statuses) != UMBP_OK) {
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct pool_item *item = &area->items[area->picked[i]];
        item->was_removed |= area->statuses[i] == UMBP_OK;
        if (area->statuses[i] != UMBP_OK && area->statuses[i] != UMBP_NOT_FOUND) {
            item->failure = area->statuses[i];
        }
    }
}

static void note_removed(struct pool_area *area)
{
    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        if (item->state != ITEM_OPEN || item->link == LINK_NONE || item->link == LINK_SELF) {
            continue;
        }
        if (!item->is_asked) {
            item->failure = UMBP_BUSY;
        } else if (item->status == UMBP_OK) {
            item->was_removed = true;
        } else if (item->status != UMBP_NOT_FOUND) {
            item->failure = item->status;
        }
    }
}

/* The other holders of items that have several, item by item. */
static void remove_replicas(struct pool_area *area)
{
    for (uint32_t i = 0; i < area->count; i++) {
        area->items[i].state = area->items[i].state == ITEM_OPEN ? ITEM_TWIN : ITEM_DONE;
    }
    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        if (item->state != ITEM_TWIN) {
            continue;
        }
        item->state = ITEM_OPEN;
        area->exclude_count = 0;
        while (item->replicas > 1) {
            if (item->link == LINK_NONE || area->exclude_count == POOL_EXCLUDES_MAX ||
                clock_left_ns(area->pool->clock, area->deadline_ns) == 0) {
                item->failure = UMBP_BUSY; /* some are left */
                break;
            }
            area_exclude(area, item->link);
            item->replicas = 0;
            if (link_by_master(area)) {
                ask_nodes(area);
                note_removed(area);
            }
        }
        item->state = ITEM_DONE;
    }
}

void remove_chunk(struct pool_area *area)
{
    struct pool *pool = area->pool;

    area->exclude_count = 0;
    remove_own(area);
    if (link_by_hints(area, false)) {
        ask_nodes(area);
        note_removed(area);
    }
    if (link_by_master(area)) {
        ask_nodes(area);
        note_removed(area);
    }
    remove_replicas(area);
    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        if (item->failure == UMBP_INVALID_KEY) {
            continue;
        }
        if (item->failure == UMBP_OK) {
            hint_put(pool, item->print, LINK_GONE); /* also what was gone already */
        } else {
            hint_drop(pool, item->print);
        }
        item->status = item->failure != UMBP_OK ? item->failure
                       : item->is_unsure        ? UMBP_IO /* others may have it still */
                       : item->was_removed      ? UMBP_OK
                                                : UMBP_NOT_FOUND;
        if (item->status == UMBP_CLOSED || item->status == UMBP_CANCELLED) {
            item->status = UMBP_IO; /* a connection, not the caller's client */
        }
        COUNT(pool, removed, item->was_removed);
    }
}

/* ------------------------------------------------------------------------------- stat ---- */

void stat_chunk(struct pool_area *area)
{
    struct pool_item *item = &area->items[0];

    area->exclude_count = 0;
    item->status = UMBP_NOT_FOUND;
    if (link_by_hints(area, false)) {
        ask_nodes(area);
    }
    if ((item->link == LINK_NONE || item->status != UMBP_OK) && link_by_master(area)) {
        ask_nodes(area);
    }
    if (item->link == LINK_NONE || !item->is_asked || item->status != UMBP_OK) {
        item->status = UMBP_NOT_FOUND;
    }
}
