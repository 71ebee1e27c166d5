/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one list of outcomes. Numbers are part of the ABI: they are never reused, new ones are added
 * at the end. Zero is success; UMBP_ALREADY_EXISTS is a success too (see umbp_put).
 */
#ifndef UMBP_STATUS_H
#define UMBP_STATUS_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define UMBP_STATUS_MAP(X)                                                                         \
    X(0, OK, "success")                                                                            \
    X(1, ALREADY_EXISTS, "the key is already there and keeps its first value")                     \
    X(2, NOT_FOUND, "no such key")                                                                 \
    X(3, SIZE_MISMATCH, "the stored value has another size")                                       \
    X(4, INVALID_KEY, "a key has 1 to 1024 bytes")                                                 \
    X(5, INVALID_VALUE, "an argument is not valid")                                                \
    X(6, INVALID_RANGE, "the ranges do not fit the object")                                        \
    X(7, TOO_LARGE, "the value is larger than the store can hold")                                 \
    X(8, NO_SPACE, "no space: all that could make room is in use")                                 \
    X(9, NO_MEMORY, "out of memory")                                                               \
    X(10, LIMIT, "over a limit of the interface")                                                  \
    X(11, IO, "input or output failed")                                                            \
    X(12, CORRUPT, "stored bytes failed their check")                                              \
    X(13, TIMEOUT, "not done in the time given")                                                   \
    X(14, CLOSED, "the client is closed")                                                          \
    X(15, READ_ONLY, "this store only reads")                                                      \
    X(16, LOCKED, "another process owns the directory")                                            \
    X(17, VERSION, "written by a newer version")                                                   \
    X(18, UNSUPPORTED, "not supported by this build or system")                                    \
    X(19, UNKNOWN_OPTION, "no such option")                                                        \
    X(20, BUSY, "in use, try again")                                                               \
    X(21, CANCELLED, "cancelled")                                                                  \
    X(22, STALE, "the thing referred to has been replaced")                                        \
    X(23, FORKED, "the handle belongs to the parent process")

enum umbp_status {
#define UMBP_STATUS_ENUM(number, name, text) UMBP_##name = number,
    UMBP_STATUS_MAP(UMBP_STATUS_ENUM)
#undef UMBP_STATUS_ENUM
};

/* "SIZE_MISMATCH"; "UNKNOWN" for a number that is none. Static storage. */
__attribute__((visibility("default"))) const char *umbp_status_name(enum umbp_status status);

/* A sentence without its full stop. Static storage. */
__attribute__((visibility("default"))) const char *umbp_status_text(enum umbp_status status);

/* Whether the call did what was asked: UMBP_OK or UMBP_ALREADY_EXISTS. */
static inline bool umbp_status_is_success(enum umbp_status status)
{
    return status == UMBP_OK || status == UMBP_ALREADY_EXISTS;
}

#ifdef __cplusplus
}
#endif

#endif
