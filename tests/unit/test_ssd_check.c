/* SPDX-License-Identifier: Apache-2.0 */
/* fsck: what it counts on a good directory, what it finds on a bad one, and that it writes nothing.
 */
#include "ssd_fixture.h"

struct lines {
    unsigned count;
    char all[8192];
    uint64_t done;
    uint64_t all_bytes;
};

static void on_line(void *context, const char *line)
{
    struct lines *lines = context;
    size_t used = strlen(lines->all);
    lines->count++;
    (void)snprintf(lines->all + used, sizeof(lines->all) - used, "%s\n", line);
}

static void on_progress(void *context, uint64_t done, uint64_t all)
{
    struct lines *lines = context;
    assert_true(done >= lines->done && done <= all);
    lines->done = done;
    lines->all_bytes = all;
}

static struct ssd_check_report check(struct fx *fx, struct lines *lines)
{
    struct ssd_check_report report;
    char error[256];
    memset(lines, 0, sizeof(*lines));
    uint64_t changes = disk_fault_calls(fx->disk, DISK_CALL_CHANGE);
    assert_ok(ssd_check("d", fx->disk, on_progress, on_line, lines, &report, error, sizeof(error)));
    assert_int_equal(disk_fault_calls(fx->disk, DISK_CALL_CHANGE), changes);
    assert_int_equal(lines->done, lines->all_bytes);
    return report;
}

static void check_init(struct fx *fx)
{
    fx_init(fx, fx_faulty(fx_memory_disk()), "d");
    fx->options.bytes = 4u << 20;
    fx->options.segment_bytes = 256u << 10;
    fx_open(fx);
    for (uint32_t i = 0; i < 40; i++) {
        assert_ok(fx_put(fx, i, 9000));
    }
    for (uint32_t i = 0; i < 10; i++) {
        assert_ok(fx_put(fx, i, 500)); /* superseded */
    }
    for (uint32_t i = 20; i < 25; i++) {
        assert_ok(fx_remove(fx, i));
    }
}

static void a_good_directory_is_counted_right(void **state)
{
    (void)state;
    struct fx fx;
    struct lines lines;
    check_init(&fx);
    fx_close(&fx);
    struct ssd_check_report report = check(&fx, &lines);
    assert_int_equal(lines.count, 0);
    assert_int_equal(report.records, 35);
    assert_int_equal(report.dead_records, 15);
    assert_int_equal(report.tombstones, 5);
    assert_int_equal(report.bytes, 10 * 500 + 25 * 9000);
    assert_int_equal(report.segments, report.sealed);
    assert_true(report.segments >= 2);
    assert_int_equal(report.corrupt_records + report.corrupt_segments + report.missing_footers +
                         report.torn_bytes + report.foreign_files,
                     0);
    disk_destroy(fx.disk);
}

static void a_live_directory_is_good_but_for_its_open_segment(void **state)
{
    (void)state;
    struct fx fx;
    struct lines lines;
    check_init(&fx);
    struct ssd_check_report report = check(&fx, &lines);
    assert_int_equal(report.records, 35);
    assert_int_equal(report.missing_footers, 1);
    assert_int_equal(report.corrupt_records, 0);
    fx_close(&fx);
    disk_destroy(fx.disk);
}

static void flip_in(struct fx *fx, const char *path, uint64_t at)
{
    struct disk_file file;
    uint8_t byte;
    size_t got;
    assert_ok(disk_open(fx->disk, path, DISK_OPEN_WRITE, &file));
    assert_ok(disk_read_at(fx->disk, file, &byte, 1, at, &got));
    byte ^= 4;
    assert_ok(disk_write_at(fx->disk, file, &byte, 1, at));
    disk_close(fx->disk, file);
}

static void flip(struct fx *fx, uint32_t segment, uint64_t at)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "d/%016x.seg", segment);
    flip_in(fx, path, at);
}

static void damage_is_found_and_named(void **state)
{
    (void)state;
    struct fx fx;
    struct lines lines;
    char name[32];
    check_init(&fx);
    fx_close(&fx);
    struct ssd_location location = fx.index[30].location;
    (void)snprintf(name, sizeof(name), "%016x.seg: block %u", location.segment, location.block);
    uint64_t at = (uint64_t)location.block * SSD_BLOCK_BYTES;
    flip(&fx, location.segment, at + SSD_BLOCK_BYTES + 77); /* the value */
    struct ssd_check_report report = check(&fx, &lines);
    assert_int_equal(report.corrupt_records, 1);
    assert_int_equal(report.records, 34);
    assert_non_null(strstr(lines.all, name));
    flip(&fx, location.segment, at + SSD_BLOCK_BYTES + 77);
    flip(&fx, location.segment, at + 20); /* the header */
    report = check(&fx, &lines);
    assert_int_equal(report.corrupt_records, 1);
    assert_int_equal(report.records, 34);
    flip(&fx, location.segment, at + 20);
    flip(&fx, location.segment, 100); /* the segment's header */
    report = check(&fx, &lines);
    assert_int_equal(report.corrupt_segments, 1);
    assert_int_equal(report.records, 35);
    flip(&fx, location.segment, 100);
    report = check(&fx, &lines);
    assert_int_equal(lines.count, 0);
    disk_destroy(fx.disk);
}

static void a_kill_leaves_no_corruption_only_a_missing_footer(void **state)
{
    (void)state;
    struct fx fx;
    struct lines lines;
    check_init(&fx);
    assert_ok(fx_put(&fx, 49, 170000));
    const struct disk_fault fault = {.call = DISK_CALL_WRITE,
                                     .first = 1,
                                     .action = DISK_FAULT_CRASH,
                                     .bytes = 5 * SSD_BLOCK_BYTES};
    assert_true(disk_fault_add(fx.disk, &fault));
    assert_status(fx_put(&fx, 50, 60000), UMBP_IO);
    assert_status(ssd_close(fx.tier, fx_soon()), UMBP_IO);
    disk_fault_clear(fx.disk);
    struct ssd_check_report report = check(&fx, &lines);
    assert_int_equal(report.missing_footers, 1);
    assert_int_equal(report.corrupt_records, 0);
    assert_true(report.torn_bytes >= SSD_BLOCK_BYTES);
    assert_int_equal(report.records, 36);
    disk_destroy(fx.disk);
}

static void a_damaged_or_missing_super_file_is_found_and_the_segments_are_checked(void **state)
{
    (void)state;
    struct fx fx;
    struct lines lines;
    check_init(&fx);
    fx_close(&fx);
    flip_in(&fx, "d/umbp.super", 20); /* in the random id: a fixed byte may be what is there */
    struct ssd_check_report report = check(&fx, &lines);
    assert_true(report.super_is_damaged);
    assert_non_null(strstr(lines.all, "umbp.super is damaged"));
    assert_int_equal(lines.count, 1);
    assert_int_equal(report.records, 35);
    assert_int_equal(report.segments, report.sealed);

    assert_ok(disk_unlink(fx.disk, "d/umbp.super"));
    flip(&fx, fx.index[30].location.segment,
         (uint64_t)(fx.index[30].location.block + 1) * SSD_BLOCK_BYTES);
    report = check(&fx, &lines);
    assert_true(report.super_is_damaged);
    assert_non_null(strstr(lines.all, "umbp.super is missing"));
    assert_int_equal(report.corrupt_records, 1);
    assert_int_equal(report.records, 34);
    disk_destroy(fx.disk);
}

/* Killed between setting a segment's space aside and writing its header. */
static void a_segment_that_was_never_begun_is_no_damage(void **state)
{
    (void)state;
    struct fx fx;
    struct lines lines;
    struct disk_file file;
    check_init(&fx);
    fx_close(&fx);
    assert_ok(
        disk_open(fx.disk, "d/00000000000000ff.seg", DISK_OPEN_WRITE | DISK_OPEN_CREATE, &file));
    assert_ok(disk_allocate(fx.disk, file, 256u << 10));
    disk_close(fx.disk, file);
    struct ssd_check_report report = check(&fx, &lines);
    assert_int_equal(report.corrupt_segments, 0);
    assert_int_equal(report.missing_footers, 1);
    assert_int_equal(report.records, 35);
    disk_destroy(fx.disk);
}

static void what_is_no_directory_of_ours_is_refused(void **state)
{
    (void)state;
    struct ssd_check_report report;
    char error[256];
    struct disk *disk = fx_memory_disk();
    assert_status(ssd_check("d", disk, NULL, NULL, NULL, &report, error, sizeof(error)),
                  UMBP_NOT_FOUND);
    assert_non_null(strstr(error, "d can't be listed: no such file"));
    assert_ok(disk_make_directory(disk, "d"));
    assert_status(ssd_check("d", disk, NULL, NULL, NULL, &report, error, sizeof(error)),
                  UMBP_NOT_FOUND);
    assert_non_null(strstr(error, "d/umbp.super"));
    disk_destroy(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_directory_is_counted_right),
        cmocka_unit_test(a_live_directory_is_good_but_for_its_open_segment),
        cmocka_unit_test(damage_is_found_and_named),
        cmocka_unit_test(a_kill_leaves_no_corruption_only_a_missing_footer),
        cmocka_unit_test(a_damaged_or_missing_super_file_is_found_and_the_segments_are_checked),
        cmocka_unit_test(a_segment_that_was_never_begun_is_no_damage),
        cmocka_unit_test(what_is_no_directory_of_ours_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
