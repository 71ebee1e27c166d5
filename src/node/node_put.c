/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PUT. The items go through in windows:
 *
 *     reserve ... reserve ──► one transfer of all their pieces ──► commit ... commit ──► next
 * window
 *
 * A window ends at NODE_WINDOW items, NODE_PIECES pieces, or a sixteenth of the tier. An item of
 * more pieces than that stays reserved over several windows. What is there already is answered
 * without a reservation, so its bytes don't move.
 *
 * No room: first what is in the window is moved and committed (so that no two puts wait for
 * each other's pages), then the item is tried again every few ms until space_wait_ms is over.
 *
 * On one host the bytes are pulled, and the pull says whether the writer's memory was still its own
 * when they were read. Otherwise they are read by RMA, which ends with the writer's connection.
 */
#include "node/node_priv.h"

#define RETRY_NS (2 * NS_PER_MS)
#define WINDOW_SHARE 16u

static void put_advance(struct node_op *op);

static uint64_t window_limit(const struct node *node)
{
    return dram_bytes_total(store_dram(node->store)) / WINDOW_SHARE;
}

static void put_answer(struct node_op *op)
{
    size_t bytes = 0;
    enum umbp_status made =
        proto_statuses_encode(node_scratch(op->owner), proto_call_of(&op->frame), PROTO_PUT,
                              op->statuses, op->frame.header.count, &bytes);
    if (op->statuses != op->few) {
        mem_free(op->statuses);
    }
    node_op_answer(op, made, bytes);
}

static void note(struct node_op *op, uint32_t index, enum umbp_status status, uint64_t bytes)
{
    op->statuses[index] = status;
    if (status == UMBP_OK) {
        NODE_COUNT(op->owner, puts_stored, 1);
        NODE_COUNT(op->owner, bytes_in, bytes);
    } else if (status == UMBP_ALREADY_EXISTS) {
        NODE_COUNT(op->owner, puts_existing, 1);
    } else {
        NODE_COUNT(op->owner, puts_failed, 1);
    }
}

/* ------------------------------------------------------------------------ filling -------- */

/* Cut the last item's rest into pieces, as far as there is room for them. */
static void cut_last(struct node_op *op)
{
    struct put_state *put = &op->put;
    struct put_item *item = &put->items[put->item_count - 1];

    while (put->piece < item->put.piece_count && op->piece_count < NODE_PIECES) {
        struct proto_piece from = proto_piece_at(item->put.rows, put->piece);
        struct dram_piece to =
            store_piece_at(op->owner->store, &item->reservation.block, put->value_at, &put->cursor);
        uint64_t bytes = u64_min(to.bytes, from.bytes - put->piece_at);
        op->pieces[op->piece_count++] = (struct fabric_piece){
            .local = to.data,
            .region = node_region_of(op->owner, to.data),
            .remote = from.address + put->piece_at,
            .key = {from.key.key, from.key.base},
            .bytes = bytes,
        };
        put->value_at += bytes;
        put->piece_at += bytes;
        if (put->piece_at == from.bytes) {
            put->piece++;
            put->piece_at = 0;
        }
    }
    put->last_is_open = put->piece < item->put.piece_count;
}

/* False: the item has to wait for room. */
static bool take_item(struct node_op *op)
{
    struct put_state *put = &op->put;
    struct put_item *item = &put->items[put->item_count];
    enum umbp_status status = store_try_reserve(op->owner->store, put->next.key, put->next.bytes,
                                                put->next.depth, &item->reservation);

    if (status == UMBP_NO_SPACE) {
        return false;
    }
    put->has_next = false;
    put->give_up_ns = 0;
    if (status != UMBP_OK) {
        note(op, put->next_index, status, 0);
        return true;
    }
    item->put = put->next;
    item->index = put->next_index;
    put->item_count++;
    put->piece = 0;
    put->piece_at = 0;
    put->value_at = 0;
    put->cursor = 0;
    put->window_bytes += dram_footprint(put->next.bytes);
    cut_last(op);
    return true;
}

/* False: nothing is in the window, and the next item has to wait. */
static bool fill(struct node_op *op)
{
    struct put_state *put = &op->put;
    uint64_t limit = window_limit(op->owner);

    if (put->last_is_open) {
        cut_last(op);
    }
    while (!put->last_is_open && put->item_count < NODE_WINDOW && op->piece_count < NODE_PIECES) {
        if (!put->has_next) {
            if (!proto_put_next(&op->walk, &put->next)) {
                break;
            }
            put->has_next = true;
            put->next_index = op->next_index++;
        }
        if (put->item_count && put->window_bytes + put->next.bytes > limit) {
            break;
        }
        if (!take_item(op)) {
            return put->item_count > 0;
        }
    }
    return true;
}

/* ----------------------------------------------------------------------- finishing ------- */

static uint32_t crc_of(struct node *node, const struct put_item *item)
{
    uint32_t crc = 0;
    uint32_t cursor = 0;
    for (uint64_t at = 0; at < item->put.bytes;) {
        struct dram_piece piece =
            store_piece_at(node->store, &item->reservation.block, at, &cursor);
        uint64_t bytes = u64_min(piece.bytes, item->put.bytes - at);
        crc = crc32c(crc, piece.data, bytes);
        at += bytes;
    }
    return crc;
}

static void end_item(struct node_op *op, struct put_item *item, enum umbp_status status)
{
    struct node *node = op->owner;
    if (status != UMBP_OK) {
        store_abort(node->store, &item->reservation);
    } else {
        item->reservation.key = item->put.key;
        if (item->put.has_crc) {
            item->reservation.crc = item->put.crc;
        } else if (node->options.checks_memory) {
            item->reservation.crc = crc_of(node, item);
        }
        status = store_commit(node->store, &item->reservation);
    }
    note(op, item->index, status, item->put.bytes);
}

static void finish_window(struct node_op *op, enum umbp_status status)
{
    struct put_state *put = &op->put;
    uint32_t whole = put->item_count;

    if (put->last_is_open && status == UMBP_OK) {
        whole--;
    }
    for (uint32_t i = 0; i < whole; i++) {
        end_item(op, &put->items[i], status);
    }
    put->window_bytes = 0;
    if (whole < put->item_count) {
        put->items[0] = put->items[whole];
        put->item_count = 1;
        put->window_bytes = dram_footprint(put->items[0].put.bytes);
    } else {
        put->item_count = 0;
        put->last_is_open = false;
    }
    op->piece_count = 0;
}

/* What is left of the frame, untouched. */
static void fail_rest(struct node_op *op, enum umbp_status status)
{
    struct put_state *put = &op->put;
    struct proto_put item;
    if (put->has_next) {
        put->has_next = false;
        note(op, put->next_index, status, 0);
    }
    while (proto_put_next(&op->walk, &item)) {
        note(op, op->next_index++, status, 0);
    }
}

static void moved(void *context, enum umbp_status status)
{
    struct node_op *op = context;
    finish_window(op, status);
    if (status == UMBP_CLOSED || status == UMBP_CANCELLED) {
        fail_rest(op, UMBP_CLOSED);
    }
    put_advance(op);
}

static enum umbp_status start_transfer(struct node_op *op)
{
    struct fabric *fabric = op->owner->fabric;
    fabric_peer peer = op->request->peer;
    if (fabric_peer_flags(fabric, peer) & FABRIC_PEER_READABLE) {
        enum umbp_status status =
            fabric_pull(fabric, peer, op->request->epoch, op->pieces, op->piece_count, moved, op);
        if (status != UMBP_UNSUPPORTED) {
            return status;
        }
    }
    return fabric_read(fabric, peer, op->pieces, op->piece_count, moved, op);
}

/* False: it was long enough, and the item has failed. */
static bool wait_for_room(struct node_op *op)
{
    struct put_state *put = &op->put;
    struct node *node = op->owner;
    uint64_t now_ns = node_now_ns(node);

    if (!put->give_up_ns) {
        put->give_up_ns =
            u64_min(now_ns + node->options.space_wait_ms * NS_PER_MS, op->request->deadline_ns);
    }
    if (now_ns >= put->give_up_ns) {
        put->give_up_ns = 0;
        put->has_next = false;
        note(op, put->next_index, UMBP_NO_SPACE, 0);
        return false;
    }
    fabric_timer_set(node->fabric, &op->timer, now_ns + RETRY_NS);
    return true;
}

static void waited(struct fabric_timer *timer)
{
    put_advance(CONTAINER_OF(timer, struct node_op, timer));
}

static void put_advance(struct node_op *op)
{
    struct put_state *put = &op->put;
    for (;;) {
        if (!fill(op)) {
            if (wait_for_room(op)) {
                return;
            }
        } else if (op->piece_count) {
            enum umbp_status status = start_transfer(op);
            if (status == UMBP_OK) {
                return;
            }
            put->last_is_open = false; /* all of the window fails */
            finish_window(op, status);
            if (status == UMBP_CLOSED) {
                fail_rest(op, UMBP_CLOSED);
            }
        } else if (put->item_count) {
            finish_window(op, UMBP_OK); /* values of no bytes */
        } else if (!put->has_next) {
            put_answer(op);
            return;
        }
    }
}

void node_put_begin(struct node_op *op)
{
    uint32_t count = op->frame.header.count;
    enum umbp_status status = proto_put_open(&op->frame, &op->walk);

    if (status == UMBP_OK && count > NODE_INLINE_ITEMS) {
        op->statuses = mem_calloc(count, sizeof(*op->statuses));
        status = op->statuses ? UMBP_OK : UMBP_NO_MEMORY;
    } else {
        op->statuses = op->few;
    }
    if (status != UMBP_OK) {
        node_op_refuse(op, status);
        return;
    }
    op->is_put = true;
    op->timer.run = waited;
    op->put.item_count = 0;
    op->put.last_is_open = false;
    op->put.has_next = false;
    op->put.window_bytes = 0;
    op->put.give_up_ns = 0;
    put_advance(op);
}

void node_put_drop(struct node_op *op)
{
    for (uint32_t i = 0; i < op->put.item_count; i++) {
        store_abort(op->owner->store, &op->put.items[i].reservation);
    }
    if (op->statuses != op->few) {
        mem_free(op->statuses);
    }
    node_op_refuse(op, UMBP_CLOSED);
}
