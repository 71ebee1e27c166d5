/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table at the end of a replay: rows of text, a column for each run, so that one policy and
 * several side by side are the same table. Rows of evictions and copies come from the store's own
 * statistics, by prefix: a new reason for a drop shows up without a change here.
 */
#include "tools/tool_replay.h"

#include <inttypes.h>

#define COLUMN 18

static double rate_gbs(uint64_t bytes, uint64_t ns)
{
    return ns > 0 ? (double)bytes / (double)ns : 0.0;
}

/* 1234567 as "1,234,567". */
static void format_count(uint64_t value, char *text_out, size_t text_bytes)
{
    char digits[24];
    int count = snprintf(digits, sizeof digits, "%" PRIu64, value);
    size_t at = 0;
    for (int i = 0; i < count && at + 2 < text_bytes; i++) {
        if (i > 0 && (count - i) % 3 == 0) {
            text_out[at++] = ',';
        }
        text_out[at++] = digits[i];
    }
    text_out[at] = '\0';
}

/* What a row shows of a result. */
enum row_kind {
    ROW_REQUESTS,
    ROW_BLOCKS,
    ROW_HITS,
    ROW_RATIO,
    ROW_HITS_DRAM,
    ROW_HITS_SSD,
    ROW_LOST,
    ROW_STRAY,
    ROW_BYTES_GET,
    ROW_BYTES_DRAM_OUT,
    ROW_BYTES_SSD_OUT,
    ROW_BYTES_PUT,
    ROW_BYTES_SSD_IN,
    ROW_PUTS_KNOWN,
    ROW_PUTS_FAILED,
    ROW_RATE_GET,
    ROW_RATE_PUT,
    ROW_RATE_ALL,
    ROW_SECONDS,
    ROW_LOOKUP,
    ROW_GET = ROW_LOOKUP + 3,
    ROW_PUT = ROW_GET + 3,
    ROW_DAMAGED = ROW_PUT + 3,
    ROW_CORRUPT,
    ROW_COUNT
};

static const char *const row_labels[ROW_COUNT] = {
    [ROW_REQUESTS] = "requests",
    [ROW_BLOCKS] = "blocks asked",
    [ROW_HITS] = "prefix hits",
    [ROW_RATIO] = "hit ratio",
    [ROW_HITS_DRAM] = "hits in DRAM",
    [ROW_HITS_SSD] = "hits on SSD",
    [ROW_LOST] = "gone before read",
    [ROW_STRAY] = "read in vain",
    [ROW_BYTES_GET] = "bytes out",
    [ROW_BYTES_DRAM_OUT] = "  of DRAM",
    [ROW_BYTES_SSD_OUT] = "  of SSD",
    [ROW_BYTES_PUT] = "bytes in",
    [ROW_BYTES_SSD_IN] = "  to SSD",
    [ROW_PUTS_KNOWN] = "puts known already",
    [ROW_PUTS_FAILED] = "puts failed",
    [ROW_RATE_GET] = "get, GB/s",
    [ROW_RATE_PUT] = "put, GB/s",
    [ROW_RATE_ALL] = "overall, GB/s",
    [ROW_SECONDS] = "seconds",
    [ROW_LOOKUP] = "lookup p50",
    [ROW_LOOKUP + 1] = "lookup p99",
    [ROW_LOOKUP + 2] = "lookup p99.9",
    [ROW_GET] = "get p50",
    [ROW_GET + 1] = "get p99",
    [ROW_GET + 2] = "get p99.9",
    [ROW_PUT] = "put p50",
    [ROW_PUT + 1] = "put p99",
    [ROW_PUT + 2] = "put p99.9",
    [ROW_DAMAGED] = "failed checksums",
    [ROW_CORRUPT] = "corrupt",
};

static uint64_t quantile_ns(const struct replay_result *result, int row)
{
    static const double quantiles[] = {0.5, 0.99, 0.999};
    const struct replay_phase *phase = row < ROW_GET   ? &result->lookup
                                       : row < ROW_PUT ? &result->get
                                                       : &result->put;
    return histogram_quantile(&phase->latency, quantiles[(row - ROW_LOOKUP) % 3]);
}

static uint64_t row_count(const struct replay_result *result, int row)
{
    switch (row) {
    case ROW_REQUESTS:
        return result->requests;
    case ROW_BLOCKS:
        return result->blocks;
    case ROW_HITS:
        return result->prefix_hits;
    case ROW_HITS_DRAM:
        return replay_stat(result, "hits.dram");
    case ROW_HITS_SSD:
        return replay_stat(result, "hits.ssd");
    case ROW_LOST:
        return result->lost;
    case ROW_STRAY:
        return result->stray_hits;
    case ROW_PUTS_KNOWN:
        return result->puts_known;
    case ROW_PUTS_FAILED:
        return result->puts_failed;
    case ROW_DAMAGED:
        return replay_stat(result, "corrupt");
    default:
        return result->corrupt;
    }
}

static uint64_t row_bytes(const struct replay_result *result, int row)
{
    switch (row) {
    case ROW_BYTES_GET:
        return result->bytes_get;
    case ROW_BYTES_DRAM_OUT:
        return replay_stat(result, "bytes.dram_out");
    case ROW_BYTES_SSD_OUT:
        return replay_stat(result, "bytes.ssd_out");
    case ROW_BYTES_SSD_IN:
        return replay_stat(result, "copies.bytes");
    default:
        return result->bytes_put;
    }
}

static double row_real(const struct replay_result *result, int row)
{
    switch (row) {
    case ROW_RATIO:
        return replay_hit_ratio(result);
    case ROW_RATE_GET:
        return rate_gbs(result->bytes_get, result->get.spent_ns);
    case ROW_RATE_PUT:
        return rate_gbs(result->bytes_put, result->put.spent_ns);
    case ROW_RATE_ALL:
        return rate_gbs(result->bytes_get + result->bytes_put, result->wall_ns);
    default:
        return (double)result->wall_ns / 1e9;
    }
}

static void format_cell(const struct replay_result *result, int row, char *text_out,
                        size_t text_bytes)
{
    if (row == ROW_RATIO) {
        snprintf(text_out, text_bytes, "%.4f", row_real(result, row));
    } else if (row >= ROW_RATE_GET && row <= ROW_SECONDS) {
        snprintf(text_out, text_bytes, "%.2f", row_real(result, row));
    } else if (row >= ROW_BYTES_GET && row <= ROW_BYTES_SSD_IN) {
        units_format_bytes(row_bytes(result, row), text_out, text_bytes);
    } else if (row >= ROW_LOOKUP && row < ROW_DAMAGED) {
        units_format_ns(quantile_ns(result, row), text_out, text_bytes);
    } else {
        format_count(row_count(result, row), text_out, text_bytes);
    }
}

static void print_label(const char *label) { printf("%-28s", label); }

/* Rows that are only worth a line when there is something to tell. */
static bool is_rare(int row)
{
    return row == ROW_LOST || row == ROW_STRAY || row == ROW_PUTS_KNOWN || row == ROW_PUTS_FAILED ||
           row == ROW_DAMAGED;
}

static void print_row(const struct replay_result *const *results, size_t count, int row)
{
    char text[32];
    bool is_shown = !is_rare(row);
    for (size_t i = 0; i < count; i++) {
        is_shown = is_shown || row_count(results[i], row) > 0;
    }
    if (!is_shown) {
        return;
    }
    print_label(row_labels[row]);
    for (size_t i = 0; i < count; i++) {
        format_cell(results[i], row, text, sizeof text);
        printf("%*s", COLUMN, text);
    }
    putchar('\n');
}

/* All counters whose names begin so. */
static void print_statistics(const struct replay_result *const *results, size_t count,
                             const char *prefix)
{
    char text[32];
    for (size_t s = 0; s < results[0]->stat_count; s++) {
        const struct umbp_stat_value *value = &results[0]->stats[s];
        if (!value->is_counter || strncmp(value->name, prefix, strlen(prefix)) != 0) {
            continue;
        }
        print_label(value->name);
        for (size_t i = 0; i < count; i++) {
            format_count(replay_stat(results[i], value->name), text, sizeof text);
            printf("%*s", COLUMN, text);
        }
        putchar('\n');
    }
}

void replay_print_table(const struct replay_result *const *results, const char *const *names,
                        size_t count)
{
    if (count > 1) {
        print_label("policy");
        for (size_t i = 0; i < count; i++) {
            printf("%*s", COLUMN, names[i]);
        }
        putchar('\n');
    }
    for (int row = 0; row < ROW_DAMAGED; row++) {
        print_row(results, count, row);
    }
    print_statistics(results, count, "evictions.");
    print_statistics(results, count, "copies.");
    print_row(results, count, ROW_DAMAGED);
    print_row(results, count, ROW_CORRUPT);
    for (size_t i = 0; i < count; i++) {
        if (results[i]->puts_failed > 0) {
            printf("puts failed%s%s: %s\n", count > 1 ? " under " : "", count > 1 ? names[i] : "",
                   umbp_status_text(results[i]->put_failure));
        }
        if (results[i]->flush != UMBP_OK) {
            printf("the flush at the end%s%s: %s\n", count > 1 ? " under " : "",
                   count > 1 ? names[i] : "", umbp_status_text(results[i]->flush));
        }
    }
}

static void add_latencies(json_t *object, const char *name, const struct replay_phase *phase)
{
    (void)json_object_set_new(
        object, name,
        json_pack("{s:I,s:I,s:I}", "p50", (json_int_t)histogram_quantile(&phase->latency, 0.5),
                  "p99", (json_int_t)histogram_quantile(&phase->latency, 0.99), "p999",
                  (json_int_t)histogram_quantile(&phase->latency, 0.999)));
}

json_t *replay_json_so_far(const struct replay_result *result)
{
    return json_pack("{s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "so_far", 1, "requests",
                     (json_int_t)result->requests, "blocks", (json_int_t)result->blocks,
                     "prefix_hits", (json_int_t)result->prefix_hits, "bytes_get",
                     (json_int_t)result->bytes_get, "bytes_put", (json_int_t)result->bytes_put,
                     "get_spent_ns", (json_int_t)result->get.spent_ns, "put_spent_ns",
                     (json_int_t)result->put.spent_ns, "lost", (json_int_t)result->lost, "corrupt",
                     (json_int_t)result->corrupt, "puts_failed", (json_int_t)result->puts_failed);
}

json_t *replay_json(const struct replay_result *result, const char *policy, const char *source,
                    size_t block_bytes)
{
    json_t *object = json_pack(
        "{s:s,s:s,s:I,s:I,s:I,s:I,s:f,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b}", "source", source,
        "policy", policy, "block_bytes", (json_int_t)block_bytes, "requests",
        (json_int_t)result->requests, "blocks", (json_int_t)result->blocks, "prefix_hits",
        (json_int_t)result->prefix_hits, "hit_ratio", replay_hit_ratio(result), "hits_dram",
        (json_int_t)replay_stat(result, "hits.dram"), "hits_ssd",
        (json_int_t)replay_stat(result, "hits.ssd"), "bytes_get", (json_int_t)result->bytes_get,
        "bytes_put", (json_int_t)result->bytes_put, "corrupt", (json_int_t)result->corrupt, "lost",
        (json_int_t)result->lost, "stray_hits", (json_int_t)result->stray_hits, "puts_known",
        (json_int_t)result->puts_known, "puts_failed", (json_int_t)result->puts_failed, "stopped",
        result->was_stopped);
    json_t *stats = json_object();
    if (object == NULL || stats == NULL) {
        json_decref(object);
        json_decref(stats);
        return NULL;
    }
    (void)json_object_set_new(object, "seconds", json_real((double)result->wall_ns / 1e9));
    (void)json_object_set_new(object, "get_gbs", json_real(row_real(result, ROW_RATE_GET)));
    (void)json_object_set_new(object, "put_gbs", json_real(row_real(result, ROW_RATE_PUT)));
    (void)json_object_set_new(object, "get_spent_ns",
                              json_integer((json_int_t)result->get.spent_ns));
    (void)json_object_set_new(object, "put_spent_ns",
                              json_integer((json_int_t)result->put.spent_ns));
    add_latencies(object, "lookup_ns", &result->lookup);
    add_latencies(object, "get_ns", &result->get);
    add_latencies(object, "put_ns", &result->put);
    for (size_t i = 0; i < result->stat_count; i++) {
        (void)json_object_set_new(stats, result->stats[i].name,
                                  json_integer((json_int_t)result->stats[i].value));
    }
    (void)json_object_set_new(object, "stats", stats);
    return object;
}
