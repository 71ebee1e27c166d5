/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CRC32C (Castagnoli, RFC 3720 B.4: "123456789" gives 0xE3069283). Start with 0 and pass the last
 * result to continue. isa-l where the build has it, a portable table version elsewhere.
 */
#ifndef BASE_CRC_H
#define BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(uint32_t crc, const void *data, size_t bytes);
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t bytes);
/* "isa-l" or "portable". */
const char *crc32c_name(void);

#endif
