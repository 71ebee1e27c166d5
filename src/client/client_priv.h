/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the client room: the handle, and the ops table that a scheme fills.
 *
 * The public functions (client.c) check the handle and count the call in; a scheme's function is
 * only ever entered between client_enter and client_leave, on an open client of this process.
 */
#ifndef CLIENT_CLIENT_PRIV_H
#define CLIENT_CLIENT_PRIV_H

#include <stdatomic.h>

#include "base/base.h"
#include "config/config.h"
#ifdef UMBP_HAVE_FABRIC
#include "fabric/fabric.h"
#endif
#include <umbp/umbp.h>

enum client_external {
    CLIENT_EXTERNAL_REPORT,
    CLIENT_EXTERNAL_REVOKE,
    CLIENT_EXTERNAL_REVOKE_ALL,
};

struct client_ops {
    const char *name; /* of the scheme, as in the configuration */
    enum umbp_deployment deployment;
    bool is_distributed;
    bool supports_ranges;

    enum umbp_status (*create)(const struct umbp_config *config, void **self_out, char *error_out,
                               size_t error_bytes);
    /* No call is running. After it only destroy follows. */
    enum umbp_status (*close)(void *self, uint64_t deadline_ns);
    void (*destroy)(void *self);

    enum umbp_status (*batch_put)(void *self, const struct umbp_put_item *items, size_t count,
                                  enum umbp_status *statuses_out);
    enum umbp_status (*batch_get)(void *self, const struct umbp_get_item *items, size_t count,
                                  enum umbp_status *statuses_out);
    enum umbp_status (*batch_put_ranges)(void *self, const struct umbp_range_item *items,
                                         size_t count, enum umbp_status *statuses_out);
    enum umbp_status (*batch_get_ranges)(void *self, const struct umbp_range_item *items,
                                         size_t count, enum umbp_status *statuses_out);
    enum umbp_status (*batch_exists)(void *self, const struct umbp_key *keys, size_t count,
                                     uint8_t *found_out);
    enum umbp_status (*exists_consecutive)(void *self, const struct umbp_key *keys, size_t count,
                                           size_t *hits_out);
    enum umbp_status (*batch_remove)(void *self, const struct umbp_key *keys, size_t count,
                                     enum umbp_status *statuses_out);
    /* The client keeps the list of what is registered; the scheme makes it known to its network. */
    enum umbp_status (*register_memory)(void *self, void *data, size_t bytes);
    enum umbp_status (*deregister_memory)(void *self, void *data);
    /* The external KV index; NULL-free: schemes without one answer UMBP_UNSUPPORTED. `op` tells
     * which of the three tellings. */
    enum umbp_status (*external_tell)(void *self, enum client_external op,
                                      const struct umbp_key *hashes, size_t count,
                                      enum umbp_tier tier);
    enum umbp_status (*external_match)(void *self, const struct umbp_key *hashes, size_t count,
                                       bool counts_as_hit,
                                       void (*visit)(void *, const struct umbp_external_match *),
                                       void *context);
    enum umbp_status (*external_hits)(void *self, const struct umbp_key *hashes, size_t count,
                                      uint64_t *hits_out);
    enum umbp_status (*flush)(void *self, uint64_t deadline_ns);
    enum umbp_status (*clear)(void *self, uint64_t deadline_ns);
    enum umbp_status (*list)(void *self, bool (*visit)(void *, const struct umbp_entry_info *),
                             void *context);
    enum umbp_status (*stat)(void *self, struct umbp_key key, struct umbp_entry_info *info_out);
    enum umbp_status (*stats)(void *self, struct umbp_stat_value *values_out, size_t capacity,
                              size_t *count_out);
};

extern const struct client_ops client_local_ops;
#ifdef UMBP_HAVE_FABRIC
extern const struct client_ops client_pool_ops;

struct client_door_question {
    const char *address; /* the master's gRPC address, "host:port" */
    const char *cluster;
    uint64_t hash_seed;
    uint32_t timeout_ms;
    int stop_fd; /* readable: give up; -1: none */
};

struct client_door {
    char address[FABRIC_ADDRESS_MAX]; /* of the fabric door */
    char local[FABRIC_ADDRESS_MAX];   /* of this machine, as the master sees it, or "" */
    bool is_guess;                    /* nobody answered: by convention the next port */
    char error[512];                  /* a sentence, where the status is not UMBP_OK */
};

/*
 * Where a master's fabric door is: asks its signpost. Blocks for at most `timeout_ms`, and for as
 * long as the resolver takes over a name. UMBP_INVALID_VALUE: no address; UMBP_VERSION; UMBP_STALE:
 * a master of another cluster or seed; UMBP_UNSUPPORTED: a master without a fabric door. `door_out`
 * is written in any case.
 */
MUST_USE enum umbp_status client_door_ask(const struct client_door_question *question,
                                          struct client_door *door_out);
/* The guess, without asking. */
MUST_USE enum umbp_status client_door_guess(const struct client_door_question *question,
                                            struct client_door *door_out);

/*
 * The doors of all masters (client_doors.c): asked all at once when made, and again when somebody
 * wants to know, until an answer has come.
 */
struct client_doors;
struct client_doors_options {
    const char *const *masters; /* copied */
    uint32_t count;             /* at most POOL_MASTERS_MAX */
    const char *cluster;        /* copied */
    uint64_t hash_seed;
};

MUST_USE enum umbp_status client_doors_create(const struct client_doors_options *options,
                                              struct client_doors **doors_out);
/* The first answer of master `index`, waited for until `deadline_ns` (of clock_monotonic), then the
 * guess. As client_door_ask. */
MUST_USE enum umbp_status client_doors_first(struct client_doors *doors, uint32_t index,
                                             uint64_t deadline_ns, struct client_door *door_out);
/* From now on `found` is called with each answer that is no guess, on a thread of its own. */
void client_doors_follow(struct client_doors *doors,
                         void (*found)(void *context, uint32_t index, const char *address),
                         void *context);
/* That master's door is needed, or where it was said to be is none. Any thread; never blocks. */
void client_doors_want(struct client_doors *doors, uint32_t index);
/* No `found` runs any more when it returns, nor begins. A second time: nothing. Takes NULL. */
void client_doors_stop(struct client_doors *doors);
/* Takes NULL. */
void client_doors_destroy(struct client_doors *doors);
#endif

/* ------------------------------------------------------------------- calls in flight ----- */

/*
 * Counted in stripes, so that callers on many cores do not share a line. A call adds itself, then
 * looks whether the client is closing; a closer says that it is closing, then waits for the sum to
 * be 0. Both are sequentially consistent, so at least one of the two sees the other.
 */
#define CLIENT_STRIPES 64u

struct client_stripe {
    _Atomic int64_t calls;
} ALIGNED_LINE;

struct client_memory {
    uintptr_t from;
    uintptr_t to; /* one past the last byte */
};

struct umbp_client {
    const struct client_ops *ops;
    void *self;
    uint64_t fork_epoch; /* of the process that made it */
    uint32_t op_timeout_ms;
    uint32_t close_timeout_ms;
    _Atomic bool closing;
    struct client_stripe stripes[CLIENT_STRIPES];

    struct mutex lock; /* RANK_CLIENT: everything below */
    struct condition closed_or_left;
    bool close_runs;
    bool closed;
    enum umbp_status close_status;
    struct client_memory *memory; /* registered, sorted by address */
    size_t memory_count;
    size_t memory_capacity;
};

#endif
