/* SPDX-License-Identifier: Apache-2.0 */
/* For `python -m umbp.bench`: time spent in the library, and the same batches without Python. */
#include "native.h"

#include <string.h>
#include <time.h>

bool native_timing;
static _Thread_local uint64_t began_ns;
static _Thread_local uint64_t library_ns;

static uint64_t now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void native_timing_begin(void) { began_ns = now_ns(); }

void native_timing_end(void) { library_ns += now_ns() - began_ns; }

PyObject *native_bench_time_calls(PyObject *self, PyObject *on)
{
    (void)self;
    int is = PyObject_IsTrue(on);
    if (is < 0) {
        return NULL;
    }
    native_timing = is != 0;
    Py_RETURN_NONE;
}

/* What this thread has spent in the library since it last asked. */
PyObject *native_bench_library_ns(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    uint64_t spent = library_ns;
    library_ns = 0;
    return PyLong_FromUnsignedLongLong(spent);
}

enum {
    OP_PUT,
    OP_GET,
    OP_EXISTS
};

struct bench {
    PyObject *keys;
    size_t count;
    struct umbp_put_item *puts;
    struct umbp_get_item *gets;
    struct umbp_key *names;
    enum umbp_status *statuses;
};

static enum umbp_status bench_once(struct umbp_client *client, const struct bench *bench, int op)
{
    switch (op) {
    case OP_PUT:
        return umbp_batch_put(client, bench->puts, bench->count, bench->statuses);
    case OP_GET:
        return umbp_batch_get(client, bench->gets, bench->count, bench->statuses);
    default:
        return umbp_batch_exists(client, bench->names, bench->count, (uint8_t *)bench->statuses);
    }
}

static int bench_fill(struct bench *bench, PyObject *pointers, PyObject *sizes)
{
    struct native_ints ints;
    size_t count = bench->count;
    int failed = native_keys_fill(bench->keys, count, bench->puts, sizeof(*bench->puts)) != 0;
    PyObject *columns[] = {pointers, sizes};
    for (unsigned c = 0; c < 2 && !failed; c++) {
        if (native_ints_open(&ints, columns[c], c ? "sizes" : "pointers", -1) != 0) {
            return -1;
        }
        failed = native_ints_expect(&ints, count, "keys") != 0 ||
                 native_ints_fill(&ints, count,
                                  c ? (void *)&bench->puts[0].bytes : (void *)&bench->puts[0].data,
                                  sizeof(*bench->puts)) != 0;
        native_ints_close(&ints);
    }
    for (size_t i = 0; i < count && !failed; i++) {
        bench->puts[i].depth = UMBP_DEPTH_NONE;
        bench->names[i] = bench->puts[i].key;
        bench->gets[i] = (struct umbp_get_item){
            bench->puts[i].key, (void *)(uintptr_t)bench->puts[i].data, bench->puts[i].bytes};
    }
    return failed ? -1 : 0;
}

/* bench_batch(client, "put" | "get" | "exists", keys, pointers, sizes, rounds): nanoseconds of each
 * round, through C alone. */
PyObject *native_bench_batch(PyObject *self, PyObject *args)
{
    PyObject *object;
    const char *op;
    PyObject *keys;
    PyObject *pointers;
    PyObject *sizes;
    PyObject *rounds_object;
    uint32_t rounds;
    PyObject *result = NULL;
    struct bench bench = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "OsOOOO:bench_batch", &object, &op, &keys, &pointers, &sizes,
                          &rounds_object) ||
        native_u32(rounds_object, "rounds", &rounds) != 0) {
        return NULL;
    }
    bench.keys = native_keys_open(keys, &bench.count);
    if (!bench.keys) {
        return NULL;
    }
    bench.puts = PyMem_Calloc(bench.count + 1, sizeof(*bench.puts));
    bench.gets = PyMem_Calloc(bench.count + 1, sizeof(*bench.gets));
    bench.names = PyMem_Calloc(bench.count + 1, sizeof(*bench.names));
    bench.statuses = PyMem_Calloc(bench.count + 1, sizeof(*bench.statuses));
    uint64_t *spent = PyMem_Calloc((size_t)rounds + 1, sizeof(*spent));
    if (!bench.puts || !bench.gets || !bench.names || !bench.statuses || !spent) {
        (void)PyErr_NoMemory();
        goto end;
    }
    if (bench_fill(&bench, pointers, sizes) != 0) {
        goto end;
    }
    int which = strcmp(op, "put") == 0 ? OP_PUT : strcmp(op, "get") == 0 ? OP_GET : OP_EXISTS;
    enum umbp_status status = UMBP_OK;
    struct umbp_client *client = native_client_enter(object);
    if (!client) {
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS;
    for (unsigned i = 0; i < rounds && status == UMBP_OK; i++) {
        uint64_t began = now_ns();
        status = bench_once(client, &bench, which);
        spent[i] = now_ns() - began;
    }
    Py_END_ALLOW_THREADS;
    native_client_leave(object);
    if (status != UMBP_OK) {
        (void)native_raise_status(status, op);
        goto end;
    }
    result = native_int_list(spent, rounds);
end:
    PyMem_Free(bench.puts);
    PyMem_Free(bench.gets);
    PyMem_Free(bench.names);
    PyMem_Free(bench.statuses);
    PyMem_Free(spent);
    Py_DECREF(bench.keys);
    return result;
}
