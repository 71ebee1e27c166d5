/* SPDX-License-Identifier: Apache-2.0 */
/*
 * umbp - Unified Memory and Bandwidth Pool: a KV-cache pool for LLM inference engines.
 *
 * This header is the manual. Caveats first:
 *
 *  - Values are immutable. The first put of a key wins; a later put of the same key is a success
 *    that stores nothing and answers UMBP_ALREADY_EXISTS (keys are content hashes).
 *  - This is a cache. A key that was put may be gone later (evicted, dropped as corrupt). Ask
 *    for what you need and treat UMBP_NOT_FOUND as "compute it again".
 *  - A get must state the exact stored size. Another size is UMBP_SIZE_MISMATCH and moves no byte.
 *  - After any get that is not UMBP_OK, the contents of its destination buffer are undefined.
 *  - Buffers handed to a call belong to the call until it returns, and must not change meanwhile.
 *  - Every call is bounded in time by `op_timeout_ms` of the configuration (a call that takes a
 *    timeout says so itself).
 *
 * Threading: every function on a client may be called from any thread at any time, also while
 * another thread closes the client (calls in flight end with their result or UMBP_CLOSED).
 * Only umbp_client_destroy must be the last call. A umbp_config is not thread-safe.
 *
 * fork: a client must not be used in a forked child; every call there answers UMBP_FORKED. The
 * values are not in its memory. (When the parent is killed, a child that lives on keeps the SSD
 * directory locked.)
 *
 * Memory: the library copies every string that it keeps. Outputs (`..._out`) are written only on
 * success, except the per-item status arrays of batches, which are always written whole.
 *
 * Versioning: functions are only ever added. Structures that can grow start with `struct_bytes`,
 * to be set to sizeof; zero in every other field means the default.
 */
#ifndef UMBP_UMBP_H
#define UMBP_UMBP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <umbp/status.h>

#ifdef __cplusplus
extern "C" {
#endif

#define UMBP_API_VERSION 1

#if defined(__GNUC__)
#define UMBP_EXPORT __attribute__((visibility("default")))
#define UMBP_MUST_USE __attribute__((warn_unused_result))
#else
#define UMBP_EXPORT
#define UMBP_MUST_USE
#endif

/* Limits. A longer key is UMBP_INVALID_KEY, a larger batch UMBP_LIMIT. */
#define UMBP_KEY_BYTES_MIN 1u
#define UMBP_KEY_BYTES_MAX 1024u
#define UMBP_VALUE_BYTES_MAX (UINT64_C(1) << 32) /* 4 GiB */
#define UMBP_BATCH_MAX 65536u
#define UMBP_RANGES_MAX 65536u /* per object */

/* No depth is known for this value (the default of puts that do not give one). */
#define UMBP_DEPTH_NONE UINT32_MAX

/* The library's version: "MAJOR.MINOR.PATCH". Static storage. */
UMBP_EXPORT const char *umbp_version(void);

/* The UMBP_API_VERSION that the library was built with. */
UMBP_EXPORT unsigned umbp_api_version(void);

/* -------------------------------------------------------------------- configuration ------ */

struct umbp_config;

/* A configuration with every option at its default. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_config_create(struct umbp_config **config_out);

UMBP_EXPORT void umbp_config_destroy(struct umbp_config *config); /* takes NULL */

/*
 * Set one option by name ("dram.bytes") from text ("4GiB"). UMBP_UNKNOWN_OPTION for a name that
 * does not exist, UMBP_INVALID_VALUE for a text that does not fit; umbp_config_error then says
 * which, why, and what is near. Nothing changes on an error. docs/options.md lists the options.
 */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_config_set(struct umbp_config *config,
                                                           const char *name, const char *value);

/*
 * Take what the environment says: UMBP_DRAM_CAPACITY and its kin (docs/options.md). A bad
 * value leaves the option as it is, with one warning per name and process; never an error.
 */
UMBP_EXPORT void umbp_config_load_env(struct umbp_config *config);

/* Read a file: INI sections and `name = value`. The first error ends the reading, changes
 * nothing, and umbp_config_error names file, line and the nearest known name. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_config_load_file(struct umbp_config *config,
                                                                 const char *path);

/* The option's present value as text, NUL-terminated, into `text_out` of `text_bytes`;
 * UMBP_LIMIT if it does not fit. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_config_get(const struct umbp_config *config,
                                                           const char *name, char *text_out,
                                                           size_t text_bytes);

/* Check what only shows across options (watermark order, a page larger than the tier). */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_config_validate(struct umbp_config *config);

/* Why the last call on this configuration failed, or "". Valid until the next call on it. */
UMBP_EXPORT const char *umbp_config_error(const struct umbp_config *config);

/* One row of the option table, for tools and bindings. All strings are static. */
struct umbp_option_info {
    size_t struct_bytes;
    const char *name;          /* "dram.bytes" */
    const char *type;          /* "size", "count", "bool", "fraction", "milliseconds", "text", or
                                  "a|b|c" for a choice */
    const char *default_value; /* as text */
    const char *range;         /* "1..64", or "" */
    const char *environment;   /* "UMBP_DRAM_CAPACITY", or "" */
    const char *help;          /* one sentence */
};

/* The option at `index`, UMBP_NOT_FOUND past the last. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_option_describe(size_t index,
                                                                struct umbp_option_info *info_out);

/* --------------------------------------------------------------------------- client ------ */

struct umbp_client;

enum umbp_deployment {
    UMBP_DEPLOYMENT_LOCAL = 0,   /* in-process store, no network */
    UMBP_DEPLOYMENT_POOL = 1,    /* this process is a node of a cluster */
    UMBP_DEPLOYMENT_PROCESS = 2, /* the node daemon of this host */
};

/*
 * Make the client that `config` describes; the configuration's `scheme` decides which kind. The
 * configuration is copied. On failure nothing is left behind (no thread, and no file but for what
 * an SSD directory begins with, where one was made and could not be filled), and where `error_out`
 * is not NULL, `error_bytes` bytes of it receive what was wrong and what to do.
 *
 * Errors: UMBP_INVALID_VALUE, UMBP_NO_MEMORY, UMBP_LOCKED (another leader has the directory),
 * UMBP_VERSION (directory of a newer format), UMBP_CORRUPT, UMBP_READ_ONLY, UMBP_IO,
 * UMBP_UNSUPPORTED (scheme not built in).
 */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_client_create(const struct umbp_config *config,
                                                              struct umbp_client **client_out,
                                                              char *error_out, size_t error_bytes);

/*
 * End service: calls that begin later answer UMBP_CLOSED, calls in flight are waited for, what
 * was acknowledged is flushed as the configuration asks. At most `timeout_ms` (0: the
 * configuration's close_timeout_ms, 3 s by default); UMBP_TIMEOUT if something had to be left.
 * Idempotent.
 */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_client_close(struct umbp_client *client,
                                                             uint32_t timeout_ms);

/* Close if need be, and free. No other call may be running or follow. Takes NULL. */
UMBP_EXPORT void umbp_client_destroy(struct umbp_client *client);

UMBP_EXPORT enum umbp_deployment umbp_client_deployment(const struct umbp_client *client);
UMBP_EXPORT bool umbp_client_is_distributed(const struct umbp_client *client);
UMBP_EXPORT bool umbp_client_supports_ranges(const struct umbp_client *client);

/* --------------------------------------------------------------------- single values ----- */

/* A key: 1..1024 bytes of anything, NUL and non-UTF-8 included. */
struct umbp_key {
    const void *data;
    size_t bytes;
};

/*
 * Store `bytes` bytes under `key`. UMBP_OK: stored. UMBP_ALREADY_EXISTS: success, the key kept its
 * first value. Errors: UMBP_INVALID_KEY, UMBP_INVALID_VALUE (NULL data with bytes > 0),
 * UMBP_TOO_LARGE (larger than the tier: nothing is evicted), UMBP_NO_SPACE (everything is pinned),
 * UMBP_READ_ONLY (follower), UMBP_NO_MEMORY, UMBP_CLOSED, UMBP_TIMEOUT.
 */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_put(struct umbp_client *client, struct umbp_key key,
                                                    const void *data, uint64_t bytes,
                                                    uint32_t depth);

/* Read the whole value into `data_out`; `bytes` must be the stored size. UMBP_NOT_FOUND,
 * UMBP_SIZE_MISMATCH, UMBP_CORRUPT (its copy failed its checksum and is dropped: a miss),
 * UMBP_IO, UMBP_TIMEOUT. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_get(struct umbp_client *client, struct umbp_key key,
                                                    void *data_out, uint64_t bytes);

/* UMBP_OK or UMBP_NOT_FOUND; no side effect on the order of eviction. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_exists(struct umbp_client *client,
                                                       struct umbp_key key);

/* Forget the key in every tier. UMBP_NOT_FOUND if there was none. Readers that hold the value
 * finish; its memory is reused only after them. Like a put, it is durable once a flush has
 * returned: a crash before that may bring the key back, with the value that it had. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_remove(struct umbp_client *client,
                                                       struct umbp_key key);

/* -------------------------------------------------------------------------- batches ------ */

/*
 * Batches take `count` items (0 is fine, more than UMBP_BATCH_MAX is UMBP_LIMIT and touches
 * nothing) and give one status per item; one bad item never fails its neighbours. The call's own
 * status is about the call (UMBP_OK, UMBP_LIMIT, UMBP_CLOSED, UMBP_INVALID_VALUE for a NULL array);
 * when it is not UMBP_OK every item's status is set to it, but for UMBP_LIMIT. A key that is twice
 * in a batch: on put the first one is stored and the others answer UMBP_ALREADY_EXISTS (or the
 * first one's failure is theirs to retry: each is tried in order); on get each item is served on
 * its own.
 */
struct umbp_put_item {
    struct umbp_key key;
    const void *data;
    uint64_t bytes;
    uint32_t depth; /* distance from the root of the prefix tree, or UMBP_DEPTH_NONE */
    uint32_t reserved;
};

struct umbp_get_item {
    struct umbp_key key;
    void *data;
    uint64_t bytes;
};

UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_batch_put(struct umbp_client *client,
                                                          const struct umbp_put_item *items,
                                                          size_t count,
                                                          enum umbp_status *statuses_out);

UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_batch_get(struct umbp_client *client,
                                                          const struct umbp_get_item *items,
                                                          size_t count,
                                                          enum umbp_status *statuses_out);

/* `found_out[i]` is 1 or 0. A key of bad length is not found. No side effect. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_batch_exists(struct umbp_client *client,
                                                             const struct umbp_key *keys,
                                                             size_t count, uint8_t *found_out);

/* How many keys from the first on are held; stops at the first miss. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status
umbp_batch_exists_consecutive(struct umbp_client *client, const struct umbp_key *keys, size_t count,
                              size_t *hits_out);

UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_batch_remove(struct umbp_client *client,
                                                             const struct umbp_key *keys,
                                                             size_t count,
                                                             enum umbp_status *statuses_out);

/* --------------------------------------------------------------------------- ranges ------ */

struct umbp_range {
    void *data; /* read by put, written by get */
    uint64_t bytes;
    uint64_t offset; /* in the object */
};

struct umbp_range_item {
    struct umbp_key key;
    const struct umbp_range *ranges;
    size_t range_count;
    uint64_t object_bytes; /* put: the size. get: the exact stored size, or 0 for "any" */
    uint32_t depth;        /* put only */
    uint32_t reserved;
};

/* The ranges of an object must tile it exactly (no gap, no overlap, none of zero bytes, in any
 * order), else that item is UMBP_INVALID_RANGE. An object of zero bytes has no ranges. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status
umbp_batch_put_ranges(struct umbp_client *client, const struct umbp_range_item *items, size_t count,
                      enum umbp_status *statuses_out);

/* Any ranges of at least a byte inside the object (they may overlap); one past its end is
 * UMBP_INVALID_RANGE. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status
umbp_batch_get_ranges(struct umbp_client *client, const struct umbp_range_item *items, size_t count,
                      enum umbp_status *statuses_out);

/* --------------------------------------------------------------- memory and upkeep ------- */

/* Announce a buffer that later calls will use, so that they need no staging. UMBP_INVALID_VALUE
 * for NULL or zero bytes, UMBP_ALREADY_EXISTS for a buffer that overlaps a registered one.
 * Registering is optional; the local scheme copies by the CPU and gains nothing from it. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_register_memory(struct umbp_client *client,
                                                                void *data, size_t bytes);

/* `data` as it was registered, else UMBP_NOT_FOUND. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_deregister_memory(struct umbp_client *client,
                                                                  void *data);

/* Make what was acknowledged durable to the level that the configuration asks: under relaxed
 * durability it is written to the SSD's files, under strict it is also synced. Without an SSD
 * tier there is nothing to do. UMBP_TIMEOUT after `timeout_ms` (0: op_timeout_ms); UMBP_IO and
 * UMBP_NO_SPACE when some values could not be written. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_flush(struct umbp_client *client,
                                                      uint32_t timeout_ms);

/* Forget every key, in memory and on the SSD (a follower: in its memory only). */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_clear(struct umbp_client *client);

/* One held value. `key` is borrowed until the visitor returns. */
struct umbp_entry_info {
    size_t struct_bytes;
    struct umbp_key key;
    uint64_t bytes;
    uint32_t depth;
    uint32_t pins;
    bool in_dram;
    bool in_ssd;
};

/* Visit each held value (a snapshot, key by key: what comes and goes meanwhile may be
 * missed, and while the index grows a key may be visited twice).
 * The visitor returns false to stop. It runs without any lock and may call the client. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status
umbp_list(struct umbp_client *client, bool (*visit)(void *context, const struct umbp_entry_info *),
          void *context);

/* What is known of one key; UMBP_NOT_FOUND. `info_out->key` is the caller's own key. Set
 * info_out->struct_bytes to its size; 0 is taken for this version's. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status
umbp_stat(struct umbp_client *client, struct umbp_key key, struct umbp_entry_info *info_out);

/* One statistic. The name is static: "dram.bytes_used", "hits.dram", "copy.drops.queue_full". */
struct umbp_stat_value {
    const char *name;
    uint64_t value;
    bool is_counter; /* only grows; else a gauge */
};

/* Write at most `capacity` statistics; `count_out` is how many there are. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_stats(struct umbp_client *client,
                                                      struct umbp_stat_value *values_out,
                                                      size_t capacity, size_t *count_out);

/* ---------------------------------------------------------------------- host memory ------ */

/*
 * Memory for an application's own pages, made as the memory tier's is: by mapping, in huge pages or
 * in a file that other processes can map, near a NUMA node, touched ahead of use. It starts zeroed
 * and stays out of core dumps. It belongs to no client. Nothing here is needed to use umbp.
 */
struct umbp_host_buffer;

enum umbp_host_backing {
    UMBP_HOST_ANONYMOUS = 0,
    UMBP_HOST_HUGE_PAGES = 1,        /* of 2 MiB; falls back to anonymous, with a warning */
    UMBP_HOST_SHARED = 2,            /* a memfd of fixed size, which others may map and write */
    UMBP_HOST_SHARED_HUGE_PAGES = 3, /* the same in huge pages; falls back to shared */
};

struct umbp_host_buffer_options {
    size_t struct_bytes;
    uint64_t bytes;
    enum umbp_host_backing backing;
    bool bind; /* to numa_node, and to no other */
    uint32_t numa_node;
    bool prefault;             /* touch every page now, */
    uint32_t prefault_threads; /* with this many threads (0: one a CPU, at most 16) */
};

struct umbp_host_buffer_info {
    size_t struct_bytes;
    void *data; /* at a multiple of page_bytes */
    uint64_t bytes;
    uint64_t mapped_bytes; /* `bytes` in whole pages; all of it may be used */
    uint64_t page_bytes;
    enum umbp_host_backing backing; /* what was had */
    int fd;                         /* the buffer's own, -1 unless shared */
};

/* Errors: UMBP_INVALID_VALUE (zero bytes, no such backing), UMBP_NO_MEMORY, UMBP_UNSUPPORTED (no
 * such node). Takes as long as touching the memory takes. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status
umbp_host_buffer_create(const struct umbp_host_buffer_options *options,
                        struct umbp_host_buffer **buffer_out);

/* Set info_out->struct_bytes to its size; 0 is taken for this version's. NULL is
 * UMBP_INVALID_VALUE. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status
umbp_host_buffer_describe(const struct umbp_host_buffer *buffer,
                          struct umbp_host_buffer_info *info_out);

/* Unmap it and close its descriptor. Takes NULL. */
UMBP_EXPORT void umbp_host_buffer_destroy(struct umbp_host_buffer *buffer);

/* ---------------------------------------------------------------- external KV index ------ */

/*
 * What an engine keeps outside of the pool (its own GPU and host caches), told to the masters by
 * hash, so that a scheduler can send a request to where its prefix is. Nothing is stored or moved.
 * In the pool scheme only: elsewhere UMBP_UNSUPPORTED. A hash is any key (its bytes are hashed on).
 * Errors besides: UMBP_INVALID_KEY (nothing is told then), UMBP_LIMIT above UMBP_BATCH_MAX,
 * UMBP_NOT_FOUND (no master knows this node, as one that serves, yet), UMBP_IO (no master answers),
 * UMBP_TIMEOUT, UMBP_NO_MEMORY.
 */
enum umbp_tier {
    UMBP_TIER_NONE = 0,
    UMBP_TIER_HBM = 1,
    UMBP_TIER_DRAM = 2,
    UMBP_TIER_SSD = 3,
};

/* This node has these hashes at the tier; tiers add up. Idempotent. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_external_report(struct umbp_client *client,
                                                                const struct umbp_key *hashes,
                                                                size_t count, enum umbp_tier tier);
/* It has them at the tier no more. */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_external_revoke(struct umbp_client *client,
                                                                const struct umbp_key *hashes,
                                                                size_t count, enum umbp_tier tier);
/* It has nothing at the tier any more (UMBP_TIER_NONE: at any tier). */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_external_revoke_all(struct umbp_client *client,
                                                                    enum umbp_tier tier);

/* One place where one of the hashes is. Texts are borrowed until the visitor returns. */
struct umbp_external_match {
    size_t struct_bytes;
    const char *node_id;
    const char *peer_address;
    enum umbp_tier tier;
    uint32_t index; /* of the hash, in the call */
};

/* Every place of every hash, node by node and tier by tier. `counts_as_hit`: this is a routing
 * decision and not just a look, so each hash that was found gets one hit. At most 65,536 places at
 * 256 nodes: what is beyond is left out, and the log says how many (external_match_cut). */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_external_match(
    struct umbp_client *client, const struct umbp_key *hashes, size_t count, bool counts_as_hit,
    void (*visit)(void *context, const struct umbp_external_match *match), void *context);

/* How often each hash was hit, 0 for one that is not known (any more). */
UMBP_EXPORT UMBP_MUST_USE enum umbp_status umbp_external_hits(struct umbp_client *client,
                                                              const struct umbp_key *hashes,
                                                              size_t count, uint64_t *hits_out);

/* ----------------------------------------------------------------------------- logs ------ */

enum umbp_log_level {
    UMBP_LOG_ERROR = 0,
    UMBP_LOG_WARN = 1,
    UMBP_LOG_INFO = 2,
    UMBP_LOG_DEBUG = 3,
};

/* Where log lines go: `line` is "level event key=value ..." without a newline, borrowed until the
 * sink returns. The default sink is stderr at UMBP_LOG_WARN. NULL restores it. Process-wide; the
 * sink may be called from any thread and must not call the library. */
UMBP_EXPORT void umbp_log_set(enum umbp_log_level level,
                              void (*sink)(void *context, enum umbp_log_level level,
                                           const char *line),
                              void *context);

#ifdef __cplusplus
}
#endif

#endif
