/* SPDX-License-Identifier: Apache-2.0 */
/* Where to put, where to get, whether it is there. */
#include "rpc/rpc_master_priv.h"

static const char no_memory[] = "no memory left for the answer";

static bool is_key(ProtobufCBinaryData key) { return key.len > 0 && key.len <= UMBP_KEY_BYTES_MAX; }

/* The request's part that says who asks. */
static enum rpc_code make_caller(const struct rpc_master *context, struct rpc_call *call,
                                 ProtobufCBinaryData node_id, const ProtobufCBinaryData *excludes,
                                 size_t exclude_count, struct master_caller *caller_out)
{
    if (exclude_count > MASTER_EXCLUDES_MAX) {
        return rpc_fail(call, RPC_INVALID_ARGUMENT, "at most 256 nodes can be excluded");
    }
    uint32_t *handles = rpc_arena_alloc(call->arena, exclude_count * sizeof handles[0]);
    if (handles == NULL) {
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
    }
    size_t count = 0;
    for (size_t i = 0; i < exclude_count; i++) {
        uint32_t handle = master_node_find(context->master, rpc_text(excludes[i]));
        if (handle != MASTER_NODE_NONE) {
            handles[count++] = handle;
        }
    }
    *caller_out = (struct master_caller){
        .node = node_id.len > 0 ? master_node_find(context->master, rpc_text(node_id))
                                : MASTER_NODE_NONE,
        .excludes = handles,
        .exclude_count = count,
    };
    return RPC_OK;
}

/* A batch of any length, in pieces that the core takes. `sizes` NULL: a get. */
static enum rpc_code route(const struct rpc_master *context, struct rpc_call *call,
                           const struct master_caller *caller, const ProtobufCBinaryData *keys,
                           const uint64_t *sizes, size_t count, struct master_route **routes_out)
{
    struct fingerprint *prints = rpc_prints(context, call, keys, count);
    struct master_route *routes = rpc_arena_calloc(call->arena, count, sizeof routes[0]);
    enum umbp_status status = UMBP_OK;
    if (prints == NULL || routes == NULL) {
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
    }
    for (size_t at = 0; status == UMBP_OK && at < count; at += MASTER_BATCH_MAX) {
        size_t some = size_min(count - at, MASTER_BATCH_MAX);
        status = sizes != NULL
                     ? master_route_put(context->master, caller, prints + at, sizes + at, 0, some,
                                        routes + at)
                     : master_route_get(context->master, caller, prints + at, some, routes + at);
    }
    if (status != UMBP_OK) {
        return rpc_fail_status(call, status);
    }
    *routes_out = routes;
    return RPC_OK;
}

/* One key; `size` NULL: a get. */
static enum rpc_code route_one(const struct rpc_master *context, struct rpc_call *call,
                               ProtobufCBinaryData node_id, const ProtobufCBinaryData *excludes,
                               size_t exclude_count, const ProtobufCBinaryData *key,
                               const uint64_t *size, struct master_route **route_out)
{
    struct master_caller caller;
    if (!is_key(*key)) {
        return rpc_fail(call, RPC_INVALID_ARGUMENT, "a key has 1 to 1024 bytes");
    }
    enum rpc_code code = make_caller(context, call, node_id, excludes, exclude_count, &caller);
    if (code != RPC_OK) {
        return code;
    }
    caller.is_single = true;
    return route(context, call, &caller, key, size, 1, route_out);
}

enum rpc_code rpc_route_put(void *context_pointer, struct rpc_call *call)
{
    const struct rpc_master *context = context_pointer;
    const Umbp__RoutePutRequest *request = (const Umbp__RoutePutRequest *)call->request;
    Umbp__RoutePutResponse *reply = (Umbp__RoutePutResponse *)call->reply;
    struct master_route *routes = NULL;
    struct rpc_nodes nodes;
    enum rpc_code code =
        route_one(context, call, request->node_id, request->exclude_nodes, request->n_exclude_nodes,
                  &request->key, &request->block_size, &routes);
    if (code != RPC_OK) {
        return code;
    }
    if (routes[0].outcome == MASTER_ALREADY_EXISTS) {
        reply->outcome = UMBP__ROUTE_PUT_OUTCOME__ROUTE_PUT_OUTCOME_ALREADY_EXISTS;
    } else if (routes[0].outcome == MASTER_ROUTED) {
        const struct rpc_node *node = rpc_nodes_init(&nodes, context, call, 1)
                                          ? rpc_nodes_find(&nodes, routes[0].node)
                                          : NULL;
        if (node == NULL) {
            return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
        }
        if (node->number > 0) {
            reply->outcome = UMBP__ROUTE_PUT_OUTCOME__ROUTE_PUT_OUTCOME_ROUTED;
            reply->node_id = node->id;
            reply->peer_address = node->peer_address;
            reply->tier = (Umbp__TierType)routes[0].tier;
        }
    }
    return RPC_OK;
}

enum rpc_code rpc_route_get(void *context_pointer, struct rpc_call *call)
{
    const struct rpc_master *context = context_pointer;
    const Umbp__RouteGetRequest *request = (const Umbp__RouteGetRequest *)call->request;
    Umbp__RouteGetResponse *reply = (Umbp__RouteGetResponse *)call->reply;
    struct master_route *routes = NULL;
    struct rpc_nodes nodes;
    enum rpc_code code = route_one(context, call, request->node_id, request->exclude_nodes,
                                   request->n_exclude_nodes, &request->key, NULL, &routes);
    if (code != RPC_OK || routes[0].outcome != MASTER_ROUTED) {
        return code;
    }
    const struct rpc_node *node =
        rpc_nodes_init(&nodes, context, call, 1) ? rpc_nodes_find(&nodes, routes[0].node) : NULL;
    if (node == NULL) {
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
    }
    if (node->number > 0) {
        reply->found = true;
        reply->node_id = node->id;
        reply->peer_address = node->peer_address;
        reply->tier = (Umbp__TierType)routes[0].tier;
        reply->size = routes[0].bytes;
    }
    return RPC_OK;
}

/* A key that is none must not be routed to a node that would refuse it: it asks for more than
 * anybody has. */
static uint64_t *sizes_of(struct rpc_call *call, const Umbp__BatchRoutePutRequest *request)
{
    uint64_t *sizes = rpc_arena_alloc(call->arena, request->n_keys * sizeof sizes[0]);
    for (size_t i = 0; sizes != NULL && i < request->n_keys; i++) {
        sizes[i] = is_key(request->keys[i]) ? request->block_sizes[i] : UINT64_MAX;
    }
    return sizes;
}

enum rpc_code rpc_batch_route_put(void *context_pointer, struct rpc_call *call)
{
    const struct rpc_master *context = context_pointer;
    const Umbp__BatchRoutePutRequest *request = (const Umbp__BatchRoutePutRequest *)call->request;
    Umbp__BatchRoutePutResponse *reply = (Umbp__BatchRoutePutResponse *)call->reply;
    struct master_caller caller;
    struct master_route *routes = NULL;
    struct rpc_nodes nodes;
    size_t count = request->n_keys;
    if (count != request->n_block_sizes) {
        return rpc_fail(call, RPC_INVALID_ARGUMENT,
                        "keys and block_sizes must have the same length");
    }
    enum rpc_code code = make_caller(context, call, request->node_id, request->exclude_nodes,
                                     request->n_exclude_nodes, &caller);
    if (code != RPC_OK) {
        return code;
    }
    uint64_t *sizes = sizes_of(call, request);
    Umbp__BatchRoutePutEntry *entries = rpc_arena_alloc(call->arena, count * sizeof entries[0]);
    reply->entries = rpc_arena_alloc(call->arena, count * sizeof(Umbp__BatchRoutePutEntry *));
    if (sizes == NULL || entries == NULL || reply->entries == NULL ||
        !rpc_nodes_init(&nodes, context, call, count)) {
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
    }
    code = route(context, call, &caller, request->keys, sizes, count, &routes);
    for (size_t i = 0; code == RPC_OK && i < count; i++) {
        Umbp__BatchRoutePutEntry *entry = &entries[i];
        umbp__batch_route_put_entry__init(entry);
        reply->entries[i] = entry;
        if (routes[i].outcome == MASTER_ALREADY_EXISTS) {
            entry->outcome = UMBP__ROUTE_PUT_OUTCOME__ROUTE_PUT_OUTCOME_ALREADY_EXISTS;
        } else if (routes[i].outcome == MASTER_ROUTED) {
            const struct rpc_node *node = rpc_nodes_find(&nodes, routes[i].node);
            if (node == NULL) {
                return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
            }
            if (node->number > 0) {
                entry->outcome = UMBP__ROUTE_PUT_OUTCOME__ROUTE_PUT_OUTCOME_ROUTED;
                entry->node_id = node->id;
                entry->peer_address = node->peer_address;
                entry->tier = (Umbp__TierType)routes[i].tier;
            }
        }
    }
    reply->n_entries = code == RPC_OK ? count : 0;
    return code;
}

static enum rpc_code list_nodes(struct rpc_call *call, const struct rpc_nodes *nodes,
                                Umbp__BatchRouteGetResponse *reply)
{
    Umbp__NodeInfo *infos = rpc_arena_alloc(call->arena, nodes->count * sizeof infos[0]);
    reply->nodes = rpc_arena_alloc(call->arena, nodes->count * sizeof reply->nodes[0]);
    if (infos == NULL || reply->nodes == NULL) {
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
    }
    for (const struct rpc_node *node = nodes->list; node != NULL; node = node->next) {
        Umbp__NodeInfo *info = &infos[node->number - 1];
        umbp__node_info__init(info);
        info->node_id = node->id;
        info->peer_address = node->peer_address;
        reply->nodes[node->number - 1] = info;
    }
    reply->n_nodes = nodes->count;
    return RPC_OK;
}

enum rpc_code rpc_batch_route_get(void *context_pointer, struct rpc_call *call)
{
    const struct rpc_master *context = context_pointer;
    const Umbp__BatchRouteGetRequest *request = (const Umbp__BatchRouteGetRequest *)call->request;
    Umbp__BatchRouteGetResponse *reply = (Umbp__BatchRouteGetResponse *)call->reply;
    struct master_caller caller;
    struct master_route *routes = NULL;
    struct rpc_nodes nodes;
    size_t count = request->n_keys;
    enum rpc_code code = make_caller(context, call, request->node_id, request->exclude_nodes,
                                     request->n_exclude_nodes, &caller);
    if (code == RPC_OK) {
        code = route(context, call, &caller, request->keys, NULL, count, &routes);
    }
    if (code != RPC_OK) {
        return code;
    }
    reply->node_ref = rpc_arena_calloc(call->arena, count, sizeof reply->node_ref[0]);
    reply->tier = rpc_arena_calloc(call->arena, count, sizeof reply->tier[0]);
    reply->size = rpc_arena_calloc(call->arena, count, sizeof reply->size[0]);
    if (reply->node_ref == NULL || reply->tier == NULL || reply->size == NULL ||
        !rpc_nodes_init(&nodes, context, call, count)) {
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
    }
    for (size_t i = 0; i < count; i++) {
        if (routes[i].outcome != MASTER_ROUTED) {
            continue;
        }
        const struct rpc_node *node = rpc_nodes_find(&nodes, routes[i].node);
        if (node == NULL) {
            return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
        }
        if (node->number > 0) {
            reply->node_ref[i] = node->number;
            reply->tier[i] = (Umbp__TierType)routes[i].tier;
            reply->size[i] = routes[i].bytes;
        }
    }
    reply->n_node_ref = count;
    reply->n_tier = count;
    reply->n_size = count;
    return list_nodes(call, &nodes, reply);
}

enum rpc_code rpc_batch_lookup(void *context_pointer, struct rpc_call *call)
{
    const struct rpc_master *context = context_pointer;
    const Umbp__BatchLookupRequest *request = (const Umbp__BatchLookupRequest *)call->request;
    Umbp__BatchLookupResponse *reply = (Umbp__BatchLookupResponse *)call->reply;
    size_t count = request->n_keys;
    struct fingerprint *prints = rpc_prints(context, call, request->keys, count);
    uint8_t *found = rpc_arena_calloc(call->arena, count, 1);
    enum umbp_status status = UMBP_OK;
    reply->found = rpc_arena_alloc(call->arena, count * sizeof reply->found[0]);
    if (prints == NULL || found == NULL || reply->found == NULL) {
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
    }
    for (size_t at = 0; status == UMBP_OK && at < count; at += MASTER_BATCH_MAX) {
        status = master_lookup(context->master, prints + at, size_min(count - at, MASTER_BATCH_MAX),
                               found + at);
    }
    if (status != UMBP_OK) {
        return rpc_fail_status(call, status);
    }
    for (size_t i = 0; i < count; i++) {
        reply->found[i] = found[i] != 0;
    }
    reply->n_found = count;
    return RPC_OK;
}
