/* SPDX-License-Identifier: Apache-2.0 */
/* A master (service core and fabric door) in the simulated cluster of node_rig.h. */
#ifndef TEST_CLUSTER_RIG_H
#define TEST_CLUSTER_RIG_H

#include "node_rig.h"

#include "door/door.h"

struct rig_master {
    struct rig_world *world;
    struct master *master;
    struct door *door;
    struct fabric *fabric;
    struct fabric_timer tick;
    struct fabric_task start;
};

static inline void rig_master_tick(struct fabric_timer *timer)
{
    struct rig_master *master = CONTAINER_OF(timer, struct rig_master, tick);
    uint64_t in_ns = master_tick(master->master);
    fabric_timer_set(master->fabric, timer, fabric_now_ns(master->fabric) + in_ns);
}

static inline void rig_master_start(struct fabric_task *task)
{
    rig_master_tick(&CONTAINER_OF(task, struct rig_master, start)->tick);
}

/* Listens on `name`. The fields of *master that are set already (options) stay. */
MAYBE_UNUSED static void rig_master_open(struct rig_world *world, struct rig_master *master,
                                         uint32_t host, const char *name)
{
    struct master_options options;
    char error[128] = "";
    master_options_default(&options);
    options.clock = fabric_sim_clock(world->sim);
    options.seed = 1 + rng_next(fabric_sim_rng(world->sim)) / 2;
    options.incarnation = 1 + rng_next(fabric_sim_rng(world->sim)) / 2;
    options.index_shards = 4;
    options.nodes_max = 64;
    options.advise_all = true;
    *master = (struct rig_master){
        .world = world, .tick = {.run = rig_master_tick}, .start = {.run = rig_master_start}};
    assert_ok(master_create(&options, &master->master, error, sizeof(error)));
    const struct door_options door_options = {.master = master->master, .peers_max = 64};
    assert_ok(door_create(&door_options, &master->door));
    struct fabric_handlers handlers;
    door_handlers(master->door, &handlers);
    const struct fabric_options fabric_options = {.struct_bytes = sizeof(fabric_options),
                                                  .listen = name,
                                                  .cluster = "rig",
                                                  .hash_seed = RIG_SEED};
    assert_ok(fabric_sim_open(world->sim, host, &fabric_options, &handlers, &master->fabric));
    door_start(master->door, master->fabric);
    fabric_post(master->fabric, &master->start);
}

MAYBE_UNUSED static void rig_master_close(struct rig_master *master)
{
    if (master->fabric) {
        assert_ok(fabric_close(master->fabric, 0));
        door_destroy(master->door);
        master_destroy(master->master);
        fabric_destroy(master->fabric);
        master->fabric = NULL;
    }
}

MAYBE_UNUSED static bool rig_master_knows(struct rig_master *master, struct umbp_key key)
{
    struct fingerprint print = hash_key(key.data, key.bytes, RIG_SEED);
    uint8_t found = 0;
    assert_ok(master_lookup(master->master, &print, 1, &found));
    return found != 0;
}

#endif
