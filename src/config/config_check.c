/* SPDX-License-Identifier: Apache-2.0 */
/* What only shows across options. Each finding names the option, its value, and what to do. */
#include "config/config_priv.h"

struct check {
    const struct umbp_config *config;
    char *error;
    size_t error_bytes;
};

/* The option's value as text, in one of `check`'s callers' buffers. */
static const char *text_of(const struct check *check, enum config_id id, char *buffer,
                           size_t buffer_bytes)
{
    if (config_value_format(&config_options[id], &check->config->values[id], buffer,
                            buffer_bytes) != UMBP_OK) {
        snprintf(buffer, buffer_bytes, "?");
    }
    return buffer;
}

static enum umbp_status check_watermarks(const struct check *check, enum config_id high,
                                         enum config_id low)
{
    char high_text[32];
    char low_text[32];
    if (check->config->values[low].fraction <= check->config->values[high].fraction) {
        return UMBP_OK;
    }
    text_of(check, high, high_text, sizeof high_text);
    text_of(check, low, low_text, sizeof low_text);
    snprintf(check->error, check->error_bytes,
             "%s (%s) is above %s (%s): lower the first to %s or less, or raise the second",
             config_options[low].name, low_text, config_options[high].name, high_text, high_text);
    return UMBP_INVALID_VALUE;
}

static enum umbp_status check_dram(const struct check *check)
{
    const struct config_value *values = check->config->values;
    uint64_t page_bytes = values[CONFIG_DRAM_PAGE_BYTES].number;
    uint64_t buffers = values[CONFIG_DRAM_BUFFERS].number;
    uint64_t bytes = values[CONFIG_DRAM_BYTES].number;
    char page_text[32];
    char bytes_text[32];

    text_of(check, CONFIG_DRAM_PAGE_BYTES, page_text, sizeof page_text);
    text_of(check, CONFIG_DRAM_BYTES, bytes_text, sizeof bytes_text);
    if (page_bytes > bytes) {
        snprintf(check->error, check->error_bytes,
                 "dram.page_bytes (%s) is larger than the tier, dram.bytes (%s): choose smaller "
                 "pages, or 0 to have them chosen",
                 page_text, bytes_text);
        return UMBP_INVALID_VALUE;
    }
    if (page_bytes == 0) {
        page_bytes = DRAM_PAGE_BYTES_DEFAULT;
        snprintf(page_text, sizeof page_text, "64KiB");
    }
    if (buffers > 1 && buffers * page_bytes > bytes) {
        snprintf(check->error, check->error_bytes,
                 "dram.buffers (%u) is too many for dram.bytes (%s): each holds at least one page "
                 "of %s; ask for fewer",
                 (unsigned)buffers, bytes_text, page_text);
        return UMBP_INVALID_VALUE;
    }
    return check_watermarks(check, CONFIG_DRAM_HIGH_WATERMARK, CONFIG_DRAM_LOW_WATERMARK);
}

static enum umbp_status check_ssd(const struct check *check)
{
    const struct config_value *values = check->config->values;
    uint64_t bytes = values[CONFIG_SSD_BYTES].number;
    uint64_t segment_bytes = values[CONFIG_SSD_SEGMENT_BYTES].number;
    char segment_text[32];
    char bytes_text[32];

    if (values[CONFIG_SSD_DIR].text == NULL) {
        snprintf(check->error, check->error_bytes,
                 "ssd.enabled is true and ssd.dir is not set: name a directory in ssd.dir, or set "
                 "ssd.enabled to false");
        return UMBP_INVALID_VALUE;
    }
    if (bytes == 0) {
        snprintf(check->error, check->error_bytes,
                 "ssd.enabled is true and ssd.bytes is 0: give the SSD tier a size, or set "
                 "ssd.enabled to false");
        return UMBP_INVALID_VALUE;
    }
    text_of(check, CONFIG_SSD_SEGMENT_BYTES, segment_text, sizeof segment_text);
    text_of(check, CONFIG_SSD_BYTES, bytes_text, sizeof bytes_text);
    if (segment_bytes > bytes / 2) {
        snprintf(check->error, check->error_bytes,
                 "ssd.segment_bytes (%s) is more than half of ssd.bytes (%s): choose smaller "
                 "segments, or 0 to have them chosen",
                 segment_text, bytes_text);
        return UMBP_INVALID_VALUE;
    }
    return check_watermarks(check, CONFIG_SSD_HIGH_WATERMARK, CONFIG_SSD_LOW_WATERMARK);
}

static enum umbp_status check_role(const struct check *check)
{
    char role_text[32];
    enum store_role role = config_role(check->config);
    if (role == STORE_STANDALONE) {
        return UMBP_OK;
    }
    text_of(check, CONFIG_ROLE, role_text, sizeof role_text);
    if (!config_ssd_is_on(check->config)) {
        snprintf(check->error, check->error_bytes,
                 "role is %s and there is no SSD tier: name the shared directory in ssd.dir (and "
                 "leave ssd.enabled and ssd.bytes on), or set role to standalone",
                 role_text);
        return UMBP_INVALID_VALUE;
    }
    if (role == STORE_LEADER &&
        check->config->values[CONFIG_COPY_MODE].number == STORE_COPY_ON_EVICT) {
        snprintf(check->error, check->error_bytes,
                 "copy.mode is on_evict and role is leader, which copies every put at once: set "
                 "copy.mode to on_commit, or role to standalone");
        return UMBP_INVALID_VALUE;
    }
    return UMBP_OK;
}

static enum umbp_status check_pool(const struct check *check)
{
    const struct config_value *values = check->config->values;
    char beat_text[32];
    char timeout_text[32];

    if (values[CONFIG_POOL_MASTERS].text == NULL) {
        snprintf(check->error, check->error_bytes,
                 "scheme is pool and pool.masters is not set: name the master's address "
                 "(host:port), or set scheme to local");
        return UMBP_INVALID_VALUE;
    }
    if (values[CONFIG_POOL_PEER_TIMEOUT_MS].number < 3 * values[CONFIG_POOL_BEAT_MS].number) {
        text_of(check, CONFIG_POOL_BEAT_MS, beat_text, sizeof beat_text);
        text_of(check, CONFIG_POOL_PEER_TIMEOUT_MS, timeout_text, sizeof timeout_text);
        snprintf(check->error, check->error_bytes,
                 "pool.peer_timeout_ms (%s) is less than three times pool.beat_ms (%s): a lost "
                 "beat would look like a death; raise the first or lower the second",
                 timeout_text, beat_text);
        return UMBP_INVALID_VALUE;
    }
    return UMBP_OK;
}

enum umbp_status config_check(const struct umbp_config *config, char *error_out, size_t error_bytes)
{
    const struct check check = {config, error_out, error_bytes};
    enum umbp_status status = check_role(&check);
    if (status == UMBP_OK) {
        status = check_dram(&check);
    }
    if (status == UMBP_OK && config_ssd_is_on(config)) {
        status = check_ssd(&check);
    }
    if (status == UMBP_OK && config_scheme(config) == CONFIG_SCHEME_POOL) {
        status = check_pool(&check);
    }
    return status;
}

enum umbp_status umbp_config_validate(struct umbp_config *config)
{
    if (config == NULL) {
        return UMBP_INVALID_VALUE;
    }
    config->error[0] = '\0';
    return config_check(config, config->error, sizeof config->error);
}
