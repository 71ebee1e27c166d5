/* SPDX-License-Identifier: Apache-2.0 */
/* Footer pages and trailers. With bit 0 of the first byte the checksum is made right. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tier_ssd/ssd_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const uint8_t uuid[SSD_UUID_BYTES] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct ssd_identity identity = ssd_identity_of(uuid);
    struct ssd_trailer trailer;
    struct ssd_entry entry;
    if (bytes < 2) {
        return 0;
    }
    uint8_t *block = calloc(1, SSD_BLOCK_BYTES);
    unsigned flags = data[0];
    uint32_t footer_block = (uint32_t)data[1] * 16 + 1;
    memcpy(block, data + 2, size_min(bytes - 2, SSD_BLOCK_BYTES));
    if (flags & 1) {
        uint32_t crc = crc32c(0, block, SSD_BLOCK_CRC_OFFSET);
        memcpy(block + SSD_BLOCK_CRC_OFFSET, &crc, sizeof(crc));
    }
    if (ssd_page_is_valid(block, identity.tag, 5, 0)) {
        uint32_t at = 0;
        uint32_t count = 0;
        bool plausible = true;
        volatile uint64_t sum = 0; /* touches every byte that is handed out */
        while (ssd_page_next(block, footer_block, &at, &entry, &plausible)) {
            assert(entry.key_bytes >= 1 && entry.key_bytes <= SSD_KEY_BYTES_MAX);
            assert(entry.block >= 1 && entry.block < footer_block);
            sum = sum + entry.key[0] + entry.key[entry.key_bytes - 1];
            count++;
        }
        assert(at <= SSD_PAGE_ROOM && count <= SSD_PAGE_ROOM / ssd_entry_bytes(1));
    }
    if (ssd_trailer_decode(block, &identity, 5, footer_block + 3, &trailer) == UMBP_OK) {
        assert((uint64_t)trailer.footer_block + trailer.pages + 1 == footer_block + 3);
    }
    enum umbp_status status = ssd_header_decode(block, &identity, 5);
    (void)status;
    free(block);
    return 0;
}
