/* SPDX-License-Identifier: Apache-2.0 */
/* The evictor between a core and public nodes, which are servers of the test's own: who is asked
 * for what, and that nobody holds it up. */
#include <pthread.h>

#include <umbp_peer_wire.pb-c.h>

#include "master_rig.h"
#include "rpc/rpc.h"

#define KEYS_MAX 4096u

/* A public node's end. */
struct peer {
    struct rpc_server *server;
    const char *address;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct heard {
        unsigned calls;
        size_t keys;
        size_t most; /* of one call */
    } heard;
    bool hangs;
    bool fails;
};

static enum rpc_code evict_key(void *context, struct rpc_call *call)
{
    struct peer *peer = context;
    const Umbp__EvictKeyRequest *request = (const Umbp__EvictKeyRequest *)call->request;
    Umbp__EvictKeyResponse *reply = (Umbp__EvictKeyResponse *)call->reply;
    reply->n_evicted = request->n_keys;
    reply->evicted = rpc_arena_calloc(call->arena, request->n_keys, sizeof reply->evicted[0]);
    Umbp__EvictKeyEntry *entries =
        rpc_arena_calloc(call->arena, request->n_keys, sizeof entries[0]);
    if (reply->evicted == NULL || entries == NULL) {
        return RPC_RESOURCE_EXHAUSTED;
    }
    for (size_t i = 0; i < request->n_keys; i++) {
        umbp__evict_key_entry__init(&entries[i]);
        entries[i].key = request->keys[i];
        entries[i].bytes_freed = i % 2 ? UINT64_MAX : 0;
        reply->evicted[i] = &entries[i];
    }
    pthread_mutex_lock(&peer->mutex);
    peer->heard.calls++;
    peer->heard.keys += request->n_keys;
    peer->heard.most = request->n_keys > peer->heard.most ? request->n_keys : peer->heard.most;
    while (peer->hangs) {
        pthread_cond_wait(&peer->changed, &peer->mutex);
    }
    bool fails = peer->fails;
    pthread_mutex_unlock(&peer->mutex);
    return fails ? RPC_UNAVAILABLE : RPC_OK;
}

static const struct rpc_method methods[] = {
    {"/umbp.UMBPPeer/EvictKey", &umbp__evict_key_request__descriptor,
     &umbp__evict_key_response__descriptor, evict_key},
};

static void peer_start(struct peer *peer)
{
    static const char *const any_port[] = {"127.0.0.1:0"};
    char error[256] = "";
    pthread_mutex_init(&peer->mutex, NULL);
    pthread_cond_init(&peer->changed, NULL);
    const struct rpc_options options = {
        .methods = methods,
        .method_count = ARRAY_COUNT(methods),
        .context = peer,
        .addresses = any_port,
        .address_count = 1,
    };
    if (rpc_server_create(&options, &peer->server, error, sizeof error) != UMBP_OK) {
        fail_msg("%s", error);
    }
    assert_ok(rpc_server_start(peer->server));
    peer->address = rpc_server_address(peer->server, 0);
}

static void peer_set(struct peer *peer, bool hangs, bool fails)
{
    pthread_mutex_lock(&peer->mutex);
    peer->hangs = hangs;
    peer->fails = fails;
    pthread_cond_broadcast(&peer->changed);
    pthread_mutex_unlock(&peer->mutex);
}

static struct heard heard_by(struct peer *peer)
{
    pthread_mutex_lock(&peer->mutex);
    struct heard heard = peer->heard;
    pthread_mutex_unlock(&peer->mutex);
    return heard;
}

static void peer_stop(struct peer *peer)
{
    peer_set(peer, false, false);
    (void)rpc_server_stop(peer->server, 5000);
    rpc_server_destroy(peer->server);
    pthread_cond_destroy(&peer->changed);
    pthread_mutex_destroy(&peer->mutex);
}

struct fixture {
    struct test_clock clock;
    struct master *master;
    struct rpc_evictor *evictor;
    struct peer peers[2];
    uint64_t next_key;
};

/* A member whose tier is full of `count` keys of a GiB each, known by name or not. */
static void add_node(struct fixture *fixture, const char *id, const char *address, size_t count,
                     bool with_keys)
{
    struct master_registration registration = dram_node(id, 0, 0);
    struct master_registered registered;
    struct master_event *events = calloc(count, sizeof *events);
    char(*names)[32] = calloc(count, sizeof *names);
    registration.peer_address = master_text_of(address);
    registration.fabric_address = master_text_of("");
    registration.wants_keys = true;
    registration.capacities[MASTER_TIER_DRAM] = room(count * GIB_, 0);
    assert_ok(master_register(fixture->master, &registration, &registered));
    for (size_t i = 0; i < count; i++) {
        events[i] = event(true, fixture->next_key++, MASTER_TIER_DRAM);
        events[i].bytes = GIB_;
        events[i].key = with_keys ? names[i] : NULL;
        events[i].key_bytes =
            (uint16_t)(with_keys ? snprintf(names[i], sizeof names[i], "%s-%zu", id, i) : 0);
    }
    (void)tell(fixture->master, id, 0, 1, events, count);
    free(events);
    free(names);
}

static void offer_round(struct fixture *fixture)
{
    struct master_advice advice;
    clock_move_ms(&fixture->clock, 5001);
    settle(fixture->master);
    assert_ok(master_advice_take(fixture->master, &advice));
    rpc_evictor_offer(fixture->evictor, &advice);
    assert_int_equal(advice.count, 0);
}

static struct rpc_evict_stats stats_of(const struct fixture *fixture)
{
    struct rpc_evict_stats stats;
    rpc_evictor_stats(fixture->evictor, &stats);
    return stats;
}

#define WAIT_FOR(condition)                                                                        \
    do {                                                                                           \
        uint64_t end_ns_ = test_now_ns() + 30 * NS_PER_S;                                          \
        while (!(condition)) {                                                                     \
            if (test_now_ns() > end_ns_) {                                                         \
                fail_msg("waited in vain for " #condition);                                        \
            }                                                                                      \
            test_sleep_ms(1);                                                                      \
        }                                                                                          \
    } while (0)

static int make(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct master_options options = rig_options(&fixture->clock);
    fixture->master = rig_create(&options);
    const struct rpc_evictor_options evictor = {
        .master = fixture->master,
        .deadline_ms = 600000,
    };
    assert_ok(rpc_evictor_create(&evictor, &fixture->evictor));
    peer_start(&fixture->peers[0]);
    peer_start(&fixture->peers[1]);
    *state = fixture;
    return 0;
}

static int unmake(void **state)
{
    struct fixture *fixture = *state;
    rpc_evictor_destroy(fixture->evictor);
    peer_stop(&fixture->peers[0]);
    peer_stop(&fixture->peers[1]);
    master_destroy(fixture->master);
    free(fixture);
    return 0;
}

static void victims_reach_their_nodes_in_bounded_calls(void **state)
{
    struct fixture *fixture = *state;
    add_node(fixture, "a", fixture->peers[0].address, KEYS_MAX, true);
    add_node(fixture, "b", fixture->peers[1].address, 10, true);
    offer_round(fixture);
    size_t expected = KEYS_MAX - (size_t)(KEYS_MAX * 0.7);
    WAIT_FOR(stats_of(fixture).calls[RPC_OK] == 3);
    struct rpc_evict_stats stats = stats_of(fixture);
    assert_in_range(stats.keys_sent, expected + 2, expected + 4);
    struct heard first = heard_by(&fixture->peers[0]);
    struct heard second = heard_by(&fixture->peers[1]);
    assert_int_equal(first.calls, 2);
    assert_int_equal(first.most, RPC_EVICT_KEYS_MAX);
    assert_int_equal(second.calls, 1);
    assert_int_equal(first.keys + second.keys, stats.keys_sent);
    assert_in_range(stats.keys_freed, stats.keys_sent / 2 - 2, stats.keys_sent / 2);
    /* what nodes say is held to what can be */
    assert_int_equal(stats.bytes_freed, stats.keys_freed * MASTER_VALUE_BYTES_MAX);
}

static void a_node_that_hangs_holds_up_neither_the_others_nor_the_end(void **state)
{
    struct fixture *fixture = *state;
    peer_set(&fixture->peers[0], true, false);
    add_node(fixture, "a", fixture->peers[0].address, 10, true);
    add_node(fixture, "b", fixture->peers[1].address, 10, true);
    for (unsigned round = 1; round <= 3; round++) {
        offer_round(fixture);
        WAIT_FOR(stats_of(fixture).calls[RPC_OK] == round);
    }
    struct rpc_evict_stats stats = stats_of(fixture);
    assert_int_equal(stats.keys_skipped[RPC_EVICT_SKIP_BUSY], 2 * 3);
    assert_int_equal(stats.peers, 2);
    WAIT_FOR(stats_of(fixture).calls_running == 1);
    rpc_evictor_stop(fixture->evictor);
    assert_int_equal(stats_of(fixture).calls[RPC_CANCELLED], 1);
    struct master_advice advice;
    clock_move_ms(&fixture->clock, 5001);
    settle(fixture->master);
    assert_ok(master_advice_take(fixture->master, &advice));
    rpc_evictor_offer(fixture->evictor, &advice); /* freed */
}

static void a_node_that_leaves_loses_its_call_and_its_channel(void **state)
{
    struct fixture *fixture = *state;
    peer_set(&fixture->peers[0], true, false);
    add_node(fixture, "a", fixture->peers[0].address, 10, true);
    offer_round(fixture);
    WAIT_FOR(stats_of(fixture).calls_running == 1);
    assert_ok(master_unregister(fixture->master, master_text_of("a"), 0));
    WAIT_FOR(stats_of(fixture).peers == 0);
    assert_int_equal(stats_of(fixture).calls[RPC_CANCELLED], 1);
}

static void a_node_that_failed_is_left_alone_for_a_while(void **state)
{
    struct fixture *fixture = *state;
    peer_set(&fixture->peers[0], false, true);
    add_node(fixture, "a", fixture->peers[0].address, KEYS_MAX, true);
    uint64_t before_ns = test_now_ns();
    offer_round(fixture);
    WAIT_FOR(stats_of(fixture).calls[RPC_UNAVAILABLE] == 1);
    uint64_t left = stats_of(fixture).keys_skipped[RPC_EVICT_SKIP_RETRY];
    assert_true(left > 0); /* the rest of its victims */
    peer_set(&fixture->peers[0], false, false);
    do {
        const struct master_beat beat = {.id = master_text_of("a")};
        struct master_beat_answer answer;
        assert_ok(master_beat(fixture->master, &beat, &answer));
        offer_round(fixture);
        test_sleep_ms(20);
    } while (stats_of(fixture).calls[RPC_OK] == 0 && test_now_ns() < before_ns + 60 * NS_PER_S);
    WAIT_FOR(stats_of(fixture).calls[RPC_OK] >= 1);
    assert_true(test_now_ns() - before_ns >= RPC_EVICT_RETRY_MS * NS_PER_MS);
}

static void who_can_not_be_asked_is_counted(void **state)
{
    struct fixture *fixture = *state;
    add_node(fixture, "no-address", "", 10, true);
    add_node(fixture, "bad-address", "unix:/nowhere", 10, true);
    add_node(fixture, "no-keys", fixture->peers[0].address, 10, false);
    add_node(fixture, "good", fixture->peers[1].address, 10, true);
    offer_round(fixture);
    WAIT_FOR(stats_of(fixture).calls[RPC_OK] == 1);
    struct rpc_evict_stats stats = stats_of(fixture);
    assert_int_equal(stats.keys_skipped[RPC_EVICT_SKIP_ADDRESS], 6);
    assert_int_equal(stats.keys_skipped[RPC_EVICT_SKIP_KEY], 3);
    assert_int_equal(heard_by(&fixture->peers[0]).calls, 0);

    /* the advice is older than the node's going */
    struct master_advice advice;
    clock_move_ms(&fixture->clock, 5001);
    settle(fixture->master);
    assert_ok(master_advice_take(fixture->master, &advice));
    assert_ok(master_unregister(fixture->master, master_text_of("good"), 0));
    rpc_evictor_offer(fixture->evictor, &advice);
    WAIT_FOR(stats_of(fixture).keys_skipped[RPC_EVICT_SKIP_GONE] == 3);
}

static void all_that_was_taken_is_given_back(void **state)
{
    struct fixture *fixture = *state;
    unsigned threads = test_thread_count();
    const struct rpc_evictor_options options = {.master = fixture->master};
    struct rpc_evictor *evictor;
    assert_ok(rpc_evictor_create(&options, &evictor));
    rpc_evictor_stop(evictor);
    rpc_evictor_stop(evictor);
    rpc_evictor_destroy(evictor);
    rpc_evictor_destroy(NULL);
    assert_true(test_threads_settle(threads));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(victims_reach_their_nodes_in_bounded_calls, make, unmake),
        cmocka_unit_test_setup_teardown(a_node_that_hangs_holds_up_neither_the_others_nor_the_end,
                                        make, unmake),
        cmocka_unit_test_setup_teardown(a_node_that_leaves_loses_its_call_and_its_channel, make,
                                        unmake),
        cmocka_unit_test_setup_teardown(a_node_that_failed_is_left_alone_for_a_while, make, unmake),
        cmocka_unit_test_setup_teardown(who_can_not_be_asked_is_counted, make, unmake),
        cmocka_unit_test_setup_teardown(all_that_was_taken_is_given_back, make, unmake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
