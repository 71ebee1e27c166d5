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

/*
 * What surrounds a client of a case: other processes. Where values live in one of these
 * (has_values) what umbp.h says of "the store" is said of that process's: its statistics count,
 * clear is its own affair, and the list of what this process holds is empty.
 */
struct contract_owner {
    bool has_values;
    /* Fresh ones, with the suite's options; options of the client in `client_options_out`, at most
     * CONTRACT_OWNER_OPTIONS with the NULL. */
    void (*begin)(const char *const *options, const char **client_options_out);
    void (*end)(void);
    uint64_t (*stat)(const char *name); /* has_values */
    enum umbp_status (*clear)(void);    /* has_values */
};
#define CONTRACT_OWNER_OPTIONS 16

struct contract_factory {
    const char *name;
    enum umbp_deployment deployment;
    bool is_distributed;
    bool supports_ranges;
    /* Options beside those of the suite, NULL-ended. */
    const char *const *options;
    /* Whether clients get a folder of their own as ssd.dir. */
    bool has_ssd;
    /* What is known before the store is asked is counted elsewhere: pairs of a statistic, and one
     * that is added to it, NULL-ended; NULL: none. */
    const char *const *also_counts;
    /* Masters hear of a clear a moment later; until then a key may exist that no get finds. */
    bool exists_trails;
    /* NULL: there is nothing but the client. */
    const struct contract_owner *owner;
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
/* Only destroys, and checks that descriptors and threads are given back. */
void fixture_end(struct fixture *fixture);
const struct contract_factory *contract_factory(void);
/* Of who holds the values. */
uint64_t fixture_stat(struct fixture *fixture, const char *name);
void fixture_stat_becomes(struct fixture *fixture, const char *name, uint64_t value);
void fixture_stat_reaches(struct fixture *fixture, const char *name, uint64_t value);
enum umbp_status fixture_clear(struct fixture *fixture);
/* Fails the case unless the key is gone; if `exists_trails`, within a moment. */
void fixture_is_gone(struct fixture *fixture, struct umbp_key key);

int contract_run_singles(void);
int contract_run_batches(void);
int contract_run_ranges(void);
int contract_run_upkeep(void);
int contract_run_life(void);

#define CONTRACT_TESTS(name, tests)                                                                \
    _cmocka_run_group_tests(name, tests, sizeof(tests) / sizeof((tests)[0]), NULL, NULL)

#endif
