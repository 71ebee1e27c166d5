/* SPDX-License-Identifier: Apache-2.0 */
/* The table of umbp.UMBPMaster's methods, and what they share. */
#include "rpc/rpc_master_priv.h"

#define METHOD(name, request_type, handler)                                                        \
    {                                                                                              \
        "/umbp.UMBPMaster/" name, &umbp__##request_type##_request__descriptor,                     \
            &umbp__##request_type##_response__descriptor, handler                                  \
    }

const struct rpc_method rpc_master_methods[] = {
    METHOD("RegisterClient", register_client, rpc_register_client),
    METHOD("UnregisterClient", unregister_client, rpc_unregister_client),
    METHOD("Heartbeat", heartbeat, rpc_heartbeat),
    METHOD("RoutePut", route_put, rpc_route_put),
    METHOD("RouteGet", route_get, rpc_route_get),
    METHOD("BatchRoutePut", batch_route_put, rpc_batch_route_put),
    METHOD("BatchRouteGet", batch_route_get, rpc_batch_route_get),
    METHOD("BatchLookup", batch_lookup, rpc_batch_lookup),
    METHOD("ReportExternalKvBlocks", report_external_kv_blocks, rpc_report_external),
    METHOD("RevokeExternalKvBlocks", revoke_external_kv_blocks, rpc_revoke_external),
    METHOD("RevokeAllExternalKvBlocksAtTier", revoke_all_external_kv_blocks_at_tier,
           rpc_revoke_external_at_tier),
    METHOD("RevokeAllExternalKvBlocksForNode", revoke_all_external_kv_blocks_for_node,
           rpc_revoke_external_for_node),
    METHOD("MatchExternalKv", match_external_kv, rpc_match_external),
    METHOD("GetExternalKvHitCounts", get_external_kv_hit_counts, rpc_external_hits),
    METHOD("ReportMetrics", report_metrics, rpc_report_metrics),
};
const size_t rpc_master_method_count = ARRAY_COUNT(rpc_master_methods);

enum rpc_code rpc_fail(struct rpc_call *call, enum rpc_code code, const char *message)
{
    call->message = message;
    return code;
}

enum rpc_code rpc_fail_status(struct rpc_call *call, enum umbp_status status)
{
    switch (status) {
    case UMBP_NO_MEMORY:
    case UMBP_NO_SPACE:
    case UMBP_BUSY:
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, umbp_status_text(status));
    case UMBP_INVALID_KEY:
    case UMBP_INVALID_VALUE:
    case UMBP_LIMIT:
    case UMBP_TOO_LARGE:
        return rpc_fail(call, RPC_INVALID_ARGUMENT, umbp_status_text(status));
    case UMBP_NOT_FOUND:
        return rpc_fail(call, RPC_NOT_FOUND, umbp_status_text(status));
    case UMBP_STALE:
        return rpc_fail(call, RPC_FAILED_PRECONDITION, umbp_status_text(status));
    default:
        return rpc_fail(call, RPC_UNKNOWN, umbp_status_text(status));
    }
}

struct fingerprint *rpc_prints(const struct rpc_master *context, struct rpc_call *call,
                               const ProtobufCBinaryData *keys, size_t count)
{
    struct fingerprint *prints = rpc_arena_alloc(call->arena, count * sizeof prints[0]);
    for (size_t i = 0; prints != NULL && i < count; i++) {
        prints[i] = hash_key(keys[i].data, keys[i].len, context->hash_seed);
    }
    return prints;
}

bool rpc_nodes_init(struct rpc_nodes *nodes, const struct rpc_master *context,
                    struct rpc_call *call, size_t items)
{
    size_t capacity = 16;
    while (capacity < 2 * MASTER_NODES_MAX && capacity < 2 * items) {
        capacity *= 2;
    }
    *nodes = (struct rpc_nodes){
        .master = context->master,
        .arena = call->arena,
        .table = rpc_arena_calloc(call->arena, capacity, sizeof nodes->table[0]),
        .capacity = capacity,
    };
    nodes->list_end = &nodes->list;
    return nodes->table != NULL;
}

static bool copy_text(struct rpc_arena *arena, const char *text, ProtobufCBinaryData *copy_out)
{
    size_t bytes = strlen(text);
    uint8_t *copy = rpc_arena_alloc(arena, bytes);
    if (copy == NULL) {
        return false;
    }
    memcpy(copy, text, bytes);
    *copy_out = (ProtobufCBinaryData){bytes, copy};
    return true;
}

/* A handle's index part spreads well enough; a table that a generation has filled ends the search
 * after one round. */
const struct rpc_node *rpc_nodes_find(struct rpc_nodes *nodes, uint32_t handle)
{
    size_t mask = nodes->capacity - 1;
    size_t at = (handle * UINT32_C(2654435761)) >> 16;
    size_t left = nodes->capacity;
    for (; left > 0 && nodes->table[at & mask] != NULL; at++, left--) {
        if (nodes->table[at & mask]->handle == handle) {
            return nodes->table[at & mask];
        }
    }
    struct rpc_node *node = rpc_arena_calloc(nodes->arena, 1, sizeof *node);
    if (node == NULL || left == 0) {
        return NULL;
    }
    struct master_addresses addresses;
    node->handle = handle;
    if (master_node_addresses(nodes->master, handle, &addresses) == UMBP_OK) {
        if (!copy_text(nodes->arena, addresses.id, &node->id) ||
            !copy_text(nodes->arena, addresses.peer_address, &node->peer_address)) {
            return NULL;
        }
        node->number = ++nodes->count;
        *nodes->list_end = node;
        nodes->list_end = &node->next;
    }
    nodes->table[at & mask] = node;
    return node;
}
