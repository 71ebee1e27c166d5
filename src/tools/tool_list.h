/* SPDX-License-Identifier: Apache-2.0 */
/* The subcommands, each in its own tool_<name>.c. */
#ifndef TOOLS_TOOL_LIST_H
#define TOOLS_TOOL_LIST_H

#include "tools/tools.h"

extern const struct tool tool_put;
extern const struct tool tool_get;
extern const struct tool tool_exists;
extern const struct tool tool_rm;
extern const struct tool tool_ls;
extern const struct tool tool_stat;
extern const struct tool tool_fsck;
extern const struct tool tool_replay;
extern const struct tool tool_bench;
extern const struct tool tool_demo;
extern const struct tool tool_master;
extern const struct tool tool_node;
extern const struct tool tool_options;
extern const struct tool tool_help;
extern const struct tool tool_version;

#endif
