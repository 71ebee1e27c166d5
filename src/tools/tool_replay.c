/* SPDX-License-Identifier: Apache-2.0 */
/* umbp replay: a trace of requests, or a generated one, through a store of its own. */
#include "tools/tool_replay.h"

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/tool_list.h"

#define POLICIES_MAX 16u
#define CHAT_REQUESTS 6000u

enum {
    FLAG_TRACE,
    FLAG_BLOCK_BYTES,
    FLAG_POLICY,
    FLAG_SPEED,
    FLAG_LIMIT,
    FLAG_SEED,
    FLAG_SHARE,
    FLAG_SO_FAR,
    FLAG_JSON
};

static const struct tool_flag flags[] = {
    [FLAG_TRACE] = {.name = "trace",
                    .kind = TOOL_FLAG_TEXT,
                    .value_name = "FILE",
                    .help =
                        "requests, a JSON object a line; without it a chat workload is made up"},
    [FLAG_BLOCK_BYTES] = {.name = "block-bytes",
                          .kind = TOOL_FLAG_SIZE,
                          .value_name = "SIZE",
                          .default_value = "256KiB",
                          .min = 8,
                          .max = 64 * MIB,
                          .help = "size of a block's value"},
    [FLAG_POLICY] = {.name = "policy",
                     .kind = TOOL_FLAG_TEXT,
                     .value_name = "NAME",
                     .help = "eviction.policy; `all` runs each and shows them side by side"},
    [FLAG_SPEED] = {.name = "speed",
                    .kind = TOOL_FLAG_TEXT,
                    .value_name = "X",
                    .default_value = "max",
                    .help = "`max`, `real`, or a multiple of the trace's own pace, as 10 or 0.5"},
    [FLAG_LIMIT] = {.name = "limit",
                    .kind = TOOL_FLAG_COUNT,
                    .value_name = "N",
                    .min = 1,
                    .help = "the first N requests; of a made-up workload so many (default 6000)"},
    [FLAG_SEED] = {.name = "seed",
                   .kind = TOOL_FLAG_COUNT,
                   .value_name = "N",
                   .default_value = "1",
                   .help = "of the made-up workload and of the contents"},
    [FLAG_SHARE] = {.name = "share",
                    .kind = TOOL_FLAG_TEXT,
                    .value_name = "I/N",
                    .help = "every Nth request from number I on (0/4): several share a workload"},
    [FLAG_SO_FAR] = {.name = "so-far",
                     .kind = TOOL_FLAG_COUNT,
                     .value_name = "MS",
                     .min = 1,
                     .max = 3600000,
                     .help = "with --json, so often a line of what was done so far"},
    [FLAG_JSON] = {.name = "json",
                   .help = "one JSON object on the last line, instead of the table"},
    {.name = NULL},
};

static const struct tool_setting defaults[] = {
    {"dram.bytes", "2GiB"},
    {"ssd.bytes", "4GiB"},
    {"pool.serve", "false"},
    {NULL, NULL},
};

static const char *const shown[] = {
    "pool.masters",        "pool.serve",         "dram.bytes",      "ssd.bytes",      "ssd.dir",
    "dram.high_watermark", "dram.low_watermark", "dram.page_bytes", "ssd.durability", NULL,
};

static volatile sig_atomic_t stop_signal;

static void on_signal(int number) { stop_signal = number; }

struct replay {
    const struct tool_args *args;
    struct replay_load load;
    const char *source;
    double speed;
    const char *policies[POLICIES_MAX];
    size_t policy_count;
    size_t part; /* of the requests, `parts` in all */
    size_t parts;
    bool is_pool;
    bool has_store; /* of its own: not a pool's client only */
    bool has_ssd;
    char directory[CONFIG_TEXT_BYTES_MAX + 1]; /* "" without an SSD */
    bool is_temporary;
    struct replay_result *results[POLICIES_MAX];
    size_t result_count;
};

/* ----------------------------------------------------------------------- options -------- */

/* "max" is 0. A decimal number, of at most nine digits. */
static bool parse_speed(const char *text, double *speed_out)
{
    uint64_t digits = 0;
    uint64_t scale = 1;
    unsigned count = 0;
    bool after_point = false;

    if (strcmp(text, "max") == 0 || strcmp(text, "real") == 0) {
        *speed_out = text[0] == 'm' ? 0 : 1;
        return true;
    }
    for (; *text != '\0'; text++) {
        if (*text == '.' && !after_point) {
            after_point = true;
            continue;
        }
        if (*text < '0' || *text > '9' || ++count > 9) {
            return false;
        }
        digits = digits * 10 + (uint64_t)(*text - '0');
        scale *= after_point ? 10 : 1;
    }
    *speed_out = (double)digits / (double)scale;
    return digits > 0;
}

/* The policy's place in the option table's list, or why not. */
static enum tool_exit choose_policies(struct replay *replay)
{
    const struct tool_args *args = replay->args;
    const char *name = args->flags[FLAG_POLICY].text;
    static char current[64];

    if (name != NULL && strcmp(name, "all") == 0) {
        for (size_t i = 0; i < POLICIES_MAX && store_policy_name(i) != NULL; i++) {
            replay->policies[replay->policy_count++] = store_policy_name(i);
        }
        return TOOL_OK;
    }
    if (name != NULL && umbp_config_set(args->config, "eviction.policy", name) != UMBP_OK) {
        return tool_fail(args->tool, TOOL_USAGE, "--policy: %s (or `all`)",
                         umbp_config_error(args->config));
    }
    enum umbp_status status =
        umbp_config_get(args->config, "eviction.policy", current, sizeof current);
    ASSERT(status == UMBP_OK);
    replay->policies[replay->policy_count++] = current;
    return TOOL_OK;
}

static uint64_t size_of(const struct umbp_config *config, const char *option)
{
    char text[32];
    uint64_t bytes = 0;
    enum umbp_status status = umbp_config_get(config, option, text, sizeof text);
    bool is_size = status == UMBP_OK && units_parse_bytes(text, &bytes);
    ASSERT(is_size);
    return bytes;
}

static void text_of(const struct replay *replay, const char *option, char *text_out, size_t bytes)
{
    enum umbp_status status = umbp_config_get(replay->args->config, option, text_out, bytes);
    ASSERT(status == UMBP_OK);
}

/* A pool is meant where masters are given, or the scheme is. */
static enum tool_exit check_pool(struct replay *replay)
{
    const struct tool_args *args = replay->args;
    char text[CONFIG_TEXT_BYTES_MAX + 1];

    text_of(replay, "scheme", text, sizeof text);
    replay->is_pool = strcmp(text, "pool") == 0 || tool_config_is_flagged(args, "pool.masters");
    replay->has_store = true;
    if (!replay->is_pool) {
        return TOOL_OK;
    }
    tool_config_set(args, "scheme", "pool");
    if (replay->policy_count > 1) {
        return tool_fail(args->tool, TOOL_USAGE,
                         "--policy all: the nodes of a pool have policies of their own");
    }
    text_of(replay, "pool.serve", text, sizeof text);
    replay->has_store = strcmp(text, "false") != 0;
    if (!replay->has_store) {
        tool_config_set(args, "ssd.enabled", "false");
        tool_config_set(args, "role", "standalone");
    }
    return TOOL_OK;
}

static enum tool_exit check_share(struct replay *replay)
{
    const char *text = replay->args->flags[FLAG_SHARE].text;
    char part[24];
    uint64_t number = 0;
    uint64_t parts = 1;
    bool is_good = true;

    if (text != NULL) {
        size_t digits = strcspn(text, "/");
        snprintf(part, sizeof part, "%.*s", (int)size_min(digits, sizeof part - 1), text);
        is_good = text[digits] == '/' && units_parse_count(part, &number) &&
                  units_parse_count(text + digits + 1, &parts) && number < parts && parts <= 65536;
    }
    replay->part = (size_t)number;
    replay->parts = (size_t)parts;
    return is_good ? TOOL_OK
                   : tool_fail(replay->args->tool, TOOL_USAGE,
                               "--share: \"%s\" is not I/N with I below N, as 0/4", text);
}

static enum tool_exit check_sizes(struct replay *replay)
{
    const struct tool_args *args = replay->args;
    uint64_t block_bytes = args->flags[FLAG_BLOCK_BYTES].number;

    if (!parse_speed(args->flags[FLAG_SPEED].text, &replay->speed)) {
        return tool_fail(args->tool, TOOL_USAGE,
                         "--speed: \"%s\" is neither max nor real nor a multiple, as 10 or 0.5",
                         args->flags[FLAG_SPEED].text);
    }
    if (replay->has_store && block_bytes > size_of(args->config, "dram.bytes")) {
        return tool_fail(args->tool, TOOL_USAGE,
                         "--block-bytes is larger than the memory tier, --dram");
    }
    return TOOL_OK;
}

static enum tool_exit check_options(struct replay *replay)
{
    const struct tool_args *args = replay->args;
    char enabled[16];

    enum tool_exit code = choose_policies(replay);
    if (code == TOOL_OK) {
        code = check_pool(replay);
    }
    if (code == TOOL_OK) {
        code = check_share(replay);
    }
    if (code == TOOL_OK) {
        code = check_sizes(replay);
    }
    if (code != TOOL_OK) {
        return code;
    }
    text_of(replay, "ssd.enabled", enabled, sizeof enabled);
    text_of(replay, "ssd.dir", replay->directory, sizeof replay->directory);
    replay->has_ssd = replay->has_store && strcmp(enabled, "false") != 0 &&
                      size_of(args->config, "ssd.bytes") > 0;
    /* The directory comes last, when all else is known to be good; any name serves to check. */
    if (replay->has_ssd && replay->directory[0] == '\0') {
        replay->is_temporary = true;
        tool_config_set(args, "ssd.dir", "(temporary)");
    }
    if (umbp_config_validate(args->config) != UMBP_OK) {
        return tool_fail(args->tool, TOOL_USAGE, "%s", umbp_config_error(args->config));
    }
    return TOOL_OK;
}

static enum tool_exit load_requests(struct replay *replay)
{
    const struct tool_args *args = replay->args;
    const char *path = args->flags[FLAG_TRACE].text;
    const struct tool_flag_value *limit = &args->flags[FLAG_LIMIT];
    char why[512] = "out of memory";
    enum umbp_status status;

    replay->source = path != NULL ? path : "generated chat";
    if (path != NULL) {
        status = replay_load_trace(path, limit->is_set ? limit->number : UINT64_MAX, &replay->load,
                                   why, sizeof why);
    } else {
        status = replay_load_chat(args->flags[FLAG_SEED].number,
                                  limit->is_set ? limit->number : CHAT_REQUESTS, &replay->load);
    }
    if (status != UMBP_OK) {
        return tool_fail(args->tool, status == UMBP_NO_MEMORY ? TOOL_FAILED : TOOL_USAGE, "%s",
                         why);
    }
    replay_load_share(&replay->load, replay->part, replay->parts);
    return TOOL_OK;
}

/* -------------------------------------------------------------------- directories ------- */

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

static void remove_tree(const char *path)
{
    (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static enum tool_exit make_temporary(struct replay *replay)
{
    const char *parent = getenv("TMPDIR");
    if (parent == NULL || *parent == '\0') {
        parent = "/var/tmp"; /* on a disk, where /tmp may be memory */
    }
    snprintf(replay->directory, sizeof replay->directory, "%.4000s/umbp-replay-XXXXXX", parent);
    if (mkdtemp(replay->directory) == NULL) {
        return tool_fail(replay->args->tool, TOOL_FAILED,
                         "%s: %s (--ssd-dir names a directory, --ssd 0 does without)", parent,
                         strerror(errno));
    }
    return TOOL_OK;
}

/* Each run has an SSD directory to itself: the one given, or one below it for each of several. */
static enum tool_exit choose_directory(const struct replay *replay, size_t run, char *path_out,
                                       size_t path_bytes)
{
    bool is_below = replay->is_temporary || replay->policy_count > 1;
    int bytes = snprintf(path_out, path_bytes, "%s%s%s", replay->directory, is_below ? "/" : "",
                         is_below ? replay->policies[run] : "");
    if (bytes < 0 || (size_t)bytes >= path_bytes) {
        return tool_fail(replay->args->tool, TOOL_USAGE, "--ssd-dir: the path is too long");
    }
    if (is_below && mkdir(replay->directory, 0700) != 0 && errno != EEXIST) {
        return tool_fail(replay->args->tool, TOOL_FAILED, "%s: %s", replay->directory,
                         strerror(errno));
    }
    return TOOL_OK;
}

/* --------------------------------------------------------------------------- runs ------- */

/* A line of its own, at once: somebody reads along. */
static void report_so_far(const struct replay_result *so_far)
{
    json_t *object = replay_json_so_far(so_far);
    if (object != NULL) {
        (void)json_dumpf(object, stdout, JSON_COMPACT);
        (void)putchar('\n');
        (void)fflush(stdout);
    }
    json_decref(object);
}

static enum tool_exit run_policy(struct replay *replay, size_t run)
{
    const struct tool_args *args = replay->args;
    char directory[CONFIG_TEXT_BYTES_MAX + 1];
    char why[512] = "";
    const struct replay_options options = {
        .config = args->config,
        .block_bytes = args->flags[FLAG_BLOCK_BYTES].number,
        .seed = args->flags[FLAG_SEED].number,
        .speed = replay->speed,
        .shows_progress = true,
        .stop = &stop_signal,
        .report_ms = args->flags[FLAG_JSON].is_set ? args->flags[FLAG_SO_FAR].number : 0,
        .report = report_so_far,
    };
    if (replay->has_ssd) {
        enum tool_exit code = choose_directory(replay, run, directory, sizeof directory);
        if (code != TOOL_OK) {
            return code;
        }
        tool_config_set(args, "ssd.dir", directory);
    }
    tool_config_set(args, "eviction.policy", replay->policies[run]);
    if (replay->policy_count > 1) {
        fprintf(stderr, "policy %s\n", replay->policies[run]);
    }
    struct replay_result *result = mem_zalloc(sizeof *result);
    if (result == NULL) {
        return tool_fail(args->tool, TOOL_FAILED, "out of memory");
    }
    replay->results[replay->result_count++] = result;
    enum umbp_status status = replay_run(&replay->load, &options, result, why, sizeof why);
    if (replay->has_ssd && replay->is_temporary) {
        remove_tree(directory); /* before the next one needs the space */
    }
    if (status != UMBP_OK) {
        return tool_fail(args->tool, status == UMBP_INVALID_VALUE ? TOOL_USAGE : TOOL_FAILED, "%s",
                         why[0] != '\0' ? why : umbp_status_text(status));
    }
    return TOOL_OK;
}

static void print_head(const struct replay *replay)
{
    char dram[32];
    char ssd[32];
    char block[32];
    char masters[CONFIG_TEXT_BYTES_MAX + 1];
    const struct umbp_config *config = replay->args->config;
    units_format_bytes(size_of(config, "dram.bytes"), dram, sizeof dram);
    units_format_bytes(size_of(config, "ssd.bytes"), ssd, sizeof ssd);
    units_format_bytes(replay->args->flags[FLAG_BLOCK_BYTES].number, block, sizeof block);
    if (replay->is_pool) {
        text_of(replay, "pool.masters", masters, sizeof masters);
        printf("%s: the pool of %s, blocks of %s%s\n\n", replay->source, masters, block,
               replay->has_store ? ", as a node" : "");
        return;
    }
    printf("%s: %s of DRAM, %s of SSD, blocks of %s%s%s\n\n", replay->source, dram,
           replay->has_ssd ? ssd : "none", block, replay->policy_count == 1 ? ", policy " : "",
           replay->policy_count == 1 ? replay->policies[0] : "");
}

static enum tool_exit report(const struct replay *replay)
{
    const struct tool_args *args = replay->args;
    size_t block_bytes = args->flags[FLAG_BLOCK_BYTES].number;
    enum tool_exit code = stop_signal != 0 ? TOOL_STOPPED : TOOL_OK;
    if (replay->result_count == 0) {
        return tool_fail(args->tool, code, "stopped before it began");
    }
    for (size_t i = 0; i < replay->result_count; i++) {
        code = replay->results[i]->corrupt > 0 ? TOOL_MISS : code;
    }
    if (!args->flags[FLAG_JSON].is_set) {
        print_head(replay);
        replay_print_table((const struct replay_result *const *)replay->results, replay->policies,
                           replay->result_count);
        if (stop_signal != 0) {
            printf("stopped early\n");
        }
        return code;
    }
    if (replay->policy_count == 1) {
        return tool_json_print(
            args->tool, code,
            replay_json(replay->results[0], replay->policies[0], replay->source, block_bytes));
    }
    json_t *runs = json_array();
    for (size_t i = 0; i < replay->result_count; i++) {
        (void)json_array_append_new(runs, replay_json(replay->results[i], replay->policies[i],
                                                      replay->source, block_bytes));
    }
    return tool_json_print(args->tool, code, json_pack("{s:o}", "policies", runs));
}

static enum tool_exit run_all(struct replay *replay)
{
    const struct sigaction action = {.sa_handler = on_signal};
    enum tool_exit code = TOOL_OK;

    stop_signal = 0; /* from here on a signal ends the run, and what is temporary is removed */
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGHUP, &action, NULL);
    if (replay->has_ssd && replay->is_temporary) {
        code = make_temporary(replay);
        if (code != TOOL_OK) {
            return code;
        }
    }
    for (size_t i = 0; code == TOOL_OK && i < replay->policy_count && stop_signal == 0; i++) {
        code = run_policy(replay, i);
    }
    if (replay->has_ssd && replay->is_temporary) {
        remove_tree(replay->directory);
    }
    return code == TOOL_OK ? report(replay) : code;
}

static enum tool_exit run(const struct tool_args *args)
{
    struct replay *replay = mem_zalloc(sizeof *replay);
    if (replay == NULL) {
        return tool_fail(args->tool, TOOL_FAILED, "out of memory");
    }
    replay->args = args;
    enum tool_exit code = check_options(replay);
    if (code == TOOL_OK) {
        code = load_requests(replay);
    }
    if (code == TOOL_OK) {
        code = run_all(replay);
    }
    for (size_t i = 0; i < replay->result_count; i++) {
        mem_free(replay->results[i]);
    }
    replay_load_fini(&replay->load);
    mem_free(replay);
    return code;
}

const struct tool tool_replay = {
    .name = "replay",
    .summary = "drive a store with a trace of requests, or a made-up one",
    .synopsis = "[--trace FILE] [FLAG]...",
    .about =
        "Makes a store and drives it as an inference engine would. For each request: how many of "
        "its\n"
        "blocks, from the first on, are held; read those, every byte verified; store the others. "
        "Ends\n"
        "with hit rates, bytes and GB/s by tier, latencies, evictions and dropped copies. Without\n"
        "--trace it makes up a chat workload; docs/replay.md describes it and every figure.\n\n"
        "The SSD tier lies in a temporary directory (of TMPDIR, else /var/tmp) that is removed at "
        "the\n"
        "end, or in --ssd-dir, which stays and is found warm by the next run. --ssd 0 does "
        "without.\n"
        "Exits with 1 when a wrong byte was read.\n\n"
        "With --masters the store is the cluster's: as a client only, or with --pool.serve as a\n"
        "node that brings --dram and --ssd along.\n\n"
        "  umbp replay\n"
        "  umbp replay --limit 1000 --dram 512MiB --ssd 0 --policy all\n"
        "  umbp replay --trace conversation_trace.jsonl --dram 8GiB --ssd 32GiB --json\n"
        "  umbp replay --masters 127.0.0.1:50051",
    .flags = flags,
    .takes_config = true,
    .shown = shown,
    .defaults = defaults,
    .run = run,
};
