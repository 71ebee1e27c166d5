/* SPDX-License-Identifier: Apache-2.0 */
/* The node's port: whatever a peer says, when it has gone nothing is held for it, and the store
 * goes on. */
#include "port_fuzz.h"

#include "node/node.h"

static struct port port;

static void run_job(void *context)
{
    struct node_job *job = context;
    job->work(job);
    job->done(job);
}

static void run(void *context, struct node_job *job)
{
    (void)context;
    fabric_sim_after(port.sim, port.served, 1000, run_job, job);
}

static void nothing_is_held(const struct node *node)
{
    struct umbp_stat_value values[64];
    size_t count = 0;
    node_stats(node, values, 64, &count);
    for (size_t i = 0; i < count && i < 64; i++) {
        size_t length = strlen(values[i].name);
        if (length > 4 && strcmp(values[i].name + length - 4, "_now") == 0) {
            check(values[i].value == 0);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const struct node_runner runner = {run, NULL};
    const struct fabric_sim_options sim_options = {.seed = 1};
    const struct umbp_key key = {"k", 1};
    struct store_options options;
    struct store *store = NULL;
    struct node *node = NULL;
    uint8_t value[5000];
    enum umbp_status status = UMBP_BUSY;
    char error[256];

    log_level_set(UMBP_LOG_ERROR);
    port = (struct port){0};
    check(fabric_sim_create(&sim_options, &port.sim) == UMBP_OK);
    store_options_default(&options);
    options.dram.bytes = 1 << 20;
    options.dram.page_bytes = 64 << 10;
    options.dram.prefault = false;
    options.copy_threads = 1;
    options.shards = 1;
    options.event_bytes = 64 << 10;
    options.op_timeout_ms = 100;
    check(store_create(&options, &store, error, sizeof(error)) == UMBP_OK);
    memset(value, 7, sizeof(value));
    const struct umbp_put_item put = {.key = key, .data = value, .bytes = sizeof(value)};
    check(store_batch_put(store, &put, 1, &status) == UMBP_OK && status == UMBP_OK);
    const struct node_options node_options = {.store = store,
                                              .hash_seed = 7,
                                              .id = "n",
                                              .incarnation = 1,
                                              .runner = &runner,
                                              .staging_bytes = 64 << 10,
                                              .staging_slots = 2,
                                              .operations_max = 8,
                                              .slots_max = 8,
                                              .slot_ms = 300,
                                              .pin_ms = 300};
    check(node_create(&node_options, &node) == UMBP_OK);
    struct fabric_handlers handlers = node_handlers(node);
    port_open(&port, &handlers);
    check(node_start(node, port.served) == UMBP_OK);
    port_connect(&port);
    port_hear(&port, data, bytes);
    port_close_asker(&port);
    nothing_is_held(node);
    memset(value, 0, sizeof(value));
    const struct umbp_get_item get = {.key = key, .data = value, .bytes = sizeof(value)};
    check(store_batch_get(store, &get, 1, &status) == UMBP_OK);
    check(status == UMBP_OK || status == UMBP_NOT_FOUND || status == UMBP_SIZE_MISMATCH);
    check(fabric_close(port.served, 0) == UMBP_OK);
    node_destroy(node);
    fabric_destroy(port.served);
    store_destroy(store);
    fabric_sim_destroy(port.sim);
    free(port.memory);
    return 0;
}
