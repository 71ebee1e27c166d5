/* SPDX-License-Identifier: Apache-2.0 */
/* `umbp bench local`, whole but small: that it runs, and that no row has gone. */
#include "support.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/bench.h"
#include "tools/tool_list.h"

/* Runs the program; what it printed is in malloc'ed memory. */
static char *run_program(char **arguments, int count, int *code_out)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    assert_int_not_equal(saved, -1);
    assert_int_not_equal(dup2(fileno(file), STDOUT_FILENO), -1);
    *code_out = tool_main(count, arguments);
    fflush(stdout);
    assert_int_not_equal(dup2(saved, STDOUT_FILENO), -1);
    close(saved);

    long bytes = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    assert_true(bytes >= 0);
    rewind(file);
    char *text = malloc((size_t)bytes + 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, (size_t)bytes, file), (size_t)bytes);
    text[bytes] = '\0';
    fclose(file);
    return text;
}

static json_t *find_row(json_t *rows, const char *name)
{
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        if (strcmp(json_string_value(json_object_get(row, "name")), name) == 0) {
            return row;
        }
    }
    return NULL;
}

static const char *const row_names[] = {
    "crc32c.cached",
    "crc32c.cold",
    "batch.get.64KiB",
    "batch.put.64KiB",
    "batch.get.256KiB",
    "batch.put.256KiB",
    "batch.get.1MiB",
    "batch.put.1MiB",
    "batch.get.4MiB",
    "batch.put.4MiB",
    "small.get",
    "small.put",
    "small.put_evicting",
    "index.memory",
    "exists.sequential",
    "exists.random",
    "exists.cold_keys",
    "allocations.dram",
    "allocations.ssd",
    "ssd.write.64KiB",
    "ssd.write.1MiB",
    "ssd.read.1MiB",
    "ssd.checksum",
    "latency.put_p99",
    "restart",
};

static const char *const thread_row_names[] = {
    "threads.get.64KiB", "threads.put.64KiB", "threads.get.256KiB", "threads.put.256KiB",
    "threads.get.1MiB",  "threads.put.1MiB",  "threads.get.4MiB",   "threads.put.4MiB",
};

static void assert_row(json_t *rows, const char *name)
{
    json_t *row = find_row(rows, name);
    if (row == NULL) {
        fail_msg("there is no row %s", name);
    }
    assert_true(json_is_string(json_object_get(row, "unit")));
    if (json_is_false(json_object_get(row, "skipped"))) {
        assert_true(json_is_number(json_object_get(row, "value")));
    }
}

static void bench_local_quick_prints_every_row_and_leaves_nothing_behind(void **state)
{
    (void)state;
    if (test_is_valgrind()) {
        print_message("the raw I/O of the bench needs io_uring, which valgrind has not\n");
        skip();
    }
    char *folder = test_dir_create();
    char *arguments[] = {"bench",  "local", "--quick", "--json", "--repeat",  "1",
                         "--dram", "64MiB", "--ssd",   "1GiB",   "--ssd-dir", folder};
    int code;
    char *text = run_program(arguments, ARRAY_COUNT(arguments), &code);
    assert_int_equal(code, TOOL_OK);

    json_error_t error;
    json_t *object = json_loads(text, 0, &error);
    assert_non_null(object);
    assert_string_equal(json_string_value(json_object_get(object, "bench")), "local");
    assert_true(json_is_true(json_object_get(object, "quick")));
    json_t *rows = json_object_get(object, "rows");
    for (size_t i = 0; i < ARRAY_COUNT(row_names); i++) {
        assert_row(rows, row_names[i]);
    }
    for (size_t i = 0; thread_cpu_count() > 1 && i < ARRAY_COUNT(thread_row_names); i++) {
        assert_row(rows, thread_row_names[i]);
    }
    json_decref(object);
    free(text);
    assert_int_equal(rmdir(folder), 0); /* it is empty */
    test_dir_remove(folder);
}

static void bench_only_names_the_nearest_bench_to_a_wrong_one(void **state)
{
    (void)state;
    char *arguments[] = {"bench", "local", "--only", "crc,bach"};
    int code;
    free(run_program(arguments, ARRAY_COUNT(arguments), &code));
    assert_int_equal(code, TOOL_USAGE);
}

static void bench_only_runs_what_it_names(void **state)
{
    (void)state;
    char *arguments[] = {"bench",    "local", "--only", "crc",   "--quick",
                         "--repeat", "1",     "--dram", "64MiB", "--json"};
    int code;
    char *text = run_program(arguments, ARRAY_COUNT(arguments), &code);
    assert_int_equal(code, TOOL_OK);
    json_t *object = json_loads(text, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(object, "rows")), 2);
    json_decref(object);
    free(text);
}

static void bench_takes_medians_and_pairs_samples_with_the_best_limit(void **state)
{
    (void)state;
    struct bench_series measured = {.samples = {9, 4, 18}, .count = 3};
    struct bench_limit limits[] = {
        {.name = "slow", .series = {.samples = {6, 5, 5}, .count = 3}},
        {.name = "fast", .series = {.samples = {10, 5, 20}, .count = 3}},
    };
    struct bench_row row = {.bar_kind = BENCH_BAR_RATIO_MIN, .bar = 0.9};
    bench_row_hold(&row, &measured, limits, 2);
    assert_true(row.value == 9.0 && row.limit == 10.0);
    assert_string_equal(row.limit_name, "fast");
    assert_true(row.ratio == 0.9); /* of 0.9, 0.8, 0.9 */
    assert_string_equal(bench_row_verdict(&row), "pass");
    row.bar = 0.95;
    assert_string_equal(bench_row_verdict(&row), "MISS");
    row.ratio = NAN; /* a limit that could not be had judges nothing */
    assert_string_equal(bench_row_verdict(&row), "");
}

static void bench_stamps_tell_values_apart(void **state)
{
    (void)state;
    char value[64] = {0};
    bench_stamp(value, sizeof value, 7);
    assert_true(bench_is_stamped(value, sizeof value, 7));
    assert_false(bench_is_stamped(value, sizeof value, 8));
    value[63] ^= 1;
    assert_false(bench_is_stamped(value, sizeof value, 7));
}

/* --------------------------------------------------------------------- how many samples -- */

/* A limit that does not move, and samples that differ from it by up to `spread`. */
static bool is_settled_after(size_t count, double spread, bool is_quick)
{
    struct bench bench = {.options = {.repeat = 5, .is_quick = is_quick}};
    struct bench_series measured = {.count = 0};
    struct bench_limit limit = {.name = "raw"};
    for (size_t i = 0; i < count; i++) {
        bench_series_add(&measured, 10.0 * (1.0 + spread * (double)(i % 5) / 4.0));
        bench_series_add(&limit.series, 10.0);
    }
    return bench_is_settled(&bench, &measured, &limit, 1);
}

static void a_noisy_row_is_measured_for_longer_but_not_for_ever(void **state)
{
    (void)state;
    assert_false(is_settled_after(4, 0.01, false)); /* as many as were asked for, at least */
    assert_true(is_settled_after(5, 0.01, false));
    assert_false(is_settled_after(5, 0.80, false));
    assert_false(is_settled_after(19, 0.80, false));
    assert_true(is_settled_after(20, 0.80, false));
    assert_true(is_settled_after(5, 0.80, true));
}

static void what_slows_both_alike_is_no_noise(void **state)
{
    struct bench bench = {.options = {.repeat = 5}};
    struct bench_series measured = {.count = 0};
    struct bench_limit limit = {.name = "raw"};
    (void)state;
    for (size_t i = 0; i < 5; i++) {
        double speed = 1.0 + (double)i;
        bench_series_add(&measured, 9.0 * speed);
        bench_series_add(&limit.series, 10.0 * speed);
    }
    assert_true(bench_is_settled(&bench, &measured, &limit, 1));
    assert_false(bench_is_settled(&bench, &measured, NULL, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_noisy_row_is_measured_for_longer_but_not_for_ever),
        cmocka_unit_test(what_slows_both_alike_is_no_noise),
        cmocka_unit_test(bench_local_quick_prints_every_row_and_leaves_nothing_behind),
        cmocka_unit_test(bench_only_names_the_nearest_bench_to_a_wrong_one),
        cmocka_unit_test(bench_only_runs_what_it_names),
        cmocka_unit_test(bench_takes_medians_and_pairs_samples_with_the_best_limit),
        cmocka_unit_test(bench_stamps_tell_values_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
