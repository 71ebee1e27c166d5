/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the master: the table (master_table.c), what a slot says (master_slot.c), nodes
 * (master_node.c), beats (master_beat.c), routing (master_route.c), the external index
 * (master_external.c), advice (master_advice.c), the tick (master.c), metrics.
 */
#ifndef MASTER_MASTER_PRIV_H
#define MASTER_MASTER_PRIV_H

#include <stdatomic.h>

#include "master/master.h"

/* --------------------------------------------------------------------------- table -------- */
/* fingerprint -> 16 bytes, open addressing in segments; see master_table.c. */

struct slot {
    struct fingerprint print;
    uint64_t word;  /* what it says; 0: a free slot */
    uint32_t stamp; /* ticks of the last access */
    uint32_t extra; /* the table's user's */
};

struct segment;

struct door {
    /* Relaxed both: read without the lock to prefetch, where only an address is made of them.
     * Written under the shard's lock. */
    _Atomic(struct segment *) segment; /* NULL: empty */
    _Atomic uint32_t homes;            /* the segment's */
};

struct shard {
    struct mutex lock;  /* RANK_SHARD: the doors, the segments and their slots */
    struct door *doors; /* 2^depth in use; the address never changes */
    _Atomic uint32_t depth;
} ALIGNED_LINE;

struct table {
    struct shard *shards;
    uint32_t shard_count;
    uint32_t shard_shift;
    uint32_t depth_max;
    uint64_t keys_max;
    _Atomic uint64_t keys;
    _Atomic uint64_t bytes; /* of segments and of what slots point to */
    void (*drop)(struct table *table, struct slot *slot); /* frees what a slot points to */
};

MUST_USE enum umbp_status table_init(struct table *table, uint32_t shard_count, uint64_t keys_max,
                                     void (*drop)(struct table *, struct slot *));
void table_fini(struct table *table); /* takes a zeroed one */

static inline struct shard *table_shard(const struct table *table, struct fingerprint print)
{
    return &table->shards[table->shard_shift < 64 ? print.low >> table->shard_shift : 0];
}

void table_prefetch(const struct table *table, struct fingerprint print);

/* The rest under the shard's lock. A slot's address is good until the next insert or remove. */
struct slot *table_find(const struct shard *shard, struct fingerprint print);
/* The slot of a key that is not there, `word` in it and the rest zero. UMBP_NO_MEMORY; UMBP_LIMIT.
 */
MUST_USE enum umbp_status table_insert(struct table *table, struct shard *shard,
                                       struct fingerprint print, uint64_t word,
                                       struct slot **slot_out);
void table_remove(struct table *table, struct shard *shard, struct slot *slot); /* drops it */

/* A walk over all slots, a few segments at a call, each under its shard's lock. Starts zeroed. */
struct table_cursor {
    uint32_t shard;
    uint32_t door;
};
/* Slots for which `keep` is false are removed. False once the walk is done. A slot that is there
 * from its begin to its end is seen at least once. */
bool table_walk(struct table *table, struct table_cursor *cursor, uint32_t segments,
                bool (*keep)(void *context, struct slot *slot), void *context);

/* ---------------------------------------------------------------------------- slots ------- */

/*
 * A slot's word, in the block and the external table:
 *   one location: bytes (40 bits) | owner (14) | tiers (3) | ROUTED | 0
 *   several, or a key: the address of a struct many | ROUTED | MANY
 * An owner is a node's index in the block table, and index * MASTER_TIERS + tier in the external
 * one. `extra` is the depth (20 bits) and, for one location, its epoch (12).
 */
#define WORD_OWNER_SHIFT 40
#define WORD_TIERS_SHIFT 54
#define WORD_ROUTED (UINT64_C(1) << 57) /* the last access was a route: it leases the key */
#define WORD_MANY (UINT64_C(1) << 58)
#define WORD_POINTER ((UINT64_C(1) << 48) - 1)
#define EPOCH_BITS 12
#define EPOCH_MASK ((1u << EPOCH_BITS) - 1)
#define DEPTH_NONE 0xFFFFFu
_Static_assert(MASTER_NODES_MAX *MASTER_TIERS <= 1u << 14, "an owner's bits");

struct location {
    uint64_t bytes;
    uint32_t owner;
    uint32_t epoch;
    uint8_t tiers; /* bit t - 1 for tier t */
};

/* What has no room in a word. Allocated, packed: key bytes follow the places. */
struct place {
    uint32_t epoch;
    uint32_t word_low;
    uint32_t word_high;
};
struct many {
    uint16_t count;
    uint8_t capacity;
    uint8_t is_packed; /* the key's first 64 bytes are hex digits, kept as 32 */
    uint16_t key_bytes;
    uint16_t stored_bytes;
    struct place places[];
};

static inline uint8_t tier_bit(uint32_t tier) { return (uint8_t)(1u << (tier - 1)); }

uint32_t slot_count(const struct slot *slot);
struct location slot_at(const struct slot *slot, uint32_t index);
/* The index of the owner's location, or UINT32_MAX. */
uint32_t slot_find(const struct slot *slot, uint32_t owner);
void slot_set(struct slot *slot, uint32_t index, const struct location *location);
/* UMBP_NO_MEMORY; UMBP_LIMIT with MASTER_LOCATIONS_MAX there. The slot is as it was then. */
MUST_USE enum umbp_status slot_append(struct table *table, struct slot *slot,
                                      const struct location *location);
/* Take one of several away. (The last goes with table_remove.) */
void slot_take(struct table *table, struct slot *slot, uint32_t index);
MUST_USE enum umbp_status slot_keep_key(struct table *table, struct slot *slot, const void *key,
                                        size_t bytes);
/* The key's bytes into `key_out` (UMBP_KEY_BYTES_MAX); returns how many, 0: not kept. */
size_t slot_key(const struct slot *slot, void *key_out);
void slot_drop(struct table *table, struct slot *slot);
uint64_t word_of(const struct location *location);

static inline uint32_t slot_depth(const struct slot *slot) { return slot->extra >> EPOCH_BITS; }
static inline void slot_set_depth(struct slot *slot, uint32_t depth)
{
    slot->extra = (slot->extra & EPOCH_MASK) | depth << EPOCH_BITS;
}

/* ---------------------------------------------------------------------------- views ------- */

/*
 * What of an owner counts: its locations whose epoch is in [first, now] (modulo 2^12), if it is
 * alive. One word, so that a whole node appears, is replaced and goes in one moment; what is left
 * in the table is swept later. In the upper half the node's handle.
 */
#define VIEW_ALIVE (UINT64_C(1) << 31)
#define VIEW_LOST (UINT64_C(1) << 30) /* its connection ended: only if nobody else has it */

static inline uint64_t view_of(uint32_t handle, bool alive, uint32_t first, uint32_t now)
{
    return (uint64_t)handle << 32 | (alive ? VIEW_ALIVE : 0) | (first & EPOCH_MASK) << EPOCH_BITS |
           (now & EPOCH_MASK);
}
static inline uint32_t view_handle(uint64_t view) { return (uint32_t)(view >> 32); }
static inline uint32_t view_now(uint64_t view) { return (uint32_t)view & EPOCH_MASK; }
static inline uint32_t view_first(uint64_t view)
{
    return (uint32_t)(view >> EPOCH_BITS) & EPOCH_MASK;
}
static inline bool view_shows(uint64_t view, uint32_t epoch)
{
    uint32_t first = view_first(view);
    return (view & VIEW_ALIVE) &&
           ((epoch - first) & EPOCH_MASK) <= ((view_now(view) - first) & EPOCH_MASK);
}

#define HANDLE_INDEX_BITS 12
static inline uint32_t handle_index(uint32_t handle) { return handle & (MASTER_NODES_MAX - 1); }
_Static_assert(MASTER_NODES_MAX == 1u << HANDLE_INDEX_BITS, "a handle's bits");

/* ---------------------------------------------------------------------------- nodes ------- */

/* The variable part of a registration, one block. */
struct node_text {
    struct master_text id;
    struct master_text addresses[3]; /* node, peer, fabric */
    struct master_text tags[MASTER_TAGS_MAX];
    size_t tag_count;
    const void *engine;
    size_t engine_bytes;
    char bytes[];
};

/* [oldest, now] may be in the table, [first, now] counts. */
struct epochs {
    _Atomic uint32_t oldest; /* relaxed: only the tick moves it, towards `first` */
    uint32_t first;
    uint32_t now;
};

enum node_count {
    NODE_ROUTE_PUTS,
    NODE_ROUTE_GETS,
    NODE_BATCH_ROUTE_PUTS,
    NODE_BATCH_ROUTE_GETS,
    NODE_EVENTS_APPLIED,
    NODE_GAPS,
    NODE_SYNCS,
    /* By tier from here: the tier is added. */
    NODE_REPORTS,
    NODE_REPORTS_REFUSED = NODE_REPORTS + MASTER_TIERS,
    NODE_REPORT_BLOCKS = NODE_REPORTS_REFUSED + MASTER_TIERS,
    NODE_REVOKES = NODE_REPORT_BLOCKS + MASTER_TIERS, /* [0]: of all tiers */
    NODE_REVOKE_BLOCKS = NODE_REVOKES + MASTER_TIERS,
    NODE_COUNTS = NODE_REVOKE_BLOCKS + MASTER_TIERS,
};

struct node {
    struct mutex lock; /* RANK_MASTER_NODE: this block */
    uint64_t acked_sequence;
    uint64_t sync_id;
    uint64_t done_sync_id; /* the last that was completed; has_done_sync */
    uint32_t next_chunk;
    bool is_syncing;
    bool wants_sync;
    bool has_done_sync;
    bool is_incomplete; /* something was dropped for want of memory at ... */
    uint64_t incomplete_ns;
    uint64_t keys[MASTER_TIERS]; /* locations in view */
    uint64_t sync_keys[MASTER_TIERS];
    struct epochs epochs;
    struct epochs external[MASTER_TIERS];

    /* Under master.members_lock from here. */
    struct node_text *text;
    enum master_node_state state; /* UNKNOWN: the record is free */
    uint32_t handle;
    uint32_t generation;
    uint64_t incarnation;
    bool is_lost;
    bool wants_keys;
    struct master_capacity capacities[MASTER_TIERS];
    uint64_t key_counts[MASTER_TIERS]; /* as the node says */
    bool has_key_counts;
    uint64_t expired_ns;
    uint64_t warn_capacity_ns; /* not before */

    /* Relaxed: a time that is looked at again under the locks before anything is made of it, and
     * statistics. */
    _Atomic uint64_t last_beat_ns;
    _Atomic uint64_t counts[NODE_COUNTS];
};

/* Where a put may go. Under master.put_lock. */
struct target {
    uint32_t node;
    uint64_t available[2]; /* HBM, DRAM */
    uint64_t evictable[2];
    uint64_t largest[2];
    uint64_t taken[2];           /* routed since the last report, the two windows' excluded */
    uint64_t window_taken[2][2]; /* [0]: this window, [1]: the one before */
};

#define TIER_SLOTS 2 /* tiers that a put may go to */

enum counter {
    COUNT_MATCHES,
    COUNT_MATCH_QUERIED,
    COUNT_MATCH_FOUND,
    COUNT_INVALID_EVENTS,
    COUNT_DROPPED_MEMORY,
    COUNT_DROPPED_LIMIT,
    COUNT_EXPIRED,
    COUNT_REFUSED_DOUBLE,
    COUNT_SWEEPS,
    COUNT_UNROUTED_PUTS,
    COUNT_MISSED_GETS,
    COUNT_ADVICE_ROUNDS,
    COUNT_ADVICE_VICTIMS,
    COUNTERS
};

struct advice_round;

struct master {
    struct master_options options;
    uint64_t incarnation;
    uint64_t start_ns;
    struct table blocks;
    struct table external;
    struct table hits;

    /* By node index, and by owner of the external table. Release on store, under the node's lock
     * and the members'; acquire on load: who sees a node's view sees what was true of it before. */
    _Atomic uint64_t *views;
    _Atomic uint64_t *external_views;

    struct mutex members_lock; /* RANK_MASTER_MEMBERS: the map, and a node's second block */
    struct node *nodes;        /* nodes_max, mapped */
    uint32_t nodes_used;       /* those beyond were never used */
    uint16_t *map;             /* id hash -> index + 1, linear probing, 0 free */
    uint32_t map_mask;

    struct mutex put_lock; /* RANK_MASTER_PUT: placement */
    struct target *targets;
    uint32_t target_count;
    uint32_t *target_of; /* by node, index + 1 */
    uint64_t window;     /* the number of this window of put_window_ms */
    struct rng rng;

    struct log_limit refusals;
    _Atomic uint64_t choice; /* relaxed: a source of different numbers */
    _Atomic uint32_t match_calls;
    _Atomic uint64_t counters[COUNTERS];

    /* The tick's own; `ticking` keeps a second one out. */
    atomic_flag ticking;
    uint64_t reap_ns, evict_ns, collect_ns;
    _Atomic bool sweep_wanted; /* release with what made it so, acquire before the sweep */
    int sweep_stage;           /* 0 none, 1 blocks, 2 external */
    struct table_cursor sweep_cursor;
    uint16_t *sweep_first; /* by owner of the external table; [index * MASTER_TIERS]: blocks */
    bool is_collecting;
    struct table_cursor collect_cursor;
    struct advice_round *round;
    uint32_t advice_from; /* the node that the next round begins with */

    struct mutex advice_lock; /* RANK_LEAF: the advice that waits to be taken */
    struct master_advice advice;
    bool has_advice;
};

static inline void count(struct master *master, enum counter counter, uint64_t by)
{
    /* relaxed: a statistic */
    atomic_fetch_add_explicit(&master->counters[counter], by, memory_order_relaxed);
}

static inline void node_counted(struct node *node, uint32_t which, uint64_t by)
{
    atomic_fetch_add_explicit(&node->counts[which], by, memory_order_relaxed);
}

static inline uint64_t now_ns(const struct master *master)
{
    return clock_now_ns(master->options.clock);
}

/* Times in slots: some 17 ms each, from the start on, for two years before they wrap. */
#define STAMP_SHIFT 24
static inline uint32_t stamp_at(const struct master *master, uint64_t ns)
{
    return (uint32_t)((ns - master->start_ns) >> STAMP_SHIFT);
}

static inline uint64_t view_load(const struct master *master, uint32_t node)
{
    return atomic_load_explicit(&master->views[node], memory_order_acquire);
}

uint64_t master_expiry_ns(const struct master *master);

/* master_node.c. A node by id, with its own lock held and then the members' for the check; NULL
 * when there is no such record. The caller unlocks node->lock. */
struct node *node_lock_by_id(struct master *master, struct master_text id);
struct node *node_lock_index(struct master *master, uint32_t index);
static inline uint32_t node_index(const struct master *master, const struct node *node)
{
    return (uint32_t)(node - master->nodes);
}
void node_publish_view(struct master *master, struct node *node, bool alive); /* both locks */
void node_expire_due(struct master *master);
bool text_is_valid(struct master_text text, bool may_be_empty);
/* Begin a new epoch, keeping [first, now] in view, or forgetting it. False: none is free until the
 * sweep has passed. */
bool epochs_next(struct master *master, struct epochs *epochs, bool forget);
/* Likewise all of a node's, forgetting; if one is not free, nothing changes. The node's lock. */
bool node_forget(struct master *master, struct node *node);

/* master_put.c, under members_lock: the node's capacities as they are now; it takes puts no more.
 */
void put_node_here(struct master *master, const struct node *node);
void put_node_gone(struct master *master, uint32_t node);

/* master_advice.c: a piece of a round; true while there is more to do. */
bool advice_step(struct master *master, uint64_t now);
void advice_round_free(struct advice_round *round);

/* master_external.c */
bool external_hit_is_fresh(const struct master *master, const struct slot *slot, uint32_t stamp);

#endif
