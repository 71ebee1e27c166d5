/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The master's fabric door: frames of our own nodes and clients, handed to the service core. The
 * other door, gRPC, is src/rpc; both may be open on one core at the same time.
 *
 * A node is known by the connection on which it registered: its beats name no id. A beat on a
 * connection that has not registered is answered with PROTO_SESSION_UNKNOWN, and the node registers
 * again. When the connection ends, the core is told that the node is lost.
 *
 * Threads. All work is done on the fabric's loop, where each question takes microseconds; the
 * largest (a chunk of a full sync, PROTO_FRAME_MAX) some tens of milliseconds. master_tick is
 * whoever made the core's business.
 *
 * Ownership. The core and the fabric are borrowed. Order: door_create, open the fabric with
 * door_handlers, door_start; close the fabric, door_destroy.
 *
 * Limits. A frame has at most PROTO_FRAME_MAX bytes; a node for each of `peers_max` connections.
 */
#ifndef DOOR_DOOR_H
#define DOOR_DOOR_H

#include "base/base.h"
#include "fabric/fabric.h"
#include "master/master.h"

struct door;

struct door_options {
    struct master *master;
    uint32_t peers_max;    /* as the fabric's; 0: its default, 1,024 */
    uint32_t heartbeat_ms; /* what nodes are told; 0: the core's own interval */
};

struct door_counters {
    uint64_t requests;
    uint64_t refused;  /* frames that made no sense, or an op that is not a master's */
    uint64_t left_off; /* places of external blocks for which an answer had no room */
};

MUST_USE enum umbp_status door_create(const struct door_options *options, struct door **door_out);
/* The fabric is closed. Takes NULL. */
void door_destroy(struct door *door);

/* For fabric_open. */
void door_handlers(struct door *door, struct fabric_handlers *handlers_out);
/* At once when fabric_open has returned: a request that came earlier waits for it. */
void door_start(struct door *door, struct fabric *fabric);

void door_counters(const struct door *door, struct door_counters *counters_out);

#endif
