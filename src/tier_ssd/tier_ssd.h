/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SSD tier: an append-only log of segment files in one directory.
 *
 *   directory/
 *     umbp.super         magic, format version, uuid, the generation of the last clear
 *     umbp.lock          flock'ed by the one writer
 *     <16 hex>.seg       segments, named by id; ids only grow and are never reused
 *
 *   segment:  | header block | record | record | ... | footer (keys) | trailer block |
 *   record:   | header block: fields, key, (small value) | value, padded to 4 KiB |
 *
 * Everything is 4 KiB-aligned and little-endian. A record's header carries magic, segment id, key,
 * value size, generation, depth, CRC32C of the value and CRC32C of itself; so every read proves
 * that it got this key's bytes of this generation, and a scan can resynchronise at any block.
 * A value that fits into the header block behind the key lies there. A record may be a tombstone
 * (several keys in one block-aligned record): it kills older generations of its keys.
 *
 * What is promised
 *  - ssd_read gives the exact bytes that were appended, or a status that is not UMBP_OK.
 *  - A record whose append returned UMBP_OK (strict: after its group's sync) is delivered again by
 *    ssd_open after a clean stop or a kill, unless it was removed, cleared, or its segment
 * released.
 *  - Damage costs what it hit: a torn tail, a flipped bit, a lost footer loses those records only.
 *  - What recovery cuts off is never built upon: a recovered segment is sealed (or ignored), and
 * new records go to a new segment.
 *  - The sum of the files' sizes stays within `bytes`.
 *
 * Who decides what. The log does not know which records are wanted. The store keeps the index,
 * tells the log when a record is dead (accounting only), picks what to move when the log proposes a
 * victim segment, and releases segments. Segments released while a read is under way are unlinked
 * at once and closed by the last reader.
 *
 * Threads. All functions may be called from any thread. One lock (RANK_SSD) guards the segment
 * table and space; it is never held over I/O. Appends reserve space under it and write outside it,
 * several at once. Blocking functions take an absolute deadline of the store's clock.
 *
 * Reader (follower) mode: read_only. No lock file, no write of any kind. ssd_refresh reads what the
 * leader wrote since.
 */
#ifndef TIER_SSD_TIER_SSD_H
#define TIER_SSD_TIER_SSD_H

#include "base/base.h"

#define SSD_BLOCK_BYTES 4096u
#define SSD_FORMAT_VERSION 1u
#define SSD_SEGMENT_BYTES_DEFAULT (UINT64_C(256) << 20)
#define SSD_IO_TIMEOUT_MS_DEFAULT 30000u
#define SSD_SEGMENT_BYTES_MIN (UINT64_C(64) << 10)
#define SSD_BYTES_MIN (UINT64_C(1) << 20)

struct disk; /* disk/disk.h */
struct ssd_tier;

enum ssd_durability {
    SSD_RELAXED = 0, /* written; ssd_sync is a no-op beyond waiting for writes */
    SSD_STRICT = 1,  /* appends are synced, one fdatasync a group, before they are reported */
};

struct ssd_options {
    const char *directory;  /* created if missing (one level); borrowed until ssd_open returns */
    uint64_t bytes;         /* capacity, all files together */
    uint64_t segment_bytes; /* 0: default, and at most bytes / 8; rounded to blocks */
    enum ssd_durability durability;
    bool read_only;    /* follower */
    struct disk *disk; /* driver, borrowed for the tier's life */
    const struct clock_source *clock;
    uint32_t read_queues;   /* 0: 4. I/O contexts that reading calls share */
    uint32_t queue_depth;   /* 0: 32 */
    uint32_t io_bytes;      /* 0: 1 MiB. Largest single request */
    uint32_t io_timeout_ms; /* 0: 30 s. One request; past it the request counts as failed */
};

/* Where a record lies. Zero-initialised means "nowhere" (ids start at 1). */
struct ssd_location {
    uint32_t segment;
    uint32_t block; /* of the record's header, in SSD_BLOCK_BYTES from the segment's start */
};

struct ssd_key {
    const void *data;
    uint32_t bytes;
};

/* A record found by ssd_open, ssd_refresh or ssd_segment_records. Borrowed until the visitor
 * returns. */
struct ssd_record_info {
    struct ssd_key key;
    uint64_t generation;
    uint64_t value_bytes;
    uint32_t depth;
    uint32_t value_crc;
    bool is_tombstone; /* location, sizes and crc are then zero */
    struct ssd_location location;
};
/* Called without any lock held, in ascending generation within one call of ssd_open; in log order
 * in ssd_refresh. A record whose generation is below one already seen for its key is to be ignored.
 */
struct ssd_visitor {
    void (*record)(void *context, const struct ssd_record_info *info);
    /* ssd_refresh only: the segment is gone and with it every record in it. */
    void (*segment_gone)(void *context, uint32_t segment);
    void *context;
};

struct ssd_recovery {
    uint64_t segments; /* read */
    uint64_t records;  /* delivered */
    uint64_t tombstones;
    uint64_t scanned_segments; /* had no valid footer */
    uint64_t lost_records;     /* seen, and dropped as damaged */
    uint64_t lost_bytes;
    uint64_t foreign_files; /* ignored, named in a warning */
    uint64_t max_generation;
};

/*
 * Open or create the directory. Errors: UMBP_LOCKED, UMBP_VERSION (nothing is touched),
 * UMBP_CORRUPT (the super file is damaged), UMBP_READ_ONLY (not writable), UMBP_NOT_FOUND
 * (the parent is missing; read_only: nothing there, or other things than a tier. An empty directory
 * is followed: a leader will come), UMBP_IO, UMBP_NO_SPACE, UMBP_INVALID_VALUE,
 * UMBP_NO_MEMORY. `error_out` (may be NULL) gets a sentence. If the directory holds more than
 * `bytes`, opening succeeds, and ssd_victim proposes segments until it fits.
 */
MUST_USE enum umbp_status ssd_open(const struct ssd_options *options,
                                   const struct ssd_visitor *visitor, struct ssd_tier **tier_out,
                                   struct ssd_recovery *recovery_out, char *error_out,
                                   size_t error_bytes);
/* Seals the active segment, syncs, unlocks. Waits for I/O at most until the deadline. UMBP_BUSY:
 * the kernel has not given back everything by then; the tier, its driver and the memory that was
 * being written must then be left as they are, for ever or until another ssd_close, and the
 * directory stays locked. Any other status, UMBP_TIMEOUT included: the tier is gone. Takes NULL. */
enum umbp_status ssd_close(struct ssd_tier *tier, uint64_t deadline_ns);

/* ------------------------------------------------------------------------- append ------- */

struct ssd_append {
    struct ssd_key key;
    uint64_t generation;
    uint64_t value_bytes;
    uint32_t depth;
    bool is_tombstone;
    bool has_crc;            /* value_crc is known (a record that moves); else computed */
    uint32_t value_crc;      /* in if has_crc; out */
    const struct iovec *iov; /* the value's pieces, in order; must not change until return. Written
                                from where they lie when they are block-aligned, else staged */
    unsigned iov_count;
    struct ssd_location location; /* out, for UMBP_OK (not for tombstones) */
    enum umbp_status status;      /* out */
};

/*
 * Write `count` records, gathered into large sequential writes with several in flight, and with
 * SSD_STRICT one sync at the end. One status each. The call's status is UMBP_OK when all are,
 * else the first failure. UMBP_NO_SPACE: the tier is at its capacity, or the disk is full (see
 * ssd_stats): release a segment and try those items again. UMBP_TOO_LARGE: never fits.
 * `for_reclaim` may use the reserve that is kept for moving records out of victims.
 * Blocking; call it from a worker, with no lock held.
 */
MUST_USE enum umbp_status ssd_append(struct ssd_tier *tier, struct ssd_append *appends,
                                     size_t count, bool for_reclaim, uint64_t deadline_ns);

/* All records whose append has returned are on stable storage when this returns UMBP_OK (also
 * under SSD_RELAXED: it then syncs too, so callers choose). */
MUST_USE enum umbp_status ssd_sync(struct ssd_tier *tier, uint64_t deadline_ns);

/* --------------------------------------------------------------------------- read ------- */

struct ssd_range {
    void *to;
    uint64_t bytes;
    uint64_t offset; /* in the value */
};

struct ssd_read {
    struct ssd_key key;
    uint64_t generation;
    uint64_t value_bytes;
    struct ssd_location location;
    const struct ssd_range *ranges; /* where which bytes go; they may overlap */
    uint32_t range_count;
    uint32_t value_crc; /* out, for UMBP_OK */
    enum umbp_status
        status; /* out: OK, CORRUPT (counted, logged), STALE (segment gone), IO, TIMEOUT */
    void *user;
};

/*
 * Read and verify whole records, many in flight. The value passes through the tier's own I/O
 * buffers (so a request that the kernel never gives back can't write into a caller's memory), is
 * checked and copied out. On any status but OK the destinations' contents are undefined. `done`
 * (may be NULL) is called for each item as it ends, from the calling thread. UMBP_TIMEOUT when no
 * I/O context was free by the deadline.
 */
MUST_USE enum umbp_status ssd_read(struct ssd_tier *tier, struct ssd_read *reads, size_t count,
                                   void (*done)(void *context, struct ssd_read *read),
                                   void *context, uint64_t deadline_ns);

/* ---------------------------------------------------------------------- in parts -------- */

/*
 * A stream: one record, read from the first byte of its value to the last in consecutive parts, by
 * who has less memory than the value has bytes. Each block comes from the disk once.
 *
 *     ssd_stream_open ──► ssd_stream_next ──► ssd_stream_next ──► ... is_whole ──► ssd_stream_close
 *          pin             head, part 1          part 2, ..                          let go
 *
 * What it vouches for. Nothing, before is_whole: a part that came with UMBP_OK is what the disk
 * gave, of the right record (its head was proven with the first part: directory, place, key,
 * generation, size), but the record has one checksum, over all of the value. It is carried from
 * part to part, and only the part that reaches the value's end compares it: UMBP_OK and is_whole
 * say that this part and all before it are what was appended; UMBP_CORRUPT (counted and logged,
 * once) that some byte of some part is not. So who hands parts on before that must be able to take
 * them back, which is, to tell its reader at the end that they are not good. Parts can't be
 * skipped: what nobody wants is read for the sum all the same.
 *
 * Any status but UMBP_OK and UMBP_INVALID_VALUE ends the stream: it gives that status ever after,
 * without I/O. What the destinations of that part hold is undefined.
 *
 * The pin. From open to close the record's segment has a user: if it is released or cleared
 * meanwhile, its file is unlinked at once, but its bytes stay on the disk, and readable, until the
 * last user goes; they count for `bytes` no more. So keep streams few and short; the tier has no
 * timer for them. Between two calls a stream holds nothing else: no buffer, no I/O context, no
 * lock.
 *
 * A plain struct owned by the caller, one thread at a time. Zero-initialised it is not open. All
 * streams must be closed before ssd_close (asserted); ssd_stats counts those that are open.
 */
struct ssd_stream {
    bool is_whole; /* for the caller to read; the rest is the tier's */
    struct ssd_tier *tier;
    void *segment;
    struct ssd_read read;
    uint64_t value_taken;
    uint64_t record_taken;
    uint32_t crc;
    uint32_t stored_crc;
    enum umbp_status status;
};

/* `key.data` is borrowed until the stream is closed. No I/O but perhaps the opening of a file.
 * UMBP_STALE: the segment is gone. */
MUST_USE enum umbp_status ssd_stream_open(struct ssd_tier *tier, struct ssd_key key,
                                          uint64_t generation, uint64_t value_bytes,
                                          struct ssd_location location,
                                          struct ssd_stream *stream_out);
/* The value's next `bytes`; `ranges` say where what of them goes (offsets are in the value; what is
 * outside of this part is left alone, so none at all is right for bytes that nobody wants). A
 * multiple of SSD_BLOCK_BYTES, or all that is left; else, or past the end, UMBP_INVALID_VALUE.
 * Otherwise as the status of an ssd_read. */
MUST_USE enum umbp_status ssd_stream_next(struct ssd_stream *stream, uint64_t bytes,
                                          const struct ssd_range *ranges, uint32_t range_count,
                                          uint64_t deadline_ns);
/* Idempotent; also for one that was never opened. May close (and so free) a file. */
void ssd_stream_close(struct ssd_stream *stream);

/* ------------------------------------------------------------------------ reclaim ------- */

/* Accounting: this record is no longer wanted. Once for each location. Cheap. */
void ssd_mark_dead(struct ssd_tier *tier, struct ssd_location location, uint64_t value_bytes,
                   uint32_t key_bytes);
/* This record was of use at `stamp` (the store's order of access). Cheap, lock-free. */
void ssd_touch(struct ssd_tier *tier, struct ssd_location location, uint64_t stamp);

/* Space that the segment files take, and what it may be. */
void ssd_space(const struct ssd_tier *tier, uint64_t *used_bytes_out, uint64_t *capacity_bytes_out);

/* The sealed segment to give up next: one without live records first, else the one whose records
 * were used longest ago (by ssd_touch and time of writing). It is not proposed again until it is
 * released or returned. With `seal_active` the active segment is sealed if there is no other.
 * UMBP_NOT_FOUND when there is none. */
MUST_USE enum umbp_status ssd_victim(struct ssd_tier *tier, bool seal_active, uint32_t *segment_out,
                                     uint64_t deadline_ns);
void ssd_victim_return(struct ssd_tier *tier, uint32_t segment);
/* Visit what the segment's footer lists, or a scan finds where the footer is damaged, some perhaps
 * twice (dead records too; the caller compares with its index).
 * `visitor->record` only. UMBP_CORRUPT or UMBP_IO when the footer can't be read. */
MUST_USE enum umbp_status ssd_segment_records(struct ssd_tier *tier, uint32_t segment,
                                              const struct ssd_visitor *visitor,
                                              uint64_t deadline_ns);
/* Whether the record's segment is there, and not proposed as a victim: a location that is published
 * into the index while this is asked, under a lock that the reclaimer's visits take too, will be
 * seen by the visit. */
bool ssd_location_is_live(const struct ssd_tier *tier, struct ssd_location location);
/* Whether any other segment holds a value (dead or not) that is older than a tombstone of this one:
 * only then do its tombstones still matter. */
bool ssd_has_older(const struct ssd_tier *tier, uint32_t segment);
/* Unlink. The store has dropped or moved every live record, and moved tombstones that matter. */
void ssd_segment_release(struct ssd_tier *tier, uint32_t segment);

/* Forget everything: the super file gets `generation` as its clear mark (records below it are
 * ignored from then on, also after a crash half-way), then all segments are unlinked. */
MUST_USE enum umbp_status ssd_clear(struct ssd_tier *tier, uint64_t generation,
                                    uint64_t deadline_ns);

/* Followers: deliver what is new since the last call (records, tombstones, segments that went). */
MUST_USE enum umbp_status ssd_refresh(struct ssd_tier *tier, const struct ssd_visitor *visitor,
                                      uint64_t deadline_ns);

/* ---------------------------------------------------------------------------- look ------ */

struct ssd_stats {
    uint64_t bytes_capacity;
    uint64_t bytes_used; /* by files */
    uint64_t bytes_live; /* by records not marked dead */
    uint64_t segments;
    uint64_t records_live;
    uint64_t bytes_written; /* with headers and padding */
    uint64_t bytes_read;
    uint64_t records_appended;
    uint64_t records_read;
    uint64_t corrupt_records;
    uint64_t io_errors;
    uint64_t io_timeouts;
    uint64_t disk_full; /* times the file system, not the capacity, said no */
    uint64_t syncs;
    uint64_t segments_released;
    uint64_t streams_open;
};
void ssd_stats(const struct ssd_tier *tier, struct ssd_stats *stats_out);

/* ---------------------------------------------------------------------------- fsck ------ */

struct ssd_check_report {
    uint64_t segments;
    uint64_t sealed;
    uint64_t records;      /* live ones: newest generation of their key, not removed */
    uint64_t dead_records; /* superseded, removed or cleared */
    uint64_t tombstones;
    uint64_t bytes; /* of live values */
    uint64_t corrupt_records;
    uint64_t corrupt_segments; /* header unreadable, or of another directory */
    uint64_t missing_footers;
    uint64_t torn_bytes; /* behind the last valid record of an unsealed segment */
    uint64_t foreign_files;
    bool super_is_damaged; /* or missing; the segments were checked all the same */
};
/* Read a directory whole, verify every checksum, change nothing. `progress` (may be NULL) is told
 * bytes done and in all; `problem` (may be NULL) gets a line for each finding. Works beside a
 * live writer (then torn bytes at the tail are normal). */
MUST_USE enum umbp_status ssd_check(const char *directory, struct disk *disk,
                                    void (*progress)(void *context, uint64_t done, uint64_t all),
                                    void (*problem)(void *context, const char *line), void *context,
                                    struct ssd_check_report *report_out, char *error_out,
                                    size_t error_bytes);

#endif
