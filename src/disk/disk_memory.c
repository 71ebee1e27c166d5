/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files in memory, with a power cut.
 *
 * Each inode has its bytes as programs see them, the bytes that are on "stable storage", and a mark
 * on each sector that differs. A sync copies the marked sectors and the length. The directory is a
 * table of names; each name has an inode as programs see it and one on stable storage, and syncing
 * the directory copies the first over the second.
 *
 * A power cut decides by chance, for each marked sector whether it got to stable storage, for each
 * file which length it has, and for each name which of its two inodes it has. That is harsher than
 * journalling file systems are, and allowed by POSIX. Directories are only prefixes of names.
 *
 * Requests are carried out when they are submitted, and come out in random order.
 */
#include "disk/disk_priv.h"

#define MEMORY_NAMES_MAX 4096u
#define MEMORY_HANDLES_MAX 4096u
#define MEMORY_NAME_BYTES 256u
#define MEMORY_SECTOR_BYTES 512u

struct memory_inode {
    uint8_t *data;
    uint8_t *stable;
    uint8_t *dirty; /* one byte a sector */
    uint64_t capacity;
    uint64_t bytes;
    uint64_t stable_bytes;
    bool is_directory;
    unsigned refs; /* names (of both kinds) and handles */
};

struct memory_name {
    char path[MEMORY_NAME_BYTES]; /* "": free */
    struct memory_inode *now;
    struct memory_inode *stable;
};

struct memory_handle {
    struct memory_inode *inode; /* NULL: free */
    bool is_writable;
    bool has_lock;
    bool is_void; /* the power was cut since */
};

struct memory_disk {
    struct disk disk;
    struct mutex mutex; /* RANK_DISK; guards everything; copies are made under it, it is a model */
    struct rng rng;
    uint64_t capacity;
    uint64_t used;
    struct memory_name *names;
    struct memory_handle *handles;
};

struct memory_queue {
    struct disk_queue queue;
    struct list_node finished;
    unsigned finished_count;
};

static struct memory_disk *memory_of(struct disk *disk)
{
    return CONTAINER_OF(disk, struct memory_disk, disk);
}

static struct memory_queue *memory_queue_of(struct disk_queue *queue)
{
    return CONTAINER_OF(queue, struct memory_queue, queue);
}

/* ------------------------------------------------------------------------- inodes -------- */

static void inode_unref(struct memory_disk *disk, struct memory_inode *inode)
{
    if (!inode || --inode->refs > 0) {
        return;
    }
    disk->used -= inode->bytes;
    mem_free(inode->data);
    mem_free(inode->stable);
    mem_free(inode->dirty);
    mem_free(inode);
}

static bool inode_reserve(struct memory_inode *inode, uint64_t bytes)
{
    if (bytes <= inode->capacity) {
        return true;
    }
    uint64_t capacity = align_up(u64_max(bytes, inode->capacity * 2), MEMORY_SECTOR_BYTES);
    uint64_t sectors = capacity / MEMORY_SECTOR_BYTES;
    uint8_t *data = mem_zalloc((size_t)capacity);
    uint8_t *stable = mem_zalloc((size_t)capacity);
    uint8_t *dirty = mem_zalloc((size_t)sectors);
    if (!data || !stable || !dirty) {
        mem_free(data);
        mem_free(stable);
        mem_free(dirty);
        return false;
    }
    if (inode->capacity > 0) {
        memcpy(data, inode->data, (size_t)inode->capacity);
        memcpy(stable, inode->stable, (size_t)inode->capacity);
        memcpy(dirty, inode->dirty, (size_t)(inode->capacity / MEMORY_SECTOR_BYTES));
    }
    mem_free(inode->data);
    mem_free(inode->stable);
    mem_free(inode->dirty);
    inode->data = data;
    inode->stable = stable;
    inode->dirty = dirty;
    inode->capacity = capacity;
    return true;
}

static void inode_mark(struct memory_inode *inode, uint64_t from, uint64_t to)
{
    for (uint64_t at = align_down(from, MEMORY_SECTOR_BYTES); at < to; at += MEMORY_SECTOR_BYTES) {
        inode->dirty[at / MEMORY_SECTOR_BYTES] = 1;
    }
}

static enum umbp_status inode_resize(struct memory_disk *disk, struct memory_inode *inode,
                                     uint64_t bytes)
{
    if (bytes > inode->bytes) {
        if (disk->used + (bytes - inode->bytes) > disk->capacity) {
            return UMBP_NO_SPACE;
        }
        if (!inode_reserve(inode, bytes)) {
            return UMBP_NO_MEMORY;
        }
    } else if (bytes < inode->bytes) {
        memset(inode->data + bytes, 0, (size_t)(inode->bytes - bytes));
        inode_mark(inode, bytes, inode->bytes);
    }
    disk->used = disk->used - inode->bytes + bytes;
    inode->bytes = bytes;
    return UMBP_OK;
}

static void inode_sync(struct memory_inode *inode)
{
    for (uint64_t at = 0; at < inode->capacity; at += MEMORY_SECTOR_BYTES) {
        if (inode->dirty[at / MEMORY_SECTOR_BYTES]) {
            memcpy(inode->stable + at, inode->data + at, MEMORY_SECTOR_BYTES);
            inode->dirty[at / MEMORY_SECTOR_BYTES] = 0;
        }
    }
    inode->stable_bytes = inode->bytes;
}

/* -------------------------------------------------------------------------- names -------- */

static struct memory_name *name_find(struct memory_disk *disk, const char *path)
{
    for (unsigned i = 0; i < MEMORY_NAMES_MAX; i++) {
        if (disk->names[i].path[0] && strcmp(disk->names[i].path, path) == 0) {
            return &disk->names[i];
        }
    }
    return NULL;
}

/* The name, made if it is not there. NULL: too long, or too many. */
static struct memory_name *name_make(struct memory_disk *disk, const char *path)
{
    struct memory_name *name = name_find(disk, path);
    if (name || strlen(path) >= MEMORY_NAME_BYTES) {
        return name;
    }
    for (unsigned i = 0; i < MEMORY_NAMES_MAX; i++) {
        if (!disk->names[i].path[0]) {
            name = &disk->names[i];
            (void)snprintf(name->path, sizeof(name->path), "%s", path);
            return name;
        }
    }
    return NULL;
}

static void name_drop_if_empty(struct memory_name *name)
{
    if (!name->now && !name->stable) {
        name->path[0] = '\0';
    }
}

static void name_set(struct memory_disk *disk, struct memory_inode **slot,
                     struct memory_inode *inode)
{
    if (inode) {
        inode->refs++;
    }
    inode_unref(disk, *slot);
    *slot = inode;
}

/* Whether `path` lies directly in `directory`. */
static bool name_is_in(const char *path, const char *directory)
{
    size_t bytes = strlen(directory);
    return strncmp(path, directory, bytes) == 0 && path[bytes] == '/' &&
           !strchr(path + bytes + 1, '/');
}

static bool directory_exists(struct memory_disk *disk, const char *path)
{
    const struct memory_name *name = name_find(disk, path);
    return name && name->now && name->now->is_directory;
}

/* Paths of one component are at home; others need their directory. */
static bool parent_exists(struct memory_disk *disk, const char *path)
{
    char parent[MEMORY_NAME_BYTES];
    (void)snprintf(parent, sizeof(parent), "%s", path);
    char *slash = strrchr(parent, '/');
    if (!slash || slash == parent) {
        return true;
    }
    *slash = '\0';
    return directory_exists(disk, parent);
}

/* ------------------------------------------------------------------------- handles ------- */

static struct memory_handle *handle_of(struct memory_disk *disk, struct disk_file file)
{
    ASSERT(file.handle >= 0 && file.handle < (intptr_t)MEMORY_HANDLES_MAX);
    return &disk->handles[file.handle];
}

static enum umbp_status memory_open_locked(struct memory_disk *disk, const char *path,
                                           unsigned flags, struct disk_file *file_out)
{
    struct memory_name *name = name_find(disk, path);
    struct memory_inode *inode = name ? name->now : NULL;
    intptr_t handle = 0;
    if (inode && (flags & DISK_OPEN_CREATE) && (flags & DISK_OPEN_EXCLUSIVE)) {
        return UMBP_ALREADY_EXISTS;
    }
    if (inode && inode->is_directory) {
        return UMBP_INVALID_VALUE;
    }
    if (!inode && (!(flags & DISK_OPEN_CREATE) || !parent_exists(disk, path))) {
        return UMBP_NOT_FOUND;
    }
    while (handle < (intptr_t)MEMORY_HANDLES_MAX && disk->handles[handle].inode) {
        handle++;
    }
    if (handle == (intptr_t)MEMORY_HANDLES_MAX) {
        return UMBP_LIMIT;
    }
    if (!inode) {
        inode = mem_zalloc(sizeof(*inode));
        name = inode ? name_make(disk, path) : NULL;
        if (!name) {
            mem_free(inode);
            return UMBP_NO_MEMORY;
        }
        name_set(disk, &name->now, inode);
    } else if (flags & DISK_OPEN_TRUNCATE) {
        enum umbp_status status = inode_resize(disk, inode, 0);
        ASSERT(status == UMBP_OK);
    }
    inode->refs++;
    disk->handles[handle] = (struct memory_handle){
        .inode = inode,
        .is_writable = (flags & DISK_OPEN_WRITE) != 0,
    };
    *file_out = (struct disk_file){.handle = handle, .is_direct = (flags & DISK_OPEN_DIRECT) != 0};
    return UMBP_OK;
}

static enum umbp_status memory_open(struct disk *base, const char *path, unsigned flags,
                                    struct disk_file *file_out)
{
    struct memory_disk *disk = memory_of(base);
    mutex_lock(&disk->mutex);
    enum umbp_status status = memory_open_locked(disk, path, flags, file_out);
    mutex_unlock(&disk->mutex);
    return status;
}

static void memory_close(struct disk *base, struct disk_file file)
{
    struct memory_disk *disk = memory_of(base);
    mutex_lock(&disk->mutex);
    struct memory_handle *handle = handle_of(disk, file);
    inode_unref(disk, handle->inode);
    *handle = (struct memory_handle){.inode = NULL};
    mutex_unlock(&disk->mutex);
}

static enum umbp_status memory_size(struct disk *base, struct disk_file file, uint64_t *bytes_out)
{
    struct memory_disk *disk = memory_of(base);
    mutex_lock(&disk->mutex);
    *bytes_out = handle_of(disk, file)->inode->bytes;
    mutex_unlock(&disk->mutex);
    return UMBP_OK;
}

/* (locked) The inode that may be changed through this handle. */
static enum umbp_status handle_writable(struct memory_disk *disk, struct disk_file file,
                                        struct memory_inode **inode_out)
{
    const struct memory_handle *handle = handle_of(disk, file);
    *inode_out = handle->inode;
    if (handle->is_void) {
        return UMBP_IO;
    }
    return handle->is_writable ? UMBP_OK : UMBP_IO;
}

static enum umbp_status memory_allocate(struct disk *base, struct disk_file file, uint64_t bytes)
{
    struct memory_disk *disk = memory_of(base);
    struct memory_inode *inode;
    mutex_lock(&disk->mutex);
    enum umbp_status status = handle_writable(disk, file, &inode);
    if (status == UMBP_OK && bytes > inode->bytes) {
        status = inode_resize(disk, inode, bytes);
    }
    mutex_unlock(&disk->mutex);
    return status;
}

static enum umbp_status memory_truncate(struct disk *base, struct disk_file file, uint64_t bytes)
{
    struct memory_disk *disk = memory_of(base);
    struct memory_inode *inode;
    mutex_lock(&disk->mutex);
    enum umbp_status status = handle_writable(disk, file, &inode);
    if (status == UMBP_OK) {
        status = inode_resize(disk, inode, bytes);
    }
    mutex_unlock(&disk->mutex);
    return status;
}

static void check_alignment(struct disk_file file, const void *memory, uint64_t bytes,
                            uint64_t offset)
{
    ASSERT(!file.is_direct ||
           ((uintptr_t)memory % 512 == 0 && bytes % 512 == 0 && offset % 512 == 0));
}

static enum umbp_status memory_read_at(struct disk *base, struct disk_file file, void *to,
                                       size_t bytes, uint64_t offset, size_t *bytes_out)
{
    struct memory_disk *disk = memory_of(base);
    check_alignment(file, to, bytes, offset);
    mutex_lock(&disk->mutex);
    const struct memory_inode *inode = handle_of(disk, file)->inode;
    size_t now = offset < inode->bytes ? (size_t)u64_min(bytes, inode->bytes - offset) : 0;
    if (now > 0) {
        memcpy(to, inode->data + offset, now);
    }
    mutex_unlock(&disk->mutex);
    *bytes_out = now;
    return UMBP_OK;
}

static enum umbp_status memory_write_at(struct disk *base, struct disk_file file, const void *from,
                                        size_t bytes, uint64_t offset)
{
    struct memory_disk *disk = memory_of(base);
    struct memory_inode *inode;
    check_alignment(file, from, bytes, offset);
    mutex_lock(&disk->mutex);
    enum umbp_status status = handle_writable(disk, file, &inode);
    if (status == UMBP_OK && offset + bytes > inode->bytes) {
        status = inode_resize(disk, inode, offset + bytes);
    }
    if (status == UMBP_OK && bytes > 0) {
        memcpy(inode->data + offset, from, bytes);
        inode_mark(inode, offset, offset + bytes);
    }
    mutex_unlock(&disk->mutex);
    return status;
}

static enum umbp_status memory_sync_file(struct disk *base, struct disk_file file)
{
    struct memory_disk *disk = memory_of(base);
    mutex_lock(&disk->mutex);
    const struct memory_handle *handle = handle_of(disk, file);
    enum umbp_status status = handle->is_void ? UMBP_IO : UMBP_OK;
    if (status == UMBP_OK) {
        inode_sync(handle->inode);
    }
    mutex_unlock(&disk->mutex);
    return status;
}

static enum umbp_status memory_lock(struct disk *base, struct disk_file file)
{
    struct memory_disk *disk = memory_of(base);
    enum umbp_status status = UMBP_OK;
    mutex_lock(&disk->mutex);
    struct memory_handle *own = handle_of(disk, file);
    for (unsigned i = 0; i < MEMORY_HANDLES_MAX; i++) {
        const struct memory_handle *handle = &disk->handles[i];
        if (handle != own && handle->inode == own->inode && handle->has_lock) {
            status = UMBP_LOCKED;
        }
    }
    own->has_lock = own->has_lock || status == UMBP_OK;
    mutex_unlock(&disk->mutex);
    return status;
}

/* ----------------------------------------------------------------------- directories ----- */

static enum umbp_status memory_unlink(struct disk *base, const char *path)
{
    struct memory_disk *disk = memory_of(base);
    mutex_lock(&disk->mutex);
    struct memory_name *name = name_find(disk, path);
    bool found = name && name->now && !name->now->is_directory;
    if (found) {
        name_set(disk, &name->now, NULL);
        name_drop_if_empty(name);
    }
    mutex_unlock(&disk->mutex);
    return found ? UMBP_OK : UMBP_NOT_FOUND;
}

static enum umbp_status memory_rename(struct disk *base, const char *from, const char *to)
{
    struct memory_disk *disk = memory_of(base);
    enum umbp_status status = UMBP_NOT_FOUND;
    mutex_lock(&disk->mutex);
    struct memory_name *source = name_find(disk, from);
    if (source && source->now) {
        struct memory_name *target = name_make(disk, to);
        status = target ? UMBP_OK : UMBP_NO_MEMORY;
        if (target && target != source) {
            name_set(disk, &target->now, source->now);
            name_set(disk, &source->now, NULL);
            name_drop_if_empty(source);
        }
    }
    mutex_unlock(&disk->mutex);
    return status;
}

static enum umbp_status memory_make_directory(struct disk *base, const char *path)
{
    struct memory_disk *disk = memory_of(base);
    enum umbp_status status = UMBP_OK;
    mutex_lock(&disk->mutex);
    struct memory_name *name = name_find(disk, path);
    if (name && name->now) {
        status = UMBP_ALREADY_EXISTS;
    } else if (!parent_exists(disk, path)) {
        status = UMBP_NOT_FOUND;
    } else {
        struct memory_inode *inode = mem_zalloc(sizeof(*inode));
        name = inode ? name_make(disk, path) : NULL;
        if (!name) {
            mem_free(inode);
            status = UMBP_NO_MEMORY;
        } else {
            inode->is_directory = true;
            name_set(disk, &name->now, inode);
        }
    }
    mutex_unlock(&disk->mutex);
    return status;
}

static enum umbp_status memory_sync_directory(struct disk *base, const char *path)
{
    struct memory_disk *disk = memory_of(base);
    mutex_lock(&disk->mutex);
    for (unsigned i = 0; i < MEMORY_NAMES_MAX; i++) {
        struct memory_name *name = &disk->names[i];
        bool is_home = !strchr(name->path, '/') || strrchr(name->path, '/') == name->path;
        if (name->path[0] && (is_home || name_is_in(name->path, path))) {
            name_set(disk, &name->stable, name->now);
            name_drop_if_empty(name);
        }
    }
    mutex_unlock(&disk->mutex);
    return UMBP_OK;
}

static enum umbp_status
memory_list(struct disk *base, const char *path,
            void (*visit)(void *context, const char *name, bool is_regular_file), void *context)
{
    struct memory_disk *disk = memory_of(base);
    mutex_lock(&disk->mutex);
    enum umbp_status status = directory_exists(disk, path) ? UMBP_OK : UMBP_NOT_FOUND;
    for (unsigned i = 0; i < MEMORY_NAMES_MAX && status == UMBP_OK; i++) {
        const struct memory_name *name = &disk->names[i];
        if (name->path[0] && name->now && name_is_in(name->path, path)) {
            char copy[MEMORY_NAME_BYTES];
            bool is_regular = !name->now->is_directory;
            (void)snprintf(copy, sizeof(copy), "%s", strrchr(name->path, '/') + 1);
            mutex_unlock(&disk->mutex);
            visit(context, copy, is_regular);
            mutex_lock(&disk->mutex);
        }
    }
    mutex_unlock(&disk->mutex);
    return status;
}

/* ------------------------------------------------------------------------- queues -------- */

static enum umbp_status memory_queue_create(struct disk *disk,
                                            const struct disk_queue_options *options,
                                            struct disk_queue **queue_out)
{
    if (!disk_queue_options_are_valid(options)) {
        return UMBP_INVALID_VALUE;
    }
    struct memory_queue *queue = mem_zalloc(sizeof(*queue));
    if (!queue) {
        return UMBP_NO_MEMORY;
    }
    queue->queue.disk = disk;
    queue->queue.depth = options->depth;
    list_init(&queue->finished);
    *queue_out = &queue->queue;
    return UMBP_OK;
}

static void memory_execute(struct disk *disk, struct disk_request *request)
{
    if (request->verb == DISK_SYNC) {
        request->status = memory_sync_file(disk, request->file);
        return;
    }
    for (unsigned i = 0; i < request->iov_count && request->status == UMBP_OK; i++) {
        const struct iovec *piece = &request->iov[i];
        uint64_t offset = request->offset + request->bytes_done;
        size_t now = piece->iov_len;
        if (request->verb == DISK_READ) {
            request->status =
                memory_read_at(disk, request->file, piece->iov_base, now, offset, &now);
        } else {
            request->status = memory_write_at(disk, request->file, piece->iov_base, now, offset);
        }
        if (request->status == UMBP_OK) {
            request->bytes_done += now;
        }
        if (now < piece->iov_len) {
            break;
        }
    }
}

static void memory_queue_submit(struct disk_queue *base, struct disk_request *const *requests,
                                unsigned count)
{
    struct memory_disk *disk = memory_of(base->disk);
    struct memory_queue *queue = memory_queue_of(base);
    for (unsigned i = 0; i < count; i++) {
        disk_request_begin(base, requests[i]);
        memory_execute(base->disk, requests[i]);
        mutex_lock(&disk->mutex);
        uint64_t chance = rng_next(&disk->rng);
        mutex_unlock(&disk->mutex);
        if (chance & 1) {
            list_push_back(&queue->finished, &requests[i]->link);
        } else {
            list_push_front(&queue->finished, &requests[i]->link);
        }
        queue->finished_count++;
    }
}

static unsigned memory_queue_wait(struct disk_queue *base, unsigned min, unsigned max,
                                  uint64_t timeout_ns, struct disk_request **done_out)
{
    struct memory_queue *queue = memory_queue_of(base);
    unsigned taken = 0;
    (void)min;
    (void)timeout_ns;
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

static enum umbp_status memory_queue_destroy(struct disk_queue *base, uint64_t timeout_ns)
{
    (void)timeout_ns;
    mem_free(memory_queue_of(base));
    return UMBP_OK;
}

/* ------------------------------------------------------------------------ instance ------- */

static void memory_destroy(struct disk *base)
{
    struct memory_disk *disk = memory_of(base);
    for (unsigned i = 0; disk->handles && i < MEMORY_HANDLES_MAX; i++) {
        ASSERT(!disk->handles[i].inode); /* a file was left open */
    }
    for (unsigned i = 0; disk->names && i < MEMORY_NAMES_MAX; i++) {
        name_set(disk, &disk->names[i].now, NULL);
        name_set(disk, &disk->names[i].stable, NULL);
    }
    mem_free(disk->names);
    mem_free(disk->handles);
    mutex_fini(&disk->mutex);
    mem_free(disk);
}

static const struct disk_ops memory_ops = {
    .name = "memory",
    .is_async = false,
    .is_durable = false,
    .open = memory_open,
    .close = memory_close,
    .size = memory_size,
    .allocate = memory_allocate,
    .truncate = memory_truncate,
    .read_at = memory_read_at,
    .write_at = memory_write_at,
    .sync_file = memory_sync_file,
    .lock = memory_lock,
    .unlink = memory_unlink,
    .rename = memory_rename,
    .make_directory = memory_make_directory,
    .sync_directory = memory_sync_directory,
    .list = memory_list,
    .queue_create = memory_queue_create,
    .queue_destroy = memory_queue_destroy,
    .queue_submit = memory_queue_submit,
    .queue_wait = memory_queue_wait,
    .destroy = memory_destroy,
};

enum umbp_status disk_memory_create(uint64_t seed, struct disk **disk_out)
{
    struct memory_disk *disk = mem_zalloc(sizeof(*disk));
    if (!disk) {
        return UMBP_NO_MEMORY;
    }
    disk->disk.ops = &memory_ops;
    disk->capacity = UINT64_MAX;
    mutex_init(&disk->mutex, RANK_DISK);
    rng_init(&disk->rng, seed);
    disk->names = mem_calloc(MEMORY_NAMES_MAX, sizeof(*disk->names));
    disk->handles = mem_calloc(MEMORY_HANDLES_MAX, sizeof(*disk->handles));
    if (!disk->names || !disk->handles) {
        memory_destroy(&disk->disk);
        return UMBP_NO_MEMORY;
    }
    *disk_out = &disk->disk;
    return UMBP_OK;
}

static void inode_power_cut(struct memory_disk *disk, struct memory_inode *inode)
{
    for (uint64_t at = 0; at < inode->capacity; at += MEMORY_SECTOR_BYTES) {
        uint8_t *dirty = &inode->dirty[at / MEMORY_SECTOR_BYTES];
        if (*dirty && rng_next(&disk->rng) & 1) {
            memcpy(inode->stable + at, inode->data + at, MEMORY_SECTOR_BYTES);
        }
        *dirty = 0;
    }
    uint64_t bytes = rng_next(&disk->rng) & 1 ? inode->bytes : inode->stable_bytes;
    if (inode->capacity > 0) {
        memset(inode->stable + bytes, 0, (size_t)(inode->capacity - bytes));
        memcpy(inode->data, inode->stable, (size_t)inode->capacity);
    }
    disk->used = disk->used - inode->bytes + bytes;
    inode->bytes = bytes;
    inode->stable_bytes = bytes;
}

void disk_memory_power_cut(struct disk *base)
{
    struct memory_disk *disk = memory_of(base);
    ASSERT(base->ops == &memory_ops);
    mutex_lock(&disk->mutex);
    for (unsigned i = 0; i < MEMORY_HANDLES_MAX; i++) {
        disk->handles[i].has_lock = false;
        disk->handles[i].is_void = disk->handles[i].inode != NULL;
    }
    for (unsigned i = 0; i < MEMORY_NAMES_MAX; i++) {
        struct memory_name *name = &disk->names[i];
        if (name->path[0] && name->now != name->stable) {
            bool keeps_now = (rng_next(&disk->rng) & 1) != 0;
            if (keeps_now) {
                name_set(disk, &name->stable, name->now);
            } else {
                name_set(disk, &name->now, name->stable);
            }
            name_drop_if_empty(name);
        }
        if (name->path[0] && name->now) {
            inode_power_cut(disk, name->now);
        }
    }
    mutex_unlock(&disk->mutex);
}

void disk_memory_set_capacity(struct disk *base, uint64_t bytes)
{
    struct memory_disk *disk = memory_of(base);
    ASSERT(base->ops == &memory_ops);
    mutex_lock(&disk->mutex);
    disk->capacity = bytes;
    mutex_unlock(&disk->mutex);
}

uint8_t *disk_memory_file(struct disk *base, const char *path, uint64_t *bytes_out)
{
    struct memory_disk *disk = memory_of(base);
    uint8_t *data = NULL;
    ASSERT(base->ops == &memory_ops);
    mutex_lock(&disk->mutex);
    const struct memory_name *name = name_find(disk, path);
    if (name && name->now) {
        *bytes_out = name->now->bytes;
        data = name->now->data;
    }
    mutex_unlock(&disk->mutex);
    return data;
}
