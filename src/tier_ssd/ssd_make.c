/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A segment's life up to its seal.
 *
 *   MAKING ─► ACTIVE ─► CLOSING ─► SEALING ─► SEALED
 *               │ full, or a write failed │      │
 *               │                         │      a thread that found no writer left writes the
 * footer writers reserve space     the writers in flight finish
 *
 * A segment takes its whole size from the tier's space when it is made, and gives back what it did
 * not need when it is sealed. What its footer will take is set aside with each record.
 */
#include "tier_ssd/ssd_priv.h"

/* Below this, making a segment ahead takes too much of the tier. */
#define SPARE_SEGMENT_BYTES_MIN (UINT64_C(16) << 20)
/* A segment with less than this share unused is not cut when it is sealed. Cutting makes the file
 * system wait for its journal. */
#define SEAL_GAP_SHARE 32u
/* A seal gets at least this long, even when its caller's time is up: without a footer the next
 * start has to read the values. */
#define SEAL_GRACE_NS NS_PER_S

/* -------------------------------------------------------------------------- arenas ------- */

struct ssd_arena_entry *ssd_arena_next(const struct ssd_arena *arena, size_t *at)
{
    if (*at >= arena->used) {
        return NULL;
    }
    struct ssd_arena_entry *entry = (struct ssd_arena_entry *)(void *)(arena->data + *at);
    *at += ssd_arena_entry_bytes(entry->key_bytes);
    return entry;
}

/* A segment larger than the others holds one record, in block 1. */
static size_t failed_word(const struct ssd_arena *arena, uint32_t block)
{
    size_t word = block / 64;
    ASSERT(word < arena->failed_bytes / sizeof(uint64_t));
    return word;
}

void ssd_arena_fail(struct ssd_arena *arena, uint32_t block)
{
    arena->failed[failed_word(arena, block)] |= UINT64_C(1) << (block % 64);
}

bool ssd_arena_has_failed(const struct ssd_arena *arena, uint32_t block)
{
    return (arena->failed[failed_word(arena, block)] >> (block % 64) & 1) != 0;
}

static struct ssd_arena *arena_take(struct ssd_tier *tier)
{
    for (unsigned i = 0; i < SSD_ARENAS; i++) {
        struct ssd_arena *arena = &tier->arenas[i];
        if (!arena->is_taken) {
            arena->is_taken = true;
            arena->used = 0;
            memset(arena->failed, 0, arena->failed_bytes);
            return arena;
        }
    }
    return NULL;
}

static void arena_give(struct ssd_tier *tier, struct ssd_segment *segment)
{
    if (segment->arena) {
        segment->arena->is_taken = false;
        segment->arena = NULL;
        condition_broadcast(&tier->changed);
    }
}

/* --------------------------------------------------------------------------- space ------- */

void ssd_need_add_entry(struct ssd_need *need, uint32_t key_bytes)
{
    uint32_t bytes = ssd_entry_bytes(key_bytes);
    need->entries++;
    need->entry_bytes += bytes;
    need->entry_largest = need->entry_largest > bytes ? need->entry_largest : bytes;
    need->arena_bytes += ssd_arena_entry_bytes(key_bytes);
}

/*
 * What the footer's pages come to with these entries too. An upper bound: a page that several
 * entries go to may waste as much as the largest of them. Leaving entries out later (records whose
 * write failed) can only make it less.
 */
static void footer_after(const struct ssd_segment *segment, const struct ssd_need *need,
                         uint32_t *pages_out, uint32_t *used_out)
{
    uint32_t pages = segment->footer_pages;
    uint32_t used = segment->footer_used;
    if (used + need->entry_bytes <= SSD_PAGE_ROOM) {
        used += need->entry_bytes;
    } else if (need->entries == 1) {
        pages++;
        used = need->entry_bytes;
    } else {
        pages += (uint32_t)div_round_up(need->entry_bytes, SSD_PAGE_ROOM - need->entry_largest + 1);
        used = SSD_PAGE_ROOM;
    }
    *pages_out = pages;
    *used_out = used;
}

bool ssd_place(struct ssd_segment *segment, const struct ssd_need *need, uint32_t *block_out,
               size_t *arena_at_out)
{
    struct ssd_arena *arena = segment->arena;
    uint32_t pages;
    uint32_t used;
    footer_after(segment, need, &pages, &used);
    if (segment->end_block + need->blocks + pages + 1 > segment->limit_blocks ||
        need->arena_bytes > arena->capacity - arena->used) {
        return false;
    }
    *block_out = segment->end_block;
    *arena_at_out = arena->used;
    segment->end_block += (uint32_t)need->blocks;
    segment->footer_pages = pages;
    segment->footer_used = used;
    arena->used += need->arena_bytes;
    return true;
}

/* -------------------------------------------------------------------------- making ------- */

/* Set ids aside in the super file, so that none is ever used twice. */
static enum umbp_status reserve_ids(struct ssd_tier *tier, uint32_t id)
{
    struct ssd_super super = {
        .clear_generation =
            tier->clear_generation, /* only changes under is_making, which we have */
        .next_segment = id > UINT32_MAX - SSD_IDS_RESERVED ? UINT32_MAX : id + SSD_IDS_RESERVED,
    };
    memcpy(super.uuid, tier->identity.uuid, SSD_UUID_BYTES);
    enum umbp_status status = ssd_super_write(tier->disk, tier->directory, &super);
    if (status == UMBP_OK) {
        mutex_lock(&tier->mutex);
        tier->reserved_segment = super.next_segment;
        mutex_unlock(&tier->mutex);
    }
    return status;
}

/* Take a place, an arena, an id and the space, or nothing. */
static enum umbp_status make_reserve(struct ssd_tier *tier, uint64_t file_bytes, bool for_reclaim,
                                     struct ssd_segment **segment_out, bool *needs_ids_out)
{
    enum umbp_status status = UMBP_OK;
    mutex_lock(&tier->mutex);
    uint64_t used = atomic_load_explicit(&tier->used_bytes, memory_order_relaxed);
    uint64_t kept = for_reclaim ? 0 : tier->segment_bytes;
    struct ssd_arena *arena = NULL;
    struct ssd_segment *segment = NULL;
    if (used + file_bytes + kept > tier->capacity_bytes || tier->next_segment == UINT32_MAX) {
        status = UMBP_NO_SPACE;
    } else if (!(arena = arena_take(tier))) {
        status = UMBP_BUSY;
    } else if (!(segment = ssd_table_insert(tier, tier->next_segment))) {
        arena->is_taken = false;
        status = UMBP_NO_SPACE;
    } else {
        segment->arena = arena;
        segment->refs = 1;
        segment->file_bytes = file_bytes;
        segment->limit_blocks = (uint32_t)(file_bytes / SSD_BLOCK_BYTES);
        ssd_used_change(tier, file_bytes, 0);
        *needs_ids_out = tier->next_segment >= tier->reserved_segment;
        tier->next_segment++;
        *segment_out = segment;
    }
    mutex_unlock(&tier->mutex);
    return status;
}

static enum umbp_status make_file(struct ssd_tier *tier, struct ssd_io *io,
                                  struct ssd_segment *segment, uint32_t id, uint64_t file_bytes,
                                  uint64_t deadline_ns, struct disk_file *file_out)
{
    char path[SSD_PATH_BYTES];
    ssd_segment_path(tier->directory, id, path);
    enum umbp_status status = disk_open(
        tier->disk, path,
        DISK_OPEN_WRITE | DISK_OPEN_CREATE | DISK_OPEN_EXCLUSIVE | DISK_OPEN_DIRECT, file_out);
    if (status != UMBP_OK) {
        return status;
    }
    status = disk_allocate(tier->disk, *file_out, file_bytes);
    if (status == UMBP_UNSUPPORTED || status == UMBP_INVALID_VALUE) {
        status = UMBP_OK; /* the file grows as it is written */
    }
    if (status == UMBP_OK && !ssd_io_service_is_free(io, deadline_ns)) {
        status = UMBP_TIMEOUT;
    }
    if (status == UMBP_OK) {
        ssd_header_encode(&tier->identity, id, io->service->buffer);
        status =
            ssd_io_run(io, DISK_WRITE, *file_out, segment, 0, SSD_BLOCK_BYTES, deadline_ns, NULL);
    }
    return status;
}

enum umbp_status ssd_segment_make(struct ssd_tier *tier, struct ssd_io *io, uint64_t file_bytes,
                                  bool for_reclaim, uint64_t deadline_ns,
                                  struct ssd_segment **segment_out)
{
    struct ssd_segment *segment = NULL;
    struct disk_file file = DISK_FILE_NONE;
    bool needs_ids = false;
    ssd_unlink_leftovers(tier);
    enum umbp_status status = make_reserve(tier, file_bytes, for_reclaim, &segment, &needs_ids);
    if (status != UMBP_OK) {
        return status;
    }
    uint32_t id = atomic_load_explicit(&segment->id, memory_order_relaxed);
    if (needs_ids) {
        status = reserve_ids(tier, id);
    }
    if (status == UMBP_OK) {
        status = make_file(tier, io, segment, id, file_bytes, deadline_ns, &file);
    }
    mutex_lock(&tier->mutex);
    if (disk_file_is_open(file)) {
        ssd_segment_adopt_file(tier, segment, file);
        tier->directory_changes++;
    }
    mutex_unlock(&tier->mutex);
    if (status == UMBP_OK && tier->durability == SSD_STRICT) {
        status = ssd_directory_sync(tier);
    }
    if (status == UMBP_OK) {
        *segment_out = segment;
        return UMBP_OK;
    }
    if (status == UMBP_NO_SPACE) {
        ssd_count(&tier->counters.disk_full, 1);
    }
    mutex_lock(&tier->mutex);
    arena_give(tier, segment);
    struct disk_file none = ssd_segment_forget(tier, segment);
    mutex_unlock(&tier->mutex);
    ASSERT(!disk_file_is_open(none)); /* it still has us as a user */
    ssd_segment_unlink(tier, id, file_bytes);
    ssd_segment_unuse(tier, segment);
    return status;
}

void ssd_segment_make_spare(struct ssd_tier *tier, struct ssd_io *io, uint64_t deadline_ns)
{
    struct ssd_segment *spare = NULL;
    mutex_lock(&tier->mutex);
    const struct ssd_segment *active = tier->active;
    bool is_time = tier->segment_bytes >= SPARE_SEGMENT_BYTES_MIN && active && !tier->spare &&
                   !tier->has_tried_spare && !tier->is_making &&
                   active->end_block > active->limit_blocks / 2;
    if (is_time) {
        tier->is_making = true;
        tier->has_tried_spare = true;
    }
    mutex_unlock(&tier->mutex);
    if (!is_time) {
        return;
    }
    enum umbp_status status =
        ssd_segment_make(tier, io, tier->segment_bytes, false, deadline_ns, &spare);
    mutex_lock(&tier->mutex);
    tier->is_making = false;
    tier->spare = status == UMBP_OK ? spare : NULL;
    condition_broadcast(&tier->changed);
    mutex_unlock(&tier->mutex);
}

void ssd_segment_drop_spare(struct ssd_tier *tier)
{
    mutex_lock(&tier->mutex);
    struct ssd_segment *spare = tier->spare;
    tier->spare = NULL;
    if (!spare) {
        mutex_unlock(&tier->mutex);
        return;
    }
    uint32_t id = atomic_load_explicit(&spare->id, memory_order_relaxed);
    uint64_t file_bytes = spare->file_bytes;
    arena_give(tier, spare);
    struct disk_file none = ssd_segment_forget(tier, spare);
    mutex_unlock(&tier->mutex);
    ASSERT(!disk_file_is_open(none)); /* it still has us as a user */
    ssd_segment_unlink(tier, id, file_bytes);
    ssd_segment_unuse(tier, spare);
}

/* ------------------------------------------------------------------------- sealing ------- */

bool ssd_segment_stop(struct ssd_tier *tier, struct ssd_segment *segment)
{
    if (tier->active == segment) {
        tier->active = NULL;
    }
    if (segment->state == SEGMENT_ACTIVE) {
        segment->state = SEGMENT_CLOSING;
    }
    if (segment->state == SEGMENT_CLOSING && segment->writers == 0) {
        segment->state = SEGMENT_SEALING;
        return true;
    }
    return false;
}

/* Where the footer goes: at the very end of a segment that is (nearly) full, else behind the
 * records, and then *end_block_out is 0. */
static uint32_t seal_place(const struct ssd_segment *segment, uint32_t *end_block_out)
{
    uint32_t needed = segment->end_block + segment->footer_pages + 1;
    bool is_full = segment->limit_blocks - needed <= segment->limit_blocks / SEAL_GAP_SHARE;
    *end_block_out = is_full ? segment->limit_blocks : 0;
    return is_full ? segment->limit_blocks - segment->footer_pages - 1 : segment->end_block;
}

/* The footer from the arena. UMBP_NOT_FOUND: there is nothing to list. */
static enum umbp_status seal_write(struct ssd_tier *tier, struct ssd_io *io,
                                   struct ssd_segment *segment, uint32_t id, uint64_t deadline_ns,
                                   uint64_t *file_bytes_out)
{
    struct ssd_footer_writer writer;
    uint32_t end_block;
    uint32_t first_block = seal_place(segment, &end_block);
    ssd_footer_begin(&writer, io, segment->file, segment, &tier->identity, id, first_block,
                     deadline_ns);
    const struct ssd_arena_entry *from;
    for (size_t at = 0; (from = ssd_arena_next(segment->arena, &at)) != NULL;) {
        if (ssd_arena_has_failed(segment->arena, from->block)) {
            continue;
        }
        struct ssd_entry entry = {
            .kind = (enum ssd_kind)from->kind,
            .block = from->block,
            .generation = from->generation,
            .value_bytes = from->value_bytes,
            .depth = from->depth,
            .value_crc = from->value_crc,
            .key_bytes = from->key_bytes,
            .key = from->key,
        };
        ssd_footer_add(&writer, &entry);
    }
    if (writer.status == UMBP_OK && writer.entries == 0) {
        return UMBP_NOT_FOUND;
    }
    return ssd_footer_end(&writer, end_block, file_bytes_out);
}

/* Nobody lists anything of it: it goes as if it had never been. */
static void seal_drop(struct ssd_tier *tier, struct ssd_segment *segment, uint32_t id)
{
    mutex_lock(&tier->mutex);
    uint64_t file_bytes = segment->file_bytes;
    arena_give(tier, segment);
    bool was_gone = segment->is_gone;
    struct disk_file none = was_gone ? DISK_FILE_NONE : ssd_segment_forget(tier, segment);
    condition_broadcast(&tier->changed);
    mutex_unlock(&tier->mutex);
    ASSERT(!disk_file_is_open(none));
    if (!was_gone) {
        ssd_segment_unlink(tier, id, file_bytes);
    }
    ssd_segment_unuse(tier, segment);
}

enum umbp_status ssd_segment_seal(struct ssd_tier *tier, struct ssd_io *io,
                                  struct ssd_segment *segment, uint64_t deadline_ns)
{
    uint64_t now = clock_now_ns(tier->clock);
    uint64_t file_bytes = 0;
    enum umbp_status status = UMBP_NOT_FOUND;
    deadline_ns = u64_min(u64_max(deadline_ns, now + SEAL_GRACE_NS), now + tier->io_timeout_ns);
    mutex_lock(&tier->mutex);
    uint32_t id = atomic_load_explicit(&segment->id, memory_order_relaxed);
    bool is_gone = segment->is_gone;
    mutex_unlock(&tier->mutex);
    if (!is_gone) {
        status = seal_write(tier, io, segment, id, deadline_ns, &file_bytes);
    }
    if (status == UMBP_NOT_FOUND) {
        seal_drop(tier, segment, id);
        return UMBP_OK;
    }
    bool has_footer = status == UMBP_OK;
    if (has_footer && tier->durability == SSD_STRICT) {
        /* The records are safe already: at worst the next start has to scan for them. */
        status = ssd_io_run(io, DISK_SYNC, segment->file, segment, 0, 0, deadline_ns, NULL);
    }
    if (!has_footer) {
        uint64_t data_bytes = (uint64_t)segment->end_block * SSD_BLOCK_BYTES;
        if (disk_truncate(tier->disk, segment->file, data_bytes) == UMBP_OK) {
            file_bytes = data_bytes;
        }
    }
    mutex_lock(&tier->mutex);
    if (file_bytes > 0 && !segment->is_gone) {
        ssd_used_change(tier, file_bytes, segment->file_bytes);
        segment->file_bytes = file_bytes;
    }
    segment->has_footer = has_footer;
    segment->state = SEGMENT_SEALED;
    arena_give(tier, segment);
    condition_broadcast(&tier->changed);
    mutex_unlock(&tier->mutex);
    ssd_segment_unuse(tier, segment);
    return status;
}

/* ------------------------------------------------------------------------- syncing ------- */

enum umbp_status ssd_segment_sync(struct ssd_tier *tier, struct ssd_io *io,
                                  struct ssd_segment *segment, uint64_t deadline_ns)
{
    mutex_lock(&tier->mutex);
    uint64_t target = segment->write_count;
    bool is_done = segment->sync_count >= target;
    mutex_unlock(&tier->mutex);
    if (is_done) {
        return UMBP_OK;
    }
    if (clock_now_ns(tier->clock) >= deadline_ns) {
        return UMBP_TIMEOUT; /* don't start what can't be waited for */
    }
    enum umbp_status status =
        ssd_io_run(io, DISK_SYNC, segment->file, segment, 0, 0, deadline_ns, NULL);
    if (status == UMBP_OK) {
        mutex_lock(&tier->mutex);
        segment->sync_count = u64_max(segment->sync_count, target);
        mutex_unlock(&tier->mutex);
    }
    return status;
}

enum umbp_status ssd_directory_sync(struct ssd_tier *tier)
{
    mutex_lock(&tier->mutex);
    uint64_t target = tier->directory_changes;
    bool is_done = tier->directory_synced >= target;
    mutex_unlock(&tier->mutex);
    if (is_done) {
        return UMBP_OK;
    }
    enum umbp_status status = disk_sync_directory(tier->disk, tier->directory);
    if (status == UMBP_OK) {
        mutex_lock(&tier->mutex);
        tier->directory_synced = u64_max(tier->directory_synced, target);
        mutex_unlock(&tier->mutex);
    }
    return status;
}
