/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bulk copies. From COPY_STREAM_BYTES up a copy uses non-temporal stores (AVX2 where there is;
 * plain memcpy elsewhere): the pool's pages are far larger than the caches, so a store that does
 * not read its target first saves a third of the traffic. The buffers must not overlap. No
 * alignment is asked for. After a streaming copy an sfence has been executed: a plain release
 * store then publishes the bytes.
 */
#ifndef BASE_COPY_H
#define BASE_COPY_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"

/* Measured; base_copy.c has the table. */
#define COPY_STREAM_BYTES ((size_t)2048)

void copy_bytes(void *restrict to, const void *restrict from, size_t bytes);

/* The two ways by name, for benchmarks. */
void copy_bytes_plain(void *restrict to, const void *restrict from, size_t bytes);
void copy_bytes_stream(void *restrict to, const void *restrict from, size_t bytes);
/* False where copy_bytes_stream is only another name of memcpy. */
bool copy_can_stream(void);

/* Copies, and returns the CRC32C of the bytes continued from `crc` (see crc.h). */
uint32_t copy_bytes_crc(void *restrict to, const void *restrict from, size_t bytes, uint32_t crc);

#endif
