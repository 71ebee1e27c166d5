/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crc32c() keeps the register inverted outside of a call, as zlib's crc32() does: 0 starts, and a
 * result continues. isa-l's crc32_iscsi() works on the bare register (it inverts neither on the
 * way in nor out), so we do it around the call.
 */
#include "base/crc.h"

#include <string.h>

#include "base/attr.h"
#include "base_crc_table_priv.h"

#ifdef UMBP_HAVE_ISAL
#include <isa-l/crc.h>

/* isa-l counts in int. */
#define ISAL_BYTES_MAX ((size_t)1 << 30)

uint32_t crc32c(uint32_t crc, const void *data, size_t bytes)
{
    const unsigned char *at = data;

    crc = ~crc;
    while (bytes > 0) {
        size_t part = size_min(bytes, ISAL_BYTES_MAX);
        /* It only reads: the missing const is isa-l's. */
        crc = crc32_iscsi((unsigned char *)(uintptr_t)at, (int)part, crc);
        at += part;
        bytes -= part;
    }
    return ~crc;
}

const char *crc32c_name(void) { return "isa-l"; }

#else

uint32_t crc32c(uint32_t crc, const void *data, size_t bytes)
{
    return crc32c_portable(crc, data, bytes);
}

const char *crc32c_name(void) { return "portable"; }

#endif

static uint64_t load_le64(const unsigned char *from)
{
    uint64_t word;
    memcpy(&word, from, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

/* Slicing by 8 (Kounavis & Berry 2005): eight look-ups that do not wait for each other. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t bytes)
{
    const unsigned char *at = data;

    crc = ~crc;
    for (; bytes >= 8; bytes -= 8, at += 8) {
        uint64_t word = load_le64(at) ^ crc;
        crc = crc_table[7][word & 0xFF] ^ crc_table[6][(word >> 8) & 0xFF] ^
              crc_table[5][(word >> 16) & 0xFF] ^ crc_table[4][(word >> 24) & 0xFF] ^
              crc_table[3][(word >> 32) & 0xFF] ^ crc_table[2][(word >> 40) & 0xFF] ^
              crc_table[1][(word >> 48) & 0xFF] ^ crc_table[0][word >> 56];
    }
    for (; bytes > 0; bytes--, at++) {
        crc = (crc >> 8) ^ crc_table[0][(crc ^ *at) & 0xFF];
    }
    return ~crc;
}
