/* SPDX-License-Identifier: Apache-2.0 */
/* The external KV index. Body, 8: id_bytes 0, tier 2, flags 3, zero 4; then prints (16), node id.
 */
#include "proto/proto_priv.h"

#define EXT_FIXED 8u
#define PRINT_ROW 16u

enum {
    EXT_COUNTS = 1
};

enum umbp_status proto_ext_encode(struct proto_buffer buffer, struct proto_call call,
                                  enum proto_op op, const struct proto_ext *ext,
                                  const struct fingerprint *prints, uint32_t count,
                                  size_t *bytes_out)
{
    struct proto_out out;

    if (!text_fits(ext->node_id)) {
        return UMBP_INVALID_VALUE;
    }
    enum umbp_status status = proto_out_begin(buffer, EXT_FIXED + (uint64_t)count * PRINT_ROW, 0,
                                              ext->node_id.bytes, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    store16(out.row, ext->node_id.bytes);
    out.row[2] = (uint8_t)ext->tier;
    out.row[3] = ext->count_as_hit ? EXT_COUNTS : 0;
    out.row += EXT_FIXED;
    for (uint32_t i = 0; i < count; i++, out.row += PRINT_ROW) {
        store64(out.row, prints[i].low);
        store64(out.row + 8, prints[i].high);
    }
    put_flat(&out, ext->node_id.data, ext->node_id.bytes);
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
    enum umbp_status status = proto_body_open(frame, EXT_FIXED, PRINT_ROW, 0, NULL,
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

bool proto_print_next(struct proto_walk *walk, struct fingerprint *print_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    *print_out = (struct fingerprint){load64(walk->row), load64(walk->row + 8)};
    walk->row += PRINT_ROW;
    return true;
}
