/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looks without side effects (exists, stat, list), and remove.
 *
 * exists of a batch is where an engine spends its lookups, and it must not wait for memory, so each
 * key's lines are asked for long before they are read:
 *
 *     key 0 .. n        hash, ask for the bucket
 *     sort by shard     so that a lock is taken for a group of keys
 *     group by group    search the bucket for the tag: a guess which entry it is
 *       some keys later ask for the entry's lines
 *       some keys later compare the key
 *
 * Requests are paced. The core can wait for some twenty lines, and silently drops the prefetches
 * that come on top: those of 128 buckets in one loop were lost for the most part (measured: 13
 * cycles a line later on, against 2 for those that are spread out).
 */
#include <string.h>

#include "store/store_priv.h"

#define LOOK_CHUNK 128u
#define KEYS_AHEAD 12u
#define ENTRIES_AHEAD 12u /* of two lines each: what the core can have under way */

/* ------------------------------------------------------------------------------- exists -- */

struct look {
    struct fingerprint prints[LOOK_CHUNK];
    uint16_t order[LOOK_CHUNK]; /* valid keys, by shard */
    uint16_t shard[LOOK_CHUNK];
    uint16_t start[STORE_SHARDS_MAX + 1];
    const struct entry *guesses[LOOK_CHUNK]; /* in the order of `order` */
    uint32_t valid;
};

static void sort_by_shard(struct store *store, struct look *look, size_t count,
                          const uint8_t *is_valid)
{
    uint32_t shards = store->shard_count;
    memset(look->start, 0, (shards + 1) * sizeof(look->start[0]));
    look->valid = 0;
    for (size_t i = 0; i < count; i++) {
        if (is_valid[i]) {
            look->shard[i] = (uint16_t)index_shard(store, look->prints[i])->index;
            look->start[look->shard[i] + 1]++;
            look->valid++;
        }
    }
    for (uint32_t s = 0; s < shards; s++) {
        look->start[s + 1] = (uint16_t)(look->start[s + 1] + look->start[s]);
    }
    for (size_t i = 0; i < count; i++) {
        if (is_valid[i]) {
            look->order[look->start[look->shard[i]]++] = (uint16_t)i;
        }
    }
}

/* The end of the group of keys of one shard that begins at `at`. */
static uint32_t group_end(const struct look *look, uint32_t at)
{
    uint16_t s = look->shard[look->order[at]];
    do {
        at++;
    } while (at < look->valid && look->shard[look->order[at]] == s);
    return at;
}

/* Each returns where the next group begins. */
static uint32_t guess_group(struct store *store, struct look *look, uint32_t at)
{
    uint32_t end = group_end(look, at);
    struct shard *shard = &store->shards[look->shard[look->order[at]]];
    mutex_lock(&shard->lock);
    for (; at < end; at++) {
        look->guesses[at] = index_guess(shard, look->prints[look->order[at]]);
    }
    mutex_unlock(&shard->lock);
    return end;
}

static uint32_t compare_group(struct store *store, const struct look *look, uint32_t at,
                              const struct umbp_key *keys, uint8_t *found_out)
{
    uint32_t end = group_end(look, at);
    struct shard *shard = &store->shards[look->shard[look->order[at]]];
    mutex_lock(&shard->lock);
    for (; at < end; at++) {
        uint32_t k = look->order[at];
        if (at + ENTRIES_AHEAD < look->valid) {
            index_fetch(look->guesses[at + ENTRIES_AHEAD]);
        }
        found_out[k] = index_has(shard, look->prints[k], keys[k], look->guesses[at]);
    }
    mutex_unlock(&shard->lock);
    return end;
}

/* Two walks over the groups, the guesses far enough ahead of the comparisons. */
static void look_up(struct store *store, struct look *look, const struct umbp_key *keys,
                    uint8_t *found_out)
{
    uint32_t guessed = 0;
    for (uint32_t at = 0; at < look->valid;) {
        uint32_t wanted = group_end(look, at) + ENTRIES_AHEAD;
        while (guessed < look->valid && guessed < wanted) {
            guessed = guess_group(store, look, guessed);
        }
        for (uint32_t i = 0; at == 0 && i < size_min(ENTRIES_AHEAD, look->valid); i++) {
            index_fetch(look->guesses[i]);
        }
        at = compare_group(store, look, at, keys, found_out);
    }
}

static void exists_chunk(struct store *store, const struct umbp_key *keys, size_t count,
                         uint8_t *found_out)
{
    struct look look;

    for (size_t i = 0; i < count; i++) {
        if (i + KEYS_AHEAD < count) {
            __builtin_prefetch(keys[i + KEYS_AHEAD].data);
            __builtin_prefetch((const char *)keys[i + KEYS_AHEAD].data + CACHE_LINE);
        }
        found_out[i] = store_key_is_valid(keys[i]);
        if (found_out[i]) {
            look.prints[i] = index_print(store, keys[i]);
            index_prefetch(store, look.prints[i]);
        }
    }
    sort_by_shard(store, &look, count, found_out);
    look_up(store, &look, keys, found_out);
}

static void exists_keys(struct store *store, const struct umbp_key *keys, size_t count,
                        uint8_t *found_out)
{
    exists_chunk(store, keys, count, found_out);
    if (store->options.role == STORE_FOLLOWER && memchr(found_out, 0, count) &&
        follower_refresh(store, FOLLOWER_MISS_AGE_MS)) {
        exists_chunk(store, keys, count, found_out);
    }
}

enum umbp_status store_batch_exists(struct store *store, const struct umbp_key *keys, size_t count,
                                    uint8_t *found_out)
{
    if (count > UMBP_BATCH_MAX) {
        return UMBP_LIMIT;
    }
    if (count && (!keys || !found_out)) {
        return UMBP_INVALID_VALUE;
    }
    for (size_t at = 0; at < count; at += LOOK_CHUNK) {
        exists_keys(store, keys + at, size_min(LOOK_CHUNK, count - at), found_out + at);
    }
    return UMBP_OK;
}

enum umbp_status store_exists_consecutive(struct store *store, const struct umbp_key *keys,
                                          size_t count, size_t *hits_out)
{
    uint8_t found[LOOK_CHUNK];

    if (count > UMBP_BATCH_MAX) {
        return UMBP_LIMIT;
    }
    if ((count && !keys) || !hits_out) {
        return UMBP_INVALID_VALUE;
    }
    for (size_t at = 0; at < count; at += LOOK_CHUNK) {
        size_t part = size_min(LOOK_CHUNK, count - at);
        exists_keys(store, keys + at, part, found);
        const uint8_t *miss = memchr(found, 0, part);
        if (miss) {
            *hits_out = at + (size_t)(miss - found);
            return UMBP_OK;
        }
    }
    *hits_out = count;
    return UMBP_OK;
}

/* -------------------------------------------------------------------------------- remove - */

static enum umbp_status remove_key(struct store *store, struct umbp_key key)
{
    struct dram_block block = {0};

    if (!store_key_is_valid(key)) {
        return UMBP_INVALID_KEY;
    }
    struct fingerprint print = index_print(store, key);
    struct shard *shard = index_shard(store, print);
    mutex_lock(&shard->lock);
    uint32_t handle = index_find(shard, print, key);
    if (handle) {
        entry_remove(store, shard, handle, true, &block);
        shard->counters.removes++;
    }
    mutex_unlock(&shard->lock);
    dram_free(store->dram, &block);
    return handle ? UMBP_OK : UMBP_NOT_FOUND;
}

enum umbp_status store_batch_remove(struct store *store, const struct umbp_key *keys, size_t count,
                                    enum umbp_status *statuses_out)
{
    enum umbp_status status = UMBP_OK;
    if (count > UMBP_BATCH_MAX) {
        status = UMBP_LIMIT;
    } else if (count && (!keys || !statuses_out)) {
        return UMBP_INVALID_VALUE;
    } else if (store->options.role == STORE_FOLLOWER) {
        status = UMBP_READ_ONLY;
    }
    if (status != UMBP_OK) {
        if (statuses_out && count <= UMBP_BATCH_MAX) {
            fill_statuses(statuses_out, count, status);
        }
        return status;
    }
    for (size_t i = 0; i < count; i++) {
        statuses_out[i] = remove_key(store, keys[i]);
    }
    copy_wake(store, true, false);
    return UMBP_OK;
}

/* ---------------------------------------------------------------------------- stat, list - */

static void describe(const struct entry *entry, struct umbp_entry_info *info)
{
    *info = (struct umbp_entry_info){
        .struct_bytes = sizeof(*info),
        .key = {entry->key, entry->key_bytes},
        .bytes = entry->bytes,
        .depth = entry->depth,
        .pins = atomic_load_explicit(&entry->refs, memory_order_relaxed) - 1,
        .in_dram = entry->flags & ENTRY_LISTED,
        .in_ssd = entry->ssd.segment != 0,
    };
}

/* A follower that does not have the key asks what the leader wrote since. */
void look_follow(struct store *store, struct fingerprint print, struct umbp_key key)
{
    if (store->options.role == STORE_FOLLOWER) {
        struct shard *shard = index_shard(store, print);
        mutex_lock(&shard->lock);
        bool found = index_find(shard, print, key) != 0;
        mutex_unlock(&shard->lock);
        if (!found) {
            (void)follower_refresh(store, FOLLOWER_MISS_AGE_MS);
        }
    }
}

enum umbp_status store_stat(struct store *store, struct umbp_key key,
                            struct umbp_entry_info *info_out)
{
    struct umbp_entry_info info = {0};

    if (!store_key_is_valid(key)) {
        return UMBP_INVALID_KEY;
    }
    struct fingerprint print = index_print(store, key);
    struct shard *shard = index_shard(store, print);
    look_follow(store, print, key);
    mutex_lock(&shard->lock);
    uint32_t handle = index_find(shard, print, key);
    if (handle) {
        describe(index_entry(shard, handle), &info);
        info.key = key;
    }
    mutex_unlock(&shard->lock);
    if (!handle) {
        return UMBP_NOT_FOUND;
    }
    *info_out = info;
    return UMBP_OK;
}

/*
 * Entries are pinned a few at a time, so that the visitor runs without a lock on keys that stay. A
 * table that grows between two looks starts the walk of its shard again: repeated, never missed.
 */
#define LIST_CHUNK 64u

enum umbp_status store_list(struct store *store,
                            bool (*visit)(void *, const struct umbp_entry_info *), void *context)
{
    struct umbp_entry_info infos[LIST_CHUNK];
    struct entry *pins[LIST_CHUNK];
    bool go_on = true;

    for (uint32_t s = 0; s < store->shard_count && go_on; s++) {
        struct shard *shard = &store->shards[s];
        uint64_t cursor = 0;
        uint64_t mask = 0;
        uint32_t count;
        do {
            count = 0;
            mutex_lock(&shard->lock);
            uint64_t mask_now = atomic_load_explicit(&shard->bucket_mask, memory_order_relaxed);
            if (mask != mask_now) {
                mask = mask_now;
                cursor = 0;
            }
            uint32_t handle;
            while (count < LIST_CHUNK && (handle = index_walk(shard, &cursor))) {
                pins[count] = index_entry(shard, handle);
                describe(pins[count], &infos[count]);
                index_ref(pins[count++]);
            }
            mutex_unlock(&shard->lock);
            for (uint32_t i = 0; i < count; i++) {
                go_on = go_on && visit(context, &infos[i]);
                index_unref(store, pins[i]);
            }
        } while (count == LIST_CHUNK && go_on);
    }
    return UMBP_OK;
}
