/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signal handlers that nobody asked for. libinfinipath, which Debian's libfabric brings along,
 * takes SIGINT, SIGTERM and the signals of crashes when it is loaded, before main, and calls exit()
 * in the handler: amid any lock that the process holds, where it waits for ever. Whoever is told to
 * end must end, and a crash leave its core.
 *
 * Thread-safe as sigaction is: what another thread sets meanwhile may be lost.
 */
#ifndef BASE_SIGNALS_H
#define BASE_SIGNALS_H

#include <signal.h>

/* Those of its handlers that are in force give way to the default. */
void signals_drop_foreign(void);

/* Around the loading of libraries: what was in force before is so afterwards. */
#define SIGNALS_TAKEN 6
struct signals_saved {
    struct sigaction actions[SIGNALS_TAKEN];
};
void signals_save(struct signals_saved *saved_out);
void signals_restore(const struct signals_saved *saved);

#endif
