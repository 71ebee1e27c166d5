/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Regions, and lists of bytes to and from a peer.
 *
 * A write: runs of the list become provider writes, up to OP_RUNS_MAX runs and OP_BYTES_MAX bytes
 * each, at most OPS_PER_PEER and OPS_BYTES_PER_PEER in flight, so that messages and beats get
 * through between them.
 *
 * A read: the peer is asked to write (README.md says why): WIRE_READ with rows {from, to, bytes},
 * two such frames in flight; it answers WIRE_READ_DONE behind its writes, in order. Where the
 * provider lets us choose keys (registering is cheap there) each target run is registered for this
 * frame only.
 */
#include "fabric/fabric_ofi_priv.h"

/* --------------------------------------------------------------------------------- regions ---- */

static enum umbp_status mr_make(struct ofi *ofi, void *memory, size_t bytes, uint64_t flags,
                                struct fid_mr **mr_out)
{
    for (unsigned tries = 0; tries < 3; tries++) {
        /* Never 0, and 63 bits: a provider may keep the highest for itself. */
        uint64_t key = ofi->own_keys ? rng_next(&ofi->rng) >> 1 | 1 : 0;
        int error = fi_mr_reg(ofi->domain, memory, bytes, flags, 0, key, 0, mr_out, NULL);
        if (error == 0) {
            return UMBP_OK;
        }
        if (error != -FI_ENOKEY) {
            return error == -FI_ENOMEM ? UMBP_NO_MEMORY : UMBP_IO;
        }
    }
    return UMBP_IO;
}

static struct fabric_region *region_find(struct ofi *ofi, uint64_t key)
{
    struct fabric_region *found = NULL;
    mutex_lock(&ofi->lock);
    for (struct list_node *at = ofi->regions.next; at != &ofi->regions; at = at->next) {
        struct fabric_region *region = CONTAINER_OF(at, struct fabric_region, link);
        if (region->key.key == key) {
            found = region;
            break;
        }
    }
    mutex_unlock(&ofi->lock);
    return found;
}

static void share_send(struct peer *peer, const struct wire_share *body)
{
    struct tx *tx = fabric_ofi_tx_take(peer->ofi, TX_CONTROL_MESSAGE);
    if (!tx) {
        return; /* it reads the other way */
    }
    memcpy(fabric_ofi_tx_body(tx), body, sizeof(*body));
    fabric_ofi_tx_frame(tx, WIRE_SHARE, 0, UMBP_OK, sizeof(*body));
    fabric_ofi_tx_send(peer, tx);
}

static void share(struct peer *peer, const struct fabric_region *region)
{
    const struct wire_share body = {
        .base = (uint64_t)(uintptr_t)region->memory,
        .bytes = region->bytes,
        .offset = region->fd_offset,
        .fd = region->shared_fd,
        .key = region->key.key,
    };
    share_send(peer, &body);
}

void fabric_ofi_share_all(struct peer *peer)
{
    struct ofi *ofi = peer->ofi;
    const struct host *host = &ofi->host;
    if (host->words_fd >= 0) {
        const struct wire_share words = {
            .base = (uint64_t)(uintptr_t)host->words,
            .bytes = host->words_bytes,
            .fd = host->words_fd, /* no region's key: it stays shared */
        };
        share_send(peer, &words);
    }
    /* The token keeps the list as it is; the lock is for lookups of other threads. */
    for (struct list_node *at = ofi->regions.next; at != &ofi->regions; at = at->next) {
        struct fabric_region *region = CONTAINER_OF(at, struct fabric_region, link);
        if (region->shared_fd >= 0) {
            share(peer, region);
        }
    }
}

static void tell_sharers(struct ofi *ofi, const struct fabric_region *region, bool is_new)
{
    for (uint32_t i = 0; region->shared_fd >= 0 && i < ofi->peers_high; i++) {
        struct peer *peer = &ofi->peers[i];
        if (peer->state != PEER_UP || !(atomic_load(&peer->flags) & FABRIC_PEER_READS_US)) {
            continue;
        }
        if (is_new) {
            share(peer, region);
        } else if (!fabric_ofi_control(peer, WIRE_UNSHARE, region->key.key, UMBP_OK)) {
            fabric_ofi_peer_close(peer, UMBP_BUSY); /* else it would read what is no longer there */
        }
    }
}

enum umbp_status fabric_ofi_region_create(struct fabric *fabric, void *memory, size_t bytes,
                                          unsigned access, int shared_fd, uint64_t fd_offset,
                                          struct fabric_region **region_out)
{
    struct ofi *ofi = ofi_of(fabric);
    if (!memory || bytes == 0 || access & ~(unsigned)(FABRIC_REMOTE_READ | FABRIC_REMOTE_WRITE)) {
        return UMBP_INVALID_VALUE;
    }
    if (atomic_load(&ofi->is_closed)) {
        return UMBP_CLOSED;
    }
    struct fabric_region *region = mem_zalloc(sizeof(*region));
    if (!region) {
        return UMBP_NO_MEMORY;
    }
    list_init(&region->link);
    region->ofi = ofi;
    region->memory = memory;
    region->bytes = bytes;
    region->access = access;
    region->shared_fd = shared_fd;
    region->fd_offset = fd_offset;
    bool entered = fabric_ofi_enter(ofi);
    enum umbp_status status = UMBP_OK;
    region->key.key = rng_next(&ofi->rng) >> 1 | 1;
    if (access & FABRIC_REMOTE_WRITE || !ofi->own_keys) {
        uint64_t flags = FI_SEND | FI_RECV | FI_READ | FI_WRITE | FI_REMOTE_WRITE;
        status = mr_make(ofi, memory, bytes, flags, &region->mr);
        if (!status) {
            region->descriptor = fi_mr_desc(region->mr);
            region->key.key = fi_mr_key(region->mr);
        }
    }
    if (!status) {
        region->key.base = ofi->offset_keys ? (uint64_t)(uintptr_t)memory : 0;
        mutex_lock(&ofi->lock);
        list_push_front(&ofi->regions, &region->link);
        mutex_unlock(&ofi->lock);
        tell_sharers(ofi, region, true);
    }
    fabric_ofi_leave(ofi, entered);
    if (status) {
        mem_free(region);
        return status;
    }
    *region_out = region;
    return UMBP_OK;
}

/* A peer still has bytes of the region on order: that ends with its connection. */
static void close_served(struct ofi *ofi, const struct fabric_region *region)
{
    for (uint32_t i = 0; ofi->serving > 0 && i < ofi->peers_high; i++) {
        struct peer *peer = &ofi->peers[i];
        bool uses = false;
        if (peer->state != PEER_UP || peer->serves == 0) {
            continue;
        }
        for (struct list_node *at = peer->writes.next; at != &peer->writes; at = at->next) {
            struct transfer *transfer = CONTAINER_OF(at, struct transfer, link);
            const struct wire_row *rows =
                transfer->serve_rx
                    ? (const void *)(transfer->serve_rx->buffer + sizeof(struct wire_frame))
                    : NULL;
            for (size_t r = 0; rows && r < transfer->count; r++) {
                uses = uses || rows[r].from_key == region->key.key;
            }
        }
        if (uses) {
            fabric_ofi_peer_close(peer, UMBP_CLOSED);
        }
    }
}

void fabric_ofi_region_free(struct fabric_region *region)
{
    struct ofi *ofi = region->ofi;
    bool entered = fabric_ofi_enter(ofi);
    if (!region->big) {
        close_served(ofi, region);
    }
    tell_sharers(ofi, region, false);
    mutex_lock(&ofi->lock);
    list_remove(&region->link);
    mutex_unlock(&ofi->lock);
    if (region->mr) {
        fi_close(&region->mr->fid);
    }
    fabric_ofi_leave(ofi, entered);
    mem_free(region);
}

void fabric_ofi_region_destroy(struct fabric *fabric, struct fabric_region *region)
{
    (void)fabric;
    fabric_ofi_region_free(region);
}

struct fabric_key fabric_ofi_region_key(const struct fabric_region *region) { return region->key; }

/* -------------------------------------------------------------------------- walking a list ---- */

struct run {
    char *local;
    void *descriptor;
    uint64_t remote; /* as the provider wants it */
    uint64_t key;
    size_t bytes;
};

static const struct wire_row *serve_rows(const struct transfer *transfer)
{
    return (const void *)(transfer->serve_rx->buffer + sizeof(struct wire_frame));
}

/* The piece or row, from its offset on. False at the end. */
static bool item_at(const struct transfer *transfer, size_t index, size_t offset,
                    struct run *run_out)
{
    if (index >= transfer->count) {
        return false;
    }
    if (transfer->serve_rx) {
        const struct wire_row *row = &serve_rows(transfer)[index];
        *run_out = (struct run){(char *)(uintptr_t)row->from + offset, NULL, row->to + offset,
                                row->to_key, row->bytes - offset};
        return true;
    }
    const struct fabric_piece *piece = &transfer->pieces[index];
    *run_out = (struct run){
        (char *)piece->local + offset, piece->region ? piece->region->descriptor : NULL,
        piece->remote - piece->key.base + offset, piece->key.key, piece->bytes - offset};
    return true;
}

/* The next run of at most `limit` bytes, neighbours joined; steps over it. False: none is left. */
static bool run_take(struct transfer *transfer, size_t limit, struct run *run_out)
{
    struct run run = {0};
    struct run next;
    while (run.bytes < limit &&
           item_at(transfer, transfer->next_piece, transfer->next_offset, &next)) {
        if (next.bytes == 0) {
            transfer->next_piece++;
            transfer->next_offset = 0;
            continue;
        }
        if (run.bytes > 0 &&
            (next.local != run.local + run.bytes || next.remote != run.remote + run.bytes ||
             next.key != run.key || next.descriptor != run.descriptor)) {
            break;
        }
        size_t part = size_min(next.bytes, limit - run.bytes);
        if (run.bytes == 0) {
            run = next;
            run.bytes = 0;
        }
        run.bytes += part;
        transfer->next_offset += part;
        if (part == next.bytes) {
            transfer->next_piece++;
            transfer->next_offset = 0;
        }
    }
    *run_out = run;
    return run.bytes > 0;
}

static bool is_exhausted(struct transfer *transfer)
{
    struct run next;
    while (item_at(transfer, transfer->next_piece, transfer->next_offset, &next)) {
        if (next.bytes > 0) {
            return false;
        }
        transfer->next_piece++;
        transfer->next_offset = 0;
    }
    return true;
}

/* ------------------------------------------------------------------------- the life of a list - */

static struct transfer *transfer_take(struct ofi *ofi)
{
    mutex_lock(&ofi->lock);
    struct transfer *transfer = ofi->transfers_free;
    if (transfer) {
        ofi->transfers_free = transfer->next;
    }
    mutex_unlock(&ofi->lock);
    if (transfer) {
        memset(transfer, 0, offsetof(struct transfer, chunks));
        list_init(&transfer->link);
        transfer->ofi = ofi;
        for (unsigned i = 0; i < READ_CHUNKS; i++) {
            transfer->chunks[i].id = 0;
            transfer->chunks[i].mr_count = 0;
        }
        transfer->done = NULL;
        transfer->serve_rx = NULL;
        transfer->serve_big = NULL;
    }
    return transfer;
}

static void chunk_close(struct read_chunk *chunk)
{
    for (unsigned i = 0; i < chunk->mr_count; i++) {
        fi_close(&chunk->mrs[i]->fid);
    }
    chunk->mr_count = 0;
    chunk->id = 0;
}

static void serve_finish(struct transfer *transfer)
{
    struct ofi *ofi = transfer->ofi;
    struct peer *peer = fabric_ofi_peer(ofi, transfer->peer);
    if (peer) {
        peer->serves--;
        if (peer->state == PEER_UP &&
            !fabric_ofi_control(peer, WIRE_READ_DONE, transfer->serve_id, transfer->status)) {
            fabric_ofi_peer_close(peer, UMBP_BUSY);
        }
    }
    ofi->serving--;
    ofi->rxs_held--;
    (void)fabric_ofi_rx_post(ofi, transfer->serve_rx);
    if (transfer->serve_big && --transfer->serve_big->serving == 0 &&
        (transfer->serve_big->is_dead || transfer->status == UMBP_OK)) {
        struct big *big = transfer->serve_big;
        bool is_answer = !list_is_empty(&big->link);
        /* A large request goes with its call. */
        if (big->is_dead || is_answer) {
            fabric_ofi_big_free(big);
        }
    }
}

/* Callbacks: only from a pass. */
void fabric_ofi_transfer_finish(struct transfer *transfer)
{
    struct ofi *ofi = transfer->ofi;
    enum umbp_status status = transfer->status;
    fabric_done *done = transfer->done;
    void *context = transfer->done_context;
    list_remove(&transfer->link);
    for (unsigned i = 0; i < READ_CHUNKS; i++) {
        chunk_close(&transfer->chunks[i]);
    }
    if (!status && transfer->is_write) {
        ofi->counts.written_bytes += transfer->bytes;
    } else if (!status) {
        ofi->counts.read_bytes += transfer->bytes;
    }
    if (transfer->serve_rx) {
        serve_finish(transfer);
    }
    mutex_lock(&ofi->lock);
    transfer->next = ofi->transfers_free;
    ofi->transfers_free = transfer;
    mutex_unlock(&ofi->lock);
    if (done) {
        done(context, status);
    }
}

/* From any context that has the token: the callback comes with the next pass. */
static void finish_later(struct transfer *transfer, enum umbp_status status)
{
    transfer->status = transfer->status ? transfer->status : status;
    list_remove(&transfer->link);
    list_insert_after(transfer->ofi->dead_transfers.prev, &transfer->link);
}

static void finish_if_done(struct transfer *transfer)
{
    if (transfer->in_flight == 0 && (transfer->status || is_exhausted(transfer))) {
        finish_later(transfer, UMBP_OK);
    }
}

static void pump_wanted(struct peer *peer)
{
    if (list_is_empty(&peer->pumping) && peer->state == PEER_UP) {
        list_insert_after(peer->ofi->pumping.prev, &peer->pumping);
    }
}

void fabric_ofi_transfers_drop(struct peer *peer, enum umbp_status status)
{
    struct list_node *lists[2] = {&peer->writes, &peer->reads};
    for (unsigned i = 0; i < 2; i++) {
        while (!list_is_empty(lists[i])) {
            struct transfer *transfer = CONTAINER_OF(lists[i]->next, struct transfer, link);
            transfer->status = status;
            fabric_ofi_transfer_finish(transfer);
        }
    }
    /* What was finished but not told yet is told first: its bytes were in place. */
    struct ofi *ofi = peer->ofi;
    struct list_node *at = ofi->dead_transfers.next;
    while (at != &ofi->dead_transfers) {
        struct transfer *transfer = CONTAINER_OF(at, struct transfer, link);
        at = at->next;
        if (transfer->peer == peer->handle) {
            fabric_ofi_transfer_finish(transfer);
            at = ofi->dead_transfers.next; /* the callback may have changed the list */
        }
    }
}

static void transfer_run(struct ofi *ofi, struct submission *submission)
{
    struct transfer *transfer = CONTAINER_OF(submission, struct transfer, submission);
    struct peer *peer = fabric_ofi_peer(ofi, transfer->peer);
    if (!peer || peer->state != PEER_UP) {
        finish_later(transfer, ofi->is_closing ? UMBP_CANCELLED : UMBP_CLOSED);
        return;
    }
    struct list_node *list = transfer->is_write ? &peer->writes : &peer->reads;
    list_insert_after(list->prev, &transfer->link);
    pump_wanted(peer);
}

static bool piece_is_valid(const struct fabric_piece *piece)
{
    const struct fabric_region *region = piece->region;
    if (piece->bytes == 0) {
        return true;
    }
    uintptr_t local = (uintptr_t)piece->local;
    uintptr_t base = region ? (uintptr_t)region->memory : 0;
    return region && local >= base && piece->bytes <= region->bytes &&
           local - base <= region->bytes - piece->bytes &&
           piece->remote + piece->bytes > piece->remote;
}

enum umbp_status fabric_ofi_transfer(struct fabric *fabric, fabric_peer handle, bool write,
                                     const struct fabric_piece *pieces, size_t count,
                                     fabric_done *done, void *context)
{
    struct ofi *ofi = ofi_of(fabric);
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        if (!piece_is_valid(&pieces[i])) {
            return UMBP_INVALID_VALUE;
        }
        bytes += pieces[i].bytes;
    }
    if (!fabric_ofi_peer_up(ofi, handle) || atomic_load(&ofi->is_closed)) {
        return UMBP_CLOSED;
    }
    struct transfer *transfer = transfer_take(ofi);
    if (!transfer) {
        atomic_fetch_add(&ofi->busy, 1);
        return UMBP_BUSY;
    }
    transfer->peer = handle;
    transfer->is_write = write;
    transfer->pieces = pieces;
    transfer->count = count;
    transfer->bytes = bytes;
    transfer->done = done;
    transfer->done_context = context;
    transfer->submission.run = transfer_run;
    fabric_ofi_submit(ofi, &transfer->submission);
    return UMBP_OK;
}

enum umbp_status fabric_ofi_fetch(struct peer *peer, const struct fabric_piece *piece,
                                  fabric_done *done, void *context)
{
    struct transfer *transfer = transfer_take(peer->ofi);
    if (!transfer) {
        return UMBP_BUSY;
    }
    transfer->peer = peer->handle;
    transfer->pieces = piece;
    transfer->count = 1;
    transfer->done = done;
    transfer->done_context = context;
    list_insert_after(peer->reads.prev, &transfer->link);
    pump_wanted(peer);
    return UMBP_OK;
}

/* ----------------------------------------------------------------------------------- writing -- */

static bool op_can(const struct peer *peer)
{
    return peer->ops_count < OPS_PER_PEER && peer->ops_bytes < OPS_BYTES_PER_PEER &&
           peer->ofi->ops_free != NULL;
}

/* One provider write. False: the provider has no room now (the list is put back). */
static bool write_some(struct peer *peer, struct transfer *transfer)
{
    struct ofi *ofi = peer->ofi;
    struct iovec near[OP_RUNS_MAX];
    struct fi_rma_iov far[OP_RUNS_MAX];
    void *descriptors[OP_RUNS_MAX];
    size_t piece = transfer->next_piece;
    size_t offset = transfer->next_offset;
    size_t bytes = 0;
    unsigned count = 0;
    struct run run;
    while (count < ofi->op_runs_max && bytes < OP_BYTES_MAX &&
           run_take(transfer, OP_BYTES_MAX - bytes, &run)) {
        near[count] = (struct iovec){run.local, run.bytes};
        far[count] = (struct fi_rma_iov){.addr = run.remote, .len = run.bytes, .key = run.key};
        descriptors[count] = run.descriptor;
        bytes += run.bytes;
        count++;
    }
    if (count == 0) {
        return true;
    }
    struct op *op = ofi->ops_free;
    struct fi_msg_rma message = {
        .msg_iov = near,
        .desc = descriptors,
        .iov_count = count,
        .rma_iov = far,
        .rma_iov_count = count,
        .context = &op->context,
    };
    ssize_t status = fi_writemsg(peer->ep, &message, FI_COMPLETION);
    if (status) {
        transfer->next_piece = piece;
        transfer->next_offset = offset;
        if (status != -FI_EAGAIN) {
            fabric_ofi_peer_close(peer, UMBP_IO);
        }
        return false;
    }
    ofi->ops_free = op->next;
    op->transfer = transfer;
    op->peer = peer;
    op->bytes = bytes;
    list_insert_after(peer->ops.prev, &op->link);
    peer->ops_count++;
    peer->ops_bytes += bytes;
    transfer->in_flight++;
    return true;
}

void fabric_ofi_op_done(struct op *op, bool ok)
{
    struct peer *peer = op->peer;
    struct ofi *ofi = peer->ofi;
    struct transfer *transfer = op->transfer;
    list_remove(&op->link);
    peer->ops_count--;
    peer->ops_bytes -= op->bytes;
    op->next = ofi->ops_free;
    ofi->ops_free = op;
    transfer->in_flight--;
    if (peer->state == PEER_CLOSING) {
        return; /* its end finishes the list */
    }
    if (!ok) {
        fabric_ofi_peer_close(peer, UMBP_CLOSED);
        return;
    }
    finish_if_done(transfer);
    pump_wanted(peer);
}

/* ----------------------------------------------------------------------------------- reading -- */

static void read_fail(struct transfer *transfer, struct read_chunk *chunk, enum umbp_status status)
{
    chunk_close(chunk);
    transfer->status = status;
    finish_if_done(transfer);
}

/* Asks for the next rows. False: no buffer for the request now. */
static bool read_some(struct peer *peer, struct transfer *transfer, struct read_chunk *chunk)
{
    struct ofi *ofi = peer->ofi;
    struct tx *tx = fabric_ofi_tx_take(ofi, TX_CONTROL_MESSAGE);
    if (!tx) {
        return false;
    }
    struct wire_row *rows = fabric_ofi_tx_body(tx);
    unsigned count = 0;
    struct run run;
    size_t piece = transfer->next_piece;
    while (count < READ_ROWS && run_take(transfer, SIZE_MAX / 2, &run)) {
        struct wire_row row = {
            /* run_take speaks of provider addresses; the peer wants its own pointer */
            .from = run.remote + transfer->pieces[piece].key.base,
            .from_key = run.key,
            .bytes = run.bytes,
        };
        const struct fabric_region *region = transfer->pieces[piece].region;
        if (ofi->own_keys) {
            struct fid_mr *mr;
            if (mr_make(ofi, run.local, run.bytes, FI_REMOTE_WRITE, &mr)) {
                fabric_ofi_tx_free(ofi, tx);
                read_fail(transfer, chunk, UMBP_NO_MEMORY);
                return true;
            }
            chunk->mrs[chunk->mr_count++] = mr;
            row.to = ofi->offset_keys ? 0 : (uint64_t)(uintptr_t)run.local;
            row.to_key = fi_mr_key(mr);
        } else {
            row.to = (uint64_t)(uintptr_t)run.local - region->key.base;
            row.to_key = region->key.key;
        }
        rows[count++] = row;
        /* Zero-sized pieces are stepped over, so that `piece` is the next run's first. */
        (void)is_exhausted(transfer);
        piece = transfer->next_piece;
    }
    if (count == 0) {
        fabric_ofi_tx_free(ofi, tx);
        return true;
    }
    chunk->id = ++ofi->next_read_id;
    transfer->in_flight++;
    fabric_ofi_tx_frame(tx, WIRE_READ, chunk->id, UMBP_OK, count * sizeof(struct wire_row));
    fabric_ofi_tx_send(peer, tx);
    return true;
}

void fabric_ofi_read_done(struct peer *peer, const struct wire_frame *frame)
{
    for (struct list_node *at = peer->reads.next; at != &peer->reads; at = at->next) {
        struct transfer *transfer = CONTAINER_OF(at, struct transfer, link);
        for (unsigned i = 0; i < READ_CHUNKS; i++) {
            struct read_chunk *chunk = &transfer->chunks[i];
            if (chunk->id == frame->id && frame->id != 0) {
                chunk_close(chunk);
                transfer->in_flight--;
                if (frame->status && !transfer->status) {
                    transfer->status = frame->status == UMBP_BUSY ? UMBP_BUSY : UMBP_IO;
                }
                finish_if_done(transfer);
                pump_wanted(peer);
                return;
            }
        }
    }
    fabric_ofi_peer_close(peer, UMBP_CORRUPT);
}

/* Makes pointers of what the rows name. False: something is not ours to show. */
static bool rows_resolve(struct ofi *ofi, struct wire_row *rows, size_t count, struct big **big_out)
{
    struct fabric_region *region = NULL;
    for (size_t i = 0; i < count; i++) {
        struct wire_row *row = &rows[i];
        if (!region || region->key.key != row->from_key) {
            region = region_find(ofi, row->from_key);
        }
        if (!region || !(region->access & FABRIC_REMOTE_READ) || row->bytes > region->bytes) {
            return false;
        }
        uint64_t base = region->big ? 0 : (uint64_t)(uintptr_t)region->memory;
        if (row->from < base || row->from - base > region->bytes - row->bytes) {
            return false;
        }
        if (region->big && count > 1) {
            return false;
        }
        *big_out = region->big;
        row->from = (uint64_t)(uintptr_t)region->memory + (row->from - base);
    }
    return true;
}

static bool refuse_read(struct peer *peer, uint64_t id, enum umbp_status status)
{
    if (!fabric_ofi_control(peer, WIRE_READ_DONE, id, status)) {
        fabric_ofi_peer_close(peer, UMBP_BUSY);
    }
    return false;
}

bool fabric_ofi_read_frame(struct peer *peer, const struct wire_frame *frame, struct rx *rx)
{
    struct ofi *ofi = peer->ofi;
    struct wire_row *rows = (void *)(rx->buffer + sizeof(*frame));
    size_t count = frame->bytes / sizeof(*rows);
    struct big *big = NULL;
    if (frame->bytes % sizeof(*rows) != 0 || count == 0 || count > READ_ROWS) {
        fabric_ofi_peer_close(peer, UMBP_CORRUPT);
        return false;
    }
    if (!rows_resolve(ofi, rows, count, &big)) {
        return refuse_read(peer, frame->id, UMBP_INVALID_VALUE);
    }
    if (peer->serves >= SERVES_PER_PEER || ofi->rxs_held + RX_POSTED >= ofi->rx_count) {
        return refuse_read(peer, frame->id, UMBP_BUSY);
    }
    struct transfer *transfer = transfer_take(ofi);
    if (!transfer) {
        return refuse_read(peer, frame->id, UMBP_BUSY);
    }
    transfer->peer = peer->handle;
    transfer->is_write = true;
    transfer->count = count;
    transfer->serve_rx = rx;
    transfer->serve_id = frame->id;
    transfer->serve_big = big;
    if (big) {
        big->serving++;
    }
    peer->serves++;
    ofi->serving++;
    ofi->rxs_held++;
    list_insert_after(peer->writes.prev, &transfer->link);
    pump_wanted(peer);
    return true;
}

/* ------------------------------------------------------------------------------------ pumping - */

static bool pump_reads(struct peer *peer)
{
    struct list_node *at = peer->reads.next;
    while (at != &peer->reads && peer->state == PEER_UP) {
        struct transfer *transfer = CONTAINER_OF(at, struct transfer, link);
        at = at->next;
        for (unsigned i = 0; i < READ_CHUNKS && !transfer->status; i++) {
            if (transfer->chunks[i].id == 0 && !is_exhausted(transfer) &&
                !read_some(peer, transfer, &transfer->chunks[i])) {
                return false;
            }
        }
        finish_if_done(transfer);
    }
    return true;
}

static bool pump_writes(struct peer *peer)
{
    struct list_node *at = peer->writes.next;
    while (at != &peer->writes && peer->state == PEER_UP) {
        struct transfer *transfer = CONTAINER_OF(at, struct transfer, link);
        at = at->next;
        while (peer->state == PEER_UP && !is_exhausted(transfer)) {
            if (!op_can(peer)) {
                /* Its own operations call again; without any, wait for someone else's. */
                return peer->ops_count > 0;
            }
            if (!write_some(peer, transfer)) {
                return false;
            }
        }
        if (peer->state == PEER_UP) {
            finish_if_done(transfer);
        }
    }
    return true;
}

void fabric_ofi_pump(struct ofi *ofi)
{
    struct list_node again;
    list_init(&again);
    while (!list_is_empty(&ofi->pumping)) {
        struct peer *peer = CONTAINER_OF(ofi->pumping.next, struct peer, pumping);
        list_remove(&peer->pumping);
        fabric_ofi_tx_retry(peer);
        bool settled = pump_reads(peer) && pump_writes(peer) && list_is_empty(&peer->unsent);
        if (!settled && peer->ep) {
            list_insert_after(again.prev, &peer->pumping);
        }
    }
    while (!list_is_empty(&again)) {
        struct list_node *node = again.next;
        list_remove(node);
        list_insert_after(ofi->pumping.prev, node);
    }
}
