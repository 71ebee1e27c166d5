/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The copy pipeline: committed values on their way to the SSD.
 *
 *     put -> ticket queue (bounded) -> copier: pin, ssd_append (gathered), publish the location
 *     watermark -> demote:  coldest first, pin, append, publish, drop the DRAM block
 *     flush -> every dirty value of before, by the flushing thread itself, beside the copiers
 *     remove -> tombstones, by the copiers
 *
 * A ticket names an entry by shard, handle and generation and pins nothing: a queue full of tickets
 * does not hold memory, and a value that is removed or evicted first is simply not copied. A put
 * never waits: a full queue drops the ticket, counted; the value stays dirty and is written when it
 * is demoted or flushed. From pin to publish an entry is ENTRY_COPYING; it can be removed
 * meanwhile, which leaves the copier with the last reference and a record that needs a tombstone.
 *
 * The bytes that are written are pinned, immutable pages of one generation; what lands on the disk
 * is what was put, whatever happens to the key.
 */
#include <sys/uio.h>

#include "store/store_priv.h"

#define COPIER_IOVS 4096u
#define COPY_TRIES 3
#define IDLE_WAIT_MS 1000u

struct copier {
    struct store *store;
    pthread_t thread;
    bool exited; /* under the queue's lock */
    struct ssd_append appends[COPY_BATCH_MAX];
    struct entry *entries[COPY_BATCH_MAX];
    struct copy_ticket tickets[COPY_BATCH_MAX];
    struct iovec iovs[COPIER_IOVS];
    void *staged; /* one value that is too scattered for the iovs */
    size_t staged_bytes;
};

struct copier *copier_create(struct store *store)
{
    struct copier *copier = mem_zalloc(sizeof(*copier));
    if (copier) {
        copier->store = store;
    }
    return copier;
}

void copier_destroy(struct copier *copier) { mem_free(copier); }

/* -------------------------------------------------------------------------------- queue -- */

void copy_ask(struct store *store, const struct copy_ticket *tickets, size_t count)
{
    struct copy_queue *queue = &store->queue;
    size_t taken = 0;

    if (!count) {
        return;
    }
    mutex_lock(&queue->lock);
    while (taken < count && queue->count < queue->capacity) {
        uint32_t at = (queue->head + queue->count) % queue->capacity;
        queue->tickets[at] = tickets[taken++];
        queue->count++;
    }
    bool wake = queue->idle > 0;
    mutex_unlock(&queue->lock);
    if (wake) {
        condition_signal(&queue->work);
    }
    if (taken < count) {
        atomic_fetch_add_explicit(&store->copied.drops_queue_full, count - taken,
                                  memory_order_relaxed);
    }
}

void copy_wake(struct store *store, bool tombs, bool reclaim)
{
    struct copy_queue *queue = &store->queue;
    if (!store->copies) {
        return;
    }
    mutex_lock(&queue->lock);
    queue->tombs_pending |= tombs;
    queue->reclaim_wanted |= reclaim;
    bool wake = queue->idle > 0;
    mutex_unlock(&queue->lock);
    if (wake) {
        condition_signal(&queue->work);
    }
}

static void tell_flushers(struct store *store)
{
    mutex_lock(&store->queue.lock);
    condition_broadcast(&store->queue.done);
    mutex_unlock(&store->queue.lock);
}

/* --------------------------------------------------------------------------------- pin --- */

/* Under the shard's lock. */
static void begin_copy(struct shard *shard, struct entry *entry)
{
    index_ref(entry);
    entry->flags |= ENTRY_COPYING;
    shard->copying++;
}

static struct entry *pin_ticket(struct store *store, const struct copy_ticket *ticket)
{
    struct shard *shard = &store->shards[ticket->shard];
    struct entry *taken = NULL;

    mutex_lock(&shard->lock);
    struct entry *entry = index_entry(shard, ticket->handle);
    if (entry->generation == ticket->generation && entry_is_dirty(entry) &&
        !(entry->flags & ENTRY_COPYING)) {
        begin_copy(shard, entry);
        taken = entry;
    }
    mutex_unlock(&shard->lock);
    return taken;
}

/* ------------------------------------------------------------------------------- append -- */

static unsigned gather(const struct store *store, const struct entry *entry, struct iovec *iovs,
                       unsigned room)
{
    uint32_t cursor = 0;
    unsigned used = 0;
    for (uint64_t done = 0; done < entry->bytes;) {
        if (used == room) {
            return 0;
        }
        struct dram_piece piece = dram_piece_at(store->dram, &entry->block, done, &cursor);
        uint64_t bytes = u64_min(piece.bytes, entry->bytes - done);
        iovs[used++] = (struct iovec){piece.data, bytes};
        done += bytes;
    }
    return used;
}

static void prepare(struct copier *copier, const struct entry *entry, uint32_t index,
                    struct iovec *iovs, unsigned iov_count)
{
    copier->appends[index] = (struct ssd_append){
        .key = {entry->key, entry->key_bytes},
        .generation = entry->generation,
        .value_bytes = entry->bytes,
        .depth = entry->depth,
        .has_crc = entry->flags & ENTRY_HAS_CRC,
        .value_crc = entry->crc,
        .iov = iovs,
        .iov_count = iov_count,
        .status = UMBP_TIMEOUT,
    };
}

/* How many of `entries` fit into one append call; at least one, staged if it must be. 0: no memory.
 */
static uint32_t prepare_some(struct store *store, struct copier *copier, struct entry **entries,
                             uint32_t count)
{
    unsigned used = 0;
    uint64_t bytes = 0;
    uint32_t taken = 0;

    for (; taken < count && taken < COPY_BATCH_MAX; taken++) {
        struct entry *entry = entries[taken];
        if (taken && bytes + entry->bytes > COPY_BATCH_BYTES) {
            break;
        }
        unsigned pieces = gather(store, entry, copier->iovs + used, COPIER_IOVS - used);
        if (!pieces && entry->bytes) {
            if (taken) {
                break;
            }
            copier->staged_bytes = entry->bytes;
            copier->staged = mem_map(entry->bytes);
            if (!copier->staged) {
                return 0;
            }
            dram_read(store->dram, &entry->block, 0, copier->staged, entry->bytes);
            copier->iovs[0] = (struct iovec){copier->staged, entry->bytes};
            prepare(copier, entry, 0, copier->iovs, 1);
            return 1;
        }
        prepare(copier, entry, taken, copier->iovs + used, pieces);
        used += pieces;
        bytes += entry->bytes;
    }
    return taken;
}

static void count_failure(struct store *store, enum umbp_status status)
{
    struct copy_counters *copied = &store->copied;
    _Atomic uint64_t *counter = &copied->drops_io;
    uint64_t held_back = 0;

    if (status == UMBP_TOO_LARGE) {
        counter = &copied->drops_too_large;
    } else if (status == UMBP_NO_SPACE) {
        counter = &copied->drops_no_space;
    }
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
    if (log_limit_pass(&store->log_copy_failed, 60000, &held_back)) {
        log_warn("copy_to_ssd_failed", "status=%s suppressed=%llu", umbp_status_name(status),
                 (unsigned long long)held_back);
    }
}

/* Under the shard's lock: the record lies on the disk. True if the pin was handed to the tombs. */
static bool publish_location(struct store *store, struct shard *shard, struct entry *entry,
                             const struct ssd_append *append)
{
    if (!(entry->flags & ENTRY_LINKED)) {
        ssd_mark_dead(store->ssd, append->location, entry->bytes, entry->key_bytes);
        entry_bury(shard, entry);
        return true;
    }
    if (entry_is_dirty(entry)) {
        shard->dirty--;
    }
    entry->ssd = append->location;
    entry->crc = append->value_crc;
    entry->flags |= ENTRY_SETTLED | ENTRY_HAS_CRC;
    entry->flags &= (uint8_t)~ENTRY_REFERENCED;
    events_record(store, entry, STORE_TIER_SSD, true);
    return false;
}

/* End ENTRY_COPYING. True if there is a tombstone to write now. */
static bool finish_entry(struct store *store, struct entry *entry, const struct ssd_append *append,
                         bool demote)
{
    struct shard *shard = index_shard(store, entry->print);
    struct umbp_key key = {entry->key, entry->key_bytes};
    struct dram_block block = {0};
    bool buried = false;
    bool gone = false;

    mutex_lock(&shard->lock);
    entry->flags &= (uint8_t)~ENTRY_COPYING;
    shard->copying--;
    if (append->status == UMBP_OK) {
        buried = publish_location(store, shard, entry, append);
    } else if (append->status == UMBP_TOO_LARGE && entry_is_dirty(entry)) {
        shard->dirty--;
        entry->flags |= ENTRY_SETTLED;
    }
    if (!buried) {
        gone = !(entry->flags & ENTRY_LINKED);
        uint32_t handle = gone ? 0 : index_find(shard, entry->print, key);
        index_unref_locked(store, shard, entry, &block);
        /* Written, or not to be written: either way the memory is wanted. */
        if (demote && !gone && (entry->flags & ENTRY_LISTED) && index_is_unpinned(entry)) {
            entry_drop_dram(store, shard, handle, true, &block);
        }
    }
    mutex_unlock(&shard->lock);
    dram_free(store->dram, &block);
    if (append->status == UMBP_OK) {
        atomic_fetch_add_explicit(&store->copied.done, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&store->copied.bytes, append->value_bytes, memory_order_relaxed);
    } else {
        count_failure(store, append->status);
    }
    return buried;
}

/* Append what is prepared; make room and try again what found none. */
static void append_with_room(struct store *store, struct copier *copier, uint32_t count,
                             uint64_t deadline_ns)
{
    struct ssd_append *appends = copier->appends;
    uint32_t first = 0;

    for (int tries = 0; tries < COPY_TRIES && first < count; tries++) {
        if (ssd_append(store->ssd, appends + first, count - first, false, deadline_ns) == UMBP_OK) {
            return;
        }
        /* Space runs out for all that follow, or for none: go on from the first without. */
        while (first < count && appends[first].status != UMBP_NO_SPACE) {
            first++;
        }
        if (first == count || clock_left_ns(store->clock, deadline_ns) == 0) {
            return;
        }
        if (reclaim_run(store, true, deadline_ns) != UMBP_OK) {
            return;
        }
        for (uint32_t i = first; i < count; i++) {
            if (appends[i].status != UMBP_NO_SPACE) {
                /* Done already, or failed for good: keep it out of the next call. */
                struct ssd_append swap = appends[first];
                struct entry *entry = copier->entries[first];
                appends[first] = appends[i];
                copier->entries[first] = copier->entries[i];
                appends[i] = swap;
                copier->entries[i] = entry;
                first++;
            }
        }
    }
}

enum umbp_status copy_entries(struct store *store, struct copier *copier, struct entry **entries,
                              uint32_t count, bool demote, uint64_t deadline_ns)
{
    enum umbp_status result = UMBP_OK;
    bool tombs = false;

    while (count) {
        uint32_t taken = prepare_some(store, copier, entries, count);
        if (taken) {
            for (uint32_t i = 0; i < taken; i++) {
                copier->entries[i] = entries[i];
            }
            append_with_room(store, copier, taken, deadline_ns);
        } else {
            taken = 1;
            copier->entries[0] = entries[0];
            copier->appends[0].status = UMBP_NO_MEMORY;
        }
        for (uint32_t i = 0; i < taken; i++) {
            if (copier->appends[i].status != UMBP_OK && result == UMBP_OK) {
                result = copier->appends[i].status;
            }
            tombs |= finish_entry(store, copier->entries[i], &copier->appends[i], demote);
        }
        if (copier->staged) {
            mem_unmap(copier->staged, copier->staged_bytes);
            copier->staged = NULL;
        }
        entries += taken;
        count -= taken;
    }
    if (tombs) {
        copy_wake(store, true, false);
    }
    tell_flushers(store);
    return result;
}

/* --------------------------------------------------------------------------- tombstones -- */

/* Detach up to COPY_BATCH_MAX buried entries of the shard. */
static uint32_t take_tombs(struct shard *shard, struct entry **entries)
{
    uint32_t count = 0;
    mutex_lock(&shard->lock);
    while (shard->tomb_oldest && count < COPY_BATCH_MAX) {
        struct entry *entry = index_entry(shard, shard->tomb_oldest);
        shard->tomb_oldest = entry->next;
        if (!shard->tomb_oldest) {
            shard->tomb_newest = 0;
        }
        entry->flags &= (uint8_t)~ENTRY_TOMB;
        entries[count++] = entry;
    }
    /* `tombs` falls only when they are written: flush waits for it. */
    mutex_unlock(&shard->lock);
    return count;
}

static enum umbp_status write_tombs(struct store *store, struct copier *copier, struct shard *shard,
                                    uint32_t count, uint64_t deadline_ns)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct entry *entry = copier->entries[i];
        copier->appends[i] = (struct ssd_append){
            .key = {entry->key, entry->key_bytes},
            .generation = store_generation(store),
            .is_tombstone = true,
            .status = UMBP_TIMEOUT,
        };
    }
    enum umbp_status status = ssd_append(store->ssd, copier->appends, count, true, deadline_ns);
    for (uint32_t i = 0; i < count; i++) {
        struct entry *entry = copier->entries[i];
        bool written = copier->appends[i].status == UMBP_OK;
        mutex_lock(&shard->lock);
        shard->tombs--;
        if (!written) {
            entry_bury(shard, entry); /* counts it again */
        }
        mutex_unlock(&shard->lock);
        if (written) {
            atomic_fetch_add_explicit(&store->copied.tombstones, 1, memory_order_relaxed);
            index_unref(store, entry);
        }
    }
    return status;
}

enum umbp_status copy_tombstones(struct store *store, struct copier *copier, uint64_t deadline_ns)
{
    enum umbp_status result = UMBP_OK;
    for (uint32_t s = 0; s < store->shard_count && result == UMBP_OK; s++) {
        uint32_t count;
        while (result == UMBP_OK && (count = take_tombs(&store->shards[s], copier->entries)) > 0) {
            result = write_tombs(store, copier, &store->shards[s], count, deadline_ns);
        }
    }
    tell_flushers(store);
    return result;
}

/* ------------------------------------------------------------------------------- copier -- */

struct copy_work {
    uint32_t tickets;
    bool tombs;
    bool reclaim;
    bool stop;
};

static struct copy_work wait_for_work(struct store *store, struct copier *copier)
{
    struct copy_queue *queue = &store->queue;
    struct copy_work work = {0};
    uint64_t deadline_ns = clock_deadline_ns(clock_monotonic(), IDLE_WAIT_MS);

    mutex_lock(&queue->lock);
    bool in_time = true;
    while (in_time && !queue->count && !queue->tombs_pending && !queue->stopping &&
           !(queue->reclaim_wanted && !queue->reclaiming)) {
        queue->idle++;
        in_time = condition_wait(&queue->work, &queue->lock, deadline_ns);
        queue->idle--;
    }
    while (queue->count && work.tickets < COPY_BATCH_MAX) {
        copier->tickets[work.tickets++] = queue->tickets[queue->head];
        queue->head = (queue->head + 1) % queue->capacity;
        queue->count--;
    }
    work.tombs = queue->tombs_pending || !in_time; /* what failed is tried again, at leisure */
    queue->tombs_pending = false;
    if (queue->reclaim_wanted && !queue->reclaiming) {
        queue->reclaim_wanted = false;
        work.reclaim = true;
    }
    work.stop = queue->stopping;
    mutex_unlock(&queue->lock);
    return work;
}

static void copy_tickets(struct store *store, struct copier *copier, uint32_t count)
{
    struct entry *pinned[COPY_BATCH_MAX];
    uint32_t pins = 0;

    for (uint32_t i = 0; i < count; i++) {
        struct entry *entry = pin_ticket(store, &copier->tickets[i]);
        if (entry) {
            pinned[pins++] = entry;
        }
    }
    atomic_fetch_add_explicit(&store->copied.drops_gone, count - pins, memory_order_relaxed);
    if (pins) {
        /* Failures are counted where they happen; the values stay dirty for the next occasion. */
        (void)!copy_entries(store, copier, pinned, pins, false, store_deadline(store));
    }
}

static void *copier_main(void *context)
{
    struct copier *copier = context;
    struct store *store = copier->store;
    for (;;) {
        struct copy_work work = wait_for_work(store, copier);
        if (work.stop) {
            break;
        }
        if (work.tickets) {
            copy_tickets(store, copier, work.tickets);
        }
        if (work.tombs) {
            (void)!copy_tombstones(store, copier, store_deadline(store));
        }
        if (work.reclaim || reclaim_is_due(store)) {
            (void)!reclaim_run(store, false, store_deadline(store));
        }
    }
    mutex_lock(&store->queue.lock);
    copier->exited = true;
    condition_broadcast(&store->queue.done);
    mutex_unlock(&store->queue.lock);
    return NULL;
}

enum umbp_status copy_start(struct store *store)
{
    struct copy_queue *queue = &store->queue;

    if (!store->copies) {
        return UMBP_OK;
    }
    queue->capacity = store->options.copy_queue_depth;
    queue->tickets = mem_calloc(queue->capacity, sizeof(*queue->tickets));
    store->copiers = mem_calloc(store->options.copy_workers, sizeof(*store->copiers));
    if (!queue->tickets || !store->copiers) {
        return UMBP_NO_MEMORY;
    }
    enum umbp_status status = reclaim_create(store);
    for (uint32_t i = 0; status == UMBP_OK && i < store->options.copy_workers; i++) {
        struct copier *copier = copier_create(store);
        if (!copier) {
            return UMBP_NO_MEMORY;
        }
        status = thread_create(&copier->thread, "umbp-copier", true, copier_main, copier);
        if (status != UMBP_OK) {
            copier_destroy(copier);
            return status;
        }
        store->copiers[store->copiers_started++] = copier;
    }
    return status;
}

bool copy_stop(struct store *store, uint64_t deadline_ns)
{
    struct copy_queue *queue = &store->queue;
    mutex_lock(&queue->lock);
    queue->stopping = true;
    condition_broadcast(&queue->work);
    mutex_unlock(&queue->lock);
    while (store->copiers_started) {
        struct copier *last = store->copiers[store->copiers_started - 1];
        mutex_lock(&queue->lock);
        while (!last->exited && condition_wait(&queue->done, &queue->lock, deadline_ns)) {
        }
        bool exited = last->exited;
        mutex_unlock(&queue->lock);
        if (!exited) {
            return false;
        }
        pthread_join(last->thread, NULL);
        copier_destroy(last);
        store->copiers_started--;
    }
    mem_free(store->copiers);
    store->copiers = NULL;
    reclaim_destroy(store);
    mem_free(queue->tickets);
    queue->tickets = NULL;
    queue->capacity = 0;
    queue->count = 0;
    return true;
}

/* ------------------------------------------------------------------------------- demote -- */

void copy_demote(struct store *store, struct copier *copier, uint64_t bytes, uint64_t deadline_ns)
{
    struct entry *entries[COPY_BATCH_MAX];

    while (clock_left_ns(store->clock, deadline_ns) > 0) {
        uint64_t freed = 0;
        uint32_t count = evict_for_demotion(store, bytes, entries, COPY_BATCH_MAX, &freed);
        if (count) {
            (void)!copy_entries(store, copier, entries, count, true, deadline_ns);
        }
        if (!freed || freed >= bytes) {
            break;
        }
        bytes -= freed;
    }
}

/* -------------------------------------------------------------------------------- flush -- */

struct flush_pass {
    uint64_t generation; /* values up to this one are waited for */
    enum umbp_status status;
    bool copying; /* some are in a copier's hands */
    bool wrote;
};

static void flush_shard(struct store *store, struct copier *copier, struct shard *shard,
                        struct flush_pass *pass, uint64_t deadline_ns)
{
    struct entry *entries[COPY_BATCH_MAX];
    uint64_t cursor = 0;
    uint64_t mask = 0;
    uint32_t handle;

    do {
        uint32_t count = 0;
        mutex_lock(&shard->lock);
        uint64_t mask_now = atomic_load_explicit(&shard->bucket_mask, memory_order_relaxed);
        if (mask != mask_now) {
            mask = mask_now; /* the table grew: what was to come may lie behind the cursor now */
            cursor = 0;
        }
        handle = 0;
        while (shard->dirty && count < COPY_BATCH_MAX && (handle = index_walk(shard, &cursor))) {
            struct entry *entry = index_entry(shard, handle);
            if (!entry_is_dirty(entry) || entry->generation > pass->generation) {
                continue;
            }
            if (entry->flags & ENTRY_COPYING) {
                pass->copying = true;
                continue;
            }
            begin_copy(shard, entry);
            entries[count++] = entry;
        }
        mutex_unlock(&shard->lock);
        if (count) {
            enum umbp_status status =
                copy_entries(store, copier, entries, count, false, deadline_ns);
            pass->wrote = true;
            if (status != UMBP_OK && status != UMBP_TOO_LARGE) {
                pass->status = status;
            }
        }
    } while (handle && pass->status == UMBP_OK);
}

static bool any_tombs(struct store *store)
{
    bool any = false;
    for (uint32_t s = 0; s < store->shard_count && !any; s++) {
        mutex_lock(&store->shards[s].lock);
        any = store->shards[s].tombs > 0;
        mutex_unlock(&store->shards[s].lock);
    }
    return any;
}

/* A copier tells when it is done with something; look again then, or after a moment. */
static void wait_for_copiers(struct store *store)
{
    struct copy_queue *queue = &store->queue;
    mutex_lock(&queue->lock);
    (void)condition_wait(&queue->done, &queue->lock, clock_deadline_ns(clock_monotonic(), 10));
    mutex_unlock(&queue->lock);
}

static enum umbp_status flush_all(struct store *store, struct copier *copier, uint64_t deadline_ns)
{
    struct flush_pass pass = {
        .generation = atomic_load_explicit(&store->generation, memory_order_relaxed),
    };
    for (;;) {
        pass.copying = false;
        pass.wrote = false;
        for (uint32_t s = 0; s < store->shard_count && pass.status == UMBP_OK; s++) {
            flush_shard(store, copier, &store->shards[s], &pass, deadline_ns);
        }
        if (pass.status == UMBP_OK) {
            pass.status = copy_tombstones(store, copier, deadline_ns);
        }
        if (pass.status != UMBP_OK) {
            return pass.status;
        }
        if (!pass.copying && !pass.wrote && !any_tombs(store)) {
            return UMBP_OK;
        }
        if (clock_left_ns(store->clock, deadline_ns) == 0) {
            return UMBP_TIMEOUT;
        }
        if (!pass.wrote) {
            wait_for_copiers(store);
        }
    }
}

enum umbp_status store_flush(struct store *store, uint64_t deadline_ns)
{
    if (!store->copies) {
        return UMBP_OK;
    }
    struct copier *copier = copier_create(store);
    if (!copier) {
        return UMBP_NO_MEMORY;
    }
    enum umbp_status status = flush_all(store, copier, deadline_ns);
    copier_destroy(copier);
    if (status == UMBP_OK && store->options.ssd.durability == SSD_STRICT) {
        status = ssd_sync(store->ssd, deadline_ns);
    }
    return status;
}
