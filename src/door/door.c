/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames to the service core and back. Every handler decodes a whole body first, then calls the
 * core once, then answers: nothing of a bad frame reaches the core.
 */
#include "door/door.h"

#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "proto/proto.h"

#define PEERS_DEFAULT 1024u
#define TEXT_BYTES (PROTO_TEXT_MAX + 1u)

/* A node, by the connection that it registered on. */
struct door_node {
    fabric_peer peer; /* 0: free */
    uint64_t incarnation;
    uint32_t handle;
    char id[TEXT_BYTES];
};

struct door {
    struct master *master;
    _Atomic(struct fabric *) fabric;
    uint32_t heartbeat_ms;
    struct door_node *nodes;
    uint32_t node_room;
    _Atomic uint64_t requests;
    _Atomic uint64_t refused;
    _Atomic uint64_t left_off;
    /* Work areas of the loop, mapped and touched as far as they are used. */
    uint8_t *frame; /* PROTO_FRAME_MAX */
    struct master_event *events;
    struct fingerprint *prints;
    uint64_t *sizes;
    struct master_route *routes;
    struct proto_route *rows;
    uint8_t *found;
    struct proto_node *nodes_out;
    struct master_addresses *addresses;
};

#define EVENTS_MAX (PROTO_FRAME_MAX / PROTO_EVENT_BYTES)
#define NODES_OUT_MAX 256u

/* -------------------------------------------------------------------------------- life --- */

struct part {
    void **at;
    size_t bytes;
};

#define PARTS 9

static void parts_of(struct door *door, struct part parts[PARTS])
{
    const struct part all[PARTS] = {
        {(void **)&door->frame, PROTO_FRAME_MAX},
        {(void **)&door->events, EVENTS_MAX * sizeof(*door->events)},
        {(void **)&door->prints, UMBP_BATCH_MAX * sizeof(*door->prints)},
        {(void **)&door->sizes, UMBP_BATCH_MAX * sizeof(*door->sizes)},
        {(void **)&door->routes, UMBP_BATCH_MAX * sizeof(*door->routes)},
        {(void **)&door->rows, UMBP_BATCH_MAX * sizeof(*door->rows)},
        {(void **)&door->found, UMBP_BATCH_MAX},
        {(void **)&door->nodes_out, NODES_OUT_MAX * sizeof(*door->nodes_out)},
        {(void **)&door->addresses, NODES_OUT_MAX * sizeof(*door->addresses)},
    };
    memcpy(parts, all, sizeof(all));
}

enum umbp_status door_create(const struct door_options *options, struct door **door_out)
{
    struct part parts[PARTS];
    struct door *door = mem_zalloc(sizeof(*door));
    if (!door) {
        return UMBP_NO_MEMORY;
    }
    door->master = options->master;
    door->heartbeat_ms = options->heartbeat_ms;
    door->node_room = options->peers_max ? options->peers_max : PEERS_DEFAULT;
    door->nodes = mem_calloc(door->node_room, sizeof(*door->nodes));
    bool made = door->nodes != NULL;
    parts_of(door, parts);
    for (size_t i = 0; i < PARTS && made; i++) {
        *parts[i].at = mem_map(parts[i].bytes);
        made = *parts[i].at != NULL;
    }
    if (!made) {
        door_destroy(door);
        return UMBP_NO_MEMORY;
    }
    *door_out = door;
    return UMBP_OK;
}

void door_destroy(struct door *door)
{
    struct part parts[PARTS];
    if (!door) {
        return;
    }
    parts_of(door, parts);
    for (size_t i = 0; i < PARTS; i++) {
        if (*parts[i].at) {
            mem_unmap(*parts[i].at, parts[i].bytes);
        }
    }
    mem_free(door->nodes);
    mem_free(door);
}

void door_start(struct door *door, struct fabric *fabric)
{
    /* release: pairs with the loop's acquire; the door is whole before the fabric is seen */
    atomic_store_explicit(&door->fabric, fabric, memory_order_release);
}

void door_counters(const struct door *door, struct door_counters *counters_out)
{
    counters_out->requests = atomic_load_explicit(&door->requests, memory_order_relaxed);
    counters_out->refused = atomic_load_explicit(&door->refused, memory_order_relaxed);
    counters_out->left_off = atomic_load_explicit(&door->left_off, memory_order_relaxed);
}

/* --------------------------------------------------------------------------- questions --- */

struct question {
    struct door *door;
    struct fabric *fabric;
    struct fabric_request *request;
    struct proto_frame frame;
};

static struct proto_buffer buffer_of(const struct question *question)
{
    return (struct proto_buffer){question->door->frame, PROTO_FRAME_MAX};
}

/* The frame in the work area, or why there is none. */
static void reply(const struct question *question, enum umbp_status status, size_t bytes)
{
    const struct iovec part = {question->door->frame, bytes};
    fabric_answer(question->fabric, question->request, status, &part, status == UMBP_OK ? 1 : 0);
}

static void reply_bare(const struct question *question, enum umbp_status status)
{
    size_t bytes = 0;
    enum umbp_status encoded = proto_bare_encode(
        buffer_of(question), proto_call_of(&question->frame),
        (enum proto_op)question->frame.header.op, PROTO_FLAG_REPLY, status, 0, &bytes);
    reply(question, encoded, bytes);
}

static struct master_text text_of(struct proto_text text)
{
    return (struct master_text){text.data, text.bytes};
}

/* ------------------------------------------------------------------------------- nodes --- */

static struct door_node *node_of(struct door *door, fabric_peer peer)
{
    for (uint32_t i = 0; i < door->node_room; i++) {
        if (door->nodes[i].peer == peer) {
            return &door->nodes[i];
        }
    }
    return NULL;
}

static void take_capacities(struct proto_rows rows, uint32_t count,
                            struct master_capacity capacities[MASTER_TIERS])
{
    for (uint32_t i = 0; i < count; i++) {
        struct proto_capacity capacity = proto_capacity_at(rows, i);
        if (capacity.tier <= PROTO_TIER_NONE || capacity.tier > PROTO_TIER_SSD) {
            continue;
        }
        uint64_t used = u64_min(capacity.used_bytes, capacity.total_bytes);
        capacities[capacity.tier] = (struct master_capacity){
            .total_bytes = capacity.total_bytes,
            .available_bytes = capacity.total_bytes - used,
            .evictable_bytes = u64_min(capacity.evictable_bytes, used),
            .largest_bytes = capacity.largest_bytes,
        };
    }
}

static void reply_session(const struct question *question, enum umbp_status status,
                          const struct proto_session *session)
{
    size_t bytes = 0;
    enum umbp_status encoded =
        proto_session_encode(buffer_of(question), proto_call_of(&question->frame),
                             (enum proto_op)question->frame.header.op, status, session, &bytes);
    reply(question, encoded, bytes);
}

/* It registered on another connection before. That one's end must not take the node for lost. */
static void forget_others(struct door *door, struct proto_text id, const struct door_node *record)
{
    for (uint32_t i = 0; i < door->node_room; i++) {
        struct door_node *other = &door->nodes[i];
        if (other != record && other->peer && strlen(other->id) == id.bytes &&
            !memcmp(other->id, id.data, id.bytes)) {
            other->peer = 0;
        }
    }
}

static void on_register(const struct question *question)
{
    struct door *door = question->door;
    struct proto_register node;
    struct master_text tags[MASTER_TAGS_MAX];
    struct master_registered registered;

    enum umbp_status status = proto_register_decode(&question->frame, &node);
    if (status == UMBP_OK && node.tag_count > MASTER_TAGS_MAX) {
        status = UMBP_LIMIT;
    }
    struct door_node *record = node_of(door, question->request->peer);
    record = record ? record : node_of(door, 0);
    if (status == UMBP_OK && (!record || node.id.bytes >= sizeof(record->id))) {
        status = UMBP_LIMIT;
    }
    if (status != UMBP_OK) {
        reply_bare(question, status);
        return;
    }
    struct master_registration registration = {
        .id = text_of(node.id),
        .incarnation = node.incarnation,
        .node_address = text_of(node.node_address),
        .peer_address = text_of(node.peer_address),
        .fabric_address = text_of(node.address),
        .tags = tags,
        .tag_count = node.tag_count,
        .has_capacities = node.capacity_count > 0,
    };
    for (uint32_t i = 0; i < node.tag_count; i++) {
        tags[i] = text_of(proto_tag_at(node.tag_rows, node.tag_flat, i));
    }
    take_capacities(node.capacity_rows, node.capacity_count, registration.capacities);
    status = master_register(door->master, &registration, &registered);
    if (status != UMBP_OK) {
        reply_bare(question, status);
        return;
    }
    forget_others(door, node.id, record);
    record->peer = question->request->peer;
    record->incarnation = node.incarnation;
    record->handle = registered.node;
    memcpy(record->id, node.id.data, node.id.bytes);
    record->id[node.id.bytes] = '\0';
    const struct proto_session session = {
        .master_incarnation = master_incarnation(door->master),
        .acked_sequence = registered.acked_sequence,
        .node_index = registered.node,
        .flags = registered.wants_full_sync ? PROTO_SESSION_SYNC_WANTED : 0,
        .heartbeat_ms = door->heartbeat_ms
                            ? door->heartbeat_ms
                            : (uint32_t)u64_min(registered.heartbeat_interval_ms, UINT32_MAX),
    };
    reply_session(question, UMBP_OK, &session);
}

static uint32_t take_events(struct door *door, struct proto_walk *walk)
{
    struct proto_event event;
    uint32_t count = 0;
    while (count < EVENTS_MAX && proto_event_next(walk, &event)) {
        door->events[count++] = (struct master_event){
            .print = event.print,
            .bytes = event.bytes,
            .key = event.key.data,
            .key_bytes = (uint16_t)event.key.bytes,
            .tier = (uint8_t)event.tier,
            .is_add = event.is_add,
            .depth = event.depth,
        };
    }
    return count;
}

/* HEARTBEAT and SYNC. */
static void on_beat(const struct question *question, bool is_sync)
{
    struct door *door = question->door;
    struct door_node *record = node_of(door, question->request->peer);
    struct proto_session session = {.master_incarnation = master_incarnation(door->master)};
    struct master_beat_answer answer = {0};
    struct proto_beat beat;
    struct proto_walk walk;

    enum umbp_status status = proto_beat_open(&question->frame, &beat, &walk);
    if (status != UMBP_OK) {
        reply_bare(question, status);
        return;
    }
    if (!record || record->incarnation != beat.incarnation) {
        session.flags = PROTO_SESSION_UNKNOWN;
        reply_session(question, UMBP_OK, &session);
        return;
    }
    struct master_bundle bundle = {
        .sequence = beat.sequence,
        .events = door->events,
        .count = take_events(door, &walk),
    };
    struct master_beat report = {
        .id = master_text_of(record->id),
        .incarnation = beat.incarnation,
        .bundles = &bundle,
        .bundle_count = is_sync || bundle.count ? 1 : 0,
        .is_full_sync = is_sync,
        .is_last = beat.is_last,
        .chunk = beat.chunk,
        .sync_id = beat.sync_id,
        .baseline = beat.sequence,
        .has_capacities = beat.capacity_count > 0,
    };
    take_capacities(beat.capacity_rows, beat.capacity_count, report.capacities);
    status = master_beat(door->master, &report, &answer);
    if (status == UMBP_NOT_FOUND) {
        session.flags = PROTO_SESSION_UNKNOWN;
        status = UMBP_OK;
    } else {
        record->handle = answer.node ? answer.node : record->handle;
        session.acked_sequence = answer.acked_sequence;
        session.sync_id = answer.sync_id;
        session.next_chunk = answer.next_chunk;
        session.node_index = record->handle;
        session.flags = answer.wants_full_sync ? PROTO_SESSION_SYNC_WANTED : 0;
        session.heartbeat_ms = door->heartbeat_ms;
    }
    reply_session(question, status, &session);
}

static void on_unregister(const struct question *question)
{
    struct door *door = question->door;
    struct door_node *record = node_of(door, question->request->peer);
    enum umbp_status status = UMBP_NOT_FOUND;
    if (record) {
        status =
            master_unregister(door->master, master_text_of(record->id), question->frame.header.aux);
        record->peer = 0;
    }
    reply_bare(question, status);
}

/* ----------------------------------------------------------------------------- routing --- */

static uint32_t add_node(struct door *door, uint32_t handle, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (door->nodes_out[i].index == handle) {
            return count;
        }
    }
    struct master_addresses *addresses = &door->addresses[count];
    if (count == NODES_OUT_MAX ||
        master_node_addresses(door->master, handle, addresses) != UMBP_OK) {
        return count;
    }
    door->nodes_out[count] = (struct proto_node){
        .index = handle,
        .incarnation = addresses->incarnation,
        .id = proto_text_of(addresses->id),
        .address = proto_text_of(addresses->fabric_address),
        .peer_address = proto_text_of(addresses->peer_address),
    };
    return count + 1;
}

static void reply_routes(const struct question *question, uint32_t count, uint32_t node_count,
                         size_t left_off)
{
    struct door *door = question->door;
    const struct proto_members members = {
        .node_count = node_count, .left_off = left_off, .nodes = door->nodes_out};
    size_t bytes = 0;
    enum umbp_status status = proto_routes_encode(
        buffer_of(question), proto_call_of(&question->frame),
        (enum proto_op)question->frame.header.op, &members, door->rows, count, &bytes);
    reply(question, status, bytes);
}

static enum umbp_status status_of(const struct master_route *route, bool is_put)
{
    switch ((enum master_outcome)route->outcome) {
    case MASTER_ROUTED:
        return UMBP_OK;
    case MASTER_ALREADY_EXISTS:
        return UMBP_ALREADY_EXISTS;
    case MASTER_UNAVAILABLE:
        break;
    }
    if (is_put) {
        return route->is_too_large ? UMBP_TOO_LARGE : UMBP_NO_SPACE;
    }
    return UMBP_NOT_FOUND;
}

static void on_ask(const struct question *question)
{
    struct door *door = question->door;
    uint32_t excludes[MASTER_EXCLUDES_MAX];
    struct proto_ask ask;
    struct proto_walk walk;
    struct proto_want want;
    uint32_t count = 0;
    uint32_t node_count = 0;
    bool is_put = question->frame.header.op == PROTO_ROUTE_PUT;

    enum umbp_status status = proto_ask_open(&question->frame, &ask, &walk);
    if (status == UMBP_OK && ask.exclude_count > MASTER_EXCLUDES_MAX) {
        status = UMBP_LIMIT;
    }
    if (status != UMBP_OK) {
        reply_bare(question, status);
        return;
    }
    for (uint32_t i = 0; i < ask.exclude_count; i++) {
        excludes[i] = proto_exclude_at(ask.exclude_rows, i);
    }
    if (!is_put) {
        count = proto_want_prints(&walk, door->prints);
    }
    while (proto_want_next(&walk, &want)) {
        door->prints[count] = want.print;
        door->sizes[count++] = want.bytes;
    }
    if (question->frame.header.op == PROTO_LOOKUP) {
        size_t bytes = 0;
        status = master_lookup(door->master, door->prints, count, door->found);
        if (status != UMBP_OK) {
            reply_bare(question, status);
            return;
        }
        status = proto_found_encode(buffer_of(question), proto_call_of(&question->frame),
                                    door->found, count, &bytes);
        reply(question, status, bytes);
        return;
    }
    const struct master_caller caller = {
        .node = ask.node_index,
        .excludes = excludes,
        .exclude_count = ask.exclude_count,
    };
    status = is_put ? master_route_put(door->master, &caller, door->prints, door->sizes, 0, count,
                                       door->routes)
                    : master_route_get(door->master, &caller, door->prints, count, door->routes);
    if (status != UMBP_OK) {
        reply_bare(question, status);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct master_route *route = &door->routes[i];
        door->rows[i] = (struct proto_route){
            .status = status_of(route, is_put),
            .tier = (enum proto_tier)route->tier,
            .replicas = route->replicas,
            .node_index = route->node,
            .bytes = route->bytes,
        };
        if (ask.wants_nodes && route->outcome != MASTER_UNAVAILABLE) {
            node_count = add_node(door, route->node, node_count);
        }
    }
    reply_routes(question, count, node_count, 0);
}

static void on_nodes(const struct question *question)
{
    struct door *door = question->door;
    uint32_t handles[NODES_OUT_MAX];
    struct proto_walk walk;
    uint64_t number;
    uint32_t count = 0;
    uint32_t node_count = 0;

    enum umbp_status status = proto_numbers_open(&question->frame, &walk);
    if (status != UMBP_OK) {
        reply_bare(question, status);
        return;
    }
    while (count < NODES_OUT_MAX && proto_numbers_next(&walk, &number)) {
        handles[count++] = (uint32_t)number;
    }
    if (!count) {
        count =
            (uint32_t)size_min(master_nodes(door->master, handles, NODES_OUT_MAX), NODES_OUT_MAX);
    }
    for (uint32_t i = 0; i < count; i++) {
        node_count = add_node(door, handles[i], node_count);
    }
    reply_routes(question, 0, node_count, 0);
}

/* ------------------------------------------------------------------ external KV index ---- */

/* The rows are in the order of nodes. Those that have no room, or whose node has none, are left off
 * and counted; those of a node that has gone meanwhile are not missed. */
static void reply_matches(const struct question *question, const struct master_matches *matches)
{
    struct door *door = question->door;
    uint32_t count = 0;
    uint32_t node_count = 0;
    size_t left_off = 0;
    for (size_t i = 0; i < matches->count; i++) {
        const struct master_match_row *row = &matches->rows[i];
        if (count == UMBP_BATCH_MAX) {
            left_off += matches->count - i;
            break;
        }
        node_count = add_node(door, row->node, node_count);
        if (node_count && door->nodes_out[node_count - 1].index == row->node) {
            door->rows[count++] = (struct proto_route){
                .tier = (enum proto_tier)row->tier,
                .node_index = row->node,
                .bytes = row->item,
            };
        } else {
            left_off += node_count == NODES_OUT_MAX;
        }
    }
    if (left_off) {
        atomic_fetch_add_explicit(&door->left_off, left_off, memory_order_relaxed);
    }
    reply_routes(question, count, node_count, left_off);
}

static void reply_hits(const struct question *question, uint32_t count)
{
    struct door *door = question->door;
    size_t bytes = 0;
    enum umbp_status status = master_external_hits(door->master, door->prints, count, door->sizes);
    if (status != UMBP_OK) {
        reply_bare(question, status);
        return;
    }
    status = proto_numbers_encode(buffer_of(question), proto_call_of(&question->frame),
                                  PROTO_EXT_HITS, PROTO_FLAG_REPLY, door->sizes, count, &bytes);
    reply(question, status, bytes);
}

static void on_external(const struct question *question)
{
    struct door *door = question->door;
    struct master *master = door->master;
    struct proto_ext ext;
    struct proto_walk walk;
    struct master_matches matches;
    uint32_t count = 0;

    enum umbp_status status = proto_ext_open(&question->frame, &ext, &walk);
    if (status != UMBP_OK) {
        reply_bare(question, status);
        return;
    }
    while (proto_print_next(&walk, &door->prints[count])) {
        count++;
    }
    const struct master_text id = text_of(ext.node_id);
    enum master_tier tier = (enum master_tier)ext.tier;
    switch ((enum proto_op)question->frame.header.op) {
    case PROTO_EXT_REPORT:
        status = master_external_report(master, id, door->prints, count, tier);
        break;
    case PROTO_EXT_REVOKE:
        status = master_external_revoke(master, id, door->prints, count, tier);
        break;
    case PROTO_EXT_REVOKE_ALL:
        status = master_external_revoke_all(master, id, tier);
        break;
    case PROTO_EXT_HITS:
        reply_hits(question, count);
        return;
    default:
        status = master_external_match(master, door->prints, count, ext.count_as_hit, &matches);
        if (status == UMBP_OK) {
            reply_matches(question, &matches);
            master_matches_free(&matches);
            return;
        }
    }
    reply_bare(question, status);
}

/* ---------------------------------------------------------------------------- the loop --- */

static void dispatch(const struct question *question)
{
    switch ((enum proto_op)question->frame.header.op) {
    case PROTO_REGISTER:
        on_register(question);
        return;
    case PROTO_HEARTBEAT:
        on_beat(question, false);
        return;
    case PROTO_SYNC:
        on_beat(question, true);
        return;
    case PROTO_UNREGISTER:
        on_unregister(question);
        return;
    case PROTO_ROUTE_PUT:
    case PROTO_ROUTE_GET:
    case PROTO_LOOKUP:
        on_ask(question);
        return;
    case PROTO_NODES:
        on_nodes(question);
        return;
    case PROTO_EXT_REPORT:
    case PROTO_EXT_REVOKE:
    case PROTO_EXT_REVOKE_ALL:
    case PROTO_EXT_MATCH:
    case PROTO_EXT_HITS:
        on_external(question);
        return;
    default:
        atomic_fetch_add_explicit(&question->door->refused, 1, memory_order_relaxed);
        reply_bare(question, UMBP_UNSUPPORTED);
    }
}

/* The loop may run before fabric_open has returned to who will call door_start at once. */
static struct fabric *started(struct door *door)
{
    struct fabric *fabric;
    while (!(fabric = atomic_load_explicit(&door->fabric, memory_order_acquire))) {
        (void)sched_yield();
    }
    return fabric;
}

static void on_request(void *context, struct fabric_request *request)
{
    struct door *door = context;
    struct question question = {.door = door, .fabric = started(door), .request = request};
    atomic_fetch_add_explicit(&door->requests, 1, memory_order_relaxed);
    enum umbp_status status = proto_frame_open(request->data, request->bytes, &question.frame);
    if (status == UMBP_OK && (question.frame.header.flags & PROTO_FLAG_REPLY)) {
        status = UMBP_CORRUPT;
    }
    if (status != UMBP_OK) {
        atomic_fetch_add_explicit(&door->refused, 1, memory_order_relaxed);
        fabric_answer(question.fabric, request, status, NULL, 0);
        return;
    }
    dispatch(&question);
}

static void on_peer_down(void *context, fabric_peer peer, enum umbp_status reason)
{
    struct door *door = context;
    struct door_node *record = node_of(door, peer);
    (void)reason;
    if (record) {
        master_node_lost(door->master, master_text_of(record->id), record->incarnation);
        record->peer = 0;
    }
}

void door_handlers(struct door *door, struct fabric_handlers *handlers_out)
{
    *handlers_out = (struct fabric_handlers){
        .peer_down = on_peer_down,
        .request = on_request,
        .context = door,
    };
}
