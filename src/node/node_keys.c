/* SPDX-License-Identifier: Apache-2.0 */
/* The requests that move no bytes: EXISTS, REMOVE, RESOLVE, STATS; and, as jobs, CLEAR and EVICT.
 */
#include "node/node_priv.h"

#define KEYS_AT_A_TIME 128u
#define STATS_MAX 512u

/* Statuses of the frame's keys, by `ask` for up to KEYS_AT_A_TIME of them at a time. */
static void answer_keys(struct node_op *op,
                        void (*ask)(struct store *store, const struct umbp_key *keys, size_t count,
                                    enum umbp_status *statuses_out))
{
    uint32_t count = op->frame.header.count;
    struct umbp_key keys[KEYS_AT_A_TIME];
    enum umbp_status status = proto_keys_open(&op->frame, &op->walk);
    enum umbp_status *statuses = mem_calloc(count + 1, sizeof(*statuses));

    status = status == UMBP_OK && !statuses ? UMBP_NO_MEMORY : status;
    if (status != UMBP_OK) {
        mem_free(statuses);
        node_op_refuse(op, status);
        return;
    }
    for (uint32_t at = 0; at < count;) {
        uint32_t part = 0;
        while (part < KEYS_AT_A_TIME && proto_keys_next(&op->walk, &keys[part])) {
            part++;
        }
        ask(op->owner->store, keys, part, statuses + at);
        at += part;
    }
    size_t bytes = 0;
    enum umbp_status made =
        proto_statuses_encode(node_scratch(op->owner), proto_call_of(&op->frame),
                              (enum proto_op)op->frame.header.op, statuses, count, &bytes);
    mem_free(statuses);
    node_op_answer(op, made, bytes);
}

static void ask_exists(struct store *store, const struct umbp_key *keys, size_t count,
                       enum umbp_status *statuses_out)
{
    uint8_t found[KEYS_AT_A_TIME] = {0};
    enum umbp_status status = store_batch_exists(store, keys, count, found);
    for (size_t i = 0; i < count; i++) {
        statuses_out[i] = status != UMBP_OK ? status : found[i] ? UMBP_OK : UMBP_NOT_FOUND;
    }
}

static void ask_remove(struct store *store, const struct umbp_key *keys, size_t count,
                       enum umbp_status *statuses_out)
{
    enum umbp_status status = store_batch_remove(store, keys, count, statuses_out);
    for (size_t i = 0; status != UMBP_OK && i < count; i++) {
        statuses_out[i] = status;
    }
}

void node_exists(struct node_op *op) { answer_keys(op, ask_exists); }

void node_remove(struct node_op *op) { answer_keys(op, ask_remove); }

void node_resolve(struct node_op *op)
{
    struct node *node = op->owner;
    uint32_t count = op->frame.header.count;
    struct umbp_key key;
    enum umbp_status status = proto_keys_open(&op->frame, &op->walk);
    struct proto_resolved *items = mem_calloc(count + 1, sizeof(*items));

    status = status == UMBP_OK && !items ? UMBP_NO_MEMORY : status;
    if (status != UMBP_OK) {
        mem_free(items);
        node_op_refuse(op, status);
        return;
    }
    for (uint32_t i = 0; proto_keys_next(&op->walk, &key); i++) {
        struct umbp_entry_info info = {.struct_bytes = sizeof(info)};
        items[i].status = store_stat(node->store, key, &info);
        if (items[i].status == UMBP_OK) {
            items[i].bytes = info.bytes;
            items[i].depth = info.depth;
            items[i].tiers = (uint8_t)((info.in_dram ? PROTO_TIER_BIT(PROTO_TIER_DRAM) : 0) |
                                       (info.in_ssd ? PROTO_TIER_BIT(PROTO_TIER_SSD) : 0));
        }
    }
    size_t bytes = 0;
    enum umbp_status made =
        proto_resolved_encode(node_scratch(node), proto_call_of(&op->frame), items, count, &bytes);
    mem_free(items);
    node_op_answer(op, made, bytes);
}

void node_report_stats(struct node_op *op)
{
    struct node *node = op->owner;
    struct umbp_stat_value *values = mem_calloc(STATS_MAX, sizeof(*values));
    struct proto_stat *items = mem_calloc(STATS_MAX, sizeof(*items));
    size_t store_count = 0;
    size_t node_count = 0;
    size_t bytes = 0;

    if (!values || !items || store_stats(node->store, values, STATS_MAX, &store_count) != UMBP_OK) {
        mem_free(values);
        mem_free(items);
        node_op_refuse(op, UMBP_NO_MEMORY);
        return;
    }
    store_count = size_min(store_count, STATS_MAX);
    node_stats(node, values + store_count, STATS_MAX - store_count, &node_count);
    size_t count = size_min(store_count + node_count, STATS_MAX);
    for (size_t i = 0; i < count; i++) {
        items[i] = (struct proto_stat){proto_text_of(values[i].name), values[i].value,
                                       values[i].is_counter};
    }
    enum umbp_status made = proto_stats_encode(node_scratch(node), proto_call_of(&op->frame), items,
                                               (uint32_t)count, &bytes);
    mem_free(values);
    mem_free(items);
    node_op_answer(op, made, bytes);
}

/* ---------------------------------------------------------------------------- jobs ------- */

static void job_done(struct node_job *job)
{
    struct node_op *op = CONTAINER_OF(job, struct node_op, job);
    size_t bytes = 0;
    if (job->is_cancelled || op->status != UMBP_OK) {
        node_op_refuse(op, job->is_cancelled ? UMBP_CLOSED : op->status);
        return;
    }
    enum umbp_status made = proto_bare_encode(node_scratch(op->owner), proto_call_of(&op->frame),
                                              (enum proto_op)op->frame.header.op, PROTO_FLAG_REPLY,
                                              UMBP_OK, op->number, &bytes);
    node_op_answer(op, made, bytes);
}

static void job_begin(struct node_op *op, void (*work)(struct node_job *))
{
    op->job.work = work;
    op->job.done = job_done;
    op->status = UMBP_OK;
    op->is_job = true;
    node_job_run(op->owner, &op->job);
}

static void clear_work(struct node_job *job)
{
    struct node_op *op = CONTAINER_OF(job, struct node_op, job);
    op->number = 0;
    /* The caller says how long it waits, but not how long the node's end has to. */
    op->status =
        store_clear(op->owner->store,
                    u64_min(op->overdue_ns, clock_deadline_ns(clock_monotonic(), NODE_CLEAR_MS)));
}

static void evict_work(struct node_job *job)
{
    struct node_op *op = CONTAINER_OF(job, struct node_op, job);
    op->number = store_evict(op->owner->store, op->frame.header.aux);
}

void node_clear(struct node_op *op) { job_begin(op, clear_work); }

/* The keys that a master would like to see gone are only wishes: the store's own order decides. */
void node_evict(struct node_op *op) { job_begin(op, evict_work); }
