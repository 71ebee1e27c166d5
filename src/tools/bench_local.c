/* SPDX-License-Identifier: Apache-2.0 */
/* The run of `umbp bench local` and `umbp bench pool`: which benches, in which order, with what;
 * and its end. */
#include "tools/bench.h"

#include <signal.h>
#include <stdarg.h>
#include <unistd.h>

#define NAMES_MAX 16u
#define ON_REQUEST "fabric" /* only when --only names it: it says nothing about the store */
#define QUICK_DRAM_BYTES (256 * MIB)

static const struct bench_kind local_kinds[] = {
    {"crc", "CRC32C of cached and of cold memory", bench_crc},
    {"batch", "batches of 128 values from and into DRAM, by all copy threads, against raw copies",
     bench_batch},
    {"threads", "two callers of single gets and puts against one, as two raw copies against one",
     bench_threads},
    {"small", "gets and puts of 4 KiB, one thread, with and without eviction", bench_small},
    {"index", "a million keys of 70 bytes: memory a key, batches of 128 exists", bench_index},
    {"allocations", "heap allocations of the steady state with eviction", bench_allocations},
    {"ssd", "SSD writes and reads against raw direct io_uring, and what checksums cost", bench_ssd},
    {"latency", "slowest puts while values are evicted and copied, against without", bench_latency},
    {"restart", "time until a client has a million SSD records again", bench_restart},
};

const struct bench_suite bench_suite_local = {"local", local_kinds, ARRAY_COUNT(local_kinds), true};

/* Signal handlers have no other way to speak. */
static volatile sig_atomic_t stop_signal;

static void on_signal(int number) { stop_signal = number; }

bool bench_goes_on(struct bench *bench, const char *what, size_t at, size_t of)
{
    if (stop_signal != 0) {
        return false;
    }
    if (tool_progress_is_due(&bench->progress)) {
        tool_progress_show(&bench->progress, "%s %zu/%zu", what, at, of);
    }
    return true;
}

bool bench_fail(struct bench *bench, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    tool_progress_end(&bench->progress);
    tool_fail(bench->args->tool, TOOL_FAILED, "%s", text);
    return false;
}

void bench_print_list(const struct bench_suite *suite)
{
    for (size_t i = 0; i < suite->count; i++) {
        printf("%-12s %s\n", suite->kinds[i].name, suite->kinds[i].summary);
    }
}

/* ------------------------------------------------------------------------ choices -------- */

/* Marks those that --only names. */
static enum tool_exit choose(const struct tool_args *args, const struct bench_suite *suite,
                             const char *only, bool is_chosen[BENCH_KINDS_MAX])
{
    const struct bench_kind *kinds = suite->kinds;
    for (size_t i = 0; i < suite->count; i++) {
        is_chosen[i] = only == NULL && strcmp(kinds[i].name, ON_REQUEST) != 0;
    }
    while (only != NULL) {
        size_t bytes = strcspn(only, ",");
        size_t nearest = 0;
        unsigned least = UINT32_MAX;
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)size_min(bytes, sizeof name - 1), only);
        for (size_t i = 0; i < suite->count; i++) {
            unsigned distance = config_name_distance(name, kinds[i].name);
            if (distance < least) {
                least = distance;
                nearest = i;
            }
        }
        if (least != 0) {
            return tool_fail(args->tool, TOOL_USAGE,
                             "--only: there is no bench \"%s\"; the nearest is %s (--list lists "
                             "them)",
                             name, kinds[nearest].name);
        }
        is_chosen[nearest] = true;
        only = only[bytes] == ',' ? only + bytes + 1 : NULL;
    }
    return TOOL_OK;
}

static bool get_size(const struct umbp_config *config, const char *option, uint64_t *bytes_out)
{
    char text[64];
    return umbp_config_get(config, option, text, sizeof text) == UMBP_OK &&
           units_parse_bytes(text, bytes_out);
}

static enum tool_exit bench_init(struct bench *bench, const struct bench_suite *suite,
                                 const struct tool_args *args, const struct bench_options *options)
{
    struct store_options store;
    char enabled[16] = "";

    *bench =
        (struct bench){.suite = suite, .args = args, .options = *options, .stop = &stop_signal};
    if (!get_size(args->config, "dram.bytes", &bench->dram_bytes) ||
        !get_size(args->config, "ssd.bytes", &bench->ssd_bytes) ||
        umbp_config_get(args->config, "ssd.enabled", enabled, sizeof enabled) != UMBP_OK) {
        return tool_fail(args->tool, TOOL_FAILED, "could not read the configuration");
    }
    if (strcmp(enabled, "false") == 0) {
        bench->ssd_bytes = 0;
    }
    if (options->is_quick && !tool_config_is_flagged(args, "dram.bytes")) {
        bench->dram_bytes = QUICK_DRAM_BYTES;
    }
    bench->dram_bytes = align_down(bench->dram_bytes, 2 * MIB);
    if (bench->dram_bytes < 64 * MIB) {
        return tool_fail(args->tool, TOOL_USAGE, "--dram: the benches need 64MiB at least");
    }
    bench->set_bytes = bench->dram_bytes / 2;
    bench->slice_bytes = u64_min(128 * MIB, bench->set_bytes / 4);
    if (config_store_options(args->config, &store) != UMBP_OK) {
        return tool_fail(args->tool, TOOL_USAGE, "%s",
                         umbp_config_validate(args->config) != UMBP_OK
                             ? umbp_config_error(args->config)
                             : "the configuration is not valid");
    }
    unsigned cpus = thread_cpu_count();
    bench->threads = store.copy_threads != 0 ? store.copy_threads : cpus < 8 ? cpus : 8;
    rng_init(&bench->rng, options->seed);
    tool_progress_init(&bench->progress);
    /* the threads bench needs two */
    if (bench->suite->needs_crew &&
        bench_crew_create(bench->threads < 2 ? 2 : bench->threads, &bench->crew) != UMBP_OK) {
        return tool_fail(args->tool, TOOL_FAILED, "could not start threads");
    }
    return TOOL_OK;
}

static void bench_fini(struct bench *bench)
{
    if (bench->rig_destroy != NULL) {
        bench->rig_destroy(bench->rig);
    }
    bench_crew_destroy(bench->crew);
    bench_arena_destroy(&bench->user);
    bench_arena_destroy(&bench->pool);
    if (bench->directory[0] != '\0') {
        bench_remove_tree(bench->directory);
    }
}

/* ---------------------------------------------------------------------------- run -------- */

static enum tool_exit report(struct bench *bench)
{
    enum tool_exit code = bench->options.is_strict && bench_missed(bench) > 0 ? TOOL_MISS : TOOL_OK;
    tool_progress_end(&bench->progress);
    if (bench->options.is_json) {
        return tool_json_print(bench->args->tool, code, bench_json(bench));
    }
    bench_print_foot(bench);
    return code;
}

static enum tool_exit run_chosen(struct bench *bench, const struct bench_suite *suite,
                                 const bool is_chosen[BENCH_KINDS_MAX])
{
    const struct sigaction action = {.sa_handler = on_signal};
    bool goes_on = true;

    stop_signal = 0;
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGHUP, &action, NULL);
    if (!bench->options.is_json) {
        bench_print_head(bench);
    }
    for (size_t i = 0; goes_on && i < suite->count; i++) {
        if (is_chosen[i]) {
            goes_on = suite->kinds[i].run(bench);
        }
    }
    if (!goes_on) {
        tool_progress_end(&bench->progress);
        return stop_signal != 0 ? TOOL_STOPPED : TOOL_FAILED;
    }
    return report(bench);
}

enum tool_exit bench_run(const struct tool_args *args, const struct bench_suite *suite,
                         const struct bench_options *options)
{
    bool is_chosen[BENCH_KINDS_MAX];
    ASSERT(suite->count <= BENCH_KINDS_MAX);
    struct bench *bench = mem_zalloc(sizeof *bench);
    if (bench == NULL) {
        return tool_fail(args->tool, TOOL_FAILED, "out of memory");
    }
    enum tool_exit code = choose(args, suite, options->only, is_chosen);
    if (code == TOOL_OK) {
        code = bench_init(bench, suite, args, options);
        if (code == TOOL_OK) {
            code = run_chosen(bench, suite, is_chosen);
        }
        bench_fini(bench);
    }
    mem_free(bench);
    return code;
}
