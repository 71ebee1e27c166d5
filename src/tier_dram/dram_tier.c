/* SPDX-License-Identifier: Apache-2.0 */
/* The tier's door: creation, allocation in the order that tier_dram.h promises, and its undoing. */
#include "tier_dram/dram_priv.h"

/* Blocks that a batch handles before it lets others have the lock. */
#define BATCH_CHUNK 64u

/* ---- creation ---- */

struct geometry {
    uint64_t granules;
    uint64_t pages; /* the short one included */
    uint32_t page_bytes;
    uint32_t partial_granules; /* of the last page; 0: it is not short */
    uint32_t buffer_count;
};

static enum umbp_status plan(const struct dram_options *options, struct geometry *geometry_out)
{
    struct geometry geometry = {
        .granules = options->bytes / DRAM_GRANULE_BYTES,
        .page_bytes = options->page_bytes ? options->page_bytes : DRAM_PAGE_BYTES_DEFAULT,
        .buffer_count = options->buffer_count ? options->buffer_count : 1,
    };
    if (!is_power_of_two(geometry.page_bytes) || geometry.page_bytes < DRAM_PAGE_BYTES_MIN ||
        geometry.page_bytes > DRAM_PAGE_BYTES_MAX) {
        return UMBP_INVALID_VALUE;
    }
    if (!geometry.granules || geometry.buffer_count > DRAM_BUFFERS_MAX) {
        return UMBP_INVALID_VALUE;
    }
    if ((unsigned)options->backing > DRAM_BACKING_SHARED_HUGE_PAGES ||
        options->numa_node < DRAM_NUMA_SPREAD) {
        return UMBP_INVALID_VALUE;
    }

    /* A tier smaller than its pages gets smaller pages, down to one a buffer. */
    uint64_t bytes = geometry.granules * DRAM_GRANULE_BYTES;
    while (geometry.page_bytes > DRAM_PAGE_BYTES_MIN &&
           bytes / geometry.page_bytes < geometry.buffer_count) {
        geometry.page_bytes /= 2;
    }
    geometry.pages = div_round_up(bytes, geometry.page_bytes);
    geometry.partial_granules = (uint32_t)(bytes % geometry.page_bytes / DRAM_GRANULE_BYTES);
    if (geometry.pages < geometry.buffer_count ||
        geometry.pages > DRAM_PAGES_MAX - 2 * DRAM_BUFFERS_MAX) {
        return UMBP_INVALID_VALUE;
    }
    *geometry_out = geometry;
    return UMBP_OK;
}

/* Numbers the pages and gives each buffer its share of them. */
static void lay_out(struct dram_tier *tier, const struct geometry *geometry)
{
    uint32_t count = geometry->buffer_count;
    uint64_t each = geometry->pages / count;
    uint64_t more = geometry->pages % count;
    uint64_t offset = 0;

    tier->page_bytes = geometry->page_bytes;
    tier->page_granules = geometry->page_bytes / DRAM_GRANULE_BYTES;
    tier->page_shift = (uint32_t)__builtin_ctz(tier->page_granules);
    tier->granules_total = geometry->granules;
    tier->pages_total = geometry->pages;
    tier->buffer_count = count;
    tier->stride = (uint32_t)(each + (more ? 1 : 0) + (count > 1 ? 1 : 0));
    for (uint32_t i = 0; i < count; i++) {
        uint64_t bytes = (each + (i < more ? 1 : 0)) * geometry->page_bytes;
        bytes = u64_min(bytes, geometry->granules * DRAM_GRANULE_BYTES - offset);
        tier->buffers[i] = (struct dram_buffer){.bytes = bytes, .offset = offset, .fd = -1};
        offset += bytes;
    }
    uint64_t last = div_round_up(tier->buffers[count - 1].bytes, geometry->page_bytes);
    tier->pages.stride = tier->stride;
    tier->pages.buffer_count = count;
    tier->pages.index_end = (uint32_t)((uint64_t)tier->stride * (count - 1) + last);
    tier->splits.partial_page = DRAM_NONE;
    if (geometry->partial_granules) {
        tier->splits.partial_page = tier->pages.index_end - 1;
        tier->splits.partial_granules = geometry->partial_granules;
    }
}

static enum umbp_status map_metadata(struct dram_tier *tier)
{
    struct dram_pages *pages = &tier->pages;
    struct dram_splits *splits = &tier->splits;
    uint64_t words = pages->index_end;
    uint64_t all = 0;
    do {
        words = div_round_up(words, DRAM_WORD_BITS);
        ASSERT(pages->level_count < DRAM_LEVELS_MAX);
        pages->level_words[pages->level_count++] = (uint32_t)words;
        all += words;
    } while (words > 1);
    all += pages->level_words[0];

    splits->words = tier->page_granules / DRAM_WORD_BITS;
    splits->sector_words = splits->words > 64 ? splits->words / 64 : 1;
    splits->slot_bytes = (uint32_t)(sizeof(struct dram_split) + splits->words * sizeof(uint64_t));

    tier->map_bytes = all * sizeof(uint64_t);
    tier->map = mem_map(tier->map_bytes);
    if (!tier->map) {
        return UMBP_NO_MEMORY;
    }
    tier->slots_bytes = (uint64_t)splits->slot_bytes * pages->index_end;
    splits->slots = mem_map(tier->slots_bytes);
    if (!splits->slots) {
        return UMBP_NO_MEMORY;
    }

    uint64_t *next = tier->map;
    for (uint32_t level = 0; level < pages->level_count; level++) {
        pages->levels[level] = next;
        next += pages->level_words[level];
    }
    splits->is_split = next;
    return UMBP_OK;
}

static void publish_free(struct dram_tier *tier)
{
    uint64_t granules = ((uint64_t)tier->pages.free << tier->page_shift) + tier->splits.free;
    atomic_store_explicit(&tier->bytes_free, granules * DRAM_GRANULE_BYTES, memory_order_relaxed);
}

/* All that there is becomes free. */
static void fill(struct dram_tier *tier)
{
    for (uint32_t i = tier->buffer_count; i-- > 0;) {
        uint32_t pages = (uint32_t)(tier->buffers[i].bytes / tier->page_bytes);
        if (pages) {
            dram_pages_give(&tier->pages, i * tier->stride, pages);
        }
    }
    if (tier->splits.partial_page != DRAM_NONE) {
        dram_split_open(tier, tier->splits.partial_page, tier->splits.partial_granules);
    }
    publish_free(tier);
}

enum umbp_status dram_create(const struct dram_options *options, struct dram_tier **tier_out)
{
    struct geometry geometry;
    enum umbp_status status = plan(options, &geometry);
    if (status != UMBP_OK) {
        return status;
    }
    struct dram_tier *tier = mem_aligned(CACHE_LINE, sizeof(*tier));
    if (!tier) {
        return UMBP_NO_MEMORY;
    }
    memset(tier, 0, sizeof(*tier));
    mutex_init(&tier->lock, RANK_DRAM);
    lay_out(tier, &geometry);
    dram_pages_init(&tier->pages);
    dram_splits_init(&tier->splits);

    status = map_metadata(tier);
    if (status == UMBP_OK) {
        status = dram_buffers_map(options, tier->buffers, tier->buffer_count, &tier->backing);
    }
    if (status != UMBP_OK) {
        dram_destroy(tier);
        return status;
    }
    dram_buffers_keep_from_children(tier->buffers, tier->buffer_count);
    for (uint32_t i = 0; i < tier->buffer_count; i++) {
        tier->origin[i] =
            (uintptr_t)tier->buffers[i].data - (uintptr_t)i * tier->stride * tier->page_bytes;
    }
    fill(tier);
    *tier_out = tier;
    return UMBP_OK;
}

void dram_destroy(struct dram_tier *tier)
{
    if (!tier) {
        return;
    }
    dram_buffers_unmap(tier->buffers, tier->buffer_count);
    dram_nodes_fini(&tier->nodes);
    if (tier->splits.slots) {
        mem_unmap(tier->splits.slots, tier->slots_bytes);
    }
    if (tier->map) {
        mem_unmap(tier->map, tier->map_bytes);
    }
    mutex_fini(&tier->lock);
    mem_free(tier);
}

/* ---- freeing, under the lock ---- */

/* The whole pages [page, end) of an extent; of those that are split every granule goes back. */
static void give_pages(struct dram_tier *tier, uint32_t page, uint32_t end)
{
    while (page < end) {
        uint32_t split = (uint32_t)dram_bits_next(tier->splits.is_split, page, end);
        if (split > page) {
            dram_pages_give(&tier->pages, page, split - page);
        }
        if (split < end) {
            dram_split_give(tier, split, 0, tier->page_granules);
        }
        page = split + 1;
    }
}

static void give_extent(struct dram_tier *tier, uint64_t start, uint32_t granules)
{
    uint64_t end = start + granules;
    uint64_t index_end = (uint64_t)tier->pages.index_end << tier->page_shift;
    ASSERT(granules && start < index_end && end <= index_end);
    uint32_t inside = tier->page_granules - 1;
    uint32_t page = (uint32_t)(start >> tier->page_shift);
    uint32_t last = (uint32_t)(end >> tier->page_shift);
    if (start & inside) {
        uint32_t at = (uint32_t)(start & inside);
        uint32_t count = (uint32_t)u64_min(granules, tier->page_granules - at);
        dram_split_give(tier, page++, at, count);
        if (start + count == end) {
            return;
        }
    }
    if (end & inside) { /* before the pages, so that the run they make is seen in full */
        dram_split_give(tier, last, 0, (uint32_t)(end & inside));
    }
    if (page < last) {
        give_pages(tier, page, last);
    }
}

static void give_list(struct dram_tier *tier, uint32_t head, uint32_t extents)
{
    uint32_t node = head;
    for (uint32_t i = 0; i < extents; i++) {
        const struct dram_extent *extent = dram_list_extent(&tier->nodes, &node, i);
        give_extent(tier, extent->start, extent->granules);
    }
    dram_list_free(&tier->nodes, head);
}

/* Freeing a small value waits for two cache lines of its page's slot, which nobody has looked at
 * for long. They are asked for before the lock is taken, and all of a batch's at once. */
static void prefetch_slot(const struct dram_tier *tier, const struct dram_block *block)
{
    uint32_t at = (uint32_t)block->start & (tier->page_granules - 1);
    if (block->extents != 1 || (!at && block->granules >= tier->page_granules)) {
        return;
    }
    const struct dram_split *slot =
        dram_split_of(tier, (uint32_t)(block->start >> tier->page_shift));
    __builtin_prefetch(slot, 1);
    __builtin_prefetch(&slot->words[at / DRAM_WORD_BITS], 1);
}

static void free_locked(struct dram_tier *tier, struct dram_block *block)
{
    if (!block->extents) {
        return;
    }
    ASSERT(tier->granules_out >= block->granules && tier->blocks);
    if (block->extents == 1) {
        give_extent(tier, block->start, block->granules);
    } else {
        give_list(tier, dram_list_head(&tier->nodes, block), block->extents);
        tier->blocks_scattered--;
    }
    tier->granules_out -= block->granules;
    tier->blocks--;
    *block = (struct dram_block){0};
}

/* ---- allocating, under the lock ---- */

static enum umbp_status take_pages(struct dram_tier *tier, uint32_t page, uint32_t count,
                                   struct dram_list *list)
{
    enum umbp_status status = dram_list_add(&tier->nodes, list, (uint64_t)page << tier->page_shift,
                                            count << tier->page_shift);
    if (status == UMBP_OK) {
        dram_pages_take(&tier->pages, page, count);
    }
    return status;
}

/* The first granules of a page that is free or split. */
static enum umbp_status take_head(struct dram_tier *tier, uint32_t page, uint32_t granules,
                                  struct dram_list *list)
{
    enum umbp_status status =
        dram_list_add(&tier->nodes, list, (uint64_t)page << tier->page_shift, granules);
    if (status != UMBP_OK) {
        return status;
    }
    if (!dram_bits_get(tier->splits.is_split, page)) {
        dram_pages_take(&tier->pages, page, 1);
        dram_split_open(tier, page, tier->page_granules);
    }
    dram_split_take(tier, page, 0, granules);
    return UMBP_OK;
}

/* Less than a page: a run in a split page, else a page split for it, else granules here and there.
 */
static enum umbp_status place_part(struct dram_tier *tier, uint32_t granules,
                                   struct dram_list *list)
{
    uint32_t page;
    uint32_t at;
    if (dram_split_find(tier, granules, &page, &at)) {
        enum umbp_status status =
            dram_list_add(&tier->nodes, list, ((uint64_t)page << tier->page_shift) + at, granules);
        if (status == UMBP_OK) {
            dram_split_take(tier, page, at, granules);
        }
        return status;
    }
    if (tier->pages.free) {
        return take_head(tier, dram_pages_find_one(tier), granules, list);
    }
    return dram_split_scatter(tier, granules, list);
}

static enum umbp_status place(struct dram_tier *tier, uint32_t granules, struct dram_list *list)
{
    uint32_t pages = granules >> tier->page_shift;
    uint32_t tail = granules & (tier->page_granules - 1);
    if (!pages) {
        return place_part(tier, tail, list);
    }

    enum umbp_status status;
    if (pages > tier->pages.free) {
        status = dram_pages_scatter(tier, tier->pages.free, list);
        if (status == UMBP_OK) {
            status = dram_split_scatter(tier, granules - list->granules, list);
        }
        return status;
    }
    uint32_t page;
    bool tail_fits;
    if (dram_pages_find_run(tier, pages, tail, &page, &tail_fits)) {
        status = take_pages(tier, page, pages, list);
        if (status == UMBP_OK && tail_fits) {
            return take_head(tier, page + pages, tail, list);
        }
    } else {
        status = dram_pages_scatter(tier, pages, list);
    }
    if (status == UMBP_OK && tail) {
        status = place_part(tier, tail, list);
    }
    return status;
}

static enum umbp_status alloc_locked(struct dram_tier *tier, uint64_t bytes,
                                     struct dram_block *block_out)
{
    if (bytes > tier->granules_total * DRAM_GRANULE_BYTES) {
        return UMBP_TOO_LARGE;
    }
    uint64_t granules = dram_footprint(bytes) / DRAM_GRANULE_BYTES;
    if (granules > UINT32_MAX) {
        return UMBP_TOO_LARGE;
    }
    if (granules > tier->granules_total - tier->granules_out) {
        return UMBP_NO_SPACE;
    }

    struct dram_list list = {0};
    enum umbp_status status = place(tier, (uint32_t)granules, &list);
    if (status != UMBP_OK) {
        if (list.extents == 1) {
            give_extent(tier, list.only.start, list.only.granules);
        } else if (list.extents > 1) {
            give_list(tier, list.head, list.extents);
        }
        return status;
    }
    ASSERT(list.granules == granules);
    tier->granules_out += granules;
    tier->blocks++;
    tier->blocks_scattered += list.extents > 1;
    *block_out = dram_list_block(&tier->nodes, &list);
    return UMBP_OK;
}

/* ---- the door ---- */

enum umbp_status dram_alloc(struct dram_tier *tier, uint64_t bytes, struct dram_block *block_out)
{
    mutex_lock(&tier->lock);
    enum umbp_status status = alloc_locked(tier, bytes, block_out);
    publish_free(tier);
    mutex_unlock(&tier->lock);
    return status;
}

enum umbp_status dram_alloc_batch(struct dram_tier *tier, const uint64_t *bytes, size_t count,
                                  struct dram_block *blocks_out, size_t *done_out)
{
    enum umbp_status status = UMBP_OK;
    size_t done = 0;
    while (done < count && status == UMBP_OK) {
        size_t end = size_min(count, done + BATCH_CHUNK);
        mutex_lock(&tier->lock);
        while (done < end) {
            status = alloc_locked(tier, bytes[done], &blocks_out[done]);
            if (status != UMBP_OK) {
                break;
            }
            done++;
        }
        publish_free(tier);
        mutex_unlock(&tier->lock);
    }
    *done_out = done;
    return status;
}

void dram_free(struct dram_tier *tier, struct dram_block *block)
{
    if (block->extents) {
        dram_free_batch(tier, block, 1);
    }
}

void dram_free_batch(struct dram_tier *tier, struct dram_block *blocks, size_t count)
{
    size_t done = 0;
    while (done < count) {
        size_t end = size_min(count, done + BATCH_CHUNK);
        for (size_t i = done; i < end; i++) {
            prefetch_slot(tier, &blocks[i]);
        }
        mutex_lock(&tier->lock);
        while (done < end) {
            free_locked(tier, &blocks[done++]);
        }
        publish_free(tier);
        mutex_unlock(&tier->lock);
    }
}

uint64_t dram_bytes_free(const struct dram_tier *tier)
{
    return atomic_load_explicit(&tier->bytes_free, memory_order_relaxed);
}

uint64_t dram_bytes_total(const struct dram_tier *tier)
{
    return tier->granules_total * DRAM_GRANULE_BYTES;
}

void dram_stats(const struct dram_tier *tier, struct dram_stats *stats_out)
{
    struct mutex *lock = (struct mutex *)&tier->lock; /* a lock is no part of what is const */
    mutex_lock(lock);
    *stats_out = (struct dram_stats){
        .bytes_total = dram_bytes_total(tier),
        .bytes_free = dram_bytes_free(tier),
        .pages_total = tier->pages_total,
        .pages_free = tier->pages.free,
        .pages_split = tier->splits.count,
        .blocks = tier->blocks,
        .blocks_scattered = tier->blocks_scattered,
        .metadata_bytes =
            sizeof(*tier) + tier->map_bytes + tier->slots_bytes + tier->nodes.mapped_bytes,
        .backing = tier->backing,
    };
    mutex_unlock(lock);
}

uint64_t dram_words_read(const struct dram_tier *tier)
{
    struct mutex *lock = (struct mutex *)&tier->lock;
    mutex_lock(lock);
    uint64_t words = tier->words_read;
    mutex_unlock(lock);
    return words;
}

uint32_t dram_buffer_count(const struct dram_tier *tier) { return tier->buffer_count; }

enum umbp_status dram_buffer_get(const struct dram_tier *tier, uint32_t index,
                                 struct dram_buffer_info *info_out)
{
    if (index >= tier->buffer_count) {
        return UMBP_INVALID_VALUE;
    }
    const struct dram_buffer *buffer = &tier->buffers[index];
    *info_out = (struct dram_buffer_info){
        .data = buffer->data,
        .bytes = buffer->bytes,
        .offset = buffer->offset,
        .fd = buffer->fd,
    };
    return UMBP_OK;
}
