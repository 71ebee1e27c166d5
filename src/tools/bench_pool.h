/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside `umbp bench pool`: a master and a node as child processes, clients of theirs here, and the
 * raw ways that they are held against.
 *
 * Threads: the one that runs the benches. The rig is made when a bench first asks for it.
 */
#ifndef TOOLS_BENCH_POOL_H
#define TOOLS_BENCH_POOL_H

#include "tools/bench.h"
#include "tools/bench_wire.h"
#include "tools/tool_cluster.h"

struct pool_rig {
    struct bench *bench;
    struct tool_cluster cluster;
    struct bench_wire *wire;
    struct umbp_client *host;   /* reads the node's memory directly */
    struct umbp_client *tcp;    /* pool.same_host off */
    struct umbp_client *reader; /* never writes, so it knows nothing that a master did not say */
    struct bench_arena user;
    enum umbp_status *statuses;
    struct umbp_put_item *puts;
    struct umbp_get_item *gets;
};

#define POOL_RIG_ITEMS 1024u
#define POOL_RIG_MEMORY (128 * MIB)

/* The rig with its node. NULL: can't be had, and it was said, or there is a stop. */
struct pool_rig *pool_rig(struct bench *bench);
/* A client of the cluster, serving nothing. NULL: told. */
struct umbp_client *pool_rig_client(struct bench *bench, const struct tool_cluster *cluster,
                                    bool same_host);
/* Values of `bytes` under these keys, out of the rig's memory, at `client`. ns_out may be NULL. */
MUST_USE bool pool_rig_put(struct pool_rig *rig, struct umbp_client *client,
                           const struct bench_keys *keys, size_t first, size_t count, size_t bytes,
                           uint64_t *ns_out);
MUST_USE bool pool_rig_get(struct pool_rig *rig, struct umbp_client *client,
                           const struct bench_keys *keys, size_t first, size_t count, size_t bytes,
                           uint64_t *ns_out);
MUST_USE bool pool_rig_remove(struct pool_rig *rig, struct umbp_client *client,
                              const struct bench_keys *keys, size_t count);

/* Each adds its rows; false when the run must end. */
MUST_USE bool pool_bench_master(struct bench *bench);
MUST_USE bool pool_bench_grpc(struct bench *bench);
MUST_USE bool pool_bench_restart(struct bench *bench);

#endif
