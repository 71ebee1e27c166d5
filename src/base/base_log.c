/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sink and its context change together, and once umbp_log_set has returned the old sink should
 * not be called any more (its owner may free the context). So a line takes the pair under the lock,
 * counts itself in, and calls the sink without the lock; a change waits for the lines of the old
 * pair, for a second at most: a sink that hangs must not hang the one who replaces it.
 *
 * A fork amid a line of another thread leaves the child an open lock and nobody in a sink: the lock
 * is held over the fork.
 */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mutex.h"

#define LINE_BYTES_MAX 1024
#define SINK_CHANGE_TIMEOUT_MS 1000

typedef void (*sink_function)(void *context, enum umbp_log_level level, const char *line);

static const char *const level_names[] = {"error", "warn", "info", "debug"};

static _Atomic uint64_t lines_lost;

/* A pipe that nobody empties, or that has lost its reader, costs lines and neither time nor the
 * process. (What is said to be writable takes a page, which is more than a line.) */
static void sink_stderr(void *context, enum umbp_log_level level, const char *line)
{
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
    (void)context;
    (void)level;
    if (poll(&out, 1, 0) != 1 || out.revents != POLLOUT) {
        /* relaxed: a count */
        atomic_fetch_add_explicit(&lines_lost, 1, memory_order_relaxed);
        return;
    }
    uint64_t lost = atomic_exchange_explicit(&lines_lost, 0, memory_order_relaxed);
    /* One call, so that lines of several threads do not mix. */
    if (lost > 0) {
        fprintf(stderr, "warn log_lines_lost count=%llu\n%s\n", (unsigned long long)lost, line);
    } else {
        fprintf(stderr, "%s\n", line);
    }
}

void log_hold_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) {
            /* The lowest that is free is this one. The other way round, so that its use fails. */
            (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
        }
    }
}

/* Relaxed everywhere: a line on the wrong side of a change of level is no harm. */
static _Atomic int log_level = UMBP_LOG_WARN;

/* Guards the sink, its context, its generation and the counts of lines in the sinks of the present
 * and the last generation. The lowest lock of all: nothing is called under it. Not a struct mutex
 * since it has to be ready before main. */
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static sink_function log_sink = sink_stderr;
static void *log_context;
static unsigned log_generation;
static unsigned log_running[2];

static void before_fork(void) { pthread_mutex_lock(&log_lock); }

static void in_parent(void) { pthread_mutex_unlock(&log_lock); }

static void in_child(void)
{
    log_running[0] = 0;
    log_running[1] = 0;
    pthread_mutex_unlock(&log_lock);
}

static void watch_forks(void) { (void)pthread_atfork(before_fork, in_parent, in_child); }

/* Before the lock's first use; a child that is forked earlier finds it open. */
static void lock_first(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, watch_forks);
    pthread_mutex_lock(&log_lock);
}

static enum umbp_log_level level_clamp(int level)
{
    return level < UMBP_LOG_ERROR   ? UMBP_LOG_ERROR
           : level > UMBP_LOG_DEBUG ? UMBP_LOG_DEBUG
                                    : (enum umbp_log_level)level;
}

static unsigned running_of(unsigned generation)
{
    pthread_mutex_lock(&log_lock);
    unsigned running = log_running[generation % 2];
    pthread_mutex_unlock(&log_lock);
    return running;
}

void umbp_log_set(enum umbp_log_level level,
                  void (*sink)(void *context, enum umbp_log_level level, const char *line),
                  void *context)
{
    atomic_store_explicit(&log_level, level_clamp((int)level), memory_order_relaxed);
    lock_first();
    unsigned old = log_generation++;
    log_sink = sink != NULL ? sink : sink_stderr;
    log_context = sink != NULL ? context : NULL;
    pthread_mutex_unlock(&log_lock);

    uint64_t deadline_ns = clock_deadline_ns(clock_monotonic(), SINK_CHANGE_TIMEOUT_MS);
    while (running_of(old) > 0 && clock_left_ns(clock_monotonic(), deadline_ns) > 0) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

void log_level_set(enum umbp_log_level level)
{
    atomic_store_explicit(&log_level, level_clamp((int)level), memory_order_relaxed);
}

bool log_enabled(enum umbp_log_level level)
{
    return (int)level <= atomic_load_explicit(&log_level, memory_order_relaxed);
}

static void deliver(enum umbp_log_level level, const char *line)
{
    lock_first();
    sink_function sink = log_sink;
    void *context = log_context;
    unsigned generation = log_generation;
    log_running[generation % 2]++;
    pthread_mutex_unlock(&log_lock);

    sink(context, level, line);

    pthread_mutex_lock(&log_lock);
    if (log_running[generation % 2] > 0) { /* 0 if the sink has forked and this is the child */
        log_running[generation % 2]--;
    }
    pthread_mutex_unlock(&log_lock);
}

void log_write(enum umbp_log_level level, const char *event, const char *format, ...)
{
    char line[LINE_BYTES_MAX];
    va_list arguments;

    if (!log_enabled(level)) {
        return;
    }
    mutex_assert_none_held();
    int saved_errno = errno;
    level = level_clamp((int)level);
    int length = snprintf(line, sizeof line, "%s %s", level_names[level], event);
    if (length > 0 && (size_t)length < sizeof line - 1 && *format != '\0') {
        line[length++] = ' ';
        va_start(arguments, format);
        (void)vsnprintf(line + length, sizeof line - (size_t)length, format, arguments);
        va_end(arguments);
    }
    /* A key or a path may hold anything: one line stays one line, and a terminal safe. */
    for (char *c = line; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7F) {
            *c = '?';
        }
    }
    deliver(level, line);
    errno = saved_errno;
}

bool log_limit_pass(struct log_limit *limit, uint64_t every_ms, uint64_t *held_back_out)
{
    /* All relaxed: the gate guards no other memory. */
    uint64_t now_ns = clock_now_ns(clock_monotonic());
    uint64_t next_ns = atomic_load_explicit(&limit->next_ns, memory_order_relaxed);

    if (now_ns < next_ns ||
        !atomic_compare_exchange_strong_explicit(&limit->next_ns, &next_ns,
                                                 clock_deadline_ns(clock_monotonic(), every_ms),
                                                 memory_order_relaxed, memory_order_relaxed)) {
        atomic_fetch_add_explicit(&limit->held_back, 1, memory_order_relaxed);
        return false;
    }
    *held_back_out = atomic_exchange_explicit(&limit->held_back, 0, memory_order_relaxed);
    return true;
}
