/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hash table of 32-byte slots by 128-bit fingerprint, sharded, that grows in small steps.
 *
 *   print.low  top bits  -> shard
 *              low bits  -> door of the shard -> segment (several doors may share one)
 *   print.high           -> home within the segment
 *
 *   segment:  | home 0 | 1 | 2 | ...            | homes - 1 | spare ... | sentinel |
 *               slots in the order of print.high, none before its home, no gap between the two
 *
 * Extendible hashing of segments that use ordered linear probing. A home is print.high scaled to
 * the number of homes, so the order of homes is the order of print.high: a segment is a sorted
 * array with gaps. A look ends at the first free slot or larger `high`, found or not, after two
 * slots on average; growing is one pass that spreads the same order wider; taking away moves a few
 * slots left, without tombstones; and there is no wrap-around, a few spare slots take the overhang.
 *
 * A segment grows by a quarter at a time, to HOMES_MAX, and then splits by the next bit of
 * print.low, doubling the shard's doors when it must. So the longest that a lock is held is one
 * segment's rewriting (64 KiB), whatever the size of the table, and slots are 68 to 85 % full.
 *
 * Doors are reserved address space that memory is given to as they come into use, so their address
 * never changes and a prefetch may look at them without the lock.
 *
 * Fingerprints that were made to collide fill segments until no bit is left to split by, or the
 * spare slots of a mostly empty one; then inserts are refused (UMBP_LIMIT). A look never passes
 * more than a segment.
 */
#include "master/master_priv.h"

#define HOMES_MIN 16u
#define HOMES_MAX 2048u
#define SPARE 32u /* slots behind the homes; the last one stays free */
#define DEPTH_LEAST 4u

struct segment {
    uint32_t homes;
    uint32_t count;
    uint32_t depth; /* bits of print.low that all slots share */
    struct slot slots[] ALIGNED_LINE;
};

static size_t segment_bytes(uint32_t homes)
{
    return sizeof(struct segment) + (homes + SPARE) * sizeof(struct slot);
}

static uint32_t home_of(struct fingerprint print, uint32_t homes)
{
    return (uint32_t)((print.high >> 32) * homes >> 32);
}

static bool is_before(const struct fingerprint *a, const struct fingerprint *b)
{
    return a->high != b->high ? a->high < b->high : a->low < b->low;
}

static uint32_t depth_of(const struct shard *shard)
{
    return atomic_load_explicit(&shard->depth, memory_order_relaxed);
}

static struct door *door_of(const struct shard *shard, struct fingerprint print)
{
    return &shard->doors[print.low & ((UINT64_C(1) << depth_of(shard)) - 1)];
}

static struct segment *segment_at(const struct door *door)
{
    return atomic_load_explicit(&door->segment, memory_order_relaxed);
}

static void door_set(struct door *door, struct segment *segment)
{
    atomic_store_explicit(&door->homes, segment ? segment->homes : 0, memory_order_relaxed);
    atomic_store_explicit(&door->segment, segment, memory_order_relaxed);
}

/* All doors that lead to what `door` is of, `depth` bits of which count. */
static void doors_set(struct shard *shard, uint64_t door, uint32_t depth, struct segment *segment)
{
    uint64_t step = UINT64_C(1) << depth;
    uint64_t count = UINT64_C(1) << depth_of(shard);
    for (uint64_t at = door & (step - 1); at < count; at += step) {
        door_set(&shard->doors[at], segment);
    }
}

void table_prefetch(const struct table *table, struct fingerprint print)
{
    const struct door *door = door_of(table_shard(table, print), print);
    /* Segment and homes may be of different moments: only an address is made of them. */
    uintptr_t segment = (uintptr_t)segment_at(door);
    uint32_t homes = atomic_load_explicit(&door->homes, memory_order_relaxed);
    uintptr_t slot = segment + sizeof(struct segment) + home_of(print, homes) * sizeof(struct slot);
    if (!segment) {
        slot = (uintptr_t)door; /* an address that is not mapped costs a walk of the page tables */
    }
    __builtin_prefetch((const void *)slot);
    __builtin_prefetch((const void *)(slot + CACHE_LINE));
}

/* ------------------------------------------------------------------------- segments ------ */

static struct segment *segment_new(struct table *table, uint32_t homes, uint32_t depth)
{
    size_t bytes = segment_bytes(homes);
    struct segment *segment = mem_aligned(CACHE_LINE, bytes);
    if (!segment) {
        return NULL;
    }
    memset(segment, 0, bytes);
    segment->homes = homes;
    segment->depth = depth;
    atomic_fetch_add_explicit(&table->bytes, bytes, memory_order_relaxed); /* a statistic */
    return segment;
}

static void segment_free(struct table *table, struct segment *segment)
{
    if (segment) {
        atomic_fetch_sub_explicit(&table->bytes, segment_bytes(segment->homes),
                                  memory_order_relaxed);
        mem_free(segment);
    }
}

/* Put a slot behind the last, which is at `*next` - 1. False: it would need the sentinel. */
static bool segment_push(struct segment *segment, const struct slot *slot, uint32_t *next)
{
    uint32_t home = home_of(slot->print, segment->homes);
    uint32_t at = home > *next ? home : *next;
    if (at >= segment->homes + SPARE - 1) {
        return false;
    }
    segment->slots[at] = *slot;
    segment->count++;
    *next = at + 1;
    return true;
}

/* The slots of `old` whose bit `bit` is `value` (bit 64: all) in a new segment of that many homes,
 * or more if they crowd. */
static struct segment *segment_spread(struct table *table, const struct segment *old, uint32_t bit,
                                      uint64_t value, uint32_t homes, uint32_t depth)
{
    for (;;) {
        struct segment *segment = segment_new(table, homes, depth);
        uint32_t next = 0;
        bool fits = true;
        if (!segment) {
            return NULL;
        }
        for (uint32_t at = 0; fits && at < old->homes + SPARE; at++) {
            const struct slot *slot = &old->slots[at];
            if (slot->word && (bit == 64 || (slot->print.low >> bit & 1) == value)) {
                fits = segment_push(segment, slot, &next);
            }
        }
        if (fits) {
            return segment;
        }
        segment_free(table, segment);
        if (homes == HOMES_MAX) {
            return NULL; /* not for what came from a segment with as many homes */
        }
        homes = homes + homes / 4 < HOMES_MAX ? homes + homes / 4 : HOMES_MAX;
    }
}

static uint32_t homes_for(uint32_t count)
{
    uint32_t homes = count + count / 3; /* three quarters full */
    return homes < HOMES_MIN ? HOMES_MIN : homes > HOMES_MAX ? HOMES_MAX : homes;
}

/* Rewrite a segment with another number of homes, at the same doors. */
static bool segment_resize(struct table *table, struct shard *shard, uint64_t door, uint32_t homes)
{
    struct segment *old = segment_at(&shard->doors[door]);
    struct segment *segment = segment_spread(table, old, 64, 0, homes, old->depth);
    if (!segment) {
        return false;
    }
    doors_set(shard, door, segment->depth, segment);
    segment_free(table, old);
    return true;
}

static enum umbp_status doors_double(struct table *table, struct shard *shard)
{
    uint32_t depth = depth_of(shard);
    uint64_t count = UINT64_C(1) << depth;
    if (depth == table->depth_max) {
        return UMBP_LIMIT;
    }
    for (uint64_t at = 0; at < count; at++) {
        door_set(&shard->doors[count + at], segment_at(&shard->doors[at]));
    }
    atomic_store_explicit(&shard->depth, depth + 1, memory_order_relaxed);
    return UMBP_OK;
}

static enum umbp_status segment_split(struct table *table, struct shard *shard, uint64_t door)
{
    struct segment *old = segment_at(&shard->doors[door]);
    uint32_t bit = old->depth;
    struct segment *halves[2];
    enum umbp_status status = bit == depth_of(shard) ? doors_double(table, shard) : UMBP_OK;
    if (status != UMBP_OK) {
        return status;
    }
    for (uint64_t value = 0; value < 2; value++) {
        halves[value] = segment_spread(table, old, bit, value, homes_for(old->count / 2), bit + 1);
        if (!halves[value]) {
            segment_free(table, value ? halves[0] : NULL);
            return UMBP_NO_MEMORY;
        }
    }
    doors_set(shard, door & ~(UINT64_C(1) << bit), bit + 1, halves[0]);
    doors_set(shard, door | UINT64_C(1) << bit, bit + 1, halves[1]);
    segment_free(table, old);
    return UMBP_OK;
}

/* ---------------------------------------------------------------------- find and change --- */

/* The first slot at or behind the print's home that is free or not before it. */
static uint32_t place_from(const struct segment *segment, uint32_t at, struct fingerprint print)
{
    while (segment->slots[at].word && is_before(&segment->slots[at].print, &print)) {
        at++;
    }
    return at;
}

static uint32_t place_of(const struct segment *segment, struct fingerprint print)
{
    return place_from(segment, home_of(print, segment->homes), print);
}

static bool is_print(const struct slot *slot, struct fingerprint print)
{
    return slot->print.high == print.high && slot->print.low == print.low;
}

struct slot *table_find(const struct shard *shard, struct fingerprint print)
{
    const struct door *door = door_of(shard, print);
    struct segment *segment = segment_at(door);
    if (!segment) {
        return NULL;
    }
    /* The segment's own count of homes is in a line that nobody has asked for. Under the lock the
     * door's is the same. */
    uint32_t home = home_of(print, atomic_load_explicit(&door->homes, memory_order_relaxed));
    struct slot *slot = &segment->slots[place_from(segment, home, print)];
    return slot->word && is_print(slot, print) ? slot : NULL;
}

/* Room for one more slot at its place; false when the overhang has none. */
static bool segment_open(struct segment *segment, uint32_t at)
{
    uint32_t end = at;
    while (segment->slots[end].word) {
        end++;
    }
    if (end >= segment->homes + SPARE - 1) {
        return false;
    }
    memmove(&segment->slots[at + 1], &segment->slots[at], (end - at) * sizeof(struct slot));
    return true;
}

static enum umbp_status make_room(struct table *table, struct shard *shard, uint64_t door)
{
    struct segment *segment = segment_at(&shard->doors[door]);
    if (!segment) {
        /* Doors that lead nowhere each stand for themselves. */
        segment = segment_new(table, HOMES_MIN, depth_of(shard));
        if (!segment) {
            return UMBP_NO_MEMORY;
        }
        door_set(&shard->doors[door], segment);
        return UMBP_OK;
    }
    uint32_t homes = segment->homes;
    if (homes < HOMES_MAX) {
        uint32_t more = homes + (homes < 256 ? homes / 2 : homes / 4);
        return segment_resize(table, shard, door, more < HOMES_MAX ? more : HOMES_MAX)
                   ? UMBP_OK
                   : UMBP_NO_MEMORY;
    }
    return segment_split(table, shard, door);
}

static bool is_crowded(const struct segment *segment)
{
    return segment->count >= segment->homes - segment->homes / 8 - segment->homes / 32;
}

/* Its last homes overflow while it is mostly empty: no hash does that, and growing would only waste
 * memory. */
static bool is_lopsided(const struct segment *segment)
{
    return segment->homes > HOMES_MIN * 4 && segment->count < segment->homes / 5;
}

enum umbp_status table_insert(struct table *table, struct shard *shard, struct fingerprint print,
                              uint64_t word, struct slot **slot_out)
{
    ASSERT(word);
    /* relaxed: shards may pass the limit by one each */
    if (atomic_load_explicit(&table->keys, memory_order_relaxed) >= table->keys_max) {
        return UMBP_LIMIT;
    }
    for (;;) {
        struct door *door = door_of(shard, print);
        struct segment *segment = segment_at(door);
        enum umbp_status status = UMBP_OK;
        if (!segment || is_crowded(segment)) {
            status = make_room(table, shard, (uint64_t)(door - shard->doors));
            if (status == UMBP_OK) {
                continue;
            }
            if (!segment || segment->count >= segment->homes) {
                return status;
            }
        }
        uint32_t at = place_of(segment, print);
        if (segment_open(segment, at)) {
            segment->slots[at] = (struct slot){.print = print, .word = word};
            segment->count++;
            atomic_fetch_add_explicit(&table->keys, 1, memory_order_relaxed);
            *slot_out = &segment->slots[at];
            return UMBP_OK;
        }
        if (status == UMBP_OK && is_lopsided(segment)) {
            status = UMBP_LIMIT;
        }
        if (status == UMBP_OK) {
            status = make_room(table, shard, (uint64_t)(door - shard->doors));
        }
        if (status != UMBP_OK) {
            return status;
        }
    }
}

/* Give memory back when a segment is emptied. Failing is harmless. */
static void segment_shrink(struct table *table, struct shard *shard, uint64_t door)
{
    struct segment *segment = segment_at(&shard->doors[door]);
    if (!segment->count) {
        doors_set(shard, door, segment->depth, NULL);
        segment_free(table, segment);
    } else if (segment->homes > HOMES_MIN * 4 && segment->count < segment->homes / 3) {
        (void)segment_resize(table, shard, door, homes_for(segment->count));
    }
}

void table_remove(struct table *table, struct shard *shard, struct slot *slot)
{
    struct door *door = door_of(shard, slot->print);
    struct segment *segment = segment_at(door);
    uint32_t at = (uint32_t)(slot - segment->slots);
    uint32_t end = at + 1;

    table->drop(table, slot);
    while (segment->slots[end].word && home_of(segment->slots[end].print, segment->homes) < end) {
        end++;
    }
    memmove(&segment->slots[at], &segment->slots[at + 1], (end - at - 1) * sizeof(struct slot));
    segment->slots[end - 1] = (struct slot){0};
    segment->count--;
    atomic_fetch_sub_explicit(&table->keys, 1, memory_order_relaxed);
    segment_shrink(table, shard, (uint64_t)(door - shard->doors));
}

/* ------------------------------------------------------------------------------ walk ------ */

static void segment_filter(struct table *table, struct segment *segment,
                           bool (*keep)(void *context, struct slot *slot), void *context)
{
    uint32_t next = 0;
    uint32_t kept = 0;
    uint32_t removed = 0;
    for (uint32_t at = 0; at < segment->homes + SPARE; at++) {
        struct slot slot = segment->slots[at];
        if (!slot.word) {
            continue;
        }
        if (!keep(context, &segment->slots[at])) {
            table->drop(table, &segment->slots[at]);
            segment->slots[at] = (struct slot){0};
            removed++;
            continue;
        }
        slot = segment->slots[at]; /* `keep` may have changed it */
        uint32_t home = home_of(slot.print, segment->homes);
        uint32_t to = home > next ? home : next;
        if (to != at) {
            segment->slots[at] = (struct slot){0};
            segment->slots[to] = slot;
        }
        next = to + 1;
        kept++;
    }
    segment->count = kept;
    atomic_fetch_sub_explicit(&table->keys, removed, memory_order_relaxed);
}

bool table_walk(struct table *table, struct table_cursor *cursor, uint32_t segments,
                bool (*keep)(void *context, struct slot *slot), void *context)
{
    /* Empty doors are cheap, but not free: so many at a call. */
    uint32_t doors = segments * 64;
    while (cursor->shard < table->shard_count && segments > 0 && doors > 0) {
        struct shard *shard = &table->shards[cursor->shard];
        bool is_last;
        mutex_lock(&shard->lock);
        do {
            uint64_t door = cursor->door++;
            is_last = cursor->door >> depth_of(shard) != 0;
            struct segment *segment = segment_at(&shard->doors[door]);
            doors--;
            /* The first of its doors only. Splits in between move slots to later doors. */
            if (segment && door >> segment->depth == 0) {
                segment_filter(table, segment, keep, context);
                segment_shrink(table, shard, door);
                segments--;
                break;
            }
        } while (!is_last && doors > 0);
        mutex_unlock(&shard->lock);
        if (is_last) {
            cursor->shard++;
            cursor->door = 0;
        }
    }
    return cursor->shard < table->shard_count;
}

/* ------------------------------------------------------------------------------ life ------ */

enum umbp_status table_init(struct table *table, uint32_t shard_count, uint64_t keys_max,
                            void (*drop)(struct table *, struct slot *))
{
    memset(table, 0, sizeof(*table));
    while (!is_power_of_two(shard_count)) {
        shard_count++;
    }
    table->shard_shift = 64 - (uint32_t)__builtin_ctz(shard_count);
    table->keys_max = keys_max;
    table->drop = drop;
    /* Four times the doors that a well mixed table of that size needs. */
    table->depth_max = DEPTH_LEAST;
    while (table->depth_max < 24 &&
           ((uint64_t)shard_count << table->depth_max) * (HOMES_MAX / 8) < keys_max) {
        table->depth_max++;
    }
    table->shards = mem_aligned(CACHE_LINE, shard_count * sizeof(struct shard));
    if (!table->shards) {
        return UMBP_NO_MEMORY;
    }
    memset(table->shards, 0, shard_count * sizeof(struct shard));
    for (uint32_t i = 0; i < shard_count; i++) {
        struct shard *shard = &table->shards[i];
        shard->doors = mem_map(sizeof(struct door) << table->depth_max);
        if (!shard->doors) {
            return UMBP_NO_MEMORY; /* table_fini takes the half-built */
        }
        mutex_init(&shard->lock, RANK_SHARD);
        table->shard_count = i + 1;
    }
    return UMBP_OK;
}

static bool keep_nothing(void *context, struct slot *slot)
{
    (void)context;
    (void)slot;
    return false;
}

void table_fini(struct table *table)
{
    struct table_cursor cursor = {0, 0};
    while (table_walk(table, &cursor, 1024, keep_nothing, NULL)) {
    }
    for (uint32_t i = 0; i < table->shard_count; i++) {
        mem_unmap(table->shards[i].doors, sizeof(struct door) << table->depth_max);
        mutex_fini(&table->shards[i].lock);
    }
    mem_free(table->shards);
    memset(table, 0, sizeof(*table));
}
