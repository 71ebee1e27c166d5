/* SPDX-License-Identifier: Apache-2.0 */
/* Many threads at once: nodes beating, listing, dying and coming back, readers, writers, ticks. */
#include "master_rig.h"

#include <pthread.h>

#define NODES 4
#define KEYS 4000
#define ROUNDS 300

struct shared {
    struct test_clock clock;
    struct master *master;
    _Atomic bool is_over;
    _Atomic unsigned ready;
    _Atomic unsigned wrong;
};

struct thread_context {
    struct shared *shared;
    unsigned number;
};

static unsigned rounds(void) { return test_is_slow() ? ROUNDS / 3 : ROUNDS; }

/* A node's keys are those that are its number modulo NODES, and all of size 1000 + key. */
static void *node_thread(void *context)
{
    const struct thread_context *thread = context;
    struct master *master = thread->shared->master;
    struct test_rng rng;
    char id[8];
    uint64_t incarnation = 0;
    uint64_t sequence = 0;
    struct master_event *events = calloc(KEYS / NODES, sizeof(*events));
    test_rng_init(&rng, 10 + thread->number);
    snprintf(id, sizeof(id), "n%u", thread->number);
    for (unsigned round = 0; round < rounds(); round++) {
        if (round % 50 == 0) { /* die and come back */
            struct master_registration registration = dram_node(id, ++incarnation, GIB_);
            struct master_registered registered;
            assert_ok(master_unregister(master, master_text_of(id), 0));
            assert_ok(master_register(master, &registration, &registered));
            sequence = 0;
        }
        size_t count = 0;
        for (uint64_t key = thread->number; key < KEYS; key += NODES) {
            if (test_rng_below(&rng, 4) == 0) {
                events[count++] = event(round % 20 == 7 || test_rng_below(&rng, 2), key,
                                        (enum master_tier)(2 + test_rng_below(&rng, 2)));
            }
        }
        if (round % 20 == 7) {
            sequence += 2;
            chunk(master, id, incarnation, round + 1, 0, true, sequence, events, count);
        } else {
            tell(master, id, incarnation, ++sequence, events, count);
        }
    }
    free(events);
    return NULL;
}

static void *reader_thread(void *context)
{
    const struct thread_context *thread = context;
    struct shared *shared = thread->shared;
    struct test_rng rng;
    struct fingerprint prints[64];
    uint64_t keys[64];
    struct master_route routes[64];
    uint8_t found[64];
    const struct master_caller caller = {0};
    test_rng_init(&rng, 50 + thread->number);
    while (!atomic_load(&shared->is_over)) {
        for (size_t i = 0; i < 64; i++) {
            keys[i] = test_rng_below(&rng, KEYS);
            prints[i] = print_of(keys[i]);
        }
        assert_ok(master_route_get(shared->master, &caller, prints, 64, routes));
        for (size_t i = 0; i < 64; i++) {
            struct master_addresses addresses;
            if (routes[i].outcome != MASTER_ROUTED) {
                continue;
            }
            bool is_right = routes[i].bytes == 1000 + keys[i];
            if (master_node_addresses(shared->master, routes[i].node, &addresses) == UMBP_OK) {
                is_right &= (uint64_t)(addresses.id[1] - '0') == keys[i] % NODES;
            }
            atomic_fetch_add(&shared->wrong, !is_right);
        }
        assert_ok(master_route_put(shared->master, &caller, prints, NULL, 100, 64, routes));
        assert_ok(master_lookup(shared->master, prints, 64, found));
    }
    return NULL;
}

static void *scheduler_thread(void *context)
{
    const struct thread_context *thread = context;
    struct shared *shared = thread->shared;
    struct test_rng rng;
    struct fingerprint prints[64];
    struct master_node_info *info = malloc(sizeof(*info));
    test_rng_init(&rng, 70 + thread->number);
    while (!atomic_load(&shared->is_over)) {
        struct master_matches matches;
        uint64_t hits[64];
        char id[8];
        snprintf(id, sizeof(id), "n%u", (unsigned)test_rng_below(&rng, NODES));
        struct master_text text = master_text_of(id);
        for (size_t i = 0; i < 64; i++) {
            prints[i] = print_of(test_rng_below(&rng, KEYS));
        }
        (void)!master_external_report(shared->master, text, prints, 64, MASTER_TIER_HBM);
        (void)!master_external_revoke(shared->master, text, prints, 8, MASTER_TIER_HBM);
        assert_ok(master_external_match(shared->master, prints, 64, true, &matches));
        master_matches_free(&matches);
        assert_ok(master_external_hits(shared->master, prints, 64, hits));
        if (test_rng_below(&rng, 20) == 0) {
            (void)!master_external_revoke_all(shared->master, text, MASTER_TIER_NONE);
        }
        (void)!master_node_info(shared->master, text, info);
        metric_value(shared->master, "mori_umbp_client_count", NULL);
        master_node_lost(shared->master, text, 99);
    }
    free(info);
    return NULL;
}

static void *tick_thread(void *context)
{
    const struct thread_context *thread = context;
    struct shared *shared = thread->shared;
    while (!atomic_load(&shared->is_over)) {
        struct master_advice advice;
        master_tick(shared->master);
        clock_move_ms(&shared->clock, 3);
        if (master_advice_take(shared->master, &advice) == UMBP_OK) {
            master_advice_free(&advice);
        }
    }
    return NULL;
}

static void everything_at_once_gives_no_wrong_answer(void **state)
{
    static void *(*const others[])(void *) = {reader_thread, reader_thread, scheduler_thread,
                                              tick_thread, tick_thread};
    struct shared *shared = calloc(1, sizeof(*shared));
    struct master_options options = rig_options(&shared->clock);
    pthread_t nodes[NODES];
    pthread_t threads[ARRAY_COUNT(others)];
    struct thread_context contexts[NODES + ARRAY_COUNT(others)];
    (void)state;
    options.advise_all = true;
    options.evict_high_watermark = 0.5;
    options.evict_low_watermark = 0.4;
    options.eviction_check_interval_sec = 1;
    options.max_missed_heartbeats = 1000; /* the clock runs wild */
    shared->master = rig_create(&options);
    for (unsigned i = 0; i < ARRAY_COUNT(others); i++) {
        contexts[NODES + i] = (struct thread_context){shared, i};
        assert_int_equal(pthread_create(&threads[i], NULL, others[i], &contexts[NODES + i]), 0);
    }
    for (unsigned i = 0; i < NODES; i++) {
        contexts[i] = (struct thread_context){shared, i};
        assert_int_equal(pthread_create(&nodes[i], NULL, node_thread, &contexts[i]), 0);
    }
    for (unsigned i = 0; i < NODES; i++) {
        pthread_join(nodes[i], NULL);
    }
    atomic_store(&shared->is_over, true);
    for (unsigned i = 0; i < ARRAY_COUNT(others); i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(atomic_load(&shared->wrong), 0);
    for (unsigned i = 0; i < NODES; i++) {
        char id[8];
        snprintf(id, sizeof(id), "n%u", i);
        assert_ok(master_unregister(shared->master, master_text_of(id), 0));
    }
    settle(shared->master);
    settle(shared->master);
    assert_int_equal((int)metric_value(shared->master, "umbp_master_index_keys", NULL), 0);
    assert_int_equal((int)metric_value(shared->master, "umbp_master_external_keys", NULL), 0);
    master_destroy(shared->master);
    free(shared);
}

/* ---- everybody at once ---- */

static void *crowd_thread(void *context)
{
    const struct thread_context *thread = context;
    struct shared *shared = thread->shared;
    struct test_rng rng;
    test_rng_init(&rng, 90 + thread->number);
    for (unsigned i = 0; i < (test_is_slow() ? 300u : 2000u); i++) {
        char id[16];
        struct master_registered registered;
        /* Some ids of all threads, some of this one only. */
        bool is_shared = test_rng_below(&rng, 2) == 0;
        snprintf(id, sizeof(id), "%s-%u-%u", is_shared ? "all" : "own",
                 is_shared ? 0 : thread->number, (unsigned)test_rng_below(&rng, 40));
        struct master_registration registration = dram_node(id, test_rng_next(&rng) | 1, GIB_);
        enum umbp_status status = master_register(shared->master, &registration, &registered);
        assert_true(status == UMBP_OK || status == UMBP_BUSY || status == UMBP_LIMIT);
        if (status == UMBP_OK) {
            struct master_addresses addresses;
            if (master_node_addresses(shared->master, registered.node, &addresses) == UMBP_OK) {
                assert_string_equal(addresses.id, id);
            } else {
                assert_true(is_shared); /* another thread took it out meanwhile */
            }
            if (test_rng_below(&rng, 2) == 0) {
                assert_ok(master_unregister(shared->master, master_text_of(id), 0));
            }
        } else if (status == UMBP_BUSY) {
            assert_ok(master_unregister(shared->master, master_text_of(id), 0));
        }
    }
    return NULL;
}

static void crowds_that_join_and_leave_at_once_never_share_a_record(void **state)
{
    struct shared *shared = calloc(1, sizeof(*shared));
    struct master_options options = rig_options(&shared->clock);
    struct thread_context contexts[6];
    pthread_t threads[6];
    pthread_t ticker;
    struct thread_context ticks = {shared, 0};
    (void)state;
    options.nodes_max = 200;
    options.max_missed_heartbeats = 1000;
    shared->master = rig_create(&options);
    assert_int_equal(pthread_create(&ticker, NULL, tick_thread, &ticks), 0);
    for (unsigned i = 0; i < 6; i++) {
        contexts[i] = (struct thread_context){shared, i};
        assert_int_equal(pthread_create(&threads[i], NULL, crowd_thread, &contexts[i]), 0);
    }
    for (unsigned i = 0; i < 6; i++) {
        pthread_join(threads[i], NULL);
    }
    atomic_store(&shared->is_over, true);
    pthread_join(ticker, NULL);
    /* Every living node is found by its id, and is that one. */
    uint32_t nodes[200];
    size_t alive = master_nodes(shared->master, nodes, 200);
    assert_in_range(alive, 1, 200);
    for (size_t i = 0; i < alive; i++) {
        struct master_addresses addresses;
        assert_ok(master_node_addresses(shared->master, nodes[i], &addresses));
        assert_int_equal(master_node_find(shared->master, master_text_of(addresses.id)), nodes[i]);
    }
    master_destroy(shared->master);
    free(shared);
}

/* ---- one node, over several connections ---- */

#define BUNDLE_KEYS 100u
#define BUNDLES (test_is_slow() ? 100u : 3000u)

/* Bundle n takes away what the one before brought, and brings keys of its own. */
static bool send_bundle(struct master *master, uint64_t number, uint64_t *acked_out)
{
    struct master_event events[2 * BUNDLE_KEYS];
    const struct master_bundle bundle = {number, events, 2 * BUNDLE_KEYS};
    const struct master_beat beat = {
        .id = master_text_of("a"), .incarnation = 1, .bundles = &bundle, .bundle_count = 1};
    struct master_beat_answer answer;
    for (uint64_t i = 0; i < BUNDLE_KEYS; i++) {
        events[i] = event(false, (number - 1) * BUNDLE_KEYS + i, MASTER_TIER_DRAM);
        events[BUNDLE_KEYS + i] = event(true, number * BUNDLE_KEYS + i, MASTER_TIER_DRAM);
    }
    if (master_beat(master, &beat, &answer) != UMBP_OK || answer.acked_sequence < number) {
        return false;
    }
    *acked_out = answer.acked_sequence;
    return true;
}

static void *repeat_thread(void *context)
{
    const struct thread_context *thread = context;
    struct shared *shared = thread->shared;
    uint64_t acked = 0;
    atomic_fetch_add(&shared->ready, 1);
    while (atomic_load(&shared->ready) < 3) { /* all at once, or it shows nothing */
    }
    while (acked < BUNDLES) {
        if (!send_bundle(shared->master, acked + 1, &acked)) {
            return NULL;
        }
    }
    return context;
}

static void beats_of_one_node_that_come_at_once_leave_no_ghost(void **state)
{
    struct shared *shared = calloc(1, sizeof(*shared));
    struct master_options options = rig_options(&shared->clock);
    struct thread_context contexts[3];
    pthread_t threads[3];
    (void)state;
    shared->master = rig_create(&options);
    join(shared->master, "a", 1);
    for (unsigned i = 0; i < 3; i++) {
        contexts[i] = (struct thread_context){shared, i};
        assert_int_equal(pthread_create(&threads[i], NULL, repeat_thread, &contexts[i]), 0);
    }
    for (unsigned i = 0; i < 3; i++) {
        void *is_good;
        pthread_join(threads[i], &is_good);
        assert_non_null(is_good);
    }
    for (uint64_t key = 0; key < (BUNDLES + 1) * BUNDLE_KEYS; key++) {
        if (holds(shared->master, key) != (key >= BUNDLES * BUNDLE_KEYS)) {
            fail_msg("key %llu", (unsigned long long)key);
        }
    }
    master_destroy(shared->master);
    free(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_at_once_gives_no_wrong_answer),
        cmocka_unit_test(crowds_that_join_and_leave_at_once_never_share_a_record),
        cmocka_unit_test(beats_of_one_node_that_come_at_once_leave_no_ghost),
    };
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
