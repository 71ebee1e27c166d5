/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Appending.
 *
 *   items ──plan──► units ──reserve──► a run of blocks ──emit──► slots ──► disk
 *                     │                   │                        │
 *                     one record each     under the lock           header blocks, tails and
 * unaligned pieces are staged in the slot's buffer, aligned pieces are written from where they lie
 *
 * One call reserves up to SSD_RUN_UNITS records at a time, contiguously, so that its writes are
 * large and sequential whatever other threads append. While the device works on the slots in
 * flight, the checksums of the next records are computed. A value's header holds its checksum, so
 * the value is read once for that before its first byte is written.
 *
 * Which bytes failed is known per slot, and each slot knows its first and last item: a failed slot
 * fails the items in between. The other way round, an item that no failed slot carried is whole.
 *
 * A `hold` is this call's share in a segment that is not sealed: the segment can't be sealed
 * before the hold is settled. Settling waits until the hold's writes are done, syncs (strict),
 * makes failed records void, and gives the good ones to the accounts. There are two holds, so that
 * the writes to a new segment start while the last ones to the old one are under way. Before a call
 * waits for another thread it settles both: who waits holds nothing, so waiting can't go in a
 * circle.
 *
 * A record that failed is left out of the footer. Until that is written a scan could still find it
 * whole (the write may have come through after all), so its header is overwritten with zeros as
 * well as can be done; the segment takes no more records.
 */
#include "tier_ssd/ssd_append_priv.h"

/* ----------------------------------------------------------------------- settling -------- */

/* Make failed records void on disk, as far as the device lets us. Those that timed out are left:
 * the device may still write them after us, and the footer will not list them. */
static void hold_void_failed(struct append_writer *writer, struct append_hold *hold)
{
    uint32_t last = 0;
    for (size_t i = hold->first_item; i < hold->end_item; i++) {
        const struct ssd_append *item = &writer->appends[i];
        if (item->status == UMBP_OK || item->location.segment == 0 ||
            item->location.block == last || item->status == UMBP_TIMEOUT) {
            continue;
        }
        last = item->location.block;
        if (!ssd_io_service_is_free(writer->io, writer->deadline_ns)) {
            return;
        }
        memset(writer->io->service->buffer, 0, SSD_BLOCK_BYTES);
        enum umbp_status status = ssd_io_run(writer->io, DISK_WRITE, hold->segment->file,
                                             hold->segment, (uint64_t)last * SSD_BLOCK_BYTES,
                                             SSD_BLOCK_BYTES, writer->deadline_ns, NULL);
        if (status != UMBP_OK) {
            return; /* it would not fare better with the next */
        }
    }
}

static bool hold_sync(struct append_writer *writer, struct append_hold *hold)
{
    bool has_good = false;
    for (size_t i = hold->first_item; i < hold->end_item && !has_good; i++) {
        has_good = writer->appends[i].status == UMBP_OK;
    }
    mutex_lock(&writer->tier->mutex);
    hold->segment->write_count++;
    mutex_unlock(&writer->tier->mutex);
    if (!has_good || writer->tier->durability != SSD_STRICT) {
        return true;
    }
    enum umbp_status status =
        ssd_segment_sync(writer->tier, writer->io, hold->segment, writer->deadline_ns);
    if (status != UMBP_OK) {
        ssd_append_items_fail(writer, hold->first_item, hold->end_item, status);
    }
    return status == UMBP_OK;
}

/* (locked) Give the hold's items to the accounts. False if any failed. */
static bool hold_account(struct append_writer *writer, struct append_hold *hold)
{
    struct ssd_segment *segment = hold->segment;
    bool all_good = true;
    for (size_t i = hold->first_item; i < hold->end_item; i++) {
        struct ssd_append *item = &writer->appends[i];
        if (item->location.segment == 0) {
            continue; /* was never placed */
        }
        if (segment->is_gone) {
            ssd_append_item_fail(item, UMBP_STALE);
        }
        if (item->status != UMBP_OK) {
            ssd_arena_fail(segment->arena, item->location.block);
            all_good = false;
        } else if (!item->is_tombstone) {
            segment->live_records++;
            segment->live_bytes +=
                ssd_record_blocks(item->value_bytes, item->key.bytes) * SSD_BLOCK_BYTES;
        }
        if (item->status == UMBP_OK) {
            ssd_count(&writer->tier->counters.records_appended, 1);
        }
        if (item->is_tombstone || item->status != UMBP_OK) {
            item->location = (struct ssd_location){0, 0};
        }
    }
    return all_good;
}

static void hold_settle(struct append_writer *writer, struct append_hold *hold)
{
    struct ssd_tier *tier = writer->tier;
    struct ssd_segment *segment = hold->segment;
    if (!segment) {
        return;
    }
    while (hold->pending > 0 && ssd_append_wait_slot(writer)) {
    }
    ASSERT(hold->pending == 0);
    (void)hold_sync(writer, hold);
    hold_void_failed(writer, hold);
    mutex_lock(&tier->mutex);
    bool all_good = hold_account(writer, hold);
    segment->writers--;
    atomic_store_explicit(&segment->stamp,
                          atomic_load_explicit(&tier->newest_stamp, memory_order_relaxed),
                          memory_order_relaxed);
    bool must_seal = false;
    if (!all_good || segment->state == SEGMENT_CLOSING || segment->is_gone) {
        must_seal = ssd_segment_stop(tier, segment);
    }
    mutex_unlock(&tier->mutex);
    hold->segment = NULL;
    if (must_seal) {
        ssd_segment_seal(tier, writer->io, segment, writer->deadline_ns);
    }
}

/* Before waiting for others, and at the end. True if there was anything to settle. */
static bool writer_settle_all(struct append_writer *writer)
{
    struct append_hold *other = &writer->holds[1 - writer->current];
    bool had = hold_now(writer)->segment || other->segment;
    if (writer->is_broken) {
        ssd_append_discard_slot(writer);
    } else {
        ssd_append_submit_slot(writer);
    }
    hold_settle(writer, other);
    hold_settle(writer, hold_now(writer));
    return had;
}

/* ------------------------------------------------------------------------ planning ------- */

static enum umbp_status item_check(const struct ssd_tier *tier, const struct ssd_append *item)
{
    if (item->key.bytes < 1 || item->key.bytes > SSD_KEY_BYTES_MAX) {
        return UMBP_INVALID_KEY;
    }
    if (item->is_tombstone) {
        return UMBP_OK;
    }
    uint64_t bytes = 0;
    for (unsigned i = 0; i < item->iov_count; i++) {
        bytes += item->iov[i].iov_len;
    }
    if (bytes != item->value_bytes) {
        return UMBP_INVALID_VALUE;
    }
    /* Header, record, one footer page, trailer. */
    uint64_t file_bytes = (ssd_record_blocks(bytes, item->key.bytes) + 3) * SSD_BLOCK_BYTES;
    if (bytes > SSD_VALUE_BYTES_MAX ||
        (file_bytes > tier->segment_bytes && file_bytes > tier->capacity_bytes / 2)) {
        return UMBP_TOO_LARGE;
    }
    return UMBP_OK;
}

/* The unit that starts at item `at`. */
static void plan_unit(const struct append_writer *writer, size_t at, struct append_unit *unit)
{
    const struct ssd_append *item = &writer->appends[at];
    *unit = (struct append_unit){.first = at, .end = at + 1, .is_tombstones = item->is_tombstone};
    if (!item->is_tombstone) {
        unit->need.blocks = ssd_record_blocks(item->value_bytes, item->key.bytes);
        ssd_need_add_entry(&unit->need, item->key.bytes);
        return;
    }
    unit->need.blocks = 1;
    for (; at < writer->count; at++) {
        item = &writer->appends[at];
        if (item->status != UMBP_OK) {
            continue;
        }
        uint32_t bytes = SSD_TOMB_HEAD_BYTES + item->key.bytes;
        if (!item->is_tombstone || unit->payload_bytes + bytes > SSD_TOMB_PAYLOAD_MAX) {
            break;
        }
        unit->payload_bytes += bytes;
        ssd_need_add_entry(&unit->need, item->key.bytes);
        unit->end = at + 1;
    }
}

/* Units from item `at` on. *next_out is the item behind them. */
static unsigned writer_plan(struct append_writer *writer, size_t at, size_t *next_out)
{
    unsigned count = 0;
    uint64_t bytes = 0;
    uint64_t most = (uint64_t)writer->tier->io_bytes * SSD_APPEND_PLAN;
    while (at < writer->count && count < SSD_RUN_UNITS && bytes < most) {
        if (writer->appends[at].status != UMBP_OK) {
            at++;
            continue;
        }
        struct append_unit *unit = &writer->units[count++];
        plan_unit(writer, at, unit);
        bytes += unit->need.blocks * SSD_BLOCK_BYTES;
        at = unit->end;
    }
    *next_out = at;
    return count;
}

/* ----------------------------------------------------------------------- reserving ------- */

/* (locked) Place as many units as fit. */
static unsigned place_units(struct append_writer *writer, struct ssd_segment *segment,
                            struct append_unit *units, unsigned count)
{
    unsigned placed = 0;
    while (placed < count &&
           ssd_place(segment, &units[placed].need, &units[placed].block, &units[placed].arena_at)) {
        placed++;
    }
    for (size_t i = units[0].first; placed > 0 && i < units[placed - 1].end; i++) {
        if (writer->appends[i].status == UMBP_OK) {
            ssd_segment_note(segment, writer->appends[i].generation,
                             writer->appends[i].is_tombstone);
        }
    }
    struct append_hold *hold = hold_now(writer);
    if (placed > 0 && hold->segment != segment) {
        if (hold->segment) {
            writer->current = 1 - writer->current;
            hold = hold_now(writer);
        }
        ASSERT(!hold->segment);
        *hold = (struct append_hold){
            .segment = segment,
            .id = atomic_load_explicit(&segment->id, memory_order_relaxed),
            .first_item = units[0].first,
            .end_item = units[0].first,
        };
        segment->writers++;
    }
    return placed;
}

/* Drop the lock to settle what this call holds; with nothing to settle wait for others. (locked,
 * on return too). False: time is up. */
static bool reserve_pause(struct append_writer *writer)
{
    struct ssd_tier *tier = writer->tier;
    if (!writer->holds[0].segment && !writer->holds[1].segment) {
        /* The lock is not let go in between, or what is waited for could happen unnoticed. */
        return ssd_wait_changed(tier, writer->deadline_ns);
    }
    mutex_unlock(&tier->mutex);
    (void)writer_settle_all(writer);
    mutex_lock(&tier->mutex);
    return !writer->is_broken;
}

/* (locked, on return too) Make a segment. */
static enum umbp_status reserve_make(struct append_writer *writer, uint64_t file_bytes,
                                     struct ssd_segment **segment_out)
{
    struct ssd_tier *tier = writer->tier;
    tier->is_making = true;
    mutex_unlock(&tier->mutex);
    enum umbp_status status = ssd_segment_make(tier, writer->io, file_bytes, writer->for_reclaim,
                                               writer->deadline_ns, segment_out);
    mutex_lock(&tier->mutex);
    tier->is_making = false;
    condition_broadcast(&tier->changed);
    return status;
}

/* (locked, on return too) The active segment has no room. */
static void reserve_retire(struct append_writer *writer, struct ssd_segment *segment)
{
    struct ssd_tier *tier = writer->tier;
    if (ssd_segment_stop(tier, segment)) {
        mutex_unlock(&tier->mutex);
        ssd_segment_seal(tier, writer->io, segment, writer->deadline_ns);
        mutex_lock(&tier->mutex);
    }
}

/* (locked) What is left of the capacity may be less than a segment of the usual size, for others
 * were sealed before they were full. Reclaim takes what there is: it must not get stuck. */
static uint64_t reserve_size(const struct append_writer *writer, uint64_t least_bytes)
{
    const struct ssd_tier *tier = writer->tier;
    uint64_t used = atomic_load_explicit(&tier->used_bytes, memory_order_relaxed);
    uint64_t left =
        align_down(tier->capacity_bytes - u64_min(used, tier->capacity_bytes), SSD_BLOCK_BYTES);
    bool takes_less = writer->for_reclaim && left < tier->segment_bytes && left >= least_bytes;
    return takes_less ? left : tier->segment_bytes;
}

static bool reserve_is_over(const struct append_writer *writer)
{
    uint64_t used = atomic_load_explicit(&writer->tier->used_bytes, memory_order_relaxed);
    return !writer->for_reclaim &&
           used + writer->tier->segment_bytes > writer->tier->capacity_bytes;
}

/* Place a prefix of the units, at least one. */
static enum umbp_status writer_reserve(struct append_writer *writer, struct append_unit *units,
                                       unsigned count, unsigned *placed_out)
{
    struct ssd_tier *tier = writer->tier;
    uint64_t alone = (units[0].need.blocks + 3) * SSD_BLOCK_BYTES;
    bool is_alone = alone > tier->segment_bytes;
    enum umbp_status status = UMBP_OK;
    unsigned placed = 0;
    mutex_lock(&tier->mutex);
    while (status == UMBP_OK && placed == 0) {
        struct ssd_segment *segment = is_alone ? NULL : tier->active;
        struct append_hold *other = &writer->holds[1 - writer->current];
        if (segment != hold_now(writer)->segment && hold_now(writer)->segment && other->segment) {
            mutex_unlock(&tier->mutex);
            hold_settle(writer, other);
            mutex_lock(&tier->mutex);
            status = writer->is_broken ? UMBP_TIMEOUT : UMBP_OK;
        } else if (segment && reserve_is_over(writer)) {
            status = UMBP_NO_SPACE;
        } else if (segment) {
            placed = place_units(writer, segment, units, count);
            if (placed == 0) {
                reserve_retire(writer, segment);
            }
        } else if (tier->is_making) {
            status = reserve_pause(writer) ? UMBP_OK : UMBP_TIMEOUT;
        } else if (tier->spare && !is_alone) {
            tier->spare->state = SEGMENT_ACTIVE;
            tier->active = tier->spare;
            tier->spare = NULL;
            tier->has_tried_spare = false;
        } else {
            status = reserve_make(writer, is_alone ? alone : reserve_size(writer, alone), &segment);
            if (status == UMBP_OK && is_alone) {
                placed = place_units(writer, segment, units, 1);
                ASSERT(placed == 1);
                segment->state = SEGMENT_CLOSING;
            } else if (status == UMBP_OK) {
                segment->state = SEGMENT_ACTIVE;
                tier->active = segment;
                tier->has_tried_spare = false;
            } else if (status == UMBP_BUSY) {
                status = reserve_pause(writer) ? UMBP_OK : UMBP_TIMEOUT;
            }
        }
    }
    mutex_unlock(&tier->mutex);
    *placed_out = placed;
    return status;
}

/* -------------------------------------------------------------------------- calling ------ */

static void writer_run(struct append_writer *writer)
{
    size_t at = 0;
    while (at < writer->count) {
        unsigned count = writer_plan(writer, at, &at);
        for (unsigned done = 0; done < count;) {
            struct append_unit *units = writer->units + done;
            unsigned placed = 0;
            enum umbp_status status = writer->is_broken
                                          ? UMBP_TIMEOUT
                                          : writer_reserve(writer, units, count - done, &placed);
            if (status != UMBP_OK) {
                bool only_this =
                    (units[0].need.blocks + 3) * SSD_BLOCK_BYTES > writer->tier->segment_bytes;
                ssd_append_items_fail(
                    writer, units[0].first,
                    only_this && status == UMBP_NO_SPACE ? units[0].end : writer->count, status);
                if (!only_this || status != UMBP_NO_SPACE) {
                    return;
                }
                done++;
                continue;
            }
            for (unsigned i = 0; i < placed; i++) {
                ssd_append_fill_entries(writer, &units[i]);
            }
            for (unsigned i = 0; i < placed; i++) {
                ssd_append_emit(writer, &units[i]);
            }
            done += placed;
            if (writer->io->busy_count > 0) { /* while the device is busy anyhow */
                ssd_segment_make_spare(writer->tier, writer->io, writer->deadline_ns);
            }
            struct append_hold *other = &writer->holds[1 - writer->current];
            if (other->segment && other->pending == 0) {
                hold_settle(writer, other);
            }
        }
    }
}

enum umbp_status ssd_append(struct ssd_tier *tier, struct ssd_append *appends, size_t count,
                            bool for_reclaim, uint64_t deadline_ns)
{
    struct ssd_io *io =
        tier->read_only ? NULL : ssd_pool_take(&tier->append_pool, tier->clock, deadline_ns);
    enum umbp_status refused = tier->read_only ? UMBP_READ_ONLY : UMBP_TIMEOUT;
    for (size_t i = 0; i < count; i++) {
        appends[i].location = (struct ssd_location){0, 0};
        appends[i].status = io ? item_check(tier, &appends[i]) : refused;
    }
    if (!io) {
        return count > 0 ? refused : UMBP_OK;
    }
    struct append_writer writer = {
        .tier = tier,
        .io = io,
        .units = io->user,
        .appends = appends,
        .count = count,
        .for_reclaim = for_reclaim,
        .deadline_ns = deadline_ns,
    };
    writer_run(&writer);
    (void)writer_settle_all(&writer);
    ssd_pool_give(&tier->append_pool, io);
    for (size_t i = 0; i < count; i++) {
        if (appends[i].status != UMBP_OK) {
            return appends[i].status;
        }
    }
    return UMBP_OK;
}

enum umbp_status ssd_append_context_create(struct ssd_tier *tier, struct ssd_io **io_out)
{
    struct ssd_io_options options = {
        .disk = tier->disk,
        .clock = tier->clock,
        .counters = &tier->counters,
        .slots = SSD_APPEND_SLOTS,
        .slot_bytes = tier->io_bytes,
        .iov_max = SSD_IOV_MAX,
        .io_timeout_ns = tier->io_timeout_ns,
        .hold = ssd_hold_segment,
        .drop = ssd_drop_segment,
        .context = tier,
    };
    struct ssd_io *io;
    enum umbp_status status = ssd_io_create(&options, &io);
    if (status != UMBP_OK) {
        return status;
    }
    io->user = mem_calloc(SSD_RUN_UNITS, sizeof(struct append_unit));
    if (!io->user) {
        (void)ssd_io_destroy(io, 0);
        return UMBP_NO_MEMORY;
    }
    *io_out = io;
    return UMBP_OK;
}
