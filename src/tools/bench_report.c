/* SPDX-License-Identifier: Apache-2.0 */
/* Samples, rows, and how they are shown. */
#include "tools/bench.h"

#include <stdarg.h>

/* ------------------------------------------------------------------------ samples -------- */

void bench_series_add(struct bench_series *series, double sample)
{
    if (series->count < BENCH_REPEAT_MAX) {
        series->samples[series->count++] = sample;
    }
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* By linear interpolation between the two nearest. */
static double quantile(const struct bench_series *series, double share)
{
    double sorted[BENCH_REPEAT_MAX];
    if (series->count == 0) {
        return NAN;
    }
    memcpy(sorted, series->samples, series->count * sizeof *sorted);
    qsort(sorted, series->count, sizeof *sorted, compare_doubles);
    double at = share * (double)(series->count - 1);
    size_t below = (size_t)at;
    size_t above = size_min(below + 1, series->count - 1);
    return sorted[below] + (at - (double)below) * (sorted[above] - sorted[below]);
}

double bench_series_median(const struct bench_series *series) { return quantile(series, 0.5); }

static double noise_of(const struct bench_series *series)
{
    double median = quantile(series, 0.5);
    return series->count < 3 || !(median > 0.0)
               ? NAN
               : (quantile(series, 0.75) - quantile(series, 0.25)) / (2.0 * median);
}

/* NULL: no limit was measured. */
static const struct bench_limit *best_of(const struct bench_limit *limits, size_t count)
{
    const struct bench_limit *best = NULL;
    for (size_t i = 0; i < count; i++) {
        double median = bench_series_median(&limits[i].series);
        if (best == NULL || median > bench_series_median(&best->series)) {
            best = &limits[i];
        }
    }
    return best == NULL || best->series.count == 0 ? NULL : best;
}

/* Of neighbouring samples; without a limit the samples themselves. */
static struct bench_series ratios_of(const struct bench_series *measured,
                                     const struct bench_limit *limit)
{
    struct bench_series ratios = {.count = 0};
    if (limit == NULL) {
        return *measured;
    }
    for (size_t i = 0; i < size_min(measured->count, limit->series.count); i++) {
        bench_series_add(&ratios, measured->samples[i] / limit->series.samples[i]);
    }
    return ratios;
}

/* Noise that a row is measured for longer for, and how much longer at most. */
#define NOISE_SETTLED 0.05
#define REPEAT_STRETCH 4u

static size_t rounds_max(const struct bench *bench)
{
    return size_min((size_t)bench->options.repeat * REPEAT_STRETCH, BENCH_REPEAT_MAX);
}

size_t bench_rounds_known(const struct bench *bench, size_t round)
{
    return round <= bench->options.repeat ? bench->options.repeat : rounds_max(bench);
}

/* The median of the ratios of neighbouring samples is what counts, so their spread decides. It must
 * not be the result that does, or a row would be measured until it pleases. */
bool bench_is_settled(const struct bench *bench, const struct bench_series *measured,
                      const struct bench_limit *limits, size_t limit_count)
{
    unsigned repeat = bench->options.repeat;
    if (measured->count < repeat) {
        return false;
    }
    if (bench->options.is_quick || measured->count >= rounds_max(bench)) {
        return true;
    }
    struct bench_series ratios = ratios_of(measured, best_of(limits, limit_count));
    double noise = noise_of(&ratios);
    return isnan(noise) || noise <= NOISE_SETTLED;
}

/* --------------------------------------------------------------------------- rows -------- */

static void set_text(char *text_out, size_t bytes, const char *format, va_list arguments)
{
    vsnprintf(text_out, bytes, format, arguments);
}

void bench_row_name(struct bench_row *row, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    set_text(row->name, sizeof row->name, format, arguments);
    va_end(arguments);
}

void bench_row_note(struct bench_row *row, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    set_text(row->note, sizeof row->note, format, arguments);
    va_end(arguments);
}

void bench_row_set(struct bench_row *row, double value)
{
    row->value = value;
    row->limit = NAN;
    row->ratio = NAN;
    row->noise = NAN;
    row->limit_name = NULL;
}

void bench_row_take(struct bench_row *row, const struct bench_series *measured)
{
    bench_row_set(row, bench_series_median(measured));
    row->noise = noise_of(measured);
}

void bench_row_hold(struct bench_row *row, const struct bench_series *measured,
                    const struct bench_limit *limits, size_t limit_count)
{
    const struct bench_limit *best = best_of(limits, limit_count);
    bench_row_take(row, measured);
    if (best == NULL) {
        return;
    }
    struct bench_series ratios = ratios_of(measured, best);
    row->limit_name = best->name;
    row->limit = bench_series_median(&best->series);
    row->ratio = bench_series_median(&ratios);
    row->noise = noise_of(&ratios);
}

static bool is_passed(const struct bench_row *row)
{
    switch (row->bar_kind) {
    case BENCH_BAR_RATIO_MIN:
        return row->ratio >= row->bar;
    case BENCH_BAR_RATIO_MAX:
        return row->ratio <= row->bar;
    case BENCH_BAR_VALUE_MIN:
        return row->value >= row->bar;
    case BENCH_BAR_VALUE_MAX:
        return row->value <= row->bar;
    case BENCH_BAR_NONE:
        break;
    }
    return true;
}

/* A bar on the ratio means nothing where the limit could not be had. */
static bool has_bar(const struct bench_row *row)
{
    bool is_on_ratio = row->bar_kind == BENCH_BAR_RATIO_MIN || row->bar_kind == BENCH_BAR_RATIO_MAX;
    return row->bar_kind != BENCH_BAR_NONE && !(is_on_ratio && isnan(row->ratio));
}

const char *bench_row_verdict(const struct bench_row *row)
{
    if (row->is_skipped) {
        return "skipped";
    }
    if (!has_bar(row)) {
        return "";
    }
    return is_passed(row) ? "pass" : "MISS";
}

static const char *bar_sign(enum bench_bar kind)
{
    return kind == BENCH_BAR_RATIO_MIN || kind == BENCH_BAR_VALUE_MIN ? ">=" : "<=";
}

size_t bench_missed(const struct bench *bench)
{
    size_t missed = 0;
    for (size_t i = 0; i < bench->row_count; i++) {
        missed += strcmp(bench_row_verdict(&bench->rows[i]), "MISS") == 0;
    }
    return missed;
}

/* -------------------------------------------------------------------------- table -------- */

/* "9.81 GB/s"; four digits that matter are enough for anybody. */
static const char *number_text(double value, const char *unit, char *text_out, size_t text_bytes)
{
    if (isnan(value)) {
        text_out[0] = '\0';
        return text_out;
    }
    int decimals = value >= 1000.0 || value == (double)(int64_t)value ? 0 : value >= 100.0 ? 1 : 2;
    if (unit[0] == 'x') {
        decimals = 2;
    }
    snprintf(text_out, text_bytes, "%.*f %s", decimals, value, unit);
    return text_out;
}

void bench_print_head(const struct bench *bench)
{
    char dram[24], set[24], ssd[24];
    if (strcmp(bench->suite->name, "local") != 0) {
        printf("%u CPUs, %u samples a figure%s\n\n", thread_cpu_count(), bench->options.repeat,
               bench->options.is_quick ? " (quick: too small to judge by)" : "");
    } else {
        printf(
            "%u CPUs, %u copy threads, DRAM %s, working set %s, SSD %s, %u samples a figure%s\n\n",
            thread_cpu_count(), bench->threads,
            units_format_bytes(bench->dram_bytes, dram, sizeof dram),
            units_format_bytes(bench->set_bytes, set, sizeof set),
            units_format_bytes(bench->ssd_bytes, ssd, sizeof ssd), bench->options.repeat,
            bench->options.is_quick ? " (quick: too small to judge by)" : "");
    }
    printf("%-26s %-17s %-27s %7s %6s  %-10s %s\n", "what", "measured", "limit", "ratio", "noise",
           "bar", "");
    fflush(stdout);
}

static void print_row(const struct bench_row *row)
{
    char value[32], limit[32], left[64], ratio[16], noise[16], bar[24];

    if (row->is_skipped) {
        printf("%-26s skipped: %s\n", row->name, row->note);
        fflush(stdout);
        return;
    }
    number_text(row->value, row->unit, value, sizeof value);
    number_text(row->limit, row->unit, limit, sizeof limit);
    snprintf(left, sizeof left, "%s%s%s", limit, row->limit_name != NULL ? " " : "",
             row->limit_name != NULL ? row->limit_name : "");
    ratio[0] = noise[0] = bar[0] = '\0';
    if (!isnan(row->ratio)) {
        snprintf(ratio, sizeof ratio, "%.2f", row->ratio);
    }
    if (!isnan(row->noise)) {
        snprintf(noise, sizeof noise, "%.0f %%", row->noise * 100.0);
    }
    if (has_bar(row)) {
        snprintf(bar, sizeof bar, "%s %.4g", bar_sign(row->bar_kind), row->bar);
    }
    printf("%-26s %-17s %-27s %7s %6s  %-10s %s", row->name, value, left, ratio, noise, bar,
           bench_row_verdict(row));
    printf("%s%s\n", row->note[0] != '\0' ? "  " : "", row->note);
    fflush(stdout);
}

void bench_row_add(struct bench *bench, const struct bench_row *row)
{
    ASSERT(bench->row_count < BENCH_ROWS_MAX);
    bench->rows[bench->row_count++] = *row;
    if (!bench->options.is_json) {
        tool_progress_end(&bench->progress);
        print_row(row);
    }
}

void bench_row_skip(struct bench *bench, const char *name, const char *why)
{
    struct bench_row row = {.unit = "", .is_skipped = true};
    bench_row_set(&row, NAN);
    bench_row_name(&row, "%s", name);
    bench_row_note(&row, "%s", why);
    bench_row_add(bench, &row);
}

void bench_print_foot(const struct bench *bench)
{
    size_t passed = 0;
    for (size_t i = 0; i < bench->row_count; i++) {
        passed += strcmp(bench_row_verdict(&bench->rows[i]), "pass") == 0;
    }
    printf("\n%zu of %zu bars passed.\n", passed, passed + bench_missed(bench));
}

/* --------------------------------------------------------------------------- JSON -------- */

static json_t *json_number(double value) { return isnan(value) ? json_null() : json_real(value); }

static json_t *json_row(const struct bench_row *row)
{
    static const char *const kinds[] = {
        [BENCH_BAR_NONE] = NULL,           [BENCH_BAR_RATIO_MIN] = "ratio>=",
        [BENCH_BAR_RATIO_MAX] = "ratio<=", [BENCH_BAR_VALUE_MIN] = "value>=",
        [BENCH_BAR_VALUE_MAX] = "value<=",
    };
    const char *verdict = bench_row_verdict(row);
    bool is_judged = strcmp(verdict, "pass") == 0 || strcmp(verdict, "MISS") == 0;
    return json_pack("{s:s, s:s, s:o, s:o, s:s?, s:o, s:o, s:s?, s:o, s:o, s:b, s:s}", "name",
                     row->name, "unit", row->unit, "value", json_number(row->value), "limit",
                     json_number(row->limit), "limit_name", row->limit_name, "ratio",
                     json_number(row->ratio), "noise", json_number(row->noise), "bar_kind",
                     kinds[row->bar_kind], "bar",
                     row->bar_kind == BENCH_BAR_NONE ? json_null() : json_real(row->bar), "pass",
                     is_judged ? json_boolean(verdict[0] == 'p') : json_null(), "skipped",
                     row->is_skipped, "note", row->note);
}

json_t *bench_json(const struct bench *bench)
{
    json_t *rows = json_array();
    for (size_t i = 0; rows != NULL && i < bench->row_count; i++) {
        if (json_array_append_new(rows, json_row(&bench->rows[i])) != 0) {
            json_decref(rows);
            return NULL;
        }
    }
    return json_pack("{s:s, s:s, s:b, s:i, s:i, s:I, s:I, s:I, s:i, s:I, s:o}", "bench",
                     bench->suite->name, "version", umbp_version(), "quick",
                     bench->options.is_quick, "cpus", (int)thread_cpu_count(), "copy_threads",
                     (int)bench->threads, "dram_bytes", (json_int_t)bench->dram_bytes, "set_bytes",
                     (json_int_t)bench->set_bytes, "ssd_bytes", (json_int_t)bench->ssd_bytes,
                     "repeat", (int)bench->options.repeat, "missed",
                     (json_int_t)bench_missed(bench), "rows", rows);
}
