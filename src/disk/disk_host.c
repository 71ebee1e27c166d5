/* SPDX-License-Identifier: Apache-2.0 */
/* The system calls that both drivers for real files share. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk/disk_priv.h"

/* One transfer of read_at and write_at; the kernel cuts at 0x7ffff000 anyway. */
#define DISK_SYNC_TRANSFER_MAX ((size_t)1 << 30)

enum umbp_status disk_status_of_errno(int error)
{
    switch (error) {
    case 0:
        return UMBP_OK;
    case ENOENT:
    case ENOTDIR:
        return UMBP_NOT_FOUND;
    case EEXIST:
        return UMBP_ALREADY_EXISTS;
    case EROFS:
    case EACCES:
    case EPERM:
        return UMBP_READ_ONLY;
    case ENOSPC:
    case EDQUOT:
    case EFBIG: /* the file may not become as large as that (RLIMIT_FSIZE, the file system) */
        return UMBP_NO_SPACE;
    case ENOMEM:
        return UMBP_NO_MEMORY;
    case EMFILE:
    case ENFILE:
        return UMBP_LIMIT;
    case ENAMETOOLONG:
    case EISDIR:
    case EINVAL:
        return UMBP_INVALID_VALUE;
    case EOPNOTSUPP:
    case ENOSYS:
        return UMBP_UNSUPPORTED;
    case ETIMEDOUT:
        return UMBP_TIMEOUT;
    default:
        return UMBP_IO;
    }
}

enum umbp_status disk_status_of_transfer(int error)
{
    enum umbp_status status = disk_status_of_errno(error);
    return status == UMBP_NO_SPACE || status == UMBP_NO_MEMORY ? status : UMBP_IO;
}

static int open_retrying(const char *path, int flags)
{
    int fd;
    do {
        fd = open(path, flags, 0600);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

enum umbp_status disk_host_open(struct disk *disk, const char *path, unsigned flags,
                                struct disk_file *file_out)
{
    struct disk_host *host = CONTAINER_OF(disk, struct disk_host, disk);
    int mode = O_CLOEXEC;
    mode |= flags & DISK_OPEN_WRITE ? O_RDWR : O_RDONLY;
    mode |= flags & DISK_OPEN_CREATE ? O_CREAT : 0;
    mode |= flags & DISK_OPEN_EXCLUSIVE ? O_EXCL : 0;
    mode |= flags & DISK_OPEN_TRUNCATE ? O_TRUNC : 0;
    bool is_direct = (flags & DISK_OPEN_DIRECT) != 0;
    int fd = -1;
    if (is_direct) {
        fd = open_retrying(path, mode | O_DIRECT);
        if (fd < 0 && errno == EINVAL) {
            /* open(2): the file may have been created before the flag was refused. */
            is_direct = false;
            mode &= ~O_EXCL;
            if (!atomic_exchange_explicit(&host->warned_buffered, true, memory_order_relaxed)) {
                log_warn("disk_buffered", "path=\"%s\" reason=\"the file system refuses O_DIRECT\"",
                         path);
            }
        }
    }
    if (fd < 0 && !is_direct) {
        fd = open_retrying(path, mode);
    }
    if (fd < 0) {
        return disk_status_of_errno(errno);
    }
    *file_out = (struct disk_file){.handle = fd, .is_direct = is_direct};
    return UMBP_OK;
}

void disk_host_close(struct disk *disk, struct disk_file file)
{
    (void)disk;
    /* A forked child that lives on has the descriptor too, and would keep the lock. */
    (void)flock((int)file.handle, LOCK_UN);
    (void)close((int)file.handle); /* Linux frees the descriptor whatever close answers */
}

enum umbp_status disk_host_size(struct disk *disk, struct disk_file file, uint64_t *bytes_out)
{
    struct stat stat;
    (void)disk;
    if (fstat((int)file.handle, &stat) != 0) {
        return disk_status_of_errno(errno);
    }
    *bytes_out = (uint64_t)stat.st_size;
    return UMBP_OK;
}

enum umbp_status disk_host_allocate(struct disk *disk, struct disk_file file, uint64_t bytes)
{
    int result;
    (void)disk;
    do {
        result = fallocate((int)file.handle, 0, 0, (off_t)bytes);
    } while (result != 0 && errno == EINTR);
    return result == 0 ? UMBP_OK : disk_status_of_errno(errno);
}

enum umbp_status disk_host_truncate(struct disk *disk, struct disk_file file, uint64_t bytes)
{
    int result;
    (void)disk;
    do {
        result = ftruncate((int)file.handle, (off_t)bytes);
    } while (result != 0 && errno == EINTR);
    return result == 0 ? UMBP_OK : disk_status_of_errno(errno);
}

enum umbp_status disk_host_read_at(struct disk *disk, struct disk_file file, void *to, size_t bytes,
                                   uint64_t offset, size_t *bytes_out)
{
    size_t done = 0;
    (void)disk;
    while (done < bytes) {
        ssize_t got = pread((int)file.handle, (char *)to + done,
                            size_min(bytes - done, DISK_SYNC_TRANSFER_MAX), (off_t)(offset + done));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return disk_status_of_transfer(errno);
        }
        done += (size_t)got;
        if (got == 0 || (file.is_direct && (size_t)got % DISK_ALIGN_BYTES != 0)) {
            break; /* the end of the file */
        }
    }
    *bytes_out = done;
    return UMBP_OK;
}

enum umbp_status disk_host_write_at(struct disk *disk, struct disk_file file, const void *from,
                                    size_t bytes, uint64_t offset)
{
    size_t done = 0;
    (void)disk;
    while (done < bytes) {
        ssize_t put =
            pwrite((int)file.handle, (const char *)from + done,
                   size_min(bytes - done, DISK_SYNC_TRANSFER_MAX), (off_t)(offset + done));
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return put == 0 ? UMBP_IO : disk_status_of_transfer(errno);
        }
        done += (size_t)put;
    }
    return UMBP_OK;
}

enum umbp_status disk_host_sync_file(struct disk *disk, struct disk_file file)
{
    (void)disk;
    /* Not retried: after a failed sync the kernel may have dropped the pages it could not write. */
    return fdatasync((int)file.handle) == 0 ? UMBP_OK : disk_status_of_transfer(errno);
}

enum umbp_status disk_host_lock(struct disk *disk, struct disk_file file)
{
    int result;
    (void)disk;
    do {
        result = flock((int)file.handle, LOCK_EX | LOCK_NB);
    } while (result != 0 && errno == EINTR);
    if (result == 0) {
        return UMBP_OK;
    }
    return errno == EWOULDBLOCK ? UMBP_LOCKED : disk_status_of_errno(errno);
}

enum umbp_status disk_host_unlink(struct disk *disk, const char *path)
{
    (void)disk;
    return unlink(path) == 0 ? UMBP_OK : disk_status_of_errno(errno);
}

enum umbp_status disk_host_rename(struct disk *disk, const char *from, const char *to)
{
    (void)disk;
    return rename(from, to) == 0 ? UMBP_OK : disk_status_of_errno(errno);
}

enum umbp_status disk_host_make_directory(struct disk *disk, const char *path)
{
    (void)disk;
    return mkdir(path, 0700) == 0 ? UMBP_OK : disk_status_of_errno(errno);
}

enum umbp_status disk_host_sync_directory(struct disk *disk, const char *path)
{
    (void)disk;
    int fd = open_retrying(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return disk_status_of_errno(errno);
    }
    int error = fsync(fd) == 0 ? 0 : errno;
    (void)close(fd);
    /* Some file systems can't sync a directory, and order its changes themselves. */
    return error == 0 || error == EINVAL ? UMBP_OK : disk_status_of_transfer(error);
}

static bool entry_is_regular(int directory_fd, const struct dirent *entry)
{
    if (entry->d_type != DT_UNKNOWN) {
        return entry->d_type == DT_REG;
    }
    struct stat stat;
    return fstatat(directory_fd, entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) == 0 &&
           S_ISREG(stat.st_mode);
}

enum umbp_status
disk_host_list(struct disk *disk, const char *path,
               void (*visit)(void *context, const char *name, bool is_regular_file), void *context)
{
    (void)disk;
    DIR *directory = opendir(path);
    if (!directory) {
        return disk_status_of_errno(errno);
    }
    enum umbp_status status = UMBP_OK;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(directory);
        if (!entry) {
            status = disk_status_of_errno(errno);
            break;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            visit(context, entry->d_name, entry_is_regular(dirfd(directory), entry));
        }
    }
    (void)closedir(directory);
    return status;
}
