/* SPDX-License-Identifier: Apache-2.0 */
/* umbp demo cluster, umbp replay --masters and umbp bench pool, from the outside and small. */
#include "support_program.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static struct test_output output;

static int drop(void **state)
{
    (void)state;
    test_output_free(&output);
    return 0;
}

/* A build without the pool has no umbp_master beside umbp. */
static bool has_master(void)
{
    char *umbp = test_program_path();
    char path[4096];
    snprintf(path, sizeof path, "%.*s/umbp_master", (int)(strrchr(umbp, '/') - umbp), umbp);
    free(umbp);
    return access(path, X_OK) == 0;
}

static void need_master(void)
{
    if (!has_master()) {
        skip();
    }
}

#define SMALL "--requests", "60", "--block-bytes", "4KiB", "--dram", "32MiB"

static double number(const char *name)
{
    return test_json_number(test_last_line(output.out), name);
}

static void the_demo_loses_a_node_and_ends_without_errors(void **state)
{
    (void)state;
    need_master();
    test_program(&output, "demo", "cluster", SMALL, "--json");
    if (output.code != 0) {
        fail_msg("exit code %d: %s%s", output.code, output.out, output.err);
    }
    assert_true(number("errors") == 0);
    assert_true(number("corrupt") == 0);
    const char *all = strstr(test_last_line(output.out), "\"all\"");
    assert_non_null(all);
    assert_true(test_json_number(all, "requests") == 60);
    assert_true(test_json_number(all, "hit_rate") > 0);
    assert_non_null(strstr(output.err, "killed node-2"));
    assert_non_null(strstr(output.err, "node-2 is back"));
}

static void the_demo_prints_a_table(void **state)
{
    (void)state;
    need_master();
    test_program(&output, "demo", "cluster", SMALL);
    assert_int_equal(output.code, 0);
    assert_non_null(strstr(output.out, "hit rate"));
    assert_non_null(strstr(output.out, "errors"));
}

/* Processes whose command line has this text. */
static size_t count_processes(const char *text)
{
    size_t count = 0;
    DIR *folder = opendir("/proc");
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char path[300];
        char line[4096];
        snprintf(path, sizeof path, "/proc/%s/cmdline", entry->d_name);
        FILE *file = entry->d_name[0] >= '1' && entry->d_name[0] <= '9' ? fopen(path, "re") : NULL;
        if (file == NULL) {
            continue;
        }
        size_t bytes = fread(line, 1, sizeof line - 1, file);
        fclose(file);
        for (size_t i = 0; i < bytes; i++) {
            line[i] = line[i] == '\0' ? ' ' : line[i];
        }
        line[bytes] = '\0';
        count += strstr(line, text) != NULL;
    }
    closedir(folder);
    return count;
}

/* No other test's demo has this seed. */
static char mark[64];

static bool clients_run(void *context)
{
    (void)context;
    return count_processes(mark) >= 1 && count_processes("--share 3/4") >= 1;
}

static bool none_is_left(void *context)
{
    (void)context;
    return count_processes(mark) == 0;
}

static void a_signal_ends_the_demo_and_all_its_processes(void **state)
{
    char seed[32];
    (void)state;
    need_master();
    snprintf(seed, sizeof seed, "%d", (int)getpid() + 1000000);
    snprintf(mark, sizeof mark, "--seed %s ", seed);
    const char *const arguments[] = {"demo", "cluster", "--requests", "1000000", "--seed",
                                     seed,   "--dram",  "32MiB",      NULL};
    test_program_signal(&output, arguments, clients_run, NULL, SIGTERM);
    assert_int_equal(output.code, 130);
    test_wait_until(none_is_left, NULL, TEST_WAIT_MS);
}

static void the_demo_says_what_is_wrong(void **state)
{
    (void)state;
    test_program(&output, "demo");
    assert_int_equal(output.code, 2);
    assert_non_null(strstr(output.err, "umbp demo cluster"));
    test_output_free(&output);
    test_program(&output, "demo", "cluster", "--trace", "/nonexistent/trace");
    assert_int_equal(output.code, 2);
    assert_non_null(strstr(output.err, "/nonexistent/trace"));
    test_output_free(&output);
}

/* umbp_master on any port; its address. */
static pid_t start_master(char *address_out, size_t bytes)
{
    char *umbp = test_program_path();
    char path[4096];
    char line[512];
    int pair[2];
    snprintf(path, sizeof path, "%.*s/umbp_master", (int)(strrchr(umbp, '/') - umbp), umbp);
    free(umbp);
    assert_int_equal(pipe(pair), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)dup2(pair[1], 1);
        execl(path, path, "--listen", "127.0.0.1:0", "--metrics-port", "0", "--log-level", "warn",
              (char *)NULL);
        _exit(127);
    }
    close(pair[1]);
    FILE *out = fdopen(pair[0], "r");
    assert_non_null(out);
    assert_non_null(fgets(line, sizeof line, out));
    fclose(out);
    const char *at = strstr(line, "grpc=");
    assert_non_null(at);
    snprintf(address_out, bytes, "%.*s", (int)strcspn(at + 5, " \n"), at + 5);
    return pid;
}

static void replay_serves_a_pool_and_reads_back_what_it_wrote(void **state)
{
    char address[128];
    (void)state;
    need_master();
    pid_t master = start_master(address, sizeof address);
    test_program(&output, "replay", "--masters", address, "--pool.serve", "true", "--limit", "60",
                 "--block-bytes", "4KiB", "--dram", "32MiB", "--ssd", "0", "--so-far", "1",
                 "--json");
    (void)kill(master, SIGKILL);
    (void)waitpid(master, NULL, 0);
    if (output.code != 0) {
        fail_msg("exit code %d: %s%s", output.code, output.out, output.err);
    }
    assert_true(number("requests") == 60);
    assert_true(number("prefix_hits") > 0);
    assert_true(number("corrupt") == 0);
    assert_true(number("puts_failed") == 0);
    assert_non_null(strstr(output.out, "\"so_far\""));
}

static void replay_of_a_pool_without_a_master_stores_nothing_and_says_so(void **state)
{
    (void)state;
    need_master();
    test_program(&output, "replay", "--masters", "127.0.0.1:1", "--limit", "10", "--json");
    assert_int_equal(output.code, 0);
    assert_true(number("puts_failed") > 0);
    assert_true(number("prefix_hits") == 0);
}

/* What nobody could be asked for is no plain miss, and a cluster is not an empty directory. */
static void a_miss_that_no_master_stands_behind_is_a_failure(void **state)
{
    static const char *const verbs[] = {"get", "exists", "rm", "stat"};
    (void)state;
    need_master();
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        test_program(&output, verbs[i], "--masters", "127.0.0.1:1", "--op_timeout_ms", "1000",
                     "key");
        if (output.code != 3 || !output.err[0]) {
            fail_msg("umbp %s: exit code %d: %s", verbs[i], output.code, output.err);
        }
        test_output_free(&output);
    }
    test_program(&output, "ls", "--masters", "127.0.0.1:1");
    assert_int_equal(output.code, 2);
    assert_non_null(strstr(output.err, "umbp exists"));
    assert_int_equal(output.out_bytes, 0);
}

static void replay_refuses_what_a_pool_can_not_do(void **state)
{
    (void)state;
    test_program(&output, "replay", "--masters", "127.0.0.1:1", "--policy", "all");
    assert_int_equal(output.code, 2);
    test_output_free(&output);
    test_program(&output, "replay", "--share", "4/4");
    assert_int_equal(output.code, 2);
    assert_non_null(strstr(output.err, "4/4"));
}

static void bench_pool_measures_against_limits_and_leaves_nothing_behind(void **state)
{
    (void)state;
    need_master();
    test_program(&output, "bench", "pool", "--quick", "--repeat", "1", "--json", "--only",
                 "host,lookup,restart");
    if (output.code != 0) {
        fail_msg("exit code %d: %s%s", output.code, output.out, output.err);
    }
    static const char *const rows[] = {"pool.get.1MiB", "pool.put.64KiB", "pool.lookup.128",
                                       "pool.master.restart"};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *row = strstr(test_last_line(output.out), rows[i]);
        assert_non_null(row);
        assert_true(test_json_number(row, "value") > 0);
    }
    assert_true(test_json_number(strstr(output.out, "pool.get.1MiB"), "limit") > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(the_demo_loses_a_node_and_ends_without_errors, drop),
        cmocka_unit_test_teardown(the_demo_prints_a_table, drop),
        cmocka_unit_test_teardown(a_signal_ends_the_demo_and_all_its_processes, drop),
        cmocka_unit_test_teardown(the_demo_says_what_is_wrong, drop),
        cmocka_unit_test_teardown(replay_serves_a_pool_and_reads_back_what_it_wrote, drop),
        cmocka_unit_test_teardown(replay_of_a_pool_without_a_master_stores_nothing_and_says_so,
                                  drop),
        cmocka_unit_test_teardown(bench_pool_measures_against_limits_and_leaves_nothing_behind,
                                  drop),
        cmocka_unit_test_teardown(a_miss_that_no_master_stands_behind_is_a_failure, drop),
        cmocka_unit_test_teardown(replay_refuses_what_a_pool_can_not_do, drop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
