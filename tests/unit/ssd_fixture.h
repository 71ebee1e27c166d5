/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of the SSD tier share: opening on any driver, records whose bytes follow from key
 * and generation, and an index as a store would keep it (by key number, small and slow).
 */
#ifndef TEST_SSD_FIXTURE_H
#define TEST_SSD_FIXTURE_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "disk/disk.h"
#include "support.h"
#include "tier_ssd/tier_ssd.h"

#define FX_KEYS 512u
#define FX_VALUE_MAX (3u << 20)

struct fx_slot {
    bool is_there;
    bool is_tombstone;
    uint64_t generation;
    uint64_t bytes;
    struct ssd_location location;
};

struct fx {
    struct disk *disk;
    const char *directory;
    struct ssd_tier *tier;
    struct ssd_options options;
    struct ssd_recovery recovery;
    struct fx_slot index[FX_KEYS]; /* what the log told, or what was appended */
    uint64_t generation;
    bool is_opening;
    uint64_t told; /* the last generation told while opening */
    char error[512];
};

static inline uint64_t fx_soon(void) { return clock_deadline_ns(clock_monotonic(), TEST_WAIT_MS); }

/* Key `number`, of `bytes` bytes: NULs and non-text included, different in the first four. */
static inline void fx_key(uint32_t number, uint8_t *key, uint32_t bytes)
{
    test_fill(key, bytes, 7777 + number);
    memcpy(key, &number, bytes < 4 ? bytes : 4);
}
static inline uint32_t fx_key_bytes(uint32_t number) { return 4 + number * 37 % 200; }

static inline void fx_note(void *context, const struct ssd_record_info *info)
{
    struct fx *fx = context;
    uint32_t number = 0;
    assert_true(!fx->is_opening || fx->told <= info->generation); /* in ascending order */
    fx->told = info->generation;
    assert_true(info->key.bytes >= 4);
    memcpy(&number, info->key.data, 4);
    assert_true(number < FX_KEYS);
    uint8_t key[SSD_BLOCK_BYTES];
    fx_key(number, key, fx_key_bytes(number));
    assert_int_equal(info->key.bytes, fx_key_bytes(number));
    assert_memory_equal(info->key.data, key, info->key.bytes);
    struct fx_slot *slot = &fx->index[number];
    if (slot->is_there && slot->generation > info->generation) {
        return;
    }
    *slot = (struct fx_slot){true, info->is_tombstone, info->generation, info->value_bytes,
                             info->location};
    if (fx->generation < info->generation) {
        fx->generation = info->generation;
    }
}

static inline void fx_gone(void *context, uint32_t segment)
{
    struct fx *fx = context;
    for (uint32_t i = 0; i < FX_KEYS; i++) {
        if (fx->index[i].is_there && fx->index[i].location.segment == segment) {
            fx->index[i].is_there = false;
        }
    }
}

static inline struct ssd_visitor fx_visitor(struct fx *fx)
{
    return (struct ssd_visitor){.record = fx_note, .segment_gone = fx_gone, .context = fx};
}

static inline void fx_init(struct fx *fx, struct disk *disk, const char *directory)
{
    memset(fx, 0, sizeof(*fx));
    fx->disk = disk;
    fx->directory = directory;
    fx->options = (struct ssd_options){
        .directory = directory,
        .bytes = 16u << 20,
        .segment_bytes = 1u << 20,
        .durability = SSD_STRICT,
        .disk = disk,
        .clock = clock_monotonic(),
        .read_queues = 2,
        .queue_depth = 8,
        .io_bytes = 256u << 10,
    };
}

static inline enum umbp_status fx_try_open(struct fx *fx)
{
    struct ssd_visitor visitor = fx_visitor(fx);
    memset(fx->index, 0, sizeof(fx->index));
    fx->options.disk = fx->disk;
    fx->told = 0;
    fx->is_opening = true;
    enum umbp_status status =
        ssd_open(&fx->options, &visitor, &fx->tier, &fx->recovery, fx->error, sizeof(fx->error));
    fx->is_opening = false;
    return status;
}

static inline void fx_open(struct fx *fx)
{
    enum umbp_status status = fx_try_open(fx);
    if (status != UMBP_OK) {
        print_error("open: %s: %s\n", umbp_status_name(status), fx->error);
    }
    assert_ok(status);
}

static inline void fx_close(struct fx *fx)
{
    assert_ok(ssd_close(fx->tier, fx_soon()));
    fx->tier = NULL;
}

/* One record; the index follows. `aligned`: memory that needs no staging. */
static inline enum umbp_status fx_put_as(struct fx *fx, uint32_t number, uint64_t bytes,
                                         bool aligned)
{
    uint8_t key[SSD_BLOCK_BYTES];
    uint8_t *memory = aligned_alloc(4096, (bytes + 8192) / 4096 * 4096);
    uint8_t *value = aligned ? memory : memory + 1;
    uint64_t generation = ++fx->generation;
    assert_non_null(memory);
    fx_key(number, key, fx_key_bytes(number));
    test_fill(value, bytes, generation);
    struct iovec iov = {.iov_base = value, .iov_len = bytes};
    struct ssd_append append = {
        .key = {key, fx_key_bytes(number)},
        .generation = generation,
        .value_bytes = bytes,
        .depth = number,
        .iov = &iov,
        .iov_count = 1,
    };
    enum umbp_status status = ssd_append(fx->tier, &append, 1, false, fx_soon());
    assert_int_equal(status, append.status);
    if (status == UMBP_OK) {
        assert_int_not_equal(append.location.segment, 0);
        struct fx_slot *slot = &fx->index[number];
        if (slot->is_there && !slot->is_tombstone) {
            ssd_mark_dead(fx->tier, slot->location, slot->bytes, fx_key_bytes(number));
        }
        *slot = (struct fx_slot){true, false, generation, bytes, append.location};
    } else {
        assert_int_equal(append.location.segment, 0);
    }
    free(memory);
    return status;
}
static inline enum umbp_status fx_put(struct fx *fx, uint32_t number, uint64_t bytes)
{
    return fx_put_as(fx, number, bytes, number % 2 == 0);
}

static inline enum umbp_status fx_remove(struct fx *fx, uint32_t number)
{
    uint8_t key[SSD_BLOCK_BYTES];
    fx_key(number, key, fx_key_bytes(number));
    struct ssd_append append = {
        .key = {key, fx_key_bytes(number)},
        .generation = ++fx->generation,
        .is_tombstone = true,
    };
    enum umbp_status status = ssd_append(fx->tier, &append, 1, false, fx_soon());
    if (status == UMBP_OK) {
        struct fx_slot *slot = &fx->index[number];
        if (slot->is_there && !slot->is_tombstone) {
            ssd_mark_dead(fx->tier, slot->location, slot->bytes, fx_key_bytes(number));
        }
        *slot = (struct fx_slot){true, true, append.generation, 0, {0, 0}};
    }
    return status;
}

/* Read what the index says is there. UMBP_OK: the bytes are right (else the test fails). */
static inline enum umbp_status fx_get(struct fx *fx, uint32_t number)
{
    const struct fx_slot *slot = &fx->index[number];
    uint8_t key[SSD_BLOCK_BYTES];
    uint8_t *value = malloc(slot->bytes + 1);
    assert_non_null(value);
    fx_key(number, key, fx_key_bytes(number));
    struct ssd_range range = {.to = value, .bytes = slot->bytes};
    struct ssd_read read = {
        .key = {key, fx_key_bytes(number)},
        .generation = slot->generation,
        .value_bytes = slot->bytes,
        .location = slot->location,
        .ranges = &range,
        .range_count = 1,
    };
    enum umbp_status status = ssd_read(fx->tier, &read, 1, NULL, NULL, fx_soon());
    assert_int_equal(status, read.status);
    if (status == UMBP_OK) {
        assert_true(test_check_fill(value, slot->bytes, slot->generation));
        assert_int_equal(read.value_crc, crc32c(0, value, slot->bytes));
    }
    free(value);
    return status;
}

static inline bool fx_has(const struct fx *fx, uint32_t number)
{
    return fx->index[number].is_there && !fx->index[number].is_tombstone;
}

static inline uint32_t fx_count(const struct fx *fx)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < FX_KEYS; i++) {
        count += fx_has(fx, i);
    }
    return count;
}

/* Every key that the index has reads back right. */
static inline void fx_check_all(struct fx *fx)
{
    for (uint32_t i = 0; i < FX_KEYS; i++) {
        if (fx_has(fx, i)) {
            assert_ok(fx_get(fx, i));
        }
    }
}

/* For tests that make the log warn thousands of times. */
static inline void fx_no_line(void *context, enum umbp_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)line;
}
static inline int fx_quiet(void **state)
{
    (void)state;
    umbp_log_set(UMBP_LOG_ERROR, fx_no_line, NULL);
    return 0;
}

/* ------------------------------------------------------------------------ reclaim -------- */

#define FX_MOVE_MAX 4096u

struct fx_found {
    uint32_t number;
    bool is_tombstone;
    uint64_t generation;
    uint64_t bytes;
    uint32_t depth;
    uint32_t crc;
    struct ssd_location location;
};

struct fx_list {
    struct fx_found found[FX_MOVE_MAX];
    uint32_t count;
};

static inline void fx_collect(void *context, const struct ssd_record_info *info)
{
    struct fx_list *list = context;
    struct fx_found *found = &list->found[list->count++];
    assert_true(list->count <= FX_MOVE_MAX);
    memcpy(&found->number, info->key.data, 4);
    found->is_tombstone = info->is_tombstone;
    found->generation = info->generation;
    found->bytes = info->value_bytes;
    found->depth = info->depth;
    found->crc = info->value_crc;
    found->location = info->location;
}

/* Move one record to the log's end, as a store does. */
static inline enum umbp_status fx_move(struct fx *fx, const struct fx_found *found)
{
    uint8_t key[SSD_BLOCK_BYTES];
    uint8_t *value = aligned_alloc(4096, (found->bytes + 4096) / 4096 * 4096);
    struct fx_slot *slot = &fx->index[found->number];
    enum umbp_status status = UMBP_OK;
    assert_non_null(value);
    fx_key(found->number, key, fx_key_bytes(found->number));
    struct ssd_range range = {.to = value, .bytes = found->bytes};
    struct ssd_read read = {
        .key = {key, fx_key_bytes(found->number)},
        .generation = found->generation,
        .value_bytes = found->bytes,
        .location = found->location,
        .ranges = &range,
        .range_count = 1,
    };
    if (!found->is_tombstone) {
        status = ssd_read(fx->tier, &read, 1, NULL, NULL, fx_soon());
        if (status == UMBP_OK) {
            assert_true(test_check_fill(value, found->bytes, found->generation));
        }
    }
    struct iovec iov = {.iov_base = value, .iov_len = found->bytes};
    struct ssd_append append = {
        .key = read.key,
        .generation = found->generation,
        .value_bytes = found->bytes,
        .depth = found->depth,
        .is_tombstone = found->is_tombstone,
        .has_crc = true,
        .value_crc = found->crc,
        .iov = &iov,
        .iov_count = 1,
    };
    if (status == UMBP_OK) {
        status = ssd_append(fx->tier, &append, 1, true, fx_soon());
    }
    if (status == UMBP_OK && !found->is_tombstone) {
        ssd_mark_dead(fx->tier, found->location, found->bytes, fx_key_bytes(found->number));
        slot->location = append.location;
    }
    free(value);
    return status;
}

/* Give one segment up, moving what lives. UMBP_NOT_FOUND: there is none. */
static inline enum umbp_status fx_reclaim(struct fx *fx)
{
    struct fx_list *list = calloc(1, sizeof(*list));
    struct ssd_visitor visitor = {.record = fx_collect, .context = list};
    uint32_t segment = 0;
    assert_non_null(list);
    enum umbp_status status = ssd_victim(fx->tier, true, &segment, fx_soon());
    if (status != UMBP_OK) {
        free(list);
        return status;
    }
    status = ssd_segment_records(fx->tier, segment, &visitor, fx_soon());
    bool has_older = ssd_has_older(fx->tier, segment);
    for (uint32_t i = 0; i < list->count && status == UMBP_OK; i++) {
        const struct fx_found *found = &list->found[i];
        const struct fx_slot *slot = &fx->index[found->number];
        bool is_live = slot->is_there && slot->generation == found->generation &&
                       (found->is_tombstone ? slot->is_tombstone && has_older
                                            : slot->location.segment == segment &&
                                                  slot->location.block == found->location.block);
        if (is_live) {
            status = fx_move(fx, found);
        }
    }
    if (status == UMBP_OK) {
        ssd_segment_release(fx->tier, segment);
    } else {
        ssd_victim_return(fx->tier, segment);
    }
    free(list);
    return status;
}

static inline struct disk *fx_memory_disk(void)
{
    static uint64_t count; /* each disk has chances of its own */
    struct disk *disk;
    assert_ok(disk_memory_create(test_seed() + count++, &disk));
    return disk;
}

static inline struct disk *fx_faulty(struct disk *inner)
{
    struct disk *disk;
    assert_ok(disk_fault_create(inner, &disk));
    return disk;
}

#endif
