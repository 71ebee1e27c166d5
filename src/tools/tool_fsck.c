/* SPDX-License-Identifier: Apache-2.0 */
/* umbp fsck: read an SSD directory whole, verify everything, change nothing. */
#include "tools/tool_list.h"

#include <inttypes.h>
#include <sys/stat.h>

#include "disk/disk.h"
#include "tier_ssd/tier_ssd.h"

enum {
    FLAG_QUIET,
    FLAG_JSON
};

static const struct tool_flag flags[] = {
    [FLAG_QUIET] = {.name = "quiet", .help = "no line for each finding, only the summary"},
    [FLAG_JSON] = {.name = "json", .help = "one JSON object, findings included"},
    {.name = NULL},
};

#define FINDINGS_MAX 10000u /* listed in the JSON object; all are counted */

struct check {
    const struct tool_args *args;
    struct tool_progress progress;
    json_t *findings;
    uint64_t count;
};

static void on_progress(void *context, uint64_t done, uint64_t all)
{
    struct check *check = context;
    char done_text[32];
    char all_text[32];
    if (!tool_progress_is_due(&check->progress)) {
        return;
    }
    uint64_t spent_ns = clock_now_ns(clock_monotonic()) - check->progress.start_ns;
    double rate = (double)done / ((double)spent_ns / 1e9);
    tool_progress_show(&check->progress, "checked %s of %s, %.1f GB/s, %.0f s left",
                       units_format_bytes(done, done_text, sizeof done_text),
                       units_format_bytes(all, all_text, sizeof all_text), rate / 1e9,
                       rate > 0 ? (double)(all - u64_min(all, done)) / rate : 0.0);
}

static void on_problem(void *context, const char *line)
{
    struct check *check = context;
    check->count++;
    if (check->args->flags[FLAG_JSON].is_set) {
        if (check->count <= FINDINGS_MAX) {
            (void)json_array_append_new(check->findings, json_string(line));
        }
    } else if (!check->args->flags[FLAG_QUIET].is_set) {
        tool_progress_end(&check->progress);
        printf("%s\n", line);
    }
}

static void print_report(const struct ssd_check_report *report, uint64_t findings)
{
    char size[32];
    char torn[32];
    printf("segments   %" PRIu64 " (%" PRIu64 " sealed; %" PRIu64 " damaged, %" PRIu64
           " without footer)\n",
           report->segments, report->sealed, report->corrupt_segments, report->missing_footers);
    printf("values     %" PRIu64 ", %s\n", report->records,
           units_format_bytes(report->bytes, size, sizeof size));
    printf("dead       %" PRIu64 " superseded or removed, %" PRIu64 " tombstones\n",
           report->dead_records, report->tombstones);
    printf("damaged    %" PRIu64 " records, %s of torn tail\n", report->corrupt_records,
           units_format_bytes(report->torn_bytes, torn, sizeof torn));
    printf("foreign    %" PRIu64 " files\n", report->foreign_files);
    printf("%s: %" PRIu64 " finding%s\n", findings == 0 ? "clean" : "NOT CLEAN", findings,
           findings == 1 ? "" : "s");
}

static json_t *report_json(const char *directory, const struct check *check,
                           const struct ssd_check_report *report)
{
    return json_pack(
        "{s:s,s:b,s:I,s:O,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b}", "directory", directory,
        "clean", check->count == 0, "finding_count", (json_int_t)check->count, "findings",
        check->findings, "segments", (json_int_t)report->segments, "sealed",
        (json_int_t)report->sealed, "records", (json_int_t)report->records, "dead_records",
        (json_int_t)report->dead_records, "tombstones", (json_int_t)report->tombstones, "bytes",
        (json_int_t)report->bytes, "corrupt_records", (json_int_t)report->corrupt_records,
        "corrupt_segments", (json_int_t)report->corrupt_segments, "missing_footers",
        (json_int_t)report->missing_footers, "torn_bytes", (json_int_t)report->torn_bytes,
        "foreign_files", (json_int_t)report->foreign_files, "super_damaged",
        report->super_is_damaged);
}

static enum tool_exit check_directory(const struct tool_args *args, const char *directory,
                                      struct disk *disk)
{
    struct check check = {.args = args, .findings = json_array()};
    struct ssd_check_report report = {0};
    char why[CONFIG_ERROR_BYTES] = "";

    tool_progress_init(&check.progress);
    enum umbp_status status =
        ssd_check(directory, disk, on_progress, on_problem, &check, &report, why, sizeof why);
    tool_progress_end(&check.progress);
    enum tool_exit code = check.count > 0 ? TOOL_MISS : TOOL_OK;
    if (status != UMBP_OK) {
        code = tool_fail(args->tool, TOOL_FAILED, "%s: %s", directory,
                         why[0] != '\0' ? why : umbp_status_text(status));
    } else if (args->flags[FLAG_JSON].is_set) {
        code = tool_json_print(args->tool, code, report_json(directory, &check, &report));
    } else {
        print_report(&report, check.count);
    }
    json_decref(check.findings);
    return code;
}

static enum tool_exit run(const struct tool_args *args)
{
    char directory[CONFIG_TEXT_BYTES_MAX + 1];
    char driver[32];
    struct disk *disk;

    enum umbp_status status = umbp_config_get(args->config, "ssd.dir", directory, sizeof directory);
    if (status != UMBP_OK || directory[0] == '\0') {
        return tool_fail(args->tool, TOOL_USAGE,
                         "which directory? Name the one of the SSD tier: --ssd-dir DIR");
    }
    status = umbp_config_get(args->config, "ssd.driver", driver, sizeof driver);
    if (status == UMBP_OK) {
        status = disk_auto_create(driver, &disk);
    }
    if (status != UMBP_OK) {
        return tool_fail(args->tool, TOOL_FAILED, "the disk driver %s: %s", driver,
                         umbp_status_text(status));
    }
    enum tool_exit code = check_directory(args, directory, disk);
    disk_destroy(disk);
    return code;
}

const struct tool tool_fsck = {
    .name = "fsck",
    .summary = "verify an SSD directory, changing nothing",
    .synopsis = "--ssd-dir DIR",
    .about =
        "Reads every record of the directory, verifies every checksum and says what is there. It\n"
        "changes nothing and needs no repair mode: a store drops what is damaged when it opens "
        "the\n"
        "directory, and loses only that. Beside a running engine, a torn tail is normal. Exits\n"
        "with 0 when it is clean, 1 with findings, 3 when it could not be checked.\n\n"
        "  umbp fsck --ssd-dir /tmp/pool\n"
        "  umbp fsck --ssd-dir /tmp/pool --json",
    .flags = flags,
    .takes_config = true,
    .shown = tool_store_shown,
    .run = run,
};
