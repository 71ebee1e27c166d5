/* SPDX-License-Identifier: Apache-2.0 */
/* The tests' own tools: one that never fails proves nothing. */
#include "support.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void support_dir_is_made_empty_and_removed_with_all_in_it(void **state)
{
    (void)state;
    struct stat info;
    char *dir = test_dir_create();
    char *kept = test_path(dir, "");
    char *sub = test_path(dir, "sub");
    char *file = test_path(sub, "file");
    assert_int_equal(mkdir(sub, 0700), 0);
    int fd = open(file, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(stat(file, &info), 0);
    test_dir_remove(dir);
    assert_int_not_equal(stat(kept, &info), 0);
    free(kept);
    free(sub);
    free(file);
    test_dir_remove(NULL);
}

static void support_check_fill_sees_one_wrong_byte(void **state)
{
    (void)state;
    unsigned char data[101];
    test_fill(data, sizeof data, 9);
    assert_true(test_check_fill(data, sizeof data, 9));
    assert_true(test_check_fill(data, 50, 9));
    assert_false(test_check_fill(data, sizeof data, 8));
    for (size_t i = 0; i < sizeof data; i += 20) {
        data[i] ^= 1;
        assert_false(test_check_fill(data, sizeof data, 9));
        data[i] ^= 1;
    }
}

static bool third_time(void *context) { return ++*(int *)context == 3; }
static bool never(void *context)
{
    (void)context;
    return false;
}

static void support_wait_until_waits_and_gives_up(void **state)
{
    (void)state;
    int calls = 0;
    assert_true(test_wait_until(third_time, &calls, TEST_WAIT_MS));
    assert_int_equal(calls, 3);
    assert_false(test_wait_until(never, NULL, 5));
}

static void support_fd_count_sees_an_open_file(void **state)
{
    (void)state;
    unsigned before = test_fd_count();
    int fd = open("/dev/null", O_RDONLY);
    assert_int_equal(test_fd_count(), before + 1);
    close(fd);
    assert_int_equal(test_fd_count(), before);
}

static void support_rng_repeats_by_stream(void **state)
{
    (void)state;
    struct test_rng a, b, c;
    test_rng_init(&a, 1);
    test_rng_init(&b, 1);
    test_rng_init(&c, 2);
    uint64_t first = test_rng_next(&a);
    assert_true(first == test_rng_next(&b));
    assert_true(first != test_rng_next(&c));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(support_dir_is_made_empty_and_removed_with_all_in_it),
        cmocka_unit_test(support_check_fill_sees_one_wrong_byte),
        cmocka_unit_test(support_wait_until_waits_and_gives_up),
        cmocka_unit_test(support_fd_count_sees_an_open_file),
        cmocka_unit_test(support_rng_repeats_by_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
