/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Damage costs what it hit: flipped bits, truncation, lost footers, garbage behind the last record.
 * Never a wrong byte. The damaged directory is opened as a follower, which writes nothing, so each
 * damage can be undone for the next.
 */
#include "ssd_fixture.h"

#define KEYS 40u

struct damage {
    struct fx fx;
    uint8_t *file; /* the first segment's bytes, in the memory disk */
    uint64_t bytes;
    uint32_t segment;
};

static void segment_path(uint32_t id, char *path) { (void)snprintf(path, 64, "d/%016x.seg", id); }

/* A sealed segment (or, with `crashes`, one without a footer) of small and large records. */
static void damage_init(struct damage *damage, bool crashes)
{
    struct fx *fx = &damage->fx;
    fx_init(fx, fx_faulty(fx_memory_disk()), "d");
    fx->options.bytes = 16u << 20;
    fx->options.segment_bytes = 2u << 20;
    fx_open(fx);
    for (uint32_t i = 0; i < KEYS; i++) {
        assert_ok(fx_put(fx, i, i % 4 == 0 ? 60000 : i * 300));
    }
    assert_ok(fx_remove(fx, 5));
    damage->segment = fx->index[0].location.segment;
    if (crashes) {
        const struct disk_fault fault = {
            .call = DISK_CALL_CHANGE, .first = 1, .action = DISK_FAULT_CRASH};
        assert_true(disk_fault_add(fx->disk, &fault));
        assert_status(ssd_close(fx->tier, fx_soon()), UMBP_IO);
        disk_fault_clear(fx->disk);
    } else {
        fx_close(fx);
    }
    fx->options.read_only = true;
}

/* The memory disk is behind the fault wrapper: read and write through the door. */
static void change_byte(struct damage *damage, uint64_t at, uint8_t mask)
{
    char path[64];
    struct disk_file file;
    uint8_t byte;
    size_t got;
    segment_path(damage->segment, path);
    assert_ok(disk_open(damage->fx.disk, path, DISK_OPEN_WRITE, &file));
    assert_ok(disk_read_at(damage->fx.disk, file, &byte, 1, at, &got));
    assert_int_equal(got, 1);
    byte ^= mask;
    assert_ok(disk_write_at(damage->fx.disk, file, &byte, 1, at));
    disk_close(damage->fx.disk, file);
}

static uint64_t file_bytes(struct damage *damage)
{
    char path[64];
    struct disk_file file;
    uint64_t bytes;
    segment_path(damage->segment, path);
    assert_ok(disk_open(damage->fx.disk, path, 0, &file));
    assert_ok(disk_size(damage->fx.disk, file, &bytes));
    disk_close(damage->fx.disk, file);
    return bytes;
}

/* Open, count the keys that read back right; fx_get fails the test on a wrong byte. */
static uint32_t good_keys(struct damage *damage)
{
    uint32_t good = 0;
    fx_open(&damage->fx);
    for (uint32_t i = 0; i < KEYS; i++) {
        if (fx_has(&damage->fx, i)) {
            enum umbp_status status = fx_get(&damage->fx, i);
            assert_true(status == UMBP_OK || status == UMBP_CORRUPT);
            good += status == UMBP_OK;
        }
    }
    fx_close(&damage->fx);
    return good;
}

static void damage_fini(struct damage *damage) { disk_destroy(damage->fx.disk); }

static void flipped_bits_cost_one_record_at_most(void **state)
{
    (void)state;
    for (int crashes = 0; crashes < 2; crashes++) {
        struct damage damage;
        struct test_rng rng;
        damage_init(&damage, crashes);
        test_rng_init(&rng, 21);
        uint64_t bytes = file_bytes(&damage);
        assert_int_equal(good_keys(&damage), KEYS - 1);
        unsigned hits = 0;
        for (unsigned round = 0; round < (test_is_slow() ? 100 : 1500); round++) {
            uint64_t at = test_rng_below(&rng, bytes);
            if (round % 3 == 0) { /* heads and footers are small: aim at them */
                at = align_down(at, SSD_BLOCK_BYTES) + test_rng_below(&rng, 100);
            }
            uint8_t mask = (uint8_t)(1u << test_rng_below(&rng, 8));
            change_byte(&damage, at, mask);
            uint32_t good = good_keys(&damage);
            /* A tombstone that is hit brings its key back; that is a record lost, too. */
            assert_in_range(good, KEYS - 2, KEYS);
            hits += good == KEYS - 2;
            change_byte(&damage, at, mask);
        }
        assert_true(hits > 20);
        assert_int_equal(good_keys(&damage), KEYS - 1);
        damage_fini(&damage);
    }
}

static void flipped_bits_in_a_footer_cost_nothing(void **state)
{
    (void)state;
    struct damage damage;
    damage_init(&damage, false);
    uint64_t bytes = file_bytes(&damage);
    for (uint64_t at = bytes - 3 * SSD_BLOCK_BYTES; at < bytes; at += 97) {
        change_byte(&damage, at, 0x10);
        assert_int_equal(good_keys(&damage), KEYS - 1);
        change_byte(&damage, at, 0x10);
    }
    damage_fini(&damage);
}

static void a_lost_segment_header_costs_nothing(void **state)
{
    (void)state;
    for (int crashes = 0; crashes < 2; crashes++) {
        struct damage damage;
        damage_init(&damage, crashes);
        change_byte(&damage, 3, 0xff);
        assert_int_equal(good_keys(&damage), KEYS - 1);
        damage_fini(&damage);
    }
}

static void set_length(struct damage *damage, uint64_t bytes)
{
    char path[64];
    struct disk_file file;
    segment_path(damage->segment, path);
    assert_ok(disk_open(damage->fx.disk, path, DISK_OPEN_WRITE, &file));
    assert_ok(disk_truncate(damage->fx.disk, file, bytes));
    disk_close(damage->fx.disk, file);
}

static void a_truncated_file_keeps_what_lies_before_the_cut(void **state)
{
    (void)state;
    struct damage damage;
    damage_init(&damage, false);
    uint64_t bytes = file_bytes(&damage);
    uint32_t last = KEYS;
    for (uint64_t cut = bytes; cut > 0; cut = cut > 5003 ? cut - 5003 : 0) {
        set_length(&damage, cut);
        uint32_t good = good_keys(&damage);
        /* Without the tombstone (the last record) its key is back. */
        assert_true(good <= last || (good == KEYS && last == KEYS - 1));
        last = good;
    }
    set_length(&damage, 0);
    assert_int_equal(good_keys(&damage), 0);
    damage_fini(&damage);
}

static void a_truncated_file_is_sealed_again_and_stays_good(void **state)
{
    (void)state;
    struct damage damage;
    damage_init(&damage, false);
    damage.fx.options.read_only = false;
    for (unsigned round = 0; round < 8; round++) {
        uint64_t bytes = file_bytes(&damage);
        set_length(&damage, bytes - bytes / 5 - 17);
        fx_open(&damage.fx);
        uint32_t count = fx_count(&damage.fx);
        assert_int_equal(damage.fx.recovery.scanned_segments, 1);
        fx_check_all(&damage.fx);
        fx_close(&damage.fx);
        fx_open(&damage.fx);
        assert_int_equal(damage.fx.recovery.scanned_segments, 0);
        assert_int_equal(fx_count(&damage.fx), count);
        fx_check_all(&damage.fx);
        fx_close(&damage.fx);
    }
    damage_fini(&damage);
}

static void what_is_written_after_a_torn_tail_survives_two_restarts(void **state)
{
    (void)state;
    struct damage damage;
    damage_init(&damage, true);
    struct fx *fx = &damage.fx;
    struct disk_file file;
    char path[64];
    uint8_t garbage[3 * SSD_BLOCK_BYTES];
    uint64_t bytes = file_bytes(&damage);
    fx->options.read_only = false;
    test_fill(garbage, sizeof(garbage), 1);
    segment_path(damage.segment, path);
    assert_ok(disk_open(fx->disk, path, DISK_OPEN_WRITE, &file));
    assert_ok(disk_write_at(fx->disk, file, garbage, sizeof(garbage), bytes - sizeof(garbage)));
    disk_close(fx->disk, file);
    fx_open(fx);
    assert_int_equal(fx_count(fx), KEYS - 1);
    assert_true(fx->recovery.lost_bytes >= sizeof(garbage));
    for (uint32_t i = 100; i < 110; i++) {
        assert_ok(fx_put(fx, i, 5000));
        assert_int_not_equal(fx->index[i].location.segment, damage.segment);
    }
    fx_close(fx);
    for (unsigned round = 0; round < 2; round++) {
        fx_open(fx);
        assert_int_equal(fx_count(fx), KEYS - 1 + 10);
        fx_check_all(fx);
        fx_close(fx);
    }
    damage_fini(&damage);
}

static void one_bad_header_does_not_end_the_scan(void **state)
{
    (void)state;
    struct damage damage;
    damage_init(&damage, true);
    fx_open(&damage.fx);
    struct ssd_location location = damage.fx.index[3].location;
    fx_close(&damage.fx);
    change_byte(&damage, (uint64_t)location.block * SSD_BLOCK_BYTES, 1);
    assert_int_equal(good_keys(&damage), KEYS - 2);
    assert_int_equal(damage.fx.recovery.lost_records, 1);
    damage_fini(&damage);
}

static void two_versions_of_a_key_leave_the_newer_one(void **state)
{
    (void)state;
    struct fx fx;
    fx_init(&fx, fx_memory_disk(), "d");
    fx_open(&fx);
    assert_ok(fx_put(&fx, 1, 100));
    assert_ok(fx_put(&fx, 1, 50000));
    assert_ok(fx_put(&fx, 1, 7000));
    assert_ok(fx_put(&fx, 2, 7000));
    assert_ok(fx_remove(&fx, 2));
    assert_ok(fx_put(&fx, 3, 7000));
    assert_ok(fx_remove(&fx, 3));
    assert_ok(fx_put(&fx, 3, 7001));
    uint64_t generation = fx.index[1].generation;
    fx_close(&fx);
    fx_open(&fx);
    assert_int_equal(fx.index[1].generation, generation);
    assert_int_equal(fx.index[1].bytes, 7000);
    assert_false(fx_has(&fx, 2));
    assert_int_equal(fx.index[3].bytes, 7001);
    fx_check_all(&fx);
    fx_close(&fx);
    disk_destroy(fx.disk);
}

static void bytes_of_another_record_are_never_given(void **state)
{
    (void)state;
    struct fx fx;
    fx_init(&fx, fx_memory_disk(), "d");
    fx_open(&fx);
    assert_ok(fx_put(&fx, 2, 9000));
    assert_ok(fx_put(&fx, 4, 9000));
    struct fx_slot other = fx.index[4];
    struct fx_slot own = fx.index[2];
    fx.index[2].location = other.location; /* another key's record */
    assert_status(fx_get(&fx, 2), UMBP_CORRUPT);
    fx.index[2] = own;
    fx.index[2].generation++; /* another generation */
    assert_status(fx_get(&fx, 2), UMBP_CORRUPT);
    fx.index[2] = own;
    fx.index[2].location.block++; /* the middle of a value */
    assert_status(fx_get(&fx, 2), UMBP_CORRUPT);
    fx.index[2] = own;
    fx.index[2].location.segment += 1000;
    assert_status(fx_get(&fx, 2), UMBP_STALE);
    fx.index[2].location = (struct ssd_location){0, 0};
    assert_int_not_equal(fx_get(&fx, 2), UMBP_OK);
    fx.index[2] = own;
    fx.index[2].location.block = UINT32_MAX;
    assert_status(fx_get(&fx, 2), UMBP_CORRUPT); /* behind the file's end */
    fx.index[2] = own;
    assert_ok(fx_get(&fx, 2));
    struct ssd_stats stats;
    ssd_stats(fx.tier, &stats);
    assert_int_equal(stats.corrupt_records, 4);
    fx_close(&fx);
    disk_destroy(fx.disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flipped_bits_cost_one_record_at_most),
        cmocka_unit_test(flipped_bits_in_a_footer_cost_nothing),
        cmocka_unit_test(a_lost_segment_header_costs_nothing),
        cmocka_unit_test(a_truncated_file_keeps_what_lies_before_the_cut),
        cmocka_unit_test(a_truncated_file_is_sealed_again_and_stays_good),
        cmocka_unit_test(what_is_written_after_a_torn_tail_survives_two_restarts),
        cmocka_unit_test(one_bad_header_does_not_end_the_scan),
        cmocka_unit_test(two_versions_of_a_key_leave_the_newer_one),
        cmocka_unit_test(bytes_of_another_record_are_never_given),
    };
    return cmocka_run_group_tests(tests, fx_quiet, NULL);
}
