/* SPDX-License-Identifier: Apache-2.0 */
/* put, get, exists, rm, ls, stat and fsck on an SSD directory. */
#include "support_client.h"
#include "support_program.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static struct test_output output;
static char *dir;

static int make_dir(void **state)
{
    (void)state;
    dir = test_dir_create();
    return 0;
}

static int drop_dir(void **state)
{
    (void)state;
    test_output_free(&output);
    test_dir_remove(dir);
    return 0;
}

/* Runs `umbp command --ssd-dir dir ...` and expects this exit code. */
#define expect(code_, ...)                                                                         \
    expect_run((const char *const[]){__VA_ARGS__, "--ssd-dir", dir, NULL}, NULL, 0, code_)

static void expect_run(const char *const *arguments, const void *input, size_t input_bytes,
                       int code)
{
    test_output_free(&output);
    test_program_run(&output, arguments, input, input_bytes, NULL);
    if (output.code != code) {
        fail_msg("umbp %s exits with %d: %s%s", arguments[0], output.code, output.out, output.err);
    }
}

static void put_text(const char *key, const char *value)
{
    expect_run((const char *const[]){"put", "--ssd-dir", dir, key, NULL}, value, strlen(value), 0);
}

static void assert_out(const char *part)
{
    if (strstr(output.out, part) == NULL) {
        fail_msg("\"%s\" is not in \"%s\"", part, output.out);
    }
}

static void what_is_put_is_got_and_listed(void **state)
{
    (void)state;
    put_text("greeting", "hello\n");
    assert_string_equal(output.out, "stored greeting (6 B)\n");
    put_text("empty", "");
    expect(0, "get", "greeting");
    assert_int_equal(output.out_bytes, 6);
    assert_string_equal(output.out, "hello\n");
    expect(0, "get", "empty");
    assert_int_equal(output.out_bytes, 0);
    expect(0, "ls");
    assert_out("6      -  greeting\n");
    assert_out("2 values, 6 B\n");
    expect(0, "stat", "greeting");
    assert_out("bytes: 6\n");
    assert_out("on:    SSD\n");
    expect(0, "exists", "greeting", "empty");
    assert_string_equal(output.out, "yes greeting\nyes empty\n");
}

static void a_second_put_keeps_the_first_value_and_is_a_success(void **state)
{
    (void)state;
    put_text("key", "first");
    put_text("key", "second");
    assert_string_equal(output.out, "already there: key keeps its first value\n");
    expect(0, "get", "key");
    assert_string_equal(output.out, "first");
}

static void large_values_and_binary_files_come_back_whole(void **state)
{
    (void)state;
    size_t bytes = (size_t)(test_is_slow() ? 9 : 90) << 20; /* more than the memory it would use */
    uint8_t *data = malloc(bytes + 7);
    char *from = test_path(dir, "value");
    char *to = test_path(dir, "copy");
    char *pool = test_path(dir, "pool");
    test_fill(data, bytes + 7, 3);
    FILE *file = fopen(from, "wb");
    assert_int_equal(fwrite(data, 1, bytes + 7, file), bytes + 7);
    fclose(file);
    expect_run((const char *const[]){"put", "--ssd-dir", pool, "big", from, NULL}, NULL, 0, 0);
    expect_run(
        (const char *const[]){"get", "--ssd-dir", pool, "big", "--output", to, "--json", NULL},
        NULL, 0, 0);
    assert_int_equal(test_json_number(output.out, "bytes"), bytes + 7);
    memset(data, 0, bytes + 7);
    file = fopen(to, "rb");
    assert_int_equal(fread(data, 1, bytes + 7, file), bytes + 7);
    fclose(file);
    assert_true(test_check_fill(data, bytes + 7, 3));
    free(data);
    free(from);
    free(to);
    free(pool);
}

static void keys_may_be_any_bytes_in_hex(void **state)
{
    (void)state;
    char long_hex[2 * 1025 + 1];
    expect_run((const char *const[]){"put", "--hex", "00ff\x31\x30", "--ssd-dir", dir, NULL}, "v",
               1, 0);
    assert_string_equal(output.out, "stored 00ff10 (1 B)\n");
    expect(0, "ls");
    assert_out("\\x00\\xff\\x10\n");
    expect(0, "ls", "--hex");
    assert_out("  00ff10\n");
    expect(0, "ls", "--json");
    assert_string_equal(output.out, "{\"bytes\":1,\"depth\":null,\"key_hex\":\"00ff10\"}\n");
    expect(0, "get", "--hex", "00FF10");
    assert_string_equal(output.out, "v");
    expect(2, "get", "--hex", "0");
    expect(2, "get", "--hex", "0g");
    expect(2, "get", "");
    memset(long_hex, 'a', sizeof long_hex);
    long_hex[2 * 1025] = '\0';
    expect(2, "put", "--hex", long_hex);
    long_hex[2 * 1024] = '\0';
    expect(0, "put", "--hex", long_hex);
    expect(0, "exists", "--quiet", "--hex", long_hex);
    assert_string_equal(output.out, "");
}

static void depth_is_kept(void **state)
{
    (void)state;
    expect(0, "put", "--depth", "7", "key");
    expect(0, "stat", "key", "--json");
    assert_int_equal(test_json_number(output.out, "depth"), 7);
    expect(2, "put", "--depth", "4294967295", "other");
}

static void what_is_not_there_exits_with_one(void **state)
{
    (void)state;
    char *to = test_path(dir, "copy");
    put_text("key", "value");
    expect(1, "get", "nokey");
    assert_string_equal(output.out, "");
    assert_non_null(strstr(output.err, "nokey: no such key"));
    expect(1, "get", "nokey", "--output", to, "--json");
    assert_out("\"found\":false");
    assert_int_not_equal(access(to, F_OK), 0);
    expect(1, "exists", "key", "nokey");
    assert_string_equal(output.out, "yes key\nno  nokey\n");
    expect(1, "stat", "nokey");
    expect(1, "stat", "--json", "nokey");
    assert_out("{\"found\":false,\"key\":\"nokey\"");
    expect(1, "rm", "key", "nokey");
    assert_string_equal(output.out, "removed key\n");
    expect(1, "exists", "key");
    free(to);
}

static void removed_keys_stay_removed(void **state)
{
    (void)state;
    put_text("a", "1");
    put_text("b", "2");
    expect(0, "rm", "a", "--json");
    assert_out("\"removed\":true");
    expect(1, "get", "a");
    expect(0, "get", "b");
    put_text("a", "3");
    assert_out("stored");
    expect(0, "get", "a");
    assert_string_equal(output.out, "3");
}

static void looking_works_beside_the_owner_and_writing_is_refused(void **state)
{
    (void)state;
    const char *const options[] = {"dram.bytes", "4MiB",  "ssd.dir", dir,
                                   "ssd.bytes",  "64MiB", NULL};
    struct umbp_client *client = test_client(options);
    assert_ok(test_put(client, test_key("key"), 3, 1));
    assert_ok(umbp_flush(client, 0));
    expect(0, "exists", "key");
    expect(0, "get", "key");
    assert_int_equal(output.out_bytes, 3);
    expect(0, "ls", "--json");
    expect(3, "put", "other");
    assert_string_equal(output.out, "");
    expect(3, "rm", "key");
    expect(0, "exists", "key");
    umbp_client_destroy(client);
    expect(0, "put", "other");
}

/* Of a directory that holds more than the default capacities, nothing is given up. */
static void writing_gives_up_nothing_that_was_there(void **state)
{
    (void)state;
    static uint8_t value[1 << 20];
    static const char *const environment[] = {"UMBP_SSD_CAPACITY=1MiB", "UMBP_DRAM_CAPACITY=1MiB",
                                              NULL};
    char key[16];
    test_fill(value, sizeof value, 1);
    for (int i = 0; i < 12; i++) {
        snprintf(key, sizeof key, "key%d", i);
        test_output_free(&output);
        test_program_run(&output, (const char *const[]){"put", "--ssd-dir", dir, key, NULL}, value,
                         sizeof value, environment);
        assert_int_equal(output.code, 0);
    }
    expect(0, "ls");
    assert_out("12 values, 12 MiB\n");
}

static void a_value_too_large_for_the_ssd_is_not_said_to_be_stored(void **state)
{
    (void)state;
    static uint8_t value[1 << 20];
    test_fill(value, sizeof value, 1);
    expect_run((const char *const[]){"put", "--ssd-dir", dir, "--ssd", "1MiB", "key", NULL}, value,
               sizeof value, 3);
    assert_string_equal(output.out, "");
    assert_non_null(strstr(output.err, "too large for the SSD tier"));
    expect(1, "exists", "key");
}

/* Files that may not grow are like a disk that is full. */
static void what_a_full_disk_did_not_take_is_not_said_to_be_stored(void **state)
{
    (void)state;
    static uint8_t value[8 << 20];
    struct rlimit limit;
    char *from = test_path(dir, "value");
    char *pool = test_path(dir, "pool");
    test_fill(value, sizeof value, 1);
    FILE *file = fopen(from, "wb");
    assert_int_equal(fwrite(value, 1, sizeof value, file), sizeof value);
    fclose(file);
    expect_run((const char *const[]){"put", "--ssd-dir", pool, "other", NULL}, "v", 1, 0);

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    const struct rlimit least = {.rlim_cur = 6 << 20, .rlim_max = limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &least), 0);
    expect_run((const char *const[]){"put", "--ssd-dir", pool, "small", NULL}, NULL, 0, 0);
    expect_run((const char *const[]){"put", "--ssd-dir", pool, "large", from, NULL}, NULL, 0, 3);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_string_equal(output.out, "");
    assert_non_null(strstr(output.err, "no space"));
    expect_run((const char *const[]){"exists", "--ssd-dir", pool, "large", NULL}, NULL, 0, 1);
    free(from);
    free(pool);
}

static void stat_of_the_whole_lists_statistics(void **state)
{
    (void)state;
    put_text("key", "value");
    expect(0, "stat");
    assert_out("keys ");
    expect(0, "stat", "--json");
    assert_int_equal(test_json_number(output.out, "keys"), 1);
}

/* ------------------------------------------------------------------------- fsck --------- */

/* Turns over a bit of every block of the directory's only segment from `from` on. */
static void damage_segment(void)
{
    DIR *folder = opendir(dir);
    struct dirent *entry;
    while ((entry = readdir(folder)) != NULL) {
        size_t bytes = strlen(entry->d_name);
        if (bytes < 4 || strcmp(entry->d_name + bytes - 4, ".seg") != 0) {
            continue;
        }
        char *path = test_path(dir, entry->d_name);
        int fd = open(path, O_RDWR);
        uint8_t byte;
        struct stat info;
        assert_int_equal(fstat(fd, &info), 0);
        /* a record of 64 KiB lies somewhere here: its middle is value */
        assert_int_equal(pread(fd, &byte, 1, 4096 + 20000), 1);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, 4096 + 20000), 1);
        close(fd);
        free(path);
    }
    closedir(folder);
}

static void fsck_is_clean_or_finds_what_is_damaged(void **state)
{
    (void)state;
    static uint8_t value[65536];
    test_fill(value, sizeof value, 9);
    expect_run((const char *const[]){"put", "--ssd-dir", dir, "key", NULL}, value, sizeof value, 0);
    expect(0, "fsck");
    assert_out("clean: 0 findings\n");
    expect(0, "fsck", "--json");
    assert_out("\"clean\":true");
    assert_int_equal(test_json_number(output.out, "records"), 1);
    assert_int_equal(test_json_number(output.out, "bytes"), sizeof value);

    damage_segment();
    expect(1, "fsck");
    assert_out("NOT CLEAN");
    expect(1, "fsck", "--json");
    assert_out("\"clean\":false");
    assert_int_equal(test_json_number(output.out, "corrupt_records"), 1);
    assert_int_not_equal(test_json_number(output.out, "finding_count"), 0);
    /* and a get of it gives no byte */
    test_output_free(&output);
    test_program(&output, "get", "--ssd-dir", dir, "key");
    assert_true(output.code == 1 || output.code == 3);
    assert_int_equal(output.out_bytes, 0);
    /* a put of it mends it */
    expect_run((const char *const[]){"put", "--ssd-dir", dir, "key", NULL}, value, sizeof value, 0);
    assert_out("stored");
    expect(0, "get", "key");
    assert_int_equal(output.out_bytes, sizeof value);
    assert_memory_equal(output.out, value, sizeof value);
}

static void fsck_of_what_is_no_directory_fails(void **state)
{
    (void)state;
    char *nothing = test_path(dir, "nothing");
    expect_run((const char *const[]){"fsck", "--ssd-dir", nothing, NULL}, NULL, 0, 3);
    assert_non_null(strstr(output.err, nothing));
    assert_non_null(strstr(output.err, "no such file"));
    expect_run((const char *const[]){"ls", "--ssd-dir", nothing, NULL}, NULL, 0, 3);
    assert_non_null(strstr(output.err, "umbp.super: this is no directory of an SSD tier"));
    fclose(fopen(nothing, "w"));
    expect_run((const char *const[]){"put", "--ssd-dir", nothing, "key", NULL}, NULL, 0, 3);
    assert_non_null(strstr(output.err, "is not a directory"));
    expect_run((const char *const[]){"fsck", NULL}, NULL, 0, 2);
    free(nothing);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_dir, drop_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_put_is_got_and_listed),
        TEST(a_second_put_keeps_the_first_value_and_is_a_success),
        TEST(large_values_and_binary_files_come_back_whole),
        TEST(keys_may_be_any_bytes_in_hex),
        TEST(depth_is_kept),
        TEST(what_is_not_there_exits_with_one),
        TEST(removed_keys_stay_removed),
        TEST(looking_works_beside_the_owner_and_writing_is_refused),
        TEST(writing_gives_up_nothing_that_was_there),
        TEST(a_value_too_large_for_the_ssd_is_not_said_to_be_stored),
        TEST(what_a_full_disk_did_not_take_is_not_said_to_be_stored),
        TEST(stat_of_the_whole_lists_statistics),
        TEST(fsck_is_clean_or_finds_what_is_damaged),
        TEST(fsck_of_what_is_no_directory_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
