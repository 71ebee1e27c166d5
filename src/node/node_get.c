/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GET. Each item is pinned, and goes one of three ways:
 *
 *     in DRAM, the reader is on this host   its places are answered; the pin stays in a grant until
 *                                           RELEASE, the connection's end, or pin_ms
 *     in DRAM, elsewhere (or the reader     written by RMA in windows of NODE_WINDOW items and
 *     has enough pinned, or wants too       NODE_PIECES pieces; unpinned when the window's transfer
 *     many places)                          has ended
 *     on the SSD only                       staged (node_stage.c)
 *
 * With checks_memory, what is in DRAM is summed up first (see checking, below). What is not what
 * its writer stored is UMBP_CORRUPT, counted by the store, and gone.
 *
 * The answer goes out when all of them have ended. A grant is made known to its peer's record only
 * then, and only if that record still is there: a peer that went meanwhile never gets places.
 */
#include "node/node_priv.h"

/* A pin counts as so much more than its bytes, so that many small ones are bounded too. */
#define PIN_COST 256u
/* Summed up by one job: about what is transferred meanwhile. */
#define CHECK_BYTES (UINT64_C(8) << 20)

static void get_advance(struct node_op *op);

/* ------------------------------------------------------------------------- grants -------- */

void node_grant_free(struct node *node, struct node_peer *peer, struct node_grant *grant)
{
    for (uint32_t i = 0; i < grant->count; i++) {
        store_unpin(node->store, &grant->pins[i]);
    }
    if (peer) {
        list_remove(&grant->node);
        peer->granted_bytes -= grant->bytes;
        NODE_COUNT(node, grants_now, (uint64_t)-1);
    }
    mem_free(grant);
}

void node_release(struct node *node, fabric_peer handle, const struct proto_frame *frame)
{
    struct node_peer *peer = node_peer_find(node, handle);
    struct proto_walk walk;
    uint64_t request_id;

    if (!peer || proto_numbers_open(frame, &walk) != UMBP_OK) {
        return;
    }
    while (proto_numbers_next(&walk, &request_id)) {
        for (struct list_node *at = peer->grants.next; at != &peer->grants;) {
            struct node_grant *grant = CONTAINER_OF(at, struct node_grant, node);
            at = at->next;
            if (grant->request_id == request_id) {
                node_grant_free(node, peer, grant);
                break;
            }
        }
    }
}

/* One has been out for too long: the reader may still be reading, so its epoch moves first, which
 * voids what else it was given. */
void node_grants_expire(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    bool late = false;
    for (struct list_node *at = peer->grants.next; at != &peer->grants; at = at->next) {
        late |= CONTAINER_OF(at, struct node_grant, node)->expires_ns <= now_ns;
    }
    if (late) {
        fabric_raise_epoch(node->fabric, peer->peer);
        while (!list_is_empty(&peer->grants)) {
            struct node_grant *grant = CONTAINER_OF(peer->grants.next, struct node_grant, node);
            NODE_COUNT(node, pins_expired, grant->count);
            node_grant_free(node, peer, grant);
        }
    }
}

static bool grant_add(struct node_op *op, const struct store_pin *pin)
{
    struct get_state *get = &op->get;
    if (!get->grant || get->grant->count == get->grant_capacity) {
        uint32_t capacity = get->grant ? get->grant_capacity * 2 : 16;
        struct node_grant *grant =
            mem_realloc(get->grant, sizeof(*grant) + capacity * sizeof(grant->pins[0]));
        if (!grant) {
            return false;
        }
        if (!get->grant) {
            *grant = (struct node_grant){.request_id = op->frame.header.request_id};
        }
        get->grant = grant;
        get->grant_capacity = capacity;
    }
    get->grant->pins[get->grant->count++] = *pin;
    get->grant->bytes += pin->bytes + PIN_COST;
    return true;
}

/* -------------------------------------------------------------------------- ending ------- */

static void state_free(struct node_op *op)
{
    struct get_state *get = &op->get;
    mem_free(get->results);
    mem_free(get->place_at);
    mem_free(get->places);
    mem_free(get->ssd);
    mem_free(get->checked);
    if (get->grant) {
        node_grant_free(op->owner, NULL, get->grant);
    }
}

static void keep_grant(struct node_op *op)
{
    struct node *node = op->owner;
    struct node_peer *peer = node_peer_find(node, op->request->peer);
    struct node_grant *grant = op->get.grant;

    if (grant && peer) {
        grant->expires_ns = node_now_ns(node) + node->options.pin_ms * NS_PER_MS;
        peer->granted_bytes += grant->bytes;
        list_push_back(&peer->grants, &grant->node);
        NODE_COUNT(node, grants_now, 1);
        op->get.grant = NULL;
    }
}

static void get_answer(struct node_op *op)
{
    struct get_state *get = &op->get;
    uint32_t count = op->frame.header.count;
    size_t bytes = 0;

    for (uint32_t i = 0; i < count; i++) {
        struct proto_got *got = &get->results[i];
        got->places = got->place_count ? get->places + get->place_at[i] : NULL;
        NODE_COUNT(op->owner, gets_missed, got->status == UMBP_NOT_FOUND);
        NODE_COUNT(op->owner, gets_busy, got->status == UMBP_BUSY);
        NODE_COUNT(op->owner, gets_corrupt, got->status == UMBP_CORRUPT);
    }
    enum umbp_status made = proto_got_encode(node_scratch(op->owner), proto_call_of(&op->frame),
                                             get->results, count, &bytes);
    if (made == UMBP_OK) {
        keep_grant(op);
    }
    state_free(op);
    node_op_answer(op, made, bytes);
}

/* ------------------------------------------------------------------------- one item ------ */

static bool ranges_fit(const struct proto_get *item, uint64_t value_bytes)
{
    for (uint32_t r = 0; r < item->range_count; r++) {
        struct proto_range range = proto_range_at(item->rows, r);
        if (range.offset > value_bytes || range.bytes > value_bytes - range.offset) {
            return false;
        }
    }
    return true;
}

static bool place_add(struct get_state *get, uint32_t limit, struct proto_place place)
{
    if (get->place_count == limit) {
        return false;
    }
    if (get->place_count == get->place_capacity) {
        uint32_t capacity = get->place_capacity ? get->place_capacity * 2 : 128;
        struct proto_place *places = mem_realloc(get->places, capacity * sizeof(*places));
        if (!places) {
            return false;
        }
        get->places = places;
        get->place_capacity = capacity;
    }
    get->places[get->place_count++] = place;
    return true;
}

static bool place_range(struct node_op *op, const struct store_pin *pin, uint64_t offset,
                        uint64_t bytes, uint32_t limit, uint32_t *cursor)
{
    while (bytes) {
        struct dram_piece piece = store_piece_at(op->owner->store, &pin->block, offset, cursor);
        uint64_t part = u64_min(piece.bytes, bytes);
        struct proto_place place = {(uint64_t)(uintptr_t)piece.data, part};
        if (!place_add(&op->get, limit, place)) {
            return false;
        }
        offset += part;
        bytes -= part;
    }
    return true;
}

/* Answer where the item's bytes are, if the peer may have that. False: move them instead. */
static bool try_places(struct node_op *op, const struct proto_get *item, uint32_t index,
                       const struct store_pin *pin)
{
    struct node *node = op->owner;
    struct get_state *get = &op->get;
    struct node_peer *peer = node_peer_find(node, op->request->peer);
    uint64_t granted = peer ? peer->granted_bytes : 0;
    uint32_t from = get->place_count;
    uint32_t cursor = 0;
    size_t rest = PROTO_FRAME_MAX - proto_got_bytes(op->frame.header.count, 0);
    uint32_t limit = (uint32_t)(rest / PROTO_PLACE_BYTES);
    bool whole = !item->range_count;
    bool fits = true;

    if (!get->same_host || !peer ||
        granted + (get->grant ? get->grant->bytes : 0) + pin->bytes + PIN_COST >
            node->options.pinned_bytes_max) {
        return false;
    }
    if (whole) {
        fits = place_range(op, pin, 0, pin->bytes, limit, &cursor);
    }
    for (uint32_t r = 0; fits && r < item->range_count; r++) {
        struct proto_range range = proto_range_at(item->rows, r);
        fits = place_range(op, pin, range.offset, range.bytes, limit, &cursor);
    }
    if (!fits || !grant_add(op, pin)) {
        get->place_count = from;
        return false;
    }
    get->results[index].has_places = true;
    get->results[index].place_count = get->place_count - from;
    get->place_at[index] = from;
    NODE_COUNT(node, gets_placed, 1);
    return true;
}

static bool stage_later(struct node_op *op, const struct get_item *item)
{
    struct get_state *get = &op->get;
    if (get->ssd_count == get->ssd_capacity) {
        uint32_t capacity = get->ssd_capacity ? get->ssd_capacity * 2 : 16;
        struct get_item *items = mem_realloc(get->ssd, capacity * sizeof(*items));
        if (!items) {
            return false;
        }
        get->ssd = items;
        get->ssd_capacity = capacity;
    }
    get->ssd[get->ssd_count++] = *item;
    return true;
}

/* The frame's next item, pinned if it is there. False: there is none. */
static bool pin_next(struct node_op *op, struct get_item *item_out)
{
    struct node *node = op->owner;
    struct get_item item = {0};

    if (!proto_get_next(&op->walk, &item.get)) {
        return false;
    }
    item.index = op->next_index++;
    item.status = store_pin(node->store, item.get.key, item.get.any_size ? 0 : item.get.bytes,
                            false, &item.pin);
    if (item.status == UMBP_OK && !item.get.any_size && item.pin.bytes != item.get.bytes) {
        store_unpin(node->store, &item.pin); /* 0 is a size here */
        item.status = UMBP_SIZE_MISMATCH;
    }
    *item_out = item;
    return true;
}

/* Find out which way the item goes. True: it is open now, to be cut. */
static bool open_item(struct node_op *op, struct get_item open)
{
    struct node *node = op->owner;
    struct get_state *get = &op->get;
    const struct proto_get *item = &open.get;
    uint32_t index = open.index;
    struct proto_got *got = &get->results[index];

    got->status = open.status;
    if (got->status == UMBP_SIZE_MISMATCH) {
        struct umbp_entry_info info = {.struct_bytes = sizeof(info)};
        got->bytes = store_stat(node->store, item->key, &info) == UMBP_OK ? info.bytes : 0;
    }
    if (got->status != UMBP_OK) {
        return false;
    }
    got->tier = open.pin.tier == STORE_TIER_DRAM ? PROTO_TIER_DRAM : PROTO_TIER_SSD;
    got->bytes = open.pin.bytes;
    got->depth = open.pin.depth;
    got->has_crc = open.pin.has_crc;
    got->crc = open.pin.crc;
    if (!ranges_fit(item, open.pin.bytes)) {
        got->status = UMBP_INVALID_RANGE;
    } else if (open.pin.tier == STORE_TIER_SSD && item->range_count) {
        if (stage_later(op, &open)) {
            got->status = UMBP_BUSY; /* until a lane has seen to it */
            return false;
        }
        got->status = UMBP_NO_MEMORY;
    } else if (open.pin.tier == STORE_TIER_DRAM && try_places(op, item, index, &open.pin)) {
        return false;
    } else if (item->range_count) {
        get->open = open;
        get->has_open = true;
        return true;
    }
    store_unpin(node->store, &open.pin);
    return false;
}

/* -------------------------------------------------------------------------- checking ----- */

/*
 * With checks_memory, what lies in memory is summed up before anybody is shown it or sent it. That
 * takes as long as a copy, so a job thread does it, for some items ahead, while those before them
 * are on their way:
 *
 *     frame ─► pinned (loop) ─► summed up (job) ─► opened (loop): placed, staged or cut
 */
static void check_work(struct node_job *job)
{
    struct node_op *op = CONTAINER_OF(job, struct node_op, job);
    for (uint32_t i = 0; i < op->get.checked_count; i++) {
        struct get_item *item = &op->get.checked[i];
        if (item->status == UMBP_OK) {
            item->status = store_pin_verify(op->owner->store, &item->pin);
        }
    }
}

static void drop_checked(struct node_op *op)
{
    struct get_state *get = &op->get;
    for (; get->checked_next < get->checked_count; get->checked_next++) {
        struct get_item *item = &get->checked[get->checked_next];
        if (item->status == UMBP_OK) {
            store_unpin(op->owner->store, &item->pin);
        }
    }
}

static void check_done(struct node_job *job)
{
    struct node_op *op = CONTAINER_OF(job, struct node_op, job);
    struct get_state *get = &op->get;

    get->is_checking = false;
    for (uint32_t i = 0; i < get->checked_count; i++) {
        struct get_item *item = &get->checked[i];
        if (item->status == UMBP_OK && job->is_cancelled) {
            store_unpin(op->owner->store, &item->pin);
            item->status = UMBP_CLOSED;
        } else if (item->status == UMBP_CORRUPT) {
            store_unpin(op->owner->store, &item->pin);
        }
    }
    if (get->has_failed) {
        drop_checked(op);
    }
    node_get_goes_on(op);
}

static bool wants_check(const struct get_state *get)
{
    return get->checked && !get->is_checking && get->checked_next == get->checked_count;
}

static void check_begin(struct node_op *op)
{
    struct get_state *get = &op->get;
    uint64_t bytes = 0;

    get->checked_count = 0;
    get->checked_next = 0;
    while (get->checked_count < NODE_WINDOW && bytes < CHECK_BYTES &&
           pin_next(op, &get->checked[get->checked_count])) {
        const struct get_item *item = &get->checked[get->checked_count++];
        if (item->status == UMBP_OK && item->pin.tier == STORE_TIER_DRAM && item->pin.has_crc) {
            get->is_checking = true;
            bytes += item->pin.bytes;
        }
    }
    if (get->is_checking) {
        op->job.work = check_work;
        op->job.done = check_done;
        node_job_run(op->owner, &op->job);
    }
}

/* The next item that may be opened. False: there is none, now or any more. */
static bool next_item(struct node_op *op, struct get_item *item_out)
{
    struct get_state *get = &op->get;
    if (!get->checked) {
        return pin_next(op, item_out);
    }
    if (wants_check(get)) {
        check_begin(op);
    }
    if (get->is_checking || get->checked_next == get->checked_count) {
        return false;
    }
    *item_out = get->checked[get->checked_next++];
    return true;
}

/* --------------------------------------------------------------------------- windows ----- */

/* Cut the open item into pieces as far as there is room. */
static void cut_open(struct node_op *op)
{
    struct get_state *get = &op->get;
    struct get_item *item = &get->open;

    while (item->range < item->get.range_count && op->piece_count < NODE_PIECES) {
        struct proto_range range = proto_range_at(item->get.rows, item->range);
        struct dram_piece from = store_piece_at(op->owner->store, &item->pin.block,
                                                range.offset + item->range_at, &item->cursor);
        uint64_t bytes = u64_min(from.bytes, range.bytes - item->range_at);
        op->pieces[op->piece_count++] = (struct fabric_piece){
            .local = from.data,
            .region = node_region_of(op->owner, from.data),
            .remote = range.address + item->range_at,
            .key = {range.key.key, range.key.base},
            .bytes = bytes,
        };
        NODE_COUNT(op->owner, bytes_out, bytes);
        item->range_at += bytes;
        if (item->range_at == range.bytes) {
            item->range++;
            item->range_at = 0;
        }
    }
    if (item->range == item->get.range_count) {
        get->pins[get->pin_count++] = item->pin;
        get->has_open = false;
        NODE_COUNT(op->owner, gets_written, 1);
    }
}

static void fill(struct node_op *op)
{
    struct get_state *get = &op->get;
    struct get_item item;

    while (op->piece_count < NODE_PIECES && get->pin_count < NODE_WINDOW) {
        if (!get->has_open) {
            if (!next_item(op, &item)) {
                return;
            }
            if (!open_item(op, item)) {
                continue;
            }
        }
        cut_open(op);
    }
}

static void unpin_window(struct node_op *op)
{
    struct get_state *get = &op->get;
    for (uint32_t i = 0; i < get->pin_count; i++) {
        store_unpin(op->owner->store, &get->pins[i]);
    }
    get->pin_count = 0;
    op->piece_count = 0;
}

/* The reader is gone, or its keys are wrong: nothing more is worth moving. */
static void fail_all(struct node_op *op, enum umbp_status status)
{
    struct get_state *get = &op->get;
    struct proto_get item;

    if (get->has_open) {
        store_unpin(op->owner->store, &get->open.pin);
        get->has_open = false;
    }
    get->has_failed = true;
    if (!get->is_checking) {
        drop_checked(op);
    }
    while (proto_get_next(&op->walk, &item)) {
        op->next_index++;
    }
    for (; get->ssd_next < get->ssd_count; get->ssd_next++) {
        store_unpin(op->owner->store, &get->ssd[get->ssd_next].pin);
    }
    for (uint32_t i = 0; i < op->frame.header.count; i++) {
        get->results[i] = (struct proto_got){.status = status};
    }
    if (get->grant) {
        node_grant_free(op->owner, NULL, get->grant); /* nobody was told of it */
        get->grant = NULL;
    }
    get->place_count = 0;
}

static void moved(void *context, enum umbp_status status)
{
    struct node_op *op = context;
    op->get.is_moving = false;
    unpin_window(op);
    if (status != UMBP_OK) {
        fail_all(op, status);
    }
    get_advance(op);
}

static void get_advance(struct node_op *op)
{
    struct get_state *get = &op->get;

    while (!get->is_moving) {
        fill(op);
        node_stage_start(op);
        if (!op->piece_count) {
            break;
        }
        enum umbp_status status = fabric_write(op->owner->fabric, op->request->peer, op->pieces,
                                               op->piece_count, moved, op);
        if (status == UMBP_OK) {
            get->is_moving = true;
            if (wants_check(get)) {
                check_begin(op);
            }
            return;
        }
        unpin_window(op);
        fail_all(op, status);
    }
    if (!get->is_moving && !get->is_checking && !get->lanes && get->ssd_next == get->ssd_count) {
        get_answer(op);
    }
}

void node_get_goes_on(struct node_op *op)
{
    if (!op->get.is_moving) {
        get_advance(op);
    } else {
        node_stage_start(op);
    }
}

void node_get_begin(struct node_op *op)
{
    struct get_state *get = &op->get;
    uint32_t count = op->frame.header.count;
    enum umbp_status status = proto_get_open(&op->frame, &op->walk);

    memset(get, 0, sizeof(*get));
    if (status == UMBP_OK) {
        get->results = mem_calloc(count + 1, sizeof(*get->results));
        get->place_at = mem_calloc(count + 1, sizeof(*get->place_at));
        status = get->results && get->place_at ? UMBP_OK : UMBP_NO_MEMORY;
    }
    if (status == UMBP_OK && op->owner->options.checks_memory) {
        get->checked = mem_calloc(NODE_WINDOW, sizeof(*get->checked));
        status = get->checked ? UMBP_OK : UMBP_NO_MEMORY;
    }
    if (status != UMBP_OK) {
        state_free(op);
        node_op_refuse(op, status);
        return;
    }
    op->is_get = true;
    get->same_host = fabric_peer_flags(op->owner->fabric, op->request->peer) & FABRIC_PEER_READS_US;
    get_advance(op);
}

void node_get_drop(struct node_op *op)
{
    op->get.is_checking = false; /* its job was never run */
    unpin_window(op);
    fail_all(op, UMBP_CLOSED);
    state_free(op);
    node_op_refuse(op, UMBP_CLOSED);
}
