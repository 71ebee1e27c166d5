/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kill -9 under full load, at seeded moments, many times over one directory. A child puts, removes
 * and flushes from several threads and tells over a pipe what it is about to remove and what a
 * flush has acknowledged. After each kill the directory is opened again: what was acknowledged is
 * there with its bytes, what was removed and flushed is not, and no byte is ever wrong.
 */
#include "support_client.h"
#include "support_program.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 3u
#define KEYS_MAX 40000u

/* What the parent knows of key number `n` (unique over all rounds). */
enum knowledge {
    NEVER_HEARD = 0,
    FLUSHED,        /* put and flushed: must be there */
    MAY_BE_REMOVED, /* its removal was announced */
    REMOVED,        /* removed and flushed: must be gone */
};

struct message {
    uint32_t first; /* keys first, first + THREADS, ... */
    uint32_t count;
    uint32_t kind; /* enum knowledge */
    uint32_t check;
};

static uint64_t bytes_of(uint32_t key) { return 100 + (uint64_t)key * 7919 % 60000; }

/* ------------------------------------------------------------------------------- the child - */

struct load {
    struct umbp_client *client;
    int pipe;
    uint32_t next; /* key; += THREADS */
};

/* Small enough for a write to be whole or not at all. */
static void tell(const struct load *load, uint32_t first, uint32_t count, enum knowledge kind)
{
    struct message message = {first, count, kind, first ^ count ^ (uint32_t)kind ^ 0xABCDu};
    if (write(load->pipe, &message, sizeof(message)) != (ssize_t)sizeof(message)) {
        _exit(3);
    }
}

static void must(enum umbp_status status, enum umbp_status or_else)
{
    if (status != UMBP_OK && status != or_else) {
        fprintf(stderr, "child: %s\n", umbp_status_name(status));
        _exit(4);
    }
}

static void *run_load(void *context)
{
    struct load *load = context;
    char room[TEST_KEY_ROOM];
    unsigned char *data = malloc(61000);
    uint32_t removed_from = load->next;
    for (uint32_t turn = 0;; turn++) {
        uint32_t first = load->next;
        for (uint32_t i = 0; i < 6; i++, load->next += THREADS) {
            if (load->next >= KEYS_MAX) {
                pause();
            }
            test_fill(data, bytes_of(load->next), load->next);
            must(umbp_put(load->client, test_key_number(room, "c", load->next), data,
                          bytes_of(load->next), load->next),
                 UMBP_OK);
        }
        bool removes = turn % 3 == 2;
        if (removes) { /* the oldest of what is left, and one of those just put */
            tell(load, removed_from, 4, MAY_BE_REMOVED);
            for (uint32_t i = 0; i < 4; i++) {
                must(umbp_remove(load->client,
                                 test_key_number(room, "c", removed_from + i * THREADS)),
                     UMBP_NOT_FOUND);
            }
            tell(load, first, 1, MAY_BE_REMOVED);
            must(umbp_remove(load->client, test_key_number(room, "c", first)), UMBP_NOT_FOUND);
        }
        must(umbp_flush(load->client, 0), UMBP_OK);
        tell(load, removes ? first + THREADS : first, removes ? 5 : 6, FLUSHED);
        if (removes) {
            tell(load, removed_from, 4, REMOVED);
            tell(load, first, 1, REMOVED);
            removed_from += 4 * THREADS;
        }
    }
    return NULL;
}

static void child_main(const char *const *options, int pipe, uint32_t first_key)
{
    struct umbp_config *config;
    struct umbp_client *client;
    char error[256];
    must(umbp_config_create(&config), UMBP_OK);
    for (; *options != NULL; options += 2) {
        must(umbp_config_set(config, options[0], options[1]), UMBP_OK);
    }
    enum umbp_status status = umbp_client_create(config, &client, error, sizeof(error));
    if (status != UMBP_OK) {
        fprintf(stderr, "child: %s\n", error);
        _exit(5);
    }
    struct load loads[THREADS];
    pthread_t threads[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        loads[i] = (struct load){client, pipe, first_key + i};
        if (pthread_create(&threads[i], NULL, run_load, &loads[i]) != 0) {
            _exit(6);
        }
    }
    for (;;) {
        pause();
    }
}

/* ------------------------------------------------------------------------------ the parent - */

struct state {
    uint8_t known[KEYS_MAX];
    uint32_t next_key;
    uint64_t flushed;
};

static void learn(struct state *state, const struct message *message)
{
    assert_int_equal(message->check, message->first ^ message->count ^ message->kind ^ 0xABCDu);
    for (uint32_t i = 0; i < message->count; i++) {
        uint32_t key = message->first + i * THREADS;
        assert_true(key < KEYS_MAX);
        state->known[key] = (uint8_t)message->kind;
        state->flushed += message->kind == FLUSHED;
        if (key >= state->next_key) {
            state->next_key = key + 1;
        }
    }
}

/* Let a child work until `messages` were heard and `extra_us` have passed, and kill it. */
static void run_and_kill(struct state *state, const char *const *options, uint64_t messages,
                         uint64_t extra_us)
{
    int ends[2];
    struct message message;
    int status;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        child_main(options, ends[1], state->next_key);
    }
    assert_true(child > 0);
    close(ends[1]);
    for (uint64_t heard = 0; heard < messages; heard++) {
        if (read(ends[0], &message, sizeof(message)) != (ssize_t)sizeof(message)) {
            break; /* it failed; seen below */
        }
        learn(state, &message);
    }
    usleep((useconds_t)extra_us);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    while (read(ends[0], &message, sizeof(message)) == (ssize_t)sizeof(message)) {
        learn(state, &message); /* said before it died */
    }
    close(ends[0]);
    state->next_key += 1000; /* beyond what it may have put without a word */
    state->next_key -= state->next_key % THREADS;
}

static void check(const struct state *state, const char *const *options, bool may_evict)
{
    struct umbp_client *client = test_client(options);
    char room[TEST_KEY_ROOM];
    unsigned missing = 0;
    unsigned risen = 0;
    for (uint32_t key = 0; key < state->next_key; key++) {
        struct umbp_key name = test_key_number(room, "c", key);
        enum umbp_status status = test_get(client, name, bytes_of(key), key);
        assert_true(status == UMBP_OK || status == UMBP_NOT_FOUND); /* and no UMBP_CORRUPT */
        missing += state->known[key] == FLUSHED && status != UMBP_OK;
        risen += state->known[key] == REMOVED && status == UMBP_OK;
    }
    assert_int_equal(risen, 0);
    if (!may_evict) {
        assert_int_equal(missing, 0);
    }
    assert_int_equal(test_stat(client, "corrupt"), 0);
    umbp_client_destroy(client);
}

/* A directory after a kill, or at rest, has nothing that fsck would call damaged, and as many
 * records as the client says. */
static void check_with_fsck(const char *directory, const char *const *options)
{
    struct test_output output;
    struct umbp_client *client = test_client(options);
    uint64_t keys = test_stat(client, "keys");
    umbp_client_destroy(client);
    test_program(&output, "fsck", "--ssd-dir", directory, "--json");
    const char *line = test_last_line(output.out);
    assert_int_equal(test_json_number(line, "records"), keys);
    assert_int_equal(test_json_number(line, "corrupt_records"), 0);
    assert_int_equal(test_json_number(line, "corrupt_segments"), 0);
    test_output_free(&output);
}

static void crash_many_times(const char *ssd_bytes, const char *segment_bytes, const char *driver,
                             const char *mode, bool may_evict, unsigned rounds, uint64_t stream)
{
    char *directory = test_dir_create();
    char *ssd = test_path(directory, "ssd");
    const char *const options[] = {"dram.bytes",
                                   "8MiB",
                                   "dram.prefault",
                                   "false",
                                   "ssd.dir",
                                   ssd,
                                   "ssd.bytes",
                                   ssd_bytes,
                                   "ssd.segment_bytes",
                                   segment_bytes,
                                   "ssd.durability",
                                   "strict",
                                   "ssd.driver",
                                   driver,
                                   "copy.mode",
                                   mode,
                                   NULL};
    struct state *state = calloc(1, sizeof(*state));
    struct test_rng rng;
    test_rng_init(&rng, stream);
    for (unsigned round = 0; round < rounds; round++) {
        uint64_t messages = test_rng_below(&rng, 25);
        run_and_kill(state, options, messages, test_rng_below(&rng, 20000));
        check(state, options, may_evict);
    }
    assert_true(state->flushed > rounds);
    check_with_fsck(ssd, options);
    free(state);
    free(ssd);
    test_dir_remove(directory);
}

static void whatever_was_flushed_is_there_after_a_kill_at_any_moment(void **state)
{
    (void)state;
    crash_many_times("1GiB", "4MiB", "auto", "on_commit", false, test_is_slow() ? 3 : 14, 1);
}

static void the_same_with_plain_files_and_copies_at_flush_only(void **state)
{
    (void)state;
    crash_many_times("1GiB", "4MiB", "posix", "on_evict", false, test_is_slow() ? 2 : 7, 2);
}

static void a_kill_amid_reclaim_gives_no_wrong_byte_and_no_removed_key(void **state)
{
    (void)state;
    crash_many_times("8MiB", "512KiB", "auto", "on_commit", true, test_is_slow() ? 3 : 10, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_was_flushed_is_there_after_a_kill_at_any_moment),
        cmocka_unit_test(the_same_with_plain_files_and_copies_at_flush_only),
        cmocka_unit_test(a_kill_amid_reclaim_gives_no_wrong_byte_and_no_removed_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
