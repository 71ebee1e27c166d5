/* SPDX-License-Identifier: Apache-2.0 */
/* Seeded random numbers (splitmix64 seeding xoshiro256**, Blackman & Vigna 2018). Not secret. */
#ifndef BASE_RNG_H
#define BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

struct rng {
    uint64_t state[4];
};

void rng_init(struct rng *rng, uint64_t seed);
uint64_t rng_next(struct rng *rng);
uint64_t rng_below(struct rng *rng, uint64_t bound); /* 0..bound-1, unbiased; bound > 0 */
double rng_unit(struct rng *rng);                    /* [0, 1) */
void rng_fill(struct rng *rng, void *data, size_t bytes);

#endif
