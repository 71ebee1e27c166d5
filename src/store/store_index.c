/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index: fingerprint and key to entry.
 *
 *     print.low  --top bits-->  shard  --low bits-->  home bucket -> next bucket -> ...
 *                                                     | 12 tags | overflow | 12 handles |
 *                                                        tag = 7 bits of print.high, | 0x80
 *     handle -> arena chunk + 16 * unit -> struct entry, key bytes behind it
 *
 * A look costs one line of the table and, on a tag that fits, the entry's own lines. Buckets are
 * probed one after the other; `overflow` (as in Facebook's F14) ends a search at the first bucket
 * that nothing had to go past, so there are no tombstones in the table.
 *
 * Entries live in a per-shard arena of 64 KiB chunks, in size classes of 16 bytes. Chunks and
 * tables are cut from slabs of 2 MiB that ask for a huge page. A freed block keeps its class for
 * ever and its generation becomes 0, so a stale handle always points at the start of some entry and
 * is recognised by its generation. Chunks are never given back before the end.
 *
 * Where a policy keeps the keys of one page together, `low` is the hash of the page's name only:
 * all its keys then share a home bucket, and finding them is a walk along one probe sequence. That
 * is so for RANKS_TOGETHER neighbouring ranks, so that no client can make the walk long.
 */
#include <string.h>
#include <sys/mman.h>

#include "store/store_priv.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define INITIAL_BUCKETS 64u
#define GROW_AT 10u /* entries a bucket, on average */

static uint8_t tag_of(struct fingerprint print) { return (uint8_t)(print.high >> 57) | 0x80u; }

static uint32_t matching_slots(const struct bucket *bucket, uint8_t tag)
{
#if defined(__SSE2__)
    __m128i tags = _mm_load_si128((const __m128i *)(const void *)bucket);
    __m128i equal = _mm_cmpeq_epi8(tags, _mm_set1_epi8((char)tag));
    return (uint32_t)_mm_movemask_epi8(equal) & ((1u << BUCKET_SLOTS) - 1);
#else
    uint32_t mask = 0;
    for (uint32_t i = 0; i < BUCKET_SLOTS; i++) {
        mask |= (uint32_t)(bucket->tags[i] == tag) << i;
    }
    return mask;
#endif
}

/* ------------------------------------------------------------------------ fingerprint ---- */

static bool is_digit(uint8_t c) { return c >= '0' && c <= '9'; }

static bool is_hex(uint8_t c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/*
 * Engines name the keys of one page HASH[_RANK[_RANK]][_k|_v], HASH being 64 hex digits; an empty
 * rank is possible. Any other key is a page of its own. (The naming is SGLang's; the rule is the
 * public UMBP's, but for numbers that no engine writes: of more than RANK_DIGITS digits, or with
 * zeros in front, which would let any number of keys be of one page.)
 */
#define RANK_DIGITS 4u
#define RANKS_TOGETHER 32u

/* The digits before `end` as a rank. False: that is no rank, or none of an engine's. */
static bool read_rank(const uint8_t *text, size_t from, size_t end, uint32_t *rank_out)
{
    uint32_t rank = 0;
    if (end - from > RANK_DIGITS || (end - from > 1 && text[from] == '0')) {
        return false;
    }
    for (size_t i = from; i < end; i++) {
        rank = rank * 10 + (uint32_t)(text[i] - '0');
    }
    *rank_out = rank;
    return true;
}

size_t index_page_stem(const void *key, size_t bytes, uint32_t *part_out)
{
    const uint8_t *text = key;
    const size_t hash_bytes = 64;
    size_t end = bytes;
    uint32_t part = 0;

    *part_out = 0;
    if (bytes < hash_bytes) {
        return bytes;
    }
    if (end >= 2 && text[end - 2] == '_' && (text[end - 1] == 'k' || text[end - 1] == 'v')) {
        end -= 2;
    }
    for (int ranks = 0; ranks < 2 && end > hash_bytes; ranks++) {
        size_t at = end;
        uint32_t rank;
        while (at > hash_bytes && is_digit(text[at - 1])) {
            at--;
        }
        if (at == hash_bytes || text[at - 1] != '_' || !read_rank(text, at, end, &rank)) {
            break;
        }
        part = part << 16 | rank / RANKS_TOGETHER;
        end = at - 1;
    }
    if (end != hash_bytes) {
        return bytes;
    }
    for (size_t i = 0; i < hash_bytes; i++) {
        if (!is_hex(text[i])) {
            return bytes;
        }
    }
    *part_out = part;
    return hash_bytes;
}

/* Placed by the page that the key is of. */
struct fingerprint index_print_of_page(const struct store *store, struct umbp_key key)
{
    struct fingerprint print = hash_key(key.data, key.bytes, store->options.hash_seed);
    uint32_t part;
    size_t stem = index_page_stem(key.data, key.bytes, &part);
    if (stem < key.bytes) {
        print.low = hash_key(key.data, stem, store->options.hash_seed + part).low;
    }
    return print;
}

/* Not inline: there gcc 12 hands the print over through memory, stored in halves and loaded whole,
 * and the loads wait for the stores; that took a sixth off the rate of batch exists. */
void index_prefetch(struct store *store, struct fingerprint print)
{
    const struct shard *shard = index_shard(store, print);
    /* Table and mask may be of different moments: only an address is made of them, not a read. */
    uintptr_t buckets = (uintptr_t)atomic_load_explicit(&shard->buckets, memory_order_relaxed);
    uint64_t mask = atomic_load_explicit(&shard->bucket_mask, memory_order_relaxed);
    __builtin_prefetch((const void *)(buckets + (print.low & mask) * sizeof(struct bucket)));
}

/* ------------------------------------------------------------------------------- slabs --- */

/*
 * Memory of the index comes in pieces: a slab cut in halves until a half is what is asked for. A
 * table that was outgrown leaves a piece, which is the next chunk of entries, or a table again;
 * halves are never joined.
 */
struct piece {
    struct piece *next;
};

static size_t piece_bytes(uint32_t piece_class)
{
    return ((size_t)ARENA_CHUNK_UNITS * ARENA_UNIT) << piece_class;
}

/* All under the slabs' lock. */
static void pieces_give(struct slabs *slabs, void *memory, uint32_t piece_class)
{
    struct piece *piece = memory;
    piece->next = slabs->free[piece_class];
    slabs->free[piece_class] = piece;
}

static void *pieces_take(struct slabs *slabs, uint32_t piece_class)
{
    uint32_t from = piece_class;
    while (from < PIECE_CLASSES && !slabs->free[from]) {
        from++;
    }
    if (from == PIECE_CLASSES) {
        return NULL;
    }
    struct piece *piece = slabs->free[from];
    slabs->free[from] = piece->next;
    while (from > piece_class) {
        from--;
        pieces_give(slabs, (uint8_t *)piece + piece_bytes(from), from);
    }
    return piece;
}

static bool slabs_add(struct store *store)
{
    struct slabs *slabs = &store->slabs;
    if (slabs->count == slabs->capacity) {
        size_t capacity = slabs->capacity ? slabs->capacity * 2 : 16;
        uint8_t **items = mem_realloc(slabs->items, capacity * sizeof(*items));
        if (!items) {
            return false;
        }
        slabs->items = items;
        slabs->capacity = capacity;
    }
    uint8_t *slab = mem_aligned(SLAB_BYTES, SLAB_BYTES);
    if (!slab) {
        return false;
    }
    (void)madvise(slab, SLAB_BYTES, MADV_HUGEPAGE); /* a wish */
    slabs->items[slabs->count++] = slab;
    pieces_give(slabs, slab, PIECE_CLASSES - 1);
    atomic_fetch_add_explicit(&store->entry_bytes, SLAB_BYTES, memory_order_relaxed);
    return true;
}

static void *slabs_take(struct store *store, uint32_t piece_class)
{
    struct slabs *slabs = &store->slabs;
    mutex_lock(&slabs->lock);
    void *piece = pieces_take(slabs, piece_class);
    if (!piece && slabs_add(store)) {
        piece = pieces_take(slabs, piece_class);
    }
    mutex_unlock(&slabs->lock);
    return piece;
}

static void slabs_give(struct store *store, void *piece, uint32_t piece_class)
{
    mutex_lock(&store->slabs.lock);
    pieces_give(&store->slabs, piece, piece_class);
    mutex_unlock(&store->slabs.lock);
}

static void slabs_free(struct slabs *slabs)
{
    for (size_t i = 0; i < slabs->count; i++) {
        mem_free(slabs->items[i]);
    }
    mem_free(slabs->items);
    mutex_fini(&slabs->lock);
}

/* -------------------------------------------------------------------------------- find --- */

static struct bucket *table_of(const struct shard *shard)
{
    return atomic_load_explicit(&shard->buckets, memory_order_relaxed);
}

static uint64_t mask_of(const struct shard *shard)
{
    return atomic_load_explicit(&shard->bucket_mask, memory_order_relaxed);
}

uint32_t index_find(const struct shard *shard, struct fingerprint print, struct umbp_key key)
{
    const struct bucket *buckets = table_of(shard);
    uint64_t mask = mask_of(shard);
    uint8_t tag = tag_of(print);

    for (uint64_t at = print.low & mask, steps = 0; steps <= mask; at = (at + 1) & mask, steps++) {
        const struct bucket *bucket = &buckets[at];
        for (uint32_t hits = matching_slots(bucket, tag); hits; hits &= hits - 1) {
            uint32_t handle = bucket->handles[__builtin_ctz(hits)];
            const struct entry *entry = index_entry(shard, handle);
            /* Not the fingerprint: its cache line is another, and the key says it all. */
            if (entry->key_bytes == key.bytes && !memcmp(entry->key, key.data, key.bytes)) {
                return handle;
            }
        }
        if (!bucket->overflow) {
            break;
        }
    }
    return 0;
}

const struct entry *index_guess(const struct shard *shard, struct fingerprint print)
{
    const struct bucket *buckets = table_of(shard);
    uint64_t mask = mask_of(shard);
    uint64_t at = print.low & mask;
    uint8_t tag = tag_of(print);
    uint32_t hits = matching_slots(&buckets[at], tag);
    if (UNLIKELY(!hits) && buckets[at].overflow) { /* it is probably next door */
        at = (at + 1) & mask;
        hits = matching_slots(&buckets[at], tag);
    }
    return hits ? index_entry(shard, buckets[at].handles[__builtin_ctz(hits)]) : NULL;
}

bool index_has(const struct shard *shard, struct fingerprint print, struct umbp_key key,
               const struct entry *guess)
{
    return (LIKELY(guess) && LIKELY(guess->flags & ENTRY_LINKED) && guess->key_bytes == key.bytes &&
            LIKELY(!memcmp(guess->key, key.data, key.bytes))) ||
           index_find(shard, print, key) != 0;
}

/* Put a handle into the table; there is a free slot. */
static void table_put(struct bucket *buckets, uint64_t mask, struct fingerprint print,
                      uint32_t handle)
{
    uint64_t at = print.low & mask;
    for (;; at = (at + 1) & mask) {
        struct bucket *bucket = &buckets[at];
        uint32_t free_slots = matching_slots(bucket, 0);
        if (free_slots) {
            int slot = __builtin_ctz(free_slots);
            bucket->tags[slot] = tag_of(print);
            bucket->handles[slot] = handle;
            return;
        }
        bucket->overflow++;
    }
}

static void table_take(struct shard *shard, uint32_t handle)
{
    struct bucket *buckets = table_of(shard);
    uint64_t mask = mask_of(shard);
    const struct entry *entry = index_entry(shard, handle);
    uint8_t tag = tag_of(entry->print);

    for (uint64_t at = entry->print.low & mask;; at = (at + 1) & mask) {
        struct bucket *bucket = &buckets[at];
        for (uint32_t hits = matching_slots(bucket, tag); hits; hits &= hits - 1) {
            int slot = __builtin_ctz(hits);
            if (bucket->handles[slot] == handle) {
                bucket->tags[slot] = 0;
                bucket->handles[slot] = 0;
                return;
            }
        }
        ASSERT(bucket->overflow);
        bucket->overflow--;
    }
}

static size_t table_bytes(uint64_t mask) { return (size_t)(mask + 1) * sizeof(struct bucket); }

static bool is_piece(size_t bytes) { return bytes >= piece_bytes(0) && bytes <= SLAB_BYTES; }

static uint32_t class_of(size_t bytes)
{
    return (uint32_t)(__builtin_ctzll(bytes) - __builtin_ctzll(piece_bytes(0)));
}

/* Zeroed. Small ones are pages of their own; the rest lies in huge pages, as the entries do. */
static struct bucket *table_make(struct store *store, uint64_t mask)
{
    size_t bytes = table_bytes(mask);
    if (is_piece(bytes)) {
        void *piece = slabs_take(store, class_of(bytes));
        return piece ? memset(piece, 0, bytes) : NULL;
    }
    struct bucket *buckets = mem_map_huge(bytes);
    if (buckets) {
        atomic_fetch_add_explicit(&store->entry_bytes, bytes, memory_order_relaxed);
    }
    return buckets;
}

static void table_drop(struct store *store, struct bucket *buckets, uint64_t mask)
{
    size_t bytes = table_bytes(mask);
    if (is_piece(bytes)) {
        slabs_give(store, buckets, class_of(bytes));
        return;
    }
    mem_unmap(buckets, bytes);
    atomic_fetch_sub_explicit(&store->entry_bytes, bytes, memory_order_relaxed);
}

/* Double the table. Failing is harmless while there are free slots. */
static bool table_grow(struct store *store, struct shard *shard)
{
    uint64_t old_mask = mask_of(shard);
    uint64_t mask = old_mask * 2 + 1;
    struct bucket *old = table_of(shard);
    struct bucket *buckets = table_make(store, mask);
    if (!buckets) {
        return false;
    }
    for (uint64_t at = 0; at <= old_mask; at++) {
        for (uint32_t slot = 0; slot < BUCKET_SLOTS; slot++) {
            if (old[at].tags[slot]) {
                uint32_t handle = old[at].handles[slot];
                table_put(buckets, mask, index_entry(shard, handle)->print, handle);
            }
        }
    }
    atomic_store_explicit(&shard->buckets, buckets, memory_order_relaxed);
    atomic_store_explicit(&shard->bucket_mask, mask, memory_order_relaxed);
    table_drop(store, old, old_mask);
    return true;
}

/* ------------------------------------------------------------------------------- arena --- */

static uint32_t units_of(size_t key_bytes)
{
    return (uint32_t)((sizeof(struct entry) + key_bytes + ARENA_UNIT - 1) / ARENA_UNIT);
}

static bool arena_add_chunk(struct store *store, struct arena *arena)
{
    if (arena->chunk_count == UINT32_MAX / ARENA_CHUNK_UNITS) {
        return false;
    }
    if (arena->chunk_count == arena->chunk_capacity) {
        uint32_t capacity = arena->chunk_capacity ? arena->chunk_capacity * 2 : 16;
        uint8_t **chunks = mem_realloc(arena->chunks, capacity * sizeof(*chunks));
        if (!chunks) {
            return false;
        }
        arena->chunks = chunks;
        arena->chunk_capacity = capacity;
    }
    uint8_t *chunk = slabs_take(store, 0);
    if (!chunk) {
        return false;
    }
    arena->chunks[arena->chunk_count++] = chunk;
    /* Unit 0 of the arena is never handed out: handle 0 means none. */
    arena->next_unit = arena->chunk_count == 1 ? 1 : 0;
    return true;
}

/* The rest of a chunk that a block no longer fits into becomes a free block of its own class. */
static void arena_keep_rest(struct shard *shard)
{
    struct arena *arena = &shard->arena;
    uint32_t left = ARENA_CHUNK_UNITS - arena->next_unit;
    if (!arena->chunk_count || left < units_of(1)) {
        return;
    }
    uint32_t handle = (arena->chunk_count - 1) * ARENA_CHUNK_UNITS + arena->next_unit;
    struct entry *entry = index_entry(shard, handle);
    entry->generation = 0;
    entry->next = arena->free[left];
    arena->free[left] = handle;
    arena->next_unit = ARENA_CHUNK_UNITS;
}

static uint32_t arena_alloc(struct store *store, struct shard *shard, uint32_t units)
{
    struct arena *arena = &shard->arena;
    uint32_t handle = arena->free[units];

    if (handle) {
        arena->free[units] = index_entry(shard, handle)->next;
        return handle;
    }
    if (!arena->chunk_count || ARENA_CHUNK_UNITS - arena->next_unit < units) {
        arena_keep_rest(shard);
        if (!arena_add_chunk(store, arena)) {
            return 0;
        }
    }
    handle = (arena->chunk_count - 1) * ARENA_CHUNK_UNITS + arena->next_unit;
    arena->next_unit += units;
    return handle;
}

uint32_t index_new(struct store *store, struct shard *shard, struct fingerprint print,
                   struct umbp_key key)
{
    uint32_t handle = arena_alloc(store, shard, units_of(key.bytes));
    if (!handle) {
        return 0;
    }
    struct entry *entry = index_entry(shard, handle);
    memset(entry, 0, sizeof(*entry));
    entry->print = print;
    entry->generation = store_generation(store);
    entry->depth = UMBP_DEPTH_NONE;
    entry->key_bytes = (uint16_t)key.bytes;
    entry->prev = handle;
    atomic_init(&entry->refs, 1);
    memcpy(entry->key, key.data, key.bytes);
    atomic_fetch_add_explicit(&store->entries, 1, memory_order_relaxed);
    return handle;
}

void index_free(struct store *store, struct shard *shard, uint32_t handle)
{
    struct entry *entry = index_entry(shard, handle);
    uint32_t units = units_of(entry->key_bytes);
    ASSERT(!entry->block.extents && !(entry->flags & (ENTRY_LINKED | ENTRY_LISTED)));
    entry->generation = 0;
    entry->next = shard->arena.free[units];
    shard->arena.free[units] = handle;
    atomic_fetch_sub_explicit(&store->entries, 1, memory_order_relaxed);
}

/* --------------------------------------------------------------------- link and unlink --- */

bool index_link(struct store *store, struct shard *shard, uint32_t handle)
{
    uint64_t buckets = mask_of(shard) + 1;
    if (shard->count >= buckets * GROW_AT && !table_grow(store, shard) &&
        shard->count >= buckets * BUCKET_SLOTS) {
        return false;
    }
    struct entry *entry = index_entry(shard, handle);
    table_put(table_of(shard), mask_of(shard), entry->print, handle);
    entry->flags |= ENTRY_LINKED;
    shard->count++;
    return true;
}

void index_unlink(struct shard *shard, uint32_t handle)
{
    struct entry *entry = index_entry(shard, handle);
    ASSERT(entry->flags & ENTRY_LINKED);
    ASSERT(!(entry->flags & ENTRY_LISTED));
    table_take(shard, handle);
    entry->flags &= (uint8_t)~ENTRY_LINKED;
    entry->prev = handle;
    shard->count--;
}

uint32_t index_walk(const struct shard *shard, uint64_t *cursor)
{
    const struct bucket *buckets = table_of(shard);
    uint64_t end = (mask_of(shard) + 1) * BUCKET_SLOTS;

    for (uint64_t at = *cursor; at < end; at++) {
        const struct bucket *bucket = &buckets[at / BUCKET_SLOTS];
        if (bucket->tags[at % BUCKET_SLOTS]) {
            *cursor = at + 1;
            return bucket->handles[at % BUCKET_SLOTS];
        }
    }
    *cursor = end;
    return 0;
}

/* -------------------------------------------------------------------------------- pins --- */

void index_unref_locked(struct store *store, struct shard *shard, struct entry *entry,
                        struct dram_block *block_out)
{
    /* Release: what this holder read or wrote is done. Acquire on the last: see the others' too. */
    if (atomic_fetch_sub_explicit(&entry->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    *block_out = entry->block;
    entry->block = (struct dram_block){0};
    index_free(store, shard, entry->prev);
}

void index_unref(struct store *store, struct entry *entry)
{
    uint32_t refs = atomic_load_explicit(&entry->refs, memory_order_relaxed);
    /* Not the last: no lock needed. A linked entry's last reference is the index's own. */
    while (refs > 1) {
        if (atomic_compare_exchange_weak_explicit(&entry->refs, &refs, refs - 1,
                                                  memory_order_release, memory_order_relaxed)) {
            return;
        }
    }
    struct shard *shard = index_shard(store, entry->print);
    struct dram_block block = {0};
    mutex_lock(&shard->lock);
    index_unref_locked(store, shard, entry, &block);
    mutex_unlock(&shard->lock);
    dram_free(store->dram, &block);
}

/* ---------------------------------------------------------------------- life of shards --- */

static enum umbp_status shard_init(struct store *store, struct shard *shard, uint32_t index)
{
    struct bucket *buckets = table_make(store, INITIAL_BUCKETS - 1);
    if (!buckets) {
        return UMBP_NO_MEMORY;
    }
    mutex_init(&shard->lock, RANK_SHARD);
    shard->index = index;
    atomic_init(&shard->buckets, buckets);
    atomic_init(&shard->bucket_mask, INITIAL_BUCKETS - 1);
    return UMBP_OK;
}

static void shard_fini(struct store *store, struct shard *shard)
{
    table_drop(store, table_of(shard), mask_of(shard));
    mem_free(shard->arena.chunks);
    mem_free(shard->ghosts);
    mutex_fini(&shard->lock);
}

enum umbp_status index_create(struct store *store)
{
    uint32_t count = store->options.shards;
    if (!count) {
        count = 16;
        while (count < thread_cpu_count() * 4 && count < 256) {
            count *= 2;
        }
    }
    size_t bytes = count * sizeof(struct shard);
    store->shards = mem_aligned(CACHE_LINE, bytes);
    if (!store->shards) {
        return UMBP_NO_MEMORY;
    }
    memset(store->shards, 0, bytes);
    mutex_init(&store->slabs.lock, RANK_INDEX_MEMORY);
    store->shard_shift = 64 - (uint32_t)__builtin_ctz(count);
    for (uint32_t i = 0; i < count; i++) {
        enum umbp_status status = shard_init(store, &store->shards[i], i);
        if (status != UMBP_OK) {
            return status; /* index_destroy takes the half-built */
        }
        store->shard_count = i + 1;
    }
    return UMBP_OK;
}

void index_destroy(struct store *store)
{
    for (uint32_t i = 0; i < store->shard_count; i++) {
        shard_fini(store, &store->shards[i]);
    }
    if (store->shards) {
        slabs_free(&store->slabs);
    }
    mem_free(store->shards);
    store->shards = NULL;
    store->shard_count = 0;
}
