/* SPDX-License-Identifier: Apache-2.0 */
/* The index by its effects: tables that grow through every kind of memory, and looks in batches
 * while keys come and go. */
#include "store_support.h"

#include <pthread.h>
#include <stdatomic.h>

#define BATCH 128u
#define TEXT 16u

struct batch {
    char text[BATCH][TEXT];
    struct umbp_key keys[BATCH];
    struct umbp_put_item puts[BATCH];
    enum umbp_status statuses[BATCH];
    uint8_t found[BATCH];
};

/* Key number first + i * step, with a value of no bytes (which takes a granule). */
static void aim(struct batch *batch, const char *prefix, uint64_t first, uint64_t step)
{
    for (size_t i = 0; i < BATCH; i++) {
        int bytes = snprintf(batch->text[i], TEXT, "%s%" PRIu64, prefix, first + i * step);
        batch->keys[i] = (struct umbp_key){batch->text[i], (size_t)bytes};
        batch->puts[i] = (struct umbp_put_item){
            .key = batch->keys[i], .data = "", .bytes = 0, .depth = UMBP_DEPTH_NONE};
    }
}

static void put_all(struct store *store, struct batch *batch)
{
    assert_ok(store_batch_put(store, batch->puts, BATCH, batch->statuses));
    for (size_t i = 0; i < BATCH; i++) {
        assert_ok(batch->statuses[i]);
    }
}

static void remove_all(struct store *store, struct batch *batch)
{
    assert_ok(store_batch_remove(store, batch->keys, BATCH, batch->statuses));
    for (size_t i = 0; i < BATCH; i++) {
        assert_ok(batch->statuses[i]);
    }
}

static size_t count_found(struct store *store, struct batch *batch)
{
    size_t count = 0;
    assert_ok(store_batch_exists(store, batch->keys, BATCH, batch->found));
    for (size_t i = 0; i < BATCH; i++) {
        count += batch->found[i];
    }
    return count;
}

/* ------------------------------------------------------------------------------- growth -- */

/* 10 entries a bucket of 64 bytes: above 327,680 the one table takes more than 2 MiB. */
#define MANY (BATCH * 2600u)

static void grow(uint32_t shards)
{
    struct store_options options = small_options(64 * MIB);
    struct batch batch;

    options.shards = shards;
    options.event_bytes = 0;
    struct store *store = make_store(&options);
    for (uint64_t at = 0, check = BATCH; at < MANY; at += BATCH) {
        aim(&batch, "key", at, 1);
        put_all(store, &batch);
        if (at + BATCH == check || at + BATCH == MANY) {
            check *= 2; /* each time when the table is twice as large */
            for (uint64_t old = 0; old <= at; old += BATCH) {
                aim(&batch, "key", old, 1);
                assert_int_equal(count_found(store, &batch), BATCH);
            }
        }
    }
    aim(&batch, "other", 0, 1);
    assert_int_equal(count_found(store, &batch), 0);
    assert_int_equal(stat_of(store, "keys"), MANY);
    /* An entry of 112 bytes and less than 13 of the table; outgrown tables became entries. */
    assert_in_range(stat_of(store, "index.bytes"), MANY * 112, MANY * 126 + 4 * MIB);
    finish_store(store);
}

static void every_key_is_found_while_one_table_grows_from_pages_to_slabs_to_maps(void **state)
{
    (void)state;
    grow(1);
}

static void every_key_is_found_while_tables_take_over_what_others_outgrew(void **state)
{
    (void)state;
    grow(8);
}

/* -------------------------------------------------------------------------------- churn -- */

#define STANDING 1024u
#define COMERS 4096u
#define LOOKERS 2u
#define ROUNDS 300u

struct churn {
    struct store *store;
    _Atomic bool stop;
    _Atomic unsigned wrong;
};

/* What the standing keys are interleaved with comes and goes, in blocks that change hands. */
static void *come_and_go(void *argument)
{
    struct churn *churn = argument;
    struct batch batch;
    for (uint64_t round = 0; !atomic_load(&churn->stop); round++) {
        aim(&batch, round % 2 ? "odd" : "even", round / 2 * BATCH % COMERS, 1);
        put_all(churn->store, &batch);
        remove_all(churn->store, &batch);
    }
    return NULL;
}

static void *look(void *argument)
{
    struct churn *churn = argument;
    struct batch batch;
    struct batch mixed;
    for (unsigned round = 0; round < ROUNDS; round++) {
        /* A third each: always there, never there, there for a moment. */
        for (size_t i = 0; i < BATCH; i++) {
            if (i == 0) {
                aim(&batch, "stand", round * BATCH % STANDING, 1);
                aim(&mixed, round % 2 ? "odd" : "even", round * BATCH % COMERS, 1);
            }
            if (i % 3 == 1) {
                batch.text[i][0] = 'S'; /* of the same length, never put */
            } else if (i % 3 == 2) {
                batch.keys[i] = mixed.keys[i];
            }
        }
        (void)count_found(churn->store, &batch);
        for (size_t i = 0; i < BATCH; i++) {
            bool wrong = (i % 3 == 0 && !batch.found[i]) || (i % 3 == 1 && batch.found[i]);
            atomic_fetch_add(&churn->wrong, wrong);
        }
    }
    return NULL;
}

static void a_look_in_a_batch_is_right_while_other_keys_come_and_go(void **state)
{
    struct store_options options = small_options(MIB);
    struct churn churn = {.wrong = 0};
    pthread_t lookers[LOOKERS];
    pthread_t comer;
    struct batch batch;
    (void)state;

    options.event_bytes = 0;
    churn.store = make_store(&options);
    for (uint64_t at = 0; at < STANDING; at += BATCH) {
        aim(&batch, "stand", at, 1);
        put_all(churn.store, &batch);
    }
    assert_int_equal(pthread_create(&comer, NULL, come_and_go, &churn), 0);
    for (size_t i = 0; i < LOOKERS; i++) {
        assert_int_equal(pthread_create(&lookers[i], NULL, look, &churn), 0);
    }
    for (size_t i = 0; i < LOOKERS; i++) {
        pthread_join(lookers[i], NULL);
    }
    atomic_store(&churn.stop, true);
    pthread_join(comer, NULL);
    assert_int_equal(churn.wrong, 0);
    assert_int_equal(stat_of(churn.store, "keys"), STANDING);
    finish_store(churn.store);
}

static void a_batch_of_one_key_many_times_and_of_bad_keys_is_answered_item_by_item(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct batch batch;
    (void)state;

    aim(&batch, "key", 0, 0);
    assert_ok(put_value(store, batch.keys[0], 0, 1, 0));
    assert_int_equal(count_found(store, &batch), BATCH);
    for (size_t i = 0; i < BATCH; i += 2) {
        batch.keys[i].bytes = i % 4 ? 0 : UMBP_KEY_BYTES_MAX + 1;
    }
    assert_int_equal(count_found(store, &batch), BATCH / 2);
    for (size_t i = 0; i < BATCH; i++) {
        assert_int_equal(batch.found[i], i % 2);
        batch.keys[i].bytes = 0;
    }
    assert_int_equal(count_found(store, &batch), 0);
    finish_store(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_is_found_while_one_table_grows_from_pages_to_slabs_to_maps),
        cmocka_unit_test(every_key_is_found_while_tables_take_over_what_others_outgrew),
        cmocka_unit_test(a_look_in_a_batch_is_right_while_other_keys_come_and_go),
        cmocka_unit_test(a_batch_of_one_key_many_times_and_of_bad_keys_is_answered_item_by_item),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
