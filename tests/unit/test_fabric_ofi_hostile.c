/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer that knows the door (cluster, seed, version) and libfabric's framing on tcp, and says
 * nonsense in our own frames: seeded random kinds, flags, lengths, bodies, checksums, at every
 * stage of the handshake. Nothing crashes, blocks or leaks, and an honest client is served all the
 * time.
 */
#include "fabric_rig.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fabric/fabric_ofi_priv.h"

/* libfabric 1.17's tcp provider: its connection header and its message header. */
struct provider_control {
    uint8_t version;
    uint8_t type;
    uint16_t bytes; /* big-endian */
    uint32_t unused;
    uint64_t unused2[2];
    uint64_t endian;
};
struct provider_message {
    uint8_t version;
    uint8_t op;
    uint16_t flags;
    uint8_t op_data;
    uint8_t count;
    uint8_t header_bytes;
    uint8_t unused;
    uint64_t bytes;
};

static struct test_rng rng;

static uint64_t below(uint64_t bound) { return test_rng_below(&rng, bound); }

static int raw_connect(const char *address)
{
    const char *colon = strrchr(address, ':');
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10))};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return fd;
}

static bool receive(int fd, void *data, size_t bytes)
{
    size_t got = 0;
    while (got < bytes) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        if (poll(&poll_fd, 1, TEST_WAIT_MS) != 1) {
            return false;
        }
        ssize_t part = recv(fd, (char *)data + got, bytes - got, 0);
        if (part <= 0) {
            return false;
        }
        got += (size_t)part;
    }
    return true;
}

static struct wire_door good_door(void)
{
    struct wire_door door = {
        .magic = WIRE_MAGIC,
        .version_low = WIRE_VERSION_LOW,
        .version_high = WIRE_VERSION_HIGH,
        .cluster = hash_bytes("", 0, 0),
        .tag = test_rng_next(&rng),
    };
    door.crc = crc32c(0, &door, offsetof(struct wire_door, crc));
    return door;
}

/* The door's answer: false if it was refused. */
static bool knock(int fd, const struct wire_door *door, struct wire_door *answer_out)
{
    struct provider_control control = {.version = 3, .bytes = htons(sizeof(*door)), .endian = 1};
    char both[sizeof(control) + sizeof(*door)];
    memcpy(both, &control, sizeof(control));
    memcpy(both + sizeof(control), door, sizeof(*door));
    assert_int_equal(send(fd, both, sizeof(both), MSG_NOSIGNAL), sizeof(both));
    if (!receive(fd, &control, sizeof(control)) || ntohs(control.bytes) != sizeof(*answer_out) ||
        !receive(fd, answer_out, sizeof(*answer_out))) {
        return false;
    }
    return control.type == 1;
}

static void say(int fd, struct wire_frame frame, const void *body, uint64_t tag, unsigned damage)
{
    char message[sizeof(struct provider_message) + sizeof(frame) + 4096];
    struct provider_message header = {
        .version = 3,
        .header_bytes = sizeof(header),
        .bytes = sizeof(header) + sizeof(frame) + frame.bytes,
    };
    size_t body_bytes = frame.bytes;
    frame.magic = WIRE_MAGIC;
    frame.tag = tag;
    if (damage == 1) {
        frame.bytes += 1 + (uint32_t)below(1u << 31);
    } else if (damage == 2) {
        frame.tag ^= UINT64_C(1) << below(64);
    } else if (damage == 3) {
        frame.magic ^= 1u << below(32);
    }
    frame.crc = crc32c(0, &frame, offsetof(struct wire_frame, crc));
    if (damage == 4) {
        frame.crc ^= 1u << below(32);
    }
    memcpy(message, &header, sizeof(header));
    memcpy(message + sizeof(header), &frame, sizeof(frame));
    memcpy(message + sizeof(header) + sizeof(frame), body, body_bytes);
    ssize_t sent =
        send(fd, message, sizeof(header) + sizeof(frame) + body_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)sent; /* it may have hung up on us */
}

static void say_hello(int fd, uint64_t tag)
{
    struct wire_hello hello = {.version_low = 1,
                               .version_high = 1,
                               .identity_bytes = 1,
                               .address_bytes = 0,
                               .beat_ms = 500,
                               .peer_timeout_ms = 3000};
    char body[sizeof(hello) + 1];
    memcpy(body, &hello, sizeof(hello));
    body[sizeof(hello)] = 'h';
    say(fd, (struct wire_frame){.kind = WIRE_HELLO, .bytes = sizeof(body)}, body, tag, 0);
}

static void say_nonsense(int fd, uint64_t tag)
{
    uint8_t body[4096];
    struct wire_frame frame = {
        .kind = (uint8_t)(below(10) ? 1 + below(14) : below(256)),
        .flags = (uint8_t)(below(3) ? 0 : below(256)),
        .status = (uint16_t)below(40),
        .id = below(3) ? below(5) << 32 | below(1030) : test_rng_next(&rng),
        .left_ms = (uint32_t)test_rng_next(&rng),
        .bytes = (uint32_t)(below(4) ? below(100) : below(sizeof(body))),
    };
    for (size_t i = 0; i < sizeof(body); i++) {
        body[i] = (uint8_t)test_rng_next(&rng);
    }
    switch (below(4)) {
    case 0: { /* a large message of a plausible size */
        struct wire_big big = {test_rng_next(&rng), below(FABRIC_MESSAGE_MAX + 100000)};
        memcpy(body, &big, sizeof(big));
        frame.kind = below(2) ? WIRE_REQUEST : WIRE_REPLY;
        frame.flags = WIRE_BIG;
        frame.bytes = sizeof(big);
        break;
    }
    case 1: /* whole rows */
        frame.kind = WIRE_READ;
        frame.bytes = (uint32_t)(sizeof(struct wire_row) * below(70));
        break;
    default:
        break;
    }
    say(fd, frame, body, tag, below(4) ? 0 : (unsigned)below(5));
}

static void open_end(struct rig_end *end, const char *listen)
{
    struct fabric_handlers handlers = rig_handlers(end);
    struct fabric_options options = {.struct_bytes = sizeof(options),
                                     .provider = "tcp",
                                     .listen = listen,
                                     .identity = "honest",
                                     .identity_bytes = 6,
                                     .handshake_ms = 3000};
    assert_ok(fabric_open(&options, &handlers, NULL, 0, &end->fabric));
}

static void is_served(struct rig_end *client, fabric_peer peer)
{
    struct rig_wait wait;
    assert_ok(rig_call_start(&wait, client, peer, "abc", 3, TEST_WAIT_MS, false));
    rig_settle(&wait);
    assert_status(wait.status, UMBP_OK);
    assert_memory_equal(wait.data, "cba", 3);
    free(wait.data);
}

static bool only_one_is_left(void *context)
{
    struct fabric_stats stats;
    fabric_stats(((struct rig_end *)context)->fabric, &stats);
    return stats.peers_now == 1 && stats.requests_now == 0;
}

static bool fds_are_back(void *context) { return test_fd_count() == *(unsigned *)context; }

static void nonsense_in_frames_hurts_nobody_else(void **state)
{
    struct rig_end server;
    struct rig_end client;
    fabric_peer peer = 0;
    (void)state;
    test_rng_init(&rng, 11);
    open_end(&server, "127.0.0.1:0");
    open_end(&client, NULL);
    assert_ok(rig_connect(&client, fabric_address(server.fabric), &peer));
    is_served(&client, peer); /* both have by now mapped what the other shares, by a descriptor */
    unsigned fds = test_fd_count();
    for (unsigned round = 0; round < (test_is_slow() ? 100u : 400u); round++) {
        int fd = raw_connect(fabric_address(server.fabric));
        struct wire_door door = good_door();
        struct wire_door answer;
        assert_true(knock(fd, &door, &answer));
        unsigned stage = round % 4; /* how much of the handshake is done properly */
        if (stage > 0) {
            say_hello(fd, answer.tag);
        }
        if (stage > 1) {
            say(fd, (struct wire_frame){.kind = WIRE_READY}, "", answer.tag, 0);
        }
        for (unsigned i = 0; i < 1 + below(12); i++) {
            say_nonsense(fd, answer.tag);
        }
        if (round % 10 == 0) {
            is_served(&client, peer);
        }
        close(fd);
    }
    is_served(&client, peer);
    assert_true(test_wait_until(only_one_is_left, &server, TEST_WAIT_MS));
    assert_true(test_wait_until(fds_are_back, &fds, TEST_WAIT_MS));
    fabric_destroy(client.fabric);
    fabric_destroy(server.fabric);
}

static void a_door_that_does_not_fit_is_refused(void **state)
{
    struct rig_end server;
    (void)state;
    test_rng_init(&rng, 12);
    open_end(&server, "127.0.0.1:0");
    for (unsigned what = 0; what < 5; what++) {
        static const enum umbp_status expected[] = {UMBP_VERSION, UMBP_VERSION, UMBP_STALE,
                                                    UMBP_CORRUPT, UMBP_CORRUPT};
        struct wire_door door = good_door();
        struct wire_door answer = {0};
        if (what == 0) {
            door.version_low = door.version_high = 2; /* from the future */
        } else if (what == 1) {
            door.version_low = door.version_high = 0;
        } else if (what == 2) {
            door.cluster ^= 1;
        } else if (what == 3) {
            door.magic ^= 1;
        }
        door.crc = crc32c(0, &door, offsetof(struct wire_door, crc)) ^ (what == 4);
        int fd = raw_connect(fabric_address(server.fabric));
        assert_false(knock(fd, &door, &answer));
        assert_int_equal(answer.status, expected[what]);
        close(fd);
    }
    assert_int_equal(server.ups, 0);
    fabric_destroy(server.fabric);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_door_that_does_not_fit_is_refused),
        cmocka_unit_test(nonsense_in_frames_hurts_nobody_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
