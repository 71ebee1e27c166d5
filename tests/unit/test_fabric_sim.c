/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated network keeps the promises of fabric.h, also the unpleasant ones: a transfer that
 * is cut in the middle, a pull that comes too late, a process that sleeps through a connection's
 * end.
 */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fabric/fabric_sim.h"

#define BYTES 40000u

struct process {
    struct fabric *fabric;
    fabric_peer peer;
    unsigned ups;
    unsigned downs;
    enum umbp_status down_reason;
    unsigned requests;
    unsigned messages;
    uint8_t last_message;
    bool in_order;
    struct fabric_request *held; /* with `keep`, the request that was not answered */
    bool keep;
    struct fabric_region *region;
    uint8_t *memory;
};

static void on_up(void *context, fabric_peer peer, const struct fabric_hello *hello)
{
    struct process *process = context;
    (void)hello;
    process->peer = peer;
    process->ups++;
}

static void on_down(void *context, fabric_peer peer, enum umbp_status reason)
{
    struct process *process = context;
    assert_true(peer == process->peer);
    process->downs++;
    process->down_reason = reason;
}

static void on_request(void *context, struct fabric_request *request)
{
    struct process *process = context;
    process->requests++;
    if (process->keep) {
        process->held = request;
        return;
    }
    struct iovec part = {(void *)(uintptr_t)request->data, request->bytes};
    fabric_answer(process->fabric, request, UMBP_OK, &part, 1);
}

static void on_message(void *context, fabric_peer peer, const void *data, size_t bytes)
{
    struct process *process = context;
    (void)peer;
    assert_int_equal(bytes, 1);
    uint8_t number = *(const uint8_t *)data;
    process->in_order &= process->messages == 0 || number == (uint8_t)(process->last_message + 1);
    process->last_message = number;
    process->messages++;
}

struct world {
    struct fabric_sim *sim;
    struct process a;
    struct process b;
};

struct outcome {
    unsigned count;
    enum umbp_status status;
    uint64_t epoch;
    char text[16];
    uint64_t at_ns;
    struct world *world;
};

static void on_done(void *context, enum umbp_status status)
{
    struct outcome *outcome = context;
    outcome->count++;
    outcome->status = status;
}

static void on_reply(void *context, const struct fabric_reply *reply)
{
    struct outcome *outcome = context;
    outcome->count++;
    outcome->status = reply->status;
    outcome->epoch = reply->epoch;
    snprintf(outcome->text, sizeof(outcome->text), "%.*s", (int)reply->bytes,
             reply->data ? (const char *)reply->data : "");
}

static void on_connected(void *context, enum umbp_status status, fabric_peer peer)
{
    struct outcome *outcome = context;
    outcome->count++;
    outcome->status = status;
    assert_true((peer != 0) == (status == UMBP_OK));
}

static void open_process(struct world *world, struct process *process, uint32_t host,
                         const char *listen, uint8_t fill)
{
    const struct fabric_options options = {.struct_bytes = sizeof(options), .listen = listen};
    const struct fabric_handlers handlers = {.peer_up = on_up,
                                             .peer_down = on_down,
                                             .request = on_request,
                                             .message = on_message,
                                             .context = process};
    *process = (struct process){.in_order = true};
    process->memory = malloc(BYTES);
    memset(process->memory, fill, BYTES);
    assert_ok(fabric_sim_open(world->sim, host, &options, &handlers, &process->fabric));
    assert_ok(fabric_region_create(process->fabric, process->memory, BYTES,
                                   FABRIC_REMOTE_READ | FABRIC_REMOTE_WRITE, -1, 0,
                                   &process->region));
}

static void advance(struct world *world, uint64_t ms)
{
    fabric_sim_run(world->sim, clock_now_ns(fabric_sim_clock(world->sim)) + ms * NS_PER_MS);
}

static uint64_t in_ms(struct world *world, uint64_t ms)
{
    return clock_now_ns(fabric_sim_clock(world->sim)) + ms * NS_PER_MS;
}

static void begin(struct world *world, uint64_t seed, uint32_t host_b)
{
    const struct fabric_sim_options options = {.seed = seed};
    struct outcome outcome = {0};
    assert_ok(fabric_sim_create(&options, &world->sim));
    open_process(world, &world->a, 0, "a", 'a');
    open_process(world, &world->b, host_b, "b", 'b');
    assert_ok(fabric_connect(world->a.fabric, "b", in_ms(world, 1000), on_connected, &outcome));
    advance(world, 10);
    assert_int_equal(outcome.count, 1);
    assert_ok(outcome.status);
    assert_int_equal(world->a.ups + world->b.ups, 2);
}

static void end(struct world *world)
{
    fabric_destroy(world->a.fabric);
    fabric_destroy(world->b.fabric);
    fabric_sim_destroy(world->sim);
    free(world->a.memory);
    free(world->b.memory);
}

static enum umbp_status call_b(struct world *world, const char *text, uint64_t ms, bool exposes,
                               struct outcome *outcome)
{
    const struct iovec part = {(void *)(uintptr_t)text, strlen(text)};
    const struct fabric_call call = {.peer = world->a.peer,
                                     .parts = &part,
                                     .part_count = 1,
                                     .deadline_ns = in_ms(world, ms),
                                     .exposes_memory = exposes,
                                     .done = on_reply,
                                     .context = outcome};
    return fabric_call(world->a.fabric, &call);
}

static struct fabric_piece whole_piece(const struct process *mine, const struct process *its)
{
    return (struct fabric_piece){.local = mine->memory,
                                 .region = mine->region,
                                 .remote = (uint64_t)(uintptr_t)its->memory,
                                 .key = fabric_region_key(its->fabric, its->region),
                                 .bytes = BYTES};
}

static size_t count_byte(const struct process *process, uint8_t byte)
{
    size_t count = 0;
    for (size_t i = 0; i < BYTES; i++) {
        count += process->memory[i] == byte;
    }
    return count;
}

/* --------------------------------------------------------------------------------- tests -- */

static void a_call_is_answered_and_messages_keep_their_order(void **state)
{
    struct world world;
    struct outcome outcome = {0};
    (void)state;
    begin(&world, 1, 1);
    assert_ok(call_b(&world, "hello", 100, false, &outcome));
    assert_int_equal(outcome.count, 0);
    advance(&world, 5);
    assert_int_equal(outcome.count, 1);
    assert_ok(outcome.status);
    assert_string_equal(outcome.text, "hello");
    for (uint8_t i = 0; i < 100; i++) {
        struct iovec part = {&i, 1};
        assert_ok(fabric_send(world.a.fabric, world.a.peer, &part, 1));
    }
    advance(&world, 50);
    assert_int_equal(world.b.messages, 100);
    assert_true(world.b.in_order);
    end(&world);
}

static void a_connect_that_nobody_takes_says_so(void **state)
{
    struct world world;
    struct outcome nobody = {0};
    struct outcome late = {0};
    (void)state;
    begin(&world, 1, 1);
    assert_ok(fabric_connect(world.a.fabric, "nobody", in_ms(&world, 100), on_connected, &nobody));
    fabric_sim_stop(world.b.fabric);
    assert_ok(fabric_connect(world.a.fabric, "b", in_ms(&world, 100), on_connected, &late));
    advance(&world, 200);
    assert_int_equal(nobody.count, 1);
    assert_status(nobody.status, UMBP_CLOSED);
    assert_int_equal(late.count, 1);
    assert_status(late.status, UMBP_TIMEOUT);
    fabric_sim_continue(world.b.fabric);
    advance(&world, 1000);
    assert_int_equal(late.count, 1);
    assert_int_equal(world.a.ups, 1);
    end(&world);
}

static void transfers_move_every_byte(void **state)
{
    struct world world;
    struct outcome outcome = {0};
    (void)state;
    begin(&world, 2, 1);
    struct fabric_piece piece = whole_piece(&world.a, &world.b);
    assert_ok(fabric_read(world.a.fabric, world.a.peer, &piece, 1, on_done, &outcome));
    advance(&world, 20);
    assert_int_equal(outcome.count, 1);
    assert_ok(outcome.status);
    assert_int_equal(count_byte(&world.a, 'b'), BYTES);
    memset(world.a.memory, 'x', BYTES);
    assert_ok(fabric_write(world.a.fabric, world.a.peer, &piece, 1, on_done, &outcome));
    advance(&world, 20);
    assert_int_equal(outcome.count, 2);
    assert_ok(outcome.status);
    assert_int_equal(count_byte(&world.b, 'x'), BYTES);
    end(&world);
}

/* The owner of the memory closes amid a write: after its own peer_down no byte moves. */
static void a_write_that_is_cut_stops_where_it_is(void **state)
{
    unsigned torn = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct world world;
        struct outcome outcome = {0};
        begin(&world, seed, 1);
        struct fabric_piece piece = whole_piece(&world.a, &world.b);
        assert_ok(fabric_write(world.a.fabric, world.a.peer, &piece, 1, on_done, &outcome));
        fabric_sim_run(world.sim, in_ms(&world, 0) + seed * 8000);
        fabric_disconnect(world.b.fabric, world.b.peer);
        while (!world.b.downs) {
            assert_true(fabric_sim_step(world.sim));
        }
        size_t here = count_byte(&world.b, 'a');
        torn += here > 0 && here < BYTES;
        advance(&world, 100);
        assert_int_equal(count_byte(&world.b, 'a'), here);
        assert_int_equal(outcome.count, 1);
        assert_true(outcome.status == UMBP_CLOSED || here == BYTES);
        assert_int_equal(world.a.downs, 1);
        end(&world);
    }
    assert_true(torn > 10);
}

static void a_wrong_key_ends_the_connection_and_moves_nothing(void **state)
{
    struct world world;
    struct outcome outcome = {0};
    (void)state;
    begin(&world, 3, 1);
    struct fabric_piece piece = whole_piece(&world.a, &world.b);
    piece.key.key ^= 1;
    assert_ok(fabric_write(world.a.fabric, world.a.peer, &piece, 1, on_done, &outcome));
    advance(&world, 20);
    assert_status(outcome.status, UMBP_CLOSED);
    assert_int_equal(count_byte(&world.b, 'b'), BYTES);
    assert_int_equal(world.a.downs + world.b.downs, 2);
    end(&world);
}

/* b keeps the request; a's deadline passes. */
static void a_call_that_shows_memory_ends_its_connection_when_it_is_late(void **state)
{
    struct world world;
    struct outcome shy = {0};
    struct outcome bold = {0};
    (void)state;
    begin(&world, 4, 1);
    world.b.keep = true;
    assert_ok(call_b(&world, "x", 20, false, &shy));
    advance(&world, 50);
    assert_int_equal(shy.count, 1);
    assert_status(shy.status, UMBP_TIMEOUT);
    assert_int_equal(world.a.downs, 0);
    fabric_answer(world.b.fabric, world.b.held, UMBP_OK, NULL, 0);
    advance(&world, 50);
    assert_int_equal(shy.count, 1);
    assert_ok(call_b(&world, "y", 20, true, &bold));
    assert_ok(call_b(&world, "z", 2000, false, &shy));
    advance(&world, 50);
    assert_int_equal(bold.count, 1);
    assert_status(bold.status, UMBP_TIMEOUT);
    assert_int_equal(shy.count, 2);
    assert_status(shy.status, UMBP_CLOSED);
    assert_int_equal(world.a.downs, 1);
    assert_int_equal(world.b.downs, 1);
    fabric_answer(world.b.fabric, world.b.held, UMBP_OK, NULL, 0); /* to nobody */
    end(&world);
}

/* The first reply names the epoch; then b lets go of the memory while a is reading it. */
static void a_pull_of_memory_that_was_let_go_is_stale(void **state)
{
    struct world world;
    struct outcome outcome = {0};
    struct outcome pulled = {0};
    (void)state;
    begin(&world, 5, 0);
    assert_true(fabric_peer_flags(world.a.fabric, world.a.peer) & FABRIC_PEER_READABLE);
    assert_ok(call_b(&world, "x", 100, false, &outcome));
    advance(&world, 5);
    struct fabric_piece piece = whole_piece(&world.a, &world.b);
    assert_ok(
        fabric_pull(world.a.fabric, world.a.peer, outcome.epoch, &piece, 1, on_done, &pulled));
    advance(&world, 20);
    assert_ok(pulled.status);
    assert_int_equal(count_byte(&world.a, 'b'), BYTES);

    assert_ok(
        fabric_pull(world.a.fabric, world.a.peer, outcome.epoch, &piece, 1, on_done, &pulled));
    fabric_sim_stop(world.a.fabric);
    fabric_raise_epoch(world.b.fabric, world.b.peer);
    memset(world.b.memory, 'r', BYTES);
    advance(&world, 20);
    assert_int_equal(pulled.count, 1);
    fabric_sim_continue(world.a.fabric);
    advance(&world, 20);
    assert_int_equal(pulled.count, 2);
    assert_status(pulled.status, UMBP_STALE);
    assert_int_equal(count_byte(&world.a, 'r'), BYTES); /* it did read what is not its own */
    end(&world);
}

static void a_stopped_peer_is_closed_when_it_was_silent_for_too_long(void **state)
{
    struct world world;
    struct outcome outcome = {0};
    (void)state;
    begin(&world, 6, 1);
    fabric_sim_stop(world.b.fabric);
    assert_ok(call_b(&world, "x", 60000, true, &outcome));
    advance(&world, 2500);
    assert_int_equal(world.a.downs, 0);
    advance(&world, 2500);
    assert_int_equal(world.a.downs, 1);
    assert_status(world.a.down_reason, UMBP_TIMEOUT);
    assert_status(outcome.status, UMBP_CLOSED);
    assert_int_equal(world.b.downs, 0);
    fabric_sim_continue(world.b.fabric);
    advance(&world, 100);
    assert_int_equal(world.b.downs, 1);
    end(&world);
}

static void a_killed_peer_shows_soon_and_completes_on_close(void **state)
{
    struct world world;
    struct outcome outcome = {0};
    struct outcome transfer = {0};
    (void)state;
    begin(&world, 7, 1);
    struct fabric_piece piece = whole_piece(&world.a, &world.b);
    assert_ok(call_b(&world, "x", 1000, true, &outcome));
    assert_ok(fabric_write(world.a.fabric, world.a.peer, &piece, 1, on_done, &transfer));
    fabric_sim_kill(world.a.fabric);
    advance(&world, 100);
    assert_int_equal(outcome.count + transfer.count + world.a.downs, 0);
    assert_int_equal(world.b.downs, 1);
    assert_int_equal(count_byte(&world.b, 'b'), BYTES);
    assert_ok(fabric_close(world.a.fabric, 0));
    assert_status(outcome.status, UMBP_CANCELLED);
    assert_status(transfer.status, UMBP_CANCELLED);
    assert_int_equal(world.a.downs, 1);
    end(&world);
}

static void what_a_cut_holds_back_comes_after_healing(void **state)
{
    struct world world;
    struct outcome outcome = {0};
    struct outcome other = {0};
    (void)state;
    begin(&world, 8, 1);
    fabric_sim_cut(world.sim, 0, 1);
    assert_ok(call_b(&world, "x", 2000, false, &outcome));
    advance(&world, 1000);
    assert_int_equal(outcome.count, 0);
    fabric_sim_heal(world.sim);
    advance(&world, 900);
    assert_ok(outcome.status);
    assert_int_equal(outcome.count, 1);
    fabric_sim_cut(world.sim, 0, 1);
    advance(&world, 5000);
    assert_int_equal(world.a.downs + world.b.downs, 2);
    fabric_sim_heal(world.sim);
    assert_ok(fabric_connect(world.a.fabric, "b", in_ms(&world, 1000), on_connected, &other));
    advance(&world, 1000);
    assert_ok(other.status);
    end(&world);
}

struct tick {
    struct fabric_timer timer;
    struct fabric *fabric;
    unsigned count;
};

static void on_tick(struct fabric_timer *timer)
{
    struct tick *tick = CONTAINER_OF(timer, struct tick, timer);
    if (++tick->count < 5) {
        fabric_timer_set(tick->fabric, timer, fabric_now_ns(tick->fabric) + NS_PER_MS);
    }
}

static void timers_run_once_for_each_setting_and_not_when_cancelled(void **state)
{
    struct world world;
    struct tick tick = {.timer = {.run = on_tick}};
    struct tick never = {.timer = {.run = on_tick}};
    (void)state;
    begin(&world, 9, 1);
    tick.fabric = never.fabric = world.a.fabric;
    fabric_timer_set(world.a.fabric, &tick.timer, in_ms(&world, 1));
    fabric_timer_set(world.a.fabric, &tick.timer, in_ms(&world, 2)); /* moves it */
    fabric_timer_set(world.a.fabric, &never.timer, in_ms(&world, 2));
    fabric_timer_cancel(world.a.fabric, &never.timer);
    advance(&world, 1);
    assert_int_equal(tick.count, 0);
    advance(&world, 50);
    assert_int_equal(tick.count, 5);
    assert_int_equal(never.count, 0);
    end(&world);
}

static void one_seed_is_one_history(void **state)
{
    uint64_t ends[2];
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct world world;
        struct outcome outcome = {0};
        begin(&world, 77, 1);
        struct fabric_piece piece = whole_piece(&world.a, &world.b);
        assert_ok(fabric_read(world.a.fabric, world.a.peer, &piece, 1, on_done, &outcome));
        while (!outcome.count) {
            assert_true(fabric_sim_step(world.sim));
        }
        ends[i] = clock_now_ns(fabric_sim_clock(world.sim));
        end(&world);
    }
    assert_true(ends[0] == ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_is_answered_and_messages_keep_their_order),
        cmocka_unit_test(a_connect_that_nobody_takes_says_so),
        cmocka_unit_test(transfers_move_every_byte),
        cmocka_unit_test(a_write_that_is_cut_stops_where_it_is),
        cmocka_unit_test(a_wrong_key_ends_the_connection_and_moves_nothing),
        cmocka_unit_test(a_call_that_shows_memory_ends_its_connection_when_it_is_late),
        cmocka_unit_test(a_pull_of_memory_that_was_let_go_is_stale),
        cmocka_unit_test(a_stopped_peer_is_closed_when_it_was_silent_for_too_long),
        cmocka_unit_test(a_killed_peer_shows_soon_and_completes_on_close),
        cmocka_unit_test(what_a_cut_holds_back_comes_after_healing),
        cmocka_unit_test(timers_run_once_for_each_setting_and_not_when_cancelled),
        cmocka_unit_test(one_seed_is_one_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
