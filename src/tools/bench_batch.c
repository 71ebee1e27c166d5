/* SPDX-License-Identifier: Apache-2.0 */
/* Batches from and into the memory tier, by all copy threads; and two callers against one. */
#include "tools/bench.h"

static const size_t value_sizes[] = {64 << 10, 256 << 10, 1 << 20, 4 << 20};

/* ------------------------------------------------------------------------ batches -------- */

static uint64_t run_batches(struct bench_set *set, bool is_put)
{
    uint64_t start_ns = bench_now_ns();
    for (size_t at = 0; at < set->slice; at += set->batch) {
        size_t part = size_min(set->batch, set->slice - at);
        enum umbp_status status =
            is_put ? umbp_batch_put(set->client, set->puts + at, part, set->statuses + at)
                   : umbp_batch_get(set->client, set->gets + at, part, set->statuses + at);
        (void)status; /* when it is not UMBP_OK, each item's status is the same */
    }
    return bench_now_ns() - start_ns;
}

static bool sample_batches(struct bench_set *set, bool is_put, struct bench_series *measured)
{
    if (is_put && !bench_set_aim_puts(set)) {
        return false;
    }
    if (!is_put) {
        bench_set_aim_gets(set);
    }
    uint64_t ns = run_batches(set, is_put);
    bench_series_add(measured, bench_gbps((uint64_t)set->slice * set->bytes, ns));
    return is_put ? bench_set_check_puts(set) : bench_set_check_gets(set);
}

static void sample_raw(struct bench_set *set, bool is_put, struct bench_limit *limits)
{
    struct bench_copy raw = is_put ? bench_set_raw_put(set) : bench_set_raw_get(set);
    bench_copy_sample(set->bench, set->bench->threads, &raw, limits);
}

/* A slice of the store and one of each raw way, each first in turn. The first round warms up. */
static bool batch_row(struct bench *bench, struct bench_set *set, bool is_put)
{
    struct bench_row row = {.unit = "GB/s", .bar_kind = BENCH_BAR_RATIO_MIN};
    struct bench_series measured = {.count = 0};
    struct bench_limit limits[BENCH_COPY_WAYS];
    char size[24];

    bench_row_name(&row, "batch.%s.%s", is_put ? "put" : "get", bench_size_text(set->bytes, size));
    row.bar = set->bytes >= 256 * KIB ? 0.90 : 0.80;
    bench_copy_limits_init(limits);
    for (unsigned round = 0;
         round <= 1 || !bench_is_settled(bench, &measured, limits, BENCH_COPY_WAYS); round++) {
        if (!bench_goes_on(bench, row.name, round, bench_rounds_known(bench, round))) {
            return false;
        }
        if (round == 1) { /* what came before was warming up */
            measured.count = 0;
            bench_copy_limits_init(limits);
        }
        if (round % 2) {
            sample_raw(set, is_put, limits);
        }
        if (!sample_batches(set, is_put, &measured)) {
            return false;
        }
        if (round % 2 == 0) {
            sample_raw(set, is_put, limits);
        }
        bench_set_advance(set);
    }
    bench_row_hold(&row, &measured, limits, BENCH_COPY_WAYS);
    bench_row_add(bench, &row);
    return true;
}

static bool batch_size(struct bench *bench, struct umbp_client *client, size_t bytes)
{
    struct bench_set set;
    if (!bench_set_create(bench, client, bytes, &set)) {
        return false;
    }
    bool goes_on =
        bench_set_fill(&set) && batch_row(bench, &set, false) && batch_row(bench, &set, true);
    bench_set_destroy(&set);
    return goes_on;
}

static bool for_each_size(struct bench *bench, bool is_single,
                          bool (*run)(struct bench *, struct umbp_client *, size_t))
{
    struct bench_store store = {.dram_bytes = bench->dram_bytes, .is_single = is_single};
    struct umbp_client *client;
    if (!bench_store_create(bench, &store, &client)) {
        return false;
    }
    bool goes_on = true;
    for (size_t i = 0; goes_on && i < ARRAY_COUNT(value_sizes); i++) {
        if (value_sizes[i] * 4 <= bench->set_bytes) {
            goes_on = run(bench, client, value_sizes[i]);
        }
    }
    umbp_client_destroy(client);
    return goes_on;
}

bool bench_batch(struct bench *bench) { return for_each_size(bench, false, batch_size); }

/* ------------------------------------------------------------------------ threads -------- */

struct single_work {
    struct bench_set *set;
    bool is_put;
    struct bench_deal deal;
};

static void run_singles(void *context, unsigned index)
{
    struct single_work *work = context;
    struct bench_set *set = work->set;
    size_t first, end;

    (void)index;
    while (bench_deal_take(&work->deal, &first, &end)) {
        for (size_t i = first; i < end; i++) {
            const struct umbp_put_item *put = &set->puts[i];
            const struct umbp_get_item *get = &set->gets[i];
            set->statuses[i] =
                work->is_put ? umbp_put(set->client, put->key, put->data, put->bytes, put->depth)
                             : umbp_get(set->client, get->key, get->data, get->bytes);
        }
    }
}

/* A slice of single calls by so many threads, in GB/s into *rate_out. */
static bool sample_singles(struct bench_set *set, bool is_put, unsigned threads, double *rate_out)
{
    struct single_work work = {.set = set, .is_put = is_put};
    if (is_put && !bench_set_aim_puts(set)) {
        return false;
    }
    if (!is_put) {
        bench_set_aim_gets(set);
    }
    bench_deal_init(&work.deal, set->slice, set->bytes);
    uint64_t ns = bench_crew_run(set->bench->crew, threads, run_singles, &work);
    *rate_out = bench_gbps((uint64_t)set->slice * set->bytes, ns);
    return is_put ? bench_set_check_puts(set) : bench_set_check_gets(set);
}

/* What a second thread brings, for the store and for each raw way. */
struct speedups {
    struct bench_series store;
    struct bench_series store_rate; /* of one thread */
    struct bench_limit raw[BENCH_COPY_WAYS];
    struct bench_series raw_rate[BENCH_COPY_WAYS]; /* of two */
};

static bool sample_speedups(struct bench_set *set, bool is_put, struct speedups *speedups)
{
    struct bench *bench = set->bench;
    double one = 0;
    double two = 0;
    if (!sample_singles(set, is_put, 1, &one) || !sample_singles(set, is_put, 2, &two)) {
        return false;
    }
    bench_series_add(&speedups->store, two / one);
    bench_series_add(&speedups->store_rate, one);
    struct bench_copy raw = is_put ? bench_set_raw_put(set) : bench_set_raw_get(set);
    uint64_t bytes = (uint64_t)raw.count * raw.bytes;
    for (unsigned way = 0; way < BENCH_COPY_WAYS; way++) {
        uint64_t one_ns = bench_copy_run(bench->crew, 1, (enum bench_copy_way)way, &raw);
        uint64_t two_ns = bench_copy_run(bench->crew, 2, (enum bench_copy_way)way, &raw);
        bench_series_add(&speedups->raw[way].series, (double)one_ns / (double)two_ns);
        bench_series_add(&speedups->raw_rate[way], bench_gbps(bytes, two_ns));
    }
    bench_set_advance(set);
    return true;
}

static bool threads_row(struct bench *bench, struct bench_set *set, bool is_put)
{
    struct bench_row row = {.unit = "x", .bar_kind = BENCH_BAR_RATIO_MIN, .bar = 0.90};
    struct speedups speedups;
    char size[24];

    bench_row_name(&row, "threads.%s.%s", is_put ? "put" : "get",
                   bench_size_text(set->bytes, size));
    for (unsigned round = 0;
         round <= 1 || !bench_is_settled(bench, &speedups.store, speedups.raw, BENCH_COPY_WAYS);
         round++) {
        if (round <= 1) { /* the first round only warms up */
            speedups = (struct speedups){.store = {.count = 0}};
            bench_copy_limits_init(speedups.raw);
        }
        if (!bench_goes_on(bench, row.name, round, bench_rounds_known(bench, round)) ||
            !sample_speedups(set, is_put, &speedups)) {
            return false;
        }
    }
    /* The way that moves most with two threads; the other may gain more from a slower start. */
    unsigned best = bench_series_median(&speedups.raw_rate[BENCH_COPY_STREAM]) >=
                            bench_series_median(&speedups.raw_rate[BENCH_COPY_PLAIN])
                        ? BENCH_COPY_STREAM
                        : BENCH_COPY_PLAIN;
    bench_row_hold(&row, &speedups.store, &speedups.raw[best], 1);
    bench_row_note(&row, "one thread: %.2f GB/s", bench_series_median(&speedups.store_rate));
    bench_row_add(bench, &row);
    return true;
}

static bool threads_size(struct bench *bench, struct umbp_client *client, size_t bytes)
{
    struct bench_set set;
    if (!bench_set_create(bench, client, bytes, &set)) {
        return false;
    }
    bool goes_on =
        bench_set_fill(&set) && threads_row(bench, &set, false) && threads_row(bench, &set, true);
    bench_set_destroy(&set);
    return goes_on;
}

bool bench_threads(struct bench *bench)
{
    if (thread_cpu_count() < 2) {
        bench_row_skip(bench, "threads", "there is one CPU only");
        return true;
    }
    return for_each_size(bench, true, threads_size);
}
