/* SPDX-License-Identifier: Apache-2.0 */
/* Clients that can't be: a clear status, a sentence, and not a file, thread or descriptor left. */
#include "support_client.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned count_files(const char *path)
{
    DIR *dir = opendir(path);
    unsigned count = 0;
    if (dir == NULL) {
        return 0;
    }
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    }
    closedir(dir);
    return count;
}

/* The attempt fails so, names `mention`, and leaves everything as it was. */
static void assert_refused(const char *const *options, enum umbp_status want, const char *mention)
{
    struct umbp_client *client = NULL;
    char error[256] = "";
    struct test_holdings before = test_holdings();
    enum umbp_status status = test_client_try(options, &client, error);
    if (status != want) {
        fail_msg("%s instead of %s: %s", umbp_status_name(status), umbp_status_name(want), error);
    }
    assert_null(client);
    if (mention != NULL && strstr(error, mention) == NULL) {
        fail_msg("\"%s\" does not mention %s", error, mention);
    }
    assert_true(strlen(error) > 10);
    test_holdings_are_back(before);
}

static void what_contradicts_itself_is_refused_and_named(void **state)
{
    static const struct {
        const char *options[9];
        const char *mention;
    } bad[] = {
        {{"dram.low_watermark", "0.9", "dram.high_watermark", "0.5"}, "dram.low_watermark"},
        {{"dram.bytes", "1MiB", "dram.page_bytes", "2MiB"}, "dram.page_bytes"},
        {{"dram.bytes", "1MiB", "dram.buffers", "64"}, "dram.buffers"},
        {{"role", "follower"}, "ssd.dir"},
        {{"role", "leader"}, "ssd.dir"},
        {{"ssd.enabled", "true"}, "ssd.dir"},
        {{"ssd.enabled", "true", "ssd.dir", "/tmp", "ssd.bytes", "0"}, "ssd.bytes"},
        {{"ssd.dir", "/tmp/x", "ssd.bytes", "1MiB", "ssd.segment_bytes", "1MiB"},
         "ssd.segment_bytes"},
        {{"scheme", "pool"}, "pool.masters"},
        {{"scheme", "pool", "pool.masters", "a:1", "pool.beat_ms", "900", "pool.peer_timeout_ms",
          "2699"},
         "pool.peer_timeout_ms"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_refused(bad[i].options, UMBP_INVALID_VALUE, bad[i].mention);
    }
}

static void a_scheme_that_is_not_built_in_is_refused(void **state)
{
    static const char *const process[] = {"scheme", "process", NULL};
    (void)state;
    assert_refused(process, UMBP_UNSUPPORTED, "local");
#ifndef UMBP_HAVE_FABRIC
    static const char *const pool[] = {"scheme", "pool", "pool.masters", "127.0.0.1:1", NULL};
    assert_refused(pool, UMBP_UNSUPPORTED, "local");
#endif
}

static void missing_arguments_are_refused(void **state)
{
    static const char *const none[] = {NULL};
    struct umbp_config *config = test_config(none);
    struct umbp_client *client = NULL;
    char error[64] = "";
    (void)state;
    assert_status(umbp_client_create(NULL, &client, error, sizeof(error)), UMBP_INVALID_VALUE);
    assert_true(error[0] != '\0');
    assert_status(umbp_client_create(config, NULL, error, sizeof(error)), UMBP_INVALID_VALUE);
    assert_status(umbp_client_create(NULL, NULL, NULL, 0), UMBP_INVALID_VALUE);
    umbp_config_destroy(config);
}

static void the_error_text_fits_any_room(void **state)
{
    static const char *const options[] = {"scheme", "process", NULL};
    struct umbp_config *config = test_config(options);
    struct umbp_client *client = NULL;
    char error[8];
    (void)state;
    for (size_t room = 0; room < sizeof(error); room++) {
        memset(error, 'x', sizeof(error));
        assert_status(umbp_client_create(config, &client, error, room), UMBP_UNSUPPORTED);
        assert_int_equal(error[room], 'x');
        if (room > 0) {
            assert_int_equal(strnlen(error, room), room - 1);
        }
    }
    umbp_config_destroy(config);
}

static void more_memory_than_there_is_is_refused(void **state)
{
    static const char *const options[] = {"dram.bytes", "60TiB", "dram.prefault", "false", NULL};
    struct umbp_client *client = NULL;
    char error[256] = "";
    (void)state;
    if (test_is_slow()) {
        skip(); /* sanitizers have their own idea of address space */
    }
    enum umbp_status status = test_client_try(options, &client, error);
    if (status == UMBP_OK) { /* a system that promises everything */
        umbp_client_destroy(client);
        skip();
    }
    assert_status(status, UMBP_NO_MEMORY);
    assert_refused(options, UMBP_NO_MEMORY, NULL);
}

/* ---- directories ---- */

#define WITH_SSD(path)                                                                             \
    {                                                                                              \
        "dram.bytes", "1MiB", "ssd.dir", (path), "ssd.bytes", "16MiB", NULL                        \
    }

static void a_directory_whose_parent_is_missing_is_refused(void **state)
{
    char *directory = test_dir_create();
    char *path = test_path(directory, "not/there");
    const char *const options[] = WITH_SSD(path);
    (void)state;
    assert_refused(options, UMBP_NOT_FOUND, path);
    assert_int_equal(count_files(directory), 0);
    free(path);
    test_dir_remove(directory);
}

static void a_file_in_the_place_of_the_directory_is_refused_and_untouched(void **state)
{
    char *directory = test_dir_create();
    char *path = test_path(directory, "file");
    const char *const options[] = WITH_SSD(path);
    struct umbp_client *client = NULL;
    struct stat info;
    char error[256] = "";
    (void)state;
    FILE *file = fopen(path, "w");
    fputs("mine", file);
    fclose(file);
    assert_int_not_equal(test_client_try(options, &client, error), UMBP_OK);
    assert_non_null(strstr(error, path));
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, 4);
    free(path);
    test_dir_remove(directory);
}

/* In a child: nothing is read-only to root, so it becomes somebody else first. */
static int try_as_nobody(const char *directory)
{
    const char *const options[] = WITH_SSD(directory);
    struct umbp_client *client = NULL;
    char error[256] = "";
    if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) {
        return 2;
    }
    enum umbp_status status = test_client_try(options, &client, error);
    if (status != UMBP_READ_ONLY || strstr(error, directory) == NULL) {
        fprintf(stderr, "%s: %s\n", umbp_status_name(status), error);
        return 1;
    }
    return 0;
}

static void a_directory_that_may_not_be_written_is_refused(void **state)
{
    char *directory = test_dir_create();
    int status = -1;
    (void)state;
    assert_int_equal(chmod(directory, 0555), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        _exit(try_as_nobody(directory));
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(chmod(directory, 0700), 0);
    assert_int_equal(count_files(directory), 0);
    test_dir_remove(directory);
}

/* Makes a store's directory with one flushed value. */
static void make_directory(const char *path)
{
    const char *const options[] = WITH_SSD(path);
    struct umbp_client *client = test_client(options);
    assert_ok(test_put(client, test_key("kept"), 5000, 1));
    assert_ok(umbp_flush(client, 0));
    umbp_client_destroy(client);
}

static void flip(const char *directory, const char *name, off_t at, unsigned char with)
{
    char *path = test_path(directory, name);
    unsigned char byte = 0;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= with;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
    free(path);
}

static void a_damaged_super_file_is_refused_until_it_is_right_again(void **state)
{
    char *directory = test_dir_create();
    const char *const options[] = WITH_SSD(directory);
    (void)state;
    make_directory(directory);
    unsigned before = count_files(directory);
    /* A copy may save it: whatever is done, it is either refused or wholly there. */
    for (off_t at = 0; at < 64; at++) {
        struct umbp_client *client = NULL;
        char error[256] = "";
        flip(directory, "umbp.super", at, 0x11);
        enum umbp_status status = test_client_try(options, &client, error);
        if (status == UMBP_OK) {
            assert_ok(test_get(client, test_key("kept"), 5000, 1));
            umbp_client_destroy(client);
            make_directory(directory);
            before = count_files(directory);
            continue;
        }
        assert_true(status == UMBP_CORRUPT || status == UMBP_VERSION);
        assert_non_null(strstr(error, directory));
        assert_int_equal(count_files(directory), before);
        flip(directory, "umbp.super", at, 0x11);
    }
    struct umbp_client *client = test_client(options);
    assert_ok(test_get(client, test_key("kept"), 5000, 1));
    umbp_client_destroy(client);
    test_dir_remove(directory);
}

static void a_second_owner_is_refused_and_the_first_serves_on(void **state)
{
    char *directory = test_dir_create();
    const char *const options[] = WITH_SSD(directory);
    const char *const leader[] = {"dram.bytes", "1MiB", "ssd.dir", directory, "ssd.bytes",
                                  "16MiB",      "role", "leader",  NULL};
    struct umbp_client *client = test_client(options);
    (void)state;
    assert_refused(options, UMBP_LOCKED, directory);
    assert_refused(leader, UMBP_LOCKED, directory);
    assert_ok(test_put(client, test_key("k"), 100, 1));
    assert_ok(umbp_flush(client, 0));
    umbp_client_destroy(client);
    client = test_client(leader);
    assert_ok(test_get(client, test_key("k"), 100, 1));
    umbp_client_destroy(client);
    test_dir_remove(directory);
}

static void a_follower_of_nothing_is_refused(void **state)
{
    char *directory = test_dir_create();
    char *path = test_path(directory, "missing");
    const char *const options[] = {"dram.bytes", "1MiB", "ssd.dir", path, "role", "follower", NULL};
    (void)state;
    assert_refused(options, UMBP_NOT_FOUND, path);
    assert_int_equal(count_files(directory), 0);
    free(path);
    test_dir_remove(directory);
}

static void the_configuration_may_go_before_the_client(void **state)
{
    char *directory = test_dir_create();
    const char *const options[] = WITH_SSD(directory);
    struct umbp_config *config = test_config(options);
    struct umbp_client *client = NULL;
    (void)state;
    assert_ok(umbp_client_create(config, &client, NULL, 0));
    assert_ok(umbp_config_set(config, "dram.bytes", "2MiB"));
    assert_int_equal(test_stat(client, "dram.bytes_total"), 1 << 20);
    umbp_config_destroy(config);
    assert_ok(test_put(client, test_key("k"), 100, 1));
    assert_ok(test_get(client, test_key("k"), 100, 1));
    umbp_client_destroy(client);
    test_dir_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_contradicts_itself_is_refused_and_named),
        cmocka_unit_test(a_scheme_that_is_not_built_in_is_refused),
        cmocka_unit_test(missing_arguments_are_refused),
        cmocka_unit_test(the_error_text_fits_any_room),
        cmocka_unit_test(more_memory_than_there_is_is_refused),
        cmocka_unit_test(a_directory_whose_parent_is_missing_is_refused),
        cmocka_unit_test(a_file_in_the_place_of_the_directory_is_refused_and_untouched),
        cmocka_unit_test(a_directory_that_may_not_be_written_is_refused),
        cmocka_unit_test(a_damaged_super_file_is_refused_until_it_is_right_again),
        cmocka_unit_test(a_second_owner_is_refused_and_the_first_serves_on),
        cmocka_unit_test(a_follower_of_nothing_is_refused),
        cmocka_unit_test(the_configuration_may_go_before_the_client),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
