/* SPDX-License-Identifier: Apache-2.0 */
/* A chunk's part in the own store. With a client only, there is none. */
#include "pool/pool_priv.h"

uint32_t area_pick_open(struct pool_area *area)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < area->count; i++) {
        if (area->items[i].state == ITEM_OPEN) {
            area->picked[count] = i;
            area->keys[count++] = area->items[i].key;
        }
    }
    return count;
}

uint32_t own_exists(struct pool_area *area)
{
    struct store *store = area->pool->options.store;
    uint32_t count = store ? area_pick_open(area) : 0;
    if (count && store_batch_exists(store, area->keys, count, area->found) != UMBP_OK) {
        return 0;
    }
    return count;
}

/* As the store wants it, into row `row` of area->own. */
static void fill_row(struct pool_area *area, const struct pool_item *item, uint32_t row)
{
    if (area->has_ranges) {
        area->own.ranges[row] = (struct umbp_range_item){
            .key = item->key,
            .ranges = item->ranges,
            .range_count = item->range_count,
            .object_bytes = item->any_size ? 0 : item->bytes,
            .depth = item->depth,
        };
    } else if (area->kind == AREA_PUT) {
        area->own.puts[row] = (struct umbp_put_item){
            .key = item->key,
            .data = item->whole.data,
            .bytes = item->bytes,
            .depth = item->depth,
        };
    } else {
        area->own.gets[row] =
            (struct umbp_get_item){item->key, item->whole.data, item->whole.bytes};
    }
}

static enum umbp_status run_rows(struct pool_area *area, uint32_t count)
{
    struct store *store = area->pool->options.store;
    bool is_put = area->kind == AREA_PUT;
    if (area->has_ranges) {
        return is_put ? store_batch_put_ranges(store, area->own.ranges, count, area->statuses)
                      : store_batch_get_ranges(store, area->own.ranges, count, area->statuses);
    }
    return is_put ? store_batch_put(store, area->own.puts, count, area->statuses)
                  : store_batch_get(store, area->own.gets, count, area->statuses);
}

void own_run(struct pool_area *area)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < area->count; i++) {
        const struct pool_item *item = &area->items[i];
        if (item->state == ITEM_OPEN && item->link == LINK_SELF) {
            fill_row(area, item, count);
            area->picked[count++] = i;
        }
    }
    if (!count) {
        return;
    }
    enum umbp_status status = run_rows(area, count);
    for (uint32_t i = 0; i < count; i++) {
        struct pool_item *item = &area->items[area->picked[i]];
        item->status = status == UMBP_OK ? area->statuses[i] : status;
        item->is_asked = true;
        COUNT(area->pool, hits_own, area->kind == AREA_GET && item->status == UMBP_OK);
    }
}
