/* SPDX-License-Identifier: Apache-2.0 */
/* What the disk drivers share: the plain system calls, and the arithmetic of requests. */
#ifndef DISK_DISK_PRIV_H
#define DISK_DISK_PRIV_H

#include <stdatomic.h>

#include "disk/disk.h"

/* An instance whose files are file descriptors (io_uring and posix). */
struct disk_host {
    struct disk disk;
    atomic_bool warned_buffered; /* relaxed: at worst two lines */
};

enum umbp_status disk_host_open(struct disk *disk, const char *path, unsigned flags,
                                struct disk_file *file_out);
void disk_host_close(struct disk *disk, struct disk_file file);
enum umbp_status disk_host_size(struct disk *disk, struct disk_file file, uint64_t *bytes_out);
enum umbp_status disk_host_allocate(struct disk *disk, struct disk_file file, uint64_t bytes);
enum umbp_status disk_host_truncate(struct disk *disk, struct disk_file file, uint64_t bytes);
enum umbp_status disk_host_read_at(struct disk *disk, struct disk_file file, void *to, size_t bytes,
                                   uint64_t offset, size_t *bytes_out);
enum umbp_status disk_host_write_at(struct disk *disk, struct disk_file file, const void *from,
                                    size_t bytes, uint64_t offset);
enum umbp_status disk_host_sync_file(struct disk *disk, struct disk_file file);
enum umbp_status disk_host_lock(struct disk *disk, struct disk_file file);
enum umbp_status disk_host_unlink(struct disk *disk, const char *path);
enum umbp_status disk_host_rename(struct disk *disk, const char *from, const char *to);
enum umbp_status disk_host_make_directory(struct disk *disk, const char *path);
enum umbp_status disk_host_sync_directory(struct disk *disk, const char *path);
enum umbp_status
disk_host_list(struct disk *disk, const char *path,
               void (*visit)(void *context, const char *name, bool is_regular_file), void *context);

/* The status of a transfer that the kernel refused: like disk_status_of_errno, but whatever is not
 * about space or memory is UMBP_IO. */
enum umbp_status disk_status_of_transfer(int error);

/* Set a request's outputs and the driver's fields before it starts. */
void disk_request_begin(struct disk_queue *queue, struct disk_request *request);

/* What a transfer's result means for the request. */
enum disk_step {
    DISK_STEP_DONE,  /* status is set */
    DISK_STEP_AGAIN, /* submit what is left: iov, iov_count and offset + bytes_done say what */
};
/* `result` is what the system call gave: bytes, or minus errno. */
enum disk_step disk_request_step(struct disk_request *request, int64_t result);

/* A queue's options are within the limits. */
bool disk_queue_options_are_valid(const struct disk_queue_options *options);

#endif
