/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs: what may take long, on threads of their own; its end comes back to the loop.
 *
 * A node that ends does not work its queue off: what no thread has begun is cancelled, that is, it
 * goes straight to the ended ones, and so does what is asked for from then on. `done` says CLOSED.
 */
#include "node/node_priv.h"

#define THREADS_MAX 64u

struct node_threads {
    struct node *node;
    struct mutex lock; /* RANK_NODE_JOBS: everything below but threads */
    struct condition work;
    struct list_node queue;
    struct list_node ended;
    bool is_cancelling; /* nothing is begun any more */
    bool is_stopping;   /* and the loop is closed */
    bool is_posted;
    struct fabric_task task;
    pthread_t threads[THREADS_MAX];
    uint32_t count;
};

static struct node_job *first_of(struct list_node *list)
{
    if (list_is_empty(list)) {
        return NULL;
    }
    struct node_job *job = CONTAINER_OF(list->next, struct node_job, node);
    list_remove(&job->node);
    return job;
}

static void finish(struct node_threads *threads)
{
    for (;;) {
        mutex_lock(&threads->lock);
        threads->is_posted = false;
        struct node_job *job = first_of(&threads->ended);
        mutex_unlock(&threads->lock);
        if (!job) {
            return;
        }
        job->done(job);
    }
}

static void finish_task(struct fabric_task *task)
{
    finish(CONTAINER_OF(task, struct node_threads, task));
}

static void *run(void *context)
{
    struct node_threads *threads = context;
    mutex_lock(&threads->lock);
    for (;;) {
        struct node_job *job = first_of(&threads->queue);
        if (!job && threads->is_stopping) {
            break;
        }
        if (!job) {
            (void)condition_wait(&threads->work, &threads->lock, DEADLINE_NEVER);
            continue;
        }
        mutex_unlock(&threads->lock);
        job->work(job);
        mutex_lock(&threads->lock);
        list_push_back(&threads->ended, &job->node);
        bool post = !threads->is_posted;
        threads->is_posted = true;
        mutex_unlock(&threads->lock);
        if (post) {
            fabric_post(threads->node->fabric, &threads->task);
        }
        mutex_lock(&threads->lock);
    }
    mutex_unlock(&threads->lock);
    return NULL;
}

void node_job_run(struct node *node, struct node_job *job)
{
    struct node_threads *threads = node->threads;
    if (node->options.runner) {
        node->options.runner->run(node->options.runner->context, job);
        return;
    }
    bool post = false;
    mutex_lock(&threads->lock);
    job->is_cancelled = threads->is_cancelling;
    if (job->is_cancelled) {
        list_push_back(&threads->ended, &job->node);
        post = !threads->is_posted && !threads->is_stopping;
        threads->is_posted |= post;
    } else {
        list_push_back(&threads->queue, &job->node);
        condition_signal(&threads->work);
    }
    mutex_unlock(&threads->lock);
    if (post) {
        fabric_post(node->fabric, &threads->task);
    }
}

/* Under the lock. */
static void cancel_queue(struct node_threads *threads)
{
    struct node_job *job;
    threads->is_cancelling = true;
    while ((job = first_of(&threads->queue))) {
        job->is_cancelled = true;
        list_push_back(&threads->ended, &job->node);
    }
}

void node_jobs_cancel(struct node *node)
{
    struct node_threads *threads = node->threads;
    if (threads) {
        mutex_lock(&threads->lock);
        cancel_queue(threads);
        mutex_unlock(&threads->lock);
        finish(threads);
    }
}

enum umbp_status node_threads_create(struct node *node)
{
    if (node->options.runner) {
        return UMBP_OK;
    }
    struct node_threads *threads = mem_zalloc(sizeof(*threads));
    if (!threads) {
        return UMBP_NO_MEMORY;
    }
    threads->node = node;
    threads->task.run = finish_task;
    mutex_init(&threads->lock, RANK_NODE_JOBS);
    condition_init(&threads->work);
    list_init(&threads->queue);
    list_init(&threads->ended);
    node->threads = threads;
    while (threads->count < node->options.job_threads && threads->count < THREADS_MAX) {
        enum umbp_status status =
            thread_create(&threads->threads[threads->count], "umbp-node-job", false, run, threads);
        if (status != UMBP_OK) {
            return status;
        }
        threads->count++;
    }
    return UMBP_OK;
}

void node_threads_destroy(struct node *node)
{
    struct node_threads *threads = node->threads;
    if (!threads) {
        return;
    }
    mutex_lock(&threads->lock);
    threads->is_stopping = true;
    cancel_queue(threads);
    condition_broadcast(&threads->work);
    mutex_unlock(&threads->lock);
    for (uint32_t i = 0; i < threads->count; i++) {
        pthread_join(threads->threads[i], NULL);
    }
    finish(threads); /* the loop is closed: their tasks never ran */
    condition_fini(&threads->work);
    mutex_fini(&threads->lock);
    mem_free(threads);
    node->threads = NULL;
}
