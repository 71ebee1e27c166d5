/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop: who runs it, and what a pass does.
 *
 * One thread polls: the endpoint's own, or a waiter that took over (then its answer needs no
 * hand-over from thread to thread). A waiter takes over at once while the endpoint's thread sleeps
 * in poll, which then finds out when it wakes, and parks. When a waiter leaves it
 * makes another waiter the poller; without one, the endpoint's thread polls again: at once if it
 * was never parked or others may call us, else when nobody has waited for LEASE_NS, since waking it
 * after each call would cost more than the call.
 *
 * Before it sleeps, who polls goes on for spin_us after the last thing that happened: a waiter, and
 * the endpoint's thread if it listens. And SPIN_MOST times as long after what came last, while most
 * of the last SPIN_HISTORY waits ended within that time (both sides asleep, each wake-up makes the
 * other's wait longer; one that stays awake ends this). Between two passes of it the token is free,
 * and now and then the core, which may be the one that the other side wants to run on.
 *
 * Nobody misses anything, because whoever is about to sleep first says so (`asleep`), then looks at
 * the submissions, tasks and latches once more; and who adds to those first adds, then looks at
 * `asleep`.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <unistd.h>

#include "fabric/fabric_ofi_priv.h"

#define LEASE_NS (2 * NS_PER_MS)
#define PASSES_MAX                                                                                 \
    16 /* of the endpoint's thread before it looks whether a waiter wants to poll                  \
        */
#define CQ_BATCH 32
#define SPINS_PER_YIELD 16u /* passes; each looks at the sockets, a third of a microsecond */
#define SPIN_MOST 5u        /* times spin_us */
#define SPIN_HISTORY 8u     /* bits of struct spin */
#define SLEEP_MAX_NS (1 * NS_PER_S)

/* ------------------------------------------------------------------------------- the token ---- */

static uintptr_t self_token(void) { return (uintptr_t)pthread_self(); }

bool fabric_ofi_on_loop(struct ofi *ofi)
{
    /* relaxed: only this thread writes its own name there */
    return atomic_load_explicit(&ofi->owner, memory_order_relaxed) == self_token();
}

static bool token_try(struct ofi *ofi)
{
    uintptr_t none = 0;
    /* acquire: pairs with token_drop. seq_cst: and orders with the stack of submissions */
    return atomic_compare_exchange_strong(&ofi->owner, &none, self_token());
}

static void token_take(struct ofi *ofi)
{
    /* Held for a few sends at most by a submitter; never by a sleeper. */
    for (unsigned i = 0; !token_try(ofi); i++) {
        if (i < 100) {
            thread_pause();
        } else {
            sched_yield();
        }
    }
}

static void token_drop(struct ofi *ofi) { atomic_store(&ofi->owner, 0); }

/* ------------------------------------------------------------------------------ submitting ---- */

static bool has_work(struct ofi *ofi)
{
    return atomic_load(&ofi->submissions) != NULL || atomic_load(&ofi->tasks) != NULL;
}

/* In the order of arrival. */
static void drain_submissions(struct ofi *ofi)
{
    if (!atomic_load_explicit(&ofi->submissions, memory_order_relaxed)) {
        return; /* who adds later looks after the token, or at `asleep` */
    }
    struct submission *stack = atomic_exchange(&ofi->submissions, NULL);
    struct submission *queue = NULL;
    while (stack) {
        struct submission *next = stack->next;
        stack->next = queue;
        queue = stack;
        stack = next;
    }
    while (queue) {
        struct submission *submission = queue;
        queue = submission->next;
        submission->run(ofi, submission);
    }
}

void fabric_ofi_kick(struct ofi *ofi)
{
    if (atomic_load(&ofi->asleep) > 0) {
        uint64_t one = 1;
        ssize_t written = write(ofi->event_fd, &one, sizeof(one));
        (void)written; /* a full counter wakes too */
        return;
    }
    /* Somebody polls, or nobody since the last waiter left. */
    mutex_lock(&ofi->lock);
    if (ofi->poller == POLLER_NONE && ofi->thread_parked && list_is_empty(&ofi->waiters)) {
        ofi->poller = POLLER_THREAD;
        condition_signal(&ofi->thread_wake);
    }
    mutex_unlock(&ofi->lock);
}

/* What was submitted, on this thread if the token is free. True: the poller must look, too. */
static bool flush_submissions(struct ofi *ofi)
{
    bool must_kick = false;
    while (atomic_load(&ofi->submissions) && token_try(ofi)) {
        drain_submissions(ofi);
        fabric_ofi_pump(ofi);
        /* What needs a callback, or an earlier alarm than the sleeper set, is the poller's. */
        must_kick = must_kick || !list_is_empty(&ofi->closing) ||
                    !list_is_empty(&ofi->dead_calls) || !list_is_empty(&ofi->failed_connects) ||
                    !list_is_empty(&ofi->dead_pulls) || !list_is_empty(&ofi->dead_transfers) ||
                    fabric_heap_next_ns(&ofi->timers) < atomic_load(&ofi->sleep_until_ns);
        token_drop(ofi);
    }
    return must_kick;
}

void fabric_ofi_submit(struct ofi *ofi, struct submission *submission)
{
    struct submission *head = atomic_load_explicit(&ofi->submissions, memory_order_relaxed);
    do {
        submission->next = head;
    } while (!atomic_compare_exchange_weak(&ofi->submissions, &head, submission));
    if (fabric_ofi_on_loop(ofi)) {
        return; /* the pass goes on after the callback */
    }
    bool must_kick = flush_submissions(ofi);
    /* Somebody else has the token: they look again after dropping it, unless they sleep now. */
    if (must_kick || atomic_load(&ofi->submissions)) {
        fabric_ofi_kick(ofi);
    }
}

void fabric_ofi_post(struct fabric *fabric, struct fabric_task *task)
{
    struct ofi *ofi = ofi_of(fabric);
    struct fabric_task *head = atomic_load_explicit(&ofi->tasks, memory_order_relaxed);
    do {
        task->next = head;
    } while (!atomic_compare_exchange_weak(&ofi->tasks, &head, task));
    if (!fabric_ofi_on_loop(ofi)) {
        fabric_ofi_kick(ofi);
    }
}

static void run_tasks(struct ofi *ofi)
{
    if (!atomic_load_explicit(&ofi->tasks, memory_order_relaxed)) {
        return;
    }
    struct fabric_task *stack = atomic_exchange(&ofi->tasks, NULL);
    struct fabric_task *queue = NULL;
    while (stack) {
        struct fabric_task *next = stack->next;
        stack->next = queue;
        queue = stack;
        stack = next;
    }
    while (queue) {
        struct fabric_task *task = queue;
        queue = task->next;
        task->run(task);
    }
}

bool fabric_ofi_enter(struct ofi *ofi)
{
    if (fabric_ofi_on_loop(ofi)) {
        return false;
    }
    token_take(ofi);
    return true;
}

void fabric_ofi_leave(struct ofi *ofi, bool entered)
{
    if (entered) {
        bool is_closing = !list_is_empty(&ofi->closing);
        token_drop(ofi);
        if (flush_submissions(ofi) || is_closing || has_work(ofi)) {
            fabric_ofi_kick(ofi);
        }
    }
}

/* -------------------------------------------------------------------------------- a pass ------ */

static void completion_error(struct ofi *ofi)
{
    struct fi_cq_err_entry entry = {0};
    if (fi_cq_readerr(ofi->cq, &entry, 0) < 0 || !entry.op_context) {
        return;
    }
    struct context *context = entry.op_context;
    if (context->kind == CONTEXT_RX) {
        /* A cut or too long message; whose it was is not told. Its connection ends by itself. */
        ofi->rxs_posted--;
        (void)fabric_ofi_rx_post(ofi, CONTAINER_OF(context, struct rx, context));
    } else if (context->kind == CONTEXT_TX) {
        fabric_ofi_tx_done(ofi, CONTAINER_OF(context, struct tx, context), false);
    } else {
        fabric_ofi_op_done(CONTAINER_OF(context, struct op, context), false);
    }
}

/* True if there was anything. */
static bool read_completions(struct ofi *ofi)
{
    struct fi_cq_data_entry entries[CQ_BATCH];
    ssize_t count = fi_cq_read(ofi->cq, entries, CQ_BATCH);
    if (count == -FI_EAVAIL) {
        completion_error(ofi);
        return true;
    }
    if (count <= 0) {
        return false;
    }
    for (ssize_t i = 0; i < count; i++) {
        struct context *context = entries[i].op_context;
        if (!context) {
            continue;
        }
        ofi->arrivals += context->kind != CONTEXT_TX;
        if (context->kind == CONTEXT_RX) {
            ofi->rxs_posted--;
            fabric_ofi_received(ofi, CONTAINER_OF(context, struct rx, context), entries[i].len);
        } else if (context->kind == CONTEXT_TX) {
            fabric_ofi_tx_done(ofi, CONTAINER_OF(context, struct tx, context), true);
        } else {
            fabric_ofi_op_done(CONTAINER_OF(context, struct op, context), true);
        }
    }
    return true;
}

static bool run_timers(struct ofi *ofi)
{
    bool any = false;
    struct fabric_timer *timer;
    while ((timer = fabric_heap_pop(&ofi->timers, ofi->now_ns)) != NULL) {
        timer->run(timer);
        any = true;
    }
    return any;
}

/* In the place of those that requests hold. */
static void post_spare(struct ofi *ofi)
{
    bool has_room = true;
    while (has_room && ofi->rxs_spare && ofi->rxs_posted < ofi->rxs_wanted) {
        struct rx *rx = ofi->rxs_spare;
        ofi->rxs_spare = rx->next;
        has_room = fabric_ofi_rx_post(ofi, rx);
    }
}

/* Wakes those whose latch is 0; their latches live while they are in the list. */
static void wake_waiters(struct ofi *ofi)
{
    if (!atomic_load(&ofi->latch_fired) || !atomic_exchange(&ofi->latch_fired, false)) {
        return;
    }
    bool must_kick = false;
    mutex_lock(&ofi->lock);
    for (struct list_node *at = ofi->waiters.next; at != &ofi->waiters; at = at->next) {
        struct waiter *waiter = CONTAINER_OF(at, struct waiter, link);
        if (atomic_load_explicit(&waiter->latch->pending, memory_order_acquire) != 0) {
            continue;
        }
        if (waiter->polls) {
            must_kick = true; /* it may sleep in poll; or be us, then nobody does */
        } else {
            condition_signal(&waiter->condition);
        }
    }
    mutex_unlock(&ofi->lock);
    if (must_kick) {
        fabric_ofi_kick(ofi);
    }
}

/* What was submitted for a connection that was gone by then. */
static void finish_dead(struct ofi *ofi)
{
    while (!list_is_empty(&ofi->dead_calls)) {
        struct call *call = CONTAINER_OF(ofi->dead_calls.next, struct call, link);
        struct fabric_reply reply = {.status = call->failed};
        fabric_ofi_call_finish(call, &reply);
    }
    fabric_ofi_connects_finish(ofi);
    fabric_ofi_pulls_finish(ofi);
    while (!list_is_empty(&ofi->dead_transfers)) {
        struct transfer *transfer = CONTAINER_OF(ofi->dead_transfers.next, struct transfer, link);
        fabric_ofi_transfer_finish(transfer);
    }
}

/* With the token. True if something happened, so that another pass is worth it. */
static bool pass(struct ofi *ofi, bool look_at_events)
{
    ofi->now_ns = clock_now_ns(ofi->options.clock);
    bool any = has_work(ofi);
    drain_submissions(ofi);
    run_tasks(ofi);
    bool completed = read_completions(ofi);
    any = any || completed;
    if (!completed && !ofi->is_dry) {
        /* Empty after the last close. What is closed from here on has its say in the next pass. */
        ofi->is_dry = true;
        any = true;
    }
    post_spare(ofi);
    finish_dead(ofi);
    fabric_ofi_pump(ofi);
    if (look_at_events || ++ofi->passes % 16 == 0) {
        fabric_ofi_events(ofi);
    }
    if (run_timers(ofi)) {
        any = true;
    }
    any = any || !ofi->is_dry;
    if (ofi->is_dry && !list_is_empty(&ofi->closing)) {
        fabric_ofi_peer_finish(ofi);
    }
    wake_waiters(ofi);
    return any;
}

/* ------------------------------------------------------------------------------- sleeping ----- */

/*
 * With the token, which it drops; returns without it. `latch` may be NULL. The descriptors are
 * level triggered, so what wakes somebody else too is lost for nobody. By poll, not an epoll of our
 * own around the provider's: that would be notified of all that comes, while somebody polls too.
 */
static void sleep_until_event(struct ofi *ofi, struct fabric_latch *latch, uint64_t deadline_ns)
{
    struct fid *fids[2] = {&ofi->cq->fid, &ofi->eq->fid};
    uint64_t until = u64_min(deadline_ns, fabric_heap_next_ns(&ofi->timers));
    until = u64_min(until, ofi->now_ns + SLEEP_MAX_NS);
    if (fi_trywait(ofi->fabric, fids, 2) != 0) {
        token_drop(ofi);
        return;
    }
    atomic_store(&ofi->sleep_until_ns, until);
    atomic_fetch_add(&ofi->asleep, 1);
    token_drop(ofi);
    if (!has_work(ofi) &&
        !(latch && atomic_load_explicit(&latch->pending, memory_order_acquire) == 0)) {
        uint64_t left = clock_left_ns(ofi->options.clock, until);
        struct pollfd watched[] = {{.fd = ofi->event_fd, .events = POLLIN},
                                   {.fd = ofi->cq_fd, .events = POLLIN},
                                   {.fd = ofi->eq_fd, .events = POLLIN}};
        if (left > 0 &&
            poll(watched, ARRAY_COUNT(watched), (int)div_round_up(left, NS_PER_MS)) > 0 &&
            watched[0].revents) {
            uint64_t value;
            ssize_t got = read(ofi->event_fd, &value, sizeof(value));
            (void)got;
        }
    }
    atomic_fetch_sub(&ofi->asleep, 1);
    atomic_store(&ofi->sleep_until_ns, 0);
}

/* A wait took so long. */
static void spin_learn(struct spin *spin, uint64_t most_ns, uint64_t waited_ns)
{
    spin->history = (uint8_t)(spin->history << 1 | (waited_ns <= most_ns));
}

/* Whether to go on, when nothing has happened since `active_ns` and nothing has come since
 * `came_ns`. */
static bool spin_pays(const struct ofi *ofi, const struct fabric_latch *latch, uint64_t active_ns,
                      uint64_t came_ns)
{
    const struct spin *spin = latch ? &ofi->waiter_spin : &ofi->thread_spin;
    if (!latch && !ofi->options.listen) {
        return false;
    }
    if ((unsigned)__builtin_popcount(spin->history) > SPIN_HISTORY / 2 &&
        ofi->now_ns - came_ns < SPIN_MOST * ofi->spin_ns) {
        return true;
    }
    return ofi->now_ns - active_ns < ofi->spin_ns;
}

/* After a pass of the endpoint's thread: what came, came so long after what had come before. */
static void thread_learn(struct ofi *ofi)
{
    if (ofi->arrivals != ofi->arrivals_seen) {
        ofi->arrivals_seen = ofi->arrivals;
        spin_learn(&ofi->thread_spin, SPIN_MOST * ofi->spin_ns, ofi->now_ns - ofi->arrived_ns);
        ofi->arrived_ns = ofi->now_ns;
    }
}

/*
 * Passes until nothing happened for the time to spin, the latch is 0, or the deadline; then sleeps
 * once. Without a latch (the endpoint's thread) it ends when a waiter wants to poll.
 */
static void poll_once(struct ofi *ofi, struct fabric_latch *latch, uint64_t deadline_ns,
                      uint64_t began_ns)
{
    bool look = true;
    uint64_t active_ns = latch ? began_ns : ofi->active_ns;
    token_take(ofi);
    for (unsigned passes = 0, idle = 0;; passes++) {
        bool any = pass(ofi, look);
        look = false;
        if (latch && atomic_load_explicit(&latch->pending, memory_order_acquire) == 0) {
            spin_learn(&ofi->waiter_spin, SPIN_MOST * ofi->spin_ns, ofi->now_ns - began_ns);
            break;
        }
        if (!latch) {
            thread_learn(ofi);
            ofi->active_ns = any ? ofi->now_ns : ofi->active_ns;
        }
        if (any) {
            active_ns = ofi->now_ns;
            idle = 0;
            if (ofi->now_ns >= deadline_ns || (!latch && passes >= PASSES_MAX)) {
                break;
            }
            continue;
        }
        if (ofi->now_ns >= deadline_ns ||
            !spin_pays(ofi, latch, active_ns, latch ? active_ns : ofi->arrived_ns)) {
            sleep_until_event(ofi, latch, deadline_ns);
            return;
        }
        token_drop(ofi);
        if (!latch && atomic_load_explicit(&ofi->waiter_count, memory_order_relaxed) > 0) {
            return;
        }
        thread_pause();
        if (++idle % SPINS_PER_YIELD == 0) {
            sched_yield();
        }
        token_take(ofi);
    }
    token_drop(ofi);
}

/* ----------------------------------------------------------------------------- the threads ---- */

void *fabric_ofi_thread(void *context)
{
    struct ofi *ofi = context;
    mutex_lock(&ofi->lock);
    while (!ofi->thread_stop) {
        /* Waiters first: one of them polls, or gets to. */
        if (ofi->poller == POLLER_NONE && list_is_empty(&ofi->waiters) &&
            (!ofi->thread_parked || ofi->options.listen ||
             clock_now_ns(ofi->options.clock) - ofi->released_ns >= LEASE_NS)) {
            ofi->poller = POLLER_THREAD;
        }
        if (ofi->poller != POLLER_THREAD) {
            ofi->thread_parked = true;
            condition_wait(&ofi->thread_wake, &ofi->lock,
                           clock_now_ns(clock_monotonic()) + LEASE_NS);
            continue;
        }
        ofi->thread_parked = false;
        ofi->thread_asleep = true; /* a waiter may take over from here on */
        mutex_unlock(&ofi->lock);
        poll_once(ofi, NULL, DEADLINE_NEVER, 0);
        mutex_lock(&ofi->lock);
        ofi->thread_asleep = false;
        if (ofi->poller == POLLER_THREAD && !list_is_empty(&ofi->waiters)) {
            ofi->poller = POLLER_NONE;
            condition_signal(&CONTAINER_OF(ofi->waiters.next, struct waiter, link)->condition);
        }
    }
    mutex_unlock(&ofi->lock);
    return NULL;
}

/* Under lock: hands the role on. */
static void poller_leave(struct ofi *ofi)
{
    ofi->poller = POLLER_NONE;
    if (!list_is_empty(&ofi->waiters)) {
        condition_signal(&CONTAINER_OF(ofi->waiters.next, struct waiter, link)->condition);
        return;
    }
    ofi->released_ns = clock_now_ns(ofi->options.clock);
    if (!ofi->thread_parked) {
        ofi->poller = POLLER_THREAD; /* it never noticed, or is about to look */
    } else if (ofi->options.listen) {
        condition_signal(&ofi->thread_wake);
    }
}

enum umbp_status fabric_ofi_wait(struct fabric *fabric, struct fabric_latch *latch,
                                 uint64_t deadline_ns)
{
    struct ofi *ofi = ofi_of(fabric);
    ASSERT(!fabric_ofi_on_loop(ofi));
    struct waiter waiter = {.latch = latch};
    uint64_t began_ns = clock_now_ns(ofi->options.clock);
    /* acquire: pairs with latch_down; what the callbacks wrote is seen */
    if (atomic_load_explicit(&latch->pending, memory_order_acquire) == 0) {
        return UMBP_OK;
    }
    condition_init(&waiter.condition);
    mutex_lock(&ofi->lock);
    list_insert_after(ofi->waiters.prev, &waiter.link);
    atomic_fetch_add_explicit(&ofi->waiter_count, 1, memory_order_relaxed);
    enum umbp_status status = UMBP_TIMEOUT;
    for (;;) {
        if (atomic_load_explicit(&latch->pending, memory_order_acquire) == 0) {
            status = UMBP_OK;
            break;
        }
        if (clock_now_ns(ofi->options.clock) >= deadline_ns) {
            break;
        }
        if (!waiter.polls && ofi->poller != POLLER_WAITER) {
            /* From the endpoint's thread too: the token keeps us apart, and it will park. */
            ofi->poller = POLLER_WAITER;
            waiter.polls = true;
        }
        if (!waiter.polls) {
            condition_wait(&waiter.condition, &ofi->lock, deadline_ns);
            continue;
        }
        mutex_unlock(&ofi->lock);
        poll_once(ofi, latch, deadline_ns, began_ns);
        mutex_lock(&ofi->lock);
    }
    list_remove(&waiter.link);
    atomic_fetch_sub_explicit(&ofi->waiter_count, 1, memory_order_relaxed);
    bool thread_sleeps_late = false;
    if (waiter.polls || ofi->poller == POLLER_NONE) {
        poller_leave(ofi);
        thread_sleeps_late = ofi->poller == POLLER_THREAD;
    }
    mutex_unlock(&ofi->lock);
    condition_fini(&waiter.condition);
    /* The thread may sleep past an alarm that was set meanwhile; and who submitted while we had the
     * token counts on us. */
    if (flush_submissions(ofi) || thread_sleeps_late || has_work(ofi)) {
        fabric_ofi_kick(ofi);
    }
    return status;
}

void fabric_ofi_latch_down(struct fabric *fabric, struct fabric_latch *latch)
{
    struct ofi *ofi = ofi_of(fabric);
    bool on_loop = fabric_ofi_on_loop(ofi);
    /* release: pairs with the waiter's acquire. The last access to the latch. */
    if (atomic_fetch_sub_explicit(&latch->pending, 1, memory_order_acq_rel) != 1) {
        return;
    }
    atomic_store(&ofi->latch_fired, true);
    if (!on_loop) {
        wake_waiters(ofi); /* and nobody else: who comes to wait later sees the 0 */
    }
}

bool fabric_ofi_drive(struct ofi *ofi, bool (*is_done)(struct ofi *ofi), uint64_t deadline_ns)
{
    for (;;) {
        token_take(ofi);
        bool any = pass(ofi, true);
        bool done = is_done(ofi) && !has_work(ofi);
        bool late = clock_now_ns(ofi->options.clock) >= deadline_ns;
        token_drop(ofi);
        if (done || late) {
            return done;
        }
        if (!any) {
            struct timespec pause = {0, 200 * 1000};
            nanosleep(&pause, NULL);
        }
    }
}
