/* SPDX-License-Identifier: Apache-2.0 */
/* What ssd_append.c (planning, placing, settling) and ssd_emit.c (bytes into slots) share. The
 * essay is in ssd_append.c. */
#ifndef TIER_SSD_SSD_APPEND_PRIV_H
#define TIER_SSD_SSD_APPEND_PRIV_H

#include "tier_ssd/ssd_priv.h"

struct append_unit {
    size_t first; /* item */
    size_t end;
    struct ssd_need need;
    bool is_tombstones;
    uint32_t payload_bytes; /* tombstones */
    uint32_t block;
    size_t arena_at;
};

struct append_hold {
    struct ssd_segment *segment; /* NULL: settled */
    uint32_t id;
    size_t first_item;
    size_t end_item;
    unsigned pending; /* slots in flight */
};

struct append_writer {
    struct ssd_tier *tier;
    struct ssd_io *io;
    struct append_unit *units;
    struct ssd_append *appends;
    size_t count;
    bool for_reclaim;
    uint64_t deadline_ns;
    struct append_hold holds[2];
    unsigned current;

    /* The slot that is being filled. */
    struct ssd_slot *slot;
    uint64_t slot_offset;
    size_t slot_bytes;
    unsigned iov_count;
    size_t staged;  /* bytes used of the slot's buffer */
    size_t partial; /* bytes in the last block, if it is not full */
    size_t item;    /* being emitted */
    bool is_broken; /* time is up, nothing more can be written */
};

static inline struct append_hold *hold_now(struct append_writer *writer)
{
    return &writer->holds[writer->current];
}

/* The item fails, unless it has already. */
void ssd_append_item_fail(struct ssd_append *item, enum umbp_status status);
void ssd_append_items_fail(struct append_writer *writer, size_t first, size_t end,
                           enum umbp_status status);
/* Wait for one slot in flight; false when there is none, or time is up (then nothing is in flight
 * any more, and the writer is broken). */
bool ssd_append_wait_slot(struct append_writer *writer);
/* Send the open slot off, if there is one. */
void ssd_append_submit_slot(struct append_writer *writer);
/* Throw away what is in the open slot: its items fail. */
void ssd_append_discard_slot(struct append_writer *writer);
/* The footer's entries of a unit that was just placed; the checksum comes with emitting. */
void ssd_append_fill_entries(struct append_writer *writer, struct append_unit *unit);
/* The unit's record into slots, which go out as they fill. */
void ssd_append_emit(struct append_writer *writer, struct append_unit *unit);

#endif
