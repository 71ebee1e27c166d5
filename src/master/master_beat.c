/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Beats: numbered bundles of events, and full syncs in chunks.
 *
 * All of it happens under the node's own lock, so a sequence number and what it stands for change
 * together: who reads the one later finds the other.
 *
 * A full sync begins a new epoch and keeps the old one in view; what the listing names moves to the
 * new one; its last chunk takes the old one out of view, in one store.
 */
#include "master/master_priv.h"

#define PREFETCH_AHEAD 12u
#define RESYNC_AFTER_NS (60 * NS_PER_S) /* a full sync to make up for what memory did not allow */
#define WARN_EVERY_NS (60 * NS_PER_S)

struct applying {
    struct master *master;
    struct node *node;
    uint32_t index;
    uint64_t view;
    uint32_t stamp;
    bool is_sync;
    bool wants_keys;
    uint64_t applied;
    uint64_t invalid;
    uint64_t no_memory;
    uint64_t over_limit;
};

/* ------------------------------------------------------------------------------ events --- */

static uint64_t sum_of(const uint64_t *counts)
{
    return counts[MASTER_TIER_HBM] + counts[MASTER_TIER_DRAM] + counts[MASTER_TIER_SSD];
}

/* What has come into view: during a full sync, into the new epoch. */
static void count_added(struct applying *applying, uint8_t tiers)
{
    for (uint32_t tier = 1; tier < MASTER_TIERS; tier++) {
        if (tiers & tier_bit(tier)) {
            applying->node->keys[tier]++;
            applying->node->sync_keys[tier] += applying->is_sync;
        }
    }
}

static void count_gone(struct applying *applying, uint8_t tiers)
{
    for (uint32_t tier = 1; tier < MASTER_TIERS; tier++) {
        if (tiers & tier_bit(tier)) {
            applying->node->keys[tier]--;
        }
    }
}

static bool is_in_view(const struct master *master, const struct location *location)
{
    return view_shows(view_load(master, location->owner), location->epoch);
}

/* The key is of nobody any more, or never was: its past does not count. */
static void slot_renew_if_bare(const struct applying *applying, struct slot *slot)
{
    uint32_t locations = slot_count(slot);
    for (uint32_t i = 0; i < locations; i++) {
        struct location location = slot_at(slot, i);
        if (is_in_view(applying->master, &location)) {
            return;
        }
    }
    slot->word &= ~WORD_ROUTED;
    slot->stamp = applying->stamp;
    slot_set_depth(slot, DEPTH_NONE);
}

/* Room for another location is taken from one that is out of view, if there is any. */
static bool slot_reuse(const struct applying *applying, struct slot *slot,
                       const struct location *location)
{
    uint32_t locations = slot_count(slot);
    for (uint32_t i = 0; i < locations; i++) {
        struct location old = slot_at(slot, i);
        if (!is_in_view(applying->master, &old)) {
            slot_set(slot, i, location);
            return true;
        }
    }
    return false;
}

static enum umbp_status slot_place(struct applying *applying, struct slot *slot,
                                   struct location location)
{
    uint32_t at = slot_find(slot, applying->index);
    if (at == UINT32_MAX) {
        enum umbp_status status = UMBP_OK;
        if (!slot_reuse(applying, slot, &location)) {
            status = slot_append(&applying->master->blocks, slot, &location);
        }
        if (status == UMBP_OK) {
            count_added(applying, location.tiers);
        }
        return status;
    }
    struct location old = slot_at(slot, at);
    if (!view_shows(applying->view, old.epoch)) {
        count_added(applying, location.tiers);
    } else if (old.epoch == location.epoch) {
        count_added(applying, location.tiers & (uint8_t)~old.tiers);
        location.tiers |= old.tiers;
    } else { /* named again by a full sync */
        count_gone(applying, old.tiers);
        count_added(applying, location.tiers);
    }
    slot_set(slot, at, &location);
    return UMBP_OK;
}

static uint32_t depth_bits(uint32_t depth)
{
    return depth == UMBP_DEPTH_NONE ? DEPTH_NONE : depth < DEPTH_NONE ? depth : DEPTH_NONE - 1;
}

static enum umbp_status add_locked(struct applying *applying, struct shard *shard,
                                   const struct master_event *event)
{
    struct table *table = &applying->master->blocks;
    const struct location location = {
        .bytes = event->bytes,
        .owner = applying->index,
        .epoch = view_now(applying->view),
        .tiers = tier_bit(event->tier),
    };
    enum umbp_status status = UMBP_OK;
    struct slot *slot = table_find(shard, event->print);
    if (slot) {
        slot_renew_if_bare(applying, slot);
        status = slot_place(applying, slot, location);
    } else {
        status = table_insert(table, shard, event->print, word_of(&location), &slot);
        if (status == UMBP_OK) {
            slot->extra = DEPTH_NONE << EPOCH_BITS | location.epoch;
            slot->stamp = applying->stamp;
            count_added(applying, location.tiers);
        }
    }
    if (status != UMBP_OK) {
        return status;
    }
    if (event->depth != UMBP_DEPTH_NONE) {
        slot_set_depth(slot, depth_bits(event->depth));
    }
    /* Without its key the value can't be proposed for eviction; that is all. */
    return applying->wants_keys && event->key_bytes
               ? slot_keep_key(table, slot, event->key, event->key_bytes)
               : UMBP_OK;
}

static void remove_locked(struct applying *applying, struct shard *shard,
                          const struct master_event *event)
{
    struct slot *slot = table_find(shard, event->print);
    uint32_t at = slot ? slot_find(slot, applying->index) : UINT32_MAX;
    if (at == UINT32_MAX) {
        return;
    }
    struct location location = slot_at(slot, at);
    uint8_t bit = tier_bit(event->tier);
    if (view_shows(applying->view, location.epoch)) {
        count_gone(applying, location.tiers & bit);
        location.tiers &= (uint8_t)~bit;
        if (location.tiers) {
            slot_set(slot, at, &location);
            return;
        }
    }
    if (slot_count(slot) > 1) {
        slot_take(&applying->master->blocks, slot, at);
    } else {
        table_remove(&applying->master->blocks, shard, slot);
    }
}

static bool event_is_valid(const struct master_event *event)
{
    return event->tier > MASTER_TIER_NONE && event->tier < MASTER_TIERS &&
           event->bytes <= MASTER_VALUE_BYTES_MAX;
}

static void apply_event(struct applying *applying, const struct master_event *event)
{
    struct table *table = &applying->master->blocks;
    enum umbp_status status = UMBP_OK;
    if (!event_is_valid(event)) {
        applying->invalid++;
        return;
    }
    if (!event->is_add && applying->is_sync) {
        return;
    }
    struct shard *shard = table_shard(table, event->print);
    mutex_lock(&shard->lock);
    if (event->is_add) {
        status = add_locked(applying, shard, event);
    } else {
        remove_locked(applying, shard, event);
    }
    mutex_unlock(&shard->lock);
    applying->applied += status == UMBP_OK;
    applying->no_memory += status == UMBP_NO_MEMORY;
    applying->over_limit += status == UMBP_LIMIT;
}

static void apply_bundle(struct applying *applying, const struct master_bundle *bundle)
{
    const struct table *table = &applying->master->blocks;
    for (size_t i = 0; i < bundle->count; i++) {
        if (i == 0) {
            for (size_t j = 0; j < bundle->count && j < PREFETCH_AHEAD; j++) {
                table_prefetch(table, bundle->events[j].print);
            }
        } else if (i + PREFETCH_AHEAD - 1 < bundle->count) {
            table_prefetch(table, bundle->events[i + PREFETCH_AHEAD - 1].print);
        }
        apply_event(applying, &bundle->events[i]);
    }
}

/* Drops are counted; those for want of memory are made up for by a full sync later on. */
static void finish_applying(struct applying *applying)
{
    struct node *node = applying->node;
    node_counted(node, NODE_EVENTS_APPLIED, applying->applied);
    count(applying->master, COUNT_INVALID_EVENTS, applying->invalid);
    count(applying->master, COUNT_DROPPED_MEMORY, applying->no_memory);
    count(applying->master, COUNT_DROPPED_LIMIT, applying->over_limit);
    if (applying->no_memory) {
        node->is_incomplete = true;
        node->incomplete_ns = now_ns(applying->master);
    }
}

/* ------------------------------------------------------------------------------- delta --- */

static void apply_delta(struct applying *applying, const struct master_beat *beat,
                        struct master_beat_answer *answer)
{
    struct node *node = applying->node;
    if (node->is_syncing && beat->bundle_count) {
        answer->wants_full_sync = true; /* go on with it, or begin again */
        return;
    }
    for (size_t i = 0; i < beat->bundle_count; i++) {
        const struct master_bundle *bundle = &beat->bundles[i];
        if (bundle->sequence <= node->acked_sequence) {
            continue;
        }
        if (bundle->sequence != node->acked_sequence + 1) {
            node_counted(node, NODE_GAPS, 1);
            node->wants_sync = true;
            break;
        }
        apply_bundle(applying, bundle);
        node->acked_sequence = bundle->sequence;
    }
}

/* --------------------------------------------------------------------------- full sync --- */

static bool sync_begin(struct applying *applying, const struct master_beat *beat)
{
    struct node *node = applying->node;
    if (!epochs_next(applying->master, &node->epochs, false)) {
        return false;
    }
    mutex_lock(&applying->master->members_lock);
    node_publish_view(applying->master, node, true);
    mutex_unlock(&applying->master->members_lock);
    applying->view = view_load(applying->master, applying->index);
    node->is_syncing = true;
    node->sync_id = beat->sync_id;
    node->next_chunk = 0;
    return true;
}

/* What the listing did not name goes out of view; the counts are those of the new epoch. */
static void sync_end(struct applying *applying, const struct master_beat *beat)
{
    struct node *node = applying->node;
    struct master *master = applying->master;
    node->epochs.first = node->epochs.now;
    mutex_lock(&master->members_lock);
    node_publish_view(master, node, true);
    mutex_unlock(&master->members_lock);
    if (sum_of(node->keys) != sum_of(node->sync_keys)) { /* something is left behind */
        atomic_store_explicit(&master->sweep_wanted, true, memory_order_release);
    }
    memcpy(node->keys, node->sync_keys, sizeof(node->keys));
    node->acked_sequence = beat->baseline;
    node->done_sync_id = beat->sync_id;
    node->has_done_sync = true;
    node->is_syncing = false;
    node->wants_sync = false;
    node_counted(node, NODE_SYNCS, 1);
}

/* Whether this chunk is the one to apply; begins a sync with chunk 0. */
static bool sync_is_next(struct applying *applying, const struct master_beat *beat,
                         struct master_beat_answer *answer)
{
    struct node *node = applying->node;
    if (node->has_done_sync && beat->sync_id && beat->sync_id == node->done_sync_id) {
        return false; /* a late repetition */
    }
    if (node->incarnation && beat->baseline < node->acked_sequence) {
        answer->wants_full_sync = true; /* older than what is known: it would undo */
        return false;
    }
    bool is_same = node->is_syncing && node->sync_id == beat->sync_id && beat->sync_id;
    if (is_same) {
        return beat->chunk == node->next_chunk;
    }
    if (beat->chunk != 0 || !sync_begin(applying, beat)) {
        answer->wants_full_sync = true;
        return false;
    }
    memset(node->sync_keys, 0, sizeof(node->sync_keys));
    node->is_incomplete = false;
    return true;
}

static void apply_sync(struct applying *applying, const struct master_beat *beat,
                       struct master_beat_answer *answer)
{
    struct node *node = applying->node;
    if (!sync_is_next(applying, beat, answer)) {
        return;
    }
    for (size_t i = 0; i < beat->bundle_count; i++) {
        apply_bundle(applying, &beat->bundles[i]);
    }
    node->next_chunk++;
    if (beat->is_last) {
        sync_end(applying, beat);
    }
}

/* ------------------------------------------------------------------------------- beats --- */

struct beat_news {
    uint64_t was_total[MASTER_TIERS];
    bool has_changed;
    bool has_revived;
};

static void take_capacities(struct master *master, struct node *node,
                            const struct master_beat *beat, struct beat_news *news)
{
    uint64_t now = now_ns(master);
    bool may_warn = now >= node->warn_capacity_ns;
    for (uint32_t tier = 1; beat->has_capacities && tier < MASTER_TIERS; tier++) {
        uint64_t total = node->capacities[tier].total_bytes;
        news->was_total[tier] = total;
        news->has_changed |= may_warn && total && total != beat->capacities[tier].total_bytes;
    }
    if (news->has_changed) {
        node->warn_capacity_ns = now + WARN_EVERY_NS;
    }
    if (beat->has_capacities) {
        memcpy(node->capacities, beat->capacities, sizeof(node->capacities));
    }
    if (beat->has_key_counts) {
        memcpy(node->key_counts, beat->key_counts, sizeof(node->key_counts));
        node->has_key_counts = true;
    }
}

/* The part under the members' lock. */
static enum umbp_status beat_members(struct master *master, struct node *node,
                                     const struct master_beat *beat, struct beat_news *news)
{
    if (node->state == MASTER_NODE_UNKNOWN) {
        return UMBP_NOT_FOUND;
    }
    if (node->incarnation != beat->incarnation) {
        return UMBP_STALE;
    }
    if (node->state == MASTER_NODE_EXPIRED) {
        /* Its old epoch went out of view with it, and must not come back. */
        if (!node_forget(master, node)) {
            return UMBP_BUSY;
        }
        node->state = MASTER_NODE_ALIVE;
        node->wants_sync = true;
        news->has_revived = true;
    }
    bool is_back = news->has_revived || node->is_lost;
    if (is_back) {
        node->is_lost = false;
        node_publish_view(master, node, true);
    }
    atomic_store_explicit(&node->last_beat_ns, now_ns(master), memory_order_relaxed);
    take_capacities(master, node, beat, news);
    if (is_back || beat->has_capacities) { /* only a report makes up for what was routed */
        put_node_here(master, node);
    }
    return UMBP_OK;
}

/* Reasons to ask for a listing besides a gap. */
static void look_for_reasons(struct master *master, struct node *node,
                             const struct master_beat *beat)
{
    if (node->is_incomplete && now_ns(master) - node->incomplete_ns > RESYNC_AFTER_NS) {
        node->is_incomplete = false;
        node->wants_sync = true;
    }
    /* It holds keys, and never told this master of one: the master is new, the node is not. */
    if (beat->has_key_counts && sum_of(beat->key_counts) && !beat->bundle_count &&
        !beat->is_full_sync && !node->acked_sequence && !node->has_done_sync &&
        !sum_of(node->keys)) {
        node->wants_sync = true;
    }
}

static void beat_apply(struct master *master, struct node *node, const struct master_beat *beat,
                       struct master_beat_answer *answer)
{
    uint32_t index = node_index(master, node);
    struct applying applying = {
        .master = master,
        .node = node,
        .index = index,
        .view = view_load(master, index),
        .stamp = stamp_at(master, now_ns(master)),
        .is_sync = beat->is_full_sync,
        .wants_keys = node->wants_keys,
    };
    if (beat->is_full_sync) {
        apply_sync(&applying, beat, answer);
    } else {
        apply_delta(&applying, beat, answer);
    }
    finish_applying(&applying);
    look_for_reasons(master, node, beat);
    answer->applied = applying.applied;
    answer->acked_sequence = node->acked_sequence;
    answer->wants_full_sync |= node->wants_sync && !node->is_syncing;
    answer->sync_id = node->is_syncing ? node->sync_id : 0;
    answer->next_chunk = node->is_syncing ? node->next_chunk : 0;
}

static void tell_news(const struct master_beat *beat, const struct beat_news *news)
{
    int bytes = (int)beat->id.bytes;
    if (news->has_revived) {
        log_info("node_revived", "id=\"%.*s\"", bytes, beat->id.data);
    }
    for (uint32_t tier = 1; news->has_changed && tier < MASTER_TIERS; tier++) {
        uint64_t total = beat->capacities[tier].total_bytes;
        if (news->was_total[tier] && news->was_total[tier] != total) {
            log_warn("node_capacity_changed", "id=\"%.*s\" tier=%s was=%llu is=%llu", bytes,
                     beat->id.data, master_tier_name((enum master_tier)tier),
                     (unsigned long long)news->was_total[tier], (unsigned long long)total);
        }
    }
}

static enum umbp_status check_beat(const struct master_beat *beat)
{
    size_t events = 0;
    if (!text_is_valid(beat->id, false) || (beat->bundle_count && !beat->bundles)) {
        return UMBP_INVALID_VALUE;
    }
    for (size_t i = 0; i < beat->bundle_count; i++) {
        if (beat->bundles[i].count > MASTER_BEAT_EVENTS_MAX - events) {
            return UMBP_LIMIT;
        }
        events += beat->bundles[i].count;
    }
    return UMBP_OK;
}

enum umbp_status master_beat(struct master *master, const struct master_beat *beat,
                             struct master_beat_answer *answer_out)
{
    struct beat_news news = {0};
    enum umbp_status status = check_beat(beat);
    if (status != UMBP_OK) {
        return status;
    }
    struct node *node = node_lock_by_id(master, beat->id);
    if (!node) {
        return UMBP_NOT_FOUND;
    }
    mutex_lock(&master->members_lock);
    status = beat_members(master, node, beat, &news);
    struct master_beat_answer answer = {.node = node->handle};
    mutex_unlock(&master->members_lock);
    if (status == UMBP_OK) {
        beat_apply(master, node, beat, &answer);
    }
    mutex_unlock(&node->lock);
    if (status == UMBP_OK) {
        tell_news(beat, &news);
        *answer_out = answer;
    }
    return status;
}
