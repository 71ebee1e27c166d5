/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the store room. The essay on each part opens its .c file. */
#ifndef STORE_STORE_PRIV_H
#define STORE_STORE_PRIV_H

#include <stdatomic.h>

#include "disk/disk.h"
#include "store/store.h"

/* --------------------------------------------------------------------------- entries ----- */

enum entry_flag {
    ENTRY_LINKED = 1,     /* in the index */
    ENTRY_LISTED = 2,     /* on a list of the policy: has a DRAM block */
    ENTRY_QUEUE_MAIN = 4, /* on list POLICY_MAIN, else POLICY_SMALL */
    ENTRY_COPYING = 8,    /* a copier holds a pin and will publish a location */
    ENTRY_SETTLED = 16,   /* was written to the SSD once, or never will be: flush has no claim */
    ENTRY_HAS_CRC = 32,
    ENTRY_REFERENCED = 64, /* read from the SSD since it was written there */
    ENTRY_ON_DISK = 128,   /* a record of this generation lies, or may lie, on the disk */
};

/*
 * One value. Lives in its shard's arena, named by a 32-bit handle. All fields but refs are guarded
 * by the shard's lock; of an entry that one holds a pin on, key, bytes, depth, generation and block
 * may be read without it (block: while ENTRY_LISTED was seen under the lock together with the pin,
 * for eviction leaves pinned entries alone).
 *
 * refs: 1 for the index, 1 for each pin. Grows only under the shard's lock, and only while linked;
 * whoever takes it to 0 frees the block and the entry.
 */
struct entry {
    uint64_t generation; /* 0: this arena block is free */
    uint64_t stamp;      /* of the last access, or of joining its queue (s3fifo); once removed, the
                            generation of its tombstone */
    uint64_t bytes;
    struct dram_block block;
    struct ssd_location ssd;
    uint32_t depth;
    uint32_t crc;
    uint32_t next; /* policy list; tombstone list; the arena's free list */
    uint32_t prev; /* policy list; own handle once unlinked */
    _Atomic uint32_t refs;
    /* From here on: what a lookup compares, in as few lines as can be. */
    uint16_t key_bytes;
    uint8_t flags;
    uint8_t heat; /* s3fifo: 0..3 */
    struct fingerprint print;
    uint8_t key[];
};
_Static_assert(sizeof(struct entry) == 88, "200 bytes a key, with the key, is a promise");

/* ---------------------------------------------------------------------------- shards ----- */

#define BUCKET_SLOTS 12
#define ARENA_UNIT 16u
#define ARENA_CHUNK_UNITS 4096u
#define ARENA_CLASSES ((sizeof(struct entry) + UMBP_KEY_BYTES_MAX) / ARENA_UNIT + 2)

/* One cache line. A slot is free when its tag is 0. `overflow` counts the entries whose home is
 * this bucket or one before it, and that had to go past it: a search ends at a bucket that has
 * none. */
struct bucket {
    uint8_t tags[BUCKET_SLOTS];
    uint32_t overflow;
    uint32_t handles[BUCKET_SLOTS];
};
_Static_assert(sizeof(struct bucket) == CACHE_LINE, "one line a look");

/* Chunks, and tables of as much or more, are cut from slabs of the size of a huge page, which the
 * shards share: a lookup that misses the caches should not miss the TLB too. */
#define SLAB_BYTES (UINT64_C(2) << 20)
#define PIECE_CLASSES 6 /* a chunk, and its doubles up to a slab */
_Static_assert(SLAB_BYTES == (uint64_t)ARENA_CHUNK_UNITS * ARENA_UNIT << (PIECE_CLASSES - 1),
               "the largest piece is a slab");

struct piece;

struct slabs {
    struct mutex lock; /* RANK_INDEX_MEMORY: everything below */
    uint8_t **items;
    size_t count;
    size_t capacity;
    struct piece *free[PIECE_CLASSES];
};

struct arena {
    uint8_t **chunks;
    uint32_t chunk_count;
    uint32_t chunk_capacity;
    uint32_t next_unit; /* in the last chunk */
    uint32_t free[ARENA_CLASSES];
};

enum policy_queue {
    POLICY_SMALL = 0,
    POLICY_MAIN = 1,
    POLICY_QUEUES = 2
};

struct policy_list {
    uint32_t newest;
    uint32_t oldest;
    uint64_t count;
};

struct ghost_slot {
    uint32_t tag;
    uint32_t birth;
};

struct shard_counters {
    uint64_t hits_dram, hits_ssd, misses, size_mismatches;
    uint64_t bytes_dram_out, bytes_ssd_out, bytes_in;
    uint64_t puts_stored, puts_existing, removes;
    uint64_t evictions_dram, evictions_ssd, evicted_uncopied;
    uint64_t corrupt, promotions;
};

struct shard {
    struct mutex lock; /* RANK_SHARD: everything below */
    uint32_t index;
    _Atomic(struct bucket *) buckets; /* atomic only for prefetches without the lock */
    _Atomic uint64_t bucket_mask;
    uint64_t count;   /* linked */
    uint64_t dirty;   /* linked, in DRAM, not ENTRY_SETTLED */
    uint64_t copying; /* ENTRY_COPYING */
    struct arena arena;
    struct policy_list lists[POLICY_QUEUES];
    struct ghost_slot *ghosts;
    uint32_t ghost_mask;
    uint32_t ghost_clock;
    uint32_t tomb_oldest; /* singly linked through next */
    uint32_t tomb_newest;
    uint64_t tombs_made; /* asked for; some are with whoever is writing the value */
    uint64_t tombs_written;
    struct shard_counters counters;
} ALIGNED_LINE;

/* ---------------------------------------------------------------------------- policy ----- */

/* How often s3fifo may pass an entry by before it goes. */
#define HEAT_ROUNDS 3

enum policy_verdict {
    POLICY_EVICT,
    POLICY_TO_MAIN
};

struct policy_ops {
    const char *name;
    bool moves_on_access; /* an access makes the entry the newest of its list */
    bool has_ghosts;
    bool groups_pages;  /* keys of one page are placed, and evicted, together */
    bool prefers_depth; /* among the coldest, the deepest goes first */
    enum policy_queue (*queue_for_new)(bool ghost_hit);
    /* Which list gives the next candidate, from the DRAM bytes on each, and of the tier. */
    enum policy_queue (*queue_to_evict)(const uint64_t bytes[POLICY_QUEUES], uint64_t tier_bytes);
    enum policy_verdict (*judge)(struct entry *entry);
};

const struct policy_ops *policy_find(const char *name);
/* All under the shard's lock. */
void policy_insert(struct store *store, struct shard *shard, uint32_t handle);
void policy_access(struct store *store, struct shard *shard, uint32_t handle);
void policy_renew(struct store *store, struct shard *shard, uint32_t handle,
                  enum policy_queue queue);
void policy_remove(struct store *store, struct shard *shard, uint32_t handle, bool evicted);

/* --------------------------------------------------------------------------- evictor ----- */

struct candidate {
    uint64_t stamp;
    uint64_t generation;
    uint32_t shard;
    uint32_t handle;
    uint32_t depth;
    uint32_t pad;
    const struct entry *entry; /* where it was: only to ask for its lines without the lock, */
    struct fingerprint print;  /* and for those of its bucket */
};

struct candidate_list {
    struct candidate *items; /* ascending stamp from `next` on */
    uint32_t next;
    uint32_t count;
    bool fresh; /* nothing was taken since the refill: what is missing is not there */
};

struct evictor {
    struct mutex lock; /* RANK_STORE_EVICT: everything below */
    struct candidate_list lists[POLICY_QUEUES];
    uint32_t per_shard;
};

/* ------------------------------------------------------------------------ copy queue ----- */

struct copy_ticket {
    uint64_t generation;
    uint32_t shard;
    uint32_t handle;
};

struct copy_queue {
    struct mutex lock;     /* RANK_STORE_QUEUE: everything below */
    struct condition work; /* copiers wait for it */
    struct condition done; /* flush waits for it */
    struct copy_ticket *tickets;
    uint32_t capacity;
    uint32_t head; /* next out */
    uint32_t count;
    uint32_t idle;
    bool tombs_pending;
    bool reclaim_wanted;
    bool reclaiming;
    bool stopping;
};

struct copy_counters {
    _Atomic uint64_t done, bytes, drops_queue_full, drops_evicted, drops_too_large, drops_io,
        drops_no_space, drops_gone, tombstones, relocated, reclaimed_segments, dropped_by_reclaim;
};

/* ------------------------------------------------------------------------------ store ---- */

#define STORE_SHARDS_MAX 1024u
#define FOLLOWER_MISS_AGE_MS 5u /* a miss rescans the directory if the last scan is older */
#define COPY_BATCH_MAX 256u
/* One call of a copier. What is in flight runs dry between two calls, so there are few of them. */
#define COPY_BATCH_BYTES (32u * 1024u * 1024u)

/* Records found dead before there is a tier to tell (store_recover.c). */
struct recover_note {
    struct ssd_location location;
    uint64_t value_bytes;
    uint32_t key_bytes;
};
struct recover_notes {
    struct recover_note *items;
    size_t count;
    size_t capacity;
};

struct event_ring;
struct copier;
struct mover;

struct store {
    struct store_options options; /* strings point into `strings` or are static */
    const struct clock_source *clock;
    const struct policy_ops *policy;
    struct dram_tier *dram;
    struct ssd_tier *ssd; /* NULL without */
    struct disk *disk;
    bool copies; /* this store writes to the SSD */
    struct copy_pool *copy_pool;
    struct event_ring *events; /* NULL without */

    struct shard *shards;
    uint32_t shard_count;
    uint32_t shard_shift; /* shard = print.low >> shift */
    struct slabs slabs;

    _Atomic uint64_t stamp ALIGNED_LINE;
    _Atomic uint64_t generation ALIGNED_LINE;
    _Atomic uint64_t queue_bytes[POLICY_QUEUES] ALIGNED_LINE; /* DRAM bytes on each list */
    _Atomic uint64_t reservations;                            /* of the inner door, open */
    _Atomic uint64_t writers;                                 /* puts that hold unpublished pages */
    _Atomic uint64_t entries;                                 /* arena blocks in use, zombies too */
    _Atomic uint64_t entry_bytes;                             /* index memory mapped */
    uint64_t dram_high_bytes;
    uint64_t dram_low_bytes;
    uint64_t
        copy_pin_bytes; /* what one copier pins at a time, a single value excepted: its pins keep
                           values from being evicted, and younger ones would go in their stead */
    _Atomic uint64_t copying; /* entries in copiers' hands: they will be evictable soon */

    struct evictor evictor;
    struct copy_queue queue;
    struct copy_counters copied;
    struct log_limit log_copy_failed;
    struct log_limit log_corrupt;

    struct mutex lock; /* RANK_STORE: closed, upkeep's flags */
    struct condition upkeep_work;
    bool upkeep_stopping;
    bool upkeep_exited;
    struct condition upkeep_done;
    bool closed;
    bool abandoned; /* a thread of ours hangs in the disk: nothing can be freed */
    _Atomic bool upkeep_asked;
    _Atomic bool refreshing; /* one follower refresh at a time */
    _Atomic uint64_t refreshed_ns;
    struct ssd_recovery recovery;
    struct recover_notes recover_notes;

    pthread_t upkeep_thread;
    bool upkeep_started;
    struct copier *upkeep_copier;
    struct copier **copiers;
    uint32_t copiers_started;
    struct mover *mover; /* of the one reclaimer */
};

/* ------------------------------------------------------------------------------ index ---- */

MUST_USE enum umbp_status index_create(struct store *store);
void index_destroy(struct store *store);

/* The fingerprint: `low` places (shard and bucket), `high` identifies. */
struct fingerprint index_print_of_page(const struct store *store, struct umbp_key key);
static inline struct fingerprint index_print(const struct store *store, struct umbp_key key)
{
    if (UNLIKELY(store->policy->groups_pages)) {
        return index_print_of_page(store, key);
    }
    return hash_key(key.data, key.bytes, store->options.hash_seed);
}
/* How many bytes of a key name its page, suffixes of rank and k/v left out, and which part of the
 * page's ranks it is of (store_index.c). */
size_t index_page_stem(const void *key, size_t bytes, uint32_t *part_out);
static inline struct shard *index_shard(struct store *store, struct fingerprint print)
{
    return &store->shards[store->shard_shift == 64 ? 0 : print.low >> store->shard_shift];
}
/* Ask for the key's home bucket. */
void index_prefetch(struct store *store, struct fingerprint print);

static inline struct entry *index_entry(const struct shard *shard, uint32_t handle)
{
    return (struct entry *)(void *)(shard->arena.chunks[handle / ARENA_CHUNK_UNITS] +
                                    (size_t)(handle % ARENA_CHUNK_UNITS) * ARENA_UNIT);
}

/* Under the shard's lock. 0 is "none". */
uint32_t index_find(const struct shard *shard, struct fingerprint print, struct umbp_key key);
/*
 * A look in steps, so that memory works meanwhile. index_guess, under the shard's lock: the entry
 * that is likely to be the one, or NULL; index_fetch, under none: asks for the lines that a
 * comparison reads; index_has, under the lock again: whether the key is there. What becomes of the
 * guess in between does not matter: arena blocks stay where they are and what they are, and only a
 * linked entry of the same key is believed.
 */
const struct entry *index_guess(const struct shard *shard, struct fingerprint print);
/* (Forced inline: gcc 12 drops calls of functions in sight that do nothing but prefetch.) */
__attribute__((always_inline)) static inline void index_fetch(const struct entry *guess)
{
    uintptr_t entry = (uintptr_t)guess; /* may be 0: prefetching that is harmless */
    __builtin_prefetch((const void *)(entry + offsetof(struct entry, key_bytes)));
    __builtin_prefetch((const void *)(entry + sizeof(struct entry) + 64 + 5)); /* hash, suffix */
}
bool index_has(const struct shard *shard, struct fingerprint print, struct umbp_key key,
               const struct entry *guess);
/* Everything but the key. */
__attribute__((always_inline)) static inline void index_fetch_whole(const struct entry *entry)
{
    __builtin_prefetch(entry);
    __builtin_prefetch(&entry->print);
}
/* An entry of one reference, unlinked, generation set, everything else zero. 0: out of memory. */
uint32_t index_new(struct store *store, struct shard *shard, struct fingerprint print,
                   struct umbp_key key);
MUST_USE bool index_link(struct store *store, struct shard *shard, uint32_t handle);
/* Out of the index; its reference is handed to the caller. */
void index_unlink(struct shard *shard, uint32_t handle);
/* Give an arena block back whose refs are 0 and whose DRAM block is freed. */
void index_free(struct store *store, struct shard *shard, uint32_t handle);
/* The first linked entry at or after position *cursor in the table; moves the cursor past it. 0 at
 * the end. Cursors survive unlinking; after a growth they may repeat or skip. */
uint32_t index_walk(const struct shard *shard, uint64_t *cursor);

/* Pins. index_ref under the shard's lock, index_unref without any. */
static inline void index_ref(struct entry *entry)
{
    atomic_fetch_add_explicit(&entry->refs, 1, memory_order_relaxed);
}
void index_unref(struct store *store, struct entry *entry);
/* The same under the shard's lock; a DRAM block that becomes free is moved to *block_out, which
 * the caller frees. */
void index_unref_locked(struct store *store, struct shard *shard, struct entry *entry,
                        struct dram_block *block_out);
/* True when nobody but the index holds the entry: pairs with the release in index_unref. */
static inline bool index_is_unpinned(const struct entry *entry)
{
    return atomic_load_explicit(&entry->refs, memory_order_acquire) == 1;
}

/* --------------------------------------------------------------------- shared steps ------ */

void fill_statuses(enum umbp_status *statuses, size_t count, enum umbp_status status);
/*
 * A single value: ask for the first lines of the caller's memory, target or source, while the
 * lookup waits for its own. Measured with 4 KiB: 5 to 10 % of a get, 12 to 14 % of a put.
 */
#define RANGE_LINES_AHEAD 16u
__attribute__((always_inline)) static inline void fetch_ranges(const struct umbp_range_item *item)
{
    if (item->range_count == 1) {
        const char *data = item->ranges[0].data;
        size_t bytes = size_min(item->ranges[0].bytes, (size_t)RANGE_LINES_AHEAD * CACHE_LINE);
        for (size_t at = 0; at < bytes; at += CACHE_LINE) {
            __builtin_prefetch(data + at);
        }
    }
}
uint64_t store_deadline(const struct store *store);
/* From here on this thread's calls on files end by then. Returns what disk_thread_deadline is to be
 * given back. */
static inline uint64_t store_files_until(const struct store *store, uint64_t deadline_ns)
{
    uint64_t now = clock_now_ns(clock_monotonic());
    uint64_t left = clock_left_ns(store->clock, deadline_ns);
    return disk_thread_deadline(left > UINT64_MAX - now ? UINT64_MAX : now + left);
}
static inline uint64_t store_stamp(struct store *store)
{
    return atomic_fetch_add_explicit(&store->stamp, 1, memory_order_relaxed) + 1;
}
static inline uint64_t store_generation(struct store *store)
{
    return atomic_fetch_add_explicit(&store->generation, 1, memory_order_relaxed) + 1;
}

/* Take the DRAM block out of an unpinned entry, under the shard's lock; the entry is unlinked if it
 * lives nowhere else then. The caller frees *block_out. `evicted` for the policy and the counters.
 */
void entry_drop_dram(struct store *store, struct shard *shard, uint32_t handle, bool evicted,
                     struct dram_block *block_out);
/* Forget the SSD location (the record is marked dead); the entry is unlinked and let go if it lives
 * nowhere else then. Under the shard's lock. */
void entry_drop_ssd(struct store *store, struct shard *shard, uint32_t handle);
/* Take the entry out of the index for good (remove, clear, corrupt). Under the shard's lock.
 * `bury`: a tombstone must be written if the SSD has it, or will have it; its generation is drawn
 * now, so that it is below that of the key's next value. */
void entry_remove(struct store *store, struct shard *shard, uint32_t handle, bool bury,
                  struct dram_block *block_out);

/* Make `bytes` free by evicting, in order. Returns the bytes freed. Never writes to the SSD. */
uint64_t evict_bytes(struct store *store, uint64_t bytes);
/* Take up to `max` of the coldest entries until `bytes` would be free: clean ones are dropped at
 * once, those that the SSD lacks are pinned for copying (ENTRY_COPYING) and returned. */
uint32_t evict_for_demotion(struct store *store, uint64_t bytes, struct entry **entries_out,
                            uint32_t max, uint64_t *freed_out);
/* The same, taking only values that the SSD has too. Looks at a bounded number. */
uint64_t evict_clean_bytes(struct store *store, uint64_t bytes);
MUST_USE enum umbp_status evictor_create(struct store *store);
void evictor_destroy(struct store *store);

/* A call's patience: until when it may wait, and whether it has waited in vain already. */
struct patience {
    uint64_t deadline_ns;
    bool used_up;
    uint64_t spare_below; /* 0, or evict nothing, and use no more of the tier than this */
};

void look_follow(struct store *store, struct fingerprint print, struct umbp_key key);

/* Allocate, evicting as needed. In order; *done_out items have a block, fewer than `count` only on
 * a failure. Waits for room (bounded) only while it holds nothing. If *done_out is not 0, the
 * caller owes an alloc_published once the blocks are published or freed. */
MUST_USE enum umbp_status alloc_blocks(struct store *store, const uint64_t *bytes, size_t count,
                                       struct patience *patience, struct dram_block *blocks_out,
                                       size_t *done_out);
void alloc_published(struct store *store);
/* Put a written block under its key; see store_commit. The block is taken over in any case. On
 * UMBP_OK the ticket names the entry for copy_ask. */
struct put_value {
    struct umbp_key key;
    struct fingerprint print;
    uint64_t bytes;
    uint32_t depth;
    uint32_t crc; /* if store->options.dram_checksum */
    struct dram_block block;
};
MUST_USE enum umbp_status publish(struct store *store, struct put_value *value,
                                  struct copy_ticket *ticket_out);
/* Give an entry that lives on the SSD only its block; false if it is not that entry any more (the
 * block is then still the caller's). */
MUST_USE bool attach_block(struct store *store, struct entry *entry, uint64_t generation,
                           uint32_t crc, const struct dram_block *block);
bool entry_is_dirty(const struct entry *entry);
/* Put an unlinked entry, with the caller's reference, on the list of tombstones to be written. */
void entry_bury(struct shard *shard, struct entry *entry);

/* A list of bulk copies on the caller's stack, handed to the copy pool when it is full. */
#define COPY_LIST_ITEMS 128u
struct copy_list {
    struct store *store;
    bool alone; /* one value: the caller copies, so that callers scale and no thread is woken */
    size_t plain_bytes; /* alone, up to this much: with plain stores; 0 unless set after the init */
    size_t count;
    struct copy_item items[COPY_LIST_ITEMS];
};
void copy_list_init(struct copy_list *list, struct store *store, size_t values);
void copy_list_add(struct copy_list *list, void *to, const void *from, size_t bytes);
void copy_list_run(struct copy_list *list);

/* Copier side. */
MUST_USE enum umbp_status copy_start(struct store *store);
/* False when a copier hangs in the disk past the deadline: what it uses must then stay. */
MUST_USE bool copy_stop(struct store *store, uint64_t deadline_ns);
void copy_ask(struct store *store, const struct copy_ticket *tickets, size_t count);
void copy_wake(struct store *store, bool tombs, bool reclaim);
void upkeep_ask(struct store *store);

struct copier;
struct copier *copier_create(struct store *store);
void copier_destroy(struct copier *copier);
/* Write pinned entries (ENTRY_COPYING, one pin each) and publish; the pins are given back.
 * `demote` drops their DRAM block when it is safe. Returns the first failure. */
MUST_USE enum umbp_status copy_entries(struct store *store, struct copier *copier,
                                       struct entry **entries, uint32_t count, bool demote,
                                       uint64_t deadline_ns);
/* Demote until `bytes` of DRAM are free or nothing can be done. False when nothing could. */
bool copy_demote(struct store *store, struct copier *copier, uint64_t bytes, uint64_t deadline_ns);
MUST_USE enum umbp_status copy_tombstones(struct store *store, struct copier *copier,
                                          uint64_t deadline_ns);
/* Free SSD space down to the low watermark, or at least one segment if `force`. */
MUST_USE enum umbp_status reclaim_run(struct store *store, bool force, uint64_t deadline_ns);
MUST_USE enum umbp_status reclaim_create(struct store *store);
void reclaim_destroy(struct store *store); /* takes one that was not made */
bool reclaim_is_due(const struct store *store);

/* Recovery and followers. */
struct ssd_visitor recover_visitor(struct store *store);
void recover_mark_dead(struct store *store, struct ssd_location location, uint64_t value_bytes,
                       uint32_t key_bytes);
void recover_finish(struct store *store);
/* Generations to come are above this one. */
void recover_generation(struct store *store, uint64_t generation);
/* One refresh, unless one ran within `min_age_ms` or runs now. True if one was done. */
bool follower_refresh(struct store *store, uint32_t min_age_ms);

/* Events. Under the shard's lock of the entry. */
MUST_USE enum umbp_status events_create(struct store *store);
void events_destroy(struct store *store);
void events_record(struct store *store, const struct entry *entry, enum store_tier tier,
                   bool is_add);
void events_close(struct store *store);

#endif
