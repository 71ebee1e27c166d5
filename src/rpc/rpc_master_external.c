/* SPDX-License-Identifier: Apache-2.0 */
/* The external KV index. */
#include "rpc/rpc_master_priv.h"

static const char no_node[] = "node_id must not be empty";
static const char no_hashes[] = "hashes must not be empty";
static const char no_memory[] = "no memory left for the answer";

typedef enum umbp_status change(struct master *master, struct master_text id,
                                const struct fingerprint *prints, size_t count,
                                enum master_tier tier);

/* Report or revoke, in pieces that the core takes. */
static enum rpc_code apply(void *context_pointer, struct rpc_call *call, change *act,
                           ProtobufCBinaryData node_id, const ProtobufCBinaryData *hashes,
                           size_t count, enum master_tier tier)
{
    const struct rpc_master *context = context_pointer;
    enum umbp_status status = UMBP_OK;
    struct fingerprint *prints = rpc_prints(context, call, hashes, count);
    if (prints == NULL) {
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
    }
    for (size_t at = 0; status == UMBP_OK && at < count; at += MASTER_BATCH_MAX) {
        status = act(context->master, rpc_text(node_id), prints + at,
                     size_min(count - at, MASTER_BATCH_MAX), tier);
    }
    /* A node that is not alive is not heard; the public master does not call that an error. */
    return status == UMBP_OK || status == UMBP_NOT_FOUND ? RPC_OK : rpc_fail_status(call, status);
}

enum rpc_code rpc_report_external(void *context, struct rpc_call *call)
{
    const Umbp__ReportExternalKvBlocksRequest *request =
        (const Umbp__ReportExternalKvBlocksRequest *)call->request;
    if (request->node_id.len == 0 || request->n_hashes == 0) {
        return rpc_fail(call, RPC_INVALID_ARGUMENT,
                        request->node_id.len == 0 ? no_node : no_hashes);
    }
    enum master_tier tier = rpc_tier(request->tier);
    if (tier == MASTER_TIER_NONE) {
        return rpc_fail(call, RPC_INVALID_ARGUMENT, "tier must be HBM, DRAM or SSD");
    }
    return apply(context, call, master_external_report, request->node_id, request->hashes,
                 request->n_hashes, tier);
}

enum rpc_code rpc_revoke_external(void *context, struct rpc_call *call)
{
    const Umbp__RevokeExternalKvBlocksRequest *request =
        (const Umbp__RevokeExternalKvBlocksRequest *)call->request;
    if (request->node_id.len == 0 || request->n_hashes == 0) {
        return rpc_fail(call, RPC_INVALID_ARGUMENT,
                        request->node_id.len == 0 ? no_node : no_hashes);
    }
    enum master_tier tier = rpc_tier(request->tier);
    if (tier == MASTER_TIER_NONE) {
        return RPC_OK; /* nothing is at a tier that is none */
    }
    return apply(context, call, master_external_revoke, request->node_id, request->hashes,
                 request->n_hashes, tier);
}

static enum rpc_code revoke_all(const struct rpc_master *context, struct rpc_call *call,
                                ProtobufCBinaryData node_id, enum master_tier tier)
{
    enum umbp_status status = master_external_revoke_all(context->master, rpc_text(node_id), tier);
    return status == UMBP_OK || status == UMBP_NOT_FOUND ? RPC_OK : rpc_fail_status(call, status);
}

enum rpc_code rpc_revoke_external_at_tier(void *context, struct rpc_call *call)
{
    const Umbp__RevokeAllExternalKvBlocksAtTierRequest *request =
        (const Umbp__RevokeAllExternalKvBlocksAtTierRequest *)call->request;
    if (request->node_id.len == 0) {
        return rpc_fail(call, RPC_INVALID_ARGUMENT, no_node);
    }
    enum master_tier tier = rpc_tier(request->tier);
    /* To the core NONE means all of them; a request that forgot its tier must not mean that. */
    return tier == MASTER_TIER_NONE ? RPC_OK : revoke_all(context, call, request->node_id, tier);
}

enum rpc_code rpc_revoke_external_for_node(void *context, struct rpc_call *call)
{
    const Umbp__RevokeAllExternalKvBlocksForNodeRequest *request =
        (const Umbp__RevokeAllExternalKvBlocksForNodeRequest *)call->request;
    if (request->node_id.len == 0) {
        return rpc_fail(call, RPC_INVALID_ARGUMENT, no_node);
    }
    return revoke_all(context, call, request->node_id, MASTER_TIER_NONE);
}

/* One node's rows, which begin at *at: its tiers, each with its hashes. False without memory. */
static bool add_match(struct rpc_call *call, const struct master_matches *matches, size_t *at,
                      const ProtobufCBinaryData *hashes, Umbp__ExternalKvNodeMatch *match)
{
    uint32_t node = matches->rows[*at].node;
    Umbp__TierHashes *buckets = rpc_arena_alloc(call->arena, MASTER_TIERS * sizeof buckets[0]);
    match->hashes_by_tier =
        rpc_arena_alloc(call->arena, MASTER_TIERS * sizeof match->hashes_by_tier[0]);
    if (buckets == NULL || match->hashes_by_tier == NULL) {
        return false;
    }
    while (*at < matches->count && matches->rows[*at].node == node) {
        size_t end = *at;
        uint8_t tier = matches->rows[*at].tier;
        while (end < matches->count && matches->rows[end].node == node &&
               matches->rows[end].tier == tier) {
            end++;
        }
        ASSERT(match->n_hashes_by_tier < MASTER_TIERS);
        Umbp__TierHashes *bucket = &buckets[match->n_hashes_by_tier];
        umbp__tier_hashes__init(bucket);
        bucket->tier = (Umbp__TierType)tier;
        bucket->hashes = rpc_arena_alloc(call->arena, (end - *at) * sizeof bucket->hashes[0]);
        if (bucket->hashes == NULL) {
            return false;
        }
        for (; *at < end; (*at)++) {
            bucket->hashes[bucket->n_hashes++] = hashes[matches->rows[*at].item];
        }
        match->hashes_by_tier[match->n_hashes_by_tier++] = bucket;
    }
    return true;
}

static enum rpc_code list_matches(const struct rpc_master *context, struct rpc_call *call,
                                  const struct master_matches *matches,
                                  const ProtobufCBinaryData *hashes,
                                  Umbp__MatchExternalKvResponse *reply)
{
    struct rpc_nodes nodes;
    size_t count = 0;
    for (size_t i = 0; i < matches->count; i++) {
        count += i == 0 || matches->rows[i].node != matches->rows[i - 1].node;
    }
    reply->matches = rpc_arena_alloc(call->arena, count * sizeof reply->matches[0]);
    if (reply->matches == NULL || !rpc_nodes_init(&nodes, context, call, count)) {
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
    }
    for (size_t at = 0; at < matches->count;) {
        const struct rpc_node *node = rpc_nodes_find(&nodes, matches->rows[at].node);
        Umbp__ExternalKvNodeMatch *match = rpc_arena_alloc(call->arena, sizeof *match);
        if (node == NULL || match == NULL) {
            return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
        }
        umbp__external_kv_node_match__init(match);
        match->node_id = node->id;
        match->peer_address = node->peer_address;
        if (!add_match(call, matches, &at, hashes, match)) {
            return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
        }
        if (node->number > 0) { /* else it went meanwhile, and what it reported with it */
            reply->matches[reply->n_matches++] = match;
        }
    }
    return RPC_OK;
}

enum rpc_code rpc_match_external(void *context_pointer, struct rpc_call *call)
{
    const struct rpc_master *context = context_pointer;
    const Umbp__MatchExternalKvRequest *request =
        (const Umbp__MatchExternalKvRequest *)call->request;
    struct master_matches matches;
    struct fingerprint *prints = rpc_prints(context, call, request->hashes, request->n_hashes);
    if (prints == NULL) {
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
    }
    enum umbp_status status = master_external_match(context->master, prints, request->n_hashes,
                                                    request->count_as_hit, &matches);
    if (status != UMBP_OK) {
        return rpc_fail_status(call, status);
    }
    enum rpc_code code = list_matches(context, call, &matches, request->hashes,
                                      (Umbp__MatchExternalKvResponse *)call->reply);
    master_matches_free(&matches);
    return code;
}

static const char *too_many(struct rpc_call *call, uint64_t most)
{
    char *text = rpc_arena_alloc(call->arena, 96);
    if (text == NULL) {
        return "too many hashes";
    }
    snprintf(text, 96, "hashes size exceeds UMBP_HIT_QUERY_MAX_BATCH=%llu",
             (unsigned long long)most);
    return text;
}

enum rpc_code rpc_external_hits(void *context_pointer, struct rpc_call *call)
{
    const struct rpc_master *context = context_pointer;
    const Umbp__GetExternalKvHitCountsRequest *request =
        (const Umbp__GetExternalKvHitCountsRequest *)call->request;
    Umbp__GetExternalKvHitCountsResponse *reply =
        (Umbp__GetExternalKvHitCountsResponse *)call->reply;
    size_t count = request->n_hashes;
    if (count > context->hit_query_max) {
        return rpc_fail(call, RPC_INVALID_ARGUMENT, too_many(call, context->hit_query_max));
    }
    struct fingerprint *prints = rpc_prints(context, call, request->hashes, count);
    uint64_t *hits = rpc_arena_calloc(call->arena, count, sizeof hits[0]);
    Umbp__HitCountEntry *entries = rpc_arena_alloc(call->arena, count * sizeof entries[0]);
    reply->entries = rpc_arena_alloc(call->arena, count * sizeof reply->entries[0]);
    if (prints == NULL || hits == NULL || entries == NULL || reply->entries == NULL) {
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
    }
    enum umbp_status status = master_external_hits(context->master, prints, count, hits);
    if (status != UMBP_OK) {
        return rpc_fail_status(call, status);
    }
    for (size_t i = 0; i < count; i++) {
        if (hits[i] == 0) {
            continue;
        }
        Umbp__HitCountEntry *entry = &entries[reply->n_entries];
        umbp__hit_count_entry__init(entry);
        entry->hash = request->hashes[i];
        entry->hit_count_total = hits[i];
        reply->entries[reply->n_entries++] = entry;
    }
    return RPC_OK;
}
