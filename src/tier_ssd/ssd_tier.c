/* SPDX-License-Identifier: Apache-2.0 */
/* Opening, closing, syncing and counting. */
#include <errno.h>
#include <inttypes.h>
#include <sys/random.h>

#include "tier_ssd/ssd_priv.h"

#define READ_QUEUES_DEFAULT 4u
#define READ_QUEUES_MAX 64u
#define QUEUE_DEPTH_DEFAULT 32u
#define QUEUE_DEPTH_MAX 256u
#define IO_BYTES_DEFAULT (1u << 20)
#define IO_BYTES_MIN (64u * 1024u)
#define IO_BYTES_MAX (64u << 20)
#define SEGMENTS_PER_TIER_MIN 8u
#define ARENA_BYTES_MIN (64u * 1024u)

struct open_state {
    const struct ssd_options *options;
    struct ssd_super super;
    bool is_unled;
    char *error;
    size_t error_bytes;
};

/* -------------------------------------------------------------------------- options ------ */

static enum umbp_status options_check(const struct open_state *open)
{
    const struct ssd_options *options = open->options;
    const char *wrong = NULL;
    if (!options->directory || options->directory[0] == '\0' || !options->disk || !options->clock) {
        wrong = "a directory, a disk and a clock are needed";
    } else if (strlen(options->directory) > SSD_PATH_BYTES - 64) {
        wrong = "the directory's name is too long";
    } else if (options->bytes < SSD_BYTES_MIN || options->bytes > UINT64_MAX / 8) {
        wrong = "the SSD tier has at least 1 MiB";
    } else if (options->segment_bytes != 0 && options->segment_bytes < SSD_SEGMENT_BYTES_MIN) {
        wrong = "a segment has at least 64 KiB";
    } else if (options->read_queues > READ_QUEUES_MAX) {
        wrong = "there are at most 64 read queues";
    } else if (options->queue_depth > QUEUE_DEPTH_MAX) {
        wrong = "a queue is at most 256 deep";
    } else if (options->io_bytes != 0 &&
               (options->io_bytes < IO_BYTES_MIN || options->io_bytes > IO_BYTES_MAX)) {
        wrong = "an I/O request has 64 KiB to 64 MiB";
    }
    if (wrong) {
        ssd_set_error(open->error, open->error_bytes, "%s", wrong);
        return UMBP_INVALID_VALUE;
    }
    return UMBP_OK;
}

static void options_take(struct ssd_tier *tier, const struct ssd_options *options)
{
    uint64_t segment = options->segment_bytes ? options->segment_bytes : SSD_SEGMENT_BYTES_DEFAULT;
    segment = u64_min(segment, options->bytes / SEGMENTS_PER_TIER_MIN);
    segment = u64_min(segment, (uint64_t)UINT32_MAX / 2 * SSD_BLOCK_BYTES);
    uint64_t io = options->io_bytes ? options->io_bytes : IO_BYTES_DEFAULT;
    uint32_t timeout_ms =
        options->io_timeout_ms ? options->io_timeout_ms : SSD_IO_TIMEOUT_MS_DEFAULT;
    tier->disk = options->disk;
    tier->clock = options->clock;
    tier->capacity_bytes = options->bytes;
    tier->segment_bytes = align_down(segment, SSD_BLOCK_BYTES);
    tier->io_bytes = (uint32_t)align_down(u64_min(io, tier->segment_bytes), SSD_BLOCK_BYTES);
    tier->io_timeout_ns = timeout_ms * NS_PER_MS;
    tier->durability = options->durability;
    tier->read_only = options->read_only;
    tier->lock_file = DISK_FILE_NONE;
}

/* ----------------------------------------------------------------------- directory ------- */

static enum umbp_status super_refused(const struct open_state *open, enum umbp_status status,
                                      uint32_t version)
{
    const char *directory = open->options->directory;
    if (status == UMBP_VERSION) {
        ssd_set_error(open->error, open->error_bytes,
                      "%s has format version %u, and this program knows up to %u: use the newer "
                      "program, or another directory",
                      directory, version, SSD_FORMAT_VERSION);
    } else if (status == UMBP_CORRUPT) {
        ssd_set_error(open->error, open->error_bytes,
                      "%s/umbp.super is damaged: restore it, or remove the directory and lose what "
                      "is cached there",
                      directory);
    } else if (status == UMBP_NOT_FOUND) {
        ssd_set_error(open->error, open->error_bytes,
                      "there is no %s/umbp.super: this is no directory of an SSD tier, or nothing "
                      "has been stored there yet",
                      directory);
    } else {
        ssd_set_error(open->error, open->error_bytes, "%s/umbp.super: %s", directory,
                      disk_status_text(status));
    }
    return status;
}

/* The directory above must know about this one for good. */
static enum umbp_status sync_parent(struct disk *disk, const char *directory)
{
    char parent[SSD_PATH_BYTES];
    (void)snprintf(parent, sizeof(parent), "%s", directory);
    size_t bytes = strlen(parent);
    while (bytes > 1 && parent[bytes - 1] == '/') {
        parent[--bytes] = '\0';
    }
    char *slash = strrchr(parent, '/');
    if (!slash) {
        return disk_sync_directory(disk, ".");
    }
    slash[slash == parent ? 1 : 0] = '\0';
    return disk_sync_directory(disk, parent);
}

static enum umbp_status make_directory(const struct open_state *open)
{
    const struct ssd_options *options = open->options;
    enum umbp_status status = disk_make_directory(options->disk, options->directory);
    if (status == UMBP_OK) {
        status = sync_parent(options->disk, options->directory);
    } else if (status == UMBP_ALREADY_EXISTS) {
        status = UMBP_OK;
    }
    if (status == UMBP_NOT_FOUND) {
        ssd_set_error(open->error, open->error_bytes,
                      "%s can't be made: the directory above it is missing", options->directory);
    } else if (status != UMBP_OK) {
        ssd_set_error(open->error, open->error_bytes, "%s can't be made: %s", options->directory,
                      disk_status_text(status));
    }
    return status;
}

static enum umbp_status take_lock(struct ssd_tier *tier, const struct open_state *open)
{
    uint64_t pid = 0;
    enum umbp_status status = ssd_lock_take(tier->disk, tier->directory, &tier->lock_file, &pid);
    if (status == UMBP_LOCKED && pid != 0) {
        ssd_set_error(open->error, open->error_bytes, "%s is in use by process %" PRIu64,
                      tier->directory, pid);
    } else if (status == UMBP_LOCKED) {
        ssd_set_error(open->error, open->error_bytes, "%s is in use by another process",
                      tier->directory);
    } else if (status == UMBP_NOT_FOUND) {
        ssd_set_error(open->error, open->error_bytes, "%s is not a directory", tier->directory);
    } else if (status != UMBP_OK) {
        ssd_set_error(open->error, open->error_bytes, "%s/umbp.lock: %s", tier->directory,
                      disk_status_text(status));
    }
    return status;
}

static enum umbp_status new_super(struct ssd_tier *tier, struct open_state *open)
{
    open->super = (struct ssd_super){.next_segment = 1};
    if (getrandom(open->super.uuid, sizeof(open->super.uuid), 0) !=
        (ssize_t)sizeof(open->super.uuid)) {
        return disk_status_of_errno(errno);
    }
    enum umbp_status status = ssd_super_write(tier->disk, tier->directory, &open->super);
    if (status != UMBP_OK) {
        ssd_set_error(open->error, open->error_bytes, "%s/umbp.super can't be written: %s",
                      tier->directory, disk_status_text(status));
    }
    return status;
}

/* The super file, or a new one. The lock is ours (or we only read). */
static enum umbp_status find_super(struct ssd_tier *tier, struct open_state *open,
                                   const struct ssd_listing *listing)
{
    uint32_t version = 0;
    enum umbp_status status = ssd_super_read(tier->disk, tier->directory, &open->super, &version);
    if (status == UMBP_NOT_FOUND && !tier->read_only && listing->count == 0) {
        return new_super(tier, open);
    }
    if (status == UMBP_NOT_FOUND && listing->count > 0) {
        status = UMBP_CORRUPT;
        ssd_set_error(open->error, open->error_bytes,
                      "%s holds segments and no umbp.super: restore it, or remove the directory "
                      "and lose what is cached there",
                      tier->directory);
        return status;
    }
    return status == UMBP_OK ? UMBP_OK : super_refused(open, status, version);
}

/* A follower that is there before its leader: an empty directory is one that a leader will find.
 * One that is missing, or has other things in it, is more likely the wrong one. */
static enum umbp_status enter_unled(struct ssd_tier *tier, struct open_state *open,
                                    struct ssd_listing *listing)
{
    enum umbp_status status = ssd_listing_read(tier->disk, tier->directory, listing);
    if (status == UMBP_OK && listing->has_super) {
        return find_super(tier, open, listing); /* made meanwhile */
    }
    if (status != UMBP_OK || listing->count != 0 || listing->foreign_files != 0) {
        return super_refused(open, UMBP_NOT_FOUND, 0);
    }
    log_warn("ssd_directory_without_leader", "directory=\"%s\"", tier->directory);
    open->is_unled = true;
    return UMBP_OK;
}

static enum umbp_status enter_directory(struct ssd_tier *tier, struct open_state *open,
                                        struct ssd_listing *listing)
{
    /* A newer version's directory is not even locked. */
    uint32_t version = 0;
    enum umbp_status status = ssd_super_read(tier->disk, tier->directory, &open->super, &version);
    if (status == UMBP_VERSION) {
        return super_refused(open, status, version);
    }
    if (status == UMBP_NOT_FOUND && tier->read_only) {
        return enter_unled(tier, open, listing);
    }
    if (status == UMBP_NOT_FOUND) {
        status = make_directory(open);
        if (status != UMBP_OK) {
            return status;
        }
    }
    if (!tier->read_only) {
        status = take_lock(tier, open);
        if (status != UMBP_OK) {
            return status;
        }
    }
    status = ssd_listing_read(tier->disk, tier->directory, listing);
    if (status != UMBP_OK) {
        ssd_set_error(open->error, open->error_bytes, "%s can't be listed: %s", tier->directory,
                      disk_status_text(status));
        return status;
    }
    return find_super(tier, open, listing);
}

/* ----------------------------------------------------------------------------- pools ----- */

static enum umbp_status make_contexts(struct ssd_tier *tier, const struct ssd_options *options)
{
    uint32_t readers = options->read_queues ? options->read_queues : READ_QUEUES_DEFAULT;
    uint32_t depth = options->queue_depth ? options->queue_depth : QUEUE_DEPTH_DEFAULT;
    struct ssd_io *io;
    for (uint32_t i = 0; i < readers; i++) {
        enum umbp_status status = ssd_read_context_create(tier, depth, &io);
        if (status != UMBP_OK) {
            return status;
        }
        ssd_pool_add(&tier->read_pool, io);
    }
    for (uint32_t i = 0; i < SSD_APPEND_CONTEXTS && !tier->read_only; i++) {
        enum umbp_status status = ssd_append_context_create(tier, &io);
        if (status != UMBP_OK) {
            return status;
        }
        ssd_pool_add(&tier->append_pool, io);
    }
    return UMBP_OK;
}

static enum umbp_status make_arenas(struct ssd_tier *tier)
{
    size_t blocks = (size_t)(tier->segment_bytes / SSD_BLOCK_BYTES);
    /* A quarter holds the keys of any records but the shortest under the longest keys; a segment
     * whose arena is full counts as full. */
    size_t bytes = (size_t)u64_max(tier->segment_bytes / 4, ARENA_BYTES_MIN);
    for (unsigned i = 0; i < SSD_ARENAS && !tier->read_only; i++) {
        struct ssd_arena *arena = &tier->arenas[i];
        arena->data = mem_map(bytes);
        arena->capacity = arena->data ? bytes : 0;
        arena->failed_bytes = (blocks / 64 + 1) * sizeof(uint64_t);
        arena->failed = mem_zalloc(arena->failed_bytes);
        if (!arena->data || !arena->failed) {
            return UMBP_NO_MEMORY;
        }
    }
    return UMBP_OK;
}

static void free_arenas(struct ssd_tier *tier)
{
    for (unsigned i = 0; i < SSD_ARENAS; i++) {
        if (tier->arenas[i].data) {
            mem_unmap(tier->arenas[i].data, tier->arenas[i].capacity);
        }
        mem_free(tier->arenas[i].failed);
    }
}

/* ------------------------------------------------------------------------ open, close ---- */

static struct ssd_tier *tier_create(const struct ssd_options *options)
{
    struct ssd_tier *tier = mem_zalloc(sizeof(*tier));
    if (!tier) {
        return NULL;
    }
    tier->directory = mem_strdup(options->directory);
    if (!tier->directory) {
        mem_free(tier);
        return NULL;
    }
    options_take(tier, options);
    mutex_init(&tier->mutex, RANK_SSD);
    condition_init(&tier->changed);
    list_init(&tier->idle_files);
    ssd_pool_init(&tier->read_pool);
    ssd_pool_init(&tier->append_pool);
    return tier;
}

/* Everything but the seal. UMBP_BUSY: the device still has requests; the tier stays, and it may be
 * tried again. Until then the directory stays locked, since what the device still writes must not
 * land between another owner's records. */
static enum umbp_status tier_destroy(struct ssd_tier *tier, uint64_t deadline_ns)
{
    struct ssd_pool *pools[] = {&tier->append_pool, &tier->read_pool};
    for (unsigned i = 0; i < ARRAY_COUNT(pools); i++) {
        if (!tier->pool_is_gone[i]) {
            tier->pool_is_gone[i] = ssd_pool_fini(pools[i], tier->clock, deadline_ns) == UMBP_OK;
        }
    }
    if (!tier->pool_is_gone[0] || !tier->pool_is_gone[1]) {
        return UMBP_BUSY;
    }
    disk_close(tier->disk, tier->lock_file);
    for (uint32_t i = 0; tier->segments && i < tier->segment_capacity; i++) {
        if (tier->segments[i].state != SEGMENT_NONE && tier->segments[i].is_open) {
            disk_close(tier->disk, tier->segments[i].file);
        }
    }
    free_arenas(tier);
    ssd_table_fini(tier);
    condition_fini(&tier->changed);
    mutex_fini(&tier->mutex);
    mem_free(tier->directory);
    mem_free(tier);
    return UMBP_OK;
}

static enum umbp_status tier_set_up(struct ssd_tier *tier, struct open_state *open,
                                    struct ssd_listing *listing)
{
    tier->identity = ssd_identity_of(open->super.uuid);
    tier->clear_generation = open->super.clear_generation;
    tier->is_unled = open->is_unled;
    enum umbp_status status = ssd_table_init(tier, (uint32_t)listing->count);
    if (status == UMBP_OK) {
        status = make_arenas(tier);
    }
    if (status == UMBP_OK) {
        status = make_contexts(tier, open->options);
    }
    if (status != UMBP_OK) {
        ssd_set_error(open->error, open->error_bytes, "setting up the SSD tier: %s",
                      disk_status_text(status));
    }
    return status;
}

enum umbp_status ssd_open(const struct ssd_options *options, const struct ssd_visitor *visitor,
                          struct ssd_tier **tier_out, struct ssd_recovery *recovery_out,
                          char *error_out, size_t error_bytes)
{
    struct open_state open = {.options = options, .error = error_out, .error_bytes = error_bytes};
    struct ssd_listing listing = {.ids = NULL};
    struct ssd_recovery recovery = {0};
    ssd_set_error(error_out, error_bytes, "%s", "");
    enum umbp_status status = options_check(&open);
    if (status != UMBP_OK) {
        return status;
    }
    struct ssd_tier *tier = tier_create(options);
    if (!tier) {
        ssd_set_error(error_out, error_bytes, "setting up the SSD tier: %s",
                      disk_status_text(UMBP_NO_MEMORY));
        return UMBP_NO_MEMORY;
    }
    status = enter_directory(tier, &open, &listing);
    if (status == UMBP_OK) {
        status = tier_set_up(tier, &open, &listing);
    }
    if (status == UMBP_OK) {
        status =
            ssd_recover(tier, &open.super, &listing, visitor, &recovery, error_out, error_bytes);
    }
    ssd_listing_fini(&listing);
    if (status != UMBP_OK) {
        (void)tier_destroy(tier, clock_deadline_ns(tier->clock, SSD_IO_TIMEOUT_MS_DEFAULT));
        return status;
    }
    *tier_out = tier;
    if (recovery_out) {
        *recovery_out = recovery;
    }
    return UMBP_OK;
}

/* Seal what is active, and keep the ids that were set aside for the next start. */
static enum umbp_status close_segments(struct ssd_tier *tier, uint64_t deadline_ns)
{
    struct ssd_io *io = ssd_pool_take(&tier->append_pool, tier->clock, deadline_ns);
    if (!io) {
        return UMBP_TIMEOUT;
    }
    ssd_segment_drop_spare(tier);
    mutex_lock(&tier->mutex);
    struct ssd_segment *active = tier->active;
    bool must_seal = active && ssd_segment_stop(tier, active);
    bool has_spare_ids = tier->reserved_segment > tier->next_segment;
    mutex_unlock(&tier->mutex);
    enum umbp_status sealed = UMBP_OK;
    if (must_seal) {
        sealed = ssd_segment_seal(tier, io, active, deadline_ns);
    }
    ssd_pool_give(&tier->append_pool, io);
    enum umbp_status status = ssd_sync(tier, deadline_ns);
    status = status == UMBP_OK ? sealed : status;
    if (status == UMBP_OK && has_spare_ids) {
        struct ssd_super super = {.clear_generation = tier->clear_generation,
                                  .next_segment = tier->next_segment};
        memcpy(super.uuid, tier->identity.uuid, SSD_UUID_BYTES);
        /* Failing costs a few ids, of four billion; what may still happen keeps the lock. */
        if (ssd_super_write(tier->disk, tier->directory, &super) == UMBP_TIMEOUT) {
            status = UMBP_TIMEOUT;
        }
    }
    return status;
}

enum umbp_status ssd_close(struct ssd_tier *tier, uint64_t deadline_ns)
{
    if (!tier) {
        return UMBP_OK;
    }
    enum umbp_status status = UMBP_OK;
    ASSERT(atomic_load_explicit(&tier->counters.streams_open, memory_order_relaxed) == 0);
    if (!tier->read_only && !tier->is_closing) {
        tier->is_closing = true;
        status = close_segments(tier, deadline_ns);
    }
    enum umbp_status destroyed = tier_destroy(tier, deadline_ns);
    return destroyed == UMBP_OK ? status : destroyed;
}

/* ----------------------------------------------------------------------------- sync ------ */

/* A segment with writes that are not known to be on stable storage; its id, or 0. */
static uint32_t next_unsynced(struct ssd_tier *tier, uint32_t *place)
{
    uint32_t id = 0;
    mutex_lock(&tier->mutex);
    for (; *place < tier->segment_capacity && id == 0; (*place)++) {
        const struct ssd_segment *segment = &tier->segments[*place];
        if (segment->state != SEGMENT_NONE && !segment->is_gone &&
            segment->sync_count < segment->write_count) {
            id = atomic_load_explicit(&segment->id, memory_order_relaxed);
        }
    }
    mutex_unlock(&tier->mutex);
    return id;
}

enum umbp_status ssd_sync(struct ssd_tier *tier, uint64_t deadline_ns)
{
    if (tier->read_only) {
        return UMBP_OK;
    }
    struct ssd_io *io = ssd_pool_take(&tier->append_pool, tier->clock, deadline_ns);
    if (!io) {
        return UMBP_TIMEOUT;
    }
    enum umbp_status result = UMBP_OK;
    uint32_t place = 0;
    uint32_t id;
    while ((id = next_unsynced(tier, &place)) != 0) {
        struct ssd_segment *segment;
        enum umbp_status status = ssd_segment_use(tier, id, &segment);
        if (status == UMBP_OK) {
            status = ssd_segment_sync(tier, io, segment, deadline_ns);
            ssd_segment_unuse(tier, segment);
        }
        if (status != UMBP_OK && status != UMBP_STALE && result == UMBP_OK) {
            result = status;
        }
    }
    ssd_pool_give(&tier->append_pool, io);
    enum umbp_status status = ssd_directory_sync(tier);
    return result == UMBP_OK ? status : result;
}

/* ----------------------------------------------------------------------------- look ------ */

void ssd_space(const struct ssd_tier *tier, uint64_t *used_bytes_out, uint64_t *capacity_bytes_out)
{
    *used_bytes_out = atomic_load_explicit(&tier->used_bytes, memory_order_relaxed);
    *capacity_bytes_out = tier->capacity_bytes;
}

static uint64_t counter_value(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void ssd_stats(const struct ssd_tier *tier, struct ssd_stats *stats_out)
{
    struct mutex *mutex = (struct mutex *)(uintptr_t)&tier->mutex; /* the lock is not the state */
    struct ssd_stats stats = {
        .bytes_capacity = tier->capacity_bytes,
        .bytes_used = counter_value(&tier->used_bytes),
        .bytes_written = counter_value(&tier->counters.bytes_written),
        .bytes_read = counter_value(&tier->counters.bytes_read),
        .records_appended = counter_value(&tier->counters.records_appended),
        .records_read = counter_value(&tier->counters.records_read),
        .corrupt_records = counter_value(&tier->counters.corrupt_records),
        .io_errors = counter_value(&tier->counters.io_errors),
        .io_timeouts = counter_value(&tier->counters.io_timeouts),
        .disk_full = counter_value(&tier->counters.disk_full),
        .syncs = counter_value(&tier->counters.syncs),
        .segments_released = counter_value(&tier->counters.segments_released),
        .streams_open = counter_value(&tier->counters.streams_open),
    };
    mutex_lock(mutex);
    for (uint32_t i = 0; i < tier->segment_capacity; i++) {
        const struct ssd_segment *segment = &tier->segments[i];
        if (segment->state != SEGMENT_NONE && segment->state != SEGMENT_MAKING &&
            !segment->is_gone) {
            stats.segments++;
            stats.records_live += segment->live_records;
            stats.bytes_live += segment->live_bytes;
        }
    }
    mutex_unlock(mutex);
    *stats_out = stats;
}
