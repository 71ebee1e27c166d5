/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <math.h>
#include <stdlib.h>

#include "base/histogram.h"

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void histogram_of_nothing_is_all_zero(void **state)
{
    (void)state;
    struct histogram h;
    histogram_init(&h);
    assert_int_equal(h.count, 0);
    assert_int_equal(histogram_quantile(&h, 0.5), 0);
    assert_int_equal(histogram_quantile(&h, 1.0), 0);
}

static void histogram_of_one_value_gives_it_at_every_quantile(void **state)
{
    (void)state;
    static const uint64_t values[] = {0,
                                      1,
                                      31,
                                      32,
                                      33,
                                      63,
                                      64,
                                      1000,
                                      123456789,
                                      UINT64_MAX,
                                      (UINT64_C(1) << 63),
                                      (UINT64_C(1) << 63) - 1};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        struct histogram h;
        histogram_init(&h);
        histogram_record(&h, values[i]);
        assert_true(histogram_quantile(&h, 0.0) == values[i]);
        assert_true(histogram_quantile(&h, 0.5) == values[i]);
        assert_true(histogram_quantile(&h, 1.0) == values[i]);
        assert_true(h.min == values[i] && h.max == values[i] && h.sum == values[i]);
    }
}

static void histogram_of_small_values_is_exact(void **state)
{
    (void)state;
    struct histogram h;
    histogram_init(&h);
    for (uint64_t v = 1; v <= 20; v++) {
        histogram_record(&h, v);
    }
    assert_int_equal(histogram_quantile(&h, 0.05), 1);
    assert_int_equal(histogram_quantile(&h, 0.5), 10);
    assert_int_equal(histogram_quantile(&h, 0.501), 11);
    assert_int_equal(histogram_quantile(&h, 0.95), 19);
    assert_int_equal(histogram_quantile(&h, 0.999), 20);
}

static void histogram_quantiles_are_within_a_32nd_of_the_true_ones(void **state)
{
    (void)state;
    enum {
        COUNT = 20000
    };
    static const double quantiles[] = {0.001, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999};
    struct test_rng rng;
    uint64_t *values = malloc(COUNT * sizeof *values);
    test_rng_init(&rng, 1);
    for (unsigned bits = 4; bits <= 64; bits += 12) {
        struct histogram h;
        histogram_init(&h);
        for (int i = 0; i < COUNT; i++) {
            values[i] = test_rng_next(&rng) >> (64 - bits) >> test_rng_below(&rng, bits);
            histogram_record(&h, values[i]);
        }
        qsort(values, COUNT, sizeof *values, compare);
        for (size_t q = 0; q < sizeof quantiles / sizeof *quantiles; q++) {
            size_t rank = (size_t)ceil(quantiles[q] * COUNT);
            uint64_t expected = values[rank - 1];
            uint64_t got = histogram_quantile(&h, quantiles[q]);
            assert_true(got >= expected);
            assert_true(got - expected <= expected / 32);
        }
        assert_true(histogram_quantile(&h, 0) == values[0]);
        assert_true(histogram_quantile(&h, 1) == values[COUNT - 1]);
    }
    free(values);
}

static void histogram_merge_equals_recording_all_in_one(void **state)
{
    (void)state;
    struct test_rng rng;
    static struct histogram all, a, b, empty;
    test_rng_init(&rng, 2);
    histogram_init(&all);
    histogram_init(&a);
    histogram_init(&b);
    histogram_init(&empty);
    for (int i = 0; i < 5000; i++) {
        uint64_t value = test_rng_next(&rng) >> 20 >> test_rng_below(&rng, 40);
        histogram_record(&all, value);
        histogram_record(i % 3 == 0 ? &a : &b, value);
    }
    histogram_merge(&a, &b);
    histogram_merge(&a, &empty);
    assert_memory_equal(&a, &all, sizeof all);
    histogram_merge(&empty, &all);
    assert_memory_equal(&empty, &all, sizeof all);
}

static void histogram_takes_quantiles_that_are_none(void **state)
{
    (void)state;
    struct histogram h;
    histogram_init(&h);
    histogram_record(&h, 5);
    histogram_record(&h, 9);
    assert_int_equal(histogram_quantile(&h, -1), 5);
    assert_int_equal(histogram_quantile(&h, 2), 9);
    assert_int_equal(histogram_quantile(&h, (double)NAN), 5);
}

static void histogram_sum_saturates(void **state)
{
    (void)state;
    struct histogram h;
    histogram_init(&h);
    histogram_record(&h, UINT64_MAX);
    histogram_record(&h, 7);
    assert_true(h.sum == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(histogram_of_nothing_is_all_zero),
        cmocka_unit_test(histogram_of_one_value_gives_it_at_every_quantile),
        cmocka_unit_test(histogram_of_small_values_is_exact),
        cmocka_unit_test(histogram_quantiles_are_within_a_32nd_of_the_true_ones),
        cmocka_unit_test(histogram_merge_equals_recording_all_in_one),
        cmocka_unit_test(histogram_takes_quantiles_that_are_none),
        cmocka_unit_test(histogram_sum_saturates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
