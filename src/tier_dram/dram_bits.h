/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Words of bits, for this room only. A set bit is a free page or a free granule. All indices are
 * bit numbers; the caller keeps them inside the array.
 */
#ifndef TIER_DRAM_DRAM_BITS_H
#define TIER_DRAM_DRAM_BITS_H

#include "base/base.h"

#define DRAM_WORD_BITS 64u

/* `count` (1..64) ones from bit `from` up. */
static inline uint64_t dram_bits_mask(unsigned from, unsigned count)
{
    return (~UINT64_C(0) >> (DRAM_WORD_BITS - count)) << from;
}

static inline unsigned dram_bits_lowest(uint64_t word) { return (unsigned)__builtin_ctzll(word); }

static inline unsigned dram_bits_count(uint64_t word)
{
    return (unsigned)__builtin_popcountll(word);
}

/* How many ones the word has at its low end and at its high end. */
static inline unsigned dram_bits_low_ones(uint64_t word)
{
    return ~word ? (unsigned)__builtin_ctzll(~word) : DRAM_WORD_BITS;
}

static inline unsigned dram_bits_high_ones(uint64_t word)
{
    return ~word ? (unsigned)__builtin_clzll(~word) : DRAM_WORD_BITS;
}

static inline bool dram_bits_get(const uint64_t *words, uint64_t index)
{
    return words[index / DRAM_WORD_BITS] >> (index % DRAM_WORD_BITS) & 1;
}

/* The bits from which on `count` (1..64) ones lie inside the word. Doubles the span it has proved,
 * so it takes log2(count) steps; most words of a full tier are out after the first. */
static inline uint64_t dram_bits_runs(uint64_t word, unsigned count)
{
    unsigned proved = 1;
    while (proved < count && word) {
        unsigned step = proved < count - proved ? proved : count - proved;
        word &= word >> step;
        proved += step;
    }
    return word;
}

/* Ones in a row from `from` up, looking no further than `limit` bits. */
static inline uint64_t dram_bits_run_right(const uint64_t *words, uint64_t from, uint64_t limit)
{
    uint64_t run = 0;
    while (run < limit) {
        uint64_t at = from + run;
        unsigned room = DRAM_WORD_BITS - (unsigned)(at % DRAM_WORD_BITS);
        unsigned ones = dram_bits_low_ones(words[at / DRAM_WORD_BITS] >> (at % DRAM_WORD_BITS));
        if (ones < room) {
            return u64_min(run + ones, limit);
        }
        run += room;
    }
    return limit;
}

/* Ones in a row that end just before `end`, looking no further than `limit` bits, nor below 0. */
static inline uint64_t dram_bits_run_left(const uint64_t *words, uint64_t end, uint64_t limit)
{
    uint64_t run = 0;
    limit = u64_min(limit, end);
    while (run < limit) {
        uint64_t at = end - run - 1;
        unsigned room = (unsigned)(at % DRAM_WORD_BITS) + 1;
        unsigned ones = dram_bits_high_ones(words[at / DRAM_WORD_BITS] << (DRAM_WORD_BITS - room));
        if (ones < room) {
            return u64_min(run + ones, limit);
        }
        run += room;
    }
    return limit;
}

/* A stretch of bits, word by word: for (span = ...; dram_span_next(&span);) use word and mask. */
struct dram_span {
    uint64_t at;
    uint64_t end;
    uint64_t word; /* index of the current word */
    uint64_t mask; /* of the stretch's bits in it */
};

static inline struct dram_span dram_span_of(uint64_t start, uint64_t count)
{
    return (struct dram_span){.at = start, .end = start + count};
}

static inline bool dram_span_next(struct dram_span *span)
{
    if (span->at >= span->end) {
        return false;
    }
    unsigned from = (unsigned)(span->at % DRAM_WORD_BITS);
    unsigned count = (unsigned)u64_min(span->end - span->at, DRAM_WORD_BITS - from);
    span->word = span->at / DRAM_WORD_BITS;
    span->mask = dram_bits_mask(from, count);
    span->at += count;
    return true;
}

static inline bool dram_bits_all(const uint64_t *words, uint64_t start, uint64_t count)
{
    struct dram_span span = dram_span_of(start, count);
    while (dram_span_next(&span)) {
        if ((words[span.word] & span.mask) != span.mask) {
            return false;
        }
    }
    return true;
}

/* The first one in [from, end), or `end`. */
static inline uint64_t dram_bits_next(const uint64_t *words, uint64_t from, uint64_t end)
{
    struct dram_span span = dram_span_of(from, end > from ? end - from : 0);
    while (dram_span_next(&span)) {
        if (words[span.word] & span.mask) {
            return span.word * DRAM_WORD_BITS + dram_bits_lowest(words[span.word] & span.mask);
        }
    }
    return end;
}

#endif
