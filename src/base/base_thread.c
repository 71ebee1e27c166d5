/* SPDX-License-Identifier: Apache-2.0 */
#include "base/thread.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/mem.h"

#define NAME_BYTES_MAX 15
/* A third of a normal thread's share: callers go first, but a flush that waits for a copier on a
 * busy machine must not wait for ever. An unprivileged thread can't be raised again when it is
 * needed. */
#define BACKGROUND_NICE 5
/* The kernel refuses a mask smaller than its own; no machine has more processors than this. */
#define CPUS_MAX (1 << 20)

/* Handed over to the new thread, which frees it. */
struct start {
    void *(*run)(void *);
    void *context;
    bool background;
    char name[NAME_BYTES_MAX + 1];
};

static void *thread_main(void *argument)
{
    struct start start = *(struct start *)argument;

    mem_free(argument);
    (void)pthread_setname_np(pthread_self(), start.name);
    if (start.background) {
        /* On Linux the priority is the thread's own. Not allowed is not an error. */
        if (getpriority(PRIO_PROCESS, (id_t)gettid()) < BACKGROUND_NICE) {
            (void)setpriority(PRIO_PROCESS, (id_t)gettid(), BACKGROUND_NICE);
        }
    }
    return start.run(start.context);
}

enum umbp_status thread_create(pthread_t *thread_out, const char *name, bool background,
                               void *(*run)(void *), void *context)
{
    ASSERT(strlen(name) <= NAME_BYTES_MAX);
    struct start *start = mem_zalloc(sizeof *start);
    if (start == NULL) {
        return UMBP_NO_MEMORY;
    }
    *start = (struct start){.run = run, .context = context, .background = background};
    memcpy(start->name, name, strlen(name));

    /* A thread starts with its creator's mask. The signals of a fault stay open: they are the
     * thread's own doing, and the program's crash handler should see them. */
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigset_t blocked;
    sigset_t before;
    sigfillset(&blocked);
    for (size_t i = 0; i < ARRAY_COUNT(faults); i++) {
        sigdelset(&blocked, faults[i]);
    }
    pthread_t thread;
    (void)pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int rc = pthread_create(&thread, NULL, thread_main, start);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        mem_free(start);
        return UMBP_NO_MEMORY; /* EAGAIN: no memory, or no more threads */
    }
    *thread_out = thread;
    return UMBP_OK;
}

unsigned thread_cpu_count(void)
{
    for (int cpus = CPU_SETSIZE; cpus <= CPUS_MAX; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)cpus);
        if (set == NULL) {
            break;
        }
        size_t bytes = CPU_ALLOC_SIZE((size_t)cpus);
        int rc = sched_getaffinity(0, bytes, set);
        int count = rc == 0 ? CPU_COUNT_S(bytes, set) : 0;
        int error = errno;
        CPU_FREE(set);
        if (rc == 0) {
            return count > 0 ? (unsigned)count : 1;
        }
        if (error != EINVAL) {
            break;
        }
    }
    return 1;
}
