/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding the masters' fabric doors, and finding them again.
 *
 * One thread for each master, so that a dead one, or a name that its resolver broods over, holds up
 * nobody else: getaddrinfo takes no deadline, and whoever waits for its thread has one. A thread
 * sleeps until its door is wanted, then asks until somebody answers, with pauses that grow to
 * PAUSE_MAX_MS and differ from process to process: a master that comes back is not met by all its
 * clients in one moment.
 *
 *     wanted ──► ask the signpost ──► an answer: tell `found`; sleep until it is wanted again
 *        ▲             │
 *        └── pause ◄───┘ nobody, or a stranger
 *
 * The threads share `doors` by counted references. One that is still in the resolver when the
 * client is closed is left alone with its reference, and ends when the resolver lets it.
 */
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "client/client_priv.h"
#include "pool/pool.h"

#define ASK_MS 1000u
#define PAUSE_MIN_MS 50u
#define PAUSE_MAX_MS 1000u
#define CALM_NS (10 * NS_PER_S) /* not asked for so long: pauses begin small again */
#define IDLE_NS (3600 * NS_PER_S)
#define LEAVE_MS 200u
#define STRANGER_LOG_MS 60000u

struct finder {
    struct client_doors *doors;
    uint32_t index;
    char address[FABRIC_ADDRESS_MAX];
    pthread_t thread;
    bool has_thread;
    bool has_ended;
    bool is_wanted;
    bool has_first; /* `status` and `door` are the outcome of the last question */
    bool has_news;  /* an answer that `found` was not told yet */
    bool is_telling;
    uint64_t asked_ns;
    uint64_t next_ns; /* not before */
    uint32_t pause_ms;
    enum umbp_status status;
    struct client_door door;
    struct rng rng;
    struct log_limit log_stranger;
    struct log_limit log_silent;
};

struct client_doors {
    struct mutex lock; /* RANK_POOL: everything below, and the finders */
    struct condition changed;
    uint32_t references;
    bool stopping;
    int stop_fd; /* an eventfd: readable once stopping */
    void (*found)(void *context, uint32_t index, const char *address);
    void *context;
    uint64_t hash_seed;
    char cluster[FABRIC_CLUSTER_MAX + 1];
    uint32_t count;
    struct finder finders[POOL_MASTERS_MAX];
};

/* ------------------------------------------------------------------------------ asking --- */

static struct client_door_question question_of(const struct finder *finder)
{
    const struct client_doors *doors = finder->doors;
    return (struct client_door_question){
        .address = finder->address,
        .cluster = doors->cluster,
        .hash_seed = doors->hash_seed,
        .timeout_ms = ASK_MS,
        .stop_fd = doors->stop_fd,
    };
}

/* Under the lock, which is let go meanwhile. */
static void ask(struct finder *finder)
{
    struct client_doors *doors = finder->doors;
    const struct client_door_question question = question_of(finder);
    struct client_door door;
    uint64_t held_back;

    finder->is_wanted = false;
    mutex_unlock(&doors->lock);
    enum umbp_status status = client_door_ask(&question, &door);
    bool is_stranger = status != UMBP_OK;
    uint64_t now_ns = clock_now_ns(clock_monotonic());
    mutex_lock(&doors->lock);
    bool is_first = !finder->has_first;
    if (now_ns - finder->asked_ns > CALM_NS) {
        finder->pause_ms = PAUSE_MIN_MS;
    }
    finder->asked_ns = now_ns;
    finder->next_ns =
        now_ns + (finder->pause_ms + rng_below(&finder->rng, finder->pause_ms) / 2) * NS_PER_MS;
    finder->pause_ms = (uint32_t)u64_min(finder->pause_ms * UINT64_C(2), PAUSE_MAX_MS);
    finder->status = status;
    finder->door = door;
    finder->has_first = true;
    finder->has_news = status == UMBP_OK && !door.is_guess;
    finder->is_wanted |= !finder->has_news;
    condition_broadcast(&doors->changed);
    if (is_stranger && !is_first &&
        log_limit_pass(&finder->log_stranger, STRANGER_LOG_MS, &held_back)) {
        mutex_unlock(&doors->lock);
        log_warn("master_is_a_stranger", "status=%s suppressed=%llu reason=\"%s\"",
                 umbp_status_name(status), (unsigned long long)held_back, door.error);
        mutex_lock(&doors->lock);
    }
    bool is_silent = status == UMBP_OK && door.is_guess && !doors->stopping;
    if (is_silent && log_limit_pass(&finder->log_silent, STRANGER_LOG_MS, &held_back)) {
        mutex_unlock(&doors->lock);
        log_warn("master_does_not_answer", "master=%s reason=\"%s\" suppressed=%llu",
                 question.address, door.error, (unsigned long long)held_back);
        mutex_lock(&doors->lock);
    }
}

/* Under the lock, which is let go meanwhile. */
static void tell(struct finder *finder)
{
    struct client_doors *doors = finder->doors;
    struct client_door door = finder->door;

    finder->has_news = false;
    finder->is_telling = true;
    mutex_unlock(&doors->lock);
    doors->found(doors->context, finder->index, door.address);
    mutex_lock(&doors->lock);
    finder->is_telling = false;
    condition_broadcast(&doors->changed);
}

/* Under the lock, which it gives up. */
static void unref(struct client_doors *doors)
{
    bool is_last = --doors->references == 0;
    mutex_unlock(&doors->lock);
    if (is_last) {
        if (doors->stop_fd >= 0) {
            close(doors->stop_fd);
        }
        condition_fini(&doors->changed);
        mutex_fini(&doors->lock);
        mem_free(doors);
    }
}

static void *finder_run(void *context)
{
    struct finder *finder = context;
    struct client_doors *doors = finder->doors;

    mutex_lock(&doors->lock);
    while (!doors->stopping) {
        uint64_t now_ns = clock_now_ns(clock_monotonic());
        if (finder->has_news && doors->found) {
            tell(finder);
        } else if (finder->is_wanted && now_ns >= finder->next_ns) {
            ask(finder);
        } else {
            (void)condition_wait(&doors->changed, &doors->lock,
                                 finder->is_wanted ? finder->next_ns : now_ns + IDLE_NS);
        }
    }
    finder->has_ended = true;
    condition_broadcast(&doors->changed);
    unref(doors);
    return NULL;
}

/* -------------------------------------------------------------------------------- life --- */

static enum umbp_status start(struct client_doors *doors)
{
    for (uint32_t i = 0; i < doors->count; i++) {
        struct finder *finder = &doors->finders[i];
        mutex_lock(&doors->lock);
        doors->references++;
        enum umbp_status status =
            thread_create(&finder->thread, "umbp-door", false, finder_run, finder);
        finder->has_thread = status == UMBP_OK;
        doors->references -= status != UMBP_OK;
        mutex_unlock(&doors->lock);
        if (status != UMBP_OK) {
            return status;
        }
    }
    return UMBP_OK;
}

enum umbp_status client_doors_create(const struct client_doors_options *options,
                                     struct client_doors **doors_out)
{
    struct client_doors *doors = mem_zalloc(sizeof(*doors));
    if (!doors) {
        return UMBP_NO_MEMORY;
    }
    ASSERT(options->count <= POOL_MASTERS_MAX);
    mutex_init(&doors->lock, RANK_POOL);
    condition_init(&doors->changed);
    doors->references = 1;
    doors->hash_seed = options->hash_seed;
    doors->count = options->count;
    (void)snprintf(doors->cluster, sizeof(doors->cluster), "%s", options->cluster);
    for (uint32_t i = 0; i < doors->count; i++) {
        struct finder *finder = &doors->finders[i];
        *finder = (struct finder){
            .doors = doors, .index = i, .is_wanted = true, .pause_ms = PAUSE_MIN_MS};
        (void)snprintf(finder->address, sizeof(finder->address), "%s", options->masters[i]);
        rng_init(&finder->rng, clock_now_ns(clock_monotonic()) ^ ((uint64_t)getpid() << 32) ^ i);
    }
    doors->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    enum umbp_status status = doors->stop_fd >= 0 ? start(doors) : UMBP_LIMIT;
    if (status != UMBP_OK) {
        client_doors_destroy(doors);
        return status;
    }
    *doors_out = doors;
    return UMBP_OK;
}

enum umbp_status client_doors_first(struct client_doors *doors, uint32_t index,
                                    uint64_t deadline_ns, struct client_door *door_out)
{
    struct finder *finder = &doors->finders[index];
    enum umbp_status status = UMBP_OK;
    bool in_time = true;

    mutex_lock(&doors->lock);
    while (in_time && !finder->has_first) {
        in_time = condition_wait(&doors->changed, &doors->lock, deadline_ns);
    }
    bool has_first = finder->has_first;
    if (has_first) {
        status = finder->status;
        *door_out = finder->door;
    }
    mutex_unlock(&doors->lock);
    if (!has_first) {
        const struct client_door_question question = question_of(finder);
        status = client_door_guess(&question, door_out);
    }
    return status;
}

void client_doors_follow(struct client_doors *doors,
                         void (*found)(void *context, uint32_t index, const char *address),
                         void *context)
{
    mutex_lock(&doors->lock);
    doors->context = context;
    doors->found = found;
    condition_broadcast(&doors->changed);
    mutex_unlock(&doors->lock);
}

void client_doors_want(struct client_doors *doors, uint32_t index)
{
    mutex_lock(&doors->lock);
    if (!doors->finders[index].is_wanted) {
        doors->finders[index].is_wanted = true;
        condition_broadcast(&doors->changed);
    }
    mutex_unlock(&doors->lock);
}

/* Under the lock. What `found` uses goes after this, so whoever is in it is waited for; it does not
 * block. Who is in the resolver is not. */
static void await_threads(struct client_doors *doors)
{
    uint64_t deadline_ns = clock_deadline_ns(clock_monotonic(), LEAVE_MS);
    for (uint32_t i = 0; i < doors->count; i++) {
        struct finder *finder = &doors->finders[i];
        bool in_time = true;
        while (finder->has_thread && !finder->has_ended && (in_time || finder->is_telling)) {
            uint64_t until_ns =
                in_time ? deadline_ns : clock_deadline_ns(clock_monotonic(), LEAVE_MS);
            in_time &= condition_wait(&doors->changed, &doors->lock, until_ns);
        }
    }
}

void client_doors_stop(struct client_doors *doors)
{
    if (!doors) {
        return;
    }
    mutex_lock(&doors->lock);
    bool is_first = !doors->stopping;
    doors->stopping = true;
    if (is_first) {
        (void)!eventfd_write(doors->stop_fd, 1);
        condition_broadcast(&doors->changed);
        await_threads(doors);
    }
    mutex_unlock(&doors->lock);
}

void client_doors_destroy(struct client_doors *doors)
{
    if (!doors) {
        return;
    }
    client_doors_stop(doors);
    for (uint32_t i = 0; i < doors->count; i++) {
        struct finder *finder = &doors->finders[i];
        mutex_lock(&doors->lock);
        bool has_ended = finder->has_ended;
        mutex_unlock(&doors->lock);
        if (finder->has_thread && has_ended) {
            pthread_join(finder->thread, NULL);
        } else if (finder->has_thread) {
            pthread_detach(finder->thread);
        }
    }
    mutex_lock(&doors->lock);
    unref(doors);
}
