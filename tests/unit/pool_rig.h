/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes with a pool client, and most with a store and a node, in the simulated cluster of
 * cluster_rig.h. Their calls are those of pool.h and run the simulation until they end.
 *
 * Several callers at once are fibers: a call that waits gives way to the others, and only when all
 * of them wait does the simulation go on.
 */
#ifndef TEST_POOL_RIG_H
#define TEST_POOL_RIG_H

#include <ucontext.h>

#include "cluster_rig.h"

#include "pool/pool.h"

/* ----------------------------------------------------------------------------- fibers ---- */

#define RIG_STACK ((size_t)512 << 10)

struct rig_fiber {
    void (*run)(void *argument);
    void *argument;
    ucontext_t context;
    void *stack;
    bool is_done;
    struct fabric_latch *latch; /* that it waits for */
    uint64_t deadline_ns;
};

struct rig_fibers {
    struct rig_world *world;
    struct rig_fiber *fibers;
    unsigned count;
    struct rig_fiber *now; /* NULL: none runs */
    ucontext_t scheduler;
    const struct fabric_ops *sim;
    struct fabric_ops ops;
    struct fabric_ops dear; /* the same, of a provider where registering is dear */
};

static struct rig_fibers rig_fibers;

static inline bool rig_latch_is_down(const struct fabric_latch *latch)
{
    return atomic_load(&latch->pending) == 0;
}

static inline enum umbp_status rig_fiber_wait(struct fabric *fabric, struct fabric_latch *latch,
                                              uint64_t deadline_ns)
{
    struct rig_fiber *fiber = rig_fibers.now;
    if (!fiber) {
        return rig_fibers.sim->wait(fabric, latch, deadline_ns);
    }
    if (!rig_latch_is_down(latch)) {
        fiber->latch = latch;
        fiber->deadline_ns = deadline_ns;
        assert_int_equal(swapcontext(&fiber->context, &rig_fibers.scheduler), 0);
    }
    return rig_latch_is_down(latch) ? UMBP_OK : UMBP_TIMEOUT;
}

struct rig_pulled {
    struct fabric *fabric;
    struct fabric_latch latch;
    enum umbp_status status;
};

static inline void rig_on_pulled(void *context, enum umbp_status status)
{
    struct rig_pulled *pulled = context;
    pulled->status = status;
    fabric_latch_down(pulled->fabric, &pulled->latch);
}

static inline enum umbp_status rig_fiber_pull(struct fabric *fabric, fabric_peer peer,
                                              uint64_t epoch, const struct fabric_piece *pieces,
                                              size_t count)
{
    struct rig_pulled pulled = {.fabric = fabric};
    fabric_latch_init(&pulled.latch, 1);
    enum umbp_status status =
        fabric_pull(fabric, peer, epoch, pieces, count, rig_on_pulled, &pulled);
    if (status != UMBP_OK) {
        return status;
    }
    while (rig_fiber_wait(fabric, &pulled.latch, UINT64_MAX - 1) != UMBP_OK) {
    }
    return pulled.status;
}

/* Waits in this endpoint let the other fibers run. */
MAYBE_UNUSED static void rig_fibers_join(struct fabric *fabric)
{
    if (!rig_fibers.sim) {
        rig_fibers.sim = fabric->ops;
        rig_fibers.ops = *fabric->ops;
        rig_fibers.ops.wait = rig_fiber_wait;
        rig_fibers.ops.pull_wait = rig_fiber_pull;
        rig_fibers.dear = rig_fibers.ops;
        rig_fibers.dear.registering_is_cheap = false;
    }
    fabric->ops = &rig_fibers.ops;
}

static inline void rig_fiber_main(void)
{
    struct rig_fiber *fiber = rig_fibers.now;
    fiber->run(fiber->argument);
    fiber->is_done = true;
    assert_int_equal(swapcontext(&fiber->context, &rig_fibers.scheduler), 0);
}

static inline bool rig_fiber_can_run(const struct rig_fiber *fiber)
{
    return !fiber->is_done && (!fiber->latch || rig_latch_is_down(fiber->latch) ||
                               rig_in_ms(rig_fibers.world, 0) >= fiber->deadline_ns);
}

static inline bool rig_some_can_run(void *context)
{
    bool some = false;
    (void)context;
    for (unsigned i = 0; i < rig_fibers.count; i++) {
        some |= rig_fiber_can_run(&rig_fibers.fibers[i]);
    }
    return some;
}

/* Sleep, in a fiber. */
MAYBE_UNUSED static void rig_fiber_sleep(struct fabric *fabric, uint64_t ns)
{
    struct fabric_latch never;
    fabric_latch_init(&never, 1);
    assert_int_equal(rig_fiber_wait(fabric, &never, rig_in_ms(rig_fibers.world, 0) + ns),
                     UMBP_TIMEOUT);
}

/* Until all are done. */
MAYBE_UNUSED static void rig_fibers_run(struct rig_world *world, struct rig_fiber *fibers,
                                        unsigned count)
{
    rig_fibers.world = world;
    rig_fibers.fibers = fibers;
    rig_fibers.count = count;
    for (unsigned i = 0; i < count; i++) {
        struct rig_fiber *fiber = &fibers[i];
        fiber->stack = malloc(RIG_STACK);
        fiber->is_done = false;
        fiber->latch = NULL;
        assert_int_equal(getcontext(&fiber->context), 0);
        fiber->context.uc_stack.ss_sp = fiber->stack;
        fiber->context.uc_stack.ss_size = RIG_STACK;
        makecontext(&fiber->context, rig_fiber_main, 0);
    }
    for (;;) {
        uint64_t next_ns = UINT64_MAX - 1;
        unsigned from = (unsigned)rng_below(fabric_sim_rng(world->sim), count);
        unsigned left = 0;
        for (unsigned i = 0; i < count; i++) {
            struct rig_fiber *fiber = &fibers[(from + i) % count];
            if (rig_fiber_can_run(fiber)) {
                rig_fibers.now = fiber;
                assert_int_equal(swapcontext(&rig_fibers.scheduler, &fiber->context), 0);
                rig_fibers.now = NULL;
            }
            left += !fiber->is_done;
        }
        if (!left) {
            break;
        }
        for (unsigned i = 0; i < count; i++) {
            if (!fibers[i].is_done) {
                next_ns = u64_min(next_ns, fibers[i].deadline_ns);
            }
        }
        (void)!fabric_sim_run_until(world->sim, rig_some_can_run, NULL, next_ns);
    }
    for (unsigned i = 0; i < count; i++) {
        free(fibers[i].stack);
    }
}

/* -------------------------------------------------------------------------- processes ---- */

struct rig_process {
    struct rig_world *world;
    struct store *store;
    struct node *node;
    struct fabric *fabric;
    struct pool *pool;
    struct rig_node runs; /* of the node's jobs */
    struct node_runner runner;
    struct fabric_handlers node_handlers;
    uint64_t incarnation; /* of the node */
};

static inline enum umbp_status rig_process_accept(void *context, const struct fabric_hello *hello)
{
    struct rig_process *process = context;
    return process->node && hello->incoming
               ? process->node_handlers.accept(process->node_handlers.context, hello)
               : UMBP_OK;
}

static inline void rig_process_up(void *context, fabric_peer peer, const struct fabric_hello *hello)
{
    struct rig_process *process = context;
    if (process->node) {
        process->node_handlers.peer_up(process->node_handlers.context, peer, hello);
    }
}

static inline void rig_process_down(void *context, fabric_peer peer, enum umbp_status reason)
{
    struct rig_process *process = context;
    if (process->node) {
        process->node_handlers.peer_down(process->node_handlers.context, peer, reason);
    }
    if (process->pool) {
        pool_peer_down(process->pool, peer, reason);
    }
}

static inline void rig_process_request(void *context, struct fabric_request *request)
{
    struct rig_process *process = context;
    process->node_handlers.request(process->node_handlers.context, request);
}

static inline void rig_process_message(void *context, fabric_peer peer, const void *data,
                                       size_t bytes)
{
    struct rig_process *process = context;
    if (process->node) {
        process->node_handlers.message(process->node_handlers.context, peer, data, bytes);
    }
}

/* `store` NULL: a client only. `node_wishes`, `pool_wishes`: NULL or what differs. */
MAYBE_UNUSED static void rig_process_open(struct rig_world *world, struct rig_process *process,
                                          const char *name, uint32_t host, struct store *store,
                                          const struct node_options *node_wishes,
                                          const struct pool_options *pool_wishes)
{
    static const char *const masters[] = {"m0"};
    struct node_options node_options = node_wishes ? *node_wishes : (struct node_options){0};
    struct pool_options pool_options = pool_wishes ? *pool_wishes : (struct pool_options){0};

    *process = (struct rig_process){.world = world, .store = store, .runs = {.world = world}};
    process->runner = (struct node_runner){rig_runner, &process->runs};
    if (store) {
        node_options.store = store;
        node_options.hash_seed = RIG_SEED;
        node_options.id = name;
        node_options.incarnation = 1 + rng_next(fabric_sim_rng(world->sim)) / 2;
        process->incarnation = node_options.incarnation;
        node_options.runner = &process->runner;
        node_options.masters = masters;
        node_options.master_count = 1;
        if (!node_options.staging_bytes) {
            node_options.staging_bytes = 256 * 1024;
            node_options.staging_slots = 4;
        }
        assert_ok(node_create(&node_options, &process->node));
        process->node_handlers = node_handlers(process->node);
    }
    const struct fabric_options fabric_options = {.struct_bytes = sizeof(fabric_options),
                                                  .listen = store ? name : NULL,
                                                  .cluster = "rig",
                                                  .hash_seed = RIG_SEED};
    const struct fabric_handlers handlers = {
        .accept = rig_process_accept,
        .peer_up = rig_process_up,
        .peer_down = rig_process_down,
        .request = store ? rig_process_request : NULL,
        .message = rig_process_message,
        .context = process,
    };
    assert_ok(fabric_sim_open(world->sim, host, &fabric_options, &handlers, &process->fabric));
    process->runs.fabric = process->fabric;
    rig_fibers_join(process->fabric);
    if (pool_options.staging_bytes) { /* it matters only there */
        process->fabric->ops = &rig_fibers.dear;
    }
    pool_options.fabric = process->fabric;
    pool_options.store = store;
    pool_options.node_id = store ? name : NULL;
    pool_options.master_count = 1;
    pool_options.hash_seed = RIG_SEED;
    pool_options.op_timeout_ms = pool_options.op_timeout_ms ? pool_options.op_timeout_ms : 5000;
    pool_options.retries = pool_options.retries ? pool_options.retries : 2;
    assert_ok(pool_create(&pool_options, &process->pool));
    pool_master_found(process->pool, 0, "m0");
    if (store) {
        assert_ok(node_start(process->node, process->fabric));
    }
    rig_advance(world, 0);
}

/* The store, which is borrowed, stays. */
MAYBE_UNUSED static void rig_process_close(struct rig_process *process)
{
    if (process->fabric) {
        assert_ok(fabric_close(process->fabric, 0));
        pool_destroy(process->pool);
        node_destroy(process->node);
        fabric_destroy(process->fabric);
        *process = (struct rig_process){0};
    }
}

MAYBE_UNUSED static void rig_process_end(struct rig_process *process)
{
    struct store *store = process->store;
    rig_process_close(process);
    if (store) {
        finish_store(store);
    }
}

MAYBE_UNUSED static uint64_t rig_pool_stat(struct rig_process *process, const char *name)
{
    struct umbp_stat_value values[64];
    size_t count = 0;
    pool_stats(process->pool, values, 64, &count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(values[i].name, name) == 0) {
            return values[i].value;
        }
    }
    fail_msg("no statistic \"%s\"", name);
    return 0;
}

#endif
