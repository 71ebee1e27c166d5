/* SPDX-License-Identifier: Apache-2.0 */
#include "contract.h"

#include <stdio.h>
#include <string.h>

#define OPTIONS_MAX 64

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
    fixture.client = test_client(all);
    return fixture;
}

void fixture_close(struct fixture *fixture)
{
    assert_ok(umbp_clear(fixture->client));
    test_stat_becomes(fixture->client, "keys", 0);
    test_stat_becomes(fixture->client, "dram.bytes_used", 0);
    test_stat_becomes(fixture->client, "index.entries", 0);
    assert_int_equal(test_stat(fixture->client, "reservations"), 0);
    assert_ok(umbp_client_close(fixture->client, 0));
    umbp_client_destroy(fixture->client);
    test_holdings_are_back(fixture->before);
    test_dir_remove(fixture->directory);
    memset(fixture, 0, sizeof(*fixture));
}

int contract_run(const struct contract_factory *which)
{
    int failed = 0;
    factory = which;
    printf("contract of %s\n", which->name);
    failed += contract_run_singles();
    failed += contract_run_batches();
    failed += contract_run_ranges();
    failed += contract_run_upkeep();
    failed += contract_run_life();
    return failed;
}
