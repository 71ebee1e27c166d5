/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver for kernels without io_uring: preadv and pwritev, by a few persistent threads that
 * all queues of the instance share, or by the submitter.
 *
 *   submit ──► disk's list of work ──► a thread ──► the queue's list of finished requests ──► wait
 *
 * One mutex (RANK_DISK) guards both lists; it is never held over a system call.
 */
#include <errno.h>
#include <limits.h>
#include <sys/uio.h>
#include <unistd.h>

#include "disk/disk_priv.h"

#define POSIX_THREADS_MAX 64u

struct posix_disk {
    struct disk_host host;
    struct mutex mutex; /* RANK_DISK; guards work, is_stopping, and every queue's finished list */
    struct condition work_arrived;
    struct list_node work;
    bool is_stopping;
    unsigned thread_count; /* constant once created; 0: the submitter works */
    pthread_t threads[POSIX_THREADS_MAX];
};

struct posix_queue {
    struct disk_queue queue;
    struct condition finished_one; /* with the disk's mutex */
    struct list_node finished;
    unsigned finished_count;
};

static struct posix_disk *posix_of(struct disk *disk)
{
    return CONTAINER_OF(disk, struct posix_disk, host.disk);
}

static struct posix_queue *posix_queue_of(struct disk_queue *queue)
{
    return CONTAINER_OF(queue, struct posix_queue, queue);
}

static int64_t posix_transfer(const struct disk_request *request)
{
    int fd = (int)request->file.handle;
    off_t offset = (off_t)(request->offset + request->bytes_done);
    int count = (int)request->iov_count;
    ssize_t result = 0;
    switch (request->verb) {
    case DISK_READ:
        result = preadv(fd, request->iov, count, offset);
        break;
    case DISK_WRITE:
        result = pwritev(fd, request->iov, count, offset);
        break;
    case DISK_SYNC:
        result = fdatasync(fd);
        break;
    }
    return result < 0 ? -(int64_t)errno : result;
}

static void posix_execute(struct disk_request *request)
{
    if (request->verb != DISK_SYNC && request->iov_count == 0) {
        return;
    }
    while (disk_request_step(request, posix_transfer(request)) == DISK_STEP_AGAIN) {
    }
}

static void *posix_thread(void *context)
{
    struct posix_disk *disk = context;
    mutex_lock(&disk->mutex);
    while (!disk->is_stopping) {
        if (list_is_empty(&disk->work)) {
            (void)condition_wait(&disk->work_arrived, &disk->mutex,
                                 clock_deadline_ns(clock_monotonic(), 60000));
            continue;
        }
        struct disk_request *request = CONTAINER_OF(disk->work.next, struct disk_request, link);
        struct posix_queue *queue = posix_queue_of(request->queue);
        list_remove(&request->link);
        mutex_unlock(&disk->mutex);
        posix_execute(request);
        mutex_lock(&disk->mutex);
        list_push_back(&queue->finished, &request->link);
        queue->finished_count++;
        condition_signal(&queue->finished_one);
    }
    mutex_unlock(&disk->mutex);
    return NULL;
}

static enum umbp_status posix_queue_create(struct disk *disk,
                                           const struct disk_queue_options *options,
                                           struct disk_queue **queue_out)
{
    if (!disk_queue_options_are_valid(options)) {
        return UMBP_INVALID_VALUE;
    }
    struct posix_queue *queue = mem_zalloc(sizeof(*queue));
    if (!queue) {
        return UMBP_NO_MEMORY;
    }
    queue->queue.disk = disk;
    queue->queue.depth = options->depth;
    condition_init(&queue->finished_one);
    list_init(&queue->finished);
    *queue_out = &queue->queue;
    return UMBP_OK;
}

static void posix_queue_submit(struct disk_queue *base, struct disk_request *const *requests,
                               unsigned count)
{
    struct posix_disk *disk = posix_of(base->disk);
    struct posix_queue *queue = posix_queue_of(base);
    for (unsigned i = 0; i < count; i++) {
        disk_request_begin(base, requests[i]);
        if (disk->thread_count == 0) {
            posix_execute(requests[i]);
        }
    }
    mutex_lock(&disk->mutex);
    for (unsigned i = 0; i < count; i++) {
        if (disk->thread_count == 0) {
            list_push_back(&queue->finished, &requests[i]->link);
            queue->finished_count++;
        } else {
            list_push_back(&disk->work, &requests[i]->link);
            condition_signal(&disk->work_arrived);
        }
    }
    mutex_unlock(&disk->mutex);
}

static unsigned posix_queue_wait(struct disk_queue *base, unsigned min, unsigned max,
                                 uint64_t timeout_ns, struct disk_request **done_out)
{
    struct posix_disk *disk = posix_of(base->disk);
    struct posix_queue *queue = posix_queue_of(base);
    uint64_t now = clock_now_ns(clock_monotonic());
    uint64_t deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
    unsigned taken = 0;
    min = min < max ? min : max;
    min = min < base->in_flight ? min : base->in_flight;
    mutex_lock(&disk->mutex);
    while (queue->finished_count < min &&
           condition_wait(&queue->finished_one, &disk->mutex, deadline)) {
    }
    while (taken < max && queue->finished_count > 0) {
        struct disk_request *request =
            CONTAINER_OF(queue->finished.next, struct disk_request, link);
        list_remove(&request->link);
        queue->finished_count--;
        done_out[taken++] = request;
    }
    mutex_unlock(&disk->mutex);
    base->in_flight -= taken;
    return taken;
}

static enum umbp_status posix_queue_destroy(struct disk_queue *base, uint64_t timeout_ns)
{
    struct posix_queue *queue = posix_queue_of(base);
    uint64_t deadline = clock_now_ns(clock_monotonic());
    deadline = timeout_ns > UINT64_MAX - deadline ? UINT64_MAX : deadline + timeout_ns;
    while (base->in_flight > 0) {
        struct disk_request *done[16];
        if (posix_queue_wait(base, 1, ARRAY_COUNT(done), clock_left_ns(clock_monotonic(), deadline),
                             done) == 0) {
            return UMBP_TIMEOUT;
        }
    }
    condition_fini(&queue->finished_one);
    mem_free(queue);
    return UMBP_OK;
}

static void posix_destroy(struct disk *base)
{
    struct posix_disk *disk = posix_of(base);
    mutex_lock(&disk->mutex);
    disk->is_stopping = true;
    condition_broadcast(&disk->work_arrived);
    mutex_unlock(&disk->mutex);
    for (unsigned i = 0; i < disk->thread_count; i++) {
        (void)pthread_join(disk->threads[i], NULL);
    }
    condition_fini(&disk->work_arrived);
    mutex_fini(&disk->mutex);
    mem_free(disk);
}

#define POSIX_CALLS                                                                                \
    .is_durable = true, .open = disk_host_open, .close = disk_host_close, .size = disk_host_size,  \
    .allocate = disk_host_allocate, .truncate = disk_host_truncate, .read_at = disk_host_read_at,  \
    .write_at = disk_host_write_at, .sync_file = disk_host_sync_file, .lock = disk_host_lock,      \
    .unlink = disk_host_unlink, .rename = disk_host_rename,                                        \
    .make_directory = disk_host_make_directory, .sync_directory = disk_host_sync_directory,        \
    .list = disk_host_list, .queue_create = posix_queue_create,                                    \
    .queue_destroy = posix_queue_destroy, .queue_submit = posix_queue_submit,                      \
    .queue_wait = posix_queue_wait, .destroy = posix_destroy,

static const struct disk_ops posix_ops = {.name = "posix", .is_async = true, POSIX_CALLS};
static const struct disk_ops posix_inline_ops = {
    .name = "posix_inline", .is_async = false, POSIX_CALLS};

enum umbp_status disk_posix_create(unsigned threads, struct disk **disk_out)
{
    if (threads > POSIX_THREADS_MAX) {
        return UMBP_INVALID_VALUE;
    }
    struct posix_disk *disk = mem_zalloc(sizeof(*disk));
    if (!disk) {
        return UMBP_NO_MEMORY;
    }
    disk->host.disk.ops = threads > 0 ? &posix_ops : &posix_inline_ops;
    atomic_init(&disk->host.warned_buffered, false);
    mutex_init(&disk->mutex, RANK_DISK);
    condition_init(&disk->work_arrived);
    list_init(&disk->work);
    for (unsigned i = 0; i < threads; i++) {
        enum umbp_status status =
            thread_create(&disk->threads[i], "umbp-disk", false, posix_thread, disk);
        if (status != UMBP_OK) {
            posix_destroy(&disk->host.disk);
            return status;
        }
        disk->thread_count = i + 1;
    }
    *disk_out = &disk->host.disk;
    return UMBP_OK;
}
