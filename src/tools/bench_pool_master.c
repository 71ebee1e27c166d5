/* SPDX-License-Identifier: Apache-2.0 */
/* umbp bench pool: the master's index in process, its gRPC door, and its restart. */
#include <inttypes.h>
#include <jansson.h>
#include <unistd.h>

#include "master/master.h"
#include "tools/bench_pool.h"

#define NODES 8u
#define KEYS 1000000u
#define KEYS_QUICK 20000u
#define VALUE_BYTES 64u
#define RESTART_MS 60000u

/* ---------------------------------------------------------------------------- index ------ */

static void plain_row(struct bench *bench, const char *name, const char *unit, double value,
                      enum bench_bar kind, double bar, const char *note)
{
    struct bench_row row = {.unit = unit, .bar_kind = kind, .bar = bar};
    bench_row_set(&row, value);
    bench_row_name(&row, "%s", name);
    bench_row_note(&row, "%s", note);
    bench_row_add(bench, &row);
}

bool pool_bench_master(struct bench *bench)
{
    struct bench_series routes = {0}, events = {0};
    struct master_bench_figures figures = {0};
    struct bench_row row = {.unit = "M/s", .bar_kind = BENCH_BAR_VALUE_MIN};
    double resident = 0;
    uint64_t keys = bench->options.is_quick ? KEYS_QUICK : KEYS;
    unsigned rounds = bench->options.repeat < 3 ? bench->options.repeat : 3;
    for (unsigned i = 0; i < rounds; i++) {
        if (!bench_goes_on(bench, "pool.index", i, rounds)) {
            return false;
        }
        enum umbp_status status = master_bench(keys, NODES, &figures);
        if (status != UMBP_OK) {
            return bench_fail(bench, "the index: %s", umbp_status_text(status));
        }
        bench_series_add(&routes, figures.route_get_per_s / 1e6);
        bench_series_add(&events, figures.ingest_per_s / 1e6);
        /* Later rounds find pages that the first left to this process. */
        double most = figures.resident_per_key > figures.bytes_per_key ? figures.resident_per_key
                                                                       : figures.bytes_per_key;
        resident = most > resident ? most : resident;
    }
    bench_row_name(&row, "pool.index.route_get");
    bench_row_take(&row, &routes);
    row.bar = 4;
    bench_row_note(&row, "batches of 128, %" PRIu64 " keys on %u nodes, one thread's own time",
                   keys, NODES);
    bench_row_add(bench, &row);
    bench_row_name(&row, "pool.index.events");
    bench_row_take(&row, &events);
    row.bar = 1;
    bench_row_note(&row, "bundles of 128");
    bench_row_add(bench, &row);
    plain_row(bench, "pool.index.memory", "MiB", resident * 1e6 / (double)MIB,
              bench->options.is_quick ? BENCH_BAR_NONE : BENCH_BAR_VALUE_MAX, 150,
              "a million keys of one location each, beyond the empty index");
    return true;
}

/* ----------------------------------------------------------------------------- gRPC ------ */

static bool grpc_path(char *path_out, size_t bytes)
{
    char self[4096];
    ssize_t got = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash = got > 0 ? memrchr(self, '/', (size_t)got) : NULL;
    if (slash == NULL) {
        return false;
    }
    int length = snprintf(path_out, bytes, "%.*s/umbp_bench_grpc", (int)(slash - self), self);
    return length > 0 && (size_t)length < bytes && access(path_out, X_OK) == 0;
}

static double inside(const json_t *object, const char *name, const char *field)
{
    return json_number_value(json_object_get(json_object_get(object, name), field));
}

static bool take_grpc(struct bench *bench, const char *line)
{
    static const char *const kinds[] = {"batch_lookup", "batch_route_get", "batch_route_put"};
    json_t *object = json_loads(line, 0, NULL);
    bool is_good = json_is_object(object);
    for (size_t i = 0; is_good && i < ARRAY_COUNT(kinds); i++) {
        struct bench_row row = {
            .unit = "us", .bar_kind = i == 0 ? BENCH_BAR_RATIO_MAX : BENCH_BAR_NONE, .bar = 1.3};
        bench_row_set(&row, inside(object, kinds[i], "us"));
        row.limit_name = "empty call";
        row.limit = inside(object, "empty", "us");
        row.ratio = inside(object, kinds[i], "ratio");
        bench_row_name(&row, "pool.grpc.%s", kinds[i] + sizeof "batch_" - 1);
        bench_row_note(&row, "128 keys%s", i == 0 ? ", half of them there; as many bytes" : "");
        is_good = row.limit > 0 && row.value > 0;
        if (is_good) {
            bench_row_add(bench, &row);
        }
    }
    json_decref(object);
    return is_good || bench_fail(bench, "umbp_bench_grpc printed what it should not");
}

bool pool_bench_grpc(struct bench *bench)
{
    char path[4200];
    struct tool_cluster *cluster = mem_zalloc(sizeof *cluster);
    bool ended = false;
    bool is_quick = bench->options.is_quick;
    if (!grpc_path(path, sizeof path)) {
        mem_free(cluster);
        bench_row_skip(bench, "pool.grpc.lookup", "umbp_bench_grpc is not beside this program");
        return true;
    }
    if (cluster == NULL) {
        return bench_fail(bench, "out of memory");
    }
    const char *const arguments[] = {path,       "--json",
                                     "--keys",   is_quick ? "2000" : "1000000",
                                     "--rounds", is_quick ? "2" : "9",
                                     "--calls",  is_quick ? "50" : "300",
                                     NULL};
    cluster->tool = bench->args->tool;
    cluster->stop = bench->stop;
    bool is_good = bench_goes_on(bench, "pool.grpc", 0, 1);
    struct tool_child *child =
        is_good ? tool_cluster_run(cluster, "umbp_bench_grpc", arguments) : NULL;
    const char *line = child != NULL ? tool_child_line(cluster, child, 120000, &ended) : NULL;
    is_good = line != NULL && take_grpc(bench, line);
    if (child != NULL && line == NULL && *bench->stop == 0) {
        tool_child_complain(cluster, child, "did not come to an end");
    }
    tool_cluster_fini(cluster);
    mem_free(cluster);
    return is_good;
}

/* -------------------------------------------------------------------------- restart ------ */

static bool start_nodes(struct tool_cluster *cluster)
{
    static const char *const extra[] = {"--dram.bytes", "1GiB", "--dram.prefault", "false", NULL};
    bool is_good = tool_cluster_master(cluster);
    for (unsigned i = 0; is_good && i < NODES; i++) {
        char id[16];
        snprintf(id, sizeof id, "node-%u", i + 1);
        is_good = tool_cluster_node(cluster, id, extra) != NULL;
    }
    return is_good && tool_cluster_await(cluster, "mori_umbp_client_count", NODES, 20000);
}

static bool fill(struct bench *bench, struct umbp_client *client, uint64_t keys)
{
    static uint8_t value[VALUE_BYTES] = {1};
    struct umbp_put_item *items = mem_calloc(POOL_RIG_ITEMS, sizeof *items);
    enum umbp_status *statuses = mem_calloc(POOL_RIG_ITEMS, sizeof *statuses);
    struct bench_keys names = {0};
    bool is_good =
        items != NULL && statuses != NULL && bench_keys_create(bench, POOL_RIG_ITEMS, &names);
    for (uint64_t done = 0; is_good && done < keys;) {
        size_t count = size_min(POOL_RIG_ITEMS, (size_t)(keys - done));
        bench_keys_renew(bench, &names, count);
        for (size_t i = 0; i < count; i++) {
            items[i] = (struct umbp_put_item){.key = names.keys[i],
                                              .data = value,
                                              .bytes = VALUE_BYTES,
                                              .depth = UMBP_DEPTH_NONE};
        }
        enum umbp_status status = umbp_batch_put(client, items, count, statuses);
        is_good = bench_goes_on(bench, "pool.restart: fill", (size_t)done, (size_t)keys) &&
                  bench_check(bench, "put", status, statuses, count);
        done += count;
    }
    bench_keys_destroy(&names);
    mem_free(statuses);
    mem_free(items);
    return is_good;
}

static bool restart_once(struct bench *bench, struct tool_cluster *cluster, uint64_t keys,
                         struct bench_series *seconds)
{
    if (!bench_goes_on(bench, "pool.restart", seconds->count, 3)) {
        return false;
    }
    tool_child_kill(cluster->master);
    if (!tool_cluster_master(cluster)) {
        return false;
    }
    uint64_t begin = bench_now_ns();
    if (!tool_cluster_await(cluster, "umbp_master_index_keys", keys, RESTART_MS)) {
        return false;
    }
    bench_series_add(seconds, (double)(bench_now_ns() - begin) / 1e9);
    return true;
}

static bool run_restart(struct bench *bench, struct tool_cluster *cluster)
{
    struct bench_series seconds = {.count = 0};
    struct bench_row row = {.unit = "s", .bar_kind = BENCH_BAR_VALUE_MAX, .bar = 2};
    uint64_t keys = bench->options.is_quick ? KEYS_QUICK : KEYS;
    if (!tool_cluster_init(cluster, bench->args->tool, bench->stop) || !start_nodes(cluster)) {
        return false;
    }
    struct umbp_client *client = pool_rig_client(bench, cluster, true);
    bool is_good = client != NULL && fill(bench, client, keys);
    if (client != NULL) {
        (void)!umbp_client_close(client, 5000);
        umbp_client_destroy(client);
    }
    is_good = is_good && tool_cluster_await(cluster, "umbp_master_index_keys", keys, RESTART_MS);
    while (is_good && seconds.count < (bench->options.is_quick ? 1u : 3u)) {
        is_good = restart_once(bench, cluster, keys, &seconds);
    }
    if (is_good) {
        bench_row_name(&row, "pool.master.restart");
        bench_row_take(&row, &seconds);
        bench_row_note(&row, "kill -9; %u nodes, %" PRIu64 " keys whole again after it listens",
                       NODES, keys);
        bench_row_add(bench, &row);
    }
    return is_good;
}

bool pool_bench_restart(struct bench *bench)
{
    struct tool_cluster *cluster = mem_zalloc(sizeof *cluster);
    if (cluster == NULL) {
        return bench_fail(bench, "out of memory");
    }
    bool is_good = run_restart(bench, cluster);
    tool_cluster_fini(cluster);
    mem_free(cluster);
    return is_good;
}
