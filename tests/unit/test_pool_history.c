/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seeded histories of several pool clients at once: processes with stores and without, on shared
 * and on other hosts, that put, get, look and remove in batches while connections break, hosts are
 * cut off, owners stop and are killed, and the master is killed and comes back. What must hold:
 *
 *   - every value read is, whole, one that was put under that key, and put before the read ended;
 *   - a buffer is the caller's again as soon as its call has ended: it is overwritten at once, and
 *     never changes afterwards;
 *   - no call ends later than 1.5 s after its time; no put reports what is no outcome of a put;
 *   - while nothing fails, no miss is for want of an answer: busy nodes, stale bytes, lost races;
 *   - at the end nothing is held: pins, pages, reservations, records; and the index says what the
 *     nodes have.
 */
#include "pool_rig.h"

#define KEYS 64u
#define OWNERS 3u
#define CLIENTS 2u
#define PROCESSES (OWNERS + CLIENTS)
#define ACTORS 6u
#define ITEMS_MAX 6u
#define ITEM_ROOM (32u * KIB)
#define TAGS_MAX 20000u
#define STEPS 60u
#define OP_TIMEOUT_MS 400u

struct history;

struct actor {
    struct history *history;
    unsigned process;
    uint8_t *memory; /* ITEMS_MAX rooms */
};

struct history {
    struct rig_world world;
    struct rig_master master;
    struct rig_process processes[PROCESSES];
    struct actor actors[ACTORS];
    unsigned key_of[TAGS_MAX]; /* of each tag that was put */
    unsigned next_tag;
    unsigned running; /* actors */
    bool has_chaos;
    unsigned gets, hits, puts, stored, stale, unsure;
    struct fabric *bystander; /* sleeps are on it */
};

static uint64_t size_of(unsigned key) { return 64 + (uint64_t)key * 997 % 30000; }

static void fill_value(uint8_t *data, uint64_t bytes, uint64_t tag)
{
    memcpy(data, &tag, sizeof(tag));
    test_fill(data + sizeof(tag), bytes - sizeof(tag), tag);
}

static uint64_t below(struct history *history, uint64_t limit)
{
    return rng_below(fabric_sim_rng(history->world.sim), limit);
}

static uint8_t *room_of(const struct actor *actor, unsigned i)
{
    return actor->memory + (size_t)i * ITEM_ROOM;
}

static bool is_marked(const struct actor *actor)
{
    for (size_t i = 0; i < (size_t)ITEMS_MAX * ITEM_ROOM; i++) {
        if (actor->memory[i] != 0x5a) {
            return false;
        }
    }
    return true;
}

/* The memory is ours: nobody may read it with success, or write it, from here on. */
static void take_back(struct actor *actor)
{
    memset(actor->memory, 0x5a, (size_t)ITEMS_MAX * ITEM_ROOM);
}

static unsigned pick_keys(struct history *history, unsigned *keys, struct umbp_key *names,
                          struct named *texts)
{
    unsigned count = 1 + (unsigned)below(history, ITEMS_MAX);
    for (unsigned i = 0; i < count; i++) {
        keys[i] = (unsigned)below(history, KEYS);
        names[i] = name_key(&texts[i], "k", keys[i]);
    }
    return count;
}

static void check_value(struct history *history, const uint8_t *data, unsigned key)
{
    uint64_t tag;
    memcpy(&tag, data, sizeof(tag));
    if (tag == 0 || tag >= history->next_tag || history->key_of[tag] != key ||
        !test_check_fill(data + sizeof(tag), size_of(key) - sizeof(tag), tag)) {
        printf("wrong bytes: key %u tag %llu\n", key, (unsigned long long)tag);
        abort();
    }
}

static void put_some(struct actor *actor, struct pool *pool)
{
    struct history *history = actor->history;
    unsigned keys[ITEMS_MAX];
    struct umbp_key names[ITEMS_MAX];
    struct named texts[ITEMS_MAX];
    struct umbp_range ranges[ITEMS_MAX][2];
    struct umbp_range_item items[ITEMS_MAX];
    struct umbp_put_item plain[ITEMS_MAX];
    enum umbp_status statuses[ITEMS_MAX];
    unsigned count = pick_keys(history, keys, names, texts);
    bool has_ranges = below(history, 2);

    for (unsigned i = 0; i < count; i++) {
        uint64_t bytes = size_of(keys[i]);
        uint64_t half = 1 + below(history, bytes - 1);
        unsigned tag = history->next_tag++;
        ASSERT(tag < TAGS_MAX);
        history->key_of[tag] = keys[i];
        fill_value(room_of(actor, i), bytes, tag);
        ranges[i][1] = (struct umbp_range){room_of(actor, i), half, 0};
        ranges[i][0] = (struct umbp_range){room_of(actor, i) + half, bytes - half, half};
        items[i] = (struct umbp_range_item){
            .key = names[i], .ranges = ranges[i], .range_count = 2, .object_bytes = bytes};
        plain[i] =
            (struct umbp_put_item){.key = names[i], .data = room_of(actor, i), .bytes = bytes};
    }
    assert_ok(has_ranges ? pool_batch_put_ranges(pool, items, count, statuses)
                         : pool_batch_put(pool, plain, count, statuses));
    take_back(actor);
    for (unsigned i = 0; i < count; i++) {
        history->puts++;
        history->stored += umbp_status_is_success(statuses[i]);
        switch (statuses[i]) {
        case UMBP_OK:
        case UMBP_ALREADY_EXISTS:
        case UMBP_NO_SPACE:
        case UMBP_TIMEOUT:
        case UMBP_IO:
        case UMBP_BUSY:
            break;
        default:
            printf("put: %s\n", umbp_status_name(statuses[i]));
            abort();
        }
    }
}

static void get_some(struct actor *actor, struct pool *pool)
{
    struct history *history = actor->history;
    unsigned keys[ITEMS_MAX];
    struct umbp_key names[ITEMS_MAX];
    struct named texts[ITEMS_MAX];
    struct umbp_range ranges[ITEMS_MAX][2];
    struct umbp_range_item items[ITEMS_MAX];
    struct umbp_get_item plain[ITEMS_MAX];
    enum umbp_status statuses[ITEMS_MAX];
    unsigned count = pick_keys(history, keys, names, texts);
    unsigned kind = (unsigned)below(history, 3);

    for (unsigned i = 0; i < count; i++) {
        uint64_t bytes = size_of(keys[i]);
        uint64_t half = 1 + below(history, bytes - 1);
        ranges[i][1] = (struct umbp_range){room_of(actor, i), half, 0};
        ranges[i][0] = (struct umbp_range){room_of(actor, i) + half, bytes - half, half};
        items[i] = (struct umbp_range_item){.key = names[i],
                                            .ranges = ranges[i],
                                            .range_count = 2,
                                            .object_bytes = kind == 1 ? bytes : 0};
        plain[i] =
            (struct umbp_get_item){.key = names[i], .data = room_of(actor, i), .bytes = bytes};
    }
    assert_ok(kind ? pool_batch_get_ranges(pool, items, count, statuses)
                   : pool_batch_get(pool, plain, count, statuses));
    for (unsigned i = 0; i < count; i++) {
        history->gets++;
        history->hits += statuses[i] == UMBP_OK;
        if (statuses[i] == UMBP_OK) {
            check_value(history, room_of(actor, i), keys[i]);
        } else if (statuses[i] != UMBP_NOT_FOUND) {
            printf("get: %s\n", umbp_status_name(statuses[i]));
            abort();
        }
    }
    take_back(actor);
}

static void look_or_remove(struct actor *actor, struct pool *pool)
{
    struct history *history = actor->history;
    unsigned keys[ITEMS_MAX];
    struct umbp_key names[ITEMS_MAX];
    struct named texts[ITEMS_MAX];
    enum umbp_status statuses[ITEMS_MAX];
    uint8_t found[ITEMS_MAX];
    unsigned count = pick_keys(history, keys, names, texts);

    if (below(history, 3)) {
        assert_ok(pool_batch_exists(pool, names, count, found));
    } else {
        assert_ok(pool_batch_remove(pool, names, count, statuses));
    }
}

static void act(void *argument)
{
    struct actor *actor = argument;
    struct history *history = actor->history;
    struct pool *pool = history->processes[actor->process].pool;

    take_back(actor);
    for (unsigned step = 0; step < STEPS; step++) {
        uint64_t begun_ns = rig_in_ms(&history->world, 0);
        unsigned kind = (unsigned)below(history, 10);
        if (kind < 4) {
            put_some(actor, pool);
        } else if (kind < 9) {
            get_some(actor, pool);
        } else {
            look_or_remove(actor, pool);
        }
        if (rig_in_ms(&history->world, 0) - begun_ns > (OP_TIMEOUT_MS + 1500) * NS_PER_MS) {
            printf("late: %llu ms\n",
                   (unsigned long long)((rig_in_ms(&history->world, 0) - begun_ns) / NS_PER_MS));
            abort();
        }
        rig_fiber_sleep(history->bystander, below(history, 20 * NS_PER_MS));
        if (!is_marked(actor)) {
            printf("a byte came late\n");
            abort();
        }
    }
    history->running--;
}

static void index_is_right(struct history *history)
{
    for (unsigned i = 0; i < KEYS; i++) {
        struct named named;
        struct umbp_key key = name_key(&named, "k", i);
        bool is_there = false;
        for (unsigned p = 0; p < OWNERS; p++) {
            is_there |= holds(history->processes[p].store, key);
        }
        if (rig_master_knows(&history->master, key) != is_there) {
            printf("key %u is%s on a node\n", i, is_there ? "" : " not");
            abort();
        }
    }
}

/* ----------------------------------------------------------------------------- chaos ----- */

static struct store *open_store(void)
{
    struct store_options options = small_options(128 * KIB);
    options.hash_seed = RIG_SEED;
    options.event_bytes = MIB;
    return make_store(&options);
}

static void open_process(struct history *history, unsigned which)
{
    const struct pool_options wishes = {.op_timeout_ms = OP_TIMEOUT_MS,
                                        .recache = (enum pool_recache)(which % 3),
                                        .recache_bytes = 8000,
                                        .recache_below = 0.9};
    const struct node_options node_wishes = {.pin_ms = which == 0 ? 5 : 300,
                                             .operations_max = 6,
                                             .pinned_bytes_max = 60000,
                                             .space_wait_ms = 20};
    char name[16];
    snprintf(name, sizeof(name), "p%u", which);
    /* p0 and p3 share a host, p1 and p4 do. */
    rig_process_open(&history->world, &history->processes[which], name, which % OWNERS,
                     which < OWNERS ? open_store() : NULL, &node_wishes, &wishes);
}

static struct fabric *some_fabric(struct history *history)
{
    unsigned which = (unsigned)below(history, PROCESSES + 1);
    return which == PROCESSES ? history->master.fabric : history->processes[which].fabric;
}

static void restart(struct history *history)
{
    struct rig_process *process = &history->processes[2]; /* nobody calls from it */
    fabric_sim_kill(process->fabric);
    rig_fiber_sleep(history->bystander, below(history, 800 * NS_PER_MS));
    rig_process_end(process);
    open_process(history, 2);
}

static void chaos(void *argument)
{
    struct history *history = argument;
    while (history->running && history->has_chaos) {
        rig_fiber_sleep(history->bystander, below(history, 150 * NS_PER_MS));
        switch (below(history, 7)) {
        case 0:
        case 1:
            fabric_sim_break(some_fabric(history), some_fabric(history));
            break;
        case 2:
            fabric_sim_cut(history->world.sim, (uint32_t)below(history, OWNERS),
                           below(history, 3) ? (uint32_t)below(history, OWNERS) : 9);
            rig_fiber_sleep(history->bystander, below(history, 900 * NS_PER_MS));
            fabric_sim_heal(history->world.sim);
            break;
        case 3:
        case 4: {
            struct fabric *stopped =
                below(history, 3) ? history->processes[2].fabric : history->master.fabric;
            fabric_sim_stop(stopped);
            rig_fiber_sleep(history->bystander, below(history, 1200 * NS_PER_MS));
            fabric_sim_continue(stopped);
            break;
        }
        case 5:
            restart(history);
            break;
        default:
            fabric_sim_kill(history->master.fabric);
            rig_fiber_sleep(history->bystander, below(history, 300 * NS_PER_MS));
            rig_master_close(&history->master);
            rig_master_open(&history->world, &history->master, 9, "m0");
        }
    }
}

static void run_history(uint64_t seed, bool has_chaos, bool is_slow)
{
    static struct history history;
    struct rig_fiber fibers[ACTORS + 1] = {0};
    static const unsigned process_of[ACTORS] = {0, 1, 3, 4, 0, 3};

    memset(&history, 0, sizeof(history));
    history.next_tag = 1;
    history.has_chaos = has_chaos;
    history.running = ACTORS;
    rig_begin_slow(&history.world, seed, is_slow);
    rig_master_open(&history.world, &history.master, 9, "m0");
    const struct fabric_options options = {.struct_bytes = sizeof(options), .cluster = "by"};
    const struct fabric_handlers handlers = {0};
    assert_ok(fabric_sim_open(history.world.sim, 10, &options, &handlers, &history.bystander));
    rig_fibers_join(history.bystander);
    for (unsigned i = 0; i < PROCESSES; i++) {
        open_process(&history, i);
    }
    rig_advance(&history.world, 500);
    for (unsigned i = 0; i < ACTORS; i++) {
        history.actors[i] = (struct actor){.history = &history,
                                           .process = process_of[i],
                                           .memory = malloc((size_t)ITEMS_MAX * ITEM_ROOM)};
        fibers[i].run = act;
        fibers[i].argument = &history.actors[i];
    }
    fibers[ACTORS].run = chaos;
    fibers[ACTORS].argument = &history;
    rig_fibers_run(&history.world, fibers, ACTORS + 1);
    fabric_sim_heal(history.world.sim);
    rig_advance(&history.world, 5500); /* a beat, and what a list takes */
    index_is_right(&history);
    for (unsigned i = 0; i < ACTORS; i++) {
        if (!is_marked(&history.actors[i])) {
            printf("a byte came after the last call\n");
            abort();
        }
    }
    for (unsigned i = 0; i < PROCESSES; i++) {
        struct rig_process *process = &history.processes[i];
        struct umbp_stat_value values[64];
        size_t count = 0;
        if (process->node) {
            node_stats(process->node, values, 64, &count);
            for (size_t v = 0; v < count; v++) {
                bool is_held = strcmp(values[v].name, "node.grants_now") == 0 ||
                               strcmp(values[v].name, "node.operations_now") == 0;
                if (is_held && values[v].value) {
                    printf("%s %llu\n", values[v].name, (unsigned long long)values[v].value);
                    abort();
                }
            }
        }
        history.unsure += (unsigned)rig_pool_stat(process, "pool.misses_unsure");
        history.stale += (unsigned)rig_pool_stat(process, "pool.stale_pulls");
        rig_process_end(process);
    }
    for (unsigned i = 0; i < ACTORS; i++) {
        free(history.actors[i].memory); /* after the endpoints: pulls may come late */
    }
    if (!has_chaos) {
        assert_int_equal(history.unsure, 0);
    }
    assert_ok(fabric_close(history.bystander, 0));
    fabric_destroy(history.bystander);
    rig_master_close(&history.master);
    rig_end(&history.world);
    if (getenv("UMBP_TEST_VERBOSE")) {
        printf("seed %llu: %u puts, %u stored, %u gets, %u hits, %u stale, %u unsure\n",
               (unsigned long long)seed, history.puts, history.stored, history.gets, history.hits,
               history.stale, history.unsure);
    }
}

static unsigned rounds(unsigned slow, unsigned otherwise)
{
    const char *wish = getenv("UMBP_TEST_ROUNDS");
    return wish ? (unsigned)strtoul(wish, NULL, 10) : test_is_slow() ? slow : otherwise;
}

static void every_read_is_whole_and_of_its_key(void **state)
{
    uint64_t seed = test_seed();
    (void)state;
    for (unsigned i = 0; i < rounds(4, 20); i++) {
        printf("history %llu\n", (unsigned long long)(seed + i));
        fflush(stdout);
        run_history(seed + i, false, i % 2);
    }
}

static void every_read_is_whole_and_of_its_key_whatever_fails(void **state)
{
    uint64_t seed = test_seed();
    (void)state;
    for (unsigned i = 0; i < rounds(12, 100); i++) {
        printf("history %llu\n", (unsigned long long)(seed + i));
        fflush(stdout);
        run_history(seed + i, true, i % 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_read_is_whole_and_of_its_key),
        cmocka_unit_test(every_read_is_whole_and_of_its_key_whatever_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
