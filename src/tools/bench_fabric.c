/* SPDX-License-Identifier: Apache-2.0 */
/* umbp bench fabric: our endpoint against plain sockets, bare libfabric and shared memory. */
#include "tools/bench.h"

#include "tools/bench_wire.h"

#define PINGS 400u

enum shape_kind {
    SHAPE_CALL,
    SHAPE_GET,
    SHAPE_WRITE,
    SHAPE_READ,
    SHAPE_PULL,
    SHAPE_MAP
};

struct shape {
    const char *name;
    enum shape_kind kind;
    size_t bytes;
    size_t count;
    size_t stride;
    enum bench_bar bar_kind;
    double bar;
    const char *limit;
    const char *note;
};

static const struct shape shapes[] = {
    {"fabric.call.64B", SHAPE_CALL, 64, 1, 64, BENCH_BAR_RATIO_MAX, 1.5, "bare ping-pong",
     "64 bytes there, 64 back"},
    {"fabric.get.64KiB", SHAPE_GET, 65536, 1, 65536, BENCH_BAR_RATIO_MAX, 1.5, "bare ping-pong",
     "a call whose answer follows 64 KiB written to us; bare: 64 KiB back"},
    {"fabric.write.1MiB", SHAPE_WRITE, 1 << 20, 128, 1 << 20, BENCH_BAR_RATIO_MIN, 0.9,
     "raw stream", "128 in a call"},
    {"fabric.read.1MiB", SHAPE_READ, 1 << 20, 128, 1 << 20, BENCH_BAR_RATIO_MIN, 0.9, "raw stream",
     "128 in a call"},
    {"fabric.write.64KiB", SHAPE_WRITE, 65536, 128, 131072, BENCH_BAR_RATIO_MIN, 0.7, "raw stream",
     "128 in a call, scattered"},
    {"fabric.read.64KiB", SHAPE_READ, 65536, 128, 131072, BENCH_BAR_RATIO_MIN, 0.7, "raw stream",
     "128 in a call, scattered"},
    {"fabric.pull.1MiB", SHAPE_PULL, 1 << 20, 128, 1 << 20, BENCH_BAR_RATIO_MIN, 0.8,
     "shared memcpy", "128 by process_vm_readv"},
    {"fabric.map.1MiB", SHAPE_MAP, 1 << 20, 128, 1 << 20, BENCH_BAR_RATIO_MIN, 0.8, "shared memcpy",
     "128 from a mapping of the peer's memory"},
};

/* One sample of ours and one of the limit. */
static enum umbp_status sample(struct bench_wire *wire, const struct shape *shape,
                               struct bench_series *ours, struct bench_series *limit)
{
    uint64_t our_ns = 0;
    uint64_t limit_ns = 0;
    uint64_t total = (uint64_t)shape->bytes * shape->count;
    unsigned rounds = total >= 64 * MIB ? 1 : 8;
    enum umbp_status status = UMBP_OK;
    switch (shape->kind) {
    case SHAPE_CALL:
    case SHAPE_GET:
        status = shape->kind == SHAPE_CALL ? bench_wire_call(wire, shape->bytes, PINGS, &our_ns)
                                           : bench_wire_transfer(wire, true, shape->bytes, 1,
                                                                 shape->stride, PINGS, &our_ns);
        status = status ? status : bench_wire_bare_ping(wire, shape->bytes, PINGS, &limit_ns);
        bench_series_add(ours, (double)our_ns / PINGS / 1e3);
        bench_series_add(limit, (double)limit_ns / PINGS / 1e3);
        return status;
    case SHAPE_WRITE:
    case SHAPE_READ:
        status = bench_wire_transfer(wire, shape->kind == SHAPE_WRITE, shape->bytes, shape->count,
                                     shape->stride, rounds, &our_ns);
        status = status
                     ? status
                     : bench_wire_raw_stream(wire, shape->bytes, shape->count * rounds, &limit_ns);
        total *= rounds;
        break;
    default:
        status =
            bench_wire_pull(wire, shape->kind == SHAPE_MAP, shape->bytes, shape->count, &our_ns);
        bench_wire_shared_copy(wire, shape->bytes, shape->count, &limit_ns);
        break;
    }
    bench_series_add(ours, bench_gbps(total, our_ns));
    bench_series_add(limit, bench_gbps(total, limit_ns));
    return status;
}

static bool shape_row(struct bench *bench, struct bench_wire *wire, const struct shape *shape)
{
    bool is_time = shape->kind == SHAPE_CALL || shape->kind == SHAPE_GET;
    struct bench_row row = {
        .unit = is_time ? "us" : "GB/s", .bar_kind = shape->bar_kind, .bar = shape->bar};
    struct bench_series measured = {.count = 0};
    struct bench_series warm = {.count = 0};
    struct bench_limit limit = {.name = shape->limit};
    bench_row_name(&row, "%s", shape->name);
    enum umbp_status status = sample(wire, shape, &warm, &warm);
    for (unsigned round = 0; !status && !bench_is_settled(bench, &measured, &limit, 1); round++) {
        if (!bench_goes_on(bench, row.name, round, bench_rounds_known(bench, round))) {
            return false;
        }
        status = sample(wire, shape, &measured, &limit.series);
    }
    if (status == UMBP_UNSUPPORTED) {
        bench_row_skip(bench, shape->name, "this system lets no process read another's memory");
        return true;
    }
    if (status) {
        return bench_fail(bench, "%s: %s", shape->name, umbp_status_text(status));
    }
    bench_row_hold(&row, &measured, &limit, 1);
    bench_row_note(&row, "%s", shape->note);
    bench_row_add(bench, &row);
    return true;
}

bool bench_fabric(struct bench *bench)
{
    struct bench_wire *wire;
    enum umbp_status status = bench_wire_create(20, &wire);
    if (status) {
        return bench_fail(bench, "no endpoint could be made: %s", umbp_status_text(status));
    }
    bool goes_on = true;
    for (size_t i = 0; goes_on && i < ARRAY_COUNT(shapes); i++) {
        goes_on = shape_row(bench, wire, &shapes[i]);
    }
    bench_wire_destroy(wire);
    return goes_on;
}
