/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Get: pin, copy, unpin. A batch goes through in chunks. Each chunk looks every key up, pins what
 * is there, copies the DRAM hits on all copy threads, reads the SSD hits in one go (many in
 * flight), and gives the pins back. Nothing is locked meanwhile.
 *
 * What was lost between look and read (its segment reclaimed) is looked up again; what fails its
 * checksum is dropped from the index, counted, and answered as UMBP_CORRUPT, which is a miss to the
 * application.
 */
#include <string.h>

#include "store/store_priv.h"

#define GET_CHUNK 128u
#define STALE_TRIES 3
#define ANY_SIZE UINT64_MAX

_Static_assert(sizeof(struct umbp_range) == sizeof(struct ssd_range) &&
                   offsetof(struct umbp_range, data) == offsetof(struct ssd_range, to) &&
                   offsetof(struct umbp_range, bytes) == offsetof(struct ssd_range, bytes) &&
                   offsetof(struct umbp_range, offset) == offsetof(struct ssd_range, offset),
               "a caller's ranges are handed to the SSD tier as they are");

/* A pinned hit. */
struct hit {
    struct entry *entry;
    uint64_t generation;
    struct dram_block block;
    uint32_t item;
    uint32_t crc;
    bool has_crc;
};

struct get_chunk {
    struct store *store;
    uint64_t deadline_ns;
    const struct umbp_range_item *items;
    enum umbp_status *statuses;
    struct fingerprint prints[GET_CHUNK];
    struct hit dram[GET_CHUNK];
    struct hit ssd[GET_CHUNK];
    struct ssd_read reads[GET_CHUNK];
    uint32_t dram_count;
    uint32_t ssd_count;
    struct copy_list copies;
};

/* -------------------------------------------------------------------------------- look --- */

static enum umbp_status check_ranges(const struct umbp_range_item *item, uint64_t bytes)
{
    for (size_t r = 0; r < item->range_count; r++) {
        const struct umbp_range *range = &item->ranges[r];
        if (!range->bytes || range->offset > bytes || range->bytes > bytes - range->offset) {
            return UMBP_INVALID_RANGE;
        }
    }
    return UMBP_OK;
}

enum umbp_status store_check_get(const struct umbp_range_item *item)
{
    if (!store_key_is_valid(item->key)) {
        return UMBP_INVALID_KEY;
    }
    if (item->range_count > UMBP_RANGES_MAX) {
        return UMBP_LIMIT;
    }
    if (item->range_count && !item->ranges) {
        return UMBP_INVALID_VALUE;
    }
    for (size_t r = 0; r < item->range_count; r++) {
        if (!item->ranges[r].data) {
            return UMBP_INVALID_VALUE;
        }
    }
    return UMBP_OK;
}

static uint64_t bytes_asked(const struct umbp_range_item *item)
{
    uint64_t sum = 0;
    for (size_t r = 0; r < item->range_count; r++) {
        sum += item->ranges[r].bytes;
    }
    return sum;
}

/*
 * A small value that is got alone is copied with plain stores: whoever asked for it reads it next,
 * and finds it in the cache. 4 KiB with the reading, streamed and plain: 740,000 and 1,120,000 a
 * second; without it, into memory that no cache has, about the same. (A put streams: nobody reads
 * its target soon.)
 */
#define GET_PLAIN_BYTES ((size_t)8192)
#define VALUE_LINES_AHEAD 2u /* more cost more than they bring */

/* Under the shard's lock: pin what was found, or say why not. UMBP_OK: it is among the hits. */
static enum umbp_status pin_hit(struct get_chunk *chunk, struct shard *shard, uint32_t handle,
                                uint32_t index)
{
    const struct umbp_range_item *item = &chunk->items[index];
    struct entry *entry = index_entry(shard, handle);

    if (item->object_bytes != ANY_SIZE && item->object_bytes != entry->bytes) {
        shard->counters.size_mismatches++;
        return UMBP_SIZE_MISMATCH;
    }
    enum umbp_status status = check_ranges(item, entry->bytes);
    if (status != UMBP_OK) {
        return status;
    }
    struct hit hit = {
        .entry = entry,
        .generation = entry->generation,
        .block = entry->block,
        .item = index,
        .crc = entry->crc,
        .has_crc = entry->flags & ENTRY_HAS_CRC,
    };
    index_ref(entry);
    if (entry->flags & ENTRY_LISTED) {
        /* The value's first lines come while the policy waits for the entry's neighbours. */
        const char *value = dram_piece_at(chunk->store->dram, &entry->block, 0, NULL).data;
        for (size_t i = 0; i < VALUE_LINES_AHEAD; i++) {
            __builtin_prefetch(value + i * CACHE_LINE);
        }
        policy_access(chunk->store, shard, handle);
        shard->counters.hits_dram++;
        shard->counters.bytes_dram_out += bytes_asked(item);
        chunk->dram[chunk->dram_count++] = hit;
        return UMBP_OK;
    }
    chunk->reads[chunk->ssd_count] = (struct ssd_read){
        .key = {entry->key, entry->key_bytes},
        .generation = entry->generation,
        .value_bytes = entry->bytes,
        .location = entry->ssd,
        .ranges = (const struct ssd_range *)(const void *)item->ranges,
        .range_count = (uint32_t)item->range_count,
    };
    chunk->ssd[chunk->ssd_count++] = hit;
    return UMBP_OK;
}

static void look_up(struct get_chunk *chunk, uint32_t index, bool count_miss)
{
    struct fingerprint print = chunk->prints[index];
    struct shard *shard = index_shard(chunk->store, print);

    mutex_lock(&shard->lock);
    uint32_t handle = index_find(shard, print, chunk->items[index].key);
    if (handle) {
        chunk->statuses[index] = pin_hit(chunk, shard, handle, index);
    } else {
        chunk->statuses[index] = UMBP_NOT_FOUND;
        shard->counters.misses += count_miss;
    }
    mutex_unlock(&shard->lock);
}

/* -------------------------------------------------------------------------------- DRAM --- */

static void copy_out(struct get_chunk *chunk, const struct hit *hit)
{
    const struct umbp_range_item *item = &chunk->items[hit->item];
    uint32_t cursor = 0; /* ranges in order make one walk */

    for (size_t r = 0; r < item->range_count; r++) {
        uint64_t done = 0;
        while (done < item->ranges[r].bytes) {
            struct dram_piece piece = dram_piece_at(chunk->store->dram, &hit->block,
                                                    item->ranges[r].offset + done, &cursor);
            uint64_t bytes = u64_min(piece.bytes, item->ranges[r].bytes - done);
            copy_list_add(&chunk->copies, (char *)item->ranges[r].data + done, piece.data, bytes);
            done += bytes;
        }
    }
}

static bool block_is_intact(struct store *store, const struct dram_block *block, uint64_t bytes,
                            uint32_t expected)
{
    uint32_t crc = 0;
    uint32_t cursor = 0;
    for (uint64_t done = 0; done < bytes;) {
        struct dram_piece piece = dram_piece_at(store->dram, block, done, &cursor);
        uint64_t part = u64_min(piece.bytes, bytes - done);
        crc = crc32c(crc, piece.data, part);
        done += part;
    }
    return crc == expected;
}

static bool same_place(struct ssd_location a, struct ssd_location b)
{
    return a.segment == b.segment && a.block == b.block;
}

/* The bytes in memory failed their check: the key goes, and its SSD copy with it. */
static void drop_corrupt_dram(struct store *store, struct entry *entry, uint64_t generation)
{
    struct shard *shard = index_shard(store, entry->print);
    struct dram_block block = {0};
    uint64_t held_back = 0;

    mutex_lock(&shard->lock);
    shard->counters.corrupt++;
    if (entry->flags & ENTRY_LINKED) {
        struct umbp_key key = {entry->key, entry->key_bytes};
        entry_remove(store, shard, index_find(shard, entry->print, key), true, &block);
    }
    mutex_unlock(&shard->lock);
    dram_free(store->dram, &block);
    copy_wake(store, true, false);
    if (log_limit_pass(&store->log_corrupt, 60000, &held_back)) {
        log_error("memory_corrupt", "generation=%llu suppressed=%llu",
                  (unsigned long long)generation, (unsigned long long)held_back);
    }
}

/*
 * The record could not be had from where the index says it is: corrupt (counted), unreadable, or
 * its segment gone. If the index still says so, it is wrong: what it says becomes a miss, and a
 * later put stores the value again. (A record that was only moved is found at its new place by the
 * next look.)
 */
static void drop_record(struct store *store, const struct hit *hit, const struct ssd_read *read)
{
    struct entry *entry = hit->entry;
    struct shard *shard = index_shard(store, entry->print);
    struct dram_block block = {0};
    bool corrupt = read->status == UMBP_CORRUPT;

    mutex_lock(&shard->lock);
    shard->counters.corrupt += corrupt;
    if ((entry->flags & ENTRY_LINKED) && same_place(entry->ssd, read->location)) {
        struct umbp_key key = {entry->key, entry->key_bytes};
        uint32_t handle = index_find(shard, entry->print, key);
        if (entry->flags & (ENTRY_LISTED | ENTRY_COPYING)) {
            bool in_dram = entry->flags & ENTRY_LISTED;
            entry_drop_ssd(store, shard, handle);
            if (in_dram && store->copies && !entry_is_dirty(entry)) {
                entry->flags &= (uint8_t)~ENTRY_SETTLED; /* to be written again */
                shard->dirty++;
            }
        } else {
            entry_remove(store, shard, handle, corrupt, &block);
        }
    }
    mutex_unlock(&shard->lock);
    dram_free(store->dram, &block);
    if (corrupt) {
        copy_wake(store, true, false);
    }
}

static void finish_dram(struct get_chunk *chunk)
{
    struct store *store = chunk->store;

    copy_list_init(&chunk->copies, store, chunk->dram_count);
    chunk->copies.plain_bytes = GET_PLAIN_BYTES;
    for (uint32_t i = 0; i < chunk->dram_count; i++) {
        copy_out(chunk, &chunk->dram[i]);
    }
    copy_list_run(&chunk->copies);
    for (uint32_t i = 0; i < chunk->dram_count; i++) {
        struct hit *hit = &chunk->dram[i];
        if (store->options.dram_checksum && hit->has_crc &&
            !block_is_intact(store, &hit->block, hit->entry->bytes, hit->crc)) {
            chunk->statuses[hit->item] = UMBP_CORRUPT;
            drop_corrupt_dram(store, hit->entry, hit->generation);
        }
        index_unref(store, hit->entry);
    }
    chunk->dram_count = 0;
}

/* --------------------------------------------------------------------------------- SSD --- */

/* Copy, and say whether what was copied is what was read from the disk: the caller's buffer may be
 * the target of another item too, or be written by a thread that should not. */
static bool copy_checked(struct store *store, const struct dram_block *block, const char *from,
                         uint64_t bytes, uint32_t crc)
{
    uint32_t sum = 0;
    uint32_t cursor = 0;
    for (uint64_t done = 0; done < bytes;) {
        struct dram_piece piece = dram_piece_at(store->dram, block, done, &cursor);
        uint64_t part = u64_min(piece.bytes, bytes - done);
        sum = copy_bytes_crc(piece.data, from + done, part, sum);
        done += part;
    }
    return sum == crc;
}

/*
 * The whole value lies in the caller's buffer: keep a copy in DRAM, if there is room, or if values
 * can go that the SSD has too. A read neither waits for room nor costs an uncopied value its place.
 */
static void promote(struct store *store, const struct umbp_range_item *item, const struct hit *hit,
                    uint32_t crc)
{
    struct dram_block block;
    uint64_t bytes = hit->entry->bytes;
    uint64_t need = dram_footprint(bytes);

    if (item->range_count != 1 || item->ranges[0].bytes != bytes || item->ranges[0].offset ||
        need > dram_bytes_total(store->dram)) {
        return;
    }
    uint64_t free_bytes = dram_bytes_free(store->dram);
    if (need > free_bytes && evict_clean_bytes(store, need - free_bytes) == 0) {
        return;
    }
    if (dram_alloc(store->dram, bytes, &block) != UMBP_OK) {
        return;
    }
    if (!copy_checked(store, &block, item->ranges[0].data, bytes, crc) ||
        !attach_block(store, hit->entry, hit->generation, crc, &block)) {
        dram_free(store->dram, &block);
    }
}

static void note_ssd_hit(struct store *store, const struct hit *hit, const struct ssd_read *read,
                         uint64_t bytes)
{
    struct shard *shard = index_shard(store, hit->entry->print);
    mutex_lock(&shard->lock);
    hit->entry->flags |= ENTRY_REFERENCED;
    shard->counters.hits_ssd++;
    shard->counters.bytes_ssd_out += bytes;
    mutex_unlock(&shard->lock);
    ssd_touch(store->ssd, read->location, store_stamp(store));
}

/* Returns how many must be looked up again; their indices are in `again`. */
static uint32_t finish_ssd(struct get_chunk *chunk, uint32_t *again, bool last_try)
{
    struct store *store = chunk->store;
    uint32_t stale = 0;

    if (!chunk->ssd_count) {
        return 0;
    }
    for (uint32_t i = 0; i < chunk->ssd_count; i++) {
        chunk->reads[i].status = UMBP_TIMEOUT;
    }
    /* Each item has its own status; the call's says nothing more. */
    uint64_t before_ns = store_files_until(store, chunk->deadline_ns);
    (void)!ssd_read(store->ssd, chunk->reads, chunk->ssd_count, NULL, NULL, chunk->deadline_ns);
    (void)disk_thread_deadline(before_ns);
    for (uint32_t i = 0; i < chunk->ssd_count; i++) {
        struct ssd_read *read = &chunk->reads[i];
        struct hit *hit = &chunk->ssd[i];
        const struct umbp_range_item *item = &chunk->items[hit->item];
        chunk->statuses[hit->item] = read->status;
        if (read->status == UMBP_OK) {
            note_ssd_hit(store, hit, read, bytes_asked(item));
            if (store->options.promote_on_read) {
                promote(store, item, hit, read->value_crc);
            }
        } else if (read->status != UMBP_TIMEOUT) {
            drop_record(store, hit, read);
            if (read->status == UMBP_STALE) {
                chunk->statuses[hit->item] = UMBP_NOT_FOUND;
                if (!last_try) {
                    again[stale++] = hit->item;
                }
            }
        }
        index_unref(store, hit->entry);
    }
    chunk->ssd_count = 0;
    return stale;
}

static void get_chunk(struct store *store, const struct umbp_range_item *items, size_t count,
                      enum umbp_status *statuses, uint64_t deadline_ns)
{
    struct get_chunk chunk;
    uint32_t again[GET_CHUNK];
    uint32_t again_count = 0;
    bool follower = store->options.role == STORE_FOLLOWER;

    chunk.store = store;
    chunk.deadline_ns = deadline_ns;
    chunk.items = items;
    chunk.statuses = statuses;
    chunk.dram_count = 0;
    chunk.ssd_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        statuses[i] = store_check_get(&items[i]);
        if (statuses[i] == UMBP_OK) {
            chunk.prints[i] = index_print(store, items[i].key);
            index_prefetch(store, chunk.prints[i]);
        }
    }
    if (count == 1 && statuses[0] == UMBP_OK) {
        fetch_ranges(&items[0]);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (statuses[i] == UMBP_OK) {
            look_up(&chunk, i, !follower);
            if (follower && statuses[i] == UMBP_NOT_FOUND) {
                again[again_count++] = i;
            }
        }
    }
    /* The leader may have written since. */
    if (again_count) {
        (void)follower_refresh(store, FOLLOWER_MISS_AGE_MS);
        for (uint32_t i = 0; i < again_count; i++) {
            look_up(&chunk, again[i], true);
        }
    }
    for (int tries = 0; chunk.dram_count || chunk.ssd_count; tries++) {
        finish_dram(&chunk);
        again_count = finish_ssd(&chunk, again, tries == STALE_TRIES);
        for (uint32_t i = 0; i < again_count; i++) {
            look_up(&chunk, again[i], true);
        }
    }
}

/* --------------------------------------------------------------------------------- doors - */

/* No stored value is as large as ANY_SIZE: asked for by a caller, it is a size that does not match.
 */
static uint64_t size_asked(uint64_t bytes) { return bytes == ANY_SIZE ? ANY_SIZE - 1 : bytes; }

static enum umbp_status check_batch(const void *items, size_t count, enum umbp_status *statuses)
{
    if (count > UMBP_BATCH_MAX) {
        return UMBP_LIMIT;
    }
    return count && (!items || !statuses) ? UMBP_INVALID_VALUE : UMBP_OK;
}

enum umbp_status store_batch_get_ranges(struct store *store, const struct umbp_range_item *items,
                                        size_t count, enum umbp_status *statuses_out)
{
    struct umbp_range_item objects[GET_CHUNK];
    enum umbp_status status = check_batch(items, count, statuses_out);
    uint64_t deadline_ns = store_deadline(store);

    for (size_t at = 0; status == UMBP_OK && at < count; at += GET_CHUNK) {
        size_t part = size_min(GET_CHUNK, count - at);
        for (size_t i = 0; i < part; i++) {
            objects[i] = items[at + i];
            objects[i].object_bytes = size_asked(items[at + i].object_bytes);
            if (!items[at + i].object_bytes) {
                objects[i].object_bytes = ANY_SIZE;
            }
        }
        get_chunk(store, objects, part, statuses_out + at, deadline_ns);
    }
    return status;
}

enum umbp_status store_batch_get(struct store *store, const struct umbp_get_item *items,
                                 size_t count, enum umbp_status *statuses_out)
{
    struct umbp_range_item objects[GET_CHUNK];
    struct umbp_range ranges[GET_CHUNK];
    enum umbp_status status = check_batch(items, count, statuses_out);
    uint64_t deadline_ns = store_deadline(store);

    for (size_t at = 0; status == UMBP_OK && at < count; at += GET_CHUNK) {
        size_t part = size_min(GET_CHUNK, count - at);
        for (size_t i = 0; i < part; i++) {
            const struct umbp_get_item *item = &items[at + i];
            ranges[i] = (struct umbp_range){item->data, item->bytes, 0};
            objects[i] = (struct umbp_range_item){
                .key = item->key,
                .ranges = &ranges[i],
                .range_count = item->bytes ? 1 : 0,
                .object_bytes = size_asked(item->bytes),
            };
        }
        get_chunk(store, objects, part, statuses_out + at, deadline_ns);
    }
    return status;
}

/* ---------------------------------------------------------------------------------- pins - */

enum umbp_status store_pin(struct store *store, struct umbp_key key, uint64_t bytes, bool quiet,
                           struct store_pin *pin_out)
{
    enum umbp_status status = UMBP_NOT_FOUND;

    if (!store_key_is_valid(key)) {
        return UMBP_INVALID_KEY;
    }
    struct fingerprint print = index_print(store, key);
    struct shard *shard = index_shard(store, print);
    look_follow(store, print, key);
    mutex_lock(&shard->lock);
    uint32_t handle = index_find(shard, print, key);
    if (handle) {
        struct entry *entry = index_entry(shard, handle);
        if (bytes && bytes != entry->bytes) {
            status = UMBP_SIZE_MISMATCH;
        } else {
            index_ref(entry);
            if (!quiet) {
                policy_access(store, shard, handle);
            }
            bool in_dram = entry->flags & ENTRY_LISTED;
            *pin_out = (struct store_pin){
                .entry = entry,
                .generation = entry->generation,
                .bytes = entry->bytes,
                .depth = entry->depth,
                .crc = entry->crc,
                .has_crc = entry->flags & ENTRY_HAS_CRC,
                .tier = in_dram ? STORE_TIER_DRAM : STORE_TIER_SSD,
                .block = in_dram ? entry->block : (struct dram_block){0},
                .location = entry->ssd,
            };
            status = UMBP_OK;
        }
    }
    mutex_unlock(&shard->lock);
    return status;
}

void store_unpin(struct store *store, struct store_pin *pin)
{
    if (pin->entry) {
        index_unref(store, pin->entry);
        pin->entry = NULL;
    }
}

enum umbp_status store_pin_verify(struct store *store, const struct store_pin *pin)
{
    if (!store->options.dram_checksum || !pin->has_crc || pin->tier != STORE_TIER_DRAM ||
        block_is_intact(store, &pin->block, pin->bytes, pin->crc)) {
        return UMBP_OK;
    }
    drop_corrupt_dram(store, pin->entry, pin->generation);
    return UMBP_CORRUPT;
}

/* ------------------------------------------------------------------------------ streams -- */

static struct hit hit_of(const struct store_pin *pin)
{
    return (struct hit){.entry = pin->entry, .generation = pin->generation};
}

enum umbp_status store_stream_open(struct store *store, const struct store_pin *pin,
                                   struct store_stream *stream_out)
{
    struct entry *entry = pin->entry;
    struct shard *shard = index_shard(store, entry->print);
    struct store_stream stream = {.pin = *pin};
    struct hit hit = hit_of(pin);

    if (!store->ssd || pin->tier != STORE_TIER_SSD) {
        return UMBP_INVALID_VALUE;
    }
    for (int tries = 0; tries <= STALE_TRIES; tries++) {
        const struct ssd_read lost = {.location = stream.pin.location, .status = UMBP_STALE};
        uint64_t before_ns = store_files_until(store, store_deadline(store));
        enum umbp_status status =
            ssd_stream_open(store->ssd, (struct ssd_key){entry->key, entry->key_bytes},
                            pin->generation, pin->bytes, lost.location, &stream.ssd);
        (void)disk_thread_deadline(before_ns);
        if (status == UMBP_OK) {
            *stream_out = stream;
        }
        if (status != UMBP_STALE) {
            return status;
        }
        drop_record(store, &hit, &lost); /* if the index still believes in it */
        mutex_lock(&shard->lock);
        bool is_gone = !(entry->flags & ENTRY_LINKED);
        stream.pin.location = entry->ssd;
        mutex_unlock(&shard->lock);
        if (!stream.pin.location.segment) {
            return is_gone ? UMBP_NOT_FOUND : UMBP_STALE;
        }
    }
    return UMBP_STALE;
}

enum umbp_status store_stream_next(struct store *store, struct store_stream *stream, uint64_t bytes,
                                   const struct ssd_range *ranges, uint32_t range_count,
                                   uint64_t deadline_ns)
{
    struct hit hit = hit_of(&stream->pin);
    const bool was_open = stream->ssd.status == UMBP_OK && !stream->ssd.is_whole;
    const struct ssd_read record = {.location = stream->pin.location};
    uint64_t before_ns = store_files_until(store, deadline_ns);
    enum umbp_status status =
        ssd_stream_next(&stream->ssd, bytes, ranges, range_count, deadline_ns);
    (void)disk_thread_deadline(before_ns);

    if (!was_open || status == UMBP_INVALID_VALUE || status == UMBP_TIMEOUT) {
        return status;
    }
    if (status != UMBP_OK) {
        struct ssd_read bad = record;
        bad.status = status;
        drop_record(store, &hit, &bad);
    } else if (stream->ssd.is_whole) {
        note_ssd_hit(store, &hit, &record, stream->pin.bytes);
    }
    return status;
}

void store_stream_close(struct store_stream *stream) { ssd_stream_close(&stream->ssd); }
