/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/fabric_fault.h"

#include "base/base.h"

struct rule {
    struct fabric_fault_rule what;
    uint64_t seen;
};

struct fault {
    struct fabric base;
    struct fabric_ops ops;
    struct fabric *inner;
    struct mutex lock; /* RANK_FABRIC, and the inner endpoint's is never taken under it */
    struct rule rules[FABRIC_FAULT_RULES];
    size_t rule_count;
    struct list_node delayed;
    bool is_closed;
    _Atomic uint64_t hits;
};

/* One operation that met a rule and was submitted. */
struct meeting {
    struct list_node link; /* of fault->delayed */
    struct fabric_timer timer;
    struct fault *fault;
    struct fabric_fault_rule rule;
    void *context;
    fabric_done *done;
    void (*connected)(void *context, enum umbp_status status, fabric_peer peer);
    void (*replied)(void *context, const struct fabric_reply *reply);
    enum umbp_status status;
    fabric_peer peer;
    struct fabric_reply reply;
    void *data;
};

static struct fault *fault_of(struct fabric *fabric) { return (struct fault *)fabric; }

/* Whether the operation meets a rule now; the first that fits. */
static bool meets(struct fault *fault, enum fabric_fault_op op, struct fabric_fault_rule *rule_out)
{
    bool met = false;
    mutex_lock(&fault->lock);
    for (size_t i = 0; i < fault->rule_count; i++) {
        struct rule *rule = &fault->rules[i];
        if (rule->what.op != op) {
            continue;
        }
        rule->seen++;
        bool fits = rule->seen == rule->what.first ||
                    (rule->what.every > 0 && rule->seen > rule->what.first &&
                     (rule->seen - rule->what.first) % rule->what.every == 0);
        if (fits && !met) {
            met = true;
            *rule_out = rule->what;
        }
    }
    mutex_unlock(&fault->lock);
    if (met) {
        atomic_fetch_add(&fault->hits, 1);
    }
    return met;
}

/* ------------------------------------------------------------------------------ completions --- */

static void finish(struct meeting *meeting)
{
    if (meeting->rule.fail && meeting->status == UMBP_OK) {
        meeting->status = meeting->rule.fail;
    }
    if (meeting->connected) {
        if (meeting->status && meeting->peer) {
            fabric_disconnect(meeting->fault->inner, meeting->peer);
            meeting->peer = 0;
        }
        meeting->connected(meeting->context, meeting->status, meeting->peer);
    } else if (meeting->replied) {
        meeting->reply.status = meeting->status;
        if (meeting->rule.fail) {
            meeting->reply.data = NULL;
            meeting->reply.bytes = 0;
        }
        meeting->replied(meeting->context, &meeting->reply);
    } else {
        meeting->done(meeting->context, meeting->status);
    }
    mem_free(meeting->data);
    mem_free(meeting);
}

static void finish_delayed(struct fabric_timer *timer)
{
    struct meeting *meeting = CONTAINER_OF(timer, struct meeting, timer);
    mutex_lock(&meeting->fault->lock);
    list_remove(&meeting->link);
    mutex_unlock(&meeting->fault->lock);
    finish(meeting);
}

/* On the loop. */
static void finish_or_delay(struct meeting *meeting)
{
    struct fault *fault = meeting->fault;
    mutex_lock(&fault->lock);
    bool delays = meeting->rule.delay_ms > 0 && !fault->is_closed;
    if (delays) {
        list_push_front(&fault->delayed, &meeting->link);
    }
    mutex_unlock(&fault->lock);
    if (!delays) {
        finish(meeting);
        return;
    }
    meeting->timer.run = finish_delayed;
    fabric_timer_set(fault->inner, &meeting->timer,
                     fabric_now_ns(fault->inner) + meeting->rule.delay_ms * NS_PER_MS);
}

static void on_done(void *context, enum umbp_status status)
{
    struct meeting *meeting = context;
    meeting->status = status;
    if (meeting->rule.tear && status == UMBP_OK && !meeting->rule.fail) {
        meeting->status = UMBP_IO;
    }
    finish_or_delay(meeting);
}

static void on_connected(void *context, enum umbp_status status, fabric_peer peer)
{
    struct meeting *meeting = context;
    meeting->status = status;
    meeting->peer = peer;
    finish_or_delay(meeting);
}

static void on_reply(void *context, const struct fabric_reply *reply)
{
    struct meeting *meeting = context;
    meeting->status = reply->status;
    meeting->reply = *reply;
    if (meeting->rule.delay_ms > 0 && reply->bytes > 0) {
        meeting->data = mem_alloc(reply->bytes); /* the inner one's is gone by then */
        if (meeting->data) {
            memcpy(meeting->data, reply->data, reply->bytes);
        } else {
            meeting->status = UMBP_NO_MEMORY;
            meeting->reply.bytes = 0;
        }
        meeting->reply.data = meeting->data;
    }
    finish_or_delay(meeting);
}

static struct meeting *meeting_make(struct fault *fault, const struct fabric_fault_rule *rule,
                                    void *context)
{
    struct meeting *meeting = mem_zalloc(sizeof(*meeting));
    if (meeting) {
        list_init(&meeting->link);
        meeting->fault = fault;
        meeting->rule = *rule;
        meeting->context = context;
    }
    return meeting;
}

/* After the inner endpoint took it, or did not. */
static enum umbp_status submitted(struct fault *fault, struct meeting *meeting,
                                  const struct fabric_fault_rule *rule, fabric_peer peer,
                                  enum umbp_status status)
{
    if (status) {
        mem_free(meeting);
    } else if (rule->disconnect && peer) {
        fabric_disconnect(fault->inner, peer);
    }
    return status;
}

/* ------------------------------------------------------------------------------- operations --- */

static enum umbp_status fault_connect(struct fabric *fabric, const char *address,
                                      uint64_t deadline_ns,
                                      void (*done)(void *, enum umbp_status, fabric_peer),
                                      void *context)
{
    struct fault *fault = fault_of(fabric);
    struct fabric_fault_rule rule;
    if (!meets(fault, FABRIC_FAULT_CONNECT, &rule)) {
        return fabric_connect(fault->inner, address, deadline_ns, done, context);
    }
    if (rule.refuse) {
        return rule.refuse;
    }
    struct meeting *meeting = meeting_make(fault, &rule, context);
    if (!meeting) {
        return UMBP_NO_MEMORY;
    }
    meeting->connected = done;
    return submitted(fault, meeting, &rule, 0,
                     fabric_connect(fault->inner, address, deadline_ns, on_connected, meeting));
}

static enum umbp_status fault_call(struct fabric *fabric, const struct fabric_call *call)
{
    struct fault *fault = fault_of(fabric);
    struct fabric_fault_rule rule;
    if (!meets(fault, FABRIC_FAULT_CALL, &rule)) {
        return fabric_call(fault->inner, call);
    }
    if (rule.refuse) {
        return rule.refuse;
    }
    struct meeting *meeting = meeting_make(fault, &rule, call->context);
    if (!meeting) {
        return UMBP_NO_MEMORY;
    }
    struct fabric_call inner = *call;
    meeting->replied = call->done;
    inner.done = on_reply;
    inner.context = meeting;
    return submitted(fault, meeting, &rule, call->peer, fabric_call(fault->inner, &inner));
}

static enum umbp_status fault_send(struct fabric *fabric, fabric_peer peer,
                                   const struct iovec *parts, unsigned part_count)
{
    struct fault *fault = fault_of(fabric);
    struct fabric_fault_rule rule;
    bool met = meets(fault, FABRIC_FAULT_SEND, &rule);
    if (met && rule.refuse) {
        return rule.refuse;
    }
    if (met && rule.fail) {
        return UMBP_OK; /* lost on the way: nobody says so */
    }
    enum umbp_status status = fabric_send(fault->inner, peer, parts, part_count);
    if (met && rule.disconnect && !status) {
        fabric_disconnect(fault->inner, peer);
    }
    return status;
}

static enum umbp_status fault_transfer(struct fabric *fabric, fabric_peer peer, bool write,
                                       const struct fabric_piece *pieces, size_t count,
                                       fabric_done *done, void *context)
{
    struct fault *fault = fault_of(fabric);
    struct fabric_fault_rule rule;
    if (!meets(fault, write ? FABRIC_FAULT_WRITE : FABRIC_FAULT_READ, &rule)) {
        return fault->inner->ops->transfer(fault->inner, peer, write, pieces, count, done, context);
    }
    if (rule.refuse) {
        return rule.refuse;
    }
    struct meeting *meeting = meeting_make(fault, &rule, context);
    if (!meeting) {
        return UMBP_NO_MEMORY;
    }
    meeting->done = done;
    return submitted(fault, meeting, &rule, peer,
                     fault->inner->ops->transfer(fault->inner, peer, write, pieces,
                                                 rule.tear ? count / 2 : count, on_done, meeting));
}

static enum umbp_status fault_pull(struct fabric *fabric, fabric_peer peer, uint64_t epoch,
                                   const struct fabric_piece *pieces, size_t count,
                                   fabric_done *done, void *context)
{
    struct fault *fault = fault_of(fabric);
    struct fabric_fault_rule rule;
    if (!meets(fault, FABRIC_FAULT_PULL, &rule)) {
        return fabric_pull(fault->inner, peer, epoch, pieces, count, done, context);
    }
    if (rule.refuse) {
        return rule.refuse;
    }
    struct meeting *meeting = meeting_make(fault, &rule, context);
    if (!meeting) {
        return UMBP_NO_MEMORY;
    }
    meeting->done = done;
    return submitted(fault, meeting, &rule, peer,
                     fabric_pull(fault->inner, peer, epoch, pieces, rule.tear ? count / 2 : count,
                                 on_done, meeting));
}

static enum umbp_status fault_pull_wait(struct fabric *fabric, fabric_peer peer, uint64_t epoch,
                                        const struct fabric_piece *pieces, size_t count)
{
    struct fault *fault = fault_of(fabric);
    struct fabric_fault_rule rule;
    if (!meets(fault, FABRIC_FAULT_PULL, &rule)) {
        return fabric_pull_wait(fault->inner, peer, epoch, pieces, count);
    }
    if (rule.refuse) {
        return rule.refuse;
    }
    enum umbp_status status =
        fabric_pull_wait(fault->inner, peer, epoch, pieces, rule.tear ? count / 2 : count);
    if (rule.disconnect) {
        fabric_disconnect(fault->inner, peer);
    }
    if (!status && (rule.fail || rule.tear)) {
        status = rule.fail ? rule.fail : UMBP_IO;
    }
    return status;
}

/* ---------------------------------------------------------------------------- handed through -- */

static enum umbp_status fault_close(struct fabric *fabric, uint64_t deadline_ns)
{
    struct fault *fault = fault_of(fabric);
    mutex_lock(&fault->lock);
    fault->is_closed = true;
    mutex_unlock(&fault->lock);
    enum umbp_status status = fabric_close(fault->inner, deadline_ns);
    /* Its timers never run again: what they held back comes now. */
    while (!status && !list_is_empty(&fault->delayed)) {
        finish_delayed(&CONTAINER_OF(fault->delayed.next, struct meeting, link)->timer);
    }
    return status;
}

static void fault_destroy(struct fabric *fabric)
{
    struct fault *fault = fault_of(fabric);
    while (fault_close(fabric, fabric_now_ns(fault->inner) + NS_PER_S)) {
        log_warn("fabric_close_waits", "why=pulls");
    }
    fabric_destroy(fault->inner);
    mutex_fini(&fault->lock);
    mem_free(fault);
}

static const char *fault_address(struct fabric *fabric)
{
    return fabric_address(fault_of(fabric)->inner);
}

static uint64_t fault_now_ns(struct fabric *fabric)
{
    return fabric_now_ns(fault_of(fabric)->inner);
}

static void fault_disconnect(struct fabric *fabric, fabric_peer peer)
{
    fabric_disconnect(fault_of(fabric)->inner, peer);
}

static unsigned fault_peer_flags(struct fabric *fabric, fabric_peer peer)
{
    return fabric_peer_flags(fault_of(fabric)->inner, peer);
}

static void fault_answer(struct fabric *fabric, struct fabric_request *request,
                         enum umbp_status status, const struct iovec *parts, unsigned part_count)
{
    fabric_answer(fault_of(fabric)->inner, request, status, parts, part_count);
}

static enum umbp_status fault_region_create(struct fabric *fabric, void *memory, size_t bytes,
                                            unsigned access, int shared_fd, uint64_t fd_offset,
                                            struct fabric_region **region_out)
{
    return fabric_region_create(fault_of(fabric)->inner, memory, bytes, access, shared_fd,
                                fd_offset, region_out);
}

static void fault_region_destroy(struct fabric *fabric, struct fabric_region *region)
{
    fabric_region_destroy(fault_of(fabric)->inner, region);
}

static void fault_raise_epoch(struct fabric *fabric, fabric_peer peer)
{
    fabric_raise_epoch(fault_of(fabric)->inner, peer);
}

static void fault_post(struct fabric *fabric, struct fabric_task *task)
{
    fabric_post(fault_of(fabric)->inner, task);
}

static void fault_timer_set(struct fabric *fabric, struct fabric_timer *timer, uint64_t deadline_ns)
{
    fabric_timer_set(fault_of(fabric)->inner, timer, deadline_ns);
}

static void fault_timer_cancel(struct fabric *fabric, struct fabric_timer *timer)
{
    fabric_timer_cancel(fault_of(fabric)->inner, timer);
}

static enum umbp_status fault_wait(struct fabric *fabric, struct fabric_latch *latch,
                                   uint64_t deadline_ns)
{
    return fabric_wait(fault_of(fabric)->inner, latch, deadline_ns);
}

static void fault_latch_down(struct fabric *fabric, struct fabric_latch *latch)
{
    fabric_latch_down(fault_of(fabric)->inner, latch);
}

static void fault_stats(struct fabric *fabric, struct fabric_stats *stats_out)
{
    fabric_stats(fault_of(fabric)->inner, stats_out);
}

/* ------------------------------------------------------------------------------------ rules --- */

enum umbp_status fabric_fault_create(struct fabric *inner, struct fabric **fabric_out)
{
    struct fault *fault = mem_zalloc(sizeof(*fault));
    if (!fault) {
        fabric_destroy(inner);
        return UMBP_NO_MEMORY;
    }
    fault->ops = (struct fabric_ops){
        .name = "fault",
        .registering_is_cheap = inner->ops->registering_is_cheap,
        .close = fault_close,
        .destroy = fault_destroy,
        .address = fault_address,
        .now_ns = fault_now_ns,
        .connect = fault_connect,
        .disconnect = fault_disconnect,
        .peer_flags = fault_peer_flags,
        .call = fault_call,
        .answer = fault_answer,
        .send = fault_send,
        .region_create = fault_region_create,
        .region_destroy = fault_region_destroy,
        .region_key = inner->ops->region_key, /* regions are the inner endpoint's */
        .transfer = fault_transfer,
        .pull = fault_pull,
        .pull_wait = fault_pull_wait,
        .raise_epoch = fault_raise_epoch,
        .post = fault_post,
        .timer_set = fault_timer_set,
        .timer_cancel = fault_timer_cancel,
        .wait = fault_wait,
        .latch_down = fault_latch_down,
        .stats = fault_stats,
    };
    fault->base.ops = &fault->ops;
    fault->inner = inner;
    mutex_init(&fault->lock, RANK_FABRIC);
    list_init(&fault->delayed);
    *fabric_out = &fault->base;
    return UMBP_OK;
}

enum umbp_status fabric_fault_set(struct fabric *fabric, const struct fabric_fault_rule *rule)
{
    struct fault *fault = fault_of(fabric);
    enum umbp_status status = UMBP_LIMIT;
    mutex_lock(&fault->lock);
    if (fault->rule_count < FABRIC_FAULT_RULES) {
        fault->rules[fault->rule_count++] = (struct rule){*rule, 0};
        status = UMBP_OK;
    }
    mutex_unlock(&fault->lock);
    return status;
}

void fabric_fault_clear(struct fabric *fabric)
{
    struct fault *fault = fault_of(fabric);
    mutex_lock(&fault->lock);
    fault->rule_count = 0;
    mutex_unlock(&fault->lock);
}

uint64_t fabric_fault_hits(struct fabric *fabric) { return atomic_load(&fault_of(fabric)->hits); }
