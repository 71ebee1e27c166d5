/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cluster of real processes: masters (build/umbp_master), and members, which are this very test
 * program run again as a client of the pool scheme that obeys lines on its standard input. A
 * program that uses it begins its main with
 *
 *     if (test_member_wanted(argc, argv)) {
 *         return test_member_main(argc, argv);
 *     }
 *
 * and gives its tests test_cluster_end as their teardown: it kills what is left. Children also die
 * with the test program, however that ends. Every wait has a deadline and fails the test. Not
 * thread-safe, but for what says so.
 *
 * VALUES. Value `number` of a set has the key "<prefix>-<number>", and bytes that follow from
 * prefix and number; so whoever reads it can tell whether it is right.
 */
#ifndef TEST_SUPPORT_CLUSTER_H
#define TEST_SUPPORT_CLUSTER_H

#include "support_client.h"

#include <sys/types.h>

/* ---- masters ---- */

struct test_master {
    pid_t pid;
    int out;
    char address[128]; /* of the gRPC door: pool.masters */
    char fabric[128];
};

/* On 127.0.0.1 with free ports. `arguments` (NULL-ended, may be NULL) come last. */
void test_master_start(struct test_master *master, const char *const *arguments);
/* One that was killed, at the addresses that it had. */
void test_master_again(struct test_master *master, const char *const *arguments);
/* Likewise, but with its fabric door at another port. */
void test_master_moved(struct test_master *master, const char *const *arguments);
/* A namespace of `ip netns` and the address there. */
void test_master_start_in(struct test_master *master, const char *network, const char *host);
/* SIGKILL, and waits for the end. */
void test_master_kill(struct test_master *master);
/* SIGTERM; fails the test unless it ends with 0 within 10 s. */
void test_master_stop(struct test_master *master);

/* ---- sets of values ---- */

struct test_set {
    const char *prefix;
    uint64_t first;
    uint32_t count; /* at most UMBP_BATCH_MAX */
    uint64_t bytes; /* of each */
};

/* How the items of a batch came out. */
struct test_tally {
    unsigned ok; /* put: stored; get: there, with the right bytes */
    unsigned existing;
    unsigned missing;
    unsigned wrong; /* OK with wrong bytes, or bytes changed without OK */
    unsigned failed;
    enum umbp_status failure; /* one of these */
    unsigned ms;              /* that the call took */
};

uint64_t test_set_tag(const char *prefix, uint64_t number);
/* One batch call. Thread-safe; fail no test. */
struct test_tally test_set_put(struct umbp_client *client, struct test_set set);
struct test_tally test_set_get(struct umbp_client *client, struct test_set set);
struct test_tally test_set_exists(struct umbp_client *client, struct test_set set);

/* Puts and gets of random values by threads, until stopped: of the sets "load0" to "load7", numbers
 * 0 to keys + TEST_LOAD_BATCH. */
#define TEST_LOAD_KINDS 8u
#define TEST_LOAD_BATCH 24u
struct test_load;
/* What a call may take beyond its deadline on a machine that is slow: less than a call that hangs.
 */
#define TEST_SLACK_MS 30000u

struct test_load_result {
    uint64_t calls;
    uint64_t ok; /* items that were stored or found */
    uint64_t missing;
    uint64_t failed;
    uint64_t wrong;
    enum umbp_status failure;
    unsigned slowest_ms;
};
struct test_load *test_load_start(struct umbp_client *client, unsigned threads, uint64_t seed,
                                  uint64_t keys);
struct test_load_result test_load_now(const struct test_load *load);
struct test_load_result test_load_stop(struct test_load *load);

/* ---- members ---- */

#define TEST_MEMBER_LINE 2048

struct test_member {
    pid_t pid;
    int in;
    int out;
    size_t bytes; /* of `text` */
    char text[1024];
};

bool test_member_wanted(int argc, char **argv);
int test_member_main(int argc, char **argv);

/* A process with a client of these options, over those that all members have: pool scheme, small
 * memory, no copies of what others have, errors logged only. If it is a node, returns when a master
 * knows it. */
void test_member_start(struct test_member *member, const struct test_master *master,
                       const char *const *options);
/* In a network namespace. */
void test_member_start_in(struct test_member *member, const char *network,
                          const struct test_master *master, const char *const *options);
/* Without waiting until a master knows it. */
void test_member_start_twin(struct test_member *member, const struct test_master *master,
                            const char *const *options);
/* Closes the process's client, and opens a fresh one there, of the options that the process was
 * started with and these: a fresh node, for a fraction of a process's price. */
void test_member_close(struct test_member *member);
void test_member_open(struct test_member *member, const char *const *options);
/* In two steps: a line to it; its answer, within `timeout_ms`. */
void test_member_tell(struct test_member *member, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
const char *test_member_answer(struct test_member *member, unsigned timeout_ms);
struct test_tally test_member_tally(struct test_member *member, unsigned timeout_ms);
/* Both steps. */
struct test_tally test_member_put(struct test_member *member, struct test_set set);
struct test_tally test_member_get(struct test_member *member, struct test_set set);
struct test_tally test_member_exists(struct test_member *member, struct test_set set);
uint64_t test_member_stat(struct test_member *member, const char *name);
/* Waits up to 20 s. */
void test_member_stat_becomes(struct test_member *member, const char *name, uint64_t value);
void test_member_load(struct test_member *member, unsigned threads, uint64_t seed, uint64_t keys);
struct test_load_result test_member_load_now(struct test_member *member);
struct test_load_result test_member_load_stop(struct test_member *member);

/* SIGSTOP to a child, and waits until all its threads stand still: it takes nothing in any more. */
void test_stop(pid_t pid);
/* SIGSTOP by test_stop. */
void test_member_signal(struct test_member *member, int signal_number);
void test_member_kill(struct test_member *member); /* SIGKILL, and waits for the end */
/* Closes its client; fails the test unless it ends with 0. */
void test_member_end(struct test_member *member);
/* Fails the test unless nothing is in use: no operation, pin, slot, reservation. Waits up to 20 s.
 */
void test_member_is_idle(struct test_member *member);

/* Waits up to 20 s until the index, as `asker` is told, says of these values what the nodes' stores
 * say; fails the test, and names one, if it does not. The asker has no store, and put none of
 * them. At most TEST_FOUND_MAX. */
#define TEST_FOUND_MAX 900u
void test_index_agrees(struct test_member *asker, struct test_member *nodes, unsigned count,
                       struct test_set set);
/* The same of all that a load of `keys` keys may have put; prints how long it took. */
void test_index_agrees_on_load(struct test_member *asker, struct test_member *nodes, unsigned count,
                               uint64_t keys);

/* The options of a client in this process: those of members, then these. */
struct umbp_client *test_pool_client(const struct test_master *master, const char *const *options);
void test_pool_client_is_idle(struct umbp_client *client);

/* Whether a master has taken the node's list; true for a client that is none. A condition for
 * test_wait_until. */
bool test_is_known(void *client);

/* Kills every process that is left. A cmocka teardown. */
int test_cluster_end(void **state);

#endif
