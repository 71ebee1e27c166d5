/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A log-linear histogram of uint64 values (nanoseconds, bytes): 32 sub-buckets a power of two, so a
 * reported quantile is within 1/32 of the true value. Fixed size, no allocation. Not thread-safe:
 * one per thread, then histogram_merge; or use it under a lock.
 */
#ifndef BASE_HISTOGRAM_H
#define BASE_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_SUB_BITS 5
#define HISTOGRAM_BUCKETS ((64 - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS)

struct histogram {
    uint64_t count;
    uint64_t sum;
    uint64_t min;
    uint64_t max;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_init(struct histogram *histogram);
void histogram_record(struct histogram *histogram, uint64_t value);
void histogram_merge(struct histogram *into, const struct histogram *from);
/* The smallest value v such that a share `quantile` (0..1) of the values is <= v; 0 when empty. */
uint64_t histogram_quantile(const struct histogram *histogram, double quantile);

#endif
