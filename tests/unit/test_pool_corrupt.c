/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fault 19: bytes that change at rest at their owner, in memory or on its SSD, while memory is
 * checked: a reader elsewhere is never told that it has them. A miss, counted at the owner, who
 * forgets the key. Pool clients over nodes in a simulated network.
 */
#include "pool_rig.h"
#include "store_rig.h"

#define VALUES 70u /* more than one window */

struct owned {
    struct rig disk;
    struct rig_world world;
    struct rig_master master;
    struct rig_process owner;
    struct rig_process user;
    uint8_t *data;
    uint64_t bytes;
    unsigned count;
};

/* Values k0.. of `bytes` at the owner; the user is on `host`, the owner on 0. */
static void begin(struct owned *owned, uint32_t host, unsigned count, uint64_t bytes)
{
    const struct pool_options patient = {.op_timeout_ms = 100000};
    const struct node_options node = {.checks_memory = true};
    memset(owned, 0, sizeof(*owned));
    owned->bytes = bytes;
    owned->count = count;
    owned->data = malloc(bytes * count + 1);
    owned->disk = rig_make();
    owned->disk.options.dram_checksum = true;
    owned->disk.options.copy_mode = STORE_COPY_ON_EVICT; /* nobody reads what is being spoiled */
    owned->disk.options.hash_seed = RIG_SEED;
    rig_open(&owned->disk);
    rig_begin(&owned->world, test_seed());
    rig_master_open(&owned->world, &owned->master, 9, "m0");
    rig_process_open(&owned->world, &owned->owner, "owner", 0, owned->disk.store, &node, &patient);
    rig_process_open(&owned->world, &owned->user, "user", host, NULL, NULL, &patient);
    rig_advance(&owned->world, 1000);
}

static void end(struct owned *owned)
{
    rig_process_close(&owned->user);
    rig_process_close(&owned->owner);
    rig_master_close(&owned->master);
    rig_end(&owned->world);
    rig_finish(&owned->disk);
    free(owned->data);
}

static void put_all_remotely(struct owned *owned)
{
    struct named names[VALUES];
    struct umbp_put_item items[VALUES];
    enum umbp_status statuses[VALUES];
    for (unsigned i = 0; i < owned->count; i++) {
        uint8_t *data = owned->data + i * owned->bytes;
        test_fill(data, owned->bytes, i);
        items[i] = (struct umbp_put_item){
            .key = name_key(&names[i], "k", i), .data = data, .bytes = owned->bytes};
    }
    assert_ok(pool_batch_put(owned->user.pool, items, owned->count, statuses));
    for (unsigned i = 0; i < owned->count; i++) {
        assert_ok(statuses[i]);
    }
}

/* Every value is right, but for the one that is a miss; `none`: none is. */
#define NONE UINT32_MAX
static void get_all_but(struct owned *owned, unsigned missing)
{
    struct named names[VALUES];
    struct umbp_get_item items[VALUES];
    enum umbp_status statuses[VALUES];
    memset(owned->data, 0xee, owned->bytes * owned->count);
    for (unsigned i = 0; i < owned->count; i++) {
        items[i] = (struct umbp_get_item){.key = name_key(&names[i], "k", i),
                                          .data = owned->data + i * owned->bytes,
                                          .bytes = owned->bytes};
    }
    assert_ok(pool_batch_get(owned->user.pool, items, owned->count, statuses));
    for (unsigned i = 0; i < owned->count; i++) {
        assert_status(statuses[i], i == missing ? UMBP_NOT_FOUND : UMBP_OK);
        if (i != missing) {
            assert_true(test_check_fill(owned->data + i * owned->bytes, owned->bytes, i));
        }
    }
}

/* One byte at the owner's is another now. */
static void spoil(struct owned *owned, unsigned which, uint64_t at)
{
    struct named named;
    struct store_pin pin;
    assert_ok(store_pin(owned->disk.store, name_key(&named, "k", which), 0, true, &pin));
    assert_int_equal(pin.tier, STORE_TIER_DRAM);
    struct dram_piece piece = store_piece_at(owned->disk.store, &pin.block, at, NULL);
    *(unsigned char *)piece.data ^= 0x10;
    store_unpin(owned->disk.store, &pin);
}

static void expect_corrupt(struct owned *owned, uint64_t count)
{
    assert_int_equal(stat_of(owned->disk.store, "corrupt"), count);
}

static void bytes_that_changed_in_memory_are_a_miss_to_a_reader_elsewhere(void **state)
{
    const uint64_t sizes[] = {1, 4097, 70000, 1500000};
    (void)state;
    for (uint32_t host = 0; host < 2; host++) { /* shown in place, sent */
        for (unsigned s = 0; s < ARRAY_COUNT(sizes); s++) {
            struct owned owned;
            begin(&owned, host, 1, sizes[s]);
            put_all_remotely(&owned);
            get_all_but(&owned, NONE);
            spoil(&owned, 0, sizes[s] - 1);
            get_all_but(&owned, 0);
            expect_corrupt(&owned, 1);
            get_all_but(&owned, 0); /* gone, and not counted again */
            expect_corrupt(&owned, 1);
            put_all_remotely(&owned);
            get_all_but(&owned, NONE);
            end(&owned);
        }
    }
}

static void one_bad_value_costs_its_batch_nothing_else(void **state)
{
    (void)state;
    for (uint32_t host = 0; host < 2; host++) {
        struct owned owned;
        begin(&owned, host, VALUES, 20000);
        put_all_remotely(&owned);
        spoil(&owned, 66, 12345);
        get_all_but(&owned, 66);
        expect_corrupt(&owned, 1);
        end(&owned);
    }
}

/* A part of a value is vouched for by the whole's sum. */
static void a_part_of_a_value_that_changed_elsewhere_is_a_miss_too(void **state)
{
    (void)state;
    for (uint32_t host = 0; host < 2; host++) {
        struct owned owned;
        struct named named;
        enum umbp_status status = UMBP_OK;
        begin(&owned, host, 1, 100000);
        put_all_remotely(&owned);
        spoil(&owned, 0, 99999);
        const struct umbp_range range = {owned.data, 1000, 50};
        const struct umbp_range_item item = {.key = name_key(&named, "k", 0),
                                             .ranges = &range,
                                             .range_count = 1,
                                             .object_bytes = 100000};
        assert_ok(pool_batch_get_ranges(owned.user.pool, &item, 1, &status));
        assert_status(status, UMBP_NOT_FOUND);
        expect_corrupt(&owned, 1);
        end(&owned);
    }
}

/* Changed in memory before it was copied out: the record carries the sum of what was put. */
static void bytes_that_changed_before_they_reached_the_ssd_are_a_miss(void **state)
{
    (void)state;
    struct owned owned;
    begin(&owned, 1, 3, 20000);
    put_all_remotely(&owned);
    spoil(&owned, 1, 777);
    assert_ok(store_flush(owned.disk.store, soon()));
    empty_memory(owned.disk.store);
    get_all_but(&owned, 1);
    expect_corrupt(&owned, 1);
    end(&owned);
}

/* A bit of the record itself, in what the device gives back. */
static void bytes_that_changed_on_the_ssd_are_a_miss_to_a_reader_elsewhere(void **state)
{
    const struct disk_fault flip = {
        .call = DISK_CALL_READ, .first = 1, .times = 1u << 30, .action = DISK_FAULT_FLIP};
    (void)state;
    for (uint32_t host = 0; host < 2; host++) {
        struct owned owned;
        begin(&owned, host, 1, 20000);
        put_all_remotely(&owned);
        assert_ok(store_flush(owned.disk.store, soon()));
        empty_memory(owned.disk.store);
        assert_true(disk_fault_add(owned.disk.fault, &flip));
        get_all_but(&owned, 0);
        expect_corrupt(&owned, 1);
        disk_fault_clear(owned.disk.fault);
        put_all_remotely(&owned); /* before the master hears of it */
        get_all_but(&owned, NONE);
        end(&owned);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_that_changed_in_memory_are_a_miss_to_a_reader_elsewhere),
        cmocka_unit_test(one_bad_value_costs_its_batch_nothing_else),
        cmocka_unit_test(a_part_of_a_value_that_changed_elsewhere_is_a_miss_too),
        cmocka_unit_test(bytes_that_changed_before_they_reached_the_ssd_are_a_miss),
        cmocka_unit_test(bytes_that_changed_on_the_ssd_are_a_miss_to_a_reader_elsewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
