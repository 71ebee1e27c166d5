/* SPDX-License-Identifier: Apache-2.0 */
/* What a store finds again: after a clean stop, a kill, a power cut, and with damage in its files.
 */
#include "store_rig.h"

enum stop {
    STOP_CLEAN,
    STOP_KILL,
    STOP_POWER,
    STOPS
};

static void stop_store(struct rig *rig, enum stop stop)
{
    switch (stop) {
    case STOP_KILL:
        rig_kill(rig);
        break;
    case STOP_POWER:
        rig_cut_power(rig);
        break;
    default:
        rig_close(rig);
    }
}

static void every_flushed_value_is_served_after_any_kind_of_stop(void **state)
{
    (void)state;
    for (enum stop stop = STOP_CLEAN; stop < STOPS; stop++) {
        struct rig rig = rig_make();
        struct named named;
        struct umbp_entry_info info;
        for (uint64_t life = 0; life < 4; life++) {
            rig_open(&rig);
            for (uint64_t i = 0; i < life * 100; i++) {
                assert_ok(get_value(rig.store, name_key(&named, "k", i), 3000 + 17 * i, i));
                assert_ok(store_stat(rig.store, named.key, &info));
                assert_int_equal(info.depth, i);
            }
            assert_int_equal(stat_of(rig.store, "keys"), life * 100);
            for (uint64_t i = life * 100; i < life * 100 + 100; i++) {
                assert_ok(
                    put_value(rig.store, name_key(&named, "k", i), 3000 + 17 * i, i, (uint32_t)i));
            }
            assert_ok(store_flush(rig.store, soon()));
            stop_store(&rig, stop);
        }
        rig_open(&rig);
        rig_finish(&rig);
    }
}

static void a_clean_stop_flushes_by_itself(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    (void)state;
    rig.options.copy_mode = STORE_COPY_ON_EVICT;
    rig.options.ssd.durability = SSD_RELAXED;
    rig_open(&rig);
    for (uint64_t i = 0; i < 100; i++) {
        assert_ok(put_value(rig.store, name_key(&named, "k", i), 3000, i, 0));
    }
    rig_close(&rig);
    rig_open(&rig);
    for (uint64_t i = 0; i < 100; i++) {
        assert_ok(get_value(rig.store, name_key(&named, "k", i), 3000, i));
    }
    rig_finish(&rig);
}

static void removed_keys_stay_removed(void **state)
{
    (void)state;
    for (enum stop stop = STOP_CLEAN; stop < STOPS; stop++) {
        struct rig rig = rig_make();
        struct named named;
        rig_open(&rig);
        for (uint64_t i = 0; i < 200; i++) {
            assert_ok(put_value(rig.store, name_key(&named, "k", i), 2000, i, 0));
        }
        assert_ok(store_flush(rig.store, soon()));
        for (uint64_t i = 0; i < 200; i += 2) {
            assert_ok(remove_value(rig.store, name_key(&named, "k", i)));
        }
        assert_ok(store_flush(rig.store, soon()));
        stop_store(&rig, stop);
        for (unsigned life = 0; life < 3; life++) {
            rig_open(&rig);
            for (uint64_t i = 0; i < 200; i++) {
                struct umbp_key key = name_key(&named, "k", i);
                assert_int_equal(get_value(rig.store, key, 2000, i),
                                 i % 2 ? UMBP_OK : UMBP_NOT_FOUND);
            }
            stop_store(&rig, STOP_CLEAN);
        }
        rig_open(&rig);
        rig_finish(&rig);
    }
}

static void a_key_removed_while_it_is_copied_stays_removed_once_flushed(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    (void)state;
    for (uint64_t round = 0; round < (test_is_slow() ? 10u : 40u); round++) {
        rig_open(&rig);
        const struct disk_fault slow = {.call = DISK_CALL_WRITE,
                                        .first = 1 + round % 3,
                                        .times = 1000,
                                        .action = DISK_FAULT_DELAY,
                                        .delay_ns = 500000};
        assert_true(disk_fault_add(rig.fault, &slow));
        for (uint64_t i = 0; i < 60; i++) {
            assert_ok(put_value(rig.store, name_key(&named, "r", round * 100 + i), 3000, i, 0));
        }
        for (uint64_t i = 0; i < 60; i++) {
            assert_ok(remove_value(rig.store, name_key(&named, "r", round * 100 + i)));
        }
        assert_ok(store_flush(rig.store, soon()));
        disk_fault_clear(rig.fault);
        rig_kill(&rig);
        rig_open(&rig);
        assert_int_equal(stat_of(rig.store, "keys"), 0);
        rig_close(&rig);
    }
    rig_open(&rig);
    rig_finish(&rig);
}

static void a_key_removed_and_put_anew_is_found_with_its_new_value(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    (void)state;
    for (uint64_t round = 1; round <= (test_is_slow() ? 10u : 30u); round++) {
        rig_open(&rig);
        for (uint64_t i = 0; i < 50; i++) {
            struct umbp_key key = name_key(&named, "k", i);
            enum umbp_status status = remove_value(rig.store, key);
            assert_int_equal(status, round == 1 ? UMBP_NOT_FOUND : UMBP_OK);
            assert_ok(put_value(rig.store, key, 2000 + round, round, 0));
            if (i % 5 == 0) { /* and once more, at once */
                assert_ok(remove_value(rig.store, key));
                assert_ok(put_value(rig.store, key, 2000 + round, round, 0));
            }
        }
        assert_ok(store_flush(rig.store, soon()));
        stop_store(&rig, round % STOPS);
        rig_open(&rig);
        for (uint64_t i = 0; i < 50; i++) {
            assert_ok(get_value(rig.store, name_key(&named, "k", i), 2000 + round, round));
        }
        rig_close(&rig);
    }
    rig_open(&rig);
    rig_finish(&rig);
}

static void a_cleared_store_is_empty_after_a_restart_and_what_came_later_is_there(void **state)
{
    (void)state;
    for (enum stop stop = STOP_CLEAN; stop < STOPS; stop++) {
        struct rig rig = rig_make();
        struct named named;
        rig_open(&rig);
        for (uint64_t life = 1; life <= 3; life++) {
            for (uint64_t i = 0; i < 100; i++) {
                assert_ok(put_value(rig.store, name_key(&named, "k", i), 2000, i + life, 0));
            }
            assert_ok(store_flush(rig.store, soon()));
            assert_ok(store_clear(rig.store, soon()));
            stop_store(&rig, stop);
            rig_open(&rig);
            assert_int_equal(stat_of(rig.store, "keys"), 0);
            assert_ok(put_value(rig.store, text_key("later"), 2000, life, 0));
            assert_ok(store_flush(rig.store, soon()));
            stop_store(&rig, stop);
            rig_open(&rig);
            assert_int_equal(stat_of(rig.store, "keys"), 1);
            assert_ok(get_value(rig.store, text_key("later"), 2000, life));
            assert_ok(remove_value(rig.store, text_key("later")));
            assert_ok(store_flush(rig.store, soon()));
        }
        rig_finish(&rig);
    }
}

static void generations_go_on_growing_over_restarts(void **state)
{
    struct rig rig = rig_make();
    struct store_pin pin;
    uint64_t last = 0;
    (void)state;
    for (unsigned life = 0; life < 5; life++) {
        rig_open(&rig);
        (void)!remove_value(rig.store, text_key("k"));
        assert_ok(put_value(rig.store, text_key("k"), 100, life, 0));
        assert_ok(store_pin(rig.store, text_key("k"), 0, true, &pin));
        assert_true(pin.generation > last);
        last = pin.generation;
        store_unpin(rig.store, &pin);
        assert_ok(store_flush(rig.store, soon()));
        stop_store(&rig, life % STOPS);
    }
    rig_open(&rig);
    rig_finish(&rig);
}

/* ------------------------------------------------------------------------------ torn tails -- */

/* Fault 3: what is written behind a torn tail must be found by every later start. */
static void what_is_written_after_a_torn_tail_survives_a_second_and_a_third_restart(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    uint64_t flushed = 0;
    (void)state;
    for (uint64_t life = 0; life < (test_is_slow() ? 8u : 24u); life++) {
        rig_open(&rig);
        for (uint64_t i = 0; i < flushed; i++) {
            assert_ok(get_value(rig.store, name_key(&named, "k", i), 9000, i));
        }
        for (uint64_t i = 0; i < 10; i++) {
            assert_ok(
                put_value(rig.store, name_key(&named, "k", flushed + i), 9000, flushed + i, 0));
        }
        assert_ok(store_flush(rig.store, soon()));
        flushed += 10;
        const struct disk_fault tear = {.call = DISK_CALL_WRITE,
                                        .first = 1,
                                        .action = DISK_FAULT_CRASH,
                                        .bytes = 4096 * (1 + life % 5) - life % 2 * 512};
        assert_true(disk_fault_add(rig.fault, &tear));
        for (uint64_t i = 0; i < 5; i++) {
            assert_ok(put_value(rig.store, name_key(&named, "torn", life * 10 + i), 9000, i, 0));
        }
        assert_int_not_equal(store_flush(rig.store, soon()), UMBP_OK);
        assert_true(disk_fault_has_crashed(rig.fault));
        (void)store_close(rig.store, soon());
        store_destroy(rig.store);
        disk_fault_clear(rig.fault);
    }
    rig_open(&rig);
    /* No value that was torn is served in part. */
    for (uint64_t life = 0; life < 24; life++) {
        for (uint64_t i = 0; i < 5; i++) {
            enum umbp_status status =
                get_value(rig.store, name_key(&named, "torn", life * 10 + i), 9000, i);
            assert_true(status == UMBP_OK || status == UMBP_NOT_FOUND);
        }
    }
    rig_finish(&rig);
}

/* --------------------------------------------------------------------------------- damage --- */

struct files {
    struct disk *memory;
    char paths[64][80];
    size_t count;
};

static void note_segment(void *context, const char *name, bool is_regular_file)
{
    struct files *files = context;
    if (is_regular_file && strstr(name, ".seg") != NULL && files->count < 64) {
        (void)snprintf(files->paths[files->count++], 80, "%s/%s", RIG_DIRECTORY, name);
    }
}

static void find_segments(struct rig *rig, struct files *files)
{
    *files = (struct files){.memory = rig->memory};
    assert_ok(disk_list(rig->memory, RIG_DIRECTORY, note_segment, files));
    assert_true(files->count > 0);
}

/* Ten records, one header byte turned over: nine are found (fault 4). */
static void one_bad_byte_costs_one_record(void **state)
{
    struct named named;
    (void)state;
    for (uint64_t block = 1; block < 32; block += test_is_slow() ? 7 : 3) {
        struct rig rig = rig_make();
        struct files files;
        uint64_t bytes;
        unsigned found = 0;
        rig_open(&rig);
        for (uint64_t i = 0; i < 10; i++) {
            assert_ok(put_value(rig.store, name_key(&named, "k", i), 9000, i, 0));
            assert_ok(store_flush(rig.store, soon()));
        }
        rig_kill(&rig); /* no footer: the segment is scanned */
        find_segments(&rig, &files);
        uint8_t *data = disk_memory_file(rig.memory, files.paths[0], &bytes);
        assert_true(bytes > block * 4096 + 20);
        data[block * 4096 + 17] ^= 0x40;
        rig_open(&rig);
        for (uint64_t i = 0; i < 10; i++) {
            enum umbp_status status = get_value(rig.store, name_key(&named, "k", i), 9000, i);
            found += status == UMBP_OK;
            assert_true(status == UMBP_OK || status == UMBP_NOT_FOUND || status == UMBP_CORRUPT);
        }
        assert_in_range(found, 9, 10);
        rig_finish(&rig);
    }
}

static void random_damage_never_gives_a_wrong_byte_and_never_stops_the_store(void **state)
{
    struct test_rng rng;
    struct named named;
    (void)state;
    test_rng_init(&rng, 9);
    for (unsigned round = 0; round < (test_is_slow() ? 10 : 60); round++) {
        struct rig rig = rig_make();
        struct files files;
        rig_open(&rig);
        for (uint64_t i = 0; i < 300; i++) {
            assert_ok(put_value(rig.store, name_key(&named, "k", i), i * 40, i, 0));
        }
        for (uint64_t i = 0; i < 300; i += 7) {
            assert_ok(remove_value(rig.store, name_key(&named, "k", i)));
        }
        assert_ok(store_flush(rig.store, soon()));
        stop_store(&rig, round % 2 ? STOP_CLEAN : STOP_KILL);
        find_segments(&rig, &files);
        for (unsigned flips = 0; flips < 1 + round; flips++) {
            uint64_t bytes;
            uint8_t *data = disk_memory_file(
                rig.memory, files.paths[test_rng_below(&rng, files.count)], &bytes);
            data[test_rng_below(&rng, bytes)] ^= (uint8_t)(1u << test_rng_below(&rng, 8));
        }
        rig_open(&rig);
        for (uint64_t i = 0; i < 300; i++) {
            enum umbp_status status = get_value(rig.store, name_key(&named, "k", i), i * 40, i);
            if (status == UMBP_CORRUPT) { /* dropped: a miss from now on */
                assert_status(get_value(rig.store, named.key, i * 40, i), UMBP_NOT_FOUND);
            } else {
                assert_true(status == UMBP_OK || status == UMBP_NOT_FOUND);
            }
        }
        assert_ok(put_value(rig.store, text_key("after"), 5000, 1, 0));
        assert_ok(store_flush(rig.store, soon()));
        rig_kill(&rig);
        rig_open(&rig);
        assert_ok(get_value(rig.store, text_key("after"), 5000, 1));
        rig_finish(&rig);
    }
}

static void a_truncated_and_a_missing_segment_cost_only_what_they_held(void **state)
{
    (void)state;
    for (unsigned missing = 0; missing < 2; missing++) {
        struct rig rig = rig_make();
        struct files files;
        struct named named;
        uint64_t lost = 0;
        rig_open(&rig);
        for (uint64_t i = 0; i < 200; i++) {
            assert_ok(put_value(rig.store, name_key(&named, "k", i), PAGE, i, 0));
            if (i % 25 == 24) {
                assert_ok(store_flush(rig.store, soon()));
            }
        }
        rig_close(&rig);
        find_segments(&rig, &files);
        assert_true(files.count > 4);
        if (missing) {
            assert_ok(disk_unlink(rig.memory, files.paths[2]));
        } else {
            struct disk_file file;
            assert_ok(disk_open(rig.memory, files.paths[2], DISK_OPEN_WRITE, &file));
            assert_ok(disk_truncate(rig.memory, file, 300000));
            disk_close(rig.memory, file);
        }
        rig_open(&rig);
        for (uint64_t i = 0; i < 200; i++) {
            enum umbp_status status = get_value(rig.store, name_key(&named, "k", i), PAGE, i);
            assert_true(status == UMBP_OK || status == UMBP_NOT_FOUND);
            lost += status != UMBP_OK;
        }
        assert_in_range(lost, 1, 2 * MIB / PAGE + 1);
        rig_finish(&rig);
    }
}

static void a_foreign_file_is_left_alone(void **state)
{
    struct rig rig = rig_make();
    struct disk_file file;
    uint64_t bytes;
    (void)state;
    rig_open(&rig);
    assert_ok(put_value(rig.store, text_key("k"), 5000, 1, 0));
    rig_close(&rig);
    static const char *const names[] = {RIG_DIRECTORY "/README", RIG_DIRECTORY "/zzz.seg",
                                        RIG_DIRECTORY "/0000000000000099.seg"};
    for (size_t i = 0; i < 3; i++) {
        assert_ok(disk_open(rig.memory, names[i], DISK_OPEN_WRITE | DISK_OPEN_CREATE, &file));
        assert_ok(disk_write_at(rig.memory, file, "not ours", 8, 0));
        disk_close(rig.memory, file);
    }
    rig_open(&rig);
    assert_ok(get_value(rig.store, text_key("k"), 5000, 1));
    rig_close(&rig);
    for (size_t i = 0; i < 2; i++) {
        uint8_t *data = disk_memory_file(rig.memory, names[i], &bytes);
        assert_non_null(data);
        assert_int_equal(bytes, 8);
        assert_memory_equal(data, "not ours", 8);
    }
    rig_open(&rig);
    rig_finish(&rig);
}

static void a_smaller_tier_than_last_time_shrinks_what_is_there_and_keeps_the_newest(void **state)
{
    struct rig rig = rig_make();
    struct named named;
    struct store_capacity capacity;
    (void)state;
    rig_open(&rig);
    for (uint64_t i = 0; i < 300; i++) {
        assert_ok(put_value(rig.store, name_key(&named, "k", i), PAGE, i, 0));
        if (i % 25 == 24) {
            assert_ok(store_flush(rig.store, soon()));
        }
    }
    rig_close(&rig);
    rig.options.ssd.bytes = 8 * MIB;
    rig.options.ssd.segment_bytes = MIB;
    rig_open(&rig);
    for (uint64_t i = 0; i < 40; i++) {
        assert_ok(put_value(rig.store, name_key(&named, "n", i), PAGE, i, 0));
    }
    assert_ok(store_flush(rig.store, soon()));
    store_capacity(rig.store, STORE_TIER_SSD, &capacity);
    assert_int_equal(capacity.total_bytes, 8 * MIB);
    await_stat(rig.store, "ssd.bytes_used", 0, 8 * MIB);
    for (uint64_t i = 0; i < 40; i++) {
        assert_ok(get_value(rig.store, name_key(&named, "n", i), PAGE, i));
    }
    assert_status(get_value(rig.store, text_key("k0"), PAGE, 0), UMBP_NOT_FOUND);
    rig_finish(&rig);
}

/* Reclaim moves and drops records. What the SSD has when a flush has returned is what a start
 * finds: none of it lost, none of what was removed back. */
static void restarts_amid_reclaim_find_what_the_ssd_had_and_no_removed_key(void **state)
{
    enum {
        KEYS = 150
    };
    struct rig rig = rig_make();
    struct test_rng rng;
    struct named named;
    uint64_t version[KEYS] = {0}; /* 0: not there */
    uint64_t clock = 0;
    (void)state;
    rig.options.ssd.bytes = 8 * MIB;
    rig.options.ssd.segment_bytes = MIB;
    rig.options.ssd_high_watermark = 1; /* reclaim only when an append asks for it */
    rig.options.ssd_low_watermark = 1;
    test_rng_init(&rng, 77);
    for (unsigned life = 0; life < (test_is_slow() ? 8 : 40); life++) {
        rig_open(&rig);
        for (uint64_t i = 0; i < KEYS; i++) {
            struct umbp_key key = name_key(&named, "k", i);
            assert_int_equal(get_value(rig.store, key, 20000 + i, version[i]),
                             version[i] ? UMBP_OK : UMBP_NOT_FOUND);
        }
        for (unsigned n = 0; n < 200; n++) {
            uint64_t i = test_rng_below(&rng, KEYS);
            struct umbp_key key = name_key(&named, "k", i);
            if (test_rng_below(&rng, 4) == 0) {
                (void)!remove_value(rig.store, key);
                version[i] = 0;
            } else if (!holds(rig.store, key)) {
                version[i] = 1000000 * i + ++clock;
                assert_ok(put_value(rig.store, key, 20000 + i, version[i], 0));
            }
            if (n % 40 == 39) {
                assert_ok(store_flush(rig.store, soon()));
            }
        }
        assert_ok(store_flush(rig.store, soon()));
        for (uint64_t i = 0; i < KEYS; i++) {
            bool on_ssd = in_tier(rig.store, name_key(&named, "k", i), STORE_TIER_SSD);
            assert_false(on_ssd && version[i] == 0);
            version[i] = on_ssd ? version[i] : 0;
        }
        stop_store(&rig, life % STOPS);
    }
    rig_open(&rig);
    rig_finish(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_flushed_value_is_served_after_any_kind_of_stop),
        cmocka_unit_test(a_clean_stop_flushes_by_itself),
        cmocka_unit_test(removed_keys_stay_removed),
        cmocka_unit_test(a_key_removed_while_it_is_copied_stays_removed_once_flushed),
        cmocka_unit_test(a_key_removed_and_put_anew_is_found_with_its_new_value),
        cmocka_unit_test(a_cleared_store_is_empty_after_a_restart_and_what_came_later_is_there),
        cmocka_unit_test(generations_go_on_growing_over_restarts),
        cmocka_unit_test(what_is_written_after_a_torn_tail_survives_a_second_and_a_third_restart),
        cmocka_unit_test(one_bad_byte_costs_one_record),
        cmocka_unit_test(random_damage_never_gives_a_wrong_byte_and_never_stops_the_store),
        cmocka_unit_test(a_truncated_and_a_missing_segment_cost_only_what_they_held),
        cmocka_unit_test(a_foreign_file_is_left_alone),
        cmocka_unit_test(a_smaller_tier_than_last_time_shrinks_what_is_there_and_keeps_the_newest),
        cmocka_unit_test(restarts_amid_reclaim_find_what_the_ssd_had_and_no_removed_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
