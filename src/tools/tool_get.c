/* SPDX-License-Identifier: Apache-2.0 */
/* umbp get: one value of an SSD directory to standard output or into a file. */
#include "tools/tool_list.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum {
    FLAG_HEX,
    FLAG_OUTPUT,
    FLAG_JSON
};

static const struct tool_flag flags[] = {
    [FLAG_HEX] = {.name = "hex", .help = "KEY is in hexadecimal, two digits a byte"},
    [FLAG_OUTPUT] = {.name = "output",
                     .kind = TOOL_FLAG_TEXT,
                     .value_name = "FILE",
                     .help = "write the value there; nothing is touched when it is not found"},
    [FLAG_JSON] = {.name = "json", .help = "one JSON object about it (with --output)"},
    {.name = NULL},
};

static enum tool_exit write_whole(const struct tool *tool, const char *path, int fd,
                                  const uint8_t *data, uint64_t bytes)
{
    while (bytes > 0) {
        ssize_t done = write(fd, data, bytes);
        if (done < 0 && errno != EINTR) {
            return tool_fail(tool, TOOL_FAILED, "%s: %s", path, strerror(errno));
        }
        data += done > 0 ? done : 0;
        bytes -= done > 0 ? (uint64_t)done : 0;
    }
    return TOOL_OK;
}

static enum tool_exit deliver(const struct tool_args *args, const uint8_t *data, uint64_t bytes)
{
    const char *path = args->flags[FLAG_OUTPUT].text;
    if (path == NULL) {
        return write_whole(args->tool, "standard output", STDOUT_FILENO, data, bytes);
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        return tool_fail(args->tool, TOOL_FAILED, "%s: %s", path, strerror(errno));
    }
    enum tool_exit code = write_whole(args->tool, path, fd, data, bytes);
    if (close(fd) != 0 && code == TOOL_OK) {
        code = tool_fail(args->tool, TOOL_FAILED, "%s: %s", path, strerror(errno));
    }
    return code;
}

static enum tool_exit report(const struct tool_args *args, struct umbp_key key, uint64_t bytes,
                             enum umbp_status status, enum tool_exit code)
{
    if (!args->flags[FLAG_JSON].is_set) {
        return code;
    }
    json_t *object = json_pack("{s:s,s:b,s:I}", "status", umbp_status_name(status), "found",
                               status == UMBP_OK, "bytes", (json_int_t)bytes);
    if (object != NULL) {
        tool_json_add_key(object, key);
    }
    return tool_json_print(args->tool, code, object);
}

static enum tool_exit run(const struct tool_args *args)
{
    uint8_t buffer[UMBP_KEY_BYTES_MAX];
    char text[TOOL_KEY_TEXT_BYTES];
    struct umbp_entry_info info = {.struct_bytes = sizeof info};
    struct umbp_client *client;
    struct umbp_key key;
    uint8_t *data = NULL;

    if (!tool_key_parse(args->tool, args->operands[0], args->flags[FLAG_HEX].is_set, buffer,
                        &key)) {
        return TOOL_USAGE;
    }
    if (args->flags[FLAG_JSON].is_set && !args->flags[FLAG_OUTPUT].is_set) {
        return tool_fail(args->tool, TOOL_USAGE,
                         "--json needs --output: standard output is the value");
    }
    enum tool_exit code = tool_store_open(args, 0, &client);
    if (code != TOOL_OK) {
        return code;
    }
    enum umbp_status status = umbp_stat(client, key, &info);
    if (status == UMBP_OK) {
        data = mem_alloc(info.bytes > 0 ? info.bytes : 1);
        status = data == NULL ? UMBP_NO_MEMORY : umbp_get(client, key, data, info.bytes);
    }
    if (status != UMBP_OK) {
        tool_key_text(key, args->flags[FLAG_HEX].is_set, text, sizeof text);
        code =
            tool_fail(args->tool, tool_exit_of(status), "%s: %s", text, umbp_status_text(status));
    }
    code = tool_store_close(args, client, code);
    if (code == TOOL_OK) {
        code = deliver(args, data, info.bytes);
    }
    mem_free(data);
    return report(args, key, status == UMBP_OK ? info.bytes : 0, status, code);
}

const struct tool tool_get = {
    .name = "get",
    .summary = "read one value from an SSD directory or a cluster",
    .synopsis = "(--ssd-dir DIR | --masters HOST:PORT) KEY",
    .about =
        "Writes the value of KEY to standard output, or into a file. Its checksum is verified "
        "first;\n"
        "a damaged value is an error and gives no byte. Works while an engine has the directory\n"
        "open. Exits with 1 when the key is not there, with 3 when nobody could tell.\n\n"
        "  umbp get --ssd-dir /tmp/pool greeting\n"
        "  umbp get --masters 127.0.0.1:50051 greeting\n"
        "  umbp get --ssd-dir /tmp/pool --hex 00ff10 --output /tmp/value",
    .flags = flags,
    .takes_config = true,
    .shown = tool_store_shown,
    .forced = tool_store_reader,
    .operands_min = 1,
    .operands_max = 1,
    .run = run,
};
