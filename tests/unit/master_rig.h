/* SPDX-License-Identifier: Apache-2.0 */
/* What the master's tests share: a clock that the test moves, and short ways to say things. */
#ifndef MASTER_RIG_H
#define MASTER_RIG_H

#include "support.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "master/master.h"

#define GIB_ (UINT64_C(1) << 30)
#define MIB_ (UINT64_C(1) << 20)

struct test_clock {
    struct clock_source source;
    _Atomic uint64_t now;
};

static uint64_t test_clock_read(void *context)
{
    return atomic_load(&((struct test_clock *)context)->now);
}

static inline void clock_start(struct test_clock *clock)
{
    clock->source = (struct clock_source){test_clock_read, clock};
    atomic_store(&clock->now, 1000 * NS_PER_S);
}

static inline void clock_move_ms(struct test_clock *clock, uint64_t ms)
{
    atomic_fetch_add(&clock->now, ms * NS_PER_MS);
}

static inline struct master_options rig_options(struct test_clock *clock)
{
    struct master_options options;
    master_options_default(&options);
    clock_start(clock);
    options.clock = &clock->source;
    options.seed = test_seed() | 1;
    options.incarnation = 77;
    return options;
}

static inline struct master *rig_create(const struct master_options *options)
{
    struct master *master;
    char error[128];
    assert_ok(master_create(options, &master, error, sizeof(error)));
    return master;
}

/* Set: fingerprints that crowd the upper half, which a table must bear. */
static bool print_is_crowded;

static inline struct fingerprint print_of(uint64_t key)
{
    struct fingerprint print = hash_key(&key, sizeof(key), 5);
    print.high = print_is_crowded ? print.high >> 1 | UINT64_C(1) << 63 : print.high;
    return print;
}

static inline struct master_capacity room(uint64_t total, uint64_t available)
{
    return (struct master_capacity){.total_bytes = total, .available_bytes = available};
}

static inline struct master_registration dram_node(const char *id, uint64_t incarnation,
                                                   uint64_t available)
{
    struct master_registration registration = {
        .id = master_text_of(id),
        .incarnation = incarnation,
        .node_address = master_text_of("10.0.0.1:1"),
        .peer_address = master_text_of("10.0.0.1:2"),
        .fabric_address = master_text_of("fi_sockaddr_in://10.0.0.1:3"),
        .has_capacities = true,
    };
    registration.capacities[MASTER_TIER_DRAM] = room(100 * GIB_, available);
    return registration;
}

static inline uint32_t join(struct master *master, const char *id, uint64_t incarnation)
{
    struct master_registration registration = dram_node(id, incarnation, 50 * GIB_);
    struct master_registered registered;
    assert_ok(master_register(master, &registration, &registered));
    return registered.node;
}

static inline struct master_event event(bool is_add, uint64_t key, enum master_tier tier)
{
    return (struct master_event){
        .print = print_of(key),
        .bytes = 1000 + key,
        .tier = (uint8_t)tier,
        .is_add = is_add,
        .depth = UMBP_DEPTH_NONE,
    };
}

/* One bundle. */
static inline struct master_beat_answer tell(struct master *master, const char *id,
                                             uint64_t incarnation, uint64_t sequence,
                                             const struct master_event *events, size_t count)
{
    struct master_bundle bundle = {sequence, events, count};
    struct master_beat beat = {.id = master_text_of(id),
                               .incarnation = incarnation,
                               .bundles = &bundle,
                               .bundle_count = 1};
    struct master_beat_answer answer;
    assert_ok(master_beat(master, &beat, &answer));
    return answer;
}

static inline enum umbp_status beat_only(struct master *master, const char *id,
                                         uint64_t incarnation, struct master_beat_answer *answer)
{
    struct master_beat beat = {.id = master_text_of(id), .incarnation = incarnation};
    return master_beat(master, &beat, answer);
}

static inline struct master_beat_answer chunk(struct master *master, const char *id,
                                              uint64_t incarnation, uint64_t sync_id,
                                              uint32_t number, bool is_last, uint64_t baseline,
                                              const struct master_event *events, size_t count)
{
    struct master_bundle bundle = {0, events, count};
    struct master_beat beat = {.id = master_text_of(id),
                               .incarnation = incarnation,
                               .bundles = &bundle,
                               .bundle_count = 1,
                               .is_full_sync = true,
                               .is_last = is_last,
                               .chunk = number,
                               .sync_id = sync_id,
                               .baseline = baseline};
    struct master_beat_answer answer;
    assert_ok(master_beat(master, &beat, &answer));
    return answer;
}

static inline bool holds(struct master *master, uint64_t key)
{
    struct fingerprint print = print_of(key);
    uint8_t found;
    assert_ok(master_lookup(master, &print, 1, &found));
    return found;
}

static inline struct master_route get(struct master *master, uint64_t key)
{
    const struct master_caller caller = {0};
    struct fingerprint print = print_of(key);
    struct master_route route;
    assert_ok(master_route_get(master, &caller, &print, 1, &route));
    return route;
}

/* Ticks until nothing is left to do at this time. */
static inline void settle(struct master *master)
{
    for (int i = 0; i < 100000 && master_tick(master) <= NS_PER_MS; i++) {
    }
}

struct metric_question {
    const char *name;
    const char *label; /* value of any label, or NULL */
    double sum;
    unsigned count;
};

static void metric_visit(void *context, const struct master_metric *metric)
{
    struct metric_question *question = context;
    bool fits = !question->label;
    for (size_t i = 0; i < metric->label_count; i++) {
        fits |= question->label && strcmp(metric->labels[i].value, question->label) == 0;
    }
    if (fits && strcmp(metric->name, question->name) == 0) {
        question->sum += metric->value;
        question->count++;
    }
}

static inline double metric_value(struct master *master, const char *name, const char *label)
{
    struct metric_question question = {name, label, 0, 0};
    assert_ok(master_metrics(master, metric_visit, &question));
    return question.sum;
}

#endif
