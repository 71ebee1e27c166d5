/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Synchronous calls that end in time.
 *
 *   caller ──► a place for a call: what, of what ──► queue ──► worker ──► the inner driver
 *      └── waits, until its limit ◄──────────────── ended ◄──────┘
 *
 * A caller whose limit comes first takes its call out of the queue again if nobody has begun it:
 * then nothing has happened. If a worker has, the call is given up: the worker tidies up behind it
 * whenever it ends, and until then the wrapper is careful (disk.h says how). Calls live in a fixed
 * set of places, with their own copies of paths and data, so nothing is allocated but for lists,
 * and a given-up call touches nothing of its caller's.
 *
 * Files that are closed while a given-up call is about them are closed by the worker that ends the
 * last such call. A close that finds no place, or whose limit comes first, stays queued. A lock
 * says that nobody else changes what it guards, so its file waits for every given-up change.
 *
 * One mutex (RANK_DISK), never held over a call of the inner driver.
 */
#include <inttypes.h>

#include "disk/disk_priv.h"

#define WORKERS 3u
#define CALLS 16u
#define PATH_BYTES 4096u
/* Of data by one call; longer transfers are cut. */
#define DATA_BYTES DISK_ALIGN_BYTES
/* What a call has past its thread's deadline: long for a healthy disk, short for who waits. */
#define GRACE_NS (250 * NS_PER_MS)
/* Files that may wait to be closed behind a disk that stands still. */
#define CLOSES_MAX 1024u
#define LOCKS_MAX 4u
#define LOG_MS 10000u

enum call_kind {
    CALL_OPEN,
    CALL_CLOSE,
    CALL_SIZE,
    CALL_ALLOCATE,
    CALL_TRUNCATE,
    CALL_READ,
    CALL_WRITE,
    CALL_SYNC,
    CALL_LOCK,
    CALL_UNLINK,
    CALL_RENAME,
    CALL_MAKE_DIRECTORY,
    CALL_SYNC_DIRECTORY,
    CALL_LIST,
};

static const char *const call_names[] = {
    [CALL_OPEN] = "open",
    [CALL_CLOSE] = "close",
    [CALL_SIZE] = "size",
    [CALL_ALLOCATE] = "allocate",
    [CALL_TRUNCATE] = "truncate",
    [CALL_READ] = "read",
    [CALL_WRITE] = "write",
    [CALL_SYNC] = "sync",
    [CALL_LOCK] = "lock",
    [CALL_UNLINK] = "unlink",
    [CALL_RENAME] = "rename",
    [CALL_MAKE_DIRECTORY] = "make_directory",
    [CALL_SYNC_DIRECTORY] = "sync_directory",
    [CALL_LIST] = "list",
};

enum call_state {
    CALL_FREE,
    CALL_WAITING,
    CALL_RUNNING,
    CALL_ENDED,
    CALL_GIVEN_UP, /* running, and nobody waits for it */
};

/* Names of a directory: a byte that says whether it is a regular file, the name, a zero; and so on.
 */
struct name_list {
    char *bytes;
    size_t used;
    size_t size;
    bool is_out_of_memory;
};

struct call {
    struct list_node link; /* free or queued */
    struct condition ended;
    enum call_state state;
    bool closes_file; /* given up; its file was closed meanwhile, by us then */

    enum call_kind kind;
    char *path;
    char *path_to;
    uint8_t *data; /* aligned, DATA_BYTES */
    struct disk_file file;
    unsigned flags;
    size_t bytes;
    uint64_t number; /* offset or length */

    enum umbp_status status;
    struct name_list names;
};

struct bounded_disk {
    struct disk disk;
    struct disk_ops ops; /* with the inner driver's name and properties */
    struct disk *inner;
    bool owns_inner;
    uint64_t timeout_ns;
    struct log_limit log_limit;
    void *memory; /* paths and data of the calls */
    size_t memory_bytes;

    struct mutex mutex; /* guards the rest */
    struct condition arrived;
    struct condition freed;
    struct condition settled; /* no given-up change is left */
    struct condition left;    /* a worker has */
    struct list_node free;
    struct list_node queue;
    unsigned given_up;
    unsigned given_up_changes;
    struct call calls[CALLS];
    struct disk_file closes[CLOSES_MAX + LOCKS_MAX];
    unsigned close_count;
    struct disk_file locks[LOCKS_MAX]; /* DISK_FILE_NONE where there is none */
    bool closes_lock[LOCKS_MAX];       /* as soon as no given-up change is left */
    bool is_stopping;
    bool is_abandoned; /* the last worker to leave frees everything */
    unsigned worker_count;
    unsigned left_count;
    pthread_t workers[WORKERS];
    bool has_left[WORKERS];
};

struct worker {
    struct bounded_disk *disk;
    unsigned index;
};

static _Thread_local uint64_t thread_deadline_ns = UINT64_MAX;

uint64_t disk_thread_deadline(uint64_t deadline_ns)
{
    uint64_t before = thread_deadline_ns;
    thread_deadline_ns = deadline_ns;
    return before;
}

static struct bounded_disk *bounded_of(struct disk *disk)
{
    return CONTAINER_OF(disk, struct bounded_disk, disk);
}

static bool call_changes(const struct call *call)
{
    switch (call->kind) {
    case CALL_OPEN:
        return call->flags & (DISK_OPEN_CREATE | DISK_OPEN_TRUNCATE);
    case CALL_CLOSE:
    case CALL_SIZE:
    case CALL_READ:
    case CALL_LOCK:
    case CALL_LIST:
        return false;
    case CALL_ALLOCATE:
    case CALL_TRUNCATE:
    case CALL_WRITE:
    case CALL_SYNC:
    case CALL_UNLINK:
    case CALL_RENAME:
    case CALL_MAKE_DIRECTORY:
    case CALL_SYNC_DIRECTORY:
        break;
    }
    return true;
}

/* ------------------------------------------------------------------------- workers ------- */

static void collect_name(void *context, const char *name, bool is_regular_file)
{
    struct name_list *names = context;
    size_t bytes = strlen(name) + 2;
    if (names->size - names->used < bytes) {
        size_t size = names->size ? names->size : 4096;
        while (size - names->used < bytes) {
            size *= 2;
        }
        char *grown = mem_realloc(names->bytes, size);
        if (!grown) {
            names->is_out_of_memory = true;
            return;
        }
        names->bytes = grown;
        names->size = size;
    }
    names->bytes[names->used] = is_regular_file ? 1 : 0;
    memcpy(names->bytes + names->used + 1, name, bytes - 1);
    names->used += bytes;
}

static void call_run(struct disk *inner, struct call *call)
{
    switch (call->kind) {
    case CALL_OPEN:
        call->status = disk_open(inner, call->path, call->flags, &call->file);
        break;
    case CALL_CLOSE:
        disk_close(inner, call->file);
        call->status = UMBP_OK;
        break;
    case CALL_SIZE:
        call->status = disk_size(inner, call->file, &call->number);
        break;
    case CALL_ALLOCATE:
        call->status = disk_allocate(inner, call->file, call->number);
        break;
    case CALL_TRUNCATE:
        call->status = disk_truncate(inner, call->file, call->number);
        break;
    case CALL_READ:
        call->status =
            disk_read_at(inner, call->file, call->data, call->bytes, call->number, &call->bytes);
        break;
    case CALL_WRITE:
        call->status = disk_write_at(inner, call->file, call->data, call->bytes, call->number);
        break;
    case CALL_SYNC:
        call->status = disk_sync_file(inner, call->file);
        break;
    case CALL_LOCK:
        call->status = disk_lock(inner, call->file);
        break;
    case CALL_UNLINK:
        call->status = disk_unlink(inner, call->path);
        break;
    case CALL_RENAME:
        call->status = disk_rename(inner, call->path, call->path_to);
        break;
    case CALL_MAKE_DIRECTORY:
        call->status = disk_make_directory(inner, call->path);
        break;
    case CALL_SYNC_DIRECTORY:
        call->status = disk_sync_directory(inner, call->path);
        break;
    case CALL_LIST:
        call->status = disk_list(inner, call->path, collect_name, &call->names);
        break;
    }
}

/* (locked) */
static void call_free(struct bounded_disk *disk, struct call *call)
{
    call->state = CALL_FREE;
    list_push_back(&disk->free, &call->link);
    condition_signal(&disk->freed);
}

/* (locked) Whether a given-up call is about the file; each is told that it was closed. */
static bool file_is_held(struct bounded_disk *disk, struct disk_file file)
{
    bool is_held = false;
    for (unsigned i = 0; i < CALLS; i++) {
        struct call *call = &disk->calls[i];
        if (call->state == CALL_GIVEN_UP && call->kind != CALL_OPEN && call->kind != CALL_CLOSE &&
            disk_file_is_open(call->file) && call->file.handle == file.handle) {
            call->closes_file = true;
            is_held = true;
        }
    }
    return is_held;
}

/* (locked) */
static void push_close(struct bounded_disk *disk, struct disk_file file)
{
    ASSERT(disk->close_count < ARRAY_COUNT(disk->closes));
    disk->closes[disk->close_count++] = file;
    condition_signal(&disk->arrived);
}

/* (locked) Whether the file is a lock that has to stay for now. */
static bool lock_is_held(struct bounded_disk *disk, struct disk_file file)
{
    for (unsigned i = 0; i < LOCKS_MAX; i++) {
        if (disk->locks[i].handle == file.handle && disk->given_up_changes > 0) {
            disk->closes_lock[i] = true;
            return true;
        }
        if (disk->locks[i].handle == file.handle) {
            disk->locks[i] = DISK_FILE_NONE;
        }
    }
    return false;
}

/* (locked) The last given-up change has ended. */
static void release_locks(struct bounded_disk *disk)
{
    for (unsigned i = 0; i < LOCKS_MAX; i++) {
        if (disk->closes_lock[i]) {
            push_close(disk, disk->locks[i]);
            disk->locks[i] = DISK_FILE_NONE;
            disk->closes_lock[i] = false;
        }
    }
}

/* (locked, and again at the end) Nobody waits for the call, which has just ended. */
static void call_undo(struct bounded_disk *disk, struct call *call)
{
    bool is_made = call->kind == CALL_OPEN && call->status == UMBP_OK;
    bool is_new = is_made && call->flags & DISK_OPEN_CREATE && call->flags & DISK_OPEN_EXCLUSIVE;
    bool changed = call_changes(call);
    struct disk_file file = is_made ? call->file : DISK_FILE_NONE;
    if (call->closes_file) {
        file = call->file;
        call->closes_file = false;
        call->file = DISK_FILE_NONE; /* not about it any more */
        if (file_is_held(disk, file)) {
            file = DISK_FILE_NONE; /* by another one, which will close it */
        }
    }
    mutex_unlock(&disk->mutex);
    disk_close(disk->inner, file);
    if (is_new && disk_unlink(disk->inner, call->path) != UMBP_OK) {
        log_warn("disk_file_left_behind", "path=\"%s\"", call->path);
    }
    mem_free(call->names.bytes);
    mutex_lock(&disk->mutex);
    disk->given_up--;
    disk->given_up_changes -= changed;
    if (disk->given_up_changes == 0) {
        condition_broadcast(&disk->settled);
        release_locks(disk);
    }
    call_free(disk, call);
}

static void bounded_free(struct bounded_disk *disk)
{
    for (unsigned i = 0; i < CALLS; i++) {
        condition_fini(&disk->calls[i].ended);
    }
    condition_fini(&disk->arrived);
    condition_fini(&disk->freed);
    condition_fini(&disk->settled);
    condition_fini(&disk->left);
    mutex_fini(&disk->mutex);
    if (disk->owns_inner) {
        disk_destroy(disk->inner);
    }
    mem_unmap(disk->memory, disk->memory_bytes);
    mem_free(disk);
}

/* (locked) One thing of the queue. False when it is empty. */
static bool work_once(struct bounded_disk *disk)
{
    if (disk->close_count > 0) {
        struct disk_file file = disk->closes[--disk->close_count];
        mutex_unlock(&disk->mutex);
        disk_close(disk->inner, file);
        mutex_lock(&disk->mutex);
        return true;
    }
    if (list_is_empty(&disk->queue)) {
        return false;
    }
    struct call *call = CONTAINER_OF(disk->queue.next, struct call, link);
    list_remove(&call->link);
    call->state = CALL_RUNNING;
    mutex_unlock(&disk->mutex);
    call_run(disk->inner, call);
    mutex_lock(&disk->mutex);
    if (call->state == CALL_GIVEN_UP) {
        call_undo(disk, call);
    } else {
        call->state = CALL_ENDED;
        condition_signal(&call->ended);
    }
    return true;
}

static void *worker_main(void *context)
{
    struct worker worker = *(struct worker *)context;
    struct bounded_disk *disk = worker.disk;
    mem_free(context);
    mutex_lock(&disk->mutex);
    while (work_once(disk) || !disk->is_stopping) {
        if (!disk->is_stopping && list_is_empty(&disk->queue) && disk->close_count == 0) {
            (void)condition_wait(&disk->arrived, &disk->mutex,
                                 clock_deadline_ns(clock_monotonic(), 60000));
        }
    }
    disk->has_left[worker.index] = true;
    disk->left_count++;
    bool is_last = disk->is_abandoned && disk->left_count == disk->worker_count;
    condition_broadcast(&disk->left);
    mutex_unlock(&disk->mutex);
    if (is_last) {
        bounded_free(disk);
    }
    return NULL;
}

/* --------------------------------------------------------------------------- calls ------- */

static uint64_t call_limit_ns(const struct bounded_disk *disk)
{
    uint64_t now = clock_now_ns(clock_monotonic());
    uint64_t limit = disk->timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + disk->timeout_ns;
    return u64_min(limit, u64_max(thread_deadline_ns, now + GRACE_NS));
}

/* (locked) Waiting would be in vain. */
static bool is_stuck(const struct bounded_disk *disk)
{
    return disk->given_up >= WORKERS || disk->is_stopping;
}

/* A place for a call, or NULL when none comes free by the limit. */
static struct call *call_begin(struct bounded_disk *disk, enum call_kind kind, uint64_t limit_ns)
{
    struct call *call = NULL;
    mutex_assert_none_held();
    mutex_lock(&disk->mutex);
    while (!is_stuck(disk) && list_is_empty(&disk->free) &&
           condition_wait(&disk->freed, &disk->mutex, limit_ns)) {
    }
    if (!is_stuck(disk) && !list_is_empty(&disk->free)) {
        call = CONTAINER_OF(disk->free.next, struct call, link);
        list_remove(&call->link);
    }
    mutex_unlock(&disk->mutex);
    if (call) {
        call->kind = kind;
        call->file = DISK_FILE_NONE;
        call->flags = 0;
        call->names = (struct name_list){.bytes = NULL};
    }
    return call;
}

static void call_end(struct bounded_disk *disk, struct call *call)
{
    mem_free(call->names.bytes);
    mutex_lock(&disk->mutex);
    call_free(disk, call);
    mutex_unlock(&disk->mutex);
}

enum call_result {
    CALL_DONE,
    CALL_NOT_BEGUN, /* nothing has happened */
    CALL_LEFT,      /* given up */
};

/* (locked) Who waits for a worker, or for a place, does so in vain. */
static void wake_waiters(struct bounded_disk *disk)
{
    for (unsigned i = 0; i < CALLS; i++) {
        condition_signal(&disk->calls[i].ended);
    }
    condition_broadcast(&disk->freed);
}

/* (locked) */
static void call_give_up(struct bounded_disk *disk, struct call *call)
{
    call->state = CALL_GIVEN_UP;
    disk->given_up++;
    disk->given_up_changes += call_changes(call);
    if (is_stuck(disk)) {
        wake_waiters(disk);
    }
}

/* Run it. Unless it is done, its place is not the caller's any more. */
static enum call_result call_wait(struct bounded_disk *disk, struct call *call, uint64_t limit_ns)
{
    enum call_result result = CALL_NOT_BEGUN;
    enum call_kind kind = call->kind;
    mutex_lock(&disk->mutex);
    /* No grace here: past its deadline nobody waits for what others began. */
    while (call_changes(call) && disk->given_up_changes > 0 && !disk->is_stopping &&
           condition_wait(&disk->settled, &disk->mutex, u64_min(limit_ns, thread_deadline_ns))) {
    }
    if (!is_stuck(disk) && !(call_changes(call) && disk->given_up_changes > 0)) {
        call->state = CALL_WAITING;
        list_push_back(&disk->queue, &call->link);
        condition_signal(&disk->arrived);
        while (call->state != CALL_ENDED && !(call->state == CALL_WAITING && is_stuck(disk)) &&
               condition_wait(&call->ended, &disk->mutex, limit_ns)) {
        }
        if (call->state == CALL_WAITING) {
            list_remove(&call->link);
        }
    }
    if (call->state == CALL_ENDED) {
        result = CALL_DONE;
    } else if (call->state == CALL_RUNNING) {
        result = CALL_LEFT;
        call_give_up(disk, call);
    } else {
        call_free(disk, call);
    }
    mutex_unlock(&disk->mutex);
    uint64_t held_back;
    if (result == CALL_LEFT && log_limit_pass(&disk->log_limit, LOG_MS, &held_back)) {
        log_warn("disk_call_stuck",
                 "call=%s advice=\"the file system does not answer; nothing is changed there "
                 "until it does\" held_back=%" PRIu64,
                 call_names[kind], held_back);
    }
    return result;
}

/* A call that has nothing to give but its status. */
static enum umbp_status call_simple(struct bounded_disk *disk, struct call *call, uint64_t limit_ns)
{
    if (call_wait(disk, call, limit_ns) != CALL_DONE) {
        return UMBP_TIMEOUT;
    }
    enum umbp_status status = call->status;
    call_end(disk, call);
    return status;
}

static bool path_copy(char *to, const char *path)
{
    size_t bytes = strlen(path) + 1;
    if (bytes > PATH_BYTES) {
        return false;
    }
    memcpy(to, path, bytes);
    return true;
}

static enum umbp_status call_on_path(struct disk *base, enum call_kind kind, const char *path,
                                     const char *path_to)
{
    struct bounded_disk *disk = bounded_of(base);
    uint64_t limit_ns = call_limit_ns(disk);
    struct call *call = call_begin(disk, kind, limit_ns);
    if (!call) {
        return UMBP_TIMEOUT;
    }
    if (!path_copy(call->path, path) || (path_to && !path_copy(call->path_to, path_to))) {
        call_end(disk, call);
        return UMBP_INVALID_VALUE;
    }
    return call_simple(disk, call, limit_ns);
}

static enum umbp_status call_on_file(struct disk *base, enum call_kind kind, struct disk_file file,
                                     uint64_t number)
{
    struct bounded_disk *disk = bounded_of(base);
    uint64_t limit_ns = call_limit_ns(disk);
    struct call *call = call_begin(disk, kind, limit_ns);
    if (!call) {
        return UMBP_TIMEOUT;
    }
    call->file = file;
    call->number = number;
    return call_simple(disk, call, limit_ns);
}

static enum umbp_status bounded_open(struct disk *base, const char *path, unsigned flags,
                                     struct disk_file *file_out)
{
    struct bounded_disk *disk = bounded_of(base);
    uint64_t limit_ns = call_limit_ns(disk);
    struct call *call = call_begin(disk, CALL_OPEN, limit_ns);
    if (!call) {
        return UMBP_TIMEOUT;
    }
    if (!path_copy(call->path, path)) {
        call_end(disk, call);
        return UMBP_INVALID_VALUE;
    }
    call->flags = flags;
    if (call_wait(disk, call, limit_ns) != CALL_DONE) {
        return UMBP_TIMEOUT;
    }
    enum umbp_status status = call->status;
    if (status == UMBP_OK) {
        *file_out = call->file;
    }
    call_end(disk, call);
    return status;
}

/* Left to the workers. */
static void close_later(struct bounded_disk *disk, struct disk_file file)
{
    mutex_lock(&disk->mutex);
    bool has_room = disk->close_count < CLOSES_MAX;
    if (has_room) {
        push_close(disk, file);
    }
    mutex_unlock(&disk->mutex);
    if (!has_room) {
        log_error("disk_file_not_closed", "reason=\"%u others wait for the disk to answer\"",
                  CLOSES_MAX);
    }
}

static void bounded_close(struct disk *base, struct disk_file file)
{
    struct bounded_disk *disk = bounded_of(base);
    uint64_t limit_ns = call_limit_ns(disk);
    mutex_lock(&disk->mutex);
    bool is_held = file_is_held(disk, file) || lock_is_held(disk, file);
    bool is_retired = disk->is_stopping;
    mutex_unlock(&disk->mutex);
    if (is_held) {
        return;
    }
    if (is_retired) { /* by a thread that was left behind */
        disk_close(disk->inner, file);
        return;
    }
    struct call *call = call_begin(disk, CALL_CLOSE, limit_ns);
    enum call_result result = CALL_NOT_BEGUN;
    if (call) {
        call->file = file;
        result = call_wait(disk, call, limit_ns);
    }
    if (result == CALL_DONE) {
        call_end(disk, call);
    } else if (result == CALL_NOT_BEGUN) {
        close_later(disk, file);
    }
}

static enum umbp_status bounded_size(struct disk *base, struct disk_file file, uint64_t *bytes_out)
{
    struct bounded_disk *disk = bounded_of(base);
    uint64_t limit_ns = call_limit_ns(disk);
    struct call *call = call_begin(disk, CALL_SIZE, limit_ns);
    if (!call) {
        return UMBP_TIMEOUT;
    }
    call->file = file;
    if (call_wait(disk, call, limit_ns) != CALL_DONE) {
        return UMBP_TIMEOUT;
    }
    enum umbp_status status = call->status;
    if (status == UMBP_OK) {
        *bytes_out = call->number;
    }
    call_end(disk, call);
    return status;
}

static enum umbp_status bounded_allocate(struct disk *base, struct disk_file file, uint64_t bytes)
{
    return call_on_file(base, CALL_ALLOCATE, file, bytes);
}

static enum umbp_status bounded_truncate(struct disk *base, struct disk_file file, uint64_t bytes)
{
    return call_on_file(base, CALL_TRUNCATE, file, bytes);
}

static enum umbp_status read_part(struct bounded_disk *disk, struct disk_file file, void *to,
                                  size_t bytes, uint64_t offset, size_t *got_out)
{
    uint64_t limit_ns = call_limit_ns(disk);
    struct call *call = call_begin(disk, CALL_READ, limit_ns);
    if (!call) {
        return UMBP_TIMEOUT;
    }
    call->file = file;
    call->bytes = bytes;
    call->number = offset;
    if (call_wait(disk, call, limit_ns) != CALL_DONE) {
        return UMBP_TIMEOUT;
    }
    enum umbp_status status = call->status;
    if (status == UMBP_OK) {
        *got_out = size_min(call->bytes, bytes);
        memcpy(to, call->data, *got_out);
    }
    call_end(disk, call);
    return status;
}

static enum umbp_status bounded_read_at(struct disk *base, struct disk_file file, void *to,
                                        size_t bytes, uint64_t offset, size_t *bytes_out)
{
    size_t done = 0;
    size_t got = 0;
    do {
        size_t part = size_min(bytes - done, DATA_BYTES);
        enum umbp_status status =
            read_part(bounded_of(base), file, (uint8_t *)to + done, part, offset + done, &got);
        if (status != UMBP_OK) {
            return status;
        }
        done += got;
    } while (done < bytes && got == DATA_BYTES);
    *bytes_out = done;
    return UMBP_OK;
}

static enum umbp_status write_part(struct bounded_disk *disk, struct disk_file file,
                                   const void *from, size_t bytes, uint64_t offset)
{
    uint64_t limit_ns = call_limit_ns(disk);
    struct call *call = call_begin(disk, CALL_WRITE, limit_ns);
    if (!call) {
        return UMBP_TIMEOUT;
    }
    call->file = file;
    call->bytes = bytes;
    call->number = offset;
    memcpy(call->data, from, bytes);
    return call_simple(disk, call, limit_ns);
}

static enum umbp_status bounded_write_at(struct disk *base, struct disk_file file, const void *from,
                                         size_t bytes, uint64_t offset)
{
    enum umbp_status status = UMBP_OK;
    for (size_t done = 0; done < bytes && status == UMBP_OK; done += DATA_BYTES) {
        status = write_part(bounded_of(base), file, (const uint8_t *)from + done,
                            size_min(bytes - done, DATA_BYTES), offset + done);
    }
    return status;
}

static enum umbp_status bounded_sync_file(struct disk *base, struct disk_file file)
{
    return call_on_file(base, CALL_SYNC, file, 0);
}

static enum umbp_status bounded_lock(struct disk *base, struct disk_file file)
{
    struct bounded_disk *disk = bounded_of(base);
    enum umbp_status status = call_on_file(base, CALL_LOCK, file, 0);
    mutex_lock(&disk->mutex);
    for (unsigned i = 0; status == UMBP_OK && i < LOCKS_MAX; i++) {
        if (!disk_file_is_open(disk->locks[i])) {
            disk->locks[i] = file;
            break;
        }
    }
    mutex_unlock(&disk->mutex);
    return status;
}

static enum umbp_status bounded_unlink(struct disk *base, const char *path)
{
    return call_on_path(base, CALL_UNLINK, path, NULL);
}

static enum umbp_status bounded_rename(struct disk *base, const char *from, const char *to)
{
    return call_on_path(base, CALL_RENAME, from, to);
}

static enum umbp_status bounded_make_directory(struct disk *base, const char *path)
{
    return call_on_path(base, CALL_MAKE_DIRECTORY, path, NULL);
}

static enum umbp_status bounded_sync_directory(struct disk *base, const char *path)
{
    return call_on_path(base, CALL_SYNC_DIRECTORY, path, NULL);
}

static enum umbp_status
bounded_list(struct disk *base, const char *path,
             void (*visit)(void *context, const char *name, bool is_regular_file), void *context)
{
    struct bounded_disk *disk = bounded_of(base);
    uint64_t limit_ns = call_limit_ns(disk);
    struct call *call = call_begin(disk, CALL_LIST, limit_ns);
    if (!call) {
        return UMBP_TIMEOUT;
    }
    if (!path_copy(call->path, path)) {
        call_end(disk, call);
        return UMBP_INVALID_VALUE;
    }
    if (call_wait(disk, call, limit_ns) != CALL_DONE) {
        return UMBP_TIMEOUT;
    }
    const struct name_list *names = &call->names;
    enum umbp_status status = call->status;
    if (status == UMBP_OK && names->is_out_of_memory) {
        status = UMBP_NO_MEMORY;
    }
    for (size_t at = 0; status == UMBP_OK && at < names->used;
         at += strlen(names->bytes + at + 1) + 2) {
        visit(context, names->bytes + at + 1, names->bytes[at] != 0);
    }
    call_end(disk, call);
    return status;
}

static enum umbp_status bounded_queue_create(struct disk *base,
                                             const struct disk_queue_options *options,
                                             struct disk_queue **queue_out)
{
    return disk_queue_create(bounded_of(base)->inner, options, queue_out);
}

/* ------------------------------------------------------------------------ its life ------- */

static void bounded_destroy(struct disk *base)
{
    struct bounded_disk *disk = bounded_of(base);
    uint64_t limit_ns = call_limit_ns(disk);
    unsigned count = disk->worker_count;
    pthread_t workers[WORKERS];
    bool has_left[WORKERS];
    mutex_lock(&disk->mutex);
    disk->is_stopping = true;
    condition_broadcast(&disk->arrived);
    while (disk->left_count + disk->given_up < count &&
           condition_wait(&disk->left, &disk->mutex, limit_ns)) {
    }
    bool all_left = disk->left_count == count;
    unsigned stuck = count - disk->left_count;
    disk->is_abandoned = !all_left;
    memcpy(workers, disk->workers, sizeof(workers));
    memcpy(has_left, disk->has_left, sizeof(has_left));
    mutex_unlock(&disk->mutex); /* if it is abandoned, it may be gone from here on */
    for (unsigned i = 0; i < count; i++) {
        if (has_left[i]) {
            (void)pthread_join(workers[i], NULL);
        } else {
            (void)pthread_detach(workers[i]);
        }
    }
    if (all_left) {
        bounded_free(disk);
    } else {
        log_error("disk_left_behind", "reason=\"%u calls did not come back\"", stuck);
    }
}

void disk_bounded_retire(struct disk *base)
{
    struct bounded_disk *disk = bounded_of(base);
    mutex_lock(&disk->mutex);
    disk->is_stopping = true;
    condition_broadcast(&disk->arrived);
    condition_broadcast(&disk->settled);
    wake_waiters(disk);
    for (unsigned i = 0; i < disk->worker_count; i++) {
        (void)pthread_detach(disk->workers[i]);
    }
    mutex_unlock(&disk->mutex);
}

unsigned disk_bounded_given_up(const struct disk *base)
{
    struct bounded_disk *disk = bounded_of((struct disk *)(uintptr_t)base);
    mutex_lock(&disk->mutex);
    unsigned given_up = disk->given_up;
    mutex_unlock(&disk->mutex);
    return given_up;
}

/* What is not here (queues, but for making them; name and properties) is the inner driver's. */
static struct disk_ops bounded_ops(const struct disk_ops *inner)
{
    struct disk_ops ops = *inner;
    ops.open = bounded_open;
    ops.close = bounded_close;
    ops.size = bounded_size;
    ops.allocate = bounded_allocate;
    ops.truncate = bounded_truncate;
    ops.read_at = bounded_read_at;
    ops.write_at = bounded_write_at;
    ops.sync_file = bounded_sync_file;
    ops.lock = bounded_lock;
    ops.unlink = bounded_unlink;
    ops.rename = bounded_rename;
    ops.make_directory = bounded_make_directory;
    ops.sync_directory = bounded_sync_directory;
    ops.list = bounded_list;
    ops.queue_create = bounded_queue_create;
    ops.destroy = bounded_destroy;
    return ops;
}

static enum umbp_status start_workers(struct bounded_disk *disk)
{
    for (unsigned i = 0; i < WORKERS; i++) {
        struct worker *worker = mem_alloc(sizeof(*worker));
        if (!worker) {
            return UMBP_NO_MEMORY;
        }
        *worker = (struct worker){.disk = disk, .index = i};
        enum umbp_status status =
            thread_create(&disk->workers[i], "umbp-file", false, worker_main, worker);
        if (status != UMBP_OK) {
            mem_free(worker);
            return status;
        }
        disk->worker_count = i + 1;
    }
    return UMBP_OK;
}

enum umbp_status disk_bounded_create(struct disk *inner, bool owns_inner, uint64_t timeout_ns,
                                     struct disk **disk_out)
{
    const size_t call_bytes = DATA_BYTES + 2 * PATH_BYTES;
    struct bounded_disk *disk = mem_zalloc(sizeof(*disk));
    uint8_t *memory = disk ? mem_map(CALLS * call_bytes) : NULL;
    if (!memory) {
        mem_free(disk);
        if (owns_inner) {
            disk_destroy(inner);
        }
        return UMBP_NO_MEMORY;
    }
    disk->ops = bounded_ops(inner->ops);
    disk->disk.ops = &disk->ops;
    disk->inner = inner;
    disk->owns_inner = owns_inner;
    disk->timeout_ns = timeout_ns;
    disk->memory = memory;
    disk->memory_bytes = CALLS * call_bytes;
    mutex_init(&disk->mutex, RANK_DISK);
    condition_init(&disk->arrived);
    condition_init(&disk->freed);
    condition_init(&disk->settled);
    condition_init(&disk->left);
    list_init(&disk->free);
    list_init(&disk->queue);
    for (unsigned i = 0; i < CALLS; i++) {
        struct call *call = &disk->calls[i];
        call->data = memory + i * call_bytes;
        call->path = (char *)call->data + DATA_BYTES;
        call->path_to = call->path + PATH_BYTES;
        condition_init(&call->ended);
        list_push_back(&disk->free, &call->link);
    }
    for (unsigned i = 0; i < LOCKS_MAX; i++) {
        disk->locks[i] = DISK_FILE_NONE;
    }
    enum umbp_status status = start_workers(disk);
    if (status != UMBP_OK) {
        bounded_destroy(&disk->disk);
        return status;
    }
    *disk_out = &disk->disk;
    return UMBP_OK;
}
