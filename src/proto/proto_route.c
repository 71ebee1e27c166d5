/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bodies between clients and masters.
 *
 *   ask          16   node index 0, excluded 4, flags 8, zero 12; then wants, excluded indices
 *   want         16   print 0 and 8; for ROUTE_PUT 24: bytes 16
 *   routes        8   nodes 0, zero 4; then routes, nodes, capacities, texts
 *   route        16   bytes 0, node index 8, status 12, tier 14, replicas 15
 *   node         24   incarnation 0, index 8, capacities 12, lengths of id 16, address 18, peer
 *                     address 20, zero 22
 *   LOOKUP reply      a byte each
 */
#include "proto/proto_priv.h"

#define ASK_FIXED 16u
#define PRINT_ROW 16u
#define WANT_ROW 24u
#define EXCLUDE_BYTES 4u
#define ROUTES_FIXED 8u
#define ROUTE_ROW 16u
#define NODE_ROW 24u

enum {
    ASK_WANTS_NODES = 1
};

/* ----------------------------------------------------------------------------- asking ---- */

static uint32_t want_bytes(uint16_t op) { return op == PROTO_ROUTE_PUT ? WANT_ROW : PRINT_ROW; }

enum umbp_status proto_ask_encode(struct proto_buffer buffer, struct proto_call call,
                                  enum proto_op op, const struct proto_ask *ask,
                                  const struct proto_want *wants, uint32_t count, size_t *bytes_out)
{
    struct proto_out out;
    uint32_t row_bytes = want_bytes((uint16_t)op);

    if (ask->exclude_count > PROTO_EXCLUDE_MAX || (ask->exclude_count && !ask->exclude)) {
        return UMBP_INVALID_VALUE;
    }
    enum umbp_status status =
        proto_out_begin(buffer, ASK_FIXED + (uint64_t)count * row_bytes,
                        (uint64_t)ask->exclude_count * EXCLUDE_BYTES, 0, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    store32(out.row, ask->node_index);
    store32(out.row + 4, ask->exclude_count);
    store32(out.row + 8, ask->wants_nodes ? ASK_WANTS_NODES : 0);
    out.row += ASK_FIXED;
    for (uint32_t i = 0; i < count; i++, out.row += row_bytes) {
        store64(out.row, wants[i].print.low);
        store64(out.row + 8, wants[i].print.high);
        if (row_bytes == WANT_ROW) {
            store64(out.row + 16, wants[i].bytes);
        }
    }
    for (uint32_t i = 0; i < ask->exclude_count; i++, out.sub += EXCLUDE_BYTES) {
        store32(out.sub, ask->exclude[i]);
    }
    *bytes_out = proto_out_end(&out, call, (uint16_t)op, 0, UMBP_OK, count, 0);
    return UMBP_OK;
}

enum umbp_status proto_ask_open(const struct proto_frame *frame, struct proto_ask *ask_out,
                                struct proto_walk *walk_out)
{
    const uint8_t *body = frame->body;
    struct proto_walk walk;

    if (frame->header.body_bytes < ASK_FIXED) {
        return UMBP_CORRUPT;
    }
    uint32_t excluded = load32(body + 4);
    if (excluded > PROTO_EXCLUDE_MAX || load32(body + 8) & ~(unsigned)ASK_WANTS_NODES ||
        load32(body + 12)) {
        return UMBP_CORRUPT;
    }
    enum umbp_status status =
        proto_body_open(frame, ASK_FIXED, want_bytes(frame->header.op), EXCLUDE_BYTES, NULL,
                        (struct proto_claim){.subs = excluded}, &walk);
    if (status != UMBP_OK) {
        return status;
    }
    *ask_out = (struct proto_ask){
        .node_index = load32(body),
        .wants_nodes = load32(body + 8) & ASK_WANTS_NODES,
        .exclude_rows = take_rows(&walk, excluded, EXCLUDE_BYTES),
        .exclude_count = excluded,
    };
    *walk_out = walk;
    return UMBP_OK;
}

uint32_t proto_exclude_at(struct proto_rows exclude, uint32_t index)
{
    return load32(exclude.at + (size_t)index * EXCLUDE_BYTES);
}

bool proto_want_next(struct proto_walk *walk, struct proto_want *want_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    *want_out = (struct proto_want){
        .print = {load64(walk->row), load64(walk->row + 8)},
        .bytes = walk->row_bytes == WANT_ROW ? load64(walk->row + 16) : 0,
    };
    walk->row += walk->row_bytes;
    return true;
}

uint32_t proto_want_prints(struct proto_walk *walk, struct fingerprint *prints_out)
{
    uint32_t count = walk->left;
    const uint8_t *row = walk->row;
    for (uint32_t i = 0; i < count; i++, row += walk->row_bytes) {
        prints_out[i] = (struct fingerprint){load64(row), load64(row + 8)};
    }
    walk->row = row;
    walk->left = 0;
    return count;
}

/* --------------------------------------------------------------------------- answering --- */

static bool node_can_be_sent(const struct proto_node *node)
{
    return text_fits(node->id) && text_fits(node->address) && text_fits(node->peer_address) &&
           node->capacity_count <= PROTO_TIERS_MAX;
}

static void node_store(struct proto_out *out, uint8_t *row, const struct proto_node *node)
{
    store64(row, node->incarnation);
    store32(row + 8, node->index);
    store32(row + 12, node->capacity_count);
    store16(row + 16, node->id.bytes);
    store16(row + 18, node->address.bytes);
    store16(row + 20, node->peer_address.bytes);
    for (uint32_t c = 0; c < node->capacity_count; c++, out->sub += CAPACITY_BYTES) {
        proto_capacity_store(out->sub, &node->capacities[c]);
    }
    put_flat(out, node->id.data, node->id.bytes);
    put_flat(out, node->address.data, node->address.bytes);
    put_flat(out, node->peer_address.data, node->peer_address.bytes);
}

enum umbp_status proto_routes_encode(struct proto_buffer buffer, struct proto_call call,
                                     enum proto_op op, const struct proto_members *members,
                                     const struct proto_route *routes, uint32_t count,
                                     size_t *bytes_out)
{
    struct proto_out out;
    uint64_t subs = 0;
    uint64_t flat = 0;

    for (uint32_t i = 0; i < members->node_count; i++) {
        const struct proto_node *node = &members->nodes[i];
        if (!node_can_be_sent(node)) {
            return UMBP_INVALID_VALUE;
        }
        subs += NODE_ROW + (uint64_t)node->capacity_count * CAPACITY_BYTES;
        flat += (uint64_t)node->id.bytes + node->address.bytes + node->peer_address.bytes;
    }
    enum umbp_status status = proto_out_begin(buffer, ROUTES_FIXED + (uint64_t)count * ROUTE_ROW,
                                              subs, flat, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    store32(out.row, members->node_count);
    out.row += ROUTES_FIXED;
    for (uint32_t i = 0; i < count; i++, out.row += ROUTE_ROW) {
        store64(out.row, routes[i].bytes);
        store32(out.row + 8, routes[i].node_index);
        store16(out.row + 12, (uint16_t)routes[i].status);
        out.row[14] = (uint8_t)routes[i].tier;
        out.row[15] = routes[i].replicas;
    }
    uint8_t *row = out.sub;
    out.sub += (size_t)members->node_count * NODE_ROW;
    for (uint32_t i = 0; i < members->node_count; i++, row += NODE_ROW) {
        node_store(&out, row, &members->nodes[i]);
    }
    *bytes_out = proto_out_end(&out, call, (uint16_t)op, PROTO_FLAG_REPLY, UMBP_OK, count,
                               members->left_off);
    return UMBP_OK;
}

/* The nodes' part: node rows, capacities, texts, up to the end of the body. */
static bool nodes_open(const uint8_t *at, uint64_t bytes, uint32_t count,
                       struct proto_walk *walk_out)
{
    uint64_t head = (uint64_t)count * NODE_ROW;
    uint64_t capacities = 0;
    uint64_t flat = 0;

    if (head > bytes) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *row = at + (size_t)i * NODE_ROW;
        if (load32(row + 12) > PROTO_TIERS_MAX || load16(row + 22)) {
            return false;
        }
        capacities += load32(row + 12);
        for (uint32_t t = 0; t < 3; t++) {
            uint16_t text = load16(row + 16 + 2 * t);
            if (text > PROTO_TEXT_MAX) {
                return false;
            }
            flat += text;
        }
    }
    if (head + capacities * CAPACITY_BYTES + flat != bytes) {
        return false;
    }
    walk_out->row = at;
    walk_out->sub = at + head;
    walk_out->flat = walk_out->sub + capacities * CAPACITY_BYTES;
    walk_out->left = count;
    walk_out->row_bytes = NODE_ROW;
    return true;
}

static bool route_measure(const uint8_t *row, struct proto_claim *claim)
{
    (void)claim;
    return tier_is_known(row[14]);
}

enum umbp_status proto_routes_open(const struct proto_frame *frame,
                                   struct proto_members *members_out, struct proto_walk *walk_out)
{
    const uint8_t *body = frame->body;
    uint64_t head = ROUTES_FIXED + (uint64_t)frame->header.count * ROUTE_ROW;
    struct proto_walk nodes;
    struct proto_walk walk;

    if (frame->header.body_bytes < head || load32(body + 4)) {
        return UMBP_CORRUPT;
    }
    uint64_t rest = frame->header.body_bytes - head;
    uint32_t node_count = load32(body);
    if (!nodes_open(body + head, rest, node_count, &nodes)) {
        return UMBP_CORRUPT;
    }
    enum umbp_status status = proto_body_open(frame, ROUTES_FIXED, ROUTE_ROW, 0, route_measure,
                                              (struct proto_claim){.flat = rest}, &walk);
    if (status != UMBP_OK) {
        return status;
    }
    *members_out = (struct proto_members){
        .node_count = node_count,
        .left_off = frame->header.aux,
        .walk = nodes,
    };
    *walk_out = walk;
    return UMBP_OK;
}

bool proto_route_next(struct proto_walk *walk, struct proto_route *route_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    *route_out = (struct proto_route){
        .status = load_status(walk->row + 12),
        .tier = (enum proto_tier)walk->row[14],
        .replicas = walk->row[15],
        .node_index = load32(walk->row + 8),
        .bytes = load64(walk->row),
    };
    walk->row += ROUTE_ROW;
    return true;
}

bool proto_node_next(struct proto_walk *walk, struct proto_node *node_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    const uint8_t *row = walk->row;
    struct proto_node node = {
        .index = load32(row + 8),
        .incarnation = load64(row),
        .capacity_count = load32(row + 12),
    };
    node.id = take_text(walk, load16(row + 16));
    node.address = take_text(walk, load16(row + 18));
    node.peer_address = take_text(walk, load16(row + 20));
    node.capacity_rows = take_rows(walk, node.capacity_count, CAPACITY_BYTES);
    walk->row += NODE_ROW;
    *node_out = node;
    return true;
}

/* ----------------------------------------------------------------------------- LOOKUP ---- */

enum umbp_status proto_found_encode(struct proto_buffer buffer, struct proto_call call,
                                    const uint8_t *found, uint32_t count, size_t *bytes_out)
{
    struct proto_out out;
    enum umbp_status status = proto_out_begin(buffer, 0, 0, count, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    put_flat(&out, found, count);
    *bytes_out = proto_out_end(&out, call, PROTO_LOOKUP, PROTO_FLAG_REPLY, UMBP_OK, count, 0);
    return UMBP_OK;
}

enum umbp_status proto_found_open(const struct proto_frame *frame, const uint8_t **found_out)
{
    if (frame->header.body_bytes != frame->header.count) {
        return UMBP_CORRUPT;
    }
    *found_out = frame->body;
    return UMBP_OK;
}
