/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The eviction adviser. A round looks at every slot once, a piece at a tick, and keeps for each
 * full tier of a node the longest unused keys, in a heap whose top is the first to make way. Of
 * keys unused equally long (to some 17 ms) the deepest goes first, so that a prefix outlives what
 * continues it. Keys that were routed to a reader within the lease are left out. The master changes
 * nothing of its own: the owner evicts or not, and its events tell.
 */
#include "master/master_priv.h"

#define STEP_SEGMENTS 32u
#define BUCKETS_MAX 1024u

struct candidate {
    struct fingerprint print;
    uint64_t bytes;
    uint32_t age; /* stamps since the last access */
    uint32_t depth;
};

struct bucket {
    uint32_t node;
    uint32_t handle;
    uint32_t tier;
    uint64_t budget;
    struct candidate *heap; /* the top is the least fit to go */
    uint32_t count;
};

struct advice_round {
    struct master *master;
    struct table_cursor cursor;
    bool is_looked_through;
    uint32_t stamp;
    uint32_t lease;
    uint32_t bucket_count;
    uint32_t per_bucket;
    uint32_t next_bucket;
    uint16_t *bucket_of; /* by node * MASTER_TIERS + tier: index + 1 */
    struct candidate *candidates;
    struct bucket buckets[BUCKETS_MAX];

    struct master_victim *victims;
    size_t victim_count;
    char *keys;
    size_t key_bytes;
    size_t key_capacity;
};

void advice_round_free(struct advice_round *round)
{
    if (round) {
        mem_free(round->bucket_of);
        mem_free(round->candidates);
        mem_free(round->victims);
        mem_free(round->keys);
        mem_free(round);
    }
}

/* ------------------------------------------------------------------------------- heap ---- */

/* Whether `a` should go before `b`. An unknown depth is the least. */
static bool goes_before(const struct candidate *a, const struct candidate *b)
{
    if (a->age != b->age) {
        return a->age > b->age;
    }
    return a->depth > b->depth;
}

static void sift_down(struct candidate *heap, uint32_t count, uint32_t at)
{
    for (;;) {
        uint32_t child = at * 2 + 1;
        if (child >= count) {
            return;
        }
        if (child + 1 < count && goes_before(&heap[child], &heap[child + 1])) {
            child++;
        }
        if (!goes_before(&heap[at], &heap[child])) {
            return;
        }
        struct candidate kept = heap[at];
        heap[at] = heap[child];
        heap[child] = kept;
        at = child;
    }
}

static void bucket_offer(struct bucket *bucket, uint32_t capacity,
                         const struct candidate *candidate)
{
    if (bucket->count == capacity) {
        if (goes_before(candidate, &bucket->heap[0])) {
            bucket->heap[0] = *candidate;
            sift_down(bucket->heap, bucket->count, 0);
        }
        return;
    }
    uint32_t at = bucket->count++;
    bucket->heap[at] = *candidate;
    while (at > 0 && goes_before(&bucket->heap[(at - 1) / 2], &bucket->heap[at])) {
        struct candidate kept = bucket->heap[at];
        bucket->heap[at] = bucket->heap[(at - 1) / 2];
        bucket->heap[(at - 1) / 2] = kept;
        at = (at - 1) / 2;
    }
}

/* ------------------------------------------------------------------------------ begin ---- */

static uint64_t budget_of(const struct master *master, const struct master_capacity *capacity)
{
    double total = (double)capacity->total_bytes;
    double used = total - (double)u64_min(capacity->available_bytes, capacity->total_bytes);
    if (total <= 0 || used < total * master->options.evict_high_watermark) {
        return 0;
    }
    double over = used - total * master->options.evict_low_watermark;
    return over > 0 ? (uint64_t)over : 0;
}

static void add_bucket(struct advice_round *round, const struct node *node, uint32_t index,
                       uint32_t tier, uint64_t budget)
{
    round->buckets[round->bucket_count++] = (struct bucket){
        .node = index,
        .handle = node->handle,
        .tier = tier,
        .budget = budget,
    };
    round->bucket_of[index * MASTER_TIERS + tier] = (uint16_t)round->bucket_count;
}

static void find_full_tiers(struct advice_round *round)
{
    struct master *master = round->master;
    mutex_lock(&master->members_lock);
    uint32_t used = master->nodes_used;
    uint32_t from = used ? master->advice_from % used : 0;
    for (uint32_t n = 0; n < used; n++) {
        uint32_t i = (from + n) % used;
        const struct node *node = &master->nodes[i];
        if (round->bucket_count + MASTER_TIERS > BUCKETS_MAX) {
            master->advice_from = i; /* the rest is looked at first next time */
            break;
        }
        if (node->state != MASTER_NODE_ALIVE || !(node->wants_keys || master->options.advise_all)) {
            continue;
        }
        for (uint32_t tier = MASTER_TIER_HBM; tier <= MASTER_TIER_DRAM; tier++) {
            uint64_t budget = budget_of(master, &node->capacities[tier]);
            if (budget) {
                add_bucket(round, node, i, tier, budget);
            }
        }
    }
    mutex_unlock(&master->members_lock);
}

/* NULL when nothing is full, or there is no memory for it now. */
static struct advice_round *round_begin(struct master *master, uint64_t now)
{
    struct advice_round *round = mem_zalloc(sizeof(*round));
    if (!round) {
        return NULL;
    }
    round->master = master;
    round->stamp = stamp_at(master, now);
    round->lease = (uint32_t)(master->options.lease_duration_sec * NS_PER_S >> STAMP_SHIFT);
    round->bucket_of =
        mem_calloc((size_t)MASTER_NODES_MAX * MASTER_TIERS, sizeof(*round->bucket_of));
    if (!round->bucket_of) {
        goto fail;
    }
    find_full_tiers(round);
    if (!round->bucket_count) {
        goto fail;
    }
    round->per_bucket = master->options.evict_batch;
    if (round->per_bucket > MASTER_VICTIMS_MAX / round->bucket_count) {
        round->per_bucket = MASTER_VICTIMS_MAX / round->bucket_count;
    }
    size_t candidates = (size_t)round->per_bucket * round->bucket_count;
    round->candidates = mem_alloc(candidates * sizeof(struct candidate));
    round->victims = mem_alloc(candidates * sizeof(struct master_victim));
    if (!round->candidates || !round->victims) {
        goto fail;
    }
    for (uint32_t i = 0; i < round->bucket_count; i++) {
        round->buckets[i].heap = &round->candidates[(size_t)i * round->per_bucket];
    }
    return round;
fail:
    advice_round_free(round);
    return NULL;
}

/* ------------------------------------------------------------------------------- look ---- */

static bool look_at(void *context, struct slot *slot)
{
    struct advice_round *round = context;
    uint32_t age = round->stamp - slot->stamp;
    if (age > INT32_MAX) {
        age = 0; /* used since the round began */
    }
    if ((slot->word & WORD_ROUTED) && age <= round->lease) {
        return true;
    }
    uint32_t depth = slot_depth(slot) == DEPTH_NONE ? 0 : slot_depth(slot);
    uint32_t locations = slot_count(slot);
    for (uint32_t i = 0; i < locations; i++) {
        struct location location = slot_at(slot, i);
        const uint16_t *buckets = &round->bucket_of[location.owner * MASTER_TIERS];
        for (uint32_t tier = MASTER_TIER_HBM; tier <= MASTER_TIER_DRAM; tier++) {
            if (buckets[tier] && (location.tiers & tier_bit(tier)) &&
                view_shows(view_load(round->master, location.owner), location.epoch)) {
                const struct candidate candidate = {slot->print, location.bytes, age, depth};
                bucket_offer(&round->buckets[buckets[tier] - 1], round->per_bucket, &candidate);
            }
        }
    }
    return true;
}

/* ------------------------------------------------------------------------------ finish --- */

static int candidate_compare(const void *a, const void *b)
{
    return goes_before(a, b) ? -1 : goes_before(b, a) ? 1 : 0;
}

static bool keys_reserve(struct advice_round *round, size_t bytes)
{
    if (round->key_bytes + bytes <= round->key_capacity) {
        return true;
    }
    size_t capacity = size_max(round->key_capacity * 2, round->key_bytes + bytes + 4096);
    char *keys = mem_realloc(round->keys, capacity);
    if (!keys) {
        return false;
    }
    round->keys = keys;
    round->key_capacity = capacity;
    return true;
}

/* The key's bytes, if they are kept and it is still there. */
static uint16_t take_key(struct advice_round *round, struct fingerprint print)
{
    const struct table *table = &round->master->blocks;
    struct shard *shard = table_shard(table, print);
    size_t bytes = 0;
    if (!keys_reserve(round, UMBP_KEY_BYTES_MAX)) {
        return 0;
    }
    mutex_lock(&shard->lock);
    const struct slot *slot = table_find(shard, print);
    if (slot) {
        bytes = slot_key(slot, round->keys + round->key_bytes);
    }
    mutex_unlock(&shard->lock);
    round->key_bytes += bytes;
    return (uint16_t)bytes;
}

static void bucket_finish(struct advice_round *round, struct bucket *bucket)
{
    uint64_t freed = 0;
    if (bucket->count > 1) {
        qsort(bucket->heap, bucket->count, sizeof(*bucket->heap), candidate_compare);
    }
    for (uint32_t i = 0; i < bucket->count && freed < bucket->budget; i++) {
        round->victims[round->victim_count++] = (struct master_victim){
            .print = bucket->heap[i].print,
            .bytes = bucket->heap[i].bytes,
            .node = bucket->handle,
            .key_bytes = take_key(round, bucket->heap[i].print),
            .tier = (uint8_t)bucket->tier,
        };
        freed += bucket->heap[i].bytes;
    }
}

static void round_publish(struct advice_round *round)
{
    struct master *master = round->master;
    size_t at = 0;
    for (size_t i = 0; i < round->victim_count; i++) {
        struct master_victim *victim = &round->victims[i];
        victim->key = victim->key_bytes ? round->keys + at : NULL;
        at += victim->key_bytes;
    }
    struct master_advice advice = {round->victims, round->victim_count, round->keys};
    round->victims = NULL;
    round->keys = NULL;
    mutex_lock(&master->advice_lock);
    struct master_advice old = master->advice;
    master->advice = advice;
    master->has_advice = advice.count > 0;
    mutex_unlock(&master->advice_lock);
    master_advice_free(&old); /* nobody took it */
    count(master, COUNT_ADVICE_ROUNDS, 1);
    count(master, COUNT_ADVICE_VICTIMS, advice.count);
}

bool advice_step(struct master *master, uint64_t now)
{
    struct advice_round *round = master->round;
    if (!round) {
        if (now < master->evict_ns) {
            return false;
        }
        master->evict_ns = now + master->options.eviction_check_interval_sec * NS_PER_S;
        master->round = round_begin(master, now);
        return master->round != NULL;
    }
    if (!round->is_looked_through) {
        round->is_looked_through =
            !table_walk(&master->blocks, &round->cursor, STEP_SEGMENTS, look_at, round);
        return true;
    }
    if (round->next_bucket < round->bucket_count) {
        bucket_finish(round, &round->buckets[round->next_bucket++]);
        return true;
    }
    round_publish(round);
    advice_round_free(round);
    master->round = NULL;
    return false;
}

enum umbp_status master_advice_take(struct master *master, struct master_advice *advice_out)
{
    enum umbp_status status = UMBP_NOT_FOUND;
    mutex_lock(&master->advice_lock);
    if (master->has_advice) {
        *advice_out = master->advice;
        master->advice = (struct master_advice){0};
        master->has_advice = false;
        status = UMBP_OK;
    }
    mutex_unlock(&master->advice_lock);
    return status;
}

void master_advice_free(struct master_advice *advice)
{
    mem_free(advice->victims);
    mem_free(advice->memory);
    *advice = (struct master_advice){0};
}
