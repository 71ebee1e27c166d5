/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gRPC server, on gRPC's C core.
 *
 *     accept ──descriptor──► gRPC ──call with its whole message──► completion queue
 *                                                                    │ a poller takes it
 *            ◄────────────── reply and status ◄── handler ◄── slot ◄─┘
 *
 * A slot is a place for one call. Each method has SLOTS_A_METHOD of them; a free one waits inside
 * gRPC for a call ("requested"), is handled on the poller that gets it, and then waits until gRPC
 * has done with the reply ("replying"). Methods are registered with their payload, so a slot is
 * taken only once a message is there whole: a client that begins a call and sends nothing holds
 * nothing of ours. Calls beyond the slots wait inside gRPC, bounded by streams per connection.
 *
 * A reply may never be taken (a client can close its flow-control window). A slot that has been
 * replying for longer than the limit is cancelled by the accepting thread's tick; `guard` keeps the
 * call from ending in between. It also makes the hand-over from one poller to the next visible to
 * thread sanitizer, which does not see into gRPC.
 */
#include "rpc/rpc_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/support/log.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert((int)RPC_INVALID_ARGUMENT == (int)GRPC_STATUS_INVALID_ARGUMENT, "gRPC's numbers");
_Static_assert((int)RPC_ALREADY_EXISTS == (int)GRPC_STATUS_ALREADY_EXISTS, "gRPC's numbers");
_Static_assert((int)RPC_UNAVAILABLE == (int)GRPC_STATUS_UNAVAILABLE, "gRPC's numbers");

#define SLOTS_A_METHOD 64u
#define SLOTS_UNKNOWN 16u /* for paths that are no method's */
#define METHODS_MAX 32u
#define POLLERS_MAX 1024u
#define STREAMS_A_CONNECTION 256
#define METADATA_BYTES_MAX (16 * 1024)
#define PEM_BYTES_MAX (1u << 20)

const uint32_t rpc_latency_bounds_us[RPC_LATENCY_BUCKETS] = {
    10,   25,    50,    100,   250,    500,    1000,    2500,
    5000, 10000, 25000, 50000, 100000, 250000, 1000000, 5000000,
};

enum slot_state {
    SLOT_IDLE,
    SLOT_REQUESTED,
    SLOT_REPLYING,
};

struct method {
    const struct rpc_method *method; /* NULL: of unknown paths */
    void *registered;
    _Atomic uint64_t calls[RPC_CODE_COUNT];
    _Atomic uint64_t latency[RPC_LATENCY_BUCKETS];
    _Atomic uint64_t count;
    _Atomic uint64_t sum_ns;
};

struct slot {
    struct method *method;
    struct mutex guard; /* state, call, replying_since_ns */
    enum slot_state state;
    grpc_call *call;
    uint64_t replying_since_ns;
    gpr_timespec deadline;
    grpc_metadata_array metadata;
    grpc_call_details details; /* of unknown paths */
    grpc_byte_buffer *payload;
    grpc_slice message; /* of the status */
    int was_cancelled;
};

struct rpc_server {
    struct rpc_options options; /* its pointers to text are not valid after create */
    struct rpc_accept *accept;
    struct rpc_relay *relay;
    struct rpc_budget budget;
    grpc_server *grpc;
    grpc_server_credentials *plain;
    grpc_completion_queue *queue;
    struct method methods[METHODS_MAX + 1]; /* the last: unknown paths */
    size_t method_count;                    /* without that one */
    struct slot *slots;
    size_t slot_count;
    _Atomic bool is_stopping;
    _Atomic unsigned running; /* pollers inside a handler */
    _Atomic unsigned poller_count;
    _Atomic unsigned outstanding; /* slots that are not idle */
    struct mutex stop_guard;      /* for the condition alone */
    struct condition is_idle;     /* outstanding fell to 0 */
    _Atomic uint64_t cancelled_slow;
    pthread_t pollers[POLLERS_MAX];
    bool is_started;
    bool is_stopped;
};

/* ---------------------------------------------------------------- counting ------------- */

static void note(struct method *method, enum rpc_code code, uint64_t begin_ns)
{
    uint64_t ns = clock_now_ns(clock_monotonic()) - begin_ns;
    size_t bucket = 0;
    while (bucket < RPC_LATENCY_BUCKETS && ns > rpc_latency_bounds_us[bucket] * NS_PER_US) {
        bucket++;
    }
    /* relaxed: a reader may see them a little apart */
    if (bucket < RPC_LATENCY_BUCKETS) {
        atomic_fetch_add_explicit(&method->latency[bucket], 1, memory_order_relaxed);
    }
    atomic_fetch_add_explicit(&method->calls[code], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&method->count, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&method->sum_ns, ns, memory_order_relaxed);
}

/* ------------------------------------------------------------------- slots ------------- */

static void set_state(struct slot *slot, enum slot_state state)
{
    mutex_lock(&slot->guard);
    slot->state = state;
    slot->replying_since_ns = state == SLOT_REPLYING ? clock_now_ns(clock_monotonic()) : UINT64_MAX;
    mutex_unlock(&slot->guard);
}

/* Let gRPC have the slot for the next call. */
static void request(struct rpc_server *server, struct slot *slot)
{
    grpc_call_error error;
    grpc_metadata_array_init(&slot->metadata);
    slot->payload = NULL;
    slot->call = NULL;
    slot->message = grpc_empty_slice();
    set_state(slot, SLOT_REQUESTED);
    if (slot->method->method != NULL) {
        error = grpc_server_request_registered_call(
            server->grpc, slot->method->registered, &slot->call, &slot->deadline, &slot->metadata,
            &slot->payload, server->queue, server->queue, slot);
    } else {
        grpc_call_details_init(&slot->details);
        error = grpc_server_request_call(server->grpc, &slot->call, &slot->details, &slot->metadata,
                                         server->queue, server->queue, slot);
    }
    /* It can't fail while the queue is open. When the server stops, the queue tells. */
    ASSERT(error == GRPC_CALL_OK);
}

/* The slot is not asked for again. */
static void retire(struct rpc_server *server)
{
    /* acq_rel: what each slot's last poller did comes before the queue's end */
    if (atomic_fetch_sub_explicit(&server->outstanding, 1, memory_order_acq_rel) == 1) {
        mutex_lock(&server->stop_guard);
        condition_broadcast(&server->is_idle);
        mutex_unlock(&server->stop_guard);
    }
}

static void clean(struct slot *slot)
{
    mutex_lock(&slot->guard);
    grpc_call *call = slot->call;
    slot->call = NULL;
    slot->state = SLOT_IDLE;
    mutex_unlock(&slot->guard);
    if (call != NULL) {
        grpc_call_unref(call);
    }
    if (slot->payload != NULL) {
        grpc_byte_buffer_destroy(slot->payload);
        slot->payload = NULL;
    }
    grpc_metadata_array_destroy(&slot->metadata);
    if (slot->method->method == NULL) {
        grpc_call_details_destroy(&slot->details);
    }
    grpc_slice_unref(slot->message);
    slot->message = grpc_empty_slice();
}

/* Hand the reply (NULL: none) and the status to gRPC. */
static void reply(struct slot *slot, enum rpc_code code, grpc_byte_buffer *bytes)
{
    grpc_op ops[4];
    size_t count = 0;
    memset(ops, 0, sizeof ops);
    ops[count++].op = GRPC_OP_SEND_INITIAL_METADATA;
    if (bytes != NULL) {
        ops[count].op = GRPC_OP_SEND_MESSAGE;
        ops[count++].data.send_message.send_message = bytes;
    }
    ops[count].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    ops[count].data.send_status_from_server.status = (grpc_status_code)code;
    ops[count++].data.send_status_from_server.status_details = &slot->message;
    ops[count].op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    ops[count++].data.recv_close_on_server.cancelled = &slot->was_cancelled;
    grpc_call *call = slot->call;
    set_state(slot, SLOT_REPLYING); /* from here on the slot is the next poller's */
    grpc_call_error error = grpc_call_start_batch(call, ops, count, slot, NULL);
    ASSERT(error == GRPC_CALL_OK);
    if (bytes != NULL) {
        grpc_byte_buffer_destroy(bytes);
    }
}

/* The message as one piece, of the arena if it came in several. */
static enum rpc_code flatten(grpc_byte_buffer *payload, struct rpc_arena *arena,
                             const void **bytes_out, size_t *count_out, grpc_slice *whole_out)
{
    grpc_byte_buffer_reader reader;
    size_t bytes = grpc_byte_buffer_length(payload);
    if (payload->type != GRPC_BB_RAW || payload->data.raw.compression != GRPC_COMPRESS_NONE ||
        !grpc_byte_buffer_reader_init(&reader, payload)) {
        return RPC_UNIMPLEMENTED;
    }
    enum rpc_code code = RPC_OK;
    grpc_slice slice;
    if (payload->data.raw.slice_buffer.count == 1) {
        *whole_out = grpc_slice_ref(payload->data.raw.slice_buffer.slices[0]);
        *bytes_out = GRPC_SLICE_START_PTR(*whole_out);
    } else {
        uint8_t *copy = rpc_arena_alloc(arena, bytes);
        size_t at = 0;
        while (copy != NULL && grpc_byte_buffer_reader_next(&reader, &slice)) {
            memcpy(copy + at, GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice));
            at += GRPC_SLICE_LENGTH(slice);
            grpc_slice_unref(slice);
        }
        *bytes_out = copy;
        code = copy != NULL ? RPC_OK : RPC_RESOURCE_EXHAUSTED;
    }
    *count_out = bytes;
    grpc_byte_buffer_reader_destroy(&reader);
    return code;
}

static grpc_byte_buffer *pack(const ProtobufCMessage *message, size_t bytes)
{
    grpc_slice slice = grpc_slice_malloc(bytes);
    size_t packed = protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    ASSERT(packed == bytes);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

static bool is_late(const struct slot *slot)
{
    return gpr_time_cmp(gpr_now(slot->deadline.clock_type), slot->deadline) >= 0;
}

static enum rpc_code handle(struct rpc_server *server, struct slot *slot, struct rpc_arena *arena,
                            grpc_byte_buffer **reply_out, const char **message_out)
{
    const void *bytes = NULL;
    size_t count = 0;
    grpc_slice whole = grpc_empty_slice();
    struct rpc_call call = {.arena = arena};
    if (slot->payload == NULL) {
        *message_out = "a call has one message";
        return RPC_UNIMPLEMENTED;
    }
    if (is_late(slot)) {
        *message_out = "the deadline was past when the call came to its turn";
        return RPC_DEADLINE_EXCEEDED;
    }
    size_t length = grpc_byte_buffer_length(slot->payload);
    rpc_arena_reset(arena, length + rpc_decode_limit(length));
    enum rpc_code code = flatten(slot->payload, arena, &bytes, &count, &whole);
    if (code == RPC_OK) {
        code = rpc_method_run(slot->method->method, server->options.context, arena, bytes, count,
                              &call);
    } else {
        call.message = "the message can't be read: compressed, or no memory left";
    }
    if (code == RPC_OK) {
        size_t reply_bytes = protobuf_c_message_get_packed_size(call.reply);
        if (reply_bytes > server->options.max_message_bytes) {
            code = RPC_RESOURCE_EXHAUSTED;
            call.message = "the reply is larger than a message may be; ask for less";
        } else {
            *reply_out = pack(call.reply, reply_bytes);
        }
    }
    grpc_slice_unref(whole);
    *message_out = call.message;
    return code;
}

static void *poll(void *context);

/* Everybody is busy: one more poller, up to the limit. */
static void grow(struct rpc_server *server, unsigned running)
{
    unsigned pollers = atomic_load_explicit(&server->poller_count, memory_order_relaxed);
    if (running < pollers || pollers >= server->options.max_pollers) {
        return;
    }
    /* acq_rel: who raised the number owns the place in the table; stop reads both */
    if (!atomic_compare_exchange_strong_explicit(&server->poller_count, &pollers, pollers + 1,
                                                 memory_order_acq_rel, memory_order_relaxed)) {
        return;
    }
    if (thread_create(&server->pollers[pollers], "umbp-rpc", false, poll, server) != UMBP_OK) {
        server->pollers[pollers] = 0; /* the others go on */
    }
}

static void serve(struct rpc_server *server, struct slot *slot, struct rpc_arena *arena)
{
    uint64_t begin = clock_now_ns(clock_monotonic());
    grpc_byte_buffer *bytes = NULL;
    const char *message = NULL;
    enum rpc_code code = RPC_UNIMPLEMENTED;
    unsigned running = atomic_fetch_add_explicit(&server->running, 1, memory_order_relaxed) + 1;
    if (!atomic_load_explicit(&server->is_stopping, memory_order_relaxed)) {
        grow(server, running);
    }
    if (slot->method->method == NULL) {
        message = "there is no such method";
    } else {
        code = handle(server, slot, arena, &bytes, &message);
    }
    slot->message = grpc_slice_from_copied_string(message != NULL ? message : "");
    rpc_arena_reset(arena, 0);
    note(slot->method, code, begin); /* first: who has the reply can rely on the count */
    reply(slot, code, bytes);
    atomic_fetch_sub_explicit(&server->running, 1, memory_order_relaxed);
}

static enum slot_state state_of(struct slot *slot)
{
    mutex_lock(&slot->guard);
    enum slot_state state = slot->state;
    mutex_unlock(&slot->guard);
    return state;
}

static void *poll(void *context)
{
    struct rpc_server *server = context;
    struct rpc_arena *arena = NULL;
    enum umbp_status status = rpc_arena_create(&server->budget, &arena);
    while (status == UMBP_OK) {
        grpc_event event =
            grpc_completion_queue_next(server->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
        struct slot *slot = event.tag;
        if (event.type == GRPC_QUEUE_SHUTDOWN) {
            break;
        }
        if (event.type != GRPC_OP_COMPLETE) {
            continue;
        }
        if (state_of(slot) == SLOT_REQUESTED && event.success) {
            serve(server, slot, arena);
            continue;
        }
        clean(slot);
        if (atomic_load_explicit(&server->is_stopping, memory_order_acquire)) {
            retire(server);
        } else {
            request(server, slot);
        }
    }
    rpc_arena_destroy(arena);
    if (status != UMBP_OK) {
        log_error("rpc_poller", "error=%s", umbp_status_name(status));
    }
    return NULL;
}

/* Calls whose reply nobody takes. By the accepting thread. */
static void tick(void *context)
{
    struct rpc_server *server = context;
    uint64_t limit = server->options.reply_timeout_ms * NS_PER_MS;
    uint64_t now = clock_now_ns(clock_monotonic());
    for (size_t i = 0; i < server->slot_count; i++) {
        struct slot *slot = &server->slots[i];
        grpc_call *call = NULL;
        mutex_lock(&slot->guard);
        if (slot->state == SLOT_REPLYING && slot->call != NULL && now > slot->replying_since_ns &&
            now - slot->replying_since_ns > limit) {
            call = slot->call;
            grpc_call_ref(call);
            slot->replying_since_ns = UINT64_MAX; /* once */
        }
        mutex_unlock(&slot->guard);
        if (call != NULL) {
            (void)grpc_call_cancel(call, NULL);
            grpc_call_unref(call);
            atomic_fetch_add_explicit(&server->cancelled_slow, 1, memory_order_relaxed);
        }
    }
}

/* ---------------------------------------------------------------- connections ---------- */

static void take(void *context, int descriptor)
{
    struct rpc_server *server = context;
    grpc_server_add_channel_from_fd(server->grpc, descriptor, server->plain);
}

static void take_tls(void *context, int descriptor)
{
    struct rpc_server *server = context;
    rpc_relay_add(server->relay, descriptor);
}

/* ------------------------------------------------------------------ creating ----------- */

static void fill_defaults(struct rpc_options *options)
{
#define DEFAULT(field, value) options->field = options->field != 0 ? options->field : (value)
    DEFAULT(min_pollers, 2);
    DEFAULT(max_pollers, 64);
    DEFAULT(max_connections, 4096);
    DEFAULT(max_message_bytes, (uint32_t)(64 * MIB));
    DEFAULT(memory_bytes, 1 * GIB);
    DEFAULT(preface_timeout_ms, 10000);
    DEFAULT(reply_timeout_ms, 60000);
    DEFAULT(keepalive_ms, 60000);
    DEFAULT(keepalive_timeout_ms, 20000);
#undef DEFAULT
    options->min_pollers = (unsigned)u64_min(options->min_pollers, POLLERS_MAX);
    options->max_pollers =
        (unsigned)u64_min(u64_max(options->max_pollers, options->min_pollers), POLLERS_MAX);
    options->max_message_bytes = (uint32_t)u64_min(options->max_message_bytes, INT32_MAX);
}

static grpc_arg integer(const char *key, uint64_t value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = (int)value};
}

static grpc_server *create_grpc(const struct rpc_options *options)
{
    grpc_arg list[] = {
        integer(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, options->max_message_bytes),
        integer(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, options->max_message_bytes),
        integer(GRPC_ARG_MAX_CONCURRENT_STREAMS, STREAMS_A_CONNECTION),
        integer(GRPC_ARG_MAX_METADATA_SIZE, METADATA_BYTES_MAX),
        integer(GRPC_ARG_KEEPALIVE_TIME_MS, options->keepalive_ms),
        integer(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, options->keepalive_timeout_ms),
        integer(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        integer(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0), /* or keepalive ends after two */
        integer(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000),
        integer(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, options->preface_timeout_ms),
        integer(GRPC_ARG_ENABLE_CHANNELZ, 0),
        integer(GRPC_ARG_ALLOW_REUSEPORT, 0),
        /* None but "identity": a small compressed message may be a very large one, which gRPC
         * would not notice before it had made it. */
        integer(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1u << GRPC_COMPRESS_NONE),
    };
    const grpc_channel_args args = {.num_args = ARRAY_COUNT(list), .args = list};
    return grpc_server_create(&args, NULL);
}

static char *read_file(const char *path, char *error_out, size_t error_bytes)
{
    struct stat found;
    char *text = NULL;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0 && fstat(file, &found) == 0 && found.st_size <= PEM_BYTES_MAX) {
        size_t bytes = (size_t)found.st_size;
        text = mem_zalloc(bytes + 1);
        if (text != NULL && read(file, text, bytes) != (ssize_t)bytes) {
            mem_free(text);
            text = NULL;
        }
    }
    if (text == NULL) {
        snprintf(error_out, error_bytes, "can't read %s: %s", path, strerror(errno));
    }
    if (file >= 0) {
        close(file);
    }
    return text;
}

/* gRPC's own listener for TLS, on an abstract socket that the relay connects to. */
static enum umbp_status listen_tls(struct rpc_server *server, char *error_out, size_t error_bytes)
{
    const struct rpc_options *options = &server->options;
    enum umbp_status status = UMBP_IO;
    char *authority = NULL;
    char name[64];
    char address[80];
    char *certificate = read_file(options->certificate_path, error_out, error_bytes);
    char *key = certificate ? read_file(options->key_path, error_out, error_bytes) : NULL;
    if (options->client_ca_path != NULL && key != NULL) {
        authority = read_file(options->client_ca_path, error_out, error_bytes);
    }
    if (certificate == NULL || key == NULL ||
        (options->client_ca_path != NULL && authority == NULL)) {
        goto out;
    }
    snprintf(name, sizeof name, "umbp-tls-%d-%llx", (int)getpid(),
             (unsigned long long)clock_now_ns(clock_monotonic()));
    snprintf(address, sizeof address, "unix-abstract:%s", name);
    grpc_ssl_pem_key_cert_pair pair = {.private_key = key, .cert_chain = certificate};
    grpc_server_credentials *credentials = grpc_ssl_server_credentials_create_ex(
        authority, &pair, 1,
        authority != NULL ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                          : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
        NULL);
    bool is_bound =
        credentials != NULL && grpc_server_add_http2_port(server->grpc, address, credentials) != 0;
    grpc_server_credentials_release(credentials);
    if (!is_bound) {
        snprintf(error_out, error_bytes, "%s and %s are not a certificate and its key",
                 options->certificate_path, options->key_path);
        status = UMBP_INVALID_VALUE;
        goto out;
    }
    status = rpc_relay_create(name, options->max_connections, &server->relay);
    if (status != UMBP_OK) {
        snprintf(error_out, error_bytes, "no relay for TLS: %s", umbp_status_text(status));
    }
out:
    if (key != NULL) {
        explicit_bzero(key, strlen(key));
    }
    mem_free(authority);
    mem_free(key);
    mem_free(certificate);
    return status;
}

static enum umbp_status listen_plain(struct rpc_server *server, char *error_out, size_t error_bytes)
{
    const struct rpc_options *options = &server->options;
    uint8_t signpost[PROTO_SIGNPOST_ANSWER_MAX];
    struct rpc_accept_options accept = {
        .addresses = options->addresses,
        .address_count = options->address_count,
        .max_connections = options->max_connections,
        .preface_timeout_ms = options->preface_timeout_ms,
        .signpost = signpost,
        .tls = options->certificate_path != NULL,
        .take = take,
        .take_tls = take_tls,
        .tick = tick,
        .context = server,
    };
    if (options->signpost != NULL) {
        enum umbp_status status = proto_signpost_encode(options->signpost, UMBP_OK, signpost,
                                                        sizeof signpost, &accept.signpost_bytes);
        ASSERT(status == UMBP_OK);
    }
    return rpc_accept_create(&accept, &server->accept, error_out, error_bytes);
}

static bool register_methods(struct rpc_server *server)
{
    for (size_t i = 0; i < server->method_count; i++) {
        server->methods[i].method = &server->options.methods[i];
        server->methods[i].registered =
            grpc_server_register_method(server->grpc, server->options.methods[i].path, NULL,
                                        GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER, 0);
        if (server->methods[i].registered == NULL) {
            return false;
        }
    }
    server->slot_count = server->method_count * SLOTS_A_METHOD + SLOTS_UNKNOWN;
    server->slots = mem_calloc(server->slot_count, sizeof server->slots[0]);
    if (server->slots == NULL) {
        return false;
    }
    for (size_t i = 0; i < server->slot_count; i++) {
        mutex_init(&server->slots[i].guard, RANK_LEAF);
        server->slots[i].method = &server->methods[i / SLOTS_A_METHOD];
        server->slots[i].message = grpc_empty_slice();
    }
    return true;
}

/* What gRPC has to say goes to our log, and not at the pace of a port scan. */
static void log_grpc(gpr_log_func_args *line)
{
    static struct log_limit limit;
    uint64_t held_back;
    if (line->severity == GPR_LOG_SEVERITY_ERROR && log_limit_pass(&limit, 10000, &held_back)) {
        log_warn("grpc", "message=\"%.300s\" held_back=%llu", line->message,
                 (unsigned long long)held_back);
    }
}

enum umbp_status rpc_server_create(const struct rpc_options *options,
                                   struct rpc_server **server_out, char *error_out,
                                   size_t error_bytes)
{
    struct rpc_server *server = mem_zalloc(sizeof *server);
    if (server == NULL) {
        snprintf(error_out, error_bytes, "out of memory");
        return UMBP_NO_MEMORY;
    }
    ASSERT(options->method_count <= METHODS_MAX);
    server->options = *options;
    server->method_count = options->method_count;
    fill_defaults(&server->options);
    rpc_budget_init(&server->budget, server->options.memory_bytes);
    mutex_init(&server->stop_guard, RANK_LEAF);
    condition_init(&server->is_idle);
    gpr_set_log_function(log_grpc);
    gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
    grpc_init();
    server->grpc = create_grpc(&server->options);
    server->plain = grpc_insecure_server_credentials_create();
    server->queue = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(server->grpc, server->queue, NULL);
    enum umbp_status status = UMBP_OK;
    if (!register_methods(server)) {
        snprintf(error_out, error_bytes, "out of memory");
        status = UMBP_NO_MEMORY;
    }
    if (status == UMBP_OK && options->certificate_path != NULL) {
        status = listen_tls(server, error_out, error_bytes);
    }
    if (status == UMBP_OK) {
        status = listen_plain(server, error_out, error_bytes);
    }
    if (status != UMBP_OK) {
        rpc_server_destroy(server);
        return status;
    }
    *server_out = server;
    return UMBP_OK;
}

enum umbp_status rpc_server_start(struct rpc_server *server)
{
    enum umbp_status status = UMBP_OK;
    ASSERT(!server->is_started);
    grpc_server_start(server->grpc);
    server->is_started = true;
    for (unsigned i = 0; status == UMBP_OK && i < server->options.min_pollers; i++) {
        status = thread_create(&server->pollers[i], "umbp-rpc", false, poll, server);
        if (status == UMBP_OK) {
            atomic_store_explicit(&server->poller_count, i + 1, memory_order_release);
        }
    }
    if (status == UMBP_OK) { /* only now: stopping waits for the slots, and needs pollers for it */
        atomic_store_explicit(&server->outstanding, (unsigned)server->slot_count,
                              memory_order_release);
        for (size_t i = 0; i < server->slot_count; i++) {
            request(server, &server->slots[i]);
        }
        status = rpc_accept_start(server->accept);
    }
    return status;
}

/* ------------------------------------------------------------------ stopping ----------- */

static bool wait_event(grpc_completion_queue *queue, uint64_t timeout_ms)
{
    gpr_timespec deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                         gpr_time_from_millis((int64_t)timeout_ms, GPR_TIMESPAN));
    return grpc_completion_queue_next(queue, deadline, NULL).type == GRPC_OP_COMPLETE;
}

static void drain(grpc_completion_queue *queue)
{
    grpc_completion_queue_shutdown(queue);
    while (grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type !=
           GRPC_QUEUE_SHUTDOWN) {
    }
    grpc_completion_queue_destroy(queue);
}

/* Until every slot is idle, and with it every handler has returned: a reply may not be begun on a
 * queue that has been shut down. */
static void wait_idle(struct rpc_server *server)
{
    mutex_lock(&server->stop_guard);
    while (atomic_load_explicit(&server->outstanding, memory_order_acquire) > 0) {
        (void)condition_wait(&server->is_idle, &server->stop_guard,
                             clock_deadline_ns(clock_monotonic(), 1000));
    }
    mutex_unlock(&server->stop_guard);
}

bool rpc_server_stop(struct rpc_server *server, uint32_t deadline_ms)
{
    ASSERT(server->is_started && !server->is_stopped);
    server->is_stopped = true;
    rpc_accept_stop(server->accept);
    grpc_completion_queue *done = grpc_completion_queue_create_for_next(NULL);
    /* release, with the acquire of poll. A slot asked for after it comes back as failed. */
    atomic_store_explicit(&server->is_stopping, true, memory_order_release);
    grpc_server_shutdown_and_notify(server->grpc, done, NULL);
    bool is_clean = wait_event(done, deadline_ms);
    if (!is_clean) {
        grpc_server_cancel_all_calls(server->grpc);
        rpc_relay_destroy(server->relay); /* connections that would not say good-bye */
        server->relay = NULL;
    }
    wait_idle(server);
    while (!is_clean && !wait_event(done, 1000)) {
        log_warn("rpc_stop", "waiting_for=connections");
    }
    drain(done);
    grpc_completion_queue_shutdown(server->queue);
    for (unsigned i = 0; i < atomic_load_explicit(&server->poller_count, memory_order_acquire);
         i++) {
        if (server->pollers[i] != 0) {
            pthread_join(server->pollers[i], NULL);
        }
    }
    return is_clean;
}

void rpc_server_destroy(struct rpc_server *server)
{
    if (server == NULL) {
        return;
    }
    if (server->is_started && !server->is_stopped) {
        (void)rpc_server_stop(server, 0);
    }
    rpc_accept_destroy(server->accept);
    rpc_relay_destroy(server->relay);
    if (!server->is_started) {
        /* gRPC wants a server shut down before it is destroyed, even one that never ran. */
        grpc_server_shutdown_and_notify(server->grpc, server->queue, NULL);
        (void)wait_event(server->queue, 1000);
    }
    grpc_server_destroy(server->grpc);
    grpc_server_credentials_release(server->plain);
    drain(server->queue);
    condition_fini(&server->is_idle);
    mutex_fini(&server->stop_guard);
    for (size_t i = 0; server->slots != NULL && i < server->slot_count; i++) {
        mutex_fini(&server->slots[i].guard);
    }
    mem_free(server->slots);
    mem_free(server);
    grpc_shutdown_blocking();
}

/* ------------------------------------------------------------------ asking ------------- */

const char *rpc_server_address(const struct rpc_server *server, size_t nth)
{
    return rpc_accept_address(server->accept, nth);
}

static uint64_t load(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

void rpc_server_stats(const struct rpc_server *server, struct rpc_stats *stats_out)
{
    const struct rpc_accept_stats *accept = rpc_accept_stats_of(server->accept);
    *stats_out = (struct rpc_stats){
        .connections = load(&accept->connections),
        .connections_refused = load(&accept->refused),
        .strangers = load(&accept->strangers),
        .signposts = load(&accept->signposts),
        .unknown_methods = load(&server->methods[server->method_count].count),
        .cancelled_slow = load(&server->cancelled_slow),
        .memory_left_bytes = load(&server->budget.left_bytes),
        .pollers = atomic_load_explicit(&server->poller_count, memory_order_relaxed),
        .calls_running = atomic_load_explicit(&server->running, memory_order_relaxed),
    };
}

bool rpc_server_method_stats(const struct rpc_server *server, size_t nth,
                             struct rpc_method_stats *stats_out)
{
    if (nth >= server->method_count) {
        return false;
    }
    const struct method *method = &server->methods[nth];
    stats_out->path = method->method->path;
    stats_out->count = load(&method->count);
    stats_out->sum_ns = load(&method->sum_ns);
    for (size_t i = 0; i < RPC_CODE_COUNT; i++) {
        stats_out->calls[i] = load(&method->calls[i]);
    }
    for (size_t i = 0; i < RPC_LATENCY_BUCKETS; i++) {
        stats_out->latency[i] = load(&method->latency[i]);
    }
    return true;
}
