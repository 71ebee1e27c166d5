/* SPDX-License-Identifier: Apache-2.0 */
#include "base/mutex.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/attr.h"

#ifdef UMBP_LOCK_RANKS

/* No path takes more: the ranks of design say so. */
#define HELD_MAX 8

/* What the calling thread holds, in the order of taking. */
static _Thread_local struct {
    const struct mutex *mutexes[HELD_MAX];
    unsigned count;
} held;

static NORETURN void rank_failed(const char *what, const struct mutex *mutex)
{
    fprintf(stderr, "umbp: lock order: %s", what);
    if (mutex != NULL) {
        fprintf(stderr, " (rank %d)", (int)mutex->rank);
    }
    fprintf(stderr, "; held:");
    for (unsigned i = 0; i < held.count; i++) {
        fprintf(stderr, " %d", (int)held.mutexes[i]->rank);
    }
    fprintf(stderr, "\n");
    fflush(stderr);
    abort();
}

static void held_push(const struct mutex *mutex)
{
    for (unsigned i = 0; i < held.count; i++) {
        if (held.mutexes[i]->rank >= mutex->rank) {
            rank_failed("a lock is taken under one of its own or a higher rank", mutex);
        }
    }
    if (held.count == HELD_MAX) {
        rank_failed("too many locks at once", mutex);
    }
    held.mutexes[held.count++] = mutex;
}

/* Locks may be given back in any order. */
static void held_pop(const struct mutex *mutex)
{
    for (unsigned i = held.count; i-- > 0;) {
        if (held.mutexes[i] == mutex) {
            for (; i + 1 < held.count; i++) {
                held.mutexes[i] = held.mutexes[i + 1];
            }
            held.count--;
            return;
        }
    }
    rank_failed("a lock is given back that this thread does not hold", mutex);
}

void mutex_lock(struct mutex *mutex)
{
    held_push(mutex); /* before: a wrong order should be told, not hang */
    int rc = pthread_mutex_lock(&mutex->native);
    ASSERT(rc == 0);
}

void mutex_unlock(struct mutex *mutex)
{
    held_pop(mutex);
    int rc = pthread_mutex_unlock(&mutex->native);
    ASSERT(rc == 0);
}

void mutex_assert_none_held(void)
{
    if (held.count > 0) {
        rank_failed("a lock is held across I/O, a bulk copy, a callback or a log line", NULL);
    }
}

#endif

void mutex_init(struct mutex *mutex, enum mutex_rank rank)
{
    pthread_mutexattr_t attributes;

    /* With glibc none of these can fail: they only fill in memory. */
    (void)pthread_mutexattr_init(&attributes);
#ifdef UMBP_LOCK_RANKS
    mutex->rank = rank;
    (void)pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
#else
    (void)rank;
    /* Our critical sections are a few hundred instructions: spinning for one to end is cheaper
     * than a sleep and a wake-up. */
    (void)pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
#endif
    int rc = pthread_mutex_init(&mutex->native, &attributes);
    ASSERT(rc == 0);
    (void)pthread_mutexattr_destroy(&attributes);
}

void mutex_fini(struct mutex *mutex)
{
    int rc = pthread_mutex_destroy(&mutex->native);
    ASSERT(rc == 0); /* EBUSY: somebody holds it */
}

void condition_init(struct condition *condition)
{
    pthread_condattr_t attributes;

    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    int rc = pthread_cond_init(&condition->native, &attributes);
    ASSERT(rc == 0);
    (void)pthread_condattr_destroy(&attributes);
}

void condition_fini(struct condition *condition) { (void)pthread_cond_destroy(&condition->native); }

void condition_signal(struct condition *condition)
{
    (void)pthread_cond_signal(&condition->native);
}

void condition_broadcast(struct condition *condition)
{
    (void)pthread_cond_broadcast(&condition->native);
}

/* With ranks: the mutex stays on the thread's list while it waits, since it holds it again before
 * it can do anything else. */
bool condition_wait(struct condition *condition, struct mutex *mutex, uint64_t deadline_ns)
{
    int rc;

    if (deadline_ns == DEADLINE_NEVER) {
        rc = pthread_cond_wait(&condition->native, &mutex->native);
    } else {
        struct timespec until = {
            .tv_sec = (time_t)(deadline_ns / NS_PER_S),
            .tv_nsec = (long)(deadline_ns % NS_PER_S),
        };
        rc = pthread_cond_timedwait(&condition->native, &mutex->native, &until);
    }
    ASSERT(rc == 0 || rc == ETIMEDOUT);
    return rc == 0;
}
