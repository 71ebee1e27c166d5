/* SPDX-License-Identifier: Apache-2.0 */
/* Loads in memory, and trace files: JSON Lines as in the public Mooncake traces. */
#include "tools/tool_replay.h"

#include <errno.h>
#include <inttypes.h>

void replay_load_fini(struct replay_load *load)
{
    mem_free(load->requests);
    mem_free(load->blocks);
    *load = (struct replay_load){0};
}

static bool make_room(struct replay_load *load, size_t count)
{
    if (load->request_count == load->request_capacity) {
        size_t capacity = load->request_capacity == 0 ? 1024 : load->request_capacity * 2;
        void *grown = mem_realloc(load->requests, capacity * sizeof *load->requests);
        if (grown == NULL) {
            return false;
        }
        load->requests = grown;
        load->request_capacity = capacity;
    }
    if (load->block_count + count > load->block_capacity) {
        size_t capacity = size_max(load->block_capacity * 2, load->block_count + count + 16384);
        void *grown = mem_realloc(load->blocks, capacity * sizeof *load->blocks);
        if (grown == NULL) {
            return false;
        }
        load->blocks = grown;
        load->block_capacity = capacity;
    }
    return true;
}

bool replay_load_add(struct replay_load *load, uint64_t timestamp_ms, const uint64_t *blocks,
                     uint32_t count)
{
    if (!make_room(load, count)) {
        return false;
    }
    if (count > 0) {
        memcpy(load->blocks + load->block_count, blocks, count * sizeof *blocks);
    }
    load->requests[load->request_count++] =
        (struct replay_request){timestamp_ms, load->block_count, count};
    load->block_count += count;
    return true;
}

void replay_load_share(struct replay_load *load, size_t part, size_t parts)
{
    size_t kept = 0;
    for (size_t i = part; i < load->request_count; i += parts) {
        load->requests[kept++] = load->requests[i];
    }
    load->request_count = kept;
}

uint32_t replay_load_longest(const struct replay_load *load)
{
    uint32_t longest = 0;
    for (size_t i = 0; i < load->request_count; i++) {
        longest = load->requests[i].count > longest ? load->requests[i].count : longest;
    }
    return longest;
}

/* ------------------------------------------------------------------------- a line ------- */

static bool whole_number(const json_t *object, const char *name, bool is_needed, uint64_t *out,
                         char *why_out, size_t why_bytes)
{
    const json_t *value = json_object_get(object, name);
    if (value == NULL && !is_needed) {
        return true;
    }
    if (value == NULL) {
        snprintf(why_out, why_bytes, "there is no \"%s\"", name);
        return false;
    }
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        snprintf(why_out, why_bytes, "\"%s\" is not a whole number", name);
        return false;
    }
    *out = (uint64_t)json_integer_value(value);
    return true;
}

/* The ids go straight to the end of load->blocks. */
static bool add_blocks(const json_t *ids, uint64_t timestamp_ms, struct replay_load *load,
                       char *why_out, size_t why_bytes)
{
    size_t count = json_array_size(ids);
    if (count > UMBP_BATCH_MAX) {
        snprintf(why_out, why_bytes, "\"hash_ids\" has %zu ids, and %u is the most", count,
                 UMBP_BATCH_MAX);
        return false;
    }
    if (!make_room(load, count)) {
        snprintf(why_out, why_bytes, "out of memory");
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0) {
            snprintf(why_out, why_bytes, "item %zu of \"hash_ids\" is not a whole number", i + 1);
            return false;
        }
        load->blocks[load->block_count + i] = (uint64_t)json_integer_value(id);
    }
    load->requests[load->request_count++] =
        (struct replay_request){timestamp_ms, load->block_count, (uint32_t)count};
    load->block_count += count;
    return true;
}

bool replay_line_parse(const char *line, size_t bytes, struct replay_load *load, char *why_out,
                       size_t why_bytes)
{
    json_error_t error;
    uint64_t timestamp_ms = 0;
    uint64_t tokens = 0;

    json_t *object = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, &error);
    if (object == NULL) {
        snprintf(why_out, why_bytes, "not JSON: %s (column %d)", error.text, error.column);
        return false;
    }
    bool is_good = json_is_object(object);
    const json_t *ids = json_object_get(object, "hash_ids");
    if (!is_good) {
        snprintf(why_out, why_bytes, "not a JSON object");
    } else {
        is_good = whole_number(object, "timestamp", true, &timestamp_ms, why_out, why_bytes) &&
                  whole_number(object, "input_length", false, &tokens, why_out, why_bytes) &&
                  whole_number(object, "output_length", false, &tokens, why_out, why_bytes);
    }
    if (is_good && !json_is_array(ids)) {
        snprintf(why_out, why_bytes, "%s",
                 ids == NULL ? "there is no \"hash_ids\"" : "\"hash_ids\" is not an array");
        is_good = false;
    }
    is_good = is_good && add_blocks(ids, timestamp_ms, load, why_out, why_bytes);
    json_decref(object);
    return is_good;
}

/* ------------------------------------------------------------------------- a file ------- */

/* Lines of a file through one buffer, which bounds them. */
struct lines {
    FILE *file;
    char *buffer;
    size_t begin;
    size_t end;
    uint64_t number;
};

enum line_result {
    LINE_READ,
    LINE_END,
    LINE_TOO_LONG,
    LINE_ERROR
};

static enum line_result next_line(struct lines *lines, const char **line_out, size_t *bytes_out)
{
    for (;;) {
        char *from = lines->buffer + lines->begin;
        size_t held = lines->end - lines->begin;
        char *newline = memchr(from, '\n', held);
        if (newline == NULL && held == REPLAY_LINE_BYTES_MAX) {
            return LINE_TOO_LONG;
        }
        if (newline != NULL || (held > 0 && feof(lines->file))) {
            *line_out = from;
            *bytes_out = newline != NULL ? (size_t)(newline - from) : held;
            lines->begin += *bytes_out + (newline != NULL);
            return LINE_READ;
        }
        if (feof(lines->file)) {
            return LINE_END;
        }
        memmove(lines->buffer, from, held);
        lines->begin = 0;
        lines->end =
            held + fread(lines->buffer + held, 1, REPLAY_LINE_BYTES_MAX - held, lines->file);
        if (ferror(lines->file)) {
            return LINE_ERROR;
        }
    }
}

static bool is_blank(const char *line, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') {
            return false;
        }
    }
    return true;
}

static enum umbp_status read_lines(struct lines *lines, const char *path, uint64_t limit,
                                   struct replay_load *load, char *why_out, size_t why_bytes)
{
    char why[256];
    while (load->request_count < limit) {
        const char *line = NULL;
        size_t bytes = 0;
        enum line_result result = next_line(lines, &line, &bytes);
        lines->number++;
        if (result == LINE_END) {
            break;
        }
        if (result == LINE_ERROR) {
            snprintf(why_out, why_bytes, "%s: %s", path, strerror(errno));
            return UMBP_IO;
        }
        if (result == LINE_TOO_LONG) {
            snprintf(why_out, why_bytes, "%s:%" PRIu64 ": the line is longer than 4 MiB", path,
                     lines->number);
            return UMBP_INVALID_VALUE;
        }
        if (!is_blank(line, bytes) && !replay_line_parse(line, bytes, load, why, sizeof why)) {
            snprintf(why_out, why_bytes, "%s:%" PRIu64 ": %s", path, lines->number, why);
            return UMBP_INVALID_VALUE;
        }
    }
    if (load->request_count == 0) {
        snprintf(why_out, why_bytes, "%s: no requests in it", path);
        return UMBP_INVALID_VALUE;
    }
    return UMBP_OK;
}

enum umbp_status replay_load_trace(const char *path, uint64_t limit, struct replay_load *load_out,
                                   char *why_out, size_t why_bytes)
{
    struct replay_load load = {0};
    struct lines lines = {.file = fopen(path, "re")};
    if (lines.file == NULL) {
        snprintf(why_out, why_bytes, "%s: %s", path, strerror(errno));
        return UMBP_IO;
    }
    enum umbp_status status = UMBP_NO_MEMORY;
    lines.buffer = mem_alloc(REPLAY_LINE_BYTES_MAX);
    if (lines.buffer == NULL) {
        snprintf(why_out, why_bytes, "%s: out of memory", path);
    } else {
        status = read_lines(&lines, path, limit, &load, why_out, why_bytes);
    }
    mem_free(lines.buffer);
    fclose(lines.file);
    if (status == UMBP_OK) {
        *load_out = load;
    } else {
        replay_load_fini(&load);
    }
    return status;
}
