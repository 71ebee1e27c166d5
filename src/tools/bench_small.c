/* SPDX-License-Identifier: Apache-2.0 */
/* Small values, one thread, one call each; and the checksum. */
#include "tools/bench.h"

#define SMALL_BYTES ((size_t)4096)
#define SMALL_BAR_MOPS 1.0
#define CRC_BAR_GBPS 10.0

/* ------------------------------------------------------------------- small values -------- */

enum small_what {
    SMALL_GET,
    SMALL_PUT,      /* into a tier with room */
    SMALL_PUT_FULL, /* each put makes another value leave */
};

static uint64_t run_calls(struct bench_set *set, enum small_what what)
{
    uint64_t start_ns = bench_now_ns();
    for (size_t i = 0; i < set->slice; i++) {
        const struct umbp_put_item *put = &set->puts[i];
        const struct umbp_get_item *get = &set->gets[i];
        set->statuses[i] = what == SMALL_GET
                               ? umbp_get(set->client, get->key, get->data, get->bytes)
                               : umbp_put(set->client, put->key, put->data, put->bytes, put->depth);
    }
    return bench_now_ns() - start_ns;
}

/* Puts until the tier evicts, and another half of it. */
static bool fill_over(struct bench_set *set)
{
    size_t wanted = (size_t)(set->bench->dram_bytes / set->bytes) * 3 / 2;
    for (size_t done = 0; done < wanted; done += set->slice) {
        set->room = set->count;
        if (!bench_set_aim_puts(set)) {
            return false;
        }
        (void)run_calls(set, SMALL_PUT_FULL);
        if (!bench_set_check_puts(set)) {
            return false;
        }
    }
    return true;
}

static bool aim(struct bench_set *set, enum small_what what)
{
    if (what == SMALL_GET) {
        bench_set_aim_gets(set);
        return true;
    }
    if (what == SMALL_PUT_FULL) {
        set->room = set->count; /* never clear */
    }
    return bench_set_aim_puts(set);
}

static bool small_row(struct bench *bench, struct bench_set *set, enum small_what what)
{
    static const char *const names[] = {"small.get", "small.put", "small.put_evicting"};
    struct bench_row row = {.unit = "M/s", .bar_kind = BENCH_BAR_VALUE_MIN, .bar = SMALL_BAR_MOPS};
    struct bench_series measured = {.count = 0};
    struct bench_limit limits[BENCH_COPY_WAYS];

    bench_row_name(&row, "%s", names[what]);
    bench_copy_limits_init(limits);
    for (unsigned round = 0; !bench_is_settled(bench, &measured, limits, BENCH_COPY_WAYS);
         round++) {
        if (!bench_goes_on(bench, row.name, round, bench_rounds_known(bench, round)) ||
            !aim(set, what)) {
            return false;
        }
        uint64_t ns = run_calls(set, what);
        if (!(what == SMALL_GET ? bench_set_check_gets(set) : bench_set_check_puts(set))) {
            return false;
        }
        bench_series_add(&measured, bench_mops(set->slice, ns));
        struct bench_copy raw = what == SMALL_GET ? bench_set_raw_get(set) : bench_set_raw_put(set);
        for (unsigned way = 0; way < BENCH_COPY_WAYS; way++) {
            ns = bench_copy_run(bench->crew, 1, (enum bench_copy_way)way, &raw);
            bench_series_add(&limits[way].series, bench_mops(set->slice, ns));
        }
        bench_set_advance(set);
    }
    bench_row_hold(&row, &measured, limits, BENCH_COPY_WAYS);
    bench_row_note(&row, "4 KiB, one thread");
    bench_row_add(bench, &row);
    return true;
}

bool bench_small(struct bench *bench)
{
    struct bench_store store = {.dram_bytes = bench->dram_bytes};
    struct umbp_client *client;
    struct bench_set set;

    if (!bench_store_create(bench, &store, &client)) {
        return false;
    }
    bool goes_on = bench_set_create(bench, client, SMALL_BYTES, &set);
    if (goes_on) {
        goes_on = bench_set_fill(&set) && small_row(bench, &set, SMALL_GET) &&
                  small_row(bench, &set, SMALL_PUT) && fill_over(&set) &&
                  small_row(bench, &set, SMALL_PUT_FULL);
        bench_set_destroy(&set);
    }
    umbp_client_destroy(client);
    return goes_on;
}

/* ----------------------------------------------------------------------- checksum -------- */

/* GB/s of checksums over blocks of `block` bytes, taken in turn from `range` bytes of memory. */
static double crc_rate(const char *data, size_t range, size_t block, size_t total)
{
    volatile uint32_t sink = 0;
    uint64_t start_ns = bench_now_ns();
    for (size_t done = 0; done < total; done += block) {
        sink = sink ^ crc32c(0, data + done % range, block);
    }
    return bench_gbps(total, bench_now_ns() - start_ns);
}

bool bench_crc(struct bench *bench)
{
    struct bench_row cached = {
        .unit = "GB/s", .bar_kind = BENCH_BAR_VALUE_MIN, .bar = CRC_BAR_GBPS};
    struct bench_row cold = {.unit = "GB/s"};
    struct bench_series cached_rates = {.count = 0};
    struct bench_series cold_rates = {.count = 0};
    const size_t block = 64 * KIB;

    bench_row_name(&cached, "crc32c.cached");
    bench_row_name(&cold, "crc32c.cold");
    if (!bench_arenas(bench)) {
        return false;
    }
    size_t total = size_min(bench->user.bytes, 256 * MIB);
    for (unsigned round = 0; round < bench->options.repeat; round++) {
        if (!bench_goes_on(bench, "crc32c", round, bench->options.repeat)) {
            return false;
        }
        bench_series_add(&cached_rates, crc_rate(bench->user.data, block, block, total));
        bench_series_add(&cold_rates, crc_rate(bench->user.data, bench->user.bytes, block, total));
    }
    bench_row_take(&cached, &cached_rates);
    bench_row_note(&cached, "%s", crc32c_name());
    bench_row_add(bench, &cached);
    bench_row_take(&cold, &cold_rates);
    bench_row_note(&cold, "as fast as memory can be read");
    bench_row_add(bench, &cold);
    return true;
}
