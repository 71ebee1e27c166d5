/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks with ranks. A thread may take a lock only if its rank is higher than that of every lock it
 * holds; builds with UMBP_LOCK_RANKS (debug) assert it. The ranks of the whole program:
 */
#ifndef BASE_MUTEX_H
#define BASE_MUTEX_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

enum mutex_rank {
    RANK_CLIENT = 10,         /* client: state, registered memory */
    RANK_POOL = 12,           /* pool client: links, members, memory, areas; its hints */
    RANK_NODE_JOBS = 15,      /* node: jobs that wait for a thread, or have ended */
    RANK_STORE = 20,          /* store: slow-path state (clear, flush, close) */
    RANK_STORE_EVICT = 22,    /* store: the order of eviction */
    RANK_STORE_QUEUE = 25,    /* store: copy queue */
    RANK_MASTER_NODE = 26,    /* master: a node's sequence, while a beat is applied */
    RANK_MASTER_MEMBERS = 27, /* master: who is a member */
    RANK_MASTER_PUT = 28,     /* master: placement */
    RANK_SHARD = 30,          /* index shard; never two at once */
    RANK_INDEX_MEMORY = 35,   /* slabs that the shards' arenas share */
    RANK_EVENTS = 40,         /* event ring */
    RANK_SSD = 50,            /* tier_ssd: segment table and active segment */
    RANK_DRAM = 60,           /* tier_dram: page bitmaps */
    RANK_IO_POOL = 70,        /* checked-out I/O queues and buffers */
    RANK_DISK = 80,           /* inside a driver */
    RANK_FABRIC = 85,         /* fabric: free lists, who polls; jobs of the pull threads */
    RANK_COPY_POOL = 90,      /* copy pool */
    RANK_LEAF = 100,          /* tests, tools: nothing is taken under it */
};

struct mutex {
    pthread_mutex_t native;
#ifdef UMBP_LOCK_RANKS
    enum mutex_rank rank;
#endif
};

struct condition {
    pthread_cond_t native; /* on CLOCK_MONOTONIC */
};

void mutex_init(struct mutex *mutex, enum mutex_rank rank);
void mutex_fini(struct mutex *mutex);
#ifdef UMBP_LOCK_RANKS
void mutex_lock(struct mutex *mutex);
void mutex_unlock(struct mutex *mutex);
#else
static inline void mutex_lock(struct mutex *mutex) { pthread_mutex_lock(&mutex->native); }
static inline void mutex_unlock(struct mutex *mutex) { pthread_mutex_unlock(&mutex->native); }
#endif
/* Debug builds: abort if the calling thread holds any lock. Called before I/O and bulk copies. */
#ifdef UMBP_LOCK_RANKS
void mutex_assert_none_held(void);
#else
static inline void mutex_assert_none_held(void) {}
#endif

void condition_init(struct condition *condition);
void condition_fini(struct condition *condition);
void condition_signal(struct condition *condition);
void condition_broadcast(struct condition *condition);
/* False once `deadline_ns` (of CLOCK_MONOTONIC) is past. Wakes for no reason too: check again. */
bool condition_wait(struct condition *condition, struct mutex *mutex, uint64_t deadline_ns);

#endif
