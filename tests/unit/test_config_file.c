/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration file and the environment. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/config_priv.h"

static struct umbp_config *config;
static unsigned warnings;
static char last_warning[1024];

static void count_warnings(void *context, enum umbp_log_level level, const char *line)
{
    (void)context;
    if (level == UMBP_LOG_WARN) {
        warnings++;
        snprintf(last_warning, sizeof last_warning, "%s", line);
    }
}

static int make_config(void **state)
{
    (void)state;
    warnings = 0;
    umbp_log_set(UMBP_LOG_WARN, count_warnings, NULL);
    return umbp_config_create(&config) == UMBP_OK ? 0 : -1;
}

static int drop_config(void **state)
{
    (void)state;
    umbp_config_destroy(config);
    umbp_log_set(UMBP_LOG_WARN, NULL, NULL);
    return 0;
}

static void assert_value(const char *name, const char *expected)
{
    char text[64];
    assert_ok(umbp_config_get(config, name, text, sizeof text));
    assert_string_equal(text, expected);
}

static enum umbp_status load(const char *text)
{
    return config_load_text(config, "test.conf", text, strlen(text));
}

static void assert_loads(const char *text)
{
    if (load(text) != UMBP_OK) {
        fail_msg("%s", umbp_config_error(config));
    }
}

/* It fails with an error that has all of `parts` ("a|b"), and changes nothing. */
static void assert_fails(const char *text, enum umbp_status status, const char *parts)
{
    char part[128];
    assert_ok(umbp_config_set(config, "copy.workers", "3"));
    assert_status(load(text), status);
    for (size_t i = 0; config_choice(parts, i, part, sizeof part); i++) {
        if (strstr(umbp_config_error(config), part) == NULL) {
            fail_msg("\"%s\" lacks \"%s\"", umbp_config_error(config), part);
        }
    }
    assert_value("copy.workers", "3");
    assert_value("dram.bytes", "4GiB");
}

/* ------------------------------------------------------------------------- file --------- */

static void file_sets_options_by_section(void **state)
{
    (void)state;
    assert_loads("# first\n"
                 "role = leader\n"
                 "ssd.dir = \"/some where\"\n"
                 "[dram]\n"
                 "  bytes = 8GiB ; inline\n"
                 "\tpage_bytes: 128KiB\r\n"
                 "\n"
                 "[eviction] ; of memory\n"
                 "policy=s3fifo\n"
                 "[dram]\n"
                 "checksum = yes");
    assert_value("role", "leader");
    assert_value("ssd.dir", "/some where");
    assert_value("dram.bytes", "8GiB");
    assert_value("dram.page_bytes", "128KiB");
    assert_value("eviction.policy", "s3fifo");
    assert_value("dram.checksum", "true");
    assert_string_equal(umbp_config_error(config), "");
}

static void file_may_be_empty_or_begin_with_a_mark(void **state)
{
    (void)state;
    assert_loads("");
    assert_loads("\n\n");
    assert_loads("\xEF\xBB\xBF[copy]\nworkers = 5\n");
    assert_value("copy.workers", "5");
}

static void file_errors_name_file_line_and_the_nearest(void **state)
{
    (void)state;
    assert_fails("[dram]\nbytes = 1GiB\npagebytes = 4KiB\n", UMBP_UNKNOWN_OPTION,
                 "test.conf:3:|dram.pagebytes|dram.page_bytes");
    assert_fails("\n\n[drm]\nbytes = 1GiB\n", UMBP_UNKNOWN_OPTION, "test.conf:3:|[drm]|[dram]");
    assert_fails("[nothing]\n", UMBP_UNKNOWN_OPTION, "test.conf:1:|[nothing]");
    assert_fails("[dram]\nbytes = 1GiB\nbuffers = 65\n", UMBP_INVALID_VALUE,
                 "test.conf:3:|dram.buffers|65|1..64");
    assert_fails("[dram]\nbytes = 1GiB\nbytes = 2GiB\n", UMBP_INVALID_VALUE,
                 "test.conf:3:|dram.bytes|line 2");
    assert_fails("dram.bytes = 1GiB\n[dram]\nbytes = 2GiB\n", UMBP_INVALID_VALUE,
                 "test.conf:3:|line 1");
    assert_fails("[dram]\nbytes\n", UMBP_INVALID_VALUE, "test.conf:2:|name = value");
    assert_fails("[dram\nbytes = 1GiB\n", UMBP_INVALID_VALUE, "test.conf:1:|]");
    assert_fails("[dram] x\nbytes = 1GiB\n", UMBP_INVALID_VALUE, "test.conf:1:|\"x\"");
    assert_fails("[dram]\nbytes =\n", UMBP_INVALID_VALUE, "test.conf:2:|no value");
    assert_fails("[dram]\n= 5\n", UMBP_UNKNOWN_OPTION, "test.conf:2:");
}

static void file_reports_the_first_error_of_several(void **state)
{
    (void)state;
    assert_fails("[dram]\nwhat\nbuffers = 65\n", UMBP_INVALID_VALUE, "test.conf:2:|name = value");
    assert_fails("[dram]\nbuffers = 65\nwhat\n", UMBP_INVALID_VALUE, "test.conf:2:|1..64");
}

static void file_continues_no_line_by_indenting(void **state)
{
    (void)state;
    assert_fails("[ssd]\ndir = /x\n    more\n", UMBP_INVALID_VALUE, "test.conf:3:|name = value");
}

static void file_with_a_nul_or_an_endless_line_is_refused(void **state)
{
    (void)state;
    static const char nul[] = "[dram]\nbytes = 1GiB\0\n";
    char line[4200] = "[ssd]\ndir = /";
    char name[400] = "[ssd]\n";
    assert_status(config_load_text(config, "n", nul, sizeof nul - 1), UMBP_INVALID_VALUE);
    assert_non_null(strstr(umbp_config_error(config), "n:2: a NUL byte"));
    memset(line + strlen(line), 'x', sizeof line - strlen(line) - 1);
    assert_fails(line, UMBP_INVALID_VALUE, "test.conf:2:|the value is longer than 4095");
    memset(name + strlen(name), 'x', sizeof name - strlen(name) - 1);
    assert_fails(name, UMBP_INVALID_VALUE, "test.conf:2:|the line is longer than");
    memcpy(name + sizeof name - 3, "=1", 3);
    assert_fails(name, UMBP_INVALID_VALUE, "test.conf:2:|the line is longer than");
    name[6] = '[';
    assert_fails(name, UMBP_INVALID_VALUE, "test.conf:2:|longer than");
}

static void file_takes_the_longest_path(void **state)
{
    (void)state;
    static const char *const around[][2] = {
        {"", ""}, {" \t", " \r"}, {"", " ; where it lies"}, {" \"", "\" ;\"\""}};
    char path[4096] = "/a;b #";
    char text[4400];
    char got[4096];
    for (size_t bytes = 180; bytes < sizeof path; bytes += bytes < 270 ? 1 : 765) {
        memset(path + 6, 'x', bytes - 6);
        path[bytes] = '\0';
        for (size_t i = 0; i < sizeof around / sizeof around[0]; i++) {
            (void)snprintf(text, sizeof text, "[ssd]\n  dir =%s%s%s\nsegment_bytes = 8MiB",
                           around[i][0], path, around[i][1]);
            assert_loads(text);
            assert_ok(umbp_config_get(config, "ssd.dir", got, sizeof got));
            assert_string_equal(got, path);
            assert_value("ssd.segment_bytes", "8MiB");
        }
    }
    memset(text, '#', 1000);
    (void)snprintf(text + 1000, sizeof text - 1000, "\n[ssd]\nbytes = %*s", 400, "1GiB");
    assert_loads(text);
    assert_value("ssd.bytes", "1GiB");
}

static void load_file_says_what_is_wrong_with_the_path(void **state)
{
    (void)state;
    char *dir = test_dir_create();
    char *path = test_path(dir, "umbp.conf");
    assert_status(umbp_config_load_file(config, path), UMBP_NOT_FOUND);
    assert_non_null(strstr(umbp_config_error(config), path));
    assert_status(umbp_config_load_file(config, dir), UMBP_INVALID_VALUE);
    assert_non_null(strstr(umbp_config_error(config), "not a file"));
    assert_status(umbp_config_load_file(config, ""), UMBP_INVALID_VALUE);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_status(umbp_config_load_file(config, path), UMBP_INVALID_VALUE);
    unlink(path);

    FILE *file = fopen(path, "w");
    fputs("[ssd]\nbytes = 1GiB\n", file);
    fclose(file);
    assert_ok(umbp_config_load_file(config, path));
    assert_value("ssd.bytes", "1GiB");
    assert_int_equal(truncate(path, (2 << 20)), 0);
    assert_status(umbp_config_load_file(config, path), UMBP_LIMIT);
    free(path);
    test_dir_remove(dir);
}

/* ------------------------------------------------------------------ environment --------- */

static void clear_environment(void)
{
    for (size_t i = 0; i < CONFIG_OPTION_COUNT; i++) {
        const char *name;
        for (size_t n = 0; (name = config_option_environment(i, n)) != NULL; n++) {
            unsetenv(name);
        }
    }
    unsetenv("LOCAL_RANK");
    unsetenv("OMPI_COMM_WORLD_LOCAL_RANK");
    unsetenv("SLURM_LOCALID");
    unsetenv("MPI_LOCALRANKID");
}

static void environment_sets_by_published_and_by_regular_names(void **state)
{
    (void)state;
    clear_environment();
    setenv("UMBP_DRAM_CAPACITY", "8589934592", 1);
    setenv("UMBP_DRAM_BYTES", "1GiB", 1); /* the published name comes first */
    setenv("UMBP_SSD_BYTES", "2GiB", 1);
    setenv("UMBP_DRAM_HIGH_WM", "0.9", 1);
    setenv("UMBP_DRAM_LOW_WM", "0.7", 1);
    setenv("UMBP_DRAM_USE_HUGEPAGES", "1", 1);
    setenv("UMBP_DRAM_READ_THREADS", "6", 1);
    setenv("UMBP_SSD_BACKEND", "file", 1);
    setenv("UMBP_SSD_DIR", "/tmp/x", 1);
    setenv("UMBP_EVICTION_POLICY", "prefix_aware_lru", 1);
    setenv("UMBP_DRAM_NUMA_NODE", "-1", 1);
    setenv("UMBP_COPY_WORKERS", "", 1); /* as if not set */
    umbp_config_load_env(config);
    assert_value("dram.bytes", "8GiB");
    assert_value("ssd.bytes", "2GiB");
    assert_value("dram.high_watermark", "0.9");
    assert_value("dram.low_watermark", "0.7");
    assert_value("dram.backing", "huge_pages");
    assert_value("copy.threads", "6");
    assert_value("ssd.driver", "auto");
    assert_value("ssd.dir", "/tmp/x");
    assert_value("eviction.policy", "prefix_aware_lru");
    assert_value("dram.numa_node", "any");
    assert_value("copy.workers", "2");
    assert_int_equal(warnings, 0);
    setenv("UMBP_DRAM_USE_HUGEPAGES", "0", 1);
    umbp_config_load_env(config);
    assert_value("dram.backing", "anonymous");
    clear_environment();
}

static void every_option_can_be_set_by_its_regular_name(void **state)
{
    (void)state;
    clear_environment();
    for (size_t i = 0; i < CONFIG_OPTION_COUNT; i++) {
        char name[80] = "UMBP_";
        char upper[64];
        size_t n = 0;
        for (const char *c = config_options[i].name; *c != '\0'; c++) {
            upper[n++] = (char)(*c == '.' ? '_' : *c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c);
        }
        upper[n] = '\0';
        snprintf(name, sizeof name, "UMBP_%s", upper);
        bool is_known = false;
        const char *known;
        for (size_t e = 0; (known = config_option_environment(i, e)) != NULL; e++) {
            is_known = is_known || strcmp(known, name) == 0;
        }
        if (!is_known) {
            fail_msg("%s does not know %s", config_options[i].name, name);
        }
    }
}

static void a_bad_variable_keeps_the_value_with_one_warning_per_process(void **state)
{
    (void)state;
    clear_environment();
    setenv("UMBP_DRAM_CAPACITY", "a lot", 1);
    setenv("UMBP_SSD_QUEUE_DEPTH", "5000", 1);
    setenv("UMBP_COPY_WORKERS", "3", 1);
    umbp_config_load_env(config);
    assert_value("dram.bytes", "4GiB");
    assert_value("copy.workers", "3");
    assert_int_equal(warnings, 2);
    assert_non_null(strstr(last_warning, "name=UMBP_SSD_QUEUE_DEPTH"));
    assert_non_null(strstr(last_warning, "ssd.queue_depth"));
    umbp_config_load_env(config);
    struct umbp_config *other;
    assert_ok(umbp_config_create(&other));
    setenv("UMBP_DRAM_CAPACITY", "a lot more", 1);
    umbp_config_load_env(other);
    umbp_config_destroy(other);
    assert_int_equal(warnings, 2);
    /* where a later name is good, it counts */
    setenv("UMBP_DRAM_BYTES", "1GiB", 1);
    umbp_config_load_env(config);
    assert_value("dram.bytes", "1GiB");
    assert_int_equal(warnings, 2);
    clear_environment();
}

static void the_role_follows_the_rank_where_an_ssd_is_shared(void **state)
{
    (void)state;
    clear_environment();
    setenv("LOCAL_RANK", "1", 1);
    umbp_config_load_env(config);
    assert_value("role", "standalone"); /* nothing to follow */
    assert_ok(umbp_config_validate(config));
    assert_ok(umbp_config_set(config, "ssd.dir", "/x"));
    assert_value("role", "follower");
    setenv("LOCAL_RANK", "0", 1);
    umbp_config_load_env(config);
    assert_value("role", "leader");
    unsetenv("LOCAL_RANK");
    setenv("MPI_LOCALRANKID", "3", 1);
    umbp_config_load_env(config);
    assert_value("role", "follower");
    setenv("SLURM_LOCALID", "0", 1); /* asked before it */
    umbp_config_load_env(config);
    assert_value("role", "leader");
    clear_environment();
}

static void a_role_that_somebody_chose_is_not_guessed(void **state)
{
    (void)state;
    clear_environment();
    setenv("LOCAL_RANK", "1", 1);
    assert_ok(umbp_config_set(config, "ssd.dir", "/x"));
    setenv("UMBP_ROLE", "leader", 1);
    umbp_config_load_env(config);
    assert_value("role", "leader");
    unsetenv("UMBP_ROLE");
    umbp_config_load_env(config); /* chosen by now */
    assert_value("role", "leader");
    assert_ok(umbp_config_set(config, "role", "standalone"));
    umbp_config_load_env(config);
    assert_value("role", "standalone");
    clear_environment();
}

static void a_role_that_is_none_is_warned_about_and_stays_standalone(void **state)
{
    (void)state;
    clear_environment();
    setenv("LOCAL_RANK", "1", 1);
    setenv("UMBP_ROLE", "boss", 1);
    assert_ok(umbp_config_set(config, "ssd.dir", "/x"));
    umbp_config_load_env(config);
    assert_value("role", "standalone");
    assert_int_equal(warnings, 1);
    unsetenv("UMBP_ROLE");
    setenv("LOCAL_RANK", "first", 1);
    umbp_config_load_env(config);
    umbp_config_load_env(config);
    assert_value("role", "standalone");
    assert_int_equal(warnings, 2);
    clear_environment();
}

static void log_level_tells_whether_it_was_given(void **state)
{
    (void)state;
    clear_environment();
    assert_false(config_log_level_is_set(config));
    assert_int_equal(config_log_level(config), UMBP_LOG_WARN);
    setenv("MORI_UMBP_LOG_LEVEL", "TRACE", 1);
    umbp_config_load_env(config);
    assert_true(config_log_level_is_set(config));
    assert_int_equal(config_log_level(config), UMBP_LOG_DEBUG);
    clear_environment();
}

static void keep_line(void *context, enum umbp_log_level level, const char *line)
{
    (void)context;
    assert_int_equal(level, UMBP_LOG_INFO);
    snprintf(last_warning, sizeof last_warning, "%s", line);
}

static void the_times_in_force_are_logged(void **state)
{
    (void)state;
    umbp_log_set(UMBP_LOG_INFO, keep_line, NULL);
    assert_ok(umbp_config_set(config, "op_timeout_ms", "7s"));
    config_log_timing(config);
    assert_non_null(strstr(last_warning, "timing op_timeout_ms=7000 close_timeout_ms=3000"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_config, drop_config)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(file_sets_options_by_section),
        TEST(file_may_be_empty_or_begin_with_a_mark),
        TEST(file_errors_name_file_line_and_the_nearest),
        TEST(file_reports_the_first_error_of_several),
        TEST(file_continues_no_line_by_indenting),
        TEST(file_with_a_nul_or_an_endless_line_is_refused),
        TEST(file_takes_the_longest_path),
        TEST(load_file_says_what_is_wrong_with_the_path),
        TEST(environment_sets_by_published_and_by_regular_names),
        TEST(every_option_can_be_set_by_its_regular_name),
        TEST(a_bad_variable_keeps_the_value_with_one_warning_per_process),
        TEST(the_role_follows_the_rank_where_an_ssd_is_shared),
        TEST(a_role_that_somebody_chose_is_not_guessed),
        TEST(a_role_that_is_none_is_warned_about_and_stays_standalone),
        TEST(log_level_tells_whether_it_was_given),
        TEST(the_times_in_force_are_logged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
