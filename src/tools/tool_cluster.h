/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small cluster of this machine, for the demo and the benches: umbp_master and copies of this
 * program, as children of this one.
 *
 * Children die with their maker (also if that is killed), are asked to end by SIGTERM and killed
 * if they do not. Their standard output comes here, line by line; standard error goes to a file
 * without a name, whose end is shown when a child failed.
 *
 * Threading: all for one thread, which must be the main one (a child dies with the thread that made
 * it). A wait ends early when `*stop` is not 0. Limits: TOOL_CHILDREN_MAX children, lines of
 * TOOL_LINE_BYTES.
 */
#ifndef TOOLS_TOOL_CLUSTER_H
#define TOOLS_TOOL_CLUSTER_H

#include <signal.h>
#include <sys/types.h>

#include "tools/tools.h"

#define TOOL_MASTER_PROGRAM "umbp_master"
#define TOOL_CHILDREN_MAX 32u
#define TOOL_LINE_BYTES 65536u
#define TOOL_ADDRESS_BYTES 128u

struct tool_child {
    char name[32];
    pid_t pid; /* 0: not running */
    int out;
    int log;
    size_t used;
    char *buffer; /* TOOL_LINE_BYTES */
};

struct tool_cluster {
    const struct tool *tool; /* whose errors are printed */
    const volatile sig_atomic_t *stop;
    char self_path[4096]; /* this program */
    char master_path[4096];
    char address[TOOL_ADDRESS_BYTES]; /* of the master: gRPC, and the signpost to the fabric door */
    char door[TOOL_ADDRESS_BYTES];    /* the fabric door itself */
    unsigned metrics_port;
    struct tool_child *master;
    size_t child_count;
    struct tool_child children[TOOL_CHILDREN_MAX];
};

/* The path of umbp_master beside this program. False: it is not there. */
bool tool_cluster_beside(char *path_out, size_t bytes);
/* Finds umbp_master: beside this program, else in PATH. False: there is none, and so it is said. */
MUST_USE bool tool_cluster_init(struct tool_cluster *cluster, const struct tool *tool,
                                const volatile sig_atomic_t *stop);
/* Ends all children: takes a few seconds at most. Takes one that was only zeroed. */
void tool_cluster_fini(struct tool_cluster *cluster);

/* A child with these arguments (ending with NULL; [0] is the path). Its place may be used again
 * after it has ended. NULL: it can't be had, and why is printed. */
struct tool_child *tool_cluster_run(struct tool_cluster *cluster, const char *name,
                                    const char *const *arguments);
/* The master, on any port, or after the first time on the same one; returns when it listens. */
MUST_USE bool tool_cluster_master(struct tool_cluster *cluster);
/* A node with `extra` flags (ending with NULL); returns when it says that it is ready. NULL:
 * failed, and why is printed. */
struct tool_child *tool_cluster_node(struct tool_cluster *cluster, const char *id,
                                     const char *const *extra);
/* Wait until the master counts at least so much of that: a number of /metrics. */
MUST_USE bool tool_cluster_await(struct tool_cluster *cluster, const char *metric, uint64_t least,
                                 uint64_t timeout_ms);
/* One number of the master's /metrics. */
MUST_USE bool tool_cluster_metric(const struct tool_cluster *cluster, const char *metric,
                                  uint64_t *value_out);

/* kill -9, and its end. */
void tool_child_kill(struct tool_child *child);
/* The next line of its output, without its newline, valid until the next call. NULL: it has ended
 * its output, or the time is up, or there is a stop. */
const char *tool_child_line(const struct tool_cluster *cluster, struct tool_child *child,
                            uint64_t timeout_ms, bool *ended_out);
/* A line that is there already. */
const char *tool_child_line_now(struct tool_child *child, bool *ended_out);
/* Waits for its end: its exit code, or 128 and the signal's number; -1 when it was killed because
 * it did not end within that time. */
int tool_child_wait(struct tool_child *child, uint64_t timeout_ms);
/* "umbp demo: NAME: what happened", and the end of what it said on standard error. */
void tool_child_complain(const struct tool_cluster *cluster, struct tool_child *child,
                         const char *what);

#endif
