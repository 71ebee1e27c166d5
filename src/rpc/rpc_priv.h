/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the rpc room. */
#ifndef RPC_RPC_PRIV_H
#define RPC_RPC_PRIV_H

#include "rpc/rpc.h"

/* What decoding may take of an arena for a message of that many bytes: a hostile one of two-byte
 * fields would take forty times its size. */
static inline uint64_t rpc_decode_limit(uint64_t message_bytes)
{
    return 1 * MIB + 16 * message_bytes;
}

/* NULL when the bytes are no such message, or it takes more than the arena gives. */
ProtobufCMessage *rpc_unpack(const ProtobufCMessageDescriptor *type, struct rpc_arena *arena,
                             const void *bytes, size_t count);

/* Whether every text in the message (each bytes field but those that are bytes in the public file)
 * is UTF-8. */
bool rpc_texts_are_utf8(const ProtobufCMessage *message);
bool rpc_is_utf8(const void *text, size_t bytes);

/* ---------------------------------------------------------------- addresses -------- */

struct rpc_address {
    struct sockaddr_storage socket;
    socklen_t bytes;
};

/* All that the text means, at most `most`. UMBP_INVALID_VALUE, with a sentence in `error_out`. */
MUST_USE enum umbp_status rpc_address_resolve(const char *text, struct rpc_address *addresses_out,
                                              size_t most, size_t *count_out, char *error_out,
                                              size_t error_bytes);
/* As text that resolves to the same. */
void rpc_address_format(const struct rpc_address *address, char *text_out, size_t text_bytes);

/* ------------------------------------------------------------------- accepting ----- */

/*
 * Listens, accepts, and looks at what a connection says first, without taking it (MSG_PEEK). Whole
 * HTTP/2 prefaces are handed on, questions to the signpost are answered, the rest is closed. One
 * thread; nothing in it blocks: a connection that says nothing waits in a table of
 * RPC_PENDING_MAX, whose oldest goes when it is full, and no longer than the preface's deadline.
 */
#define RPC_PENDING_MAX 512u

struct rpc_accept_options {
    const char *const *addresses;
    size_t address_count;
    unsigned max_connections;
    uint32_t preface_timeout_ms;
    const uint8_t *signpost; /* the whole answer; NULL: none. Copied */
    size_t signpost_bytes;
    bool tls; /* on TCP a connection has to begin with a TLS greeting, and goes to take_tls */
    /* Takes over the descriptor: non-blocking, close-on-exec. Called by the accepting thread. */
    void (*take)(void *context, int descriptor);
    void (*take_tls)(void *context, int descriptor);
    /* About once a second, by the accepting thread. */
    void (*tick)(void *context);
    void *context;
};

struct rpc_accept;

struct rpc_accept_stats {
    _Atomic uint64_t connections;
    _Atomic uint64_t refused;
    _Atomic uint64_t strangers;
    _Atomic uint64_t signposts;
};

MUST_USE enum umbp_status rpc_accept_create(const struct rpc_accept_options *options,
                                            struct rpc_accept **accept_out, char *error_out,
                                            size_t error_bytes);
MUST_USE enum umbp_status rpc_accept_start(struct rpc_accept *accept);
/* No connection is handed on once this has returned. Idempotent. */
void rpc_accept_stop(struct rpc_accept *accept);
void rpc_accept_destroy(struct rpc_accept *accept);
const char *rpc_accept_address(const struct rpc_accept *accept, size_t nth);
const struct rpc_accept_stats *rpc_accept_stats_of(const struct rpc_accept *accept);

/* What the first bytes of a connection are. */
enum rpc_greeting {
    RPC_GREETING_WAIT, /* could become one of the others */
    RPC_GREETING_HTTP2,
    RPC_GREETING_SIGNPOST,
    RPC_GREETING_TLS,
    RPC_GREETING_STRANGER,
};
#define RPC_GREETING_BYTES 24u
enum rpc_greeting rpc_greeting_of(const uint8_t *bytes, size_t count);

/* -------------------------------------------------------------------- relaying ----- */

/*
 * Moves bytes between TLS connections and gRPC's own TLS listener on an abstract unix socket:
 * gRPC 1.51 takes over descriptors with plain credentials only, and the connection's first bytes
 * had to be seen before. One thread, RPC_RELAY_BYTES of buffer for each way of a connection.
 */
#define RPC_RELAY_BYTES (64u * 1024u)

struct rpc_relay;
/* `target` is the name of an abstract socket, without its leading NUL. */
MUST_USE enum umbp_status rpc_relay_create(const char *target, unsigned max_connections,
                                           struct rpc_relay **relay_out);
/* Takes over the descriptor, closing it if there is no room. Any thread. */
void rpc_relay_add(struct rpc_relay *relay, int descriptor);
/* Ends its thread and all its connections. Takes NULL. */
void rpc_relay_destroy(struct rpc_relay *relay);

/* ------------------------------------------------------------------- a peer -------- */

/*
 * A channel to one UMBPPeer, and at most one EvictKey call on it. One thread at a time. The call's
 * tag in the completion queue is the rpc_peer.
 */
struct rpc_peer;

#define RPC_PEER_TARGET_BYTES (MASTER_TEXT_BYTES_MAX + 16)
/* What gRPC shall connect to: only a host and a port, or the address could name a socket of this
 * machine or a resolver of gRPC's. UMBP_INVALID_VALUE. */
MUST_USE enum umbp_status rpc_peer_target(const char *address,
                                          char target_out[RPC_PEER_TARGET_BYTES]);

struct rpc_peer_result {
    enum rpc_code code; /* RPC_INTERNAL too when the answer is none */
    char message[128];  /* printable, without quotes; "" for RPC_OK */
    uint64_t keys_freed;
    uint64_t bytes_freed;
};

/* Does not connect yet. `context` is for the caller (rpc_peer_context). Never blocks. */
MUST_USE enum umbp_status rpc_peer_open(const char *target, void *context,
                                        struct rpc_peer **peer_out);
void *rpc_peer_context(const struct rpc_peer *peer);
/* Not during a call. Takes NULL. */
void rpc_peer_close(struct rpc_peer *peer);
/* `queue` is a grpc_completion_queue. Each key is at most UMBP_KEY_BYTES_MAX; they may go once this
 * has returned. */
void rpc_peer_call(struct rpc_peer *peer, void *queue, const ProtobufCBinaryData *keys,
                   size_t count, uint32_t deadline_ms);
/* The call ends soon, through the queue. */
void rpc_peer_cancel(struct rpc_peer *peer);
/* The call has come out of the queue. `arena` is used and reset. */
void rpc_peer_finish(struct rpc_peer *peer, struct rpc_arena *arena,
                     struct rpc_peer_result *result_out);

#endif
