/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segment scanning on hostile blocks. The first byte says how the blocks are fed and how much of
 * the work a checksum would have refused is done for the input: without that a fuzzer gets nowhere.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tier_ssd/ssd_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define TAG UINT64_C(0x1122334455667788)
#define SEGMENT 5u
#define BLOCKS_MAX 64u

static bool visit(void *context, const struct ssd_entry *entry)
{
    uint64_t *sum = context;
    assert(entry->key_bytes >= 1 && entry->key_bytes <= SSD_KEY_BYTES_MAX);
    assert(entry->block >= 1 && entry->block <= BLOCKS_MAX);
    *sum += entry->key[0] + entry->key[entry->key_bytes - 1];
    return true;
}

/* Make the block a record of this place, whatever else it says. */
static void mend(uint8_t *block, uint32_t index)
{
    static const uint8_t magic[4] = {'U', 'M', 'R', 'C'};
    const uint64_t tag = TAG;
    const uint32_t segment = SEGMENT;
    memcpy(block, magic, 4);
    memcpy(block + 8, &tag, 8);
    memcpy(block + 32, &segment, 4);
    memcpy(block + 36, &index, 4);
    uint32_t key_bytes = (uint32_t)(block[48] | block[49] << 8);
    if (key_bytes <= SSD_KEY_BYTES_MAX) {
        uint32_t crc = crc32c(0, block + 8, SSD_RECORD_HEAD_BYTES - 8 + key_bytes);
        memcpy(block + 4, &crc, 4);
    }
}

/* And its inline value's (or payload's) checksum right. */
static void mend_value(uint8_t *block, uint32_t index)
{
    uint64_t value_bytes;
    uint32_t key_bytes = (uint32_t)(block[48] | block[49] << 8);
    memcpy(&value_bytes, block + 24, 8);
    if (key_bytes <= SSD_KEY_BYTES_MAX && ssd_value_is_inline(value_bytes, key_bytes)) {
        uint32_t crc = crc32c(0, block + SSD_RECORD_HEAD_BYTES + key_bytes, (size_t)value_bytes);
        memcpy(block + 44, &crc, 4);
        mend(block, index);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct ssd_scan scan;
    uint64_t sum = 0;
    if (bytes < 1) {
        return 0;
    }
    unsigned flags = data[0];
    data++;
    bytes--;
    /* Inputs are short: each 128 bytes of input begin a block, the rest of which is zero. */
    uint32_t blocks = (uint32_t)size_min((bytes + 127) / 128, BLOCKS_MAX - 1);
    uint8_t *image = calloc(blocks + 1, SSD_BLOCK_BYTES);
    for (uint32_t i = 0; i < blocks; i++) {
        uint8_t *block = image + (size_t)i * SSD_BLOCK_BYTES;
        memcpy(block, data + (size_t)i * 128, size_min(128, bytes - (size_t)i * 128));
        if (flags & 1) {
            mend(block, i + 1);
        }
        if (flags & 2) {
            mend_value(block, i + 1);
        }
    }
    memset(&scan, 0, sizeof(scan));
    scan.tag = TAG;
    scan.segment = SEGMENT;
    scan.first_block = 1;
    scan.file_blocks = blocks + 1;
    scan.stop_at_hole = (flags & 4) != 0;
    scan.visit = visit;
    scan.context = &sum;
    ssd_scan_begin(&scan);
    uint32_t step = flags >> 3 ? flags >> 3 : blocks;
    for (uint32_t at = 0; at < blocks; at += step) {
        uint32_t now = blocks - at < step ? blocks - at : step;
        enum umbp_status status = ssd_scan_feed(&scan, image + (size_t)at * SSD_BLOCK_BYTES, now);
        assert(status == UMBP_OK);
    }
    assert(scan.end_block >= 1 && scan.end_block <= blocks + 1);
    assert(scan.next_block <= scan.end_block);
    free(image);
    return 0;
}
