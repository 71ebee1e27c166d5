/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading records.
 *
 * A record is read in pieces of a slot's buffer, header block first; most records are one piece. An
 * item being read has a tracker. Pieces are submitted in order over all items, come back in any
 * order, and are taken in order per item: the header proves whose bytes follow, then each
 * piece is copied to where the caller wants it and the checksum grows with it. While the
 * caller's thread copies one piece, the device works on the others.
 *
 *   item:  | header block | value ........................................ |
 *   piece:  <── slot_bytes ──><── slot_bytes ──><── rest ──>
 *
 * An item that fails takes no further piece; it ends when its pieces in flight are back (or lost).
 */
#include <inttypes.h>

#include "tier_ssd/ssd_priv.h"

#define CORRUPT_LOG_MS 1000u

struct read_tracker {
    struct ssd_read *read; /* NULL: free */
    struct ssd_segment *segment;
    uint64_t bytes;     /* of the record, whole blocks */
    uint64_t submitted; /* pieces up to here are on their way */
    uint64_t taken;     /* pieces up to here are copied out */
    uint32_t crc;
    uint32_t expected_crc;
    unsigned pending;
    enum umbp_status status;
    bool ranges_ascend; /* so each piece starts where the last one stopped looking */
    uint32_t next_range;
};

struct reader {
    struct ssd_tier *tier;
    struct ssd_io *io;
    struct read_tracker *trackers; /* one a slot */
    unsigned tracker_count;
    unsigned active;
    unsigned oldest_unsubmitted; /* a hint where to look for pieces */
    struct ssd_read *reads;
    size_t count;
    size_t next;
    size_t failed;
    void (*done)(void *context, struct ssd_read *read);
    void *context;
    uint64_t deadline_ns;
};

static void read_end(struct reader *reader, struct ssd_read *read, enum umbp_status status)
{
    read->status = status;
    if (status == UMBP_OK) {
        ssd_count(&reader->tier->counters.records_read, 1);
    } else if (status == UMBP_CORRUPT) {
        uint64_t held_back;
        ssd_count(&reader->tier->counters.corrupt_records, 1);
        if (log_limit_pass(&reader->tier->corrupt_limit, CORRUPT_LOG_MS, &held_back)) {
            log_warn("ssd_record_corrupt",
                     "segment=%016x block=%u bytes=%" PRIu64 " held_back=%" PRIu64,
                     read->location.segment, read->location.block, read->value_bytes, held_back);
        }
    }
    if (status != UMBP_OK) {
        reader->failed++;
    }
    if (reader->done) {
        reader->done(reader->context, read);
    }
}

/* ------------------------------------------------------------------------- copying ------- */

static bool ranges_ascend(const struct ssd_read *read)
{
    for (uint32_t i = 1; i < read->range_count; i++) {
        if (read->ranges[i].offset < read->ranges[i - 1].offset + read->ranges[i - 1].bytes) {
            return false;
        }
    }
    return true;
}

/* Copy what the ranges want of value bytes [from, from + bytes), which lie at `data`. */
static void copy_out(struct read_tracker *tracker, const uint8_t *data, uint64_t from,
                     uint64_t bytes)
{
    const struct ssd_read *read = tracker->read;
    uint32_t i = tracker->ranges_ascend ? tracker->next_range : 0;
    bool has_crc = false;
    for (; i < read->range_count; i++) {
        const struct ssd_range *range = &read->ranges[i];
        uint64_t start = u64_max(range->offset, from);
        uint64_t end = u64_min(range->offset + range->bytes, from + bytes);
        if (tracker->ranges_ascend && range->offset >= from + bytes) {
            break;
        }
        if (start >= end) {
            continue;
        }
        uint8_t *to = (uint8_t *)range->to + (start - range->offset);
        if (start == from && end == from + bytes && !has_crc) {
            tracker->crc = copy_bytes_crc(to, data, (size_t)bytes, tracker->crc);
            has_crc = true;
        } else {
            copy_bytes(to, data + (start - from), (size_t)(end - start));
        }
        if (tracker->ranges_ascend) {
            /* This range may go on in the next piece. */
            tracker->next_range = i;
        }
    }
    if (!has_crc) {
        tracker->crc = crc32c(tracker->crc, data, (size_t)bytes);
    }
}

static bool header_matches(const struct ssd_record *record, const struct ssd_read *read)
{
    return record->kind == SSD_KIND_VALUE && record->generation == read->generation &&
           record->value_bytes == read->value_bytes && record->key_bytes == read->key.bytes &&
           memcmp(record->key, read->key.data, read->key.bytes) == 0;
}

/* The record's bytes [tracker->taken, + bytes) are at `data`. */
static void tracker_take(struct ssd_tier *tier, struct read_tracker *tracker, const uint8_t *data,
                         uint64_t bytes)
{
    const struct ssd_read *read = tracker->read;
    uint64_t at = tracker->taken;
    tracker->taken += bytes;
    if (at == 0) {
        struct ssd_record record;
        if (!ssd_record_decode(data, tier->identity.tag, read->location.segment,
                               read->location.block, &record) ||
            !header_matches(&record, read)) {
            tracker->status = UMBP_CORRUPT;
            return;
        }
        tracker->expected_crc = record.value_crc;
        if (ssd_value_is_inline(read->value_bytes, read->key.bytes)) {
            copy_out(tracker, data + SSD_RECORD_HEAD_BYTES + read->key.bytes, 0, read->value_bytes);
        } else {
            data += SSD_BLOCK_BYTES;
            at += SSD_BLOCK_BYTES;
            bytes -= SSD_BLOCK_BYTES;
        }
    }
    if (at > 0 && bytes > 0) {
        uint64_t from = at - SSD_BLOCK_BYTES;
        copy_out(tracker, data, from, u64_min(bytes, read->value_bytes - from));
    }
    if (tracker->taken == tracker->bytes && tracker->crc != tracker->expected_crc) {
        tracker->status = UMBP_CORRUPT;
    }
}

/* ------------------------------------------------------------------------- trackers ------ */

static void tracker_end(struct reader *reader, struct read_tracker *tracker)
{
    struct ssd_read *read = tracker->read;
    ssd_segment_unuse(reader->tier, tracker->segment);
    tracker->read = NULL;
    reader->active--;
    if (tracker->status == UMBP_OK) {
        read->value_crc = tracker->crc;
    }
    read_end(reader, read, tracker->status);
}

/* Start the next item. False: there is none left, or no tracker free. */
static bool reader_start(struct reader *reader)
{
    while (reader->next < reader->count && reader->active < reader->tracker_count) {
        struct ssd_read *read = &reader->reads[reader->next++];
        struct ssd_segment *segment = NULL;
        enum umbp_status status = UMBP_INVALID_VALUE;
        if (read->key.bytes >= 1 && read->key.bytes <= SSD_KEY_BYTES_MAX &&
            read->value_bytes <= SSD_VALUE_BYTES_MAX && read->location.block >= 1) {
            status = ssd_segment_use(reader->tier, read->location.segment, &segment);
        }
        if (status != UMBP_OK) {
            read_end(reader, read, status);
            continue;
        }
        struct read_tracker *tracker = reader->trackers;
        while (tracker->read) {
            tracker++;
        }
        *tracker = (struct read_tracker){
            .read = read,
            .segment = segment,
            .bytes = ssd_record_blocks(read->value_bytes, read->key.bytes) * SSD_BLOCK_BYTES,
            .status = UMBP_OK,
            .ranges_ascend = ranges_ascend(read),
        };
        reader->active++;
        reader->oldest_unsubmitted = (unsigned)(tracker - reader->trackers);
        return true;
    }
    return false;
}

static bool tracker_has_pieces(const struct read_tracker *tracker)
{
    return tracker->read && tracker->status == UMBP_OK && tracker->submitted < tracker->bytes;
}

/* The item whose pieces go next: the one being submitted, until it is through. */
static struct read_tracker *reader_next_tracker(struct reader *reader)
{
    struct read_tracker *tracker = &reader->trackers[reader->oldest_unsubmitted];
    if (tracker_has_pieces(tracker)) {
        return tracker;
    }
    return reader_start(reader) ? &reader->trackers[reader->oldest_unsubmitted] : NULL;
}

static void reader_fill(struct reader *reader)
{
    while (reader->io->free_count > 0) {
        struct read_tracker *tracker = reader_next_tracker(reader);
        if (!tracker) {
            break;
        }
        struct ssd_slot *slot = ssd_io_take(reader->io);
        uint64_t bytes =
            u64_min(tracker->bytes - tracker->submitted, reader->io->options.slot_bytes);
        slot->tracker = (unsigned)(tracker - reader->trackers);
        slot->piece_from = tracker->submitted;
        slot->piece_bytes = bytes;
        slot->owner = tracker->segment;
        slot->iov[0] = (struct iovec){.iov_base = slot->buffer, .iov_len = (size_t)bytes};
        ssd_io_submit(
            reader->io, slot, DISK_READ, tracker->segment->file,
            (uint64_t)tracker->read->location.block * SSD_BLOCK_BYTES + tracker->submitted, 1);
        tracker->submitted += bytes;
        tracker->pending++;
    }
    ssd_io_flush(reader->io);
}

/* ------------------------------------------------------------------------- pieces -------- */

static bool slot_is_held(const struct ssd_slot *slot, unsigned tracker)
{
    return slot->state == SLOT_ENDED && slot->tracker == tracker && slot->is_reported;
}

/* Take every piece that is next in its item's order, and give its slot back. */
static void tracker_advance(struct reader *reader, unsigned index)
{
    struct read_tracker *tracker = &reader->trackers[index];
    bool found = true;
    while (found) {
        found = false;
        for (unsigned i = 0; i < reader->io->options.slots; i++) {
            struct ssd_slot *slot = &reader->io->slots[i];
            if (!slot_is_held(slot, index) ||
                (tracker->status == UMBP_OK && slot->piece_from != tracker->taken)) {
                continue;
            }
            if (tracker->status == UMBP_OK) {
                tracker_take(reader->tier, tracker, slot->buffer, slot->piece_bytes);
            }
            tracker->pending--;
            ssd_io_release(reader->io, slot);
            found = true;
        }
    }
    if (tracker->pending == 0 && (tracker->status != UMBP_OK || tracker->taken == tracker->bytes)) {
        tracker_end(reader, tracker);
    }
}

static void reader_take_slot(struct reader *reader, struct ssd_slot *slot)
{
    unsigned index = slot->tracker;
    struct read_tracker *tracker = &reader->trackers[index];
    enum umbp_status status = slot->status;
    if (status == UMBP_OK && slot->request.bytes_done < slot->piece_bytes) {
        status = UMBP_CORRUPT; /* the file ends inside the record */
    }
    if (status != UMBP_OK && tracker->status == UMBP_OK) {
        tracker->status = status;
    }
    if (slot->state == SLOT_LOST) {
        tracker->pending--;
    }
    tracker_advance(reader, index);
}

/* Time is up for everything that has not ended. */
static void reader_break(struct reader *reader)
{
    for (unsigned i = 0; i < reader->io->options.slots; i++) {
        struct ssd_slot *slot = &reader->io->slots[i];
        if (slot->state == SLOT_ENDED && slot->is_reported) {
            ssd_io_release(reader->io, slot);
        }
    }
    ssd_io_abandon(reader->io);
    for (unsigned i = 0; i < reader->tracker_count; i++) {
        struct read_tracker *tracker = &reader->trackers[i];
        if (tracker->read) {
            tracker->status = tracker->status == UMBP_OK ? UMBP_TIMEOUT : tracker->status;
            tracker_end(reader, tracker);
        }
    }
    while (reader->next < reader->count) {
        read_end(reader, &reader->reads[reader->next++], UMBP_TIMEOUT);
    }
}

static void reader_run(struct reader *reader)
{
    for (;;) {
        reader_fill(reader);
        if (reader->active == 0 && reader->next == reader->count) {
            return;
        }
        struct ssd_slot *slot = ssd_io_next(reader->io, reader->deadline_ns);
        if (slot) {
            reader_take_slot(reader, slot);
        } else if (reader->io->busy_count > 0 ||
                   !ssd_io_await_lost(reader->io, reader->deadline_ns)) {
            reader_break(reader);
            return;
        }
    }
}

enum umbp_status ssd_read(struct ssd_tier *tier, struct ssd_read *reads, size_t count,
                          void (*done)(void *context, struct ssd_read *read), void *context,
                          uint64_t deadline_ns)
{
    if (count == 0) {
        return UMBP_OK;
    }
    struct ssd_io *io = ssd_pool_take(&tier->read_pool, tier->clock, deadline_ns);
    struct reader reader = {
        .tier = tier,
        .io = io,
        .reads = reads,
        .count = count,
        .done = done,
        .context = context,
        .deadline_ns = deadline_ns,
    };
    if (!io) {
        for (size_t i = 0; i < count; i++) {
            read_end(&reader, &reads[i], UMBP_TIMEOUT);
        }
        return UMBP_TIMEOUT;
    }
    reader.trackers = io->user;
    reader.tracker_count = io->options.slots;
    reader_run(&reader);
    ssd_pool_give(&tier->read_pool, io);
    for (size_t i = 0; reader.failed > 0 && i < count; i++) {
        if (reads[i].status != UMBP_OK) {
            return reads[i].status;
        }
    }
    return UMBP_OK;
}

/* ------------------------------------------------------------------------- contexts ------ */

/* Memory that the slots of one context take together, in units of io_bytes. */
#define READ_CONTEXT_IOS 16u
#define READ_SLOT_BYTES_MIN (64u * 1024u)

enum umbp_status ssd_read_slots(struct disk *disk, const struct clock_source *clock,
                                struct ssd_counters *counters, uint64_t io_timeout_ns,
                                uint32_t depth, uint32_t io_bytes, struct ssd_io **io_out)
{
    uint64_t slot_bytes = (uint64_t)io_bytes * READ_CONTEXT_IOS / depth;
    slot_bytes = u64_max(slot_bytes, READ_SLOT_BYTES_MIN);
    slot_bytes = u64_min(slot_bytes, io_bytes);
    slot_bytes = align_up(slot_bytes, SSD_BLOCK_BYTES);
    struct ssd_io_options options = {
        .disk = disk,
        .clock = clock,
        .counters = counters,
        .slots = depth,
        /* A value of a power of two and its header fit. */
        .slot_bytes = (uint32_t)slot_bytes + SSD_BLOCK_BYTES,
        .iov_max = 1,
        .io_timeout_ns = io_timeout_ns,
        .register_buffers = true,
    };
    return ssd_io_create(&options, io_out);
}

enum umbp_status ssd_read_context_create(struct ssd_tier *tier, uint32_t depth,
                                         struct ssd_io **io_out)
{
    struct ssd_io *io;
    enum umbp_status status = ssd_read_slots(tier->disk, tier->clock, &tier->counters,
                                             tier->io_timeout_ns, depth, tier->io_bytes, &io);
    if (status != UMBP_OK) {
        return status;
    }
    io->options.hold = ssd_hold_segment;
    io->options.drop = ssd_drop_segment;
    io->options.context = tier;
    io->user = mem_calloc(io->options.slots, sizeof(struct read_tracker));
    if (!io->user) {
        (void)ssd_io_destroy(io, 0);
        return UMBP_NO_MEMORY;
    }
    *io_out = io;
    return UMBP_OK;
}
