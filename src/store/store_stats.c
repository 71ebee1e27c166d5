/* SPDX-License-Identifier: Apache-2.0 */
/* The store's statistics, as one table of names. */
#include <string.h>

#include "store/store_priv.h"

static void add_counters(struct shard_counters *sum, const struct shard_counters *more)
{
    const uint64_t *from = (const uint64_t *)(const void *)more;
    uint64_t *to = (uint64_t *)(void *)sum;
    _Static_assert(sizeof(*sum) % sizeof(uint64_t) == 0, "counters only");
    for (size_t i = 0; i < sizeof(*sum) / sizeof(uint64_t); i++) {
        to[i] += from[i];
    }
}

struct totals {
    struct shard_counters counters;
    uint64_t keys;
    uint64_t dirty;
    uint64_t tombs;
};

static void sum_shards(struct store *store, struct totals *totals)
{
    memset(totals, 0, sizeof(*totals));
    for (uint32_t s = 0; s < store->shard_count; s++) {
        struct shard *shard = &store->shards[s];
        mutex_lock(&shard->lock);
        add_counters(&totals->counters, &shard->counters);
        totals->keys += shard->count;
        totals->dirty += shard->dirty;
        totals->tombs += shard->tombs_made - shard->tombs_written;
        mutex_unlock(&shard->lock);
    }
}

struct output {
    struct umbp_stat_value *values;
    size_t capacity;
    size_t count;
};

static void put(struct output *out, const char *name, uint64_t value, bool is_counter)
{
    if (out->count < out->capacity) {
        out->values[out->count] = (struct umbp_stat_value){name, value, is_counter};
    }
    out->count++;
}

#define COUNTER(name, value) put(out, name, value, true)
#define GAUGE(name, value) put(out, name, value, false)
#define LOAD(field) atomic_load_explicit(&(field), memory_order_relaxed)

static void put_traffic(struct output *out, const struct totals *totals)
{
    const struct shard_counters *counters = &totals->counters;
    COUNTER("hits.dram", counters->hits_dram);
    COUNTER("hits.ssd", counters->hits_ssd);
    COUNTER("misses", counters->misses);
    COUNTER("size_mismatches", counters->size_mismatches);
    COUNTER("corrupt", counters->corrupt);
    COUNTER("puts.stored", counters->puts_stored);
    COUNTER("puts.existing", counters->puts_existing);
    COUNTER("removes", counters->removes);
    COUNTER("promotions", counters->promotions);
    COUNTER("bytes.in", counters->bytes_in);
    COUNTER("bytes.dram_out", counters->bytes_dram_out);
    COUNTER("bytes.ssd_out", counters->bytes_ssd_out);
    COUNTER("evictions.dram", counters->evictions_dram);
    COUNTER("evictions.ssd", counters->evictions_ssd);
    GAUGE("keys", totals->keys);
}

static void put_dram(struct store *store, struct output *out)
{
    struct dram_stats dram;
    dram_stats(store->dram, &dram);
    GAUGE("dram.bytes_total", dram.bytes_total);
    GAUGE("dram.bytes_used", dram.bytes_total - dram.bytes_free);
    GAUGE("dram.blocks", dram.blocks);
    GAUGE("dram.blocks_scattered", dram.blocks_scattered);
    GAUGE("dram.pages_total", dram.pages_total);
    GAUGE("dram.pages_free", dram.pages_free);
    GAUGE("dram.metadata_bytes", dram.metadata_bytes);
    GAUGE("index.bytes", LOAD(store->entry_bytes));
    GAUGE("index.entries", LOAD(store->entries));
    GAUGE("reservations", LOAD(store->reservations));
}

static void put_copies(struct store *store, struct output *out, const struct totals *totals)
{
    struct copy_counters *copied = &store->copied;
    mutex_lock(&store->queue.lock);
    uint64_t waiting = store->queue.count;
    mutex_unlock(&store->queue.lock);
    COUNTER("copies.done", LOAD(copied->done));
    COUNTER("copies.bytes", LOAD(copied->bytes));
    COUNTER("copies.tombstones", LOAD(copied->tombstones));
    COUNTER("copies.drops.queue_full", LOAD(copied->drops_queue_full));
    COUNTER("copies.drops.evicted", totals->counters.evicted_uncopied);
    COUNTER("copies.drops.gone", LOAD(copied->drops_gone));
    COUNTER("copies.drops.too_large", LOAD(copied->drops_too_large));
    COUNTER("copies.drops.no_space", LOAD(copied->drops_no_space));
    COUNTER("copies.drops.io", LOAD(copied->drops_io));
    GAUGE("copies.waiting", waiting);
    GAUGE("copies.dirty", totals->dirty);
    GAUGE("copies.tombstones_waiting", totals->tombs);
    COUNTER("reclaim.segments", LOAD(copied->reclaimed_segments));
    COUNTER("reclaim.moved", LOAD(copied->relocated));
    COUNTER("reclaim.dropped", LOAD(copied->dropped_by_reclaim));
}

static void put_ssd(struct store *store, struct output *out)
{
    struct ssd_stats ssd;
    if (!store->ssd) {
        return;
    }
    ssd_stats(store->ssd, &ssd);
    GAUGE("ssd.bytes_total", ssd.bytes_capacity);
    GAUGE("ssd.bytes_used", ssd.bytes_used);
    GAUGE("ssd.bytes_live", ssd.bytes_live);
    GAUGE("ssd.segments", ssd.segments);
    GAUGE("ssd.records", ssd.records_live);
    COUNTER("ssd.bytes_written", ssd.bytes_written);
    COUNTER("ssd.bytes_read", ssd.bytes_read);
    COUNTER("ssd.corrupt_records", ssd.corrupt_records);
    COUNTER("ssd.io_errors", ssd.io_errors);
    COUNTER("ssd.io_timeouts", ssd.io_timeouts);
    COUNTER("ssd.disk_full", ssd.disk_full);
    COUNTER("ssd.syncs", ssd.syncs);
    GAUGE("ssd.streams_open", ssd.streams_open);
    GAUGE("ssd.recovered_records", store->recovery.records);
    GAUGE("ssd.recovered_lost", store->recovery.lost_records);
}

enum umbp_status store_stats(struct store *store, struct umbp_stat_value *values_out,
                             size_t capacity, size_t *count_out)
{
    struct output out = {values_out, capacity, 0};
    struct totals totals;

    if ((capacity && !values_out) || !count_out) {
        return UMBP_INVALID_VALUE;
    }
    sum_shards(store, &totals);
    put_traffic(&out, &totals);
    put_dram(store, &out);
    put_copies(store, &out, &totals);
    put_ssd(store, &out);
    *count_out = out.count;
    return UMBP_OK;
}

void store_capacity(const struct store *store, enum store_tier tier,
                    struct store_capacity *capacity_out)
{
    struct store_capacity capacity = {0};
    if (tier == STORE_TIER_DRAM) {
        capacity.total_bytes = dram_bytes_total(store->dram);
        capacity.used_bytes = capacity.total_bytes - dram_bytes_free(store->dram);
    } else if (store->ssd) {
        ssd_space(store->ssd, &capacity.used_bytes, &capacity.total_bytes);
    }
    *capacity_out = capacity;
}
