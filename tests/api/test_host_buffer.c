/* SPDX-License-Identifier: Apache-2.0 */
/* Host buffers: memory of every kind, that begins zeroed and is given back whole. */
#include "support_client.h"

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <umbp/umbp.h>

#define PAGES (5 * 4096u)

static const enum umbp_host_backing backings[] = {UMBP_HOST_ANONYMOUS, UMBP_HOST_HUGE_PAGES,
                                                  UMBP_HOST_SHARED, UMBP_HOST_SHARED_HUGE_PAGES};

static struct umbp_host_buffer_options options_of(uint64_t bytes, enum umbp_host_backing backing)
{
    return (struct umbp_host_buffer_options){
        .struct_bytes = sizeof(struct umbp_host_buffer_options),
        .bytes = bytes,
        .backing = backing,
        .prefault = true,
    };
}

static struct umbp_host_buffer *make(const struct umbp_host_buffer_options *options)
{
    struct umbp_host_buffer *buffer = NULL;
    assert_int_equal(umbp_host_buffer_create(options, &buffer), UMBP_OK);
    assert_non_null(buffer);
    return buffer;
}

static struct umbp_host_buffer_info info_of(const struct umbp_host_buffer *buffer)
{
    struct umbp_host_buffer_info info = {.struct_bytes = sizeof(info)};
    assert_int_equal(umbp_host_buffer_describe(buffer, &info), UMBP_OK);
    return info;
}

static void silent(void *context, enum umbp_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}

static void every_kind_is_zeroed_whole_pages_and_given_back(void **state)
{
    (void)state;
    umbp_log_set(UMBP_LOG_ERROR, silent, NULL); /* falling back warns */
    struct test_holdings before = test_holdings();
    for (unsigned i = 0; i < sizeof(backings) / sizeof(backings[0]); i++) {
        struct umbp_host_buffer_options options = options_of(PAGES - 7, backings[i]);
        struct umbp_host_buffer *buffer = make(&options);
        struct umbp_host_buffer_info info = info_of(buffer);
        assert_int_equal(info.bytes, PAGES - 7);
        assert_int_equal(info.mapped_bytes % info.page_bytes, 0);
        assert_true(info.mapped_bytes >= info.bytes);
        assert_int_equal((uintptr_t)info.data % info.page_bytes, 0);
        bool shared = backings[i] >= UMBP_HOST_SHARED;
        assert_int_equal(info.backing >= UMBP_HOST_SHARED, shared);
        assert_int_equal(info.fd >= 0, shared);
        for (uint64_t at = 0; at < info.mapped_bytes; at++) {
            assert_int_equal(((unsigned char *)info.data)[at], 0);
        }
        memset(info.data, 0xa5, info.mapped_bytes);
        umbp_host_buffer_destroy(buffer);
    }
    umbp_log_set(UMBP_LOG_WARN, NULL, NULL);
    test_holdings_are_back(before);
}

static void a_shared_one_can_be_mapped_and_written_again_but_not_resized(void **state)
{
    (void)state;
    struct umbp_host_buffer_options options = options_of(PAGES, UMBP_HOST_SHARED);
    struct umbp_host_buffer *buffer = make(&options);
    struct umbp_host_buffer_info info = info_of(buffer);
    struct stat at_fd;
    assert_int_equal(fstat(info.fd, &at_fd), 0);
    assert_int_equal(at_fd.st_size, info.mapped_bytes);
    char *other = mmap(NULL, PAGES, PROT_READ | PROT_WRITE, MAP_SHARED, info.fd, 0);
    assert_ptr_not_equal(other, MAP_FAILED);
    other[PAGES - 1] = 'x';
    assert_int_equal(((char *)info.data)[PAGES - 1], 'x');
    assert_int_equal(munmap(other, PAGES), 0);
    assert_int_not_equal(ftruncate(info.fd, 4096), 0);
    assert_int_not_equal(ftruncate(info.fd, PAGES * 2), 0);
    umbp_host_buffer_destroy(buffer);
}

static void node_zero_can_be_bound_and_no_such_node_is_unsupported(void **state)
{
    (void)state;
    struct umbp_host_buffer_options options = options_of(PAGES, UMBP_HOST_ANONYMOUS);
    options.bind = true;
    umbp_host_buffer_destroy(make(&options));
    const uint32_t nowhere[] = {1023, 1024, UINT32_MAX};
    for (unsigned i = 0; i < 3; i++) {
        struct umbp_host_buffer *buffer = NULL;
        options.numa_node = nowhere[i];
        assert_int_equal(umbp_host_buffer_create(&options, &buffer), UMBP_UNSUPPORTED);
        assert_null(buffer);
    }
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    struct test_holdings before = test_holdings();
    struct umbp_host_buffer *buffer = NULL;
    struct umbp_host_buffer_options options = options_of(0, UMBP_HOST_ANONYMOUS);
    assert_int_equal(umbp_host_buffer_create(&options, &buffer), UMBP_INVALID_VALUE);
    options = options_of(PAGES, (enum umbp_host_backing)4);
    assert_int_equal(umbp_host_buffer_create(&options, &buffer), UMBP_INVALID_VALUE);
    options = options_of(UINT64_MAX, UMBP_HOST_ANONYMOUS);
    assert_int_equal(umbp_host_buffer_create(&options, &buffer), UMBP_NO_MEMORY);
    options = options_of(INT64_MAX - 4096, UMBP_HOST_SHARED);
    assert_int_equal(umbp_host_buffer_create(&options, &buffer), UMBP_NO_MEMORY);
    assert_int_equal(umbp_host_buffer_create(NULL, &buffer), UMBP_INVALID_VALUE);
    assert_int_equal(umbp_host_buffer_create(&options, NULL), UMBP_INVALID_VALUE);
    assert_null(buffer);
    struct umbp_host_buffer_info info = {0};
    assert_int_equal(umbp_host_buffer_describe(NULL, &info), UMBP_INVALID_VALUE);
    umbp_host_buffer_destroy(NULL);
    test_holdings_are_back(before);
}

static void an_older_callers_smaller_structure_is_respected(void **state)
{
    (void)state;
    struct umbp_host_buffer_options options = options_of(PAGES, UMBP_HOST_SHARED);
    options.struct_bytes = offsetof(struct umbp_host_buffer_options, backing);
    struct umbp_host_buffer *buffer = make(&options);
    struct umbp_host_buffer_info info;
    memset(&info, 0x77, sizeof(info));
    info.struct_bytes = offsetof(struct umbp_host_buffer_info, mapped_bytes);
    assert_int_equal(umbp_host_buffer_describe(buffer, &info), UMBP_OK);
    assert_int_equal(info.bytes, PAGES);
    assert_int_equal(info.mapped_bytes, UINT64_C(0x7777777777777777));
    assert_int_equal(info_of(buffer).backing, UMBP_HOST_ANONYMOUS);
    umbp_host_buffer_destroy(buffer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_is_zeroed_whole_pages_and_given_back),
        cmocka_unit_test(a_shared_one_can_be_mapped_and_written_again_but_not_resized),
        cmocka_unit_test(node_zero_can_be_bound_and_no_such_node_is_unsupported),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(an_older_callers_smaller_structure_is_respected),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
