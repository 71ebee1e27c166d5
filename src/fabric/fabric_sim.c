/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated network: events, processes.
 *
 *     heap of events by (time, order) ──► pop ──┬─ its process is gone: dropped
 *                                               ├─ its process is stopped: kept until it goes on
 *                                               ├─ its hosts are cut apart: kept until healed
 *                                               └─ run
 *
 * Everything is an event of some process: a message that arrives, a chunk of a transfer that is
 * sent or lands, a timer, a callback that is due. So a stopped process is one whose events wait, in
 * their order, and time goes by only from one event to the next.
 *
 * fabric_sim_open.c has the endpoints and how connections are made, fabric_sim_link.c what goes
 * over a connection and how it ends, fabric_sim_move.c the bytes.
 */
#include "fabric/fabric_sim_priv.h"

#define SIM_CLOSE_NOTICE_NS (20 * NS_PER_MS) /* until a death is noticed, at most */
#define SIM_HEAL_NS (300 * NS_PER_MS)        /* until a connection goes on after a cut */
#define SIM_WAKE_NS NS_PER_MS                /* until a process has looked at all its sockets */

void *sim_alloc(size_t bytes)
{
    void *memory = mem_zalloc(bytes);
    ASSERT(memory);
    return memory;
}

uint64_t sim_draw(struct fabric_sim *sim, uint64_t low, uint64_t high)
{
    return low + (high > low ? rng_below(&sim->rng, high - low + 1) : 0);
}

/* ----------------------------------------------------------------------------- events ---- */

static bool comes_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void queue_add(struct sim_queue *queue, struct sim_event *event)
{
    if (queue->count == queue->capacity) {
        size_t capacity = queue->capacity ? queue->capacity * 2 : 64;
        void *items = mem_realloc(queue->items, capacity * sizeof(*queue->items));
        ASSERT(items);
        queue->items = items;
        queue->capacity = capacity;
    }
    queue->items[queue->count++] = event;
}

static void heap_push(struct sim_queue *heap, struct sim_event *event)
{
    queue_add(heap, event);
    size_t at = heap->count - 1;
    while (at > 0) {
        size_t above = (at - 1) / 2;
        if (!comes_before(event, heap->items[above])) {
            break;
        }
        heap->items[at] = heap->items[above];
        at = above;
    }
    heap->items[at] = event;
}

static struct sim_event *heap_pop(struct sim_queue *heap)
{
    struct sim_event *first = heap->items[0];
    struct sim_event *last = heap->items[--heap->count];
    size_t at = 0;
    for (;;) {
        size_t below = 2 * at + 1;
        if (below >= heap->count) {
            break;
        }
        if (below + 1 < heap->count && comes_before(heap->items[below + 1], heap->items[below])) {
            below++;
        }
        if (!comes_before(heap->items[below], last)) {
            break;
        }
        heap->items[at] = heap->items[below];
        at = below;
    }
    heap->items[at] = last;
    return first;
}

static void event_free(struct sim_event *event)
{
    mem_free(event->data);
    mem_free(event);
}

void sim_queue_free(struct sim_queue *queue)
{
    for (size_t i = 0; i < queue->count; i++) {
        event_free(queue->items[i]);
    }
    mem_free(queue->items);
    *queue = (struct sim_queue){0};
}

struct sim_event *sim_event_new(struct fabric_sim *sim, struct sim_endpoint *owner,
                                void (*run)(struct fabric_sim *, struct sim_event *), void *what)
{
    struct sim_event *event = sim_alloc(sizeof(*event));
    (void)sim;
    event->owner = owner;
    event->run = run;
    event->what = what;
    return event;
}

void sim_event_push(struct fabric_sim *sim, struct sim_event *event, uint64_t delay_ns)
{
    event->at_ns = sim->now_ns + delay_ns;
    event->order = ++sim->order;
    heap_push(&sim->heap, event);
}

void sim_event_cross(struct fabric_sim *sim, struct sim_event *event, struct sim_side *to,
                     bool in_order)
{
    uint64_t at_ns =
        sim->now_ns + sim_draw(sim, sim->options.delay_min_ns, sim->options.delay_max_ns);
    event->to = to;
    if (in_order || !to->is_up) { /* nothing overtakes the connection's beginning */
        at_ns = u64_max(at_ns, to->last_ns);
        to->last_ns = at_ns;
    }
    sim_event_push(sim, event, at_ns - sim->now_ns);
}

/*
 * Put what was held back into the queue: each connection's in its order, but the connections as
 * chance has it, up to `spread_ns` apart. (TCP sends again when its own timers say so; a process
 * that goes on looks at its sockets in any order.)
 */
static void release(struct fabric_sim *sim, struct sim_queue *held, uint64_t spread_ns)
{
    struct sim_queue queue = *held;
    uint64_t salt = rng_next(&sim->rng);
    *held = (struct sim_queue){0};
    for (size_t i = 0; i < queue.count; i++) {
        struct sim_side *to = queue.items[i]->to;
        uint64_t delay_ns =
            to ? hash_bytes(&to->peer, sizeof(to->peer), salt) % (spread_ns + 1) : 0;
        if (to) {
            to->last_ns = u64_max(to->last_ns, sim->now_ns + delay_ns);
        }
        sim_event_push(sim, queue.items[i], delay_ns);
    }
    mem_free(queue.items);
}

bool sim_are_cut(const struct fabric_sim *sim, uint32_t host_a, uint32_t host_b)
{
    return sim->cut[host_a] & (1u << host_b);
}

bool fabric_sim_step(struct fabric_sim *sim)
{
    if (!sim->heap.count) {
        return false;
    }
    ASSERT(!sim->inside);
    struct sim_event *event = heap_pop(&sim->heap);
    struct sim_endpoint *owner = event->owner;
    sim->now_ns = u64_max(sim->now_ns, event->at_ns);
    if (event->is_dead) {
        event_free(event);
    } else if (owner && sim_is_gone(owner)) {
        queue_add(&sim->dropped, event); /* a call or a timer may still name it */
    } else if (owner && owner->is_stopped) {
        queue_add(&owner->held, event);
    } else if (event->to &&
               sim_are_cut(sim, event->to->owner->host, event->to->other->owner->host)) {
        queue_add(&sim->held, event);
    } else {
        sim->inside = true;
        event->run(sim, event);
        sim->inside = false;
        event_free(event);
    }
    return true;
}

void fabric_sim_run(struct fabric_sim *sim, uint64_t until_ns)
{
    while (sim->heap.count && sim->heap.items[0]->at_ns <= until_ns) {
        (void)fabric_sim_step(sim);
    }
    sim->now_ns = u64_max(sim->now_ns, until_ns);
}

bool fabric_sim_run_until(struct fabric_sim *sim, bool (*condition)(void *), void *context,
                          uint64_t until_ns)
{
    while (!condition(context)) {
        if (!sim->heap.count || sim->heap.items[0]->at_ns > until_ns) {
            sim->now_ns = u64_max(sim->now_ns, until_ns);
            return condition(context);
        }
        (void)fabric_sim_step(sim);
    }
    return true;
}

/* ------------------------------------------------------------------------------ world ---- */

static uint64_t sim_now(void *context) { return ((struct fabric_sim *)context)->now_ns; }

enum umbp_status fabric_sim_create(const struct fabric_sim_options *options,
                                   struct fabric_sim **sim_out)
{
    struct fabric_sim *sim = mem_zalloc(sizeof(*sim));
    if (!sim) {
        return UMBP_NO_MEMORY;
    }
    sim->options = *options;
    sim->options.delay_min_ns = options->delay_min_ns ? options->delay_min_ns : 20 * NS_PER_US;
    sim->options.delay_max_ns = options->delay_max_ns ? options->delay_max_ns : 200 * NS_PER_US;
    sim->options.pull_max_ns = options->pull_max_ns ? options->pull_max_ns : 50 * NS_PER_US;
    sim->options.chunk_bytes = options->chunk_bytes ? options->chunk_bytes : 4096;
    sim->clock = (struct clock_source){sim_now, sim};
    sim->now_ns = NS_PER_S;
    rng_init(&sim->rng, options->seed);
    list_init(&sim->endpoints);
    list_init(&sim->retired);
    list_init(&sim->connects);
    list_init(&sim->moves);
    list_init(&sim->links);
    *sim_out = sim;
    return UMBP_OK;
}

void fabric_sim_destroy(struct fabric_sim *sim)
{
    if (!sim) {
        return;
    }
    ASSERT(list_is_empty(&sim->endpoints));
    sim_queue_free(&sim->heap);
    sim_queue_free(&sim->held);
    sim_queue_free(&sim->dropped);
    sim_moves_free(sim);
    while (!list_is_empty(&sim->links)) {
        struct sim_link *link = CONTAINER_OF(sim->links.next, struct sim_link, node);
        list_remove(&link->node);
        mem_free(link);
    }
    while (!list_is_empty(&sim->connects)) {
        struct sim_connect *connect = CONTAINER_OF(sim->connects.next, struct sim_connect, all);
        list_remove(&connect->all);
        mem_free(connect);
    }
    while (!list_is_empty(&sim->retired)) {
        struct sim_endpoint *endpoint = CONTAINER_OF(sim->retired.next, struct sim_endpoint, node);
        list_remove(&endpoint->node);
        mem_free(endpoint);
    }
    mem_free(sim);
}

const struct clock_source *fabric_sim_clock(struct fabric_sim *sim) { return &sim->clock; }

struct rng *fabric_sim_rng(struct fabric_sim *sim) { return &sim->rng; }

static void run_after(struct fabric_sim *sim, struct sim_event *event)
{
    (void)sim;
    event->call(event->what);
}

void fabric_sim_after(struct fabric_sim *sim, struct fabric *of, uint64_t delay_ns,
                      void (*run)(void *context), void *context)
{
    struct sim_event *event =
        sim_event_new(sim, of ? sim_endpoint_of(of) : NULL, run_after, context);
    event->call = run;
    sim_event_push(sim, event, delay_ns);
}

void fabric_sim_cut(struct fabric_sim *sim, uint32_t host_a, uint32_t host_b)
{
    sim->cut[host_a] |= 1u << host_b;
    sim->cut[host_b] |= 1u << host_a;
}

void fabric_sim_heal(struct fabric_sim *sim)
{
    memset(sim->cut, 0, sizeof(sim->cut));
    release(sim, &sim->held, SIM_HEAL_NS);
}

/* -------------------------------------------------------------------------- processes ---- */

void fabric_sim_stop(struct fabric *fabric) { sim_endpoint_of(fabric)->is_stopped = true; }

void fabric_sim_continue(struct fabric *fabric)
{
    struct sim_endpoint *endpoint = sim_endpoint_of(fabric);
    endpoint->is_stopped = false;
    release(endpoint->sim, &endpoint->held, SIM_WAKE_NS);
}

bool fabric_sim_is_killed(const struct fabric *fabric)
{
    return CONTAINER_OF(fabric, struct sim_endpoint, base)->is_killed;
}

static void notice_close(struct fabric_sim *sim, struct sim_event *event)
{
    (void)sim;
    sim_side_close(event->what, UMBP_CLOSED, UMBP_CLOSED, false);
}

void fabric_sim_kill(struct fabric *fabric)
{
    struct sim_endpoint *endpoint = sim_endpoint_of(fabric);
    struct fabric_sim *sim = endpoint->sim;
    struct sim_side *side;

    endpoint->is_killed = true;
    SIM_FOR_EACH_SIDE(sim, endpoint, side)
    {
        if (!side->is_closed && !side->other->is_closed) {
            struct sim_event *event =
                sim_event_new(sim, side->other->owner, notice_close, side->other);
            event->to = side->other;
            sim_event_push(sim, event, sim_draw(sim, NS_PER_MS, SIM_CLOSE_NOTICE_NS));
        }
    }
}

void fabric_sim_break(struct fabric *a, struct fabric *b)
{
    struct sim_endpoint *of = sim_endpoint_of(a);
    struct fabric_sim *sim = of->sim;
    struct sim_side *side;
    SIM_FOR_EACH_SIDE(sim, of, side)
    {
        if (side->other->owner == sim_endpoint_of(b) && !side->is_closed) {
            for (int i = 0; i < 2; i++) {
                struct sim_side *one = i ? side->other : side;
                struct sim_event *event = sim_event_new(sim, one->owner, notice_close, one);
                sim_event_push(sim, event, sim_draw(sim, 0, sim->options.delay_max_ns));
            }
        }
    }
}

struct sim_side *sim_side_find(struct sim_endpoint *endpoint, fabric_peer peer)
{
    struct sim_side *side;
    SIM_FOR_EACH_SIDE(endpoint->sim, endpoint, side)
    {
        if (side->peer == peer && side->is_up && !side->is_closed) {
            return side;
        }
    }
    return NULL;
}
