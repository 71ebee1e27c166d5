/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Placement: which node a put goes to.
 *
 * The rules of choice (HBM before DRAM, never SSD; most available or weighted random; affinity
 * none, same, local; projected capacity within a batch) are the public master's. Added to them:
 *
 * - What was routed counts as taken for everybody at once, not only within the batch, until the
 *   owner has reported since and one to two windows have passed. Else all writers between two beats
 *   would go to one node.
 * - Of the nodes that fit, none takes more than half as much again as their mean within the last
 *   windows, once it has got 32 MiB or 8 values. Else a node that joins empty would get every put
 *   of the cluster until it is as full as the others.
 * - A full cache is the usual state of a cache. When no node has free room, those whose evictor can
 *   make some (evictable_bytes) are asked; then also those of whom all that is taken already: what
 *   was put a moment ago can be evicted too. Only then the answer is that there is none.
 *
 * All under one lock, for a batch at a time. With more than POOL_MAX targets a batch chooses among
 * a pool of that many: those with the most room, or a sample by weight. So a key costs the same in
 * a large cluster; the pool is made once a batch, and again when it is used up.
 */
#include "master/master_route_priv.h"

#define FAIR_BYTES (32 * MIB)
#define FAIR_VALUES 8u
#define POOL_MAX 32u

static const uint8_t put_tiers[TIER_SLOTS] = {MASTER_TIER_HBM, MASTER_TIER_DRAM};

/* ---------------------------------------------------------------------------- capacity --- */

static bool takes_puts(const struct node *node)
{
    return node->capacities[MASTER_TIER_HBM].total_bytes > 0 ||
           node->capacities[MASTER_TIER_DRAM].total_bytes > 0;
}

static void roll_window(struct master *master)
{
    uint64_t window =
        (now_ns(master) - master->start_ns) / (master->options.put_window_ms * NS_PER_MS);
    bool is_next = window == master->window + 1;
    if (window == master->window) {
        return;
    }
    master->window = window;
    for (uint32_t i = 0; i < master->target_count; i++) {
        struct target *target = &master->targets[i];
        for (uint32_t t = 0; t < TIER_SLOTS; t++) {
            uint64_t newest = target->window_taken[0][t];
            target->taken[t] += target->window_taken[1][t] + (is_next ? 0 : newest);
            target->window_taken[1][t] = is_next ? newest : 0;
            target->window_taken[0][t] = 0;
        }
    }
}

static void target_remove(struct master *master, uint32_t node)
{
    uint32_t at = master->target_of[node];
    if (at) {
        struct target *last = &master->targets[--master->target_count];
        master->targets[at - 1] = *last;
        master->target_of[last->node] = at;
        master->target_of[node] = 0;
    }
}

void put_node_here(struct master *master, const struct node *node)
{
    uint32_t index = node_index(master, node);
    mutex_lock(&master->put_lock);
    roll_window(master);
    if (!takes_puts(node)) {
        target_remove(master, index);
    } else {
        if (!master->target_of[index]) {
            master->targets[master->target_count++] = (struct target){.node = index};
            master->target_of[index] = master->target_count;
        }
        struct target *target = &master->targets[master->target_of[index] - 1];
        for (uint32_t t = 0; t < TIER_SLOTS; t++) {
            const struct master_capacity *capacity = &node->capacities[put_tiers[t]];
            target->available[t] = capacity->available_bytes;
            target->evictable[t] = capacity->evictable_bytes;
            target->largest[t] = capacity->largest_bytes;
            target->taken[t] = 0;
        }
    }
    mutex_unlock(&master->put_lock);
}

void put_node_gone(struct master *master, uint32_t node)
{
    mutex_lock(&master->put_lock);
    target_remove(master, node);
    mutex_unlock(&master->put_lock);
}

/* -------------------------------------------------------------------------------- pick --- */

struct pick {
    struct target *target;
    uint32_t tier; /* index into put_tiers */
};

/* Which room counts. */
enum room_kind {
    ROOM_FREE = 0,
    ROOM_EVICTING, /* what the evictor can make, too */
    ROOM_AGAIN,    /* and what was taken since the last report; our own nodes evict for a put */
    ROOM_KINDS,
};

/* What is left of it. 0 when the value doesn't fit. */
static uint64_t room_for(const struct target *target, uint32_t tier, enum room_kind kind,
                         uint64_t bytes)
{
    uint64_t has = target->available[tier];
    uint64_t taken =
        target->taken[tier] + target->window_taken[0][tier] + target->window_taken[1][tier];
    if (kind != ROOM_FREE && __builtin_add_overflow(has, target->evictable[tier], &has)) {
        has = UINT64_MAX;
    }
    uint64_t left = has > taken ? has - taken : 0;
    if (kind == ROOM_AGAIN) {
        left = has >= bytes && target->largest[tier]
                   ? UINT64_MAX / 2 + has / 2 - u64_min(taken, UINT64_MAX / 2)
                   : 0;
    }
    bool fits = left >= bytes && (!target->largest[tier] || bytes <= target->largest[tier]);
    return fits ? left : 0;
}

static uint64_t recently(const struct target *target)
{
    return target->window_taken[0][0] + target->window_taken[0][1] + target->window_taken[1][0] +
           target->window_taken[1][1];
}

struct choice {
    const struct route_excludes *excludes;
    uint64_t bytes;
    uint32_t tier;
    enum room_kind kind;
};

static bool is_candidate(const struct target *target, const struct choice *choice,
                         uint64_t *room_out)
{
    *room_out = room_for(target, choice->tier, choice->kind, choice->bytes);
    return *room_out > 0 && !route_is_excluded(choice->excludes, target->node);
}

/* The targets among which a batch chooses. */
struct pool {
    bool is_made;
    bool is_all;     /* every target: `targets` does not count */
    bool is_sampled; /* drawn by weight: all the same weight now, large ones several times */
    uint32_t count;
    uint64_t bytes; /* the value that it was made for */
    uint32_t targets[POOL_MAX];
};

static uint64_t weight_of(uint64_t room) { return (room >> 12) + 1; /* sums can't overflow */ }

/* POOL_MAX evenly spaced draws from the weights laid end to end. */
static void pool_sample(struct master *master, const struct choice *choice, struct pool *pool)
{
    uint64_t sum = 0;
    uint64_t room;
    for (uint32_t i = 0; i < master->target_count; i++) {
        sum += is_candidate(&master->targets[i], choice, &room) ? weight_of(room) : 0;
    }
    uint64_t step = sum / POOL_MAX + 1;
    uint64_t next = sum ? rng_below(&master->rng, step) : 0;
    uint64_t passed = 0;
    for (uint32_t i = 0; i < master->target_count && pool->count < POOL_MAX; i++) {
        passed += is_candidate(&master->targets[i], choice, &room) ? weight_of(room) : 0;
        while (next < passed && pool->count < POOL_MAX) {
            pool->targets[pool->count++] = i;
            next += step;
        }
    }
}

static void pool_most(const struct master *master, const struct choice *choice, struct pool *pool)
{
    uint64_t rooms[POOL_MAX];
    uint32_t least = 0; /* index of the smallest, once the pool is full */
    uint64_t room;
    for (uint32_t i = 0; i < master->target_count; i++) {
        if (!is_candidate(&master->targets[i], choice, &room)) {
            continue;
        }
        if (pool->count < POOL_MAX) {
            rooms[pool->count] = room;
            pool->targets[pool->count++] = i;
        } else if (room > rooms[least]) {
            rooms[least] = room;
            pool->targets[least] = i;
        } else {
            continue;
        }
        for (uint32_t j = 0; pool->count == POOL_MAX && j < POOL_MAX; j++) {
            least = rooms[j] < rooms[least] ? j : least;
        }
    }
}

static void pool_make(struct master *master, const struct choice *choice, struct pool *pool)
{
    *pool = (struct pool){
        .is_made = true,
        .is_all = master->target_count <= POOL_MAX,
        .bytes = choice->bytes,
    };
    if (pool->is_all) {
        return;
    }
    if (master->options.put_algorithm == MASTER_PUT_MOST_AVAILABLE) {
        pool_most(master, choice, pool);
    } else {
        pool->is_sampled = true;
        pool_sample(master, choice, pool);
    }
}

static uint32_t pool_count(const struct master *master, const struct pool *pool)
{
    return pool->is_all ? master->target_count : pool->count;
}

static struct target *pool_at(struct master *master, const struct pool *pool, uint32_t at)
{
    return &master->targets[pool->is_all ? at : pool->targets[at]];
}

/* How much a candidate may have got in the last windows, this value included. */
static uint64_t fair_share(struct master *master, const struct choice *choice,
                           const struct pool *pool)
{
    uint64_t sum = choice->bytes;
    uint64_t candidates = 0;
    uint64_t room;
    uint32_t targets = pool_count(master, pool);
    for (uint32_t i = 0; i < targets; i++) {
        const struct target *target = pool_at(master, pool, i);
        if (is_candidate(target, choice, &room)) {
            sum += recently(target);
            candidates++;
        }
    }
    uint64_t share = candidates > 1 ? sum / candidates * 3 / 2 : UINT64_MAX;
    return u64_max(share, u64_max(FAIR_BYTES, FAIR_VALUES * choice->bytes));
}

static struct target *choose_from(struct master *master, const struct choice *choice,
                                  const struct pool *pool)
{
    uint64_t share = fair_share(master, choice, pool);
    struct target *best = NULL;
    uint64_t best_room = 0;
    uint64_t sum = 0;
    uint32_t targets = pool_count(master, pool);
    for (uint32_t i = 0; i < targets; i++) {
        struct target *target = pool_at(master, pool, i);
        uint64_t room;
        if (!is_candidate(target, choice, &room) || recently(target) + choice->bytes > share) {
            continue;
        }
        if (master->options.put_algorithm == MASTER_PUT_MOST_AVAILABLE) {
            best = room > best_room ? target : best;
            best_room = u64_max(room, best_room);
            continue;
        }
        /* Weighted, in one pass: each takes the place of the one before it with the chance of its
         * weight in the sum so far. */
        uint64_t weight = pool->is_sampled ? 1 : weight_of(room);
        sum += weight;
        if (rng_below(&master->rng, sum) < weight) {
            best = target;
        }
    }
    return best;
}

/* A pool that has nothing for it is made anew; then all are looked at. */
static struct target *choose(struct master *master, const struct choice *choice, struct pool *pool)
{
    const struct pool everybody = {.is_made = true, .is_all = true};
    if (!pool->is_made) {
        pool_make(master, choice, pool);
    }
    if (!pool->is_all && !pool->count && pool->bytes <= choice->bytes) {
        return NULL; /* nobody had room for less, and within a batch room only shrinks */
    }
    struct target *target = choose_from(master, choice, pool);
    if (!target && !pool->is_all) {
        pool_make(master, choice, pool);
        target = choose_from(master, choice, pool);
        target = target || !pool->count ? target : choose_from(master, choice, &everybody);
    }
    return target;
}

/* On this node alone, HBM before DRAM. */
static bool pick_on(struct master *master, uint32_t node, const struct route_excludes *excludes,
                    uint64_t bytes, enum room_kind kind, struct pick *pick_out)
{
    uint32_t at = master->target_of[node];
    if (!at || route_is_excluded(excludes, node)) {
        return false;
    }
    for (uint32_t tier = 0; tier < TIER_SLOTS; tier++) {
        if (room_for(&master->targets[at - 1], tier, kind, bytes)) {
            *pick_out = (struct pick){&master->targets[at - 1], tier};
            return true;
        }
    }
    return false;
}

struct put_batch {
    const struct route_excludes *excludes;
    uint32_t anchor;      /* a node, or UINT32_MAX */
    uint32_t anchor_tier; /* TIER_SLOTS: any */
    struct pool pools[ROOM_KINDS][TIER_SLOTS];
};

/* Among all, tier by tier; `sticky` (a node, or UINT32_MAX) first within each. */
static bool pick_any(struct master *master, struct put_batch *batch, uint64_t bytes,
                     enum room_kind kind, uint32_t sticky, struct pick *pick_out)
{
    for (uint32_t tier = 0; tier < TIER_SLOTS; tier++) {
        const struct choice choice = {batch->excludes, bytes, tier, kind};
        struct target *target = NULL;
        uint32_t at = sticky != UINT32_MAX ? master->target_of[sticky] : 0;
        uint64_t room;
        if (at && is_candidate(&master->targets[at - 1], &choice, &room)) {
            target = &master->targets[at - 1];
        } else {
            target = choose(master, &choice, &batch->pools[kind][tier]);
        }
        if (target) {
            *pick_out = (struct pick){target, tier};
            return true;
        }
    }
    return false;
}

/* --------------------------------------------------------------------------- the batch --- */

static bool pick_one(struct master *master, struct put_batch *batch, uint64_t bytes,
                     struct pick *pick_out)
{
    bool is_same = master->options.put_affinity == MASTER_AFFINITY_SAME;
    for (int k = 0; k < ROOM_KINDS; k++) {
        enum room_kind kind = (enum room_kind)k;
        bool has = false;
        if (batch->anchor != UINT32_MAX && is_same && batch->anchor_tier < TIER_SLOTS) {
            uint32_t at = master->target_of[batch->anchor];
            has = at && room_for(&master->targets[at - 1], batch->anchor_tier, kind, bytes);
            *pick_out = (struct pick){has ? &master->targets[at - 1] : NULL, batch->anchor_tier};
        } else if (batch->anchor != UINT32_MAX && !is_same) {
            has = pick_on(master, batch->anchor, batch->excludes, bytes, kind, pick_out);
        }
        if (!has &&
            pick_any(master, batch, bytes, kind, is_same ? batch->anchor : UINT32_MAX, pick_out)) {
            has = true;
            if (is_same) {
                batch->anchor = pick_out->target->node;
                batch->anchor_tier = TIER_SLOTS;
            }
        }
        if (has) {
            return true;
        }
    }
    return false;
}

/* `same`: a node and tier that the whole batch fits, if there is one. */
static void anchor_whole(struct master *master, struct put_batch *batch,
                         const struct master_route *routes, const uint64_t *sizes, uint64_t size,
                         size_t count)
{
    uint64_t total = 0;
    struct pick pick;
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = sizes ? sizes[i] : size;
        if (routes[i].outcome == MASTER_UNAVAILABLE &&
            __builtin_add_overflow(total, bytes, &total)) {
            return;
        }
    }
    /* A node that says how much it takes at once is judged by it here too: that only costs the pin.
     */
    if (total && pick_any(master, batch, total, ROOM_FREE, UINT32_MAX, &pick)) {
        batch->anchor = pick.target->node;
        batch->anchor_tier = pick.tier;
    }
}

/* The largest value that this one takes; UINT64_MAX: it does not say. */
static uint64_t limit_of(const struct target *target)
{
    uint64_t limit = 0;
    for (uint32_t t = 0; t < TIER_SLOTS; t++) {
        bool is_there = target->available[t] || target->evictable[t];
        limit = u64_max(limit, !target->largest[t] && is_there ? UINT64_MAX : target->largest[t]);
    }
    return limit ? limit : UINT64_MAX; /* a full one that says nothing */
}

/* The largest value that any node takes. */
static uint64_t limit_of_all(const struct master *master)
{
    uint64_t limit = 0;
    for (uint32_t i = 0; i < master->target_count; i++) {
        limit = u64_max(limit, limit_of(&master->targets[i]));
    }
    return master->target_count ? limit : UINT64_MAX;
}

void put_place(struct master *master, const struct route_excludes *excludes, uint32_t requester,
               const uint64_t *sizes, uint64_t size, size_t count, struct master_route *routes)
{
    struct put_batch batch = {
        .excludes = excludes, .anchor = UINT32_MAX, .anchor_tier = TIER_SLOTS};
    uint64_t limit = 0;
    mutex_lock(&master->put_lock);
    roll_window(master);
    if (master->options.put_affinity == MASTER_AFFINITY_LOCAL) {
        batch.anchor = requester;
    } else if (master->options.put_affinity == MASTER_AFFINITY_SAME) {
        anchor_whole(master, &batch, routes, sizes, size, count);
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = sizes ? sizes[i] : size;
        struct pick pick;
        if (routes[i].outcome == MASTER_ALREADY_EXISTS) {
            continue;
        }
        if (bytes > MASTER_VALUE_BYTES_MAX || !pick_one(master, &batch, u64_max(bytes, 1), &pick)) {
            limit = limit ? limit : limit_of_all(master);
            routes[i].is_too_large = bytes > limit;
            continue;
        }
        pick.target->window_taken[0][pick.tier] += bytes;
        routes[i].outcome = MASTER_ROUTED;
        routes[i].node = pick.target->node; /* made a handle by the caller */
        routes[i].tier = put_tiers[pick.tier];
    }
    mutex_unlock(&master->put_lock);
}
