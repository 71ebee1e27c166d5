/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the pool room.
 *
 * A call of the API works in an `area`: arrays for one chunk of items and for the requests of one
 * round. Only the calling thread touches an area, but for the fields of a request that its callback
 * fills before it counts the request's latch down.
 */
#ifndef POOL_POOL_PRIV_H
#define POOL_POOL_PRIV_H

#include <stdatomic.h>

#include "pool/pool.h"
#include "proto/proto.h"

#define POOL_REQUESTS_MAX 64u /* of one round; more nodes or items make another round */
#define POOL_EXCLUDES_MAX 64u
#define POOL_RELEASED_MAX 16u
#define POOL_HINTS 65536u /* power of two */
#define POOL_HINT_WAYS 4u
#define POOL_UNKNOWN_MAX 64u
#define POOL_MEMBERS 8192u /* handles of one master, open addressing; power of two */

/* ----------------------------------------------------------------------------- links ----- */

enum link_state {
    LINK_DOWN = 0,
    LINK_CONNECTING,
    LINK_UP,
};

struct link_waiter {
    struct link_waiter *next;
    struct fabric_latch *latch;                /* counted down, unless: */
    void (*ready)(struct link_waiter *waiter); /* called instead, without the lock */
};

/* Requests whose pins a node may let go, and has not been told of yet (pool_release.c). */
struct released {
    fabric_peer peer;
    uint32_t count;
    uint64_t bytes; /* pinned there */
    uint64_t ids[POOL_RELEASED_MAX];
};

/* One address that we talk to: a node's or a master's. Made at need and kept; a link that nobody
 * holds and that is down may be given another address. Guarded by pool->lock. */
struct pool_link {
    struct pool *pool;
    uint32_t index;
    char address[FABRIC_ADDRESS_MAX];
    fabric_peer peer;
    enum link_state state;
    uint32_t generation; /* grows when it is given another address */
    uint32_t holders;
    uint64_t retry_ns; /* down: not before */
    uint64_t used_ns;
    struct link_waiter *waiters;
    struct released released;
};

/* A link as a number: index and generation. 0 is none, LINK_SELF the own store. LINK_GONE, in hints
 * only: this process removed the key, and a master may not have heard of it yet. */
typedef uint64_t link_id;
#define LINK_NONE UINT64_C(0)
#define LINK_SELF UINT64_C(1)
#define LINK_GONE UINT64_C(2)
#define LINK_FIRST 3u

/* The link to `address`, held until link_release; NULL: all are in use, or no memory. */
struct pool_link *link_hold(struct pool *pool, const char *address, size_t address_bytes);
struct pool_link *link_hold_id(struct pool *pool, link_id id); /* NULL: it is another's now */
void link_release(struct pool_link *link);
link_id link_id_of(const struct pool_link *link);
/* Under the lock: whether the number still means the link that it was made of. */
bool link_is_current(const struct pool *pool, link_id id);
/* Begin to connect if need be. True: it is up, or not to be had now. False: `waiter` is counted
 * down (once; its latch was counted up), or called, when that has changed. */
bool link_want(struct pool_link *link, struct link_waiter *waiter, uint64_t deadline_ns);
/* Its peer, 0 while it is not up. */
fabric_peer link_peer(struct pool_link *link);
void links_destroy(struct pool *pool);

/* ---------------------------------------------------------------------------- memory ----- */

/* A buffer that the application registered. */
struct pool_memory {
    uintptr_t from;
    uintptr_t to;
    struct fabric_region *region;
    uint32_t users; /* runs */
};

/* Neighbouring buffers of one request, and the region that they lie in. In the order in which the
 * request's ranges use them. */
struct region_run {
    uintptr_t from;
    uintptr_t to;
    struct fabric_region *region;
    struct fabric_key key;
    struct pool_memory *memory; /* NULL: the region was made for this request */
};

/* ------------------------------------------------------------------------------ items ---- */

enum item_state {
    ITEM_OPEN = 0, /* to be placed and asked for */
    ITEM_DONE,     /* status is the answer */
    ITEM_TWIN,     /* put: the same key stands before it; waits for that one's outcome */
    ITEM_ASKED,    /* exists, remove, stat: open, but asked already in this turn */
};

struct pool_item {
    struct umbp_key key;
    struct fingerprint print;
    const struct umbp_range *ranges;
    uint32_t range_count;
    uint32_t depth;
    uint64_t bytes;   /* of the value */
    uint64_t payload; /* of its ranges */
    bool any_size;
    bool is_unsound; /* get: its ranges fit no value of that size; asked for without them */
    uint8_t state;
    uint8_t tiers;   /* stat: PROTO_TIER_BITs */
    bool is_asked;   /* in a request of this round, or in the own store's part */
    bool waits;      /* found no room in this round, keeps its link; not a failure */
    uint32_t tries;  /* get: rounds in which it failed */
    bool is_pulled;  /* its bytes come by a pull */
    bool is_doubted; /* exists: a master says so, but it was removed here */
    bool is_unsure;  /* a miss, but some holder or master could not be asked */
    bool was_removed;
    uint8_t replicas;         /* remove: holders that the master knew of */
    enum umbp_status failure; /* remove: the last */
    enum umbp_status status;
    link_id link;      /* where it goes in this round */
    link_id came_from; /* who answered it */
    link_id hint;      /* as hints_read found it */
    uint32_t twin;
    uint32_t asked_at;         /* exists: where the caller has it */
    struct umbp_range whole;   /* of a plain put or get */
    struct umbp_range *sorted; /* put: ranges that were not in order; freed with the chunk */
    char *staged;              /* where its bytes pass through the staging memory, else NULL */
};

/* ---------------------------------------------------------------------------- requests --- */

struct pool_request {
    struct pool_area *area;
    struct fabric_latch latch;
    struct pool_link *link;
    fabric_peer peer;
    uint64_t id;    /* as in the frame */
    uint32_t first; /* into area->order */
    uint32_t count;
    enum umbp_status status; /* of the call */
    uint64_t epoch;
    bool must_release; /* the owner has pinned what it named */
    uint64_t pinned_bytes;
    uint32_t piece_count;
    uint32_t piece_room;
    struct fabric_piece *pieces; /* to be pulled */
    uint32_t run_count;
    uint32_t run_room;
    struct region_run *runs;
};

enum area_kind {
    AREA_PUT,
    AREA_GET,
    AREA_EXISTS,
    AREA_REMOVE,
    AREA_STAT,
    AREA_EXTERNAL,
};

struct pool_area {
    struct pool *pool;
    struct pool_area *next;
    enum area_kind kind;
    bool has_ranges;
    uint64_t deadline_ns;
    uint32_t count;
    uint32_t failed_rounds; /* put */
    uint64_t busy_until_ns; /* get: for how long busy nodes are asked again; 0: none was yet */
    struct pool_item items[POOL_CHUNK];
    uint32_t order[POOL_CHUNK]; /* items, grouped by link */
    uint16_t twins[2 * POOL_CHUNK];
    /* For the own store, and for a master. */
    union {
        struct umbp_put_item puts[POOL_CHUNK];
        struct umbp_get_item gets[POOL_CHUNK];
        struct umbp_range_item ranges[POOL_CHUNK];
    } own;
    struct umbp_key keys[POOL_CHUNK];
    enum umbp_status statuses[POOL_CHUNK];
    uint8_t found[POOL_CHUNK];
    uint32_t picked[POOL_CHUNK];
    bool has_hints; /* of area->wants, as hints_look found them */
    struct proto_want wants[POOL_CHUNK];
    struct proto_route routes[POOL_CHUNK];
    uint64_t handles[POOL_UNKNOWN_MAX]; /* that a master named and we do not know yet */
    uint32_t handle_count;
    link_id excludes[POOL_EXCLUDES_MAX];
    uint32_t exclude_count;
    struct pool_request requests[POOL_REQUESTS_MAX];
    uint32_t request_count;
    union {
        struct proto_put puts[POOL_REQUEST_ITEMS];
        struct proto_get gets[POOL_REQUEST_ITEMS];
    } frame;
    void *sub_rows; /* pieces or ranges of one request */
    size_t sub_bytes;
    uint8_t *buffer; /* PROTO_FRAME_MAX, mapped: one frame, copied away by the fabric */
};

/* ------------------------------------------------------------------------------- pool ---- */

struct pool_member {
    uint32_t handle; /* 0: free */
    link_id link;    /* LINK_NONE: it has no address that we can use */
};

/* One question in the background to a master that rests (pool_rest.c). */
struct pool_probe {
    struct pool *pool;
    uint32_t master;
    bool is_running;
    struct pool_link *link; /* held while it runs */
    struct link_waiter waiter;
    uint64_t id;
    uint64_t next_ns; /* not before */
    uint32_t pause_ms;
};

struct pool_master {
    struct pool_link *link;      /* held; NULL until its address is known */
    struct pool_member *members; /* open addressing by handle */
    uint32_t member_count;
    bool rests; /* it kept a call waiting for nothing; not asked until a probe was answered */
    struct pool_probe probe;
    _Atomic uint32_t own_handle; /* what it calls the own node; 0: not known */
};

struct hint {
    uint64_t print_high; /* 0: free */
    link_id link;
};

struct pool_counters {
    _Atomic uint64_t hits_own, hits_remote, misses, misses_unsure;
    _Atomic uint64_t puts_own, puts_remote, puts_known;
    _Atomic uint64_t bytes_got, bytes_put, bytes_pulled;
    _Atomic uint64_t requests, requests_failed, retries, stale_pulls;
    _Atomic uint64_t master_calls, master_failures, master_skips, connects, connect_failures;
    _Atomic uint64_t recached, recache_refused, staged_bytes, removed;
};

struct pool {
    struct pool_options options;
    const struct clock_source *clock;
    struct clock_source fabric_clock;
    char own_address[FABRIC_ADDRESS_MAX];
    char node_id[PROTO_TEXT_MAX + 1];
    _Atomic uint64_t next_id;
    _Atomic uint32_t master_now;       /* the one that is asked first */
    _Atomic uint64_t cleared_until_ns; /* the own store was: masters may not have heard of it yet */
    struct pool_counters counters;
    struct log_limit log_staged;
    struct log_limit log_no_master;
    struct log_limit log_left_off;

    struct mutex lock; /* RANK_POOL: links, masters, members, memory, areas */
    struct condition area_free;
    struct pool_link *links[POOL_LINKS_MAX];
    uint32_t link_count;
    struct pool_master masters[POOL_MASTERS_MAX];
    struct pool_memory **memory; /* sorted by address */
    uint32_t memory_count;
    uint32_t memory_room;
    struct pool_area *areas; /* free ones */
    uint32_t area_count;
    bool is_release_timed; /* release_timer is set, and will send what is kept until then */
    struct fabric_timer release_timer;

    /* The staging memory belongs to one area at a time. */
    char *staging;
    struct fabric_region *staging_region;
    struct pool_area *staging_owner;
    uint64_t staging_used;
    struct condition staging_free;

    struct mutex hint_lock; /* RANK_POOL */
    struct hint *hints;
};

#define COUNT(pool, counter, amount)                                                               \
    atomic_fetch_add_explicit(&(pool)->counters.counter, (amount), memory_order_relaxed)

/* Wait for calls or connects that have deadlines of their own, which are no later than this: they
 * do complete, and the latch must not go before they have. */
void pool_await(struct pool *pool, struct fabric_latch *latch, uint64_t deadline_ns);

/* Areas. NULL: none within the time, or no memory. */
struct pool_area *area_take(struct pool *pool, enum area_kind kind, enum umbp_status *status_out);
void area_give(struct pool_area *area);
/* A buffer of at least `bytes` for sub-rows. NULL: no memory. */
void *area_sub_rows(struct pool_area *area, size_t bytes);

/* Hints: which link a print was lately written to, or read from; or LINK_GONE. hint_get gives
 * LINK_NONE for those, hint_is_gone tells. */
bool hint_is_gone(struct pool *pool, struct fingerprint print);
/* `hint` of all open items, LINK_GONE among them, under one lock. */
void hints_read(struct pool_area *area);
/* Whether there is one, or LINK_GONE, of any print that is asked for. PROTO_LOOKUP does so while it
 * waits for its answer. */
struct question;
void hints_look(struct question *question);
void hint_put(struct pool *pool, struct fingerprint print, link_id link);
link_id hint_get(struct pool *pool, struct fingerprint print);
void hint_drop(struct pool *pool, struct fingerprint print);

/* One question to one master. `take` runs on the loop, with the answer's frame. */
struct question {
    struct pool_area *area;
    struct fabric_latch latch;
    uint32_t master;
    enum proto_op op;
    uint32_t count;
    uint64_t id;
    enum umbp_status status;
    enum umbp_status (*take)(struct question *question, const struct proto_frame *frame);
    void (*meanwhile)(struct question *question); /* once it is sent; NULL: nothing to do */
    void *context;
};
struct question question_of(struct pool_area *area, uint32_t master, enum proto_op op,
                            uint32_t count);
/* Sends area->buffer[0..frame_bytes), and waits. */
MUST_USE enum umbp_status master_call(struct question *question, size_t frame_bytes);

/*
 * Ask a master about the items of area->picked[0..count): fills area->routes, or area->found for
 * PROTO_LOOKUP. Masters are tried in turn. Not UMBP_OK: none answered.
 */
MUST_USE enum umbp_status master_ask(struct pool_area *area, enum proto_op op, uint32_t count,
                                     uint32_t *master_out);
/* The same with area->wants[0..count) given. */
MUST_USE enum umbp_status master_ask_wants(struct pool_area *area, enum proto_op op, uint32_t count,
                                           uint32_t *master_out);
/* Ask it who the nodes are that area->routes[0..count) name and that are not known yet. */
void master_learn_routes(struct pool_area *area, uint32_t master, uint32_t count);
/* The frame that an answer of a master carries, checked against what was asked. */
MUST_USE enum umbp_status master_open_answer(const struct fabric_reply *reply, enum proto_op op,
                                             uint64_t id, struct proto_frame *frame_out);
/* Under the lock: what it called its nodes means nothing any more. */
void master_forget(struct pool_master *master);

/* pool_rest.c. False: it rests; a probe is begun if one is due. */
bool master_is_awake(struct pool *pool, uint32_t master);
/* It has kept a call waiting for nothing. */
void master_rest(struct pool *pool, uint32_t master);
/* It may be back: if it rests, a probe is begun. */
void master_try(struct pool *pool, uint32_t master);

/* The link of a node that this master named. LINK_NONE: no way to reach it. */
link_id master_link_of(struct pool_area *area, uint32_t master, uint32_t handle);

/* pool_release.c. What the request's owner has pinned may go: told at once, or with others. */
void request_release(struct pool_request *request);
/* A request has just gone there: what is kept may go behind it. */
void release_behind(struct pool_link *link);
/* On the loop, with the answer that made it known that there will be something to release. */
void release_expect(struct pool *pool);
void release_due(struct fabric_timer *timer); /* of the pool */

/* pool_own.c. The open items, listed in area->picked and ->keys; how many they are. */
uint32_t area_pick_open(struct pool_area *area);
/* The same, and in area->found which of them the own store has. 0 also if there is none. */
uint32_t own_exists(struct pool_area *area);
/* Put into, or get from, the own store the open items of LINK_SELF: their statuses. What is not
 * there any more stays open. */
void own_run(struct pool_area *area);

/* One round: a request for each link and POOL_REQUEST_ITEMS of the open items whose link is set
 * (and is not LINK_SELF). requests_send returns before the answers; requests_collect waits for them
 * and writes the items' statuses. */
void requests_send(struct pool_area *area);
void requests_collect(struct pool_area *area);

/* One chunk: area->items[0..count), of which those that are open are answered. */
void put_chunk(struct pool_area *area);
void get_chunk(struct pool_area *area);
void exists_chunk(struct pool_area *area, const struct umbp_key *keys, uint32_t count,
                  uint8_t *found_out);
void remove_chunk(struct pool_area *area);
void stat_chunk(struct pool_area *area);

void area_exclude(struct pool_area *area, link_id link);
bool area_excludes(const struct pool_area *area, link_id link);

/* Regions for the buffers of a request's items, in order. */
MUST_USE enum umbp_status runs_make(struct pool_request *request, unsigned access);
/* The key for one range; `*cursor` starts at 0 and moves with the ranges. */
struct fabric_key runs_key(const struct pool_request *request, const void *data, uint64_t bytes,
                           uint32_t *cursor);
void runs_drop(struct pool_request *request);
/* Where registering is dear: a place in the staging memory for an item whose buffers are not
 * registered. False: it must wait for the next round. */
bool stage_item(struct pool_area *area, struct pool_item *item);
void stage_out(const struct pool_item *item); /* get: to the caller's buffers */
void stage_end(struct pool_area *area);       /* of a round */
void memory_destroy(struct pool *pool);

#endif
