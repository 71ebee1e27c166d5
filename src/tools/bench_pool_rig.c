/* SPDX-License-Identifier: Apache-2.0 */
/* What the benches of the pool share. */
#include "tools/bench_pool.h"

#include <inttypes.h>

#define CLOSE_MS 5000u
#define NODE_BYTES (768 * MIB)
#define SPIN_US 20u /* the default of pool.spin_us, and of the master's door */

static bool set(struct umbp_config *config, const char *option, const char *value)
{
    return umbp_config_set(config, option, value) == UMBP_OK;
}

struct umbp_client *pool_rig_client(struct bench *bench, const struct tool_cluster *cluster,
                                    bool same_host)
{
    struct umbp_config *config = NULL;
    struct umbp_client *client = NULL;
    char why[512] = "";
    enum umbp_status status = umbp_config_create(&config);
    if (status == UMBP_OK &&
        !(set(config, "scheme", "pool") && set(config, "pool.serve", "false") &&
          set(config, "ssd.enabled", "false") && set(config, "pool.masters", cluster->address) &&
          set(config, "pool.same_host", same_host ? "true" : "false"))) {
        status = UMBP_INVALID_VALUE;
    }
    if (status == UMBP_OK) {
        status = umbp_client_create(config, &client, why, sizeof why);
    }
    umbp_config_destroy(config);
    if (status != UMBP_OK) {
        bench_fail(bench, "a client of the pool: %s", why[0] ? why : umbp_status_text(status));
        return NULL;
    }
    return client;
}

static void close_client(struct umbp_client *client)
{
    if (client != NULL) {
        (void)!umbp_client_close(client, CLOSE_MS);
        umbp_client_destroy(client);
    }
}

static void rig_destroy(void *context)
{
    struct pool_rig *rig = context;
    close_client(rig->reader);
    close_client(rig->tcp);
    close_client(rig->host);
    tool_cluster_fini(&rig->cluster);
    bench_wire_destroy(rig->wire);
    if (rig->user.map != NULL) {
        bench_arena_destroy(&rig->user);
    }
    mem_free(rig->statuses);
    mem_free(rig->puts);
    mem_free(rig->gets);
    mem_free(rig);
}

static bool rig_memory(struct pool_rig *rig)
{
    rig->statuses = mem_calloc(POOL_RIG_ITEMS, sizeof *rig->statuses);
    rig->puts = mem_calloc(POOL_RIG_ITEMS, sizeof *rig->puts);
    rig->gets = mem_calloc(POOL_RIG_ITEMS, sizeof *rig->gets);
    if (rig->statuses == NULL || rig->puts == NULL || rig->gets == NULL ||
        !bench_arena_map(POOL_RIG_MEMORY, &rig->user)) {
        return bench_fail(rig->bench, "out of memory");
    }
    rng_fill(&rig->bench->rng, rig->user.data, rig->user.bytes);
    return true;
}

static bool rig_start(struct pool_rig *rig)
{
    char bytes[32];
    char backing[32];
    snprintf(bytes, sizeof bytes, "%" PRIu64, (uint64_t)NODE_BYTES);
    bool is_chosen = tool_config_is_flagged(rig->bench->args, "dram.backing") &&
                     umbp_config_get(rig->bench->args->config, "dram.backing", backing,
                                     sizeof backing) == UMBP_OK;
    const char *const extra[] = {"--dram.bytes", bytes, is_chosen ? "--dram.backing" : NULL,
                                 backing, NULL};
    /* The wire forks, so it comes before the clients and their threads. */
    if (bench_wire_create(SPIN_US, &rig->wire) != UMBP_OK) {
        return bench_fail(rig->bench, "no process at the other end of a wire could be made");
    }
    if (!tool_cluster_init(&rig->cluster, rig->bench->args->tool, rig->bench->stop) ||
        !tool_cluster_master(&rig->cluster) ||
        tool_cluster_node(&rig->cluster, "node-1", extra) == NULL ||
        !tool_cluster_await(&rig->cluster, "mori_umbp_client_count", 1, 20000)) {
        return false;
    }
    rig->host = pool_rig_client(rig->bench, &rig->cluster, true);
    rig->tcp = rig->host ? pool_rig_client(rig->bench, &rig->cluster, false) : NULL;
    rig->reader = rig->tcp ? pool_rig_client(rig->bench, &rig->cluster, true) : NULL;
    return rig->reader != NULL;
}

struct pool_rig *pool_rig(struct bench *bench)
{
    if (bench->rig != NULL) {
        return bench->rig;
    }
    struct pool_rig *rig = mem_zalloc(sizeof *rig);
    if (rig == NULL) {
        bench_fail(bench, "out of memory");
        return NULL;
    }
    rig->bench = bench;
    if (!rig_memory(rig) || !rig_start(rig)) {
        rig_destroy(rig);
        return NULL;
    }
    bench->rig = rig;
    bench->rig_destroy = rig_destroy;
    return rig;
}

/* ------------------------------------------------------------------------- batches ------- */

bool pool_rig_put(struct pool_rig *rig, struct umbp_client *client, const struct bench_keys *keys,
                  size_t first, size_t count, size_t bytes, uint64_t *ns_out)
{
    for (size_t i = 0; i < count; i++) {
        char *data = rig->user.data + i * bytes % rig->user.bytes;
        if (bytes >= 8) {
            bench_stamp(data, bytes, first + i);
        }
        rig->puts[i] = (struct umbp_put_item){
            .key = keys->keys[first + i], .data = data, .bytes = bytes, .depth = UMBP_DEPTH_NONE};
    }
    uint64_t begin = bench_now_ns();
    enum umbp_status status = umbp_batch_put(client, rig->puts, count, rig->statuses);
    if (ns_out != NULL) {
        *ns_out = bench_now_ns() - begin;
    }
    return bench_check(rig->bench, "put", status, rig->statuses, count);
}

bool pool_rig_get(struct pool_rig *rig, struct umbp_client *client, const struct bench_keys *keys,
                  size_t first, size_t count, size_t bytes, uint64_t *ns_out)
{
    for (size_t i = 0; i < count; i++) {
        rig->gets[i] = (struct umbp_get_item){.key = keys->keys[first + i],
                                              .data = rig->user.data + i * bytes % rig->user.bytes,
                                              .bytes = bytes};
        bench_stamp(rig->gets[i].data, bytes, ~(uint64_t)0);
    }
    uint64_t begin = bench_now_ns();
    enum umbp_status status = umbp_batch_get(client, rig->gets, count, rig->statuses);
    *ns_out = bench_now_ns() - begin;
    if (!bench_check(rig->bench, "get", status, rig->statuses, count)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!bench_is_stamped(rig->gets[i].data, bytes, first + i)) {
            return bench_fail(rig->bench, "value %zu of a batch came with wrong bytes", i);
        }
    }
    return true;
}

bool pool_rig_remove(struct pool_rig *rig, struct umbp_client *client,
                     const struct bench_keys *keys, size_t count)
{
    enum umbp_status status = umbp_batch_remove(client, keys->keys, count, rig->statuses);
    return bench_check(rig->bench, "remove", status, rig->statuses, count);
}
