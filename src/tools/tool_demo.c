/* SPDX-License-Identifier: Apache-2.0 */
/*
 * umbp demo cluster: a whole pool on this machine, a node of it killed and started again half-way.
 *
 *   umbp_master, three `umbp node`, four `umbp replay` (each a quarter of the requests)
 *   a third of the requests done:    kill -9 of node-2
 *   two thirds:                      node-2 again, under its old name
 *   all:                             the table
 *
 * The clients tell what they have done every few milliseconds; a phase is what they told between
 * its begin and its end. All clients verify every byte that they read.
 */
#include "tools/tool_demo.h"

#include <inttypes.h>
#include <poll.h>

#include "tools/tool_cluster.h"
#include "tools/tool_list.h"
#include "tools/tool_replay.h"

#define SO_FAR_MS "20"
#define LIMIT_MS UINT64_C(600000)
#define JOIN_MS 20000u
#define VICTIM 1u

enum {
    FLAG_TRACE,
    FLAG_REQUESTS,
    FLAG_BLOCK_BYTES,
    FLAG_DRAM,
    FLAG_SEED,
    FLAG_JSON
};

static const struct tool_flag flags[] = {
    [FLAG_TRACE] = {.name = "trace",
                    .kind = TOOL_FLAG_TEXT,
                    .value_name = "FILE",
                    .help = "requests, as of umbp replay; without it a chat workload is made up"},
    [FLAG_REQUESTS] = {.name = "requests",
                       .kind = TOOL_FLAG_COUNT,
                       .value_name = "N",
                       .default_value = "6000",
                       .min = 12,
                       .max = 10000000,
                       .help = "the first N requests"},
    [FLAG_BLOCK_BYTES] = {.name = "block-bytes",
                          .kind = TOOL_FLAG_SIZE,
                          .value_name = "SIZE",
                          .default_value = "64KiB",
                          .min = 8,
                          .max = 64 * MIB,
                          .help = "size of a block's value"},
    [FLAG_DRAM] = {.name = "dram",
                   .kind = TOOL_FLAG_SIZE,
                   .value_name = "SIZE",
                   .default_value = "512MiB",
                   .min = 16 * MIB,
                   .max = UINT64_C(1) << 50,
                   .help = "memory of each node"},
    [FLAG_SEED] = {.name = "seed",
                   .kind = TOOL_FLAG_COUNT,
                   .value_name = "N",
                   .default_value = "1",
                   .help = "of the made-up workload and of the contents"},
    [FLAG_JSON] = {.name = "json",
                   .help = "one JSON object on the last line, instead of the table"},
    {.name = NULL},
};

/* Signal handlers have no other way to speak. */
static volatile sig_atomic_t stop_signal;

static void on_signal(int number) { stop_signal = number; }

struct demo {
    const struct tool_args *args;
    struct tool_cluster cluster;
    struct demo_result result;
    struct demo_count latest[DEMO_CLIENTS];
    struct tool_child *nodes[DEMO_NODES];
    struct tool_child *clients[DEMO_CLIENTS];
    bool has_result[DEMO_CLIENTS];
    bool has_ended[DEMO_CLIENTS];
    uint64_t total; /* requests */
    enum demo_phase phase;
};

static uint64_t now(void) { return clock_now_ns(clock_monotonic()); }

/* How many requests there will be; an unreadable trace shows before anything is started. */
static enum tool_exit count_requests(struct demo *demo)
{
    const char *path = demo->args->flags[FLAG_TRACE].text;
    uint64_t limit = demo->args->flags[FLAG_REQUESTS].number;
    struct replay_load load = {0};
    char why[512] = "out of memory";
    demo->result.source = path != NULL ? path : "generated chat";
    demo->total = limit;
    if (path == NULL) {
        return TOOL_OK;
    }
    enum umbp_status status = replay_load_trace(path, limit, &load, why, sizeof why);
    demo->total = load.request_count;
    replay_load_fini(&load);
    return status == UMBP_OK ? TOOL_OK : tool_fail(demo->args->tool, TOOL_USAGE, "%s", why);
}

/* ------------------------------------------------------------------------ beginning ----- */

static bool start_node(struct demo *demo, size_t i)
{
    char id[16];
    char bytes[32];
    snprintf(id, sizeof id, "node-%zu", i + 1);
    snprintf(bytes, sizeof bytes, "%" PRIu64, demo->result.node_bytes);
    const char *const extra[] = {"--dram.bytes", bytes, NULL};
    demo->nodes[i] = tool_cluster_node(&demo->cluster, id, extra);
    return demo->nodes[i] != NULL;
}

static bool start_client(struct demo *demo, size_t i)
{
    char name[16], share[16], limit[24], seed[24], block[24];
    const char *path = demo->args->flags[FLAG_TRACE].text;
    snprintf(name, sizeof name, "client-%zu", i + 1);
    snprintf(share, sizeof share, "%zu/%u", i, DEMO_CLIENTS);
    snprintf(limit, sizeof limit, "%" PRIu64, demo->args->flags[FLAG_REQUESTS].number);
    snprintf(seed, sizeof seed, "%" PRIu64, demo->args->flags[FLAG_SEED].number);
    snprintf(block, sizeof block, "%" PRIu64, demo->result.block_bytes);
    const char *const arguments[] = {demo->cluster.self_path,
                                     "replay",
                                     "--json",
                                     "--so-far",
                                     SO_FAR_MS,
                                     "--masters",
                                     demo->cluster.address,
                                     "--pool.serve",
                                     "false",
                                     "--pool.same_host",
                                     demo->result.is_network[i] ? "false" : "true",
                                     "--share",
                                     share,
                                     "--limit",
                                     limit,
                                     "--seed",
                                     seed,
                                     "--block-bytes",
                                     block,
                                     path != NULL ? "--trace" : NULL,
                                     path,
                                     NULL};
    demo->clients[i] = tool_cluster_run(&demo->cluster, name, arguments);
    return demo->clients[i] != NULL;
}

static bool start(struct demo *demo)
{
    bool is_good = tool_cluster_master(&demo->cluster);
    for (size_t i = 0; is_good && i < DEMO_NODES; i++) {
        is_good = start_node(demo, i);
    }
    is_good = is_good &&
              tool_cluster_await(&demo->cluster, "mori_umbp_client_count", DEMO_NODES, JOIN_MS);
    for (size_t i = 0; is_good && i < DEMO_CLIENTS; i++) {
        demo->result.is_network[i] = i % 2 == 1;
        is_good = start_client(demo, i);
    }
    demo->result.times_ns[DEMO_BEFORE] = now();
    return is_good;
}

/* -------------------------------------------------------------------------- running ----- */

/* Everything that a client has said until now. */
static bool listen_to(struct demo *demo, size_t i)
{
    const char *line;
    bool ended = false;
    bool is_last = false;
    while ((line = tool_child_line_now(demo->clients[i], &ended)) != NULL) {
        if (demo_count_parse(line, &is_last, &demo->latest[i])) {
            demo->has_result[i] = demo->has_result[i] || is_last;
        }
    }
    if (!ended) {
        return true;
    }
    demo->has_ended[i] = true;
    int code = tool_child_wait(demo->clients[i], 10000);
    if (code == 0 || code == TOOL_MISS) { /* wrong bytes are counted */
        return demo->has_result[i];
    }
    demo->result.failed_clients++;
    if (stop_signal == 0) {
        tool_child_complain(&demo->cluster, demo->clients[i], "failed");
    }
    return false;
}

static bool listen_to_all(struct demo *demo, bool *all_ended_out)
{
    bool is_good = true;
    *all_ended_out = true;
    for (size_t i = 0; i < DEMO_CLIENTS; i++) {
        is_good = (demo->has_ended[i] || listen_to(demo, i)) && is_good;
        *all_ended_out = *all_ended_out && demo->has_ended[i];
    }
    return is_good;
}

static void mark(struct demo *demo, enum demo_phase phase)
{
    demo->result.times_ns[phase] = now();
    memcpy(demo->result.marks[phase], demo->latest, sizeof demo->latest);
    demo->phase = phase;
}

static uint64_t requests_done(const struct demo *demo)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < DEMO_CLIENTS; i++) {
        sum += demo->latest[i].requests;
    }
    return sum;
}

/* kill -9 after a third, back after two thirds; whatever the clients' pace, both happen. */
static bool move_on(struct demo *demo, bool is_over)
{
    uint64_t done = requests_done(demo);
    bool ended;
    if (demo->phase == DEMO_BEFORE && (is_over || done >= demo->total / 3)) {
        tool_child_kill(demo->nodes[VICTIM]);
        mark(demo, DEMO_GONE);
        fprintf(stderr, "%" PRIu64 " of %" PRIu64 " requests: killed node-%u\n", done, demo->total,
                VICTIM + 1);
    }
    if (demo->phase == DEMO_GONE && (is_over || done >= demo->total * 2 / 3)) {
        if (!start_node(demo, VICTIM) || !listen_to_all(demo, &ended)) {
            return false;
        }
        mark(demo, DEMO_AFTER);
        fprintf(stderr, "%" PRIu64 " of %" PRIu64 " requests: node-%u is back\n",
                requests_done(demo), demo->total, VICTIM + 1);
    }
    return true;
}

static void wait_for_news(const struct demo *demo)
{
    struct pollfd fds[DEMO_CLIENTS];
    for (size_t i = 0; i < DEMO_CLIENTS; i++) {
        fds[i] = (struct pollfd){.fd = demo->has_ended[i] ? -1 : demo->clients[i]->out,
                                 .events = POLLIN};
    }
    (void)poll(fds, DEMO_CLIENTS, 100);
}

static bool run_clients(struct demo *demo)
{
    uint64_t until = now() + LIMIT_MS * NS_PER_MS;
    bool all_ended = false;
    bool is_good = true;
    while (is_good && !all_ended && stop_signal == 0) {
        if (now() > until) {
            (void)tool_fail(demo->args->tool, TOOL_FAILED, "the clients did not end in time");
            return false;
        }
        wait_for_news(demo);
        is_good = listen_to_all(demo, &all_ended) && move_on(demo, all_ended);
    }
    demo->result.times_ns[DEMO_PHASES] = now();
    memcpy(demo->result.marks[DEMO_PHASES], demo->latest, sizeof demo->latest);
    return is_good && stop_signal == 0;
}

static enum tool_exit report(const struct demo *demo)
{
    const struct demo_result *result = &demo->result;
    bool is_good =
        demo_errors(result) == 0 && demo_phase_sum(result, DEMO_PHASES, true, true).corrupt == 0;
    enum tool_exit code = is_good ? TOOL_OK : TOOL_MISS;
    if (demo->args->flags[FLAG_JSON].is_set) {
        return tool_json_print(demo->args->tool, code, demo_json(result));
    }
    demo_print(result);
    return code;
}

static enum tool_exit run_demo(struct demo *demo)
{
    const struct sigaction action = {.sa_handler = on_signal};
    enum tool_exit code = count_requests(demo);
    if (code != TOOL_OK) {
        return code;
    }
    if (!tool_cluster_init(&demo->cluster, demo->args->tool, &stop_signal)) {
        return TOOL_FAILED;
    }
    stop_signal = 0; /* from here on a signal ends the run, and the children with it */
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGHUP, &action, NULL);
    bool is_good = start(demo) && run_clients(demo);
    tool_cluster_fini(&demo->cluster);
    if (is_good) {
        return report(demo);
    }
    return stop_signal != 0 ? TOOL_STOPPED : TOOL_FAILED;
}

static enum tool_exit run(const struct tool_args *args)
{
    if (args->operand_count != 1 || strcmp(args->operands[0], "cluster") != 0) {
        return tool_fail(args->tool, TOOL_USAGE, "what to show? There is: umbp demo cluster");
    }
    struct demo *demo = mem_zalloc(sizeof *demo);
    if (demo == NULL) {
        return tool_fail(args->tool, TOOL_FAILED, "out of memory");
    }
    demo->args = args;
    demo->result.block_bytes = args->flags[FLAG_BLOCK_BYTES].number;
    demo->result.node_bytes = args->flags[FLAG_DRAM].number;
    enum tool_exit code = run_demo(demo);
    mem_free(demo);
    return code;
}

const struct tool tool_demo = {
    .name = "demo",
    .summary = "a whole pool on this machine, with a node killed half-way",
    .synopsis = "cluster [FLAG]...",
    .about =
        "Starts a master, three nodes and four clients as processes of this machine. The clients\n"
        "share a workload, read what is held and verify every byte, and store the rest; two of\n"
        "them read the nodes' memory as neighbours do (local), two by TCP only (remote). After a\n"
        "third of the requests a node is killed (kill -9), after two thirds it is started again,\n"
        "empty. Ends with hit rates and GB/s before, meanwhile and after; GB/s are bytes by time\n"
        "in calls, of one client. Exits with 1 on errors or wrong bytes. All processes end with\n"
        "it, and no files are left. Takes less than a minute.\n\n"
        "  umbp demo cluster\n"
        "  umbp demo cluster --requests 600 --dram 256MiB --json",
    .flags = flags,
    .operands_max = 1,
    .run = run,
};
