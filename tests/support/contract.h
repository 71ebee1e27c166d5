/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract of a client: what umbp.h promises, whatever the scheme. A program of tests/api
 * describes how its clients are made and calls contract_run, which runs every case on fresh
 * clients; so each scheme, and each way of setting one up, passes the same suite.
 *
 * Each case ends by clearing and destroying its client, and fails if a page, an index entry, a
 * thread or a descriptor is left.
 */
#ifndef TEST_CONTRACT_H
#define TEST_CONTRACT_H

#include "support_client.h"

#define CONTRACT_DRAM_BYTES (UINT64_C(4) << 20)
#define CONTRACT_PAGE_BYTES (UINT64_C(64) << 10)

struct contract_factory {
    const char *name;
    enum umbp_deployment deployment;
    bool is_distributed;
    bool supports_ranges;
    /* Options beside those of the suite, NULL-ended. */
    const char *const *options;
    /* Whether clients get a folder of their own as ssd.dir. */
    bool has_ssd;
};

/* Runs all; the number of failed cases. */
int contract_run(const struct contract_factory *factory);

/* ---- for the parts of the suite ---- */

struct fixture {
    struct umbp_client *client;
    char *directory;
    struct test_holdings before;
};

/* A client of CONTRACT_DRAM_BYTES, watermarks at 1, and `options` (may be NULL) over that. */
struct fixture fixture_open(const char *const *options);
/* Clears, waits until nothing is held, destroys, and checks that all is given back. */
void fixture_close(struct fixture *fixture);
const struct contract_factory *contract_factory(void);

int contract_run_singles(void);
int contract_run_batches(void);
int contract_run_ranges(void);
int contract_run_upkeep(void);
int contract_run_life(void);

#define CONTRACT_TESTS(name, tests)                                                                \
    _cmocka_run_group_tests(name, tests, sizeof(tests) / sizeof((tests)[0]), NULL, NULL)

#endif
