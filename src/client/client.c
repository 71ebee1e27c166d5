/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The public functions on a client: check the handle, count the call in, hand it to the scheme.
 *
 * A fork is noticed without a system call: a handler in the child raises an epoch, and a handle
 * remembers the epoch that it was made in. (With the log sink and the allocation hook, the third
 * and last of the process-wide variables.)
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "client/client_priv.h"

#define MEMORY_MAX 65536u
#define CLOSE_LOOK_MS 5u /* how often a closer looks whether the calls in flight are done */

static _Atomic uint64_t fork_epoch;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void in_child(void) { atomic_fetch_add_explicit(&fork_epoch, 1, memory_order_relaxed); }

static void watch_forks(void) { (void)pthread_atfork(NULL, NULL, in_child); }

static bool is_forked(const struct umbp_client *client)
{
    return client->fork_epoch != atomic_load_explicit(&fork_epoch, memory_order_relaxed);
}

/* -------------------------------------------------------------------- calls in flight ---- */

static struct client_stripe *stripe_of(struct umbp_client *client)
{
    static _Atomic uint32_t next_thread;
    static _Thread_local uint32_t mine; /* 0: not given yet */
    if (UNLIKELY(!mine)) {
        mine =
            atomic_fetch_add_explicit(&next_thread, 1, memory_order_relaxed) % CLIENT_STRIPES + 1;
    }
    return &client->stripes[mine - 1];
}

/* The client may be gone once the count is down: nothing of it is touched after that. A closer that
 * raises its flag between our look and our step is not told; it looks again by itself. */
static void leave(struct umbp_client *client)
{
    struct client_stripe *stripe = stripe_of(client);
    if (LIKELY(!atomic_load_explicit(&client->closing, memory_order_seq_cst))) {
        (void)atomic_fetch_sub_explicit(&stripe->calls, 1, memory_order_seq_cst);
        return;
    }
    mutex_lock(&client->lock);
    (void)atomic_fetch_sub_explicit(&stripe->calls, 1, memory_order_seq_cst);
    condition_broadcast(&client->closed_or_left);
    mutex_unlock(&client->lock);
}

static enum umbp_status enter(struct umbp_client *client)
{
    if (UNLIKELY(!client)) {
        return UMBP_INVALID_VALUE;
    }
    if (UNLIKELY(is_forked(client))) {
        return UMBP_FORKED;
    }
    /* Sequentially consistent, both: pairs with umbp_client_close. */
    (void)atomic_fetch_add_explicit(&stripe_of(client)->calls, 1, memory_order_seq_cst);
    if (UNLIKELY(atomic_load_explicit(&client->closing, memory_order_seq_cst))) {
        leave(client);
        return UMBP_CLOSED;
    }
    return UMBP_OK;
}

static int64_t calls_in_flight(struct umbp_client *client)
{
    int64_t sum = 0;
    for (uint32_t i = 0; i < CLIENT_STRIPES; i++) {
        sum += atomic_load_explicit(&client->stripes[i].calls, memory_order_seq_cst);
    }
    return sum;
}

/* ------------------------------------------------------------------------------- life ---- */

static const struct client_ops *scheme_ops(enum config_scheme scheme)
{
    switch (scheme) {
    case CONFIG_SCHEME_LOCAL:
        return &client_local_ops;
    case CONFIG_SCHEME_POOL:
#ifdef UMBP_HAVE_FABRIC
        return &client_pool_ops;
#else
        break;
#endif
    case CONFIG_SCHEME_PROCESS:
        break;
    }
    return NULL;
}

static enum umbp_status create(struct umbp_config *config, struct umbp_client **client_out,
                               char *error_out, size_t error_bytes)
{
    enum umbp_status status = umbp_config_validate(config);
    if (status != UMBP_OK) {
        (void)snprintf(error_out, error_bytes, "%s", umbp_config_error(config));
        return status;
    }
    const struct client_ops *ops = scheme_ops(config_scheme(config));
    if (!ops) {
        (void)snprintf(error_out, error_bytes,
                       "the scheme asked for is not in this build: set scheme to \"local\"");
        return UMBP_UNSUPPORTED;
    }
    struct umbp_client *client = mem_aligned(CACHE_LINE, sizeof(*client));
    if (!client) {
        (void)snprintf(error_out, error_bytes, "out of memory");
        return UMBP_NO_MEMORY;
    }
    memset(client, 0, sizeof(*client));
    (void)pthread_once(&fork_once, watch_forks);
    if (config_log_level_is_set(config)) {
        log_level_set(config_log_level(config));
    }
    client->ops = ops;
    client->fork_epoch = atomic_load_explicit(&fork_epoch, memory_order_relaxed);
    client->op_timeout_ms = config_op_timeout_ms(config);
    client->close_timeout_ms = config_close_timeout_ms(config);
    status = ops->create(config, &client->self, error_out, error_bytes);
    if (status != UMBP_OK) {
        mem_free(client);
        return status;
    }
    mutex_init(&client->lock, RANK_CLIENT);
    condition_init(&client->closed_or_left);
    config_log_timing(config);
    *client_out = client;
    return UMBP_OK;
}

enum umbp_status umbp_client_create(const struct umbp_config *config,
                                    struct umbp_client **client_out, char *error_out,
                                    size_t error_bytes)
{
    char ignored[1];
    struct umbp_config *copy;

    if (!error_out || !error_bytes) {
        error_out = ignored;
        error_bytes = sizeof(ignored);
    }
    error_out[0] = '\0';
    if (!config || !client_out) {
        (void)snprintf(error_out, error_bytes,
                       "a configuration and a place for the client, please");
        return UMBP_INVALID_VALUE;
    }
    enum umbp_status status = config_copy(config, &copy);
    if (status != UMBP_OK) {
        (void)snprintf(error_out, error_bytes, "%s", umbp_status_text(status));
        return status;
    }
    status = create(copy, client_out, error_out, error_bytes);
    umbp_config_destroy(copy);
    if (status != UMBP_OK && !error_out[0]) {
        (void)snprintf(error_out, error_bytes, "%s", umbp_status_text(status));
    }
    return status;
}

/* Under the client's lock, which is given up meanwhile. */
static bool wait_for_calls(struct umbp_client *client, uint64_t deadline_ns)
{
    while (calls_in_flight(client) > 0) {
        uint64_t look_ns = clock_deadline_ns(clock_monotonic(), CLOSE_LOOK_MS);
        (void)condition_wait(&client->closed_or_left, &client->lock, u64_min(look_ns, deadline_ns));
        if (!clock_left_ns(clock_monotonic(), deadline_ns)) {
            return calls_in_flight(client) == 0;
        }
    }
    return true;
}

enum umbp_status umbp_client_close(struct umbp_client *client, uint32_t timeout_ms)
{
    if (!client) {
        return UMBP_INVALID_VALUE;
    }
    if (is_forked(client)) {
        return UMBP_FORKED;
    }
    uint64_t deadline_ns =
        clock_deadline_ns(clock_monotonic(), timeout_ms ? timeout_ms : client->close_timeout_ms);
    enum umbp_status status = UMBP_OK;

    atomic_store_explicit(&client->closing, true, memory_order_seq_cst);
    mutex_lock(&client->lock);
    while (client->close_runs) {
        if (!condition_wait(&client->closed_or_left, &client->lock, deadline_ns)) {
            status = UMBP_TIMEOUT;
            goto unlock;
        }
    }
    if (client->closed) {
        goto unlock;
    }
    client->close_runs = true;
    if (!wait_for_calls(client, deadline_ns)) {
        status = UMBP_TIMEOUT; /* calls still run: a later close, or destroy, tries again */
    } else {
        mutex_unlock(&client->lock);
        status = client->ops->close(client->self, deadline_ns);
        mutex_lock(&client->lock);
        client->closed = true;
    }
    client->close_runs = false;
    condition_broadcast(&client->closed_or_left);
unlock:
    mutex_unlock(&client->lock);
    return status;
}

void umbp_client_destroy(struct umbp_client *client)
{
    if (!client) {
        return;
    }
    if (is_forked(client)) {
        return; /* threads and locks are the parent's: the child's copy is let be */
    }
    (void)!umbp_client_close(client, 0);
    if (calls_in_flight(client) > 0) {
        log_error("client_left_behind", "destroyed with calls in flight; its memory is not freed");
        return;
    }
    client->ops->destroy(client->self);
    mem_free(client->memory);
    condition_fini(&client->closed_or_left);
    mutex_fini(&client->lock);
    mem_free(client);
}

enum umbp_deployment umbp_client_deployment(const struct umbp_client *client)
{
    return client ? client->ops->deployment : UMBP_DEPLOYMENT_LOCAL;
}

bool umbp_client_is_distributed(const struct umbp_client *client)
{
    return client && client->ops->is_distributed;
}

bool umbp_client_supports_ranges(const struct umbp_client *client)
{
    return client && client->ops->supports_ranges;
}

/* ----------------------------------------------------------------------------- batches --- */

/* What is not OK for the call is so for each item; a batch over the limit may have no array. */
static enum umbp_status spread(enum umbp_status status, enum umbp_status *statuses, size_t count)
{
    if (status != UMBP_OK && statuses && count <= UMBP_BATCH_MAX) {
        for (size_t i = 0; i < count; i++) {
            statuses[i] = status;
        }
    }
    return status;
}

#define CLIENT_CALL(client, call)                                                                  \
    do {                                                                                           \
        status = enter(client);                                                                    \
        if (status == UMBP_OK) {                                                                   \
            status = (call);                                                                       \
            leave(client);                                                                         \
        }                                                                                          \
    } while (0)

enum umbp_status umbp_batch_put(struct umbp_client *client, const struct umbp_put_item *items,
                                size_t count, enum umbp_status *statuses_out)
{
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->batch_put(client->self, items, count, statuses_out));
    return spread(status, statuses_out, count);
}

enum umbp_status umbp_batch_get(struct umbp_client *client, const struct umbp_get_item *items,
                                size_t count, enum umbp_status *statuses_out)
{
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->batch_get(client->self, items, count, statuses_out));
    return spread(status, statuses_out, count);
}

enum umbp_status umbp_batch_put_ranges(struct umbp_client *client,
                                       const struct umbp_range_item *items, size_t count,
                                       enum umbp_status *statuses_out)
{
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->batch_put_ranges(client->self, items, count, statuses_out));
    return spread(status, statuses_out, count);
}

enum umbp_status umbp_batch_get_ranges(struct umbp_client *client,
                                       const struct umbp_range_item *items, size_t count,
                                       enum umbp_status *statuses_out)
{
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->batch_get_ranges(client->self, items, count, statuses_out));
    return spread(status, statuses_out, count);
}

enum umbp_status umbp_batch_exists(struct umbp_client *client, const struct umbp_key *keys,
                                   size_t count, uint8_t *found_out)
{
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->batch_exists(client->self, keys, count, found_out));
    return status;
}

enum umbp_status umbp_batch_exists_consecutive(struct umbp_client *client,
                                               const struct umbp_key *keys, size_t count,
                                               size_t *hits_out)
{
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->exists_consecutive(client->self, keys, count, hits_out));
    return status;
}

enum umbp_status umbp_batch_remove(struct umbp_client *client, const struct umbp_key *keys,
                                   size_t count, enum umbp_status *statuses_out)
{
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->batch_remove(client->self, keys, count, statuses_out));
    return spread(status, statuses_out, count);
}

/* ----------------------------------------------------------------------------- singles --- */

enum umbp_status umbp_put(struct umbp_client *client, struct umbp_key key, const void *data,
                          uint64_t bytes, uint32_t depth)
{
    const struct umbp_put_item item = {.key = key, .data = data, .bytes = bytes, .depth = depth};
    enum umbp_status one = UMBP_OK;
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->batch_put(client->self, &item, 1, &one));
    return status == UMBP_OK ? one : status;
}

enum umbp_status umbp_get(struct umbp_client *client, struct umbp_key key, void *data_out,
                          uint64_t bytes)
{
    const struct umbp_get_item item = {.key = key, .data = data_out, .bytes = bytes};
    enum umbp_status one = UMBP_OK;
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->batch_get(client->self, &item, 1, &one));
    return status == UMBP_OK ? one : status;
}

enum umbp_status umbp_exists(struct umbp_client *client, struct umbp_key key)
{
    uint8_t found = 0;
    enum umbp_status status;
    if (key.bytes < UMBP_KEY_BYTES_MIN || key.bytes > UMBP_KEY_BYTES_MAX || !key.data) {
        return client ? UMBP_INVALID_KEY : UMBP_INVALID_VALUE;
    }
    CLIENT_CALL(client, client->ops->batch_exists(client->self, &key, 1, &found));
    if (status != UMBP_OK) {
        return status;
    }
    return found ? UMBP_OK : UMBP_NOT_FOUND;
}

enum umbp_status umbp_remove(struct umbp_client *client, struct umbp_key key)
{
    enum umbp_status one = UMBP_OK;
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->batch_remove(client->self, &key, 1, &one));
    return status == UMBP_OK ? one : status;
}

/* ------------------------------------------------------------------------------ upkeep --- */

static uint64_t call_deadline(const struct umbp_client *client, uint32_t timeout_ms)
{
    return clock_deadline_ns(clock_monotonic(), timeout_ms ? timeout_ms : client->op_timeout_ms);
}

/* ------------------------------------------------------------------ external KV index ---- */

static enum umbp_status external_tell(struct umbp_client *client, enum client_external op,
                                      const struct umbp_key *hashes, size_t count,
                                      enum umbp_tier tier)
{
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->external_tell(client->self, op, hashes, count, tier));
    return status;
}

enum umbp_status umbp_external_report(struct umbp_client *client, const struct umbp_key *hashes,
                                      size_t count, enum umbp_tier tier)
{
    return external_tell(client, CLIENT_EXTERNAL_REPORT, hashes, count, tier);
}

enum umbp_status umbp_external_revoke(struct umbp_client *client, const struct umbp_key *hashes,
                                      size_t count, enum umbp_tier tier)
{
    return external_tell(client, CLIENT_EXTERNAL_REVOKE, hashes, count, tier);
}

enum umbp_status umbp_external_revoke_all(struct umbp_client *client, enum umbp_tier tier)
{
    return external_tell(client, CLIENT_EXTERNAL_REVOKE_ALL, NULL, 0, tier);
}

enum umbp_status umbp_external_match(
    struct umbp_client *client, const struct umbp_key *hashes, size_t count, bool counts_as_hit,
    void (*visit)(void *context, const struct umbp_external_match *match), void *context)
{
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->external_match(client->self, hashes, count, counts_as_hit,
                                                    visit, context));
    return status;
}

enum umbp_status umbp_external_hits(struct umbp_client *client, const struct umbp_key *hashes,
                                    size_t count, uint64_t *hits_out)
{
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->external_hits(client->self, hashes, count, hits_out));
    return status;
}

enum umbp_status umbp_flush(struct umbp_client *client, uint32_t timeout_ms)
{
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->flush(client->self, call_deadline(client, timeout_ms)));
    return status;
}

enum umbp_status umbp_clear(struct umbp_client *client)
{
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->clear(client->self, call_deadline(client, 0)));
    return status;
}

enum umbp_status umbp_list(struct umbp_client *client,
                           bool (*visit)(void *context, const struct umbp_entry_info *),
                           void *context)
{
    enum umbp_status status;
    if (!visit) {
        return UMBP_INVALID_VALUE;
    }
    CLIENT_CALL(client, client->ops->list(client->self, visit, context));
    return status;
}

enum umbp_status umbp_stat(struct umbp_client *client, struct umbp_key key,
                           struct umbp_entry_info *info_out)
{
    struct umbp_entry_info info = {0};
    enum umbp_status status;
    if (!info_out) {
        return UMBP_INVALID_VALUE;
    }
    CLIENT_CALL(client, client->ops->stat(client->self, key, &info));
    if (status == UMBP_OK) {
        /* As much as the caller's version of the structure has; 0 is this version. */
        size_t room = info_out->struct_bytes ? info_out->struct_bytes : sizeof(info);
        info.struct_bytes = size_min(room, sizeof(info));
        memcpy(info_out, &info, info.struct_bytes);
    }
    return status;
}

enum umbp_status umbp_stats(struct umbp_client *client, struct umbp_stat_value *values_out,
                            size_t capacity, size_t *count_out)
{
    enum umbp_status status;
    CLIENT_CALL(client, client->ops->stats(client->self, values_out, capacity, count_out));
    return status;
}

/* -------------------------------------------------------------------------- registered --- */

/* The first registered range that ends behind `from`. */
static size_t memory_search(const struct umbp_client *client, uintptr_t from)
{
    size_t low = 0;
    size_t high = client->memory_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (client->memory[middle].to <= from) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static enum umbp_status memory_add(struct umbp_client *client, uintptr_t from, uintptr_t to)
{
    size_t at = memory_search(client, from);
    if (at < client->memory_count && client->memory[at].from < to) {
        return UMBP_ALREADY_EXISTS;
    }
    if (client->memory_count == MEMORY_MAX) {
        return UMBP_LIMIT;
    }
    if (client->memory_count == client->memory_capacity) {
        size_t capacity = client->memory_capacity ? client->memory_capacity * 2 : 16;
        struct client_memory *memory = mem_realloc(client->memory, capacity * sizeof(*memory));
        if (!memory) {
            return UMBP_NO_MEMORY;
        }
        client->memory = memory;
        client->memory_capacity = capacity;
    }
    memmove(&client->memory[at + 1], &client->memory[at],
            (client->memory_count - at) * sizeof(client->memory[0]));
    client->memory[at] = (struct client_memory){from, to};
    client->memory_count++;
    return UMBP_OK;
}

static enum umbp_status memory_take(struct umbp_client *client, uintptr_t from,
                                    struct client_memory *memory_out)
{
    size_t at = memory_search(client, from);
    if (at == client->memory_count || client->memory[at].from != from) {
        return UMBP_NOT_FOUND;
    }
    *memory_out = client->memory[at];
    client->memory_count--;
    memmove(&client->memory[at], &client->memory[at + 1],
            (client->memory_count - at) * sizeof(client->memory[0]));
    return UMBP_OK;
}

enum umbp_status umbp_register_memory(struct umbp_client *client, void *data, size_t bytes)
{
    uintptr_t from = (uintptr_t)data;
    if (!data || !bytes || bytes > UINTPTR_MAX - from) {
        return UMBP_INVALID_VALUE;
    }
    enum umbp_status status = enter(client);
    if (status == UMBP_OK) {
        mutex_lock(&client->lock);
        status = memory_add(client, from, from + bytes);
        mutex_unlock(&client->lock);
        if (status == UMBP_OK) {
            status = client->ops->register_memory(client->self, data, bytes);
            if (status != UMBP_OK) {
                struct client_memory memory;
                mutex_lock(&client->lock);
                (void)!memory_take(client, from, &memory);
                mutex_unlock(&client->lock);
            }
        }
        leave(client);
    }
    return status;
}

enum umbp_status umbp_deregister_memory(struct umbp_client *client, void *data)
{
    enum umbp_status status = enter(client);
    if (status == UMBP_OK) {
        struct client_memory memory = {0};
        mutex_lock(&client->lock);
        status = memory_take(client, (uintptr_t)data, &memory);
        mutex_unlock(&client->lock);
        if (status == UMBP_OK) {
            status = client->ops->deregister_memory(client->self, data);
            if (status != UMBP_OK) {
                mutex_lock(&client->lock);
                (void)!memory_add(client, memory.from, memory.to);
                mutex_unlock(&client->lock);
            }
        }
        leave(client);
    }
    return status;
}
