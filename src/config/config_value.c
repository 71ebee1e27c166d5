/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text to values and back. No function here depends on the process's locale (a host program may
 * have set one whose decimal point is a comma). Blanks around a value are ignored.
 */
#include "config/config_priv.h"

#include <inttypes.h>

#define WORD_BYTES 64u
#define MICRO UINT64_C(1000000)

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c; }

static bool words_equal(const char *a, const char *b)
{
    while (*a != '\0' && lower(*a) == lower(*b)) {
        a++;
        b++;
    }
    return *a == '\0' && *b == '\0';
}

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* The text without the blanks around it; false when it does not fit. */
static bool trim(const char *text, char *word_out, size_t word_bytes)
{
    while (is_blank(*text)) {
        text++;
    }
    size_t bytes = strlen(text);
    while (bytes > 0 && is_blank(text[bytes - 1])) {
        bytes--;
    }
    if (bytes >= word_bytes) {
        return false;
    }
    memcpy(word_out, text, bytes);
    word_out[bytes] = '\0';
    return true;
}

/* ------------------------------------------------------------------------ numbers ------- */

/* "0.95", "1", ".5", "95%": no finer than a millionth, which is what format_fraction writes. */
static bool parse_fraction(const char *text, double *fraction_out)
{
    uint64_t digits = 0;
    uint64_t scale = 1;
    unsigned count = 0;
    bool after_point = false;
    for (; *text != '\0' && *text != '%'; text++) {
        if (*text == '.' && !after_point) {
            after_point = true;
            continue;
        }
        if (*text < '0' || *text > '9' || ++count > 12) {
            return false;
        }
        digits = digits * 10 + (uint64_t)(*text - '0');
        if (after_point) {
            scale *= 10;
        }
    }
    if (*text == '%') {
        scale *= 100;
        text++;
    }
    if (count == 0 || scale > MICRO) {
        return false;
    }
    *fraction_out = (double)digits / (double)scale;
    return *text == '\0';
}

/* "1500", "1500ms", "3s", "2min"; whole numbers only. */
static bool parse_ms(const char *text, uint64_t *ms_out)
{
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"min", 60000}};
    char digits[WORD_BYTES];
    size_t bytes = strspn(text, "0123456789");
    uint64_t number;

    if (bytes == 0 || bytes >= sizeof digits) {
        return false;
    }
    memcpy(digits, text, bytes);
    digits[bytes] = '\0';
    if (!units_parse_count(digits, &number)) {
        return false;
    }
    text += bytes;
    while (is_blank(*text)) {
        text++;
    }
    if (*text == '\0') {
        *ms_out = number;
        return true;
    }
    for (size_t i = 0; i < ARRAY_COUNT(units); i++) {
        if (words_equal(text, units[i].unit)) {
            return !__builtin_mul_overflow(number, units[i].ms, ms_out);
        }
    }
    return false;
}

static bool parse_number(enum config_type type, const char *text, struct config_value *value_out)
{
    switch (type) {
    case CONFIG_TYPE_SIZE:
        return units_parse_bytes(text, &value_out->number);
    case CONFIG_TYPE_MS:
        return parse_ms(text, &value_out->number);
    case CONFIG_TYPE_FRACTION:
        return parse_fraction(text, &value_out->fraction);
    default:
        return units_parse_count(text, &value_out->number);
    }
}

/* Whether the value lies in the row's range. The range itself is the table's, so it parses. */
static bool in_range(const struct config_option *option, const struct config_value *value)
{
    static const char zero_or[] = "0 or ";
    static const char power[] = ", a power of two";
    char low_text[WORD_BYTES];
    char high_text[WORD_BYTES];
    struct config_value low = {0};
    struct config_value high = {0};
    const char *range = option->range;
    bool zero_fits = strncmp(range, zero_or, strlen(zero_or)) == 0;

    if (zero_fits) {
        range += strlen(zero_or);
    }
    const char *dots = strstr(range, "..");
    ASSERT(dots != NULL);
    const char *comma = strstr(dots, power);
    size_t low_bytes = (size_t)(dots - range);
    size_t high_bytes = comma != NULL ? (size_t)(comma - dots - 2) : strlen(dots + 2);
    ASSERT(low_bytes < sizeof low_text && high_bytes < sizeof high_text);
    memcpy(low_text, range, low_bytes);
    low_text[low_bytes] = '\0';
    memcpy(high_text, dots + 2, high_bytes);
    high_text[high_bytes] = '\0';
    bool is_good =
        parse_number(option->type, low_text, &low) && parse_number(option->type, high_text, &high);
    ASSERT(is_good);

    if (option->type == CONFIG_TYPE_FRACTION) {
        return value->fraction >= low.fraction && value->fraction <= high.fraction;
    }
    if (zero_fits && value->number == 0) {
        return true;
    }
    return value->number >= low.number && value->number <= high.number &&
           (comma == NULL || is_power_of_two(value->number));
}

static const char *number_hint(enum config_type type)
{
    switch (type) {
    case CONFIG_TYPE_SIZE:
        return "a size in bytes or with a unit, as 4096, 64KiB or 4GiB";
    case CONFIG_TYPE_MS:
        return "milliseconds or a whole number with a unit, as 3000, 3s or 2min";
    case CONFIG_TYPE_FRACTION:
        return "a share, as 0.95 or 95%";
    case CONFIG_TYPE_NODE:
        return "any, spread or the number of a node";
    default:
        return "a whole number";
    }
}

static enum umbp_status number_parse(const struct config_option *option, const char *word,
                                     struct config_value *value_out, char *why_out,
                                     size_t why_bytes)
{
    if (!parse_number(option->type, word, value_out)) {
        snprintf(why_out, why_bytes, "\"%.60s\" is not %s", word, number_hint(option->type));
        return UMBP_INVALID_VALUE;
    }
    if (!in_range(option, value_out)) {
        snprintf(why_out, why_bytes, "%.60s is out of range (%s)", word, option->range);
        return UMBP_INVALID_VALUE;
    }
    return UMBP_OK;
}

/* -------------------------------------------------------------------------- words ------- */

bool config_choice(const char *choices, size_t nth, char *word_out, size_t word_bytes)
{
    for (; nth > 0; nth--) {
        choices = strchr(choices, '|');
        if (choices == NULL) {
            return false;
        }
        choices++;
    }
    size_t bytes = strcspn(choices, "|");
    ASSERT(bytes < word_bytes);
    memcpy(word_out, choices, bytes);
    word_out[bytes] = '\0';
    return true;
}

/* Look `word` up in "from=to from=to"; true with `to` (which may be empty) in `to_out`. */
static bool translate(const char *words, const char *word, char *to_out, size_t to_bytes)
{
    while (words != NULL && *words != '\0') {
        char pair[WORD_BYTES];
        size_t bytes = strcspn(words, " ");
        ASSERT(bytes < sizeof pair);
        memcpy(pair, words, bytes);
        pair[bytes] = '\0';
        char *equals = strchr(pair, '=');
        ASSERT(equals != NULL);
        *equals = '\0';
        if (words_equal(pair, word)) {
            snprintf(to_out, to_bytes, "%s", equals + 1);
            return true;
        }
        words += bytes + (words[bytes] == ' ');
    }
    return false;
}

static enum umbp_status choice_parse(const struct config_option *option, const char *word,
                                     struct config_value *value_out, char *why_out,
                                     size_t why_bytes)
{
    char synonym[WORD_BYTES];
    char choice[WORD_BYTES];
    char nearest[WORD_BYTES] = "";
    unsigned least = UINT32_MAX;

    if (translate(option->synonyms, word, synonym, sizeof synonym)) {
        word = synonym;
    }
    for (size_t i = 0; config_choice(option->choices, i, choice, sizeof choice); i++) {
        if (words_equal(word, choice)) {
            value_out->number = i;
            return UMBP_OK;
        }
        unsigned distance = config_name_distance(word, choice);
        if (distance < least) {
            least = distance;
            memcpy(nearest, choice, sizeof nearest);
        }
    }
    snprintf(why_out, why_bytes, "\"%.60s\" is none of %s; the nearest is \"%s\"", word,
             option->choices, nearest);
    return UMBP_INVALID_VALUE;
}

static enum umbp_status bool_parse(const char *word, struct config_value *value_out, char *why_out,
                                   size_t why_bytes)
{
    static const char words[] = "1=1 true=1 yes=1 on=1 0=0 false=0 no=0 off=0";
    char digit[WORD_BYTES];
    if (!translate(words, word, digit, sizeof digit)) {
        snprintf(why_out, why_bytes,
                 "\"%.60s\" is neither true (yes, on, 1) nor false (no, off, 0)", word);
        return UMBP_INVALID_VALUE;
    }
    value_out->number = digit[0] == '1';
    return UMBP_OK;
}

static enum umbp_status node_parse(const struct config_option *option, const char *word,
                                   struct config_value *value_out, char *why_out, size_t why_bytes)
{
    if (words_equal(word, "any") || strcmp(word, "-1") == 0) {
        value_out->number = CONFIG_NODE_ANY;
        return UMBP_OK;
    }
    if (words_equal(word, "spread") || strcmp(word, "-2") == 0) {
        value_out->number = CONFIG_NODE_SPREAD;
        return UMBP_OK;
    }
    enum umbp_status status = number_parse(option, word, value_out, why_out, why_bytes);
    value_out->number += CONFIG_NODE_FIRST;
    return status;
}

static enum umbp_status text_parse(const char *text, struct config_value *value_out, char *why_out,
                                   size_t why_bytes)
{
    if (strlen(text) > CONFIG_TEXT_BYTES_MAX) {
        snprintf(why_out, why_bytes, "the text is longer than %u bytes", CONFIG_TEXT_BYTES_MAX);
        return UMBP_INVALID_VALUE;
    }
    if (*text == '\0') {
        value_out->text = NULL;
        return UMBP_OK;
    }
    value_out->text = mem_strdup(text);
    if (value_out->text == NULL) {
        snprintf(why_out, why_bytes, "out of memory");
        return UMBP_NO_MEMORY;
    }
    return UMBP_OK;
}

/* ------------------------------------------------------------------ parse, format ------- */

enum umbp_status config_value_parse(const struct config_option *option, const char *text,
                                    struct config_value *value_out, char *why_out, size_t why_bytes)
{
    char word[WORD_BYTES];
    struct config_value value = {.origin = CONFIG_FROM_USER};
    enum umbp_status status;

    if (option->type == CONFIG_TYPE_TEXT) {
        status = text_parse(text, &value, why_out, why_bytes);
    } else if (!trim(text, word, sizeof word)) {
        snprintf(why_out, why_bytes, "\"%.40s...\" is too long", text);
        return UMBP_INVALID_VALUE;
    } else if (word[0] == '\0') {
        snprintf(why_out, why_bytes, "there is no value");
        return UMBP_INVALID_VALUE;
    } else if (option->type == CONFIG_TYPE_CHOICE) {
        status = choice_parse(option, word, &value, why_out, why_bytes);
    } else if (option->type == CONFIG_TYPE_BOOL) {
        status = bool_parse(word, &value, why_out, why_bytes);
    } else if (option->type == CONFIG_TYPE_NODE) {
        status = node_parse(option, word, &value, why_out, why_bytes);
    } else {
        status = number_parse(option, word, &value, why_out, why_bytes);
    }
    if (status == UMBP_OK) {
        *value_out = value;
    }
    return status;
}

/* In the largest unit that divides it, so that the text is exact. */
static int format_size(uint64_t bytes, char *text_out, size_t text_bytes)
{
    static const char *const units[] = {"", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    while (bytes != 0 && bytes % 1024 == 0 && unit + 1 < ARRAY_COUNT(units)) {
        bytes /= 1024;
        unit++;
    }
    return snprintf(text_out, text_bytes, "%" PRIu64 "%s", bytes, units[unit]);
}

static int format_fraction(double fraction, char *text_out, size_t text_bytes)
{
    uint64_t micros = (uint64_t)(fraction * (double)MICRO + 0.5);
    int bytes =
        snprintf(text_out, text_bytes, "%" PRIu64 ".%06" PRIu64, micros / MICRO, micros % MICRO);
    if (bytes < 0 || (size_t)bytes >= text_bytes) {
        return bytes;
    }
    while (text_out[bytes - 1] == '0') {
        text_out[--bytes] = '\0';
    }
    if (text_out[bytes - 1] == '.') {
        text_out[--bytes] = '\0';
    }
    return bytes;
}

enum umbp_status config_value_format(const struct config_option *option,
                                     const struct config_value *value, char *text_out,
                                     size_t text_bytes)
{
    char text[WORD_BYTES] = "";
    const char *from = text;

    switch (option->type) {
    case CONFIG_TYPE_SIZE:
        format_size(value->number, text, sizeof text);
        break;
    case CONFIG_TYPE_COUNT:
    case CONFIG_TYPE_MS:
        snprintf(text, sizeof text, "%" PRIu64, value->number);
        break;
    case CONFIG_TYPE_BOOL:
        from = value->number ? "true" : "false";
        break;
    case CONFIG_TYPE_FRACTION:
        format_fraction(value->fraction, text, sizeof text);
        break;
    case CONFIG_TYPE_CHOICE:
        if (!config_choice(option->choices, value->number, text, sizeof text)) {
            return UMBP_INVALID_VALUE;
        }
        break;
    case CONFIG_TYPE_NODE:
        if (value->number >= CONFIG_NODE_FIRST) {
            snprintf(text, sizeof text, "%" PRIu64, value->number - CONFIG_NODE_FIRST);
        } else {
            from = value->number == CONFIG_NODE_ANY ? "any" : "spread";
        }
        break;
    case CONFIG_TYPE_TEXT:
        from = value->text != NULL ? value->text : "";
        break;
    }
    size_t bytes = strlen(from);
    if (bytes >= text_bytes) {
        return UMBP_LIMIT;
    }
    memcpy(text_out, from, bytes + 1);
    return UMBP_OK;
}

bool config_translate(const char *words, const char *word, char *to_out, size_t to_bytes)
{
    char trimmed[WORD_BYTES];
    return trim(word, trimmed, sizeof trimmed) && translate(words, trimmed, to_out, to_bytes);
}
