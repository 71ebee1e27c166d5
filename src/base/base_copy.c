/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streaming copies.
 *
 * A plain store to memory that is not in a cache first reads the line that it will overwrite. A
 * non-temporal store does not, and leaves the caches to others. Measured on an EPYC (Zen 4) virtual
 * machine, blocks at random places of 1 GiB, ns a copy, memcpy (glibc 2.36) / streaming:
 *
 *     bytes     source cold, target cold    source warm (put)    target warm (get)
 *     1 KiB         378 /  273                 215 /  138             241 /  464
 *     2 KiB         647 /  477                 404 /  172             475 /  492
 *     4 KiB         806 /  636                 564 /  291             617 /  611
 *     64 KiB       5706 / 4113                4481 / 2529            5808 / 4030
 *     1 MiB       84639 / 51715              50878 / 39002          66974 / 50166
 *
 * so from 2 KiB up streaming wins or is level; COPY_STREAM_BYTES is that. Software prefetch gained
 * nothing. Reading two pages side by side did (8 to 64 KiB, cold source: 10 to 15 %): hardware
 * prefetchers stop at a page's end, and two streams hide each other's start.
 *
 *     to    |head|  page 0  |  page 1  |  page 2  |  page 3  | 128-byte steps | tail |
 *            plain   `---- together --'  `--- together ---'      streamed       plain
 *           up to a
 *           cache line
 */
#include "base/copy.h"

#include <string.h>

#include "base/crc.h"
#include "base/mutex.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define HAVE_STREAM 1
#endif

/* A block that the checksum leaves in the nearest cache for the copy to read. */
#define CRC_BLOCK_BYTES ((size_t)4096)

#ifdef HAVE_STREAM

#define PAGE ((size_t)4096)

/* 64 bytes; `to` is on a cache line. */
__attribute__((target("avx2"), always_inline)) static inline void stream_line(char *to,
                                                                              const char *from)
{
    __m256i low = _mm256_loadu_si256((const __m256i_u *)from);
    __m256i high = _mm256_loadu_si256((const __m256i_u *)(from + 32));
    _mm256_stream_si256((__m256i *)(void *)to, low);
    _mm256_stream_si256((__m256i *)(void *)(to + 32), high);
}

/* Without the fence that publishes the bytes. */
__attribute__((target("avx2"))) static void stream_unfenced(char *restrict to,
                                                            const char *restrict from, size_t bytes)
{
    size_t head = size_min((size_t)(-(uintptr_t)to) % CACHE_LINE, bytes);
    memcpy(to, from, head);
    to += head;
    from += head;
    bytes -= head;

    for (; bytes >= 2 * PAGE; bytes -= 2 * PAGE, to += 2 * PAGE, from += 2 * PAGE) {
        for (size_t at = 0; at < PAGE; at += CACHE_LINE) {
            stream_line(to + at, from + at);
            stream_line(to + PAGE + at, from + PAGE + at);
        }
    }
    for (; bytes >= CACHE_LINE; bytes -= CACHE_LINE, to += CACHE_LINE, from += CACHE_LINE) {
        stream_line(to, from);
    }
    memcpy(to, from, bytes);
}

bool copy_can_stream(void) { return __builtin_cpu_supports("avx2") != 0; }

static void stream_fence(void) { _mm_sfence(); }

#else

static void stream_unfenced(char *restrict to, const char *restrict from, size_t bytes)
{
    memcpy(to, from, bytes);
}

bool copy_can_stream(void) { return false; }

static void stream_fence(void) {}

#endif

void copy_bytes_plain(void *restrict to, const void *restrict from, size_t bytes)
{
    if (bytes > 0) { /* memcpy's pointers may not be NULL, ours may when there is nothing */
        memcpy(to, from, bytes);
    }
}

void copy_bytes_stream(void *restrict to, const void *restrict from, size_t bytes)
{
    if (bytes == 0 || !copy_can_stream()) {
        copy_bytes_plain(to, from, bytes);
        return;
    }
    stream_unfenced(to, from, bytes);
    stream_fence();
}

void copy_bytes(void *restrict to, const void *restrict from, size_t bytes)
{
    if (bytes < COPY_STREAM_BYTES) {
        copy_bytes_plain(to, from, bytes);
        return;
    }
    mutex_assert_none_held();
    copy_bytes_stream(to, from, bytes);
}

uint32_t copy_bytes_crc(void *restrict to, const void *restrict from, size_t bytes, uint32_t crc)
{
    char *target = to;
    const char *source = from;

    if (bytes < COPY_STREAM_BYTES || !copy_can_stream()) {
        for (size_t at = 0; at < bytes; at += CRC_BLOCK_BYTES) {
            size_t block = size_min(CRC_BLOCK_BYTES, bytes - at);
            crc = crc32c(crc, source + at, block);
            memcpy(target + at, source + at, block);
        }
        return crc;
    }

    mutex_assert_none_held();
    /* The first block is cut so that all others begin on a cache line of the target. */
    size_t block = CRC_BLOCK_BYTES - (uintptr_t)target % CACHE_LINE;
    for (size_t at = 0; at < bytes; at += block, block = CRC_BLOCK_BYTES) {
        block = size_min(block, bytes - at);
        crc = crc32c(crc, source + at, block);
        stream_unfenced(target + at, source + at, block);
    }
    stream_fence();
    return crc;
}
