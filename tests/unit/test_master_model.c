/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random operations against a model that is too simple to be wrong: an array of who holds which key
 * at which tier. After each step a sample is compared, now and then everything.
 */
#include "master_rig.h"

#define NODES 6
#define KEYS 3000
#define TIERS 3

struct model_node {
    char id[8];
    bool is_member; /* known to the master, perhaps expired */
    bool is_alive;
    uint64_t incarnation;
    uint64_t sequence;
    uint64_t sync_id;
    bool is_syncing;
    uint32_t next_chunk;
    uint32_t handle;
    uint64_t last_beat_ms;
    bool wants_sync;
    uint8_t view[KEYS];    /* tiers that should show, bit t - 1 */
    uint8_t listing[KEYS]; /* of the sync under way */
    uint8_t external[KEYS];
};

struct model {
    struct test_clock clock;
    struct master *master;
    struct model_node nodes[NODES];
    uint64_t hits[KEYS];
    uint64_t next_incarnation;
    uint64_t now_ms;
    struct test_rng rng;
};

static uint64_t below(struct model *model, uint64_t bound)
{
    return test_rng_below(&model->rng, bound);
}

static enum master_tier some_tier(struct model *model)
{
    return (enum master_tier)(1 + below(model, TIERS));
}

/* ---- steps ---- */

static void wipe(struct model_node *node)
{
    memset(node->view, 0, sizeof(node->view));
    memset(node->external, 0, sizeof(node->external));
    node->is_syncing = false;
}

static void step_register(struct model *model, struct model_node *node)
{
    uint64_t incarnation =
        below(model, 3) == 0 && node->incarnation ? node->incarnation : ++model->next_incarnation;
    struct master_registration registration = dram_node(node->id, incarnation, 50 * GIB_);
    struct master_registered registered;
    bool is_retry = node->is_alive && incarnation == node->incarnation;
    enum umbp_status status = master_register(model->master, &registration, &registered);
    if (node->is_alive && !is_retry) {
        assert_int_equal(status, UMBP_BUSY);
        return;
    }
    assert_int_equal(status, UMBP_OK);
    if (!is_retry) {
        wipe(node);
        node->sequence = 0;
        node->sync_id = 0;
        node->wants_sync = true;
    }
    node->is_member = node->is_alive = true;
    node->incarnation = incarnation;
    node->handle = registered.node;
    node->last_beat_ms = model->now_ms;
    assert_int_equal(registered.acked_sequence, node->sequence);
    assert_int_equal(registered.wants_full_sync, node->wants_sync);
}

static void step_unregister(struct model *model, struct model_node *node)
{
    assert_ok(master_unregister(model->master, master_text_of(node->id), node->incarnation));
    wipe(node);
    node->is_member = node->is_alive = false;
}

/* The beat's side effects on membership, which every beat has. */
static bool beat_arrives(struct model *model, struct model_node *node)
{
    if (!node->is_member) {
        struct master_beat_answer answer;
        assert_status(beat_only(model->master, node->id, node->incarnation, &answer),
                      UMBP_NOT_FOUND);
        return false;
    }
    if (!node->is_alive) {
        node->is_alive = true;
        node->wants_sync = true;
    }
    node->last_beat_ms = model->now_ms;
    return true;
}

static void step_delta(struct model *model, struct model_node *node)
{
    struct master_event events[64];
    size_t count = below(model, 64);
    uint64_t kind = below(model, 12); /* mostly the next bundle; else a repetition or a gap */
    uint64_t sequence = node->sequence + (kind == 0 ? 0 : kind == 1 ? 2 : 1);
    for (size_t i = 0; i < count; i++) {
        events[i] = event(below(model, 5) < 3, below(model, KEYS), some_tier(model));
        events[i].bytes = 500;
        events[i].depth = (uint32_t)below(model, 100);
    }
    if (!beat_arrives(model, node)) {
        return;
    }
    struct master_beat_answer answer =
        tell(model->master, node->id, node->incarnation, sequence, events, count);
    if (!node->is_syncing && kind > 1) {
        node->sequence = sequence;
        for (size_t i = 0; i < count; i++) {
            for (uint32_t key = 0; key < KEYS; key++) {
                struct fingerprint print = print_of(key);
                if (print.low == events[i].print.low) {
                    uint8_t bit = (uint8_t)(1u << (events[i].tier - 1));
                    node->view[key] = (uint8_t)(events[i].is_add ? node->view[key] | bit
                                                                 : node->view[key] & ~bit);
                    break;
                }
            }
        }
    } else if (!node->is_syncing && kind == 1) {
        node->wants_sync = true;
    }
    assert_int_equal(answer.acked_sequence, node->sequence);
    assert_int_equal(answer.wants_full_sync, node->is_syncing || node->wants_sync);
}

/* While a sync is under way a node's keys show what either listing says, by node: a key named again
 * shows the new tiers only. */
static void step_chunk(struct model *model, struct model_node *node)
{
    struct master_event events[600];
    uint32_t keys[600];
    size_t count = below(model, 600);
    bool begins = !node->is_syncing || below(model, 10) == 0;
    bool is_last = below(model, 3) == 0;
    uint64_t baseline = node->sequence + 3;
    if (!beat_arrives(model, node)) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        keys[i] = (uint32_t)below(model, KEYS);
        events[i] = event(true, keys[i], some_tier(model));
        events[i].bytes = 500;
    }
    if (below(model, 8) == 0) { /* out of order, or the middle of an unknown one: nothing happens */
        struct master_beat_answer odd =
            chunk(model->master, node->id, node->incarnation, node->sync_id + begins,
                  begins ? 1 : node->next_chunk + 1, is_last, baseline, events, count);
        assert_int_equal(odd.applied, 0);
        assert_int_equal(odd.acked_sequence, node->sequence);
        return;
    }
    if (begins) {
        node->sync_id++;
        node->next_chunk = 0;
        node->is_syncing = true;
        memset(node->listing, 0, sizeof(node->listing));
    }
    struct master_beat_answer answer =
        chunk(model->master, node->id, node->incarnation, node->sync_id, node->next_chunk, is_last,
              baseline, events, count);
    for (size_t i = 0; i < count; i++) {
        uint8_t bit = (uint8_t)(1u << (events[i].tier - 1));
        node->listing[keys[i]] |= bit;
        node->view[keys[i]] = node->listing[keys[i]];
    }
    node->next_chunk++;
    if (is_last) {
        memcpy(node->view, node->listing, sizeof(node->view));
        node->sequence = baseline;
        node->is_syncing = false;
        node->wants_sync = false;
    }
    assert_int_equal(answer.acked_sequence, node->sequence);
    assert_int_equal(answer.next_chunk, is_last ? 0 : node->next_chunk);
}

static void step_time(struct model *model)
{
    uint64_t ms = below(model, 12000);
    clock_move_ms(&model->clock, ms);
    model->now_ms += ms;
    for (size_t i = below(model, 4); i > 0; i--) {
        master_tick(model->master);
    }
    /* Whoever the tick may or may not have expired by now is made one or the other. */
    for (size_t i = 0; i < NODES; i++) {
        struct model_node *node = &model->nodes[i];
        if (node->is_alive && model->now_ms - node->last_beat_ms > 17000) {
            struct master_beat_answer answer;
            if (below(model, 2) == 0) {
                if (beat_only(model->master, node->id, node->incarnation, &answer) == UMBP_OK) {
                    node->last_beat_ms = model->now_ms;
                }
                continue;
            }
            clock_move_ms(&model->clock, 31000);
            model->now_ms += 31000;
            /* All others beat, this one does not. */
            for (size_t j = 0; j < NODES; j++) {
                if (j != i && model->nodes[j].is_alive) {
                    assert_ok(beat_only(model->master, model->nodes[j].id,
                                        model->nodes[j].incarnation, &answer));
                    model->nodes[j].last_beat_ms = model->now_ms;
                }
            }
            master_tick(model->master);
            wipe(node);
            node->is_alive = false;
            node->wants_sync = true;
        }
    }
}

static void step_external(struct model *model, struct model_node *node)
{
    struct fingerprint prints[200];
    uint32_t keys[200];
    size_t count = below(model, 200);
    enum master_tier tier = some_tier(model);
    uint8_t bit = (uint8_t)(1u << (tier - 1));
    struct master_text id = master_text_of(node->id);
    for (size_t i = 0; i < count; i++) {
        keys[i] = (uint32_t)below(model, KEYS);
        prints[i] = print_of(keys[i]);
    }
    switch (below(model, 8)) {
    case 0:
        assert_ok(master_external_revoke_all(model->master, id, tier));
        for (uint32_t key = 0; key < KEYS; key++) {
            node->external[key] &= (uint8_t)~bit;
        }
        return;
    case 1:
        assert_ok(master_external_revoke_all(model->master, id, MASTER_TIER_NONE));
        memset(node->external, 0, sizeof(node->external));
        return;
    case 2:
    case 3:
        assert_ok(master_external_revoke(model->master, id, prints, count, tier));
        for (size_t i = 0; i < count; i++) {
            node->external[keys[i]] &= (uint8_t)~bit;
        }
        return;
    default:
        assert_status(master_external_report(model->master, id, prints, count, tier),
                      node->is_alive ? UMBP_OK : UMBP_NOT_FOUND);
        for (size_t i = 0; node->is_alive && i < count; i++) {
            node->external[keys[i]] |= bit;
        }
    }
}

/* ---- comparison ---- */

static bool anybody_has(const struct model *model, uint32_t key)
{
    for (size_t i = 0; i < NODES; i++) {
        if (model->nodes[i].view[key]) {
            return true;
        }
    }
    return false;
}

static const struct model_node *node_of(const struct model *model, uint32_t handle)
{
    for (size_t i = 0; i < NODES; i++) {
        if (model->nodes[i].is_alive && model->nodes[i].handle == handle) {
            return &model->nodes[i];
        }
    }
    return NULL;
}

static uint32_t fastest(const struct model *model, uint32_t key, uint32_t except)
{
    uint32_t best = 4;
    for (size_t i = 0; i < NODES; i++) {
        uint8_t tiers = model->nodes[i].handle == except ? 0 : model->nodes[i].view[key];
        if (tiers && (uint32_t)__builtin_ctz(tiers) + 1 < best) {
            best = (uint32_t)__builtin_ctz(tiers) + 1;
        }
    }
    return best;
}

static void compare_keys(struct model *model, const uint32_t *keys, size_t count)
{
    struct fingerprint prints[128];
    struct master_route routes[128];
    uint8_t found[128];
    uint32_t except = model->nodes[below(model, NODES)].handle;
    struct master_caller caller = {.excludes = &except, .exclude_count = below(model, 2)};
    for (size_t i = 0; i < count; i++) {
        prints[i] = print_of(keys[i]);
    }
    assert_ok(master_lookup(model->master, prints, count, found));
    assert_ok(master_route_get(model->master, &caller, prints, count, routes));
    for (size_t i = 0; i < count; i++) {
        uint32_t tier = fastest(model, keys[i], caller.exclude_count ? except : 0);
        assert_int_equal(found[i], anybody_has(model, keys[i]));
        assert_int_equal(routes[i].outcome, tier < 4 ? MASTER_ROUTED : MASTER_UNAVAILABLE);
        if (tier < 4) {
            const struct model_node *node = node_of(model, routes[i].node);
            assert_non_null(node);
            assert_true(!caller.exclude_count || routes[i].node != except);
            assert_int_equal(routes[i].tier, tier);
            assert_true(node->view[keys[i]] >> (tier - 1) & 1);
            assert_int_equal(routes[i].bytes, 500);
        }
    }
}

static void compare_external(struct model *model, const uint32_t *keys, size_t count)
{
    struct fingerprint prints[128];
    uint64_t hits[128];
    struct master_matches matches;
    bool counts = below(model, 2) == 0;
    size_t rows = 0;
    size_t distinct = 0;
    uint64_t seen[128];
    for (size_t i = 0; i < count; i++) {
        prints[i] = print_of(keys[i]);
    }
    assert_ok(master_external_match(model->master, prints, count, counts, &matches));
    for (size_t i = 0; i < count; i++) {
        bool found = false;
        bool repeated = false;
        for (size_t j = 0; j < i; j++) {
            repeated |= keys[j] == keys[i];
        }
        for (size_t n = 0; n < NODES; n++) {
            rows += (size_t)__builtin_popcount(model->nodes[n].external[keys[i]]);
            found |= model->nodes[n].external[keys[i]] != 0;
        }
        distinct += found;
        model->hits[keys[i]] += counts && found && !repeated;
        seen[i] = repeated;
    }
    assert_int_equal(matches.count, rows);
    assert_int_equal(matches.distinct, distinct);
    for (size_t i = 0; i < matches.count; i++) {
        const struct master_match_row *row = &matches.rows[i];
        const struct model_node *node = node_of(model, row->node);
        assert_non_null(node);
        assert_true(node->external[keys[row->item]] >> (row->tier - 1) & 1);
    }
    master_matches_free(&matches);
    assert_ok(master_external_hits(model->master, prints, count, hits));
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(hits[i], seen[i] ? 0 : model->hits[keys[i]]);
    }
}

static void compare_counts(struct model *model)
{
    struct master_node_info *info = malloc(sizeof(*info));
    for (size_t i = 0; i < NODES; i++) {
        struct model_node *node = &model->nodes[i];
        uint64_t want[4] = {0};
        for (uint32_t key = 0; key < KEYS; key++) {
            for (uint32_t tier = 1; tier <= TIERS; tier++) {
                want[tier] += node->view[key] >> (tier - 1) & 1;
            }
        }
        if (!node->is_member) {
            assert_status(master_node_info(model->master, master_text_of(node->id), info),
                          UMBP_NOT_FOUND);
            continue;
        }
        assert_ok(master_node_info(model->master, master_text_of(node->id), info));
        assert_int_equal(info->state, node->is_alive ? MASTER_NODE_ALIVE : MASTER_NODE_EXPIRED);
        for (uint32_t tier = 1; tier <= TIERS; tier++) {
            assert_int_equal(info->keys[tier], want[tier]);
        }
    }
    free(info);
}

static void compare_all(struct model *model)
{
    uint32_t keys[128];
    for (uint32_t first = 0; first < KEYS; first += 128) {
        size_t count = KEYS - first < 128 ? KEYS - first : 128;
        for (size_t i = 0; i < count; i++) {
            keys[i] = first + (uint32_t)i;
        }
        compare_keys(model, keys, count);
        compare_external(model, keys, count);
    }
    compare_counts(model);
}

static void compare_some(struct model *model)
{
    uint32_t keys[32];
    for (size_t i = 0; i < 32; i++) {
        keys[i] = (uint32_t)below(model, KEYS);
    }
    compare_keys(model, keys, 32);
    compare_external(model, keys, 32);
}

/* All that is left in memory is what shows, once the sweep has passed. */
static void compare_swept(struct model *model)
{
    uint64_t keys = 0;
    settle(model->master);
    settle(model->master);
    for (uint32_t key = 0; key < KEYS; key++) {
        keys += anybody_has(model, key);
    }
    assert_int_equal((uint64_t)metric_value(model->master, "umbp_master_index_keys", NULL), keys);
}

static void run(uint64_t stream, unsigned steps)
{
    struct model *model = calloc(1, sizeof(*model));
    struct master_options options = rig_options(&model->clock);
    test_rng_init(&model->rng, stream);
    options.index_shards = 1u << below(model, 6);
    options.hit_index_ttl_sec = 1000000;
    options.hit_index_gc_interval_sec = 1;
    options.forget_after_sec = 1000000000;
    model->master = rig_create(&options);
    for (size_t i = 0; i < NODES; i++) {
        snprintf(model->nodes[i].id, sizeof(model->nodes[i].id), "n%zu", i);
    }
    for (unsigned step = 0; step < steps; step++) {
        struct model_node *node = &model->nodes[below(model, NODES)];
        uint64_t what = below(model, 100);
        if (what < 8) {
            step_register(model, node);
        } else if (what < 10) {
            step_unregister(model, node);
        } else if (what < 55) {
            step_delta(model, node);
        } else if (what < 75) {
            step_chunk(model, node);
        } else if (what < 85) {
            step_external(model, node);
        } else if (what < 90) {
            step_time(model);
        } else {
            master_tick(model->master);
        }
        compare_some(model);
        if (step % 100 == 99) {
            compare_all(model);
        }
        if (step % 500 == 499) {
            compare_swept(model);
        }
    }
    compare_all(model);
    compare_swept(model);
    master_destroy(model->master);
    free(model);
}

static void random_operations_agree_with_the_model(void **state)
{
    unsigned runs = test_is_slow() ? 2 : 8;
    (void)state;
    for (unsigned i = 0; i < runs; i++) {
        print_is_crowded = i % 2;
        run(100 + i, 1000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_agree_with_the_model),
    };
    umbp_log_set(UMBP_LOG_ERROR, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
