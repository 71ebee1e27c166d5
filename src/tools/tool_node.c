/* SPDX-License-Identifier: Apache-2.0 */
/* umbp node: a process that gives memory (and an SSD) to a cluster, until it is told to stop. */
#include "tools/tool_list.h"

#include <signal.h>
#include <unistd.h>

#define LEAVE_MS 10000u
#define ALONE_MS 1000u
/* More than a master takes to see that a node is gone (its peer timeout, 3 s). */
#define TAKEN_MS 10000u
#define STATS_MAX 256u

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

static uint64_t stat_of(struct umbp_client *client, const char *name)
{
    struct umbp_stat_value values[STATS_MAX];
    size_t count = 0;
    if (umbp_stats(client, values, STATS_MAX, &count) != UMBP_OK) {
        return 0;
    }
    for (size_t i = 0; i < size_min(count, STATS_MAX); i++) {
        if (strcmp(values[i].name, name) == 0) {
            return values[i].value;
        }
    }
    return 0;
}

/* Until a master lists the node, or for ALONE_MS where none answers: it serves without one, too. An
 * id that is taken may be that of the life before, whose end the master has not seen yet: for
 * TAKEN_MS it is asked again. TOOL_STOPPED: a signal came. */
static enum tool_exit await_master(const struct tool_args *args, struct umbp_client *client,
                                   const sigset_t *signals, uint64_t *masters_out)
{
    const struct timespec pause = {.tv_nsec = 10 * NS_PER_MS};
    uint64_t begin_ns = clock_now_ns(clock_monotonic());
    char id[CONFIG_TEXT_BYTES_MAX + 1];
    for (;;) {
        uint64_t waited_ms = (clock_now_ns(clock_monotonic()) - begin_ns) / NS_PER_MS;
        bool is_taken = stat_of(client, "node.masters_with_its_id_taken") > 0;
        *masters_out = stat_of(client, "node.masters_now");
        if (*masters_out > 0 || (!is_taken && waited_ms >= ALONE_MS)) {
            return TOOL_OK;
        }
        if (waited_ms >= TAKEN_MS) {
            enum umbp_status status = umbp_config_get(args->config, "pool.node_id", id, sizeof id);
            ASSERT(status == UMBP_OK);
            return tool_fail(
                args->tool, TOOL_FAILED,
                "the id \"%s\" is taken: a live node of this cluster has it. Give this "
                "one another --pool.node_id (without it, it gets one of its own), or "
                "end the other",
                id);
        }
        if (sigtimedwait(signals, NULL, &pause) > 0) {
            return TOOL_STOPPED;
        }
    }
}

static enum tool_exit run(const struct tool_args *args)
{
    struct umbp_client *client = NULL;
    char why[CONFIG_ERROR_BYTES] = "";
    char masters[CONFIG_TEXT_BYTES_MAX + 1];
    sigset_t signals;
    uint64_t registered = 0;
    int number = 0;

    /* Before the client makes its threads, so that all of them inherit it. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    (void)signal(SIGHUP, SIG_IGN); /* as with the master: not what a terminal's end should do */
    (void)pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (tool_config_is_flagged(args, "scheme") || tool_config_is_flagged(args, "pool.serve")) {
        return tool_fail(args->tool, TOOL_USAGE,
                         "a node is of the pool scheme and serves: leave out --scheme and "
                         "--pool.serve");
    }
    enum umbp_status status = umbp_client_create(args->config, &client, why, sizeof why);
    if (status != UMBP_OK) {
        return tool_fail(args->tool, status == UMBP_INVALID_VALUE ? TOOL_USAGE : TOOL_FAILED, "%s",
                         why[0] != '\0' ? why : umbp_status_text(status));
    }
    status = umbp_config_get(args->config, "pool.masters", masters, sizeof masters);
    ASSERT(status == UMBP_OK);
    enum tool_exit code = await_master(args, client, &signals, &registered);
    if (code == TOOL_OK) {
        printf("ready masters=%s registered=%u pid=%d\n", masters, (unsigned)registered,
               (int)getpid());
        code = tool_finish(args->tool, TOOL_OK);
        while (code == TOOL_OK && sigwait(&signals, &number) != 0) {
        }
    }
    code = code == TOOL_STOPPED ? TOOL_OK : code; /* as if it had come later */
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
        "where --ssd-dir names a directory. Says `ready` on standard output when it serves and\n"
        "a master lists it (registered=0: none answers; it goes on asking). With an id that a\n"
        "live node has (--pool.node_id) it ends with 3 after ten seconds.\n"
        "SIGTERM and SIGINT end it: it takes leave of the masters, and what was acknowledged\n"
        "is flushed to the SSD. SIGHUP does nothing.\n\n"
        "  umbp_master 0.0.0.0:50051 &\n"
        "  umbp node --masters 127.0.0.1:50051 --dram 8GiB --ssd-dir /var/lib/umbp",
    .takes_config = true,
    .shown = shown,
    .defaults = defaults,
    .forced = forced,
    .run = run,
};
