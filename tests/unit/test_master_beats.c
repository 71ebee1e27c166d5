/* SPDX-License-Identifier: Apache-2.0 */
/* Numbered events and chunked full syncs: in order, once, and nothing in between. */
#include "master_rig.h"

static void bundles_are_applied_in_order_and_once(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event add1 = event(true, 1, MASTER_TIER_DRAM);
    struct master_event del1 = event(false, 1, MASTER_TIER_DRAM);
    struct master_event add2 = event(true, 2, MASTER_TIER_SSD);
    struct master_beat_answer answer;
    (void)state;
    uint32_t handle = join(master, "a", 0);
    answer = tell(master, "a", 0, 1, &add1, 1);
    assert_int_equal(answer.acked_sequence, 1);
    assert_int_equal(answer.applied, 1);
    assert_int_equal(answer.node, handle);
    assert_false(answer.wants_full_sync);
    answer = tell(master, "a", 0, 2, &del1, 1);
    assert_false(holds(master, 1));
    answer = tell(master, "a", 0, 1, &add1, 1); /* a repetition */
    assert_int_equal(answer.acked_sequence, 2);
    assert_int_equal(answer.applied, 0);
    assert_false(answer.wants_full_sync);
    assert_false(holds(master, 1));
    answer = tell(master, "a", 0, 3, &add2, 1);
    assert_int_equal(get(master, 2).tier, MASTER_TIER_SSD);
    assert_int_equal(get(master, 2).bytes, 1002);
    assert_int_equal(get(master, 2).node, handle);
    master_destroy(master);
}

static void several_bundles_of_one_beat_stop_at_a_gap(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event events[3];
    struct master_bundle bundles[3];
    struct master_beat_answer answer;
    (void)state;
    join(master, "a", 0);
    for (uint64_t i = 0; i < 3; i++) {
        events[i] = event(true, i, MASTER_TIER_DRAM);
        bundles[i] = (struct master_bundle){i < 2 ? i + 1 : 4, &events[i], 1};
    }
    struct master_beat beat = {.id = master_text_of("a"), .bundles = bundles, .bundle_count = 3};
    assert_ok(master_beat(master, &beat, &answer));
    assert_int_equal(answer.acked_sequence, 2);
    assert_true(answer.wants_full_sync);
    assert_true(holds(master, 0) && holds(master, 1));
    assert_false(holds(master, 2));
    assert_int_equal((int)metric_value(master, "mori_umbp_heartbeat_seq_gap_total", "a"), 1);
    /* It stays wanted until it comes. */
    assert_ok(beat_only(master, "a", 0, &answer));
    assert_true(answer.wants_full_sync);
    answer = chunk(master, "a", 0, 0, 0, true, 7, &events[2], 1);
    assert_false(answer.wants_full_sync);
    assert_int_equal(answer.acked_sequence, 7);
    assert_false(holds(master, 0));
    assert_true(holds(master, 2));
    master_destroy(master);
}

/* Fault 31. */
static void empty_beats_are_no_gaps_and_refresh_capacities(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_node_info *info = malloc(sizeof(*info));
    struct master_event added = event(true, 1, MASTER_TIER_DRAM);
    struct master_beat_answer answer;
    (void)state;
    join(master, "a", 0);
    tell(master, "a", 0, 1, &added, 1);
    for (uint64_t i = 0; i < 5; i++) {
        struct master_beat beat = {.id = master_text_of("a"), .has_capacities = true};
        beat.capacities[MASTER_TIER_DRAM] = room(100 * GIB_, 40 + i);
        assert_ok(master_beat(master, &beat, &answer));
        assert_false(answer.wants_full_sync);
        assert_int_equal(answer.acked_sequence, 1);
        assert_ok(master_node_info(master, master_text_of("a"), info));
        assert_int_equal(info->capacities[MASTER_TIER_DRAM].available_bytes, 40 + i);
    }
    assert_ok(beat_only(master, "a", 0, &answer)); /* without capacities they stay */
    assert_ok(master_node_info(master, master_text_of("a"), info));
    assert_int_equal(info->capacities[MASTER_TIER_DRAM].available_bytes, 44);
    assert_true(holds(master, 1));
    free(info);
    master_destroy(master);
}

static void tiers_of_one_node_add_up_and_go_one_by_one(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_node_info *info = malloc(sizeof(*info));
    struct master_event events[] = {event(true, 1, MASTER_TIER_SSD),
                                    event(true, 1, MASTER_TIER_DRAM),
                                    event(true, 1, MASTER_TIER_DRAM)};
    (void)state;
    join(master, "a", 0);
    tell(master, "a", 0, 1, events, 3);
    assert_int_equal(get(master, 1).tier, MASTER_TIER_DRAM);
    assert_ok(master_node_info(master, master_text_of("a"), info));
    assert_int_equal(info->keys[MASTER_TIER_DRAM], 1);
    assert_int_equal(info->keys[MASTER_TIER_SSD], 1);
    events[0] = event(false, 1, MASTER_TIER_DRAM);
    tell(master, "a", 0, 2, events, 1);
    assert_int_equal(get(master, 1).tier, MASTER_TIER_SSD);
    events[0] = event(false, 1, MASTER_TIER_HBM); /* never was */
    tell(master, "a", 0, 3, events, 1);
    assert_true(holds(master, 1));
    events[0] = event(false, 1, MASTER_TIER_SSD);
    tell(master, "a", 0, 4, events, 1);
    assert_false(holds(master, 1));
    assert_ok(master_node_info(master, master_text_of("a"), info));
    assert_int_equal(info->keys[MASTER_TIER_DRAM] + info->keys[MASTER_TIER_SSD], 0);
    free(info);
    master_destroy(master);
}

static void senseless_events_are_skipped_and_counted(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event events[] = {event(true, 1, MASTER_TIER_NONE), event(true, 2, MASTER_TIERS),
                                    event(true, 3, MASTER_TIER_DRAM),
                                    event(true, 4, MASTER_TIER_DRAM)};
    (void)state;
    events[2].bytes = MASTER_VALUE_BYTES_MAX + 1;
    join(master, "a", 0);
    struct master_beat_answer answer = tell(master, "a", 0, 1, events, 4);
    assert_int_equal(answer.applied, 1);
    assert_int_equal(answer.acked_sequence, 1);
    assert_true(holds(master, 4));
    assert_int_equal((int)metric_value(master, "umbp_master_invalid_events_total", NULL), 3);
    master_destroy(master);
}

/* Fault 21. */
static void a_full_sync_in_chunks_replaces_everything_with_its_last(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_node_info *info = malloc(sizeof(*info));
    struct master_event old[] = {event(true, 1, MASTER_TIER_DRAM),
                                 event(true, 2, MASTER_TIER_DRAM)};
    struct master_event first[] = {event(true, 2, MASTER_TIER_DRAM),
                                   event(true, 3, MASTER_TIER_DRAM)};
    struct master_event last[] = {event(true, 4, MASTER_TIER_DRAM),
                                  event(false, 3, MASTER_TIER_DRAM)}; /* no removes in a listing */
    struct master_beat_answer answer;
    (void)state;
    join(master, "a", 5);
    tell(master, "a", 5, 1, old, 2);
    answer = chunk(master, "a", 5, 100, 0, false, 20, first, 2);
    assert_int_equal(answer.sync_id, 100);
    assert_int_equal(answer.next_chunk, 1);
    assert_int_equal(answer.acked_sequence, 1);
    assert_true(holds(master, 1)); /* the old stays in view */
    assert_true(holds(master, 2));
    answer = chunk(master, "a", 5, 100, 0, false, 20, first, 2); /* doubled */
    assert_int_equal(answer.next_chunk, 1);
    assert_int_equal(answer.applied, 0);
    answer = chunk(master, "a", 5, 100, 2, true, 20, last, 2); /* out of order: not applied */
    assert_int_equal(answer.next_chunk, 1);
    assert_false(holds(master, 4));
    answer = chunk(master, "a", 5, 100, 1, true, 20, last, 2);
    assert_int_equal(answer.acked_sequence, 20);
    assert_false(answer.wants_full_sync);
    assert_false(holds(master, 1));
    assert_true(holds(master, 2) && holds(master, 3) && holds(master, 4));
    assert_ok(master_node_info(master, master_text_of("a"), info));
    assert_int_equal(info->keys[MASTER_TIER_DRAM], 3);
    /* A late repetition of its first chunk does not begin it anew. */
    answer = chunk(master, "a", 5, 100, 0, false, 20, first, 2);
    assert_int_equal(answer.sync_id, 0);
    assert_int_equal(answer.acked_sequence, 20);
    settle(master);
    assert_int_equal((int)metric_value(master, "umbp_master_index_keys", NULL), 3);
    free(info);
    master_destroy(master);
}

static void a_full_sync_that_is_given_up_leaves_the_old_in_view_and_may_begin_anew(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event one = event(true, 1, MASTER_TIER_DRAM);
    struct master_event two = event(true, 2, MASTER_TIER_DRAM);
    struct master_event three = event(true, 3, MASTER_TIER_DRAM);
    struct master_beat_answer answer;
    (void)state;
    join(master, "a", 5);
    tell(master, "a", 5, 1, &one, 1);
    chunk(master, "a", 5, 100, 0, false, 1, &two, 1);
    /* A delta meanwhile is neither applied nor acknowledged, and the sync is asked for. */
    answer = tell(master, "a", 5, 2, &three, 1);
    assert_int_equal(answer.acked_sequence, 1);
    assert_true(answer.wants_full_sync);
    assert_false(holds(master, 3));
    /* The middle of one that the master never saw begin. */
    answer = chunk(master, "a", 5, 101, 3, true, 1, &three, 1);
    assert_true(answer.wants_full_sync);
    assert_true(holds(master, 1));
    answer = chunk(master, "a", 5, 102, 0, true, 2, &three, 1);
    assert_false(answer.wants_full_sync);
    assert_false(holds(master, 1) || holds(master, 2)); /* the half one left nothing behind */
    assert_true(holds(master, 3));
    assert_int_equal(answer.acked_sequence, 2);
    answer = tell(master, "a", 5, 3, &one, 1);
    assert_true(holds(master, 1));
    master_destroy(master);
}

static void a_listing_older_than_what_is_known_is_refused(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event one = event(true, 1, MASTER_TIER_DRAM);
    struct master_event two = event(true, 2, MASTER_TIER_DRAM);
    struct master_beat_answer answer;
    (void)state;
    join(master, "a", 5);
    tell(master, "a", 5, 1, &one, 1);
    tell(master, "a", 5, 2, &two, 1);
    answer = chunk(master, "a", 5, 100, 0, true, 1, &one, 1); /* of before the second event */
    assert_true(answer.wants_full_sync);
    assert_true(holds(master, 2));
    assert_int_equal(answer.acked_sequence, 2);
    master_destroy(master);
}

static void a_thousand_aborted_full_syncs_do_not_wedge_the_node(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event one = event(true, 1, MASTER_TIER_DRAM);
    struct master_beat_answer answer;
    (void)state;
    join(master, "a", 5);
    tell(master, "a", 5, 1, &one, 1);
    for (uint64_t sync = 1; sync <= 9000; sync++) {
        struct master_event listed = event(true, 1000 + sync, MASTER_TIER_DRAM);
        answer = chunk(master, "a", 5, sync, 0, false, 1, &listed, 1);
        if (sync % 100 == 0) {
            settle(master);
        }
    }
    answer = chunk(master, "a", 5, 10000, 0, true, 1, &one, 1);
    assert_false(answer.wants_full_sync);
    assert_true(holds(master, 1));
    for (uint64_t sync = 1; sync <= 9000; sync++) {
        assert_false(holds(master, 1000 + sync));
    }
    settle(master);
    assert_int_equal((int)metric_value(master, "umbp_master_index_keys", NULL), 1);
    master_destroy(master);
}

/* Fault 21 at its size: more than a million keys in one listing. */
static void a_million_keys_come_in_one_full_sync(void **state)
{
    const uint64_t total = test_is_slow() ? 50000 : 1200000;
    const uint64_t step = 8192;
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event *events = malloc(step * sizeof(*events));
    struct master_beat_answer answer = {0};
    uint32_t number = 0;
    (void)state;
    join(master, "a", 5);
    for (uint64_t key = 0; key < total; key += step) {
        uint64_t count = total - key < step ? total - key : step;
        for (uint64_t i = 0; i < count; i++) {
            events[i] = event(true, key + i, MASTER_TIER_DRAM);
        }
        answer = chunk(master, "a", 5, 1, number++, key + count == total, 3, events, count);
    }
    assert_int_equal(answer.acked_sequence, 3);
    for (uint64_t key = 0; key < total; key += 997) {
        assert_int_equal(get(master, key).bytes, 1000 + key);
    }
    assert_int_equal((uint64_t)metric_value(master, "umbp_master_index_keys", NULL), total);
    free(events);
    master_destroy(master);
}

static void keys_that_a_node_does_not_count_are_those_of_the_index(void **state)
{
    static const char live[] = "mori_umbp_client_kv_live_count_total";
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_beat_answer answer;
    struct master_event events[] = {event(true, 1, MASTER_TIER_DRAM),
                                    event(true, 2, MASTER_TIER_DRAM)};
    const struct master_bundle bundle = {1, events, 2};
    (void)state;
    join(master, "a", 0);
    struct master_beat beat = {.id = master_text_of("a"), .bundles = &bundle, .bundle_count = 1};
    assert_int_equal((int)metric_value(master, live, "a"), 0);
    assert_ok(master_beat(master, &beat, &answer));
    assert_int_equal((int)metric_value(master, live, "a"), 2);
    master_destroy(master);
}

/* The master is new, the (public) node is not: its counts say that it holds keys. */
static void a_node_that_holds_keys_and_never_told_of_one_is_asked_to(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_beat_answer answer;
    (void)state;
    join(master, "a", 0);
    struct master_beat beat = {.id = master_text_of("a"), .has_key_counts = true};
    assert_ok(master_beat(master, &beat, &answer));
    assert_false(answer.wants_full_sync);
    beat.key_counts[MASTER_TIER_DRAM] = 5;
    assert_ok(master_beat(master, &beat, &answer));
    assert_true(answer.wants_full_sync);
    assert_int_equal((int)metric_value(master, "mori_umbp_client_kv_live_count_total", "a"), 5);
    master_destroy(master);
}

static void bad_beats_change_nothing(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event one = event(true, 1, MASTER_TIER_DRAM);
    struct master_bundle bundles[] = {{1, &one, 1}, {2, &one, MASTER_BEAT_EVENTS_MAX}};
    struct master_beat_answer answer = {.node = 99};
    (void)state;
    join(master, "a", 0);
    struct master_beat beat = {.id = master_text_of("a"), .bundles = bundles, .bundle_count = 2};
    assert_status(master_beat(master, &beat, &answer), UMBP_LIMIT);
    beat.id = master_text_of("");
    beat.bundle_count = 1;
    assert_status(master_beat(master, &beat, &answer), UMBP_INVALID_VALUE);
    beat.id = master_text_of("nobody");
    assert_status(master_beat(master, &beat, &answer), UMBP_NOT_FOUND);
    assert_false(holds(master, 1));
    assert_int_equal(answer.node, 99);
    master_destroy(master);
}

static void a_key_on_more_nodes_than_are_remembered_still_works(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event one = event(true, 1, MASTER_TIER_DRAM);
    struct master_event gone = event(false, 1, MASTER_TIER_DRAM);
    char id[16];
    (void)state;
    for (int i = 0; i < 300; i++) {
        snprintf(id, sizeof(id), "n%d", i);
        join(master, id, 0);
        struct master_beat_answer answer = tell(master, id, 0, 1, &one, 1);
        assert_int_equal(answer.applied, i < 255);
        assert_int_equal(answer.acked_sequence, 1);
    }
    assert_int_equal((int)metric_value(master, "umbp_master_dropped_limit_total", NULL), 45);
    for (int i = 0; i < 254; i++) {
        snprintf(id, sizeof(id), "n%d", i);
        tell(master, id, 0, 2, &gone, 1);
    }
    assert_int_equal(get(master, 1).node, master_node_find(master, master_text_of("n254")));
    tell(master, "n254", 0, 2, &gone, 1);
    assert_false(holds(master, 1));
    assert_int_equal((int)metric_value(master, "umbp_master_index_bytes", NULL), 0);
    master_destroy(master);
}

static void at_the_limit_of_keys_adds_are_dropped_and_sequences_go_on(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    options.keys_max = 100;
    options.index_shards = 1;
    struct master *master = rig_create(&options);
    struct master_event events[150];
    (void)state;
    for (uint64_t i = 0; i < 150; i++) {
        events[i] = event(true, i, MASTER_TIER_DRAM);
    }
    join(master, "a", 0);
    struct master_beat_answer answer = tell(master, "a", 0, 1, events, 150);
    assert_int_equal(answer.applied, 100);
    assert_int_equal(answer.acked_sequence, 1);
    events[0] = event(false, 0, MASTER_TIER_DRAM);
    events[1] = event(true, 149, MASTER_TIER_DRAM);
    answer = tell(master, "a", 0, 2, events, 2);
    assert_true(holds(master, 149));
    master_destroy(master);
}

/* Fingerprints that were made to collide, in whatever way, cost memory and time in bounds. */
static void made_up_fingerprints_fill_no_more_than_their_share(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event *events = calloc(30000, sizeof(*events));
    (void)state;
    join(master, "a", 0);
    for (int way = 0; way < 5; way++) {
        for (uint64_t i = 0; i < 30000; i++) {
            events[i] = event(true, 0, MASTER_TIER_DRAM);
            events[i].print.low = way == 0 ? 7 : way == 1 ? i << 40 : i + 1;
            events[i].print.high = way == 0 ? i : way == 1 ? 9 : i << 3;
            if (way > 2) { /* well mixed below, the last home above */
                events[i].print = print_of(i);
                events[i].print.high |= way == 3 ? UINT64_C(0xFFFFFFFF) << 32 : UINT64_C(0xF) << 60;
            }
        }
        struct master_beat_answer answer = tell(master, "a", 0, (uint64_t)way + 1, events, 30000);
        assert_true(answer.applied > 1000);
        for (uint64_t i = 0; way < 3 && i < 1000; i++) {
            uint8_t found;
            assert_ok(master_lookup(master, &events[i].print, 1, &found));
            assert_true(found);
        }
    }
    double bytes = metric_value(master, "umbp_master_index_bytes", NULL);
    assert_true(bytes < 6e6);
    assert_ok(master_unregister(master, master_text_of("a"), 0));
    settle(master);
    assert_int_equal((int)metric_value(master, "umbp_master_index_keys", NULL), 0);
    assert_int_equal((int)metric_value(master, "umbp_master_index_bytes", NULL), 0);
    free(events);
    master_destroy(master);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bundles_are_applied_in_order_and_once),
        cmocka_unit_test(several_bundles_of_one_beat_stop_at_a_gap),
        cmocka_unit_test(empty_beats_are_no_gaps_and_refresh_capacities),
        cmocka_unit_test(tiers_of_one_node_add_up_and_go_one_by_one),
        cmocka_unit_test(senseless_events_are_skipped_and_counted),
        cmocka_unit_test(a_full_sync_in_chunks_replaces_everything_with_its_last),
        cmocka_unit_test(a_full_sync_that_is_given_up_leaves_the_old_in_view_and_may_begin_anew),
        cmocka_unit_test(a_listing_older_than_what_is_known_is_refused),
        cmocka_unit_test(a_thousand_aborted_full_syncs_do_not_wedge_the_node),
        cmocka_unit_test(a_million_keys_come_in_one_full_sync),
        cmocka_unit_test(keys_that_a_node_does_not_count_are_those_of_the_index),
        cmocka_unit_test(a_node_that_holds_keys_and_never_told_of_one_is_asked_to),
        cmocka_unit_test(bad_beats_change_nothing),
        cmocka_unit_test(a_key_on_more_nodes_than_are_remembered_still_works),
        cmocka_unit_test(at_the_limit_of_keys_adds_are_dropped_and_sequences_go_on),
        cmocka_unit_test(made_up_fingerprints_fill_no_more_than_their_share),
    };
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
