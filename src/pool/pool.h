/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The distributed client: takes batches, asks a master where things are or should go, groups them
 * by node, runs all nodes at once while it copies what is in its own store, tries elsewhere what
 * failed, and remembers where this process wrote. docs/pool.md is the design.
 *
 *   batch -> chunks of POOL_CHUNK items -> rounds:
 *       own store, hints, master's advice  ->  node of each item
 *       one request per node and POOL_REQUEST_ITEMS items, all at once; own copies meanwhile
 *       answers: done, or once more elsewhere (at most `retries` rounds, within the deadline)
 *
 * Whose bytes. Buffers are the caller's and borrowed until the function returns. When it returns,
 * no peer will read or write them any more, whatever happened: each request either was answered, or
 * its connection has ended (rule 1); what was pulled from a peer of this host was valid when its
 * epoch was checked (rule 2).
 *
 * Answers. A miss is UMBP_NOT_FOUND, also where no master could be asked or a holder did not answer
 * in time: then it is counted as such ("pool.misses_unsure"). A put that found no place anywhere is
 * UMBP_NO_SPACE, or UMBP_TOO_LARGE if no node could ever take it; one that found nobody to talk to
 * goes to the own store.
 *
 * Time. Each call ends within op_timeout_ms, and 1 s for connections to end. A master is given
 * POOL_MASTER_MS, then the next one is asked, and it rests: nobody waits for it again until it has
 * answered a question in the background.
 *
 * Threads. All functions may be called from any thread but the fabric's callbacks; those marked
 * "loop" are for the fabric's callbacks. A waiting call drives the fabric's loop itself. Locks:
 * RANK_POOL, held for a few lookups, never over a call into the fabric that may wait, or a copy.
 *
 * Memory. Work areas are kept and used again, at most POOL_AREAS_MAX; more callers than that wait.
 * On the steady path nothing is allocated but the provider's registrations.
 */
#ifndef POOL_POOL_H
#define POOL_POOL_H

#include "base/base.h"
#include "fabric/fabric.h"
#include "store/store.h"
#include <umbp/umbp.h>

#define POOL_CHUNK 1024u
#define POOL_REQUEST_ITEMS 256u
#define POOL_MASTERS_MAX 8u
#define POOL_LINKS_MAX 4096u
#define POOL_AREAS_MAX 256u
#define POOL_MASTER_MS 1000u
#define POOL_CONNECT_MS 2000u
#define POOL_REGIONS_MAX 65536u /* registered buffers */

struct pool;

enum pool_recache {
    POOL_RECACHE_SIZE = 0, /* up to recache_bytes */
    POOL_RECACHE_NEVER = 1,
    POOL_RECACHE_ALWAYS = 2,
};

struct pool_options {
    struct fabric *fabric; /* borrowed; its peer_down handler calls pool_peer_down */
    struct store *store;   /* of the own node; borrowed. NULL: a client only */
    uint32_t master_count; /* 1..POOL_MASTERS_MAX; their addresses come by pool_master_found */
    /* Any thread, may be NULL: a master does not answer where it was found; pool_master_found says
     * where it is. Must not block. */
    void (*master_wanted)(void *context, uint32_t master);
    void *context;
    const char *node_id; /* the own node's; copied. NULL: a client only */
    uint64_t hash_seed;  /* of the cluster, and of the store */
    uint32_t op_timeout_ms;
    uint32_t retries; /* rounds after the first */
    enum pool_recache recache;
    uint64_t recache_bytes;
    double recache_below;   /* of the memory tier: above this share nothing is cached again */
    uint64_t staging_bytes; /* used only where registering is dear */
};

/* UMBP_NO_MEMORY, UMBP_INVALID_VALUE. */
MUST_USE enum umbp_status pool_create(const struct pool_options *options, struct pool **pool_out);
/* No call may be running. The fabric is closed already, or will be before it is destroyed; none of
 * its callbacks may run during or after this. Takes NULL. */
void pool_destroy(struct pool *pool);

/* Where master `master`'s fabric door is. Any thread. */
void pool_master_found(struct pool *pool, uint32_t master, const char *address);
/* loop: forward every peer_down; others' peers are ignored. */
void pool_peer_down(struct pool *pool, fabric_peer peer, enum umbp_status reason);

/* As the public functions of the same names (umbp.h). Every item has passed no check yet. */
MUST_USE enum umbp_status pool_batch_put(struct pool *pool, const struct umbp_put_item *items,
                                         size_t count, enum umbp_status *statuses_out);
MUST_USE enum umbp_status pool_batch_get(struct pool *pool, const struct umbp_get_item *items,
                                         size_t count, enum umbp_status *statuses_out);
MUST_USE enum umbp_status pool_batch_put_ranges(struct pool *pool,
                                                const struct umbp_range_item *items, size_t count,
                                                enum umbp_status *statuses_out);
MUST_USE enum umbp_status pool_batch_get_ranges(struct pool *pool,
                                                const struct umbp_range_item *items, size_t count,
                                                enum umbp_status *statuses_out);
MUST_USE enum umbp_status pool_batch_exists(struct pool *pool, const struct umbp_key *keys,
                                            size_t count, uint8_t *found_out);
MUST_USE enum umbp_status pool_exists_consecutive(struct pool *pool, const struct umbp_key *keys,
                                                  size_t count, size_t *hits_out);
/* From the own store and from every holder that a master knows of. UMBP_IO where no master could be
 * asked: others may have it still. */
MUST_USE enum umbp_status pool_batch_remove(struct pool *pool, const struct umbp_key *keys,
                                            size_t count, enum umbp_status *statuses_out);
/* What is known of one key, wherever it is. `in_dram` and `in_ssd` are the holder's. */
MUST_USE enum umbp_status pool_stat(struct pool *pool, struct umbp_key key,
                                    struct umbp_entry_info *info_out);

/* The own store was cleared: what masters still say of it is doubted for a while. Any thread. */
void pool_cleared(struct pool *pool);

/* As umbp_register_memory. UMBP_BUSY from deregister: a call is using it. */
MUST_USE enum umbp_status pool_register(struct pool *pool, void *data, size_t bytes);
MUST_USE enum umbp_status pool_deregister(struct pool *pool, void *data);

/* As the public functions of the same names. */
MUST_USE enum umbp_status pool_external_report(struct pool *pool, const struct umbp_key *hashes,
                                               size_t count, enum umbp_tier tier);
MUST_USE enum umbp_status pool_external_revoke(struct pool *pool, const struct umbp_key *hashes,
                                               size_t count, enum umbp_tier tier);
MUST_USE enum umbp_status pool_external_revoke_all(struct pool *pool, enum umbp_tier tier);
MUST_USE enum umbp_status
pool_external_match(struct pool *pool, const struct umbp_key *hashes, size_t count,
                    bool counts_as_hit, void (*visit)(void *, const struct umbp_external_match *),
                    void *context);
MUST_USE enum umbp_status pool_external_hits(struct pool *pool, const struct umbp_key *hashes,
                                             size_t count, uint64_t *hits_out);

/* "pool.*"; `count_out` is how many there are. */
void pool_stats(struct pool *pool, struct umbp_stat_value *values_out, size_t capacity,
                size_t *count_out);

#endif
