/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SSD tier against raw direct I/O on the same file system: writing (puts and a flush), reading
 * (batches that memory holds nothing of), small values; what its checksum costs; and how long a
 * restart takes.
 */
#include "tools/bench.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SSD_LARGE_BYTES ((size_t)1 << 20)
#define SSD_SMALL_BYTES ((size_t)64 << 10)
#define SSD_READ_DRAM_BYTES (64 * MIB)
#define SSD_SET_BYTES_MAX (768 * MIB)
#define CHECKSUM_BAR_PERCENT 5.0
#define CHECKSUM_SOURCE_BYTES (16 * MIB) /* as many I/O buffers as may be in flight */

struct ssd_run {
    struct bench *bench;
    uint64_t set_bytes;
    unsigned repeat;
    struct bench_raw *raw; /* NULL: no limit to be had */
    struct umbp_client *client;
    struct bench_keys keys;
    double read_ns_per_byte;
    char directory[BENCH_PATH_BYTES];
};

static const char raw_name[] = "raw io_uring";

/* Whether the file system has this much to give. */
static bool has_space(const struct bench *bench, uint64_t bytes)
{
    struct statvfs space;
    return statvfs(bench->directory, &space) == 0 &&
           (uint64_t)space.f_bavail * space.f_frsize > bytes;
}

static bool open_store(struct ssd_run *run, uint64_t dram_bytes, bool is_frugal)
{
    struct bench_store store = {.dram_bytes = dram_bytes,
                                .directory = run->directory,
                                .ssd_bytes = run->bench->ssd_bytes,
                                .is_frugal = is_frugal};
    return bench_store_create(run->bench, &store, &run->client);
}

static void close_store(struct ssd_run *run)
{
    umbp_client_destroy(run->client);
    run->client = NULL;
}

/* ------------------------------------------------------------------------ writing -------- */

/* Put the set and flush it. */
static bool write_set(struct ssd_run *run, size_t bytes, uint64_t *ns_out)
{
    struct bench *bench = run->bench;
    size_t count = (size_t)(run->set_bytes / bytes);
    size_t blocks = bench->user.bytes / bytes;

    if (!bench_check(bench, "clear", umbp_clear(run->client), NULL, 0)) {
        return false;
    }
    bench_settle(bench);
    bench_keys_renew(bench, &run->keys, count);
    uint64_t start_ns = bench_now_ns();
    if (!bench_fill(bench, run->client, &run->keys, 0, count, bench->user.data, bytes, blocks) ||
        !bench_check(bench, "flush", umbp_flush(run->client, 0), NULL, 0)) {
        return false;
    }
    *ns_out = bench_now_ns() - start_ns;
    uint64_t records = bench_stat(run->client, "ssd.records");
    return records == count ||
           bench_fail(bench, "after the flush the SSD tier has %llu of %zu values",
                      (unsigned long long)records, count);
}

static bool sample_raw(struct ssd_run *run, bool is_write, struct bench_limit *limit)
{
    uint64_t bytes = run->set_bytes;
    uint64_t ns = 0;
    if (run->raw == NULL) {
        return true;
    }
    bench_settle(run->bench);
    enum umbp_status status = is_write ? bench_raw_write(run->raw, &ns)
                                       : bench_raw_read(run->raw, run->directory, &bytes, &ns);
    bench_series_add(&limit->series, bench_gbps(bytes, ns));
    return bench_check(run->bench, "raw I/O", status, NULL, 0);
}

static bool write_row(struct ssd_run *run, size_t bytes, double bar)
{
    struct bench_row row = {.unit = "GB/s", .bar_kind = BENCH_BAR_RATIO_MIN, .bar = bar};
    struct bench_series measured = {.count = 0};
    struct bench_limit limit = {.name = raw_name};
    char size[24];

    bench_row_name(&row, "ssd.write.%s", bench_size_text(bytes, size));
    for (unsigned round = 0; round <= run->repeat; round++) {
        uint64_t ns = 0;
        if (round == 1) { /* the first round only warms up */
            measured.count = limit.series.count = 0;
        }
        if (!bench_goes_on(run->bench, row.name, round, run->repeat) ||
            !sample_raw(run, true, &limit) || !write_set(run, bytes, &ns)) {
            return false;
        }
        bench_series_add(&measured, bench_gbps(run->set_bytes, ns));
    }
    bench_row_hold(&row, &measured, &limit, run->raw != NULL ? 1 : 0);
    bench_row_note(&row, "puts and a flush");
    bench_row_add(run->bench, &row);
    return true;
}

/* ------------------------------------------------------------------------ reading -------- */

static bool get_batch(struct ssd_run *run, size_t first, size_t count)
{
    struct bench *bench = run->bench;
    size_t blocks = bench->user.bytes / SSD_LARGE_BYTES;
    struct umbp_get_item items[BENCH_BATCH];
    enum umbp_status statuses[BENCH_BATCH];
    for (size_t i = 0; i < count; i++) {
        /* into another block than it came from, so that bytes left there can't pass for it */
        size_t block = (first + i + 1) % blocks;
        items[i] = (struct umbp_get_item){
            run->keys.keys[first + i], bench->user.data + block * SSD_LARGE_BYTES, SSD_LARGE_BYTES};
    }
    enum umbp_status status = umbp_batch_get(run->client, items, count, statuses);
    if (!bench_check(bench, "get", status, statuses, count)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!bench_is_stamped(items[i].data, SSD_LARGE_BYTES, (first + i) % blocks)) {
            return bench_fail(bench, "a get brought the bytes of another value");
        }
    }
    return true;
}

static bool read_set(struct ssd_run *run, uint64_t *ns_out)
{
    size_t count = (size_t)(run->set_bytes / SSD_LARGE_BYTES);
    uint64_t hits = bench_stat(run->client, "hits.ssd");
    uint64_t start_ns = bench_now_ns();
    for (size_t at = 0; at < count; at += BENCH_BATCH) {
        if (!get_batch(run, at, size_min(BENCH_BATCH, count - at))) {
            return false;
        }
    }
    *ns_out = bench_now_ns() - start_ns;
    return bench_stat(run->client, "hits.ssd") - hits == count ||
           bench_fail(run->bench, "values that should have come from the SSD did not");
}

static bool read_row(struct ssd_run *run)
{
    struct bench_row row = {.unit = "GB/s", .bar_kind = BENCH_BAR_RATIO_MIN, .bar = 0.90};
    struct bench_series measured = {.count = 0};
    struct bench_limit limit = {.name = raw_name};

    bench_row_name(&row, "ssd.read.1MiB");
    for (unsigned round = 0; round <= run->repeat; round++) {
        uint64_t ns = 0;
        if (round == 1) {
            measured.count = limit.series.count = 0;
        }
        if (!bench_goes_on(run->bench, row.name, round, run->repeat) ||
            !sample_raw(run, false, &limit) || !read_set(run, &ns)) {
            return false;
        }
        bench_series_add(&measured, bench_gbps(run->set_bytes, ns));
    }
    bench_row_hold(&row, &measured, &limit, run->raw != NULL ? 1 : 0);
    bench_row_note(&row, "batches of %u", BENCH_BATCH);
    bench_row_add(run->bench, &row);
    run->read_ns_per_byte = 1.0 / row.value;
    return true;
}

/*
 * Values are checked while they are copied out of the I/O buffers, so the checksum costs what a
 * copy with it takes longer than one without. Of the time of a get, measured above.
 */
static bool checksum_row(struct ssd_run *run)
{
    struct bench *bench = run->bench;
    struct bench_row row = {
        .unit = "% of a get", .bar_kind = BENCH_BAR_VALUE_MAX, .bar = CHECKSUM_BAR_PERCENT};
    struct bench_series shares = {.count = 0};
    size_t total = size_min(bench->user.bytes, 128 * MIB);
    size_t range = size_min(total, CHECKSUM_SOURCE_BYTES);
    volatile uint32_t sink = 0;

    for (unsigned round = 0; round < bench->options.repeat; round++) {
        uint64_t start_ns = bench_now_ns();
        for (size_t at = 0; at < total; at += SSD_LARGE_BYTES) {
            copy_bytes(bench->user.data + at, bench->pool.data + at % range, SSD_LARGE_BYTES);
        }
        uint64_t middle_ns = bench_now_ns();
        for (size_t at = 0; at < total; at += SSD_LARGE_BYTES) {
            sink = sink ^ copy_bytes_crc(bench->user.data + at, bench->pool.data + at % range,
                                         SSD_LARGE_BYTES, 0);
        }
        double plain_ns = (double)(middle_ns - start_ns);
        double extra_ns = (double)(bench_now_ns() - middle_ns) - plain_ns;
        bench_series_add(&shares, 100.0 * (extra_ns > 0.0 ? extra_ns : 0.0) /
                                      ((double)total * run->read_ns_per_byte));
    }
    bench_row_name(&row, "ssd.checksum");
    bench_row_take(&row, &shares);
    bench_row_note(&row, "a copy with it against one without, of a get's time");
    bench_row_add(bench, &row);
    return true;
}

/* --------------------------------------------------------------------------- both -------- */

static bool run_ssd(struct ssd_run *run)
{
    struct bench *bench = run->bench;
    size_t blocks = bench->user.bytes / SSD_LARGE_BYTES;
    uint64_t dram_bytes = run->set_bytes + run->set_bytes / 4;

    if (!open_store(run, dram_bytes, false) || !write_row(run, SSD_SMALL_BYTES, 0.80)) {
        return false;
    }
    for (size_t i = 0; i < blocks; i++) {
        bench_stamp(bench->user.data + i * SSD_LARGE_BYTES, SSD_LARGE_BYTES, i);
    }
    if (!write_row(run, SSD_LARGE_BYTES, 0.90)) {
        return false;
    }
    /* The last set written is read by a store that has it on the SSD only. */
    close_store(run);
    return open_store(run, SSD_READ_DRAM_BYTES, true) && read_row(run) && checksum_row(run);
}

bool bench_ssd(struct bench *bench)
{
    struct ssd_run run = {.bench = bench};
    char raw_path[BENCH_PATH_BYTES];

    if (bench->ssd_bytes == 0) {
        bench_row_skip(bench, "ssd", "no SSD tier");
        return true;
    }
    if (!bench_arenas(bench) || !bench_path(bench, "ssd", run.directory) ||
        !bench_path(bench, "raw", raw_path)) {
        return false;
    }
    run.repeat = bench->options.repeat;
    run.set_bytes = u64_min(SSD_SET_BYTES_MAX, u64_min(bench->ssd_bytes, bench->dram_bytes) / 2);
    run.set_bytes = align_down(run.set_bytes, SSD_LARGE_BYTES);
    if (!has_space(bench, 4 * run.set_bytes)) {
        bench_row_skip(bench, "ssd", "the file system is too full");
        return true;
    }
    enum umbp_status status = bench_raw_create(raw_path, run.set_bytes, &bench->pool, &run.raw);
    if (status != UMBP_OK && status != UMBP_UNSUPPORTED) {
        return bench_check(bench, "raw I/O", status, NULL, 0);
    }
    bool goes_on = bench_keys_create(bench, (size_t)(run.set_bytes / SSD_SMALL_BYTES), &run.keys);
    if (goes_on) {
        goes_on = run_ssd(&run);
        bench_keys_destroy(&run.keys);
    }
    close_store(&run);
    bench_raw_destroy(run.raw);
    bench_remove_tree(run.directory);
    return goes_on;
}

/* ------------------------------------------------------------------------ restart -------- */

#define RESTART_VALUE_BYTES ((size_t)512)
#define RESTART_RECORDS 1000000u
#define RESTART_RECORDS_QUICK 20000u
#define RESTART_BAR_S 2.0
#define RESTART_DRAM_BYTES (128 * MIB) /* touching it is a part of the start */
#define RESTART_REPEAT_MAX 3u
#define RESTART_FLUSH_RECORDS                                                                      \
    ((size_t)64 << 10) /* 32 MiB: all in memory until they are written                             \
                        */

static bool write_records(struct ssd_run *run, size_t count)
{
    struct bench *bench = run->bench;
    size_t blocks = bench->user.bytes / RESTART_VALUE_BYTES;
    for (size_t at = 0; at < count; at += RESTART_FLUSH_RECORDS) {
        size_t part = size_min(RESTART_FLUSH_RECORDS, count - at);
        if (!bench_goes_on(bench, "restart: writing records", at, count) ||
            !bench_fill(bench, run->client, &run->keys, at, part, bench->user.data,
                        RESTART_VALUE_BYTES, blocks) ||
            !bench_check(bench, "flush", umbp_flush(run->client, 0), NULL, 0)) {
            return false;
        }
    }
    return true;
}

/* What is in the page cache of the store's files is no measure of a start. */
static void forget_pages(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        (void)close(fd);
    }
}

static bool time_starts(struct ssd_run *run, size_t count)
{
    struct bench *bench = run->bench;
    struct bench_row row = {.unit = "s", .bar_kind = BENCH_BAR_VALUE_MAX};
    struct bench_series times = {.count = 0};
    for (unsigned round = 0; round < run->repeat; round++) {
        close_store(run);
        bench_settle(bench);
        bench_visit_tree(run->directory, forget_pages);
        uint64_t start_ns = bench_now_ns();
        if (!bench_goes_on(bench, "restart", round, run->repeat) ||
            !open_store(run, RESTART_DRAM_BYTES, false)) {
            return false;
        }
        bench_series_add(&times, (double)(bench_now_ns() - start_ns) / 1e9);
        uint64_t keys = bench_stat(run->client, "keys");
        if (keys != count) {
            return bench_fail(bench, "after a restart there are %llu of %zu keys",
                              (unsigned long long)keys, count);
        }
    }
    bench_row_name(&row, "restart");
    bench_row_take(&row, &times);
    row.bar = RESTART_BAR_S;
    bench_row_note(&row, "%zu records of %zu bytes", count, RESTART_VALUE_BYTES);
    bench_row_add(bench, &row);
    return true;
}

bool bench_restart(struct bench *bench)
{
    struct ssd_run run = {.bench = bench};
    size_t count = bench->options.is_quick ? RESTART_RECORDS_QUICK : RESTART_RECORDS;
    uint64_t needed_bytes = (uint64_t)count * 5 * KIB; /* a block each, and the footers */

    if (bench->ssd_bytes == 0) {
        bench_row_skip(bench, "restart", "no SSD tier");
        return true;
    }
    if (!bench_path(bench, "restart", run.directory)) {
        return false;
    }
    if (bench->ssd_bytes < needed_bytes || !has_space(bench, needed_bytes)) {
        bench_row_skip(bench, "restart", "needs 5 GiB of SSD (--quick: 100 MiB)");
        return true;
    }
    run.repeat =
        bench->options.repeat < RESTART_REPEAT_MAX ? bench->options.repeat : RESTART_REPEAT_MAX;
    if (!bench_arenas(bench) || !bench_keys_create(bench, count, &run.keys)) {
        return false;
    }
    bool goes_on = open_store(&run, RESTART_DRAM_BYTES, false) && write_records(&run, count) &&
                   time_starts(&run, count);
    close_store(&run);
    bench_keys_destroy(&run.keys);
    bench_remove_tree(run.directory);
    return goes_on;
}
