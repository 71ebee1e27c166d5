/* SPDX-License-Identifier: Apache-2.0 */
/* Any frame: to a node, to a master, and their answers. The first byte says whether the sum, and
 * whether magic, version and length are put right first. */
#include <assert.h>

#include "../unit/proto_support.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void mend(uint8_t *frame, size_t bytes)
{
    const uint32_t magic = PROTO_MAGIC;
    const uint16_t version = PROTO_VERSION;
    uint32_t body_bytes = (uint32_t)(bytes - PROTO_HEADER_BYTES);
    memcpy(frame, &magic, sizeof(magic));
    memcpy(frame + 4, &version, sizeof(version));
    memcpy(frame + 24, &body_bytes, sizeof(body_bytes));
    uint32_t crc = crc32c(0, frame, 44);
    crc = crc32c(crc, frame + PROTO_HEADER_BYTES, body_bytes);
    memcpy(frame + 44, &crc, sizeof(crc));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct proto_frame frame;
    struct proto_sum sum = {0};
    if (bytes < 1) {
        return 0;
    }
    uint8_t *copy = malloc(bytes);
    memcpy(copy, data + 1, bytes - 1);
    if (data[0] & 1 && bytes - 1 >= PROTO_HEADER_BYTES) {
        mend(copy, bytes - 1);
    }
    if (proto_frame_open(copy, bytes - 1, &frame) == UMBP_OK) {
        assert(frame.header.body_bytes == bytes - 1 - PROTO_HEADER_BYTES);
        (void)!proto_walk_any(&frame, &sum);
        /* 64 bytes a frame are spent on 2 items at most, texts and keys apart. */
        assert(sum.items <= bytes + 1);
    }
    free(copy);
    volatile uint64_t used = sum.sum;
    (void)used;
    return 0;
}
