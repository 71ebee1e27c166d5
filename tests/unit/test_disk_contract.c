/* SPDX-License-Identifier: Apache-2.0 */
/* One suite over every driver: what disk.h promises. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "disk/disk.h"
#include "support.h"

#define BLOCK 4096u
#define SECONDS UINT64_C(1000000000)

struct rig {
    const char *driver;
    struct disk *disk;
    char *directory;
};

static struct disk *make_driver(const char *driver)
{
    struct disk *disk = NULL;
    if (strcmp(driver, "io_uring") == 0) {
        if (disk_uring_create(&disk) == UMBP_UNSUPPORTED) {
            return NULL;
        }
    } else if (strcmp(driver, "posix") == 0) {
        assert_ok(disk_posix_create(3, &disk));
    } else if (strcmp(driver, "posix_inline") == 0) {
        assert_ok(disk_posix_create(0, &disk));
    } else if (strcmp(driver, "memory") == 0) {
        assert_ok(disk_memory_create(test_seed(), &disk));
    } else if (strcmp(driver, "bounded") == 0) {
        struct disk *inner;
        assert_ok(disk_posix_create(2, &inner));
        assert_ok(disk_bounded_create(inner, true, 60 * SECONDS, &disk));
    } else {
        struct disk *inner;
        assert_ok(disk_posix_create(2, &inner));
        assert_ok(disk_fault_create(inner, &disk));
    }
    assert_non_null(disk);
    return disk;
}

/* valgrind does not see what the kernel writes into a registered buffer. */
static uint8_t *zeroed_blocks(size_t bytes)
{
    uint8_t *memory = aligned_alloc(BLOCK, bytes);
    if (memory) {
        memset(memory, 0, bytes);
    }
    return memory;
}

static bool rig_init(struct rig *rig, void **state)
{
    rig->driver = *state;
    rig->disk = make_driver(rig->driver);
    if (!rig->disk) {
        print_message("io_uring is refused here\n");
        return false;
    }
    bool is_bounded = strcmp(rig->driver, "bounded") == 0; /* that takes the inner one's name */
    assert_string_equal(rig->disk->ops->name, is_bounded ? "posix" : rig->driver);
    if (rig->disk->ops->is_durable) {
        rig->directory = test_dir_create();
    } else {
        rig->directory = strdup("d");
        assert_ok(disk_make_directory(rig->disk, "d"));
    }
    return true;
}

static void rig_fini(struct rig *rig)
{
    if (rig->disk->ops->is_durable) {
        test_dir_remove(rig->directory);
    } else {
        free(rig->directory);
    }
    disk_destroy(rig->disk);
}

static struct disk_file rig_open(struct rig *rig, const char *name, unsigned flags)
{
    struct disk_file file = DISK_FILE_NONE;
    char *path = test_path(rig->directory, name);
    assert_ok(disk_open(rig->disk, path, flags, &file));
    free(path);
    return file;
}

#define NEW (DISK_OPEN_WRITE | DISK_OPEN_CREATE)

static void every_operation_is_there(void **state)
{
    struct rig rig;
    if (!rig_init(&rig, state)) {
        skip();
    }
    const void *const *slots = (const void *const *)(const void *)&rig.disk->ops->open;
    size_t first = offsetof(struct disk_ops, open) / sizeof(void *);
    for (size_t i = 0; i < sizeof(struct disk_ops) / sizeof(void *) - first; i++) {
        assert_non_null(slots[i]);
    }
    rig_fini(&rig);
}

static void what_is_written_is_read_back_short_only_at_the_end(void **state)
{
    struct rig rig;
    if (!rig_init(&rig, state)) {
        skip();
    }
    uint8_t out[1000];
    uint8_t in[1000] = {0};
    size_t got = 99;
    uint64_t bytes = 0;
    struct disk_file file = rig_open(&rig, "a", NEW);
    test_fill(out, sizeof(out), 1);
    assert_ok(disk_write_at(rig.disk, file, out, sizeof(out), 500));
    assert_ok(disk_size(rig.disk, file, &bytes));
    assert_int_equal(bytes, 1500);
    assert_ok(disk_read_at(rig.disk, file, in, sizeof(in), 500, &got));
    assert_int_equal(got, sizeof(in));
    assert_memory_equal(in, out, sizeof(in));
    assert_ok(disk_read_at(rig.disk, file, in, sizeof(in), 1000, &got));
    assert_int_equal(got, 500);
    assert_ok(disk_read_at(rig.disk, file, in, sizeof(in), 9999, &got));
    assert_int_equal(got, 0);
    assert_ok(disk_read_at(rig.disk, file, in, 100, 0, &got));
    assert_int_equal(in[0] | in[99], 0); /* a hole reads as zeros */
    assert_ok(disk_sync_file(rig.disk, file));
    disk_close(rig.disk, file);
    rig_fini(&rig);
}

static void opening_says_missing_and_existing(void **state)
{
    struct rig rig;
    if (!rig_init(&rig, state)) {
        skip();
    }
    struct disk_file file = DISK_FILE_NONE;
    char *path = test_path(rig.directory, "x");
    char *deep = test_path(rig.directory, "no/x");
    assert_status(disk_open(rig.disk, path, 0, &file), UMBP_NOT_FOUND);
    assert_status(disk_open(rig.disk, deep, NEW, &file), UMBP_NOT_FOUND);
    assert_false(disk_file_is_open(file));
    assert_ok(disk_open(rig.disk, path, NEW | DISK_OPEN_EXCLUSIVE | DISK_OPEN_DIRECT, &file));
    disk_close(rig.disk, file);
    assert_status(disk_open(rig.disk, path, NEW | DISK_OPEN_EXCLUSIVE | DISK_OPEN_DIRECT, &file),
                  UMBP_ALREADY_EXISTS);
    assert_ok(disk_open(rig.disk, path, NEW | DISK_OPEN_TRUNCATE, &file));
    disk_close(rig.disk, file);
    assert_status(disk_open(rig.disk, rig.directory, DISK_OPEN_WRITE, &file), UMBP_INVALID_VALUE);
    free(path);
    free(deep);
    rig_fini(&rig);
}

static void allocate_and_truncate_set_the_length(void **state)
{
    struct rig rig;
    if (!rig_init(&rig, state)) {
        skip();
    }
    uint64_t bytes = 0;
    uint8_t byte = 7;
    size_t got;
    struct disk_file file = rig_open(&rig, "a", NEW);
    enum umbp_status status = disk_allocate(rig.disk, file, 1 << 20);
    assert_true(status == UMBP_OK || status == UMBP_UNSUPPORTED);
    if (status == UMBP_OK) {
        assert_ok(disk_size(rig.disk, file, &bytes));
        assert_int_equal(bytes, 1 << 20);
        assert_ok(disk_read_at(rig.disk, file, &byte, 1, (1 << 20) - 1, &got));
        assert_int_equal(byte, 0);
    }
    assert_ok(disk_truncate(rig.disk, file, 12288));
    assert_ok(disk_size(rig.disk, file, &bytes));
    assert_int_equal(bytes, 12288);
    disk_close(rig.disk, file);
    rig_fini(&rig);
}

static unsigned listed;
static unsigned listed_regular;
static void count_entry(void *context, const char *name, bool is_regular_file)
{
    (void)context;
    assert_true(strcmp(name, "one") == 0 || strcmp(name, "three") == 0 || strcmp(name, "sub") == 0);
    listed++;
    listed_regular += is_regular_file;
}

static void names_are_made_renamed_listed_and_removed(void **state)
{
    struct rig rig;
    if (!rig_init(&rig, state)) {
        skip();
    }
    char *one = test_path(rig.directory, "one");
    char *two = test_path(rig.directory, "two");
    char *three = test_path(rig.directory, "three");
    char *sub = test_path(rig.directory, "sub");
    disk_close(rig.disk, rig_open(&rig, "one", NEW));
    disk_close(rig.disk, rig_open(&rig, "two", NEW));
    disk_close(rig.disk, rig_open(&rig, "three", NEW));
    assert_ok(disk_make_directory(rig.disk, sub));
    assert_status(disk_make_directory(rig.disk, sub), UMBP_ALREADY_EXISTS);
    assert_ok(disk_rename(rig.disk, two, three));
    assert_status(disk_rename(rig.disk, two, three), UMBP_NOT_FOUND);
    assert_ok(disk_sync_directory(rig.disk, rig.directory));
    listed = listed_regular = 0;
    assert_ok(disk_list(rig.disk, rig.directory, count_entry, NULL));
    assert_int_equal(listed, 3);
    assert_int_equal(listed_regular, 2);
    assert_status(disk_list(rig.disk, two, count_entry, NULL), UMBP_NOT_FOUND);
    assert_ok(disk_unlink(rig.disk, one));
    assert_status(disk_unlink(rig.disk, one), UMBP_NOT_FOUND);
    free(one);
    free(two);
    free(three);
    free(sub);
    rig_fini(&rig);
}

static void a_lock_keeps_others_out_until_it_is_closed(void **state)
{
    struct rig rig;
    if (!rig_init(&rig, state)) {
        skip();
    }
    struct disk_file first = rig_open(&rig, "lock", NEW);
    struct disk_file second = rig_open(&rig, "lock", NEW);
    assert_ok(disk_lock(rig.disk, first));
    assert_ok(disk_lock(rig.disk, first));
    assert_status(disk_lock(rig.disk, second), UMBP_LOCKED);
    disk_close(rig.disk, first);
    assert_ok(disk_lock(rig.disk, second));
    disk_close(rig.disk, second);
    rig_fini(&rig);
}

static void an_open_file_outlives_its_name(void **state)
{
    struct rig rig;
    if (!rig_init(&rig, state)) {
        skip();
    }
    char *path = test_path(rig.directory, "a");
    struct disk_file file = rig_open(&rig, "a", NEW);
    uint8_t byte = 42;
    size_t got = 0;
    assert_ok(disk_write_at(rig.disk, file, &byte, 1, 0));
    assert_ok(disk_unlink(rig.disk, path));
    byte = 0;
    assert_ok(disk_read_at(rig.disk, file, &byte, 1, 0, &got));
    assert_int_equal(byte, 42);
    disk_close(rig.disk, file);
    free(path);
    rig_fini(&rig);
}

/* ------------------------------------------------------------------------- queues -------- */

#define DEPTH 8u
#define PIECE (16u * BLOCK)

static void request_init(struct disk_request *request, enum disk_verb verb, struct disk_file file,
                         uint64_t offset, struct iovec *iov, unsigned iov_count)
{
    memset(request, 0, sizeof(*request));
    request->verb = verb;
    request->file = file;
    request->offset = offset;
    request->iov = iov;
    request->iov_count = iov_count;
    request->buffer_index = -1;
}

static void queue_run_one(struct disk_queue *queue, struct disk_request *request)
{
    struct disk_request *done = NULL;
    disk_queue_submit(queue, &request, 1);
    assert_int_equal(disk_queue_wait(queue, 1, 1, 10 * SECONDS, &done), 1);
    assert_ptr_equal(done, request);
    assert_int_equal(queue->in_flight, 0);
}

static void a_queue_carries_gathered_writes_and_fixed_reads(void **state)
{
    struct rig rig;
    if (!rig_init(&rig, state)) {
        skip();
    }
    struct disk_queue *queue;
    uint8_t *memory = zeroed_blocks(2 * DEPTH * PIECE);
    uint8_t *buffers = memory + DEPTH * PIECE;
    struct iovec buffer = {.iov_base = buffers, .iov_len = DEPTH * PIECE};
    struct disk_queue_options options = {.depth = DEPTH, .buffers = &buffer, .buffer_count = 1};
    struct disk_request requests[DEPTH];
    struct disk_request *list[DEPTH];
    struct disk_request *done[DEPTH];
    struct iovec iovs[DEPTH][3];
    struct disk_file file = rig_open(&rig, "a", NEW | DISK_OPEN_DIRECT);
    assert_ok(disk_queue_create(rig.disk, &options, &queue));
    test_fill(memory, DEPTH * PIECE, 5);
    for (unsigned i = 0; i < DEPTH; i++) {
        uint8_t *at = memory + i * PIECE;
        iovs[i][0] = (struct iovec){at, BLOCK};
        iovs[i][1] = (struct iovec){at + BLOCK, 3 * BLOCK};
        iovs[i][2] = (struct iovec){at + 4 * BLOCK, PIECE - 4 * BLOCK};
        request_init(&requests[i], DISK_WRITE, file, i * PIECE, iovs[i], 3);
        list[i] = &requests[i];
    }
    disk_queue_submit(queue, list, DEPTH);
    for (unsigned got = 0; got < DEPTH;) {
        unsigned now = disk_queue_wait(queue, 1, 3, 10 * SECONDS, done);
        assert_in_range(now, 1, 3);
        for (unsigned i = 0; i < now; i++) {
            assert_ok(done[i]->status);
            assert_int_equal(done[i]->bytes_done, PIECE);
        }
        got += now;
    }
    assert_int_equal(queue->in_flight, 0);
    struct disk_request sync;
    request_init(&sync, DISK_SYNC, file, 0, NULL, 0);
    queue_run_one(queue, &sync);
    assert_ok(sync.status);
    for (unsigned i = 0; i < DEPTH; i++) {
        iovs[i][0] = (struct iovec){buffers + i * PIECE, PIECE};
        request_init(&requests[i], DISK_READ, file, i * PIECE, iovs[i], 1);
        requests[i].buffer_index = queue->has_fixed_buffers ? 0 : -1;
    }
    disk_queue_submit(queue, list, DEPTH);
    assert_int_equal(disk_queue_wait(queue, DEPTH, DEPTH, 10 * SECONDS, done), DEPTH);
    assert_true(test_check_fill(buffers, DEPTH * PIECE, 5));
    assert_int_equal(disk_queue_wait(queue, 1, DEPTH, 10 * SECONDS, done), 0); /* none in flight */
    assert_ok(disk_queue_destroy(queue, SECONDS));
    disk_close(rig.disk, file);
    free(memory);
    rig_fini(&rig);
}

static void a_read_at_the_end_is_short_and_ok(void **state)
{
    struct rig rig;
    if (!rig_init(&rig, state)) {
        skip();
    }
    struct disk_queue *queue;
    struct disk_queue_options options = {.depth = 1};
    struct disk_request request;
    uint8_t *memory = zeroed_blocks(PIECE);
    struct disk_file file = rig_open(&rig, "a", NEW | DISK_OPEN_DIRECT);
    struct disk_file plain = rig_open(&rig, "b", NEW);
    memset(memory, 3, PIECE);
    assert_ok(disk_write_at(rig.disk, file, memory, 2 * BLOCK, 0));
    assert_ok(disk_write_at(rig.disk, plain, memory, 5000, 0));
    assert_ok(disk_queue_create(rig.disk, &options, &queue));
    struct iovec iov = {memory, PIECE};
    request_init(&request, DISK_READ, file, BLOCK, &iov, 1);
    queue_run_one(queue, &request);
    assert_ok(request.status);
    assert_int_equal(request.bytes_done, BLOCK);
    iov = (struct iovec){memory, PIECE};
    request_init(&request, DISK_READ, file, 64 * BLOCK, &iov, 1);
    queue_run_one(queue, &request);
    assert_ok(request.status);
    assert_int_equal(request.bytes_done, 0);
    iov = (struct iovec){memory, PIECE};
    request_init(&request, DISK_READ, plain, BLOCK, &iov, 1);
    queue_run_one(queue, &request);
    assert_ok(request.status);
    assert_int_equal(request.bytes_done, 5000 - BLOCK);
    assert_ok(disk_queue_destroy(queue, SECONDS));
    disk_close(rig.disk, file);
    disk_close(rig.disk, plain);
    free(memory);
    rig_fini(&rig);
}

static void failed_requests_do_not_wedge_the_queue(void **state)
{
    struct rig rig;
    if (!rig_init(&rig, state)) {
        skip();
    }
    struct disk_queue *queue;
    struct disk_queue_options options = {.depth = 4};
    struct disk_request requests[4];
    struct disk_request *list[4];
    struct disk_request *done[4];
    struct iovec iovs[4];
    uint8_t *memory = zeroed_blocks(4 * BLOCK);
    struct disk_file file = rig_open(&rig, "a", NEW);
    disk_close(rig.disk, file);
    file = rig_open(&rig, "a", 0); /* not for writing */
    assert_ok(disk_queue_create(rig.disk, &options, &queue));
    for (unsigned round = 0; round < 50; round++) {
        for (unsigned i = 0; i < 4; i++) {
            iovs[i] = (struct iovec){memory + i * BLOCK, BLOCK};
            request_init(&requests[i], i == 3 ? DISK_READ : DISK_WRITE, file, 0, &iovs[i], 1);
            list[i] = &requests[i];
        }
        disk_queue_submit(queue, list, 4);
        unsigned got = 0;
        while (got < 4) {
            unsigned now = disk_queue_wait(queue, 1, 4, 10 * SECONDS, done);
            assert_int_not_equal(now, 0);
            got += now;
        }
        assert_status(requests[0].status, UMBP_IO);
        assert_status(requests[2].status, UMBP_IO);
        assert_ok(requests[3].status);
    }
    assert_int_equal(queue->in_flight, 0);
    assert_ok(disk_queue_destroy(queue, SECONDS));
    disk_close(rig.disk, file);
    free(memory);
    rig_fini(&rig);
}

static void queue_options_outside_the_limits_are_refused(void **state)
{
    struct rig rig;
    if (!rig_init(&rig, state)) {
        skip();
    }
    struct disk_queue *queue = NULL;
    struct disk_queue_options options = {.depth = 0};
    assert_status(disk_queue_create(rig.disk, &options, &queue), UMBP_INVALID_VALUE);
    options.depth = DISK_QUEUE_DEPTH_MAX + 1;
    assert_status(disk_queue_create(rig.disk, &options, &queue), UMBP_INVALID_VALUE);
    assert_null(queue);
    rig_fini(&rig);
}

static unsigned allocations_left;
static bool allow_some(void *context, size_t bytes)
{
    (void)context;
    (void)bytes;
    if (allocations_left == 0) {
        return false;
    }
    allocations_left--;
    return true;
}

static void no_memory_at_any_allocation_leaves_nothing_behind(void **state)
{
    struct rig rig;
    if (!rig_init(&rig, state)) {
        skip();
    }
    rig_fini(&rig);
    unsigned files = test_fd_count();
    bool through = false;
    for (unsigned n = 0; n < 50 && !through; n++) {
        struct disk *disk = NULL;
        struct disk_queue *queue = NULL;
        struct disk_queue_options options = {.depth = 4};
        enum umbp_status status;
        allocations_left = n;
        mem_set_hook(allow_some, NULL);
        if (strcmp(*state, "io_uring") == 0) {
            status = disk_uring_create(&disk);
        } else if (strcmp(*state, "memory") == 0) {
            status = disk_memory_create(1, &disk);
        } else if (strcmp(*state, "posix_inline") == 0) {
            status = disk_posix_create(0, &disk);
        } else {
            status = disk_posix_create(2, &disk);
        }
        if (status == UMBP_OK && strcmp(*state, "fault") == 0) {
            status = disk_fault_create(disk, &disk);
            disk = status == UMBP_OK ? disk : NULL;
        } else if (status == UMBP_OK && strcmp(*state, "bounded") == 0) {
            status = disk_bounded_create(disk, true, SECONDS, &disk);
            disk = status == UMBP_OK ? disk : NULL;
        }
        if (status == UMBP_OK) {
            status = disk_queue_create(disk, &options, &queue);
        }
        mem_set_hook(NULL, NULL);
        through = status == UMBP_OK;
        if (!through) {
            assert_status(status, UMBP_NO_MEMORY);
        }
        assert_ok(disk_queue_destroy(queue, SECONDS));
        disk_destroy(disk);
    }
    assert_true(through);
    assert_int_equal(test_fd_count(), files);
}

#define OVER(driver)                                                                               \
    T(driver, every_operation_is_there), T(driver, queue_options_outside_the_limits_are_refused),  \
        T(driver, what_is_written_is_read_back_short_only_at_the_end),                             \
        T(driver, opening_says_missing_and_existing),                                              \
        T(driver, allocate_and_truncate_set_the_length),                                           \
        T(driver, names_are_made_renamed_listed_and_removed),                                      \
        T(driver, a_lock_keeps_others_out_until_it_is_closed),                                     \
        T(driver, an_open_file_outlives_its_name),                                                 \
        T(driver, a_queue_carries_gathered_writes_and_fixed_reads),                                \
        T(driver, a_read_at_the_end_is_short_and_ok),                                              \
        T(driver, failed_requests_do_not_wedge_the_queue),                                         \
        T(driver, no_memory_at_any_allocation_leaves_nothing_behind)
#define T(driver, test)                                                                            \
    {                                                                                              \
        driver ": " #test, test, NULL, NULL, driver                                                \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {OVER("io_uring"), OVER("posix"), OVER("posix_inline"),
                                       OVER("memory"),   OVER("fault"), OVER("bounded")};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
