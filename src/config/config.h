/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration: one table of options (config_table.c) that yields the umbp_config_* functions
 * of umbp.h, the flags of the program, the environment variables, the file and docs/options.md.
 * This header is what the other rooms use of it; the functions named umbp_* are in umbp.h.
 *
 * Every value is held parsed and in range; what only shows across options is umbp_config_validate.
 *
 * Threads: a configuration belongs to one thread at a time. Reading it (const) from several is
 * fine.
 */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include "base/base.h"
#include "store/store.h"
#include <umbp/umbp.h>

#define CONFIG_FILE_BYTES_MAX (UINT64_C(1) << 20)
#define CONFIG_TEXT_BYTES_MAX 4095u
#define CONFIG_ERROR_BYTES 512u
#define CONFIG_ENVIRONMENTS_MAX 4u

enum config_scheme {
    CONFIG_SCHEME_LOCAL = 0,
    CONFIG_SCHEME_POOL = 1,
    CONFIG_SCHEME_PROCESS = 2,
};

/* A configuration of its own with the same values; its error text is empty. */
MUST_USE enum umbp_status config_copy(const struct umbp_config *config,
                                      struct umbp_config **copy_out);

/* What the store is to be made with. Text in it is borrowed from `config` (or static). .disk and
 * .clock are NULL, .event_bytes is 0. UMBP_INVALID_VALUE for what umbp_config_validate refuses. */
MUST_USE enum umbp_status config_store_options(const struct umbp_config *config,
                                               struct store_options *options_out);

enum config_provider {
    CONFIG_PROVIDER_AUTO = 0,
    CONFIG_PROVIDER_TCP = 1,
    CONFIG_PROVIDER_VERBS = 2,
};

enum config_recache {
    CONFIG_RECACHE_SIZE = 0,
    CONFIG_RECACHE_NEVER = 1,
    CONFIG_RECACHE_ALWAYS = 2,
};

/* What the pool scheme and the node are to be made with: the options pool.* as they are. Text is
 * borrowed from the configuration and "" where it is not set. */
struct config_pool {
    const char *masters; /* "host:port,host:port" */
    const char *cluster;
    const char *node_id;
    const char *address;
    uint16_t port;
    enum config_provider provider;
    const char *tags; /* "key=value,key=value" */
    bool serve;
    bool same_host;
    uint32_t spin_us;
    uint32_t beat_ms;
    uint32_t peer_timeout_ms;
    uint32_t retries;
    uint32_t requests;
    uint64_t staging_bytes;
    uint64_t ssd_staging_bytes;
    uint32_t ssd_workers;
    uint32_t event_linger_ms;
    uint32_t event_batch;
    enum config_recache recache;
    uint64_t recache_bytes;
};
/* UMBP_INVALID_VALUE for what umbp_config_validate refuses. */
MUST_USE enum umbp_status config_pool_options(const struct umbp_config *config,
                                              struct config_pool *pool_out);

enum config_scheme config_scheme(const struct umbp_config *config);
uint32_t config_op_timeout_ms(const struct umbp_config *config);
uint32_t config_close_timeout_ms(const struct umbp_config *config);
enum umbp_log_level config_log_level(const struct umbp_config *config);
/* Whether log.level was given, by whatever way; else the process's present level is to stay. */
bool config_log_level_is_set(const struct umbp_config *config);
/* Whether an SSD tier comes of it: ssd.enabled, or by itself where ssd.dir is set and ssd.bytes >
 * 0. */
bool config_ssd_is_on(const struct umbp_config *config);

/* One line, at level info, with the times in force; whoever makes a client or a daemon calls it. */
void config_log_timing(const struct umbp_config *config);

/* As umbp_config_load_file, from `bytes` of text in memory; `source` names it in errors. */
MUST_USE enum umbp_status config_load_text(struct umbp_config *config, const char *source,
                                           const char *text, size_t bytes);

/* ---- for the program ---- */

/* The index of umbp_option_describe of the option that a flag names: its name or its short form,
 * where '.', '-' and '_' are the same ("dram.bytes", "dram-bytes", "dram"). `bytes` of `flag`
 * count. SIZE_MAX when none does. */
size_t config_option_of_flag(const char *flag, size_t bytes);
/* The short flag of the option ("dram"), or NULL. */
const char *config_option_flag(size_t index);
/* Its nth environment name, from 0; NULL past the last. */
const char *config_option_environment(size_t index, size_t nth);

/* How many single-character edits (insert, delete, replace, swap) lie between two names; '.', '-'
 * and '_' are the same, and so are upper and lower case. Looks at no more than 63 bytes of each. */
unsigned config_name_distance(const char *a, const char *b);

#endif
