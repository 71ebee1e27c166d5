/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated network: bytes.
 *
 *   write:   chunk is sent (read now) ~~~> lands (written now) ~~~> counted by who asked
 *   read:    asked ~~~> chunk is sent (read now) ~~~> lands (written now, counted)
 *   pull:    chunk is copied whenever the puller gets to it, ..., the epoch is looked at
 *
 * A chunk is an event of the process that sends it and then of the one that it lands in: neither
 * happens once that one's side of the connection is closed. So closing cuts a transfer wherever it
 * is, and what the closing side has let go of is not touched any more.
 */
#include "fabric/fabric_sim_priv.h"

struct sim_chunk {
    char *local; /* in the memory of who asked */
    uint64_t remote;
    struct fabric_key key;
    size_t bytes;
};

struct sim_move {
    struct list_node node;
    struct sim_side *side; /* of who asked */
    struct list_node all;
    bool is_write;
    bool is_pull;
    bool is_over;
    bool is_admitted; /* its key was good when its first chunk came */
    uint64_t epoch;
    enum umbp_status status;
    fabric_done *done;
    void *context;
    size_t left;   /* chunks that are not in place */
    size_t copied; /* pulls */
    size_t count;
    struct sim_chunk *chunks;
    unsigned events; /* that still name it */
};

static void move_unref(struct sim_move *move)
{
    if (!--move->events && move->is_over) {
        list_remove(&move->all);
        mem_free(move->chunks);
        mem_free(move);
    }
}

static void move_report(struct fabric_sim *sim, struct sim_event *event)
{
    struct sim_move *move = event->what;
    struct sim_side *side = move->side;
    (void)sim;
    list_remove(&move->node);
    move->is_over = true;
    move->done(move->context, move->status);
    if (move->is_pull) {
        sim_side_pull_ended(side);
    }
    move_unref(move);
}

static void move_push(struct sim_move *move, void (*run)(struct fabric_sim *, struct sim_event *),
                      struct sim_endpoint *owner, struct sim_side *across, uint64_t number,
                      uint64_t delay_ns)
{
    struct fabric_sim *sim = owner->sim;
    struct sim_event *event = sim_event_new(sim, owner, run, move);
    event->number = number;
    move->events++;
    if (across) {
        sim_event_cross(sim, event, across, true);
    } else {
        sim_event_push(sim, event, delay_ns);
    }
}

/* Its callback is due. Once. */
static void move_end(struct sim_move *move, enum umbp_status status)
{
    if (move->status != UMBP_BUSY) {
        return;
    }
    move->left = 0;
    move->status = status;
    move_push(move, move_report, move->side->owner, NULL, 0, 0);
}

/* Cut the list into chunks of drawn sizes. */
static struct sim_move *move_new(struct sim_side *side, const struct fabric_piece *pieces,
                                 size_t count, fabric_done *done, void *context)
{
    struct fabric_sim *sim = side->owner->sim;
    size_t capacity = 16;
    struct sim_move *move = sim_alloc(sizeof(*move));
    move->chunks = sim_alloc(capacity * sizeof(*move->chunks));
    for (size_t i = 0; i < count; i++) {
        for (size_t at = 0; at < pieces[i].bytes;) {
            size_t bytes = size_min(
                pieces[i].bytes - at,
                (size_t)sim_draw(sim, 1 + sim->options.chunk_bytes / 4, sim->options.chunk_bytes));
            if (move->count == capacity) {
                capacity *= 2;
                void *chunks = mem_realloc(move->chunks, capacity * sizeof(*move->chunks));
                ASSERT(chunks);
                move->chunks = chunks;
            }
            move->chunks[move->count++] = (struct sim_chunk){
                (char *)pieces[i].local + at, pieces[i].remote + at, pieces[i].key, bytes};
            at += bytes;
        }
    }
    list_push_back(&sim->moves, &move->all);
    move->side = side;
    move->done = done;
    move->context = context;
    move->left = move->count;
    move->status = UMBP_BUSY; /* not over */
    return move;
}

static bool pieces_are_local(const struct sim_endpoint *endpoint, const struct fabric_piece *pieces,
                             size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct fabric_region *region = pieces[i].region;
        const char *local = pieces[i].local;
        if (pieces[i].bytes && (!region || region->is_gone || local < region->memory ||
                                pieces[i].bytes > region->bytes ||
                                local + pieces[i].bytes > region->memory + region->bytes)) {
            return false;
        }
    }
    return endpoint != NULL;
}

/*
 * The bytes at a peer's address: within a region with that key and that access; for pulls (access
 * 0) within any that it ever had. As with real providers the key is looked at when a transfer
 * begins: a region that goes meanwhile does not stop it, only the connection's end does.
 */
static char *memory_of(struct sim_endpoint *endpoint, struct sim_move *move,
                       const struct sim_chunk *chunk, unsigned access)
{
    for (struct list_node *at = endpoint->regions.next; at != &endpoint->regions; at = at->next) {
        const struct fabric_region *region = CONTAINER_OF(at, struct fabric_region, node);
        uint64_t base = (uint64_t)(uintptr_t)region->memory;
        if (chunk->remote < base || chunk->remote - base > region->bytes ||
            chunk->bytes > region->bytes - (chunk->remote - base)) {
            continue;
        }
        if (!access || ((!region->is_gone || move->is_admitted) && (region->access & access) &&
                        region->key.key == chunk->key.key && region->key.base == chunk->key.base)) {
            move->is_admitted = true;
            return region->memory + (chunk->remote - base);
        }
    }
    return NULL;
}

/* ---------------------------------------------------------------------------- transfers -- */

static void chunk_counted(struct fabric_sim *sim, struct sim_event *event)
{
    struct sim_move *move = event->what;
    (void)sim;
    if (move->left && !--move->left) {
        move_end(move, UMBP_OK);
    }
    move_unref(move);
}

static void chunk_lands(struct fabric_sim *sim, struct sim_event *event)
{
    struct sim_move *move = event->what;
    const struct sim_chunk *chunk = &move->chunks[event->number];
    struct sim_side *here = move->is_write ? move->side->other : move->side;

    (void)sim;
    if (!here->is_closed && (move->is_write || !move->is_over)) {
        char *to = move->is_write ? memory_of(here->owner, move, chunk, FABRIC_REMOTE_WRITE)
                                  : chunk->local;
        if (!to) {
            sim_side_close(here, UMBP_CORRUPT, UMBP_CLOSED, true);
        } else {
            memcpy(to, event->data, chunk->bytes);
            if (move->is_write) {
                move_push(move, chunk_counted, move->side->owner, move->side, 0, 0);
            } else if (move->left && !--move->left) {
                move_end(move, UMBP_OK);
            }
        }
    }
    move_unref(move);
}

static void chunk_is_sent(struct fabric_sim *sim, struct sim_event *event)
{
    struct sim_move *move = event->what;
    const struct sim_chunk *chunk = &move->chunks[event->number];
    struct sim_side *here = move->is_write ? move->side : move->side->other;
    struct sim_side *there = here->other;

    if (!here->is_closed && !(move->is_write && move->is_over)) {
        char *from =
            move->is_write ? chunk->local : memory_of(here->owner, move, chunk, FABRIC_REMOTE_READ);
        if (!from) {
            sim_side_close(here, UMBP_CORRUPT, UMBP_CLOSED, true);
        } else {
            struct sim_event *landing = sim_event_new(sim, there->owner, chunk_lands, move);
            landing->number = event->number;
            landing->data = sim_alloc(chunk->bytes);
            memcpy(landing->data, from, chunk->bytes);
            move->events++;
            sim_event_cross(sim, landing, there, true);
        }
    }
    move_unref(move);
}

enum umbp_status sim_transfer(struct fabric *fabric, fabric_peer peer, bool write,
                              const struct fabric_piece *pieces, size_t count, fabric_done *done,
                              void *context)
{
    struct sim_endpoint *endpoint = sim_endpoint_of(fabric);
    struct fabric_sim *sim = endpoint->sim;
    struct sim_side *side = sim_side_find(endpoint, peer);

    if (!side || sim_is_gone(endpoint)) {
        return UMBP_CLOSED;
    }
    if (!pieces_are_local(endpoint, pieces, count)) {
        return UMBP_INVALID_VALUE;
    }
    struct sim_move *move = move_new(side, pieces, count, done, context);
    move->is_write = write;
    list_push_back(&side->transfers, &move->node);
    uint64_t delay_ns = 0;
    for (size_t i = 0; i < move->count; i++) {
        delay_ns += sim_draw(sim, 0, sim->options.delay_max_ns);
        /* A read is asked for first: the asking crosses with the first chunk's delay. */
        move_push(move, chunk_is_sent, write ? endpoint : side->other->owner, NULL, i,
                  delay_ns + (write ? 0 : sim->options.delay_min_ns));
    }
    if (!move->count) {
        move_end(move, UMBP_OK);
    }
    return UMBP_OK;
}

/* -------------------------------------------------------------------------------- pulls -- */

static void pull_goes_on(struct fabric_sim *sim, struct sim_event *event)
{
    struct sim_move *move = event->what;
    struct sim_side *side = move->side;
    struct sim_endpoint *of = side->other->owner;

    if (!move->is_over && move->status == UMBP_BUSY) {
        if (move->copied < move->count) {
            const struct sim_chunk *chunk = &move->chunks[move->copied++];
            char *from = sim_is_gone(of) ? NULL : memory_of(of, move, chunk, 0);
            if (from) {
                memcpy(chunk->local, from, chunk->bytes);
                move_push(move, pull_goes_on, side->owner, NULL, 0,
                          sim_draw(sim, 0, sim->options.pull_max_ns));
            } else {
                move_end(move, sim_is_gone(of) ? UMBP_CLOSED : UMBP_IO);
            }
        } else {
            move_end(move, sim_is_gone(of)                     ? UMBP_CLOSED
                           : side->other->epoch != move->epoch ? UMBP_STALE
                                                               : UMBP_OK);
        }
    }
    move_unref(move);
}

enum umbp_status sim_pull(struct fabric *fabric, fabric_peer peer, uint64_t epoch,
                          const struct fabric_piece *pieces, size_t count, fabric_done *done,
                          void *context)
{
    struct sim_endpoint *endpoint = sim_endpoint_of(fabric);
    struct fabric_sim *sim = endpoint->sim;
    struct sim_side *side = sim_side_find(endpoint, peer);

    if (!side || sim_is_gone(endpoint)) {
        return UMBP_CLOSED;
    }
    if (side->other->owner->host != endpoint->host || endpoint->options.same_host_off ||
        side->other->owner->options.same_host_off) {
        return UMBP_UNSUPPORTED;
    }
    struct sim_move *move = move_new(side, pieces, count, done, context);
    move->is_pull = true;
    move->epoch = epoch;
    move->left = 1;
    list_push_back(&side->pulls, &move->node);
    side->pulls_now++;
    move_push(move, pull_goes_on, endpoint, NULL, 0, sim_draw(sim, 0, sim->options.pull_max_ns));
    return UMBP_OK;
}

/* ---------------------------------------------------------------------------------- end -- */

void sim_moves_close(struct sim_side *side, enum umbp_status mine)
{
    for (struct list_node *at = side->transfers.next; at != &side->transfers; at = at->next) {
        struct sim_move *move = CONTAINER_OF(at, struct sim_move, node);
        if (move->status == UMBP_BUSY) {
            move_end(move, mine);
        }
    }
}

static void finish(struct list_node *list)
{
    while (!list_is_empty(list)) {
        struct sim_move *move = CONTAINER_OF(list->next, struct sim_move, node);
        struct sim_event event = {.what = move};
        if (move->status == UMBP_BUSY) {
            move->status = UMBP_CANCELLED;
        }
        move->left = 0;
        move->events++;
        move_report(move->side->owner->sim, &event);
    }
}

void sim_moves_finish(struct sim_side *side)
{
    finish(&side->transfers);
    finish(&side->pulls);
}

void sim_moves_free(struct fabric_sim *sim)
{
    while (!list_is_empty(&sim->moves)) {
        struct sim_move *move = CONTAINER_OF(sim->moves.next, struct sim_move, all);
        list_remove(&move->all);
        mem_free(move->chunks);
        mem_free(move);
    }
}
