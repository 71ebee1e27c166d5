/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/thread.h"

struct seen {
    char name[32];
    sigset_t mask;
    int nice;
};

static void *look_main(void *argument)
{
    struct seen *seen = argument;
    pthread_getname_np(pthread_self(), seen->name, sizeof seen->name);
    pthread_sigmask(SIG_SETMASK, NULL, &seen->mask);
    seen->nice = getpriority(PRIO_PROCESS, (id_t)gettid());
    return argument;
}

static void look(const char *name, bool background, struct seen *seen)
{
    pthread_t thread;
    void *result = NULL;
    assert_ok(thread_create(&thread, name, background, look_main, seen));
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_ptr_equal(result, seen);
}

static void thread_has_its_name_its_context_and_its_result(void **state)
{
    (void)state;
    struct seen seen = {0};
    look("umbp-test", false, &seen);
    assert_string_equal(seen.name, "umbp-test");
    look("fifteen-bytes-x", false, &seen);
    assert_string_equal(seen.name, "fifteen-bytes-x");
}

static void thread_blocks_signals_and_leaves_its_creators_mask(void **state)
{
    (void)state;
    struct seen seen = {0};
    sigset_t before, after, one;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &one, NULL);
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    look("umbp-test", false, &seen);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    static const int asynchronous[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGALRM, SIGCHLD, SIGPIPE};
    for (size_t i = 0; i < sizeof asynchronous / sizeof *asynchronous; i++) {
        assert_true(sigismember(&seen.mask, asynchronous[i]));
        assert_int_equal(sigismember(&before, asynchronous[i]),
                         sigismember(&after, asynchronous[i]));
    }
    assert_false(sigismember(&after, SIGUSR1));
    assert_false(sigismember(&seen.mask, SIGSEGV));
    assert_false(sigismember(&seen.mask, SIGABRT));
}

static void thread_in_the_background_has_a_lower_priority(void **state)
{
    (void)state;
    struct seen foreground = {0}, background = {0};
    look("umbp-test", false, &foreground);
    look("umbp-test", true, &background);
    assert_true(background.nice >= foreground.nice);
    if (foreground.nice <= 4) {
        assert_int_equal(background.nice, 5);
    }
    /* The creator keeps its own. */
    assert_int_equal(getpriority(PRIO_PROCESS, (id_t)gettid()), foreground.nice);
}

static bool refuse(void *context, size_t bytes)
{
    (void)context;
    (void)bytes;
    return false;
}

static void thread_create_without_memory_makes_no_thread(void **state)
{
    (void)state;
    unsigned before = test_thread_count();
    pthread_t thread = 0;
    struct seen seen = {0};
    mem_set_hook(refuse, NULL);
    enum umbp_status status = thread_create(&thread, "umbp-test", false, look_main, &seen);
    mem_set_hook(NULL, NULL);
    assert_int_equal(status, UMBP_NO_MEMORY);
    assert_true(thread == 0);
    assert_true(test_threads_settle(before));
}

static void thread_cpu_count_is_what_the_affinity_allows(void **state)
{
    (void)state;
    cpu_set_t before;
    assert_true(thread_cpu_count() >= 1);
    if (sched_getaffinity(0, sizeof before, &before) != 0) {
        return; /* more processors than a cpu_set_t has */
    }
    assert_int_equal(thread_cpu_count(), CPU_COUNT(&before));
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++) {
        if (CPU_ISSET(i, &before)) {
            CPU_SET(i, &one);
        }
    }
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(thread_cpu_count(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thread_has_its_name_its_context_and_its_result),
        cmocka_unit_test(thread_blocks_signals_and_leaves_its_creators_mask),
        cmocka_unit_test(thread_in_the_background_has_a_lower_priority),
        cmocka_unit_test(thread_create_without_memory_makes_no_thread),
        cmocka_unit_test(thread_cpu_count_is_what_the_affinity_allows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
