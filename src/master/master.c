/* SPDX-License-Identifier: Apache-2.0 */
/* The core's life, and the tick: expiry, the sweep, old hit counts, advice, a piece at a call. */
#include "master/master_priv.h"

#define STEP_SEGMENTS 32u
#define BUSY_NS NS_PER_MS
#define IDLE_NS NS_PER_S

/* ------------------------------------------------------------------------------- sweep --- */

static bool sweep_slot(struct table *table, const _Atomic uint64_t *views, struct slot *slot)
{
    for (uint32_t i = slot_count(slot); i-- > 0;) {
        struct location location = slot_at(slot, i);
        uint64_t view = atomic_load_explicit(&views[location.owner], memory_order_acquire);
        if (view_shows(view, location.epoch)) {
            continue;
        }
        if (slot_count(slot) == 1) {
            return false;
        }
        slot_take(table, slot, i);
    }
    return true;
}

static bool sweep_block(void *context, struct slot *slot)
{
    struct master *master = context;
    return sweep_slot(&master->blocks, master->views, slot);
}

static bool sweep_external(void *context, struct slot *slot)
{
    struct master *master = context;
    return sweep_slot(&master->external, master->external_views, slot);
}

/* What counted when the sweep began is the oldest that can be there when it has ended. */
static void sweep_begin(struct master *master)
{
    for (uint32_t i = 0; i < MASTER_NODES_MAX; i++) {
        master->sweep_first[i * MASTER_TIERS] = (uint16_t)view_first(view_load(master, i));
        for (uint32_t tier = 1; tier < MASTER_TIERS; tier++) {
            uint32_t owner = i * MASTER_TIERS + tier;
            uint64_t view =
                atomic_load_explicit(&master->external_views[owner], memory_order_acquire);
            master->sweep_first[owner] = (uint16_t)view_first(view);
        }
    }
    master->sweep_cursor = (struct table_cursor){0};
    master->sweep_stage = 1;
}

static void sweep_end(struct master *master)
{
    for (uint32_t i = 0; i < master->options.nodes_max; i++) {
        const uint16_t *first = &master->sweep_first[i * MASTER_TIERS];
        struct node *node = &master->nodes[i];
        atomic_store_explicit(&node->epochs.oldest, first[0], memory_order_relaxed);
        for (uint32_t tier = 1; tier < MASTER_TIERS; tier++) {
            atomic_store_explicit(&node->external[tier].oldest, first[tier], memory_order_relaxed);
        }
    }
    master->sweep_stage = 0;
    count(master, COUNT_SWEEPS, 1);
}

/* True while there is more to do. */
static bool sweep_step(struct master *master)
{
    bool more;
    if (master->sweep_stage == 0) {
        if (!atomic_exchange_explicit(&master->sweep_wanted, false, memory_order_acquire)) {
            return false;
        }
        sweep_begin(master);
    }
    if (master->sweep_stage == 1) {
        more =
            table_walk(&master->blocks, &master->sweep_cursor, STEP_SEGMENTS, sweep_block, master);
    } else {
        more = table_walk(&master->external, &master->sweep_cursor, STEP_SEGMENTS, sweep_external,
                          master);
    }
    if (more) {
        return true;
    }
    master->sweep_cursor = (struct table_cursor){0};
    if (master->sweep_stage == 1) {
        master->sweep_stage = 2;
        return true;
    }
    sweep_end(master);
    return atomic_load_explicit(&master->sweep_wanted, memory_order_relaxed);
}

/* ---------------------------------------------------------------------------- hit counts --- */

static bool keep_hit(void *context, struct slot *slot)
{
    const struct master *master = context;
    return external_hit_is_fresh(master, slot, stamp_at(master, now_ns(master)));
}

static bool collect_step(struct master *master, uint64_t now)
{
    if (!master->is_collecting) {
        if (now < master->collect_ns) {
            return false;
        }
        master->collect_ns = now + master->options.hit_index_gc_interval_sec * NS_PER_S;
        master->is_collecting = true;
        master->collect_cursor = (struct table_cursor){0};
    }
    master->is_collecting =
        table_walk(&master->hits, &master->collect_cursor, STEP_SEGMENTS, keep_hit, master);
    return master->is_collecting;
}

uint64_t master_tick(struct master *master)
{
    /* acquire: what the last ticker wrote of the tick's own */
    if (atomic_flag_test_and_set_explicit(&master->ticking, memory_order_acquire)) {
        return BUSY_NS;
    }
    uint64_t now = now_ns(master);
    if (now >= master->reap_ns) {
        master->reap_ns = now + master->options.reaper_interval_sec * NS_PER_S;
        node_expire_due(master);
    }
    bool is_busy = sweep_step(master);
    is_busy |= collect_step(master, now);
    is_busy |= advice_step(master, now);
    uint64_t due = u64_min(master->reap_ns, u64_min(master->collect_ns, master->evict_ns));
    uint64_t wait = due > now ? u64_min(due - now, IDLE_NS) : BUSY_NS;
    atomic_flag_clear_explicit(&master->ticking, memory_order_release);
    return is_busy ? BUSY_NS : wait;
}

uint64_t master_incarnation(const struct master *master) { return master->incarnation; }

/* -------------------------------------------------------------------------------- life --- */

static const char *fault_of(const struct master_options *options)
{
    if (!options->nodes_max || options->nodes_max > MASTER_NODES_MAX) {
        return "nodes_max is not in 1..4096";
    }
    if (!options->keys_max || !options->external_keys_max) {
        return "keys_max and external_keys_max are at least 1";
    }
    if (!options->heartbeat_ttl_sec || !options->max_missed_heartbeats ||
        !options->heartbeat_interval_divisor || !options->reaper_interval_sec ||
        !options->eviction_check_interval_sec || !options->lease_duration_sec ||
        !options->hit_index_ttl_sec || !options->hit_index_gc_interval_sec ||
        !options->hit_query_max_batch || !options->put_window_ms || !options->evict_batch) {
        return "times and counts are at least 1";
    }
    if (options->heartbeat_ttl_sec > 1000000 || options->max_missed_heartbeats > 1000000 ||
        options->heartbeat_ttl_sec * options->max_missed_heartbeats > 1000000000 ||
        options->reaper_interval_sec > 1000000 || options->eviction_check_interval_sec > 1000000 ||
        options->lease_duration_sec > 1000000 || options->hit_index_ttl_sec > 1000000 ||
        options->hit_index_gc_interval_sec > 1000000 || options->forget_after_sec > 1000000000 ||
        options->put_window_ms > 1000000) {
        return "a time is too long";
    }
    if (!(options->evict_low_watermark > 0 &&
          options->evict_low_watermark <= options->evict_high_watermark &&
          options->evict_high_watermark <= 1)) {
        return "watermarks: 0 < low <= high <= 1";
    }
    if (!options->index_shards || options->index_shards > 4096) {
        return "index_shards is not in 1..4096";
    }
    if (options->put_algorithm > MASTER_PUT_RANDOM ||
        options->put_affinity > MASTER_AFFINITY_LOCAL) {
        return "no such algorithm or affinity";
    }
    return NULL;
}

static bool make_arrays(struct master *master)
{
    size_t owners = (size_t)MASTER_NODES_MAX * MASTER_TIERS;
    uint32_t map_size = 16;
    while (map_size < 2 * master->options.nodes_max) {
        map_size *= 2;
    }
    master->map_mask = map_size - 1;
    master->map = mem_calloc(map_size, sizeof(*master->map));
    master->views = mem_calloc(MASTER_NODES_MAX, sizeof(*master->views));
    master->external_views = mem_calloc(owners, sizeof(*master->external_views));
    master->sweep_first = mem_calloc(owners, sizeof(*master->sweep_first));
    master->targets = mem_calloc(master->options.nodes_max, sizeof(*master->targets));
    master->target_of = mem_calloc(MASTER_NODES_MAX, sizeof(*master->target_of));
    master->nodes = mem_map(master->options.nodes_max * sizeof(struct node));
    return master->map && master->views && master->external_views && master->sweep_first &&
           master->targets && master->target_of && master->nodes;
}

static enum umbp_status make_parts(struct master *master)
{
    uint32_t shards = (uint32_t)master->options.index_shards;
    uint64_t external_max = master->options.external_keys_max;
    enum umbp_status status =
        table_init(&master->blocks, shards, master->options.keys_max, slot_drop);
    if (status == UMBP_OK) {
        status = table_init(&master->external, shards, external_max, slot_drop);
    }
    if (status == UMBP_OK) {
        status = table_init(&master->hits, shards, external_max, slot_drop);
    }
    return status != UMBP_OK ? status : make_arrays(master) ? UMBP_OK : UMBP_NO_MEMORY;
}

enum umbp_status master_create(const struct master_options *options, struct master **master_out,
                               char *error_out, size_t error_bytes)
{
    const char *fault = fault_of(options);
    if (fault) {
        snprintf(error_out, error_bytes, "%s", fault);
        return UMBP_INVALID_VALUE;
    }
    struct master *master = mem_zalloc(sizeof(*master));
    if (!master) {
        snprintf(error_out, error_bytes, "%s", umbp_status_text(UMBP_NO_MEMORY));
        return UMBP_NO_MEMORY;
    }
    master->options = *options;
    if (!master->options.clock) {
        master->options.clock = clock_monotonic();
    }
    uint64_t now = now_ns(master);
    uint64_t clock = clock_now_ns(clock_monotonic());
    master->start_ns = now;
    master->incarnation =
        options->incarnation ? options->incarnation : hash_bytes(&clock, sizeof(clock), 1) | 1;
    rng_init(&master->rng, options->seed ? options->seed : clock);
    atomic_init(&master->choice, rng_next(&master->rng));
    atomic_flag_clear(&master->ticking);
    master->reap_ns = now + options->reaper_interval_sec * NS_PER_S;
    master->evict_ns = now + options->eviction_check_interval_sec * NS_PER_S;
    master->collect_ns = now + options->hit_index_gc_interval_sec * NS_PER_S;
    mutex_init(&master->members_lock, RANK_MASTER_MEMBERS);
    mutex_init(&master->put_lock, RANK_MASTER_PUT);
    mutex_init(&master->advice_lock, RANK_LEAF);
    enum umbp_status status = make_parts(master);
    for (uint32_t i = 0; master->nodes && i < options->nodes_max; i++) {
        mutex_init(&master->nodes[i].lock, RANK_MASTER_NODE);
    }
    if (status != UMBP_OK) {
        snprintf(error_out, error_bytes, "%s", umbp_status_text(status));
        master_destroy(master);
        return status;
    }
    *master_out = master;
    return UMBP_OK;
}

void master_destroy(struct master *master)
{
    if (!master) {
        return;
    }
    advice_round_free(master->round);
    master_advice_free(&master->advice);
    for (uint32_t i = 0; master->nodes && i < master->options.nodes_max; i++) {
        mem_free(master->nodes[i].text);
        mutex_fini(&master->nodes[i].lock);
    }
    mem_unmap(master->nodes, master->options.nodes_max * sizeof(struct node));
    table_fini(&master->blocks);
    table_fini(&master->external);
    table_fini(&master->hits);
    mem_free(master->map);
    mem_free(master->views);
    mem_free(master->external_views);
    mem_free(master->sweep_first);
    mem_free(master->targets);
    mem_free(master->target_of);
    mutex_fini(&master->members_lock);
    mutex_fini(&master->put_lock);
    mutex_fini(&master->advice_lock);
    mem_free(master);
}
