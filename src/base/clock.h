/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time, handed in so that tests and simulators own it. Nanoseconds, monotonic, never wall time.
 * A deadline is an absolute time of a clock; DEADLINE_NEVER exists for tests only.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)
#define DEADLINE_NEVER UINT64_MAX

struct clock_source {
    uint64_t (*now_ns)(void *context);
    void *context;
};

/* The machine's CLOCK_MONOTONIC. Static storage. */
const struct clock_source *clock_monotonic(void);

static inline uint64_t clock_now_ns(const struct clock_source *clock)
{
    return clock->now_ns(clock->context);
}

/* now + timeout, saturating. */
uint64_t clock_deadline_ns(const struct clock_source *clock, uint64_t timeout_ms);

/* What is left until the deadline, 0 once it is past. */
uint64_t clock_left_ns(const struct clock_source *clock, uint64_t deadline_ns);

#endif
