/* SPDX-License-Identifier: Apache-2.0 */
/* umbp stat: what is known of keys of an SSD directory, or of the whole directory. */
#include "tools/tool_list.h"

#include <inttypes.h>

#define STATS_MAX 256u

enum {
    FLAG_HEX,
    FLAG_JSON
};

static const struct tool_flag flags[] = {
    [FLAG_HEX] = {.name = "hex", .help = "keys are in hexadecimal, two digits a byte"},
    [FLAG_JSON] = {.name = "json", .help = "a JSON object a key, or one of the statistics"},
    {.name = NULL},
};

static enum tool_exit show_key(const struct tool_args *args, struct umbp_client *client,
                               const char *operand)
{
    struct umbp_entry_info info = {.struct_bytes = sizeof info};
    uint8_t buffer[UMBP_KEY_BYTES_MAX];
    char text[TOOL_KEY_TEXT_BYTES];
    struct umbp_key key;

    if (!tool_key_parse(args->tool, operand, args->flags[FLAG_HEX].is_set, buffer, &key)) {
        return TOOL_USAGE;
    }
    tool_key_text(key, args->flags[FLAG_HEX].is_set, text, sizeof text);
    enum umbp_status status = umbp_stat(client, key, &info);
    if (status == UMBP_NOT_FOUND && args->flags[FLAG_JSON].is_set) {
        json_t *object = json_pack("{s:b}", "found", false);
        if (object != NULL) {
            tool_json_add_key(object, key);
        }
        return tool_json_print(args->tool, TOOL_MISS, object);
    }
    if (status != UMBP_OK) {
        return tool_fail(args->tool, tool_exit_of(status), "%s: %s", text,
                         umbp_status_text(status));
    }
    if (args->flags[FLAG_JSON].is_set) {
        json_t *object =
            json_pack("{s:b,s:I,s:b,s:b}", "found", true, "bytes", (json_int_t)info.bytes,
                      "in_dram", info.in_dram, "in_ssd", info.in_ssd);
        if (object != NULL) {
            json_t *depth = info.depth != UMBP_DEPTH_NONE ? json_integer(info.depth) : json_null();
            (void)json_object_set_new(object, "depth", depth);
            tool_json_add_key(object, key);
        }
        return tool_json_print(args->tool, TOOL_OK, object);
    }
    printf("key:   %s\nbytes: %" PRIu64 "\n", text, info.bytes);
    if (info.depth != UMBP_DEPTH_NONE) {
        printf("depth: %" PRIu32 "\n", info.depth);
    }
    printf("on:    %s%s%s\n", info.in_dram ? "memory" : "", info.in_dram && info.in_ssd ? ", " : "",
           info.in_ssd ? "SSD" : "");
    return TOOL_OK;
}

static enum tool_exit show_statistics(const struct tool_args *args, struct umbp_client *client)
{
    struct umbp_stat_value values[STATS_MAX];
    size_t count = 0;
    enum umbp_status status = umbp_stats(client, values, STATS_MAX, &count);
    if (status != UMBP_OK) {
        return tool_fail(args->tool, TOOL_FAILED, "%s", umbp_status_text(status));
    }
    count = size_min(count, STATS_MAX);
    if (args->flags[FLAG_JSON].is_set) {
        json_t *object = json_object();
        for (size_t i = 0; i < count; i++) {
            (void)json_object_set_new(object, values[i].name,
                                      json_integer((json_int_t)values[i].value));
        }
        return tool_json_print(args->tool, TOOL_OK, object);
    }
    for (size_t i = 0; i < count; i++) {
        printf("%-32s %" PRIu64 "\n", values[i].name, values[i].value);
    }
    return TOOL_OK;
}

/* Of a cluster nothing is known before somebody was asked. */
static enum tool_exit ask_masters(const struct tool_args *args, struct umbp_client *client)
{
    const struct umbp_key none = {"umbp stat", 9};
    if (!umbp_client_is_distributed(client)) {
        return TOOL_OK;
    }
    enum umbp_status status = umbp_exists(client, none); /* which it is does not matter */
    return status != UMBP_OK && tool_store_is_unsure(client) ? tool_store_tell_unsure(args)
                                                             : TOOL_OK;
}

static enum tool_exit run(const struct tool_args *args)
{
    struct umbp_client *client;
    enum tool_exit worst = tool_store_open(args, 0, &client);
    if (worst != TOOL_OK) {
        return worst;
    }
    if (args->operand_count == 0) {
        worst = ask_masters(args, client);
    }
    if (args->operand_count == 0 && worst == TOOL_OK) {
        worst = show_statistics(args, client);
    }
    for (size_t i = 0; i < args->operand_count; i++) {
        enum tool_exit code = show_key(args, client, args->operands[i]);
        worst = code > worst ? code : worst;
    }
    return tool_store_close(args, client, worst);
}

const struct tool tool_stat = {
    .name = "stat",
    .summary = "tell what is known of keys, or of a whole SSD directory",
    .synopsis = "(--ssd-dir DIR | --masters HOST:PORT) [KEY]...",
    .about =
        "Tells size, depth and place of each KEY; without one, the statistics of the store as it\n"
        "opens the directory. Works while an engine has the directory open. Exits with 1 when a\n"
        "key is not there. With --masters and no KEY: what this command's own client counted\n"
        "when it asked the masters; the cluster's figures are at /metrics of a master.\n\n"
        "  umbp stat --ssd-dir /tmp/pool greeting\n"
        "  umbp stat --ssd-dir /tmp/pool --json",
    .flags = flags,
    .takes_config = true,
    .shown = tool_store_shown,
    .forced = tool_store_reader,
    .operands_max = SIZE_MAX,
    .run = run,
};
