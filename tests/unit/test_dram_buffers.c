/* SPDX-License-Identifier: Apache-2.0 */
/* The DRAM tier's memory: backings and their fallbacks, sharing, placement, first touch, leaks. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tier_dram/tier_dram.h"

#define NODE_THAT_IS_NOT_THERE 99

/* The whole file's default: one anonymous buffer, bound nowhere. */
static struct dram_options options_of(uint64_t bytes, enum dram_backing backing)
{
    return (struct dram_options){.bytes = bytes, .backing = backing, .numa_node = DRAM_NUMA_ANY};
}

static struct dram_tier *make(const struct dram_options *options)
{
    struct dram_tier *tier = NULL;
    assert_ok(dram_create(options, &tier));
    return tier;
}

static struct dram_buffer_info buffer(const struct dram_tier *tier, uint32_t index)
{
    struct dram_buffer_info info;
    assert_ok(dram_buffer_get(tier, index, &info));
    return info;
}

/* How much of the memory is there, in bytes. */
static uint64_t present_bytes(void *data, uint64_t bytes)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t pages = (bytes + page - 1) / page;
    unsigned char *seen = malloc(pages);
    assert_non_null(seen);
    assert_int_equal(mincore(data, bytes, seen), 0);
    uint64_t count = 0;
    for (uint64_t i = 0; i < pages; i++) {
        count += seen[i] & 1;
    }
    free(seen);
    return count * page;
}

static unsigned mapping_count(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    unsigned count = 0;
    for (int c = fgetc(maps); c != EOF; c = fgetc(maps)) {
        count += c == '\n';
    }
    fclose(maps);
    return count;
}

/* ---- layout ---- */

static void dram_buffers_share_the_tier_in_nearly_equal_runs_of_pages(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        uint32_t count;
    } shapes[] = {{MIB, 1}, {MIB, 3}, {MIB + 12345, 16}, {64 * MIB + 4096, 64}, {4097 * 2, 2}};
    for (size_t s = 0; s < ARRAY_COUNT(shapes); s++) {
        struct dram_options options = options_of(shapes[s].bytes, DRAM_BACKING_ANONYMOUS);
        options.buffer_count = shapes[s].count;
        struct dram_tier *tier = make(&options);
        assert_int_equal(dram_buffer_count(tier), shapes[s].count);
        uint64_t offset = 0;
        uint64_t least = UINT64_MAX;
        uint64_t most = 0;
        for (uint32_t i = 0; i < shapes[s].count; i++) {
            struct dram_buffer_info info = buffer(tier, i);
            assert_int_equal(info.offset, offset);
            assert_int_equal(info.fd, -1);
            assert_int_equal((uintptr_t)info.data % 4096, 0);
            assert_true(i + 1 == shapes[s].count || info.bytes % 4096 == 0);
            offset += info.bytes;
            least = u64_min(least, info.bytes);
            most = u64_max(most, info.bytes);
        }
        assert_int_equal(offset, dram_bytes_total(tier));
        assert_int_equal(offset, align_down(shapes[s].bytes, DRAM_GRANULE_BYTES));
        assert_true(most - least < 2 * 64 * KIB);
        struct dram_buffer_info info;
        assert_status(dram_buffer_get(tier, shapes[s].count, &info), UMBP_INVALID_VALUE);
        dram_destroy(tier);
    }
}

static void dram_large_buffers_begin_where_a_huge_page_does(void **state)
{
    (void)state;
    struct dram_options options = options_of(8 * MIB, DRAM_BACKING_ANONYMOUS);
    options.buffer_count = 2;
    struct dram_tier *tier = make(&options);
    assert_int_equal((uintptr_t)buffer(tier, 0).data % (2 * MIB), 0);
    assert_int_equal((uintptr_t)buffer(tier, 1).data % (2 * MIB), 0);
    dram_destroy(tier);
}

/* ---- huge pages ---- */

static unsigned warnings;

static void count_warnings(void *context, enum umbp_log_level level, const char *line)
{
    (void)context;
    (void)level;
    warnings += strstr(line, "dram_huge_pages_fallback") != NULL;
}

/* More than there can be: the pool of huge pages is rarely touched, and never a terabyte. */
static void dram_huge_pages_fall_back_with_one_warning_and_work(void **state)
{
    (void)state;
    static const enum dram_backing wanted[] = {DRAM_BACKING_HUGE_PAGES,
                                               DRAM_BACKING_SHARED_HUGE_PAGES};
    static const enum dram_backing had[] = {DRAM_BACKING_ANONYMOUS, DRAM_BACKING_SHARED};
    for (unsigned i = 0; i < 2; i++) {
        struct dram_options options = options_of(16 * MIB, wanted[i]);
        options.buffer_count = 4;
        warnings = 0;
        umbp_log_set(UMBP_LOG_WARN, count_warnings, NULL);
        struct dram_tier *tier = make(&options);
        umbp_log_set(UMBP_LOG_WARN, NULL, NULL);
        struct dram_stats stats;
        dram_stats(tier, &stats);
        if (stats.backing == wanted[i]) {
            assert_int_equal(warnings, 0);
        } else {
            assert_int_equal(stats.backing, had[i]);
            assert_int_equal(warnings, 1);
        }
        struct dram_block block = {0};
        assert_ok(dram_alloc(tier, 16 * MIB, &block));
        char *data = malloc(16 * MIB);
        assert_non_null(data);
        test_fill(data, 16 * MIB, i);
        dram_write(tier, &block, 0, data, 16 * MIB);
        memset(data, 0, 16 * MIB);
        dram_read(tier, &block, 0, data, 16 * MIB);
        assert_true(test_check_fill(data, 16 * MIB, i));
        free(data);
        dram_destroy(tier);
    }
}

/* ---- sharing ---- */

static void dram_shared_buffers_show_their_bytes_in_a_second_mapping(void **state)
{
    (void)state;
    struct dram_options options = options_of(MIB, DRAM_BACKING_SHARED);
    options.buffer_count = 2;
    struct dram_tier *tier = make(&options);
    struct dram_block block = {0};
    assert_ok(dram_alloc(tier, MIB, &block));
    char *data = malloc(MIB);
    assert_non_null(data);
    test_fill(data, MIB, 7);
    dram_write(tier, &block, 0, data, MIB);
    uint32_t cursor = 0;
    for (uint64_t offset = 0; offset < MIB;) {
        struct dram_piece piece = dram_piece_at(tier, &block, offset, &cursor);
        for (uint32_t i = 0; i < 2; i++) {
            struct dram_buffer_info info = buffer(tier, i);
            char *from = piece.data;
            if (from < (char *)info.data || from >= (char *)info.data + info.bytes) {
                continue;
            }
            assert_true(info.fd >= 0);
            char *view = mmap(NULL, info.bytes, PROT_READ, MAP_SHARED, info.fd, 0);
            assert_true(view != MAP_FAILED);
            assert_memory_equal(view + (from - (char *)info.data), data + offset, piece.bytes);
            munmap(view, info.bytes);
        }
        offset += piece.bytes;
    }
    free(data);
    dram_destroy(tier);
}

static void dram_shared_buffers_cannot_be_changed_through_their_descriptor(void **state)
{
    (void)state;
    struct dram_options options = options_of(MIB, DRAM_BACKING_SHARED);
    struct dram_tier *tier = make(&options);
    struct dram_buffer_info info = buffer(tier, 0);
    assert_int_not_equal(ftruncate(info.fd, 4096), 0);
    assert_int_not_equal(ftruncate(info.fd, (off_t)(2 * MIB)), 0);
    assert_true(fcntl(info.fd, F_GETFD) & FD_CLOEXEC);
    const int future_write = 0x0010; /* F_SEAL_FUTURE_WRITE: Linux 5.1 */
    int own = memfd_create("own", MFD_ALLOW_SEALING);
    assert_true(own >= 0);
    if (fcntl(own, F_ADD_SEALS, future_write) == 0) {
        void *view = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, info.fd, 0);
        assert_ptr_equal(view, MAP_FAILED);
        assert_true(write(info.fd, "x", 1) < 0);
    }
    close(own);
    ((char *)info.data)[MIB - 1] = 1; /* the tier's own mapping is writable */
    dram_destroy(tier);
}

/* ---- first touch ---- */

/* Of the mapping that holds `data`, in bytes. */
static uint64_t huge_bytes_of(const void *data)
{
    FILE *maps = fopen("/proc/self/smaps", "r");
    assert_non_null(maps);
    char line[512];
    unsigned long from = 0;
    unsigned long to = 0;
    unsigned long kib = 0;
    bool is_it = false;
    while (fgets(line, sizeof(line), maps)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
            is_it = (uintptr_t)data >= from && (uintptr_t)data < to;
        } else if (is_it && sscanf(line, "ShmemPmdMapped: %lu kB", &kib) == 1) {
            break;
        }
    }
    assert_int_equal(fclose(maps), 0);
    return (uint64_t)kib * KIB;
}

/* Whether this kernel makes huge pages of shared memory, and has some now. */
static bool kernel_collapses(void)
{
    const size_t bytes = 4 * MIB;
    int fd = memfd_create("probe", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    char *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(map, MAP_FAILED);
    char *at = mmap(NULL, 2 * bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(at, MAP_FAILED);
    char *huge = (char *)(((uintptr_t)at + 2 * MIB - 1) / (2 * MIB) * (2 * MIB));
    assert_ptr_equal(mmap(huge, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0),
                     huge);
    huge[0] = 0;
    bool can = madvise(huge, 2 * MIB, 25 /* MADV_COLLAPSE */) == 0 && huge_bytes_of(huge);
    (void)munmap(at, 2 * bytes);
    (void)munmap(map, bytes);
    (void)close(fd);
    return can;
}

static void dram_shared_buffers_get_huge_pages_when_they_are_touched_first(void **state)
{
    (void)state;
    if (!kernel_collapses()) {
        skip();
    }
    struct dram_options options = options_of(32 * MIB, DRAM_BACKING_SHARED);
    options.prefault = true;
    struct dram_tier *tier = make(&options);
    struct dram_buffer_info info = buffer(tier, 0);
    assert_int_equal((uintptr_t)info.data % (2 * MIB), 0);
    assert_true(huge_bytes_of(info.data) > 0);
    dram_destroy(tier);
}

static void dram_prefault_touches_everything_and_no_prefault_nothing(void **state)
{
    (void)state;
    static const enum dram_backing backings[] = {DRAM_BACKING_ANONYMOUS, DRAM_BACKING_SHARED};
    struct dram_options first = options_of(MIB, DRAM_BACKING_ANONYMOUS);
    first.prefault = true;
    first.prefault_threads = 2;
    dram_destroy(make(&first)); /* a sanitizer starts a thread of its own with the first one */
    for (unsigned b = 0; b < 2; b++) {
        for (uint32_t threads = 0; threads <= 3; threads++) {
            struct dram_options options = options_of(40 * MIB + 4096, backings[b]);
            options.buffer_count = 1 + threads;
            options.prefault = true;
            options.prefault_threads = threads;
            unsigned before = test_thread_count();
            struct dram_tier *tier = make(&options);
            for (uint32_t i = 0; i < options.buffer_count; i++) {
                struct dram_buffer_info info = buffer(tier, i);
                assert_true(present_bytes(info.data, info.bytes) >= info.bytes);
                assert_int_equal(((char *)info.data)[info.bytes - 1], 0);
            }
            assert_true(test_threads_settle(before));
            dram_destroy(tier);
        }
        struct dram_options options = options_of(40 * MIB, backings[b]);
        struct dram_tier *tier = make(&options);
        struct dram_buffer_info info = buffer(tier, 0);
        assert_int_equal(present_bytes(info.data, info.bytes), 0);
        dram_destroy(tier);
    }
}

/* ---- NUMA ---- */

static bool can_bind_to_node_0(void)
{
    void *map = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(map != MAP_FAILED);
    unsigned long mask = 1;
    long result = syscall(SYS_mbind, map, 4096ul, (unsigned long)MPOL_BIND, &mask, 64ul, 0ul);
    munmap(map, 4096);
    return result == 0;
}

static void dram_buffers_are_bound_to_the_node_asked_for(void **state)
{
    (void)state;
    static const int nodes[] = {0, DRAM_NUMA_SPREAD};
    for (unsigned i = 0; i < 2; i++) {
        struct dram_options options = options_of(8 * MIB, DRAM_BACKING_ANONYMOUS);
        options.buffer_count = 2;
        options.numa_node = nodes[i];
        options.prefault = true;
        struct dram_tier *tier = NULL;
        enum umbp_status status = dram_create(&options, &tier);
        if (status == UMBP_UNSUPPORTED && !can_bind_to_node_0()) {
            skip(); /* a container that forbids mbind, or memory on other nodes only */
        }
        assert_ok(status);
        for (uint32_t b = 0; b < 2; b++) {
            int mode = -1;
            unsigned long mask[16] = {0};
            if (syscall(SYS_get_mempolicy, &mode, mask, 1024ul, buffer(tier, b).data,
                        (unsigned long)MPOL_F_ADDR) != 0) {
                assert_int_equal(errno, ENOSYS);
                break;
            }
            assert_int_equal(mode, MPOL_BIND);
            assert_true(nodes[i] != 0 || mask[0] == 1);
        }
        dram_destroy(tier);
    }
}

static void dram_create_refuses_a_node_that_is_not_there(void **state)
{
    (void)state;
    static const int nodes[] = {NODE_THAT_IS_NOT_THERE, 1023, 1024, INT32_MAX};
    for (size_t i = 0; i < ARRAY_COUNT(nodes); i++) {
        struct dram_options options = options_of(MIB, DRAM_BACKING_SHARED);
        options.numa_node = nodes[i];
        unsigned fds = test_fd_count();
        struct dram_tier *tier = NULL;
        assert_status(dram_create(&options, &tier), UMBP_UNSUPPORTED);
        assert_null(tier);
        assert_int_equal(test_fd_count(), fds);
    }
}

/* ---- leaks ---- */

static void dram_destroy_leaves_no_descriptor_and_no_mapping(void **state)
{
    (void)state;
    umbp_log_set(UMBP_LOG_ERROR, count_warnings, NULL);
    for (unsigned round = 0; round < 3; round++) {
        unsigned fds = test_fd_count();
        unsigned mappings = mapping_count();
        for (unsigned backing = 0; backing <= DRAM_BACKING_SHARED_HUGE_PAGES; backing++) {
            struct dram_options options = options_of(6 * MIB, (enum dram_backing)backing);
            options.buffer_count = 3;
            options.prefault = backing % 2;
            options.prefault_threads = 2;
            struct dram_tier *tier = make(&options);
            struct dram_block block = {0};
            assert_ok(dram_alloc(tier, 6 * MIB, &block)); /* an extent list, still out */
            dram_destroy(tier);
        }
        assert_int_equal(test_fd_count(), fds);
        if (round > 0 && !test_is_slow()) { /* the first round's threads leave cached stacks */
            assert_int_equal(mapping_count(), mappings);
        }
    }
    umbp_log_set(UMBP_LOG_WARN, NULL, NULL);
}

static void dram_create_leaves_nothing_when_memory_runs_out_halfway(void **state)
{
    (void)state;
    if (test_is_slow()) {
        skip(); /* sanitizers have terabytes mapped */
    }
    for (unsigned backing = 0; backing <= DRAM_BACKING_SHARED; backing += 2) {
        unsigned fds = test_fd_count();
        unsigned mappings = mapping_count();
        struct rlimit before;
        assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
        struct rlimit limit = {.rlim_cur = 1024 * MIB, .rlim_max = before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
        struct dram_options options = options_of(1536 * MIB, (enum dram_backing)backing);
        options.buffer_count = 8;
        struct dram_tier *tier = NULL;
        enum umbp_status status = dram_create(&options, &tier);
        assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
        assert_status(status, UMBP_NO_MEMORY);
        assert_null(tier);
        assert_int_equal(test_fd_count(), fds);
        assert_int_equal(mapping_count(), mappings);
    }
}

static void dram_create_tells_when_there_cannot_be_so_much_memory(void **state)
{
    (void)state;
    struct dram_options options = options_of(UINT64_C(1) << 56, DRAM_BACKING_ANONYMOUS);
    options.page_bytes = DRAM_PAGE_BYTES_MAX;
    struct dram_tier *tier = NULL;
    assert_status(dram_create(&options, &tier), UMBP_NO_MEMORY);
    assert_null(tier);
}

int main(void)
{
    /* Else how many mappings there are depends on which threads met in malloc. */
    (void)mallopt(M_ARENA_MAX, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dram_buffers_share_the_tier_in_nearly_equal_runs_of_pages),
        cmocka_unit_test(dram_large_buffers_begin_where_a_huge_page_does),
        cmocka_unit_test(dram_huge_pages_fall_back_with_one_warning_and_work),
        cmocka_unit_test(dram_shared_buffers_show_their_bytes_in_a_second_mapping),
        cmocka_unit_test(dram_shared_buffers_cannot_be_changed_through_their_descriptor),
        cmocka_unit_test(dram_shared_buffers_get_huge_pages_when_they_are_touched_first),
        cmocka_unit_test(dram_prefault_touches_everything_and_no_prefault_nothing),
        cmocka_unit_test(dram_buffers_are_bound_to_the_node_asked_for),
        cmocka_unit_test(dram_create_refuses_a_node_that_is_not_there),
        cmocka_unit_test(dram_destroy_leaves_no_descriptor_and_no_mapping),
        cmocka_unit_test(dram_create_leaves_nothing_when_memory_runs_out_halfway),
        cmocka_unit_test(dram_create_tells_when_there_cannot_be_so_much_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
