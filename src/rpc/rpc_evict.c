/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The core's advice, on its way to public nodes.
 *
 *     offer ──advice──► inbox ──► members: victims ──a call of some of them──► gRPC
 *                                  ▲                                            │
 *                                  └──────── next call, or back-off ◄── queue ◄─┘
 *
 * One thread owns the members and starts and ends all calls; only the inbox is shared. It never
 * waits for a node: it sleeps on the inbox while no call is under way, and on gRPC's queue, for
 * LOOK_MS at most, while one is.
 */
#include "rpc/rpc_priv.h"

#include <grpc/grpc.h>

#define LOOK_MS 50u            /* how late the inbox is seen while calls are under way */
#define MEMBERS_CHECK_MS 1000u /* how late a node's going is */
#define LOG_EVERY_MS 60000u    /* for each node */
#define ANSWERS_MEMORY_BYTES (64 * MIB)

_Static_assert(RPC_EVICT_BYTES_MAX > UMBP_KEY_BYTES_MAX + 16, "a call takes any one key");

struct member {
    uint32_t node; /* handle */
    char id[MASTER_TEXT_BYTES_MAX + 1];
    char address[MASTER_TEXT_BYTES_MAX + 1];
    struct rpc_peer *peer; /* NULL: not called yet, or failed */
    bool is_calling;
    bool is_gone; /* with its call */

    /* Victims of the last advice: one piece of memory, the keys' bytes behind the array. */
    ProtobufCBinaryData *keys;
    size_t count;
    size_t at; /* before it all are sent */
    uint64_t waiting_bytes;

    unsigned failures; /* without a success since */
    uint64_t retry_ns;
    struct log_limit log;
};

struct rpc_evictor {
    struct master *master;
    uint32_t deadline_ms;
    struct rpc_budget budget;
    struct rpc_arena *arena;
    grpc_completion_queue *queue;
    pthread_t thread;
    bool is_started;
    bool is_joined;

    struct mutex guard; /* RANK_LEAF: the inbox */
    struct condition wake;
    struct master_advice inbox;
    bool has_advice;
    bool is_stopping;

    /* The thread's own. */
    struct member *members[MASTER_NODES_MAX];
    size_t member_count;
    size_t first; /* who is looked at first for the next call */
    size_t calls_running;
    uint64_t waiting_bytes;
    uint64_t check_ns;

    /* relaxed: numbers for people */
    _Atomic uint64_t calls[RPC_CODE_COUNT];
    _Atomic uint64_t keys_sent;
    _Atomic uint64_t keys_freed;
    _Atomic uint64_t bytes_freed;
    _Atomic uint64_t skipped[RPC_EVICT_SKIP_COUNT];
    _Atomic uint64_t peer_count;
    _Atomic uint64_t running_count;
};

static void add(_Atomic uint64_t *number, uint64_t by)
{
    atomic_fetch_add_explicit(number, by, memory_order_relaxed);
}

static uint64_t load(const _Atomic uint64_t *number)
{
    return atomic_load_explicit(number, memory_order_relaxed);
}

static void show(_Atomic uint64_t *number, uint64_t value)
{
    atomic_store_explicit(number, value, memory_order_relaxed);
}

static uint64_t now_ns(void) { return clock_now_ns(clock_monotonic()); }

/* ----------------------------------------------------------------- members ------------- */

static void drop_victims(struct rpc_evictor *evictor, struct member *member,
                         enum rpc_evict_skip why)
{
    if (member->at < member->count) {
        add(&evictor->skipped[why], member->count - member->at);
    }
    evictor->waiting_bytes -= member->waiting_bytes;
    mem_free(member->keys);
    member->keys = NULL;
    member->count = member->at = 0;
    member->waiting_bytes = 0;
}

static void close_member(struct rpc_evictor *evictor, struct member *member)
{
    drop_victims(evictor, member, RPC_EVICT_SKIP_GONE);
    rpc_peer_close(member->peer);
    mem_free(member);
}

static struct member *find_member(struct rpc_evictor *evictor, uint32_t node)
{
    for (size_t i = 0; i < evictor->member_count; i++) {
        if (evictor->members[i]->node == node && !evictor->members[i]->is_gone) {
            return evictor->members[i];
        }
    }
    return NULL;
}

/* The member of a living node whose address is one; NULL with the reason. */
static struct member *member_of(struct rpc_evictor *evictor, uint32_t node,
                                enum rpc_evict_skip *why_out)
{
    struct master_addresses addresses;
    char target[RPC_PEER_TARGET_BYTES];
    struct member *member = find_member(evictor, node);
    if (member != NULL) {
        return member;
    }
    if (master_node_addresses(evictor->master, node, &addresses) != UMBP_OK) {
        *why_out = RPC_EVICT_SKIP_GONE;
        return NULL;
    }
    if (rpc_peer_target(addresses.peer_address, target) != UMBP_OK) {
        *why_out = RPC_EVICT_SKIP_ADDRESS;
        return NULL;
    }
    *why_out = RPC_EVICT_SKIP_MEMORY;
    member = evictor->member_count < MASTER_NODES_MAX ? mem_zalloc(sizeof *member) : NULL;
    if (member != NULL) {
        member->node = node;
        snprintf(member->id, sizeof member->id, "%s", addresses.id);
        snprintf(member->address, sizeof member->address, "%s", addresses.peer_address);
        evictor->members[evictor->member_count++] = member;
    }
    return member;
}

/* Nodes that left, or came back elsewhere. */
static void check_members(struct rpc_evictor *evictor)
{
    size_t kept = 0;
    for (size_t i = 0; i < evictor->member_count; i++) {
        struct member *member = evictor->members[i];
        struct master_addresses addresses;
        if (master_node_addresses(evictor->master, member->node, &addresses) != UMBP_OK ||
            strcmp(addresses.peer_address, member->address) != 0) {
            if (!member->is_calling) {
                close_member(evictor, member);
                continue;
            }
            if (!member->is_gone) {
                member->is_gone = true;
                rpc_peer_cancel(member->peer);
            }
        }
        evictor->members[kept++] = member;
    }
    evictor->member_count = kept;
}

/* ----------------------------------------------------------------- victims ------------- */

/* Copies the node's victims, those whose keys are known. False: no memory. */
static bool give_victims(struct rpc_evictor *evictor, struct member *member,
                         const struct master_victim *victims, size_t count)
{
    size_t known = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        if (victims[i].key_bytes > 0) {
            known++;
            bytes += sizeof(ProtobufCBinaryData) + victims[i].key_bytes;
        }
    }
    add(&evictor->skipped[RPC_EVICT_SKIP_KEY], count - known);
    if (known == 0) {
        return true;
    }
    ProtobufCBinaryData *keys = evictor->waiting_bytes + bytes <= RPC_EVICT_WAITING_BYTES_MAX
                                    ? mem_alloc((size_t)bytes)
                                    : NULL;
    if (keys == NULL) {
        add(&evictor->skipped[RPC_EVICT_SKIP_MEMORY], known);
        return false;
    }
    uint8_t *at = (uint8_t *)(keys + known);
    for (size_t i = 0, k = 0; i < count; i++) {
        if (victims[i].key_bytes > 0) {
            memcpy(at, victims[i].key, victims[i].key_bytes);
            keys[k++] = (ProtobufCBinaryData){victims[i].key_bytes, at};
            at += victims[i].key_bytes;
        }
    }
    member->keys = keys;
    member->count = known;
    member->waiting_bytes = bytes;
    evictor->waiting_bytes += bytes;
    return true;
}

static void take_node(struct rpc_evictor *evictor, const struct master_victim *victims,
                      size_t count)
{
    enum rpc_evict_skip why = RPC_EVICT_SKIP_GONE;
    struct member *member = member_of(evictor, victims[0].node, &why);
    if (member == NULL) {
        add(&evictor->skipped[why], count);
    } else if (member->is_calling) {
        add(&evictor->skipped[RPC_EVICT_SKIP_BUSY], count);
    } else if (now_ns() < member->retry_ns) {
        add(&evictor->skipped[RPC_EVICT_SKIP_RETRY], count);
    } else {
        drop_victims(evictor, member, RPC_EVICT_SKIP_BUSY);
        (void)give_victims(evictor, member, victims, count); /* counted there */
    }
}

static void take_advice(struct rpc_evictor *evictor, struct master_advice *advice)
{
    size_t begin = 0;
    for (size_t i = 1; i <= advice->count; i++) {
        if (i == advice->count || advice->victims[i].node != advice->victims[begin].node) {
            take_node(evictor, &advice->victims[begin], i - begin);
            begin = i;
        }
    }
    master_advice_free(advice);
}

/* ------------------------------------------------------------------- calls ------------- */

static void failed(struct rpc_evictor *evictor, struct member *member,
                   const struct rpc_peer_result *result)
{
    uint64_t held_back;
    uint64_t wait_ms = RPC_EVICT_RETRY_MS;
    for (unsigned i = 0; i < member->failures && wait_ms < RPC_EVICT_RETRY_MAX_MS; i++) {
        wait_ms *= 2;
    }
    wait_ms = u64_min(wait_ms, RPC_EVICT_RETRY_MAX_MS);
    member->failures++;
    member->retry_ns = now_ns() + wait_ms * NS_PER_MS;
    drop_victims(evictor, member, RPC_EVICT_SKIP_RETRY);
    rpc_peer_close(member->peer); /* the next call connects anew */
    member->peer = NULL;
    if (log_limit_pass(&member->log, LOG_EVERY_MS, &held_back)) {
        log_warn("evict_key",
                 "node=\"%s\" peer=%s code=%s message=\"%s\" failures=%u retry_ms=%llu "
                 "held_back=%llu",
                 member->id, member->address, rpc_code_name(result->code), result->message,
                 member->failures, (unsigned long long)wait_ms, (unsigned long long)held_back);
    }
}

static void start_call(struct rpc_evictor *evictor, struct member *member)
{
    char target[RPC_PEER_TARGET_BYTES];
    size_t count = 0;
    size_t bytes = 0;
    if (member->peer == NULL && (rpc_peer_target(member->address, target) != UMBP_OK ||
                                 rpc_peer_open(target, member, &member->peer) != UMBP_OK)) {
        drop_victims(evictor, member, RPC_EVICT_SKIP_MEMORY);
        return;
    }
    while (member->at + count < member->count && count < RPC_EVICT_KEYS_MAX) {
        bytes += member->keys[member->at + count].len + 3; /* its tag and length */
        if (bytes > RPC_EVICT_BYTES_MAX) {
            break;
        }
        count++;
    }
    rpc_peer_call(member->peer, evictor->queue, member->keys + member->at, count,
                  evictor->deadline_ms);
    member->is_calling = true;
    member->at += count;
    evictor->calls_running++;
    add(&evictor->keys_sent, count);
}

static void start_calls(struct rpc_evictor *evictor)
{
    for (size_t i = 0; i < evictor->member_count && evictor->calls_running < RPC_EVICT_CALLS_MAX;
         i++) {
        /* the one that had to wait comes first the next time */
        evictor->first = (evictor->first + 1) % evictor->member_count;
        struct member *member = evictor->members[evictor->first];
        if (!member->is_calling && !member->is_gone && member->at < member->count) {
            start_call(evictor, member);
        }
    }
}

static void end_call(struct rpc_evictor *evictor, struct rpc_peer *peer)
{
    struct rpc_peer_result result;
    struct member *member = rpc_peer_context(peer);
    rpc_peer_finish(peer, evictor->arena, &result);
    member->is_calling = false;
    evictor->calls_running--;
    add(&evictor->calls[result.code], 1);
    if (member->is_gone) {
        evictor->check_ns = 0;
    } else if (result.code != RPC_OK) {
        failed(evictor, member, &result);
    } else {
        add(&evictor->keys_freed, result.keys_freed);
        add(&evictor->bytes_freed, result.bytes_freed);
        if (member->failures > 0) {
            log_info("evict_key", "node=\"%s\" peer=%s code=OK failures_before=%u", member->id,
                     member->address, member->failures);
        }
        member->failures = 0;
        if (member->at == member->count) {
            drop_victims(evictor, member, RPC_EVICT_SKIP_GONE);
        }
    }
}

/* Ends what has ended; waits for it until `wait_ms` have passed. */
static void end_calls(struct rpc_evictor *evictor, uint64_t wait_ms)
{
    gpr_timespec until = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                      gpr_time_from_millis((int64_t)wait_ms, GPR_TIMESPAN));
    while (evictor->calls_running > 0) {
        grpc_event event = grpc_completion_queue_next(evictor->queue, until, NULL);
        if (event.type != GRPC_OP_COMPLETE) {
            return;
        }
        end_call(evictor, event.tag);
        until = gpr_time_0(GPR_CLOCK_MONOTONIC); /* and what there is besides */
    }
}

/* ------------------------------------------------------------------ thread ------------- */

/* False: the end. */
static bool next_advice(struct rpc_evictor *evictor, struct master_advice *advice_out)
{
    mutex_lock(&evictor->guard);
    if (!evictor->has_advice && !evictor->is_stopping && evictor->calls_running == 0) {
        (void)condition_wait(&evictor->wake, &evictor->guard,
                             clock_deadline_ns(clock_monotonic(), evictor->member_count > 0
                                                                      ? MEMBERS_CHECK_MS
                                                                      : LOG_EVERY_MS));
    }
    *advice_out = evictor->has_advice ? evictor->inbox : (struct master_advice){0};
    evictor->has_advice = false;
    bool goes_on = !evictor->is_stopping;
    mutex_unlock(&evictor->guard);
    return goes_on;
}

static void end(struct rpc_evictor *evictor)
{
    for (size_t i = 0; i < evictor->member_count; i++) {
        struct member *member = evictor->members[i];
        if (member->is_calling) {
            member->is_gone = true; /* what it ends with is our doing */
            rpc_peer_cancel(member->peer);
        }
    }
    while (evictor->calls_running > 0) {
        end_calls(evictor, 1000); /* gRPC ends what is cancelled */
    }
    for (size_t i = 0; i < evictor->member_count; i++) {
        close_member(evictor, evictor->members[i]);
    }
    evictor->member_count = 0;
}

static void *run(void *context)
{
    struct rpc_evictor *evictor = context;
    struct master_advice advice;
    while (next_advice(evictor, &advice)) {
        uint64_t now = now_ns();
        if (advice.count > 0 || now >= evictor->check_ns) {
            check_members(evictor);
            evictor->check_ns = now + MEMBERS_CHECK_MS * NS_PER_MS;
        }
        take_advice(evictor, &advice);
        start_calls(evictor);
        show(&evictor->peer_count, evictor->member_count);
        show(&evictor->running_count, evictor->calls_running);
        end_calls(evictor, LOOK_MS);
        start_calls(evictor); /* before it may sleep: what waited for those that ended */
        show(&evictor->running_count, evictor->calls_running);
    }
    master_advice_free(&advice);
    end(evictor);
    return NULL;
}

/* -------------------------------------------------------------------- life ------------- */

enum umbp_status rpc_evictor_create(const struct rpc_evictor_options *options,
                                    struct rpc_evictor **evictor_out)
{
    struct rpc_evictor *evictor = mem_zalloc(sizeof *evictor);
    if (evictor == NULL) {
        return UMBP_NO_MEMORY;
    }
    evictor->master = options->master;
    evictor->deadline_ms = options->deadline_ms > 0 ? options->deadline_ms : 1000;
    mutex_init(&evictor->guard, RANK_LEAF);
    condition_init(&evictor->wake);
    rpc_budget_init(&evictor->budget, ANSWERS_MEMORY_BYTES);
    grpc_init();
    evictor->queue = grpc_completion_queue_create_for_next(NULL);
    enum umbp_status status = rpc_arena_create(&evictor->budget, &evictor->arena);
    if (status == UMBP_OK) {
        status = thread_create(&evictor->thread, "umbp-evict", false, run, evictor);
        evictor->is_started = status == UMBP_OK;
    }
    if (status != UMBP_OK) {
        rpc_evictor_destroy(evictor);
        return status;
    }
    *evictor_out = evictor;
    return UMBP_OK;
}

void rpc_evictor_offer(struct rpc_evictor *evictor, struct master_advice *advice)
{
    mutex_lock(&evictor->guard);
    struct master_advice old = *advice;
    if (!evictor->is_stopping) {
        old = evictor->has_advice ? evictor->inbox : (struct master_advice){0};
        evictor->inbox = *advice;
        evictor->has_advice = true;
        condition_signal(&evictor->wake);
    }
    mutex_unlock(&evictor->guard);
    *advice = (struct master_advice){0};
    add(&evictor->skipped[RPC_EVICT_SKIP_BUSY], old.count);
    master_advice_free(&old);
}

void rpc_evictor_stop(struct rpc_evictor *evictor)
{
    mutex_lock(&evictor->guard);
    evictor->is_stopping = true;
    condition_signal(&evictor->wake);
    mutex_unlock(&evictor->guard);
    if (evictor->is_started && !evictor->is_joined) {
        pthread_join(evictor->thread, NULL);
        evictor->is_joined = true;
    }
}

void rpc_evictor_destroy(struct rpc_evictor *evictor)
{
    if (evictor == NULL) {
        return;
    }
    rpc_evictor_stop(evictor);
    grpc_completion_queue_shutdown(evictor->queue);
    while (
        grpc_completion_queue_next(evictor->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type !=
        GRPC_QUEUE_SHUTDOWN) {
    }
    grpc_completion_queue_destroy(evictor->queue);
    rpc_arena_destroy(evictor->arena);
    condition_fini(&evictor->wake);
    mutex_fini(&evictor->guard);
    mem_free(evictor);
    grpc_shutdown_blocking();
}

void rpc_evictor_stats(const struct rpc_evictor *evictor, struct rpc_evict_stats *stats_out)
{
    *stats_out = (struct rpc_evict_stats){
        .keys_sent = load(&evictor->keys_sent),
        .keys_freed = load(&evictor->keys_freed),
        .bytes_freed = load(&evictor->bytes_freed),
        .peers = load(&evictor->peer_count),
        .calls_running = load(&evictor->running_count),
    };
    for (size_t i = 0; i < RPC_CODE_COUNT; i++) {
        stats_out->calls[i] = load(&evictor->calls[i]);
    }
    for (size_t i = 0; i < RPC_EVICT_SKIP_COUNT; i++) {
        stats_out->keys_skipped[i] = load(&evictor->skipped[i]);
    }
}
