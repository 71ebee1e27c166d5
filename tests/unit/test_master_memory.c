/* SPDX-License-Identifier: Apache-2.0 */
/* Every allocation fails once: a clear answer, nothing leaked, and the master goes on. */
#include "master_rig.h"

struct failing {
    uint64_t at; /* this allocation fails; 0: none */
    uint64_t seen;
};

static bool allow(void *context, size_t bytes)
{
    struct failing *failing = context;
    (void)bytes;
    return ++failing->seen != failing->at;
}

#define KEYS 400

/* A short life of a master; whatever fails, it ends in order. Returns whether it was created. */
static bool live(struct test_clock *clock, bool *complained)
{
    struct master_options options = rig_options(clock);
    struct master *master;
    struct master_advice advice;
    struct master_matches matches;
    struct fingerprint prints[KEYS];
    struct master_event events[KEYS];
    char names[KEYS][72];
    uint64_t hits[KEYS];
    char error[64];
    options.index_shards = 2;
    if (master_create(&options, &master, error, sizeof(error)) != UMBP_OK) {
        *complained = true;
        return false;
    }
    for (uint64_t i = 0; i < KEYS; i++) {
        snprintf(names[i], sizeof(names[i]), "key-%d", (int)i);
        events[i] = event(true, i, MASTER_TIER_DRAM);
        events[i].key = names[i];
        events[i].key_bytes = (uint16_t)strlen(names[i]);
        prints[i] = events[i].print;
    }
    for (int n = 0; n < 3; n++) {
        char id[8];
        struct master_registered registered;
        struct master_bundle bundle = {1, events, KEYS};
        struct master_beat_answer answer;
        snprintf(id, sizeof(id), "n%d", n);
        struct master_registration registration = dram_node(id, 0, GIB_);
        registration.wants_keys = n == 1;
        if (master_register(master, &registration, &registered) != UMBP_OK) {
            *complained = true;
            continue;
        }
        struct master_beat beat = {.id = master_text_of(id), .bundles = &bundle, .bundle_count = 1};
        assert_ok(master_beat(master, &beat, &answer));
        assert_int_equal(answer.acked_sequence, 1); /* never what stops a node */
        *complained |= answer.applied < KEYS;
        *complained |= master_external_report(master, master_text_of(id), prints, KEYS,
                                              MASTER_TIER_HBM) != UMBP_OK;
    }
    struct metric_question shortage = {"umbp_master_dropped_no_memory_total", NULL, 0, 0};
    *complained |= master_metrics(master, metric_visit, &shortage) != UMBP_OK || shortage.sum > 0;
    if (master_external_match(master, prints, KEYS, true, &matches) == UMBP_OK) {
        master_matches_free(&matches);
    } else {
        *complained = true;
    }
    *complained |= master_external_hits(master, prints, KEYS, hits) != UMBP_OK;
    clock_move_ms(clock, 5001);
    settle(master);
    if (master_advice_take(master, &advice) == UMBP_OK) {
        master_advice_free(&advice);
    } else {
        *complained = true;
    }
    assert_ok(master_unregister(master, master_text_of("n0"), 0));
    settle(master);
    master_destroy(master);
    return true;
}

static void any_allocation_may_fail(void **state)
{
    struct test_clock clock;
    struct failing failing = {0, 0};
    bool complained = false;
    (void)state;
    mem_set_hook(allow, &failing);
    assert_true(live(&clock, &complained));
    assert_false(complained);
    uint64_t total = failing.seen;
    uint64_t silent = 0;
    assert_true(total > 100);
    for (uint64_t at = 1; at <= total; at += total > 600 ? 1 + at / 300 : 1) {
        failing = (struct failing){at, 0};
        complained = false;
        (void)live(&clock, &complained);
        silent += !complained;
    }
    mem_set_hook(NULL, NULL);
    /* Growth that could be put off (the first attempts of a segment, a shrink) shows nowhere. */
    assert_true(silent < total);
}

static void what_memory_did_not_allow_is_asked_for_again(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event added[64];
    struct failing failing = {3, 0};
    struct master_beat_answer answer;
    (void)state;
    join(master, "a", 0);
    for (uint64_t i = 0; i < 64; i++) {
        added[i] = event(true, i, MASTER_TIER_DRAM);
    }
    mem_set_hook(allow, &failing);
    answer = tell(master, "a", 0, 1, added, 64);
    mem_set_hook(NULL, NULL);
    assert_int_equal(answer.applied, 63);
    assert_false(answer.wants_full_sync);
    for (int i = 0; i < 12; i++) {
        clock_move_ms(&clock, 5100);
        assert_ok(beat_only(master, "a", 0, &answer));
    }
    assert_true(answer.wants_full_sync);
    answer = chunk(master, "a", 0, 0, 0, true, 1, added, 64);
    assert_int_equal(answer.applied, 64);
    assert_false(answer.wants_full_sync);
    master_destroy(master);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_allocation_may_fail),
        cmocka_unit_test(what_memory_did_not_allow_is_asked_for_again),
    };
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
