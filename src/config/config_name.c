/* SPDX-License-Identifier: Apache-2.0 */
/* Names: comparing them as people write them, and finding the one that was meant. */
#include "config/config_priv.h"

#define NAME_BYTES 63u

/* One spelling for what people take for the same: case, and the three ways to join words. */
static char fold(char c)
{
    if (c >= 'A' && c <= 'Z') {
        return (char)(c - 'A' + 'a');
    }
    return c == '-' || c == '.' ? '_' : c;
}

static bool names_match(const char *known, const char *name, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (known[i] == '\0' || fold(known[i]) != fold(name[i])) {
            return false;
        }
    }
    return known[bytes] == '\0';
}

size_t config_option_of_flag(const char *flag, size_t bytes)
{
    for (size_t i = 0; i < CONFIG_OPTION_COUNT; i++) {
        const char *alias = config_options[i].flag;
        if (names_match(config_options[i].name, flag, bytes) ||
            (alias != NULL && names_match(alias, flag, bytes))) {
            return i;
        }
    }
    return SIZE_MAX;
}

/* Optimal string alignment distance, three rows of the usual table. */
unsigned config_name_distance(const char *a, const char *b)
{
    size_t a_bytes = size_min(strlen(a), NAME_BYTES);
    size_t b_bytes = size_min(strlen(b), NAME_BYTES);
    unsigned rows[3][NAME_BYTES + 1];
    unsigned *before = rows[0];
    unsigned *last = rows[1];
    unsigned *row = rows[2];

    memset(rows, 0, sizeof rows);
    for (size_t j = 0; j <= b_bytes; j++) {
        last[j] = (unsigned)j;
    }
    for (size_t i = 1; i <= a_bytes; i++) {
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b_bytes; j++) {
            char from = fold(a[i - 1]);
            char to = fold(b[j - 1]);
            unsigned least = last[j - 1] + (from != to);
            least = least < last[j] + 1 ? least : last[j] + 1;
            least = least < row[j - 1] + 1 ? least : row[j - 1] + 1;
            if (i > 1 && j > 1 && from == fold(b[j - 2]) && to == fold(a[i - 2]) &&
                before[j - 2] + 1 < least) {
                least = before[j - 2] + 1;
            }
            row[j] = least;
        }
        unsigned *oldest = before;
        before = last;
        last = row;
        row = oldest;
    }
    return last[b_bytes];
}

const char *config_nearest_name(const char *name)
{
    const char *best = config_options[0].name;
    unsigned least = UINT32_MAX;
    for (size_t i = 0; i < CONFIG_OPTION_COUNT; i++) {
        const char *known = config_options[i].name;
        const char *dot = strchr(known, '.');
        unsigned distance = config_name_distance(name, known);
        /* "page_bytes" for "dram.page_bytes": a forgotten section is one mistake, not five. */
        if (dot != NULL && strpbrk(name, ".-") == NULL) {
            unsigned tail = config_name_distance(name, dot + 1) + 1;
            distance = tail < distance ? tail : distance;
        }
        if (distance < least) {
            least = distance;
            best = known;
        }
    }
    return best;
}

size_t config_first_of_section(const char *section)
{
    size_t bytes = strlen(section);
    for (size_t i = 0; i < CONFIG_OPTION_COUNT; i++) {
        if (strncmp(config_options[i].name, section, bytes) == 0 &&
            config_options[i].name[bytes] == '.') {
            return i;
        }
    }
    return SIZE_MAX;
}

void config_name_unknown(const char *name, char *why_out, size_t why_bytes)
{
    size_t first = config_first_of_section(name);
    if (first != SIZE_MAX) {
        snprintf(why_out, why_bytes, "\"%s\" is a section, not an option; in it is \"%s\"", name,
                 config_options[first].name);
    } else {
        snprintf(why_out, why_bytes, "there is no option \"%.80s\"; the nearest is \"%s\"", name,
                 config_nearest_name(name));
    }
}
