/* SPDX-License-Identifier: Apache-2.0 */
/* Named threads. All signals are blocked in them, so the host program's handlers run elsewhere. */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>

#include "base/attr.h"
#include <umbp/status.h>

/* `name` is at most 15 bytes. `background` lowers the thread's CPU priority, where allowed. */
MUST_USE enum umbp_status thread_create(pthread_t *thread_out, const char *name, bool background,
                                        void *(*run)(void *), void *context);
/* Processors this process may run on, at least 1. */
unsigned thread_cpu_count(void);
/* A hint to the core that this is a spin loop. */
static inline void thread_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
