/* SPDX-License-Identifier: Apache-2.0 */
/* The numbered events and the snapshot: together they tell the present state, always. */
#include "store_rig.h"

#include <pthread.h>
#include <stdatomic.h>

static bool key_is(const struct store_event *event, const char *text)
{
    return event->key_bytes == strlen(text) && !memcmp(event->key, text, event->key_bytes);
}

static void events_tell_what_came_and_went_numbered_from_one(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct store_event event;
    uint64_t sequence = 0;
    (void)state;

    assert_status(store_event_next(store, &sequence, &event), UMBP_NOT_FOUND);
    assert_ok(put_value(store, text_key("a"), 100, 1, 7));
    assert_status(put_value(store, text_key("a"), 100, 1, 7), UMBP_ALREADY_EXISTS);
    assert_ok(put_value(store, text_key("b"), 200, 1, UMBP_DEPTH_NONE));
    assert_ok(remove_value(store, text_key("a")));
    assert_ok(put_value(store, text_key("a"), 300, 2, 8));

    static const struct {
        const char *key;
        uint64_t bytes;
        uint32_t depth;
        bool is_add;
    } want[] = {{"a", 100, 7, true},
                {"b", 200, UMBP_DEPTH_NONE, true},
                {"a", 100, 7, false},
                {"a", 300, 8, true}};
    uint64_t generations[4];
    for (uint64_t i = 0; i < 4; i++) {
        assert_ok(store_event_next(store, &sequence, &event));
        assert_int_equal(event.sequence, i + 1);
        assert_int_equal(sequence, i + 2);
        assert_true(key_is(&event, want[i].key));
        assert_int_equal(event.bytes, want[i].bytes);
        assert_int_equal(event.depth, want[i].depth);
        assert_int_equal(event.is_add, want[i].is_add);
        assert_int_equal(event.tier, STORE_TIER_DRAM);
        generations[i] = event.generation;
    }
    assert_int_equal(generations[0], generations[2]);
    assert_true(generations[3] > generations[0]);
    assert_status(store_event_next(store, &sequence, &event), UMBP_NOT_FOUND);
    assert_int_equal(sequence, 5);
    finish_store(store);
}

static void evictions_and_clear_are_told_too(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct store_event event;
    struct named named;
    uint64_t sequence = 1;
    unsigned added = 0;
    unsigned removed = 0;
    (void)state;
    for (uint64_t i = 0; i < 40; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), PAGE, i, 0));
    }
    assert_ok(store_clear(store, soon()));
    while (store_event_next(store, &sequence, &event) == UMBP_OK) {
        added += event.is_add;
        removed += !event.is_add;
    }
    assert_int_equal(added, 40);
    assert_int_equal(removed, 40);
    finish_store(store);
}

static void without_a_ring_events_are_unsupported_and_a_snapshot_still_works(void **state)
{
    struct store_options options = small_options(MIB);
    options.event_bytes = 0;
    struct store *store = make_store(&options);
    struct store_event event;
    uint64_t sequence = 1;
    (void)state;
    assert_ok(put_value(store, text_key("a"), 100, 1, 7));
    assert_status(store_event_next(store, &sequence, &event), UMBP_UNSUPPORTED);
    assert_status(store_event_wait(store, 1, soon()), UMBP_UNSUPPORTED);
    finish_store(store);
}

/* Events whose keys differ in length overrun the one or the other of the two rings. */
static void a_reader_that_fell_behind_is_told_and_what_is_left_has_no_gap(void **state)
{
    static const size_t key_bytes[] = {1, 20, 600, UMBP_KEY_BYTES_MAX};
    (void)state;
    for (size_t k = 0; k < 4; k++) {
        struct store_options options = small_options(MIB);
        options.event_bytes = 16 * KIB;
        struct store *store = make_store(&options);
        struct store_event event;
        uint8_t bytes[UMBP_KEY_BYTES_MAX];
        uint64_t sequence = 1;
        const uint64_t all = 2000;
        for (uint64_t i = 0; i < all / 2; i++) {
            memset(bytes, 'a' + (int)(i % 26), key_bytes[k]);
            struct umbp_key key = {bytes, key_bytes[k]};
            assert_ok(put_value(store, key, 10 + i, i, 0));
            assert_ok(remove_value(store, key));
        }
        assert_status(store_event_next(store, &sequence, &event), UMBP_STALE);
        assert_int_equal(sequence, 1);
        while (store_event_next(store, &sequence, &event) == UMBP_STALE) {
            sequence++;
        }
        uint64_t first = event.sequence;
        assert_true(first > 1 && first <= all - 10); /* at least some are kept */
        for (uint64_t want = first;; want++) {
            assert_int_equal(event.sequence, want);
            assert_int_equal(event.bytes, 10 + (want - 1) / 2);
            assert_int_equal(event.is_add, want % 2 == 1);
            assert_int_equal(event.key_bytes, key_bytes[k]);
            for (size_t at = 0; at < key_bytes[k]; at++) {
                assert_int_equal(event.key[at], 'a' + (int)((want - 1) / 2 % 26));
            }
            enum umbp_status status = store_event_next(store, &sequence, &event);
            if (status == UMBP_NOT_FOUND) {
                assert_int_equal(want, all);
                break;
            }
            assert_ok(status);
        }
        finish_store(store);
    }
}

/* ------------------------------------------------------------------------------- waiting --- */

struct waiter {
    struct store *store;
    uint64_t sequence;
    enum umbp_status status;
    _Atomic bool started;
};

static void *await_event(void *context)
{
    struct waiter *waiter = context;
    atomic_store(&waiter->started, true);
    waiter->status = store_event_wait(waiter->store, waiter->sequence, soon());
    return NULL;
}

static bool waiter_started(void *context)
{
    return atomic_load(&((struct waiter *)context)->started);
}

static void a_wait_ends_with_the_event_with_its_deadline_or_with_the_store(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct waiter waiter = {.store = store, .sequence = 3};
    pthread_t thread;
    (void)state;

    assert_status(store_event_wait(store, 1, clock_now_ns(clock_monotonic())), UMBP_TIMEOUT);
    assert_int_equal(pthread_create(&thread, NULL, await_event, &waiter), 0);
    assert_true(test_wait_until(waiter_started, &waiter, WAIT_MS));
    assert_ok(put_value(store, text_key("a"), 1, 1, 0));
    assert_ok(put_value(store, text_key("b"), 1, 1, 0));
    assert_ok(put_value(store, text_key("c"), 1, 1, 0));
    pthread_join(thread, NULL);
    assert_ok(waiter.status);
    assert_ok(store_event_wait(store, 2, 0)); /* is there already */

    waiter = (struct waiter){.store = store, .sequence = 100};
    assert_int_equal(pthread_create(&thread, NULL, await_event, &waiter), 0);
    assert_true(test_wait_until(waiter_started, &waiter, WAIT_MS));
    assert_ok(store_close(store, soon()));
    pthread_join(thread, NULL);
    assert_status(waiter.status, UMBP_CLOSED);
    store_destroy(store);
}

/* --------------------------------------------- snapshot and events make the present state --- */

#define MODEL_KEYS 400u
#define TIERS 3u

struct model {
    uint64_t generation[MODEL_KEYS][TIERS]; /* 0: not there */
    uint64_t bytes[MODEL_KEYS];
    unsigned wrong;
};

static void apply(struct model *model, const struct store_event *event)
{
    char text[32] = {0};
    if (event->key_bytes >= sizeof(text) || event->tier >= TIERS) {
        model->wrong++;
        return;
    }
    memcpy(text, event->key, event->key_bytes);
    uint64_t number = strtoull(text + 1, NULL, 10);
    if (text[0] != 'm' || number >= MODEL_KEYS) {
        model->wrong++;
        return;
    }
    uint64_t *generation = &model->generation[number][event->tier];
    if (event->is_add && event->generation >= *generation) {
        *generation = event->generation;
        model->bytes[number] = event->bytes;
    } else if (!event->is_add && event->generation == *generation) {
        *generation = 0;
    }
}

static bool apply_snapshot(void *context, const struct store_event *event)
{
    struct model *model = context;
    model->wrong += event->sequence != 0 || !event->is_add;
    apply(model, event);
    return true;
}

struct mutator {
    struct store *store;
    uint64_t stream;
    unsigned rounds;
    unsigned wrong;
};

static void *mutate(void *context)
{
    struct mutator *mutator = context;
    struct test_rng rng;
    struct named named;
    test_rng_init(&rng, mutator->stream);
    for (unsigned i = 0; i < mutator->rounds; i++) {
        struct umbp_key key = name_key(&named, "m", test_rng_below(&rng, MODEL_KEYS));
        uint64_t bytes = 100 + test_rng_below(&rng, 8000);
        switch (test_rng_below(&rng, 4)) {
        case 0:
            (void)!remove_value(mutator->store, key);
            break;
        default:
            mutator->wrong += !umbp_status_is_success(put_value(mutator->store, key, bytes, 1, 0));
        }
    }
    return NULL;
}

/* Every key of the model is what the store says, and the other way round. */
static bool is_present(struct store *store, const struct model *model)
{
    struct named named;
    for (uint64_t i = 0; i < MODEL_KEYS; i++) {
        struct umbp_entry_info info = {0};
        bool held = store_stat(store, name_key(&named, "m", i), &info) == UMBP_OK;
        bool in_dram = model->generation[i][STORE_TIER_DRAM] != 0;
        bool in_ssd = model->generation[i][STORE_TIER_SSD] != 0;
        if (in_dram != (held && info.in_dram) || in_ssd != (held && info.in_ssd) ||
            (held && model->bytes[i] != info.bytes)) {
            return false;
        }
    }
    return true;
}

static void assert_model_is_present(struct store *store, const struct model *model)
{
    assert_true(is_present(store, model));
}

static void replay_on(struct store *store, struct model *model, uint64_t *sequence)
{
    struct store_event event;
    enum umbp_status status;
    while ((status = store_event_next(store, sequence, &event)) == UMBP_OK) {
        apply(model, &event);
    }
    assert_status(status, UMBP_NOT_FOUND);
    assert_int_equal(model->wrong, 0);
}

static void replay(struct store *store, struct model *model, uint64_t sequence)
{
    replay_on(store, model, &sequence);
}

struct replaying {
    struct store *store;
    struct model *model;
    uint64_t sequence;
};

/* Copiers and upkeep may still be at it: once nothing happens any more, they agree for good. */
static bool agrees(void *context)
{
    struct replaying *replaying = context;
    replay_on(replaying->store, replaying->model, &replaying->sequence);
    return is_present(replaying->store, replaying->model);
}

static void a_snapshot_amid_changes_and_the_events_since_make_the_present_state(void **state)
{
    struct store_options options = small_options(MIB); /* evicts all the time */
    options.event_bytes = 64 * MIB;
    (void)state;
    for (unsigned round = 0; round < (test_is_slow() ? 3 : 10); round++) {
        struct store *store = make_store(&options);
        struct mutator mutators[4];
        struct model *models[5];
        uint64_t sequences[5];
        pthread_t threads[4];
        for (unsigned i = 0; i < 4; i++) {
            mutators[i] = (struct mutator){
                .store = store, .stream = round * 10 + i, .rounds = test_is_slow() ? 2000 : 10000};
            assert_int_equal(pthread_create(&threads[i], NULL, mutate, &mutators[i]), 0);
        }
        for (unsigned i = 0; i < 5; i++) {
            models[i] = calloc(1, sizeof(*models[i]));
            assert_ok(store_snapshot(store, apply_snapshot, models[i], &sequences[i]));
        }
        for (unsigned i = 0; i < 4; i++) {
            pthread_join(threads[i], NULL);
            assert_int_equal(mutators[i].wrong, 0);
        }
        for (unsigned i = 0; i < 5; i++) {
            replay(store, models[i], sequences[i]);
            assert_model_is_present(store, models[i]);
            free(models[i]);
        }
        struct model *from_start = calloc(1, sizeof(*from_start));
        replay(store, from_start, 1);
        assert_model_is_present(store, from_start);
        free(from_start);
        finish_store(store);
    }
}

static void the_same_holds_with_an_ssd_that_copies_reclaims_and_promotes(void **state)
{
    (void)state;
    for (unsigned round = 0; round < (test_is_slow() ? 2 : 6); round++) {
        struct rig rig = rig_make();
        struct mutator mutators[4];
        struct model *models[4];
        uint64_t sequences[4];
        pthread_t threads[4];
        struct named named;
        rig.options.dram.bytes = MIB;
        rig.options.event_bytes = 64 * MIB;
        rig.options.ssd.bytes = 4 * MIB;
        rig.options.ssd.segment_bytes = 256 * KIB;
        rig.options.promote_on_read = round % 2;
        rig.options.copy_mode = round % 3 ? STORE_COPY_ON_COMMIT : STORE_COPY_ON_EVICT;
        rig_open(&rig);
        for (unsigned i = 0; i < 4; i++) {
            mutators[i] = (struct mutator){.store = rig.store,
                                           .stream = round * 10 + i,
                                           .rounds = test_is_slow() ? 1000 : 5000};
            assert_int_equal(pthread_create(&threads[i], NULL, mutate, &mutators[i]), 0);
        }
        for (unsigned i = 0; i < 4; i++) {
            models[i] = calloc(1, sizeof(*models[i]));
            assert_ok(store_snapshot(rig.store, apply_snapshot, models[i], &sequences[i]));
            for (uint64_t k = 0; k < MODEL_KEYS; k += 3) { /* promotes */
                struct umbp_entry_info info;
                struct umbp_key key = name_key(&named, "m", k);
                if (store_stat(rig.store, key, &info) == UMBP_OK) {
                    unsigned char data[9000];
                    struct umbp_get_item item = {.key = key, .data = data, .bytes = info.bytes};
                    enum umbp_status status;
                    assert_ok(store_batch_get(rig.store, &item, 1, &status));
                }
            }
        }
        for (unsigned i = 0; i < 4; i++) {
            pthread_join(threads[i], NULL);
            assert_int_equal(mutators[i].wrong, 0);
        }
        assert_ok(store_flush(rig.store, soon()));
        await_stat(rig.store, "copies.waiting", 0, 0);
        for (unsigned i = 0; i < 4; i++) {
            struct replaying replaying = {rig.store, models[i], sequences[i]};
            assert_true(test_wait_until(agrees, &replaying, WAIT_MS));
            free(models[i]);
        }
        rig_finish(&rig);
    }
}

static bool refuse_third(void *context, const struct store_event *event)
{
    (void)event;
    return ++*(unsigned *)context < 3;
}

static void a_snapshot_is_cancelled_by_its_visitor(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct named named;
    uint64_t sequence = 77;
    unsigned visits = 0;
    (void)state;
    for (uint64_t i = 0; i < 200; i++) {
        assert_ok(put_value(store, name_key(&named, "m", i), 64, i, 0));
    }
    assert_status(store_snapshot(store, refuse_third, &visits, &sequence), UMBP_CANCELLED);
    assert_int_equal(visits, 3);
    assert_int_equal(sequence, 77);
    finish_store(store);
}

static bool count_and_grow(void *context, const struct store_event *event)
{
    struct store *store = ((void **)context)[0];
    uint64_t *count = ((void **)context)[1];
    struct named named;
    if (event->key[0] == 'm') {
        ++*count;
        for (uint64_t i = 0; i < 20; i++) { /* makes the index's tables grow under the walk */
            assert_ok(put_value(store, name_key(&named, "g", *count * 20 + i), 64, 1, 0));
        }
    }
    return true;
}

static void a_snapshot_misses_nothing_while_the_index_grows_under_it(void **state)
{
    struct store_options options = small_options(16 * MIB);
    options.event_bytes = 4 * MIB;
    struct store *store = make_store(&options);
    struct named named;
    uint64_t count = 0;
    uint64_t sequence;
    void *context[2] = {store, &count};
    (void)state;
    for (uint64_t i = 0; i < 300; i++) {
        assert_ok(put_value(store, name_key(&named, "m", i), 64, i, 0));
    }
    assert_ok(store_snapshot(store, count_and_grow, context, &sequence));
    assert_true(count >= 300);
    finish_store(store);
}

struct seen_keys {
    unsigned count;
    uint8_t times[5000];
};

static void see_key(void *context, const struct store_event *event)
{
    struct seen_keys *seen = context;
    char text[16] = "";
    assert_true(event->is_add && event->sequence == 0 && event->key_bytes < sizeof(text));
    memcpy(text, event->key, event->key_bytes);
    seen->times[strtoul(text + 1, NULL, 10)]++;
    seen->count++;
}

static void a_snapshot_in_pieces_misses_nothing_that_stays(void **state)
{
    struct store_options options = small_options(4 * MIB);
    struct store *store = make_store(&options);
    struct store_cursor cursor = {0};
    struct seen_keys *seen = calloc(1, sizeof(*seen));
    struct named named;
    unsigned pieces = 0;
    (void)state;
    for (unsigned i = 0; i < 1000; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), 64, i, 0));
    }
    for (unsigned more = 1000; !store_snapshot_next(store, &cursor, 100, see_key, seen); pieces++) {
        for (unsigned i = 0; i < 100 && more < 5000; i++, more++) { /* the tables grow meanwhile */
            assert_ok(put_value(store, name_key(&named, "k", more), 64, more, 0));
        }
    }
    assert_true(pieces >= 5);
    assert_int_equal(cursor.sequence, 1001);
    for (unsigned i = 0; i < 1000; i++) {
        assert_true(seen->times[i] > 0);
    }
    free(seen);
    finish_store(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_tell_what_came_and_went_numbered_from_one),
        cmocka_unit_test(evictions_and_clear_are_told_too),
        cmocka_unit_test(without_a_ring_events_are_unsupported_and_a_snapshot_still_works),
        cmocka_unit_test(a_reader_that_fell_behind_is_told_and_what_is_left_has_no_gap),
        cmocka_unit_test(a_wait_ends_with_the_event_with_its_deadline_or_with_the_store),
        cmocka_unit_test(a_snapshot_amid_changes_and_the_events_since_make_the_present_state),
        cmocka_unit_test(the_same_holds_with_an_ssd_that_copies_reclaims_and_promotes),
        cmocka_unit_test(a_snapshot_is_cancelled_by_its_visitor),
        cmocka_unit_test(a_snapshot_misses_nothing_while_the_index_grows_under_it),
        cmocka_unit_test(a_snapshot_in_pieces_misses_nothing_that_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
