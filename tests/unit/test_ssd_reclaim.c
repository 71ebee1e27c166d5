/* SPDX-License-Identifier: Apache-2.0 */
/* Space: what fits, what is kept back, which segment goes first, and what goes with it. */
#include "ssd_fixture.h"

static void reclaim_init(struct fx *fx)
{
    fx_init(fx, fx_memory_disk(), "d");
    fx->options.bytes = 1u << 20;
    fx->options.segment_bytes = 128u << 10;
    fx->options.io_bytes = 64u << 10;
    fx_open(fx);
}

static void reclaim_fini(struct fx *fx)
{
    fx_close(fx);
    disk_destroy(fx->disk);
}

struct dir_sum {
    struct fx *fx;
    uint64_t bytes;
};

static void sum_entry(void *context, const char *name, bool is_regular_file)
{
    struct dir_sum *sum = context;
    char path[300];
    uint64_t bytes = 0;
    (void)snprintf(path, sizeof(path), "d/%s", name);
    if (is_regular_file && strstr(name, ".seg") && disk_memory_file(sum->fx->disk, path, &bytes)) {
        sum->bytes += bytes;
    }
}

static uint64_t segment_bytes_on_disk(struct fx *fx)
{
    struct dir_sum sum = {.fx = fx};
    assert_ok(disk_list(fx->disk, "d", sum_entry, &sum));
    return sum.bytes;
}

static void files_stay_within_the_capacity_whatever_is_put(void **state)
{
    (void)state;
    struct fx fx;
    struct test_rng rng;
    reclaim_init(&fx);
    test_rng_init(&rng, 31);
    unsigned reclaims = 0;
    for (unsigned i = 0; i < 600; i++) {
        uint32_t number = (uint32_t)test_rng_below(&rng, 30);
        uint64_t bytes = test_rng_below(&rng, i % 40 == 0 ? 300000 : 30000);
        enum umbp_status status = fx_put(&fx, number, bytes);
        for (unsigned tries = 0; status == UMBP_NO_SPACE && tries < 20; tries++) {
            if (tries > 5 ||
                fx_reclaim(&fx) != UMBP_OK) { /* all live: drop some, as a store would */
                uint32_t segment;
                assert_ok(ssd_victim(fx.tier, true, &segment, fx_soon()));
                fx_gone(&fx, segment);
                ssd_segment_release(fx.tier, segment);
            }
            reclaims++;
            status = fx_put(&fx, number, bytes);
        }
        assert_ok(status);
        uint64_t used;
        uint64_t capacity;
        ssd_space(fx.tier, &used, &capacity);
        assert_true(used <= capacity);
        assert_true(segment_bytes_on_disk(&fx) <= capacity);
    }
    assert_true(reclaims > 20);
    fx_check_all(&fx);
    fx_close(&fx);
    uint32_t count = fx_count(&fx);
    fx_open(&fx);
    assert_int_equal(fx_count(&fx), count);
    fx_check_all(&fx);
    reclaim_fini(&fx);
}

static void normal_appends_leave_the_reserve_to_reclaim(void **state)
{
    (void)state;
    struct fx fx;
    reclaim_init(&fx);
    uint32_t i = 0;
    while (fx_put(&fx, i, 20000) == UMBP_OK) {
        i++;
    }
    uint64_t used;
    uint64_t capacity;
    ssd_space(fx.tier, &used, &capacity);
    assert_true(used + (128u << 10) <= capacity);
    uint8_t key[256];
    uint8_t value[20000] = {0};
    struct iovec iov = {value, sizeof(value)};
    fx_key(400, key, fx_key_bytes(400));
    struct ssd_append append = {.key = {key, fx_key_bytes(400)},
                                .generation = ++fx.generation,
                                .value_bytes = sizeof(value),
                                .iov = &iov,
                                .iov_count = 1};
    assert_status(ssd_append(fx.tier, &append, 1, false, fx_soon()), UMBP_NO_SPACE);
    assert_ok(ssd_append(fx.tier, &append, 1, true, fx_soon()));
    /* The segment that was made out of the reserve is not for everybody. */
    assert_status(fx_put(&fx, i, 100), UMBP_NO_SPACE);
    fx_check_all(&fx);
    reclaim_fini(&fx);
}

static void records_larger_than_a_segment_get_one_of_their_own(void **state)
{
    (void)state;
    struct fx fx;
    reclaim_init(&fx);
    assert_ok(fx_put(&fx, 1, 300000));
    assert_ok(fx_put(&fx, 2, 1000));
    assert_int_not_equal(fx.index[1].location.segment, fx.index[2].location.segment);
    assert_status(fx_put(&fx, 3, 520000), UMBP_TOO_LARGE);
    assert_status(fx_put(&fx, 3, UINT64_C(1) << 20), UMBP_TOO_LARGE);
    fx_check_all(&fx);
    fx_close(&fx);
    fx_open(&fx);
    assert_int_equal(fx.recovery.scanned_segments, 0);
    assert_int_equal(fx_count(&fx), 2);
    fx_check_all(&fx);
    reclaim_fini(&fx);
}

static void dead_segments_go_first_then_the_one_used_longest_ago(void **state)
{
    (void)state;
    struct fx fx;
    uint32_t segments[5];
    uint32_t victim;
    fx_init(&fx, fx_memory_disk(), "d");
    fx.options.bytes = 4u << 20;
    fx.options.segment_bytes = 128u << 10;
    fx.options.io_bytes = 64u << 10;
    fx_open(&fx);
    for (uint32_t i = 0; i < 5; i++) {
        assert_ok(fx_put(&fx, i, 110000));
        segments[i] = fx.index[i].location.segment;
    }
    for (uint32_t i = 1; i < 5; i++) {
        assert_int_not_equal(segments[i], segments[i - 1]);
    }
    assert_ok(fx_put(&fx, 5, 110000)); /* the last one is open: never proposed */
    ssd_touch(fx.tier, fx.index[0].location, 50);
    ssd_touch(fx.tier, fx.index[1].location, 10);
    ssd_touch(fx.tier, fx.index[2].location, 40);
    ssd_touch(fx.tier, fx.index[4].location, 30);
    ssd_touch(fx.tier, fx.index[3].location, 20);
    ssd_mark_dead(fx.tier, fx.index[2].location, 110000, fx_key_bytes(2));
    static const unsigned order[] = {2, 1, 3, 4, 0};
    for (unsigned i = 0; i < ARRAY_COUNT(order); i++) {
        assert_ok(ssd_victim(fx.tier, false, &victim, fx_soon()));
        assert_int_equal(victim, segments[order[i]]);
    }
    assert_status(ssd_victim(fx.tier, false, &victim, fx_soon()), UMBP_NOT_FOUND);
    ssd_victim_return(fx.tier, segments[3]);
    assert_ok(ssd_victim(fx.tier, false, &victim, fx_soon()));
    assert_int_equal(victim, segments[3]);
    assert_ok(ssd_victim(fx.tier, true, &victim, fx_soon())); /* seals the active one */
    assert_int_equal(victim, fx.index[5].location.segment);
    assert_status(ssd_victim(fx.tier, true, &victim, fx_soon()), UMBP_NOT_FOUND);
    reclaim_fini(&fx);
}

static void a_segments_records_are_told_without_its_values(void **state)
{
    (void)state;
    struct fx fx;
    struct fx_list *list = calloc(1, sizeof(*list));
    struct ssd_visitor visitor = {.record = fx_collect, .context = list};
    uint32_t victim;
    reclaim_init(&fx);
    for (uint32_t i = 0; i < 10; i++) {
        assert_ok(fx_put(&fx, i, i * 100));
    }
    assert_ok(fx_put(&fx, 3, 77));
    assert_ok(fx_remove(&fx, 4));
    assert_ok(ssd_victim(fx.tier, true, &victim, fx_soon()));
    assert_ok(ssd_segment_records(fx.tier, victim, &visitor, fx_soon()));
    assert_int_equal(list->count, 12);
    unsigned live = 0;
    for (uint32_t i = 0; i < list->count; i++) {
        const struct fx_found *found = &list->found[i];
        const struct fx_slot *slot = &fx.index[found->number];
        assert_int_equal(found->is_tombstone, i == 11);
        live += slot->generation == found->generation && !found->is_tombstone &&
                slot->location.block == found->location.block && slot->bytes == found->bytes;
    }
    assert_int_equal(live, 9);
    assert_status(ssd_segment_records(fx.tier, victim + 1, &visitor, fx_soon()), UMBP_STALE);
    free(list);
    reclaim_fini(&fx);
}

static void has_older_tells_whether_tombstones_still_matter(void **state)
{
    (void)state;
    struct fx fx;
    uint32_t victim;
    reclaim_init(&fx);
    assert_ok(fx_put(&fx, 1, 100));
    assert_ok(ssd_victim(fx.tier, true, &victim, fx_soon()));
    assert_false(ssd_has_older(fx.tier, victim));
    assert_ok(fx_remove(&fx, 1));
    uint32_t second;
    assert_ok(ssd_victim(fx.tier, true, &second, fx_soon()));
    assert_true(ssd_has_older(fx.tier, second));
    ssd_segment_release(fx.tier, victim);
    assert_false(ssd_has_older(fx.tier, second));
    reclaim_fini(&fx);
}

static void a_removed_key_stays_removed_through_reclaims_and_restarts(void **state)
{
    (void)state;
    struct fx fx;
    reclaim_init(&fx);
    for (uint32_t i = 0; i < 10; i++) {
        assert_ok(fx_put(&fx, i, 10000));
    }
    for (uint32_t i = 0; i < 10; i += 2) {
        assert_ok(fx_remove(&fx, i));
    }
    for (unsigned round = 0; round < 12; round++) {
        if (round % 3 == 2) {
            fx_close(&fx);
            fx_open(&fx);
        } else {
            enum umbp_status status = fx_reclaim(&fx);
            assert_true(status == UMBP_OK || status == UMBP_NOT_FOUND);
        }
        for (uint32_t i = 0; i < 10; i++) {
            assert_int_equal(fx_has(&fx, i), i % 2);
        }
        fx_check_all(&fx);
    }
    reclaim_fini(&fx);
}

static void a_released_segment_is_stale_and_its_space_comes_back(void **state)
{
    (void)state;
    struct fx fx;
    uint32_t victim;
    uint64_t before;
    uint64_t after;
    uint64_t capacity;
    reclaim_init(&fx);
    assert_ok(fx_put(&fx, 1, 50000));
    assert_ok(ssd_victim(fx.tier, true, &victim, fx_soon()));
    ssd_space(fx.tier, &before, &capacity);
    assert_true(before >= 50000 && before < 70000); /* cut to what it holds */
    ssd_segment_release(fx.tier, victim);
    ssd_space(fx.tier, &after, &capacity);
    assert_int_equal(after, 0);
    assert_int_equal(segment_bytes_on_disk(&fx), 0);
    assert_status(fx_get(&fx, 1), UMBP_STALE);
    ssd_segment_release(fx.tier, victim); /* once more does no harm */
    ssd_mark_dead(fx.tier, fx.index[1].location, 50000, 10);
    ssd_touch(fx.tier, fx.index[1].location, 1);
    reclaim_fini(&fx);
}

static void clear_forgets_everything_and_takes_new_records(void **state)
{
    (void)state;
    struct fx fx;
    reclaim_init(&fx);
    for (uint32_t i = 0; i < 10; i++) {
        assert_ok(fx_put(&fx, i, 30000));
    }
    assert_ok(ssd_clear(fx.tier, ++fx.generation, fx_soon()));
    struct ssd_stats stats;
    ssd_stats(fx.tier, &stats);
    assert_int_equal(stats.segments, 0);
    assert_int_equal(stats.bytes_used, 0);
    assert_int_equal(segment_bytes_on_disk(&fx), 0);
    for (uint32_t i = 0; i < 10; i++) {
        assert_status(fx_get(&fx, i), UMBP_STALE);
        fx.index[i].is_there = false;
    }
    assert_ok(fx_put(&fx, 1, 5000));
    fx_close(&fx);
    fx_open(&fx);
    assert_int_equal(fx_count(&fx), 1);
    fx_check_all(&fx);
    reclaim_fini(&fx);
}

static void counts_agree_with_what_was_done(void **state)
{
    (void)state;
    struct fx fx;
    struct ssd_stats stats;
    reclaim_init(&fx);
    for (uint32_t i = 0; i < 8; i++) {
        assert_ok(fx_put(&fx, i, 4000));
    }
    ssd_stats(fx.tier, &stats);
    assert_int_equal(stats.records_live, 8);
    assert_int_equal(stats.records_appended, 8);
    assert_int_equal(stats.segments, 1);
    assert_int_equal(stats.syncs, 8); /* strict, one record a call */
    assert_true(stats.bytes_live <= stats.bytes_used);
    uint64_t live = stats.bytes_live;
    for (uint32_t i = 0; i < 8; i++) {
        assert_ok(fx_get(&fx, i));
    }
    fx_close(&fx);
    fx_open(&fx);
    ssd_stats(fx.tier, &stats);
    assert_int_equal(stats.records_live, 8);
    assert_int_equal(stats.bytes_live, live); /* the same after a restart */
    for (uint32_t i = 0; i < 8; i++) {
        ssd_mark_dead(fx.tier, fx.index[i].location, fx.index[i].bytes, fx_key_bytes(i));
    }
    ssd_stats(fx.tier, &stats);
    assert_int_equal(stats.records_live, 0);
    assert_int_equal(stats.bytes_live, 0);
    reclaim_fini(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_stay_within_the_capacity_whatever_is_put),
        cmocka_unit_test(normal_appends_leave_the_reserve_to_reclaim),
        cmocka_unit_test(records_larger_than_a_segment_get_one_of_their_own),
        cmocka_unit_test(dead_segments_go_first_then_the_one_used_longest_ago),
        cmocka_unit_test(a_segments_records_are_told_without_its_values),
        cmocka_unit_test(has_older_tells_whether_tombstones_still_matter),
        cmocka_unit_test(a_removed_key_stays_removed_through_reclaims_and_restarts),
        cmocka_unit_test(a_released_segment_is_stale_and_its_space_comes_back),
        cmocka_unit_test(clear_forgets_everything_and_takes_new_records),
        cmocka_unit_test(counts_agree_with_what_was_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
