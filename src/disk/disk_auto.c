/* SPDX-License-Identifier: Apache-2.0 */
/* Choosing a driver by its name. */
#include "disk/disk_priv.h"

/* Enough for a solid-state disk's bandwidth; the threads only wait. */
#define AUTO_POSIX_THREADS 8u

enum umbp_status disk_auto_create(const char *name, struct disk **disk_out)
{
    if (strcmp(name, "posix") == 0) {
        return disk_posix_create(AUTO_POSIX_THREADS, disk_out);
    }
    if (strcmp(name, "io_uring") == 0) {
        return disk_uring_create(disk_out);
    }
    if (strcmp(name, "auto") != 0) {
        return UMBP_INVALID_VALUE;
    }
    enum umbp_status status = disk_uring_create(disk_out);
    if (status == UMBP_UNSUPPORTED || status == UMBP_NO_MEMORY) {
        log_warn("disk_no_io_uring", "reason=\"%s\" using=posix", disk_status_text(status));
        status = disk_posix_create(AUTO_POSIX_THREADS, disk_out);
    }
    return status;
}

const char *disk_status_text(enum umbp_status status)
{
    switch (status) {
    case UMBP_NOT_FOUND:
        return "no such file or directory";
    case UMBP_ALREADY_EXISTS:
        return "it is there already";
    case UMBP_READ_ONLY:
        return "permission denied, or a file system that is read-only";
    case UMBP_NO_SPACE:
        return "no space left on the disk";
    case UMBP_LIMIT:
        return "too many open files (ulimit -n)";
    case UMBP_INVALID_VALUE:
        return "not a name, or not a file, that can be opened so";
    case UMBP_UNSUPPORTED:
        return "not supported by the file system or the kernel";
    case UMBP_TIMEOUT:
        return "the device or the file system does not answer";
    case UMBP_IO:
        return "the device or the file system reports an error";
    default:
        return umbp_status_text(status);
    }
}

void disk_destroy(struct disk *disk)
{
    if (disk) {
        disk->ops->destroy(disk);
    }
}
