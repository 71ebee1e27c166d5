/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding out what a segment file holds: by its footer, else by scanning it. And sets of segments
 * whose entries are put in one order.
 */
#include "tier_ssd/ssd_priv.h"

static bool load_visit(void *context, const struct ssd_entry *entry)
{
    struct ssd_loaded *loaded = context;
    return ssd_pages_add(&loaded->pages, entry) == UMBP_OK;
}

static enum umbp_status load_scan(struct ssd_io *io, struct disk_file file,
                                  const struct ssd_identity *identity, uint64_t deadline_ns,
                                  struct ssd_loaded *loaded)
{
    struct ssd_scan *scan = mem_zalloc(sizeof(*scan)); /* too large for a stack */
    if (!scan) {
        return UMBP_NO_MEMORY;
    }
    scan->io = io;
    scan->file = file;
    scan->tag = identity->tag;
    scan->segment = loaded->id;
    scan->first_block = 1;
    scan->file_blocks = loaded->file_bytes / SSD_BLOCK_BYTES;
    scan->deadline_ns = deadline_ns;
    scan->visit = load_visit;
    scan->context = loaded;
    enum umbp_status status = ssd_scan_run(scan);
    ssd_pages_seal(&loaded->pages);
    loaded->footer_block = scan->end_block;
    loaded->next_block = scan->next_block;
    loaded->lost_records = scan->lost_records;
    loaded->lost_bytes = scan->lost_bytes;
    loaded->tail_bytes = scan->tail_bytes;
    mem_free(scan);
    return status;
}

/* The header says whose it is; damage there costs nothing, since every record says so too. */
static enum umbp_status load_header(struct ssd_io *io, struct disk_file file,
                                    const struct ssd_identity *identity, uint64_t deadline_ns,
                                    struct ssd_loaded *loaded)
{
    enum umbp_status status =
        ssd_io_run(io, DISK_READ, file, NULL, 0, SSD_BLOCK_BYTES, deadline_ns, NULL);
    if (status == UMBP_OK) {
        status = ssd_header_decode(io->service->buffer, identity, loaded->id);
    }
    if (status == UMBP_CORRUPT || status == UMBP_IO) {
        loaded->is_headless = true;
        return UMBP_OK;
    }
    return status;
}

static enum umbp_status load_file(struct ssd_io *io, struct disk_file file,
                                  const struct ssd_identity *identity, uint64_t deadline_ns,
                                  struct ssd_loaded *loaded)
{
    struct ssd_trailer trailer;
    uint64_t blocks = loaded->file_bytes / SSD_BLOCK_BYTES;
    if (blocks >= UINT32_MAX) {
        return UMBP_NOT_FOUND; /* nothing of ours is that large */
    }
    enum umbp_status status = ssd_footer_find(io, file, NULL, identity, loaded->id,
                                              loaded->file_bytes, deadline_ns, &trailer);
    if (status == UMBP_OK) {
        loaded->footer_block = trailer.footer_block;
        status = ssd_footer_load(io, file, NULL, &trailer, deadline_ns, &loaded->pages);
        loaded->has_footer = status == UMBP_OK;
    }
    if (status != UMBP_CORRUPT && status != UMBP_IO) {
        return status;
    }
    if (blocks == 0) {
        loaded->is_headless = true;
        return UMBP_OK;
    }
    status = load_header(io, file, identity, deadline_ns, loaded);
    if (status == UMBP_OK) {
        status = load_scan(io, file, identity, deadline_ns, loaded);
    }
    return status;
}

enum umbp_status ssd_load_segment(struct disk *disk, struct ssd_io *io, const char *directory,
                                  const struct ssd_identity *identity, uint32_t id,
                                  uint64_t deadline_ns, struct ssd_loaded *loaded_out)
{
    char path[SSD_PATH_BYTES];
    struct disk_file file;
    *loaded_out = (struct ssd_loaded){
        .id = id, .footer_block = 1, .next_block = 1, .oldest_value = UINT64_MAX};
    ssd_pages_init(&loaded_out->pages, identity->tag, id);
    ssd_segment_path(directory, id, path);
    enum umbp_status status = disk_open(disk, path, DISK_OPEN_DIRECT, &file);
    if (status == UMBP_NOT_FOUND) {
        loaded_out->is_gone = true;
        return UMBP_OK;
    }
    if (status == UMBP_OK) {
        status = disk_size(disk, file, &loaded_out->file_bytes);
        if (status == UMBP_OK) {
            status = load_file(io, file, identity, deadline_ns, loaded_out);
        }
        disk_close(disk, file);
    }
    if (status == UMBP_NOT_FOUND) {
        loaded_out->is_foreign = true;
        return UMBP_OK;
    }
    if (status == UMBP_IO || status == UMBP_READ_ONLY) {
        loaded_out->is_unreadable = true;
        return UMBP_OK;
    }
    return status;
}

/* -------------------------------------------------------------------------- sets --------- */

void ssd_set_fini(struct ssd_set *set)
{
    for (size_t i = 0; i < set->count; i++) {
        ssd_pages_fini(&set->segments[i].pages);
    }
    mem_free(set->segments);
    set->segments = NULL;
    set->count = 0;
}

static struct ssd_ref *refs_of_segment(const struct ssd_set *set, size_t index,
                                       struct ssd_ref *refs)
{
    const struct ssd_loaded *loaded = &set->segments[index];
    for (uint32_t page = 0; page < loaded->pages.count; page++) {
        const uint8_t *data = loaded->pages.data + (size_t)page * SSD_BLOCK_BYTES;
        struct ssd_entry entry;
        bool plausible = true;
        uint32_t at = 0;
        uint32_t start = 0;
        while (ssd_page_next(data, loaded->footer_block, &at, &entry, &plausible)) {
            *refs++ = (struct ssd_ref){
                .order = entry.generation,
                .at = (uint64_t)index << 40 | ((uint64_t)page * SSD_BLOCK_BYTES + start),
            };
            start = at;
        }
    }
    return refs;
}

enum umbp_status ssd_set_refs(const struct ssd_set *set, struct ssd_ref **refs_out,
                              size_t *count_out)
{
    size_t count = 0;
    for (size_t i = 0; i < set->count; i++) {
        count += set->segments[i].pages.entries;
    }
    struct ssd_ref *refs = NULL;
    if (count > 0 && !(refs = mem_calloc(count, sizeof(*refs)))) {
        return UMBP_NO_MEMORY;
    }
    struct ssd_ref *end = refs;
    for (size_t i = 0; i < set->count; i++) {
        end = refs_of_segment(set, i, end);
    }
    ASSERT((size_t)(end - refs) == count);
    *refs_out = refs;
    *count_out = count;
    return UMBP_OK;
}

void ssd_set_entry(const struct ssd_set *set, const struct ssd_ref *ref,
                   struct ssd_entry *entry_out, uint32_t *segment_out)
{
    const struct ssd_loaded *loaded = &set->segments[ref->at >> 40];
    uint64_t byte = ref->at & ((UINT64_C(1) << 40) - 1);
    const uint8_t *page = loaded->pages.data + align_down(byte, SSD_BLOCK_BYTES);
    uint32_t at = (uint32_t)(byte % SSD_BLOCK_BYTES);
    bool plausible = true;
    bool found = ssd_page_next(page, loaded->footer_block, &at, entry_out, &plausible);
    ASSERT(found);
    *segment_out = loaded->id;
}

/* Radix sort from the lowest byte up, over those bytes in which orders differ. */
enum umbp_status ssd_refs_sort(struct ssd_ref *refs, size_t count)
{
    uint64_t any = 0;
    uint64_t all = UINT64_MAX;
    bool is_sorted = true;
    for (size_t i = 0; i < count; i++) {
        any |= refs[i].order;
        all &= refs[i].order;
        is_sorted = is_sorted && (i == 0 || refs[i - 1].order <= refs[i].order);
    }
    if (is_sorted) {
        return UMBP_OK;
    }
    struct ssd_ref *spare = mem_calloc(count, sizeof(*spare));
    if (!spare) {
        return UMBP_NO_MEMORY;
    }
    struct ssd_ref *from = refs;
    struct ssd_ref *to = spare;
    for (unsigned shift = 0; shift < 64; shift += 8) {
        size_t starts[256] = {0};
        size_t at = 0;
        if (((any ^ all) >> shift & 0xff) == 0) {
            continue;
        }
        for (size_t i = 0; i < count; i++) {
            starts[from[i].order >> shift & 0xff]++;
        }
        for (unsigned digit = 0; digit < 256; digit++) {
            size_t here = starts[digit];
            starts[digit] = at;
            at += here;
        }
        for (size_t i = 0; i < count; i++) {
            to[starts[from[i].order >> shift & 0xff]++] = from[i];
        }
        struct ssd_ref *swap = from;
        from = to;
        to = swap;
    }
    if (from != refs) {
        memcpy(refs, from, count * sizeof(*refs));
    }
    mem_free(spare);
    return UMBP_OK;
}
