/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes of one host: proof that a peer is one, reads of its memory, epochs, and the worker
 * threads that copy (and resolve names). Knows no connections.
 *
 * Threading: the words and maps are read by any thread; host_map_add and host_map_drop come from
 * the loop only. `lock` (RANK_FABRIC) guards the queue of jobs.
 */
#ifndef FABRIC_FABRIC_HOST_PRIV_H
#define FABRIC_FABRIC_HOST_PRIV_H

#include <stdatomic.h>
#include <sys/types.h>

#include "fabric/fabric_priv.h"

#define HOST_UNIT_BYTES ((size_t)512 << 10) /* of a job, taken by one thread at a time */
#define HOST_MAPS_MAX 64u

/* What a process says about itself. On the wire. */
struct host_evidence {
    uint8_t boot[16];
    uint64_t pid_namespace;
    uint32_t pid;
    uint32_t uid;
    uint64_t word; /* address of the connection's word in its memory; 0: not offered */
    uint64_t nonce;
    uint64_t epoch;
};

/* Read by the peer, as it lies. The epoch of a slot only ever grows, over connections too. */
struct host_word {
    _Atomic uint64_t nonce;
    _Atomic uint64_t epoch;
};

struct host_map {
    uint64_t base; /* in the peer's memory */
    uint64_t bytes;
    uint64_t key;
    const char *memory;
    _Atomic bool is_dropped;
};

/* How a peer is read. */
struct host_peer {
    bool is_readable;
    pid_t pid;
    uint64_t word;
    uint64_t nonce;
    struct host_map maps[HOST_MAPS_MAX];
    _Atomic unsigned map_count;
};

struct host_job {
    struct list_node link;
    /* a copy */
    struct host_peer *peer;
    uint64_t epoch;
    const struct fabric_piece *pieces;
    size_t count;
    size_t next_piece; /* these under lock */
    size_t next_offset;
    unsigned active;
    bool is_queued;
    _Atomic int status;
    _Atomic uint64_t mapped_bytes;
    uint64_t bytes;
    /* or anything else that takes long */
    void (*run)(struct host_job *job);
    /* by the last thread, when all is done; NULL: host_job_wait is waiting */
    void (*done)(struct host_job *job);
};

struct host {
    struct host_word *words; /* one for each connection; mapped */
    size_t words_bytes;
    int words_fd; /* the memfd that they lie in, sealed, for peers to map; -1: private memory */
    bool is_off;
    uint8_t boot[16];
    uint64_t pid_namespace;
    unsigned threads;
    pthread_t *workers;
    _Atomic bool workers_made;
    struct mutex lock;
    struct condition wake;
    struct condition finished;
    struct list_node jobs; /* that have units left */
    bool stop;
};

MUST_USE enum umbp_status fabric_host_init(struct host *host, size_t words, unsigned threads,
                                           bool is_off);
void fabric_host_fini(struct host *host); /* joins the workers; no job may be queued */

/* A new connection in slot `index`: a new nonce. */
void fabric_host_evidence(struct host *host, size_t index, uint64_t nonce,
                          struct host_evidence *evidence_out);
uint64_t fabric_host_raise(struct host *host, size_t index); /* returns the new epoch */

/* Whether the peer's word can be read and says what the evidence does. */
void fabric_host_check(const struct host *host, const struct host_evidence *evidence,
                       struct host_peer *peer_out);
void fabric_host_peer_fini(struct host_peer *peer);
/* Failing to map is no error: then the bytes are read the other way. */
void fabric_host_map_add(struct host_peer *peer, uint64_t base, uint64_t bytes, int fd,
                         uint64_t offset, uint64_t key);
void fabric_host_map_drop(struct host_peer *peer, uint64_t key);

void fabric_host_job_init(struct host_job *job, struct host_peer *peer, uint64_t epoch,
                          const struct fabric_piece *pieces, size_t count,
                          void (*done)(struct host_job *job));
/* NO_MEMORY: no workers could be made. */
MUST_USE enum umbp_status fabric_host_job_start(struct host *host, struct host_job *job);
/* Copies along and returns when all is done. */
enum umbp_status fabric_host_job_wait(struct host *host, struct host_job *job);

#endif
