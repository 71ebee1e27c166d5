/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file: INI, read by inih.
 *
 *     role = leader            options without a section come first; here full names work too
 *     [dram]
 *     bytes = 64GiB            the option dram.bytes
 *     ; a comment
 *
 * inih is made for leniency, and a configuration must not be misread. So the reader that feeds it
 * lines refuses what it would pass over: a line that is too long, a NUL byte, a section that no
 * option has. It also takes leading blanks off, since inih would continue the line before with
 * them. inih's buffer for a line has some 200 bytes, and a path may have 4095: of a longer line the
 * reader keeps the value and gives inih the name. Values are applied to a copy, which replaces the
 * configuration at the end.
 */
#include "config/config_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

struct reading {
    struct umbp_config *config; /* the copy that takes the values */
    struct umbp_config *report; /* whose error text is written */
    const char *source;
    const char *next;
    const char *end;
    unsigned line;
    bool has_long_text; /* of the line that inih has now: the value is `long_text` */
    char long_text[CONFIG_TEXT_BYTES_MAX + 3]; /* with quotes around it */
    unsigned seen[CONFIG_OPTION_COUNT];        /* the line that set it, 0 for none */
    enum umbp_status status;                   /* the first error; reading ends with it */
};

static enum umbp_status fail_at(struct reading *reading, enum umbp_status status,
                                const char *format, ...) PRINTF_LIKE(3, 4);

static enum umbp_status fail_at(struct reading *reading, enum umbp_status status,
                                const char *format, ...)
{
    char why[CONFIG_ERROR_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    reading->status = status;
    return config_fail(reading->report, status, "%.200s:%u: %.280s", reading->source, reading->line,
                       why);
}

static void nearest_section(const char *section, char *nearest_out, size_t nearest_bytes)
{
    unsigned least = UINT32_MAX;
    for (size_t i = 0; i < CONFIG_OPTION_COUNT; i++) {
        char known[64];
        size_t bytes = strcspn(config_options[i].name, ".");
        if (config_options[i].name[bytes] == '\0') {
            continue;
        }
        snprintf(known, sizeof known, "%.*s", (int)bytes, config_options[i].name);
        unsigned distance = config_name_distance(section, known);
        if (distance < least) {
            least = distance;
            snprintf(nearest_out, nearest_bytes, "%s", known);
        }
    }
}

static bool check_section(struct reading *reading, const char *line)
{
    char section[64];
    char nearest[64];
    size_t bytes = strcspn(line + 1, "]");
    if (line[1 + bytes] != ']') {
        fail_at(reading, UMBP_INVALID_VALUE, "a section's name ends with ']'");
        return false;
    }
    const char *rest = line + bytes + 2;
    rest += strspn(rest, " \t\r");
    if (*rest != '\0' && *rest != ';' && *rest != '#') {
        fail_at(reading, UMBP_INVALID_VALUE, "\"%.40s\" after the section's name", rest);
        return false;
    }
    snprintf(section, sizeof section, "%.*s", (int)size_min(bytes, sizeof section - 1), line + 1);
    if (config_first_of_section(section) == SIZE_MAX) {
        nearest_section(section, nearest, sizeof nearest);
        fail_at(reading, UMBP_UNKNOWN_OPTION, "there is no section [%s]; the nearest is [%s]",
                section, nearest);
        return false;
    }
    return true;
}

/* The text of a long line's value, as inih would find it: without a comment behind it and blanks
 * around it. */
static bool keep_long_text(struct reading *reading, const char *from, size_t bytes)
{
    static const char blanks[] = " \t\r";
    for (size_t i = 1; i < bytes; i++) {
        if (from[i] == ';' && strchr(blanks, from[i - 1]) != NULL) {
            bytes = i;
        }
    }
    while (bytes > 0 && strchr(blanks, from[bytes - 1]) != NULL) {
        bytes--;
    }
    while (bytes > 0 && strchr(blanks, *from) != NULL) {
        from++;
        bytes--;
    }
    if (bytes >= sizeof reading->long_text) {
        return false;
    }
    memcpy(reading->long_text, from, bytes);
    reading->long_text[bytes] = '\0';
    reading->has_long_text = true;
    return true;
}

/* A line that inih has no room for: a long comment is none, of an assignment the name is left. */
static bool take_long_line(struct reading *reading, const char *from, size_t bytes, char *line,
                           size_t room)
{
    if (*from == ';' || *from == '#') {
        memcpy(line, ";\n", 3);
        return true;
    }
    size_t name_bytes = 0;
    while (name_bytes < bytes && strchr("=:;[", from[name_bytes]) == NULL) {
        name_bytes++;
    }
    if (name_bytes == bytes || (from[name_bytes] != '=' && from[name_bytes] != ':') ||
        name_bytes + 3 > room) {
        fail_at(reading, UMBP_INVALID_VALUE, "the line is longer than %zu bytes", room - 2);
        return false;
    }
    const char *value = from + name_bytes + 1;
    if (!keep_long_text(reading, value, bytes - name_bytes - 1)) {
        fail_at(reading, UMBP_INVALID_VALUE, "the value is longer than %u bytes",
                CONFIG_TEXT_BYTES_MAX);
        return false;
    }
    memcpy(line, from, name_bytes);
    memcpy(line + name_bytes, "=\n", 3);
    return true;
}

/* inih's reader, in the manner of fgets: one line into `line` of `capacity` bytes. */
static char *read_line(char *line, int capacity, void *stream)
{
    struct reading *reading = stream;
    size_t room = (size_t)capacity;
    if (reading->status != UMBP_OK || reading->next == reading->end) {
        return NULL;
    }
    reading->line++;
    const char *from = reading->next;
    size_t left = (size_t)(reading->end - from);
    const char *newline = memchr(from, '\n', left);
    size_t bytes = newline != NULL ? (size_t)(newline - from) : left;
    reading->next = from + bytes + (newline != NULL);

    if (memchr(from, '\0', bytes) != NULL) {
        fail_at(reading, UMBP_INVALID_VALUE, "a NUL byte; this is not a text file");
        return NULL;
    }
    while (bytes > 0 && (*from == ' ' || *from == '\t')) {
        from++;
        bytes--;
    }
    reading->has_long_text = false;
    if (bytes + 2 > room) {
        return take_long_line(reading, from, bytes, line, room) ? line : NULL;
    }
    memcpy(line, from, bytes);
    line[bytes] = '\0';
    if (line[0] == '[' && !check_section(reading, line)) {
        return NULL;
    }
    line[bytes] = '\n';
    line[bytes + 1] = '\0';
    return line;
}

/* `text` without one pair of double quotes around it, in `buffer`. */
static const char *unquote(const char *text, char *buffer, size_t buffer_bytes)
{
    size_t bytes = strlen(text);
    if (bytes < 2 || text[0] != '"' || text[bytes - 1] != '"' || bytes - 1 > buffer_bytes) {
        return text;
    }
    memcpy(buffer, text + 1, bytes - 2);
    buffer[bytes - 2] = '\0';
    return buffer;
}

static void take_value(struct reading *reading, const char *name, const char *text)
{
    char unquoted[CONFIG_TEXT_BYTES_MAX + 1];
    char why[CONFIG_ERROR_BYTES / 2];
    struct config_value value;

    size_t id = config_find(name);
    if (id == SIZE_MAX) {
        config_name_unknown(name, why, sizeof why);
        fail_at(reading, UMBP_UNKNOWN_OPTION, "%s", why);
        return;
    }
    if (reading->seen[id] != 0) {
        fail_at(reading, UMBP_INVALID_VALUE, "%s is set already, in line %u", name,
                reading->seen[id]);
        return;
    }
    enum umbp_status status = config_value_parse(
        &config_options[id], unquote(text, unquoted, sizeof unquoted), &value, why, sizeof why);
    if (status != UMBP_OK) {
        fail_at(reading, status, "%s: %s", name, why);
        return;
    }
    reading->seen[id] = reading->line;
    config_assign(reading->config, id, &value);
}

/* inih's handler: 1 to go on. */
static int on_value(void *user, const char *section, const char *name, const char *text)
{
    struct reading *reading = user;
    char full_name[160];
    if (reading->status == UMBP_OK) {
        snprintf(full_name, sizeof full_name, "%s%s%s", section, *section != '\0' ? "." : "", name);
        take_value(reading, full_name, reading->has_long_text ? reading->long_text : text);
    }
    return reading->status == UMBP_OK;
}

/* The values move from the copy to the configuration. */
static void adopt(struct umbp_config *config, struct umbp_config *from)
{
    for (size_t i = 0; i < CONFIG_OPTION_COUNT; i++) {
        config_assign(config, i, &from->values[i]);
        from->values[i].text = NULL;
    }
}

enum umbp_status config_load_text(struct umbp_config *config, const char *source, const char *text,
                                  size_t bytes)
{
    struct umbp_config *copy;
    config->error[0] = '\0';
    if (config_copy(config, &copy) != UMBP_OK) {
        return config_fail(config, UMBP_NO_MEMORY, "%.200s: out of memory", source);
    }
    static const char mark[] = "\xEF\xBB\xBF"; /* of UTF-8 */
    if (bytes >= strlen(mark) && memcmp(text, mark, strlen(mark)) == 0) {
        text += strlen(mark);
        bytes -= strlen(mark);
    }
    struct reading reading = {
        .config = copy,
        .report = config,
        .source = source,
        .next = text,
        .end = text + bytes,
    };
    int bad_line = ini_parse_stream(read_line, &reading, on_value, &reading);
    /* inih goes on after a line that it does not understand, so its error may be the earlier one */
    if (bad_line < 0 ||
        (bad_line > 0 && (reading.status == UMBP_OK || (unsigned)bad_line < reading.line))) {
        reading.line = bad_line > 0 ? (unsigned)bad_line : reading.line;
        fail_at(&reading, bad_line > 0 ? UMBP_INVALID_VALUE : UMBP_NO_MEMORY,
                "expected `name = value`, `[section]` or a comment");
    }
    if (reading.status == UMBP_OK) {
        adopt(config, copy);
    }
    umbp_config_destroy(copy);
    return reading.status;
}

/* The whole file into a new block; the caller frees it. */
static enum umbp_status read_whole(struct umbp_config *config, const char *path, int fd,
                                   char **text_out, size_t *bytes_out)
{
    struct stat info;
    if (fstat(fd, &info) != 0) {
        return config_fail(config, UMBP_IO, "%.200s: %s", path, strerror(errno));
    }
    if (!S_ISREG(info.st_mode)) {
        return config_fail(config, UMBP_INVALID_VALUE, "%.200s: not a file", path);
    }
    if ((uint64_t)info.st_size > CONFIG_FILE_BYTES_MAX) {
        return config_fail(config, UMBP_LIMIT, "%.200s: larger than 1MiB; not a configuration",
                           path);
    }
    size_t bytes = (size_t)info.st_size;
    char *text = mem_alloc(bytes + 1);
    if (text == NULL) {
        return config_fail(config, UMBP_NO_MEMORY, "%.200s: out of memory", path);
    }
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = read(fd, text + done, bytes - done);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            int error = errno;
            mem_free(text);
            return config_fail(config, UMBP_IO, "%.200s: %s", path, strerror(error));
        }
        if (got == 0) {
            break; /* it shrank meanwhile */
        }
        done += (size_t)got;
    }
    *text_out = text;
    *bytes_out = done;
    return UMBP_OK;
}

enum umbp_status umbp_config_load_file(struct umbp_config *config, const char *path)
{
    char *text = NULL;
    size_t bytes = 0;

    if (config == NULL) {
        return UMBP_INVALID_VALUE;
    }
    config->error[0] = '\0';
    if (path == NULL || *path == '\0') {
        return config_fail(config, UMBP_INVALID_VALUE, "no file is named");
    }
    /* O_NONBLOCK: a named pipe must not hold the program before it is found to be one */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return config_fail(config, errno == ENOENT ? UMBP_NOT_FOUND : UMBP_IO, "%.200s: %s", path,
                           strerror(errno));
    }
    enum umbp_status status = read_whole(config, path, fd, &text, &bytes);
    close(fd);
    if (status == UMBP_OK) {
        status = config_load_text(config, path, text, bytes);
        mem_free(text);
    }
    return status;
}
