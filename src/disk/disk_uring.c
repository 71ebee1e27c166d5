/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The io_uring driver. One ring a queue, driven by whichever thread has the queue checked out.
 *
 * A ring's submission side never overflows: it has at least `depth` entries, the caller keeps
 * in_flight within depth, and every request has at most one entry outstanding. A completion may
 * ask for another turn of its request (a short transfer, EINTR, EAGAIN); that goes out with the
 * next submission. A failed request is an ordinary completion, so nothing is left behind in the
 * ring after it. Submission that the kernel refuses for the moment is tried again in every wait,
 * and the wait's deadline bounds it.
 */
#include <errno.h>

#include "disk/disk_priv.h"

#ifdef UMBP_HAVE_LIBURING

#include <liburing.h>

/* Completions taken per look at the ring. */
#define URING_BATCH 32u

struct uring_queue {
    struct disk_queue queue;
    struct io_uring ring;
    struct list_node finished; /* done without the kernel, or found while there was no room */
    unsigned finished_count;
    bool has_unsubmitted;
};

static struct uring_queue *uring_queue_of(struct disk_queue *queue)
{
    return CONTAINER_OF(queue, struct uring_queue, queue);
}

static enum umbp_status uring_init(struct io_uring *ring, unsigned depth)
{
    struct io_uring_params params;
    memset(&params, 0, sizeof(params));
    params.flags = IORING_SETUP_COOP_TASKRUN;
    int result = io_uring_queue_init_params(depth, ring, &params);
    if (result == -EINVAL) { /* Linux before 5.19 */
        memset(&params, 0, sizeof(params));
        result = io_uring_queue_init_params(depth, ring, &params);
    }
    if (result == 0) {
        return UMBP_OK;
    }
    if (result == -EMFILE || result == -ENFILE) {
        return UMBP_LIMIT;
    }
    return result == -ENOMEM ? UMBP_NO_MEMORY : UMBP_UNSUPPORTED;
}

/* Some sandboxes let a ring be made, and refuse to let it work. */
static enum umbp_status uring_try(struct io_uring *ring)
{
    struct __kernel_timespec span = {.tv_sec = 1};
    struct io_uring_cqe *cqe = NULL;
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    if (!sqe) {
        return UMBP_UNSUPPORTED;
    }
    io_uring_prep_nop(sqe);
    if (io_uring_submit(ring) != 1 || io_uring_wait_cqe_timeout(ring, &cqe, &span) != 0) {
        return UMBP_UNSUPPORTED;
    }
    io_uring_cqe_seen(ring, cqe);
    return UMBP_OK;
}

/* Registering saves pinning the pages at each read. Where RLIMIT_MEMLOCK is too small for it, reads
 * work as well without. */
static bool uring_register(struct io_uring *ring, const struct disk_queue_options *options)
{
    if (options->buffer_count == 0) {
        return false;
    }
    int result = io_uring_register_buffers(ring, options->buffers, options->buffer_count);
    if (result != 0) {
        log_debug("disk_buffers_not_registered", "buffers=%u error=%d", options->buffer_count,
                  -result);
    }
    return result == 0;
}

static enum umbp_status uring_queue_create(struct disk *disk,
                                           const struct disk_queue_options *options,
                                           struct disk_queue **queue_out)
{
    if (!disk_queue_options_are_valid(options)) {
        return UMBP_INVALID_VALUE;
    }
    struct uring_queue *queue = mem_zalloc(sizeof(*queue));
    if (!queue) {
        return UMBP_NO_MEMORY;
    }
    enum umbp_status status = uring_init(&queue->ring, options->depth);
    if (status != UMBP_OK) {
        mem_free(queue);
        return status;
    }
    queue->queue.disk = disk;
    queue->queue.depth = options->depth;
    queue->queue.has_fixed_buffers = uring_register(&queue->ring, options);
    list_init(&queue->finished);
    *queue_out = &queue->queue;
    return UMBP_OK;
}

static void uring_finish(struct uring_queue *queue, struct disk_request *request)
{
    list_push_back(&queue->finished, &request->link);
    queue->finished_count++;
}

/* Put the request, or what is left of it, on the ring. */
static void uring_prepare(struct uring_queue *queue, struct disk_request *request)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&queue->ring);
    if (!sqe) { /* earlier entries were refused; make room */
        (void)io_uring_submit(&queue->ring);
        sqe = io_uring_get_sqe(&queue->ring);
    }
    if (!sqe) {
        request->status = UMBP_IO;
        uring_finish(queue, request);
        return;
    }
    int fd = (int)request->file.handle;
    uint64_t offset = request->offset + request->bytes_done;
    bool is_fixed =
        request->buffer_index >= 0 && queue->queue.has_fixed_buffers && request->verb == DISK_READ;
    if (request->verb == DISK_SYNC) {
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    } else if (is_fixed) {
        io_uring_prep_read_fixed(sqe, fd, request->iov->iov_base, (unsigned)request->iov->iov_len,
                                 offset, request->buffer_index);
    } else if (request->verb == DISK_READ) {
        io_uring_prep_readv(sqe, fd, request->iov, request->iov_count, offset);
    } else {
        io_uring_prep_writev(sqe, fd, request->iov, request->iov_count, offset);
    }
    io_uring_sqe_set_data(sqe, request);
    queue->has_unsubmitted = true;
}

static void uring_flush(struct uring_queue *queue)
{
    if (queue->has_unsubmitted) {
        (void)io_uring_submit(&queue->ring);
        queue->has_unsubmitted = io_uring_sq_ready(&queue->ring) > 0;
    }
}

static void uring_queue_submit(struct disk_queue *base, struct disk_request *const *requests,
                               unsigned count)
{
    struct uring_queue *queue = uring_queue_of(base);
    for (unsigned i = 0; i < count; i++) {
        disk_request_begin(base, requests[i]);
        if (requests[i]->verb != DISK_SYNC && requests[i]->iov_count == 0) {
            uring_finish(queue, requests[i]);
        } else {
            uring_prepare(queue, requests[i]);
        }
    }
    uring_flush(queue);
}

/* Take what the kernel has finished, without waiting. */
static void uring_harvest(struct uring_queue *queue)
{
    struct io_uring_cqe *cqes[URING_BATCH];
    unsigned found;
    do {
        found = io_uring_peek_batch_cqe(&queue->ring, cqes, URING_BATCH);
        for (unsigned i = 0; i < found; i++) {
            if (cqes[i]->user_data == LIBURING_UDATA_TIMEOUT) {
                continue;
            }
            struct disk_request *request = io_uring_cqe_get_data(cqes[i]);
            int result = cqes[i]->res;
            if (disk_request_step(request, result) == DISK_STEP_DONE) {
                uring_finish(queue, request);
            } else {
                uring_prepare(queue, request);
            }
        }
        io_uring_cq_advance(&queue->ring, found);
    } while (found == URING_BATCH);
    uring_flush(queue);
}

/* Sleep until a completion is there or the time is up; errors and signals only wake us early. */
static void uring_sleep(struct uring_queue *queue, uint64_t timeout_ns)
{
    struct io_uring_cqe *cqe = NULL;
    uint64_t seconds = u64_min(timeout_ns / NS_PER_S, 3600);
    struct __kernel_timespec span = {.tv_sec = (long long)seconds,
                                     .tv_nsec = (long long)(timeout_ns % NS_PER_S)};
    int result = io_uring_submit_and_wait_timeout(&queue->ring, &cqe, 1, &span, NULL);
    queue->has_unsubmitted = io_uring_sq_ready(&queue->ring) > 0;
    if (result < 0 && result != -ETIME && result != -EINTR) {
        /* The kernel is short of something (EAGAIN, EBUSY): don't spin on it. */
        const struct timespec pause = {.tv_nsec = 100000};
        (void)nanosleep(&pause, NULL);
    }
}

static unsigned uring_queue_wait(struct disk_queue *base, unsigned min, unsigned max,
                                 uint64_t timeout_ns, struct disk_request **done_out)
{
    struct uring_queue *queue = uring_queue_of(base);
    uint64_t now = clock_now_ns(clock_monotonic());
    uint64_t deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
    unsigned taken = 0;
    min = min < max ? min : max;
    min = min < base->in_flight ? min : base->in_flight;
    uring_harvest(queue);
    while (queue->finished_count < min) {
        uint64_t left = clock_left_ns(clock_monotonic(), deadline);
        if (left == 0) {
            break;
        }
        uring_sleep(queue, left);
        uring_harvest(queue);
    }
    while (taken < max && queue->finished_count > 0) {
        struct disk_request *request =
            CONTAINER_OF(queue->finished.next, struct disk_request, link);
        list_remove(&request->link);
        queue->finished_count--;
        done_out[taken++] = request;
    }
    base->in_flight -= taken;
    return taken;
}

static enum umbp_status uring_queue_destroy(struct disk_queue *base, uint64_t timeout_ns)
{
    struct uring_queue *queue = uring_queue_of(base);
    uint64_t now = clock_now_ns(clock_monotonic());
    uint64_t deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
    while (base->in_flight > 0) {
        struct disk_request *done[URING_BATCH];
        if (uring_queue_wait(base, 1, URING_BATCH, clock_left_ns(clock_monotonic(), deadline),
                             done) == 0) {
            return UMBP_TIMEOUT;
        }
    }
    io_uring_queue_exit(&queue->ring);
    mem_free(queue);
    return UMBP_OK;
}

static void uring_destroy(struct disk *disk)
{
    mem_free(CONTAINER_OF(disk, struct disk_host, disk));
}

static const struct disk_ops uring_ops = {
    .name = "io_uring",
    .is_async = true,
    .is_durable = true,
    .open = disk_host_open,
    .close = disk_host_close,
    .size = disk_host_size,
    .allocate = disk_host_allocate,
    .truncate = disk_host_truncate,
    .read_at = disk_host_read_at,
    .write_at = disk_host_write_at,
    .sync_file = disk_host_sync_file,
    .lock = disk_host_lock,
    .unlink = disk_host_unlink,
    .rename = disk_host_rename,
    .make_directory = disk_host_make_directory,
    .sync_directory = disk_host_sync_directory,
    .list = disk_host_list,
    .queue_create = uring_queue_create,
    .queue_destroy = uring_queue_destroy,
    .queue_submit = uring_queue_submit,
    .queue_wait = uring_queue_wait,
    .destroy = uring_destroy,
};

enum umbp_status disk_uring_create(struct disk **disk_out)
{
    struct io_uring probe;
    enum umbp_status status = uring_init(&probe, 32);
    if (status != UMBP_OK) {
        return status;
    }
    status = uring_try(&probe);
    io_uring_queue_exit(&probe);
    if (status != UMBP_OK) {
        return status;
    }
    struct disk_host *host = mem_zalloc(sizeof(*host));
    if (!host) {
        return UMBP_NO_MEMORY;
    }
    host->disk.ops = &uring_ops;
    atomic_init(&host->warned_buffered, false);
    *disk_out = &host->disk;
    return UMBP_OK;
}

#else

enum umbp_status disk_uring_create(struct disk **disk_out)
{
    (void)disk_out;
    return UMBP_UNSUPPORTED;
}

#endif
