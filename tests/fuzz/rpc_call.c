/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages to the master's gRPC methods, straight into decoding and handlers. The input is a list
 * of {method, u16 bytes, message}; all of them go to one master, in order. Afterwards the metrics
 * page must still be one, and the reply of each call must pack.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "metrics/metrics.h"
#include "rpc/rpc.h"

#define CALLS_MAX 64

static uint64_t frozen(void *context)
{
    (void)context;
    return UINT64_C(1000000000);
}

static void check(bool is_good)
{
    if (!is_good) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const struct clock_source clock = {frozen, NULL};
    struct rpc_budget budget;
    struct rpc_arena *arena = NULL;
    struct master_options options;
    struct rpc_master context = {.hit_query_max = 16};
    struct metrics_text *text = NULL;
    char error[128];
    log_level_set(UMBP_LOG_ERROR);
    master_options_default(&options);
    options.clock = &clock;
    options.seed = 1;
    options.incarnation = 1;
    options.index_shards = 1;
    options.nodes_max = 8;
    options.keys_max = 1024;
    options.external_keys_max = 1024;
    rpc_budget_init(&budget, 64 << 20);
    check(rpc_arena_create(&budget, &arena) == UMBP_OK);
    check(master_create(&options, &context.master, error, sizeof error) == UMBP_OK);
    check(metrics_registry_create(64, &clock, &context.metrics) == UMBP_OK);
    for (int calls = 0; bytes >= 3 && calls < CALLS_MAX; calls++) {
        const struct rpc_method *method = &rpc_master_methods[data[0] % rpc_master_method_count];
        size_t length = (size_t)data[1] | (size_t)data[2] << 8;
        data += 3;
        bytes -= 3;
        length = length < bytes ? length : bytes;
        struct rpc_call call;
        rpc_arena_reset(arena, (UINT64_C(1) << 20) + 16 * length);
        if (rpc_method_run(method, &context, arena, data, length, &call) == RPC_OK) {
            size_t reply_bytes = protobuf_c_message_get_packed_size(call.reply);
            uint8_t *reply = malloc(reply_bytes + 1);
            check(protobuf_c_message_pack(call.reply, reply) == reply_bytes);
            free(reply);
        } else {
            check(call.message != NULL);
        }
        data += length;
        bytes -= length;
    }
    const char *page;
    size_t page_bytes;
    check(metrics_text_create(16 << 20, &text) == UMBP_OK);
    metrics_registry_write(context.metrics, text);
    check(metrics_text_end(text, &page, &page_bytes) == UMBP_OK && strlen(page) == page_bytes);
    metrics_text_destroy(text);
    metrics_registry_destroy(context.metrics);
    master_destroy(context.master);
    rpc_arena_destroy(arena);
    check(budget.left_bytes == 64 << 20);
    return 0;
}
