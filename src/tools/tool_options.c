/* SPDX-License-Identifier: Apache-2.0 */
/*
 * umbp options: the option table, as text, as JSON, or as the page docs/options.md (which a test
 * compares with what this prints).
 */
#include "tools/tool_list.h"

enum {
    FLAG_MARKDOWN,
    FLAG_JSON
};

static const struct tool_flag flags[] = {
    [FLAG_MARKDOWN] = {.name = "markdown", .help = "the page docs/options.md"},
    [FLAG_JSON] = {.name = "json", .help = "one JSON array"},
    {.name = NULL},
};

static const char page_head[] =
    "# Options\n"
    "\n"
    "<!-- SPDX-License-Identifier: Apache-2.0 -->\n"
    "<!-- Made by `umbp options --markdown`; change src/config/config_table.c or\n"
    "     src/tools/tool_options.c instead. -->\n"
    "\n"
    "One table is the source of the flags, the environment variables, the file, `umbp options` "
    "and\n"
    "this page. Where an option is given in several ways, a flag beats the environment, the\n"
    "environment beats the file, and the file beats the default. (An application decides by the\n"
    "order of its calls: `umbp_config_load_file`, `umbp_config_load_env`, `umbp_config_set`.)\n"
    "\n"
    "- **Flags.** Every option of the table is a flag of `umbp`: `--dram.bytes 4GiB` or\n"
    "  `--dram.bytes=4GiB`; `.`, `-` and `_` are the same, so `--ssd-dir` is `ssd.dir`. Some have "
    "a\n"
    "  short form.\n"
    "- **Environment.** A bad value leaves the option as it was, with exactly one warning per "
    "name\n"
    "  and process. A variable that is set to nothing counts as not set. Where an option has "
    "several\n"
    "  names, the first that holds a good value counts.\n"
    "- **File.** `--config FILE`, or `umbp_config_load_file`. Options without a section come "
    "first:\n"
    "\n"
    "      role = standalone\n"
    "      [dram]\n"
    "      bytes = 64GiB       ; a comment, with a blank before it\n"
    "      [ssd]\n"
    "      dir = /var/lib/umbp\n"
    "\n"
    "  An unknown section or name, a value that does not fit and a name that comes twice are\n"
    "  errors, which name the file, the line and the nearest known name. A value has at most\n"
    "  4095 bytes, a file 1 MiB.\n"
    "\n"
    "Types:\n"
    "\n"
    "- **size**: bytes, or with a unit: `4096`, `64KiB` (also `64K`), `1.5GiB`, `2GB` (powers of\n"
    "  1000).\n"
    "- **milliseconds**: a whole number, or with a unit: `3000`, `3s`, `2min`.\n"
    "- **fraction**: `0.95` or `95%`.\n"
    "- **bool**: `true`, `yes`, `on`, `1`, or `false`, `no`, `off`, `0`.\n"
    "- Words are taken in upper and lower case.\n"
    "\n";

static const char page_tail[] =
    "\n"
    "## The role, and launchers\n"
    "\n"
    "Where neither `UMBP_ROLE` is set nor the role was chosen otherwise, the environment decides "
    "by\n"
    "the local rank that a launcher gave: the first of `LOCAL_RANK`, "
    "`OMPI_COMM_WORLD_LOCAL_RANK`,\n"
    "`SLURM_LOCALID` and `MPI_LOCALRANKID` that is set makes rank 0 the leader and the others\n"
    "followers. This guess counts only where there is an SSD tier to share. The `umbp` program\n"
    "itself never guesses.\n"
    "\n"
    "## What differs from the public C++ UMBP\n"
    "\n"
    "The names of its environment variables are kept, and listed first above. What they mean "
    "differs\n"
    "where its parsing was a trap:\n"
    "\n"
    "- Sizes take units. It read `UMBP_DRAM_CAPACITY=4G` as four bytes; here it is 4 GiB.\n"
    "- Booleans take words. It read `true`, `yes` and `on` as false; here they are true. A number\n"
    "  other than 0 and 1, which it took for true, is a bad value here.\n"
    "- A value that can't be read never stops the program and never becomes 0: the option keeps "
    "its\n"
    "  value, and one warning says so.\n"
    "- An unknown `UMBP_EVICTION_POLICY` or `UMBP_ROLE` is warned about, not silently taken for\n"
    "  another.\n"
    "- There is no SSD tier until `ssd.dir` names a directory; it used /tmp/umbp_ssd unasked.\n"
    "- The watermarks act: above the high one values are evicted ahead of need, down to the low\n"
    "  one. There, the high one only held back promotions and the low one did nothing, so the\n"
    "  defaults differ too (0.95 and 0.9; there 0.9 and 0.7).\n"
    "- `UMBP_SSD_BACKEND` takes `file` (either driver), `io_uring` and `posix`; SPDK is not part "
    "of\n"
    "  this version.\n"
    "- `UMBP_DRAM_HUGEPAGE_SIZE` and `UMBP_DRAM_NT_COPY` are not read: the system's default huge\n"
    "  page is used, and streaming copies where they are faster.\n"
    "- `UMBP_DRAM_READ_THREADS` and `UMBP_DRAM_WRITE_THREADS` both set `copy.threads`; the first\n"
    "  that is set counts.\n";

static void markdown_row(size_t index, const struct umbp_option_info *info)
{
    const char *flag = config_option_flag(index);
    printf("### `%s`\n\n%s\n\n", info->name, info->help);
    printf("- type: `%s`%s%s\n", info->type, info->range[0] != '\0' ? ", " : "", info->range);
    if (info->default_value[0] != '\0') {
        printf("- default: `%s`\n", info->default_value);
    } else {
        printf("- default: none\n");
    }
    printf("- flag: `--%s`", info->name);
    if (flag != NULL && strcmp(flag, info->name) != 0) {
        printf(", `--%s`", flag);
    }
    printf("\n- environment:");
    const char *name;
    for (size_t i = 0; (name = config_option_environment(index, i)) != NULL; i++) {
        printf("%s `%s`", i > 0 ? "," : "", name);
    }
    printf("\n\n");
}

static void print_markdown(void)
{
    struct umbp_option_info info = {.struct_bytes = sizeof info};
    fputs(page_head, stdout);
    printf("## The table\n\n");
    for (size_t i = 0; umbp_option_describe(i, &info) == UMBP_OK; i++) {
        markdown_row(i, &info);
    }
    fputs(page_tail + 1, stdout);
}

static void print_text(void)
{
    struct umbp_option_info info = {.struct_bytes = sizeof info};
    for (size_t i = 0; umbp_option_describe(i, &info) == UMBP_OK; i++) {
        const char *flag = config_option_flag(i);
        printf("%s (%s%s%s; default %s)\n    %s\n    ", info.name, info.type,
               info.range[0] != '\0' ? ", " : "", info.range,
               info.default_value[0] != '\0' ? info.default_value : "none", info.help);
        if (flag != NULL && strcmp(flag, info.name) != 0) {
            printf("--%s, ", flag);
        }
        printf("--%s", info.name);
        const char *name;
        for (size_t e = 0; (name = config_option_environment(i, e)) != NULL; e++) {
            printf(", %s", name);
        }
        printf("\n");
    }
}

static enum tool_exit print_json(const struct tool *tool)
{
    struct umbp_option_info info = {.struct_bytes = sizeof info};
    json_t *rows = json_array();
    for (size_t i = 0; umbp_option_describe(i, &info) == UMBP_OK; i++) {
        json_t *names = json_array();
        const char *name;
        for (size_t e = 0; (name = config_option_environment(i, e)) != NULL; e++) {
            (void)json_array_append_new(names, json_string(name));
        }
        (void)json_array_append_new(
            rows, json_pack("{s:s,s:s,s:s,s:s,s:s?,s:o,s:s}", "name", info.name, "type", info.type,
                            "default", info.default_value, "range", info.range, "flag",
                            config_option_flag(i), "environment", names, "help", info.help));
    }
    return tool_json_print(tool, TOOL_OK, rows);
}

static enum tool_exit run(const struct tool_args *args)
{
    if (args->flags[FLAG_JSON].is_set) {
        return print_json(args->tool);
    }
    if (args->flags[FLAG_MARKDOWN].is_set) {
        print_markdown();
    } else {
        print_text();
    }
    return TOOL_OK;
}

const struct tool tool_options = {
    .name = "options",
    .summary = "what can be configured, by flag, environment or file",
    .synopsis = "[--markdown | --json]",
    .about = "Lists the options: name, type, range and default, what each does, its flags and its\n"
             "environment variables.",
    .flags = flags,
    .run = run,
};
