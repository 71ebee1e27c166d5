/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <inttypes.h>
#include <string.h>

#include "base/rng.h"
#include "base/units.h"

static void assert_bytes(const char *text, uint64_t expected)
{
    uint64_t bytes = 0;
    if (!units_parse_bytes(text, &bytes) || bytes != expected) {
        fail_msg("\"%s\" gave %" PRIu64 ", not %" PRIu64, text, bytes, expected);
    }
}

static void units_parse_bytes_reads_what_people_write(void **state)
{
    (void)state;
    assert_bytes("0", 0);
    assert_bytes("4096", 4096);
    assert_bytes("4096B", 4096);
    assert_bytes("64K", 64 * KIB);
    assert_bytes("64KiB", 64 * KIB);
    assert_bytes("64kib", 64 * KIB);
    assert_bytes("64 KiB", 64 * KIB);
    assert_bytes("64KB", 64000);
    assert_bytes("3m", 3 * MIB);
    assert_bytes("1.5GiB", GIB + GIB / 2);
    assert_bytes("1.5g", GIB + GIB / 2);
    assert_bytes("2GB", UINT64_C(2000000000));
    assert_bytes("2TiB", 2048 * GIB);
    assert_bytes("1PB", UINT64_C(1000000000000000));
    assert_bytes("0.5K", 512);
    assert_bytes("1.0001KB", 1000);
    assert_bytes("0.999999999999999999KB", 999);
    assert_bytes("18446744073709551615", UINT64_MAX);
    assert_bytes("16383PiB", UINT64_C(16383) << 50);
    assert_bytes("007K", 7 * KIB);
}

static void units_parse_bytes_refuses_all_else_and_writes_nothing(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      " ",
                                      "K",
                                      "-1",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "1  KiB",
                                      "1KiB ",
                                      "1.",
                                      ".5K",
                                      "1.5",
                                      "1.5B",
                                      "1,5K",
                                      "0x10",
                                      "1e3",
                                      "1KiBs",
                                      "1 K iB",
                                      "1.2.3K",
                                      "12Q",
                                      "1KiB1",
                                      "16384PiB",
                                      "18446744073709551616",
                                      "99999999999999999999K",
                                      "1.0000000000000000000K",
                                      "18446744073709551615K",
                                      "\xC2\xA0 1",
                                      "1\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t bytes = 77;
        if (units_parse_bytes(bad[i], &bytes) || bytes != 77) {
            fail_msg("\"%s\" was taken", bad[i]);
        }
    }
}

static void units_parse_count_reads_decimal_numbers_only(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "-1",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "1K",
                                      "0x1",
                                      "1.0",
                                      "18446744073709551616",
                                      "184467440737095516150"};
    uint64_t count = 0;
    assert_true(units_parse_count("0", &count));
    assert_int_equal(count, 0);
    assert_true(units_parse_count("18446744073709551615", &count));
    assert_true(count == UINT64_MAX);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        count = 77;
        assert_false(units_parse_count(bad[i], &count));
        assert_int_equal(count, 77);
    }
}

static void units_format_bytes_picks_the_unit_and_rounds(void **state)
{
    (void)state;
    char text[24];
    assert_string_equal(units_format_bytes(0, text, sizeof text), "0 B");
    assert_string_equal(units_format_bytes(17, text, sizeof text), "17 B");
    assert_string_equal(units_format_bytes(1023, text, sizeof text), "1023 B");
    assert_string_equal(units_format_bytes(64 * KIB, text, sizeof text), "64 KiB");
    assert_string_equal(units_format_bytes(GIB + GIB / 2, text, sizeof text), "1.5 GiB");
    assert_string_equal(units_format_bytes(MIB - 1, text, sizeof text), "1 MiB");
    assert_string_equal(units_format_bytes(1024 * KIB - 52, text, sizeof text), "1023.9 KiB");
    assert_string_equal(units_format_bytes(UINT64_MAX, text, sizeof text), "16 EiB");
}

static void units_format_ns_picks_the_unit_and_rounds(void **state)
{
    (void)state;
    char text[24];
    assert_string_equal(units_format_ns(0, text, sizeof text), "0 ns");
    assert_string_equal(units_format_ns(999, text, sizeof text), "999 ns");
    assert_string_equal(units_format_ns(1234, text, sizeof text), "1.2 us");
    assert_string_equal(units_format_ns(34000000, text, sizeof text), "34 ms");
    assert_string_equal(units_format_ns(999960, text, sizeof text), "1 ms");
    assert_string_equal(units_format_ns(UINT64_C(90000000000), text, sizeof text), "90 s");
    assert_string_equal(units_format_ns(UINT64_MAX, text, sizeof text), "18446744073.7 s");
}

static void units_parse_reads_back_what_format_wrote(void **state)
{
    (void)state;
    struct rng rng;
    rng_init(&rng, test_seed());
    for (int i = 0; i < 20000; i++) {
        char text[24];
        uint64_t bytes = rng_next(&rng) >> (8 + rng_below(&rng, 56));
        uint64_t back = 0;
        assert_true(units_parse_bytes(units_format_bytes(bytes, text, sizeof text), &back));
        uint64_t apart = back > bytes ? back - bytes : bytes - back;
        assert_true(apart <= bytes / 20);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(units_parse_bytes_reads_what_people_write),
        cmocka_unit_test(units_parse_bytes_refuses_all_else_and_writes_nothing),
        cmocka_unit_test(units_parse_count_reads_decimal_numbers_only),
        cmocka_unit_test(units_format_bytes_picks_the_unit_and_rounds),
        cmocka_unit_test(units_format_ns_picks_the_unit_and_rounds),
        cmocka_unit_test(units_parse_reads_back_what_format_wrote),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
