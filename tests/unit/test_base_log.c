/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"

struct capture {
    unsigned count;
    enum umbp_log_level level;
    char line[4096];
};

static void capture_sink(void *context, enum umbp_log_level level, const char *line)
{
    struct capture *capture = context;
    capture->count++;
    capture->level = level;
    snprintf(capture->line, sizeof capture->line, "%s", line);
}

static int restore(void **state)
{
    (void)state;
    umbp_log_set(UMBP_LOG_WARN, NULL, NULL);
    return 0;
}

static void log_line_is_level_event_and_pairs(void **state)
{
    (void)state;
    struct capture capture = {0};
    umbp_log_set(UMBP_LOG_DEBUG, capture_sink, &capture);
    log_error("record_corrupt", "segment=%u offset=%" PRIu64, 7u, UINT64_C(4096));
    assert_string_equal(capture.line, "error record_corrupt segment=7 offset=4096");
    assert_int_equal(capture.level, UMBP_LOG_ERROR);
    log_warn("w", "a=%d", 1);
    assert_string_equal(capture.line, "warn w a=1");
    log_info("i", "a=\"%s\"", "two words");
    assert_string_equal(capture.line, "info i a=\"two words\"");
    log_debug("d", "%s", "");
    assert_string_equal(capture.line, "debug d ");
    log_write(UMBP_LOG_DEBUG, "bare", "%s", "x");
    assert_int_equal(capture.count, 5);
}

static void log_level_holds_back_what_is_below_it(void **state)
{
    (void)state;
    struct capture capture = {0};
    for (int level = UMBP_LOG_ERROR; level <= UMBP_LOG_DEBUG; level++) {
        capture.count = 0;
        umbp_log_set((enum umbp_log_level)level, capture_sink, &capture);
        log_error("e", "a=1");
        log_warn("e", "a=1");
        log_info("e", "a=1");
        log_debug("e", "a=1");
        assert_int_equal(capture.count, level + 1);
        for (int other = UMBP_LOG_ERROR; other <= UMBP_LOG_DEBUG; other++) {
            assert_int_equal(log_enabled((enum umbp_log_level)other), other <= level);
        }
    }
    umbp_log_set((enum umbp_log_level)99, capture_sink, &capture);
    assert_true(log_enabled(UMBP_LOG_DEBUG));
    umbp_log_set((enum umbp_log_level) - 1, capture_sink, &capture);
    assert_true(log_enabled(UMBP_LOG_ERROR));
    assert_false(log_enabled(UMBP_LOG_WARN));
}

static void log_line_is_cut_at_1023_bytes(void **state)
{
    (void)state;
    struct capture capture = {0};
    char text[3000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    umbp_log_set(UMBP_LOG_WARN, capture_sink, &capture);
    log_warn("long", "a=%s", text);
    assert_int_equal(strlen(capture.line), 1023);
    log_warn(text, "a=%d", 1);
    assert_int_equal(strlen(capture.line), 1023);
    /* An event that leaves room for the blank only. */
    text[1023 - 5 - 1] = '\0';
    log_warn(text, "a=%d", 1);
    assert_int_equal(strlen(capture.line), 1023);
}

static void log_shows_control_characters_as_question_marks(void **state)
{
    (void)state;
    struct capture capture = {0};
    umbp_log_set(UMBP_LOG_WARN, capture_sink, &capture);
    log_warn("e", "key=\"%s\"", "a\nb\033[2Jc\x7F\t\xC3\xA9");
    assert_string_equal(capture.line, "warn e key=\"a?b?[2Jc??\xC3\xA9\"");
}

static void log_keeps_errno(void **state)
{
    (void)state;
    struct capture capture = {0};
    umbp_log_set(UMBP_LOG_WARN, capture_sink, &capture);
    errno = EXDEV;
    log_warn("e", "a=1");
    assert_int_equal(errno, EXDEV);
}

static void log_goes_to_stderr_at_warn_by_default(void **state)
{
    (void)state;
    char text[256] = {0};
    char path[] = "/tmp/umbp-test-log-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    unlink(path);
    umbp_log_set(UMBP_LOG_WARN, NULL, NULL);
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    dup2(file, STDERR_FILENO);
    log_warn("seen", "a=1");
    log_info("not_seen", "a=2");
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
    assert_true(pread(file, text, sizeof text - 1, 0) > 0);
    close(file);
    assert_string_equal(text, "warn seen a=1\n");
}

/* ---- threads ---- */

struct guarded {
    uint64_t magic; /* GOOD while the sink may be called */
    _Atomic unsigned bad;
};
#define GOOD UINT64_C(0x600D600D600D600D)

static void guarded_sink(void *context, enum umbp_log_level level, const char *line)
{
    struct guarded *guarded = context;
    (void)level;
    if (guarded->magic != GOOD || strcmp(line, "warn e a=1") != 0) {
        atomic_fetch_add(&guarded->bad, 1);
    }
}

static _Atomic bool log_stop;

static void *log_main(void *argument)
{
    (void)argument;
    while (!atomic_load(&log_stop)) {
        log_warn("e", "a=%d", 1);
    }
    return NULL;
}

static void log_sink_is_not_called_after_it_was_replaced(void **state)
{
    (void)state;
    pthread_t threads[2];
    struct guarded *guarded = malloc(sizeof *guarded);
    *guarded = (struct guarded){.magic = GOOD};
    umbp_log_set(UMBP_LOG_WARN, guarded_sink, guarded);
    atomic_store(&log_stop, false);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, log_main, NULL), 0);
    }
    for (int round = 0; round < 200; round++) {
        struct guarded *next = malloc(sizeof *next);
        *next = (struct guarded){.magic = GOOD};
        umbp_log_set(UMBP_LOG_WARN, guarded_sink, next);
        assert_int_equal(atomic_load(&guarded->bad), 0);
        guarded->magic = 0; /* a plain write: the thread sanitizer sees a sink that still reads */
        free(guarded);
        guarded = next;
    }
    atomic_store(&log_stop, true);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(atomic_load(&guarded->bad), 0);
    umbp_log_set(UMBP_LOG_WARN, NULL, NULL);
    free(guarded);
}

struct gate {
    _Atomic bool inside;
    _Atomic bool open;
    _Atomic bool returns; /* the sink, now */
    bool has_returned;    /* when the new one was set */
    uint64_t set_ns;      /* how long that took */
};

static bool flag_is_set(void *context) { return atomic_load((_Atomic bool *)context); }

static void gate_sink(void *context, enum umbp_log_level level, const char *line)
{
    struct gate *gate = context;
    (void)level;
    (void)line;
    atomic_store(&gate->inside, true);
    (void)test_wait_until(flag_is_set, &gate->open, TEST_WAIT_MS);
    atomic_store(&gate->returns, true);
}

static void *gate_log_main(void *argument)
{
    log_warn("e", "a=%d", 1);
    return argument;
}

static void *gate_replace_main(void *argument)
{
    struct gate *gate = argument;
    uint64_t began_ns = test_now_ns();
    umbp_log_set(UMBP_LOG_WARN, NULL, NULL);
    gate->set_ns = test_now_ns() - began_ns;
    gate->has_returned = atomic_load(&gate->returns);
    return NULL;
}

static void log_set_waits_for_the_old_sink_to_return(void **state)
{
    (void)state;
    struct gate gate = {0};
    pthread_t logger, replacer;
    umbp_log_set(UMBP_LOG_WARN, gate_sink, &gate);
    assert_int_equal(pthread_create(&logger, NULL, gate_log_main, NULL), 0);
    assert_true(test_wait_until(flag_is_set, &gate.inside, TEST_WAIT_MS));
    assert_int_equal(pthread_create(&replacer, NULL, gate_replace_main, &gate), 0);
    test_sleep_ms(30); /* who doesn't wait is done by now */
    atomic_store(&gate.open, true);
    pthread_join(logger, NULL);
    pthread_join(replacer, NULL);
    /* It gives up after a second, which a busy machine may take. */
    assert_true(gate.has_returned || gate.set_ns >= UINT64_C(1000000000));
}

static void log_limit_passes_once_a_period_and_counts_the_rest(void **state)
{
    (void)state;
    struct log_limit limit = {0};
    uint64_t held_back = 99;
    assert_true(log_limit_pass(&limit, 60000, &held_back));
    assert_int_equal(held_back, 0);
    held_back = 99;
    for (int i = 0; i < 5; i++) {
        assert_false(log_limit_pass(&limit, 60000, &held_back));
    }
    assert_int_equal(held_back, 99);
    atomic_store(&limit.next_ns, 1); /* the period is over */
    assert_true(log_limit_pass(&limit, 60000, &held_back));
    assert_int_equal(held_back, 5);
    struct log_limit open = {0};
    assert_true(log_limit_pass(&open, 0, &held_back));
    assert_true(log_limit_pass(&open, 0, &held_back));
}

struct limit_caller {
    struct log_limit *limit;
    uint64_t passed;
};

static void *limit_main(void *argument)
{
    struct limit_caller *caller = argument;
    for (int i = 0; i < 10000; i++) {
        uint64_t held_back;
        caller->passed += log_limit_pass(caller->limit, 60000, &held_back);
    }
    return NULL;
}

static void log_limit_passes_one_of_many_threads(void **state)
{
    (void)state;
    struct log_limit limit = {0};
    struct limit_caller callers[4];
    pthread_t threads[4];
    uint64_t passed = 0;
    for (int i = 0; i < 4; i++) {
        callers[i] = (struct limit_caller){.limit = &limit};
        assert_int_equal(pthread_create(&threads[i], NULL, limit_main, &callers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        passed += callers[i].passed;
    }
    assert_int_equal(passed, 1);
    /* Those that came before the one that passed are counted with it. */
    assert_true(atomic_load(&limit.held_back) <= 39999);
}

/* Threads that do nothing but log, so that a fork finds the lock held as often as not. */
static atomic_bool chatter_ends;

static void *chatter_main(void *context)
{
    (void)context;
    while (!atomic_load(&chatter_ends)) {
        log_error("chatter", "%d", 1);
    }
    return NULL;
}

static void silent_sink(void *context, enum umbp_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

static void log_works_in_a_child_that_was_forked_amid_a_line_of_another_thread(void **state)
{
    (void)state;
    pthread_t threads[2];
    umbp_log_set(UMBP_LOG_ERROR, silent_sink, NULL);
    atomic_store(&chatter_ends, false);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, chatter_main, NULL), 0);
    }
    for (int i = 0; i < 200; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            alarm(30); /* ends it if it hangs */
            log_error("child", "%d", i);
            umbp_log_set(UMBP_LOG_ERROR, silent_sink, NULL);
            _exit(0);
        }
        int status = -1;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    atomic_store(&chatter_ends, true);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
}

/* What the child returns is its exit code; 1000 + n when signal n ended it. */
static int in_a_child(int (*work)(void))
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        _exit(work());
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int write_into_a_full_pipe(void)
{
    static char page[4096];
    char text[256] = "";
    int ends[2];
    alarm(30);
    if (pipe(ends) != 0 || dup2(ends[1], STDERR_FILENO) < 0) {
        return 1;
    }
    int flags = fcntl(ends[1], F_GETFL);
    (void)fcntl(ends[1], F_SETFL, flags | O_NONBLOCK);
    size_t pages = 0;
    while (write(ends[1], page, sizeof page) == (ssize_t)sizeof page) {
        pages++;
    }
    (void)fcntl(ends[1], F_SETFL, flags);
    log_error("one", "a=%d", 1);
    log_error("two", "a=%d", 2);
    for (; pages > 0; pages--) {
        if (read(ends[0], page, sizeof page) != (ssize_t)sizeof page) {
            return 2;
        }
    }
    log_error("three", "a=%d", 3);
    ssize_t got = read(ends[0], text, sizeof text - 1);
    if (got <= 0 || strcmp(text, "warn log_lines_lost count=2\nerror three a=3\n") != 0) {
        return 3;
    }
    close(ends[0]); /* and now nobody can read */
    log_error("four", "a=%d", 4);
    return 0;
}

static void log_loses_lines_rather_than_wait_for_a_full_pipe_or_die_of_a_broken_one(void **state)
{
    (void)state;
    assert_int_equal(in_a_child(write_into_a_full_pipe), 0);
}

static int hold_closed_streams(void)
{
    close(STDIN_FILENO);
    close(STDOUT_FILENO);
    close(STDERR_FILENO);
    log_hold_streams();
    if (open("/dev/null", O_RDWR) <= STDERR_FILENO) {
        return 1;
    }
    char byte = 0;
    if (read(STDIN_FILENO, &byte, 1) >= 0 || write(STDOUT_FILENO, &byte, 1) >= 0 ||
        write(STDERR_FILENO, &byte, 1) >= 0) {
        return 2; /* who is given nothing to write to is told */
    }
    return 0;
}

static void log_hold_streams_keeps_closed_ones_from_becoming_files(void **state)
{
    (void)state;
    assert_int_equal(in_a_child(hold_closed_streams), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(log_line_is_level_event_and_pairs, restore),
        cmocka_unit_test_teardown(log_level_holds_back_what_is_below_it, restore),
        cmocka_unit_test_teardown(log_line_is_cut_at_1023_bytes, restore),
        cmocka_unit_test_teardown(log_shows_control_characters_as_question_marks, restore),
        cmocka_unit_test_teardown(log_keeps_errno, restore),
        cmocka_unit_test_teardown(log_goes_to_stderr_at_warn_by_default, restore),
        cmocka_unit_test_teardown(log_sink_is_not_called_after_it_was_replaced, restore),
        cmocka_unit_test_teardown(log_set_waits_for_the_old_sink_to_return, restore),
        cmocka_unit_test_teardown(
            log_works_in_a_child_that_was_forked_amid_a_line_of_another_thread, restore),
        cmocka_unit_test_teardown(
            log_loses_lines_rather_than_wait_for_a_full_pipe_or_die_of_a_broken_one, restore),
        cmocka_unit_test(log_hold_streams_keeps_closed_ones_from_becoming_files),
        cmocka_unit_test(log_limit_passes_once_a_period_and_counts_the_rest),
        cmocka_unit_test(log_limit_passes_one_of_many_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
