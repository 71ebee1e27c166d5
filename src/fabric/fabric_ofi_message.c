/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames, calls and answers. A message of more than FRAME_BODY_MAX stays in memory of its sender
 * (struct big); its frame carries the key, and the receiver has it written to itself like any
 * fabric_read. A large request is freed with its call; a large answer when it was fetched, refused
 * (WIRE_DROP), or the connection ended.
 */
#include "fabric/fabric_ofi_priv.h"

/* --------------------------------------------------------------------------- send buffers ----- */

_Static_assert(sizeof(struct wire_frame) + sizeof(struct wire_hello) + FABRIC_IDENTITY_MAX +
                       FABRIC_ADDRESS_MAX <=
                   SMALL_STRIDE,
               "a hello fits");
_Static_assert(sizeof(struct wire_frame) + READ_ROWS * sizeof(struct wire_row) <= SMALL_STRIDE,
               "rows fit");

struct tx *fabric_ofi_tx_take(struct ofi *ofi, enum tx_class class)
{
    struct tx *tx = NULL;
    mutex_lock(&ofi->lock);
    if (class == TX_CONTROL_MESSAGE) {
        tx = ofi->smalls_free;
        if (tx) {
            ofi->smalls_free = tx->next;
        }
    } else if (ofi->txs_free_count > (class == TX_CALL ? ofi->options.requests_max : 0)) {
        /* Answers always find one: as many are kept back as there can be requests. */
        tx = ofi->txs_free;
        ofi->txs_free = tx->next;
        ofi->txs_free_count--;
    }
    mutex_unlock(&ofi->lock);
    if (tx) {
        list_init(&tx->link);
        tx->peer = 0;
        tx->request = NULL;
        tx->big = NULL;
        tx->is_user = false;
        tx->on_way = NULL;
    }
    return tx;
}

void fabric_ofi_tx_free(struct ofi *ofi, struct tx *tx)
{
    mutex_lock(&ofi->lock);
    if (tx->is_small) {
        tx->next = ofi->smalls_free;
        ofi->smalls_free = tx;
    } else {
        tx->next = ofi->txs_free;
        ofi->txs_free = tx;
        ofi->txs_free_count++;
    }
    mutex_unlock(&ofi->lock);
}

void *fabric_ofi_tx_body(struct tx *tx) { return tx->buffer + sizeof(struct wire_frame); }

void fabric_ofi_tx_frame(struct tx *tx, enum wire_kind kind, uint64_t id, enum umbp_status status,
                         size_t body_bytes)
{
    struct wire_frame *frame = (void *)tx->buffer;
    *frame = (struct wire_frame){
        .magic = WIRE_MAGIC,
        .kind = (uint8_t)kind,
        .status = (uint16_t)status,
        .id = id,
        .bytes = (uint32_t)body_bytes,
    };
    tx->bytes = sizeof(*frame) + body_bytes;
}

static void request_free(struct ofi *ofi, struct request *request)
{
    uint64_t index = (request->open.peer & UINT32_MAX) - 1;
    ofi->peers[index].requests--;
    ofi->requests_count--;
    if (request->rx) {
        ofi->rxs_held--;
        (void)fabric_ofi_rx_post(ofi, request->rx);
        request->rx = NULL;
    }
    if (request->big) {
        fabric_ofi_big_free(request->big);
        request->big = NULL;
    }
    request->next = ofi->requests_free;
    ofi->requests_free = request;
}

void fabric_ofi_tx_done(struct ofi *ofi, struct tx *tx, bool sent)
{
    (void)sent; /* a failed one shows as the end of its connection */
    list_remove(&tx->link);
    if (tx->on_way) {
        tx->on_way->smalls--;
    }
    if (tx->request) {
        request_free(ofi, tx->request);
    }
    if (tx->is_user) {
        atomic_fetch_sub(&ofi->peers[(tx->peer & UINT32_MAX) - 1].sends_count, 1);
    }
    fabric_ofi_tx_free(ofi, tx);
}

static bool tx_try(struct peer *peer, struct tx *tx)
{
    struct ofi *ofi = peer->ofi;
    ssize_t status =
        fi_send(peer->ep, tx->buffer, tx->bytes, ofi->slab_descriptor, 0, &tx->context);
    if (status == -FI_EAGAIN) {
        return false;
    }
    if (status) {
        fabric_ofi_tx_done(ofi, tx, false);
        fabric_ofi_peer_close(peer, UMBP_IO);
        return true;
    }
    list_insert_after(peer->posted.prev, &tx->link);
    peer->sent_ns = ofi->now_ns;
    return true;
}

void fabric_ofi_tx_send(struct peer *peer, struct tx *tx)
{
    struct ofi *ofi = peer->ofi;
    if (!peer->ep) {
        fabric_ofi_tx_done(ofi, tx, false);
        return;
    }
    if (tx->is_small) {
        tx->on_way = peer;
        if (++peer->smalls > SMALL_PER_PEER) {
            fabric_ofi_tx_done(ofi, tx, false);
            fabric_ofi_peer_close(peer, UMBP_BUSY); /* it asks and asks, and does not read */
            return;
        }
    }
    struct wire_frame *frame = (void *)tx->buffer;
    frame->tag = peer->their_tag;
    frame->crc = crc32c(0, frame, offsetof(struct wire_frame, crc));
    if (!list_is_empty(&peer->unsent) || !tx_try(peer, tx)) {
        list_insert_after(peer->unsent.prev, &tx->link);
        if (list_is_empty(&peer->pumping)) {
            list_insert_after(ofi->pumping.prev, &peer->pumping);
        }
    }
}

void fabric_ofi_tx_retry(struct peer *peer)
{
    while (peer->ep && !list_is_empty(&peer->unsent)) {
        struct tx *tx = CONTAINER_OF(peer->unsent.next, struct tx, link);
        list_remove(&tx->link);
        if (!tx_try(peer, tx)) {
            list_push_front(&peer->unsent, &tx->link);
            return;
        }
    }
}

bool fabric_ofi_control(struct peer *peer, enum wire_kind kind, uint64_t id,
                        enum umbp_status status)
{
    struct tx *tx = fabric_ofi_tx_take(peer->ofi, TX_CONTROL_MESSAGE);
    if (!tx) {
        return false;
    }
    fabric_ofi_tx_frame(tx, kind, id, status, 0);
    fabric_ofi_tx_send(peer, tx);
    return true;
}

bool fabric_ofi_rx_post(struct ofi *ofi, struct rx *rx)
{
    if (ofi->rxs_posted < ofi->rxs_wanted &&
        !fi_recv(ofi->srx, rx->buffer, BUFFER_BYTES, ofi->slab_descriptor, 0, &rx->context)) {
        ofi->rxs_posted++;
        return true;
    }
    rx->next = ofi->rxs_spare;
    ofi->rxs_spare = rx;
    return false;
}

/* --------------------------------------------------------------------------- large messages --- */

static struct big *big_make(struct ofi *ofi, const struct iovec *parts, unsigned part_count,
                            size_t bytes)
{
    if (atomic_fetch_add(&ofi->bigs_ours, 1) >= BIG_TOTAL) {
        atomic_fetch_sub(&ofi->bigs_ours, 1);
        return NULL;
    }
    struct big *big = mem_zalloc(sizeof(*big));
    char *memory = big ? mem_map(bytes) : NULL;
    if (!memory) {
        mem_free(big);
        atomic_fetch_sub(&ofi->bigs_ours, 1);
        return NULL;
    }
    list_init(&big->link);
    big->ofi = ofi;
    big->memory = memory;
    big->bytes = bytes;
    big->is_ours = true;
    fabric_parts_copy(memory, parts, part_count);
    return big;
}

void fabric_ofi_big_free(struct big *big)
{
    list_remove(&big->link);
    if (big->serving > 0) {
        big->is_dead = true; /* the end of the serve comes back here */
        return;
    }
    if (big->region) {
        fabric_ofi_region_free(big->region);
    }
    if (big->is_ours) {
        atomic_fetch_sub(&big->ofi->bigs_ours, 1);
    } else {
        big->ofi->bigs_count--;
    }
    mem_unmap(big->memory, big->bytes);
    mem_free(big);
}

/* The frame's body says where it is. */
static enum umbp_status big_show(struct ofi *ofi, struct big *big, struct tx *tx)
{
    enum umbp_status status = fabric_ofi_region_create(&ofi->base, big->memory, big->bytes,
                                                       FABRIC_REMOTE_READ, -1, 0, &big->region);
    if (status) {
        big->region = NULL;
        return status;
    }
    big->region->big = big;
    struct wire_big body = {big->region->key.key, big->bytes};
    memcpy(fabric_ofi_tx_body(tx), &body, sizeof(body));
    ((struct wire_frame *)(void *)tx->buffer)->flags |= WIRE_BIG;
    return UMBP_OK;
}

/* ----------------------------------------------------------------------------------- calls ---- */

void fabric_ofi_call_finish(struct call *call, const struct fabric_reply *reply)
{
    struct ofi *ofi = call->ofi;
    void (*done)(void *, const struct fabric_reply *) = call->done;
    void *context = call->done_context;
    list_remove(&call->link);
    fabric_heap_cancel(&ofi->timers, &call->timer);
    if (call->big) {
        fabric_ofi_big_free(call->big);
        call->big = NULL;
    }
    atomic_fetch_sub(&ofi->peers[(call->peer & UINT32_MAX) - 1].calls_count, 1);
    atomic_fetch_sub(&ofi->calls_in_flight, 1);
    call->live_id = 0;
    call->generation++;
    mutex_lock(&ofi->lock);
    call->next = ofi->calls_free;
    ofi->calls_free = call;
    mutex_unlock(&ofi->lock);
    ofi->counts.calls_failed += reply->status != UMBP_OK;
    done(context, reply);
}

static void call_late(struct fabric_timer *timer)
{
    struct call *call = CONTAINER_OF(timer, struct call, timer);
    struct peer *peer = fabric_ofi_peer(call->ofi, call->peer);
    if (call->exposes && peer) {
        call->is_late = true; /* completes when the connection is over */
        fabric_ofi_peer_close(peer, UMBP_TIMEOUT);
        return;
    }
    struct fabric_reply reply = {.status = UMBP_TIMEOUT};
    fabric_ofi_call_finish(call, &reply);
}

static void call_run(struct ofi *ofi, struct submission *submission)
{
    struct call *call = CONTAINER_OF(submission, struct call, submission);
    struct tx *tx = call->tx;
    struct peer *peer = fabric_ofi_peer(ofi, call->peer);
    call->tx = NULL;
    ofi->counts.calls++;
    call->failed = UMBP_OK;
    if (!peer || peer->state != PEER_UP) {
        call->failed = ofi->is_closing ? UMBP_CANCELLED : UMBP_CLOSED;
    } else if (call->big) {
        call->failed = big_show(ofi, call->big, tx);
    }
    if (call->failed) {
        fabric_ofi_tx_free(ofi, tx);
        list_insert_after(ofi->dead_calls.prev, &call->link);
        return;
    }
    uint64_t left_ms = clock_left_ns(ofi->options.clock, call->timer.deadline_ns) / NS_PER_MS;
    ((struct wire_frame *)(void *)tx->buffer)->left_ms = (uint32_t)u64_min(left_ms, UINT32_MAX);
    call->live_id = call->id;
    list_insert_after(peer->calls.prev, &call->link);
    fabric_heap_set(&ofi->timers, &call->timer, call->timer.deadline_ns);
    fabric_ofi_tx_send(peer, tx);
}

/* A slot that counts against both bounds. */
static struct call *call_take(struct ofi *ofi, struct peer *peer)
{
    if (atomic_fetch_add(&peer->calls_count, 1) >= ofi->options.calls_per_peer) {
        atomic_fetch_sub(&peer->calls_count, 1);
        return NULL;
    }
    mutex_lock(&ofi->lock);
    struct call *call = ofi->calls_free;
    if (call) {
        ofi->calls_free = call->next;
    }
    mutex_unlock(&ofi->lock);
    if (!call) {
        atomic_fetch_sub(&peer->calls_count, 1);
        return NULL;
    }
    atomic_fetch_add(&ofi->calls_in_flight, 1);
    return call;
}

static void call_give(struct ofi *ofi, struct peer *peer, struct call *call)
{
    atomic_fetch_sub(&peer->calls_count, 1);
    atomic_fetch_sub(&ofi->calls_in_flight, 1);
    mutex_lock(&ofi->lock);
    call->next = ofi->calls_free;
    ofi->calls_free = call;
    mutex_unlock(&ofi->lock);
}

static enum umbp_status refuse_busy(struct ofi *ofi)
{
    atomic_fetch_add(&ofi->busy, 1);
    return UMBP_BUSY;
}

enum umbp_status fabric_ofi_call(struct fabric *fabric, const struct fabric_call *what)
{
    struct ofi *ofi = ofi_of(fabric);
    size_t bytes = fabric_parts_bytes(what->parts, what->part_count);
    if (what->part_count > FABRIC_PARTS_MAX) {
        return UMBP_INVALID_VALUE;
    }
    if (bytes > FABRIC_MESSAGE_MAX) {
        return UMBP_TOO_LARGE;
    }
    struct peer *peer = fabric_ofi_peer_up(ofi, what->peer);
    if (!peer || atomic_load(&ofi->is_closed)) {
        return UMBP_CLOSED;
    }
    if (clock_left_ns(ofi->options.clock, what->deadline_ns) == 0) {
        return UMBP_TIMEOUT;
    }
    struct call *call = call_take(ofi, peer);
    if (!call) {
        return refuse_busy(ofi);
    }
    bool is_big = bytes > FRAME_BODY_MAX;
    call->big = NULL;
    call->tx = fabric_ofi_tx_take(ofi, TX_CALL);
    if (call->tx && is_big) {
        call->big = big_make(ofi, what->parts, what->part_count, bytes);
    }
    if (!call->tx || (is_big && !call->big)) {
        if (call->tx) {
            fabric_ofi_tx_free(ofi, call->tx);
        }
        call_give(ofi, peer, call);
        return refuse_busy(ofi);
    }
    list_init(&call->link);
    call->id = (uint64_t)call->generation << 32 | call->index;
    call->peer = what->peer;
    call->exposes = what->exposes_memory;
    call->is_late = false;
    call->done = what->done;
    call->done_context = what->context;
    call->timer.deadline_ns = what->deadline_ns;
    call->timer.run = call_late;
    call->submission.run = call_run;
    fabric_ofi_tx_frame(call->tx, WIRE_REQUEST, call->id, UMBP_OK,
                        is_big ? sizeof(struct wire_big) : bytes);
    if (!is_big) {
        fabric_parts_copy(fabric_ofi_tx_body(call->tx), what->parts, what->part_count);
    }
    fabric_ofi_submit(ofi, &call->submission);
    return UMBP_OK;
}

static struct call *call_find(struct peer *peer, uint64_t id)
{
    struct ofi *ofi = peer->ofi;
    uint64_t index = id & UINT32_MAX;
    if (index >= ofi->options.calls_max) {
        return NULL;
    }
    struct call *call = &ofi->calls[index];
    /* Its other fields may be a new caller's by now, who has not submitted yet. */
    return id != 0 && call->live_id == id && call->peer == peer->handle ? call : NULL;
}

/* --------------------------------------------------------------------------------- one way ---- */

static void send_run(struct ofi *ofi, struct submission *submission)
{
    struct tx *tx = CONTAINER_OF(submission, struct tx, submission);
    struct peer *peer = fabric_ofi_peer(ofi, tx->peer);
    if (!peer || peer->state != PEER_UP) {
        fabric_ofi_tx_done(ofi, tx, false);
        return;
    }
    ofi->counts.messages_sent++;
    fabric_ofi_tx_send(peer, tx);
}

enum umbp_status fabric_ofi_send(struct fabric *fabric, fabric_peer handle,
                                 const struct iovec *parts, unsigned part_count)
{
    struct ofi *ofi = ofi_of(fabric);
    size_t bytes = fabric_parts_bytes(parts, part_count);
    if (part_count > FABRIC_PARTS_MAX) {
        return UMBP_INVALID_VALUE;
    }
    if (bytes > FABRIC_EAGER_BYTES) {
        return UMBP_TOO_LARGE;
    }
    struct peer *peer = fabric_ofi_peer_up(ofi, handle);
    if (!peer || atomic_load(&ofi->is_closed)) {
        return UMBP_CLOSED;
    }
    if (atomic_fetch_add(&peer->sends_count, 1) >= TX_PER_PEER) {
        atomic_fetch_sub(&peer->sends_count, 1);
        return refuse_busy(ofi);
    }
    struct tx *tx = fabric_ofi_tx_take(ofi, TX_CALL);
    if (!tx) {
        atomic_fetch_sub(&peer->sends_count, 1);
        return refuse_busy(ofi);
    }
    tx->is_user = true;
    tx->peer = handle;
    tx->submission.run = send_run;
    fabric_ofi_tx_frame(tx, WIRE_MESSAGE, 0, UMBP_OK, bytes);
    fabric_parts_copy(fabric_ofi_tx_body(tx), parts, part_count);
    fabric_ofi_submit(ofi, &tx->submission);
    return UMBP_OK;
}

/* ---------------------------------------------------------------------------------- answers --- */

static void answer_run(struct ofi *ofi, struct submission *submission)
{
    struct tx *tx = CONTAINER_OF(submission, struct tx, submission);
    struct peer *peer = fabric_ofi_peer(ofi, tx->peer);
    struct big *big = tx->big;
    tx->big = NULL;
    if (!peer || peer->state != PEER_UP) {
        if (big) {
            fabric_ofi_big_free(big);
        }
        fabric_ofi_tx_done(ofi, tx, false);
        return;
    }
    if (big) {
        list_insert_after(peer->bigs.prev, &big->link);
        if (big_show(ofi, big, tx)) {
            struct wire_frame *frame = (void *)tx->buffer;
            fabric_ofi_big_free(big);
            fabric_ofi_tx_frame(tx, WIRE_REPLY, frame->id, UMBP_NO_MEMORY, 0);
        }
    }
    fabric_ofi_tx_send(peer, tx);
}

void fabric_ofi_answer(struct fabric *fabric, struct fabric_request *open, enum umbp_status status,
                       const struct iovec *parts, unsigned part_count)
{
    struct ofi *ofi = ofi_of(fabric);
    struct request *request = (struct request *)open;
    size_t bytes = fabric_parts_bytes(parts, part_count);
    struct big *big = NULL;
    if (bytes > FABRIC_MESSAGE_MAX) {
        status = UMBP_TOO_LARGE;
        part_count = 0;
        bytes = 0;
    } else if (bytes > FRAME_BODY_MAX) {
        big = big_make(ofi, parts, part_count, bytes);
        if (!big) {
            status = UMBP_NO_MEMORY;
            part_count = 0;
            bytes = 0;
        }
    }
    struct tx *tx = fabric_ofi_tx_take(ofi, TX_ANSWER);
    ASSERT(tx != NULL); /* one is kept back for each request; answered twice? */
    fabric_ofi_tx_frame(tx, WIRE_REPLY, request->id, status, big ? sizeof(struct wire_big) : bytes);
    if (!big) {
        fabric_parts_copy(fabric_ofi_tx_body(tx), parts, part_count);
    }
    tx->big = big;
    tx->peer = open->peer;
    tx->request = request;
    tx->submission.run = answer_run;
    fabric_ofi_submit(ofi, &tx->submission);
}

/* --------------------------------------------------------------------------------- receiving -- */

static void request_open(struct peer *peer, const struct wire_frame *frame, const void *data,
                         size_t bytes, uint64_t epoch, struct rx *rx, struct big *big)
{
    struct ofi *ofi = peer->ofi;
    struct request *request = ofi->requests_free;
    ofi->requests_free = request->next;
    ofi->requests_count++;
    peer->requests++;
    ofi->counts.requests++;
    request->open = (struct fabric_request){
        .peer = peer->handle,
        .data = data,
        .bytes = bytes,
        .deadline_ns = ofi->now_ns + frame->left_ms * NS_PER_MS,
        .epoch = epoch,
    };
    request->id = frame->id;
    request->rx = rx;
    request->big = big;
    if (ofi->handlers.request) {
        ofi->handlers.request(ofi->handlers.context, &request->open);
    } else {
        fabric_ofi_answer(&ofi->base, &request->open, UMBP_UNSUPPORTED, NULL, 0);
    }
}

static bool can_open(const struct peer *peer)
{
    const struct ofi *ofi = peer->ofi;
    /* Half of all at most for one peer, so that one can't shut the others out. */
    return ofi->requests_count < ofi->options.requests_max &&
           peer->requests < u64_max(1, ofi->options.requests_max / 2) && ofi->requests_free;
}

static void say_busy(struct peer *peer, uint64_t id)
{
    atomic_fetch_add(&peer->ofi->busy, 1);
    /* Without a buffer even for that the caller runs into its deadline. */
    (void)fabric_ofi_control(peer, WIRE_REPLY, id, UMBP_BUSY);
}

static void reply_hear(struct peer *peer, const struct wire_frame *frame, const void *data,
                       size_t bytes, uint64_t epoch)
{
    struct call *call = call_find(peer, frame->id);
    if (call) {
        struct fabric_reply reply = {
            .status = (enum umbp_status)frame->status,
            .data = data,
            .bytes = bytes,
            .epoch = epoch,
        };
        fabric_ofi_call_finish(call, &reply);
    }
}

static void fetched(void *context, enum umbp_status status)
{
    struct big *big = context;
    struct ofi *ofi = big->ofi;
    struct peer *peer = fabric_ofi_peer(ofi, big->peer);
    if (peer) {
        peer->bigs_count--;
    }
    if (status || !peer || peer->state != PEER_UP) {
        if (peer && peer->state == PEER_UP && big->frame.kind == WIRE_REQUEST) {
            say_busy(peer, big->frame.id);
        } else if (peer && peer->state == PEER_UP) {
            struct wire_frame frame = big->frame;
            frame.status = UMBP_IO;
            reply_hear(peer, &frame, NULL, 0, 0);
        }
        fabric_ofi_big_free(big);
        return;
    }
    if (big->frame.kind == WIRE_REPLY) {
        reply_hear(peer, &big->frame, big->memory, big->bytes, big->epoch);
        fabric_ofi_big_free(big);
    } else if (can_open(peer)) {
        request_open(peer, &big->frame, big->memory, big->bytes, big->epoch, NULL, big);
    } else {
        say_busy(peer, big->frame.id);
        fabric_ofi_big_free(big);
    }
}

/* False: no room or memory. */
static bool big_fetch(struct peer *peer, const struct wire_frame *frame,
                      const struct wire_big *body)
{
    struct ofi *ofi = peer->ofi;
    if (peer->bigs_count >= BIG_PER_PEER || ofi->bigs_count >= BIG_TOTAL) {
        return false;
    }
    struct big *big = mem_zalloc(sizeof(*big));
    char *memory = big ? mem_map(body->bytes) : NULL;
    if (!memory) {
        mem_free(big);
        return false;
    }
    list_init(&big->link);
    big->ofi = ofi;
    big->memory = memory;
    big->bytes = body->bytes;
    big->frame = *frame;
    big->peer = peer->handle;
    big->epoch = peer->their_epoch;
    ofi->bigs_count++;
    peer->bigs_count++;
    big->piece = (struct fabric_piece){
        .local = memory,
        .remote = 0, /* counts from the message's beginning */
        .key = {.key = body->key, .base = 0},
        .bytes = body->bytes,
    };
    enum umbp_status status = UMBP_OK;
    if (!ofi->own_keys) {
        status = fabric_ofi_region_create(&ofi->base, memory, big->bytes, FABRIC_LOCAL, -1, 0,
                                          &big->region);
        big->piece.region = big->region;
    }
    if (status || fabric_ofi_fetch(peer, &big->piece, fetched, big)) {
        peer->bigs_count--;
        fabric_ofi_big_free(big);
        return false;
    }
    return true;
}

static void big_hear(struct peer *peer, const struct wire_frame *frame, const void *data)
{
    struct wire_big body;
    if (frame->bytes != sizeof(body)) {
        fabric_ofi_peer_close(peer, UMBP_CORRUPT);
        return;
    }
    memcpy(&body, data, sizeof(body));
    if (body.bytes <= FRAME_BODY_MAX || body.bytes > FABRIC_MESSAGE_MAX) {
        fabric_ofi_peer_close(peer, UMBP_CORRUPT);
        return;
    }
    bool wanted = frame->kind == WIRE_REQUEST ? can_open(peer) : call_find(peer, frame->id) != NULL;
    if (wanted && big_fetch(peer, frame, &body)) {
        return;
    }
    if (frame->kind == WIRE_REQUEST) {
        say_busy(peer, frame->id);
        return;
    }
    (void)fabric_ofi_control(peer, WIRE_DROP, body.key, UMBP_OK);
    struct wire_frame refused = *frame;
    refused.status = UMBP_BUSY;
    reply_hear(peer, &refused, NULL, 0, 0);
}

static void big_drop(struct peer *peer, uint64_t key)
{
    for (struct list_node *at = peer->bigs.next; at != &peer->bigs; at = at->next) {
        struct big *big = CONTAINER_OF(at, struct big, link);
        if (big->region && big->region->key.key == key) {
            fabric_ofi_big_free(big);
            return;
        }
    }
}

/* True if the buffer stays in use. */
static bool frame_hear(struct peer *peer, const struct wire_frame *frame, const void *body,
                       struct rx *rx)
{
    struct ofi *ofi = peer->ofi;
    bool is_data = frame->kind >= WIRE_REQUEST && frame->kind != WIRE_EPOCH &&
                   frame->kind != WIRE_SHARE && frame->kind != WIRE_UNSHARE;
    if (peer->state == PEER_CLOSING && (frame->kind != WIRE_REPLY || frame->flags & WIRE_BIG)) {
        return false;
    }
    if (is_data && peer->state != PEER_UP && peer->state != PEER_CLOSING) {
        fabric_ofi_peer_close(peer, UMBP_CORRUPT);
        return false;
    }
    if (!is_data) {
        fabric_ofi_peer_frame(peer, frame, body);
        return false;
    }
    if (frame->flags & WIRE_BIG && (frame->kind == WIRE_REQUEST || frame->kind == WIRE_REPLY)) {
        big_hear(peer, frame, body);
        return false;
    }
    switch ((enum wire_kind)frame->kind) {
    case WIRE_REQUEST:
        if (!can_open(peer)) {
            say_busy(peer, frame->id);
            return false;
        }
        ofi->rxs_held++;
        request_open(peer, frame, body, frame->bytes, peer->their_epoch, rx, NULL);
        return true;
    case WIRE_REPLY:
        reply_hear(peer, frame, body, frame->bytes, peer->their_epoch);
        return false;
    case WIRE_MESSAGE:
        ofi->counts.messages_received++;
        if (ofi->handlers.message) {
            ofi->handlers.message(ofi->handlers.context, peer->handle, body, frame->bytes);
        }
        return false;
    case WIRE_READ:
        return fabric_ofi_read_frame(peer, frame, rx);
    case WIRE_READ_DONE:
        fabric_ofi_read_done(peer, frame);
        return false;
    case WIRE_DROP:
        big_drop(peer, frame->id);
        return false;
    default:
        fabric_ofi_peer_close(peer, UMBP_CORRUPT);
        return false;
    }
}

void fabric_ofi_received(struct ofi *ofi, struct rx *rx, size_t bytes)
{
    const struct wire_frame *frame = (const void *)rx->buffer;
    struct peer *peer = NULL;
    if (bytes >= sizeof(*frame) && frame->magic == WIRE_MAGIC &&
        frame->bytes == bytes - sizeof(*frame) &&
        frame->crc == crc32c(0, frame, offsetof(struct wire_frame, crc)) &&
        (frame->tag & 0xffff) < ofi->options.peers_max) {
        peer = &ofi->peers[frame->tag & 0xffff];
        if (peer->state == PEER_FREE || peer->our_tag != frame->tag) {
            peer = NULL; /* of an earlier connection, or nonsense: nobody to blame */
        }
    }
    if (peer && (peer->state == PEER_CONNECTING || peer->state == PEER_ACCEPTING)) {
        fabric_ofi_events(ofi); /* that it is connected waits there */
    }
    bool kept = false;
    if (peer && peer->state != PEER_CONNECTING && peer->state != PEER_ACCEPTING) {
        peer->heard_ns = ofi->now_ns;
        kept = frame_hear(peer, frame, rx->buffer + sizeof(*frame), rx);
    }
    if (!kept) {
        (void)fabric_ofi_rx_post(ofi, rx);
    }
}
