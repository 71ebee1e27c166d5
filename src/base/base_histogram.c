/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Buckets: the first 32 hold one value each; then each power of two is cut into 32. The bucket of a
 * value is its highest bit's place (the row) and the five bits below it (the column), which is
 * HdrHistogram's scheme (Tene 2012) with a power of two for its precision.
 */
#include "base/histogram.h"

#include <string.h>

#include "base/attr.h"

#define SUB_BUCKETS (1u << HISTOGRAM_SUB_BITS)

static unsigned bucket_of(uint64_t value)
{
    if (value < SUB_BUCKETS) {
        return (unsigned)value;
    }
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - HISTOGRAM_SUB_BITS;
    return ((shift + 1) << HISTOGRAM_SUB_BITS) + (unsigned)((value >> shift) & (SUB_BUCKETS - 1));
}

/* The largest value of a bucket. */
static uint64_t bucket_top(unsigned bucket)
{
    if (bucket < SUB_BUCKETS) {
        return bucket;
    }
    unsigned shift = (bucket >> HISTOGRAM_SUB_BITS) - 1;
    uint64_t bottom = (uint64_t)(SUB_BUCKETS + (bucket & (SUB_BUCKETS - 1))) << shift;
    return bottom + ((UINT64_C(1) << shift) - 1);
}

static uint64_t add_saturating(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

void histogram_init(struct histogram *histogram) { memset(histogram, 0, sizeof *histogram); }

void histogram_record(struct histogram *histogram, uint64_t value)
{
    histogram->min = histogram->count == 0 ? value : u64_min(histogram->min, value);
    histogram->max = u64_max(histogram->max, value);
    histogram->count++;
    histogram->sum = add_saturating(histogram->sum, value);
    histogram->buckets[bucket_of(value)]++;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    if (from->count == 0) {
        return;
    }
    into->min = into->count == 0 ? from->min : u64_min(into->min, from->min);
    into->max = u64_max(into->max, from->max);
    into->count += from->count;
    into->sum = add_saturating(into->sum, from->sum);
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        into->buckets[i] += from->buckets[i];
    }
}

uint64_t histogram_quantile(const struct histogram *histogram, double quantile)
{
    if (histogram->count == 0) {
        return 0;
    }
    if (!(quantile > 0.0)) { /* NaN too */
        return histogram->min;
    }
    if (quantile >= 1.0) {
        return histogram->max;
    }
    /* The smallest rank that is at least a share `quantile` of the values. */
    double exact = quantile * (double)histogram->count;
    uint64_t rank = (uint64_t)exact;
    rank += (double)rank < exact;
    rank = u64_max(1, u64_min(rank, histogram->count));

    uint64_t seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen >= rank) {
            return u64_max(histogram->min, u64_min(bucket_top(i), histogram->max));
        }
    }
    return histogram->max;
}
