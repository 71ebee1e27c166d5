/* SPDX-License-Identifier: Apache-2.0 */
#include "support_client.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATS_MAX 256

struct umbp_config *test_config(const char *const *options)
{
    struct umbp_config *config = NULL;
    assert_ok(umbp_config_create(&config));
    /* What a client has yet to write as it ends is written on a slow disk, too. */
    assert_ok(umbp_config_set(config, "close_timeout_ms", "60000"));
    for (; *options != NULL; options += 2) {
        if (umbp_config_set(config, options[0], options[1]) != UMBP_OK) {
            fail_msg("%s = %s: %s", options[0], options[1], umbp_config_error(config));
        }
    }
    return config;
}

enum umbp_status test_client_try(const char *const *options, struct umbp_client **client_out,
                                 char *error_out)
{
    struct umbp_config *config = test_config(options);
    enum umbp_status status = umbp_client_create(config, client_out, error_out, 256);
    umbp_config_destroy(config);
    return status;
}

struct umbp_client *test_client(const char *const *options)
{
    char error[256];
    struct umbp_client *client = NULL;
    enum umbp_status status = test_client_try(options, &client, error);
    if (status != UMBP_OK) {
        fail_msg("no client: %s: %s", umbp_status_name(status), error);
    }
    return client;
}

struct umbp_key test_key(const char *text) { return test_key_bytes(text, strlen(text)); }

struct umbp_key test_key_number(char room[TEST_KEY_ROOM], const char *prefix, uint64_t number)
{
    int bytes = snprintf(room, TEST_KEY_ROOM, "%s-%" PRIu64, prefix, number);
    assert_in_range(bytes, 1, TEST_KEY_ROOM - 1);
    return test_key_bytes(room, (size_t)bytes);
}

enum umbp_status test_put(struct umbp_client *client, struct umbp_key key, uint64_t bytes,
                          uint64_t tag)
{
    void *data = malloc(bytes + 1);
    test_fill(data, bytes, tag);
    enum umbp_status status = umbp_put(client, key, data, bytes, UMBP_DEPTH_NONE);
    free(data);
    return status;
}

enum umbp_status test_get(struct umbp_client *client, struct umbp_key key, uint64_t bytes,
                          uint64_t tag)
{
    void *data = malloc(bytes + 1);
    memset(data, 0xA5, bytes + 1);
    enum umbp_status status = umbp_get(client, key, data, bytes);
    bool right = status != UMBP_OK || test_check_fill(data, bytes, tag);
    bool inside = ((unsigned char *)data)[bytes] == 0xA5;
    free(data);
    assert_true(right);
    assert_true(inside); /* nothing is written behind the value */
    return status;
}

uint64_t test_stat(struct umbp_client *client, const char *name)
{
    struct umbp_stat_value values[STATS_MAX];
    size_t count = 0;
    assert_ok(umbp_stats(client, values, STATS_MAX, &count));
    assert_true(count <= STATS_MAX);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(values[i].name, name) == 0) {
            return values[i].value;
        }
    }
    fail_msg("no statistic \"%s\"", name);
    return 0;
}

struct stat_wait {
    struct umbp_client *client;
    const char *name;
    uint64_t value;
    bool at_least;
};

static bool stat_is_there(void *context)
{
    struct stat_wait *wait = context;
    uint64_t now = test_stat(wait->client, wait->name);
    return wait->at_least ? now >= wait->value : now == wait->value;
}

static void wait_for_stat(struct stat_wait wait)
{
    if (!test_wait_until(stat_is_there, &wait, TEST_WAIT_MS)) {
        fail_msg("%s is %" PRIu64 ", not %" PRIu64 "%s", wait.name,
                 test_stat(wait.client, wait.name), wait.value, wait.at_least ? " or more" : "");
    }
}

void test_stat_becomes(struct umbp_client *client, const char *name, uint64_t value)
{
    wait_for_stat((struct stat_wait){client, name, value, false});
}

void test_stat_reaches(struct umbp_client *client, const char *name, uint64_t value)
{
    wait_for_stat((struct stat_wait){client, name, value, true});
}

static void *do_nothing(void *context) { return context; }

/* ThreadSanitizer adds a thread of its own beside the first one that is made. */
static void make_first_thread(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, do_nothing, NULL) == 0) {
        pthread_join(thread, NULL);
    }
}

struct test_holdings test_holdings(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_first_thread);
    return (struct test_holdings){test_fd_count(), test_thread_count()};
}

void test_holdings_are_back(struct test_holdings before)
{
    if (!test_threads_settle(before.threads)) {
        fail_msg("%u threads before, %u after", before.threads, test_thread_count());
    }
    assert_int_equal(test_fd_count(), before.fds);
}
