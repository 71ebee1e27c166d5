/* SPDX-License-Identifier: Apache-2.0 */
/*
 * EvictKey on gRPC's C core. What a peer may do to us is bounded: its answer by
 * ANSWER_BYTES_MAX and an arena, its metadata, and the call's time by the deadline; it can't have
 * us look up a service config, follow a proxy or inflate anything.
 */
#include "rpc/rpc_priv.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <umbp_peer_wire.pb-c.h>

#define EVICT_PATH "/umbp.UMBPPeer/EvictKey"
/* An answer names each key once, with some ten bytes besides. */
#define ANSWER_BYTES_MAX (4 * RPC_EVICT_BYTES_MAX)
#define METADATA_BYTES_MAX (16 * 1024)
#define IDLE_MS 60000 /* then the connection is closed; the channel stays */

struct rpc_peer {
    grpc_channel *channel;
    void *context;
    size_t sent; /* keys of the call */

    grpc_call *call;
    grpc_metadata_array initial;
    grpc_metadata_array trailing;
    grpc_byte_buffer *request;
    grpc_byte_buffer *answer;
    grpc_status_code status;
    grpc_slice details;
};

/* ---------------------------------------------------------------- addresses ------------ */

static bool is_one_of(char character, const char *others)
{
    return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z') ||
           (character >= '0' && character <= '9') || strchr(others, character) != NULL;
}

enum umbp_status rpc_peer_target(const char *address, char target_out[RPC_PEER_TARGET_BYTES])
{
    const char *colon = strrchr(address, ':');
    uint64_t port;
    if (colon == NULL || colon == address || !units_parse_count(colon + 1, &port) || port == 0 ||
        port > UINT16_MAX) {
        return UMBP_INVALID_VALUE;
    }
    const char *begin = address;
    const char *end = colon;
    bool is_v6 = *begin == '[';
    if (is_v6) {
        if (end - begin < 3 || end[-1] != ']') {
            return UMBP_INVALID_VALUE;
        }
        begin++;
        end--;
    }
    for (const char *at = begin; at < end; at++) {
        if (!is_one_of(*at, is_v6 ? ":." : ".-_")) {
            return UMBP_INVALID_VALUE;
        }
    }
    int bytes = snprintf(target_out, RPC_PEER_TARGET_BYTES, "dns:///%.*s:%u",
                         (int)(colon - address), address, (unsigned)port);
    return bytes > 0 && bytes < (int)RPC_PEER_TARGET_BYTES ? UMBP_OK : UMBP_INVALID_VALUE;
}

/* ----------------------------------------------------------------- channels ------------ */

static grpc_arg integer(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

enum umbp_status rpc_peer_open(const char *target, void *context, struct rpc_peer **peer_out)
{
    grpc_arg list[] = {
        integer(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)ANSWER_BYTES_MAX),
        integer(GRPC_ARG_MAX_METADATA_SIZE, METADATA_BYTES_MAX),
        integer(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1), /* its connection ends with the channel */
        integer(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
        integer(GRPC_ARG_ENABLE_RETRIES, 0),
        integer(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        integer(GRPC_ARG_ENABLE_CHANNELZ, 0),
        integer(GRPC_ARG_CLIENT_IDLE_TIMEOUT_MS, IDLE_MS),
        integer(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
        integer(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE),
    };
    const grpc_channel_args args = {.num_args = ARRAY_COUNT(list), .args = list};
    struct rpc_peer *peer = mem_zalloc(sizeof *peer);
    if (peer == NULL) {
        return UMBP_NO_MEMORY;
    }
    grpc_channel_credentials *plain = grpc_insecure_credentials_create();
    peer->channel = grpc_channel_create(target, plain, &args);
    peer->context = context;
    grpc_channel_credentials_release(plain);
    *peer_out = peer;
    return UMBP_OK;
}

void *rpc_peer_context(const struct rpc_peer *peer) { return peer->context; }

void rpc_peer_close(struct rpc_peer *peer)
{
    if (peer != NULL) {
        ASSERT(peer->call == NULL);
        grpc_channel_destroy(peer->channel);
        mem_free(peer);
    }
}

/* -------------------------------------------------------------------- calls ------------ */

static grpc_byte_buffer *pack(const ProtobufCBinaryData *keys, size_t count)
{
    Umbp__EvictKeyRequest request = UMBP__EVICT_KEY_REQUEST__INIT;
    request.keys = (ProtobufCBinaryData *)keys; /* protobuf-c does not write to it */
    request.n_keys = count;
    grpc_slice slice = grpc_slice_malloc(umbp__evict_key_request__get_packed_size(&request));
    (void)umbp__evict_key_request__pack(&request, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

void rpc_peer_call(struct rpc_peer *peer, void *queue, const ProtobufCBinaryData *keys,
                   size_t count, uint32_t deadline_ms)
{
    grpc_op ops[6];
    ASSERT(peer->call == NULL);
    peer->sent = count;
    peer->request = pack(keys, count);
    peer->answer = NULL;
    peer->status = GRPC_STATUS_UNKNOWN;
    peer->details = grpc_empty_slice();
    grpc_metadata_array_init(&peer->initial);
    grpc_metadata_array_init(&peer->trailing);
    peer->call = grpc_channel_create_call(
        peer->channel, NULL, GRPC_PROPAGATE_DEFAULTS, queue,
        grpc_slice_from_static_string(EVICT_PATH), NULL,
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(deadline_ms, GPR_TIMESPAN)),
        NULL);
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = peer->request;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &peer->initial;
    ops[4].op = GRPC_OP_RECV_MESSAGE;
    ops[4].data.recv_message.recv_message = &peer->answer;
    ops[5].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[5].data.recv_status_on_client.trailing_metadata = &peer->trailing;
    ops[5].data.recv_status_on_client.status = &peer->status;
    ops[5].data.recv_status_on_client.status_details = &peer->details;
    grpc_call_error error = grpc_call_start_batch(peer->call, ops, ARRAY_COUNT(ops), peer, NULL);
    ASSERT(error == GRPC_CALL_OK);
}

void rpc_peer_cancel(struct rpc_peer *peer)
{
    if (peer->call != NULL) {
        (void)grpc_call_cancel(peer->call, NULL);
    }
}

/* NULL: it is none, or too large for the arena. */
static Umbp__EvictKeyResponse *decode(grpc_byte_buffer *buffer, struct rpc_arena *arena)
{
    grpc_byte_buffer_reader reader;
    Umbp__EvictKeyResponse *answer = NULL;
    if (buffer->type != GRPC_BB_RAW || buffer->data.raw.compression != GRPC_COMPRESS_NONE ||
        !grpc_byte_buffer_reader_init(&reader, buffer)) {
        return NULL;
    }
    grpc_slice whole = grpc_byte_buffer_reader_readall(&reader);
    size_t bytes = GRPC_SLICE_LENGTH(whole);
    rpc_arena_reset(arena, bytes + rpc_decode_limit(bytes)); /* texts are copied into it */
    answer = (Umbp__EvictKeyResponse *)rpc_unpack(&umbp__evict_key_response__descriptor, arena,
                                                  GRPC_SLICE_START_PTR(whole), bytes);
    grpc_slice_unref(whole);
    grpc_byte_buffer_reader_destroy(&reader);
    return answer;
}

/* The numbers are the peer's word; they are held to what can be. */
static void add_up(const Umbp__EvictKeyResponse *answer, size_t sent,
                   struct rpc_peer_result *result)
{
    for (size_t i = 0; i < answer->n_evicted && result->keys_freed < sent; i++) {
        uint64_t bytes = answer->evicted[i]->bytes_freed;
        result->keys_freed += bytes > 0;
        result->bytes_freed += u64_min(bytes, MASTER_VALUE_BYTES_MAX);
    }
}

static void take_message(const char *text, size_t bytes, struct rpc_peer_result *result)
{
    bytes = size_min(bytes, sizeof result->message - 1);
    for (size_t i = 0; i < bytes; i++) {
        char one = text[i];
        result->message[i] = (char)(one < 0x20 || one > 0x7e ? '?' : one == '"' ? '\'' : one);
    }
    result->message[bytes] = '\0';
}

void rpc_peer_finish(struct rpc_peer *peer, struct rpc_arena *arena,
                     struct rpc_peer_result *result_out)
{
    static const char garbage[] = "the answer is no EvictKeyResponse";
    struct rpc_peer_result result = {.code = RPC_UNKNOWN};
    ASSERT(peer->call != NULL);
    if ((unsigned)peer->status < RPC_CODE_COUNT) {
        result.code = (enum rpc_code)peer->status;
    }
    if (result.code != RPC_OK) {
        take_message((const char *)GRPC_SLICE_START_PTR(peer->details),
                     GRPC_SLICE_LENGTH(peer->details), &result);
    } else {
        Umbp__EvictKeyResponse *answer = peer->answer != NULL ? decode(peer->answer, arena) : NULL;
        if (answer != NULL) {
            add_up(answer, peer->sent, &result);
        } else {
            result.code = RPC_INTERNAL;
            take_message(garbage, sizeof garbage - 1, &result);
        }
        rpc_arena_reset(arena, 0);
    }
    grpc_byte_buffer_destroy(peer->request);
    if (peer->answer != NULL) {
        grpc_byte_buffer_destroy(peer->answer);
    }
    grpc_slice_unref(peer->details);
    grpc_metadata_array_destroy(&peer->initial);
    grpc_metadata_array_destroy(&peer->trailing);
    grpc_call_unref(peer->call);
    peer->call = NULL;
    *result_out = result;
}
