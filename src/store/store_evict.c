/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Eviction: one exact order over a sharded index.
 *
 * Every entry with a DRAM block is on a list of its shard and carries the stamp that it got when it
 * was last renewed. The evictor keeps, for each queue of the policy, a sorted array of the globally
 * oldest entries ("candidates"). It fills the array by looking at the oldest few of every shard,
 * one shard lock at a time; what lies beyond the youngest entry seen of a shard that has more is
 * cut off, so the array is a true prefix of the global order. Whatever happens later only gets
 * higher stamps, so the array stays right: an entry that was renewed, removed or replaced meanwhile
 * no longer has the recorded stamp or generation, and is skipped. A refill is amortised over
 * hundreds of evictions.
 *
 *     shard 0   new ... 41 17 9      \
 *     shard 1   new ... 30 12 5 2     >  candidates: 2 3 5 9 12 17 ...
 *     shard 2   new ... 44 3         /
 *
 * prefix_aware_lru looks at the first `candidate_window` of the array and takes the deepest.
 *
 * Pinned entries can't go. A reader's pin is itself an access, so they are renewed and out of the
 * way; one that a copier holds stays where it is unless nothing else is left.
 */
#include "store/store_priv.h"

#define CANDIDATES_WANTED 1024u
#define CANDIDATES_AHEAD 4u
#define FREE_BATCH 32u
#define GROUP_MAX 256u
#define BARREN_MAX 2u
#define CLEAN_TRIES 256u

/* ---------------------------------------------------------------------------- candidates - */

enum umbp_status evictor_create(struct store *store)
{
    struct evictor *evictor = &store->evictor;
    mutex_init(&evictor->lock, RANK_STORE_EVICT);
    uint32_t per_shard = CANDIDATES_WANTED / store->shard_count;
    evictor->per_shard = per_shard < 16 ? 16 : per_shard;
    for (int queue = 0; queue < POLICY_QUEUES; queue++) {
        evictor->lists[queue].items =
            mem_calloc((size_t)evictor->per_shard * store->shard_count, sizeof(struct candidate));
        if (!evictor->lists[queue].items) {
            return UMBP_NO_MEMORY;
        }
    }
    return UMBP_OK;
}

void evictor_destroy(struct store *store)
{
    for (int queue = 0; queue < POLICY_QUEUES; queue++) {
        mem_free(store->evictor.lists[queue].items);
    }
    mutex_fini(&store->evictor.lock);
}

/* Heap sort by stamp: in place, and the libc's qsort allocates. */
static void sort_candidates(struct candidate *items, size_t count)
{
    for (size_t start = count / 2, end = count; end > 1;) {
        if (start > 0) {
            start--;
        } else {
            end--;
            struct candidate swap = items[0];
            items[0] = items[end];
            items[end] = swap;
        }
        for (size_t root = start, child; (child = root * 2 + 1) < end; root = child) {
            if (child + 1 < end && items[child].stamp < items[child + 1].stamp) {
                child++;
            }
            if (items[root].stamp >= items[child].stamp) {
                break;
            }
            struct candidate swap = items[root];
            items[root] = items[child];
            items[child] = swap;
        }
    }
}

/* Under the evictor's lock. The oldest of every shard, merged, cut where the order is not sure. */
static void refill(struct store *store, enum policy_queue queue)
{
    struct evictor *evictor = &store->evictor;
    struct candidate_list *list = &evictor->lists[queue];
    uint64_t sure_below = UINT64_MAX;
    uint32_t count = 0;

    for (uint32_t s = 0; s < store->shard_count; s++) {
        struct shard *shard = &store->shards[s];
        uint32_t taken = 0;
        uint64_t last = 0;
        mutex_lock(&shard->lock);
        uint32_t handle = shard->lists[queue].oldest;
        while (handle && taken < evictor->per_shard) {
            const struct entry *entry = index_entry(shard, handle);
            index_fetch_whole(index_entry(shard, entry->prev));
            last = entry->stamp;
            list->items[count++] = (struct candidate){
                .stamp = entry->stamp,
                .generation = entry->generation,
                .shard = s,
                .handle = handle,
                .depth = entry->depth,
                .entry = entry,
                .print = entry->print,
            };
            taken++;
            handle = entry->prev;
        }
        mutex_unlock(&shard->lock);
        if (handle) {
            sure_below = u64_min(sure_below, last);
        }
    }
    sort_candidates(list->items, count);
    while (count > 1 && list->items[count - 1].stamp > sure_below) {
        count--;
    }
    list->next = 0;
    list->count = count;
    list->fresh = true;
}

/* An unknown depth counts as the root's: such a value goes last among its peers. */
static uint32_t depth_of(const struct candidate *candidate)
{
    return candidate->depth == UMBP_DEPTH_NONE ? 0 : candidate->depth;
}

static bool is_current(const struct store *store, const struct candidate *candidate)
{
    const struct entry *entry = index_entry(&store->shards[candidate->shard], candidate->handle);
    return entry->generation == candidate->generation && entry->stamp == candidate->stamp &&
           (entry->flags & (ENTRY_LINKED | ENTRY_LISTED)) == (ENTRY_LINKED | ENTRY_LISTED);
}

enum standing {
    STANDING_GONE,
    STANDING_PINNED,
    STANDING_FREE
};

/* Under the shard's lock. A reader's pin is an access: the entry is renewed, and out of the way. */
static enum standing standing_of(struct store *store, struct shard *shard,
                                 const struct candidate *candidate, bool take_copying)
{
    if (!is_current(store, candidate)) {
        return STANDING_GONE;
    }
    struct entry *entry = index_entry(shard, candidate->handle);
    if (index_is_unpinned(entry)) {
        return STANDING_FREE;
    }
    if (!(entry->flags & ENTRY_COPYING) || take_copying) {
        policy_renew(store, shard, candidate->handle,
                     entry->flags & ENTRY_QUEUE_MAIN ? POLICY_MAIN : POLICY_SMALL);
    }
    return STANDING_PINNED;
}

static bool is_free(struct store *store, const struct candidate *candidate, bool take_copying)
{
    struct shard *shard = &store->shards[candidate->shard];
    mutex_lock(&shard->lock);
    enum standing standing = standing_of(store, shard, candidate, take_copying);
    mutex_unlock(&shard->lock);
    return standing == STANDING_FREE;
}

/* Drop what can't go from the window, so that it holds true candidates only. */
static uint32_t settle_window(struct store *store, struct candidate_list *list, bool take_copying)
{
    uint32_t kept = 0;
    uint32_t window = store->options.candidate_window;
    uint32_t at = list->next;

    for (; at < list->count && kept < window; at++) {
        if (is_free(store, &list->items[at], take_copying)) {
            struct candidate keep = list->items[at];
            list->items[at] = list->items[list->next + kept];
            list->items[list->next + kept] = keep;
            kept++;
        }
    }
    /* What was skipped now lies between the kept ones and `at`: move the kept up against `at`. */
    uint32_t skipped = at - list->next - kept;
    for (uint32_t i = kept; skipped && i > 0; i--) {
        list->items[list->next + skipped + i - 1] = list->items[list->next + i - 1];
    }
    list->next += skipped;
    return kept;
}

/* Those that come soon: an eviction would wait for the entry, and then for its bucket. */
static void fetch_candidate(struct store *store, const struct candidate_list *list, uint32_t at)
{
    if (at < list->count) {
        index_fetch_whole(list->items[at].entry);
        index_prefetch(store, list->items[at].print);
    }
}

/* The next candidate of the queue, by the policy; false when the array is used up. */
static bool next_candidate(struct store *store, enum policy_queue queue, bool take_copying,
                           struct candidate *candidate_out)
{
    struct candidate_list *list = &store->evictor.lists[queue];
    if (!store->policy->prefers_depth) {
        if (list->next == list->count) {
            return false;
        }
        *candidate_out = list->items[list->next++];
        fetch_candidate(store, list, list->next + CANDIDATES_AHEAD);
        return true;
    }
    uint32_t window = settle_window(store, list, take_copying);
    if (!window || (window < store->options.candidate_window && !list->fresh)) {
        return false; /* younger ones may compete too: look again */
    }
    uint32_t best = 0;
    for (uint32_t i = 1; i < window; i++) {
        if (depth_of(&list->items[list->next + i]) > depth_of(&list->items[list->next + best])) {
            best = i;
        }
    }
    *candidate_out = list->items[list->next + best];
    for (uint32_t i = best; i > 0; i--) {
        list->items[list->next + i] = list->items[list->next + i - 1];
    }
    list->next++;
    list->fresh = false;
    fetch_candidate(store, list, list->next + store->options.candidate_window + CANDIDATES_AHEAD);
    return true;
}

/* ------------------------------------------------------------------------------ one step - */

struct eviction {
    struct store *store;
    uint64_t freed;
    uint32_t block_count;
    struct dram_block blocks[FREE_BATCH];
    /* Demotion: entries that must be written first are pinned here. */
    struct entry **demoted;
    uint32_t demoted_count;
    uint32_t demoted_max;
    uint64_t demoted_bytes;
    bool take_copying; /* renew entries that a copier holds: nothing else is left */
    bool clean_only;   /* leave what the SSD does not have */
    bool other_queue;  /* the policy's choice had nothing that can go */
    uint64_t moves;    /* steps that brought eviction nearer: frees, second chances */
};

static void free_blocks(struct eviction *eviction)
{
    dram_free_batch(eviction->store->dram, eviction->blocks, eviction->block_count);
    eviction->block_count = 0;
}

static void evict_entry(struct eviction *eviction, struct shard *shard, uint32_t handle)
{
    struct entry *entry = index_entry(shard, handle);
    uint64_t bytes = (uint64_t)entry->block.granules * DRAM_GRANULE_BYTES;

    if (eviction->demoted && !entry->ssd.segment) {
        if (eviction->demoted_count < eviction->demoted_max) {
            index_ref(entry);
            entry->flags |= ENTRY_COPYING;
            shard->copying++;
            atomic_fetch_add_explicit(&eviction->store->copying, 1, memory_order_relaxed);
            eviction->demoted[eviction->demoted_count++] = entry;
            eviction->demoted_bytes += bytes;
            eviction->freed += bytes;
        }
        return;
    }
    if (eviction->block_count == FREE_BATCH) {
        free_blocks(eviction); /* RANK_DRAM is above RANK_SHARD */
    }
    entry_drop_dram(eviction->store, shard, handle, true,
                    &eviction->blocks[eviction->block_count++]);
    eviction->freed += bytes;
}

/* The other keys of the victim's page share its home bucket. */
static void evict_group(struct eviction *eviction, struct shard *shard, const struct entry *victim)
{
    uint32_t members[GROUP_MAX];
    uint32_t count = 0;
    uint32_t part;
    size_t stem = index_page_stem(victim->key, victim->key_bytes, &part);
    struct bucket *buckets = atomic_load_explicit(&shard->buckets, memory_order_relaxed);
    uint64_t mask = atomic_load_explicit(&shard->bucket_mask, memory_order_relaxed);

    if (stem == victim->key_bytes || victim->depth == UMBP_DEPTH_NONE) {
        return;
    }
    for (uint64_t at = victim->print.low & mask, steps = 0; steps <= mask;
         at = (at + 1) & mask, steps++) {
        for (uint32_t slot = 0; slot < BUCKET_SLOTS; slot++) {
            uint32_t handle = buckets[at].tags[slot] ? buckets[at].handles[slot] : 0;
            const struct entry *entry = handle ? index_entry(shard, handle) : NULL;
            if (entry && entry != victim && entry->print.low == victim->print.low &&
                (entry->flags & ENTRY_LISTED) && !(entry->flags & ENTRY_COPYING) &&
                index_is_unpinned(entry) && count < GROUP_MAX) {
                members[count++] = handle;
            }
        }
        if (!buckets[at].overflow) {
            break;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        evict_entry(eviction, shard, members[i]);
    }
}

/* Under the shard's lock: what becomes of this candidate. */
static void try_candidate(struct eviction *eviction, struct shard *shard,
                          const struct candidate *candidate)
{
    struct store *store = eviction->store;
    enum standing standing = standing_of(store, shard, candidate, eviction->take_copying);
    if (standing != STANDING_FREE) {
        eviction->other_queue ^= standing == STANDING_PINNED;
        return;
    }
    struct entry *entry = index_entry(shard, candidate->handle);
    if (eviction->clean_only && !entry->ssd.segment) {
        return;
    }
    eviction->moves++;
    eviction->other_queue = false;
    if (store->policy->judge(entry) == POLICY_TO_MAIN) {
        policy_renew(store, shard, candidate->handle, POLICY_MAIN);
        return;
    }
    if (store->policy->groups_pages) {
        evict_group(eviction, shard, entry);
    }
    evict_entry(eviction, shard, candidate->handle);
}

static enum policy_queue queue_to_evict(struct store *store, bool other_queue)
{
    uint64_t bytes[POLICY_QUEUES];
    for (int queue = 0; queue < POLICY_QUEUES; queue++) {
        bytes[queue] = atomic_load_explicit(&store->queue_bytes[queue], memory_order_relaxed);
    }
    enum policy_queue queue = store->policy->queue_to_evict(bytes, dram_bytes_total(store->dram));
    enum policy_queue other = queue == POLICY_MAIN ? POLICY_SMALL : POLICY_MAIN;
    return (other_queue || !bytes[queue]) && bytes[other] ? other : queue;
}

/*
 * Evict in order until `bytes` are freed, or nothing more can be: everything is pinned, which shows
 * in refill after refill without a move, or the tries are used up, which bounds the time that the
 * lock is held.
 */
static void evict_until(struct eviction *eviction, uint64_t bytes, uint64_t tries)
{
    struct store *store = eviction->store;
    struct evictor *evictor = &store->evictor;
    uint32_t barren_refills = 0;
    uint64_t moves_before = 0;

    mutex_lock(&evictor->lock);
    while (eviction->freed < bytes && tries-- > 0) {
        enum policy_queue queue = queue_to_evict(store, eviction->other_queue);
        struct candidate candidate;
        if (!next_candidate(store, queue, eviction->take_copying, &candidate)) {
            if (eviction->moves == moves_before && ++barren_refills > BARREN_MAX) {
                if (eviction->take_copying) {
                    break;
                }
                eviction->take_copying = true;
                barren_refills = 0;
            }
            moves_before = eviction->moves;
            refill(store, queue);
            if (!evictor->lists[queue].count) {
                eviction->other_queue = !eviction->other_queue;
            }
            continue;
        }
        struct shard *shard = &store->shards[candidate.shard];
        mutex_lock(&shard->lock);
        try_candidate(eviction, shard, &candidate);
        mutex_unlock(&shard->lock);
        if (eviction->demoted && (eviction->demoted_count == eviction->demoted_max ||
                                  eviction->demoted_bytes >= store->copy_pin_bytes)) {
            break;
        }
    }
    free_blocks(eviction);
    mutex_unlock(&evictor->lock);
}

static void eviction_init(struct eviction *eviction, struct store *store)
{
    /* Not the blocks: they are written before they are read. */
    eviction->store = store;
    eviction->freed = 0;
    eviction->block_count = 0;
    eviction->demoted = NULL;
    eviction->demoted_count = 0;
    eviction->demoted_max = 0;
    eviction->demoted_bytes = 0;
    eviction->take_copying = false;
    eviction->clean_only = false;
    eviction->other_queue = false;
    eviction->moves = 0;
}

static uint64_t all_tries(const struct store *store)
{
    return atomic_load_explicit(&store->entries, memory_order_relaxed) * (HEAT_ROUNDS + 1) + 1024;
}

uint64_t evict_bytes(struct store *store, uint64_t bytes)
{
    struct eviction eviction;
    eviction_init(&eviction, store);
    evict_until(&eviction, bytes, all_tries(store));
    return eviction.freed;
}

uint64_t evict_clean_bytes(struct store *store, uint64_t bytes)
{
    struct eviction eviction;
    eviction_init(&eviction, store);
    eviction.clean_only = true;
    evict_until(&eviction, bytes, CLEAN_TRIES);
    return eviction.freed;
}

uint32_t evict_for_demotion(struct store *store, uint64_t bytes, struct entry **entries_out,
                            uint32_t max, uint64_t *freed_out)
{
    struct eviction eviction;
    eviction_init(&eviction, store);
    eviction.demoted = entries_out;
    eviction.demoted_max = max;
    evict_until(&eviction, bytes, all_tries(store));
    *freed_out = eviction.freed;
    return eviction.demoted_count;
}

uint64_t store_evict(struct store *store, uint64_t bytes) { return evict_bytes(store, bytes); }
