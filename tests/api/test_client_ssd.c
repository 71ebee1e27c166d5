/* SPDX-License-Identifier: Apache-2.0 */
/* The SSD tier as an application sees it: on a real file system, with both drivers. */
#include "support_client.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const drivers[] = {"auto", "posix"};
static const char *const durabilities[] = {"strict", "relaxed"};

struct place {
    char *directory;
    const char *options[48];
};

static struct place place_make(const char *const *more)
{
    struct place place = {.directory = test_dir_create()};
    const char *const base[] = {
        "dram.bytes", "8MiB",  "dram.prefault",     "false", "ssd.dir", place.directory,
        "ssd.bytes",  "32MiB", "ssd.segment_bytes", "1MiB",  NULL};
    size_t count = 0;
    for (const char *const *list = base; *list != NULL; list++) {
        place.options[count++] = *list;
    }
    for (; more != NULL && *more != NULL; more++) {
        place.options[count++] = *more;
    }
    return place;
}

static void warm_restart_serves_every_flushed_value_with_each_driver_and_durability(void **state)
{
    (void)state;
    for (unsigned kind = 0; kind < 4; kind++) {
        const char *const more[] = {"ssd.driver", drivers[kind % 2], "ssd.durability",
                                    durabilities[kind / 2], NULL};
        struct place place = place_make(more);
        char room[TEST_KEY_ROOM];
        for (uint64_t life = 0; life < 3; life++) {
            struct umbp_client *client = test_client(place.options);
            assert_int_equal(test_stat(client, "keys"), life * 50);
            for (uint64_t i = 0; i < life * 50; i++) {
                assert_ok(test_get(client, test_key_number(room, "k", i), 1000 + 997 * i, i));
            }
            for (uint64_t i = life * 50; i < life * 50 + 50; i++) {
                assert_ok(test_put(client, test_key_number(room, "k", i), 1000 + 997 * i, i));
            }
            assert_ok(umbp_flush(client, 0));
            umbp_client_destroy(client);
        }
        test_dir_remove(place.directory);
    }
}

static uint64_t bytes_on_disk(const char *directory)
{
    uint64_t bytes = 0;
    DIR *dir = opendir(directory);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char *path = test_path(directory, entry->d_name);
        struct stat info;
        if (stat(path, &info) == 0 && S_ISREG(info.st_mode)) {
            uint64_t blocks = (uint64_t)info.st_blocks * 512;
            bytes += (uint64_t)info.st_size > blocks ? (uint64_t)info.st_size : blocks;
        }
        free(path);
    }
    closedir(dir);
    return bytes;
}

static void the_files_stay_within_the_size_that_was_given(void **state)
{
    (void)state;
    for (unsigned kind = 0; kind < 2; kind++) {
        const char *const more[] = {"ssd.driver", drivers[kind], "ssd.durability", "relaxed", NULL};
        struct place place = place_make(more);
        struct umbp_client *client = test_client(place.options);
        char room[TEST_KEY_ROOM];
        const uint64_t all = test_is_slow() ? 1000 : 3000; /* 62 or 187 MiB through 32 */
        for (uint64_t i = 0; i < all; i++) {
            assert_ok(test_put(client, test_key_number(room, "k", i), 65536, i));
            if (i % 50 == 49) { /* before memory forgets what is not copied yet */
                assert_ok(umbp_flush(client, 0));
                /* The super file and the lock are a few blocks beside. */
                assert_in_range(bytes_on_disk(place.directory), 0, (32u << 20) + 65536);
            }
        }
        for (uint64_t i = all - 150; i < all; i++) {
            assert_ok(test_get(client, test_key_number(room, "k", i), 65536, i));
        }
        assert_status(test_get(client, test_key_number(room, "k", 1), 65536, 1), UMBP_NOT_FOUND);
        umbp_client_destroy(client);
        assert_in_range(bytes_on_disk(place.directory), 0, (32u << 20) + 65536);
        test_dir_remove(place.directory);
    }
}

static void a_cleared_client_leaves_an_empty_directory_for_the_next(void **state)
{
    struct place place = place_make(NULL);
    struct umbp_client *client = test_client(place.options);
    char room[TEST_KEY_ROOM];
    (void)state;
    for (uint64_t i = 0; i < 100; i++) {
        assert_ok(test_put(client, test_key_number(room, "k", i), 65536, i));
    }
    assert_ok(umbp_flush(client, 0));
    assert_ok(umbp_clear(client));
    umbp_client_destroy(client);
    assert_in_range(bytes_on_disk(place.directory), 0, 2u << 20);
    client = test_client(place.options);
    assert_int_equal(test_stat(client, "keys"), 0);
    umbp_client_destroy(client);
    test_dir_remove(place.directory);
}

static void keys_of_every_kind_and_values_of_every_size_survive_a_restart(void **state)
{
    static const uint64_t sizes[] = {0,     1,     64,    4000,  4095,   4096,  4097,
                                     65535, 65536, 65537, 70000, 500000, 999999};
    struct place place = place_make(NULL);
    struct umbp_client *client = test_client(place.options);
    unsigned char key[UMBP_KEY_BYTES_MAX];
    (void)state;
    test_fill(key, sizeof(key), 3);
    key[1] = 0;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        size_t bytes = i == 12 ? sizeof(key) : 1 + i * 80;
        assert_ok(test_put(client, test_key_bytes(key, bytes), sizes[i], i));
    }
    umbp_client_destroy(client);
    client = test_client(place.options);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        size_t bytes = i == 12 ? sizeof(key) : 1 + i * 80;
        assert_ok(test_get(client, test_key_bytes(key, bytes), sizes[i], i));
    }
    umbp_client_destroy(client);
    test_dir_remove(place.directory);
}

static void a_directory_that_vanishes_leaves_memory_to_serve(void **state)
{
    struct place place = place_make(NULL);
    struct umbp_client *client = test_client(place.options);
    char command[512];
    char room[TEST_KEY_ROOM];
    (void)state;
    for (uint64_t i = 0; i < 40; i++) {
        assert_ok(test_put(client, test_key_number(room, "k", i), 65536, i));
    }
    assert_ok(umbp_flush(client, 0));
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", place.directory);
    assert_int_equal(system(command), 0);
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    for (uint64_t i = 40; i < 600; i++) { /* four times the memory, more than the SSD */
        assert_ok(test_put(client, test_key_number(room, "k", i), 65536, i));
        assert_ok(test_get(client, test_key_number(room, "k", i), 65536, i));
    }
    (void)!umbp_flush(client, 0);
    for (uint64_t i = 0; i < 600; i++) {
        enum umbp_status status = test_get(client, test_key_number(room, "k", i), 65536, i);
        assert_true(status == UMBP_OK || status == UMBP_NOT_FOUND || status == UMBP_IO);
    }
    (void)!umbp_clear(client); /* the SSD's part of it may fail, memory's does not */
    assert_status(umbp_exists(client, test_key("k-599")), UMBP_NOT_FOUND);
    (void)!umbp_client_close(client, 0);
    umbp_client_destroy(client);
    umbp_log_set(UMBP_LOG_WARN, NULL, NULL);
    client = test_client(place.options); /* made anew */
    assert_int_equal(test_stat(client, "keys"), 0);
    umbp_client_destroy(client);
    test_dir_remove(place.directory);
}

static void a_follower_client_reads_what_its_leader_flushed_and_refuses_to_write(void **state)
{
    const char *const more[] = {"role", "leader", NULL};
    struct place place = place_make(more);
    struct umbp_client *leader = test_client(place.options);
    const char *const options[] = {"dram.bytes",       "2MiB", "ssd.dir",
                                   place.directory,    "role", "follower",
                                   "follower.poll_ms", "5",    NULL};
    struct umbp_client *follower = test_client(options);
    struct umbp_put_item items[2] = {{.key = test_key("x"), .data = "1", .bytes = 1},
                                     {.key = test_key("y"), .data = "2", .bytes = 1}};
    enum umbp_status statuses[2];
    char room[TEST_KEY_ROOM];
    (void)state;
    for (uint64_t i = 0; i < 60; i++) {
        assert_ok(test_put(leader, test_key_number(room, "k", i), 30000, i));
    }
    assert_ok(umbp_flush(leader, 0));
    test_stat_becomes(follower, "keys", 60);
    for (uint64_t i = 0; i < 60; i++) {
        assert_ok(test_get(follower, test_key_number(room, "k", i), 30000, i));
    }
    assert_status(test_put(follower, test_key("x"), 10, 1), UMBP_READ_ONLY);
    assert_status(umbp_remove(follower, test_key_number(room, "k", 1)), UMBP_READ_ONLY);
    assert_status(umbp_batch_put(follower, items, 2, statuses), UMBP_READ_ONLY);
    assert_int_equal(statuses[0], UMBP_READ_ONLY);
    assert_int_equal(statuses[1], UMBP_READ_ONLY);
    assert_ok(umbp_flush(follower, 0));
    umbp_client_destroy(follower);
    assert_ok(umbp_remove(leader, test_key_number(room, "k", 1)));
    umbp_client_destroy(leader);
    test_dir_remove(place.directory);
}

/* The child has the lock file open too. */
static void a_child_that_lives_on_does_not_keep_the_directory_locked(void **state)
{
    (void)state;
    struct place place = place_make(NULL);
    struct umbp_client *client = test_client(place.options);
    int until[2];
    char byte;
    int status = 0;
    assert_int_equal(pipe(until), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(until[1]);
        _exit(read(until[0], &byte, 1) == 0 ? 0 : 1);
    }
    umbp_client_destroy(client);
    struct umbp_client *second = NULL;
    char error[256] = "";
    enum umbp_status again = test_client_try(place.options, &second, error);
    close(until[0]);
    close(until[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_ok(again);
    umbp_client_destroy(second);
    test_dir_remove(place.directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_restart_serves_every_flushed_value_with_each_driver_and_durability),
        cmocka_unit_test(the_files_stay_within_the_size_that_was_given),
        cmocka_unit_test(a_cleared_client_leaves_an_empty_directory_for_the_next),
        cmocka_unit_test(keys_of_every_kind_and_values_of_every_size_survive_a_restart),
        cmocka_unit_test(a_directory_that_vanishes_leaves_memory_to_serve),
        cmocka_unit_test(a_follower_client_reads_what_its_leader_flushed_and_refuses_to_write),
        cmocka_unit_test(a_child_that_lives_on_does_not_keep_the_directory_locked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
