/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The native part of the Python package: types Client, Config and HostBuffer on the public C API
 * (umbp.h) and on nothing else of the library. The package's Python files subclass them.
 *
 * ABI. Built once against CPython's limited API of 3.9, for every CPython from 3.9 on. Two things
 * are declared here by hand because the limited API has them from 3.10 and 3.11 only: the UTF-8 of
 * a str, and the buffer protocol. Both are exported, with this same layout, by 3.9 and 3.10 too;
 * the tests run on each version. Free-threaded interpreters do not load abi3 modules, and the
 * package refuses them with a sentence. Subinterpreters are refused: state here is the process's.
 *
 * The GIL guards every structure here, and is released around each call of the library that copies,
 * waits or reads a file. So, for every method:
 *
 *     with the GIL      arguments become C structures: keys, pointers, sizes. What they point into
 *                       is held: a tuple of the keys (never the caller's list, which another thread
 *                       could change), a Py_buffer for each buffer. No Python code can run between
 *                       `client_enter` and the library's call except what the arguments themselves
 *                       bring (an __index__, a __buffer__), and that happens before it.
 *     without           the library's call. It sees nothing that belongs to Python but bytes.
 *     with the GIL      results become Python objects; what was held is let go.
 *
 * Arguments of up to some 128 items live on the C stack; larger batches take one allocation.
 *
 * Life of a client. The C handle sits in a counted box. The Python object holds one reference, and
 * so does each background job. Each method that is running counts in `active`. close() ends
 * service, and whoever leaves last gives up the object's reference; the last reference destroys the
 * handle, without the GIL. So a close amid calls is safe, and memory is returned as soon as nobody
 * uses it. A close that was interrupted keeps the box, so that the next one waits for it. An object
 * that is dropped unclosed warns (ResourceWarning) and is closed.
 *
 * Signals. flush, clear, close, the making of clients and host buffers may take seconds: on the
 * main thread they run as jobs, in a thread of their own, and the main thread looks for signals
 * every 50 ms. When a handler raises (KeyboardInterrupt), the job is left to end by itself, which
 * its own deadline bounds; what it makes is destroyed by it. Calls that read or write the caller's
 * buffers can't be left: they return within op_timeout_ms, and the exception comes then.
 *
 * fork. The library notices it: every call on a parent's client answers FORKED, and destroying one
 * does nothing; nor does close() in a child. No lock is held here across anything, so none can be
 * left locked in a child, and no job is started there for a parent's client. A signal handler may
 * fork while the main thread waits for a job: in the child the call is FORKED at once.
 *
 * Exit. The package closes what is open before the interpreter goes (atexit). A daemon thread that
 * is inside the library then never comes back for the GIL; all it uses stays held.
 */
#ifndef PYTHON_NATIVE_H
#define PYTHON_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>

#include <umbp/umbp.h>

/* ---- what the limited API of 3.9 lacks (see above) ---- */

struct native_buffer {
    void *buf;
    PyObject *obj;
    Py_ssize_t len;
    Py_ssize_t itemsize;
    int readonly;
    int ndim;
    char *format;
    Py_ssize_t *shape;
    Py_ssize_t *strides;
    Py_ssize_t *suboffsets;
    void *internal;
};

#if Py_LIMITED_API + 0 >= 0x030b0000
#error "build for 3.9: newer headers declare these"
#endif
PyAPI_FUNC(int) PyObject_CheckBuffer(PyObject *object);
PyAPI_FUNC(int) PyObject_GetBuffer(PyObject *object, struct native_buffer *view, int flags);
PyAPI_FUNC(void) PyBuffer_Release(struct native_buffer *view);
PyAPI_FUNC(int) PyBuffer_FillInfo(struct native_buffer *view, PyObject *object, void *data,
                                  Py_ssize_t bytes, int readonly, int flags);
PyAPI_FUNC(const char *) PyUnicode_AsUTF8AndSize(PyObject *text, Py_ssize_t *bytes_out);

#define NATIVE_BUFFER_SIMPLE 0
#define NATIVE_BUFFER_WRITABLE 1
#define NATIVE_BUFFER_FORMAT 4
#define NATIVE_BUFFER_ND 8

/* ---- errors (native_module.c) ---- */

/* Raise the exception class of the status; `format` as PyErr_Format's. Always returns NULL. */
PyObject *native_raise(enum umbp_status status, const char *format, ...);
/* "what: text of the status". */
PyObject *native_raise_status(enum umbp_status status, const char *what);
/* "what 'key': text of the status". */
PyObject *native_raise_of_key(enum umbp_status status, const char *what, PyObject *key);
/* A list of Status members, from `count` statuses. */
PyObject *native_status_list(const enum umbp_status *statuses, size_t count);
/* A list of ints. */
PyObject *native_int_list(const uint64_t *values, size_t count);

/* ---- time spent in the library, for the benchmark (native_bench.c) ---- */

extern bool native_timing;
void native_timing_begin(void);
void native_timing_end(void);

/* Around each call of the library: without the GIL, and timed if asked. `call` is one statement. */
#define NATIVE_CALL(call)                                                                          \
    do {                                                                                           \
        Py_BEGIN_ALLOW_THREADS;                                                                    \
        if (native_timing) {                                                                       \
            native_timing_begin();                                                                 \
        }                                                                                          \
        call;                                                                                      \
        if (native_timing) {                                                                       \
            native_timing_end();                                                                   \
        }                                                                                          \
        Py_END_ALLOW_THREADS;                                                                      \
    } while (0)

/* The names of a call's arguments, for PyArg_ParseTupleAndKeywords. */
#define NATIVE_KEYWORDS(name, ...) static char *name[] = {__VA_ARGS__, NULL}

/* ---- arguments (native_args.c). Functions that return int: 0, or -1 with an exception set. --- */

/* Memory for one call: a stretch of the caller's stack, else the heap. */
#define NATIVE_SCRATCH_BYTES 8192
struct native_scratch {
    _Alignas(64) char stack[NATIVE_SCRATCH_BYTES];
    size_t used;
    void *heap[4];
    unsigned heap_count;
};
void native_scratch_init(struct native_scratch *scratch);
/* Not zeroed. NULL with MemoryError set. At most 4 of a call may be too large for the stack. */
void *native_scratch_get(struct native_scratch *scratch, size_t count, size_t item_bytes);
void native_scratch_fini(struct native_scratch *scratch);

/* A str as UTF-8 or bytes; borrowed from `object`. `index` < 0: not of a list. */
int native_key(PyObject *object, Py_ssize_t index, struct umbp_key *key_out);

/* What a sequence holds now: the same tuple, or a new one. */
PyObject *native_tuple(PyObject *sequence, const char *name);

/* The keys of a batch: a tuple that holds them all. */
PyObject *native_keys_open(PyObject *keys, size_t *count_out);
/* Into the umbp_key at the beginning of each item. */
int native_keys_fill(PyObject *tuple, size_t count, void *items, size_t item_bytes);

/* The keys of a call that takes nothing else for each, as the library wants them. */
struct native_key_list {
    struct native_scratch scratch; /* also for what the call answers */
    PyObject *tuple;               /* the keys as they were given */
    size_t count;
    struct umbp_key *keys;
};
/* -1: an exception, and nothing to close. */
int native_key_list_open(struct native_key_list *list, PyObject *keys);
void native_key_list_close(struct native_key_list *list);

/* A single unsigned integer of at most 64 (32) bits: an int, or what has __index__. */
int native_u64(PyObject *object, const char *name, uint64_t *value_out);
int native_u32(PyObject *object, const char *name, uint32_t *value_out);
/* The same, of what is a size of Python's. */
int native_size(PyObject *object, const char *name, size_t *value_out);
/* Whether it stands for one integer, not for many (an array may have __index__ too): 1, 0, or -1
 * with an exception. */
int native_is_one(PyObject *object);

/* Unsigned integers: one for all, a sequence of ints, or a flat array of 4- or 8-byte ints. */
struct native_ints {
    const char *name; /* in messages */
    Py_ssize_t outer; /* >= 0: name[outer], in messages */
    PyObject *tuple;
    struct native_buffer view;
    bool is_view;
    bool is_one;
    bool is_signed;
    uint64_t one;
    size_t count; /* of one for all: 0 */
};
int native_ints_open(struct native_ints *ints, PyObject *object, const char *name,
                     Py_ssize_t outer);
/* ValueError that names both, unless `ints` has `count` values. */
int native_ints_expect(const struct native_ints *ints, size_t count, const char *of_what);
/* A uint64_t at `at`, `at + step`, ... */
int native_ints_fill(const struct native_ints *ints, size_t count, void *at, size_t step);
/* The same as uint32_t; nothing above `most`. */
int native_ints_fill_u32(const struct native_ints *ints, size_t count, void *at, size_t step);
void native_ints_close(struct native_ints *ints);

/* Where values are: an object with the buffer protocol, or a tuple (pointer, size). */
struct native_memory {
    struct native_buffer view; /* .obj is NULL when there is none to release */
    void *data;
    uint64_t bytes;
};
int native_memory_open(PyObject *object, bool writable, const char *name, Py_ssize_t index,
                       struct native_memory *memory_out);
void native_memory_close(struct native_memory *memory);

/* Seconds (None: the default, 0) as milliseconds for the library. */
int native_timeout(PyObject *seconds, uint32_t *timeout_ms_out);

/* ---- jobs (native_job.c) ---- */

struct native_job;
struct native_job_ops {
    void (*run)(void *context);     /* no GIL */
    void (*abandon)(void *context); /* no GIL: nobody waits any more; destroy the result */
    void (*release)(void *context); /* free the context; no GIL needed */
};
/* Run it and wait for it without the GIL. 0: it ran; the caller reads its results out of `context`,
 * which it still owns. -1: an exception is set and `context` is not the caller's any more. */
int native_job_run(const struct native_job_ops *ops, void *context);

/* ---- configurations (native_config.c) ---- */

struct native_config_box {
    atomic_int refs;
    atomic_bool busy; /* a call without the GIL uses it */
    struct umbp_config *config;
};
/* A new reference to the box of a Config that is not in use; marks it busy. */
struct native_config_box *native_config_take(PyObject *object);
void native_config_give_back(struct native_config_box *box);

/* ---- clients (native_client.c) ---- */

/* The handle, and the call counted in; or NULL with an exception. */
struct umbp_client *native_client_enter(PyObject *self);
void native_client_leave(PyObject *self);

/* ---- making of types ---- */

/* Into the module; made the first time, and the same when it is imported anew (native_module.c). */
int native_type_add(PyObject *module, const char *name, PyType_Spec *spec, PyTypeObject **type);
int native_config_add(PyObject *module);
int native_client_add(PyObject *module);
int native_host_add(PyObject *module);

/* Methods in files of their own. */
PyObject *native_value_put(PyObject *self, PyObject *args, PyObject *named);
PyObject *native_value_get(PyObject *self, PyObject *args, PyObject *named);
PyObject *native_value_exists(PyObject *self, PyObject *key);
PyObject *native_value_remove(PyObject *self, PyObject *key);
/* 1, 0, or -1 with an exception. */
int native_value_contains(PyObject *self, PyObject *key);
PyObject *native_held_stat(PyObject *self, PyObject *key);
PyObject *native_held_list(PyObject *self, PyObject *args, PyObject *named);
PyObject *native_held_stats(PyObject *self, PyObject *unused);
PyObject *native_batch_put(PyObject *self, PyObject *args, PyObject *named);
PyObject *native_batch_get(PyObject *self, PyObject *args, PyObject *named);
PyObject *native_batch_exists(PyObject *self, PyObject *keys);
PyObject *native_batch_exists_consecutive(PyObject *self, PyObject *keys);
PyObject *native_batch_remove(PyObject *self, PyObject *keys);
PyObject *native_batch_put_ranges(PyObject *self, PyObject *args, PyObject *named);
PyObject *native_batch_get_ranges(PyObject *self, PyObject *args, PyObject *named);
PyObject *native_external_report(PyObject *self, PyObject *args);
PyObject *native_external_revoke(PyObject *self, PyObject *args);
PyObject *native_external_revoke_all(PyObject *self, PyObject *args);
PyObject *native_external_match(PyObject *self, PyObject *args);
PyObject *native_external_hits(PyObject *self, PyObject *hashes);
PyObject *native_bench_batch(PyObject *self, PyObject *args);
PyObject *native_bench_time_calls(PyObject *self, PyObject *on);
PyObject *native_bench_library_ns(PyObject *self, PyObject *unused);

#endif
