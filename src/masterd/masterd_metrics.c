/* SPDX-License-Identifier: Apache-2.0 */
/* What /metrics tells: the core's metrics under their public names, the two doors', and what
 * clients reported. */
#include "masterd/masterd.h"

struct core_visit {
    struct metrics_text *text;
    char family[METRICS_NAME_BYTES_MAX + 1];
    bool is_open;
};

static void visit(void *context, const struct master_metric *metric)
{
    struct core_visit *state = context;
    struct metrics_label labels[MASTER_LABELS_MAX];
    if (strcmp(state->family, metric->name) != 0) {
        snprintf(state->family, sizeof state->family, "%s", metric->name);
        state->is_open =
            metrics_text_family(state->text, metrics_words_of(metric->name),
                                metric->type == MASTER_COUNTER ? METRICS_COUNTER : METRICS_GAUGE,
                                metrics_words_of(metric->help));
    }
    if (!state->is_open) {
        return;
    }
    for (size_t i = 0; i < metric->label_count; i++) {
        labels[i] = (struct metrics_label){metrics_words_of(metric->labels[i].name),
                                           metrics_words_of(metric->labels[i].value)};
    }
    metrics_text_value(state->text, "", labels, metric->label_count, "", metric->value);
}

static void write_number(struct metrics_text *text, const char *name, enum metrics_type type,
                         const char *help, double value)
{
    if (metrics_text_family(text, metrics_words_of(name), type, metrics_words_of(help))) {
        metrics_text_value(text, "", NULL, 0, "", value);
    }
}

static struct metrics_label method_label(const struct rpc_method_stats *stats)
{
    const char *slash = strrchr(stats->path, '/');
    return (struct metrics_label){metrics_words_of("rpc"),
                                  metrics_words_of(slash != NULL ? slash + 1 : stats->path)};
}

static void write_calls(struct metrics_text *text, const struct rpc_server *server)
{
    struct rpc_method_stats stats;
    if (!metrics_text_family(text, metrics_words_of("umbp_master_rpc_total"), METRICS_COUNTER,
                             metrics_words_of("gRPC calls by method and status"))) {
        return;
    }
    for (size_t i = 0; rpc_server_method_stats(server, i, &stats); i++) {
        for (unsigned code = 0; code < RPC_CODE_COUNT; code++) {
            if (stats.calls[code] > 0 || code == RPC_OK) {
                const struct metrics_label labels[] = {
                    method_label(&stats),
                    {metrics_words_of("code"), metrics_words_of(rpc_code_name(code))},
                };
                metrics_text_value(text, "", labels, 2, "", (double)stats.calls[code]);
            }
        }
    }
}

static void write_latency(struct metrics_text *text, const struct rpc_server *server)
{
    struct rpc_method_stats stats;
    if (!metrics_text_family(text, metrics_words_of("umbp_master_rpc_latency_seconds"),
                             METRICS_HISTOGRAM,
                             metrics_words_of("Time from a whole request to its reply"))) {
        return;
    }
    for (size_t i = 0; rpc_server_method_stats(server, i, &stats); i++) {
        const struct metrics_label label = method_label(&stats);
        uint64_t below = 0;
        if (stats.count == 0) {
            continue;
        }
        for (size_t k = 0; k < RPC_LATENCY_BUCKETS; k++) {
            char bound[32];
            below += stats.latency[k];
            snprintf(bound, sizeof bound, "le=\"%g\"", rpc_latency_bounds_us[k] / 1e6);
            metrics_text_value(text, "_bucket", &label, 1, bound, (double)below);
        }
        /* The numbers are read one by one while calls go on. */
        double all = (double)u64_max(stats.count, below);
        metrics_text_value(text, "_bucket", &label, 1, "le=\"+Inf\"", all);
        metrics_text_value(text, "_sum", &label, 1, "", (double)stats.sum_ns / 1e9);
        metrics_text_value(text, "_count", &label, 1, "", all);
    }
}

static void write_door(struct metrics_text *text, const struct rpc_server *server)
{
    struct rpc_stats stats;
    rpc_server_stats(server, &stats);
    write_number(text, "umbp_master_connections_total", METRICS_COUNTER,
                 "gRPC connections that came", (double)stats.connections);
    write_number(text, "umbp_master_connections_refused_total", METRICS_COUNTER,
                 "Connections over the limit", (double)stats.connections_refused);
    write_number(text, "umbp_master_strangers_total", METRICS_COUNTER,
                 "Connections that did not begin as gRPC does", (double)stats.strangers);
    write_number(text, "umbp_master_signposts_total", METRICS_COUNTER,
                 "Questions for the fabric door", (double)stats.signposts);
    write_number(text, "umbp_master_unknown_methods_total", METRICS_COUNTER,
                 "Calls of methods that do not exist", (double)stats.unknown_methods);
    write_number(text, "umbp_master_replies_cancelled_total", METRICS_COUNTER,
                 "Replies that nobody took in time", (double)stats.cancelled_slow);
    write_number(text, "umbp_master_calls_running", METRICS_GAUGE, "gRPC calls being handled",
                 stats.calls_running);
    write_number(text, "umbp_master_pollers", METRICS_GAUGE, "Threads of the gRPC door",
                 stats.pollers);
    write_number(text, "umbp_master_decode_memory_left_bytes", METRICS_GAUGE,
                 "What decoding may still take", (double)stats.memory_left_bytes);
}

static void write_fabric_door(struct metrics_text *text, const struct door *door)
{
    struct door_counters counters;
    if (door == NULL) {
        return;
    }
    door_counters(door, &counters);
    write_number(text, "umbp_master_fabric_requests_total", METRICS_COUNTER,
                 "Requests at the fabric door", (double)counters.requests);
    write_number(text, "umbp_master_fabric_refused_total", METRICS_COUNTER,
                 "... that made no sense, or were not a master's business",
                 (double)counters.refused);
    write_number(text, "umbp_master_fabric_places_left_off_total", METRICS_COUNTER,
                 "Places of external KV blocks for which an answer had no room",
                 (double)counters.left_off);
}

static void write_evictor(struct metrics_text *text, const struct rpc_evictor *evictor)
{
    static const char *const reasons[RPC_EVICT_SKIP_COUNT] = {
        [RPC_EVICT_SKIP_GONE] = "gone",       [RPC_EVICT_SKIP_ADDRESS] = "address",
        [RPC_EVICT_SKIP_KEY] = "key_unknown", [RPC_EVICT_SKIP_BUSY] = "busy",
        [RPC_EVICT_SKIP_RETRY] = "backoff",   [RPC_EVICT_SKIP_MEMORY] = "memory",
    };
    struct rpc_evict_stats stats;
    rpc_evictor_stats(evictor, &stats);
    if (metrics_text_family(text, metrics_words_of("umbp_master_evict_key_total"), METRICS_COUNTER,
                            metrics_words_of("EvictKey calls to nodes by status"))) {
        for (unsigned code = 0; code < RPC_CODE_COUNT; code++) {
            const struct metrics_label label = {metrics_words_of("code"),
                                                metrics_words_of(rpc_code_name(code))};
            if (stats.calls[code] > 0 || code == RPC_OK) {
                metrics_text_value(text, "", &label, 1, "", (double)stats.calls[code]);
            }
        }
    }
    if (metrics_text_family(text, metrics_words_of("umbp_master_evict_skipped_keys_total"),
                            METRICS_COUNTER,
                            metrics_words_of("Proposed keys that no node was asked to evict"))) {
        for (size_t i = 0; i < RPC_EVICT_SKIP_COUNT; i++) {
            const struct metrics_label label = {metrics_words_of("reason"),
                                                metrics_words_of(reasons[i])};
            metrics_text_value(text, "", &label, 1, "", (double)stats.keys_skipped[i]);
        }
    }
    write_number(text, "umbp_master_evict_sent_keys_total", METRICS_COUNTER,
                 "Keys that nodes were asked to evict", (double)stats.keys_sent);
    write_number(text, "umbp_master_evict_freed_keys_total", METRICS_COUNTER,
                 "... and that they say to have evicted", (double)stats.keys_freed);
    write_number(text, "umbp_master_evict_freed_bytes_total", METRICS_COUNTER,
                 "Bytes that nodes say to have freed when asked", (double)stats.bytes_freed);
    write_number(text, "umbp_master_evict_peers", METRICS_GAUGE, "Members that were asked to evict",
                 (double)stats.peers);
    write_number(text, "umbp_master_evict_calls_running", METRICS_GAUGE, "EvictKey calls under way",
                 (double)stats.calls_running);
}

void masterd_metrics_write(void *context, struct metrics_text *text)
{
    const struct masterd_metrics *metrics = context;
    struct core_visit state = {.text = text};
    if (master_metrics(metrics->master, visit, &state) != UMBP_OK) {
        log_warn("metrics", "error=NO_MEMORY");
    }
    write_calls(text, metrics->server);
    write_latency(text, metrics->server);
    write_door(text, metrics->server);
    write_fabric_door(text, metrics->door);
    write_evictor(text, metrics->evictor);
    write_number(text, "umbp_master_metrics_dropped_total", METRICS_COUNTER,
                 "Reported samples that were not valid or over a limit",
                 (double)metrics_registry_dropped(metrics->registry));
    uint64_t up = clock_now_ns(clock_monotonic()) - metrics->started_ns;
    write_number(text, "umbp_master_uptime_seconds", METRICS_GAUGE, "Since the start",
                 (double)(up / NS_PER_MS) / 1e3);
    metrics_registry_write(metrics->registry, text);
}
