/* SPDX-License-Identifier: Apache-2.0 */
/* The umbp program as its users see it: what it teaches, what it refuses, how it exits. */
#include "support_program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <umbp/umbp.h>

static struct test_output output;

static int drop_output(void **state)
{
    (void)state;
    test_output_free(&output);
    return 0;
}

static void run_again(void) { test_output_free(&output); }

static void assert_says(const char *text, const char *part)
{
    if (strstr(text, part) == NULL) {
        fail_msg("\"%s\" is not in \"%.2000s\"", part, text);
    }
}

/* It exits with 2, prints nothing on standard output, and says `part` in one line of the other. */
static void assert_usage_error(const char *part)
{
    if (output.code != 2) {
        fail_msg("exit code %d: %s%s", output.code, output.out, output.err);
    }
    assert_string_equal(output.out, "");
    assert_says(output.err, part);
    assert_ptr_equal(strchr(output.err, '\n'), output.err + output.err_bytes - 1);
}

static void without_arguments_it_teaches(void **state)
{
    (void)state;
    test_program(&output, NULL);
    assert_int_equal(output.code, 0);
    assert_string_equal(output.err, "");
    assert_says(output.out, "KV cache");
    assert_says(output.out, "umbp replay");
    assert_says(output.out, "Exit codes");
    char *first = strdup(output.out);
    static const char *const ways[] = {"help", "--help", "-h"};
    for (size_t i = 0; i < 3; i++) {
        run_again();
        test_program(&output, ways[i]);
        assert_int_equal(output.code, 0);
        assert_string_equal(output.out, first);
    }
    free(first);
}

/* The commands that the overview lists: the lines behind "Commands:". */
static size_t read_commands(const char *overview, char names[32][16])
{
    size_t count = 0;
    const char *at = strstr(overview, "Commands:\n");
    assert_non_null(at);
    at = strchr(at, '\n') + 1;
    while (at[0] == ' ' && count < 32) {
        assert_int_equal(sscanf(at, " %15s", names[count]), 1);
        count++;
        at = strchr(at, '\n') + 1;
    }
    return count;
}

/* Every flag that a help text lists ("  --name") is in the manual ("Fl -name"). */
static void assert_flags_are_in(const char *help, const char *manual)
{
    char name[48];
    char part[64];
    const char *at = strstr(help, "\nFlags:\n");
    assert_non_null(at);
    while ((at = strstr(at, "\n  --")) != NULL) {
        at += 5;
        assert_int_equal(sscanf(at, "%47[^ \n]", name), 1);
        snprintf(part, sizeof part, "Fl -%.47s", name);
        assert_says(manual, part);
    }
}

static void every_command_has_help_and_a_place_in_the_manual(void **state)
{
    (void)state;
    char names[32][16];
    char part[64];
    char *manual = test_source_read("man/umbp.1");
    test_program(&output, "help");
    size_t count = read_commands(output.out, names);
    assert_true(count >= 11);
    for (size_t i = 0; i < count; i++) {
        run_again();
        test_program(&output, names[i], "--help");
        assert_int_equal(output.code, 0);
        snprintf(part, sizeof part, "usage: umbp %.15s", names[i]);
        assert_says(output.out, part);
        char *help = strdup(output.out);
        run_again();
        test_program(&output, "help", names[i]);
        assert_string_equal(output.out, help);
        if (manual != NULL) {
            snprintf(part, sizeof part, "Cm %.15s", names[i]);
            assert_says(manual, part);
            assert_flags_are_in(help, manual);
        }
        free(help);
    }
    free(manual);
    if (manual == NULL) {
        printf("man/umbp.1 is not there; not compared\n");
    }
}

static void a_wrong_command_or_flag_names_the_nearest(void **state)
{
    (void)state;
    test_program(&output, "repaly");
    assert_usage_error("the nearest is replay");
    run_again();
    test_program(&output, "help", "repaly");
    assert_usage_error("repaly");
    run_again();
    test_program(&output, "replay", "--dran", "1GiB");
    assert_usage_error("--dran; the nearest is --dram");
    run_again();
    test_program(&output, "replay", "--block-byte=4KiB");
    assert_usage_error("the nearest is --block-bytes");
    run_again();
    test_program(&output, "version", "--dram", "1GiB");
    assert_usage_error("there is no flag --dram");
    run_again();
    test_program(&output, "replay", "-limit", "3");
    assert_usage_error("two dashes");
}

#ifdef UMBP_HAVE_FABRIC
static void a_node_that_can_not_be_one_says_why(void **state)
{
    (void)state;
    char long_id[301];
    memset(long_id, 'a', sizeof long_id - 1);
    long_id[sizeof long_id - 1] = '\0';
    const char *const cases[][3] = {
        {"--scheme", "local", "leave out --scheme"},
        {"--pool.serve", "false", "leave out --scheme and --pool.serve"},
        {"--pool.address", "127.0.0.1:5", "the port is pool.port"},
        {"--pool.address", "no.such.host.invalid", "the host is not known here"},
        {"--pool.node_id", long_id, "an id has 1 to 255 bytes"},
        {"--pool.node_id", "a\nb", "an id has 1 to 255 bytes and no control characters"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        test_output_free(&output);
        test_program(&output, "node", "--masters", "127.0.0.1:1", "--dram", "8MiB", cases[i][0],
                     cases[i][1]);
        if (output.code != 2 || strstr(output.err, cases[i][2]) == NULL) {
            fail_msg("%s %s: exit code %d: %s", cases[i][0], cases[i][1], output.code, output.err);
        }
    }
}
#endif

static void wrong_values_name_the_flag_and_what_would_be_right(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"--dram", "4Q", "--dram: dram.bytes: \"4Q\" is not a size"},
        {"--dram", "1", "out of range (4KiB..64TiB)"},
        {"--policy", "lur", "the nearest is \"lru\""},
        {"--speed", "fast", "neither max nor real nor a multiple"},
        {"--speed", "0", "neither max nor real nor a multiple"},
        {"--limit", "0", "--limit: 0 is out of range (at least 1)"},
        {"--limit", "-3", "is not a whole number"},
        {"--block-bytes", "1GiB", "--block-bytes: 1GiB is out of range"},
        {"--high-watermark", "1.5", "out of range (0.01..1)"},
        {"--low-watermark", "1", "dram.low_watermark (1) is above dram.high_watermark (0.95)"},
        {"--role", "follower", "role is follower"},
        {"--trace", "/nothing/here", "/nothing/here: No such file"},
        {"--config", "/nothing/here", "/nothing/here: No such file"},
        {"--seed=", NULL, "is not a whole number"},
        {"--seed", NULL, "--seed needs a value"},
        {"--json=yes", NULL, "--json takes no value"},
        {"operand", NULL, "\"operand\" is one argument too many"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *arguments[] = {"replay", "--ssd", "0", cases[i][0], cases[i][1], NULL};
        if (strcmp(cases[i][0], "--role") == 0) {
            arguments[2] = "0";
        }
        test_program_run(&output, arguments, NULL, 0, NULL);
        assert_usage_error(cases[i][2]);
        run_again();
    }
    test_program(&output, "replay", "--dram", "1GiB", "--dram.bytes=2GiB");
    assert_usage_error("given twice");
    run_again();
    test_program(&output, "put", "--ssd-dir", "/tmp/x");
    assert_usage_error("usage: umbp put (--ssd-dir DIR | --masters HOST:PORT) KEY [FILE]");
    run_again();
    test_program(&output, "get", "key");
    assert_usage_error("--ssd-dir DIR");
}

static void nothing_is_created_on_an_error(void **state)
{
    (void)state;
    char *dir = test_dir_create();
    char *inside = test_path(dir, "pool");
    test_program_run(
        &output,
        (const char *const[]){"put", "--ssd-dir", inside, "--ssd.driver", "nvme", "key", NULL}, "x",
        1, NULL);
    assert_usage_error("ssd.driver: \"nvme\"");
    assert_int_not_equal(access(inside, F_OK), 0);
    run_again();
    test_program_run(&output,
                     (const char *const[]){"put", "--ssd-dir", inside, "--ssd", "2MiB",
                                           "--ssd.segment_bytes", "4MiB", "key", NULL},
                     "x", 1, NULL);
    assert_usage_error("ssd.segment_bytes (4MiB)");
    assert_int_not_equal(access(inside, F_OK), 0);
    run_again();
    test_program(&output, "get", "--ssd-dir", inside, "key");
    assert_int_equal(output.code, 3);
    assert_says(output.err, inside);
    assert_int_not_equal(access(inside, F_OK), 0);
    free(inside);
    test_dir_remove(dir);
}

static void flag_beats_environment_beats_file_beats_default(void **state)
{
    (void)state;
    static const char *const environment[] = {"UMBP_DRAM_CAPACITY=8MiB", NULL};
    char *dir = test_dir_create();
    char *path = test_path(dir, "umbp.conf");
    FILE *file = fopen(path, "w");
    fputs("[dram]\nbytes = 16MiB\nprefault = no\n[ssd]\nbytes = 0\n", file);
    fclose(file);

    const char *const plain[] = {"replay", "--limit", "5", "--json", "--config", path, NULL};
    test_program_run(&output, plain, NULL, 0, NULL);
    assert_int_equal(output.code, 0);
    assert_int_equal(test_json_number(output.out, "dram.bytes_total"), 16 << 20);
    run_again();
    test_program_run(&output, plain, NULL, 0, environment);
    assert_int_equal(test_json_number(output.out, "dram.bytes_total"), 8 << 20);
    run_again();
    const char *const flagged[] = {"replay", "--limit", "5",       "--json", "--config",
                                   path,     "--dram",  "4194304", NULL};
    test_program_run(&output, flagged, NULL, 0, environment);
    assert_int_equal(test_json_number(output.out, "dram.bytes_total"), 4 << 20);
    run_again();

    file = fopen(path, "w");
    fputs("[dram]\nbyts = 16MiB\n", file);
    fclose(file);
    test_program_run(&output, plain, NULL, 0, NULL);
    assert_usage_error(
        "umbp.conf:2: there is no option \"dram.byts\"; the nearest is \"dram.bytes\"");
    free(path);
    test_dir_remove(dir);
}

static void a_bad_variable_is_one_warning_and_no_error(void **state)
{
    (void)state;
    static const char *const environment[] = {"UMBP_DRAM_CAPACITY=lots", NULL};
    const char *const arguments[] = {"replay", "--limit", "5", "--ssd", "0", "--json", NULL};
    test_program_run(&output, arguments, NULL, 0, environment);
    assert_int_equal(output.code, 0);
    const char *first = strstr(output.err, "UMBP_DRAM_CAPACITY");
    assert_non_null(first);
    assert_null(strstr(first + 1, "UMBP_DRAM_CAPACITY"));
    assert_non_null(strstr(output.err, "warn bad_environment"));
}

static void a_launchers_rank_does_not_make_the_program_a_follower(void **state)
{
    (void)state;
    char *dir = test_dir_create();
    setenv("LOCAL_RANK", "1", 1);
    test_program_run(&output, (const char *const[]){"put", "--ssd-dir", dir, "key", NULL}, "x", 1,
                     NULL);
    assert_int_equal(output.code, 0);
    run_again();
    test_program(&output, "replay", "--limit", "3", "--ssd-dir", dir, "--dram", "64MiB");
    assert_int_equal(output.code, 0);
    unsetenv("LOCAL_RANK");
    test_dir_remove(dir);
}

static void the_page_of_options_is_current(void **state)
{
    (void)state;
    char *page = test_source_read("docs/options.md");
    test_program(&output, "options", "--markdown");
    assert_int_equal(output.code, 0);
    if (page == NULL) {
        printf("SKIP: docs/options.md is not there\n");
        skip();
    }
    if (strcmp(page, output.out) != 0) {
        fail_msg("docs/options.md is not what `umbp options --markdown` prints");
    }
    free(page);
}

static void options_and_version_tell_the_same_to_people_and_programs(void **state)
{
    (void)state;
    struct umbp_option_info info = {.struct_bytes = sizeof info};
    char quoted[96];
    test_program(&output, "options", "--json");
    assert_int_equal(output.code, 0);
    for (size_t i = 0; umbp_option_describe(i, &info) == UMBP_OK; i++) {
        snprintf(quoted, sizeof quoted, "\"name\":\"%s\"", info.name);
        assert_says(output.out, quoted);
    }
    run_again();
    test_program(&output, "options");
    for (size_t i = 0; umbp_option_describe(i, &info) == UMBP_OK; i++) {
        assert_says(output.out, info.help);
        assert_says(output.out, info.environment);
    }
    run_again();
    test_program(&output, "version");
    assert_says(output.out, umbp_version());
    run_again();
    test_program(&output, "--version");
    assert_says(output.out, umbp_version());
    run_again();
    test_program(&output, "version", "--json");
    assert_says(output.out, umbp_version());
    assert_int_equal(output.out[0], '{');
}

/* Through a shell, since what matters is where the output goes. */
static int shell(const char *after, char *err, size_t err_bytes)
{
    char command[9000];
    char *dir = test_dir_create();
    char *errors = test_path(dir, "errors");
    char *program = test_program_path();
    snprintf(command, sizeof command, "exec 2>'%s'; '%s' options %s", errors, program, after);
    int code = system(command);
    FILE *file = fopen(errors, "r");
    assert_non_null(file);
    err[fread(err, 1, err_bytes - 1, file)] = '\0';
    fclose(file);
    free(program);
    free(errors);
    test_dir_remove(dir);
    return WEXITSTATUS(code);
}

static void output_that_can_not_be_written_is_a_failure(void **state)
{
    (void)state;
    char err[1024];
    assert_int_equal(shell(">/dev/full", err, sizeof err), 3);
    assert_says(err, "could not write to standard output");
    assert_int_equal(shell("--json >/dev/full", err, sizeof err), 3);
    assert_says(err, "could not write to standard output");
    /* a reader that has seen enough is told nothing */
    assert_int_equal(shell("| :", err, sizeof err), 0);
    assert_string_equal(err, "");
}

#define TEST(name) cmocka_unit_test_teardown(name, drop_output)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(without_arguments_it_teaches),
        TEST(every_command_has_help_and_a_place_in_the_manual),
        TEST(a_wrong_command_or_flag_names_the_nearest),
#ifdef UMBP_HAVE_FABRIC
        TEST(a_node_that_can_not_be_one_says_why),
#endif
        TEST(wrong_values_name_the_flag_and_what_would_be_right),
        TEST(nothing_is_created_on_an_error),
        TEST(flag_beats_environment_beats_file_beats_default),
        TEST(a_bad_variable_is_one_warning_and_no_error),
        TEST(a_launchers_rank_does_not_make_the_program_a_follower),
        TEST(the_page_of_options_is_current),
        TEST(output_that_can_not_be_written_is_a_failure),
        TEST(options_and_version_tell_the_same_to_people_and_programs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
