/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frames of the pool: what clients, nodes and masters say to each other over the fabric.
 * docs/pool.md says why; this header says what. Codecs only: no sockets, no state, no allocation.
 *
 *   frame:  | header, 48 bytes | body |
 *   body:   | fixed part | rows, one an item | sub-rows (pieces, ranges ...) | flat bytes (keys) |
 *
 * Everything is little-endian and has no padding but named, zeroed fields. The header carries
 * magic, version and a CRC32C over itself and the body. A body's parts fill it exactly; what is
 * missing or left over makes the frame malformed.
 *
 * Decoding. proto_frame_open checks the header and the sum. proto_<body>_open checks every bound of
 * a body once, in one walk over its rows; proto_<body>_next then hands the items out in order and
 * can't fail. Nothing is copied: keys, pieces and texts point into the frame, whose bytes must stay
 * as they are while they are used. The bytes are hostile until opened: any input gives a status,
 * never an assertion. Text (ids, addresses) is not NUL-terminated and not checked to be UTF-8.
 *
 * Encoding. proto_<body>_encode writes a whole frame into the caller's buffer. UMBP_LIMIT: it does
 * not fit, or is larger than PROTO_FRAME_MAX (send fewer items). UMBP_INVALID_VALUE: something that
 * can't be sent (a key of 0 or 1,025 bytes, pieces that don't add up).
 *
 * Threads. No state: anything from any thread.
 * Limits. PROTO_FRAME_MAX bytes a frame, UMBP_BATCH_MAX items, keys of 1..1024 bytes, texts as
 * below.
 */
#ifndef PROTO_PROTO_H
#define PROTO_PROTO_H

#include "base/base.h"
#include "proto/signpost.h"
#include <umbp/umbp.h>

#define PROTO_MAGIC 0x46424d55u /* "UMBF" */
#define PROTO_VERSION 1u        /* what this build speaks best, */
#define PROTO_VERSION_LOWEST 1u /* and the oldest that it still speaks */
#define PROTO_HEADER_BYTES 48u
#define PROTO_EAGER_MAX (64u * 1024u)
#define PROTO_FRAME_MAX (4u * 1024u * 1024u)
#define PROTO_TEXT_MAX 255u /* an id, an address, a tag, a name of a statistic */
#define PROTO_TAGS_MAX 64u
#define PROTO_TIERS_MAX 8u
#define PROTO_EXCLUDE_MAX 1024u
#define PROTO_NODE_NONE 0u /* no handle */

/* Numbers are never reused. */
enum proto_op {
    PROTO_HELLO = 1, /* the fabric's own: their bodies are not decoded here */
    PROTO_BEAT = 2,
    PROTO_GOODBYE = 3,
    PROTO_PUT = 16, /* to a node */
    PROTO_GET = 17,
    PROTO_RELEASE = 18, /* one way */
    PROTO_EXISTS = 19,
    PROTO_REMOVE = 20,
    PROTO_RESOLVE = 21,
    PROTO_RESERVE = 22,
    PROTO_COMMIT = 23,
    PROTO_ABORT = 24,
    PROTO_CLEAR = 25,
    PROTO_EVICT = 26,
    PROTO_STATS = 27,
    PROTO_REGISTER = 48, /* a node to a master */
    PROTO_HEARTBEAT = 49,
    PROTO_SYNC = 50,
    PROTO_UNREGISTER = 51,
    PROTO_ROUTE_PUT = 64, /* a client to a master */
    PROTO_ROUTE_GET = 65,
    PROTO_LOOKUP = 66,
    PROTO_NODES = 67,
    PROTO_EXT_REPORT = 80, /* the external KV index: a scheduler or node to a master */
    PROTO_EXT_REVOKE = 81,
    PROTO_EXT_REVOKE_ALL = 82,
    PROTO_EXT_MATCH = 83,
    PROTO_EXT_HITS = 84,
};
/* "PUT"; "?" for a number that is none. Static storage. */
const char *proto_op_name(uint16_t op);

/* Tiers as they are numbered on the wire (those of the public umbp.proto). */
enum proto_tier {
    PROTO_TIER_NONE = 0,
    PROTO_TIER_HBM = 1,
    PROTO_TIER_DRAM = 2,
    PROTO_TIER_SSD = 3,
};
#define PROTO_TIER_BIT(tier) ((uint8_t)(1u << (tier)))

/* --------------------------------------------------------------------------- frames ------ */

enum proto_flag {
    PROTO_FLAG_REPLY = 1,
    PROTO_FLAG_ONE_WAY = 2, /* no reply follows */
};

/* The header as numbers. On the wire, at these offsets: magic 0, version 4, op 6, flags 8,
 * status 10, count 12, request_id 16, body_bytes 24, time_left_ms 28, aux 32, (zero) 40, crc 44. */
struct proto_header {
    uint16_t version;
    uint16_t op; /* enum proto_op, or a number that this build does not know */
    uint16_t flags;
    enum umbp_status status; /* replies: about the call; items have their own */
    uint32_t count;          /* items */
    uint64_t request_id;     /* the asker's; a reply carries it back */
    uint32_t body_bytes;
    uint32_t time_left_ms; /* requests: how long the asker will wait. 0: it waits no more */
    uint64_t aux;          /* what it means is said at the body's encoder; else 0 */
};

struct proto_frame {
    struct proto_header header;
    const uint8_t *body;
};

/*
 * Check and take apart one whole frame. UMBP_CORRUPT: not a frame, or one with a wrong length, sum
 * or reserved field. UMBP_VERSION: its version is not within [PROTO_VERSION_LOWEST, PROTO_VERSION];
 * header.version and, if the sum is right by this version's rule, nothing else is to be believed.
 * UMBP_LIMIT: larger than PROTO_FRAME_MAX, or more items than UMBP_BATCH_MAX. An op that is not
 * known is no error here.
 */
MUST_USE enum umbp_status proto_frame_open(const void *data, size_t bytes,
                                           struct proto_frame *frame_out);

/* The highest version that both ranges hold; UMBP_VERSION when there is none. */
MUST_USE enum umbp_status proto_version_agree(uint16_t low_a, uint16_t high_a, uint16_t low_b,
                                              uint16_t high_b, uint16_t *version_out);

/* What every encoder needs to know of the frame. For a reply: the request's id, and time_left_ms 0.
 * Zero `version` is taken for PROTO_VERSION. */
struct proto_call {
    uint64_t request_id;
    uint32_t time_left_ms;
    uint16_t version;
};
/* What answers a request. */
static inline struct proto_call proto_call_of(const struct proto_frame *request)
{
    return (struct proto_call){.request_id = request->header.request_id,
                               .version = request->header.version};
}
struct proto_buffer {
    void *data;
    size_t bytes;
};

/* A frame without a body: CLEAR, UNREGISTER (aux: the incarnation), STATS; and any reply that is
 * only a status. */
MUST_USE enum umbp_status proto_bare_encode(struct proto_buffer buffer, struct proto_call call,
                                            enum proto_op op, uint16_t flags,
                                            enum umbp_status status, uint64_t aux,
                                            size_t *bytes_out);

/* Where an opened body is being walked. Opaque; a plain value. */
struct proto_walk {
    const uint8_t *row;
    const uint8_t *sub;
    const uint8_t *flat;
    uint32_t left;
    uint32_t row_bytes;
};

/* A run of sub-rows within the frame. */
struct proto_rows {
    const uint8_t *at;
    uint32_t count;
};

struct proto_text {
    const char *data;
    uint16_t bytes;
};
static inline struct proto_text proto_text_of(const char *text)
{
    size_t bytes = text ? strlen(text) : 0;
    return (struct proto_text){text, (uint16_t)(bytes > UINT16_MAX ? UINT16_MAX : bytes)};
}

/* ------------------------------------------------------------------------ to a node ------ */

/* What it takes to reach a region of a peer's memory by RMA: the fabric's key, two words. */
struct proto_key {
    uint64_t key;
    uint64_t base;
};

/* A piece of the peer's memory: its address as the peer knows it, its key, and how long it is. */
struct proto_piece {
    uint64_t address;
    struct proto_key key;
    uint64_t bytes;
};
#define PROTO_PIECE_BYTES 32u
struct proto_piece proto_piece_at(struct proto_rows pieces, uint32_t index);

/*
 * Keys: EXISTS, REMOVE, RESOLVE; EVICT (aux: bytes of DRAM that should become free; keys are
 * wishes). Replies: statuses (EXISTS, REMOVE), RESOLVE's own; EVICT a bare one with aux = bytes
 * freed.
 */
MUST_USE enum umbp_status proto_keys_encode(struct proto_buffer buffer, struct proto_call call,
                                            enum proto_op op, uint64_t aux,
                                            const struct umbp_key *keys, uint32_t count,
                                            size_t *bytes_out);
MUST_USE enum umbp_status proto_keys_open(const struct proto_frame *frame,
                                          struct proto_walk *walk_out);
bool proto_keys_next(struct proto_walk *walk, struct umbp_key *key_out);

/* One status an item: replies of PUT, EXISTS, REMOVE, COMMIT, ABORT. */
MUST_USE enum umbp_status proto_statuses_encode(struct proto_buffer buffer, struct proto_call call,
                                                enum proto_op op, const enum umbp_status *statuses,
                                                uint32_t count, size_t *bytes_out);
MUST_USE enum umbp_status proto_statuses_open(const struct proto_frame *frame,
                                              struct proto_walk *walk_out);
bool proto_statuses_next(struct proto_walk *walk, enum umbp_status *status_out);

/* PUT: the owner fetches `bytes` bytes from the pieces, whose sum they are. */
struct proto_put {
    struct umbp_key key;
    uint64_t bytes;
    uint32_t depth;
    bool has_crc; /* crc: CRC32C of the value, by the writer */
    uint32_t crc;
    const struct proto_piece *pieces; /* encoding */
    struct proto_rows rows;           /* decoded: for proto_piece_at */
    uint32_t piece_count;
};
MUST_USE enum umbp_status proto_put_encode(struct proto_buffer buffer, struct proto_call call,
                                           const struct proto_put *items, uint32_t count,
                                           size_t *bytes_out);
MUST_USE enum umbp_status proto_put_open(const struct proto_frame *frame,
                                         struct proto_walk *walk_out);
bool proto_put_next(struct proto_walk *walk, struct proto_put *item_out);
/* How many of the items fit into one frame of `bytes`, from the first on (0: not even one). Keys
 * and counts are not checked. */
uint32_t proto_put_fit(const struct proto_put *items, uint32_t count, size_t bytes);

/*
 * GET: ranges of a value, each with where its bytes shall go. The address and key are of the
 * reader's memory, for the owner's RMA write; on one host too, for what the owner has on SSD only.
 * No ranges: nothing moves; on one host the places of the whole value are answered, if it is in
 * DRAM.
 */
struct proto_range {
    uint64_t offset;
    uint64_t bytes; /* at least 1 */
    uint64_t address;
    struct proto_key key;
};
#define PROTO_RANGE_BYTES 40u
struct proto_range proto_range_at(struct proto_rows ranges, uint32_t index);

struct proto_get {
    struct umbp_key key;
    uint64_t bytes; /* the exact size, unless any_size */
    bool any_size;
    const struct proto_range *ranges; /* encoding */
    struct proto_rows rows;           /* decoded: for proto_range_at */
    uint32_t range_count;
};
MUST_USE enum umbp_status proto_get_encode(struct proto_buffer buffer, struct proto_call call,
                                           const struct proto_get *items, uint32_t count,
                                           size_t *bytes_out);
MUST_USE enum umbp_status proto_get_open(const struct proto_frame *frame,
                                         struct proto_walk *walk_out);
bool proto_get_next(struct proto_walk *walk, struct proto_get *item_out);
uint32_t proto_get_fit(const struct proto_get *items, uint32_t count, size_t bytes);

/*
 * GET's reply. Without has_places the bytes are where the reader wanted them. With, they are to be
 * read from the owner's memory: the places, one after the other, hold the bytes of the item's
 * ranges in their order (of the whole value if there were none), and stay pinned until RELEASE.
 */
struct proto_place {
    uint64_t address;
    uint64_t bytes;
};
#define PROTO_PLACE_BYTES 16u
struct proto_place proto_place_at(struct proto_rows places, uint32_t index);

struct proto_got {
    enum umbp_status status;
    enum proto_tier tier;
    bool has_places;
    bool has_crc; /* crc: CRC32C of the whole value, as its writer gave it */
    uint32_t crc;
    uint32_t depth;
    uint64_t bytes; /* the value's size; also with UMBP_SIZE_MISMATCH if the owner knows it */
    const struct proto_place *places; /* encoding */
    struct proto_rows rows;           /* decoded: for proto_place_at */
    uint32_t place_count;
};
MUST_USE enum umbp_status proto_got_encode(struct proto_buffer buffer, struct proto_call call,
                                           const struct proto_got *items, uint32_t count,
                                           size_t *bytes_out);
MUST_USE enum umbp_status proto_got_open(const struct proto_frame *frame,
                                         struct proto_walk *walk_out);
bool proto_got_next(struct proto_walk *walk, struct proto_got *item_out);
/* The size of the frame, to be compared with PROTO_FRAME_MAX. */
size_t proto_got_bytes(uint32_t count, uint64_t place_count);

/* 64-bit numbers: RELEASE (request ids of GETs), ABORT (slots), EXT_HITS' reply (hit counts). */
MUST_USE enum umbp_status proto_numbers_encode(struct proto_buffer buffer, struct proto_call call,
                                               enum proto_op op, uint16_t flags,
                                               const uint64_t *numbers, uint32_t count,
                                               size_t *bytes_out);
MUST_USE enum umbp_status proto_numbers_open(const struct proto_frame *frame,
                                             struct proto_walk *walk_out);
bool proto_numbers_next(struct proto_walk *walk, uint64_t *number_out);

/* RESOLVE's reply. */
struct proto_resolved {
    enum umbp_status status;
    uint8_t tiers; /* PROTO_TIER_BIT of each that has it */
    uint32_t depth;
    uint64_t bytes;
};
MUST_USE enum umbp_status proto_resolved_encode(struct proto_buffer buffer, struct proto_call call,
                                                const struct proto_resolved *items, uint32_t count,
                                                size_t *bytes_out);
MUST_USE enum umbp_status proto_resolved_open(const struct proto_frame *frame,
                                              struct proto_walk *walk_out);
bool proto_resolved_next(struct proto_walk *walk, struct proto_resolved *item_out);

/* RESERVE (aux: how long the slots should live, in ms; the node may give less), and its reply:
 * where the writer shall RMA-write the value. */
struct proto_reserve {
    struct umbp_key key;
    uint64_t bytes;
    uint32_t depth;
};
MUST_USE enum umbp_status proto_reserve_encode(struct proto_buffer buffer, struct proto_call call,
                                               uint64_t lifetime_ms,
                                               const struct proto_reserve *items, uint32_t count,
                                               size_t *bytes_out);
MUST_USE enum umbp_status proto_reserve_open(const struct proto_frame *frame,
                                             struct proto_walk *walk_out);
bool proto_reserve_next(struct proto_walk *walk, struct proto_reserve *item_out);

struct proto_slot {
    enum umbp_status status;
    uint64_t slot;
    const struct proto_piece *pieces; /* encoding */
    struct proto_rows rows;           /* decoded */
    uint32_t piece_count;
};
/* aux: the lifetime that was granted, in ms. */
MUST_USE enum umbp_status proto_slots_encode(struct proto_buffer buffer, struct proto_call call,
                                             uint64_t lifetime_ms, const struct proto_slot *items,
                                             uint32_t count, size_t *bytes_out);
MUST_USE enum umbp_status proto_slots_open(const struct proto_frame *frame,
                                           struct proto_walk *walk_out);
bool proto_slots_next(struct proto_walk *walk, struct proto_slot *item_out);

/* COMMIT. What does not fit the slot rolls it back: UMBP_STALE is a slot that is not there (never
 * was, expired, aborted), UMBP_SIZE_MISMATCH and UMBP_INVALID_KEY one of another value. */
struct proto_commit {
    uint64_t slot;
    uint64_t bytes;
    uint64_t key_hash; /* fingerprint.low of the key, by the cluster's seed */
    bool has_crc;
    uint32_t crc;
};
MUST_USE enum umbp_status proto_commit_encode(struct proto_buffer buffer, struct proto_call call,
                                              const struct proto_commit *items, uint32_t count,
                                              size_t *bytes_out);
MUST_USE enum umbp_status proto_commit_open(const struct proto_frame *frame,
                                            struct proto_walk *walk_out);
bool proto_commit_next(struct proto_walk *walk, struct proto_commit *item_out);

/* STATS' reply. */
struct proto_stat {
    struct proto_text name;
    uint64_t value;
    bool is_counter;
};
MUST_USE enum umbp_status proto_stats_encode(struct proto_buffer buffer, struct proto_call call,
                                             const struct proto_stat *items, uint32_t count,
                                             size_t *bytes_out);
MUST_USE enum umbp_status proto_stats_open(const struct proto_frame *frame,
                                           struct proto_walk *walk_out);
bool proto_stats_next(struct proto_walk *walk, struct proto_stat *item_out);

/* -------------------------------------------------------------- a node to a master ------- */

/* HEARTBEAT, SYNC and UNREGISTER are about the node that registered on the same connection. */

/* What a node says of one of its tiers. */
struct proto_capacity {
    enum proto_tier tier;
    uint64_t total_bytes;
    uint64_t used_bytes;
    uint64_t evictable_bytes; /* of those used: what its own evictor can free at once */
    uint64_t largest_bytes;   /* the largest value that it takes; 0: not said */
};
struct proto_capacity proto_capacity_at(struct proto_rows capacities, uint32_t index);
struct proto_text proto_tag_at(struct proto_rows tags, const uint8_t *flat, uint32_t index);

/*
 * REGISTER: the whole truth about a node. `incarnation` is drawn anew at each start; the numbers of
 * its bundles belong to it. No items.
 */
struct proto_register {
    struct proto_text id;
    struct proto_text address;      /* of its fabric */
    struct proto_text node_address; /* what the public gRPC answers give out; may be empty, */
    struct proto_text peer_address; /* as this */
    uint64_t incarnation;
    const struct proto_capacity *capacities; /* encoding */
    const struct proto_text *tags;           /* encoding */
    struct proto_rows capacity_rows;         /* decoded: for proto_capacity_at */
    struct proto_rows tag_rows;              /* decoded: for proto_tag_at, */
    const uint8_t *tag_flat;                 /* with this */
    uint32_t capacity_count;
    uint32_t tag_count;
};
MUST_USE enum umbp_status proto_register_encode(struct proto_buffer buffer, struct proto_call call,
                                                const struct proto_register *node,
                                                size_t *bytes_out);
MUST_USE enum umbp_status proto_register_decode(const struct proto_frame *frame,
                                                struct proto_register *node_out);

enum proto_session_flag {
    PROTO_SESSION_SYNC_WANTED = 1, /* send a full sync: the master lacks events */
    PROTO_SESSION_UNKNOWN = 2,     /* the master does not know the node (any more): register */
    PROTO_SESSION_KEYS_WANTED = 4, /* events should carry their keys */
};

/* The reply of REGISTER, HEARTBEAT and SYNC. */
struct proto_session {
    uint64_t master_incarnation;
    uint64_t acked_sequence; /* bundles up to and with this one are in the master's index */
    uint64_t sync_id;        /* of the full sync under way; 0 if none, */
    uint32_t next_chunk;     /* and the chunk that it waits for */
    uint32_t node_index;     /* the node's handle */
    uint32_t flags;          /* enum proto_session_flag */
    uint32_t heartbeat_ms;
};
MUST_USE enum umbp_status proto_session_encode(struct proto_buffer buffer, struct proto_call call,
                                               enum proto_op op, enum umbp_status status,
                                               const struct proto_session *session,
                                               size_t *bytes_out);
MUST_USE enum umbp_status proto_session_decode(const struct proto_frame *frame,
                                               struct proto_session *session_out);

/* What happened to one key in one tier. */
struct proto_event {
    struct fingerprint print;
    uint64_t bytes;
    uint32_t depth;
    enum proto_tier tier;
    bool is_add;
    struct umbp_key key; /* data NULL and bytes 0 where it is not told */
};
#define PROTO_EVENT_BYTES 32u

/*
 * HEARTBEAT: one bundle of events in order, with its number: 1 for an incarnation's first, and one
 * more for each that follows; it is sent again unchanged until it is acknowledged. Without events
 * the number is that of the last bundle sent, and the beat only carries the present capacities.
 * SYNC: one chunk of a full sync: all add events. Chunks are numbered from 0; `sequence` is that of
 * the last bundle that the listing includes.
 */
struct proto_beat {
    uint64_t incarnation;
    uint64_t sequence;
    uint64_t sync_id; /* SYNC: not 0, another for each full sync. HEARTBEAT: 0 */
    uint32_t chunk;   /* SYNC */
    bool is_last;     /* SYNC */
    const struct proto_capacity *capacities; /* encoding */
    struct proto_rows capacity_rows;         /* decoded */
    uint32_t capacity_count;
};
MUST_USE enum umbp_status proto_beat_encode(struct proto_buffer buffer, struct proto_call call,
                                            enum proto_op op, const struct proto_beat *beat,
                                            const struct proto_event *events, uint32_t count,
                                            size_t *bytes_out);
MUST_USE enum umbp_status proto_beat_open(const struct proto_frame *frame,
                                          struct proto_beat *beat_out, struct proto_walk *walk_out);
bool proto_event_next(struct proto_walk *walk, struct proto_event *event_out);
/* The size of a frame with these. */
size_t proto_beat_bytes(uint32_t capacities, uint32_t events, size_t key_bytes);

/* ------------------------------------------------------------ a client to a master ------- */

/*
 * ROUTE_PUT, ROUTE_GET, LOOKUP: fingerprints, for ROUTE_PUT with sizes. Nodes are named by the
 * master's handles, which stand for one life of a node at its addresses.
 */
struct proto_ask {
    uint32_t node_index;            /* the client's own node, or PROTO_NODE_NONE */
    bool wants_nodes;               /* the answer shall describe the nodes that it names */
    const uint32_t *exclude;        /* encoding: nodes that shall not be answered */
    struct proto_rows exclude_rows; /* decoded: for proto_exclude_at */
    uint32_t exclude_count;
};
uint32_t proto_exclude_at(struct proto_rows exclude, uint32_t index);
struct proto_want {
    struct fingerprint print;
    uint64_t bytes; /* ROUTE_PUT only, else 0 */
};
MUST_USE enum umbp_status proto_ask_encode(struct proto_buffer buffer, struct proto_call call,
                                           enum proto_op op, const struct proto_ask *ask,
                                           const struct proto_want *wants, uint32_t count,
                                           size_t *bytes_out);
MUST_USE enum umbp_status proto_ask_open(const struct proto_frame *frame, struct proto_ask *ask_out,
                                         struct proto_walk *walk_out);
bool proto_want_next(struct proto_walk *walk, struct proto_want *want_out);
/* All that are left, without their sizes; how many. At most the frame's count. */
uint32_t proto_want_prints(struct proto_walk *walk, struct fingerprint *prints_out);

struct proto_node {
    uint32_t index;
    uint64_t incarnation;
    struct proto_text id;
    struct proto_text address;
    struct proto_text peer_address;
    const struct proto_capacity *capacities; /* encoding */
    struct proto_rows capacity_rows;         /* decoded */
    uint32_t capacity_count;
};

/* Where an item is, or should go. ROUTE_PUT: UMBP_OK, UMBP_ALREADY_EXISTS (node and tier of a
 * holder), UMBP_NO_SPACE, UMBP_TOO_LARGE (for every node). ROUTE_GET: UMBP_OK, UMBP_NOT_FOUND. */
struct proto_route {
    enum umbp_status status;
    enum proto_tier tier;
    uint8_t replicas; /* holders that the master knows of, excluded ones left out; at most 255 */
    uint32_t node_index;
    uint64_t bytes; /* of the value, 0 if not known */
};
/* The nodes that come with routes; or that NODES asked for. A handle that is not among those asked
 * for is no living node's. */
struct proto_members {
    uint32_t node_count;
    uint64_t left_off; /* EXT_MATCH: places for which the answer had no room; the header's aux */
    const struct proto_node *nodes; /* encoding */
    struct proto_walk walk;         /* decoded: for proto_node_next */
};
MUST_USE enum umbp_status proto_routes_encode(struct proto_buffer buffer, struct proto_call call,
                                              enum proto_op op, const struct proto_members *members,
                                              const struct proto_route *routes, uint32_t count,
                                              size_t *bytes_out);
MUST_USE enum umbp_status proto_routes_open(const struct proto_frame *frame,
                                            struct proto_members *members_out,
                                            struct proto_walk *walk_out);
bool proto_route_next(struct proto_walk *walk, struct proto_route *route_out);
bool proto_node_next(struct proto_walk *walk, struct proto_node *node_out);
/* NODES asks with proto_numbers_encode for handles (none: for all nodes); its reply is
 * proto_routes_encode with no routes. */

/* LOOKUP's reply: a byte per item, not 0 if a node has it. */
MUST_USE enum umbp_status proto_found_encode(struct proto_buffer buffer, struct proto_call call,
                                             const uint8_t *found, uint32_t count,
                                             size_t *bytes_out);
/* The `header.count` bytes, in the frame. */
MUST_USE enum umbp_status proto_found_open(const struct proto_frame *frame,
                                           const uint8_t **found_out);

/* ------------------------------------------------------------------ external KV index ---- */

/*
 * EXT_REPORT, EXT_REVOKE (fingerprints at a tier of a node), EXT_REVOKE_ALL (none; PROTO_TIER_NONE:
 * every tier), EXT_MATCH and EXT_HITS (fingerprints; no node, no tier). The first three are
 * answered by a bare status, EXT_HITS by numbers, EXT_MATCH by routes: one for each place where one
 * of the hashes is, with `bytes` being its index in the request, and the nodes. Of more than
 * UMBP_BATCH_MAX places or 256 nodes the rest is left off, and the answer says how many places.
 */
struct proto_ext {
    struct proto_text node_id;
    enum proto_tier tier;
    bool count_as_hit; /* EXT_MATCH: this is a routing decision and not just a look */
};
MUST_USE enum umbp_status proto_ext_encode(struct proto_buffer buffer, struct proto_call call,
                                           enum proto_op op, const struct proto_ext *ext,
                                           const struct fingerprint *prints, uint32_t count,
                                           size_t *bytes_out);
MUST_USE enum umbp_status proto_ext_open(const struct proto_frame *frame, struct proto_ext *ext_out,
                                         struct proto_walk *walk_out);
bool proto_print_next(struct proto_walk *walk, struct fingerprint *print_out);

#endif
