/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a segment record by record, for when there is no footer to say what it holds (after a
 * kill, in a follower) and for fsck.
 *
 * The file is read once, front to back, several large reads ahead, and fed block by block to a
 * machine with three states:
 *
 *   SEEK   the block must be a record's header. It is: remember it, go to VALUE (or judge at once
 *          when the value is inline). It is not: a hole; step one block, stay in SEEK
 *   VALUE  grow the checksum; at the value's end judge the record
 *   STOP   met a hole, and was told to stop there (a follower)
 *
 * After a damaged value the machine goes on behind the value's end, since the header, which has a
 * checksum of its own, said how long it is and nothing else can begin in there. After a damaged
 * header it tries every block. A header proves itself by directory, segment, its own place and its
 * checksum, so bytes of a value are not taken for one.
 *
 * A part of the file that the device can't read is read again block by block; what still fails
 * counts as damage.
 */
#include "tier_ssd/ssd_priv.h"

/* Reads in flight. */
#define SCAN_SLOTS 8u

void ssd_scan_begin(struct ssd_scan *scan)
{
    scan->end_block = scan->first_block;
    scan->next_block = scan->first_block;
    scan->lost_records = 0;
    scan->lost_bytes = 0;
    scan->tail_records = 0;
    scan->tail_bytes = 0;
    scan->at = scan->first_block;
    scan->is_in_value = false;
    scan->is_in_damage = false;
    scan->is_stopped = false;
    scan->has_hole = false;
}

/* What follows is not contiguous with what was valid so far. */
static void scan_met_hole(struct ssd_scan *scan)
{
    scan->has_hole = true;
    scan->is_stopped = scan->stop_at_hole;
}

static void scan_lose(struct ssd_scan *scan, uint64_t records, uint64_t bytes)
{
    scan->lost_records += records;
    scan->lost_bytes += bytes;
    scan->tail_records += records;
    scan->tail_bytes += bytes;
}

static bool scan_visit_tombstones(struct ssd_scan *scan, const uint8_t *payload)
{
    struct ssd_entry entry;
    size_t at = 0;
    while (ssd_tomb_next(payload, (size_t)scan->record.value_bytes, &at, &entry)) {
        entry.block = scan->record.block;
        if (!scan->visit(scan->context, &entry)) {
            return false;
        }
    }
    return true;
}

/* The record in scan->head has been read whole, and scan->crc is its value's. */
static enum umbp_status scan_judge(struct ssd_scan *scan, uint64_t end_block)
{
    const struct ssd_record *record = &scan->record;
    uint64_t bytes = (end_block - record->block) * SSD_BLOCK_BYTES;
    scan->is_in_value = false;
    if (scan->crc != record->value_crc) {
        scan_met_hole(scan); /* if somebody still writes: the value is not all there yet */
        scan_lose(scan, 1, bytes);
        return UMBP_OK;
    }
    bool goes_on = true;
    if (record->kind == SSD_KIND_TOMBSTONES) {
        goes_on = scan_visit_tombstones(scan, scan->head + SSD_RECORD_HEAD_BYTES);
    } else {
        struct ssd_entry entry = {
            .kind = SSD_KIND_VALUE,
            .block = record->block,
            .generation = record->generation,
            .value_bytes = record->value_bytes,
            .depth = record->depth,
            .value_crc = record->value_crc,
            .key_bytes = record->key_bytes,
            .key = record->key,
        };
        goes_on = scan->visit(scan->context, &entry);
    }
    scan->end_block = (uint32_t)end_block;
    if (!scan->has_hole) {
        scan->next_block = (uint32_t)end_block;
    }
    scan->tail_records = 0;
    scan->tail_bytes = 0;
    return goes_on ? UMBP_OK : UMBP_NO_MEMORY;
}

static void scan_hole(struct ssd_scan *scan, const uint8_t *block)
{
    scan_met_hole(scan);
    if (ssd_block_is_zero(block) || ssd_block_is_structure(block)) {
        scan->is_in_damage = false;
    } else {
        scan_lose(scan, scan->is_in_damage ? 0 : 1, SSD_BLOCK_BYTES);
        scan->is_in_damage = true;
    }
}

static enum umbp_status scan_header(struct ssd_scan *scan, const uint8_t *block)
{
    struct ssd_record record;
    uint64_t at = scan->at++;
    if (!ssd_record_decode(block, scan->tag, scan->segment, (uint32_t)at, &record)) {
        scan_hole(scan, block);
        return UMBP_OK;
    }
    scan->is_in_damage = false;
    memcpy(scan->head, block, SSD_BLOCK_BYTES);
    scan->record = record;
    scan->record.key = scan->head + SSD_RECORD_HEAD_BYTES;
    scan->crc = 0;
    if (ssd_value_is_inline(record.value_bytes, record.key_bytes)) {
        scan->crc = crc32c(0, scan->record.key + record.key_bytes, (size_t)record.value_bytes);
        return scan_judge(scan, scan->at);
    }
    scan->is_in_value = true;
    scan->value_left = record.value_bytes;
    return UMBP_OK;
}

enum umbp_status ssd_scan_feed(struct ssd_scan *scan, const uint8_t *data, uint32_t blocks)
{
    enum umbp_status status = UMBP_OK;
    while (blocks > 0 && !scan->is_stopped && status == UMBP_OK) {
        if (!scan->is_in_value) {
            status = scan_header(scan, data);
            data += SSD_BLOCK_BYTES;
            blocks--;
            continue;
        }
        uint64_t left = div_round_up(scan->value_left, SSD_BLOCK_BYTES);
        uint32_t now = (uint32_t)u64_min(left, blocks);
        uint64_t bytes = u64_min((uint64_t)now * SSD_BLOCK_BYTES, scan->value_left);
        scan->crc = crc32c(scan->crc, data, (size_t)bytes);
        scan->value_left -= bytes;
        scan->at += now;
        data += (size_t)now * SSD_BLOCK_BYTES;
        blocks -= now;
        if (scan->value_left == 0) {
            status = scan_judge(scan, scan->at);
        }
    }
    return status;
}

/* The file ends. */
static void scan_end(struct ssd_scan *scan)
{
    if (scan->is_in_value && !scan->stop_at_hole) {
        uint64_t bytes = (scan->at - scan->record.block) * SSD_BLOCK_BYTES;
        scan_lose(scan, 1, bytes);
    }
}

/* ------------------------------------------------------------------------- reading ------- */

/* Again, block by block; what can't be read is left zero. */
static enum umbp_status scan_salvage(struct ssd_scan *scan, struct ssd_slot *slot)
{
    for (uint64_t done = 0; done < slot->piece_bytes; done += SSD_BLOCK_BYTES) {
        enum umbp_status status =
            ssd_io_run(scan->io, DISK_READ, scan->file, scan->owner, slot->piece_from + done,
                       SSD_BLOCK_BYTES, scan->deadline_ns, NULL);
        if (status == UMBP_OK) {
            memcpy(slot->buffer + done, scan->io->service->buffer, SSD_BLOCK_BYTES);
        } else if (status == UMBP_IO) {
            memset(slot->buffer + done, 0, SSD_BLOCK_BYTES);
            scan->lost_bytes += SSD_BLOCK_BYTES;
        } else {
            return status;
        }
    }
    return UMBP_OK;
}

static enum umbp_status scan_use_slot(struct ssd_scan *scan, struct ssd_slot *slot)
{
    enum umbp_status status = slot->status;
    if (status == UMBP_IO) {
        status = scan_salvage(scan, slot);
    } else if (status == UMBP_OK && slot->request.bytes_done < slot->piece_bytes) {
        memset(slot->buffer + slot->request.bytes_done, 0,
               (size_t)(slot->piece_bytes - slot->request.bytes_done));
    }
    if (status == UMBP_OK) {
        status = ssd_scan_feed(scan, slot->buffer, (uint32_t)(slot->piece_bytes / SSD_BLOCK_BYTES));
    }
    if (status == UMBP_OK && scan->progress) {
        scan->progress(scan->context, slot->piece_bytes);
    }
    return status;
}

static void scan_read_ahead(struct ssd_scan *scan, uint64_t *submitted, uint64_t taken)
{
    uint64_t end = scan->file_blocks * SSD_BLOCK_BYTES;
    uint64_t most = (uint64_t)scan->io->options.slot_bytes;
    while (*submitted < end && *submitted - taken < SCAN_SLOTS * most) {
        struct ssd_slot *slot = ssd_io_take(scan->io);
        if (!slot) {
            break;
        }
        slot->owner = scan->owner;
        slot->piece_from = *submitted;
        slot->piece_bytes = u64_min(end - *submitted, most);
        slot->iov[0] =
            (struct iovec){.iov_base = slot->buffer, .iov_len = (size_t)slot->piece_bytes};
        ssd_io_submit(scan->io, slot, DISK_READ, scan->file, *submitted, 1);
        *submitted += slot->piece_bytes;
    }
    ssd_io_flush(scan->io);
}

/* The piece that comes next, if it is back. */
static struct ssd_slot *scan_find(struct ssd_scan *scan, uint64_t from)
{
    for (unsigned i = 0; i < scan->io->options.slots; i++) {
        struct ssd_slot *slot = &scan->io->slots[i];
        if (slot->state == SLOT_ENDED && slot->is_reported && slot->piece_from == from) {
            return slot;
        }
    }
    return NULL;
}

/* Wait for the piece that begins at `from`. */
static struct ssd_slot *scan_await(struct ssd_scan *scan, uint64_t from)
{
    struct ssd_slot *slot;
    while (!(slot = scan_find(scan, from))) {
        struct ssd_slot *ended = ssd_io_next(scan->io, scan->deadline_ns);
        if (!ended || ended->state == SLOT_LOST) {
            return NULL;
        }
    }
    return slot;
}

/* What was read ahead and is not wanted. */
static void scan_drop_ahead(struct ssd_scan *scan)
{
    while (ssd_io_next(scan->io, scan->deadline_ns)) {
    }
    for (unsigned i = 0; i < scan->io->options.slots; i++) {
        struct ssd_slot *slot = &scan->io->slots[i];
        if (slot->state == SLOT_ENDED && slot->is_reported) {
            ssd_io_release(scan->io, slot);
        }
    }
    ssd_io_abandon(scan->io);
}

enum umbp_status ssd_scan_run(struct ssd_scan *scan)
{
    uint64_t end = scan->file_blocks * SSD_BLOCK_BYTES;
    uint64_t taken = (uint64_t)scan->first_block * SSD_BLOCK_BYTES;
    uint64_t submitted = taken;
    enum umbp_status status = UMBP_OK;
    ssd_scan_begin(scan);
    while (status == UMBP_OK && !scan->is_stopped && taken < end) {
        scan_read_ahead(scan, &submitted, taken);
        struct ssd_slot *slot = scan_await(scan, taken);
        if (!slot) {
            status = UMBP_TIMEOUT;
            break;
        }
        status = scan_use_slot(scan, slot);
        taken += slot->piece_bytes;
        ssd_io_release(scan->io, slot);
    }
    scan_drop_ahead(scan);
    scan_end(scan);
    return status;
}
