/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the one address that a user gives, the master's gRPC address, to its fabric door. The
 * master's listener tells callers by their first bytes, so one short TCP exchange suffices and no
 * gRPC is needed in this process.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/client_priv.h"
#include "proto/proto.h"

#define HOST_BYTES 256u
#define PORT_BYTES 8u

struct asked {
    const struct client_door_question *question;
    char host[HOST_BYTES];
    char port[PORT_BYTES];
    uint64_t deadline_ns;
};

/* "host:port" or "[host]:port". */
static bool split(const char *address, char host[HOST_BYTES], char port[PORT_BYTES])
{
    const char *colon = strrchr(address, ':');
    uint64_t number;
    if (!colon || !units_parse_count(colon + 1, &number) || !number || number > UINT16_MAX) {
        return false;
    }
    const char *from = address;
    size_t bytes = (size_t)(colon - address);
    if (bytes > 1 && from[0] == '[' && from[bytes - 1] == ']') {
        from++;
        bytes -= 2;
    }
    if (!bytes || bytes >= HOST_BYTES) {
        return false;
    }
    memcpy(host, from, bytes);
    host[bytes] = '\0';
    (void)snprintf(port, PORT_BYTES, "%u", (unsigned)number);
    return true;
}

static int join(const char *host, const char *port, char *address, size_t bytes)
{
    return snprintf(address, bytes, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

static int left_ms(const struct asked *asked)
{
    uint64_t left_ns = clock_left_ns(clock_monotonic(), asked->deadline_ns);
    return (int)u64_min(div_round_up(left_ns, NS_PER_MS), INT32_MAX);
}

static bool wait_for(const struct asked *asked, int fd, short what)
{
    for (;;) {
        struct pollfd fds[] = {{.fd = fd, .events = what},
                               {.fd = asked->question->stop_fd, .events = POLLIN}};
        int ready = poll(fds, ARRAY_COUNT(fds), left_ms(asked));
        if (ready > 0) {
            return !fds[1].revents;
        }
        if (ready == 0 || errno != EINTR) {
            return false;
        }
    }
}

/* A connected socket, or -1 and why. */
static int dial(const struct asked *asked, char *why_out, size_t why_bytes)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *found = NULL;
    int fd = -1;

    int rc = getaddrinfo(asked->host, asked->port, &hints, &found);
    if (rc != 0) {
        (void)snprintf(why_out, why_bytes, "the host is not known (%s)", gai_strerror(rc));
        return -1;
    }
    for (struct addrinfo *at = found; at && fd < 0; at = at->ai_next) {
        int error = 0;
        socklen_t bytes = sizeof(error);
        fd = socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            (void)snprintf(why_out, why_bytes, "%s", strerror(errno));
            continue;
        }
        bool up = connect(fd, at->ai_addr, at->ai_addrlen) == 0 ||
                  (errno == EINPROGRESS && wait_for(asked, fd, POLLOUT) &&
                   getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes) == 0 && error == 0);
        if (!up) {
            error = error ? error : errno == EINPROGRESS ? ETIMEDOUT : errno;
            (void)snprintf(why_out, why_bytes, "%s", strerror(error));
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    return fd;
}

static bool send_all(const struct asked *asked, int fd, const uint8_t *data, size_t bytes)
{
    while (bytes) {
        ssize_t sent = send(fd, data, bytes, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) {
            if (!wait_for(asked, fd, POLLOUT)) {
                return false;
            }
            continue;
        }
        if (sent <= 0) {
            return false;
        }
        data += sent;
        bytes -= (size_t)sent;
    }
    return true;
}

static bool receive_all(const struct asked *asked, int fd, uint8_t *data, size_t bytes)
{
    while (bytes) {
        ssize_t got = recv(fd, data, bytes, 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            if (!wait_for(asked, fd, POLLIN)) {
                return false;
            }
            continue;
        }
        if (got <= 0) {
            return false;
        }
        data += got;
        bytes -= (size_t)got;
    }
    return true;
}

/* UMBP_CLOSED: nobody answers there (now). */
static enum umbp_status exchange(const struct asked *asked, int fd,
                                 struct proto_signpost *signpost_out)
{
    uint8_t question[PROTO_SIGNPOST_QUESTION_BYTES];
    uint8_t answer[PROTO_SIGNPOST_ANSWER_MAX];
    size_t bytes;

    proto_signpost_question(question);
    if (!send_all(asked, fd, question, sizeof(question)) ||
        !receive_all(asked, fd, answer, PROTO_SIGNPOST_ANSWER_HEADER_BYTES)) {
        return UMBP_CLOSED;
    }
    enum umbp_status status = proto_signpost_length(answer, &bytes);
    if (status != UMBP_OK) {
        return status;
    }
    if (bytes > sizeof(answer) ||
        !receive_all(asked, fd, answer + PROTO_SIGNPOST_ANSWER_HEADER_BYTES,
                     bytes - PROTO_SIGNPOST_ANSWER_HEADER_BYTES)) {
        return UMBP_CLOSED;
    }
    return proto_signpost_decode(answer, bytes, signpost_out);
}

/* From which address of this machine the other side is reached. */
static void local_address(int fd, char *local_out, size_t local_bytes)
{
    struct sockaddr_storage from;
    socklen_t bytes = sizeof(from);
    if (getsockname(fd, (struct sockaddr *)&from, &bytes) != 0 ||
        getnameinfo((struct sockaddr *)&from, bytes, local_out, (socklen_t)local_bytes, NULL, 0,
                    NI_NUMERICHOST) != 0) {
        local_out[0] = '\0';
    }
}

/* The same when the other side does not answer: what the routes say. Nothing is sent. */
static void route_address(const struct asked *asked, char *local_out, size_t local_bytes)
{
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *found = NULL;
    if (getaddrinfo(asked->host, asked->port, &hints, &found) != 0) {
        return;
    }
    for (struct addrinfo *at = found; at && !local_out[0]; at = at->ai_next) {
        int fd = socket(at->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, at->ai_addr, at->ai_addrlen) == 0) {
            local_address(fd, local_out, local_bytes);
        }
        if (fd >= 0) {
            close(fd);
        }
    }
    freeaddrinfo(found);
}

static enum umbp_status judge(const struct asked *asked, const struct proto_signpost *signpost,
                              struct client_door *door)
{
    const struct client_door_question *question = asked->question;
    if (strcmp(signpost->cluster, question->cluster) != 0) {
        (void)snprintf(door->error, sizeof(door->error),
                       "the master at %s belongs to the cluster \"%s\", this process to \"%s\": "
                       "set pool.cluster alike",
                       question->address, signpost->cluster, question->cluster);
        return UMBP_STALE;
    }
    if (signpost->hash_seed != question->hash_seed) {
        (void)snprintf(door->error, sizeof(door->error),
                       "the master at %s hashes keys with another seed: set index.hash_seed to "
                       "%llu here",
                       question->address, (unsigned long long)signpost->hash_seed);
        return UMBP_STALE;
    }
    if (!signpost->door_count) {
        (void)snprintf(door->error, sizeof(door->error),
                       "the master at %s has no fabric door: start it with --fabric-listen",
                       question->address);
        return UMBP_UNSUPPORTED;
    }
    return UMBP_OK;
}

static void read_door(const struct asked *asked, const struct proto_signpost *signpost,
                      struct client_door *door)
{
    const char *address = signpost->doors[0];
    if (address[0] == ':') {
        (void)join(asked->host, address + 1, door->address, sizeof(door->address));
    } else {
        (void)snprintf(door->address, sizeof(door->address), "%s", address);
    }
}

/* The master does not answer now. By convention its door is the next port. */
static void guess(const struct asked *asked, struct client_door *door)
{
    char port[PORT_BYTES];
    uint64_t number = 0;
    (void)!units_parse_count(asked->port, &number);
    (void)snprintf(port, sizeof(port), "%u", (unsigned)(number < UINT16_MAX ? number + 1 : number));
    (void)join(asked->host, port, door->address, sizeof(door->address));
    door->is_guess = true;
}

/* UMBP_INVALID_VALUE: not "host:port". */
static enum umbp_status begin(struct asked *asked, struct client_door *door)
{
    const char *address = asked->question->address;
    if (split(address, asked->host, asked->port)) {
        return UMBP_OK;
    }
    (void)snprintf(door->error, sizeof(door->error),
                   "\"%.200s\" is no address of a master: write host:port", address);
    return UMBP_INVALID_VALUE;
}

enum umbp_status client_door_guess(const struct client_door_question *question,
                                   struct client_door *door_out)
{
    struct asked asked = {.question = question};
    *door_out = (struct client_door){0};
    enum umbp_status status = begin(&asked, door_out);
    if (status == UMBP_OK) {
        guess(&asked, door_out);
    }
    return status;
}

enum umbp_status client_door_ask(const struct client_door_question *question,
                                 struct client_door *door_out)
{
    struct asked asked = {
        .question = question,
        .deadline_ns = clock_deadline_ns(clock_monotonic(), question->timeout_ms),
    };
    struct proto_signpost signpost;

    *door_out = (struct client_door){0};
    enum umbp_status status = begin(&asked, door_out);
    if (status != UMBP_OK) {
        return status;
    }
    int fd = dial(&asked, door_out->error, sizeof(door_out->error));
    if (fd < 0) {
        route_address(&asked, door_out->local, sizeof(door_out->local));
        guess(&asked, door_out);
        return UMBP_OK;
    }
    local_address(fd, door_out->local, sizeof(door_out->local));
    status = exchange(&asked, fd, &signpost);
    close(fd);
    if (status == UMBP_CLOSED) {
        (void)snprintf(
            door_out->error, sizeof(door_out->error),
            "something listens there and does not answer as a master: is it the address that "
            "umbp_master was given (its gRPC door)?");
        guess(&asked, door_out);
        return UMBP_OK;
    }
    if (status != UMBP_OK) {
        (void)snprintf(door_out->error, sizeof(door_out->error),
                       "who answers at %s is no master of this version: %s", question->address,
                       umbp_status_text(status));
        return status;
    }
    status = judge(&asked, &signpost, door_out);
    if (status == UMBP_OK) {
        read_door(&asked, &signpost, door_out);
    }
    return status;
}
