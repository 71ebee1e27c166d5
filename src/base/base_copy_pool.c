/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A job lives on its caller's stack, so the one thing that must never happen is that a worker still
 * looks at it after copy_pool_run has returned.
 *
 *     caller                             worker
 *     ------                             ------
 *     lock: job into the list            lock: first job of the list that has work,
 *     wake sleepers                            job.helpers++
 *     copy pieces until none is left     copy pieces until none is left
 *     lock: job out of the list          lock: job.helpers--, wake the waiting callers
 *           wait until helpers == 0            (the job is not touched after this)
 *     return
 *
 * A worker finds a job only in the list and joins it only under the lock; once the caller has taken
 * it out under the same lock, no new worker can find it, and those that had joined are counted. The
 * count falls under the lock too, which also hands the copied bytes over to the caller.
 *
 * The next piece is one 64-bit word, moved on by compare-and-swap, so a thread that the kernel
 * stops in the middle of claiming holds nobody up:
 *
 *     cursor = item index (32 bits) | piece of that item (32 bits)
 *
 * A claim is a run: a piece of a large item, or as many whole small items as make up a piece.
 *
 * When help pays (two cores, cold memory, us a job; alone / a worker asleep / a worker spinning):
 *
 *     512 KiB     37 /  41 /  24
 *     1 MiB       71 /  77 /  48
 *     2 MiB      147 / 118 /  91
 *     4 MiB      290 / 200 / 177
 *     16 MiB    1160 / 720 / 660
 *
 * Waking takes so long that a sleeper is woken from 2 MiB up only. A worker may wake on its
 * caller's core, where spinning would hold up the one that it spins for (a 512 KiB job then took 91
 * us), so every spin yields.
 */
#include "base/copy_pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "base/clock.h"
#include "base/copy.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/mutex.h"
#include "base/thread.h"

/* A claim ends early after this many items, however small they are. */
#define RUN_ITEMS_MAX 1024u
/* How often a caller that waits for a helper looks by itself; the helper's wake-up is what ends it.
 */
#define HELPER_WAIT_MS 100
/* How long a caller spins for its last helper: less than one piece takes. */
#define HELPER_SPIN_US 20
#define SPINS_PER_YIELD 32u

struct job {
    struct list_node node; /* in copy_pool.jobs; guarded by copy_pool.lock */
    const struct copy_item *items;
    size_t count;
    _Atomic uint64_t cursor;
    /* Workers inside the job. Written under copy_pool.lock. */
    _Atomic unsigned helpers;
};

struct run {
    size_t first_item;
    size_t item_count; /* whole items from first_item on; 0: the part below of first_item */
    size_t offset;
    size_t bytes;
};

struct copy_pool {
    /* Rank RANK_COPY_POOL. Guards jobs, sleepers, the helpers' counts and stop. */
    struct mutex lock;
    struct condition work; /* a job came, or stop */
    struct condition done; /* a job's last helper left */
    struct list_node jobs; /* in order of arrival; those that may have unclaimed pieces */
    unsigned sleepers;
    bool stop;

    unsigned workers;
    uint64_t spin_ns; /* 0 where there is one processor */
    /* Jobs in the list plus one for stop: what spinning workers look at without the lock. Its own
     * line, since they read it all the time. */
    ALIGNED_LINE _Atomic unsigned pending;
    /* Workers that spin. A hint: relaxed. */
    _Atomic unsigned spinners;
    ALIGNED_LINE pthread_t threads[];
};

/* ------------------------------------------------------------------------- claiming ---- */

/* The run at the cursor, and the cursor after it. False at the end. */
static bool run_at(const struct job *job, uint64_t cursor, struct run *run_out,
                   uint64_t *next_cursor_out)
{
    size_t item = (size_t)(cursor >> 32);
    size_t piece = (size_t)(cursor & UINT32_MAX);

    if (item >= job->count) {
        return false;
    }
    size_t bytes = job->items[item].bytes;
    if (bytes > COPY_POOL_PIECE_BYTES) {
        size_t offset = piece * COPY_POOL_PIECE_BYTES;
        size_t part = size_min(COPY_POOL_PIECE_BYTES, bytes - offset);
        bool is_last = offset + part == bytes;
        *run_out = (struct run){.first_item = item, .offset = offset, .bytes = part};
        *next_cursor_out = is_last ? (uint64_t)(item + 1) << 32 : cursor + 1;
        return true;
    }
    size_t end = item + 1;
    while (end < job->count && end - item < RUN_ITEMS_MAX &&
           job->items[end].bytes <= COPY_POOL_PIECE_BYTES - bytes) {
        bytes += job->items[end++].bytes;
    }
    *run_out = (struct run){.first_item = item, .item_count = end - item};
    *next_cursor_out = (uint64_t)end << 32;
    return true;
}

static bool claim(struct job *job, struct run *run_out)
{
    /* Relaxed: the cursor only deals out pieces. What the items point to was published by the
     * lock under which the job was found. */
    uint64_t cursor = atomic_load_explicit(&job->cursor, memory_order_relaxed);
    uint64_t next;

    do {
        if (!run_at(job, cursor, run_out, &next)) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&job->cursor, &cursor, next,
                                                    memory_order_relaxed, memory_order_relaxed));
    return true;
}

static bool has_work(const struct job *job)
{
    return (size_t)(atomic_load_explicit(&job->cursor, memory_order_relaxed) >> 32) < job->count;
}

static void copy_run(const struct job *job, const struct run *run)
{
    const struct copy_item *item = &job->items[run->first_item];

    if (run->item_count == 0) {
        copy_bytes((char *)item->to + run->offset, (const char *)item->from + run->offset,
                   run->bytes);
        return;
    }
    for (size_t i = 0; i < run->item_count; i++) {
        copy_bytes(item[i].to, item[i].from, item[i].bytes);
    }
}

static void work_on(struct job *job)
{
    struct run run;
    while (claim(job, &run)) {
        copy_run(job, &run);
    }
}

/* -------------------------------------------------------------------------- workers ---- */

/* Under the lock: takes the job out of the list, if it is in it. */
static void retire(struct copy_pool *pool, struct job *job)
{
    if (!list_is_empty(&job->node)) {
        list_remove(&job->node);
        /* Relaxed: see spin_for_job. */
        atomic_fetch_sub_explicit(&pool->pending, 1, memory_order_relaxed);
    }
}

/* Under the lock: the first job with work, joined; NULL when there is none. */
static struct job *join_job(struct copy_pool *pool)
{
    while (!list_is_empty(&pool->jobs)) {
        struct job *job = CONTAINER_OF(pool->jobs.next, struct job, node);
        if (has_work(job)) {
            /* Relaxed: the lock orders it. */
            atomic_fetch_add_explicit(&job->helpers, 1, memory_order_relaxed);
            return job;
        }
        retire(pool, job);
    }
    return NULL;
}

static void help(struct copy_pool *pool, struct job *job)
{
    work_on(job);
    mutex_lock(&pool->lock);
    retire(pool, job);
    /* Release: pairs with the acquire in await_helpers. From here on the job may be gone. */
    if (atomic_fetch_sub_explicit(&job->helpers, 1, memory_order_release) == 1) {
        condition_broadcast(&pool->done);
    }
    mutex_unlock(&pool->lock);
}

/* Joins a job if there seems to be one, without the lock if not, for as long as a worker spins. */
static struct job *spin_for_job(struct copy_pool *pool)
{
    uint64_t deadline_ns = clock_now_ns(clock_monotonic()) + pool->spin_ns;
    struct job *job = NULL;

    atomic_fetch_add_explicit(&pool->spinners, 1, memory_order_relaxed);
    for (unsigned i = 0; job == NULL; i++) {
        /* Relaxed: a hint; the lock gives the truth. */
        if (atomic_load_explicit(&pool->pending, memory_order_relaxed) > 0) {
            mutex_lock(&pool->lock);
            job = join_job(pool);
            bool stop = pool->stop;
            mutex_unlock(&pool->lock);
            if (stop) {
                break;
            }
        }
        thread_pause();
        if (i % SPINS_PER_YIELD == SPINS_PER_YIELD - 1) {
            if (clock_now_ns(clock_monotonic()) >= deadline_ns) {
                break;
            }
            sched_yield(); /* a worker woken on its caller's core must not spin in its way */
        }
    }
    atomic_fetch_sub_explicit(&pool->spinners, 1, memory_order_relaxed);
    return job;
}

/* Sleeps until there is a job, joined, or the end, NULL. */
static struct job *sleep_for_job(struct copy_pool *pool)
{
    mutex_lock(&pool->lock);
    struct job *job = join_job(pool);
    while (job == NULL && !pool->stop) {
        pool->sleepers++;
        /* No deadline: a worker is woken by work or by the end, and nobody waits for it. */
        (void)condition_wait(&pool->work, &pool->lock, DEADLINE_NEVER);
        pool->sleepers--;
        job = join_job(pool);
    }
    mutex_unlock(&pool->lock);
    return job;
}

static void *worker_main(void *argument)
{
    struct copy_pool *pool = argument;
    struct job *job = sleep_for_job(pool);

    while (job != NULL) {
        help(pool, job);
        job = pool->spin_ns > 0 ? spin_for_job(pool) : NULL;
        if (job == NULL) {
            job = sleep_for_job(pool);
        }
    }
    return NULL;
}

/* -------------------------------------------------------------------------- callers ---- */

static void copy_alone(const struct copy_item *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        copy_bytes(items[i].to, items[i].from, items[i].bytes);
    }
}

/* The sum, or SIZE_MAX when it does not fit. */
static size_t total_bytes(const struct copy_item *items, size_t count)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        if (__builtin_add_overflow(total, items[i].bytes, &total)) {
            return SIZE_MAX;
        }
    }
    return total;
}

static bool help_pays(const struct copy_pool *pool, size_t bytes)
{
    if (pool->workers == 0 || bytes < COPY_POOL_MIN_BYTES) {
        return false;
    }
    return bytes >= COPY_POOL_WAKE_BYTES ||
           atomic_load_explicit(&pool->spinners, memory_order_relaxed) > 0;
}

static void publish(struct copy_pool *pool, struct job *job, size_t bytes)
{
    /* One helper a piece, less the piece that the caller takes. */
    size_t helpers = bytes < COPY_POOL_WAKE_BYTES ? 0 : bytes / COPY_POOL_PIECE_BYTES - 1;

    mutex_lock(&pool->lock);
    list_push_back(&pool->jobs, &job->node);
    atomic_fetch_add_explicit(&pool->pending, 1, memory_order_relaxed);
    unsigned wake = (unsigned)size_min(helpers, pool->sleepers);
    mutex_unlock(&pool->lock);

    for (unsigned i = 0; i < wake; i++) {
        condition_signal(&pool->work);
    }
}

/* Until no worker is inside the job. There is no way to give up: they write to the caller's memory.
 * Each is in its last piece, which ends. */
static void await_helpers(struct copy_pool *pool, struct job *job)
{
    mutex_lock(&pool->lock);
    retire(pool, job);
    bool alone = atomic_load_explicit(&job->helpers, memory_order_relaxed) == 0;
    mutex_unlock(&pool->lock);
    if (alone) {
        return;
    }

    uint64_t spin_until_ns =
        clock_now_ns(clock_monotonic()) + (pool->spin_ns > 0 ? HELPER_SPIN_US * NS_PER_US : 0);
    while (clock_now_ns(clock_monotonic()) < spin_until_ns) {
        /* Acquire: pairs with the release in help. The helper's last access to the job. */
        if (atomic_load_explicit(&job->helpers, memory_order_acquire) == 0) {
            return;
        }
        thread_pause();
        sched_yield(); /* the helper may be behind us on this core */
    }
    mutex_lock(&pool->lock);
    while (atomic_load_explicit(&job->helpers, memory_order_acquire) > 0) {
        (void)condition_wait(&pool->done, &pool->lock,
                             clock_deadline_ns(clock_monotonic(), HELPER_WAIT_MS));
    }
    mutex_unlock(&pool->lock);
}

void copy_pool_run(struct copy_pool *pool, const struct copy_item *items, size_t count)
{
    mutex_assert_none_held();
    size_t bytes = total_bytes(items, count);
    if (count >= UINT32_MAX || !help_pays(pool, bytes)) {
        copy_alone(items, count);
        return;
    }
    struct job job = {.items = items, .count = count};
    publish(pool, &job, bytes);
    work_on(&job);
    await_helpers(pool, &job);
}

/* ------------------------------------------------------------------- life and death ---- */

unsigned copy_pool_threads(const struct copy_pool *pool) { return pool->workers + 1; }

void copy_pool_destroy(struct copy_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    mutex_lock(&pool->lock);
    ASSERT(list_is_empty(&pool->jobs));
    pool->stop = true;
    atomic_fetch_add_explicit(&pool->pending, 1, memory_order_relaxed);
    condition_broadcast(&pool->work);
    mutex_unlock(&pool->lock);

    for (unsigned i = 0; i < pool->workers; i++) {
        (void)pthread_join(pool->threads[i], NULL);
    }
    condition_fini(&pool->done);
    condition_fini(&pool->work);
    mutex_fini(&pool->lock);
    mem_free(pool);
}

enum umbp_status copy_pool_create(unsigned threads, unsigned spin_us, struct copy_pool **pool_out)
{
    if (threads < 1 || threads > COPY_POOL_THREADS_MAX) {
        return UMBP_INVALID_VALUE;
    }
    size_t pool_bytes = sizeof(struct copy_pool) + (threads - 1) * sizeof(pthread_t);
    struct copy_pool *pool = mem_aligned(CACHE_LINE, pool_bytes);
    if (pool == NULL) {
        return UMBP_NO_MEMORY;
    }
    memset(pool, 0, pool_bytes);
    mutex_init(&pool->lock, RANK_COPY_POOL);
    condition_init(&pool->work);
    condition_init(&pool->done);
    list_init(&pool->jobs);
    /* On one processor a spinning thread only keeps the one it waits for from running. */
    pool->spin_ns = thread_cpu_count() > 1 ? spin_us * NS_PER_US : 0;

    while (pool->workers < threads - 1) {
        /* `workers` counts those that there are, so that a half-made pool can be destroyed. */
        enum umbp_status status =
            thread_create(&pool->threads[pool->workers], "umbp-copy", false, worker_main, pool);
        if (status != UMBP_OK) {
            copy_pool_destroy(pool);
            return status;
        }
        pool->workers++;
    }
    *pool_out = pool;
    return UMBP_OK;
}
