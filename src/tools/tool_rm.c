/* SPDX-License-Identifier: Apache-2.0 */
/* umbp rm: forget keys of an SSD directory. */
#include "tools/tool_list.h"

enum {
    FLAG_HEX,
    FLAG_JSON
};

static const struct tool_flag flags[] = {
    [FLAG_HEX] = {.name = "hex", .help = "keys are in hexadecimal, two digits a byte"},
    [FLAG_JSON] = {.name = "json", .help = "a JSON object a key"},
    {.name = NULL},
};

static enum tool_exit report(const struct tool_args *args, struct umbp_key key,
                             enum umbp_status status)
{
    char text[TOOL_KEY_TEXT_BYTES];
    enum tool_exit code = tool_exit_of(status);
    if (args->flags[FLAG_JSON].is_set) {
        json_t *object = json_pack("{s:s,s:b}", "status", umbp_status_name(status), "removed",
                                   status == UMBP_OK);
        if (object != NULL) {
            tool_json_add_key(object, key);
        }
        return tool_json_print(args->tool, code, object);
    }
    tool_key_text(key, args->flags[FLAG_HEX].is_set, text, sizeof text);
    if (status == UMBP_OK) {
        printf("removed %s\n", text);
        return code;
    }
    return tool_fail(args->tool, code, "%s: %s", text, umbp_status_text(status));
}

/* All keys are parsed before the first is removed. */
static enum tool_exit parse_keys(const struct tool_args *args, struct umbp_key *keys,
                                 uint8_t (*buffers)[UMBP_KEY_BYTES_MAX])
{
    for (size_t i = 0; i < args->operand_count; i++) {
        if (!tool_key_parse(args->tool, args->operands[i], args->flags[FLAG_HEX].is_set, buffers[i],
                            &keys[i])) {
            return TOOL_USAGE;
        }
    }
    return TOOL_OK;
}

static enum tool_exit remove_keys(const struct tool_args *args, const struct umbp_key *keys,
                                  enum umbp_status *statuses)
{
    struct umbp_client *client;
    enum tool_exit worst = tool_store_open(args, 0, &client);
    if (worst != TOOL_OK) {
        return worst;
    }
    enum umbp_status status = umbp_batch_remove(client, keys, args->operand_count, statuses);
    if (status == UMBP_OK) {
        status = umbp_flush(client, 0);
    }
    if (status != UMBP_OK) {
        worst = tool_fail(args->tool, TOOL_FAILED, "%s", umbp_status_text(status));
    }
    for (size_t i = 0; worst == TOOL_OK && i < args->operand_count; i++) {
        if (statuses[i] != UMBP_OK && tool_store_is_unsure(client)) {
            worst = tool_store_tell_unsure(args);
        }
    }
    worst = tool_store_close(args, client, worst);
    for (size_t i = 0; worst != TOOL_FAILED && i < args->operand_count; i++) {
        enum tool_exit code = report(args, keys[i], statuses[i]);
        worst = code > worst ? code : worst;
    }
    return worst;
}

static enum tool_exit run(const struct tool_args *args)
{
    size_t count = args->operand_count;
    struct umbp_key *keys = mem_calloc(count, sizeof *keys);
    enum umbp_status *statuses = mem_calloc(count, sizeof *statuses);
    uint8_t(*buffers)[UMBP_KEY_BYTES_MAX] = mem_calloc(count, sizeof *buffers);
    enum tool_exit code;
    if (keys == NULL || statuses == NULL || buffers == NULL) {
        code = tool_fail(args->tool, TOOL_FAILED, "out of memory");
    } else {
        code = parse_keys(args, keys, buffers);
        if (code == TOOL_OK) {
            code = remove_keys(args, keys, statuses);
        }
    }
    mem_free(buffers);
    mem_free(statuses);
    mem_free(keys);
    return code;
}

const struct tool tool_rm = {
    .name = "rm",
    .summary = "remove keys from an SSD directory or a cluster",
    .synopsis = "(--ssd-dir DIR | --masters HOST:PORT) KEY...",
    .about = "Removes each KEY, for good when this returns. No engine may have the directory open. "
             "Exits\n"
             "with 1 when one of the keys was not there. With --masters every node that holds it "
             "is asked.\n\n"
             "  umbp rm --ssd-dir /tmp/pool greeting",
    .flags = flags,
    .takes_config = true,
    .shown = tool_store_shown,
    .forced = tool_store_writer,
    .operands_min = 1,
    .operands_max = UMBP_BATCH_MAX,
    .run = run,
};
