/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who comes to the doors of a running cluster without belonging to it: a scan of its ports, random
 * bytes, greetings that are cut off, while clients put and get; and hundreds of clients at once.
 * The ports are those of the master (gRPC and fabric) and of the node.
 */
#include "support_cluster.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define OP_TIMEOUT_MS 4000u
#define PORTS 3u
static const char *const user_only[] = {"pool.serve", "false", "op_timeout_ms", "4000", NULL};

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

static void result_is_sound(struct test_load_result result)
{
    printf("%" PRIu64 " calls, %" PRIu64 " missing, %" PRIu64 " failed (%s), slowest %u ms\n",
           result.calls, result.missing, result.failed, umbp_status_name(result.failure),
           result.slowest_ms);
    assert_int_equal(result.wrong, 0);
    assert_int_equal(result.failed, 0);
    assert_true(test_is_slow() || result.slowest_ms <= OP_TIMEOUT_MS + 1000);
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
                                        "127.0.0.1",  "op_timeout_ms", "4000",
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
    assert_int_equal(test_member_get(&user, set).ok, set.count);
    test_member_end(&late);
    test_member_is_idle(&node);
    test_member_stat_becomes(&node, "fds", fds);
    test_member_end(&user);
    test_member_end(&node);
    test_master_stop(&master);
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_teardown(name, test_cluster_end)
    const struct CMUnitTest tests[] = {
        TEST(scans_and_random_bytes_at_every_port_do_no_harm_under_load),
    };
    cmocka_set_test_filter(getenv("UMBP_TEST_FILTER"));
    return test_member_wanted(argc, argv) ? test_member_main(argc, argv)
                                          : cmocka_run_group_tests(tests, NULL, NULL);
}
