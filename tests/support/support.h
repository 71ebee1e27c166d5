/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every test program may lean on. It needs nothing of the library, so that tests of the inside
 * and tests of the interface share it. cmocka's headers come with it. Thread-safe unless said.
 */
#ifndef TEST_SUPPORT_H
#define TEST_SUPPORT_H

/* cmocka.h wants these first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Evaluated once; prints the status's number. For enum umbp_status, which must be used. */
#define assert_ok(call) assert_int_equal((call), 0)
#define assert_status(call, status) assert_int_equal((call), (status))

/* ---- temporary folders ---- */

/* A new empty folder under TMPDIR (or /tmp). The string is the caller's, until test_dir_remove.
 * Each one left is removed when the program ends by itself. */
char *test_dir_create(void);
/* Removes the folder with all that is in it, and frees the string. Takes NULL. */
void test_dir_remove(char *path);
/* "<folder>/<name>" in malloc'ed memory; the caller frees it. */
char *test_path(const char *folder, const char *name);

/* ---- random numbers ---- */

/* The program's seed: UMBP_TEST_SEED, else a fixed one; the first call prints it.
 * UMBP_TEST_SEED=random takes one from the clock. */
uint64_t test_seed(void);

struct test_rng {
    uint64_t state;
};
/* `stream` tells the tests (or threads) of a program apart. */
void test_rng_init(struct test_rng *rng, uint64_t stream);
uint64_t test_rng_next(struct test_rng *rng);
uint64_t test_rng_below(struct test_rng *rng, uint64_t bound); /* 0..bound-1 */
/* Bytes that depend on `tag` and position only, so that a reader can check what a writer wrote. */
void test_fill(void *data, size_t bytes, uint64_t tag);
/* Whether they are as test_fill wrote them; on false prints the first difference. */
bool test_check_fill(const void *data, size_t bytes, uint64_t tag);

/* ---- waiting ---- */

/* For what comes at once, but on a machine that is slow and busy: only a hang takes longer. */
#define TEST_WAIT_MS 60000u

/* Poll until `condition` is true; false when it is not within `timeout_ms`. */
bool test_wait_until(bool (*condition)(void *context), void *context, unsigned timeout_ms);
/* CLOCK_MONOTONIC. */
uint64_t test_now_ns(void);
void test_sleep_ms(unsigned ms); /* to make a race likely, never to make a test pass */

/* ---- leaks ---- */

unsigned test_fd_count(void);
unsigned test_thread_count(void);
/* A joined thread is in /proc a moment longer: wait until at most `count` are left. */
bool test_threads_settle(unsigned count);
/* Bytes of memory that the process holds resident. */
size_t test_resident_bytes(void);

/* True under AddressSanitizer, ThreadSanitizer or valgrind: use smaller rounds, no timing limits.
 */
bool test_is_slow(void);
/* What it does not have: io_uring as a test of its own would use it. */
bool test_is_valgrind(void);

#endif
