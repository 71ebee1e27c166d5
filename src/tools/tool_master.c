/* SPDX-License-Identifier: Apache-2.0 */
/*
 * umbp master: becomes umbp_master, which has the gRPC that this program must not have. It is
 * looked for beside this program, then in PATH.
 */
#include "tools/tool_cluster.h"
#include "tools/tool_list.h"

#include <errno.h>
#include <limits.h>
#include <unistd.h>

#define ARGUMENTS_MAX 256

static enum tool_exit run_raw(int argument_count, char **arguments)
{
    char path[PATH_MAX];
    char *all[ARGUMENTS_MAX + 2] = {(char *)"umbp master"}; /* its help says so */
    if (argument_count > ARGUMENTS_MAX) {
        return tool_fail(&tool_master, TOOL_USAGE, "too many arguments");
    }
    for (int i = 0; i < argument_count; i++) {
        all[i + 1] = arguments[i];
    }
    (void)signal(SIGPIPE, SIG_DFL); /* what it finds is what a shell would give it */
    if (tool_cluster_beside(path, sizeof path)) {
        execv(path, all);
    } else {
        execvp(TOOL_MASTER_PROGRAM, all);
    }
    if (argument_count == 1 && strcmp(arguments[0], "--help") == 0) {
        tool_print_help(&tool_master);
        return tool_finish(&tool_master, TOOL_OK);
    }
    return tool_fail(&tool_master, TOOL_FAILED,
                     errno == ENOENT ? "there is no " TOOL_MASTER_PROGRAM
                                       ": this build has no master"
                                     : "can't run " TOOL_MASTER_PROGRAM);
}

const struct tool tool_master = {
    .name = "master",
    .summary = "the master of a pool: who has what, and where there is room",
    .synopsis = "[LISTEN [METRICS_PORT]] [--flag value ...]",
    .about = "Runs umbp_master with these arguments, in this process; umbp master --help lists "
             "them.\n\n"
             "  umbp master 0.0.0.0:50051 9091\n"
             "  umbp master --listen unix:/run/umbp.sock --metrics-port 0",
    .run_raw = run_raw,
};
