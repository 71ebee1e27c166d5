/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/tool_replay.h"

/* Four words at a time; the compiler makes of it what the machine has. */
typedef uint64_t lanes __attribute__((vector_size(32)));
#define LANES 4u

/* splitmix64's finaliser (Steele, Lea & Flood 2014): every bit of the result hangs on every bit. */
static uint64_t mix(uint64_t value)
{
    value += UINT64_C(0x9E3779B97F4A7C15);
    value = (value ^ (value >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94D049BB133111EB);
    return value ^ (value >> 31);
}

static uint64_t key_of(const struct replay_content *content, uint64_t block)
{
    return mix(block ^ mix(content->seed));
}

enum umbp_status replay_content_init(struct replay_content *content, uint64_t seed,
                                     size_t block_bytes)
{
    struct rng rng;
    size_t words = (block_bytes + 7) / 8;
    uint64_t *pattern = mem_aligned(sizeof(lanes), align_up(words * 8, sizeof(lanes)));
    if (pattern == NULL) {
        return UMBP_NO_MEMORY;
    }
    rng_init(&rng, seed);
    rng_fill(&rng, pattern, words * 8);
    *content = (struct replay_content){seed, block_bytes, words, pattern};
    return UMBP_OK;
}

void replay_content_fini(struct replay_content *content)
{
    mem_free(content->pattern);
    content->pattern = NULL;
}

void replay_content_fill(const struct replay_content *content, uint64_t block, void *data_out)
{
    uint64_t key = key_of(content, block);
    lanes keys = {key, key, key, key};
    size_t whole = content->block_bytes / sizeof(lanes);
    char *to = data_out;

    for (size_t i = 0; i < whole; i++) {
        lanes word;
        memcpy(&word, content->pattern + i * LANES, sizeof word);
        word ^= keys;
        memcpy(to + i * sizeof word, &word, sizeof word);
    }
    for (size_t at = whole * sizeof(lanes); at < content->block_bytes; at += 8) {
        uint64_t word = content->pattern[at / 8] ^ key;
        memcpy(to + at, &word, size_min(8, content->block_bytes - at));
    }
}

bool replay_content_check(const struct replay_content *content, uint64_t block, const void *data)
{
    uint64_t key = key_of(content, block);
    lanes keys = {key, key, key, key};
    lanes differences = {0, 0, 0, 0};
    size_t whole = content->block_bytes / sizeof(lanes);
    const char *from = data;

    for (size_t i = 0; i < whole; i++) {
        lanes expected;
        lanes found;
        memcpy(&expected, content->pattern + i * LANES, sizeof expected);
        memcpy(&found, from + i * sizeof found, sizeof found);
        differences |= expected ^ keys ^ found;
    }
    if ((differences[0] | differences[1] | differences[2] | differences[3]) != 0) {
        return false;
    }
    for (size_t at = whole * sizeof(lanes); at < content->block_bytes; at += 8) {
        uint64_t expected = content->pattern[at / 8] ^ key;
        if (memcmp(from + at, &expected, size_min(8, content->block_bytes - at)) != 0) {
            return false;
        }
    }
    return true;
}

/* Seed and size are part of the key: a directory that another run filled must not answer with a
 * value of another size, or with other content. */
void replay_content_key(const struct replay_content *content, uint64_t block,
                        char key_out[REPLAY_KEY_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    uint64_t word = mix(content->seed ^ mix(content->block_bytes));
    for (size_t i = 0; i < REPLAY_KEY_BYTES; i += 16) {
        word = mix(word ^ block);
        for (size_t d = 0; d < 16; d++) {
            key_out[i + d] = digits[(word >> (60 - 4 * d)) & 15];
        }
    }
}
