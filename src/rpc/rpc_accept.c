/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Accepting, and looking at the first bytes.
 *
 *     listener ──accept──► pending ──whole HTTP/2 preface──► take (gRPC)
 *                             │──────TLS greeting──────────► take_tls (relay)
 *                             │──────signpost question─────► answer, close
 *                             └──────anything else, silence► close
 *
 * Pending connections are in a list in the order of their coming; all have the same time, so the
 * first one's deadline is the next. They are watched edge-triggered: bytes that were peeked at stay
 * in the socket, and would wake a level-triggered watch again and again.
 *
 * The number of connections is bounded by their descriptors: the system gives the lowest free
 * number, so a number of `first + max` means that so many are open. gRPC does not tell when it
 * closes one, so there is nothing else to count by.
 */
#include "rpc/rpc_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 1024
#define EVENTS_MAX 64
#define ACCEPTS_A_ROUND 64
/* Without descriptors left, listening rests for so long instead of spinning. */
#define REST_MS 100
/* Room for listeners, epoll, gRPC's own: descriptors that are no connections. */
#define OWN_DESCRIPTORS 256
#define TICK_NS NS_PER_S

struct listener {
    int descriptor;
    bool is_unix;
    char text[RPC_ADDRESS_BYTES_MAX];
    char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)]; /* to be removed; or empty */
};

struct pending {
    struct list_node link; /* in waiting or free */
    int descriptor;
    bool is_unix;
    uint64_t deadline_ns;
};

struct rpc_accept {
    struct rpc_accept_options options;
    struct listener listeners[RPC_ADDRESSES_MAX];
    size_t listener_count;
    int poll;
    int wake;
    int descriptor_end;
    bool is_running;
    pthread_t thread;
    _Atomic bool is_stopping;
    bool is_resting;
    uint64_t rest_end_ns;
    uint64_t next_tick_ns;
    struct list_node waiting;
    struct list_node free;
    struct rpc_accept_stats stats;
    uint8_t signpost[PROTO_SIGNPOST_ANSWER_MAX];
    struct pending pendings[RPC_PENDING_MAX];
};

static void count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static void watch(struct rpc_accept *accept, int descriptor, uint32_t events, void *data)
{
    struct epoll_event event = {.events = events, .data.ptr = data};
    if (epoll_ctl(accept->poll, EPOLL_CTL_ADD, descriptor, &event) != 0) {
        log_error("rpc_watch", "error=\"%s\"", strerror(errno));
    }
}

static void unwatch(struct rpc_accept *accept, int descriptor)
{
    (void)epoll_ctl(accept->poll, EPOLL_CTL_DEL, descriptor, NULL);
}

/* ----------------------------------------------------------------------- pending ------- */

/* Takes it from the table; the descriptor is the caller's. */
static int forget(struct rpc_accept *accept, struct pending *pending)
{
    int descriptor = pending->descriptor;
    unwatch(accept, descriptor);
    list_remove(&pending->link);
    list_push_front(&accept->free, &pending->link);
    pending->descriptor = -1;
    return descriptor;
}

static void reject(struct rpc_accept *accept, struct pending *pending)
{
    count(&accept->stats.strangers);
    close(forget(accept, pending));
}

/* The question is in the socket, whole; the answer fits into an empty send buffer. */
static void answer(struct rpc_accept *accept, struct pending *pending)
{
    uint8_t question[PROTO_SIGNPOST_QUESTION_BYTES];
    uint8_t refusal[PROTO_SIGNPOST_ANSWER_MAX];
    const uint8_t *bytes = accept->signpost;
    size_t left = accept->options.signpost_bytes;
    int descriptor = forget(accept, pending);
    ssize_t got = recv(descriptor, question, sizeof question, MSG_DONTWAIT);
    enum umbp_status status =
        got == (ssize_t)sizeof question ? proto_signpost_question_open(question) : UMBP_CORRUPT;
    if (status == UMBP_VERSION) {
        static const struct proto_signpost none;
        bytes = refusal;
        if (proto_signpost_encode(&none, UMBP_VERSION, refusal, sizeof refusal, &left) != UMBP_OK) {
            left = 0;
        }
    }
    if (status != UMBP_CORRUPT && left > 0 &&
        send(descriptor, bytes, left, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)left) {
        count(&accept->stats.signposts);
        (void)shutdown(descriptor, SHUT_WR);
    } else {
        count(&accept->stats.strangers);
    }
    close(descriptor);
}

static void look(struct rpc_accept *accept, struct pending *pending)
{
    uint8_t bytes[RPC_GREETING_BYTES];
    ssize_t got = recv(pending->descriptor, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        close(forget(accept, pending)); /* a look at whether the port is open, say */
        return;
    }
    bool wants_tls = accept->options.tls && !pending->is_unix;
    switch (rpc_greeting_of(bytes, (size_t)got)) {
    case RPC_GREETING_WAIT:
        return;
    case RPC_GREETING_HTTP2:
        if (!wants_tls) {
            count(&accept->stats.connections);
            accept->options.take(accept->options.context, forget(accept, pending));
            return;
        }
        break;
    case RPC_GREETING_TLS:
        if (wants_tls) {
            count(&accept->stats.connections);
            accept->options.take_tls(accept->options.context, forget(accept, pending));
            return;
        }
        break;
    case RPC_GREETING_SIGNPOST:
        if (accept->options.signpost_bytes > 0) {
            answer(accept, pending);
            return;
        }
        break;
    case RPC_GREETING_STRANGER:
        break;
    }
    reject(accept, pending);
}

static struct pending *pending_of(struct list_node *node)
{
    return CONTAINER_OF(node, struct pending, link);
}

static void add_pending(struct rpc_accept *accept, int descriptor, bool is_unix)
{
    if (list_is_empty(&accept->free)) {
        reject(accept, pending_of(accept->waiting.next)); /* the oldest */
    }
    struct pending *pending = pending_of(accept->free.next);
    list_remove(&pending->link);
    list_push_back(&accept->waiting, &pending->link);
    pending->descriptor = descriptor;
    pending->is_unix = is_unix;
    pending->deadline_ns = clock_deadline_ns(clock_monotonic(), accept->options.preface_timeout_ms);
    watch(accept, descriptor, EPOLLIN | EPOLLRDHUP | EPOLLET, pending);
    look(accept, pending); /* often the bytes are there already */
}

/* -------------------------------------------------------------------- the thread ------- */

static void rest(struct rpc_accept *accept)
{
    static struct log_limit limit;
    uint64_t held_back;
    if (log_limit_pass(&limit, 60000, &held_back)) {
        log_warn("rpc_accept", "error=\"%s\" rest_ms=%d", strerror(errno), REST_MS);
    }
    accept->is_resting = true;
    accept->rest_end_ns = clock_deadline_ns(clock_monotonic(), REST_MS);
    for (size_t i = 0; i < accept->listener_count; i++) {
        unwatch(accept, accept->listeners[i].descriptor);
    }
}

static void rest_ends(struct rpc_accept *accept)
{
    accept->is_resting = false;
    for (size_t i = 0; i < accept->listener_count; i++) {
        watch(accept, accept->listeners[i].descriptor, EPOLLIN, &accept->listeners[i]);
    }
}

static void prepare(int descriptor)
{
    const int yes = 1;
    /* Of no use on a unix socket, and no error there that matters. */
    (void)setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    (void)setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
}

static void accept_some(struct rpc_accept *accept, struct listener *listener)
{
    for (int i = 0; i < ACCEPTS_A_ROUND; i++) {
        int descriptor = accept4(listener->descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                rest(accept);
            }
            return; /* nobody there, or one that is gone again */
        }
        if (descriptor >= accept->descriptor_end) {
            count(&accept->stats.refused);
            close(descriptor);
            continue;
        }
        prepare(descriptor);
        add_pending(accept, descriptor, listener->is_unix);
    }
}

static bool is_listener(const struct rpc_accept *accept, const void *data)
{
    const struct listener *listener = data;
    return listener >= accept->listeners && listener < accept->listeners + RPC_ADDRESSES_MAX;
}

static int next_timeout_ms(const struct rpc_accept *accept, uint64_t now_ns)
{
    uint64_t at = accept->next_tick_ns;
    if (!list_is_empty(&accept->waiting)) {
        at = u64_min(at, pending_of(accept->waiting.next)->deadline_ns);
    }
    if (accept->is_resting) {
        at = u64_min(at, accept->rest_end_ns);
    }
    return at <= now_ns ? 0 : (int)((at - now_ns) / NS_PER_MS) + 1;
}

static void do_due(struct rpc_accept *accept)
{
    uint64_t now = clock_now_ns(clock_monotonic());
    while (!list_is_empty(&accept->waiting) &&
           pending_of(accept->waiting.next)->deadline_ns <= now) {
        reject(accept, pending_of(accept->waiting.next));
    }
    if (accept->is_resting && accept->rest_end_ns <= now) {
        rest_ends(accept);
    }
    if (accept->next_tick_ns <= now) {
        accept->next_tick_ns = now + TICK_NS;
        accept->options.tick(accept->options.context);
    }
}

static void *run(void *context)
{
    struct rpc_accept *accept = context;
    struct epoll_event events[EVENTS_MAX];
    /* acquire, with the release of rpc_accept_stop */
    while (!atomic_load_explicit(&accept->is_stopping, memory_order_acquire)) {
        int timeout = next_timeout_ms(accept, clock_now_ns(clock_monotonic()));
        int got = epoll_wait(accept->poll, events, EVENTS_MAX, timeout);
        /* Connections first: one accepted in this round may take the place of one whose event is
         * still to come, and would only be looked at once more. */
        for (int i = 0; i < got; i++) {
            struct pending *pending = events[i].data.ptr;
            if (pending != NULL && !is_listener(accept, pending) && pending->descriptor >= 0) {
                look(accept, pending);
            }
        }
        for (int i = 0; i < got; i++) {
            if (events[i].data.ptr != NULL && is_listener(accept, events[i].data.ptr)) {
                accept_some(accept, events[i].data.ptr);
            }
        }
        do_due(accept);
    }
    while (!list_is_empty(&accept->waiting)) {
        close(forget(accept, pending_of(accept->waiting.next)));
    }
    return NULL;
}

/* ----------------------------------------------------------------------- binding ------- */

static enum umbp_status fail(enum umbp_status status, char *error_out, size_t error_bytes,
                             const char *format, ...) PRINTF_LIKE(4, 5);
static enum umbp_status fail(enum umbp_status status, char *error_out, size_t error_bytes,
                             const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error_out, error_bytes, format, arguments);
    va_end(arguments);
    return status;
}

/* A socket file that nobody listens on is what a killed master left. */
static void remove_stale(const struct rpc_address *address, const char *path)
{
    struct stat found;
    if (lstat(path, &found) != 0 || !S_ISSOCK(found.st_mode)) {
        return;
    }
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0) {
        return;
    }
    if (connect(probe, (const struct sockaddr *)&address->socket, address->bytes) != 0 &&
        errno == ECONNREFUSED) {
        (void)unlink(path);
    }
    close(probe);
}

static int bind_one(const struct rpc_address *address, const char *path, bool v6_only)
{
    const int yes = 1;
    const int only = v6_only;
    int family = address->socket.ss_family;
    int descriptor = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0) {
        return -1;
    }
    if (family != AF_UNIX) {
        (void)setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    } else if (path[0] != '\0') {
        remove_stale(address, path);
        (void)fchmod(descriptor, 0600); /* the file gets the socket's mode */
    }
    if (family == AF_INET6) {
        (void)setsockopt(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
    }
    if (bind(descriptor, (const struct sockaddr *)&address->socket, address->bytes) != 0) {
        int error = errno;
        close(descriptor);
        errno = error;
        return -1;
    }
    return descriptor;
}

/* "[::]" is IPv4 too, as with gRPC's own sockets, but where an IPv4 address wants the port for
 * itself: one beside it in the list, or of the same text ("*" gives both). */
static bool is_v6_only(const struct rpc_accept_options *options, const struct rpc_address *address)
{
    const struct sockaddr_in6 *six = (const void *)&address->socket;
    if (six->sin6_family != AF_INET6 || !IN6_IS_ADDR_UNSPECIFIED(&six->sin6_addr)) {
        return true;
    }
    for (size_t i = 0; i < options->address_count; i++) {
        struct rpc_address addresses[RPC_ADDRESSES_MAX];
        size_t count = 0;
        char unused[64];
        if (rpc_address_resolve(options->addresses[i], addresses, ARRAY_COUNT(addresses), &count,
                                unused, sizeof unused) != UMBP_OK) {
            continue;
        }
        for (size_t k = 0; k < count; k++) {
            const struct sockaddr_in *four = (const void *)&addresses[k].socket;
            if (four->sin_family == AF_INET && four->sin_port == six->sin6_port) {
                return true;
            }
        }
    }
    return false;
}

static void set_port(struct rpc_address *address, in_port_t port)
{
    if (address->socket.ss_family == AF_INET) {
        ((struct sockaddr_in *)(void *)&address->socket)->sin_port = port;
    } else if (address->socket.ss_family == AF_INET6) {
        ((struct sockaddr_in6 *)(void *)&address->socket)->sin6_port = port;
    }
}

static in_port_t port_of(const struct rpc_address *address)
{
    return address->socket.ss_family == AF_INET
               ? ((const struct sockaddr_in *)(const void *)&address->socket)->sin_port
           : address->socket.ss_family == AF_INET6
               ? ((const struct sockaddr_in6 *)(const void *)&address->socket)->sin6_port
               : 0;
}

static enum umbp_status bind_address(struct rpc_accept *accept, const char *text, char *error_out,
                                     size_t error_bytes)
{
    struct rpc_address addresses[RPC_ADDRESSES_MAX];
    size_t count = 0;
    enum umbp_status status = rpc_address_resolve(text, addresses, ARRAY_COUNT(addresses), &count,
                                                  error_out, error_bytes);
    size_t bound = 0;
    in_port_t port = 0;
    int error = 0;
    for (size_t i = 0; status == UMBP_OK && i < count; i++) {
        if (accept->listener_count == RPC_ADDRESSES_MAX) {
            return fail(UMBP_LIMIT, error_out, error_bytes, "more than %u addresses to listen on",
                        RPC_ADDRESSES_MAX);
        }
        struct listener *listener = &accept->listeners[accept->listener_count];
        const bool is_alone = is_v6_only(&accept->options, &addresses[i]);
        *listener = (struct listener){.is_unix = addresses[i].socket.ss_family == AF_UNIX};
        if (listener->is_unix) {
            const struct sockaddr_un *local = (const struct sockaddr_un *)&addresses[i].socket;
            snprintf(listener->path, sizeof listener->path, "%s", local->sun_path);
        } else if (bound > 0 && port_of(&addresses[i]) == 0) {
            set_port(&addresses[i], port); /* one port for all that "localhost:0" means */
        }
        listener->descriptor = bind_one(&addresses[i], listener->path, is_alone);
        if (listener->descriptor < 0) {
            error = errno;
            continue;
        }
        addresses[i].bytes = sizeof addresses[i].socket;
        if (getsockname(listener->descriptor, (struct sockaddr *)&addresses[i].socket,
                        &addresses[i].bytes) != 0) {
            addresses[i].bytes = 0;
        }
        port = port_of(&addresses[i]);
        if (listener->is_unix) {
            snprintf(listener->text, sizeof listener->text, "%s", text);
        } else {
            rpc_address_format(&addresses[i], listener->text, sizeof listener->text);
        }
        accept->listener_count++;
        bound++;
    }
    if (status == UMBP_OK && bound == 0) {
        status =
            fail(UMBP_IO, error_out, error_bytes, "can't listen on %s: %s", text, strerror(error));
    }
    return status;
}

/* ------------------------------------------------------------------ create, start ------ */

enum umbp_status rpc_accept_create(const struct rpc_accept_options *options,
                                   struct rpc_accept **accept_out, char *error_out,
                                   size_t error_bytes)
{
    struct rpc_accept *accept = mem_zalloc(sizeof *accept);
    if (accept == NULL) {
        return fail(UMBP_NO_MEMORY, error_out, error_bytes, "out of memory");
    }
    ASSERT(options->signpost_bytes <= sizeof accept->signpost);
    accept->options = *options;
    accept->options.signpost = accept->signpost;
    if (options->signpost_bytes > 0) {
        memcpy(accept->signpost, options->signpost, options->signpost_bytes);
    }
    list_init(&accept->waiting);
    list_init(&accept->free);
    for (size_t i = 0; i < RPC_PENDING_MAX; i++) {
        accept->pendings[i].descriptor = -1;
        list_init(&accept->pendings[i].link);
        list_push_back(&accept->free, &accept->pendings[i].link);
    }
    accept->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    accept->poll = epoll_create1(EPOLL_CLOEXEC);
    enum umbp_status status = UMBP_OK;
    if (accept->wake < 0 || accept->poll < 0) {
        status = fail(UMBP_IO, error_out, error_bytes, "no event queue: %s", strerror(errno));
    }
    for (size_t i = 0; status == UMBP_OK && i < options->address_count; i++) {
        status = bind_address(accept, options->addresses[i], error_out, error_bytes);
    }
    if (status != UMBP_OK) {
        rpc_accept_destroy(accept);
        return status;
    }
    accept->descriptor_end = accept->poll + OWN_DESCRIPTORS + (int)options->max_connections;
    *accept_out = accept;
    return UMBP_OK;
}

enum umbp_status rpc_accept_start(struct rpc_accept *accept)
{
    for (size_t i = 0; i < accept->listener_count; i++) {
        if (listen(accept->listeners[i].descriptor, BACKLOG) != 0) {
            log_error("rpc_listen", "address=%s error=\"%s\"", accept->listeners[i].text,
                      strerror(errno));
            return UMBP_IO;
        }
    }
    rest_ends(accept);
    watch(accept, accept->wake, EPOLLIN, NULL);
    accept->next_tick_ns = clock_now_ns(clock_monotonic()) + TICK_NS;
    enum umbp_status status = thread_create(&accept->thread, "umbp-accept", false, run, accept);
    accept->is_running = status == UMBP_OK;
    return status;
}

/* Who connects from now on is told so, rather than left waiting. The file goes first: once nobody
 * listens on it, another master may put its own there. */
static void close_listeners(struct rpc_accept *accept)
{
    for (size_t i = 0; i < accept->listener_count; i++) {
        struct listener *listener = &accept->listeners[i];
        if (listener->descriptor >= 0) {
            if (listener->path[0] != '\0') {
                (void)unlink(listener->path);
            }
            close(listener->descriptor);
            listener->descriptor = -1;
        }
    }
}

void rpc_accept_stop(struct rpc_accept *accept)
{
    const uint64_t one = 1;
    if (!accept->is_running) {
        return;
    }
    atomic_store_explicit(&accept->is_stopping, true, memory_order_release);
    (void)!write(accept->wake, &one, sizeof one);
    pthread_join(accept->thread, NULL);
    accept->is_running = false;
    close_listeners(accept);
}

void rpc_accept_destroy(struct rpc_accept *accept)
{
    if (accept == NULL) {
        return;
    }
    rpc_accept_stop(accept);
    close_listeners(accept);
    if (accept->wake >= 0) {
        close(accept->wake);
    }
    if (accept->poll >= 0) {
        close(accept->poll);
    }
    mem_free(accept);
}

const char *rpc_accept_address(const struct rpc_accept *accept, size_t nth)
{
    return nth < accept->listener_count ? accept->listeners[nth].text : NULL;
}

const struct rpc_accept_stats *rpc_accept_stats_of(const struct rpc_accept *accept)
{
    return &accept->stats;
}
