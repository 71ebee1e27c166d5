/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEED_DEFAULT UINT64_C(20240607)

static uint64_t seed;
static pthread_once_t seed_once = PTHREAD_ONCE_INIT;

static void seed_choose(void)
{
    const char *text = getenv("UMBP_TEST_SEED");
    if (text == NULL || *text == '\0') {
        seed = SEED_DEFAULT;
    } else if (strcmp(text, "random") == 0) {
        seed = test_now_ns();
    } else {
        seed = strtoull(text, NULL, 0);
    }
    printf("seed: UMBP_TEST_SEED=%" PRIu64 "\n", seed);
    fflush(stdout);
}

uint64_t test_seed(void)
{
    pthread_once(&seed_once, seed_choose);
    return seed;
}

/* splitmix64 (Steele, Lea & Flood 2014). */
static uint64_t mix(uint64_t value)
{
    value += UINT64_C(0x9E3779B97F4A7C15);
    value = (value ^ (value >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94D049BB133111EB);
    return value ^ (value >> 31);
}

void test_rng_init(struct test_rng *rng, uint64_t stream)
{
    rng->state = mix(test_seed() ^ mix(stream));
}

uint64_t test_rng_next(struct test_rng *rng)
{
    uint64_t value = mix(rng->state);
    rng->state += UINT64_C(0x9E3779B97F4A7C15);
    return value;
}

uint64_t test_rng_below(struct test_rng *rng, uint64_t bound) { return test_rng_next(rng) % bound; }

static uint64_t fill_word(uint64_t tag, size_t index)
{
    return mix(tag * UINT64_C(0xD1342543DE82EF95) + index);
}

void test_fill(void *data, size_t bytes, uint64_t tag)
{
    unsigned char *to = data;
    for (size_t at = 0; at < bytes; at += 8) {
        uint64_t word = fill_word(tag, at / 8);
        memcpy(to + at, &word, bytes - at < 8 ? bytes - at : 8);
    }
}

bool test_check_fill(const void *data, size_t bytes, uint64_t tag)
{
    const unsigned char *from = data;
    for (size_t at = 0; at < bytes; at += 8) {
        uint64_t word = fill_word(tag, at / 8);
        if (memcmp(from + at, &word, bytes - at < 8 ? bytes - at : 8) != 0) {
            printf("bytes of tag %" PRIu64 " differ within 8 bytes from offset %zu of %zu\n", tag,
                   at, bytes);
            return false;
        }
    }
    return true;
}
