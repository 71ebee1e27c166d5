/* SPDX-License-Identifier: Apache-2.0 */
/* The pool client's rounds in a simulated cluster: what is asked again, of whom, and until when. */
#include "pool_rig.h"

#define PROCESSES 4u

struct cluster {
    struct rig_world world;
    struct rig_master master;
    struct rig_process processes[PROCESSES];
};

static struct store *open_store(uint64_t bytes)
{
    struct store_options options = small_options(bytes);
    options.hash_seed = RIG_SEED;
    options.event_bytes = MIB;
    return make_store(&options);
}

/* A master, `nodes` processes with stores on hosts of their own, and after them clients. */
static void begin(struct cluster *cluster, unsigned nodes, const struct node_options *wishes)
{
    const struct pool_options patient = {.op_timeout_ms = 100000};
    char name[16];
    memset(cluster, 0, sizeof(*cluster));
    rig_begin(&cluster->world, test_seed());
    rig_master_open(&cluster->world, &cluster->master, 9, "m0");
    for (unsigned i = 0; i < PROCESSES; i++) {
        snprintf(name, sizeof(name), "p%u", i);
        rig_process_open(&cluster->world, &cluster->processes[i], name, i,
                         i < nodes ? open_store(4 * MIB) : NULL, wishes, &patient);
    }
    rig_advance(&cluster->world, 1000);
}

static void end(struct cluster *cluster)
{
    for (unsigned i = 0; i < PROCESSES; i++) {
        rig_process_end(&cluster->processes[i]);
    }
    rig_master_close(&cluster->master);
    rig_end(&cluster->world);
}

static enum umbp_status get(struct rig_process *process, struct umbp_key key, uint64_t bytes,
                            uint64_t tag)
{
    uint8_t *data = calloc(1, bytes);
    const struct umbp_get_item item = {key, data, bytes};
    enum umbp_status status = UMBP_BUSY;
    assert_ok(pool_batch_get(process->pool, &item, 1, &status));
    if (status == UMBP_OK) {
        assert_true(test_check_fill(data, bytes, tag));
    }
    free(data);
    return status;
}

static void a_removal_reaches_every_holder(void **state)
{
    struct cluster cluster;
    struct umbp_key keys[20];
    struct named names[20];
    enum umbp_status statuses[20];
    (void)state;
    begin(&cluster, 3, NULL);
    for (unsigned i = 0; i < 20; i++) {
        keys[i] = name_key(&names[i], "k", i);
        for (unsigned n = 0; n < 1 + i % 3; n++) {
            assert_ok(put_value(cluster.processes[n].store, keys[i], 1000, i, 0));
        }
    }
    rig_advance(&cluster.world, 100);
    assert_ok(pool_batch_remove(cluster.processes[3].pool, keys, 20, statuses));
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(statuses[i], UMBP_OK);
        for (unsigned n = 0; n < 3; n++) {
            assert_int_equal(get_value(cluster.processes[n].store, keys[i], 1000, i),
                             UMBP_NOT_FOUND);
        }
    }
    end(&cluster);
}

struct reader {
    struct cluster *cluster;
    unsigned number;
};

static void read_one(void *argument)
{
    const struct reader *reader = argument;
    struct named named;
    struct umbp_key key = name_key(&named, "k", reader->number);
    assert_int_equal(get(&reader->cluster->processes[3], key, 50000, reader->number), UMBP_OK);
}

/* Fault 29. */
static void a_busy_node_is_asked_again_and_not_counted_as_a_miss(void **state)
{
    const struct node_options one = {.operations_max = 1};
    struct cluster cluster;
    struct rig_fiber fibers[24] = {0};
    struct reader readers[24];
    struct named named;
    (void)state;
    begin(&cluster, 1, &one);
    for (unsigned i = 0; i < ARRAY_COUNT(fibers); i++) {
        assert_ok(put_value(cluster.processes[0].store, name_key(&named, "k", i), 50000, i, 0));
        readers[i] = (struct reader){&cluster, i};
        fibers[i].run = read_one;
        fibers[i].argument = &readers[i];
    }
    rig_advance(&cluster.world, 100);
    rig_fibers_run(&cluster.world, fibers, ARRAY_COUNT(fibers));
    assert_int_equal(rig_pool_stat(&cluster.processes[3], "pool.misses"), 0);
    end(&cluster);
}

/* What was evicted here, while the master still believes in it, is elsewhere. */
static void what_left_the_own_store_is_read_from_the_others(void **state)
{
    struct cluster cluster;
    struct named named;
    (void)state;
    begin(&cluster, 2, NULL);
    for (unsigned i = 0; i < 40; i++) {
        struct umbp_key key = name_key(&named, "k", i);
        assert_ok(put_value(cluster.processes[0].store, key, 1000, i, 0));
        assert_ok(put_value(cluster.processes[1].store, key, 1000, i, 0));
    }
    rig_advance(&cluster.world, 100);
    fabric_sim_cut(cluster.world.sim, 0, 9);
    assert_int_equal(get(&cluster.processes[1], name_key(&named, "k", 0), 1000, 0), UMBP_OK);
    fabric_sim_heal(cluster.world.sim);
    rig_advance(&cluster.world, 5);
    for (unsigned i = 0; i < 40; i++) {
        struct umbp_key key = name_key(&named, "k", i);
        assert_ok(remove_value(cluster.processes[1].store, key));
        assert_int_equal(get(&cluster.processes[1], key, 1000, i), UMBP_OK);
    }
    end(&cluster);
}

/* `count` values of `ranges` ranges of `bytes` each, under keys of `key_bytes`, go to another
 * process and come back; then they are removed. */
static void round_trip(unsigned count, unsigned ranges, uint64_t bytes, size_t key_bytes)
{
    struct cluster cluster;
    uint64_t value = ranges * bytes;
    char *texts = malloc(count * key_bytes);
    uint8_t *data = malloc(count * value);
    struct umbp_key *keys = calloc(count, sizeof(*keys));
    struct umbp_range *rows = calloc((size_t)count * ranges, sizeof(*rows));
    struct umbp_range_item *items = calloc(count, sizeof(*items));
    enum umbp_status *statuses = calloc(count, sizeof(*statuses));
    uint8_t *found = calloc(count, 1);

    begin(&cluster, 1, NULL);
    for (unsigned i = 0; i < count; i++) {
        char *text = texts + i * key_bytes;
        memset(text, 'k', key_bytes);
        memcpy(text, &i, sizeof(i));
        keys[i] = (struct umbp_key){text, key_bytes};
        test_fill(data + i * value, value, i);
        for (unsigned r = 0; r < ranges; r++) { /* the last one first */
            uint64_t offset = (ranges - 1 - r) * bytes;
            rows[i * ranges + r] = (struct umbp_range){data + i * value + offset, bytes, offset};
        }
        items[i] = (struct umbp_range_item){.key = keys[i],
                                            .ranges = rows + (size_t)i * ranges,
                                            .range_count = ranges,
                                            .object_bytes = value};
    }
    struct pool *pool = cluster.processes[3].pool;
    assert_ok(pool_batch_put_ranges(pool, items, count, statuses));
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(statuses[i], UMBP_OK);
    }
    memset(data, 0, count * value);
    assert_ok(pool_batch_get_ranges(pool, items, count, statuses));
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(statuses[i], UMBP_OK);
        assert_true(test_check_fill(data + i * value, value, i));
    }
    assert_ok(pool_batch_exists(pool, keys, count, found));
    assert_null(memchr(found, 0, count));
    assert_ok(pool_batch_remove(pool, keys, count, statuses));
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(statuses[i], UMBP_OK);
    }
    end(&cluster);
    free(texts);
    free(data);
    free(keys);
    free(rows);
    free(items);
    free(statuses);
    free(found);
}

static void long_keys_and_many_ranges_go_through(void **state)
{
    (void)state;
    round_trip(1100, 1, 900, 1024);
    round_trip(200, 300, 40, 20);
    round_trip(3, UMBP_RANGES_MAX, 8, 20);
    round_trip(100, 2000, 8, 20);
}

/* As if the node's beat said so. Its next beat says the truth. */
static void lie(struct cluster *cluster, unsigned which, uint64_t total, uint64_t available)
{
    struct rig_process *process = &cluster->processes[which];
    char id[8];
    snprintf(id, sizeof(id), "p%u", which);
    struct master_beat beat = {
        .id = {id, strlen(id)}, .incarnation = process->incarnation, .has_capacities = true};
    struct master_beat_answer answer;
    beat.capacities[MASTER_TIER_DRAM] = (struct master_capacity){.total_bytes = total,
                                                                 .available_bytes = available,
                                                                 .evictable_bytes = total,
                                                                 .largest_bytes = total};
    assert_ok(master_beat(cluster->master.master, &beat, &answer));
}

static enum umbp_status put(struct rig_process *process, struct umbp_key key, uint64_t bytes,
                            uint64_t tag)
{
    uint8_t *data = malloc(bytes);
    const struct umbp_put_item item = {.key = key, .data = data, .bytes = bytes};
    enum umbp_status status = UMBP_BUSY;
    test_fill(data, bytes, tag);
    assert_ok(pool_batch_put(process->pool, &item, 1, &status));
    free(data);
    return status;
}

/* A node that is too small for the values, and says what it likes; beside it one that is not. */
static void a_node_that_lies_about_its_capacity_costs_retries_only(void **state)
{
    static const uint64_t lies[][2] = {
        {UINT64_MAX, UINT64_MAX}, {UINT64_MAX, 0},        {UINT64_MAX / 2 + 1, UINT64_MAX / 2 + 1},
        {0, UINT64_MAX},          {1, UINT64_C(1) << 60}, {UINT64_C(1) << 60, UINT64_C(1) << 60}};
    enum {
        ROUNDS = 2 * ARRAY_COUNT(lies)
    };
    const struct pool_options patient = {.op_timeout_ms = 100000};
    struct cluster cluster;
    struct rig_process *user = &cluster.processes[3];
    struct named named;
    uint64_t used_ms = 0;
    (void)state;
    begin(&cluster, 1, NULL);
    rig_process_end(&cluster.processes[1]);
    rig_process_open(&cluster.world, &cluster.processes[1], "p1", 1, open_store(128 * KIB), NULL,
                     &patient);
    rig_advance(&cluster.world, 1000);
    for (unsigned i = 0; i < ROUNDS; i++) {
        const uint64_t *said = lies[i % ARRAY_COUNT(lies)];
        struct umbp_key key = name_key(&named, "k", i);
        uint64_t begun_ns = rig_in_ms(&cluster.world, 0);
        lie(&cluster, 1, said[0], said[1]);
        assert_int_equal(put(user, key, 150000, i), UMBP_OK);
        assert_int_equal(get(user, key, 150000, i), UMBP_OK);
        used_ms += (rig_in_ms(&cluster.world, 0) - begun_ns) / NS_PER_MS;
    }
    assert_true(rig_pool_stat(user, "pool.retries") > 0); /* it was believed */
    assert_true(used_ms < ROUNDS * 1000);
    assert_int_equal(stat_of(cluster.processes[1].store, "keys"), 0);
    /* One that says it is full gets nothing and is read from all the same. */
    lie(&cluster, 0, 0, 0);
    lie(&cluster, 1, 0, 0);
    assert_int_equal(get(user, name_key(&named, "k", ROUNDS - 1), 150000, ROUNDS - 1), UMBP_OK);
    enum umbp_status status = put(user, name_key(&named, "new", 1), 1000, 1);
    assert_true(status == UMBP_NO_SPACE || status == UMBP_OK);
    rig_advance(&cluster.world, 6000);
    assert_int_equal(put(user, name_key(&named, "new", 2), 1000, 2), UMBP_OK);
    assert_int_equal(get(user, named.key, 1000, 2), UMBP_OK);
    end(&cluster);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_removal_reaches_every_holder),
        cmocka_unit_test(a_busy_node_is_asked_again_and_not_counted_as_a_miss),
        cmocka_unit_test(long_keys_and_many_ranges_go_through),
        cmocka_unit_test(a_node_that_lies_about_its_capacity_costs_retries_only),
        cmocka_unit_test(what_left_the_own_store_is_read_from_the_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
