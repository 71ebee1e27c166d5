/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Letting go of what a node on this host has pinned for us. A message for each get would cost it 5
 * us of 40, and the node as much; so the ids of small ones are kept, and go together: behind a
 * request, whose answer has to be waited for anyway, when they are half of what may be kept; at
 * once when there are POOL_RELEASED_MAX or KEPT_BYTES are pinned for them; or KEPT_MS after the
 * answer that named the first of them. That timer is set by the answer, on the loop; a request that
 * ends after it ran is told of at once. The end of a connection lets everything go.
 */
#include "pool/pool_priv.h"

#define KEPT_BYTES (UINT64_C(1) << 20)
#define KEPT_MS 1u

static void released_send(struct pool *pool, const struct released *released)
{
    uint8_t bytes[PROTO_HEADER_BYTES + POOL_RELEASED_MAX * sizeof(uint64_t) + 64];
    size_t used;

    if (proto_numbers_encode(
            (struct proto_buffer){bytes, sizeof(bytes)}, (struct proto_call){.request_id = 0},
            PROTO_RELEASE, PROTO_FLAG_ONE_WAY, released->ids, released->count, &used) != UMBP_OK) {
        return;
    }
    const struct iovec part = {bytes, used};
    /* What can't be sent now would leave pages pinned: the connection's end lets them go. */
    enum umbp_status status = fabric_send(pool->options.fabric, released->peer, &part, 1);
    if (status != UMBP_OK && status != UMBP_CLOSED) {
        fabric_disconnect(pool->options.fabric, released->peer);
    }
}

/* Under the lock: what is kept for the link, which then keeps nothing. */
static struct released released_take(struct pool_link *link)
{
    struct released released = link->released;
    link->released.count = 0;
    link->released.bytes = 0;
    return released;
}

void request_release(struct pool_request *request)
{
    struct pool_link *link = request->link;
    struct pool *pool = link->pool;
    struct released released = {0};

    mutex_lock(&pool->lock);
    if (request->peer == link->peer) { /* else its connection has ended, and its pins */
        struct released *kept = &link->released;
        kept->peer = request->peer;
        kept->ids[kept->count++] = request->id;
        kept->bytes += request->pinned_bytes;
        if (kept->count == POOL_RELEASED_MAX || kept->bytes > KEPT_BYTES ||
            !pool->is_release_timed) {
            released = released_take(link);
        }
    }
    mutex_unlock(&pool->lock);
    if (released.count) {
        released_send(pool, &released);
    }
}

void release_behind(struct pool_link *link)
{
    struct pool *pool = link->pool;
    struct released released = {0};

    mutex_lock(&pool->lock);
    if (link->released.count >= POOL_RELEASED_MAX / 2 || link->released.bytes >= KEPT_BYTES / 2) {
        released = released_take(link);
    }
    mutex_unlock(&pool->lock);
    if (released.count) {
        released_send(pool, &released);
    }
}

void release_expect(struct pool *pool)
{
    mutex_lock(&pool->lock);
    bool must_set = !pool->is_release_timed;
    pool->is_release_timed = true;
    mutex_unlock(&pool->lock);
    if (must_set) {
        fabric_timer_set(pool->options.fabric, &pool->release_timer,
                         clock_now_ns(pool->clock) + KEPT_MS * NS_PER_MS);
    }
}

void release_due(struct fabric_timer *timer)
{
    struct pool *pool = CONTAINER_OF(timer, struct pool, release_timer);
    uint32_t count = UINT32_MAX;

    for (uint32_t i = 0; i < count; i++) {
        struct released released = {0};
        mutex_lock(&pool->lock);
        pool->is_release_timed = false; /* from the first on: who is not seen any more sends */
        count = pool->link_count;
        if (i < count) {
            released = released_take(pool->links[i]);
        }
        mutex_unlock(&pool->lock);
        if (released.count) {
            released_send(pool, &released);
        }
    }
}
