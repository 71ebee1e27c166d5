/* SPDX-License-Identifier: Apache-2.0 */
/* What fabric.h promises, over every implementation: libfabric on tcp, and the simulation. */
#include "fabric_rig.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>

#include "fabric/fabric_sim.h"

enum kind {
    KIND_TCP,
    KIND_SIM
};
static enum kind kind;

struct pair {
    struct fabric_sim *sim;
    struct rig_end server;
    struct rig_end client;
    uint8_t *memory[2]; /* server's, client's */
    struct fabric_region *region[2];
};

#define MEMORY ((size_t)8 << 20)

static enum umbp_status open_end(struct pair *pair, struct rig_end *end, const char *listen,
                                 const struct fabric_options *base)
{
    struct fabric_options options = base ? *base : (struct fabric_options){0};
    struct fabric_handlers handlers = rig_handlers(end);
    char error[256] = "";
    options.struct_bytes = sizeof(options);
    options.provider = "tcp";
    options.identity = listen ? "server" : "client";
    options.identity_bytes = 6;
    options.listen = listen;
    enum umbp_status status =
        kind == KIND_SIM ? fabric_sim_open(pair->sim, 0, &options, &handlers, &end->fabric)
                         : fabric_open(&options, &handlers, error, sizeof(error), &end->fabric);
    if (status) {
        print_message("open: %s: %s\n", umbp_status_name(status), error);
    }
    return status;
}

static const char *listen_name(void) { return kind == KIND_SIM ? "server:1" : "127.0.0.1:0"; }

static void pair_open(struct pair *pair, const struct fabric_options *options)
{
    memset(pair, 0, sizeof(*pair));
    if (kind == KIND_SIM) {
        struct fabric_sim_options sim = {.seed = test_seed()};
        assert_ok(fabric_sim_create(&sim, &pair->sim));
    }
    assert_ok(open_end(pair, &pair->server, listen_name(), options));
    assert_ok(open_end(pair, &pair->client, NULL, options));
    struct rig_end *ends[2] = {&pair->server, &pair->client};
    for (unsigned i = 0; i < 2; i++) {
        pair->memory[i] =
            mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        test_fill(pair->memory[i], MEMORY, i + 1);
        assert_ok(fabric_region_create(ends[i]->fabric, pair->memory[i], MEMORY,
                                       FABRIC_REMOTE_READ | FABRIC_REMOTE_WRITE, -1, 0,
                                       &pair->region[i]));
    }
    fabric_peer peer;
    assert_ok(rig_connect(&pair->client, fabric_address(pair->server.fabric), &peer));
    assert_true(peer == pair->client.peer);
    assert_ok(
        fabric_wait(pair->server.fabric, &pair->server.up, RIG_MS(pair->server.fabric, 60000)));
}

static void pair_close(struct pair *pair)
{
    fabric_destroy(pair->client.fabric);
    fabric_destroy(pair->server.fabric);
    for (unsigned i = 0; i < 2; i++) {
        munmap(pair->memory[i], MEMORY);
    }
    fabric_sim_destroy(pair->sim);
}

/* ------------------------------------------------------------------------------------ tests --- */

static void both_sides_learn_who_the_other_is(void **state)
{
    struct pair pair;
    (void)state;
    pair_open(&pair, NULL);
    assert_string_equal(pair.server.identity, "client");
    assert_string_equal(pair.client.identity, "server");
    assert_true(pair.server.hello_ok && pair.client.hello_ok);
    unsigned flags = fabric_peer_flags(pair.client.fabric, pair.client.peer);
    assert_true(flags & FABRIC_PEER_UP);
    assert_false(flags & FABRIC_PEER_INCOMING);
    assert_true(fabric_peer_flags(pair.server.fabric, pair.server.peer) & FABRIC_PEER_INCOMING);
    assert_int_equal(fabric_peer_flags(pair.client.fabric, 0), 0);
    assert_int_equal(fabric_peer_flags(pair.client.fabric, pair.client.peer + 1), 0);
    pair_close(&pair);
}

static void a_call_of_any_size_is_answered(void **state)
{
    static const size_t sizes[] = {
        0, 1, 100, 65535, 65536, 65537, 70000, 1000003, FABRIC_MESSAGE_MAX};
    struct pair pair;
    (void)state;
    pair_open(&pair, NULL);
    uint8_t *data = malloc(FABRIC_MESSAGE_MAX + 1);
    test_fill(data, FABRIC_MESSAGE_MAX + 1, 7);
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        struct rig_wait wait;
        assert_ok(
            rig_call_start(&wait, &pair.client, pair.client.peer, data, sizes[i], 60000, false));
        rig_settle(&wait);
        assert_status(wait.status, UMBP_OK);
        assert_int_equal(wait.count, 1);
        assert_int_equal(wait.bytes, sizes[i]);
        for (size_t b = 0; b < sizes[i]; b++) {
            if (wait.data[b] != data[sizes[i] - 1 - b]) {
                fail_msg("size %zu, byte %zu", sizes[i], b);
            }
        }
        free(wait.data);
    }
    struct rig_wait wait;
    assert_status(rig_call_start(&wait, &pair.client, pair.client.peer, data,
                                 FABRIC_MESSAGE_MAX + 1, 60000, false),
                  UMBP_TOO_LARGE);
    free(data);
    pair_close(&pair);
}

static void one_way_messages_arrive_in_order(void **state)
{
    struct pair pair;
    (void)state;
    pair_open(&pair, NULL);
    uint8_t *data = calloc(1, FABRIC_EAGER_BYTES + 1);
    for (uint32_t i = 1; i <= 500; i++) {
        memcpy(data, &i, sizeof(i));
        struct iovec part = {data, i % 50 == 0 ? FABRIC_EAGER_BYTES : 4 + i % 100};
        enum umbp_status status;
        while ((status = fabric_send(pair.client.fabric, pair.client.peer, &part, 1)) ==
               UMBP_BUSY) {
            struct fabric_latch never;
            fabric_latch_init(&never, 1);
            assert_status(fabric_wait(pair.client.fabric, &never, RIG_MS(pair.client.fabric, 1)),
                          UMBP_TIMEOUT);
        }
        assert_ok(status);
    }
    /* An answered call behind them: they are there. */
    struct rig_wait wait;
    assert_ok(rig_call_start(&wait, &pair.client, pair.client.peer, "x", 1, 60000, false));
    rig_settle(&wait);
    free(wait.data);
    assert_int_equal(atomic_load(&pair.server.messages), 500);
    assert_true(pair.server.in_order);
    struct iovec part = {data, FABRIC_EAGER_BYTES + 1};
    assert_status(fabric_send(pair.client.fabric, pair.client.peer, &part, 1), UMBP_TOO_LARGE);
    assert_status(fabric_send(pair.client.fabric, pair.client.peer, &part, 5), UMBP_INVALID_VALUE);
    free(data);
    pair_close(&pair);
}

static void transfer(struct pair *pair, bool write, const struct fabric_piece *pieces, size_t count,
                     enum umbp_status expected)
{
    struct rig_wait wait;
    rig_wait_init(&wait, &pair->server);
    assert_ok((write ? fabric_write : fabric_read)(pair->server.fabric, pair->server.peer, pieces,
                                                   count, rig_on_done, &wait));
    rig_settle(&wait);
    assert_status(wait.status, expected);
    assert_int_equal(wait.count, 1);
}

/* Scattered, contiguous, tiny, huge, empty: every byte lands where it should, and no other. */
static void lists_move_every_byte_and_no_other(void **state)
{
    struct pair pair;
    struct test_rng rng;
    (void)state;
    pair_open(&pair, NULL);
    test_rng_init(&rng, 3);
    uint8_t *expected = malloc(MEMORY);
    struct fabric_piece pieces[300];
    for (unsigned round = 0; round < (test_is_slow() ? 4u : 12u); round++) {
        bool write = round % 2 == 0;
        uint8_t *near = pair.memory[0];
        uint8_t *far = pair.memory[1];
        uint8_t *target = write ? far : near;
        uint8_t *source = write ? near : far;
        test_fill(source, MEMORY, 100 + round);
        test_fill(target, MEMORY, 200 + round);
        memcpy(expected, target, MEMORY);
        size_t at = 0;
        size_t count = 0;
        while (count < 300 && at < MEMORY) {
            size_t bytes = round < 2    ? 4096
                           : round < 4  ? test_rng_below(&rng, 100)
                           : round == 4 ? MEMORY
                                        : 1 + test_rng_below(&rng, 60000);
            size_t gap = test_rng_below(&rng, 3) ? 0 : test_rng_below(&rng, 5000);
            bytes = bytes < MEMORY - at ? bytes : MEMORY - at;
            /* In the same order on both sides, or from the other end. */
            size_t far_at = round % 3 == 2 ? MEMORY - at - bytes : at;
            pieces[count++] = (struct fabric_piece){
                .local = near + at,
                .region = pair.region[0],
                .remote = (uint64_t)(uintptr_t)(far + far_at),
                .key = fabric_region_key(pair.client.fabric, pair.region[1]),
                .bytes = bytes,
            };
            memcpy(expected + (write ? far_at : at), source + (write ? at : far_at), bytes);
            at += bytes + gap;
        }
        transfer(&pair, write, pieces, count, UMBP_OK);
        if (write) { /* a message behind it is seen after the bytes */
            struct rig_wait wait;
            assert_ok(rig_call_start(&wait, &pair.server, pair.server.peer, "x", 1, 60000, false));
            rig_settle(&wait);
            free(wait.data);
        }
        if (memcmp(expected, target, MEMORY) != 0) {
            fail_msg("round %u", round);
        }
    }
    transfer(&pair, true, pieces, 0, UMBP_OK);
    transfer(&pair, false, pieces, 0, UMBP_OK);
    free(expected);
    pair_close(&pair);
}

static void a_piece_outside_its_region_is_refused(void **state)
{
    struct pair pair;
    struct rig_wait wait;
    (void)state;
    pair_open(&pair, NULL);
    rig_wait_init(&wait, &pair.server);
    struct fabric_piece piece = {
        .local = pair.memory[0] + MEMORY - 10,
        .region = pair.region[0],
        .remote = (uint64_t)(uintptr_t)pair.memory[1],
        .key = fabric_region_key(pair.client.fabric, pair.region[1]),
        .bytes = 11,
    };
    assert_status(fabric_read(pair.server.fabric, pair.server.peer, &piece, 1, rig_on_done, &wait),
                  UMBP_INVALID_VALUE);
    pair_close(&pair);
}

static void a_wrong_key_reads_nothing(void **state)
{
    struct pair pair;
    (void)state;
    pair_open(&pair, NULL);
    struct fabric_key key = fabric_region_key(pair.client.fabric, pair.region[1]);
    key.key ^= 0x5555;
    struct fabric_piece piece = {
        .local = pair.memory[0],
        .region = pair.region[0],
        .remote = (uint64_t)(uintptr_t)pair.memory[1],
        .key = key,
        .bytes = 1000,
    };
    struct rig_wait wait;
    rig_wait_init(&wait, &pair.server);
    assert_ok(fabric_read(pair.server.fabric, pair.server.peer, &piece, 1, rig_on_done, &wait));
    rig_settle(&wait);
    assert_true(wait.status != UMBP_OK);
    assert_true(test_check_fill(pair.memory[0], MEMORY, 1));
    pair_close(&pair);
}

/* The server has a request in its hands. */
static void await_held(struct pair *pair)
{
    struct fabric_latch never;
    fabric_latch_init(&never, 1);
    for (unsigned i = 0; i < 60000 && !atomic_load(&pair->server.held); i++) {
        assert_status(fabric_wait(pair->client.fabric, &never, RIG_MS(pair->client.fabric, 1)),
                      UMBP_TIMEOUT);
    }
    assert_non_null(atomic_load(&pair->server.held));
}

static void a_late_answer_costs_a_plain_call_only(void **state)
{
    struct pair pair;
    struct rig_wait wait;
    (void)state;
    pair_open(&pair, NULL);
    atomic_store(&pair.server.keep, true);
    assert_ok(rig_call_start(&wait, &pair.client, pair.client.peer, "x", 1, 1000, false));
    await_held(&pair);
    rig_settle(&wait);
    assert_status(wait.status, UMBP_TIMEOUT);
    assert_true(fabric_peer_flags(pair.client.fabric, pair.client.peer) & FABRIC_PEER_UP);
    atomic_store(&pair.server.keep, false);
    fabric_answer(pair.server.fabric, atomic_load(&pair.server.held), UMBP_OK, NULL, 0);
    struct rig_wait next;
    assert_ok(rig_call_start(&next, &pair.client, pair.client.peer, "y", 1, 60000, false));
    rig_settle(&next);
    assert_status(next.status, UMBP_OK);
    free(next.data);
    assert_int_equal(wait.count, 1);
    pair_close(&pair);
}

static void a_late_call_that_exposes_memory_ends_the_connection_first(void **state)
{
    struct pair pair;
    struct rig_wait wait;
    struct rig_wait other;
    (void)state;
    pair_open(&pair, NULL);
    atomic_store(&pair.server.keep, true);
    assert_ok(rig_call_start(&other, &pair.client, pair.client.peer, "o", 1, 60000, false));
    await_held(&pair);
    assert_ok(rig_call_start(&wait, &pair.client, pair.client.peer, "x", 1, 1000, true));
    rig_settle(&wait);
    assert_status(wait.status, UMBP_TIMEOUT);
    rig_settle(&other);
    assert_status(other.status, UMBP_CLOSED);
    assert_int_equal(fabric_peer_flags(pair.client.fabric, pair.client.peer), 0);
    assert_ok(
        fabric_wait(pair.client.fabric, &pair.client.down, RIG_MS(pair.client.fabric, 60000)));
    assert_ok(
        fabric_wait(pair.server.fabric, &pair.server.down, RIG_MS(pair.server.fabric, 60000)));
    struct rig_wait after;
    assert_status(rig_call_start(&after, &pair.client, pair.client.peer, "x", 1, 50, true),
                  UMBP_CLOSED);
    fabric_answer(pair.server.fabric, atomic_load(&pair.server.held), UMBP_OK, NULL, 0);
    pair_close(&pair);
}

static void a_handle_names_one_connection(void **state)
{
    struct pair pair;
    (void)state;
    pair_open(&pair, NULL);
    fabric_peer first = pair.client.peer;
    fabric_disconnect(pair.client.fabric, first);
    assert_ok(
        fabric_wait(pair.client.fabric, &pair.client.down, RIG_MS(pair.client.fabric, 60000)));
    assert_status(pair.client.down_reason, UMBP_CLOSED);
    fabric_peer second;
    assert_ok(rig_connect(&pair.client, fabric_address(pair.server.fabric), &second));
    assert_true(first != second);
    assert_int_equal(fabric_peer_flags(pair.client.fabric, first), 0);
    fabric_disconnect(pair.client.fabric, first); /* closes nobody */
    struct rig_wait wait;
    assert_ok(rig_call_start(&wait, &pair.client, second, "y", 1, 60000, false));
    rig_settle(&wait);
    assert_status(wait.status, UMBP_OK);
    free(wait.data);
    pair_close(&pair);
}

static void calls_beyond_the_bound_are_busy(void **state)
{
    struct pair pair;
    struct rig_wait waits[5];
    struct fabric_options options = {.calls_per_peer = 4};
    (void)state;
    pair_open(&pair, &options);
    atomic_store(&pair.server.keep, true);
    for (unsigned i = 0; i < 4; i++) {
        assert_ok(rig_call_start(&waits[i], &pair.client, pair.client.peer, "x", 1, 3000, false));
    }
    assert_status(rig_call_start(&waits[4], &pair.client, pair.client.peer, "x", 1, 3000, false),
                  UMBP_BUSY);
    for (unsigned i = 0; i < 4; i++) {
        rig_settle(&waits[i]);
        assert_status(waits[i].status, UMBP_TIMEOUT);
    }
    atomic_store(&pair.server.keep, false);
    assert_ok(rig_call_start(&waits[4], &pair.client, pair.client.peer, "x", 1, 60000, false));
    rig_settle(&waits[4]);
    free(waits[4].data);
    pair_close(&pair);
}

static void who_does_not_fit_is_refused_with_a_reason(void **state)
{
    struct pair pair;
    struct rig_end other;
    struct fabric_options cluster = {.cluster = "another"};
    struct fabric_options seed = {.hash_seed = 4711};
    fabric_peer peer;
    (void)state;
    pair_open(&pair, NULL);
    assert_ok(open_end(&pair, &other, NULL, &cluster));
    assert_status(rig_connect(&other, fabric_address(pair.server.fabric), &peer), UMBP_STALE);
    fabric_destroy(other.fabric);
    assert_ok(open_end(&pair, &other, NULL, &seed));
    assert_status(rig_connect(&other, fabric_address(pair.server.fabric), &peer), UMBP_STALE);
    fabric_destroy(other.fabric);
    pair.server.accepts = UMBP_LOCKED;
    assert_ok(open_end(&pair, &other, NULL, NULL));
    assert_status(rig_connect(&other, fabric_address(pair.server.fabric), &peer), UMBP_LOCKED);
    assert_int_equal(other.ups, 0);
    fabric_destroy(other.fabric);
    assert_int_equal(pair.server.ups, 1);
    pair_close(&pair);
}

static void a_full_endpoint_turns_others_away(void **state)
{
    struct pair pair;
    struct rig_end other;
    fabric_peer peer;
    struct fabric_options options = {.peers_max = 1};
    (void)state;
    pair_open(&pair, &options);
    assert_ok(open_end(&pair, &other, NULL, &options));
    assert_status(rig_connect(&other, fabric_address(pair.server.fabric), &peer), UMBP_LIMIT);
    assert_true(peer == 0);
    fabric_disconnect(pair.client.fabric, pair.client.peer);
    assert_ok(
        fabric_wait(pair.server.fabric, &pair.server.down, RIG_MS(pair.server.fabric, 60000)));
    assert_ok(rig_connect(&other, fabric_address(pair.server.fabric), &peer));
    fabric_destroy(other.fabric);
    pair_close(&pair);
}

/* From callbacks everything but waiting is allowed, also ending the connection that one is about.
 */
static void on_reply_disconnect(void *context, const struct fabric_reply *reply)
{
    struct rig_wait *wait = context;
    wait->status = reply->status;
    wait->count++;
    fabric_disconnect(wait->end->fabric, wait->peer);
    struct iovec part = {"late", 4};
    enum umbp_status status = fabric_send(wait->end->fabric, wait->peer, &part, 1);
    wait->bytes = (size_t)status; /* either way: it must not crash */
    fabric_latch_down(wait->end->fabric, &wait->latch);
}

static void a_callback_may_end_its_connection(void **state)
{
    struct pair pair;
    struct rig_wait wait;
    (void)state;
    pair_open(&pair, NULL);
    rig_wait_init(&wait, &pair.client);
    wait.peer = pair.client.peer;
    struct fabric_call call = {
        .peer = wait.peer,
        .deadline_ns = RIG_MS(pair.client.fabric, 5000),
        .done = on_reply_disconnect,
        .context = &wait,
    };
    assert_ok(fabric_call(pair.client.fabric, &call));
    rig_settle(&wait);
    assert_status(wait.status, UMBP_OK);
    assert_ok(
        fabric_wait(pair.client.fabric, &pair.client.down, RIG_MS(pair.client.fabric, 60000)));
    assert_int_equal(wait.count, 1);
    pair_close(&pair);
}

static void names_are_resolved_and_any_address_listened_on(void **state)
{
    struct rig_end server;
    struct rig_end client;
    struct pair none = {0};
    fabric_peer peer;
    char address[FABRIC_ADDRESS_MAX];
    (void)state;
    if (kind == KIND_SIM) {
        return;
    }
    assert_ok(open_end(&none, &server, "*:0", NULL));
    assert_ok(open_end(&none, &client, NULL, NULL));
    assert_non_null(strrchr(fabric_address(server.fabric), ':'));
    assert_int_not_equal(strncmp(fabric_address(server.fabric), "0.0.0.0", 7), 0);
    snprintf(address, sizeof(address), "localhost%s", strrchr(fabric_address(server.fabric), ':'));
    assert_ok(rig_connect(&client, address, &peer));
    assert_ok(rig_connect(&client, fabric_address(server.fabric), &peer));
    assert_status(rig_connect(&client, "no.such.host.invalid:1", &peer), UMBP_INVALID_VALUE);
    fabric_destroy(client.fabric);
    fabric_destroy(server.fabric);
}

static void close_completes_everything(void **state)
{
    struct pair pair;
    struct rig_wait waits[8];
    (void)state;
    pair_open(&pair, NULL);
    atomic_store(&pair.server.keep, true);
    for (unsigned i = 0; i < 8; i++) {
        assert_ok(
            rig_call_start(&waits[i], &pair.client, pair.client.peer, "x", 1, 60000, i % 2 == 0));
    }
    assert_ok(fabric_close(pair.client.fabric, RIG_MS(pair.client.fabric, 60000)));
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(waits[i].count, 1);
        assert_status(waits[i].status, UMBP_CANCELLED);
    }
    assert_int_equal(pair.client.downs, 1);
    struct rig_wait after;
    assert_status(rig_call_start(&after, &pair.client, pair.client.peer, "x", 1, 50, true),
                  UMBP_CLOSED);
    assert_ok(
        fabric_wait(pair.server.fabric, &pair.server.down, RIG_MS(pair.server.fabric, 60000)));
    pair_close(&pair);
}

struct ticking {
    struct fabric_task task;
    struct fabric_timer timers[5];
    struct rig_end *end;
    struct fabric_latch latch;
    unsigned order[5];
    unsigned count;
};

static struct ticking *the_ticking;

static void tick(struct fabric_timer *timer)
{
    struct ticking *ticking = the_ticking;
    ticking->order[ticking->count++] = (unsigned)(timer - ticking->timers);
    fabric_latch_down(ticking->end->fabric, &ticking->latch);
}

static void set_timers(struct fabric_task *task)
{
    struct ticking *ticking = CONTAINER_OF(task, struct ticking, task);
    static const uint64_t at_ms[5] = {40, 10, 30, 20, 5};
    struct fabric *fabric = ticking->end->fabric;
    uint64_t now_ns = fabric_now_ns(fabric); /* once: between two looks any time may pass */
    for (unsigned i = 0; i < 5; i++) {
        ticking->timers[i].run = tick;
        fabric_timer_set(fabric, &ticking->timers[i], now_ns + at_ms[i] * NS_PER_MS);
    }
    fabric_timer_cancel(fabric, &ticking->timers[2]);
    fabric_timer_set(fabric, &ticking->timers[4], now_ns + 60 * NS_PER_MS);
}

static void timers_run_in_order_and_cancelled_ones_never(void **state)
{
    struct pair pair;
    struct ticking ticking = {.task = {.run = set_timers}};
    (void)state;
    pair_open(&pair, NULL);
    the_ticking = &ticking;
    ticking.end = &pair.client;
    fabric_latch_init(&ticking.latch, 4);
    fabric_post(pair.client.fabric, &ticking.task);
    assert_ok(fabric_wait(pair.client.fabric, &ticking.latch, RIG_MS(pair.client.fabric, 60000)));
    static const unsigned order[4] = {1, 3, 0, 4};
    assert_memory_equal(ticking.order, order, sizeof(order));
    pair_close(&pair);
}

#define ALL(test)                                                                                  \
    {                                                                                              \
#test, test, NULL, NULL, NULL                                                              \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        ALL(both_sides_learn_who_the_other_is),
        ALL(a_call_of_any_size_is_answered),
        ALL(one_way_messages_arrive_in_order),
        ALL(lists_move_every_byte_and_no_other),
        ALL(a_piece_outside_its_region_is_refused),
        ALL(a_wrong_key_reads_nothing),
        ALL(a_late_answer_costs_a_plain_call_only),
        ALL(a_late_call_that_exposes_memory_ends_the_connection_first),
        ALL(a_handle_names_one_connection),
        ALL(calls_beyond_the_bound_are_busy),
        ALL(who_does_not_fit_is_refused_with_a_reason),
        ALL(a_full_endpoint_turns_others_away),
        ALL(a_callback_may_end_its_connection),
        ALL(names_are_resolved_and_any_address_listened_on),
        ALL(close_completes_everything),
        ALL(timers_run_in_order_and_cancelled_ones_never),
    };
    kind = KIND_TCP;
    int failed = cmocka_run_group_tests_name("tcp", tests, NULL, NULL);
    kind = KIND_SIM;
    return failed + cmocka_run_group_tests_name("simulation", tests, NULL, NULL);
}
