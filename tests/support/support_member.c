/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sets, loads, and the main of a member: it makes a client of the options on its command line, says
 * "ready", and answers each line of its standard input with one line. No cmocka here.
 */
#include "support_cluster.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STATS_MAX 256
#define LOAD_THREADS_MAX 16u

/* ------------------------------------------------------------------------------ sets ---- */

uint64_t test_set_tag(const char *prefix, uint64_t number)
{
    uint64_t hash = UINT64_C(14695981039346656037);
    for (; *prefix != '\0'; prefix++) {
        hash = (hash ^ (unsigned char)*prefix) * UINT64_C(1099511628211);
    }
    return hash + number;
}

static struct umbp_key set_key(char room[TEST_KEY_ROOM], struct test_set set, uint32_t i)
{
    int bytes = snprintf(room, TEST_KEY_ROOM, "%s-%" PRIu64, set.prefix, set.first + i);
    return (struct umbp_key){room, (size_t)bytes};
}

struct set_call {
    struct test_set set;
    uint64_t stride; /* from one value to the next: a byte or more lies between */
    unsigned char *data;
    char (*rooms)[TEST_KEY_ROOM];
    enum umbp_status *statuses;
    uint64_t began_ns;
};

static struct set_call set_begin(struct test_set set)
{
    struct set_call call = {.set = set, .stride = set.bytes + 16};
    call.data = malloc(set.count * call.stride + 1);
    call.rooms = calloc(set.count + 1u, sizeof(*call.rooms));
    call.statuses = calloc(set.count + 1u, sizeof(*call.statuses));
    if (call.data == NULL || call.rooms == NULL || call.statuses == NULL) {
        abort();
    }
    memset(call.data, 0xA5, set.count * call.stride);
    for (uint32_t i = 0; i < set.count; i++) {
        call.statuses[i] = UMBP_CANCELLED;
    }
    return call;
}

static void set_end(struct set_call *call)
{
    free(call->data);
    free(call->rooms);
    free(call->statuses);
}

static void tally_add(struct test_tally *tally, enum umbp_status status)
{
    switch (status) {
    case UMBP_OK:
        tally->ok++;
        break;
    case UMBP_ALREADY_EXISTS:
        tally->existing++;
        break;
    case UMBP_NOT_FOUND:
        tally->missing++;
        break;
    default:
        tally->failed++;
        tally->failure = status;
        break;
    }
}

static struct test_tally tally_of(const struct set_call *call, enum umbp_status status)
{
    struct test_tally tally = {.ms = (unsigned)((test_now_ns() - call->began_ns) / 1000000)};
    for (uint32_t i = 0; i < call->set.count; i++) {
        tally_add(&tally, status == UMBP_OK ? call->statuses[i] : status);
    }
    return tally;
}

struct test_tally test_set_put(struct umbp_client *client, struct test_set set)
{
    struct set_call call = set_begin(set);
    struct umbp_put_item *items = calloc(set.count + 1u, sizeof(*items));
    for (uint32_t i = 0; i < set.count; i++) {
        unsigned char *data = call.data + i * call.stride;
        test_fill(data, set.bytes, test_set_tag(set.prefix, set.first + i));
        items[i] = (struct umbp_put_item){.key = set_key(call.rooms[i], set, i),
                                          .data = data,
                                          .bytes = set.bytes,
                                          .depth = UMBP_DEPTH_NONE};
    }
    call.began_ns = test_now_ns();
    enum umbp_status status = umbp_batch_put(client, items, set.count, call.statuses);
    struct test_tally tally = tally_of(&call, status);
    /* The memory is ours again: nobody may store what it holds from now on. */
    memset(call.data, 0x11, set.count * call.stride);
    free(items);
    set_end(&call);
    return tally;
}

static bool is_untouched(const unsigned char *data, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++) {
        if (data[i] != 0xA5) {
            return false;
        }
    }
    return true;
}

struct test_tally test_set_get(struct umbp_client *client, struct test_set set)
{
    struct set_call call = set_begin(set);
    struct umbp_get_item *items = calloc(set.count + 1u, sizeof(*items));
    for (uint32_t i = 0; i < set.count; i++) {
        items[i] = (struct umbp_get_item){.key = set_key(call.rooms[i], set, i),
                                          .data = call.data + i * call.stride,
                                          .bytes = set.bytes};
    }
    call.began_ns = test_now_ns();
    enum umbp_status status = umbp_batch_get(client, items, set.count, call.statuses);
    struct test_tally tally = tally_of(&call, status);
    for (uint32_t i = 0; i < set.count; i++) {
        unsigned char *data = call.data + i * call.stride;
        bool right = status != UMBP_OK || call.statuses[i] != UMBP_OK ||
                     test_check_fill(data, set.bytes, test_set_tag(set.prefix, set.first + i));
        if (!right || !is_untouched(data + set.bytes, 16)) {
            tally.wrong++;
        }
    }
    free(items);
    set_end(&call);
    return tally;
}

struct test_tally test_set_exists(struct umbp_client *client, struct test_set set)
{
    struct set_call call = set_begin((struct test_set){set.prefix, set.first, set.count, 0});
    struct umbp_key *keys = calloc(set.count + 1u, sizeof(*keys));
    uint8_t *found = calloc(set.count + 1u, 1);
    for (uint32_t i = 0; i < set.count; i++) {
        keys[i] = set_key(call.rooms[i], set, i);
    }
    call.began_ns = test_now_ns();
    enum umbp_status status = umbp_batch_exists(client, keys, set.count, found);
    for (uint32_t i = 0; i < set.count; i++) {
        call.statuses[i] = found[i] ? UMBP_OK : UMBP_NOT_FOUND;
    }
    struct test_tally tally = tally_of(&call, status);
    free(keys);
    free(found);
    set_end(&call);
    return tally;
}

/* ------------------------------------------------------------------------------ load ---- */

struct load_thread {
    struct test_load *load;
    pthread_t thread;
    struct test_rng rng;
};

struct test_load {
    struct umbp_client *client;
    uint64_t keys;
    unsigned count;
    _Atomic bool stop;
    _Atomic uint64_t calls, ok, missing, failed, wrong;
    _Atomic unsigned failure;
    _Atomic unsigned slowest_ms;
    struct load_thread threads[LOAD_THREADS_MAX];
};

/* All values of one batch have one size, which follows from the set's prefix. */
static uint64_t load_bytes(unsigned kind)
{
    static const uint64_t sizes[] = {0, 1, 100, 4096, 65535, 65536, 70000, 300000};
    return sizes[kind % TEST_LOAD_KINDS];
}

static void load_add(struct test_load *load, const struct test_tally *tally)
{
    atomic_fetch_add(&load->calls, 1);
    atomic_fetch_add(&load->ok, tally->ok + tally->existing);
    atomic_fetch_add(&load->missing, tally->missing);
    atomic_fetch_add(&load->failed, tally->failed);
    atomic_fetch_add(&load->wrong, tally->wrong);
    if (tally->failed) {
        atomic_store(&load->failure, (unsigned)tally->failure);
    }
    unsigned slowest = atomic_load(&load->slowest_ms);
    while (tally->ms > slowest &&
           !atomic_compare_exchange_weak(&load->slowest_ms, &slowest, tally->ms)) {
    }
}

static void *load_run(void *context)
{
    struct load_thread *self = context;
    struct test_load *load = self->load;
    while (!atomic_load(&load->stop)) {
        char prefix[16];
        unsigned kind = (unsigned)test_rng_below(&self->rng, TEST_LOAD_KINDS);
        snprintf(prefix, sizeof(prefix), "load%u", kind);
        struct test_set set = {.prefix = prefix,
                               .first = test_rng_below(&self->rng, load->keys),
                               .count = 1 + (uint32_t)test_rng_below(&self->rng, TEST_LOAD_BATCH),
                               .bytes = load_bytes(kind)};
        struct test_tally tally = test_rng_below(&self->rng, 3) ? test_set_get(load->client, set)
                                                                : test_set_put(load->client, set);
        load_add(load, &tally);
    }
    return NULL;
}

struct test_load *test_load_start(struct umbp_client *client, unsigned threads, uint64_t seed,
                                  uint64_t keys)
{
    struct test_load *load = calloc(1, sizeof(*load));
    if (load == NULL) {
        abort();
    }
    load->client = client;
    load->keys = keys;
    load->count = threads < LOAD_THREADS_MAX ? threads : LOAD_THREADS_MAX;
    for (unsigned i = 0; i < load->count; i++) {
        load->threads[i].load = load;
        load->threads[i].rng.state = seed * 1000003 + i;
        if (pthread_create(&load->threads[i].thread, NULL, load_run, &load->threads[i]) != 0) {
            abort();
        }
    }
    return load;
}

struct test_load_result test_load_now(const struct test_load *load)
{
    return (struct test_load_result){
        .calls = atomic_load(&load->calls),
        .ok = atomic_load(&load->ok),
        .missing = atomic_load(&load->missing),
        .failed = atomic_load(&load->failed),
        .wrong = atomic_load(&load->wrong),
        .failure = (enum umbp_status)atomic_load(&load->failure),
        .slowest_ms = atomic_load(&load->slowest_ms),
    };
}

struct test_load_result test_load_stop(struct test_load *load)
{
    atomic_store(&load->stop, true);
    for (unsigned i = 0; i < load->count; i++) {
        pthread_join(load->threads[i].thread, NULL);
    }
    struct test_load_result result = test_load_now(load);
    free(load);
    return result;
}

/* ---------------------------------------------------------------------------- member ---- */

struct self {
    int argc; /* its options, from the third on */
    char **argv;
    struct umbp_client *client; /* NULL: closed */
    struct test_load *load;
};

bool test_member_wanted(int argc, char **argv)
{
    return argc >= 2 && strcmp(argv[1], "--member") == 0;
}

static FILE
    *answers; /* what was standard output; that goes to standard error, for helpers that print */

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(answers, format, arguments);
    va_end(arguments);
    fputc('\n', answers);
    fflush(answers);
}

static bool find_stat(struct umbp_client *client, const char *name, uint64_t *value_out)
{
    struct umbp_stat_value values[STATS_MAX];
    size_t count = 0;
    if (umbp_stats(client, values, STATS_MAX, &count) == UMBP_OK) {
        for (size_t i = 0; i < count && i < STATS_MAX; i++) {
            if (strcmp(values[i].name, name) == 0) {
                *value_out = values[i].value;
                return true;
            }
        }
    }
    return false;
}

bool test_is_known(void *client)
{
    uint64_t syncs;
    return !find_stat(client, "node.syncs_done", &syncs) || syncs > 0;
}

static void say_stat(struct umbp_client *client, const char *name)
{
    uint64_t value;
    if (strcmp(name, "fds") == 0) {
        say("stat %u", test_fd_count());
        return;
    }
    if (strcmp(name, "threads") == 0) {
        say("stat %u", test_thread_count());
        return;
    }
    if (find_stat(client, name, &value)) {
        say("stat %" PRIu64, value);
        return;
    }
    say("no such statistic");
}

static void say_load(struct test_load_result result)
{
    say("load %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %d %u", result.calls,
        result.ok, result.missing, result.failed, result.wrong, (int)result.failure,
        result.slowest_ms);
}

static void do_set(struct umbp_client *client, const char *verb, struct test_set set)
{
    struct test_tally tally;
    if (strcmp(verb, "put") == 0) {
        tally = test_set_put(client, set);
    } else if (strcmp(verb, "get") == 0) {
        tally = test_set_get(client, set);
    } else {
        tally = test_set_exists(client, set);
    }
    say("tally %u %u %u %u %u %d %u", tally.ok, tally.existing, tally.missing, tally.wrong,
        tally.failed, (int)tally.failure, tally.ms);
}

struct listed {
    struct test_set set;
    uint8_t *found;
};

static bool list_one(void *context, const struct umbp_entry_info *info)
{
    struct listed *listed = context;
    char room[TEST_KEY_ROOM] = "";
    size_t prefix_bytes = strlen(listed->set.prefix);
    if (info->key.bytes > prefix_bytes + 1 && info->key.bytes < sizeof(room)) {
        memcpy(room, info->key.data, info->key.bytes);
        if (memcmp(room, listed->set.prefix, prefix_bytes) == 0 && room[prefix_bytes] == '-') {
            uint64_t number = strtoull(room + prefix_bytes + 1, NULL, 10) - listed->set.first;
            if (number < listed->set.count) {
                listed->found[number] = 1;
            }
        }
    }
    return true;
}

/* Which of them there are, as '0' and '1': in this process's own store ("own"), or as a client is
 * told ("seen"). */
static void say_found(struct umbp_client *client, const char *verb, struct test_set set)
{
    uint8_t found[TEST_FOUND_MAX + 1] = {0};
    static char rooms[TEST_FOUND_MAX][TEST_KEY_ROOM];
    static struct umbp_key keys[TEST_FOUND_MAX];
    enum umbp_status status;
    if (set.count > TEST_FOUND_MAX) {
        say("too many");
        return;
    }
    if (strcmp(verb, "own") == 0) {
        struct listed listed = {set, found};
        status = umbp_list(client, list_one, &listed);
    } else {
        for (uint32_t i = 0; i < set.count; i++) {
            keys[i] = set_key(rooms[i], set, i);
        }
        status = umbp_batch_exists(client, keys, set.count, found);
    }
    for (uint32_t i = 0; i < set.count; i++) {
        found[i] = (uint8_t)('0' + (found[i] != 0));
    }
    found[set.count] = '\0';
    say("%s %s", umbp_status_name(status), (const char *)found);
}

static bool set_option(struct umbp_config *config, const char *name, const char *value)
{
    if (umbp_config_set(config, name, value) == UMBP_OK) {
        return true;
    }
    say("%s = %s: %s", name, value, umbp_config_error(config));
    return false;
}

/* A client of the process's options, and of those in `more` (cut at its blanks). False, and it is
 * said why: there is none. */
static bool open_client(struct self *self, char *more)
{
    struct umbp_config *config;
    char error[256] = "";
    bool is_set = umbp_config_create(&config) == UMBP_OK;
    if (!is_set) {
        say("no memory");
        return false;
    }
    for (int i = 2; is_set && i + 1 < self->argc; i += 2) {
        is_set = set_option(config, self->argv[i], self->argv[i + 1]);
    }
    char *rest = NULL;
    for (char *name = strtok_r(more, " \n", &rest); is_set && name != NULL;
         name = strtok_r(NULL, " \n", &rest)) {
        const char *value = strtok_r(NULL, " \n", &rest);
        is_set = set_option(config, name, value != NULL ? value : "");
    }
    enum umbp_status status =
        is_set ? umbp_client_create(config, &self->client, error, sizeof(error)) : UMBP_OK;
    umbp_config_destroy(config);
    if (status != UMBP_OK) {
        say("%s: %s", umbp_status_name(status), error);
    }
    return is_set && status == UMBP_OK;
}

static enum umbp_status close_client(struct self *self)
{
    enum umbp_status status = umbp_client_close(self->client, 0);
    umbp_client_destroy(self->client);
    self->client = NULL;
    return status;
}

/* False: the end. */
static bool obey(struct self *self, char *line)
{
    char verb[32] = "";
    char word[64] = "";
    uint64_t numbers[3] = {0};
    int fields = sscanf(line, "%31s %63s %" SCNu64 " %" SCNu64 " %" SCNu64, verb, word, &numbers[0],
                        &numbers[1], &numbers[2]);
    if (fields == 5 && (strcmp(verb, "own") == 0 || strcmp(verb, "seen") == 0)) {
        say_found(self->client, verb, (struct test_set){word, numbers[0], (uint32_t)numbers[1], 0});
    } else if (fields == 5) {
        do_set(self->client, verb,
               (struct test_set){word, numbers[0], (uint32_t)numbers[1], numbers[2]});
    } else if (strcmp(verb, "stat") == 0) {
        say_stat(self->client, word);
    } else if (strcmp(verb, "clear") == 0) {
        say("%s", umbp_status_name(umbp_clear(self->client)));
    } else if (strcmp(verb, "load") == 0) {
        self->load = test_load_start(self->client, (unsigned)strtoul(word, NULL, 10), numbers[0],
                                     numbers[1]);
        say("loading");
    } else if (strcmp(verb, "load-now") == 0) {
        say_load(test_load_now(self->load));
    } else if (strcmp(verb, "load-stop") == 0) {
        say_load(test_load_stop(self->load));
        self->load = NULL;
    } else if (strcmp(verb, "close") == 0) {
        say("%s", umbp_status_name(close_client(self)));
    } else if (strcmp(verb, "open") == 0) {
        if (open_client(self, line + strlen(verb))) {
            say("ready");
        }
    } else if (strcmp(verb, "wait-known") == 0) {
        say(test_wait_until(test_is_known, self->client, TEST_WAIT_MS) ? "known" : "unknown");
    } else if (strcmp(verb, "end") == 0) {
        return false;
    } else {
        say("what?");
    }
    return true;
}

int test_member_main(int argc, char **argv)
{
    struct self self = {.argc = argc, .argv = argv};
    char line[TEST_MEMBER_LINE];
    char none[] = "";

    int fd = dup(STDOUT_FILENO);
    answers = fd < 0 ? NULL : fdopen(fd, "w");
    if (answers == NULL || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
        return 4;
    }
    if (!open_client(&self, none)) {
        return 5;
    }
    say("ready");
    for (;;) {
        if (fgets(line, sizeof(line), stdin) == NULL) {
            _exit(7); /* the test has gone */
        }
        if (!obey(&self, line)) {
            break;
        }
    }
    enum umbp_status status = self.client != NULL ? close_client(&self) : UMBP_OK;
    fclose(answers);
    return status == UMBP_OK ? 0 : 8;
}
