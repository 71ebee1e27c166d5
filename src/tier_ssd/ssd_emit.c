/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records into slots: header blocks, tails and unaligned pieces are staged in the slot's buffer, in
 * whole blocks padded with zeros (so no other value's bytes get to the disk); pieces that lie on
 * block boundaries are written from where they are.
 */
#include "tier_ssd/ssd_append_priv.h"

void ssd_append_item_fail(struct ssd_append *item, enum umbp_status status)
{
    if (item->status == UMBP_OK) {
        item->status = status;
    }
}

void ssd_append_items_fail(struct append_writer *writer, size_t first, size_t end,
                           enum umbp_status status)
{
    for (size_t i = first; i < end; i++) {
        ssd_append_item_fail(&writer->appends[i], status);
    }
}

/* ------------------------------------------------------------------------ slots ---------- */

static void slot_ended(struct append_writer *writer, struct ssd_slot *slot)
{
    if (slot->status != UMBP_OK) {
        ssd_append_items_fail(writer, slot->first_item, slot->last_item + 1, slot->status);
    }
    writer->holds[slot->hold].pending--;
    ssd_io_release(writer->io, slot);
}

/* Time is up: what is in flight is left to the device, and counts as failed. */
static void writer_break(struct append_writer *writer)
{
    struct ssd_io *io = writer->io;
    for (unsigned i = 0; i < io->options.slots; i++) {
        struct ssd_slot *slot = &io->slots[i];
        if (slot->state == SLOT_BUSY) {
            ssd_append_items_fail(writer, slot->first_item, slot->last_item + 1, UMBP_TIMEOUT);
            writer->holds[slot->hold].pending--;
        }
    }
    ssd_io_abandon(io);
    writer->is_broken = true;
}

/* Wait for one slot in flight; false when there is none, or time is up. */
bool ssd_append_wait_slot(struct append_writer *writer)
{
    struct ssd_slot *slot = ssd_io_next(writer->io, writer->deadline_ns);
    if (slot) {
        slot_ended(writer, slot);
        return true;
    }
    if (writer->io->busy_count > 0) {
        writer_break(writer);
    }
    return false;
}

void ssd_append_submit_slot(struct append_writer *writer)
{
    struct ssd_slot *slot = writer->slot;
    if (!slot) {
        return;
    }
    ASSERT(writer->partial == 0);
    writer->slot = NULL;
    writer->holds[slot->hold].pending++;
    ssd_io_submit(writer->io, slot, DISK_WRITE, writer->holds[slot->hold].segment->file,
                  writer->slot_offset, writer->iov_count);
    ssd_io_flush(writer->io);
}

/* Make sure that there is a slot to fill. */
static bool slot_begin(struct append_writer *writer, uint64_t offset)
{
    struct ssd_slot *slot = NULL;
    while (!writer->is_broken && !(slot = ssd_io_take(writer->io))) {
        if (!ssd_append_wait_slot(writer) && !writer->is_broken &&
            !ssd_io_await_lost(writer->io, writer->deadline_ns)) {
            writer->is_broken = true;
        }
    }
    if (!slot) {
        return false;
    }
    slot->hold = writer->current;
    slot->owner = hold_now(writer)->segment;
    slot->first_item = writer->item;
    slot->last_item = writer->item;
    writer->slot = slot;
    writer->slot_offset = offset;
    writer->slot_bytes = 0;
    writer->iov_count = 0;
    writer->staged = 0;
    return true;
}

/* Throw away what is in the open slot: its items failed. */
void ssd_append_discard_slot(struct append_writer *writer)
{
    if (writer->slot) {
        ssd_append_items_fail(writer, writer->slot->first_item, writer->slot->last_item + 1,
                              UMBP_TIMEOUT);
        ssd_io_release(writer->io, writer->slot);
        writer->slot = NULL;
        writer->partial = 0;
    }
}

/* ------------------------------------------------------------------------- bytes --------- */

static void slot_add_iov(struct append_writer *writer, const void *data, size_t bytes)
{
    struct iovec *last = writer->iov_count ? &writer->slot->iov[writer->iov_count - 1] : NULL;
    if (last && (const char *)last->iov_base + last->iov_len == (const char *)data) {
        last->iov_len += bytes;
    } else {
        writer->slot->iov[writer->iov_count++] =
            (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = bytes};
    }
    writer->slot_bytes += bytes;
    writer->slot->last_item = writer->item;
}

/* Where the next `bytes` go in the slot's buffer; accounted as written. */
static uint8_t *slot_stage(struct append_writer *writer, size_t bytes)
{
    uint8_t *to = writer->slot->buffer + writer->staged;
    slot_add_iov(writer, to, bytes);
    writer->staged += bytes;
    writer->partial = (writer->partial + bytes) % SSD_BLOCK_BYTES;
    return to;
}

/* Room in the open slot, opening one if need be. 0: the writer is broken. */
static size_t slot_room(struct append_writer *writer)
{
    if (writer->slot && writer->partial == 0 &&
        (writer->slot_bytes == writer->tier->io_bytes ||
         writer->iov_count == writer->io->options.iov_max)) {
        uint64_t offset = writer->slot_offset + writer->slot_bytes;
        ssd_append_submit_slot(writer);
        writer->slot_offset = offset;
    }
    if (!writer->slot && !slot_begin(writer, writer->slot_offset)) {
        return 0;
    }
    return writer->tier->io_bytes - writer->slot_bytes;
}

static bool is_block_aligned(const void *data)
{
    return ((uintptr_t)data & (SSD_BLOCK_BYTES - 1)) == 0;
}

/* The next bytes of the log. */
static bool put_bytes(struct append_writer *writer, const uint8_t *data, size_t bytes)
{
    while (bytes > 0) {
        size_t room = slot_room(writer);
        if (room == 0) {
            return false;
        }
        size_t now = size_min(bytes, room);
        if (writer->partial == 0 && is_block_aligned(data) && bytes >= SSD_BLOCK_BYTES) {
            now = (size_t)align_down(now, SSD_BLOCK_BYTES);
            slot_add_iov(writer, data, now);
        } else {
            if (writer->partial != 0 &&
                is_block_aligned(data + SSD_BLOCK_BYTES - writer->partial)) {
                /* Fill the block up, and go on without copying. */
                now = size_min(now, SSD_BLOCK_BYTES - writer->partial);
            }
            uint8_t *to = slot_stage(writer, now);
            copy_bytes(to, data, now);
        }
        data += now;
        bytes -= now;
    }
    return true;
}

/* Zeros up to the end of the block. */
static void put_padding(struct append_writer *writer)
{
    if (writer->partial != 0) {
        size_t bytes = SSD_BLOCK_BYTES - writer->partial;
        memset(slot_stage(writer, bytes), 0, bytes);
    }
}

/* A whole staged block, to be filled by the caller. */
static uint8_t *put_block(struct append_writer *writer)
{
    return slot_room(writer) == 0 ? NULL : slot_stage(writer, SSD_BLOCK_BYTES);
}

/* ------------------------------------------------------------------------ emitting ------- */

static struct ssd_arena_entry *unit_entry(struct append_writer *writer,
                                          const struct append_unit *unit)
{
    return (struct ssd_arena_entry *)(void *)(hold_now(writer)->segment->arena->data +
                                              unit->arena_at);
}

static void entry_fill(struct ssd_arena_entry *entry, const struct ssd_append *item, uint32_t block)
{
    *entry = (struct ssd_arena_entry){
        .generation = item->generation,
        .value_bytes = item->is_tombstone ? 0 : item->value_bytes,
        .block = block,
        .depth = item->is_tombstone ? 0 : item->depth,
        .key_bytes = (uint16_t)item->key.bytes,
        .kind = (uint8_t)(item->is_tombstone ? SSD_KIND_TOMBSTONES : SSD_KIND_VALUE),
    };
    memcpy(entry->key, item->key.data, item->key.bytes);
}

/* The footer's entries of a unit that was just placed; the checksum comes with emitting. */
void ssd_append_fill_entries(struct append_writer *writer, struct append_unit *unit)
{
    uint8_t *at = (uint8_t *)unit_entry(writer, unit);
    for (size_t i = unit->first; i < unit->end; i++) {
        struct ssd_append *item = &writer->appends[i];
        if (item->status == UMBP_OK) {
            item->location = (struct ssd_location){hold_now(writer)->id, unit->block};
            entry_fill((struct ssd_arena_entry *)(void *)at, item, unit->block);
            at += ssd_arena_entry_bytes(item->key.bytes);
        }
    }
}

static void value_crc(struct ssd_append *item)
{
    if (!item->has_crc) {
        uint32_t crc = 0;
        for (unsigned i = 0; i < item->iov_count; i++) {
            crc = crc32c(crc, item->iov[i].iov_base, item->iov[i].iov_len);
        }
        item->value_crc = crc;
    }
}

static void emit_value(struct append_writer *writer, struct append_unit *unit)
{
    struct ssd_append *item = &writer->appends[unit->first];
    value_crc(item);
    unit_entry(writer, unit)->value_crc = item->value_crc;
    uint8_t *block = put_block(writer);
    if (!block) {
        return;
    }
    struct ssd_record record = {
        .kind = SSD_KIND_VALUE,
        .segment = hold_now(writer)->id,
        .block = unit->block,
        .generation = item->generation,
        .value_bytes = item->value_bytes,
        .depth = item->depth,
        .value_crc = item->value_crc,
        .key_bytes = item->key.bytes,
        .key = item->key.data,
    };
    ssd_record_encode(&record, writer->tier->identity.tag, block);
    size_t used = SSD_RECORD_HEAD_BYTES + item->key.bytes;
    if (!ssd_value_is_inline(item->value_bytes, item->key.bytes)) {
        memset(block + used, 0, SSD_BLOCK_BYTES - used);
        for (unsigned i = 0; i < item->iov_count; i++) {
            if (!put_bytes(writer, item->iov[i].iov_base, item->iov[i].iov_len)) {
                return;
            }
        }
        put_padding(writer);
        return;
    }
    for (unsigned i = 0; i < item->iov_count; i++) {
        memcpy(block + used, item->iov[i].iov_base, item->iov[i].iov_len);
        used += item->iov[i].iov_len;
    }
    memset(block + used, 0, SSD_BLOCK_BYTES - used);
}

static void emit_tombstones(struct append_writer *writer, struct append_unit *unit)
{
    uint8_t *block = put_block(writer);
    if (!block) {
        return;
    }
    size_t used = SSD_RECORD_HEAD_BYTES;
    uint64_t newest = 0;
    writer->slot->last_item = unit->end - 1;
    for (size_t i = unit->first; i < unit->end; i++) {
        const struct ssd_append *item = &writer->appends[i];
        if (item->location.segment != 0) {
            used +=
                ssd_tomb_encode(item->generation, item->key.data, item->key.bytes, block + used);
            newest = u64_max(newest, item->generation);
        }
    }
    ASSERT(used == SSD_RECORD_HEAD_BYTES + unit->payload_bytes);
    memset(block + used, 0, SSD_BLOCK_BYTES - used);
    struct ssd_record record = {
        .kind = SSD_KIND_TOMBSTONES,
        .segment = hold_now(writer)->id,
        .block = unit->block,
        .generation = newest,
        .value_bytes = unit->payload_bytes,
        .value_crc = crc32c(0, block + SSD_RECORD_HEAD_BYTES, unit->payload_bytes),
    };
    ssd_record_encode(&record, writer->tier->identity.tag, block);
}

void ssd_append_emit(struct append_writer *writer, struct append_unit *unit)
{
    uint64_t offset = (uint64_t)unit->block * SSD_BLOCK_BYTES;
    struct ssd_slot *slot = writer->slot;
    if (slot &&
        (slot->hold != writer->current || writer->slot_offset + writer->slot_bytes != offset)) {
        ssd_append_submit_slot(writer);
    }
    if (!writer->slot) {
        writer->slot_offset = offset;
    }
    writer->item = unit->first;
    hold_now(writer)->end_item = unit->end;
    if (!writer->is_broken) {
        if (unit->is_tombstones) {
            emit_tombstones(writer, unit);
        } else {
            emit_value(writer, unit);
        }
    }
    if (writer->is_broken) {
        ssd_append_discard_slot(writer);
        ssd_append_items_fail(writer, unit->first, unit->end, UMBP_TIMEOUT);
    }
}
