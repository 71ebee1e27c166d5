/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as lines of a trace: each gives a request or a reason; after a reason nothing has been
 * added; what was added lies within the load.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tool_replay.h"

static void check(bool holds)
{
    if (!holds) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct replay_load load = {0};
    const char *line = (const char *)data;
    size_t left = bytes;

    do {
        const char *newline = left > 0 ? memchr(line, '\n', left) : NULL;
        size_t line_bytes = newline != NULL ? (size_t)(newline - line) : left;
        size_t requests = load.request_count;
        size_t blocks = load.block_count;
        char why[256] = "";
        if (replay_line_parse(line, line_bytes, &load, why, sizeof why)) {
            const struct replay_request *request = &load.requests[requests];
            check(load.request_count == requests + 1 && request->first == blocks);
            check(load.block_count == blocks + request->count && request->count <= UMBP_BATCH_MAX);
            for (size_t i = blocks; i < load.block_count; i++) {
                check(load.blocks[i] <= INT64_MAX);
            }
        } else {
            check(load.request_count == requests && load.block_count == blocks);
            check(why[0] != '\0' && strlen(why) < sizeof why);
        }
        size_t step = line_bytes + (newline != NULL);
        line += step;
        left -= step;
    } while (left > 0);
    replay_load_fini(&load);
    return 0;
}
