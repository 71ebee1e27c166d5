/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bodies between nodes and masters.
 *
 *   REGISTER    24   incarnation 0, capacities 8, tags 12, lengths of id 16, address 18, node
 *                    address 20, peer address 22; then capacities, tags' lengths (2 each), those
 *                    texts, tags
 *   session     40   master incarnation 0, acked sequence 8, sync id 16, next chunk 24, node index
 *                    28, flags 32, heartbeat 36
 *   beat        36   incarnation 0, sequence 8, sync id 16, chunk 24, capacities 28, flags 32; then
 *                    events, capacities, keys
 *   event       32   print 0 and 8, bytes 16, depth 24, key_bytes 28, tier 30, flags 31
 *   capacity    36   total 0, used 8, evictable 16, largest 24, tier 32
 */
#include "proto/proto_priv.h"

#define REGISTER_FIXED 24u
#define REGISTER_TEXTS 4u
#define TAG_ROW 2u
#define SESSION_FIXED 40u
#define BEAT_FIXED 36u

enum {
    BEAT_IS_LAST = 1,
    EVENT_IS_ADD = 1
};

/* ------------------------------------------------------------------------ capacities ----- */

void proto_capacity_store(uint8_t *at, const struct proto_capacity *capacity)
{
    store64(at, capacity->total_bytes);
    store64(at + 8, capacity->used_bytes);
    store64(at + 16, capacity->evictable_bytes);
    store64(at + 24, capacity->largest_bytes);
    store32(at + 32, (uint32_t)capacity->tier);
}

struct proto_capacity proto_capacity_at(struct proto_rows capacities, uint32_t index)
{
    const uint8_t *at = capacities.at + (size_t)index * CAPACITY_BYTES;
    uint32_t tier = load32(at + 32);
    return (struct proto_capacity){
        .tier = tier <= PROTO_TIER_SSD ? (enum proto_tier)tier : PROTO_TIER_NONE,
        .total_bytes = load64(at),
        .used_bytes = load64(at + 8),
        .evictable_bytes = load64(at + 16),
        .largest_bytes = load64(at + 24),
    };
}

/* -------------------------------------------------------------------------- REGISTER ----- */

enum umbp_status proto_register_encode(struct proto_buffer buffer, struct proto_call call,
                                       const struct proto_register *node, size_t *bytes_out)
{
    struct proto_out out;
    const struct proto_text texts[REGISTER_TEXTS] = {node->id, node->address, node->node_address,
                                                     node->peer_address};
    uint64_t flat = 0;

    if (!node->id.bytes || node->tag_count > PROTO_TAGS_MAX ||
        node->capacity_count > PROTO_TIERS_MAX) {
        return UMBP_INVALID_VALUE;
    }
    for (uint32_t i = 0; i < REGISTER_TEXTS + node->tag_count; i++) {
        struct proto_text text = i < REGISTER_TEXTS ? texts[i] : node->tags[i - REGISTER_TEXTS];
        if (!text_fits(text)) {
            return UMBP_INVALID_VALUE;
        }
        flat += text.bytes;
    }
    uint64_t subs = (uint64_t)node->capacity_count * CAPACITY_BYTES + node->tag_count * TAG_ROW;
    enum umbp_status status = proto_out_begin(buffer, REGISTER_FIXED, subs, flat, 0, &out);
    if (status != UMBP_OK) {
        return status;
    }
    store64(out.row, node->incarnation);
    store32(out.row + 8, node->capacity_count);
    store32(out.row + 12, node->tag_count);
    for (uint32_t i = 0; i < node->capacity_count; i++, out.sub += CAPACITY_BYTES) {
        proto_capacity_store(out.sub, &node->capacities[i]);
    }
    for (uint32_t i = 0; i < REGISTER_TEXTS; i++) {
        store16(out.row + 16 + 2 * i, texts[i].bytes);
        put_flat(&out, texts[i].data, texts[i].bytes);
    }
    for (uint32_t i = 0; i < node->tag_count; i++, out.sub += TAG_ROW) {
        store16(out.sub, node->tags[i].bytes);
        put_flat(&out, node->tags[i].data, node->tags[i].bytes);
    }
    *bytes_out = proto_out_end(&out, call, PROTO_REGISTER, 0, UMBP_OK, 0, 0);
    return UMBP_OK;
}

/* Lengths of the texts and tags; false if one is too long. */
static bool register_flat(const uint8_t *body, const uint8_t *tags, uint32_t tag_count,
                          uint64_t *flat_out)
{
    uint64_t flat = 0;
    for (uint32_t i = 0; i < REGISTER_TEXTS + tag_count; i++) {
        uint16_t bytes = i < REGISTER_TEXTS ? load16(body + 16 + 2 * i)
                                            : load16(tags + (i - REGISTER_TEXTS) * TAG_ROW);
        if (bytes > PROTO_TEXT_MAX) {
            return false;
        }
        flat += bytes;
    }
    *flat_out = flat;
    return load16(body + 16) > 0;
}

enum umbp_status proto_register_decode(const struct proto_frame *frame,
                                       struct proto_register *node_out)
{
    const uint8_t *body = frame->body;
    uint32_t body_bytes = frame->header.body_bytes;
    uint64_t flat_bytes = 0;

    if (body_bytes < REGISTER_FIXED || frame->header.count) {
        return UMBP_CORRUPT;
    }
    uint32_t capacities = load32(body + 8);
    uint32_t tag_count = load32(body + 12);
    if (capacities > PROTO_TIERS_MAX || tag_count > PROTO_TAGS_MAX) {
        return UMBP_CORRUPT;
    }
    uint32_t head = REGISTER_FIXED + capacities * CAPACITY_BYTES + tag_count * TAG_ROW;
    const uint8_t *tags = body + REGISTER_FIXED + capacities * CAPACITY_BYTES;
    if (head > body_bytes || !register_flat(body, tags, tag_count, &flat_bytes) ||
        head + flat_bytes != body_bytes) {
        return UMBP_CORRUPT;
    }
    struct proto_walk walk = {.sub = body + REGISTER_FIXED, .flat = body + head};
    struct proto_register node = {
        .id = take_text(&walk, load16(body + 16)),
        .incarnation = load64(body),
        .capacity_count = capacities,
        .tag_count = tag_count,
    };
    node.address = take_text(&walk, load16(body + 18));
    node.node_address = take_text(&walk, load16(body + 20));
    node.peer_address = take_text(&walk, load16(body + 22));
    node.capacity_rows = take_rows(&walk, capacities, CAPACITY_BYTES);
    node.tag_rows = take_rows(&walk, tag_count, TAG_ROW);
    node.tag_flat = walk.flat;
    *node_out = node;
    return UMBP_OK;
}

struct proto_text proto_tag_at(struct proto_rows tags, const uint8_t *flat, uint32_t index)
{
    for (uint32_t i = 0; i < index; i++) {
        flat += load16(tags.at + (size_t)i * TAG_ROW);
    }
    return (struct proto_text){(const char *)flat, load16(tags.at + (size_t)index * TAG_ROW)};
}

/* --------------------------------------------------------------------------- session ----- */

enum umbp_status proto_session_encode(struct proto_buffer buffer, struct proto_call call,
                                      enum proto_op op, enum umbp_status status,
                                      const struct proto_session *session, size_t *bytes_out)
{
    struct proto_out out;
    enum umbp_status made = proto_out_begin(buffer, SESSION_FIXED, 0, 0, 0, &out);
    if (made != UMBP_OK) {
        return made;
    }
    store64(out.row, session->master_incarnation);
    store64(out.row + 8, session->acked_sequence);
    store64(out.row + 16, session->sync_id);
    store32(out.row + 24, session->next_chunk);
    store32(out.row + 28, session->node_index);
    store32(out.row + 32, session->flags);
    store32(out.row + 36, session->heartbeat_ms);
    *bytes_out = proto_out_end(&out, call, (uint16_t)op, PROTO_FLAG_REPLY, status, 0, 0);
    return UMBP_OK;
}

enum umbp_status proto_session_decode(const struct proto_frame *frame,
                                      struct proto_session *session_out)
{
    const uint8_t *body = frame->body;
    if (frame->header.body_bytes != SESSION_FIXED || frame->header.count) {
        return UMBP_CORRUPT;
    }
    *session_out = (struct proto_session){
        .master_incarnation = load64(body),
        .acked_sequence = load64(body + 8),
        .sync_id = load64(body + 16),
        .next_chunk = load32(body + 24),
        .node_index = load32(body + 28),
        .flags = load32(body + 32),
        .heartbeat_ms = load32(body + 36),
    };
    return UMBP_OK;
}

/* ----------------------------------------------------------------- HEARTBEAT and SYNC ---- */

size_t proto_beat_bytes(uint32_t capacities, uint32_t events, size_t key_bytes)
{
    return PROTO_HEADER_BYTES + BEAT_FIXED + (size_t)capacities * CAPACITY_BYTES +
           (size_t)events * PROTO_EVENT_BYTES + key_bytes;
}

static void event_store(uint8_t *at, const struct proto_event *event)
{
    store64(at, event->print.low);
    store64(at + 8, event->print.high);
    store64(at + 16, event->bytes);
    store32(at + 24, event->depth);
    store16(at + 28, (uint16_t)event->key.bytes);
    at[30] = (uint8_t)event->tier;
    at[31] = event->is_add ? EVENT_IS_ADD : 0;
}

enum umbp_status proto_beat_encode(struct proto_buffer buffer, struct proto_call call,
                                   enum proto_op op, const struct proto_beat *beat,
                                   const struct proto_event *events, uint32_t count,
                                   size_t *bytes_out)
{
    struct proto_out out;
    uint64_t flat = 0;

    if (beat->capacity_count > PROTO_TIERS_MAX) {
        return UMBP_INVALID_VALUE;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (events[i].key.bytes && !key_fits(events[i].key)) {
            return UMBP_INVALID_VALUE;
        }
        flat += events[i].key.bytes;
    }
    enum umbp_status status =
        proto_out_begin(buffer, BEAT_FIXED + (uint64_t)count * PROTO_EVENT_BYTES,
                        (uint64_t)beat->capacity_count * CAPACITY_BYTES, flat, count, &out);
    if (status != UMBP_OK) {
        return status;
    }
    store64(out.row, beat->incarnation);
    store64(out.row + 8, beat->sequence);
    store64(out.row + 16, beat->sync_id);
    store32(out.row + 24, beat->chunk);
    store32(out.row + 28, beat->capacity_count);
    store32(out.row + 32, beat->is_last ? BEAT_IS_LAST : 0);
    out.row += BEAT_FIXED;
    for (uint32_t i = 0; i < count; i++, out.row += PROTO_EVENT_BYTES) {
        event_store(out.row, &events[i]);
        put_flat(&out, events[i].key.data, events[i].key.bytes);
    }
    for (uint32_t i = 0; i < beat->capacity_count; i++, out.sub += CAPACITY_BYTES) {
        proto_capacity_store(out.sub, &beat->capacities[i]);
    }
    *bytes_out = proto_out_end(&out, call, (uint16_t)op, 0, UMBP_OK, count, 0);
    return UMBP_OK;
}

static bool event_measure(const uint8_t *row, struct proto_claim *claim)
{
    claim->flat = load16(row + 28);
    return claim->flat <= UMBP_KEY_BYTES_MAX && tier_is_known(row[30]) &&
           !(row[31] & ~(unsigned)EVENT_IS_ADD);
}

enum umbp_status proto_beat_open(const struct proto_frame *frame, struct proto_beat *beat_out,
                                 struct proto_walk *walk_out)
{
    const uint8_t *body = frame->body;
    struct proto_walk walk;

    if (frame->header.body_bytes < BEAT_FIXED) {
        return UMBP_CORRUPT;
    }
    uint32_t capacities = load32(body + 28);
    if (capacities > PROTO_TIERS_MAX || load32(body + 32) & ~(unsigned)BEAT_IS_LAST) {
        return UMBP_CORRUPT;
    }
    enum umbp_status status =
        proto_body_open(frame, BEAT_FIXED, PROTO_EVENT_BYTES, CAPACITY_BYTES, event_measure,
                        (struct proto_claim){.subs = capacities}, &walk);
    if (status != UMBP_OK) {
        return status;
    }
    *beat_out = (struct proto_beat){
        .incarnation = load64(body),
        .sequence = load64(body + 8),
        .sync_id = load64(body + 16),
        .chunk = load32(body + 24),
        .is_last = load32(body + 32) & BEAT_IS_LAST,
        .capacity_rows = take_rows(&walk, capacities, CAPACITY_BYTES),
        .capacity_count = capacities,
    };
    *walk_out = walk;
    return UMBP_OK;
}

bool proto_event_next(struct proto_walk *walk, struct proto_event *event_out)
{
    if (!walk->left) {
        return false;
    }
    walk->left--;
    const uint8_t *row = walk->row;
    *event_out = (struct proto_event){
        .print = {load64(row), load64(row + 8)},
        .bytes = load64(row + 16),
        .depth = load32(row + 24),
        .tier = (enum proto_tier)row[30],
        .is_add = row[31] & EVENT_IS_ADD,
    };
    if (load16(row + 28)) {
        event_out->key = take_key(walk, load16(row + 28));
    }
    walk->row += PROTO_EVENT_BYTES;
    return true;
}
