/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tests of the public interface share: a client from a list of options, values whose bytes
 * follow from a tag, statistics by name, and a count of what must be given back. Linked into tests
 * of the inside too. A helper that says "fails the test" does so through cmocka.
 */
#ifndef TEST_SUPPORT_CLIENT_H
#define TEST_SUPPORT_CLIENT_H

#include "support.h"

#include <umbp/umbp.h>

/* Options as {"dram.bytes", "4MiB", ..., NULL}, in order, later ones over earlier ones. Fails the
 * test on a name or value that is none. */
struct umbp_config *test_config(const char *const *options);
/* A client of these options; fails the test if there is none. */
struct umbp_client *test_client(const char *const *options);
/* Only tries. `error_out` takes at least 256 bytes. */
enum umbp_status test_client_try(const char *const *options, struct umbp_client **client_out,
                                 char *error_out);

static inline struct umbp_key test_key_bytes(const void *data, size_t bytes)
{
    return (struct umbp_key){data, bytes};
}
struct umbp_key test_key(const char *text); /* borrows the text */
/* "<prefix>-<number>" in the caller's buffer. */
#define TEST_KEY_ROOM 64
struct umbp_key test_key_number(char room[TEST_KEY_ROOM], const char *prefix, uint64_t number);

/* Put `bytes` bytes of test_fill(tag). */
enum umbp_status test_put(struct umbp_client *client, struct umbp_key key, uint64_t bytes,
                          uint64_t tag);
/* Get them; fails the test when the status is UMBP_OK and a byte is wrong. */
enum umbp_status test_get(struct umbp_client *client, struct umbp_key key, uint64_t bytes,
                          uint64_t tag);

/* A statistic; fails the test if there is none of that name. */
uint64_t test_stat(struct umbp_client *client, const char *name);
/* Wait up to 20 s until it is `value`; fails the test, and says what it is, if it is not. */
void test_stat_becomes(struct umbp_client *client, const char *name, uint64_t value);
/* The same until it is at least `value`. */
void test_stat_reaches(struct umbp_client *client, const char *name, uint64_t value);

/* What the process holds; compared after a test has given everything back. */
struct test_holdings {
    unsigned fds;
    unsigned threads;
};
struct test_holdings test_holdings(void);
/* Fails the test if there are more threads (after a moment) or other descriptors than before. */
void test_holdings_are_back(struct test_holdings before);

#endif
