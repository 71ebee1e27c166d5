/* SPDX-License-Identifier: Apache-2.0 */
/*
 * umbp_bench_grpc [--json] [--keys N] [--rounds N] [--calls N] [--pollers N]
 *
 * What BatchLookup, BatchRouteGet and BatchRoutePut of 128 keys cost over gRPC, beyond an empty
 * call whose request and reply have the same sizes, in the same run and over the same connection.
 * The server is another process; its index holds N keys of 70 bytes on 8 nodes, half of the keys
 * asked for are there. Rounds of the four take turns, so that a busy machine is busy for all; the
 * figure is the median of the rounds' ratios.
 */
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <umbp_wire.pb-c.h>
#include <unistd.h>

#include "masterd/masterd.h"

#define BATCH 128u
#define KEY_BYTES 70u
#define NODES 8u
#define CHUNK 4096u
#define ROUNDS_MAX 64u
#define KINDS 4u
#define EMPTY_PATH "/umbp.Bench/Empty"

extern char **environ;

struct settings {
    bool as_json;
    bool serves;
    uint64_t keys;
    uint64_t rounds;
    uint64_t calls;
    uint64_t pollers;
};

static void make_key(uint64_t number, char key[KEY_BYTES + 1])
{
    uint64_t hash = hash_bytes(&number, sizeof number, 7);
    snprintf(key, KEY_BYTES + 1, "%016" PRIx64 "%016" PRIx64 "%016" PRIx64 "%016" PRIx64 "_%05u",
             hash, ~hash, hash * 3, hash * 5, (unsigned)(number % 100000));
}

/* ------------------------------------------------------------------------ server ------- */

static enum rpc_code reply_empty(void *context, struct rpc_call *call)
{
    static protobuf_c_boolean found[BATCH];
    Umbp__BatchLookupResponse *reply = (Umbp__BatchLookupResponse *)call->reply;
    (void)context;
    reply->found = found;
    reply->n_found = BATCH;
    return RPC_OK;
}

static bool fill_node(struct master *master, unsigned node, uint64_t keys)
{
    static struct master_event events[CHUNK];
    char id[16], key[KEY_BYTES + 1];
    struct master_registered registered;
    struct master_beat_answer answer;
    struct master_registration registration = {.has_capacities = true, .incarnation = 1};
    registration.capacities[MASTER_TIER_DRAM] = (struct master_capacity){
        .total_bytes = UINT64_C(1) << 50, .available_bytes = UINT64_C(1) << 49};
    snprintf(id, sizeof id, "node%u", node);
    registration.id = master_text_of(id);
    registration.peer_address = master_text_of("10.0.0.1:7000");
    bool is_good = master_register(master, &registration, &registered) == UMBP_OK;
    struct master_bundle bundle = {.sequence = 1, .events = events};
    uint64_t at = node;
    while (is_good && at < keys) {
        for (bundle.count = 0; bundle.count < CHUNK && at < keys; at += NODES) {
            make_key(at, key);
            events[bundle.count++] = (struct master_event){.print = hash_key(key, KEY_BYTES, 0),
                                                           .bytes = 1 << 20,
                                                           .tier = MASTER_TIER_DRAM,
                                                           .is_add = true,
                                                           .depth = UMBP_DEPTH_NONE};
        }
        const struct master_beat beat = {
            .id = registration.id, .incarnation = 1, .bundles = &bundle, .bundle_count = 1};
        is_good = master_beat(master, &beat, &answer) == UMBP_OK &&
                  answer.acked_sequence == bundle.sequence;
        bundle.sequence++;
    }
    return is_good;
}

static int serve(const struct settings *settings)
{
    char error[256];
    struct master_options core;
    struct rpc_master context = {0};
    struct rpc_method methods[32];
    struct rpc_server *server = NULL;
    static const char *const addresses[] = {"127.0.0.1:0"};
    master_options_default(&core);
    if (master_create(&core, &context.master, error, sizeof error) != UMBP_OK) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    for (unsigned i = 0; i < NODES; i++) {
        if (!fill_node(context.master, i, settings->keys)) {
            fprintf(stderr, "the index can't be filled\n");
            return 1;
        }
    }
    ASSERT(rpc_master_method_count < ARRAY_COUNT(methods));
    memcpy(methods, rpc_master_methods, rpc_master_method_count * sizeof methods[0]);
    methods[rpc_master_method_count] =
        (struct rpc_method){EMPTY_PATH, &umbp__buffer_memory_desc__descriptor,
                            &umbp__batch_lookup_response__descriptor, reply_empty};
    const struct rpc_options options = {
        .methods = methods,
        .method_count = rpc_master_method_count + 1,
        .context = &context,
        .addresses = addresses,
        .address_count = 1,
        .min_pollers = (unsigned)settings->pollers,
    };
    if (rpc_server_create(&options, &server, error, sizeof error) != UMBP_OK ||
        rpc_server_start(server) != UMBP_OK) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    printf("%s\n", rpc_server_address(server, 0));
    fflush(stdout);
    (void)!getchar(); /* until the other side is gone */
    (void)rpc_server_stop(server, 100);
    rpc_server_destroy(server);
    master_destroy(context.master);
    return 0;
}

/* ------------------------------------------------------------------------ client ------- */

struct kind {
    const char *name;
    const char *path;
    grpc_byte_buffer *request;
    size_t request_bytes;
    size_t reply_bytes;
    double round_us[ROUNDS_MAX];
};

struct client {
    grpc_channel *channel;
    grpc_completion_queue *queue;
};

static grpc_byte_buffer *pack(const ProtobufCMessage *message, size_t *bytes_out)
{
    *bytes_out = protobuf_c_message_get_packed_size(message);
    grpc_slice slice = grpc_slice_malloc(*bytes_out);
    (void)protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

static bool call(const struct client *client, const struct kind *kind, size_t *reply_bytes_out)
{
    grpc_op ops[6];
    grpc_metadata_array initial, trailing;
    grpc_byte_buffer *reply = NULL;
    grpc_status_code code = GRPC_STATUS_UNKNOWN;
    grpc_slice details = grpc_empty_slice();
    grpc_call *one = grpc_channel_create_call(
        client->channel, NULL, GRPC_PROPAGATE_DEFAULTS, client->queue,
        grpc_slice_from_static_string(kind->path), NULL,
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_seconds(20, GPR_TIMESPAN)), NULL);
    grpc_metadata_array_init(&initial);
    grpc_metadata_array_init(&trailing);
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    grpc_byte_buffer *request = grpc_byte_buffer_copy(kind->request); /* sending empties it */
    ops[1].data.send_message.send_message = request;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &initial;
    ops[4].op = GRPC_OP_RECV_MESSAGE;
    ops[4].data.recv_message.recv_message = &reply;
    ops[5].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[5].data.recv_status_on_client.trailing_metadata = &trailing;
    ops[5].data.recv_status_on_client.status = &code;
    ops[5].data.recv_status_on_client.status_details = &details;
    bool is_good =
        grpc_call_start_batch(one, ops, ARRAY_COUNT(ops), one, NULL) == GRPC_CALL_OK &&
        grpc_completion_queue_pluck(client->queue, one, gpr_inf_future(GPR_CLOCK_REALTIME), NULL)
                .type == GRPC_OP_COMPLETE;
    is_good = is_good && code == GRPC_STATUS_OK && reply != NULL;
    if (reply != NULL) {
        *reply_bytes_out = grpc_byte_buffer_length(reply);
        grpc_byte_buffer_destroy(reply);
    }
    grpc_byte_buffer_destroy(request);
    grpc_slice_unref(details);
    grpc_metadata_array_destroy(&initial);
    grpc_metadata_array_destroy(&trailing);
    grpc_call_unref(one);
    return is_good;
}

static void make_requests(struct kind *kinds, const struct settings *settings)
{
    static char keys[BATCH][KEY_BYTES + 1];
    static ProtobufCBinaryData data[BATCH];
    static uint64_t sizes[BATCH];
    static uint8_t blank[BATCH * (KEY_BYTES + 2)];
    for (uint64_t i = 0; i < BATCH; i++) {
        make_key(i * 7919 % settings->keys + (i % 2) * settings->keys, keys[i]);
        data[i] = (ProtobufCBinaryData){KEY_BYTES, (uint8_t *)keys[i]};
        sizes[i] = 1 << 20;
    }
    Umbp__BatchLookupRequest lookup = UMBP__BATCH_LOOKUP_REQUEST__INIT;
    lookup.n_keys = BATCH;
    lookup.keys = data;
    Umbp__BatchRouteGetRequest get = UMBP__BATCH_ROUTE_GET_REQUEST__INIT;
    get.n_keys = BATCH;
    get.keys = data;
    Umbp__BatchRoutePutRequest put = UMBP__BATCH_ROUTE_PUT_REQUEST__INIT;
    put.n_keys = BATCH;
    put.keys = data;
    put.n_block_sizes = BATCH;
    put.block_sizes = sizes;
    Umbp__BufferMemoryDesc empty = UMBP__BUFFER_MEMORY_DESC__INIT;
    empty.desc = (ProtobufCBinaryData){sizeof blank - 3, blank}; /* its own tag and length */
    kinds[0] = (struct kind){.name = "empty", .path = EMPTY_PATH};
    kinds[0].request = pack(&empty.base, &kinds[0].request_bytes);
    kinds[1] = (struct kind){.name = "batch_lookup", .path = "/umbp.UMBPMaster/BatchLookup"};
    kinds[1].request = pack(&lookup.base, &kinds[1].request_bytes);
    kinds[2] = (struct kind){.name = "batch_route_get", .path = "/umbp.UMBPMaster/BatchRouteGet"};
    kinds[2].request = pack(&get.base, &kinds[2].request_bytes);
    kinds[3] = (struct kind){.name = "batch_route_put", .path = "/umbp.UMBPMaster/BatchRoutePut"};
    kinds[3].request = pack(&put.base, &kinds[3].request_bytes);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts them. */
static double median(double *values, size_t count)
{
    qsort(values, count, sizeof values[0], compare);
    return values[count / 2];
}

/* Call by call in turns: what disturbs one disturbs the next too. */
static bool run_round(const struct client *client, struct kind *kinds, uint64_t calls,
                      double *times, double *medians_out)
{
    for (uint64_t i = 0; i < calls; i++) {
        for (size_t k = 0; k < KINDS; k++) {
            uint64_t begin = clock_now_ns(clock_monotonic());
            if (!call(client, &kinds[k], &kinds[k].reply_bytes)) {
                fprintf(stderr, "a call of %s failed\n", kinds[k].name);
                return false;
            }
            uint64_t ns = clock_now_ns(clock_monotonic()) - begin;
            times[k * calls + i] = (double)ns / (double)NS_PER_US;
        }
    }
    for (size_t k = 0; k < KINDS; k++) {
        medians_out[k] = median(times + k * calls, calls);
    }
    return true;
}

static bool run_rounds(const struct client *client, struct kind *kinds,
                       const struct settings *settings)
{
    double medians[KINDS];
    double *times = mem_calloc(KINDS * settings->calls, sizeof times[0]);
    bool is_good = times != NULL;
    for (uint64_t round = 0; is_good && round <= settings->rounds; round++) {
        is_good = run_round(client, kinds, settings->calls, times, medians);
        for (size_t k = 0; round > 0 && k < KINDS; k++) { /* the first warms up */
            kinds[k].round_us[round - 1] = medians[k];
        }
    }
    mem_free(times);
    return is_good;
}

static void report(struct kind *kinds, const struct settings *settings)
{
    printf(settings->as_json ? "{\"keys\": %" PRIu64 ", \"batch\": %u"
                             : "%" PRIu64 " keys of 70 bytes, batches of %u\n",
           settings->keys, BATCH);
    double ratios[KINDS][ROUNDS_MAX];
    for (size_t k = 0; k < KINDS; k++) {
        for (size_t i = 0; i < settings->rounds; i++) {
            ratios[k][i] = kinds[k].round_us[i] / kinds[0].round_us[i];
        }
    }
    for (size_t k = 0; k < KINDS; k++) {
        printf(settings->as_json
                   ? ", \"%s\": {\"us\": %.1f, \"ratio\": %.3f, \"request_bytes\": %zu, "
                     "\"reply_bytes\": %zu}"
                   : "%-16s %8.1f us   %5.2f x empty   request %zu bytes, reply %zu\n",
               kinds[k].name, median(kinds[k].round_us, settings->rounds),
               median(ratios[k], settings->rounds), kinds[k].request_bytes, kinds[k].reply_bytes);
    }
    printf(settings->as_json ? "}\n" : "");
}

static int bench(const struct settings *settings, const char *address)
{
    static struct kind kinds[KINDS];
    struct client client;
    grpc_init();
    grpc_channel_credentials *plain = grpc_insecure_credentials_create();
    client.channel = grpc_channel_create(address, plain, NULL);
    client.queue = grpc_completion_queue_create_for_pluck(NULL);
    make_requests(kinds, settings);
    bool is_good = run_rounds(&client, kinds, settings);
    if (is_good) {
        report(kinds, settings);
    }
    return is_good ? 0 : 1;
}

/* Another process, before there is any gRPC in this one. */
static pid_t spawn_server(char **arguments, int count, int *in_out, int *out_out)
{
    char *copy[16] = {arguments[0], (char *)"--serve"};
    int in[2], out[2];
    pid_t pid = -1;
    posix_spawn_file_actions_t actions;
    for (int i = 1; i < count && i < 13; i++) {
        copy[i + 1] = arguments[i];
    }
    if (pipe(in) != 0 || pipe(out) != 0) {
        return -1;
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_addclose(&actions, in[1]);
    posix_spawn_file_actions_addclose(&actions, out[0]);
    if (posix_spawn(&pid, "/proc/self/exe", &actions, NULL, copy, environ) != 0) {
        pid = -1;
    }
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    *in_out = in[1];
    *out_out = out[0];
    return pid;
}

static bool parse(struct settings *settings, int count, char **arguments)
{
    const struct {
        const char *name;
        uint64_t *value;
        uint64_t most;
    } numbers[] = {
        {"--keys", &settings->keys, 100000000},
        {"--rounds", &settings->rounds, ROUNDS_MAX},
        {"--calls", &settings->calls, 1000000},
        {"--pollers", &settings->pollers, 64},
    };
    for (int i = 1; i < count; i++) {
        bool is_known = true;
        if (strcmp(arguments[i], "--json") == 0) {
            settings->as_json = true;
        } else if (strcmp(arguments[i], "--serve") == 0) {
            settings->serves = true;
        } else {
            is_known = false;
        }
        for (size_t k = 0; !is_known && k < ARRAY_COUNT(numbers) && i + 1 < count; k++) {
            if (strcmp(arguments[i], numbers[k].name) == 0) {
                is_known = units_parse_count(arguments[++i], numbers[k].value) &&
                           *numbers[k].value > 0 && *numbers[k].value <= numbers[k].most;
                break;
            }
        }
        if (!is_known) {
            fprintf(stderr, "usage: umbp_bench_grpc [--json] [--keys N] [--rounds N] [--calls N] "
                            "[--pollers N]\n");
            return false;
        }
    }
    return true;
}

int main(int count, char **arguments)
{
    struct settings settings = {.keys = 1000000, .rounds = 7, .calls = 1000, .pollers = 2};
    char address[128] = "";
    int in = -1, out = -1;
    if (!parse(&settings, count, arguments)) {
        return 2;
    }
    if (settings.serves) {
        return serve(&settings);
    }
    pid_t server = spawn_server(arguments, count, &in, &out);
    ssize_t got = server > 0 ? read(out, address, sizeof address - 1) : 0;
    int code = 1;
    if (got > 1) {
        address[got - 1] = '\0';
        code = bench(&settings, address);
    }
    close(in);
    if (server > 0) {
        (void)waitpid(server, NULL, 0);
    }
    return code;
}
