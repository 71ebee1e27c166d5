/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes: they come, beat, go, and tell what they measured. */
#include "rpc/rpc_master_priv.h"

static const char no_memory[] = "no memory left for the call";

/* What is said of a tier twice counts as it was said last. */
static bool take_capacities(Umbp__TierCapacity *const *list, size_t count,
                            struct master_capacity *capacities)
{
    memset(capacities, 0, MASTER_TIERS * sizeof capacities[0]);
    for (size_t i = 0; i < count; i++) {
        enum master_tier tier = rpc_tier(list[i]->tier);
        capacities[tier] = (struct master_capacity){
            .total_bytes = list[i]->total_capacity_bytes,
            .available_bytes = list[i]->available_capacity_bytes,
        };
    }
    capacities[MASTER_TIER_NONE] = (struct master_capacity){0};
    return count > 0;
}

enum rpc_code rpc_register_client(void *context_pointer, struct rpc_call *call)
{
    const struct rpc_master *context = context_pointer;
    const Umbp__RegisterClientRequest *request = (const Umbp__RegisterClientRequest *)call->request;
    Umbp__RegisterClientResponse *reply = (Umbp__RegisterClientResponse *)call->reply;
    struct master_text *tags = rpc_arena_alloc(call->arena, request->n_tags * sizeof tags[0]);
    struct master_registered registered;
    if (tags == NULL) {
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
    }
    for (size_t i = 0; i < request->n_tags; i++) {
        tags[i] = rpc_text(request->tags[i]);
    }
    struct master_registration registration = {
        .id = rpc_text(request->node_id),
        .incarnation = request->incarnation,
        .node_address = rpc_text(request->node_address),
        .peer_address = rpc_text(request->peer_address),
        .fabric_address = rpc_text(request->fabric_address),
        .engine = request->engine_desc.data,
        .engine_bytes = request->engine_desc.len,
        .tags = tags,
        .tag_count = request->n_tags,
        /* The public peer evicts by key, when it is told to; umbp's own nodes by themselves. */
        .wants_keys = request->fabric_address.len == 0,
    };
    registration.has_capacities = take_capacities(
        request->tier_capacities, request->n_tier_capacities, registration.capacities);
    enum umbp_status status = master_register(context->master, &registration, &registered);
    switch (status) {
    case UMBP_OK:
        reply->heartbeat_interval_ms = registered.heartbeat_interval_ms;
        reply->ack_seq = registered.acked_sequence;
        return RPC_OK;
    case UMBP_BUSY:
        return rpc_fail(call, RPC_ALREADY_EXISTS,
                        "node is already alive and cannot be re-registered");
    case UMBP_INVALID_VALUE:
        return rpc_fail(call, RPC_INVALID_ARGUMENT,
                        "a node id has 1 to 255 bytes, a text no control characters");
    default:
        return rpc_fail_status(call, status);
    }
}

enum rpc_code rpc_unregister_client(void *context_pointer, struct rpc_call *call)
{
    const struct rpc_master *context = context_pointer;
    const Umbp__UnregisterClientRequest *request =
        (const Umbp__UnregisterClientRequest *)call->request;
    enum umbp_status status = master_unregister(context->master, rpc_text(request->node_id), 0);
    return status == UMBP_OK || status == UMBP_NOT_FOUND || status == UMBP_INVALID_VALUE
               ? RPC_OK
               : rpc_fail_status(call, status);
}

/* ---------------------------------------------------------------------- heartbeat ------ */

static struct master_event take_event(const struct rpc_master *context, const Umbp__KvEvent *event)
{
    bool is_known =
        event->kind == UMBP__KV_EVENT__KIND__ADD || event->kind == UMBP__KV_EVENT__KIND__REMOVE;
    bool has_key = event->key.len > 0 && event->key.len <= UMBP_KEY_BYTES_MAX;
    return (struct master_event){
        .print = hash_key(event->key.data, event->key.len, context->hash_seed),
        .bytes = event->size,
        .key = event->key.data,
        .key_bytes = (uint16_t)(has_key ? event->key.len : 0),
        /* the core skips and counts what has no tier */
        .tier = (uint8_t)(is_known && has_key ? rpc_tier(event->tier) : MASTER_TIER_NONE),
        .is_add = event->kind == UMBP__KV_EVENT__KIND__ADD,
        .depth = event->depth_plus_one > 0 ? event->depth_plus_one - 1 : UMBP_DEPTH_NONE,
    };
}

static bool take_bundles(const struct rpc_master *context, struct rpc_call *call,
                         const Umbp__HeartbeatRequest *request, struct master_beat *beat)
{
    struct master_bundle *bundles =
        rpc_arena_alloc(call->arena, request->n_bundles * sizeof bundles[0]);
    if (bundles == NULL) {
        return false;
    }
    for (size_t i = 0; i < request->n_bundles; i++) {
        const Umbp__EventBundle *bundle = request->bundles[i];
        struct master_event *events =
            rpc_arena_alloc(call->arena, bundle->n_events * sizeof events[0]);
        if (events == NULL) {
            return false;
        }
        for (size_t k = 0; k < bundle->n_events; k++) {
            events[k] = take_event(context, bundle->events[k]);
        }
        bundles[i] = (struct master_bundle){bundle->seq, events, bundle->n_events};
    }
    beat->bundles = bundles;
    beat->bundle_count = request->n_bundles;
    return true;
}

enum rpc_code rpc_heartbeat(void *context_pointer, struct rpc_call *call)
{
    const struct rpc_master *context = context_pointer;
    const Umbp__HeartbeatRequest *request = (const Umbp__HeartbeatRequest *)call->request;
    Umbp__HeartbeatResponse *reply = (Umbp__HeartbeatResponse *)call->reply;
    struct master_beat_answer answer;
    struct master_beat beat = {
        .id = rpc_text(request->node_id),
        .incarnation = request->incarnation,
        .is_full_sync = request->is_full_sync,
        .is_last = !request->sync_has_more,
        .chunk = request->sync_chunk,
        .sync_id = request->sync_id,
        .baseline = request->delta_seq_baseline,
        .has_key_counts = request->n_tier_kv_counts > 0,
    };
    beat.has_capacities =
        take_capacities(request->tier_capacities, request->n_tier_capacities, beat.capacities);
    for (size_t i = 0; i < request->n_tier_kv_counts; i++) {
        beat.key_counts[rpc_tier(request->tier_kv_counts[i]->tier)] =
            request->tier_kv_counts[i]->count;
    }
    beat.key_counts[MASTER_TIER_NONE] = 0;
    if (!take_bundles(context, call, request, &beat)) {
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
    }
    enum umbp_status status = master_beat(context->master, &beat, &answer);
    switch (status) {
    case UMBP_OK:
        reply->status = UMBP__CLIENT_STATUS__CLIENT_STATUS_ALIVE;
        reply->acked_seq = answer.acked_sequence;
        reply->request_full_sync = answer.wants_full_sync;
        reply->sync_next_chunk = answer.next_chunk;
        return RPC_OK;
    case UMBP_NOT_FOUND:
        reply->status = UMBP__CLIENT_STATUS__CLIENT_STATUS_UNKNOWN;
        return RPC_OK;
    case UMBP_STALE:
        reply->status = UMBP__CLIENT_STATUS__CLIENT_STATUS_EXPIRED;
        return RPC_OK;
    case UMBP_LIMIT:
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, "too many events for one beat");
    default:
        return rpc_fail_status(call, status);
    }
}

/* ------------------------------------------------------------------------ metrics ------ */

static struct metrics_words words_of(ProtobufCBinaryData data)
{
    return (struct metrics_words){(const char *)data.data, data.len};
}

/* The node, its tags that have a name and a value; then the sample's own. */
static size_t take_labels(const struct master_node_info *info, ProtobufCBinaryData node_id,
                          const Umbp__MetricSample *sample, struct metrics_label *labels)
{
    size_t count = 0;
    labels[count++] = (struct metrics_label){metrics_words_of("node"), words_of(node_id)};
    for (uint32_t i = 0; info != NULL && i < info->tag_count; i++) {
        const char *tag = info->tags[i];
        const char *sign = strchr(tag, '=');
        if (sign != NULL) {
            labels[count++] =
                (struct metrics_label){{tag, (size_t)(sign - tag)}, metrics_words_of(sign + 1)};
        }
    }
    for (size_t i = 0; i < sample->n_labels && count < METRICS_LABELS_MAX; i++) {
        labels[count++] = (struct metrics_label){words_of(sample->labels[i]->name),
                                                 words_of(sample->labels[i]->value)};
    }
    return count;
}
_Static_assert(1 + MASTER_TAGS_MAX < METRICS_LABELS_MAX, "the tags fit");

static void report(struct metrics_registry *registry, const Umbp__MetricSample *from,
                   const struct metrics_label *labels, size_t label_count)
{
    struct metrics_sample sample = {
        .name = words_of(from->name),
        .help = words_of(from->help),
        .labels = labels,
        .label_count = label_count,
    };
    switch (from->value_case) {
    case UMBP__METRIC_SAMPLE__VALUE_COUNTER_DELTA:
        sample.type = METRICS_COUNTER;
        sample.value = from->counter_delta;
        break;
    case UMBP__METRIC_SAMPLE__VALUE_GAUGE_VALUE:
        sample.type = METRICS_GAUGE;
        sample.value = from->gauge_value;
        break;
    case UMBP__METRIC_SAMPLE__VALUE_HISTOGRAM_AGGREGATE: {
        const Umbp__HistogramAggregate *histogram = from->histogram_aggregate;
        if (histogram == NULL || histogram->n_bounds != histogram->n_bucket_counts) {
            return;
        }
        sample.type = METRICS_HISTOGRAM;
        sample.bounds = histogram->bounds;
        sample.bucket_counts = histogram->bucket_counts;
        sample.bound_count = histogram->n_bounds;
        sample.count = histogram->count;
        sample.sum = histogram->sum;
        break;
    }
    default:
        return;
    }
    (void)metrics_registry_report(registry, &sample); /* it counts what it drops */
}

enum rpc_code rpc_report_metrics(void *context_pointer, struct rpc_call *call)
{
    const struct rpc_master *context = context_pointer;
    const Umbp__ReportMetricsRequest *request = (const Umbp__ReportMetricsRequest *)call->request;
    struct metrics_label labels[METRICS_LABELS_MAX];
    struct master_node_info *info = rpc_arena_alloc(call->arena, sizeof *info);
    if (info == NULL) {
        return rpc_fail(call, RPC_RESOURCE_EXHAUSTED, no_memory);
    }
    if (context->metrics == NULL) {
        return RPC_OK;
    }
    if (master_node_info(context->master, rpc_text(request->node_id), info) != UMBP_OK) {
        info = NULL;
    }
    for (size_t i = 0; i < request->n_metrics; i++) {
        size_t count = take_labels(info, request->node_id, request->metrics[i], labels);
        report(context->metrics, request->metrics[i], labels, count);
    }
    return RPC_OK;
}
