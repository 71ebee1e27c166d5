/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slots: pages that a writer fills by itself. Their memory is registered for that one writer, piece
 * by piece, so that a key opens nothing else.
 *
 * A slot's number is its place in the table and a generation, so an old number is never another's
 * slot. What was committed stays known until the place is needed again: a repeated commit is told
 * the same. A repeated reserve of the same key and size by the same writer gets the same slot.
 */
#include "node/node_priv.h"

static uint64_t slot_number(const struct node *node, const struct node_slot *slot)
{
    return (uint64_t)slot->generation << 32 | (uint64_t)(slot - node->slots);
}

static struct node_slot *slot_find(struct node *node, uint64_t number)
{
    uint32_t at = (uint32_t)number;
    if (at >= node->options.slots_max || node->slots[at].generation != number >> 32) {
        return NULL;
    }
    return &node->slots[at];
}

enum umbp_status node_slots_create(struct node *node)
{
    list_init(&node->free_slots);
    node->slots = mem_calloc(node->options.slots_max, sizeof(*node->slots));
    if (!node->slots) {
        return UMBP_NO_MEMORY;
    }
    for (uint32_t i = 0; i < node->options.slots_max; i++) {
        list_push_back(&node->free_slots, &node->slots[i].node);
    }
    return UMBP_OK;
}

/* Out of its peer's hands. Its pages are the caller's matter. */
static void slot_close(struct node *node, struct node_slot *slot, enum slot_state state)
{
    for (uint32_t i = 0; i < slot->region_count; i++) {
        fabric_region_destroy(node->fabric, slot->regions[i]);
    }
    slot->region_count = 0;
    mem_free(slot->key);
    slot->key = NULL;
    slot->state = state;
    list_remove(&slot->node);
    list_push_back(&node->free_slots, &slot->node);
    NODE_COUNT(node, slots_now, (uint64_t)-1);
}

void node_slot_end(struct node *node, struct node_slot *slot)
{
    store_abort(node->store, &slot->reservation);
    slot_close(node, slot, SLOT_FREE);
}

void node_slots_destroy(struct node *node)
{
    for (uint32_t i = 0; node->slots && i < node->options.slots_max; i++) {
        if (node->slots[i].state == SLOT_OPEN) {
            node_slot_end(node, &node->slots[i]);
        }
    }
    mem_free(node->slots);
}

/* The writer may still be writing: its connection goes first, and its slots with it. */
void node_slots_expire(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    for (struct list_node *at = peer->slots.next; at != &peer->slots; at = at->next) {
        if (CONTAINER_OF(at, struct node_slot, node)->expires_ns <= now_ns) {
            NODE_COUNT(node, slots_expired, 1);
            fabric_disconnect(node->fabric, peer->peer);
            return;
        }
    }
}

/* ------------------------------------------------------------------------- reserve ------- */

/* Show its pages to the writer. */
static enum umbp_status slot_show(struct node *node, struct node_slot *slot)
{
    uint32_t cursor = 0;
    for (uint64_t at = 0; at < slot->reservation.bytes;) {
        struct dram_piece piece =
            store_piece_at(node->store, &slot->reservation.block, at, &cursor);
        uint64_t bytes = u64_min(piece.bytes, slot->reservation.bytes - at);
        uint32_t index = slot->region_count;
        if (index == NODE_SLOT_PIECES) {
            return UMBP_BUSY; /* too scattered: PUT does it */
        }
        enum umbp_status status = fabric_region_create(
            node->fabric, piece.data, bytes, FABRIC_REMOTE_WRITE, -1, 0, &slot->regions[index]);
        if (status != UMBP_OK) {
            return status;
        }
        struct fabric_key key = fabric_region_key(node->fabric, slot->regions[index]);
        slot->pieces[index] =
            (struct proto_piece){(uint64_t)(uintptr_t)piece.data, {key.key, key.base}, bytes};
        slot->region_count++;
        at += bytes;
    }
    return UMBP_OK;
}

static struct node_slot *slot_of_peer(struct node_peer *peer, const struct proto_reserve *item)
{
    for (struct list_node *at = peer->slots.next; at != &peer->slots; at = at->next) {
        struct node_slot *slot = CONTAINER_OF(at, struct node_slot, node);
        if (slot->reservation.bytes == item->bytes &&
            slot->reservation.key.bytes == item->key.bytes &&
            memcmp(slot->key, item->key.data, item->key.bytes) == 0) {
            return slot;
        }
    }
    return NULL;
}

static enum umbp_status slot_open(struct node *node, struct node_peer *peer,
                                  const struct proto_reserve *item, uint64_t lifetime_ms,
                                  struct node_slot **slot_out)
{
    if (list_is_empty(&node->free_slots)) {
        return UMBP_BUSY;
    }
    struct node_slot *slot = CONTAINER_OF(node->free_slots.next, struct node_slot, node);
    struct store_reservation reservation;
    enum umbp_status status =
        store_try_reserve(node->store, item->key, item->bytes, item->depth, &reservation);
    if (status != UMBP_OK) {
        return status;
    }
    uint8_t *key = mem_alloc(item->key.bytes);
    if (!key) {
        store_abort(node->store, &reservation);
        return UMBP_NO_MEMORY;
    }
    memcpy(key, item->key.data, item->key.bytes);
    list_remove(&slot->node);
    slot->state = SLOT_OPEN;
    slot->generation++;
    slot->key = key;
    slot->reservation = reservation;
    slot->reservation.key.data = key;
    slot->peer = peer->peer;
    slot->bytes = item->bytes;
    slot->key_hash = hash_key(key, item->key.bytes, node->options.hash_seed).low;
    slot->expires_ns = node_now_ns(node) + lifetime_ms * NS_PER_MS;
    list_push_back(&peer->slots, &slot->node);
    NODE_COUNT(node, slots_now, 1);
    status = slot_show(node, slot);
    if (status != UMBP_OK) {
        node_slot_end(node, slot);
        return status;
    }
    *slot_out = slot;
    return UMBP_OK;
}

void node_reserve(struct node_op *op)
{
    struct node *node = op->owner;
    struct node_peer *peer = node_peer_find(node, op->request->peer);
    uint32_t count = op->frame.header.count;
    uint64_t lifetime_ms = u64_min(op->frame.header.aux, node->options.slot_ms);
    struct proto_reserve item;
    enum umbp_status status = proto_reserve_open(&op->frame, &op->walk);
    struct proto_slot *slots = mem_calloc(count + 1, sizeof(*slots));

    if (status == UMBP_OK) {
        status = !peer ? UMBP_CLOSED : !slots ? UMBP_NO_MEMORY : UMBP_OK;
    }
    if (status != UMBP_OK) {
        mem_free(slots);
        node_op_refuse(op, status);
        return;
    }
    for (uint32_t i = 0; proto_reserve_next(&op->walk, &item); i++) {
        struct node_slot *slot = slot_of_peer(peer, &item);
        slots[i].status = slot ? UMBP_OK : slot_open(node, peer, &item, lifetime_ms, &slot);
        if (slots[i].status == UMBP_OK) {
            slots[i].slot = slot_number(node, slot);
            slots[i].pieces = slot->pieces;
            slots[i].piece_count = slot->region_count;
        }
    }
    size_t bytes = 0;
    enum umbp_status made = proto_slots_encode(node_scratch(node), proto_call_of(&op->frame),
                                               lifetime_ms, slots, count, &bytes);
    mem_free(slots);
    node_op_answer(op, made, bytes);
}

/* ---------------------------------------------------------------- commit and abort ------- */

static enum umbp_status commit_one(struct node *node, fabric_peer peer,
                                   const struct proto_commit *item)
{
    struct node_slot *slot = slot_find(node, item->slot);

    if (!slot || slot->state == SLOT_FREE || slot->peer != peer) {
        return UMBP_STALE;
    }
    if (slot->state == SLOT_COMMITTED) {
        return slot->bytes == item->bytes && slot->key_hash == item->key_hash ? UMBP_OK
                                                                              : UMBP_STALE;
    }
    if (slot->bytes != item->bytes || slot->key_hash != item->key_hash) {
        enum umbp_status status =
            slot->bytes != item->bytes ? UMBP_SIZE_MISMATCH : UMBP_INVALID_KEY;
        node_slot_end(node, slot);
        return status;
    }
    if (node->options.checks_memory && !item->has_crc) {
        node_slot_end(node, slot);
        return UMBP_INVALID_VALUE; /* this store needs the writer's sum */
    }
    slot->reservation.crc = item->crc;
    enum umbp_status status = store_commit(node->store, &slot->reservation);
    NODE_COUNT(node, puts_stored, status == UMBP_OK);
    slot_close(node, slot, umbp_status_is_success(status) ? SLOT_COMMITTED : SLOT_FREE);
    return status;
}

void node_commit(struct node_op *op)
{
    struct node *node = op->owner;
    struct proto_commit item;
    uint32_t count = op->frame.header.count;
    enum umbp_status status = proto_commit_open(&op->frame, &op->walk);
    enum umbp_status *statuses = mem_calloc(count + 1, sizeof(*statuses));

    status = status == UMBP_OK && !statuses ? UMBP_NO_MEMORY : status;
    if (status != UMBP_OK) {
        mem_free(statuses);
        node_op_refuse(op, status);
        return;
    }
    for (uint32_t i = 0; proto_commit_next(&op->walk, &item); i++) {
        statuses[i] = commit_one(node, op->request->peer, &item);
    }
    size_t bytes = 0;
    enum umbp_status made = proto_statuses_encode(node_scratch(node), proto_call_of(&op->frame),
                                                  PROTO_COMMIT, statuses, count, &bytes);
    mem_free(statuses);
    node_op_answer(op, made, bytes);
}

void node_abort(struct node_op *op)
{
    struct node *node = op->owner;
    uint64_t number;
    uint32_t count = op->frame.header.count;
    enum umbp_status status = proto_numbers_open(&op->frame, &op->walk);
    enum umbp_status *statuses = mem_calloc(count + 1, sizeof(*statuses));

    status = status == UMBP_OK && !statuses ? UMBP_NO_MEMORY : status;
    if (status != UMBP_OK) {
        mem_free(statuses);
        node_op_refuse(op, status);
        return;
    }
    for (uint32_t i = 0; proto_numbers_next(&op->walk, &number); i++) {
        struct node_slot *slot = slot_find(node, number);
        bool mine = slot && slot->peer == op->request->peer;
        statuses[i] = mine && slot->state == SLOT_COMMITTED ? UMBP_ALREADY_EXISTS : UMBP_OK;
        if (mine && slot->state == SLOT_OPEN) {
            node_slot_end(node, slot);
        }
    }
    size_t bytes = 0;
    enum umbp_status made = proto_statuses_encode(node_scratch(node), proto_call_of(&op->frame),
                                                  PROTO_ABORT, statuses, count, &bytes);
    mem_free(statuses);
    node_op_answer(op, made, bytes);
}
