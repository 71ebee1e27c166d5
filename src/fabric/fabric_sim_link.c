/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated network: messages over a connection, and how a connection ends.
 *
 * Each end of a connection is a side. A side that closes gives up at once everything that it began
 * and everything that is on its way to it (each event looks whether its side is still open), raises
 * its epoch, and then owes its owner the callbacks in the order that fabric.h promises: what was
 * pending, then peer_down, which waits for the pulls. The other side learns of it by a message, so
 * for a while only one of the two is closed.
 */
#include "fabric/fabric_sim_priv.h"

enum message_kind {
    MESSAGE_ONE_WAY,
    MESSAGE_REQUEST,
    MESSAGE_REPLY
};

struct sim_call_record {
    struct list_node node;
    struct sim_side *side;
    struct fabric_call call;
    uint64_t id;
    struct sim_event *deadline;
    struct fabric_reply reply; /* once it is done */
    uint8_t *data;             /* of the reply */
};

struct sim_request {
    struct fabric_request base; /* first */
    struct list_node node;
    struct sim_side *side; /* it came in by */
    uint64_t id;
    uint8_t *data;
};

/* ------------------------------------------------------------------------------ sending -- */

static enum umbp_status gather(const struct iovec *parts, unsigned part_count, uint8_t **data_out,
                               size_t *bytes_out)
{
    size_t bytes = 0;
    if (part_count > FABRIC_PARTS_MAX) {
        return UMBP_INVALID_VALUE;
    }
    for (unsigned i = 0; i < part_count; i++) {
        bytes += parts[i].iov_len;
    }
    if (bytes > FABRIC_MESSAGE_MAX) {
        return UMBP_TOO_LARGE;
    }
    uint8_t *data = sim_alloc(bytes + 1);
    size_t at = 0;
    for (unsigned i = 0; i < part_count; i++) {
        if (parts[i].iov_len) {
            memcpy(data + at, parts[i].iov_base, parts[i].iov_len);
        }
        at += parts[i].iov_len;
    }
    *data_out = data;
    *bytes_out = bytes;
    return UMBP_OK;
}

struct sim_message {
    enum message_kind kind;
    enum umbp_status status;
    uint64_t id;
    uint64_t epoch; /* the sender's, when it was submitted */
    uint64_t deadline_ns;
};

static void message_arrives(struct fabric_sim *sim, struct sim_event *event);

/* The event's data: the message's head, then its bytes. */
static void message_send(struct sim_side *side, const struct sim_message *message, uint8_t *data,
                         size_t bytes)
{
    struct fabric_sim *sim = side->owner->sim;
    struct sim_event *event = sim_event_new(sim, side->other->owner, message_arrives, side->other);
    event->data = sim_alloc(sizeof(*message) + bytes + 1);
    memcpy(event->data, message, sizeof(*message));
    memcpy(event->data + sizeof(*message), data, bytes);
    event->bytes = bytes;
    mem_free(data);
    sim_event_cross(sim, event, side->other, bytes <= FABRIC_EAGER_BYTES);
}

/* -------------------------------------------------------------------------------- calls -- */

static void call_report(struct fabric_sim *sim, struct sim_event *event)
{
    struct sim_call_record *record = event->what;
    (void)sim;
    list_remove(&record->node);
    record->side->owner->calls_now--;
    record->side->calls_now--;
    record->call.done(record->call.context, &record->reply);
    mem_free(record->data);
    mem_free(record);
}

/* Over: its callback is due, and it stays on the list until that. */
static void call_end(struct sim_call_record *record, enum umbp_status status)
{
    struct sim_endpoint *owner = record->side->owner;
    if (record->deadline) {
        record->deadline->is_dead = true;
        record->deadline = NULL;
        record->reply.status = status;
        sim_event_push(owner->sim, sim_event_new(owner->sim, owner, call_report, record), 0);
    }
}

static void call_late(struct fabric_sim *sim, struct sim_event *event)
{
    struct sim_call_record *record = event->what;
    (void)sim;
    if (record->call.exposes_memory) {
        struct sim_side *side = record->side;
        call_end(record, UMBP_TIMEOUT);
        sim_side_close(side, UMBP_TIMEOUT, UMBP_CLOSED, true);
    } else {
        call_end(record, UMBP_TIMEOUT);
    }
}

enum umbp_status sim_call(struct fabric *fabric, const struct fabric_call *call)
{
    struct sim_endpoint *endpoint = sim_endpoint_of(fabric);
    struct fabric_sim *sim = endpoint->sim;
    struct sim_side *side = sim_side_find(endpoint, call->peer);
    uint8_t *data;
    size_t bytes;

    if (!side || sim_is_gone(endpoint)) {
        return UMBP_CLOSED;
    }
    if (call->deadline_ns <= sim->now_ns) {
        return UMBP_TIMEOUT;
    }
    if (endpoint->calls_now >= endpoint->options.calls_max ||
        side->calls_now >= endpoint->options.calls_per_peer) {
        endpoint->stats.busy++;
        return UMBP_BUSY;
    }
    enum umbp_status status = gather(call->parts, call->part_count, &data, &bytes);
    if (status != UMBP_OK) {
        return status;
    }
    struct sim_call_record *record = sim_alloc(sizeof(*record));
    record->side = side;
    record->call = *call;
    record->id = ++sim->order;
    record->deadline = sim_event_new(sim, endpoint, call_late, record);
    sim_event_push(sim, record->deadline, call->deadline_ns - sim->now_ns);
    list_push_back(&side->calls, &record->node);
    endpoint->calls_now++;
    side->calls_now++;
    endpoint->stats.calls++;
    struct sim_message message = {.kind = MESSAGE_REQUEST,
                                  .id = record->id,
                                  .epoch = side->epoch,
                                  .deadline_ns = call->deadline_ns};
    message_send(side, &message, data, bytes);
    return UMBP_OK;
}

static void reply_arrives(struct sim_side *side, const struct sim_message *message,
                          const uint8_t *data, size_t bytes)
{
    for (struct list_node *at = side->calls.next; at != &side->calls; at = at->next) {
        struct sim_call_record *record = CONTAINER_OF(at, struct sim_call_record, node);
        if (record->id == message->id && record->deadline) {
            record->data = sim_alloc(bytes + 1);
            memcpy(record->data, data, bytes);
            record->reply.data = record->data;
            record->reply.bytes = bytes;
            record->reply.epoch = message->epoch;
            call_end(record, message->status);
            return;
        }
    }
}

/* ----------------------------------------------------------------------------- requests -- */

static void request_free(struct sim_request *request)
{
    list_remove(&request->node);
    mem_free(request->data);
    mem_free(request);
}

void sim_requests_free(struct sim_endpoint *endpoint)
{
    while (!list_is_empty(&endpoint->requests)) {
        request_free(CONTAINER_OF(endpoint->requests.next, struct sim_request, node));
    }
}

void sim_answer(struct fabric *fabric, struct fabric_request *base, enum umbp_status status,
                const struct iovec *parts, unsigned part_count)
{
    struct sim_endpoint *endpoint = sim_endpoint_of(fabric);
    struct sim_request *request = CONTAINER_OF(base, struct sim_request, base);
    struct sim_side *side = request->side;
    uint8_t *data = NULL;
    size_t bytes = 0;

    endpoint->requests_now--;
    if (!side->is_closed && !sim_is_gone(endpoint)) {
        enum umbp_status fits = gather(parts, part_count, &data, &bytes);
        if (fits != UMBP_OK) {
            status = UMBP_TOO_LARGE;
            data = sim_alloc(1);
            bytes = 0;
        }
        struct sim_message message = {
            .kind = MESSAGE_REPLY, .status = status, .id = request->id, .epoch = side->epoch};
        message_send(side, &message, data, bytes);
    }
    request_free(request);
}

static void request_arrives(struct sim_side *side, const struct sim_message *message,
                            const uint8_t *data, size_t bytes)
{
    struct sim_endpoint *owner = side->owner;
    struct sim_request *request = sim_alloc(sizeof(*request));
    request->side = side;
    request->id = message->id;
    request->data = sim_alloc(bytes + 1);
    memcpy(request->data, data, bytes);
    request->base = (struct fabric_request){.peer = side->peer,
                                            .data = request->data,
                                            .bytes = bytes,
                                            .deadline_ns = message->deadline_ns,
                                            .epoch = message->epoch};
    list_push_back(&owner->requests, &request->node);
    owner->requests_now++;
    owner->stats.requests++;
    if (owner->requests_now > owner->options.requests_max) {
        owner->stats.busy++;
        sim_answer(&owner->base, &request->base, UMBP_BUSY, NULL, 0);
    } else if (!owner->handlers.request) {
        sim_answer(&owner->base, &request->base, UMBP_UNSUPPORTED, NULL, 0);
    } else {
        owner->handlers.request(owner->handlers.context, &request->base);
    }
}

static void message_arrives(struct fabric_sim *sim, struct sim_event *event)
{
    struct sim_side *side = event->what;
    struct sim_message message;
    const uint8_t *data = event->data + sizeof(message);

    (void)sim;
    if (side->is_closed || !side->is_up) {
        return;
    }
    side->heard_ns = side->owner->sim->now_ns;
    memcpy(&message, event->data, sizeof(message));
    if (message.kind == MESSAGE_REPLY) {
        reply_arrives(side, &message, data, event->bytes);
    } else if (message.kind == MESSAGE_REQUEST) {
        request_arrives(side, &message, data, event->bytes);
    } else if (side->owner->handlers.message) {
        side->owner->stats.messages_received++;
        side->owner->handlers.message(side->owner->handlers.context, side->peer, data,
                                      event->bytes);
    }
}

enum umbp_status sim_send(struct fabric *fabric, fabric_peer peer, const struct iovec *parts,
                          unsigned part_count)
{
    struct sim_endpoint *endpoint = sim_endpoint_of(fabric);
    struct sim_side *side = sim_side_find(endpoint, peer);
    uint8_t *data;
    size_t bytes;

    if (!side || sim_is_gone(endpoint)) {
        return UMBP_CLOSED;
    }
    enum umbp_status status = gather(parts, part_count, &data, &bytes);
    if (status != UMBP_OK) {
        return status;
    }
    if (bytes > FABRIC_EAGER_BYTES) {
        mem_free(data);
        return UMBP_TOO_LARGE;
    }
    endpoint->stats.messages_sent++;
    struct sim_message message = {.kind = MESSAGE_ONE_WAY};
    message_send(side, &message, data, bytes);
    return UMBP_OK;
}

/* ------------------------------------------------------------------ a side, up and down -- */

void sim_side_init(struct sim_side *side, struct sim_link *link, struct sim_side *other,
                   struct sim_endpoint *owner)
{
    side->link = link;
    side->other = other;
    side->owner = owner;
    side->peer = ++owner->sim->next_peer;
    side->epoch = 1;
    list_init(&side->calls);
    list_init(&side->transfers);
    list_init(&side->pulls);
}

/* The beats, seen from one side: as if they came whenever the other could send them. */
static void watch(struct fabric_sim *sim, struct sim_event *event)
{
    struct sim_side *side = event->what;
    const struct sim_endpoint *owner = side->owner;
    const struct sim_endpoint *other = side->other->owner;

    if (side->is_closed) {
        return;
    }
    bool reachable =
        !other->is_stopped && !sim_is_gone(other) && !(sim->cut[owner->host] & (1u << other->host));
    if (reachable) {
        side->heard_ns = sim->now_ns;
    } else if (sim->now_ns - side->heard_ns > owner->options.peer_timeout_ms * NS_PER_MS) {
        sim_side_close(side, UMBP_TIMEOUT, UMBP_CLOSED, true);
        return;
    }
    sim_event_push(sim, sim_event_new(sim, side->owner, watch, side),
                   owner->options.beat_ms * NS_PER_MS);
}

void sim_side_up(struct sim_side *side)
{
    struct sim_endpoint *owner = side->owner;
    const struct sim_endpoint *other = side->other->owner;
    struct fabric_hello hello = {
        .identity = other->identity,
        .identity_bytes = other->options.identity_bytes,
        .address = other->address,
        .from = "sim",
        .incoming = side->is_incoming,
        .version = 1,
    };
    side->is_up = true;
    side->heard_ns = owner->sim->now_ns;
    owner->peers_now++;
    owner->stats.connected++;
    sim_event_push(owner->sim, sim_event_new(owner->sim, owner, watch, side),
                   owner->options.beat_ms * NS_PER_MS);
    if (owner->handlers.peer_up) {
        owner->handlers.peer_up(owner->handlers.context, side->peer, &hello);
    }
}

static void side_down(struct sim_side *side)
{
    struct sim_endpoint *owner = side->owner;
    if (side->is_up && !side->is_down && !side->pulls_now) {
        side->is_down = true;
        owner->peers_now--;
        owner->stats.closed++;
        if (owner->handlers.peer_down) {
            owner->handlers.peer_down(owner->handlers.context, side->peer, side->reason);
        }
    }
}

/* Due after the callbacks of calls and transfers, which were pushed before it. */
static void down_due(struct fabric_sim *sim, struct sim_event *event)
{
    (void)sim;
    side_down(event->what);
}

void sim_side_pull_ended(struct sim_side *side)
{
    struct fabric_sim *sim = side->owner->sim;
    side->pulls_now--;
    if (side->is_closed && !side->pulls_now) {
        sim_event_push(sim, sim_event_new(sim, side->owner, down_due, side), 0);
    }
}

static void notice(struct fabric_sim *sim, struct sim_event *event)
{
    (void)sim;
    sim_side_close(event->what, UMBP_CLOSED, UMBP_CLOSED, false);
}

void sim_side_close(struct sim_side *side, enum umbp_status reason, enum umbp_status mine,
                    bool tell)
{
    struct fabric_sim *sim = side->owner->sim;
    if (side->is_closed) {
        return;
    }
    side->is_closed = true;
    side->reason = reason;
    side->epoch++;
    sim_moves_close(side, mine);
    for (struct list_node *at = side->calls.next; at != &side->calls; at = at->next) {
        call_end(CONTAINER_OF(at, struct sim_call_record, node), mine);
    }
    sim_event_push(sim, sim_event_new(sim, side->owner, down_due, side), 0);
    if (tell && !side->other->is_closed) {
        struct sim_event *event = sim_event_new(sim, side->other->owner, notice, side->other);
        sim_event_cross(sim, event, side->other, true);
    }
}

void sim_side_finish(struct sim_side *side)
{
    sim_moves_finish(side);
    while (!list_is_empty(&side->calls)) {
        struct sim_call_record *record =
            CONTAINER_OF(side->calls.next, struct sim_call_record, node);
        struct sim_event event = {.what = record};
        if (record->deadline) {
            record->deadline->is_dead = true;
        }
        call_report(side->owner->sim, &event);
    }
    side_down(side);
}
