/* SPDX-License-Identifier: Apache-2.0 */
/* The super file, and tombstone payloads. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tier_ssd/ssd_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct ssd_super super;
    struct ssd_entry entry;
    uint32_t version = 0;
    if (bytes < 1) {
        return 0;
    }
    uint8_t *block = calloc(1, SSD_BLOCK_BYTES);
    memcpy(block, data + 1, size_min(bytes - 1, SSD_BLOCK_BYTES));
    if (data[0] & 1) {
        uint32_t crc = crc32c(0, block, SSD_BLOCK_CRC_OFFSET);
        memcpy(block + SSD_BLOCK_CRC_OFFSET, &crc, sizeof(crc));
    }
    if (ssd_super_decode(block, &super, &version) == UMBP_OK) {
        assert(version == SSD_FORMAT_VERSION && super.next_segment > 0);
    }
    free(block);
    size_t at = 0;
    volatile uint64_t sum = 0; /* touches every byte that is handed out */
    while (ssd_tomb_next(data + 1, bytes - 1, &at, &entry)) {
        assert(at <= bytes - 1);
        sum = sum + entry.key[0] + entry.key[entry.key_bytes - 1];
    }
    return 0;
}
