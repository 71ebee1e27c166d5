/* SPDX-License-Identifier: Apache-2.0 */
/* The external KV index and its hit counts. */
#include "master_rig.h"

static struct master_matches match(struct master *master, const uint64_t *keys, size_t count,
                                   bool counts)
{
    struct fingerprint prints[16];
    struct master_matches matches;
    for (size_t i = 0; i < count; i++) {
        prints[i] = print_of(keys[i]);
    }
    assert_ok(master_external_match(master, prints, count, counts, &matches));
    return matches;
}

static size_t rows_for(struct master *master, uint64_t key)
{
    struct master_matches matches = match(master, &key, 1, false);
    size_t rows = matches.count;
    master_matches_free(&matches);
    return rows;
}

static enum umbp_status report(struct master *master, const char *id, uint64_t key,
                               enum master_tier tier)
{
    struct fingerprint print = print_of(key);
    return master_external_report(master, master_text_of(id), &print, 1, tier);
}

static uint64_t hits(struct master *master, uint64_t key)
{
    struct fingerprint print = print_of(key);
    uint64_t found;
    assert_ok(master_external_hits(master, &print, 1, &found));
    return found;
}

static void tiers_add_up_and_are_revoked_one_by_one(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct fingerprint print = print_of(1);
    const uint64_t keys[] = {2, 1, 3};
    (void)state;
    uint32_t a = join(master, "a", 1);
    uint32_t b = join(master, "b", 1);
    assert_ok(report(master, "a", 1, MASTER_TIER_HBM));
    assert_ok(report(master, "a", 1, MASTER_TIER_DRAM));
    assert_ok(report(master, "a", 1, MASTER_TIER_DRAM)); /* again: the same */
    assert_ok(report(master, "a", 2, MASTER_TIER_DRAM));
    assert_ok(report(master, "b", 1, MASTER_TIER_SSD));
    struct master_matches matches = match(master, keys, 3, false);
    const struct master_match_row want[] = {{a, 1, MASTER_TIER_HBM},
                                            {a, 0, MASTER_TIER_DRAM},
                                            {a, 1, MASTER_TIER_DRAM},
                                            {b, 1, MASTER_TIER_SSD}};
    assert_true(a < b);
    assert_int_equal(matches.count, 4);
    assert_int_equal(matches.distinct, 2);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(matches.rows[i].node, want[i].node);
        assert_int_equal(matches.rows[i].item, want[i].item);
        assert_int_equal(matches.rows[i].tier, want[i].tier);
    }
    master_matches_free(&matches);
    assert_ok(master_external_revoke(master, master_text_of("a"), &print, 1, MASTER_TIER_HBM));
    assert_int_equal(rows_for(master, 1), 2);
    assert_ok(master_external_revoke_all(master, master_text_of("a"), MASTER_TIER_DRAM));
    assert_int_equal(rows_for(master, 1), 1);
    assert_int_equal(rows_for(master, 2), 0);
    assert_ok(report(master, "a", 2, MASTER_TIER_DRAM)); /* and it may come again */
    assert_int_equal(rows_for(master, 2), 1);
    assert_ok(master_external_revoke_all(master, master_text_of("a"), MASTER_TIER_NONE));
    assert_int_equal(rows_for(master, 2), 0);
    /* Reported caches are not routed to. */
    assert_false(holds(master, 1));
    settle(master);
    assert_int_equal((int)metric_value(master, "umbp_master_external_keys", NULL), 1);
    master_destroy(master);
}

static void only_living_nodes_report_and_expiry_wipes(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_beat_answer answer;
    (void)state;
    assert_status(report(master, "a", 1, MASTER_TIER_HBM), UMBP_NOT_FOUND);
    join(master, "a", 1);
    assert_ok(report(master, "a", 1, MASTER_TIER_HBM));
    clock_move_ms(&clock, 31000);
    settle(master);
    assert_int_equal(rows_for(master, 1), 0);
    assert_status(report(master, "a", 1, MASTER_TIER_HBM), UMBP_NOT_FOUND);
    assert_int_equal(
        (int)metric_value(master, "mori_umbp_external_kv_report_total", "rejected_not_alive"), 1);
    assert_ok(beat_only(master, "a", 1, &answer));
    assert_int_equal(rows_for(master, 1), 0);
    assert_ok(report(master, "a", 1, MASTER_TIER_HBM));
    assert_int_equal(rows_for(master, 1), 1);
    assert_ok(master_unregister(master, master_text_of("a"), 1));
    assert_int_equal(rows_for(master, 1), 0);
    assert_status(report(master, "a", 1, MASTER_TIER_NONE), UMBP_INVALID_VALUE);
    assert_status(report(master, "a", 1, MASTER_TIERS), UMBP_INVALID_VALUE);
    assert_ok(master_external_revoke_all(master, master_text_of("never"), MASTER_TIER_HBM));
    master_destroy(master);
}

static void hits_count_found_hashes_once_a_call_and_only_when_asked_to(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    const uint64_t keys[] = {1, 2, 1, 9};
    struct fingerprint prints[] = {print_of(1), print_of(2), print_of(1), print_of(9)};
    uint64_t found[4];
    (void)state;
    join(master, "a", 1);
    assert_ok(report(master, "a", 1, MASTER_TIER_HBM));
    assert_ok(report(master, "a", 1, MASTER_TIER_DRAM));
    assert_ok(report(master, "a", 2, MASTER_TIER_DRAM));
    struct master_matches matches = match(master, keys, 4, false);
    master_matches_free(&matches);
    assert_int_equal(hits(master, 1), 0);
    for (int i = 0; i < 3; i++) {
        matches = match(master, keys, 4, true);
        master_matches_free(&matches);
    }
    assert_int_equal(hits(master, 1), 3);
    assert_int_equal(hits(master, 9), 0);
    assert_ok(master_external_hits(master, prints, 4, found));
    assert_int_equal(found[0], 3);
    assert_int_equal(found[1], 3);
    assert_int_equal(found[2], 0); /* named before */
    assert_int_equal(found[3], 0);
    /* They outlive the report. */
    assert_ok(master_external_revoke_all(master, master_text_of("a"), MASTER_TIER_NONE));
    assert_int_equal(hits(master, 1), 3);
    assert_int_equal((int)metric_value(master, "mori_umbp_external_kv_match_total", NULL), 4);
    assert_int_equal(
        (int)metric_value(master, "mori_umbp_external_kv_match_queried_blocks_total", NULL), 16);
    master_destroy(master);
}

static void hit_counts_are_forgotten_after_their_ttl(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    options.hit_index_ttl_sec = 10;
    options.hit_index_gc_interval_sec = 5;
    struct master *master = rig_create(&options);
    const uint64_t keys[] = {1};
    (void)state;
    join(master, "a", 1);
    assert_ok(report(master, "a", 1, MASTER_TIER_HBM));
    struct master_matches matches = match(master, keys, 1, true);
    master_matches_free(&matches);
    for (int i = 0; i < 4; i++) { /* a hit keeps it alive */
        clock_move_ms(&clock, 7000);
        settle(master);
        matches = match(master, keys, 1, true);
        master_matches_free(&matches);
    }
    assert_int_equal(hits(master, 1), 5);
    clock_move_ms(&clock, 10100);
    assert_int_equal(hits(master, 1), 0); /* even before it is collected */
    assert_int_equal((int)metric_value(master, "umbp_master_hit_keys", NULL), 1);
    matches = match(master, keys, 1, true);
    master_matches_free(&matches);
    assert_int_equal(hits(master, 1), 1); /* it begins anew, collected or not */
    clock_move_ms(&clock, 10100);
    settle(master);
    assert_int_equal((int)metric_value(master, "umbp_master_hit_keys", NULL), 0);
    master_destroy(master);
}

static void calls_over_their_bounds_are_refused_whole(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    options.hit_query_max_batch = 8;
    struct master *master = rig_create(&options);
    struct fingerprint *prints = calloc(MASTER_BATCH_MAX + 1, sizeof(*prints));
    uint64_t found[8];
    struct master_matches matches;
    (void)state;
    join(master, "a", 1);
    assert_status(master_external_hits(master, prints, 9, found), UMBP_LIMIT);
    assert_ok(master_external_hits(master, prints, 8, found));
    assert_status(master_external_match(master, prints, MASTER_BATCH_MAX + 1, true, &matches),
                  UMBP_LIMIT);
    assert_status(master_external_report(master, master_text_of("a"), prints, MASTER_BATCH_MAX + 1,
                                         MASTER_TIER_HBM),
                  UMBP_LIMIT);
    assert_ok(master_external_match(master, prints, 0, true, &matches));
    assert_int_equal(matches.count, 0);
    master_matches_free(&matches);
    free(prints);
    master_destroy(master);
}

static void a_match_of_too_many_rows_is_refused(void **state)
{
    const size_t keys = 60000;
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct fingerprint *prints = calloc(keys, sizeof(*prints));
    struct master_matches matches;
    char id[8];
    (void)state;
    for (size_t i = 0; i < keys; i++) {
        prints[i] = print_of(i);
    }
    for (int i = 0; i < 6; i++) {
        snprintf(id, sizeof(id), "n%d", i);
        join(master, id, 1);
        for (int tier = 1; tier < MASTER_TIERS; tier++) {
            assert_ok(master_external_report(master, master_text_of(id), prints, keys,
                                             (enum master_tier)tier));
        }
    }
    /* 18 rows each: 58,254 fit. */
    assert_status(master_external_match(master, prints, keys, false, &matches), UMBP_LIMIT);
    assert_ok(master_external_match(master, prints, 50000, false, &matches));
    assert_int_equal(matches.count, 18 * 50000);
    assert_int_equal(matches.distinct, 50000);
    master_matches_free(&matches);
    free(prints);
    master_destroy(master);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiers_add_up_and_are_revoked_one_by_one),
        cmocka_unit_test(only_living_nodes_report_and_expiry_wipes),
        cmocka_unit_test(hits_count_found_hashes_once_a_call_and_only_when_asked_to),
        cmocka_unit_test(hit_counts_are_forgotten_after_their_ttl),
        cmocka_unit_test(calls_over_their_bounds_are_refused_whole),
        cmocka_unit_test(a_match_of_too_many_rows_is_refused),
    };
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
