/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/tool_cluster.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define READY_MS 60000u
#define END_MS 5000u
#define ARGUMENTS_MAX 48u
#define METRICS_BYTES 65536u

static uint64_t now(void) { return clock_now_ns(clock_monotonic()); }

static void nap(void)
{
    const struct timespec slice = {.tv_nsec = 2000 * 1000};
    (void)nanosleep(&slice, NULL);
}

static bool is_stopped(const struct tool_cluster *cluster)
{
    return cluster->stop != NULL && *cluster->stop != 0;
}

/* ------------------------------------------------------------------------- programs ----- */

bool tool_cluster_beside(char *path_out, size_t bytes)
{
    char self[4096];
    ssize_t got = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash = got > 0 ? memrchr(self, '/', (size_t)got) : NULL;
    if (slash == NULL) {
        return false;
    }
    int length = snprintf(path_out, bytes, "%.*s/" TOOL_MASTER_PROGRAM, (int)(slash - self), self);
    return length > 0 && (size_t)length < bytes && access(path_out, X_OK) == 0;
}

static bool find_in_path(char *path_out, size_t bytes)
{
    const char *path = getenv("PATH");
    while (path != NULL && *path != '\0') {
        size_t part = strcspn(path, ":");
        int length = snprintf(path_out, bytes, "%.*s/" TOOL_MASTER_PROGRAM, (int)part, path);
        if (part > 0 && length > 0 && (size_t)length < bytes && access(path_out, X_OK) == 0) {
            return true;
        }
        path += part + (path[part] == ':');
    }
    return false;
}

bool tool_cluster_init(struct tool_cluster *cluster, const struct tool *tool,
                       const volatile sig_atomic_t *stop)
{
    memset(cluster, 0, sizeof *cluster);
    cluster->tool = tool;
    cluster->stop = stop;
    ssize_t bytes = readlink("/proc/self/exe", cluster->self_path, sizeof cluster->self_path - 1);
    if (bytes <= 0) {
        (void)tool_fail(tool, TOOL_FAILED, "/proc/self/exe: %s", strerror(errno));
        return false;
    }
    if (tool_cluster_beside(cluster->master_path, sizeof cluster->master_path) ||
        find_in_path(cluster->master_path, sizeof cluster->master_path)) {
        return true;
    }
    (void)tool_fail(tool, TOOL_FAILED,
                    "there is no " TOOL_MASTER_PROGRAM
                    " beside this program or in PATH: this build has no "
                    "master (build with -Ddistributed=enabled)");
    return false;
}

/* ------------------------------------------------------------------------- children ----- */

static void child_fini(struct tool_child *child)
{
    if (child->buffer != NULL) {
        close(child->out);
        close(child->log);
    }
    mem_free(child->buffer);
    memset(child, 0, sizeof *child);
}

/* In the child: only what may be called between fork and exec. */
static void become(const char *const *arguments, int out, int log, pid_t maker)
{
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != maker || dup2(out, 1) != 1 ||
        dup2(log, 2) != 2) {
        _exit(126);
    }
    execv(arguments[0], (char *const *)(uintptr_t)arguments);
    _exit(127);
}

static struct tool_child *free_place(struct tool_cluster *cluster)
{
    for (size_t i = 0; i < cluster->child_count; i++) {
        if (cluster->children[i].pid == 0) {
            child_fini(&cluster->children[i]);
            return &cluster->children[i];
        }
    }
    return cluster->child_count < TOOL_CHILDREN_MAX ? &cluster->children[cluster->child_count++]
                                                    : NULL;
}

struct tool_child *tool_cluster_run(struct tool_cluster *cluster, const char *name,
                                    const char *const *arguments)
{
    struct tool_child *child = free_place(cluster);
    int pair[2] = {-1, -1};
    int log = -1;
    pid_t maker = getpid();
    if (child == NULL || pipe2(pair, O_CLOEXEC) != 0) {
        (void)tool_fail(cluster->tool, TOOL_FAILED, "%s: can't be started: %s", name,
                        child == NULL ? "too many" : strerror(errno));
        return NULL;
    }
    log = memfd_create("umbp-log", MFD_CLOEXEC);
    char *buffer = mem_alloc(TOOL_LINE_BYTES);
    pid_t pid = log >= 0 && buffer != NULL ? fork() : -1;
    if (pid == 0) {
        become(arguments, pair[1], log, maker);
    }
    close(pair[1]);
    if (pid < 0) {
        (void)tool_fail(cluster->tool, TOOL_FAILED, "%s: can't be started: %s", name,
                        strerror(errno));
        close(pair[0]);
        if (log >= 0) {
            close(log);
        }
        mem_free(buffer);
        return NULL;
    }
    (void)fcntl(pair[0], F_SETFL, O_NONBLOCK);
    *child = (struct tool_child){.pid = pid, .out = pair[0], .log = log, .buffer = buffer};
    snprintf(child->name, sizeof child->name, "%s", name);
    return child;
}

int tool_child_wait(struct tool_child *child, uint64_t timeout_ms)
{
    uint64_t until = now() + timeout_ms * NS_PER_MS;
    int status = 0;
    pid_t got = 0;
    if (child->pid == 0) {
        return -1;
    }
    while ((got = waitpid(child->pid, &status, WNOHANG)) == 0 && now() < until) {
        nap();
    }
    if (got == 0) {
        tool_child_kill(child);
        return -1;
    }
    child->pid = 0;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void tool_child_kill(struct tool_child *child)
{
    if (child->pid > 0) {
        (void)kill(child->pid, SIGKILL);
        (void)waitpid(child->pid, NULL, 0);
        child->pid = 0;
    }
}

void tool_cluster_fini(struct tool_cluster *cluster)
{
    for (size_t i = cluster->child_count; i-- > 0;) {
        if (cluster->children[i].pid > 0) {
            (void)kill(cluster->children[i].pid, SIGTERM);
        }
    }
    uint64_t until = now() + END_MS * NS_PER_MS;
    for (size_t i = cluster->child_count; i-- > 0;) {
        uint64_t at = now();
        (void)tool_child_wait(&cluster->children[i], at < until ? (until - at) / NS_PER_MS : 0);
        child_fini(&cluster->children[i]);
    }
    cluster->child_count = 0;
}

void tool_child_complain(const struct tool_cluster *cluster, struct tool_child *child,
                         const char *what)
{
    char text[2048];
    struct pollfd none = {.fd = -1};
    (void)poll(&none, 0, 20); /* what it says last */
    off_t bytes = lseek(child->log, 0, SEEK_END);
    off_t from = bytes > (off_t)sizeof text - 1 ? bytes - (off_t)sizeof text + 1 : 0;
    ssize_t got = pread(child->log, text, sizeof text - 1, from);
    text[got > 0 ? got : 0] = '\0';
    (void)tool_fail(cluster->tool, TOOL_FAILED, "%s %s%s%s", child->name, what,
                    text[0] != '\0' ? "; it said:\n" : "", text);
}

/* ---------------------------------------------------------------------------- lines ----- */

/* The line that tool_child_line_now gave last is dropped by the next call: it is kept in place,
 * with its end marked, and `used` counts what follows it from the buffer's begin. */
const char *tool_child_line_now(struct tool_child *child, bool *ended_out)
{
    size_t held = strnlen(child->buffer, child->used);
    *ended_out = false;
    if (held < child->used) { /* a line that was given */
        memmove(child->buffer, child->buffer + held + 1, child->used - held - 1);
        child->used -= held + 1;
    }
    for (;;) {
        char *newline = memchr(child->buffer, '\n', child->used);
        if (newline != NULL) {
            *newline = '\0';
            return child->buffer;
        }
        if (child->used == TOOL_LINE_BYTES) {
            child->used = 0; /* nothing of ours writes such lines */
        }
        ssize_t got = read(child->out, child->buffer + child->used, TOOL_LINE_BYTES - child->used);
        if (got <= 0) {
            *ended_out = got == 0 || (errno != EAGAIN && errno != EINTR);
            return NULL;
        }
        child->used += (size_t)got;
    }
}

const char *tool_child_line(const struct tool_cluster *cluster, struct tool_child *child,
                            uint64_t timeout_ms, bool *ended_out)
{
    uint64_t until = now() + timeout_ms * NS_PER_MS;
    for (;;) {
        const char *line = tool_child_line_now(child, ended_out);
        if (line != NULL || *ended_out || now() >= until || is_stopped(cluster)) {
            return line;
        }
        struct pollfd one = {.fd = child->out, .events = POLLIN};
        (void)poll(&one, 1, 50);
    }
}

/* ---------------------------------------------------------------------- the cluster ----- */

/* The word behind "NAME=" in a line of readiness. */
static bool take_word(const char *line, const char *name, char *word_out, size_t bytes)
{
    const char *at = strstr(line, name);
    if (at == NULL) {
        return false;
    }
    at += strlen(name);
    snprintf(word_out, bytes, "%.*s", (int)strcspn(at, " \n"), at);
    return word_out[0] != '\0';
}

static const char *await_ready(const struct tool_cluster *cluster, struct tool_child *child)
{
    bool ended = false;
    const char *line = tool_child_line(cluster, child, READY_MS, &ended);
    if (line == NULL || strncmp(line, "ready", 5) != 0) {
        if (!is_stopped(cluster)) {
            tool_child_complain(cluster, child,
                                ended ? "ended before it was ready" : "did not become ready");
        }
        tool_child_kill(child);
        return NULL;
    }
    return line;
}

bool tool_cluster_master(struct tool_cluster *cluster)
{
    char port[16];
    bool again = cluster->address[0] != '\0';
    const char *const arguments[] = {cluster->master_path,
                                     "--listen",
                                     again ? cluster->address : "127.0.0.1:0",
                                     "--fabric-listen",
                                     again ? cluster->door : "127.0.0.1:0",
                                     "--metrics-port",
                                     "any",
                                     "--metrics-host",
                                     "127.0.0.1",
                                     "--log-level",
                                     "warn",
                                     NULL};
    cluster->master = tool_cluster_run(cluster, TOOL_MASTER_PROGRAM, arguments);
    const char *line = cluster->master != NULL ? await_ready(cluster, cluster->master) : NULL;
    uint64_t number = 0;
    if (line == NULL || !take_word(line, "grpc=", cluster->address, sizeof cluster->address) ||
        !take_word(line, "fabric=", cluster->door, sizeof cluster->door) ||
        !take_word(line, "metrics=", port, sizeof port) || !units_parse_count(port, &number)) {
        return false;
    }
    cluster->metrics_port = (unsigned)number;
    return true;
}

struct tool_child *tool_cluster_node(struct tool_cluster *cluster, const char *id,
                                     const char *const *extra)
{
    const char *arguments[ARGUMENTS_MAX] = {
        cluster->self_path, "node",  "--masters",   cluster->address, "--pool.node_id", id,
        "--ssd.enabled",    "false", "--log.level", "warn",           "--pool.address", "127.0.0.1",
    };
    size_t count = 12;
    for (; *extra != NULL && count + 1 < ARGUMENTS_MAX; extra++) {
        arguments[count++] = *extra;
    }
    struct tool_child *child = tool_cluster_run(cluster, id, arguments);
    return child != NULL && await_ready(cluster, child) != NULL ? child : NULL;
}

/* -------------------------------------------------------------------------- metrics ----- */

/* The answer to GET /metrics, NUL behind it. */
static bool fetch(unsigned port, char *text_out, size_t bytes)
{
    static const char question[] = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)port)};
    const struct timeval patience = {.tv_sec = 2};
    size_t used = 0;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool is_good = fd >= 0 &&
                   setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0 &&
                   connect(fd, (struct sockaddr *)&to, sizeof to) == 0 &&
                   send(fd, question, sizeof question - 1, MSG_NOSIGNAL) > 0;
    for (ssize_t got = 1; is_good && got > 0 && used + 1 < bytes;) {
        got = recv(fd, text_out + used, bytes - used - 1, 0);
        used += got > 0 ? (size_t)got : 0;
    }
    if (fd >= 0) {
        close(fd);
    }
    text_out[used] = '\0';
    return is_good && used > 0;
}

bool tool_cluster_metric(const struct tool_cluster *cluster, const char *metric,
                         uint64_t *value_out)
{
    char wanted[96];
    char digits[24];
    char *text = mem_alloc(METRICS_BYTES);
    int length = snprintf(wanted, sizeof wanted, "\n%s ", metric);
    bool is_good = text != NULL && fetch(cluster->metrics_port, text, METRICS_BYTES);
    const char *at = is_good ? strstr(text, wanted) : NULL;
    if (at != NULL) {
        at += length;
        snprintf(digits, sizeof digits, "%.*s", (int)strspn(at, "0123456789"), at);
        is_good = units_parse_count(digits, value_out);
    }
    mem_free(text);
    return at != NULL && is_good;
}

bool tool_cluster_await(struct tool_cluster *cluster, const char *metric, uint64_t least,
                        uint64_t timeout_ms)
{
    uint64_t until = now() + timeout_ms * NS_PER_MS;
    uint64_t value = 0;
    while (!is_stopped(cluster)) {
        if (tool_cluster_metric(cluster, metric, &value) && value >= least) {
            return true;
        }
        if (now() >= until) {
            (void)tool_fail(cluster->tool, TOOL_FAILED,
                            "the master did not come to %s %" PRIu64 " within %" PRIu64 " ms",
                            metric, least, timeout_ms);
            return false;
        }
        nap();
    }
    return false;
}
