/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A simulated network under the contract of fabric.h: any number of endpoints ("processes" on
 * "hosts") in one thread, in virtual time, from one seed. For tests and simulations only.
 *
 * What it plays: delays drawn from a range (so messages of different connections overtake each
 * other, those of one do not); transfers that move in chunks, each read when it is sent and written
 * when it lands, so that a connection can end in the middle of one; pulls of a peer's memory that
 * read it chunk by chunk whenever they get to it, also after the peer let go of it (only the epoch
 * tells); connections that break; hosts cut from each other; processes that stop (everything of
 * theirs waits, their memory stays readable on the host) and go on, and processes that are killed.
 *
 * Memory of a peer is only touched where it is or was a region of that endpoint; what was ever a
 * region must stay mapped until the endpoint is destroyed (a pull may come late: that is the
 * point).
 *
 * fabric_wait and fabric_pull_wait run the simulation until they are satisfied. A killed endpoint's
 * owner gets no callback any more until it calls fabric_close, which completes everything as usual.
 *
 * Threading: one thread for the whole simulation. Ownership: the simulation outlives its endpoints.
 */
#ifndef FABRIC_FABRIC_SIM_H
#define FABRIC_FABRIC_SIM_H

#include "base/clock.h"
#include "base/rng.h"
#include "fabric/fabric.h"

struct fabric_sim;

#define FABRIC_SIM_HOSTS 32u

/* Zero members are the default. */
struct fabric_sim_options {
    uint64_t seed;
    uint64_t delay_min_ns; /* 20 us: of a message between processes */
    uint64_t delay_max_ns; /* 200 us */
    uint64_t pull_max_ns;  /* 50 us: between the chunks of a pull */
    uint32_t chunk_bytes;  /* 4,096: what moves at a time, at most; drawn anew for each chunk */
};

MUST_USE enum umbp_status fabric_sim_create(const struct fabric_sim_options *options,
                                            struct fabric_sim **sim_out);
void fabric_sim_destroy(struct fabric_sim *sim); /* takes NULL; every endpoint is destroyed */

/* An endpoint on `host`; options.listen of "name" makes "name" its address. Members about threads
 * and providers mean nothing here. */
MUST_USE enum umbp_status fabric_sim_open(struct fabric_sim *sim, uint32_t host,
                                          const struct fabric_options *options,
                                          const struct fabric_handlers *handlers,
                                          struct fabric **fabric_out);

/* Virtual time; starts at 1 s. */
const struct clock_source *fabric_sim_clock(struct fabric_sim *sim);
/* The one source of chance. */
struct rng *fabric_sim_rng(struct fabric_sim *sim);

/* Run the next event; false when there is none. */
bool fabric_sim_step(struct fabric_sim *sim);
/* Run what is due until then, and be there. */
void fabric_sim_run(struct fabric_sim *sim, uint64_t until_ns);
/* Run until the condition holds; false when it does not by `until_ns`. */
bool fabric_sim_run_until(struct fabric_sim *sim, bool (*condition)(void *), void *context,
                          uint64_t until_ns);

/* `run` in `delay_ns`: of the endpoint's process (as its own threads would: it waits while that is
 * stopped, and is lost when it is killed), or of nobody (NULL). */
void fabric_sim_after(struct fabric_sim *sim, struct fabric *of, uint64_t delay_ns,
                      void (*run)(void *context), void *context);

void fabric_sim_stop(struct fabric *fabric);
void fabric_sim_continue(struct fabric *fabric);
void fabric_sim_kill(struct fabric *fabric);
bool fabric_sim_is_killed(const struct fabric *fabric);
/* Break every connection between the two. */
void fabric_sim_break(struct fabric *a, struct fabric *b);
/* Nothing passes between the hosts, and nothing is lost but by time running out. */
void fabric_sim_cut(struct fabric_sim *sim, uint32_t host_a, uint32_t host_b);
void fabric_sim_heal(struct fabric_sim *sim);

#endif
