/* SPDX-License-Identifier: Apache-2.0 */
/* Integers throughout: "1.1GiB" must not depend on how a double rounds. */
#include "base/units.h"

#include <inttypes.h>
#include <stdio.h>
#include <strings.h>

typedef unsigned __int128 wide;

#define FRACTION_DIGITS_MAX 18

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit parse_units[] = {
    {"", 1},
    {"B", 1},
    {"K", KIB},
    {"KiB", KIB},
    {"KB", 1000},
    {"M", MIB},
    {"MiB", MIB},
    {"MB", UINT64_C(1000000)},
    {"G", GIB},
    {"GiB", GIB},
    {"GB", UINT64_C(1000000000)},
    {"T", GIB * 1024},
    {"TiB", GIB * 1024},
    {"TB", UINT64_C(1000000000000)},
    {"P", GIB * 1024 * 1024},
    {"PiB", GIB * 1024 * 1024},
    {"PB", UINT64_C(1000000000000000)},
};

static const struct unit byte_units[] = {
    {"B", 1},          {"KiB", KIB},        {"MiB", MIB},
    {"GiB", GIB},      {"TiB", GIB * 1024}, {"PiB", GIB * 1024 * 1024},
    {"EiB", GIB *GIB},
};

static const struct unit time_units[] = {
    {"ns", 1},
    {"us", UINT64_C(1000)},
    {"ms", UINT64_C(1000000)},
    {"s", UINT64_C(1000000000)},
};

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* Reads at least one digit; moves `*text` past them. */
static bool parse_digits(const char **text, uint64_t *value_out)
{
    uint64_t value = 0;

    if (!is_digit(**text)) {
        return false;
    }
    for (; is_digit(**text); ++*text) {
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(**text - '0'), &value)) {
            return false;
        }
    }
    *value_out = value;
    return true;
}

bool units_parse_count(const char *text, uint64_t *count_out)
{
    uint64_t count;

    if (!parse_digits(&text, &count) || *text != '\0') {
        return false;
    }
    *count_out = count;
    return true;
}

static const struct unit *find_unit(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(parse_units); i++) {
        if (strcasecmp(name, parse_units[i].name) == 0) {
            return &parse_units[i];
        }
    }
    return NULL;
}

bool units_parse_bytes(const char *text, uint64_t *bytes_out)
{
    uint64_t whole;
    uint64_t fraction = 0;
    uint64_t fraction_of = 1;

    if (!parse_digits(&text, &whole)) {
        return false;
    }
    if (*text == '.') {
        const char *begin = ++text;
        if (!parse_digits(&text, &fraction) || text - begin > FRACTION_DIGITS_MAX) {
            return false;
        }
        for (; begin < text; begin++) {
            fraction_of *= 10;
        }
    }
    if (text[0] == ' ' && text[1] != '\0') { /* "64 KiB", as we write it */
        text++;
    }
    const struct unit *unit = find_unit(text);
    if (unit == NULL || (unit->factor == 1 && fraction_of > 1)) {
        return false;
    }
    /* Neither product can pass 2^128; what is left of a byte is dropped. */
    wide bytes = (wide)whole * unit->factor + (wide)fraction * unit->factor / fraction_of;
    if (bytes > UINT64_MAX) {
        return false;
    }
    *bytes_out = (uint64_t)bytes;
    return true;
}

/* In the largest unit that leaves at least 1, to a tenth, without a ".0". */
static const char *format(const struct unit *units, size_t count, uint64_t value, char *text_out,
                          size_t text_bytes)
{
    size_t unit = 0;
    while (unit + 1 < count && value >= units[unit + 1].factor) {
        unit++;
    }
    wide tenths = ((wide)value * 10 + units[unit].factor / 2) / units[unit].factor;
    /* 1023.96 KiB is 1 MiB when rounded. */
    if (unit + 1 < count && tenths * units[unit].factor >= (wide)units[unit + 1].factor * 10) {
        unit++;
        tenths = 10;
    }
    uint64_t whole = (uint64_t)(tenths / 10);
    unsigned tenth = (unsigned)(tenths % 10);
    if (tenth == 0) {
        snprintf(text_out, text_bytes, "%" PRIu64 " %s", whole, units[unit].name);
    } else {
        snprintf(text_out, text_bytes, "%" PRIu64 ".%u %s", whole, tenth, units[unit].name);
    }
    return text_out;
}

const char *units_format_bytes(uint64_t bytes, char *text_out, size_t text_bytes)
{
    return format(byte_units, ARRAY_COUNT(byte_units), bytes, text_out, text_bytes);
}

const char *units_format_ns(uint64_t ns, char *text_out, size_t text_bytes)
{
    return format(time_units, ARRAY_COUNT(time_units), ns, text_out, text_bytes);
}
