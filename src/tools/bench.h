/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of `umbp bench local` and `umbp bench pool`: what the store and the pool do, held
 * against what this machine can do in the same run.
 *
 *   bench_local.c    the list of benches and their order, the temporary directory, signals
 *   bench_report.c   series of samples, rows, the table, the JSON object
 *   bench_crew.c     threads that start together; raw copies by them
 *   bench_raw.c      raw direct I/O by io_uring
 *   bench_store.c    memory, keys and clients for the benches
 *   bench_set.c      a working set of values in the memory tier
 *   bench_<what>.c   the benches themselves
 *   bench_pool*.c    those of the pool: a master and nodes as child processes
 *
 * How a figure is made. What is measured and its limit take turns, a slice of work each (A, B, B,
 * A), so that a neighbour who slows the machine for a while slows both. Each turn gives one sample;
 * value and limit are medians, and the ratio is the median of the ratios of neighbouring samples.
 * While these are noisy there are further turns, up to four times as many; whether the bar is met
 * has no part in that.
 * The store is driven through the public API only; items and keys are made outside of the time that
 * is taken, and every status, and a stamp in every value that was read, is checked after it.
 *
 * Threads: all functions here are for the one thread that runs the benches.
 */
#ifndef TOOLS_BENCH_H
#define TOOLS_BENCH_H

#include <math.h>
#include <signal.h>

#include "base/base.h"
#include "tools/tools.h"

#define BENCH_REPEAT_MAX 64u
#define BENCH_ROWS_MAX 64u
#define BENCH_BATCH 128u    /* values or keys of one batch, by the yardstick of the project */
#define BENCH_KEY_BYTES 70u /* likewise */
#define BENCH_PATH_BYTES 4096u

/* ------------------------------------------------------------------- bench_report.c ------ */

struct bench_series {
    double samples[BENCH_REPEAT_MAX];
    size_t count;
};
void bench_series_add(struct bench_series *series, double sample); /* past the last: ignored */
double bench_series_median(const struct bench_series *series);     /* NaN when empty */

/* One thing that the machine can do, to hold a measured one against. */
struct bench_limit {
    const char *name;
    struct bench_series series;
};

enum bench_bar {
    BENCH_BAR_NONE,
    BENCH_BAR_RATIO_MIN, /* value / limit is at least `bar` */
    BENCH_BAR_RATIO_MAX,
    BENCH_BAR_VALUE_MIN,
    BENCH_BAR_VALUE_MAX,
};

struct bench_row {
    char name[48];    /* "batch.get.64KiB" */
    const char *unit; /* static */
    double value;
    const char *limit_name; /* static; NULL: none */
    double limit;           /* NaN: none */
    double ratio;           /* NaN: none */
    double noise;           /* half the distance between quartiles, as a share of the median */
    enum bench_bar bar_kind;
    double bar;
    bool is_skipped; /* `note` says why */
    char note[128];  /* "" for none */
};

/* ----------------------------------------------------------------------- the run ---------- */

/* Memory as the DRAM tier has it: 2 MiB-aligned, with huge pages where the system gives them, every
 * page touched. */
struct bench_arena {
    char *data;
    size_t bytes;
    void *map;
    size_t map_bytes;
};

struct bench_options {
    bool is_quick;
    bool is_json;
    bool is_strict;
    unsigned repeat; /* samples of each figure */
    uint64_t seed;
    const char *only; /* names, by commas; NULL: all */
};

struct bench_crew;
struct bench;

#define BENCH_KINDS_MAX 16u
struct bench_kind {
    const char *name;
    const char *summary;
    bool (*run)(struct bench *bench);
};
struct bench_suite {
    const char *name;
    const struct bench_kind *kinds;
    size_t count;
    bool needs_crew; /* else no thread runs, and its benches may fork */
};
extern const struct bench_suite bench_suite_local;
#ifdef UMBP_HAVE_FABRIC
extern const struct bench_suite bench_suite_pool;
#endif

struct bench {
    const struct bench_suite *suite;
    const volatile sig_atomic_t *stop; /* not 0: the user wants an end */
    void *rig;                         /* of a suite that has one */
    void (*rig_destroy)(void *rig);
    const struct tool_args *args;
    struct bench_options options;
    struct rng rng;
    uint64_t next_id;                      /* of keys: none comes twice in a run */
    unsigned threads;                      /* that share the copies of one batch */
    uint64_t dram_bytes;                   /* of the tier in the memory benches */
    uint64_t set_bytes;                    /* working set: half of it, so that nothing is evicted */
    uint64_t slice_bytes;                  /* of one sample, unless a batch is more */
    uint64_t ssd_bytes;                    /* 0: no benches of the SSD */
    char directory[BENCH_PATH_BYTES - 64]; /* the temporary one; "": not made yet */
    struct bench_crew *crew;               /* NULL: the suite needs none */
    struct bench_arena user; /* what an engine would own: set_bytes; made when first asked for */
    struct bench_arena pool; /* stands for the tier in raw copies; likewise */
    struct bench_row rows[BENCH_ROWS_MAX];
    size_t row_count;
    struct tool_progress progress;
};

/* The whole of `umbp bench SUITE`. */
enum tool_exit bench_run(const struct tool_args *args, const struct bench_suite *suite,
                         const struct bench_options *options);
/* `umbp bench SUITE --list`. */
void bench_print_list(const struct bench_suite *suite);

/* Says what is under way, now and then; false when the user wants an end. */
MUST_USE bool bench_goes_on(struct bench *bench, const char *what, size_t at, size_t of);
/* Says why the run can't go on. Always false. */
bool bench_fail(struct bench *bench, const char *format, ...) PRINTF_LIKE(2, 3);

/* ---- rows ---- */

void bench_row_name(struct bench_row *row, const char *format, ...) PRINTF_LIKE(2, 3);
void bench_row_note(struct bench_row *row, const char *format, ...) PRINTF_LIKE(2, 3);
/* Value, limit, ratio and noise from samples taken in turns; the best limit (by median) counts. */
void bench_row_hold(struct bench_row *row, const struct bench_series *measured,
                    const struct bench_limit *limits, size_t limit_count);
/* Whether there are samples enough: as many as were asked for, and up to four times as many while
 * the ratios (without a limit: the samples) are noisy. Not of --quick. */
MUST_USE bool bench_is_settled(const struct bench *bench, const struct bench_series *measured,
                               const struct bench_limit *limits, size_t limit_count);
/* How many rounds there will be at most, as far as is known in this one: for the progress line. */
size_t bench_rounds_known(const struct bench *bench, size_t round);
/* Value and noise, without a limit. */
void bench_row_take(struct bench_row *row, const struct bench_series *measured);
/* A plain number. */
void bench_row_set(struct bench_row *row, double value);
/* Keep it, and print it when the output is for people. */
void bench_row_add(struct bench *bench, const struct bench_row *row);
/* A row that could not be had here. */
void bench_row_skip(struct bench *bench, const char *name, const char *why);
/* "pass", "MISS", "" without a bar, "skipped". */
const char *bench_row_verdict(const struct bench_row *row);

void bench_print_head(const struct bench *bench);
void bench_print_foot(const struct bench *bench);
/* NULL when out of memory. */
json_t *bench_json(const struct bench *bench);
size_t bench_missed(const struct bench *bench);

/* ---------------------------------------------------------------------- bench_crew.c ------ */

/* Persistent threads, the caller being the first of them. */
MUST_USE enum umbp_status bench_crew_create(unsigned threads, struct bench_crew **crew_out);
void bench_crew_destroy(struct bench_crew *crew); /* takes NULL */
/* `work(context, 0 .. threads - 1)` at once; returns the nanoseconds from the moment when all were
 * awake to the end of the last. */
uint64_t bench_crew_run(struct bench_crew *crew, unsigned threads,
                        void (*work)(void *context, unsigned index), void *context);

enum bench_copy_way {
    BENCH_COPY_PLAIN,
    BENCH_COPY_STREAM,
    BENCH_COPY_WAYS,
};
extern const char *const bench_copy_names[BENCH_COPY_WAYS];

/* Copies number first .. first + count - 1 of blocks of `bytes` bytes; number i goes from block
 * from_order[i % blocks] to to_order[i % blocks]; NULL orders are i % blocks itself. */
struct bench_copy {
    char *to;
    const char *from;
    const uint32_t *to_order;
    const uint32_t *from_order;
    size_t bytes;
    size_t blocks;
    size_t first;
    size_t count;
};
/* The nanoseconds it took `threads` of the crew. */
uint64_t bench_copy_run(struct bench_crew *crew, unsigned threads, enum bench_copy_way way,
                        const struct bench_copy *copy);
/* A sample for both ways, in GB/s. */
void bench_copy_sample(struct bench *bench, unsigned threads, const struct bench_copy *copy,
                       struct bench_limit limits[BENCH_COPY_WAYS]);
void bench_copy_limits_init(struct bench_limit limits[BENCH_COPY_WAYS]);

/* Deals out 0 .. count - 1 to threads, in runs. */
struct bench_deal {
    _Atomic size_t next;
    size_t count;
    size_t run;
};
void bench_deal_init(struct bench_deal *deal, size_t count, size_t bytes_each);
bool bench_deal_take(struct bench_deal *deal, size_t *first_out, size_t *end_out);

/* ----------------------------------------------------------------------- bench_raw.c ------ */

/* A file of `bytes` bytes on the same file system, for raw direct I/O in pieces of 1 MiB, 16 in
 * flight, in order: what fio does with --rw=write --direct=1 --ioengine=io_uring --iodepth=16.
 * From and to `memory`, which is borrowed. */
struct bench_raw;
/* UMBP_UNSUPPORTED without io_uring or direct I/O. */
MUST_USE enum umbp_status bench_raw_create(const char *path, uint64_t bytes,
                                           const struct bench_arena *memory,
                                           struct bench_raw **raw_out);
void bench_raw_destroy(struct bench_raw *raw); /* takes NULL; removes the file */
/* Into a file made anew and set aside (fallocate) before the time is taken. */
MUST_USE enum umbp_status bench_raw_write(struct bench_raw *raw, uint64_t *ns_out);
/* Reads the files of `directory` (of a store, so that both read the same places of the disk). */
MUST_USE enum umbp_status bench_raw_read(struct bench_raw *raw, const char *directory,
                                         uint64_t *bytes_out, uint64_t *ns_out);

/* --------------------------------------------------------------------- bench_store.c ------ */

uint64_t bench_now_ns(void);
static inline double bench_gbps(uint64_t bytes, uint64_t ns)
{
    return ns == 0 ? 0.0 : (double)bytes / (double)ns;
}
static inline double bench_mops(uint64_t count, uint64_t ns)
{
    return ns == 0 ? 0.0 : (double)count * 1e3 / (double)ns;
}

MUST_USE bool bench_arena_map(size_t bytes, struct bench_arena *arena_out);
void bench_arena_destroy(struct bench_arena *arena);
/* bench->user, filled with noise, and bench->pool. */
MUST_USE bool bench_arenas(struct bench *bench);

/* 0 .. count - 1 in a seeded random order; NULL (told) when out of memory. mem_free. */
uint32_t *bench_shuffled(struct bench *bench, size_t count);

/* As SGLang names its pages: 64 hex digits, two ranks, k or v. */
void bench_key_make(uint64_t seed, uint64_t id, char text_out[BENCH_KEY_BYTES]);
struct bench_keys {
    char *text;
    struct umbp_key *keys;
    size_t count;
};
/* `count` keys that were not in use in this run. */
MUST_USE bool bench_keys_create(struct bench *bench, size_t count, struct bench_keys *keys_out);
void bench_keys_destroy(struct bench_keys *keys);
/* Others, that were not in use in this run, into the first `count`. */
void bench_keys_renew(struct bench *bench, struct bench_keys *keys, size_t count);

struct bench_store {
    uint64_t dram_bytes;
    const char *directory; /* NULL: no SSD tier */
    uint64_t ssd_bytes;
    bool is_single; /* one thread for copies: a call runs on its caller alone */
    bool is_frugal; /* nothing is promoted from the SSD */
    bool is_exact;  /* evicts what a put needs, and nothing ahead */
};
/* A client as the command line configures it, but for these. */
MUST_USE bool bench_store_create(struct bench *bench, const struct bench_store *store,
                                 struct umbp_client **client_out);
/* 0 when there is none of that name. */
uint64_t bench_stat(struct umbp_client *client, const char *name);
/* Resident bytes of this process. */
uint64_t bench_resident_bytes(void);

/* All statuses UMBP_OK, or the reason told. */
MUST_USE bool bench_check(struct bench *bench, const char *what, enum umbp_status status,
                          const enum umbp_status *statuses, size_t count);
/* Put keys 0 .. count - 1, the value of key i being block i % blocks of `from`. */
MUST_USE bool bench_fill(struct bench *bench, struct umbp_client *client,
                         const struct bench_keys *keys, size_t first, size_t count,
                         const char *from, size_t bytes, size_t blocks);

/* ---- bench_set.c: values of one size, as many as the working set holds ---- */

struct bench_set {
    struct bench *bench;
    struct umbp_client *client;   /* borrowed */
    size_t bytes;                 /* of a value */
    size_t count;                 /* of values */
    size_t batch;                 /* values of a batch: BENCH_BATCH, if there are so many */
    size_t slice;                 /* values of a sample: whole batches */
    size_t at;                    /* where the next slice begins; runs on for ever */
    size_t room;                  /* puts that still fit before the tier must be cleared */
    struct bench_keys keys;       /* of the whole set */
    struct bench_keys slice_keys; /* of the slice that was aimed last, in its order */
    uint32_t *order;              /* of the gets; number i goes to block i of bench->user */
    struct umbp_get_item *gets;   /* of one slice, as are the next two */
    struct umbp_put_item *puts;
    enum umbp_status *statuses;
};
MUST_USE bool bench_set_create(struct bench *bench, struct umbp_client *client, size_t bytes,
                               struct bench_set *set_out);
void bench_set_destroy(struct bench_set *set);
/* Put the whole set, each value with a stamp of its own. */
MUST_USE bool bench_set_fill(struct bench_set *set);
/* Items for the next slice of gets; after them, whether each came with the right bytes. */
void bench_set_aim_gets(struct bench_set *set);
MUST_USE bool bench_set_check_gets(struct bench_set *set);
/* Items for the next slice of puts, of keys never used; clears the tier when it has no room. */
MUST_USE bool bench_set_aim_puts(struct bench_set *set);
MUST_USE bool bench_set_check_puts(struct bench_set *set);
/* The raw copy that does what the slice does that was aimed last. */
struct bench_copy bench_set_raw_get(const struct bench_set *set);
struct bench_copy bench_set_raw_put(const struct bench_set *set);
/* The next slice. */
void bench_set_advance(struct bench_set *set);
/* "64KiB" */
const char *bench_size_text(size_t bytes, char text_out[24]);

/* Marks and checks a value by its first and last bytes (8 bytes and more). */
void bench_stamp(char *value, size_t bytes, uint64_t mark);
bool bench_is_stamped(const char *value, size_t bytes, uint64_t mark);

/* A path inside the temporary directory, which is made if need be. */
MUST_USE bool bench_path(struct bench *bench, const char *name, char path_out[BENCH_PATH_BYTES]);
/* Every file in a directory. */
void bench_visit_tree(const char *path, void (*visit)(const char *path));
/* Remove a directory of plain files. */
void bench_remove_tree(const char *path);
/* Let the file system settle, so that one turn does not pay for what the last one left. */
void bench_settle(const struct bench *bench);

/* ------------------------------------------------------------------------ benches -------- */

/* Each adds its rows; false when the run must end. */
MUST_USE bool bench_crc(struct bench *bench);
MUST_USE bool bench_batch(struct bench *bench);
MUST_USE bool bench_threads(struct bench *bench);
MUST_USE bool bench_small(struct bench *bench);
MUST_USE bool bench_index(struct bench *bench);
MUST_USE bool bench_latency(struct bench *bench);
MUST_USE bool bench_allocations(struct bench *bench);
MUST_USE bool bench_ssd(struct bench *bench);
MUST_USE bool bench_restart(struct bench *bench);
bool bench_fabric(struct bench *bench); /* only with libfabric; forks */

#endif
