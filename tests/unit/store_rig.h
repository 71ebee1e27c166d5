/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store over a disk in memory that fails when told to. The disk outlives the store, so that a
 * test can close it, kill it or cut the power, damage files, and open it again.
 */
#ifndef TEST_STORE_RIG_H
#define TEST_STORE_RIG_H

#include "store_support.h"

#include "disk/disk.h"

#define RIG_DIRECTORY "/ssd"

struct rig {
    struct disk *memory;
    struct disk *fault; /* around it; what the stores use */
    struct store_options options;
    struct store *store;
};

/* 4 MiB of DRAM, 32 MiB of SSD in segments of 2 MiB, strict, no promotion. */
MAYBE_UNUSED static struct rig rig_make(void)
{
    struct rig rig = {.options = small_options(4 * MIB)};
    rig.options.ssd_enabled = true;
    rig.options.ssd.directory = RIG_DIRECTORY;
    rig.options.ssd.bytes = 32 * MIB;
    rig.options.ssd.segment_bytes = 2 * MIB;
    rig.options.ssd.durability = SSD_STRICT;
    rig.options.promote_on_read = false;
    rig.options.op_timeout_ms = TEST_WAIT_MS;
    rig.options.close_timeout_ms = TEST_WAIT_MS;
    assert_ok(disk_memory_create(test_seed(), &rig.memory));
    assert_ok(disk_fault_create(rig.memory, &rig.fault));
    rig.options.disk = rig.fault;
    return rig;
}

MAYBE_UNUSED static void rig_open(struct rig *rig) { rig->store = make_store(&rig->options); }

/* A clean stop. */
MAYBE_UNUSED static void rig_close(struct rig *rig)
{
    assert_ok(store_close(rig->store, soon()));
    store_destroy(rig->store);
    rig->store = NULL;
}

/* As kill -9 leaves it: what was written stays, nothing more is. */
MAYBE_UNUSED static void rig_kill(struct rig *rig)
{
    const struct disk_fault crash = {
        .call = DISK_CALL_CHANGE, .first = 1, .action = DISK_FAULT_CRASH};
    assert_true(disk_fault_add(rig->fault, &crash));
    (void)store_close(rig->store, soon());
    store_destroy(rig->store);
    rig->store = NULL;
    disk_fault_clear(rig->fault);
}

/* As a power cut leaves it: what was not synced is there in part. */
MAYBE_UNUSED static void rig_cut_power(struct rig *rig)
{
    disk_memory_power_cut(rig->memory);
    (void)store_close(rig->store, soon());
    store_destroy(rig->store);
    rig->store = NULL;
}

MAYBE_UNUSED static void rig_finish(struct rig *rig)
{
    if (rig->store != NULL) {
        finish_store(rig->store);
        rig->store = NULL;
    }
    disk_destroy(rig->fault);
}

MAYBE_UNUSED static bool in_tier(struct store *store, struct umbp_key key, enum store_tier tier)
{
    struct umbp_entry_info info;
    return store_stat(store, key, &info) == UMBP_OK &&
           (tier == STORE_TIER_DRAM ? info.in_dram : info.in_ssd);
}

/* Everything that the SSD has leaves memory; what is pinned for a moment is tried again. */
MAYBE_UNUSED static bool memory_is_empty(void *context)
{
    struct store *store = context;
    (void)store_evict(store, UINT64_MAX);
    return stat_of(store, "dram.bytes_used") == 0;
}

MAYBE_UNUSED static void empty_memory(struct store *store)
{
    assert_true(test_wait_until(memory_is_empty, store, WAIT_MS));
}

#endif
