/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory itself: mapping, huge pages, shared files, NUMA placement, first touch.
 *
 * Either all buffers get huge pages or none: a tier that is half of each behaves like neither, and
 * could not be told from its statistics. Ordinary anonymous memory asks for transparent huge pages,
 * which matters for copies, and is left out of core dumps: it is large, and it holds users' data.
 *
 * A shared buffer is a memfd that is sealed: nobody can shrink it under us, and whoever gets the
 * descriptor can map it for reading only, so that no other process can corrupt the pool. (The
 * mapping made here stays writable.) Where the kernel has no such seal, the size alone is sealed.
 * It gets transparent huge pages too, whatever shmem_enabled says: the first touch asks for each 2
 * MiB to be collapsed into one. That is a wish, bounded in time, since the kernel has to find them.
 *
 * NUMA placement is two system calls, made directly: libnuma would add a dependency to wrap them.
 * Placement is set before the first touch, so prefaulting from any thread puts pages where they
 * belong.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tier_dram/dram_priv.h"

#define HUGE_BYTES (2 * MIB)
#define PREFAULT_STEP (16 * MIB)
#define PREFAULT_THREADS_MAX 16u
#define NODES_MAX 1024u
#define COLLAPSE_MS_MAX 20000u /* what a start may take for it; the rest gets ordinary pages */

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26)
#endif
#ifndef MAP_HUGE_2MB
#define MAP_HUGE_2MB (21 << 26)
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

/* ---- mapping ---- */

static bool is_huge(enum dram_backing backing)
{
    return backing == DRAM_BACKING_HUGE_PAGES || backing == DRAM_BACKING_SHARED_HUGE_PAGES;
}

static bool is_shared(enum dram_backing backing)
{
    return backing == DRAM_BACKING_SHARED || backing == DRAM_BACKING_SHARED_HUGE_PAGES;
}

static void unmap_one(struct dram_buffer *buffer)
{
    if (buffer->data) {
        (void)munmap(buffer->data, buffer->mapped_bytes);
    }
    if (buffer->fd >= 0) {
        (void)close(buffer->fd);
    }
    buffer->data = NULL;
    buffer->fd = -1;
}

void dram_buffers_unmap(struct dram_buffer *buffers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        unmap_one(&buffers[i]);
    }
}

void dram_buffers_keep_from_children(const struct dram_buffer *buffers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (buffers[i].fd < 0) {
            (void)madvise(buffers[i].data, buffers[i].mapped_bytes, MADV_DONTFORK); /* a wish */
        }
    }
}

/* Memory, of a file or anonymous (fd -1), that begins at a multiple of 2 MiB, if it is large enough
 * to care. */
static void *map_aligned(uint64_t bytes, int fd)
{
    const int protection = PROT_READ | PROT_WRITE;
    const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    if (bytes < HUGE_BYTES) {
        return mmap(NULL, bytes, protection, flags, fd, 0);
    }
    char *room = mmap(NULL, bytes + HUGE_BYTES, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) {
        return MAP_FAILED;
    }
    uint64_t before = align_up((uintptr_t)room, HUGE_BYTES) - (uintptr_t)room;
    void *map = mmap(room + before, bytes, protection, flags | MAP_FIXED, fd, 0);
    if (map == MAP_FAILED) {
        (void)munmap(room, bytes + HUGE_BYTES);
        return MAP_FAILED;
    }
    if (before) {
        (void)munmap(room, before);
    }
    (void)munmap(room + before + bytes, HUGE_BYTES - before);
    return map;
}

static void *map_shared(uint64_t bytes, bool huge, bool others_write, int *fd_out)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
    int fd = memfd_create("umbp-dram", flags);
    if (fd < 0) {
        return MAP_FAILED;
    }
    void *map = MAP_FAILED;
    if (ftruncate(fd, (off_t)bytes) == 0) {
        map = map_aligned(bytes, fd);
    }
    if (map == MAP_FAILED) {
        goto close_fd;
    }
    const int size_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    if ((others_write || fcntl(fd, F_ADD_SEALS, size_seals | F_SEAL_FUTURE_WRITE) != 0) &&
        fcntl(fd, F_ADD_SEALS, size_seals) != 0) {
        goto unmap;
    }
    *fd_out = fd;
    return map;

unmap:
    (void)munmap(map, bytes);
close_fd:
    (void)close(fd);
    return MAP_FAILED;
}

static enum umbp_status map_one(struct dram_buffer *buffer, enum dram_backing backing)
{
    bool huge = is_huge(backing);
    uint64_t bytes = align_up(buffer->bytes, huge ? HUGE_BYTES : (uint64_t)getpagesize());
    void *map;
    if (bytes < buffer->bytes || bytes > INT64_MAX) {
        return UMBP_NO_MEMORY;
    }
    if (is_shared(backing)) {
        map = map_shared(bytes, huge, buffer->others_write, &buffer->fd);
    } else if (huge) {
        map = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB, -1, 0);
    } else {
        map = map_aligned(bytes, -1);
    }
    if (map == MAP_FAILED) {
        return UMBP_NO_MEMORY;
    }
    buffer->data = map;
    buffer->mapped_bytes = bytes;
    /* Both are wishes. */
    if (!huge && bytes >= HUGE_BYTES) {
        (void)madvise(map, bytes, MADV_HUGEPAGE);
    }
    (void)madvise(map, bytes, MADV_DONTDUMP);
    return UMBP_OK;
}

static enum umbp_status map_all(struct dram_buffer *buffers, uint32_t count,
                                enum dram_backing backing)
{
    for (uint32_t i = 0; i < count; i++) {
        enum umbp_status status = map_one(&buffers[i], backing);
        if (status != UMBP_OK) {
            dram_buffers_unmap(buffers, i);
            return status;
        }
    }
    return UMBP_OK;
}

/* ---- NUMA ---- */

struct node_set {
    unsigned long words[NODES_MAX / (8 * sizeof(unsigned long))];
};

#define NODE_WORD_BITS (8 * sizeof(unsigned long))

static bool node_is_set(const struct node_set *set, unsigned node)
{
    return set->words[node / NODE_WORD_BITS] >> (node % NODE_WORD_BITS) & 1;
}

/* The nodes that this process may allocate from. A kernel without NUMA has node 0. */
static enum umbp_status nodes_allowed(struct node_set *set_out, bool *has_numa_out)
{
    struct node_set set = {{0}};
    bool has_numa = true;
    int mode;
    if (syscall(SYS_get_mempolicy, &mode, set.words, (unsigned long)NODES_MAX, NULL,
                (unsigned long)MPOL_F_MEMS_ALLOWED) != 0) {
        if (errno != ENOSYS) {
            return UMBP_UNSUPPORTED;
        }
        has_numa = false;
        set.words[0] = 1;
    }
    *set_out = set;
    *has_numa_out = has_numa;
    return UMBP_OK;
}

/* The index-th allowed node, round robin. */
static unsigned node_of(const struct node_set *set, uint32_t index)
{
    unsigned count = 0;
    for (unsigned node = 0; node < NODES_MAX; node++) {
        count += node_is_set(set, node);
    }
    ASSERT(count > 0);
    index %= count;
    unsigned node = 0;
    while (!node_is_set(set, node) || index-- > 0) {
        node++;
    }
    return node;
}

static enum umbp_status bind_all(const struct dram_options *options, struct dram_buffer *buffers,
                                 uint32_t count)
{
    if (options->numa_node == DRAM_NUMA_ANY) {
        return UMBP_OK;
    }
    struct node_set allowed;
    bool has_numa;
    enum umbp_status status = nodes_allowed(&allowed, &has_numa);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count; i++) {
        unsigned node = (unsigned)options->numa_node;
        if (options->numa_node == DRAM_NUMA_SPREAD) {
            node = node_of(&allowed, i);
        }
        if (node >= NODES_MAX || !node_is_set(&allowed, node)) {
            return UMBP_UNSUPPORTED;
        }
        if (!has_numa) {
            continue;
        }
        struct node_set only = {{0}};
        only.words[node / NODE_WORD_BITS] |= 1ul << (node % NODE_WORD_BITS);
        /* The kernel reads one bit less than it is told. */
        if (syscall(SYS_mbind, buffers[i].data, (unsigned long)buffers[i].mapped_bytes,
                    (unsigned long)MPOL_BIND, only.words, (unsigned long)NODES_MAX + 1, 0ul) != 0) {
            return errno == ENOMEM ? UMBP_NO_MEMORY : UMBP_UNSUPPORTED;
        }
    }
    return UMBP_OK;
}

/* ---- first touch ---- */

struct prefault {
    const struct dram_buffer *buffers;
    uint32_t count;
    uint64_t step_bytes;
    _Atomic uint64_t next; /* step number, over all buffers; relaxed: it only shares out work */
    _Atomic bool failed;   /* relaxed: read after the threads are joined */
    bool may_collapse;     /* shared memory of ordinary pages */
    uint64_t collapse_until_ns;
    _Atomic bool cannot_collapse; /* relaxed: who misses it tries once more for nothing */
};

/* Make huge pages of what is shared: one page of each 2 MiB is touched, so that there is something
 * to collapse, which then costs one copy of a small page. */
static void collapse(struct prefault *work, char *data, uint64_t bytes)
{
    if (!work->may_collapse || atomic_load_explicit(&work->cannot_collapse, memory_order_relaxed)) {
        return;
    }
    for (uint64_t at = 0; at + HUGE_BYTES <= bytes; at += HUGE_BYTES) {
        bool late = clock_now_ns(clock_monotonic()) >= work->collapse_until_ns;
        bool is_there = !late && madvise(data + at, 1, MADV_POPULATE_WRITE) == 0;
        if (!is_there || (madvise(data + at, HUGE_BYTES, MADV_COLLAPSE) != 0 && errno != EAGAIN)) {
            /* No such call, no huge page free, or no time left: ordinary pages do. */
            atomic_store_explicit(&work->cannot_collapse, true, memory_order_relaxed);
            return;
        }
    }
}

static bool touch(char *data, uint64_t bytes)
{
    int result;
    do {
        result = madvise(data, bytes, MADV_POPULATE_WRITE);
    } while (result != 0 && (errno == EAGAIN || errno == EINTR));
    if (result == 0) {
        return true;
    }
    if (errno != EINVAL && errno != ENOSYS) {
        return false;
    }
    /* An older kernel. Nobody has the memory yet, so writing zeros changes nothing. */
    for (uint64_t at = 0; at < bytes; at += (uint64_t)getpagesize()) {
        ((volatile char *)data)[at] = 0;
    }
    return true;
}

static void *prefault_run(void *context)
{
    struct prefault *work = context;
    for (;;) {
        uint64_t step = atomic_fetch_add_explicit(&work->next, 1, memory_order_relaxed);
        uint32_t i = 0;
        while (i < work->count) {
            uint64_t steps = div_round_up(work->buffers[i].mapped_bytes, work->step_bytes);
            if (step < steps) {
                break;
            }
            step -= steps;
            i++;
        }
        if (i == work->count || atomic_load_explicit(&work->failed, memory_order_relaxed)) {
            return NULL;
        }
        const struct dram_buffer *buffer = &work->buffers[i];
        uint64_t at = step * work->step_bytes;
        uint64_t bytes = u64_min(work->step_bytes, buffer->mapped_bytes - at);
        collapse(work, buffer->data + at, bytes);
        if (!touch(buffer->data + at, bytes)) {
            atomic_store_explicit(&work->failed, true, memory_order_relaxed);
        }
    }
}

static enum umbp_status prefault_all(const struct dram_options *options,
                                     const struct dram_buffer *buffers, uint32_t count,
                                     enum dram_backing backing)
{
    unsigned threads = options->prefault_threads;
    if (!threads) {
        threads = thread_cpu_count();
    }
    threads = threads < PREFAULT_THREADS_MAX ? threads : PREFAULT_THREADS_MAX;
    struct prefault work = {
        .buffers = buffers,
        .count = count,
        .step_bytes = PREFAULT_STEP,
        .may_collapse = backing == DRAM_BACKING_SHARED,
        .collapse_until_ns = clock_deadline_ns(clock_monotonic(), COLLAPSE_MS_MAX),
    };
    pthread_t helpers[PREFAULT_THREADS_MAX];
    unsigned started = 0;
    /* One that cannot be started is not missed: this thread works too. */
    while (started + 1 < threads && thread_create(&helpers[started], "umbp-prefault", false,
                                                  prefault_run, &work) == UMBP_OK) {
        started++;
    }
    (void)prefault_run(&work);
    for (unsigned i = 0; i < started; i++) {
        (void)pthread_join(helpers[i], NULL);
    }
    return atomic_load_explicit(&work.failed, memory_order_relaxed) ? UMBP_NO_MEMORY : UMBP_OK;
}

enum umbp_status dram_buffers_map(const struct dram_options *options, struct dram_buffer *buffers,
                                  uint32_t count, enum dram_backing *backing_out)
{
    enum dram_backing backing = options->backing;
    enum umbp_status status = map_all(buffers, count, backing);
    if (status != UMBP_OK && is_huge(backing)) {
        backing = is_shared(backing) ? DRAM_BACKING_SHARED : DRAM_BACKING_ANONYMOUS;
        status = map_all(buffers, count, backing);
        if (status == UMBP_OK) {
            log_warn("dram_huge_pages_fallback", "wanted_bytes=%llu reason=\"no huge pages free\"",
                     (unsigned long long)options->bytes);
        }
    }
    if (status != UMBP_OK) {
        return status;
    }
    status = bind_all(options, buffers, count);
    if (status == UMBP_OK && options->prefault) {
        status = prefault_all(options, buffers, count, backing);
    }
    if (status != UMBP_OK) {
        dram_buffers_unmap(buffers, count);
        return status;
    }
    *backing_out = backing;
    return UMBP_OK;
}

/* ---- a buffer without a tier ---- */

enum umbp_status dram_buffer_create(const struct dram_options *options,
                                    struct dram_buffer_info *info_out,
                                    enum dram_backing *backing_out)
{
    struct dram_buffer buffer = {.bytes = options->bytes, .fd = -1, .others_write = true};
    if (!options->bytes || options->numa_node == DRAM_NUMA_SPREAD) {
        return UMBP_INVALID_VALUE;
    }
    enum umbp_status status = dram_buffers_map(options, &buffer, 1, backing_out);
    if (status == UMBP_OK) {
        *info_out = (struct dram_buffer_info){
            .data = buffer.data, .bytes = buffer.mapped_bytes, .offset = 0, .fd = buffer.fd};
    }
    return status;
}

void dram_buffer_destroy(const struct dram_buffer_info *info)
{
    struct dram_buffer buffer = {.data = info->data, .mapped_bytes = info->bytes, .fd = info->fd};
    unmap_one(&buffer);
}
