/* SPDX-License-Identifier: Apache-2.0 */
/* What prefix_aware_lru and s3fifo promise beside what every policy does. */
#include "store_support.h"

#include "store/store_priv.h" /* where keys lie only */

static struct store *make_with_policy(const char *policy, uint64_t blocks, uint32_t window,
                                      uint32_t shards)
{
    struct store_options options = small_options(blocks * PAGE);
    options.policy = policy;
    options.candidate_window = window;
    options.shards = shards;
    options.event_bytes = 0;
    return make_store(&options);
}

static void policies_are_listed_by_name_and_no_other_is_taken(void **state)
{
    static const char *const names[] = {"lru", "prefix_aware_lru", "s3fifo", NULL};
    struct store_options options = small_options(MIB);
    struct store *store = NULL;
    char error[256];
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        assert_string_equal(store_policy_name(i), names[i]);
    }
    assert_null(store_policy_name(3));
    options.policy = "lfu";
    assert_status(store_create(&options, &store, error, sizeof(error)), UMBP_INVALID_VALUE);
    assert_non_null(strstr(error, "lfu"));
    assert_null(store);
    options.policy = NULL;
    assert_status(store_create(&options, &store, NULL, 0), UMBP_INVALID_VALUE);
}

/* ---------------------------------------------------------------------- prefix_aware_lru --- */

static void the_deepest_of_the_coldest_goes_first(void **state)
{
    static const uint32_t depths[16] = {1, 9, 3, 5, 100, 2, 2, 7, 0, 0, 0, 0, 0, 0, 0, 50};
    /* Window of 4, from the oldest: the deepest, the older of equals. */
    static const unsigned order[] = {1, 4, 3, 2, 7, 5, 6, 0, 8};
    struct store *store = make_with_policy("prefix_aware_lru", 16, 4, 4);
    struct named named;
    (void)state;
    for (uint64_t i = 0; i < 16; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), PAGE, i, depths[i]));
    }
    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        assert_true(holds(store, name_key(&named, "k", order[i])));
        assert_ok(put_value(store, name_key(&named, "new", i), PAGE, i, 0));
        assert_false(holds(store, name_key(&named, "k", order[i])));
        assert_int_equal(stat_of(store, "keys"), 16);
    }
    finish_store(store);
}

static void an_unknown_depth_counts_as_the_roots(void **state)
{
    struct store *store = make_with_policy("prefix_aware_lru", 8, 8, 1);
    struct named named;
    (void)state;
    for (uint64_t i = 0; i < 8; i++) {
        assert_ok(
            put_value(store, name_key(&named, "k", i), PAGE, i, i == 5 ? 1 : UMBP_DEPTH_NONE));
    }
    assert_ok(put_value(store, text_key("a"), PAGE, 1, UMBP_DEPTH_NONE));
    assert_false(holds(store, text_key("k5")));
    assert_ok(put_value(store, text_key("b"), PAGE, 1, UMBP_DEPTH_NONE));
    assert_false(holds(store, text_key("k0"))); /* then by age */
    finish_store(store);
}

static void a_prefix_outlives_its_continuation(void **state)
{
    struct store *store = make_with_policy("prefix_aware_lru", 16, 16, 4);
    struct named named;
    (void)state;
    for (uint32_t i = 0; i < 16; i++) { /* one chain, put in order from the root */
        assert_ok(put_value(store, name_key(&named, "c", i), PAGE, i, i));
    }
    for (uint64_t i = 0; i < 8; i++) {
        assert_ok(put_value(store, name_key(&named, "new", i), PAGE, i, 0));
        for (uint64_t k = 0; k < 16; k++) {
            assert_int_equal(holds(store, name_key(&named, "c", k)), k < 15 - i);
        }
    }
    finish_store(store);
}

/* Against a list: among the `window` oldest the deepest goes, the older of equals. */
#define MODEL_KEYS 80u
#define MODEL_BLOCKS 32u

struct model {
    uint32_t order[MODEL_KEYS];
    uint32_t depth[MODEL_KEYS];
    uint32_t count;
};

static uint32_t model_find(const struct model *model, uint32_t key)
{
    uint32_t at = 0;
    while (at < model->count && model->order[at] != key) {
        at++;
    }
    return at;
}

static void model_take(struct model *model, uint32_t at)
{
    memmove(&model->order[at], &model->order[at + 1],
            (model->count - at - 1) * sizeof(model->order[0]));
    model->count--;
}

static void model_put(struct model *model, uint32_t key, uint32_t depth, uint32_t window)
{
    if (model->count == MODEL_BLOCKS) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < window && i < model->count; i++) {
            if (model->depth[model->order[i]] > model->depth[model->order[best]]) {
                best = i;
            }
        }
        model_take(model, best);
    }
    model->depth[key] = depth;
    model->order[model->count++] = key;
}

static void prefix_aware_lru_agrees_with_a_list(void **state)
{
    static const uint32_t windows[] = {1, 2, 5, 16, 32, 100};
    (void)state;
    for (size_t w = 0; w < sizeof(windows) / sizeof(windows[0]); w++) {
        struct store *store = make_with_policy("prefix_aware_lru", MODEL_BLOCKS, windows[w], 4);
        struct model model = {.count = 0};
        struct test_rng rng;
        struct named named;
        test_rng_init(&rng, w);
        for (unsigned round = 0; round < (test_is_slow() ? 500 : 2000); round++) {
            uint32_t key = (uint32_t)test_rng_below(&rng, MODEL_KEYS);
            uint32_t depth = (uint32_t)test_rng_below(&rng, 6);
            uint32_t at = model_find(&model, key);
            bool held = at < model.count;
            struct umbp_key name = name_key(&named, "k", key);
            switch (test_rng_below(&rng, 6)) {
            case 0:
                assert_int_equal(remove_value(store, name), held ? UMBP_OK : UMBP_NOT_FOUND);
                if (held) {
                    model_take(&model, at);
                }
                break;
            case 1:
            case 2:
                assert_int_equal(get_value(store, name, PAGE, key),
                                 held ? UMBP_OK : UMBP_NOT_FOUND);
                if (held) {
                    model_take(&model, at);
                    model.order[model.count++] = key;
                }
                break;
            default:
                assert_int_equal(put_value(store, name, PAGE, key, depth),
                                 held ? UMBP_ALREADY_EXISTS : UMBP_OK);
                if (held) {
                    model_take(&model, at);
                    model.order[model.count++] = key;
                } else {
                    model_put(&model, key, depth, windows[w]);
                }
            }
            if (round % 5 == 0) {
                for (uint32_t k = 0; k < MODEL_KEYS; k++) {
                    assert_int_equal(holds(store, name_key(&named, "k", k)),
                                     model_find(&model, k) < model.count);
                }
            }
        }
        finish_store(store);
    }
}

/* 64 hex digits that tell one page. */
static void page_name(char *to, unsigned page)
{
    (void)snprintf(to, 65, "%064x", 0xabc000u + page);
}

static struct umbp_key page_key(struct named *named, unsigned page, const char *suffix)
{
    char hash[65];
    page_name(hash, page);
    int bytes = snprintf(named->text, sizeof(named->text), "%s%s", hash, suffix);
    named->key = (struct umbp_key){named->text, (size_t)bytes};
    return named->key;
}

static void the_keys_of_one_page_leave_together(void **state)
{
    static const char *const suffixes[] = {"_0_k", "_0_v", "_1_k",   "_1_v",
                                           "",     "_3",   "_0_1_k", "__k"};
    struct store *store = make_with_policy("prefix_aware_lru", 32, 4, 4);
    struct named named;
    (void)state;
    for (unsigned page = 0; page < 4; page++) {
        for (size_t s = 0; s < 8; s++) {
            assert_ok(put_value(store, page_key(&named, page, suffixes[s]), PAGE, s, page));
        }
    }
    /* One member of page 0 is as fresh as can be; its page goes with the oldest all the same. */
    assert_ok(get_value(store, page_key(&named, 0, "_1_v"), PAGE, 3));
    assert_ok(put_value(store, text_key("new"), PAGE, 1, 0));
    for (size_t s = 0; s < 8; s++) {
        assert_false(holds(store, page_key(&named, 0, suffixes[s])));
        assert_true(holds(store, page_key(&named, 1, suffixes[s])));
    }
    finish_store(store);
}

static void keys_of_another_naming_leave_one_by_one(void **state)
{
    static const char *const suffixes[] = {"_x", "_0_k_", "_k_v", "_0_0_0_k",
                                           "-0", "_0_kv", "f",    "_a_k"};
    struct store *store = make_with_policy("prefix_aware_lru", 8, 8, 4);
    struct named named;
    (void)state;
    for (size_t s = 0; s < 8; s++) {
        assert_ok(put_value(store, page_key(&named, 1, suffixes[s]), PAGE, s, 5));
    }
    assert_ok(put_value(store, text_key("new"), PAGE, 1, 0));
    assert_int_equal(stat_of(store, "keys"), 8);
    finish_store(store);
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

/* Keys of one page share a place in the index, and each look walks past all of them. */
static void no_client_can_give_a_page_any_number_of_keys(void **state)
{
    enum {
        RANKS = 130,
        FORMS = 6,
        KEYS = RANKS * RANKS * FORMS
    };
    static const char *const forms[FORMS] = {"_%u_%u_k", "_%u_%u_v",   "_%u_%u",
                                             "_0%u_%u",  "_%u_00%u_k", "_%u%010u_v"};
    struct store *store = make_with_policy("prefix_aware_lru", 4, 16, 4);
    uint64_t *places = malloc(KEYS * sizeof(*places));
    size_t count = 0;
    (void)state;
    assert_non_null(places);
    for (unsigned i = 0; i < RANKS * RANKS; i++) {
        for (unsigned form = 0; form < FORMS; form++) {
            struct named named;
            char suffix[64];
            /* NOLINTNEXTLINE: the formats are those above */
            (void)snprintf(suffix, sizeof(suffix), forms[form], i / RANKS, i % RANKS);
            places[count++] = index_print(store, page_key(&named, 5, suffix)).low;
        }
    }
    qsort(places, count, sizeof(*places), compare_u64);
    size_t most = 0;
    for (size_t first = 0, end; first < count; first = end) {
        for (end = first; end < count && places[end] == places[first]; end++) {
        }
        most = end - first > most ? end - first : most;
    }
    assert_true(most <= 4096);
    assert_true(most >= 3 * 32 * 32); /* the ranks of one node stay together */
    free(places);
    finish_store(store);
}

static void a_pinned_key_stays_when_its_page_leaves(void **state)
{
    struct store *store = make_with_policy("prefix_aware_lru", 8, 4, 4);
    struct store_pin pin;
    struct named named;
    (void)state;
    for (unsigned page = 0; page < 4; page++) {
        assert_ok(put_value(store, page_key(&named, page, "_0_k"), PAGE, page, 0));
        assert_ok(put_value(store, page_key(&named, page, "_0_v"), PAGE, page, 0));
    }
    assert_ok(store_pin(store, page_key(&named, 0, "_0_v"), 0, true, &pin));
    assert_ok(put_value(store, text_key("new"), PAGE, 1, 0));
    assert_false(holds(store, page_key(&named, 0, "_0_k")));
    assert_true(holds(store, page_key(&named, 0, "_0_v")));
    assert_true(holds(store, page_key(&named, 1, "_0_k")));
    store_unpin(store, &pin);
    finish_store(store);
}

/* ------------------------------------------------------------------------------- s3fifo ---- */

static unsigned hot_that_survive_a_scan(const char *policy)
{
    struct store *store = make_with_policy(policy, 128, 16, 4);
    struct named named;
    unsigned survivors = 0;
    for (uint64_t i = 0; i < 64; i++) {
        assert_ok(put_value(store, name_key(&named, "hot", i), PAGE, i, 0));
    }
    for (unsigned round = 0; round < 3; round++) {
        for (uint64_t i = 0; i < 64; i++) {
            assert_ok(get_value(store, name_key(&named, "hot", i), PAGE, i));
        }
    }
    for (uint64_t i = 0; i < 2000; i++) {
        assert_ok(put_value(store, name_key(&named, "scan", i), PAGE, i, 0));
    }
    for (uint64_t i = 0; i < 64; i++) {
        survivors += holds(store, name_key(&named, "hot", i));
    }
    finish_store(store);
    return survivors;
}

static void a_scan_does_not_flush_the_hot_set_of_s3fifo(void **state)
{
    (void)state;
    assert_int_equal(hot_that_survive_a_scan("s3fifo"), 64);
    assert_int_equal(hot_that_survive_a_scan("lru"), 0); /* which is what makes it worth having */
}

static void values_not_used_twice_leave_s3fifo_first(void **state)
{
    struct store *store = make_with_policy("s3fifo", 64, 16, 4);
    struct named named;
    (void)state;
    /* Every other value is used twice more, the rest once, and all are of the same age. */
    for (uint64_t i = 0; i < 64; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), PAGE, i, 0));
    }
    for (uint64_t i = 0; i < 64; i++) {
        for (uint64_t uses = 0; uses <= (i % 2 == 0); uses++) {
            assert_ok(get_value(store, name_key(&named, "k", i), PAGE, i));
        }
    }
    for (uint64_t i = 0; i < 32; i++) {
        assert_ok(put_value(store, name_key(&named, "new", i), PAGE, i, 0));
    }
    for (uint64_t i = 0; i < 64; i++) {
        assert_int_equal(holds(store, name_key(&named, "k", i)), i % 2 == 0);
    }
    finish_store(store);
}

static void a_key_that_comes_back_soon_joins_the_main_queue_of_s3fifo(void **state)
{
    struct store *store = make_with_policy("s3fifo", 64, 16, 1);
    struct named named;
    (void)state;
    for (uint64_t i = 0; i < 40; i++) { /* a main queue to speak of */
        assert_ok(put_value(store, name_key(&named, "m", i), PAGE, i, 0));
        assert_ok(get_value(store, name_key(&named, "m", i), PAGE, i));
    }
    assert_ok(put_value(store, text_key("back"), PAGE, 1, 0));
    for (uint64_t i = 0; holds(store, text_key("back")); i++) {
        assert_true(i < 1000);
        assert_ok(put_value(store, name_key(&named, "a", i), PAGE, i, 0));
    }
    assert_ok(put_value(store, text_key("back"), PAGE, 1, 0));
    assert_ok(put_value(store, text_key("once"), PAGE, 1, 0));
    for (uint64_t i = 0; i < 100; i++) {
        assert_ok(put_value(store, name_key(&named, "b", i), PAGE, i, 0));
    }
    assert_true(holds(store, text_key("back")));
    assert_false(holds(store, text_key("once")));
    finish_store(store);
}

static void s3fifo_lets_even_the_hot_go_when_nothing_else_is_left(void **state)
{
    struct store *store = make_with_policy("s3fifo", 32, 16, 4);
    struct named named;
    (void)state;
    for (uint64_t i = 0; i < 32; i++) {
        assert_ok(put_value(store, name_key(&named, "k", i), PAGE, i, 0));
        for (unsigned use = 0; use < 5; use++) {
            assert_ok(get_value(store, name_key(&named, "k", i), PAGE, i));
        }
    }
    assert_ok(put_value(store, text_key("all"), 32 * PAGE, 1, 0));
    assert_int_equal(stat_of(store, "keys"), 1);
    finish_store(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(policies_are_listed_by_name_and_no_other_is_taken),
        cmocka_unit_test(the_deepest_of_the_coldest_goes_first),
        cmocka_unit_test(an_unknown_depth_counts_as_the_roots),
        cmocka_unit_test(a_prefix_outlives_its_continuation),
        cmocka_unit_test(prefix_aware_lru_agrees_with_a_list),
        cmocka_unit_test(the_keys_of_one_page_leave_together),
        cmocka_unit_test(keys_of_another_naming_leave_one_by_one),
        cmocka_unit_test(no_client_can_give_a_page_any_number_of_keys),
        cmocka_unit_test(a_pinned_key_stays_when_its_page_leaves),
        cmocka_unit_test(a_scan_does_not_flush_the_hot_set_of_s3fifo),
        cmocka_unit_test(values_not_used_twice_leave_s3fifo_first),
        cmocka_unit_test(a_key_that_comes_back_soon_joins_the_main_queue_of_s3fifo),
        cmocka_unit_test(s3fifo_lets_even_the_hot_go_when_nothing_else_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
