/* SPDX-License-Identifier: Apache-2.0 */
/* What the benches share: memory, keys, clients, and a place on the disk. */
#include "tools/bench.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HUGE_BYTES ((size_t)2 << 20)
#define STATS_MAX 128u

uint64_t bench_now_ns(void) { return clock_now_ns(clock_monotonic()); }

/* ------------------------------------------------------------------------- memory -------- */

bool bench_arena_map(size_t bytes, struct bench_arena *arena_out)
{
    size_t map_bytes = bytes + HUGE_BYTES;
    char *map = mem_map(map_bytes);
    if (map == NULL) {
        return false;
    }
    char *data = (char *)align_up((uintptr_t)map, HUGE_BYTES);
    (void)madvise(data, bytes, MADV_HUGEPAGE); /* a wish */
    for (size_t at = 0; at < bytes; at += 4096) {
        ((volatile char *)data)[at] = 0;
    }
    *arena_out = (struct bench_arena){data, bytes, map, map_bytes};
    return true;
}

static bool arena_create(struct bench *bench, struct bench_arena *arena_out)
{
    return bench_arena_map(bench->set_bytes, arena_out) ||
           bench_fail(bench, "no %llu MiB of memory to be had",
                      (unsigned long long)(bench->set_bytes / MIB));
}

void bench_arena_destroy(struct bench_arena *arena)
{
    mem_unmap(arena->map, arena->map_bytes);
    *arena = (struct bench_arena){0};
}

bool bench_arenas(struct bench *bench)
{
    if (bench->user.data == NULL) {
        if (!arena_create(bench, &bench->user)) {
            return false;
        }
        rng_fill(&bench->rng, bench->user.data, bench->user.bytes);
    }
    return bench->pool.data != NULL || arena_create(bench, &bench->pool);
}

uint32_t *bench_shuffled(struct bench *bench, size_t count)
{
    uint32_t *order = mem_calloc(count, sizeof *order);
    if (order == NULL) {
        bench_fail(bench, "out of memory");
        return NULL;
    }
    for (size_t i = 0; i < count; i++) { /* Fisher-Yates, inside out */
        size_t other = (size_t)rng_below(&bench->rng, i + 1);
        order[i] = order[other];
        order[other] = (uint32_t)i;
    }
    return order;
}

/* --------------------------------------------------------------------------- keys -------- */

void bench_key_make(uint64_t seed, uint64_t id, char text_out[BENCH_KEY_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    static const char tail[] = "_0_0_k";
    _Static_assert(64 + sizeof tail - 1 == BENCH_KEY_BYTES, "the whole key is written");
    struct rng rng;

    rng_init(&rng, seed ^ (id * UINT64_C(0x9E3779B97F4A7C15)));
    for (size_t word = 0; word < 4; word++) {
        /* the id itself makes keys distinct, whatever the numbers are */
        uint64_t bits = word == 0 ? id : rng_next(&rng);
        for (size_t i = 0; i < 16; i++, bits >>= 4) {
            text_out[word * 16 + i] = digits[bits & 15];
        }
    }
    memcpy(text_out + 64, tail, sizeof tail - 1);
}

bool bench_keys_create(struct bench *bench, size_t count, struct bench_keys *keys_out)
{
    struct bench_keys keys = {.count = count};
    keys.text = mem_map(count * BENCH_KEY_BYTES);
    keys.keys = mem_map(count * sizeof *keys.keys);
    if (keys.text == NULL || keys.keys == NULL) {
        bench_keys_destroy(&keys);
        return bench_fail(bench, "out of memory");
    }
    for (size_t i = 0; i < count; i++) {
        keys.keys[i] = (struct umbp_key){keys.text + i * BENCH_KEY_BYTES, BENCH_KEY_BYTES};
    }
    bench_keys_renew(bench, &keys, count);
    *keys_out = keys;
    return true;
}

void bench_keys_destroy(struct bench_keys *keys)
{
    mem_unmap(keys->text, keys->count * BENCH_KEY_BYTES);
    mem_unmap(keys->keys, keys->count * sizeof *keys->keys);
    *keys = (struct bench_keys){0};
}

void bench_keys_renew(struct bench *bench, struct bench_keys *keys, size_t count)
{
    ASSERT(count <= keys->count);
    for (size_t i = 0; i < count; i++) {
        bench_key_make(bench->options.seed, bench->next_id++, keys->text + i * BENCH_KEY_BYTES);
    }
}

/* ------------------------------------------------------------------------ clients -------- */

static bool set_bytes(struct umbp_config *config, const char *option, uint64_t bytes)
{
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)bytes);
    return umbp_config_set(config, option, text) == UMBP_OK;
}

static bool set_all(struct umbp_config *config, const struct bench_store *store)
{
    bool is_set = umbp_config_set(config, "scheme", "local") == UMBP_OK &&
                  umbp_config_set(config, "role", "standalone") == UMBP_OK &&
                  umbp_config_set(config, "close_timeout_ms", "60000") == UMBP_OK &&
                  set_bytes(config, "dram.bytes", store->dram_bytes);
    if (store->directory != NULL) {
        is_set = is_set && umbp_config_set(config, "ssd.enabled", "true") == UMBP_OK &&
                 umbp_config_set(config, "ssd.dir", store->directory) == UMBP_OK &&
                 set_bytes(config, "ssd.bytes", store->ssd_bytes);
    } else {
        is_set = is_set && umbp_config_set(config, "ssd.enabled", "false") == UMBP_OK;
    }
    if (store->is_single) {
        is_set = is_set && umbp_config_set(config, "copy.threads", "1") == UMBP_OK;
    }
    if (store->is_frugal) {
        is_set = is_set && umbp_config_set(config, "promote.on_read", "false") == UMBP_OK;
    }
    if (store->is_exact) {
        is_set = is_set && umbp_config_set(config, "dram.high_watermark", "1") == UMBP_OK &&
                 umbp_config_set(config, "dram.low_watermark", "1") == UMBP_OK;
    }
    return is_set;
}

bool bench_store_create(struct bench *bench, const struct bench_store *store,
                        struct umbp_client **client_out)
{
    struct umbp_config *config;
    char error[512] = "";
    if (config_copy(bench->args->config, &config) != UMBP_OK) {
        return bench_fail(bench, "out of memory");
    }
    enum umbp_status status = UMBP_INVALID_VALUE;
    if (set_all(config, store)) {
        status = umbp_client_create(config, client_out, error, sizeof error);
    } else {
        snprintf(error, sizeof error, "%s", umbp_config_error(config));
    }
    umbp_config_destroy(config);
    if (status != UMBP_OK) {
        return bench_fail(bench, "could not make the store: %s",
                          error[0] != '\0' ? error : umbp_status_text(status));
    }
    return true;
}

uint64_t bench_stat(struct umbp_client *client, const char *name)
{
    struct umbp_stat_value values[STATS_MAX];
    size_t count = 0;
    if (umbp_stats(client, values, ARRAY_COUNT(values), &count) != UMBP_OK) {
        return 0;
    }
    for (size_t i = 0; i < size_min(count, ARRAY_COUNT(values)); i++) {
        if (strcmp(values[i].name, name) == 0) {
            return values[i].value;
        }
    }
    return 0;
}

/* statm counts what threads have not summed up yet wrongly; smaps_rollup walks the page tables. */
uint64_t bench_resident_bytes(void)
{
    FILE *file = fopen("/proc/self/smaps_rollup", "re");
    char line[256];
    unsigned long long kib = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "Rss: %llu kB", &kib) == 1) {
            break;
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return kib * KIB;
}

bool bench_check(struct bench *bench, const char *what, enum umbp_status status,
                 const enum umbp_status *statuses, size_t count)
{
    for (size_t i = 0; status == UMBP_OK && i < count; i++) {
        status = statuses[i];
    }
    return status == UMBP_OK || bench_fail(bench, "%s: %s", what, umbp_status_text(status));
}

bool bench_fill(struct bench *bench, struct umbp_client *client, const struct bench_keys *keys,
                size_t first, size_t count, const char *from, size_t bytes, size_t blocks)
{
    struct umbp_put_item items[BENCH_BATCH];
    enum umbp_status statuses[BENCH_BATCH];
    for (size_t at = first; at < first + count; at += BENCH_BATCH) {
        size_t part = size_min(BENCH_BATCH, first + count - at);
        for (size_t i = 0; i < part; i++) {
            items[i] = (struct umbp_put_item){
                .key = keys->keys[at + i],
                .data = from + (at + i) % blocks * bytes,
                .bytes = bytes,
                .depth = UMBP_DEPTH_NONE,
            };
        }
        enum umbp_status status = umbp_batch_put(client, items, part, statuses);
        if (!bench_check(bench, "put", status, statuses, part)) {
            return false;
        }
    }
    return true;
}

/* --------------------------------------------------------------------------- disk -------- */

static bool make_directory(struct bench *bench)
{
    char parent[BENCH_PATH_BYTES] = "";
    if (umbp_config_get(bench->args->config, "ssd.dir", parent, sizeof parent) != UMBP_OK) {
        return bench_fail(bench, "the name of the directory is too long");
    }
    int bytes = snprintf(bench->directory, sizeof bench->directory, "%s/umbp-bench-XXXXXX",
                         parent[0] != '\0' ? parent : ".");
    if (bytes < 0 || (size_t)bytes >= sizeof bench->directory) {
        bench->directory[0] = '\0';
        return bench_fail(bench, "the name of the directory is too long");
    }
    if (mkdtemp(bench->directory) == NULL) {
        bench->directory[0] = '\0';
        return bench_fail(bench, "could not make a directory in %s: %s",
                          parent[0] != '\0' ? parent : "the working directory", strerror(errno));
    }
    return true;
}

bool bench_path(struct bench *bench, const char *name, char path_out[BENCH_PATH_BYTES])
{
    if (bench->directory[0] == '\0' && !make_directory(bench)) {
        return false;
    }
    snprintf(path_out, BENCH_PATH_BYTES, "%s/%s", bench->directory, name);
    return true;
}

void bench_visit_tree(const char *path, void (*visit)(const char *path))
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    char inside[2 * BENCH_PATH_BYTES];
    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name);
            visit(inside);
        }
    }
    if (directory != NULL) {
        (void)closedir(directory);
    }
}

static void remove_file(const char *path) { (void)unlink(path); }

void bench_remove_tree(const char *path)
{
    bench_visit_tree(path, remove_file);
    (void)rmdir(path);
}

void bench_settle(const struct bench *bench)
{
    int fd = open(bench->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)syncfs(fd);
        (void)close(fd);
    }
}
