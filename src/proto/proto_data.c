/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bodies of PUT and GET, which carry pieces of memory.
 *
 *   PUT row, 24     bytes 0, depth 8, crc 12, key_bytes 16, flags 18, pieces 20
 *   GET row, 16     bytes 0, ranges 8, key_bytes 12, flags 14
 *   GET reply, 24   bytes 0, crc 8, depth 12, places 16, status 20, tier 22, flags 23
 *   piece, 32       address 0, key 8 and 16, bytes 24
 *   range, 40       offset 0, bytes 8, address 16, key 24 and 32
 *   place, 16       address 0, bytes 8
 */
#include "proto/proto_priv.h"

#define PUT_ROW 24u
#define GET_ROW 16u
#define GOT_ROW 24u

enum {
    PUT_HAS_CRC = 1,
    GET_ANY_SIZE = 1,
    GOT_HAS_PLACES = 1,
    GOT_HAS_CRC = 2,
};

struct proto_piece proto_piece_at(struct proto_rows pieces, uint32_t index)
{
    const uint8_t *at = pieces.at + (size_t)index * PROTO_PIECE_BYTES;
    return (struct proto_piece){load64(at), {load64(at + 8), load64(at + 16)}, load64(at + 24)};
}

void proto_piece_store(uint8_t *at, const struct proto_piece *piece)
{
    store64(at, piece->address);
    store64(at + 8, piece->key.key);
    store64(at + 16, piece->key.base);
    store64(at + 24, piece->bytes);
}

struct proto_range proto_range_at(struct proto_rows ranges, uint32_t index)
{
    const uint8_t *at = ranges.at + (size_t)index * PROTO_RANGE_BYTES;
    return (struct proto_range){
        load64(at), load64(at + 8), load64(at + 16), {load64(at + 24), load64(at + 32)}};
}

struct proto_place proto_place_at(struct proto_rows places, uint32_t index)
{
    const uint8_t *at = places.at + (size_t)index * PROTO_PLACE_BYTES;
    return (struct proto_place){load64(at), load64(at + 8)};
}

/* ------------------------------------------------------------------------------ PUT ------ */

/* Pieces of at least a byte each, that make up the value. */
static bool pieces_add_up(const struct proto_put *item)
{
    uint64_t sum = 0;
    if (item->bytes > UMBP_VALUE_BYTES_MAX || item->piece_count > UMBP_RANGES_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < item->piece_count; i++) {
        struct proto_piece piece = item->pieces ? item->pieces[i] : proto_piece_at(item->rows, i);
        if (!piece.bytes || piece.bytes > item->bytes - sum) {
            return false;
        }
        sum += piece.bytes;
    }
    return sum == item->bytes;
}

enum umbp_status proto_put_encode(struct proto_buffer buffer, struct proto_call call,
                                  const struct proto_put *items, uint32_t count, size_t *bytes_out)
{
    struct proto_out out;
    uint64_t pieces = 0;
    uint64_t flat = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (!key_fits(items[i].key) || (items[i].piece_count && !items[i].pieces) ||
            !pieces_add_up(&items[i])) {
            return UMBP_INVALID_VALUE;
        }
        pieces += items[i].piece_count;
        flat += items[i].key.bytes;
    }
    enum umbp_status status = proto_out_begin(buffer, (uint64_t)count * PUT_ROW,
                                              pieces * PROTO_PIECE_BYTES, flat, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count; i++, out.row += PUT_ROW) {
        store64(out.row, items[i].bytes);
        store32(out.row + 8, items[i].depth);
        store32(out.row + 12, items[i].has_crc ? items[i].crc : 0);
        store16(out.row + 16, (uint16_t)items[i].key.bytes);
        store16(out.row + 18, items[i].has_crc ? PUT_HAS_CRC : 0);
        store32(out.row + 20, items[i].piece_count);
        for (uint32_t p = 0; p < items[i].piece_count; p++, out.sub += PROTO_PIECE_BYTES) {
            proto_piece_store(out.sub, &items[i].pieces[p]);
        }
        put_flat(&out, items[i].key.data, items[i].key.bytes);
    }
    *bytes_out = proto_out_end(&out, call, PROTO_PUT, 0, UMBP_OK, count, 0);
    return UMBP_OK;
}

uint32_t proto_put_fit(const struct proto_put *items, uint32_t count, size_t bytes)
{
    uint64_t sum = PROTO_HEADER_BYTES;
    for (uint32_t i = 0; i < count; i++) {
        sum += PUT_ROW + (uint64_t)items[i].piece_count * PROTO_PIECE_BYTES + items[i].key.bytes;
        if (sum > bytes || i >= UMBP_BATCH_MAX) {
            return i;
        }
    }
    return count;
}

static bool put_measure(const uint8_t *row, struct proto_claim *claim)
{
    claim->subs = load32(row + 20);
    claim->flat = load16(row + 16);
    return key_bytes_fit(load16(row + 16)) && !(load16(row + 18) & ~(unsigned)PUT_HAS_CRC);
}

enum umbp_status proto_put_open(const struct proto_frame *frame, struct proto_walk *walk_out)
{
    struct proto_walk walk;
    struct proto_put item;
    enum umbp_status status = proto_body_open(frame, 0, PUT_ROW, PROTO_PIECE_BYTES, put_measure,
                                              (struct proto_claim){0}, &walk);
    if (status != UMBP_OK) {
        return status;
    }
    for (struct proto_walk check = walk; proto_put_next(&check, &item);) {
        if (!pieces_add_up(&item)) {
            return UMBP_CORRUPT;
        }
    }
    *walk_out = walk;
    return UMBP_OK;
}

bool proto_put_next(struct proto_walk *walk, struct proto_put *item_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    uint32_t pieces = load32(walk->row + 20);
    *item_out = (struct proto_put){
        .key = take_key(walk, load16(walk->row + 16)),
        .bytes = load64(walk->row),
        .depth = load32(walk->row + 8),
        .has_crc = load16(walk->row + 18) & PUT_HAS_CRC,
        .crc = load32(walk->row + 12),
        .rows = take_rows(walk, pieces, PROTO_PIECE_BYTES),
        .piece_count = pieces,
    };
    walk->row += PUT_ROW;
    return true;
}

/* ------------------------------------------------------------------------------ GET ------ */

static void range_store(uint8_t *at, const struct proto_range *range)
{
    store64(at, range->offset);
    store64(at + 8, range->bytes);
    store64(at + 16, range->address);
    store64(at + 24, range->key.key);
    store64(at + 32, range->key.base);
}

/* What can be said without the value: a range ends within the largest one, and within this one if
 * its size is told. */
static bool ranges_are_sane(const struct proto_get *item)
{
    uint64_t limit = item->any_size ? UMBP_VALUE_BYTES_MAX : item->bytes;
    if (limit > UMBP_VALUE_BYTES_MAX || item->range_count > UMBP_RANGES_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < item->range_count; i++) {
        struct proto_range range = item->ranges ? item->ranges[i] : proto_range_at(item->rows, i);
        if (!range.bytes || range.offset > limit || range.bytes > limit - range.offset) {
            return false;
        }
    }
    return true;
}

enum umbp_status proto_get_encode(struct proto_buffer buffer, struct proto_call call,
                                  const struct proto_get *items, uint32_t count, size_t *bytes_out)
{
    struct proto_out out;
    uint64_t ranges = 0;
    uint64_t flat = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (!key_fits(items[i].key) || (items[i].range_count && !items[i].ranges) ||
            !ranges_are_sane(&items[i])) {
            return UMBP_INVALID_VALUE;
        }
        ranges += items[i].range_count;
        flat += items[i].key.bytes;
    }
    enum umbp_status status = proto_out_begin(buffer, (uint64_t)count * GET_ROW,
                                              ranges * PROTO_RANGE_BYTES, flat, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count; i++, out.row += GET_ROW) {
        store64(out.row, items[i].any_size ? 0 : items[i].bytes);
        store32(out.row + 8, items[i].range_count);
        store16(out.row + 12, (uint16_t)items[i].key.bytes);
        store16(out.row + 14, items[i].any_size ? GET_ANY_SIZE : 0);
        for (uint32_t r = 0; r < items[i].range_count; r++, out.sub += PROTO_RANGE_BYTES) {
            range_store(out.sub, &items[i].ranges[r]);
        }
        put_flat(&out, items[i].key.data, items[i].key.bytes);
    }
    *bytes_out = proto_out_end(&out, call, PROTO_GET, 0, UMBP_OK, count, 0);
    return UMBP_OK;
}

uint32_t proto_get_fit(const struct proto_get *items, uint32_t count, size_t bytes)
{
    uint64_t sum = PROTO_HEADER_BYTES;
    for (uint32_t i = 0; i < count; i++) {
        sum += GET_ROW + (uint64_t)items[i].range_count * PROTO_RANGE_BYTES + items[i].key.bytes;
        if (sum > bytes || i >= UMBP_BATCH_MAX) {
            return i;
        }
    }
    return count;
}

static bool get_measure(const uint8_t *row, struct proto_claim *claim)
{
    claim->subs = load32(row + 8);
    claim->flat = load16(row + 12);
    return key_bytes_fit(load16(row + 12)) && !(load16(row + 14) & ~(unsigned)GET_ANY_SIZE);
}

enum umbp_status proto_get_open(const struct proto_frame *frame, struct proto_walk *walk_out)
{
    struct proto_walk walk;
    struct proto_get item;
    enum umbp_status status = proto_body_open(frame, 0, GET_ROW, PROTO_RANGE_BYTES, get_measure,
                                              (struct proto_claim){0}, &walk);
    if (status != UMBP_OK) {
        return status;
    }
    for (struct proto_walk check = walk; proto_get_next(&check, &item);) {
        if (!ranges_are_sane(&item)) {
            return UMBP_CORRUPT;
        }
    }
    *walk_out = walk;
    return UMBP_OK;
}

bool proto_get_next(struct proto_walk *walk, struct proto_get *item_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    uint32_t ranges = load32(walk->row + 8);
    *item_out = (struct proto_get){
        .key = take_key(walk, load16(walk->row + 12)),
        .bytes = load64(walk->row),
        .any_size = load16(walk->row + 14) & GET_ANY_SIZE,
        .rows = take_rows(walk, ranges, PROTO_RANGE_BYTES),
        .range_count = ranges,
    };
    walk->row += GET_ROW;
    return true;
}

/* ----------------------------------------------------------------------- GET's reply ----- */

size_t proto_got_bytes(uint32_t count, uint64_t place_count)
{
    return PROTO_HEADER_BYTES + (size_t)count * GOT_ROW + (size_t)place_count * PROTO_PLACE_BYTES;
}

enum umbp_status proto_got_encode(struct proto_buffer buffer, struct proto_call call,
                                  const struct proto_got *items, uint32_t count, size_t *bytes_out)
{
    struct proto_out out;
    uint64_t places = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (items[i].place_count && (!items[i].places || !items[i].has_places)) {
            return UMBP_INVALID_VALUE;
        }
        places += items[i].place_count;
    }
    enum umbp_status status = proto_out_begin(buffer, (uint64_t)count * GOT_ROW,
                                              places * PROTO_PLACE_BYTES, 0, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count; i++, out.row += GOT_ROW) {
        const struct proto_got *item = &items[i];
        store64(out.row, item->bytes);
        store32(out.row + 8, item->has_crc ? item->crc : 0);
        store32(out.row + 12, item->depth);
        store32(out.row + 16, item->place_count);
        store16(out.row + 20, (uint16_t)item->status);
        out.row[22] = (uint8_t)item->tier;
        out.row[23] =
            (uint8_t)((item->has_places ? GOT_HAS_PLACES : 0) | (item->has_crc ? GOT_HAS_CRC : 0));
        for (uint32_t p = 0; p < item->place_count; p++, out.sub += PROTO_PLACE_BYTES) {
            store64(out.sub, item->places[p].address);
            store64(out.sub + 8, item->places[p].bytes);
        }
    }
    *bytes_out = proto_out_end(&out, call, PROTO_GET, PROTO_FLAG_REPLY, UMBP_OK, count, 0);
    return UMBP_OK;
}

static bool got_measure(const uint8_t *row, struct proto_claim *claim)
{
    claim->subs = load32(row + 16);
    return tier_is_known(row[22]) && !(row[23] & ~(unsigned)(GOT_HAS_PLACES | GOT_HAS_CRC)) &&
           (!claim->subs || row[23] & GOT_HAS_PLACES);
}

enum umbp_status proto_got_open(const struct proto_frame *frame, struct proto_walk *walk_out)
{
    return proto_body_open(frame, 0, GOT_ROW, PROTO_PLACE_BYTES, got_measure,
                           (struct proto_claim){0}, walk_out);
}

bool proto_got_next(struct proto_walk *walk, struct proto_got *item_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    uint32_t places = load32(walk->row + 16);
    *item_out = (struct proto_got){
        .status = load_status(walk->row + 20),
        .tier = (enum proto_tier)walk->row[22],
        .has_places = walk->row[23] & GOT_HAS_PLACES,
        .has_crc = walk->row[23] & GOT_HAS_CRC,
        .crc = load32(walk->row + 8),
        .depth = load32(walk->row + 12),
        .bytes = load64(walk->row),
        .rows = take_rows(walk, places, PROTO_PLACE_BYTES),
        .place_count = places,
    };
    walk->row += GOT_ROW;
    return true;
}
