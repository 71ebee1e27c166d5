/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Endpoints of the simulated network, and how they connect:
 *
 *     connect ──► travels ──► arrived ──► answered ──► confirmed
 *                 (again,     (is it      (this side   (the other
 *                 while cut)  welcome?)   is up)       is up)
 *
 * Each step is an event of the process that it happens in, so either can stop or die in between.
 */
#include "fabric/fabric_sim_priv.h"

/* ------------------------------------------------------------------------ connecting ----- */

static void connect_end(struct sim_connect *connect, enum umbp_status status, fabric_peer peer)
{
    if (!connect->is_ended) {
        connect->is_ended = true;
        list_remove(&connect->node);
        connect->done(connect->context, status, peer);
    }
}

static void hello_of(const struct sim_endpoint *endpoint, bool incoming,
                     struct fabric_hello *hello_out)
{
    *hello_out = (struct fabric_hello){
        .identity = endpoint->identity,
        .identity_bytes = endpoint->options.identity_bytes,
        .address = endpoint->address,
        .from = "sim",
        .incoming = incoming,
        .version = 1,
    };
}

static enum umbp_status ask_accept(struct sim_endpoint *endpoint, struct sim_endpoint *about,
                                   bool incoming)
{
    struct fabric_hello hello;
    hello_of(about, incoming, &hello);
    return endpoint->handlers.accept ? endpoint->handlers.accept(endpoint->handlers.context, &hello)
                                     : UMBP_OK;
}

static void connect_confirmed(struct fabric_sim *sim, struct sim_event *event)
{
    struct sim_side *side = event->what;
    (void)sim;
    if (!side->is_closed) {
        sim_side_up(side);
    }
}

/* Back at the connecting side, with the other's word. */
static void connect_answered(struct fabric_sim *sim, struct sim_event *event)
{
    struct sim_connect *connect = event->what;
    struct sim_link *link = connect->link;
    enum umbp_status status = connect->status;

    if (!connect->is_ended && status == UMBP_OK) {
        status = ask_accept(connect->from, link->sides[1].owner, false);
    }
    if (status == UMBP_OK && sim_is_gone(link->sides[1].owner)) {
        status = UMBP_CLOSED;
    }
    if (link && (connect->is_ended || status != UMBP_OK)) {
        sim_side_close(&link->sides[0], UMBP_CLOSED, UMBP_CLOSED, true);
    } else if (link) {
        sim_side_up(&link->sides[0]);
        sim_event_cross(
            sim, sim_event_new(sim, link->sides[1].owner, connect_confirmed, &link->sides[1]),
            &link->sides[1], true);
    }
    connect_end(connect, status, status == UMBP_OK ? link->sides[0].peer : 0);
}

static struct sim_endpoint *endpoint_at(struct fabric_sim *sim, const char *address)
{
    for (struct list_node *at = sim->endpoints.next; at != &sim->endpoints; at = at->next) {
        struct sim_endpoint *endpoint = CONTAINER_OF(at, struct sim_endpoint, node);
        if (!sim_is_gone(endpoint) && endpoint->address[0] &&
            strcmp(endpoint->address, address) == 0) {
            return endpoint;
        }
    }
    return NULL;
}

/* At the other side: is it welcome? */
static void connect_arrived(struct fabric_sim *sim, struct sim_event *event)
{
    struct sim_connect *connect = event->what;
    struct sim_endpoint *from = connect->from;
    struct sim_endpoint *target = event->owner;

    connect->status = UMBP_OK;
    if (strcmp(from->cluster, target->cluster) != 0 ||
        from->options.hash_seed != target->options.hash_seed) {
        connect->status = UMBP_STALE;
    } else if (target->peers_now >= target->options.peers_max) {
        connect->status = UMBP_LIMIT;
    } else {
        connect->status = ask_accept(target, from, true);
    }
    struct sim_event *back = sim_event_new(sim, from, connect_answered, connect);
    if (connect->status == UMBP_OK && !sim_is_gone(from)) {
        struct sim_link *link = sim_alloc(sizeof(*link));
        sim_side_init(&link->sides[0], link, &link->sides[1], from);
        sim_side_init(&link->sides[1], link, &link->sides[0], target);
        link->sides[1].is_incoming = true;
        list_push_back(&sim->links, &link->node);
        connect->link = link;
        sim_event_cross(sim, back, &link->sides[0], true);
    } else {
        sim_event_push(sim, back, sim->options.delay_max_ns);
    }
}

static void connect_refused(struct fabric_sim *sim, struct sim_event *event)
{
    struct sim_connect *connect = event->what;
    (void)sim;
    connect_end(connect, connect->status, 0);
}

/* Over the wire: to whoever listens there when it arrives. */
static void connect_travels(struct fabric_sim *sim, struct sim_event *event)
{
    struct sim_connect *connect = event->what;
    struct sim_endpoint *target = endpoint_at(sim, connect->address);

    if (target && sim_are_cut(sim, target->host, connect->from->host)) {
        /* Lost; the connecting side tries again until its time is up. */
        struct sim_event *again = sim_event_new(sim, connect->from, connect_travels, connect);
        sim_event_push(sim, again, 50 * NS_PER_MS);
        return;
    }
    connect->status = UMBP_CLOSED;
    struct sim_event *next = sim_event_new(sim, target ? target : connect->from,
                                           target ? connect_arrived : connect_refused, connect);
    sim_event_push(sim, next, sim_draw(sim, sim->options.delay_min_ns, sim->options.delay_max_ns));
}

static void connect_late(struct fabric_sim *sim, struct sim_event *event)
{
    struct sim_connect *connect = event->what;
    (void)sim;
    connect_end(connect, UMBP_TIMEOUT, 0);
}

static enum umbp_status sim_connect(struct fabric *fabric, const char *address,
                                    uint64_t deadline_ns,
                                    void (*done)(void *, enum umbp_status, fabric_peer),
                                    void *context)
{
    struct sim_endpoint *endpoint = sim_endpoint_of(fabric);
    struct fabric_sim *sim = endpoint->sim;

    if (sim_is_gone(endpoint)) {
        return UMBP_CLOSED;
    }
    if (strlen(address) >= FABRIC_ADDRESS_MAX) {
        return UMBP_INVALID_VALUE;
    }
    struct sim_connect *connect = sim_alloc(sizeof(*connect));
    memcpy(connect->address, address, strlen(address) + 1);
    connect->from = endpoint;
    connect->done = done;
    connect->context = context;
    list_push_back(&sim->connects, &connect->all);
    list_push_back(&endpoint->connects, &connect->node);
    sim_event_push(sim, sim_event_new(sim, endpoint, connect_travels, connect), 0);
    uint64_t left_ns = deadline_ns > sim->now_ns ? deadline_ns - sim->now_ns : 0;
    sim_event_push(sim, sim_event_new(sim, endpoint, connect_late, connect), left_ns);
    return UMBP_OK;
}

/* ---------------------------------------------------------------- endpoints, the table --- */

static void disconnect_now(struct fabric_sim *sim, struct sim_event *event)
{
    (void)sim;
    sim_side_close(event->what, UMBP_CLOSED, UMBP_CLOSED, true);
}

static void sim_disconnect(struct fabric *fabric, fabric_peer peer)
{
    struct sim_endpoint *endpoint = sim_endpoint_of(fabric);
    struct sim_side *side = sim_side_find(endpoint, peer);
    if (side) {
        sim_event_push(endpoint->sim, sim_event_new(endpoint->sim, endpoint, disconnect_now, side),
                       0);
    }
}

static unsigned sim_peer_flags(struct fabric *fabric, fabric_peer peer)
{
    struct sim_side *side = sim_side_find(sim_endpoint_of(fabric), peer);
    if (!side) {
        return 0;
    }
    bool same_host = side->owner->host == side->other->owner->host &&
                     !side->owner->options.same_host_off &&
                     !side->other->owner->options.same_host_off;
    return FABRIC_PEER_UP | (same_host ? FABRIC_PEER_READABLE | FABRIC_PEER_READS_US : 0u) |
           (side->is_incoming ? FABRIC_PEER_INCOMING : 0u);
}

static enum umbp_status sim_region_create(struct fabric *fabric, void *memory, size_t bytes,
                                          unsigned access, int shared_fd, uint64_t fd_offset,
                                          struct fabric_region **region_out)
{
    struct sim_endpoint *endpoint = sim_endpoint_of(fabric);
    struct fabric_region *region = sim_alloc(sizeof(*region));
    (void)shared_fd;
    (void)fd_offset;
    region->memory = memory;
    region->bytes = bytes;
    region->access = access;
    region->key.key = rng_next(&endpoint->sim->rng);
    region->key.base = (uint64_t)(uintptr_t)memory;
    list_push_back(&endpoint->regions, &region->node);
    *region_out = region;
    return UMBP_OK;
}

static void sim_region_destroy(struct fabric *fabric, struct fabric_region *region)
{
    (void)fabric;
    region->is_gone = true; /* late pulls may still read it */
}

static struct fabric_key sim_region_key(const struct fabric_region *region) { return region->key; }

static void sim_raise_epoch(struct fabric *fabric, fabric_peer peer)
{
    struct sim_side *side = sim_side_find(sim_endpoint_of(fabric), peer);
    if (side) {
        side->epoch++;
    }
}

static void run_task(struct fabric_sim *sim, struct sim_event *event)
{
    struct fabric_task *task = event->what;
    (void)sim;
    task->run(task);
}

static void sim_post(struct fabric *fabric, struct fabric_task *task)
{
    struct sim_endpoint *endpoint = sim_endpoint_of(fabric);
    sim_event_push(endpoint->sim, sim_event_new(endpoint->sim, endpoint, run_task, task), 0);
}

static void run_timer(struct fabric_sim *sim, struct sim_event *event)
{
    struct fabric_timer *timer = event->what;
    (void)sim;
    timer->is_set = false;
    timer->child = NULL;
    timer->run(timer);
}

/* A timer that is set keeps its event in `child`. */
static void sim_timer_cancel(struct fabric *fabric, struct fabric_timer *timer)
{
    (void)fabric;
    if (timer->is_set) {
        ((struct sim_event *)(void *)timer->child)->is_dead = true;
        timer->is_set = false;
        timer->child = NULL;
    }
}

static void sim_timer_set(struct fabric *fabric, struct fabric_timer *timer, uint64_t deadline_ns)
{
    struct sim_endpoint *endpoint = sim_endpoint_of(fabric);
    struct fabric_sim *sim = endpoint->sim;
    sim_timer_cancel(fabric, timer);
    if (sim_is_gone(endpoint)) {
        return;
    }
    struct sim_event *event = sim_event_new(sim, endpoint, run_timer, timer);
    timer->child = (struct fabric_timer *)(void *)event;
    timer->is_set = true;
    sim_event_push(sim, event, deadline_ns > sim->now_ns ? deadline_ns - sim->now_ns : 0);
}

static bool latch_is_down(void *context)
{
    struct fabric_latch *latch = context;
    return atomic_load_explicit(&latch->pending, memory_order_relaxed) == 0;
}

static enum umbp_status sim_wait(struct fabric *fabric, struct fabric_latch *latch,
                                 uint64_t deadline_ns)
{
    struct fabric_sim *sim = sim_endpoint_of(fabric)->sim;
    return fabric_sim_run_until(sim, latch_is_down, latch, deadline_ns) ? UMBP_OK : UMBP_TIMEOUT;
}

static void sim_latch_down(struct fabric *fabric, struct fabric_latch *latch)
{
    (void)fabric;
    atomic_fetch_sub_explicit(&latch->pending, 1, memory_order_relaxed);
}

struct pull_wait {
    struct fabric_latch latch;
    enum umbp_status status;
};

static void pull_waited(void *context, enum umbp_status status)
{
    struct pull_wait *wait = context;
    wait->status = status;
    atomic_store_explicit(&wait->latch.pending, 0, memory_order_relaxed);
}

static enum umbp_status sim_pull_wait(struct fabric *fabric, fabric_peer peer, uint64_t epoch,
                                      const struct fabric_piece *pieces, size_t count)
{
    struct pull_wait wait;
    fabric_latch_init(&wait.latch, 1);
    enum umbp_status status = sim_pull(fabric, peer, epoch, pieces, count, pull_waited, &wait);
    if (status != UMBP_OK) {
        return status;
    }
    (void)!fabric_sim_run_until(sim_endpoint_of(fabric)->sim, latch_is_down, &wait.latch,
                                UINT64_MAX - 1);
    return wait.status;
}

static const char *sim_address(struct fabric *fabric) { return sim_endpoint_of(fabric)->address; }

static uint64_t sim_now_ns(struct fabric *fabric) { return sim_endpoint_of(fabric)->sim->now_ns; }

static void sim_stats(struct fabric *fabric, struct fabric_stats *stats_out)
{
    struct sim_endpoint *endpoint = sim_endpoint_of(fabric);
    *stats_out = endpoint->stats;
    stats_out->peers_now = endpoint->peers_now;
    stats_out->calls_now = endpoint->calls_now;
    stats_out->requests_now = endpoint->requests_now;
}

static enum umbp_status sim_close(struct fabric *fabric, uint64_t deadline_ns)
{
    struct sim_endpoint *endpoint = sim_endpoint_of(fabric);
    struct sim_side *side;

    (void)deadline_ns;
    if (endpoint->is_closed) {
        return UMBP_OK;
    }
    while (!list_is_empty(&endpoint->connects)) {
        struct sim_connect *connect =
            CONTAINER_OF(endpoint->connects.next, struct sim_connect, node);
        connect_end(connect, UMBP_CANCELLED, 0);
    }
    SIM_FOR_EACH_SIDE(endpoint->sim, endpoint, side)
    {
        sim_side_close(side, UMBP_CLOSED, UMBP_CANCELLED, !endpoint->is_killed);
        sim_side_finish(side);
    }
    endpoint->is_closed = true;
    return UMBP_OK;
}

static void sim_destroy(struct fabric *fabric)
{
    struct sim_endpoint *endpoint = sim_endpoint_of(fabric);
    struct fabric_sim *sim = endpoint->sim;

    (void)sim_close(fabric, 0);
    sim_requests_free(endpoint);
    while (!list_is_empty(&endpoint->regions)) {
        struct fabric_region *region =
            CONTAINER_OF(endpoint->regions.next, struct fabric_region, node);
        list_remove(&region->node);
        mem_free(region);
    }
    sim_queue_free(&endpoint->held);
    /* Events and the other sides of connections still name it: it goes with the simulation. */
    list_remove(&endpoint->node);
    list_push_back(&sim->retired, &endpoint->node);
}

static const struct fabric_ops sim_ops = {
    .name = "sim",
    .registering_is_cheap = true,
    .close = sim_close,
    .destroy = sim_destroy,
    .address = sim_address,
    .now_ns = sim_now_ns,
    .connect = sim_connect,
    .disconnect = sim_disconnect,
    .peer_flags = sim_peer_flags,
    .call = sim_call,
    .answer = sim_answer,
    .send = sim_send,
    .region_create = sim_region_create,
    .region_destroy = sim_region_destroy,
    .region_key = sim_region_key,
    .transfer = sim_transfer,
    .pull = sim_pull,
    .pull_wait = sim_pull_wait,
    .raise_epoch = sim_raise_epoch,
    .post = sim_post,
    .timer_set = sim_timer_set,
    .timer_cancel = sim_timer_cancel,
    .wait = sim_wait,
    .latch_down = sim_latch_down,
    .stats = sim_stats,
};

static uint32_t or_default(uint32_t value, uint32_t fallback) { return value ? value : fallback; }

enum umbp_status fabric_sim_open(struct fabric_sim *sim, uint32_t host,
                                 const struct fabric_options *options,
                                 const struct fabric_handlers *handlers, struct fabric **fabric_out)
{
    const char *listen = options->listen ? options->listen : "";
    const char *cluster = options->cluster ? options->cluster : "";

    if (host >= FABRIC_SIM_HOSTS || strlen(listen) >= FABRIC_ADDRESS_MAX ||
        strlen(cluster) > FABRIC_CLUSTER_MAX || options->identity_bytes > FABRIC_IDENTITY_MAX) {
        return UMBP_INVALID_VALUE;
    }
    if (listen[0] && endpoint_at(sim, listen)) {
        return UMBP_IO;
    }
    struct sim_endpoint *endpoint = sim_alloc(sizeof(*endpoint));
    endpoint->base.ops = &sim_ops;
    endpoint->sim = sim;
    endpoint->host = host;
    endpoint->options = *options;
    endpoint->options.beat_ms = or_default(options->beat_ms, 500);
    endpoint->options.peer_timeout_ms = or_default(options->peer_timeout_ms, 3000);
    endpoint->options.peers_max = or_default(options->peers_max, 1024);
    endpoint->options.calls_max = or_default(options->calls_max, 1024);
    endpoint->options.calls_per_peer = or_default(options->calls_per_peer, 256);
    endpoint->options.requests_max = or_default(options->requests_max, 256);
    endpoint->handlers = *handlers;
    memcpy(endpoint->address, listen, strlen(listen) + 1);
    memcpy(endpoint->cluster, cluster, strlen(cluster) + 1);
    if (options->identity_bytes) {
        memcpy(endpoint->identity, options->identity, options->identity_bytes);
    }
    list_init(&endpoint->regions);
    list_init(&endpoint->connects);
    list_init(&endpoint->requests);
    list_push_back(&sim->endpoints, &endpoint->node);
    *fabric_out = &endpoint->base;
    return UMBP_OK;
}
