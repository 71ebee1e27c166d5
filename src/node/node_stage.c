/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values on the SSD, through staging memory: a fixed number of lanes, each a part of the memory and
 * one item under way in it.
 *
 *     lane:  take an item ──► job thread reads ──► RMA write to the reader ──► more of it? ─┐
 *               ▲                  ▲─────────────────── the next part ─────────────────────┤
 *               └──────────────────────────── done ────────────────────────────────────────┘
 *
 * What fits into a lane is read in one go as the store's own readers do, so that it is counted,
 * promoted and dropped as they would; one read sees one value. A larger one borrows the memory of
 * lanes that are free. What does not even fit so is a stream (store.h): the value's parts come one
 * after the other, from its first byte to its last, and of each part goes out what the ranges want
 * of it, in whatever order they are.
 *
 *     open ─► part 1 ─► its pieces go out ─► part 2 ─► .. ─► last part, sum ─► its pieces ─► OK
 *                                                                 └─ wrong: UMBP_CORRUPT
 *
 * So bytes of a bad record may lie in the reader's memory by then, as they do after any get that
 * failed; but it is told UMBP_OK only after the whole was vouched for. The stream pins a segment:
 * it is closed as soon as the last part is in memory, else with the lane, by a job (closing may
 * free a file). A reader that dies fails the write of the part under way; for one that stalls the
 * sweep closes its connection; and no part is begun when its call's time is up.
 *
 * A request that gets no lane at all is answered UMBP_BUSY for those items; with one it goes on
 * until all of its items were through, so somebody always makes progress.
 */
#include "node/node_priv.h"

#define LANES_PER_OP 4u
#define LANE_TIMEOUT_MS 10000u

static void lane_read(struct node_lane *lane);

static struct fabric_piece piece_of(const struct node_lane *lane, char *data,
                                    const struct proto_range *range, uint64_t at, uint64_t bytes)
{
    return (struct fabric_piece){
        .local = data,
        .region = lane->owner->staging_region,
        .remote = range->address + at,
        .key = {range->key.key, range->key.base},
        .bytes = bytes,
    };
}

/* All of a single one: into what memory, and from there into which pieces. */
static void lane_cut(struct node_lane *lane)
{
    struct get_item *item = &lane->item;
    uint64_t part_bytes = lane->owner->lane_bytes;
    uint64_t used = 0;

    lane->range_count = 0;
    while (item->range < item->get.range_count) { /* they fit: lane_take_parts */
        struct proto_range range = proto_range_at(item->get.rows, item->range);
        char *data = lane->parts[used / part_bytes]->data + used % part_bytes;
        uint64_t bytes = u64_min(range.bytes - item->range_at, part_bytes - used % part_bytes);
        uint32_t at = lane->range_count++;
        lane->ranges[at] = (struct umbp_range){
            .data = data, .bytes = bytes, .offset = range.offset + item->range_at};
        lane->pieces[at] = piece_of(lane, data, &range, item->range_at, bytes);
        used += bytes;
        item->range_at += bytes;
        if (item->range_at == range.bytes) {
            item->range++;
            item->range_at = 0;
        }
    }
}

/* What the ranges want of the part in memory, from item->range and range_at (bytes of it that are
 * through) on, as far as there is room. */
static void part_cut(struct node_lane *lane)
{
    struct get_item *item = &lane->item;
    uint64_t lane_bytes = lane->owner->lane_bytes;

    lane->range_count = 0;
    for (; item->range < item->get.range_count; item->range++, item->range_at = 0) {
        struct proto_range range = proto_range_at(item->get.rows, item->range);
        uint64_t end = u64_min(range.offset + range.bytes, lane->to);
        uint64_t at = u64_max(u64_max(range.offset, lane->from), range.offset + item->range_at);
        while (at < end) {
            uint64_t used = at - lane->from;
            uint64_t bytes = u64_min(end - at, lane_bytes - used % lane_bytes);
            if (lane->range_count == NODE_LANE_RANGES) {
                item->range_at = at - range.offset;
                return;
            }
            lane->pieces[lane->range_count++] =
                piece_of(lane, lane->parts[used / lane_bytes]->data + used % lane_bytes, &range,
                         at - range.offset, bytes);
            at += bytes;
        }
    }
}

/* On a job thread: the lane and its op's frame stay as they are until `done`. */
static enum umbp_status part_read(struct node_lane *lane)
{
    struct store *store = lane->owner->store;
    struct ssd_range ranges[NODE_LANE_PARTS];
    uint64_t lane_bytes = lane->owner->lane_bytes;
    enum umbp_status status = UMBP_OK;

    if (!lane->is_open) {
        status = store_stream_open(store, &lane->item.pin, &lane->stream);
        lane->is_open = status == UMBP_OK;
    }
    if (status == UMBP_OK) {
        for (uint32_t i = 0; i < lane->part_count; i++) {
            ranges[i] =
                (struct ssd_range){lane->parts[i]->data, lane_bytes, lane->from + i * lane_bytes};
        }
        status =
            store_stream_next(store, &lane->stream, lane->to - lane->from, ranges, lane->part_count,
                              clock_deadline_ns(clock_monotonic(), LANE_TIMEOUT_MS));
        lane->is_whole = lane->stream.ssd.is_whole;
    }
    return status;
}

static void stream_close(struct node_lane *lane)
{
    store_stream_close(&lane->stream);
    lane->is_open = false;
}

static void lane_work(struct node_job *job)
{
    struct node_lane *lane = CONTAINER_OF(job, struct node_lane, job);

    if (lane->is_single) {
        const struct umbp_range_item item = {
            .key = lane->item.get.key,
            .ranges = lane->ranges,
            .range_count = lane->range_count,
            .object_bytes = lane->item.pin.bytes,
        };
        enum umbp_status one = UMBP_IO;
        lane->status = store_batch_get_ranges(lane->owner->store, &item, 1, &one);
        lane->status = lane->status == UMBP_OK ? one : lane->status;
        return;
    }
    if (!lane->is_closing) {
        lane->status = part_read(lane);
    }
    if (lane->is_closing || lane->is_whole || lane->status != UMBP_OK) {
        stream_close(lane);
    }
}

/* It holds nothing but its pin and its memory. */
static void lane_give(struct node_lane *lane)
{
    struct node_op *op = lane->op;
    struct node *node = lane->owner;

    op->get.results[lane->item.index].status = lane->status;
    NODE_COUNT(node, gets_staged, lane->status == UMBP_OK);
    NODE_COUNT(node, lanes_now, (uint64_t)-1);
    store_unpin(node->store, &lane->item.pin);
    lane->op = NULL;
    for (uint32_t i = 0; i < lane->part_count; i++) {
        list_push_back(&node->free_lanes, &lane->parts[i]->node);
    }
    lane->part_count = 0;
    op->get.lanes--;
    node_get_goes_on(op);
}

static void lane_end(struct node_lane *lane, enum umbp_status status)
{
    lane->status = status;
    if (lane->is_open) {
        lane->is_closing = true;
        node_job_run(lane->owner, &lane->job);
    } else {
        lane_give(lane);
    }
}

static void lane_send(struct node_lane *lane);

static void lane_written(void *context, enum umbp_status status)
{
    struct node_lane *lane = context;
    if (status != UMBP_OK || lane->is_single) {
        lane_end(lane, status);
    } else {
        lane_send(lane);
    }
}

static void lane_write(struct node_lane *lane)
{
    for (uint32_t i = 0; i < lane->range_count; i++) {
        NODE_COUNT(lane->owner, bytes_out, lane->pieces[i].bytes);
    }
    enum umbp_status status = fabric_write(lane->owner->fabric, lane->op->request->peer,
                                           lane->pieces, lane->range_count, lane_written, lane);
    if (status != UMBP_OK) {
        lane_end(lane, status);
    }
}

/* Its caller has given up, or its connection was closed for being overdue. */
static bool is_over(const struct node_op *op)
{
    return op->overdue_ns == UINT64_MAX || node_now_ns(op->owner) > op->request->deadline_ns;
}

/* What is left to be sent of the part in memory; else the next part. */
static void lane_send(struct node_lane *lane)
{
    part_cut(lane);
    if (lane->range_count) {
        lane_write(lane);
    } else if (lane->is_whole) {
        lane_end(lane, UMBP_OK);
    } else if (is_over(lane->op)) {
        lane_end(lane, UMBP_TIMEOUT);
    } else {
        lane_read(lane);
    }
}

static void lane_done(struct node_job *job)
{
    struct node_lane *lane = CONTAINER_OF(job, struct node_lane, job);
    enum umbp_status status = job->is_cancelled ? UMBP_CLOSED : lane->status;

    if (lane->is_closing) {
        stream_close(lane); /* if the job was cancelled */
        lane_give(lane);
    } else if (status != UMBP_OK) {
        /* STALE: it moved too often, or into memory: ask again. */
        lane_end(lane, status == UMBP_STALE ? UMBP_BUSY : status);
    } else if (lane->is_single) {
        lane_write(lane);
    } else {
        lane->item.range = 0;
        lane->item.range_at = 0;
        lane_send(lane);
    }
}

static void lane_read(struct node_lane *lane)
{
    struct node *node = lane->owner;
    if (lane->is_single) {
        lane_cut(lane);
    } else {
        uint64_t room = lane->part_count * node->lane_bytes;
        lane->from = lane->to;
        lane->to += u64_min(room, lane->item.pin.bytes - lane->from);
    }
    node_job_run(node, &lane->job);
}

static uint64_t bytes_wanted(const struct proto_get *get)
{
    uint64_t sum = 0;
    for (uint32_t r = 0; r < get->range_count; r++) {
        sum += proto_range_at(get->rows, r).bytes; /* 65,536 of 4 GiB at most */
    }
    return sum;
}

/* Its own memory, and more if it is needed and free. True: all of the item fits. */
static bool lane_take_parts(struct node_lane *lane)
{
    struct node *node = lane->owner;
    const struct proto_get *get = &lane->item.get;
    uint64_t wanted = bytes_wanted(get);

    lane->parts[0] = lane;
    lane->part_count = 1;
    while (lane->part_count < NODE_LANE_PARTS && lane->part_count * node->lane_bytes < wanted &&
           !list_is_empty(&node->free_lanes)) {
        struct node_lane *more = CONTAINER_OF(node->free_lanes.next, struct node_lane, node);
        list_remove(&more->node);
        lane->parts[lane->part_count++] = more;
    }
    return wanted <= lane->part_count * node->lane_bytes &&
           get->range_count + lane->part_count <= NODE_LANE_RANGES;
}

static void lane_begin(struct node_lane *lane, struct node_op *op, const struct get_item *item)
{
    struct node *node = lane->owner;
    lane->op = op;
    lane->item = *item;
    lane->is_open = false;
    lane->is_whole = false;
    lane->is_closing = false;
    lane->from = 0;
    lane->to = 0;
    lane->is_single = lane_take_parts(lane);
    if (lane->is_single) {
        struct store_pin *pin = &lane->item.pin;
        uint64_t bytes = pin->bytes;
        store_unpin(node->store, pin); /* a pin would keep the store from promoting it */
        pin->bytes = bytes;
    }
    op->get.lanes++;
    NODE_COUNT(node, lanes_now, 1);
    lane_read(lane);
}

void node_stage_start(struct node_op *op)
{
    struct node *node = op->owner;
    struct get_state *get = &op->get;

    while (get->ssd_next < get->ssd_count && get->lanes < LANES_PER_OP) {
        if (list_is_empty(&node->free_lanes)) {
            if (get->lanes) {
                return; /* these will go on */
            }
            for (; get->ssd_next < get->ssd_count; get->ssd_next++) {
                store_unpin(node->store, &get->ssd[get->ssd_next].pin); /* they say BUSY already */
            }
            return;
        }
        struct node_lane *lane = CONTAINER_OF(node->free_lanes.next, struct node_lane, node);
        list_remove(&lane->node);
        lane_begin(lane, op, &get->ssd[get->ssd_next++]);
    }
}

enum umbp_status node_stage_create(struct node *node)
{
    uint32_t count = node->options.staging_slots;
    node->lane_bytes = align_down(node->options.staging_bytes / count, 4096);
    if (!node->lane_bytes) {
        return UMBP_INVALID_VALUE;
    }
    node->staging = mem_map_huge(node->lane_bytes * count);
    node->lanes = mem_calloc(count, sizeof(*node->lanes));
    if (!node->staging || !node->lanes) {
        return UMBP_NO_MEMORY;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct node_lane *lane = &node->lanes[i];
        lane->owner = node;
        lane->data = node->staging + i * node->lane_bytes;
        lane->job.work = lane_work;
        lane->job.done = lane_done;
        list_push_back(&node->free_lanes, &lane->node);
    }
    return UMBP_OK;
}

enum umbp_status node_stage_register(struct node *node)
{
    return fabric_region_create(node->fabric, node->staging,
                                node->lane_bytes * node->options.staging_slots, FABRIC_LOCAL, -1, 0,
                                &node->staging_region);
}

void node_stage_drop(struct node_lane *lane)
{
    stream_close(lane);
    store_unpin(lane->owner->store, &lane->item.pin);
}

void node_stage_destroy(struct node *node)
{
    if (node->staging) {
        mem_unmap(node->staging, node->lane_bytes * node->options.staging_slots);
    }
    mem_free(node->lanes);
}
