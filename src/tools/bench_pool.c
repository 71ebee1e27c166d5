/* SPDX-License-Identifier: Apache-2.0 */
/* umbp bench pool: batches to and from a node, lookups, visibility. */
#include "tools/bench_pool.h"

#include <time.h>

#define PINGS 200u
#define LOOKUPS 400u
#define FRAME_HEAD 48u /* of our frames */

/* Values to move, by which client, against what. */
struct shape {
    const char *name;
    bool is_put;
    bool is_tcp;
    size_t bytes;
    size_t batches; /* of BENCH_BATCH, in a sample */
    double bar;
    const char *note;
};

static const struct shape shapes[] = {
    {"pool.get.1MiB", false, false, 1 << 20, 1, 0.8, "128 from another process"},
    {"pool.put.1MiB", true, false, 1 << 20, 1, 0.8, "128 to another process"},
    {"pool.get.1MiB.tcp", false, true, 1 << 20, 1, 0.9, "the same by TCP only"},
    {"pool.put.1MiB.tcp", true, true, 1 << 20, 1, 0.9, "the same by TCP only"},
    {"pool.get.64KiB", false, false, 65536, 8, 0, "128 from another process"},
    {"pool.put.64KiB", true, false, 65536, 8, 0, "128 to another process"},
    {"pool.get.64KiB.tcp", false, true, 65536, 8, 0.7, "128 by TCP only"},
    {"pool.put.64KiB.tcp", true, true, 65536, 8, 0.7, "128 by TCP only"},
};

static bool limit_of(struct pool_rig *rig, const struct shape *shape, double *gbps_out)
{
    size_t count = BENCH_BATCH * shape->batches;
    uint64_t ns = 0;
    enum umbp_status status = UMBP_OK;
    if (shape->is_tcp) {
        status = bench_wire_raw_stream(rig->wire, shape->bytes, count, &ns);
    } else {
        bench_wire_shared_copy(rig->wire, shape->bytes, count, &ns);
    }
    *gbps_out = bench_gbps(shape->bytes * count, ns);
    return status == UMBP_OK ||
           bench_fail(rig->bench, "the raw stream: %s", umbp_status_text(status));
}

static bool ours_of(struct pool_rig *rig, const struct shape *shape, struct bench_keys *keys,
                    double *gbps_out)
{
    struct umbp_client *client = shape->is_tcp ? rig->tcp : rig->host;
    uint64_t spent = 0;
    bool is_good = true;
    for (size_t i = 0; is_good && i < shape->batches; i++) {
        uint64_t ns = 0;
        if (shape->is_put) {
            bench_keys_renew(rig->bench, keys, BENCH_BATCH);
            is_good = pool_rig_put(rig, client, keys, 0, BENCH_BATCH, shape->bytes, &ns) &&
                      pool_rig_remove(rig, client, keys, BENCH_BATCH);
        } else {
            is_good = pool_rig_get(rig, client, keys, 0, BENCH_BATCH, shape->bytes, &ns);
        }
        spent += ns;
    }
    *gbps_out = bench_gbps(shape->bytes * BENCH_BATCH * shape->batches, spent);
    return is_good;
}

/* One sample of each, in turns: A B, B A. */
static bool sample(struct pool_rig *rig, const struct shape *shape, struct bench_keys *keys,
                   unsigned round, struct bench_series *measured, struct bench_series *limit)
{
    double ours = 0;
    double most = 0;
    bool is_good = round % 2 == 0 ? ours_of(rig, shape, keys, &ours) && limit_of(rig, shape, &most)
                                  : limit_of(rig, shape, &most) && ours_of(rig, shape, keys, &ours);
    bench_series_add(measured, ours);
    bench_series_add(limit, most);
    return is_good;
}

static bool shape_row(struct pool_rig *rig, const struct shape *shape)
{
    struct bench *bench = rig->bench;
    struct umbp_client *client = shape->is_tcp ? rig->tcp : rig->host;
    struct bench_row row = {.unit = "GB/s",
                            .bar_kind = shape->bar > 0 ? BENCH_BAR_RATIO_MIN : BENCH_BAR_NONE,
                            .bar = shape->bar};
    struct bench_series warm = {.count = 0};
    struct bench_series measured = {.count = 0};
    struct bench_limit limit = {.name = shape->is_tcp ? "raw stream" : "shared memcpy"};
    struct bench_keys keys = {0};
    if (!bench_keys_create(bench, BENCH_BATCH, &keys)) {
        return false;
    }
    bench_row_name(&row, "%s", shape->name);
    bool is_good =
        (shape->is_put || pool_rig_put(rig, client, &keys, 0, BENCH_BATCH, shape->bytes, NULL)) &&
        sample(rig, shape, &keys, 0, &warm, &warm);
    for (unsigned round = 0; is_good && !bench_is_settled(bench, &measured, &limit, 1); round++) {
        is_good = bench_goes_on(bench, row.name, round, bench_rounds_known(bench, round)) &&
                  sample(rig, shape, &keys, round, &measured, &limit.series);
    }
    is_good = is_good && (shape->is_put || pool_rig_remove(rig, client, &keys, BENCH_BATCH));
    bench_keys_destroy(&keys);
    if (is_good) {
        bench_row_hold(&row, &measured, &limit, 1);
        bench_row_note(&row, "%s", shape->note);
        bench_row_add(bench, &row);
    }
    return is_good;
}

static bool run_shapes(struct bench *bench, bool is_tcp)
{
    struct pool_rig *rig = pool_rig(bench);
    bool is_good = rig != NULL;
    for (size_t i = 0; is_good && i < ARRAY_COUNT(shapes); i++) {
        is_good = shapes[i].is_tcp != is_tcp || shape_row(rig, &shapes[i]);
    }
    return is_good;
}

static bool bench_host(struct bench *bench) { return run_shapes(bench, false); }
static bool bench_tcp(struct bench *bench) { return run_shapes(bench, true); }

/* ------------------------------------------------------------------------ one value ------ */

/* Round trips of one value of 64 KiB each, in us; beyond the copy where a copy is all that it is
 * held against. */
static bool trips(struct pool_rig *rig, struct umbp_client *client, bool is_put,
                  struct bench_keys *keys, double *us_out)
{
    uint64_t spent = 0;
    bool is_good = true;
    if (is_put) {
        bench_keys_renew(rig->bench, keys, PINGS);
    }
    for (size_t i = 0; is_good && i < PINGS; i++) {
        uint64_t ns = 0;
        is_good = is_put ? pool_rig_put(rig, client, keys, i, 1, 65536, &ns)
                         : pool_rig_get(rig, client, keys, i, 1, 65536, &ns);
        spent += ns;
    }
    is_good = is_good && (!is_put || pool_rig_remove(rig, client, keys, PINGS));
    *us_out = (double)spent / PINGS / 1e3;
    return is_good;
}

static bool trip_sample(struct pool_rig *rig, bool is_put, bool is_tcp, struct bench_keys *keys,
                        struct bench_series *measured, struct bench_series *limit)
{
    double us = 0;
    uint64_t copy_ns = 0;
    uint64_t ping_ns = 0;
    if (!trips(rig, is_tcp ? rig->tcp : rig->host, is_put, keys, &us)) {
        return false;
    }
    if (!is_tcp) {
        bench_wire_shared_copy(rig->wire, 65536, PINGS, &copy_ns);
        us -= (double)copy_ns / PINGS / 1e3;
    }
    enum umbp_status status = bench_wire_bare_ping(rig->wire, is_tcp ? 65536 : 64, PINGS, &ping_ns);
    bench_series_add(measured, us);
    bench_series_add(limit, (double)ping_ns / PINGS / 1e3);
    return status == UMBP_OK ||
           bench_fail(rig->bench, "bare libfabric: %s", umbp_status_text(status));
}

static bool trip_row(struct pool_rig *rig, const char *name, bool is_put, bool is_tcp)
{
    struct bench *bench = rig->bench;
    struct bench_row row = {.unit = "us", .bar_kind = BENCH_BAR_RATIO_MAX, .bar = 1.5};
    struct bench_series warm = {.count = 0};
    struct bench_series measured = {.count = 0};
    struct bench_limit limit = {.name = "bare ping-pong"};
    struct bench_keys keys = {0};
    if (!bench_keys_create(bench, PINGS, &keys)) {
        return false;
    }
    bench_row_name(&row, "%s", name);
    bool is_good =
        is_put || pool_rig_put(rig, is_tcp ? rig->tcp : rig->host, &keys, 0, PINGS, 65536, NULL);
    is_good = is_good && trip_sample(rig, is_put, is_tcp, &keys, &warm, &warm);
    for (unsigned round = 0; is_good && !bench_is_settled(bench, &measured, &limit, 1); round++) {
        is_good = bench_goes_on(bench, name, round, bench_rounds_known(bench, round)) &&
                  trip_sample(rig, is_put, is_tcp, &keys, &measured, &limit.series);
    }
    is_good =
        is_good && (is_put || pool_rig_remove(rig, is_tcp ? rig->tcp : rig->host, &keys, PINGS));
    bench_keys_destroy(&keys);
    if (is_good) {
        bench_row_hold(&row, &measured, &limit, 1);
        bench_row_note(&row, "%s%s", is_tcp ? "64 KiB in the ping-pong too" : "beyond the copy",
                       is_put ? "; a put asks the master first: two trips" : "");
        row.bar_kind = is_put ? BENCH_BAR_NONE : row.bar_kind;
        bench_row_add(bench, &row);
    }
    return is_good;
}

static bool bench_trip(struct bench *bench)
{
    struct pool_rig *rig = pool_rig(bench);
    return rig != NULL && trip_row(rig, "pool.get.1x64KiB", false, false) &&
           trip_row(rig, "pool.get.1x64KiB.tcp", false, true) &&
           trip_row(rig, "pool.put.1x64KiB", true, false) &&
           trip_row(rig, "pool.put.1x64KiB.tcp", true, true);
}

/* --------------------------------------------------------------------------- lookup ------ */

static bool lookup_sample(struct pool_rig *rig, const struct bench_keys *keys,
                          struct bench_series *measured, struct bench_series *limit)
{
    uint8_t found[BENCH_BATCH];
    uint64_t ping_ns = 0;
    size_t hits = 0;
    uint64_t begin = bench_now_ns();
    for (unsigned i = 0; i < LOOKUPS; i++) {
        enum umbp_status status = umbp_batch_exists(rig->reader, keys->keys, BENCH_BATCH, found);
        if (status != UMBP_OK) {
            return bench_fail(rig->bench, "exists: %s", umbp_status_text(status));
        }
        hits += found[0] != 0 && found[BENCH_BATCH - 1] == 0;
    }
    uint64_t ns = bench_now_ns() - begin;
    if (hits != LOOKUPS) {
        return bench_fail(rig->bench, "a lookup gave wrong answers");
    }
    /* 64 bytes go there, so that the two directions are as large together as the lookup's. */
    enum umbp_status status =
        bench_wire_bare_ping(rig->wire, 2 * FRAME_HEAD + BENCH_BATCH * 17 - 64, LOOKUPS, &ping_ns);
    bench_series_add(measured, (double)ns / LOOKUPS / 1e3);
    bench_series_add(limit, (double)ping_ns / LOOKUPS / 1e3);
    return status == UMBP_OK ||
           bench_fail(rig->bench, "bare libfabric: %s", umbp_status_text(status));
}

static bool bench_lookup(struct bench *bench)
{
    struct pool_rig *rig = pool_rig(bench);
    struct bench_row row = {.unit = "us", .bar_kind = BENCH_BAR_RATIO_MAX, .bar = 1.5};
    struct bench_series measured = {.count = 0};
    struct bench_limit limit = {.name = "bare ping-pong"};
    struct bench_keys keys = {0};
    if (rig == NULL || !bench_keys_create(bench, BENCH_BATCH, &keys)) {
        return false;
    }
    bench_row_name(&row, "pool.lookup.128");
    bool is_good =
        pool_rig_put(rig, rig->host, &keys, 0, BENCH_BATCH / 2, 64, NULL) &&
        tool_cluster_await(&rig->cluster, "umbp_master_index_keys", BENCH_BATCH / 2, 5000);
    for (unsigned round = 0; is_good && !bench_is_settled(bench, &measured, &limit, 1); round++) {
        is_good = bench_goes_on(bench, row.name, round, bench_rounds_known(bench, round)) &&
                  lookup_sample(rig, &keys, &measured, &limit.series);
    }
    is_good = is_good && pool_rig_remove(rig, rig->host, &keys, BENCH_BATCH / 2);
    bench_keys_destroy(&keys);
    if (is_good) {
        bench_row_hold(&row, &measured, &limit, 1);
        bench_row_note(&row, "fabric door; half of the keys there");
        bench_row_add(bench, &row);
    }
    return is_good;
}

/* ----------------------------------------------------------------------- visibility ------ */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool see(struct pool_rig *rig, struct umbp_key key, double *ms_out)
{
    const struct timespec pause = {.tv_nsec = 100 * 1000};
    uint64_t begin = bench_now_ns();
    uint8_t found = 0;
    while (!found && bench_now_ns() - begin < 5 * NS_PER_S) {
        enum umbp_status status = umbp_batch_exists(rig->reader, &key, 1, &found);
        if (status != UMBP_OK) {
            return bench_fail(rig->bench, "exists: %s", umbp_status_text(status));
        }
        if (!found) {
            (void)nanosleep(&pause, NULL);
        }
    }
    *ms_out = (double)(bench_now_ns() - begin) / 1e6;
    return true;
}

static bool bench_visible(struct bench *bench)
{
    struct pool_rig *rig = pool_rig(bench);
    struct bench_row row = {.unit = "ms", .bar_kind = BENCH_BAR_VALUE_MAX, .bar = 20};
    struct bench_keys keys = {0};
    double times[1000];
    size_t count = bench->options.is_quick ? 100 : ARRAY_COUNT(times);
    if (rig == NULL || !bench_keys_create(bench, count, &keys)) {
        return false;
    }
    bool is_good = true;
    for (size_t i = 0; is_good && i < count; i++) {
        is_good = bench_goes_on(bench, "pool.visible", i, count) &&
                  pool_rig_put(rig, rig->host, &keys, i, 1, 4096, NULL) &&
                  see(rig, keys.keys[i], &times[i]);
    }
    is_good = is_good && pool_rig_remove(rig, rig->host, &keys, count);
    bench_keys_destroy(&keys);
    if (is_good) {
        qsort(times, count, sizeof times[0], compare);
        bench_row_name(&row, "pool.visible.p99");
        bench_row_set(&row, times[count * 99 / 100]);
        bench_row_note(&row, "from a put's return to a client elsewhere; p50 %.2f ms, most %.2f",
                       times[count / 2], times[count - 1]);
        bench_row_add(bench, &row);
    }
    return is_good;
}

/* ---------------------------------------------------------------------------- suite ------ */

static const struct bench_kind kinds[] = {
    /* First: it forks, and the others' clients have threads. */
    {"fabric", "the endpoint alone: calls and transfers against sockets, libfabric, shared memory",
     bench_fabric},
    {"master", "the block index in this process: routes, events, memory", pool_bench_master},
    {"host", "batches of 128 from and to another process, by the host's memory", bench_host},
    {"tcp", "the same by TCP only, against a raw socket's stream", bench_tcp},
    {"trip", "one value of 64 KiB, against a ping-pong of bare libfabric", bench_trip},
    {"lookup", "lookups of 128 keys at the master's fabric door", bench_lookup},
    {"visible", "how soon another client sees a key that was put", bench_visible},
    {"grpc", "lookups of 128 keys at the gRPC door, against an empty call", pool_bench_grpc},
    {"restart", "a master killed and started again, with 8 nodes of 125,000 keys",
     pool_bench_restart},
};

const struct bench_suite bench_suite_pool = {"pool", kinds, ARRAY_COUNT(kinds), false};
