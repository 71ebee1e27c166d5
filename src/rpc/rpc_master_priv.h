/* SPDX-License-Identifier: Apache-2.0 */
/* What the methods of umbp.UMBPMaster share. */
#ifndef RPC_RPC_MASTER_PRIV_H
#define RPC_RPC_MASTER_PRIV_H

#include <umbp_wire.pb-c.h>

#include "rpc/rpc_priv.h"

rpc_handler rpc_register_client;
rpc_handler rpc_unregister_client;
rpc_handler rpc_heartbeat;
rpc_handler rpc_report_metrics;
rpc_handler rpc_route_put;
rpc_handler rpc_route_get;
rpc_handler rpc_batch_route_put;
rpc_handler rpc_batch_route_get;
rpc_handler rpc_batch_lookup;
rpc_handler rpc_report_external;
rpc_handler rpc_revoke_external;
rpc_handler rpc_revoke_external_at_tier;
rpc_handler rpc_revoke_external_for_node;
rpc_handler rpc_match_external;
rpc_handler rpc_external_hits;

/* Sets the message and returns the code: `return rpc_fail(call, RPC_..., "...")`. */
enum rpc_code rpc_fail(struct rpc_call *call, enum rpc_code code, const char *message);
/* What a status of the core is to a caller that gets no answer. */
enum rpc_code rpc_fail_status(struct rpc_call *call, enum umbp_status status);

static inline struct master_text rpc_text(ProtobufCBinaryData data)
{
    return (struct master_text){(const char *)data.data, data.len};
}

/* Borrows the text: it must live as long as the arena. */
static inline ProtobufCBinaryData rpc_data(const char *text)
{
    return (ProtobufCBinaryData){strlen(text), (uint8_t *)(uintptr_t)text};
}

/* The tier, MASTER_TIER_NONE for a number that is none. */
static inline enum master_tier rpc_tier(Umbp__TierType tier)
{
    return tier > 0 && (int)tier < MASTER_TIERS ? (enum master_tier)tier : MASTER_TIER_NONE;
}

/* The fingerprints of the keys, in the arena; NULL when it is exhausted. */
MUST_USE struct fingerprint *rpc_prints(const struct rpc_master *context, struct rpc_call *call,
                                        const ProtobufCBinaryData *keys, size_t count);

/*
 * The addresses of the nodes in an answer, each asked for once. `capacity` (a power of two) is
 * twice the number of different nodes that can come, or more.
 */
struct rpc_nodes {
    struct master *master;
    struct rpc_arena *arena;
    struct rpc_node **table;
    size_t capacity;
    struct rpc_node *list; /* in the order of their first appearance */
    struct rpc_node **list_end;
    uint32_t count;
};
struct rpc_node {
    uint32_t handle;
    uint32_t number; /* from 1, in that order; 0: gone */
    struct rpc_node *next;
    ProtobufCBinaryData id;
    ProtobufCBinaryData peer_address;
};
MUST_USE bool rpc_nodes_init(struct rpc_nodes *nodes, const struct rpc_master *context,
                             struct rpc_call *call, size_t items);
/* NULL when the arena is exhausted; `number` 0 when the node is gone meanwhile. */
MUST_USE const struct rpc_node *rpc_nodes_find(struct rpc_nodes *nodes, uint32_t handle);

#endif
