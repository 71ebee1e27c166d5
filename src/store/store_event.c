/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbered events, in two rings: fixed slots, and the keys' bytes behind each other.
 *
 *     slot = sequence % slots    { generation, bytes, depth, tier, add, key's position }
 *     key  = position % key_bytes, positions only grow
 *
 * An event can be read while neither its slot nor its key's bytes have been overwritten. Recording
 * happens under the lock of the entry's shard, so one key's events are in the order of what
 * happened.
 */
#include <string.h>

#include "store/store_priv.h"

#define BYTES_PER_EVENT 128u /* what event_bytes is divided by: a slot and a usual key */
#define EVENTS_MIN 64u

struct event_slot {
    uint64_t generation;
    uint64_t bytes;
    uint64_t key_position;
    uint32_t depth;
    uint16_t key_bytes;
    uint8_t tier;
    uint8_t is_add;
};

struct event_ring {
    struct mutex lock; /* RANK_EVENTS: everything below */
    struct condition recorded;
    uint32_t waiters;
    bool closed;
    uint64_t next; /* sequence of the next event; the first is 1 */
    uint64_t slots;
    uint64_t key_next;
    uint64_t key_capacity;
    struct event_slot *items;
    uint8_t *keys;
};

enum umbp_status events_create(struct store *store)
{
    uint64_t slots = u64_max(store->options.event_bytes / BYTES_PER_EVENT, EVENTS_MIN);
    if (!store->options.event_bytes) {
        return UMBP_OK;
    }
    struct event_ring *ring = mem_zalloc(sizeof(*ring));
    if (!ring) {
        return UMBP_NO_MEMORY;
    }
    ring->next = 1;
    ring->slots = slots;
    ring->key_capacity = u64_max(slots * (BYTES_PER_EVENT - sizeof(struct event_slot)),
                                 EVENTS_MIN * UMBP_KEY_BYTES_MAX);
    ring->items = mem_calloc(slots, sizeof(*ring->items));
    ring->keys = mem_alloc(ring->key_capacity);
    if (!ring->items || !ring->keys) {
        mem_free(ring->items);
        mem_free(ring->keys);
        mem_free(ring);
        return UMBP_NO_MEMORY;
    }
    mutex_init(&ring->lock, RANK_EVENTS);
    condition_init(&ring->recorded);
    store->events = ring;
    return UMBP_OK;
}

void events_destroy(struct store *store)
{
    struct event_ring *ring = store->events;
    if (ring) {
        condition_fini(&ring->recorded);
        mutex_fini(&ring->lock);
        mem_free(ring->items);
        mem_free(ring->keys);
        mem_free(ring);
        store->events = NULL;
    }
}

void events_close(struct store *store)
{
    struct event_ring *ring = store->events;
    if (ring) {
        mutex_lock(&ring->lock);
        ring->closed = true;
        condition_broadcast(&ring->recorded);
        mutex_unlock(&ring->lock);
    }
}

static void keys_write(struct event_ring *ring, const uint8_t *key, size_t bytes)
{
    size_t at = (size_t)(ring->key_next % ring->key_capacity);
    size_t first = size_min(bytes, (size_t)ring->key_capacity - at);
    memcpy(ring->keys + at, key, first);
    memcpy(ring->keys, key + first, bytes - first);
    ring->key_next += bytes;
}

static void keys_read(const struct event_ring *ring, uint64_t position, uint8_t *key, size_t bytes)
{
    size_t at = (size_t)(position % ring->key_capacity);
    size_t first = size_min(bytes, (size_t)ring->key_capacity - at);
    memcpy(key, ring->keys + at, first);
    memcpy(key + first, ring->keys, bytes - first);
}

void events_record(struct store *store, const struct entry *entry, enum store_tier tier,
                   bool is_add)
{
    struct event_ring *ring = store->events;
    if (!ring) {
        return;
    }
    mutex_lock(&ring->lock);
    ring->items[ring->next % ring->slots] = (struct event_slot){
        .generation = entry->generation,
        .bytes = entry->bytes,
        .key_position = ring->key_next,
        .depth = entry->depth,
        .key_bytes = entry->key_bytes,
        .tier = (uint8_t)tier,
        .is_add = is_add,
    };
    keys_write(ring, entry->key, entry->key_bytes);
    ring->next++;
    if (ring->waiters) {
        condition_broadcast(&ring->recorded);
    }
    mutex_unlock(&ring->lock);
}

enum umbp_status store_event_next(struct store *store, uint64_t *sequence_inout,
                                  struct store_event *event_out)
{
    struct event_ring *ring = store->events;
    uint64_t sequence = u64_max(*sequence_inout, 1);
    enum umbp_status status = UMBP_OK;

    if (!ring) {
        return UMBP_UNSUPPORTED;
    }
    mutex_lock(&ring->lock);
    const struct event_slot *slot = &ring->items[sequence % ring->slots];
    if (sequence >= ring->next) {
        status = UMBP_NOT_FOUND;
    } else if (sequence + ring->slots < ring->next ||
               slot->key_position + ring->key_capacity < ring->key_next) {
        status = UMBP_STALE;
    } else {
        event_out->sequence = sequence;
        event_out->generation = slot->generation;
        event_out->bytes = slot->bytes;
        event_out->depth = slot->depth;
        event_out->key_bytes = slot->key_bytes;
        event_out->tier = slot->tier;
        event_out->is_add = slot->is_add;
        keys_read(ring, slot->key_position, event_out->key, slot->key_bytes);
        *sequence_inout = sequence + 1;
    }
    mutex_unlock(&ring->lock);
    return status;
}

enum umbp_status store_event_wait(struct store *store, uint64_t sequence, uint64_t deadline_ns)
{
    struct event_ring *ring = store->events;
    if (!ring) {
        return UMBP_UNSUPPORTED;
    }
    mutex_lock(&ring->lock);
    ring->waiters++;
    bool in_time = true;
    while (ring->next <= sequence && !ring->closed && in_time) {
        in_time = condition_wait(&ring->recorded, &ring->lock, deadline_ns);
    }
    ring->waiters--;
    enum umbp_status status = ring->next > sequence ? UMBP_OK
                              : ring->closed        ? UMBP_CLOSED
                                                    : UMBP_TIMEOUT;
    mutex_unlock(&ring->lock);
    return status;
}

/* ------------------------------------------------------------------------------ snapshot - */

#define SNAPSHOT_CHUNK 64u

struct snapshot_item {
    struct entry *entry;
    bool in_dram;
    bool in_ssd;
};

static bool tell(const struct snapshot_item *item, enum store_tier tier, struct store_event *event,
                 bool (*visit)(void *, const struct store_event *), void *context)
{
    const struct entry *entry = item->entry;
    event->sequence = 0;
    event->generation = entry->generation;
    event->bytes = entry->bytes;
    event->depth = entry->depth;
    event->key_bytes = entry->key_bytes;
    event->tier = (uint8_t)tier;
    event->is_add = true;
    memcpy(event->key, entry->key, entry->key_bytes);
    return visit(context, event);
}

/*
 * The next entries of a shard, pinned. A table that grows under the walk starts it again: repeated,
 * never missed. Fewer than SNAPSHOT_CHUNK: the shard is through.
 */
static uint32_t snapshot_take(struct shard *shard, struct store_cursor *cursor,
                              struct snapshot_item items[SNAPSHOT_CHUNK])
{
    uint32_t count = 0;
    uint32_t handle;

    mutex_lock(&shard->lock);
    uint64_t mask_now = atomic_load_explicit(&shard->bucket_mask, memory_order_relaxed);
    if (cursor->mask != mask_now) {
        cursor->mask = mask_now;
        cursor->position = 0;
    }
    while (count < SNAPSHOT_CHUNK && (handle = index_walk(shard, &cursor->position))) {
        struct entry *entry = index_entry(shard, handle);
        index_ref(entry);
        items[count++] =
            (struct snapshot_item){entry, entry->flags & ENTRY_LISTED, entry->ssd.segment != 0};
    }
    mutex_unlock(&shard->lock);
    return count;
}

static uint64_t next_sequence(struct store *store)
{
    uint64_t sequence = 0;
    if (store->events) {
        mutex_lock(&store->events->lock);
        sequence = store->events->next;
        mutex_unlock(&store->events->lock);
    }
    return sequence;
}

static bool snapshot_shard(struct store *store, struct shard *shard,
                           bool (*visit)(void *, const struct store_event *), void *context)
{
    struct snapshot_item items[SNAPSHOT_CHUNK];
    struct store_event event;
    struct store_cursor cursor = {0};
    uint32_t count;
    bool go_on = true;

    do {
        count = snapshot_take(shard, &cursor, items);
        for (uint32_t i = 0; i < count; i++) {
            if (go_on && items[i].in_dram) {
                go_on = tell(&items[i], STORE_TIER_DRAM, &event, visit, context);
            }
            if (go_on && items[i].in_ssd) {
                go_on = tell(&items[i], STORE_TIER_SSD, &event, visit, context);
            }
            index_unref(store, items[i].entry);
        }
    } while (count == SNAPSHOT_CHUNK && go_on);
    return go_on;
}

struct always {
    void (*visit)(void *, const struct store_event *);
    void *context;
};

static bool visit_always(void *context, const struct store_event *event)
{
    const struct always *always = context;
    always->visit(always->context, event);
    return true;
}

bool store_snapshot_next(struct store *store, struct store_cursor *cursor, uint32_t entries,
                         void (*visit)(void *, const struct store_event *), void *context)
{
    struct snapshot_item items[SNAPSHOT_CHUNK];
    struct store_event event;
    struct always always = {visit, context};

    if (!cursor->is_begun) {
        cursor->is_begun = true;
        cursor->sequence = next_sequence(store);
    }
    for (uint32_t seen = 0; seen < entries && cursor->shard < store->shard_count;) {
        uint32_t count = snapshot_take(&store->shards[cursor->shard], cursor, items);
        for (uint32_t i = 0; i < count; i++) {
            if (items[i].in_dram) {
                (void)tell(&items[i], STORE_TIER_DRAM, &event, visit_always, &always);
            }
            if (items[i].in_ssd) {
                (void)tell(&items[i], STORE_TIER_SSD, &event, visit_always, &always);
            }
            index_unref(store, items[i].entry);
        }
        seen += count;
        if (count < SNAPSHOT_CHUNK) {
            cursor->shard++;
            cursor->position = 0;
            cursor->mask = 0;
        }
    }
    return cursor->shard == store->shard_count;
}

enum umbp_status store_snapshot(struct store *store,
                                bool (*visit)(void *, const struct store_event *), void *context,
                                uint64_t *sequence_out)
{
    uint64_t sequence = next_sequence(store);

    for (uint32_t s = 0; s < store->shard_count; s++) {
        if (!snapshot_shard(store, &store->shards[s], visit, context)) {
            return UMBP_CANCELLED;
        }
    }
    *sequence_out = sequence;
    return UMBP_OK;
}
