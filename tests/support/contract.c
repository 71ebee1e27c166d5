/* SPDX-License-Identifier: Apache-2.0 */
#include "contract.h"

#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#define OPTIONS_MAX 96

static const struct contract_factory *factory;

const struct contract_factory *contract_factory(void) { return factory; }

static size_t add_options(const char **all, size_t count, const char *const *options)
{
    for (; options != NULL && options[0] != NULL; options += 2) {
        assert_true(count + 3 <= OPTIONS_MAX);
        all[count++] = options[0];
        all[count++] = options[1];
    }
    return count;
}

struct fixture fixture_open(const char *const *options)
{
    static const char *const base[] = {
        "dram.bytes", "4MiB", "dram.high_watermark", "1", "dram.low_watermark", "1", "copy.threads",
        "2",          NULL};
    const char *all[OPTIONS_MAX];
    const char *owned[CONTRACT_OWNER_OPTIONS] = {NULL};
    struct fixture fixture = {.before = test_holdings()};
    size_t count = add_options(all, 0, base);
    count = add_options(all, count, factory->options);
    if (factory->has_ssd) {
        fixture.directory = test_dir_create();
        const char *const directory[] = {"ssd.dir", fixture.directory, NULL};
        count = add_options(all, count, directory);
    }
    count = add_options(all, count, options);
    all[count] = NULL;
    if (factory->owner != NULL) {
        factory->owner->begin(all, owned);
        count = add_options(all, count, owned);
        all[count] = NULL;
    }
    fixture.client = test_client(all);
    return fixture;
}

static bool values_are_elsewhere(void)
{
    return factory->owner != NULL && factory->owner->has_values;
}

static uint64_t one_stat(struct fixture *fixture, const char *name)
{
    return values_are_elsewhere() ? factory->owner->stat(name) : test_stat(fixture->client, name);
}

uint64_t fixture_stat(struct fixture *fixture, const char *name)
{
    uint64_t value = one_stat(fixture, name);
    for (const char *const *also = factory->also_counts; also != NULL && *also != NULL; also += 2) {
        if (strcmp(also[0], name) == 0) { /* of the client */
            value += test_stat(fixture->client, also[1]);
        }
    }
    return value;
}

struct gone_wait {
    struct fixture *fixture;
    struct umbp_key key;
};

static bool is_gone(void *context)
{
    struct gone_wait *wait = context;
    return umbp_exists(wait->fixture->client, wait->key) == UMBP_NOT_FOUND;
}

void fixture_is_gone(struct fixture *fixture, struct umbp_key key)
{
    struct gone_wait wait = {fixture, key};
    assert_true(factory->exists_trails ? test_wait_until(is_gone, &wait, 5000) : is_gone(&wait));
}

struct stat_wait {
    struct fixture *fixture;
    const char *name;
    uint64_t value;
    bool at_least;
};

static bool stat_is_there(void *context)
{
    struct stat_wait *wait = context;
    uint64_t now = fixture_stat(wait->fixture, wait->name);
    return wait->at_least ? now >= wait->value : now == wait->value;
}

static void wait_for_stat(struct stat_wait wait)
{
    if (!test_wait_until(stat_is_there, &wait, TEST_WAIT_MS)) {
        fail_msg("%s is %" PRIu64 ", not %" PRIu64 "%s", wait.name,
                 fixture_stat(wait.fixture, wait.name), wait.value,
                 wait.at_least ? " or more" : "");
    }
}

void fixture_stat_becomes(struct fixture *fixture, const char *name, uint64_t value)
{
    wait_for_stat((struct stat_wait){fixture, name, value, false});
}

void fixture_stat_reaches(struct fixture *fixture, const char *name, uint64_t value)
{
    wait_for_stat((struct stat_wait){fixture, name, value, true});
}

enum umbp_status fixture_clear(struct fixture *fixture)
{
    return values_are_elsewhere() ? factory->owner->clear() : umbp_clear(fixture->client);
}

void fixture_end(struct fixture *fixture)
{
    umbp_client_destroy(fixture->client);
    if (factory->owner != NULL) {
        factory->owner->end();
    }
    test_holdings_are_back(fixture->before);
    test_dir_remove(fixture->directory);
    memset(fixture, 0, sizeof(*fixture));
}

void fixture_close(struct fixture *fixture)
{
    assert_ok(fixture_clear(fixture));
    fixture_stat_becomes(fixture, "keys", 0);
    fixture_stat_becomes(fixture, "dram.bytes_used", 0);
    fixture_stat_becomes(fixture, "index.entries", 0);
    fixture_stat_becomes(fixture, "reservations", 0);
    assert_ok(umbp_client_close(fixture->client, 0));
    fixture_end(fixture);
}

int contract_run(const struct contract_factory *which)
{
    int failed = 0;
    factory = which;
    /* Else how many arenas there are, and mappings, depends on which threads met in malloc. */
    (void)mallopt(M_ARENA_MAX, 1);
    printf("contract of %s\n", which->name);
    failed += contract_run_singles();
    failed += contract_run_batches();
    failed += contract_run_ranges();
    failed += contract_run_upkeep();
    failed += contract_run_life();
    return failed;
}
