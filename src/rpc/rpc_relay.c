/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes between TLS connections and gRPC's TLS listener.
 *
 * A pair is two sockets and a buffer for each way. Both are watched edge-triggered; whatever
 * happens on one, both ways are pumped until the system says "later". A pair that has pumped for
 * long goes to the `ready` list, so that one fast connection does not starve the others.
 */
#include "rpc/rpc_priv.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/un.h>
#include <unistd.h>

#define EVENTS_MAX 64
#define ROUNDS_MAX 16

struct way {
    int from;
    int to;
    size_t begin;
    size_t end;
    bool has_ended;  /* nothing more comes from `from` */
    bool was_passed; /* and `to` has been told */
    uint8_t *buffer;
};

struct pair {
    struct list_node link;  /* in relay->pairs */
    struct list_node ready; /* in relay->ready, or self-linked */
    struct way ways[2];
};

struct rpc_relay {
    char target[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
    unsigned max_connections;
    int poll;
    int wake;
    pthread_t thread;
    _Atomic bool is_stopping;
    struct mutex guard; /* rank leaf: pairs, pair_count; the thread holds it while it works */
    struct list_node pairs;
    struct list_node ready; /* the thread's own */
    unsigned pair_count;
};

enum pumped {
    PUMPED_ALL,
    PUMPED_PART,
    PUMPED_BROKEN,
};

static bool is_later(void) { return errno == EAGAIN || errno == EINTR; }

static enum pumped pump(struct way *way)
{
    for (int round = 0; round < ROUNDS_MAX; round++) {
        if (way->begin == way->end) {
            if (way->has_ended) {
                if (!way->was_passed) {
                    way->was_passed = true;
                    (void)shutdown(way->to, SHUT_WR);
                }
                return PUMPED_ALL;
            }
            ssize_t got = recv(way->from, way->buffer, RPC_RELAY_BYTES, MSG_DONTWAIT);
            if (got < 0) {
                return is_later() ? PUMPED_ALL : PUMPED_BROKEN;
            }
            way->begin = 0;
            way->end = (size_t)got;
            way->has_ended = got == 0;
            continue;
        }
        ssize_t put = send(way->to, way->buffer + way->begin, way->end - way->begin,
                           MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put < 0) {
            return is_later() ? PUMPED_ALL : PUMPED_BROKEN;
        }
        way->begin += (size_t)put;
    }
    return PUMPED_PART;
}

static void destroy_pair(struct rpc_relay *relay, struct pair *pair)
{
    list_remove(&pair->link);
    list_remove(&pair->ready);
    close(pair->ways[0].from);
    close(pair->ways[1].from);
    mem_free(pair->ways[0].buffer);
    mem_free(pair);
    relay->pair_count--;
}

static void work(struct rpc_relay *relay, struct pair *pair)
{
    enum pumped one = pump(&pair->ways[0]);
    enum pumped other = pump(&pair->ways[1]);
    list_remove(&pair->ready);
    if (one == PUMPED_BROKEN || other == PUMPED_BROKEN ||
        (pair->ways[0].was_passed && pair->ways[1].was_passed)) {
        destroy_pair(relay, pair);
    } else if (one == PUMPED_PART || other == PUMPED_PART) {
        list_push_back(&relay->ready, &pair->ready);
    }
}

static void *run(void *context)
{
    struct rpc_relay *relay = context;
    struct epoll_event events[EVENTS_MAX];
    struct pair *done[EVENTS_MAX];
    /* acquire, with the release of rpc_relay_destroy */
    while (!atomic_load_explicit(&relay->is_stopping, memory_order_acquire)) {
        int got =
            epoll_wait(relay->poll, events, EVENTS_MAX, list_is_empty(&relay->ready) ? 1000 : 0);
        mutex_lock(&relay->guard);
        /* Both sockets of a pair may be in one round; the first may end the pair. */
        int done_count = 0;
        for (int i = 0; i < got; i++) {
            struct pair *pair = events[i].data.ptr;
            bool is_new = pair != NULL;
            for (int k = 0; is_new && k < done_count; k++) {
                is_new = done[k] != pair;
            }
            if (is_new) {
                done[done_count++] = pair;
            }
        }
        for (struct list_node *node = relay->ready.next, *next; node != &relay->ready;
             node = next) {
            next = node->next;
            struct pair *pair = CONTAINER_OF(node, struct pair, ready);
            for (int k = 0; k < done_count; k++) {
                done[k] = done[k] == pair ? NULL : done[k];
            }
            struct list_node *last = relay->ready.prev;
            work(relay, pair); /* may go to the end of the list: once a round is enough */
            if (node == last) {
                break;
            }
        }
        for (int k = 0; k < done_count; k++) {
            if (done[k] != NULL) {
                work(relay, done[k]);
            }
        }
        mutex_unlock(&relay->guard);
    }
    return NULL;
}

enum umbp_status rpc_relay_create(const char *target, unsigned max_connections,
                                  struct rpc_relay **relay_out)
{
    struct rpc_relay *relay = mem_zalloc(sizeof *relay);
    if (relay == NULL) {
        return UMBP_NO_MEMORY;
    }
    snprintf(relay->target, sizeof relay->target, "%s", target);
    relay->max_connections = max_connections;
    mutex_init(&relay->guard, RANK_LEAF);
    list_init(&relay->pairs);
    list_init(&relay->ready);
    relay->poll = epoll_create1(EPOLL_CLOEXEC);
    relay->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN};
    enum umbp_status status = UMBP_IO;
    if (relay->poll >= 0 && relay->wake >= 0 &&
        epoll_ctl(relay->poll, EPOLL_CTL_ADD, relay->wake, &event) == 0) {
        status = thread_create(&relay->thread, "umbp-relay", false, run, relay);
    }
    if (status != UMBP_OK) {
        close(relay->poll);
        close(relay->wake);
        mutex_fini(&relay->guard);
        mem_free(relay);
        return status;
    }
    *relay_out = relay;
    return UMBP_OK;
}

static int connect_target(const struct rpc_relay *relay)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t bytes = strlen(relay->target);
    memcpy(address.sun_path + 1, relay->target, bytes);
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor >= 0 &&
        connect(descriptor, (const struct sockaddr *)&address,
                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + bytes)) != 0) {
        close(descriptor);
        descriptor = -1;
    }
    return descriptor;
}

static bool watch(struct rpc_relay *relay, int descriptor, struct pair *pair)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.ptr = pair};
    return epoll_ctl(relay->poll, EPOLL_CTL_ADD, descriptor, &event) == 0;
}

void rpc_relay_add(struct rpc_relay *relay, int descriptor)
{
    struct pair *pair = mem_zalloc(sizeof *pair);
    uint8_t *buffers = mem_alloc((size_t)2 * RPC_RELAY_BYTES);
    int inner = pair != NULL && buffers != NULL ? connect_target(relay) : -1;
    if (inner < 0) {
        close(descriptor);
        mem_free(buffers);
        mem_free(pair);
        return;
    }
    pair->ways[0] = (struct way){.from = descriptor, .to = inner, .buffer = buffers};
    pair->ways[1] =
        (struct way){.from = inner, .to = descriptor, .buffer = buffers + RPC_RELAY_BYTES};
    list_init(&pair->ready);
    /* Held until both are watched: the thread must not end the pair in between. */
    mutex_lock(&relay->guard);
    list_push_back(&relay->pairs, &pair->link);
    relay->pair_count++;
    if (relay->pair_count > relay->max_connections || !watch(relay, descriptor, pair) ||
        !watch(relay, inner, pair)) {
        destroy_pair(relay, pair);
    }
    mutex_unlock(&relay->guard);
}

void rpc_relay_destroy(struct rpc_relay *relay)
{
    const uint64_t one = 1;
    if (relay == NULL) {
        return;
    }
    atomic_store_explicit(&relay->is_stopping, true, memory_order_release);
    (void)!write(relay->wake, &one, sizeof one);
    pthread_join(relay->thread, NULL);
    while (!list_is_empty(&relay->pairs)) {
        destroy_pair(relay, CONTAINER_OF(relay->pairs.next, struct pair, link));
    }
    close(relay->poll);
    close(relay->wake);
    mutex_fini(&relay->guard);
    mem_free(relay);
}
