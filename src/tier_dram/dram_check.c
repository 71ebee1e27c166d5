/* SPDX-License-Identifier: Apache-2.0 */
/* The tier's invariants, recounted from the bitmaps. Slow, for tests and for a debugger. */
#include "tier_dram/dram_priv.h"

/* The first thing found wrong, kept until the lock is released: log lines are not for locks. */
struct finding {
    const char *what;
    uint64_t index;
    uint64_t expected;
    uint64_t found;
};

static bool same(struct finding *finding, const char *what, uint64_t index, uint64_t expected,
                 uint64_t found)
{
    if (expected == found) {
        return true;
    }
    if (!finding->what) {
        *finding = (struct finding){what, index, expected, found};
    }
    return false;
}

/* The page numbers that have memory: [*begin_out, *end_out) of a buffer, whole pages only. */
static void buffer_pages(const struct dram_tier *tier, uint32_t buffer, uint32_t *begin_out,
                         uint32_t *end_out)
{
    *begin_out = buffer * tier->stride;
    *end_out = *begin_out + (uint32_t)(tier->buffers[buffer].bytes / tier->page_bytes);
}

static bool check_pages(const struct dram_tier *tier, struct finding *finding)
{
    const struct dram_pages *pages = &tier->pages;
    uint64_t all = 0;
    for (uint32_t i = 0; i < tier->buffer_count; i++) {
        uint64_t free = 0;
        uint32_t page;
        uint32_t end;
        for (buffer_pages(tier, i, &page, &end); page < end; page++) {
            free += dram_bits_get(pages->levels[0], page);
        }
        if (!same(finding, "free pages of buffer", i, free, pages->buffer_free[i])) {
            return false;
        }
        all += free;
    }
    /* No bit outside of the buffers: the count over all words is the same. */
    uint64_t bits = 0;
    for (uint32_t i = 0; i < pages->level_words[0]; i++) {
        bits += dram_bits_count(pages->levels[0][i]);
    }
    if (!same(finding, "bits of free pages", 0, all, bits) ||
        !same(finding, "free pages", 0, all, pages->free)) {
        return false;
    }

    for (uint32_t level = 1; level < pages->level_count; level++) {
        for (uint32_t i = 0; i < pages->level_words[level - 1]; i++) {
            if (!same(finding, "summary of word", i, pages->levels[level - 1][i] != 0,
                      dram_bits_get(pages->levels[level], i))) {
                return false;
            }
        }
    }
    return true;
}

static bool check_split(const struct dram_tier *tier, uint32_t page, struct finding *finding)
{
    const struct dram_splits *splits = &tier->splits;
    const struct dram_split *slot = dram_split_of(tier, page);
    uint64_t free = 0;
    for (uint32_t i = 0; i < splits->words; i++) {
        free += dram_bits_count(slot->words[i]);
        bool shown = slot->sectors >> (i / splits->sector_words) & 1;
        if (!same(finding, "granules in an empty sector of page", page, 0,
                  shown ? 0 : slot->words[i])) {
            return false;
        }
    }
    uint32_t end = page == splits->partial_page ? splits->partial_granules : tier->page_granules;
    return same(finding, "free granules of page", page, free, slot->free) &&
           same(finding, "free granules past the end of page", page, 0,
                dram_bits_next(slot->words, end, tier->page_granules) < tier->page_granules) &&
           same(finding, "split page that is free", page, 0,
                dram_bits_get(tier->pages.levels[0], page)) &&
           same(finding, "split page that is whole", page, 0, free == tier->page_granules) &&
           same(finding, "longest run over its bound in page", page, 0,
                dram_split_longest(tier, page) > slot->longest) &&
           same(finding, "bin of page", page,
                free ? SPLIT_BIN + dram_split_bin(slot->longest) : SPLIT_FULL, slot->bin);
}

static bool check_splits(const struct dram_tier *tier, struct finding *finding)
{
    const struct dram_splits *splits = &tier->splits;
    uint64_t count = 0;
    uint64_t listed = 0;
    uint64_t free = 0;
    for (uint32_t page = 0; page < tier->pages.index_end; page++) {
        const struct dram_split *slot = dram_split_of(tier, page);
        bool split = dram_bits_get(splits->is_split, page);
        if (!same(finding, "state of page", page, split, slot->bin != SPLIT_NOT)) {
            return false;
        }
        if (!split) {
            continue;
        }
        if (!check_split(tier, page, finding)) {
            return false;
        }
        count++;
        free += slot->free;
        listed += slot->free > 0;
    }
    for (unsigned bin = 0; bin < DRAM_BINS; bin++) {
        if (!same(finding, "bin in use", bin, splits->bins[bin] != DRAM_NONE,
                  dram_bits_get(splits->bins_used, bin))) {
            return false;
        }
        uint32_t before = DRAM_NONE;
        for (uint32_t page = splits->bins[bin]; page != DRAM_NONE;) {
            const struct dram_split *slot = dram_split_of(tier, page);
            if (!same(finding, "entry of bin", bin, SPLIT_BIN + bin, slot->bin) ||
                !same(finding, "link back from page", page, before, slot->prev)) {
                return false;
            }
            listed--;
            before = page;
            page = slot->next;
        }
    }
    return same(finding, "pages in bins", 0, 0, listed) &&
           same(finding, "split pages", 0, count, splits->count) &&
           same(finding, "free granules in split pages", 0, free, splits->free);
}

static bool check_nodes(const struct dram_tier *tier, struct finding *finding)
{
    const struct dram_nodes *nodes = &tier->nodes;
    uint64_t free = 0;
    for (uint32_t number = nodes->free; number != DRAM_NODE_NONE && free <= nodes->fresh; free++) {
        number = dram_node_of(nodes, number)->next;
    }
    uint64_t made = nodes->fresh ? nodes->fresh - 1 : 0;
    return same(finding, "extent nodes", 0, made, free + nodes->in_use) &&
           same(finding, "extent nodes without a block", 0, 0,
                tier->blocks_scattered ? 0 : nodes->in_use);
}

static bool check_totals(const struct dram_tier *tier, struct finding *finding)
{
    uint64_t free = ((uint64_t)tier->pages.free << tier->page_shift) + tier->splits.free;
    return same(finding, "free and allocated granules", 0, tier->granules_total,
                free + tier->granules_out) &&
           same(finding, "free bytes", 0, free * DRAM_GRANULE_BYTES, dram_bytes_free(tier)) &&
           same(finding, "blocks without granules", 0, tier->blocks == 0, tier->granules_out == 0);
}

bool dram_check(const struct dram_tier *tier)
{
    struct finding finding = {0};
    struct mutex *lock = (struct mutex *)&tier->lock; /* a lock is no part of what is const */
    mutex_lock(lock);
    bool good = check_pages(tier, &finding) && check_splits(tier, &finding) &&
                check_nodes(tier, &finding) && check_totals(tier, &finding);
    mutex_unlock(lock);
    if (!good) {
        log_error("dram_check_failed", "what=\"%s\" index=%llu expected=%llu found=%llu",
                  finding.what, (unsigned long long)finding.index,
                  (unsigned long long)finding.expected, (unsigned long long)finding.found);
    }
    return good;
}
