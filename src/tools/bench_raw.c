/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw direct I/O: the limit of the SSD tier. One thread, one ring, 16 requests of 1 MiB in flight,
 * in order, nothing else done. The bytes come from and go to the working set, as those of a store
 * do, in huge pages: a request is one piece then, which can double what fio shows by default with
 * its scattered pages. The first write to a file's fresh blocks costs more than a later one (the
 * file system marks them as written), and a log only ever writes fresh blocks, so the file is made
 * anew for every write.
 */
#include "tools/bench.h"

#if defined(UMBP_HAVE_LIBURING)

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <unistd.h>

#define RAW_IO_BYTES ((unsigned)MIB)
#define RAW_DEPTH 16u
#define RAW_WAIT_S 30

struct bench_raw {
    char path[BENCH_PATH_BYTES];
    uint64_t bytes;
    struct io_uring ring;
    struct bench_arena memory; /* borrowed */
    int fd;                    /* -1: none */
};

static enum umbp_status status_of(int error)
{
    switch (error) {
    case ENOSPC:
    case EDQUOT:
        return UMBP_NO_SPACE;
    case ENOMEM:
        return UMBP_NO_MEMORY;
    case EINVAL:
    case EOPNOTSUPP:
    case ENOSYS:
    case EPERM:
        return UMBP_UNSUPPORTED;
    default:
        return UMBP_IO;
    }
}

static void close_file(struct bench_raw *raw)
{
    if (raw->fd >= 0) {
        (void)close(raw->fd);
        raw->fd = -1;
    }
}

static enum umbp_status open_new(struct bench_raw *raw)
{
    close_file(raw);
    (void)unlink(raw->path);
    raw->fd = open(raw->path, O_RDWR | O_CREAT | O_EXCL | O_DIRECT | O_CLOEXEC, 0600);
    if (raw->fd < 0) {
        return status_of(errno);
    }
    /* Where the file system can't set space aside, the file simply grows. */
    if (fallocate(raw->fd, 0, 0, (off_t)raw->bytes) != 0 && errno != EOPNOTSUPP) {
        return status_of(errno);
    }
    return UMBP_OK;
}

enum umbp_status bench_raw_create(const char *path, uint64_t bytes,
                                  const struct bench_arena *memory, struct bench_raw **raw_out)
{
    struct bench_raw *raw = mem_zalloc(sizeof *raw);
    enum umbp_status status;

    ASSERT(memory->bytes >= (size_t)RAW_DEPTH * RAW_IO_BYTES);
    if (raw == NULL) {
        return UMBP_NO_MEMORY;
    }
    snprintf(raw->path, sizeof raw->path, "%s", path);
    raw->bytes = align_down(bytes, RAW_IO_BYTES);
    raw->fd = -1;
    raw->memory = *memory;
    int error = io_uring_queue_init(RAW_DEPTH, &raw->ring, 0);
    if (error != 0) {
        status = status_of(-error);
        goto free_raw;
    }
    status = open_new(raw);
    if (status != UMBP_OK) {
        goto exit_ring;
    }
    *raw_out = raw;
    return UMBP_OK;

exit_ring:
    close_file(raw);
    io_uring_queue_exit(&raw->ring);
free_raw:
    mem_free(raw);
    return status;
}

void bench_raw_destroy(struct bench_raw *raw)
{
    if (raw == NULL) {
        return;
    }
    close_file(raw);
    (void)unlink(raw->path);
    io_uring_queue_exit(&raw->ring);
    mem_free(raw);
}

static void submit(struct bench_raw *raw, bool is_write, uint64_t offset)
{
    char *data = raw->memory.data + offset % align_down(raw->memory.bytes, RAW_IO_BYTES);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&raw->ring);
    ASSERT(sqe != NULL); /* never more than RAW_DEPTH in flight */
    if (is_write) {
        io_uring_prep_write(sqe, raw->fd, data, RAW_IO_BYTES, offset);
    } else {
        io_uring_prep_read(sqe, raw->fd, data, RAW_IO_BYTES, offset);
    }
}

/* One request out. */
static enum umbp_status reap(struct bench_raw *raw)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec wait = {.tv_sec = RAW_WAIT_S};
    int error;
    do {
        error = io_uring_submit_and_wait_timeout(&raw->ring, &cqe, 1, &wait, NULL);
    } while (error == -EINTR);
    if (error < 0 && error != -ETIME) {
        return status_of(-error);
    }
    if (io_uring_peek_cqe(&raw->ring, &cqe) != 0) {
        return UMBP_TIMEOUT;
    }
    int result = cqe->res;
    io_uring_cqe_seen(&raw->ring, cqe);
    if (result < 0) {
        return status_of(-result);
    }
    return result == (int)RAW_IO_BYTES ? UMBP_OK : UMBP_IO;
}

static enum umbp_status run(struct bench_raw *raw, bool is_write, uint64_t *ns_out)
{
    uint64_t start_ns = bench_now_ns();
    uint64_t next = 0;
    unsigned in_flight = 0;
    enum umbp_status failure = UMBP_OK;

    for (unsigned i = 0; i < RAW_DEPTH && next < raw->bytes; i++, next += RAW_IO_BYTES) {
        submit(raw, is_write, next);
        in_flight++;
    }
    while (in_flight > 0) {
        enum umbp_status status = reap(raw);
        if (status == UMBP_TIMEOUT) {
            return status; /* the ring's end waits for the rest */
        }
        in_flight--;
        failure = failure != UMBP_OK ? failure : status;
        if (failure == UMBP_OK && next < raw->bytes) {
            submit(raw, is_write, next);
            next += RAW_IO_BYTES;
            in_flight++;
        }
    }
    *ns_out = bench_now_ns() - start_ns;
    return failure;
}

enum umbp_status bench_raw_write(struct bench_raw *raw, uint64_t *ns_out)
{
    enum umbp_status status = open_new(raw);
    return status == UMBP_OK ? run(raw, true, ns_out) : status;
}

enum umbp_status bench_raw_read(struct bench_raw *raw, uint64_t *ns_out)
{
    return run(raw, false, ns_out);
}

#else /* without liburing there is no limit to hold the SSD tier against */

enum umbp_status bench_raw_create(const char *path, uint64_t bytes,
                                  const struct bench_arena *memory, struct bench_raw **raw_out)
{
    (void)path;
    (void)bytes;
    (void)memory;
    (void)raw_out;
    return UMBP_UNSUPPORTED;
}

void bench_raw_destroy(struct bench_raw *raw) { (void)raw; }

enum umbp_status bench_raw_write(struct bench_raw *raw, uint64_t *ns_out)
{
    (void)raw;
    (void)ns_out;
    return UMBP_UNSUPPORTED;
}

enum umbp_status bench_raw_read(struct bench_raw *raw, uint64_t *ns_out)
{
    (void)raw;
    (void)ns_out;
    return UMBP_UNSUPPORTED;
}

#endif
