/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who comes to the doors of a running cluster without belonging to it: a scan of its ports, random
 * bytes, greetings that are cut off, while clients put and get; and hundreds of clients at once.
 * The ports are those of the master (gRPC and fabric) and of the node.
 */
#include "support_cluster.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define OP_TIMEOUT_MS 30000u
#define PORTS 3u
static const char *const user_only[] = {"pool.serve", "false", "op_timeout_ms", "30000", NULL};

/* A port that was free a moment ago. */
static unsigned free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &bytes), 0);
    close(fd);
    return ntohs(at.sin_port);
}

static unsigned port_of(const char *address)
{
    const char *colon = strrchr(address, ':');
    assert_non_null(colon);
    return (unsigned)strtoul(colon + 1, NULL, 10);
}

static int knock(unsigned port)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    struct pollfd writable = {.fd = fd, .events = POLLOUT};
    (void)poll(&writable, 1, 1000);
    return fd;
}

/* Opens and goes; says something random, or what begins well; stays for a while, silent. */
static void visit(unsigned port, struct test_rng *rng, int *stays)
{
    static const char *const greetings[] = {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "UMBPSIGN\1\0\1\0",
                                            "GET / HTTP/1.1\r\n\r\n", "\3\1\0\x30\0\0\0\0",
                                            "\x16\3\1\2\0\1\0\1\xfc\3\3"};
    uint8_t bytes[3000];
    size_t count = (size_t)test_rng_below(rng, sizeof(bytes));
    int fd = knock(port);
    if (fd < 0) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        bytes[i] = (uint8_t)test_rng_next(rng);
    }
    uint64_t kind = test_rng_below(rng, 10);
    if (kind < 5) {
        size_t greeting = strlen(greetings[kind]) + 1;
        memcpy(bytes, greetings[kind], count < greeting ? count : greeting);
    }
    if (kind < 8) {
        (void)!send(fd, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    if (*stays >= 0) {
        close(*stays);
    }
    *stays = fd; /* until the next one takes its place */
}

struct found {
    struct test_member *member;
    struct test_set set;
};

static bool is_found(void *context)
{
    struct found *found = context;
    return test_member_get(found->member, found->set).ok == found->set.count;
}

static void result_is_sound(struct test_load_result result)
{
    printf("%" PRIu64 " calls, %" PRIu64 " missing, %" PRIu64 " failed (%s), slowest %u ms\n",
           result.calls, result.missing, result.failed, umbp_status_name(result.failure),
           result.slowest_ms);
    assert_int_equal(result.wrong, 0);
    assert_int_equal(result.failed, 0);
    assert_in_range(result.slowest_ms, 0, OP_TIMEOUT_MS + TEST_SLACK_MS);
}

/* Of a process that answers no questions. */
struct descriptors {
    pid_t pid;
    unsigned most;
};

static unsigned descriptors_of(pid_t pid)
{
    char path[40];
    unsigned count = 0;
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *folder = opendir(path);
    assert_non_null(folder);
    while (readdir(folder) != NULL) {
        count++;
    }
    closedir(folder);
    return count;
}

static bool are_closed(void *context)
{
    const struct descriptors *descriptors = context;
    return descriptors_of(descriptors->pid) <= descriptors->most;
}

static void scans_and_random_bytes_at_every_port_do_no_harm_under_load(void **state)
{
    struct test_master master;
    struct test_member node;
    struct test_member user;
    struct test_rng rng;
    char own_port[16];
    int stay[PORTS][8];
    (void)state;

    snprintf(own_port, sizeof(own_port), "%u", free_port());
    const char *const node_options[] = {"pool.port",  own_port,        "pool.address",
                                        "127.0.0.1",  "op_timeout_ms", "30000",
                                        "dram.bytes", "64MiB",         NULL};
    test_rng_init(&rng, 51);
    test_master_start(&master, NULL);
    test_member_start(&node, &master, node_options);
    test_member_start(&user, &master, user_only);
    unsigned ports[PORTS] = {port_of(master.address), port_of(master.fabric),
                             (unsigned)strtoul(own_port, NULL, 10)};
    memset(stay, -1, sizeof(stay));
    test_member_load(&user, 2, test_rng_next(&rng), 50);
    while (test_member_load_now(&user).calls < 50) {
        test_sleep_ms(5); /* whatever it opens, it has opened */
    }
    uint64_t fds = test_member_stat(&node, "fds");
    struct descriptors masters = {master.pid, descriptors_of(master.pid)};
    for (unsigned i = 0; i < (test_is_slow() ? 600 : 3000); i++) {
        unsigned which = i % PORTS;
        visit(ports[which], &rng, &stay[which][test_rng_below(&rng, 8)]);
    }
    for (unsigned i = 0; i < PORTS * 8; i++) {
        if (stay[i / 8][i % 8] >= 0) {
            close(stay[i / 8][i % 8]);
        }
    }
    struct test_load_result result = test_member_load_stop(&user);
    result_is_sound(result);
    assert_true(result.ok > 0);
    /* Strangers are welcome as little as before, and members as much. */
    struct test_member late;
    struct test_set set = {"late", 0, 50, 70000};
    test_member_start(&late, &master, user_only);
    assert_int_equal(test_member_put(&late, set).ok, set.count);
    struct found found = {&user, set};
    assert_true(test_wait_until(is_found, &found, TEST_WAIT_MS)); /* with the node's next beat */
    test_member_end(&late);
    test_member_is_idle(&node);
    test_member_stat_becomes(&node, "fds", fds);
    assert_true(test_wait_until(are_closed, &masters, TEST_WAIT_MS)); /* silent ones take 10 s */
    test_member_end(&user);
    test_member_end(&node);
    test_master_stop(&master);
}

/* --------------------------------------------------------------------- five hundred ----- */

/* Of clients in this process: made at once, used at once. */
struct crowd {
    pthread_t thread;
    pthread_barrier_t *barrier;
    const struct test_master *master;
    struct umbp_client *client;
    enum umbp_status status;
    struct test_tally put, get;
    unsigned number;
    unsigned tries;
};

static bool is_stored(void *context)
{
    struct crowd *self = context;
    char prefix[16];
    snprintf(prefix, sizeof(prefix), "crowd%u", self->number);
    struct test_set set = {prefix, 0, 4, 5000};
    if (self->tries++) {
        test_sleep_ms(500 + self->number); /* five hundred that ask all the time would be a load */
    }
    self->put = test_set_put(self->client, set);
    self->get = test_set_get(self->client, set);
    return self->get.ok == 4 || self->get.wrong;
}

static void *join_in(void *argument)
{
    struct crowd *self = argument;
    char error[256];
    const char *const options[] = {"scheme",
                                   "pool",
                                   "pool.masters",
                                   self->master->address,
                                   "pool.serve",
                                   "false",
                                   "copy.threads",
                                   "1",
                                   "log.level",
                                   "error",
                                   "pool.staging_bytes",
                                   "1MiB",
                                   "op_timeout_ms",
                                   "20000",
                                   NULL};
    pthread_barrier_wait(self->barrier);
    self->status = test_client_try(options, &self->client, error);
    if (self->status == UMBP_OK) {
        (void)test_wait_until(is_stored, self, 3 * TEST_WAIT_MS);
    }
    pthread_barrier_wait(self->barrier);
    return NULL;
}

/* 500, if this process may have that many descriptors, eleven a client; else it says so. */
static unsigned many(void)
{
    unsigned count = test_is_slow() ? 40 : 500;
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < 500 + 15ull * count) {
        count = limit.rlim_max > 1000 ? (unsigned)(limit.rlim_max - 500) / 15 : 20;
        print_message("only %u clients: %llu descriptors\n", count,
                      (unsigned long long)limit.rlim_max);
    }
    return count;
}

static void hundreds_of_clients_that_come_at_once_are_all_served(void **state)
{
    static const char *const node_options[] = {"dram.bytes", "64MiB", NULL};
    const unsigned count = many();
    struct test_master master;
    struct test_member node;
    struct crowd *crowd = calloc(count, sizeof(*crowd));
    pthread_barrier_t barrier;
    pthread_attr_t small;
    unsigned tries = 0;
    (void)state;

    test_master_start(&master, NULL);
    test_member_start(&node, &master, node_options);
    pthread_barrier_init(&barrier, NULL, count + 1);
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 256 << 10);
    for (unsigned i = 0; i < count; i++) {
        crowd[i] = (struct crowd){.barrier = &barrier, .master = &master, .number = i};
        assert_int_equal(pthread_create(&crowd[i].thread, &small, join_in, &crowd[i]), 0);
    }
    pthread_barrier_wait(&barrier);
    uint64_t began_ns = test_now_ns();
    pthread_barrier_wait(&barrier);
    printf("%u clients made, and used, in %.0f ms, %zu MiB, %u descriptors\n", count,
           (double)(test_now_ns() - began_ns) / 1e6, test_resident_bytes() >> 20, test_fd_count());
    for (unsigned i = 0; i < count; i++) {
        pthread_join(crowd[i].thread, NULL);
        assert_ok(crowd[i].status);
        tries += crowd[i].tries;
        assert_int_equal(crowd[i].get.ok, 4);
        assert_int_equal(crowd[i].get.wrong, 0);
    }
    printf("%u tries\n", tries); /* two cores may not do for all of them at once */
    for (unsigned i = 0; i < count; i++) {
        assert_ok(umbp_client_close(crowd[i].client, 0));
        umbp_client_destroy(crowd[i].client);
    }
    pthread_barrier_destroy(&barrier);
    pthread_attr_destroy(&small);
    free(crowd);
    test_member_is_idle(&node);
    test_member_end(&node);
    test_master_stop(&master);
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_teardown(name, test_cluster_end)
    const struct CMUnitTest tests[] = {
        TEST(scans_and_random_bytes_at_every_port_do_no_harm_under_load),
        TEST(hundreds_of_clients_that_come_at_once_are_all_served),
    };
    cmocka_set_test_filter(getenv("UMBP_TEST_FILTER"));
    return test_member_wanted(argc, argv) ? test_member_main(argc, argv)
                                          : cmocka_run_group_tests(tests, NULL, NULL);
}
