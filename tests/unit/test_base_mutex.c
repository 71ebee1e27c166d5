/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mutex.h"

struct shared {
    struct mutex mutex;
    struct condition condition;
    uint64_t count; /* guarded by mutex */
    bool ready;     /* guarded by mutex */
};

static void shared_init(struct shared *shared)
{
    mutex_init(&shared->mutex, RANK_LEAF);
    condition_init(&shared->condition);
    shared->count = 0;
    shared->ready = false;
}

static void shared_fini(struct shared *shared)
{
    condition_fini(&shared->condition);
    mutex_fini(&shared->mutex);
}

#define ROUNDS 20000

static void *count_main(void *argument)
{
    struct shared *shared = argument;
    for (int i = 0; i < ROUNDS; i++) {
        mutex_lock(&shared->mutex);
        shared->count++;
        mutex_unlock(&shared->mutex);
    }
    return NULL;
}

static void mutex_lets_one_thread_in_at_a_time(void **state)
{
    (void)state;
    struct shared shared;
    pthread_t threads[4];
    shared_init(&shared);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, count_main, &shared), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(shared.count, 4 * ROUNDS);
    shared_fini(&shared);
}

static void condition_wait_ends_at_its_deadline_on_the_monotonic_clock(void **state)
{
    (void)state;
    struct shared shared;
    shared_init(&shared);
    uint64_t begin = clock_now_ns(clock_monotonic());
    uint64_t deadline = clock_deadline_ns(clock_monotonic(), 20);
    mutex_lock(&shared.mutex);
    while (condition_wait(&shared.condition, &shared.mutex, deadline)) {
    }
    assert_false(condition_wait(&shared.condition, &shared.mutex, begin)); /* long past */
    assert_false(condition_wait(&shared.condition, &shared.mutex, 0));
    mutex_unlock(&shared.mutex);
    uint64_t took = clock_now_ns(clock_monotonic()) - begin;
    assert_true(took >= 20 * NS_PER_MS);
    shared_fini(&shared);
}

static void *ready_main(void *argument)
{
    struct shared *shared = argument;
    mutex_lock(&shared->mutex);
    shared->ready = true;
    condition_signal(&shared->condition);
    mutex_unlock(&shared->mutex);
    return NULL;
}

static void condition_wait_wakes_on_a_signal(void **state)
{
    (void)state;
    static const uint64_t timeouts_ms[] = {TEST_WAIT_MS,
                                           UINT64_MAX}; /* the second is DEADLINE_NEVER */
    for (int i = 0; i < 2; i++) {
        struct shared shared;
        pthread_t thread;
        bool in_time = true;
        shared_init(&shared);
        uint64_t deadline = clock_deadline_ns(clock_monotonic(), timeouts_ms[i]);
        mutex_lock(&shared.mutex);
        assert_int_equal(pthread_create(&thread, NULL, ready_main, &shared), 0);
        while (!shared.ready && in_time) {
            in_time = condition_wait(&shared.condition, &shared.mutex, deadline);
        }
        assert_true(shared.ready);
        mutex_unlock(&shared.mutex);
        pthread_join(thread, NULL);
        shared_fini(&shared);
    }
}

static void *wait_main(void *argument)
{
    struct shared *shared = argument;
    uint64_t deadline = clock_deadline_ns(clock_monotonic(), TEST_WAIT_MS);
    mutex_lock(&shared->mutex);
    shared->count++;
    while (!shared->ready && condition_wait(&shared->condition, &shared->mutex, deadline)) {
    }
    bool ready = shared->ready;
    mutex_unlock(&shared->mutex);
    return ready ? shared : NULL;
}

static bool three_wait(void *context)
{
    struct shared *shared = context;
    mutex_lock(&shared->mutex);
    bool three = shared->count == 3;
    mutex_unlock(&shared->mutex);
    return three;
}

static void condition_broadcast_wakes_all(void **state)
{
    (void)state;
    struct shared shared;
    pthread_t threads[3];
    shared_init(&shared);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, wait_main, &shared), 0);
    }
    assert_true(test_wait_until(three_wait, &shared, TEST_WAIT_MS));
    mutex_lock(&shared.mutex);
    shared.ready = true;
    condition_broadcast(&shared.condition);
    mutex_unlock(&shared.mutex);
    for (int i = 0; i < 3; i++) {
        void *result;
        pthread_join(threads[i], &result);
        assert_ptr_equal(result, &shared);
    }
    shared_fini(&shared);
}

/* ---- ranks ---- */

#ifdef UMBP_LOCK_RANKS

/* Whether `act` aborts, in a child. */
static bool aborts(void (*act)(void))
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL); /* cmocka's and the sanitizers' handlers are not wanted */
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO);
        act();
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static struct mutex low, high, other_high;

static int ranks_init(void **state)
{
    (void)state;
    mutex_init(&low, RANK_CLIENT);
    mutex_init(&high, RANK_SHARD);
    mutex_init(&other_high, RANK_SHARD);
    return 0;
}

static void ascend(void)
{
    mutex_lock(&low);
    mutex_lock(&high);
    mutex_unlock(&low); /* any order back */
    mutex_unlock(&high);
    mutex_lock(&high);
    mutex_unlock(&high);
    mutex_lock(&low);
    mutex_unlock(&low);
    mutex_assert_none_held();
}

static void descend(void)
{
    mutex_lock(&high);
    mutex_lock(&low);
}

static void take_two_of_a_rank(void)
{
    mutex_lock(&high);
    mutex_lock(&other_high);
}

static void take_twice(void)
{
    mutex_lock(&high);
    mutex_lock(&high);
}

static void give_back_what_is_not_held(void) { mutex_unlock(&low); }

static void hold_across_a_copy(void)
{
    mutex_lock(&low);
    mutex_assert_none_held();
}

static void mutex_ranks_allow_ascending_order_only(void **state)
{
    (void)state;
    assert_false(aborts(ascend));
    assert_true(aborts(descend));
    assert_true(aborts(take_two_of_a_rank));
    assert_true(aborts(take_twice));
    assert_true(aborts(give_back_what_is_not_held));
}

static void mutex_assert_none_held_aborts_under_a_lock(void **state)
{
    (void)state;
    assert_true(aborts(hold_across_a_copy));
    mutex_assert_none_held();
}

static void mutex_ranks_are_each_threads_own(void **state)
{
    (void)state;
    struct shared shared;
    pthread_t thread;
    shared_init(&shared);
    mutex_init(&shared.mutex, RANK_CLIENT);
    mutex_lock(&high); /* this thread's; the other takes a lower one */
    assert_int_equal(pthread_create(&thread, NULL, count_main, &shared), 0);
    pthread_join(thread, NULL);
    mutex_unlock(&high);
    shared_fini(&shared);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mutex_lets_one_thread_in_at_a_time),
        cmocka_unit_test(condition_wait_ends_at_its_deadline_on_the_monotonic_clock),
        cmocka_unit_test(condition_wait_wakes_on_a_signal),
        cmocka_unit_test(condition_broadcast_wakes_all),
#ifdef UMBP_LOCK_RANKS
        cmocka_unit_test_setup(mutex_ranks_allow_ascending_order_only, ranks_init),
        cmocka_unit_test_setup(mutex_assert_none_held_aborts_under_a_lock, ranks_init),
        cmocka_unit_test_setup(mutex_ranks_are_each_threads_own, ranks_init),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
