/* SPDX-License-Identifier: Apache-2.0 */
/* Who is a member: joining, staying, falling silent, coming back. */
#include "master_rig.h"

static void a_registered_node_is_found_with_its_addresses_and_tags(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    const struct master_text tags[] = {master_text_of("sgl_role=prefill"), master_text_of("zone")};
    struct master_registration registration = dram_node("a", 3, GIB_);
    struct master_registered registered;
    struct master_addresses addresses;
    struct master_node_info *info = malloc(sizeof(*info));
    char engine[8];
    (void)state;
    registration.tags = tags;
    registration.tag_count = 2;
    registration.engine = "ENGINE";
    registration.engine_bytes = 6;
    assert_ok(master_register(master, &registration, &registered));
    assert_int_not_equal(registered.node, MASTER_NODE_NONE);
    assert_int_equal(registered.heartbeat_interval_ms, 5000);
    assert_int_equal(registered.acked_sequence, 0);
    assert_true(registered.wants_full_sync); /* it may hold something from before */
    assert_int_equal(master_node_find(master, master_text_of("a")), registered.node);
    assert_int_equal(master_node_find(master, master_text_of("b")), MASTER_NODE_NONE);
    assert_ok(master_node_addresses(master, registered.node, &addresses));
    assert_string_equal(addresses.id, "a");
    assert_string_equal(addresses.peer_address, "10.0.0.1:2");
    assert_string_equal(addresses.fabric_address, "fi_sockaddr_in://10.0.0.1:3");
    assert_int_equal(addresses.incarnation, 3);
    assert_int_equal(master_node_engine(master, registered.node, engine, sizeof(engine)), 6);
    assert_memory_equal(engine, "ENGINE", 6);
    assert_ok(master_node_info(master, master_text_of("a"), info));
    assert_int_equal(info->state, MASTER_NODE_ALIVE);
    assert_int_equal(info->tag_count, 2);
    assert_string_equal(info->tags[0], "sgl_role=prefill");
    assert_int_equal(info->capacities[MASTER_TIER_DRAM].available_bytes, GIB_);
    assert_status(master_node_info(master, master_text_of("b"), info), UMBP_NOT_FOUND);
    free(info);
    master_destroy(master);
}

static void a_second_live_node_with_the_same_id_is_refused(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_registration other = dram_node("a", 2, GIB_);
    struct master_registration public = dram_node("p", 0, GIB_);
    struct master_registered registered = {.node = 99};
    struct master_event added = event(true, 1, MASTER_TIER_DRAM);
    struct master_beat_answer answer;
    (void)state;
    uint32_t handle = join(master, "a", 1);
    tell(master, "a", 1, 1, &added, 1);
    assert_status(master_register(master, &other, &registered), UMBP_BUSY);
    assert_int_equal(registered.node, 99);
    assert_int_equal(master_node_find(master, master_text_of("a")), handle);
    assert_true(holds(master, 1));
    assert_status(beat_only(master, "a", 2, &answer), UMBP_STALE);

    /* The public proto has no incarnation: any second registration is another node. */
    assert_ok(master_register(master, &public, &registered));
    assert_false(registered.wants_full_sync);
    assert_status(master_register(master, &public, &registered), UMBP_BUSY);
    assert_int_equal((int)metric_value(master, "umbp_master_double_registrations_total", NULL), 2);
    master_destroy(master);
}

static void a_repeated_registration_keeps_everything_and_takes_new_addresses(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_registration registration = dram_node("a", 1, GIB_);
    struct master_registered registered;
    struct master_addresses addresses;
    struct master_event added = event(true, 1, MASTER_TIER_DRAM);
    (void)state;
    uint32_t handle = join(master, "a", 1);
    tell(master, "a", 1, 1, &added, 1);
    assert_ok(master_register(master, &registration, &registered));
    assert_int_equal(registered.node, handle);
    assert_int_equal(registered.acked_sequence, 1);
    assert_true(holds(master, 1));

    registration.peer_address = master_text_of("10.9.9.9:2");
    assert_ok(master_register(master, &registration, &registered));
    assert_int_not_equal(registered.node, handle);
    assert_true(holds(master, 1));
    assert_int_equal(get(master, 1).node, registered.node);
    assert_status(master_node_addresses(master, handle, &addresses), UMBP_STALE);
    assert_ok(master_node_addresses(master, registered.node, &addresses));
    assert_string_equal(addresses.peer_address, "10.9.9.9:2");
    master_destroy(master);
}

static void
a_silent_node_expires_after_its_beats_were_missed_and_takes_its_keys_with_it(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event added[3000];
    struct master_beat_answer answer;
    (void)state;
    for (uint64_t i = 0; i < 3000; i++) {
        added[i] = event(true, i, MASTER_TIER_DRAM);
    }
    join(master, "a", 1);
    join(master, "b", 1);
    tell(master, "a", 1, 1, added, 3000);
    tell(master, "b", 1, 1, added, 1);
    for (int i = 0; i < 5; i++) { /* 30 s, b beating */
        clock_move_ms(&clock, 6000);
        assert_ok(beat_only(master, "b", 1, &answer));
        settle(master);
    }
    assert_true(holds(master, 2999)); /* 30 s: not more than TTL x missed */
    clock_move_ms(&clock, 5001);
    settle(master);
    assert_int_equal(master_node_find(master, master_text_of("a")), MASTER_NODE_NONE);
    assert_false(holds(master, 2999));
    assert_true(holds(master, 0)); /* b has it too */
    assert_int_equal(get(master, 0).node, master_node_find(master, master_text_of("b")));
    /* Gone from memory as well, not only from view. */
    assert_int_equal((int)metric_value(master, "umbp_master_index_keys", NULL), 1);
    assert_int_equal((int)metric_value(master, "mori_umbp_client_count", NULL), 1);
    assert_int_equal((int)metric_value(master, "umbp_master_nodes_expired_total", NULL), 1);
    master_destroy(master);
}

static void an_expired_node_revives_with_its_next_beat_and_is_asked_for_a_listing(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event added = event(true, 1, MASTER_TIER_DRAM);
    struct master_addresses addresses;
    struct master_beat_answer answer;
    (void)state;
    uint32_t handle = join(master, "a", 1);
    tell(master, "a", 1, 1, &added, 1);
    clock_move_ms(&clock, 40000);
    settle(master);
    assert_false(holds(master, 1));
    assert_status(master_node_addresses(master, handle, &addresses), UMBP_STALE);
    assert_ok(beat_only(master, "a", 1, &answer));
    assert_true(answer.wants_full_sync);
    assert_false(holds(master, 1)); /* until the listing */
    /* Its address is known again (after a restart of either, new clients need it). */
    assert_ok(master_node_addresses(master, answer.node, &addresses));
    assert_string_equal(addresses.peer_address, "10.0.0.1:2");
    answer = chunk(master, "a", 1, 9, 0, true, 1, &added, 1);
    assert_false(answer.wants_full_sync);
    assert_true(holds(master, 1));
    master_destroy(master);
}

static void another_incarnation_takes_over_once_the_node_is_silent_or_lost(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event added = event(true, 1, MASTER_TIER_DRAM);
    struct master_registration again = dram_node("a", 2, GIB_);
    struct master_registered registered;
    struct master_beat_answer answer;
    (void)state;
    join(master, "a", 1);
    tell(master, "a", 1, 1, &added, 1);
    /* The door saw its connection end: killed and started again within the TTL. */
    assert_status(master_register(master, &again, &registered), UMBP_BUSY);
    master_node_lost(master, master_text_of("a"), 8); /* another's: nothing happens */
    assert_status(master_register(master, &again, &registered), UMBP_BUSY);
    master_node_lost(master, master_text_of("a"), 1);
    assert_false(holds(master, 1)); /* most likely it is dead */
    assert_ok(beat_only(master, "a", 1, &answer));
    assert_true(holds(master, 1)); /* it had only lost its connection */
    master_node_lost(master, master_text_of("a"), 1);
    assert_ok(master_register(master, &again, &registered));
    assert_false(holds(master, 1));
    assert_int_equal(registered.acked_sequence, 0);
    assert_status(beat_only(master, "a", 1, &answer), UMBP_STALE);
    /* Silent for longer than the expiry, though no tick has looked. */
    clock_move_ms(&clock, 30001);
    again.incarnation = 3;
    assert_ok(master_register(master, &again, &registered));
    master_destroy(master);
}

static void unregistering_takes_everything_and_a_beat_is_then_unknown(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event added = event(true, 1, MASTER_TIER_DRAM);
    struct master_beat_answer answer;
    (void)state;
    join(master, "a", 1);
    tell(master, "a", 1, 1, &added, 1);
    assert_status(master_unregister(master, master_text_of("a"), 2), UMBP_STALE);
    assert_true(holds(master, 1));
    assert_ok(master_unregister(master, master_text_of("a"), 1));
    assert_false(holds(master, 1));
    assert_ok(master_unregister(master, master_text_of("a"), 1));
    assert_ok(master_unregister(master, master_text_of("never"), 0));
    assert_status(beat_only(master, "a", 1, &answer), UMBP_NOT_FOUND);
    join(master, "a", 1);
    assert_false(holds(master, 1)); /* nothing of the former life shows */
    settle(master);
    assert_int_equal((int)metric_value(master, "umbp_master_index_keys", NULL), 0);
    master_destroy(master);
}

static void what_is_too_long_or_not_text_is_refused(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    char long_text[MASTER_TEXT_BYTES_MAX + 1];
    struct master_text tags[MASTER_TAGS_MAX + 1];
    struct master_registration registration;
    struct master_registered registered;
    (void)state;
    memset(long_text, 'x', sizeof(long_text));
    for (size_t i = 0; i < MASTER_TAGS_MAX + 1; i++) {
        tags[i] = master_text_of("k=v");
    }
    registration = dram_node("", 1, GIB_);
    assert_status(master_register(master, &registration, &registered), UMBP_INVALID_VALUE);
    registration = dram_node("a\nb", 1, GIB_);
    assert_status(master_register(master, &registration, &registered), UMBP_INVALID_VALUE);
    registration = dram_node("a", 1, GIB_);
    registration.id = (struct master_text){long_text, sizeof(long_text)};
    assert_status(master_register(master, &registration, &registered), UMBP_LIMIT);
    registration.id.bytes--;
    assert_ok(master_register(master, &registration, &registered));
    registration = dram_node("a", 1, GIB_);
    registration.peer_address = (struct master_text){long_text, sizeof(long_text)};
    assert_status(master_register(master, &registration, &registered), UMBP_LIMIT);
    registration = dram_node("a", 1, GIB_);
    registration.tags = tags;
    registration.tag_count = MASTER_TAGS_MAX + 1;
    assert_status(master_register(master, &registration, &registered), UMBP_LIMIT);
    registration.tag_count = MASTER_TAGS_MAX;
    assert_ok(master_register(master, &registration, &registered));
    master_destroy(master);
}

static void a_full_house_takes_nobody_alive_out_and_reuses_the_dead(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    options.nodes_max = 3;
    struct master *master = rig_create(&options);
    struct master_event added = event(true, 1, MASTER_TIER_DRAM);
    struct master_registration fourth = dram_node("d", 1, GIB_);
    struct master_registered registered;
    struct master_addresses addresses;
    struct master_beat_answer answer;
    (void)state;
    uint32_t a = join(master, "a", 1);
    tell(master, "a", 1, 1, &added, 1);
    join(master, "b", 1);
    join(master, "c", 1);
    assert_status(master_register(master, &fourth, &registered), UMBP_LIMIT);
    clock_move_ms(&clock, 20000);
    assert_ok(beat_only(master, "b", 1, &answer));
    assert_ok(beat_only(master, "c", 1, &answer));
    clock_move_ms(&clock, 15000);
    master_tick(master); /* expires a; the sweep has hardly begun */
    assert_ok(master_register(master, &fourth, &registered));
    /* The record is another node's now: what a held is not d's, and a's handle is stale. */
    assert_false(holds(master, 1));
    assert_status(master_node_addresses(master, a, &addresses), UMBP_STALE);
    assert_status(beat_only(master, "a", 1, &answer), UMBP_NOT_FOUND);
    assert_int_equal(master_nodes(master, NULL, 0), 3);
    master_destroy(master);
}

static void an_expired_record_is_forgotten_after_a_while(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_node_info *info = malloc(sizeof(*info));
    struct master_beat_answer answer;
    (void)state;
    join(master, "a", 1);
    clock_move_ms(&clock, 40000);
    settle(master);
    assert_ok(master_node_info(master, master_text_of("a"), info));
    assert_int_equal(info->state, MASTER_NODE_EXPIRED);
    clock_move_ms(&clock, 3601000);
    settle(master);
    assert_status(master_node_info(master, master_text_of("a"), info), UMBP_NOT_FOUND);
    assert_status(beat_only(master, "a", 1, &answer), UMBP_NOT_FOUND);
    free(info);
    master_destroy(master);
}

static unsigned capacity_warnings;

static void count_warnings(void *context, enum umbp_log_level level, const char *line)
{
    (void)context;
    (void)level;
    capacity_warnings += strstr(line, "node_capacity_changed") != NULL;
}

static void a_changed_total_is_taken_and_warned_about_at_most_once_a_minute(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_node_info *info = malloc(sizeof(*info));
    struct master_beat_answer answer;
    (void)state;
    join(master, "a", 1);
    umbp_log_set(UMBP_LOG_WARN, count_warnings, NULL);
    capacity_warnings = 0;
    for (uint64_t i = 1; i <= 10; i++) {
        struct master_beat beat = {
            .id = master_text_of("a"), .incarnation = 1, .has_capacities = true};
        beat.capacities[MASTER_TIER_DRAM] = room(100 * GIB_ + i, i);
        assert_ok(master_beat(master, &beat, &answer));
        clock_move_ms(&clock, 1000);
    }
    assert_int_equal(capacity_warnings, 1);
    assert_ok(master_node_info(master, master_text_of("a"), info));
    assert_int_equal(info->capacities[MASTER_TIER_DRAM].total_bytes, 100 * GIB_ + 10);
    assert_int_equal(info->capacities[MASTER_TIER_DRAM].available_bytes, 10);
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    free(info);
    master_destroy(master);
}

struct labels {
    char text[512];
};

static void keep_labels(void *context, const struct master_metric *metric)
{
    struct labels *labels = context;
    if (strcmp(metric->name, "mori_umbp_client_kv_live_count_total") == 0) {
        for (size_t i = 0; i < metric->label_count; i++) {
            size_t used = strlen(labels->text);
            snprintf(labels->text + used, sizeof(labels->text) - used, "%s=%s,",
                     metric->labels[i].name, metric->labels[i].value);
        }
    }
}

static void tags_become_labels_when_they_can(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    const struct master_text tags[] = {
        master_text_of("role=prefill"), master_text_of("plain"),    master_text_of("node=other"),
        master_text_of("1bad=x"),       master_text_of("role=two"), master_text_of("a-b=c"),
        master_text_of("=x"),           master_text_of("zone="),
    };
    struct master_registration registration = dram_node("a", 1, GIB_);
    struct master_registered registered;
    struct master_beat beat = {.id = master_text_of("a"), .incarnation = 1, .has_key_counts = true};
    struct master_beat_answer answer;
    struct labels labels = {""};
    (void)state;
    registration.tags = tags;
    registration.tag_count = ARRAY_COUNT(tags);
    assert_ok(master_register(master, &registration, &registered));
    assert_ok(master_beat(master, &beat, &answer));
    assert_ok(master_metrics(master, keep_labels, &labels));
    assert_string_equal(labels.text, "node=a,role=prefill,zone=,");
    master_destroy(master);
}

static void thousands_of_lives_between_two_sweeps_never_show_an_old_one(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    unsigned refused = 0;
    (void)state;
    for (uint64_t life = 1; life <= 5000; life++) {
        struct master_registration registration = dram_node("a", life, GIB_);
        struct master_registered registered;
        struct master_event added = event(true, life, MASTER_TIER_DRAM);
        enum umbp_status status = master_register(master, &registration, &registered);
        if (status == UMBP_LIMIT) {
            refused++;
            settle(master);
            assert_ok(master_register(master, &registration, &registered));
        }
        tell(master, "a", life, 1, &added, 1);
        assert_true(holds(master, life));
        assert_false(holds(master, life - 1));
        assert_ok(master_unregister(master, master_text_of("a"), life));
        assert_false(holds(master, life));
    }
    assert_true(refused >= 1);
    master_destroy(master);
}

/* No life can begin while one of the epochs is used up; what the node told before stays in view. */
static void a_successor_that_has_to_wait_takes_nothing_from_the_node_before(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_text id = master_text_of("a");
    struct master_registration next = dram_node("a", 2, GIB_);
    struct master_registered registered;
    struct master_event added = event(true, 1, MASTER_TIER_DRAM);
    enum umbp_status status = UMBP_OK;
    (void)state;
    join(master, "a", 1);
    tell(master, "a", 1, 1, &added, 1);
    for (unsigned i = 0; i < 10000 && status == UMBP_OK; i++) {
        status = master_external_revoke_all(master, id, MASTER_TIER_SSD);
    }
    assert_status(status, UMBP_BUSY);
    master_node_lost(master, id, 1);
    assert_status(master_register(master, &next, &registered), UMBP_LIMIT);
    tell(master, "a", 1, 2, NULL, 0);
    assert_true(holds(master, 1));
    master_node_lost(master, id, 1);
    settle(master);
    assert_ok(master_register(master, &next, &registered));
    assert_false(holds(master, 1));
    master_destroy(master);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_registered_node_is_found_with_its_addresses_and_tags),
        cmocka_unit_test(a_second_live_node_with_the_same_id_is_refused),
        cmocka_unit_test(a_repeated_registration_keeps_everything_and_takes_new_addresses),
        cmocka_unit_test(
            a_silent_node_expires_after_its_beats_were_missed_and_takes_its_keys_with_it),
        cmocka_unit_test(an_expired_node_revives_with_its_next_beat_and_is_asked_for_a_listing),
        cmocka_unit_test(another_incarnation_takes_over_once_the_node_is_silent_or_lost),
        cmocka_unit_test(unregistering_takes_everything_and_a_beat_is_then_unknown),
        cmocka_unit_test(what_is_too_long_or_not_text_is_refused),
        cmocka_unit_test(a_full_house_takes_nobody_alive_out_and_reuses_the_dead),
        cmocka_unit_test(an_expired_record_is_forgotten_after_a_while),
        cmocka_unit_test(a_changed_total_is_taken_and_warned_about_at_most_once_a_minute),
        cmocka_unit_test(tags_become_labels_when_they_can),
        cmocka_unit_test(thousands_of_lives_between_two_sweeps_never_show_an_old_one),
        cmocka_unit_test(a_successor_that_has_to_wait_takes_nothing_from_the_node_before),
    };
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
