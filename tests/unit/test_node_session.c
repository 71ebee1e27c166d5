/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node's sessions, against the real master core and its door over the simulated network: what a
 * store has is what the index says, soon, and again after anything that can happen in between.
 */
#include "cluster_rig.h"

static const char *const one_master[] = {"m0"};
static const char *const two_masters[] = {"m0", "m1"};

static const struct node_options to_one = {.masters = one_master, .master_count = 1};

/* The index is right again within a beat (of 5 s by default) and what a list takes, whatever
 * happened. */
#define SOON_MS 5500u

/* Of a seeded history; the sanitizers' builds run the first few. */
static unsigned rounds(unsigned slow, unsigned otherwise)
{
    const char *wish = getenv("UMBP_TEST_ROUNDS");
    return wish ? (unsigned)strtoul(wish, NULL, 10) : test_is_slow() ? slow : otherwise;
}

static struct store *open_store(uint64_t bytes, uint64_t event_bytes)
{
    struct store_options options = small_options(bytes);
    options.event_bytes = event_bytes;
    return make_store(&options);
}

/* Whether the index says of keys k0 .. k<count> what the node's store says. */
struct agreement {
    struct rig_master *master;
    struct rig_world *world;
    unsigned nodes;
    unsigned count;
};

static bool agrees(void *context)
{
    const struct agreement *agreement = context;
    struct named named;
    for (unsigned i = 0; i < agreement->count; i++) {
        struct umbp_key key = name_key(&named, "k", i);
        bool there = false;
        for (unsigned n = 0; n < agreement->nodes; n++) {
            there |=
                agreement->world->nodes[n].node && holds(agreement->world->nodes[n].store, key);
        }
        if (rig_master_knows(agreement->master, key) != there) {
            return false;
        }
    }
    return true;
}

/* In steps: it is a lot to look at after every event. */
static bool agrees_within(struct agreement *agreement, uint64_t ms)
{
    for (uint64_t at = 0; at < ms; at += 5) {
        if (agrees(agreement)) {
            return true;
        }
        rig_advance(agreement->world, 5);
    }
    return agrees(agreement);
}

static void what_was_there_before_is_listed(void **state)
{
    struct rig_world world;
    struct rig_master master;
    struct named named;
    (void)state;
    rig_begin(&world, 1);
    struct store *store = open_store(4 * MIB, MIB);
    for (unsigned i = 0; i < 20000; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), 64, i, 0));
    }
    rig_master_open(&world, &master, 5, "m0");
    rig_node_open(&world, 0, 0, store, &to_one);
    struct agreement agreement = {&master, &world, 1, 20000};
    assert_true(agrees_within(&agreement, 2000));
    assert_int_equal(rig_node_stat(&world.nodes[0], "node.syncs_done"), 1);
    rig_master_close(&master);
    rig_end(&world);
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Fault 24. By the simulation's clock, so the network's delays and the linger count, CPU time not.
 */
static void a_committed_key_is_visible_elsewhere_within_20_ms(void **state)
{
    struct rig_world world;
    struct rig_master master;
    uint64_t waited[300];
    struct named named;
    (void)state;
    rig_begin(&world, 2);
    rig_master_open(&world, &master, 5, "m0");
    rig_node_open(&world, 0, 0, open_store(4 * MIB, MIB), &to_one);
    rig_advance(&world, 500);
    for (unsigned i = 0; i < ARRAY_COUNT(waited); i++) {
        struct umbp_key key = name_key(&named, "k", i);
        uint64_t from_ns = rig_in_ms(&world, 0);
        assert_ok(put_value(world.nodes[0].store, key, 1000, i, 0));
        while (!rig_master_knows(&master, key)) {
            assert_true(fabric_sim_step(world.sim));
            assert_true(rig_in_ms(&world, 0) - from_ns < NS_PER_S);
        }
        waited[i] = rig_in_ms(&world, 0) - from_ns;
        fabric_sim_run(world.sim,
                       rig_in_ms(&world, 0) + rng_below(fabric_sim_rng(world.sim), 5 * NS_PER_MS));
    }
    qsort(waited, ARRAY_COUNT(waited), sizeof(waited[0]), compare);
    assert_true(waited[ARRAY_COUNT(waited) * 99 / 100] <= 20 * NS_PER_MS);
    rig_master_close(&master);
    rig_end(&world);
}

/* Of what came at one time the deepest is the first that the master would have go. */
static void depths_are_told_too(void **state)
{
    struct rig_world world;
    struct rig_master master;
    struct master_advice advice;
    struct named named;
    const unsigned count = 95; /* of a tier of a hundred; one bundle */
    (void)state;
    rig_begin(&world, 4);
    rig_master_open(&world, &master, 5, "m0");
    rig_node_open(&world, 0, 0, open_store(MIB, MIB), &to_one);
    rig_advance(&world, 500);
    for (unsigned i = 0; i < count; i++) {
        assert_ok(put_value(world.nodes[0].store, name_key(&named, "k", i), 10000, i, i));
    }
    rig_advance(&world, 15000);
    assert_ok(master_advice_take(master.master, &advice));
    assert_true(advice.count > 1);
    for (unsigned i = 0; i < advice.count; i++) {
        struct umbp_key key = name_key(&named, "k", count - 1 - i);
        struct fingerprint print = hash_key(key.data, key.bytes, RIG_SEED);
        assert_memory_equal(&advice.victims[i].print, &print, sizeof(print));
    }
    master_advice_free(&advice);
    rig_master_close(&master);
    rig_end(&world);
}

static void removals_and_evictions_are_told_too(void **state)
{
    struct rig_world world;
    struct rig_master master;
    struct named named;
    (void)state;
    rig_begin(&world, 3);
    rig_master_open(&world, &master, 5, "m0");
    rig_node_open(&world, 0, 0, open_store(MIB, MIB), &to_one);
    struct agreement agreement = {&master, &world, 1, 300};
    for (unsigned i = 0; i < 300; i++) { /* three times the tier */
        assert_ok(put_value(world.nodes[0].store, name_key(&named, "k", i), 10000, i, 0));
        if (i % 7 == 0) {
            assert_ok(remove_value(world.nodes[0].store, named.key));
        }
        rig_advance(&world, 1);
    }
    assert_true(agrees_within(&agreement, 200));
    assert_int_equal(rig_node_stat(&world.nodes[0], "node.syncs_done"), 1);
    rig_master_close(&master);
    rig_end(&world);
}

/* Faults 20, 21: nothing is known to a master that was started again; then everything is. */
static void a_master_that_was_started_again_has_everything_within_2_s(void **state)
{
    struct rig_world world;
    struct rig_master master;
    struct named named;
    (void)state;
    rig_begin(&world, 4);
    rig_master_open(&world, &master, 5, "m0");
    for (unsigned n = 0; n < 3; n++) {
        rig_node_open(&world, n, n, open_store(4 * MIB, MIB), &to_one);
        for (unsigned i = 0; i < 5000; i++) {
            assert_ok(
                put_value(world.nodes[n].store, name_key(&named, "k", n * 5000 + i), 64, i, 0));
        }
    }
    struct agreement agreement = {&master, &world, 3, 15000};
    assert_true(agrees_within(&agreement, 2000));
    fabric_sim_kill(master.fabric);
    rig_advance(&world, 700);
    rig_master_close(&master);
    for (unsigned i = 0; i < 1000; i++) {
        assert_ok(remove_value(world.nodes[1].store, name_key(&named, "k", 5000 + i)));
    }
    rig_advance(&world, 300);
    rig_master_open(&world, &master, 5, "m0");
    assert_true(agrees_within(&agreement, 2000));
    rig_master_close(&master);
    rig_end(&world);
}

static void several_masters_are_all_told(void **state)
{
    const struct node_options options = {.masters = two_masters, .master_count = 2};
    struct rig_world world;
    struct rig_master masters[2];
    struct named named;
    (void)state;
    rig_begin(&world, 5);
    rig_master_open(&world, &masters[0], 5, "m0");
    rig_node_open(&world, 0, 0, open_store(4 * MIB, MIB), &options);
    rig_advance(&world, 1000); /* the second one is not there yet */
    for (unsigned i = 0; i < 500; i++) {
        assert_ok(put_value(world.nodes[0].store, name_key(&named, "k", i), 64, i, 0));
    }
    struct agreement first = {&masters[0], &world, 1, 500};
    struct agreement second = {&masters[1], &world, 1, 500};
    assert_true(agrees_within(&first, 100));
    rig_master_open(&world, &masters[1], 6, "m1");
    assert_true(agrees_within(&second, 2000));
    rig_master_close(&masters[0]);
    assert_ok(remove_value(world.nodes[0].store, name_key(&named, "k", 3)));
    assert_true(agrees_within(&second, 100));
    rig_master_close(&masters[1]);
    rig_end(&world);
}

/* By two names, as 127.0.0.1 and localhost are. */
static void a_master_that_is_named_twice_has_one_session(void **state)
{
    static const char *const same_master[] = {"m0", "m0"};
    const struct node_options options = {.masters = same_master, .master_count = 2};
    struct rig_world world;
    struct rig_master master;
    struct named named;
    (void)state;
    rig_begin(&world, 7);
    rig_master_open(&world, &master, 5, "m0");
    rig_node_open(&world, 0, 0, open_store(4 * MIB, MIB), &options);
    rig_advance(&world, 1000);
    struct agreement agreement = {&master, &world, 1, 0};
    for (unsigned step = 0; step < 40; step++) { /* past where the second one looks again */
        for (unsigned i = 0; i < 10; i++) {
            assert_ok(put_value(world.nodes[0].store, name_key(&named, "k", agreement.count + i),
                                64, i, 0));
        }
        agreement.count += 10;
        assert_true(agrees_within(&agreement, 100));
        assert_int_equal(rig_node_stat(&world.nodes[0], "node.masters_now"), 1);
        rig_advance(&world, 1000);
    }
    assert_int_equal(rig_node_stat(&world.nodes[0], "node.syncs_begun"), 1);
    /* It is gone for a moment, and one of them finds it again. */
    rig_master_close(&master);
    rig_advance(&world, 100);
    rig_master_open(&world, &master, 5, "m0");
    assert_true(agrees_within(&agreement, 2000));
    rig_master_close(&master);
    rig_end(&world);
}

/* While nobody can be told, more happens than the ring of events remembers. */
static void events_that_were_overwritten_are_made_good_by_a_list(void **state)
{
    struct rig_world world;
    struct rig_master master;
    struct named named;
    (void)state;
    rig_begin(&world, 6);
    rig_master_open(&world, &master, 5, "m0");
    rig_node_open(&world, 0, 0, open_store(4 * MIB, 64 * KIB), &to_one);
    rig_advance(&world, 200);
    fabric_sim_cut(world.sim, 0, 5);
    for (unsigned i = 0; i < 5000; i++) {
        assert_ok(put_value(world.nodes[0].store, name_key(&named, "k", i), 64, i, 0));
    }
    for (unsigned i = 0; i < 5000; i += 3) {
        assert_ok(remove_value(world.nodes[0].store, name_key(&named, "k", i)));
    }
    rig_advance(&world, 500);
    fabric_sim_heal(world.sim);
    struct agreement agreement = {&master, &world, 1, 5000};
    assert_true(agrees_within(&agreement, 3000));
    assert_int_equal(rig_node_stat(&world.nodes[0], "node.syncs_done"), 2);
    rig_master_close(&master);
    rig_end(&world);
}

/* Fault 31. Long silences of the store are no gaps, and the node stays a member. */
static void beats_without_events_are_no_gaps(void **state)
{
    struct rig_world world;
    struct rig_master master;
    struct named named;
    (void)state;
    rig_begin(&world, 7);
    rig_master_open(&world, &master, 5, "m0");
    rig_node_open(&world, 0, 0, open_store(4 * MIB, MIB), &to_one);
    struct agreement agreement = {&master, &world, 1, 5};
    for (unsigned i = 0; i < 5; i++) {
        assert_ok(put_value(world.nodes[0].store, name_key(&named, "k", i), 64, i, 0));
        assert_true(agrees_within(&agreement, 500));
        rig_advance(&world, 70000);
        assert_true(agrees(&agreement));
    }
    assert_int_equal(rig_node_stat(&world.nodes[0], "node.syncs_done"), 1);
    rig_master_close(&master);
    rig_end(&world);
}

static void a_node_that_leaves_is_forgotten_at_once(void **state)
{
    struct rig_world world;
    struct rig_master master;
    struct named named;
    (void)state;
    rig_begin(&world, 8);
    rig_master_open(&world, &master, 5, "m0");
    rig_node_open(&world, 0, 0, open_store(4 * MIB, MIB), &to_one);
    assert_ok(put_value(world.nodes[0].store, name_key(&named, "k", 0), 64, 0, 0));
    rig_advance(&world, 500);
    assert_true(rig_master_knows(&master, named.key));
    node_stop(world.nodes[0].node, rig_in_ms(&world, 1000));
    assert_false(rig_master_knows(&master, named.key));
    rig_advance(&world, 2000);
    assert_false(rig_master_knows(&master, named.key));
    rig_master_close(&master);
    rig_end(&world);
}

static void of_two_nodes_with_one_id_the_first_stays_until_it_goes(void **state)
{
    const struct node_options twin = {.masters = one_master, .master_count = 1, .id = "node0"};
    struct rig_world world;
    struct rig_master master;
    struct named named;
    (void)state;
    rig_begin(&world, 9);
    rig_master_open(&world, &master, 5, "m0");
    rig_node_open(&world, 0, 0, open_store(4 * MIB, MIB), &to_one);
    rig_advance(&world, 500);
    rig_node_open(&world, 1, 1, open_store(4 * MIB, MIB), &twin);
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL); /* it says so, by and by */
    assert_ok(put_value(world.nodes[0].store, name_key(&named, "k", 0), 64, 0, 0));
    assert_ok(put_value(world.nodes[1].store, name_key(&named, "k", 1), 64, 1, 0));
    rig_advance(&world, 5000);
    assert_true(rig_master_knows(&master, name_key(&named, "k", 0)));
    assert_false(rig_master_knows(&master, name_key(&named, "k", 1)));
    fabric_sim_kill(world.nodes[0].fabric);
    rig_advance(&world, 5000);
    assert_false(rig_master_knows(&master, name_key(&named, "k", 0)));
    assert_true(rig_master_knows(&master, name_key(&named, "k", 1)));
    rig_master_close(&master);
    rig_end(&world);
}

#define LISTED 1000u

/* Both stand at that event of the simulation; then one of them is killed and another started. */
static bool dies_amid_full_sync(unsigned moment, bool is_node)
{
    const struct node_options options = {
        .masters = one_master, .master_count = 1, .sync_events = 32};
    struct rig_world world;
    struct rig_master master;
    struct named named;
    rig_begin(&world, 10);
    struct store *store = open_store(4 * MIB, MIB);
    for (unsigned i = 0; i < LISTED; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), 64, i, 0));
    }
    rig_master_open(&world, &master, 5, "m0");
    rig_node_open(&world, 0, 0, store, &options);
    for (unsigned i = 0; i < moment; i++) {
        assert_true(fabric_sim_step(world.sim));
    }
    bool is_amid = !rig_node_stat(&world.nodes[0], "node.syncs_done");
    /* What came and went meanwhile is on top of the list. */
    assert_ok(remove_value(store, name_key(&named, "k", moment % LISTED)));
    if (is_node) {
        fabric_sim_kill(world.nodes[0].fabric);
        rig_node_close(&world.nodes[0]);
        finish_store(store);
        store = open_store(4 * MIB, MIB);
        for (unsigned i = LISTED / 2; i < LISTED * 3 / 2; i++) {
            assert_ok(put_value(store, name_key(&named, "k", i), 64, i, 0));
        }
        rig_node_open(&world, 0, 0, store, &options);
    } else {
        fabric_sim_kill(master.fabric);
        rig_master_close(&master);
        rig_master_open(&world, &master, 5, "m0");
    }
    struct agreement agreement = {&master, &world, 1, LISTED * 3 / 2};
    if (!agrees_within(&agreement, SOON_MS)) {
        fail_msg("a %s killed at event %u: the index is wrong", is_node ? "node" : "master",
                 moment);
    }
    rig_master_close(&master);
    rig_end(&world);
    return is_amid;
}

static void a_full_sync_may_be_cut_short_by_a_death_at_any_moment(void **state)
{
    unsigned step = test_is_slow() ? 13 : 1;
    (void)state;
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    for (unsigned is_node = 0; is_node < 2; is_node++) {
        unsigned moment = 0;
        while (dies_amid_full_sync(moment, is_node)) {
            moment += step;
        }
        print_message("%u moments\n", moment);
        assert_true(moment >= 20);
    }
}

/* Fault 30. Calls to the master that never arrive, whose answer never arrives (so that they are
 * made again, and have been heard before), that are late, or with which the connection goes. */
static void lost_and_late_beats(uint64_t seed, uint64_t *hits)
{
    const struct node_options options = {.masters = one_master,
                                         .master_count = 1,
                                         .bundle_events = 8,
                                         .sync_events = 64,
                                         .master_timeout_ms = 300};
    struct rig_world world;
    struct rig_master master;
    struct named named;
    rig_begin(&world, seed);
    world.has_faults = true;
    struct rng *rng = fabric_sim_rng(world.sim);
    rig_master_open(&world, &master, 5, "m0");
    rig_node_open(&world, 0, 0, open_store(MIB, seed % 2 ? 16 * KIB : MIB), &options);
    struct rig_node *node = &world.nodes[0];
    for (unsigned step = 0; step < 300; step++) {
        if (step % 20 == 0) {
            struct fabric_fault_rule rule = {
                .op = FABRIC_FAULT_CALL, .first = 1, .every = 1 + rng_below(rng, 6)};
            switch (rng_below(rng, 4)) {
            case 0:
                rule.refuse = UMBP_BUSY;
                break;
            case 1:
                rule.fail = UMBP_TIMEOUT;
                break;
            case 2:
                rule.delay_ms = 1 + (uint32_t)rng_below(rng, 400);
                break;
            default:
                rule.disconnect = true;
            }
            fabric_fault_clear(node->fabric);
            assert_ok(fabric_fault_set(node->fabric, &rule));
        }
        struct umbp_key key = name_key(&named, "k", rng_below(rng, 100));
        if (rng_below(rng, 3) == 0) {
            (void)!remove_value(node->store, key);
        } else {
            (void)!put_value(node->store, key, 1 + rng_below(rng, 20000), 1, 0);
        }
        rig_advance(&world, rng_below(rng, 50));
    }
    *hits += fabric_fault_hits(node->fabric);
    fabric_fault_clear(node->fabric);
    struct agreement agreement = {&master, &world, 1, 100};
    if (!agrees_within(&agreement, SOON_MS)) {
        fail_msg("the index is wrong after a beat; seed %llu", (unsigned long long)seed);
    }
    rig_master_close(&master);
    rig_end(&world);
}

static void beats_that_are_lost_late_and_repeated_leave_the_index_right(void **state)
{
    uint64_t hits = 0;
    (void)state;
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    for (unsigned i = 0; i < rounds(20, 400); i++) {
        lost_and_late_beats(test_seed() + i, &hits);
    }
    print_message("%llu calls went wrong\n", (unsigned long long)hits);
    assert_true(hits > 20 * 10);
}

/* Fault 30. Seeded: puts and removes without an end, and the network, the master and the nodes in
 * all kinds of trouble; after it is over the index is right within a beat. */
static void one_history(uint64_t seed)
{
    const struct node_options options = {.masters = one_master,
                                         .master_count = 1,
                                         .bundle_events = 8,
                                         .sync_events = 64,
                                         .master_timeout_ms = 300};
    struct rig_world world;
    struct rig_master master;
    struct named named;
    rig_begin(&world, seed);
    struct rng *rng = fabric_sim_rng(world.sim);
    rig_master_open(&world, &master, 5, "m0");
    for (unsigned n = 0; n < 2; n++) {
        rig_node_open(&world, n, n, open_store(MIB, seed % 2 ? 16 * KIB : MIB), &options);
    }
    for (unsigned step = 0; step < 400; step++) {
        struct rig_node *node = &world.nodes[rng_below(rng, 2)];
        struct umbp_key key = name_key(&named, "k", rng_below(rng, 400));
        switch (rng_below(rng, 40)) {
        case 0:
            fabric_sim_cut(world.sim, (uint32_t)rng_below(rng, 2), 5);
            break;
        case 1:
        case 2:
            fabric_sim_heal(world.sim);
            break;
        case 3:
            fabric_sim_break(node->fabric, master.fabric);
            break;
        case 4:
            fabric_sim_stop(master.fabric);
            break;
        case 5:
        case 6:
            fabric_sim_continue(master.fabric);
            break;
        case 7:
            if (rng_below(rng, 4) == 0) {
                fabric_sim_kill(master.fabric);
                rig_master_close(&master);
                rig_master_open(&world, &master, 5, "m0");
            }
            break;
        case 8:
            rig_advance(&world, rng_below(rng, 5000));
            break;
        case 9:
            fabric_sim_stop(node->fabric);
            rig_advance(&world, rng_below(rng, 1000));
            fabric_sim_continue(node->fabric);
            break;
        default:
            if (rng_below(rng, 3) == 0) {
                (void)!remove_value(node->store, key);
            } else {
                (void)!put_value(node->store, key, 1 + rng_below(rng, 20000), 1, 0);
            }
            rig_advance(&world, rng_below(rng, 20));
        }
    }
    fabric_sim_heal(world.sim);
    fabric_sim_continue(master.fabric);
    struct agreement agreement = {&master, &world, 2, 400};
    if (!agrees_within(&agreement, SOON_MS)) {
        fail_msg("the index is wrong after a beat; seed %llu", (unsigned long long)seed);
    }
    rig_master_close(&master);
    rig_end(&world);
}

static void after_any_trouble_the_index_is_right_again(void **state)
{
    (void)state;
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    for (unsigned i = 0; i < rounds(10, 1000); i++) {
        one_history(test_seed() + i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_there_before_is_listed),
        cmocka_unit_test(a_committed_key_is_visible_elsewhere_within_20_ms),
        cmocka_unit_test(depths_are_told_too),
        cmocka_unit_test(removals_and_evictions_are_told_too),
        cmocka_unit_test(a_master_that_was_started_again_has_everything_within_2_s),
        cmocka_unit_test(several_masters_are_all_told),
        cmocka_unit_test(a_master_that_is_named_twice_has_one_session),
        cmocka_unit_test(events_that_were_overwritten_are_made_good_by_a_list),
        cmocka_unit_test(beats_without_events_are_no_gaps),
        cmocka_unit_test(a_node_that_leaves_is_forgotten_at_once),
        cmocka_unit_test(of_two_nodes_with_one_id_the_first_stays_until_it_goes),
        cmocka_unit_test(a_full_sync_may_be_cut_short_by_a_death_at_any_moment),
        cmocka_unit_test(beats_that_are_lost_late_and_repeated_leave_the_index_right),
        cmocka_unit_test(after_any_trouble_the_index_is_right_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
