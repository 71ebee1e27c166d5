/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fsck: reads a directory whole and changes nothing.
 *
 * Every segment is scanned, footer or not, so every checksum is looked at. Where there is a footer,
 * it says which records count: each must have been found by the scan, unchanged. What was found and
 * is not listed was void, and is no finding. Which of the good records are live is then decided
 * over all segments, by key and generation. Without a super file that holds, the segments' headers
 * tell whose they are; what was cleared then counts as live.
 */
#include <inttypes.h>
#include <stdarg.h>

#include "tier_ssd/ssd_priv.h"

#define CHECK_DEPTH 16u
#define CHECK_IO_BYTES (1u << 20)
#define CHECK_IO_TIMEOUT_NS (30 * NS_PER_S)
#define CHECK_PROBLEM_BYTES 256u

struct check {
    struct disk *disk;
    struct ssd_io *io;
    const char *directory;
    struct ssd_identity identity;
    uint64_t clear_generation;
    void (*progress)(void *context, uint64_t done, uint64_t all);
    void (*problem)(void *context, const char *line);
    void *context;
    struct ssd_check_report *report;
    struct ssd_counters counters;
    uint64_t done_bytes;
    uint64_t all_bytes;
    struct ssd_set set;
    struct ssd_loaded *loaded; /* being read */
    bool header_is_missing;    /* of that one */
};

PRINTF_LIKE(2, 3) static void check_problem(struct check *check, const char *format, ...)
{
    char line[CHECK_PROBLEM_BYTES];
    va_list arguments;
    if (check->problem) {
        va_start(arguments, format);
        (void)vsnprintf(line, sizeof(line), format, arguments);
        va_end(arguments);
        check->problem(check->context, line);
    }
}

static bool check_visit(void *context, const struct ssd_entry *entry)
{
    struct check *check = context;
    return ssd_pages_add(&check->loaded->pages, entry) == UMBP_OK;
}

static void check_progress(void *context, uint64_t bytes)
{
    struct check *check = context;
    check->done_bytes += bytes;
    if (check->progress) {
        check->progress(check->context, u64_min(check->done_bytes, check->all_bytes),
                        check->all_bytes);
    }
}

/* ------------------------------------------------------------------------ segments ------- */

struct page_cursor {
    const struct ssd_pages *pages;
    uint32_t footer_block;
    uint32_t page;
    uint32_t at;
};

static bool cursor_next(struct page_cursor *cursor, struct ssd_entry *entry_out)
{
    bool plausible = true;
    while (cursor->page < cursor->pages->count) {
        if (ssd_page_next(cursor->pages->data + (size_t)cursor->page * SSD_BLOCK_BYTES,
                          cursor->footer_block, &cursor->at, entry_out, &plausible)) {
            return true;
        }
        cursor->page++;
        cursor->at = 0;
    }
    return false;
}

static bool entries_equal(const struct ssd_entry *a, const struct ssd_entry *b)
{
    return a->kind == b->kind && a->block == b->block && a->generation == b->generation &&
           a->value_bytes == b->value_bytes && a->depth == b->depth &&
           a->value_crc == b->value_crc && a->key_bytes == b->key_bytes &&
           memcmp(a->key, b->key, a->key_bytes) == 0;
}

/* Replace what the scan found by what the footer lists of it. Both are in log order. */
static enum umbp_status check_against_footer(struct check *check, const struct ssd_pages *footer,
                                             uint32_t footer_block)
{
    struct ssd_loaded *loaded = check->loaded;
    struct page_cursor found = {&loaded->pages, UINT32_MAX, 0, 0};
    struct page_cursor listed = {footer, footer_block, 0, 0};
    struct ssd_pages good;
    struct ssd_entry entry;
    struct ssd_entry have = {.block = 0};
    bool has = cursor_next(&found, &have);
    enum umbp_status status = UMBP_OK;
    ssd_pages_init(&good, check->identity.tag, loaded->id);
    while (status == UMBP_OK && cursor_next(&listed, &entry)) {
        while (has && have.block < entry.block) {
            has = cursor_next(&found, &have);
        }
        /* Several tombstones share a block, in the same order. */
        if (has && entries_equal(&entry, &have)) {
            status = ssd_pages_add(&good, &entry);
            has = cursor_next(&found, &have);
            continue;
        }
        check->report->corrupt_records++;
        check_problem(check, "%016x.seg: block %u: a record of %" PRIu64 " bytes is damaged",
                      loaded->id, entry.block, entry.value_bytes);
    }
    ssd_pages_seal(&good);
    ssd_pages_fini(&loaded->pages);
    loaded->pages = good;
    loaded->footer_block = footer_block;
    return status;
}

static enum umbp_status check_scan(struct check *check, struct disk_file file,
                                   struct ssd_scan *scan)
{
    struct ssd_loaded *loaded = check->loaded;
    scan->io = check->io;
    scan->file = file;
    scan->tag = check->identity.tag;
    scan->segment = loaded->id;
    scan->first_block = 1;
    scan->file_blocks = loaded->file_bytes / SSD_BLOCK_BYTES;
    scan->deadline_ns = DEADLINE_NEVER;
    scan->visit = check_visit;
    scan->progress = check_progress;
    scan->context = check;
    enum umbp_status status = ssd_scan_run(scan);
    ssd_pages_seal(&loaded->pages);
    loaded->footer_block = scan->end_block;
    return status;
}

static void check_unsealed(struct check *check, const struct ssd_scan *scan)
{
    uint64_t inner = scan->lost_records - scan->tail_records;
    check->report->missing_footers++;
    check->report->torn_bytes += scan->tail_bytes;
    check->report->corrupt_records += inner;
    check_problem(check,
                  "%016x.seg: no footer; %u records found, %" PRIu64 " torn bytes at the end",
                  check->loaded->id, check->loaded->pages.entries, scan->tail_bytes);
    if (inner > 0) {
        check_problem(check, "%016x.seg: %" PRIu64 " damaged records between good ones",
                      check->loaded->id, inner);
    }
}

static enum umbp_status check_header(struct check *check, struct disk_file file)
{
    enum umbp_status status =
        ssd_io_run(check->io, DISK_READ, file, NULL, 0, SSD_BLOCK_BYTES, DEADLINE_NEVER, NULL);
    if (status == UMBP_OK && ssd_block_is_zero(check->io->service->buffer)) {
        check->header_is_missing = true; /* the writer was killed before it wrote it, perhaps */
        return UMBP_OK;
    }
    if (status == UMBP_OK) {
        status = ssd_header_decode(check->io->service->buffer, &check->identity, check->loaded->id);
    }
    if (status == UMBP_NOT_FOUND) {
        check->report->corrupt_segments++;
        check_problem(check, "%016x.seg: belongs to another directory", check->loaded->id);
    } else if (status != UMBP_OK && status != UMBP_VERSION) {
        check->report->corrupt_segments++;
        check_problem(check, "%016x.seg: its header is damaged (its records are not)",
                      check->loaded->id);
        status = UMBP_OK;
    }
    return status;
}

/* Records behind a header that is not there. */
static void check_missing_header(struct check *check)
{
    if (check->header_is_missing && check->loaded->pages.entries > 0) {
        check->report->corrupt_segments++;
        check_problem(check, "%016x.seg: its header is gone (its records are not)",
                      check->loaded->id);
    }
    check->header_is_missing = false;
}

static enum umbp_status check_file(struct check *check, struct disk_file file,
                                   struct ssd_scan *scan)
{
    struct ssd_loaded *loaded = check->loaded;
    struct ssd_trailer trailer;
    struct ssd_pages footer;
    enum umbp_status status = check_header(check, file);
    if (status != UMBP_OK) {
        return status == UMBP_NOT_FOUND ? UMBP_OK : status;
    }
    ssd_pages_init(&footer, check->identity.tag, loaded->id);
    enum umbp_status sealed = ssd_footer_find(check->io, file, NULL, &check->identity, loaded->id,
                                              loaded->file_bytes, DEADLINE_NEVER, &trailer);
    if (sealed == UMBP_OK) {
        sealed = ssd_footer_load(check->io, file, NULL, &trailer, DEADLINE_NEVER, &footer);
    }
    status = check_scan(check, file, scan);
    check_missing_header(check);
    if (status == UMBP_OK && sealed == UMBP_OK) {
        check->report->sealed++;
        status = check_against_footer(check, &footer, trailer.footer_block);
    } else if (status == UMBP_OK) {
        check_unsealed(check, scan);
    }
    ssd_pages_fini(&footer);
    return status;
}

static enum umbp_status check_segment(struct check *check, uint32_t id)
{
    char path[SSD_PATH_BYTES];
    struct disk_file file;
    struct ssd_loaded *loaded = &check->set.segments[check->set.count];
    *loaded = (struct ssd_loaded){.id = id, .footer_block = 1};
    ssd_pages_init(&loaded->pages, check->identity.tag, id);
    ssd_segment_path(check->directory, id, path);
    enum umbp_status status = disk_open(check->disk, path, DISK_OPEN_DIRECT, &file);
    if (status == UMBP_NOT_FOUND) {
        return UMBP_OK; /* a live writer released it */
    }
    check->set.count++;
    check->report->segments++;
    if (status != UMBP_OK) {
        check->report->corrupt_segments++;
        check_problem(check, "%016x.seg: %s", id, disk_status_text(status));
        return UMBP_OK;
    }
    struct ssd_scan *scan = mem_zalloc(sizeof(*scan));
    status = scan ? disk_size(check->disk, file, &loaded->file_bytes) : UMBP_NO_MEMORY;
    if (status == UMBP_OK && loaded->file_bytes / SSD_BLOCK_BYTES < UINT32_MAX) {
        check->loaded = loaded;
        status = check_file(check, file, scan);
    }
    mem_free(scan);
    disk_close(check->disk, file);
    return status;
}

/* ---------------------------------------------------------------------------- live ------- */

/* Refs of one key hash, newest first, are decided against the keys seen so far. */
#define CHECK_SAME_HASH_MAX 8u

static void check_decide(struct check *check, const struct ssd_entry *entry, bool is_newest)
{
    struct ssd_check_report *report = check->report;
    if (entry->kind == SSD_KIND_TOMBSTONES) {
        report->tombstones++;
    } else if (is_newest && entry->generation >= check->clear_generation) {
        report->records++;
        report->bytes += entry->value_bytes;
    } else {
        report->dead_records++;
    }
}

static void check_group(struct check *check, const struct ssd_ref *refs, size_t count)
{
    struct ssd_entry seen[CHECK_SAME_HASH_MAX];
    unsigned seen_count = 0;
    for (size_t i = count; i-- > 0;) {
        struct ssd_entry entry;
        uint32_t segment;
        bool is_newest = true;
        ssd_set_entry(&check->set, &refs[i], &entry, &segment);
        for (unsigned k = 0; k < seen_count && is_newest; k++) {
            is_newest = seen[k].key_bytes != entry.key_bytes ||
                        memcmp(seen[k].key, entry.key, entry.key_bytes) != 0;
        }
        if (is_newest && seen_count < CHECK_SAME_HASH_MAX) {
            seen[seen_count++] = entry;
        }
        check_decide(check, &entry, is_newest);
    }
}

static enum umbp_status check_live(struct check *check)
{
    struct ssd_ref *refs = NULL;
    size_t count = 0;
    enum umbp_status status = ssd_set_refs(&check->set, &refs, &count);
    if (status == UMBP_OK) {
        status = ssd_refs_sort(refs, count); /* by generation, then (stable) by key */
    }
    for (size_t i = 0; status == UMBP_OK && i < count; i++) {
        struct ssd_entry entry;
        uint32_t segment;
        ssd_set_entry(&check->set, &refs[i], &entry, &segment);
        refs[i].order = hash_bytes(entry.key, entry.key_bytes, 0);
    }
    if (status == UMBP_OK) {
        status = ssd_refs_sort(refs, count);
    }
    for (size_t first = 0; status == UMBP_OK && first < count;) {
        size_t end = first + 1;
        while (end < count && refs[end].order == refs[first].order) {
            end++;
        }
        check_group(check, refs + first, end - first);
        first = end;
    }
    mem_free(refs);
    return status;
}

/* -------------------------------------------------------------------------- calling ------ */

static void check_weigh(struct check *check, const struct ssd_listing *listing)
{
    for (size_t i = 0; i < listing->count; i++) {
        char path[SSD_PATH_BYTES];
        struct disk_file file;
        uint64_t bytes = 0;
        ssd_segment_path(check->directory, listing->ids[i], path);
        if (disk_open(check->disk, path, 0, &file) == UMBP_OK) {
            if (disk_size(check->disk, file, &bytes) == UMBP_OK && bytes > SSD_BLOCK_BYTES) {
                check->all_bytes += align_down(bytes, SSD_BLOCK_BYTES) - SSD_BLOCK_BYTES;
            }
            disk_close(check->disk, file);
        }
    }
}

static enum umbp_status check_all(struct check *check, const struct ssd_listing *listing)
{
    check->report->foreign_files = listing->foreign_files;
    if (listing->foreign_files > 0) {
        check_problem(check, "%" PRIu64 " files that are not ours: %s", listing->foreign_files,
                      listing->foreign_names);
    }
    check_weigh(check, listing);
    enum umbp_status status = UMBP_OK;
    for (size_t i = 0; i < listing->count && status == UMBP_OK; i++) {
        status = check_segment(check, listing->ids[i]);
    }
    return status == UMBP_OK ? check_live(check) : status;
}

/* The segments' own word for whose they are. */
static bool find_identity(struct check *check, const struct ssd_listing *listing)
{
    char path[SSD_PATH_BYTES];
    uint8_t block[SSD_BLOCK_BYTES];
    uint8_t uuid[SSD_UUID_BYTES];
    struct disk_file file;
    for (size_t i = 0; i < listing->count; i++) {
        size_t got = 0;
        ssd_segment_path(check->directory, listing->ids[i], path);
        if (disk_open(check->disk, path, 0, &file) != UMBP_OK) {
            continue;
        }
        enum umbp_status status = disk_read_at(check->disk, file, block, sizeof(block), 0, &got);
        disk_close(check->disk, file);
        if (status == UMBP_OK && got == sizeof(block) && ssd_header_uuid(block, uuid)) {
            check->identity = ssd_identity_of(uuid);
            return true;
        }
    }
    return false;
}

/* What to check by. Not UMBP_OK: there is nothing to check, or nothing that can be. */
static enum umbp_status check_super(struct check *check, const struct ssd_listing *listing)
{
    struct ssd_super super;
    uint32_t version = 0;
    enum umbp_status status = ssd_super_read(check->disk, check->directory, &super, &version);
    if (status == UMBP_OK) {
        check->identity = ssd_identity_of(super.uuid);
        check->clear_generation = super.clear_generation;
        return UMBP_OK;
    }
    if (status != UMBP_CORRUPT && (status != UMBP_NOT_FOUND || listing->count == 0)) {
        return status;
    }
    check->report->super_is_damaged = true;
    check_problem(
        check, "umbp.super is %s: the directory can't be opened; what was cleared counts as live",
        status == UMBP_NOT_FOUND ? "missing" : "damaged");
    if (listing->count > 0 && !find_identity(check, listing)) {
        check_problem(check, "no segment's header tells whose it is");
    }
    return UMBP_OK;
}

static enum umbp_status check_directory(struct check *check, const struct ssd_listing *listing)
{
    check->set.segments = mem_calloc(listing->count + 1, sizeof(*check->set.segments));
    enum umbp_status status =
        check->set.segments
            ? ssd_read_slots(check->disk, clock_monotonic(), &check->counters, CHECK_IO_TIMEOUT_NS,
                             CHECK_DEPTH, CHECK_IO_BYTES, &check->io)
            : UMBP_NO_MEMORY;
    if (status == UMBP_OK) {
        status = check_all(check, listing);
        (void)ssd_io_destroy(check->io, CHECK_IO_TIMEOUT_NS);
    }
    ssd_set_fini(&check->set);
    return status;
}

enum umbp_status ssd_check(const char *directory, struct disk *disk,
                           void (*progress)(void *context, uint64_t done, uint64_t all),
                           void (*problem)(void *context, const char *line), void *context,
                           struct ssd_check_report *report_out, char *error_out, size_t error_bytes)
{
    struct ssd_listing listing;
    struct ssd_check_report report = {0};
    struct check check = {
        .disk = disk,
        .directory = directory,
        .progress = progress,
        .problem = problem,
        .context = context,
        .report = &report,
    };
    ssd_set_error(error_out, error_bytes, "%s", "");
    if (strlen(directory) > SSD_PATH_BYTES - 64) {
        return UMBP_INVALID_VALUE;
    }
    enum umbp_status status = ssd_listing_read(disk, directory, &listing);
    if (status != UMBP_OK) {
        ssd_set_error(error_out, error_bytes, "%s can't be listed: %s", directory,
                      disk_status_text(status));
        return status;
    }
    status = check_super(&check, &listing);
    if (status != UMBP_OK) {
        ssd_set_error(error_out, error_bytes, "%s/umbp.super: %s", directory,
                      disk_status_text(status));
    } else {
        status = check_directory(&check, &listing);
        if (status != UMBP_OK) {
            ssd_set_error(error_out, error_bytes, "%s: %s", directory, disk_status_text(status));
        }
    }
    ssd_listing_fini(&listing);
    if (status == UMBP_OK) {
        *report_out = report;
    }
    return status;
}
