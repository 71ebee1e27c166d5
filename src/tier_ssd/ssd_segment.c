/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The segment table: places that are never freed while the tier lives, an index from id to place,
 * the segments' file handles (opened when needed, closed when too many lie idle), and space.
 *
 * A segment's file has users: readers, the I/O that lost requests are still doing, and, until it is
 * sealed, the log itself. A segment that was released leaves the index at once and its place when
 * its last user goes.
 */
#include <inttypes.h>

#include "tier_ssd/ssd_priv.h"

/* Segments beside those that full ones make up: what early sealing and reopening leave behind. */
#define SEGMENTS_SPARE 1024u

void ssd_segment_path(const char *directory, uint32_t id, char *path_out)
{
    (void)snprintf(path_out, SSD_PATH_BYTES, "%s/%016x.seg", directory, id);
}

enum umbp_status ssd_table_init(struct ssd_tier *tier, uint32_t existing)
{
    uint64_t full = tier->capacity_bytes / tier->segment_bytes;
    uint64_t capacity = full * 4 + existing + SEGMENTS_SPARE;
    if (capacity > UINT32_MAX / 8) {
        return UMBP_INVALID_VALUE;
    }
    uint64_t slots = 64;
    while (slots < capacity * 2) {
        slots *= 2;
    }
    tier->segments = mem_calloc((size_t)capacity, sizeof(*tier->segments));
    tier->index = mem_calloc((size_t)slots, sizeof(*tier->index));
    tier->leftovers = mem_calloc((size_t)capacity, sizeof(*tier->leftovers));
    if (!tier->segments || !tier->index || !tier->leftovers) {
        return UMBP_NO_MEMORY; /* ssd_table_fini frees them */
    }
    tier->segment_capacity = (uint32_t)capacity;
    tier->index_mask = (uint32_t)(slots - 1);
    return UMBP_OK;
}

void ssd_table_fini(struct ssd_tier *tier)
{
    mem_free(tier->segments);
    mem_free(tier->index);
    mem_free(tier->leftovers);
    tier->leftovers = NULL;
    tier->segments = NULL;
    tier->index = NULL;
}

static uint32_t index_load(const struct ssd_tier *tier, uint32_t at)
{
    /* acquire pairs with index_store: the place's id is set before it is published */
    return atomic_load_explicit(&tier->index[at & tier->index_mask], memory_order_acquire);
}

static void index_store(struct ssd_tier *tier, uint32_t at, uint32_t place_and_one)
{
    atomic_store_explicit(&tier->index[at & tier->index_mask], place_and_one, memory_order_release);
}

static uint32_t segment_id(const struct ssd_segment *segment)
{
    return atomic_load_explicit(&segment->id, memory_order_relaxed);
}

/* Also called without the lock, by ssd_touch: it may then miss, or find a place that has just been
 * given to another segment, whose id differs. The probe ends, since half of the index is empty. */
struct ssd_segment *ssd_table_find(const struct ssd_tier *tier, uint32_t id)
{
    for (uint32_t at = id; id != 0 && at - id <= tier->index_mask; at++) {
        uint32_t place = index_load(tier, at);
        if (place == 0) {
            return NULL;
        }
        struct ssd_segment *segment = &tier->segments[place - 1];
        if (segment_id(segment) == id) {
            return segment;
        }
    }
    return NULL;
}

struct ssd_segment *ssd_table_insert(struct ssd_tier *tier, uint32_t id)
{
    if (tier->segment_count == tier->segment_capacity) {
        return NULL;
    }
    uint32_t place = tier->free_hint;
    while (tier->segments[place].state != SEGMENT_NONE) {
        place = (place + 1) % tier->segment_capacity;
    }
    tier->free_hint = (place + 1) % tier->segment_capacity;
    tier->segment_count++;
    struct ssd_segment *segment = &tier->segments[place];
    *segment = (struct ssd_segment){.state = SEGMENT_MAKING, .file = DISK_FILE_NONE};
    list_init(&segment->idle_link);
    segment->footer_used = SSD_PAGE_ROOM; /* the first entry opens the first page */
    segment->end_block = 1;
    segment->oldest_value = UINT64_MAX;
    atomic_store_explicit(&segment->stamp,
                          atomic_load_explicit(&tier->newest_stamp, memory_order_relaxed),
                          memory_order_relaxed);
    atomic_store_explicit(&segment->id, id, memory_order_relaxed);
    uint32_t at = id;
    while (index_load(tier, at) != 0) {
        at++;
    }
    index_store(tier, at, place + 1);
    return segment;
}

void ssd_table_remove(struct ssd_tier *tier, struct ssd_segment *segment)
{
    uint32_t place = (uint32_t)(segment - tier->segments) + 1;
    uint32_t hole = segment_id(segment);
    while (index_load(tier, hole) != place) {
        hole++;
    }
    /* Knuth's algorithm R: close the gap, so that no probe stops short. */
    for (uint32_t at = hole + 1; index_load(tier, at) != 0; at++) {
        uint32_t home = segment_id(&tier->segments[index_load(tier, at) - 1]);
        if (((at - home) & tier->index_mask) >= ((at - hole) & tier->index_mask)) {
            index_store(tier, hole, index_load(tier, at));
            hole = at;
        }
    }
    index_store(tier, hole, 0);
}

void ssd_used_change(struct ssd_tier *tier, uint64_t plus, uint64_t minus)
{
    uint64_t used = atomic_load_explicit(&tier->used_bytes, memory_order_relaxed);
    atomic_store_explicit(&tier->used_bytes, used + plus - minus, memory_order_relaxed);
}

bool ssd_wait_changed(struct ssd_tier *tier, uint64_t deadline_ns)
{
    return condition_wait(&tier->changed, &tier->mutex, ssd_monotonic(tier->clock, deadline_ns));
}

void ssd_segment_note(struct ssd_segment *segment, uint64_t generation, bool is_tombstone)
{
    if (is_tombstone) {
        segment->newest_tombstone = u64_max(segment->newest_tombstone, generation);
    } else {
        segment->oldest_value = u64_min(segment->oldest_value, generation);
    }
}

/* -------------------------------------------------------------------------- files -------- */

void ssd_segment_adopt_file(struct ssd_tier *tier, struct ssd_segment *segment,
                            struct disk_file file)
{
    segment->file = file;
    segment->is_open = true;
    tier->open_files++;
}

static struct disk_file segment_detach_file(struct ssd_tier *tier, struct ssd_segment *segment)
{
    struct disk_file file = segment->file;
    list_remove(&segment->idle_link);
    segment->file = DISK_FILE_NONE;
    if (segment->is_open) {
        segment->is_open = false;
        tier->open_files--;
    }
    return file;
}

static void segment_free_place(struct ssd_tier *tier, struct ssd_segment *segment)
{
    segment->state = SEGMENT_NONE;
    segment->is_gone = false;
    tier->segment_count--;
}

/* (locked) The handle to close, if one user less makes one needless. */
static struct disk_file segment_drop_user(struct ssd_tier *tier, struct ssd_segment *segment)
{
    ASSERT(segment->refs > 0);
    segment->refs--;
    if (segment->refs > 0) {
        return DISK_FILE_NONE;
    }
    if (segment->is_gone) {
        struct disk_file file = segment_detach_file(tier, segment);
        segment_free_place(tier, segment);
        return file;
    }
    if (segment->is_open) {
        list_push_back(&tier->idle_files, &segment->idle_link);
        if (tier->open_files > SSD_OPEN_FILES_MAX) {
            return segment_detach_file(
                tier, CONTAINER_OF(tier->idle_files.next, struct ssd_segment, idle_link));
        }
    }
    return DISK_FILE_NONE;
}

void ssd_segment_unuse(struct ssd_tier *tier, struct ssd_segment *segment)
{
    mutex_lock(&tier->mutex);
    struct disk_file file = segment_drop_user(tier, segment);
    mutex_unlock(&tier->mutex);
    disk_close(tier->disk, file);
}

void ssd_hold_segment(void *tier_context, void *segment_context)
{
    struct ssd_tier *tier = tier_context;
    struct ssd_segment *segment = segment_context;
    mutex_lock(&tier->mutex);
    ASSERT(segment->refs > 0);
    segment->refs++;
    mutex_unlock(&tier->mutex);
}

void ssd_drop_segment(void *tier, void *segment) { ssd_segment_unuse(tier, segment); }

enum umbp_status ssd_segment_use(struct ssd_tier *tier, uint32_t id,
                                 struct ssd_segment **segment_out)
{
    mutex_lock(&tier->mutex);
    struct ssd_segment *segment = ssd_table_find(tier, id);
    if (!segment || segment->state == SEGMENT_MAKING) {
        mutex_unlock(&tier->mutex);
        return UMBP_STALE;
    }
    segment->refs++;
    list_remove(&segment->idle_link);
    bool is_open = segment->is_open;
    mutex_unlock(&tier->mutex);
    if (is_open) {
        *segment_out = segment;
        return UMBP_OK;
    }
    char path[SSD_PATH_BYTES];
    struct disk_file file = DISK_FILE_NONE;
    ssd_segment_path(tier->directory, id, path);
    enum umbp_status status = disk_open(tier->disk, path, DISK_OPEN_DIRECT, &file);
    mutex_lock(&tier->mutex);
    if (segment->is_open) { /* somebody was faster */
        status = UMBP_OK;
    } else if (status == UMBP_OK) {
        ssd_segment_adopt_file(tier, segment, file);
        file = DISK_FILE_NONE;
    }
    mutex_unlock(&tier->mutex);
    disk_close(tier->disk, file);
    if (status != UMBP_OK) {
        ssd_segment_unuse(tier, segment);
        return status == UMBP_NOT_FOUND ? UMBP_STALE : status;
    }
    *segment_out = segment;
    return UMBP_OK;
}

/* ------------------------------------------------------------------------- leaving ------- */

struct disk_file ssd_segment_forget(struct ssd_tier *tier, struct ssd_segment *segment)
{
    ssd_table_remove(tier, segment);
    atomic_store_explicit(&segment->id, 0, memory_order_relaxed);
    segment->is_gone = true;
    if (segment->refs > 0) {
        return DISK_FILE_NONE;
    }
    struct disk_file file = segment_detach_file(tier, segment);
    segment_free_place(tier, segment);
    return file;
}

void ssd_segment_unlink(struct ssd_tier *tier, uint32_t id, uint64_t file_bytes)
{
    char path[SSD_PATH_BYTES];
    ssd_segment_path(tier->directory, id, path);
    enum umbp_status status = disk_unlink(tier->disk, path);
    bool is_gone = status == UMBP_OK || status == UMBP_NOT_FOUND;
    uint64_t held_back;
    if (!is_gone && log_limit_pass(&tier->unlink_limit, 10000, &held_back)) {
        log_warn("ssd_unlink_failed", "path=\"%s\" reason=\"%s\" held_back=%" PRIu64, path,
                 disk_status_text(status), held_back);
    }
    mutex_lock(&tier->mutex);
    if (is_gone) {
        ssd_used_change(tier, 0, file_bytes);
    } else if (tier->leftover_count < tier->segment_capacity) { /* its bytes stay taken till then */
        tier->leftovers[tier->leftover_count++] = (struct ssd_leftover){file_bytes, id};
    }
    tier->directory_changes++;
    condition_broadcast(&tier->changed);
    mutex_unlock(&tier->mutex);
}

void ssd_unlink_leftovers(struct ssd_tier *tier)
{
    mutex_lock(&tier->mutex);
    uint32_t left = tier->leftover_count;
    mutex_unlock(&tier->mutex);
    /* One that fails again goes to the end; each is tried once. */
    for (; left > 0; left--) {
        struct ssd_leftover first = {0};
        mutex_lock(&tier->mutex);
        if (tier->leftover_count > 0) {
            first = tier->leftovers[0];
            tier->leftover_count--;
            memmove(tier->leftovers, tier->leftovers + 1,
                    tier->leftover_count * sizeof(*tier->leftovers));
        }
        mutex_unlock(&tier->mutex);
        if (first.id != 0) {
            ssd_segment_unlink(tier, first.id, first.file_bytes);
        }
    }
}
