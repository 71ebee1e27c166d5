/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small blocking gRPC client for tests, on the same C core that the server stands on (the public
 * Python stack is the other side in tests/python). One thread a client. grpc_init is the caller's:
 * the server's create has done it.
 */
#ifndef TEST_RPC_CLIENT_H
#define TEST_RPC_CLIENT_H

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

struct client {
    grpc_channel *channel;
    grpc_completion_queue *queue;
};

struct answer {
    int code;
    char message[256];
    uint8_t *bytes; /* malloc'ed, or NULL */
    size_t count;
};

static inline void client_open_with(struct client *client, const char *target,
                                    grpc_channel_credentials *credentials, const char *authority)
{
    grpc_arg list[] = {
        {.type = GRPC_ARG_INTEGER,
         .key = (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
         .value.integer = -1},
        {.type = GRPC_ARG_INTEGER,
         .key = (char *)GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL,
         .value.integer = 1},
        {.type = GRPC_ARG_STRING,
         .key = (char *)GRPC_SSL_TARGET_NAME_OVERRIDE_ARG,
         .value.string = (char *)authority},
    };
    const grpc_channel_args args = {.num_args = authority != NULL ? 3 : 2, .args = list};
    client->channel = grpc_channel_create(target, credentials, &args);
    client->queue = grpc_completion_queue_create_for_pluck(NULL);
    grpc_channel_credentials_release(credentials);
    assert_non_null(client->channel);
}

static inline void client_open(struct client *client, const char *target)
{
    client_open_with(client, target, grpc_insecure_credentials_create(), NULL);
}

static inline void client_close(struct client *client)
{
    grpc_channel_destroy(client->channel);
    grpc_completion_queue_shutdown(client->queue);
    while (
        grpc_completion_queue_pluck(client->queue, NULL, gpr_inf_future(GPR_CLOCK_REALTIME), NULL)
            .type != GRPC_QUEUE_SHUTDOWN) {
    }
    grpc_completion_queue_destroy(client->queue);
}

/* One unary call. `bytes` NULL sends no message at all. */
static inline void client_call(struct client *client, const char *path, const void *bytes,
                               size_t count, unsigned timeout_ms, struct answer *answer)
{
    grpc_op ops[6];
    size_t op_count = 0;
    grpc_metadata_array initial, trailing;
    grpc_byte_buffer *request = NULL;
    grpc_byte_buffer *reply = NULL;
    grpc_status_code code = GRPC_STATUS_UNKNOWN;
    grpc_slice details = grpc_empty_slice();
    gpr_timespec deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                         gpr_time_from_millis((int64_t)timeout_ms, GPR_TIMESPAN));
    grpc_slice method = grpc_slice_from_copied_string(path);
    grpc_call *call = grpc_channel_create_call(client->channel, NULL, GRPC_PROPAGATE_DEFAULTS,
                                               client->queue, method, NULL, deadline, NULL);
    grpc_metadata_array_init(&initial);
    grpc_metadata_array_init(&trailing);
    memset(ops, 0, sizeof ops);
    ops[op_count++].op = GRPC_OP_SEND_INITIAL_METADATA;
    if (bytes != NULL) {
        grpc_slice slice = grpc_slice_from_copied_buffer(bytes, count);
        request = grpc_raw_byte_buffer_create(&slice, 1);
        grpc_slice_unref(slice);
        ops[op_count].op = GRPC_OP_SEND_MESSAGE;
        ops[op_count++].data.send_message.send_message = request;
    }
    ops[op_count++].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[op_count].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[op_count++].data.recv_initial_metadata.recv_initial_metadata = &initial;
    ops[op_count].op = GRPC_OP_RECV_MESSAGE;
    ops[op_count++].data.recv_message.recv_message = &reply;
    ops[op_count].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[op_count].data.recv_status_on_client.trailing_metadata = &trailing;
    ops[op_count].data.recv_status_on_client.status = &code;
    ops[op_count++].data.recv_status_on_client.status_details = &details;
    assert_int_equal(grpc_call_start_batch(call, ops, op_count, call, NULL), GRPC_CALL_OK);
    grpc_event event =
        grpc_completion_queue_pluck(client->queue, call, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    assert_int_equal(event.type, GRPC_OP_COMPLETE);
    memset(answer, 0, sizeof *answer);
    answer->code = code;
    snprintf(answer->message, sizeof answer->message, "%.*s", (int)GRPC_SLICE_LENGTH(details),
             (const char *)GRPC_SLICE_START_PTR(details));
    if (reply != NULL) {
        grpc_byte_buffer_reader reader;
        assert_true(grpc_byte_buffer_reader_init(&reader, reply));
        grpc_slice whole = grpc_byte_buffer_reader_readall(&reader);
        answer->count = GRPC_SLICE_LENGTH(whole);
        answer->bytes = malloc(answer->count + 1);
        memcpy(answer->bytes, GRPC_SLICE_START_PTR(whole), answer->count);
        grpc_slice_unref(whole);
        grpc_byte_buffer_reader_destroy(&reader);
        grpc_byte_buffer_destroy(reply);
    }
    if (request != NULL) {
        grpc_byte_buffer_destroy(request);
    }
    grpc_slice_unref(details);
    grpc_slice_unref(method);
    grpc_metadata_array_destroy(&initial);
    grpc_metadata_array_destroy(&trailing);
    grpc_call_unref(call);
}

static inline void answer_free(struct answer *answer)
{
    free(answer->bytes);
    answer->bytes = NULL;
}

#endif
