/* SPDX-License-Identifier: Apache-2.0 */
/* Processes: starting, telling, asking, killing. What a member does is support_member.c. */
#include "support_cluster.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILDREN_MAX 64
#define ARGUMENTS_MAX 96
#define START_MS 120000u
#define ANSWER_MS 120000u
#define END_MS 60000u

struct child {
    pid_t pid; /* 0: free */
    int in;
    int out;
};
static struct child children[CHILDREN_MAX];

/* ------------------------------------------------------------------------- processes ---- */

/* Its pipes are closed with it. */
static void child_forget(struct child *child)
{
    close(child->in);
    close(child->out);
    child->pid = 0;
}

static struct child *child_of(pid_t pid)
{
    for (size_t i = 0; i < CHILDREN_MAX; i++) {
        if (children[i].pid == pid) {
            return &children[i];
        }
    }
    fail_msg("no child %d", (int)pid);
    return NULL;
}

int test_cluster_end(void **state)
{
    (void)state;
    for (size_t i = 0; i < CHILDREN_MAX; i++) {
        if (children[i].pid != 0) {
            kill(children[i].pid, SIGKILL);
            waitpid(children[i].pid, NULL, 0);
            child_forget(&children[i]);
        }
    }
    return 0;
}

struct ending {
    pid_t pid;
    int code; /* 1000 + n: by signal n */
};

static bool has_ended(void *context)
{
    struct ending *ending = context;
    int status;
    if (waitpid(ending->pid, &status, WNOHANG) != ending->pid) {
        return false;
    }
    ending->code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    return true;
}

static int wait_for_end(pid_t pid, unsigned timeout_ms)
{
    struct ending ending = {.pid = pid};
    if (!test_wait_until(has_ended, &ending, timeout_ms)) {
        fail_msg("process %d has not ended within %u ms", (int)pid, timeout_ms);
    }
    child_forget(child_of(pid));
    return ending.code;
}

/* In the new process, which may call what is async-signal-safe only. */
static void child_become(const char *path, char *const *argv, const int *in, const int *out,
                         int network, pid_t parent)
{
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || (network >= 0 && setns(network, CLONE_NEWNET) != 0)) {
        _exit(126);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    execv(path, argv);
    _exit(127);
}

/* Its ends of the pipes are closed on exec elsewhere. */
static pid_t spawn(const char *path, const char *const *argv, const char *network_name, int *in_out,
                   int *out_out)
{
    int in[2];
    int out[2];
    int network = -1;
    char network_path[128];
    pid_t parent = getpid();

    if (network_name != NULL) {
        snprintf(network_path, sizeof(network_path), "/run/netns/%s", network_name);
        network = open(network_path, O_RDONLY | O_CLOEXEC);
        assert_true(network >= 0);
    }
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        child_become(path, (char *const *)(uintptr_t)argv, in, out, network, parent);
    }
    assert_true(pid > 0);
    *child_of(0) = (struct child){pid, in[1], out[0]};
    close(in[0]);
    close(out[1]);
    if (network >= 0) {
        close(network);
    }
    *in_out = in[1];
    *out_out = out[0];
    return pid;
}

/* One line, without its end; false: none within the time. `text` keeps what comes behind it. */
static bool read_line(int fd, char *text, size_t room, size_t *bytes, char *line_out,
                      unsigned timeout_ms)
{
    uint64_t deadline_ns = test_now_ns() + (uint64_t)timeout_ms * 1000000;
    for (;;) {
        char *end = memchr(text, '\n', *bytes);
        if (end != NULL) {
            size_t line_bytes = (size_t)(end - text);
            memcpy(line_out, text, line_bytes);
            line_out[line_bytes] = '\0';
            *bytes -= line_bytes + 1;
            memmove(text, end + 1, *bytes);
            return true;
        }
        uint64_t now_ns = test_now_ns();
        struct pollfd poller = {.fd = fd, .events = POLLIN};
        if (now_ns >= deadline_ns || *bytes == room ||
            poll(&poller, 1, (int)((deadline_ns - now_ns) / 1000000) + 1) < 0) {
            return false;
        }
        if (poller.revents != 0) {
            ssize_t got = read(fd, text + *bytes, room - *bytes);
            if (got <= 0) {
                return false;
            }
            *bytes += (size_t)got;
        }
    }
}

/* --------------------------------------------------------------------------- masters ---- */

static void master_path(char *path_out)
{
    const char *given = getenv("UMBP_TEST_MASTER");
    if (given != NULL && *given != '\0') {
        snprintf(path_out, PATH_MAX, "%s", given);
        return;
    }
    ssize_t bytes = readlink("/proc/self/exe", path_out, PATH_MAX - 32);
    assert_true(bytes > 0);
    path_out[bytes] = '\0';
    snprintf(strrchr(path_out, '/'), 32, "/../umbp_master");
}

static void master_begin(struct test_master *master, const char *network, const char *listen,
                         const char *fabric, const char *const *arguments)
{
    char path[PATH_MAX];
    char text[1024];
    char line[1024];
    size_t bytes = 0;
    int in;
    const char *argv[ARGUMENTS_MAX] = {path,          "--listen",        listen,
                                       "--log-level", "error",           "--metrics-port",
                                       "0",           "--fabric-listen", fabric};
    size_t count = 9;

    master_path(path);
    for (; arguments != NULL && *arguments != NULL; arguments++) {
        assert_true(count + 2 < ARGUMENTS_MAX);
        argv[count++] = *arguments;
    }
    argv[count] = NULL;
    master->pid = spawn(path, argv, network, &in, &master->out);
    if (!read_line(master->out, text, sizeof(text), &bytes, line, START_MS) ||
        sscanf(line, "ready grpc=%127s fabric=%127s", master->address, master->fabric) != 2) {
        fail_msg("the master does not get ready");
    }
}

void test_master_start(struct test_master *master, const char *const *arguments)
{
    master_begin(master, NULL, "127.0.0.1:0", "127.0.0.1:0", arguments);
}

void test_master_start_in(struct test_master *master, const char *network, const char *host)
{
    char listen[140];
    snprintf(listen, sizeof(listen), "%s:0", host);
    master_begin(master, network, listen, listen, NULL);
}

void test_master_again(struct test_master *master, const char *const *arguments)
{
    char listen[sizeof(master->address)];
    char fabric[sizeof(master->fabric)];
    memcpy(listen, master->address, sizeof(listen));
    memcpy(fabric, master->fabric, sizeof(fabric));
    master_begin(master, NULL, listen, fabric, arguments);
}

void test_master_moved(struct test_master *master, const char *const *arguments)
{
    struct test_master old = *master;
    for (unsigned tries = 0; tries < 10; tries++) {
        master_begin(master, NULL, old.address, "127.0.0.1:0", arguments);
        if (strcmp(master->fabric, old.fabric) != 0) {
            return;
        }
        test_master_kill(master); /* the system gave it the same one */
    }
    fail_msg("the fabric door does not move");
}

void test_master_kill(struct test_master *master)
{
    kill(master->pid, SIGKILL);
    assert_int_equal(wait_for_end(master->pid, END_MS), 1000 + SIGKILL);
}

void test_master_stop(struct test_master *master)
{
    kill(master->pid, SIGTERM);
    assert_int_equal(wait_for_end(master->pid, END_MS), 0);
}

/* --------------------------------------------------------------------------- members ---- */

static const char *const pool_options[] = {"scheme",
                                           "pool",
                                           "dram.bytes",
                                           "16MiB",
                                           "copy.threads",
                                           "1",
                                           "pool.recache",
                                           "never",
                                           "log.level",
                                           "error",
                                           "close_timeout_ms",
                                           "60000",
                                           NULL};

static void member_begin(struct test_member *member, const char *network,
                         const struct test_master *master, const char *const *options)
{
    char path[PATH_MAX];
    const char *argv[ARGUMENTS_MAX] = {path, "--member", "pool.masters", master->address};
    size_t count = 4;

    ssize_t bytes = readlink("/proc/self/exe", path, sizeof(path) - 1);
    assert_true(bytes > 0);
    path[bytes] = '\0';
    for (size_t i = 0; pool_options[i] != NULL; i++) {
        argv[count++] = pool_options[i];
    }
    for (; options != NULL && *options != NULL; options++) {
        assert_true(count + 2 < ARGUMENTS_MAX);
        argv[count++] = *options;
    }
    argv[count] = NULL;
    member->bytes = 0;
    member->pid = spawn(path, argv, network, &member->in, &member->out);
    const char *answer = test_member_answer(member, START_MS);
    if (strcmp(answer, "ready") != 0) {
        fail_msg("no member: %s", answer);
    }
}

void test_member_start_twin(struct test_member *member, const struct test_master *master,
                            const char *const *options)
{
    member_begin(member, NULL, master, options);
}

static void await_known(struct test_member *member)
{
    test_member_tell(member, "wait-known");
    assert_string_equal(test_member_answer(member, START_MS), "known");
}

void test_member_start_in(struct test_member *member, const char *network,
                          const struct test_master *master, const char *const *options)
{
    member_begin(member, network, master, options);
    await_known(member); /* in its own time; who puts wants it to be known */
}

void test_member_start(struct test_member *member, const struct test_master *master,
                       const char *const *options)
{
    test_member_start_in(member, NULL, master, options);
}

void test_member_close(struct test_member *member)
{
    test_member_tell(member, "close");
    assert_string_equal(test_member_answer(member, START_MS), umbp_status_name(UMBP_OK));
}

void test_member_open(struct test_member *member, const char *const *options)
{
    char line[TEST_MEMBER_LINE - 16] = "";
    size_t bytes = 0;
    for (; *options != NULL; options++) {
        int more = snprintf(line + bytes, sizeof(line) - bytes, " %s", *options);
        assert_in_range(more, 1, sizeof(line) - bytes - 1);
        bytes += (size_t)more;
    }
    test_member_tell(member, "open%s", line);
    const char *answer = test_member_answer(member, START_MS);
    if (strcmp(answer, "ready") != 0) {
        fail_msg("no client: %s", answer);
    }
    await_known(member);
}

void test_member_tell(struct test_member *member, const char *format, ...)
{
    char line[TEST_MEMBER_LINE];
    va_list arguments;
    va_start(arguments, format);
    int bytes = vsnprintf(line, sizeof(line) - 1, format, arguments);
    va_end(arguments);
    assert_in_range(bytes, 1, sizeof(line) - 2);
    line[bytes] = '\n';
    assert_int_equal(write(member->in, line, (size_t)bytes + 1), bytes + 1);
}

const char *test_member_answer(struct test_member *member, unsigned timeout_ms)
{
    static char line[sizeof(member->text) + 1];
    if (!read_line(member->out, member->text, sizeof(member->text), &member->bytes, line,
                   timeout_ms)) {
        fail_msg("member %d does not answer within %u ms", (int)member->pid, timeout_ms);
    }
    return line;
}

struct test_tally test_member_tally(struct test_member *member, unsigned timeout_ms)
{
    struct test_tally tally = {0};
    const char *line = test_member_answer(member, timeout_ms);
    int failure = 0;
    int fields = sscanf(line, "tally %u %u %u %u %u %d %u", &tally.ok, &tally.existing,
                        &tally.missing, &tally.wrong, &tally.failed, &failure, &tally.ms);
    tally.failure = (enum umbp_status)failure;
    if (fields != 7) {
        fail_msg("not a tally: %s", line);
    }
    return tally;
}

static struct test_tally ask_about(struct test_member *member, const char *verb,
                                   struct test_set set)
{
    test_member_tell(member, "%s %s %" PRIu64 " %" PRIu32 " %" PRIu64, verb, set.prefix, set.first,
                     set.count, set.bytes);
    return test_member_tally(member, ANSWER_MS);
}

struct test_tally test_member_put(struct test_member *member, struct test_set set)
{
    return ask_about(member, "put", set);
}

struct test_tally test_member_get(struct test_member *member, struct test_set set)
{
    return ask_about(member, "get", set);
}

struct test_tally test_member_exists(struct test_member *member, struct test_set set)
{
    return ask_about(member, "exists", set);
}

uint64_t test_member_stat(struct test_member *member, const char *name)
{
    uint64_t value = 0;
    test_member_tell(member, "stat %s", name);
    const char *line = test_member_answer(member, ANSWER_MS);
    if (sscanf(line, "stat %" SCNu64, &value) != 1) {
        fail_msg("%s: %s", name, line);
    }
    return value;
}

struct stat_wait {
    struct test_member *member;
    const char *name;
    uint64_t value;
};

static bool stat_is(void *context)
{
    struct stat_wait *wait = context;
    return test_member_stat(wait->member, wait->name) == wait->value;
}

void test_member_stat_becomes(struct test_member *member, const char *name, uint64_t value)
{
    struct stat_wait wait = {member, name, value};
    if (!test_wait_until(stat_is, &wait, TEST_WAIT_MS)) {
        fail_msg("%s of process %d is %" PRIu64 ", not %" PRIu64, name, (int)member->pid,
                 test_member_stat(member, name), value);
    }
}

void test_member_load(struct test_member *member, unsigned threads, uint64_t seed, uint64_t keys)
{
    test_member_tell(member, "load %u %" PRIu64 " %" PRIu64, threads, seed, keys);
    assert_string_equal(test_member_answer(member, ANSWER_MS), "loading");
}

static struct test_load_result load_result(struct test_member *member)
{
    struct test_load_result result = {0};
    int failure = 0;
    const char *line = test_member_answer(member, ANSWER_MS);
    int fields =
        sscanf(line, "load %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %d %u",
               &result.calls, &result.ok, &result.missing, &result.failed, &result.wrong, &failure,
               &result.slowest_ms);
    result.failure = (enum umbp_status)failure;
    if (fields != 7) {
        fail_msg("not a load's result: %s", line);
    }
    return result;
}

struct test_load_result test_member_load_now(struct test_member *member)
{
    test_member_tell(member, "load-now");
    return load_result(member);
}

struct test_load_result test_member_load_stop(struct test_member *member)
{
    test_member_tell(member, "load-stop");
    return load_result(member);
}

/* All its threads. (Of one that stood still before, waitid would tell nothing.) */
static bool has_stopped(void *context)
{
    const pid_t *pid = context;
    char path[300];
    bool all = true;
    snprintf(path, sizeof(path), "/proc/%d/task", (int)*pid);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *entry; all && (entry = readdir(dir)) != NULL;) {
        char state = 0;
        snprintf(path, sizeof(path), "/proc/%d/task/%s/stat", (int)*pid, entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (file != NULL) {
            all = fscanf(file, "%*d %*[^)]) %c", &state) == 1 && state == 'T';
            fclose(file);
        }
    }
    closedir(dir);
    return all;
}

void test_stop(pid_t pid)
{
    assert_int_equal(kill(pid, SIGSTOP), 0);
    assert_true(test_wait_until(has_stopped, &pid, TEST_WAIT_MS));
}

void test_member_signal(struct test_member *member, int signal_number)
{
    if (signal_number == SIGSTOP) {
        test_stop(member->pid);
    } else {
        assert_int_equal(kill(member->pid, signal_number), 0);
    }
}

void test_member_kill(struct test_member *member)
{
    kill(member->pid, SIGKILL);
    assert_int_equal(wait_for_end(member->pid, END_MS), 1000 + SIGKILL);
}

void test_member_end(struct test_member *member)
{
    test_member_tell(member, "end");
    assert_int_equal(wait_for_end(member->pid, END_MS), 0);
}

/* What must be 0 when nothing is going on. */
static const char *const idle_names[] = {"node.operations_now", "node.grants_now", "node.slots_now",
                                         "node.lanes_now",      "reservations",    NULL};

void test_member_is_idle(struct test_member *member)
{
    for (size_t i = 0; idle_names[i] != NULL; i++) {
        test_member_stat_becomes(member, idle_names[i], 0);
    }
}

struct agreement {
    struct test_member *asker;
    struct test_member *nodes;
    unsigned count;
    struct test_set set;
    char differs[160]; /* one of which they disagree */
};

static void ask_found(struct test_member *member, const char *verb, struct test_set set, char *all)
{
    char found[TEST_FOUND_MAX + 2] = "";
    test_member_tell(member, "%s %s %" PRIu64 " %" PRIu32 " 0", verb, set.prefix, set.first,
                     set.count);
    const char *line = test_member_answer(member, ANSWER_MS);
    if (sscanf(line, "OK %901s", found) != 1 || strlen(found) != set.count) {
        fail_msg("%s: %s", verb, line);
    }
    for (uint32_t i = 0; i < set.count; i++) {
        all[i] = (char)(all[i] | found[i]);
    }
}

static bool agrees(void *context)
{
    struct agreement *agreement = context;
    char own[TEST_FOUND_MAX] = "";
    char seen[TEST_FOUND_MAX] = "";
    for (unsigned i = 0; i < agreement->count; i++) {
        ask_found(&agreement->nodes[i], "own", agreement->set, own);
    }
    ask_found(agreement->asker, "seen", agreement->set, seen);
    for (uint32_t i = 0; i < agreement->set.count; i++) {
        if (own[i] != seen[i]) {
            snprintf(agreement->differs, sizeof(agreement->differs), "%s-%" PRIu64 " is %s",
                     agreement->set.prefix, agreement->set.first + i,
                     seen[i] == '1' ? "in the index and nowhere else"
                                    : "on a node and not in the index");
            return false;
        }
    }
    return true;
}

void test_index_agrees(struct test_member *asker, struct test_member *nodes, unsigned count,
                       struct test_set set)
{
    struct agreement agreement = {.asker = asker, .nodes = nodes, .count = count, .set = set};
    assert_in_range(set.count, 1, TEST_FOUND_MAX);
    if (!test_wait_until(agrees, &agreement, TEST_WAIT_MS)) {
        fail_msg("%s", agreement.differs);
    }
}

void test_index_agrees_on_load(struct test_member *asker, struct test_member *nodes, unsigned count,
                               uint64_t keys)
{
    uint64_t began_ns = test_now_ns();
    for (unsigned kind = 0; kind < TEST_LOAD_KINDS; kind++) {
        char prefix[16];
        snprintf(prefix, sizeof(prefix), "load%u", kind);
        test_index_agrees(asker, nodes, count,
                          (struct test_set){prefix, 0, (uint32_t)keys + TEST_LOAD_BATCH, 0});
    }
    printf("the index agrees with the nodes after %.0f ms\n",
           (double)(test_now_ns() - began_ns) / 1e6);
}

void test_pool_client_is_idle(struct umbp_client *client)
{
    for (size_t i = 0; idle_names[i] != NULL; i++) {
        test_stat_becomes(client, idle_names[i], 0);
    }
}

struct umbp_client *test_pool_client(const struct test_master *master, const char *const *options)
{
    const char *all[ARGUMENTS_MAX] = {"pool.masters", master->address};
    size_t count = 2;
    for (size_t i = 0; pool_options[i] != NULL; i++) {
        all[count++] = pool_options[i];
    }
    for (; options != NULL && *options != NULL; options++) {
        assert_true(count + 2 < ARGUMENTS_MAX);
        all[count++] = *options;
    }
    all[count] = NULL;
    struct umbp_client *client = test_client(all);
    assert_true(test_wait_until(test_is_known, client, START_MS));
    return client;
}
