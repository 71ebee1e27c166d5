/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The external KV index: told to every master, asked of any. Hashes are fingerprinted as keys are,
 * so that what came in through the gRPC door and what came in here meet.
 */
#include "pool/pool_priv.h"

/* ----------------------------------------------------------------------------- asking ---- */

/* The hashes' fingerprints, in memory of its own. */
static enum umbp_status print_hashes(struct pool *pool, const struct umbp_key *hashes, size_t count,
                                     struct fingerprint **prints_out)
{
    if (count > UMBP_BATCH_MAX) {
        return UMBP_LIMIT;
    }
    if (count && !hashes) {
        return UMBP_INVALID_VALUE;
    }
    for (size_t i = 0; i < count; i++) {
        if (!store_key_is_valid(hashes[i])) {
            return UMBP_INVALID_KEY;
        }
    }
    struct fingerprint *prints = mem_calloc(count + 1, sizeof(*prints));
    if (!prints) {
        return UMBP_NO_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        prints[i] = hash_key(hashes[i].data, hashes[i].bytes, pool->options.hash_seed);
    }
    *prints_out = prints;
    return UMBP_OK;
}

struct external {
    enum proto_op op;
    struct proto_ext ext;
    const struct fingerprint *prints;
    uint32_t count;
    enum umbp_status (*take)(struct question *question, const struct proto_frame *frame);
    void *context;
};

static enum umbp_status ask_master(struct pool_area *area, uint32_t master,
                                   const struct external *external)
{
    struct question question = question_of(area, master, external->op, external->count);
    const struct proto_buffer buffer = {area->buffer, PROTO_FRAME_MAX};
    const struct proto_call call = {.request_id = question.id, .time_left_ms = POOL_MASTER_MS};
    size_t bytes;

    question.take = external->take;
    question.context = external->context;
    enum umbp_status status = proto_ext_encode(buffer, call, external->op, &external->ext,
                                               external->prints, external->count, &bytes);
    return status == UMBP_OK ? master_call(&question, bytes) : status;
}

/* A connection's end is nothing that a caller knows of. */
static enum umbp_status for_caller(enum umbp_status status)
{
    return status == UMBP_CLOSED || status == UMBP_CANCELLED || status == UMBP_CORRUPT ? UMBP_IO
                                                                                       : status;
}

static enum umbp_status take_nothing(struct question *question, const struct proto_frame *frame)
{
    (void)question;
    (void)frame;
    return UMBP_OK;
}

/* UMBP_OK when one of the masters took it. */
static enum umbp_status tell_all(struct pool *pool, const struct external *external)
{
    enum umbp_status status;
    struct pool_area *area = area_take(pool, AREA_EXTERNAL, &status);
    bool told = false;

    if (!area) {
        return status;
    }
    for (uint32_t i = 0; i < pool->options.master_count; i++) {
        enum umbp_status each = ask_master(area, i, external);
        told |= each == UMBP_OK;
        status = i == 0 || each == UMBP_NOT_FOUND ? each : status;
    }
    area_give(area);
    return told ? UMBP_OK : for_caller(status);
}

static enum umbp_status ask_any(struct pool *pool, const struct external *external)
{
    enum umbp_status status;
    struct pool_area *area = area_take(pool, AREA_EXTERNAL, &status);
    uint32_t first = atomic_load_explicit(&pool->master_now, memory_order_relaxed);

    if (!area) {
        return status;
    }
    for (uint32_t i = 0; i < pool->options.master_count; i++) {
        status = ask_master(area, (first + i) % pool->options.master_count, external);
        if (status != UMBP_CLOSED && status != UMBP_TIMEOUT && status != UMBP_BUSY) {
            break;
        }
    }
    area_give(area);
    return for_caller(status);
}

/* ----------------------------------------------------------------------------- telling --- */

static enum umbp_status tell(struct pool *pool, enum proto_op op, const struct umbp_key *hashes,
                             size_t count, enum umbp_tier tier)
{
    struct fingerprint *prints;
    bool names_tier = tier >= UMBP_TIER_HBM && tier <= UMBP_TIER_SSD;

    if (!pool->options.store || !pool->options.node_id) {
        return UMBP_UNSUPPORTED;
    }
    if (!names_tier && !(op == PROTO_EXT_REVOKE_ALL && tier == UMBP_TIER_NONE)) {
        return UMBP_INVALID_VALUE;
    }
    enum umbp_status status = print_hashes(pool, hashes, count, &prints);
    if (status != UMBP_OK) {
        return status;
    }
    const struct external external = {
        .op = op,
        .ext = {.node_id = proto_text_of(pool->options.node_id), .tier = (enum proto_tier)tier},
        .prints = prints,
        .count = (uint32_t)count,
        .take = take_nothing,
    };
    status = tell_all(pool, &external);
    mem_free(prints);
    return status;
}

enum umbp_status pool_external_report(struct pool *pool, const struct umbp_key *hashes,
                                      size_t count, enum umbp_tier tier)
{
    return tell(pool, PROTO_EXT_REPORT, hashes, count, tier);
}

enum umbp_status pool_external_revoke(struct pool *pool, const struct umbp_key *hashes,
                                      size_t count, enum umbp_tier tier)
{
    return tell(pool, PROTO_EXT_REVOKE, hashes, count, tier);
}

enum umbp_status pool_external_revoke_all(struct pool *pool, enum umbp_tier tier)
{
    return tell(pool, PROTO_EXT_REVOKE_ALL, NULL, 0, tier);
}

/* ---------------------------------------------------------------------------- matching --- */

/* The answer's frame, copied on the loop. */
struct kept {
    uint64_t *data; /* aligned */
    size_t bytes;
};

static enum umbp_status keep_frame(struct question *question, const struct proto_frame *frame)
{
    struct kept *kept = question->context;
    kept->bytes = PROTO_HEADER_BYTES + frame->header.body_bytes;
    kept->data = mem_alloc(kept->bytes);
    if (!kept->data) {
        return UMBP_NO_MEMORY;
    }
    memcpy(kept->data, frame->body - PROTO_HEADER_BYTES, kept->bytes);
    return UMBP_OK;
}

struct place_of {
    uint32_t handle;
    char id[PROTO_TEXT_MAX + 1];
    char peer_address[PROTO_TEXT_MAX + 1];
};

static void copy_text(char to[PROTO_TEXT_MAX + 1], struct proto_text text)
{
    size_t bytes = size_min(text.bytes, PROTO_TEXT_MAX);
    if (bytes) {
        memcpy(to, text.data, bytes);
    }
    to[bytes] = '\0';
}

static struct place_of *read_nodes(struct proto_members *members)
{
    struct place_of *nodes = mem_calloc(members->node_count + 1, sizeof(*nodes));
    struct proto_node node;
    for (uint32_t i = 0; nodes && i < members->node_count && proto_node_next(&members->walk, &node);
         i++) {
        nodes[i].handle = node.index;
        copy_text(nodes[i].id, node.id);
        copy_text(nodes[i].peer_address, node.peer_address);
    }
    return nodes;
}

static enum umbp_status show_matches(struct pool *pool, const struct kept *kept, size_t count,
                                     void (*visit)(void *, const struct umbp_external_match *),
                                     void *context)
{
    struct proto_frame frame;
    struct proto_members members;
    struct proto_walk walk;
    struct proto_route route;
    uint64_t held_back;

    enum umbp_status status = proto_frame_open(kept->data, kept->bytes, &frame);
    if (status == UMBP_OK) {
        status = proto_routes_open(&frame, &members, &walk);
    }
    if (status != UMBP_OK) {
        return UMBP_IO;
    }
    if (members.left_off && log_limit_pass(&pool->log_left_off, 60000, &held_back)) {
        log_warn("external_match_cut", "left_off=%llu suppressed=%llu",
                 (unsigned long long)members.left_off, (unsigned long long)held_back);
    }
    uint32_t node_count = members.node_count;
    struct place_of *nodes = read_nodes(&members);
    if (!nodes) {
        return UMBP_NO_MEMORY;
    }
    while (proto_route_next(&walk, &route)) {
        uint32_t n = 0;
        while (n < node_count && nodes[n].handle != route.node_index) {
            n++;
        }
        if (n == node_count || route.bytes >= count) {
            continue; /* it left meanwhile */
        }
        const struct umbp_external_match match = {
            .struct_bytes = sizeof(match),
            .node_id = nodes[n].id,
            .peer_address = nodes[n].peer_address,
            .tier = (enum umbp_tier)route.tier,
            .index = (uint32_t)route.bytes,
        };
        visit(context, &match);
    }
    mem_free(nodes);
    return UMBP_OK;
}

enum umbp_status pool_external_match(struct pool *pool, const struct umbp_key *hashes, size_t count,
                                     bool counts_as_hit,
                                     void (*visit)(void *, const struct umbp_external_match *),
                                     void *context)
{
    struct kept kept = {0};
    struct fingerprint *prints;

    if (!visit) {
        return UMBP_INVALID_VALUE;
    }
    enum umbp_status status = print_hashes(pool, hashes, count, &prints);
    if (status != UMBP_OK) {
        return status;
    }
    const struct external external = {
        .op = PROTO_EXT_MATCH,
        .ext = {.count_as_hit = counts_as_hit},
        .prints = prints,
        .count = (uint32_t)count,
        .take = keep_frame,
        .context = &kept,
    };
    status = ask_any(pool, &external);
    mem_free(prints);
    if (status == UMBP_OK) {
        status = show_matches(pool, &kept, count, visit, context);
    }
    mem_free(kept.data);
    return status;
}

static enum umbp_status take_hits(struct question *question, const struct proto_frame *frame)
{
    uint64_t *hits_out = question->context;
    struct proto_walk walk;
    if (frame->header.count != question->count) {
        return UMBP_CORRUPT;
    }
    enum umbp_status status = proto_numbers_open(frame, &walk);
    for (uint32_t i = 0; status == UMBP_OK && i < question->count; i++) {
        if (!proto_numbers_next(&walk, &hits_out[i])) {
            status = UMBP_CORRUPT;
        }
    }
    return status;
}

enum umbp_status pool_external_hits(struct pool *pool, const struct umbp_key *hashes, size_t count,
                                    uint64_t *hits_out)
{
    struct fingerprint *prints;

    if (count && !hits_out) {
        return UMBP_INVALID_VALUE;
    }
    enum umbp_status status = print_hashes(pool, hashes, count, &prints);
    if (status != UMBP_OK) {
        return status;
    }
    const struct external external = {
        .op = PROTO_EXT_HITS,
        .prints = prints,
        .count = (uint32_t)count,
        .take = take_hits,
        .context = hits_out,
    };
    status = ask_any(pool, &external);
    mem_free(prints);
    return status;
}
