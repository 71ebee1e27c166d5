/* SPDX-License-Identifier: Apache-2.0 */
/* A million keys: how fast they are found, and what each of them costs beyond its value. */
#include "tools/bench.h"

#define INDEX_VALUE_BYTES ((size_t)64)
#define INDEX_BAR_MKEYS 15.0
#define INDEX_BAR_KEY_BYTES 200.0
#define LOOKS ((size_t)1 << 18) /* of a sample */
#define LOOKS_QUICK ((size_t)1 << 15)

struct index_run {
    struct bench *bench;
    struct umbp_client *client;
    struct bench_keys keys;
    uint32_t *order;
    size_t at;
};

/* ------------------------------------------------------------------------- exists -------- */

enum exists_what {
    EXISTS_SEQUENTIAL, /* keys in the order in which they were put */
    EXISTS_RANDOM,
    EXISTS_COLD, /* random, and the caller's own key is in no cache either */
};

/*
 * An engine has just made the keys that it asks for, so they are in its caches: they are copied to
 * one place before the time is taken, of the call alone.
 */
static bool sample_exists(struct index_run *run, enum exists_what what, double *rate_out)
{
    char text[BENCH_BATCH * BENCH_KEY_BYTES];
    struct umbp_key keys[BENCH_BATCH];
    uint8_t found[BENCH_BATCH];
    uint64_t ns = 0;
    size_t looks = run->bench->options.is_quick ? LOOKS_QUICK : LOOKS;
    size_t hits = 0;

    for (size_t done = 0; done < looks; done += BENCH_BATCH) {
        for (size_t i = 0; i < BENCH_BATCH; i++) {
            size_t number = run->at++ % run->keys.count;
            size_t index = what == EXISTS_SEQUENTIAL ? number : run->order[number];
            keys[i] = run->keys.keys[index];
            if (what != EXISTS_COLD) {
                memcpy(text + i * BENCH_KEY_BYTES, keys[i].data, BENCH_KEY_BYTES);
                keys[i].data = text + i * BENCH_KEY_BYTES;
            }
        }
        uint64_t start_ns = bench_now_ns();
        enum umbp_status status = umbp_batch_exists(run->client, keys, BENCH_BATCH, found);
        ns += bench_now_ns() - start_ns;
        for (size_t i = 0; status == UMBP_OK && i < BENCH_BATCH; i++) {
            hits += found[i];
        }
    }
    *rate_out = bench_mops(looks, ns);
    return hits == looks || bench_fail(run->bench, "exists missed keys that were put");
}

static bool exists_row(struct index_run *run, enum exists_what what)
{
    static const char *const names[] = {"exists.sequential", "exists.random", "exists.cold_keys"};
    struct bench_row row = {.unit = "M keys/s"};
    struct bench_series measured = {.count = 0};
    double rate = 0;

    bench_row_name(&row, "%s", names[what]);
    if (what != EXISTS_COLD) {
        row.bar_kind = BENCH_BAR_VALUE_MIN;
        row.bar = INDEX_BAR_MKEYS;
    } else {
        bench_row_note(&row, "the caller's keys come from memory too");
    }
    for (unsigned round = 0; !bench_is_settled(run->bench, &measured, NULL, 0); round++) {
        if (!bench_goes_on(run->bench, row.name, round, bench_rounds_known(run->bench, round)) ||
            !sample_exists(run, what, &rate)) {
            return false;
        }
        bench_series_add(&measured, rate);
    }
    bench_row_take(&row, &measured);
    bench_row_add(run->bench, &row);
    return true;
}

/* ------------------------------------------------------------------------- memory -------- */

static void memory_row(struct index_run *run, uint64_t dram_bytes, uint64_t before_bytes)
{
    struct bench_row row = {
        .unit = "B/key", .bar_kind = BENCH_BAR_VALUE_MAX, .bar = INDEX_BAR_KEY_BYTES};
    double count = (double)run->keys.count;
    double resident = (double)bench_resident_bytes() - (double)before_bytes - (double)dram_bytes;
    double told = (double)bench_stat(run->client, "index.bytes");

    bench_row_name(&row, "index.memory");
    bench_row_set(&row, resident / count);
    bench_row_note(&row,
                   "resident memory beyond the tier; index.bytes says %.0f, the tier's "
                   "tables %.0f",
                   told / count, (double)bench_stat(run->client, "dram.metadata_bytes") / count);
    bench_row_add(run->bench, &row);
}

static bool run_index(struct index_run *run)
{
    struct bench *bench = run->bench;
    char value[INDEX_VALUE_BYTES] = {0};
    /* room for each value, and some, so that nothing is evicted */
    uint64_t dram_bytes = align_up(run->keys.count * INDEX_VALUE_BYTES * 5 / 4 + MIB, 2 * MIB);
    struct bench_store store = {.dram_bytes = dram_bytes};
    uint64_t before_bytes = bench_resident_bytes();

    if (!bench_store_create(bench, &store, &run->client)) {
        return false;
    }
    if (!bench_goes_on(bench, "index: putting the keys", 0, 1) ||
        !bench_fill(bench, run->client, &run->keys, 0, run->keys.count, value, sizeof value, 1)) {
        return false;
    }
    if (bench_stat(run->client, "keys") != run->keys.count) {
        return bench_fail(bench, "keys that were put are gone");
    }
    memory_row(run, dram_bytes, before_bytes);
    return exists_row(run, EXISTS_SEQUENTIAL) && exists_row(run, EXISTS_RANDOM) &&
           exists_row(run, EXISTS_COLD);
}

bool bench_index(struct bench *bench)
{
    struct index_run run = {.bench = bench};
    size_t count = bench->options.is_quick ? 100000 : 1000000;

    bool goes_on = bench_keys_create(bench, count, &run.keys);
    if (goes_on) {
        run.order = bench_shuffled(bench, count);
        goes_on = run.order != NULL && run_index(&run);
    }
    umbp_client_destroy(run.client);
    mem_free(run.order);
    bench_keys_destroy(&run.keys);
    return goes_on;
}
