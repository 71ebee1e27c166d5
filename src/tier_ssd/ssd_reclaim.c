/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Giving segments up. The store decides what is worth keeping; the log proposes the segment, says
 * what lies in it, and unlinks it.
 */
#include "tier_ssd/ssd_priv.h"

void ssd_mark_dead(struct ssd_tier *tier, struct ssd_location location, uint64_t value_bytes,
                   uint32_t key_bytes)
{
    uint64_t bytes = ssd_record_blocks(value_bytes, key_bytes) * SSD_BLOCK_BYTES;
    mutex_lock(&tier->mutex);
    struct ssd_segment *segment = ssd_table_find(tier, location.segment);
    if (segment) {
        segment->live_records -= segment->live_records > 0 ? 1 : 0;
        segment->live_bytes -= u64_min(segment->live_bytes, bytes);
    }
    mutex_unlock(&tier->mutex);
}

static void raise(_Atomic uint64_t *value, uint64_t to)
{
    uint64_t now = atomic_load_explicit(value, memory_order_relaxed);
    while (now < to && !atomic_compare_exchange_weak_explicit(value, &now, to, memory_order_relaxed,
                                                              memory_order_relaxed)) {
    }
}

void ssd_touch(struct ssd_tier *tier, struct ssd_location location, uint64_t stamp)
{
    struct ssd_segment *segment = ssd_table_find(tier, location.segment);
    if (segment) {
        raise(&segment->stamp, stamp);
        raise(&tier->newest_stamp, stamp);
    }
}

/* --------------------------------------------------------------------------- victims ----- */

/* (locked) Whether `a` goes before `b`. */
static bool goes_before(const struct ssd_segment *a, const struct ssd_segment *b)
{
    bool a_is_dead = a->live_records == 0;
    bool b_is_dead = b->live_records == 0;
    if (a_is_dead != b_is_dead) {
        return a_is_dead;
    }
    uint64_t a_stamp = atomic_load_explicit(&a->stamp, memory_order_relaxed);
    uint64_t b_stamp = atomic_load_explicit(&b->stamp, memory_order_relaxed);
    if (a_stamp != b_stamp) {
        return a_stamp < b_stamp;
    }
    return atomic_load_explicit(&a->id, memory_order_relaxed) <
           atomic_load_explicit(&b->id, memory_order_relaxed);
}

/* (locked) */
static struct ssd_segment *find_victim(struct ssd_tier *tier)
{
    struct ssd_segment *best = NULL;
    for (uint32_t i = 0; i < tier->segment_capacity; i++) {
        struct ssd_segment *segment = &tier->segments[i];
        if (segment->state == SEGMENT_SEALED && !segment->is_proposed && !segment->is_gone &&
            (!best || goes_before(segment, best))) {
            best = segment;
        }
    }
    return best;
}

/* (locked) A segment is on its way to being sealed. */
static bool is_sealing(const struct ssd_tier *tier)
{
    for (uint32_t i = 0; i < tier->segment_capacity; i++) {
        const struct ssd_segment *segment = &tier->segments[i];
        if ((segment->state == SEGMENT_CLOSING || segment->state == SEGMENT_SEALING) &&
            !segment->is_gone) {
            return true;
        }
    }
    return false;
}

/* (locked, on return too) Seal the active segment, or wait for one that is being sealed. */
static bool seal_for_victim(struct ssd_tier *tier, uint64_t deadline_ns)
{
    if (!tier->active) {
        return is_sealing(tier) && ssd_wait_changed(tier, deadline_ns);
    }
    mutex_unlock(&tier->mutex);
    struct ssd_io *io = ssd_pool_take(&tier->append_pool, tier->clock, deadline_ns);
    mutex_lock(&tier->mutex);
    struct ssd_segment *active = tier->active;
    if (io && active && ssd_segment_stop(tier, active)) { /* else its writers seal it */
        mutex_unlock(&tier->mutex);
        ssd_segment_seal(tier, io, active, deadline_ns);
        mutex_lock(&tier->mutex);
    }
    if (io) {
        ssd_pool_give(&tier->append_pool, io);
    }
    return io != NULL;
}

enum umbp_status ssd_victim(struct ssd_tier *tier, bool seal_active, uint32_t *segment_out,
                            uint64_t deadline_ns)
{
    if (tier->read_only) {
        return UMBP_READ_ONLY;
    }
    mutex_lock(&tier->mutex);
    struct ssd_segment *segment = find_victim(tier);
    while (!segment && seal_active && seal_for_victim(tier, deadline_ns)) {
        segment = find_victim(tier);
    }
    if (segment) {
        segment->is_proposed = true;
        *segment_out = atomic_load_explicit(&segment->id, memory_order_relaxed);
    }
    mutex_unlock(&tier->mutex);
    return segment ? UMBP_OK : UMBP_NOT_FOUND;
}

void ssd_victim_return(struct ssd_tier *tier, uint32_t id)
{
    mutex_lock(&tier->mutex);
    struct ssd_segment *segment = ssd_table_find(tier, id);
    if (segment) {
        segment->is_proposed = false;
    }
    mutex_unlock(&tier->mutex);
}

bool ssd_has_older(const struct ssd_tier *tier, uint32_t id)
{
    struct mutex *mutex = (struct mutex *)(uintptr_t)&tier->mutex; /* the lock is not the state */
    bool has_older = false;
    mutex_lock(mutex);
    const struct ssd_segment *own = ssd_table_find(tier, id);
    for (uint32_t i = 0; own && i < tier->segment_capacity && !has_older; i++) {
        const struct ssd_segment *segment = &tier->segments[i];
        has_older = segment->state != SEGMENT_NONE && !segment->is_gone && segment != own &&
                    segment->oldest_value < own->newest_tombstone;
    }
    mutex_unlock(mutex);
    return has_older;
}

bool ssd_location_is_live(const struct ssd_tier *tier, struct ssd_location location)
{
    struct mutex *mutex = (struct mutex *)(uintptr_t)&tier->mutex; /* the lock is not the state */
    mutex_lock(mutex);
    const struct ssd_segment *segment =
        ssd_table_find((struct ssd_tier *)(uintptr_t)tier, location.segment);
    bool live = segment && !segment->is_gone && !segment->is_proposed;
    mutex_unlock(mutex);
    return live;
}

/* -------------------------------------------------------------------------- contents ----- */

struct records_visit {
    const struct ssd_visitor *visitor;
    uint32_t segment;
    uint64_t clear_generation;
};

static void records_visit(void *context, const struct ssd_entry *entry)
{
    const struct records_visit *visit = context;
    struct ssd_record_info info;
    if (entry->generation >= visit->clear_generation) {
        ssd_info_of(entry, visit->segment, &info);
        visit->visitor->record(visit->visitor->context, &info);
    }
}

static bool records_visit_scanned(void *context, const struct ssd_entry *entry)
{
    records_visit(context, entry);
    return true;
}

static enum umbp_status records_scan(struct ssd_tier *tier, struct ssd_io *io,
                                     struct ssd_segment *segment, struct records_visit *visit,
                                     uint64_t file_bytes, uint64_t deadline_ns)
{
    struct ssd_scan *scan = mem_zalloc(sizeof(*scan));
    if (!scan) {
        return UMBP_NO_MEMORY;
    }
    scan->io = io;
    scan->file = segment->file;
    scan->owner = segment;
    scan->tag = tier->identity.tag;
    scan->segment = visit->segment;
    scan->first_block = 1;
    scan->file_blocks = file_bytes / SSD_BLOCK_BYTES;
    scan->deadline_ns = deadline_ns;
    scan->visit = records_visit_scanned;
    scan->context = visit;
    enum umbp_status status = ssd_scan_run(scan);
    mem_free(scan);
    return status;
}

enum umbp_status ssd_segment_records(struct ssd_tier *tier, uint32_t id,
                                     const struct ssd_visitor *visitor, uint64_t deadline_ns)
{
    struct records_visit visit = {.visitor = visitor, .segment = id};
    struct ssd_segment *segment;
    struct ssd_trailer trailer;
    enum umbp_status status = ssd_segment_use(tier, id, &segment);
    if (status != UMBP_OK) {
        return status;
    }
    mutex_lock(&tier->mutex);
    bool has_footer = segment->has_footer;
    uint64_t file_bytes = segment->file_bytes;
    visit.clear_generation = tier->clear_generation;
    mutex_unlock(&tier->mutex);
    struct ssd_io *io = ssd_pool_take(&tier->read_pool, tier->clock, deadline_ns);
    if (!io) {
        ssd_segment_unuse(tier, segment);
        return UMBP_TIMEOUT;
    }
    if (has_footer) {
        status = ssd_footer_find(io, segment->file, segment, &tier->identity, id, file_bytes,
                                 deadline_ns, &trailer);
        if (status == UMBP_OK) {
            status = ssd_footer_walk(io, segment->file, segment, &trailer, tier->identity.tag,
                                     deadline_ns, records_visit, &visit);
        }
        if (status == UMBP_NOT_FOUND || status == UMBP_VERSION || status == UMBP_CORRUPT) {
            /* Records may be visited twice; none is missed that can still be read. */
            status = records_scan(tier, io, segment, &visit, file_bytes, deadline_ns);
        }
    } else {
        status = records_scan(tier, io, segment, &visit, file_bytes, deadline_ns);
    }
    ssd_pool_give(&tier->read_pool, io);
    ssd_segment_unuse(tier, segment);
    return status;
}

/* -------------------------------------------------------------------------- leaving ------ */

void ssd_segment_release(struct ssd_tier *tier, uint32_t id)
{
    struct disk_file file = DISK_FILE_NONE;
    mutex_lock(&tier->mutex);
    struct ssd_segment *segment = ssd_table_find(tier, id);
    bool is_sealed = segment && segment->state == SEGMENT_SEALED && !tier->read_only;
    uint64_t file_bytes = is_sealed ? segment->file_bytes : 0;
    if (is_sealed) {
        file = ssd_segment_forget(tier, segment);
    }
    mutex_unlock(&tier->mutex);
    if (!is_sealed) {
        return;
    }
    disk_close(tier->disk, file);
    ssd_segment_unlink(tier, id, file_bytes);
    ssd_count(&tier->counters.segments_released, 1);
    if (tier->durability == SSD_STRICT && ssd_directory_sync(tier) != UMBP_OK) {
        log_warn("ssd_directory_sync_failed", "directory=\"%s\"", tier->directory);
    }
}

/* (locked) Any segment that is still in the table and older than `next`; its id, or 0. One that is
 * being written is stopped, and goes when its last writer has left it. */
static uint32_t clear_next(struct ssd_tier *tier, uint32_t next, uint64_t *file_bytes_out,
                           struct disk_file *file_out, struct ssd_segment **unused_out)
{
    for (uint32_t i = 0; i < tier->segment_capacity; i++) {
        struct ssd_segment *segment = &tier->segments[i];
        uint32_t id = atomic_load_explicit(&segment->id, memory_order_relaxed);
        if (segment->state == SEGMENT_NONE || segment->state == SEGMENT_MAKING ||
            segment->is_gone || id >= next) {
            continue;
        }
        *file_bytes_out = segment->file_bytes;
        *unused_out = ssd_segment_stop(tier, segment) ? segment : NULL;
        *file_out = ssd_segment_forget(tier, segment);
        return id;
    }
    return 0;
}

static enum umbp_status clear_mark(struct ssd_tier *tier, uint64_t generation, uint64_t deadline_ns,
                                   uint32_t *next_out)
{
    mutex_lock(&tier->mutex);
    while (tier->is_making && ssd_wait_changed(tier, deadline_ns)) {
    }
    if (tier->is_making) {
        mutex_unlock(&tier->mutex);
        return UMBP_TIMEOUT;
    }
    tier->is_making = true;
    struct ssd_super super = {.clear_generation = generation,
                              .next_segment = tier->reserved_segment > tier->next_segment
                                                  ? tier->reserved_segment
                                                  : tier->next_segment};
    *next_out = tier->next_segment;
    memcpy(super.uuid, tier->identity.uuid, SSD_UUID_BYTES);
    mutex_unlock(&tier->mutex);
    enum umbp_status status = ssd_super_write(tier->disk, tier->directory, &super);
    mutex_lock(&tier->mutex);
    if (status == UMBP_OK) {
        tier->clear_generation = generation;
    }
    tier->is_making = false;
    condition_broadcast(&tier->changed);
    mutex_unlock(&tier->mutex);
    return status;
}

enum umbp_status ssd_clear(struct ssd_tier *tier, uint64_t generation, uint64_t deadline_ns)
{
    uint32_t next = 0;
    uint32_t id;
    if (tier->read_only) {
        return UMBP_READ_ONLY;
    }
    enum umbp_status status = clear_mark(tier, generation, deadline_ns, &next);
    if (status != UMBP_OK) {
        return status;
    }
    do {
        uint64_t file_bytes = 0;
        struct disk_file file = DISK_FILE_NONE;
        struct ssd_segment *unused = NULL;
        mutex_lock(&tier->mutex);
        id = clear_next(tier, next, &file_bytes, &file, &unused);
        mutex_unlock(&tier->mutex);
        disk_close(tier->disk, file);
        if (id != 0) {
            ssd_segment_unlink(tier, id, file_bytes);
            ssd_count(&tier->counters.segments_released, 1);
        }
        if (unused) {
            ssd_segment_seal(tier, NULL, unused, deadline_ns); /* gone: only lets go of it */
        }
    } while (id != 0);
    return tier->durability == SSD_STRICT ? ssd_directory_sync(tier) : UMBP_OK;
}
