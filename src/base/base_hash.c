/* SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.h"

/* Inlined: a key's hash is on the path of every operation, and keys are short. */
#define XXH_INLINE_ALL
#include <xxhash.h>

struct fingerprint hash_key(const void *key, size_t bytes, uint64_t seed)
{
    XXH128_hash_t hash = XXH3_128bits_withSeed(key, bytes, seed);
    return (struct fingerprint){.low = hash.low64, .high = hash.high64};
}

uint64_t hash_bytes(const void *data, size_t bytes, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, bytes, seed);
}
