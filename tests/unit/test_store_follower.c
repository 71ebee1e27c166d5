/* SPDX-License-Identifier: Apache-2.0 */
/* A leader and its followers on one directory. */
#include "store_rig.h"

#include <pthread.h>
#include <stdatomic.h>

static struct store *make_follower(struct rig *rig)
{
    struct store_options options = rig->options;
    options.role = STORE_FOLLOWER;
    options.follower_poll_ms = 5;
    options.event_bytes = MIB;
    return make_store(&options);
}

static struct rig make_led(void)
{
    struct rig rig = rig_make();
    rig.options.role = STORE_LEADER;
    rig_open(&rig);
    return rig;
}

struct get_wish {
    struct store *store;
    struct umbp_key key;
    uint64_t bytes;
    uint64_t tag;
    enum umbp_status status;
};

static bool get_is_done(void *context)
{
    struct get_wish *wish = context;
    wish->status = get_value(wish->store, wish->key, wish->bytes, wish->tag);
    return wish->status == UMBP_OK;
}

/* A follower looks at most every few milliseconds: soon is soon enough. */
static void await_value(struct store *store, struct umbp_key key, uint64_t bytes, uint64_t tag)
{
    struct get_wish wish = {store, key, bytes, tag, UMBP_OK};
    (void)test_wait_until(get_is_done, &wish, WAIT_MS);
    assert_ok(wish.status);
}

static void end_follower(struct store *follower)
{
    assert_ok(store_close(follower, soon()));
    store_destroy(follower);
}

static void a_follower_serves_what_the_leader_flushed_before_and_after_its_start(void **state)
{
    struct rig rig = make_led();
    struct named named;
    (void)state;
    for (uint64_t i = 0; i < 50; i++) {
        assert_ok(put_value(rig.store, name_key(&named, "k", i), 9000, i, (uint32_t)i));
    }
    assert_ok(store_flush(rig.store, soon()));
    struct store *follower = make_follower(&rig);
    struct umbp_entry_info info;
    for (uint64_t i = 0; i < 50; i++) {
        assert_ok(get_value(follower, name_key(&named, "k", i), 9000, i));
        assert_ok(store_stat(follower, named.key, &info));
        assert_int_equal(info.depth, i);
    }
    for (uint64_t i = 50; i < 300; i++) {
        assert_ok(put_value(rig.store, name_key(&named, "k", i), 9000, i, 0));
        if (i % 10 == 9) {
            assert_ok(store_flush(rig.store, soon()));
            await_value(follower, name_key(&named, "k", i), 9000, i);
        }
    }
    for (uint64_t i = 0; i < 300; i++) {
        assert_ok(get_value(follower, name_key(&named, "k", i), 9000, i));
    }
    end_follower(follower);
    rig_finish(&rig);
}

struct key_wish {
    struct store *store;
    const char *key;
    bool there;
};

static bool key_is_as_wished(void *context)
{
    struct key_wish *wish = context;
    uint64_t keys = stat_of(wish->store, "keys"); /* without asking for the key: no refresh */
    return wish->there ? keys > 0 : !holds(wish->store, text_key(wish->key));
}

static void a_follower_hears_of_new_and_removed_keys_by_itself(void **state)
{
    struct rig rig = make_led();
    struct store *follower = make_follower(&rig);
    struct key_wish wish = {follower, "k", true};
    (void)state;
    assert_ok(put_value(rig.store, text_key("k"), 9000, 1, 0));
    assert_ok(store_flush(rig.store, soon()));
    assert_true(test_wait_until(key_is_as_wished, &wish, WAIT_MS));
    assert_ok(get_value(follower, text_key("k"), 9000, 1));
    assert_ok(remove_value(rig.store, text_key("k")));
    assert_ok(store_flush(rig.store, soon()));
    wish.there = false;
    assert_true(test_wait_until(key_is_as_wished, &wish, WAIT_MS));
    assert_ok(put_value(rig.store, text_key("k"), 7000, 2, 0));
    assert_ok(store_flush(rig.store, soon()));
    await_value(follower, text_key("k"), 7000, 2);
    end_follower(follower);
    rig_finish(&rig);
}

static void a_follower_refuses_to_write_and_changes_no_file(void **state)
{
    struct rig rig = make_led();
    struct store_reservation reservation;
    enum umbp_status statuses[2];
    (void)state;
    assert_ok(put_value(rig.store, text_key("k"), 9000, 1, 0));
    assert_ok(store_flush(rig.store, soon()));
    rig_close(&rig);
    struct store *follower = make_follower(&rig);
    uint64_t changes = disk_fault_calls(rig.fault, DISK_CALL_CHANGE);
    assert_status(put_value(follower, text_key("new"), 10, 1, 0), UMBP_READ_ONLY);
    assert_status(put_value(follower, text_key("k"), 10, 1, 0), UMBP_READ_ONLY);
    assert_status(remove_value(follower, text_key("k")), UMBP_READ_ONLY);
    assert_status(store_reserve(follower, text_key("new"), 10, 0, &reservation), UMBP_READ_ONLY);
    struct umbp_key keys[2] = {text_key("k"), text_key("l")};
    assert_status(store_batch_remove(follower, keys, 2, statuses), UMBP_READ_ONLY);
    assert_int_equal(statuses[1], UMBP_READ_ONLY);
    assert_ok(store_flush(follower, soon()));
    assert_ok(store_clear(follower, soon()));
    assert_ok(get_value(follower, text_key("k"), 9000, 1)); /* the leader's, not ours to clear */
    end_follower(follower);
    assert_int_equal(disk_fault_calls(rig.fault, DISK_CALL_CHANGE), changes);
    rig_open(&rig);
    assert_ok(get_value(rig.store, text_key("k"), 9000, 1));
    rig_finish(&rig);
}

static void a_follower_needs_no_leader_and_a_leader_no_follower_to_start_or_to_stop(void **state)
{
    struct rig rig = make_led();
    struct named named;
    (void)state;
    for (uint64_t i = 0; i < 50; i++) {
        assert_ok(put_value(rig.store, name_key(&named, "k", i), 9000, i, 0));
    }
    rig_close(&rig);
    struct store *first = make_follower(&rig);
    struct store *second = make_follower(&rig);
    rig_open(&rig);
    for (uint64_t i = 0; i < 50; i++) {
        assert_ok(get_value(first, name_key(&named, "k", i), 9000, i));
        assert_ok(get_value(second, name_key(&named, "k", i), 9000, i));
    }
    end_follower(first);
    rig_kill(&rig);
    for (uint64_t i = 0; i < 50; i++) {
        assert_ok(get_value(second, name_key(&named, "k", i), 9000, i));
    }
    rig_open(&rig);
    assert_ok(put_value(rig.store, text_key("new"), 9000, 1, 0));
    assert_ok(store_flush(rig.store, soon()));
    await_value(second, text_key("new"), 9000, 1);
    end_follower(second);
    rig_finish(&rig);
}

static void a_follower_without_a_directory_is_refused(void **state)
{
    struct rig rig = rig_make();
    struct store *store = NULL;
    char error[256] = "";
    (void)state;
    rig.options.role = STORE_FOLLOWER;
    assert_status(store_create(&rig.options, &store, error, sizeof(error)), UMBP_NOT_FOUND);
    assert_true(error[0] != '\0');
    rig.options.role = STORE_STANDALONE;
    rig_open(&rig);
    rig_finish(&rig);
}

static void a_promoting_follower_keeps_what_it_read_in_memory(void **state)
{
    struct rig rig = make_led();
    (void)state;
    assert_ok(put_value(rig.store, text_key("k"), 9000, 1, 0));
    assert_ok(store_flush(rig.store, soon()));
    rig.options.promote_on_read = true;
    struct store *follower = make_follower(&rig);
    assert_ok(get_value(follower, text_key("k"), 9000, 1));
    assert_true(in_tier(follower, text_key("k"), STORE_TIER_DRAM));
    /* Removed by the leader: gone here too, from memory as well. */
    assert_ok(remove_value(rig.store, text_key("k")));
    assert_ok(store_flush(rig.store, soon()));
    struct key_wish wish = {follower, "k", false};
    assert_true(test_wait_until(key_is_as_wished, &wish, WAIT_MS));
    end_follower(follower);
    rig_finish(&rig);
}

/* ---- while the leader writes, evicts and reclaims under it ---- */

#define LED_KEYS 900u

struct reader {
    struct store *store;
    _Atomic uint64_t *newest;
    _Atomic bool *stop;
    uint64_t stream;
    uint64_t hits;
    unsigned wrong;
};

static void *read_led(void *context)
{
    struct reader *reader = context;
    struct test_rng rng;
    struct named named;
    unsigned char *data = malloc(20000);
    test_rng_init(&rng, reader->stream);
    while (!atomic_load(reader->stop)) {
        uint64_t newest = atomic_load(reader->newest);
        uint64_t i = newest - u64_min(newest, test_rng_below(&rng, LED_KEYS));
        struct umbp_get_item item = {.key = name_key(&named, "k", i), .data = data, .bytes = 20000};
        enum umbp_status status;
        reader->wrong += store_batch_get(reader->store, &item, 1, &status) != UMBP_OK;
        if (status == UMBP_OK) {
            reader->wrong += !test_check_fill(data, 20000, i);
            reader->hits++;
        } else {
            reader->wrong += status != UMBP_NOT_FOUND;
        }
    }
    free(data);
    return NULL;
}

static void followers_survive_a_leader_that_reclaims_segments_under_them(void **state)
{
    struct rig rig = rig_make();
    struct reader readers[3];
    struct store *followers[3];
    pthread_t threads[3];
    struct named named;
    _Atomic uint64_t newest = 0;
    _Atomic bool stop = false;
    (void)state;
    rig.options.role = STORE_LEADER;
    rig.options.ssd.bytes = 8 * MIB;
    rig.options.ssd.segment_bytes = MIB;
    rig_open(&rig);
    for (unsigned i = 0; i < 3; i++) {
        followers[i] = make_follower(&rig);
        readers[i] =
            (struct reader){.store = followers[i], .newest = &newest, .stop = &stop, .stream = i};
        assert_int_equal(pthread_create(&threads[i], NULL, read_led, &readers[i]), 0);
    }
    for (uint64_t i = 0; i < (test_is_slow() ? 1500 : 5000); i++) {
        assert_ok(put_value(rig.store, name_key(&named, "k", i), 20000, i, 0));
        if (i % 7 == 0 && i > 100) {
            (void)!remove_value(rig.store, name_key(&named, "k", i - 50));
        }
        if (i % 20 == 19) {
            assert_ok(store_flush(rig.store, soon()));
            atomic_store(&newest, i);
        }
    }
    assert_true(stat_of(rig.store, "reclaim.segments") > 20);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(readers[i].wrong, 0);
        assert_true(readers[i].hits > 0);
    }
    /* All is told in the end: the followers hold what the leader has on its SSD, and no more. */
    assert_ok(put_value(rig.store, text_key("last"), 20000, 1, 0));
    assert_ok(store_flush(rig.store, soon()));
    for (unsigned f = 0; f < 3; f++) {
        await_value(followers[f], text_key("last"), 20000, 1);
        for (uint64_t i = 0; i < (test_is_slow() ? 1500 : 5000); i++) {
            struct umbp_key key = name_key(&named, "k", i);
            bool led = in_tier(rig.store, key, STORE_TIER_SSD);
            enum umbp_status status = get_value(followers[f], key, 20000, i);
            assert_int_equal(status, led ? UMBP_OK : UMBP_NOT_FOUND);
        }
        end_follower(followers[f]);
    }
    rig_finish(&rig);
}

static void a_follower_sees_a_clear_and_what_comes_after_it(void **state)
{
    struct rig rig = make_led();
    struct store *follower = make_follower(&rig);
    struct named named;
    struct key_wish wish = {follower, "k7", false};
    (void)state;
    for (unsigned round = 0; round < 5; round++) {
        for (uint64_t i = 0; i < 50; i++) {
            assert_ok(put_value(rig.store, name_key(&named, "k", i), 9000, i + round, 0));
        }
        assert_ok(store_flush(rig.store, soon()));
        await_value(follower, text_key("k7"), 9000, 7 + round);
        assert_ok(store_clear(rig.store, soon()));
        assert_true(test_wait_until(key_is_as_wished, &wish, WAIT_MS));
        await_stat(follower, "keys", 0, 0);
    }
    end_follower(follower);
    rig_finish(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_follower_serves_what_the_leader_flushed_before_and_after_its_start),
        cmocka_unit_test(a_follower_hears_of_new_and_removed_keys_by_itself),
        cmocka_unit_test(a_follower_refuses_to_write_and_changes_no_file),
        cmocka_unit_test(a_follower_needs_no_leader_and_a_leader_no_follower_to_start_or_to_stop),
        cmocka_unit_test(a_follower_without_a_directory_is_refused),
        cmocka_unit_test(a_promoting_follower_keeps_what_it_read_in_memory),
        cmocka_unit_test(followers_survive_a_leader_that_reclaims_segments_under_them),
        cmocka_unit_test(a_follower_sees_a_clear_and_what_comes_after_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
