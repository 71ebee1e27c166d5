/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seeded histories of a whole small cluster: two nodes, a master, clients on their hosts and on
 * another, all of them stopped, killed, cut off and healed while they put and get. What must hold:
 *
 *   - every value read is, whole, one that was put to that node under that key; and while nothing
 *     was evicted and the node lived, always the first one, which is there from then on;
 *   - a client uses its memory again as soon as its call has ended, whatever the call came to;
 *   - no call of a client that runs ends later than 1 s after its deadline;
 *   - at the end every page, pin, reservation, lane and record has come back, and the index says
 *     what the nodes have.
 */
#include "cluster_rig.h"

#define KEYS 24u
#define ACTORS 4u
#define NODES 2u
#define ITEMS_MAX 4u
#define TAGS_MAX 512u
#define ITEM_ROOM (64u * 1024u)

static const struct node_options options = {
    .pin_ms = 400, .operations_max = 6, .pinned_bytes_max = 150000, .space_wait_ms = 20};
static const char *const masters[] = {"m0"};

/* What may be stored at a node under a key. */
struct record {
    uint64_t tags[TAGS_MAX];
    unsigned tag_count;
    uint64_t first;    /* known to be there; 0: not known */
    uint64_t first_ns; /* since then */
};

enum actor_state {
    ACTOR_IDLE,
    ACTOR_CONNECTING,
    ACTOR_CALLING,
    ACTOR_PULLING
};

struct history;

struct actor {
    struct history *history;
    struct rig_client *client;
    enum actor_state state;
    fabric_peer peers[NODES];
    unsigned node; /* of what is under way */
    bool is_put;
    bool is_removal; /* of keys, or of all */
    bool was_stopped;
    bool is_stopped;
    unsigned keys[ITEMS_MAX];
    uint64_t tags[ITEMS_MAX];
    unsigned count;
    uint64_t begun_ns;
    uint64_t deadline_ns;
    unsigned lives[NODES]; /* of the node when the call began */
    struct rig_call call;
    struct fabric_piece pieces[ITEMS_MAX * 64];
    struct rig_connected connected;
    bool pull_done;
    enum umbp_status pull_status;
};

struct history {
    struct rig_world world;
    struct rig_master master;
    struct actor actors[ACTORS];
    struct record records[NODES][KEYS];
    unsigned lives[NODES]; /* how often the node was started anew, with nothing */
    bool evicts;
    uint64_t next_tag;
    uint64_t seed;
    unsigned gets, puts, stale, failed, expired;
};

static uint64_t size_of(unsigned key) { return 64 + (uint64_t)key * 997 % 30000; }

static void fill_value(uint8_t *data, uint64_t bytes, uint64_t tag)
{
    test_fill(data, bytes, tag);
    memcpy(data, &tag, sizeof(tag));
}

static bool value_is_whole(const uint8_t *data, uint64_t bytes, uint64_t tag)
{
    uint8_t *wanted = malloc(bytes);
    fill_value(wanted, bytes, tag);
    bool same = memcmp(wanted, data, bytes) == 0;
    free(wanted);
    return same;
}

#define FAULT(history, ...)                                                                        \
    do {                                                                                           \
        print_error("seed %llu: ", (unsigned long long)(history)->seed);                           \
        fail_msg(__VA_ARGS__);                                                                     \
    } while (0)

/* ------------------------------------------------------------------- what must hold ------ */

static void note_first(struct history *history, unsigned node, unsigned key, uint64_t tag)
{
    struct record *record = &history->records[node][key];
    if (record->first && record->first != tag && !history->evicts) {
        FAULT(history, "key %u of node %u had two values", key, node);
    }
    if (!record->first) {
        record->first_ns = rig_in_ms(&history->world, 0);
    }
    record->first = tag;
}

static void check_value(struct history *history, const struct actor *actor, unsigned index)
{
    unsigned key = actor->keys[index];
    struct record *record = &history->records[actor->node][key];
    const uint8_t *data = actor->client->memory + index * ITEM_ROOM;
    uint64_t tag = 0;
    memcpy(&tag, data, sizeof(tag));
    bool is_known = false;
    for (unsigned i = 0; i < record->tag_count; i++) {
        is_known |= record->tags[i] == tag;
    }
    if (!is_known || !value_is_whole(data, size_of(key), tag)) {
        FAULT(history, "key %u of node %u: bytes that nobody put there", key, actor->node);
    }
    note_first(history, actor->node, key, tag);
    history->gets++;
}

static void end_put(struct history *history, struct actor *actor, bool same_life)
{
    for (unsigned i = 0; i < actor->count && same_life; i++) {
        enum umbp_status status = rig_status_at(&actor->call, i);
        struct record *record = &history->records[actor->node][actor->keys[i]];
        if (status == UMBP_OK) {
            note_first(history, actor->node, actor->keys[i], actor->tags[i]);
            history->puts++;
        } else if (status == UMBP_ALREADY_EXISTS) {
            if (!record->tag_count) {
                FAULT(history, "already there, and nobody put it");
            }
        } else {
            history->failed++;
        }
    }
}

/* A call or a pull has ended: the memory is the application's again, which writes into it. */
static void end_call(struct actor *actor)
{
    memset(actor->client->memory, 0x5a, ITEMS_MAX * ITEM_ROOM);
    rig_call_free(&actor->call);
    actor->state = ACTOR_IDLE;
    actor->was_stopped = actor->is_stopped;
}

static void check_deadline(struct history *history, const struct actor *actor)
{
    if (!actor->was_stopped && !actor->is_stopped &&
        rig_in_ms(&history->world, 0) > actor->deadline_ns + NS_PER_S) {
        FAULT(
            history, "a call ended %llu ms late",
            (unsigned long long)((rig_in_ms(&history->world, 0) - actor->deadline_ns) / NS_PER_MS));
    }
}

/* ---------------------------------------------------------------------- the actors ------- */

static void on_pulled(void *context, enum umbp_status status)
{
    struct actor *actor = context;
    actor->pull_done = true;
    actor->pull_status = status;
}

/* What the reply's places say, into the client's memory. Items that were written already stay. */
static void begin_pull(struct actor *actor)
{
    size_t count = 0;
    for (unsigned i = 0; i < actor->count; i++) {
        struct proto_got got = rig_got_at(&actor->call, i);
        uint64_t at = 0;
        for (uint32_t p = 0; got.has_places && p < got.place_count; p++) {
            struct proto_place place = proto_place_at(got.rows, p);
            assert_true(count < ARRAY_COUNT(actor->pieces));
            actor->pieces[count++] =
                (struct fabric_piece){.local = actor->client->memory + i * ITEM_ROOM + at,
                                      .remote = place.address,
                                      .bytes = place.bytes};
            at += place.bytes;
        }
    }
    actor->state = ACTOR_PULLING;
    actor->pull_done = false;
    enum umbp_status status =
        fabric_pull(actor->client->fabric, actor->call.peer, actor->call.epoch, actor->pieces,
                    count, on_pulled, actor);
    if (status != UMBP_OK) {
        on_pulled(actor, status);
    }
}

static void end_get(struct history *history, struct actor *actor, bool same_life)
{
    bool pulled = actor->state == ACTOR_PULLING;
    /* What was put in a former life of the node is not known any more. */
    for (unsigned i = 0; i < actor->count && same_life && actor->call.status == UMBP_OK; i++) {
        struct proto_got got = rig_got_at(&actor->call, i);
        if (got.status == UMBP_OK && got.has_places && actor->pull_status != UMBP_OK) {
            history->stale += pulled;
        } else if (got.status == UMBP_OK) {
            check_value(history, actor, i);
        } else if (got.status == UMBP_NOT_FOUND && !history->evicts &&
                   history->records[actor->node][actor->keys[i]].first &&
                   history->records[actor->node][actor->keys[i]].first_ns < actor->begun_ns) {
            FAULT(history, "key %u of node %u is gone", actor->keys[i], actor->node);
        }
    }
    rig_release(actor->client, actor->call.peer, actor->call.request_id);
}

static void look_at(struct history *history, struct actor *actor)
{
    bool same_life = actor->lives[actor->node] == history->lives[actor->node];
    switch (actor->state) {
    case ACTOR_CONNECTING:
        if (actor->connected.is_done) {
            actor->peers[actor->node] = actor->connected.peer;
            actor->state = ACTOR_IDLE;
        }
        break;
    case ACTOR_CALLING:
        if (!actor->call.is_done) {
            break;
        }
        check_deadline(history, actor);
        if (actor->is_removal) {
            /* whatever it came to */
        } else if (actor->is_put) {
            end_put(history, actor, same_life);
        } else if (actor->call.status == UMBP_OK) {
            bool places = false;
            for (unsigned i = 0; i < actor->count; i++) {
                places |= rig_got_at(&actor->call, i).has_places;
            }
            if (places) {
                begin_pull(actor);
                break;
            }
            end_get(history, actor, same_life);
        }
        end_call(actor);
        break;
    case ACTOR_PULLING:
        if (actor->pull_done) {
            end_get(history, actor, same_life);
            end_call(actor);
        }
        break;
    case ACTOR_IDLE:
        break;
    }
}

static void begin_put(struct history *history, struct actor *actor)
{
    struct named names[ITEMS_MAX];
    struct proto_piece pieces[ITEMS_MAX];
    struct proto_put items[ITEMS_MAX];
    size_t bytes = 0;
    for (unsigned i = 0; i < actor->count; i++) {
        unsigned key = actor->keys[i];
        struct record *record = &history->records[actor->node][key];
        uint8_t *data = actor->client->memory + i * ITEM_ROOM;
        actor->tags[i] = ++history->next_tag;
        assert_true(record->tag_count < TAGS_MAX);
        record->tags[record->tag_count++] = actor->tags[i];
        fill_value(data, size_of(key), actor->tags[i]);
        pieces[i] =
            (struct proto_piece){(uint64_t)(uintptr_t)data, rig_key(actor->client), size_of(key)};
        items[i] = (struct proto_put){.key = name_key(&names[i], "k", key),
                                      .bytes = size_of(key),
                                      .pieces = &pieces[i],
                                      .piece_count = 1};
    }
    assert_ok(
        proto_put_encode(rig_buffer(), rig_next(actor->client, 100), items, actor->count, &bytes));
    uint64_t ms = 2 + rng_below(fabric_sim_rng(history->world.sim), 300);
    actor->deadline_ns = rig_in_ms(&history->world, ms);
    rig_send(&actor->call, actor->client, actor->peers[actor->node], rig_frame, bytes, ms, true);
}

static void begin_get(struct history *history, struct actor *actor)
{
    struct named names[ITEMS_MAX];
    struct proto_range ranges[ITEMS_MAX];
    struct proto_get items[ITEMS_MAX];
    size_t bytes = 0;
    for (unsigned i = 0; i < actor->count; i++) {
        unsigned key = actor->keys[i];
        uint8_t *data = actor->client->memory + i * ITEM_ROOM;
        ranges[i] = (struct proto_range){0, size_of(key), (uint64_t)(uintptr_t)data,
                                         rig_key(actor->client)};
        items[i] = (struct proto_get){.key = name_key(&names[i], "k", key),
                                      .bytes = size_of(key),
                                      .ranges = &ranges[i],
                                      .range_count = 1};
    }
    assert_ok(
        proto_get_encode(rig_buffer(), rig_next(actor->client, 100), items, actor->count, &bytes));
    uint64_t ms = 2 + rng_below(fabric_sim_rng(history->world.sim), 300);
    actor->deadline_ns = rig_in_ms(&history->world, ms);
    rig_send(&actor->call, actor->client, actor->peers[actor->node], rig_frame, bytes, ms, true);
}

/* Only where values go anyway. Their pages are soon somebody else's. */
static void begin_removal(struct history *history, struct actor *actor)
{
    struct named names[ITEMS_MAX];
    struct umbp_key keys[ITEMS_MAX];
    size_t bytes = 0;
    actor->deadline_ns = rig_in_ms(&history->world, 100);
    for (unsigned i = 0; i < actor->count; i++) {
        keys[i] = name_key(&names[i], "k", actor->keys[i]);
    }
    if (rng_below(fabric_sim_rng(history->world.sim), 10) == 0) {
        assert_ok(proto_bare_encode(rig_buffer(), rig_next(actor->client, 100), PROTO_CLEAR, 0,
                                    UMBP_OK, 0, &bytes));
    } else {
        assert_ok(proto_keys_encode(rig_buffer(), rig_next(actor->client, 100), PROTO_REMOVE, 0,
                                    keys, actor->count, &bytes));
    }
    rig_send(&actor->call, actor->client, actor->peers[actor->node], rig_frame, bytes, 100, false);
}

static void act(struct history *history, struct actor *actor)
{
    struct rng *rng = fabric_sim_rng(history->world.sim);
    if (actor->state != ACTOR_IDLE || actor->is_stopped) {
        return;
    }
    actor->node = (unsigned)rng_below(rng, NODES);
    if (!(fabric_peer_flags(actor->client->fabric, actor->peers[actor->node]) & FABRIC_PEER_UP)) {
        char name[16];
        snprintf(name, sizeof(name), "node%u", actor->node);
        actor->connected = (struct rig_connected){0};
        if (fabric_connect(actor->client->fabric, name, rig_in_ms(&history->world, 500),
                           rig_on_connected, &actor->connected) == UMBP_OK) {
            actor->state = ACTOR_CONNECTING;
        }
        return;
    }
    actor->count = 1 + (unsigned)rng_below(rng, ITEMS_MAX);
    for (unsigned i = 0; i < actor->count; i++) {
        actor->keys[i] = (unsigned)rng_below(rng, KEYS);
    }
    actor->is_put = rng_below(rng, 3) == 0;
    actor->is_removal = history->evicts && rng_below(rng, 8) == 0;
    actor->was_stopped = false;
    actor->begun_ns = rig_in_ms(&history->world, 0);
    memcpy(actor->lives, history->lives, sizeof(actor->lives));
    actor->state = ACTOR_CALLING;
    if (actor->is_removal) {
        begin_removal(history, actor);
    } else if (actor->is_put) {
        begin_put(history, actor);
    } else {
        begin_get(history, actor);
    }
}

/* ----------------------------------------------------------------------- the faults ------ */

static void open_actor(struct history *history, unsigned which)
{
    struct actor *actor = &history->actors[which];
    *actor = (struct actor){.history = history, .client = &history->world.clients[which]};
    rig_client_open(&history->world, which, which < NODES ? which : 3);
}

static void restart_actor(struct history *history, unsigned which)
{
    struct actor *actor = &history->actors[which];
    fabric_sim_kill(actor->client->fabric);
    rig_client_close(actor->client);
    rig_call_free(&actor->call);
    open_actor(history, which);
}

static struct store *new_store(const struct history *history)
{
    struct store_options store_options = small_options(history->evicts ? 256 * KIB : 2 * MIB);
    return make_store(&store_options);
}

static void start_node(struct history *history, unsigned which, struct store *store)
{
    struct node_options wishes = options;
    wishes.masters = masters;
    wishes.master_count = 1;
    rig_node_open(&history->world, which, which, store, &wishes);
}

/* kill -9: its memory is gone, and with it what it had. */
static void restart_node(struct history *history, unsigned which)
{
    struct rig_node *node = &history->world.nodes[which];
    fabric_sim_kill(node->fabric);
    rig_node_close(node);
    finish_store(node->store);
    memset(history->records[which], 0, sizeof(history->records[which]));
    history->lives[which]++;
    start_node(history, which, new_store(history));
}

static void trouble(struct history *history)
{
    struct fabric_sim *sim = history->world.sim;
    struct rng *rng = fabric_sim_rng(sim);
    struct actor *actor = &history->actors[rng_below(rng, ACTORS)];
    struct rig_node *node = &history->world.nodes[rng_below(rng, NODES)];

    switch (rng_below(rng, 12)) {
    case 0:
        fabric_sim_stop(actor->client->fabric);
        actor->is_stopped = actor->was_stopped = true;
        break;
    case 1:
    case 2:
        for (unsigned i = 0; i < ACTORS; i++) {
            fabric_sim_continue(history->actors[i].client->fabric);
            history->actors[i].is_stopped = false;
        }
        break;
    case 3:
        fabric_sim_stop(node->fabric);
        break;
    case 4:
    case 5:
        fabric_sim_continue(history->world.nodes[0].fabric);
        fabric_sim_continue(history->world.nodes[1].fabric);
        break;
    case 6:
        fabric_sim_cut(sim, (uint32_t)rng_below(rng, 6), (uint32_t)rng_below(rng, 6));
        break;
    case 7:
    case 8:
        fabric_sim_heal(sim);
        break;
    case 9:
        fabric_sim_break(actor->client->fabric, node->fabric);
        break;
    case 10:
        if (rng_below(rng, 3) == 0) {
            restart_actor(history, (unsigned)(actor - history->actors));
        }
        break;
    default:
        if (rng_below(rng, 6) == 0) {
            restart_node(history, (unsigned)(node - history->world.nodes));
        }
    }
}

static bool all_idle(struct history *history)
{
    bool idle = true;
    for (unsigned i = 0; i < ACTORS; i++) {
        look_at(history, &history->actors[i]);
        idle &= history->actors[i].state == ACTOR_IDLE;
    }
    return idle;
}

static bool index_is_right(struct history *history)
{
    struct named named;
    for (unsigned i = 0; i < KEYS; i++) {
        struct umbp_key key = name_key(&named, "k", i);
        bool there =
            holds(history->world.nodes[0].store, key) || holds(history->world.nodes[1].store, key);
        if (rig_master_knows(&history->master, key) != there) {
            return false;
        }
    }
    return true;
}

/* Everybody goes on, nobody begins anything: all must come to rest. */
static void settle(struct history *history)
{
    fabric_sim_heal(history->world.sim);
    for (unsigned i = 0; i < ACTORS; i++) {
        fabric_sim_continue(history->actors[i].client->fabric);
    }
    for (unsigned i = 0; i < NODES; i++) {
        fabric_sim_continue(history->world.nodes[i].fabric);
    }
    bool idle = false;
    for (unsigned i = 0; i < 500 && !idle; i++) {
        rig_advance(&history->world, 10);
        idle = all_idle(history);
    }
    if (!idle) {
        FAULT(history, "a call never ends");
    }
    rig_advance(&history->world, 1000); /* pins, at the latest */
    for (unsigned i = 0; i < NODES; i++) {
        const struct rig_node *node = &history->world.nodes[i];
        history->expired += (unsigned)rig_node_stat(node, "node.pins_expired");
        if (rig_node_stat(node, "node.operations_now") || rig_node_stat(node, "node.grants_now") ||
            stat_of(node->store, "reservations")) {
            FAULT(history, "node %u keeps something", i);
        }
    }
    bool right = false;
    for (unsigned i = 0; i < 550 && !right; i++) { /* a beat, and what a list takes */
        rig_advance(&history->world, 10);
        right = index_is_right(history);
    }
    if (!right) {
        FAULT(history, "the index is wrong for good");
    }
}

static void run_history(uint64_t seed, struct history *history)
{
    *history = (struct history){.seed = seed, .evicts = seed % 2};
    rig_begin_slow(&history->world, seed, seed % 3 == 0);
    rig_master_open(&history->world, &history->master, 5, "m0");
    for (unsigned i = 0; i < NODES; i++) {
        start_node(history, i, new_store(history));
    }
    for (unsigned i = 0; i < ACTORS; i++) {
        open_actor(history, i);
    }
    struct rng *rng = fabric_sim_rng(history->world.sim);
    for (unsigned step = 0; step < 1200; step++) {
        struct actor *actor = &history->actors[rng_below(rng, ACTORS)];
        act(history, actor);
        if (rng_below(rng, 25) == 0) {
            trouble(history);
        }
        fabric_sim_run(history->world.sim,
                       rig_in_ms(&history->world, 0) +
                           rng_below(rng, rng_below(rng, 30) ? NS_PER_MS : NS_PER_S));
        (void)all_idle(history);
    }
    settle(history);
    rig_master_close(&history->master);
    rig_end(&history->world);
}

static void every_read_is_the_first_committed_value_or_a_miss(void **state)
{
    unsigned rounds = test_is_slow() ? 12 : 800;
    const char *wish = getenv("UMBP_TEST_ROUNDS");
    static struct history history;
    unsigned gets = 0;
    unsigned puts = 0;
    unsigned stale = 0;
    unsigned failed = 0;
    unsigned expired = 0;
    (void)state;
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    rounds = wish ? (unsigned)strtoul(wish, NULL, 10) : rounds;
    for (unsigned i = 0; i < rounds; i++) {
        run_history(test_seed() + i, &history);
        gets += history.gets;
        puts += history.puts;
        stale += history.stale;
        failed += history.failed;
        expired += history.expired;
    }
    print_message(
        "%u values read, %u stored, %u puts failed, %u pulls thrown away, %u pins expired\n", gets,
        puts, failed, stale, expired);
    assert_true(gets > rounds * 20 && puts > rounds * 5 && failed > 0);
    assert_true(stale > 0 || rounds < 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_read_is_the_first_committed_value_or_a_miss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
