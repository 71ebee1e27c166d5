/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs: calls that may take seconds, made so that the main thread stays open to signals.
 *
 * Only the main thread runs signal handlers, so only there is a thread made; elsewhere, or where
 * no thread can be had, the call is made in place. Whoever comes last frees the job: the thread
 * that is done, or the waiter that has seen it done.
 */
#include "native.h"

#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LOOK_NS 50000000 /* how often the main thread looks for signals */

struct native_job {
    const struct native_job_ops *ops;
    void *context;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool done;
    bool abandoned;
};

static struct native_job *job_make(const struct native_job_ops *ops, void *context)
{
    struct native_job *job = calloc(1, sizeof(*job));
    pthread_condattr_t attributes;
    if (!job || pthread_condattr_init(&attributes) != 0) {
        free(job);
        return NULL;
    }
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&job->ended, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    (void)pthread_mutex_init(&job->lock, NULL);
    job->ops = ops;
    job->context = context;
    return job;
}

static void job_free(struct native_job *job)
{
    (void)pthread_cond_destroy(&job->ended);
    (void)pthread_mutex_destroy(&job->lock);
    free(job);
}

static void *job_thread(void *argument)
{
    struct native_job *job = argument;
    (void)pthread_setname_np(pthread_self(), "umbp-job");
    job->ops->run(job->context);
    (void)pthread_mutex_lock(&job->lock);
    job->done = true;
    bool mine = job->abandoned;
    (void)pthread_cond_signal(&job->ended);
    (void)pthread_mutex_unlock(&job->lock);
    if (mine) {
        job->ops->abandon(job->context);
        job->ops->release(job->context);
        job_free(job);
    }
    return NULL;
}

static bool job_start(struct native_job *job)
{
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all;
    sigset_t before;
    if (pthread_attr_init(&attributes) != 0) {
        return false;
    }
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    (void)sigfillset(&all);
    /* Signals are for the threads of Python. */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, &attributes, job_thread, job);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    return failed == 0;
}

static bool wait_a_little(struct native_job *job)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += LOOK_NS;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    (void)pthread_mutex_lock(&job->lock);
    while (!job->done && pthread_cond_timedwait(&job->ended, &job->lock, &until) == 0) {
    }
    bool done = job->done;
    (void)pthread_mutex_unlock(&job->lock);
    return done;
}

/* An exception is set: the job is the thread's from now on, unless it has just ended. */
static void leave_job(struct native_job *job)
{
    bool done;
    Py_BEGIN_ALLOW_THREADS;
    (void)pthread_mutex_lock(&job->lock);
    job->abandoned = true;
    done = job->done;
    (void)pthread_mutex_unlock(&job->lock);
    if (done) {
        job->ops->abandon(job->context);
        job->ops->release(job->context);
        job_free(job);
    }
    Py_END_ALLOW_THREADS;
}

int native_job_run(const struct native_job_ops *ops, void *context)
{
    const pid_t owner = getpid();
    bool is_main = syscall(SYS_gettid) == owner;
    struct native_job *job = is_main ? job_make(ops, context) : NULL;
    if (job && !job_start(job)) {
        job_free(job);
        job = NULL;
    }
    if (!job) {
        Py_BEGIN_ALLOW_THREADS;
        ops->run(context);
        Py_END_ALLOW_THREADS;
        return 0;
    }
    for (;;) {
        bool done;
        Py_BEGIN_ALLOW_THREADS;
        done = wait_a_little(job);
        Py_END_ALLOW_THREADS;
        if (done) {
            job_free(job);
            return 0;
        }
        int raised = PyErr_CheckSignals();
        if (getpid() != owner) {
            /* A handler has forked, and this is the child: the thread is not here, and may have
             * held the lock. What is the job's stays where it is. */
            if (!raised) {
                (void)native_raise_status(UMBP_FORKED, "umbp");
            }
            return -1;
        }
        if (raised) {
            leave_job(job);
            return -1;
        }
    }
}
