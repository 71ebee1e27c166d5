/* SPDX-License-Identifier: Apache-2.0 */
/* The fault wrapper and the power cut do what they say; the tests of the log stand on that. */
#include <stdlib.h>
#include <string.h>

#include "disk/disk.h"
#include "support.h"

#define BLOCK 4096u

static struct disk *memory;
static struct disk *disk;

static int set_up(void **state)
{
    (void)state;
    assert_ok(disk_memory_create(test_seed(), &memory));
    assert_ok(disk_make_directory(memory, "d"));
    assert_ok(disk_sync_directory(memory, "d"));
    assert_ok(disk_fault_create(memory, &disk));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    disk_destroy(disk);
    return 0;
}

static struct disk_file open_a(void)
{
    struct disk_file file;
    assert_ok(disk_open(disk, "d/a", DISK_OPEN_WRITE | DISK_OPEN_CREATE, &file));
    return file;
}

static void make_fail(enum disk_call call, uint64_t first, enum umbp_status status)
{
    const struct disk_fault fault = {.call = call, .first = first, .status = status};
    assert_true(disk_fault_add(disk, &fault));
}

static void the_nth_call_of_a_kind_fails_and_no_other(void **state)
{
    (void)state;
    struct disk_file file = open_a();
    make_fail(DISK_CALL_WRITE, 3, UMBP_NO_SPACE);
    for (unsigned i = 1; i <= 5; i++) {
        assert_int_equal(disk_write_at(disk, file, &i, sizeof(i), i * 8),
                         i == 3 ? UMBP_NO_SPACE : UMBP_OK);
    }
    make_fail(DISK_CALL_SYNC, 1, UMBP_OK); /* no status: UMBP_IO */
    assert_status(disk_sync_file(disk, file), UMBP_IO);
    assert_ok(disk_sync_file(disk, file));
    assert_int_equal(disk_fault_calls(disk, DISK_CALL_WRITE), 5);
    assert_int_equal(disk_fault_calls(disk, DISK_CALL_SYNC), 2);
    assert_int_equal(disk_fault_calls(disk, DISK_CALL_CHANGE), 8);
    disk_close(disk, file);
}

static void run_one(struct disk_queue *queue, struct disk_request *request, enum disk_verb verb,
                    struct disk_file file, struct iovec *iov)
{
    struct disk_request *done;
    *request = (struct disk_request){
        .verb = verb, .file = file, .iov = iov, .iov_count = 1, .buffer_index = -1};
    disk_queue_submit(queue, &request, 1);
    assert_int_equal(disk_queue_wait(queue, 1, 1, 10 * NS_PER_S, &done), 1);
}

static void a_crash_tears_the_write_and_stops_every_change(void **state)
{
    (void)state;
    struct disk_queue *queue;
    struct disk_request request;
    struct disk_file file = open_a();
    uint8_t *data = aligned_alloc(BLOCK, 4 * BLOCK);
    struct iovec iov = {data, 4 * BLOCK};
    const struct disk_queue_options options = {.depth = 2};
    const struct disk_fault crash = {
        .call = DISK_CALL_WRITE, .first = 1, .action = DISK_FAULT_CRASH, .bytes = 5000};
    memset(data, 0xee, 4 * BLOCK);
    assert_ok(disk_queue_create(disk, &options, &queue));
    assert_true(disk_fault_add(disk, &crash));
    run_one(queue, &request, DISK_WRITE, file, &iov);
    assert_status(request.status, UMBP_IO);
    uint64_t bytes = 0;
    assert_ok(disk_size(disk, file, &bytes));
    assert_int_equal(bytes, 4608); /* whole sectors of the 5,000 */
    assert_true(disk_fault_has_crashed(disk));
    assert_status(disk_unlink(disk, "d/a"), UMBP_IO);
    assert_status(disk_truncate(disk, file, 0), UMBP_IO);
    assert_status(disk_sync_file(disk, file), UMBP_IO);
    struct disk_file other;
    assert_status(disk_open(disk, "d/b", DISK_OPEN_WRITE | DISK_OPEN_CREATE, &other), UMBP_IO);
    iov = (struct iovec){data, BLOCK};
    run_one(queue, &request, DISK_READ, file, &iov);
    assert_ok(request.status);
    disk_fault_clear(disk);
    assert_ok(disk_truncate(disk, file, 0));
    assert_ok(disk_queue_destroy(queue, NS_PER_S));
    disk_close(disk, file);
    free(data);
}

static void a_request_that_never_comes_out_does_once_it_is_released(void **state)
{
    (void)state;
    struct disk_queue *queue;
    struct disk_request *done;
    struct disk_file file = open_a();
    uint8_t data[512];
    struct iovec iov = {data, sizeof(data)};
    struct disk_request request = {
        .verb = DISK_WRITE, .file = file, .iov = &iov, .iov_count = 1, .buffer_index = -1};
    struct disk_request *list = &request;
    const struct disk_queue_options options = {.depth = 2};
    const struct disk_fault never = {
        .call = DISK_CALL_WRITE, .first = 1, .action = DISK_FAULT_NEVER};
    memset(data, 1, sizeof(data));
    assert_ok(disk_queue_create(disk, &options, &queue));
    assert_true(disk_fault_add(disk, &never));
    disk_queue_submit(queue, &list, 1);
    assert_int_equal(disk_queue_wait(queue, 1, 1, 5 * NS_PER_MS, &done), 0);
    assert_status(disk_queue_destroy(queue, NS_PER_MS), UMBP_TIMEOUT);
    disk_fault_release(disk);
    assert_int_equal(disk_queue_wait(queue, 1, 1, 10 * NS_PER_S, &done), 1);
    assert_ok(done->status);
    assert_ok(disk_queue_destroy(queue, NS_PER_S));
    disk_close(disk, file);
}

static void a_flip_turns_one_bit_over(void **state)
{
    (void)state;
    struct disk_file file = open_a();
    uint8_t out[64] = {0};
    uint8_t in[64];
    size_t got;
    unsigned ones = 0;
    const struct disk_fault flip = {.call = DISK_CALL_READ, .first = 1, .action = DISK_FAULT_FLIP};
    assert_ok(disk_write_at(disk, file, out, sizeof(out), 0));
    assert_true(disk_fault_add(disk, &flip));
    assert_ok(disk_read_at(disk, file, in, sizeof(in), 0, &got));
    for (unsigned i = 0; i < sizeof(in); i++) {
        ones += (unsigned)__builtin_popcount(in[i]);
    }
    assert_int_equal(ones, 1);
    disk_close(disk, file);
}

static void a_power_cut_keeps_what_was_synced_and_may_lose_the_rest(void **state)
{
    (void)state;
    unsigned names_lost = 0;
    unsigned bytes_lost = 0;
    for (unsigned round = 0; round < 64; round++) {
        struct disk_file file;
        uint8_t data[2 * BLOCK];
        size_t got = 0;
        memset(data, 0xaa, sizeof(data));
        assert_ok(disk_open(disk, "d/kept", DISK_OPEN_WRITE | DISK_OPEN_CREATE, &file));
        assert_ok(disk_write_at(disk, file, data, BLOCK, 0));
        assert_ok(disk_sync_file(disk, file));
        assert_ok(disk_sync_directory(disk, "d"));
        memset(data, 0xbb, sizeof(data));
        assert_ok(disk_write_at(disk, file, data, BLOCK, BLOCK));
        struct disk_file other;
        assert_ok(disk_open(disk, "d/other", DISK_OPEN_WRITE | DISK_OPEN_CREATE, &other));
        disk_memory_power_cut(memory);
        assert_status(disk_write_at(disk, file, data, 1, 0), UMBP_IO);
        disk_close(disk, file);
        disk_close(disk, other);
        assert_ok(disk_open(disk, "d/kept", DISK_OPEN_WRITE, &file));
        assert_ok(disk_read_at(disk, file, data, sizeof(data), 0, &got));
        assert_true(got >= BLOCK);
        assert_int_equal(data[0], 0xaa);
        assert_int_equal(data[BLOCK - 1], 0xaa);
        bytes_lost += got < 2 * BLOCK || data[BLOCK] != 0xbb;
        disk_close(disk, file);
        if (disk_open(disk, "d/other", 0, &other) == UMBP_NOT_FOUND) {
            names_lost++;
        } else {
            disk_close(disk, other);
            assert_ok(disk_unlink(disk, "d/other"));
        }
        assert_ok(disk_unlink(disk, "d/kept"));
        assert_ok(disk_sync_directory(disk, "d"));
    }
    assert_in_range(names_lost, 8, 56);
    assert_in_range(bytes_lost, 8, 64);
}

static void a_full_memory_disk_says_no_space(void **state)
{
    (void)state;
    struct disk_file file = open_a();
    uint8_t data[BLOCK] = {0};
    disk_memory_set_capacity(memory, 2 * BLOCK);
    assert_ok(disk_write_at(disk, file, data, BLOCK, BLOCK));
    assert_status(disk_write_at(disk, file, data, BLOCK, 2 * BLOCK), UMBP_NO_SPACE);
    assert_status(disk_allocate(disk, file, 3 * BLOCK), UMBP_NO_SPACE);
    assert_ok(disk_truncate(disk, file, 0));
    assert_ok(disk_allocate(disk, file, 2 * BLOCK));
    disk_close(disk, file);
}

static void a_driver_is_chosen_by_name(void **state)
{
    (void)state;
    struct disk *made = NULL;
    assert_status(disk_auto_create("nvme", &made), UMBP_INVALID_VALUE);
    assert_null(made);
    assert_ok(disk_auto_create("posix", &made));
    assert_string_equal(made->ops->name, "posix");
    disk_destroy(made);
    assert_ok(disk_auto_create("auto", &made));
    disk_destroy(made);
    disk_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_nth_call_of_a_kind_fails_and_no_other, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_crash_tears_the_write_and_stops_every_change, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_request_that_never_comes_out_does_once_it_is_released,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_flip_turns_one_bit_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_power_cut_keeps_what_was_synced_and_may_lose_the_rest,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_full_memory_disk_says_no_space, set_up, tear_down),
        cmocka_unit_test(a_driver_is_chosen_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
