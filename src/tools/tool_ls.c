/* SPDX-License-Identifier: Apache-2.0 */
/* umbp ls: the values of an SSD directory. */
#include "tools/tool_list.h"

#include <inttypes.h>

enum {
    FLAG_HEX,
    FLAG_LIMIT,
    FLAG_JSON
};

static const struct tool_flag flags[] = {
    [FLAG_HEX] = {.name = "hex", .help = "show keys in hexadecimal"},
    [FLAG_LIMIT] = {.name = "limit",
                    .kind = TOOL_FLAG_COUNT,
                    .value_name = "N",
                    .min = 1,
                    .help = "show N values at most"},
    [FLAG_JSON] = {.name = "json",
                   .help = "a line with a JSON object for each value, none if there is none"},
    {.name = NULL},
};

struct listing {
    const struct tool_args *args;
    enum tool_exit code;
    uint64_t values;
    uint64_t bytes;
};

static void show_text(const struct listing *listing, const struct umbp_entry_info *info)
{
    char text[TOOL_KEY_TEXT_BYTES];
    char depth[16] = "-";
    if (info->depth != UMBP_DEPTH_NONE) {
        snprintf(depth, sizeof depth, "%" PRIu32, info->depth);
    }
    printf("%12" PRIu64 " %6s  %s\n", info->bytes, depth,
           tool_key_text(info->key, listing->args->flags[FLAG_HEX].is_set, text, sizeof text));
}

static bool visit(void *context, const struct umbp_entry_info *info)
{
    struct listing *listing = context;
    const struct tool_flag_value *limit = &listing->args->flags[FLAG_LIMIT];
    if (limit->is_set && listing->values >= limit->number) {
        return false;
    }
    listing->values++;
    listing->bytes += info->bytes;
    if (!listing->args->flags[FLAG_JSON].is_set) {
        show_text(listing, info);
    } else {
        json_t *object = json_pack("{s:I}", "bytes", (json_int_t)info->bytes);
        if (object != NULL) {
            json_t *depth =
                info->depth != UMBP_DEPTH_NONE ? json_integer(info->depth) : json_null();
            (void)json_object_set_new(object, "depth", depth);
            tool_json_add_key(object, info->key);
        }
        listing->code = tool_json_print(listing->args->tool, TOOL_OK, object);
    }
    return listing->code == TOOL_OK && ferror(stdout) == 0;
}

static enum tool_exit run(const struct tool_args *args)
{
    struct listing listing = {.args = args};
    struct umbp_client *client;
    char size[32];

    enum tool_exit code = tool_store_open(args, 0, &client);
    if (code != TOOL_OK) {
        return code;
    }
    if (umbp_client_is_distributed(client)) {
        code = tool_fail(args->tool, TOOL_USAGE,
                         "a cluster has no list of its keys: masters know fingerprints only; ask "
                         "for one key (umbp exists), or list a node's directory (--ssd-dir)");
        return tool_store_close(args, client, code);
    }
    if (!args->flags[FLAG_JSON].is_set) {
        printf("%12s %6s  %s\n", "bytes", "depth", "key");
    }
    enum umbp_status status = umbp_list(client, visit, &listing);
    code = listing.code;
    if (status != UMBP_OK) {
        code = tool_fail(args->tool, TOOL_FAILED, "%s", umbp_status_text(status));
    }
    if (!args->flags[FLAG_JSON].is_set) {
        printf("%" PRIu64 " value%s, %s\n", listing.values, listing.values == 1 ? "" : "s",
               units_format_bytes(listing.bytes, size, sizeof size));
    }
    return tool_store_close(args, client, code);
}

const struct tool tool_ls = {
    .name = "ls",
    .summary = "list the values of an SSD directory",
    .synopsis = "--ssd-dir DIR",
    .about = "Lists size, depth in the prefix tree (- where none is known) and key of each value, "
             "in no\n"
             "order. Bytes of a key that are no printable ASCII show as \\xNN. Works while an "
             "engine has\n"
             "the directory open.\n\n"
             "  umbp ls --ssd-dir /tmp/pool\n"
             "  umbp ls --ssd-dir /tmp/pool --json --limit 10",
    .flags = flags,
    .takes_config = true,
    .shown = tool_store_shown,
    .forced = tool_store_reader,
    .run = run,
};
