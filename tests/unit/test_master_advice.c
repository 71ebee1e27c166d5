/* SPDX-License-Identifier: Apache-2.0 */
/* Advice on what to evict: from full tiers, the longest unused first, never what is being read. */
#include "master_rig.h"

static void join_public(struct master *master, const char *id)
{
    struct master_registration registration = dram_node(id, 0, 50 * GIB_);
    struct master_registered registered;
    registration.wants_keys = true;
    assert_ok(master_register(master, &registration, &registered));
}

static struct master_event named(uint64_t key, char *name, size_t bytes, uint32_t depth)
{
    struct master_event added = event(true, key, MASTER_TIER_DRAM);
    snprintf(name, bytes, "%064llx_0_k", (unsigned long long)key * 0x9E3779B97F4A7C15u);
    added.key = name;
    added.key_bytes = (uint16_t)strlen(name);
    added.bytes = GIB_;
    added.depth = depth;
    return added;
}

static void fill(struct master *master, const char *id, uint64_t available)
{
    struct master_beat beat = {.id = master_text_of(id), .has_capacities = true};
    struct master_beat_answer answer;
    beat.capacities[MASTER_TIER_DRAM] = room(100 * GIB_, available);
    assert_ok(master_beat(master, &beat, &answer));
}

static enum umbp_status round_of(struct master *master, struct test_clock *clock,
                                 struct master_advice *advice)
{
    clock_move_ms(clock, 5001);
    settle(master);
    return master_advice_take(master, advice);
}

static void a_full_tier_is_advised_down_to_the_low_watermark_oldest_first(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_advice advice;
    char name[96];
    (void)state;
    join_public(master, "a");
    for (uint64_t key = 0; key < 95; key++) {
        struct master_event added = named(key, name, sizeof(name), UMBP_DEPTH_NONE);
        tell(master, "a", 0, key + 1, &added, 1);
        clock_move_ms(&clock, 20);
    }
    fill(master, "a", 15 * GIB_); /* 85 %: below the high watermark */
    assert_status(round_of(master, &clock, &advice), UMBP_NOT_FOUND);
    get(master, 0); /* used again: now the youngest */
    clock_move_ms(&clock, 5000);
    fill(master, "a", 5 * GIB_); /* 95 %: 25 GiB over the low one */
    assert_ok(round_of(master, &clock, &advice));
    assert_int_equal(advice.count, 25);
    for (uint64_t i = 0; i < 25; i++) {
        struct fingerprint want = print_of(i + 1);
        assert_memory_equal(&advice.victims[i].print, &want, sizeof(want));
        assert_int_equal(advice.victims[i].node, master_node_find(master, master_text_of("a")));
        assert_int_equal(advice.victims[i].tier, MASTER_TIER_DRAM);
        assert_int_equal(advice.victims[i].bytes, GIB_);
        named(i + 1, name, sizeof(name), 0);
        assert_int_equal(advice.victims[i].key_bytes, strlen(name));
        assert_memory_equal(advice.victims[i].key, name, strlen(name));
    }
    master_advice_free(&advice);
    assert_true(holds(master, 1)); /* only advice */
    assert_status(master_advice_take(master, &advice), UMBP_NOT_FOUND);
    master_destroy(master);
}

static void of_equally_old_keys_the_deepest_go_first(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_advice advice;
    struct master_event added[100];
    char names[100][96];
    (void)state;
    join_public(master, "a");
    for (uint64_t key = 0; key < 100; key++) {
        added[key] = named(key, names[key], sizeof(names[key]), (uint32_t)(key * 7 % 100));
    }
    added[50].depth = UMBP_DEPTH_NONE;
    tell(master, "a", 0, 1, added, 100);
    fill(master, "a", 9 * GIB_);
    assert_ok(round_of(master, &clock, &advice));
    assert_int_equal(advice.count, 21);
    for (uint64_t i = 0; i < 21; i++) {
        uint32_t depth = 0;
        for (uint64_t key = 0; key < 100; key++) {
            struct fingerprint print = print_of(key);
            if (memcmp(&print, &advice.victims[i].print, sizeof(print)) == 0) {
                depth = (uint32_t)(key * 7 % 100);
            }
        }
        assert_int_equal(depth, 99 - i - (99 - i <= 50 && i > 49));
    }
    master_advice_free(&advice);
    master_destroy(master);
}

static void what_is_leased_to_a_reader_is_left_out_and_a_lookup_leases_nothing(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    options.eviction_check_interval_sec = 1;
    struct master *master = rig_create(&options);
    struct master_advice advice;
    struct master_event added[2];
    char names[2][96];
    (void)state;
    join_public(master, "a");
    for (uint64_t key = 0; key < 2; key++) {
        added[key] = named(key, names[key], sizeof(names[key]), 0);
    }
    tell(master, "a", 0, 1, added, 2);
    fill(master, "a", 0);
    get(master, 0);
    assert_true(holds(master, 1));
    clock_move_ms(&clock, 1001);
    settle(master);
    assert_ok(master_advice_take(master, &advice));
    struct fingerprint want = print_of(1);
    assert_int_equal(advice.count, 1);
    assert_memory_equal(&advice.victims[0].print, &want, sizeof(want));
    master_advice_free(&advice);
    clock_move_ms(&clock, 2000); /* the lease is over */
    settle(master);
    assert_ok(master_advice_take(master, &advice));
    assert_int_equal(advice.count, 2);
    master_advice_free(&advice);
    master_destroy(master);
}

static void nodes_with_an_evictor_of_their_own_are_left_alone_by_default(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    (void)state;
    for (int all = 0; all < 2; all++) {
        options = rig_options(&clock);
        options.advise_all = all;
        struct master *master = rig_create(&options);
        struct master_advice advice;
        struct master_event added = event(true, 1, MASTER_TIER_DRAM);
        join(master, "a", 0);
        tell(master, "a", 0, 1, &added, 1);
        fill(master, "a", 0);
        assert_status(round_of(master, &clock, &advice), all ? UMBP_OK : UMBP_NOT_FOUND);
        if (all) {
            assert_int_equal(advice.count, 1);
            assert_null(advice.victims[0].key);
            master_advice_free(&advice);
        }
        master_destroy(master);
    }
}

static void advice_that_nobody_takes_is_replaced_and_bounded(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    options.evict_batch = 10;
    struct master *master = rig_create(&options);
    struct master_advice advice;
    struct master_event added[100];
    char names[100][96];
    (void)state;
    join_public(master, "a");
    for (uint64_t key = 0; key < 100; key++) {
        added[key] = named(key, names[key], sizeof(names[key]), 0);
    }
    tell(master, "a", 0, 1, added, 100);
    fill(master, "a", 0);
    for (int i = 0; i < 4; i++) {
        clock_move_ms(&clock, 5001);
        settle(master);
    }
    assert_ok(master_advice_take(master, &advice));
    assert_int_equal(advice.count, 10);
    master_advice_free(&advice);
    assert_true(metric_value(master, "umbp_master_advice_rounds_total", NULL) >= 3);
    master_destroy(master);
}

/* More tiers are full than one round looks at: the next one goes on with the others. */
static void every_full_tier_of_a_large_cluster_gets_its_turn(void **state)
{
    enum {
        NODES = 1500
    };
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_advice advice;
    bool advised[NODES] = {false};
    char name[96];
    char id[16];
    unsigned seen = 0;
    (void)state;
    for (uint64_t n = 0; n < NODES; n++) {
        snprintf(id, sizeof(id), "n%llu", (unsigned long long)n);
        struct master_event added = named(n, name, sizeof(name), UMBP_DEPTH_NONE);
        join_public(master, id);
        tell(master, id, 0, 1, &added, 1);
        fill(master, id, 0);
    }
    for (unsigned round = 0; round < 2; round++) {
        assert_ok(round_of(master, &clock, &advice));
        for (size_t v = 0; v < advice.count; v++) {
            struct master_addresses addresses;
            assert_ok(master_node_addresses(master, advice.victims[v].node, &addresses));
            unsigned long n = strtoul(addresses.id + 1, NULL, 10);
            seen += !advised[n];
            advised[n] = true;
        }
        master_advice_free(&advice);
    }
    assert_int_equal(seen, NODES);
    master_destroy(master);
}

/* Keys come back as they were told, packed or not. */
static void key_bytes_are_given_back_exactly(void **state)
{
    static const char hex[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_advice advice;
    struct master_event added[6];
    char keys[6][1024];
    size_t bytes[6] = {64, 63, 66, 64, 1024, 1};
    (void)state;
    memset(keys, 'z', sizeof(keys));
    for (size_t i = 0; i < 4; i++) {
        memcpy(keys[i], hex, 64);
    }
    keys[3][10] = 'A'; /* upper case is not packed */
    memcpy(keys[2] + 64, "_k", 2);
    join_public(master, "a");
    for (uint64_t i = 0; i < 6; i++) {
        added[i] = event(true, i, MASTER_TIER_DRAM);
        added[i].key = keys[i];
        added[i].key_bytes = (uint16_t)bytes[i];
    }
    tell(master, "a", 0, 1, added, 6);
    fill(master, "a", 0);
    assert_ok(round_of(master, &clock, &advice));
    assert_int_equal(advice.count, 6);
    for (size_t v = 0; v < 6; v++) {
        bool known = false;
        for (uint64_t i = 0; i < 6; i++) {
            struct fingerprint print = print_of(i);
            if (memcmp(&print, &advice.victims[v].print, sizeof(print)) == 0) {
                assert_int_equal(advice.victims[v].key_bytes, bytes[i]);
                assert_memory_equal(advice.victims[v].key, keys[i], bytes[i]);
                known = true;
            }
        }
        assert_true(known);
    }
    master_advice_free(&advice);
    master_destroy(master);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_tier_is_advised_down_to_the_low_watermark_oldest_first),
        cmocka_unit_test(of_equally_old_keys_the_deepest_go_first),
        cmocka_unit_test(what_is_leased_to_a_reader_is_left_out_and_a_lookup_leases_nothing),
        cmocka_unit_test(nodes_with_an_evictor_of_their_own_are_left_alone_by_default),
        cmocka_unit_test(advice_that_nobody_takes_is_replaced_and_bounded),
        cmocka_unit_test(every_full_tier_of_a_large_cluster_gets_its_turn),
        cmocka_unit_test(key_bytes_are_given_back_exactly),
    };
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
