/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of the DRAM tier. dram_pages.c opens with how the pieces fit together.
 *
 * Granules and pages are numbered over an index space in which each buffer begins at a multiple of
 * `stride` pages. Between two buffers lies at least one page number that has no memory and is never
 * free, so no run of free pages, and no extent, can cross from one buffer to the next.
 */
#ifndef TIER_DRAM_DRAM_PRIV_H
#define TIER_DRAM_DRAM_PRIV_H

#include <stdatomic.h>

#include "tier_dram/dram_bits.h"
#include "tier_dram/tier_dram.h"

#define DRAM_NONE UINT32_MAX
#define DRAM_PAGES_MAX (UINT32_C(1) << 31) /* page numbers, the gaps between buffers included */
#define DRAM_LEVELS_MAX 6u                 /* 64^6 is more than DRAM_PAGES_MAX */
#define DRAM_RECENT_RUNS 16u
#define DRAM_BINS 160u

/* ---- buffers (dram_buffers.c) ---- */

struct dram_buffer {
    char *data;
    uint64_t bytes;        /* what the tier may use */
    uint64_t mapped_bytes; /* what munmap gets */
    uint64_t offset;       /* in the tier's linear range */
    int fd;
    bool others_write; /* shared only: other processes may map it for writing */
};

/* Maps buffers[0 .. count), whose `bytes` and `offset` are set, and binds and prefaults them. */
MUST_USE enum umbp_status dram_buffers_map(const struct dram_options *options,
                                           struct dram_buffer *buffers, uint32_t count,
                                           enum dram_backing *backing_out);
void dram_buffers_unmap(struct dram_buffer *buffers, uint32_t count);
/* Private memory is left out of forked children: else each page that changes while one lives would
 * be copied, and the tier's size doubled. */
void dram_buffers_keep_from_children(const struct dram_buffer *buffers, uint32_t count);

/* ---- whole pages (dram_pages.c) ---- */

struct dram_run {
    uint32_t page;
    uint32_t count;
};

struct dram_pages {
    /* levels[0] has a bit for each page: 1 = free. A bit of levels[n + 1] tells whether that word
     * of levels[n] has any. */
    uint64_t *levels[DRAM_LEVELS_MAX];
    uint32_t level_words[DRAM_LEVELS_MAX];
    uint32_t level_count;
    uint32_t index_end; /* page numbers are below this */
    uint32_t stride;    /* page numbers from one buffer's first to the next one's */
    uint32_t buffer_count;
    uint32_t free;
    uint32_t buffer_free[DRAM_BUFFERS_MAX];

    uint32_t cursor;     /* where the next search for single pages begins */
    uint32_t run_cursor; /* and for runs: these add up to sweeps, so nothing else moves it */
    struct dram_run
        recent[DRAM_RECENT_RUNS]; /* a ring; count 0: no entry. Hints: checked when used */
    uint32_t recent_top;          /* the newest is the one below, modulo the size */

    /* What is known about the longest run of free pages (see "Sweeps" in dram_pages.c). */
    uint32_t longest_bound;
    uint32_t sweep_longest; /* the largest run that this sweep looked for in vain */
    uint32_t sweep_freed;   /* the longest run that a free made since the sweep began */
    uint64_t sweep_words;
};

/* ---- split pages (dram_split.c) ---- */

/* Kept for each page number, meaningful while the page is split. Zero: not split. */
struct dram_split {
    uint32_t next; /* in its bin */
    uint32_t prev;
    uint32_t free;    /* granules */
    uint32_t longest; /* no run of free granules is longer than this; it may be shorter */
    uint16_t bin;     /* SPLIT_NOT, SPLIT_FULL or SPLIT_BIN + n */
    uint16_t hint;    /* the word where a search begins, if bitmaps are long */
    uint32_t reserved;
    uint64_t sectors; /* bit s: sector s of the bitmap may have free granules; 0: it has none */
    uint64_t words[]; /* 1 = free */
};

enum {
    SPLIT_NOT = 0,
    SPLIT_FULL = 1,
    SPLIT_BIN = 2
};

struct dram_splits {
    char *slots; /* struct dram_split by page number, slot_bytes apart; memory comes by touching */
    uint32_t slot_bytes;
    uint32_t words;        /* of a page's bitmap */
    uint32_t sector_words; /* a bitmap has at most 64 sectors */
    uint32_t count;        /* pages that are split */
    uint64_t free;         /* granules in them */
    uint64_t *is_split;    /* a bit for each page */
    uint32_t partial_page; /* the tier's last page, if it is short; always split */
    uint32_t partial_granules;
    uint64_t bins_used[(DRAM_BINS + DRAM_WORD_BITS - 1) / DRAM_WORD_BITS];
    uint32_t bins[DRAM_BINS]; /* the first split page whose `longest` falls in the bin */
};

/* ---- extent lists (dram_extents.c) ---- */

struct dram_extent {
    uint64_t start; /* granule */
    uint32_t first; /* which granule of the block it begins with */
    uint32_t granules;
};

#define DRAM_NODE_EXTENTS 7u
#define DRAM_NODE_CHUNK 64u  /* nodes of the first chunk; each further one is twice the last */
#define DRAM_NODE_CHUNKS 23u /* so node numbers stay below 2^29, and cursors in 32 bits */
#define DRAM_NODE_NONE 0u

struct dram_node {
    uint32_t next;
    uint32_t generation; /* of a list's first node: raised when the list is freed */
    uint64_t reserved;
    struct dram_extent extents[DRAM_NODE_EXTENTS];
};
_Static_assert(sizeof(struct dram_node) == 128, "two cache lines");

struct dram_nodes {
    struct dram_node *chunks[DRAM_NODE_CHUNKS]; /* an entry is written once, before its first use */
    uint32_t chunk_count;
    uint32_t fresh; /* the lowest number never handed out */
    uint32_t free;  /* list head, by `next` */
    uint32_t in_use;
    uint64_t mapped_bytes;
};

/* The extents of a block that is being put together. The first stays here; a second one moves both
 * into nodes. */
struct dram_list {
    struct dram_extent only;
    uint32_t extents;
    uint32_t granules;
    uint32_t head;
    uint32_t tail;
    uint32_t tail_used;
};

/* ---- the tier ---- */

struct dram_tier {
    uint32_t page_bytes;
    uint32_t page_granules;
    uint32_t page_shift; /* log2 of page_granules */
    uint32_t buffer_count;
    uint32_t stride;                    /* as in pages; here because readers hold no lock */
    uintptr_t origin[DRAM_BUFFERS_MAX]; /* address of granule g of a buffer: origin + g * 64 */
    struct dram_buffer buffers[DRAM_BUFFERS_MAX];
    uint64_t granules_total;
    uint64_t pages_total;
    enum dram_backing backing;
    void *map; /* the bitmaps */
    uint64_t map_bytes;
    uint64_t slots_bytes;

    /* Rank RANK_DRAM. Guards all below, and what `map` and `splits.slots` point to. Node contents
     * are written under it too, but read without it by the block's owner: a list does not change
     * between the alloc that made it and its free. */
    struct mutex lock ALIGNED_LINE;
    struct dram_pages pages;
    struct dram_splits splits;
    struct dram_nodes nodes;
    uint64_t granules_out;
    uint64_t blocks;
    uint64_t blocks_scattered;
    uint64_t
        words_read; /* bitmap words that searches looked at: what bounds an allocation's cost */

    /* A mirror of pages.free and splits.free in bytes, stored under the lock, read without it
     * (dram_bytes_free): a number that was true a moment ago, so relaxed will do. */
    _Atomic uint64_t bytes_free ALIGNED_LINE;
};

/* For tests: bitmap words read by searches so far. */
uint64_t dram_words_read(const struct dram_tier *tier);

static inline struct dram_split *dram_split_of(const struct dram_tier *tier, uint32_t page)
{
    return (struct dram_split *)(void *)(tier->splits.slots +
                                         (uint64_t)page * tier->splits.slot_bytes);
}

static inline struct dram_node *dram_node_of(const struct dram_nodes *nodes, uint32_t number)
{
    unsigned chunk = 31u - (unsigned)__builtin_clz(number / DRAM_NODE_CHUNK + 1);
    return &nodes->chunks[chunk][number - DRAM_NODE_CHUNK * ((1u << chunk) - 1)];
}

/* All functions below are called under the lock. "Take" clears bits and asserts that they were
 * set, "give" sets them and asserts that they were clear. */

void dram_pages_init(struct dram_pages *pages);
void dram_pages_take(struct dram_pages *pages, uint32_t page, uint32_t count);
void dram_pages_give(struct dram_pages *pages, uint32_t page, uint32_t count);
/* A run of `count` free pages, if a bounded search finds one. With a tail (granules, less than a
 * page) a run is preferred after which the tail is free too: *tail_fits_out. Takes nothing. */
MUST_USE bool dram_pages_find_run(struct dram_tier *tier, uint32_t count, uint32_t tail,
                                  uint32_t *page_out, bool *tail_fits_out);
/* Any free page; there must be one. */
uint32_t dram_pages_find_one(struct dram_tier *tier);
/* Takes `count` free pages into the list, in one buffer if one has that many. They must be there.
 */
MUST_USE enum umbp_status dram_pages_scatter(struct dram_tier *tier, uint32_t count,
                                             struct dram_list *list);

void dram_splits_init(struct dram_splits *splits);
/* Splits a page that was taken; all its granules are free then. */
void dram_split_open(struct dram_tier *tier, uint32_t page, uint32_t granules);
void dram_split_take(struct dram_tier *tier, uint32_t page, uint32_t at, uint32_t count);
/* A page whose last granule comes back is whole again, and goes to the free pages. */
void dram_split_give(struct dram_tier *tier, uint32_t page, uint32_t at, uint32_t count);
/* A run of `count` free granules in a split page, if a bounded search finds one. Takes nothing. */
MUST_USE bool dram_split_find(struct dram_tier *tier, uint32_t count, uint32_t *page_out,
                              uint32_t *at_out);
/* Takes `count` granules out of split pages into the list. They must be there. */
MUST_USE enum umbp_status dram_split_scatter(struct dram_tier *tier, uint64_t count,
                                             struct dram_list *list);
/* The longest run that the page really has. For dram_check. */
uint32_t dram_split_longest(const struct dram_tier *tier, uint32_t page);
unsigned dram_split_bin(uint32_t longest);

/* Appends an extent, or lengthens the last one if it touches that. On UMBP_NO_MEMORY the list is as
 * it was, and the extent still the caller's. */
MUST_USE enum umbp_status dram_list_add(struct dram_nodes *nodes, struct dram_list *list,
                                        uint64_t start, uint32_t granules);
struct dram_block dram_list_block(const struct dram_nodes *nodes, const struct dram_list *list);
/* The i-th extent of a list that begins at node `head`; *node walks along (begin with head). */
const struct dram_extent *dram_list_extent(const struct dram_nodes *nodes, uint32_t *node,
                                           uint32_t index);
/* The first node of a scattered block; asserts that the block is no older than the list. */
uint32_t dram_list_head(const struct dram_nodes *nodes, const struct dram_block *block);
void dram_list_free(struct dram_nodes *nodes, uint32_t head);
void dram_nodes_fini(struct dram_nodes *nodes);

#endif
