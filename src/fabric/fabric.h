/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages and bytes between processes: an endpoint with connected peers, calls with deadlines,
 * one-way messages, transfers into and out of memory that a peer has shown (RMA), reads of a peer's
 * memory on the same host, timers, and a loop that runs all callbacks. An ops table with several
 * implementations: libfabric (fabric_open), a simulated network in virtual time, a fault wrapper.
 *
 * THE LOOP. Every callback (requests, completions, timers, tasks, peers coming and going) runs on
 * the endpoint's loop: one at a time, never inside a call of yours except fabric_wait, fabric_close
 * and, in a simulation, its own run function. So code that only lives in callbacks needs no lock.
 * A callback must not block (a few microseconds; bulk copies and I/O go to other threads), must not
 * call fabric_wait, fabric_pull_wait or fabric_close, and may call everything else. The loop is
 * driven by a thread of the endpoint, or by whichever thread waits in fabric_wait: callbacks may
 * come on a waiting caller's thread, so hold no lock in fabric_wait that a callback takes.
 *
 * THREADING. Every function may be called from any thread and from callbacks, unless it says
 * "loop only". None blocks but fabric_wait, fabric_pull_wait, fabric_open and fabric_close.
 *
 * EXACTLY ONCE. A function with a callback either returns UMBP_OK, and then the callback comes
 * exactly once, never before the function returned to a caller on the loop; or returns something
 * else, and it never comes. (To a caller on another thread the callback may come before the
 * return.) What is "borrowed until completion" may be reused when the callback begins.
 *
 * CONNECTIONS. A peer handle names one connection, not a machine: index and generation in one
 * number, 0 is none, never reused. Two connections to the same process are two peers, and who wants
 * one only closes the other. When a connection ends (for whatever reason) the provider is made
 * to give up everything first; after that, in this order: transfers and calls complete with
 * UMBP_CLOSED (a call that ran out of time with UMBP_TIMEOUT), then peer_down comes, last. Once the
 * first of these callbacks has begun, no byte of that connection moves into or out of this
 * process's memory any more (rule 1 of docs/pool.md), and the epoch that a peer on the same host
 * checks has been raised (rule 2). Requests of that peer that were not answered yet stay valid
 * until they are; the answer goes nowhere.
 *
 * ORDER. Requests, answers and one-way messages of one connection arrive in the order in which
 * they were submitted, except that those of more than FABRIC_EAGER_BYTES may be overtaken. A
 * message submitted after a transfer's completion callback is seen after the bytes are in place.
 *
 * LIVENESS. Each side sends something at least every beat_ms. A peer from which nothing came for
 * peer_timeout_ms is closed. A call ends at most 1 s after its deadline. A killed peer shows within
 * milliseconds.
 *
 * TRUST. Strangers on the port (scans, random bytes, half-open connections, other clusters, other
 * versions) are refused before the data plane exists for them, within handshake_ms. A peer that
 * knows the cluster's name, seed and protocol is trusted to be libfabric: Debian's libfabric 1.17
 * does not check the framing of its own tcp protocol beyond that. What such a peer says in our own
 * frames is checked. Remote keys are random, and memory is only written where a key was given.
 *
 * LIMITS. A message has at most FABRIC_MESSAGE_MAX bytes; every count is bounded by an option, and
 * who runs against a bound gets UMBP_BUSY at once.
 */
#ifndef FABRIC_FABRIC_H
#define FABRIC_FABRIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/attr.h"
#include "base/clock.h"
#include <umbp/status.h>

/* A message up to this goes at once; a larger one by rendezvous, which nobody sees. */
#define FABRIC_EAGER_BYTES ((size_t)64 << 10)
#define FABRIC_MESSAGE_MAX ((size_t)4 << 20)
#define FABRIC_PARTS_MAX 4u
#define FABRIC_IDENTITY_MAX ((size_t)1024)
#define FABRIC_CLUSTER_MAX ((size_t)64)  /* bytes of the cluster's name */
#define FABRIC_ADDRESS_MAX ((size_t)280) /* "host:port" with its zero */

struct fabric;
struct fabric_region;

/* One connection. 0: none. */
typedef uint64_t fabric_peer;

/* ------------------------------------------------------------------------------- peers -------- */

/* What a peer said about itself; borrowed until the callback returns. */
struct fabric_hello {
    const void *identity; /* the blob that its endpoint was opened with */
    size_t identity_bytes;
    const char *address; /* where it can be connected to; "" if it does not listen */
    const char *from;    /* the address that the connection comes from, for logs; may be "" */
    bool incoming;       /* it connected to us */
    uint16_t version;    /* of the protocol, agreed */
};

enum fabric_peer_flag {
    FABRIC_PEER_UP = 1,       /* the handle is alive */
    FABRIC_PEER_READABLE = 2, /* same host, and we can read its memory: fabric_pull works */
    FABRIC_PEER_READS_US = 4, /* same host, and it can read ours */
    FABRIC_PEER_INCOMING = 8, /* it connected to us */
};

/* ------------------------------------------------------------------------------- calls -------- */

/* What a call came to. `data` is 8-aligned and borrowed until the callback returns. */
struct fabric_reply {
    enum umbp_status status; /* the answerer's; CLOSED, TIMEOUT, CANCELLED, BUSY, IO of ours */
    const void *data;
    size_t bytes;
    uint64_t epoch; /* for pulls of memory that this reply names */
};

struct fabric_call {
    fabric_peer peer;
    const struct iovec *parts; /* copied before the function returns */
    unsigned part_count;       /* at most FABRIC_PARTS_MAX */
    uint64_t deadline_ns;
    /*
     * The message names memory of ours that the peer may read or write. If the deadline passes
     * the connection is closed, and the call completes (with UMBP_TIMEOUT) only after that.
     * Without it a late answer is dropped and the connection lives on.
     */
    bool exposes_memory;
    void (*done)(void *context, const struct fabric_reply *reply);
    void *context;
};

/*
 * A peer's request. It belongs to the receiver until fabric_answer, which must come exactly once
 * (also if the peer is gone; late answers are dropped), from any thread. The fields are read-only
 * but `user`.
 */
struct fabric_request {
    fabric_peer peer;
    const void *data; /* 8-aligned; valid until fabric_answer returns */
    size_t bytes;
    uint64_t deadline_ns; /* when the caller gives up, by our clock */
    uint64_t epoch;       /* for pulls of memory that this request names */
    void *user;           /* the receiver's */
};

/* ------------------------------------------------------------------------------ memory -------- */

enum fabric_access {
    FABRIC_LOCAL = 0,        /* the near side of our own transfers */
    FABRIC_REMOTE_READ = 1,  /* peers that have the key may read it */
    FABRIC_REMOTE_WRITE = 2, /* peers that have the key may write it */
};

/* What a peer needs besides an address to reach a region. Travels as two little-endian words. */
struct fabric_key {
    uint64_t key;
    uint64_t base;
};

/*
 * One run of bytes of a transfer or a pull. `local` lies in `region` (a pull needs no region).
 * `remote` is the pointer as the peer knows it.
 */
struct fabric_piece {
    void *local;
    struct fabric_region *region;
    uint64_t remote;
    struct fabric_key key;
    size_t bytes; /* 0 is allowed and ignored */
};

/* `status`: OK if every byte of a read or pull is in place, or every byte of a write is on its way
 * (the source may be reused; the peer sees them before any message submitted later). Else nothing
 * is known about the target's bytes. */
typedef void fabric_done(void *context, enum umbp_status status);

/* ------------------------------------------------------------------ waiting, tasks, timers -----
 */

/*
 * Counts operations that a thread waits for: set it to their number, count down in their callbacks,
 * fabric_wait for 0. May live on the waiter's stack: nobody touches it after fabric_wait returned
 * OK. After a TIMEOUT operations are still pending, so it must stay until they have counted down.
 */
struct fabric_latch {
    _Atomic uint32_t pending;
};

static inline void fabric_latch_init(struct fabric_latch *latch, uint32_t count)
{
    atomic_init(&latch->pending, count);
}
/* Only by who knows that it is not 0 yet, or before anybody waits. */
static inline void fabric_latch_add(struct fabric_latch *latch, uint32_t count)
{
    /* relaxed: the adder's own later submission publishes it */
    atomic_fetch_add_explicit(&latch->pending, count, memory_order_relaxed);
}

/* Runs once on the loop. The caller's memory, borrowed until `run` begins. */
struct fabric_task {
    void (*run)(struct fabric_task *task);
    struct fabric_task *next; /* private */
};

/* Zero-initialise, set `run`. The caller's memory; may not move or go away while set. */
struct fabric_timer {
    void (*run)(struct fabric_timer *timer);
    uint64_t deadline_ns; /* private from here on */
    struct fabric_timer *child;
    struct fabric_timer *next;
    struct fabric_timer *previous;
    bool is_set;
};

/* ---------------------------------------------------------------------------- endpoint -------- */

/* All on the loop. NULL members: accept allows all, the others ignore (a request is answered
 * UMBP_UNSUPPORTED). */
struct fabric_handlers {
    /*
     * Both sides ask it about the other before the connection counts. Anything but UMBP_OK refuses;
     * the status reaches the other side as its connect's outcome.
     */
    enum umbp_status (*accept)(void *context, const struct fabric_hello *hello);
    /* Before any other callback about that peer. For connects of ours too (then `done` follows). */
    void (*peer_up)(void *context, fabric_peer peer, const struct fabric_hello *hello);
    /* After every other one. CLOSED: it or we closed; TIMEOUT: silent; IO; CORRUPT: bad frames. */
    void (*peer_down)(void *context, fabric_peer peer, enum umbp_status reason);
    void (*request)(void *context, struct fabric_request *request);
    /* One-way. `data` is 8-aligned and borrowed until the callback returns. */
    void (*message)(void *context, fabric_peer peer, const void *data, size_t bytes);
    void *context;
};

/* Zero members are the default. Strings and blobs are copied. */
struct fabric_options {
    size_t struct_bytes;   /* sizeof(struct fabric_options) */
    const char *provider;  /* "auto" (tcp), "tcp", "verbs", ...: the same on all ends */
    const char *listen;    /* "host:port", port 0: any; NULL: connects only */
    const char *advertise; /* the host that peers shall use; NULL: the one of `listen` */
    const char *cluster;   /* its name; "" is one too */
    uint64_t hash_seed;    /* must agree */
    const void *identity;  /* at most FABRIC_IDENTITY_MAX; peers see it in fabric_hello */
    size_t identity_bytes;
    uint32_t beat_ms;         /* 500 */
    uint32_t peer_timeout_ms; /* 3,000; at least 3 beats */
    uint32_t handshake_ms;    /* 2,000: from a connection's first byte until it counts */
    uint32_t peers_max;       /* 1,024 connections, half-open ones included */
    uint32_t calls_max;       /* 1,024 calls of ours in flight, in all */
    uint32_t calls_per_peer;  /* 256 to one peer */
    uint32_t requests_max;    /* 256 requests of others that wait for our answer, in all */
    uint32_t spin_us; /* UINT32_MAX: none; 20 us of polling before a waiter sleeps, and the loop's
                       * thread if it listens; five times that while it pays */
    uint32_t pull_threads; /* 2 threads that copy for fabric_pull, made at the first pull */
    bool same_host_off;    /* no reads of other processes' memory, and none of ours */
    const struct clock_source *clock; /* NULL: the machine's */
};

/* A snapshot; counts since the endpoint was opened but where it says "now". */
struct fabric_stats {
    uint64_t peers_now, calls_now, requests_now;
    uint64_t connected, refused, closed; /* connections */
    uint64_t calls, calls_failed, requests, messages_sent, messages_received;
    uint64_t written_bytes, read_bytes, pulled_bytes, mapped_bytes; /* mapped: of those pulled */
    uint64_t stale_pulls; /* pulls thrown away because the epoch had moved */
    uint64_t busy;        /* refused for want of room */
};

struct fabric_ops {
    const char *name;
    bool registering_is_cheap; /* registering per call costs less than copying 64 KiB */
    enum umbp_status (*close)(struct fabric *, uint64_t deadline_ns);
    void (*destroy)(struct fabric *);
    const char *(*address)(struct fabric *);
    uint64_t (*now_ns)(struct fabric *);
    enum umbp_status (*connect)(struct fabric *, const char *address, uint64_t deadline_ns,
                                void (*done)(void *, enum umbp_status, fabric_peer), void *context);
    void (*disconnect)(struct fabric *, fabric_peer);
    unsigned (*peer_flags)(struct fabric *, fabric_peer);
    enum umbp_status (*call)(struct fabric *, const struct fabric_call *);
    void (*answer)(struct fabric *, struct fabric_request *, enum umbp_status,
                   const struct iovec *parts, unsigned part_count);
    enum umbp_status (*send)(struct fabric *, fabric_peer, const struct iovec *, unsigned);
    enum umbp_status (*region_create)(struct fabric *, void *memory, size_t bytes, unsigned access,
                                      int shared_fd, uint64_t fd_offset,
                                      struct fabric_region **region_out);
    void (*region_destroy)(struct fabric *, struct fabric_region *);
    struct fabric_key (*region_key)(const struct fabric_region *);
    enum umbp_status (*transfer)(struct fabric *, fabric_peer, bool write,
                                 const struct fabric_piece *, size_t count, fabric_done *,
                                 void *context);
    enum umbp_status (*pull)(struct fabric *, fabric_peer, uint64_t epoch,
                             const struct fabric_piece *, size_t count, fabric_done *,
                             void *context);
    enum umbp_status (*pull_wait)(struct fabric *, fabric_peer, uint64_t epoch,
                                  const struct fabric_piece *, size_t count);
    void (*raise_epoch)(struct fabric *, fabric_peer);
    void (*post)(struct fabric *, struct fabric_task *);
    void (*timer_set)(struct fabric *, struct fabric_timer *, uint64_t deadline_ns);
    void (*timer_cancel)(struct fabric *, struct fabric_timer *);
    enum umbp_status (*wait)(struct fabric *, struct fabric_latch *, uint64_t deadline_ns);
    void (*latch_down)(struct fabric *, struct fabric_latch *);
    void (*stats)(struct fabric *, struct fabric_stats *stats_out);
};

/* Implementations begin with it. */
struct fabric {
    const struct fabric_ops *ops;
};

/*
 * The libfabric endpoint. INVALID_VALUE: an option is; IO: the address can't be listened on;
 * UNSUPPORTED: no such provider here; `error_out` (may be NULL) gets a sentence then.
 */
MUST_USE enum umbp_status fabric_open(const struct fabric_options *options,
                                      const struct fabric_handlers *handlers, char *error_out,
                                      size_t error_bytes, struct fabric **fabric_out);

/*
 * Ends all connections and runs every callback that is due: pending calls, connects and transfers
 * complete with UMBP_CANCELLED, then peer_down for each peer, and tasks posted by then have run.
 * Timers and later tasks never will. New operations return UMBP_CLOSED. TIMEOUT: pulls are still
 * copying (nothing else takes time); call it again. Not from a callback.
 */
MUST_USE static inline enum umbp_status fabric_close(struct fabric *fabric, uint64_t deadline_ns)
{
    return fabric->ops->close(fabric, deadline_ns);
}

/*
 * Frees everything, after closing if nobody did (then it waits for pulls without a bound). No other
 * thread may be inside a function of this endpoint. Unanswered requests and regions go with it.
 * Takes NULL.
 */
static inline void fabric_destroy(struct fabric *fabric)
{
    if (fabric) {
        fabric->ops->destroy(fabric);
    }
}

/* "host:port" to connect to, "" if it does not listen. Valid until fabric_destroy. */
static inline const char *fabric_address(struct fabric *fabric)
{
    return fabric->ops->address(fabric);
}

/* The clock that all deadlines here are of. */
static inline uint64_t fabric_now_ns(struct fabric *fabric) { return fabric->ops->now_ns(fabric); }

/*
 * Resolving names may block a helper thread, never the loop. `done` gets the peer (0 unless OK):
 * TIMEOUT; CLOSED (nobody listens, or it hung up); VERSION; STALE (another cluster or seed); LIMIT
 * (it has enough peers); INVALID_VALUE (the address); or what its accept handler said.
 */
MUST_USE static inline enum umbp_status
fabric_connect(struct fabric *fabric, const char *address, uint64_t deadline_ns,
               void (*done)(void *context, enum umbp_status status, fabric_peer peer),
               void *context)
{
    return fabric->ops->connect(fabric, address, deadline_ns, done, context);
}

/* Ends the connection soon; peer_down(CLOSED) comes. A handle that is dead already: nothing. */
static inline void fabric_disconnect(struct fabric *fabric, fabric_peer peer)
{
    fabric->ops->disconnect(fabric, peer);
}

/* Bits of enum fabric_peer_flag; 0 for a dead handle. */
static inline unsigned fabric_peer_flags(struct fabric *fabric, fabric_peer peer)
{
    return fabric->ops->peer_flags(fabric, peer);
}

/*
 * CLOSED: the handle is dead (also: `done` may say so later); BUSY: too many calls in flight;
 * TOO_LARGE; INVALID_VALUE: too many parts; TIMEOUT: the deadline is past. See struct fabric_call.
 */
MUST_USE static inline enum umbp_status fabric_call(struct fabric *fabric,
                                                    const struct fabric_call *call)
{
    return fabric->ops->call(fabric, call);
}

/*
 * Ends a request. `parts` is copied before it returns, and may point into the request's data.
 * More than FABRIC_MESSAGE_MAX bytes answer UMBP_TOO_LARGE instead; no memory, UMBP_NO_MEMORY.
 */
static inline void fabric_answer(struct fabric *fabric, struct fabric_request *request,
                                 enum umbp_status status, const struct iovec *parts,
                                 unsigned part_count)
{
    fabric->ops->answer(fabric, request, status, parts, part_count);
}

/* One way: nothing says whether it arrived. BUSY: too much on the way to that peer; CLOSED;
 * TOO_LARGE (only up to FABRIC_EAGER_BYTES); INVALID_VALUE. `parts` is copied. */
MUST_USE static inline enum umbp_status fabric_send(struct fabric *fabric, fabric_peer peer,
                                                    const struct iovec *parts, unsigned part_count)
{
    return fabric->ops->send(fabric, peer, parts, part_count);
}

/*
 * Makes memory known to the provider. The memory stays the caller's and must outlive the region.
 * `shared_fd` (-1: none): the memfd that backs it, borrowed until the region is destroyed, at
 * `fd_offset`; sealed against shrinking (F_SEAL_SHRINK), peers on this host that can read us
 * may map it read-only, and then copy faster.
 */
MUST_USE static inline enum umbp_status fabric_region_create(struct fabric *fabric, void *memory,
                                                             size_t bytes, unsigned access,
                                                             int shared_fd, uint64_t fd_offset,
                                                             struct fabric_region **region_out)
{
    return fabric->ops->region_create(fabric, memory, bytes, access, shared_fd, fd_offset,
                                      region_out);
}

/*
 * Only when no transfer of ours uses it and no call that shows it to a peer is pending. It does not
 * stop a peer's transfer that is in flight: only the end of a call or of a connection does. NULL.
 */
static inline void fabric_region_destroy(struct fabric *fabric, struct fabric_region *region)
{
    if (region) {
        fabric->ops->region_destroy(fabric, region);
    }
}

/* What a peer needs to reach it. */
static inline struct fabric_key fabric_region_key(struct fabric *fabric,
                                                  const struct fabric_region *region)
{
    return fabric->ops->region_key(region);
}

/*
 * Bytes from the peer's memory into ours (over libfabric by asking the peer to write them:
 * README.md says why), or from ours into the peer's; the list (borrowed until completion) in any
 * order, one callback for all of it. Neighbours that are contiguous on both sides become one
 * operation; a window keeps the pipe full and messages flowing. There is no deadline: the end is
 * the peer's or the connection's, so use it while a request of the peer is pending, whose caller
 * watches the time, or disconnect. INVALID_VALUE: a piece is outside its region; CLOSED; BUSY. A
 * peer that refuses (a bad key) ends the connection.
 */
MUST_USE static inline enum umbp_status fabric_read(struct fabric *fabric, fabric_peer peer,
                                                    const struct fabric_piece *pieces, size_t count,
                                                    fabric_done *done, void *context)
{
    return fabric->ops->transfer(fabric, peer, false, pieces, count, done, context);
}
MUST_USE static inline enum umbp_status fabric_write(struct fabric *fabric, fabric_peer peer,
                                                     const struct fabric_piece *pieces,
                                                     size_t count, fabric_done *done, void *context)
{
    return fabric->ops->transfer(fabric, peer, true, pieces, count, done, context);
}

/*
 * Reads the memory of a peer on this host, and then its epoch word, which must still be `epoch`:
 * the one that came with the request or reply that named the memory. `done`: OK: the bytes were
 * valid when they were read; STALE: the peer let go of the memory meanwhile, throw the bytes away;
 * CLOSED: it is gone; IO: an address is not readable. UNSUPPORTED at once: the peer is not
 * FABRIC_PEER_READABLE. The copying goes on when the connection ends, and the callback then comes
 * before that peer's peer_down. The list is borrowed until completion. `key`, `region`: ignored.
 */
MUST_USE static inline enum umbp_status fabric_pull(struct fabric *fabric, fabric_peer peer,
                                                    uint64_t epoch,
                                                    const struct fabric_piece *pieces, size_t count,
                                                    fabric_done *done, void *context)
{
    return fabric->ops->pull(fabric, peer, epoch, pieces, count, done, context);
}

/* The same on the calling thread, which copies along. Not from a callback. */
MUST_USE static inline enum umbp_status fabric_pull_wait(struct fabric *fabric, fabric_peer peer,
                                                         uint64_t epoch,
                                                         const struct fabric_piece *pieces,
                                                         size_t count)
{
    return fabric->ops->pull_wait(fabric, peer, epoch, pieces, count);
}

/*
 * Before letting go of memory that this peer may still be pulling: when it has returned, no pull
 * for a message submitted before, and not finished by now, says OK, while those for messages
 * submitted later may. Every end of a connection implies it. Nothing for a peer that is dead or
 * can't read us.
 */
static inline void fabric_raise_epoch(struct fabric *fabric, fabric_peer peer)
{
    fabric->ops->raise_epoch(fabric, peer);
}

/* Runs `task->run` on the loop, soon, in the order of posting. Not twice at a time. */
static inline void fabric_post(struct fabric *fabric, struct fabric_task *task)
{
    fabric->ops->post(fabric, task);
}

/* Loop only. Sets or moves it: `run` comes once, at or soon after the time. */
static inline void fabric_timer_set(struct fabric *fabric, struct fabric_timer *timer,
                                    uint64_t deadline_ns)
{
    fabric->ops->timer_set(fabric, timer, deadline_ns);
}

/* Loop only. It will not run. Nothing if it is not set. */
static inline void fabric_timer_cancel(struct fabric *fabric, struct fabric_timer *timer)
{
    fabric->ops->timer_cancel(fabric, timer);
}

/* OK: the latch is 0. TIMEOUT: it was not by the deadline. Drives the loop meanwhile. Not from a
 * callback. */
MUST_USE static inline enum umbp_status
fabric_wait(struct fabric *fabric, struct fabric_latch *latch, uint64_t deadline_ns)
{
    return fabric->ops->wait(fabric, latch, deadline_ns);
}

/* The last access of the caller to the latch. */
static inline void fabric_latch_down(struct fabric *fabric, struct fabric_latch *latch)
{
    fabric->ops->latch_down(fabric, latch);
}

static inline void fabric_stats(struct fabric *fabric, struct fabric_stats *stats_out)
{
    fabric->ops->stats(fabric, stats_out);
}

#endif
