/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The external KV index: what engines keep outside of the pool. The same table as the blocks', with
 * an owner for each tier of a node, so that tiers add up by themselves and a whole tier of a node
 * is revoked by a new epoch. Hits are counted in a table of their own, since they outlive what was
 * reported: word: the count; stamp: the last hit; extra: the call that counted last, so that a hash
 * named twice in a call counts once.
 */
#include "master/master_priv.h"

#define PREFETCH_AHEAD 12u

static uint64_t external_view(const struct master *master, uint32_t owner)
{
    return atomic_load_explicit(&master->external_views[owner], memory_order_acquire);
}

/* ---------------------------------------------------------------------- report, revoke --- */

static enum umbp_status report_locked(struct master *master, struct shard *shard,
                                      struct fingerprint print, const struct location *location)
{
    struct slot *slot = table_find(shard, print);
    if (!slot) {
        enum umbp_status status =
            table_insert(&master->external, shard, print, word_of(location), &slot);
        if (status == UMBP_OK) {
            slot->extra = DEPTH_NONE << EPOCH_BITS | location->epoch;
        }
        return status;
    }
    uint32_t locations = slot_count(slot);
    for (uint32_t i = 0; i < locations; i++) {
        struct location old = slot_at(slot, i);
        if (old.owner == location->owner) {
            slot_set(slot, i, location);
            return UMBP_OK;
        }
    }
    for (uint32_t i = 0; i < locations; i++) {
        struct location old = slot_at(slot, i);
        if (!view_shows(external_view(master, old.owner), old.epoch)) {
            slot_set(slot, i, location); /* the room of one that is gone */
            return UMBP_OK;
        }
    }
    return slot_append(&master->external, slot, location);
}

static bool tier_is_valid(enum master_tier tier)
{
    return tier > MASTER_TIER_NONE && tier < MASTER_TIERS;
}

/* The record of a living node's id, for its counters, and the view of its tier; NULL: there is
 * none. The view is that of this very node: the record may be another's a moment later. */
static struct node *living_node(struct master *master, struct master_text id, enum master_tier tier,
                                uint64_t *view_out)
{
    for (;;) {
        uint32_t handle = master_node_find(master, id);
        if (!handle) {
            return NULL;
        }
        uint32_t index = handle_index(handle);
        uint64_t view = external_view(master, index * MASTER_TIERS + (uint32_t)tier);
        if (view_handle(view) == handle) {
            *view_out = view;
            return &master->nodes[index];
        }
        /* It was registered anew meanwhile. */
    }
}

static void count_refused(struct master *master, struct master_text id, enum master_tier tier)
{
    struct node *node = node_lock_by_id(master, id);
    if (node) {
        node_counted(node, NODE_REPORTS_REFUSED + (uint32_t)tier, 1);
        mutex_unlock(&node->lock);
    }
}

enum umbp_status master_external_report(struct master *master, struct master_text id,
                                        const struct fingerprint *prints, size_t count_,
                                        enum master_tier tier)
{
    if (!tier_is_valid(tier)) {
        return UMBP_INVALID_VALUE;
    }
    if (count_ > MASTER_BATCH_MAX) {
        return UMBP_LIMIT;
    }
    uint64_t view;
    struct node *node = living_node(master, id, tier, &view);
    if (!node) {
        count_refused(master, id, tier);
        return UMBP_NOT_FOUND;
    }
    uint32_t owner = node_index(master, node) * MASTER_TIERS + (uint32_t)tier;
    /* An epoch that ends meanwhile takes with it what is added here. */
    const struct location location = {
        .owner = owner, .epoch = view_now(view), .tiers = tier_bit(tier)};
    enum umbp_status worst = UMBP_OK;
    for (size_t i = 0; i < count_; i++) {
        struct shard *shard = table_shard(&master->external, prints[i]);
        if (i + PREFETCH_AHEAD < count_) {
            table_prefetch(&master->external, prints[i + PREFETCH_AHEAD]);
        }
        mutex_lock(&shard->lock);
        enum umbp_status status = report_locked(master, shard, prints[i], &location);
        mutex_unlock(&shard->lock);
        if (status != UMBP_OK) {
            count(master, status == UMBP_LIMIT ? COUNT_DROPPED_LIMIT : COUNT_DROPPED_MEMORY, 1);
            worst = status;
        }
    }
    node_counted(node, NODE_REPORTS + (uint32_t)tier, 1);
    node_counted(node, NODE_REPORT_BLOCKS + (uint32_t)tier, count_);
    return worst;
}

static void revoke_locked(struct master *master, struct shard *shard, struct fingerprint print,
                          uint32_t owner)
{
    struct slot *slot = table_find(shard, print);
    uint32_t at = slot ? slot_find(slot, owner) : UINT32_MAX;
    if (at == UINT32_MAX) {
        return;
    }
    if (slot_count(slot) > 1) {
        slot_take(&master->external, slot, at);
    } else {
        table_remove(&master->external, shard, slot);
    }
}

enum umbp_status master_external_revoke(struct master *master, struct master_text id,
                                        const struct fingerprint *prints, size_t count_,
                                        enum master_tier tier)
{
    if (!tier_is_valid(tier)) {
        return UMBP_INVALID_VALUE;
    }
    if (count_ > MASTER_BATCH_MAX) {
        return UMBP_LIMIT;
    }
    uint64_t view;
    struct node *node = living_node(master, id, tier, &view);
    if (!node) {
        return UMBP_OK; /* nothing of it is in view */
    }
    uint32_t owner = node_index(master, node) * MASTER_TIERS + (uint32_t)tier;
    for (size_t i = 0; i < count_; i++) {
        struct shard *shard = table_shard(&master->external, prints[i]);
        mutex_lock(&shard->lock);
        revoke_locked(master, shard, prints[i], owner);
        mutex_unlock(&shard->lock);
    }
    node_counted(node, NODE_REVOKES + (uint32_t)tier, 1);
    node_counted(node, NODE_REVOKE_BLOCKS + (uint32_t)tier, count_);
    return UMBP_OK;
}

enum umbp_status master_external_revoke_all(struct master *master, struct master_text id,
                                            enum master_tier tier)
{
    enum umbp_status status = UMBP_OK;
    if (tier != MASTER_TIER_NONE && !tier_is_valid(tier)) {
        return UMBP_INVALID_VALUE;
    }
    struct node *node = node_lock_by_id(master, id);
    if (!node) {
        return UMBP_OK;
    }
    mutex_lock(&master->members_lock);
    for (uint32_t at = 1; at < MASTER_TIERS && status == UMBP_OK; at++) {
        if ((tier == MASTER_TIER_NONE || at == (uint32_t)tier) &&
            !epochs_next(master, &node->external[at], true)) {
            status = UMBP_BUSY;
        }
    }
    node_publish_view(master, node, node->state == MASTER_NODE_ALIVE);
    mutex_unlock(&master->members_lock);
    node_counted(node, NODE_REVOKES + (uint32_t)tier, 1);
    mutex_unlock(&node->lock);
    return status;
}

/* -------------------------------------------------------------------------------- hits --- */

bool external_hit_is_fresh(const struct master *master, const struct slot *slot, uint32_t stamp)
{
    uint64_t ttl = master->options.hit_index_ttl_sec * NS_PER_S >> STAMP_SHIFT;
    return (uint32_t)(stamp - slot->stamp) <= ttl;
}

static void hit(struct master *master, struct fingerprint print, uint32_t call, uint32_t stamp)
{
    struct shard *shard = table_shard(&master->hits, print);
    enum umbp_status status = UMBP_OK;
    mutex_lock(&shard->lock);
    struct slot *slot = table_find(shard, print);
    if (!slot) {
        status = table_insert(&master->hits, shard, print, 1, &slot);
    } else if (slot->extra == call) {
        slot = NULL;
    } else {
        slot->word = external_hit_is_fresh(master, slot, stamp) ? slot->word + 1 : 1;
    }
    if (slot && status == UMBP_OK) {
        slot->stamp = stamp;
        slot->extra = call;
    }
    mutex_unlock(&shard->lock);
    if (status != UMBP_OK) {
        count(master, status == UMBP_LIMIT ? COUNT_DROPPED_LIMIT : COUNT_DROPPED_MEMORY, 1);
    }
}

static uint64_t hits_of(struct master *master, struct fingerprint print, uint32_t stamp)
{
    struct shard *shard = table_shard(&master->hits, print);
    mutex_lock(&shard->lock);
    const struct slot *slot = table_find(shard, print);
    uint64_t hits = slot && external_hit_is_fresh(master, slot, stamp) ? slot->word : 0;
    mutex_unlock(&shard->lock);
    return hits;
}

/* Whether the request named it before; remembers it. `seen` holds indexes + 1. */
static bool is_repeated(uint32_t *seen, uint32_t mask, const struct fingerprint *prints, size_t at)
{
    for (uint32_t i = (uint32_t)prints[at].low & mask;; i = (i + 1) & mask) {
        if (!seen[i]) {
            seen[i] = (uint32_t)at + 1;
            return false;
        }
        const struct fingerprint *other = &prints[seen[i] - 1];
        if (other->low == prints[at].low && other->high == prints[at].high) {
            return true;
        }
    }
}

enum umbp_status master_external_hits(struct master *master, const struct fingerprint *prints,
                                      size_t count_, uint64_t *hits_out)
{
    if (count_ > master->options.hit_query_max_batch || count_ > MASTER_BATCH_MAX) {
        return UMBP_LIMIT;
    }
    uint32_t size = 16;
    while (size < 2 * count_) {
        size *= 2;
    }
    uint32_t *seen = mem_calloc(size, sizeof(*seen));
    if (!seen) {
        return UMBP_NO_MEMORY;
    }
    uint32_t stamp = stamp_at(master, now_ns(master));
    for (size_t i = 0; i < count_; i++) {
        hits_out[i] =
            is_repeated(seen, size - 1, prints, i) ? 0 : hits_of(master, prints[i], stamp);
    }
    mem_free(seen);
    return UMBP_OK;
}

/* ------------------------------------------------------------------------------- match --- */

struct row_list {
    struct master_match_row *rows;
    size_t count;
    size_t capacity;
};

static enum umbp_status rows_append(struct row_list *list, const struct master_match_row *rows,
                                    uint32_t rows_count)
{
    if (list->count + rows_count > MASTER_MATCH_ROWS_MAX) {
        return UMBP_LIMIT;
    }
    if (list->count + rows_count > list->capacity) {
        size_t capacity = size_max(list->capacity * 2, list->count + rows_count + 64);
        struct master_match_row *more = mem_realloc(list->rows, capacity * sizeof(*more));
        if (!more) {
            return UMBP_NO_MEMORY;
        }
        list->rows = more;
        list->capacity = capacity;
    }
    memcpy(&list->rows[list->count], rows, rows_count * sizeof(*rows));
    list->count += rows_count;
    return UMBP_OK;
}

static uint32_t match_one(const struct master *master, struct fingerprint print, size_t item,
                          struct master_match_row *rows_out)
{
    struct shard *shard = table_shard(&master->external, print);
    uint32_t found = 0;
    mutex_lock(&shard->lock);
    const struct slot *slot = table_find(shard, print);
    uint32_t locations = slot ? slot_count(slot) : 0;
    for (uint32_t i = 0; i < locations; i++) {
        struct location location = slot_at(slot, i);
        uint64_t view = external_view(master, location.owner);
        if (view_shows(view, location.epoch)) {
            rows_out[found++] = (struct master_match_row){
                .node = view_handle(view),
                .item = (uint32_t)item,
                .tier = (uint8_t)(location.owner % MASTER_TIERS),
            };
        }
    }
    mutex_unlock(&shard->lock);
    return found;
}

static int row_compare(const void *a_, const void *b_)
{
    const struct master_match_row *a = a_;
    const struct master_match_row *b = b_;
    if (a->node != b->node) {
        return a->node < b->node ? -1 : 1;
    }
    if (a->tier != b->tier) {
        return a->tier < b->tier ? -1 : 1;
    }
    return (a->item > b->item) - (a->item < b->item);
}

enum umbp_status master_external_match(struct master *master, const struct fingerprint *prints,
                                       size_t count_, bool counts_as_hit,
                                       struct master_matches *matches_out)
{
    struct master_match_row found[MASTER_LOCATIONS_MAX];
    struct row_list list = {0};
    size_t distinct = 0;
    if (count_ > MASTER_BATCH_MAX) {
        return UMBP_LIMIT;
    }
    /* relaxed: every call gets a number of its own; 0 is no call's */
    uint32_t call = atomic_fetch_add_explicit(&master->match_calls, 1, memory_order_relaxed);
    call += call == UINT32_MAX ? 2 : 1;
    uint32_t stamp = stamp_at(master, now_ns(master));
    for (size_t i = 0; i < count_; i++) {
        if (i + PREFETCH_AHEAD < count_) {
            table_prefetch(&master->external, prints[i + PREFETCH_AHEAD]);
        }
        uint32_t rows = match_one(master, prints[i], i, found);
        enum umbp_status status = rows ? rows_append(&list, found, rows) : UMBP_OK;
        if (status != UMBP_OK) {
            mem_free(list.rows);
            return status;
        }
        distinct += rows > 0;
        if (rows && counts_as_hit) {
            hit(master, prints[i], call, stamp);
        }
    }
    if (list.count > 1) {
        qsort(list.rows, list.count, sizeof(*list.rows), row_compare);
    }
    count(master, COUNT_MATCHES, 1);
    count(master, COUNT_MATCH_QUERIED, count_);
    count(master, COUNT_MATCH_FOUND, distinct);
    *matches_out = (struct master_matches){list.rows, list.count, distinct};
    return UMBP_OK;
}

void master_matches_free(struct master_matches *matches)
{
    mem_free(matches->rows);
    *matches = (struct master_matches){0};
}
