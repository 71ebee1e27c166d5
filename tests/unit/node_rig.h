/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A simulated cluster for the tests of the node: nodes (store, endpoint, node) and clients
 * (endpoint and memory) in one world, and calls that run the world until they are answered.
 */
#ifndef TEST_NODE_RIG_H
#define TEST_NODE_RIG_H

#include "store_support.h"

#include "fabric/fabric_fault.h"
#include "fabric/fabric_sim.h"
#include "node/node.h"
#include "proto/proto.h"

#define RIG_NODES 4u
#define RIG_CLIENTS 6u
#define RIG_MEMORY (512u * 1024u)
#define RIG_ITEMS 200u
#define RIG_SEED 0x5eed

struct rig_world;

struct rig_node {
    struct rig_world *world;
    struct store *store;
    struct fabric *fabric;
    struct node *node;
    struct node_runner runner;
};

struct rig_client {
    struct rig_world *world;
    struct fabric *fabric;
    struct fabric_region *region;
    uint8_t *memory;
    uint64_t next_request;
};

struct rig_world {
    struct fabric_sim *sim;
    struct rig_node nodes[RIG_NODES];
    struct rig_client clients[RIG_CLIENTS];
    bool has_faults; /* nodes open behind a fault wrapper; then they can't be stopped or killed */
};

static inline uint64_t rig_in_ms(struct rig_world *world, uint64_t ms)
{
    return clock_now_ns(fabric_sim_clock(world->sim)) + ms * NS_PER_MS;
}

static inline void rig_advance(struct rig_world *world, uint64_t ms)
{
    fabric_sim_run(world->sim, rig_in_ms(world, ms));
}

/* ------------------------------------------------------------------------------ nodes ---- */

struct rig_job {
    struct rig_node *node;
    struct node_job *job;
};

static inline void rig_run_job(void *context)
{
    struct node_job *job = context;
    job->work(job);
    job->done(job);
}

static inline void rig_runner(void *context, struct node_job *job)
{
    struct rig_node *node = context;
    struct fabric_sim *sim = node->world->sim;
    uint64_t delay_ns = rng_below(fabric_sim_rng(sim), NS_PER_MS);
    fabric_sim_after(sim, node->fabric, delay_ns, rig_run_job, job);
}

/* A node on a host, on a store that was made before. `options`: NULL or what differs. */
MAYBE_UNUSED static void rig_node_open(struct rig_world *world, unsigned which, uint32_t host,
                                       struct store *store, const struct node_options *wishes)
{
    struct rig_node *node = &world->nodes[which];
    struct node_options options = wishes ? *wishes : (struct node_options){0};
    char name[32];

    snprintf(name, sizeof(name), "node%u", which);
    node->world = world;
    node->store = store;
    node->runner = (struct node_runner){rig_runner, node};
    options.store = store;
    options.hash_seed = RIG_SEED;
    options.id = options.id ? options.id : name;
    options.incarnation =
        options.incarnation ? options.incarnation : 1 + rng_next(fabric_sim_rng(world->sim)) / 2;
    options.runner = &node->runner;
    if (!options.staging_bytes) {
        options.staging_bytes = 256 * 1024;
        options.staging_slots = 4;
    }
    assert_ok(node_create(&options, &node->node));
    const struct fabric_options fabric_options = {.struct_bytes = sizeof(fabric_options),
                                                  .listen = name,
                                                  .cluster = "rig",
                                                  .hash_seed = RIG_SEED};
    struct fabric_handlers handlers = node_handlers(node->node);
    assert_ok(fabric_sim_open(world->sim, host, &fabric_options, &handlers, &node->fabric));
    if (world->has_faults) {
        assert_ok(fabric_fault_create(node->fabric, &node->fabric));
    }
    assert_ok(node_start(node->node, node->fabric));
    rig_advance(world, 0);
}

/* The process ends (or was killed): everything is given back; the store stays. */
MAYBE_UNUSED static void rig_node_close(struct rig_node *node)
{
    if (node->node) {
        assert_ok(fabric_close(node->fabric, 0));
        node_destroy(node->node);
        fabric_destroy(node->fabric);
        node->node = NULL;
        node->fabric = NULL;
    }
}

MAYBE_UNUSED static uint64_t rig_node_stat(const struct rig_node *node, const char *name)
{
    struct umbp_stat_value values[64];
    size_t count = 0;
    node_stats(node->node, values, 64, &count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(values[i].name, name) == 0) {
            return values[i].value;
        }
    }
    fail_msg("no statistic \"%s\"", name);
    return 0;
}

/* ---------------------------------------------------------------------------- clients ---- */

MAYBE_UNUSED static void rig_client_open(struct rig_world *world, unsigned which, uint32_t host)
{
    struct rig_client *client = &world->clients[which];
    const struct fabric_options options = {
        .struct_bytes = sizeof(options), .cluster = "rig", .hash_seed = RIG_SEED};
    const struct fabric_handlers handlers = {.context = client};
    client->world = world;
    client->memory = calloc(1, RIG_MEMORY);
    assert_ok(fabric_sim_open(world->sim, host, &options, &handlers, &client->fabric));
    assert_ok(fabric_region_create(client->fabric, client->memory, RIG_MEMORY,
                                   FABRIC_REMOTE_READ | FABRIC_REMOTE_WRITE, -1, 0,
                                   &client->region));
}

MAYBE_UNUSED static void rig_client_close(struct rig_client *client)
{
    if (client->fabric) {
        assert_ok(fabric_close(client->fabric, 0));
        fabric_destroy(client->fabric);
        free(client->memory);
        *client = (struct rig_client){0};
    }
}

/* `slow`: what takes 0.2 ms elsewhere takes 10, so much more happens meanwhile. */
MAYBE_UNUSED static void rig_begin_slow(struct rig_world *world, uint64_t seed, bool slow)
{
    const struct fabric_sim_options options = {
        .seed = seed,
        .delay_min_ns = slow ? NS_PER_MS : 0,
        .delay_max_ns = slow ? 10 * NS_PER_MS : 0,
        .pull_max_ns = slow ? 2 * NS_PER_MS : 0,
    };
    memset(world, 0, sizeof(*world));
    assert_ok(fabric_sim_create(&options, &world->sim));
}

MAYBE_UNUSED static void rig_begin(struct rig_world *world, uint64_t seed)
{
    rig_begin_slow(world, seed, false);
}

/* Every node gives everything back, and its store has lost nothing. */
MAYBE_UNUSED static void rig_end(struct rig_world *world)
{
    for (unsigned i = 0; i < RIG_CLIENTS; i++) {
        rig_client_close(&world->clients[i]);
    }
    for (unsigned i = 0; i < RIG_NODES; i++) {
        struct store *store = world->nodes[i].store;
        rig_node_close(&world->nodes[i]);
        if (store) {
            finish_store(store);
        }
    }
    fabric_sim_destroy(world->sim);
}

struct rig_connected {
    bool is_done;
    enum umbp_status status;
    fabric_peer peer;
};

static inline void rig_on_connected(void *context, enum umbp_status status, fabric_peer peer)
{
    *(struct rig_connected *)context = (struct rig_connected){true, status, peer};
}

static inline bool rig_is_connected(void *context)
{
    return ((struct rig_connected *)context)->is_done;
}

MAYBE_UNUSED static fabric_peer rig_connect(struct rig_client *client, unsigned node)
{
    struct rig_connected connected = {0};
    char name[32];
    snprintf(name, sizeof(name), "node%u", node);
    assert_ok(fabric_connect(client->fabric, name, rig_in_ms(client->world, 1000), rig_on_connected,
                             &connected));
    assert_true(fabric_sim_run_until(client->world->sim, rig_is_connected, &connected,
                                     rig_in_ms(client->world, 3000)));
    assert_ok(connected.status);
    return connected.peer;
}

/* ------------------------------------------------------------------------------ calls ---- */

/* One call, begun and perhaps answered. */
struct rig_call {
    struct rig_client *client;
    fabric_peer peer;
    bool is_done;
    enum umbp_status status;
    uint8_t *data; /* of the reply */
    size_t bytes;
    uint64_t epoch;
    uint64_t request_id;
    struct proto_frame frame;
    struct proto_walk walk;
};

static inline void rig_on_reply(void *context, const struct fabric_reply *reply)
{
    struct rig_call *call = context;
    call->is_done = true;
    call->status = reply->status;
    call->epoch = reply->epoch;
    call->bytes = reply->bytes;
    call->data = malloc(reply->bytes + 1);
    memcpy(call->data, reply->data ? reply->data : "", reply->data ? reply->bytes : 0);
    if (call->status == UMBP_OK) {
        call->status = proto_frame_open(call->data, call->bytes, &call->frame);
    }
}

static inline bool rig_call_is_done(void *context) { return ((struct rig_call *)context)->is_done; }

/* What an encoder made, on its way. */
MAYBE_UNUSED static void rig_send(struct rig_call *call, struct rig_client *client,
                                  fabric_peer peer, const void *frame, size_t bytes, uint64_t ms,
                                  bool exposes)
{
    const struct iovec part = {(void *)(uintptr_t)frame, bytes};
    *call = (struct rig_call){.client = client, .peer = peer, .request_id = client->next_request};
    const struct fabric_call fabric_call_options = {.peer = peer,
                                                    .parts = &part,
                                                    .part_count = 1,
                                                    .deadline_ns = rig_in_ms(client->world, ms),
                                                    .exposes_memory = exposes,
                                                    .done = rig_on_reply,
                                                    .context = call};
    enum umbp_status status = fabric_call(client->fabric, &fabric_call_options);
    if (status != UMBP_OK) {
        call->is_done = true;
        call->status = status;
    }
}

static inline struct proto_call rig_next(struct rig_client *client, uint32_t ms)
{
    return (struct proto_call){.request_id = ++client->next_request, .time_left_ms = ms};
}

MAYBE_UNUSED static void rig_await(struct rig_call *call)
{
    assert_true(fabric_sim_run_until(call->client->world->sim, rig_call_is_done, call,
                                     rig_in_ms(call->client->world, 60000)));
}

MAYBE_UNUSED static void rig_call_free(struct rig_call *call)
{
    free(call->data);
    call->data = NULL;
}

static uint8_t rig_frame[PROTO_FRAME_MAX];

static inline struct proto_buffer rig_buffer(void)
{
    return (struct proto_buffer){rig_frame, sizeof(rig_frame)};
}

static inline struct proto_key rig_key(const struct rig_client *client)
{
    struct fabric_key key = fabric_region_key(client->fabric, client->region);
    return (struct proto_key){key.key, key.base};
}

/* Values first .. first+count of `prefix`, `bytes` each, tag = tag_base + number, from consecutive
 * places of the client's memory, in pieces of two. */
MAYBE_UNUSED static void rig_put_begin(struct rig_call *call, struct rig_client *client,
                                       fabric_peer peer, const char *prefix, unsigned first,
                                       unsigned count, uint64_t bytes, uint64_t tag_base,
                                       uint32_t ms)
{
    static struct named names[RIG_ITEMS];
    static struct proto_piece pieces[RIG_ITEMS][2];
    static struct proto_put items[RIG_ITEMS];
    size_t frame_bytes = 0;

    assert_true(count <= RIG_ITEMS && count * bytes <= RIG_MEMORY);
    for (unsigned i = 0; i < count; i++) {
        uint8_t *data = client->memory + i * bytes;
        uint64_t half = bytes / 3;
        test_fill(data, bytes, tag_base + first + i);
        pieces[i][0] =
            (struct proto_piece){(uint64_t)(uintptr_t)data, rig_key(client), bytes - half};
        pieces[i][1] =
            (struct proto_piece){(uint64_t)(uintptr_t)(data + bytes - half), rig_key(client), half};
        items[i] = (struct proto_put){.key = name_key(&names[i], prefix, first + i),
                                      .bytes = bytes,
                                      .depth = first + i,
                                      .pieces = pieces[i],
                                      .piece_count = bytes == 0 ? 0
                                                     : half     ? 2
                                                                : 1};
    }
    assert_ok(proto_put_encode(rig_buffer(), rig_next(client, ms), items, count, &frame_bytes));
    rig_send(call, client, peer, rig_frame, frame_bytes, ms, true);
}

/* Call's status, or the i-th item's. */
MAYBE_UNUSED static enum umbp_status rig_status_at(const struct rig_call *call, unsigned index)
{
    struct proto_walk walk;
    enum umbp_status status = call->status;
    if (status == UMBP_OK) {
        assert_ok(proto_statuses_open(&call->frame, &walk));
        for (unsigned i = 0; i <= index; i++) {
            assert_true(proto_statuses_next(&walk, &status));
        }
    }
    return status;
}

/* All of the items say so. */
MAYBE_UNUSED static void rig_expect(struct rig_call *call, unsigned count, enum umbp_status status)
{
    rig_await(call);
    assert_ok(call->status);
    assert_int_equal(call->frame.header.count, count);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(rig_status_at(call, i), status);
    }
    rig_call_free(call);
}

MAYBE_UNUSED static void rig_put(struct rig_client *client, fabric_peer peer, const char *prefix,
                                 unsigned first, unsigned count, uint64_t bytes,
                                 enum umbp_status status)
{
    struct rig_call call;
    rig_put_begin(&call, client, peer, prefix, first, count, bytes, 0, 5000);
    rig_expect(&call, count, status);
}

MAYBE_UNUSED static void rig_get_begin(struct rig_call *call, struct rig_client *client,
                                       fabric_peer peer, const char *prefix, unsigned first,
                                       unsigned count, uint64_t bytes, uint32_t ms)
{
    static struct named names[RIG_ITEMS];
    static struct proto_range ranges[RIG_ITEMS];
    static struct proto_get items[RIG_ITEMS];
    size_t frame_bytes = 0;

    assert_true(count <= RIG_ITEMS && count * bytes <= RIG_MEMORY);
    memset(client->memory, 0xee, count * bytes);
    for (unsigned i = 0; i < count; i++) {
        ranges[i] = (struct proto_range){
            0, bytes, (uint64_t)(uintptr_t)(client->memory + i * bytes), rig_key(client)};
        items[i] = (struct proto_get){.key = name_key(&names[i], prefix, first + i),
                                      .bytes = bytes,
                                      .ranges = &ranges[i],
                                      .range_count = bytes ? 1 : 0};
    }
    assert_ok(proto_get_encode(rig_buffer(), rig_next(client, ms), items, count, &frame_bytes));
    rig_send(call, client, peer, rig_frame, frame_bytes, ms, true);
}

MAYBE_UNUSED static struct proto_got rig_got_at(const struct rig_call *call, unsigned index)
{
    struct proto_walk walk;
    struct proto_got got = {.status = call->status};
    if (call->status == UMBP_OK) {
        assert_ok(proto_got_open(&call->frame, &walk));
        for (unsigned i = 0; i <= index; i++) {
            assert_true(proto_got_next(&walk, &got));
        }
    }
    return got;
}

MAYBE_UNUSED static void rig_release(struct rig_client *client, fabric_peer peer,
                                     uint64_t request_id)
{
    uint8_t frame[128];
    size_t bytes = 0;
    assert_ok(proto_numbers_encode((struct proto_buffer){frame, sizeof(frame)},
                                   (struct proto_call){0}, PROTO_RELEASE, PROTO_FLAG_ONE_WAY,
                                   &request_id, 1, &bytes));
    const struct iovec part = {frame, bytes};
    (void)!fabric_send(client->fabric, peer, &part, 1);
}

/* Read the places of item `index` into its place in the client's memory. */
MAYBE_UNUSED static enum umbp_status rig_pull(struct rig_call *call, unsigned index, uint64_t bytes)
{
    struct proto_got got = rig_got_at(call, index);
    struct fabric_piece *pieces = calloc(got.place_count + 1, sizeof(*pieces));
    uint64_t at = 0;
    for (uint32_t i = 0; i < got.place_count; i++) {
        struct proto_place place = proto_place_at(got.rows, i);
        pieces[i] = (struct fabric_piece){.local = call->client->memory + index * bytes + at,
                                          .remote = place.address,
                                          .bytes = place.bytes};
        at += place.bytes;
    }
    assert_true(at == bytes);
    enum umbp_status status =
        fabric_pull_wait(call->client->fabric, call->peer, call->epoch, pieces, got.place_count);
    free(pieces);
    return status;
}

/* Every value comes back as it was put. */
MAYBE_UNUSED static void rig_get(struct rig_client *client, fabric_peer peer, const char *prefix,
                                 unsigned first, unsigned count, uint64_t bytes,
                                 enum umbp_status status)
{
    struct rig_call call;
    rig_get_begin(&call, client, peer, prefix, first, count, bytes, 5000);
    rig_await(&call);
    assert_ok(call.status);
    for (unsigned i = 0; i < count; i++) {
        struct proto_got got = rig_got_at(&call, i);
        assert_int_equal(got.status, status);
        if (got.has_places) {
            assert_ok(rig_pull(&call, i, bytes));
        }
        if (got.status == UMBP_OK) {
            assert_true(test_check_fill(client->memory + i * bytes, bytes, first + i));
        }
    }
    rig_release(client, peer, call.request_id);
    rig_call_free(&call);
}

MAYBE_UNUSED static void rig_keys_begin(struct rig_call *call, struct rig_client *client,
                                        fabric_peer peer, enum proto_op op, const char *prefix,
                                        unsigned first, unsigned count)
{
    static struct named names[RIG_ITEMS];
    struct umbp_key keys[RIG_ITEMS];
    size_t bytes = 0;
    for (unsigned i = 0; i < count; i++) {
        keys[i] = name_key(&names[i], prefix, first + i);
    }
    assert_ok(proto_keys_encode(rig_buffer(), rig_next(client, 1000), op, 0, keys, count, &bytes));
    rig_send(call, client, peer, rig_frame, bytes, 1000, false);
}

#endif
