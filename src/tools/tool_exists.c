/* SPDX-License-Identifier: Apache-2.0 */
/* umbp exists: which of these keys an SSD directory holds. */
#include "tools/tool_list.h"

enum {
    FLAG_HEX,
    FLAG_QUIET,
    FLAG_JSON
};

static const struct tool_flag flags[] = {
    [FLAG_HEX] = {.name = "hex", .help = "keys are in hexadecimal, two digits a byte"},
    [FLAG_QUIET] = {.name = "quiet", .help = "print nothing; the exit code tells"},
    [FLAG_JSON] = {.name = "json", .help = "a JSON object a key"},
    {.name = NULL},
};

static enum tool_exit look(const struct tool_args *args, struct umbp_client *client,
                           const char *operand)
{
    uint8_t buffer[UMBP_KEY_BYTES_MAX];
    char text[TOOL_KEY_TEXT_BYTES];
    struct umbp_key key;
    if (!tool_key_parse(args->tool, operand, args->flags[FLAG_HEX].is_set, buffer, &key)) {
        return TOOL_USAGE;
    }
    enum umbp_status status = umbp_exists(client, key);
    if (status != UMBP_OK && status != UMBP_NOT_FOUND) {
        return tool_fail(args->tool, tool_exit_of(status), "%s", umbp_status_text(status));
    }
    enum tool_exit code = tool_exit_of(status);
    if (args->flags[FLAG_JSON].is_set) {
        json_t *object = json_pack("{s:b}", "exists", status == UMBP_OK);
        if (object != NULL) {
            tool_json_add_key(object, key);
        }
        return tool_json_print(args->tool, code, object);
    }
    if (!args->flags[FLAG_QUIET].is_set) {
        tool_key_text(key, args->flags[FLAG_HEX].is_set, text, sizeof text);
        printf("%s %s\n", status == UMBP_OK ? "yes" : "no ", text);
    }
    return code;
}

static enum tool_exit run(const struct tool_args *args)
{
    struct umbp_client *client;
    enum tool_exit worst = tool_store_open(args, 0, &client);
    if (worst != TOOL_OK) {
        return worst;
    }
    for (size_t i = 0; i < args->operand_count; i++) {
        enum tool_exit code = look(args, client, args->operands[i]);
        worst = code > worst ? code : worst;
    }
    return tool_store_close(args, client, worst);
}

const struct tool tool_exists = {
    .name = "exists",
    .summary = "tell whether an SSD directory or a cluster holds keys",
    .synopsis = "(--ssd-dir DIR | --masters HOST:PORT) KEY...",
    .about = "Says for each KEY whether the directory or the cluster holds it. Exits with 0 when "
             "all are\n"
             "there, with 1 when one is not. Works while an engine has the directory open.\n\n"
             "  umbp exists --ssd-dir /tmp/pool greeting\n"
             "  umbp exists --masters 127.0.0.1:50051 greeting\n"
             "  umbp exists --ssd-dir /tmp/pool --quiet greeting && echo there",
    .flags = flags,
    .takes_config = true,
    .shown = tool_store_shown,
    .forced = tool_store_reader,
    .operands_min = 1,
    .operands_max = SIZE_MAX,
    .run = run,
};
