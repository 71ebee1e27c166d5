/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists of extents, for the blocks that lie in more than one piece.
 *
 * A list is a chain of nodes of seven extents. Nodes are numbered from 1, live in chunks that never
 * move and double in size (so a directory of 23 pointers finds any of them by one count of leading
 * zeros), and are recycled through a free list. A block names its list by the first node's number
 * and generation. The owner of a block walks its list without a lock: nothing writes to a list
 * between the allocation that made it and its free, and a chunk's pointer is written before the
 * first block that needs it is handed out.
 */
#include "tier_dram/dram_priv.h"

static enum umbp_status add_chunk(struct dram_nodes *nodes)
{
    if (nodes->chunk_count == DRAM_NODE_CHUNKS) {
        return UMBP_NO_MEMORY;
    }
    size_t bytes = ((size_t)DRAM_NODE_CHUNK << nodes->chunk_count) * sizeof(struct dram_node);
    struct dram_node *chunk = mem_map(bytes);
    if (!chunk) {
        return UMBP_NO_MEMORY;
    }
    nodes->chunks[nodes->chunk_count++] = chunk;
    nodes->mapped_bytes += bytes;
    return UMBP_OK;
}

static uint32_t nodes_end(const struct dram_nodes *nodes)
{
    return DRAM_NODE_CHUNK * ((1u << nodes->chunk_count) - 1);
}

static enum umbp_status node_new(struct dram_nodes *nodes, uint32_t *number_out)
{
    uint32_t number = nodes->free;
    if (number != DRAM_NODE_NONE) {
        nodes->free = dram_node_of(nodes, number)->next;
    } else {
        if (!nodes->fresh) {
            nodes->fresh = 1; /* number 0 is "none" */
        }
        if (nodes->fresh >= nodes_end(nodes)) {
            enum umbp_status status = add_chunk(nodes);
            if (status != UMBP_OK) {
                return status;
            }
        }
        number = nodes->fresh++;
    }
    dram_node_of(nodes, number)->next = DRAM_NODE_NONE;
    nodes->in_use++;
    *number_out = number;
    return UMBP_OK;
}

enum umbp_status dram_list_add(struct dram_nodes *nodes, struct dram_list *list, uint64_t start,
                               uint32_t granules)
{
    struct dram_extent extent = {.start = start, .first = list->granules, .granules = granules};
    if (list->extents == 0) {
        list->only = extent;
        list->extents = 1;
        list->granules = granules;
        return UMBP_OK;
    }

    struct dram_extent *last = list->extents == 1
                                   ? &list->only
                                   : &dram_node_of(nodes, list->tail)->extents[list->tail_used - 1];
    if (last->start + last->granules == start) {
        last->granules += granules;
        list->granules += granules;
        return UMBP_OK;
    }

    if (list->extents == 1 || list->tail_used == DRAM_NODE_EXTENTS) {
        uint32_t number;
        enum umbp_status status = node_new(nodes, &number);
        if (status != UMBP_OK) {
            return status;
        }
        list->tail_used = 0;
        if (list->extents == 1) {
            list->head = number;
            dram_node_of(nodes, number)->extents[list->tail_used++] = list->only;
        } else {
            dram_node_of(nodes, list->tail)->next = number;
        }
        list->tail = number;
    }
    dram_node_of(nodes, list->tail)->extents[list->tail_used++] = extent;
    list->extents++;
    list->granules += granules;
    return UMBP_OK;
}

struct dram_block dram_list_block(const struct dram_nodes *nodes, const struct dram_list *list)
{
    struct dram_block block = {.granules = list->granules, .extents = list->extents};
    if (list->extents == 1) {
        block.start = list->only.start;
    } else {
        block.start = (uint64_t)dram_node_of(nodes, list->head)->generation << 32 | list->head;
    }
    return block;
}

const struct dram_extent *dram_list_extent(const struct dram_nodes *nodes, uint32_t *node,
                                           uint32_t index)
{
    if (index && index % DRAM_NODE_EXTENTS == 0) {
        *node = dram_node_of(nodes, *node)->next;
    }
    return &dram_node_of(nodes, *node)->extents[index % DRAM_NODE_EXTENTS];
}

uint32_t dram_list_head(const struct dram_nodes *nodes, const struct dram_block *block)
{
    uint32_t head = (uint32_t)block->start;
    ASSERT(head != DRAM_NODE_NONE);
    ASSERT(dram_node_of(nodes, head)->generation == (uint32_t)(block->start >> 32));
    return head;
}

void dram_list_free(struct dram_nodes *nodes, uint32_t head)
{
    dram_node_of(nodes, head)->generation++;
    for (uint32_t number = head; number != DRAM_NODE_NONE;) {
        struct dram_node *node = dram_node_of(nodes, number);
        uint32_t next = node->next;
        node->next = nodes->free;
        nodes->free = number;
        nodes->in_use--;
        number = next;
    }
}

void dram_nodes_fini(struct dram_nodes *nodes)
{
    for (uint32_t i = 0; i < nodes->chunk_count; i++) {
        mem_unmap(nodes->chunks[i], ((size_t)DRAM_NODE_CHUNK << i) * sizeof(struct dram_node));
    }
    nodes->chunk_count = 0;
}
