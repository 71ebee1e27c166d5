/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Masters that rest. One that kept a call waiting for nothing (stopped, cut off, overloaded) costs
 * that call up to POOL_MASTER_MS, and must not cost the next one the same. So it is not asked any
 * more; others are, or hints and the own store serve. A probe in the background, a question without
 * a caller, finds out when it is back: one at once, then when a caller would have asked, with
 * pauses that grow to PAUSE_MAX_MS, and whenever its signpost has answered.
 *
 *     awake ── a call ends in silence, late ──► rests ── a probe is answered ──► awake
 */
#include "pool/pool_priv.h"

#define PAUSE_MIN_MS 100u
#define PAUSE_MAX_MS 5000u
#define PROBE_BYTES (PROTO_HEADER_BYTES + 64u)

static void probe_end(struct pool_probe *probe, enum umbp_status status)
{
    struct pool *pool = probe->pool;
    struct pool_master *master = &pool->masters[probe->master];
    struct pool_link *link = probe->link;
    uint32_t index = probe->master;

    mutex_lock(&pool->lock);
    if (status == UMBP_OK) {
        master->rests = false;
        probe->pause_ms = PAUSE_MIN_MS;
    } else {
        probe->next_ns = clock_now_ns(pool->clock) + probe->pause_ms * NS_PER_MS;
        probe->pause_ms = (uint32_t)u64_min(probe->pause_ms * UINT64_C(2), PAUSE_MAX_MS);
    }
    probe->link = NULL;
    probe->is_running = false; /* from here on another may begin */
    mutex_unlock(&pool->lock);
    link_release(link);
    if (status != UMBP_OK && status != UMBP_CANCELLED && pool->options.master_wanted) {
        pool->options.master_wanted(pool->options.context, index);
    }
}

/* On the loop. */
static void probe_answered(void *context, const struct fabric_reply *reply)
{
    struct pool_probe *probe = context;
    struct proto_frame frame;
    probe_end(probe, master_open_answer(reply, PROTO_NODES, probe->id, &frame));
}

static void probe_ask(struct pool_probe *probe)
{
    struct pool *pool = probe->pool;
    uint8_t frame[PROBE_BYTES];
    size_t bytes;
    fabric_peer peer = link_peer(probe->link);
    const struct proto_call header = {.request_id = probe->id, .time_left_ms = POOL_MASTER_MS};

    enum umbp_status status =
        peer ? proto_numbers_encode((struct proto_buffer){frame, sizeof(frame)}, header,
                                    PROTO_NODES, 0, NULL, 0, &bytes)
             : UMBP_CLOSED;
    if (status == UMBP_OK) {
        const struct iovec part = {frame, bytes};
        const struct fabric_call call = {
            .peer = peer,
            .parts = &part,
            .part_count = 1,
            .deadline_ns = clock_now_ns(pool->clock) + POOL_MASTER_MS * NS_PER_MS,
            .done = probe_answered,
            .context = probe,
        };
        status = fabric_call(pool->options.fabric, &call);
    }
    if (status != UMBP_OK) {
        probe_end(probe, status);
    }
}

static void probe_connected(struct link_waiter *waiter)
{
    probe_ask(CONTAINER_OF(waiter, struct pool_probe, waiter));
}

/* Unless one is running, or none is due. */
static void probe_begin(struct pool *pool, uint32_t index, bool at_once)
{
    struct pool_master *master = &pool->masters[index];
    struct pool_probe *probe = &master->probe;
    uint64_t now_ns = clock_now_ns(pool->clock);

    mutex_lock(&pool->lock);
    bool begin = master->rests && master->link && !probe->is_running &&
                 (at_once || now_ns >= probe->next_ns);
    if (begin) {
        probe->is_running = true;
        probe->pool = pool;
        probe->master = index;
        probe->link = master->link;
        probe->link->holders++;
        probe->waiter = (struct link_waiter){.ready = probe_connected};
        probe->id = atomic_fetch_add_explicit(&pool->next_id, 1, memory_order_relaxed);
    }
    mutex_unlock(&pool->lock);
    if (begin && link_want(probe->link, &probe->waiter, now_ns + POOL_CONNECT_MS * NS_PER_MS)) {
        probe_ask(probe);
    }
}

bool master_is_awake(struct pool *pool, uint32_t master)
{
    mutex_lock(&pool->lock);
    bool rests = pool->masters[master].rests;
    mutex_unlock(&pool->lock);
    if (rests) {
        probe_begin(pool, master, false);
    }
    return !rests;
}

void master_rest(struct pool *pool, uint32_t master)
{
    mutex_lock(&pool->lock);
    bool is_new = !pool->masters[master].rests;
    pool->masters[master].rests = true;
    if (is_new && !pool->masters[master].probe.is_running) {
        pool->masters[master].probe.pause_ms = PAUSE_MIN_MS;
        pool->masters[master].probe.next_ns = 0;
    }
    mutex_unlock(&pool->lock);
    if (is_new) {
        probe_begin(pool, master, true);
    }
}

void master_try(struct pool *pool, uint32_t master) { probe_begin(pool, master, true); }
