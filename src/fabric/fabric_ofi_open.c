/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/signals.h"
#include "fabric/fabric_ofi_priv.h"

/* -------------------------------------------------------------------------------- provider ---- */

struct fi_info *fabric_ofi_hints(const char *provider)
{
    struct fi_info *hints = fi_allocinfo();
    if (!hints) {
        return NULL;
    }
    hints->ep_attr->type = FI_EP_MSG;
    hints->ep_attr->rx_ctx_cnt = FI_SHARED_CONTEXT;
    hints->caps = FI_MSG | FI_RMA;
    hints->mode = FI_CONTEXT | FI_CONTEXT2;
    hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
    hints->domain_attr->threading = FI_THREAD_SAFE;
    hints->fabric_attr->prov_name = (char *)(uintptr_t)provider;
    return hints;
}

void fabric_ofi_hints_free(struct fi_info *hints)
{
    hints->fabric_attr->prov_name = NULL; /* ours: fi_freeinfo would free it */
    fi_freeinfo(hints);
}

static struct fi_info *find_provider(const char *provider, const char *host, const char *port)
{
    struct fi_info *hints = fabric_ofi_hints(provider);
    struct fi_info *info = NULL;
    if (!hints) {
        return NULL;
    }
    if (fi_getinfo(FI_VERSION(1, 17), host, port, host ? FI_SOURCE : 0, hints, &info)) {
        info = NULL;
    }
    fabric_ofi_hints_free(hints);
    return info;
}

/* Why there is nothing for these: the host, or else the provider. */
static enum umbp_status no_provider(const struct ofi *ofi, const char *host, char *error_out,
                                    size_t error_bytes)
{
    const struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    const char *listen = ofi->options.listen;
    struct addrinfo *found = NULL;
    int rc = host ? getaddrinfo(host, NULL, &hints, &found) : 0;
    if (rc == 0 && host) {
        freeaddrinfo(found);
    }
    struct fi_info *anywhere = host ? find_provider(ofi->provider, NULL, NULL) : NULL;
    if (anywhere) {
        fi_freeinfo(anywhere);
    }
    if (rc != 0) {
        snprintf(error_out, error_bytes,
                 "can't listen at %s: the host is not known here (%s); name an address of this "
                 "machine",
                 listen, gai_strerror(rc));
    } else if (anywhere) {
        snprintf(error_out, error_bytes,
                 "can't listen at %s: the provider \"%s\" has no such address; name an address of "
                 "this machine",
                 listen, ofi->provider);
    } else {
        snprintf(
            error_out, error_bytes,
            "libfabric has no provider \"%s\" for connected endpoints here; fi_info lists what "
            "it has",
            ofi->provider);
        return UMBP_UNSUPPORTED;
    }
    return UMBP_INVALID_VALUE;
}

/* All addresses of this machine: of both kinds, where there are both. */
static const char *any_host(void)
{
    const struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
    int is_six_only = 1;
    socklen_t bytes = sizeof(is_six_only);
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool has_both = fd >= 0 &&
                    getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &is_six_only, &bytes) == 0 &&
                    !is_six_only && bind(fd, (const struct sockaddr *)&any, sizeof(any)) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return has_both ? "::" : "0.0.0.0";
}

static enum umbp_status choose_provider(struct ofi *ofi, char *error_out, size_t error_bytes)
{
    char host[FABRIC_HOST_MAX] = "";
    char port_text[8] = "0";
    uint16_t port = 0;
    const char *node = NULL;
    if (ofi->options.listen) {
        if (fabric_address_split(ofi->options.listen, host, &port)) {
            return UMBP_INVALID_VALUE;
        }
        node = host[0] == '\0' || strcmp(host, "*") == 0 ? any_host() : host;
        snprintf(port_text, sizeof(port_text), "%u", port);
    }
    /* Not the fastest that is here: both ends must have chosen the same, and know nothing of each
     * other yet. */
    bool is_auto = strcmp(ofi->options.provider, "auto") == 0;
    snprintf(ofi->provider, sizeof(ofi->provider), "%s", is_auto ? "tcp" : ofi->options.provider);
    ofi->info = find_provider(ofi->provider, node, node ? port_text : NULL);
    if (!ofi->info) {
        return no_provider(ofi, node, error_out, error_bytes);
    }
    uint64_t mode = (uint64_t)ofi->info->domain_attr->mr_mode;
    ofi->is_tcp = strncmp(ofi->provider, "tcp", 3) == 0 || strcmp(ofi->provider, "net") == 0;
    ofi->offset_keys = !(mode & FI_MR_VIRT_ADDR);
    ofi->own_keys = !(mode & FI_MR_PROV_KEY);
    ofi->needs_local = (mode & FI_MR_LOCAL) != 0;
    ofi->op_runs_max = (unsigned)size_min(
        OP_RUNS_MAX,
        u64_max(1, size_min(ofi->info->tx_attr->iov_limit, ofi->info->tx_attr->rma_iov_limit)));
    return UMBP_OK;
}

/* ----------------------------------------------------------------------------------- memory --- */

static void pools_link(struct ofi *ofi)
{
    for (uint32_t i = ofi->options.calls_max; i-- > 0;) {
        struct call *call = &ofi->calls[i];
        call->ofi = ofi;
        call->index = i;
        call->generation = 1;
        call->next = ofi->calls_free;
        ofi->calls_free = call;
    }
    for (uint32_t i = ofi->options.requests_max; i-- > 0;) {
        ofi->requests[i].next = ofi->requests_free;
        ofi->requests_free = &ofi->requests[i];
    }
    for (uint32_t i = ofi->transfer_count; i-- > 0;) {
        ofi->transfers[i].next = ofi->transfers_free;
        ofi->transfers_free = &ofi->transfers[i];
        ofi->pulls[i].next = ofi->pulls_free;
        ofi->pulls_free = &ofi->pulls[i];
    }
    for (uint32_t i = OPS_TOTAL; i-- > 0;) {
        ofi->ops[i].context.kind = CONTEXT_OP;
        ofi->ops[i].next = ofi->ops_free;
        ofi->ops_free = &ofi->ops[i];
    }
    for (uint32_t i = ofi->tx_count; i-- > 0;) {
        struct tx *tx = &ofi->txs[i];
        tx->context.kind = CONTEXT_TX;
        tx->buffer = ofi->slab + i * BUFFER_STRIDE;
        tx->next = ofi->txs_free;
        ofi->txs_free = tx;
    }
    ofi->txs_free_count = ofi->tx_count;
    for (uint32_t i = ofi->small_count; i-- > 0;) {
        struct tx *tx = &ofi->smalls[i];
        tx->context.kind = CONTEXT_TX;
        tx->is_small = true;
        tx->buffer = ofi->slab + (ofi->tx_count + ofi->rx_count) * BUFFER_STRIDE + i * SMALL_STRIDE;
        tx->next = ofi->smalls_free;
        ofi->smalls_free = tx;
    }
    for (uint32_t i = 0; i < ofi->rx_count; i++) {
        struct rx *rx = &ofi->rxs[i];
        rx->context.kind = CONTEXT_RX;
        rx->buffer = ofi->slab + (ofi->tx_count + i) * BUFFER_STRIDE;
    }
}

static enum umbp_status make_memory(struct ofi *ofi)
{
    const struct fabric_options *options = &ofi->options;
    ofi->tx_count = options->requests_max + (uint32_t)u64_min(options->calls_max, 256);
    ofi->small_count = 2 * options->peers_max + TX_CONTROL;
    ofi->rx_count = options->requests_max + 2 * RX_POSTED;
    ofi->transfer_count = options->requests_max + 64;
    ofi->slab_bytes =
        (ofi->tx_count + ofi->rx_count) * BUFFER_STRIDE + ofi->small_count * SMALL_STRIDE;
    ofi->slab = mem_map(ofi->slab_bytes); /* touched where it is used */
    ofi->peers = mem_calloc(options->peers_max, sizeof(struct peer));
    ofi->calls = mem_calloc(options->calls_max, sizeof(struct call));
    ofi->requests = mem_calloc(options->requests_max, sizeof(struct request));
    ofi->txs = mem_calloc(ofi->tx_count, sizeof(struct tx));
    ofi->smalls = mem_calloc(ofi->small_count, sizeof(struct tx));
    ofi->rxs = mem_calloc(ofi->rx_count, sizeof(struct rx));
    ofi->transfers = mem_calloc(ofi->transfer_count, sizeof(struct transfer));
    ofi->pulls = mem_calloc(ofi->transfer_count, sizeof(struct pull));
    ofi->ops = mem_calloc(OPS_TOTAL, sizeof(struct op));
    ofi->half_open = mem_calloc(HALF_OPEN_MAX, sizeof(struct sockaddr_in6));
    ofi->half_open_next = mem_calloc(HALF_OPEN_MAX, sizeof(struct sockaddr_in6));
    if (!ofi->slab || !ofi->peers || !ofi->calls || !ofi->requests || !ofi->txs || !ofi->smalls ||
        !ofi->rxs || !ofi->transfers || !ofi->pulls || !ofi->ops || !ofi->half_open ||
        !ofi->half_open_next) {
        return UMBP_NO_MEMORY;
    }
    pools_link(ofi);
    return fabric_host_init(&ofi->host, options->peers_max, options->pull_threads,
                            options->same_host_off);
}

/* ------------------------------------------------------------------------------- libfabric ---- */

static enum umbp_status make_provider(struct ofi *ofi, char *error_out, size_t error_bytes)
{
    struct fi_eq_attr eq = {.size = 1024, .wait_obj = FI_WAIT_FD};
    struct fi_cq_attr cq = {
        .size = ofi->tx_count + ofi->small_count + ofi->rx_count + OPS_TOTAL,
        .format = FI_CQ_FORMAT_DATA,
        .wait_obj = FI_WAIT_FD,
    };
    struct fi_rx_attr rx = *ofi->info->rx_attr;
    rx.size = ofi->rx_count;
    ofi->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = ofi->event_fd < 0 ? -errno : 0;
    rc = rc ? rc : fi_fabric(ofi->info->fabric_attr, &ofi->fabric, NULL);
    rc = rc ? rc : fi_eq_open(ofi->fabric, &eq, &ofi->eq, NULL);
    rc = rc ? rc : fi_domain(ofi->fabric, ofi->info, &ofi->domain, NULL);
    rc = rc ? rc : fi_cq_open(ofi->domain, &cq, &ofi->cq, NULL);
    rc = rc ? rc : fi_srx_context(ofi->domain, &rx, &ofi->srx, NULL);
    rc = rc ? rc : fi_control(&ofi->cq->fid, FI_GETWAIT, &ofi->cq_fd);
    rc = rc ? rc : fi_control(&ofi->eq->fid, FI_GETWAIT, &ofi->eq_fd);
    if (rc) {
        snprintf(error_out, error_bytes, "libfabric's provider \"%s\" could not be opened: %s%s",
                 ofi->provider, fi_strerror(-rc), rc == -EMFILE ? " (ulimit -n is too low)" : "");
        return UMBP_IO;
    }
    if (ofi->needs_local) {
        if (fi_mr_reg(ofi->domain, ofi->slab, ofi->slab_bytes, FI_SEND | FI_RECV, 0, 0, 0,
                      &ofi->slab_mr, NULL)) {
            snprintf(error_out, error_bytes,
                     "the provider \"%s\" could not register %zu bytes of memory (ulimit -l?)",
                     ofi->provider, ofi->slab_bytes);
            return UMBP_NO_MEMORY;
        }
        ofi->slab_descriptor = fi_mr_desc(ofi->slab_mr);
    }
    ofi->rxs_wanted = ofi->is_tcp ? RX_WARM : ofi->rx_count;
    for (uint32_t i = 0; i < ofi->rx_count; i++) {
        (void)fabric_ofi_rx_post(ofi, &ofi->rxs[i]);
    }
    return UMBP_OK;
}

/* An address of this machine that others may reach, if there is one; of the older kind if there is
 * one of it. */
static void some_host(char out[FABRIC_HOST_MAX])
{
    struct ifaddrs *all = NULL;
    const struct sockaddr_in *four = NULL;
    const struct sockaddr_in6 *six = NULL;
    snprintf(out, FABRIC_HOST_MAX, "127.0.0.1");
    if (getifaddrs(&all) != 0) {
        return;
    }
    for (struct ifaddrs *at = all; at && !four; at = at->ifa_next) {
        if (!at->ifa_addr || !(at->ifa_flags & IFF_UP) || at->ifa_flags & IFF_LOOPBACK) {
            continue;
        }
        if (at->ifa_addr->sa_family == AF_INET) {
            four = (const void *)at->ifa_addr;
        } else if (at->ifa_addr->sa_family == AF_INET6 && !six) {
            six = (const void *)at->ifa_addr;
            six = IN6_IS_ADDR_LINKLOCAL(&six->sin6_addr) ? NULL : six;
        }
    }
    if (four) {
        inet_ntop(AF_INET, &four->sin_addr, out, FABRIC_HOST_MAX);
    } else if (six) {
        inet_ntop(AF_INET6, &six->sin6_addr, out, FABRIC_HOST_MAX);
    }
    freeifaddrs(all);
}

static enum umbp_status listen_at(struct ofi *ofi, char *error_out, size_t error_bytes)
{
    struct sockaddr_in6 name = {0};
    size_t bytes = sizeof(name);
    char host[FABRIC_HOST_MAX];
    uint16_t port;
    int rc = fi_passive_ep(ofi->fabric, ofi->info, &ofi->pep, NULL);
    if (rc) {
        ofi->pep = NULL;
    }
    rc = rc ? rc : fi_pep_bind(ofi->pep, &ofi->eq->fid, 0);
    rc = rc ? rc : fi_listen(ofi->pep);
    rc = rc ? rc : fi_getname(&ofi->pep->fid, &name, &bytes);
    if (rc) {
        snprintf(error_out, error_bytes, "can't listen at %s: %s", ofi->options.listen,
                 fi_strerror(-rc));
        return UMBP_IO;
    }
    ofi->listen_port = ntohs(name.sin6_port); /* v4 has it at the same place */
    if (fabric_address_split(ofi->options.listen, host, &port)) {
        return UMBP_INVALID_VALUE;
    }
    if (ofi->options.advertise) {
        snprintf(host, sizeof(host), "%s", ofi->options.advertise);
    } else if (host[0] == '\0' || strcmp(host, "*") == 0 || strcmp(host, "0.0.0.0") == 0 ||
               strcmp(host, "::") == 0) {
        some_host(host);
    }
    fabric_address_join(ofi->address, host, ofi->listen_port);
    return UMBP_OK;
}

/* ------------------------------------------------------------------------------------ the end - */

static void close_fid(struct fid *fid)
{
    if (fid) {
        fi_close(fid);
    }
}

static void thread_join(struct ofi *ofi)
{
    if (!ofi->thread_made) {
        return;
    }
    mutex_lock(&ofi->lock);
    ofi->thread_stop = true;
    condition_signal(&ofi->thread_wake);
    mutex_unlock(&ofi->lock);
    uint64_t one = 1;
    ssize_t written = write(ofi->event_fd, &one, sizeof(one));
    (void)written;
    pthread_join(ofi->thread, NULL);
    ofi->thread_made = false;
}

static bool all_is_over(struct ofi *ofi)
{
    if (atomic_load(&ofi->resolving) > 0 || !list_is_empty(&ofi->failed_connects) ||
        !list_is_empty(&ofi->dead_calls) || !list_is_empty(&ofi->dead_transfers) ||
        !list_is_empty(&ofi->dead_pulls)) {
        return false;
    }
    for (uint32_t i = 0; i < ofi->peers_high; i++) {
        if (ofi->peers[i].state != PEER_FREE || atomic_load(&ofi->peers[i].pulls) > 0) {
            return false;
        }
    }
    return true;
}

static void begin_closing(struct ofi *ofi)
{
    bool entered = fabric_ofi_enter(ofi);
    if (!ofi->is_closing) {
        ofi->is_closing = true;
        if (ofi->pep) {
            /* The provider forgets about half-open connections, and so leaks them. */
            fabric_ofi_sweep_now(ofi, true);
            for (unsigned i = 0; i < ofi->options.peers_max / 64 + 2; i++) {
                fabric_ofi_events(ofi); /* who waits to be accepted is turned away */
            }
            fi_close(&ofi->pep->fid);
            ofi->pep = NULL;
            ofi->listen_port = 0;
        }
        for (uint32_t i = 0; i < ofi->peers_high; i++) {
            struct peer *peer = &ofi->peers[i];
            if (peer->state == PEER_UP) {
                (void)fabric_ofi_control(peer, WIRE_GOODBYE, 0, UMBP_OK);
            }
            if (peer->ofi) {
                fabric_ofi_peer_close(peer, UMBP_CLOSED);
            }
        }
    }
    fabric_ofi_leave(ofi, entered);
}

static enum umbp_status ofi_close(struct fabric *fabric, uint64_t deadline_ns)
{
    struct ofi *ofi = ofi_of(fabric);
    ASSERT(!fabric_ofi_on_loop(ofi));
    if (ofi->is_ended) {
        return UMBP_OK; /* and its timers may be freed by now: nothing is driven any more */
    }
    atomic_store(&ofi->is_closed, true);
    begin_closing(ofi);
    if (!fabric_ofi_drive(ofi, all_is_over, deadline_ns)) {
        return UMBP_TIMEOUT;
    }
    thread_join(ofi);
    ofi->is_ended = true;
    return UMBP_OK;
}

static void free_all(struct ofi *ofi)
{
    fabric_host_fini(&ofi->host);
    while (ofi->regions.next && !list_is_empty(&ofi->regions)) {
        struct fabric_region *region = CONTAINER_OF(ofi->regions.next, struct fabric_region, link);
        list_remove(&region->link);
        if (region->mr) {
            fi_close(&region->mr->fid);
        }
        mem_free(region);
    }
    for (uint32_t i = 0; ofi->requests && i < ofi->options.requests_max; i++) {
        if (ofi->requests[i].big) { /* never answered */
            mem_unmap(ofi->requests[i].big->memory, ofi->requests[i].big->bytes);
            mem_free(ofi->requests[i].big);
        }
    }
    close_fid(ofi->pep ? &ofi->pep->fid : NULL);
    close_fid(ofi->srx ? &ofi->srx->fid : NULL);
    close_fid(ofi->slab_mr ? &ofi->slab_mr->fid : NULL);
    close_fid(ofi->cq ? &ofi->cq->fid : NULL);
    close_fid(ofi->domain ? &ofi->domain->fid : NULL);
    close_fid(ofi->eq ? &ofi->eq->fid : NULL);
    close_fid(ofi->fabric ? &ofi->fabric->fid : NULL);
    if (ofi->info) {
        fi_freeinfo(ofi->info);
    }
    if (ofi->event_fd >= 0) {
        close(ofi->event_fd);
    }
    if (ofi->slab) {
        mem_unmap(ofi->slab, ofi->slab_bytes);
    }
    void *blocks[] = {ofi->peers,     ofi->calls,          ofi->requests, ofi->txs,
                      ofi->rxs,       ofi->transfers,      ofi->pulls,    ofi->ops,
                      ofi->half_open, ofi->half_open_next, ofi->smalls};
    for (size_t i = 0; i < ARRAY_COUNT(blocks); i++) {
        mem_free(blocks[i]);
    }
    condition_fini(&ofi->thread_wake);
    mutex_fini(&ofi->lock);
    mem_free(ofi);
}

static void ofi_destroy(struct fabric *fabric)
{
    struct ofi *ofi = ofi_of(fabric);
    while (ofi_close(fabric, clock_deadline_ns(ofi->options.clock, 1000))) {
        log_warn("fabric_close_waits", "why=pulls");
    }
    free_all(ofi);
}

static const char *ofi_address(struct fabric *fabric) { return ofi_of(fabric)->address; }

static uint64_t ofi_now_ns(struct fabric *fabric)
{
    return clock_now_ns(ofi_of(fabric)->options.clock);
}

static void ofi_timer_set(struct fabric *fabric, struct fabric_timer *timer, uint64_t deadline_ns)
{
    struct ofi *ofi = ofi_of(fabric);
    ASSERT(fabric_ofi_on_loop(ofi));
    fabric_heap_set(&ofi->timers, timer, deadline_ns);
}

static void ofi_timer_cancel(struct fabric *fabric, struct fabric_timer *timer)
{
    struct ofi *ofi = ofi_of(fabric);
    ASSERT(fabric_ofi_on_loop(ofi));
    fabric_heap_cancel(&ofi->timers, timer);
}

static void ofi_stats(struct fabric *fabric, struct fabric_stats *stats_out)
{
    struct ofi *ofi = ofi_of(fabric);
    bool entered = fabric_ofi_enter(ofi);
    struct fabric_stats stats = ofi->counts;
    stats.requests_now = ofi->requests_count;
    fabric_ofi_leave(ofi, entered);
    stats.calls_now = atomic_load(&ofi->calls_in_flight);
    stats.busy = atomic_load(&ofi->busy);
    stats.pulled_bytes = atomic_load(&ofi->pulled_bytes);
    stats.mapped_bytes = atomic_load(&ofi->mapped_bytes);
    stats.stale_pulls = atomic_load(&ofi->stale_pulls);
    *stats_out = stats;
}

/* Two tables: whether registering is cheap is the provider's. */
#define OFI_OPS(cheap)                                                                             \
    {                                                                                              \
        .name = "libfabric", .registering_is_cheap = (cheap), .close = ofi_close,                  \
        .destroy = ofi_destroy, .address = ofi_address, .now_ns = ofi_now_ns,                      \
        .connect = fabric_ofi_connect, .disconnect = fabric_ofi_disconnect,                        \
        .peer_flags = fabric_ofi_peer_flags, .call = fabric_ofi_call, .answer = fabric_ofi_answer, \
        .send = fabric_ofi_send, .region_create = fabric_ofi_region_create,                        \
        .region_destroy = fabric_ofi_region_destroy, .region_key = fabric_ofi_region_key,          \
        .transfer = fabric_ofi_transfer, .pull = fabric_ofi_pull,                                  \
        .pull_wait = fabric_ofi_pull_wait, .raise_epoch = fabric_ofi_raise_epoch,                  \
        .post = fabric_ofi_post, .timer_set = ofi_timer_set, .timer_cancel = ofi_timer_cancel,     \
        .wait = fabric_ofi_wait, .latch_down = fabric_ofi_latch_down, .stats = ofi_stats,          \
    }
static const struct fabric_ops ops_cheap = OFI_OPS(true);
static const struct fabric_ops ops_dear = OFI_OPS(false);

/* ----------------------------------------------------------------------------------- opening -- */

static void copy_options(struct ofi *ofi, const struct fabric_options *full)
{
    ofi->options = *full;
    /* On one processor who spins only keeps the one that it waits for from running. */
    ofi->spin_ns = thread_cpu_count() > 1 ? full->spin_us * NS_PER_US : 0;
    snprintf(ofi->cluster, sizeof(ofi->cluster), "%s", full->cluster);
    ofi->cluster_hash = hash_bytes(ofi->cluster, strlen(ofi->cluster), full->hash_seed);
    if (full->identity_bytes > 0) {
        memcpy(ofi->identity, full->identity, full->identity_bytes);
    }
}

static enum umbp_status make_all(struct ofi *ofi, char *error_out, size_t error_bytes)
{
    enum umbp_status status = choose_provider(ofi, error_out, error_bytes);
    if (status) {
        return status;
    }
    ofi->base.ops = ofi->own_keys ? &ops_cheap : &ops_dear;
    status = make_memory(ofi);
    if (status) {
        snprintf(error_out, error_bytes, "out of memory");
        return status;
    }
    status = make_provider(ofi, error_out, error_bytes);
    if (status) {
        return status;
    }
    if (ofi->options.listen && (status = listen_at(ofi, error_out, error_bytes)) != UMBP_OK) {
        return status;
    }
    ofi->now_ns = clock_now_ns(ofi->options.clock);
    ofi->last_tick_ns = ofi->now_ns;
    ofi->tick.run = fabric_ofi_tick;
    fabric_heap_set(&ofi->timers, &ofi->tick, ofi->now_ns);
    if (ofi->options.listen && ofi->is_tcp) {
        ofi->sweep.run = fabric_ofi_sweep;
        fabric_heap_set(&ofi->timers, &ofi->sweep,
                        ofi->now_ns + ofi->options.handshake_ms * NS_PER_MS);
    }
    /* Nothing of the caller's is kept. */
    ofi->options.listen = ofi->options.listen ? ofi->address : NULL;
    ofi->options.advertise = NULL;
    ofi->options.provider = ofi->provider;
    ofi->options.cluster = ofi->cluster;
    ofi->options.identity = ofi->identity;
    status = thread_create(&ofi->thread, "umbp-fabric", false, fabric_ofi_thread, ofi);
    ofi->thread_made = status == UMBP_OK;
    if (status) {
        snprintf(error_out, error_bytes, "no thread could be made");
    }
    return status;
}

enum umbp_status fabric_open(const struct fabric_options *options,
                             const struct fabric_handlers *handlers, char *error_out,
                             size_t error_bytes, struct fabric **fabric_out)
{
    struct fabric_options full;
    char unused[128];
    if (!error_out || error_bytes == 0) {
        error_out = unused;
        error_bytes = sizeof(unused);
    }
    enum umbp_status status = fabric_options_check(options, &full, error_out, error_bytes);
    if (status) {
        return status;
    }
    signals_drop_foreign(); /* which came with libfabric, when the process was loaded */
    struct ofi *ofi = mem_zalloc(sizeof(*ofi));
    if (!ofi) {
        snprintf(error_out, error_bytes, "out of memory");
        return UMBP_NO_MEMORY;
    }
    copy_options(ofi, &full);
    ofi->handlers = *handlers;
    ofi->event_fd = -1;
    mutex_init(&ofi->lock, RANK_FABRIC);
    condition_init(&ofi->thread_wake);
    struct list_node *lists[] = {&ofi->waiters,        &ofi->regions,   &ofi->failed_connects,
                                 &ofi->closing,        &ofi->pumping,   &ofi->dead_calls,
                                 &ofi->dead_transfers, &ofi->dead_pulls};
    for (size_t i = 0; i < ARRAY_COUNT(lists); i++) {
        list_init(lists[i]);
    }
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed)) {
        seed = clock_now_ns(clock_monotonic());
    }
    rng_init(&ofi->rng, seed);
    status = make_all(ofi, error_out, error_bytes);
    if (status) {
        free_all(ofi);
        return status;
    }
    *fabric_out = &ofi->base;
    return UMBP_OK;
}
