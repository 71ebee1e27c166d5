/* SPDX-License-Identifier: Apache-2.0 */
/*
 * umbp replay, in parts: a load (requests, each a list of block ids) comes from a trace file or
 * from the generator; a run drives a client with it; a report prints what came of it. Tests use the
 * parts. docs/replay.md tells users what each figure means and what the generated workload is.
 */
#ifndef TOOLS_TOOL_REPLAY_H
#define TOOLS_TOOL_REPLAY_H

#include <signal.h>

#include "tools/tools.h"

#define REPLAY_LINE_BYTES_MAX (4u << 20)
#define REPLAY_STATS_MAX 256u
#define REPLAY_STAGE_BYTES (128 * MIB) /* a request of more bytes goes in several batches */

/* ---- load ---- */

struct replay_request {
    uint64_t timestamp_ms; /* since the start */
    size_t first;          /* of load->blocks */
    uint32_t count;        /* at most UMBP_BATCH_MAX */
};

struct replay_load {
    struct replay_request *requests;
    size_t request_count;
    size_t request_capacity;
    uint64_t *blocks;
    size_t block_count;
    size_t block_capacity;
};

void replay_load_fini(struct replay_load *load);
/* Appends a request; false without memory. */
MUST_USE bool replay_load_add(struct replay_load *load, uint64_t timestamp_ms,
                              const uint64_t *blocks, uint32_t count);
uint32_t replay_load_longest(const struct replay_load *load); /* blocks of the longest request */
/* Keep the requests number `part`, `part` + `parts`, ... only. */
void replay_load_share(struct replay_load *load, size_t part, size_t parts);

/* One line of a trace, without its newline; appended to `load`. On false `why_out` tells what is
 * wrong, and the load is as it was. */
MUST_USE bool replay_line_parse(const char *line, size_t bytes, struct replay_load *load,
                                char *why_out, size_t why_bytes);
/* The first `limit` requests of the file. `why_out` names file and line. UMBP_INVALID_VALUE for a
 * bad line, UMBP_IO for a file that can't be read, UMBP_NO_MEMORY. */
MUST_USE enum umbp_status replay_load_trace(const char *path, uint64_t limit,
                                            struct replay_load *load_out, char *why_out,
                                            size_t why_bytes);
/* The generated chat workload; the same for the same seed on every machine. */
MUST_USE enum umbp_status replay_load_chat(uint64_t seed, uint64_t limit,
                                           struct replay_load *load_out);

/* ---- content ---- */

/* What the bytes of a block are: a pattern of random words, common to all blocks, each word
 * combined with a key made from the block's id. So a byte of another block, of another place in the
 * block, or of none of them differs, and making and checking go at the speed of memory. */
struct replay_content {
    uint64_t seed;
    size_t block_bytes;
    size_t words;
    uint64_t *pattern;
};

MUST_USE enum umbp_status replay_content_init(struct replay_content *content, uint64_t seed,
                                              size_t block_bytes);
void replay_content_fini(struct replay_content *content);
void replay_content_fill(const struct replay_content *content, uint64_t block, void *data_out);
bool replay_content_check(const struct replay_content *content, uint64_t block, const void *data);

#define REPLAY_KEY_BYTES 64u /* hex digits, as engines' page hashes are */
void replay_content_key(const struct replay_content *content, uint64_t block,
                        char key_out[REPLAY_KEY_BYTES]);

/* ---- run ---- */

struct replay_result;

struct replay_options {
    const struct umbp_config *config;
    size_t block_bytes;
    uint64_t seed;
    double speed;       /* multiple of the timestamps; 0: as fast as possible */
    size_t stage_bytes; /* values of one batch; 0: REPLAY_STAGE_BYTES */
    bool shows_progress;
    const volatile sig_atomic_t *stop; /* nonzero ends the run early; NULL: never */
    uint64_t report_ms;                /* 0: never */
    void (*report)(const struct replay_result *so_far); /* so often, between requests */
};

struct replay_phase {
    struct histogram latency; /* of a request's calls of this kind, in ns */
    uint64_t spent_ns;
};

struct replay_result {
    uint64_t requests;
    uint64_t blocks;      /* asked for */
    uint64_t prefix_hits; /* of these, delivered and right, from the first block on */
    uint64_t lost;        /* seen by the lookup, gone when they were read */
    uint64_t stray_hits;  /* delivered behind a lost one, so of no use */
    uint64_t corrupt;     /* delivered with a wrong byte */
    uint64_t bytes_get;
    uint64_t bytes_put;
    uint64_t puts_stored;
    uint64_t puts_known; /* the key was there already */
    uint64_t puts_failed;
    enum umbp_status put_failure; /* the first */
    enum umbp_status flush;
    uint64_t wall_ns; /* of the requests */
    struct replay_phase lookup;
    struct replay_phase get;
    struct replay_phase put;
    struct umbp_stat_value stats[REPLAY_STATS_MAX]; /* counters: what the run added */
    size_t stat_count;
    bool was_stopped;
};

/* UMBP_OK: it ran (which says nothing of result_out->corrupt). Else why_out says what failed. */
MUST_USE enum umbp_status replay_run(const struct replay_load *load,
                                     const struct replay_options *options,
                                     struct replay_result *result_out, char *why_out,
                                     size_t why_bytes);
/* The statistic of that name, or 0. */
uint64_t replay_stat(const struct replay_result *result, const char *name);
double replay_hit_ratio(const struct replay_result *result);

/* ---- report ---- */

/* A column for each of `results`, headed by `names` where there are several. */
void replay_print_table(const struct replay_result *const *results, const char *const *names,
                        size_t count);
/* What was done so far, as one line: counts since the start. */
json_t *replay_json_so_far(const struct replay_result *result);
json_t *replay_json(const struct replay_result *result, const char *policy, const char *source,
                    size_t block_bytes);

#endif
