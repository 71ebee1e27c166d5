/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The DRAM tier: memory buffers cut into pages, and the allocator that hands them out.
 *
 * Space. The tier is one linear range of `bytes`, made of one or more buffers, and cut into pages
 * of `page_bytes` (default 64 KiB). Values of a page and more take whole pages; what is smaller
 * than a page (a small value, a large value's last part) takes granules of DRAM_GRANULE_BYTES out
 * of a page that is split for that. So the waste per value is below one granule, any mix of sizes
 * fits, and a tier of 1 MiB is filled by 512-byte values to the last byte.
 *
 * Guarantee. dram_alloc of n bytes succeeds exactly when align_up(n, granule) bytes are free: a
 * value may lie scattered, so there is no fragmentation failure and nothing to compact. It prefers,
 * in this order: one contiguous run (recently freed runs first, then a bounded next-fit search),
 * scattered whole pages of one buffer, pages across buffers, granules wherever they are. All or
 * nothing. A run never crosses from one buffer to the next.
 *
 * A granule belongs to at most one block. dram_free of a block that is free already is a no-op,
 * and frees of granules that are not allocated are caught by assertion.
 *
 * Cost. O(1) in the steady state; a search reads a bounded number of bitmap words whatever the
 * tier's size. No heap allocation for blocks of one extent. Extent lists of scattered blocks come
 * from a pool inside the tier, which grows by mapping and is kept; the bitmaps of split pages have
 * their place from the start (mapped whole, and there once touched), so splitting cannot fail.
 *
 * Threads. Every function may be called from any thread. One short lock (RANK_DRAM) guards the
 * bitmaps; nothing copies under it. Batches take it once for each 64 blocks.
 *
 * Ownership. A block is a plain value owned by whoever holds it; the bytes it names are valid until
 * it is freed. The tier hands out memory, it does not know what is in it.
 */
#ifndef TIER_DRAM_TIER_DRAM_H
#define TIER_DRAM_TIER_DRAM_H

#include "base/base.h"

#define DRAM_GRANULE_BYTES 64u
#define DRAM_PAGE_BYTES_MIN 4096u
#define DRAM_PAGE_BYTES_MAX (64u * 1024u * 1024u)
#define DRAM_PAGE_BYTES_DEFAULT (64u * 1024u)
#define DRAM_BUFFERS_MAX 64u

enum dram_backing {
    DRAM_BACKING_ANONYMOUS = 0,
    DRAM_BACKING_HUGE_PAGES = 1,        /* MAP_HUGETLB; falls back to anonymous, one warning */
    DRAM_BACKING_SHARED = 2,            /* memfd, sealed: others can map it, read-only */
    DRAM_BACKING_SHARED_HUGE_PAGES = 3, /* memfd with MFD_HUGETLB; falls back to SHARED */
};

struct dram_options {
    uint64_t bytes;        /* all buffers together; at least one granule */
    uint32_t page_bytes;   /* 0: default. A power of two within the bounds above */
    uint32_t buffer_count; /* 0: 1. Buffers of (nearly) equal size, page multiples */
    enum dram_backing backing;
    int numa_node;             /* -1: no binding; else every buffer is bound to this node.
                                  DRAM_NUMA_SPREAD: buffer i goes to the i-th node, round robin */
    bool prefault;             /* touch every page at creation, */
    uint32_t prefault_threads; /* with this many threads (0: one a CPU, at most 16) */
};
#define DRAM_NUMA_ANY (-1)
#define DRAM_NUMA_SPREAD (-2)

struct dram_tier;

/* One value's place. Zero-initialised means "none". 16 bytes on purpose: it sits in index entries.
 */
struct dram_block {
    uint64_t start;    /* one extent: its first granule. More: the tier's handle of the list */
    uint32_t granules; /* in all */
    uint32_t extents;  /* 0: no block */
};
_Static_assert(sizeof(struct dram_block) == 16, "index entries count on it");

/* A contiguous piece of a block. */
struct dram_piece {
    void *data;
    uint64_t bytes;
};

struct dram_stats {
    uint64_t bytes_total;
    uint64_t bytes_free; /* in granules: what an allocation can still get */
    uint64_t pages_total;
    uint64_t pages_free; /* whole ones */
    uint64_t pages_split;
    uint64_t blocks;           /* allocated and not freed */
    uint64_t blocks_scattered; /* of those, with more than one extent */
    uint64_t metadata_bytes;   /* bitmaps and extent pools */
    enum dram_backing backing; /* what was had, after fallbacks */
};

/* Errors: UMBP_INVALID_VALUE (sizes, page size), UMBP_NO_MEMORY, UMBP_UNSUPPORTED (NUMA node that
 * is not there). Nothing is left behind on failure. */
MUST_USE enum umbp_status dram_create(const struct dram_options *options,
                                      struct dram_tier **tier_out);
void dram_destroy(struct dram_tier *tier); /* takes NULL; blocks that are still out are void */

/* UMBP_NO_SPACE when fewer bytes are free, UMBP_TOO_LARGE when the tier is smaller than that,
 * UMBP_NO_MEMORY when a list of extents could not be had. `bytes` of 0 gives a block of one
 * granule. */
MUST_USE enum umbp_status dram_alloc(struct dram_tier *tier, uint64_t bytes,
                                     struct dram_block *block_out);
/* Allocates in order until one fails; `blocks_out[0 .. *done_out)` are allocated, and the status is
 * that of the first failure (UMBP_OK when done_out == count). done_out is always written. */
MUST_USE enum umbp_status dram_alloc_batch(struct dram_tier *tier, const uint64_t *bytes,
                                           size_t count, struct dram_block *blocks_out,
                                           size_t *done_out);
/* Frees and clears `*block`. Idempotent on a cleared block. */
void dram_free(struct dram_tier *tier, struct dram_block *block);
void dram_free_batch(struct dram_tier *tier, struct dram_block *blocks, size_t count);

/* What an allocation of `bytes` takes from the free bytes. */
static inline uint64_t dram_footprint(uint64_t bytes)
{
    return bytes ? align_up(bytes, DRAM_GRANULE_BYTES) : DRAM_GRANULE_BYTES;
}

/* The piece of the block that holds byte `offset` of the value, from that byte on: its address and
 * how many bytes follow contiguously within the block (adjacent extents are not merged). `offset`
 * must lie inside the block. Walk a value: offset += min(piece.bytes, bytes left). A sequential
 * walk is linear: *cursor (start with 0) remembers the extent; pass NULL for a single look. */
struct dram_piece dram_piece_at(const struct dram_tier *tier, const struct dram_block *block,
                                uint64_t offset, uint32_t *cursor);

/* Copy into or out of a block, without any lock, streaming as base/copy.h does. */
void dram_write(const struct dram_tier *tier, const struct dram_block *block, uint64_t offset,
                const void *from, uint64_t bytes);
void dram_read(const struct dram_tier *tier, const struct dram_block *block, uint64_t offset,
               void *to, uint64_t bytes);

uint64_t dram_bytes_free(const struct dram_tier *tier); /* an atomic load, no lock */
uint64_t dram_bytes_total(const struct dram_tier *tier);
void dram_stats(const struct dram_tier *tier, struct dram_stats *stats_out);

/* The buffers, for registering with a network or passing to another process. */
struct dram_buffer_info {
    void *data;
    uint64_t bytes;
    uint64_t offset; /* of its first byte in the tier's linear range */
    int fd;          /* -1 unless shared; owned by the tier */
};
uint32_t dram_buffer_count(const struct dram_tier *tier);
MUST_USE enum umbp_status dram_buffer_get(const struct dram_tier *tier, uint32_t index,
                                          struct dram_buffer_info *info_out);

/* A buffer of the same making that belongs to no tier: memory that an application is given. Of the
 * options counts what is about memory (not the page size, the number of buffers, NUMA_SPREAD).
 * `info_out->bytes` are whole pages, the pages of `backing_out`. A shared one is sealed in its
 * size, and others may map it for writing. */
MUST_USE enum umbp_status dram_buffer_create(const struct dram_options *options,
                                             struct dram_buffer_info *info_out,
                                             enum dram_backing *backing_out);
void dram_buffer_destroy(const struct dram_buffer_info *info);

/* Debug: recount everything from the bitmaps, and compare. False with a log line on a mismatch. */
MUST_USE bool dram_check(const struct dram_tier *tier);

#endif
