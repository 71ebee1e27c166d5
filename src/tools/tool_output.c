/* SPDX-License-Identifier: Apache-2.0 */
/* What goes to standard output and standard error. */
#include "tools/tools.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <unistd.h>

enum tool_exit tool_fail(const struct tool *tool, enum tool_exit code, const char *format, ...)
{
    va_list arguments;
    fflush(stdout);
    fprintf(stderr, "umbp %s: ", tool->name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return code;
}

/* A reader that went away (`umbp ls | head`) knows it; no word is lost on that. */
static enum tool_exit fail_output(const struct tool *tool, int error)
{
    struct pollfd out = {.fd = STDOUT_FILENO};
    if (error == EPIPE || (poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0)) {
        return TOOL_FAILED;
    }
    return tool_fail(tool, TOOL_FAILED, "could not write to standard output%s%s",
                     error != 0 ? ": " : "", error != 0 ? strerror(error) : "");
}

enum tool_exit tool_finish(const struct tool *tool, enum tool_exit code)
{
    errno = 0;
    if ((fflush(stdout) != 0 || ferror(stdout) != 0) && code == TOOL_OK) {
        return fail_output(tool, errno);
    }
    return code;
}

enum tool_exit tool_exit_of(enum umbp_status status)
{
    switch (status) {
    case UMBP_OK:
    case UMBP_ALREADY_EXISTS:
        return TOOL_OK;
    case UMBP_NOT_FOUND:
        return TOOL_MISS;
    case UMBP_INVALID_KEY:
    case UMBP_INVALID_VALUE:
    case UMBP_UNKNOWN_OPTION:
        return TOOL_USAGE;
    default:
        return TOOL_FAILED;
    }
}

/* -------------------------------------------------------------------------- keys -------- */

static bool is_plain(uint8_t c) { return c > ' ' && c < 0x7f && c != '\\'; }

const char *tool_key_text(struct umbp_key key, bool as_hex, char *text_out, size_t text_bytes)
{
    const uint8_t *data = key.data;
    size_t at = 0;
    ASSERT(text_bytes >= TOOL_KEY_TEXT_BYTES && key.bytes <= UMBP_KEY_BYTES_MAX);
    for (size_t i = 0; i < key.bytes; i++) {
        if (!as_hex && is_plain(data[i])) {
            text_out[at++] = (char)data[i];
        } else {
            at += (size_t)snprintf(text_out + at, text_bytes - at, as_hex ? "%02x" : "\\x%02x",
                                   data[i]);
        }
    }
    text_out[at] = '\0';
    return text_out;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool parse_hex(const char *text, uint8_t *buffer, size_t capacity, size_t *bytes_out)
{
    size_t bytes = strlen(text);
    if (bytes % 2 != 0 || bytes / 2 > capacity) {
        return false;
    }
    for (size_t i = 0; i < bytes; i += 2) {
        int high = hex_digit(text[i]);
        int low = hex_digit(text[i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        buffer[i / 2] = (uint8_t)(high * 16 + low);
    }
    *bytes_out = bytes / 2;
    return true;
}

bool tool_key_parse(const struct tool *tool, const char *text, bool as_hex,
                    uint8_t buffer[UMBP_KEY_BYTES_MAX], struct umbp_key *key_out)
{
    size_t bytes = strlen(text);
    if (as_hex && !parse_hex(text, buffer, UMBP_KEY_BYTES_MAX, &bytes)) {
        tool_fail(tool, TOOL_USAGE, "\"%.80s\" is not a key in hex: two digits a byte, at most %u",
                  text, UMBP_KEY_BYTES_MAX);
        return false;
    }
    if (bytes < UMBP_KEY_BYTES_MIN || bytes > UMBP_KEY_BYTES_MAX) {
        tool_fail(tool, TOOL_USAGE, "a key has %u to %u bytes, this one has %zu",
                  UMBP_KEY_BYTES_MIN, UMBP_KEY_BYTES_MAX, bytes);
        return false;
    }
    if (!as_hex) {
        memcpy(buffer, text, bytes);
    }
    *key_out = (struct umbp_key){buffer, bytes};
    return true;
}

/* -------------------------------------------------------------------------- JSON -------- */

void tool_json_add_key(json_t *object, struct umbp_key key)
{
    char hex[TOOL_KEY_TEXT_BYTES];
    /* NULL for what is not UTF-8, which json_object_set_new refuses */
    (void)json_object_set_new(object, "key", json_stringn(key.data, key.bytes));
    tool_key_text(key, true, hex, sizeof hex);
    (void)json_object_set_new(object, "key_hex", json_string(hex));
}

enum tool_exit tool_json_print(const struct tool *tool, enum tool_exit code, json_t *object)
{
    if (object == NULL) {
        return tool_fail(tool, TOOL_FAILED, "out of memory");
    }
    errno = 0;
    int failed = json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(object);
    if (failed != 0 || putchar('\n') == EOF) {
        return fail_output(tool, errno);
    }
    return code;
}

/* ---------------------------------------------------------------------- progress -------- */

void tool_progress_init(struct tool_progress *progress)
{
    progress->is_terminal = isatty(STDERR_FILENO) == 1;
    progress->has_line = false;
    progress->start_ns = clock_now_ns(clock_monotonic());
    progress->next_ns = progress->start_ns + (progress->is_terminal ? NS_PER_S / 2 : 10 * NS_PER_S);
}

bool tool_progress_is_due(struct tool_progress *progress)
{
    uint64_t now_ns = clock_now_ns(clock_monotonic());
    if (now_ns < progress->next_ns) {
        return false;
    }
    progress->next_ns = now_ns + (progress->is_terminal ? NS_PER_S / 2 : 10 * NS_PER_S);
    return true;
}

void tool_progress_show(struct tool_progress *progress, const char *format, ...)
{
    va_list arguments;
    if (progress->is_terminal) {
        fputs("\r\033[K", stderr);
        progress->has_line = true;
    }
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    if (!progress->is_terminal) {
        fputc('\n', stderr);
    }
    fflush(stderr);
}

void tool_progress_end(struct tool_progress *progress)
{
    if (progress->has_line) {
        fputs("\r\033[K", stderr);
        progress->has_line = false;
    }
}
