/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The steady state, with eviction and copies to the SSD under way: what it allocates (nothing), and
 * what it does to the slowest puts.
 */
#include "tools/bench.h"

#include <pthread.h>

/* -------------------------------------------------------------------- allocations -------- */

#define STEADY_DRAM_BYTES (64 * MIB)
#define STEADY_SSD_BYTES (64 * MIB)
#define STEADY_VALUE_BYTES ((size_t)16 << 10)
#define STEADY_ROUNDS 10000u
#define STEADY_WARM_ROUNDS                                                                         \
    20000u /* so that the tiers have been filled, and emptied, a few times                         \
            */
#define STEADY_KEYS ((size_t)1024)

struct allocation_count {
    pthread_t caller;
    _Atomic uint64_t by_caller;
    _Atomic uint64_t by_others;
};

static bool count_allocation(void *context, size_t bytes)
{
    struct allocation_count *count = context;
    (void)bytes;
    /* Relaxed: read after the hook is taken away. */
    if (pthread_equal(pthread_self(), count->caller)) {
        atomic_fetch_add_explicit(&count->by_caller, 1, memory_order_relaxed);
    } else {
        atomic_fetch_add_explicit(&count->by_others, 1, memory_order_relaxed);
    }
    return true;
}

struct steady_run {
    struct bench *bench;
    struct umbp_client *client;
    struct bench_keys keys;
    struct umbp_put_item puts[BENCH_BATCH];
    struct umbp_get_item gets[BENCH_BATCH];
    struct umbp_key batch_keys[BENCH_BATCH];
    enum umbp_status statuses[BENCH_BATCH];
    uint8_t found[BENCH_BATCH];
};

/* A batch of puts of keys never used, and of gets and exists of the same. */
static bool steady_batch(struct steady_run *run, size_t first)
{
    char *user = run->bench->user.data;
    for (size_t i = 0; i < BENCH_BATCH; i++) {
        struct umbp_key key = run->keys.keys[first + i];
        char *value = user + (first + i) * STEADY_VALUE_BYTES;
        run->batch_keys[i] = key;
        run->puts[i] = (struct umbp_put_item){
            .key = key, .data = value, .bytes = STEADY_VALUE_BYTES, .depth = (uint32_t)i};
        run->gets[i] = (struct umbp_get_item){key, value, STEADY_VALUE_BYTES};
    }
    enum umbp_status status = umbp_batch_put(run->client, run->puts, BENCH_BATCH, run->statuses);
    if (!bench_check(run->bench, "put", status, run->statuses, BENCH_BATCH)) {
        return false;
    }
    status = umbp_batch_exists(run->client, run->batch_keys, BENCH_BATCH, run->found);
    if (!bench_check(run->bench, "exists", status, NULL, 0)) {
        return false;
    }
    status = umbp_batch_get(run->client, run->gets, BENCH_BATCH, run->statuses);
    return bench_check(run->bench, "get", status, run->statuses, BENCH_BATCH);
}

static bool steady_single(struct steady_run *run, size_t number)
{
    struct umbp_key key = run->keys.keys[number];
    char *value = run->bench->user.data + number * STEADY_VALUE_BYTES;
    enum umbp_status status =
        umbp_put(run->client, key, value, STEADY_VALUE_BYTES, UMBP_DEPTH_NONE);
    if (status == UMBP_OK) {
        status = umbp_exists(run->client, key);
    }
    if (status == UMBP_OK) {
        status = umbp_get(run->client, key, value, STEADY_VALUE_BYTES);
    }
    return bench_check(run->bench, "put, exists, get", status, NULL, 0);
}

/* Half of the values in batches, half one by one. */
static bool steady_rounds(struct steady_run *run, size_t rounds)
{
    for (size_t round = 0; round < rounds;) {
        size_t at = round % STEADY_KEYS;
        if (at == 0) {
            bench_keys_renew(run->bench, &run->keys, STEADY_KEYS);
        }
        if (at / BENCH_BATCH % 2 == 0) {
            if (!steady_batch(run, at)) {
                return false;
            }
            round += BENCH_BATCH;
        } else {
            if (!steady_single(run, at)) {
                return false;
            }
            round++;
        }
    }
    return true;
}

/* A flush that only makes sure that the SSD is busy, or quiet: that some values found no space in a
 * tier that is full and turning over fails nothing here. */
static bool flush_full_tier(struct bench *bench, struct umbp_client *client)
{
    enum umbp_status status = umbp_flush(client, 0);
    return status == UMBP_NO_SPACE || bench_check(bench, "flush", status, NULL, 0);
}

/* With a flush now and then, so that all goes through the SSD, and not only what was in time. */
static bool steady_warm(struct steady_run *run)
{
    for (size_t rounds = 0; rounds < STEADY_WARM_ROUNDS; rounds += STEADY_KEYS) {
        if (!bench_goes_on(run->bench, "allocations: warming up", rounds, STEADY_WARM_ROUNDS) ||
            !steady_rounds(run, STEADY_KEYS) || !flush_full_tier(run->bench, run->client)) {
            return false;
        }
    }
    return true;
}

static bool count_allocations(struct bench *bench, struct steady_run *run, const char *name)
{
    struct bench_row row = {.unit = "allocations", .bar_kind = BENCH_BAR_VALUE_MAX, .bar = 0.0};
    struct allocation_count count = {.caller = pthread_self()};

    if (!steady_warm(run)) {
        return false;
    }
    mem_set_hook(count_allocation, &count);
    bool goes_on = steady_rounds(run, STEADY_ROUNDS);
    mem_set_hook(NULL, NULL);
    uint64_t by_caller = atomic_load_explicit(&count.by_caller, memory_order_relaxed);
    uint64_t by_others = atomic_load_explicit(&count.by_others, memory_order_relaxed);
    bench_row_name(&row, "%s", name);
    bench_row_set(&row, (double)(by_caller + by_others));
    bench_row_note(&row, "in %u puts, gets and exists; %llu by the caller, %llu by other threads",
                   STEADY_ROUNDS, (unsigned long long)by_caller, (unsigned long long)by_others);
    if (goes_on) {
        bench_row_add(bench, &row);
    }
    return goes_on;
}

static bool steady_client(struct bench *bench, struct steady_run *run, const char *directory,
                          const char *name)
{
    struct bench_store store = {
        .dram_bytes = STEADY_DRAM_BYTES, .directory = directory, .ssd_bytes = STEADY_SSD_BYTES};
    if (!bench_store_create(bench, &store, &run->client)) {
        return false;
    }
    bool goes_on = count_allocations(bench, run, name);
    /* The hook's context is on the stack above: no call of it is left once all threads are gone. */
    umbp_client_destroy(run->client);
    if (directory != NULL) {
        bench_remove_tree(directory);
    }
    return goes_on;
}

bool bench_allocations(struct bench *bench)
{
    struct steady_run run = {.bench = bench};
    char directory[BENCH_PATH_BYTES];

    if (!bench_arenas(bench) || !bench_keys_create(bench, STEADY_KEYS, &run.keys)) {
        return false;
    }
    bool goes_on = steady_client(bench, &run, NULL, "allocations.dram");
    if (goes_on && bench->ssd_bytes < STEADY_SSD_BYTES) {
        bench_row_skip(bench, "allocations.ssd", "no SSD tier");
    } else {
        goes_on = goes_on && bench_path(bench, "steady", directory) &&
                  steady_client(bench, &run, directory, "allocations.ssd");
    }
    bench_keys_destroy(&run.keys);
    return goes_on;
}

/* ------------------------------------------------------------------------ latency -------- */

#define LATENCY_VALUE_BYTES ((size_t)1 << 20)
#define LATENCY_BAR 5.0

struct lane {
    struct bench *bench;
    struct umbp_client *client;
    bool is_busy;
    size_t slots; /* values that the tier holds */
    size_t puts;  /* of a sample */
    struct bench_keys keys;
    struct histogram histogram;
};

/* `puts` puts of keys never used, into the lane's histogram if they count. */
static bool lane_puts(struct lane *lane, size_t puts, bool counts)
{
    struct bench_arena *user = &lane->bench->user;
    size_t blocks = user->bytes / LATENCY_VALUE_BYTES;

    bench_keys_renew(lane->bench, &lane->keys, puts);
    for (size_t i = 0; i < puts; i++) {
        const char *value = user->data + i % blocks * LATENCY_VALUE_BYTES;
        uint64_t start_ns = bench_now_ns();
        enum umbp_status status =
            umbp_put(lane->client, lane->keys.keys[i], value, LATENCY_VALUE_BYTES, UMBP_DEPTH_NONE);
        uint64_t ns = bench_now_ns() - start_ns;
        if (!bench_check(lane->bench, "put", status, NULL, 0)) {
            return false;
        }
        if (counts) {
            histogram_record(&lane->histogram, ns);
        }
    }
    return true;
}

/* The calm lane puts into an empty tier. The busy one has a full tier, and copiers that have been
 * given more than they can do by the time that its puts count. */
static bool lane_sample(struct lane *lane)
{
    struct bench *bench = lane->bench;
    if (!lane->is_busy) {
        return bench_check(bench, "clear", umbp_clear(lane->client), NULL, 0) &&
               lane_puts(lane, lane->puts, true);
    }
    if (!lane_puts(lane, lane->puts, false) || !lane_puts(lane, lane->puts, true)) {
        return false;
    }
    return flush_full_tier(bench, lane->client); /* quiet before the other lane's turn */
}

static bool lane_create(struct bench *bench, const struct bench_store *store, struct lane *lane_out)
{
    struct lane lane = {.bench = bench, .is_busy = store->directory != NULL};
    lane.slots = (size_t)(store->dram_bytes / LATENCY_VALUE_BYTES);
    lane.puts = size_min(lane.slots * 3 / 4, 256);
    histogram_init(&lane.histogram);
    if (!bench_keys_create(bench, lane.puts, &lane.keys)) {
        return false;
    }
    if (!bench_store_create(bench, store, &lane.client)) {
        bench_keys_destroy(&lane.keys);
        return false;
    }
    *lane_out = lane;
    return true;
}

static void lane_destroy(struct lane *lane)
{
    umbp_client_destroy(lane->client);
    bench_keys_destroy(&lane->keys);
}

static bool run_lanes(struct bench *bench, struct lane *calm, struct lane *busy)
{
    struct bench_row row = {.unit = "us", .bar_kind = BENCH_BAR_RATIO_MAX, .bar = LATENCY_BAR};
    for (size_t done = 0; done < busy->slots + busy->puts; done += busy->puts) {
        if (!lane_puts(busy, busy->puts, false)) {
            return false;
        }
    }
    for (unsigned round = 0; round < bench->options.repeat; round++) {
        if (!bench_goes_on(bench, "latency.put_p99", round, bench->options.repeat) ||
            !lane_sample(calm) || !lane_sample(busy)) {
            return false;
        }
    }
    double calm_us = (double)histogram_quantile(&calm->histogram, 0.99) / 1e3;
    double busy_us = (double)histogram_quantile(&busy->histogram, 0.99) / 1e3;
    bench_row_name(&row, "latency.put_p99");
    bench_row_set(&row, busy_us);
    row.limit = calm_us;
    row.limit_name = "p99 without them";
    row.ratio = busy_us / calm_us;
    bench_row_note(&row,
                   "evicting and copying; medians %.0f and %.0f us, %llu copied, %llu dropped",
                   (double)histogram_quantile(&busy->histogram, 0.5) / 1e3,
                   (double)histogram_quantile(&calm->histogram, 0.5) / 1e3,
                   (unsigned long long)bench_stat(busy->client, "copies.done"),
                   (unsigned long long)bench_stat(busy->client, "copies.drops.evicted"));
    bench_row_add(bench, &row);
    return true;
}

bool bench_latency(struct bench *bench)
{
    struct bench_store store = {.dram_bytes = bench->set_bytes};
    struct lane calm;
    struct lane busy;
    char directory[BENCH_PATH_BYTES];

    if (bench->ssd_bytes == 0) {
        bench_row_skip(bench, "latency.put_p99", "no SSD tier");
        return true;
    }
    if (!bench_arenas(bench) || !bench_path(bench, "latency", directory) ||
        !lane_create(bench, &store, &calm)) {
        return false;
    }
    store.directory = directory;
    store.ssd_bytes = bench->ssd_bytes / 4;
    bool goes_on = lane_create(bench, &store, &busy);
    if (goes_on) {
        goes_on = run_lanes(bench, &calm, &busy);
        lane_destroy(&busy);
    }
    lane_destroy(&calm);
    bench_remove_tree(directory);
    return goes_on;
}
