/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/copy_pool.h"
#include "base/mem.h"

#define MIB_BYTES ((size_t)1 << 20)

static struct copy_pool *pool_of(unsigned threads, unsigned spin_us)
{
    struct copy_pool *pool = NULL;
    assert_ok(copy_pool_create(threads, spin_us, &pool));
    assert_non_null(pool);
    return pool;
}

/* A job: items cut from one block, in mixed order, with a few empty ones. */
struct plan {
    unsigned char *from;
    unsigned char *to;
    size_t bytes;
    struct copy_item *items;
    size_t count;
};

static void plan_init(struct plan *plan, size_t bytes, size_t item_bytes_max, uint64_t tag)
{
    struct test_rng rng;
    test_rng_init(&rng, tag);
    plan->bytes = bytes;
    plan->from = malloc(bytes);
    plan->to = malloc(bytes);
    plan->items = malloc((2 * bytes / item_bytes_max * 8 + 64) * sizeof *plan->items);
    plan->count = 0;
    test_fill(plan->from, bytes, tag);
    memset(plan->to, 0, bytes);
    size_t at = 0;
    while (at < bytes) {
        size_t part = item_bytes_max / 8 + test_rng_below(&rng, item_bytes_max * 7 / 8) + 1;
        part = part < bytes - at ? part : bytes - at;
        plan->items[plan->count++] =
            (struct copy_item){.to = plan->to + at, .from = plan->from + at, .bytes = part};
        at += part;
        if (test_rng_below(&rng, 16) == 0) {
            plan->items[plan->count++] = (struct copy_item){0};
        }
    }
    for (size_t i = plan->count; i > 1; i--) {
        size_t j = test_rng_below(&rng, i);
        struct copy_item item = plan->items[i - 1];
        plan->items[i - 1] = plan->items[j];
        plan->items[j] = item;
    }
}

static void plan_check_and_fini(struct plan *plan)
{
    assert_memory_equal(plan->to, plan->from, plan->bytes);
    free(plan->from);
    free(plan->to);
    free(plan->items);
}

static void copy_pool_copies_every_byte_of_every_mix_of_items(void **state)
{
    (void)state;
    static const size_t item_bytes[] = {64, 700, 4096, 65536, 131072, 131073, 1 << 20, 5 << 20};
    static const size_t total_bytes[] = {1,       4096,         512 << 10, (512 << 10) - 1,
                                         3 << 20, (9 << 20) + 7};
    for (unsigned threads = 1; threads <= 4; threads++) {
        struct copy_pool *pool = pool_of(threads, threads % 2 == 0 ? 50 : 0);
        assert_int_equal(copy_pool_threads(pool), threads);
        for (size_t i = 0; i < sizeof item_bytes / sizeof *item_bytes; i++) {
            for (size_t t = 0; t < sizeof total_bytes / sizeof *total_bytes; t++) {
                struct plan plan;
                plan_init(&plan, total_bytes[t], item_bytes[i], i * 100 + t);
                copy_pool_run(pool, plan.items, plan.count);
                plan_check_and_fini(&plan);
            }
        }
        copy_pool_destroy(pool);
    }
}

static void copy_pool_run_of_nothing_returns(void **state)
{
    (void)state;
    struct copy_pool *pool = pool_of(2, 0);
    struct copy_item empty[3] = {0};
    copy_pool_run(pool, NULL, 0);
    copy_pool_run(pool, empty, 3);
    copy_pool_destroy(pool);
}

static void copy_pool_create_refuses_bad_counts_and_destroy_takes_null(void **state)
{
    (void)state;
    struct copy_pool *pool = (struct copy_pool *)1;
    assert_status(copy_pool_create(0, 0, &pool), UMBP_INVALID_VALUE);
    assert_status(copy_pool_create(COPY_POOL_THREADS_MAX + 1, 0, &pool), UMBP_INVALID_VALUE);
    assert_ptr_equal(pool, (void *)1);
    copy_pool_destroy(NULL);
}

/* ---- many callers ---- */

struct caller {
    struct copy_pool *pool;
    unsigned index;
    unsigned rounds;
    bool good;
};

static void *caller_main(void *argument)
{
    struct caller *caller = argument;
    struct test_rng rng;
    test_rng_init(&rng, 1000 + caller->index);
    size_t room = 4 * MIB_BYTES;
    unsigned char *from = malloc(room);
    unsigned char *to = malloc(room);
    test_fill(from, room, caller->index);
    caller->good = true;
    for (unsigned round = 0; round < caller->rounds; round++) {
        /* The items are on this stack frame, and overwritten at once after the run: a worker that
         * still looked at them would copy garbage or crash. */
        struct copy_item items[8];
        size_t bytes = MIB_BYTES / 2 + test_rng_below(&rng, 3 * MIB_BYTES);
        size_t part = bytes / 8;
        memset(to, 0, bytes);
        for (size_t i = 0; i < 8; i++) {
            items[i] =
                (struct copy_item){.to = to + i * part, .from = from + i * part, .bytes = part};
        }
        copy_pool_run(caller->pool, items, 8);
        memset(items, 0xFF, sizeof items);
        caller->good = caller->good && memcmp(to, from, 8 * part) == 0;
    }
    free(from);
    free(to);
    return NULL;
}

static void run_callers(unsigned threads, unsigned spin_us, unsigned callers, unsigned rounds)
{
    struct copy_pool *pool = pool_of(threads, spin_us);
    struct caller all[8];
    pthread_t ids[8];
    for (unsigned i = 0; i < callers; i++) {
        all[i] = (struct caller){.pool = pool, .index = i, .rounds = rounds};
        assert_int_equal(pthread_create(&ids[i], NULL, caller_main, &all[i]), 0);
    }
    for (unsigned i = 0; i < callers; i++) {
        pthread_join(ids[i], NULL);
        assert_true(all[i].good);
    }
    copy_pool_destroy(pool);
}

static void copy_pool_serves_many_callers_at_once_without_a_wrong_byte(void **state)
{
    (void)state;
    unsigned rounds = test_is_slow() ? 40 : 300;
    run_callers(2, 0, 4, rounds);
    run_callers(2, 30, 4, rounds);
    run_callers(4, 0, 8, rounds);
    run_callers(4, 100, 2, rounds);
}

/* ---- workers help, and no thread stays ---- */

struct workers {
    unsigned count;
    unsigned long ticks; /* of CPU time */
};

/* The threads of this process that are named umbp-copy. */
static struct workers workers_now(void)
{
    struct workers workers = {0};
    DIR *dir = opendir("/proc/self/task");
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char path[300];
        char name[32];
        unsigned long user = 0;
        unsigned long system = 0;
        snprintf(path, sizeof path, "/proc/self/task/%s/stat", entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (file == NULL) {
            continue;
        }
        if (fscanf(file, "%*d (%31[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", name,
                   &user, &system) == 3 &&
            strcmp(name, "umbp-copy") == 0) {
            workers.count++;
            workers.ticks += user + system;
        }
        fclose(file);
    }
    closedir(dir);
    return workers;
}

/* A thread that was joined is seen a moment longer, and one that was made has its name a moment
 * later. */
static bool are_workers(void *context) { return workers_now().count == *(const unsigned *)context; }

static void copy_pool_has_its_threads_from_create_to_destroy_and_none_more(void **state)
{
    (void)state;
    unsigned none = 0;
    unsigned three = 3;
    struct copy_pool *pool = pool_of(4, 10);
    assert_true(test_wait_until(are_workers, &three, TEST_WAIT_MS));
    struct plan plan;
    plan_init(&plan, 4 * MIB_BYTES, 65536, 3);
    copy_pool_run(pool, plan.items, plan.count);
    assert_int_equal(workers_now().count, 3);
    plan_check_and_fini(&plan);
    copy_pool_destroy(pool);
    assert_true(test_wait_until(are_workers, &none, TEST_WAIT_MS));
}

static _Atomic unsigned allocations;

static bool count_allocation(void *context, size_t bytes)
{
    (void)context;
    (void)bytes;
    atomic_fetch_add(&allocations, 1);
    return true;
}

static void copy_pool_run_allocates_nothing(void **state)
{
    (void)state;
    struct copy_pool *pool = pool_of(3, 10);
    struct plan plan;
    plan_init(&plan, 4 * MIB_BYTES, 65536, 3);
    atomic_store(&allocations, 0);
    mem_set_hook(count_allocation, NULL);
    copy_pool_run(pool, plan.items, plan.count);
    mem_set_hook(NULL, NULL);
    assert_int_equal(atomic_load(&allocations), 0);
    plan_check_and_fini(&plan);
    copy_pool_destroy(pool);
}

static bool fail_at(void *context, size_t bytes)
{
    (void)bytes;
    return (*(int *)context)-- != 0;
}

static void copy_pool_create_leaves_nothing_behind_whichever_allocation_fails(void **state)
{
    (void)state;
    unsigned before = test_thread_count();
    for (int nth = 0; nth < 4; nth++) {
        struct copy_pool *pool = NULL;
        int left = nth;
        mem_set_hook(fail_at, &left);
        enum umbp_status status = copy_pool_create(4, 0, &pool);
        mem_set_hook(NULL, NULL);
        assert_int_equal(status, UMBP_NO_MEMORY);
        assert_null(pool);
        assert_true(test_threads_settle(before));
    }
}

static void copy_pool_worker_wakes_up_for_later_jobs_too(void **state)
{
    (void)state;
    struct copy_pool *pool = pool_of(2, 0);
    for (unsigned round = 0; round < 20; round++) {
        struct plan plan;
        plan_init(&plan, 2 * MIB_BYTES, 131072, round);
        test_sleep_ms(1); /* so that the worker is likely asleep again */
        copy_pool_run(pool, plan.items, plan.count);
        plan_check_and_fini(&plan);
    }
    copy_pool_destroy(pool);
}

static void copy_pool_workers_take_a_share_of_the_work(void **state)
{
    (void)state;
    struct copy_pool *pool = pool_of(2, 0); /* no spinning, which would be CPU time too */
    uint64_t deadline_ns = test_now_ns() + UINT64_C(60000000000);
    struct plan plan;
    plan_init(&plan, 16 * MIB_BYTES, MIB_BYTES, 1);
    while (workers_now().ticks < 3 && test_now_ns() < deadline_ns) {
        copy_pool_run(pool, plan.items, plan.count);
    }
    assert_true(workers_now().ticks >= 3);
    plan_check_and_fini(&plan);
    copy_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copy_pool_copies_every_byte_of_every_mix_of_items),
        cmocka_unit_test(copy_pool_run_of_nothing_returns),
        cmocka_unit_test(copy_pool_create_refuses_bad_counts_and_destroy_takes_null),
        cmocka_unit_test(copy_pool_serves_many_callers_at_once_without_a_wrong_byte),
        cmocka_unit_test(copy_pool_has_its_threads_from_create_to_destroy_and_none_more),
        cmocka_unit_test(copy_pool_run_allocates_nothing),
        cmocka_unit_test(copy_pool_create_leaves_nothing_behind_whichever_allocation_fails),
        cmocka_unit_test(copy_pool_worker_wakes_up_for_later_jobs_too),
        cmocka_unit_test(copy_pool_workers_take_a_share_of_the_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
