/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside umbp demo: what the client processes have told so far, cut into phases, and the table.
 * Threads: one.
 */
#ifndef TOOLS_TOOL_DEMO_H
#define TOOLS_TOOL_DEMO_H

#include "tools/tools.h"

#define DEMO_NODES 3u
#define DEMO_CLIENTS 4u

enum demo_phase {
    DEMO_BEFORE,
    DEMO_GONE, /* from kill -9 until the node is ready again */
    DEMO_AFTER,
    DEMO_PHASES,
};

/* As in replay's lines, which count from the start. */
struct demo_count {
    uint64_t requests;
    uint64_t blocks;
    uint64_t prefix_hits;
    uint64_t bytes_get;
    uint64_t bytes_put;
    uint64_t get_ns;
    uint64_t put_ns;
    uint64_t lost;
    uint64_t corrupt;
    uint64_t puts_failed;
};

struct demo_result {
    const char *source;
    uint64_t block_bytes;
    uint64_t node_bytes;
    /* What each client had done when a phase began; [DEMO_PHASES]: at the end. */
    struct demo_count marks[DEMO_PHASES + 1][DEMO_CLIENTS];
    uint64_t times_ns[DEMO_PHASES + 1];
    bool is_network[DEMO_CLIENTS]; /* by TCP; else by the host's memory */
    uint64_t failed_clients;
};

/* False: not such a line. */
MUST_USE bool demo_count_parse(const char *line, bool *is_last_out, struct demo_count *count_out);
/* What all clients of a kind did in a phase (DEMO_PHASES: in all of them). */
struct demo_count demo_phase_sum(const struct demo_result *result, enum demo_phase phase,
                                 bool with_host, bool with_network);
uint64_t demo_errors(const struct demo_result *result);
void demo_print(const struct demo_result *result);
json_t *demo_json(const struct demo_result *result);

#endif
