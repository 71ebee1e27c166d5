/* SPDX-License-Identifier: Apache-2.0 */
/* The node: made, started, asked, stopped. Peers, operation records, the sweep. */
#include "node/node_priv.h"

#define SWEEP_NS (100 * NS_PER_MS)
/* How long after its caller gave up a request may still hold things. */
#define OVERDUE_NS NS_PER_S
/* Who says that it waits longer is not believed: a transfer that never ends, or a stream of parts,
 * would hold pins for as long. The option op_timeout_ms goes as far. */
#define CALL_NS_MAX (3600 * NS_PER_S)

static void no_more(struct fabric_timer *timer) { (void)timer; }

/* ---------------------------------------------------------------------------- peers ------ */

static struct list_node *bucket_of(struct node *node, fabric_peer peer)
{
    return &node->peers[hash_bytes(&peer, sizeof(peer), 0) % NODE_PEER_BUCKETS];
}

struct node_peer *node_peer_find(struct node *node, fabric_peer handle)
{
    struct list_node *bucket = bucket_of(node, handle);
    for (struct list_node *at = bucket->next; at != bucket; at = at->next) {
        struct node_peer *peer = CONTAINER_OF(at, struct node_peer, node);
        if (peer->peer == handle) {
            return peer;
        }
    }
    return NULL;
}

static void on_peer_up(void *context, fabric_peer handle, const struct fabric_hello *hello)
{
    struct node *node = context;
    struct node_peer *peer = mem_zalloc(sizeof(*peer));
    (void)hello;
    if (!peer) {
        return; /* it gets no places and no slots */
    }
    peer->peer = handle;
    list_init(&peer->grants);
    list_init(&peer->slots);
    list_push_back(bucket_of(node, handle), &peer->node);
}

static void peer_free(struct node *node, struct node_peer *peer)
{
    while (!list_is_empty(&peer->grants)) {
        node_grant_free(node, peer, CONTAINER_OF(peer->grants.next, struct node_grant, node));
    }
    while (!list_is_empty(&peer->slots)) {
        node_slot_end(node, CONTAINER_OF(peer->slots.next, struct node_slot, node));
    }
    list_remove(&peer->node);
    mem_free(peer);
}

/* Nothing of that connection moves any more, and its epoch has been raised: what it was given can
 * go. */
static void on_peer_down(void *context, fabric_peer handle, enum umbp_status reason)
{
    struct node *node = context;
    struct node_peer *peer = node_peer_find(node, handle);
    (void)reason;
    if (peer) {
        peer_free(node, peer);
    }
    for (uint32_t i = 0; i < node->options.master_count; i++) {
        node_session_peer_down(node->sessions[i], handle);
    }
}

struct fabric_region *node_region_of(const struct node *node, const void *data)
{
    for (uint32_t i = 0; i < node->memory_count; i++) {
        const struct node_memory *memory = &node->memory[i];
        if ((const char *)data >= memory->data &&
            (const char *)data < memory->data + memory->bytes) {
            return memory->region;
        }
    }
    return NULL;
}

/* ----------------------------------------------------------------------- operations ------ */

static struct node_op *op_take(struct node *node)
{
    struct node_op *op = NULL;
    if (!list_is_empty(&node->free_ops)) {
        op = CONTAINER_OF(node->free_ops.next, struct node_op, node);
        list_remove(&op->node);
    } else if (node->op_count < node->options.operations_max) {
        op = mem_zalloc(sizeof(*op));
        if (op) {
            node->op_count++;
            op->owner = node;
            list_init(&op->node);
        }
    }
    if (op) {
        op->is_get = false;
        op->is_put = false;
        op->is_job = false;
        op->next_index = 0;
        op->piece_count = 0;
        op->timer.run = no_more;
        list_push_back(&node->busy_ops, &op->node);
        NODE_COUNT(node, operations_now, 1);
    }
    return op;
}

static void op_give(struct node_op *op)
{
    list_remove(&op->node);
    list_push_front(&op->owner->free_ops, &op->node);
    NODE_COUNT(op->owner, operations_now, (uint64_t)-1);
}

void node_op_refuse(struct node_op *op, enum umbp_status status)
{
    struct fabric_request *request = op->request;
    op_give(op);
    fabric_answer(op->owner->fabric, request, status, NULL, 0);
}

void node_op_answer(struct node_op *op, enum umbp_status made, size_t bytes)
{
    struct fabric_request *request = op->request;
    const struct iovec part = {op->owner->scratch, bytes};
    op_give(op);
    fabric_answer(op->owner->fabric, request, made, &part, made == UMBP_OK ? 1 : 0);
}

typedef void begin_function(struct node_op *op);

static begin_function *begin_of(uint16_t op)
{
    switch (op) {
    case PROTO_PUT:
        return node_put_begin;
    case PROTO_GET:
        return node_get_begin;
    case PROTO_EXISTS:
        return node_exists;
    case PROTO_REMOVE:
        return node_remove;
    case PROTO_RESOLVE:
        return node_resolve;
    case PROTO_RESERVE:
        return node_reserve;
    case PROTO_COMMIT:
        return node_commit;
    case PROTO_ABORT:
        return node_abort;
    case PROTO_CLEAR:
        return node_clear;
    case PROTO_EVICT:
        return node_evict;
    case PROTO_STATS:
        return node_report_stats;
    default:
        return NULL;
    }
}

/* Both ways: we connect to masters only once we serve. */
static enum umbp_status on_accept(void *context, const struct fabric_hello *hello)
{
    struct node *node = context;
    (void)hello;
    /* acquire: pairs with the release in start_on_loop; then `fabric` is set */
    return atomic_load_explicit(&node->is_serving, memory_order_acquire) ? UMBP_OK : UMBP_BUSY;
}

static bool is_serving(const struct node *node)
{
    return atomic_load_explicit(&node->is_serving, memory_order_relaxed); /* set on the loop */
}

static void on_request(void *context, struct fabric_request *request)
{
    struct node *node = context;
    struct proto_frame frame;
    enum umbp_status status = proto_frame_open(request->data, request->bytes, &frame);
    begin_function *begin = NULL;
    struct node_op *op = NULL;

    NODE_COUNT(node, requests, 1);
    if (!is_serving(node)) {
        status = UMBP_CLOSED;
    } else if (status != UMBP_OK) {
        NODE_COUNT(node, requests_malformed, 1);
    } else if (!(begin = begin_of(frame.header.op)) || frame.header.flags) {
        status = UMBP_UNSUPPORTED;
    } else if (!(op = op_take(node))) {
        NODE_COUNT(node, requests_busy, 1);
        status = UMBP_BUSY;
    }
    if (!op) {
        fabric_answer(node->fabric, request, status, NULL, 0);
        return;
    }
    op->request = request;
    op->frame = frame;
    op->overdue_ns = u64_min(request->deadline_ns, node_now_ns(node) + CALL_NS_MAX) + OVERDUE_NS;
    begin(op);
}

static void on_message(void *context, fabric_peer peer, const void *data, size_t bytes)
{
    struct node *node = context;
    struct proto_frame frame;
    if (proto_frame_open(data, bytes, &frame) != UMBP_OK) {
        NODE_COUNT(node, requests_malformed, 1);
    } else if (frame.header.op == PROTO_RELEASE) {
        node_release(node, peer, &frame);
    }
}

struct fabric_handlers node_handlers(struct node *node)
{
    return (struct fabric_handlers){.accept = on_accept,
                                    .peer_up = on_peer_up,
                                    .peer_down = on_peer_down,
                                    .request = on_request,
                                    .message = on_message,
                                    .context = node};
}

/* ---------------------------------------------------------------------------- sweep ------ */

/* What is overdue: transfers whose caller has long given up, places and slots that were kept. */
static void sweep(struct fabric_timer *timer)
{
    struct node *node = CONTAINER_OF(timer, struct node, sweep);
    uint64_t now_ns = node_now_ns(node);

    for (struct list_node *at = node->busy_ops.next; at != &node->busy_ops; at = at->next) {
        struct node_op *op = CONTAINER_OF(at, struct node_op, node);
        if (op->overdue_ns <= now_ns && (op->is_get || op->is_put)) {
            op->overdue_ns = UINT64_MAX;
            NODE_COUNT(node, peers_overdue, 1);
            fabric_disconnect(node->fabric, op->request->peer);
        }
    }
    for (uint32_t b = 0; b < NODE_PEER_BUCKETS; b++) {
        for (struct list_node *at = node->peers[b].next; at != &node->peers[b]; at = at->next) {
            struct node_peer *peer = CONTAINER_OF(at, struct node_peer, node);
            node_grants_expire(node, peer, now_ns);
            node_slots_expire(node, peer, now_ns);
        }
    }
    fabric_timer_set(node->fabric, timer, now_ns + SWEEP_NS);
}

/* ----------------------------------------------------------------------------- life ------ */

static uint32_t or_default(uint32_t value, uint32_t fallback) { return value ? value : fallback; }

static void set_defaults(struct node *node)
{
    struct node_options *options = &node->options;
    options->operations_max = or_default(options->operations_max, 256);
    if (!options->pinned_bytes_max) {
        options->pinned_bytes_max = dram_bytes_total(store_dram(node->store)) / 4;
    }
    options->pin_ms = or_default(options->pin_ms, 10000);
    options->staging_bytes = options->staging_bytes ? options->staging_bytes : UINT64_C(64) << 20;
    options->staging_slots = or_default(options->staging_slots, 8);
    options->job_threads = or_default(options->job_threads, 4);
    options->slots_max = or_default(options->slots_max, 1024);
    options->slot_ms = or_default(options->slot_ms, 30000);
    options->space_wait_ms = or_default(options->space_wait_ms, 100);
    options->linger_ms = or_default(options->linger_ms, 2);
    options->bundle_events = or_default(options->bundle_events, 1024);
    options->sync_events = or_default(options->sync_events, 2000);
    options->master_timeout_ms = or_default(options->master_timeout_ms, 2000);
}

static const char *keep_string(struct node *node, const char *text)
{
    char *copy = mem_strdup(text ? text : "");
    if (copy) {
        node->strings[node->string_count++] = copy;
    }
    return copy;
}

static enum umbp_status copy_strings(struct node *node)
{
    struct node_options *options = &node->options;
    options->id = keep_string(node, options->id);
    options->node_address = keep_string(node, options->node_address);
    options->peer_address = keep_string(node, options->peer_address);
    bool whole = options->id && options->node_address && options->peer_address;
    for (uint32_t i = 0; i < options->tag_count; i++) {
        node->tags[i] = keep_string(node, options->tags[i]);
        whole &= node->tags[i] != NULL;
    }
    options->tags = node->tags;
    for (uint32_t i = 0; whole && i < options->master_count; i++) {
        enum umbp_status status =
            node_session_create(node, i, options->masters[i], &node->sessions[i]);
        if (status != UMBP_OK) {
            return status;
        }
    }
    options->masters = NULL;
    return whole ? UMBP_OK : UMBP_NO_MEMORY;
}

static enum umbp_status check_options(const struct node_options *options)
{
    struct store_event event;
    uint64_t sequence = UINT64_MAX / 2;
    if (!options->store || !options->id || !options->id[0] || !options->incarnation ||
        store_event_next(options->store, &sequence, &event) == UMBP_UNSUPPORTED) {
        return UMBP_INVALID_VALUE;
    }
    bool fits = strlen(options->id) <= PROTO_TEXT_MAX && options->tag_count <= PROTO_TAGS_MAX &&
                options->master_count <= NODE_MASTERS_MAX &&
                strlen(options->node_address ? options->node_address : "") <= PROTO_TEXT_MAX &&
                strlen(options->peer_address ? options->peer_address : "") <= PROTO_TEXT_MAX;
    for (uint32_t i = 0; fits && i < options->tag_count; i++) {
        fits = strlen(options->tags[i]) <= PROTO_TEXT_MAX;
    }
    return fits ? UMBP_OK : UMBP_LIMIT;
}

enum umbp_status node_create(const struct node_options *options, struct node **node_out)
{
    enum umbp_status status = check_options(options);
    if (status != UMBP_OK) {
        return status;
    }
    struct node *node = mem_zalloc(sizeof(*node));
    if (!node) {
        return UMBP_NO_MEMORY;
    }
    node->options = *options;
    node->store = options->store;
    list_init(&node->free_lanes);
    list_init(&node->free_ops);
    list_init(&node->busy_ops);
    for (uint32_t i = 0; i < NODE_PEER_BUCKETS; i++) {
        list_init(&node->peers[i]);
    }
    set_defaults(node);
    node->scratch = mem_map(PROTO_FRAME_MAX);
    status = node->scratch ? copy_strings(node) : UMBP_NO_MEMORY;
    status = status == UMBP_OK ? node_slots_create(node) : status;
    status = status == UMBP_OK ? node_stage_create(node) : status;
    status = status == UMBP_OK ? node_events_create(node) : status;
    status = status == UMBP_OK ? node_threads_create(node) : status;
    if (status != UMBP_OK) {
        node_destroy(node);
        return status;
    }
    *node_out = node;
    return UMBP_OK;
}

static void start_on_loop(struct fabric_task *task)
{
    struct node *node = CONTAINER_OF(task, struct node, start_task);
    atomic_store_explicit(&node->is_serving, true, memory_order_release);
    node->sweep.run = sweep;
    fabric_timer_set(node->fabric, &node->sweep, node_now_ns(node) + SWEEP_NS);
    for (uint32_t i = 0; i < node->options.master_count; i++) {
        node_session_start(node->sessions[i]);
    }
}

enum umbp_status node_start(struct node *node, struct fabric *fabric)
{
    struct dram_tier *dram = store_dram(node->store);
    struct dram_buffer_info info;

    node->fabric = fabric;
    enum umbp_status status = node_stage_register(node);
    for (uint32_t i = 0; status == UMBP_OK && i < dram_buffer_count(dram); i++) {
        status = dram_buffer_get(dram, i, &info);
        if (status == UMBP_OK) {
            node->memory[i] = (struct node_memory){info.data, info.bytes, NULL};
            status = fabric_region_create(fabric, info.data, info.bytes, FABRIC_LOCAL, info.fd, 0,
                                          &node->memory[i].region);
        }
        node->memory_count += status == UMBP_OK;
    }
    if (status == UMBP_OK) {
        node->start_task.run = start_on_loop;
        fabric_post(fabric, &node->start_task);
    }
    return status;
}

static void stop_on_loop(struct fabric_task *task)
{
    struct node *node = CONTAINER_OF(task, struct node, stop_task);
    atomic_store_explicit(&node->is_serving, false, memory_order_release);
    node_jobs_cancel(node);
    for (uint32_t i = 0; i < node->options.master_count; i++) {
        node_session_stop(node->sessions[i]);
    }
    fabric_latch_down(node->fabric, &node->stop_latch);
}

void node_stop(struct node *node, uint64_t deadline_ns)
{
    if (!node->fabric) {
        return;
    }
    fabric_latch_init(&node->stop_latch, 1 + node->options.master_count);
    node->stop_task.run = stop_on_loop;
    fabric_post(node->fabric, &node->stop_task);
    (void)!fabric_wait(node->fabric, &node->stop_latch, deadline_ns);
}

static void drop_ops(struct node *node)
{
    while (!list_is_empty(&node->busy_ops)) {
        struct node_op *op = CONTAINER_OF(node->busy_ops.next, struct node_op, node);
        if (op->is_put) {
            node_put_drop(op);
        } else if (op->is_get) {
            node_get_drop(op);
        } else {
            node_op_refuse(op, UMBP_CLOSED);
        }
    }
    while (!list_is_empty(&node->free_ops)) {
        struct node_op *op = CONTAINER_OF(node->free_ops.next, struct node_op, node);
        list_remove(&op->node);
        mem_free(op);
    }
}

void node_destroy(struct node *node)
{
    if (!node) {
        return;
    }
    node_threads_destroy(node);
    for (uint32_t i = 0; node->lanes && i < node->options.staging_slots; i++) {
        if (node->lanes[i].op) {
            node_stage_drop(&node->lanes[i]); /* its job was never run */
        }
    }
    drop_ops(node);
    for (uint32_t b = 0; b < NODE_PEER_BUCKETS; b++) {
        while (!list_is_empty(&node->peers[b])) {
            peer_free(node, CONTAINER_OF(node->peers[b].next, struct node_peer, node));
        }
    }
    node_slots_destroy(node);
    for (uint32_t i = 0; i < node->memory_count; i++) {
        fabric_region_destroy(node->fabric, node->memory[i].region);
    }
    if (node->staging_region) {
        fabric_region_destroy(node->fabric, node->staging_region);
    }
    node_stage_destroy(node);
    for (uint32_t i = 0; i < NODE_MASTERS_MAX; i++) {
        node_session_destroy(node->sessions[i]);
    }
    mem_free(node->events.items);
    if (node->scratch) {
        mem_unmap(node->scratch, PROTO_FRAME_MAX);
    }
    for (uint32_t i = 0; i < node->string_count; i++) {
        mem_free(node->strings[i]);
    }
    mem_free(node);
}

/* ---------------------------------------------------------------------------- stats ------ */

static uint64_t bits_of(const _Atomic uint64_t *mask)
{
    /* relaxed: statistics */
    return (uint64_t)__builtin_popcountll(atomic_load_explicit(mask, memory_order_relaxed));
}

void node_stats(const struct node *node, struct umbp_stat_value *values_out, size_t capacity,
                size_t *count_out)
{
    const struct node_counters *counters = &node->counters;
    const struct umbp_stat_value values[] = {
/* relaxed: statistics */
#define NODE_COUNTER_VALUE(name)                                                                   \
    {"node." #name, atomic_load_explicit(&counters->name, memory_order_relaxed), true},
        NODE_COUNTERS(NODE_COUNTER_VALUE)
#undef NODE_COUNTER_VALUE
            {"node.operations_now",
             atomic_load_explicit(&counters->operations_now, memory_order_relaxed), false},
        {"node.grants_now", atomic_load_explicit(&counters->grants_now, memory_order_relaxed),
         false},
        {"node.slots_now", atomic_load_explicit(&counters->slots_now, memory_order_relaxed), false},
        {"node.lanes_now", atomic_load_explicit(&counters->lanes_now, memory_order_relaxed), false},
        {"node.masters_now", bits_of(&counters->masters_now), false},
        {"node.masters_with_its_id_taken", bits_of(&counters->taken_now), false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(values) && i < capacity; i++) {
        values_out[i] = values[i];
    }
    *count_out = ARRAY_COUNT(values);
}
