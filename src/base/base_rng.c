/* SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"

#include <string.h>

#include "base/attr.h"

static uint64_t rotate_left(uint64_t value, unsigned by)
{
    return value << by | value >> (64 - by);
}

/* splitmix64 (Steele, Lea & Flood 2014), which its authors name for seeding xoshiro. */
static uint64_t seed_next(uint64_t *state)
{
    *state += UINT64_C(0x9E3779B97F4A7C15);
    uint64_t value = *state;
    value = (value ^ (value >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94D049BB133111EB);
    return value ^ (value >> 31);
}

void rng_init(struct rng *rng, uint64_t seed)
{
    for (unsigned i = 0; i < 4; i++) {
        rng->state[i] = seed_next(&seed);
    }
}

/* xoshiro256** 1.0 */
uint64_t rng_next(struct rng *rng)
{
    uint64_t *s = rng->state;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

/* Lemire 2019, "Fast random integer generation in an interval": a multiplication, and a rejection
 * only in the rare case that would bias. */
uint64_t rng_below(struct rng *rng, uint64_t bound)
{
    ASSERT(bound > 0);
    unsigned __int128 product = (unsigned __int128)rng_next(rng) * bound;
    if (UNLIKELY((uint64_t)product < bound)) {
        uint64_t reject_below = (0 - bound) % bound;
        while ((uint64_t)product < reject_below) {
            product = (unsigned __int128)rng_next(rng) * bound;
        }
    }
    return (uint64_t)(product >> 64);
}

double rng_unit(struct rng *rng) { return (double)(rng_next(rng) >> 11) * 0x1.0p-53; }

void rng_fill(struct rng *rng, void *data, size_t bytes)
{
    unsigned char *to = data;
    while (bytes > 0) {
        uint64_t word = rng_next(rng);
        size_t part = size_min(bytes, sizeof word);
        memcpy(to, &word, part);
        to += part;
        bytes -= part;
    }
}
