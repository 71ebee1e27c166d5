/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the simulated network. fabric_sim.c opens with how it works. */
#ifndef FABRIC_FABRIC_SIM_PRIV_H
#define FABRIC_FABRIC_SIM_PRIV_H

#include <string.h>

#include "base/base.h"
#include "fabric/fabric_sim.h"

struct sim_endpoint;
struct sim_side;

/* One thing that will happen. `owner` is the process that it happens in; `from` another host that
 * it comes from, if it crosses the network. */
struct sim_event {
    uint64_t at_ns;
    uint64_t order;
    struct sim_endpoint *owner; /* NULL: nobody's */
    struct sim_side *to;        /* crosses this connection, towards this side; or NULL */
    bool is_dead;
    void (*run)(struct fabric_sim *sim, struct sim_event *event);
    void *what;
    void (*call)(void *);
    uint64_t number;
    uint8_t *data; /* freed with the event */
    size_t bytes;
};

struct sim_queue {
    struct sim_event **items;
    size_t count;
    size_t capacity;
};

struct fabric_sim {
    struct fabric_sim_options options;
    struct clock_source clock;
    struct rng rng;
    uint64_t now_ns;
    uint64_t order;
    struct sim_queue heap;
    struct sim_queue held;    /* by a cut */
    struct sim_queue dropped; /* of processes that are gone */
    uint32_t cut[FABRIC_SIM_HOSTS];
    struct list_node endpoints;
    struct list_node retired;
    struct list_node connects;
    struct list_node moves;
    struct list_node links;
    uint64_t next_peer;
    bool inside; /* a callback runs */
};

struct fabric_region {
    struct list_node node;
    char *memory;
    size_t bytes;
    unsigned access;
    struct fabric_key key;
    bool is_gone;
};

struct sim_endpoint {
    struct fabric base; /* first */
    struct list_node node;
    struct fabric_sim *sim;
    uint32_t host;
    struct fabric_options options;
    struct fabric_handlers handlers;
    char address[FABRIC_ADDRESS_MAX];
    char cluster[FABRIC_CLUSTER_MAX + 1];
    uint8_t identity[FABRIC_IDENTITY_MAX];
    bool is_stopped;
    bool is_killed;
    bool is_closed;
    struct sim_queue held; /* while stopped */
    struct list_node regions;
    struct list_node connects;
    struct list_node requests; /* not answered yet */
    uint64_t peers_now;
    uint64_t calls_now;
    uint64_t requests_now;
    struct fabric_stats stats;
};

struct sim_side {
    struct sim_link *link;
    struct sim_side *other;
    struct sim_endpoint *owner;
    fabric_peer peer;
    bool is_up;     /* peer_up was called */
    bool is_closed; /* nothing moves any more */
    bool is_down;   /* peer_down was called */
    bool is_incoming;
    enum umbp_status reason;
    uint64_t epoch; /* of the memory of `owner` that the other may pull */
    uint64_t heard_ns;
    uint64_t last_ns; /* when the last message towards this side arrives */
    uint32_t pulls_now;
    uint32_t calls_now;
    struct list_node calls;
    struct list_node transfers;
    struct list_node pulls;
};

struct sim_link {
    struct list_node node;
    struct sim_side sides[2]; /* [0] connected */
};

/* A connection being made. */
struct sim_connect {
    struct list_node node;
    struct sim_endpoint *from;
    struct sim_link *link; /* once the other side has agreed */
    char address[FABRIC_ADDRESS_MAX];
    void (*done)(void *context, enum umbp_status status, fabric_peer peer);
    void *context;
    bool is_ended;
    enum umbp_status status;
    struct list_node all; /* events name it: it goes with the simulation */
};

#define SIM_FOR_EACH_SIDE(sim, endpoint_wanted, side)                                              \
    for (struct list_node *at_ = (sim)->links.next; at_ != &(sim)->links; at_ = at_->next)         \
        for (int side_ = 0; side_ < 2; side_++)                                                    \
            if ((side = &CONTAINER_OF(at_, struct sim_link, node)->sides[side_])->owner ==         \
                (endpoint_wanted))

static inline struct sim_endpoint *sim_endpoint_of(struct fabric *fabric)
{
    return CONTAINER_OF(fabric, struct sim_endpoint, base);
}

/* Gone: killed or closed. Nothing happens in it. */
static inline bool sim_is_gone(const struct sim_endpoint *endpoint)
{
    return endpoint->is_killed || endpoint->is_closed;
}

/* fabric_sim.c */
struct sim_event *sim_event_new(struct fabric_sim *sim, struct sim_endpoint *owner,
                                void (*run)(struct fabric_sim *, struct sim_event *), void *what);
void sim_event_push(struct fabric_sim *sim, struct sim_event *event, uint64_t delay_ns);
/* The same across the connection towards `to`. In order: behind what was sent before. */
void sim_event_cross(struct fabric_sim *sim, struct sim_event *event, struct sim_side *to,
                     bool in_order);
uint64_t sim_draw(struct fabric_sim *sim, uint64_t low, uint64_t high);
void *sim_alloc(size_t bytes); /* zeroed; a simulation out of memory ends */
void sim_queue_free(struct sim_queue *queue);
bool sim_are_cut(const struct fabric_sim *sim, uint32_t host_a, uint32_t host_b);
struct sim_side *sim_side_find(struct sim_endpoint *endpoint, fabric_peer peer); /* open ones */

/* fabric_sim_link.c */
void sim_side_init(struct sim_side *side, struct sim_link *link, struct sim_side *other,
                   struct sim_endpoint *owner);
void sim_side_up(struct sim_side *side);
/* Nothing moves from now on; callbacks follow. `tell`: the other side hears of it. `mine` is what
 * pending calls and transfers come to. */
void sim_side_close(struct sim_side *side, enum umbp_status reason, enum umbp_status mine,
                    bool tell);
/* Run at once every callback that closing has made due. For fabric_close. */
void sim_side_finish(struct sim_side *side);
void sim_requests_free(struct sim_endpoint *endpoint);

enum umbp_status sim_call(struct fabric *fabric, const struct fabric_call *call);
void sim_answer(struct fabric *fabric, struct fabric_request *request, enum umbp_status status,
                const struct iovec *parts, unsigned part_count);
enum umbp_status sim_send(struct fabric *fabric, fabric_peer peer, const struct iovec *parts,
                          unsigned part_count);

/* fabric_sim_move.c */
enum umbp_status sim_transfer(struct fabric *fabric, fabric_peer peer, bool write,
                              const struct fabric_piece *pieces, size_t count, fabric_done *done,
                              void *context);
enum umbp_status sim_pull(struct fabric *fabric, fabric_peer peer, uint64_t epoch,
                          const struct fabric_piece *pieces, size_t count, fabric_done *done,
                          void *context);
/* What is pending of the side comes to `mine` (pulls go on). */
void sim_moves_close(struct sim_side *side, enum umbp_status mine);
/* The same at once, pulls too, with their callbacks. */
void sim_moves_finish(struct sim_side *side);
void sim_side_pull_ended(struct sim_side *side);
void sim_moves_free(struct fabric_sim *sim);

#endif
