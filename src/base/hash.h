/* SPDX-License-Identifier: Apache-2.0 */
/* A key's 128-bit fingerprint: XXH3-128 with a per-store (or per-cluster) seed. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct fingerprint {
    uint64_t low;
    uint64_t high;
};

struct fingerprint hash_key(const void *key, size_t bytes, uint64_t seed);
uint64_t hash_bytes(const void *data, size_t bytes, uint64_t seed);

#endif
