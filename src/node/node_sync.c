/* SPDX-License-Identifier: Apache-2.0 */
/* What a session tells a master: events as the store numbered them, lists of all keys, capacities.
 */
#include "node/node_priv.h"

enum umbp_status node_events_create(struct node *node)
{
    /* A list may go past its mark by a chunk of the store's, and a key may be in two tiers. */
    uint32_t capacity = 2 * (node->options.sync_events + 128);
    if (capacity < node->options.bundle_events) {
        capacity = node->options.bundle_events;
    }
    node->events.items = mem_calloc(capacity, sizeof(*node->events.items));
    node->events.capacity = capacity;
    return node->events.items ? UMBP_OK : UMBP_NO_MEMORY;
}

static enum proto_tier tier_of(uint8_t tier)
{
    return tier == STORE_TIER_DRAM ? PROTO_TIER_DRAM : PROTO_TIER_SSD;
}

static void add_event(void *context, const struct store_event *event)
{
    struct node *node = context;
    struct node_events *events = &node->events;
    ASSERT(events->count < events->capacity);
    events->items[events->count++] = (struct proto_event){
        .print = hash_key(event->key, event->key_bytes, node->options.hash_seed),
        .bytes = event->bytes,
        .depth = event->depth,
        .tier = tier_of(event->tier),
        .is_add = event->is_add,
    };
}

enum umbp_status node_events_take(struct node *node, uint64_t *sequence_inout, uint32_t most)
{
    struct store_event event;
    node->events.count = 0;
    while (node->events.count < most) {
        enum umbp_status status = store_event_next(node->store, sequence_inout, &event);
        if (status == UMBP_NOT_FOUND) {
            break;
        }
        if (status != UMBP_OK) {
            return status;
        }
        add_event(node, &event);
    }
    return UMBP_OK;
}

bool node_events_list(struct node *node, struct store_cursor *cursor)
{
    node->events.count = 0;
    return store_snapshot_next(node->store, cursor, node->options.sync_events, add_event, node);
}

uint32_t node_capacities(struct node *node, struct proto_capacity *capacities_out)
{
    struct store_capacity capacity;
    uint32_t count = 0;

    store_capacity(node->store, STORE_TIER_DRAM, &capacity);
    capacities_out[count++] = (struct proto_capacity){
        .tier = PROTO_TIER_DRAM,
        .total_bytes = capacity.total_bytes,
        .used_bytes = capacity.used_bytes,
        .evictable_bytes = capacity.used_bytes,
        .largest_bytes = capacity.total_bytes,
    };
    store_capacity(node->store, STORE_TIER_SSD, &capacity);
    if (capacity.total_bytes) {
        capacities_out[count++] = (struct proto_capacity){
            .tier = PROTO_TIER_SSD,
            .total_bytes = capacity.total_bytes,
            .used_bytes = capacity.used_bytes,
            .evictable_bytes = capacity.used_bytes,
        };
    }
    return count;
}
