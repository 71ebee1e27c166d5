/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program umbp_master: the service core behind its doors, metrics over HTTP, a thread that
 * calls master_tick and hands its advice to the evictor. What is here is the program's own; nothing
 * links it.
 *
 * Options have one table (masterd_options.c): the program's rows, and behind them the core's
 * (master_option_row). Each has a flag, an environment variable and a name in a file. A later
 * source wins: default, file, environment, flag. As published: a bad value in the environment is
 * the default with one warning; a bad one in a flag or file, or an unknown name there, ends the
 * program with a sentence.
 */
#ifndef MASTERD_MASTERD_H
#define MASTERD_MASTERD_H

#include "base/base.h"
#include "door/door.h"
#include "fabric/fabric.h"
#include "master/master.h"
#include "metrics/metrics.h"
#include "rpc/rpc.h"

#define MASTERD_VALUE_BYTES_MAX 1024u
#define MASTERD_ROWS_MAX 64u

enum masterd_source {
    MASTERD_DEFAULT,
    MASTERD_FILE,
    MASTERD_ENVIRONMENT,
    MASTERD_FLAG,
};

struct masterd_row {
    char name[64];     /* "heartbeat-ttl-sec": the flag, without its dashes */
    char variable[64]; /* "UMBP_HEARTBEAT_TTL_SEC" */
    const char *help;
    const char *unit;
    char fallback[MASTERD_VALUE_BYTES_MAX];
    char value[MASTERD_VALUE_BYTES_MAX];
    enum masterd_source source;
};

struct masterd_options {
    struct masterd_row rows[MASTERD_ROWS_MAX];
    size_t row_count;
    size_t own_count; /* the first ones are the program's own */
    bool asks_for_help;
    bool asks_for_version;
    char error[512];

    /* What they come to. */
    struct master_options master;
    const char *addresses[RPC_ADDRESSES_MAX];
    size_t address_count;
    uint16_t metrics_port; /* 0: none */
    bool has_metrics;
    uint64_t hash_seed;
    uint32_t max_connections;
    uint32_t max_message_bytes;
    enum umbp_log_level log_level;
    char listen_text[MASTERD_VALUE_BYTES_MAX]; /* `addresses` point into it */
};

/* From the command line (without the program's name), a file it names, and `get`, the environment
 * (NULL: the process's). On UMBP_INVALID_VALUE `error` says why. The structure is large. */
MUST_USE enum umbp_status masterd_options_parse(struct masterd_options *options, int count,
                                                char **arguments,
                                                const char *(*get)(const char *name));
/* The value of the program's own row of that name. */
const char *masterd_option(const struct masterd_options *options, const char *name);
/* `program` is what the user called it by. */
void masterd_options_help(const struct masterd_options *options, const char *program);
/* Two lines: the times and the routing in force, and what was not left at its default, with where
 * it came from. */
void masterd_options_log(const struct masterd_options *options);

/* The fabric door; without one (fabric-listen none, or a build without libfabric) both are NULL. */
struct masterd_fabric {
    struct door *door;
    struct fabric *fabric;
};
/* Opens it, and writes it on the signpost. */
MUST_USE enum umbp_status masterd_fabric_open(struct masterd_fabric *fabric,
                                              const struct masterd_options *options,
                                              struct master *master,
                                              struct proto_signpost *signpost, char *error_out,
                                              size_t error_bytes);
void masterd_fabric_close(struct masterd_fabric *fabric);                /* idempotent */
const char *masterd_fabric_address(const struct masterd_fabric *fabric); /* "" without one */

/* What /metrics tells. */
struct masterd_metrics {
    struct master *master;
    struct rpc_server *server;
    struct rpc_evictor *evictor;
    const struct door *door; /* the fabric's, or NULL */
    struct metrics_registry *registry;
    uint64_t started_ns;
};
void masterd_metrics_write(void *metrics, struct metrics_text *text);

#endif
