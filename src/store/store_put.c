/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Put: reserve, copy, publish. A batch goes through in chunks of PUT_CHUNK items, and a chunk in
 * windows of at most an eighth of the tier, for reserved pages can't be evicted and a batch may be
 * larger than the tier; of at most PUT_COPIED_BYTES if they are copied on. Within a window: look
 * every key up (those that are there are done), allocate (evicting as needed), copy everything on
 * all copy threads without any lock, publish.
 *
 * Two writers of one key both copy; the first to publish wins, the other frees its pages. The same
 * holds for a key that is twice in a batch.
 */
#include <string.h>
#include <time.h>

#include "store/store_priv.h"

#define PUT_CHUNK 64u
/* Values that are to be copied to the SSD are told to the copiers after this much of a chunk, so
 * that the device begins while the rest is still being put. */
#define PUT_COPIED_BYTES (UINT64_C(16) << 20)
#define NO_SPACE_WAIT_NS (20 * NS_PER_MS)

/* ----------------------------------------------------------------------------- allocate -- */

static uint64_t footprints(const uint64_t *bytes, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += dram_footprint(bytes[i]);
    }
    return sum;
}

static void short_pause(void)
{
    struct timespec pause = {.tv_nsec = 50000};
    (void)nanosleep(&pause, NULL);
}

/* Wait for those who hold what could be evicted: for readers a little, for copiers and for other
 * writers, who will publish soon, as long as the call may last. False when there is no point in
 * going on. */
static bool wait_for_room(struct store *store, bool others_write, uint64_t *give_up_ns,
                          struct patience *patience)
{
    uint64_t now_ns = clock_now_ns(store->clock);
    if (!*give_up_ns) {
        *give_up_ns = now_ns + NO_SPACE_WAIT_NS;
    }
    if (patience->used_up || now_ns >= patience->deadline_ns ||
        (now_ns >= *give_up_ns && !others_write)) {
        patience->used_up = true; /* the call's other items need not wait again */
        return false;
    }
    short_pause();
    return true;
}

static bool others_are_busy(const struct store *store)
{
    return atomic_load_explicit(&store->writers, memory_order_relaxed) > 0 ||
           atomic_load_explicit(&store->copying, memory_order_relaxed) > 0;
}

/* How many of these fit below that level. */
static size_t spare_count(const struct store *store, const uint64_t *bytes, size_t count,
                          uint64_t below)
{
    uint64_t used = dram_bytes_total(store->dram) - dram_bytes_free(store->dram);
    uint64_t room = below > used ? below - used : 0;
    size_t fit = 0;
    while (fit < count && dram_footprint(bytes[fit]) <= room) {
        room -= dram_footprint(bytes[fit++]);
    }
    return fit;
}

/*
 * Everything evictable may be gone for a moment: held by readers, or taken by other writers. Who
 * waits here holds nothing and does not count as a writer: or writers would wait for each other.
 */
enum umbp_status alloc_blocks(struct store *store, const uint64_t *bytes, size_t count,
                              struct patience *patience, struct dram_block *blocks_out,
                              size_t *done_out)
{
    uint64_t give_up_ns = 0;
    size_t done = 0;
    enum umbp_status status;

    if (patience->spare_below) {
        count = spare_count(store, bytes, count, patience->spare_below);
        if (!count) {
            *done_out = 0;
            return UMBP_NO_SPACE;
        }
    }
    for (uint32_t rounds = 1;; rounds++) {
        size_t got = 0;
        if (!done) {
            atomic_fetch_add_explicit(&store->writers, 1, memory_order_relaxed);
        }
        status = dram_alloc_batch(store->dram, bytes + done, count - done, blocks_out + done, &got);
        done += got;
        if (!done) {
            atomic_fetch_sub_explicit(&store->writers, 1, memory_order_relaxed);
        }
        if (status != UMBP_NO_SPACE || patience->spare_below ||
            (rounds % 64 == 0 && clock_now_ns(store->clock) >= patience->deadline_ns)) {
            break;
        }
        uint64_t need = footprints(bytes + done, count - done);
        uint64_t free_bytes = dram_bytes_free(store->dram);
        /* Whoever writes, or has published since, is about to leave something to evict. */
        uint64_t published = atomic_load_explicit(&store->generation, memory_order_relaxed);
        bool others_write = others_are_busy(store);
        if (need <= free_bytes || evict_bytes(store, need - free_bytes) > 0) {
            give_up_ns = 0;
            continue;
        }
        others_write |= others_are_busy(store) ||
                        published != atomic_load_explicit(&store->generation, memory_order_relaxed);
        if (done || !wait_for_room(store, others_write, &give_up_ns, patience)) {
            break; /* never wait while holding pages: write these first */
        }
    }
    *done_out = done;
    return status;
}

void alloc_published(struct store *store)
{
    atomic_fetch_sub_explicit(&store->writers, 1, memory_order_relaxed);
}

/* --------------------------------------------------------------------------------- copy -- */

static void copy_in(struct copy_list *list, const struct put_value *value,
                    const struct umbp_range *ranges, size_t range_count)
{
    const struct dram_tier *dram = list->store->dram;
    uint32_t cursor = 0; /* ranges in order make one walk */
    for (size_t r = 0; r < range_count; r++) {
        uint64_t done = 0;
        while (done < ranges[r].bytes) {
            struct dram_piece piece =
                dram_piece_at(dram, &value->block, ranges[r].offset + done, &cursor);
            uint64_t bytes = u64_min(piece.bytes, ranges[r].bytes - done);
            copy_list_add(list, piece.data, (const char *)ranges[r].data + done, bytes);
            done += bytes;
        }
    }
}

static uint32_t crc_of_block(const struct dram_tier *dram, const struct dram_block *block,
                             uint64_t bytes)
{
    uint32_t crc = 0;
    uint32_t cursor = 0;
    for (uint64_t done = 0; done < bytes;) {
        struct dram_piece piece = dram_piece_at(dram, block, done, &cursor);
        uint64_t part = u64_min(piece.bytes, bytes - done);
        crc = crc32c(crc, piece.data, part);
        done += part;
    }
    return crc;
}

/* ------------------------------------------------------------------------------- ranges -- */

/* Ranges that come in order are checked in one pass; others by a sorted copy of their bounds. */
struct bounds {
    uint64_t offset;
    uint64_t bytes;
};

static void sort_bounds(struct bounds *items, size_t count)
{
    /* Heap sort: in place, no worst case worth speaking of. */
    for (size_t start = count / 2, end = count; end > 1;) {
        if (start > 0) {
            start--;
        } else {
            end--;
            struct bounds swap = items[0];
            items[0] = items[end];
            items[end] = swap;
        }
        for (size_t root = start, child; (child = root * 2 + 1) < end; root = child) {
            if (child + 1 < end && items[child].offset < items[child + 1].offset) {
                child++;
            }
            if (items[root].offset >= items[child].offset) {
                break;
            }
            struct bounds swap = items[root];
            items[root] = items[child];
            items[child] = swap;
        }
    }
}

static bool bounds_tile(const struct bounds *items, size_t count, uint64_t object_bytes)
{
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        if (items[i].offset != at || !items[i].bytes || items[i].bytes > object_bytes - at) {
            return false;
        }
        at += items[i].bytes;
    }
    return at == object_bytes;
}

static enum umbp_status check_tiling(const struct umbp_range_item *item)
{
    struct bounds few[64];
    struct bounds *bounds = few;
    uint64_t at = 0;
    size_t i = 0;

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
    while (i < item->range_count && item->ranges[i].offset == at && item->ranges[i].bytes &&
           item->ranges[i].bytes <= item->object_bytes - at) {
        at += item->ranges[i++].bytes;
    }
    if (i == item->range_count) {
        return at == item->object_bytes ? UMBP_OK : UMBP_INVALID_RANGE;
    }
    if (item->range_count > ARRAY_COUNT(few)) {
        bounds = mem_calloc(item->range_count, sizeof(*bounds));
        if (!bounds) {
            return UMBP_NO_MEMORY;
        }
    }
    for (i = 0; i < item->range_count; i++) {
        bounds[i] = (struct bounds){item->ranges[i].offset, item->ranges[i].bytes};
    }
    sort_bounds(bounds, item->range_count);
    bool tiles = bounds_tile(bounds, item->range_count, item->object_bytes);
    if (bounds != few) {
        mem_free(bounds);
    }
    return tiles ? UMBP_OK : UMBP_INVALID_RANGE;
}

enum umbp_status store_check_put(const struct umbp_range_item *item)
{
    return store_key_is_valid(item->key) ? check_tiling(item) : UMBP_INVALID_KEY;
}

static enum umbp_status check_put(const struct store *store, const struct umbp_range_item *item)
{
    enum umbp_status status = store_check_put(item);
    if (status != UMBP_OK) {
        return status;
    }
    if (item->object_bytes > UMBP_VALUE_BYTES_MAX ||
        dram_footprint(item->object_bytes) > dram_bytes_total(store->dram)) {
        return UMBP_TOO_LARGE; /* before anything is evicted for it */
    }
    return UMBP_OK;
}

/* ------------------------------------------------------------------------------- windows - */

struct put_chunk {
    struct put_value values[PUT_CHUNK];
    const struct umbp_range_item *items[PUT_CHUNK];
    enum umbp_status *statuses[PUT_CHUNK];
    uint64_t bytes[PUT_CHUNK];
    struct dram_block blocks[PUT_CHUNK];
    struct copy_ticket tickets[PUT_CHUNK];
    struct copy_list copies;
};

static bool copies_on_commit(const struct store *store)
{
    return store->copies && store->options.copy_mode == STORE_COPY_ON_COMMIT;
}

static void write_window(struct store *store, struct put_chunk *chunk, size_t from, size_t count)
{
    copy_list_init(&chunk->copies, store, count);
    for (size_t i = 0; i < count; i++) {
        struct put_value *value = &chunk->values[from + i];
        value->block = chunk->blocks[i];
        copy_in(&chunk->copies, value, chunk->items[from + i]->ranges,
                chunk->items[from + i]->range_count);
    }
    copy_list_run(&chunk->copies);
    size_t tickets = 0;
    for (size_t i = 0; i < count; i++) {
        struct put_value *value = &chunk->values[from + i];
        if (store->options.dram_checksum) {
            value->crc = crc_of_block(store->dram, &value->block, value->bytes);
        }
        enum umbp_status status = publish(store, value, &chunk->tickets[tickets]);
        tickets += status == UMBP_OK;
        *chunk->statuses[from + i] = status;
    }
    if (copies_on_commit(store)) {
        copy_ask(store, chunk->tickets, tickets);
    }
}

static void watch_level(struct store *store)
{
    if (dram_bytes_total(store->dram) - dram_bytes_free(store->dram) > store->dram_high_bytes) {
        upkeep_ask(store);
    }
}

/* Reserve and write values[0 .. count), in windows. */
static void put_values(struct store *store, struct put_chunk *chunk, size_t count,
                       struct patience *patience)
{
    uint64_t window_bytes = dram_bytes_total(store->dram) / 8;
    size_t from = 0;

    if (copies_on_commit(store)) {
        window_bytes = u64_min(window_bytes, PUT_COPIED_BYTES);
    }
    while (from < count) {
        size_t until = from;
        uint64_t sum = 0;
        do {
            chunk->bytes[until - from] = chunk->values[until].bytes;
            sum += dram_footprint(chunk->values[until].bytes);
            until++;
        } while (until < count && sum + dram_footprint(chunk->values[until].bytes) <= window_bytes);

        size_t wanted = until - from;
        size_t done = 0;
        enum umbp_status status =
            alloc_blocks(store, chunk->bytes, wanted, patience, chunk->blocks, &done);
        if (done) {
            write_window(store, chunk, from, done);
            alloc_published(store);
            from += done;
        } else {
            *chunk->statuses[from] = status;
            from++;
        }
    }
    watch_level(store);
}

/* True if the key is there: an access, and nothing to store. */
static bool put_existing(struct store *store, struct umbp_key key, struct fingerprint print)
{
    struct shard *shard = index_shard(store, print);
    mutex_lock(&shard->lock);
    uint32_t handle = index_find(shard, print, key);
    if (handle) {
        policy_access(store, shard, handle);
        shard->counters.puts_existing++;
    }
    mutex_unlock(&shard->lock);
    return handle != 0;
}

static void put_chunk(struct store *store, const struct umbp_range_item *items, size_t count,
                      enum umbp_status *statuses, struct patience *patience)
{
    struct put_chunk chunk;
    struct fingerprint prints[PUT_CHUNK];
    size_t wanted = 0;

    for (size_t i = 0; i < count; i++) {
        statuses[i] = check_put(store, &items[i]);
        if (statuses[i] == UMBP_OK) {
            prints[i] = index_print(store, items[i].key);
            index_prefetch(store, prints[i]);
        }
    }
    if (count == 1 && statuses[0] == UMBP_OK) {
        fetch_ranges(&items[0]);
    }
    for (size_t i = 0; i < count; i++) {
        if (statuses[i] != UMBP_OK) {
            continue;
        }
        if (put_existing(store, items[i].key, prints[i])) {
            statuses[i] = UMBP_ALREADY_EXISTS;
            continue;
        }
        chunk.values[wanted] = (struct put_value){
            .key = items[i].key,
            .print = prints[i],
            .bytes = items[i].object_bytes,
            .depth = items[i].depth,
        };
        chunk.items[wanted] = &items[i];
        chunk.statuses[wanted++] = &statuses[i];
    }
    if (wanted) {
        put_values(store, &chunk, wanted, patience);
    }
}

/* --------------------------------------------------------------------------------- doors - */

static enum umbp_status check_batch(const struct store *store, const void *items, size_t count,
                                    enum umbp_status *statuses)
{
    enum umbp_status status = UMBP_OK;
    if (count > UMBP_BATCH_MAX) {
        status = UMBP_LIMIT;
    } else if (count && (!items || !statuses)) {
        return UMBP_INVALID_VALUE;
    } else if (store->options.role == STORE_FOLLOWER) {
        status = UMBP_READ_ONLY;
    }
    if (status != UMBP_OK && statuses && count <= UMBP_BATCH_MAX) {
        fill_statuses(statuses, count, status);
    }
    return status;
}

enum umbp_status store_batch_put_ranges(struct store *store, const struct umbp_range_item *items,
                                        size_t count, enum umbp_status *statuses_out)
{
    enum umbp_status status = check_batch(store, items, count, statuses_out);
    struct patience patience = {.deadline_ns = store_deadline(store)};

    for (size_t at = 0; status == UMBP_OK && at < count; at += PUT_CHUNK) {
        put_chunk(store, items + at, size_min(PUT_CHUNK, count - at), statuses_out + at, &patience);
    }
    return status;
}

static enum umbp_status put_whole(struct store *store, const struct umbp_put_item *items,
                                  size_t count, uint64_t spare_below,
                                  enum umbp_status *statuses_out)
{
    struct umbp_range_item objects[PUT_CHUNK];
    struct umbp_range ranges[PUT_CHUNK];
    enum umbp_status status = check_batch(store, items, count, statuses_out);
    struct patience patience = {.deadline_ns = store_deadline(store), .spare_below = spare_below};

    for (size_t at = 0; status == UMBP_OK && at < count; at += PUT_CHUNK) {
        size_t part = size_min(PUT_CHUNK, count - at);
        for (size_t i = 0; i < part; i++) {
            const struct umbp_put_item *item = &items[at + i];
            /* Read only, whatever the type says: a range serves put and get. */
            ranges[i] = (struct umbp_range){(void *)(uintptr_t)item->data, item->bytes, 0};
            objects[i] = (struct umbp_range_item){
                .key = item->key,
                .ranges = &ranges[i],
                .range_count = item->bytes ? 1 : 0,
                .object_bytes = item->bytes,
                .depth = item->depth,
            };
        }
        put_chunk(store, objects, part, statuses_out + at, &patience);
    }
    return status;
}

enum umbp_status store_batch_put(struct store *store, const struct umbp_put_item *items,
                                 size_t count, enum umbp_status *statuses_out)
{
    return put_whole(store, items, count, 0, statuses_out);
}

enum umbp_status store_batch_put_spare(struct store *store, const struct umbp_put_item *items,
                                       size_t count, double below, enum umbp_status *statuses_out)
{
    uint64_t bytes = (uint64_t)((double)dram_bytes_total(store->dram) * below);
    return put_whole(store, items, count, u64_max(bytes, 1), statuses_out);
}

/* -------------------------------------------------------------------------- reservations - */

static enum umbp_status reserve(struct store *store, struct umbp_key key, uint64_t bytes,
                                uint32_t depth, struct patience *patience,
                                struct store_reservation *reservation_out)
{
    struct store_reservation made = {.key = key, .bytes = bytes, .depth = depth, .is_open = true};
    size_t done = 0;

    if (store->options.role == STORE_FOLLOWER) {
        return UMBP_READ_ONLY;
    }
    if (!store_key_is_valid(key)) {
        return UMBP_INVALID_KEY;
    }
    if (bytes > UMBP_VALUE_BYTES_MAX || dram_footprint(bytes) > dram_bytes_total(store->dram)) {
        return UMBP_TOO_LARGE;
    }
    made.print = index_print(store, key);
    if (put_existing(store, key, made.print)) {
        return UMBP_ALREADY_EXISTS;
    }
    enum umbp_status status = alloc_blocks(store, &bytes, 1, patience, &made.block, &done);
    if (status != UMBP_OK) {
        return status;
    }
    alloc_published(store); /* it may stay open for long: nobody waits for it */
    atomic_fetch_add_explicit(&store->reservations, 1, memory_order_relaxed);
    *reservation_out = made;
    watch_level(store);
    return UMBP_OK;
}

enum umbp_status store_reserve(struct store *store, struct umbp_key key, uint64_t bytes,
                               uint32_t depth, struct store_reservation *reservation_out)
{
    struct patience patience = {.deadline_ns = store_deadline(store)};
    return reserve(store, key, bytes, depth, &patience, reservation_out);
}

enum umbp_status store_try_reserve(struct store *store, struct umbp_key key, uint64_t bytes,
                                   uint32_t depth, struct store_reservation *reservation_out)
{
    struct patience patience = {.deadline_ns = store_deadline(store), .used_up = true};
    return reserve(store, key, bytes, depth, &patience, reservation_out);
}

enum umbp_status store_commit(struct store *store, struct store_reservation *reservation)
{
    struct copy_ticket ticket;
    if (!reservation->is_open) {
        return UMBP_STALE;
    }
    reservation->is_open = false;
    struct put_value value = {
        .key = reservation->key,
        .print = reservation->print,
        .bytes = reservation->bytes,
        .depth = reservation->depth,
        .crc = reservation->crc,
        .block = reservation->block,
    };
    reservation->block = (struct dram_block){0};
    atomic_fetch_sub_explicit(&store->reservations, 1, memory_order_relaxed);
    enum umbp_status status = publish(store, &value, &ticket);
    if (status == UMBP_OK && copies_on_commit(store)) {
        copy_ask(store, &ticket, 1);
    }
    return status;
}

void store_abort(struct store *store, struct store_reservation *reservation)
{
    if (reservation->is_open) {
        reservation->is_open = false;
        dram_free(store->dram, &reservation->block);
        atomic_fetch_sub_explicit(&store->reservations, 1, memory_order_relaxed);
    }
}

struct dram_piece store_piece_at(const struct store *store, const struct dram_block *block,
                                 uint64_t offset, uint32_t *cursor)
{
    return dram_piece_at(store->dram, block, offset, cursor);
}
