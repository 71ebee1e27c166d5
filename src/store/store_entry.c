/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happens to one entry: it is published, gets and loses its DRAM block, gets and loses its SSD
 * location, and goes. Everything here is a short step under the shard's lock; the callers bring the
 * policy (when) and the bytes (what).
 *
 *        publish                    copier                   evict
 *   --> [DRAM, dirty] ----------> [DRAM + SSD, settled] ---------> [SSD] --promote--> [DRAM + SSD]
 *           | evict (uncopied)        | reclaim                      | reclaim, corrupt
 *           v                         v                              v
 *         gone                      [DRAM, settled]                gone
 */
#include <string.h>

#include "store/store_priv.h"

void fill_statuses(enum umbp_status *statuses, size_t count, enum umbp_status status)
{
    for (size_t i = 0; i < count; i++) {
        statuses[i] = status;
    }
}

uint64_t store_deadline(const struct store *store)
{
    return clock_deadline_ns(store->clock, store->options.op_timeout_ms);
}

bool entry_is_dirty(const struct entry *entry)
{
    return (entry->flags & (ENTRY_LINKED | ENTRY_LISTED | ENTRY_SETTLED)) ==
           (ENTRY_LINKED | ENTRY_LISTED);
}

static void leave_list(struct store *store, struct shard *shard, uint32_t handle, bool evicted)
{
    struct entry *entry = index_entry(shard, handle);
    if (entry_is_dirty(entry)) {
        shard->dirty--;
    }
    policy_remove(store, shard, handle, evicted);
    events_record(store, entry, STORE_TIER_DRAM, false);
}

/* The index's own reference goes with the link. `tomb` is the generation of the tombstone that
 * whoever is writing the entry to the disk now has to put behind it; 0 for none. */
static void let_go(struct store *store, struct shard *shard, uint32_t handle, uint64_t tomb,
                   struct dram_block *block_out)
{
    struct entry *entry = index_entry(shard, handle);
    index_unlink(shard, handle);
    entry->stamp = tomb;
    index_unref_locked(store, shard, entry, block_out);
}

void entry_drop_dram(struct store *store, struct shard *shard, uint32_t handle, bool evicted,
                     struct dram_block *block_out)
{
    struct entry *entry = index_entry(shard, handle);
    struct dram_block none = {0};

    ASSERT(index_is_unpinned(entry) && (entry->flags & ENTRY_LISTED));
    if (evicted) {
        shard->counters.evictions_dram++;
        if (store->copies && entry_is_dirty(entry)) {
            shard->counters.evicted_uncopied++;
        }
    }
    leave_list(store, shard, handle, evicted);
    *block_out = entry->block;
    entry->block = none;
    if (!entry->ssd.segment) {
        let_go(store, shard, handle, 0, &none);
    }
}

static void lose_location(struct store *store, struct entry *entry)
{
    recover_mark_dead(store, entry->ssd, entry->bytes, entry->key_bytes);
    events_record(store, entry, STORE_TIER_SSD, false);
    entry->ssd = (struct ssd_location){0};
    entry->flags &= (uint8_t)~ENTRY_REFERENCED;
}

void entry_drop_ssd(struct store *store, struct shard *shard, uint32_t handle)
{
    struct entry *entry = index_entry(shard, handle);
    struct dram_block none = {0};

    lose_location(store, entry);
    if (!(entry->flags & ENTRY_LISTED)) {
        let_go(store, shard, handle, 0, &none);
    }
}

void entry_bury(struct shard *shard, struct entry *entry)
{
    uint32_t handle = entry->prev;
    entry->next = 0;
    if (shard->tomb_newest) {
        index_entry(shard, shard->tomb_newest)->next = handle;
    } else {
        shard->tomb_oldest = handle;
    }
    shard->tomb_newest = handle;
}

void entry_remove(struct store *store, struct shard *shard, uint32_t handle, bool bury,
                  struct dram_block *block_out)
{
    struct entry *entry = index_entry(shard, handle);
    uint64_t tomb = bury && store->copies ? store_generation(store) : 0;

    *block_out = (struct dram_block){0};
    if (entry->flags & ENTRY_LISTED) {
        leave_list(store, shard, handle, false);
    }
    if (entry->ssd.segment) {
        lose_location(store, entry);
    }
    /* A flush has to wait for this tombstone, also while it is another's to write. */
    if (tomb && (entry->flags & (ENTRY_ON_DISK | ENTRY_COPYING))) {
        shard->tombs_made++;
    }
    /* What is being written now is buried by its writer, behind the record. */
    if (tomb && (entry->flags & ENTRY_ON_DISK) && !(entry->flags & ENTRY_COPYING)) {
        index_unlink(shard, handle);
        entry->stamp = tomb;
        if (index_is_unpinned(entry)) {
            *block_out = entry->block;
            entry->block = (struct dram_block){0};
        }
        entry_bury(shard, entry);
        return;
    }
    let_go(store, shard, handle, tomb, block_out);
}

/* ------------------------------------------------------------------------------ publish -- */

enum umbp_status publish(struct store *store, struct put_value *value,
                         struct copy_ticket *ticket_out)
{
    struct shard *shard = index_shard(store, value->print);
    enum umbp_status status = UMBP_OK;

    mutex_lock(&shard->lock);
    uint32_t handle = index_find(shard, value->print, value->key);
    if (handle) {
        policy_access(store, shard, handle);
        shard->counters.puts_existing++;
        status = UMBP_ALREADY_EXISTS;
        goto unlock;
    }
    handle = index_new(store, shard, value->print, value->key);
    if (!handle) {
        status = UMBP_NO_MEMORY;
        goto unlock;
    }
    struct entry *entry = index_entry(shard, handle);
    entry->bytes = value->bytes;
    entry->depth = value->depth;
    if (store->options.dram_checksum) {
        entry->crc = value->crc;
        entry->flags |= ENTRY_HAS_CRC;
    }
    if (!index_link(store, shard, handle)) {
        index_free(store, shard, handle);
        status = UMBP_NO_MEMORY;
        goto unlock;
    }
    entry->block = value->block;
    value->block = (struct dram_block){0};
    policy_insert(store, shard, handle);
    if (store->copies) {
        shard->dirty++;
    } else {
        entry->flags |= ENTRY_SETTLED;
    }
    shard->counters.puts_stored++;
    shard->counters.bytes_in += entry->bytes;
    events_record(store, entry, STORE_TIER_DRAM, true);
    *ticket_out = (struct copy_ticket){entry->generation, shard->index, handle};
unlock:
    mutex_unlock(&shard->lock);
    dram_free(store->dram, &value->block);
    return status;
}

bool attach_block(struct store *store, struct entry *entry, uint64_t generation, uint32_t crc,
                  const struct dram_block *block)
{
    struct shard *shard = index_shard(store, entry->print);
    bool fits = false;

    mutex_lock(&shard->lock);
    struct umbp_key key = {entry->key, entry->key_bytes};
    uint32_t handle = entry->flags & ENTRY_LINKED ? index_find(shard, entry->print, key) : 0;
    if (handle && entry->generation == generation && !(entry->flags & ENTRY_LISTED)) {
        entry->block = *block;
        entry->crc = crc;
        entry->flags |= ENTRY_HAS_CRC | ENTRY_SETTLED;
        policy_insert(store, shard, handle);
        shard->counters.promotions++;
        events_record(store, entry, STORE_TIER_DRAM, true);
        fits = true;
    }
    mutex_unlock(&shard->lock);
    return fits;
}

/* ---------------------------------------------------------------------------- copy list -- */

void copy_list_init(struct copy_list *list, struct store *store, size_t values)
{
    list->store = store;
    list->alone = values == 1;
    list->plain_bytes = 0;
    list->count = 0;
}

void copy_list_run(struct copy_list *list)
{
    if (list->count) {
        copy_pool_run(list->store->copy_pool, list->items, list->count);
        list->count = 0;
    }
}

void copy_list_add(struct copy_list *list, void *to, const void *from, size_t bytes)
{
    if (list->alone) {
        if (bytes <= list->plain_bytes) {
            copy_bytes_plain(to, from, bytes);
        } else {
            copy_bytes(to, from, bytes);
        }
        return;
    }
    if (list->count == COPY_LIST_ITEMS) {
        copy_list_run(list);
    }
    list->items[list->count++] = (struct copy_item){to, from, bytes};
}
