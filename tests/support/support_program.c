/* SPDX-License-Identifier: Apache-2.0 */
#include "support_program.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define RUN_TIMEOUT_MS 120000u
#define VARIABLES_MAX 512u

extern char **environ;

/* The folder of this very program: <build>/tests. */
static void own_folder(char *path_out)
{
    ssize_t bytes = readlink("/proc/self/exe", path_out, PATH_MAX - 1);
    assert_true(bytes > 0);
    path_out[bytes] = '\0';
    *strrchr(path_out, '/') = '\0';
}

static void program_path(char *path_out)
{
    char folder[PATH_MAX];
    const char *given = getenv("UMBP_TEST_PROGRAM");
    own_folder(folder);
    if (given != NULL && *given != '\0') {
        snprintf(path_out, PATH_MAX, "%s", given);
    } else {
        snprintf(path_out, PATH_MAX, "%.*s/../umbp", PATH_MAX - 16, folder);
    }
}

char *test_program_path(void)
{
    char path[PATH_MAX];
    program_path(path);
    return strdup(path);
}

static int new_file(void)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    int fd = dup(fileno(file));
    fclose(file);
    assert_true(fd >= 0);
    return fd;
}

static char *read_all(int fd, size_t *bytes_out)
{
    off_t bytes = lseek(fd, 0, SEEK_END);
    char *text = malloc((size_t)bytes + 1);
    assert_non_null(text);
    assert_int_equal(pread(fd, text, (size_t)bytes, 0), bytes);
    text[bytes] = '\0';
    *bytes_out = (size_t)bytes;
    close(fd);
    return text;
}

static bool has_ended(void *context)
{
    int *state = context; /* pid, then its status */
    return waitpid(state[0], &state[1], WNOHANG) == state[0];
}

static int wait_for(pid_t pid)
{
    int state[2] = {pid, 0};
    if (!test_wait_until(has_ended, state, RUN_TIMEOUT_MS)) {
        kill(pid, SIGKILL);
        waitpid(pid, &state[1], 0);
    }
    return WIFEXITED(state[1]) ? WEXITSTATUS(state[1]) : 1000 + WTERMSIG(state[1]);
}

/* The test's own environment less UMBP_*, and what is asked for. */
static void make_environment(char **variables_out, const char *const *environment)
{
    size_t count = 0;
    for (char **at = environ; *at != NULL && count < VARIABLES_MAX / 2; at++) {
        if (strncmp(*at, "UMBP_", 5) != 0 && strncmp(*at, "MORI_", 5) != 0) {
            variables_out[count++] = *at;
        }
    }
    for (; environment != NULL && *environment != NULL && count + 1 < VARIABLES_MAX;
         environment++) {
        variables_out[count++] = (char *)(uintptr_t)*environment;
    }
    variables_out[count] = NULL;
}

struct run {
    pid_t pid;
    int out;
    int err;
};

static void start(struct run *run, const char *const *arguments, const void *input,
                  size_t input_bytes, const char *const *environment)
{
    char path[PATH_MAX];
    char *argv[64] = {NULL};
    char *variables[VARIABLES_MAX];
    posix_spawn_file_actions_t actions;

    program_path(path);
    argv[0] = path;
    for (size_t i = 0; arguments[i] != NULL; i++) {
        assert_true(i + 2 < sizeof argv / sizeof argv[0]);
        argv[i + 1] = (char *)(uintptr_t)arguments[i];
    }
    make_environment(variables, environment);
    int in = new_file();
    run->out = new_file();
    run->err = new_file();
    assert_int_equal(pwrite(in, input != NULL ? input : "", input_bytes, 0), input_bytes);
    lseek(in, 0, SEEK_SET);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, run->out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, run->err, STDERR_FILENO);
    int error = posix_spawn(&run->pid, path, &actions, NULL, argv, variables);
    posix_spawn_file_actions_destroy(&actions);
    close(in);
    if (error != 0) {
        fail_msg("%s: %s", path, strerror(error));
    }
}

static void finish(struct run *run, struct test_output *output)
{
    output->code = wait_for(run->pid);
    output->out = read_all(run->out, &output->out_bytes);
    output->err = read_all(run->err, &output->err_bytes);
}

void test_program_run(struct test_output *output, const char *const *arguments, const void *input,
                      size_t input_bytes, const char *const *environment)
{
    struct run run;
    start(&run, arguments, input, input_bytes, environment);
    finish(&run, output);
}

void test_program_signal(struct test_output *output, const char *const *arguments,
                         bool (*condition)(void *context), void *context, int signal_number)
{
    struct run run;
    start(&run, arguments, NULL, 0, NULL);
    bool is_time = test_wait_until(condition, context, RUN_TIMEOUT_MS);
    kill(run.pid, is_time ? signal_number : SIGKILL);
    finish(&run, output);
}

void test_output_free(struct test_output *output)
{
    free(output->out);
    free(output->err);
    output->out = NULL;
    output->err = NULL;
}

const char *test_last_line(const char *text)
{
    const char *last = text;
    for (const char *at = text; (at = strchr(at, '\n')) != NULL;) {
        at++;
        if (*at != '\0') {
            last = at;
        }
    }
    return last;
}

double test_json_number(const char *json, const char *name)
{
    char quoted[80];
    snprintf(quoted, sizeof quoted, "\"%s\":", name);
    const char *at = strstr(json, quoted);
    if (at == NULL) {
        fail_msg("no %s in %.200s", quoted, json);
        return 0;
    }
    return strtod(at + strlen(quoted), NULL);
}

/* __FILE__ is relative to the build folder (or absolute): <root>/tests/support/support_program.c.
 */
char *test_source_path(const char *relative)
{
    char folder[PATH_MAX];
    char path[2 * PATH_MAX];
    char real[PATH_MAX];
    own_folder(folder);
    snprintf(path, sizeof path, __FILE__[0] == '/' ? "%.0s%s" : "%s/../%s", folder, __FILE__);
    if (realpath(path, real) == NULL) {
        return NULL;
    }
    for (int i = 0; i < 3; i++) {
        *strrchr(real, '/') = '\0';
    }
    snprintf(path, sizeof path, "%s/%s", real, relative);
    return access(path, R_OK) == 0 ? strdup(path) : NULL;
}

char *test_source_read(const char *relative)
{
    size_t bytes;
    char *path = test_source_path(relative);
    if (path == NULL) {
        return NULL;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    free(path);
    return fd < 0 ? NULL : read_all(fd, &bytes);
}
