/* SPDX-License-Identifier: Apache-2.0 */
/* umbp help: what the program is, and how to go on from here. */
#include "tools/tool_list.h"

static void print_overview(void)
{
    printf("umbp keeps the KV cache of LLM inference engines: pages of keys and values that were\n"
           "computed once, in memory and on SSD, to be read back instead of recomputed.\n\n"
           "usage: umbp COMMAND [FLAG]... [ARGUMENT]...\n\nCommands:\n");
    for (size_t i = 0; tool_list[i] != NULL; i++) {
        printf("  %-9s %s\n", tool_list[i]->name, tool_list[i]->summary);
    }
    printf(
        "\nTry it (nothing needs to be set up):\n"
        "  umbp replay --limit 500               a made-up chat workload through the store\n"
        "  echo hello | umbp put --ssd-dir /tmp/pool greeting\n"
        "  umbp get --ssd-dir /tmp/pool greeting\n"
        "  umbp ls --ssd-dir /tmp/pool\n\n"
        "umbp help COMMAND tells the flags of one, with examples; umbp options lists what can be\n"
        "configured, by flag, environment variable or file.\n\n"
        "Exit codes: 0 done; 1 done, and the answer is no (not there, damage found, wrong bytes);\n"
        "2 the command line, configuration or input is not valid; 3 it could not be done.\n");
}

static enum tool_exit run(const struct tool_args *args)
{
    if (args->operand_count == 0) {
        print_overview();
        return TOOL_OK;
    }
    const struct tool *tool = tool_find(args->operands[0]);
    if (tool == NULL) {
        return tool_fail(args->tool, TOOL_USAGE, "there is no command \"%s\"; umbp help lists them",
                         args->operands[0]);
    }
    if (tool->run_raw != NULL) {
        char *help[] = {(char *)"--help"};
        return tool->run_raw(1, help);
    }
    tool_print_help(tool);
    return TOOL_OK;
}

const struct tool tool_help = {
    .name = "help",
    .summary = "this text, or that of one command",
    .synopsis = "[COMMAND]",
    .about = "Tells what umbp is, or all about one command.",
    .operands_max = 1,
    .run = run,
};
