/* SPDX-License-Identifier: Apache-2.0 */
/* Where to read and where to write. */
#include "master_rig.h"

#define BATCH 128

static uint32_t join_with(struct master *master, const char *id, struct master_capacity hbm,
                          struct master_capacity dram, struct master_capacity ssd)
{
    struct master_registration registration = dram_node(id, 1, 0);
    struct master_registered registered;
    registration.capacities[MASTER_TIER_HBM] = hbm;
    registration.capacities[MASTER_TIER_DRAM] = dram;
    registration.capacities[MASTER_TIER_SSD] = ssd;
    assert_ok(master_register(master, &registration, &registered));
    return registered.node;
}

static uint32_t join_dram(struct master *master, const char *id, uint64_t available)
{
    return join_with(master, id, room(0, 0), room(100 * GIB_, available), room(0, 0));
}

static void report_room(struct master *master, const char *id, uint64_t available)
{
    struct master_beat beat = {.id = master_text_of(id), .incarnation = 1, .has_capacities = true};
    struct master_beat_answer answer;
    beat.capacities[MASTER_TIER_DRAM] = room(100 * GIB_, available);
    assert_ok(master_beat(master, &beat, &answer));
}

static struct master_route put_as(struct master *master, const struct master_caller *caller,
                                  uint64_t key, uint64_t bytes)
{
    struct fingerprint print = print_of(key);
    struct master_route route;
    assert_ok(master_route_put(master, caller, &print, NULL, bytes, 1, &route));
    return route;
}

static struct master_route put(struct master *master, uint64_t key, uint64_t bytes)
{
    const struct master_caller caller = {0};
    return put_as(master, &caller, key, bytes);
}

static void put_many(struct master *master, uint64_t first, uint64_t bytes,
                     struct master_route *routes)
{
    const struct master_caller caller = {0};
    struct fingerprint prints[BATCH];
    for (uint64_t i = 0; i < BATCH; i++) {
        prints[i] = print_of(first + i);
    }
    assert_ok(master_route_put(master, &caller, prints, NULL, bytes, BATCH, routes));
}

static void gets_go_to_the_fastest_tier_and_there_to_anyone(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event ssd = event(true, 1, MASTER_TIER_SSD);
    struct master_event dram = event(true, 1, MASTER_TIER_DRAM);
    struct master_event hbm = event(true, 1, MASTER_TIER_HBM);
    unsigned counts[3] = {0};
    uint32_t nodes[4];
    (void)state;
    nodes[3] = join(master, "ssd", 1);
    tell(master, "ssd", 1, 1, &ssd, 1);
    assert_int_equal(get(master, 1).node, nodes[3]);
    for (int i = 0; i < 3; i++) {
        char id[8];
        snprintf(id, sizeof(id), "d%d", i);
        nodes[i] = join(master, id, 1);
        tell(master, id, 1, 1, &dram, 1);
    }
    for (int i = 0; i < 3000; i++) {
        struct master_route route = get(master, 1);
        assert_int_equal(route.tier, MASTER_TIER_DRAM);
        for (int n = 0; n < 3; n++) {
            counts[n] += route.node == nodes[n];
        }
    }
    for (int n = 0; n < 3; n++) {
        assert_in_range(counts[n], 800, 1200);
    }
    tell(master, "ssd", 1, 2, &hbm, 1);
    assert_int_equal(get(master, 1).node, nodes[3]);
    assert_int_equal(get(master, 1).tier, MASTER_TIER_HBM);
    assert_int_equal(get(master, 2).outcome, MASTER_UNAVAILABLE);
    master_destroy(master);
}

static void excluded_nodes_are_named_for_nothing(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event dram = event(true, 1, MASTER_TIER_DRAM);
    struct master_event ssd = event(true, 1, MASTER_TIER_SSD);
    struct fingerprint print = print_of(1);
    struct master_route route;
    (void)state;
    uint32_t nodes[] = {join(master, "a", 1), join(master, "b", 1), 12345};
    tell(master, "a", 1, 1, &dram, 1);
    tell(master, "b", 1, 1, &ssd, 1);
    struct master_caller caller = {.excludes = nodes, .exclude_count = 1};
    assert_ok(master_route_get(master, &caller, &print, 1, &route));
    assert_int_equal(route.node, nodes[1]);
    assert_int_equal(route.tier, MASTER_TIER_SSD);
    caller.exclude_count = 3;
    assert_ok(master_route_get(master, &caller, &print, 1, &route));
    assert_int_equal(route.outcome, MASTER_UNAVAILABLE);
    assert_int_equal(put_as(master, &caller, 7, 1).outcome, MASTER_UNAVAILABLE);
    caller.exclude_count = 1;
    assert_int_equal(put_as(master, &caller, 7, 1).node, nodes[1]);
    caller.exclude_count = MASTER_EXCLUDES_MAX + 1;
    assert_status(master_route_get(master, &caller, &print, 1, &route), UMBP_LIMIT);
    caller.exclude_count = 0;
    assert_status(master_route_get(master, &caller, &print, MASTER_BATCH_MAX + 1, &route),
                  UMBP_LIMIT);
    master_destroy(master);
}

static void puts_go_to_hbm_before_dram_and_never_to_ssd(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    (void)state;
    assert_int_equal(put(master, 1, 10).outcome, MASTER_UNAVAILABLE); /* nobody is there */
    join_with(master, "s", room(0, 0), room(0, 0), room(9000, 9000));
    assert_int_equal(put(master, 1, 10).outcome, MASTER_UNAVAILABLE);
    uint32_t dram = join_with(master, "d", room(0, 0), room(9000, 9000), room(0, 0));
    uint32_t hbm = join_with(master, "h", room(1000, 1000), room(5000, 5000), room(0, 0));
    struct master_route route = put(master, 1, 900);
    assert_int_equal(route.outcome, MASTER_ROUTED);
    assert_int_equal(route.node, hbm);
    assert_int_equal(route.tier, MASTER_TIER_HBM);
    route = put(master, 2, 900); /* the HBM is spoken for */
    assert_int_equal(route.node, dram);
    assert_int_equal(route.tier, MASTER_TIER_DRAM);
    assert_int_equal(put(master, 3, 10000).outcome, MASTER_UNAVAILABLE);
    assert_int_equal((int)metric_value(master, "umbp_master_unrouted_puts_total", NULL), 3);
    assert_int_equal((int)metric_value(master, "mori_umbp_client_batch_route_put_total", "d"), 1);
    master_destroy(master);
}

static void a_key_that_is_held_already_exists(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event added = event(true, 1, MASTER_TIER_SSD);
    (void)state;
    join(master, "a", 1);
    tell(master, "a", 1, 1, &added, 1);
    struct master_route route = put(master, 1, 10);
    assert_int_equal(route.outcome, MASTER_ALREADY_EXISTS);
    assert_int_equal(route.node, master_node_find(master, master_text_of("a"))); /* who has it */
    assert_int_equal(put(master, 2, 10).outcome, MASTER_ROUTED);
    master_destroy(master);
}

static void a_batch_is_spread_by_what_would_be_left(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_route routes[BATCH];
    uint64_t taken[2] = {0};
    (void)state;
    uint32_t a = join_dram(master, "a", 40 * MIB_);
    uint32_t b = join_dram(master, "b", 20 * MIB_);
    put_many(master, 0, MIB_, routes); /* 60 of 128 fit */
    for (int i = 0; i < BATCH; i++) {
        taken[0] += routes[i].outcome == MASTER_ROUTED && routes[i].node == a;
        taken[1] += routes[i].outcome == MASTER_ROUTED && routes[i].node == b;
        assert_int_equal(routes[i].outcome, i < 60 ? MASTER_ROUTED : MASTER_UNAVAILABLE);
        if (i < 20) {
            assert_int_equal(routes[i].node, a); /* until they are level */
        }
    }
    assert_int_equal(taken[0], 40);
    assert_int_equal(taken[1], 20);
    master_destroy(master);
}

/* Fault 32, first half: many writers between two beats. */
static void writers_between_two_beats_do_not_herd(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    unsigned counts[4] = {0};
    uint32_t nodes[4];
    (void)state;
    for (int i = 0; i < 4; i++) {
        char id[8];
        snprintf(id, sizeof(id), "n%d", i);
        nodes[i] = join_dram(master, id, 10 * GIB_ + (uint64_t)i * MIB_);
    }
    for (uint64_t key = 0; key < 4000; key++) {
        struct master_route route = put(master, key, MIB_);
        for (int n = 0; n < 4; n++) {
            counts[n] += route.node == nodes[n];
        }
        if (key % 100 == 0) {
            clock_move_ms(&clock, 50);
        }
    }
    for (int n = 0; n < 4; n++) {
        assert_in_range(counts[n], 950, 1050);
    }
    /* What was routed long ago and reported since is not counted twice. */
    clock_move_ms(&clock, 5000);
    for (int n = 0; n < 4; n++) {
        char id[8];
        snprintf(id, sizeof(id), "n%d", n);
        report_room(master, id, MIB_);
    }
    assert_int_equal(put(master, 9999, MIB_).outcome, MASTER_ROUTED);
    master_destroy(master);
}

static void what_was_routed_counts_until_the_owner_reports(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event added = event(true, 1, MASTER_TIER_DRAM);
    (void)state;
    join_dram(master, "a", 40 * MIB_);
    assert_int_equal(put(master, 10, 30 * MIB_).outcome, MASTER_ROUTED);
    clock_move_ms(&clock, 4000);
    tell(master, "a", 1, 1, &added, 1); /* a beat with events, and no word of capacities */
    assert_int_equal(put(master, 11, 20 * MIB_).outcome, MASTER_UNAVAILABLE);
    report_room(master, "a", 40 * MIB_); /* the writer never came */
    assert_int_equal(put(master, 11, 20 * MIB_).outcome, MASTER_ROUTED);
    /* A report within the window may be of before the write: it still counts. */
    report_room(master, "a", 40 * MIB_);
    assert_int_equal(put(master, 12, 30 * MIB_).outcome, MASTER_UNAVAILABLE);
    clock_move_ms(&clock, 1001);
    report_room(master, "a", 40 * MIB_);
    assert_int_equal(put(master, 12, 30 * MIB_).outcome, MASTER_ROUTED);
    master_destroy(master);
}

/* Fault 32, second half. */
static void an_empty_joiner_does_not_absorb_every_put(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    (void)state;
    for (uint64_t algorithm = 0; algorithm < 2; algorithm++) {
        options = rig_options(&clock);
        options.put_algorithm = algorithm;
        struct master *master = rig_create(&options);
        unsigned joined = 0;
        for (int i = 0; i < 7; i++) {
            char id[8];
            snprintf(id, sizeof(id), "n%d", i);
            join_dram(master, id, 20 * GIB_);
        }
        uint32_t joiner = join_dram(master, "joiner", 100 * GIB_);
        for (uint64_t key = 0; key < 8000; key++) {
            joined += put(master, key, MIB_).node == joiner;
        }
        assert_in_range(joined, 1000, 1700); /* fair is 1000, the cap 1500 and a start */
        master_destroy(master);
    }
}

static void a_large_cluster_is_used_evenly_and_to_the_last_byte(void **state)
{
    (void)state;
    for (uint64_t algorithm = 0; algorithm < 2; algorithm++) {
        struct test_clock clock;
        struct master_options options = rig_options(&clock);
        options.put_algorithm = algorithm;
        struct master *master = rig_create(&options);
        static struct master_route routes[BATCH];
        static unsigned counts[MASTER_NODES_MAX];
        const unsigned nodes = 300;
        unsigned least = 1000000;
        unsigned most = 0;
        uint64_t routed = 0;
        memset(counts, 0, sizeof(counts));
        for (unsigned i = 0; i < nodes; i++) {
            char id[8];
            snprintf(id, sizeof(id), "n%u", i);
            join_dram(master, id, 200 * MIB_);
        }
        for (unsigned batch = 0; batch < 500; batch++) {
            put_many(master, batch * 1000, MIB_, routes);
            for (int i = 0; i < BATCH; i++) {
                routed += routes[i].outcome == MASTER_ROUTED;
                counts[routes[i].node % MASTER_NODES_MAX] += routes[i].outcome == MASTER_ROUTED;
            }
            if (batch == 233) { /* half full */
                for (unsigned i = 0; i < nodes; i++) {
                    least = counts[i] < least ? counts[i] : least;
                    most = counts[i] > most ? counts[i] : most;
                }
                assert_in_range(least, 40, 100);
                assert_in_range(most, 100, 200);
            }
        }
        assert_int_equal(routed, nodes * 200); /* 64,000 were asked for */
        master_destroy(master);
    }
}

static void random_placement_follows_what_is_available(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    options.put_algorithm = MASTER_PUT_RANDOM;
    struct master *master = rig_create(&options);
    unsigned small = 0;
    (void)state;
    uint32_t a = join_dram(master, "a", 10 * GIB_);
    join_dram(master, "b", 20 * GIB_);
    join_dram(master, "full", 100);
    for (uint64_t key = 0; key < 3000; key++) {
        struct master_route route = put(master, key, 4096);
        assert_int_equal(route.outcome, MASTER_ROUTED);
        small += route.node == a;
    }
    assert_in_range(small, 850, 1150);
    master_destroy(master);
}

static void affinity_same_keeps_a_batch_together_while_it_fits(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    options.put_affinity = MASTER_AFFINITY_SAME;
    struct master *master = rig_create(&options);
    struct master_route routes[BATCH];
    (void)state;
    uint32_t a = join_dram(master, "a", 150 * MIB_);
    uint32_t b = join_dram(master, "b", 140 * MIB_);
    put_many(master, 0, MIB_, routes);
    for (int i = 0; i < BATCH; i++) {
        assert_int_equal(routes[i].node, a);
    }
    put_many(master, 1000, MIB_, routes);
    for (int i = 0; i < BATCH; i++) {
        assert_int_equal(routes[i].node, b);
    }
    /* 22 and 12 MiB are left: no node fits the whole; each key that fits still goes somewhere. */
    put_many(master, 2000, MIB_, routes);
    unsigned routed = 0;
    unsigned changes = 0;
    for (int i = 0; i < BATCH; i++) {
        routed += routes[i].outcome == MASTER_ROUTED;
        changes +=
            i > 0 && routes[i].outcome == MASTER_ROUTED && routes[i].node != routes[i - 1].node;
    }
    assert_int_equal(routed, 34);
    assert_int_equal(changes, 1); /* sticky */
    master_destroy(master);
}

static void affinity_local_prefers_the_asking_node(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    options.put_affinity = MASTER_AFFINITY_LOCAL;
    struct master *master = rig_create(&options);
    struct master_caller caller = {0};
    (void)state;
    uint32_t big =
        join_with(master, "big", room(GIB_, GIB_), room(100 * GIB_, 100 * GIB_), room(0, 0));
    caller.node = join_dram(master, "small", 3 * MIB_);
    for (uint64_t key = 0; key < 3; key++) { /* its own DRAM before another's HBM */
        assert_int_equal(put_as(master, &caller, key, MIB_).node, caller.node);
    }
    assert_int_equal(put_as(master, &caller, 4, MIB_).node, big);
    caller.node = MASTER_NODE_NONE;
    assert_int_equal(put_as(master, &caller, 5, 1).node, big);
    caller.node = 4242424; /* a stale handle is nobody */
    assert_int_equal(put_as(master, &caller, 6, 1).node, big);
    master_destroy(master);
}

static void full_nodes_with_an_evictor_are_used_when_nothing_is_free(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_capacity evicting = {.total_bytes = 10 * MIB_, .evictable_bytes = 8 * MIB_};
    (void)state;
    uint32_t full = join_with(master, "full", room(0, 0), evicting, room(0, 0));
    assert_int_equal(put(master, 1, MIB_).node, full);
    uint32_t free = join_dram(master, "free", 2 * MIB_);
    assert_int_equal(put(master, 2, MIB_).node, free);
    assert_int_equal(put(master, 3, MIB_).node, free);
    assert_int_equal(put(master, 4, MIB_).node, full);
    assert_int_equal(put(master, 5, 9 * MIB_).outcome, MASTER_UNAVAILABLE);
    master_destroy(master);
}

static void a_node_that_evicts_for_a_put_gets_more_than_it_holds_before_nobody_does(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_capacity ours = room(4 * MIB_, 4 * MIB_);
    (void)state;
    ours.largest_bytes = 4 * MIB_;
    uint32_t a = join_with(master, "a", room(0, 0), ours, room(0, 0));
    uint32_t b = join_with(master, "b", room(0, 0), ours, room(0, 0));
    unsigned times[2] = {0};
    for (uint64_t key = 0; key < 10; key++) {
        struct master_route route = put(master, key, 3 * MIB_);
        assert_int_equal(route.outcome, MASTER_ROUTED);
        times[route.node == a]++;
        assert_true(route.node == a || route.node == b);
    }
    assert_int_equal(times[0], 5); /* in turn */
    assert_int_equal(times[1], 5);
    assert_int_equal(put(master, 100, 4 * MIB_ + 1).outcome, MASTER_UNAVAILABLE);
    master_destroy(master);
}

static void a_value_larger_than_a_node_takes_goes_elsewhere(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_capacity narrow = room(100 * GIB_, 90 * GIB_);
    (void)state;
    narrow.largest_bytes = MIB_;
    uint32_t a = join_with(master, "a", room(0, 0), narrow, room(0, 0));
    uint32_t b = join_dram(master, "b", GIB_);
    assert_int_equal(put(master, 1, MIB_).node, a);
    assert_int_equal(put(master, 2, MIB_ + 1).node, b);
    assert_int_equal(put(master, 3, MASTER_VALUE_BYTES_MAX + 1).outcome, MASTER_UNAVAILABLE);
    master_destroy(master);
}

static void a_lost_node_is_read_from_only_when_no_other_has_the_key(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event dram[] = {event(true, 1, MASTER_TIER_DRAM),
                                  event(true, 2, MASTER_TIER_DRAM)};
    struct master_event ssd = event(true, 1, MASTER_TIER_SSD);
    struct master_beat_answer answer;
    (void)state;
    uint32_t a = join(master, "a", 1);
    uint32_t b = join(master, "b", 1);
    tell(master, "a", 1, 1, dram, 2);
    tell(master, "b", 1, 1, &ssd, 1);
    assert_int_equal(get(master, 1).node, a);
    master_node_lost(master, master_text_of("a"), 1);
    assert_int_equal(get(master, 1).node, b);
    assert_int_equal(get(master, 1).tier, MASTER_TIER_SSD);
    assert_int_equal(get(master, 2).node, a);
    /* Who wants to store it again may, elsewhere. */
    assert_int_equal(put(master, 2, 1).outcome, MASTER_ROUTED);
    assert_int_equal(put(master, 2, 1).node, b);
    assert_int_equal(put(master, 1, 1).outcome, MASTER_ALREADY_EXISTS);
    assert_ok(beat_only(master, "a", 1, &answer));
    assert_int_equal(get(master, 1).node, a);
    assert_int_equal(put(master, 2, 1).outcome, MASTER_ALREADY_EXISTS);
    master_destroy(master);
}

static void lost_and_dead_nodes_get_no_puts(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_beat_answer answer;
    (void)state;
    uint32_t a = join_dram(master, "a", GIB_);
    master_node_lost(master, master_text_of("a"), 1);
    assert_int_equal(put(master, 1, 1).outcome, MASTER_UNAVAILABLE);
    assert_ok(beat_only(master, "a", 1, &answer));
    assert_int_equal(put(master, 1, 1).node, a);
    clock_move_ms(&clock, 31000);
    settle(master);
    assert_int_equal(put(master, 1, 1).outcome, MASTER_UNAVAILABLE);
    assert_ok(beat_only(master, "a", 1, &answer));
    assert_int_equal(put(master, 1, 1).outcome, MASTER_ROUTED);
    master_destroy(master);
}

static void the_same_seed_and_clock_give_the_same_answers(void **state)
{
    struct master_route routes[2][2000];
    (void)state;
    for (int run = 0; run < 2; run++) {
        struct test_clock clock;
        struct master_options options = rig_options(&clock);
        options.put_algorithm = MASTER_PUT_RANDOM;
        struct master *master = rig_create(&options);
        struct master_event added[100];
        for (uint64_t key = 0; key < 100; key++) {
            added[key] = event(true, key, MASTER_TIER_DRAM);
        }
        for (int n = 0; n < 5; n++) {
            char id[8];
            snprintf(id, sizeof(id), "n%d", n);
            join(master, id, 1);
            tell(master, id, 1, 1, added, 100);
        }
        for (uint64_t i = 0; i < 1000; i++) {
            routes[run][2 * i] = get(master, i % 100);
            routes[run][2 * i + 1] = put(master, 1000 + i, MIB_);
            clock_move_ms(&clock, 7);
            master_tick(master);
        }
        master_destroy(master);
    }
    for (size_t i = 0; i < 2000; i++) {
        assert_int_equal(routes[0][i].node, routes[1][i].node);
        assert_int_equal(routes[0][i].outcome, MASTER_ROUTED);
    }
}

/* Fault 33; and single and batch calls are counted apart. */
static void lookups_leave_no_trace_and_routes_are_counted(void **state)
{
    struct test_clock clock;
    struct master_options options = rig_options(&clock);
    struct master *master = rig_create(&options);
    struct master_event added = event(true, 1, MASTER_TIER_DRAM);
    struct master_caller single = {.is_single = true};
    struct fingerprint print = print_of(1);
    struct master_route route;
    uint8_t found[2];
    struct fingerprint both[] = {print_of(1), print_of(2)};
    (void)state;
    join(master, "a", 1);
    tell(master, "a", 1, 1, &added, 1);
    for (int i = 0; i < 10; i++) {
        assert_ok(master_lookup(master, both, 2, found));
        assert_true(found[0] == 1 && found[1] == 0);
    }
    assert_int_equal((int)metric_value(master, "mori_umbp_client_batch_route_get_total", "a"), 0);
    assert_int_equal((int)metric_value(master, "mori_umbp_client_route_get_total", "a"), 0);
    get(master, 1);
    assert_ok(master_route_get(master, &single, &print, 1, &route));
    assert_ok(master_route_get(master, &single, &print, 1, &route));
    assert_int_equal((int)metric_value(master, "mori_umbp_client_batch_route_get_total", "a"), 1);
    assert_int_equal((int)metric_value(master, "mori_umbp_client_route_get_total", "a"), 2);
    master_destroy(master);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gets_go_to_the_fastest_tier_and_there_to_anyone),
        cmocka_unit_test(excluded_nodes_are_named_for_nothing),
        cmocka_unit_test(puts_go_to_hbm_before_dram_and_never_to_ssd),
        cmocka_unit_test(a_key_that_is_held_already_exists),
        cmocka_unit_test(a_batch_is_spread_by_what_would_be_left),
        cmocka_unit_test(writers_between_two_beats_do_not_herd),
        cmocka_unit_test(what_was_routed_counts_until_the_owner_reports),
        cmocka_unit_test(an_empty_joiner_does_not_absorb_every_put),
        cmocka_unit_test(a_large_cluster_is_used_evenly_and_to_the_last_byte),
        cmocka_unit_test(random_placement_follows_what_is_available),
        cmocka_unit_test(affinity_same_keeps_a_batch_together_while_it_fits),
        cmocka_unit_test(affinity_local_prefers_the_asking_node),
        cmocka_unit_test(full_nodes_with_an_evictor_are_used_when_nothing_is_free),
        cmocka_unit_test(a_node_that_evicts_for_a_put_gets_more_than_it_holds_before_nobody_does),
        cmocka_unit_test(a_value_larger_than_a_node_takes_goes_elsewhere),
        cmocka_unit_test(a_lost_node_is_read_from_only_when_no_other_has_the_key),
        cmocka_unit_test(lost_and_dead_nodes_get_no_puts),
        cmocka_unit_test(the_same_seed_and_clock_give_the_same_answers),
        cmocka_unit_test(lookups_leave_no_trace_and_routes_are_counted),
    };
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
