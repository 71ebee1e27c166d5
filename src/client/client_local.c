/* SPDX-License-Identifier: Apache-2.0 */
/* The local scheme: the store, in this process. */
#include "client/client_priv.h"
#include "store/store.h"

static enum umbp_status local_create(const struct umbp_config *config, void **self_out,
                                     char *error_out, size_t error_bytes)
{
    struct store_options options;
    struct store *store;

    enum umbp_status status = config_store_options(config, &options);
    if (status != UMBP_OK) {
        return status;
    }
    status = store_create(&options, &store, error_out, error_bytes);
    if (status == UMBP_OK) {
        *self_out = store;
    }
    return status;
}

static enum umbp_status local_close(void *self, uint64_t deadline_ns)
{
    return store_close(self, deadline_ns);
}

static void local_destroy(void *self) { store_destroy(self); }

static enum umbp_status local_batch_put(void *self, const struct umbp_put_item *items, size_t count,
                                        enum umbp_status *statuses_out)
{
    return store_batch_put(self, items, count, statuses_out);
}

static enum umbp_status local_batch_get(void *self, const struct umbp_get_item *items, size_t count,
                                        enum umbp_status *statuses_out)
{
    return store_batch_get(self, items, count, statuses_out);
}

static enum umbp_status local_batch_put_ranges(void *self, const struct umbp_range_item *items,
                                               size_t count, enum umbp_status *statuses_out)
{
    return store_batch_put_ranges(self, items, count, statuses_out);
}

static enum umbp_status local_batch_get_ranges(void *self, const struct umbp_range_item *items,
                                               size_t count, enum umbp_status *statuses_out)
{
    return store_batch_get_ranges(self, items, count, statuses_out);
}

static enum umbp_status local_batch_exists(void *self, const struct umbp_key *keys, size_t count,
                                           uint8_t *found_out)
{
    return store_batch_exists(self, keys, count, found_out);
}

static enum umbp_status local_exists_consecutive(void *self, const struct umbp_key *keys,
                                                 size_t count, size_t *hits_out)
{
    return store_exists_consecutive(self, keys, count, hits_out);
}

static enum umbp_status local_batch_remove(void *self, const struct umbp_key *keys, size_t count,
                                           enum umbp_status *statuses_out)
{
    return store_batch_remove(self, keys, count, statuses_out);
}

/* Copies by the CPU gain nothing from it. */
static enum umbp_status local_register_memory(void *self, void *data, size_t bytes)
{
    (void)self;
    (void)data;
    (void)bytes;
    return UMBP_OK;
}

static enum umbp_status local_deregister_memory(void *self, void *data)
{
    (void)self;
    (void)data;
    return UMBP_OK;
}

static enum umbp_status local_external_tell(void *self, enum client_external op,
                                            const struct umbp_key *hashes, size_t count,
                                            enum umbp_tier tier)
{
    (void)self;
    (void)op;
    (void)hashes;
    (void)count;
    (void)tier;
    return UMBP_UNSUPPORTED;
}

static enum umbp_status
local_external_match(void *self, const struct umbp_key *hashes, size_t count, bool counts_as_hit,
                     void (*visit)(void *, const struct umbp_external_match *), void *context)
{
    (void)self;
    (void)hashes;
    (void)count;
    (void)counts_as_hit;
    (void)visit;
    (void)context;
    return UMBP_UNSUPPORTED;
}

static enum umbp_status local_external_hits(void *self, const struct umbp_key *hashes, size_t count,
                                            uint64_t *hits_out)
{
    (void)self;
    (void)hashes;
    (void)count;
    (void)hits_out;
    return UMBP_UNSUPPORTED;
}

static enum umbp_status local_flush(void *self, uint64_t deadline_ns)
{
    return store_flush(self, deadline_ns);
}

static enum umbp_status local_clear(void *self, uint64_t deadline_ns)
{
    return store_clear(self, deadline_ns);
}

static enum umbp_status
local_list(void *self, bool (*visit)(void *, const struct umbp_entry_info *), void *context)
{
    return store_list(self, visit, context);
}

static enum umbp_status local_stat(void *self, struct umbp_key key,
                                   struct umbp_entry_info *info_out)
{
    return store_stat(self, key, info_out);
}

static enum umbp_status local_stats(void *self, struct umbp_stat_value *values_out, size_t capacity,
                                    size_t *count_out)
{
    return store_stats(self, values_out, capacity, count_out);
}

const struct client_ops client_local_ops = {
    .name = "local",
    .deployment = UMBP_DEPLOYMENT_LOCAL,
    .is_distributed = false,
    .supports_ranges = true,
    .create = local_create,
    .close = local_close,
    .destroy = local_destroy,
    .batch_put = local_batch_put,
    .batch_get = local_batch_get,
    .batch_put_ranges = local_batch_put_ranges,
    .batch_get_ranges = local_batch_get_ranges,
    .batch_exists = local_batch_exists,
    .exists_consecutive = local_exists_consecutive,
    .batch_remove = local_batch_remove,
    .register_memory = local_register_memory,
    .deregister_memory = local_deregister_memory,
    .external_tell = local_external_tell,
    .external_match = local_external_match,
    .external_hits = local_external_hits,
    .flush = local_flush,
    .clear = local_clear,
    .list = local_list,
    .stat = local_stat,
    .stats = local_stats,
};
