/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the config room. */
#ifndef CONFIG_CONFIG_PRIV_H
#define CONFIG_CONFIG_PRIV_H

#include "config/config.h"

enum config_type {
    CONFIG_TYPE_SIZE,     /* number: bytes */
    CONFIG_TYPE_COUNT,    /* number */
    CONFIG_TYPE_MS,       /* number: milliseconds */
    CONFIG_TYPE_BOOL,     /* number: 0 or 1 */
    CONFIG_TYPE_FRACTION, /* fraction: 0..1 */
    CONFIG_TYPE_CHOICE,   /* number: which of `choices`, from 0 */
    CONFIG_TYPE_NODE, /* number: CONFIG_NODE_ANY, CONFIG_NODE_SPREAD, or CONFIG_NODE_FIRST + n */
    CONFIG_TYPE_TEXT, /* text: owned, NULL for "" */
};

#define CONFIG_NODE_ANY 0u
#define CONFIG_NODE_SPREAD 1u
#define CONFIG_NODE_FIRST 2u

/* The rows of the table, in the order of docs/options.md. */
enum config_id {
    CONFIG_SCHEME,
    CONFIG_ROLE,
    CONFIG_OP_TIMEOUT_MS,
    CONFIG_CLOSE_TIMEOUT_MS,
    CONFIG_DRAM_BYTES,
    CONFIG_DRAM_PAGE_BYTES,
    CONFIG_DRAM_BUFFERS,
    CONFIG_DRAM_BACKING,
    CONFIG_DRAM_NUMA_NODE,
    CONFIG_DRAM_PREFAULT,
    CONFIG_DRAM_PREFAULT_THREADS,
    CONFIG_DRAM_HIGH_WATERMARK,
    CONFIG_DRAM_LOW_WATERMARK,
    CONFIG_DRAM_CHECKSUM,
    CONFIG_SSD_ENABLED,
    CONFIG_SSD_DIR,
    CONFIG_SSD_BYTES,
    CONFIG_SSD_SEGMENT_BYTES,
    CONFIG_SSD_DURABILITY,
    CONFIG_SSD_DRIVER,
    CONFIG_SSD_QUEUE_DEPTH,
    CONFIG_SSD_READ_QUEUES,
    CONFIG_SSD_IO_BYTES,
    CONFIG_SSD_IO_TIMEOUT_MS,
    CONFIG_SSD_HIGH_WATERMARK,
    CONFIG_SSD_LOW_WATERMARK,
    CONFIG_COPY_MODE,
    CONFIG_COPY_WORKERS,
    CONFIG_COPY_QUEUE_DEPTH,
    CONFIG_COPY_THREADS,
    CONFIG_COPY_SPIN_US,
    CONFIG_PROMOTE_ON_READ,
    CONFIG_EVICTION_POLICY,
    CONFIG_EVICTION_CANDIDATE_WINDOW,
    CONFIG_FOLLOWER_POLL_MS,
    CONFIG_INDEX_SHARDS,
    CONFIG_INDEX_HASH_SEED,
    CONFIG_POOL_MASTERS,
    CONFIG_POOL_CLUSTER,
    CONFIG_POOL_NODE_ID,
    CONFIG_POOL_ADDRESS,
    CONFIG_POOL_PORT,
    CONFIG_POOL_PROVIDER,
    CONFIG_POOL_TAGS,
    CONFIG_POOL_SERVE,
    CONFIG_POOL_SAME_HOST,
    CONFIG_POOL_SPIN_US,
    CONFIG_POOL_BEAT_MS,
    CONFIG_POOL_PEER_TIMEOUT_MS,
    CONFIG_POOL_RETRIES,
    CONFIG_POOL_REQUESTS,
    CONFIG_POOL_STAGING_BYTES,
    CONFIG_POOL_SSD_STAGING_BYTES,
    CONFIG_POOL_SSD_WORKERS,
    CONFIG_POOL_EVENT_LINGER_MS,
    CONFIG_POOL_EVENT_BATCH,
    CONFIG_POOL_RECACHE,
    CONFIG_POOL_RECACHE_BYTES,
    CONFIG_LOG_LEVEL,
    CONFIG_OPTION_COUNT
};

/* An environment variable. Where its words are not the option's, `words` says what they mean:
 * "from=to from=to"; a word that is not there is taken as it is. */
struct config_environment {
    const char *name;
    const char *words;
};

struct config_option {
    const char *name;
    enum config_type type;
    const char *default_value; /* text that the option's own parser takes */
    /* "[0 or ]LOW..HIGH[, a power of two]"; the one place where the bounds are written. */
    const char *range;
    const char *choices;  /* "a|b|c" */
    const char *synonyms; /* "other=choice other=choice", or NULL */
    struct config_environment
        environment[CONFIG_ENVIRONMENTS_MAX]; /* the first that is set counts */
    const char *flag;                         /* short flag, or NULL */
    const char *help;                         /* one sentence */
};

extern const struct config_option config_options[CONFIG_OPTION_COUNT];

enum config_origin {
    CONFIG_FROM_DEFAULT = 0,
    CONFIG_FROM_RANK, /* the role, guessed from a launcher's rank */
    CONFIG_FROM_USER, /* set, file or environment */
};

struct config_value {
    uint64_t number;
    double fraction;
    char *text;
    enum config_origin origin;
};

struct umbp_config {
    struct config_value values[CONFIG_OPTION_COUNT];
    char error[CONFIG_ERROR_BYTES];
};

/* Index of the option of that exact name, or SIZE_MAX. */
size_t config_find(const char *name);
/* The known name with the least distance. Static storage. */
const char *config_nearest_name(const char *name);
/* The first option whose name begins with "<section>.", or SIZE_MAX. */
size_t config_first_of_section(const char *section);
/* What is wrong with a name that no option has. */
void config_name_unknown(const char *name, char *why_out, size_t why_bytes);

/* Parse `text` for `option`. On UMBP_INVALID_VALUE `why_out` says why, without the option's name.
 * `value_out->text`, if any, is the caller's to free. Origin becomes CONFIG_FROM_USER. */
MUST_USE enum umbp_status config_value_parse(const struct config_option *option, const char *text,
                                             struct config_value *value_out, char *why_out,
                                             size_t why_bytes);
/* As text that parses back to the same. UMBP_LIMIT if it does not fit. */
MUST_USE enum umbp_status config_value_format(const struct config_option *option,
                                              const struct config_value *value, char *text_out,
                                              size_t text_bytes);
/* The nth of "a|b|c" into `word_out`; false past the last. */
bool config_choice(const char *choices, size_t nth, char *word_out, size_t word_bytes);
/* Look `word` up in "from=to from=to" (case and blanks around it don't count); what it stands for
 * goes to `to_out`. False when it is not there. */
bool config_translate(const char *words, const char *word, char *to_out, size_t to_bytes);
/* The static text of the store's policy, or driver, of that number. */
const char *config_policy_name(uint64_t number);
const char *config_driver_name(uint64_t number);

/* Write the error text of `config`, and return `status`. */
enum umbp_status config_fail(struct umbp_config *config, enum umbp_status status,
                             const char *format, ...) PRINTF_LIKE(3, 4);
/* Replaces a value, freeing what was there; takes ownership of value->text. */
void config_assign(struct umbp_config *config, size_t id, const struct config_value *value);

/* What umbp_config_validate checks, on a const configuration. */
MUST_USE enum umbp_status config_check(const struct umbp_config *config, char *error_out,
                                       size_t error_bytes);
/* The role in force: a guess from a rank counts only where there is an SSD to share. */
enum store_role config_role(const struct umbp_config *config);

#endif
