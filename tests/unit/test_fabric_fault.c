/* SPDX-License-Identifier: Apache-2.0 */
/* The fault wrapper does what its rules say, and completes everything exactly once; and the timers'
 * heap. */
#include "fabric_rig.h"

#include "fabric/fabric_fault.h"
#include "fabric/fabric_priv.h"
#include "fabric/fabric_sim.h"

#define BYTES 10000u

struct world {
    struct fabric_sim *sim;
    struct rig_end server;
    struct rig_end client; /* behind a fault wrapper */
    uint8_t memory[2][BYTES];
    struct fabric_region *region[2];
    struct fabric_piece pieces[10];
};

static void world_open(struct world *world)
{
    struct fabric_sim_options sim = {.seed = test_seed()};
    struct fabric_options options = {
        .struct_bytes = sizeof(options), .identity = "x", .identity_bytes = 1};
    struct fabric *inner;
    fabric_peer peer = 0;
    memset(world, 0, sizeof(*world));
    assert_ok(fabric_sim_create(&sim, &world->sim));
    struct fabric_handlers handlers = rig_handlers(&world->client);
    assert_ok(fabric_sim_open(world->sim, 0, &options, &handlers, &inner));
    assert_ok(fabric_fault_create(inner, &world->client.fabric));
    handlers = rig_handlers(&world->server);
    options.listen = "server:1";
    assert_ok(fabric_sim_open(world->sim, 0, &options, &handlers, &world->server.fabric));
    struct rig_end *ends[2] = {&world->server, &world->client};
    for (unsigned i = 0; i < 2; i++) {
        test_fill(world->memory[i], BYTES, i + 1);
        assert_ok(fabric_region_create(ends[i]->fabric, world->memory[i], BYTES,
                                       FABRIC_REMOTE_READ | FABRIC_REMOTE_WRITE, -1, 0,
                                       &world->region[i]));
    }
    assert_ok(rig_connect(&world->client, fabric_address(world->server.fabric), &peer));
    for (unsigned i = 0; i < 10; i++) {
        world->pieces[i] = (struct fabric_piece){
            .local = world->memory[1] + i * (BYTES / 10),
            .region = world->region[1],
            .remote = (uint64_t)(uintptr_t)(world->memory[0] + i * (BYTES / 10)),
            .key = fabric_region_key(world->server.fabric, world->region[0]),
            .bytes = BYTES / 10,
        };
    }
}

static void world_close(struct world *world)
{
    fabric_destroy(world->client.fabric);
    fabric_destroy(world->server.fabric);
    fabric_sim_destroy(world->sim);
}

static void set(struct world *world, struct fabric_fault_rule rule)
{
    assert_ok(fabric_fault_set(world->client.fabric, &rule));
}

static enum umbp_status call(struct world *world)
{
    struct rig_wait wait;
    enum umbp_status status =
        rig_call_start(&wait, &world->client, world->client.peer, "ab", 2, 1000, false);
    if (status) {
        return status;
    }
    rig_settle(&wait);
    assert_int_equal(wait.count, 1);
    assert_true(wait.status || (wait.bytes == 2 && memcmp(wait.data, "ba", 2) == 0));
    free(wait.data);
    return wait.status;
}

static enum umbp_status read_all(struct world *world)
{
    struct rig_wait wait;
    rig_wait_init(&wait, &world->client);
    enum umbp_status status = fabric_read(world->client.fabric, world->client.peer, world->pieces,
                                          10, rig_on_done, &wait);
    if (status) {
        return status;
    }
    rig_settle(&wait);
    assert_int_equal(wait.count, 1);
    return wait.status;
}

static void the_nth_call_is_refused_or_fails(void **state)
{
    struct world world;
    (void)state;
    world_open(&world);
    set(&world, (struct fabric_fault_rule){
                    .op = FABRIC_FAULT_CALL, .first = 2, .every = 3, .refuse = UMBP_BUSY});
    set(&world, (struct fabric_fault_rule){.op = FABRIC_FAULT_CALL, .first = 3, .fail = UMBP_IO});
    static const enum umbp_status expected[] = {UMBP_OK, UMBP_BUSY, UMBP_IO,
                                                UMBP_OK, UMBP_BUSY, UMBP_OK};
    for (size_t i = 0; i < ARRAY_COUNT(expected); i++) {
        assert_status(call(&world), expected[i]);
    }
    assert_int_equal(fabric_fault_hits(world.client.fabric), 3);
    fabric_fault_clear(world.client.fabric);
    assert_ok(call(&world));
    world_close(&world);
}

static void a_delayed_answer_comes_whole_and_late(void **state)
{
    struct world world;
    (void)state;
    world_open(&world);
    set(&world, (struct fabric_fault_rule){.op = FABRIC_FAULT_CALL, .first = 1, .delay_ms = 300});
    uint64_t before = fabric_now_ns(world.client.fabric);
    assert_ok(call(&world));
    assert_true(fabric_now_ns(world.client.fabric) - before >= 300 * NS_PER_MS);
    world_close(&world);
}

static void a_torn_read_fails_and_moved_its_first_half(void **state)
{
    struct world world;
    (void)state;
    world_open(&world);
    set(&world, (struct fabric_fault_rule){.op = FABRIC_FAULT_READ, .first = 1, .tear = true});
    assert_status(read_all(&world), UMBP_IO);
    assert_memory_equal(world.memory[1], world.memory[0], BYTES / 2);
    assert_memory_not_equal(world.memory[1] + BYTES / 2, world.memory[0] + BYTES / 2, BYTES / 2);
    assert_ok(read_all(&world));
    assert_memory_equal(world.memory[1], world.memory[0], BYTES);
    world_close(&world);
}

static void a_rule_ends_the_connection(void **state)
{
    struct world world;
    (void)state;
    world_open(&world);
    set(&world,
        (struct fabric_fault_rule){.op = FABRIC_FAULT_CALL, .first = 1, .disconnect = true});
    assert_status(call(&world), UMBP_CLOSED);
    assert_ok(
        fabric_wait(world.client.fabric, &world.client.down, RIG_MS(world.client.fabric, 1000)));
    world_close(&world);
}

static void a_close_delivers_what_was_held_back(void **state)
{
    struct world world;
    struct rig_wait wait;
    (void)state;
    world_open(&world);
    set(&world,
        (struct fabric_fault_rule){.op = FABRIC_FAULT_CALL, .first = 1, .delay_ms = 100000});
    assert_ok(rig_call_start(&wait, &world.client, world.client.peer, "ab", 2, 1000, false));
    assert_status(fabric_wait(world.client.fabric, &wait.latch, RIG_MS(world.client.fabric, 500)),
                  UMBP_TIMEOUT);
    assert_ok(fabric_close(world.client.fabric, RIG_MS(world.client.fabric, 1000)));
    assert_int_equal(wait.count, 1);
    free(wait.data);
    world_close(&world);
}

/* Against a plain array. */
static void the_heap_gives_timers_in_order(void **state)
{
    enum {
        COUNT = 200
    };
    static struct fabric_timer timers[COUNT];
    struct timer_heap heap = {0};
    struct test_rng rng;
    (void)state;
    test_rng_init(&rng, 5);
    memset(timers, 0, sizeof(timers));
    for (unsigned step = 0; step < 20000; step++) {
        struct fabric_timer *timer = &timers[test_rng_below(&rng, COUNT)];
        switch (test_rng_below(&rng, 4)) {
        case 0:
        case 1:
            fabric_heap_set(&heap, timer, test_rng_below(&rng, 1000));
            break;
        case 2:
            fabric_heap_cancel(&heap, timer);
            assert_false(timer->is_set);
            break;
        default: {
            uint64_t now = test_rng_below(&rng, 1000);
            uint64_t least = DEADLINE_NEVER;
            for (unsigned i = 0; i < COUNT; i++) {
                least = timers[i].is_set ? u64_min(least, timers[i].deadline_ns) : least;
            }
            assert_true(fabric_heap_next_ns(&heap) == least);
            struct fabric_timer *due = fabric_heap_pop(&heap, now);
            assert_true((due != NULL) == (least <= now));
            assert_true(!due || (due->deadline_ns == least && !due->is_set));
        }
        }
    }
}

static void addresses_are_split_and_joined(void **state)
{
    char host[FABRIC_HOST_MAX];
    char address[FABRIC_ADDRESS_MAX];
    uint16_t port;
    static const char *const bad[] = {"",        "host",  "host:",    ":x",
                                      "a:65536", "::1:5", "h:123456", "h:-1"};
    (void)state;
    assert_ok(fabric_address_split("host.name:80", host, &port));
    assert_string_equal(host, "host.name");
    assert_int_equal(port, 80);
    assert_ok(fabric_address_split("[fe80::1]:65535", host, &port));
    assert_string_equal(host, "fe80::1");
    fabric_address_join(address, host, port);
    assert_string_equal(address, "[fe80::1]:65535");
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        assert_status(fabric_address_split(bad[i], host, &port), UMBP_INVALID_VALUE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_nth_call_is_refused_or_fails),
        cmocka_unit_test(a_delayed_answer_comes_whole_and_late),
        cmocka_unit_test(a_torn_read_fails_and_moved_its_first_half),
        cmocka_unit_test(a_rule_ends_the_connection),
        cmocka_unit_test(a_close_delivers_what_was_held_back),
        cmocka_unit_test(the_heap_gives_timers_in_order),
        cmocka_unit_test(addresses_are_split_and_joined),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
