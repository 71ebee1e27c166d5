/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <time.h>

static uint64_t monotonic_now_ns(void *context)
{
    struct timespec now;

    (void)context;
    /* It cannot fail: the clock exists on every Linux and the address is good. */
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

const struct clock_source *clock_monotonic(void)
{
    static const struct clock_source monotonic = {.now_ns = monotonic_now_ns, .context = NULL};
    return &monotonic;
}

uint64_t clock_deadline_ns(const struct clock_source *clock, uint64_t timeout_ms)
{
    uint64_t timeout_ns;
    uint64_t deadline_ns;

    if (__builtin_mul_overflow(timeout_ms, NS_PER_MS, &timeout_ns) ||
        __builtin_add_overflow(clock_now_ns(clock), timeout_ns, &deadline_ns)) {
        return DEADLINE_NEVER;
    }
    return deadline_ns;
}

uint64_t clock_left_ns(const struct clock_source *clock, uint64_t deadline_ns)
{
    if (deadline_ns == DEADLINE_NEVER) {
        return DEADLINE_NEVER;
    }
    uint64_t now_ns = clock_now_ns(clock);
    return now_ns < deadline_ns ? deadline_ns - now_ns : 0;
}
