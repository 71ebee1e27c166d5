/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Routing. A look takes the shard's lock for one slot; the slots of the keys ahead are prefetched
 * meanwhile, so that a batch waits for memory once and not once a key.
 */
#include "master/master_route_priv.h"

#define PREFETCH_AHEAD 12u
#define LOOK_CHUNK 128u /* keys of a lookup that are sorted by shard; at most that many a lock */
#define LOOK_GROUPS 64u
#define LOOK_SHIFT 58 /* of print.low: the bits of the group */
_Static_assert(UINT64_C(1) << (64 - LOOK_SHIFT) == LOOK_GROUPS, "a group's bits");
#define TALLY_SLOTS 64u

/* Hits by node, gathered over a batch so that the nodes' counters are touched once each. */
struct tally {
    uint32_t nodes[TALLY_SLOTS];
    uint32_t hits[TALLY_SLOTS];
};

static void tally_flush(struct master *master, struct tally *tally, uint32_t slot, uint32_t which)
{
    if (tally->hits[slot]) {
        node_counted(&master->nodes[tally->nodes[slot]], which, tally->hits[slot]);
        tally->hits[slot] = 0;
    }
}

static void tally_add(struct master *master, struct tally *tally, uint32_t node, uint32_t which)
{
    uint32_t slot = node % TALLY_SLOTS;
    if (tally->nodes[slot] != node) {
        tally_flush(master, tally, slot, which);
        tally->nodes[slot] = node;
    }
    tally->hits[slot]++;
}

static void tally_end(struct master *master, struct tally *tally, uint32_t which)
{
    for (uint32_t slot = 0; slot < TALLY_SLOTS; slot++) {
        tally_flush(master, tally, slot, which);
    }
}

static enum umbp_status take_caller(const struct master *master, const struct master_caller *caller,
                                    size_t count, struct route_excludes *excludes)
{
    excludes->is_empty = true;
    if (count > MASTER_BATCH_MAX || caller->exclude_count > MASTER_EXCLUDES_MAX) {
        return UMBP_LIMIT;
    }
    for (size_t i = 0; i < caller->exclude_count; i++) {
        uint32_t handle = caller->excludes[i];
        uint32_t index = handle_index(handle);
        if (handle == MASTER_NODE_NONE || view_handle(view_load(master, index)) != handle) {
            continue;
        }
        if (excludes->is_empty) {
            memset(excludes->bits, 0, sizeof(excludes->bits));
            excludes->is_empty = false;
        }
        excludes->bits[index / 64] |= UINT64_C(1) << (index % 64);
    }
    return UMBP_OK;
}

static uint64_t mix(uint64_t x)
{
    /* The finaliser of splitmix64 (Steele, Lea, Flood 2014). */
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

/* The best of a slot's locations: fastest tier, there any, by `chance`; at a node whose connection
 * ended only when there is no other. How many show: 0, and there is none. */
static uint32_t best_location(const struct master *master, const struct slot *slot,
                              const struct route_excludes *excludes, uint64_t chance,
                              struct location *best_out, uint64_t *view_out)
{
    uint32_t locations = slot_count(slot);
    uint32_t best_rank = 2 * MASTER_TIERS;
    uint32_t equals = 0;
    uint32_t shown = 0;
    for (uint32_t i = 0; i < locations; i++) {
        struct location location = slot_at(slot, i);
        uint64_t view = view_load(master, location.owner);
        uint32_t rank =
            (uint32_t)__builtin_ctz(location.tiers) + (view & VIEW_LOST ? MASTER_TIERS : 0);
        if (!view_shows(view, location.epoch) || route_is_excluded(excludes, location.owner)) {
            continue;
        }
        shown++;
        if (rank > best_rank) {
            continue;
        }
        if (rank < best_rank) {
            best_rank = rank;
            equals = 0;
        }
        equals++;
        if (equals == 1 || (uint64_t)(uint32_t)mix(chance + i) * equals >> 32 == 0) {
            *best_out = location;
            *view_out = view;
        }
    }
    return shown;
}

static void route_get_one(struct master *master, struct fingerprint print,
                          const struct route_excludes *excludes, uint64_t chance, uint32_t stamp,
                          struct master_route *route_out)
{
    struct shard *shard = table_shard(&master->blocks, print);
    struct location location = {0};
    uint64_t view = 0;
    *route_out = (struct master_route){0};
    mutex_lock(&shard->lock);
    struct slot *slot = table_find(shard, print);
    uint32_t shown = slot ? best_location(master, slot, excludes, chance, &location, &view) : 0;
    if (shown) {
        *route_out = (struct master_route){
            .node = view_handle(view),
            .outcome = MASTER_ROUTED,
            .tier = (uint8_t)(__builtin_ctz(location.tiers) + 1),
            .replicas = (uint8_t)u64_min(shown, UINT8_MAX),
            .bytes = location.bytes,
        };
        if (slot->stamp != stamp || !(slot->word & WORD_ROUTED)) {
            slot->stamp = stamp;
            slot->word |= WORD_ROUTED;
        }
    }
    mutex_unlock(&shard->lock);
}

static void prefetch_first(const struct table *table, const struct fingerprint *prints,
                           size_t count)
{
    for (size_t i = 0; i < count && i < PREFETCH_AHEAD; i++) {
        table_prefetch(table, prints[i]);
    }
}

static void prefetch_next(const struct table *table, const struct fingerprint *prints, size_t at,
                          size_t count)
{
    if (at + PREFETCH_AHEAD < count) {
        table_prefetch(table, prints[at + PREFETCH_AHEAD]);
    }
}

enum umbp_status master_route_get(struct master *master, const struct master_caller *caller,
                                  const struct fingerprint *prints, size_t count_,
                                  struct master_route *routes_out)
{
    struct route_excludes excludes;
    struct tally tally = {.hits = {0}};
    enum umbp_status status = take_caller(master, caller, count_, &excludes);
    if (status != UMBP_OK) {
        return status;
    }
    uint32_t which = caller->is_single ? NODE_ROUTE_GETS : NODE_BATCH_ROUTE_GETS;
    uint32_t stamp = stamp_at(master, now_ns(master));
    /* relaxed: different calls get different numbers, that is all */
    uint64_t chance = mix(atomic_fetch_add_explicit(&master->choice, 1, memory_order_relaxed));
    uint64_t missed = 0;
    prefetch_first(&master->blocks, prints, count_);
    for (size_t i = 0; i < count_; i++) {
        prefetch_next(&master->blocks, prints, i, count_);
        route_get_one(master, prints[i], &excludes, chance ^ prints[i].high, stamp, &routes_out[i]);
        if (routes_out[i].outcome == MASTER_ROUTED) {
            tally_add(master, &tally, handle_index(routes_out[i].node), which);
        } else {
            missed++;
        }
    }
    tally_end(master, &tally, which);
    count(master, COUNT_MISSED_GETS, missed);
    return UMBP_OK;
}

/* Under the shard's lock. Who holds it, MASTER_NODE_NONE: nobody. No trace is left. What only a
 * lost node has does not count: nine times of ten it is dead, a reader would plan with a hit and
 * find a miss, and a writer could not store it again elsewhere for as long as the expiry takes. */
static uint32_t look_up(const struct master *master, const struct shard *shard,
                        struct fingerprint print)
{
    uint32_t found = MASTER_NODE_NONE;
    const struct slot *slot = table_find(shard, print);
    uint32_t locations = slot ? slot_count(slot) : 0;
    for (uint32_t i = 0; i < locations && found == MASTER_NODE_NONE; i++) {
        struct location location = slot_at(slot, i);
        uint64_t view = view_load(master, location.owner);
        found = !(view & VIEW_LOST) && view_shows(view, location.epoch) ? view_handle(view)
                                                                        : MASTER_NODE_NONE;
    }
    return found;
}

static uint32_t look_up_one(const struct master *master, struct fingerprint print)
{
    struct shard *shard = table_shard(&master->blocks, print);
    mutex_lock(&shard->lock);
    uint32_t found = look_up(master, shard, print);
    mutex_unlock(&shard->lock);
    return found;
}

/* The order of the bits that choose a shard, so that its lock is taken once for all that it has;
 * with more shards than LOOK_GROUPS, nearly so. */
static void sort_by_shard(const struct fingerprint *prints, size_t count,
                          uint8_t order_out[LOOK_CHUNK])
{
    uint8_t next[LOOK_GROUPS + 1] = {0};
    for (size_t i = 0; i < count; i++) {
        next[(prints[i].low >> LOOK_SHIFT) + 1]++;
    }
    for (size_t group = 0; group < LOOK_GROUPS; group++) {
        next[group + 1] = (uint8_t)(next[group + 1] + next[group]);
    }
    for (size_t i = 0; i < count; i++) {
        order_out[next[prints[i].low >> LOOK_SHIFT]++] = (uint8_t)i;
    }
}

static void look_up_some(struct master *master, const struct fingerprint *prints, size_t count,
                         uint8_t *found_out)
{
    const struct table *table = &master->blocks;
    uint8_t order[LOOK_CHUNK];
    struct shard *locked = NULL;

    sort_by_shard(prints, count, order);
    for (size_t i = 0; i < count && i < PREFETCH_AHEAD; i++) {
        table_prefetch(table, prints[order[i]]);
    }
    for (size_t i = 0; i < count; i++) {
        if (i + PREFETCH_AHEAD < count) {
            table_prefetch(table, prints[order[i + PREFETCH_AHEAD]]);
        }
        struct shard *shard = table_shard(table, prints[order[i]]);
        if (shard != locked) {
            if (locked) {
                mutex_unlock(&locked->lock);
            }
            mutex_lock(&shard->lock);
            locked = shard;
        }
        found_out[order[i]] = look_up(master, shard, prints[order[i]]) != MASTER_NODE_NONE;
    }
    if (locked) {
        mutex_unlock(&locked->lock);
    }
}

enum umbp_status master_lookup(struct master *master, const struct fingerprint *prints,
                               size_t count_, uint8_t *found_out)
{
    if (count_ > MASTER_BATCH_MAX) {
        return UMBP_LIMIT;
    }
    for (size_t at = 0; at < count_; at += LOOK_CHUNK) {
        look_up_some(master, prints + at, size_min(count_ - at, LOOK_CHUNK), found_out + at);
    }
    return UMBP_OK;
}

enum umbp_status master_route_put(struct master *master, const struct master_caller *caller,
                                  const struct fingerprint *prints, const uint64_t *sizes,
                                  uint64_t size, size_t count_, struct master_route *routes_out)
{
    struct route_excludes excludes;
    struct tally tally = {.hits = {0}};
    enum umbp_status status = take_caller(master, caller, count_, &excludes);
    if (status != UMBP_OK) {
        return status;
    }
    uint32_t requester = UINT32_MAX;
    if (caller->node != MASTER_NODE_NONE &&
        view_handle(view_load(master, handle_index(caller->node))) == caller->node) {
        requester = handle_index(caller->node);
    }
    prefetch_first(&master->blocks, prints, count_);
    for (size_t i = 0; i < count_; i++) {
        prefetch_next(&master->blocks, prints, i, count_);
        uint32_t holder = look_up_one(master, prints[i]);
        routes_out[i] = (struct master_route){
            .node = holder,
            .outcome = holder ? MASTER_ALREADY_EXISTS : MASTER_UNAVAILABLE,
        };
    }
    put_place(master, &excludes, requester, sizes, size, count_, routes_out);
    uint32_t which = caller->is_single ? NODE_ROUTE_PUTS : NODE_BATCH_ROUTE_PUTS;
    uint64_t unrouted = 0;
    for (size_t i = 0; i < count_; i++) {
        if (routes_out[i].outcome == MASTER_ROUTED) {
            tally_add(master, &tally, routes_out[i].node, which);
            routes_out[i].node = view_handle(view_load(master, routes_out[i].node));
        }
        unrouted += routes_out[i].outcome == MASTER_UNAVAILABLE;
    }
    tally_end(master, &tally, which);
    count(master, COUNT_UNROUTED_PUTS, unrouted);
    return UMBP_OK;
}
