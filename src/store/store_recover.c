/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the log tells at start, and a follower while the leader writes.
 *
 * The rule for every record is the same: the highest generation of a key counts, tombstones
 * included; the same generation at another place is a record that was moved. A follower hears of
 * segments that went; the entries that lay there are dropped in one pass over the index at the end
 * of the refresh.
 */
#include <string.h>

#include "store/store_priv.h"

void recover_generation(struct store *store, uint64_t generation)
{
    uint64_t seen = atomic_load_explicit(&store->generation, memory_order_relaxed);
    while (seen < generation &&
           !atomic_compare_exchange_weak_explicit(&store->generation, &seen, generation,
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
}

/* Under the shard's lock. */
static bool adopt(struct store *store, struct shard *shard, struct fingerprint print,
                  struct umbp_key key, const struct ssd_record_info *info)
{
    uint32_t handle = index_new(store, shard, print, key);
    if (!handle) {
        return false;
    }
    struct entry *entry = index_entry(shard, handle);
    entry->generation = info->generation;
    entry->bytes = info->value_bytes;
    entry->depth = info->depth;
    entry->crc = info->value_crc;
    if (!index_link(store, shard, handle)) {
        index_free(store, shard, handle);
        return false;
    }
    entry->ssd = info->location;
    entry->flags |= ENTRY_SETTLED | ENTRY_HAS_CRC | ENTRY_ON_DISK;
    events_record(store, entry, STORE_TIER_SSD, true);
    return true;
}

/*
 * While ssd_open still runs there is no tier to tell: the dead are noted, and told afterwards. If
 * there is no memory for the note, a segment looks fuller than it is.
 */
void recover_mark_dead(struct store *store, struct ssd_location location, uint64_t value_bytes,
                       uint32_t key_bytes)
{
    struct recover_notes *notes = &store->recover_notes;
    if (store->ssd) {
        ssd_mark_dead(store->ssd, location, value_bytes, key_bytes);
        return;
    }
    if (notes->count == notes->capacity) {
        size_t capacity = notes->capacity ? notes->capacity * 2 : 256;
        struct recover_note *items = mem_realloc(notes->items, capacity * sizeof(*items));
        if (!items) {
            return;
        }
        notes->items = items;
        notes->capacity = capacity;
    }
    notes->items[notes->count++] = (struct recover_note){location, value_bytes, key_bytes};
}

void recover_finish(struct store *store)
{
    struct recover_notes *notes = &store->recover_notes;
    for (size_t i = 0; store->ssd && i < notes->count; i++) {
        ssd_mark_dead(store->ssd, notes->items[i].location, notes->items[i].value_bytes,
                      notes->items[i].key_bytes);
    }
    mem_free(notes->items);
    *notes = (struct recover_notes){0};
}

static void mark_dead(struct store *store, const struct ssd_record_info *info)
{
    recover_mark_dead(store, info->location, info->value_bytes, info->key.bytes);
}

static void recover_record(void *context, const struct ssd_record_info *info)
{
    struct store *store = context;
    struct umbp_key key = {info->key.data, info->key.bytes};
    struct dram_block block = {0};

    if (!store_key_is_valid(key)) {
        return;
    }
    struct fingerprint print = index_print(store, key);
    struct shard *shard = index_shard(store, print);
    recover_generation(store, info->generation);
    mutex_lock(&shard->lock);
    uint32_t handle = index_find(shard, print, key);
    struct entry *entry = handle ? index_entry(shard, handle) : NULL;
    if (entry && entry->generation > info->generation) {
        if (!info->is_tombstone) {
            mark_dead(store, info);
        }
    } else if (entry && entry->generation == info->generation && !info->is_tombstone) {
        if (entry->ssd.segment) {
            recover_mark_dead(store, entry->ssd, entry->bytes, entry->key_bytes);
        } else {
            events_record(store, entry, STORE_TIER_SSD, true);
        }
        entry->ssd = info->location;
    } else {
        if (entry) {
            entry_remove(store, shard, handle, false, &block);
        }
        if (!info->is_tombstone && !adopt(store, shard, print, key, info)) {
            mark_dead(store, info);
        }
    }
    mutex_unlock(&shard->lock);
    dram_free(store->dram, &block);
}

/* ----------------------------------------------------------------------------- followers - */

#define GONE_MAX 256u

struct refresh {
    struct store *store;
    uint32_t gone[GONE_MAX];
    uint32_t gone_count;
};

static void drop_gone(struct refresh *refresh)
{
    struct store *store = refresh->store;
    for (uint32_t s = 0; s < store->shard_count && refresh->gone_count; s++) {
        struct shard *shard = &store->shards[s];
        uint64_t cursor = 0;
        uint32_t handle;
        mutex_lock(&shard->lock);
        while ((handle = index_walk(shard, &cursor))) {
            uint32_t segment = index_entry(shard, handle)->ssd.segment;
            for (uint32_t i = 0; segment && i < refresh->gone_count; i++) {
                if (refresh->gone[i] == segment) {
                    entry_drop_ssd(store, shard, handle);
                    break;
                }
            }
        }
        mutex_unlock(&shard->lock);
    }
    refresh->gone_count = 0;
}

static void refresh_record(void *context, const struct ssd_record_info *info)
{
    struct refresh *refresh = context;
    recover_record(refresh->store, info);
}

static void refresh_gone(void *context, uint32_t segment)
{
    struct refresh *refresh = context;
    if (refresh->gone_count == GONE_MAX) {
        drop_gone(refresh);
    }
    refresh->gone[refresh->gone_count++] = segment;
}

bool follower_refresh(struct store *store, uint32_t min_age_ms)
{
    uint64_t now_ns = clock_now_ns(store->clock);
    uint64_t last_ns = atomic_load_explicit(&store->refreshed_ns, memory_order_relaxed);

    if (!store->ssd || now_ns - last_ns < min_age_ms * NS_PER_MS ||
        atomic_exchange_explicit(&store->refreshing, true, memory_order_acquire)) {
        return false;
    }
    struct refresh refresh = {.store = store};
    struct ssd_visitor visitor = {
        .record = refresh_record, .segment_gone = refresh_gone, .context = &refresh};
    enum umbp_status status = ssd_refresh(store->ssd, &visitor, store_deadline(store));
    drop_gone(&refresh);
    atomic_store_explicit(&store->refreshed_ns, clock_now_ns(store->clock), memory_order_relaxed);
    atomic_store_explicit(&store->refreshing, false, memory_order_release);
    uint64_t held_back = 0;
    if (status != UMBP_OK && log_limit_pass(&store->log_copy_failed, 60000, &held_back)) {
        log_warn("follower_refresh_failed", "status=%s", umbp_status_name(status));
    }
    return true;
}

struct ssd_visitor recover_visitor(struct store *store)
{
    return (struct ssd_visitor){.record = recover_record, .context = store};
}
