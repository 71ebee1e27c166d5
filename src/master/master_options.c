/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The master's knobs: one table of the published variables, read the way that the public master
 * reads them (src/umbp/include/umbp/common/env_time.h and doc/runtime-env-vars.md of ROCm/mori):
 * blanks before and a sign are taken, anything behind the digits is not, below the least is not,
 * enums are trimmed and matched exactly.
 */
#include <ctype.h>
#include <errno.h>
#include <stdatomic.h>

#include "master/master.h"

enum row_kind {
    ROW_NUMBER,
    ROW_ALGORITHM,
    ROW_AFFINITY,
    ROW_BACKEND,
};

struct row {
    const char *variable;
    const char *unit;
    const char *help;
    size_t offset;
    uint64_t fallback;
    uint64_t least;
    uint64_t most;  /* more is a bad value ... */
    uint64_t clamp; /* ... but more than this, if not 0, is taken as this */
    enum row_kind kind;
};

#define FIELD(name) offsetof(struct master_options, name)
/* A thousand years: what is longer would overflow when it is turned into ns and added up. */
#define SECONDS_MAX UINT64_C(1000000)
#define MS_MAX (SECONDS_MAX * 1000)

static const struct row rows[] = {
    {"UMBP_HEARTBEAT_TTL_SEC", "s", "a node is expected to beat within this",
     FIELD(heartbeat_ttl_sec), 10, 1, SECONDS_MAX, 0, ROW_NUMBER},
    {"UMBP_MAX_MISSED_HEARTBEATS", "", "so many TTLs without a beat and a node has expired",
     FIELD(max_missed_heartbeats), 3, 1, 1000000, 0, ROW_NUMBER},
    {"UMBP_HEARTBEAT_INTERVAL_DIVISOR", "", "nodes are told to beat every TTL divided by this",
     FIELD(heartbeat_interval_divisor), 2, 1, UINT32_MAX, 0, ROW_NUMBER},
    {"UMBP_REAPER_INTERVAL_SEC", "s", "how often expired nodes are looked for",
     FIELD(reaper_interval_sec), 5, 1, SECONDS_MAX, 0, ROW_NUMBER},
    {"UMBP_EVICTION_CHECK_INTERVAL_SEC", "s", "how often the adviser looks for full tiers",
     FIELD(eviction_check_interval_sec), 5, 1, SECONDS_MAX, 0, ROW_NUMBER},
    {"UMBP_LEASE_DURATION_SEC", "s",
     "a key routed to for reading is not proposed for eviction that long",
     FIELD(lease_duration_sec), 2, 1, SECONDS_MAX, 0, ROW_NUMBER},
    {"UMBP_HIT_INDEX_TTL_SEC", "s",
     "hit counts of external hashes are forgotten after this without a hit",
     FIELD(hit_index_ttl_sec), 7200, 1, SECONDS_MAX, 0, ROW_NUMBER},
    {"UMBP_HIT_INDEX_GC_INTERVAL_SEC", "s", "how often old hit counts are collected",
     FIELD(hit_index_gc_interval_sec), 60, 1, SECONDS_MAX, 0, ROW_NUMBER},
    {"UMBP_HIT_QUERY_MAX_BATCH", "", "hashes of one query of hit counts",
     FIELD(hit_query_max_batch), 4096, 1, UINT32_MAX, MASTER_BATCH_MAX, ROW_NUMBER},
    {"UMBP_MASTER_INDEX_SHARDS", "", "locks of the block index; rounded up to a power of two",
     FIELD(index_shards), 32, 1, INT64_MAX, 4096, ROW_NUMBER},
    {"UMBP_ROUTE_PUT_SELECT_ALGO", "", "most_available or random (weighted by what is available)",
     FIELD(put_algorithm), MASTER_PUT_MOST_AVAILABLE, 0, 0, 0, ROW_ALGORITHM},
    {"UMBP_ROUTE_PUT_NODE_AFFINITY", "",
     "none, same (a batch together) or local (the writer's node)", FIELD(put_affinity),
     MASTER_AFFINITY_NONE, 0, 0, 0, ROW_AFFINITY},
    {"UMBP_METADATA_BACKEND", "",
     "where the index is kept: inmemory; nodes list anew after a restart", FIELD(metadata_backend),
     0, 0, 0, 0, ROW_BACKEND},
    {"UMBP_EVICTKEY_DEADLINE_MS", "ms", "deadline of a call to a peer to evict keys",
     FIELD(evictkey_deadline_ms), 1000, 1, MS_MAX, 0, ROW_NUMBER},
    {"UMBP_GRPC_SHUTDOWN_DEADLINE_SEC", "s", "calls under way at a shutdown get this long",
     FIELD(grpc_shutdown_deadline_sec), 3, 1, SECONDS_MAX, 0, ROW_NUMBER},
    {"UMBP_MASTER_MIN_POLLERS", "", "threads of the gRPC door, at least", FIELD(min_pollers), 8, 1,
     INT64_MAX, 1024, ROW_NUMBER},
    {"UMBP_MASTER_MAX_POLLERS", "", "threads of the gRPC door, at most", FIELD(max_pollers), 64, 1,
     INT64_MAX, 1024, ROW_NUMBER},
};

static const char *const algorithm_names[] = {"most_available", "random"};
static const char *const backend_names[] = {"inmemory"};
static const char *const affinity_names[] = {"none", "same", "local"};

static uint64_t *field_of(struct master_options *options, const struct row *row)
{
    return (uint64_t *)(void *)((char *)options + row->offset);
}

void master_options_default(struct master_options *options)
{
    memset(options, 0, sizeof(*options));
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        *field_of(options, &rows[i]) = rows[i].fallback;
    }
    options->nodes_max = MASTER_NODES_MAX;
    options->keys_max = UINT64_C(256) << 20;
    options->external_keys_max = UINT64_C(64) << 20;
    options->evict_high_watermark = 0.9;
    options->evict_low_watermark = 0.7;
    options->evict_batch = 4096;
    options->forget_after_sec = 3600;
    options->put_window_ms = 500;
}

/* As strtoll in base 10 with nothing behind; false for negative numbers too. */
static bool parse_number(const char *text, uint64_t *value_out)
{
    uint64_t value = 0;
    while (isspace((unsigned char)*text)) {
        text++;
    }
    if (*text == '+') {
        text++;
    }
    if (*text == '\0') {
        return false;
    }
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || __builtin_mul_overflow(value, UINT64_C(10), &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value) || value > INT64_MAX) {
            return false;
        }
    }
    *value_out = value;
    return true;
}

static bool parse_name(const char *text, const char *const *names, size_t count,
                       uint64_t *value_out)
{
    size_t bytes = strlen(text);
    while (bytes > 0 && isspace((unsigned char)*text)) {
        text++;
        bytes--;
    }
    while (bytes > 0 && isspace((unsigned char)text[bytes - 1])) {
        bytes--;
    }
    for (size_t i = 0; i < count; i++) {
        if (strlen(names[i]) == bytes && !memcmp(names[i], text, bytes)) {
            *value_out = i;
            return true;
        }
    }
    return false;
}

static bool parse_row(const struct row *row, const char *text, uint64_t *value_out)
{
    uint64_t value;
    switch (row->kind) {
    case ROW_ALGORITHM:
        return parse_name(text, algorithm_names, ARRAY_COUNT(algorithm_names), value_out);
    case ROW_AFFINITY:
        return parse_name(text, affinity_names, ARRAY_COUNT(affinity_names), value_out);
    case ROW_BACKEND:
        return parse_name(text, backend_names, ARRAY_COUNT(backend_names), value_out);
    case ROW_NUMBER:
        break;
    }
    if (!parse_number(text, &value) || value < row->least || value > row->most) {
        return false;
    }
    *value_out = row->clamp ? u64_min(value, row->clamp) : value;
    return true;
}

static const char *process_environment(void *context, const char *name)
{
    (void)context;
    return getenv(name);
}

/* "One warning per name and process" needs a memory of the process; nothing else leans on it. */
static _Atomic bool warned[ARRAY_COUNT(rows)];

void master_options_from_env(struct master_options *options,
                             const char *(*get)(void *context, const char *name), void *context)
{
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        const char *text = (get ? get : process_environment)(context, rows[i].variable);
        uint64_t value = rows[i].fallback;
        if (!text || !*text) {
            continue;
        }
        /* relaxed: only who was first matters */
        if (!parse_row(&rows[i], text, &value) &&
            !atomic_exchange_explicit(&warned[i], true, memory_order_relaxed)) {
            struct master_option_row shown;
            (void)master_option_row(NULL, i, &shown);
            log_warn("bad_environment", "name=%s value=\"%.80s\" used=%s", rows[i].variable, text,
                     shown.fallback);
        }
        *field_of(options, &rows[i]) = value;
    }
    options->max_pollers = u64_max(options->max_pollers, options->min_pollers);
}

static void show(const struct row *row, uint64_t value, char *text_out, size_t bytes)
{
    if (row->kind == ROW_ALGORITHM) {
        snprintf(text_out, bytes, "%s", algorithm_names[value]);
    } else if (row->kind == ROW_AFFINITY) {
        snprintf(text_out, bytes, "%s", affinity_names[value]);
    } else if (row->kind == ROW_BACKEND) {
        snprintf(text_out, bytes, "%s", backend_names[value]);
    } else {
        snprintf(text_out, bytes, "%llu", (unsigned long long)value);
    }
}

bool master_option_row(const struct master_options *options, size_t index,
                       struct master_option_row *row_out)
{
    if (index >= ARRAY_COUNT(rows)) {
        return false;
    }
    const struct row *row = &rows[index];
    const uint64_t *field =
        options ? (const uint64_t *)(const void *)((const char *)options + row->offset)
                : &row->fallback;
    memset(row_out, 0, sizeof(*row_out));
    row_out->variable = row->variable;
    row_out->help = row->help;
    row_out->unit = row->unit;
    show(row, *field, row_out->value, sizeof(row_out->value));
    show(row, row->fallback, row_out->fallback, sizeof(row_out->fallback));
    return true;
}

static void tell_names(const char *const *names, size_t count, char *text_out, size_t bytes)
{
    size_t at = 0;
    text_out[0] = '\0';
    for (size_t i = 0; i < count && at < bytes; i++) {
        int more = snprintf(text_out + at, bytes - at, "%s%s", i > 0 ? ", " : "", names[i]);
        at += more > 0 ? (size_t)more : 0;
    }
}

bool master_option_check(size_t index, const char *text, char *wanted_out, size_t wanted_bytes)
{
    const struct row *row = &rows[index];
    uint64_t value;
    ASSERT(index < ARRAY_COUNT(rows));
    if (parse_row(row, text, &value)) {
        return true;
    }
    if (row->kind == ROW_ALGORITHM) {
        tell_names(algorithm_names, ARRAY_COUNT(algorithm_names), wanted_out, wanted_bytes);
    } else if (row->kind == ROW_AFFINITY) {
        tell_names(affinity_names, ARRAY_COUNT(affinity_names), wanted_out, wanted_bytes);
    } else if (row->kind == ROW_BACKEND) {
        tell_names(backend_names, ARRAY_COUNT(backend_names), wanted_out, wanted_bytes);
    } else {
        snprintf(wanted_out, wanted_bytes, "a number from %llu to %llu%s%s%s",
                 (unsigned long long)row->least, (unsigned long long)row->most,
                 row->unit[0] != '\0' ? ", in " : "", row->unit,
                 row->unit[0] != '\0' ? " (which is not written)" : "");
    }
    return false;
}

const char *master_tier_name(enum master_tier tier)
{
    static const char *const names[] = {"UNKNOWN", "HBM", "DRAM", "SSD"};
    return (unsigned)tier < ARRAY_COUNT(names) ? names[tier] : names[0];
}
