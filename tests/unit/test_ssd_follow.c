/* SPDX-License-Identifier: Apache-2.0 */
/* Followers: what the leader writes, seals, releases and clears, seen from beside it. */
#include <pthread.h>
#include <stdatomic.h>

#include "ssd_fixture.h"

struct pair {
    struct fx leader;
    struct fx follower;
};

static void pair_init(struct pair *pair, struct disk *disk)
{
    fx_init(&pair->leader, disk, "d");
    pair->leader.options.bytes = 2u << 20;
    pair->leader.options.segment_bytes = 128u << 10;
    pair->leader.options.io_bytes = 64u << 10;
    fx_init(&pair->follower, disk, "d");
    pair->follower.options = pair->leader.options;
    pair->follower.options.read_only = true;
}

static void refresh(struct pair *pair)
{
    struct ssd_visitor visitor = fx_visitor(&pair->follower);
    assert_ok(ssd_refresh(pair->follower.tier, &visitor, fx_soon()));
}

/* The follower knows what the leader knows, and can read it. */
static void assert_caught_up(struct pair *pair)
{
    for (uint32_t i = 0; i < FX_KEYS; i++) {
        if (fx_has(&pair->leader, i) != fx_has(&pair->follower, i)) {
            print_error("key %u\n", i);
        }
        assert_int_equal(fx_has(&pair->leader, i), fx_has(&pair->follower, i));
        if (fx_has(&pair->leader, i)) {
            assert_int_equal(pair->leader.index[i].generation, pair->follower.index[i].generation);
        }
    }
    fx_check_all(&pair->follower);
}

static void a_follower_sees_records_before_and_after_the_seal(void **state)
{
    (void)state;
    struct pair pair;
    struct disk *disk = fx_memory_disk();
    pair_init(&pair, disk);
    fx_open(&pair.leader);
    assert_ok(fx_put(&pair.leader, 0, 1000));
    fx_open(&pair.follower);
    assert_caught_up(&pair);
    for (uint32_t i = 1; i < 40; i++) {
        assert_ok(fx_put(&pair.leader, i, i * 500));
        if (i % 5 == 0) {
            assert_ok(fx_remove(&pair.leader, i - 2));
        }
        refresh(&pair);
        assert_caught_up(&pair);
    }
    fx_close(&pair.leader);
    refresh(&pair);
    fx_check_all(&pair.follower);
    fx_open(&pair.leader);
    assert_ok(fx_put(&pair.leader, 50, 3000));
    refresh(&pair);
    assert_caught_up(&pair);
    fx_close(&pair.leader);
    fx_close(&pair.follower);
    disk_destroy(disk);
}

static void a_follower_is_told_of_segments_that_went(void **state)
{
    (void)state;
    struct pair pair;
    struct disk *disk = fx_memory_disk();
    pair_init(&pair, disk);
    fx_open(&pair.leader);
    fx_open(&pair.follower);
    for (unsigned round = 0; round < 30; round++) {
        for (uint32_t i = 0; i < 10; i++) {
            enum umbp_status status = fx_put(&pair.leader, (round * 7 + i) % 60, 9000);
            while (status == UMBP_NO_SPACE) {
                uint32_t segment;
                assert_ok(ssd_victim(pair.leader.tier, true, &segment, fx_soon()));
                fx_gone(&pair.leader, segment);
                ssd_segment_release(pair.leader.tier, segment);
                status = fx_put(&pair.leader, (round * 7 + i) % 60, 9000);
            }
            assert_ok(status);
        }
        refresh(&pair);
        assert_caught_up(&pair);
    }
    fx_close(&pair.leader);
    fx_close(&pair.follower);
    disk_destroy(disk);
}

static void a_follower_stops_at_a_hole_and_goes_on_when_it_is_filled(void **state)
{
    (void)state;
    struct pair pair;
    struct disk *disk = fx_faulty(fx_memory_disk());
    char path[64];
    uint8_t block[SSD_BLOCK_BYTES];
    uint8_t zero[SSD_BLOCK_BYTES] = {0};
    struct disk_file file;
    size_t got;
    pair_init(&pair, disk);
    fx_open(&pair.leader);
    assert_ok(fx_put(&pair.leader, 0, 1000));
    fx_open(&pair.follower);
    for (uint32_t i = 1; i < 6; i++) {
        assert_ok(fx_put(&pair.leader, i, 6000));
    }
    /* As if the write of record 3's value's second block were still under way. */
    struct ssd_location location = pair.leader.index[3].location;
    (void)snprintf(path, sizeof(path), "d/%016x.seg", location.segment);
    uint64_t at = ((uint64_t)location.block + 2) * SSD_BLOCK_BYTES;
    assert_ok(disk_open(disk, path, DISK_OPEN_WRITE, &file));
    assert_ok(disk_read_at(disk, file, block, sizeof(block), at, &got));
    assert_ok(disk_write_at(disk, file, zero, sizeof(zero), at));
    refresh(&pair);
    refresh(&pair);
    assert_int_equal(fx_count(&pair.follower), 3);
    fx_check_all(&pair.follower);
    assert_ok(disk_write_at(disk, file, block, sizeof(block), at));
    refresh(&pair);
    assert_caught_up(&pair);
    struct ssd_stats stats;
    ssd_stats(pair.follower.tier, &stats);
    assert_int_equal(stats.corrupt_records, 0);
    disk_close(disk, file);
    fx_close(&pair.leader);
    fx_close(&pair.follower);
    disk_destroy(disk);
}

static void a_follower_sees_a_clear(void **state)
{
    (void)state;
    struct pair pair;
    struct disk *disk = fx_memory_disk();
    pair_init(&pair, disk);
    fx_open(&pair.leader);
    for (uint32_t i = 0; i < 10; i++) {
        assert_ok(fx_put(&pair.leader, i, 9000));
    }
    fx_open(&pair.follower);
    assert_caught_up(&pair);
    assert_ok(ssd_clear(pair.leader.tier, ++pair.leader.generation, fx_soon()));
    for (uint32_t i = 0; i < 10; i++) {
        pair.leader.index[i].is_there = false;
    }
    assert_ok(fx_put(&pair.leader, 4, 100));
    refresh(&pair);
    assert_caught_up(&pair);
    fx_close(&pair.leader);
    fx_close(&pair.follower);
    disk_destroy(disk);
}

static void a_follower_writes_nothing(void **state)
{
    (void)state;
    struct pair pair;
    struct disk *disk = fx_faulty(fx_memory_disk());
    pair_init(&pair, disk);
    fx_open(&pair.leader);
    for (uint32_t i = 0; i < 10; i++) {
        assert_ok(fx_put(&pair.leader, i, 9000));
    }
    uint64_t changes = disk_fault_calls(disk, DISK_CALL_CHANGE);
    fx_open(&pair.follower);
    refresh(&pair);
    fx_check_all(&pair.follower);
    assert_ok(ssd_sync(pair.follower.tier, fx_soon()));
    fx_close(&pair.follower);
    assert_int_equal(disk_fault_calls(disk, DISK_CALL_CHANGE), changes);
    fx_close(&pair.leader);
    disk_destroy(disk);
}

static void a_directory_made_anew_is_stale_to_its_follower(void **state)
{
    (void)state;
    struct pair pair;
    struct fx other;
    struct disk *disk = fx_memory_disk();
    pair_init(&pair, disk);
    fx_open(&pair.leader);
    assert_ok(fx_put(&pair.leader, 1, 100));
    fx_open(&pair.follower);
    fx_close(&pair.leader);
    fx_init(&other, disk, "o");
    fx_open(&other);
    fx_close(&other);
    assert_ok(disk_rename(disk, "o/umbp.super", "d/umbp.super"));
    struct ssd_visitor visitor = fx_visitor(&pair.follower);
    assert_status(ssd_refresh(pair.follower.tier, &visitor, fx_soon()), UMBP_STALE);
    assert_int_equal(fx_count(&pair.follower), 0);
    fx_close(&pair.follower);
    disk_destroy(disk);
}

static void a_follower_may_be_there_before_its_leader(void **state)
{
    (void)state;
    struct pair pair;
    struct disk *disk = fx_memory_disk();
    pair_init(&pair, disk);
    assert_ok(disk_make_directory(disk, "d"));
    fx_open(&pair.follower);
    refresh(&pair);
    assert_int_equal(fx_count(&pair.follower), 0);
    fx_open(&pair.leader);
    for (uint32_t i = 0; i < 10; i++) {
        assert_ok(fx_put(&pair.leader, i, 9000));
    }
    refresh(&pair);
    assert_caught_up(&pair);
    fx_check_all(&pair.follower);
    fx_close(&pair.leader);
    fx_close(&pair.follower);
    disk_destroy(disk);
}

static void a_follower_of_a_directory_with_other_things_in_it_is_refused(void **state)
{
    (void)state;
    struct pair pair;
    struct disk *disk = fx_memory_disk();
    struct ssd_tier *tier = NULL;
    struct disk_file file;
    char error[256] = "";
    pair_init(&pair, disk);
    assert_ok(disk_make_directory(disk, "d"));
    assert_ok(disk_open(disk, "d/letter.txt", DISK_OPEN_WRITE | DISK_OPEN_CREATE, &file));
    disk_close(disk, file);
    struct ssd_visitor visitor = fx_visitor(&pair.follower);
    assert_status(ssd_open(&pair.follower.options, &visitor, &tier, NULL, error, sizeof(error)),
                  UMBP_NOT_FOUND);
    assert_non_null(strstr(error, "no directory of an SSD tier"));
    disk_destroy(disk);
}

/* The leader runs in a thread of its own, on a real disk, flat out. */
struct race {
    struct pair *pair;
    _Atomic bool is_over;
};

static void *leader_thread(void *context)
{
    struct race *race = context;
    struct fx *fx = &race->pair->leader;
    struct test_rng rng;
    test_rng_init(&rng, 41);
    for (unsigned i = 0; i < (test_is_slow() ? 300 : 1500); i++) {
        uint32_t number = (uint32_t)test_rng_below(&rng, 100);
        uint64_t bytes = test_rng_below(&rng, 30000);
        enum umbp_status status = fx_put(fx, number, bytes);
        while (status == UMBP_NO_SPACE) {
            uint32_t segment;
            assert_ok(ssd_victim(fx->tier, true, &segment, fx_soon()));
            fx_gone(fx, segment);
            ssd_segment_release(fx->tier, segment);
            status = fx_put(fx, number, bytes);
        }
        assert_ok(status);
    }
    atomic_store(&race->is_over, true);
    return NULL;
}

static void a_follower_beside_a_busy_leader_reads_right_bytes_or_none(void **state)
{
    (void)state;
    struct pair pair;
    struct disk *disk;
    char *directory = test_dir_create();
    pthread_t thread;
    assert_ok(disk_auto_create("auto", &disk));
    pair_init(&pair, disk);
    pair.leader.directory = pair.leader.options.directory = directory;
    pair.follower.directory = pair.follower.options.directory = directory;
    pair.leader.options.durability = SSD_RELAXED;
    fx_open(&pair.leader);
    fx_open(&pair.follower);
    struct race race = {.pair = &pair};
    assert_int_equal(pthread_create(&thread, NULL, leader_thread, &race), 0);
    unsigned reads = 0;
    while (!atomic_load(&race.is_over)) {
        refresh(&pair);
        for (uint32_t i = 0; i < 100; i++) {
            if (fx_has(&pair.follower, i)) {
                enum umbp_status status = fx_get(&pair.follower, i);
                assert_true(status == UMBP_OK || status == UMBP_STALE);
                reads += status == UMBP_OK;
            }
        }
    }
    pthread_join(thread, NULL);
    refresh(&pair);
    assert_caught_up(&pair);
    assert_true(reads > 20);
    struct ssd_stats stats;
    ssd_stats(pair.follower.tier, &stats);
    assert_int_equal(stats.corrupt_records, 0);
    fx_close(&pair.leader);
    fx_close(&pair.follower);
    disk_destroy(disk);
    test_dir_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_follower_sees_records_before_and_after_the_seal),
        cmocka_unit_test(a_follower_may_be_there_before_its_leader),
        cmocka_unit_test(a_follower_of_a_directory_with_other_things_in_it_is_refused),
        cmocka_unit_test(a_follower_is_told_of_segments_that_went),
        cmocka_unit_test(a_follower_stops_at_a_hole_and_goes_on_when_it_is_filled),
        cmocka_unit_test(a_follower_sees_a_clear),
        cmocka_unit_test(a_follower_writes_nothing),
        cmocka_unit_test(a_directory_made_anew_is_stale_to_its_follower),
        cmocka_unit_test(a_follower_beside_a_busy_leader_reads_right_bytes_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
