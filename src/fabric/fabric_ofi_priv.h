/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the libfabric endpoint.
 *
 *   any thread ── submit() ──► stack of submissions ─┐          (fabric_ofi_loop.c)
 *                                                    ▼
 *   progress thread or a waiter: a pass under the ENGINE TOKEN: submissions, completions, events,
 *   timers, tasks; every callback runs here. Asleep in poll nobody holds the token.
 *
 * The token (`owner`) is not a lock: nobody blocks for it. A submitter that gets it posts its own
 * sends at once (and runs no callback); one that does not leaves them to who has it, who looks
 * again after letting go. All of libfabric is called under the token only, so its provider never
 * sees two threads. Fields are the token's unless they say otherwise.
 *
 * `lock` (RANK_FABRIC) guards the free lists and who polls; it is never held over anything.
 *
 * A connection (struct peer) goes FREE -> CONNECTING or ACCEPTING -> HELLO -> READY -> UP, and from
 * any of them -> CLOSING -> FREE. CLOSING begins with fi_close; once the completion queue has been
 * seen empty after that, what is still posted is given up, callbacks run, and peer_down is the last
 * one.
 */
#ifndef FABRIC_FABRIC_OFI_PRIV_H
#define FABRIC_FABRIC_OFI_PRIV_H

#include <netinet/in.h>
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>

#include "fabric/fabric_host_priv.h"
#include "fabric/fabric_priv.h"

/* -------------------------------------------------------------------------------- the wire ---- */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are written as they lie");

#define WIRE_MAGIC UINT32_C(0x42464d55) /* "UMFB" */
#define WIRE_VERSION_LOW 1
#define WIRE_VERSION_HIGH 1

/* Goes with a connection request, its acceptance and its refusal. Verbs leave 56 bytes. */
struct wire_door {
    uint32_t magic;
    uint16_t version_low;
    uint16_t version_high;
    uint64_t cluster; /* hash of its name, seeded with the seed of its keys */
    uint64_t tag;     /* what the other side shall write into its frames */
    uint16_t status;  /* of a refusal */
    uint16_t reserved;
    uint32_t crc;
};
_Static_assert(sizeof(struct wire_door) == 32, "wire_door");

enum wire_kind {
    WIRE_HELLO = 1,
    WIRE_READY, /* status: whether it can read our memory is in `id` */
    WIRE_BEAT,
    WIRE_GOODBYE, /* status: why */
    WIRE_REQUEST,
    WIRE_REPLY,
    WIRE_MESSAGE,
    WIRE_READ,      /* rows: what the sender wants written where */
    WIRE_READ_DONE, /* id: of the read; status */
    WIRE_EPOCH,     /* id: the sender's new epoch */
    WIRE_SHARE,     /* a region that may be mapped */
    WIRE_UNSHARE,
    WIRE_DROP, /* id: key of a large message that nobody wants */
};

#define WIRE_BIG 1u /* flag of a request or reply: the body is a struct wire_big */

struct wire_frame {
    uint32_t magic;
    uint8_t kind;
    uint8_t flags;
    uint16_t status;
    uint64_t tag;
    uint64_t id;
    uint32_t bytes; /* of the body */
    uint32_t left_ms;
    uint64_t reserved;
    uint32_t reserved2;
    uint32_t crc; /* of all before */
};
_Static_assert(sizeof(struct wire_frame) == 48, "wire_frame");

struct wire_big {
    uint64_t key;
    uint64_t bytes;
};

struct wire_row {
    uint64_t from; /* pointer in the receiver's memory */
    uint64_t from_key;
    uint64_t to; /* as the provider wants it */
    uint64_t to_key;
    uint64_t bytes;
};

struct wire_hello {
    uint16_t version_low;
    uint16_t version_high;
    uint16_t identity_bytes;
    uint16_t address_bytes;
    uint32_t beat_ms;
    uint32_t peer_timeout_ms;
    struct host_evidence evidence;
    /* identity, address */
};

struct wire_share {
    uint64_t base;
    uint64_t bytes;
    uint64_t offset;
    int32_t fd;
    uint32_t reserved;
    uint64_t key;
};

#define FRAME_BODY_MAX FABRIC_EAGER_BYTES
#define BUFFER_BYTES (sizeof(struct wire_frame) + FRAME_BODY_MAX)
#define BUFFER_STRIDE ((size_t)68 << 10)
#define RX_POSTED 128u /* receive buffers that requests and reads never hold */
/* With tcp, which leaves in the socket what has no buffer, so many are with the provider, and one
 * for each connection, which may sit on it amid a message: it takes them in turns, and few stay in
 * the caches. Other providers want one for each message on its way. */
#define RX_WARM 16u
#define TX_CONTROL 256u                /* small send buffers, besides two for each connection */
#define SMALL_STRIDE ((size_t)4 << 10) /* of those: all frames but the user's */
#define SMALL_PER_PEER 128u            /* on the way to one peer; more, and it does not listen */
#define TX_PER_PEER 128u               /* one-way messages on the way to one peer */
#define OPS_PER_PEER 64u
#define OPS_TOTAL 2048u
#define OPS_BYTES_PER_PEER ((size_t)8 << 20)
#define OP_BYTES_MAX ((size_t)1 << 20)
#define OP_RUNS_MAX 4u
#define READ_ROWS 64u /* of one WIRE_READ */
#define READ_CHUNKS 2u
#define SERVES_PER_PEER 16u
#define BIG_PER_PEER 8u
#define BIG_TOTAL 64u
#define HALF_OPEN_MAX 256u

/* -------------------------------------------------------------------------------- pieces ------ */

struct ofi;
struct peer;

/* What a thread hands to the engine. */
struct submission {
    struct submission *next;
    void (*run)(struct ofi *ofi, struct submission *submission);
};

enum context_kind {
    CONTEXT_RX = 1,
    CONTEXT_TX,
    CONTEXT_OP
};

/* Begins with the provider's scratch space; what a completion points to. */
struct context {
    struct fi_context2 scratch;
    enum context_kind kind;
};

struct rx {
    struct context context;
    char *buffer;
    struct rx *next;
};

struct request;

struct tx {
    struct context context;
    struct submission submission;
    char *buffer;
    size_t bytes; /* of frame and body */
    fabric_peer peer;
    struct list_node link;   /* of peer->posted or peer->unsent */
    struct request *request; /* that it answers */
    struct big *big;         /* the body of that answer, if large; until it is submitted */
    bool is_user;            /* counts in peer->sends */
    bool is_small;           /* for frames of our own */
    struct peer *on_way;     /* whose count of small ones it is in */
    struct tx *next;
};

struct request {
    struct fabric_request open; /* first */
    struct rx *rx;
    struct big *big; /* its body, if it was large */
    uint64_t id;
    unsigned index;
    struct request *next;
};

struct call {
    struct list_node link; /* of peer->calls */
    struct fabric_timer timer;
    struct submission submission;
    struct ofi *ofi;
    uint64_t id;
    uint64_t live_id; /* the same while it waits for its reply, else 0; the token's */
    fabric_peer peer;
    bool exposes;
    bool is_late;            /* its deadline closed the connection */
    enum umbp_status failed; /* why it could not be sent */
    void (*done)(void *context, const struct fabric_reply *reply);
    void *done_context;
    struct tx *tx;   /* until it is submitted */
    struct big *big; /* our large request */
    struct call *next;
    uint32_t index;
    uint32_t generation;
};

/* A large message: ours, which the peer fetches (then it has a region), or one being fetched. */
struct big {
    struct list_node link; /* of peer->bigs */
    struct fabric_region *region;
    char *memory;
    size_t bytes;
    struct fabric_piece piece;
    struct wire_frame frame; /* of one being fetched: what to do when it is here */
    fabric_peer peer;
    struct ofi *ofi;
    uint64_t epoch;
    bool is_ours;
    bool is_dead; /* freed when the serve that uses it ends */
    unsigned serving;
};

struct fabric_region {
    struct ofi *ofi;
    struct list_node link; /* of ofi->regions; under ofi->lock */
    char *memory;
    size_t bytes;
    unsigned access;
    struct fid_mr *mr;
    void *descriptor;
    struct fabric_key key;
    struct big *big;
    int shared_fd;
    uint64_t fd_offset;
};

/* One provider operation. */
struct op {
    struct context context;
    struct list_node link; /* of peer->ops */
    struct transfer *transfer;
    struct peer *peer;
    size_t bytes;
    struct op *next;
};

/* A WIRE_READ of ours that the peer works on. */
struct read_chunk {
    struct fid_mr *mrs[READ_ROWS];
    unsigned mr_count;
    uint64_t id; /* 0: free */
};

/* A list that is written by us (`is_write`) or by the peer for us; or what a peer asked to be
 * written (`serve_rx`), whose list are the rows of the frame. */
struct transfer {
    struct list_node link; /* of peer->writes or peer->reads */
    struct submission submission;
    struct ofi *ofi;
    fabric_peer peer;
    bool is_write;
    const struct fabric_piece *pieces;
    size_t count;
    size_t next_piece;
    size_t next_offset;
    unsigned in_flight;
    enum umbp_status status;
    uint64_t bytes;
    struct read_chunk chunks[READ_CHUNKS];
    fabric_done *done;
    void *done_context;
    struct rx *serve_rx;
    struct big *serve_big; /* ours, gone when served */
    uint64_t serve_id;
    struct transfer *next;
};

struct pull {
    struct host_job job;
    struct submission submission;
    struct ofi *ofi;
    struct peer *peer;
    fabric_done *done;
    void *done_context;
    struct pull *next;
};

struct connect {
    struct list_node link; /* of ofi->failed_connects */
    struct submission submission;
    struct ofi *ofi;
    char address[FABRIC_ADDRESS_MAX];
    uint64_t deadline_ns;
    void (*done)(void *context, enum umbp_status status, fabric_peer peer);
    void *done_context;
    struct host_job job;
    struct fi_info *info;
    enum umbp_status status;
};

enum peer_state {
    PEER_FREE,
    PEER_CONNECTING,
    PEER_ACCEPTING,
    PEER_HELLO, /* connected; our hello is out, theirs is not here */
    PEER_READY, /* our ready is out, theirs is not here */
    PEER_UP,
    PEER_REFUSING, /* goodbye is out */
    PEER_CLOSING,
};

struct peer {
    struct ofi *ofi;
    uint32_t index;
    uint32_t generation;
    enum peer_state state;
    bool incoming;
    bool was_up;
    bool is_flushed;
    enum umbp_status reason;
    fabric_peer handle;
    uint64_t our_tag;   /* in frames to us */
    uint64_t their_tag; /* in frames to them */
    struct fid_ep *ep;
    struct connect *connect;
    struct fabric_timer handshake;
    uint64_t heard_ns, sent_ns;
    uint64_t their_epoch;
    struct list_node closing; /* of ofi->closing */
    struct list_node pumping; /* of ofi->pumping */
    struct list_node posted, unsent, calls, writes, reads, ops, bigs;
    struct submission nudge;
    _Atomic bool nudged;
    _Atomic unsigned pulls; /* running; keeps the slot and its maps */
    unsigned smalls;        /* on the way */
    unsigned ops_count;
    size_t ops_bytes;
    unsigned serves; /* READs accepted and not finished */
    unsigned bigs_count;
    unsigned requests;     /* of theirs, not answered */
    struct host_peer host; /* how we read it */
    bool offers_word;
    char from[FABRIC_ADDRESS_MAX];
    char address[FABRIC_ADDRESS_MAX];
    char identity[FABRIC_IDENTITY_MAX];
    struct fabric_hello hello;
    /* What other threads look at. */
    _Atomic uint64_t up_handle;    /* the handle while UP, else 0 */
    _Atomic uint64_t close_handle; /* that someone wants closed */
    _Atomic unsigned flags;
    _Atomic unsigned calls_count;
    _Atomic unsigned sends_count;
};

enum poller {
    POLLER_NONE,
    POLLER_THREAD,
    POLLER_WAITER
};

struct waiter {
    struct list_node link;
    struct fabric_latch *latch;
    struct condition condition;
    bool polls;
};

/* A bit for each of the last waits: whether it was worth spinning for. */
struct spin {
    uint8_t history;
};

struct ofi {
    struct fabric base;
    struct fabric_options options;
    struct fabric_handlers handlers;
    char cluster[FABRIC_CLUSTER_MAX + 1];
    char identity[FABRIC_IDENTITY_MAX];
    char address[FABRIC_ADDRESS_MAX];
    char provider[32];
    uint64_t cluster_hash;
    struct rng rng;

    struct fi_info *info;
    struct fid_fabric *fabric;
    struct fid_domain *domain;
    struct fid_eq *eq;
    struct fid_cq *cq;
    struct fid_ep *srx;
    struct fid_pep *pep;
    bool offset_keys; /* remote addresses count from the region's beginning */
    bool own_keys;    /* we choose the keys */
    bool needs_local; /* buffers of ours need a descriptor */
    unsigned op_runs_max;
    int event_fd, cq_fd, eq_fd;
    uint16_t listen_port;
    bool is_tcp;
    struct sockaddr_in6 *half_open; /* seen by the last sweep */
    struct sockaddr_in6 *half_open_next;
    unsigned half_open_count;

    /* the token and what goes through it */
    _Atomic uintptr_t owner;
    _Atomic(struct submission *) submissions;
    _Atomic(struct fabric_task *) tasks;
    _Atomic unsigned asleep; /* threads in poll */
    _Atomic uint64_t sleep_until_ns;
    _Atomic bool latch_fired;
    _Atomic bool is_closed; /* no new operations */
    bool is_closing;        /* the loop knows */
    bool is_ended;          /* closed for good: only freeing is left */
    bool is_dry;            /* the completion queue was seen empty after the last fi_close */
    unsigned passes;

    /* how long who polls does so in vain; the token's */
    uint64_t spin_ns; /* 0 where there is one processor */
    struct spin waiter_spin, thread_spin;
    uint64_t arrivals, arrivals_seen; /* of completions that are not of our messages */
    uint64_t arrived_ns;              /* when the endpoint's thread saw the last */
    uint64_t active_ns;               /* when anything last happened in a pass of that thread */

    /* who polls; under lock */
    struct mutex lock;
    enum poller poller;
    struct list_node waiters;
    struct condition thread_wake;
    _Atomic unsigned waiter_count; /* in the list: a hint for the spinning thread. Relaxed */
    bool thread_asleep;            /* in poll */
    bool thread_parked;
    bool thread_stop;
    bool thread_made;
    uint64_t released_ns; /* when the last waiter left */
    pthread_t thread;

    /* fixed pools; the lists under lock */
    struct peer *peers;
    uint32_t peers_high; /* slots from here on were never used; the token's */
    struct call *calls;
    struct call *calls_free;
    struct request *requests;
    struct request *requests_free;
    struct tx *txs;
    struct tx *txs_free;
    unsigned txs_free_count;
    struct rx *rxs;
    struct rx *rxs_spare; /* not posted: rxs_wanted are, or the provider has no room; the token's */
    unsigned rxs_posted;  /* the token's */
    unsigned rxs_wanted;
    unsigned rxs_held; /* with requests and serves; the token's */
    struct transfer *transfers;
    struct transfer *transfers_free;
    struct pull *pulls;
    struct pull *pulls_free;
    struct op *ops;
    struct op *ops_free; /* the token's */
    char *slab;
    size_t slab_bytes;
    struct fid_mr *slab_mr;
    void *slab_descriptor;
    struct tx *smalls;
    struct tx *smalls_free;
    unsigned tx_count, small_count, rx_count, transfer_count;

    struct list_node regions; /* under lock */
    struct list_node failed_connects;
    struct list_node closing;
    struct list_node pumping;
    struct list_node dead_calls;     /* submitted after their peer's end */
    struct list_node dead_transfers; /* done; their callbacks are due */
    struct list_node dead_pulls;     /* likewise */
    struct timer_heap timers;
    struct fabric_timer tick;
    struct fabric_timer sweep;
    uint64_t now_ns; /* of this pass */
    uint64_t last_tick_ns;
    unsigned requests_count;
    unsigned bigs_count;
    uint64_t next_read_id;

    struct host host;
    struct fabric_stats counts; /* the token's, but those below */
    _Atomic uint64_t busy, pulled_bytes, mapped_bytes, stale_pulls;
    _Atomic uint64_t calls_in_flight;
    _Atomic unsigned resolving; /* connects that have not begun */
    _Atomic unsigned bigs_ours;
    unsigned serving;
};

static inline struct ofi *ofi_of(struct fabric *fabric) { return (struct ofi *)fabric; }

/* Handles: generation in the high half, index + 1 in the low one. */
static inline fabric_peer peer_handle_make(uint32_t index, uint32_t generation)
{
    return (uint64_t)generation << 32 | (index + 1);
}

/* The slot that the handle names if it is alive (any state but FREE) or NULL. Token. */
struct peer *fabric_ofi_peer(struct ofi *ofi, fabric_peer handle);
/* The slot if the handle is UP. Any thread. */
struct peer *fabric_ofi_peer_up(struct ofi *ofi, fabric_peer handle);

/* ---------------------------------------------------------------------------- the files ------ */

/* fabric_ofi_loop.c */
void fabric_ofi_submit(struct ofi *ofi, struct submission *submission);
void fabric_ofi_kick(struct ofi *ofi);
bool fabric_ofi_on_loop(struct ofi *ofi);
/* For the few things that must be done at once: true if the token was taken here. Short. */
bool fabric_ofi_enter(struct ofi *ofi);
void fabric_ofi_leave(struct ofi *ofi, bool entered);
void *fabric_ofi_thread(void *context);
void fabric_ofi_post(struct fabric *fabric, struct fabric_task *task);
enum umbp_status fabric_ofi_wait(struct fabric *fabric, struct fabric_latch *latch,
                                 uint64_t deadline_ns);
void fabric_ofi_latch_down(struct fabric *fabric, struct fabric_latch *latch);
/* fabric_close: passes until `is_done` says so or the deadline is past. */
bool fabric_ofi_drive(struct ofi *ofi, bool (*is_done)(struct ofi *ofi), uint64_t deadline_ns);

/* fabric_ofi_peer.c */
void fabric_ofi_peer_close(struct peer *peer, enum umbp_status reason);
void fabric_ofi_peer_finish(struct ofi *ofi); /* those in CLOSING that can */
void fabric_ofi_events(struct ofi *ofi);      /* reads the event queue */
void fabric_ofi_tick(struct fabric_timer *timer);
void fabric_ofi_peer_frame(struct peer *peer, const struct wire_frame *frame, const void *body);
enum umbp_status fabric_ofi_connect(struct fabric *fabric, const char *address,
                                    uint64_t deadline_ns,
                                    void (*done)(void *, enum umbp_status, fabric_peer),
                                    void *context);
void fabric_ofi_nudge(struct peer *peer);
void fabric_ofi_connects_finish(struct ofi *ofi);
void fabric_ofi_disconnect(struct fabric *fabric, fabric_peer handle);
unsigned fabric_ofi_peer_flags(struct fabric *fabric, fabric_peer handle);
void fabric_ofi_raise_epoch(struct fabric *fabric, fabric_peer handle);
void fabric_ofi_sweep(struct fabric_timer *timer);
/* `provider` is borrowed until fabric_ofi_hints_free. */
struct fi_info *fabric_ofi_hints(const char *provider);
void fabric_ofi_hints_free(struct fi_info *hints);

/* fabric_ofi_message.c */
enum tx_class {
    TX_CALL,
    TX_ANSWER,
    TX_CONTROL_MESSAGE
};
struct tx *fabric_ofi_tx_take(struct ofi *ofi, enum tx_class class);
void fabric_ofi_tx_free(struct ofi *ofi, struct tx *tx);
void *fabric_ofi_tx_body(struct tx *tx);
void fabric_ofi_tx_frame(struct tx *tx, enum wire_kind kind, uint64_t id, enum umbp_status status,
                         size_t body_bytes);
void fabric_ofi_tx_send(struct peer *peer, struct tx *tx); /* token; hands it over */
void fabric_ofi_tx_done(struct ofi *ofi, struct tx *tx, bool sent);
void fabric_ofi_tx_retry(struct peer *peer);
/* A frame without a body. False: no buffer. */
bool fabric_ofi_control(struct peer *peer, enum wire_kind kind, uint64_t id,
                        enum umbp_status status);
/* To the provider; false: to the spare ones. */
bool fabric_ofi_rx_post(struct ofi *ofi, struct rx *rx);
void fabric_ofi_received(struct ofi *ofi, struct rx *rx, size_t bytes);
enum umbp_status fabric_ofi_call(struct fabric *fabric, const struct fabric_call *call);
void fabric_ofi_answer(struct fabric *fabric, struct fabric_request *request,
                       enum umbp_status status, const struct iovec *parts, unsigned part_count);
enum umbp_status fabric_ofi_send(struct fabric *fabric, fabric_peer handle,
                                 const struct iovec *parts, unsigned part_count);
void fabric_ofi_call_finish(struct call *call, const struct fabric_reply *reply);
void fabric_ofi_big_free(struct big *big);

/* fabric_ofi_transfer.c */
enum umbp_status fabric_ofi_transfer(struct fabric *fabric, fabric_peer handle, bool write,
                                     const struct fabric_piece *pieces, size_t count,
                                     fabric_done *done, void *context);
/* Inside, under the token. */
enum umbp_status fabric_ofi_fetch(struct peer *peer, const struct fabric_piece *piece,
                                  fabric_done *done, void *context);
void fabric_ofi_transfer_finish(struct transfer *transfer);
void fabric_ofi_op_done(struct op *op, bool ok);
void fabric_ofi_pump(struct ofi *ofi);
/* True if the frame's buffer stays with the serve. */
bool fabric_ofi_read_frame(struct peer *peer, const struct wire_frame *frame, struct rx *rx);
void fabric_ofi_read_done(struct peer *peer, const struct wire_frame *frame);
void fabric_ofi_transfers_drop(struct peer *peer, enum umbp_status status);
enum umbp_status fabric_ofi_region_create(struct fabric *fabric, void *memory, size_t bytes,
                                          unsigned access, int shared_fd, uint64_t fd_offset,
                                          struct fabric_region **region_out);
void fabric_ofi_region_destroy(struct fabric *fabric, struct fabric_region *region);
struct fabric_key fabric_ofi_region_key(const struct fabric_region *region);
void fabric_ofi_region_free(struct fabric_region *region);

/* fabric_ofi_pull.c */
enum umbp_status fabric_ofi_pull(struct fabric *fabric, fabric_peer handle, uint64_t epoch,
                                 const struct fabric_piece *pieces, size_t count, fabric_done *done,
                                 void *context);
enum umbp_status fabric_ofi_pull_wait(struct fabric *fabric, fabric_peer handle, uint64_t epoch,
                                      const struct fabric_piece *pieces, size_t count);
void fabric_ofi_share_all(struct peer *peer);
void fabric_ofi_pulls_finish(struct ofi *ofi); /* from a pass */

/* fabric_ofi_sweep.c */
void fabric_ofi_sweep_now(struct ofi *ofi, bool at_once);

#endif
