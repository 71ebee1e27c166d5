/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Start-up: what the directory holds, told in order.
 *
 *   1. load every segment: its footer, else a scan. Nothing on disk changes yet, so a directory of
 * a newer version is left as it was
 *   2. put every segment into the table, with what it takes and holds
 *   3. seal what had no footer, behind its last valid record, so that nothing is ever appended to
 *      what a crash left, and the next start need not scan it again. Not in a follower
 *   4. deliver all entries in ascending generation
 *
 * The footers of all segments are in memory during that (about 100 bytes a record), with 16 bytes a
 * record to sort them by.
 */
#include <inttypes.h>
#include <stdarg.h>

#include "tier_ssd/ssd_priv.h"

void ssd_set_error(char *error_out, size_t error_bytes, const char *format, ...)
{
    if (error_out && error_bytes > 0) {
        va_list arguments;
        va_start(arguments, format);
        (void)vsnprintf(error_out, error_bytes, format, arguments);
        va_end(arguments);
    }
}

void ssd_info_of(const struct ssd_entry *entry, uint32_t segment, struct ssd_record_info *info_out)
{
    *info_out = (struct ssd_record_info){
        .key = {.data = entry->key, .bytes = entry->key_bytes},
        .generation = entry->generation,
        .is_tombstone = entry->kind == SSD_KIND_TOMBSTONES,
    };
    if (entry->kind == SSD_KIND_VALUE) {
        info_out->value_bytes = entry->value_bytes;
        info_out->depth = entry->depth;
        info_out->value_crc = entry->value_crc;
        info_out->location = (struct ssd_location){segment, entry->block};
    }
}

/* ------------------------------------------------------------------------- loading ------- */

static void load_count(struct ssd_recovery *recovery, const struct ssd_loaded *loaded)
{
    recovery->segments++;
    recovery->scanned_segments += loaded->has_footer ? 0 : 1;
    recovery->lost_records += loaded->lost_records;
    recovery->lost_bytes += loaded->is_unreadable ? loaded->file_bytes : loaded->lost_bytes;
}

static enum umbp_status recover_load(struct ssd_tier *tier, struct ssd_io *io,
                                     struct ssd_listing *listing, struct ssd_set *set,
                                     struct ssd_recovery *recovery, uint32_t *failed_id_out)
{
    if (listing->count >= SSD_REF_SEGMENTS_MAX) {
        return UMBP_LIMIT;
    }
    set->segments = mem_calloc(listing->count + 1, sizeof(*set->segments));
    if (!set->segments) {
        return UMBP_NO_MEMORY;
    }
    for (size_t i = 0; i < listing->count; i++) {
        struct ssd_loaded *loaded = &set->segments[set->count++];
        *failed_id_out = listing->ids[i];
        enum umbp_status status =
            ssd_load_segment(tier->disk, io, tier->directory, &tier->identity, listing->ids[i],
                             DEADLINE_NEVER, loaded); /* each request has its own */
        if (status != UMBP_OK) {
            return status;
        }
        if (loaded->is_foreign) {
            char path[32];
            (void)snprintf(path, sizeof(path), "%016x.seg", loaded->id);
            ssd_listing_foreign(listing, path);
        }
        if (loaded->is_foreign || loaded->is_gone) {
            ssd_pages_fini(&loaded->pages);
            set->count--;
            continue;
        }
        load_count(recovery, loaded);
    }
    return UMBP_OK;
}

/* What is live, and the highest generation. */
static void recover_weigh(struct ssd_tier *tier, const struct ssd_set *set,
                          const struct ssd_ref *refs, size_t count, struct ssd_recovery *recovery)
{
    for (size_t i = 0; i < count; i++) {
        struct ssd_entry entry;
        uint32_t segment;
        ssd_set_entry(set, &refs[i], &entry, &segment);
        recovery->max_generation = u64_max(recovery->max_generation, entry.generation);
        struct ssd_loaded *loaded = &set->segments[refs[i].at >> 40];
        if (entry.generation < tier->clear_generation) {
            continue;
        }
        if (entry.kind == SSD_KIND_TOMBSTONES) {
            loaded->newest_tombstone = u64_max(loaded->newest_tombstone, entry.generation);
            continue;
        }
        loaded->oldest_value = u64_min(loaded->oldest_value, entry.generation);
        loaded->live_records++;
        loaded->live_bytes +=
            ssd_record_blocks(entry.value_bytes, entry.key_bytes) * SSD_BLOCK_BYTES;
    }
}

/* --------------------------------------------------------------------------- table ------- */

static void recover_insert(struct ssd_tier *tier, const struct ssd_loaded *loaded)
{
    mutex_lock(&tier->mutex);
    struct ssd_segment *segment = ssd_table_insert(tier, loaded->id);
    ASSERT(segment); /* the table was made for them */
    segment->state = SEGMENT_SEALED;
    if (tier->read_only && !loaded->has_footer) {
        segment->state = SEGMENT_FOLLOWED;
    }
    segment->has_footer = loaded->has_footer;
    segment->file_bytes = loaded->file_bytes;
    segment->end_block = loaded->footer_block;
    segment->scan_block = loaded->next_block;
    segment->live_records = loaded->live_records;
    segment->live_bytes = loaded->live_bytes;
    segment->oldest_value = loaded->oldest_value;
    segment->newest_tombstone = loaded->newest_tombstone;
    ssd_used_change(tier, loaded->file_bytes, 0);
    mutex_unlock(&tier->mutex);
}

static enum umbp_status seal_file(struct ssd_tier *tier, struct ssd_io *io,
                                  const struct ssd_loaded *loaded, struct disk_file file,
                                  uint64_t *file_bytes_out)
{
    struct ssd_footer_writer writer;
    if (loaded->is_headless && ssd_io_service_is_free(io, DEADLINE_NEVER)) {
        ssd_header_encode(&tier->identity, loaded->id, io->service->buffer);
        enum umbp_status status =
            ssd_io_run(io, DISK_WRITE, file, NULL, 0, SSD_BLOCK_BYTES, DEADLINE_NEVER, NULL);
        if (status != UMBP_OK) {
            return status;
        }
    }
    ssd_footer_begin(&writer, io, file, NULL, &tier->identity, loaded->id, loaded->footer_block,
                     DEADLINE_NEVER);
    for (uint32_t page = 0; page < loaded->pages.count; page++) {
        const uint8_t *data = loaded->pages.data + (size_t)page * SSD_BLOCK_BYTES;
        struct ssd_entry entry;
        bool plausible = true;
        uint32_t at = 0;
        while (ssd_page_next(data, loaded->footer_block, &at, &entry, &plausible)) {
            ssd_footer_add(&writer, &entry);
        }
    }
    enum umbp_status status = ssd_footer_end(&writer, 0, file_bytes_out);
    if (status == UMBP_OK) {
        status = ssd_io_run(io, DISK_SYNC, file, NULL, 0, 0, DEADLINE_NEVER, NULL);
    }
    return status;
}

/* A segment that was open when its writer died. One of which nothing can be served goes: it would
 * be read again at each start, and released before any other. */
static void recover_seal(struct ssd_tier *tier, struct ssd_io *io, struct ssd_loaded *loaded)
{
    char path[SSD_PATH_BYTES];
    struct disk_file file;
    ssd_segment_path(tier->directory, loaded->id, path);
    if (loaded->pages.entries == 0) {
        loaded->is_gone = disk_unlink(tier->disk, path) == UMBP_OK;
        if (loaded->lost_bytes > 0) {
            log_warn("ssd_segment_dropped", "path=\"%s\" damaged_bytes=%" PRIu64, path,
                     loaded->lost_bytes);
        }
        return;
    }
    if (disk_open(tier->disk, path, DISK_OPEN_WRITE | DISK_OPEN_DIRECT, &file) != UMBP_OK) {
        return;
    }
    uint64_t file_bytes = loaded->file_bytes;
    if (seal_file(tier, io, loaded, file, &file_bytes) == UMBP_OK) {
        loaded->has_footer = true;
        loaded->file_bytes = file_bytes;
    } else if (disk_size(tier->disk, file, &file_bytes) == UMBP_OK) {
        loaded->file_bytes = file_bytes;
    }
    disk_close(tier->disk, file);
}

/* ------------------------------------------------------------------------- delivery ------ */

static void recover_deliver(struct ssd_tier *tier, const struct ssd_set *set,
                            const struct ssd_ref *refs, size_t count,
                            const struct ssd_visitor *visitor, struct ssd_recovery *recovery)
{
    for (size_t i = 0; i < count; i++) {
        struct ssd_entry entry;
        struct ssd_record_info info;
        uint32_t segment;
        ssd_set_entry(set, &refs[i], &entry, &segment);
        if (entry.generation < tier->clear_generation) {
            continue;
        }
        ssd_info_of(&entry, segment, &info);
        recovery->records += info.is_tombstone ? 0 : 1;
        recovery->tombstones += info.is_tombstone ? 1 : 0;
        if (visitor && visitor->record) {
            visitor->record(visitor->context, &info);
        }
    }
}

static enum umbp_status recover_tell(struct ssd_tier *tier, struct ssd_io *io, struct ssd_set *set,
                                     const struct ssd_visitor *visitor,
                                     struct ssd_recovery *recovery)
{
    struct ssd_ref *refs = NULL;
    size_t count = 0;
    enum umbp_status status = ssd_set_refs(set, &refs, &count);
    if (status == UMBP_OK) {
        status = ssd_refs_sort(refs, count);
    }
    if (status == UMBP_OK) {
        recover_weigh(tier, set, refs, count, recovery);
        for (size_t i = 0; i < set->count; i++) {
            struct ssd_loaded *loaded = &set->segments[i];
            if (!loaded->has_footer && !loaded->is_unreadable && !tier->read_only) {
                recover_seal(tier, io, loaded);
            }
            if (!loaded->is_gone) {
                recover_insert(tier, loaded);
            }
        }
        recover_deliver(tier, set, refs, count, visitor, recovery);
    }
    mem_free(refs);
    return status;
}

enum umbp_status ssd_recover(struct ssd_tier *tier, const struct ssd_super *super,
                             struct ssd_listing *listing, const struct ssd_visitor *visitor,
                             struct ssd_recovery *recovery, char *error_out, size_t error_bytes)
{
    struct ssd_set set = {.segments = NULL};
    uint32_t failed_id = 0;
    struct ssd_io *io = ssd_pool_take(&tier->read_pool, tier->clock, DEADLINE_NEVER);
    enum umbp_status status = recover_load(tier, io, listing, &set, recovery, &failed_id);
    if (status != UMBP_OK) {
        ssd_set_error(error_out, error_bytes, "%s/%016x.seg: %s", tier->directory, failed_id,
                      disk_status_text(status));
    }
    if (listing->foreign_files > 0) {
        recovery->foreign_files = listing->foreign_files;
        log_warn("ssd_foreign_files", "directory=\"%s\" count=%" PRIu64 " names=\"%s%s\"",
                 tier->directory, listing->foreign_files, listing->foreign_names,
                 listing->foreign_files > SSD_FOREIGN_NAMES ? " ..." : "");
    }
    if (status == UMBP_OK) {
        uint32_t newest = listing->count > 0 ? listing->ids[listing->count - 1] : 0;
        tier->next_segment = super->next_segment > newest ? super->next_segment : newest + 1;
        tier->reserved_segment = super->next_segment;
        recovery->max_generation = super->clear_generation;
        status = recover_tell(tier, io, &set, visitor, recovery);
        if (status != UMBP_OK) {
            ssd_set_error(error_out, error_bytes, "%s: reading %zu segments: %s", tier->directory,
                          set.count, disk_status_text(status));
        }
    }
    ssd_set_fini(&set);
    ssd_pool_give(&tier->read_pool, io);
    return status;
}
