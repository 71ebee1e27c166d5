/* SPDX-License-Identifier: Apache-2.0 */
/* The signpost's answer, and the first bytes of a question. What decodes encodes to the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/signpost.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct proto_signpost signpost, again;
    uint8_t answer[PROTO_SIGNPOST_ANSWER_MAX];
    size_t length;
    if (bytes >= PROTO_SIGNPOST_QUESTION_BYTES) {
        (void)!proto_signpost_question_open(data);
    }
    /* Without the right sum almost nothing would be looked at. */
    uint8_t *copy = malloc(bytes + 1);
    memcpy(copy, data, bytes);
    if (bytes >= PROTO_SIGNPOST_ANSWER_HEADER_BYTES) {
        uint32_t crc = crc32c(crc32c(0, copy, 28), copy + 32, bytes - 32);
        for (int i = 0; i < 4; i++) {
            copy[28 + i] = (uint8_t)(crc >> (8 * i));
        }
    }
    if (proto_signpost_decode(copy, bytes, &signpost) == UMBP_OK) {
        if (proto_signpost_encode(&signpost, UMBP_OK, answer, sizeof answer, &length) != UMBP_OK ||
            proto_signpost_decode(answer, length, &again) != UMBP_OK ||
            memcmp(&signpost, &again, sizeof again) != 0) {
            abort();
        }
    }
    free(copy);
    return 0;
}
