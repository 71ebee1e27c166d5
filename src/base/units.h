/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers as people write and read them. */
#ifndef BASE_UNITS_H
#define BASE_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"

#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1024) * KIB)
#define GIB (UINT64_C(1024) * MIB)

/* "4096", "64KiB", "64K", "1.5GiB", "2GB" (powers of 1000), case-insensitive. The whole text must
 * be used and the result fit; false otherwise. */
MUST_USE bool units_parse_bytes(const char *text, uint64_t *bytes_out);
/* Decimal, no sign, no blanks, the whole text. */
MUST_USE bool units_parse_count(const char *text, uint64_t *count_out);
/* "1.5 GiB", "64 KiB", "17 B" into `text_out` (at least 24 bytes); returns it. */
const char *units_format_bytes(uint64_t bytes, char *text_out, size_t text_bytes);
/* "1.2 us", "34 ms" into `text_out` (at least 24 bytes); returns it. */
const char *units_format_ns(uint64_t ns, char *text_out, size_t text_bytes);

#endif
