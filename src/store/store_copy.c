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
/* Rounds of reclaim without getting any of the room: others may take it again and again. */
#define COPY_TRIES 64
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
static void begin_copy(struct store *store, struct shard *shard, struct entry *entry)
{
    index_ref(entry);
    entry->flags |= ENTRY_COPYING;
    shard->copying++;
    atomic_fetch_add_explicit(&store->copying, 1, memory_order_relaxed);
}

static struct entry *pin_ticket(struct store *store, const struct copy_ticket *ticket)
{
    struct shard *shard = &store->shards[ticket->shard];
    struct entry *taken = NULL;

    mutex_lock(&shard->lock);
    struct entry *entry = index_entry(shard, ticket->handle);
    if (entry->generation == ticket->generation && entry_is_dirty(entry) &&
        !(entry->flags & ENTRY_COPYING)) {
        begin_copy(store, shard, entry);
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

static void prepare(struct store *store, struct copier *copier, struct entry *entry, uint32_t index,
                    struct iovec *iovs, unsigned iov_count)
{
    struct shard *shard = index_shard(store, entry->print);
    mutex_lock(&shard->lock);
    bool has_crc = entry->flags & ENTRY_HAS_CRC;
    uint32_t crc = entry->crc;
    mutex_unlock(&shard->lock);
    copier->appends[index] = (struct ssd_append){
        .key = {entry->key, entry->key_bytes},
        .generation = entry->generation,
        .value_bytes = entry->bytes,
        .depth = entry->depth,
        .has_crc = has_crc,
        .value_crc = crc,
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
            prepare(store, copier, entry, 0, copier->iovs, 1);
            return 1;
        }
        prepare(store, copier, entry, taken, copier->iovs + used, pieces);
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

/* Whether an append that ended so may have left a record behind. */
static bool may_lie_on_disk(enum umbp_status status)
{
    return status == UMBP_OK || status == UMBP_IO || status == UMBP_TIMEOUT;
}

/*
 * Under the shard's lock: the record lies on the disk, and the index may say so. Not if its segment
 * was given up meanwhile: the visit of the reclaimer, which did not find this location in the
 * index, would leave it dangling. The value then stays dirty, for another time.
 */
static bool publish_location(struct store *store, struct shard *shard, struct entry *entry,
                             const struct ssd_append *append)
{
    if (!ssd_location_is_live(store->ssd, append->location)) {
        ssd_mark_dead(store->ssd, append->location, entry->bytes, entry->key_bytes);
        return false;
    }
    if (entry_is_dirty(entry)) {
        shard->dirty--;
    }
    entry->ssd = append->location;
    entry->crc = append->value_crc;
    entry->flags |= ENTRY_SETTLED | ENTRY_HAS_CRC;
    entry->flags &= (uint8_t)~ENTRY_REFERENCED;
    events_record(store, entry, STORE_TIER_SSD, true);
    return true;
}

/* Under the shard's lock: the key was removed while its record was written. True if the caller's
 * reference was handed to the tombstone. */
static bool bury_orphan(struct store *store, struct shard *shard, struct entry *entry,
                        const struct ssd_append *append)
{
    if (append->status == UMBP_OK) {
        ssd_mark_dead(store->ssd, append->location, entry->bytes, entry->key_bytes);
    }
    if (!entry->stamp) {
        return false;
    }
    if (!(entry->flags & ENTRY_ON_DISK)) {
        shard->tombs_written++; /* none is needed after all */
        return false;
    }
    entry_bury(shard, entry);
    return true;
}

/* End ENTRY_COPYING. True if there is a tombstone to write now. */
static bool finish_entry(struct store *store, struct entry *entry, const struct ssd_append *append,
                         bool demote)
{
    struct shard *shard = index_shard(store, entry->print);
    struct umbp_key key = {entry->key, entry->key_bytes};
    struct dram_block block = {0};
    bool buried = false;
    bool may_drop = false;

    mutex_lock(&shard->lock);
    entry->flags &= (uint8_t)~ENTRY_COPYING;
    shard->copying--;
    atomic_fetch_sub_explicit(&store->copying, 1, memory_order_relaxed);
    if (may_lie_on_disk(append->status)) {
        entry->flags |= ENTRY_ON_DISK;
    }
    if (!(entry->flags & ENTRY_LINKED)) {
        buried = bury_orphan(store, shard, entry, append);
    } else if (append->status == UMBP_OK) {
        may_drop = publish_location(store, shard, entry, append);
    } else if (append->status == UMBP_TOO_LARGE) {
        if (entry_is_dirty(entry)) {
            shard->dirty--;
        }
        entry->flags |= ENTRY_SETTLED;
        may_drop = true;
    }
    if (!buried) {
        uint32_t handle = entry->flags & ENTRY_LINKED ? index_find(shard, entry->print, key) : 0;
        index_unref_locked(store, shard, entry, &block);
        if (demote && may_drop && (entry->flags & ENTRY_LISTED) && index_is_unpinned(entry)) {
            entry_drop_dram(store, shard, handle, true, &block);
        }
    }
    mutex_unlock(&shard->lock);
    dram_free(store->dram, &block);
    if (append->status == UMBP_OK) {
        atomic_fetch_add_explicit(&store->copied.done, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&store->copied.bytes, append->value_bytes, memory_order_relaxed);
    } else if (append->status != UMBP_STALE) {
        count_failure(store, append->status);
    }
    return buried;
}

struct copy_round {
    bool demote;
    bool tombs;
    bool any_ok;
    enum umbp_status status; /* the first failure */
};

/* Write as many as go into one call, and finish all but those that found no space, which are moved
 * to the front of what is left. Returns how many were finished. */
static uint32_t copy_round(struct store *store, struct copier *copier, struct entry **entries,
                           uint32_t count, bool last_try, struct copy_round *round,
                           uint64_t deadline_ns)
{
    uint32_t finished = 0;
    uint32_t taken = prepare_some(store, copier, entries, count);

    if (taken) {
        /* Each has its own status. */
        (void)!ssd_append(store->ssd, copier->appends, taken, false, deadline_ns);
    } else {
        taken = 1;
        copier->appends[0].status = UMBP_NO_MEMORY;
    }
    if (copier->staged) {
        mem_unmap(copier->staged, copier->staged_bytes);
        copier->staged = NULL;
    }
    for (uint32_t i = 0; i < taken; i++) {
        const struct ssd_append *append = &copier->appends[i];
        if (append->status == UMBP_NO_SPACE && !last_try) {
            continue;
        }
        round->any_ok |= append->status == UMBP_OK;
        if (append->status != UMBP_OK && round->status == UMBP_OK) {
            round->status = append->status;
        }
        round->tombs |= finish_entry(store, entries[i], append, round->demote);
        /* Out of the way, so that the others stay in front. */
        entries[i] = entries[finished++];
    }
    return finished;
}

enum umbp_status copy_entries(struct store *store, struct copier *copier, struct entry **entries,
                              uint32_t count, bool demote, uint64_t deadline_ns)
{
    struct copy_round round = {.demote = demote};
    int tries = 0;

    while (count) {
        round.any_ok = false;
        bool last_try = tries == COPY_TRIES || clock_left_ns(store->clock, deadline_ns) == 0;
        uint32_t finished =
            copy_round(store, copier, entries, count, last_try, &round, deadline_ns);
        entries += finished;
        count -= finished;
        tries = round.any_ok ? 0 : tries;
        if (count && !finished) {
            /* Everything found the tier full. What was finished is published by now. */
            if (reclaim_run(store, true, deadline_ns) != UMBP_OK) {
                tries = COPY_TRIES;
            } else {
                tries++;
            }
        }
    }
    if (round.tombs) {
        copy_wake(store, true, false);
    }
    tell_flushers(store);
    return round.status;
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
        entries[count++] = entry;
    }
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
            .generation = entry->stamp, /* of when it was removed */
            .is_tombstone = true,
            .status = UMBP_TIMEOUT,
        };
    }
    /* Like values, they make room when there is none: the log's reserve is the reclaimer's. */
    enum umbp_status status = ssd_append(store->ssd, copier->appends, count, false, deadline_ns);
    for (int tries = 0; status == UMBP_NO_SPACE && tries < COPY_TRIES; tries++) {
        if (reclaim_run(store, true, deadline_ns) != UMBP_OK) {
            break;
        }
        status = ssd_append(store->ssd, copier->appends, count, false, deadline_ns);
    }
    for (uint32_t i = 0; i < count; i++) {
        struct entry *entry = copier->entries[i];
        bool written = copier->appends[i].status == UMBP_OK;
        struct dram_block block = {0};
        mutex_lock(&shard->lock);
        if (written) {
            shard->tombs_written++;
        } else {
            entry_bury(shard, entry);
            if (index_is_unpinned(entry)) {
                /* A reader held it then; the memory need not wait for the disk. */
                block = entry->block;
                entry->block = (struct dram_block){0};
            }
        }
        mutex_unlock(&shard->lock);
        dram_free(store->dram, &block);
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

static bool queue_is_stopping(struct store *store)
{
    mutex_lock(&store->queue.lock);
    bool stopping = store->queue.stopping;
    mutex_unlock(&store->queue.lock);
    return stopping;
}

/* Pinned memory can't be evicted: no more is pinned at a time than is written at a time. A close
 * has flushed what it could, and does not wait for the rest. */
static void copy_tickets(struct store *store, struct copier *copier, uint32_t count)
{
    struct entry *pinned[COPY_BATCH_MAX];
    uint32_t at = 0;

    while (at < count && !queue_is_stopping(store)) {
        uint32_t pins = 0;
        uint64_t bytes = 0;
        while (at < count && (!pins || bytes < store->copy_pin_bytes)) {
            struct entry *entry = pin_ticket(store, &copier->tickets[at++]);
            if (entry) {
                bytes += entry->bytes;
                pinned[pins++] = entry;
            } else {
                atomic_fetch_add_explicit(&store->copied.drops_gone, 1, memory_order_relaxed);
            }
        }
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
        if (work.tombs) {
            (void)!copy_tombstones(store, copier, store_deadline(store));
        }
        if (work.tickets) {
            copy_tickets(store, copier, work.tickets);
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
            for (uint32_t i = 0; i < store->copiers_started; i++) {
                pthread_detach(store->copiers[i]->thread); /* they end by themselves, some day */
            }
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

bool copy_demote(struct store *store, struct copier *copier, uint64_t bytes, uint64_t deadline_ns)
{
    struct entry *entries[COPY_BATCH_MAX];
    bool any = false;

    while (clock_left_ns(store->clock, deadline_ns) > 0) {
        uint64_t freed = 0;
        enum umbp_status status = UMBP_OK;
        uint32_t count = evict_for_demotion(store, bytes, entries, COPY_BATCH_MAX, &freed);
        if (count) {
            status = copy_entries(store, copier, entries, count, true, deadline_ns);
        }
        any |= freed && status == UMBP_OK;
        if (!freed || freed >= bytes || status != UMBP_OK) {
            break;
        }
        bytes -= freed;
    }
    return any;
}

/* -------------------------------------------------------------------------------- flush -- */

struct flush_pass {
    uint64_t generation; /* values up to this one are waited for */
    enum umbp_status status;
    bool copying; /* some are in a copier's hands */
    bool wrote;
    bool buried[STORE_SHARDS_MAX]; /* the shard was seen without a tombstone to write */

    struct entry *entries[COPY_BATCH_MAX]; /* pinned for the next write, from one shard or many */
    uint32_t count;
    uint64_t bytes;
};

static bool flush_is_full(const struct store *store, const struct flush_pass *pass)
{
    return pass->count == COPY_BATCH_MAX || pass->bytes >= store->copy_pin_bytes;
}

/* Under the shard's lock: pin the next dirty values behind the cursor, up to one write's worth.
 * True if there may be more. */
static bool flush_pin(struct store *store, struct shard *shard, struct flush_pass *pass,
                      uint64_t *cursor)
{
    uint32_t handle = 0;

    while (shard->dirty && !flush_is_full(store, pass) && (handle = index_walk(shard, cursor))) {
        struct entry *entry = index_entry(shard, handle);
        if (!entry_is_dirty(entry) || entry->generation > pass->generation) {
            continue;
        }
        if (entry->flags & ENTRY_COPYING) {
            pass->copying = true;
            continue;
        }
        begin_copy(store, shard, entry);
        pass->bytes += entry->bytes;
        pass->entries[pass->count++] = entry;
    }
    return handle != 0;
}

static void flush_write(struct store *store, struct copier *copier, struct flush_pass *pass,
                        uint64_t deadline_ns)
{
    if (!pass->count) {
        return;
    }
    enum umbp_status status =
        copy_entries(store, copier, pass->entries, pass->count, false, deadline_ns);
    pass->count = 0;
    pass->bytes = 0;
    pass->wrote = true;
    /* Too large for the SSD for ever; or its segment was cleared away: the next pass. */
    if (status != UMBP_OK && status != UMBP_TOO_LARGE && status != UMBP_STALE) {
        pass->status = status;
    }
}

static void flush_shard(struct store *store, struct copier *copier, struct shard *shard,
                        struct flush_pass *pass, uint64_t deadline_ns)
{
    uint64_t cursor = 0;
    uint64_t mask = 0;
    bool more;

    do {
        mutex_lock(&shard->lock);
        uint64_t mask_now = atomic_load_explicit(&shard->bucket_mask, memory_order_relaxed);
        if (mask != mask_now) {
            mask = mask_now; /* the table grew: what was to come may lie behind the cursor now */
            cursor = 0;
        }
        more = flush_pin(store, shard, pass, &cursor);
        mutex_unlock(&shard->lock);
        if (flush_is_full(store, pass)) {
            flush_write(store, copier, pass, deadline_ns);
        }
    } while (more && pass->status == UMBP_OK);
}

/*
 * Whether tombstones of before the flush may still have to be written. Copiers hold some, and
 * finish them in any order, so a count tells nothing but when it is zero: each shard must have been
 * seen once without any.
 */
static bool tombs_missing(struct store *store, struct flush_pass *pass)
{
    bool missing = false;
    for (uint32_t s = 0; s < store->shard_count; s++) {
        if (!pass->buried[s]) {
            mutex_lock(&store->shards[s].lock);
            pass->buried[s] = store->shards[s].tombs_written == store->shards[s].tombs_made;
            mutex_unlock(&store->shards[s].lock);
            missing |= !pass->buried[s];
        }
    }
    return missing;
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
        .status = UMBP_OK,
        .generation = atomic_load_explicit(&store->generation, memory_order_relaxed),
    };
    for (;;) {
        pass.copying = false;
        pass.wrote = false;
        for (uint32_t s = 0; s < store->shard_count && pass.status == UMBP_OK; s++) {
            flush_shard(store, copier, &store->shards[s], &pass, deadline_ns);
        }
        flush_write(store, copier, &pass, deadline_ns);
        if (pass.status == UMBP_OK) {
            enum umbp_status status = copy_tombstones(store, copier, deadline_ns);
            /* Their segment was cleared away: they are on the list again. */
            pass.status = status == UMBP_STALE ? UMBP_OK : status;
        }
        if (pass.status != UMBP_OK) {
            return pass.status;
        }
        if (!tombs_missing(store, &pass) && !pass.copying && !pass.wrote) {
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
    uint64_t before_ns = store_files_until(store, deadline_ns);
    enum umbp_status status = flush_all(store, copier, deadline_ns);
    copier_destroy(copier);
    if (status == UMBP_OK && store->options.ssd.durability == SSD_STRICT) {
        status = ssd_sync(store->ssd, deadline_ns);
    }
    (void)disk_thread_deadline(before_ns);
    return status;
}
