/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking the masters. Any will do; the one that answered last is asked first, and one that does not
 * answer within POOL_MASTER_MS passes the question on, and rests (pool_rest.c). What a master calls
 * a node by (its handle) is its own; the members of each master map handles to links.
 */
#include "pool/pool_priv.h"

#define SLOW_FAILURE_NS (100 * NS_PER_MS)

/* --------------------------------------------------------------------------- members ----- */

/* Under the lock: the slot of the handle, or the free one where it would go; NULL: full. */
static struct pool_member *member_slot(struct pool_member *members, uint32_t handle)
{
    uint32_t at = (handle * 2654435761u) & (POOL_MEMBERS - 1);
    for (uint32_t i = 0; i < POOL_MEMBERS; i++) {
        struct pool_member *member = &members[(at + i) & (POOL_MEMBERS - 1)];
        if (member->handle == handle || !member->handle) {
            return member;
        }
    }
    return NULL;
}

static bool member_find(struct pool *pool, uint32_t master, uint32_t handle, link_id *link_out)
{
    bool found = false;
    mutex_lock(&pool->lock);
    struct pool_member *members = pool->masters[master].members;
    struct pool_member *member = members ? member_slot(members, handle) : NULL;
    if (member && member->handle == handle && link_is_current(pool, member->link)) {
        *link_out = member->link;
        found = true;
    }
    mutex_unlock(&pool->lock);
    return found;
}

static void member_learn(struct pool *pool, uint32_t master, uint32_t handle, link_id link)
{
    if (!handle) {
        return;
    }
    mutex_lock(&pool->lock);
    struct pool_master *of = &pool->masters[master];
    if (!of->members) {
        of->members = mem_calloc(POOL_MEMBERS, sizeof(*of->members));
    }
    if (of->members && of->member_count > POOL_MEMBERS / 2) {
        /* Handles of nodes that came and went; those that live are learned again. */
        memset(of->members, 0, POOL_MEMBERS * sizeof(*of->members));
        of->member_count = 0;
    }
    struct pool_member *member = of->members ? member_slot(of->members, handle) : NULL;
    if (member) {
        of->member_count += !member->handle;
        *member = (struct pool_member){handle, link};
    }
    mutex_unlock(&pool->lock);
}

void master_forget(struct pool_master *master)
{
    mem_free(master->members);
    master->members = NULL;
    master->member_count = 0;
    /* relaxed: advice for placement */
    atomic_store_explicit(&master->own_handle, PROTO_NODE_NONE, memory_order_relaxed);
}

static void learn_node(struct pool *pool, uint32_t master, const struct proto_node *node)
{
    link_id id = LINK_NONE;
    size_t own_bytes = strlen(pool->own_address);

    if (pool->options.store && own_bytes && node->address.bytes == own_bytes &&
        memcmp(node->address.data, pool->own_address, own_bytes) == 0) {
        id = LINK_SELF;
        atomic_store_explicit(&pool->masters[master].own_handle, node->index, memory_order_relaxed);
    } else if (node->address.bytes) {
        struct pool_link *link = link_hold(pool, node->address.data, node->address.bytes);
        if (link) {
            id = link_id_of(link);
            link_release(link);
        }
    }
    member_learn(pool, master, node->index, id);
}

/* The handles, with this master, of the links that are excluded. */
static uint32_t exclude_handles(const struct pool_area *area, uint32_t master, uint32_t *handles)
{
    struct pool *pool = area->pool;
    uint32_t count = 0;

    if (!area->exclude_count) {
        return 0;
    }
    mutex_lock(&pool->lock);
    const struct pool_member *members = pool->masters[master].members;
    for (uint32_t i = 0; members && i < POOL_MEMBERS && count < POOL_EXCLUDES_MAX; i++) {
        if (members[i].handle && area_excludes(area, members[i].link)) {
            handles[count++] = members[i].handle;
        }
    }
    mutex_unlock(&pool->lock);
    return count;
}

/* ------------------------------------------------------------------------------ calls ---- */

/* On the loop: the answer of ROUTE_PUT, ROUTE_GET or NODES into the area. */
static enum umbp_status take_routes(struct question *question, const struct proto_frame *frame)
{
    struct pool_area *area = question->area;
    struct proto_members members;
    struct proto_walk walk;
    struct proto_node node;

    enum umbp_status status = proto_routes_open(frame, &members, &walk);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < question->count && proto_route_next(&walk, &area->routes[i]); i++) {
    }
    while (proto_node_next(&members.walk, &node)) {
        learn_node(area->pool, question->master, &node);
    }
    return UMBP_OK;
}

static enum umbp_status take_placement(struct question *question, const struct proto_frame *frame)
{
    const uint8_t *tiers;
    if (question->op == PROTO_NODES) {
        return take_routes(question, frame);
    }
    if (frame->header.count != question->count) {
        return UMBP_CORRUPT;
    }
    if (question->op != PROTO_LOOKUP) {
        return take_routes(question, frame);
    }
    enum umbp_status status = proto_found_open(frame, &tiers);
    if (status == UMBP_OK) {
        memcpy(question->area->found, tiers, question->count);
    }
    return status;
}

enum umbp_status master_open_answer(const struct fabric_reply *reply, enum proto_op op, uint64_t id,
                                    struct proto_frame *frame_out)
{
    struct proto_frame frame;

    if (reply->status != UMBP_OK) {
        return reply->status;
    }
    enum umbp_status status = proto_frame_open(reply->data, reply->bytes, &frame);
    if (status != UMBP_OK) {
        return status;
    }
    if (frame.header.op != op || frame.header.request_id != id ||
        !(frame.header.flags & PROTO_FLAG_REPLY)) {
        return UMBP_CORRUPT;
    }
    if (frame.header.status == UMBP_OK) {
        *frame_out = frame;
    }
    return frame.header.status;
}

static enum umbp_status take_answer(struct question *question, const struct fabric_reply *reply)
{
    struct proto_frame frame;
    enum umbp_status status = master_open_answer(reply, question->op, question->id, &frame);
    return status == UMBP_OK ? question->take(question, &frame) : status;
}

static void answered(void *context, const struct fabric_reply *reply)
{
    struct question *question = context;
    struct fabric *fabric = question->area->pool->options.fabric;
    question->status = take_answer(question, reply);
    fabric_latch_down(fabric, &question->latch);
}

/* Connect if need be. 0: not to be had. */
static fabric_peer master_peer(struct pool_area *area, struct pool_link *link, uint64_t deadline_ns)
{
    struct fabric_latch latch;
    struct link_waiter waiter = {.latch = &latch};
    fabric_latch_init(&latch, 1);
    if (!link_want(link, &waiter, deadline_ns)) {
        pool_await(area->pool, &latch, deadline_ns);
    }
    return link_peer(link);
}

static enum umbp_status ask_one(struct pool_area *area, struct question *question,
                                struct pool_link *link, size_t frame_bytes)
{
    struct pool *pool = area->pool;
    uint64_t deadline_ns = u64_min(area->deadline_ns, clock_now_ns(pool->clock) +
                                                          (uint64_t)POOL_MASTER_MS * NS_PER_MS);
    fabric_peer peer = master_peer(area, link, deadline_ns);
    if (!peer) {
        return UMBP_CLOSED;
    }
    const struct iovec part = {area->buffer, frame_bytes};
    const struct fabric_call call = {
        .peer = peer,
        .parts = &part,
        .part_count = 1,
        .deadline_ns = deadline_ns,
        .done = answered,
        .context = question,
    };
    fabric_latch_init(&question->latch, 1);
    enum umbp_status status = fabric_call(pool->options.fabric, &call);
    if (status != UMBP_OK) {
        return status;
    }
    if (question->meanwhile) {
        question->meanwhile(question);
    }
    pool_await(pool, &question->latch, deadline_ns);
    return question->status;
}

static enum umbp_status encode(struct pool_area *area, const struct question *question,
                               size_t *bytes_out)
{
    uint32_t excludes[POOL_EXCLUDES_MAX];
    const struct proto_buffer buffer = {area->buffer, PROTO_FRAME_MAX};
    const struct proto_call call = {.request_id = question->id, .time_left_ms = POOL_MASTER_MS};
    struct pool *pool = area->pool;
    struct proto_ask ask = {.exclude = excludes, .node_index = PROTO_NODE_NONE};

    if (question->op == PROTO_NODES) {
        return proto_numbers_encode(buffer, call, PROTO_NODES, 0, area->handles, area->handle_count,
                                    bytes_out);
    }
    ask.exclude_count = exclude_handles(area, question->master, excludes);
    ask.node_index =
        atomic_load_explicit(&pool->masters[question->master].own_handle, memory_order_relaxed);
    return proto_ask_encode(buffer, call, question->op, &ask, area->wants, question->count,
                            bytes_out);
}

/* Nobody spoke; not an answer that says no. */
static bool is_silence(enum umbp_status status)
{
    return status == UMBP_CLOSED || status == UMBP_TIMEOUT || status == UMBP_IO ||
           status == UMBP_CANCELLED;
}

enum umbp_status master_call(struct question *question, size_t frame_bytes)
{
    struct pool_area *area = question->area;
    struct pool *pool = area->pool;
    uint32_t master = question->master;
    enum umbp_status status = UMBP_CLOSED;

    if (!master_is_awake(pool, master)) {
        COUNT(pool, master_skips, 1);
        return UMBP_CLOSED;
    }
    uint64_t began_ns = clock_now_ns(pool->clock);
    mutex_lock(&pool->lock);
    struct pool_link *link = pool->masters[master].link;
    if (link) {
        link->holders++;
    }
    mutex_unlock(&pool->lock);
    COUNT(pool, master_calls, 1);
    if (link) {
        status = ask_one(area, question, link, frame_bytes);
        link_release(link);
    }
    if (status != UMBP_OK) {
        COUNT(pool, master_failures, 1);
        if (is_silence(status) && clock_now_ns(pool->clock) - began_ns >= SLOW_FAILURE_NS) {
            master_rest(pool, master);
        }
        if (pool->options.master_wanted && status != UMBP_BUSY) {
            pool->options.master_wanted(pool->options.context, master);
        }
    }
    return status;
}

struct question question_of(struct pool_area *area, uint32_t master, enum proto_op op,
                            uint32_t count)
{
    return (struct question){
        .area = area,
        .master = master,
        .op = op,
        .count = count,
        .id = atomic_fetch_add_explicit(&area->pool->next_id, 1, memory_order_relaxed),
        .status = UMBP_CLOSED,
    };
}

static enum umbp_status ask_of(struct pool_area *area, uint32_t master, enum proto_op op,
                               uint32_t count)
{
    struct question question = question_of(area, master, op, count);
    size_t bytes;
    question.take = take_placement;
    question.meanwhile = op == PROTO_LOOKUP ? hints_look : NULL;
    enum umbp_status status = encode(area, &question, &bytes);
    return status == UMBP_OK ? master_call(&question, bytes) : status;
}

/* Who has just met a master asks for all nodes first: it then knows what the master calls the own
 * one, which counts for placement, and has to ask after a node only when one has joined. */
static enum umbp_status ask(struct pool_area *area, uint32_t master, enum proto_op op,
                            uint32_t count)
{
    struct pool *pool = area->pool;
    mutex_lock(&pool->lock);
    bool is_new = !pool->masters[master].members;
    mutex_unlock(&pool->lock);
    if (is_new && op != PROTO_NODES) {
        area->handle_count = 0;
        enum umbp_status status = ask_of(area, master, PROTO_NODES, 0);
        if (status != UMBP_OK) {
            return status;
        }
    }
    return ask_of(area, master, op, count);
}

enum umbp_status master_ask(struct pool_area *area, enum proto_op op, uint32_t count,
                            uint32_t *master_out)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct pool_item *item = &area->items[area->picked[i]];
        area->wants[i] = (struct proto_want){item->print, item->bytes};
    }
    return master_ask_wants(area, op, count, master_out);
}

enum umbp_status master_ask_wants(struct pool_area *area, enum proto_op op, uint32_t count,
                                  uint32_t *master_out)
{
    struct pool *pool = area->pool;
    uint32_t first = atomic_load_explicit(&pool->master_now, memory_order_relaxed);
    enum umbp_status status = UMBP_CLOSED;
    uint64_t held_back;

    for (uint32_t i = 0; i < pool->options.master_count; i++) {
        uint32_t master = (first + i) % pool->options.master_count;
        status = ask(area, master, op, count);
        if (status == UMBP_OK) {
            if (i) {
                atomic_store_explicit(&pool->master_now, master, memory_order_relaxed);
            }
            *master_out = master;
            return UMBP_OK;
        }
        if (clock_left_ns(pool->clock, area->deadline_ns) == 0) {
            break;
        }
    }
    if (log_limit_pass(&pool->log_no_master, 60000, &held_back)) {
        log_warn("no_master_answers", "masters=%u last=%s suppressed=%llu",
                 pool->options.master_count, umbp_status_name(status),
                 (unsigned long long)held_back);
    }
    return status;
}

void master_learn_routes(struct pool_area *area, uint32_t master, uint32_t count)
{
    link_id link;
    area->handle_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct proto_route *route = &area->routes[i];
        bool names_node = route->status == UMBP_OK || route->status == UMBP_ALREADY_EXISTS;
        if (!names_node || member_find(area->pool, master, route->node_index, &link)) {
            continue;
        }
        bool listed = false;
        for (uint32_t h = 0; h < area->handle_count; h++) {
            listed |= area->handles[h] == route->node_index;
        }
        if (!listed && area->handle_count < POOL_UNKNOWN_MAX) {
            area->handles[area->handle_count++] = route->node_index;
        }
    }
    if (area->handle_count) {
        /* What stays unknown is a miss. */
        (void)!ask(area, master, PROTO_NODES, 0);
    }
}

link_id master_link_of(struct pool_area *area, uint32_t master, uint32_t handle)
{
    link_id link = LINK_NONE;
    (void)member_find(area->pool, master, handle, &link);
    return link;
}

void pool_master_found(struct pool *pool, uint32_t master, const char *address)
{
    ASSERT(master < pool->options.master_count);
    struct pool_link *link = link_hold(pool, address, strlen(address));
    if (!link) {
        return;
    }
    mutex_lock(&pool->lock);
    struct pool_link *old = pool->masters[master].link;
    pool->masters[master].link = link;
    if (old != link) {
        master_forget(&pool->masters[master]);
    }
    mutex_unlock(&pool->lock);
    link_release(old);
    master_try(pool, master);
}
