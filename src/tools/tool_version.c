/* SPDX-License-Identifier: Apache-2.0 */
/* umbp version. */
#include "tools/tool_list.h"

#if defined(UMBP_HAVE_LIBURING)
#define DRIVERS "io_uring, posix"
#else
#define DRIVERS "posix"
#endif

enum {
    FLAG_JSON
};

static const struct tool_flag flags[] = {
    [FLAG_JSON] = {.name = "json", .help = "one JSON object"},
    {.name = NULL},
};

static enum tool_exit run(const struct tool_args *args)
{
    if (args->flags[FLAG_JSON].is_set) {
        return tool_json_print(args->tool, TOOL_OK,
                               json_pack("{s:s,s:i,s:s,s:s}", "version", umbp_version(), "api",
                                         (int)umbp_api_version(), "crc32c", crc32c_name(),
                                         "drivers", DRIVERS));
    }
    printf("umbp %s (API %u)\nCRC32C by: %s\ndisk drivers: %s\n", umbp_version(),
           umbp_api_version(), crc32c_name(), DRIVERS);
    return TOOL_OK;
}

const struct tool tool_version = {
    .name = "version",
    .summary = "the version, and what was built in",
    .synopsis = "[--json]",
    .about = "Prints the version of the program and what was built into it.",
    .flags = flags,
    .run = run,
};
