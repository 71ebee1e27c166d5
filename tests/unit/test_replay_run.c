/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What replay counts. First against an exact simulation: with watermarks at 1, no SSD and blocks of
 * whole pages, memory holds exactly dram / block-bytes blocks, and the hits are those of a plain
 * LRU: look up from the first block, stop at the first miss, touch the hits in order, insert the
 * rest.
 */
#include "support_program.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tool_replay.h"

/* ------------------------------------------------------------------- simulation --------- */

/* An LRU of at most `capacity` of the blocks 0..universe-1: a doubly linked list through arrays,
 * index `universe` being its head (next: most recent). */
struct lru {
    size_t universe;
    size_t capacity;
    size_t count;
    size_t *next;
    size_t *previous;
    bool *holds;
};

static void lru_init(struct lru *lru, size_t universe, size_t capacity)
{
    *lru = (struct lru){universe, capacity, 0, NULL, NULL, NULL};
    lru->next = calloc(universe + 1, sizeof *lru->next);
    lru->previous = calloc(universe + 1, sizeof *lru->previous);
    lru->holds = calloc(universe + 1, sizeof *lru->holds);
    lru->next[universe] = universe;
    lru->previous[universe] = universe;
}

static void lru_fini(struct lru *lru)
{
    free(lru->next);
    free(lru->previous);
    free(lru->holds);
}

static void lru_unlink(struct lru *lru, size_t block)
{
    lru->next[lru->previous[block]] = lru->next[block];
    lru->previous[lru->next[block]] = lru->previous[block];
    lru->holds[block] = false;
    lru->count--;
}

static void lru_push(struct lru *lru, size_t block)
{
    lru->previous[block] = lru->universe;
    lru->next[block] = lru->next[lru->universe];
    lru->previous[lru->next[block]] = block;
    lru->next[lru->universe] = block;
    lru->holds[block] = true;
    lru->count++;
}

static void lru_insert(struct lru *lru, size_t block)
{
    if (lru->holds[block]) {
        lru_unlink(lru, block);
    } else if (lru->count == lru->capacity) {
        lru_unlink(lru, lru->previous[lru->universe]);
    }
    lru_push(lru, block);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The load's block ids as 0, 1, 2, ... Returns how many there are. */
static size_t compact(const struct replay_load *load, size_t *blocks_out)
{
    uint64_t *sorted = malloc(load->block_count * sizeof *sorted);
    size_t count = 0;
    memcpy(sorted, load->blocks, load->block_count * sizeof *sorted);
    qsort(sorted, load->block_count, sizeof *sorted, by_value);
    for (size_t i = 0; i < load->block_count; i++) {
        if (count == 0 || sorted[count - 1] != sorted[i]) {
            sorted[count++] = sorted[i];
        }
    }
    for (size_t i = 0; i < load->block_count; i++) {
        uint64_t *at = bsearch(&load->blocks[i], sorted, count, sizeof *sorted, by_value);
        blocks_out[i] = (size_t)(at - sorted);
    }
    free(sorted);
    return count;
}

static double simulate(const struct replay_load *load, size_t capacity)
{
    struct lru lru;
    size_t *blocks = malloc(load->block_count * sizeof *blocks);
    size_t hits = 0;
    lru_init(&lru, compact(load, blocks), capacity);
    for (size_t r = 0; r < load->request_count; r++) {
        const struct replay_request *request = &load->requests[r];
        size_t i = 0;
        while (i < request->count && lru.holds[blocks[request->first + i]]) {
            lru_insert(&lru, blocks[request->first + i]);
            i++;
        }
        hits += i;
        for (; i < request->count; i++) {
            lru_insert(&lru, blocks[request->first + i]);
        }
    }
    lru_fini(&lru);
    free(blocks);
    return (double)hits / (double)load->block_count;
}

/* ------------------------------------------------------------------------- tests -------- */

static struct umbp_config *make_config(const char *const (*settings)[2])
{
    struct umbp_config *config;
    assert_ok(umbp_config_create(&config));
    for (; (*settings)[0] != NULL; settings++) {
        if (umbp_config_set(config, (*settings)[0], (*settings)[1]) != UMBP_OK) {
            fail_msg("%s", umbp_config_error(config));
        }
    }
    return config;
}

static void run(const struct replay_load *load, struct umbp_config *config, size_t block_bytes,
                struct replay_result *result)
{
    const struct replay_options options = {.config = config, .block_bytes = block_bytes, .seed = 1};
    char why[256] = "";
    if (replay_run(load, &options, result, why, sizeof why) != UMBP_OK) {
        fail_msg("%s", why);
    }
    assert_int_equal(result->corrupt, 0);
    assert_int_equal(result->requests, load->request_count);
    assert_int_equal(result->blocks, load->block_count);
    assert_int_equal(result->puts_failed, 0);
}

static void agrees_with_the_simulation(const struct replay_load *load, size_t block_bytes,
                                       size_t capacity)
{
    char bytes[32];
    snprintf(bytes, sizeof bytes, "%zu", capacity * block_bytes);
    const char *const settings[][2] = {
        {"dram.bytes", bytes},        {"dram.page_bytes", "4KiB"},
        {"dram.high_watermark", "1"}, {"dram.low_watermark", "1"},
        {"eviction.policy", "lru"},   {"copy.threads", "1"},
        {"dram.prefault", "false"},   {NULL, NULL},
    };
    struct umbp_config *config = make_config(settings);
    struct replay_result *result = calloc(1, sizeof *result);
    run(load, config, block_bytes, result);
    double expected = simulate(load, capacity);
    double found = replay_hit_ratio(result);
    printf("%zu blocks of %zu bytes: hit ratio %.5f, simulated %.5f\n", capacity, block_bytes,
           found, expected);
    if (found < expected * 0.99 || found > expected * 1.01) {
        fail_msg("not within a percent");
    }
    assert_int_equal(replay_stat(result, "hits.dram"), result->prefix_hits);
    free(result);
    umbp_config_destroy(config);
}

static void generated_load_hits_as_an_exact_lru(void **state)
{
    (void)state;
    static const size_t capacities[] = {600, 2000, 8000, 32000};
    struct replay_load load;
    assert_ok(replay_load_chat(1, test_is_slow() ? 1500 : 6000, &load));
    for (size_t i = 0; i < sizeof capacities / sizeof capacities[0]; i++) {
        agrees_with_the_simulation(&load, 4096, capacities[i]);
    }
    agrees_with_the_simulation(&load, 12288, 3000); /* three pages each */
    replay_load_fini(&load);
}

static void the_real_trace_hits_as_an_exact_lru(void **state)
{
    (void)state;
    static const size_t capacities[] = {1000, 3656, 18279, 73116};
    struct replay_load load;
    char why[512] = "";
    char *path = test_source_path("../shared/data/conversation_trace.jsonl");
    if (path == NULL) {
        printf("SKIP: ../shared/data/conversation_trace.jsonl is not there\n");
        skip();
    }
    if (replay_load_trace(path, test_is_slow() ? 2000 : UINT64_MAX, &load, why, sizeof why) !=
        UMBP_OK) {
        fail_msg("%s", why);
    }
    free(path);
    for (size_t i = 0; i < sizeof capacities / sizeof capacities[0]; i++) {
        agrees_with_the_simulation(&load, 4096, capacities[i]);
    }
    replay_load_fini(&load);
}

/* Requests longer than the stage go in several batches; nothing else changes. */
static void a_request_in_several_batches_hits_the_same(void **state)
{
    (void)state;
    static const char *const settings[][2] = {
        {"dram.bytes", "8MiB"}, {"dram.prefault", "false"}, {NULL, NULL}};
    struct replay_load load;
    struct umbp_config *config = make_config(settings);
    struct replay_result *result = calloc(2, sizeof *result);
    char why[256] = "";
    assert_ok(replay_load_chat(2, 400, &load));
    for (size_t i = 0; i < 2; i++) {
        const struct replay_options options = {
            .config = config, .block_bytes = 1000, .seed = 1, .stage_bytes = i == 0 ? 0 : 3500};
        assert_ok(replay_run(&load, &options, &result[i], why, sizeof why));
        assert_int_equal(result[i].corrupt, 0);
    }
    assert_true(result[0].prefix_hits > 0);
    assert_int_equal(result[0].prefix_hits, result[1].prefix_hits);
    assert_int_equal(result[0].bytes_get, result[1].bytes_get);
    assert_int_equal(result[0].bytes_put, result[1].bytes_put);
    assert_int_equal(result[0].bytes_get, result[0].prefix_hits * 1000);
    free(result);
    umbp_config_destroy(config);
    replay_load_fini(&load);
}

/* ------------------------------------------------------------------ what goes wrong ----- */

#define FEW 8u
#define FEW_BYTES 65536u

static struct replay_result *run_few(const char *dir)
{
    const char *const settings[][2] = {{"dram.bytes", "4MiB"},
                                       {"dram.prefault", "false"},
                                       {"ssd.dir", dir},
                                       {"ssd.bytes", "64MiB"},
                                       {NULL, NULL}};
    uint64_t blocks[FEW];
    struct replay_load load = {0};
    for (size_t i = 0; i < FEW; i++) {
        blocks[i] = i;
    }
    assert_true(replay_load_add(&load, 0, blocks, FEW));
    struct umbp_config *config = make_config(settings);
    const struct replay_options options = {.config = config, .block_bytes = FEW_BYTES, .seed = 1};
    struct replay_result *result = calloc(1, sizeof *result);
    char why[256] = "";
    if (replay_run(&load, &options, result, why, sizeof why) != UMBP_OK) {
        fail_msg("%s", why);
    }
    umbp_config_destroy(config);
    replay_load_fini(&load);
    return result;
}

/* Somebody else's bytes lie under the key of block 3: the store can't know, replay must. */
static void a_wrong_byte_is_counted_as_corrupt(void **state)
{
    (void)state;
    char *dir = test_dir_create();
    const char *const settings[][2] = {{"dram.bytes", "4MiB"},
                                       {"dram.prefault", "false"},
                                       {"ssd.dir", dir},
                                       {"ssd.bytes", "64MiB"},
                                       {NULL, NULL}};
    struct umbp_config *config = make_config(settings);
    struct umbp_client *client;
    struct replay_content content;
    char key[REPLAY_KEY_BYTES];
    uint8_t *data = malloc(FEW_BYTES);
    assert_ok(replay_content_init(&content, 1, FEW_BYTES));
    assert_ok(umbp_client_create(config, &client, NULL, 0));
    for (uint64_t block = 0; block < FEW; block++) {
        replay_content_key(&content, block, key);
        replay_content_fill(&content, block, data);
        data[FEW_BYTES - 1] ^= block == 3 ? 1 : 0;
        assert_ok(umbp_put(client, (struct umbp_key){key, sizeof key}, data, FEW_BYTES, 0));
    }
    umbp_client_destroy(client);
    umbp_config_destroy(config);
    replay_content_fini(&content);
    free(data);

    struct replay_result *result = run_few(dir);
    assert_int_equal(result->corrupt, 1);
    assert_int_equal(result->prefix_hits, 3);
    assert_int_equal(result->lost, FEW - 3);
    assert_int_equal(result->stray_hits, FEW - 3);
    free(result);
    test_dir_remove(dir);
}

static void flip(const char *path, long at)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    int byte = getc(file);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    putc(byte ^ 1, file);
    fclose(file);
}

/* A record fails its checksum: the lookup saw it, the get does not give it. It is a miss, so are
 * the blocks behind it, and it is stored again. */
static void a_block_that_is_lost_ends_the_prefix_and_is_stored_again(void **state)
{
    (void)state;
    char *dir = test_dir_create();
    char *segment = NULL;
    struct replay_result *result = run_few(dir);
    assert_int_equal(result->puts_stored, FEW);
    free(result);

    DIR *folder = opendir(dir);
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (strstr(entry->d_name, ".seg") != NULL) {
            free(segment);
            segment = test_path(dir, entry->d_name);
        }
    }
    closedir(folder);
    assert_non_null(segment);
    flip(segment, 4 * FEW_BYTES); /* in the value of the fourth record or so */
    free(segment);

    result = run_few(dir);
    assert_int_equal(result->corrupt, 0);
    assert_int_equal(replay_stat(result, "corrupt"), 1);
    assert_true(result->prefix_hits < FEW);
    assert_true(result->lost > 0);
    assert_int_equal(result->prefix_hits + result->lost, FEW);
    assert_int_equal(result->puts_stored, 1);
    assert_int_equal(result->puts_known, result->lost - 1);
    free(result);
    result = run_few(dir); /* whole again */
    assert_int_equal(result->prefix_hits, FEW);
    free(result);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generated_load_hits_as_an_exact_lru),
        cmocka_unit_test(the_real_trace_hits_as_an_exact_lru),
        cmocka_unit_test(a_request_in_several_batches_hits_the_same),
        cmocka_unit_test(a_wrong_byte_is_counted_as_corrupt),
        cmocka_unit_test(a_block_that_is_lost_ends_the_prefix_and_is_stored_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
