/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store's life: made, kept up, cleared, closed.
 *
 * Making goes from the bottom up (DRAM, index, evictor, copy pool, events, log, threads), and every
 * step that fails is undone by the one destructor, which takes a store in any state of completion.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "store/store_priv.h"

#define UPKEEP_IDLE_MS 1000u
#define COPY_THREADS_MAX 8u
#define JOIN_GRACE_MS 200u
#define SEAL_GRACE_MS 1500u
#define UPKEEP_STEP_BYTES (2 * (uint64_t)COPY_BATCH_BYTES)

void store_options_default(struct store_options *options)
{
    *options = (struct store_options){
        .dram = {.bytes = 4 * GIB, .numa_node = DRAM_NUMA_ANY, .prefault = true},
        .dram_high_watermark = 0.95,
        .dram_low_watermark = 0.9,
        .ssd = {.bytes = 32 * GIB, .durability = SSD_STRICT},
        .disk_driver = "auto",
        .ssd_high_watermark = 0.95,
        .ssd_low_watermark = 0.90,
        .promote_on_read = true,
        .policy = "lru",
        .candidate_window = 16,
        .copy_workers = 2,
        .copy_queue_depth = 4096,
        .copy_spin_us = 20,
        .follower_poll_ms = 100,
        .op_timeout_ms = 30000,
        .close_timeout_ms = 3000,
    };
}

/* ----------------------------------------------------------------------------- options --- */

PRINTF_LIKE(4, 5)
static enum umbp_status refuse(enum umbp_status status, char *error_out, size_t error_bytes,
                               const char *format, ...)
{
    if (error_out && error_bytes) {
        va_list arguments;
        va_start(arguments, format);
        (void)vsnprintf(error_out, error_bytes, format, arguments);
        va_end(arguments);
    }
    return status;
}

static bool watermarks_are_good(double low, double high)
{
    return low > 0 && low <= high && high <= 1;
}

static enum umbp_status check_options(const struct store_options *options, char *error_out,
                                      size_t error_bytes)
{
    const enum umbp_status bad = UMBP_INVALID_VALUE;
    if (!watermarks_are_good(options->dram_low_watermark, options->dram_high_watermark)) {
        return refuse(bad, error_out, error_bytes,
                      "the DRAM watermarks must hold 0 < low <= high <= 1, not %g and %g",
                      options->dram_low_watermark, options->dram_high_watermark);
    }
    if (options->ssd_enabled &&
        !watermarks_are_good(options->ssd_low_watermark, options->ssd_high_watermark)) {
        return refuse(bad, error_out, error_bytes,
                      "the SSD watermarks must hold 0 < low <= high <= 1, not %g and %g",
                      options->ssd_low_watermark, options->ssd_high_watermark);
    }
    if (!options->policy || !policy_find(options->policy)) {
        return refuse(bad, error_out, error_bytes,
                      "no eviction policy \"%s\": lru, prefix_aware_lru or s3fifo",
                      options->policy ? options->policy : "");
    }
    if (options->role != STORE_STANDALONE && !options->ssd_enabled) {
        return refuse(bad, error_out, error_bytes,
                      "a leader or follower needs an SSD directory to share");
    }
    if (options->ssd_enabled && (!options->ssd.directory || !options->ssd.directory[0])) {
        return refuse(bad, error_out, error_bytes, "the SSD tier needs a directory");
    }
    if (options->shards &&
        (!is_power_of_two(options->shards) || options->shards > STORE_SHARDS_MAX)) {
        return refuse(bad, error_out, error_bytes,
                      "the number of index shards must be a power of two up to %u, not %u",
                      STORE_SHARDS_MAX, options->shards);
    }
    if (!options->candidate_window || options->candidate_window > 1024) {
        return refuse(bad, error_out, error_bytes, "the candidate window must be 1 to 1024, not %u",
                      options->candidate_window);
    }
    if (options->ssd_enabled &&
        (!options->copy_workers || options->copy_workers > 64 || !options->copy_queue_depth)) {
        return refuse(bad, error_out, error_bytes,
                      "the copy pipeline needs 1 to 64 workers and a queue");
    }
    return UMBP_OK;
}

/* ------------------------------------------------------------------------------ upkeep --- */

void upkeep_ask(struct store *store)
{
    if (!atomic_exchange_explicit(&store->upkeep_asked, true, memory_order_relaxed)) {
        mutex_lock(&store->lock);
        condition_signal(&store->upkeep_work);
        mutex_unlock(&store->lock);
    }
}

static uint64_t dram_used(const struct store *store)
{
    return dram_bytes_total(store->dram) - dram_bytes_free(store->dram);
}

static bool is_stopping(struct store *store)
{
    mutex_lock(&store->lock);
    bool stopping = store->upkeep_stopping;
    mutex_unlock(&store->lock);
    return stopping;
}

/* Values are written before they leave, as long as the SSD takes any, however fast new ones come:
 * what finds the tier full makes its own room. Only a tier that can't be relieved so is emptied
 * without. */
static void keep_watermark(struct store *store)
{
    uint64_t used = dram_used(store);
    bool relieved = true;

    if (used <= store->dram_high_bytes) {
        return;
    }
    while (store->copies && relieved && used > store->dram_low_bytes && !is_stopping(store)) {
        /* In steps, so that a close need not wait for all of it. */
        uint64_t bytes = u64_min(used - store->dram_low_bytes, UPKEEP_STEP_BYTES);
        relieved = copy_demote(store, store->upkeep_copier, bytes, store_deadline(store));
        used = dram_used(store);
    }
    if (used > store->dram_high_bytes && (!store->copies || !relieved)) {
        (void)evict_bytes(store, used - store->dram_low_bytes);
    }
}

static void *upkeep_main(void *context)
{
    struct store *store = context;
    bool follower = store->options.role == STORE_FOLLOWER;
    uint32_t idle_ms = follower ? store->options.follower_poll_ms : UPKEEP_IDLE_MS;

    for (;;) {
        uint64_t deadline_ns = clock_deadline_ns(clock_monotonic(), idle_ms);
        mutex_lock(&store->lock);
        bool in_time = true;
        while (in_time && !store->upkeep_stopping &&
               !atomic_load_explicit(&store->upkeep_asked, memory_order_relaxed)) {
            in_time = condition_wait(&store->upkeep_work, &store->lock, deadline_ns);
        }
        bool stop = store->upkeep_stopping;
        if (stop) {
            store->upkeep_exited = true;
            condition_signal(&store->upkeep_done);
        }
        mutex_unlock(&store->lock);
        if (stop) {
            return NULL;
        }
        atomic_store_explicit(&store->upkeep_asked, false, memory_order_relaxed);
        keep_watermark(store);
        if (follower) {
            (void)follower_refresh(store, store->options.follower_poll_ms);
        }
    }
}

static void upkeep_tell_stop(struct store *store)
{
    mutex_lock(&store->lock);
    store->upkeep_stopping = true;
    condition_signal(&store->upkeep_work);
    mutex_unlock(&store->lock);
}

static bool upkeep_stop(struct store *store, uint64_t deadline_ns)
{
    if (store->upkeep_started) {
        mutex_lock(&store->lock);
        while (!store->upkeep_exited &&
               condition_wait(&store->upkeep_done, &store->lock, deadline_ns)) {
        }
        bool exited = store->upkeep_exited;
        mutex_unlock(&store->lock);
        if (exited) {
            pthread_join(store->upkeep_thread, NULL);
            store->upkeep_started = false;
        } else {
            pthread_detach(store->upkeep_thread); /* it ends by itself, some day */
        }
    }
    return !store->upkeep_started;
}

/* -------------------------------------------------------------------------------- make --- */

static void init_locks(struct store *store)
{
    mutex_init(&store->lock, RANK_STORE);
    condition_init(&store->upkeep_work);
    condition_init(&store->upkeep_done);
    mutex_init(&store->queue.lock, RANK_STORE_QUEUE);
    condition_init(&store->queue.work);
    condition_init(&store->queue.done);
}

static enum umbp_status make_memory(struct store *store, char *error_out, size_t error_bytes)
{
    const struct store_options *options = &store->options;
    uint32_t threads = options->copy_threads;

    enum umbp_status status = dram_create(&options->dram, &store->dram);
    if (status != UMBP_OK) {
        return refuse(status, error_out, error_bytes,
                      "a DRAM tier of %llu bytes could not be made: %s%s",
                      (unsigned long long)options->dram.bytes, umbp_status_text(status),
                      status == UMBP_UNSUPPORTED ? " (dram.numa_node, dram.backing)" : "");
    }
    uint64_t total = dram_bytes_total(store->dram);
    store->dram_high_bytes = (uint64_t)((double)total * options->dram_high_watermark);
    store->dram_low_bytes = (uint64_t)((double)total * options->dram_low_watermark);
    /* Copiers, upkeep and a flush together hold an eighth of the tier. */
    store->copy_pin_bytes = u64_min(COPY_BATCH_BYTES, total / 8 / (options->copy_workers + 2));
    if (!threads) {
        threads = (uint32_t)u64_min(thread_cpu_count(), COPY_THREADS_MAX);
    }
    status = copy_pool_create(threads, options->copy_spin_us, &store->copy_pool);
    if (status == UMBP_OK) {
        status = index_create(store);
    }
    if (status == UMBP_OK) {
        status = evictor_create(store);
    }
    if (status == UMBP_OK) {
        status = events_create(store);
    }
    return status == UMBP_OK ? UMBP_OK : refuse(status, error_out, error_bytes, "out of memory");
}

/* The driver, behind a wrapper that lets no call on files hang. */
static enum umbp_status make_disk(struct store *store)
{
    const struct store_options *options = &store->options;
    uint64_t timeout_ms =
        options->ssd.io_timeout_ms ? options->ssd.io_timeout_ms : SSD_IO_TIMEOUT_MS_DEFAULT;
    struct disk *driver = options->disk;
    if (!driver) {
        enum umbp_status status = disk_auto_create(options->disk_driver, &driver);
        if (status != UMBP_OK) {
            return status;
        }
    }
    return disk_bounded_create(driver, !options->disk, timeout_ms * NS_PER_MS, &store->disk);
}

static enum umbp_status make_ssd(struct store *store, char *error_out, size_t error_bytes)
{
    struct store_options *options = &store->options;
    if (!options->ssd_enabled) {
        return UMBP_OK;
    }
    store->copies = options->role != STORE_FOLLOWER;
    if (options->role == STORE_LEADER) {
        options->copy_mode = STORE_COPY_ON_COMMIT;
    }
    enum umbp_status status = make_disk(store);
    if (status != UMBP_OK) {
        return refuse(status, error_out, error_bytes, "the I/O driver \"%s\": %s",
                      options->disk_driver, umbp_status_text(status));
    }
    options->ssd.segment_bytes =
        u64_min(options->ssd.segment_bytes ? options->ssd.segment_bytes : SSD_SEGMENT_BYTES_DEFAULT,
                u64_max(options->ssd.bytes / 8, SSD_SEGMENT_BYTES_MIN));
    options->ssd.disk = store->disk;
    options->ssd.clock = store->clock;
    options->ssd.read_only = options->role == STORE_FOLLOWER;
    struct ssd_visitor visitor = recover_visitor(store);
    status =
        ssd_open(&options->ssd, &visitor, &store->ssd, &store->recovery, error_out, error_bytes);
    recover_finish(store);
    if (status == UMBP_OK) {
        recover_generation(store, store->recovery.max_generation);
    }
    return status;
}

static enum umbp_status start_threads(struct store *store)
{
    if (store->copies) {
        store->upkeep_copier = copier_create(store);
        if (!store->upkeep_copier) {
            return UMBP_NO_MEMORY;
        }
    }
    enum umbp_status status = copy_start(store);
    if (status == UMBP_OK) {
        status = thread_create(&store->upkeep_thread, "umbp-upkeep", true, upkeep_main, store);
        store->upkeep_started = status == UMBP_OK;
    }
    return status;
}

enum umbp_status store_create(const struct store_options *options, struct store **store_out,
                              char *error_out, size_t error_bytes)
{
    enum umbp_status status = check_options(options, error_out, error_bytes);
    if (status != UMBP_OK) {
        return status;
    }
    struct store *store = mem_aligned(CACHE_LINE, sizeof(*store));
    if (!store) {
        return refuse(UMBP_NO_MEMORY, error_out, error_bytes, "out of memory");
    }
    memset(store, 0, sizeof(*store));
    store->options = *options;
    store->clock = options->clock ? options->clock : clock_monotonic();
    store->policy = policy_find(options->policy);
    init_locks(store);
    status = make_memory(store, error_out, error_bytes);
    if (status == UMBP_OK) {
        status = make_ssd(store, error_out, error_bytes);
    }
    if (status == UMBP_OK) {
        status = start_threads(store);
        if (status != UMBP_OK) {
            status = refuse(status, error_out, error_bytes, "no memory or threads: %s",
                            umbp_status_text(status));
        }
    }
    /* Borrowed texts must not be followed later. */
    store->options.ssd.directory = NULL;
    store->options.disk_driver = NULL;
    store->options.policy = store->policy->name;
    if (status != UMBP_OK) {
        store_destroy(store);
        return status;
    }
    *store_out = store;
    return UMBP_OK;
}

struct dram_tier *store_dram(struct store *store) { return store->dram; }

/* ------------------------------------------------------------------------------- clear --- */

/* Everything that was committed up to `generation`. Blocks are freed a few at a time. */
#define CLEAR_CHUNK 64u

static void clear_shard(struct store *store, struct shard *shard, uint64_t generation)
{
    struct dram_block blocks[CLEAR_CHUNK];
    uint64_t cursor = 0;
    uint64_t mask = 0;
    uint32_t handle;

    do {
        uint32_t count = 0;
        mutex_lock(&shard->lock);
        uint64_t mask_now = atomic_load_explicit(&shard->bucket_mask, memory_order_relaxed);
        if (mask != mask_now) {
            mask = mask_now;
            cursor = 0;
        }
        handle = 0;
        while (count < CLEAR_CHUNK && (handle = index_walk(shard, &cursor))) {
            struct entry *entry = index_entry(shard, handle);
            if (entry->generation > generation) {
                continue;
            }
            if (store->options.role != STORE_FOLLOWER) {
                entry_remove(store, shard, handle, false, &blocks[count++]);
            } else if ((entry->flags & ENTRY_LISTED) && index_is_unpinned(entry)) {
                /* The records are the leader's: only what was brought into memory goes. */
                entry_drop_dram(store, shard, handle, false, &blocks[count++]);
            }
        }
        mutex_unlock(&shard->lock);
        dram_free_batch(store->dram, blocks, count);
    } while (handle);
}

/*
 * A value that was put after the clear began may have been copied into a segment that it took away.
 * It is dirty again, if it is in memory; else it went with what was cleared. (A copier that has not
 * published its location yet finds out by itself.)
 */
static void heal_shard(struct store *store, struct shard *shard)
{
    uint64_t cursor = 0;
    uint32_t handle;
    mutex_lock(&shard->lock);
    while ((handle = index_walk(shard, &cursor))) {
        struct entry *entry = index_entry(shard, handle);
        if (!entry->ssd.segment || ssd_location_is_live(store->ssd, entry->ssd)) {
            continue;
        }
        bool in_dram = entry->flags & ENTRY_LISTED;
        entry_drop_ssd(store, shard, handle);
        if (in_dram) {
            entry->flags &= (uint8_t)~ENTRY_SETTLED;
            shard->dirty++;
        }
    }
    mutex_unlock(&shard->lock);
}

enum umbp_status store_clear(struct store *store, uint64_t deadline_ns)
{
    uint64_t generation = store_generation(store);

    for (uint32_t s = 0; s < store->shard_count; s++) {
        clear_shard(store, &store->shards[s], generation);
    }
    if (!store->copies) {
        return UMBP_OK;
    }
    uint64_t before_ns = store_files_until(store, deadline_ns);
    enum umbp_status status = ssd_clear(store->ssd, generation, deadline_ns);
    (void)disk_thread_deadline(before_ns);
    for (uint32_t s = 0; s < store->shard_count; s++) {
        heal_shard(store, &store->shards[s]);
    }
    return status;
}

/* ------------------------------------------------------------------------------- close --- */

/* UMBP_TIMEOUT with the tier still there: the disk has not given back everything. */
static enum umbp_status close_ssd(struct store *store, uint64_t deadline_ns)
{
    /* Sealing has a grace of its own. */
    uint64_t files_ns = u64_max(deadline_ns, clock_deadline_ns(store->clock, SEAL_GRACE_MS));
    uint64_t before_ns = store_files_until(store, files_ns);
    enum umbp_status status = ssd_close(store->ssd, deadline_ns);
    (void)disk_thread_deadline(before_ns);
    if (status == UMBP_BUSY) {
        return UMBP_TIMEOUT;
    }
    store->ssd = NULL;
    return status;
}

enum umbp_status store_close(struct store *store, uint64_t deadline_ns)
{
    enum umbp_status status = UMBP_OK;

    mutex_lock(&store->lock);
    bool was_closed = store->closed;
    store->closed = true;
    mutex_unlock(&store->lock);
    if (was_closed) {
        return UMBP_OK;
    }
    events_close(store);
    if (store->ssd && store->queue.tickets) {
        status = store_flush(store, deadline_ns);
    }
    /* A little beyond the deadline, for threads that only have to notice. */
    uint64_t join_ns = u64_max(deadline_ns, clock_deadline_ns(clock_monotonic(), JOIN_GRACE_MS));
    upkeep_tell_stop(store);
    bool copiers_left = !copy_stop(store, join_ns);
    store->abandoned = !upkeep_stop(store, join_ns) || copiers_left;
    if (store->abandoned) {
        if (store->disk) {
            disk_bounded_retire(store->disk);
        }
        return UMBP_TIMEOUT;
    }
    if (store->ssd) {
        enum umbp_status closing = close_ssd(store, deadline_ns);
        status = status == UMBP_OK ? closing : status;
    }
    return status;
}

void store_destroy(struct store *store)
{
    if (!store) {
        return;
    }
    uint64_t deadline_ns = clock_deadline_ns(store->clock, store->options.close_timeout_ms);
    (void)store_close(store, deadline_ns);
    if (store->abandoned) {
        log_error("store_left_behind", "a thread hangs in the disk; its memory is not freed");
        return;
    }
    if (store->ssd) {
        (void)close_ssd(store, deadline_ns);
    }
    if (store->ssd) { /* a thread hangs in it, or the disk may still write from the tier's memory */
        disk_bounded_retire(store->disk);
        log_error("store_left_behind", "the disk keeps requests; its memory is not freed");
        return;
    }
    recover_finish(store);
    copier_destroy(store->upkeep_copier);
    disk_destroy(store->disk);
    events_destroy(store);
    if (store->evictor.per_shard) {
        evictor_destroy(store);
    }
    index_destroy(store);
    copy_pool_destroy(store->copy_pool);
    dram_destroy(store->dram);
    condition_fini(&store->queue.done);
    condition_fini(&store->queue.work);
    mutex_fini(&store->queue.lock);
    condition_fini(&store->upkeep_done);
    condition_fini(&store->upkeep_work);
    mutex_fini(&store->lock);
    mem_free(store);
}
