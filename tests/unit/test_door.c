/* SPDX-License-Identifier: Apache-2.0 */
/* The master's fabric door, asked over a simulated network by frames as nodes and clients send. */
#include "support.h"

#include <string.h>

#include "door/door.h"
#include "fabric/fabric_sim.h"
#include "proto/proto.h"

#define SEED UINT64_C(0x5eed)

struct world {
    struct fabric_sim *sim;
    struct master *master;
    struct door *door;
    struct fabric *served;
    struct fabric *asker;
    fabric_peer peer;
    uint64_t id;
    uint8_t frame[PROTO_EAGER_MAX];
    size_t frame_bytes;
    /* The last answer. */
    bool answered;
    enum umbp_status status;
    uint8_t answer[PROTO_EAGER_MAX];
    size_t answer_bytes;
    struct proto_frame opened;
};

static struct world world;

static void on_connected(void *context, enum umbp_status status, fabric_peer peer)
{
    (void)context;
    assert_int_equal(status, UMBP_OK);
    world.peer = peer;
}

static bool is_connected(void *context)
{
    (void)context;
    return world.peer != 0;
}

static bool is_answered(void *context)
{
    (void)context;
    return world.answered;
}

static void on_answer(void *context, const struct fabric_reply *reply)
{
    (void)context;
    world.answered = true;
    world.status = reply->status;
    world.answer_bytes = reply->bytes;
    assert_true(reply->bytes <= sizeof(world.answer));
    if (reply->bytes) {
        memcpy(world.answer, reply->data, reply->bytes);
    }
}

static uint64_t in(uint64_t ms) { return clock_deadline_ns(fabric_sim_clock(world.sim), ms); }

static void connect_asker(void)
{
    world.peer = 0;
    assert_int_equal(fabric_connect(world.asker, "master", in(1000), on_connected, NULL), UMBP_OK);
    assert_true(fabric_sim_run_until(world.sim, is_connected, NULL, in(1000)));
}

static int setup(void **state)
{
    struct master_options master_options;
    struct fabric_handlers handlers;
    const struct fabric_sim_options sim_options = {.seed = SEED};
    const struct fabric_options served = {.struct_bytes = sizeof(served), .listen = "master"};
    const struct fabric_options asking = {.struct_bytes = sizeof(asking)};
    char error[256];
    (void)state;
    memset(&world, 0, sizeof(world));
    assert_int_equal(fabric_sim_create(&sim_options, &world.sim), UMBP_OK);
    master_options_default(&master_options);
    master_options.clock = fabric_sim_clock(world.sim);
    master_options.seed = SEED;
    master_options.advise_all = true;
    assert_int_equal(master_create(&master_options, &world.master, error, sizeof(error)), UMBP_OK);
    const struct door_options door_options = {.master = world.master};
    assert_int_equal(door_create(&door_options, &world.door), UMBP_OK);
    door_handlers(world.door, &handlers);
    assert_int_equal(fabric_sim_open(world.sim, 0, &served, &handlers, &world.served), UMBP_OK);
    door_start(world.door, world.served);
    assert_int_equal(
        fabric_sim_open(world.sim, 1, &asking, &(struct fabric_handlers){0}, &world.asker),
        UMBP_OK);
    connect_asker();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    assert_int_equal(fabric_close(world.asker, in(1000)), UMBP_OK);
    fabric_destroy(world.asker);
    assert_int_equal(fabric_close(world.served, in(1000)), UMBP_OK);
    fabric_destroy(world.served);
    door_destroy(world.door);
    master_destroy(world.master);
    fabric_sim_destroy(world.sim);
    return 0;
}

/* Send the frame in world.frame and wait for the answer. */
static void ask(void)
{
    const struct iovec part = {world.frame, world.frame_bytes};
    const struct fabric_call call = {
        .peer = world.peer,
        .parts = &part,
        .part_count = 1,
        .deadline_ns = in(1000),
        .done = on_answer,
    };
    world.answered = false;
    assert_int_equal(fabric_call(world.asker, &call), UMBP_OK);
    assert_true(fabric_sim_run_until(world.sim, is_answered, NULL, in(3000)));
    if (world.status == UMBP_OK) {
        assert_int_equal(proto_frame_open(world.answer, world.answer_bytes, &world.opened),
                         UMBP_OK);
        assert_true(world.opened.header.flags & PROTO_FLAG_REPLY);
        assert_int_equal(world.opened.header.request_id, world.id);
    }
}

static struct proto_buffer buffer(void)
{
    return (struct proto_buffer){world.frame, sizeof(world.frame)};
}

static struct proto_call next_call(void)
{
    return (struct proto_call){.request_id = ++world.id, .time_left_ms = 1000};
}

static struct proto_capacity dram(uint64_t total, uint64_t used)
{
    return (struct proto_capacity){
        .tier = PROTO_TIER_DRAM, .total_bytes = total, .used_bytes = used};
}

static struct proto_session register_node(const char *id, uint64_t incarnation,
                                          enum umbp_status *status_out)
{
    struct proto_session session = {0};
    const struct proto_capacity capacity = dram(1 << 30, 0);
    const struct proto_text tag = proto_text_of("zone=a");
    const struct proto_register node = {
        .id = proto_text_of(id),
        .address = proto_text_of("10.0.0.1:7000"),
        .incarnation = incarnation,
        .capacities = &capacity,
        .capacity_count = 1,
        .tags = &tag,
        .tag_count = 1,
    };
    assert_int_equal(proto_register_encode(buffer(), next_call(), &node, &world.frame_bytes),
                     UMBP_OK);
    ask();
    *status_out = world.opened.header.status;
    if (*status_out == UMBP_OK) {
        assert_int_equal(proto_session_decode(&world.opened, &session), UMBP_OK);
    }
    return session;
}

static struct fingerprint print_of(unsigned number) { return hash_key(&number, sizeof(number), 7); }

static struct proto_session beat(enum proto_op op, const struct proto_beat *what, unsigned from,
                                 unsigned count, bool is_add)
{
    struct proto_event events[64];
    struct proto_session session;
    for (unsigned i = 0; i < count; i++) {
        events[i] = (struct proto_event){
            .print = print_of(from + i),
            .bytes = 4096,
            .depth = i,
            .tier = PROTO_TIER_DRAM,
            .is_add = is_add,
        };
    }
    assert_int_equal(
        proto_beat_encode(buffer(), next_call(), op, what, events, count, &world.frame_bytes),
        UMBP_OK);
    ask();
    assert_int_equal(world.opened.header.status, UMBP_OK);
    assert_int_equal(proto_session_decode(&world.opened, &session), UMBP_OK);
    return session;
}

/* ROUTE_PUT or ROUTE_GET of one key; the handle of the node, or 0. */
static struct proto_route route(enum proto_op op, unsigned number, uint32_t exclude,
                                struct proto_node *node_out)
{
    const struct proto_want want = {print_of(number), 4096};
    const struct proto_ask what = {
        .wants_nodes = node_out != NULL, .exclude = &exclude, .exclude_count = exclude != 0};
    struct proto_members members;
    struct proto_walk walk;
    struct proto_route found;
    assert_int_equal(
        proto_ask_encode(buffer(), next_call(), op, &what, &want, 1, &world.frame_bytes), UMBP_OK);
    ask();
    assert_int_equal(world.opened.header.status, UMBP_OK);
    assert_int_equal(proto_routes_open(&world.opened, &members, &walk), UMBP_OK);
    assert_true(proto_route_next(&walk, &found));
    if (node_out) {
        memset(node_out, 0, sizeof(*node_out));
        (void)proto_node_next(&members.walk, node_out);
    }
    return found;
}

static bool is_found(unsigned number)
{
    const struct proto_want want = {.print = print_of(number)};
    const uint8_t *tiers;
    assert_int_equal(proto_ask_encode(buffer(), next_call(), PROTO_LOOKUP, &(struct proto_ask){0},
                                      &want, 1, &world.frame_bytes),
                     UMBP_OK);
    ask();
    assert_int_equal(world.opened.header.status, UMBP_OK);
    assert_int_equal(proto_found_open(&world.opened, &tiers), UMBP_OK);
    return tiers[0] != 0;
}

/* --------------------------------------------------------------------------------- tests --- */

static void what_a_node_reports_is_found_and_routed_to_it(void **state)
{
    enum umbp_status status;
    struct proto_node node;
    (void)state;
    struct proto_session session = register_node("n1", 11, &status);
    assert_int_equal(status, UMBP_OK);
    assert_true(session.node_index != 0);
    assert_int_equal(session.acked_sequence, 0);
    assert_true(session.heartbeat_ms > 0);
    assert_false(is_found(1));
    session =
        beat(PROTO_HEARTBEAT, &(struct proto_beat){.incarnation = 11, .sequence = 1}, 1, 3, true);
    assert_int_equal(session.acked_sequence, 1);
    assert_true(is_found(1) && is_found(3) && !is_found(4));
    struct proto_route found = route(PROTO_ROUTE_GET, 2, 0, &node);
    assert_int_equal(found.status, UMBP_OK);
    assert_int_equal(found.node_index, session.node_index);
    assert_int_equal(found.bytes, 4096);
    assert_int_equal(node.index, session.node_index);
    assert_int_equal(node.incarnation, 11);
    assert_memory_equal(node.address.data, "10.0.0.1:7000", node.address.bytes);
    assert_int_equal(route(PROTO_ROUTE_GET, 2, session.node_index, NULL).status, UMBP_NOT_FOUND);
    assert_int_equal(route(PROTO_ROUTE_PUT, 2, 0, NULL).status, UMBP_ALREADY_EXISTS);
    found = route(PROTO_ROUTE_PUT, 9, 0, NULL);
    assert_int_equal(found.status, UMBP_OK);
    assert_int_equal(found.node_index, session.node_index);
    assert_int_equal(route(PROTO_ROUTE_PUT, 9, session.node_index, NULL).status, UMBP_NO_SPACE);
    beat(PROTO_HEARTBEAT, &(struct proto_beat){.incarnation = 11, .sequence = 2}, 2, 1, false);
    assert_false(is_found(2));
}

static void a_gap_asks_for_a_full_sync_which_replaces_what_was_known(void **state)
{
    enum umbp_status status;
    (void)state;
    register_node("n1", 11, &status);
    beat(PROTO_HEARTBEAT, &(struct proto_beat){.incarnation = 11, .sequence = 1}, 1, 2, true);
    struct proto_session session =
        beat(PROTO_HEARTBEAT, &(struct proto_beat){.incarnation = 11, .sequence = 3}, 5, 1, true);
    assert_true(session.flags & PROTO_SESSION_SYNC_WANTED);
    assert_int_equal(session.acked_sequence, 1);
    assert_false(is_found(5));
    session =
        beat(PROTO_SYNC, &(struct proto_beat){.incarnation = 11, .sequence = 3, .sync_id = 77}, 5,
             4, true);
    assert_int_equal(session.next_chunk, 1);
    assert_true(is_found(1)); /* until the last chunk */
    session =
        beat(PROTO_SYNC,
             &(struct proto_beat){
                 .incarnation = 11, .sequence = 3, .sync_id = 77, .chunk = 1, .is_last = true},
             20, 4, true);
    assert_false(session.flags & PROTO_SESSION_SYNC_WANTED);
    assert_int_equal(session.acked_sequence, 3);
    assert_true(is_found(5) && is_found(23) && !is_found(1));
}

/* Of what is equally old the deepest goes first: the depths have come through. */
static void depths_reach_the_adviser(void **state)
{
    enum umbp_status status;
    struct master_advice advice;
    const struct proto_capacity full = dram(1 << 20, 1 << 20);
    (void)state;
    register_node("n1", 11, &status);
    beat(PROTO_HEARTBEAT,
         &(struct proto_beat){
             .incarnation = 11, .sequence = 1, .capacities = &full, .capacity_count = 1},
         1, 10, true);
    fabric_sim_run(world.sim, in(6000));
    while (master_tick(world.master) <= NS_PER_MS) {
    }
    assert_int_equal(master_advice_take(world.master, &advice), UMBP_OK);
    assert_int_equal(advice.count, 10);
    for (unsigned i = 0; i < 10; i++) {
        struct fingerprint print = print_of(10 - i);
        assert_memory_equal(&advice.victims[i].print, &print, sizeof(print));
    }
    master_advice_free(&advice);
}

static void a_beat_on_a_connection_that_did_not_register_is_told_so(void **state)
{
    (void)state;
    struct proto_session session =
        beat(PROTO_HEARTBEAT, &(struct proto_beat){.incarnation = 11, .sequence = 1}, 1, 1, true);
    assert_true(session.flags & PROTO_SESSION_UNKNOWN);
    assert_false(is_found(1));
}

static void a_second_living_node_of_that_name_is_refused_until_the_first_is_lost(void **state)
{
    enum umbp_status status;
    (void)state;
    register_node("n1", 11, &status);
    fabric_peer first = world.peer;
    connect_asker();
    register_node("n1", 12, &status);
    assert_int_equal(status, UMBP_BUSY);
    fabric_disconnect(world.asker, first);
    fabric_sim_run(world.sim, in(100));
    register_node("n1", 12, &status);
    assert_int_equal(status, UMBP_OK);
}

static void a_node_that_has_a_new_connection_is_not_lost_with_the_old_one(void **state)
{
    enum umbp_status status;
    (void)state;
    register_node("n1", 11, &status);
    fabric_peer first = world.peer;
    connect_asker();
    register_node("n1", 11, &status);
    assert_int_equal(status, UMBP_OK);
    beat(PROTO_HEARTBEAT, &(struct proto_beat){.incarnation = 11, .sequence = 1}, 1, 3, true);
    fabric_disconnect(world.asker, first);
    fabric_sim_run(world.sim, in(100));
    assert_true(is_found(1));
}

static void the_external_index_is_reported_matched_counted_and_revoked(void **state)
{
    enum umbp_status status;
    struct fingerprint prints[3] = {print_of(1), print_of(2), print_of(3)};
    struct proto_ext ext = {.node_id = proto_text_of("n1"), .tier = PROTO_TIER_HBM};
    struct proto_members members;
    struct proto_walk walk;
    struct proto_route row;
    uint64_t hits;
    (void)state;
    register_node("n1", 11, &status);
    assert_int_equal(proto_ext_encode(buffer(), next_call(), PROTO_EXT_REPORT, &ext, prints, 2,
                                      &world.frame_bytes),
                     UMBP_OK);
    ask();
    assert_int_equal(world.opened.header.status, UMBP_OK);
    ext = (struct proto_ext){.count_as_hit = true};
    assert_int_equal(proto_ext_encode(buffer(), next_call(), PROTO_EXT_MATCH, &ext, prints, 3,
                                      &world.frame_bytes),
                     UMBP_OK);
    ask();
    assert_int_equal(proto_routes_open(&world.opened, &members, &walk), UMBP_OK);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(proto_route_next(&walk, &row));
        assert_int_equal(row.bytes, i);
        assert_int_equal(row.tier, PROTO_TIER_HBM);
    }
    assert_false(proto_route_next(&walk, &row));
    assert_int_equal(proto_ext_encode(buffer(), next_call(), PROTO_EXT_HITS, &(struct proto_ext){0},
                                      prints, 3, &world.frame_bytes),
                     UMBP_OK);
    ask();
    assert_int_equal(proto_numbers_open(&world.opened, &walk), UMBP_OK);
    assert_true(proto_numbers_next(&walk, &hits));
    assert_int_equal(hits, 1);
    ext = (struct proto_ext){.node_id = proto_text_of("n1"), .tier = PROTO_TIER_NONE};
    assert_int_equal(proto_ext_encode(buffer(), next_call(), PROTO_EXT_REVOKE_ALL, &ext, NULL, 0,
                                      &world.frame_bytes),
                     UMBP_OK);
    ask();
    assert_int_equal(world.opened.header.status, UMBP_OK);
    assert_int_equal(proto_ext_encode(buffer(), next_call(), PROTO_EXT_MATCH,
                                      &(struct proto_ext){0}, prints, 3, &world.frame_bytes),
                     UMBP_OK);
    ask();
    assert_int_equal(world.opened.header.count, 0);
}

static void places_at_more_nodes_than_an_answer_names_are_told_as_left_off(void **state)
{
    const unsigned nodes = 256 + 14;
    const struct fingerprint prints[2] = {print_of(1), print_of(2)};
    const struct proto_ext ext = {0};
    struct door_counters counters;
    struct proto_members members;
    struct proto_walk walk;
    struct proto_route row;
    unsigned rows = 0;
    (void)state;
    for (unsigned i = 0; i < nodes; i++) {
        char id[8];
        struct master_registered registered;
        snprintf(id, sizeof(id), "n%u", i);
        const struct master_registration node = {.id = master_text_of(id), .incarnation = 1};
        assert_int_equal(master_register(world.master, &node, &registered), UMBP_OK);
        assert_int_equal(
            master_external_report(world.master, node.id, &prints[i % 2], 1, MASTER_TIER_DRAM),
            UMBP_OK);
    }
    assert_int_equal(proto_ext_encode(buffer(), next_call(), PROTO_EXT_MATCH, &ext, prints, 2,
                                      &world.frame_bytes),
                     UMBP_OK);
    ask();
    assert_int_equal(proto_routes_open(&world.opened, &members, &walk), UMBP_OK);
    while (proto_route_next(&walk, &row)) {
        rows++;
    }
    assert_int_equal(members.node_count, 256);
    assert_int_equal(rows, 256);
    assert_int_equal(members.left_off, nodes - 256);
    door_counters(world.door, &counters);
    assert_int_equal(counters.left_off, nodes - 256);
}

/* -------------------------------------------------- bundles that are lost and doubled ------ */

#define OWNED 40u
#define BUNDLES 60u
#define EVENTS_MAX 5u

/* An owner of OWNED keys, all that it ever told, and how its keys stood after each bundle. */
struct owner {
    struct rng rng;
    struct proto_event events[BUNDLES + 1][EVENTS_MAX];
    unsigned counts[BUNDLES + 1];
    bool has[BUNDLES + 1][OWNED];
};

static void owner_lives(struct owner *owner, uint64_t seed)
{
    memset(owner, 0, sizeof(*owner));
    rng_init(&owner->rng, seed);
    for (unsigned n = 1; n <= BUNDLES; n++) {
        memcpy(owner->has[n], owner->has[n - 1], sizeof(owner->has[n]));
        owner->counts[n] = 1 + (unsigned)rng_below(&owner->rng, EVENTS_MAX);
        for (unsigned i = 0; i < owner->counts[n]; i++) {
            unsigned key = (unsigned)rng_below(&owner->rng, OWNED);
            bool is_add = !owner->has[n][key];
            owner->has[n][key] = is_add;
            owner->events[n][i] = (struct proto_event){
                .print = print_of(key), .bytes = 100, .tier = PROTO_TIER_DRAM, .is_add = is_add};
        }
    }
}

static struct proto_session send(enum proto_op op, const struct proto_beat *what,
                                 const struct proto_event *events, unsigned count)
{
    struct proto_session session;
    assert_int_equal(
        proto_beat_encode(buffer(), next_call(), op, what, events, count, &world.frame_bytes),
        UMBP_OK);
    ask();
    assert_int_equal(world.opened.header.status, UMBP_OK);
    assert_int_equal(proto_session_decode(&world.opened, &session), UMBP_OK);
    return session;
}

static struct proto_session send_bundle(struct owner *owner, uint64_t number)
{
    const struct proto_beat what = {.incarnation = 11, .sequence = number};
    return send(PROTO_HEARTBEAT, &what, owner->events[number], owner->counts[number]);
}

/* All that it has after bundle `number`, in chunks of which some are doubled or swapped. */
static struct proto_session send_list(struct owner *owner, uint64_t number, uint64_t sync_id)
{
    struct proto_event list[OWNED];
    struct proto_session session = {0};
    unsigned count = 0;
    for (unsigned key = 0; key < OWNED; key++) {
        if (owner->has[number][key]) {
            list[count++] = (struct proto_event){
                .print = print_of(key), .bytes = 100, .tier = PROTO_TIER_DRAM, .is_add = true};
        }
    }
    unsigned chunks = 1 + count / 8;
    for (unsigned chunk = 0; chunk < chunks; chunk++) {
        bool is_swapped = chunk + 1 < chunks && rng_below(&owner->rng, 8) == 0;
        for (unsigned again = 1 + (rng_below(&owner->rng, 3) == 0); again; again--) {
            unsigned which = chunk + is_swapped;
            const struct proto_beat what = {.incarnation = 11,
                                            .sequence = number,
                                            .sync_id = sync_id,
                                            .chunk = which,
                                            .is_last = which + 1 == chunks};
            unsigned from = which * 8;
            session = send(PROTO_SYNC, &what, list + from, count - from < 8 ? count - from : 8);
        }
    }
    return session;
}

/* `listed`: of a list that is under way, whose keys may be seen already; or `number`. */
static void index_is_as_after(const struct owner *owner, uint64_t number, uint64_t listed,
                              uint64_t seed)
{
    for (unsigned key = 0; key < OWNED; key++) {
        bool may_be = owner->has[number][key] || owner->has[listed][key];
        bool is_there = is_found(key);
        if (is_there ? !may_be : owner->has[number][key]) {
            fail_msg("seed %llu: key %u after bundle %llu", (unsigned long long)seed, key,
                     (unsigned long long)number);
        }
    }
}

/* Fault 30: whatever arrives, in whatever order and however often, the index stands as the owner
 * did after the bundle that is acknowledged. */
static void bundles_lost(uint64_t seed)
{
    static struct owner owner;
    enum umbp_status status;
    uint64_t acked = 0;
    uint64_t sync_id = 0;
    uint64_t listed = 0;
    owner_lives(&owner, seed);
    register_node("n1", 11, &status);
    assert_int_equal(status, UMBP_OK);
    for (unsigned step = 0; step < 3 * BUNDLES && acked < BUNDLES; step++) {
        uint64_t number = acked + 1;
        if (rng_below(&owner.rng, 3) == 0) { /* an old one again, or one that overtook others */
            number = 1 + rng_below(&owner.rng, acked + 4);
            number = number < BUNDLES ? number : BUNDLES;
        }
        struct proto_session session = send_bundle(&owner, number);
        if (number > acked + 1) {
            assert_true(session.flags & PROTO_SESSION_SYNC_WANTED);
        }
        uint64_t told = session.acked_sequence;
        if (told && rng_below(&owner.rng, 8) == 0) { /* a list from long ago */
            session = send_list(&owner, rng_below(&owner.rng, told), ++sync_id);
            assert_int_equal(session.acked_sequence, told);
        } else if (session.flags & PROTO_SESSION_SYNC_WANTED && rng_below(&owner.rng, 2)) {
            uint64_t newest = u64_max(acked, number);
            session = send_list(&owner, newest, ++sync_id);
            listed = newest;
            assert_true(session.acked_sequence == acked || session.acked_sequence == newest);
        } else {
            assert_true(session.acked_sequence == acked ||
                        (number == acked + 1 && session.acked_sequence == number));
        }
        acked = session.acked_sequence;
        index_is_as_after(&owner, acked, session.sync_id ? listed : acked, seed);
    }
    assert_true(acked > BUNDLES / 4);
}

static void bundles_that_are_lost_doubled_and_reordered_never_show_what_was_not(void **state)
{
    unsigned rounds = test_is_slow() ? 5 : 60;
    (void)state;
    for (unsigned i = 0; i < rounds; i++) {
        bundles_lost(test_seed() + i);
        assert_int_equal(teardown(NULL), 0);
        assert_int_equal(setup(NULL), 0);
    }
}

/* The sum is right, and the version is not ours. */
static void a_frame_of_a_later_version_is_told_so(void **state)
{
    enum umbp_status status;
    uint16_t version = PROTO_VERSION + 1;
    (void)state;
    register_node("n1", 11, &status);
    memcpy(world.frame + 4, &version, sizeof(version));
    uint32_t crc = crc32c(0, world.frame, 44);
    crc = crc32c(crc, world.frame + PROTO_HEADER_BYTES, world.frame_bytes - PROTO_HEADER_BYTES);
    memcpy(world.frame + 44, &crc, sizeof(crc));
    ask();
    assert_int_equal(world.status, UMBP_VERSION);
    beat(PROTO_HEARTBEAT, &(struct proto_beat){.incarnation = 11, .sequence = 1}, 1, 3, true);
    assert_true(is_found(1)); /* and the connection goes on */
}

static void what_is_no_frame_or_no_masters_business_is_refused(void **state)
{
    struct door_counters counters;
    (void)state;
    memset(world.frame, 0xff, 200);
    world.frame_bytes = 200;
    ask();
    assert_int_equal(world.status, UMBP_CORRUPT);
    assert_int_equal(
        proto_bare_encode(buffer(), next_call(), PROTO_STATS, 0, UMBP_OK, 0, &world.frame_bytes),
        UMBP_OK);
    ask();
    assert_int_equal(world.opened.header.status, UMBP_UNSUPPORTED);
    door_counters(world.door, &counters);
    assert_int_equal(counters.refused, 2);
    assert_int_equal(counters.requests, 2);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_a_node_reports_is_found_and_routed_to_it),
        TEST(a_gap_asks_for_a_full_sync_which_replaces_what_was_known),
        TEST(depths_reach_the_adviser),
        TEST(a_beat_on_a_connection_that_did_not_register_is_told_so),
        TEST(a_second_living_node_of_that_name_is_refused_until_the_first_is_lost),
        TEST(a_node_that_has_a_new_connection_is_not_lost_with_the_old_one),
        TEST(the_external_index_is_reported_matched_counted_and_revoked),
        TEST(places_at_more_nodes_than_an_answer_names_are_told_as_left_off),
        TEST(bundles_that_are_lost_doubled_and_reordered_never_show_what_was_not),
        TEST(a_frame_of_a_later_version_is_told_so),
        TEST(what_is_no_frame_or_no_masters_business_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
