/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the commands on an SSD directory share. Those that only look open it as a follower, which
 * takes no lock and writes nothing, so they work beside the engine that owns it. put and rm open it
 * as its owner. Neither ever gives up a stored value for want of space in a capacity that the
 * command line did not mention: the capacity is raised to what is there.
 */
#include "tools/tools.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define DRAM_BYTES_LEAST (64 * MIB)
#define SEGMENT_BYTES_LEAST (64 * KIB)
#define SEGMENT_BYTES_MOST (256 * MIB)
#define SEGMENTS_MOST 16384u

const char *const tool_store_shown[] = {"ssd.dir", "pool.masters", NULL};

const struct tool_setting tool_store_reader[] = {
    {"role", "follower"},
    {"ssd.enabled", "true"},
    {"dram.prefault", "false"},
    {"promote.on_read", "false"},
    {"copy.mode", "on_commit"},
    {"copy.threads", "1"},
    {NULL, NULL},
};

const struct tool_setting tool_store_writer[] = {
    {"role", "standalone"},       {"ssd.enabled", "true"},      {"dram.prefault", "false"},
    {"dram.high_watermark", "1"}, {"dram.low_watermark", "1"},  {"ssd.high_watermark", "1"},
    {"ssd.low_watermark", "1"},   {"promote.on_read", "false"}, {"copy.mode", "on_commit"},
    {"copy.workers", "1"},        {"copy.threads", "1"},        {NULL, NULL},
};

/* What the files of the directory take; 0 where it can't be read (opening it will say why). */
static uint64_t directory_bytes(const char *path)
{
    uint64_t sum = 0;
    DIR *directory = opendir(path);
    if (directory == NULL) {
        return 0;
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        struct stat info;
        if (fstatat(dirfd(directory), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(info.st_mode)) {
            sum += (uint64_t)info.st_size;
        }
    }
    closedir(directory);
    return sum;
}

static void set_bytes(const struct tool_args *args, const char *option, uint64_t bytes)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64, bytes);
    tool_config_set(args, option, text);
}

static uint64_t get_bytes(const struct tool_args *args, const char *option)
{
    char text[32];
    uint64_t bytes = 0;
    enum umbp_status status = umbp_config_get(args->config, option, text, sizeof text);
    bool is_size = status == UMBP_OK && units_parse_bytes(text, &bytes);
    ASSERT(is_size);
    return bytes;
}

static void fit_capacities(const struct tool_args *args, const char *directory,
                           uint64_t value_bytes)
{
    if (!tool_config_is_flagged(args, "dram.bytes")) {
        set_bytes(args, "dram.bytes",
                  u64_max(DRAM_BYTES_LEAST, value_bytes + value_bytes / 8 + MIB));
    }
    if (!tool_config_is_flagged(args, "ssd.bytes")) {
        uint64_t there = directory_bytes(directory);
        set_bytes(args, "ssd.bytes",
                  u64_max(get_bytes(args, "ssd.bytes"), there + there / 4 + value_bytes * 2 + GIB));
    }
    /* A segment is set aside whole before the value is written: a disk that has room for the value
     * may not have it for a segment of an engine's size. (A larger value gets one to itself.) */
    if (!tool_config_is_flagged(args, "ssd.segment_bytes")) {
        uint64_t bytes = get_bytes(args, "ssd.bytes");
        uint64_t segment = u64_min(align_up(bytes / SEGMENTS_MOST, MIB), bytes / 8);
        set_bytes(args, "ssd.segment_bytes",
                  u64_min(u64_max(segment, SEGMENT_BYTES_LEAST), SEGMENT_BYTES_MOST));
    }
}

/* A store on a full disk gives up old values for a new one. That is not for a command to do. */
static enum tool_exit check_disk(const struct tool_args *args, const char *directory,
                                 uint64_t value_bytes)
{
    struct statvfs info;
    char room[32];
    char need[32];
    /* A segment with the value, and one with its removal or what was cut off. */
    uint64_t bytes = value_bytes + value_bytes / 64 + 2 * get_bytes(args, "ssd.segment_bytes");

    if (value_bytes == 0 || statvfs(directory, &info) != 0 ||
        bytes / info.f_frsize <= info.f_bavail) {
        return TOOL_OK; /* or it is not there yet */
    }
    return tool_fail(args->tool, TOOL_FAILED, "%s: no space: %s left on the disk, and %s needed",
                     directory,
                     units_format_bytes(info.f_bavail * info.f_frsize, room, sizeof room),
                     units_format_bytes(bytes, need, sizeof need));
}

/* A client of the cluster of --masters, which keeps nothing itself. */
static enum tool_exit open_pool(const struct tool_args *args, const char *masters,
                                struct umbp_client **client_out)
{
    static const struct tool_setting settings[] = {
        {"scheme", "pool"},     {"pool.serve", "false"},
        {"role", "standalone"}, {"ssd.enabled", "false"},
        {NULL, NULL},
    };
    char why[CONFIG_ERROR_BYTES] = "";
    for (size_t i = 0; settings[i].option != NULL; i++) {
        tool_config_set(args, settings[i].option, settings[i].value);
    }
    enum umbp_status status = umbp_client_create(args->config, client_out, why, sizeof why);
    if (status == UMBP_OK) {
        return TOOL_OK;
    }
    *client_out = NULL;
    return tool_fail(args->tool, status == UMBP_INVALID_VALUE ? TOOL_USAGE : TOOL_FAILED,
                     "the cluster of %s: %s", masters,
                     why[0] != '\0' ? why : umbp_status_text(status));
}

enum tool_exit tool_store_open(const struct tool_args *args, uint64_t value_bytes,
                               struct umbp_client **client_out)
{
    char masters[CONFIG_TEXT_BYTES_MAX + 1];
    char directory[CONFIG_TEXT_BYTES_MAX + 1];
    char why[CONFIG_ERROR_BYTES] = "";
    *client_out = NULL;

    enum umbp_status status = umbp_config_get(args->config, "ssd.dir", directory, sizeof directory);
    if (status != UMBP_OK || directory[0] == '\0' || tool_config_is_flagged(args, "pool.masters")) {
        status = umbp_config_get(args->config, "pool.masters", masters, sizeof masters);
        if (status == UMBP_OK && masters[0] != '\0') {
            return open_pool(args, masters, client_out);
        }
        return tool_fail(args->tool, TOOL_USAGE,
                         "which store? Name the directory of an SSD tier: --ssd-dir DIR (or the "
                         "master of a cluster: --masters HOST:PORT)");
    }
    fit_capacities(args, directory, value_bytes);
    if (umbp_config_validate(args->config) != UMBP_OK) {
        return tool_fail(args->tool, TOOL_USAGE, "%s", umbp_config_error(args->config));
    }
    enum tool_exit code = check_disk(args, directory, value_bytes);
    if (code != TOOL_OK) {
        return code;
    }
    status = umbp_client_create(args->config, client_out, why, sizeof why);
    if (status != UMBP_OK) {
        *client_out = NULL;
        return tool_fail(args->tool, status == UMBP_INVALID_VALUE ? TOOL_USAGE : TOOL_FAILED,
                         "%s: %s", directory, why[0] != '\0' ? why : umbp_status_text(status));
    }
    return TOOL_OK;
}

static uint64_t stat_of(const struct umbp_stat_value *values, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(values[i].name, name) == 0) {
            return values[i].value;
        }
    }
    return 0;
}

/* A miss that nobody stands behind: every question to a master came back without an answer. */
bool tool_store_is_unsure(struct umbp_client *client)
{
    struct umbp_stat_value values[256];
    size_t count = 0;
    if (!umbp_client_is_distributed(client) ||
        umbp_stats(client, values, ARRAY_COUNT(values), &count) != UMBP_OK) {
        return false;
    }
    count = count < ARRAY_COUNT(values) ? count : ARRAY_COUNT(values);
    uint64_t calls = stat_of(values, count, "pool.master_calls");
    uint64_t tried = calls + stat_of(values, count, "pool.master_skips");
    return stat_of(values, count, "pool.misses_unsure") > 0 ||
           (tried > 0 && calls == stat_of(values, count, "pool.master_failures"));
}

enum tool_exit tool_store_tell_unsure(const struct tool_args *args)
{
    char masters[CONFIG_TEXT_BYTES_MAX + 1];
    enum umbp_status status =
        umbp_config_get(args->config, "pool.masters", masters, sizeof masters);
    ASSERT(status == UMBP_OK);
    return tool_fail(
        args->tool, TOOL_FAILED,
        "no master answered: is one running at %s, and can it be reached from here? (What was not "
        "found may be there all the same.)",
        masters);
}

enum tool_exit tool_store_close(const struct tool_args *args, struct umbp_client *client,
                                enum tool_exit code)
{
    if (client == NULL) {
        return code;
    }
    if ((code == TOOL_MISS || code == TOOL_FAILED) && tool_store_is_unsure(client)) {
        code = tool_store_tell_unsure(args);
    }
    enum umbp_status status = umbp_client_close(client, 0);
    if (status != UMBP_OK && code != TOOL_FAILED) {
        code = tool_fail(args->tool, TOOL_FAILED, "closing: %s", umbp_status_text(status));
    }
    umbp_client_destroy(client);
    return code;
}
