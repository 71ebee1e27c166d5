/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The door of the rpc room: a gRPC server over a table of methods, and the master's methods for it
 * (rpc_master_*), which turn messages of proto/umbp.proto into calls of the service core; and the
 * one thing that the master asks of others, to evict (rpc_evictor, proto/umbp_peer.proto).
 *
 * Threads: the server has pollers (min..max), which run the handlers, one that accepts, and with
 * TLS one that relays. Handlers run on several pollers at once. An evictor has one thread.
 * Everything of a server and of an evictor may be called from any thread, but for create, start,
 * stop and destroy, which belong to its owner.
 *
 * Ownership: options are copied, except for what `methods` and `context` point to, which must
 * outlive the server.
 *
 * Limits: every number in struct rpc_options; none is unbounded. A message larger than allowed, a
 * frame that is not HTTP/2, a method that does not exist and bytes that are no such message get a
 * status or are cut off; none of them ends the process.
 *
 * Fork: gRPC keeps threads of its own, so nothing may fork after rpc_server_create.
 */
#ifndef RPC_RPC_H
#define RPC_RPC_H

#include <protobuf-c/protobuf-c.h>
#include <sys/socket.h>

#include "base/base.h"
#include "master/master.h"
#include "metrics/metrics.h"
#include "proto/proto.h"

/* ------------------------------------------------------------------------- methods ----------- */

/* gRPC's status codes, as on the wire. */
enum rpc_code {
    RPC_OK = 0,
    RPC_CANCELLED = 1,
    RPC_UNKNOWN = 2,
    RPC_INVALID_ARGUMENT = 3,
    RPC_DEADLINE_EXCEEDED = 4,
    RPC_NOT_FOUND = 5,
    RPC_ALREADY_EXISTS = 6,
    RPC_RESOURCE_EXHAUSTED = 8,
    RPC_FAILED_PRECONDITION = 9,
    RPC_UNIMPLEMENTED = 12,
    RPC_INTERNAL = 13,
    RPC_UNAVAILABLE = 14,
    RPC_CODE_COUNT = 17,
};

/*
 * Memory of one call: given out piece by piece, taken back at once. What a hostile message can make
 * of it is bounded twice: by a limit for each call, and by a budget that all calls share.
 */
struct rpc_arena;

/* A budget of `bytes` for all arenas that name it. Plain data; must outlive them. */
struct rpc_budget {
    _Atomic uint64_t left_bytes;
};
void rpc_budget_init(struct rpc_budget *budget, uint64_t bytes);

MUST_USE enum umbp_status rpc_arena_create(struct rpc_budget *budget, struct rpc_arena **arena_out);
void rpc_arena_destroy(struct rpc_arena *arena);
/* Take all back, and allow up to `limit_bytes` from now on. */
void rpc_arena_reset(struct rpc_arena *arena, uint64_t limit_bytes);
/* Aligned for anything, not zeroed; NULL past the limit or the budget. Zero bytes are not NULL. */
MUST_USE void *rpc_arena_alloc(struct rpc_arena *arena, size_t bytes);
MUST_USE void *rpc_arena_calloc(struct rpc_arena *arena, size_t count, size_t bytes);

/* A call, for its handler. */
struct rpc_call {
    struct rpc_arena *arena;         /* what the reply points to comes from here, or is static */
    const ProtobufCMessage *request; /* of the method's type */
    ProtobufCMessage *reply;         /* of the method's type, empty */
    const char *message;             /* why, for any code but RPC_OK; static or of the arena */
};

typedef enum rpc_code rpc_handler(void *context, struct rpc_call *call);

struct rpc_method {
    const char *path; /* "/umbp.UMBPMaster/BatchLookup" */
    const ProtobufCMessageDescriptor *request;
    const ProtobufCMessageDescriptor *reply;
    rpc_handler *handle;
};

/*
 * Decode, handle: what the server does with a request's bytes, without gRPC. On RPC_OK `call_out`
 * has the reply; it lives until the arena is reset. The arena must be fresh.
 */
MUST_USE enum rpc_code rpc_method_run(const struct rpc_method *method, void *context,
                                      struct rpc_arena *arena, const void *bytes, size_t count,
                                      struct rpc_call *call_out);

/* What the methods of umbp.UMBPMaster stand in front of: their context. */
struct rpc_master {
    struct master *master;
    uint64_t hash_seed; /* the cluster's, for keys and hashes */
    uint64_t hit_query_max;
    struct metrics_registry *metrics; /* where ReportMetrics goes; NULL: nowhere */
};
extern const struct rpc_method rpc_master_methods[];
extern const size_t rpc_master_method_count;

/* -------------------------------------------------------------------------- server ----------- */

#define RPC_ADDRESSES_MAX 16u
#define RPC_ADDRESS_BYTES_MAX 256u

/* Whether the text may stand in `addresses` below: its form, and that its host is known. What is
 * wrong with it goes to `error_out`, with UMBP_INVALID_VALUE. */
MUST_USE enum umbp_status rpc_address_check(const char *text, char *error_out, size_t error_bytes);

/* Zero means the default that is named. */
struct rpc_options {
    const struct rpc_method *methods;
    size_t method_count;
    void *context;

    /* "host:port", "[v6]:port", "unix:/path", "unix-abstract:name"; port 0 is any free one. A host
     * with several addresses is bound on all of them; "[::]" is IPv4 too. Unix sockets get mode
     * 0600. */
    const char *const *addresses;
    size_t address_count;

    unsigned min_pollers;          /* 2 */
    unsigned max_pollers;          /* 64, at least min_pollers */
    unsigned max_connections;      /* 4096; more are closed at once */
    uint32_t max_message_bytes;    /* 64 MiB, each way */
    uint64_t memory_bytes;         /* 1 GiB: for decoding, all calls together */
    uint32_t preface_timeout_ms;   /* 10 s: for a new connection to say what it is */
    uint32_t reply_timeout_ms;     /* 60 s: for a client to take its reply */
    uint32_t keepalive_ms;         /* 60 s: silence after which a peer is asked whether it lives */
    uint32_t keepalive_timeout_ms; /* 20 s: for its answer */

    /* TLS for TCP (unix sockets stay plain): paths of PEM files. With client_ca_path, clients must
     * have a certificate that it vouches for. */
    const char *certificate_path;
    const char *key_path;
    const char *client_ca_path;

    /* What the signpost tells (proto.h); NULL: connections that ask are closed. Copied. */
    const struct proto_signpost *signpost;
};

struct rpc_server;

/* Binds, but does not listen yet. `error_out` (error_bytes) gets a sentence on failure:
 * UMBP_INVALID_VALUE a bad address, UMBP_IO it can't be bound or a file can't be read. */
MUST_USE enum umbp_status rpc_server_create(const struct rpc_options *options,
                                            struct rpc_server **server_out, char *error_out,
                                            size_t error_bytes);
/* From here on calls come in. */
MUST_USE enum umbp_status rpc_server_start(struct rpc_server *server);
/* Listening ends, calls that run may end within `deadline_ms`, then they are cancelled. Returns
 * whether none had to be. At most a second longer than the deadline, handlers permitting. Once. */
bool rpc_server_stop(struct rpc_server *server, uint32_t deadline_ms);
/* After stop, or never started. Takes NULL. */
void rpc_server_destroy(struct rpc_server *server);

/* The nth bound address as text ("127.0.0.1:50051"), NULL past the last. Owned by the server. */
const char *rpc_server_address(const struct rpc_server *server, size_t nth);

#define RPC_LATENCY_BUCKETS 16u
/* Upper bounds of the buckets in microseconds; what is above the last is in `count` alone. */
extern const uint32_t rpc_latency_bounds_us[RPC_LATENCY_BUCKETS];

struct rpc_method_stats {
    const char *path;
    uint64_t calls[RPC_CODE_COUNT]; /* by what they ended with */
    uint64_t
        latency[RPC_LATENCY_BUCKETS]; /* not cumulative; from arrival here to the packed reply */
    uint64_t count;
    uint64_t sum_ns;
};

struct rpc_stats {
    uint64_t connections;         /* handed to gRPC */
    uint64_t connections_refused; /* over the limit */
    uint64_t strangers;           /* neither HTTP/2 nor a signpost's question, or too slow */
    uint64_t signposts;           /* asked and told */
    uint64_t unknown_methods;
    uint64_t cancelled_slow; /* replies that nobody took in time */
    uint64_t memory_left_bytes;
    unsigned pollers;
    unsigned calls_running;
};
void rpc_server_stats(const struct rpc_server *server, struct rpc_stats *stats_out);
/* False past the last method. */
bool rpc_server_method_stats(const struct rpc_server *server, size_t nth,
                             struct rpc_method_stats *stats_out);
/* "DEADLINE_EXCEEDED"; below RPC_CODE_COUNT. */
const char *rpc_code_name(unsigned code);

/* --------------------------------------------------------------------- asking peers ---------- */

/*
 * Hands the core's advice to the public nodes that it is about: UMBPPeer.EvictKey, at the address
 * that a node registered as its peer's ("host:port" or "[v6]:port"; others are not called). Always
 * plain, as the public stack has it. A node's victims go in calls of at most RPC_EVICT_KEYS_MAX
 * keys and RPC_EVICT_BYTES_MAX bytes, one after another; nodes do not wait for each other as long
 * as RPC_EVICT_CALLS_MAX calls are not under way. A node that still has a call when new advice
 * comes keeps to its old victims. One whose call fails, or whose answer is none, loses the rest of
 * its victims and its channel, and is left alone for RPC_EVICT_RETRY_MS, twice as long after each
 * failure that follows, at most RPC_EVICT_RETRY_MAX_MS.
 *
 * The channel of a node stays until the node goes or fails. Answers count for the statistics alone:
 * what a node removed, its beats tell.
 */
#define RPC_EVICT_KEYS_MAX 1024u
#define RPC_EVICT_BYTES_MAX (1u << 20) /* a public node takes 4 MiB */
#define RPC_EVICT_CALLS_MAX 256u
#define RPC_EVICT_WAITING_BYTES_MAX (64u << 20) /* victims of all nodes; more are left out */
#define RPC_EVICT_RETRY_MS 2000u
#define RPC_EVICT_RETRY_MAX_MS 60000u

struct rpc_evictor_options {
    struct master *master; /* must outlive the evictor */
    uint32_t deadline_ms;  /* of a call; 0: 1000 */
};

struct rpc_evictor;

MUST_USE enum umbp_status rpc_evictor_create(const struct rpc_evictor_options *options,
                                             struct rpc_evictor **evictor_out);
/* The advice is handed over. Waits for nothing: advice that comes before the last was looked at
 * takes its place. After stop it is just freed. */
void rpc_evictor_offer(struct rpc_evictor *evictor, struct master_advice *advice);
/* Cancels what is under way and ends the thread. Idempotent. */
void rpc_evictor_stop(struct rpc_evictor *evictor);
void rpc_evictor_destroy(struct rpc_evictor *evictor); /* takes NULL */

/* Why victims were not sent. */
enum rpc_evict_skip {
    RPC_EVICT_SKIP_GONE,    /* the node is not a member any more */
    RPC_EVICT_SKIP_ADDRESS, /* it has no peer address, or one that is none */
    RPC_EVICT_SKIP_KEY,     /* the key's bytes are not kept */
    RPC_EVICT_SKIP_BUSY,    /* the node still has a call, or there was newer advice */
    RPC_EVICT_SKIP_RETRY,   /* the node failed lately, or the call before failed */
    RPC_EVICT_SKIP_MEMORY,  /* or over RPC_EVICT_WAITING_BYTES_MAX */
    RPC_EVICT_SKIP_COUNT,
};

struct rpc_evict_stats {
    uint64_t calls[RPC_CODE_COUNT]; /* by what they ended with */
    uint64_t keys_sent;
    uint64_t keys_freed; /* as the nodes say */
    uint64_t bytes_freed;
    uint64_t keys_skipped[RPC_EVICT_SKIP_COUNT];
    uint64_t peers; /* nodes that were called and are still members */
    uint64_t calls_running;
};
void rpc_evictor_stats(const struct rpc_evictor *evictor, struct rpc_evict_stats *stats_out);

#endif
