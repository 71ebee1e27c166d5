/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines: `level event key=value ...`. Library code logs only what an operator must act on or
 * would ask for later (a corrupt record, a fallback taken); errors are returned, not logged. Never
 * log while holding a lock. The sink is the process's one mutable global (umbp_log_set).
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include <umbp/umbp.h>

/* `event` is a short_name; `format` gives the key=value pairs. Values with spaces: use "%s" inside
 * quotes. Lines are cut at 1,023 bytes; control characters are shown as '?'. */
void log_write(enum umbp_log_level level, const char *event, const char *format, ...)
    PRINTF_LIKE(3, 4);
bool log_enabled(enum umbp_log_level level);
/* The level alone; the sink stays. */
void log_level_set(enum umbp_log_level level);

/* For programs, before anything is opened: a closed descriptor among 0, 1 and 2 is taken by
 * /dev/null, on which their use fails, so that no file or socket becomes standard error. */
void log_hold_streams(void);

/* A gate that opens at most once per `every_ms`; counts what it held back. Zero-initialised. */
struct log_limit {
    _Atomic uint64_t next_ns;
    _Atomic uint64_t held_back;
};
/* True when a line may be written now; `*held_back_out` is how many were not since the last. */
bool log_limit_pass(struct log_limit *limit, uint64_t every_ms, uint64_t *held_back_out);

#define log_error(event, ...) log_write(UMBP_LOG_ERROR, event, __VA_ARGS__)
#define log_warn(event, ...) log_write(UMBP_LOG_WARN, event, __VA_ARGS__)
#define log_info(event, ...) log_write(UMBP_LOG_INFO, event, __VA_ARGS__)
#define log_debug(event, ...) log_write(UMBP_LOG_DEBUG, event, __VA_ARGS__)

#endif
