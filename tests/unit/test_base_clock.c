/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include "base/clock.h"

static uint64_t fake_now_ns(void *context) { return *(uint64_t *)context; }

static void clock_monotonic_never_goes_back_and_goes_on(void **state)
{
    (void)state;
    uint64_t last = clock_now_ns(clock_monotonic());
    uint64_t first = last;
    for (int i = 0; i < 10000; i++) {
        uint64_t now = clock_now_ns(clock_monotonic());
        assert_true(now >= last);
        last = now;
    }
    assert_true(last > first);
    assert_ptr_equal(clock_monotonic(), clock_monotonic());
}

static void clock_deadline_is_now_plus_the_timeout(void **state)
{
    (void)state;
    uint64_t now = 5 * NS_PER_S;
    struct clock_source clock = {.now_ns = fake_now_ns, .context = &now};
    assert_int_equal(clock_deadline_ns(&clock, 0), now);
    assert_int_equal(clock_deadline_ns(&clock, 250), now + 250 * NS_PER_MS);
}

static void clock_deadline_saturates_instead_of_wrapping(void **state)
{
    (void)state;
    uint64_t now = UINT64_MAX - NS_PER_MS;
    struct clock_source clock = {.now_ns = fake_now_ns, .context = &now};
    assert_true(clock_deadline_ns(&clock, UINT64_MAX) == DEADLINE_NEVER);
    assert_true(clock_deadline_ns(&clock, UINT64_MAX / NS_PER_MS) == DEADLINE_NEVER);
    assert_true(clock_deadline_ns(&clock, 2) == DEADLINE_NEVER);
}

static void clock_left_counts_down_to_zero_and_stays_there(void **state)
{
    (void)state;
    uint64_t now = 1000;
    struct clock_source clock = {.now_ns = fake_now_ns, .context = &now};
    assert_int_equal(clock_left_ns(&clock, 1500), 500);
    now = 1499;
    assert_int_equal(clock_left_ns(&clock, 1500), 1);
    now = 1500;
    assert_int_equal(clock_left_ns(&clock, 1500), 0);
    now = 9999;
    assert_int_equal(clock_left_ns(&clock, 1500), 0);
    assert_true(clock_left_ns(&clock, DEADLINE_NEVER) == DEADLINE_NEVER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clock_monotonic_never_goes_back_and_goes_on),
        cmocka_unit_test(clock_deadline_is_now_plus_the_timeout),
        cmocka_unit_test(clock_deadline_saturates_instead_of_wrapping),
        cmocka_unit_test(clock_left_counts_down_to_zero_and_stays_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
