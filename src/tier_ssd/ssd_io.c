/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An I/O context: a disk queue with a fixed set of slots, and the bookkeeping that keeps a slow or
 * dead device from holding anybody. Every request has a deadline of its own. Past it the slot is
 * LOST: its user is told UMBP_TIMEOUT and goes on, while request, buffer and segment stay put until
 * the kernel lets go of them. A context whose slots are all lost is useless until one returns; its
 * next user waits for that, within its own deadline.
 *
 * A context belongs to one thread at a time; pools lend them.
 */
#include "tier_ssd/ssd_priv.h"

#define IO_BATCH 32u
#define IO_HUGE_BYTES (UINT64_C(2) << 20)

static void io_free_memory(struct ssd_io *io)
{
    mem_free(io->user);
    mem_free(io->batch);
    mem_free(io->slots);
    mem_free(io->iovs);
    if (io->memory) {
        mem_unmap(io->memory, io->memory_bytes);
    }
    mem_free(io);
}

static void io_init_slots(struct ssd_io *io)
{
    unsigned all = io->options.slots + 1;
    list_init(&io->free);
    list_init(&io->ended);
    list_init(&io->pool_link);
    for (unsigned i = 0; i < all; i++) {
        struct ssd_slot *slot = &io->slots[i];
        slot->buffer = (uint8_t *)io->memory + (size_t)i * io->options.slot_bytes;
        slot->iov = io->iovs + (size_t)i * io->options.iov_max;
        slot->state = SLOT_FREE;
        list_init(&slot->link);
        if (i < io->options.slots) {
            list_push_back(&io->free, &slot->link);
        }
    }
    io->free_count = io->options.slots;
    io->service = &io->slots[io->options.slots];
}

static enum umbp_status io_create_queue(struct ssd_io *io)
{
    unsigned all = io->options.slots + 1;
    struct iovec buffer = {.iov_base = io->memory, .iov_len = io->memory_bytes};
    struct disk_queue_options options = {.depth = all, .buffers = &buffer, .buffer_count = 1};
    if (!io->options.register_buffers) {
        options.buffer_count = 0;
    }
    return disk_queue_create(io->options.disk, &options, &io->queue);
}

enum umbp_status ssd_io_create(const struct ssd_io_options *options, struct ssd_io **io_out)
{
    unsigned all = options->slots + 1;
    struct ssd_io *io = mem_zalloc(sizeof(*io));
    if (!io) {
        return UMBP_NO_MEMORY;
    }
    io->options = *options;
    io->memory_bytes = (size_t)all * options->slot_bytes;
    if (options->register_buffers) {
        /* Whole huge pages: with small ones at the end the kernel registers all of the buffer as
         * small ones. (No gain was measured for it alone.) */
        io->memory_bytes = (size_t)align_up(io->memory_bytes, IO_HUGE_BYTES);
    }
    io->memory =
        options->register_buffers ? mem_map_huge(io->memory_bytes) : mem_map(io->memory_bytes);
    io->slots = mem_calloc(all, sizeof(*io->slots));
    io->iovs = mem_calloc((size_t)all * options->iov_max, sizeof(*io->iovs));
    io->batch = mem_calloc(all, sizeof(struct disk_request *));
    enum umbp_status status = UMBP_NO_MEMORY;
    if (io->memory && io->slots && io->iovs && io->batch) {
        io_init_slots(io);
        status = io_create_queue(io);
    }
    if (status != UMBP_OK) {
        io_free_memory(io);
        return status;
    }
    *io_out = io;
    return UMBP_OK;
}

struct ssd_slot *ssd_io_take(struct ssd_io *io)
{
    if (io->free_count == 0) {
        return NULL;
    }
    struct ssd_slot *slot = CONTAINER_OF(io->free.next, struct ssd_slot, link);
    list_remove(&slot->link);
    io->free_count--;
    slot->state = SLOT_TAKEN;
    return slot;
}

static void io_set_free(struct ssd_io *io, struct ssd_slot *slot)
{
    if (slot->holds_owner) {
        io->options.drop(io->options.context, slot->owner);
        slot->holds_owner = false;
    }
    slot->owner = NULL;
    slot->state = SLOT_FREE;
    if (slot != io->service) {
        list_push_front(&io->free, &slot->link); /* its buffer is warm */
        io->free_count++;
    }
}

void ssd_io_submit(struct ssd_io *io, struct ssd_slot *slot, enum disk_verb verb,
                   struct disk_file file, uint64_t offset, unsigned iov_count)
{
    bool is_own_buffer = verb == DISK_READ && iov_count == 1 &&
                         (uint8_t *)slot->iov[0].iov_base >= slot->buffer &&
                         (uint8_t *)slot->iov[0].iov_base < slot->buffer + io->options.slot_bytes;
    slot->request.verb = verb;
    slot->request.file = file;
    slot->request.offset = offset;
    slot->request.iov = slot->iov;
    slot->request.iov_count = iov_count;
    slot->request.buffer_index = io->queue->has_fixed_buffers && is_own_buffer ? 0 : -1;
    slot->request.user = slot;
    slot->state = SLOT_BUSY;
    slot->status = UMBP_OK;
    slot->is_reported = false;
    slot->deadline_ns = clock_now_ns(io->options.clock) + io->options.io_timeout_ns;
    io->busy_count++;
    io->batch[io->batch_count++] = &slot->request;
}

void ssd_io_flush(struct ssd_io *io)
{
    if (io->batch_count > 0) {
        disk_queue_submit(io->queue, io->batch, io->batch_count);
        io->batch_count = 0;
    }
}

static void io_count_end(struct ssd_io *io, const struct disk_request *request)
{
    struct ssd_counters *counters = io->options.counters;
    if (request->status != UMBP_OK) {
        ssd_count(&counters->io_errors, 1);
    } else if (request->verb == DISK_READ) {
        ssd_count(&counters->bytes_read, request->bytes_done);
    } else if (request->verb == DISK_WRITE) {
        ssd_count(&counters->bytes_written, request->bytes_done);
    } else {
        ssd_count(&counters->syncs, 1);
    }
}

/* The kernel has given the request back. */
static void io_returned(struct ssd_io *io, struct ssd_slot *slot)
{
    if (slot->state == SLOT_LOST) {
        io->lost_count--;
        if (slot->is_reported) {
            io_set_free(io, slot);
        } else {
            slot->state = SLOT_ENDED; /* still UMBP_TIMEOUT, but its buffer is ours again */
        }
        return;
    }
    ASSERT(slot->state == SLOT_BUSY);
    io_count_end(io, &slot->request);
    slot->state = SLOT_ENDED;
    slot->status = slot->request.status;
    io->busy_count--;
    list_push_back(&io->ended, &slot->link);
}

static void io_lose(struct ssd_io *io, struct ssd_slot *slot)
{
    slot->state = SLOT_LOST;
    slot->status = UMBP_TIMEOUT;
    io->busy_count--;
    io->lost_count++;
    ssd_count(&io->options.counters->io_timeouts, 1);
    if (slot->owner && io->options.hold) {
        /* Who submitted it will let go of the owner; the kernel has not. */
        io->options.hold(io->options.context, slot->owner);
        slot->holds_owner = true;
    }
}

/* Lose what is past its time. True if something was. Else *earliest_out is the next deadline. */
static bool io_expire(struct ssd_io *io, uint64_t now, uint64_t *earliest_out)
{
    uint64_t earliest = UINT64_MAX;
    bool lost_one = false;
    for (unsigned i = 0; io->busy_count > 0 && i <= io->options.slots; i++) {
        struct ssd_slot *slot = &io->slots[i];
        if (slot->state != SLOT_BUSY) {
            continue;
        }
        if (slot->deadline_ns <= now) {
            io_lose(io, slot);
            list_push_back(&io->ended, &slot->link);
            lost_one = true;
        } else {
            earliest = u64_min(earliest, slot->deadline_ns);
        }
    }
    *earliest_out = earliest;
    return lost_one;
}

/* Take in what has finished; wait for one thing if nothing has and `deadline_ns` allows. */
static void io_turn(struct ssd_io *io, uint64_t deadline_ns)
{
    struct disk_request *done[IO_BATCH];
    mutex_assert_none_held();
    ssd_io_flush(io);
    unsigned count = disk_queue_wait(io->queue, 0, IO_BATCH, 0, done);
    if (count == 0) {
        uint64_t now = clock_now_ns(io->options.clock);
        uint64_t earliest;
        if (io_expire(io, now, &earliest)) {
            return;
        }
        uint64_t until = u64_min(earliest, deadline_ns);
        if (until > now) {
            count = disk_queue_wait(io->queue, 1, IO_BATCH, until - now, done);
        }
    }
    for (unsigned i = 0; i < count; i++) {
        io_returned(io, done[i]->user);
    }
}

struct ssd_slot *ssd_io_next(struct ssd_io *io, uint64_t deadline_ns)
{
    while (list_is_empty(&io->ended)) {
        if (io->busy_count == 0) {
            return NULL;
        }
        bool is_due = clock_now_ns(io->options.clock) >= deadline_ns;
        io_turn(io, deadline_ns);
        if (is_due && list_is_empty(&io->ended)) {
            return NULL;
        }
    }
    struct ssd_slot *slot = CONTAINER_OF(io->ended.next, struct ssd_slot, link);
    list_remove(&slot->link);
    slot->is_reported = true;
    return slot;
}

bool ssd_io_await_lost(struct ssd_io *io, uint64_t deadline_ns)
{
    while (io->free_count == 0 && io->lost_count > 0) {
        bool is_due = clock_now_ns(io->options.clock) >= deadline_ns;
        io_turn(io, deadline_ns);
        if (is_due) {
            break;
        }
    }
    return io->free_count > 0;
}

void ssd_io_release(struct ssd_io *io, struct ssd_slot *slot)
{
    if (slot->state == SLOT_ENDED || slot->state == SLOT_TAKEN) {
        io_set_free(io, slot);
    }
}

void ssd_io_abandon(struct ssd_io *io)
{
    ssd_io_flush(io);
    while (!list_is_empty(&io->ended)) {
        struct ssd_slot *slot = CONTAINER_OF(io->ended.next, struct ssd_slot, link);
        list_remove(&slot->link);
        slot->is_reported = true;
        ssd_io_release(io, slot);
    }
    for (unsigned i = 0; io->busy_count > 0 && i <= io->options.slots; i++) {
        if (io->slots[i].state == SLOT_BUSY) {
            io_lose(io, &io->slots[i]);
            io->slots[i].is_reported = true;
        }
    }
}

bool ssd_io_service_is_free(struct ssd_io *io, uint64_t deadline_ns)
{
    uint64_t now = clock_now_ns(io->options.clock);
    deadline_ns = u64_min(deadline_ns, now + io->options.io_timeout_ns);
    while (io->service->state == SLOT_LOST) {
        bool is_due = clock_now_ns(io->options.clock) >= deadline_ns;
        io_turn(io, deadline_ns);
        if (is_due) {
            break;
        }
    }
    return io->service->state == SLOT_FREE;
}

enum umbp_status ssd_io_run(struct ssd_io *io, enum disk_verb verb, struct disk_file file,
                            void *owner, uint64_t offset, size_t bytes, uint64_t deadline_ns,
                            size_t *bytes_out)
{
    struct ssd_slot *slot = io->service;
    if (!ssd_io_service_is_free(io, deadline_ns)) {
        return UMBP_TIMEOUT;
    }
    ASSERT(bytes <= io->options.slot_bytes);
    slot->iov[0] = (struct iovec){.iov_base = slot->buffer, .iov_len = bytes};
    slot->owner = owner;
    ssd_io_submit(io, slot, verb, file, offset, verb == DISK_SYNC ? 0 : 1);
    while (slot->state == SLOT_BUSY) {
        bool is_due = clock_now_ns(io->options.clock) >= deadline_ns;
        io_turn(io, deadline_ns);
        if (is_due && slot->state == SLOT_BUSY) {
            io_lose(io, slot);
        }
    }
    list_remove(&slot->link);
    slot->is_reported = true;
    enum umbp_status status = slot->status;
    ssd_io_release(io, slot);
    if (status != UMBP_OK) {
        return status;
    }
    if (bytes_out) {
        *bytes_out = slot->request.bytes_done;
    } else if (verb == DISK_READ && slot->request.bytes_done < bytes) {
        return UMBP_IO;
    }
    return UMBP_OK;
}

enum umbp_status ssd_io_destroy(struct ssd_io *io, uint64_t timeout_ns)
{
    if (!io) {
        return UMBP_OK;
    }
    ssd_io_abandon(io);
    uint64_t deadline = clock_now_ns(clock_monotonic());
    deadline = timeout_ns > UINT64_MAX - deadline ? UINT64_MAX : deadline + timeout_ns;
    while (io->lost_count > 0) {
        struct disk_request *done[IO_BATCH];
        unsigned count = disk_queue_wait(io->queue, 1, IO_BATCH,
                                         clock_left_ns(clock_monotonic(), deadline), done);
        for (unsigned i = 0; i < count; i++) {
            io_returned(io, done[i]->user);
        }
        if (count == 0) {
            return UMBP_TIMEOUT;
        }
    }
    enum umbp_status status =
        disk_queue_destroy(io->queue, clock_left_ns(clock_monotonic(), deadline));
    if (status != UMBP_OK) {
        return status;
    }
    io_free_memory(io);
    return UMBP_OK;
}

/* ------------------------------------------------------------------------------ pool ----- */

uint64_t ssd_monotonic(const struct clock_source *clock, uint64_t deadline_ns)
{
    if (clock == clock_monotonic() || deadline_ns == DEADLINE_NEVER) {
        return deadline_ns;
    }
    uint64_t now = clock_now_ns(clock_monotonic());
    uint64_t left = clock_left_ns(clock, deadline_ns);
    return left > UINT64_MAX - now ? UINT64_MAX : now + left;
}

void ssd_pool_init(struct ssd_pool *pool)
{
    mutex_init(&pool->mutex, RANK_IO_POOL);
    condition_init(&pool->given);
    list_init(&pool->idle);
    pool->count = 0;
}

void ssd_pool_add(struct ssd_pool *pool, struct ssd_io *io)
{
    pool->count++;
    ssd_pool_give(pool, io);
}

void ssd_pool_give(struct ssd_pool *pool, struct ssd_io *io)
{
    ASSERT(io->busy_count == 0);
    mutex_lock(&pool->mutex);
    if (io->lost_count > 0) { /* taken last */
        list_push_back(&pool->idle, &io->pool_link);
    } else {
        list_push_front(&pool->idle, &io->pool_link);
    }
    condition_signal(&pool->given);
    mutex_unlock(&pool->mutex);
}

struct ssd_io *ssd_pool_take(struct ssd_pool *pool, const struct clock_source *clock,
                             uint64_t deadline_ns)
{
    uint64_t until = ssd_monotonic(clock, deadline_ns);
    struct ssd_io *io = NULL;
    mutex_lock(&pool->mutex);
    while (list_is_empty(&pool->idle)) {
        if (!condition_wait(&pool->given, &pool->mutex, until) && list_is_empty(&pool->idle)) {
            break;
        }
    }
    if (!list_is_empty(&pool->idle)) {
        io = CONTAINER_OF(pool->idle.next, struct ssd_io, pool_link);
        list_remove(&io->pool_link);
    }
    mutex_unlock(&pool->mutex);
    return io;
}

enum umbp_status ssd_pool_fini(struct ssd_pool *pool, const struct clock_source *clock,
                               uint64_t deadline_ns)
{
    uint64_t until = ssd_monotonic(clock, deadline_ns);
    struct list_node *node = pool->idle.next;
    while (node != &pool->idle) {
        struct ssd_io *io = CONTAINER_OF(node, struct ssd_io, pool_link);
        node = node->next;
        list_remove(&io->pool_link);
        if (ssd_io_destroy(io, clock_left_ns(clock_monotonic(), until)) == UMBP_OK) {
            pool->count--;
        } else {
            list_push_front(&pool->idle, &io->pool_link);
        }
    }
    if (pool->count > 0) {
        return UMBP_TIMEOUT;
    }
    condition_fini(&pool->given);
    mutex_fini(&pool->mutex);
    return UMBP_OK;
}
