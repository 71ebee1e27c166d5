/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the tier finds room.
 *
 *   granules  64 bytes each; a block is a number of them
 *   pages     a power of two of granules (64 KiB: 1,024); whole, split, or in use by one block
 *
 *   page number     0        1        2        3        4        5        6
 *               +--------+--------+--------+--------+--------+--------+- - - -
 *               | value A spans 2.3 pages  |  free  | value  | split: | free
 *               |        |        |##..#...|        | B      |#.##...#|
 *               +--------+--------+--------+--------+--------+--------+- - - -
 *   free pages      0        0        0        1        0        0        1     levels[0]
 *   is_split        0        0        1        0        0        1        0
 *   slot                          bitmap of                  bitmap of
 *                               1,024 granules             1,024 granules       dram_split.c
 *
 * A page is in exactly one state: free (its bit is set), split (its granules are in its own
 * bitmap), or in use as a whole (neither). So the free granules are those of the free pages and
 * those in the split pages' bitmaps, each can be taken alone, and an allocation succeeds exactly
 * when there are enough of them (dram_tier.c has the order in which it tries).
 *
 * Any free page. levels[1] has a bit for each word of levels[0] that is not zero, levels[2] one for
 * each word of levels[1], and so on up to a single word. From any page the next free one is at most
 * one climb and one descent away: six levels for 2^31 pages, however full the tier is.
 *
 * A run of pages. What was freed last is tried first: freed runs are remembered in a small ring, so
 * that the steady state of a cache (evict 1 MiB, put 1 MiB) takes the run just freed with one look,
 * and its memory is the likeliest to be in a cache still. The ring holds hints; the bitmap decides.
 * Otherwise the search goes on where the last one ended (next fit), over a bounded number of words,
 * a word at a time: dram_bits_runs tells in log2(n) steps whether a word holds a run of n, and a
 * carry joins the ones at the end of a word with those at the start of the next.
 *
 * Sweeps. In a tier that is nearly full of small things there is no long run, and to look for one
 * at each allocation would cost the whole bound each time. So failures are added up: when searches
 * for at most n pages have failed all around the bitmap, no run of n is there, except if a free has
 * made one since the sweep began. longest_bound keeps that, frees raise it to the length of the run
 * they make, and a search for more than it is not begun. Hence a full tier pays for one sweep, and
 * then nothing until a run appears.
 *
 * Buffers. The page numbers of two buffers are separated by at least one that is never free.
 */
#include "tier_dram/dram_priv.h"

/* Words that one search may look at, before an allowance for runs that span many words. 8,192
 * pages; about a quarter of a microsecond. */
#define SEARCH_WORDS 128u
/* How far a free looks for the ends of the run it makes. Longer ones count as endless. */
#define MERGE_PAGES 256u

void dram_pages_init(struct dram_pages *pages) { pages->longest_bound = UINT32_MAX; }

/* ---- the bitmap and its levels ---- */

static void word_became_used(struct dram_pages *pages, uint64_t word)
{
    for (uint32_t level = 1; level < pages->level_count; level++) {
        uint64_t *above = &pages->levels[level][word / DRAM_WORD_BITS];
        *above &= ~(UINT64_C(1) << (word % DRAM_WORD_BITS));
        if (*above) {
            return;
        }
        word /= DRAM_WORD_BITS;
    }
}

static void word_became_free(struct dram_pages *pages, uint64_t word)
{
    for (uint32_t level = 1; level < pages->level_count; level++) {
        uint64_t *above = &pages->levels[level][word / DRAM_WORD_BITS];
        uint64_t before = *above;
        *above |= UINT64_C(1) << (word % DRAM_WORD_BITS);
        if (before) {
            return;
        }
        word /= DRAM_WORD_BITS;
    }
}

static uint32_t buffer_of(const struct dram_pages *pages, uint32_t page)
{
    return pages->buffer_count > 1 ? page / pages->stride : 0;
}

void dram_pages_take(struct dram_pages *pages, uint32_t page, uint32_t count)
{
    struct dram_span span = dram_span_of(page, count);
    while (dram_span_next(&span)) {
        uint64_t *word = &pages->levels[0][span.word];
        ASSERT((*word & span.mask) == span.mask);
        *word &= ~span.mask;
        if (!*word) {
            word_became_used(pages, span.word);
        }
    }
    pages->free -= count;
    pages->buffer_free[buffer_of(pages, page)] -= count;
}

/* The run of free pages that [page, page + count) is now part of, for the sweep. */
static void note_freed_run(struct dram_pages *pages, uint32_t page, uint32_t count)
{
    const uint64_t *words = pages->levels[0];
    uint64_t right_room = pages->index_end - (page + count);
    uint64_t left = dram_bits_run_left(words, page, MERGE_PAGES);
    uint64_t right = dram_bits_run_right(words, page + count, u64_min(MERGE_PAGES, right_room));
    uint32_t run = (uint32_t)(left + count + right);
    if (left == MERGE_PAGES || right == MERGE_PAGES) {
        run = UINT32_MAX;
    }
    if (run > pages->longest_bound) {
        pages->longest_bound = run;
    }
    if (run > pages->sweep_freed) {
        pages->sweep_freed = run;
    }
}

static void remember_run(struct dram_pages *pages, uint32_t page, uint32_t count)
{
    struct dram_run *newest = &pages->recent[(pages->recent_top - 1) % DRAM_RECENT_RUNS];
    if (newest->count && newest->page + newest->count == page) {
        newest->count += count;
    } else if (newest->count && page + count == newest->page) {
        newest->page = page;
        newest->count += count;
    } else {
        pages->recent[pages->recent_top++ % DRAM_RECENT_RUNS] =
            (struct dram_run){.page = page, .count = count};
    }
}

void dram_pages_give(struct dram_pages *pages, uint32_t page, uint32_t count)
{
    struct dram_span span = dram_span_of(page, count);
    while (dram_span_next(&span)) {
        uint64_t *word = &pages->levels[0][span.word];
        ASSERT(!(*word & span.mask));
        if (!*word) {
            word_became_free(pages, span.word);
        }
        *word |= span.mask;
    }
    pages->free += count;
    pages->buffer_free[buffer_of(pages, page)] += count;
    note_freed_run(pages, page, count);
    remember_run(pages, page, count);
}

/* The first free page in [from, end), or DRAM_NONE. */
static uint32_t next_free(struct dram_tier *tier, uint32_t from, uint32_t end)
{
    const struct dram_pages *pages = &tier->pages;
    uint64_t at = from;
    if (from >= end) {
        return DRAM_NONE;
    }
    for (uint32_t level = 0; level < pages->level_count; level++) {
        uint64_t word = at / DRAM_WORD_BITS;
        if (word >= pages->level_words[level]) {
            return DRAM_NONE;
        }
        tier->words_read++;
        uint64_t bits = pages->levels[level][word] >> (at % DRAM_WORD_BITS);
        if (!bits) {
            at = word + 1;
            continue;
        }
        at += dram_bits_lowest(bits);
        while (level-- > 0) {
            tier->words_read++;
            at = at * DRAM_WORD_BITS + dram_bits_lowest(pages->levels[level][at]);
        }
        return at < end ? (uint32_t)at : DRAM_NONE;
    }
    return DRAM_NONE;
}

/* ---- runs ---- */

struct search {
    uint32_t count;
    uint32_t tail;
    uint32_t found; /* a run, DRAM_NONE before one is found */
    bool tail_fits; /* after that run */
};

static bool tail_fits(const struct dram_tier *tier, uint32_t page, uint32_t tail)
{
    if (page >= tier->pages.index_end) {
        return false;
    }
    if (dram_bits_get(tier->pages.levels[0], page)) {
        return true;
    }
    return dram_bits_get(tier->splits.is_split, page) &&
           dram_bits_all(dram_split_of(tier, page)->words, 0, tail);
}

/* Considers a run. True when none can be better. */
static bool accept(const struct dram_tier *tier, struct search *search, uint32_t page)
{
    if (!search->tail) {
        search->found = page;
        return true;
    }
    if (tail_fits(tier, page + search->count, search->tail)) {
        search->found = page;
        search->tail_fits = true;
        return true;
    }
    if (search->found == DRAM_NONE) {
        search->found = page;
    }
    return false;
}

static bool search_recent(struct dram_tier *tier, struct search *search)
{
    struct dram_pages *pages = &tier->pages;
    struct dram_run *best = NULL;
    for (uint32_t i = 1; i <= DRAM_RECENT_RUNS; i++) {
        struct dram_run *run = &pages->recent[(pages->recent_top - i) % DRAM_RECENT_RUNS];
        if (run->count < search->count || (best && run->count >= best->count)) {
            continue;
        }
        tier->words_read += search->count / DRAM_WORD_BITS + 1;
        if (!dram_bits_all(pages->levels[0], run->page, search->count)) {
            run->count = 0;
            continue;
        }
        if (search->tail && !tail_fits(tier, run->page + search->count, search->tail)) {
            continue;
        }
        best = run;
        if (run->count == search->count) {
            break;
        }
    }
    if (!best) {
        return false;
    }
    search->found = best->page;
    search->tail_fits = search->tail > 0;
    best->page += search->count;
    best->count -= search->count;
    if (!best->count && best == &pages->recent[(pages->recent_top - 1) % DRAM_RECENT_RUNS]) {
        pages->recent_top--;
    }
    return true;
}

/* Searches words [*word, end) and at most `budget` of them. True when found. Leaves in *word where
 * the next search must begin so that no run is missed. */
static bool search_words(struct dram_tier *tier, struct search *search, uint64_t *word,
                         uint64_t end, uint64_t *budget)
{
    const struct dram_pages *pages = &tier->pages;
    uint64_t carry = 0;
    uint64_t start = 0;
    uint64_t at = *word;
    while (at < end && *budget) {
        uint64_t bits = pages->levels[0][at];
        tier->words_read++;
        --*budget;
        if (!bits) {
            carry = 0;
            uint32_t page = next_free(tier, (uint32_t)((at + 1) * DRAM_WORD_BITS),
                                      (uint32_t)u64_min(end * DRAM_WORD_BITS, pages->index_end));
            at = page == DRAM_NONE ? end : page / DRAM_WORD_BITS;
            continue;
        }
        unsigned low = dram_bits_low_ones(bits);
        if (low) {
            if (!carry) {
                start = at * DRAM_WORD_BITS;
            }
            carry += low;
            if (carry >= search->count && accept(tier, search, (uint32_t)start)) {
                return true;
            }
        }
        if (low < DRAM_WORD_BITS) {
            /* Runs inside the word. One at its low end that begins here was just looked at. */
            uint64_t runs = 0;
            if (search->count < DRAM_WORD_BITS) {
                runs = dram_bits_runs(bits, search->count);
            }
            for (; runs && *budget; runs &= runs - 1, --*budget) {
                if (accept(tier, search,
                           (uint32_t)(at * DRAM_WORD_BITS + dram_bits_lowest(runs)))) {
                    return true;
                }
            }
            carry = dram_bits_high_ones(bits);
            start = (at + 1) * DRAM_WORD_BITS - carry;
        }
        at++;
    }
    /* A run that is still open is looked at again from its first word. (If that is where this
     * began, the budget was a remainder; a full one is more than any such run needs.) */
    if (carry && at < end) {
        at = start / DRAM_WORD_BITS;
    }
    *word = at;
    return search->found != DRAM_NONE;
}

/* A search for search->count pages failed over `words` words. */
static void note_failure(struct dram_pages *pages, uint32_t count, uint64_t words)
{
    pages->sweep_words += words;
    if (count > pages->sweep_longest) {
        pages->sweep_longest = count;
    }
    if (pages->sweep_words < pages->level_words[0]) {
        return;
    }
    uint32_t bound = pages->sweep_longest - 1;
    if (pages->sweep_freed > bound) {
        bound = pages->sweep_freed;
    }
    if (bound < pages->longest_bound) {
        pages->longest_bound = bound;
    }
    pages->sweep_words = 0;
    pages->sweep_longest = 0;
    pages->sweep_freed = 0;
}

static bool search_next_fit(struct dram_tier *tier, struct search *search)
{
    struct dram_pages *pages = &tier->pages;
    if (search->count > pages->longest_bound) {
        return false;
    }
    uint64_t words = pages->level_words[0];
    uint64_t budget = SEARCH_WORDS + search->count / (DRAM_WORD_BITS / 2);
    uint64_t word = pages->run_cursor / DRAM_WORD_BITS;
    uint64_t covered = 0;
    bool found = false;
    while (!found && budget && covered < words) {
        uint64_t from = word;
        found = search_words(tier, search, &word, words, &budget);
        covered += word - from;
        if (word == words) {
            word = 0;
        } else if (word == from) {
            break;
        }
    }
    if (!found) {
        pages->run_cursor = (uint32_t)(word * DRAM_WORD_BITS);
        note_failure(pages, search->count, covered);
        return false;
    }
    pages->run_cursor = search->found + search->count;
    if (pages->run_cursor >= pages->index_end) {
        pages->run_cursor = 0;
    }
    pages->sweep_words = 0;
    pages->sweep_longest = 0;
    pages->sweep_freed = 0;
    return true;
}

bool dram_pages_find_run(struct dram_tier *tier, uint32_t count, uint32_t tail, uint32_t *page_out,
                         bool *tail_fits_out)
{
    struct search search = {.count = count, .tail = tail, .found = DRAM_NONE};
    if (count == 1 && !tail) {
        search.found = dram_pages_find_one(tier);
    } else if (!search_recent(tier, &search) && !search_next_fit(tier, &search)) {
        return false;
    }
    *page_out = search.found;
    *tail_fits_out = search.tail_fits;
    return true;
}

uint32_t dram_pages_find_one(struct dram_tier *tier)
{
    struct search search = {.count = 1, .found = DRAM_NONE};
    struct dram_pages *pages = &tier->pages;
    if (search_recent(tier, &search)) {
        return search.found;
    }
    uint32_t page = next_free(tier, pages->cursor, pages->index_end);
    if (page == DRAM_NONE) {
        page = next_free(tier, 0, pages->index_end);
    }
    ASSERT(page != DRAM_NONE);
    pages->cursor = page + 1 < pages->index_end ? page + 1 : 0;
    return page;
}

/* ---- scattered pages ---- */

static enum umbp_status take_into(struct dram_tier *tier, uint32_t page, uint32_t count,
                                  struct dram_list *list)
{
    enum umbp_status status = dram_list_add(&tier->nodes, list, (uint64_t)page << tier->page_shift,
                                            count << tier->page_shift);
    if (status == UMBP_OK) {
        dram_pages_take(&tier->pages, page, count);
    }
    return status;
}

/* Takes up to *left free pages in [from, end), in order. */
static enum umbp_status scatter_range(struct dram_tier *tier, uint32_t from, uint32_t end,
                                      uint32_t *left, struct dram_list *list)
{
    while (*left) {
        uint32_t page = next_free(tier, from, end);
        if (page == DRAM_NONE) {
            return UMBP_OK;
        }
        uint32_t run =
            (uint32_t)dram_bits_run_right(tier->pages.levels[0], page, u64_min(*left, end - page));
        enum umbp_status status = take_into(tier, page, run, list);
        if (status != UMBP_OK) {
            return status;
        }
        *left -= run;
        from = page + run;
        tier->pages.cursor = from < tier->pages.index_end ? from : 0;
    }
    return UMBP_OK;
}

/* Takes what is left of the runs freed last, in one buffer if `buffer` is one: pages that one value
 * had are then one value's again, instead of being strewn ever wider. */
static enum umbp_status scatter_recent(struct dram_tier *tier, uint32_t buffer, uint32_t *left,
                                       struct dram_list *list)
{
    struct dram_pages *pages = &tier->pages;
    for (uint32_t i = 1; i <= DRAM_RECENT_RUNS && *left; i++) {
        struct dram_run *run = &pages->recent[(pages->recent_top - i) % DRAM_RECENT_RUNS];
        if (!run->count || (buffer != DRAM_NONE && buffer_of(pages, run->page) != buffer)) {
            continue;
        }
        uint32_t free =
            (uint32_t)dram_bits_run_right(pages->levels[0], run->page, u64_min(*left, run->count));
        tier->words_read++;
        if (!free) {
            run->count = 0;
            continue;
        }
        enum umbp_status status = take_into(tier, run->page, free, list);
        if (status != UMBP_OK) {
            return status;
        }
        *left -= free;
        run->page += free;
        run->count -= free;
    }
    return UMBP_OK;
}

/* The buffer to scatter in: where the search stands, else the emptiest, else none that suffices. */
static uint32_t buffer_with(const struct dram_pages *pages, uint32_t count)
{
    uint32_t best = buffer_of(pages, pages->cursor);
    if (pages->buffer_free[best] >= count) {
        return best;
    }
    for (uint32_t i = 0; i < pages->buffer_count; i++) {
        if (pages->buffer_free[i] > pages->buffer_free[best]) {
            best = i;
        }
    }
    return pages->buffer_free[best] >= count ? best : DRAM_NONE;
}

enum umbp_status dram_pages_scatter(struct dram_tier *tier, uint32_t count, struct dram_list *list)
{
    struct dram_pages *pages = &tier->pages;
    uint32_t buffer = buffer_with(pages, count);
    uint32_t begin = buffer == DRAM_NONE ? 0 : buffer * pages->stride;
    uint32_t end = pages->index_end;
    if (buffer != DRAM_NONE) {
        end = (uint32_t)u64_min(end, (uint64_t)begin + pages->stride);
    }

    uint32_t left = count;
    enum umbp_status status = scatter_recent(tier, buffer, &left, list);
    uint32_t from = pages->cursor >= begin && pages->cursor < end ? pages->cursor : begin;
    if (status == UMBP_OK) {
        status = scatter_range(tier, from, end, &left, list);
    }
    if (status == UMBP_OK) {
        status = scatter_range(tier, begin, from, &left, list);
    }
    ASSERT(status != UMBP_OK || !left);
    return status;
}
