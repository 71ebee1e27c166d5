/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <stdlib.h>
#include <string.h>

#include "base/copy.h"
#include "base/crc.h"

#define GUARD 64
#define BUFFER_BYTES ((size_t)(5 * 8192 + 4096))

struct buffers {
    unsigned char *from;
    unsigned char *to;
};

static int buffers_create(void **state)
{
    struct buffers *buffers = malloc(sizeof *buffers);
    buffers->from = aligned_alloc(4096, BUFFER_BYTES);
    buffers->to = aligned_alloc(4096, BUFFER_BYTES);
    test_fill(buffers->from, BUFFER_BYTES, 1);
    *state = buffers;
    return 0;
}

static int buffers_destroy(void **state)
{
    struct buffers *buffers = *state;
    free(buffers->from);
    free(buffers->to);
    free(buffers);
    return 0;
}

typedef void copy_function(void *restrict to, const void *restrict from, size_t bytes);

static void copy_by_crc(void *restrict to, const void *restrict from, size_t bytes)
{
    assert_int_equal(copy_bytes_crc(to, from, bytes, 7), crc32c(7, from, bytes));
}

/* The bytes arrive, and not one beside them changes. */
static void check_one(copy_function *copy, struct buffers *b, size_t to_offset, size_t from_offset,
                      size_t bytes)
{
    unsigned char *to = b->to + GUARD + to_offset;
    const unsigned char *from = b->from + from_offset;
    assert_true(GUARD + to_offset + bytes + GUARD <= BUFFER_BYTES);
    memset(to - GUARD, 0xEE, bytes + 2 * GUARD);
    copy(to, from, bytes);
    if (memcmp(to, from, bytes) != 0) {
        fail_msg("%zu bytes from +%zu to +%zu differ", bytes, from_offset, to_offset);
    }
    for (size_t i = 1; i <= GUARD; i++) {
        if (to[-(ptrdiff_t)i] != 0xEE || to[bytes + i - 1] != 0xEE) {
            fail_msg("%zu bytes from +%zu to +%zu wrote outside", bytes, from_offset, to_offset);
        }
    }
}

static const size_t sizes[] = {0,    1,    7,    31,   63,    64,    65,    127,  128,
                               129,  2047, 2048, 2049, 4095,  4096,  4097,  8191, 8192,
                               8193, 8255, 8256, 8257, 16384, 16385, 24700, 40000};
static const size_t offsets[] = {0, 1, 3, 8, 31, 32, 33, 63};

static void check_all(copy_function *copy, struct buffers *buffers)
{
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (size_t t = 0; t < sizeof offsets / sizeof *offsets; t++) {
            for (size_t f = 0; f < sizeof offsets / sizeof *offsets; f++) {
                check_one(copy, buffers, offsets[t], offsets[f], sizes[s]);
            }
        }
    }
    struct test_rng rng;
    test_rng_init(&rng, 1);
    for (int i = 0; i < 2000; i++) {
        check_one(copy, buffers, test_rng_below(&rng, 200), test_rng_below(&rng, 200),
                  test_rng_below(&rng, 40000));
    }
}

static void copy_bytes_copies_every_size_at_every_alignment(void **state)
{
    check_all(copy_bytes, *state);
}

static void copy_bytes_stream_copies_every_size_at_every_alignment(void **state)
{
    check_all(copy_bytes_stream, *state);
}

static void copy_bytes_plain_copies_every_size_at_every_alignment(void **state)
{
    check_all(copy_bytes_plain, *state);
}

static void copy_bytes_crc_copies_and_gives_the_checksum_continued(void **state)
{
    check_all(copy_by_crc, *state);
}

static void copy_of_nothing_takes_null_pointers(void **state)
{
    (void)state;
    copy_bytes(NULL, NULL, 0);
    copy_bytes_plain(NULL, NULL, 0);
    copy_bytes_stream(NULL, NULL, 0);
    assert_int_equal(copy_bytes_crc(NULL, NULL, 0, 42), 42);
}

static void copy_streams_on_a_processor_with_avx2(void **state)
{
    (void)state;
#if defined(__x86_64__)
    assert_int_equal(copy_can_stream(), __builtin_cpu_supports("avx2") != 0);
#else
    assert_false(copy_can_stream());
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copy_bytes_copies_every_size_at_every_alignment),
        cmocka_unit_test(copy_bytes_stream_copies_every_size_at_every_alignment),
        cmocka_unit_test(copy_bytes_plain_copies_every_size_at_every_alignment),
        cmocka_unit_test(copy_bytes_crc_copies_and_gives_the_checksum_continued),
        cmocka_unit_test(copy_of_nothing_takes_null_pointers),
        cmocka_unit_test(copy_streams_on_a_processor_with_avx2),
    };
    return cmocka_run_group_tests(tests, buffers_create, buffers_destroy);
}
