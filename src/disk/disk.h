/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The disk room's door: files and asynchronous queues behind one ops table, so that what the log
 * does with a file system can be made to fail, hang, tear or vanish in a test, and so that the log
 * never sees a driver.
 *
 *   struct disk       one instance of a driver; any number may exist
 *   struct disk_file  an open file, a plain value; copying it does not duplicate the file
 *   struct disk_queue requests in flight; made once, used by one thread at a time
 *
 * Errors. Every call answers an enum umbp_status; errno is converted here and nowhere else
 * (disk_status_of_errno): missing is UMBP_NOT_FOUND, not writable UMBP_READ_ONLY, full
 * UMBP_NO_SPACE, locked elsewhere UMBP_LOCKED, not offered by this file system UMBP_UNSUPPORTED,
 * anything the device says UMBP_IO.
 *
 * disk_status_text says it in words of files, where umbp_status_text speaks of keys and values.
 *
 * Threads. All functions may be called from any thread, except that a queue, its requests and its
 * buffers belong to one thread at a time. A driver's synchronous functions block for as long as the
 * kernel does, which on a sick device may be for ever; disk_bounded_create gives them an end.
 *
 * Direct I/O. A file opened with DISK_OPEN_DIRECT bypasses the page cache where the file system
 * can (else it is buffered, with one warning per instance). Its transfers must then have offset,
 * length and memory aligned to DISK_ALIGN_BYTES.
 */
#ifndef DISK_DISK_H
#define DISK_DISK_H

#include <sys/uio.h>

#include "base/base.h"

#define DISK_ALIGN_BYTES 4096u
#define DISK_QUEUE_DEPTH_MAX 1024u
#define DISK_IOV_MAX 1024u
#define DISK_BUFFERS_MAX 1024u

struct disk;
struct disk_queue;

struct disk_file {
    intptr_t handle; /* the driver's; -1: no file */
    bool is_direct;  /* transfers must be aligned */
};
#define DISK_FILE_NONE ((struct disk_file){.handle = -1, .is_direct = false})
static inline bool disk_file_is_open(struct disk_file file) { return file.handle >= 0; }

enum disk_open_flag {
    DISK_OPEN_WRITE = 1,     /* else read-only */
    DISK_OPEN_CREATE = 2,    /* mode 0600 */
    DISK_OPEN_EXCLUSIVE = 4, /* with CREATE: UMBP_ALREADY_EXISTS if it is there */
    DISK_OPEN_TRUNCATE = 8,
    DISK_OPEN_DIRECT = 16,
};

enum disk_verb {
    DISK_READ = 0,
    DISK_WRITE = 1,
    DISK_SYNC = 2, /* data, and what is needed to find it again (fdatasync) */
};

/*
 * One request. The caller owns the memory; from submit until it comes out of disk_queue_wait the
 * request, its iovec and its buffers belong to the queue. There is no way to take a request back:
 * a waiter that gives up must leave all three alone until the request comes out after all, or
 * for ever.
 */
struct disk_request {
    enum disk_verb verb;
    struct disk_file file;
    uint64_t offset;
    struct iovec *iov;  /* changed by the driver when it continues a short transfer */
    unsigned iov_count; /* at most DISK_IOV_MAX; 0 for DISK_SYNC */
    int buffer_index;   /* the iovec (one element) lies in this one of the queue's buffers, or -1 */
    void *user;         /* the caller's, untouched */

    /* Out. A read that meets the end of the file is UMBP_OK with fewer bytes; a write never is. */
    enum umbp_status status;
    uint64_t bytes_done;

    /* The driver's, while in flight. */
    struct list_node link;
    struct disk_queue *queue;
    uint64_t due_ns;
    unsigned retries;
};

struct disk_queue_options {
    unsigned depth;              /* most requests in flight, 1..DISK_QUEUE_DEPTH_MAX */
    const struct iovec *buffers; /* memory that requests will read into, registered where possible;
                                    must outlive the queue */
    unsigned buffer_count;
};

/* The head of every driver's queue. */
struct disk_queue {
    struct disk *disk;
    unsigned depth;
    unsigned in_flight; /* submitted, and not yet come out of wait */
    bool has_fixed_buffers;
};

struct disk_ops {
    const char *name;
    bool is_async;   /* requests make progress while the submitter does something else */
    bool is_durable; /* files outlive the process */

    /* `path` is absolute or relative to the working directory, at most 4,095 bytes. */
    enum umbp_status (*open)(struct disk *disk, const char *path, unsigned flags,
                             struct disk_file *file_out);
    void (*close)(struct disk *disk, struct disk_file file);
    enum umbp_status (*size)(struct disk *disk, struct disk_file file, uint64_t *bytes_out);
    /* Set space aside for [0, bytes) and make the file at least that long. */
    enum umbp_status (*allocate)(struct disk *disk, struct disk_file file, uint64_t bytes);
    enum umbp_status (*truncate)(struct disk *disk, struct disk_file file, uint64_t bytes);
    /* Fewer bytes than asked for only at the end of the file. */
    enum umbp_status (*read_at)(struct disk *disk, struct disk_file file, void *to, size_t bytes,
                                uint64_t offset, size_t *bytes_out);
    enum umbp_status (*write_at)(struct disk *disk, struct disk_file file, const void *from,
                                 size_t bytes, uint64_t offset);
    enum umbp_status (*sync_file)(struct disk *disk, struct disk_file file);
    /* Exclusive, without waiting, held until close: UMBP_LOCKED if another open file has it. */
    enum umbp_status (*lock)(struct disk *disk, struct disk_file file);

    enum umbp_status (*unlink)(struct disk *disk, const char *path);
    enum umbp_status (*rename)(struct disk *disk, const char *from, const char *to);
    enum umbp_status (*make_directory)(struct disk *disk, const char *path);
    enum umbp_status (*sync_directory)(struct disk *disk, const char *path);
    /* Every entry but "." and "..", in no order. `name` is borrowed until the visitor returns. */
    enum umbp_status (*list)(struct disk *disk, const char *path,
                             void (*visit)(void *context, const char *name, bool is_regular_file),
                             void *context);

    enum umbp_status (*queue_create)(struct disk *disk, const struct disk_queue_options *options,
                                     struct disk_queue **queue_out);
    /* Waits for what is in flight. UMBP_TIMEOUT: something still is, and the queue is left as it
     * is, for another try or for ever. */
    enum umbp_status (*queue_destroy)(struct disk_queue *queue, uint64_t timeout_ns);
    /* Never fails: a request that can't be handed on comes out of wait with its status. The caller
     * keeps in_flight + count within depth. */
    void (*queue_submit)(struct disk_queue *queue, struct disk_request *const *requests,
                         unsigned count);
    /* Take finished requests out, at least `min` unless the time is up, at most `max`. */
    unsigned (*queue_wait)(struct disk_queue *queue, unsigned min, unsigned max,
                           uint64_t timeout_ns, struct disk_request **done_out);

    void (*destroy)(struct disk *disk); /* no file or queue of it may be left */
};

/* The head of every driver's instance. */
struct disk {
    const struct disk_ops *ops;
};

/* ---------------------------------------------------------------------- drivers ---------- */

/* io_uring. UMBP_UNSUPPORTED (or UMBP_NO_MEMORY) where the kernel refuses it. */
MUST_USE enum umbp_status disk_uring_create(struct disk **disk_out);
/* preadv and pwritev by `threads` persistent threads (at most 64); 0: by the submitter itself. */
MUST_USE enum umbp_status disk_posix_create(unsigned threads, struct disk **disk_out);
/* "io_uring", "posix", or "auto": io_uring, else posix with one warning. Any other name is
 * UMBP_INVALID_VALUE. */
MUST_USE enum umbp_status disk_auto_create(const char *name, struct disk **disk_out);
void disk_destroy(struct disk *disk); /* takes NULL */
/* What a status of this room means, for people. Static storage. */
const char *disk_status_text(enum umbp_status status);

/*
 * Wraps any driver so that its synchronous calls end in time, too. They run on a few threads of the
 * wrapper's; a caller waits for `timeout_ns` at most, or until its thread's deadline (below), and
 * is told UMBP_TIMEOUT then. Queues are the inner driver's own.
 *
 * A call that has begun can't be taken back: it is given up, and may still take effect. Until it
 * has ended
 *   - every other call that would change the disk waits for that, and is UMBP_TIMEOUT at its own
 *     limit, so a given-up call never overtakes or undoes a later one;
 *   - a file that it is about is not closed, though disk_close returns at once, and neither is one
 *     that has a lock, if the call is a change: the lock would let another owner in too early;
 *   - it uses no memory of the caller's: paths and data are copied, lists are collected.
 * An exclusive creation that was given up removes its file when it ends; of a given-up opening
 * nothing is left. Once all threads are in given-up calls, no call but a change waits: it is
 * UMBP_TIMEOUT at once.
 *
 * disk_destroy leaves behind what is still stuck then, threads and inner driver included, until it
 * ends. With `owns_inner` the inner driver is destroyed with the wrapper (also when creating it
 * fails); else it must live until disk_bounded_given_up is 0.
 */
MUST_USE enum umbp_status disk_bounded_create(struct disk *inner, bool owns_inner,
                                              uint64_t timeout_ns, struct disk **disk_out);
/* For an owner that must leave the wrapper behind, since threads of its own may still use it: the
 * workers end, every call from now on is UMBP_TIMEOUT at once, and disk_destroy must not be called.
 */
void disk_bounded_retire(struct disk *disk);
/* Calls that were given up and have not ended. */
unsigned disk_bounded_given_up(const struct disk *disk);
/* When this thread's calls through any wrapper give up, of CLOCK_MONOTONIC; each has a quarter of a
 * second all the same. UINT64_MAX, as at first: only the wrapper's own limit. Returns what was set
 * before, for whoever sets it to put back. */
uint64_t disk_thread_deadline(uint64_t deadline_ns);

/*
 * Tests and simulators: files in memory, with a model of what a power cut does. What was not synced
 * is lost, kept or torn, by chance; a file's name is only safe after sync_directory.
 * `seed` decides that, and the order in which requests come out.
 */
MUST_USE enum umbp_status disk_memory_create(uint64_t seed, struct disk **disk_out);
/* Every file is closed, locks are gone, what was volatile is lost in part. Files and queues that
 * were open must only be closed or destroyed after that. */
void disk_memory_power_cut(struct disk *disk);
/* Space that files may take; UMBP_NO_SPACE beyond. */
void disk_memory_set_capacity(struct disk *disk, uint64_t bytes);
/* The raw bytes of a file, for flipping. NULL if there is none. Valid until the next call. */
uint8_t *disk_memory_file(struct disk *disk, const char *path, uint64_t *bytes_out);

/* ---------------------------------------------------------------------- faults ----------- */

/* Kinds of calls that the fault wrapper counts. A call is counted under each that fits it. */
enum disk_call {
    DISK_CALL_ANY,
    DISK_CALL_OPEN,
    DISK_CALL_CLOSE,  /* can be late, not fail; not under ANY */
    DISK_CALL_CREATE, /* open with DISK_OPEN_CREATE */
    DISK_CALL_SIZE,
    DISK_CALL_ALLOCATE,
    DISK_CALL_TRUNCATE,
    DISK_CALL_UNLINK,
    DISK_CALL_RENAME,
    DISK_CALL_MAKE_DIRECTORY,
    DISK_CALL_LIST,
    DISK_CALL_LOCK,
    DISK_CALL_READ,  /* synchronous and queued */
    DISK_CALL_WRITE, /* synchronous and queued */
    DISK_CALL_SYNC,  /* synchronous and queued, files and directories */
    DISK_CALL_QUEUE,
    DISK_CALL_CHANGE, /* whatever changes the disk: create .. make_directory, write, sync */
    DISK_CALL_COUNT,
};

enum disk_fault_action {
    DISK_FAULT_FAIL,  /* answers `status`, does nothing */
    DISK_FAULT_CRASH, /* a write is done up to `bytes`; then it and every later change fail */
    DISK_FAULT_SHORT, /* a write is done up to `bytes`, and answers `status` */
    DISK_FAULT_DELAY, /* a request starts `delay_ns` later */
    DISK_FAULT_NEVER, /* a request does not come out until disk_fault_release */
    DISK_FAULT_FLIP,  /* a read succeeds with one bit of its first iovec turned over */
    DISK_FAULT_STALL, /* a synchronous call does not begin until disk_fault_release or _clear */
};

struct disk_fault {
    enum disk_call call;
    uint64_t first; /* the Nth call from now on, from 1 */
    uint64_t times; /* so many in a row; 0: 1 */
    enum disk_fault_action action;
    enum umbp_status status; /* 0: UMBP_IO */
    uint64_t bytes;
    uint64_t delay_ns;
};

#define DISK_FAULTS_MAX 16u

/* Wraps `inner`, which it owns from then on (also when creating fails). */
MUST_USE enum umbp_status disk_fault_create(struct disk *inner, struct disk **disk_out);
/* False when DISK_FAULTS_MAX are set. */
bool disk_fault_add(struct disk *disk, const struct disk_fault *fault);
/* No more faults, and no crash any more. Requests that were held go on. */
void disk_fault_clear(struct disk *disk);
/* Requests that were never to come out go on. */
void disk_fault_release(struct disk *disk);
uint64_t disk_fault_calls(const struct disk *disk, enum disk_call call);
bool disk_fault_has_crashed(const struct disk *disk);

/* ---------------------------------------------------------------------- calling ---------- */

enum umbp_status disk_status_of_errno(int error);

MUST_USE static inline enum umbp_status disk_open(struct disk *disk, const char *path,
                                                  unsigned flags, struct disk_file *file_out)
{
    return disk->ops->open(disk, path, flags, file_out);
}
static inline void disk_close(struct disk *disk, struct disk_file file)
{
    if (disk_file_is_open(file)) {
        disk->ops->close(disk, file);
    }
}
MUST_USE static inline enum umbp_status disk_size(struct disk *disk, struct disk_file file,
                                                  uint64_t *bytes_out)
{
    return disk->ops->size(disk, file, bytes_out);
}
MUST_USE static inline enum umbp_status disk_allocate(struct disk *disk, struct disk_file file,
                                                      uint64_t bytes)
{
    return disk->ops->allocate(disk, file, bytes);
}
MUST_USE static inline enum umbp_status disk_truncate(struct disk *disk, struct disk_file file,
                                                      uint64_t bytes)
{
    return disk->ops->truncate(disk, file, bytes);
}
MUST_USE static inline enum umbp_status disk_read_at(struct disk *disk, struct disk_file file,
                                                     void *to, size_t bytes, uint64_t offset,
                                                     size_t *bytes_out)
{
    return disk->ops->read_at(disk, file, to, bytes, offset, bytes_out);
}
MUST_USE static inline enum umbp_status disk_write_at(struct disk *disk, struct disk_file file,
                                                      const void *from, size_t bytes,
                                                      uint64_t offset)
{
    return disk->ops->write_at(disk, file, from, bytes, offset);
}
MUST_USE static inline enum umbp_status disk_sync_file(struct disk *disk, struct disk_file file)
{
    return disk->ops->sync_file(disk, file);
}
MUST_USE static inline enum umbp_status disk_lock(struct disk *disk, struct disk_file file)
{
    return disk->ops->lock(disk, file);
}
MUST_USE static inline enum umbp_status disk_unlink(struct disk *disk, const char *path)
{
    return disk->ops->unlink(disk, path);
}
MUST_USE static inline enum umbp_status disk_rename(struct disk *disk, const char *from,
                                                    const char *to)
{
    return disk->ops->rename(disk, from, to);
}
MUST_USE static inline enum umbp_status disk_make_directory(struct disk *disk, const char *path)
{
    return disk->ops->make_directory(disk, path);
}
MUST_USE static inline enum umbp_status disk_sync_directory(struct disk *disk, const char *path)
{
    return disk->ops->sync_directory(disk, path);
}
MUST_USE static inline enum umbp_status
disk_list(struct disk *disk, const char *path,
          void (*visit)(void *context, const char *name, bool is_regular_file), void *context)
{
    return disk->ops->list(disk, path, visit, context);
}
MUST_USE static inline enum umbp_status disk_queue_create(struct disk *disk,
                                                          const struct disk_queue_options *options,
                                                          struct disk_queue **queue_out)
{
    return disk->ops->queue_create(disk, options, queue_out);
}
static inline enum umbp_status disk_queue_destroy(struct disk_queue *queue, uint64_t timeout_ns)
{
    return queue ? queue->disk->ops->queue_destroy(queue, timeout_ns) : UMBP_OK;
}
static inline void disk_queue_submit(struct disk_queue *queue, struct disk_request *const *requests,
                                     unsigned count)
{
    queue->disk->ops->queue_submit(queue, requests, count);
}
static inline unsigned disk_queue_wait(struct disk_queue *queue, unsigned min, unsigned max,
                                       uint64_t timeout_ns, struct disk_request **done_out)
{
    return queue->disk->ops->queue_wait(queue, min, max, timeout_ns, done_out);
}

#endif
