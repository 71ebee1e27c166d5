/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that start together. They sleep between runs, so that they are in nobody's way; a run is
 * timed from the moment when all of them are awake, for waking is not what is measured.
 */
#include "tools/bench.h"

#include <sched.h>

#define CREW_MAX 64u
#define DEAL_BYTES (256 * KIB)

struct member {
    struct bench_crew *crew;
    unsigned index;
    pthread_t thread;
    uint64_t end_ns;
};

struct bench_crew {
    struct mutex lock;     /* RANK_LEAF: all but `awake` and `is_open` */
    struct condition work; /* a run began, or stop */
    struct condition done; /* its last member ended */
    uint64_t run;          /* number of the present run */
    unsigned wanted;       /* members that take part in it */
    unsigned busy;         /* of those, not yet at its end */
    bool stop;
    void (*function)(void *context, unsigned index);
    void *context;
    _Atomic unsigned awake; /* members of the run that wait for its start */
    _Atomic bool is_open;   /* it has started */
    unsigned count;         /* members, the caller among them */
    struct member members[CREW_MAX];
};

static void spin(unsigned *spins)
{
    thread_pause();
    if (++*spins % 64 == 0) {
        sched_yield(); /* the others may have no core of their own */
    }
}

/* A member's part of a run, from awake to its end. */
static void take_part(struct member *member, void (*function)(void *, unsigned), void *context)
{
    struct bench_crew *crew = member->crew;
    unsigned spins = 0;
    /* Release: pairs with the acquire of the caller, which waits for all. */
    atomic_fetch_add_explicit(&crew->awake, 1, memory_order_release);
    while (!atomic_load_explicit(&crew->is_open, memory_order_acquire)) {
        spin(&spins);
    }
    function(context, member->index);
    member->end_ns = bench_now_ns();
}

static void *member_main(void *argument)
{
    struct member *member = argument;
    struct bench_crew *crew = member->crew;
    uint64_t seen = 0;

    mutex_lock(&crew->lock);
    while (!crew->stop) {
        if (crew->run == seen || member->index >= crew->wanted) {
            seen = crew->run;
            (void)condition_wait(&crew->work, &crew->lock, DEADLINE_NEVER);
            continue;
        }
        seen = crew->run;
        void (*function)(void *, unsigned) = crew->function;
        void *context = crew->context;
        mutex_unlock(&crew->lock);
        take_part(member, function, context);
        mutex_lock(&crew->lock);
        if (--crew->busy == 0) {
            condition_signal(&crew->done);
        }
    }
    mutex_unlock(&crew->lock);
    return NULL;
}

enum umbp_status bench_crew_create(unsigned threads, struct bench_crew **crew_out)
{
    ASSERT(threads >= 1 && threads <= CREW_MAX);
    struct bench_crew *crew = mem_zalloc(sizeof *crew);
    if (crew == NULL) {
        return UMBP_NO_MEMORY;
    }
    mutex_init(&crew->lock, RANK_LEAF);
    condition_init(&crew->work);
    condition_init(&crew->done);
    crew->members[0].crew = crew;
    crew->count = 1;
    while (crew->count < threads) {
        struct member *member = &crew->members[crew->count];
        *member = (struct member){.crew = crew, .index = crew->count};
        enum umbp_status status =
            thread_create(&member->thread, "umbp-bench", false, member_main, member);
        if (status != UMBP_OK) {
            bench_crew_destroy(crew);
            return status;
        }
        crew->count++;
    }
    *crew_out = crew;
    return UMBP_OK;
}

void bench_crew_destroy(struct bench_crew *crew)
{
    if (crew == NULL) {
        return;
    }
    mutex_lock(&crew->lock);
    crew->stop = true;
    condition_broadcast(&crew->work);
    mutex_unlock(&crew->lock);
    for (unsigned i = 1; i < crew->count; i++) {
        (void)pthread_join(crew->members[i].thread, NULL);
    }
    condition_fini(&crew->done);
    condition_fini(&crew->work);
    mutex_fini(&crew->lock);
    mem_free(crew);
}

uint64_t bench_crew_run(struct bench_crew *crew, unsigned threads,
                        void (*work)(void *context, unsigned index), void *context)
{
    unsigned spins = 0;
    ASSERT(threads >= 1 && threads <= crew->count);

    atomic_store_explicit(&crew->is_open, false, memory_order_relaxed);
    atomic_store_explicit(&crew->awake, 0, memory_order_relaxed);
    mutex_lock(&crew->lock); /* publishes the two above with the rest */
    crew->function = work;
    crew->context = context;
    crew->wanted = threads;
    crew->busy = threads - 1;
    crew->run++;
    condition_broadcast(&crew->work);
    mutex_unlock(&crew->lock);

    while (atomic_load_explicit(&crew->awake, memory_order_acquire) < threads - 1) {
        spin(&spins);
    }
    uint64_t start_ns = bench_now_ns();
    /* Release: pairs with the acquire in take_part. */
    atomic_store_explicit(&crew->is_open, true, memory_order_release);
    work(context, 0);
    uint64_t end_ns = bench_now_ns();

    mutex_lock(&crew->lock);
    while (crew->busy > 0) {
        (void)condition_wait(&crew->done, &crew->lock, DEADLINE_NEVER);
    }
    mutex_unlock(&crew->lock);
    for (unsigned i = 1; i < threads; i++) {
        end_ns = u64_max(end_ns, crew->members[i].end_ns);
    }
    return end_ns - start_ns;
}

/* --------------------------------------------------------------------------- deal -------- */

void bench_deal_init(struct bench_deal *deal, size_t count, size_t bytes_each)
{
    atomic_store_explicit(&deal->next, 0, memory_order_relaxed);
    deal->count = count;
    deal->run = size_max(1, DEAL_BYTES / size_max(1, bytes_each));
}

bool bench_deal_take(struct bench_deal *deal, size_t *first_out, size_t *end_out)
{
    /* Relaxed: it only deals out numbers. */
    size_t first = atomic_fetch_add_explicit(&deal->next, deal->run, memory_order_relaxed);
    if (first >= deal->count) {
        return false;
    }
    *first_out = first;
    *end_out = size_min(first + deal->run, deal->count);
    return true;
}

/* --------------------------------------------------------------------- raw copies -------- */

const char *const bench_copy_names[BENCH_COPY_WAYS] = {
    [BENCH_COPY_PLAIN] = "memcpy",
    [BENCH_COPY_STREAM] = "streaming",
};

struct copy_work {
    const struct bench_copy *copy;
    enum bench_copy_way way;
    struct bench_deal deal;
};

static void copy_part(void *context, unsigned index)
{
    struct copy_work *work = context;
    const struct bench_copy *copy = work->copy;
    size_t first, end;

    (void)index;
    while (bench_deal_take(&work->deal, &first, &end)) {
        for (size_t i = first; i < end; i++) {
            size_t number = (copy->first + i) % copy->blocks;
            size_t to = copy->to_order != NULL ? copy->to_order[number] : number;
            size_t from = copy->from_order != NULL ? copy->from_order[number] : number;
            if (work->way == BENCH_COPY_STREAM) {
                copy_bytes_stream(copy->to + to * copy->bytes, copy->from + from * copy->bytes,
                                  copy->bytes);
            } else {
                copy_bytes_plain(copy->to + to * copy->bytes, copy->from + from * copy->bytes,
                                 copy->bytes);
            }
        }
    }
}

uint64_t bench_copy_run(struct bench_crew *crew, unsigned threads, enum bench_copy_way way,
                        const struct bench_copy *copy)
{
    struct copy_work work = {.copy = copy, .way = way};
    bench_deal_init(&work.deal, copy->count, copy->bytes);
    return bench_crew_run(crew, threads, copy_part, &work);
}

void bench_copy_limits_init(struct bench_limit limits[BENCH_COPY_WAYS])
{
    for (size_t way = 0; way < BENCH_COPY_WAYS; way++) {
        limits[way] = (struct bench_limit){.name = bench_copy_names[way]};
    }
}

void bench_copy_sample(struct bench *bench, unsigned threads, const struct bench_copy *copy,
                       struct bench_limit limits[BENCH_COPY_WAYS])
{
    for (unsigned way = 0; way < BENCH_COPY_WAYS; way++) {
        uint64_t ns = bench_copy_run(bench->crew, threads, (enum bench_copy_way)way, copy);
        bench_series_add(&limits[way].series, bench_gbps((uint64_t)copy->count * copy->bytes, ns));
    }
}
