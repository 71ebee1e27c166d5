/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tests and the fuzz target of the frames share: one sample of every body, and a walk over any
 * frame that touches every byte which a decoder hands out.
 */
#ifndef TEST_PROTO_SUPPORT_H
#define TEST_PROTO_SUPPORT_H

#include <stdlib.h>
#include <string.h>

#include "proto/proto.h"

#define MAYBE_UNUSED __attribute__((unused))

/* ------------------------------------------------------------------------------ walk ----- */

struct proto_sum {
    uint64_t items;
    uint64_t sum; /* of whatever was handed out */
};

static inline void sum_bytes(struct proto_sum *sum, const void *data, size_t bytes)
{
    const uint8_t *at = data;
    for (size_t i = 0; i < bytes; i++) {
        sum->sum = sum->sum * 31 + at[i];
    }
}

static inline void sum_number(struct proto_sum *sum, uint64_t number)
{
    sum->sum = sum->sum * 31 + number;
}

static inline void sum_text(struct proto_sum *sum, struct proto_text text)
{
    sum_bytes(sum, text.data, text.bytes);
}

static inline void sum_capacities(struct proto_sum *sum, struct proto_rows rows)
{
    for (uint32_t i = 0; i < rows.count; i++) {
        struct proto_capacity capacity = proto_capacity_at(rows, i);
        sum_number(sum, capacity.total_bytes + capacity.used_bytes + capacity.evictable_bytes +
                            capacity.largest_bytes + (uint64_t)capacity.tier);
    }
}

static inline enum umbp_status walk_keys(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_walk walk;
    struct umbp_key key;
    enum umbp_status status = proto_keys_open(frame, &walk);
    for (; status == UMBP_OK && proto_keys_next(&walk, &key); sum->items++) {
        sum_bytes(sum, key.data, key.bytes);
    }
    return status;
}

static inline enum umbp_status walk_statuses(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_walk walk;
    enum umbp_status item;
    enum umbp_status status = proto_statuses_open(frame, &walk);
    for (; status == UMBP_OK && proto_statuses_next(&walk, &item); sum->items++) {
        sum_number(sum, (uint64_t)item);
    }
    return status;
}

static inline enum umbp_status walk_numbers(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_walk walk;
    uint64_t item;
    enum umbp_status status = proto_numbers_open(frame, &walk);
    for (; status == UMBP_OK && proto_numbers_next(&walk, &item); sum->items++) {
        sum_number(sum, item);
    }
    return status;
}

static inline enum umbp_status walk_put(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_walk walk;
    struct proto_put item;
    enum umbp_status status = proto_put_open(frame, &walk);
    for (; status == UMBP_OK && proto_put_next(&walk, &item); sum->items++) {
        sum_bytes(sum, item.key.data, item.key.bytes);
        sum_number(sum, item.bytes + item.depth + item.crc + item.has_crc);
        for (uint32_t i = 0; i < item.piece_count; i++) {
            struct proto_piece piece = proto_piece_at(item.rows, i);
            sum_number(sum, piece.address + piece.key.key + piece.key.base + piece.bytes);
        }
    }
    return status;
}

static inline enum umbp_status walk_get(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_walk walk;
    struct proto_get item;
    enum umbp_status status = proto_get_open(frame, &walk);
    for (; status == UMBP_OK && proto_get_next(&walk, &item); sum->items++) {
        sum_bytes(sum, item.key.data, item.key.bytes);
        sum_number(sum, item.bytes + item.any_size);
        for (uint32_t i = 0; i < item.range_count; i++) {
            struct proto_range range = proto_range_at(item.rows, i);
            sum_number(sum,
                       range.address + range.key.key + range.key.base + range.bytes + range.offset);
        }
    }
    return status;
}

static inline enum umbp_status walk_got(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_walk walk;
    struct proto_got item;
    enum umbp_status status = proto_got_open(frame, &walk);
    for (; status == UMBP_OK && proto_got_next(&walk, &item); sum->items++) {
        sum_number(sum, item.bytes + item.crc + item.depth + (uint64_t)item.status);
        sum_number(sum, (uint64_t)item.tier + item.has_crc + item.has_places);
        for (uint32_t i = 0; i < item.place_count; i++) {
            struct proto_place place = proto_place_at(item.rows, i);
            sum_number(sum, place.address + place.bytes);
        }
    }
    return status;
}

static inline enum umbp_status walk_resolved(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_walk walk;
    struct proto_resolved item;
    enum umbp_status status = proto_resolved_open(frame, &walk);
    for (; status == UMBP_OK && proto_resolved_next(&walk, &item); sum->items++) {
        sum_number(sum, item.bytes + item.depth + item.tiers + (uint64_t)item.status);
    }
    return status;
}

static inline enum umbp_status walk_reserve(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_walk walk;
    struct proto_reserve item;
    enum umbp_status status = proto_reserve_open(frame, &walk);
    for (; status == UMBP_OK && proto_reserve_next(&walk, &item); sum->items++) {
        sum_bytes(sum, item.key.data, item.key.bytes);
        sum_number(sum, item.bytes + item.depth);
    }
    return status;
}

static inline enum umbp_status walk_slots(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_walk walk;
    struct proto_slot item;
    enum umbp_status status = proto_slots_open(frame, &walk);
    for (; status == UMBP_OK && proto_slots_next(&walk, &item); sum->items++) {
        sum_number(sum, item.slot + (uint64_t)item.status);
        for (uint32_t i = 0; i < item.piece_count; i++) {
            struct proto_piece piece = proto_piece_at(item.rows, i);
            sum_number(sum, piece.address + piece.key.key + piece.key.base + piece.bytes);
        }
    }
    return status;
}

static inline enum umbp_status walk_commit(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_walk walk;
    struct proto_commit item;
    enum umbp_status status = proto_commit_open(frame, &walk);
    for (; status == UMBP_OK && proto_commit_next(&walk, &item); sum->items++) {
        sum_number(sum, item.slot + item.bytes + item.key_hash + item.crc + item.has_crc);
    }
    return status;
}

static inline enum umbp_status walk_stats(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_walk walk;
    struct proto_stat item;
    enum umbp_status status = proto_stats_open(frame, &walk);
    for (; status == UMBP_OK && proto_stats_next(&walk, &item); sum->items++) {
        sum_text(sum, item.name);
        sum_number(sum, item.value + item.is_counter);
    }
    return status;
}

static inline enum umbp_status walk_register(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_register node;
    enum umbp_status status = proto_register_decode(frame, &node);
    if (status == UMBP_OK) {
        sum_text(sum, node.id);
        sum_text(sum, node.address);
        sum_text(sum, node.node_address);
        sum_text(sum, node.peer_address);
        sum_number(sum, node.incarnation);
        sum_capacities(sum, node.capacity_rows);
        for (uint32_t i = 0; i < node.tag_count; i++) {
            sum_text(sum, proto_tag_at(node.tag_rows, node.tag_flat, i));
        }
        sum->items++;
    }
    return status;
}

static inline enum umbp_status walk_session(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_session session;
    enum umbp_status status = proto_session_decode(frame, &session);
    if (status == UMBP_OK) {
        sum_number(sum, session.master_incarnation + session.acked_sequence + session.sync_id +
                            session.next_chunk + session.flags + session.node_index +
                            session.heartbeat_ms);
        sum->items++;
    }
    return status;
}

static inline enum umbp_status walk_beat(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_beat beat;
    struct proto_walk walk;
    struct proto_event item;
    enum umbp_status status = proto_beat_open(frame, &beat, &walk);
    if (status == UMBP_OK) {
        sum_capacities(sum, beat.capacity_rows);
        sum_number(sum, beat.incarnation + beat.sequence + beat.sync_id + beat.chunk);
    }
    for (; status == UMBP_OK && proto_event_next(&walk, &item); sum->items++) {
        sum_bytes(sum, item.key.data, item.key.bytes);
        sum_number(sum, item.print.low + item.print.high + item.bytes + item.depth + item.is_add);
    }
    return status;
}

static inline enum umbp_status walk_ask(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_ask ask;
    struct proto_walk walk;
    struct proto_want item;
    enum umbp_status status = proto_ask_open(frame, &ask, &walk);
    for (uint32_t i = 0; status == UMBP_OK && i < ask.exclude_count; i++) {
        sum_number(sum, proto_exclude_at(ask.exclude_rows, i));
    }
    for (; status == UMBP_OK && proto_want_next(&walk, &item); sum->items++) {
        sum_number(sum, item.print.low + item.print.high + item.bytes);
    }
    return status;
}

static inline enum umbp_status walk_routes(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_members members;
    struct proto_walk walk;
    struct proto_route item;
    struct proto_node node;
    enum umbp_status status = proto_routes_open(frame, &members, &walk);
    if (status != UMBP_OK) {
        return status;
    }
    for (; proto_route_next(&walk, &item); sum->items++) {
        sum_number(sum, item.bytes + item.node_index + item.replicas + (uint64_t)item.status +
                            (uint64_t)item.tier);
    }
    for (struct proto_walk nodes = members.walk; proto_node_next(&nodes, &node); sum->items++) {
        sum_text(sum, node.id);
        sum_text(sum, node.address);
        sum_text(sum, node.peer_address);
        sum_number(sum, node.index + node.incarnation);
        sum_capacities(sum, node.capacity_rows);
    }
    return UMBP_OK;
}

static inline enum umbp_status walk_ext(const struct proto_frame *frame, struct proto_sum *sum)
{
    struct proto_ext ext;
    struct proto_walk walk;
    struct fingerprint print;
    enum umbp_status status = proto_ext_open(frame, &ext, &walk);
    if (status == UMBP_OK) {
        sum_text(sum, ext.node_id);
        sum_number(sum, (uint64_t)ext.tier + ext.count_as_hit);
    }
    for (; status == UMBP_OK && proto_print_next(&walk, &print); sum->items++) {
        sum_number(sum, print.low + print.high);
    }
    return status;
}

static inline enum umbp_status walk_found(const struct proto_frame *frame, struct proto_sum *sum)
{
    const uint8_t *tiers;
    enum umbp_status status = proto_found_open(frame, &tiers);
    if (status == UMBP_OK) {
        sum_bytes(sum, tiers, frame->header.count);
        sum->items += frame->header.count;
    }
    return status;
}

/* Decode the body by the op; ops without one are UMBP_OK. */
MAYBE_UNUSED static enum umbp_status proto_walk_any(const struct proto_frame *frame,
                                                    struct proto_sum *sum)
{
    bool reply = frame->header.flags & PROTO_FLAG_REPLY;
    if (reply && !frame->header.body_bytes) {
        return UMBP_OK;
    }
    switch (frame->header.op) {
    case PROTO_PUT:
        return reply ? walk_statuses(frame, sum) : walk_put(frame, sum);
    case PROTO_GET:
        return reply ? walk_got(frame, sum) : walk_get(frame, sum);
    case PROTO_EXISTS:
    case PROTO_REMOVE:
        return reply ? walk_statuses(frame, sum) : walk_keys(frame, sum);
    case PROTO_RESOLVE:
        return reply ? walk_resolved(frame, sum) : walk_keys(frame, sum);
    case PROTO_RESERVE:
        return reply ? walk_slots(frame, sum) : walk_reserve(frame, sum);
    case PROTO_COMMIT:
        return reply ? walk_statuses(frame, sum) : walk_commit(frame, sum);
    case PROTO_ABORT:
        return reply ? walk_statuses(frame, sum) : walk_numbers(frame, sum);
    case PROTO_RELEASE:
        return walk_numbers(frame, sum);
    case PROTO_EVICT:
        return walk_keys(frame, sum);
    case PROTO_STATS:
        return reply ? walk_stats(frame, sum) : UMBP_OK;
    case PROTO_REGISTER:
        return reply ? walk_session(frame, sum) : walk_register(frame, sum);
    case PROTO_HEARTBEAT:
    case PROTO_SYNC:
        return reply ? walk_session(frame, sum) : walk_beat(frame, sum);
    case PROTO_ROUTE_PUT:
    case PROTO_ROUTE_GET:
        return reply ? walk_routes(frame, sum) : walk_ask(frame, sum);
    case PROTO_LOOKUP:
        return reply ? walk_found(frame, sum) : walk_ask(frame, sum);
    case PROTO_NODES:
        return reply ? walk_routes(frame, sum) : walk_numbers(frame, sum);
    case PROTO_EXT_REPORT:
    case PROTO_EXT_REVOKE:
    case PROTO_EXT_REVOKE_ALL:
        return walk_ext(frame, sum);
    case PROTO_EXT_MATCH:
        return reply ? walk_routes(frame, sum) : walk_ext(frame, sum);
    case PROTO_EXT_HITS:
        return reply ? walk_numbers(frame, sum) : walk_ext(frame, sum);
    default:
        return UMBP_OK;
    }
}

/* ---------------------------------------------------------------------------- samples ---- */

static const struct umbp_key sample_keys[] = {{"alpha", 5}, {"b", 1}, {"0123456789abcdef", 16}};
static const struct proto_piece sample_pieces[] = {{0x7f0011223344, {0xa1, 0xb1}, 4096},
                                                   {0x7f0055667788, {0xa1, 0xb1}, 904},
                                                   {0x7f0099aabbcc, {0xb2, 0}, 70000}};
static const struct proto_capacity sample_capacities[] = {
    {PROTO_TIER_DRAM, 1u << 30, 12345678, 1000, 1u << 29},
    {PROTO_TIER_SSD, 1ull << 40, 87654321, 0, 0}};

#define SAMPLE_CALL ((struct proto_call){.request_id = 0x1122334455667788, .time_left_ms = 2500})
#define SAMPLE_REPLY ((struct proto_call){.request_id = 0x1122334455667788})

static inline enum umbp_status sample_data(unsigned which, struct proto_buffer buffer, size_t *out)
{
    const struct proto_put puts[] = {
        {sample_keys[0], 5000, 3, true, 0xe3069283, sample_pieces, {0}, 2},
        {sample_keys[2], 70000, UMBP_DEPTH_NONE, false, 0, sample_pieces + 2, {0}, 1},
        {sample_keys[1], 0, 0, false, 0, NULL, {0}, 0},
    };
    const struct proto_range ranges[] = {{0, 4096, 0x7f0011223344, {0xa1, 0xb1}},
                                         {4096, 904, 0x7f0055667788, {0xa2, 0xb2}}};
    const struct proto_get gets[] = {{sample_keys[0], 5000, false, ranges, {0}, 2},
                                     {sample_keys[1], 0, true, NULL, {0}, 0}};
    const struct proto_place places[] = {{0x7f1000000000, 4096}, {0x7f1000010000, 904}};
    const struct proto_got gots[] = {
        {UMBP_OK, PROTO_TIER_DRAM, true, true, 0xe3069283, 3, 5000, places, {0}, 2},
        {UMBP_NOT_FOUND, PROTO_TIER_NONE, false, false, 0, 0, 0, NULL, {0}, 0}};
    const enum umbp_status statuses[] = {UMBP_OK, UMBP_ALREADY_EXISTS, UMBP_NO_SPACE};
    const uint64_t numbers[] = {7, UINT64_MAX, 0x0102030405060708};
    switch (which) {
    case 0:
        return proto_put_encode(buffer, SAMPLE_CALL, puts, 3, out);
    case 1:
        return proto_statuses_encode(buffer, SAMPLE_REPLY, PROTO_PUT, statuses, 3, out);
    case 2:
        return proto_get_encode(buffer, SAMPLE_CALL, gets, 2, out);
    case 3:
        return proto_got_encode(buffer, SAMPLE_REPLY, gots, 2, out);
    case 4:
        return proto_numbers_encode(buffer, SAMPLE_REPLY, PROTO_RELEASE, PROTO_FLAG_ONE_WAY,
                                    numbers, 3, out);
    case 5:
        return proto_keys_encode(buffer, SAMPLE_CALL, PROTO_EXISTS, 0, sample_keys, 3, out);
    default:
        return proto_keys_encode(buffer, SAMPLE_CALL, PROTO_EVICT, 1u << 20, sample_keys, 1, out);
    }
}

static inline enum umbp_status sample_slots(unsigned which, struct proto_buffer buffer, size_t *out)
{
    const struct proto_resolved resolved[] = {
        {UMBP_OK, PROTO_TIER_BIT(PROTO_TIER_DRAM) | PROTO_TIER_BIT(PROTO_TIER_SSD), 9, 5000},
        {UMBP_NOT_FOUND, 0, 0, 0}};
    const struct proto_reserve reserves[] = {{sample_keys[0], 5000, 4}, {sample_keys[1], 1, 5}};
    const struct proto_slot slots[] = {{UMBP_OK, 0x500000001, sample_pieces, {0}, 2},
                                       {UMBP_ALREADY_EXISTS, 0, NULL, {0}, 0}};
    const struct proto_commit commits[] = {{0x500000001, 5000, 0xfeedfacecafebeef, true, 0x1234},
                                           {9, 1, 2, false, 0}};
    const struct proto_stat stats[] = {{{"keys", 4}, 17, false},
                                       {{"hits.dram", 9}, 1u << 31, true}};
    switch (which) {
    case 0:
        return proto_resolved_encode(buffer, SAMPLE_REPLY, resolved, 2, out);
    case 1:
        return proto_reserve_encode(buffer, SAMPLE_CALL, 3000, reserves, 2, out);
    case 2:
        return proto_slots_encode(buffer, SAMPLE_REPLY, 2000, slots, 2, out);
    case 3:
        return proto_commit_encode(buffer, SAMPLE_CALL, commits, 2, out);
    case 4:
        return proto_stats_encode(buffer, SAMPLE_REPLY, stats, 2, out);
    default:
        return proto_bare_encode(buffer, SAMPLE_CALL, PROTO_CLEAR, 0, UMBP_OK, 0, out);
    }
}

static inline enum umbp_status sample_member(unsigned which, struct proto_buffer buffer,
                                             size_t *out)
{
    const struct proto_text tags[] = {{"zone=a", 6}, {"", 0}, {"gpu", 3}};
    const struct proto_register node = {
        .id = {"node-1", 6},
        .address = {"tcp://10.0.0.1:7100", 19},
        .peer_address = {"10.0.0.1:7101", 13},
        .incarnation = 0xabcdef0123456789,
        .node_address = {"10.0.0.1:7102", 13},
        .capacities = sample_capacities,
        .tags = tags,
        .capacity_count = 2,
        .tag_count = 3,
    };
    const struct proto_session session = {0x99, 41, 6, 2, 3, PROTO_SESSION_SYNC_WANTED, 5000};
    const struct proto_event events[] = {
        {{1, 2}, 5000, 3, PROTO_TIER_DRAM, true, {NULL, 0}},
        {{3, UINT64_MAX}, 70000, UMBP_DEPTH_NONE, PROTO_TIER_SSD, false, sample_keys[2]}};
    struct proto_beat beat = {.incarnation = 0xabcdef0123456789,
                              .sequence = 42,
                              .capacities = sample_capacities,
                              .capacity_count = 2};
    const struct proto_beat sync = {.incarnation = 0xabcdef0123456789,
                                    .sequence = 50,
                                    .sync_id = 6,
                                    .chunk = 2,
                                    .is_last = true};
    switch (which) {
    case 0:
        return proto_register_encode(buffer, SAMPLE_CALL, &node, out);
    case 1:
        return proto_session_encode(buffer, SAMPLE_REPLY, PROTO_REGISTER, UMBP_OK, &session, out);
    case 2:
        return proto_beat_encode(buffer, SAMPLE_CALL, PROTO_HEARTBEAT, &beat, events, 2, out);
    default:
        return proto_beat_encode(buffer, SAMPLE_CALL, PROTO_SYNC, &sync, events, 1, out);
    }
}

static inline enum umbp_status sample_route(unsigned which, struct proto_buffer buffer, size_t *out)
{
    const uint32_t exclude[] = {5, 9};
    const struct proto_ask ask = {
        .node_index = 7, .wants_nodes = true, .exclude = exclude, .exclude_count = 2};
    const struct proto_want wants[] = {{{0x10, 0x20}, 4096}, {{0x30, 0x40}, 1}};
    const struct proto_node nodes[] = {{.index = 3,
                                        .incarnation = 77,
                                        .id = {"node-1", 6},
                                        .address = {"tcp://10.0.0.1:7100", 19},
                                        .peer_address = {"10.0.0.1:7101", 13},
                                        .capacities = sample_capacities,
                                        .capacity_count = 2},
                                       {.index = 5, .id = {"node-2", 6}}};
    const struct proto_members members = {.node_count = 2, .nodes = nodes};
    const struct proto_members none = {.node_count = 0};
    const struct proto_route routes[] = {{UMBP_OK, PROTO_TIER_DRAM, 2, 3, 4096},
                                         {UMBP_NOT_FOUND, PROTO_TIER_NONE, 0, PROTO_NODE_NONE, 0}};
    const uint8_t found[] = {0, PROTO_TIER_BIT(PROTO_TIER_SSD)};
    switch (which) {
    case 0:
        return proto_ask_encode(buffer, SAMPLE_CALL, PROTO_ROUTE_PUT, &ask, wants, 2, out);
    case 1:
        return proto_ask_encode(buffer, SAMPLE_CALL, PROTO_ROUTE_GET, &ask, wants, 2, out);
    case 2:
        return proto_routes_encode(buffer, SAMPLE_REPLY, PROTO_ROUTE_GET, &members, routes, 2, out);
    case 3:
        return proto_routes_encode(buffer, SAMPLE_REPLY, PROTO_NODES, &none, NULL, 0, out);
    default:
        return proto_found_encode(buffer, SAMPLE_REPLY, found, 2, out);
    }
}

static inline enum umbp_status sample_ext(unsigned which, struct proto_buffer buffer, size_t *out)
{
    const struct proto_ext report = {.node_id = {"node-1", 6}, .tier = PROTO_TIER_HBM};
    const struct proto_ext match = {.count_as_hit = true};
    const struct fingerprint prints[] = {{1, 2}, {3, 4}, {5, 6}};
    const uint64_t handles[] = {3, 5};
    switch (which) {
    case 0:
        return proto_ext_encode(buffer, SAMPLE_CALL, PROTO_EXT_REPORT, &report, prints, 3, out);
    case 1:
        return proto_ext_encode(buffer, SAMPLE_CALL, PROTO_EXT_MATCH, &match, prints, 3, out);
    default:
        return proto_numbers_encode(buffer, SAMPLE_CALL, PROTO_NODES, 0, handles, 2, out);
    }
}

/* Samples 0 .. SAMPLES-1: one frame each. */
#define SAMPLES 25u
#define SAMPLE_BYTES_MAX 4096u
MAYBE_UNUSED static enum umbp_status sample_encode(unsigned which, struct proto_buffer buffer,
                                                   size_t *bytes_out)
{
    return which < 7    ? sample_data(which, buffer, bytes_out)
           : which < 13 ? sample_slots(which - 7, buffer, bytes_out)
           : which < 17 ? sample_member(which - 13, buffer, bytes_out)
           : which < 22 ? sample_route(which - 17, buffer, bytes_out)
                        : sample_ext(which - 22, buffer, bytes_out);
}

#endif
