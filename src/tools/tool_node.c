/* SPDX-License-Identifier: Apache-2.0 */
/* umbp node: a process that gives memory (and an SSD) to a cluster, until it is told to stop. */
#include "tools/tool_list.h"

#include <signal.h>
#include <unistd.h>

#define LEAVE_MS 10000u

static const struct tool_setting defaults[] = {
    {"log.level", "info"},
    {NULL, NULL},
};

static const struct tool_setting forced[] = {
    {"scheme", "pool"},
    {"pool.serve", "true"},
    {NULL, NULL},
};

static const char *const shown[] = {
    "pool.masters",  "pool.node_id", "pool.address", "pool.port", "pool.cluster",
    "pool.provider", "dram.bytes",   "ssd.dir",      "ssd.bytes", NULL,
};

static enum tool_exit run(const struct tool_args *args)
{
    struct umbp_client *client = NULL;
    char why[CONFIG_ERROR_BYTES] = "";
    char masters[CONFIG_TEXT_BYTES_MAX + 1];
    sigset_t signals;
    int number = 0;

    /* Before the client makes its threads, so that all of them inherit it. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    (void)pthread_sigmask(SIG_BLOCK, &signals, NULL);
    enum umbp_status status = umbp_client_create(args->config, &client, why, sizeof why);
    if (status != UMBP_OK) {
        return tool_fail(args->tool, status == UMBP_INVALID_VALUE ? TOOL_USAGE : TOOL_FAILED, "%s",
                         why[0] != '\0' ? why : umbp_status_text(status));
    }
    status = umbp_config_get(args->config, "pool.masters", masters, sizeof masters);
    ASSERT(status == UMBP_OK);
    printf("ready masters=%s pid=%d\n", masters, (int)getpid());
    enum tool_exit code = tool_finish(args->tool, TOOL_OK);
    while (code == TOOL_OK && sigwait(&signals, &number) != 0) {
    }
    status = umbp_client_close(client, LEAVE_MS);
    if (status != UMBP_OK) {
        code = tool_fail(args->tool, TOOL_FAILED, "closing: %s", umbp_status_text(status));
    }
    umbp_client_destroy(client);
    return code;
}

const struct tool tool_node = {
    .name = "node",
    .summary = "give this machine's memory and SSD to a cluster",
    .synopsis = "--masters HOST:PORT[,HOST:PORT...]",
    .about =
        "Joins the cluster of the masters with a memory tier of --dram bytes, and an SSD tier\n"
        "where --ssd-dir names a directory. Says `ready` on standard output when it serves.\n"
        "SIGTERM and SIGINT end it: it takes leave of the masters, and what was acknowledged\n"
        "is flushed to the SSD.\n\n"
        "  umbp_master 0.0.0.0:50051 &\n"
        "  umbp node --masters 127.0.0.1:50051 --dram 8GiB --ssd-dir /var/lib/umbp",
    .takes_config = true,
    .shown = shown,
    .defaults = defaults,
    .forced = forced,
    .run = run,
};
