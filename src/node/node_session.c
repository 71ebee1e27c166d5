/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session with one master.
 *
 *     IDLE ──connect──► CONNECTING ──REGISTER──► REGISTERING ──► ACTIVE: one call at a time of
 *       ▲  (after a pause that grows)                │              │    SYNC chunk, bundle, beat
 *       └────────────── connection's end, no answer, refusal ◄──────┘
 *
 * Bundles. Number n carries the events [cursor, bundle_end). Until the master has acknowledged n it
 * is sent again with exactly these events, over whichever connection: a copy of it may still arrive
 * on an old one, and must then be the same as the one that is skipped for it. What happens
 * meanwhile waits for n + 1. So the master's index follows the order of the store's events, each
 * applied once.
 *
 * Full sync. At first, when the master asks, and when events were overwritten before they were
 * sent. It covers everything up to the highest number ever sent, so a late copy of an old bundle
 * changes nothing afterwards. The list is read in pieces while the store goes on; the events since
 * its beginning are sent on top of it.
 *
 * A master that is known by two names has one session: two would number their bundles against each
 * other. The later one lets go and looks again now and then, in case the other one has lost it.
 */
#include "node/node_priv.h"

#define PAUSE_MIN_MS 20u
#define PAUSE_MAX_MS 500u
#define BEAT_DEFAULT_MS 1000u
#define TWIN_PAUSE_MS 10000u

enum session_state {
    SESSION_IDLE = 0,
    SESSION_CONNECTING,
    SESSION_REGISTERING,
    SESSION_ACTIVE,
    SESSION_STOPPING,
    SESSION_STOPPED,
};

struct node_session {
    struct node *owner;
    uint32_t index;
    struct mutex found_lock; /* RANK_NODE_JOBS: `found` */
    char found[FABRIC_ADDRESS_MAX];
    char address[FABRIC_ADDRESS_MAX]; /* the one that is being used */
    enum session_state state;
    fabric_peer peer;
    struct fabric_timer timer;
    uint32_t pause_ms;
    uint64_t master_incarnation; /* whom it is registered with */
    bool is_asking;              /* a call is pending */
    uint64_t request_id;
    uint32_t beat_ms;
    uint64_t beat_ns; /* when the last call that counts as a beat was made */

    uint64_t sent;       /* the highest bundle's number */
    uint64_t acked;      /* bundle */
    uint64_t cursor;     /* the first event that is not acknowledged */
    uint64_t bundle_end; /* of bundle acked + 1, if has_bundle */
    bool has_bundle;

    bool wants_sync;
    bool is_syncing;
    bool is_last;
    struct store_cursor list;
    uint64_t sync_id;
    uint32_t chunk; /* the one that was sent last */
    uint64_t sync_not_before_ns;
    uint32_t sync_pause_ms;
    struct log_limit refused;
    struct log_limit unreached;
};

#define REFUSED_LOG_MS 10000u
#define UNREACHED_LOG_MS 60000u
#define TWIN_LOG_MS 3600000u

static void session_work(struct node_session *session);
static void session_tick(struct fabric_timer *timer);

enum umbp_status node_session_create(struct node *node, uint32_t index, const char *address,
                                     struct node_session **session_out)
{
    if (strlen(address) >= FABRIC_ADDRESS_MAX) {
        return UMBP_LIMIT;
    }
    struct node_session *session = mem_zalloc(sizeof(*session));
    if (!session) {
        return UMBP_NO_MEMORY;
    }
    session->owner = node;
    session->index = index;
    mutex_init(&session->found_lock, RANK_NODE_JOBS);
    (void)snprintf(session->found, sizeof(session->found), "%s", address);
    session->timer.run = session_tick;
    session->wants_sync = true;
    session->pause_ms = PAUSE_MIN_MS;
    session->beat_ms = BEAT_DEFAULT_MS;
    session->cursor = 1;
    *session_out = session;
    return UMBP_OK;
}

void node_session_destroy(struct node_session *session)
{
    if (session) {
        mutex_fini(&session->found_lock);
        mem_free(session);
    }
}

void node_master_found(struct node *node, uint32_t master, const char *address)
{
    struct node_session *session = node->sessions[master];
    ASSERT(master < node->options.master_count && strlen(address) < FABRIC_ADDRESS_MAX);
    mutex_lock(&session->found_lock);
    (void)snprintf(session->found, sizeof(session->found), "%s", address);
    mutex_unlock(&session->found_lock);
}

static bool is_over(const struct node_session *session)
{
    return session->state == SESSION_STOPPING || session->state == SESSION_STOPPED;
}

static void tick_in(struct node_session *session, uint32_t ms)
{
    if (!is_over(session)) {
        fabric_timer_set(session->owner->fabric, &session->timer,
                         node_now_ns(session->owner) + ms * NS_PER_MS);
    }
}

static void set_bit(const struct node_session *session, _Atomic uint64_t *mask, bool on)
{
    uint64_t bit = UINT64_C(1) << session->index;
    /* relaxed: statistics */
    if (on) {
        atomic_fetch_or_explicit(mask, bit, memory_order_relaxed);
    } else {
        atomic_fetch_and_explicit(mask, ~bit, memory_order_relaxed);
    }
}

/* The master lists us, refuses our id, or neither. */
static void set_standing(const struct node_session *session, bool is_listed, bool is_taken)
{
    set_bit(session, &session->owner->counters.masters_now, is_listed);
    set_bit(session, &session->owner->counters.taken_now, is_taken);
}

/* A sync that was under way begins anew. */
static void session_let_go(struct node_session *session)
{
    if (session->peer) {
        fabric_disconnect(session->owner->fabric, session->peer);
        session->peer = 0;
    }
    session->state = SESSION_IDLE;
    set_bit(session, &session->owner->counters.masters_now, false);
    session->wants_sync |= session->is_syncing;
    session->is_syncing = false;
}

/* Begin again after a pause. */
static void session_fail(struct node_session *session)
{
    if (is_over(session)) {
        return;
    }
    session_let_go(session);
    if (session->owner->options.master_wanted) {
        session->owner->options.master_wanted(session->owner->options.master_context,
                                              session->index);
    }
    tick_in(session, session->pause_ms);
    session->pause_ms = session->pause_ms * 2 > PAUSE_MAX_MS ? PAUSE_MAX_MS : session->pause_ms * 2;
}

void node_session_peer_down(struct node_session *session, fabric_peer peer)
{
    if (session->peer == peer) {
        session->peer = 0;
        session_fail(session);
    }
}

/* ---------------------------------------------------------------------------- calls ------ */

static enum umbp_status ask(struct node_session *session, size_t bytes,
                            void (*done)(void *, const struct fabric_reply *))
{
    struct node *node = session->owner;
    const struct iovec part = {node->scratch, bytes};
    const struct fabric_call call = {
        .peer = session->peer,
        .parts = &part,
        .part_count = 1,
        .deadline_ns = node_now_ns(node) + node->options.master_timeout_ms * NS_PER_MS,
        .done = done,
        .context = session,
    };
    enum umbp_status status = fabric_call(node->fabric, &call);
    session->is_asking = status == UMBP_OK;
    return status;
}

static struct proto_call next_call(struct node_session *session)
{
    return (struct proto_call){.request_id = ++session->request_id,
                               .time_left_ms = session->owner->options.master_timeout_ms};
}

/* What a master said, whichever way it said it. */
static enum umbp_status read_answer(const struct fabric_reply *reply,
                                    struct proto_session *answer_out)
{
    struct proto_frame frame;
    if (reply->status != UMBP_OK) {
        return reply->status;
    }
    enum umbp_status status = proto_frame_open(reply->data, reply->bytes, &frame);
    if (status == UMBP_OK) {
        status = frame.header.status;
    }
    return status == UMBP_OK ? proto_session_decode(&frame, answer_out) : status;
}

static void take_timing(struct node_session *session, const struct proto_session *answer)
{
    if (answer->heartbeat_ms) {
        session->beat_ms = answer->heartbeat_ms;
    }
    session->wants_sync |= (answer->flags & PROTO_SESSION_SYNC_WANTED) && !session->is_syncing;
}

/* The master has the bundle that was under way. */
static void confirm_bundle(struct node_session *session)
{
    NODE_COUNT(session->owner, events_shipped, session->bundle_end - session->cursor);
    session->cursor = session->bundle_end;
    session->has_bundle = false;
    session->acked++;
}

/* ------------------------------------------------------------------------- register ------ */

static void tell_refusal(const struct node_session *session, enum umbp_status status,
                         uint64_t held_back)
{
    if (status == UMBP_BUSY) {
        log_error("id_taken",
                  "master=%s id=\"%s\" reason=\"another live node has this id: what is here is not "
                  "found by others until it ends or one of the two gets another pool.node_id\" "
                  "suppressed=%llu",
                  session->address, session->owner->options.id, (unsigned long long)held_back);
        return;
    }
    log_warn("register_failed", "master=%s status=%s suppressed=%llu", session->address,
             umbp_status_name(status), (unsigned long long)held_back);
}

/* Another session is with this very master. */
static bool is_twin(const struct node_session *session, uint64_t master_incarnation)
{
    const struct node *node = session->owner;
    for (uint32_t i = 0; i < node->options.master_count; i++) {
        const struct node_session *other = node->sessions[i];
        if (other != session && other->state == SESSION_ACTIVE &&
            other->master_incarnation == master_incarnation) {
            return true;
        }
    }
    return false;
}

static void registered(void *context, const struct fabric_reply *reply)
{
    struct node_session *session = context;
    struct proto_session answer;
    uint64_t held_back = 0;
    enum umbp_status status = read_answer(reply, &answer);

    session->is_asking = false;
    if (session->state != SESSION_REGISTERING) {
        return;
    }
    if (status == UMBP_OK && is_twin(session, answer.master_incarnation)) {
        set_standing(session, false, false);
        if (log_limit_pass(&session->refused, TWIN_LOG_MS, &held_back)) {
            log_warn(
                "master_named_twice",
                "door=%s reason=\"another name in pool.masters is this very master's\" used=once "
                "suppressed=%llu",
                session->address, (unsigned long long)held_back);
        }
        session_let_go(session);
        tick_in(session, TWIN_PAUSE_MS);
        return;
    }
    set_standing(session, status == UMBP_OK, status == UMBP_BUSY);
    if (status != UMBP_OK) {
        if (log_limit_pass(&session->refused, REFUSED_LOG_MS, &held_back)) {
            tell_refusal(session, status, held_back);
        }
        session_fail(session);
        return;
    }
    NODE_COUNT(session->owner, registrations, 1);
    log_info("registered", "master=%s id=\"%s\"", session->address, session->owner->options.id);
    session->state = SESSION_ACTIVE;
    session->master_incarnation = answer.master_incarnation;
    session->pause_ms = PAUSE_MIN_MS;
    session->beat_ns = node_now_ns(session->owner);
    take_timing(session, &answer);
    if (session->has_bundle && answer.acked_sequence == session->acked + 1) {
        confirm_bundle(session);
    } else if (answer.acked_sequence != session->acked) {
        session->wants_sync = true; /* it is another master than the one that we knew */
    }
    session_work(session);
}

static void session_register(struct node_session *session)
{
    struct node *node = session->owner;
    struct proto_capacity capacities[PROTO_TIERS_MAX];
    struct proto_text tags[PROTO_TAGS_MAX];
    struct proto_register self = {
        .id = proto_text_of(node->options.id),
        .address = proto_text_of(fabric_address(node->fabric)),
        .node_address = proto_text_of(node->options.node_address),
        .peer_address = proto_text_of(node->options.peer_address),
        .incarnation = node->options.incarnation,
        .capacities = capacities,
        .capacity_count = node_capacities(node, capacities),
        .tags = tags,
        .tag_count = node->options.tag_count,
    };
    size_t bytes = 0;

    for (uint32_t i = 0; i < self.tag_count; i++) {
        tags[i] = proto_text_of(node->tags[i]);
    }
    session->state = SESSION_REGISTERING;
    enum umbp_status status =
        proto_register_encode(node_scratch(node), next_call(session), &self, &bytes);
    status = status == UMBP_OK ? ask(session, bytes, registered) : status;
    if (status != UMBP_OK) {
        session_fail(session);
    }
}

static void connected(void *context, enum umbp_status status, fabric_peer peer)
{
    struct node_session *session = context;
    uint64_t held_back = 0;
    if (session->state != SESSION_CONNECTING) {
        if (status == UMBP_OK) {
            fabric_disconnect(session->owner->fabric, peer);
        }
        return;
    }
    if (status != UMBP_OK) {
        set_standing(session, false, false);
        if (log_limit_pass(&session->unreached, UNREACHED_LOG_MS, &held_back)) {
            log_warn("master_unreachable",
                     "door=%s status=%s reason=\"no connection to the master's fabric door; others "
                     "do not find what is here meanwhile\" suppressed=%llu",
                     session->address, umbp_status_name(status), (unsigned long long)held_back);
        }
        session_fail(session);
        return;
    }
    session->peer = peer;
    session_register(session);
}

static void session_connect(struct node_session *session)
{
    struct node *node = session->owner;
    session->state = SESSION_CONNECTING;
    mutex_lock(&session->found_lock);
    memcpy(session->address, session->found, sizeof(session->address));
    mutex_unlock(&session->found_lock);
    if (fabric_connect(node->fabric, session->address,
                       node_now_ns(node) + node->options.master_timeout_ms * NS_PER_MS, connected,
                       session) != UMBP_OK) {
        session_fail(session);
    }
}

/* ------------------------------------------------------------------- bundles, beats ------ */

/* False: the answer ends the session as it is, and another state was taken. */
static bool still_active(struct node_session *session, enum umbp_status status,
                         const struct proto_session *answer)
{
    session->is_asking = false;
    if (session->state != SESSION_ACTIVE) {
        return false;
    }
    if (status == UMBP_NOT_FOUND ||
        (status == UMBP_OK && (answer->flags & PROTO_SESSION_UNKNOWN))) {
        session->wants_sync |= session->is_syncing;
        session->is_syncing = false;
        session_register(session); /* it has forgotten us */
        return false;
    }
    if (status != UMBP_OK) {
        session_fail(session);
        return false;
    }
    return true;
}

static void beaten(void *context, const struct fabric_reply *reply)
{
    struct node_session *session = context;
    struct proto_session answer = {0};

    if (!still_active(session, read_answer(reply, &answer), &answer)) {
        return;
    }
    take_timing(session, &answer);
    if (session->has_bundle) {
        if (answer.acked_sequence == session->acked + 1) {
            confirm_bundle(session);
            session_work(session); /* what came meanwhile */
            return;
        }
        NODE_COUNT(session->owner, bundles_repeated, 1);
    }
    session->wants_sync |= answer.acked_sequence != session->acked;
}

static void send_beat(struct node_session *session, enum proto_op op, struct proto_beat *beat,
                      void (*done)(void *, const struct fabric_reply *))
{
    struct node *node = session->owner;
    struct proto_capacity capacities[PROTO_TIERS_MAX];
    size_t bytes = 0;

    beat->incarnation = node->options.incarnation;
    beat->capacities = capacities;
    beat->capacity_count = node_capacities(node, capacities);
    enum umbp_status status = proto_beat_encode(node_scratch(node), next_call(session), op, beat,
                                                node->events.items, node->events.count, &bytes);
    status = status == UMBP_OK ? ask(session, bytes, done) : status;
    session->beat_ns = node_now_ns(node);
    if (status != UMBP_OK) {
        session_fail(session);
    }
}

/* Bundle acked + 1: as it was sent before, or whatever is there. */
static void send_events(struct node_session *session)
{
    struct node *node = session->owner;
    uint64_t end = session->cursor;
    uint32_t most = session->has_bundle ? (uint32_t)(session->bundle_end - session->cursor)
                                        : node->options.bundle_events;

    if (node_events_take(node, &end, most) != UMBP_OK) {
        session->wants_sync = true; /* overwritten before they were sent */
        session_work(session);
        return;
    }
    if (node->events.count) {
        session->has_bundle = true;
        session->bundle_end = end;
        session->sent = session->acked + 1;
    } else if (node_now_ns(node) - session->beat_ns < session->beat_ms * NS_PER_MS) {
        return;
    }
    struct proto_beat beat = {.sequence = session->sent};
    send_beat(session, PROTO_HEARTBEAT, &beat, beaten);
}

/* ------------------------------------------------------------------------ full sync ------ */

static void chunk_taken(void *context, const struct fabric_reply *reply)
{
    struct node_session *session = context;
    struct proto_session answer = {0};

    if (!still_active(session, read_answer(reply, &answer), &answer)) {
        return;
    }
    bool ours = answer.sync_id == session->sync_id;
    take_timing(session, &answer);
    if (session->is_last && !ours && answer.acked_sequence == session->sent &&
        !(answer.flags & PROTO_SESSION_SYNC_WANTED)) {
        session->is_syncing = false;
        session->acked = session->sent;
        session->cursor = session->list.sequence;
        session->has_bundle = false;
        session->sync_pause_ms = 0;
        NODE_COUNT(session->owner, syncs_done, 1);
    } else if (session->is_last || !ours || answer.next_chunk != session->chunk + 1) {
        session->is_syncing = false; /* another list, from the start, a little later */
        session->wants_sync = true;
        session->sync_pause_ms = session->sync_pause_ms ? session->sync_pause_ms * 2 : PAUSE_MIN_MS;
        if (session->sync_pause_ms > PAUSE_MAX_MS) {
            session->sync_pause_ms = PAUSE_MAX_MS;
        }
        session->sync_not_before_ns =
            node_now_ns(session->owner) + session->sync_pause_ms * NS_PER_MS;
        return;
    }
    session_work(session);
}

static void send_chunk(struct node_session *session)
{
    if (!session->is_syncing) {
        session->is_syncing = true;
        session->wants_sync = false;
        session->list = (struct store_cursor){0};
        session->sync_id++;
        session->chunk = 0;
        NODE_COUNT(session->owner, syncs_begun, 1);
    } else {
        session->chunk++;
    }
    session->is_last = node_events_list(session->owner, &session->list);
    struct proto_beat beat = {
        .sequence = session->sent,
        .sync_id = session->sync_id,
        .chunk = session->chunk,
        .is_last = session->is_last,
    };
    send_beat(session, PROTO_SYNC, &beat, chunk_taken);
}

static void session_work(struct node_session *session)
{
    if (session->state != SESSION_ACTIVE || session->is_asking) {
        return;
    }
    if (session->is_syncing) {
        send_chunk(session);
    } else if (session->wants_sync) {
        if (node_now_ns(session->owner) >= session->sync_not_before_ns) {
            send_chunk(session);
        }
    } else {
        send_events(session);
    }
}

static void session_tick(struct fabric_timer *timer)
{
    struct node_session *session = CONTAINER_OF(timer, struct node_session, timer);
    if (session->state == SESSION_IDLE) {
        session_connect(session);
    } else if (session->state == SESSION_ACTIVE) {
        session_work(session);
    }
    if (!timer->is_set) {
        tick_in(session, session->owner->options.linger_ms);
    }
}

/* ----------------------------------------------------------------------------- life ------ */

void node_session_start(struct node_session *session) { tick_in(session, 0); }

static void left(void *context, const struct fabric_reply *reply)
{
    struct node_session *session = context;
    (void)reply;
    session->is_asking = false;
    session->state = SESSION_STOPPED;
    fabric_latch_down(session->owner->fabric, &session->owner->stop_latch);
}

void node_session_stop(struct node_session *session)
{
    struct node *node = session->owner;
    bool was_active = session->state == SESSION_ACTIVE;
    size_t bytes = 0;

    fabric_timer_cancel(node->fabric, &session->timer);
    session->state = SESSION_STOPPING;
    if (was_active &&
        proto_bare_encode(node_scratch(node), next_call(session), PROTO_UNREGISTER, 0, UMBP_OK,
                          node->options.incarnation, &bytes) == UMBP_OK &&
        ask(session, bytes, left) == UMBP_OK) {
        return;
    }
    session->state = SESSION_STOPPED;
    fabric_latch_down(node->fabric, &node->stop_latch);
}
