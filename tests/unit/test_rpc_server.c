/* SPDX-License-Identifier: Apache-2.0 */
/* The server frame with methods of the test's own: connections, limits, deadlines, stopping. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <umbp_wire.pb-c.h>

#include "rpc/rpc.h"
#include "rpc_client.h"

#define COUNT_PATH "/test.Test/Count"
#define BLOCK_PATH "/test.Test/Block"
#define BIG_PATH "/test.Test/Big"

/* ------------------------------------------------------------------- methods ------------ */

struct gate {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned inside;
    bool is_open;
};

/* As many answers as keys. */
static enum rpc_code count_keys(void *context, struct rpc_call *call)
{
    const Umbp__BatchLookupRequest *request = (const Umbp__BatchLookupRequest *)call->request;
    Umbp__BatchLookupResponse *reply = (Umbp__BatchLookupResponse *)call->reply;
    (void)context;
    reply->n_found = request->n_keys;
    reply->found = rpc_arena_calloc(call->arena, reply->n_found, sizeof reply->found[0]);
    return reply->found != NULL ? RPC_OK : RPC_RESOURCE_EXHAUSTED;
}

/* Stays until the gate is open. */
static enum rpc_code block(void *context, struct rpc_call *call)
{
    struct gate *gate = context;
    (void)call;
    pthread_mutex_lock(&gate->mutex);
    gate->inside++;
    pthread_cond_broadcast(&gate->changed);
    while (!gate->is_open) {
        pthread_cond_wait(&gate->changed, &gate->mutex);
    }
    gate->inside--;
    pthread_mutex_unlock(&gate->mutex);
    return RPC_OK;
}

/* A reply of as many MiB as the node id has bytes. */
static enum rpc_code make_big(void *context, struct rpc_call *call)
{
    const Umbp__BatchLookupRequest *request = (const Umbp__BatchLookupRequest *)call->request;
    Umbp__BatchLookupResponse *reply = (Umbp__BatchLookupResponse *)call->reply;
    (void)context;
    static protobuf_c_boolean found[8 << 20];
    reply->n_found = request->node_id.len << 20;
    reply->found = found;
    return reply->n_found <= sizeof found / sizeof found[0] ? RPC_OK : RPC_INVALID_ARGUMENT;
}

#define MESSAGES &umbp__batch_lookup_request__descriptor, &umbp__batch_lookup_response__descriptor
static const struct rpc_method methods[] = {
    {COUNT_PATH, MESSAGES, count_keys},
    {BLOCK_PATH, MESSAGES, block},
    {BIG_PATH, MESSAGES, make_big},
};

/* -------------------------------------------------------------------- fixture ----------- */

struct fixture {
    struct gate gate;
    struct rpc_options options;
    struct rpc_server *server;
    struct proto_signpost signpost;
    const char *address;
    bool is_stopped;
};

static const char *const any_port[] = {"127.0.0.1:0"};

static void start(struct fixture *fixture)
{
    char error[256] = "";
    if (rpc_server_create(&fixture->options, &fixture->server, error, sizeof error) != UMBP_OK) {
        fail_msg("%s", error);
    }
    assert_ok(rpc_server_start(fixture->server));
    fixture->address = rpc_server_address(fixture->server, 0);
}

static int make(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    pthread_mutex_init(&fixture->gate.mutex, NULL);
    pthread_cond_init(&fixture->gate.changed, NULL);
    fixture->signpost = (struct proto_signpost){
        .hash_seed = 77, .cluster = "blue", .version = "9.9", .door_count = 1};
    snprintf(fixture->signpost.doors[0], sizeof fixture->signpost.doors[0], "tcp://:7000");
    fixture->options = (struct rpc_options){
        .methods = methods,
        .method_count = ARRAY_COUNT(methods),
        .context = &fixture->gate,
        .addresses = any_port,
        .address_count = 1,
        .max_message_bytes = 4 << 20,
        .signpost = &fixture->signpost,
    };
    *state = fixture;
    return 0;
}

static int unmake(void **state)
{
    struct fixture *fixture = *state;
    if (fixture->server != NULL && !fixture->is_stopped) {
        (void)rpc_server_stop(fixture->server, 5000);
    }
    rpc_server_destroy(fixture->server);
    pthread_cond_destroy(&fixture->gate.changed);
    pthread_mutex_destroy(&fixture->gate.mutex);
    free(fixture);
    return 0;
}

static size_t pack_keys(uint8_t *bytes, size_t keys, size_t key_bytes)
{
    size_t at = 0;
    for (size_t i = 0; i < keys; i++) {
        bytes[at++] = 0x12; /* field 2, bytes */
        bytes[at++] = (uint8_t)key_bytes;
        memset(bytes + at, 'k', key_bytes);
        at += key_bytes;
    }
    return at;
}

static int call_code(struct client *client, const char *path, const void *bytes, size_t count)
{
    struct answer answer;
    client_call(client, path, bytes, count, TEST_WAIT_MS, &answer);
    answer_free(&answer);
    return answer.code;
}

static void assert_serves(const char *address)
{
    struct client client;
    struct answer answer;
    uint8_t bytes[64];
    size_t count = pack_keys(bytes, 3, 5);
    client_open(&client, address);
    client_call(&client, COUNT_PATH, bytes, count, TEST_WAIT_MS, &answer);
    if (answer.code != 0) {
        fail_msg("code %d: %s", answer.code, answer.message);
    }
    assert_int_equal(answer.count, 5); /* packed: tag, length, three of them */
    answer_free(&answer);
    client_close(&client);
}

static int connect_tcp(const char *address)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    const char *colon = strrchr(address, ':');
    to.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* Whether the other side closes within the time. */
static bool is_closed(int fd, int timeout_ms)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    char bytes[256];
    uint64_t end = test_now_ns() + (uint64_t)timeout_ms * 1000000;
    while (test_now_ns() < end) {
        if (poll(&one, 1, 100) > 0 && recv(fd, bytes, sizeof bytes, 0) <= 0) {
            return true;
        }
    }
    return false;
}

static uint64_t strangers(const struct fixture *fixture)
{
    struct rpc_stats stats;
    rpc_server_stats(fixture->server, &stats);
    return stats.strangers;
}

/* ---------------------------------------------------------------------- tests ----------- */

static void a_call_gets_its_reply_over_tcp(void **state)
{
    struct fixture *fixture = *state;
    start(fixture);
    assert_serves(fixture->address);
    struct rpc_method_stats stats;
    assert_true(rpc_server_method_stats(fixture->server, 0, &stats));
    assert_string_equal(stats.path, COUNT_PATH);
    assert_int_equal(stats.calls[RPC_OK], 1);
    assert_int_equal(stats.count, 1);
}

static void a_call_gets_its_reply_over_unix_sockets(void **state)
{
    struct fixture *fixture = *state;
    char *dir = test_dir_create();
    char *path = test_path(dir, "master.sock");
    char address[300], abstract[100];
    snprintf(address, sizeof address, "unix:%s", path);
    snprintf(abstract, sizeof abstract, "unix-abstract:umbp-test-%d", (int)getpid());
    const char *const addresses[] = {address, abstract};
    fixture->options.addresses = addresses;
    fixture->options.address_count = 2;
    start(fixture);
    assert_string_equal(rpc_server_address(fixture->server, 0), address);
    assert_null(rpc_server_address(fixture->server, 2));
    assert_serves(address);
    assert_serves(abstract);
    assert_true(rpc_server_stop(fixture->server, TEST_WAIT_MS));
    fixture->is_stopped = true;
    assert_int_equal(access(path, F_OK), -1); /* it took its file away */
    free(path);
    test_dir_remove(dir);
}

static void a_socket_file_that_nobody_listens_on_is_replaced(void **state)
{
    struct fixture *fixture = *state;
    char *dir = test_dir_create();
    char *path = test_path(dir, "s");
    char address[300], error[256];
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    snprintf(local.sun_path, sizeof local.sun_path, "%s", path);
    int left = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(left, (struct sockaddr *)&local, sizeof local), 0);
    assert_int_equal(listen(left, 1), 0);
    snprintf(address, sizeof address, "unix:%s", path);
    const char *const addresses[] = {address};
    fixture->options.addresses = addresses;
    /* One that is listened on is not. */
    assert_status(rpc_server_create(&fixture->options, &fixture->server, error, sizeof error),
                  UMBP_IO);
    close(left);
    start(fixture);
    assert_serves(address);
    free(path);
    rpc_server_stop(fixture->server, 1000);
    fixture->is_stopped = true;
    test_dir_remove(dir);
}

static void an_address_that_is_none_is_refused_with_a_sentence(void **state)
{
    struct fixture *fixture = *state;
    static const char *const bad[] = {
        "127.0.0.1",         "127.0.0.1:", "127.0.0.1:65536", "::1:5",
        "nowhere.invalid:1", "unix:",      "[::1:5",
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        char error[256] = "";
        fixture->options.addresses = &bad[i];
        enum umbp_status status =
            rpc_server_create(&fixture->options, &fixture->server, error, sizeof error);
        if (status != UMBP_INVALID_VALUE || error[0] == '\0') {
            fail_msg("\"%s\" gave %d \"%s\"", bad[i], status, error);
        }
    }
    fixture->server = NULL;
}

static void a_port_in_use_is_told(void **state)
{
    struct fixture *fixture = *state;
    char error[256] = "";
    struct rpc_server *second = NULL;
    start(fixture);
    struct rpc_options options = fixture->options;
    options.addresses = &fixture->address;
    assert_status(rpc_server_create(&options, &second, error, sizeof error), UMBP_IO);
    assert_non_null(strstr(error, "in use"));
}

static void hostile_calls_get_a_status(void **state)
{
    struct fixture *fixture = *state;
    struct client client;
    uint8_t *bytes = calloc(1, 5 << 20);
    start(fixture);
    client_open(&client, fixture->address);
    assert_int_equal(call_code(&client, "/test.Test/Nothing", "", 0), RPC_UNIMPLEMENTED);
    assert_int_equal(call_code(&client, "/", "", 0), RPC_UNIMPLEMENTED);
    assert_int_equal(call_code(&client, COUNT_PATH, "\x12", 1), RPC_INTERNAL);
    assert_int_equal(call_code(&client, COUNT_PATH, "\x12\xff\xff\xff\xff\x0f", 6), RPC_INTERNAL);
    assert_int_equal(call_code(&client, COUNT_PATH, "\x12\x02\xc0\x80", 4), RPC_INTERNAL);
    assert_int_equal(call_code(&client, COUNT_PATH, NULL, 0), RPC_UNIMPLEMENTED);
    assert_int_equal(call_code(&client, COUNT_PATH, bytes, 5 << 20), RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(call_code(&client, COUNT_PATH, "", 0), RPC_OK);
    assert_int_equal(call_code(&client, BIG_PATH, "\x0a\x03xxx", 5), RPC_OK);
    assert_int_equal(call_code(&client, BIG_PATH, "\x0a\x04xxxx", 6), RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(call_code(&client, COUNT_PATH, "", 0), RPC_OK);
    client_close(&client);
    free(bytes);
    struct rpc_stats stats;
    rpc_server_stats(fixture->server, &stats);
    assert_int_equal(stats.unknown_methods, 2);
}

static void a_message_that_would_blow_up_is_refused_within_its_memory(void **state)
{
    struct fixture *fixture = *state;
    struct client client;
    size_t count = 4 << 20;
    uint8_t *bytes = malloc(count);
    for (size_t i = 0; i < count; i += 2) {
        bytes[i] = 0x12; /* two million keys of no bytes */
        bytes[i + 1] = 0;
    }
    fixture->options.memory_bytes = 16 << 20;
    start(fixture);
    client_open(&client, fixture->address);
    /* gRPC's own framing makes the bound a little smaller than the number. */
    assert_int_equal(call_code(&client, COUNT_PATH, bytes, count - 64), RPC_INTERNAL);
    assert_int_equal(call_code(&client, COUNT_PATH, bytes, 1000), RPC_OK);
    client_close(&client);
    free(bytes);
    struct rpc_stats stats;
    rpc_server_stats(fixture->server, &stats);
    assert_true(stats.memory_left_bytes > 8 << 20); /* all but the pollers' first blocks */
}

static void strangers_are_cut_off_and_calls_go_on(void **state)
{
    struct fixture *fixture = *state;
    static const char *const greetings[] = {
        "GET / HTTP/1.1\r\n\r\n", "SSH-2.0-x\r\n", "PRI * HTTP/1.1\r\n",
        "\x16\x03\x01\x02",       "UMBPFOOO",
    };
    start(fixture);
    for (size_t i = 0; i < ARRAY_COUNT(greetings); i++) {
        int fd = connect_tcp(fixture->address);
        assert_true(send(fd, greetings[i], strlen(greetings[i]), MSG_NOSIGNAL) > 0);
        if (!is_closed(fd, TEST_WAIT_MS)) {
            fail_msg("\"%s\" was not cut off", greetings[i]);
        }
        close(fd);
    }
    assert_int_equal(strangers(fixture), ARRAY_COUNT(greetings));
    /* After a good preface it is gRPC that has to cope. */
    struct test_rng rng;
    test_rng_init(&rng, 1);
    for (int i = 0; i < 50; i++) {
        uint8_t junk[512];
        int fd = connect_tcp(fixture->address);
        memcpy(junk, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
        for (size_t k = 24; k < sizeof junk; k++) {
            junk[k] = (uint8_t)test_rng_next(&rng);
        }
        (void)!send(fd, junk, sizeof junk, MSG_NOSIGNAL);
        close(fd);
    }
    assert_serves(fixture->address);
}

static bool hundred_strangers(void *context) { return strangers(context) >= 600; }

static void the_silent_and_the_slow_do_not_keep_others_out(void **state)
{
    struct fixture *fixture = *state;
    int silent[600];
    fixture->options.preface_timeout_ms = 3000;
    start(fixture);
    for (size_t i = 0; i < ARRAY_COUNT(silent); i++) {
        silent[i] = connect_tcp(fixture->address);
        if (i % 2 == 0) {
            assert_int_equal(send(silent[i], "PRI * HT", 8, MSG_NOSIGNAL), 8);
        }
    }
    assert_serves(fixture->address);
    assert_true(test_wait_until(hundred_strangers, fixture, TEST_WAIT_MS));
    for (size_t i = 0; i < ARRAY_COUNT(silent); i++) {
        close(silent[i]);
    }
    assert_serves(fixture->address);
}

static void a_preface_in_pieces_is_understood(void **state)
{
    struct fixture *fixture = *state;
    const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"; /* and SETTINGS */
    start(fixture);
    int fd = connect_tcp(fixture->address);
    for (size_t i = 0; i < sizeof preface - 1; i++) {
        assert_int_equal(send(fd, preface + i, 1, MSG_NOSIGNAL), 1);
    }
    uint8_t frame[9];
    struct pollfd one = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&one, 1, TEST_WAIT_MS), 1);
    assert_int_equal(recv(fd, frame, sizeof frame, MSG_WAITALL), 9);
    assert_int_equal(frame[3], 4); /* the server's SETTINGS */
    close(fd);
}

static void the_signpost_tells_where_the_fabric_door_is(void **state)
{
    struct fixture *fixture = *state;
    uint8_t question[PROTO_SIGNPOST_QUESTION_BYTES];
    uint8_t answer[PROTO_SIGNPOST_ANSWER_MAX];
    struct proto_signpost told;
    size_t length;
    start(fixture);
    int fd = connect_tcp(fixture->address);
    proto_signpost_question(question);
    assert_int_equal(send(fd, question, 5, MSG_NOSIGNAL), 5); /* in two pieces */
    assert_int_equal(send(fd, question + 5, sizeof question - 5, MSG_NOSIGNAL), 11);
    assert_int_equal(recv(fd, answer, PROTO_SIGNPOST_ANSWER_HEADER_BYTES, MSG_WAITALL),
                     PROTO_SIGNPOST_ANSWER_HEADER_BYTES);
    assert_ok(proto_signpost_length(answer, &length));
    size_t body = length - PROTO_SIGNPOST_ANSWER_HEADER_BYTES;
    assert_int_equal(recv(fd, answer + PROTO_SIGNPOST_ANSWER_HEADER_BYTES, body, MSG_WAITALL),
                     body);
    assert_ok(proto_signpost_decode(answer, length, &told));
    assert_memory_equal(&told, &fixture->signpost, sizeof told);
    assert_true(is_closed(fd, TEST_WAIT_MS));
    close(fd);

    /* A later protocol gets an answer that says so. */
    fd = connect_tcp(fixture->address);
    question[8] = 9;
    question[10] = 9;
    assert_int_equal(send(fd, question, sizeof question, MSG_NOSIGNAL), 16);
    assert_int_equal(recv(fd, answer, PROTO_SIGNPOST_ANSWER_HEADER_BYTES, MSG_WAITALL),
                     PROTO_SIGNPOST_ANSWER_HEADER_BYTES);
    assert_status(proto_signpost_decode(answer, PROTO_SIGNPOST_ANSWER_HEADER_BYTES, &told),
                  UMBP_VERSION);
    close(fd);
}

struct caller {
    pthread_t thread;
    const char *address;
    unsigned timeout_ms;
    struct answer answer;
};

static void *call_block(void *context)
{
    struct caller *caller = context;
    struct client client;
    client_open(&client, caller->address);
    client_call(&client, BLOCK_PATH, "", 0, caller->timeout_ms, &caller->answer);
    client_close(&client);
    return NULL;
}

static void caller_start(struct caller *caller, const struct fixture *fixture, unsigned timeout_ms)
{
    caller->address = fixture->address;
    caller->timeout_ms = timeout_ms;
    pthread_create(&caller->thread, NULL, call_block, caller);
}

static void gate_wait(struct gate *gate, unsigned inside)
{
    pthread_mutex_lock(&gate->mutex);
    while (gate->inside < inside) {
        pthread_cond_wait(&gate->changed, &gate->mutex);
    }
    pthread_mutex_unlock(&gate->mutex);
}

static void gate_open(struct gate *gate)
{
    pthread_mutex_lock(&gate->mutex);
    gate->is_open = true;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->mutex);
}

static void calls_that_block_do_not_keep_others_waiting(void **state)
{
    struct fixture *fixture = *state;
    struct caller callers[5];
    fixture->options.min_pollers = 2;
    fixture->options.max_pollers = 8;
    start(fixture);
    for (size_t i = 0; i < ARRAY_COUNT(callers); i++) {
        caller_start(&callers[i], fixture, 60000);
    }
    gate_wait(&fixture->gate, 5); /* all five at once, with more pollers than at the start */
    assert_serves(fixture->address);
    gate_open(&fixture->gate);
    for (size_t i = 0; i < ARRAY_COUNT(callers); i++) {
        pthread_join(callers[i].thread, NULL);
        assert_int_equal(callers[i].answer.code, RPC_OK);
        answer_free(&callers[i].answer);
    }
}

static void a_caller_is_let_go_at_its_deadline(void **state)
{
    struct fixture *fixture = *state;
    struct caller caller;
    start(fixture);
    uint64_t begin = test_now_ns();
    caller_start(&caller, fixture, 300);
    pthread_join(caller.thread, NULL);
    assert_int_equal(caller.answer.code, RPC_DEADLINE_EXCEEDED);
    assert_true(test_now_ns() - begin >= 290 * UINT64_C(1000000));
    answer_free(&caller.answer);
    gate_open(&fixture->gate);
    assert_serves(fixture->address);
}

static void a_call_whose_deadline_is_past_is_not_begun(void **state)
{
    struct fixture *fixture = *state;
    struct caller first, late;
    fixture->options.min_pollers = 1;
    fixture->options.max_pollers = 1;
    start(fixture);
    caller_start(&first, fixture, 60000);
    gate_wait(&fixture->gate, 1);
    caller_start(&late, fixture, 200); /* waits behind the only poller */
    pthread_join(late.thread, NULL);
    assert_int_equal(late.answer.code, RPC_DEADLINE_EXCEEDED);
    answer_free(&late.answer);
    test_sleep_ms(500); /* the server counts from when it got the call, which was before now */
    gate_open(&fixture->gate);
    pthread_join(first.thread, NULL);
    assert_int_equal(first.answer.code, RPC_OK);
    answer_free(&first.answer);
    assert_serves(fixture->address);
    struct rpc_method_stats stats;
    assert_true(rpc_server_method_stats(fixture->server, 1, &stats));
    assert_int_equal(stats.calls[RPC_OK], 1);
}

static void *open_soon(void *context)
{
    test_sleep_ms(300);
    gate_open(context);
    return NULL;
}

static void stopping_lets_calls_end(void **state)
{
    struct fixture *fixture = *state;
    struct caller caller;
    pthread_t opener;
    start(fixture);
    caller_start(&caller, fixture, 60000);
    gate_wait(&fixture->gate, 1);
    pthread_create(&opener, NULL, open_soon, &fixture->gate);
    assert_true(rpc_server_stop(fixture->server, TEST_WAIT_MS));
    fixture->is_stopped = true;
    pthread_join(caller.thread, NULL);
    pthread_join(opener, NULL);
    assert_int_equal(caller.answer.code, RPC_OK);
    answer_free(&caller.answer);
}

/* The call's end, as its caller sees it, comes first. */
struct after {
    struct caller *caller;
    struct gate *gate;
};

static void *open_after(void *context)
{
    struct after *after = context;
    pthread_join(after->caller->thread, NULL);
    gate_open(after->gate);
    return NULL;
}

static void stopping_cancels_calls_at_the_deadline(void **state)
{
    struct fixture *fixture = *state;
    struct caller caller;
    pthread_t opener;
    start(fixture);
    caller_start(&caller, fixture, TEST_WAIT_MS);
    gate_wait(&fixture->gate, 1);
    struct after after = {&caller, &fixture->gate};
    pthread_create(&opener, NULL, open_after, &after);
    assert_false(rpc_server_stop(fixture->server, 50));
    fixture->is_stopped = true;
    pthread_join(opener, NULL);
    assert_int_not_equal(caller.answer.code, RPC_OK);
    answer_free(&caller.answer);
}

static void stopping_closes_idle_connections(void **state)
{
    struct fixture *fixture = *state;
    struct client client;
    start(fixture);
    client_open(&client, fixture->address);
    assert_int_equal(call_code(&client, COUNT_PATH, "", 0), RPC_OK);
    int fd = connect_tcp(fixture->address); /* and one that has said nothing */
    assert_true(rpc_server_stop(fixture->server, TEST_WAIT_MS));
    fixture->is_stopped = true;
    struct answer answer;
    client_call(&client, COUNT_PATH, "", 0, 500, &answer);
    assert_int_not_equal(answer.code, RPC_OK);
    answer_free(&answer);
    assert_true(is_closed(fd, TEST_WAIT_MS));
    close(fd);
    client_close(&client);
}

struct descriptors {
    unsigned most;
};

static bool few_descriptors(void *context)
{
    return test_fd_count() <= ((const struct descriptors *)context)->most;
}

static void a_server_leaves_nothing_behind(void **state)
{
    struct fixture *fixture = *state;
    struct descriptors descriptors = {0};
    for (int round = 0; round < 4; round++) {
        start(fixture);
        assert_serves(fixture->address);
        rpc_server_stop(fixture->server, 5000);
        rpc_server_destroy(fixture->server);
        fixture->server = NULL;
        if (round == 0) {
            descriptors.most = test_fd_count(); /* gRPC keeps some of its own */
        }
        /* The client's are closed by a thread of gRPC. */
        assert_true(test_wait_until(few_descriptors, &descriptors, TEST_WAIT_MS));
    }
}

static void a_server_that_never_ran_can_be_destroyed(void **state)
{
    struct fixture *fixture = *state;
    char error[256];
    assert_ok(rpc_server_create(&fixture->options, &fixture->server, error, sizeof error));
    rpc_server_destroy(fixture->server);
    fixture->server = NULL;
}

static bool has_cancelled(void *context)
{
    struct rpc_stats stats;
    rpc_server_stats(((struct fixture *)context)->server, &stats);
    return stats.cancelled_slow > 0;
}

static size_t add_frame(uint8_t *at, uint8_t type, uint8_t flags, uint8_t stream, const void *body,
                        size_t bytes)
{
    const uint8_t head[9] = {0,     (uint8_t)(bytes >> 8), (uint8_t)bytes, type, flags, 0, 0, 0,
                             stream};
    memcpy(at, head, 9);
    memcpy(at + 9, body, bytes);
    return 9 + bytes;
}

/* HPACK, literal without indexing, new name. */
static size_t add_header(uint8_t *at, const char *name, const char *value)
{
    size_t name_bytes = strlen(name), value_bytes = strlen(value);
    at[0] = 0;
    at[1] = (uint8_t)name_bytes;
    memcpy(at + 2, name, name_bytes);
    at[2 + name_bytes] = (uint8_t)value_bytes;
    memcpy(at + 3 + name_bytes, value, value_bytes);
    return 3 + name_bytes + value_bytes;
}

static void a_reply_that_nobody_takes_is_dropped_in_the_end(void **state)
{
    struct fixture *fixture = *state;
    uint8_t bytes[2048], headers[1024];
    size_t at = 0, header = 0;
    fixture->options.reply_timeout_ms = 300;
    start(fixture);
    int fd = connect_tcp(fixture->address);
    memcpy(bytes, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    at = 24;
    /* SETTINGS_INITIAL_WINDOW_SIZE = 0: nothing may be sent to us. */
    at += add_frame(bytes + at, 4, 0, 0, "\0\4\0\0\0\0", 6);
    header += add_header(headers + header, ":method", "POST");
    header += add_header(headers + header, ":scheme", "http");
    header += add_header(headers + header, ":path", BIG_PATH);
    header += add_header(headers + header, ":authority", "x");
    header += add_header(headers + header, "te", "trailers");
    header += add_header(headers + header, "content-type", "application/grpc");
    at += add_frame(bytes + at, 1, 4, 1, headers, header);        /* END_HEADERS */
    at += add_frame(bytes + at, 0, 1, 1, "\0\0\0\0\3\x0a\1x", 8); /* END_STREAM */
    assert_int_equal(send(fd, bytes, at, MSG_NOSIGNAL), (ssize_t)at);
    assert_true(test_wait_until(has_cancelled, fixture, TEST_WAIT_MS));
    close(fd);
    assert_serves(fixture->address);
}

static void five_hundred_connections_at_once_are_served(void **state)
{
    struct fixture *fixture = *state;
    struct client clients[500];
    unsigned count = test_is_slow() ? 50 : 500;
    start(fixture);
    for (unsigned i = 0; i < count; i++) {
        client_open(&clients[i], fixture->address);
    }
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(call_code(&clients[i], COUNT_PATH, "", 0), RPC_OK);
    }
    struct rpc_stats stats;
    rpc_server_stats(fixture->server, &stats);
    assert_true(stats.connections >= count);
    for (unsigned i = 0; i < count; i++) {
        client_close(&clients[i]);
    }
}

static void connections_over_the_limit_are_refused(void **state)
{
    struct fixture *fixture = *state;
    int fds[400];
    fixture->options.max_connections = 1;
    start(fixture);
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++) {
        fds[i] = connect_tcp(fixture->address);
    }
    struct rpc_stats stats;
    assert_true(is_closed(fds[ARRAY_COUNT(fds) - 1], TEST_WAIT_MS));
    rpc_server_stats(fixture->server, &stats);
    assert_true(stats.connections_refused > 0);
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++) {
        close(fds[i]);
    }
    assert_serves(fixture->address);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make, unmake)
    const struct CMUnitTest tests[] = {
        TEST(a_call_gets_its_reply_over_tcp),
        TEST(a_call_gets_its_reply_over_unix_sockets),
        TEST(a_socket_file_that_nobody_listens_on_is_replaced),
        TEST(an_address_that_is_none_is_refused_with_a_sentence),
        TEST(a_port_in_use_is_told),
        TEST(hostile_calls_get_a_status),
        TEST(a_message_that_would_blow_up_is_refused_within_its_memory),
        TEST(strangers_are_cut_off_and_calls_go_on),
        TEST(the_silent_and_the_slow_do_not_keep_others_out),
        TEST(a_preface_in_pieces_is_understood),
        TEST(the_signpost_tells_where_the_fabric_door_is),
        TEST(calls_that_block_do_not_keep_others_waiting),
        TEST(a_caller_is_let_go_at_its_deadline),
        TEST(a_call_whose_deadline_is_past_is_not_begun),
        TEST(stopping_lets_calls_end),
        TEST(stopping_cancels_calls_at_the_deadline),
        TEST(stopping_closes_idle_connections),
        TEST(a_server_leaves_nothing_behind),
        TEST(a_server_that_never_ran_can_be_destroyed),
        TEST(a_reply_that_nobody_takes_is_dropped_in_the_end),
        TEST(five_hundred_connections_at_once_are_served),
        TEST(connections_over_the_limit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
