/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fault wrapper: any driver, with calls that fail, tear, hang or lie when told to.
 *
 * Each call is counted under every kind that fits it (DISK_CALL_ANY included), and each fault waits
 * for its call number. A "crash" is what a kill of the machine's I/O looks like from inside: the
 * write under way gets as far as it got, and nothing changes the disk any more. What was written
 * stays, so that another instance can open it.
 *
 * Requests that are delayed or never to come out are kept here and never reach the inner queue
 * until their time, or until they are released.
 */
#include "disk/disk_priv.h"

#define FAULT_BIT(call) (1u << (unsigned)(call))
#define FAULT_WAIT_SLICE_NS (NS_PER_MS)

struct fault_rule {
    struct disk_fault fault;
    uint64_t seen; /* calls that fitted, since it was added */
    bool is_set;
};

struct fault_disk {
    struct disk disk;
    struct disk *inner;
    struct mutex mutex; /* RANK_DISK; guards the rest; nothing is taken under it */
    struct fault_rule rules[DISK_FAULTS_MAX];
    uint64_t calls[DISK_CALL_COUNT];
    bool has_crashed;
    uint64_t release_count;    /* goes up when held requests and stalled calls may go on */
    struct condition released; /* that */
};

struct fault_queue {
    struct disk_queue queue;
    struct disk_queue *inner;
    struct list_node held;     /* never to come out, or later */
    struct list_node finished; /* by us */
    unsigned held_count;
    unsigned finished_count;
    uint64_t release_seen;
};

static struct fault_disk *fault_of(struct disk *disk)
{
    return CONTAINER_OF(disk, struct fault_disk, disk);
}

static struct fault_queue *fault_queue_of(struct disk_queue *queue)
{
    return CONTAINER_OF(queue, struct fault_queue, queue);
}

/* Count the call. True and the fault when one strikes. A crashed disk fails every change. */
static bool fault_strikes(struct fault_disk *disk, unsigned kinds, struct disk_fault *fault_out)
{
    bool strikes = false;
    if (!(kinds & FAULT_BIT(DISK_CALL_CLOSE))) {
        kinds |= FAULT_BIT(DISK_CALL_ANY);
    }
    mutex_lock(&disk->mutex);
    for (unsigned call = 0; call < DISK_CALL_COUNT; call++) {
        disk->calls[call] += kinds >> call & 1;
    }
    for (unsigned i = 0; i < DISK_FAULTS_MAX; i++) {
        struct fault_rule *rule = &disk->rules[i];
        if (!rule->is_set || !(kinds & FAULT_BIT(rule->fault.call))) {
            continue;
        }
        rule->seen++;
        uint64_t times = rule->fault.times ? rule->fault.times : 1;
        if (!strikes && rule->seen >= rule->fault.first && rule->seen - rule->fault.first < times) {
            *fault_out = rule->fault;
            strikes = true;
        }
    }
    if (disk->has_crashed && kinds & FAULT_BIT(DISK_CALL_CHANGE)) {
        *fault_out = (struct disk_fault){.action = DISK_FAULT_FAIL};
        strikes = true;
    }
    if (strikes && fault_out->status == UMBP_OK) {
        fault_out->status = UMBP_IO;
    }
    if (strikes && fault_out->action == DISK_FAULT_CRASH) {
        disk->has_crashed = true;
    }
    mutex_unlock(&disk->mutex);
    return strikes;
}

/* Until the next release. */
static void fault_stall(struct fault_disk *disk)
{
    mutex_lock(&disk->mutex);
    uint64_t before = disk->release_count;
    while (disk->release_count == before) {
        (void)condition_wait(&disk->released, &disk->mutex,
                             clock_deadline_ns(clock_monotonic(), 60000));
    }
    mutex_unlock(&disk->mutex);
}

/* For calls that can only fail, stall or go on. */
static enum umbp_status fault_gate(struct fault_disk *disk, unsigned kinds)
{
    struct disk_fault fault;
    if (!fault_strikes(disk, kinds, &fault)) {
        return UMBP_OK;
    }
    if (fault.action == DISK_FAULT_STALL) {
        fault_stall(disk);
    }
    bool fails = fault.action == DISK_FAULT_FAIL || fault.action == DISK_FAULT_CRASH;
    return fails ? fault.status : UMBP_OK;
}

#define CHANGE FAULT_BIT(DISK_CALL_CHANGE)

static enum umbp_status fault_open(struct disk *base, const char *path, unsigned flags,
                                   struct disk_file *file_out)
{
    struct fault_disk *disk = fault_of(base);
    unsigned kinds = FAULT_BIT(DISK_CALL_OPEN);
    if (flags & (DISK_OPEN_CREATE | DISK_OPEN_TRUNCATE)) {
        kinds |= FAULT_BIT(DISK_CALL_CREATE) | CHANGE;
    }
    enum umbp_status status = fault_gate(disk, kinds);
    return status == UMBP_OK ? disk_open(disk->inner, path, flags, file_out) : status;
}

static void fault_close(struct disk *base, struct disk_file file)
{
    enum umbp_status status = fault_gate(fault_of(base), FAULT_BIT(DISK_CALL_CLOSE));
    (void)status; /* it can be late, not fail */
    disk_close(fault_of(base)->inner, file);
}

static enum umbp_status fault_size(struct disk *base, struct disk_file file, uint64_t *bytes_out)
{
    struct fault_disk *disk = fault_of(base);
    enum umbp_status status = fault_gate(disk, FAULT_BIT(DISK_CALL_SIZE));
    return status == UMBP_OK ? disk_size(disk->inner, file, bytes_out) : status;
}

static enum umbp_status fault_allocate(struct disk *base, struct disk_file file, uint64_t bytes)
{
    struct fault_disk *disk = fault_of(base);
    enum umbp_status status = fault_gate(disk, FAULT_BIT(DISK_CALL_ALLOCATE) | CHANGE);
    return status == UMBP_OK ? disk_allocate(disk->inner, file, bytes) : status;
}

static enum umbp_status fault_truncate(struct disk *base, struct disk_file file, uint64_t bytes)
{
    struct fault_disk *disk = fault_of(base);
    enum umbp_status status = fault_gate(disk, FAULT_BIT(DISK_CALL_TRUNCATE) | CHANGE);
    return status == UMBP_OK ? disk_truncate(disk->inner, file, bytes) : status;
}

static void flip_bit(void *data, size_t bytes)
{
    if (bytes > 0) {
        ((uint8_t *)data)[bytes / 2] ^= 1;
    }
}

static enum umbp_status fault_read_at(struct disk *base, struct disk_file file, void *to,
                                      size_t bytes, uint64_t offset, size_t *bytes_out)
{
    struct fault_disk *disk = fault_of(base);
    struct disk_fault fault;
    bool strikes = fault_strikes(disk, FAULT_BIT(DISK_CALL_READ), &fault);
    if (strikes && fault.action == DISK_FAULT_FAIL) {
        return fault.status;
    }
    if (strikes && fault.action == DISK_FAULT_STALL) {
        fault_stall(disk);
    }
    enum umbp_status status = disk_read_at(disk->inner, file, to, bytes, offset, bytes_out);
    if (strikes && fault.action == DISK_FAULT_FLIP && status == UMBP_OK) {
        flip_bit(to, *bytes_out);
    }
    return status;
}

static enum umbp_status fault_write_at(struct disk *base, struct disk_file file, const void *from,
                                       size_t bytes, uint64_t offset)
{
    struct fault_disk *disk = fault_of(base);
    struct disk_fault fault;
    bool strikes = fault_strikes(disk, FAULT_BIT(DISK_CALL_WRITE) | CHANGE, &fault);
    if (strikes && fault.action == DISK_FAULT_STALL) {
        fault_stall(disk);
    }
    /* Late, lost and lying answers are for requests: a synchronous call has none of its own. */
    if (!strikes || (fault.action != DISK_FAULT_FAIL && fault.action != DISK_FAULT_CRASH &&
                     fault.action != DISK_FAULT_SHORT)) {
        return disk_write_at(disk->inner, file, from, bytes, offset);
    }
    if ((fault.action == DISK_FAULT_CRASH || fault.action == DISK_FAULT_SHORT) && fault.bytes > 0 &&
        !file.is_direct) {
        enum umbp_status status =
            disk_write_at(disk->inner, file, from, size_min(bytes, (size_t)fault.bytes), offset);
        (void)status; /* torn anyhow */
    }
    return fault.status;
}

static enum umbp_status fault_sync_file(struct disk *base, struct disk_file file)
{
    struct fault_disk *disk = fault_of(base);
    enum umbp_status status = fault_gate(disk, FAULT_BIT(DISK_CALL_SYNC) | CHANGE);
    return status == UMBP_OK ? disk_sync_file(disk->inner, file) : status;
}

static enum umbp_status fault_lock(struct disk *base, struct disk_file file)
{
    struct fault_disk *disk = fault_of(base);
    enum umbp_status status = fault_gate(disk, FAULT_BIT(DISK_CALL_LOCK));
    return status == UMBP_OK ? disk_lock(disk->inner, file) : status;
}

static enum umbp_status fault_unlink(struct disk *base, const char *path)
{
    struct fault_disk *disk = fault_of(base);
    enum umbp_status status = fault_gate(disk, FAULT_BIT(DISK_CALL_UNLINK) | CHANGE);
    return status == UMBP_OK ? disk_unlink(disk->inner, path) : status;
}

static enum umbp_status fault_rename(struct disk *base, const char *from, const char *to)
{
    struct fault_disk *disk = fault_of(base);
    enum umbp_status status = fault_gate(disk, FAULT_BIT(DISK_CALL_RENAME) | CHANGE);
    return status == UMBP_OK ? disk_rename(disk->inner, from, to) : status;
}

static enum umbp_status fault_make_directory(struct disk *base, const char *path)
{
    struct fault_disk *disk = fault_of(base);
    enum umbp_status status = fault_gate(disk, FAULT_BIT(DISK_CALL_MAKE_DIRECTORY) | CHANGE);
    return status == UMBP_OK ? disk_make_directory(disk->inner, path) : status;
}

static enum umbp_status fault_sync_directory(struct disk *base, const char *path)
{
    struct fault_disk *disk = fault_of(base);
    enum umbp_status status = fault_gate(disk, FAULT_BIT(DISK_CALL_SYNC) | CHANGE);
    return status == UMBP_OK ? disk_sync_directory(disk->inner, path) : status;
}

static enum umbp_status
fault_list(struct disk *base, const char *path,
           void (*visit)(void *context, const char *name, bool is_regular_file), void *context)
{
    struct fault_disk *disk = fault_of(base);
    enum umbp_status status = fault_gate(disk, FAULT_BIT(DISK_CALL_LIST));
    return status == UMBP_OK ? disk_list(disk->inner, path, visit, context) : status;
}

/* ------------------------------------------------------------------------- queues -------- */

static enum umbp_status fault_queue_create(struct disk *base,
                                           const struct disk_queue_options *options,
                                           struct disk_queue **queue_out)
{
    struct fault_disk *disk = fault_of(base);
    enum umbp_status status = fault_gate(disk, FAULT_BIT(DISK_CALL_QUEUE));
    if (status != UMBP_OK) {
        return status;
    }
    struct fault_queue *queue = mem_zalloc(sizeof(*queue));
    if (!queue) {
        return UMBP_NO_MEMORY;
    }
    status = disk_queue_create(disk->inner, options, &queue->inner);
    if (status != UMBP_OK) {
        mem_free(queue);
        return status;
    }
    queue->queue.disk = base;
    queue->queue.depth = options->depth;
    queue->queue.has_fixed_buffers = queue->inner->has_fixed_buffers;
    list_init(&queue->held);
    list_init(&queue->finished);
    *queue_out = &queue->queue;
    return UMBP_OK;
}

static void queue_finish(struct fault_queue *queue, struct disk_request *request,
                         enum umbp_status status)
{
    request->status = status;
    list_push_back(&queue->finished, &request->link);
    queue->finished_count++;
}

/* Write the request's first `bytes` and no more. */
static void queue_tear(struct fault_disk *disk, const struct disk_request *request, uint64_t bytes)
{
    uint64_t all = 0;
    for (unsigned i = 0; i < request->iov_count; i++) {
        all += request->iov[i].iov_len;
    }
    bytes = align_down(u64_min(bytes, all), 512);
    uint8_t *copy = bytes > 0 ? mem_aligned(DISK_ALIGN_BYTES, (size_t)bytes) : NULL;
    if (!copy) {
        return;
    }
    size_t at = 0;
    for (unsigned i = 0; i < request->iov_count && at < bytes; i++) {
        size_t now = size_min(request->iov[i].iov_len, (size_t)bytes - at);
        memcpy(copy + at, request->iov[i].iov_base, now);
        at += now;
    }
    enum umbp_status status =
        disk_write_at(disk->inner, request->file, copy, (size_t)bytes, request->offset);
    (void)status; /* torn anyhow */
    mem_free(copy);
}

static void queue_pass(struct fault_queue *queue, struct disk_request *request)
{
    disk_queue_submit(queue->inner, &request, 1);
}

static void queue_strike(struct fault_queue *queue, struct disk_request *request,
                         const struct disk_fault *fault)
{
    struct fault_disk *disk = fault_of(queue->queue.disk);
    switch (fault->action) {
    case DISK_FAULT_CRASH:
    case DISK_FAULT_SHORT:
        if (request->verb == DISK_WRITE) {
            queue_tear(disk, request, fault->bytes);
        }
        queue_finish(queue, request, fault->status);
        break;
    case DISK_FAULT_FAIL:
        queue_finish(queue, request, fault->status);
        break;
    case DISK_FAULT_DELAY:
    case DISK_FAULT_NEVER:
        request->due_ns = fault->action == DISK_FAULT_NEVER
                              ? UINT64_MAX
                              : clock_now_ns(clock_monotonic()) + fault->delay_ns;
        list_push_back(&queue->held, &request->link);
        queue->held_count++;
        break;
    case DISK_FAULT_STALL: /* a request has DISK_FAULT_NEVER for that */
        queue_pass(queue, request);
        break;
    case DISK_FAULT_FLIP:
        if (request->verb == DISK_READ && request->iov_count > 0) {
            size_t bytes = request->iov[0].iov_len;
            size_t got = 0;
            enum umbp_status status = disk_read_at(
                disk->inner, request->file, request->iov[0].iov_base, bytes, request->offset, &got);
            flip_bit(request->iov[0].iov_base, got);
            request->bytes_done = got;
            queue_finish(queue, request, status);
        } else {
            queue_pass(queue, request);
        }
        break;
    }
}

static unsigned request_kinds(const struct disk_request *request)
{
    switch (request->verb) {
    case DISK_READ:
        return FAULT_BIT(DISK_CALL_READ);
    case DISK_WRITE:
        return FAULT_BIT(DISK_CALL_WRITE) | CHANGE;
    case DISK_SYNC:
        break;
    }
    return FAULT_BIT(DISK_CALL_SYNC) | CHANGE;
}

static void fault_queue_submit(struct disk_queue *base, struct disk_request *const *requests,
                               unsigned count)
{
    struct fault_queue *queue = fault_queue_of(base);
    for (unsigned i = 0; i < count; i++) {
        struct disk_fault fault = {.action = DISK_FAULT_FAIL};
        disk_request_begin(base, requests[i]);
        if (fault_strikes(fault_of(base->disk), request_kinds(requests[i]), &fault)) {
            queue_strike(queue, requests[i], &fault);
        } else {
            queue_pass(queue, requests[i]);
        }
    }
}

/* Let go what is due. A crash in the meantime fails what would change the disk. */
static void queue_release(struct fault_queue *queue)
{
    struct fault_disk *disk = fault_of(queue->queue.disk);
    mutex_lock(&disk->mutex);
    bool all = disk->release_count != queue->release_seen;
    queue->release_seen = disk->release_count;
    bool has_crashed = disk->has_crashed;
    mutex_unlock(&disk->mutex);
    uint64_t now = clock_now_ns(clock_monotonic());
    struct list_node *node = queue->held.next;
    while (node != &queue->held) {
        struct disk_request *request = CONTAINER_OF(node, struct disk_request, link);
        node = node->next;
        if (!all && request->due_ns > now) {
            continue;
        }
        list_remove(&request->link);
        queue->held_count--;
        if (has_crashed && request->verb != DISK_READ) {
            queue_finish(queue, request, UMBP_IO);
        } else {
            queue_pass(queue, request);
        }
    }
}

static unsigned queue_take(struct fault_queue *queue, unsigned max, struct disk_request **done_out)
{
    unsigned taken = 0;
    while (taken < max && queue->finished_count > 0) {
        struct disk_request *request =
            CONTAINER_OF(queue->finished.next, struct disk_request, link);
        list_remove(&request->link);
        queue->finished_count--;
        done_out[taken++] = request;
    }
    return taken;
}

static unsigned fault_queue_wait(struct disk_queue *base, unsigned min, unsigned max,
                                 uint64_t timeout_ns, struct disk_request **done_out)
{
    struct fault_queue *queue = fault_queue_of(base);
    uint64_t now = clock_now_ns(clock_monotonic());
    uint64_t deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
    unsigned taken = 0;
    min = min < max ? min : max;
    min = min < base->in_flight ? min : base->in_flight;
    for (;;) {
        queue_release(queue);
        taken += queue_take(queue, max - taken, done_out + taken);
        uint64_t left = clock_left_ns(clock_monotonic(), deadline);
        bool is_done = taken >= min || left == 0;
        if (queue->inner->in_flight > 0) {
            /* Slices, so that held requests are looked at in time. */
            uint64_t span = queue->held_count > 0 ? u64_min(left, FAULT_WAIT_SLICE_NS) : left;
            taken += disk_queue_wait(queue->inner, is_done ? 0 : 1, max - taken, is_done ? 0 : span,
                                     done_out + taken);
        } else if (!is_done) {
            struct timespec pause = {.tv_nsec = (long)u64_min(left, FAULT_WAIT_SLICE_NS)};
            (void)nanosleep(&pause, NULL);
        }
        if (is_done || taken >= max) {
            break;
        }
    }
    base->in_flight -= taken;
    return taken;
}

static enum umbp_status fault_queue_destroy(struct disk_queue *base, uint64_t timeout_ns)
{
    struct fault_queue *queue = fault_queue_of(base);
    uint64_t now = clock_now_ns(clock_monotonic());
    uint64_t deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
    while (base->in_flight > 0) {
        struct disk_request *done[16];
        if (fault_queue_wait(base, 1, ARRAY_COUNT(done), clock_left_ns(clock_monotonic(), deadline),
                             done) == 0) {
            return UMBP_TIMEOUT;
        }
    }
    enum umbp_status status =
        disk_queue_destroy(queue->inner, clock_left_ns(clock_monotonic(), deadline));
    if (status == UMBP_OK) {
        mem_free(queue);
    }
    return status;
}

static void fault_destroy(struct disk *base)
{
    struct fault_disk *disk = fault_of(base);
    disk_destroy(disk->inner);
    condition_fini(&disk->released);
    mutex_fini(&disk->mutex);
    mem_free(disk);
}

/* ------------------------------------------------------------------------- control ------- */

static const struct disk_ops fault_ops = {
    .name = "fault",
    .is_async = true,
    .is_durable = true,
    .open = fault_open,
    .close = fault_close,
    .size = fault_size,
    .allocate = fault_allocate,
    .truncate = fault_truncate,
    .read_at = fault_read_at,
    .write_at = fault_write_at,
    .sync_file = fault_sync_file,
    .lock = fault_lock,
    .unlink = fault_unlink,
    .rename = fault_rename,
    .make_directory = fault_make_directory,
    .sync_directory = fault_sync_directory,
    .list = fault_list,
    .queue_create = fault_queue_create,
    .queue_destroy = fault_queue_destroy,
    .queue_submit = fault_queue_submit,
    .queue_wait = fault_queue_wait,
    .destroy = fault_destroy,
};

enum umbp_status disk_fault_create(struct disk *inner, struct disk **disk_out)
{
    struct fault_disk *disk = mem_zalloc(sizeof(*disk));
    if (!disk) {
        disk_destroy(inner);
        return UMBP_NO_MEMORY;
    }
    disk->disk.ops = &fault_ops;
    disk->inner = inner;
    mutex_init(&disk->mutex, RANK_DISK);
    condition_init(&disk->released);
    *disk_out = &disk->disk;
    return UMBP_OK;
}

bool disk_fault_add(struct disk *base, const struct disk_fault *fault)
{
    struct fault_disk *disk = fault_of(base);
    bool added = false;
    ASSERT(base->ops == &fault_ops && fault->first >= 1);
    mutex_lock(&disk->mutex);
    for (unsigned i = 0; i < DISK_FAULTS_MAX && !added; i++) {
        if (!disk->rules[i].is_set) {
            disk->rules[i] = (struct fault_rule){.fault = *fault, .is_set = true};
            added = true;
        }
    }
    mutex_unlock(&disk->mutex);
    return added;
}

void disk_fault_clear(struct disk *base)
{
    struct fault_disk *disk = fault_of(base);
    ASSERT(base->ops == &fault_ops);
    mutex_lock(&disk->mutex);
    memset(disk->rules, 0, sizeof(disk->rules));
    disk->has_crashed = false;
    disk->release_count++;
    condition_broadcast(&disk->released);
    mutex_unlock(&disk->mutex);
}

void disk_fault_release(struct disk *base)
{
    struct fault_disk *disk = fault_of(base);
    ASSERT(base->ops == &fault_ops);
    mutex_lock(&disk->mutex);
    disk->release_count++;
    condition_broadcast(&disk->released);
    mutex_unlock(&disk->mutex);
}

uint64_t disk_fault_calls(const struct disk *base, enum disk_call call)
{
    struct fault_disk *disk = fault_of((struct disk *)(uintptr_t)base);
    mutex_lock(&disk->mutex);
    uint64_t calls = disk->calls[call];
    mutex_unlock(&disk->mutex);
    return calls;
}

bool disk_fault_has_crashed(const struct disk *base)
{
    struct fault_disk *disk = fault_of((struct disk *)(uintptr_t)base);
    mutex_lock(&disk->mutex);
    bool has_crashed = disk->has_crashed;
    mutex_unlock(&disk->mutex);
    return has_crashed;
}
