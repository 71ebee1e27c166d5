/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool scheme, put together: a store, an endpoint of the fabric, the node that serves the one
 * over the other, and the pool client that reaches everybody else's. With pool.serve off there is
 * no store and no node.
 *
 *   made:  find the masters' doors -> store -> node -> fabric (its loop may run from here on)
 *          -> pool client -> node_start -> follow the doors
 *   ended: the doors' threads -> node_stop -> fabric_close -> store_close; then pool, node, fabric,
 *          store, doors are freed
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "client/client_priv.h"
#include "fabric/fabric.h"
#include "node/node.h"
#include "pool/pool.h"
#include "store/store.h"

#define FIND_DOOR_MS 1000u
#define EVENT_RING_BYTES (16u * MIB)
#define TAGS_MAX 32u
#define LIST_BYTES 4096u
#define SETTLE_MS 1000u
#define NODE_ID_BYTES_MAX 255u /* as masters take it */

struct pool_client {
    struct client_doors *doors; /* before all others, and after them: they want doors */
    struct store *store;
    struct node *node;
    struct fabric *fabric;
    _Atomic(struct pool *) pool;
    struct fabric_handlers node_handlers;
    bool has_node;
    uint32_t close_timeout_ms;
};

/* Everything that is only needed while it is made. */
struct making {
    struct pool_client *self;
    const struct umbp_config *config;
    struct config_pool options;
    struct store_options store;
    char masters[LIST_BYTES]; /* cut at the commas */
    char tags[LIST_BYTES];
    char doors[POOL_MASTERS_MAX][FABRIC_ADDRESS_MAX];
    const char *door_list[POOL_MASTERS_MAX];
    uint32_t door_count;
    const char *tag_list[TAGS_MAX];
    uint32_t tag_count;
    char local[FABRIC_ADDRESS_MAX]; /* from which the first master is reached */
    char node_id[256];
    uint64_t incarnation;
    char *error;
    size_t error_bytes;
};

/* ----------------------------------------------------------------------------- handlers -- */

static enum umbp_status on_accept(void *context, const struct fabric_hello *hello)
{
    struct pool_client *self = context;
    return self->has_node && hello->incoming && self->node_handlers.accept
               ? self->node_handlers.accept(self->node_handlers.context, hello)
               : UMBP_OK;
}

static void on_peer_up(void *context, fabric_peer peer, const struct fabric_hello *hello)
{
    struct pool_client *self = context;
    if (self->has_node && self->node_handlers.peer_up) {
        self->node_handlers.peer_up(self->node_handlers.context, peer, hello);
    }
}

static void on_peer_down(void *context, fabric_peer peer, enum umbp_status reason)
{
    struct pool_client *self = context;
    /* acquire: pairs with the maker's release; before that the pool has no peers */
    struct pool *pool = atomic_load_explicit(&self->pool, memory_order_acquire);
    if (self->has_node && self->node_handlers.peer_down) {
        self->node_handlers.peer_down(self->node_handlers.context, peer, reason);
    }
    if (pool) {
        pool_peer_down(pool, peer, reason);
    }
}

static void on_request(void *context, struct fabric_request *request)
{
    struct pool_client *self = context;
    self->node_handlers.request(self->node_handlers.context, request);
}

static void on_message(void *context, fabric_peer peer, const void *data, size_t bytes)
{
    struct pool_client *self = context;
    if (self->has_node && self->node_handlers.message) {
        self->node_handlers.message(self->node_handlers.context, peer, data, bytes);
    }
}

/* Any thread: a master does not answer where its door was. */
static void on_master_wanted(void *context, uint32_t master)
{
    struct pool_client *self = context;
    client_doors_want(self->doors, master);
}

/* On a thread of the doors'; everything is made by then. */
static void on_master_found(void *context, uint32_t master, const char *address)
{
    struct pool_client *self = context;
    pool_master_found(atomic_load_explicit(&self->pool, memory_order_acquire), master, address);
    if (self->has_node) {
        node_master_found(self->node, master, address);
    }
}

/* -------------------------------------------------------------------------------- lists -- */

/* Cut "a,b , c" at its commas, in place. False: more than `room`, or an empty one. */
static bool cut(char *text, const char **list, uint32_t room, uint32_t *count_out)
{
    uint32_t count = 0;
    char *at = text;
    while (*at) {
        char *end = strchr(at, ',');
        char *next = end ? end + 1 : at + strlen(at);
        if (end) {
            *end = '\0';
        }
        at += strspn(at, " \t");
        size_t bytes = strlen(at);
        while (bytes && (at[bytes - 1] == ' ' || at[bytes - 1] == '\t')) {
            at[--bytes] = '\0';
        }
        if (!bytes || count == room) {
            return false;
        }
        list[count++] = at;
        at = next;
    }
    *count_out = count;
    return true;
}

/* Two sessions of a node with one master would number their news against each other. */
static uint32_t drop_twins(const char **masters, uint32_t count)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count; i++) {
        bool is_twin = false;
        for (uint32_t k = 0; k < kept; k++) {
            is_twin |= strcmp(masters[k], masters[i]) == 0;
        }
        if (is_twin) {
            log_warn("master_named_twice", "master=\"%s\" used=once", masters[i]);
        } else {
            masters[kept++] = masters[i];
        }
    }
    return kept;
}

static enum umbp_status find_doors(struct making *making)
{
    const char *masters[POOL_MASTERS_MAX];
    uint32_t count;

    (void)snprintf(making->masters, sizeof(making->masters), "%s", making->options.masters);
    if (!cut(making->masters, masters, POOL_MASTERS_MAX, &count) || !count) {
        (void)snprintf(making->error, making->error_bytes,
                       "pool.masters \"%.200s\": write 1 to %u addresses host:port, separated by "
                       "commas",
                       making->options.masters, POOL_MASTERS_MAX);
        return UMBP_INVALID_VALUE;
    }
    count = drop_twins(masters, count);
    const struct client_doors_options options = {
        .masters = masters,
        .count = count,
        .cluster = making->options.cluster,
        .hash_seed = making->store.hash_seed,
    };
    enum umbp_status status = client_doors_create(&options, &making->self->doors);
    uint64_t deadline_ns = clock_deadline_ns(clock_monotonic(), FIND_DOOR_MS);
    for (uint32_t i = 0; status == UMBP_OK && i < count; i++) {
        struct client_door door;
        status = client_doors_first(making->self->doors, i, deadline_ns, &door);
        if (status != UMBP_OK) {
            (void)snprintf(making->error, making->error_bytes, "%s", door.error);
            break;
        }
        memcpy(making->doors[i], door.address, sizeof(making->doors[i]));
        making->door_list[i] = making->doors[i];
        if (!making->local[0]) {
            memcpy(making->local, door.local, sizeof(making->local));
        }
    }
    if (status != UMBP_OK) {
        return status;
    }
    making->door_count = count;
    (void)snprintf(making->tags, sizeof(making->tags), "%s", making->options.tags);
    if (!cut(making->tags, making->tag_list, TAGS_MAX, &making->tag_count)) {
        (void)snprintf(making->error, making->error_bytes,
                       "pool.tags \"%.200s\": write at most %u tags key=value, separated by commas",
                       making->options.tags, TAGS_MAX);
        return UMBP_INVALID_VALUE;
    }
    return UMBP_OK;
}

/* False: the id that was given is none that masters take. */
static bool is_good_id(const char *id)
{
    for (const char *at = id; *at; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7F) {
            return false;
        }
    }
    return strlen(id) <= NODE_ID_BYTES_MAX;
}

static enum umbp_status check_names(struct making *making)
{
    const char *address = making->options.address;
    struct in6_addr six;
    if (!is_good_id(making->options.node_id)) {
        (void)snprintf(making->error, making->error_bytes,
                       "pool.node_id: an id has 1 to %u bytes and no control characters",
                       NODE_ID_BYTES_MAX);
        return UMBP_INVALID_VALUE;
    }
    if (strchr(address, ':') && inet_pton(AF_INET6, address, &six) != 1) {
        (void)snprintf(making->error, making->error_bytes,
                       "pool.address \"%.200s\": write a host or an address; the port is pool.port",
                       address);
        return UMBP_INVALID_VALUE;
    }
    return UMBP_OK;
}

static void name_node(struct making *making)
{
    char host[64] = "node";
    while (getrandom(&making->incarnation, sizeof(making->incarnation), 0) !=
               (ssize_t)sizeof(making->incarnation) ||
           !making->incarnation) {
    }
    if (making->options.node_id[0]) {
        (void)snprintf(making->node_id, sizeof(making->node_id), "%s", making->options.node_id);
        return;
    }
    (void)gethostname(host, sizeof(host) - 1);
    (void)snprintf(making->node_id, sizeof(making->node_id), "%s-%d-%08x", host, (int)getpid(),
                   (unsigned)(making->incarnation >> 32));
}

/* -------------------------------------------------------------------------------- parts -- */

static enum umbp_status make_node(struct making *making)
{
    struct pool_client *self = making->self;
    const struct node_options options = {
        .store = self->store,
        .hash_seed = making->store.hash_seed,
        .id = making->node_id,
        .incarnation = making->incarnation,
        .checks_memory = making->store.dram_checksum,
        .masters = making->door_list,
        .master_count = making->door_count,
        .master_wanted = on_master_wanted,
        .master_context = self,
        .tags = making->tag_list,
        .tag_count = making->tag_count,
        .operations_max = making->options.requests,
        .staging_bytes = making->options.ssd_staging_bytes,
        .job_threads = making->options.ssd_workers,
        .linger_ms = making->options.event_linger_ms,
        .bundle_events = making->options.event_batch,
    };
    enum umbp_status status = node_create(&options, &self->node);
    if (status == UMBP_OK) {
        self->node_handlers = node_handlers(self->node);
        self->has_node = true;
    }
    return status;
}

static enum umbp_status make_fabric(struct making *making)
{
    static const char *const providers[] = {"auto", "tcp", "verbs"};
    struct pool_client *self = making->self;
    const struct config_pool *config = &making->options;
    const char *host = config->address[0] ? config->address : making->local;
    char listen[FABRIC_ADDRESS_MAX];
    struct fabric_handlers handlers = {
        .accept = on_accept,
        .peer_up = on_peer_up,
        .peer_down = on_peer_down,
        .request = self->has_node ? on_request : NULL,
        .message = on_message,
        .context = self,
    };
    host = host[0] ? host : "127.0.0.1";
    (void)snprintf(listen, sizeof(listen), strchr(host, ':') ? "[%s]:%u" : "%s:%u", host,
                   config->port);
    const struct fabric_options options = {
        .struct_bytes = sizeof(options),
        .provider = providers[config->provider],
        .listen = self->has_node ? listen : NULL,
        .cluster = config->cluster,
        .hash_seed = making->store.hash_seed,
        .identity = making->node_id,
        .identity_bytes = strlen(making->node_id),
        .beat_ms = config->beat_ms,
        .peer_timeout_ms = config->peer_timeout_ms,
        .spin_us = config->spin_us ? config->spin_us : UINT32_MAX,
        .requests_max = config->requests,
        .same_host_off = !config->same_host,
    };
    return fabric_open(&options, &handlers, making->error, making->error_bytes, &self->fabric);
}

static enum umbp_status make_pool(struct making *making)
{
    struct pool_client *self = making->self;
    struct pool *pool;
    const struct pool_options options = {
        .fabric = self->fabric,
        .store = self->store,
        .node_id = self->node ? making->node_id : NULL,
        .master_count = making->door_count,
        .master_wanted = on_master_wanted,
        .context = self,
        .hash_seed = making->store.hash_seed,
        .op_timeout_ms = making->store.op_timeout_ms,
        .retries = making->options.retries,
        .recache = (enum pool_recache)making->options.recache,
        .recache_bytes = making->options.recache_bytes,
        .recache_below = making->store.dram_low_watermark,
        .staging_bytes = making->options.staging_bytes,
    };
    enum umbp_status status = pool_create(&options, &pool);
    if (status != UMBP_OK) {
        return status;
    }
    for (uint32_t i = 0; i < making->door_count; i++) {
        pool_master_found(pool, i, making->doors[i]);
    }
    /* release: pairs with on_peer_down */
    atomic_store_explicit(&self->pool, pool, memory_order_release);
    return UMBP_OK;
}

static enum umbp_status make_all(struct making *making)
{
    struct pool_client *self = making->self;
    enum umbp_status status = check_names(making);
    status = status == UMBP_OK ? find_doors(making) : status;
    if (status != UMBP_OK) {
        return status;
    }
    name_node(making);
    if (making->options.serve) {
        making->store.event_bytes = EVENT_RING_BYTES;
        status = store_create(&making->store, &self->store, making->error, making->error_bytes);
        if (status == UMBP_OK) {
            status = make_node(making);
        }
    }
    if (status == UMBP_OK) {
        status = make_fabric(making);
    }
    if (status == UMBP_OK) {
        status = make_pool(making);
    }
    if (status == UMBP_OK && self->node) {
        status = node_start(self->node, self->fabric);
    }
    if (status == UMBP_OK) {
        client_doors_follow(self->doors, on_master_found, self);
    }
    return status;
}

/* --------------------------------------------------------------------------------- life -- */

static enum umbp_status end(struct pool_client *self, uint64_t deadline_ns)
{
    enum umbp_status status = UMBP_OK;
    client_doors_stop(self->doors);
    if (self->node && self->fabric) {
        node_stop(self->node, deadline_ns);
    }
    if (self->fabric) {
        status = fabric_close(self->fabric, deadline_ns);
    }
    if (self->store) {
        enum umbp_status closed = store_close(self->store, deadline_ns);
        status = status == UMBP_OK ? closed : status;
    }
    return status;
}

/* A close that ran out of time has left callbacks pending, and they use what is freed next. Only
 * copies that are under way take time here. */
static void settle(struct pool_client *self)
{
    while (self->fabric &&
           fabric_close(self->fabric, clock_deadline_ns(clock_monotonic(), SETTLE_MS)) != UMBP_OK) {
        log_warn("close_overdue", "by_ms=%u", SETTLE_MS);
    }
}

static void pool_client_destroy(void *context)
{
    struct pool_client *self = context;
    settle(self);
    pool_destroy(atomic_load_explicit(&self->pool, memory_order_relaxed));
    node_destroy(self->node);
    fabric_destroy(self->fabric);
    store_destroy(self->store);
    client_doors_destroy(self->doors);
    mem_free(self);
}

static enum umbp_status pool_client_create(const struct umbp_config *config, void **self_out,
                                           char *error_out, size_t error_bytes)
{
    struct making *making = mem_zalloc(sizeof(*making));
    struct pool_client *self = mem_zalloc(sizeof(*self));
    enum umbp_status status = making && self ? UMBP_OK : UMBP_NO_MEMORY;
    if (status == UMBP_OK) {
        *making = (struct making){
            .self = self, .config = config, .error = error_out, .error_bytes = error_bytes};
        self->close_timeout_ms = config_close_timeout_ms(config);
        status = config_pool_options(config, &making->options);
    }
    if (status == UMBP_OK) {
        status = config_store_options(config, &making->store);
    }
    if (status == UMBP_OK) {
        status = make_all(making);
    }
    mem_free(making);
    if (status == UMBP_OK) {
        *self_out = self;
        return UMBP_OK;
    }
    if (self) {
        (void)!end(self, clock_deadline_ns(clock_monotonic(), self->close_timeout_ms));
        pool_client_destroy(self);
    }
    return status;
}

static enum umbp_status pool_client_close(void *self, uint64_t deadline_ns)
{
    return end(self, deadline_ns);
}

/* -------------------------------------------------------------------------------- calls -- */

static struct pool *pool_of(void *context)
{
    struct pool_client *self = context;
    return atomic_load_explicit(&self->pool, memory_order_relaxed);
}

static enum umbp_status pool_client_batch_put(void *self, const struct umbp_put_item *items,
                                              size_t count, enum umbp_status *statuses_out)
{
    return pool_batch_put(pool_of(self), items, count, statuses_out);
}

static enum umbp_status pool_client_batch_get(void *self, const struct umbp_get_item *items,
                                              size_t count, enum umbp_status *statuses_out)
{
    return pool_batch_get(pool_of(self), items, count, statuses_out);
}

static enum umbp_status pool_client_batch_put_ranges(void *self,
                                                     const struct umbp_range_item *items,
                                                     size_t count, enum umbp_status *statuses_out)
{
    return pool_batch_put_ranges(pool_of(self), items, count, statuses_out);
}

static enum umbp_status pool_client_batch_get_ranges(void *self,
                                                     const struct umbp_range_item *items,
                                                     size_t count, enum umbp_status *statuses_out)
{
    return pool_batch_get_ranges(pool_of(self), items, count, statuses_out);
}

static enum umbp_status pool_client_batch_exists(void *self, const struct umbp_key *keys,
                                                 size_t count, uint8_t *found_out)
{
    return pool_batch_exists(pool_of(self), keys, count, found_out);
}

static enum umbp_status pool_client_exists_consecutive(void *self, const struct umbp_key *keys,
                                                       size_t count, size_t *hits_out)
{
    return pool_exists_consecutive(pool_of(self), keys, count, hits_out);
}

static enum umbp_status pool_client_batch_remove(void *self, const struct umbp_key *keys,
                                                 size_t count, enum umbp_status *statuses_out)
{
    return pool_batch_remove(pool_of(self), keys, count, statuses_out);
}

static enum umbp_status pool_client_register_memory(void *self, void *data, size_t bytes)
{
    return pool_register(pool_of(self), data, bytes);
}

static enum umbp_status pool_client_deregister_memory(void *self, void *data)
{
    return pool_deregister(pool_of(self), data);
}

static enum umbp_status pool_client_external_tell(void *self, enum client_external op,
                                                  const struct umbp_key *hashes, size_t count,
                                                  enum umbp_tier tier)
{
    switch (op) {
    case CLIENT_EXTERNAL_REPORT:
        return pool_external_report(pool_of(self), hashes, count, tier);
    case CLIENT_EXTERNAL_REVOKE:
        return pool_external_revoke(pool_of(self), hashes, count, tier);
    case CLIENT_EXTERNAL_REVOKE_ALL:
        break;
    }
    return pool_external_revoke_all(pool_of(self), tier);
}

static enum umbp_status
pool_client_external_match(void *self, const struct umbp_key *hashes, size_t count,
                           bool counts_as_hit,
                           void (*visit)(void *, const struct umbp_external_match *), void *context)
{
    return pool_external_match(pool_of(self), hashes, count, counts_as_hit, visit, context);
}

static enum umbp_status pool_client_external_hits(void *self, const struct umbp_key *hashes,
                                                  size_t count, uint64_t *hits_out)
{
    return pool_external_hits(pool_of(self), hashes, count, hits_out);
}

/* The own store's: every owner makes durable what it owns. */
static enum umbp_status pool_client_flush(void *context, uint64_t deadline_ns)
{
    struct pool_client *self = context;
    return self->store ? store_flush(self->store, deadline_ns) : UMBP_OK;
}

static enum umbp_status pool_client_clear(void *context, uint64_t deadline_ns)
{
    struct pool_client *self = context;
    if (!self->store) {
        return UMBP_OK;
    }
    enum umbp_status status = store_clear(self->store, deadline_ns);
    pool_cleared(pool_of(self)); /* also if it was cut short */
    return status;
}

static enum umbp_status pool_client_list(void *context,
                                         bool (*visit)(void *, const struct umbp_entry_info *),
                                         void *visit_context)
{
    struct pool_client *self = context;
    return self->store ? store_list(self->store, visit, visit_context) : UMBP_OK;
}

static enum umbp_status pool_client_stat(void *self, struct umbp_key key,
                                         struct umbp_entry_info *info_out)
{
    return pool_stat(pool_of(self), key, info_out);
}

static enum umbp_status pool_client_stats(void *context, struct umbp_stat_value *values_out,
                                          size_t capacity, size_t *count_out)
{
    struct pool_client *self = context;
    enum umbp_status status = UMBP_OK;
    size_t count = 0;
    size_t part = 0;

    if ((capacity && !values_out) || !count_out) {
        return UMBP_INVALID_VALUE;
    }
    struct umbp_stat_value none[1];
    struct umbp_stat_value *at = capacity ? values_out : none; /* arithmetic on NULL is none */
    pool_stats(pool_of(self), at, capacity, &count);
    if (self->node) {
        size_t used = size_min(count, capacity);
        node_stats(self->node, at + used, capacity - used, &part);
        count += part;
    }
    if (self->store) {
        size_t used = size_min(count, capacity);
        status = store_stats(self->store, at + used, capacity - used, &part);
        count += part;
    }
    if (status == UMBP_OK) {
        *count_out = count;
    }
    return status;
}

const struct client_ops client_pool_ops = {
    .name = "pool",
    .deployment = UMBP_DEPLOYMENT_POOL,
    .is_distributed = true,
    .supports_ranges = true,
    .create = pool_client_create,
    .close = pool_client_close,
    .destroy = pool_client_destroy,
    .batch_put = pool_client_batch_put,
    .batch_get = pool_client_batch_get,
    .batch_put_ranges = pool_client_batch_put_ranges,
    .batch_get_ranges = pool_client_batch_get_ranges,
    .batch_exists = pool_client_batch_exists,
    .exists_consecutive = pool_client_exists_consecutive,
    .batch_remove = pool_client_batch_remove,
    .register_memory = pool_client_register_memory,
    .deregister_memory = pool_client_deregister_memory,
    .external_tell = pool_client_external_tell,
    .external_match = pool_client_external_match,
    .external_hits = pool_client_external_hits,
    .flush = pool_client_flush,
    .clear = pool_client_clear,
    .list = pool_client_list,
    .stat = pool_client_stat,
    .stats = pool_client_stats,
};
