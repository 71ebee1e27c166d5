/* SPDX-License-Identifier: Apache-2.0 */
/* The header, and what every body is checked by. */
#include "proto/proto_priv.h"

enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_OP = 6,
    AT_FLAGS = 8,
    AT_STATUS = 10,
    AT_COUNT = 12,
    AT_REQUEST_ID = 16,
    AT_BODY_BYTES = 24,
    AT_TIME_LEFT = 28,
    AT_AUX = 32,
    AT_ZERO = 40,
    AT_CRC = 44,
};
_Static_assert(AT_CRC + sizeof(uint32_t) == PROTO_HEADER_BYTES, "the header ends with its sum");

#define KNOWN_FLAGS (PROTO_FLAG_REPLY | PROTO_FLAG_ONE_WAY)

const char *proto_op_name(uint16_t op)
{
    static const struct {
        uint16_t op;
        const char *name;
    } names[] = {
        {PROTO_HELLO, "HELLO"},
        {PROTO_BEAT, "BEAT"},
        {PROTO_GOODBYE, "GOODBYE"},
        {PROTO_PUT, "PUT"},
        {PROTO_GET, "GET"},
        {PROTO_RELEASE, "RELEASE"},
        {PROTO_EXISTS, "EXISTS"},
        {PROTO_REMOVE, "REMOVE"},
        {PROTO_RESOLVE, "RESOLVE"},
        {PROTO_RESERVE, "RESERVE"},
        {PROTO_COMMIT, "COMMIT"},
        {PROTO_ABORT, "ABORT"},
        {PROTO_CLEAR, "CLEAR"},
        {PROTO_EVICT, "EVICT"},
        {PROTO_STATS, "STATS"},
        {PROTO_REGISTER, "REGISTER"},
        {PROTO_HEARTBEAT, "HEARTBEAT"},
        {PROTO_SYNC, "SYNC"},
        {PROTO_UNREGISTER, "UNREGISTER"},
        {PROTO_ROUTE_PUT, "ROUTE_PUT"},
        {PROTO_ROUTE_GET, "ROUTE_GET"},
        {PROTO_LOOKUP, "LOOKUP"},
        {PROTO_NODES, "NODES"},
        {PROTO_EXT_REPORT, "EXT_REPORT"},
        {PROTO_EXT_REVOKE, "EXT_REVOKE"},
        {PROTO_EXT_REVOKE_ALL, "EXT_REVOKE_ALL"},
        {PROTO_EXT_MATCH, "EXT_MATCH"},
        {PROTO_EXT_HITS, "EXT_HITS"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (names[i].op == op) {
            return names[i].name;
        }
    }
    return "?";
}

static uint32_t frame_sum(const uint8_t *frame, uint32_t body_bytes)
{
    uint32_t crc = crc32c(0, frame, AT_CRC);
    return crc32c(crc, frame + PROTO_HEADER_BYTES, body_bytes);
}

enum umbp_status proto_frame_open(const void *data, size_t bytes, struct proto_frame *frame_out)
{
    const uint8_t *at = data;

    if (bytes < PROTO_HEADER_BYTES || load32(at + AT_MAGIC) != PROTO_MAGIC) {
        return UMBP_CORRUPT;
    }
    struct proto_header header = {
        .version = load16(at + AT_VERSION),
        .op = load16(at + AT_OP),
        .flags = load16(at + AT_FLAGS),
        .status = load_status(at + AT_STATUS),
        .count = load32(at + AT_COUNT),
        .request_id = load64(at + AT_REQUEST_ID),
        .body_bytes = load32(at + AT_BODY_BYTES),
        .time_left_ms = load32(at + AT_TIME_LEFT),
        .aux = load64(at + AT_AUX),
    };
    if (header.version < PROTO_VERSION_LOWEST || header.version > PROTO_VERSION) {
        return UMBP_VERSION;
    }
    if (bytes > PROTO_FRAME_MAX) {
        return UMBP_LIMIT;
    }
    if (header.body_bytes != bytes - PROTO_HEADER_BYTES ||
        load32(at + AT_CRC) != frame_sum(at, header.body_bytes)) {
        return UMBP_CORRUPT;
    }
    if (header.flags & ~(unsigned)KNOWN_FLAGS || load32(at + AT_ZERO)) {
        return UMBP_CORRUPT;
    }
    if (header.count > UMBP_BATCH_MAX) {
        return UMBP_LIMIT;
    }
    frame_out->header = header;
    frame_out->body = at + PROTO_HEADER_BYTES;
    return UMBP_OK;
}

enum umbp_status proto_version_agree(uint16_t low_a, uint16_t high_a, uint16_t low_b,
                                     uint16_t high_b, uint16_t *version_out)
{
    uint16_t low = low_a > low_b ? low_a : low_b;
    uint16_t high = high_a < high_b ? high_a : high_b;
    if (low_a > high_a || low_b > high_b || low > high) {
        return UMBP_VERSION;
    }
    *version_out = high;
    return UMBP_OK;
}

/* ------------------------------------------------------------------------- encoding ------ */

enum umbp_status proto_out_begin(struct proto_buffer buffer, uint64_t head_bytes,
                                 uint64_t sub_bytes, uint64_t flat_bytes, uint32_t count,
                                 struct proto_out *out_out)
{
    size_t room = size_min(buffer.bytes, PROTO_FRAME_MAX);

    if (count > UMBP_BATCH_MAX || room < PROTO_HEADER_BYTES) {
        return UMBP_LIMIT;
    }
    room -= PROTO_HEADER_BYTES;
    if (head_bytes > room || sub_bytes > room || flat_bytes > room ||
        head_bytes + sub_bytes + flat_bytes > room) {
        return UMBP_LIMIT;
    }
    out_out->frame = buffer.data;
    out_out->row = out_out->frame + PROTO_HEADER_BYTES;
    out_out->sub = out_out->row + head_bytes;
    out_out->flat = out_out->sub + sub_bytes;
    out_out->body_bytes = (uint32_t)(head_bytes + sub_bytes + flat_bytes);
    memset(out_out->frame, 0, PROTO_HEADER_BYTES + (size_t)(head_bytes + sub_bytes));
    return UMBP_OK;
}

size_t proto_out_end(const struct proto_out *out, struct proto_call call, uint16_t op,
                     uint16_t flags, enum umbp_status status, uint32_t count, uint64_t aux)
{
    uint8_t *at = out->frame;
    store32(at + AT_MAGIC, PROTO_MAGIC);
    store16(at + AT_VERSION, call.version ? call.version : (uint16_t)PROTO_VERSION);
    store16(at + AT_OP, op);
    store16(at + AT_FLAGS, flags);
    store16(at + AT_STATUS, (uint16_t)status);
    store32(at + AT_COUNT, count);
    store64(at + AT_REQUEST_ID, call.request_id);
    store32(at + AT_BODY_BYTES, out->body_bytes);
    store32(at + AT_TIME_LEFT, call.time_left_ms);
    store64(at + AT_AUX, aux);
    store32(at + AT_CRC, frame_sum(at, out->body_bytes));
    return PROTO_HEADER_BYTES + (size_t)out->body_bytes;
}

enum umbp_status proto_bare_encode(struct proto_buffer buffer, struct proto_call call,
                                   enum proto_op op, uint16_t flags, enum umbp_status status,
                                   uint64_t aux, size_t *bytes_out)
{
    struct proto_out out;
    enum umbp_status made = proto_out_begin(buffer, 0, 0, 0, 0, &out);
    if (made == UMBP_OK) {
        *bytes_out = proto_out_end(&out, call, (uint16_t)op, flags, status, 0, aux);
    }
    return made;
}

/* ------------------------------------------------------------------------- decoding ------ */

enum umbp_status proto_body_open(const struct proto_frame *frame, uint32_t fixed,
                                 uint32_t row_bytes, uint32_t sub_bytes,
                                 bool (*measure)(const uint8_t *row, struct proto_claim *claim),
                                 struct proto_claim base, struct proto_walk *walk_out)
{
    const struct proto_header *header = &frame->header;
    uint64_t rows_bytes = (uint64_t)header->count * row_bytes;
    struct proto_claim sum = base;

    if (fixed + rows_bytes > header->body_bytes) {
        return UMBP_CORRUPT;
    }
    /* At most 65,536 rows that claim less than 2^33 each: no sum overflows. */
    for (uint32_t i = 0; measure && i < header->count; i++) {
        struct proto_claim claim = {0};
        if (!measure(frame->body + fixed + (size_t)i * row_bytes, &claim)) {
            return UMBP_CORRUPT;
        }
        sum.subs += claim.subs;
        sum.flat += claim.flat;
    }
    if (fixed + rows_bytes + sum.subs * sub_bytes + sum.flat != header->body_bytes) {
        return UMBP_CORRUPT;
    }
    walk_out->row = frame->body + fixed;
    walk_out->sub = walk_out->row + rows_bytes;
    walk_out->flat = walk_out->sub + sum.subs * sub_bytes;
    walk_out->left = header->count;
    walk_out->row_bytes = row_bytes;
    return UMBP_OK;
}
