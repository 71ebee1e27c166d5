/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Footers: what a sealed segment holds, so that start-up reads keys and not values.
 *
 *   ... records | page 0 | page 1 | ... | trailer |  end of file
 *
 * A page is one block of whole entries with its own checksum; the trailer is the file's last block
 * and says where the pages begin. A full segment has them at the end of the space that was set
 * aside for it, so that nothing has to be cut; one that is sealed early is cut behind the trailer
 * after that was written. A crash anywhere in between leaves a segment without a footer, never one
 * with half of it: each page says which it is, and all must hold.
 */
#include "tier_ssd/ssd_priv.h"

/* ------------------------------------------------------------------------- memory -------- */

void ssd_pages_init(struct ssd_pages *pages, uint64_t tag, uint32_t segment)
{
    *pages = (struct ssd_pages){.tag = tag, .segment = segment};
}

void ssd_pages_fini(struct ssd_pages *pages)
{
    if (pages->data) {
        mem_unmap(pages->data, pages->capacity);
    }
    pages->data = NULL;
    pages->count = 0;
}

enum umbp_status ssd_pages_reserve(struct ssd_pages *pages, uint32_t count)
{
    size_t need = (size_t)count * SSD_BLOCK_BYTES;
    if (need <= pages->capacity) {
        return UMBP_OK;
    }
    uint8_t *data = mem_map(need);
    if (!data) {
        return UMBP_NO_MEMORY;
    }
    if (pages->data) {
        memcpy(data, pages->data, (size_t)pages->count * SSD_BLOCK_BYTES);
        mem_unmap(pages->data, pages->capacity);
    }
    pages->data = data;
    pages->capacity = need;
    return UMBP_OK;
}

static uint8_t *pages_last(struct ssd_pages *pages)
{
    return pages->data + (size_t)(pages->count - 1) * SSD_BLOCK_BYTES;
}

void ssd_pages_seal(struct ssd_pages *pages)
{
    if (pages->is_open) {
        ssd_page_seal(pages_last(pages));
        pages->is_open = false;
    }
}

enum umbp_status ssd_pages_add(struct ssd_pages *pages, const struct ssd_entry *entry)
{
    if (pages->is_open && ssd_page_add(pages_last(pages), entry)) {
        pages->entries++;
        return UMBP_OK;
    }
    ssd_pages_seal(pages);
    if ((size_t)(pages->count + 1) * SSD_BLOCK_BYTES > pages->capacity) {
        enum umbp_status status = ssd_pages_reserve(pages, 16 + pages->count * 2);
        if (status != UMBP_OK) {
            return status;
        }
    }
    pages->count++;
    pages->is_open = true;
    ssd_page_begin(pages_last(pages), pages->tag, pages->segment, pages->count - 1);
    bool fits = ssd_page_add(pages_last(pages), entry);
    ASSERT(fits);
    pages->entries++;
    return UMBP_OK;
}

/* ------------------------------------------------------------------------ reading -------- */

enum umbp_status ssd_footer_find(struct ssd_io *io, struct disk_file file, void *owner,
                                 const struct ssd_identity *identity, uint32_t segment,
                                 uint64_t file_bytes, uint64_t deadline_ns,
                                 struct ssd_trailer *trailer_out)
{
    if (file_bytes % SSD_BLOCK_BYTES != 0 || file_bytes < 2 * SSD_BLOCK_BYTES) {
        return UMBP_CORRUPT;
    }
    enum umbp_status status = ssd_io_run(io, DISK_READ, file, owner, file_bytes - SSD_BLOCK_BYTES,
                                         SSD_BLOCK_BYTES, deadline_ns, NULL);
    if (status != UMBP_OK) {
        return status;
    }
    return ssd_trailer_decode(io->service->buffer, identity, segment, file_bytes / SSD_BLOCK_BYTES,
                              trailer_out);
}

/* Read pages [first, first + count) into the service buffer and check them. */
static enum umbp_status footer_read(struct ssd_io *io, struct disk_file file, void *owner,
                                    const struct ssd_trailer *trailer, uint64_t tag, uint32_t first,
                                    uint32_t count, uint64_t deadline_ns)
{
    uint64_t offset = ((uint64_t)trailer->footer_block + first) * SSD_BLOCK_BYTES;
    enum umbp_status status = ssd_io_run(io, DISK_READ, file, owner, offset,
                                         (size_t)count * SSD_BLOCK_BYTES, deadline_ns, NULL);
    for (uint32_t i = 0; status == UMBP_OK && i < count; i++) {
        if (!ssd_page_is_valid(io->service->buffer + (size_t)i * SSD_BLOCK_BYTES, tag,
                               trailer->segment, first + i)) {
            status = UMBP_CORRUPT;
        }
    }
    return status;
}

static enum umbp_status page_visit(const uint8_t *page, uint32_t footer_block,
                                   void (*visit)(void *context, const struct ssd_entry *entry),
                                   void *context, uint32_t *entries)
{
    struct ssd_entry entry;
    uint32_t at = 0;
    bool plausible = true;
    while (ssd_page_next(page, footer_block, &at, &entry, &plausible)) {
        (*entries)++;
        if (visit) {
            visit(context, &entry);
        }
    }
    return plausible ? UMBP_OK : UMBP_CORRUPT;
}

enum umbp_status ssd_footer_walk(struct ssd_io *io, struct disk_file file, void *owner,
                                 const struct ssd_trailer *trailer, uint64_t tag,
                                 uint64_t deadline_ns,
                                 void (*visit)(void *context, const struct ssd_entry *entry),
                                 void *context)
{
    uint32_t most = io->options.slot_bytes / SSD_BLOCK_BYTES;
    uint32_t entries = 0;
    for (uint32_t first = 0; first < trailer->pages; first += most) {
        uint32_t count = trailer->pages - first < most ? trailer->pages - first : most;
        enum umbp_status status =
            footer_read(io, file, owner, trailer, tag, first, count, deadline_ns);
        for (uint32_t i = 0; status == UMBP_OK && i < count; i++) {
            status = page_visit(io->service->buffer + (size_t)i * SSD_BLOCK_BYTES,
                                trailer->footer_block, visit, context, &entries);
        }
        if (status != UMBP_OK) {
            return status;
        }
    }
    return entries == trailer->entries ? UMBP_OK : UMBP_CORRUPT;
}

enum umbp_status ssd_footer_load(struct ssd_io *io, struct disk_file file, void *owner,
                                 const struct ssd_trailer *trailer, uint64_t deadline_ns,
                                 struct ssd_pages *pages)
{
    uint32_t most = io->options.slot_bytes / SSD_BLOCK_BYTES;
    uint32_t entries = 0;
    enum umbp_status status = ssd_pages_reserve(pages, trailer->pages);
    for (uint32_t first = 0; status == UMBP_OK && first < trailer->pages; first += most) {
        uint32_t count = trailer->pages - first < most ? trailer->pages - first : most;
        status = footer_read(io, file, owner, trailer, pages->tag, first, count, deadline_ns);
        if (status == UMBP_OK) {
            memcpy(pages->data + (size_t)first * SSD_BLOCK_BYTES, io->service->buffer,
                   (size_t)count * SSD_BLOCK_BYTES);
            pages->count = first + count;
        }
    }
    for (uint32_t i = 0; status == UMBP_OK && i < pages->count; i++) {
        status = page_visit(pages->data + (size_t)i * SSD_BLOCK_BYTES, trailer->footer_block, NULL,
                            NULL, &entries);
    }
    if (status == UMBP_OK && entries != trailer->entries) {
        status = UMBP_CORRUPT;
    }
    if (status != UMBP_OK) {
        pages->count = 0;
        return status;
    }
    pages->entries = entries;
    return UMBP_OK;
}

/* ------------------------------------------------------------------------ writing -------- */

void ssd_footer_begin(struct ssd_footer_writer *writer, struct ssd_io *io, struct disk_file file,
                      void *owner, const struct ssd_identity *identity, uint32_t segment,
                      uint32_t first_block, uint64_t deadline_ns)
{
    *writer = (struct ssd_footer_writer){
        .io = io,
        .file = file,
        .owner = owner,
        .identity = identity,
        .segment = segment,
        .first_block = first_block,
        .deadline_ns = deadline_ns,
        .status = ssd_io_service_is_free(io, deadline_ns) ? UMBP_OK : UMBP_TIMEOUT,
    };
}

static uint8_t *footer_open_page(struct ssd_footer_writer *writer)
{
    return writer->io->service->buffer + writer->fill - SSD_BLOCK_BYTES;
}

static void footer_close_page(struct ssd_footer_writer *writer)
{
    if (writer->is_open) {
        ssd_page_seal(footer_open_page(writer));
        writer->is_open = false;
    }
}

static void footer_flush(struct ssd_footer_writer *writer)
{
    uint64_t offset = ((uint64_t)writer->first_block + writer->flushed) * SSD_BLOCK_BYTES;
    writer->status = ssd_io_run(writer->io, DISK_WRITE, writer->file, writer->owner, offset,
                                writer->fill, writer->deadline_ns, NULL);
    writer->flushed += (uint32_t)(writer->fill / SSD_BLOCK_BYTES);
    writer->fill = 0;
}

/* One more block in the buffer; NULL when the last could not be written. */
static uint8_t *footer_block(struct ssd_footer_writer *writer)
{
    if (writer->fill + SSD_BLOCK_BYTES > writer->io->options.slot_bytes) {
        footer_flush(writer);
    }
    if (writer->status != UMBP_OK) {
        return NULL;
    }
    writer->fill += SSD_BLOCK_BYTES;
    return footer_open_page(writer);
}

void ssd_footer_add(struct ssd_footer_writer *writer, const struct ssd_entry *entry)
{
    if (writer->status != UMBP_OK) {
        return;
    }
    if (!writer->is_open || !ssd_page_add(footer_open_page(writer), entry)) {
        footer_close_page(writer);
        uint8_t *page = footer_block(writer);
        if (!page) {
            return;
        }
        ssd_page_begin(page, writer->identity->tag, writer->segment, writer->pages);
        writer->pages++;
        writer->is_open = true;
        bool fits = ssd_page_add(page, entry);
        ASSERT(fits);
    }
    writer->entries++;
}

/* An empty page. */
static void footer_fill(struct ssd_footer_writer *writer)
{
    footer_close_page(writer);
    uint8_t *page = footer_block(writer);
    if (page) {
        ssd_page_begin(page, writer->identity->tag, writer->segment, writer->pages);
        writer->pages++;
        writer->is_open = true;
    }
}

enum umbp_status ssd_footer_end(struct ssd_footer_writer *writer, uint32_t end_block,
                                uint64_t *file_bytes_out)
{
    while (writer->status == UMBP_OK && writer->first_block + writer->pages + 1 < end_block) {
        footer_fill(writer);
    }
    footer_close_page(writer);
    uint8_t *block = writer->status == UMBP_OK ? footer_block(writer) : NULL;
    if (!block) {
        return writer->status;
    }
    struct ssd_trailer trailer = {
        .segment = writer->segment,
        .footer_block = writer->first_block,
        .pages = writer->pages,
        .entries = writer->entries,
    };
    memcpy(trailer.uuid, writer->identity->uuid, SSD_UUID_BYTES);
    ssd_trailer_encode(&trailer, block);
    footer_flush(writer);
    uint64_t bytes = ((uint64_t)writer->first_block + writer->pages + 1) * SSD_BLOCK_BYTES;
    if (writer->status == UMBP_OK && end_block == 0) {
        writer->status = disk_truncate(writer->io->options.disk, writer->file, bytes);
    }
    if (writer->status == UMBP_OK) {
        *file_bytes_out = bytes;
    }
    return writer->status;
}
