/* SPDX-License-Identifier: Apache-2.0 */
/* umbp replay from the outside: its output, its directories, its end by a signal. */
#include "support_program.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct test_output output;
static char *dir;

static int make_dir(void **state)
{
    (void)state;
    dir = test_dir_create();
    return 0;
}

static int drop_dir(void **state)
{
    (void)state;
    test_output_free(&output);
    test_dir_remove(dir);
    return 0;
}

#define SMALL "--block-bytes", "4KiB", "--limit", "300", "--dram.prefault", "no"

#define expect(code_, ...) expect_run((const char *const[]){"replay", __VA_ARGS__, NULL}, code_)

static void expect_run(const char *const *arguments, int code)
{
    test_output_free(&output);
    test_program_run(&output, arguments, NULL, 0, NULL);
    if (output.code != code) {
        fail_msg("exit code %d: %s%s", output.code, output.out, output.err);
    }
}

static double number(const char *name)
{
    return test_json_number(test_last_line(output.out), name);
}

static size_t count_files(const char *path)
{
    size_t count = 0;
    DIR *folder = opendir(path);
    if (folder == NULL) {
        return 0;
    }
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        count += entry->d_name[0] != '.';
    }
    closedir(folder);
    return count;
}

static void the_table_has_what_was_asked_for(void **state)
{
    (void)state;
    static const char *const rows[] = {
        "requests",
        "blocks asked",
        "prefix hits",
        "hit ratio",
        "hits in DRAM",
        "hits on SSD",
        "bytes out",
        "bytes in",
        "get, GB/s",
        "put, GB/s",
        "lookup p50",
        "lookup p99.9",
        "get p99",
        "put p99.9",
        "evictions.dram",
        "evictions.ssd",
        "copies.done",
        "copies.drops.queue_full",
        "corrupt                                      0",
    };
    expect(0, SMALL, "--dram", "2MiB", "--ssd", "16MiB", "--ssd-dir", dir);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (strstr(output.out, rows[i]) == NULL) {
            fail_msg("no \"%s\" in %s", rows[i], output.out);
        }
    }
}

static void the_json_object_adds_up(void **state)
{
    (void)state;
    /* the first run fills the SSD, so the second finds something there */
    for (int i = 0; i < 2; i++) {
        expect(0, SMALL, "--dram", i == 0 ? "64MiB" : "2MiB", "--ssd", "256MiB", "--ssd-dir", dir,
               "--json");
        assert_int_equal(test_last_line(output.out)[0], '{');
        assert_int_equal(number("requests"), 300);
        assert_true(number("blocks") > 3000);
        double hits = number("prefix_hits");
        assert_true(hits > 0 && hits <= number("blocks"));
        assert_true(number("hit_ratio") > hits / number("blocks") - 1e-6);
        assert_true(number("hit_ratio") < hits / number("blocks") + 1e-6);
        assert_int_equal(number("hits_dram") + number("hits_ssd"), hits + number("stray_hits"));
        assert_int_equal(number("bytes_get"), (hits + number("stray_hits")) * 4096);
        assert_int_equal(number("bytes_put"), number("bytes.in"));
        assert_int_equal(number("corrupt"), 0);
    }
    assert_true(number("hits_ssd") > 0);
}

static void without_an_ssd_the_same_seed_gives_the_same_hits(void **state)
{
    (void)state;
    expect(0, SMALL, "--dram", "4MiB", "--ssd", "0", "--json", "--high-watermark", "1",
           "--low-watermark", "1");
    double hits = number("prefix_hits");
    double blocks = number("blocks");
    assert_int_equal(number("hits_ssd"), 0);
    expect(0, SMALL, "--dram", "4MiB", "--ssd", "0", "--json", "--high-watermark", "1",
           "--low-watermark", "1", "--seed", "1");
    assert_int_equal(number("prefix_hits"), hits);
    expect(0, SMALL, "--dram", "4MiB", "--ssd", "0", "--json", "--seed", "2");
    assert_int_not_equal(number("blocks"), blocks);
}

static void policies_run_side_by_side(void **state)
{
    (void)state;
    char *below = test_path(dir, "prefix_aware_lru");
    expect(0, SMALL, "--dram", "2MiB", "--ssd", "8MiB", "--ssd-dir", dir, "--policy", "all");
    static const char *const names[] = {" lru", "prefix_aware_lru", "s3fifo"};
    for (size_t i = 0; i < 3; i++) {
        assert_non_null(strstr(output.out, names[i]));
    }
    assert_true(count_files(below) > 0);
    expect(0, SMALL, "--dram", "2MiB", "--ssd", "0", "--policy", "all", "--json");
    assert_int_equal(strncmp(test_last_line(output.out), "{\"policies\":[{", 14), 0);
    for (size_t i = 1; i < 3; i++) {
        assert_non_null(strstr(output.out, names[i]));
    }
    expect(0, SMALL, "--dram", "2MiB", "--ssd", "0", "--policy", "s3fifo", "--json");
    assert_non_null(strstr(output.out, "\"policy\":\"s3fifo\""));
    free(below);
}

static void a_temporary_directory_is_gone_afterwards_and_a_named_one_is_warm(void **state)
{
    (void)state;
    char *parent = test_path(dir, "tmp");
    char *pool = test_path(dir, "pool");
    assert_int_equal(mkdir(parent, 0700), 0);
    setenv("TMPDIR", parent, 1);
    expect(0, SMALL, "--dram", "2MiB", "--ssd", "64MiB", "--policy", "all");
    assert_int_equal(count_files(parent), 0);
    unsetenv("TMPDIR");

    expect(0, SMALL, "--dram", "2MiB", "--ssd", "256MiB", "--ssd-dir", pool, "--json");
    double cold = number("prefix_hits");
    expect(0, SMALL, "--dram", "2MiB", "--ssd", "256MiB", "--ssd-dir", pool, "--json");
    assert_true(number("prefix_hits") > cold);
    assert_int_equal(number("corrupt"), 0);
    /* another block size finds nothing of its own there, and no wrong size either */
    expect(0, "--block-bytes", "8KiB", "--limit", "300", "--dram", "2MiB", "--ssd", "256MiB",
           "--ssd-dir", pool, "--json");
    assert_int_equal(number("corrupt"), 0);
    assert_int_equal(number("size_mismatches"), 0);
    free(parent);
    free(pool);
}

static void a_trace_sets_the_pace(void **state)
{
    (void)state;
    char *path = test_path(dir, "trace.jsonl");
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 6; i++) {
        fprintf(file, "{\"timestamp\": %d, \"hash_ids\": [1, %d]}\n", i * 1000, i + 2);
    }
    fclose(file);
    expect(0, "--trace", path, "--ssd", "0", "--dram", "4MiB", "--block-bytes", "4KiB", "--json",
           "--speed", "10");
    assert_true(number("seconds") >= 0.5);
    assert_int_equal(number("prefix_hits"), 5);
    expect(0, "--trace", path, "--ssd", "0", "--dram", "4MiB", "--block-bytes", "4KiB", "--json",
           "--limit", "3");
    assert_int_equal(number("requests"), 3);
    assert_int_equal(number("prefix_hits"), 2);

    file = fopen(path, "a");
    fputs("{\"timestamp\": 1}\n", file);
    fclose(file);
    expect(2, "--trace", path, "--ssd-dir", dir);
    assert_non_null(strstr(output.err, "trace.jsonl:7: there is no \"hash_ids\""));
    free(path);
}

/* The store is there: <TMPDIR>/umbp-replay-XXXXXX/<policy> has files. */
static bool has_begun(void *context)
{
    bool found = false;
    DIR *folder = opendir(context);
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (entry->d_name[0] != '.') {
            char *inside = test_path(context, entry->d_name);
            char *pool = test_path(inside, "lru");
            found = count_files(pool) > 0;
            free(inside);
            free(pool);
        }
    }
    closedir(folder);
    return found;
}

static bool has_files(void *context) { return count_files(context) > 0; }

static void a_signal_ends_it_early_with_what_was_done(void **state)
{
    (void)state;
    static const char *const arguments[] = {"replay", "--speed", "real", "--block-bytes",
                                            "4KiB",   "--dram",  "4MiB", "--ssd",
                                            "8MiB",   "--json",  NULL};
    char *parent = test_path(dir, "tmp");
    assert_int_equal(mkdir(parent, 0700), 0);
    setenv("TMPDIR", parent, 1);
    test_program_signal(&output, arguments, has_begun, parent, SIGTERM);
    assert_int_equal(output.code, 130);
    assert_non_null(strstr(output.out, "\"stopped\":true"));
    assert_true(number("requests") < 6000);
    assert_int_equal(count_files(parent), 0);
    /* at whatever moment, nothing temporary stays */
    static const int signals[] = {SIGINT, SIGHUP};
    for (size_t i = 0; i < 2; i++) {
        test_output_free(&output);
        test_program_signal(&output, arguments, has_files, parent, signals[i]);
        assert_int_equal(output.code, 130);
        assert_int_equal(count_files(parent), 0);
    }
    unsetenv("TMPDIR");
    free(parent);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_dir, drop_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_table_has_what_was_asked_for),
        TEST(the_json_object_adds_up),
        TEST(without_an_ssd_the_same_seed_gives_the_same_hits),
        TEST(policies_run_side_by_side),
        TEST(a_temporary_directory_is_gone_afterwards_and_a_named_one_is_warm),
        TEST(a_trace_sets_the_pace),
        TEST(a_signal_ends_it_early_with_what_was_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
