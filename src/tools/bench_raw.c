/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw direct I/O: the limit of the SSD tier. One thread, one ring, 16 requests of 1 MiB in flight,
 * in order, nothing else done. The bytes come from and go to the working set, as those of a store
 * do, in huge pages: a request is one piece then, which can double what fio shows by default with
 * its scattered pages. The first write to a file's fresh blocks costs more than a later one (the
 * file system marks them as written), and a log only ever writes fresh blocks, so the file is made
 * anew for every write. Reads are of the store's own files: where a file lies on the device can
 * make a third of a difference, from file to file, on a virtual disk.
 */
#include "tools/bench.h"

#if defined(UMBP_HAVE_LIBURING)

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <unistd.h>

#define RAW_IO_BYTES ((unsigned)MIB)
#define RAW_DEPTH 16u
#define RAW_FILES_MAX 256u
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

/* What is read or written: files, one after the other, in pieces of RAW_IO_BYTES. */
struct raw_walk {
    bool is_write;
    int fds[RAW_FILES_MAX];
    uint64_t bytes[RAW_FILES_MAX];
    unsigned count;
    unsigned file;
    uint64_t offset;
    uint64_t done; /* bytes asked for */
};

/* Ask for the next piece; false when there is none. */
static bool submit_next(struct bench_raw *raw, struct raw_walk *walk)
{
    while (walk->file < walk->count && walk->offset + RAW_IO_BYTES > walk->bytes[walk->file]) {
        walk->file++;
        walk->offset = 0;
    }
    if (walk->file == walk->count) {
        return false;
    }
    char *data = raw->memory.data + walk->done % align_down(raw->memory.bytes, RAW_IO_BYTES);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&raw->ring);
    ASSERT(sqe != NULL); /* never more than RAW_DEPTH in flight */
    if (walk->is_write) {
        io_uring_prep_write(sqe, walk->fds[walk->file], data, RAW_IO_BYTES, walk->offset);
    } else {
        io_uring_prep_read(sqe, walk->fds[walk->file], data, RAW_IO_BYTES, walk->offset);
    }
    walk->offset += RAW_IO_BYTES;
    walk->done += RAW_IO_BYTES;
    return true;
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

static enum umbp_status run(struct bench_raw *raw, struct raw_walk *walk, uint64_t *ns_out)
{
    uint64_t start_ns = bench_now_ns();
    unsigned in_flight = 0;
    enum umbp_status failure = UMBP_OK;

    while (in_flight < RAW_DEPTH && submit_next(raw, walk)) {
        in_flight++;
    }
    while (in_flight > 0) {
        enum umbp_status status = reap(raw);
        if (status == UMBP_TIMEOUT) {
            return status; /* the ring's end waits for the rest */
        }
        in_flight--;
        failure = failure != UMBP_OK ? failure : status;
        if (failure == UMBP_OK && submit_next(raw, walk)) {
            in_flight++;
        }
    }
    *ns_out = bench_now_ns() - start_ns;
    return failure;
}

enum umbp_status bench_raw_write(struct bench_raw *raw, uint64_t *ns_out)
{
    enum umbp_status status = open_new(raw);
    struct raw_walk walk = {.is_write = true, .fds = {raw->fd}, .bytes = {raw->bytes}, .count = 1};
    return status == UMBP_OK ? run(raw, &walk, ns_out) : status;
}

/* The file's bytes up to its first hole: what is set aside and not written yet costs no read. */
static void add_file(struct raw_walk *walk, int directory, const char *name)
{
    if (walk->count == RAW_FILES_MAX) {
        return;
    }
    int fd = openat(directory, name, O_RDONLY | O_DIRECT | O_CLOEXEC);
    off_t end = fd >= 0 ? lseek(fd, 0, SEEK_HOLE) : -1;
    if (end < (off_t)RAW_IO_BYTES) {
        if (fd >= 0) {
            (void)close(fd);
        }
        return;
    }
    walk->fds[walk->count] = fd;
    walk->bytes[walk->count++] = (uint64_t)end;
}

enum umbp_status bench_raw_read(struct bench_raw *raw, const char *directory, uint64_t *bytes_out,
                                uint64_t *ns_out)
{
    struct raw_walk walk = {.count = 0};
    struct dirent *entry;
    DIR *files = opendir(directory);
    if (files == NULL) {
        return status_of(errno);
    }
    while ((entry = readdir(files)) != NULL) {
        add_file(&walk, dirfd(files), entry->d_name);
    }
    (void)closedir(files);
    enum umbp_status status = run(raw, &walk, ns_out);
    for (unsigned i = 0; i < walk.count; i++) {
        (void)close(walk.fds[i]);
    }
    *bytes_out = walk.done;
    return status;
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

enum umbp_status bench_raw_read(struct bench_raw *raw, const char *directory, uint64_t *bytes_out,
                                uint64_t *ns_out)
{
    (void)raw;
    (void)directory;
    (void)bytes_out;
    (void)ns_out;
    return UMBP_UNSUPPORTED;
}

#endif
