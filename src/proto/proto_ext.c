/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bodies of the external KV index.
 *
 *   ext           8   id_bytes 0, tier 2, flags 3, zero 4; then key rows, node id, keys
 *   match row    16   indices 0, distinct 4, id_bytes 8, peer_address_bytes 10, tier 12
 */
#include "proto/proto_priv.h"

#define EXT_FIXED 8u
#define KEY_ROW 2u
#define MATCH_ROW 16u
#define INDEX_BYTES 4u

enum {
    EXT_COUNTS = 1
};

enum umbp_status proto_ext_encode(struct proto_buffer buffer, struct proto_call call,
                                  enum proto_op op, const struct proto_ext *ext,
                                  const struct umbp_key *keys, uint32_t count, size_t *bytes_out)
{
    struct proto_out out;
    uint64_t flat = ext->node_id.bytes;

    if (!text_fits(ext->node_id)) {
        return UMBP_INVALID_VALUE;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!key_fits(keys[i])) {
            return UMBP_INVALID_VALUE;
        }
        flat += keys[i].bytes;
    }
    enum umbp_status status =
        proto_out_begin(buffer, EXT_FIXED + (uint64_t)count * KEY_ROW, 0, flat, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    store16(out.row, ext->node_id.bytes);
    out.row[2] = (uint8_t)ext->tier;
    out.row[3] = ext->count_as_hit ? EXT_COUNTS : 0;
    out.row += EXT_FIXED;
    put_flat(&out, ext->node_id.data, ext->node_id.bytes);
    for (uint32_t i = 0; i < count; i++, out.row += KEY_ROW) {
        store16(out.row, (uint16_t)keys[i].bytes);
        put_flat(&out, keys[i].data, keys[i].bytes);
    }
    *bytes_out = proto_out_end(&out, call, (uint16_t)op, 0, UMBP_OK, count, 0);
    return UMBP_OK;
}

enum umbp_status proto_ext_open(const struct proto_frame *frame, struct proto_ext *ext_out,
                                struct proto_walk *walk_out)
{
    const uint8_t *body = frame->body;
    struct proto_walk walk;

    if (frame->header.body_bytes < EXT_FIXED) {
        return UMBP_CORRUPT;
    }
    uint16_t id_bytes = load16(body);
    if (id_bytes > PROTO_TEXT_MAX || !tier_is_known(body[2]) || body[3] & ~(unsigned)EXT_COUNTS ||
        load32(body + 4)) {
        return UMBP_CORRUPT;
    }
    enum umbp_status status = proto_body_open(frame, EXT_FIXED, KEY_ROW, 0, proto_keys_measure,
                                              (struct proto_claim){.flat = id_bytes}, &walk);
    if (status != UMBP_OK) {
        return status;
    }
    *ext_out = (struct proto_ext){
        .node_id = take_text(&walk, id_bytes),
        .tier = (enum proto_tier)body[2],
        .count_as_hit = body[3] & EXT_COUNTS,
    };
    *walk_out = walk;
    return UMBP_OK;
}

/* ----------------------------------------------------------------------------- match ----- */

uint32_t proto_index_at(struct proto_rows indices, uint32_t index)
{
    return load32(indices.at + (size_t)index * INDEX_BYTES);
}

enum umbp_status proto_match_encode(struct proto_buffer buffer, struct proto_call call,
                                    const struct proto_match *items, uint32_t count,
                                    size_t *bytes_out)
{
    struct proto_out out;
    uint64_t indices = 0;
    uint64_t flat = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (!text_fits(items[i].node_id) || !text_fits(items[i].peer_address)) {
            return UMBP_INVALID_VALUE;
        }
        indices += items[i].index_count;
        flat += (uint64_t)items[i].node_id.bytes + items[i].peer_address.bytes;
    }
    enum umbp_status status = proto_out_begin(buffer, (uint64_t)count * MATCH_ROW,
                                              indices * INDEX_BYTES, flat, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count; i++, out.row += MATCH_ROW) {
        const struct proto_match *item = &items[i];
        store32(out.row, item->index_count);
        store32(out.row + 4, item->distinct);
        store16(out.row + 8, item->node_id.bytes);
        store16(out.row + 10, item->peer_address.bytes);
        out.row[12] = (uint8_t)item->tier;
        for (uint32_t k = 0; k < item->index_count; k++, out.sub += INDEX_BYTES) {
            store32(out.sub, item->indices[k]);
        }
        put_flat(&out, item->node_id.data, item->node_id.bytes);
        put_flat(&out, item->peer_address.data, item->peer_address.bytes);
    }
    *bytes_out = proto_out_end(&out, call, PROTO_EXT_MATCH, PROTO_FLAG_REPLY, UMBP_OK, count, 0);
    return UMBP_OK;
}

static bool match_measure(const uint8_t *row, struct proto_claim *claim)
{
    uint16_t id_bytes = load16(row + 8);
    uint16_t address_bytes = load16(row + 10);
    claim->subs = load32(row);
    claim->flat = (uint64_t)id_bytes + address_bytes;
    return id_bytes <= PROTO_TEXT_MAX && address_bytes <= PROTO_TEXT_MAX &&
           tier_is_known(row[12]) && !row[13] && !row[14] && !row[15];
}

enum umbp_status proto_match_open(const struct proto_frame *frame, struct proto_walk *walk_out)
{
    return proto_body_open(frame, 0, MATCH_ROW, INDEX_BYTES, match_measure, (struct proto_claim){0},
                           walk_out);
}

bool proto_match_next(struct proto_walk *walk, struct proto_match *item_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    const uint8_t *row = walk->row;
    struct proto_match item = {
        .tier = (enum proto_tier)row[12],
        .distinct = load32(row + 4),
        .index_count = load32(row),
    };
    item.rows = take_rows(walk, item.index_count, INDEX_BYTES);
    item.node_id = take_text(walk, load16(row + 8));
    item.peer_address = take_text(walk, load16(row + 10));
    walk->row += MATCH_ROW;
    *item_out = item;
    return true;
}
