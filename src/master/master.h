/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The master's service core: who is a member, who says to hold which key, where to write and where
 * to read, what schedulers report of caches outside (the external KV index), and advice on what to
 * evict. Two doors stand in front of it (gRPC and fabric frames); it knows neither.
 *
 * It only advises. Nodes own every page; all of this is a projection of what nodes reported, and
 * any answer may be out of date by the time it is used. A wrong answer costs its user a retry or a
 * miss, never a wrong byte. So where memory runs out or a limit is met, a report is dropped and
 * counted rather than refused: the master must never be what stops a node.
 *
 * Nodes are named by id (text, chosen by the node) at the door, and by handle inside. A handle is
 * an index and a generation; it stands for one life of a node at its addresses. A node that comes
 * back (new incarnation, other addresses) has a new handle, so who caches {handle, addresses} sees
 * at once what it does not know yet, and asks master_node_addresses. Old handles are UMBP_STALE.
 *
 * Keys are fingerprints: 128 bits, made at the edge with the cluster's seed. Key bytes are kept
 * only for what lives on nodes that registered with `wants_keys`: the public UMBPPeer service is
 * asked to evict by key, and the public peer has no evictor of its own. Our own nodes evict by
 * themselves. Everything else in the public interface answers with keys or hashes that the request
 * named.
 *
 * Threads. Every function may be called from any thread at any time between create and destroy. The
 * core has no thread of its own: what is due by time is done by master_tick, a bounded piece at a
 * call, which one thread of a door calls. Locks: a node's own (sequence and application, held while
 * a beat is applied) < members < placement < index shard. No lock is held over a log line, a
 * visitor or an allocation of more than a segment. Beats of one node wait for each other; nothing
 * else waits for a beat for longer than one shard's segment takes (some 20 us).
 *
 * Time is options.clock, nothing else; randomness comes from options.seed. So a whole cluster can
 * be simulated.
 *
 * Ownership. Everything passed in is borrowed until return; nothing that is passed out points into
 * the core, except what says so.
 *
 * Limits are the macros below and `nodes_max`, `keys_max`, `external_keys_max` of the options. The
 * time of a call is bounded by its counts.
 */
#ifndef MASTER_MASTER_H
#define MASTER_MASTER_H

#include "base/base.h"
#include <umbp/umbp.h>

#define MASTER_NODES_MAX 4096u          /* of options.nodes_max: living and remembered together */
#define MASTER_TEXT_BYTES_MAX 255u      /* a node id, an address, a tag */
#define MASTER_TAGS_MAX 32u             /* of one node */
#define MASTER_ENGINE_BYTES_MAX 16384u  /* public engine_desc */
#define MASTER_BATCH_MAX UMBP_BATCH_MAX /* keys of one routing, lookup or external call */
#define MASTER_EXCLUDES_MAX 256u        /* nodes of one exclude list */
#define MASTER_LOCATIONS_MAX 255u       /* nodes remembered for one key; more are dropped */
#define MASTER_VALUE_BYTES_MAX ((UINT64_C(1) << 40) - 1)
#define MASTER_BEAT_EVENTS_MAX (4u << 20) /* events of one beat */
#define MASTER_MATCH_ROWS_MAX (1u << 20)  /* of one match */
#define MASTER_VICTIMS_MAX 65536u         /* of one round of advice */

#define MASTER_NODE_NONE 0u /* no handle */

struct master;

/* The public proto's numbers. */
enum master_tier {
    MASTER_TIER_NONE = 0,
    MASTER_TIER_HBM = 1,
    MASTER_TIER_DRAM = 2,
    MASTER_TIER_SSD = 3,
    MASTER_TIERS = 4, /* arrays by tier; [0] is not used */
};
const char *master_tier_name(enum master_tier tier); /* "HBM", ..., "UNKNOWN" */

/* Text that need not end in 0. Valid as an id, address or tag: at most MASTER_TEXT_BYTES_MAX bytes,
 * no control characters; an id is not empty. */
struct master_text {
    const char *data;
    size_t bytes;
};

static inline struct master_text master_text_of(const char *text)
{
    return (struct master_text){text, text ? strlen(text) : 0};
}

/* --------------------------------------------------------------------------- options ------ */

enum master_put_algorithm {
    MASTER_PUT_MOST_AVAILABLE = 0,
    MASTER_PUT_RANDOM = 1, /* weighted by what is available */
};

enum master_put_affinity {
    MASTER_AFFINITY_NONE = 0,
    MASTER_AFFINITY_SAME = 1,  /* a batch on one node if it fits, else sticky */
    MASTER_AFFINITY_LOCAL = 2, /* the asking node first */
};

/*
 * Names and defaults of the public master's environment variables; the fields without one are ours.
 * master_option_* below are the rows as data.
 */
struct master_options {
    uint64_t heartbeat_ttl_sec;           /* UMBP_HEARTBEAT_TTL_SEC=10 */
    uint64_t max_missed_heartbeats;       /* UMBP_MAX_MISSED_HEARTBEATS=3 */
    uint64_t heartbeat_interval_divisor;  /* UMBP_HEARTBEAT_INTERVAL_DIVISOR=2 */
    uint64_t reaper_interval_sec;         /* UMBP_REAPER_INTERVAL_SEC=5 */
    uint64_t eviction_check_interval_sec; /* UMBP_EVICTION_CHECK_INTERVAL_SEC=5 */
    uint64_t lease_duration_sec;          /* UMBP_LEASE_DURATION_SEC=2 */
    uint64_t hit_index_ttl_sec;           /* UMBP_HIT_INDEX_TTL_SEC=7200 */
    uint64_t hit_index_gc_interval_sec;   /* UMBP_HIT_INDEX_GC_INTERVAL_SEC=60 */
    uint64_t hit_query_max_batch;         /* UMBP_HIT_QUERY_MAX_BATCH=4096 */
    uint64_t index_shards;                /* UMBP_MASTER_INDEX_SHARDS=32; rounded up to 2^n */
    uint64_t put_algorithm;               /* UMBP_ROUTE_PUT_SELECT_ALGO=most_available */
    uint64_t put_affinity;                /* UMBP_ROUTE_PUT_NODE_AFFINITY=none */
    /* For the doors; the core only reads them from the environment and lists them. */
    uint64_t metadata_backend;           /* UMBP_METADATA_BACKEND=inmemory; there is no other */
    uint64_t evictkey_deadline_ms;       /* UMBP_EVICTKEY_DEADLINE_MS=1000 */
    uint64_t grpc_shutdown_deadline_sec; /* UMBP_GRPC_SHUTDOWN_DEADLINE_SEC=3 */
    uint64_t min_pollers;                /* UMBP_MASTER_MIN_POLLERS=8 */
    uint64_t max_pollers;                /* UMBP_MASTER_MAX_POLLERS=64 */

    uint32_t nodes_max;          /* default and most: MASTER_NODES_MAX */
    uint64_t keys_max;           /* default 256 Mi keys: about 12 GiB */
    uint64_t external_keys_max;  /* default 64 Mi, and as many with hit counts */
    double evict_high_watermark; /* 0.9: advice for a node's tier from this fill on ... */
    double evict_low_watermark;  /* 0.7: ... down to this one */
    uint32_t evict_batch;        /* 4096: victims of one node's tier in one round */
    bool advise_all;             /* false: advice only about nodes with `wants_keys` */
    uint64_t forget_after_sec;   /* 3600: an expired node's record is kept that long at least */
    uint64_t put_window_ms;      /* 500: routed bytes count as taken for one to two windows */
    uint64_t seed;               /* 0: from the clock. Random choices. */
    uint64_t incarnation;        /* of this master; 0: from the clock */
    const struct clock_source *clock; /* NULL: clock_monotonic() */
};

void master_options_default(struct master_options *options);

/*
 * Take the published variables from `get` (NULL: the process's environment). As the public master
 * does: unset or empty is the default silently; what is not a whole decimal number or below the
 * least is the default with one warning per name and process; enums are trimmed. Never fails.
 */
void master_options_from_env(struct master_options *options,
                             const char *(*get)(void *context, const char *name), void *context);

/* Every knob with what is in effect, for the line at the start, for docs and for --help. */
struct master_option_row {
    const char *variable; /* "UMBP_HEARTBEAT_TTL_SEC" */
    const char *help;
    const char *unit; /* "s", "ms", "" */
    char value[24];
    char fallback[24]; /* the default */
};
/* False past the last. `options` NULL gives the defaults. */
bool master_option_row(const struct master_options *options, size_t index,
                       struct master_option_row *row_out);

/* Whether the text is a value of the row `index`, which must be one. If not, `wanted_out` tells
 * what would be. Nothing is logged. */
bool master_option_check(size_t index, const char *text, char *wanted_out, size_t wanted_bytes);

/* UMBP_INVALID_VALUE with a sentence for an option that makes no sense; UMBP_NO_MEMORY. */
MUST_USE enum umbp_status master_create(const struct master_options *options,
                                        struct master **master_out, char *error_out,
                                        size_t error_bytes);
/* Nobody may be inside. Takes NULL. */
void master_destroy(struct master *master);

/* Do what is due: expiry, the sweep behind it, advice, the collection of old hit counts. Takes a
 * few ms at most. Answers in how many ns it would like to be called again, at most 1 s. Log lines
 * about nodes come from here and from register and beat. */
uint64_t master_tick(struct master *master);

uint64_t master_incarnation(const struct master *master);

/* ------------------------------------------------------------------------- membership ----- */

/* What a node says of one tier; it is taken as the truth. */
struct master_capacity {
    uint64_t total_bytes; /* 0: the node has no such tier */
    uint64_t available_bytes;
    uint64_t
        evictable_bytes;    /* besides: what its own evictor can free at once. 0 for public nodes */
    uint64_t largest_bytes; /* the largest value that it would take; 0: not said */
};

struct master_registration {
    struct master_text id;
    uint64_t incarnation; /* new at each start of the node; 0: the public proto has none */
    struct master_text node_address;
    struct master_text peer_address;   /* public UMBPPeer gRPC */
    struct master_text fabric_address; /* ours */
    const void *engine;                /* public engine_desc, opaque */
    size_t engine_bytes;
    const struct master_text *tags; /* "key=value" */
    size_t tag_count;
    bool has_capacities;
    struct master_capacity capacities[MASTER_TIERS];
    bool wants_keys; /* keep key bytes of what it holds, for master_advice_take */
};

struct master_registered {
    uint32_t node; /* handle */
    uint64_t heartbeat_interval_ms;
    uint64_t acked_sequence; /* the next bundle is this plus 1 */
    bool wants_full_sync;    /* the node should list what it holds, even if it holds nothing */
};

/*
 * UMBP_OK: the node is alive. An expired, lost or unregistered one revives; nothing of its former
 * life is shown. The same incarnation (not 0) again is a retry and keeps everything; addresses,
 * tags and capacities are taken from the call each time.
 * UMBP_BUSY: a live node has this id (another incarnation, or the public proto's 0).
 * UMBP_INVALID_VALUE: text that is none. UMBP_LIMIT: too long, too many, no room for another node,
 * or this one came and went so often that the sweep has to pass first. Nothing changes then.
 */
MUST_USE enum umbp_status master_register(struct master *master,
                                          const struct master_registration *registration,
                                          struct master_registered *registered_out);

/* What the node held is gone at once. An unknown node is UMBP_OK; another incarnation (both not 0)
 * is UMBP_STALE and nothing happens. */
MUST_USE enum umbp_status master_unregister(struct master *master, struct master_text id,
                                            uint64_t incarnation);

/* The door saw the node's connection end. It stays a member until its time is up or it beats again,
 * but another incarnation may take its place at once, puts are not routed to it, and gets only when
 * no other node has the key. */
void master_node_lost(struct master *master, struct master_text id, uint64_t incarnation);

enum master_node_state {
    MASTER_NODE_UNKNOWN = 0, /* the public proto's numbers */
    MASTER_NODE_ALIVE = 1,
    MASTER_NODE_EXPIRED = 2,
};

/* The handle of a living node; MASTER_NODE_NONE for any other. */
uint32_t master_node_find(struct master *master, struct master_text id);

struct master_addresses {
    uint32_t node;
    uint64_t incarnation;
    char id[MASTER_TEXT_BYTES_MAX + 1];
    char node_address[MASTER_TEXT_BYTES_MAX + 1];
    char peer_address[MASTER_TEXT_BYTES_MAX + 1];
    char fabric_address[MASTER_TEXT_BYTES_MAX + 1];
};
/* UMBP_STALE for a handle that is not a living node's any more (the key's route was a miss then).
 */
MUST_USE enum umbp_status master_node_addresses(struct master *master, uint32_t node,
                                                struct master_addresses *addresses_out);

struct master_node_info {
    struct master_addresses addresses;
    enum master_node_state state;
    bool is_syncing;    /* a full sync is wanted or under way */
    uint64_t silent_ms; /* since the last beat */
    uint64_t acked_sequence;
    struct master_capacity capacities[MASTER_TIERS];
    uint64_t keys[MASTER_TIERS]; /* the locations that the index holds of it */
    uint32_t tag_count;
    char tags[MASTER_TAGS_MAX][MASTER_TEXT_BYTES_MAX + 1];
};
/* By id, also of expired nodes: UMBP_NOT_FOUND. The structure is large; not for the stack of a
 * small thread. */
MUST_USE enum umbp_status master_node_info(struct master *master, struct master_text id,
                                           struct master_node_info *info_out);
/* Handles of the living nodes, at most `capacity`; returns how many there are. */
size_t master_nodes(struct master *master, uint32_t *nodes_out, size_t capacity);
/* The public engine_desc; returns its size, 0 for a stale handle. Copies only if it fits. */
size_t master_node_engine(struct master *master, uint32_t node, void *engine_out, size_t capacity);

/* ------------------------------------------------------------------------------ beats ----- */

struct master_event {
    struct fingerprint print;
    uint64_t bytes;  /* of the value; an add's */
    const void *key; /* needed only from nodes with `wants_keys`; NULL: not known */
    uint16_t key_bytes;
    uint8_t tier; /* enum master_tier */
    bool is_add;
    uint32_t depth; /* or UMBP_DEPTH_NONE */
};

struct master_bundle {
    uint64_t sequence; /* one number for the whole bundle: the last one acknowledged plus 1 */
    const struct master_event *events;
    size_t count;
};

/*
 * A beat. With bundles it carries events, without it just says that the node lives: never a gap.
 *
 * Delta: bundles in ascending order. One at or below the acknowledged sequence was seen and is
 * skipped; the next is applied; one further on is a gap: it and the rest are not applied, and the
 * answer wants a full sync.
 *
 * Full sync: the node lists all that it holds, in chunks of one sync_id (not 0, another one for
 * each sync), numbered from 0; `baseline` is the sequence that the listing is of. What was known
 * before stays in view until the chunk with `is_last` is applied: in that moment everything that
 * this listing did not name is gone, and the acknowledged sequence is the baseline. A chunk that
 * was seen is skipped, one out of order is not applied and the answer says which is expected; chunk
 * 0 of another sync_id starts over. Of a node with an incarnation, a listing older than what is
 * acknowledged is refused
 * (`wants_full_sync`). The public proto's one-message full sync is sync_id 0, chunk 0, is_last.
 * Bundles' own sequences do not count in a full sync, and removes in it are skipped. Deltas that
 * come while a sync is under way are not applied nor acknowledged: the node sends them again.
 */
struct master_beat {
    struct master_text id;
    uint64_t incarnation;
    const struct master_bundle *bundles;
    size_t bundle_count;
    bool is_full_sync;
    bool is_last;
    uint32_t chunk;
    uint64_t sync_id;
    uint64_t baseline;
    bool has_capacities; /* else they stay as they were */
    struct master_capacity capacities[MASTER_TIERS];
    bool has_key_counts; /* the node's own count of keys by tier, for the metrics */
    uint64_t key_counts[MASTER_TIERS];
};

struct master_beat_answer {
    uint32_t node; /* handle */
    uint64_t acked_sequence;
    bool wants_full_sync;
    uint64_t sync_id;    /* of the sync under way; 0 if none */
    uint32_t next_chunk; /* ... and the chunk that it waits for */
    uint64_t applied;    /* events of this beat that were applied */
};

/*
 * UMBP_OK also for gaps and for an expired node, which revives and is asked for a full sync.
 * UMBP_NOT_FOUND: the master does not know the node, which should register.
 * UMBP_STALE: another incarnation has taken its place; it must not go on.
 * UMBP_LIMIT: more than MASTER_BEAT_EVENTS_MAX events. UMBP_INVALID_VALUE. UMBP_BUSY: the node has
 * come and gone so often that the sweep has to pass first. Nothing is applied then.
 * An event that makes no sense (tier, size) is skipped and counted.
 */
MUST_USE enum umbp_status master_beat(struct master *master, const struct master_beat *beat,
                                      struct master_beat_answer *answer_out);

/* ---------------------------------------------------------------------------- routing ----- */

enum master_outcome {
    MASTER_UNAVAILABLE = 0, /* get: not found. put: no node has room (the public proto's numbers) */
    MASTER_ROUTED = 1,
    MASTER_ALREADY_EXISTS = 2, /* put only */
};

struct master_route {
    uint32_t node; /* handle */
    uint8_t outcome;
    uint8_t tier;
    uint8_t replicas;  /* get: nodes that hold it, at most 255; excluded ones left out */
    bool is_too_large; /* put, unavailable: larger than each node's largest, if all say theirs */
    uint64_t bytes;    /* get: the size that the owner reported */
};

/* Who asks, and whom it does not want. */
struct master_caller {
    uint32_t node;            /* its handle, or MASTER_NODE_NONE */
    const uint32_t *excludes; /* handles; stale ones are skipped */
    size_t exclude_count;
    bool is_single; /* the single call of the public proto: counted apart */
};

/*
 * For each key the fastest tier and, there, a random one of the nodes that hold it. Counts as an
 * access of the key and leases it: for lease_duration the adviser does not propose it.
 * UMBP_LIMIT for more than MASTER_BATCH_MAX keys or MASTER_EXCLUDES_MAX excludes.
 */
MUST_USE enum umbp_status master_route_get(struct master *master,
                                           const struct master_caller *caller,
                                           const struct fingerprint *prints, size_t count,
                                           struct master_route *routes_out);

/*
 * For each key where to write it: already-exists, or a node with room (HBM before DRAM, never SSD)
 * by the algorithm and affinity of the options, or unavailable. `sizes` NULL: every size is `size`.
 * What is routed counts as taken at once, for this batch and for everybody else, until the owner's
 * reports include it (put_window_ms). A node that has just joined empty takes at most half as much
 * again as the mean of all, once 32 MiB or 8 values are routed in a window.
 */
MUST_USE enum umbp_status master_route_put(struct master *master,
                                           const struct master_caller *caller,
                                           const struct fingerprint *prints, const uint64_t *sizes,
                                           uint64_t size, size_t count,
                                           struct master_route *routes_out);

/* Whether some node holds it that is not lost. No access, no lease, no counter. */
MUST_USE enum umbp_status master_lookup(struct master *master, const struct fingerprint *prints,
                                        size_t count, uint8_t *found_out);

/* --------------------------------------------------------------------- eviction advice ---- */

struct master_victim {
    struct fingerprint print;
    uint64_t bytes;
    const void *key; /* within the advice; NULL when the key's bytes are not kept */
    uint32_t node;   /* handle */
    uint16_t key_bytes;
    uint8_t tier;
};

/* Those of one node and tier stand together: the longest unused first, of equals the deepest. */
struct master_advice {
    struct master_victim *victims;
    size_t count;
    void *memory; /* internal */
};

/* The round that master_tick has finished, handed over; UMBP_NOT_FOUND when there is none. A round
 * begins every eviction_check_interval when a `wants_keys` node's HBM or DRAM is above the high
 * watermark; it looks at a thousand such tiers at most, others in the next one. Nothing changes in
 * the master: the owner decides, and its events tell. */
MUST_USE enum umbp_status master_advice_take(struct master *master,
                                             struct master_advice *advice_out);
void master_advice_free(struct master_advice *advice);

/* ------------------------------------------------------------------- external KV index ---- */
/* What engines keep outside of the pool, by hash, as fingerprints: reported, never routed to.
 * Tiers add up: one hash may be at several tiers of a node. Only living nodes may report; what a
 * node reported goes with it. */

/* UMBP_NOT_FOUND: the node is not alive. UMBP_NO_MEMORY, UMBP_LIMIT: not all of it is taken in.
 * UMBP_INVALID_VALUE: no tier. Idempotent. */
MUST_USE enum umbp_status master_external_report(struct master *master, struct master_text id,
                                                 const struct fingerprint *prints, size_t count,
                                                 enum master_tier tier);
MUST_USE enum umbp_status master_external_revoke(struct master *master, struct master_text id,
                                                 const struct fingerprint *prints, size_t count,
                                                 enum master_tier tier);
/* Everything that the node reported at this tier; MASTER_TIER_NONE: at all of them. UMBP_OK for an
 * unknown node; UMBP_BUSY after thousands of them in a row, until the sweep has passed. */
MUST_USE enum umbp_status master_external_revoke_all(struct master *master, struct master_text id,
                                                     enum master_tier tier);

struct master_match_row {
    uint32_t node; /* handle */
    uint32_t item; /* index into the request */
    uint8_t tier;
};

struct master_matches {
    struct master_match_row *rows; /* sorted by node, tier, item */
    size_t count;
    size_t distinct; /* how many of the request's items were found at all */
};

/* `counts_as_hit`: each distinct hash that was found gets one hit (real routing; not diagnostics).
 * UMBP_LIMIT for too many hashes or rows. End with master_matches_free. */
MUST_USE enum umbp_status master_external_match(struct master *master,
                                                const struct fingerprint *prints, size_t count,
                                                bool counts_as_hit,
                                                struct master_matches *matches_out);
void master_matches_free(struct master_matches *matches);

/* Hits of each hash, 0 for none and for a repetition within the request. UMBP_LIMIT above
 * options.hit_query_max_batch. */
MUST_USE enum umbp_status master_external_hits(struct master *master,
                                               const struct fingerprint *prints, size_t count,
                                               uint64_t *hits_out);

/* ---------------------------------------------------------------------------- metrics ----- */

enum master_metric_type {
    MASTER_COUNTER,
    MASTER_GAUGE
};

#define MASTER_LABELS_MAX (MASTER_TAGS_MAX + 3)

/* Borrowed during the visit. Public names where the public master has the metric. */
struct master_metric {
    const char *name; /* "mori_umbp_client_count" */
    const char *help;
    enum master_metric_type type;
    struct {
        const char *name;
        const char *value; /* not escaped */
    } labels[MASTER_LABELS_MAX];
    size_t label_count;
    double value;
};

/* All of them, those of one name together. No lock is held during a visit. */
MUST_USE enum umbp_status
master_metrics(struct master *master,
               void (*visit)(void *context, const struct master_metric *metric), void *context);

/* ------------------------------------------------------------------------------ bench ----- */

/* What this machine does, in process, on one thread, by that thread's CPU time (the system's share
 * included). For `umbp bench`. */
struct master_bench_figures {
    uint64_t keys;
    uint64_t nodes;
    double ingest_per_s;        /* events of new keys, in bundles of 128 */
    double remove_per_s;        /* the same keys going */
    double bytes_per_key;       /* the index's own count, one location each */
    double resident_per_key;    /* what the process grew by; 0 where /proc is not there */
    double keyed_bytes_per_key; /* with key bytes of 70 kept (nodes with wants_keys) */
    double route_get_per_s;     /* batches of 128 keys that are there */
    double lookup_per_s;        /* batches of 128, half of them there */
    double route_put_per_s;     /* batches of 128 new keys */
    double full_sync_s; /* all nodes listing all keys to an empty master, one after another */
    double sweep_s;     /* ticks until what an expired node held is gone */
    double longest_tick_s;
};

MUST_USE enum umbp_status master_bench(uint64_t keys, uint64_t nodes,
                                       struct master_bench_figures *figures_out);

#endif
