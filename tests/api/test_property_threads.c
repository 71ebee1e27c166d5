/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 64 threads at random operations over a few keys in a tier that is too small for them.
 *
 * Each put is a version of its key: the value begins with key and version, and all its bytes follow
 * from both. Times are drawn from one counter. So every get can tell by itself
 *  - that all bytes are of one version of the key that was asked for,
 *  - that this version's put was not refused (a later writer's value is never seen), and
 *  - that it was not removed: a version whose put had ended before a remove (or clear) began, which
 *    ended before the get began, must not come back, from whatever tier.
 */
#include "support_client.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 64u
#define KEYS 96u
#define VERSIONS 8192u
#define VALUE_MAX 262144u
#define BATCH 4u
#define REFUSED UINT64_MAX

struct header {
    uint64_t key;
    uint64_t version;
};

struct model {
    struct umbp_client *client;
    _Atomic uint64_t clock;
    _Atomic uint64_t next_version[KEYS];
    _Atomic uint64_t stored_at[KEYS][VERSIONS]; /* 0: put under way; REFUSED; else when it ended */
    _Atomic uint64_t removed_at[KEYS];          /* when a remove began that has ended */
    _Atomic uint64_t hits;
    _Atomic uint64_t stored;
};

struct worker {
    struct model *model;
    struct test_rng rng;
    unsigned rounds;
    unsigned wrong;
    unsigned char *data[BATCH];
    char rooms[BATCH][TEST_KEY_ROOM];
};

static uint64_t tick(struct model *model) { return atomic_fetch_add(&model->clock, 1) + 1; }

static void raise_to(_Atomic uint64_t *value, uint64_t to)
{
    uint64_t seen = atomic_load(value);
    while (seen < to && !atomic_compare_exchange_weak(value, &seen, to)) {
    }
}

/* From a header alone to four pages, a byte off every boundary now and then. */
static uint64_t bytes_of(uint64_t key)
{
    static const uint64_t sizes[] = {16, 63, 64, 65, 4096, 65535, 65536, 65537, 131072, 200001};
    return key < 10 ? sizes[key] : 16 + key * 104729 % (VALUE_MAX - 16);
}

static uint64_t tag_of(uint64_t key, uint64_t version) { return key * 1000003 + version; }

static void complain(struct worker *worker, const char *what, uint64_t key, uint64_t version)
{
    if (worker->wrong++ == 0) {
        printf("%s: key %" PRIu64 " version %" PRIu64 "\n", what, key, version);
    }
}

/* A new version of the key in the worker's buffer; false when all are used up. */
static bool make_value(struct worker *worker, unsigned slot, uint64_t key, uint64_t *version_out)
{
    struct header header = {key, atomic_fetch_add(&worker->model->next_version[key], 1)};
    if (header.version >= VERSIONS) {
        return false;
    }
    memcpy(worker->data[slot], &header, sizeof(header));
    test_fill(worker->data[slot] + sizeof(header), bytes_of(key) - sizeof(header),
              tag_of(key, header.version));
    *version_out = header.version;
    return true;
}

static void end_put(struct worker *worker, uint64_t key, uint64_t version, enum umbp_status status)
{
    struct model *model = worker->model;
    atomic_store(&model->stored_at[key][version], status == UMBP_OK ? tick(model) : REFUSED);
    atomic_fetch_add(&model->stored, status == UMBP_OK);
    if (status != UMBP_OK && status != UMBP_ALREADY_EXISTS && status != UMBP_NO_SPACE) {
        complain(worker, umbp_status_name(status), key, version);
    }
}

/* `removed_at` is of before the get. */
static void check_got(struct worker *worker, uint64_t key, const struct header *header,
                      uint64_t removed_at)
{
    struct model *model = worker->model;
    atomic_fetch_add(&model->hits, 1);
    if (header->key != key || header->version >= VERSIONS ||
        header->version >= atomic_load(&model->next_version[key])) {
        complain(worker, "bytes of another key", key, header->version);
        return;
    }
    uint64_t stored_at = atomic_load(&model->stored_at[key][header->version]);
    if (stored_at == REFUSED) {
        complain(worker, "a version that was refused", key, header->version);
    } else if (stored_at != 0 && stored_at < removed_at) {
        complain(worker, "a version that was removed", key, header->version);
    }
}

static void check_value(struct worker *worker, unsigned slot, uint64_t key, enum umbp_status status,
                        uint64_t removed_at)
{
    struct header header;
    if (status == UMBP_NOT_FOUND) {
        return;
    }
    if (status != UMBP_OK) {
        complain(worker, umbp_status_name(status), key, 0);
        return;
    }
    memcpy(&header, worker->data[slot], sizeof(header));
    check_got(worker, key, &header, removed_at);
    if (!test_check_fill(worker->data[slot] + sizeof(header), bytes_of(key) - sizeof(header),
                         tag_of(key, header.version))) {
        complain(worker, "mixed bytes", key, header.version);
    }
}

static struct umbp_key key_at(struct worker *worker, unsigned slot, uint64_t key)
{
    return test_key_number(worker->rooms[slot], "property", key);
}

/* ------------------------------------------------------------------------------ operations - */

static void do_put(struct worker *worker, uint64_t key)
{
    uint64_t version;
    if (make_value(worker, 0, key, &version)) {
        end_put(worker, key, version,
                umbp_put(worker->model->client, key_at(worker, 0, key), worker->data[0],
                         bytes_of(key), (uint32_t)key % 7));
    }
}

static void do_get(struct worker *worker, uint64_t key)
{
    uint64_t removed_at = atomic_load(&worker->model->removed_at[key]);
    enum umbp_status status =
        umbp_get(worker->model->client, key_at(worker, 0, key), worker->data[0], bytes_of(key));
    check_value(worker, 0, key, status, removed_at);
}

static void do_batch_put(struct worker *worker, uint64_t key)
{
    struct umbp_put_item items[BATCH];
    enum umbp_status statuses[BATCH];
    uint64_t versions[BATCH];
    unsigned count = 0;
    while (count < BATCH && make_value(worker, count, (key + count) % KEYS, &versions[count])) {
        uint64_t k = (key + count) % KEYS;
        items[count] = (struct umbp_put_item){.key = key_at(worker, count, k),
                                              .data = worker->data[count],
                                              .bytes = bytes_of(k),
                                              .depth = UMBP_DEPTH_NONE};
        count++;
    }
    if (umbp_batch_put(worker->model->client, items, count, statuses) != UMBP_OK) {
        complain(worker, "batch put", key, 0);
    }
    for (unsigned i = 0; i < count; i++) {
        end_put(worker, (key + i) % KEYS, versions[i], statuses[i]);
    }
}

static void do_batch_get(struct worker *worker, uint64_t key)
{
    struct umbp_get_item items[BATCH];
    enum umbp_status statuses[BATCH];
    uint64_t removed_at[BATCH];
    for (unsigned i = 0; i < BATCH; i++) {
        uint64_t k = (key + i * 5) % KEYS;
        removed_at[i] = atomic_load(&worker->model->removed_at[k]);
        items[i] = (struct umbp_get_item){
            .key = key_at(worker, i, k), .data = worker->data[i], .bytes = bytes_of(k)};
    }
    if (umbp_batch_get(worker->model->client, items, BATCH, statuses) != UMBP_OK) {
        complain(worker, "batch get", key, 0);
    }
    for (unsigned i = 0; i < BATCH; i++) {
        check_value(worker, i, (key + i * 5) % KEYS, statuses[i], removed_at[i]);
    }
}

/* The value in five ranges, the second half first. */
static void do_put_ranges(struct worker *worker, uint64_t key)
{
    struct umbp_range ranges[5];
    uint64_t bytes = bytes_of(key);
    uint64_t version;
    enum umbp_status status;
    if (!make_value(worker, 0, key, &version)) {
        return;
    }
    for (uint64_t i = 0; i < 5; i++) {
        uint64_t part = (i + 2) % 5;
        uint64_t from = bytes * part / 5;
        uint64_t to = bytes * (part + 1) / 5;
        ranges[i] = (struct umbp_range){worker->data[0] + from, to - from, from};
    }
    struct umbp_range_item item = {
        .key = key_at(worker, 0, key), .ranges = ranges, .range_count = 5, .object_bytes = bytes};
    if (umbp_batch_put_ranges(worker->model->client, &item, 1, &status) != UMBP_OK) {
        complain(worker, "put ranges", key, version);
    }
    end_put(worker, key, version, status);
}

/* The header, and any part of the rest: of one version. */
static void do_get_ranges(struct worker *worker, uint64_t key)
{
    struct header header;
    uint64_t body = bytes_of(key) - sizeof(header);
    uint64_t from = body ? test_rng_below(&worker->rng, body) & ~UINT64_C(7) : 0;
    uint64_t bytes = body ? 1 + test_rng_below(&worker->rng, body - from) : 0;
    struct umbp_range ranges[2] = {{&header, sizeof(header), 0},
                                   {worker->data[0], bytes, sizeof(header) + from}};
    struct umbp_range_item item = {
        .key = key_at(worker, 0, key), .ranges = ranges, .range_count = bytes ? 2 : 1};
    uint64_t removed_at = atomic_load(&worker->model->removed_at[key]);
    enum umbp_status status;
    if (umbp_batch_get_ranges(worker->model->client, &item, 1, &status) != UMBP_OK) {
        complain(worker, "get ranges", key, 0);
    }
    if (status != UMBP_OK) {
        if (status != UMBP_NOT_FOUND) {
            complain(worker, umbp_status_name(status), key, 0);
        }
        return;
    }
    check_got(worker, key, &header, removed_at);
    test_fill(worker->data[1], body, tag_of(key, header.version));
    if (memcmp(worker->data[0], worker->data[1] + from, bytes) != 0) {
        complain(worker, "mixed bytes in a range", key, header.version);
    }
}

static void do_remove(struct worker *worker, uint64_t key)
{
    uint64_t began = tick(worker->model);
    enum umbp_status status = umbp_remove(worker->model->client, key_at(worker, 0, key));
    if (status != UMBP_OK && status != UMBP_NOT_FOUND) {
        complain(worker, umbp_status_name(status), key, 0);
    }
    raise_to(&worker->model->removed_at[key], began);
}

static void do_clear(struct worker *worker)
{
    uint64_t began = tick(worker->model);
    if (umbp_clear(worker->model->client) != UMBP_OK) {
        complain(worker, "clear", 0, 0);
    }
    for (unsigned key = 0; key < KEYS; key++) {
        raise_to(&worker->model->removed_at[key], began);
    }
}

static bool check_listed(void *context, const struct umbp_entry_info *info)
{
    struct worker *worker = context;
    char text[TEST_KEY_ROOM] = "";
    memcpy(text, info->key.data, info->key.bytes < 32 ? info->key.bytes : 32);
    uint64_t key = strtoull(text + strlen("property-"), NULL, 10);
    if (key >= KEYS || info->bytes != bytes_of(key) || !(info->in_dram || info->in_ssd)) {
        complain(worker, "list", key, info->bytes);
    }
    return true;
}

static void do_look(struct worker *worker, uint64_t key)
{
    struct umbp_client *client = worker->model->client;
    struct umbp_key keys[BATCH];
    struct umbp_stat_value values[128];
    struct umbp_entry_info info = {.struct_bytes = sizeof(info)};
    uint8_t found[BATCH];
    size_t count;
    enum umbp_status status;
    for (unsigned i = 0; i < BATCH; i++) {
        keys[i] = key_at(worker, i, (key + i) % KEYS);
    }
    switch (test_rng_below(&worker->rng, 6)) {
    case 0:
        status = umbp_batch_exists(client, keys, BATCH, found);
        break;
    case 1:
        status = umbp_batch_exists_consecutive(client, keys, BATCH, &count);
        break;
    case 2:
        status = umbp_stats(client, values, 128, &count);
        break;
    case 3:
        status = umbp_list(client, check_listed, worker);
        break;
    case 4:
        status = umbp_stat(client, keys[0], &info);
        if (status == UMBP_OK && info.bytes != bytes_of(key)) {
            complain(worker, "stat", key, info.bytes);
        }
        break;
    default:
        status = umbp_exists(client, keys[0]);
    }
    if (status != UMBP_OK && status != UMBP_NOT_FOUND) {
        complain(worker, umbp_status_name(status), key, 0);
    }
}

static void do_flush(struct worker *worker)
{
    enum umbp_status status = umbp_flush(worker->model->client, 0);
    if (status != UMBP_OK) {
        complain(worker, umbp_status_name(status), 0, 0);
    }
}

static void *work(void *context)
{
    struct worker *worker = context;
    for (unsigned round = 0; round < worker->rounds; round++) {
        uint64_t key = test_rng_below(&worker->rng, KEYS);
        uint64_t choice = test_rng_below(&worker->rng, 1000);
        if (choice < 280) {
            do_put(worker, key);
        } else if (choice < 600) {
            do_get(worker, key);
        } else if (choice < 650) {
            do_batch_put(worker, key);
        } else if (choice < 750) {
            do_batch_get(worker, key);
        } else if (choice < 800) {
            do_put_ranges(worker, key);
        } else if (choice < 870) {
            do_get_ranges(worker, key);
        } else if (choice < 930) {
            do_remove(worker, key);
        } else if (choice < 932) {
            do_clear(worker);
        } else if (choice < 935) {
            do_flush(worker);
        } else {
            do_look(worker, key);
        }
    }
    return NULL;
}

static void run_property(const char *const *options, uint64_t stream)
{
    struct test_holdings before = test_holdings();
    struct model *model = calloc(1, sizeof(*model));
    struct worker *workers = calloc(THREADS, sizeof(*workers));
    pthread_t threads[THREADS];
    unsigned wrong = 0;
    model->client = test_client(options);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i].model = model;
        workers[i].rounds = test_is_slow() ? 40 : 300;
        test_rng_init(&workers[i].rng, stream * 1000 + i);
        for (unsigned slot = 0; slot < BATCH; slot++) {
            workers[i].data[slot] = malloc(VALUE_MAX);
        }
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        wrong += workers[i].wrong;
    }
    for (unsigned i = 0; i < THREADS; i++) {
        for (unsigned slot = 0; slot < BATCH; slot++) {
            free(workers[i].data[slot]);
        }
    }
    assert_int_equal(wrong, 0);
    assert_true(atomic_load(&model->hits) > THREADS);
    assert_true(atomic_load(&model->stored) > KEYS);
    assert_true(test_stat(model->client, "evictions.dram") > 0);
    assert_int_equal(test_stat(model->client, "corrupt"), 0);
    assert_ok(umbp_clear(model->client));
    test_stat_becomes(model->client, "dram.bytes_used", 0);
    test_stat_becomes(model->client, "index.entries", 0);
    assert_ok(umbp_client_close(model->client, 20000));
    umbp_client_destroy(model->client);
    test_holdings_are_back(before);
    free(workers);
    free(model);
}

static const char *const policies[] = {"lru", "prefix_aware_lru", "s3fifo"};

static void threads_agree_with_the_model_over_memory_alone_under_every_policy(void **state)
{
    (void)state;
    for (size_t p = 0; p < 3; p++) {
        const char *const options[] = {"dram.bytes",
                                       "4MiB",
                                       "dram.buffers",
                                       p == 1 ? "3" : "1",
                                       "dram.checksum",
                                       p == 2 ? "true" : "false",
                                       "eviction.policy",
                                       policies[p],
                                       "index.shards",
                                       p == 0 ? "1" : "0",
                                       "copy.threads",
                                       "2",
                                       NULL};
        run_property(options, 1 + p);
    }
}

static void with_ssd(const char *policy, const char *mode, const char *ssd_bytes,
                     const char *promote, const char *driver, uint64_t stream)
{
    char *directory = test_dir_create();
    const char *const options[] = {"dram.bytes",
                                   "4MiB",
                                   "dram.high_watermark",
                                   "0.9",
                                   "dram.low_watermark",
                                   "0.7",
                                   "eviction.policy",
                                   policy,
                                   "copy.mode",
                                   mode,
                                   "copy.threads",
                                   "2",
                                   "promote.on_read",
                                   promote,
                                   "ssd.dir",
                                   directory,
                                   "ssd.bytes",
                                   ssd_bytes,
                                   "ssd.segment_bytes",
                                   "1MiB",
                                   "ssd.durability",
                                   "relaxed",
                                   "ssd.driver",
                                   driver,
                                   "op_timeout_ms",
                                   "120000",
                                   NULL};
    run_property(options, stream);
    test_dir_remove(directory);
}

static void threads_agree_with_the_model_over_memory_and_a_roomy_ssd(void **state)
{
    (void)state;
    with_ssd("lru", "on_commit", "256MiB", "true", "auto", 11);
    with_ssd("prefix_aware_lru", "on_evict", "256MiB", "true", "posix", 12);
}

static void
threads_agree_with_the_model_over_memory_and_an_ssd_that_reclaims_all_the_time(void **state)
{
    (void)state;
    with_ssd("lru", "on_commit", "8MiB", "true", "auto", 21);
    with_ssd("s3fifo", "on_commit", "8MiB", "false", "posix", 22);
    with_ssd("lru", "on_evict", "8MiB", "true", "auto", 23);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_agree_with_the_model_over_memory_alone_under_every_policy),
        cmocka_unit_test(threads_agree_with_the_model_over_memory_and_a_roomy_ssd),
        cmocka_unit_test(
            threads_agree_with_the_model_over_memory_and_an_ssd_that_reclaims_all_the_time),
    };
    printf("seed %" PRIu64 "\n", test_seed());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
