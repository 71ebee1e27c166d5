/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fixed set of threads that help a caller with a list of bulk copies. The caller works too, so
 * a pool of N threads has N - 1 workers, and a pool of 1 has none. Created once, never a thread
 * per call. Workers spin for `spin_us` after a job before they sleep (waking an idle core costs
 * tens of microseconds). Any number of callers at once: workers serve jobs in order of arrival, a
 * caller whose job finds no free worker copies everything itself, so nothing ever waits for a
 * place. copy_pool_run allocates nothing. Items are split into pieces of at most
 * COPY_POOL_PIECE_BYTES. Jobs smaller than COPY_POOL_MIN_BYTES are copied by the caller alone;
 * those smaller than COPY_POOL_WAKE_BYTES are shared only with workers that are awake.
 */
#ifndef BASE_COPY_POOL_H
#define BASE_COPY_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include <umbp/status.h>

#define COPY_POOL_THREADS_MAX 64u
#define COPY_POOL_PIECE_BYTES ((size_t)128 << 10)
/* Measured on two cores (base_copy_pool.c): below them the hand-over costs more than it gains. */
#define COPY_POOL_MIN_BYTES ((size_t)512 << 10)
#define COPY_POOL_WAKE_BYTES ((size_t)2 << 20)

struct copy_pool;

struct copy_item {
    void *to;
    const void *from;
    size_t bytes;
};

MUST_USE enum umbp_status copy_pool_create(unsigned threads, unsigned spin_us,
                                           struct copy_pool **pool_out);
void copy_pool_destroy(struct copy_pool *pool); /* takes NULL; no run may be in flight */
/* Returns when every byte is copied. Items must not overlap. */
void copy_pool_run(struct copy_pool *pool, const struct copy_item *items, size_t count);
unsigned copy_pool_threads(const struct copy_pool *pool);

#endif
