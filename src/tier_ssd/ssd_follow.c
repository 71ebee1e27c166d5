/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A follower: what the leader did since the last look.
 *
 * The leader has several writes in flight, which reach the disk in any order. So a segment that has
 * no footer yet is read from where the last look stopped, and only up to the first hole; the next
 * look tries that place again. Once the footer is there it is the truth: what it lists from that
 * place on is delivered, and the segment is not scanned again.
 *
 * Segments vanish at any time. An open file stays readable; a closed one is UMBP_STALE to readers.
 */
#include "tier_ssd/ssd_priv.h"

struct follow {
    struct ssd_tier *tier;
    struct ssd_io *io;
    const struct ssd_visitor *visitor;
    uint64_t deadline_ns;
    uint64_t clear_generation;
    uint32_t segment;
    uint32_t from_block;
};

static void follow_entry(void *context, const struct ssd_entry *entry)
{
    const struct follow *follow = context;
    struct ssd_record_info info;
    if (entry->generation >= follow->clear_generation && entry->block >= follow->from_block &&
        follow->visitor->record) {
        ssd_info_of(entry, follow->segment, &info);
        follow->visitor->record(follow->visitor->context, &info);
    }
}

static bool follow_scanned(void *context, const struct ssd_entry *entry)
{
    follow_entry(context, entry);
    return true;
}

/* ---------------------------------------------------------------------------- gone ------- */

static bool listing_has(const struct ssd_listing *listing, uint32_t id)
{
    size_t low = 0;
    size_t high = listing->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (listing->ids[middle] < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < listing->count && listing->ids[low] == id;
}

/* Forget the segments that are not listed (NULL: all). */
static void follow_gone(struct follow *follow, const struct ssd_listing *listing)
{
    struct ssd_tier *tier = follow->tier;
    for (uint32_t i = 0; i < tier->segment_capacity; i++) {
        struct disk_file file = DISK_FILE_NONE;
        mutex_lock(&tier->mutex);
        struct ssd_segment *segment = &tier->segments[i];
        uint32_t id = atomic_load_explicit(&segment->id, memory_order_relaxed);
        bool is_gone = segment->state != SEGMENT_NONE && !segment->is_gone &&
                       !(listing && listing_has(listing, id));
        if (is_gone) {
            ssd_used_change(tier, 0, segment->file_bytes);
            file = ssd_segment_forget(tier, segment);
        }
        mutex_unlock(&tier->mutex);
        disk_close(tier->disk, file);
        if (is_gone && follow->visitor->segment_gone) {
            follow->visitor->segment_gone(follow->visitor->context, id);
        }
    }
}

/* ----------------------------------------------------------------------------- new ------- */

static void follow_deliver_pages(struct follow *follow, const struct ssd_loaded *loaded)
{
    follow->segment = loaded->id;
    follow->from_block = 0;
    for (uint32_t page = 0; page < loaded->pages.count; page++) {
        const uint8_t *data = loaded->pages.data + (size_t)page * SSD_BLOCK_BYTES;
        struct ssd_entry entry;
        bool plausible = true;
        uint32_t at = 0;
        while (ssd_page_next(data, loaded->footer_block, &at, &entry, &plausible)) {
            follow_entry(follow, &entry);
        }
    }
}

static enum umbp_status follow_new(struct follow *follow, uint32_t id)
{
    struct ssd_tier *tier = follow->tier;
    struct ssd_loaded loaded;
    enum umbp_status status = ssd_load_segment(tier->disk, follow->io, tier->directory,
                                               &tier->identity, id, follow->deadline_ns, &loaded);
    if (status == UMBP_OK && !loaded.is_foreign && !loaded.is_unreadable && !loaded.is_gone) {
        mutex_lock(&tier->mutex);
        struct ssd_segment *segment = ssd_table_insert(tier, id);
        if (segment) {
            segment->state = loaded.has_footer ? SEGMENT_SEALED : SEGMENT_FOLLOWED;
            segment->has_footer = loaded.has_footer;
            segment->file_bytes = loaded.file_bytes;
            segment->scan_block = loaded.next_block;
            ssd_used_change(tier, loaded.file_bytes, 0);
        }
        mutex_unlock(&tier->mutex);
        if (segment) {
            follow_deliver_pages(follow, &loaded);
        } else {
            status = UMBP_LIMIT;
        }
    }
    ssd_pages_fini(&loaded.pages);
    return status;
}

/* ---------------------------------------------------------------------------- grown ------ */

static enum umbp_status follow_scan(struct follow *follow, struct ssd_segment *segment,
                                    uint64_t file_bytes, uint32_t *next_block_out)
{
    struct ssd_scan *scan = mem_zalloc(sizeof(*scan));
    if (!scan) {
        return UMBP_NO_MEMORY;
    }
    scan->io = follow->io;
    scan->file = segment->file;
    scan->owner = segment;
    scan->tag = follow->tier->identity.tag;
    scan->segment = follow->segment;
    scan->first_block = follow->from_block;
    scan->file_blocks = u64_min(file_bytes / SSD_BLOCK_BYTES, UINT32_MAX - 1);
    scan->stop_at_hole = true;
    scan->deadline_ns = follow->deadline_ns;
    scan->visit = follow_scanned;
    scan->context = follow;
    enum umbp_status status = ssd_scan_run(scan);
    *next_block_out = scan->next_block;
    mem_free(scan);
    return status;
}

static enum umbp_status follow_grown(struct follow *follow, struct ssd_segment *segment,
                                     bool *is_sealed_out)
{
    struct ssd_tier *tier = follow->tier;
    struct ssd_trailer trailer;
    uint64_t file_bytes = 0;
    uint32_t next_block = follow->from_block;
    *is_sealed_out = false;
    enum umbp_status status = disk_size(tier->disk, segment->file, &file_bytes);
    if (status != UMBP_OK) {
        return status;
    }
    status = ssd_footer_find(follow->io, segment->file, segment, &tier->identity, follow->segment,
                             file_bytes, follow->deadline_ns, &trailer);
    if (status == UMBP_OK) {
        status = ssd_footer_walk(follow->io, segment->file, segment, &trailer, tier->identity.tag,
                                 follow->deadline_ns, follow_entry, follow);
        *is_sealed_out = status == UMBP_OK;
    }
    if (status == UMBP_CORRUPT || status == UMBP_IO) {
        status = follow_scan(follow, segment, file_bytes, &next_block);
    }
    mutex_lock(&tier->mutex);
    if (!segment->is_gone) {
        ssd_used_change(tier, file_bytes, segment->file_bytes);
        segment->file_bytes = file_bytes;
    }
    segment->scan_block = next_block;
    if (*is_sealed_out) {
        segment->state = SEGMENT_SEALED;
        segment->has_footer = true;
    }
    mutex_unlock(&tier->mutex);
    return status;
}

static enum umbp_status follow_segment(struct follow *follow, uint32_t id)
{
    struct ssd_tier *tier = follow->tier;
    mutex_lock(&tier->mutex);
    struct ssd_segment *segment = ssd_table_find(tier, id);
    bool is_followed = segment && segment->state == SEGMENT_FOLLOWED;
    follow->segment = id;
    follow->from_block = segment ? segment->scan_block : 0;
    mutex_unlock(&tier->mutex);
    if (!segment) {
        return follow_new(follow, id);
    }
    if (!is_followed) {
        return UMBP_OK;
    }
    bool is_sealed;
    enum umbp_status status = ssd_segment_use(tier, id, &segment);
    if (status == UMBP_STALE) {
        return UMBP_OK; /* the next listing will say so */
    }
    if (status == UMBP_OK) {
        status = follow_grown(follow, segment, &is_sealed);
        ssd_segment_unuse(tier, segment);
    }
    return status;
}

/* -------------------------------------------------------------------------- calling ------ */

/* The directory's first leader has come: it is the one to follow. Nobody has read by the identity
 * yet, since no record is known. False: nobody has come. */
static bool follow_first(struct ssd_tier *tier, enum umbp_status status,
                         const struct ssd_super *super)
{
    mutex_lock(&tier->mutex);
    bool is_unled = tier->is_unled;
    if (is_unled && status == UMBP_OK) {
        tier->identity = ssd_identity_of(super->uuid);
        tier->is_unled = false;
    }
    mutex_unlock(&tier->mutex);
    return !(is_unled && status == UMBP_NOT_FOUND);
}

static enum umbp_status follow_run(struct follow *follow)
{
    struct ssd_tier *tier = follow->tier;
    struct ssd_super super;
    struct ssd_listing listing;
    uint32_t version = 0;
    enum umbp_status status = ssd_super_read(tier->disk, tier->directory, &super, &version);
    if (!follow_first(tier, status, &super)) {
        return UMBP_OK;
    }
    if (status != UMBP_OK) {
        return status;
    }
    if (memcmp(super.uuid, tier->identity.uuid, SSD_UUID_BYTES) != 0) {
        follow_gone(follow, NULL); /* the directory was removed and made anew */
        return UMBP_STALE;
    }
    mutex_lock(&tier->mutex);
    tier->clear_generation = super.clear_generation;
    mutex_unlock(&tier->mutex);
    follow->clear_generation = super.clear_generation;
    status = ssd_listing_read(tier->disk, tier->directory, &listing);
    if (status != UMBP_OK) {
        return status;
    }
    follow_gone(follow, &listing);
    for (size_t i = 0; i < listing.count && status == UMBP_OK; i++) {
        status = follow_segment(follow, listing.ids[i]);
    }
    ssd_listing_fini(&listing);
    return status;
}

enum umbp_status ssd_refresh(struct ssd_tier *tier, const struct ssd_visitor *visitor,
                             uint64_t deadline_ns)
{
    if (!tier->read_only) {
        return UMBP_INVALID_VALUE;
    }
    /* One look at a time. */
    mutex_lock(&tier->mutex);
    while (tier->is_making && ssd_wait_changed(tier, deadline_ns)) {
    }
    bool is_free = !tier->is_making;
    tier->is_making = true;
    mutex_unlock(&tier->mutex);
    if (!is_free) {
        return UMBP_TIMEOUT;
    }
    struct follow follow = {.tier = tier, .visitor = visitor, .deadline_ns = deadline_ns};
    enum umbp_status status = UMBP_TIMEOUT;
    follow.io = ssd_pool_take(&tier->read_pool, tier->clock, deadline_ns);
    if (follow.io) {
        status = follow_run(&follow);
        ssd_pool_give(&tier->read_pool, follow.io);
    }
    mutex_lock(&tier->mutex);
    tier->is_making = false;
    condition_broadcast(&tier->changed);
    mutex_unlock(&tier->mutex);
    return status;
}
