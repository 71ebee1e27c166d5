/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the master counts, under the public master's metric names where it has them, and under
 * umbp_master_ where it does not. A scrape copies what it shows of one node at a time and visits
 * without a lock.
 */
#include "master/master_priv.h"

#define TEXT_BYTES (MASTER_TEXT_BYTES_MAX + 1)

struct sample {
    char id[TEXT_BYTES];
    bool is_alive;
    struct master_capacity capacities[MASTER_TIERS];
    uint64_t key_counts[MASTER_TIERS];
    uint64_t counts[NODE_COUNTS];
    uint32_t tag_count;
    char (*tags)[TEXT_BYTES]; /* "name\0value" */
};

struct scrape {
    struct master *master;
    void (*visit)(void *context, const struct master_metric *metric);
    void *context;
    struct sample *samples;
    size_t count;
};

static const char *const tier_labels[] = {"UNKNOWN", "HBM", "DRAM", "SSD"};

/* ----------------------------------------------------------------------------- samples --- */

/* A label of Prometheus's, and none that the metric has already. */
static bool is_label(const struct sample *sample, const char *name)
{
    for (size_t i = 0; name[i]; i++) {
        bool is_letter = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= 'A' && name[i] <= 'Z') ||
                         name[i] == '_';
        if (!is_letter && (i == 0 || name[i] < '0' || name[i] > '9')) {
            return false;
        }
    }
    for (uint32_t i = 0; i < sample->tag_count; i++) {
        if (strcmp(sample->tags[i], name) == 0) {
            return false;
        }
    }
    return *name && strcmp(name, "node") != 0 && strcmp(name, "tier") != 0;
}

/* The tags of the form name=value that make labels. */
static bool sample_tags(struct sample *sample, const struct node_text *text)
{
    sample->tags = mem_calloc(text->tag_count + 1, TEXT_BYTES);
    if (!sample->tags) {
        return false;
    }
    for (size_t i = 0; i < text->tag_count; i++) {
        char *copy = sample->tags[sample->tag_count];
        memset(copy, 0, TEXT_BYTES);
        memcpy(copy, text->tags[i].data, text->tags[i].bytes);
        char *equals = memchr(copy, '=', text->tags[i].bytes);
        if (equals) {
            *equals = '\0';
            sample->tag_count += is_label(sample, copy);
        }
    }
    return true;
}

/* Under the node's lock and the members'. */
static bool sample_take(struct sample *sample, const struct node *node)
{
    memset(sample, 0, sizeof(*sample));
    memcpy(sample->id, node->text->id.data, node->text->id.bytes);
    sample->is_alive = node->state == MASTER_NODE_ALIVE;
    memcpy(sample->capacities, node->capacities, sizeof(sample->capacities));
    memcpy(sample->key_counts, node->has_key_counts ? node->key_counts : node->keys,
           sizeof(sample->key_counts));
    for (uint32_t i = 0; i < NODE_COUNTS; i++) {
        sample->counts[i] = atomic_load_explicit(&node->counts[i], memory_order_relaxed);
    }
    return sample_tags(sample, node->text);
}

static bool samples_take(struct scrape *scrape)
{
    struct master *master = scrape->master;
    mutex_lock(&master->members_lock);
    uint32_t used = master->nodes_used;
    mutex_unlock(&master->members_lock);
    scrape->samples = mem_calloc(used + 1, sizeof(struct sample));
    if (!scrape->samples) {
        return false;
    }
    for (uint32_t i = 0; i < used; i++) {
        bool ok = true;
        mutex_lock(&master->nodes[i].lock); /* a scrape waits for a beat, no beat for a scrape */
        mutex_lock(&master->members_lock);
        if (master->nodes[i].state != MASTER_NODE_UNKNOWN) {
            ok = sample_take(&scrape->samples[scrape->count++], &master->nodes[i]);
        }
        mutex_unlock(&master->members_lock);
        mutex_unlock(&master->nodes[i].lock);
        if (!ok) {
            return false;
        }
    }
    return true;
}

static void samples_free(struct scrape *scrape)
{
    for (size_t i = 0; i < scrape->count; i++) {
        mem_free(scrape->samples[i].tags);
    }
    mem_free(scrape->samples);
}

/* ------------------------------------------------------------------------------- visit --- */

static void label(struct master_metric *metric, const char *name, const char *value)
{
    metric->labels[metric->label_count].name = name;
    metric->labels[metric->label_count++].value = value;
}

static void show_total(const struct scrape *scrape, const char *name, const char *help,
                       enum master_metric_type type, double value)
{
    const struct master_metric metric = {.name = name, .help = help, .type = type, .value = value};
    scrape->visit(scrape->context, &metric);
}

struct node_metric {
    const char *name;
    const char *help;
    uint32_t which;
};

static const struct node_metric node_metrics[] = {
    {"mori_umbp_client_route_put_total", "RoutePut answers that name this node", NODE_ROUTE_PUTS},
    {"mori_umbp_client_route_get_total", "RouteGet answers that name this node", NODE_ROUTE_GETS},
    {"mori_umbp_client_batch_route_put_total", "entries of BatchRoutePut that name this node",
     NODE_BATCH_ROUTE_PUTS},
    {"mori_umbp_client_batch_route_get_total", "entries of BatchRouteGet that name this node",
     NODE_BATCH_ROUTE_GETS},
    {"mori_umbp_heartbeat_events_applied_total", "events of this node that were applied",
     NODE_EVENTS_APPLIED},
    {"mori_umbp_heartbeat_seq_gap_total", "gaps in this node's events; each asks for a full sync",
     NODE_GAPS},
    {"umbp_master_full_syncs_total", "full syncs of this node that were completed", NODE_SYNCS},
};

static void show_node_counts(const struct scrape *scrape)
{
    for (size_t m = 0; m < ARRAY_COUNT(node_metrics); m++) {
        for (size_t i = 0; i < scrape->count; i++) {
            struct master_metric metric = {
                .name = node_metrics[m].name, .help = node_metrics[m].help, .type = MASTER_COUNTER};
            metric.value = (double)scrape->samples[i].counts[node_metrics[m].which];
            label(&metric, "node", scrape->samples[i].id);
            scrape->visit(scrape->context, &metric);
        }
    }
}

static double capacity_value(const struct master_capacity *capacity, size_t which)
{
    double total = (double)capacity->total_bytes;
    double available = (double)capacity->available_bytes;
    double used = total > available ? total - available : 0;
    const double values[] = {total, available, used, total > 0 ? used / total : 0};
    return values[which];
}

static void show_capacities(const struct scrape *scrape)
{
    static const char *const names[][2] = {
        {"mori_umbp_client_capacity_total_bytes", "capacity of a node's tier, as it says"},
        {"mori_umbp_client_capacity_available_bytes", "free of it"},
        {"mori_umbp_client_capacity_used_bytes", "used of it"},
        {"mori_umbp_client_capacity_utilization_ratio", "used / total, 0 to 1"},
    };
    for (size_t m = 0; m < ARRAY_COUNT(names); m++) {
        for (size_t i = 0; i < scrape->count; i++) {
            const struct sample *sample = &scrape->samples[i];
            for (uint32_t tier = 1; sample->is_alive && tier < MASTER_TIERS; tier++) {
                struct master_metric metric = {
                    .name = names[m][0], .help = names[m][1], .type = MASTER_GAUGE};
                if (!sample->capacities[tier].total_bytes) {
                    continue;
                }
                metric.value = capacity_value(&sample->capacities[tier], m);
                label(&metric, "node", sample->id);
                label(&metric, "tier", tier_labels[tier]);
                scrape->visit(scrape->context, &metric);
            }
        }
    }
}

static void label_tags(struct master_metric *metric, const struct sample *sample)
{
    label(metric, "node", sample->id);
    for (uint32_t i = 0; i < sample->tag_count; i++) {
        label(metric, sample->tags[i], sample->tags[i] + strlen(sample->tags[i]) + 1);
    }
}

static void show_key_counts(const struct scrape *scrape)
{
    for (size_t i = 0; i < scrape->count; i++) {
        const struct sample *sample = &scrape->samples[i];
        for (uint32_t tier = 1; sample->is_alive && tier < MASTER_TIERS; tier++) {
            struct master_metric metric = {
                .name = "mori_umbp_client_kv_live_count",
                .help = "keys of the node by tier, as it says or else as the index has them",
                .type = MASTER_GAUGE,
                .value = (double)sample->key_counts[tier]};
            label_tags(&metric, sample);
            label(&metric, "tier", tier_labels[tier]);
            scrape->visit(scrape->context, &metric);
        }
    }
    for (size_t i = 0; i < scrape->count; i++) {
        const struct sample *sample = &scrape->samples[i];
        struct master_metric metric = {.name = "mori_umbp_client_kv_live_count_total",
                                       .help = "the same over all tiers",
                                       .type = MASTER_GAUGE};
        for (uint32_t tier = 1; tier < MASTER_TIERS; tier++) {
            metric.value += (double)sample->key_counts[tier];
        }
        if (sample->is_alive) {
            label_tags(&metric, sample);
            scrape->visit(scrape->context, &metric);
        }
    }
}

/* The counts by tier from `which` on, [0] standing for all tiers. */
static void show_tiered(const struct scrape *scrape, const char *name, const char *help,
                        uint32_t which, const char *result)
{
    for (size_t i = 0; i < scrape->count; i++) {
        for (uint32_t tier = 0; tier < MASTER_TIERS; tier++) {
            uint64_t value = scrape->samples[i].counts[which + tier];
            struct master_metric metric = {
                .name = name, .help = help, .type = MASTER_COUNTER, .value = (double)value};
            if (!value) {
                continue;
            }
            label(&metric, "node", scrape->samples[i].id);
            label(&metric, "tier", tier ? tier_labels[tier] : "ALL");
            if (result) {
                label(&metric, "result", result);
            }
            scrape->visit(scrape->context, &metric);
        }
    }
}

static void show_external(const struct scrape *scrape)
{
    static const char report[] = "mori_umbp_external_kv_report_total";
    static const char report_help[] = "calls that reported external KV blocks";
    show_tiered(scrape, report, report_help, NODE_REPORTS, "ok");
    show_tiered(scrape, report, report_help, NODE_REPORTS_REFUSED, "rejected_not_alive");
    show_tiered(scrape, "mori_umbp_external_kv_report_blocks_total",
                "external KV blocks that were reported", NODE_REPORT_BLOCKS, NULL);
    show_tiered(scrape, "mori_umbp_external_kv_revoke_total",
                "calls that revoked external KV blocks", NODE_REVOKES, "ok");
    show_tiered(scrape, "mori_umbp_external_kv_revoke_blocks_total",
                "external KV blocks that were revoked by name", NODE_REVOKE_BLOCKS, NULL);
}

struct total_metric {
    const char *name;
    const char *help;
    enum counter which;
};

static const struct total_metric total_metrics[] = {
    {"mori_umbp_external_kv_match_total", "MatchExternalKv calls", COUNT_MATCHES},
    {"mori_umbp_external_kv_match_queried_blocks_total", "blocks asked for by them",
     COUNT_MATCH_QUERIED},
    {"mori_umbp_external_kv_match_matched_blocks_total", "of those, found on any node",
     COUNT_MATCH_FOUND},
    {"umbp_master_invalid_events_total", "events skipped: no such tier, or too large a value",
     COUNT_INVALID_EVENTS},
    {"umbp_master_dropped_no_memory_total", "reports dropped for want of memory",
     COUNT_DROPPED_MEMORY},
    {"umbp_master_dropped_limit_total", "reports dropped at a limit on keys or locations",
     COUNT_DROPPED_LIMIT},
    {"umbp_master_nodes_expired_total", "nodes that fell silent", COUNT_EXPIRED},
    {"umbp_master_double_registrations_total", "registrations refused: a live node has the id",
     COUNT_REFUSED_DOUBLE},
    {"umbp_master_sweeps_total", "passes over the index behind nodes that went", COUNT_SWEEPS},
    {"umbp_master_unrouted_puts_total", "put keys for which no node had room", COUNT_UNROUTED_PUTS},
    {"umbp_master_missed_gets_total", "get keys that no node holds", COUNT_MISSED_GETS},
    {"umbp_master_advice_rounds_total", "rounds of eviction advice", COUNT_ADVICE_ROUNDS},
    {"umbp_master_advice_victims_total", "keys that they proposed", COUNT_ADVICE_VICTIMS},
};

static void show_totals(const struct scrape *scrape)
{
    struct master *master = scrape->master;
    double alive = 0;
    for (size_t i = 0; i < scrape->count; i++) {
        alive += scrape->samples[i].is_alive;
    }
    show_total(scrape, "mori_umbp_client_count", "nodes alive", MASTER_GAUGE, alive);
    for (size_t m = 0; m < ARRAY_COUNT(total_metrics); m++) {
        show_total(scrape, total_metrics[m].name, total_metrics[m].help, MASTER_COUNTER,
                   (double)atomic_load_explicit(&master->counters[total_metrics[m].which],
                                                memory_order_relaxed));
    }
    const struct {
        const char *name;
        const char *help;
        const _Atomic uint64_t *value;
    } gauges[] = {
        {"umbp_master_index_keys", "keys in the block index", &master->blocks.keys},
        {"umbp_master_index_bytes", "memory of the block index", &master->blocks.bytes},
        {"umbp_master_external_keys", "hashes in the external index", &master->external.keys},
        {"umbp_master_external_bytes", "memory of the external index", &master->external.bytes},
        {"umbp_master_hit_keys", "hashes with a hit count", &master->hits.keys},
    };
    for (size_t i = 0; i < ARRAY_COUNT(gauges); i++) {
        show_total(scrape, gauges[i].name, gauges[i].help, MASTER_GAUGE,
                   (double)atomic_load_explicit(gauges[i].value, memory_order_relaxed));
    }
}

enum umbp_status master_metrics(struct master *master,
                                void (*visit)(void *context, const struct master_metric *metric),
                                void *context)
{
    struct scrape scrape = {.master = master, .visit = visit, .context = context};
    bool ok = samples_take(&scrape);
    if (ok) {
        show_totals(&scrape);
        show_node_counts(&scrape);
        show_capacities(&scrape);
        show_key_counts(&scrape);
        show_external(&scrape);
    }
    samples_free(&scrape);
    return ok ? UMBP_OK : UMBP_NO_MEMORY;
}
