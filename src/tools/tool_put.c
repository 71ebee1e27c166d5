/* SPDX-License-Identifier: Apache-2.0 */
/* umbp put: one value from a file or standard input into an SSD directory. */
#include "tools/tool_list.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum {
    FLAG_HEX,
    FLAG_DEPTH,
    FLAG_JSON
};

static const struct tool_flag flags[] = {
    [FLAG_HEX] = {.name = "hex", .help = "KEY is in hexadecimal, two digits a byte"},
    [FLAG_DEPTH] = {.name = "depth",
                    .kind = TOOL_FLAG_COUNT,
                    .value_name = "N",
                    .max = UMBP_DEPTH_NONE - 1u,
                    .help = "distance from the root of the prefix tree"},
    [FLAG_JSON] = {.name = "json", .help = "one JSON object"},
    {.name = NULL},
};

struct value {
    uint8_t *data;
    size_t bytes;
    size_t capacity;
};

/* Room for more; false when there is no memory. */
static bool grow(struct value *value)
{
    size_t capacity = value->capacity == 0 ? MIB : value->capacity * 2;
    uint8_t *data = mem_realloc(value->data, capacity);
    if (data != NULL) {
        value->data = data;
        value->capacity = capacity;
    }
    return data != NULL;
}

static enum tool_exit read_value(const struct tool *tool, const char *path, struct value *value)
{
    bool is_stdin = strcmp(path, "-") == 0;
    enum tool_exit code = TOOL_OK;
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return tool_fail(tool, TOOL_USAGE, "%s: %s", path, strerror(errno));
    }
    while (code == TOOL_OK) {
        if (value->bytes == value->capacity && !grow(value)) {
            code = tool_fail(tool, TOOL_FAILED, "%s: out of memory", path);
            break;
        }
        ssize_t got = read(fd, value->data + value->bytes, value->capacity - value->bytes);
        if (got < 0 && errno != EINTR) {
            code = tool_fail(tool, TOOL_FAILED, "%s: %s", path, strerror(errno));
        }
        if (got == 0) {
            break;
        }
        value->bytes += got > 0 ? (size_t)got : 0;
        if (value->bytes > UMBP_VALUE_BYTES_MAX) {
            code =
                tool_fail(tool, TOOL_USAGE, "%s: larger than 4 GiB, the most for one value", path);
        }
    }
    if (!is_stdin) {
        close(fd);
    }
    return code;
}

static enum tool_exit report(const struct tool_args *args, struct umbp_key key, size_t bytes,
                             enum umbp_status status)
{
    char text[TOOL_KEY_TEXT_BYTES];
    char size[32];
    if (args->flags[FLAG_JSON].is_set) {
        json_t *object = json_pack("{s:s,s:b,s:I}", "status", umbp_status_name(status), "stored",
                                   status == UMBP_OK, "bytes", (json_int_t)bytes);
        if (object != NULL) {
            tool_json_add_key(object, key);
        }
        return tool_json_print(args->tool, TOOL_OK, object);
    }
    tool_key_text(key, args->flags[FLAG_HEX].is_set, text, sizeof text);
    if (status == UMBP_OK) {
        printf("stored %s (%s)\n", text, units_format_bytes(bytes, size, sizeof size));
    } else {
        printf("already there: %s keeps its first value\n", text);
    }
    return TOOL_OK;
}

/* Whether the value that is there can't be read any more. The store has then dropped it. */
static bool is_damaged(struct umbp_client *client, struct umbp_key key)
{
    struct umbp_entry_info info = {.struct_bytes = sizeof info};
    if (umbp_stat(client, key, &info) != UMBP_OK) {
        return true;
    }
    uint8_t *data = mem_alloc(info.bytes > 0 ? info.bytes : 1);
    bool damaged = data != NULL && umbp_get(client, key, data, info.bytes) == UMBP_CORRUPT;
    mem_free(data);
    return damaged;
}

/* That what was put is on the SSD: a flush leaves out what is too large for it. */
static enum tool_exit make_sure(const struct tool_args *args, struct umbp_client *client,
                                struct umbp_key key, enum umbp_status stored)
{
    struct umbp_entry_info info = {.struct_bytes = sizeof info};
    const struct tool *tool = args->tool;
    enum umbp_status status = umbp_status_is_success(stored) ? umbp_flush(client, 0) : stored;

    if (status == UMBP_NO_SPACE && umbp_client_is_distributed(client)) {
        return tool_fail(tool, TOOL_FAILED,
                         "not stored: no node of the cluster has room for it: start one (umbp "
                         "node), or give them more memory (--dram)");
    }
    if (status == UMBP_NO_SPACE) {
        return tool_fail(tool, TOOL_FAILED,
                         "not stored: no space, on the disk or within --ssd (ssd.bytes)");
    }
    if (status != UMBP_OK) {
        return tool_fail(tool, TOOL_FAILED, "not stored: %s", umbp_status_text(status));
    }
    if (umbp_client_is_distributed(client)) {
        return TOOL_OK; /* its node keeps it, as it sees fit */
    }
    if (umbp_stat(client, key, &info) != UMBP_OK || !info.in_ssd) {
        return tool_fail(tool, TOOL_FAILED,
                         "not stored: too large for the SSD tier; give it more (--ssd)");
    }
    return TOOL_OK;
}

static enum tool_exit put_value(const struct tool_args *args, struct umbp_key key,
                                const struct value *value)
{
    struct umbp_client *client;
    uint32_t depth =
        args->flags[FLAG_DEPTH].is_set ? (uint32_t)args->flags[FLAG_DEPTH].number : UMBP_DEPTH_NONE;
    enum tool_exit code = tool_store_open(args, u64_max(value->bytes, 1), &client);
    if (code != TOOL_OK) {
        return code;
    }
    enum umbp_status stored = umbp_put(client, key, value->data, value->bytes, depth);
    if (stored == UMBP_ALREADY_EXISTS && is_damaged(client, key)) {
        stored = umbp_put(client, key, value->data, value->bytes, depth);
    }
    code = make_sure(args, client, key, stored);
    code = tool_store_close(args, client, code);
    return code == TOOL_OK ? report(args, key, value->bytes, stored) : code;
}

static enum tool_exit run(const struct tool_args *args)
{
    uint8_t buffer[UMBP_KEY_BYTES_MAX];
    struct umbp_key key;
    struct value value = {0};

    if (!tool_key_parse(args->tool, args->operands[0], args->flags[FLAG_HEX].is_set, buffer,
                        &key)) {
        return TOOL_USAGE;
    }
    enum tool_exit code =
        read_value(args->tool, args->operand_count > 1 ? args->operands[1] : "-", &value);
    if (code == TOOL_OK) {
        code = put_value(args, key, &value);
    }
    mem_free(value.data);
    return code;
}

const struct tool tool_put = {
    .name = "put",
    .summary = "store one value in an SSD directory or a cluster",
    .synopsis = "(--ssd-dir DIR | --masters HOST:PORT) KEY [FILE]",
    .about = "Stores the bytes of FILE (or of standard input) under KEY. The directory is made if "
             "it is\n"
             "not there; no engine may have it open. A key that is there already keeps its first "
             "value,\n"
             "which is a success. When this says stored, the value is on stable storage.\n"
             "With --masters it goes to a node of that cluster instead.\n\n"
             "  echo hello | umbp put --ssd-dir /tmp/pool greeting\n"
             "  echo hello | umbp put --masters 127.0.0.1:50051 greeting\n"
             "  umbp put --ssd-dir /tmp/pool --hex 00ff10 /etc/hostname",
    .flags = flags,
    .takes_config = true,
    .shown = tool_store_shown,
    .forced = tool_store_writer,
    .operands_min = 1,
    .operands_max = 2,
    .run = run,
};
