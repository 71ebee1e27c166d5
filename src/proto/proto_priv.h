/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the proto room: numbers in bytes, and the parts that every body has. */
#ifndef PROTO_PROTO_PRIV_H
#define PROTO_PROTO_PRIV_H

#include <endian.h>
#include <string.h>

#include "proto/proto.h"

static inline uint16_t load16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof(value));
    return le16toh(value);
}

static inline uint32_t load32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof(value));
    return le32toh(value);
}

static inline uint64_t load64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof(value));
    return le64toh(value);
}

static inline void store16(uint8_t *at, uint16_t value)
{
    value = htole16(value);
    memcpy(at, &value, sizeof(value));
}

static inline void store32(uint8_t *at, uint32_t value)
{
    value = htole32(value);
    memcpy(at, &value, sizeof(value));
}

static inline void store64(uint8_t *at, uint64_t value)
{
    value = htole64(value);
    memcpy(at, &value, sizeof(value));
}

/* A status that this build does not know says that it can't be understood. */
static inline enum umbp_status load_status(const uint8_t *at)
{
    uint16_t number = load16(at);
    return number > UMBP_FORKED ? UMBP_UNSUPPORTED : (enum umbp_status)number;
}

static inline bool tier_is_known(uint8_t tier) { return tier <= PROTO_TIER_SSD; }

static inline bool key_fits(struct umbp_key key)
{
    return key.data && key.bytes >= UMBP_KEY_BYTES_MIN && key.bytes <= UMBP_KEY_BYTES_MAX;
}

static inline bool text_fits(struct proto_text text)
{
    return text.bytes <= PROTO_TEXT_MAX && (text.data || !text.bytes);
}

/* ------------------------------------------------------------------------- encoding ------ */

/* Where a body is being written: its parts side by side. */
struct proto_out {
    uint8_t *frame;
    uint8_t *row; /* the fixed part comes first */
    uint8_t *sub;
    uint8_t *flat;
    uint32_t body_bytes;
};

/* Room for a body of these parts; all of its bytes are zeroed but the flat ones. `head_bytes` is
 * the fixed part and all rows. */
MUST_USE enum umbp_status proto_out_begin(struct proto_buffer buffer, uint64_t head_bytes,
                                          uint64_t sub_bytes, uint64_t flat_bytes, uint32_t count,
                                          struct proto_out *out_out);
/* Header and sum. body_bytes and count of `header` are filled in. Returns the frame's size. */
size_t proto_out_end(const struct proto_out *out, struct proto_call call, uint16_t op,
                     uint16_t flags, enum umbp_status status, uint32_t count, uint64_t aux);

static inline void put_flat(struct proto_out *out, const void *data, size_t bytes)
{
    if (bytes) {
        memcpy(out->flat, data, bytes);
        out->flat += bytes;
    }
}

/* ------------------------------------------------------------------------- decoding ------ */

/* What one row claims of the parts behind the rows. */
struct proto_claim {
    uint64_t subs;
    uint64_t flat;
};

/*
 * Check that the body is exactly: `fixed` bytes, header.count rows of `row_bytes`, the sub-rows of
 * `sub_bytes` and the flat bytes that `measure` reads from each row (false: the row is malformed)
 * beyond those that `base` says already.
 */
MUST_USE enum umbp_status
proto_body_open(const struct proto_frame *frame, uint32_t fixed, uint32_t row_bytes,
                uint32_t sub_bytes, bool (*measure)(const uint8_t *row, struct proto_claim *claim),
                struct proto_claim base, struct proto_walk *walk_out);

static inline struct umbp_key take_key(struct proto_walk *walk, uint16_t bytes)
{
    struct umbp_key key = {walk->flat, bytes};
    walk->flat += bytes;
    return key;
}

static inline struct proto_text take_text(struct proto_walk *walk, uint16_t bytes)
{
    struct proto_text text = {(const char *)walk->flat, bytes};
    walk->flat += bytes;
    return text;
}

static inline struct proto_rows take_rows(struct proto_walk *walk, uint32_t count, uint32_t bytes)
{
    struct proto_rows rows = {walk->sub, count};
    walk->sub += (size_t)count * bytes;
    return rows;
}

/* Row codecs that several bodies share. */
#define CAPACITY_BYTES 36u
void proto_piece_store(uint8_t *at, const struct proto_piece *piece);
void proto_capacity_store(uint8_t *at, const struct proto_capacity *capacity);

static inline bool key_bytes_fit(uint16_t bytes)
{
    return bytes >= UMBP_KEY_BYTES_MIN && bytes <= UMBP_KEY_BYTES_MAX;
}

#endif
