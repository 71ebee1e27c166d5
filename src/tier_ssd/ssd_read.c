/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading records.
 *
 * Items that follow each other in the call and in the log are read as one run; what was written
 * together is mostly asked for together, so small records come in by large reads. A run is cut into
 * pieces of a slot's buffer. Pieces are submitted in order over all runs, come back in any order,
 * and are taken in order per run: an item's header proves whose bytes follow, then each part of the
 * value is copied to where the caller wants it while its checksum grows.
 *
 * Some devices hand back all that they have at once, when they have nothing left to do (a virtual
 * disk: one interrupt for its whole queue), and stand still until they are given more. So nearly
 * all slots are in flight, that there be few such moments; an eighth is kept free, and replaces
 * what came back before any of it is copied; each slot goes out again as soon as its copy is made.
 * The last eighth of a call waits until little else is in flight: it is being read while what came
 * before it is copied, so that only its own copy is left at the end.
 *
 *   run:    | header | value ... | header | value | header, inline value | header | value ....... |
 *   pieces:  <──── slot_bytes ────><──── slot_bytes ────><──── slot_bytes ────><──── rest ────>
 *
 * A piece that could not be read fails the items that it has a part of. A piece that is lost (its
 * time was up) ends its run: the items that were not through by then time out.
 */
#include <inttypes.h>

#include "tier_ssd/ssd_priv.h"

/* One slot in so many is kept free while the others are in flight; and so many are the last. */
#define READ_SHARE 8u
#define CORRUPT_LOG_MS 1000u

/* Bytes of one run; the next item then begins another. */
#define RUN_BYTES_MAX (UINT64_C(16) << 20)

struct read_run {
    bool is_active;
    bool is_cut; /* a piece is lost */
    struct ssd_segment *segment;
    size_t item; /* being taken */
    size_t end_item;
    uint64_t start;     /* in the file */
    uint64_t bytes;     /* whole blocks */
    uint64_t submitted; /* pieces up to here are on their way */
    uint64_t taken;     /* pieces up to here are used */
    unsigned pending;

    /* The item being taken. */
    uint64_t item_bytes; /* of its record */
    uint64_t item_taken;
    enum umbp_status status;
    uint32_t crc;
    uint32_t expected_crc;
    bool ranges_ascend; /* so each piece starts where the last one stopped looking */
    uint32_t next_range;
};

struct reader {
    struct ssd_tier *tier;
    struct ssd_io *io;
    struct read_run *runs; /* one a slot */
    unsigned run_count;
    unsigned in_flight_max;
    unsigned tail_max;   /* in flight, when no more than so many pieces are left to submit */
    uint64_t left_bytes; /* not submitted yet: at most, as runs may fail to begin */
    unsigned active;
    unsigned submitting; /* the run whose pieces go next */
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
static void copy_out(struct read_run *run, const struct ssd_read *read, const uint8_t *data,
                     uint64_t from, uint64_t bytes)
{
    uint32_t i = run->ranges_ascend ? run->next_range : 0;
    bool has_crc = false;
    for (; i < read->range_count; i++) {
        const struct ssd_range *range = &read->ranges[i];
        uint64_t start = u64_max(range->offset, from);
        uint64_t end = u64_min(range->offset + range->bytes, from + bytes);
        if (run->ranges_ascend && range->offset >= from + bytes) {
            break;
        }
        if (start >= end) {
            continue;
        }
        uint8_t *to = (uint8_t *)range->to + (start - range->offset);
        if (start == from && end == from + bytes && !has_crc) {
            run->crc = copy_bytes_crc(to, data, (size_t)bytes, run->crc);
            has_crc = true;
        } else {
            copy_bytes(to, data + (start - from), (size_t)(end - start));
        }
        if (run->ranges_ascend) {
            run->next_range = i; /* it may go on in the next piece */
        }
    }
    if (!has_crc) {
        run->crc = crc32c(run->crc, data, (size_t)bytes);
    }
}

static bool header_matches(const struct ssd_record *record, const struct ssd_read *read)
{
    return record->kind == SSD_KIND_VALUE && record->generation == read->generation &&
           record->value_bytes == read->value_bytes && record->key_bytes == read->key.bytes &&
           memcmp(record->key, read->key.data, read->key.bytes) == 0;
}

static uint64_t read_record_bytes(const struct ssd_read *read)
{
    return ssd_record_blocks(read->value_bytes, read->key.bytes) * SSD_BLOCK_BYTES;
}

/* The record's bytes [item_taken, + bytes) are at `data`. */
static void item_take(struct ssd_tier *tier, struct read_run *run, const struct ssd_read *read,
                      const uint8_t *data, uint64_t bytes)
{
    uint64_t at = run->item_taken;
    if (at == 0) {
        struct ssd_record record;
        if (!ssd_record_decode(data, tier->identity.tag, read->location.segment,
                               read->location.block, &record) ||
            !header_matches(&record, read)) {
            run->status = UMBP_CORRUPT;
            return;
        }
        run->expected_crc = record.value_crc;
        if (ssd_value_is_inline(read->value_bytes, read->key.bytes)) {
            copy_out(run, read, data + SSD_RECORD_HEAD_BYTES + read->key.bytes, 0,
                     read->value_bytes);
            return;
        }
        data += SSD_BLOCK_BYTES;
        at += SSD_BLOCK_BYTES;
        bytes -= SSD_BLOCK_BYTES;
    }
    if (bytes > 0) {
        uint64_t from = at - SSD_BLOCK_BYTES;
        copy_out(run, read, data, from, u64_min(bytes, read->value_bytes - from));
    }
}

/* --------------------------------------------------------------------------- runs -------- */

static void item_begin(struct reader *reader, struct read_run *run)
{
    if (run->item < run->end_item) {
        const struct ssd_read *read = &reader->reads[run->item];
        run->item_bytes = read_record_bytes(read);
        run->item_taken = 0;
        run->status = UMBP_OK;
        run->crc = 0;
        run->ranges_ascend = ranges_ascend(read);
        run->next_range = 0;
    }
}

static void item_end(struct reader *reader, struct read_run *run)
{
    struct ssd_read *read = &reader->reads[run->item++];
    if (run->status == UMBP_OK && run->crc != run->expected_crc) {
        run->status = UMBP_CORRUPT;
    }
    if (run->status == UMBP_OK) {
        read->value_crc = run->crc;
    }
    read_end(reader, read, run->status);
    item_begin(reader, run);
}

/* The run's next bytes; without data they could not be had, and `status` says why. */
static void run_take(struct reader *reader, struct read_run *run, const uint8_t *data,
                     uint64_t bytes, enum umbp_status status)
{
    run->taken += bytes;
    while (bytes > 0) {
        uint64_t now = u64_min(bytes, run->item_bytes - run->item_taken);
        if (run->status == UMBP_OK && data) {
            item_take(reader->tier, run, &reader->reads[run->item], data, now);
        } else if (run->status == UMBP_OK) {
            run->status = status;
        }
        run->item_taken += now;
        data = data ? data + now : NULL;
        bytes -= now;
        if (run->item_taken == run->item_bytes) {
            item_end(reader, run);
        }
    }
}

static void run_end(struct reader *reader, struct read_run *run)
{
    /* It was cut; a stream's part may end before its item does. */
    while (run->taken < run->bytes && run->item < run->end_item) {
        run->status = run->status == UMBP_OK ? UMBP_TIMEOUT : run->status;
        item_end(reader, run);
    }
    ssd_segment_unuse(reader->tier, run->segment);
    run->is_active = false;
    reader->active--;
}

static bool read_is_valid(const struct ssd_read *read)
{
    return read->key.bytes >= 1 && read->key.bytes <= SSD_KEY_BYTES_MAX &&
           read->value_bytes <= SSD_VALUE_BYTES_MAX && read->location.block >= 1;
}

/* Take in the items that follow in the log, too. */
static void run_extend(struct reader *reader, struct read_run *run)
{
    while (reader->next < reader->count && run->bytes < RUN_BYTES_MAX) {
        const struct ssd_read *last = &reader->reads[reader->next - 1];
        const struct ssd_read *read = &reader->reads[reader->next];
        if (!read_is_valid(read) || read->location.segment != last->location.segment ||
            (uint64_t)read->location.block * SSD_BLOCK_BYTES != run->start + run->bytes) {
            break;
        }
        run->bytes += read_record_bytes(read);
        reader->next++;
    }
    run->end_item = reader->next;
}

/* Start the next run. False: there is no item left, or no place free. */
static bool reader_start(struct reader *reader)
{
    while (reader->next < reader->count && reader->active < reader->run_count) {
        size_t item = reader->next++;
        struct ssd_read *read = &reader->reads[item];
        struct ssd_segment *segment = NULL;
        enum umbp_status status = UMBP_INVALID_VALUE;
        if (read_is_valid(read)) {
            status = ssd_segment_use(reader->tier, read->location.segment, &segment);
        }
        if (status != UMBP_OK) {
            read_end(reader, read, status);
            continue;
        }
        struct read_run *run = reader->runs;
        while (run->is_active) {
            run++;
        }
        *run = (struct read_run){
            .is_active = true,
            .segment = segment,
            .item = item,
            .start = (uint64_t)read->location.block * SSD_BLOCK_BYTES,
            .bytes = read_record_bytes(read),
        };
        run_extend(reader, run);
        item_begin(reader, run);
        reader->active++;
        reader->submitting = (unsigned)(run - reader->runs);
        return true;
    }
    return false;
}

static bool run_has_pieces(const struct read_run *run)
{
    return run->is_active && !run->is_cut && run->submitted < run->bytes;
}

/* The run whose pieces go next: the one being submitted, until it is through. */
static struct read_run *reader_next_run(struct reader *reader)
{
    struct read_run *run = &reader->runs[reader->submitting];
    if (run_has_pieces(run)) {
        return run;
    }
    return reader_start(reader) ? &reader->runs[reader->submitting] : NULL;
}

static void reader_lend(struct reader *reader, struct ssd_io *io)
{
    unsigned slots = io->options.slots;
    reader->io = io;
    reader->runs = io->user;
    reader->run_count = slots;
    reader->in_flight_max = slots - slots / READ_SHARE;
    reader->tail_max = slots < READ_SHARE ? 1 : slots / READ_SHARE;
}

/* How many may be in flight now. */
static unsigned reader_in_flight_max(const struct reader *reader)
{
    uint64_t tail_bytes = (uint64_t)reader->tail_max * reader->io->options.slot_bytes;
    return reader->left_bytes > tail_bytes ? reader->in_flight_max : reader->tail_max;
}

static void reader_fill(struct reader *reader)
{
    bool is_idle = reader->io->busy_count == 0;
    while (reader->io->free_count > 0 && reader->io->busy_count < reader_in_flight_max(reader)) {
        struct read_run *run = reader_next_run(reader);
        if (!run) {
            break;
        }
        struct ssd_slot *slot = ssd_io_take(reader->io);
        uint64_t bytes = u64_min(run->bytes - run->submitted, reader->io->options.slot_bytes);
        slot->tracker = (unsigned)(run - reader->runs);
        slot->piece_from = run->submitted;
        slot->piece_bytes = bytes;
        slot->owner = run->segment;
        slot->iov[0] = (struct iovec){.iov_base = slot->buffer, .iov_len = (size_t)bytes};
        ssd_io_submit(reader->io, slot, DISK_READ, run->segment->file, run->start + run->submitted,
                      1);
        run->submitted += bytes;
        reader->left_bytes -= u64_min(bytes, reader->left_bytes);
        run->pending++;
        if (is_idle) { /* let the device begin; the others take time to prepare */
            ssd_io_flush(reader->io);
            is_idle = false;
        }
    }
    ssd_io_flush(reader->io);
}

/* -------------------------------------------------------------------------- pieces ------- */

static bool slot_is_held(const struct ssd_slot *slot, unsigned run)
{
    return slot->state == SLOT_ENDED && slot->tracker == run && slot->is_reported;
}

static void run_take_slot(struct reader *reader, struct read_run *run, struct ssd_slot *slot)
{
    uint64_t got =
        slot->status == UMBP_OK
            ? u64_min(align_down(slot->request.bytes_done, SSD_BLOCK_BYTES), slot->piece_bytes)
            : 0;
    run_take(reader, run, slot->buffer, got, UMBP_OK);
    /* The file ends inside a record: whatever was there is not there now. */
    run_take(reader, run, NULL, slot->piece_bytes - got,
             slot->status == UMBP_OK ? UMBP_CORRUPT : slot->status);
}

/* Use every piece that is next in its run's order, and give its slot back. */
static void run_advance(struct reader *reader, unsigned index)
{
    struct read_run *run = &reader->runs[index];
    bool found = true;
    while (found) {
        found = false;
        for (unsigned i = 0; i < reader->io->options.slots; i++) {
            struct ssd_slot *slot = &reader->io->slots[i];
            if (!slot_is_held(slot, index) || (!run->is_cut && slot->piece_from != run->taken)) {
                continue;
            }
            if (!run->is_cut) {
                run_take_slot(reader, run, slot);
            }
            run->pending--;
            ssd_io_release(reader->io, slot);
            found = true;
        }
    }
    if (run->pending == 0 && (run->is_cut || run->taken == run->bytes)) {
        run_end(reader, run);
    }
}

static void reader_take_slot(struct reader *reader, struct ssd_slot *slot)
{
    unsigned index = slot->tracker;
    struct read_run *run = &reader->runs[index];
    if (slot->status == UMBP_TIMEOUT) {
        run->is_cut = true;
    }
    if (slot->state == SLOT_LOST) {
        run->pending--;
    }
    run_advance(reader, index);
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
    for (unsigned i = 0; i < reader->run_count; i++) {
        if (reader->runs[i].is_active) {
            run_end(reader, &reader->runs[i]);
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
            reader_fill(reader);
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
    reader_lend(&reader, io);
    for (size_t i = 0; i < count; i++) {
        reader.left_bytes += read_is_valid(&reads[i]) ? read_record_bytes(&reads[i]) : 0;
    }
    reader_run(&reader);
    ssd_pool_give(&tier->read_pool, io);
    for (size_t i = 0; reader.failed > 0 && i < count; i++) {
        if (reads[i].status != UMBP_OK) {
            return reads[i].status;
        }
    }
    return UMBP_OK;
}

/* ------------------------------------------------------------------------- streams ------- */

enum umbp_status ssd_stream_open(struct ssd_tier *tier, struct ssd_key key, uint64_t generation,
                                 uint64_t value_bytes, struct ssd_location location,
                                 struct ssd_stream *stream_out)
{
    const struct ssd_read read = {
        .key = key, .generation = generation, .value_bytes = value_bytes, .location = location};
    struct ssd_segment *segment;
    if (!read_is_valid(&read)) {
        return UMBP_INVALID_VALUE;
    }
    enum umbp_status status = ssd_segment_use(tier, location.segment, &segment);
    if (status != UMBP_OK) {
        return status;
    }
    *stream_out = (struct ssd_stream){.tier = tier, .segment = segment, .read = read};
    ssd_count(&tier->counters.streams_open, 1);
    return UMBP_OK;
}

void ssd_stream_close(struct ssd_stream *stream)
{
    if (stream->tier) {
        ssd_segment_unuse(stream->tier, stream->segment);
        ssd_count(&stream->tier->counters.streams_open, (uint64_t)-1);
        *stream = (struct ssd_stream){0};
    }
}

/* A run over the part's blocks, that takes its item up where the last part left it. The first part
 * has the head, too; the last one whatever follows the value. */
static struct read_run part_run(const struct ssd_stream *stream, uint64_t bytes)
{
    const struct ssd_read *read = &stream->read;
    struct read_run run = {
        .is_active = true,
        .segment = stream->segment,
        .end_item = 1,
        .start = (uint64_t)read->location.block * SSD_BLOCK_BYTES + stream->record_taken,
        .item_bytes = read_record_bytes(read),
        .item_taken = stream->record_taken,
        .status = UMBP_OK,
        .crc = stream->crc,
        .expected_crc = stream->stored_crc,
        .ranges_ascend = ranges_ascend(read),
    };
    if (stream->value_taken + bytes == read->value_bytes) {
        run.bytes = run.item_bytes - run.item_taken;
    } else {
        run.bytes = bytes + (stream->record_taken == 0 ? SSD_BLOCK_BYTES : 0);
    }
    return run;
}

static enum umbp_status part_read(struct ssd_stream *stream, struct reader *reader, uint64_t bytes)
{
    struct read_run *run = &reader->runs[0];
    ssd_hold_segment(stream->tier, stream->segment); /* the run's end lets go of it */
    *run = part_run(stream, bytes);
    reader->active = 1;
    reader->left_bytes = run->bytes;
    reader_run(reader);
    if (run->item < run->end_item && run->status != UMBP_OK) {
        read_end(reader, &stream->read, run->status);
        return run->status;
    }
    if (run->item == run->end_item) {
        stream->is_whole = stream->read.status == UMBP_OK;
        return stream->read.status;
    }
    stream->record_taken = run->item_taken;
    stream->value_taken += bytes;
    stream->crc = run->crc;
    stream->stored_crc = run->expected_crc;
    return UMBP_OK;
}

enum umbp_status ssd_stream_next(struct ssd_stream *stream, uint64_t bytes,
                                 const struct ssd_range *ranges, uint32_t range_count,
                                 uint64_t deadline_ns)
{
    struct ssd_tier *tier = stream->tier;
    if (!tier) {
        return UMBP_INVALID_VALUE;
    }
    if (stream->status != UMBP_OK) {
        return stream->status;
    }
    uint64_t left = stream->read.value_bytes - stream->value_taken;
    if (stream->is_whole || bytes > left ||
        (bytes < left && (bytes == 0 || bytes % SSD_BLOCK_BYTES != 0))) {
        return UMBP_INVALID_VALUE;
    }
    stream->read.ranges = ranges;
    stream->read.range_count = range_count;
    struct ssd_io *io = ssd_pool_take(&tier->read_pool, tier->clock, deadline_ns);
    struct reader reader = {
        .tier = tier,
        .reads = &stream->read,
        .count = 1,
        .next = 1,
        .deadline_ns = deadline_ns,
    };
    stream->status = UMBP_TIMEOUT;
    if (io) {
        reader_lend(&reader, io);
        stream->status = part_read(stream, &reader, bytes);
        ssd_pool_give(&tier->read_pool, io);
    }
    return stream->status;
}

/* ------------------------------------------------------------------------- contexts ------ */

/* What the slots of one context hold at most, in units of io_bytes. Few large requests are read
 * faster than many small ones in the same memory. */
#define READ_CONTEXT_IOS 32u
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
    io->user = mem_calloc(io->options.slots, sizeof(struct read_run));
    if (!io->user) {
        (void)ssd_io_destroy(io, 0);
        return UMBP_NO_MEMORY;
    }
    *io_out = io;
    return UMBP_OK;
}
