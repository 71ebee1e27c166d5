/* SPDX-License-Identifier: Apache-2.0 */
/* A working set of values of one size: what to put and get next, and whether it was right. */
#include "tools/bench.h"

void bench_stamp(char *value, size_t bytes, uint64_t mark)
{
    ASSERT(bytes >= sizeof mark);
    memcpy(value, &mark, sizeof mark);
    memcpy(value + bytes - sizeof mark, &mark, sizeof mark);
}

bool bench_is_stamped(const char *value, size_t bytes, uint64_t mark)
{
    return memcmp(value, &mark, sizeof mark) == 0 &&
           memcmp(value + bytes - sizeof mark, &mark, sizeof mark) == 0;
}

const char *bench_size_text(size_t bytes, char text_out[24])
{
    if (bytes >= MIB && bytes % MIB == 0) {
        snprintf(text_out, 24, "%zuMiB", bytes / MIB);
    } else {
        snprintf(text_out, 24, "%zuKiB", bytes / KIB);
    }
    return text_out;
}

bool bench_set_create(struct bench *bench, struct umbp_client *client, size_t bytes,
                      struct bench_set *set_out)
{
    struct bench_set set = {.bench = bench, .client = client, .bytes = bytes};
    if (!bench_arenas(bench)) {
        return false;
    }
    set.count = bench->user.bytes / bytes;
    ASSERT(set.count > 0);
    set.batch = size_min(BENCH_BATCH, set.count);
    size_t batches = size_max(1, bench->slice_bytes / bytes / set.batch);
    set.slice = size_min(batches, set.count / set.batch) * set.batch;
    set.room = 0; /* the first put clears: who knows what the tier holds */
    set.order = bench_shuffled(bench, set.count);
    set.gets = mem_map(set.slice * sizeof *set.gets);
    set.puts = mem_map(set.slice * sizeof *set.puts);
    set.statuses = mem_map(set.slice * sizeof *set.statuses);
    if (set.order == NULL || set.gets == NULL || set.puts == NULL || set.statuses == NULL) {
        bench_set_destroy(&set);
        return bench_fail(bench, "out of memory");
    }
    if (!bench_keys_create(bench, set.count, &set.keys) ||
        !bench_keys_create(bench, set.slice, &set.slice_keys)) {
        bench_set_destroy(&set);
        return false;
    }
    *set_out = set;
    return true;
}

void bench_set_destroy(struct bench_set *set)
{
    bench_keys_destroy(&set->keys);
    bench_keys_destroy(&set->slice_keys);
    mem_unmap(set->gets, set->slice * sizeof *set->gets);
    mem_unmap(set->puts, set->slice * sizeof *set->puts);
    mem_unmap(set->statuses, set->slice * sizeof *set->statuses);
    mem_free(set->order);
}

bool bench_set_fill(struct bench_set *set)
{
    char *user = set->bench->user.data;
    if (!bench_check(set->bench, "clear", umbp_clear(set->client), NULL, 0)) {
        return false;
    }
    for (size_t i = 0; i < set->count; i++) {
        bench_stamp(user + i * set->bytes, set->bytes, i);
    }
    return bench_fill(set->bench, set->client, &set->keys, 0, set->count, user, set->bytes,
                      set->count);
}

void bench_set_advance(struct bench_set *set) { set->at += set->slice; }

void bench_set_aim_gets(struct bench_set *set)
{
    for (size_t i = 0; i < set->slice; i++) {
        size_t number = (set->at + i) % set->count;
        /* An engine has just made its keys: they come one after the other, not from all over. */
        memcpy(set->slice_keys.text + i * BENCH_KEY_BYTES, set->keys.keys[set->order[number]].data,
               BENCH_KEY_BYTES);
        set->gets[i] = (struct umbp_get_item){
            .key = set->slice_keys.keys[i],
            .data = set->bench->user.data + number * set->bytes,
            .bytes = set->bytes,
        };
        set->statuses[i] = UMBP_CANCELLED; /* so that what was not done shows */
    }
}

bool bench_set_check_gets(struct bench_set *set)
{
    if (!bench_check(set->bench, "get", UMBP_OK, set->statuses, set->slice)) {
        return false;
    }
    for (size_t i = 0; i < set->slice; i++) {
        size_t number = (set->at + i) % set->count;
        if (!bench_is_stamped(set->gets[i].data, set->bytes, set->order[number])) {
            return bench_fail(set->bench, "a get brought the bytes of another value");
        }
    }
    return true;
}

bool bench_set_aim_puts(struct bench_set *set)
{
    if (set->room < set->slice) {
        if (!bench_check(set->bench, "clear", umbp_clear(set->client), NULL, 0)) {
            return false;
        }
        set->room = set->count;
    }
    set->room -= set->slice;
    bench_keys_renew(set->bench, &set->slice_keys, set->slice);
    for (size_t i = 0; i < set->slice; i++) {
        size_t number = (set->at + i) % set->count;
        set->puts[i] = (struct umbp_put_item){
            .key = set->slice_keys.keys[i],
            .data = set->bench->user.data + number * set->bytes,
            .bytes = set->bytes,
            .depth = UMBP_DEPTH_NONE,
        };
        set->statuses[i] = UMBP_CANCELLED;
    }
    return true;
}

bool bench_set_check_puts(struct bench_set *set)
{
    return bench_check(set->bench, "put", UMBP_OK, set->statuses, set->slice);
}

struct bench_copy bench_set_raw_get(const struct bench_set *set)
{
    return (struct bench_copy){
        .to = set->bench->user.data,
        .from = set->bench->pool.data,
        .from_order = set->order,
        .bytes = set->bytes,
        .blocks = set->count,
        .first = set->at,
        .count = set->slice,
    };
}

struct bench_copy bench_set_raw_put(const struct bench_set *set)
{
    return (struct bench_copy){
        .to = set->bench->pool.data,
        .from = set->bench->user.data,
        .bytes = set->bytes,
        .blocks = set->count,
        .first = set->at,
        .count = set->slice,
    };
}
