/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the node. Everything here is the loop's, but what says otherwise. */
#ifndef NODE_NODE_PRIV_H
#define NODE_NODE_PRIV_H

#include <stdatomic.h>
#include <string.h>

#include "node/node.h"
#include "proto/proto.h"

#define NODE_PEER_BUCKETS 256u
#define NODE_LANE_RANGES 64u
#define NODE_LANE_PARTS 8u
#define NODE_SLOT_PIECES 64u
#define NODE_INLINE_ITEMS 128u

#define NODE_COUNTERS(X)                                                                           \
    X(requests)                                                                                    \
    X(requests_busy)                                                                               \
    X(requests_malformed)                                                                          \
    X(puts_stored)                                                                                 \
    X(puts_existing)                                                                               \
    X(puts_failed)                                                                                 \
    X(bytes_in)                                                                                    \
    X(gets_placed)                                                                                 \
    X(gets_written)                                                                                \
    X(gets_staged)                                                                                 \
    X(gets_missed)                                                                                 \
    X(gets_busy)                                                                                   \
    X(gets_corrupt)                                                                                \
    X(bytes_out)                                                                                   \
    X(pins_expired)                                                                                \
    X(slots_expired)                                                                               \
    X(peers_overdue)                                                                               \
    X(events_shipped)                                                                              \
    X(bundles_repeated)                                                                            \
    X(syncs_begun)                                                                                 \
    X(syncs_done)                                                                                  \
    X(registrations)

struct node_counters {
#define NODE_COUNTER_FIELD(name) _Atomic uint64_t name;
    NODE_COUNTERS(NODE_COUNTER_FIELD)
#undef NODE_COUNTER_FIELD
    _Atomic uint64_t operations_now;
    _Atomic uint64_t grants_now;
    _Atomic uint64_t slots_now;
    _Atomic uint64_t lanes_now;
    _Atomic uint64_t masters_now; /* these two: a bit a session; written on the loop */
    _Atomic uint64_t taken_now;
};
/* relaxed: they are only read for statistics */
#define NODE_COUNT(owner, name, n)                                                                 \
    atomic_fetch_add_explicit(&(owner)->counters.name, (n), memory_order_relaxed)

/* What a peer has of ours. */
struct node_peer {
    struct list_node node; /* in its bucket */
    fabric_peer peer;
    struct list_node grants;
    struct list_node slots;
    uint64_t granted_bytes;
};

/* Places that one GET was answered with. */
struct node_grant {
    struct list_node node;
    uint64_t request_id;
    uint64_t expires_ns;
    uint64_t bytes;
    uint32_t count;
    struct store_pin pins[];
};

enum slot_state {
    SLOT_FREE = 0,
    SLOT_OPEN,
    SLOT_COMMITTED /* kept until it is needed, so that a repeated commit is answered */
};
struct node_slot {
    struct list_node node; /* of its peer while open; of the free ones else */
    enum slot_state state;
    uint32_t generation;
    fabric_peer peer;
    uint64_t expires_ns;
    struct store_reservation reservation;
    uint8_t *key;
    struct fabric_region *regions[NODE_SLOT_PIECES];
    struct proto_piece pieces[NODE_SLOT_PIECES];
    uint32_t region_count;
    uint64_t bytes; /* of what was committed */
    uint64_t key_hash;
};

struct put_item {
    struct proto_put put;
    struct store_reservation reservation;
    uint32_t index;
};
struct put_state {
    struct put_item items[NODE_WINDOW];
    uint32_t item_count;
    bool last_is_open; /* the last one is not wholly in this window */
    bool has_next;     /* `next` was taken from the frame, and not reserved yet */
    struct proto_put next;
    uint32_t next_index;
    uint32_t piece; /* of the last item: where it goes on */
    uint64_t piece_at;
    uint64_t value_at;
    uint32_t cursor;
    uint64_t window_bytes;
    uint64_t give_up_ns; /* of waiting for room; 0: not waiting */
};

/* Where an item of a GET goes on. */
struct get_item {
    struct proto_get get;
    struct store_pin pin;
    enum umbp_status status; /* of pinning and checking it */
    uint32_t index;
    uint32_t range;
    uint64_t range_at;
    uint32_t cursor;
};
struct get_state {
    struct proto_got *results; /* count; `places` is set last, from place_at */
    uint32_t *place_at;
    struct store_pin pins[NODE_WINDOW]; /* of this window, let go after it */
    uint32_t pin_count;
    struct get_item open; /* the item that is being cut into pieces */
    bool has_open;
    bool same_host;
    struct proto_place *places;
    uint32_t place_count;
    uint32_t place_capacity;
    struct node_grant *grant; /* being filled */
    uint32_t grant_capacity;
    struct get_item *ssd; /* items that are to be staged */
    uint32_t ssd_count;
    uint32_t ssd_capacity;
    uint32_t ssd_next;
    uint32_t lanes; /* under way */
    bool is_moving;
    struct get_item
        *checked; /* with checks_memory: the next NODE_WINDOW items at most. While ... */
    uint32_t checked_count;
    uint32_t checked_next;
    bool is_checking; /* ... this is set, they are a job thread's */
    bool has_failed;  /* nothing more is worth moving */
};

struct node_op {
    struct list_node node; /* free or busy */
    struct node *owner;
    struct fabric_request *request;
    struct proto_frame frame;
    uint64_t overdue_ns; /* then its peer is closed; UINT64_MAX: that was done */
    struct proto_walk walk;
    uint32_t next_index;
    enum umbp_status *statuses; /* PUT; `few` or its own memory */
    enum umbp_status few[NODE_INLINE_ITEMS];
    struct fabric_piece pieces[NODE_PIECES];
    uint32_t piece_count;
    struct fabric_timer timer;
    struct node_job job;
    uint64_t number; /* of a job: in and out */
    enum umbp_status status;
    bool is_get;
    bool is_put;
    bool is_job;
    union {
        struct put_state put;
        struct get_state get;
    };
};

/* A part of the staging memory, and what is being read through it. */
struct node_lane {
    struct list_node node; /* free ones */
    struct node *owner;
    struct node_op *op;
    char *data;
    struct node_lane *parts[NODE_LANE_PARTS]; /* whose memory it uses: its own, and borrowed ones */
    uint32_t part_count;
    struct get_item item;
    bool is_single; /* all ranges in one go */
    struct umbp_range ranges[NODE_LANE_RANGES];
    struct fabric_piece pieces[NODE_LANE_RANGES];
    uint32_t range_count; /* of both */
    /* Else part by part: */
    struct store_stream stream;
    bool is_open;    /* the stream */
    bool is_whole;   /* it has vouched for the value */
    bool is_closing; /* the job is to close it */
    uint64_t from;   /* the part that the memory holds, of the value */
    uint64_t to;
    struct node_job job;
    enum umbp_status status;
};

struct node_memory {
    char *data;
    uint64_t bytes;
    struct fabric_region *region;
};

struct node_session;
struct node_threads;

struct node_events {
    struct proto_event *items;
    uint32_t count;
    uint32_t capacity;
};

struct node {
    struct node_options options; /* strings are in `strings` */
    struct store *store;
    struct fabric *fabric;
    char *strings[4 + NODE_MASTERS_MAX + PROTO_TAGS_MAX];
    uint32_t string_count;
    const char *tags[PROTO_TAGS_MAX];
    struct node_memory memory[DRAM_BUFFERS_MAX];
    uint32_t memory_count;
    char *staging;
    uint64_t lane_bytes;
    struct fabric_region *staging_region;
    struct node_lane *lanes;
    struct list_node free_lanes;
    struct list_node free_ops;
    struct list_node busy_ops;
    uint32_t op_count;
    struct list_node peers[NODE_PEER_BUCKETS];
    struct node_slot *slots;
    struct list_node free_slots;
    uint8_t *scratch; /* PROTO_FRAME_MAX: the frame being written */
    struct node_threads *threads;
    struct node_session *sessions[NODE_MASTERS_MAX];
    struct fabric_timer sweep;
    struct fabric_task start_task;
    struct fabric_task stop_task;
    struct fabric_latch stop_latch;
    struct node_events events; /* being sent */
    _Atomic bool is_serving;
    struct node_counters counters;
};

/* node.c */
struct node_peer *node_peer_find(struct node *node, fabric_peer peer);
struct fabric_region *node_region_of(const struct node *node, const void *data);
/* The frame in scratch, as the answer; ends the op. `made` is what encoding it came to. */
void node_op_answer(struct node_op *op, enum umbp_status made, size_t bytes);
void node_op_refuse(struct node_op *op, enum umbp_status status); /* an answer without a body */
static inline struct proto_buffer node_scratch(struct node *node)
{
    return (struct proto_buffer){node->scratch, PROTO_FRAME_MAX};
}
static inline uint64_t node_now_ns(const struct node *node) { return fabric_now_ns(node->fabric); }

/* node_put.c, node_get.c, node_stage.c */
void node_put_begin(struct node_op *op);
void node_put_drop(struct node_op *op); /* the fabric is closed: give everything back */
void node_get_begin(struct node_op *op);
void node_get_drop(struct node_op *op);
void node_get_goes_on(struct node_op *op); /* a lane has ended */
/* Start lanes for the op's staged items, as many as there are. */
void node_stage_start(struct node_op *op);
MUST_USE enum umbp_status node_stage_create(struct node *node);
MUST_USE enum umbp_status node_stage_register(struct node *node);
void node_stage_drop(struct node_lane *lane); /* the fabric is closed: it gives everything back */
void node_stage_destroy(struct node *node);
void node_grant_free(struct node *node, struct node_peer *peer, struct node_grant *grant);
void node_release(struct node *node, fabric_peer peer, const struct proto_frame *frame);
void node_grants_expire(struct node *node, struct node_peer *peer, uint64_t now_ns);

/* node_slot.c */
MUST_USE enum umbp_status node_slots_create(struct node *node);
void node_slots_destroy(struct node *node);
void node_slot_end(struct node *node, struct node_slot *slot); /* open: its pages are freed */
void node_reserve(struct node_op *op);
void node_commit(struct node_op *op);
void node_abort(struct node_op *op);
void node_slots_expire(struct node *node, struct node_peer *peer, uint64_t now_ns);

/* node_keys.c */
void node_exists(struct node_op *op);
void node_remove(struct node_op *op);
void node_resolve(struct node_op *op);
void node_report_stats(struct node_op *op);
void node_clear(struct node_op *op);
void node_evict(struct node_op *op);

/* node_job.c */
void node_job_run(struct node *node, struct node_job *job);
MUST_USE enum umbp_status node_threads_create(struct node *node);
/* On the loop: what is queued, and what will be, is cancelled. */
void node_jobs_cancel(struct node *node);
/* Cancels, joins, and runs every `done` that is due. */
void node_threads_destroy(struct node *node);

/* node_session.c */
MUST_USE enum umbp_status node_session_create(struct node *node, uint32_t index,
                                              const char *address,
                                              struct node_session **session_out);
void node_session_destroy(struct node_session *session);
void node_session_start(struct node_session *session);
/* UNREGISTER; counts stop_latch down when it is done or can't be. */
void node_session_stop(struct node_session *session);
void node_session_peer_down(struct node_session *session, fabric_peer peer);

/* node_sync.c: what a session sends. Both fill node->events, which is the loop's. */
MUST_USE enum umbp_status node_events_create(struct node *node);
uint32_t node_capacities(struct node *node, struct proto_capacity *capacities_out);
/* The events from *sequence on, at most `most`, and the sequence past the last. UMBP_STALE: they
 * are lost. */
MUST_USE enum umbp_status node_events_take(struct node *node, uint64_t *sequence_inout,
                                           uint32_t most);
/* The next part of a full list; true with the last. */
MUST_USE bool node_events_list(struct node *node, struct store_cursor *cursor);

#endif
