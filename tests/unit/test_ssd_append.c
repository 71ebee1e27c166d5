/* SPDX-License-Identifier: Apache-2.0 */
/* Appending and reading on a healthy disk: sizes, keys, batches, ranges, restarts. */
#include "ssd_fixture.h"

static void open_memory(struct fx *fx)
{
    fx_init(fx, fx_memory_disk(), "d");
    fx_open(fx);
}

static void close_memory(struct fx *fx)
{
    fx_close(fx);
    disk_destroy(fx->disk);
}

static const uint64_t sizes[] = {0,      1,      511,    3800,   3900,   4000,  4095,
                                 4096,   4097,   8191,   8192,   8193,   65536, 65537,
                                 262143, 262144, 262145, 300000, 524288, 700001};

static void every_size_comes_back_from_aligned_and_unaligned_memory(void **state)
{
    (void)state;
    struct fx fx;
    open_memory(&fx);
    for (uint32_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        assert_ok(fx_put_as(&fx, 2 * i, sizes[i], true));
        assert_ok(fx_put_as(&fx, 2 * i + 1, sizes[i], false));
    }
    fx_check_all(&fx);
    fx_close(&fx);
    fx_open(&fx);
    assert_int_equal(fx_count(&fx), 2 * ARRAY_COUNT(sizes));
    assert_int_equal(fx.recovery.scanned_segments, 0);
    fx_check_all(&fx);
    close_memory(&fx);
}

static void every_size_comes_back_from_a_real_disk(void **state)
{
    static const char *const drivers[] = {"auto", "posix"};
    (void)state;
    for (unsigned d = 0; d < ARRAY_COUNT(drivers); d++) {
        struct fx fx;
        struct disk *disk;
        char *directory = test_dir_create();
        assert_ok(disk_auto_create(drivers[d], &disk));
        fx_init(&fx, disk, directory);
        fx.options.bytes = 64u << 20;
        fx.options.segment_bytes = 8u << 20;
        fx.options.io_bytes = 0;
        fx_open(&fx);
        for (uint32_t i = 0; i < ARRAY_COUNT(sizes); i++) {
            assert_ok(fx_put_as(&fx, 2 * i, sizes[i], true));
            assert_ok(fx_put_as(&fx, 2 * i + 1, sizes[i], false));
        }
        assert_ok(fx_put_as(&fx, 100, (1u << 20) + 1, true));
        assert_ok(fx_put_as(&fx, 101, FX_VALUE_MAX, true));
        fx_check_all(&fx);
        fx_close(&fx);
        fx_open(&fx);
        assert_int_equal(fx_count(&fx), 2 * ARRAY_COUNT(sizes) + 2);
        fx_check_all(&fx);
        fx_close(&fx);
        disk_destroy(disk);
        test_dir_remove(directory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_comes_back_from_aligned_and_unaligned_memory),
        cmocka_unit_test(every_size_comes_back_from_a_real_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
