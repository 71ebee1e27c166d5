/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The umbp program: one file per subcommand (tool_<name>.c), each with one `struct tool` that says
 * what it is called, what it takes and how to run it. tool_list.c is the register; a new subcommand
 * is a file, a line there, a line in meson.build and a section of man/umbp.1.
 *
 * The arguments are parsed by one table-driven parser (tool_args.c): a subcommand's own flags,
 * then, where it takes a configuration, the option table (`--dram.bytes 4GiB`, `--dram 4GiB`), plus
 * --help and --config FILE. The order of precedence is flag, environment, file, default.
 *
 * Exit codes, the same everywhere:
 */
#ifndef TOOLS_TOOLS_H
#define TOOLS_TOOLS_H

#include "base/base.h"
#include "config/config.h"
#include <jansson.h>
#include <umbp/umbp.h>

enum tool_exit {
    TOOL_OK = 0,        /* done */
    TOOL_MISS = 1,      /* done, and the answer is no: not there, findings, wrong bytes */
    TOOL_USAGE = 2,     /* the command line, the configuration or an input is not valid */
    TOOL_FAILED = 3,    /* could not be done */
    TOOL_STOPPED = 130, /* interrupted by a signal */
};

enum tool_flag_kind {
    TOOL_FLAG_SWITCH, /* no value */
    TOOL_FLAG_TEXT,
    TOOL_FLAG_SIZE,  /* number: bytes */
    TOOL_FLAG_COUNT, /* number */
};

struct tool_flag {
    const char *name; /* without dashes */
    enum tool_flag_kind kind;
    const char *value_name;    /* "FILE", for the help */
    const char *default_value; /* as text, or NULL for none */
    uint64_t min;              /* of numbers */
    uint64_t max;
    const char *help; /* one line, no full stop */
};

/* A value of the configuration that a subcommand has of its own. */
struct tool_setting {
    const char *option;
    const char *value;
};

struct tool_args;

struct tool {
    const char *name;
    const char *summary;           /* one line, no full stop */
    const char *synopsis;          /* "--ssd-dir DIR KEY [FILE]" */
    const char *about;             /* paragraphs, then examples that work as they stand */
    const struct tool_flag *flags; /* ends with a row without a name, or NULL */
    bool takes_config;
    const char *const *shown; /* options that its help lists; ends with NULL, or NULL */
    /* End with a row without an option, or NULL: `defaults` stand in for the table's own, `forced`
     * wins over file and environment too, and only a flag over it. */
    const struct tool_setting *defaults;
    const struct tool_setting *forced;
    size_t operands_min;
    size_t operands_max;
    enum tool_exit (*run)(const struct tool_args *args);
    /* Instead of `run`: everything behind the name, as it was given. Nothing is parsed. */
    enum tool_exit (*run_raw)(int argument_count, char **arguments);
};

#define TOOL_FLAGS_MAX 24u

struct tool_flag_value {
    bool is_set;      /* on the command line; `text` and `number` hold the default too */
    const char *text; /* NULL: neither given nor a default */
    uint64_t number;
};

struct tool_args {
    const struct tool *tool;
    struct tool_flag_value flags[TOOL_FLAGS_MAX]; /* in the order of tool->flags */
    struct umbp_config *config;                   /* where the tool takes one */
    bool config_is_flagged[128];                  /* by option index: given on the command line */
    char *const *operands;
    size_t operand_count;
    bool asks_for_help;
};

/* ---- tool_list.c ---- */

extern const struct tool *const tool_list[]; /* ends with NULL */
const struct tool *tool_find(const char *name);
/* The whole program; `arguments` without its name. */
enum tool_exit tool_main(int argument_count, char **arguments);

/* ---- tool_args.c ---- */

/* Parse, and make the configuration. Errors are printed; the result is TOOL_OK or TOOL_USAGE (or
 * TOOL_FAILED for want of memory). `args_out` is to be ended by tool_args_fini in every case. May
 * reorder `arguments`, which must live as long as `args_out`. */
enum tool_exit tool_args_parse(const struct tool *tool, int argument_count, char **arguments,
                               struct tool_args *args_out);
void tool_args_fini(struct tool_args *args);
/* Whether the option was given as a flag. */
bool tool_config_is_flagged(const struct tool_args *args, const char *option);
/* Set an option of args->config that the tool computes; a programming error if it is refused. */
void tool_config_set(const struct tool_args *args, const char *option, const char *value);
/* The whole help of a subcommand, to standard output. */
void tool_print_help(const struct tool *tool);

/* ---- tool_output.c ---- */

/* "umbp NAME: ...\n" to standard error; returns `code`. */
enum tool_exit tool_fail(const struct tool *tool, enum tool_exit code, const char *format, ...)
    PRINTF_LIKE(3, 4);
/* Flush standard output: TOOL_OK becomes TOOL_FAILED, with a message, when that could not be
 * written. */
enum tool_exit tool_finish(const struct tool *tool, enum tool_exit code);
/* The exit code for a status, by the rules above. */
enum tool_exit tool_exit_of(enum umbp_status status);

#define TOOL_KEY_TEXT_BYTES (4u * UMBP_KEY_BYTES_MAX + 1u)
/* A key as people read it: printable ASCII as it is, other bytes (and '\') as \xNN; or all hex. */
const char *tool_key_text(struct umbp_key key, bool as_hex, char *text_out, size_t text_bytes);
/* An operand as a key: its bytes, or what its hex digits say, in `buffer`. False: not valid hex, or
 * not 1..1024 bytes; why is printed. */
bool tool_key_parse(const struct tool *tool, const char *text, bool as_hex,
                    uint8_t buffer[UMBP_KEY_BYTES_MAX], struct umbp_key *key_out);

/* Adds "key", where it is valid UTF-8, and "key_hex". */
void tool_json_add_key(json_t *object, struct umbp_key key);
/* One line on standard output; takes the reference. `object` NULL (out of memory) is TOOL_FAILED.
 */
enum tool_exit tool_json_print(const struct tool *tool, enum tool_exit code, json_t *object);

/* Progress on standard error: a line that is rewritten twice a second on a terminal, else a line
 * every ten seconds. Zero-initialise, then tool_progress_init. */
struct tool_progress {
    bool is_terminal;
    bool has_line;
    uint64_t start_ns;
    uint64_t next_ns;
};
void tool_progress_init(struct tool_progress *progress);
/* Whether it is time for a line. */
bool tool_progress_is_due(struct tool_progress *progress);
void tool_progress_show(struct tool_progress *progress, const char *format, ...) PRINTF_LIKE(2, 3);
/* Wipe the line. */
void tool_progress_end(struct tool_progress *progress);

/* ---- tool_store.c: what put, get, exists, rm, ls and stat share ---- */

extern const char *const tool_store_shown[];
extern const struct tool_setting tool_store_reader[]; /* forced: a follower, beside a live owner */
extern const struct tool_setting tool_store_writer[]; /* forced: the owner; little memory */

/* A client on the directory of --ssd-dir, which must be given. `value_bytes` is what will be put.
 * On failure the reason is printed and *client_out is NULL. */
enum tool_exit tool_store_open(const struct tool_args *args, uint64_t value_bytes,
                               struct umbp_client **client_out);
/* Of a cluster's client: whether no question to a master was answered, so that a miss says nothing.
 */
bool tool_store_is_unsure(struct umbp_client *client);
/* Says so. */
enum tool_exit tool_store_tell_unsure(const struct tool_args *args);
/* Close; a failure to close in order is printed and turns TOOL_OK into TOOL_FAILED. */
enum tool_exit tool_store_close(const struct tool_args *args, struct umbp_client *client,
                                enum tool_exit code);

#endif
