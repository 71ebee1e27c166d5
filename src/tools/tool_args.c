/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arguments: `--name value`, `--name=value`, `--switch`; `--` ends the flags; what is no flag is an
 * operand, wherever it stands. Everything is parsed and the configuration complete before a tool
 * runs, so a mistake in the command line never leaves anything behind.
 */
#include "tools/tools.h"

#include <inttypes.h>

#define CONFIG_FLAGS_MAX 64u

/* A flag of the option table as it was given; applied after file and environment. */
struct config_flag {
    size_t option;
    const char *flag;
    const char *value;
};

struct parser {
    const struct tool *tool;
    struct tool_args *args;
    int argument_count;
    char **arguments;
    int next;
    struct config_flag config_flags[CONFIG_FLAGS_MAX];
    size_t config_flag_count;
    const char *config_path;
};

static size_t flag_count(const struct tool *tool)
{
    size_t count = 0;
    while (tool->flags != NULL && tool->flags[count].name != NULL) {
        count++;
    }
    ASSERT(count <= TOOL_FLAGS_MAX);
    return count;
}

/* '-' and '_' and '.' are the same, as for the option table. */
static bool is_flag(const char *known, const char *name, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        char c = name[i] == '_' || name[i] == '.' ? '-' : name[i];
        if (known[i] == '\0' || known[i] != c) {
            return false;
        }
    }
    return known[bytes] == '\0';
}

static size_t find_flag(const struct tool *tool, const char *name, size_t bytes)
{
    size_t count = flag_count(tool);
    for (size_t i = 0; i < count; i++) {
        if (is_flag(tool->flags[i].name, name, bytes)) {
            return i;
        }
    }
    return SIZE_MAX;
}

static void keep_nearer(const char *name, const char *known, const char **best, unsigned *least)
{
    unsigned distance = known != NULL ? config_name_distance(name, known) : UINT32_MAX;
    if (distance < *least) {
        *least = distance;
        *best = known;
    }
}

static enum tool_exit fail_unknown(const struct tool *tool, const char *name, size_t bytes)
{
    char given[64];
    const char *best = "help";
    unsigned least = UINT32_MAX;
    struct umbp_option_info info = {.struct_bytes = sizeof info};

    snprintf(given, sizeof given, "%.*s", (int)size_min(bytes, sizeof given - 1), name);
    keep_nearer(given, "help", &best, &least);
    for (size_t i = 0; i < flag_count(tool); i++) {
        keep_nearer(given, tool->flags[i].name, &best, &least);
    }
    if (tool->takes_config) {
        keep_nearer(given, "config", &best, &least);
        for (size_t i = 0; umbp_option_describe(i, &info) == UMBP_OK; i++) {
            keep_nearer(given, info.name, &best, &least);
            keep_nearer(given, config_option_flag(i), &best, &least);
        }
    }
    return tool_fail(tool, TOOL_USAGE, "there is no flag --%s; the nearest is --%s", given, best);
}

/* The flag's value: behind '=', or the next argument. */
static enum tool_exit take_value(struct parser *parser, const char *flag, size_t name_bytes,
                                 const char **value_out)
{
    if (flag[name_bytes] == '=') {
        *value_out = flag + name_bytes + 1;
        return TOOL_OK;
    }
    if (parser->next == parser->argument_count) {
        return tool_fail(parser->tool, TOOL_USAGE, "--%s needs a value", flag);
    }
    *value_out = parser->arguments[parser->next++];
    return TOOL_OK;
}

static enum tool_exit set_flag(const struct tool *tool, const struct tool_flag *flag,
                               const char *text, struct tool_flag_value *value_out)
{
    uint64_t number = 0;
    if (flag->kind == TOOL_FLAG_SIZE && !units_parse_bytes(text, &number)) {
        return tool_fail(tool, TOOL_USAGE, "--%s: \"%s\" is not a size, as 4096, 64KiB or 4GiB",
                         flag->name, text);
    }
    if (flag->kind == TOOL_FLAG_COUNT && !units_parse_count(text, &number)) {
        return tool_fail(tool, TOOL_USAGE, "--%s: \"%s\" is not a whole number", flag->name, text);
    }
    bool is_number = flag->kind == TOOL_FLAG_SIZE || flag->kind == TOOL_FLAG_COUNT;
    if (is_number && flag->max == 0 && number < flag->min) {
        return tool_fail(tool, TOOL_USAGE, "--%s: %s is out of range (at least %" PRIu64 ")",
                         flag->name, text, flag->min);
    }
    if (is_number && flag->max != 0 && (number < flag->min || number > flag->max)) {
        return tool_fail(tool, TOOL_USAGE, "--%s: %s is out of range (%" PRIu64 "..%" PRIu64 ")",
                         flag->name, text, flag->min, flag->max);
    }
    value_out->text = text;
    value_out->number = number;
    return TOOL_OK;
}

static enum tool_exit parse_own_flag(struct parser *parser, size_t index, const char *flag,
                                     size_t name_bytes)
{
    const struct tool_flag *row = &parser->tool->flags[index];
    struct tool_flag_value *value = &parser->args->flags[index];
    const char *text = "";
    enum tool_exit code = TOOL_OK;

    if (value->is_set) {
        return tool_fail(parser->tool, TOOL_USAGE, "--%s is given twice", row->name);
    }
    if (row->kind == TOOL_FLAG_SWITCH) {
        if (flag[name_bytes] == '=') {
            return tool_fail(parser->tool, TOOL_USAGE, "--%s takes no value", row->name);
        }
    } else {
        code = take_value(parser, flag, name_bytes, &text);
    }
    if (code == TOOL_OK) {
        code = set_flag(parser->tool, row, text, value);
    }
    value->is_set = true;
    return code;
}

static enum tool_exit parse_config_flag(struct parser *parser, size_t option, const char *flag,
                                        size_t name_bytes)
{
    const char *value = NULL;
    ASSERT(option < ARRAY_COUNT(parser->args->config_is_flagged));
    if (parser->args->config_is_flagged[option]) {
        return tool_fail(parser->tool, TOOL_USAGE, "--%.*s is given twice", (int)name_bytes, flag);
    }
    enum tool_exit code = take_value(parser, flag, name_bytes, &value);
    if (code == TOOL_OK) {
        ASSERT(parser->config_flag_count < CONFIG_FLAGS_MAX); /* no option comes twice */
        parser->args->config_is_flagged[option] = true;
        parser->config_flags[parser->config_flag_count++] =
            (struct config_flag){option, flag, value};
    }
    return code;
}

/* `flag` is what stands behind the dashes. */
static enum tool_exit parse_flag(struct parser *parser, const char *flag)
{
    size_t bytes = strcspn(flag, "=");
    size_t index = find_flag(parser->tool, flag, bytes);
    if (index != SIZE_MAX) {
        return parse_own_flag(parser, index, flag, bytes);
    }
    if (is_flag("help", flag, bytes)) {
        parser->args->asks_for_help = true;
        return TOOL_OK;
    }
    if (parser->tool->takes_config) {
        if (is_flag("config", flag, bytes)) {
            if (parser->config_path != NULL) {
                return tool_fail(parser->tool, TOOL_USAGE, "--config is given twice");
            }
            return take_value(parser, flag, bytes, &parser->config_path);
        }
        size_t option = config_option_of_flag(flag, bytes);
        if (option != SIZE_MAX) {
            return parse_config_flag(parser, option, flag, bytes);
        }
    }
    return fail_unknown(parser->tool, flag, bytes);
}

static enum tool_exit apply_settings(const struct tool *tool, struct umbp_config *config,
                                     const struct tool_setting *settings)
{
    for (; settings != NULL && settings->option != NULL; settings++) {
        if (umbp_config_set(config, settings->option, settings->value) != UMBP_OK) {
            return tool_fail(tool, TOOL_FAILED, "%s", umbp_config_error(config));
        }
    }
    return TOOL_OK;
}

/* Default, file, environment, what the tool insists on, flags: in this order. */
static enum tool_exit make_config(struct parser *parser)
{
    const struct tool *tool = parser->tool;
    struct umbp_config *config;
    if (umbp_config_create(&config) != UMBP_OK) {
        return tool_fail(tool, TOOL_FAILED, "out of memory");
    }
    parser->args->config = config;
    /* Chosen, so that the environment does not guess one from a launcher's rank. */
    static const struct tool_setting role[] = {{"role", "standalone"}, {NULL, NULL}};
    enum tool_exit code = apply_settings(tool, config, role);
    if (code == TOOL_OK) {
        code = apply_settings(tool, config, tool->defaults);
    }
    if (code == TOOL_OK && parser->config_path != NULL &&
        umbp_config_load_file(config, parser->config_path) != UMBP_OK) {
        code = tool_fail(tool, TOOL_USAGE, "%s", umbp_config_error(config));
    }
    if (code != TOOL_OK) {
        return code;
    }
    umbp_config_load_env(config);
    code = apply_settings(tool, config, tool->forced);
    for (size_t i = 0; code == TOOL_OK && i < parser->config_flag_count; i++) {
        struct umbp_option_info info = {.struct_bytes = sizeof info};
        const struct config_flag *flag = &parser->config_flags[i];
        enum umbp_status status = umbp_option_describe(flag->option, &info);
        if (status == UMBP_OK) {
            status = umbp_config_set(config, info.name, flag->value);
        }
        if (status != UMBP_OK) {
            code = tool_fail(tool, TOOL_USAGE, "--%.*s: %s", (int)strcspn(flag->flag, "="),
                             flag->flag, umbp_config_error(config));
        }
    }
    return code;
}

static enum tool_exit check_operands(const struct parser *parser)
{
    const struct tool *tool = parser->tool;
    size_t count = parser->args->operand_count;
    if (count < tool->operands_min) {
        return tool_fail(tool, TOOL_USAGE, "an argument is missing; usage: umbp %s %s", tool->name,
                         tool->synopsis);
    }
    if (count > tool->operands_max) {
        return tool_fail(tool, TOOL_USAGE, "\"%s\" is one argument too many; usage: umbp %s %s",
                         parser->args->operands[tool->operands_max], tool->name, tool->synopsis);
    }
    return TOOL_OK;
}

static enum tool_exit set_defaults(const struct tool *tool, struct tool_args *args)
{
    enum tool_exit code = TOOL_OK;
    for (size_t i = 0; code == TOOL_OK && i < flag_count(tool); i++) {
        if (tool->flags[i].default_value != NULL) {
            code = set_flag(tool, &tool->flags[i], tool->flags[i].default_value, &args->flags[i]);
        }
    }
    return code;
}

enum tool_exit tool_args_parse(const struct tool *tool, int argument_count, char **arguments,
                               struct tool_args *args_out)
{
    *args_out = (struct tool_args){.tool = tool, .operands = arguments};
    struct parser parser = {
        .tool = tool,
        .args = args_out,
        .argument_count = argument_count,
        .arguments = arguments,
    };
    bool flags_are_over = false;
    enum tool_exit code = set_defaults(tool, args_out);

    while (code == TOOL_OK && parser.next < argument_count) {
        char *argument = arguments[parser.next++];
        if (!flags_are_over && strcmp(argument, "--") == 0) {
            flags_are_over = true;
        } else if (!flags_are_over && strncmp(argument, "--", 2) == 0) {
            code = parse_flag(&parser, argument + 2);
        } else if (!flags_are_over && strcmp(argument, "-h") == 0) {
            args_out->asks_for_help = true;
        } else if (!flags_are_over && argument[0] == '-' && argument[1] != '\0') {
            code = tool_fail(tool, TOOL_USAGE,
                             "\"%s\": flags begin with two dashes (an operand that begins with "
                             "one goes behind --)",
                             argument);
        } else {
            arguments[args_out->operand_count++] = argument;
        }
    }
    if (code != TOOL_OK || args_out->asks_for_help) {
        return code;
    }
    code = check_operands(&parser);
    if (code == TOOL_OK && tool->takes_config) {
        code = make_config(&parser);
    }
    if (code == TOOL_OK && tool->takes_config && config_log_level_is_set(args_out->config)) {
        umbp_log_set(config_log_level(args_out->config), NULL, NULL);
    }
    return code;
}

void tool_args_fini(struct tool_args *args)
{
    umbp_config_destroy(args->config);
    args->config = NULL;
}

bool tool_config_is_flagged(const struct tool_args *args, const char *option)
{
    size_t index = config_option_of_flag(option, strlen(option));
    ASSERT(index < ARRAY_COUNT(args->config_is_flagged));
    return args->config_is_flagged[index];
}

void tool_config_set(const struct tool_args *args, const char *option, const char *value)
{
    enum umbp_status status = umbp_config_set(args->config, option, value);
    ASSERT(status == UMBP_OK);
}

/* -------------------------------------------------------------------------- help -------- */

#define HELP_COLUMN 24
#define HELP_WIDTH 96

/* Words, from HELP_COLUMN on; `column` is where the cursor is. */
static void print_wrapped(const char *text, int column)
{
    while (*text != '\0') {
        int bytes = (int)strcspn(text, " ");
        if (column > HELP_COLUMN && column + 1 + bytes > HELP_WIDTH) {
            putchar('\n');
            column = 0;
        }
        if (column < HELP_COLUMN) {
            printf("%*s", HELP_COLUMN - column, "");
            column = HELP_COLUMN;
        } else {
            putchar(' ');
            column++;
        }
        printf("%.*s", bytes, text);
        column += bytes;
        text += bytes;
        text += strspn(text, " ");
    }
    putchar('\n');
}

static void print_flag(const char *name, const char *value_name, const char *default_value,
                       const char *help)
{
    char text[512];
    bool has_default = default_value != NULL && default_value[0] != '\0';
    int column = printf("  --%s%s%s", name, value_name != NULL ? " " : "",
                        value_name != NULL ? value_name : "");
    if (column >= HELP_COLUMN) {
        putchar('\n');
        column = 0;
    }
    snprintf(text, sizeof text, "%s%s%s%s", help, has_default ? " (default " : "",
             has_default ? default_value : "", has_default ? ")" : "");
    print_wrapped(text, column);
}

/* How a value of that type is written in the help: "--dram SIZE". */
static const char *value_name_of(const char *type)
{
    static const char *const names[][2] = {
        {"size", "SIZE"}, {"count", "N"},        {"milliseconds", "MS"},
        {"bool", "BOOL"}, {"fraction", "SHARE"}, {"text", "PATH"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(type, names[i][0]) == 0) {
            return names[i][1];
        }
    }
    return type;
}

static const char *setting_of(const struct tool_setting *settings, const char *option)
{
    for (; settings != NULL && settings->option != NULL; settings++) {
        if (strcmp(settings->option, option) == 0) {
            return settings->value;
        }
    }
    return NULL;
}

/* An option of the table as a flag of this tool: its short name, and the tool's own default. */
static void print_option(const struct tool *tool, const char *name)
{
    struct umbp_option_info info = {.struct_bytes = sizeof info};
    size_t index = config_option_of_flag(name, strlen(name));
    enum umbp_status status = umbp_option_describe(index, &info);
    ASSERT(status == UMBP_OK);
    const char *flag = config_option_flag(index);
    const char *own_default = setting_of(tool->defaults, name);
    char help[256]; /* the table's sentence, without its full stop, as the other lines are */
    snprintf(help, sizeof help, "%.*s", (int)strlen(info.help) - 1, info.help);
    print_flag(flag != NULL ? flag : info.name, value_name_of(info.type),
               own_default != NULL ? own_default : info.default_value, help);
}

void tool_print_help(const struct tool *tool)
{
    printf("usage: umbp %s %s\n\n%s\n", tool->name, tool->synopsis, tool->about);
    printf("\nFlags:\n");
    for (size_t i = 0; i < flag_count(tool); i++) {
        const struct tool_flag *flag = &tool->flags[i];
        print_flag(flag->name, flag->value_name, flag->default_value, flag->help);
    }
    for (size_t i = 0; tool->shown != NULL && tool->shown[i] != NULL; i++) {
        print_option(tool, tool->shown[i]);
    }
    if (tool->takes_config) {
        print_flag("config", "FILE", NULL, "read options from this file (docs/options.md)");
    }
    print_flag("help", NULL, NULL, "this text");
    if (tool->takes_config) {
        printf("\nEvery other option of the store is a flag too, as in --ssd.driver posix;\n"
               "umbp options lists them.\n");
    }
}
