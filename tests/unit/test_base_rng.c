/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <string.h>

#include "base/rng.h"

/* splitmix64 from 0 starts e220a8397b1dcdaf, 6e789e6aa1b965f4 (its authors' reference program). */
static void rng_seeds_by_splitmix64_and_steps_as_xoshiro256starstar(void **state)
{
    (void)state;
    struct rng rng;
    rng_init(&rng, 0);
    assert_true(rng.state[0] == UINT64_C(0xE220A8397B1DCDAF));
    assert_true(rng.state[1] == UINT64_C(0x6E789E6AA1B965F4));
    /* The published sequence from the state 1, 2, 3, 4. */
    rng = (struct rng){.state = {1, 2, 3, 4}};
    assert_true(rng_next(&rng) == UINT64_C(11520));
    assert_true(rng_next(&rng) == UINT64_C(0));
    assert_true(rng_next(&rng) == UINT64_C(1509978240));
    assert_true(rng_next(&rng) == UINT64_C(1215971899390074240));
}

static void rng_repeats_with_its_seed_and_differs_with_another(void **state)
{
    (void)state;
    struct rng a, b, c;
    rng_init(&a, 7);
    rng_init(&b, 7);
    rng_init(&c, 8);
    unsigned same = 0;
    for (int i = 0; i < 1000; i++) {
        uint64_t value = rng_next(&a);
        assert_true(value == rng_next(&b));
        same += value == rng_next(&c);
    }
    assert_int_equal(same, 0);
}

static void rng_below_stays_below_and_reaches_all_alike(void **state)
{
    (void)state;
    struct rng rng;
    unsigned counts[7] = {0};
    rng_init(&rng, test_seed());
    for (int i = 0; i < 70000; i++) {
        uint64_t value = rng_below(&rng, 7);
        assert_true(value < 7);
        counts[value]++;
    }
    for (int i = 0; i < 7; i++) {
        assert_in_range(counts[i], 9500, 10500); /* five standard deviations */
    }
    for (int i = 0; i < 100; i++) {
        assert_int_equal(rng_below(&rng, 1), 0);
    }
    /* Where a plain multiplication gives every third value twice as often as the others. */
    uint64_t bound = UINT64_C(3) << 62;
    unsigned thirds = 0;
    for (int i = 0; i < 30000; i++) {
        uint64_t value = rng_below(&rng, bound);
        assert_true(value < bound);
        thirds += value % 3 == 0;
    }
    assert_in_range(thirds, 9500, 10500);
}

static void rng_unit_is_in_zero_to_one(void **state)
{
    (void)state;
    struct rng rng;
    double sum = 0;
    rng_init(&rng, test_seed());
    for (int i = 0; i < 100000; i++) {
        double value = rng_unit(&rng);
        assert_true(value >= 0.0 && value < 1.0);
        sum += value;
    }
    assert_true(sum > 49500 && sum < 50500);
}

static void rng_fill_writes_each_byte_and_none_beside(void **state)
{
    (void)state;
    struct rng rng;
    rng_init(&rng, 1);
    for (size_t bytes = 0; bytes < 40; bytes++) {
        unsigned char data[64];
        bool changed[64] = {false};
        for (int round = 0; round < 20; round++) {
            memset(data, 0xAA, sizeof data);
            rng_fill(&rng, data + 8, bytes);
            for (size_t i = 0; i < sizeof data; i++) {
                changed[i] = changed[i] || data[i] != 0xAA;
            }
        }
        for (size_t i = 0; i < sizeof data; i++) {
            assert_int_equal(changed[i], i >= 8 && i < 8 + bytes);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rng_seeds_by_splitmix64_and_steps_as_xoshiro256starstar),
        cmocka_unit_test(rng_repeats_with_its_seed_and_differs_with_another),
        cmocka_unit_test(rng_below_stays_below_and_reaches_all_alike),
        cmocka_unit_test(rng_unit_is_in_zero_to_one),
        cmocka_unit_test(rng_fill_writes_each_byte_and_none_beside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
