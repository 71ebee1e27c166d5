/* SPDX-License-Identifier: Apache-2.0 */
/* Requests: how a short or interrupted transfer goes on, the same in every driver. */
#include <errno.h>

#include "disk/disk_priv.h"

/* EINTR and EAGAIN in a row for one request before it is given up. */
#define DISK_RETRIES_MAX 1000u

void disk_request_begin(struct disk_queue *queue, struct disk_request *request)
{
    ASSERT(queue->in_flight < queue->depth);
    ASSERT(request->iov_count <= DISK_IOV_MAX);
    ASSERT(request->buffer_index < 0 || request->iov_count == 1);
    request->status = UMBP_OK;
    request->bytes_done = 0;
    request->queue = queue;
    request->due_ns = 0;
    request->retries = 0;
    list_init(&request->link);
    queue->in_flight++;
}

/* Drop `bytes` from the front of the request's iovec. */
static void advance(struct disk_request *request, uint64_t bytes)
{
    request->bytes_done += bytes;
    while (request->iov_count > 0 && bytes >= request->iov->iov_len) {
        bytes -= request->iov->iov_len;
        request->iov++;
        request->iov_count--;
    }
    if (bytes > 0) {
        ASSERT(request->iov_count > 0);
        request->iov->iov_base = (char *)request->iov->iov_base + bytes;
        request->iov->iov_len -= bytes;
    }
}

enum disk_step disk_request_step(struct disk_request *request, int64_t result)
{
    if (result == -EINTR || result == -EAGAIN) {
        if (request->retries++ < DISK_RETRIES_MAX) {
            return DISK_STEP_AGAIN;
        }
        request->status = UMBP_IO;
        return DISK_STEP_DONE;
    }
    if (result < 0) {
        request->status = disk_status_of_transfer((int)-result);
        return DISK_STEP_DONE;
    }
    if (request->verb == DISK_SYNC) {
        return DISK_STEP_DONE;
    }
    advance(request, (uint64_t)result);
    if (request->iov_count == 0) {
        return DISK_STEP_DONE;
    }
    if (request->verb == DISK_WRITE) {
        request->status = result == 0 ? UMBP_IO : UMBP_OK;
        return result == 0 ? DISK_STEP_DONE : DISK_STEP_AGAIN;
    }
    /* A direct read that stops inside a block has met the end; going on from there would be refused
     * for its alignment. */
    bool is_end =
        result == 0 || (request->file.is_direct && request->bytes_done % DISK_ALIGN_BYTES != 0);
    return is_end ? DISK_STEP_DONE : DISK_STEP_AGAIN;
}

bool disk_queue_options_are_valid(const struct disk_queue_options *options)
{
    return options->depth >= 1 && options->depth <= DISK_QUEUE_DEPTH_MAX &&
           options->buffer_count <= DISK_BUFFERS_MAX &&
           (options->buffer_count == 0 || options->buffers);
}
