/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File calls that stall are given up, and what they may still do harms nobody.
 *
 * Where a call has to end soon, the wrapper's own limit is an hour and the thread's deadline is
 * past: if the deadline did nothing, the test would run into its time. Where a call has to end at
 * once, or to wait, there is no deadline either.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "disk/disk.h"
#include "support.h"

#define HOUR_NS (3600 * NS_PER_S)
#define WORKERS 3u
#define WAIT_MS 30000u

static struct disk *memory;
static struct disk *fault;
static struct disk *disk;

static int set_up(void **state)
{
    (void)state;
    assert_ok(disk_memory_create(test_seed(), &memory));
    assert_ok(disk_make_directory(memory, "d"));
    assert_ok(disk_fault_create(memory, &fault));
    assert_ok(disk_bounded_create(fault, true, HOUR_NS, &disk));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    (void)disk_thread_deadline(UINT64_MAX);
    disk_destroy(disk);
    return 0;
}

struct waiter {
    pthread_t thread;
    struct disk_file file;
    enum umbp_status status;
};

static void stall_next(enum disk_call call, uint64_t times)
{
    const struct disk_fault rule = {
        .call = call, .first = 1, .times = times, .action = DISK_FAULT_STALL};
    assert_true(disk_fault_add(fault, &rule));
}

static void in_a_hurry(void) { (void)disk_thread_deadline(1); }
static void without_hurry(void) { (void)disk_thread_deadline(UINT64_MAX); }

static bool none_is_given_up(void *context)
{
    (void)context;
    return disk_bounded_given_up(disk) == 0;
}

static void release_all(void)
{
    disk_fault_clear(fault);
    assert_true(test_wait_until(none_is_given_up, NULL, WAIT_MS));
}

static struct disk_file open_new(const char *path)
{
    struct disk_file file = DISK_FILE_NONE;
    assert_ok(disk_open(disk, path, DISK_OPEN_WRITE | DISK_OPEN_CREATE, &file));
    return file;
}

static void count_name(void *context, const char *name, bool is_regular_file)
{
    (void)name;
    (void)is_regular_file;
    ++*(unsigned *)context;
}

static unsigned count_names(void)
{
    unsigned names = 0;
    assert_ok(disk_list(disk, "d", count_name, &names));
    return names;
}

/* One call of the kind, on d/a. */
static enum umbp_status call_of(enum disk_call kind, struct disk_file file)
{
    struct disk_file opened;
    uint64_t size;
    size_t got;
    uint8_t byte = 7;
    unsigned names = 0;
    switch (kind) {
    case DISK_CALL_OPEN:
        return disk_open(disk, "d/a", 0, &opened);
    case DISK_CALL_CREATE:
        return disk_open(disk, "d/b", DISK_OPEN_WRITE | DISK_OPEN_CREATE, &opened);
    case DISK_CALL_SIZE:
        return disk_size(disk, file, &size);
    case DISK_CALL_ALLOCATE:
        return disk_allocate(disk, file, 4096);
    case DISK_CALL_TRUNCATE:
        return disk_truncate(disk, file, 4096);
    case DISK_CALL_UNLINK:
        return disk_unlink(disk, "d/none");
    case DISK_CALL_RENAME:
        return disk_rename(disk, "d/a", "d/a2");
    case DISK_CALL_MAKE_DIRECTORY:
        return disk_make_directory(disk, "d/e");
    case DISK_CALL_LIST:
        return disk_list(disk, "d", count_name, &names);
    case DISK_CALL_LOCK:
        return disk_lock(disk, file);
    case DISK_CALL_READ:
        return disk_read_at(disk, file, &byte, 1, 0, &got);
    case DISK_CALL_WRITE:
        return disk_write_at(disk, file, &byte, 1, 0);
    case DISK_CALL_SYNC:
        return disk_sync_directory(disk, "d");
    default:
        fail_msg("no such call");
        return UMBP_OK;
    }
}

static void any_call_that_stalls_is_given_up_and_nothing_is_changed_until_it_ends(void **state)
{
    static const struct {
        enum disk_call call;
        bool changes;
    } kinds[] = {
        {DISK_CALL_OPEN, false},    {DISK_CALL_CREATE, true},         {DISK_CALL_SIZE, false},
        {DISK_CALL_ALLOCATE, true}, {DISK_CALL_TRUNCATE, true},       {DISK_CALL_UNLINK, true},
        {DISK_CALL_RENAME, true},   {DISK_CALL_MAKE_DIRECTORY, true}, {DISK_CALL_LIST, false},
        {DISK_CALL_LOCK, false},    {DISK_CALL_READ, false},          {DISK_CALL_WRITE, true},
        {DISK_CALL_SYNC, true},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        struct disk_file file = open_new("d/a");
        struct disk_file other = DISK_FILE_NONE;
        stall_next(kinds[i].call, 1);
        in_a_hurry();
        assert_status(call_of(kinds[i].call, file), UMBP_TIMEOUT);
        without_hurry();
        assert_int_equal(disk_bounded_given_up(disk), 1);

        uint64_t unlinks = disk_fault_calls(fault, DISK_CALL_UNLINK);
        (void)disk_thread_deadline(kinds[i].changes ? 1 : UINT64_MAX);
        enum umbp_status status = disk_unlink(disk, "d/none");
        without_hurry();
        assert_status(status, kinds[i].changes ? UMBP_TIMEOUT : UMBP_NOT_FOUND);
        assert_int_equal(disk_fault_calls(fault, DISK_CALL_UNLINK) - unlinks,
                         kinds[i].changes ? 0 : 1);
        assert_ok(disk_open(disk, "d/a", 0, &other)); /* reading goes on */
        disk_close(disk, other);

        release_all();
        assert_status(disk_unlink(disk, "d/none"), UMBP_NOT_FOUND);
        disk_close(disk, file);
        for (unsigned n = 0; n < 4; n++) {
            static const char *const names[] = {"d/a", "d/b", "d/a2", "d/e"};
            enum umbp_status gone = disk_unlink(disk, names[n]);
            assert_true(gone == UMBP_OK || gone == UMBP_NOT_FOUND);
        }
    }
}

static void *unlink_later(void *context)
{
    struct waiter *waiter = context;
    waiter->status = disk_unlink(disk, "d/a");
    return NULL;
}

/* With time left, a change waits for the one that was given up, and is done after it. */
static void a_change_waits_for_one_that_was_given_up(void **state)
{
    struct waiter waiter;
    (void)state;
    stall_next(DISK_CALL_CREATE, 1);
    in_a_hurry();
    struct disk_file file = DISK_FILE_NONE;
    assert_status(disk_open(disk, "d/a", DISK_OPEN_WRITE | DISK_OPEN_CREATE, &file), UMBP_TIMEOUT);
    without_hurry();
    assert_int_equal(pthread_create(&waiter.thread, NULL, unlink_later, &waiter), 0);
    disk_fault_clear(fault);
    assert_int_equal(pthread_join(waiter.thread, NULL), 0);
    assert_ok(waiter.status); /* the file was there */
    assert_int_equal(count_names(), 0);
}

static void a_new_file_whose_making_was_given_up_goes_again(void **state)
{
    (void)state;
    struct disk_file file = DISK_FILE_NONE;
    const unsigned flags = DISK_OPEN_WRITE | DISK_OPEN_CREATE | DISK_OPEN_EXCLUSIVE;
    stall_next(DISK_CALL_CREATE, 1);
    in_a_hurry();
    assert_status(disk_open(disk, "d/new", flags, &file), UMBP_TIMEOUT);
    without_hurry();
    release_all();
    assert_int_equal(disk_fault_calls(fault, DISK_CALL_CLOSE), 1); /* it was made */
    assert_int_equal(count_names(), 0);

    /* One that is not exclusive may have been there before: it stays. */
    disk_close(disk, open_new("d/old"));
    stall_next(DISK_CALL_CREATE, 1);
    in_a_hurry();
    assert_status(disk_open(disk, "d/old", DISK_OPEN_WRITE | DISK_OPEN_CREATE, &file),
                  UMBP_TIMEOUT);
    without_hurry();
    release_all();
    assert_int_equal(count_names(), 1);
}

static void a_file_is_not_closed_under_a_call_that_was_given_up(void **state)
{
    (void)state;
    struct disk_file file = open_new("d/a");
    stall_next(DISK_CALL_TRUNCATE, 1);
    stall_next(DISK_CALL_READ, 1);
    in_a_hurry();
    assert_status(call_of(DISK_CALL_TRUNCATE, file), UMBP_TIMEOUT);
    assert_status(call_of(DISK_CALL_READ, file), UMBP_TIMEOUT);
    without_hurry();
    disk_close(disk, file);
    assert_int_equal(disk_fault_calls(fault, DISK_CALL_CLOSE), 0);
    release_all();
    assert_int_equal(disk_fault_calls(fault, DISK_CALL_CLOSE), 1); /* by the last of the two */
    file = open_new("d/a");
    uint64_t bytes = 0;
    assert_ok(disk_size(disk, file, &bytes));
    assert_int_equal(bytes, 4096); /* the truncation did happen, to this file */
    disk_close(disk, file);
}

static void a_call_that_was_given_up_touches_nothing_of_its_callers(void **state)
{
    (void)state;
    struct disk_file file = open_new("d/a");
    uint8_t bytes[10000];
    uint8_t read[10000];
    size_t got = 77;
    test_fill(bytes, sizeof(bytes), 5);
    memset(read, 9, sizeof(read));
    assert_ok(disk_write_at(disk, file, bytes, sizeof(bytes), 0));
    stall_next(DISK_CALL_READ, 1);
    stall_next(DISK_CALL_WRITE, 1);
    in_a_hurry();
    assert_status(disk_read_at(disk, file, read, 100, 0, &got), UMBP_TIMEOUT);
    assert_status(disk_write_at(disk, file, bytes, 100, 200), UMBP_TIMEOUT);
    without_hurry();
    memset(bytes, 0, 100);
    release_all();
    for (unsigned i = 0; i < sizeof(read); i++) {
        assert_int_equal(read[i], 9);
    }
    assert_int_equal(got, 77);
    test_fill(bytes, sizeof(bytes), 5);
    memcpy(bytes + 200, bytes, 100); /* what the write had when it was called */
    assert_ok(disk_read_at(disk, file, read, sizeof(read), 0, &got));
    assert_int_equal(got, sizeof(read));
    assert_memory_equal(read, bytes, sizeof(bytes));
    disk_close(disk, file);
}

static void with_every_worker_stuck_calls_end_at_once_and_closes_wait(void **state)
{
    (void)state;
    struct disk_file file = open_new("d/a");
    stall_next(DISK_CALL_LIST, WORKERS);
    in_a_hurry();
    for (unsigned i = 0; i < WORKERS; i++) {
        assert_status(call_of(DISK_CALL_LIST, file), UMBP_TIMEOUT);
    }
    without_hurry();
    assert_int_equal(disk_bounded_given_up(disk), WORKERS);
    assert_status(call_of(DISK_CALL_SIZE, file), UMBP_TIMEOUT);
    assert_status(call_of(DISK_CALL_READ, file), UMBP_TIMEOUT);
    disk_close(disk, file);
    assert_int_equal(disk_fault_calls(fault, DISK_CALL_SIZE), 0);
    assert_int_equal(disk_fault_calls(fault, DISK_CALL_CLOSE), 0);
    release_all();
    assert_int_equal(count_names(), 1);
    disk_destroy(disk); /* what waits to be closed is, before the workers leave */
    disk = NULL;
}

static void *ask_for_size(void *context)
{
    struct waiter *waiter = context;
    waiter->status = call_of(DISK_CALL_SIZE, waiter->file);
    return NULL;
}

static bool all_are_listing(void *context)
{
    (void)context;
    return disk_fault_calls(fault, DISK_CALL_LIST) == WORKERS;
}

static void *list_in_a_hurry(void *context)
{
    struct waiter *waiter = context;
    (void)disk_thread_deadline(1);
    waiter->status = call_of(DISK_CALL_LIST, waiter->file);
    return NULL;
}

/* Whoever waits for a worker is told when the last one is stuck. */
static void a_call_that_waits_for_a_worker_ends_when_all_are_stuck(void **state)
{
    (void)state;
    struct waiter listing[WORKERS];
    struct waiter asking[20]; /* more than there are places */
    struct disk_file file = open_new("d/a");
    stall_next(DISK_CALL_LIST, WORKERS);
    for (unsigned i = 0; i < WORKERS; i++) {
        assert_int_equal(pthread_create(&listing[i].thread, NULL, list_in_a_hurry, &listing[i]), 0);
    }
    assert_true(test_wait_until(all_are_listing, NULL, WAIT_MS));
    for (unsigned i = 0; i < ARRAY_COUNT(asking); i++) {
        asking[i].file = file;
        assert_int_equal(pthread_create(&asking[i].thread, NULL, ask_for_size, &asking[i]), 0);
    }
    for (unsigned i = 0; i < ARRAY_COUNT(asking); i++) {
        assert_int_equal(pthread_join(asking[i].thread, NULL), 0);
        assert_status(asking[i].status, UMBP_TIMEOUT);
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        assert_int_equal(pthread_join(listing[i].thread, NULL), 0);
        assert_status(listing[i].status, UMBP_TIMEOUT);
    }
    release_all();
    disk_close(disk, file);
}

static bool threads_are_back(void *context)
{
    return test_thread_count() == *(const unsigned *)context;
}

static void what_is_still_stuck_at_the_end_is_left_behind_until_it_ends(void **state)
{
    (void)state;
    struct disk *stuck;
    struct disk *doomed;
    unsigned threads = test_thread_count();
    assert_ok(disk_memory_create(test_seed(), &stuck));
    assert_ok(disk_fault_create(stuck, &stuck));
    assert_ok(disk_bounded_create(stuck, true, HOUR_NS, &doomed));
    const struct disk_fault rule = {
        .call = DISK_CALL_MAKE_DIRECTORY, .first = 1, .action = DISK_FAULT_STALL};
    assert_true(disk_fault_add(stuck, &rule));
    in_a_hurry();
    assert_status(disk_make_directory(doomed, "x"), UMBP_TIMEOUT);
    without_hurry();
    disk_destroy(doomed); /* in no time, though it has an hour */
    unsigned left = threads + 1;
    assert_true(test_wait_until(threads_are_back, &left, WAIT_MS));
    disk_fault_release(stuck);
    assert_true(test_wait_until(threads_are_back, &threads, WAIT_MS));
}

static bool refuse_all(void *context, size_t bytes)
{
    (void)context;
    (void)bytes;
    return false;
}

static void a_list_without_memory_says_so(void **state)
{
    (void)state;
    unsigned names = 0;
    disk_close(disk, open_new("d/a"));
    mem_set_hook(refuse_all, NULL);
    enum umbp_status status = disk_list(disk, "d", count_name, &names);
    mem_set_hook(NULL, NULL);
    assert_status(status, UMBP_NO_MEMORY);
    assert_int_equal(names, 0);
}

static void paths_that_are_too_long_are_refused(void **state)
{
    (void)state;
    static char path[5000];
    struct disk_file file;
    unsigned names = 0;
    memset(path, 'a', sizeof(path) - 1);
    assert_status(disk_open(disk, path, 0, &file), UMBP_INVALID_VALUE);
    assert_status(disk_unlink(disk, path), UMBP_INVALID_VALUE);
    assert_status(disk_rename(disk, "a", path), UMBP_INVALID_VALUE);
    assert_status(disk_list(disk, path, count_name, &names), UMBP_INVALID_VALUE);
}

#define PEOPLE 8u

struct person {
    pthread_t thread;
    unsigned number;
    unsigned wrong;
};

static void *live(void *context)
{
    struct person *me = context;
    char path[32];
    for (unsigned i = 0; i < 100; i++) {
        const unsigned flags = DISK_OPEN_WRITE | DISK_OPEN_CREATE | DISK_OPEN_EXCLUSIVE;
        struct disk_file file = DISK_FILE_NONE;
        uint64_t bytes = 0;
        size_t got = 0;
        unsigned read = 0;
        unsigned names = 0;
        (void)snprintf(path, sizeof(path), "d/%u-%u", me->number, i);
        me->wrong += disk_open(disk, path, flags, &file) != UMBP_OK;
        me->wrong += disk_write_at(disk, file, &i, sizeof(i), me->number) != UMBP_OK;
        me->wrong += disk_read_at(disk, file, &read, sizeof(read), me->number, &got) != UMBP_OK;
        me->wrong += read != i;
        me->wrong += disk_size(disk, file, &bytes) != UMBP_OK;
        me->wrong += bytes != sizeof(i) + me->number;
        me->wrong += disk_list(disk, "d", count_name, &names) != UMBP_OK;
        me->wrong += names < 1 || names > PEOPLE;
        disk_close(disk, file);
        me->wrong += disk_unlink(disk, path) != UMBP_OK;
    }
    return NULL;
}

static void more_threads_than_workers_each_get_their_own_answers(void **state)
{
    (void)state;
    struct person people[PEOPLE];
    for (unsigned i = 0; i < PEOPLE; i++) {
        people[i] = (struct person){.number = i};
        assert_int_equal(pthread_create(&people[i].thread, NULL, live, &people[i]), 0);
    }
    for (unsigned i = 0; i < PEOPLE; i++) {
        assert_int_equal(pthread_join(people[i].thread, NULL), 0);
        assert_int_equal(people[i].wrong, 0);
    }
    assert_int_equal(count_names(), 0);
}

#define T(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(any_call_that_stalls_is_given_up_and_nothing_is_changed_until_it_ends),
        T(a_change_waits_for_one_that_was_given_up),
        T(a_new_file_whose_making_was_given_up_goes_again),
        T(a_file_is_not_closed_under_a_call_that_was_given_up),
        T(a_call_that_was_given_up_touches_nothing_of_its_callers),
        T(with_every_worker_stuck_calls_end_at_once_and_closes_wait),
        T(a_call_that_waits_for_a_worker_ends_when_all_are_stuck),
        cmocka_unit_test(what_is_still_stuck_at_the_end_is_left_behind_until_it_ends),
        T(a_list_without_memory_says_so),
        T(paths_that_are_too_long_are_refused),
        T(more_threads_than_workers_each_get_their_own_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
