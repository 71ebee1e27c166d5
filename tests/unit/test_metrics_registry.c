/* SPDX-License-Identifier: Apache-2.0 */
/* Series that others report, as text. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "metrics/metrics.h"
#include "support.h"

static _Atomic uint64_t now_ns;

static uint64_t read_now(void *context)
{
    (void)context;
    return now_ns;
}

static const struct clock_source hand_clock = {read_now, NULL};

static struct metrics_registry *make_registry(uint32_t series)
{
    struct metrics_registry *registry;
    now_ns = NS_PER_S;
    assert_ok(metrics_registry_create(series, &hand_clock, &registry));
    return registry;
}

static enum umbp_status report(struct metrics_registry *registry, enum metrics_type type,
                               const char *name, const char *label, double value)
{
    const struct metrics_label labels[] = {{metrics_words_of("a"), metrics_words_of(label)}};
    const struct metrics_sample sample = {
        .name = metrics_words_of(name),
        .help = metrics_words_of("what it is"),
        .type = type,
        .labels = labels,
        .label_count = 1,
        .value = value,
    };
    return metrics_registry_report(registry, &sample);
}

/* malloc'ed. */
static char *page(struct metrics_registry *registry)
{
    struct metrics_text *text;
    const char *data;
    size_t bytes;
    assert_ok(metrics_text_create(1 << 20, &text));
    metrics_registry_write(registry, text);
    assert_ok(metrics_text_end(text, &data, &bytes));
    char *copy = strdup(data);
    metrics_text_destroy(text);
    return copy;
}

static void assert_page(struct metrics_registry *registry, const char *expected)
{
    char *text = page(registry);
    assert_string_equal(text, expected);
    free(text);
}

static void counters_add_up_and_gauges_are_replaced(void **state)
{
    struct metrics_registry *registry = make_registry(10);
    (void)state;
    assert_page(registry, "");
    assert_ok(report(registry, METRICS_COUNTER, "c_total", "x", 1));
    assert_ok(report(registry, METRICS_COUNTER, "c_total", "x", 1.5));
    assert_ok(report(registry, METRICS_GAUGE, "g", "x", 7));
    assert_ok(report(registry, METRICS_GAUGE, "g", "x", -INFINITY));
    assert_ok(report(registry, METRICS_COUNTER, "c_total", "y", 2));
    assert_page(registry, "# HELP c_total what it is\n"
                          "# TYPE c_total counter\n"
                          "c_total{a=\"x\"} 2.5\n"
                          "c_total{a=\"y\"} 2\n"
                          "# HELP g what it is\n"
                          "# TYPE g gauge\n"
                          "g{a=\"x\"} -Inf\n");
    metrics_registry_destroy(registry);
}

static void a_histogram_is_written_with_its_sum_and_count(void **state)
{
    struct metrics_registry *registry = make_registry(10);
    const double bounds[] = {0.5, 2};
    const uint64_t counts[] = {1, 3};
    struct metrics_sample sample = {.name = metrics_words_of("h"),
                                    .help = metrics_words_of(""),
                                    .type = METRICS_HISTOGRAM,
                                    .bounds = bounds,
                                    .bucket_counts = counts,
                                    .bound_count = 2,
                                    .count = 4,
                                    .sum = 9.25};
    (void)state;
    assert_ok(metrics_registry_report(registry, &sample));
    assert_ok(metrics_registry_report(registry, &sample));
    assert_page(registry, "# HELP h \n# TYPE h histogram\n"
                          "h_bucket{le=\"0.5\"} 2\nh_bucket{le=\"2\"} 6\n"
                          "h_bucket{le=\"+Inf\"} 8\nh_sum 18.5\nh_count 8\n");
    /* Other bounds would not add up. */
    sample.bound_count = 1;
    assert_status(metrics_registry_report(registry, &sample), UMBP_INVALID_VALUE);
    assert_int_equal(metrics_registry_dropped(registry), 1);
    metrics_registry_destroy(registry);
}

static void what_is_not_valid_never_gets_in(void **state)
{
    struct metrics_registry *registry = make_registry(10);
    (void)state;
    assert_status(report(registry, METRICS_COUNTER, "9c", "x", 1), UMBP_INVALID_VALUE);
    assert_status(report(registry, METRICS_COUNTER, "c d", "x", 1), UMBP_INVALID_VALUE);
    assert_status(report(registry, METRICS_COUNTER, "c", "x", -1), UMBP_INVALID_VALUE);
    assert_status(report(registry, METRICS_COUNTER, "c", "x", NAN), UMBP_INVALID_VALUE);
    assert_ok(report(registry, METRICS_COUNTER, "c", "a\"b\\c\nd\x01", 1));
    assert_status(report(registry, METRICS_GAUGE, "c", "x", 1), UMBP_INVALID_VALUE);
    assert_page(registry, "# HELP c what it is\n# TYPE c counter\n"
                          "c{a=\"a\\\"b\\\\c\\nd \"} 1\n");
    assert_int_equal(metrics_registry_dropped(registry), 5);
    metrics_registry_destroy(registry);
}

static void series_are_bounded_and_the_idle_ones_make_room(void **state)
{
    struct metrics_registry *registry = make_registry(3);
    (void)state;
    for (int i = 0; i < 3; i++) {
        char label[2] = {(char)('0' + i), '\0'};
        assert_ok(report(registry, METRICS_COUNTER, "c", label, 1));
        now_ns += NS_PER_S;
    }
    assert_status(report(registry, METRICS_COUNTER, "c", "9", 1), UMBP_LIMIT);
    assert_ok(report(registry, METRICS_COUNTER, "c", "0", 1)); /* no longer idle */
    now_ns += NS_PER_S;
    metrics_registry_sweep(registry, 1500);
    assert_ok(report(registry, METRICS_COUNTER, "c", "9", 1));
    assert_page(registry, "# HELP c what it is\n# TYPE c counter\n"
                          "c{a=\"0\"} 2\nc{a=\"9\"} 1\n");
    metrics_registry_destroy(registry);
}

static void names_are_bounded_and_those_without_a_series_make_room(void **state)
{
    struct metrics_registry *registry = make_registry(2 * METRICS_FAMILIES_MAX);
    char name[32];
    (void)state;
    for (unsigned i = 0; i + 1 < METRICS_FAMILIES_MAX; i++) {
        snprintf(name, sizeof name, "made_up_%u", i);
        assert_ok(report(registry, METRICS_GAUGE, name, "x", 1));
    }
    now_ns += NS_PER_S;
    assert_ok(report(registry, METRICS_COUNTER, "c", "x", 1));
    assert_ok(report(registry, METRICS_COUNTER, "c", "y", 2));
    assert_ok(report(registry, METRICS_GAUGE, "made_up_7", "x", 7));
    assert_status(report(registry, METRICS_COUNTER, "d", "x", 1), UMBP_LIMIT);
    now_ns += NS_PER_S;
    metrics_registry_sweep(registry, 1500);
    assert_ok(report(registry, METRICS_COUNTER, "c", "y", 2)); /* still found where it moved to */
    assert_ok(report(registry, METRICS_COUNTER, "made_up_8", "x", 3)); /* of another type now */
    assert_page(registry, "# HELP made_up_7 what it is\n# TYPE made_up_7 gauge\n"
                          "made_up_7{a=\"x\"} 7\n"
                          "# HELP c what it is\n# TYPE c counter\n"
                          "c{a=\"x\"} 1\nc{a=\"y\"} 4\n"
                          "# HELP made_up_8 what it is\n# TYPE made_up_8 counter\n"
                          "made_up_8{a=\"x\"} 3\n");
    metrics_registry_destroy(registry);
}

static void a_sum_that_would_not_count_any_more_is_refused(void **state)
{
    struct metrics_registry *registry = make_registry(10);
    const double bounds[] = {1};
    const uint64_t counts[] = {UINT64_C(1) << 52};
    struct metrics_sample sample = {.name = metrics_words_of("h"),
                                    .help = metrics_words_of(""),
                                    .type = METRICS_HISTOGRAM,
                                    .bounds = bounds,
                                    .bucket_counts = counts,
                                    .bound_count = 1,
                                    .count = counts[0],
                                    .sum = 1e308};
    (void)state;
    assert_ok(report(registry, METRICS_COUNTER, "c", "x", 1e308));
    assert_status(report(registry, METRICS_COUNTER, "c", "x", 1e308), UMBP_LIMIT);
    assert_ok(metrics_registry_report(registry, &sample));
    assert_status(metrics_registry_report(registry, &sample), UMBP_LIMIT);
    sample.sum = 0;
    assert_status(metrics_registry_report(registry, &sample), UMBP_LIMIT);
    assert_page(registry, "# HELP c what it is\n# TYPE c counter\nc{a=\"x\"} 1e+308\n"
                          "# HELP h \n# TYPE h histogram\n"
                          "h_bucket{le=\"1\"} 4503599627370496\n"
                          "h_bucket{le=\"+Inf\"} 4503599627370496\n"
                          "h_sum 1e+308\nh_count 4503599627370496\n");
    metrics_registry_destroy(registry);
}

static void a_family_that_the_text_has_is_left_out(void **state)
{
    struct metrics_registry *registry = make_registry(10);
    struct metrics_text *text;
    const char *data;
    size_t bytes;
    (void)state;
    assert_ok(report(registry, METRICS_GAUGE, "g", "x", 1));
    assert_ok(metrics_text_create(1000, &text));
    assert_true(
        metrics_text_family(text, metrics_words_of("g"), METRICS_GAUGE, metrics_words_of("mine")));
    metrics_text_value(text, "", NULL, 0, "", 5);
    assert_false(
        metrics_text_family(text, metrics_words_of("g"), METRICS_GAUGE, metrics_words_of("mine")));
    metrics_registry_write(registry, text);
    assert_ok(metrics_text_end(text, &data, &bytes));
    assert_string_equal(data, "# HELP g mine\n# TYPE g gauge\ng 5\n");
    metrics_text_destroy(text);
    metrics_registry_destroy(registry);
}

static void a_text_that_does_not_fit_is_an_error(void **state)
{
    struct metrics_registry *registry = make_registry(10);
    struct metrics_text *text;
    const char *data = NULL;
    size_t bytes = 0;
    (void)state;
    assert_ok(report(registry, METRICS_GAUGE, "g", "x", 1));
    assert_ok(metrics_text_create(20, &text));
    metrics_registry_write(registry, text);
    assert_status(metrics_text_end(text, &data, &bytes), UMBP_LIMIT);
    metrics_text_destroy(text);
    metrics_registry_destroy(registry);
}

struct crowd {
    struct metrics_registry *registry;
    unsigned number;
    bool is_done;
};

static void *report_many(void *context)
{
    struct crowd *crowd = context;
    for (unsigned i = 0; i < 2000; i++) {
        char label[16];
        snprintf(label, sizeof label, "%u_%u", crowd->number, i % 50);
        assert_ok(report(crowd->registry, METRICS_COUNTER, "c", label, 1));
    }
    return NULL;
}

static void reports_sweeps_and_pages_go_together(void **state)
{
    struct metrics_registry *registry = make_registry(400);
    struct crowd crowds[4];
    pthread_t threads[4];
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        crowds[i] = (struct crowd){registry, i, false};
        pthread_create(&threads[i], NULL, report_many, &crowds[i]);
    }
    for (int i = 0; i < 20; i++) {
        free(page(registry));
        metrics_registry_sweep(registry, 1000000);
    }
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    char *text = page(registry);
    double sum = 0;
    unsigned lines = 0;
    for (char *line = strstr(text, "\nc{"); line != NULL; line = strstr(line + 1, "\nc{")) {
        sum += strtod(strchr(line, ' '), NULL);
        lines++;
    }
    free(text);
    assert_int_equal(lines, 200);
    assert_true(sum == 8000);
    metrics_registry_destroy(registry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counters_add_up_and_gauges_are_replaced),
        cmocka_unit_test(a_histogram_is_written_with_its_sum_and_count),
        cmocka_unit_test(what_is_not_valid_never_gets_in),
        cmocka_unit_test(series_are_bounded_and_the_idle_ones_make_room),
        cmocka_unit_test(names_are_bounded_and_those_without_a_series_make_room),
        cmocka_unit_test(a_sum_that_would_not_count_any_more_is_refused),
        cmocka_unit_test(a_family_that_the_text_has_is_left_out),
        cmocka_unit_test(a_text_that_does_not_fit_is_an_error),
        cmocka_unit_test(reports_sweeps_and_pages_go_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
