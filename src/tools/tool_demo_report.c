/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/tool_demo.h"

#include <inttypes.h>

struct field {
    const char *name;
    size_t offset;
};

#define FIELD(name, member)                                                                        \
    {                                                                                              \
        name, offsetof(struct demo_count, member)                                                  \
    }

static const struct field fields[] = {
    FIELD("requests", requests),       FIELD("blocks", blocks),
    FIELD("prefix_hits", prefix_hits), FIELD("bytes_get", bytes_get),
    FIELD("bytes_put", bytes_put),     FIELD("get_spent_ns", get_ns),
    FIELD("put_spent_ns", put_ns),     FIELD("lost", lost),
    FIELD("corrupt", corrupt),         FIELD("puts_failed", puts_failed),
};

static uint64_t *field_of(struct demo_count *count, size_t i)
{
    return (uint64_t *)(void *)((char *)count + fields[i].offset);
}

bool demo_count_parse(const char *line, bool *is_last_out, struct demo_count *count_out)
{
    struct demo_count count = {0};
    json_t *object = json_loads(line, 0, NULL);
    bool is_good = json_is_object(object);
    for (size_t i = 0; is_good && i < ARRAY_COUNT(fields); i++) {
        const json_t *value = json_object_get(object, fields[i].name);
        is_good = json_is_integer(value) && json_integer_value(value) >= 0;
        *field_of(&count, i) = is_good ? (uint64_t)json_integer_value(value) : 0;
    }
    if (is_good) {
        *is_last_out = json_object_get(object, "so_far") == NULL;
        *count_out = count;
    }
    json_decref(object);
    return is_good;
}

struct demo_count demo_phase_sum(const struct demo_result *result, enum demo_phase phase,
                                 bool with_host, bool with_network)
{
    struct demo_count sum = {0};
    size_t first = phase == DEMO_PHASES ? 0 : phase;
    size_t last = phase == DEMO_PHASES ? DEMO_PHASES : phase + 1u;
    for (size_t c = 0; c < DEMO_CLIENTS; c++) {
        struct demo_count begin = result->marks[first][c];
        struct demo_count end = result->marks[last][c];
        if (!(result->is_network[c] ? with_network : with_host)) {
            continue;
        }
        for (size_t i = 0; i < ARRAY_COUNT(fields); i++) {
            *field_of(&sum, i) += *field_of(&end, i) - *field_of(&begin, i);
        }
    }
    return sum;
}

uint64_t demo_errors(const struct demo_result *result)
{
    return result->failed_clients + demo_phase_sum(result, DEMO_PHASES, true, true).puts_failed;
}

static double seconds_of(const struct demo_result *result, enum demo_phase phase)
{
    size_t first = phase == DEMO_PHASES ? 0 : phase;
    size_t last = phase == DEMO_PHASES ? DEMO_PHASES : phase + 1u;
    return (double)(result->times_ns[last] - result->times_ns[first]) / 1e9;
}

static double rate(uint64_t bytes, uint64_t ns)
{
    return ns > 0 ? (double)bytes / (double)ns : 0.0;
}

enum row {
    ROW_REQUESTS,
    ROW_BLOCKS,
    ROW_RATIO,
    ROW_GET_HOST,
    ROW_GET_NETWORK,
    ROW_PUT_HOST,
    ROW_PUT_NETWORK,
    ROW_ALL,
    ROW_LOST,
    ROW_SECONDS,
    ROWS
};

static const struct {
    const char *label;
    const char *json;
    int decimals;
} rows[ROWS] = {
    [ROW_REQUESTS] = {"requests", "requests", 0},
    [ROW_BLOCKS] = {"blocks asked", "blocks", 0},
    [ROW_RATIO] = {"hit rate", "hit_rate", 4},
    [ROW_GET_HOST] = {"get, local (one host), GB/s", "get_local_gbs", 2},
    [ROW_GET_NETWORK] = {"get, remote (TCP), GB/s", "get_remote_gbs", 2},
    [ROW_PUT_HOST] = {"put, local (one host), GB/s", "put_local_gbs", 2},
    [ROW_PUT_NETWORK] = {"put, remote (TCP), GB/s", "put_remote_gbs", 2},
    [ROW_ALL] = {"moved in all, GB/s", "moved_gbs", 2},
    [ROW_LOST] = {"gone before read", "lost", 0},
    [ROW_SECONDS] = {"seconds", "seconds", 2},
};

static double cell(const struct demo_result *result, enum demo_phase phase, enum row row)
{
    struct demo_count all = demo_phase_sum(result, phase, true, true);
    struct demo_count host = demo_phase_sum(result, phase, true, false);
    struct demo_count network = demo_phase_sum(result, phase, false, true);
    double seconds = seconds_of(result, phase);
    switch (row) {
    case ROW_REQUESTS:
        return (double)all.requests;
    case ROW_BLOCKS:
        return (double)all.blocks;
    case ROW_RATIO:
        return all.blocks > 0 ? (double)all.prefix_hits / (double)all.blocks : 0;
    case ROW_GET_HOST:
        return rate(host.bytes_get, host.get_ns);
    case ROW_GET_NETWORK:
        return rate(network.bytes_get, network.get_ns);
    case ROW_PUT_HOST:
        return rate(host.bytes_put, host.put_ns);
    case ROW_PUT_NETWORK:
        return rate(network.bytes_put, network.put_ns);
    case ROW_ALL:
        return seconds > 0 ? (double)(all.bytes_get + all.bytes_put) / 1e9 / seconds : 0;
    case ROW_LOST:
        return (double)all.lost;
    default:
        return seconds;
    }
}

void demo_print(const struct demo_result *result)
{
    static const char *const names[] = {"before", "node gone", "after", "all"};
    char block[32], node[32];
    units_format_bytes(result->block_bytes, block, sizeof block);
    units_format_bytes(result->node_bytes, node, sizeof node);
    printf("%s: 1 master, %u nodes of %s, %u clients (two of them by TCP only), blocks of %s\n\n",
           result->source, DEMO_NODES, node, DEMO_CLIENTS, block);
    printf("%-30s", "");
    for (size_t p = 0; p <= DEMO_PHASES; p++) {
        printf("%12s", names[p]);
    }
    putchar('\n');
    for (size_t r = 0; r < ROWS; r++) {
        printf("%-30s", rows[r].label);
        for (size_t p = 0; p <= DEMO_PHASES; p++) {
            char text[32];
            double value = cell(result, (enum demo_phase)p, (enum row)r);
            snprintf(text, sizeof text, "%.*f", rows[r].decimals, value);
            printf("%12s", text);
        }
        putchar('\n');
    }
    printf("%-30s%48" PRIu64 "\n", "errors", demo_errors(result));
    printf("%-30s%48" PRIu64 "\n", "corrupt",
           demo_phase_sum(result, DEMO_PHASES, true, true).corrupt);
}

json_t *demo_json(const struct demo_result *result)
{
    static const char *const names[] = {"before", "gone", "after", "all"};
    json_t *object =
        json_pack("{s:s,s:s,s:I,s:I,s:i,s:i,s:I,s:I}", "demo", "cluster", "source", result->source,
                  "block_bytes", (json_int_t)result->block_bytes, "node_bytes",
                  (json_int_t)result->node_bytes, "nodes", (int)DEMO_NODES, "clients",
                  (int)DEMO_CLIENTS, "errors", (json_int_t)demo_errors(result), "corrupt",
                  (json_int_t)demo_phase_sum(result, DEMO_PHASES, true, true).corrupt);
    for (size_t p = 0; object != NULL && p <= DEMO_PHASES; p++) {
        json_t *phase = json_object();
        for (size_t r = 0; phase != NULL && r < ROWS; r++) {
            double value = cell(result, (enum demo_phase)p, (enum row)r);
            (void)json_object_set_new(phase, rows[r].json, json_real(value));
        }
        if (phase == NULL || json_object_set_new(object, names[p], phase) != 0) {
            json_decref(object);
            object = NULL;
        }
    }
    return object;
}
