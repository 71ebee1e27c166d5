/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store of one machine: an index over the DRAM and the SSD tier, with eviction, the copy
 * pipeline and warm restart. The local client is a thin skin over it; a node of a cluster is this
 * same store behind a network service, which uses the inner door below (reserve, pin, events,
 * snapshot). The store knows no network.
 *
 * Values. Immutable from commit on. A value lives in DRAM, on the SSD, or both; it leaves the index
 * when it lives in neither. Each has a generation, unique and growing in the store's whole life
 * (restarts included); a handle that outlives its value is recognised by it.
 *
 * Who may touch bytes. A reserved block is written by whoever reserved it, until commit or abort. A
 * committed block is only read, by holders of a pin. Eviction takes unpinned values only; remove,
 * clear and close unlink at once, and the last pin frees the pages. No timer ever frees pages that
 * somebody was given.
 *
 * Order of eviction. Each access stamps the value from one counter, so the order is one of the
 * whole store, exact, although the index is sharded (store_evict.c says how).
 *
 * Threads. Every function may be called from any thread. The store runs `copy_workers` copier
 * threads (SSD writes, reclaim), one upkeep thread (watermarks, follower refresh), and the copy
 * pool. Locks: RANK_STORE < RANK_STORE_EVICT < RANK_STORE_QUEUE < RANK_SHARD < RANK_EVENTS; none
 * is held over a copy, I/O, a visitor or a log line.
 *
 * Time. Every function that can wait has a deadline: an absolute time of options.clock, or the
 * op_timeout_ms of the options where none is passed.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include "base/base.h"
#include "tier_dram/tier_dram.h"
#include "tier_ssd/tier_ssd.h"
#include <umbp/umbp.h>

struct store;
struct disk;

enum store_role {
    STORE_STANDALONE = 0,
    STORE_LEADER = 1,   /* as standalone, and every put is copied to the shared directory */
    STORE_FOLLOWER = 2, /* reads the leader's directory; put, remove and flush write nothing */
};

enum store_copy_mode {
    STORE_COPY_ON_COMMIT = 0, /* every put is queued for the SSD */
    STORE_COPY_ON_EVICT = 1,  /* values go to the SSD when they leave DRAM, and at flush */
};

struct store_options {
    struct dram_options dram;
    double dram_high_watermark; /* above this share of the tier, upkeep evicts ... */
    double
        dram_low_watermark; /* ... down to this one. 1 and 1: only what a put needs, as it needs */
    bool dram_checksum;     /* CRC32C at put, verified at every DRAM get */

    bool ssd_enabled;
    struct ssd_options ssd; /* .disk, .clock, .read_only are filled in by the store */
    struct disk *disk;      /* driver; borrowed for the store's life. NULL: made from disk_driver */
    const char *disk_driver; /* "auto", "io_uring", "posix"; borrowed until store_create returns */
    double ssd_high_watermark;
    double ssd_low_watermark;

    enum store_role role;
    enum store_copy_mode copy_mode;
    bool promote_on_read;
    const char *policy;        /* "lru", "prefix_aware_lru", "s3fifo" */
    uint32_t candidate_window; /* prefix_aware_lru: how many of the coldest compete by depth */

    uint32_t copy_workers;     /* copiers to the SSD */
    uint32_t copy_queue_depth; /* values that may wait for them */
    uint32_t copy_threads;     /* bulk copies of one batch; 0: one a CPU, at most 8 */
    uint32_t copy_spin_us;
    uint32_t follower_poll_ms;
    uint32_t op_timeout_ms;
    uint32_t close_timeout_ms;
    uint32_t shards;      /* 0: from the number of CPUs; else a power of two, 1..1024 */
    uint64_t event_bytes; /* size of the ring of events; 0: no events are recorded */
    uint64_t hash_seed;
    const struct clock_source *clock; /* NULL: clock_monotonic() */
};

/* Every field at its documented default (docs/options.md; 4 GiB of DRAM, no SSD, lru). */
void store_options_default(struct store_options *options);

/* The policies by name, NULL past the last. */
const char *store_policy_name(size_t index);

MUST_USE enum umbp_status store_create(const struct store_options *options,
                                       struct store **store_out, char *error_out,
                                       size_t error_bytes);
/* Flush, stop the threads, release the directory. UMBP_TIMEOUT when something had to be left
 * behind. The caller makes sure that no other call is running. Idempotent. */
enum umbp_status store_close(struct store *store, uint64_t deadline_ns);
void store_destroy(struct store *store); /* takes NULL; closes if need be */

/* ---------------------------------------------------------------- whole operations ------- */
/* As the public functions of the same names (umbp.h); keys, sizes and NULLs are checked here. */

MUST_USE enum umbp_status store_batch_put(struct store *store, const struct umbp_put_item *items,
                                          size_t count, enum umbp_status *statuses_out);
/* For values that have a home elsewhere: evicts nothing, does not wait, and leaves the share of the
 * DRAM tier that is in use at most at `below`. What does not fit is UMBP_NO_SPACE. */
MUST_USE enum umbp_status store_batch_put_spare(struct store *store,
                                                const struct umbp_put_item *items, size_t count,
                                                double below, enum umbp_status *statuses_out);
MUST_USE enum umbp_status store_batch_get(struct store *store, const struct umbp_get_item *items,
                                          size_t count, enum umbp_status *statuses_out);
MUST_USE enum umbp_status store_batch_put_ranges(struct store *store,
                                                 const struct umbp_range_item *items, size_t count,
                                                 enum umbp_status *statuses_out);
MUST_USE enum umbp_status store_batch_get_ranges(struct store *store,
                                                 const struct umbp_range_item *items, size_t count,
                                                 enum umbp_status *statuses_out);
MUST_USE enum umbp_status store_batch_exists(struct store *store, const struct umbp_key *keys,
                                             size_t count, uint8_t *found_out);
MUST_USE enum umbp_status store_exists_consecutive(struct store *store, const struct umbp_key *keys,
                                                   size_t count, size_t *hits_out);
MUST_USE enum umbp_status store_batch_remove(struct store *store, const struct umbp_key *keys,
                                             size_t count, enum umbp_status *statuses_out);
MUST_USE enum umbp_status store_flush(struct store *store, uint64_t deadline_ns);
MUST_USE enum umbp_status store_clear(struct store *store, uint64_t deadline_ns);
MUST_USE enum umbp_status store_stat(struct store *store, struct umbp_key key,
                                     struct umbp_entry_info *info_out);
MUST_USE enum umbp_status store_list(struct store *store,
                                     bool (*visit)(void *, const struct umbp_entry_info *),
                                     void *context);
MUST_USE enum umbp_status store_stats(struct store *store, struct umbp_stat_value *values_out,
                                      size_t capacity, size_t *count_out);

/* What each of these calls refuses before it looks anything up: the key, NULLs, limits, and a put
 * whose ranges do not tile the object. For doors that serve an item by other means. */
MUST_USE enum umbp_status store_check_put(const struct umbp_range_item *item);
MUST_USE enum umbp_status store_check_get(const struct umbp_range_item *item);
static inline bool store_key_is_valid(struct umbp_key key)
{
    return key.data && key.bytes >= UMBP_KEY_BYTES_MIN && key.bytes <= UMBP_KEY_BYTES_MAX;
}

/* --------------------------------------------------------------------- inner door -------- */

enum store_tier {
    STORE_TIER_DRAM = 1,
    STORE_TIER_SSD = 2
};

/*
 * A place for a value that is being written. A plain struct owned by the caller, who must end it by
 * commit or abort. `key.data` is borrowed until then. Pages of a reservation can't be evicted, so
 * keep few and short; store_stats counts them ("reservations").
 */
struct store_reservation {
    struct umbp_key key;
    struct fingerprint print;
    uint64_t bytes;
    uint32_t depth;
    uint32_t crc; /* with dram_checksum, to be set by the writer before commit */
    struct dram_block block;
    bool is_open;
};

/* UMBP_ALREADY_EXISTS (nothing is reserved), UMBP_TOO_LARGE, UMBP_NO_SPACE, UMBP_INVALID_KEY,
 * UMBP_READ_ONLY. Evicts to make room. */
MUST_USE enum umbp_status store_reserve(struct store *store, struct umbp_key key, uint64_t bytes,
                                        uint32_t depth, struct store_reservation *reservation_out);
/* The same, and never waits: UMBP_NO_SPACE when eviction alone does not make the room now. */
MUST_USE enum umbp_status store_try_reserve(struct store *store, struct umbp_key key,
                                            uint64_t bytes, uint32_t depth,
                                            struct store_reservation *reservation_out);
/* The reservation's or pin's piece at `offset`; see dram_piece_at. */
struct dram_piece store_piece_at(const struct store *store, const struct dram_block *block,
                                 uint64_t offset, uint32_t *cursor);
/* Publish. UMBP_OK; UMBP_ALREADY_EXISTS when another writer was first (the pages are freed);
 * UMBP_NO_MEMORY (freed too). A reservation that is not open is UMBP_STALE. Idempotent in that
 * sense. */
MUST_USE enum umbp_status store_commit(struct store *store, struct store_reservation *reservation);
/* Free. Idempotent. */
void store_abort(struct store *store, struct store_reservation *reservation);

/* A value held in place. Owned by the caller, ended by store_unpin. */
struct store_pin {
    void *entry; /* opaque */
    uint64_t generation;
    uint64_t bytes;
    uint32_t depth;
    uint32_t crc; /* valid if has_crc */
    bool has_crc;
    enum store_tier tier; /* where it is: DRAM has a block, SSD a location */
    struct dram_block block;
    struct ssd_location location;
};

/* UMBP_OK, UMBP_NOT_FOUND, UMBP_SIZE_MISMATCH (`bytes` 0 takes any size). Counts as an access
 * unless `quiet`. */
MUST_USE enum umbp_status store_pin(struct store *store, struct umbp_key key, uint64_t bytes,
                                    bool quiet, struct store_pin *pin_out);
void store_unpin(struct store *store, struct store_pin *pin); /* idempotent */
/*
 * With dram_checksum, sum up a pinned value that is in memory. UMBP_CORRUPT: it is not what was
 * stored; that is counted, and the key is gone with its copies, as after a get. UMBP_OK: it is, or
 * there is nothing to compare with (no dram_checksum, no sum, on the SSD). As long as a copy of the
 * value takes: not for who may not wait.
 */
MUST_USE enum umbp_status store_pin_verify(struct store *store, const struct store_pin *pin);

/*
 * A pinned value on the SSD, in consecutive parts, for who has less memory than it has bytes; each
 * byte is read from the disk once. What ssd_stream says (tier_ssd.h) holds: nothing is vouched for
 * before is_whole, and what is wrong shows with the last part, as UMBP_CORRUPT, which is counted,
 * and the key is gone, as after a get.
 *
 * The pin must be held until the stream is closed. UMBP_STALE from opening: it is on the SSD no
 * more (moved too often, in memory, removed): look again; UMBP_NOT_FOUND: its segment is lost.
 * Opening, reading and closing do I/O: not for who may not wait. No promotion, which is for values
 * that were read in one piece; a whole read counts as a hit.
 */
struct store_stream {
    struct ssd_stream ssd;
    struct store_pin pin; /* a copy; the caller's holds it */
};
MUST_USE enum umbp_status store_stream_open(struct store *store, const struct store_pin *pin,
                                            struct store_stream *stream_out);
/* As ssd_stream_next. */
MUST_USE enum umbp_status store_stream_next(struct store *store, struct store_stream *stream,
                                            uint64_t bytes, const struct ssd_range *ranges,
                                            uint32_t range_count, uint64_t deadline_ns);
void store_stream_close(struct store_stream *stream); /* idempotent */

/* Ask for `bytes` of DRAM to be freed (a master's wish: the node decides). Returns what was. */
uint64_t store_evict(struct store *store, uint64_t bytes);

/*
 * Events: what came to and went from which tier, numbered from 1 without gaps. The order of one
 * key's events is the order of what happened to it. Kept in a ring of event_bytes; a reader that
 * falls behind it gets UMBP_STALE and must take a snapshot.
 */
struct store_event {
    uint64_t sequence;
    uint64_t generation;
    uint64_t bytes;
    uint32_t depth;
    uint16_t key_bytes;
    uint8_t tier; /* enum store_tier */
    uint8_t is_add;
    uint8_t key[UMBP_KEY_BYTES_MAX];
};
/* The next event at or after *sequence_inout, which then moves past it. UMBP_OK; UMBP_NOT_FOUND
 * when there is none yet; UMBP_STALE when it was overwritten; UMBP_UNSUPPORTED without a ring. */
MUST_USE enum umbp_status store_event_next(struct store *store, uint64_t *sequence_inout,
                                           struct store_event *event_out);
/* Wait until an event with this sequence exists. UMBP_OK, UMBP_TIMEOUT, UMBP_CLOSED. */
MUST_USE enum umbp_status store_event_wait(struct store *store, uint64_t sequence,
                                           uint64_t deadline_ns);
/* All owned keys, as add events with sequence 0, from a visitor that runs without locks. Replaying
 * the events from *sequence_out on, on top of it, gives the present state: an event may repeat
 * what the snapshot says already (compare generations), and none is missing. */
MUST_USE enum umbp_status store_snapshot(struct store *store,
                                         bool (*visit)(void *, const struct store_event *),
                                         void *context, uint64_t *sequence_out);

/*
 * The same snapshot in pieces, for who may not stay away for long. Zero-initialise the cursor; each
 * call visits at least `entries` more entries (a tier each makes an event) until all were visited,
 * and says whether that is so. What store_snapshot promises holds from the first call on:
 * cursor->sequence is where the events to be applied on top begin. The visitor can't stop it.
 */
struct store_cursor {
    uint64_t sequence;
    bool is_begun;
    uint32_t shard;
    uint64_t position;
    uint64_t mask;
};
MUST_USE bool store_snapshot_next(struct store *store, struct store_cursor *cursor,
                                  uint32_t entries,
                                  void (*visit)(void *, const struct store_event *), void *context);

struct store_capacity {
    uint64_t total_bytes;
    uint64_t used_bytes;
};
void store_capacity(const struct store *store, enum store_tier tier,
                    struct store_capacity *capacity_out);
struct dram_tier *store_dram(struct store *store); /* for registering its buffers */

#endif
