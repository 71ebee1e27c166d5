/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node: a store behind the fabric. Clients put into it, get from it and ask it by the frames of
 * proto.h; it tells the masters what it has.
 *
 * The data service. The owner moves the bytes: a PUT is answered when the values were fetched from
 * the writer's memory into reserved pages and committed; a GET when they were written into the
 * reader's memory. On one host the bytes of a PUT are pulled, and a GET of what is in DRAM is
 * answered with the places, which stay pinned until the reader's RELEASE, its connection's end, or
 * pin_ms (then its epoch is raised first: rule 2 of docs/pool.md). Values on the SSD pass through
 * staging memory in the hands of a few workers. Pages that somebody was given to read or write are
 * never freed by a timer alone.
 *
 * Item statuses beyond the store's: UMBP_BUSY (no staging memory or operation record free: not a
 * miss, ask again), UMBP_STALE (the writer let go of its memory; a slot that is gone), UMBP_IO (an
 * address that can't be read), UMBP_NO_SPACE (nothing could be evicted for a while: try elsewhere).
 *
 * Slots (RESERVE, COMMIT, ABORT) are for writers that place bytes themselves, by RMA into pages
 * that are shown to them alone. A slot ends by commit, abort, its connection's end, or its
 * lifetime: then the connection is closed first. Who commits or aborts says that its transfers have
 * ended.
 *
 * The sessions. One a master, each on its own: connect, register, ship bundles of events as they
 * come (looked for every linger_ms), beat with capacities, list everything when asked to or when
 * events were lost, begin again after any failure. No answer of a master changes what is stored.
 *
 * Threads. Everything runs in callbacks of the fabric's loop (nothing there waits or copies in
 * bulk), but for disk reads, clear and evict, which the job threads do. node_create, node_start,
 * node_stop, node_destroy are the owner's, in that order and from outside the loop; node_stats and
 * node_master_found from anywhere.
 *
 * Ownership. Store and fabric are borrowed. The owner opens the fabric with node_handlers (or calls
 * these from its own), starts the node, and ends: node_stop, fabric_close, node_destroy,
 * fabric_destroy, store_destroy.
 *
 * Limits: operations_max requests at a time, then UMBP_BUSY; an hour for one, whatever its caller
 * says; pinned_bytes_max shown to one peer, what is more is written by RMA; slots_max; staging as
 * its options say; NODE_WINDOW items and NODE_PIECES pieces of one request under way at a time.
 */
#ifndef NODE_NODE_H
#define NODE_NODE_H

#include "base/base.h"
#include "fabric/fabric.h"
#include "store/store.h"

#define NODE_MASTERS_MAX 8u
#define NODE_WINDOW 64u
#define NODE_PIECES 512u
#define NODE_CLEAR_MS 30000u

struct node;

/* A piece of work for another thread: `work` there, then `done` on the loop. */
struct node_job {
    void (*work)(struct node_job *job);
    void (*done)(struct node_job *job);
    bool is_cancelled;     /* for `done`: the node ends, and `work` was not called */
    struct list_node node; /* the runner's */
};

/* Who runs the jobs; for simulations. NULL members are not allowed. */
struct node_runner {
    void (*run)(void *context, struct node_job *job);
    void *context;
};

/* Zero members are the default. Strings are copied. */
struct node_options {
    struct store *store;
    uint64_t hash_seed;   /* the cluster's */
    const char *id;       /* unique in the cluster */
    uint64_t incarnation; /* of this start; not 0 */
    bool checks_memory;   /* as the store's dram_checksum: what comes without a sum gets one, and
                             what goes out of memory is summed up first, by a job thread */
    const char *node_address;   /* for the public gRPC answers; "" */
    const char *peer_address;   /* likewise */
    const char *const *masters; /* fabric addresses */
    uint32_t master_count;
    /* On the loop, may be NULL: that master can't be reached where it was; node_master_found says
     * where it is. */
    void (*master_wanted)(void *context, uint32_t master);
    void *master_context;
    const char *const *tags;
    uint32_t tag_count;

    uint32_t operations_max;   /* 256 */
    uint64_t pinned_bytes_max; /* 0: a quarter of the DRAM tier. Shown to one peer */
    uint32_t pin_ms;           /* 10,000: for how long places stay without a RELEASE */
    uint64_t staging_bytes;    /* 64 MiB for values on the SSD, in ... */
    uint32_t staging_slots;    /* ... 8 parts, of which a value takes one */
    uint32_t job_threads;      /* 4 */
    uint32_t slots_max;        /* 1,024 */
    uint32_t slot_ms;          /* 30,000: the longest lifetime of a slot */
    uint32_t space_wait_ms;    /* 100: for how long a put waits for something to become evictable */
    uint32_t linger_ms;        /* 2: how often events are looked for */
    uint32_t bundle_events;    /* 1,024: of one bundle */
    uint32_t sync_events;      /* 2,000: of one chunk of a full sync, about */
    uint32_t master_timeout_ms;       /* 2,000: for one answer of a master */
    const struct node_runner *runner; /* NULL: own threads */
};

/* UMBP_INVALID_VALUE (no id, a store without a ring of events), UMBP_LIMIT (too many masters,
 * tags, too long), UMBP_NO_MEMORY. */
MUST_USE enum umbp_status node_create(const struct node_options *options, struct node **node_out);
/* Takes NULL. After fabric_close if it was started. Waits for the jobs under way, one a thread: a
 * disk read takes as long as the store lets it, a clear NODE_CLEAR_MS at most. What is queued is
 * not begun any more; its requests end with UMBP_CLOSED. */
void node_destroy(struct node *node);

/* The fabric's callbacks. Connections are refused (UMBP_BUSY) before the node is started, and after
 * it was stopped. */
struct fabric_handlers node_handlers(struct node *node);

/* Makes the memory known to the fabric and begins to serve and to report. */
MUST_USE enum umbp_status node_start(struct node *node, struct fabric *fabric);
/* Takes leave of the masters (for as long as that takes them, until the deadline) and answers
 * UMBP_CLOSED from now on, also to the requests whose jobs wait for a thread. */
void node_stop(struct node *node, uint64_t deadline_ns);

/* Where that master's fabric door is now; its session's next attempt goes there. Any thread. */
void node_master_found(struct node *node, uint32_t master, const char *address);

/* As umbp_stats does: counters of the node, not of its store. */
void node_stats(const struct node *node, struct umbp_stat_value *values_out, size_t capacity,
                size_t *count_out);

#endif
