/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Split pages: the granules of values below a page, and of large values' last parts.
 *
 * Each page has a slot for a bitmap of its granules, at a place computed from its number. The slots
 * are one mapping made at creation whose memory comes when a slot is first touched, so splitting a
 * page cannot fail, and costs what its bitmap has bytes. (64 KiB pages: 0.25 % of the pages that
 * were ever split.)
 *
 * Which page to take from. `longest` is an upper bound for a page's longest run of free granules.
 * Pages with free granules are in bins by `longest`: one bin for each length below 16, from there
 * eight to a doubling. An allocation takes the first page of the lowest bin that can hold it, which
 * is the page whose room fits best, so that pages fill up and others become whole again. The bound
 * is lazy: taking granules leaves it (or lowers it to what is free), giving raises it to the run
 * that was made, and a search through a page that finds no run of n lowers it to n - 1. So a page
 * is searched in vain at most once for what a free or a split has put there, and a few times in one
 * allocation at most; after that a fresh page is split.
 *
 * Within a page the first run that fits is taken. Runs that are multiples of 4 KiB prefer to begin
 * at one, as direct I/O likes it. That costs nothing: pages of 4 KiB values are filled entirely.
 *
 *   slot:   longest 3   sectors 1 0 1 1    (bit s: words of sector s may have free granules)
 *   words:  ..##.#.#  ########  #######.  ###...##       . free (1), # used (0)
 *
 * A bitmap has up to 64 sectors: words where pages have up to 256 KiB, several words above that. A
 * search skips empty sectors, and reads a bounded number of words; in pages above 4 MiB it may give
 * up on a page that has a run, and a fresh page is split, or the value is scattered, instead.
 */
#include "tier_dram/dram_priv.h"

/* Bounds on one allocation's search: words read, pages looked into, entries of the best bin. */
#define SEARCH_WORDS 1024u
#define SEARCH_PAGES 8u
#define SEARCH_BIN_ENTRIES 4u
/* How far a free looks for the ends of the run that it makes. */
#define MERGE_GRANULES 1024u

/* ---- bins ---- */

unsigned dram_split_bin(uint32_t longest)
{
    if (longest < 16) {
        return longest;
    }
    unsigned doubling = 31u - (unsigned)__builtin_clz(longest);
    return 16 + (doubling - 4) * 8 + ((longest >> (doubling - 3)) & 7);
}

void dram_splits_init(struct dram_splits *splits)
{
    _Static_assert(16 + (20 - 4) * 8 < DRAM_BINS, "64 MiB pages: 2^20 granules");
    for (unsigned i = 0; i < DRAM_BINS; i++) {
        splits->bins[i] = DRAM_NONE;
    }
}

static void bin_remove(struct dram_tier *tier, struct dram_split *slot)
{
    struct dram_splits *splits = &tier->splits;
    if (slot->bin < SPLIT_BIN) {
        return;
    }
    unsigned bin = slot->bin - SPLIT_BIN;
    if (slot->next != DRAM_NONE) {
        dram_split_of(tier, slot->next)->prev = slot->prev;
    }
    if (slot->prev != DRAM_NONE) {
        dram_split_of(tier, slot->prev)->next = slot->next;
    } else {
        splits->bins[bin] = slot->next;
    }
    if (splits->bins[bin] == DRAM_NONE) {
        splits->bins_used[bin / DRAM_WORD_BITS] &= ~(UINT64_C(1) << (bin % DRAM_WORD_BITS));
    }
    slot->bin = SPLIT_FULL;
}

/* Puts the page where its `free` and `longest` say. */
static void bin_update(struct dram_tier *tier, uint32_t page, struct dram_split *slot)
{
    struct dram_splits *splits = &tier->splits;
    unsigned bin = dram_split_bin(slot->longest);
    uint16_t wanted = slot->free ? (uint16_t)(SPLIT_BIN + bin) : SPLIT_FULL;
    if (slot->bin == wanted) {
        return;
    }
    bin_remove(tier, slot);
    slot->bin = wanted;
    if (wanted == SPLIT_FULL) {
        return;
    }
    slot->prev = DRAM_NONE;
    slot->next = splits->bins[bin];
    if (slot->next != DRAM_NONE) {
        dram_split_of(tier, slot->next)->prev = page;
    }
    splits->bins[bin] = page;
    splits->bins_used[bin / DRAM_WORD_BITS] |= UINT64_C(1) << (bin % DRAM_WORD_BITS);
}

/* The lowest used bin from `bin` up, or DRAM_BINS. */
static unsigned bin_at_least(const struct dram_splits *splits, unsigned bin)
{
    for (unsigned word = bin / DRAM_WORD_BITS; word < ARRAY_COUNT(splits->bins_used); word++) {
        uint64_t bits = splits->bins_used[word];
        if (word == bin / DRAM_WORD_BITS) {
            bits &= ~UINT64_C(0) << (bin % DRAM_WORD_BITS);
        }
        if (bits) {
            return word * DRAM_WORD_BITS + dram_bits_lowest(bits);
        }
    }
    return DRAM_BINS;
}

static unsigned bin_highest(const struct dram_splits *splits)
{
    for (unsigned word = ARRAY_COUNT(splits->bins_used); word-- > 0;) {
        if (splits->bins_used[word]) {
            return word * DRAM_WORD_BITS + DRAM_WORD_BITS - 1 -
                   (unsigned)__builtin_clzll(splits->bins_used[word]);
        }
    }
    return DRAM_BINS;
}

/* The page that fits best by its bound, or DRAM_NONE. */
static uint32_t bin_pick(const struct dram_tier *tier, uint32_t count)
{
    const struct dram_splits *splits = &tier->splits;
    unsigned bin = dram_split_bin(count);
    uint32_t page = splits->bins[bin];
    for (unsigned i = 0; i < SEARCH_BIN_ENTRIES && page != DRAM_NONE; i++) {
        const struct dram_split *slot = dram_split_of(tier, page);
        if (slot->longest >= count) {
            return page;
        }
        page = slot->next;
    }
    bin = bin_at_least(splits, bin + 1);
    return bin < DRAM_BINS ? splits->bins[bin] : DRAM_NONE;
}

/* ---- opening, taking, giving ---- */

void dram_split_open(struct dram_tier *tier, uint32_t page, uint32_t granules)
{
    struct dram_splits *splits = &tier->splits;
    struct dram_split *slot = dram_split_of(tier, page);
    ASSERT(slot->bin == SPLIT_NOT);
    memset(slot->words, 0, splits->words * sizeof(uint64_t));
    slot->sectors = 0;
    struct dram_span span = dram_span_of(0, granules);
    while (dram_span_next(&span)) {
        slot->words[span.word] = span.mask;
        slot->sectors |= UINT64_C(1) << (span.word / splits->sector_words);
    }
    slot->free = granules;
    slot->longest = granules;
    slot->hint = 0;
    slot->bin = SPLIT_FULL;
    splits->is_split[page / DRAM_WORD_BITS] |= UINT64_C(1) << (page % DRAM_WORD_BITS);
    splits->count++;
    splits->free += granules;
    bin_update(tier, page, slot);
}

void dram_split_take(struct dram_tier *tier, uint32_t page, uint32_t at, uint32_t count)
{
    struct dram_splits *splits = &tier->splits;
    struct dram_split *slot = dram_split_of(tier, page);
    ASSERT(slot->bin >= SPLIT_BIN && slot->free >= count);
    struct dram_span span = dram_span_of(at, count);
    while (dram_span_next(&span)) {
        uint64_t *word = &slot->words[span.word];
        ASSERT((*word & span.mask) == span.mask);
        *word &= ~span.mask;
        if (!*word && splits->sector_words == 1) {
            slot->sectors &= ~(UINT64_C(1) << span.word);
        }
    }
    slot->free -= count;
    splits->free -= count;
    if (slot->longest > slot->free) {
        slot->longest = slot->free;
    }
    bin_update(tier, page, slot);
}

/* The page is whole again. */
static void split_close(struct dram_tier *tier, uint32_t page, struct dram_split *slot)
{
    struct dram_splits *splits = &tier->splits;
    bin_remove(tier, slot);
    slot->bin = SPLIT_NOT;
    splits->is_split[page / DRAM_WORD_BITS] &= ~(UINT64_C(1) << (page % DRAM_WORD_BITS));
    splits->count--;
    splits->free -= slot->free;
    dram_pages_give(&tier->pages, page, 1);
}

void dram_split_give(struct dram_tier *tier, uint32_t page, uint32_t at, uint32_t count)
{
    struct dram_splits *splits = &tier->splits;
    struct dram_split *slot = dram_split_of(tier, page);
    ASSERT(slot->bin != SPLIT_NOT);
    ASSERT(page != splits->partial_page || at + count <= splits->partial_granules);
    struct dram_span span = dram_span_of(at, count);
    while (dram_span_next(&span)) {
        uint64_t *word = &slot->words[span.word];
        ASSERT(!(*word & span.mask));
        *word |= span.mask;
        slot->sectors |= UINT64_C(1) << (span.word / splits->sector_words);
    }
    slot->free += count;
    splits->free += count;
    if (slot->free == tier->page_granules) {
        split_close(tier, page, slot);
        return;
    }
    uint64_t right = dram_bits_run_right(slot->words, at + count,
                                         u64_min(MERGE_GRANULES, tier->page_granules - at - count));
    uint64_t left = dram_bits_run_left(slot->words, at, MERGE_GRANULES);
    uint32_t run = (uint32_t)(left + count + right);
    if (left == MERGE_GRANULES || right == MERGE_GRANULES) {
        run = slot->free; /* the ends were not reached: no run can be longer than this */
    }
    if (run > slot->longest) {
        slot->longest = run;
    }
    slot->hint = (uint16_t)(at / DRAM_WORD_BITS);
    bin_update(tier, page, slot);
}

/* ---- searching a page ---- */

struct scan {
    uint32_t count;
    bool aligned;   /* prefer a multiple of 4 KiB */
    uint64_t carry; /* ones at the end of what was read */
    uint64_t start; /* where they begin */
    uint32_t found; /* a run that fits, if not as preferred */
};

/* A run of carry ones from start on is known to fit. True when it is as preferred. */
static bool scan_accept(struct scan *scan)
{
    uint64_t at = scan->start;
    if (scan->aligned) {
        at = align_up(scan->start, DRAM_WORD_BITS);
        if (scan->start + scan->carry < at + scan->count) {
            if (scan->found == DRAM_NONE) {
                scan->found = (uint32_t)scan->start;
            }
            return false;
        }
    }
    scan->found = (uint32_t)at;
    return true;
}

/* The next word. True when the search is over, with scan->found. */
static bool scan_word(struct scan *scan, uint64_t word, uint64_t bits)
{
    unsigned low = dram_bits_low_ones(bits);
    if (low) {
        if (!scan->carry) {
            scan->start = word * DRAM_WORD_BITS;
        }
        scan->carry += low;
        if (scan->carry >= scan->count && scan_accept(scan)) {
            return true;
        }
        if (low == DRAM_WORD_BITS) {
            return false;
        }
    }
    if (scan->count < DRAM_WORD_BITS) {
        uint64_t runs = dram_bits_runs(bits, scan->count);
        if (runs) {
            scan->found = (uint32_t)(word * DRAM_WORD_BITS + dram_bits_lowest(runs));
            return true;
        }
    }
    scan->carry = dram_bits_high_ones(bits);
    scan->start = (word + 1) * DRAM_WORD_BITS - scan->carry;
    return false;
}

/* Scans the words from `first` on. True when the search is over: found, or out of budget. */
static bool scan_page(struct dram_tier *tier, struct dram_split *slot, uint32_t first,
                      uint32_t *budget, struct scan *scan)
{
    uint32_t sector_words = tier->splits.sector_words;
    uint64_t sectors = slot->sectors & (~UINT64_C(0) << (first / sector_words));
    uint32_t next_word = 0;
    scan->carry = 0;
    while (sectors) {
        unsigned sector = dram_bits_lowest(sectors);
        sectors &= sectors - 1;
        uint32_t word = sector * sector_words;
        uint64_t any = first > word; /* a sector read in part is not known to be empty */
        word = first > word ? first : word;
        if (word != next_word) {
            scan->carry = 0;
        }
        for (next_word = (sector + 1) * sector_words; word < next_word; word++) {
            slot->hint = (uint16_t)word;
            if (!*budget) {
                return true;
            }
            --*budget;
            tier->words_read++;
            any |= slot->words[word];
            if (scan_word(scan, word, slot->words[word])) {
                return true;
            }
        }
        if (!any) {
            slot->sectors &= ~(UINT64_C(1) << sector);
        }
    }
    return false;
}

bool dram_split_find(struct dram_tier *tier, uint32_t count, uint32_t *page_out, uint32_t *at_out)
{
    uint32_t budget = SEARCH_WORDS;
    for (unsigned tries = 0; tries < SEARCH_PAGES; tries++) {
        uint32_t page = bin_pick(tier, count);
        if (page == DRAM_NONE) {
            return false;
        }
        struct dram_split *slot = dram_split_of(tier, page);
        struct scan scan = {
            .count = count, .aligned = count % DRAM_WORD_BITS == 0, .found = DRAM_NONE};
        /* With long bitmaps, go on where something was last found or freed; then all of it, since
         * a run may reach across that place. */
        uint32_t hint = tier->splits.sector_words > 1 ? slot->hint : 0;
        bool over = scan_page(tier, slot, hint, &budget, &scan);
        if (!over && scan.found == DRAM_NONE && hint) {
            over = scan_page(tier, slot, 0, &budget, &scan);
        }
        if (scan.found != DRAM_NONE) {
            *page_out = page;
            *at_out = scan.found;
            return true;
        }
        if (over) {
            return false;
        }
        ASSERT(count > 1); /* a page in a bin has a free granule */
        slot->longest = count - 1;
        bin_update(tier, page, slot);
    }
    return false;
}

/* ---- scattered granules ---- */

static uint32_t first_free(struct dram_tier *tier, struct dram_split *slot)
{
    uint32_t sector_words = tier->splits.sector_words;
    while (slot->sectors) {
        unsigned sector = dram_bits_lowest(slot->sectors);
        for (uint32_t i = 0; i < sector_words; i++) {
            uint32_t word = sector * sector_words + i;
            tier->words_read++;
            if (slot->words[word]) {
                return word * DRAM_WORD_BITS + dram_bits_lowest(slot->words[word]);
            }
        }
        slot->sectors &= slot->sectors - 1;
    }
    return DRAM_NONE;
}

enum umbp_status dram_split_scatter(struct dram_tier *tier, uint64_t count, struct dram_list *list)
{
    while (count) {
        unsigned bin = bin_highest(&tier->splits);
        ASSERT(bin < DRAM_BINS);
        uint32_t page = tier->splits.bins[bin];
        struct dram_split *slot = dram_split_of(tier, page);
        uint32_t at = first_free(tier, slot);
        ASSERT(at != DRAM_NONE);
        uint32_t run = (uint32_t)dram_bits_run_right(slot->words, at,
                                                     u64_min(count, tier->page_granules - at));
        enum umbp_status status =
            dram_list_add(&tier->nodes, list, ((uint64_t)page << tier->page_shift) + at, run);
        if (status != UMBP_OK) {
            return status;
        }
        dram_split_take(tier, page, at, run);
        count -= run;
    }
    return UMBP_OK;
}

uint32_t dram_split_longest(const struct dram_tier *tier, uint32_t page)
{
    const struct dram_split *slot = dram_split_of(tier, page);
    uint32_t longest = 0;
    for (uint32_t at = 0; at < tier->page_granules;) {
        uint32_t run = (uint32_t)dram_bits_run_right(slot->words, at, tier->page_granules - at);
        if (run > longest) {
            longest = run;
        }
        at += run + 1;
    }
    return longest;
}
