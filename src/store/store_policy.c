/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policies of eviction, as data and two or three small functions each.
 *
 * Every shard keeps one or two lists of the entries that have a DRAM block, newest first. Each
 * entry carries the stamp of its last renewal, from the store's one counter, so the lists of all
 * shards merge into one exact order (store_evict.c).
 *
 *  lru                 one list; an access renews.
 *  prefix_aware_lru    the same, but the keys of one page are evicted together, and among the
 *                      coldest `candidate_window` the deepest goes first, the older of equals.
 *  s3fifo              Yang et al., "FIFO queues are all you need for cache eviction" (SOSP 2023):
 *                      new values join a small queue of a tenth of the tier, those used more than
 *                      once while there move to the main one, which gives each a further round per
 * use (up to three); keys that left the small queue unused are remembered for a while, and join the
 * main queue if they come back.
 */
#include <string.h>

#include "store/store_priv.h"

#define GHOSTS_MIN 1024u
#define HEAT_MAX HEAT_ROUNDS

static enum policy_queue always_main(bool ghost_hit)
{
    (void)ghost_hit;
    return POLICY_MAIN;
}

static enum policy_queue evict_main(const uint64_t bytes[POLICY_QUEUES], uint64_t tier_bytes)
{
    (void)bytes;
    (void)tier_bytes;
    return POLICY_MAIN;
}

static enum policy_verdict evict_always(struct entry *entry)
{
    (void)entry;
    return POLICY_EVICT;
}

static enum policy_queue s3fifo_queue_for_new(bool ghost_hit)
{
    return ghost_hit ? POLICY_MAIN : POLICY_SMALL;
}

/* What the main queue does not take is the small one's, or free, which is about to be the small
 * one's: so it does not matter whether room is made for one value or for many at a time. */
static enum policy_queue s3fifo_queue_to_evict(const uint64_t bytes[POLICY_QUEUES],
                                               uint64_t tier_bytes)
{
    uint64_t main_share = tier_bytes / 10 * 9;
    return bytes[POLICY_MAIN] <= main_share && bytes[POLICY_SMALL] ? POLICY_SMALL : POLICY_MAIN;
}

/* Out of the small queue an entry moves on if it was used more than once, as in the paper. */
static enum policy_verdict s3fifo_judge(struct entry *entry)
{
    uint8_t enough = entry->flags & ENTRY_QUEUE_MAIN ? 1 : 2;
    if (entry->heat < enough) {
        return POLICY_EVICT;
    }
    /* Out of the small queue a value starts afresh; in the main one a round costs one use. */
    entry->heat = entry->flags & ENTRY_QUEUE_MAIN ? (uint8_t)(entry->heat - 1) : 0;
    return POLICY_TO_MAIN;
}

static const struct policy_ops policies[] = {
    {.name = "lru",
     .moves_on_access = true,
     .queue_for_new = always_main,
     .queue_to_evict = evict_main,
     .judge = evict_always},
    {.name = "prefix_aware_lru",
     .moves_on_access = true,
     .groups_pages = true,
     .prefers_depth = true,
     .queue_for_new = always_main,
     .queue_to_evict = evict_main,
     .judge = evict_always},
    {.name = "s3fifo",
     .has_ghosts = true,
     .queue_for_new = s3fifo_queue_for_new,
     .queue_to_evict = s3fifo_queue_to_evict,
     .judge = s3fifo_judge},
};

const char *store_policy_name(size_t index)
{
    return index < ARRAY_COUNT(policies) ? policies[index].name : NULL;
}

const struct policy_ops *policy_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(policies); i++) {
        if (!strcmp(policies[i].name, name)) {
            return &policies[i];
        }
    }
    return NULL;
}

/* ------------------------------------------------------------------------------- ghosts -- */

/*
 * A table of 32-bit tags in sets of GHOST_WAYS, the oldest of a set giving way. A ghost is believed
 * while fewer than GHOSTS_PER_ENTRY times the shard's entries were born since: measured on the
 * traces that docs/replay.md names, twice the entries is where a small cache gains most of what
 * ghosts can give, and a large one loses nothing. A wrong belief only costs a place in the wrong
 * queue.
 */
#define GHOST_WAYS 4u
#define GHOSTS_PER_ENTRY 2u

static uint64_t ghost_lifetime(const struct shard *shard)
{
    uint64_t entries = shard->lists[POLICY_SMALL].count + shard->lists[POLICY_MAIN].count;
    return u64_max(entries * GHOSTS_PER_ENTRY, GHOSTS_MIN / 16);
}

static void ghosts_size(struct shard *shard)
{
    uint64_t lifetime = ghost_lifetime(shard);
    uint32_t wanted = GHOSTS_MIN;
    while (wanted < lifetime && wanted < (1u << 30)) {
        wanted *= 2;
    }
    if (shard->ghosts && wanted <= shard->ghost_mask + 1) {
        return;
    }
    struct ghost_slot *ghosts = mem_calloc(wanted, sizeof(*ghosts));
    if (ghosts) { /* else the old table, or none, serves on */
        mem_free(shard->ghosts);
        shard->ghosts = ghosts;
        shard->ghost_mask = wanted - 1;
        shard->ghost_clock = 0;
    }
}

static struct ghost_slot *ghost_set(const struct shard *shard, struct fingerprint print)
{
    return &shard->ghosts[print.high & shard->ghost_mask & ~(uint64_t)(GHOST_WAYS - 1)];
}

static uint32_t ghost_tag(struct fingerprint print) { return (uint32_t)(print.high >> 32) | 1u; }

static void ghost_add(struct shard *shard, struct fingerprint print)
{
    ghosts_size(shard);
    if (!shard->ghosts) {
        return;
    }
    struct ghost_slot *set = ghost_set(shard, print);
    struct ghost_slot *slot = &set[0];
    for (uint32_t i = 0; i < GHOST_WAYS; i++) {
        if (!set[i].tag) {
            slot = &set[i];
            break;
        }
        if (shard->ghost_clock - set[i].birth > shard->ghost_clock - slot->birth) {
            slot = &set[i];
        }
    }
    slot->tag = ghost_tag(print);
    slot->birth = ++shard->ghost_clock;
}

static bool ghost_take(struct shard *shard, struct fingerprint print)
{
    if (!shard->ghosts) {
        return false;
    }
    struct ghost_slot *set = ghost_set(shard, print);
    for (uint32_t i = 0; i < GHOST_WAYS; i++) {
        if (set[i].tag == ghost_tag(print)) {
            set[i].tag = 0;
            return shard->ghost_clock - set[i].birth <= ghost_lifetime(shard);
        }
    }
    return false;
}

/* -------------------------------------------------------------------------------- lists -- */

static enum policy_queue queue_of(const struct entry *entry)
{
    return entry->flags & ENTRY_QUEUE_MAIN ? POLICY_MAIN : POLICY_SMALL;
}

static uint64_t block_bytes(const struct entry *entry)
{
    return (uint64_t)entry->block.granules * DRAM_GRANULE_BYTES;
}

static void list_join(struct store *store, struct shard *shard, uint32_t handle,
                      enum policy_queue queue)
{
    struct policy_list *list = &shard->lists[queue];
    struct entry *entry = index_entry(shard, handle);

    entry->flags = (uint8_t)((entry->flags & ~ENTRY_QUEUE_MAIN) | ENTRY_LISTED |
                             (queue == POLICY_MAIN ? ENTRY_QUEUE_MAIN : 0));
    entry->stamp = store_stamp(store);
    entry->prev = 0;
    entry->next = list->newest;
    if (list->newest) {
        index_entry(shard, list->newest)->prev = handle;
    } else {
        list->oldest = handle;
    }
    list->newest = handle;
    list->count++;
}

static void list_leave(struct shard *shard, uint32_t handle)
{
    struct entry *entry = index_entry(shard, handle);
    struct policy_list *list = &shard->lists[queue_of(entry)];

    if (entry->prev) {
        index_entry(shard, entry->prev)->next = entry->next;
    } else {
        list->newest = entry->next;
    }
    if (entry->next) {
        index_entry(shard, entry->next)->prev = entry->prev;
    } else {
        list->oldest = entry->prev;
    }
    list->count--;
    entry->flags &= (uint8_t)~ENTRY_LISTED;
    entry->prev = handle;
    entry->next = 0;
}

void policy_insert(struct store *store, struct shard *shard, uint32_t handle)
{
    const struct policy_ops *policy = store->policy;
    struct entry *entry = index_entry(shard, handle);
    bool ghost_hit = policy->has_ghosts && ghost_take(shard, entry->print);
    enum policy_queue queue = policy->queue_for_new(ghost_hit);

    entry->heat = 0;
    list_join(store, shard, handle, queue);
    atomic_fetch_add_explicit(&store->queue_bytes[queue], block_bytes(entry), memory_order_relaxed);
}

void policy_access(struct store *store, struct shard *shard, uint32_t handle)
{
    struct entry *entry = index_entry(shard, handle);
    if (!(entry->flags & ENTRY_LISTED)) {
        return;
    }
    if (store->policy->moves_on_access) {
        enum policy_queue queue = queue_of(entry);
        if (shard->lists[queue].newest == handle) {
            entry->stamp = store_stamp(store);
            return;
        }
        list_leave(shard, handle);
        list_join(store, shard, handle, queue);
    } else if (entry->heat < HEAT_MAX) {
        entry->heat++;
    }
}

void policy_renew(struct store *store, struct shard *shard, uint32_t handle,
                  enum policy_queue queue)
{
    struct entry *entry = index_entry(shard, handle);
    enum policy_queue old = queue_of(entry);
    list_leave(shard, handle);
    list_join(store, shard, handle, queue);
    if (old != queue) {
        uint64_t bytes = block_bytes(entry);
        atomic_fetch_sub_explicit(&store->queue_bytes[old], bytes, memory_order_relaxed);
        atomic_fetch_add_explicit(&store->queue_bytes[queue], bytes, memory_order_relaxed);
    }
}

void policy_remove(struct store *store, struct shard *shard, uint32_t handle, bool evicted)
{
    struct entry *entry = index_entry(shard, handle);
    enum policy_queue queue = queue_of(entry);
    list_leave(shard, handle);
    atomic_fetch_sub_explicit(&store->queue_bytes[queue], block_bytes(entry), memory_order_relaxed);
    if (evicted && store->policy->has_ghosts && queue == POLICY_SMALL) {
        ghost_add(shard, entry->print);
    }
}
