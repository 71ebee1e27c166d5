/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Links: one for each address that we talk to. Connecting is begun by whoever needs it, runs on the
 * fabric's loop, and wakes all who wait. A link that failed is left alone for a moment, so that a
 * dead node costs its connect time once and not in every call.
 */
#include "pool/pool_priv.h"

#define LINK_REST_MS 200u
#define LINK_INDEX_BITS 16u

/* ---------------------------------------------------------------------------- numbers ---- */

static link_id id_of(size_t index, uint32_t generation)
{
    return ((uint64_t)generation << LINK_INDEX_BITS) + index + LINK_FIRST;
}

link_id link_id_of(const struct pool_link *link) { return id_of(link->index, link->generation); }

/* ----------------------------------------------------------------------------- holding --- */

/* Under the lock: a link that nobody holds and that is down, the longest unused. */
static struct pool_link *idle_link(struct pool *pool)
{
    struct pool_link *found = NULL;
    for (uint32_t i = 0; i < pool->link_count; i++) {
        struct pool_link *link = pool->links[i];
        if (!link->holders && link->state == LINK_DOWN &&
            (!found || link->used_ns < found->used_ns)) {
            found = link;
        }
    }
    return found;
}

/* Under the lock. */
static struct pool_link *new_link(struct pool *pool)
{
    if (pool->link_count == POOL_LINKS_MAX) {
        struct pool_link *link = idle_link(pool);
        if (link) {
            link->generation++;
        }
        return link;
    }
    struct pool_link *link = mem_zalloc(sizeof(*link));
    if (link) {
        link->pool = pool;
        link->index = pool->link_count;
        pool->links[pool->link_count++] = link;
    }
    return link;
}

struct pool_link *link_hold(struct pool *pool, const char *address, size_t address_bytes)
{
    struct pool_link *link = NULL;

    if (!address_bytes || address_bytes >= FABRIC_ADDRESS_MAX) {
        return NULL;
    }
    mutex_lock(&pool->lock);
    for (uint32_t i = 0; i < pool->link_count; i++) {
        const char *known = pool->links[i]->address;
        if (memcmp(known, address, address_bytes) == 0 && !known[address_bytes]) {
            link = pool->links[i];
            break;
        }
    }
    if (!link) {
        link = new_link(pool);
        if (link) {
            memcpy(link->address, address, address_bytes);
            link->address[address_bytes] = '\0';
            link->retry_ns = 0;
        }
    }
    if (link) {
        link->holders++;
    }
    mutex_unlock(&pool->lock);
    return link;
}

static size_t index_of(link_id id)
{
    return (size_t)((id - LINK_FIRST) & ((1u << LINK_INDEX_BITS) - 1));
}

bool link_is_current(const struct pool *pool, link_id id)
{
    if (id < LINK_FIRST) {
        return true;
    }
    size_t index = index_of(id);
    return index < pool->link_count && link_id_of(pool->links[index]) == id;
}

struct pool_link *link_hold_id(struct pool *pool, link_id id)
{
    struct pool_link *link = NULL;

    mutex_lock(&pool->lock);
    if (id >= LINK_FIRST && link_is_current(pool, id)) {
        link = pool->links[index_of(id)];
        link->holders++;
    }
    mutex_unlock(&pool->lock);
    return link;
}

void link_release(struct pool_link *link)
{
    if (link) {
        mutex_lock(&link->pool->lock);
        link->holders--;
        mutex_unlock(&link->pool->lock);
    }
}

/* -------------------------------------------------------------------------- connecting --- */

static void wake(struct pool *pool, struct link_waiter *waiters)
{
    while (waiters) {
        struct link_waiter *next = waiters->next; /* it is gone with its latch */
        if (waiters->ready) {
            waiters->ready(waiters);
        } else {
            fabric_latch_down(pool->options.fabric, waiters->latch);
        }
        waiters = next;
    }
}

/* On the loop, or by who could not even begin. */
static void connect_done(void *context, enum umbp_status status, fabric_peer peer)
{
    struct pool_link *link = context;
    struct pool *pool = link->pool;

    mutex_lock(&pool->lock);
    struct link_waiter *waiters = link->waiters; /* all were added while it was connecting */
    link->waiters = NULL;
    link->holders--; /* the attempt's own */
    link->peer = status == UMBP_OK ? peer : 0;
    link->state = status == UMBP_OK ? LINK_UP : LINK_DOWN;
    link->retry_ns = clock_now_ns(pool->clock) + LINK_REST_MS * NS_PER_MS;
    mutex_unlock(&pool->lock);
    if (status != UMBP_OK) {
        COUNT(pool, connect_failures, 1);
    }
    wake(pool, waiters);
}

bool link_want(struct pool_link *link, struct link_waiter *waiter, uint64_t deadline_ns)
{
    struct pool *pool = link->pool;
    uint64_t now_ns = clock_now_ns(pool->clock);
    bool begin = false;

    mutex_lock(&pool->lock);
    link->used_ns = now_ns;
    if (link->state == LINK_UP || (link->state == LINK_DOWN && now_ns < link->retry_ns)) {
        mutex_unlock(&pool->lock);
        return true;
    }
    waiter->next = link->waiters;
    link->waiters = waiter;
    if (link->state == LINK_DOWN) {
        link->state = LINK_CONNECTING;
        link->holders++;
        begin = true;
    }
    mutex_unlock(&pool->lock);
    if (begin) {
        COUNT(pool, connects, 1);
        uint64_t by_ns = u64_min(deadline_ns, now_ns + POOL_CONNECT_MS * NS_PER_MS);
        enum umbp_status status =
            fabric_connect(pool->options.fabric, link->address, by_ns, connect_done, link);
        if (status != UMBP_OK) {
            connect_done(link, status, 0);
        }
    }
    return false;
}

fabric_peer link_peer(struct pool_link *link)
{
    mutex_lock(&link->pool->lock);
    fabric_peer peer = link->peer;
    mutex_unlock(&link->pool->lock);
    return peer;
}

void pool_peer_down(struct pool *pool, fabric_peer peer, enum umbp_status reason)
{
    mutex_lock(&pool->lock);
    for (uint32_t i = 0; i < pool->options.master_count; i++) {
        /* It may come back as another process, whose handles mean other nodes. */
        struct pool_master *master = &pool->masters[i];
        if (master->link && master->link->peer == peer) {
            master_forget(master);
        }
    }
    for (uint32_t i = 0; i < pool->link_count; i++) {
        struct pool_link *link = pool->links[i];
        if (link->peer == peer) {
            link->peer = 0;
            link->state = LINK_DOWN;
            link->released = (struct released){0}; /* its pins went with it */
            /* One that hung is given a rest; one that went may be back already. */
            link->retry_ns =
                reason == UMBP_TIMEOUT ? clock_now_ns(pool->clock) + LINK_REST_MS * NS_PER_MS : 0;
            break;
        }
    }
    mutex_unlock(&pool->lock);
}

void links_destroy(struct pool *pool)
{
    for (uint32_t i = 0; i < pool->link_count; i++) {
        mem_free(pool->links[i]);
    }
    pool->link_count = 0;
}
