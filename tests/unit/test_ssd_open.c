/* SPDX-License-Identifier: Apache-2.0 */
/* Opening: what is refused, with which words, and that nothing is touched when it is. */
#include <unistd.h>

#include "ssd_fixture.h"

static void write_file(struct disk *disk, const char *path, const void *data, size_t bytes)
{
    struct disk_file file;
    assert_ok(
        disk_open(disk, path, DISK_OPEN_WRITE | DISK_OPEN_CREATE | DISK_OPEN_TRUNCATE, &file));
    assert_ok(disk_write_at(disk, file, data, bytes, 0));
    disk_close(disk, file);
}

static void read_file(struct disk *disk, const char *path, uint8_t *data, size_t bytes)
{
    struct disk_file file;
    size_t got;
    assert_ok(disk_open(disk, path, 0, &file));
    assert_ok(disk_read_at(disk, file, data, bytes, 0, &got));
    assert_int_equal(got, bytes);
    disk_close(disk, file);
}

static bool file_exists(struct disk *disk, const char *path)
{
    struct disk_file file;
    if (disk_open(disk, path, 0, &file) != UMBP_OK) {
        return false;
    }
    disk_close(disk, file);
    return true;
}

static void options_out_of_range_are_refused_and_create_nothing(void **state)
{
    (void)state;
    struct fx fx;
    fx_init(&fx, fx_memory_disk(), "d");
    const struct ssd_options good = fx.options;
    fx.options.bytes = SSD_BYTES_MIN - 1;
    assert_status(fx_try_open(&fx), UMBP_INVALID_VALUE);
    assert_non_null(strstr(fx.error, "1 MiB"));
    fx.options = good;
    fx.options.segment_bytes = SSD_SEGMENT_BYTES_MIN - 1;
    assert_status(fx_try_open(&fx), UMBP_INVALID_VALUE);
    fx.options = good;
    fx.options.io_bytes = 4096;
    assert_status(fx_try_open(&fx), UMBP_INVALID_VALUE);
    fx.options = good;
    fx.options.queue_depth = 100000;
    assert_status(fx_try_open(&fx), UMBP_INVALID_VALUE);
    fx.options = good;
    fx.options.read_queues = 100000;
    assert_status(fx_try_open(&fx), UMBP_INVALID_VALUE);
    fx.options = good;
    fx.options.directory = "";
    assert_status(fx_try_open(&fx), UMBP_INVALID_VALUE);
    assert_false(file_exists(fx.disk, "d/umbp.lock"));
    disk_destroy(fx.disk);
}

static void a_directory_is_made_one_level_deep(void **state)
{
    (void)state;
    struct fx fx;
    fx_init(&fx, fx_memory_disk(), "d/e");
    assert_status(fx_try_open(&fx), UMBP_NOT_FOUND);
    assert_non_null(strstr(fx.error, "d/e"));
    assert_ok(disk_make_directory(fx.disk, "d"));
    fx_open(&fx);
    fx_close(&fx);
    assert_true(file_exists(fx.disk, "d/e/umbp.super"));
    disk_destroy(fx.disk);
}

static void a_follower_of_nothing_says_not_found_and_of_an_empty_directory_waits(void **state)
{
    (void)state;
    struct fx fx;
    fx_init(&fx, fx_memory_disk(), "d");
    fx.options.read_only = true;
    assert_status(fx_try_open(&fx), UMBP_NOT_FOUND);
    assert_ok(disk_make_directory(fx.disk, "d"));
    fx_open(&fx);
    fx_close(&fx);
    assert_false(file_exists(fx.disk, "d/umbp.lock"));
    assert_false(file_exists(fx.disk, "d/umbp.super"));
    disk_destroy(fx.disk);
}

static void a_second_leader_is_refused_and_told_who_has_it(void **state)
{
    (void)state;
    struct disk *disk;
    struct fx first;
    struct fx second;
    char *directory = test_dir_create();
    char pid[32];
    assert_ok(disk_auto_create("posix", &disk));
    fx_init(&first, disk, directory);
    fx_init(&second, disk, directory);
    fx_open(&first);
    assert_status(fx_try_open(&second), UMBP_LOCKED);
    assert_non_null(strstr(second.error, directory));
    (void)snprintf(pid, sizeof(pid), "process %d", getpid());
    assert_non_null(strstr(second.error, pid));
    second.options.read_only = true; /* a follower may */
    fx_open(&second);
    fx_close(&second);
    fx_close(&first);
    second.options.read_only = false;
    fx_open(&second);
    fx_close(&second);
    disk_destroy(disk);
    test_dir_remove(directory);
}

static void a_newer_version_is_refused_and_nothing_is_touched(void **state)
{
    (void)state;
    struct fx fx;
    uint8_t block[SSD_BLOCK_BYTES];
    uint8_t after[SSD_BLOCK_BYTES];
    fx_init(&fx, fx_faulty(fx_memory_disk()), "d");
    fx_open(&fx);
    assert_ok(fx_put(&fx, 1, 1000));
    fx_close(&fx);
    read_file(fx.disk, "d/umbp.super", block, sizeof(block));
    block[8] = 2;
    for (int has_checksum = 0; has_checksum < 2; has_checksum++) {
        if (has_checksum) {
            uint32_t crc = crc32c(0, block, SSD_BLOCK_BYTES - 4);
            memcpy(block + SSD_BLOCK_BYTES - 4, &crc, 4);
        }
        write_file(fx.disk, "d/umbp.super", block, sizeof(block));
        uint64_t changes = disk_fault_calls(fx.disk, DISK_CALL_CHANGE);
        assert_status(fx_try_open(&fx), UMBP_VERSION);
        assert_non_null(strstr(fx.error, "version 2"));
        assert_int_equal(disk_fault_calls(fx.disk, DISK_CALL_CHANGE), changes);
    }
    read_file(fx.disk, "d/umbp.super", after, sizeof(after));
    assert_memory_equal(block, after, sizeof(block));
    disk_destroy(fx.disk);
}

static void a_damaged_or_missing_super_file_is_corrupt_and_says_what_to_do(void **state)
{
    (void)state;
    struct fx fx;
    uint8_t block[SSD_BLOCK_BYTES];
    uint8_t bad[SSD_BLOCK_BYTES];
    fx_init(&fx, fx_memory_disk(), "d");
    fx_open(&fx);
    assert_ok(fx_put(&fx, 1, 1000));
    fx_close(&fx);
    read_file(fx.disk, "d/umbp.super", block, sizeof(block));
    for (unsigned at = 0; at < SSD_BLOCK_BYTES; at += 13) {
        if (at >= 8 && at < 12) {
            continue; /* the version */
        }
        memcpy(bad, block, sizeof(bad));
        bad[at] ^= 0x20;
        write_file(fx.disk, "d/umbp.super", bad, sizeof(bad));
        assert_status(fx_try_open(&fx), UMBP_CORRUPT);
        assert_non_null(strstr(fx.error, "umbp.super"));
        assert_non_null(strstr(fx.error, "restore"));
    }
    write_file(fx.disk, "d/umbp.super", block, 100);
    assert_status(fx_try_open(&fx), UMBP_CORRUPT);
    assert_ok(disk_unlink(fx.disk, "d/umbp.super"));
    assert_status(fx_try_open(&fx), UMBP_CORRUPT);
    assert_non_null(strstr(fx.error, "no umbp.super"));
    write_file(fx.disk, "d/umbp.super", block, sizeof(block));
    fx_open(&fx);
    assert_ok(fx_get(&fx, 1));
    fx_close(&fx);
    disk_destroy(fx.disk);
}

static void foreign_files_are_left_alone_and_counted(void **state)
{
    (void)state;
    static const char *const names[] = {"d/notes.txt",
                                        "d/0000000000000001.SEG",
                                        "d/000000000000001.seg",
                                        "d/00000000000000zz.seg",
                                        "d/ffffffffffffffff.seg",
                                        "d/0000000000000000.seg"};
    struct fx fx;
    struct fx other;
    fx_init(&fx, fx_memory_disk(), "d");
    fx_init(&other, fx.disk, "o");
    fx_open(&fx);
    assert_ok(fx_put(&fx, 1, 1000));
    fx_close(&fx);
    for (unsigned i = 0; i < ARRAY_COUNT(names); i++) {
        write_file(fx.disk, names[i], "mine", 4);
    }
    assert_ok(disk_make_directory(fx.disk, "d/0000000000000077.seg"));
    /* A segment of another directory, sealed and not. */
    fx_open(&other);
    assert_ok(fx_put(&other, 1, 2000));
    fx_close(&other);
    assert_ok(disk_rename(fx.disk, "o/0000000000000001.seg", "d/0000000000000055.seg"));
    fx_open(&fx);
    assert_int_equal(fx.recovery.foreign_files, ARRAY_COUNT(names) + 2);
    assert_int_equal(fx_count(&fx), 1);
    assert_int_equal(fx.index[1].bytes, 1000);
    assert_ok(fx_put(&fx, 2, 1000));
    assert_true(fx.index[2].location.segment > 0x55); /* its name is taken */
    assert_ok(ssd_clear(fx.tier, ++fx.generation, fx_soon()));
    fx_close(&fx);
    for (unsigned i = 0; i < ARRAY_COUNT(names); i++) {
        assert_true(file_exists(fx.disk, names[i]));
    }
    assert_true(file_exists(fx.disk, "d/0000000000000055.seg"));
    disk_destroy(fx.disk);
}

static void a_directory_that_can_not_be_written_is_read_only(void **state)
{
    (void)state;
    struct fx fx;
    fx_init(&fx, fx_faulty(fx_memory_disk()), "d");
    fx_open(&fx);
    assert_ok(fx_put(&fx, 1, 1000));
    fx_close(&fx);
    const struct disk_fault fault = {
        .call = DISK_CALL_CHANGE, .first = 1, .times = UINT64_MAX, .status = UMBP_READ_ONLY};
    assert_true(disk_fault_add(fx.disk, &fault));
    assert_status(fx_try_open(&fx), UMBP_READ_ONLY);
    assert_non_null(strstr(fx.error, "umbp.lock"));
    fx.options.read_only = true;
    fx_open(&fx);
    assert_ok(fx_get(&fx, 1));
    assert_status(fx_put(&fx, 2, 10), UMBP_READ_ONLY);
    uint32_t segment;
    assert_status(ssd_victim(fx.tier, true, &segment, fx_soon()), UMBP_READ_ONLY);
    assert_status(ssd_clear(fx.tier, 99, fx_soon()), UMBP_READ_ONLY);
    fx_close(&fx);
    disk_destroy(fx.disk);
}

static void a_full_directory_opens_and_is_emptied_by_victims(void **state)
{
    (void)state;
    struct fx fx;
    fx_init(&fx, fx_memory_disk(), "d");
    fx_open(&fx);
    for (uint32_t i = 0; i < 100; i++) {
        assert_ok(fx_put(&fx, i, 100000));
    }
    fx_close(&fx);
    fx.options.bytes = 4u << 20; /* the operator made it smaller */
    fx.options.segment_bytes = 256u << 10;
    fx_open(&fx);
    uint64_t used;
    uint64_t capacity;
    uint32_t segment;
    ssd_space(fx.tier, &used, &capacity);
    assert_true(used > capacity);
    fx_check_all(&fx);
    assert_status(fx_put(&fx, 1, 100), UMBP_NO_SPACE);
    do {
        assert_ok(ssd_victim(fx.tier, false, &segment, fx_soon()));
        fx_gone(&fx, segment);
        ssd_segment_release(fx.tier, segment);
        ssd_space(fx.tier, &used, &capacity);
    } while (used + (512u << 10) > capacity);
    assert_ok(fx_put(&fx, 1, 100));
    fx_check_all(&fx);
    fx_close(&fx);
    disk_destroy(fx.disk);
}

static void a_leftover_temporary_super_file_does_no_harm(void **state)
{
    (void)state;
    struct fx fx;
    fx_init(&fx, fx_memory_disk(), "d");
    assert_ok(disk_make_directory(fx.disk, "d"));
    write_file(fx.disk, "d/umbp.super.tmp", "half", 4);
    fx_open(&fx);
    assert_int_equal(fx.recovery.foreign_files, 0);
    assert_ok(fx_put(&fx, 1, 10));
    fx_close(&fx);
    write_file(fx.disk, "d/umbp.super.tmp", "half", 4);
    fx_open(&fx);
    assert_ok(fx_get(&fx, 1));
    fx_close(&fx);
    disk_destroy(fx.disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_out_of_range_are_refused_and_create_nothing),
        cmocka_unit_test(a_directory_is_made_one_level_deep),
        cmocka_unit_test(a_follower_of_nothing_says_not_found_and_of_an_empty_directory_waits),
        cmocka_unit_test(a_second_leader_is_refused_and_told_who_has_it),
        cmocka_unit_test(a_newer_version_is_refused_and_nothing_is_touched),
        cmocka_unit_test(a_damaged_or_missing_super_file_is_corrupt_and_says_what_to_do),
        cmocka_unit_test(foreign_files_are_left_alone_and_counted),
        cmocka_unit_test(a_directory_that_can_not_be_written_is_read_only),
        cmocka_unit_test(a_full_directory_opens_and_is_emptied_by_victims),
        cmocka_unit_test(a_leftover_temporary_super_file_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
