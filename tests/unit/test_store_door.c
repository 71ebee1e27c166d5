/* SPDX-License-Identifier: Apache-2.0 */
/* The inner door: reservations, pins, and what clear and remove leave to those who hold one. */
#include "store_support.h"

#include <pthread.h>
#include <stdatomic.h>

static void write_block(struct store *store, const struct dram_block *block, uint64_t bytes,
                        uint64_t tag)
{
    unsigned char *data = malloc(bytes + 1);
    test_fill(data, bytes, tag);
    uint32_t cursor = 0;
    for (uint64_t done = 0; done < bytes;) {
        struct dram_piece piece = store_piece_at(store, block, done, &cursor);
        uint64_t part = u64_min(piece.bytes, bytes - done);
        memcpy(piece.data, data + done, part);
        done += part;
    }
    free(data);
}

static bool pin_has(struct store *store, const struct store_pin *pin, uint64_t tag)
{
    unsigned char *data = malloc(pin->bytes + 1);
    uint32_t cursor = 0;
    for (uint64_t done = 0; done < pin->bytes;) {
        struct dram_piece piece = store_piece_at(store, &pin->block, done, &cursor);
        uint64_t part = u64_min(piece.bytes, pin->bytes - done);
        memcpy(data + done, piece.data, part);
        done += part;
    }
    bool same = test_check_fill(data, pin->bytes, tag);
    free(data);
    return same;
}

/* ------------------------------------------------------------------------ reservations ---- */

static void a_reservation_is_invisible_until_it_is_committed(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct store_reservation reservation;
    struct umbp_entry_info info;
    (void)state;

    assert_ok(store_reserve(store, text_key("k"), 100000, 7, &reservation));
    assert_int_equal(stat_of(store, "reservations"), 1);
    assert_false(holds(store, text_key("k")));
    write_block(store, &reservation.block, 100000, 3);
    assert_ok(store_commit(store, &reservation));
    assert_int_equal(stat_of(store, "reservations"), 0);
    assert_ok(get_value(store, text_key("k"), 100000, 3));
    assert_ok(store_stat(store, text_key("k"), &info));
    assert_int_equal(info.depth, 7);
    assert_status(store_commit(store, &reservation), UMBP_STALE);
    store_abort(store, &reservation); /* of what was committed: nothing */
    assert_ok(get_value(store, text_key("k"), 100000, 3));
    finish_store(store);
}

static void an_abort_gives_the_pages_back_and_may_be_repeated(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct store_reservation reservation;
    (void)state;
    assert_ok(store_reserve(store, text_key("k"), 100000, 0, &reservation));
    assert_int_equal(stat_of(store, "dram.bytes_used"), dram_footprint(100000));
    store_abort(store, &reservation);
    store_abort(store, &reservation);
    assert_int_equal(stat_of(store, "dram.bytes_used"), 0);
    assert_int_equal(stat_of(store, "reservations"), 0);
    assert_status(store_commit(store, &reservation), UMBP_STALE);
    assert_false(holds(store, text_key("k")));
    finish_store(store);
}

static void a_try_to_reserve_evicts_but_never_waits(void **state)
{
    struct store_options options = small_options(MIB);
    options.op_timeout_ms = 3600000; /* who waited would be here for an hour */
    struct store *store = make_store(&options);
    struct store_reservation held;
    struct store_reservation more;
    (void)state;
    assert_ok(put_value(store, text_key("cold"), MIB / 2, 1, 0));
    assert_ok(store_try_reserve(store, text_key("a"), MIB / 4 * 3, 0, &held));
    assert_false(holds(store, text_key("cold")));
    assert_status(store_try_reserve(store, text_key("b"), MIB / 2, 0, &more), UMBP_NO_SPACE);
    store_abort(store, &held);
    assert_ok(store_try_reserve(store, text_key("b"), MIB / 2, 0, &more));
    store_abort(store, &more);
    finish_store(store);
}

static void the_first_commit_of_a_key_wins_and_the_second_frees_its_pages(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct store_reservation first;
    struct store_reservation second;
    (void)state;
    assert_ok(store_reserve(store, text_key("k"), 5000, 0, &first));
    assert_ok(store_reserve(store, text_key("k"), 9000, 0, &second));
    write_block(store, &first.block, 5000, 1);
    write_block(store, &second.block, 9000, 2);
    assert_ok(store_commit(store, &second));
    assert_status(store_commit(store, &first), UMBP_ALREADY_EXISTS);
    assert_int_equal(stat_of(store, "dram.bytes_used"), dram_footprint(9000));
    assert_ok(get_value(store, text_key("k"), 9000, 2));
    assert_status(store_reserve(store, text_key("k"), 10, 0, &first), UMBP_ALREADY_EXISTS);
    assert_int_equal(stat_of(store, "reservations"), 0);
    finish_store(store);
}

static void a_reservation_that_can_not_be_is_refused_and_evicts_nothing(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct store_reservation reservation;
    struct umbp_key long_key = {"x", UMBP_KEY_BYTES_MAX + 1};
    (void)state;
    assert_ok(put_value(store, text_key("held"), MIB, 1, 0));
    assert_status(store_reserve(store, text_key("k"), MIB + 1, 0, &reservation), UMBP_TOO_LARGE);
    assert_status(store_reserve(store, text_key("k"), UINT64_MAX, 0, &reservation), UMBP_TOO_LARGE);
    assert_status(store_reserve(store, text_key(""), 1, 0, &reservation), UMBP_INVALID_KEY);
    assert_status(store_reserve(store, long_key, 1, 0, &reservation), UMBP_INVALID_KEY);
    assert_true(holds(store, text_key("held")));
    finish_store(store);
}

static void reserved_pages_are_not_evicted(void **state)
{
    struct store_options options = small_options(MIB);
    options.op_timeout_ms = 50;
    struct store *store = make_store(&options);
    struct store_reservation reservations[16];
    struct named named[16];
    (void)state;
    for (uint64_t i = 0; i < 16; i++) {
        assert_ok(store_reserve(store, name_key(&named[i], "r", i), PAGE, 0, &reservations[i]));
        write_block(store, &reservations[i].block, PAGE, i);
    }
    assert_status(put_value(store, text_key("one more"), 1, 1, 0), UMBP_NO_SPACE);
    store_abort(store, &reservations[3]);
    assert_ok(put_value(store, text_key("one more"), PAGE, 1, 0));
    for (uint64_t i = 0; i < 16; i++) {
        if (i != 3) {
            assert_ok(store_commit(store, &reservations[i]));
            assert_ok(get_value(store, named[i].key, PAGE, i));
        }
    }
    finish_store(store);
}

/* --------------------------------------------------------------------------------- pins ---- */

static void a_pinned_value_keeps_its_bytes_when_its_key_is_removed_and_put_anew(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct store_pin pin;
    struct store_pin again;
    struct named named;
    (void)state;

    assert_ok(put_value(store, text_key("k"), 5 * PAGE, 1, 0));
    assert_ok(store_pin(store, text_key("k"), 0, false, &pin));
    assert_int_equal(pin.bytes, 5 * PAGE);
    assert_int_equal(pin.tier, STORE_TIER_DRAM);
    assert_ok(remove_value(store, text_key("k")));
    assert_false(holds(store, text_key("k")));
    assert_ok(put_value(store, text_key("k"), 3 * PAGE, 2, 0));
    for (uint64_t i = 0; i < 100; i++) {
        assert_ok(put_value(store, name_key(&named, "other", i), PAGE, i, 0));
    }
    assert_true(pin_has(store, &pin, 1));
    assert_ok(put_value(store, text_key("k2"), 3 * PAGE, 4, 0));
    assert_ok(store_pin(store, text_key("k2"), 3 * PAGE, false, &again));
    assert_true(again.generation > pin.generation);
    store_unpin(store, &again);
    store_unpin(store, &pin);
    store_unpin(store, &pin);
    finish_store(store);
}

static void clear_leaves_the_pages_of_pinned_values_to_their_readers(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct store_pin pins[3];
    struct named named;
    (void)state;
    for (uint64_t i = 0; i < 10; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), PAGE, i, 0));
    }
    for (uint64_t i = 0; i < 3; i++) {
        assert_ok(store_pin(store, name_key(&named, "k", 2 * i), 0, false, &pins[i]));
    }
    assert_ok(store_clear(store, soon()));
    assert_int_equal(stat_of(store, "keys"), 0);
    assert_int_equal(stat_of(store, "dram.bytes_used"), 3 * PAGE);
    for (uint64_t i = 0; i < 200; i++) { /* nobody writes over them */
        assert_ok(put_value(store, name_key(&named, "new", i), PAGE, 100 + i, 0));
    }
    for (uint64_t i = 0; i < 3; i++) {
        assert_true(pin_has(store, &pins[i], 2 * i));
        store_unpin(store, &pins[i]);
    }
    finish_store(store);
}

static void a_pin_asks_for_the_exact_size_or_any(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct store_pin pin = {0};
    (void)state;
    assert_ok(put_value(store, text_key("k"), 1000, 1, 5));
    assert_status(store_pin(store, text_key("k"), 999, false, &pin), UMBP_SIZE_MISMATCH);
    assert_status(store_pin(store, text_key("l"), 0, false, &pin), UMBP_NOT_FOUND);
    assert_status(store_pin(store, text_key(""), 0, false, &pin), UMBP_INVALID_KEY);
    store_unpin(store, &pin); /* none was given */
    assert_ok(store_pin(store, text_key("k"), 1000, false, &pin));
    assert_int_equal(pin.depth, 5);
    store_unpin(store, &pin);
    finish_store(store);
}

static void pins_show_in_stat_and_in_list(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct store_pin pins[3];
    struct umbp_entry_info info;
    (void)state;
    assert_ok(put_value(store, text_key("k"), 10, 1, 0));
    for (unsigned i = 0; i < 3; i++) {
        assert_ok(store_stat(store, text_key("k"), &info));
        assert_int_equal(info.pins, i);
        assert_ok(store_pin(store, text_key("k"), 0, true, &pins[i]));
    }
    for (unsigned i = 0; i < 3; i++) {
        store_unpin(store, &pins[i]);
    }
    assert_ok(store_stat(store, text_key("k"), &info));
    assert_int_equal(info.pins, 0);
    finish_store(store);
}

static void a_pin_is_an_access_unless_it_is_quiet(void **state)
{
    (void)state;
    for (unsigned quiet = 0; quiet < 2; quiet++) {
        struct store_options options = small_options(MIB);
        struct store *store = make_store(&options);
        struct store_pin pin;
        struct named named;
        for (uint64_t i = 0; i < 16; i++) {
            assert_ok(put_value(store, name_key(&named, "k", i), PAGE, i, 0));
        }
        assert_ok(store_pin(store, text_key("k0"), 0, quiet, &pin));
        store_unpin(store, &pin);
        assert_ok(put_value(store, text_key("new"), PAGE, 99, 0));
        assert_int_equal(holds(store, text_key("k0")), !quiet);
        assert_int_equal(holds(store, text_key("k1")), quiet);
        finish_store(store);
    }
}

static void pinned_values_are_passed_by_and_when_all_are_pinned_there_is_no_space(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct store_pin pins[16];
    struct named named;
    (void)state;
    for (uint64_t i = 0; i < 16; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), PAGE, i, 0));
    }
    for (uint64_t i = 0; i < 16; i++) {
        assert_ok(store_pin(store, name_key(&named, "k", i), 0, true, &pins[i]));
    }
    assert_status(put_value(store, text_key("new"), 1, 99, 0), UMBP_NO_SPACE);
    store_unpin(store, &pins[11]);
    assert_ok(put_value(store, text_key("new"), PAGE, 99, 0));
    for (uint64_t i = 0; i < 16; i++) {
        assert_int_equal(holds(store, name_key(&named, "k", i)), i != 11);
    }
    for (uint64_t i = 0; i < 16; i++) {
        if (i != 11) {
            assert_true(pin_has(store, &pins[i], i));
            store_unpin(store, &pins[i]);
        }
    }
    finish_store(store);
}

struct putter {
    struct store *store;
    uint64_t number;
    enum umbp_status status;
    _Atomic bool done;
};

static void *put_one(void *context)
{
    struct putter *putter = context;
    struct named named;
    putter->status = put_value(putter->store, name_key(&named, "p", putter->number), PAGE, 1, 0);
    atomic_store(&putter->done, true);
    return NULL;
}

static bool putter_is_done(void *context) { return atomic_load(&((struct putter *)context)->done); }

static void writers_that_find_all_pinned_do_not_wait_for_each_other(void **state)
{
    struct store_options options = small_options(MIB);
    options.op_timeout_ms = 120000;
    struct store *store = make_store(&options);
    struct store_pin pin;
    struct putter putters[4];
    pthread_t threads[4];
    (void)state;
    assert_ok(put_value(store, text_key("all"), MIB, 1, 0));
    assert_ok(store_pin(store, text_key("all"), 0, true, &pin));
    for (unsigned i = 0; i < 4; i++) {
        putters[i] = (struct putter){.store = store, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, put_one, &putters[i]), 0);
    }
    bool all_done = true;
    for (unsigned i = 0; i < 4 && all_done; i++) {
        all_done = test_wait_until(putter_is_done, &putters[i], WAIT_MS);
    }
    store_unpin(store, &pin);
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_true(all_done);
    for (unsigned i = 0; i < 4; i++) {
        assert_status(putters[i].status, UMBP_NO_SPACE);
    }
    finish_store(store);
}

static void *put_large(void *context)
{
    struct putter *putter = context;
    struct named named;
    for (uint64_t i = 0; i < 20; i++) {
        enum umbp_status status = put_value(
            putter->store, name_key(&named, "large", putter->number * 100 + i), 10 * PAGE, i, 0);
        if (status != UMBP_OK) {
            putter->status = status;
        }
    }
    return NULL;
}

static void writers_of_values_that_do_not_fit_side_by_side_take_turns(void **state)
{
    struct store_options options = small_options(MIB);
    options.op_timeout_ms = 120000;
    struct store *store = make_store(&options);
    struct putter putters[8];
    pthread_t threads[8];
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        putters[i] = (struct putter){.store = store, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, put_large, &putters[i]), 0);
    }
    for (unsigned i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
        assert_ok(putters[i].status);
    }
    finish_store(store);
}

/* ----------------------------------------------------------------------------- capacity ---- */

static void capacity_tells_total_and_used_bytes(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct store_capacity capacity;
    (void)state;
    store_capacity(store, STORE_TIER_DRAM, &capacity);
    assert_int_equal(capacity.total_bytes, MIB);
    assert_int_equal(capacity.used_bytes, 0);
    assert_ok(put_value(store, text_key("k"), 100, 1, 0));
    store_capacity(store, STORE_TIER_DRAM, &capacity);
    assert_int_equal(capacity.used_bytes, 128);
    store_capacity(store, STORE_TIER_SSD, &capacity);
    assert_int_equal(capacity.total_bytes, 0);
    assert_int_equal(capacity.used_bytes, 0);
    finish_store(store);
}

/* ------------------------------------------------------------------------------ property --- */

#define WORKERS 8u
#define SHARED_KEYS 24u

struct worker {
    struct store *store;
    uint64_t stream;
    unsigned rounds;
    unsigned wrong;
};

/* A value's tag and size follow from its generation's first 8 bytes, so a pin checks itself. */
static bool pinned_is_whole(struct store *store, const struct store_pin *pin)
{
    uint64_t tag;
    unsigned char *data = malloc(pin->bytes);
    dram_read(store_dram(store), &pin->block, 0, data, pin->bytes);
    memcpy(&tag, data, sizeof(tag));
    bool whole = pin->bytes == 5000 + tag % 60000 && test_check_fill(data + 8, pin->bytes - 8, tag);
    free(data);
    return whole;
}

static enum umbp_status reserve_and_write(struct worker *worker, struct umbp_key key,
                                          struct test_rng *rng, bool commit)
{
    struct store_reservation reservation;
    uint64_t tag = test_rng_next(rng);
    uint64_t bytes = 5000 + tag % 60000;
    enum umbp_status status = store_reserve(worker->store, key, bytes, 0, &reservation);
    if (status != UMBP_OK) {
        return status;
    }
    unsigned char *data = malloc(bytes);
    memcpy(data, &tag, 8);
    test_fill(data + 8, bytes - 8, tag);
    uint32_t cursor = 0;
    for (uint64_t done = 0; done < bytes;) {
        struct dram_piece piece = store_piece_at(worker->store, &reservation.block, done, &cursor);
        uint64_t part = u64_min(piece.bytes, bytes - done);
        memcpy(piece.data, data + done, part);
        done += part;
    }
    free(data);
    if (!commit) {
        store_abort(worker->store, &reservation);
        return UMBP_OK;
    }
    return store_commit(worker->store, &reservation);
}

static void *work(void *context)
{
    struct worker *worker = context;
    struct test_rng rng;
    struct named named;
    test_rng_init(&rng, worker->stream);
    for (unsigned round = 0; round < worker->rounds; round++) {
        struct umbp_key key = name_key(&named, "s", test_rng_below(&rng, SHARED_KEYS));
        struct store_pin pin;
        enum umbp_status status;
        switch (test_rng_below(&rng, 8)) {
        case 0:
        case 1:
        case 2:
            status = reserve_and_write(worker, key, &rng, true);
            worker->wrong +=
                status != UMBP_OK && status != UMBP_ALREADY_EXISTS && status != UMBP_NO_SPACE;
            break;
        case 3:
            (void)!reserve_and_write(worker, key, &rng, false);
            break;
        case 4:
            (void)!remove_value(worker->store, key);
            break;
        case 5:
            if (round % 64 == 0) {
                worker->wrong += store_clear(worker->store, soon()) != UMBP_OK;
            }
            break;
        default:
            if (store_pin(worker->store, key, 0, false, &pin) == UMBP_OK) {
                worker->wrong += !pinned_is_whole(worker->store, &pin);
                worker->wrong += !pinned_is_whole(worker->store, &pin);
                store_unpin(worker->store, &pin);
            }
        }
    }
    return NULL;
}

static void bytes_under_a_pin_never_change_whatever_other_threads_do(void **state)
{
    struct store_options options = small_options(MIB);
    struct store *store = make_store(&options);
    struct worker workers[WORKERS];
    pthread_t threads[WORKERS];
    (void)state;
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){
            .store = store, .stream = 50 + i, .rounds = test_is_slow() ? 500 : 4000};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].wrong, 0);
    }
    finish_store(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reservation_is_invisible_until_it_is_committed),
        cmocka_unit_test(an_abort_gives_the_pages_back_and_may_be_repeated),
        cmocka_unit_test(a_try_to_reserve_evicts_but_never_waits),
        cmocka_unit_test(the_first_commit_of_a_key_wins_and_the_second_frees_its_pages),
        cmocka_unit_test(a_reservation_that_can_not_be_is_refused_and_evicts_nothing),
        cmocka_unit_test(reserved_pages_are_not_evicted),
        cmocka_unit_test(a_pinned_value_keeps_its_bytes_when_its_key_is_removed_and_put_anew),
        cmocka_unit_test(clear_leaves_the_pages_of_pinned_values_to_their_readers),
        cmocka_unit_test(a_pin_asks_for_the_exact_size_or_any),
        cmocka_unit_test(pins_show_in_stat_and_in_list),
        cmocka_unit_test(a_pin_is_an_access_unless_it_is_quiet),
        cmocka_unit_test(pinned_values_are_passed_by_and_when_all_are_pinned_there_is_no_space),
        cmocka_unit_test(writers_that_find_all_pinned_do_not_wait_for_each_other),
        cmocka_unit_test(writers_of_values_that_do_not_fit_side_by_side_take_turns),
        cmocka_unit_test(capacity_tells_total_and_used_bytes),
        cmocka_unit_test(bytes_under_a_pin_never_change_whatever_other_threads_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
