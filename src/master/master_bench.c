/* SPDX-License-Identifier: Apache-2.0 */
/* What the index does on this machine: filled, asked, listed anew, swept, emptied. */
#include <unistd.h>

#include "master/master_priv.h"

#define BATCH 128u
#define KEY_BYTES 70u
#define ROUNDS 8u
#define SYNC_EVENTS 8192u

struct rig {
    struct master *master;
    uint64_t keys;
    uint64_t nodes;
    struct fingerprint *prints;
    struct master_event events[SYNC_EVENTS];
    char key[SYNC_EVENTS][KEY_BYTES + 1];
    bool wants_keys;
    uint64_t *sequences;
};

/* The thread's own time: what else runs on the machine is not the index's doing. */
static uint64_t own_ns(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
}

static double seconds_since(uint64_t start) { return (double)(own_ns() - start) / 1e9; }

static double resident_bytes(void)
{
    char text[128];
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) {
        return 0;
    }
    if (!fgets(text, sizeof(text), file) || sscanf(text, "%*u %llu", &pages) != 1) {
        pages = 0;
    }
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static void name_of(uint64_t node, char *id_out, size_t bytes)
{
    snprintf(id_out, bytes, "node-%llu", (unsigned long long)node);
}

static enum umbp_status rig_master(struct rig *rig, bool wants_keys)
{
    struct master_options options;
    char error[128];
    char id[32];
    master_options_default(&options);
    options.seed = 1;
    enum umbp_status status = master_create(&options, &rig->master, error, sizeof(error));
    rig->wants_keys = wants_keys;
    for (uint64_t node = 0; status == UMBP_OK && node < rig->nodes; node++) {
        struct master_registered registered;
        name_of(node, id, sizeof(id));
        struct master_registration registration = {
            .id = master_text_of(id),
            .incarnation = 1,
            .wants_keys = wants_keys,
            .has_capacities = true,
        };
        registration.capacities[MASTER_TIER_DRAM] = (struct master_capacity){
            .total_bytes = UINT64_C(1) << 50, .available_bytes = UINT64_C(1) << 50};
        status = master_register(rig->master, &registration, &registered);
        rig->sequences[node] = 0;
    }
    return status;
}

/* A key belongs to the node of its number, modulo; its text is as an engine's. */
static void event_of(struct rig *rig, uint64_t key, bool is_add, size_t at)
{
    rig->events[at] = (struct master_event){
        .print = rig->prints[key],
        .bytes = MIB,
        .tier = MASTER_TIER_DRAM,
        .is_add = is_add,
        .depth = (uint32_t)(key % 1000),
    };
    if (rig->wants_keys) {
        struct fingerprint print = rig->prints[key];
        snprintf(rig->key[at], sizeof(rig->key[at]), "%016llx%016llx%016llx%016llx_0_k_x",
                 (unsigned long long)print.low, (unsigned long long)print.high,
                 (unsigned long long)(print.low ^ print.high), (unsigned long long)~print.low);
        rig->events[at].key = rig->key[at];
        rig->events[at].key_bytes = KEY_BYTES;
    }
}

static enum umbp_status send(struct rig *rig, uint64_t node, size_t count, struct master_beat *beat)
{
    char id[32];
    struct master_beat_answer answer;
    name_of(node, id, sizeof(id));
    struct master_bundle bundle = {.events = rig->events, .count = count};
    bundle.sequence = beat->is_full_sync ? 0 : ++rig->sequences[node];
    beat->id = master_text_of(id);
    beat->incarnation = 1;
    beat->bundles = &bundle;
    beat->bundle_count = 1;
    return master_beat(rig->master, beat, &answer);
}

static enum umbp_status deltas(struct rig *rig, bool is_add)
{
    enum umbp_status status = UMBP_OK;
    for (uint64_t first = 0; status == UMBP_OK && first < rig->keys; first += BATCH * rig->nodes) {
        for (uint64_t node = 0; status == UMBP_OK && node < rig->nodes; node++) {
            struct master_beat beat = {0};
            size_t count = 0;
            for (uint64_t i = 0; i < BATCH; i++) {
                uint64_t key = first + i * rig->nodes + node;
                if (key < rig->keys) {
                    event_of(rig, key, is_add, count++);
                }
            }
            status = send(rig, node, count, &beat);
        }
    }
    return status;
}

static enum umbp_status full_sync(struct rig *rig, uint64_t node)
{
    enum umbp_status status = UMBP_OK;
    uint64_t key = node;
    for (uint32_t chunk = 0; status == UMBP_OK; chunk++) {
        size_t count = 0;
        for (; key < rig->keys && count < SYNC_EVENTS; key += rig->nodes) {
            event_of(rig, key, true, count++);
        }
        struct master_beat beat = {
            .is_full_sync = true,
            .is_last = key >= rig->keys,
            .chunk = chunk,
            .sync_id = 7,
            .baseline = 1,
        };
        status = send(rig, node, count, &beat);
        if (beat.is_last) {
            break;
        }
    }
    return status;
}

enum question {
    ASK_GET,
    ASK_LOOKUP,
    ASK_PUT
};

static double ask(struct rig *rig, enum question question)
{
    struct fingerprint prints[BATCH];
    struct master_route routes[BATCH];
    uint8_t found[BATCH];
    const struct master_caller caller = {0};
    struct rng rng;
    double best = 0;
    enum umbp_status status = UMBP_OK;
    uint64_t batches = question == ASK_PUT ? 1024 : rig->keys / BATCH;
    rng_init(&rng, (uint64_t)question + 1);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        double spent = 0;
        for (uint64_t batch = 0; batch < batches && status == UMBP_OK; batch++) {
            for (uint32_t i = 0; i < BATCH; i++) {
                prints[i] = rig->prints[rng_below(&rng, rig->keys)];
                prints[i].low ^= question == ASK_PUT || (question == ASK_LOOKUP && i % 2);
            }
            uint64_t start = own_ns();
            if (question == ASK_LOOKUP) {
                status = master_lookup(rig->master, prints, BATCH, found);
            } else if (question == ASK_GET) {
                status = master_route_get(rig->master, &caller, prints, BATCH, routes);
            } else {
                status = master_route_put(rig->master, &caller, prints, NULL, 4096, BATCH, routes);
            }
            spent += seconds_since(start);
        }
        double rate = (double)(batches * BATCH) / spent;
        best = rate > best ? rate : best;
    }
    return status == UMBP_OK ? best : 0;
}

/* One node goes; how long until nothing is left of it. */
static enum umbp_status sweep(struct rig *rig, struct master_bench_figures *figures)
{
    char id[32];
    name_of(0, id, sizeof(id));
    enum umbp_status status = master_unregister(rig->master, master_text_of(id), 0);
    uint64_t start = own_ns();
    do {
        uint64_t tick = own_ns();
        (void)master_tick(rig->master);
        double spent = seconds_since(tick);
        figures->longest_tick_s = spent > figures->longest_tick_s ? spent : figures->longest_tick_s;
    } while (rig->master->sweep_stage != 0);
    figures->sweep_s = seconds_since(start);
    return status;
}

static double index_bytes(const struct rig *rig)
{
    return (double)atomic_load_explicit(&rig->master->blocks.bytes, memory_order_relaxed);
}

/* A master filled by full syncs, emptied of one node. */
static enum umbp_status bench_syncs(struct rig *rig, struct master_bench_figures *figures)
{
    enum umbp_status status = rig_master(rig, false);
    uint64_t start = own_ns();
    for (uint64_t node = 0; status == UMBP_OK && node < rig->nodes; node++) {
        status = full_sync(rig, node);
    }
    figures->full_sync_s = seconds_since(start);
    if (status == UMBP_OK) {
        status = sweep(rig, figures);
    }
    master_destroy(rig->master);
    rig->master = NULL;
    return status;
}

static enum umbp_status bench_keyed(struct rig *rig, struct master_bench_figures *figures)
{
    enum umbp_status status = rig_master(rig, true);
    if (status == UMBP_OK) {
        status = deltas(rig, true);
    }
    if (status == UMBP_OK) {
        figures->keyed_bytes_per_key = index_bytes(rig) / (double)rig->keys;
    }
    master_destroy(rig->master);
    rig->master = NULL;
    return status;
}

static enum umbp_status bench_deltas(struct rig *rig, struct master_bench_figures *figures)
{
    enum umbp_status status = rig_master(rig, false);
    double before = resident_bytes();
    uint64_t start = own_ns();
    if (status == UMBP_OK) {
        status = deltas(rig, true);
    }
    figures->ingest_per_s = (double)rig->keys / seconds_since(start);
    if (status == UMBP_OK) {
        double resident = resident_bytes();
        figures->resident_per_key = resident > before ? (resident - before) / (double)rig->keys : 0;
        figures->bytes_per_key = index_bytes(rig) / (double)rig->keys;
        figures->route_get_per_s = ask(rig, ASK_GET);
        figures->lookup_per_s = ask(rig, ASK_LOOKUP);
        figures->route_put_per_s = ask(rig, ASK_PUT);
        start = own_ns();
        status = deltas(rig, false);
        figures->remove_per_s = (double)rig->keys / seconds_since(start);
    }
    master_destroy(rig->master);
    rig->master = NULL;
    return status;
}

enum umbp_status master_bench(uint64_t keys, uint64_t nodes,
                              struct master_bench_figures *figures_out)
{
    struct master_bench_figures figures = {.keys = keys, .nodes = nodes};
    struct rng rng;
    if (!keys || !nodes || nodes > MASTER_NODES_MAX) {
        return UMBP_INVALID_VALUE;
    }
    struct rig *rig = mem_zalloc(sizeof(*rig));
    if (!rig) {
        return UMBP_NO_MEMORY;
    }
    enum umbp_status status = UMBP_NO_MEMORY;
    rig->keys = keys;
    rig->nodes = nodes;
    rig->prints = mem_alloc(keys * sizeof(*rig->prints));
    rig->sequences = mem_calloc(nodes, sizeof(*rig->sequences));
    if (rig->prints && rig->sequences) {
        rng_init(&rng, 42);
        rng_fill(&rng, rig->prints, keys * sizeof(*rig->prints));
        status = bench_deltas(rig, &figures);
    }
    if (status == UMBP_OK) {
        status = bench_syncs(rig, &figures);
    }
    if (status == UMBP_OK) {
        status = bench_keyed(rig, &figures);
    }
    mem_free(rig->prints);
    mem_free(rig->sequences);
    mem_free(rig);
    if (status == UMBP_OK) {
        *figures_out = figures;
    }
    return status;
}
