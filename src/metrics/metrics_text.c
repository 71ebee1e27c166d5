/* SPDX-License-Identifier: Apache-2.0 */
/* Prometheus's text format, version 0.0.4. */
#include "metrics/metrics_priv.h"

#include <math.h>

#define FIRST_BYTES (64 * KIB)

struct metrics_text {
    char *data;
    size_t bytes;
    size_t room;
    size_t bytes_max;
    enum umbp_status status;
    size_t family_at; /* where its name is in `data` */
    size_t family_bytes;
    uint64_t seen[METRICS_SEEN]; /* hashes of names */
    size_t seen_count;
};

enum umbp_status metrics_text_create(size_t bytes_max, struct metrics_text **text_out)
{
    struct metrics_text *text = mem_zalloc(sizeof *text);
    if (text == NULL) {
        return UMBP_NO_MEMORY;
    }
    text->room = size_min(FIRST_BYTES, bytes_max + 1);
    text->bytes_max = bytes_max;
    text->data = mem_alloc(text->room);
    if (text->data == NULL) {
        mem_free(text);
        return UMBP_NO_MEMORY;
    }
    *text_out = text;
    return UMBP_OK;
}

void metrics_text_destroy(struct metrics_text *text)
{
    if (text != NULL) {
        mem_free(text->data);
        mem_free(text);
    }
}

static void add(struct metrics_text *text, const void *data, size_t bytes)
{
    if (text->status != UMBP_OK) {
        return;
    }
    if (bytes > text->bytes_max - text->bytes) {
        text->status = UMBP_LIMIT;
        return;
    }
    if (text->room - text->bytes <= bytes) { /* and a NUL */
        size_t room =
            size_min(size_max(2 * text->room, text->bytes + bytes + 1), text->bytes_max + 1);
        char *data_new = mem_realloc(text->data, room);
        if (data_new == NULL) {
            text->status = UMBP_NO_MEMORY;
            return;
        }
        text->data = data_new;
        text->room = room;
    }
    memcpy(text->data + text->bytes, data, bytes);
    text->bytes += bytes;
}

static void add_text(struct metrics_text *text, const char *more) { add(text, more, strlen(more)); }

/* With \ and newline (and in values ") escaped; control characters become blanks. */
static void add_escaped(struct metrics_text *text, struct metrics_words words, bool is_value)
{
    for (size_t i = 0; i < words.bytes; i++) {
        char c = words.data[i];
        if (c == '\\') {
            add(text, "\\\\", 2);
        } else if (c == '\n') {
            add(text, "\\n", 2);
        } else if (c == '"' && is_value) {
            add(text, "\\\"", 2);
        } else {
            c = (unsigned char)c < 0x20 || c == 0x7f ? ' ' : c;
            add(text, &c, 1);
        }
    }
}

/* Whether the name is new; it is not afterwards. */
static bool see(struct metrics_text *text, struct metrics_words name, const char *suffix)
{
    char whole[METRICS_NAME_BYTES_MAX + 16];
    int bytes = snprintf(whole, sizeof whole, "%.*s%s", (int)name.bytes, name.data, suffix);
    uint64_t hash = hash_bytes(whole, (size_t)bytes, 0);
    for (size_t i = 0; i < text->seen_count; i++) {
        if (text->seen[i] == hash) {
            return false;
        }
    }
    if (text->seen_count == METRICS_SEEN) {
        return false;
    }
    text->seen[text->seen_count++] = hash;
    return true;
}

bool metrics_text_family(struct metrics_text *text, struct metrics_words name,
                         enum metrics_type type, struct metrics_words help)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    if (name.bytes > METRICS_NAME_BYTES_MAX || !see(text, name, "")) {
        return false;
    }
    if (type == METRICS_HISTOGRAM &&
        (!see(text, name, "_bucket") || !see(text, name, "_sum") || !see(text, name, "_count"))) {
        return false;
    }
    add_text(text, "# HELP ");
    text->family_at = text->bytes;
    text->family_bytes = name.bytes;
    add(text, name.data, name.bytes);
    add_text(text, " ");
    add_escaped(text, help, false);
    add_text(text, "\n# TYPE ");
    add(text, name.data, name.bytes);
    add_text(text, " ");
    add_text(text, types[type]);
    add_text(text, "\n");
    return true;
}

void metrics_format_labels(struct metrics_text *text, const struct metrics_label *labels,
                           size_t label_count)
{
    for (size_t i = 0; i < label_count; i++) {
        if (i > 0) {
            add_text(text, ",");
        }
        add(text, labels[i].name.data, labels[i].name.bytes);
        add_text(text, "=\"");
        add_escaped(text, labels[i].value, true);
        add_text(text, "\"");
    }
}

static void begin_value(struct metrics_text *text, const char *suffix)
{
    char name[METRICS_NAME_BYTES_MAX];
    if (text->status != UMBP_OK) {
        return;
    }
    /* The buffer may move while it grows: not straight from there. */
    memcpy(name, text->data + text->family_at, text->family_bytes);
    add(text, name, text->family_bytes);
    add_text(text, suffix);
}

static void end_value(struct metrics_text *text, double value)
{
    char number[40];
    if (isnan(value)) {
        snprintf(number, sizeof number, " NaN\n");
    } else if (isinf(value)) {
        snprintf(number, sizeof number, value > 0 ? " +Inf\n" : " -Inf\n");
    } else if (fabs(value) < 9007199254740992.0 && value == floor(value)) {
        snprintf(number, sizeof number, " %.0f\n", value);
    } else {
        snprintf(number, sizeof number, " %.17g\n", value);
    }
    add_text(text, number);
}

void metrics_text_value(struct metrics_text *text, const char *suffix,
                        const struct metrics_label *labels, size_t label_count, const char *more,
                        double value)
{
    bool has_more = more[0] != '\0';
    begin_value(text, suffix);
    if (label_count > 0 || has_more) {
        add_text(text, "{");
        metrics_format_labels(text, labels, label_count);
        add_text(text, label_count > 0 && has_more ? "," : "");
        add_text(text, more);
        add_text(text, "}");
    }
    end_value(text, value);
}

void metrics_text_made(struct metrics_text *text, const char *suffix, const char *labels,
                       const char *more, double value)
{
    bool has_both = labels[0] != '\0' && more[0] != '\0';
    begin_value(text, suffix);
    if (labels[0] != '\0' || more[0] != '\0') {
        add_text(text, "{");
        add_text(text, labels);
        add_text(text, has_both ? "," : "");
        add_text(text, more);
        add_text(text, "}");
    }
    end_value(text, value);
}

enum umbp_status metrics_text_end(struct metrics_text *text, const char **data_out,
                                  size_t *bytes_out)
{
    if (text->status == UMBP_OK) {
        text->data[text->bytes] = '\0';
        *data_out = text->data;
        *bytes_out = text->bytes;
    }
    return text->status;
}
