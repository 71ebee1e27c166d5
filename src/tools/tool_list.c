/* SPDX-License-Identifier: Apache-2.0 */
/* The register of subcommands, and the way to them. */
#include "tools/tool_list.h"

#include <signal.h>

const struct tool *const tool_list[] = {
    &tool_put,     &tool_get,    &tool_exists,  &tool_rm,   &tool_ls,     &tool_stat,
    &tool_fsck,    &tool_replay, &tool_bench,   &tool_demo, &tool_master, &tool_node,
    &tool_options, &tool_help,   &tool_version, NULL,
};

const struct tool *tool_find(const char *name)
{
    for (size_t i = 0; tool_list[i] != NULL; i++) {
        if (strcmp(tool_list[i]->name, name) == 0) {
            return tool_list[i];
        }
    }
    return NULL;
}

static enum tool_exit fail_unknown(const char *name)
{
    const char *best = "";
    unsigned least = UINT32_MAX;
    for (size_t i = 0; tool_list[i] != NULL; i++) {
        unsigned distance = config_name_distance(name, tool_list[i]->name);
        if (distance < least) {
            least = distance;
            best = tool_list[i]->name;
        }
    }
    fprintf(stderr, "umbp: there is no command \"%s\"; the nearest is %s (umbp help lists them)\n",
            name, best);
    return TOOL_USAGE;
}

enum tool_exit tool_main(int argument_count, char **arguments)
{
    struct tool_args args;
    const char *name = argument_count > 0 ? arguments[0] : "help";

    /* A reader that goes away (`umbp ls | head`) is an error of that write, not a silent death. */
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN); /* and so is a file that may not grow */
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        name = "help";
    } else if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        name = "version";
    }
    const struct tool *tool = tool_find(name);
    if (tool == NULL) {
        return fail_unknown(name);
    }
    int skip = argument_count > 0 ? 1 : 0;
    if (tool->run_raw != NULL) {
        return tool->run_raw(argument_count - skip, arguments + skip);
    }
    enum tool_exit code = tool_args_parse(tool, argument_count - skip, arguments + skip, &args);
    if (code == TOOL_OK) {
        if (args.asks_for_help) {
            tool_print_help(tool);
        } else {
            code = tool->run(&args);
        }
        code = tool_finish(tool, code);
    }
    tool_args_fini(&args);
    return code;
}
