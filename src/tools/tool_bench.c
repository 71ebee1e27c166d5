/* SPDX-License-Identifier: Apache-2.0 */
/* umbp bench: this machine, measured against its own limits. */
#include "tools/bench.h"

#include "tools/tool_list.h"

enum {
    FLAG_ONLY,
    FLAG_LIST,
    FLAG_QUICK,
    FLAG_REPEAT,
    FLAG_SEED,
    FLAG_STRICT,
    FLAG_JSON
};

#define REPEAT_DEFAULT 11u
#define REPEAT_QUICK 3u

static const struct tool_flag flags[] = {
    [FLAG_ONLY] = {.name = "only",
                   .kind = TOOL_FLAG_TEXT,
                   .value_name = "NAME[,NAME]...",
                   .help = "these benches only"},
    [FLAG_LIST] = {.name = "list", .help = "what benches there are"},
    [FLAG_QUICK] = {.name = "quick",
                    .help = "small sets, 3 samples: shows that all of it works, not how fast"},
    [FLAG_REPEAT] = {.name = "repeat",
                     .kind = TOOL_FLAG_COUNT,
                     .value_name = "N",
                     .min = 1,
                     .max = BENCH_REPEAT_MAX,
                     .help = "samples of each figure (default 11; of restarts fewer)"},
    [FLAG_SEED] = {.name = "seed",
                   .kind = TOOL_FLAG_COUNT,
                   .value_name = "N",
                   .default_value = "1",
                   .help = "of keys, contents and orders"},
    [FLAG_STRICT] = {.name = "strict", .help = "exit with 1 when a bar is missed"},
    [FLAG_JSON] = {.name = "json",
                   .help = "one JSON object on the last line, instead of the table"},
    {.name = NULL},
};

static const struct tool_setting defaults[] = {
    {"dram.bytes", "1GiB"},
    {"ssd.bytes", "8GiB"},
    {"ssd.durability", "relaxed"},
    {NULL, NULL},
};

static const char *const shown[] = {
    "dram.bytes", "ssd.bytes",    "ssd.dir",         "ssd.durability",
    "ssd.driver", "copy.threads", "eviction.policy", NULL,
};

static const struct bench_suite *const suites[] = {
    &bench_suite_local,
#ifdef UMBP_HAVE_FABRIC
    &bench_suite_pool,
#endif
};

static enum tool_exit run(const struct tool_args *args)
{
    struct bench_options options = {
        .is_quick = args->flags[FLAG_QUICK].is_set,
        .is_json = args->flags[FLAG_JSON].is_set,
        .is_strict = args->flags[FLAG_STRICT].is_set,
        .seed = args->flags[FLAG_SEED].number,
        .only = args->flags[FLAG_ONLY].text,
    };
    options.repeat = args->flags[FLAG_REPEAT].is_set ? (unsigned)args->flags[FLAG_REPEAT].number
                     : options.is_quick              ? REPEAT_QUICK
                                                     : REPEAT_DEFAULT;
    const struct bench_suite *suite = NULL;
    for (size_t i = 0; args->operand_count > 0 && i < ARRAY_COUNT(suites); i++) {
        suite = strcmp(args->operands[0], suites[i]->name) == 0 ? suites[i] : suite;
    }
    if (args->flags[FLAG_LIST].is_set && (suite != NULL || args->operand_count == 0)) {
        for (size_t i = 0; suite == NULL && i < ARRAY_COUNT(suites); i++) {
            printf("%s%s:\n", i > 0 ? "\n" : "", suites[i]->name);
            bench_print_list(suites[i]);
        }
        if (suite != NULL) {
            bench_print_list(suite);
        }
        return TOOL_OK;
    }
    if (args->operand_count == 0) {
        return tool_fail(args->tool, TOOL_USAGE, "what to bench is missing; usage: umbp bench %s",
                         args->tool->synopsis);
    }
    if (suite == NULL) {
        return tool_fail(args->tool, TOOL_USAGE, "there is no bench of \"%s\"; there is: local%s",
                         args->operands[0], ARRAY_COUNT(suites) > 1 ? ", pool" : "");
    }
    return bench_run(args, suite, &options);
}

const struct tool tool_bench = {
    .name = "bench",
    .summary = "measure the store or the pool against what this machine can do",
    .synopsis = "local|pool [FLAG]...",
    .about =
        "Measures the store in this process, and in the same run what the machine could do at\n"
        "best: raw copies by as many threads, raw direct io_uring on the same file system. The\n"
        "two take turns, so that what else runs here slows both; the figure to read is the ratio.\n"
        "\n"
        "  measured  median of the samples\n"
        "  limit     of the best raw way, likewise\n"
        "  ratio     median of the ratios of neighbouring samples, so not quite their quotient\n"
        "  noise     half the distance between the quartiles: large means something else runs "
        "here\n"
        "  bar       what the project asks of itself: on the ratio where there is a limit, except\n"
        "            where the measured figure itself is asked for\n"
        "\n"
        "GB/s are 10^9 bytes a second. Half of --dram is the working set, which should be far\n"
        "larger than the caches; twice --dram of memory is used in all. The SSD benches run in a\n"
        "temporary directory below --ssd-dir (else below the working directory), which is removed\n"
        "at the end; --ssd 0 leaves them out. A missed bar is no failure unless --strict is\n"
        "given. Takes one to two minutes.\n"
        "\n"
        "`pool` starts a master and nodes as processes of this machine and measures batches from\n"
        "and into another process, by the host's memory and by TCP, lookups, the master's index,\n"
        "and its restart, against plain sockets, bare libfabric and copies of shared memory.\n"
        "\n"
        "  umbp bench local\n"
        "  umbp bench local --only batch,index --repeat 31\n"
        "  umbp bench local --ssd-dir /mnt/nvme --only ssd,restart --ssd.driver posix\n"
        "  umbp bench local --quick --json\n"
        "  umbp bench pool",
    .flags = flags,
    .takes_config = true,
    .shown = shown,
    .defaults = defaults,
    .operands_min = 0,
    .operands_max = 1,
    .run = run,
};
