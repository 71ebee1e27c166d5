/* SPDX-License-Identifier: Apache-2.0 */
/*
 * umbp_master as a process, from outside and without gRPC: it says when it is ready, tells the
 * fabric door's place, serves health and metrics, shrugs off strangers, and ends when asked. (What
 * it says over gRPC is in tests/python/test_grpc_*.py.)
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"
#include "support_program.h"

extern char **environ;

struct master {
    pid_t pid;
    int out;
    unsigned grpc_port;
    unsigned metrics_port;
};

static char *program_of(const char *name)
{
    char *umbp = test_program_path();
    char *slash = strrchr(umbp, '/');
    assert_non_null(slash);
    char *path = malloc((size_t)(slash - umbp) + strlen(name) + 2);
    memcpy(path, umbp, (size_t)(slash - umbp) + 1);
    memcpy(path + (slash - umbp) + 1, name, strlen(name) + 1);
    free(umbp);
    return path;
}

/* One line within 60 s. */
static void read_line(int fd, char *line, size_t bytes)
{
    size_t at = 0;
    uint64_t end = test_now_ns() + UINT64_C(60000000000);
    while (at + 1 < bytes && test_now_ns() < end) {
        struct pollfd one = {.fd = fd, .events = POLLIN};
        if (poll(&one, 1, 100) > 0) {
            ssize_t got = read(fd, line + at, 1);
            if (got <= 0 || line[at] == '\n') {
                break;
            }
            at++;
        }
    }
    line[at] = '\0';
}

static void start(struct master *master, bool through_umbp)
{
    char line[256];
    int out[2];
    posix_spawn_file_actions_t actions;
    char *path = program_of(through_umbp ? "umbp" : "umbp_master");
    char *direct[] = {path, "127.0.0.1:0", "any", "--metrics-host", "127.0.0.1", NULL};
    char *through[] = {path, "master", "127.0.0.1:0", "any", "--metrics-host", "127.0.0.1", NULL};
    assert_int_equal(pipe(out), 0);
    (void)fcntl(out[0], F_SETFD, FD_CLOEXEC);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_addclose(&actions, out[1]);
    assert_int_equal(
        posix_spawn(&master->pid, path, &actions, NULL, through_umbp ? through : direct, environ),
        0);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    free(path);
    master->out = out[0];
    read_line(out[0], line, sizeof line);
    const char *grpc = strstr(line, " grpc=127.0.0.1:");
    const char *metrics = strstr(line, " metrics=");
    if (strncmp(line, "ready ", 6) != 0 || grpc == NULL || metrics == NULL) {
        fail_msg("it said \"%s\"", line);
    }
    master->grpc_port = (unsigned)strtoul(grpc + strlen(" grpc=127.0.0.1:"), NULL, 10);
    master->metrics_port = (unsigned)strtoul(metrics + strlen(" metrics="), NULL, 10);
}

/* Its exit code; 1000 + n when signal n ended it, 2000 when it did not end. */
static int stop(struct master *master, int number)
{
    int status = 0;
    uint64_t end = test_now_ns() + UINT64_C(20000000000);
    (void)kill(master->pid, number);
    while (waitpid(master->pid, &status, WNOHANG) == 0) {
        if (test_now_ns() > end) {
            (void)kill(master->pid, SIGKILL);
            (void)waitpid(master->pid, &status, 0);
            status = -1;
            break;
        }
        test_sleep_ms(5);
    }
    close(master->out);
    master->pid = 0;
    return status == -1 ? 2000 : WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int connect_to(unsigned port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval limit = {.tv_sec = 20};
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* Send, and read until the other side closes; how many bytes came. */
static size_t exchange(unsigned port, const void *request, size_t bytes, char *reply, size_t room)
{
    size_t at = 0;
    ssize_t got;
    int fd = connect_to(port);
    (void)!send(fd, request, bytes, MSG_NOSIGNAL);
    while (at < room - 1 && (got = recv(fd, reply + at, room - 1 - at, 0)) > 0) {
        at += (size_t)got;
    }
    reply[at] = '\0';
    close(fd);
    return at;
}

static void assert_page(const struct master *master, const char *path, const char *status,
                        const char *words)
{
    static char reply[1 << 20];
    char request[128];
    snprintf(request, sizeof request, "GET %s HTTP/1.0\r\n\r\n", path);
    exchange(master->metrics_port, request, strlen(request), reply, sizeof reply);
    if (strstr(reply, status) == NULL || strstr(reply, words) == NULL) {
        fail_msg("%s gave \"%.300s\"", path, reply);
    }
}

static void assert_signpost(const struct master *master)
{
    static const char question[] = "UMBPSIGN\1\0\1\0\0\0\0";
    char reply[4096];
    size_t bytes = exchange(master->grpc_port, question, 16, reply, sizeof reply);
    assert_true(bytes > 32);
    assert_memory_equal(reply, "UMBPPOST\1\0\0\0", 12);
    assert_memory_equal(reply + 32, "\2\0\4\0umbp", 8); /* the cluster's name */
}

static int make(void **state)
{
    *state = calloc(1, sizeof(struct master));
    return 0;
}

/* A test that failed leaves its master. */
static int unmake(void **state)
{
    struct master *master = *state;
    if (master->pid > 0) {
        (void)stop(master, SIGKILL);
    }
    free(master);
    return 0;
}

static void it_serves_and_ends_when_asked(void **state)
{
    struct master *master = *state;
    for (int round = 0; round < 2; round++) {
        start(master, round == 1);
        assert_signpost(master);
        assert_page(master, "/healthz", " 200 ", "ok");
        assert_page(master, "/readyz", " 200 ", "ready");
        assert_page(master, "/metrics", " 200 ", "\nmori_umbp_client_count 0\n");
        assert_page(master, "/metrics", " 200 ", "umbp_master_signposts_total 1\n");
#ifdef UMBP_HAVE_FABRIC
        assert_page(master, "/metrics", " 200 ", "\numbp_master_fabric_requests_total 0\n");
#endif
        assert_page(master, "/other", " 404 ", "/metrics");
        assert_int_equal(kill(master->pid, SIGHUP), 0);
        assert_page(master, "/healthz", " 200 ", "ok");
        assert_int_equal(stop(master, round == 0 ? SIGTERM : SIGINT), 0);
    }
}

/* Signals that the process handles, bit n - 1 for signal n. */
static unsigned long long handled_signals(pid_t pid)
{
    char path[64];
    char line[256];
    unsigned long long mask = 0;
    bool found = false;
    (void)snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (!found && fgets(line, sizeof line, file) != NULL) {
        found = sscanf(line, "SigCgt: %llx", &mask) == 1;
    }
    (void)fclose(file);
    assert_true(found);
    return mask;
}

/* A library that comes with libfabric has handlers for crashes, which may wait for ever.
 * (Sanitizers have their own for SIGSEGV and SIGBUS.) */
static void a_crash_is_left_to_the_system(void **state)
{
    static const int left[] = {SIGILL, SIGABRT, SIGINT, SIGTERM}; /* the last two are waited for */
    struct master *master = *state;
    for (int through_umbp = 0; through_umbp < 2; through_umbp++) {
        start(master, through_umbp);
        unsigned long long handled = handled_signals(master->pid);
        for (size_t i = 0; i < sizeof left / sizeof left[0]; i++) {
            assert_int_equal(handled >> (left[i] - 1) & 1, 0);
        }
        assert_int_equal(stop(master, SIGTERM), 0);
    }
}

static void open_connections_do_not_hold_up_its_end(void **state)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
    struct master *master = *state;
    int fds[20];
    start(master, false);
    for (int i = 0; i < 20; i++) {
        fds[i] = connect_to(i % 4 == 3 ? master->metrics_port : master->grpc_port);
        size_t bytes = i % 4 == 0 ? 0 : i % 4 == 1 ? 10 : sizeof preface;
        if (bytes > 0) {
            assert_int_equal(send(fds[i], preface, bytes, MSG_NOSIGNAL), (ssize_t)bytes);
        }
    }
    assert_signpost(master);
    assert_int_equal(stop(master, SIGTERM), 0); /* which has patience for 20 s only */
    for (int i = 0; i < 20; i++) {
        close(fds[i]);
    }
}

static void random_bytes_on_both_ports_do_no_harm(void **state)
{
    struct master *master = *state;
    struct test_rng rng;
    test_rng_init(&rng, 1);
    start(master, false);
    for (int i = 0; i < 300; i++) {
        uint8_t bytes[600];
        size_t count = 1 + (size_t)test_rng_below(&rng, sizeof bytes - 1);
        for (size_t k = 0; k < count; k++) {
            bytes[k] = (uint8_t)test_rng_next(&rng);
        }
        if (i % 3 == 0) {
            memcpy(bytes, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", count < 24 ? count : 24);
        } else if (i % 3 == 1) {
            memcpy(bytes, "UMBPSIGN", count < 8 ? count : 8);
        }
        int fd = connect_to(i % 2 == 0 ? master->grpc_port : master->metrics_port);
        (void)!send(fd, bytes, count, MSG_NOSIGNAL);
        close(fd);
    }
    assert_signpost(master);
    assert_page(master, "/healthz", " 200 ", "ok");
    assert_int_equal(stop(master, SIGTERM), 0);
}

/* The command `umbp master` is the same program. */
static void a_value_that_can_not_be_is_named_and_ends_the_start(void **state)
{
    static const struct {
        const char *arguments[5];
        int code;
        const char *words;
    } cases[] = {
        {{"no.such.host.invalid:1", "0"},
         2,
         "listen: \"no.such.host.invalid:1\": the host is not known here"},
        {{"127.0.0.1:0", "65536"}, 2, "metrics-port: \"65536\" is not a port"},
        {{"127.0.0.1:0", "any", "--metrics-host", "some"}, 2, "metrics-host: \"some\""},
        {{"unix:/no/such/folder/socket", "0"}, 3, "/no/such/folder/socket: No such file"},
#ifdef UMBP_HAVE_FABRIC
        {{"127.0.0.1:0", "0", "--fabric-listen", "no.such.host.invalid:1"},
         2,
         "can't listen at no.such.host.invalid:1: the host is not known here"},
        {{"127.0.0.1:0", "0", "--fabric-listen", "some"}, 2, "can't listen at some: that is not"},
        {{"127.0.0.1:0", "0", "--fabric-listen", "192.0.2.77:1"},
         3,
         "can't listen at 192.0.2.77:1: "},
        {{"127.0.0.1:0", "0", "--fabric-provider", "bogus"}, 3, "no provider \"bogus\""},
        {{"127.0.0.1:0", "0", "--fabric-advertise", "a:1"},
         2,
         "fabric-advertise: \"a:1\" is no host"},
#endif
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct test_output output;
        const char *arguments[8] = {"master"};
        for (size_t k = 0; k < 5 && cases[i].arguments[k] != NULL; k++) {
            arguments[k + 1] = cases[i].arguments[k];
        }
        test_program_run(&output, arguments, NULL, 0, NULL);
        if (output.code != cases[i].code || output.out_bytes != 0 ||
            strstr(output.err, cases[i].words) == NULL) {
            fail_msg("case %zu: exit code %d, \"%s\", \"%s\"", i, output.code, output.out,
                     output.err);
        }
        test_output_free(&output);
    }
}

static void too_few_descriptors_are_told_and_not_died_of(void **state)
{
    char command[4096 + 256];
    char *path = program_of("umbp_master");
    (void)state;
    snprintf(command, sizeof command,
             "ulimit -n 16 && '%s' 127.0.0.1:0 0 2>&1 | grep -q 'at least 64 are needed'", path);
    free(path);
    assert_int_equal(system(command), 0);
}

static void a_unix_socket_alone_is_ready_without_a_fabric_door(void **state)
{
    static const char waits[] = "ready grpc=unix-abstract:";
    struct master *master = *state;
    char name[64];
    char line[256];
    int out[2];
    posix_spawn_file_actions_t actions;
    char *path = program_of("umbp_master");
    char *arguments[] = {path, name, (char *)"0", NULL};
    snprintf(name, sizeof name, "unix-abstract:umbp-test-%d", (int)getpid());
    assert_int_equal(pipe(out), 0);
    (void)fcntl(out[0], F_SETFD, FD_CLOEXEC);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    assert_int_equal(posix_spawn(&master->pid, path, &actions, NULL, arguments, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    free(path);
    master->out = out[0];
    read_line(out[0], line, sizeof line);
    assert_memory_equal(line, waits, sizeof waits - 1);
    assert_non_null(strstr(line, " fabric=none metrics=0 pid="));
    assert_int_equal(stop(master, SIGTERM), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_serves_and_ends_when_asked, make, unmake),
        cmocka_unit_test_setup_teardown(open_connections_do_not_hold_up_its_end, make, unmake),
        cmocka_unit_test_setup_teardown(a_crash_is_left_to_the_system, make, unmake),
        cmocka_unit_test_setup_teardown(random_bytes_on_both_ports_do_no_harm, make, unmake),
        cmocka_unit_test(a_value_that_can_not_be_is_named_and_ends_the_start),
        cmocka_unit_test(too_few_descriptors_are_told_and_not_died_of),
        cmocka_unit_test_setup_teardown(a_unix_socket_alone_is_ready_without_a_fabric_door, make,
                                        unmake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
