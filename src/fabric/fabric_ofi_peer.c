/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections: making, greeting, watching and ending them.
 *
 *   we connect                                     they listen
 *   fi_connect(door) ───────────────────────────►  CONNREQ: magic, versions, cluster? no: fi_reject
 *   CONNECTED(door with their tag) ◄────────────   fi_accept(door)
 *   HELLO ──────────────►  ◄────────────── HELLO   who; accept handlers on both sides; evidence
 *   READY ──────────────►  ◄────────────── READY   "and I can (not) read your memory"
 *   UP when READY has been sent and received
 *
 * All of it within handshake_ms, by one timer.
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>

#include "fabric/fabric_ofi_priv.h"

/* ------------------------------------------------------------------------------ the doors ----- */

static struct wire_door door_make(const struct ofi *ofi, uint64_t tag, enum umbp_status status)
{
    struct wire_door door = {
        .magic = WIRE_MAGIC,
        .version_low = WIRE_VERSION_LOW,
        .version_high = WIRE_VERSION_HIGH,
        .cluster = ofi->cluster_hash,
        .tag = tag,
        .status = (uint16_t)status,
    };
    door.crc = crc32c(0, &door, offsetof(struct wire_door, crc));
    return door;
}

/* CORRUPT: not a door. Otherwise what we think of it. */
static enum umbp_status door_check(const struct ofi *ofi, const void *data, size_t bytes,
                                   struct wire_door *door_out)
{
    struct wire_door door;
    if (bytes < sizeof(door)) {
        return UMBP_CORRUPT;
    }
    memcpy(&door, data, sizeof(door));
    if (door.magic != WIRE_MAGIC || door.crc != crc32c(0, &door, offsetof(struct wire_door, crc))) {
        return UMBP_CORRUPT;
    }
    *door_out = door;
    if (door.version_low > WIRE_VERSION_HIGH || door.version_high < WIRE_VERSION_LOW) {
        return UMBP_VERSION;
    }
    return door.cluster == ofi->cluster_hash ? UMBP_OK : UMBP_STALE;
}

/* ------------------------------------------------------------------------------ the slots ----- */

struct peer *fabric_ofi_peer(struct ofi *ofi, fabric_peer handle)
{
    uint64_t index = (handle & UINT32_MAX) - 1;
    if (handle == 0 || index >= ofi->options.peers_max) {
        return NULL;
    }
    struct peer *peer = &ofi->peers[index];
    return peer->handle == handle && peer->state != PEER_FREE ? peer : NULL;
}

struct peer *fabric_ofi_peer_up(struct ofi *ofi, fabric_peer handle)
{
    uint64_t index = (handle & UINT32_MAX) - 1;
    if (handle == 0 || index >= ofi->options.peers_max) {
        return NULL;
    }
    struct peer *peer = &ofi->peers[index];
    return atomic_load(&peer->up_handle) == handle ? peer : NULL;
}

static void handshake_late(struct fabric_timer *timer)
{
    struct peer *peer = CONTAINER_OF(timer, struct peer, handshake);
    fabric_ofi_peer_close(peer, peer->state == PEER_REFUSING ? peer->reason : UMBP_TIMEOUT);
}

static void nudge_run(struct ofi *ofi, struct submission *submission)
{
    (void)ofi;
    struct peer *peer = CONTAINER_OF(submission, struct peer, nudge);
    atomic_store(&peer->nudged, false);
    /* A handle that was meant for an earlier connection in this slot closes nobody. */
    uint64_t wanted = atomic_exchange(&peer->close_handle, 0);
    if (wanted != 0 && wanted == peer->handle && peer->state != PEER_CLOSING &&
        peer->state != PEER_FREE) {
        if (peer->state == PEER_UP) {
            fabric_ofi_control(peer, WIRE_GOODBYE, 0, UMBP_CLOSED);
        }
        fabric_ofi_peer_close(peer, UMBP_CLOSED);
    }
}

static struct peer *slot_take(struct ofi *ofi)
{
    for (uint32_t i = 0; i < ofi->options.peers_max; i++) {
        struct peer *peer = &ofi->peers[i];
        if (peer->state != PEER_FREE || atomic_load(&peer->pulls) > 0 || peer->requests > 0) {
            continue;
        }
        uint32_t generation = peer->generation + 1;
        ofi->peers_high = (uint32_t)u64_max(ofi->peers_high, i + 1);
        peer->ofi = ofi;
        peer->index = i;
        peer->generation = generation ? generation : 1;
        peer->handle = peer_handle_make(i, peer->generation);
        peer->our_tag = rng_next(&ofi->rng) << 16 | i;
        peer->their_tag = 0;
        peer->ep = NULL;
        peer->connect = NULL;
        peer->incoming = peer->was_up = peer->is_flushed = false;
        peer->reason = UMBP_CLOSED;
        peer->ops_count = peer->serves = peer->bigs_count = peer->smalls = 0;
        peer->ops_bytes = 0;
        peer->from[0] = '\0';
        peer->heard_ns = peer->sent_ns = ofi->now_ns;
        list_init(&peer->closing);
        list_init(&peer->pumping);
        list_init(&peer->posted);
        list_init(&peer->unsent);
        list_init(&peer->calls);
        list_init(&peer->writes);
        list_init(&peer->reads);
        list_init(&peer->ops);
        list_init(&peer->bigs);
        peer->nudge.run = nudge_run;
        peer->handshake.run = handshake_late;
        fabric_heap_set(&ofi->timers, &peer->handshake,
                        clock_now_ns(ofi->options.clock) + ofi->options.handshake_ms * NS_PER_MS);
        return peer;
    }
    return NULL;
}

static void connect_finish(struct connect *connect, enum umbp_status status, fabric_peer handle)
{
    connect->done(connect->done_context, status, handle);
    fi_freeinfo(connect->info);
    mem_free(connect);
}

/* -------------------------------------------------------------------------------- the end ----- */

void fabric_ofi_peer_close(struct peer *peer, enum umbp_status reason)
{
    struct ofi *ofi = peer->ofi;
    if (peer->state == PEER_CLOSING || peer->state == PEER_FREE) {
        return;
    }
    peer->state = PEER_CLOSING;
    peer->reason = reason;
    atomic_store(&peer->up_handle, 0);
    atomic_store(&peer->flags, 0);
    fabric_heap_cancel(&ofi->timers, &peer->handshake);
    /* Rule 2, before anybody is told: who still reads our memory throws it away. */
    fabric_host_raise(&ofi->host, peer->index);
    /* Rule 1: after this no byte of the connection moves. It reports what was posted. */
    if (peer->ep) {
        fi_close(&peer->ep->fid);
        peer->ep = NULL;
        ofi->rxs_wanted--;
    }
    ofi->is_dry = false;
    list_remove(&peer->pumping);
    list_insert_after(ofi->closing.prev, &peer->closing);
}

static void drop_calls(struct peer *peer, enum umbp_status status)
{
    while (!list_is_empty(&peer->calls)) {
        struct call *call = CONTAINER_OF(peer->calls.next, struct call, link);
        struct fabric_reply reply = {.status = call->is_late ? UMBP_TIMEOUT : status};
        fabric_ofi_call_finish(call, &reply);
    }
}

/* After the provider gave up. Callbacks run here. */
static void flush(struct peer *peer)
{
    struct ofi *ofi = peer->ofi;
    enum umbp_status status = ofi->is_closing ? UMBP_CANCELLED : UMBP_CLOSED;
    while (!list_is_empty(&peer->posted)) {
        struct tx *tx = CONTAINER_OF(peer->posted.next, struct tx, link);
        fabric_ofi_tx_done(ofi, tx, false);
    }
    while (!list_is_empty(&peer->unsent)) {
        struct tx *tx = CONTAINER_OF(peer->unsent.next, struct tx, link);
        fabric_ofi_tx_done(ofi, tx, false);
    }
    while (!list_is_empty(&peer->ops)) {
        fabric_ofi_op_done(CONTAINER_OF(peer->ops.next, struct op, link), false);
    }
    fabric_ofi_transfers_drop(peer, status);
    drop_calls(peer, status);
    while (!list_is_empty(&peer->bigs)) {
        fabric_ofi_big_free(CONTAINER_OF(peer->bigs.next, struct big, link));
    }
}

static enum umbp_status connect_status(const struct peer *peer)
{
    return peer->ofi->is_closing ? UMBP_CANCELLED : peer->reason;
}

static void finish(struct peer *peer)
{
    struct ofi *ofi = peer->ofi;
    if (!peer->is_flushed) {
        peer->is_flushed = true;
        flush(peer);
    }
    if (atomic_load(&peer->pulls) > 0) {
        return; /* the last one nudges */
    }
    struct connect *connect = peer->connect;
    fabric_peer handle = peer->handle;
    enum umbp_status reason = peer->reason;
    enum umbp_status status = connect_status(peer);
    bool was_up = peer->was_up;
    list_remove(&peer->closing);
    fabric_host_peer_fini(&peer->host);
    peer->connect = NULL;
    peer->state = PEER_FREE;
    ofi->counts.closed += was_up;
    ofi->counts.refused += !was_up;
    if (was_up) {
        ofi->counts.peers_now--;
        if (ofi->handlers.peer_down) {
            ofi->handlers.peer_down(ofi->handlers.context, handle, reason);
        }
    }
    if (connect) {
        connect_finish(connect, status, 0);
    }
}

void fabric_ofi_peer_finish(struct ofi *ofi)
{
    struct list_node *at = ofi->closing.next;
    while (at != &ofi->closing) {
        struct list_node *next = at->next;
        /* Callbacks can only add to the end of this list. */
        finish(CONTAINER_OF(at, struct peer, closing));
        at = next;
        if (!ofi->is_dry) {
            return; /* one of them closed another connection */
        }
    }
}

/* ----------------------------------------------------------------------------- connecting ----- */

static enum umbp_status ep_make(struct peer *peer, struct fi_info *info)
{
    struct ofi *ofi = peer->ofi;
    if (fi_endpoint(ofi->domain, info, &peer->ep, peer)) {
        peer->ep = NULL;
        return UMBP_IO;
    }
    ofi->rxs_wanted++;
    if (fi_ep_bind(peer->ep, &ofi->eq->fid, 0) ||
        fi_ep_bind(peer->ep, &ofi->cq->fid, FI_TRANSMIT | FI_RECV) ||
        fi_ep_bind(peer->ep, &ofi->srx->fid, 0) || fi_enable(peer->ep)) {
        return UMBP_IO;
    }
    return UMBP_OK;
}

static void connect_start(struct ofi *ofi, struct submission *submission)
{
    struct connect *connect = CONTAINER_OF(submission, struct connect, submission);
    atomic_fetch_sub(&ofi->resolving, 1);
    /* Failures go the way of a closed connection, so that callbacks come from a pass. */
    struct peer *peer = ofi->is_closing || connect->status ? NULL : slot_take(ofi);
    if (!peer) {
        if (!ofi->is_closing && !connect->status) {
            connect->status = UMBP_LIMIT;
        }
        list_insert_after(ofi->failed_connects.prev, &connect->link);
        return;
    }
    peer->connect = connect;
    peer->state = PEER_CONNECTING;
    snprintf(peer->from, sizeof(peer->from), "%s", connect->address);
    fabric_heap_set(&ofi->timers, &peer->handshake,
                    u64_min(peer->handshake.deadline_ns, connect->deadline_ns));
    struct wire_door door = door_make(ofi, peer->our_tag, UMBP_OK);
    if (ep_make(peer, connect->info) ||
        fi_connect(peer->ep, connect->info->dest_addr, &door, sizeof(door))) {
        fabric_ofi_peer_close(peer, UMBP_CLOSED);
    }
}

/* A name becomes its first address. One with addresses of both kinds means the older one: "*"
 * listens there too, and where a machine has no IPv6 only there. */
static bool look_up(char *host, size_t bytes)
{
    static const int families[] = {AF_INET, AF_INET6};
    for (size_t i = 0; i < ARRAY_COUNT(families); i++) {
        struct addrinfo hints = {.ai_family = families[i], .ai_socktype = SOCK_STREAM};
        struct addrinfo *found = NULL;
        if (getaddrinfo(host, NULL, &hints, &found) == 0) {
            int error = getnameinfo(found->ai_addr, found->ai_addrlen, host, (socklen_t)bytes, NULL,
                                    0, NI_NUMERICHOST);
            freeaddrinfo(found);
            return error == 0;
        }
    }
    return false;
}

/* On a worker if there is a name to look up, else at once. */
static void resolve(struct connect *connect)
{
    struct ofi *ofi = connect->ofi;
    char host[FABRIC_HOST_MAX];
    char port_text[8];
    uint16_t port = 0;
    connect->status = fabric_address_split(connect->address, host, &port);
    if (connect->status) {
        return;
    }
    snprintf(port_text, sizeof(port_text), "%u", port);
    struct fi_info *hints = fabric_ofi_hints(ofi->provider);
    if (!hints) {
        connect->status = UMBP_NO_MEMORY;
        return;
    }
    int error = look_up(host, sizeof(host))
                    ? fi_getinfo(FI_VERSION(1, 17), host, port_text, 0, hints, &connect->info)
                    : -FI_EADDRNOTAVAIL;
    fabric_ofi_hints_free(hints);
    if (error) {
        connect->info = NULL;
        connect->status = UMBP_INVALID_VALUE;
    }
}

static void resolve_run(struct host_job *job) { resolve(CONTAINER_OF(job, struct connect, job)); }

static void resolve_done(struct host_job *job)
{
    struct connect *connect = CONTAINER_OF(job, struct connect, job);
    struct ofi *ofi =
        connect->ofi; /* which outlives its workers; the connect may be over at once */
    fabric_ofi_submit(ofi, &connect->submission);
    fabric_ofi_kick(ofi);
}

static bool is_numeric(const char *address)
{
    char host[FABRIC_HOST_MAX];
    uint16_t port;
    uint8_t bytes[16];
    return fabric_address_split(address, host, &port) || inet_pton(AF_INET, host, bytes) == 1 ||
           inet_pton(AF_INET6, host, bytes) == 1;
}

enum umbp_status fabric_ofi_connect(struct fabric *fabric, const char *address,
                                    uint64_t deadline_ns,
                                    void (*done)(void *, enum umbp_status, fabric_peer),
                                    void *context)
{
    struct ofi *ofi = ofi_of(fabric);
    char host[FABRIC_HOST_MAX];
    uint16_t port;
    if (fabric_address_split(address, host, &port) || port == 0 || host[0] == '\0') {
        return UMBP_INVALID_VALUE;
    }
    if (atomic_load(&ofi->is_closed)) {
        return UMBP_CLOSED;
    }
    struct connect *connect = mem_zalloc(sizeof(*connect));
    if (!connect) {
        return UMBP_NO_MEMORY;
    }
    list_init(&connect->link);
    connect->ofi = ofi;
    snprintf(connect->address, sizeof(connect->address), "%s", address);
    connect->deadline_ns = deadline_ns;
    connect->done = done;
    connect->done_context = context;
    connect->submission.run = connect_start;
    fabric_host_job_init(&connect->job, NULL, 0, NULL, 0, resolve_done);
    connect->job.run = resolve_run;
    atomic_fetch_add(&ofi->resolving, 1);
    if (is_numeric(address)) {
        resolve(connect);
        fabric_ofi_submit(ofi, &connect->submission);
        fabric_ofi_kick(ofi);
        return UMBP_OK;
    }
    enum umbp_status status = fabric_host_job_start(&ofi->host, &connect->job);
    if (status) {
        atomic_fetch_sub(&ofi->resolving, 1);
        mem_free(connect);
    }
    return status;
}

void fabric_ofi_connects_finish(struct ofi *ofi)
{
    while (!list_is_empty(&ofi->failed_connects)) {
        struct connect *connect = CONTAINER_OF(ofi->failed_connects.next, struct connect, link);
        list_remove(&connect->link);
        connect_finish(connect, ofi->is_closing ? UMBP_CANCELLED : connect->status, 0);
    }
}

/* ------------------------------------------------------------------------------- greeting ----- */

static void say_hello(struct peer *peer)
{
    struct ofi *ofi = peer->ofi;
    struct tx *tx = fabric_ofi_tx_take(ofi, TX_CONTROL_MESSAGE);
    if (!tx) {
        fabric_ofi_peer_close(peer, UMBP_BUSY);
        return;
    }
    char *body = fabric_ofi_tx_body(tx);
    struct wire_hello hello = {
        .version_low = WIRE_VERSION_LOW,
        .version_high = WIRE_VERSION_HIGH,
        .identity_bytes = (uint16_t)ofi->options.identity_bytes,
        .address_bytes = (uint16_t)strlen(ofi->address),
        .beat_ms = ofi->options.beat_ms,
        .peer_timeout_ms = ofi->options.peer_timeout_ms,
    };
    fabric_host_evidence(&ofi->host, peer->index, rng_next(&ofi->rng), &hello.evidence);
    peer->offers_word = hello.evidence.word != 0;
    memcpy(body, &hello, sizeof(hello));
    memcpy(body + sizeof(hello), ofi->identity, hello.identity_bytes);
    memcpy(body + sizeof(hello) + hello.identity_bytes, ofi->address, hello.address_bytes);
    fabric_ofi_tx_frame(tx, WIRE_HELLO, 0, UMBP_OK,
                        sizeof(hello) + hello.identity_bytes + hello.address_bytes);
    peer->state = PEER_HELLO;
    fabric_ofi_tx_send(peer, tx);
}

/* Says why and closes when that is out; the timer of the handshake bounds it. */
static void refuse(struct peer *peer, enum umbp_status status)
{
    struct tx *tx = fabric_ofi_tx_take(peer->ofi, TX_CONTROL_MESSAGE);
    if (!tx) {
        fabric_ofi_peer_close(peer, status);
        return;
    }
    peer->state = PEER_REFUSING;
    peer->reason = status;
    fabric_heap_set(&peer->ofi->timers, &peer->handshake, peer->ofi->now_ns + 200 * NS_PER_MS);
    fabric_ofi_tx_frame(tx, WIRE_GOODBYE, 0, status, 0);
    fabric_ofi_tx_send(peer, tx);
}

static void hear_hello(struct peer *peer, const struct wire_frame *frame, const char *body)
{
    struct ofi *ofi = peer->ofi;
    struct wire_hello hello;
    if (peer->state != PEER_HELLO || frame->bytes < sizeof(hello)) {
        fabric_ofi_peer_close(peer, UMBP_CORRUPT);
        return;
    }
    memcpy(&hello, body, sizeof(hello));
    if (frame->bytes != sizeof(hello) + hello.identity_bytes + hello.address_bytes ||
        hello.identity_bytes > FABRIC_IDENTITY_MAX || hello.address_bytes >= FABRIC_ADDRESS_MAX) {
        fabric_ofi_peer_close(peer, UMBP_CORRUPT);
        return;
    }
    char *address = peer->address;
    memcpy(address, body + sizeof(hello) + hello.identity_bytes, hello.address_bytes);
    address[hello.address_bytes] = '\0';
    memcpy(peer->identity, body + sizeof(hello), hello.identity_bytes);
    peer->hello = (struct fabric_hello){
        .identity = peer->identity,
        .identity_bytes = hello.identity_bytes,
        .address = address,
        .from = peer->from,
        .incoming = peer->incoming,
        .version = WIRE_VERSION_HIGH,
    };
    enum umbp_status status = UMBP_OK;
    if (ofi->handlers.accept) {
        status = ofi->handlers.accept(ofi->handlers.context, &peer->hello);
    }
    if (status) {
        refuse(peer, status);
        return;
    }
    peer->their_epoch = hello.evidence.epoch;
    fabric_host_check(&ofi->host, &hello.evidence, &peer->host);
    peer->state = PEER_READY;
    if (!fabric_ofi_control(peer, WIRE_READY, peer->host.is_readable, UMBP_OK)) {
        fabric_ofi_peer_close(peer, UMBP_BUSY);
    }
}

static void hear_ready(struct peer *peer, const struct wire_frame *frame)
{
    struct ofi *ofi = peer->ofi;
    if (peer->state != PEER_READY) {
        fabric_ofi_peer_close(peer, UMBP_CORRUPT);
        return;
    }
    unsigned flags = FABRIC_PEER_UP;
    flags |= peer->host.is_readable ? FABRIC_PEER_READABLE : 0;
    flags |= peer->offers_word && frame->id ? FABRIC_PEER_READS_US : 0;
    flags |= peer->incoming ? FABRIC_PEER_INCOMING : 0;
    peer->state = PEER_UP;
    peer->was_up = true;
    fabric_heap_cancel(&ofi->timers, &peer->handshake);
    ofi->counts.connected++;
    ofi->counts.peers_now++;
    atomic_store(&peer->flags, flags);
    atomic_store(&peer->up_handle, peer->handle);
    if (flags & FABRIC_PEER_READS_US) {
        fabric_ofi_share_all(peer);
    }
    fabric_peer handle = peer->handle;
    if (ofi->handlers.peer_up) {
        ofi->handlers.peer_up(ofi->handlers.context, handle, &peer->hello);
    }
    struct connect *connect = peer->connect;
    peer->connect = NULL;
    if (connect) {
        connect_finish(connect, UMBP_OK, handle);
    }
}

static void hear_share(struct peer *peer, const struct wire_frame *frame, const char *body)
{
    struct wire_share share;
    if (frame->bytes != sizeof(share)) {
        fabric_ofi_peer_close(peer, UMBP_CORRUPT);
        return;
    }
    memcpy(&share, body, sizeof(share));
    fabric_host_map_add(&peer->host, share.base, share.bytes, share.fd, share.offset, share.key);
}

/* The frames that are about the connection itself. */
void fabric_ofi_peer_frame(struct peer *peer, const struct wire_frame *frame, const void *body)
{
    switch ((enum wire_kind)frame->kind) {
    case WIRE_HELLO:
        hear_hello(peer, frame, body);
        return;
    case WIRE_READY:
        hear_ready(peer, frame);
        return;
    case WIRE_BEAT:
        return;
    case WIRE_GOODBYE:
        fabric_ofi_peer_close(peer, peer->state == PEER_UP || frame->status == UMBP_OK
                                        ? UMBP_CLOSED
                                        : (enum umbp_status)frame->status);
        return;
    case WIRE_EPOCH:
        peer->their_epoch = u64_max(peer->their_epoch, frame->id);
        return;
    case WIRE_SHARE:
        hear_share(peer, frame, body);
        return;
    case WIRE_UNSHARE:
        fabric_host_map_drop(&peer->host, frame->id);
        return;
    default:
        fabric_ofi_peer_close(peer, UMBP_CORRUPT);
        return;
    }
}

/* -------------------------------------------------------------------------- provider events --- */

static void text_of_address(const struct fi_info *info, char out[FABRIC_ADDRESS_MAX])
{
    char host[INET6_ADDRSTRLEN] = "";
    uint16_t port = 0;
    const struct sockaddr *address = info->dest_addr;
    if (address && address->sa_family == AF_INET) {
        const struct sockaddr_in *four = (const void *)address;
        inet_ntop(AF_INET, &four->sin_addr, host, sizeof(host));
        port = ntohs(four->sin_port);
    } else if (address && address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const void *)address;
        inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof(host));
        port = ntohs(six->sin6_port);
    }
    fabric_address_join(out, host, port);
}

static void reject(struct ofi *ofi, struct fi_info *info, enum umbp_status status)
{
    struct wire_door door = door_make(ofi, 0, status);
    fi_reject(ofi->pep, info->handle, &door, sizeof(door));
    ofi->counts.refused++;
}

static void on_request(struct ofi *ofi, struct fi_info *info, const void *data, size_t bytes)
{
    struct wire_door door;
    enum umbp_status status = door_check(ofi, data, bytes, &door);
    struct peer *peer = NULL;
    if (!status && ofi->is_closing) {
        status = UMBP_CLOSED;
    }
    if (!status && !(peer = slot_take(ofi))) {
        status = UMBP_LIMIT;
    }
    if (status) {
        reject(ofi, info, status);
        fi_freeinfo(info);
        return;
    }
    peer->incoming = true;
    peer->state = PEER_ACCEPTING;
    peer->their_tag = door.tag;
    text_of_address(info, peer->from);
    struct wire_door answer = door_make(ofi, peer->our_tag, UMBP_OK);
    if (ep_make(peer, info)) {
        reject(ofi, info, UMBP_IO);
        fabric_ofi_peer_close(peer, UMBP_IO);
    } else if (fi_accept(peer->ep, &answer, sizeof(answer))) {
        fabric_ofi_peer_close(peer, UMBP_IO);
    }
    fi_freeinfo(info);
}

static void on_connected(struct peer *peer, const void *data, size_t bytes)
{
    if (peer->state == PEER_CONNECTING) {
        struct wire_door door;
        enum umbp_status status = door_check(peer->ofi, data, bytes, &door);
        if (status) {
            fabric_ofi_peer_close(peer, status == UMBP_CORRUPT ? UMBP_VERSION : status);
            return;
        }
        peer->their_tag = door.tag;
    } else if (peer->state != PEER_ACCEPTING) {
        return;
    }
    peer->heard_ns = peer->ofi->now_ns;
    say_hello(peer);
}

static void on_error(struct ofi *ofi)
{
    struct fi_eq_err_entry entry = {0};
    if (fi_eq_readerr(ofi->eq, &entry, 0) < 0 || !entry.fid || !entry.fid->context) {
        return;
    }
    struct peer *peer = entry.fid->context;
    if (peer->state == PEER_FREE || peer->state == PEER_CLOSING) {
        return;
    }
    enum umbp_status status = UMBP_CLOSED;
    struct wire_door door;
    if (entry.err_data && entry.err_data_size >= sizeof(door) && peer->state == PEER_CONNECTING) {
        status = door_check(ofi, entry.err_data, entry.err_data_size, &door);
        if (status == UMBP_OK) {
            status = door.status ? (enum umbp_status)door.status : UMBP_CLOSED;
        }
    }
    fabric_ofi_peer_close(peer, status);
}

void fabric_ofi_events(struct ofi *ofi)
{
    /* A bound, so that a storm of connections can't keep the loop. */
    for (unsigned i = 0; i < 64; i++) {
        _Alignas(struct fi_eq_cm_entry) char buffer[sizeof(struct fi_eq_cm_entry) + 512];
        uint32_t event = 0;
        ssize_t bytes = fi_eq_read(ofi->eq, &event, buffer, sizeof(buffer), 0);
        if (bytes == -FI_EAVAIL) {
            on_error(ofi);
            continue;
        }
        if (bytes < 0) {
            return;
        }
        struct fi_eq_cm_entry *entry = (void *)buffer;
        size_t data = (size_t)bytes > sizeof(*entry) ? (size_t)bytes - sizeof(*entry) : 0;
        if (event == FI_CONNREQ) {
            on_request(ofi, entry->info, entry->data, data);
            continue;
        }
        struct peer *peer = entry->fid ? entry->fid->context : NULL;
        if (!peer || peer->state == PEER_FREE || peer->state == PEER_CLOSING) {
            continue;
        }
        if (event == FI_CONNECTED) {
            on_connected(peer, entry->data, data);
        } else if (event == FI_SHUTDOWN) {
            fabric_ofi_peer_close(peer, peer->state == PEER_REFUSING ? peer->reason : UMBP_CLOSED);
        }
    }
}

/* --------------------------------------------------------------------------------- watching --- */

void fabric_ofi_tick(struct fabric_timer *timer)
{
    struct ofi *ofi = CONTAINER_OF(timer, struct ofi, tick);
    uint64_t beat_ns = ofi->options.beat_ms * NS_PER_MS;
    uint64_t timeout_ns = ofi->options.peer_timeout_ms * NS_PER_MS;
    uint64_t now = ofi->now_ns;
    /* If we were stopped ourselves, what peers sent meanwhile has not been read yet. */
    bool was_stopped = now - ofi->last_tick_ns > timeout_ns / 2;
    ofi->last_tick_ns = now;
    for (uint32_t i = 0; i < ofi->peers_high; i++) {
        struct peer *peer = &ofi->peers[i];
        if (peer->state != PEER_UP) {
            continue;
        }
        if (was_stopped) {
            peer->heard_ns = now;
        }
        if (now > peer->heard_ns && now - peer->heard_ns >= timeout_ns) {
            fabric_ofi_peer_close(peer, UMBP_TIMEOUT);
        } else if (now - peer->sent_ns >= beat_ns - beat_ns / 4 && list_is_empty(&peer->posted)) {
            /* With something still posted a beat would only queue up behind it. */
            fabric_ofi_control(peer, WIRE_BEAT, 0, UMBP_OK);
        }
    }
    fabric_heap_set(&ofi->timers, timer, now + u64_max(beat_ns / 4, NS_PER_MS));
}

/* ------------------------------------------------------------------------------ from outside -- */

void fabric_ofi_nudge(struct peer *peer)
{
    if (!atomic_exchange(&peer->nudged, true)) {
        fabric_ofi_submit(peer->ofi, &peer->nudge);
    }
    fabric_ofi_kick(peer->ofi);
}

void fabric_ofi_disconnect(struct fabric *fabric, fabric_peer handle)
{
    struct peer *peer = fabric_ofi_peer_up(ofi_of(fabric), handle);
    if (peer) {
        atomic_store(&peer->close_handle, handle);
        fabric_ofi_nudge(peer);
    }
}

unsigned fabric_ofi_peer_flags(struct fabric *fabric, fabric_peer handle)
{
    struct peer *peer = fabric_ofi_peer_up(ofi_of(fabric), handle);
    if (!peer) {
        return 0;
    }
    unsigned flags = atomic_load(&peer->flags);
    return atomic_load(&peer->up_handle) == handle ? flags : 0;
}

static void epoch_send(struct ofi *ofi, struct submission *submission)
{
    struct tx *tx = CONTAINER_OF(submission, struct tx, submission);
    struct peer *peer = fabric_ofi_peer(ofi, tx->peer);
    if (!peer || peer->state != PEER_UP) {
        fabric_ofi_tx_free(ofi, tx);
        return;
    }
    fabric_ofi_tx_send(peer, tx);
}

void fabric_ofi_raise_epoch(struct fabric *fabric, fabric_peer handle)
{
    struct ofi *ofi = ofi_of(fabric);
    struct peer *peer = fabric_ofi_peer_up(ofi, handle);
    if (!peer || !(atomic_load(&peer->flags) & FABRIC_PEER_READS_US)) {
        return; /* its end has raised it, or nobody reads */
    }
    uint64_t epoch = fabric_host_raise(&ofi->host, peer->index);
    struct tx *tx = fabric_ofi_tx_take(ofi, TX_CONTROL_MESSAGE);
    if (!tx) {
        fabric_ofi_disconnect(fabric, handle); /* else it could never read again */
        return;
    }
    tx->peer = handle;
    tx->submission.run = epoch_send;
    fabric_ofi_tx_frame(tx, WIRE_EPOCH, epoch, UMBP_OK, 0);
    fabric_ofi_submit(ofi, &tx->submission);
}
