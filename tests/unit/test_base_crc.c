/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <stdlib.h>
#include <string.h>

#include "base/crc.h"

static uint32_t crc_bit_by_bit(uint32_t crc, const unsigned char *data, size_t bytes)
{
    crc = ~crc;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0);
        }
    }
    return ~crc;
}

static void check_vector(const void *data, size_t bytes, uint32_t expected)
{
    assert_int_equal(crc32c(0, data, bytes), expected);
    assert_int_equal(crc32c_portable(0, data, bytes), expected);
}

/* RFC 3720 B.4 */
static void crc_gives_the_published_values(void **state)
{
    (void)state;
    unsigned char data[32];
    check_vector("123456789", 9, 0xE3069283u);
    check_vector("", 0, 0);
    memset(data, 0, sizeof data);
    check_vector(data, sizeof data, 0x8A9136AAu);
    memset(data, 0xFF, sizeof data);
    check_vector(data, sizeof data, 0x62A8AB43u);
    for (unsigned i = 0; i < 32; i++) {
        data[i] = (unsigned char)i;
    }
    check_vector(data, sizeof data, 0x46DD794Eu);
    for (unsigned i = 0; i < 32; i++) {
        data[i] = (unsigned char)(31 - i);
    }
    check_vector(data, sizeof data, 0x113FDB5Cu);
}

static void crc_of_both_kinds_equals_the_bitwise_one_at_every_size_and_alignment(void **state)
{
    (void)state;
    unsigned char data[600];
    test_fill(data, sizeof data, 1);
    for (size_t offset = 0; offset < 16; offset++) {
        for (size_t bytes = 0; bytes < 560; bytes++) {
            uint32_t expected = crc_bit_by_bit(99, data + offset, bytes);
            assert_int_equal(crc32c(99, data + offset, bytes), expected);
            assert_int_equal(crc32c_portable(99, data + offset, bytes), expected);
        }
    }
}

/* Eight bytes that select each table entry once, from each register value that matters. */
static void crc_tables_are_right_in_every_entry(void **state)
{
    (void)state;
    for (unsigned place = 0; place < 8; place++) {
        for (unsigned value = 0; value < 256; value++) {
            unsigned char data[8] = {0};
            data[place] = (unsigned char)value;
            assert_int_equal(crc32c_portable(0, data, 8), crc_bit_by_bit(0, data, 8));
        }
    }
}

static void crc_continues_from_any_cut(void **state)
{
    (void)state;
    size_t bytes = 100000;
    unsigned char *data = malloc(bytes);
    struct test_rng rng;
    test_rng_init(&rng, 2);
    test_fill(data, bytes, 2);
    uint32_t whole = crc32c(0, data, bytes);
    assert_int_equal(whole, crc32c_portable(0, data, bytes));
    for (int i = 0; i < 200; i++) {
        size_t cut = test_rng_below(&rng, bytes + 1);
        assert_int_equal(crc32c(crc32c(0, data, cut), data + cut, bytes - cut), whole);
        assert_int_equal(crc32c_portable(crc32c(0, data, cut), data + cut, bytes - cut), whole);
    }
    free(data);
}

static void crc_changes_with_any_one_bit(void **state)
{
    (void)state;
    unsigned char data[64];
    test_fill(data, sizeof data, 3);
    uint32_t whole = crc32c(0, data, sizeof data);
    for (unsigned bit = 0; bit < 8 * sizeof data; bit++) {
        data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        assert_int_not_equal(crc32c(0, data, sizeof data), whole);
        data[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
}

static void crc_name_is_one_of_the_two(void **state)
{
    (void)state;
#ifdef UMBP_HAVE_ISAL
    assert_string_equal(crc32c_name(), "isa-l");
#else
    assert_string_equal(crc32c_name(), "portable");
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc_gives_the_published_values),
        cmocka_unit_test(crc_of_both_kinds_equals_the_bitwise_one_at_every_size_and_alignment),
        cmocka_unit_test(crc_tables_are_right_in_every_entry),
        cmocka_unit_test(crc_continues_from_any_cut),
        cmocka_unit_test(crc_changes_with_any_one_bit),
        cmocka_unit_test(crc_name_is_one_of_the_two),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
