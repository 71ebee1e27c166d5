/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The other bodies between clients and nodes.
 *
 *   key row, 2          key_bytes 0
 *   status, 2
 *   number, 8
 *   RESOLVE reply, 16   bytes 0, depth 8, status 12, tiers 14
 *   RESERVE row, 16     bytes 0, depth 8, key_bytes 12
 *   RESERVE reply, 16   slot 0, pieces 8, status 12
 *   COMMIT row, 32      slot 0, bytes 8, key hash 16, crc 24, flags 28
 *   STATS reply, 16     value 0, name_bytes 8, flags 10
 */
#include "proto/proto_priv.h"

#define KEY_ROW 2u
#define STATUS_ROW 2u
#define NUMBER_ROW 8u
#define RESOLVED_ROW 16u
#define RESERVE_ROW 16u
#define SLOT_ROW 16u
#define COMMIT_ROW 32u
#define STAT_ROW 16u

enum {
    COMMIT_HAS_CRC = 1,
    STAT_IS_COUNTER = 1
};

static const struct proto_claim nothing = {0};

/* ----------------------------------------------------------------------------- keys ------ */

enum umbp_status proto_keys_encode(struct proto_buffer buffer, struct proto_call call,
                                   enum proto_op op, uint64_t aux, const struct umbp_key *keys,
                                   uint32_t count, size_t *bytes_out)
{
    struct proto_out out;
    uint64_t flat = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (!key_fits(keys[i])) {
            return UMBP_INVALID_VALUE;
        }
        flat += keys[i].bytes;
    }
    enum umbp_status status =
        proto_out_begin(buffer, (uint64_t)count * KEY_ROW, 0, flat, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count; i++, out.row += KEY_ROW) {
        store16(out.row, (uint16_t)keys[i].bytes);
        put_flat(&out, keys[i].data, keys[i].bytes);
    }
    *bytes_out = proto_out_end(&out, call, (uint16_t)op, 0, UMBP_OK, count, aux);
    return UMBP_OK;
}

static bool keys_measure(const uint8_t *row, struct proto_claim *claim)
{
    claim->flat = load16(row);
    return key_bytes_fit(load16(row));
}

enum umbp_status proto_keys_open(const struct proto_frame *frame, struct proto_walk *walk_out)
{
    return proto_body_open(frame, 0, KEY_ROW, 0, keys_measure, nothing, walk_out);
}

bool proto_keys_next(struct proto_walk *walk, struct umbp_key *key_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    *key_out = take_key(walk, load16(walk->row));
    walk->row += KEY_ROW;
    return true;
}

/* ------------------------------------------------------------------ statuses, numbers ---- */

enum umbp_status proto_statuses_encode(struct proto_buffer buffer, struct proto_call call,
                                       enum proto_op op, const enum umbp_status *statuses,
                                       uint32_t count, size_t *bytes_out)
{
    struct proto_out out;
    enum umbp_status status =
        proto_out_begin(buffer, (uint64_t)count * STATUS_ROW, 0, 0, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count; i++, out.row += STATUS_ROW) {
        store16(out.row, (uint16_t)statuses[i]);
    }
    *bytes_out = proto_out_end(&out, call, (uint16_t)op, PROTO_FLAG_REPLY, UMBP_OK, count, 0);
    return UMBP_OK;
}

enum umbp_status proto_statuses_open(const struct proto_frame *frame, struct proto_walk *walk_out)
{
    return proto_body_open(frame, 0, STATUS_ROW, 0, NULL, nothing, walk_out);
}

bool proto_statuses_next(struct proto_walk *walk, enum umbp_status *status_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    *status_out = load_status(walk->row);
    walk->row += STATUS_ROW;
    return true;
}

enum umbp_status proto_numbers_encode(struct proto_buffer buffer, struct proto_call call,
                                      enum proto_op op, uint16_t flags, const uint64_t *numbers,
                                      uint32_t count, size_t *bytes_out)
{
    struct proto_out out;
    enum umbp_status status =
        proto_out_begin(buffer, (uint64_t)count * NUMBER_ROW, 0, 0, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count; i++, out.row += NUMBER_ROW) {
        store64(out.row, numbers[i]);
    }
    *bytes_out = proto_out_end(&out, call, (uint16_t)op, flags, UMBP_OK, count, 0);
    return UMBP_OK;
}

enum umbp_status proto_numbers_open(const struct proto_frame *frame, struct proto_walk *walk_out)
{
    return proto_body_open(frame, 0, NUMBER_ROW, 0, NULL, nothing, walk_out);
}

bool proto_numbers_next(struct proto_walk *walk, uint64_t *number_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    *number_out = load64(walk->row);
    walk->row += NUMBER_ROW;
    return true;
}

/* -------------------------------------------------------------------------- RESOLVE ------ */

enum umbp_status proto_resolved_encode(struct proto_buffer buffer, struct proto_call call,
                                       const struct proto_resolved *items, uint32_t count,
                                       size_t *bytes_out)
{
    struct proto_out out;
    enum umbp_status status =
        proto_out_begin(buffer, (uint64_t)count * RESOLVED_ROW, 0, 0, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count; i++, out.row += RESOLVED_ROW) {
        store64(out.row, items[i].bytes);
        store32(out.row + 8, items[i].depth);
        store16(out.row + 12, (uint16_t)items[i].status);
        out.row[14] = items[i].tiers;
    }
    *bytes_out = proto_out_end(&out, call, PROTO_RESOLVE, PROTO_FLAG_REPLY, UMBP_OK, count, 0);
    return UMBP_OK;
}

static bool resolved_measure(const uint8_t *row, struct proto_claim *claim)
{
    (void)claim;
    return !row[15];
}

enum umbp_status proto_resolved_open(const struct proto_frame *frame, struct proto_walk *walk_out)
{
    return proto_body_open(frame, 0, RESOLVED_ROW, 0, resolved_measure, nothing, walk_out);
}

bool proto_resolved_next(struct proto_walk *walk, struct proto_resolved *item_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    *item_out = (struct proto_resolved){
        .status = load_status(walk->row + 12),
        .tiers = walk->row[14],
        .depth = load32(walk->row + 8),
        .bytes = load64(walk->row),
    };
    walk->row += RESOLVED_ROW;
    return true;
}

/* --------------------------------------------------------------- RESERVE and COMMIT ------ */

enum umbp_status proto_reserve_encode(struct proto_buffer buffer, struct proto_call call,
                                      uint64_t lifetime_ms, const struct proto_reserve *items,
                                      uint32_t count, size_t *bytes_out)
{
    struct proto_out out;
    uint64_t flat = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (!key_fits(items[i].key)) {
            return UMBP_INVALID_VALUE;
        }
        flat += items[i].key.bytes;
    }
    enum umbp_status status =
        proto_out_begin(buffer, (uint64_t)count * RESERVE_ROW, 0, flat, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count; i++, out.row += RESERVE_ROW) {
        store64(out.row, items[i].bytes);
        store32(out.row + 8, items[i].depth);
        store16(out.row + 12, (uint16_t)items[i].key.bytes);
        put_flat(&out, items[i].key.data, items[i].key.bytes);
    }
    *bytes_out = proto_out_end(&out, call, PROTO_RESERVE, 0, UMBP_OK, count, lifetime_ms);
    return UMBP_OK;
}

static bool reserve_measure(const uint8_t *row, struct proto_claim *claim)
{
    claim->flat = load16(row + 12);
    return key_bytes_fit(load16(row + 12)) && !load16(row + 14);
}

enum umbp_status proto_reserve_open(const struct proto_frame *frame, struct proto_walk *walk_out)
{
    return proto_body_open(frame, 0, RESERVE_ROW, 0, reserve_measure, nothing, walk_out);
}

bool proto_reserve_next(struct proto_walk *walk, struct proto_reserve *item_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    *item_out = (struct proto_reserve){
        .key = take_key(walk, load16(walk->row + 12)),
        .bytes = load64(walk->row),
        .depth = load32(walk->row + 8),
    };
    walk->row += RESERVE_ROW;
    return true;
}

enum umbp_status proto_slots_encode(struct proto_buffer buffer, struct proto_call call,
                                    uint64_t lifetime_ms, const struct proto_slot *items,
                                    uint32_t count, size_t *bytes_out)
{
    struct proto_out out;
    uint64_t pieces = 0;

    for (uint32_t i = 0; i < count; i++) {
        pieces += items[i].piece_count;
    }
    enum umbp_status status = proto_out_begin(buffer, (uint64_t)count * SLOT_ROW,
                                              pieces * PROTO_PIECE_BYTES, 0, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count; i++, out.row += SLOT_ROW) {
        store64(out.row, items[i].slot);
        store32(out.row + 8, items[i].piece_count);
        store16(out.row + 12, (uint16_t)items[i].status);
        for (uint32_t p = 0; p < items[i].piece_count; p++, out.sub += PROTO_PIECE_BYTES) {
            proto_piece_store(out.sub, &items[i].pieces[p]);
        }
    }
    *bytes_out =
        proto_out_end(&out, call, PROTO_RESERVE, PROTO_FLAG_REPLY, UMBP_OK, count, lifetime_ms);
    return UMBP_OK;
}

static bool slot_measure(const uint8_t *row, struct proto_claim *claim)
{
    claim->subs = load32(row + 8);
    return !load16(row + 14);
}

enum umbp_status proto_slots_open(const struct proto_frame *frame, struct proto_walk *walk_out)
{
    return proto_body_open(frame, 0, SLOT_ROW, PROTO_PIECE_BYTES, slot_measure, nothing, walk_out);
}

bool proto_slots_next(struct proto_walk *walk, struct proto_slot *item_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    uint32_t pieces = load32(walk->row + 8);
    *item_out = (struct proto_slot){
        .status = load_status(walk->row + 12),
        .slot = load64(walk->row),
        .rows = take_rows(walk, pieces, PROTO_PIECE_BYTES),
        .piece_count = pieces,
    };
    walk->row += SLOT_ROW;
    return true;
}

enum umbp_status proto_commit_encode(struct proto_buffer buffer, struct proto_call call,
                                     const struct proto_commit *items, uint32_t count,
                                     size_t *bytes_out)
{
    struct proto_out out;
    enum umbp_status status =
        proto_out_begin(buffer, (uint64_t)count * COMMIT_ROW, 0, 0, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count; i++, out.row += COMMIT_ROW) {
        store64(out.row, items[i].slot);
        store64(out.row + 8, items[i].bytes);
        store64(out.row + 16, items[i].key_hash);
        store32(out.row + 24, items[i].has_crc ? items[i].crc : 0);
        store32(out.row + 28, items[i].has_crc ? COMMIT_HAS_CRC : 0);
    }
    *bytes_out = proto_out_end(&out, call, PROTO_COMMIT, 0, UMBP_OK, count, 0);
    return UMBP_OK;
}

static bool commit_measure(const uint8_t *row, struct proto_claim *claim)
{
    (void)claim;
    return !(load32(row + 28) & ~(unsigned)COMMIT_HAS_CRC);
}

enum umbp_status proto_commit_open(const struct proto_frame *frame, struct proto_walk *walk_out)
{
    return proto_body_open(frame, 0, COMMIT_ROW, 0, commit_measure, nothing, walk_out);
}

bool proto_commit_next(struct proto_walk *walk, struct proto_commit *item_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    *item_out = (struct proto_commit){
        .slot = load64(walk->row),
        .bytes = load64(walk->row + 8),
        .key_hash = load64(walk->row + 16),
        .has_crc = load32(walk->row + 28) & COMMIT_HAS_CRC,
        .crc = load32(walk->row + 24),
    };
    walk->row += COMMIT_ROW;
    return true;
}

/* ---------------------------------------------------------------------------- STATS ------ */

enum umbp_status proto_stats_encode(struct proto_buffer buffer, struct proto_call call,
                                    const struct proto_stat *items, uint32_t count,
                                    size_t *bytes_out)
{
    struct proto_out out;
    uint64_t flat = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (!text_fits(items[i].name)) {
            return UMBP_INVALID_VALUE;
        }
        flat += items[i].name.bytes;
    }
    enum umbp_status status =
        proto_out_begin(buffer, (uint64_t)count * STAT_ROW, 0, flat, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count; i++, out.row += STAT_ROW) {
        store64(out.row, items[i].value);
        store16(out.row + 8, items[i].name.bytes);
        store16(out.row + 10, items[i].is_counter ? STAT_IS_COUNTER : 0);
        put_flat(&out, items[i].name.data, items[i].name.bytes);
    }
    *bytes_out = proto_out_end(&out, call, PROTO_STATS, PROTO_FLAG_REPLY, UMBP_OK, count, 0);
    return UMBP_OK;
}

static bool stat_measure(const uint8_t *row, struct proto_claim *claim)
{
    claim->flat = load16(row + 8);
    return claim->flat <= PROTO_TEXT_MAX && !(load16(row + 10) & ~(unsigned)STAT_IS_COUNTER) &&
           !load32(row + 12);
}

enum umbp_status proto_stats_open(const struct proto_frame *frame, struct proto_walk *walk_out)
{
    return proto_body_open(frame, 0, STAT_ROW, 0, stat_measure, nothing, walk_out);
}

bool proto_stats_next(struct proto_walk *walk, struct proto_stat *item_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    *item_out = (struct proto_stat){
        .name = take_text(walk, load16(walk->row + 8)),
        .value = load64(walk->row),
        .is_counter = load16(walk->row + 10) & STAT_IS_COUNTER,
    };
    walk->row += STAT_ROW;
    return true;
}
