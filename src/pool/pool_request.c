/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One round of requests: the open items, grouped by the link that they go to, are sent in frames of
 * at most POOL_REQUEST_ITEMS; all are on their way before the first answer is looked at.
 *
 *   requests_send:     stage -> connect (all links at once) -> frame -> fabric_call, for each
 *   (the caller copies what is in its own store)
 *   answered:          on the loop: the items' statuses; for a peer on this host, where the bytes
 * are requests_collect:  wait -> pull what is to be pulled -> RELEASE -> regions and links go back
 *
 * A frame is kept below FABRIC_EAGER_BYTES where it can be: it then goes without a rendezvous.
 */
#include "pool/pool_priv.h"

static struct pool_item *item_at(const struct pool_request *request, uint32_t i)
{
    struct pool_area *area = request->area;
    return &area->items[area->order[request->first + i]];
}

static void fail_items(struct pool_request *request, enum umbp_status status)
{
    for (uint32_t i = 0; i < request->count; i++) {
        item_at(request, i)->status = status;
    }
}

/* ---------------------------------------------------------------------------- answers ---- */

static struct fabric_piece *pieces_add(struct pool_request *request)
{
    if (request->piece_count == request->piece_room) {
        uint32_t room = request->piece_room ? request->piece_room * 2 : 256;
        struct fabric_piece *more = mem_realloc(request->pieces, room * sizeof(*more));
        if (!more) {
            return NULL;
        }
        request->pieces = more;
        request->piece_room = room;
    }
    return &request->pieces[request->piece_count++];
}

/* The places, one after the other, hold the bytes of the ranges in their order. */
static enum umbp_status take_places(struct pool_request *request, const struct pool_item *item,
                                    const struct proto_got *got)
{
    uint32_t range = 0;
    uint64_t range_done = 0;
    uint64_t total = 0;

    for (uint32_t p = 0; p < got->place_count; p++) {
        struct proto_place place = proto_place_at(got->rows, p);
        total += place.bytes;
        while (place.bytes && range < item->range_count) {
            const struct umbp_range *to = &item->ranges[range];
            uint64_t bytes = u64_min(place.bytes, to->bytes - range_done);
            struct fabric_piece *piece = pieces_add(request);
            if (!piece) {
                return UMBP_NO_MEMORY;
            }
            *piece = (struct fabric_piece){
                .local = (char *)to->data + range_done,
                .remote = place.address,
                .bytes = bytes,
            };
            place.address += bytes;
            place.bytes -= bytes;
            range_done += bytes;
            if (range_done == to->bytes) {
                range++;
                range_done = 0;
            }
        }
        if (place.bytes) {
            return UMBP_CORRUPT;
        }
    }
    return total == item->payload ? UMBP_OK : UMBP_CORRUPT;
}

static enum umbp_status take_got(struct pool_request *request, const struct proto_frame *frame)
{
    struct proto_walk walk;
    struct proto_got got;

    enum umbp_status status = proto_got_open(frame, &walk);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < request->count && proto_got_next(&walk, &got); i++) {
        struct pool_item *item = item_at(request, i);
        item->status = got.status;
        item->is_pulled = false;
        /* Also where nothing will be pulled: what was shown stays pinned until it is let go. */
        request->must_release |= got.has_places;
        request->pinned_bytes += got.has_places ? got.bytes : 0;
        if (got.status != UMBP_OK) {
            continue;
        }
        if (!item->any_size && got.bytes != item->bytes) {
            item->status = UMBP_SIZE_MISMATCH;
        } else if (item->is_unsound) {
            item->status = UMBP_INVALID_RANGE;
        } else if (got.has_places) {
            uint32_t before = request->piece_count;
            item->status = take_places(request, item, &got);
            item->is_pulled = item->status == UMBP_OK && item->payload;
            if (item->status != UMBP_OK) {
                request->piece_count = before;
            }
        }
    }
    return UMBP_OK;
}

static enum umbp_status take_statuses(struct pool_request *request, const struct proto_frame *frame)
{
    struct proto_walk walk;
    enum umbp_status each;

    enum umbp_status status = proto_statuses_open(frame, &walk);
    for (uint32_t i = 0;
         status == UMBP_OK && i < request->count && proto_statuses_next(&walk, &each); i++) {
        item_at(request, i)->status = each;
    }
    return status;
}

static enum umbp_status take_resolved(struct pool_request *request, const struct proto_frame *frame)
{
    struct proto_walk walk;
    struct proto_resolved resolved;

    enum umbp_status status = proto_resolved_open(frame, &walk);
    for (uint32_t i = 0;
         status == UMBP_OK && i < request->count && proto_resolved_next(&walk, &resolved); i++) {
        struct pool_item *item = item_at(request, i);
        item->status = resolved.status;
        item->bytes = resolved.bytes;
        item->depth = resolved.depth;
        item->tiers = resolved.tiers;
    }
    return status;
}

static enum proto_op op_of(enum area_kind kind)
{
    switch (kind) {
    case AREA_PUT:
        return PROTO_PUT;
    case AREA_GET:
        return PROTO_GET;
    case AREA_EXISTS:
        return PROTO_EXISTS;
    case AREA_REMOVE:
        return PROTO_REMOVE;
    case AREA_STAT:
        return PROTO_RESOLVE;
    case AREA_EXTERNAL:
        break; /* asked of masters only */
    }
    return PROTO_EXISTS;
}

static enum umbp_status take_answer(struct pool_request *request, const struct fabric_reply *reply)
{
    struct proto_frame frame;
    enum area_kind kind = request->area->kind;

    if (reply->status != UMBP_OK) {
        return reply->status;
    }
    enum umbp_status status = proto_frame_open(reply->data, reply->bytes, &frame);
    if (status != UMBP_OK) {
        return status;
    }
    if (frame.header.op != op_of(kind) || frame.header.request_id != request->id ||
        !(frame.header.flags & PROTO_FLAG_REPLY)) {
        return UMBP_CORRUPT;
    }
    if (frame.header.status != UMBP_OK) {
        return frame.header.status;
    }
    if (frame.header.count != request->count) {
        return UMBP_CORRUPT;
    }
    switch (kind) {
    case AREA_GET:
        return take_got(request, &frame);
    case AREA_STAT:
        return take_resolved(request, &frame);
    default:
        return take_statuses(request, &frame);
    }
}

static void answered(void *context, const struct fabric_reply *reply)
{
    struct pool_request *request = context;
    struct fabric *fabric = request->area->pool->options.fabric;
    request->epoch = reply->epoch;
    request->status = take_answer(request, reply);
    if (request->must_release) {
        release_expect(request->area->pool);
    }
    fabric_latch_down(fabric, &request->latch);
}

/* ----------------------------------------------------------------------------- frames ---- */

static struct proto_key wire_key(struct fabric_key key)
{
    return (struct proto_key){key.key, key.base};
}

static struct proto_key staged_key(const struct pool *pool)
{
    return wire_key(fabric_region_key(pool->options.fabric, pool->staging_region));
}

static size_t rows_of(const struct pool_item *item)
{
    return item->staged && item->payload ? 1 : item->range_count;
}

static void fill_pieces(const struct pool_request *request, const struct pool_item *item,
                        struct proto_piece *pieces, uint32_t *cursor)
{
    if (item->staged) {
        pieces[0] = (struct proto_piece){(uintptr_t)item->staged, staged_key(request->area->pool),
                                         item->payload};
        return;
    }
    /* By offset: the owner takes the value from the pieces one after the other. */
    for (uint32_t r = 0; r < item->range_count; r++) {
        const struct umbp_range *range = &item->ranges[r];
        struct fabric_key key = runs_key(request, range->data, range->bytes, cursor);
        pieces[r] = (struct proto_piece){(uintptr_t)range->data, wire_key(key), range->bytes};
    }
}

static void fill_ranges(const struct pool_request *request, const struct pool_item *item,
                        struct proto_range *rows, uint32_t *cursor)
{
    uint64_t at = (uintptr_t)item->staged;
    uint32_t row = 0;
    for (uint32_t r = 0; r < item->range_count; r++) {
        const struct umbp_range *range = &item->ranges[r];
        if (!range->bytes) {
            continue;
        }
        rows[row] = (struct proto_range){.offset = range->offset, .bytes = range->bytes};
        if (item->staged) {
            rows[row].address = at;
            rows[row].key = staged_key(request->area->pool);
            at += range->bytes;
        } else {
            rows[row].address = (uintptr_t)range->data;
            rows[row].key = wire_key(runs_key(request, range->data, range->bytes, cursor));
        }
        row++;
    }
}

/* Rows of a GET's item. What can't be right is asked for without memory, for its size alone; a
 * range of no bytes asks for nothing. */
static uint32_t range_rows_of(const struct pool_item *item)
{
    uint32_t rows = 0;
    for (uint32_t r = 0; !item->is_unsound && r < item->range_count; r++) {
        rows += item->ranges[r].bytes != 0;
    }
    return rows;
}

/* Rows for the request's items, as the frame's encoder wants them. False: no memory. */
static bool fill_rows(struct pool_request *request)
{
    struct pool_area *area = request->area;
    size_t rows = 0;
    uint32_t cursor = 0;

    for (uint32_t i = 0; i < request->count; i++) {
        const struct pool_item *item = item_at(request, i);
        rows += area->kind == AREA_PUT ? rows_of(item) : range_rows_of(item);
    }
    size_t row_bytes =
        area->kind == AREA_PUT ? sizeof(struct proto_piece) : sizeof(struct proto_range);
    char *at = area_sub_rows(area, (rows + 1) * row_bytes);
    if (!at) {
        return false;
    }
    for (uint32_t i = 0; i < request->count; i++) {
        const struct pool_item *item = item_at(request, i);
        if (area->kind == AREA_PUT) {
            area->frame.puts[i] = (struct proto_put){
                .key = item->key,
                .bytes = item->bytes,
                .depth = item->depth,
                .pieces = (struct proto_piece *)(void *)at,
                .piece_count = (uint32_t)rows_of(item),
            };
            fill_pieces(request, item, (struct proto_piece *)(void *)at, &cursor);
            at += rows_of(item) * row_bytes;
        } else {
            area->frame.gets[i] = (struct proto_get){
                .key = item->key,
                .bytes = item->bytes,
                .any_size = item->any_size || item->is_unsound,
                .ranges = (struct proto_range *)(void *)at,
                .range_count = range_rows_of(item),
            };
            if (!item->is_unsound) {
                fill_ranges(request, item, (struct proto_range *)(void *)at, &cursor);
            }
            at += area->frame.gets[i].range_count * row_bytes;
        }
    }
    return true;
}

/* Frames with memory. Cuts the request down to what fits; what is cut off stays for another. */
static enum umbp_status frame_data(struct pool_request *request, struct proto_call call,
                                   size_t *bytes_out)
{
    struct pool_area *area = request->area;
    const struct proto_buffer buffer = {area->buffer, PROTO_FRAME_MAX};
    bool is_put = area->kind == AREA_PUT;

    enum umbp_status status = runs_make(request, is_put ? FABRIC_REMOTE_READ : FABRIC_REMOTE_WRITE);
    if (status != UMBP_OK) {
        return status;
    }
    if (!fill_rows(request)) {
        return UMBP_NO_MEMORY;
    }
    uint32_t fit = is_put ? proto_put_fit(area->frame.puts, request->count, FABRIC_EAGER_BYTES)
                          : proto_get_fit(area->frame.gets, request->count, FABRIC_EAGER_BYTES);
    if (fit < request->count) {
        request->count = fit ? fit : 1;
    }
    return is_put ? proto_put_encode(buffer, call, area->frame.puts, request->count, bytes_out)
                  : proto_get_encode(buffer, call, area->frame.gets, request->count, bytes_out);
}

static enum umbp_status frame_keys(struct pool_request *request, struct proto_call call,
                                   size_t *bytes_out)
{
    struct pool_area *area = request->area;
    const struct proto_buffer buffer = {area->buffer, PROTO_FRAME_MAX};
    for (uint32_t i = 0; i < request->count; i++) {
        area->keys[i] = item_at(request, i)->key;
    }
    return proto_keys_encode(buffer, call, op_of(area->kind), 0, area->keys, request->count,
                             bytes_out);
}

/* --------------------------------------------------------------------------- sending ----- */

static enum umbp_status request_send(struct pool_request *request)
{
    struct pool_area *area = request->area;
    struct pool *pool = area->pool;
    bool has_memory = area->kind == AREA_PUT || area->kind == AREA_GET;
    uint64_t left_ms = clock_left_ns(pool->clock, area->deadline_ns) / NS_PER_MS;
    const struct proto_call header = {
        .request_id = request->id,
        .time_left_ms = (uint32_t)u64_min(left_ms, UINT32_MAX),
    };
    size_t bytes;

    enum umbp_status status =
        has_memory ? frame_data(request, header, &bytes) : frame_keys(request, header, &bytes);
    if (status != UMBP_OK) {
        return status;
    }
    const struct iovec part = {area->buffer, bytes};
    const struct fabric_call call = {
        .peer = request->peer,
        .parts = &part,
        .part_count = 1,
        .deadline_ns = area->deadline_ns,
        .exposes_memory = has_memory,
        .done = answered,
        .context = request,
    };
    return fabric_call(pool->options.fabric, &call);
}

/* Requests for the items order[first..end), which all go over `link`. Takes over no hold. */
static void group_send(struct pool_area *area, struct pool_link *link, uint32_t first, uint32_t end)
{
    struct pool *pool = area->pool;
    fabric_peer peer = link_peer(link);

    while (first < end && area->request_count < POOL_REQUESTS_MAX) {
        struct pool_request *request = &area->requests[area->request_count];
        request->area = area;
        request->link = link_hold_id(pool, link_id_of(link));
        request->peer = peer;
        request->id = atomic_fetch_add_explicit(&pool->next_id, 1, memory_order_relaxed);
        request->first = first;
        request->count = (uint32_t)size_min(end - first, POOL_REQUEST_ITEMS);
        request->must_release = false;
        request->pinned_bytes = 0;
        request->piece_count = 0;
        request->run_count = 0;
        fabric_latch_init(&request->latch, 1);
        enum umbp_status status = peer ? request_send(request) : UMBP_CLOSED;
        for (uint32_t i = 0; i < request->count; i++) {
            item_at(request, i)->is_asked = true;
        }
        first += request->count;
        if (status == UMBP_OK) {
            COUNT(pool, requests, 1);
            area->request_count++;
        } else {
            COUNT(pool, requests_failed, 1);
            fail_items(request, status);
            runs_drop(request);
            link_release(request->link);
        }
    }
}

struct group {
    link_id id;
    struct pool_link *link;
    struct link_waiter waiter;
    uint32_t first;
    uint32_t count;
};

/* Sort the round's items into groups; returns how many. Items of links beyond the last group wait.
 */
static uint32_t make_groups(struct pool_area *area, struct group *groups)
{
    uint32_t count = 0;
    uint32_t total = 0;

    for (uint32_t i = 0; i < area->count; i++) {
        struct pool_item *item = &area->items[i];
        uint32_t g = 0;
        item->is_asked = false;
        item->waits = false;
        item->staged = NULL;
        if (item->state != ITEM_OPEN || item->link == LINK_NONE || item->link == LINK_SELF) {
            continue;
        }
        while (g < count && groups[g].id != item->link) {
            g++;
        }
        if (g == POOL_REQUESTS_MAX) {
            item->waits = true;
            continue;
        }
        if (g == count) {
            groups[count++] = (struct group){.id = item->link};
        }
        bool has_memory = area->kind == AREA_PUT || area->kind == AREA_GET;
        if (has_memory && !item->is_unsound && !stage_item(area, item)) {
            item->waits = true;
            continue;
        }
        groups[g].count++;
    }
    for (uint32_t g = 0; g < count; g++) {
        groups[g].first = total;
        total += groups[g].count;
        groups[g].count = 0;
    }
    for (uint32_t i = 0; i < area->count; i++) {
        const struct pool_item *item = &area->items[i];
        if (item->state != ITEM_OPEN || item->link == LINK_NONE || item->link == LINK_SELF ||
            item->waits) {
            continue;
        }
        for (uint32_t g = 0; g < count; g++) {
            if (groups[g].id == item->link) {
                area->order[groups[g].first + groups[g].count++] = i;
                break;
            }
        }
    }
    return count;
}

static void connect_groups(struct pool_area *area, struct group *groups, uint32_t count)
{
    struct pool *pool = area->pool;
    struct fabric_latch latch;
    bool must_wait = false;

    fabric_latch_init(&latch, 1);
    for (uint32_t g = 0; g < count; g++) {
        groups[g].link = link_hold_id(pool, groups[g].id);
        groups[g].waiter.latch = &latch;
        fabric_latch_add(&latch, 1);
        if (!groups[g].link || link_want(groups[g].link, &groups[g].waiter, area->deadline_ns)) {
            fabric_latch_down(pool->options.fabric, &latch);
        } else {
            must_wait = true;
        }
    }
    if (must_wait) {
        fabric_latch_down(pool->options.fabric, &latch);
        pool_await(pool, &latch, area->deadline_ns);
    }
}

void requests_send(struct pool_area *area)
{
    struct group groups[POOL_REQUESTS_MAX];
    uint32_t count = make_groups(area, groups);

    area->request_count = 0;
    connect_groups(area, groups, count);
    for (uint32_t g = 0; g < count; g++) {
        uint32_t end = groups[g].first + groups[g].count;
        if (groups[g].link) {
            group_send(area, groups[g].link, groups[g].first, end);
            release_behind(groups[g].link);
            link_release(groups[g].link);
            continue;
        }
        for (uint32_t i = groups[g].first; i < end; i++) {
            area->items[area->order[i]].status = UMBP_CLOSED;
            area->items[area->order[i]].is_asked = true;
        }
    }
}

/* ------------------------------------------------------------------------- collecting ---- */

static void pull(struct pool_request *request)
{
    struct pool *pool = request->area->pool;
    uint64_t bytes = 0;

    enum umbp_status status = fabric_pull_wait(pool->options.fabric, request->peer, request->epoch,
                                               request->pieces, request->piece_count);
    for (uint32_t i = 0; i < request->count; i++) {
        struct pool_item *item = item_at(request, i);
        if (item->status == UMBP_OK && item->is_pulled) {
            item->status = status;
            bytes += item->payload;
        }
    }
    if (status == UMBP_OK) {
        COUNT(pool, bytes_pulled, bytes);
    } else if (status == UMBP_STALE) {
        COUNT(pool, stale_pulls, 1);
    }
}

static void request_collect(struct pool_request *request)
{
    struct pool_area *area = request->area;
    struct pool *pool = area->pool;

    pool_await(pool, &request->latch, area->deadline_ns);
    if (request->status != UMBP_OK) {
        COUNT(pool, requests_failed, 1);
        fail_items(request, request->status);
    } else if (request->piece_count) {
        pull(request);
    }
    if (request->must_release) {
        request_release(request);
    }
    for (uint32_t i = 0; area->kind == AREA_GET && i < request->count; i++) {
        const struct pool_item *item = item_at(request, i);
        if (item->staged && item->status == UMBP_OK && !item->is_pulled) {
            stage_out(item);
        }
    }
    runs_drop(request);
    link_release(request->link);
}

void requests_collect(struct pool_area *area)
{
    for (uint32_t i = 0; i < area->request_count; i++) {
        request_collect(&area->requests[i]);
    }
    area->request_count = 0;
    stage_end(area);
}
