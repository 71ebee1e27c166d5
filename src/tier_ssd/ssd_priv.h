/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the SSD tier. The parts, lowest first:
 *
 *   ssd_format.c   codecs of the blocks on disk; pure functions on bytes
 *   ssd_io.c       an I/O context (queue, slots with buffers, deadlines, quarantine), pools of them
 *   ssd_segment.c  the segment table, file handles, space
 *   ssd_footer.c   reading and writing footers
 *   ssd_scan.c     reading a segment record by record
 *   ssd_super.c    super file, lock file, directory listing
 *   ssd_make.c     creating and sealing segments
 *   ssd_load.c     what a segment file holds, and sets of those in one order
 *   ssd_append.c (with ssd_emit.c), ssd_read.c, ssd_reclaim.c, ssd_recover.c, ssd_follow.c,
 *   ssd_check.c, ssd_tier.c: what tier_ssd.h promises
 */
#ifndef TIER_SSD_SSD_PRIV_H
#define TIER_SSD_SSD_PRIV_H

#include <stdatomic.h>

#include "disk/disk.h"
#include "tier_ssd/tier_ssd.h"

/* ------------------------------------------------------------------------ limits --------- */

#define SSD_KEY_BYTES_MAX 1024u
#define SSD_VALUE_BYTES_MAX (UINT64_C(1) << 32)
#define SSD_PATH_BYTES 4096u
#define SSD_UUID_BYTES 16u
#define SSD_OPEN_FILES_MAX 256u /* kept open at once, beyond those in use */
#define SSD_ARENAS 6u           /* segments that are not sealed yet, at once */
#define SSD_APPEND_CONTEXTS 4u  /* appending and reclaiming calls at once */
#define SSD_APPEND_PLAN 16u   /* requests' worth of records placed at once, without their heads, */
#define SSD_APPEND_SLOTS 20u  /* and room to have all of it in flight, heads and ends included */
#define SSD_IDS_RESERVED 256u /* segment ids set aside by one writing of the super file */
#define SSD_RUN_UNITS 256u    /* records placed by one taking of the lock */
#define SSD_IOV_MAX 512u      /* pieces of one write */

/* ------------------------------------------------------------------------ format --------- */

/* The layout of every block is drawn in README.md; the codecs are the only code that knows it. */
#define SSD_RECORD_HEAD_BYTES 64u
#define SSD_PAGE_HEAD_BYTES 32u
#define SSD_BLOCK_CRC_OFFSET (SSD_BLOCK_BYTES - 4u)
#define SSD_ENTRY_HEAD_BYTES 32u
#define SSD_TOMB_HEAD_BYTES 12u
#define SSD_TOMB_PAYLOAD_MAX (SSD_BLOCK_BYTES - SSD_RECORD_HEAD_BYTES)

_Static_assert(SSD_RECORD_HEAD_BYTES + SSD_KEY_BYTES_MAX <= SSD_BLOCK_BYTES, "key fits");
_Static_assert(SSD_TOMB_HEAD_BYTES + SSD_KEY_BYTES_MAX <= SSD_TOMB_PAYLOAD_MAX, "key fits");
_Static_assert(SSD_PAGE_HEAD_BYTES + SSD_ENTRY_HEAD_BYTES + SSD_KEY_BYTES_MAX <=
                   SSD_BLOCK_CRC_OFFSET,
               "an entry fits a page");
_Static_assert(SSD_BLOCK_BYTES == DISK_ALIGN_BYTES, "blocks are what direct I/O needs");

enum ssd_kind {
    SSD_KIND_VALUE = 1,
    SSD_KIND_TOMBSTONES = 2
};

/* Whose bytes: written into every block, so that a block of another directory, segment or place is
 * never taken for ours. */
struct ssd_identity {
    uint8_t uuid[SSD_UUID_BYTES];
    uint64_t tag; /* the uuid's first eight bytes */
};

struct ssd_super {
    uint8_t uuid[SSD_UUID_BYTES];
    uint64_t clear_generation;
    uint32_t next_segment; /* ids from here on have never been used */
};

struct ssd_record {
    enum ssd_kind kind;
    uint32_t segment;
    uint32_t block;
    uint64_t generation;
    uint64_t value_bytes; /* tombstones: of the payload, which lies behind the head */
    uint32_t depth;
    uint32_t value_crc;
    uint32_t key_bytes; /* tombstones: 0 */
    const uint8_t *key; /* into the block */
};

struct ssd_entry {
    enum ssd_kind kind;
    uint32_t block;
    uint64_t generation;
    uint64_t value_bytes;
    uint32_t depth;
    uint32_t value_crc;
    uint32_t key_bytes;
    const uint8_t *key;
};

struct ssd_trailer {
    uint8_t uuid[SSD_UUID_BYTES];
    uint32_t segment;
    uint32_t footer_block; /* the first page's, which is where the records end */
    uint32_t pages;
    uint32_t entries;
};

struct ssd_identity ssd_identity_of(const uint8_t *uuid);

void ssd_super_encode(const struct ssd_super *super, uint8_t *block);
/* UMBP_VERSION (with the version found), UMBP_CORRUPT. */
MUST_USE enum umbp_status ssd_super_decode(const uint8_t *block, struct ssd_super *super_out,
                                           uint32_t *version_out);

void ssd_header_encode(const struct ssd_identity *identity, uint32_t segment, uint8_t *block);
/* Whose header it is. False: none that holds. */
MUST_USE bool ssd_header_uuid(const uint8_t *block, uint8_t *uuid_out);
/* UMBP_CORRUPT: no header; UMBP_NOT_FOUND: of another directory; UMBP_VERSION. */
MUST_USE enum umbp_status ssd_header_decode(const uint8_t *block,
                                            const struct ssd_identity *identity, uint32_t segment);

/* Writes head and key; the caller puts an inline value (or the payload) behind them and zeroes the
 * rest. `record->key` is copied. */
void ssd_record_encode(const struct ssd_record *record, uint64_t tag, uint8_t *block);
MUST_USE bool ssd_record_decode(const uint8_t *block, uint64_t tag, uint32_t segment,
                                uint32_t block_index, struct ssd_record *record_out);
/* A value lies in the header's block when it fits behind the key. */
static inline bool ssd_value_is_inline(uint64_t value_bytes, uint32_t key_bytes)
{
    return value_bytes <= SSD_BLOCK_BYTES - SSD_RECORD_HEAD_BYTES - key_bytes;
}
static inline uint64_t ssd_record_blocks(uint64_t value_bytes, uint32_t key_bytes)
{
    return ssd_value_is_inline(value_bytes, key_bytes)
               ? 1
               : 1 + div_round_up(value_bytes, SSD_BLOCK_BYTES);
}

/* One key of a tombstone record's payload. */
size_t ssd_tomb_encode(uint64_t generation, const void *key, uint32_t key_bytes, uint8_t *to);
/* False at the end, and at the first entry that does not fit. `*at` starts with 0. */
MUST_USE bool ssd_tomb_next(const uint8_t *payload, size_t bytes, size_t *at,
                            struct ssd_entry *entry_out);

/* A footer page under construction, or read back. */
void ssd_page_begin(uint8_t *page, uint64_t tag, uint32_t segment, uint32_t index);
MUST_USE bool ssd_page_add(uint8_t *page, const struct ssd_entry *entry); /* false: full */
void ssd_page_seal(uint8_t *page);
MUST_USE bool ssd_page_is_valid(const uint8_t *page, uint64_t tag, uint32_t segment,
                                uint32_t index);
/* The entries of a valid page, in order. `*at` starts with 0. False at the end. An entry that is
 * not plausible in a segment of `footer_block` blocks ends the page and clears *plausible. */
MUST_USE bool ssd_page_next(const uint8_t *page, uint32_t footer_block, uint32_t *at,
                            struct ssd_entry *entry_out, bool *plausible);
static inline uint32_t ssd_entry_bytes(uint32_t key_bytes)
{
    return SSD_ENTRY_HEAD_BYTES + key_bytes;
}
#define SSD_PAGE_ROOM (SSD_BLOCK_CRC_OFFSET - SSD_PAGE_HEAD_BYTES)

void ssd_trailer_encode(const struct ssd_trailer *trailer, uint8_t *block);
/* UMBP_CORRUPT: no trailer, or not one of a file of so many blocks; UMBP_NOT_FOUND: of another
 * directory; UMBP_VERSION. */
MUST_USE enum umbp_status ssd_trailer_decode(const uint8_t *block,
                                             const struct ssd_identity *identity, uint32_t segment,
                                             uint64_t file_blocks, struct ssd_trailer *trailer_out);
/* A page, a trailer or a segment header: what is no lost record when a scan meets it. */
bool ssd_block_is_structure(const uint8_t *block);
bool ssd_block_is_zero(const uint8_t *block);

/* --------------------------------------------------------------------------- io ---------- */

struct ssd_counters {
    _Atomic uint64_t bytes_written; /* all relaxed: statistics */
    _Atomic uint64_t bytes_read;
    _Atomic uint64_t records_appended;
    _Atomic uint64_t records_read;
    _Atomic uint64_t corrupt_records;
    _Atomic uint64_t io_errors;
    _Atomic uint64_t io_timeouts;
    _Atomic uint64_t disk_full;
    _Atomic uint64_t syncs;
    _Atomic uint64_t segments_released;
    _Atomic uint64_t streams_open;
};
static inline void ssd_count(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

/*
 * A slot: one request with its buffer.
 *
 *   FREE ─take─► (caller fills) ─submit─► BUSY ─────► ENDED ─release─► FREE
 *                                           └─ time up ─► LOST ─ comes out after all ─► FREE
 *
 * A LOST slot has been reported (or given up); its buffer, iovec and owner stay as they are until
 * the kernel gives the request back, if ever.
 */
enum ssd_slot_state {
    SLOT_FREE,
    SLOT_TAKEN,
    SLOT_BUSY,
    SLOT_ENDED,
    SLOT_LOST
};

struct ssd_slot {
    struct disk_request request;
    uint8_t *buffer;   /* slot_bytes */
    struct iovec *iov; /* iov_max */
    enum ssd_slot_state state;
    enum umbp_status status; /* ENDED and LOST */
    bool is_reported;        /* LOST: out of the ended list */
    uint64_t deadline_ns;
    void *owner;      /* the segment whose file it is, borrowed; NULL: none */
    bool holds_owner; /* LOST: the slot counts as a user of it */
    struct list_node link;

    /* Who uses the slot keeps its own notes here. */
    size_t first_item; /* append: the items that this write carries, */
    size_t last_item;
    unsigned hold;       /* and their segment */
    unsigned tracker;    /* read: the run, */
    uint64_t piece_from; /* and the part of it */
    uint64_t piece_bytes;
};

struct ssd_io_options {
    struct disk *disk;
    const struct clock_source *clock;
    struct ssd_counters *counters;
    unsigned slots;
    uint32_t slot_bytes; /* a multiple of the block */
    unsigned iov_max;
    uint64_t io_timeout_ns;
    bool register_buffers;
    /* What a lost request's file belongs to must stay until the request comes out. May be NULL. */
    void (*hold)(void *context, void *owner);
    void (*drop)(void *context, void *owner);
    void *context;
};

struct ssd_io {
    struct ssd_io_options options;
    struct disk_queue *queue;
    struct ssd_slot *slots;   /* options.slots, and the service slot behind them */
    struct ssd_slot *service; /* for one request at a time, whatever else is in flight */
    struct list_node free;
    struct list_node ended;
    unsigned free_count;
    unsigned busy_count;
    unsigned lost_count;
    struct disk_request **batch; /* submitted with the next flush */
    unsigned batch_count;
    void *memory;
    size_t memory_bytes;
    struct iovec *iovs;
    void *user; /* the user's own arrays, freed with mem_free */
    struct list_node pool_link;
};

MUST_USE enum umbp_status ssd_io_create(const struct ssd_io_options *options,
                                        struct ssd_io **io_out);
/* UMBP_TIMEOUT: requests are still out; everything is left in place for ever. Takes NULL. */
enum umbp_status ssd_io_destroy(struct ssd_io *io, uint64_t timeout_ns);
/* NULL when none is free. */
struct ssd_slot *ssd_io_take(struct ssd_io *io);
/* `verb` over slot->iov[0 .. iov_count). It goes out with the next flush, next or run. */
void ssd_io_submit(struct ssd_io *io, struct ssd_slot *slot, enum disk_verb verb,
                   struct disk_file file, uint64_t offset, unsigned iov_count);
void ssd_io_flush(struct ssd_io *io);
/* The next slot that has ended or timed out; NULL once the deadline is past or none is busy. Set
 * slot->owner before submitting. Until the slot is reported, the submitter keeps the owner. */
struct ssd_slot *ssd_io_next(struct ssd_io *io, uint64_t deadline_ns);
/* When every slot is lost: wait for one to come back. */
bool ssd_io_await_lost(struct ssd_io *io, uint64_t deadline_ns);
void ssd_io_release(struct ssd_io *io, struct ssd_slot *slot);
/* Give up what is busy. */
void ssd_io_abandon(struct ssd_io *io);
/* One request in the service slot, to its end. The caller has filled service->buffer. Reads and
 * writes `bytes` of the buffer. A short read is UMBP_IO unless bytes_out is given. */
MUST_USE enum umbp_status ssd_io_run(struct ssd_io *io, enum disk_verb verb, struct disk_file file,
                                     void *owner, uint64_t offset, size_t bytes,
                                     uint64_t deadline_ns, size_t *bytes_out);
/* Whether the service slot's buffer may be written to; waits for a lost request that has it. */
MUST_USE bool ssd_io_service_is_free(struct ssd_io *io, uint64_t deadline_ns);

struct ssd_pool {
    struct mutex mutex; /* RANK_IO_POOL; guards idle */
    struct condition given;
    struct list_node idle;
    unsigned count;
};
void ssd_pool_init(struct ssd_pool *pool);
void ssd_pool_add(struct ssd_pool *pool, struct ssd_io *io);
/* NULL once the deadline is past. */
struct ssd_io *ssd_pool_take(struct ssd_pool *pool, const struct clock_source *clock,
                             uint64_t deadline_ns);
void ssd_pool_give(struct ssd_pool *pool, struct ssd_io *io);
/* UMBP_TIMEOUT: some contexts could not be destroyed, and stay; it may be tried again. */
enum umbp_status ssd_pool_fini(struct ssd_pool *pool, const struct clock_source *clock,
                               uint64_t deadline_ns);

/* The same moment as `deadline_ns` of `clock`, on CLOCK_MONOTONIC. */
uint64_t ssd_monotonic(const struct clock_source *clock, uint64_t deadline_ns);

/* ----------------------------------------------------------------------- segments -------- */

enum ssd_segment_state {
    SEGMENT_NONE = 0, /* the table's place is empty */
    SEGMENT_MAKING,   /* its file is being created */
    SEGMENT_ACTIVE,   /* takes records */
    SEGMENT_CLOSING,  /* takes no more, and has writers */
    SEGMENT_SEALING,  /* one thread writes its footer */
    SEGMENT_SEALED,
    SEGMENT_FOLLOWED, /* a follower's: the leader still writes to it */
};

/* The keys of a segment that is not sealed, in log order: ssd_entry_head + key, 8-aligned. */
struct ssd_arena {
    uint8_t *data;
    size_t capacity;
    size_t used;
    uint64_t *failed; /* one bit a block: the record that starts there is void */
    size_t failed_bytes;
    bool is_taken;
};

struct ssd_arena_entry {
    uint64_t generation;
    uint64_t value_bytes;
    uint32_t block;
    uint32_t depth;
    uint32_t value_crc;
    uint16_t key_bytes;
    uint8_t kind;
    uint8_t reserved;
    uint8_t key[];
};

struct ssd_segment {
    _Atomic uint32_t id;    /* 0: none. Written under the lock, read by ssd_touch without it */
    _Atomic uint64_t stamp; /* last use; relaxed, a hint */

    /* The tier's lock guards the rest. */
    enum ssd_segment_state state;
    bool is_gone; /* released, while somebody still uses the file */
    bool is_proposed;
    bool has_footer;
    struct disk_file file;
    bool is_open;
    unsigned refs;              /* users of the file */
    struct list_node idle_link; /* open, and no refs */
    uint64_t file_bytes;        /* what it counts for in used_bytes */
    uint32_t end_block;         /* behind the last record */
    uint32_t limit_blocks;      /* the file's, while it takes records */
    uint32_t footer_pages; /* closed ones, and bytes used of the last, while it takes records */
    uint32_t footer_used;
    unsigned writers;
    struct ssd_arena *arena;
    uint64_t live_records;
    uint64_t live_bytes;
    uint64_t oldest_value;     /* lowest generation of a value in it, dead ones included */
    uint64_t newest_tombstone; /* highest generation of a tombstone in it; 0: none */
    uint64_t write_count;      /* goes up with each finished group */
    uint64_t sync_count;       /* the write_count that is known to be on stable storage */
    uint32_t scan_block;       /* followers: records below it have been delivered */
};

/* A file that is no segment any more and could not be unlinked: its bytes still count. */
struct ssd_leftover {
    uint64_t file_bytes;
    uint32_t id;
};

struct ssd_tier {
    struct disk *disk;
    const struct clock_source *clock;
    char *directory;
    struct ssd_identity identity;
    uint64_t capacity_bytes;
    uint64_t segment_bytes;
    uint64_t io_timeout_ns;
    uint32_t io_bytes;
    enum ssd_durability durability;
    bool read_only;
    struct disk_file lock_file;

    /* RANK_SSD. Guards everything below up to the pools. Never held over I/O. */
    struct mutex mutex;
    struct condition changed; /* a segment was made or sealed, an arena came free */
    struct ssd_segment *segments;
    uint32_t segment_capacity;
    uint32_t segment_count;
    uint32_t free_hint;
    _Atomic uint32_t *index; /* open addressing by id, place + 1; power of two. Read by ssd_touch
                                without the lock; a miss there only loses a hint */
    uint32_t index_mask;
    struct ssd_segment *active;
    struct ssd_segment *spare; /* made ahead of its time, to become active next; MAKING */
    bool has_tried_spare;      /* since the active one became that */
    bool is_making;            /* one thread makes a segment or writes the super file */
    struct list_node idle_files;
    unsigned open_files;
    struct ssd_arena arenas[SSD_ARENAS];
    uint32_t next_segment;
    struct ssd_leftover
        *leftovers; /* files that could not be unlinked; room for segment_capacity */
    uint32_t leftover_count;
    uint32_t reserved_segment; /* ids below it may be used without writing the super file */
    uint64_t clear_generation;
    bool is_unled; /* a follower of an empty directory: `identity` is the first leader's to give */
    uint64_t directory_changes; /* files made or unlinked, */
    uint64_t directory_synced;  /* and how many of those are on stable storage */

    _Atomic uint64_t used_bytes;   /* written under the lock */
    _Atomic uint64_t newest_stamp; /* relaxed, a hint */
    struct log_limit corrupt_limit;
    struct log_limit unlink_limit;
    struct ssd_counters counters;

    struct ssd_pool read_pool;
    struct ssd_pool append_pool;

    bool is_closing; /* ssd_close only, which is called by one thread */
    bool pool_is_gone[2];
};

/* ssd_segment.c. The ones marked (locked) are called with the tier's lock held. */
MUST_USE enum umbp_status ssd_table_init(struct ssd_tier *tier, uint32_t existing);
void ssd_table_fini(struct ssd_tier *tier);
struct ssd_segment *ssd_table_find(const struct ssd_tier *tier, uint32_t id); /* (locked) */
struct ssd_segment *ssd_table_insert(struct ssd_tier *tier, uint32_t id);     /* (locked) */
void ssd_table_remove(struct ssd_tier *tier, struct ssd_segment *segment);    /* (locked) */
/* Open the segment's file if need be, and count a user. UMBP_STALE when it is not there. */
MUST_USE enum umbp_status ssd_segment_use(struct ssd_tier *tier, uint32_t id,
                                          struct ssd_segment **segment_out);
void ssd_segment_unuse(struct ssd_tier *tier, struct ssd_segment *segment);
/* The file was opened by the caller; it counts as one user. (locked) */
void ssd_segment_adopt_file(struct ssd_tier *tier, struct ssd_segment *segment,
                            struct disk_file file);
/* Take it out of the table. (locked). The caller then closes the file that it gets, and unlinks. */
MUST_USE struct disk_file ssd_segment_forget(struct ssd_tier *tier, struct ssd_segment *segment);
/* The bytes are free once the file is gone. If the disk refuses, ssd_unlink_leftovers tries again.
 */
void ssd_segment_unlink(struct ssd_tier *tier, uint32_t id, uint64_t file_bytes);
void ssd_unlink_leftovers(struct ssd_tier *tier);
void ssd_segment_path(const char *directory, uint32_t id, char *path_out);
/* (locked) */
void ssd_used_change(struct ssd_tier *tier, uint64_t plus, uint64_t minus);
/* (locked) Wait for `changed`; false once the deadline is past. */
bool ssd_wait_changed(struct ssd_tier *tier, uint64_t deadline_ns);
void ssd_hold_segment(void *tier, void *segment); /* the io contexts' hold and drop */
void ssd_drop_segment(void *tier, void *segment);

/* ------------------------------------------------------------------------ footers -------- */

/* A segment's entries as footer pages in memory. */
struct ssd_pages {
    uint8_t *data; /* page-aligned, by mem_map */
    size_t capacity;
    uint32_t count;
    uint32_t entries;
    uint64_t tag;
    uint32_t segment;
    bool is_open; /* the last page is not sealed yet */
};
void ssd_pages_init(struct ssd_pages *pages, uint64_t tag, uint32_t segment);
void ssd_pages_fini(struct ssd_pages *pages);
MUST_USE enum umbp_status ssd_pages_reserve(struct ssd_pages *pages, uint32_t count);
MUST_USE enum umbp_status ssd_pages_add(struct ssd_pages *pages, const struct ssd_entry *entry);
void ssd_pages_seal(struct ssd_pages *pages);

/* Find the trailer. UMBP_CORRUPT: there is none that holds; UMBP_NOT_FOUND: another directory's;
 * UMBP_VERSION; or what reading said. */
MUST_USE enum umbp_status ssd_footer_find(struct ssd_io *io, struct disk_file file, void *owner,
                                          const struct ssd_identity *identity, uint32_t segment,
                                          uint64_t file_bytes, uint64_t deadline_ns,
                                          struct ssd_trailer *trailer_out);
/* Read and check every page into `pages` (initialised). UMBP_CORRUPT when one does not hold. */
MUST_USE enum umbp_status ssd_footer_load(struct ssd_io *io, struct disk_file file, void *owner,
                                          const struct ssd_trailer *trailer, uint64_t deadline_ns,
                                          struct ssd_pages *pages);
/* Visit the entries piecewise, without memory for the whole. */
MUST_USE enum umbp_status
ssd_footer_walk(struct ssd_io *io, struct disk_file file, void *owner,
                const struct ssd_trailer *trailer, uint64_t tag, uint64_t deadline_ns,
                void (*visit)(void *context, const struct ssd_entry *entry), void *context);

/* Writes pages and trailer through the service slot. */
struct ssd_footer_writer {
    struct ssd_io *io;
    struct disk_file file;
    void *owner;
    const struct ssd_identity *identity;
    uint32_t segment;
    uint32_t first_block;
    uint32_t flushed; /* blocks written */
    uint32_t pages;   /* begun */
    uint32_t entries;
    uint64_t deadline_ns;
    enum umbp_status status;
    size_t fill; /* bytes in the slot's buffer, the open page included */
    bool is_open;
};
void ssd_footer_begin(struct ssd_footer_writer *writer, struct ssd_io *io, struct disk_file file,
                      void *owner, const struct ssd_identity *identity, uint32_t segment,
                      uint32_t first_block, uint64_t deadline_ns);
void ssd_footer_add(struct ssd_footer_writer *writer, const struct ssd_entry *entry);
/* Writes the trailer and says how long the file is. `end_block` 0: the file is cut behind the
 * trailer. Else the trailer is the block before it, where the file ends anyhow, and empty pages
 * fill what is left up to there. */
MUST_USE enum umbp_status ssd_footer_end(struct ssd_footer_writer *writer, uint32_t end_block,
                                         uint64_t *file_bytes_out);

/* --------------------------------------------------------------------------- scan -------- */

struct ssd_scan {
    /* Set by the caller. */
    struct ssd_io *io;
    struct disk_file file;
    void *owner;
    uint64_t tag;
    uint32_t segment;
    uint32_t first_block;
    uint64_t file_blocks;
    bool stop_at_hole; /* a follower's way: the writer may still fill it */
    uint64_t deadline_ns;
    /* Each valid value record and each key of a valid tombstone record. False ends the scan with
     * UMBP_NO_MEMORY. */
    bool (*visit)(void *context, const struct ssd_entry *entry);
    void (*progress)(void *context, uint64_t bytes);
    void *context;

    /* Results. */
    uint32_t end_block;  /* behind the last valid record */
    uint32_t next_block; /* behind the last valid record before the first hole */
    uint64_t lost_records;
    uint64_t lost_bytes;   /* not zero, and not valid */
    uint64_t tail_records; /* of those, behind end_block */
    uint64_t tail_bytes;

    /* Private. */
    uint64_t at; /* block */
    bool is_in_value;
    bool is_in_damage;
    bool is_stopped;
    bool has_hole;
    uint64_t value_left;
    uint32_t crc;
    struct ssd_record record;
    uint8_t head[SSD_BLOCK_BYTES];
};
MUST_USE enum umbp_status ssd_scan_run(struct ssd_scan *scan);
/* Continue the scan with these blocks, which follow those before: for the fuzzer and for run. */
MUST_USE enum umbp_status ssd_scan_feed(struct ssd_scan *scan, const uint8_t *data,
                                        uint32_t blocks);
void ssd_scan_begin(struct ssd_scan *scan);

/* ---------------------------------------------------------------------- directory -------- */

#define SSD_FOREIGN_NAMES 3u
struct ssd_listing {
    uint32_t *ids; /* ascending */
    size_t count;
    size_t capacity;
    bool has_super;
    uint64_t foreign_files;
    char foreign_names[256]; /* the first few */
    bool is_out_of_memory;
};
MUST_USE enum umbp_status ssd_listing_read(struct disk *disk, const char *directory,
                                           struct ssd_listing *listing_out);
void ssd_listing_fini(struct ssd_listing *listing);
void ssd_listing_foreign(struct ssd_listing *listing, const char *name);

MUST_USE enum umbp_status ssd_super_read(struct disk *disk, const char *directory,
                                         struct ssd_super *super_out, uint32_t *version_out);
/* tmp, sync, rename, sync of the directory. */
MUST_USE enum umbp_status ssd_super_write(struct disk *disk, const char *directory,
                                          const struct ssd_super *super);
/* UMBP_LOCKED with the other's pid (0: unknown). */
MUST_USE enum umbp_status ssd_lock_take(struct disk *disk, const char *directory,
                                        struct disk_file *file_out, uint64_t *pid_out);
void ssd_path(const char *directory, const char *name, char *path_out);

/* ------------------------------------------------------------------ making, sealing ------ */

/* How many blocks of a segment are left for records beside what the footer will need. */
struct ssd_need {
    uint64_t blocks;
    uint32_t entries;
    uint32_t entry_bytes; /* in the footer, of all entries, */
    uint32_t entry_largest;
    size_t arena_bytes;
};
/* What one more entry of a key adds to a need. */
void ssd_need_add_entry(struct ssd_need *need, uint32_t key_bytes);
/* (locked) Whether the record fits behind what is there; then it is placed. */
bool ssd_place(struct ssd_segment *segment, const struct ssd_need *need, uint32_t *block_out,
               size_t *arena_at_out);
/* Make a segment of file_bytes. The caller has set is_making, and clears it. On success it is in
 * the table, MAKING, with an open file (one user) and an arena. UMBP_NO_SPACE; UMBP_BUSY: no arena.
 */
MUST_USE enum umbp_status ssd_segment_make(struct ssd_tier *tier, struct ssd_io *io,
                                           uint64_t file_bytes, bool for_reclaim,
                                           uint64_t deadline_ns, struct ssd_segment **segment_out);
/* Have the next segment made before it is needed, so that appends need not wait for the file
 * system. Does nothing when it is too early, or there is no room. */
void ssd_segment_make_spare(struct ssd_tier *tier, struct ssd_io *io, uint64_t deadline_ns);
/* The spare is not needed any more (closing). */
void ssd_segment_drop_spare(struct ssd_tier *tier);
/* (locked) A record of this generation goes into the segment. */
void ssd_segment_note(struct ssd_segment *segment, uint64_t generation, bool is_tombstone);
/* No more records go into the segment. (locked). True: it has no writers, and the caller must seal
 * it after unlocking. */
bool ssd_segment_stop(struct ssd_tier *tier, struct ssd_segment *segment);
/* Write the footer (segment is SEALING), or unlink a segment that holds nothing. When that fails
 * the segment serves without a footer; the status is for who wants to know. */
enum umbp_status ssd_segment_seal(struct ssd_tier *tier, struct ssd_io *io,
                                  struct ssd_segment *segment, uint64_t deadline_ns);
/* Sync what is written to this segment so far. */
MUST_USE enum umbp_status ssd_segment_sync(struct ssd_tier *tier, struct ssd_io *io,
                                           struct ssd_segment *segment, uint64_t deadline_ns);
MUST_USE enum umbp_status ssd_directory_sync(struct ssd_tier *tier);
/* The entry at *at (starts with 0) of the arena, in log order; NULL at the end. */
struct ssd_arena_entry *ssd_arena_next(const struct ssd_arena *arena, size_t *at);
void ssd_arena_fail(struct ssd_arena *arena, uint32_t block); /* (locked) */
bool ssd_arena_has_failed(const struct ssd_arena *arena, uint32_t block);
static inline size_t ssd_arena_entry_bytes(uint32_t key_bytes)
{
    return (size_t)align_up(sizeof(struct ssd_arena_entry) + key_bytes, 8);
}

/* ------------------------------------------------------------------------ recovery ------- */

/* One segment file as it was found. */
struct ssd_loaded {
    uint32_t id;
    uint64_t file_bytes;
    struct ssd_pages pages; /* what it holds */
    uint32_t footer_block;  /* entries lie below it */
    uint32_t next_block;    /* without a footer: where a follower goes on */
    bool has_footer;
    bool is_foreign;    /* another directory's */
    bool is_unreadable; /* the device refuses it */
    bool is_gone;       /* unlinked while we looked */
    bool is_headless;   /* its header block does not hold */
    uint64_t lost_records;
    uint64_t lost_bytes;
    uint64_t tail_bytes;
    uint64_t live_records;
    uint64_t live_bytes;
    uint64_t oldest_value;
    uint64_t newest_tombstone;
};
/* UMBP_OK also for damage, which the result describes. `pages` must be finished by the caller. */
MUST_USE enum umbp_status ssd_load_segment(struct disk *disk, struct ssd_io *io,
                                           const char *directory,
                                           const struct ssd_identity *identity, uint32_t id,
                                           uint64_t deadline_ns, struct ssd_loaded *loaded_out);

struct ssd_set {
    struct ssd_loaded *segments; /* ascending id */
    size_t count;
};
/* One entry of a set, for sorting. */
struct ssd_ref {
    uint64_t order;
    uint64_t at; /* segment's place << 40 | byte in its pages */
};
#define SSD_REF_SEGMENTS_MAX (UINT64_C(1) << 24)
/* Every entry, with its generation as the order. NULL entries: none. */
MUST_USE enum umbp_status ssd_set_refs(const struct ssd_set *set, struct ssd_ref **refs_out,
                                       size_t *count_out);
void ssd_set_entry(const struct ssd_set *set, const struct ssd_ref *ref,
                   struct ssd_entry *entry_out, uint32_t *segment_out);
/* Stable, by order. */
MUST_USE enum umbp_status ssd_refs_sort(struct ssd_ref *refs, size_t count);
void ssd_set_fini(struct ssd_set *set);

/* Everything of ssd_open from the listing on. */
MUST_USE enum umbp_status ssd_recover(struct ssd_tier *tier, const struct ssd_super *super,
                                      struct ssd_listing *listing,
                                      const struct ssd_visitor *visitor,
                                      struct ssd_recovery *recovery, char *error_out,
                                      size_t error_bytes);
void ssd_info_of(const struct ssd_entry *entry, uint32_t segment, struct ssd_record_info *info_out);
void ssd_set_error(char *error_out, size_t error_bytes, const char *format, ...) PRINTF_LIKE(3, 4);

/* ------------------------------------------------------------------------ contexts ------- */

MUST_USE enum umbp_status ssd_append_context_create(struct ssd_tier *tier, struct ssd_io **io_out);
MUST_USE enum umbp_status ssd_read_context_create(struct ssd_tier *tier, uint32_t depth,
                                                  struct ssd_io **io_out);
MUST_USE enum umbp_status ssd_read_slots(struct disk *disk, const struct clock_source *clock,
                                         struct ssd_counters *counters, uint64_t io_timeout_ns,
                                         uint32_t depth, uint32_t io_bytes, struct ssd_io **io_out);

#endif
