/* SPDX-License-Identifier: Apache-2.0 */
/* What a block's owner does with it: find its pieces, copy into and out of them. No lock. */
#include "tier_dram/dram_priv.h"

/* Below this a copy counts as part of the bookkeeping, and may happen under a caller's lock. */
#define BULK_BYTES 65536u

static char *granule_address(const struct dram_tier *tier, uint64_t granule)
{
    uint32_t buffer = 0;
    if (tier->buffer_count > 1) {
        buffer = (uint32_t)(granule >> tier->page_shift) / tier->stride;
    }
    return (char *)(tier->origin[buffer] + granule * DRAM_GRANULE_BYTES);
}

/* A cursor is a node's number times eight plus the extent's place in it; 0 is no node's. */
static const struct dram_extent *find_extent(const struct dram_nodes *nodes,
                                             const struct dram_block *block, uint32_t granule,
                                             uint32_t *cursor)
{
    uint32_t number = *cursor / 8;
    uint32_t place = *cursor % 8;
    if (number == DRAM_NODE_NONE || dram_node_of(nodes, number)->extents[place].first > granule) {
        number = dram_list_head(nodes, block);
        place = 0;
    }
    for (;;) {
        const struct dram_node *node = dram_node_of(nodes, number);
        for (; place < DRAM_NODE_EXTENTS; place++) {
            const struct dram_extent *extent = &node->extents[place];
            if (granule - extent->first < extent->granules) {
                *cursor = number * 8 + place;
                return extent;
            }
        }
        place = 0;
        number = node->next;
        ASSERT(number != DRAM_NODE_NONE);
    }
}

struct dram_piece dram_piece_at(const struct dram_tier *tier, const struct dram_block *block,
                                uint64_t offset, uint32_t *cursor)
{
    ASSERT(block->extents && offset / DRAM_GRANULE_BYTES < block->granules);
    if (block->extents == 1) {
        return (struct dram_piece){
            .data = granule_address(tier, block->start) + offset,
            .bytes = (uint64_t)block->granules * DRAM_GRANULE_BYTES - offset,
        };
    }

    uint32_t look = 0;
    const struct dram_extent *extent = find_extent(
        &tier->nodes, block, (uint32_t)(offset / DRAM_GRANULE_BYTES), cursor ? cursor : &look);
    uint64_t inside = offset - (uint64_t)extent->first * DRAM_GRANULE_BYTES;
    return (struct dram_piece){
        .data = granule_address(tier, extent->start) + inside,
        .bytes = (uint64_t)extent->granules * DRAM_GRANULE_BYTES - inside,
    };
}

void dram_write(const struct dram_tier *tier, const struct dram_block *block, uint64_t offset,
                const void *from, uint64_t bytes)
{
    if (bytes >= BULK_BYTES) {
        mutex_assert_none_held();
    }
    uint32_t cursor = 0;
    for (const char *source = from; bytes;) {
        struct dram_piece piece = dram_piece_at(tier, block, offset, &cursor);
        uint64_t step = u64_min(piece.bytes, bytes);
        copy_bytes(piece.data, source, step);
        source += step;
        offset += step;
        bytes -= step;
    }
}

void dram_read(const struct dram_tier *tier, const struct dram_block *block, uint64_t offset,
               void *to, uint64_t bytes)
{
    if (bytes >= BULK_BYTES) {
        mutex_assert_none_held();
    }
    uint32_t cursor = 0;
    for (char *target = to; bytes;) {
        struct dram_piece piece = dram_piece_at(tier, block, offset, &cursor);
        uint64_t step = u64_min(piece.bytes, bytes);
        copy_bytes(target, piece.data, step);
        target += step;
        offset += step;
        bytes -= step;
    }
}
