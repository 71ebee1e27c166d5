/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reclaiming SSD space, a whole segment at a time.
 *
 * The log proposes the segment whose records were of use longest ago. Its live records are then
 * given up, except those that earned another round: read from the SSD since they were written, or
 * in DRAM now (so used lately, and about to need their copy). These are moved to the head of the
 * log, at most half a segment's worth, so that each round frees at least half. This is CLOCK over
 * segments (second chance), with the log's order as the clock. Tombstones move while an older
 * segment exists.
 *
 * One reclaimer at a time; the others wait for it, bounded, and try their append again.
 */
#include <string.h>
#include <sys/uio.h>

#include "store/store_priv.h"

#define MOVE_BYTES (16u * 1024u * 1024u)
#define MOVE_MAX 64u
#define IO_PATIENCE 3 /* a segment that can't be read so often is given up with all it held */

/* What one round needs. The store has one, for the one reclaimer. */
struct mover {
    struct store *store;
    uint64_t deadline_ns;
    uint32_t segment;
    bool has_older;
    uint64_t budget;      /* bytes on the disk that may still move */
    uint32_t io_failures; /* in a row */
    enum umbp_status status;

    uint8_t *buffer;
    uint64_t buffer_used;
    uint32_t count;
    struct {
        struct entry *entry; /* pinned; NULL for a tombstone */
        struct ssd_location from;
        uint16_t key_bytes;
        uint8_t key[UMBP_KEY_BYTES_MAX];
    } items[MOVE_MAX];
    struct ssd_append appends[MOVE_MAX];
    struct ssd_read reads[MOVE_MAX];
    struct ssd_range ranges[MOVE_MAX];
    struct iovec iovs[MOVE_MAX];
};

static bool same_place(struct ssd_location a, struct ssd_location b)
{
    return a.segment == b.segment && a.block == b.block;
}

/*
 * End the pin and the ENTRY_COPYING of a collected entry, whose record lies anew at `append`, or
 * could not be moved (NULL). A key that was removed meanwhile left its tombstone to us, so that it
 * lies behind the moved record: followers read in the order of the log.
 */
static void settle(struct store *store, struct entry *entry, struct ssd_location from,
                   const struct ssd_append *append)
{
    struct shard *shard = index_shard(store, entry->print);
    struct umbp_key key = {entry->key, entry->key_bytes};
    struct dram_block block = {0};
    bool moved = append && append->status == UMBP_OK;
    bool buried = false;

    mutex_lock(&shard->lock);
    entry->flags &= (uint8_t)~ENTRY_COPYING;
    shard->copying--;
    bool placed = (entry->flags & ENTRY_LINKED) && same_place(entry->ssd, from);
    if (moved && placed && ssd_location_is_live(store->ssd, append->location)) {
        ssd_mark_dead(store->ssd, from, entry->bytes, entry->key_bytes);
        entry->ssd = append->location;
        entry->flags &= (uint8_t)~ENTRY_REFERENCED;
        atomic_fetch_add_explicit(&store->copied.relocated, 1, memory_order_relaxed);
    } else {
        if (moved) {
            ssd_mark_dead(store->ssd, append->location, entry->bytes, entry->key_bytes);
        }
        if (placed) {
            entry_drop_ssd(store, shard, index_find(shard, entry->print, key));
            shard->counters.evictions_ssd++;
            atomic_fetch_add_explicit(&store->copied.dropped_by_reclaim, 1, memory_order_relaxed);
        }
    }
    if (!(entry->flags & ENTRY_LINKED) && entry->stamp) {
        entry_bury(shard, entry);
        buried = true;
    } else {
        index_unref_locked(store, shard, entry, &block);
    }
    mutex_unlock(&shard->lock);
    dram_free(store->dram, &block);
    if (buried) {
        copy_wake(store, true, false);
    }
}

/* Read what was collected, write it anew, settle. */
static void move_collected(struct mover *mover)
{
    struct store *store = mover->store;
    uint32_t reads = 0;

    for (uint32_t i = 0; i < mover->count; i++) {
        if (mover->items[i].entry) {
            mover->reads[reads++] = mover->reads[i];
        }
    }
    if (reads) {
        (void)!ssd_read(store->ssd, mover->reads, reads, NULL, NULL, mover->deadline_ns);
    }
    uint32_t appends = 0;
    uint32_t which[MOVE_MAX];
    for (uint32_t i = 0, r = 0; i < mover->count; i++) {
        if (mover->items[i].entry) {
            const struct ssd_read *read = &mover->reads[r++];
            if (read->status != UMBP_OK) {
                continue;
            }
            mover->appends[i].has_crc = true;
            mover->appends[i].value_crc = read->value_crc;
        }
        mover->appends[appends] = mover->appends[i];
        which[appends++] = i;
    }
    if (appends) {
        (void)!ssd_append(store->ssd, mover->appends, appends, true, mover->deadline_ns);
    }
    for (uint32_t i = 0, a = 0; i < mover->count; i++) {
        const struct ssd_append *append = NULL;
        if (a < appends && which[a] == i) {
            append = &mover->appends[a++];
        }
        if (mover->items[i].entry) {
            settle(store, mover->items[i].entry, mover->items[i].from, append);
        } else if (append && append->status != UMBP_OK) {
            mover->status = append->status; /* a tombstone must not be lost */
        }
    }
    mover->count = 0;
    mover->buffer_used = 0;
}

static void collect_tombstone(struct mover *mover, const struct ssd_record_info *info)
{
    if (!mover->has_older) {
        return;
    }
    if (mover->count == MOVE_MAX) {
        move_collected(mover);
    }
    uint32_t i = mover->count++;
    mover->items[i].entry = NULL;
    mover->items[i].key_bytes = (uint16_t)info->key.bytes;
    memcpy(mover->items[i].key, info->key.data, info->key.bytes);
    mover->appends[i] = (struct ssd_append){
        .key = {mover->items[i].key, info->key.bytes},
        .generation = info->generation,
        .is_tombstone = true,
        .status = UMBP_TIMEOUT,
    };
}

static void collect_value(struct mover *mover, struct entry *entry,
                          const struct ssd_record_info *info)
{
    if (mover->count == MOVE_MAX || mover->buffer_used + info->value_bytes > MOVE_BYTES) {
        move_collected(mover);
    }
    uint32_t i = mover->count++;
    mover->items[i].entry = entry;
    mover->items[i].from = info->location;
    mover->ranges[i] = (struct ssd_range){mover->buffer + mover->buffer_used, info->value_bytes, 0};
    mover->iovs[i] = (struct iovec){mover->buffer + mover->buffer_used, info->value_bytes};
    mover->buffer_used += align_up(info->value_bytes, SSD_BLOCK_BYTES);
    mover->reads[i] = (struct ssd_read){
        .key = {entry->key, entry->key_bytes},
        .generation = info->generation,
        .value_bytes = info->value_bytes,
        .location = info->location,
        .ranges = &mover->ranges[i],
        .range_count = info->value_bytes ? 1 : 0,
        .status = UMBP_TIMEOUT,
    };
    mover->appends[i] = (struct ssd_append){
        .key = {entry->key, entry->key_bytes},
        .generation = info->generation,
        .value_bytes = info->value_bytes,
        .depth = info->depth,
        .iov = &mover->iovs[i],
        .iov_count = info->value_bytes ? 1 : 0,
        .status = UMBP_TIMEOUT,
    };
}

/* One record of the victim: still wanted? Then pinned and collected, or given up. */
static void visit_record(void *context, const struct ssd_record_info *info)
{
    struct mover *mover = context;
    struct store *store = mover->store;

    if (info->is_tombstone) {
        collect_tombstone(mover, info);
        return;
    }
    struct umbp_key key = {info->key.data, info->key.bytes};
    struct fingerprint print = index_print(store, key);
    struct shard *shard = index_shard(store, print);
    struct entry *keep = NULL;

    mutex_lock(&shard->lock);
    uint32_t handle = index_find(shard, print, key);
    struct entry *entry = handle ? index_entry(shard, handle) : NULL;
    if (entry && same_place(entry->ssd, info->location)) {
        bool earned = entry->flags & (ENTRY_REFERENCED | ENTRY_LISTED);
        uint64_t bytes = SSD_BLOCK_BYTES + align_up(info->value_bytes, SSD_BLOCK_BYTES);
        if (entry->flags & ENTRY_COPYING) {
            /* Collected already: a damaged footer's segment may be visited twice. */
        } else if (earned && bytes <= mover->budget && info->value_bytes <= MOVE_BYTES) {
            mover->budget -= bytes;
            index_ref(entry);
            entry->flags |= ENTRY_COPYING;
            shard->copying++;
            keep = entry;
        } else {
            entry_drop_ssd(store, shard, handle);
            shard->counters.evictions_ssd++;
            atomic_fetch_add_explicit(&store->copied.dropped_by_reclaim, 1, memory_order_relaxed);
        }
    }
    mutex_unlock(&shard->lock);
    if (keep) {
        collect_value(mover, keep, info);
    }
}

/* The segment can't be read: find what lay there through the index, and give it up. */
static void drop_whole_segment(struct store *store, uint32_t segment)
{
    for (uint32_t s = 0; s < store->shard_count; s++) {
        struct shard *shard = &store->shards[s];
        uint64_t cursor = 0;
        uint32_t handle;
        mutex_lock(&shard->lock);
        while ((handle = index_walk(shard, &cursor))) {
            if (index_entry(shard, handle)->ssd.segment == segment) {
                entry_drop_ssd(store, shard, handle);
                shard->counters.evictions_ssd++;
            }
        }
        mutex_unlock(&shard->lock);
    }
}

static enum umbp_status reclaim_segment(struct mover *mover, uint32_t segment)
{
    struct store *store = mover->store;
    struct ssd_visitor visitor = {.record = visit_record, .context = mover};

    mover->segment = segment;
    mover->has_older = ssd_has_older(store->ssd, segment);
    /* Half a segment of the usual size, so that each round frees the other half. */
    mover->budget = store->options.ssd.segment_bytes / 2;
    mover->status = UMBP_OK;
    enum umbp_status status =
        ssd_segment_records(store->ssd, segment, &visitor, mover->deadline_ns);
    move_collected(mover);
    if (status == UMBP_OK) {
        status = mover->status;
    }
    if (status == UMBP_CORRUPT || (status == UMBP_IO && ++mover->io_failures > IO_PATIENCE)) {
        drop_whole_segment(store, segment);
    } else if (status != UMBP_OK) {
        ssd_victim_return(store->ssd, segment);
        return status;
    }
    mover->io_failures = 0;
    ssd_segment_release(store->ssd, segment);
    atomic_fetch_add_explicit(&store->copied.reclaimed_segments, 1, memory_order_relaxed);
    return UMBP_OK;
}

/* ---------------------------------------------------------------------------------- run -- */

static bool above(const struct store *store, double share)
{
    uint64_t used = 0;
    uint64_t capacity = 0;
    ssd_space(store->ssd, &used, &capacity);
    return (double)used > (double)capacity * share;
}

bool reclaim_is_due(const struct store *store)
{
    return above(store, store->options.ssd_high_watermark);
}

/* Become the one reclaimer. False: another one was, and has finished (or the deadline is past). */
static bool begin(struct store *store, bool wait, uint64_t deadline_ns)
{
    struct copy_queue *queue = &store->queue;
    mutex_lock(&queue->lock);
    bool mine = !queue->reclaiming;
    if (mine) {
        queue->reclaiming = true;
    }
    while (!mine && wait && queue->reclaiming &&
           condition_wait(&queue->done, &queue->lock, deadline_ns)) {
    }
    mutex_unlock(&queue->lock);
    return mine;
}

static void end(struct store *store)
{
    struct copy_queue *queue = &store->queue;
    mutex_lock(&queue->lock);
    queue->reclaiming = false;
    condition_broadcast(&queue->done);
    mutex_unlock(&queue->lock);
}

enum umbp_status reclaim_run(struct store *store, bool force, uint64_t deadline_ns)
{
    struct mover *mover = store->mover;
    enum umbp_status status = UMBP_OK;
    bool any = false;

    if (!begin(store, force, deadline_ns)) {
        return UMBP_OK; /* another one made room */
    }
    mover->deadline_ns = deadline_ns;
    while (status == UMBP_OK && clock_left_ns(store->clock, deadline_ns) > 0 &&
           ((force && !any) || above(store, store->options.ssd_low_watermark))) {
        uint32_t segment;
        status = ssd_victim(store->ssd, force && !any, &segment, deadline_ns);
        if (status == UMBP_OK) {
            status = reclaim_segment(mover, segment);
            any |= status == UMBP_OK;
        }
    }
    end(store);
    if (any) {
        return UMBP_OK;
    }
    return status == UMBP_NOT_FOUND ? UMBP_NO_SPACE : status;
}

enum umbp_status reclaim_create(struct store *store)
{
    struct mover *mover = mem_zalloc(sizeof(*mover));
    if (!mover) {
        return UMBP_NO_MEMORY;
    }
    mover->store = store;
    mover->buffer = mem_map(MOVE_BYTES); /* untouched until something moves */
    if (!mover->buffer) {
        mem_free(mover);
        return UMBP_NO_MEMORY;
    }
    store->mover = mover;
    return UMBP_OK;
}

void reclaim_destroy(struct store *store)
{
    if (store->mover) {
        mem_unmap(store->mover->buffer, MOVE_BYTES);
        mem_free(store->mover);
        store->mover = NULL;
    }
}
