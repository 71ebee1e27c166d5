/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration object, and what the other rooms read from it. */
#include "config/config_priv.h"

#include <stdarg.h>

enum umbp_status config_fail(struct umbp_config *config, enum umbp_status status,
                             const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(config->error, sizeof config->error, format, arguments);
    va_end(arguments);
    return status;
}

void config_assign(struct umbp_config *config, size_t id, const struct config_value *value)
{
    mem_free(config->values[id].text);
    config->values[id] = *value;
}

enum umbp_status umbp_config_create(struct umbp_config **config_out)
{
    if (config_out == NULL) {
        return UMBP_INVALID_VALUE;
    }
    struct umbp_config *config = mem_zalloc(sizeof *config);
    if (config == NULL) {
        return UMBP_NO_MEMORY;
    }
    for (size_t i = 0; i < CONFIG_OPTION_COUNT; i++) {
        const struct config_option *option = &config_options[i];
        enum umbp_status status = config_value_parse(
            option, option->default_value, &config->values[i], config->error, sizeof config->error);
        if (status != UMBP_OK) {
            ASSERT(status == UMBP_NO_MEMORY); /* a default that is none is a bug in the table */
            umbp_config_destroy(config);
            return status;
        }
        config->values[i].origin = CONFIG_FROM_DEFAULT;
    }
    *config_out = config;
    return UMBP_OK;
}

void umbp_config_destroy(struct umbp_config *config)
{
    if (config == NULL) {
        return;
    }
    for (size_t i = 0; i < CONFIG_OPTION_COUNT; i++) {
        mem_free(config->values[i].text);
    }
    mem_free(config);
}

enum umbp_status config_copy(const struct umbp_config *config, struct umbp_config **copy_out)
{
    struct umbp_config *copy = mem_zalloc(sizeof *copy);
    if (copy == NULL) {
        return UMBP_NO_MEMORY;
    }
    for (size_t i = 0; i < CONFIG_OPTION_COUNT; i++) {
        copy->values[i] = config->values[i];
        if (config->values[i].text != NULL) {
            copy->values[i].text = mem_strdup(config->values[i].text);
            if (copy->values[i].text == NULL) {
                umbp_config_destroy(copy);
                return UMBP_NO_MEMORY;
            }
        }
    }
    *copy_out = copy;
    return UMBP_OK;
}

enum umbp_status umbp_config_set(struct umbp_config *config, const char *name, const char *value)
{
    if (config == NULL) {
        return UMBP_INVALID_VALUE;
    }
    config->error[0] = '\0';
    if (name == NULL || value == NULL) {
        return config_fail(config, UMBP_INVALID_VALUE, "an option needs a name and a value");
    }
    char why[CONFIG_ERROR_BYTES / 2];
    size_t id = config_find(name);
    if (id == SIZE_MAX) {
        config_name_unknown(name, why, sizeof why);
        return config_fail(config, UMBP_UNKNOWN_OPTION, "%s", why);
    }
    struct config_value parsed;
    enum umbp_status status =
        config_value_parse(&config_options[id], value, &parsed, why, sizeof why);
    if (status != UMBP_OK) {
        return config_fail(config, status, "%s: %s", name, why);
    }
    config_assign(config, id, &parsed);
    return UMBP_OK;
}

enum umbp_status umbp_config_get(const struct umbp_config *config, const char *name, char *text_out,
                                 size_t text_bytes)
{
    if (config == NULL || name == NULL || text_out == NULL) {
        return UMBP_INVALID_VALUE;
    }
    size_t id = config_find(name);
    if (id == SIZE_MAX) {
        return UMBP_UNKNOWN_OPTION;
    }
    struct config_value value = config->values[id];
    if (id == CONFIG_ROLE) {
        value.number = (uint64_t)config_role(config);
    }
    return config_value_format(&config_options[id], &value, text_out, text_bytes);
}

const char *umbp_config_error(const struct umbp_config *config)
{
    return config != NULL ? config->error : "there is no configuration (NULL)";
}

/* ---------------------------------------------------------------------- accessors ------- */

static uint64_t number_of(const struct umbp_config *config, enum config_id id)
{
    return config->values[id].number;
}

static uint32_t number32_of(const struct umbp_config *config, enum config_id id)
{
    return (uint32_t)config->values[id].number; /* the ranges of the table see to it that it fits */
}

enum config_scheme config_scheme(const struct umbp_config *config)
{
    return (enum config_scheme)number_of(config, CONFIG_SCHEME);
}

uint32_t config_op_timeout_ms(const struct umbp_config *config)
{
    return number32_of(config, CONFIG_OP_TIMEOUT_MS);
}

uint32_t config_close_timeout_ms(const struct umbp_config *config)
{
    return number32_of(config, CONFIG_CLOSE_TIMEOUT_MS);
}

enum umbp_log_level config_log_level(const struct umbp_config *config)
{
    return (enum umbp_log_level)number_of(config, CONFIG_LOG_LEVEL);
}

bool config_log_level_is_set(const struct umbp_config *config)
{
    return config->values[CONFIG_LOG_LEVEL].origin == CONFIG_FROM_USER;
}

bool config_ssd_is_on(const struct umbp_config *config)
{
    char enabled[16];
    bool is_choice = config_choice(config_options[CONFIG_SSD_ENABLED].choices,
                                   number_of(config, CONFIG_SSD_ENABLED), enabled, sizeof enabled);
    ASSERT(is_choice);
    if (strcmp(enabled, "auto") != 0) {
        return strcmp(enabled, "true") == 0;
    }
    return config->values[CONFIG_SSD_DIR].text != NULL && number_of(config, CONFIG_SSD_BYTES) > 0;
}

void config_log_timing(const struct umbp_config *config)
{
    log_info("timing",
             "op_timeout_ms=%u close_timeout_ms=%u ssd_io_timeout_ms=%u follower_poll_ms=%u",
             config_op_timeout_ms(config), config_close_timeout_ms(config),
             number32_of(config, CONFIG_SSD_IO_TIMEOUT_MS),
             number32_of(config, CONFIG_FOLLOWER_POLL_MS));
}

enum store_role config_role(const struct umbp_config *config)
{
    const struct config_value *role = &config->values[CONFIG_ROLE];
    if (role->origin == CONFIG_FROM_RANK && !config_ssd_is_on(config)) {
        return STORE_STANDALONE;
    }
    return (enum store_role)role->number;
}

/* Neighbours on the host read a pool's node fastest where they can map its memory. */
static enum dram_backing backing_of(const struct umbp_config *config)
{
    const struct config_value *backing = &config->values[CONFIG_DRAM_BACKING];
    bool is_open = config->values[CONFIG_SCHEME].number == CONFIG_SCHEME_POOL &&
                   number_of(config, CONFIG_POOL_SERVE) != 0 &&
                   number_of(config, CONFIG_POOL_SAME_HOST) != 0;
    return backing->origin == CONFIG_FROM_DEFAULT && is_open ? DRAM_BACKING_SHARED
                                                             : (enum dram_backing)backing->number;
}

static void fill_dram(const struct umbp_config *config, struct store_options *options)
{
    uint64_t node = number_of(config, CONFIG_DRAM_NUMA_NODE);
    options->dram = (struct dram_options){
        .bytes = number_of(config, CONFIG_DRAM_BYTES),
        .page_bytes = number32_of(config, CONFIG_DRAM_PAGE_BYTES),
        .buffer_count = number32_of(config, CONFIG_DRAM_BUFFERS),
        .backing = backing_of(config),
        .numa_node = node == CONFIG_NODE_ANY      ? DRAM_NUMA_ANY
                     : node == CONFIG_NODE_SPREAD ? DRAM_NUMA_SPREAD
                                                  : (int)(node - CONFIG_NODE_FIRST),
        .prefault = number_of(config, CONFIG_DRAM_PREFAULT) != 0,
        .prefault_threads = number32_of(config, CONFIG_DRAM_PREFAULT_THREADS),
    };
    options->dram_high_watermark = config->values[CONFIG_DRAM_HIGH_WATERMARK].fraction;
    options->dram_low_watermark = config->values[CONFIG_DRAM_LOW_WATERMARK].fraction;
    options->dram_checksum = number_of(config, CONFIG_DRAM_CHECKSUM) != 0;
}

static void fill_ssd(const struct umbp_config *config, struct store_options *options)
{
    options->ssd_enabled = config_ssd_is_on(config);
    options->ssd = (struct ssd_options){
        .directory = config->values[CONFIG_SSD_DIR].text,
        .bytes = number_of(config, CONFIG_SSD_BYTES),
        .segment_bytes = number_of(config, CONFIG_SSD_SEGMENT_BYTES),
        .durability = (enum ssd_durability)number_of(config, CONFIG_SSD_DURABILITY),
        .read_queues = number32_of(config, CONFIG_SSD_READ_QUEUES),
        .queue_depth = number32_of(config, CONFIG_SSD_QUEUE_DEPTH),
        .io_bytes = number32_of(config, CONFIG_SSD_IO_BYTES),
        .io_timeout_ms = number32_of(config, CONFIG_SSD_IO_TIMEOUT_MS),
    };
    options->disk_driver = config_driver_name(number_of(config, CONFIG_SSD_DRIVER));
    options->ssd_high_watermark = config->values[CONFIG_SSD_HIGH_WATERMARK].fraction;
    options->ssd_low_watermark = config->values[CONFIG_SSD_LOW_WATERMARK].fraction;
}

enum umbp_status config_store_options(const struct umbp_config *config,
                                      struct store_options *options_out)
{
    char why[CONFIG_ERROR_BYTES];
    enum umbp_status status = config_check(config, why, sizeof why);
    if (status != UMBP_OK) {
        return status;
    }
    struct store_options options = {
        .role = config_role(config),
        .copy_mode = (enum store_copy_mode)number_of(config, CONFIG_COPY_MODE),
        .promote_on_read = number_of(config, CONFIG_PROMOTE_ON_READ) != 0,
        .policy = config_policy_name(number_of(config, CONFIG_EVICTION_POLICY)),
        .candidate_window = number32_of(config, CONFIG_EVICTION_CANDIDATE_WINDOW),
        .copy_workers = number32_of(config, CONFIG_COPY_WORKERS),
        .copy_queue_depth = number32_of(config, CONFIG_COPY_QUEUE_DEPTH),
        .copy_threads = number32_of(config, CONFIG_COPY_THREADS),
        .copy_spin_us = number32_of(config, CONFIG_COPY_SPIN_US),
        .follower_poll_ms = number32_of(config, CONFIG_FOLLOWER_POLL_MS),
        .op_timeout_ms = config_op_timeout_ms(config),
        .close_timeout_ms = config_close_timeout_ms(config),
        .shards = number32_of(config, CONFIG_INDEX_SHARDS),
        .hash_seed = number_of(config, CONFIG_INDEX_HASH_SEED),
    };
    fill_dram(config, &options);
    fill_ssd(config, &options);
    *options_out = options;
    return UMBP_OK;
}

static const char *text_or_empty(const struct umbp_config *config, enum config_id id)
{
    const char *text = config->values[id].text;
    return text != NULL ? text : "";
}

enum umbp_status config_pool_options(const struct umbp_config *config, struct config_pool *pool_out)
{
    char why[CONFIG_ERROR_BYTES];
    enum umbp_status status = config_check(config, why, sizeof why);
    if (status != UMBP_OK) {
        return status;
    }
    *pool_out = (struct config_pool){
        .masters = text_or_empty(config, CONFIG_POOL_MASTERS),
        .cluster = text_or_empty(config, CONFIG_POOL_CLUSTER),
        .node_id = text_or_empty(config, CONFIG_POOL_NODE_ID),
        .address = text_or_empty(config, CONFIG_POOL_ADDRESS),
        .port = (uint16_t)number_of(config, CONFIG_POOL_PORT),
        .provider = (enum config_provider)number_of(config, CONFIG_POOL_PROVIDER),
        .tags = text_or_empty(config, CONFIG_POOL_TAGS),
        .serve = number_of(config, CONFIG_POOL_SERVE) != 0,
        .same_host = number_of(config, CONFIG_POOL_SAME_HOST) != 0,
        .spin_us = number32_of(config, CONFIG_POOL_SPIN_US),
        .beat_ms = number32_of(config, CONFIG_POOL_BEAT_MS),
        .peer_timeout_ms = number32_of(config, CONFIG_POOL_PEER_TIMEOUT_MS),
        .retries = number32_of(config, CONFIG_POOL_RETRIES),
        .requests = number32_of(config, CONFIG_POOL_REQUESTS),
        .staging_bytes = number_of(config, CONFIG_POOL_STAGING_BYTES),
        .ssd_staging_bytes = number_of(config, CONFIG_POOL_SSD_STAGING_BYTES),
        .ssd_workers = number32_of(config, CONFIG_POOL_SSD_WORKERS),
        .event_linger_ms = number32_of(config, CONFIG_POOL_EVENT_LINGER_MS),
        .event_batch = number32_of(config, CONFIG_POOL_EVENT_BATCH),
        .recache = (enum config_recache)number_of(config, CONFIG_POOL_RECACHE),
        .recache_bytes = number_of(config, CONFIG_POOL_RECACHE_BYTES),
    };
    return UMBP_OK;
}
