/* SPDX-License-Identifier: Apache-2.0 */
#include "base/signals.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <string.h>

static const int taken[SIGNALS_TAKEN] = {SIGINT, SIGTERM, SIGSEGV, SIGBUS, SIGILL, SIGABRT};

static bool is_foreign(const struct sigaction *action)
{
    void *code = NULL;
    Dl_info where;
    if (action->sa_flags & SA_SIGINFO) {
        memcpy(&code, &action->sa_sigaction, sizeof code);
    } else {
        memcpy(&code, &action->sa_handler, sizeof code);
    }
    return code != NULL && dladdr(code, &where) != 0 && where.dli_fname != NULL &&
           strstr(where.dli_fname, "libinfinipath") != NULL;
}

void signals_drop_foreign(void)
{
    for (unsigned i = 0; i < SIGNALS_TAKEN; i++) {
        struct sigaction action;
        if (sigaction(taken[i], NULL, &action) == 0 && is_foreign(&action)) {
            (void)signal(taken[i], SIG_DFL);
        }
    }
}

void signals_save(struct signals_saved *saved_out)
{
    for (unsigned i = 0; i < SIGNALS_TAKEN; i++) {
        (void)sigaction(taken[i], NULL, &saved_out->actions[i]);
    }
}

void signals_restore(const struct signals_saved *saved)
{
    for (unsigned i = 0; i < SIGNALS_TAKEN; i++) {
        (void)sigaction(taken[i], &saved->actions[i], NULL);
    }
}
