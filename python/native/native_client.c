/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Client: its life, upkeep and properties, the memory that is registered with it, and its type.
 * Values are in native_value.c, native_batch.c and native_ranges.c.
 */
#include "native.h"

#include <unistd.h>

#define ERROR_BYTES 512

struct client_box {
    atomic_int refs;
    struct umbp_client *client;
};

struct client {
    PyObject_HEAD struct client_box *box; /* NULL before __init__, and after all have left */
    size_t active;                        /* methods that are running */
    bool closing;                         /* no new calls */
    bool finished; /* a close() has ended: the last to leave gives up the box */
    pid_t owner;   /* the process that made it */
};

static struct client *client_of(PyObject *self) { return (struct client *)self; }

/* ---- the box ---- */

static void box_unref(struct client_box *box)
{
    if (box && atomic_fetch_sub(&box->refs, 1) == 1) {
        umbp_client_destroy(box->client);
        free(box);
    }
}

struct umbp_client *native_client_enter(PyObject *self)
{
    struct client *client = client_of(self);
    if (!client->box || client->closing) {
        (void)native_raise_status(UMBP_CLOSED, "umbp");
        return NULL;
    }
    client->active++;
    return client->box->client;
}

void native_client_leave(PyObject *self)
{
    struct client *client = client_of(self);
    client->active--;
    if (client->finished && client->active == 0) {
        struct client_box *box = client->box;
        client->box = NULL;
        Py_BEGIN_ALLOW_THREADS;
        box_unref(box);
        Py_END_ALLOW_THREADS;
    }
}

/* ---- making one ---- */

struct making {
    struct native_config_box *config;
    struct umbp_client *client;
    enum umbp_status status;
    char error[ERROR_BYTES];
};

static void making_run(void *context)
{
    struct making *making = context;
    making->status = umbp_client_create(making->config->config, &making->client, making->error,
                                        sizeof(making->error));
    native_config_give_back(making->config);
}

static void making_abandon(void *context)
{
    struct making *making = context;
    if (making->status == UMBP_OK) {
        umbp_client_destroy(making->client);
    }
}

static void making_release(void *context) { free(context); }

static const struct native_job_ops making_ops = {making_run, making_abandon, making_release};

static int client_init(PyObject *self, PyObject *args, PyObject *named)
{
    NATIVE_KEYWORDS(names, "config");
    struct client *client = client_of(self);
    PyObject *config;
    if (!PyArg_ParseTupleAndKeywords(args, named, "O:Client", names, &config)) {
        return -1;
    }
    if (client->box || client->closing) {
        PyErr_SetString(PyExc_RuntimeError, "this client is made already");
        return -1;
    }
    struct making *making = calloc(1, sizeof(*making));
    struct client_box *box = calloc(1, sizeof(*box));
    if (!making || !box) {
        (void)PyErr_NoMemory();
        goto free_both;
    }
    making->config = native_config_take(config);
    if (!making->config) {
        goto free_both;
    }
    if (native_job_run(&making_ops, making) != 0) {
        making = NULL;
        goto free_both;
    }
    if (making->status != UMBP_OK) {
        (void)native_raise(making->status, "%s", making->error);
        goto free_both;
    }
    if (client->box) { /* made meanwhile, by another thread */
        Py_BEGIN_ALLOW_THREADS;
        making_abandon(making);
        Py_END_ALLOW_THREADS;
        PyErr_SetString(PyExc_RuntimeError, "this client is made already");
        goto free_both;
    }
    box->client = making->client;
    atomic_store(&box->refs, 1);
    client->owner = getpid();
    client->box = box;
    free(making);
    return 0;

free_both:
    free(making);
    free(box);
    return -1;
}

static void client_dealloc(PyObject *self)
{
    struct client *client = client_of(self);
    PyTypeObject *type = Py_TYPE(self);
    struct client_box *box = client->box;
    client->box = NULL;
    if (box) {
        PyObject *error_type;
        PyObject *error;
        PyObject *trace;
        PyErr_Fetch(&error_type, &error, &trace);
        if (!client->closing && client->owner == getpid() &&
            PyErr_WarnEx(PyExc_ResourceWarning, "unclosed umbp client", 1) != 0) {
            PyErr_WriteUnraisable(NULL);
        }
        Py_BEGIN_ALLOW_THREADS;
        box_unref(box);
        Py_END_ALLOW_THREADS;
        PyErr_Restore(error_type, error, trace);
    }
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* ---- upkeep, as jobs ---- */

enum upkeep_kind {
    UPKEEP_FLUSH,
    UPKEEP_CLEAR,
    UPKEEP_CLOSE
};

struct upkeep {
    enum upkeep_kind kind;
    struct client_box *box;
    uint32_t timeout_ms;
    enum umbp_status status;
};

static void upkeep_run(void *context)
{
    struct upkeep *upkeep = context;
    struct umbp_client *client = upkeep->box->client;
    switch (upkeep->kind) {
    case UPKEEP_FLUSH:
        upkeep->status = umbp_flush(client, upkeep->timeout_ms);
        break;
    case UPKEEP_CLEAR:
        upkeep->status = umbp_clear(client);
        break;
    case UPKEEP_CLOSE:
        upkeep->status = umbp_client_close(client, upkeep->timeout_ms);
        break;
    }
}

static void upkeep_abandon(void *context) { (void)context; }

static void upkeep_release(void *context)
{
    struct upkeep *upkeep = context;
    box_unref(upkeep->box);
    free(upkeep);
}

static const struct native_job_ops upkeep_ops = {upkeep_run, upkeep_abandon, upkeep_release};

/* 0 with a status, or -1 with an exception. On an entered client. */
static int upkeep_do(struct client *client, enum upkeep_kind kind, uint32_t timeout_ms,
                     enum umbp_status *status_out)
{
    struct upkeep *upkeep = calloc(1, sizeof(*upkeep));
    if (!upkeep) {
        (void)PyErr_NoMemory();
        return -1;
    }
    *upkeep = (struct upkeep){kind, client->box, timeout_ms, UMBP_OK};
    atomic_fetch_add(&client->box->refs, 1);
    if (native_job_run(&upkeep_ops, upkeep) != 0) {
        return -1;
    }
    *status_out = upkeep->status;
    Py_BEGIN_ALLOW_THREADS;
    upkeep_release(upkeep);
    Py_END_ALLOW_THREADS;
    return 0;
}

/* Whether this is a forked child, and the client the parent's. */
static bool is_parents(const struct client *client)
{
    return client->box && client->owner != getpid();
}

static PyObject *upkeep_call(PyObject *self, enum upkeep_kind kind, uint32_t timeout_ms,
                             const char *name)
{
    enum umbp_status status = UMBP_OK;
    if (is_parents(client_of(self))) {
        return native_raise_status(UMBP_FORKED, name);
    }
    if (!native_client_enter(self)) {
        return NULL;
    }
    int failed = upkeep_do(client_of(self), kind, timeout_ms, &status);
    native_client_leave(self);
    if (failed) {
        return NULL;
    }
    if (status != UMBP_OK) {
        return native_raise_status(status, name);
    }
    Py_RETURN_NONE;
}

static PyObject *client_flush(PyObject *self, PyObject *args, PyObject *named)
{
    NATIVE_KEYWORDS(names, "timeout");
    PyObject *seconds = NULL;
    uint32_t timeout_ms;
    if (!PyArg_ParseTupleAndKeywords(args, named, "|O:flush", names, &seconds) ||
        native_timeout(seconds, &timeout_ms) != 0) {
        return NULL;
    }
    return upkeep_call(self, UPKEEP_FLUSH, timeout_ms, "flush");
}

static PyObject *client_clear(PyObject *self, PyObject *unused)
{
    (void)unused;
    return upkeep_call(self, UPKEEP_CLEAR, 0, "clear");
}

static PyObject *client_close(PyObject *self, PyObject *args, PyObject *named)
{
    NATIVE_KEYWORDS(names, "timeout");
    struct client *client = client_of(self);
    PyObject *seconds = NULL;
    uint32_t timeout_ms;
    enum umbp_status status = UMBP_OK;
    if (!PyArg_ParseTupleAndKeywords(args, named, "|O:close", names, &seconds) ||
        native_timeout(seconds, &timeout_ms) != 0) {
        return NULL;
    }
    client->closing = true; /* also of one that was never made */
    if (!client->box || is_parents(client)) {
        Py_RETURN_NONE;
    }
    client->active++;
    int failed = upkeep_do(client, UPKEEP_CLOSE, timeout_ms, &status);
    client->finished = client->finished || !failed;
    native_client_leave(self);
    if (failed) {
        return NULL;
    }
    if (status != UMBP_OK) {
        return native_raise_status(status, "close");
    }
    Py_RETURN_NONE;
}

/* ---- memory ---- */

static PyObject *client_register(PyObject *self, PyObject *args)
{
    PyObject *data;
    PyObject *size;
    uint64_t pointer;
    uint64_t bytes;
    enum umbp_status status;
    if (!PyArg_ParseTuple(args, "OO:register_memory", &data, &size) ||
        native_u64(data, "data", &pointer) != 0 || native_u64(size, "size", &bytes) != 0) {
        return NULL;
    }
    struct umbp_client *client = native_client_enter(self);
    if (!client) {
        return NULL;
    }
    NATIVE_CALL(status = umbp_register_memory(client, (void *)(uintptr_t)pointer, bytes));
    native_client_leave(self);
    if (status != UMBP_OK) {
        const char *why = umbp_status_text(status);
        if (status == UMBP_ALREADY_EXISTS) {
            why = "it overlaps memory that is registered";
        } else if (status == UMBP_INVALID_VALUE && (!pointer || !bytes)) {
            why = pointer ? "the size is 0" : "the pointer is null";
        } else if (status == UMBP_INVALID_VALUE && bytes > UINT64_MAX - pointer) {
            why = "it goes beyond the end of the address space";
        }
        return native_raise(status, "register_memory: %s", why);
    }
    Py_RETURN_NONE;
}

static PyObject *client_deregister(PyObject *self, PyObject *data)
{
    uint64_t pointer;
    enum umbp_status status;
    if (native_u64(data, "data", &pointer) != 0) {
        return NULL;
    }
    struct umbp_client *client = native_client_enter(self);
    if (!client) {
        return NULL;
    }
    NATIVE_CALL(status = umbp_deregister_memory(client, (void *)(uintptr_t)pointer));
    native_client_leave(self);
    if (status != UMBP_OK) {
        return native_raise(status, "deregister_memory: %s",
                            status == UMBP_NOT_FOUND ? "no memory is registered at that address"
                                                     : umbp_status_text(status));
    }
    Py_RETURN_NONE;
}

/* ---- properties ---- */

static PyObject *client_closed(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(!client_of(self)->box || client_of(self)->closing);
}

static PyObject *client_ask(PyObject *self, void *what)
{
    static const char *const deployments[] = {"local", "pool", "process"};
    PyObject *answer;
    struct umbp_client *client = native_client_enter(self);
    if (!client) {
        return NULL;
    }
    if (*(const char *)what == 'd') {
        unsigned number = (unsigned)umbp_client_deployment(client);
        answer = PyUnicode_FromString(number < 3 ? deployments[number] : "unknown");
    } else if (*(const char *)what == 'r') {
        answer = PyBool_FromLong(umbp_client_supports_ranges(client));
    } else {
        answer = PyBool_FromLong(umbp_client_is_distributed(client));
    }
    native_client_leave(self);
    return answer;
}

static PyGetSetDef properties[] = {
    {"closed", client_closed, NULL, "Whether close() was called.", NULL},
    {"deployment", client_ask, NULL, "\"local\", \"pool\" or \"process\".", "d"},
    {"is_distributed", client_ask, NULL, "Whether values may be on other machines.", "i"},
    {"supports_ranges", client_ask, NULL, "Whether the ranged batches can be used.", "r"},
    {NULL, NULL, NULL, NULL, NULL},
};

#define NAMED(function) (PyCFunction)(void (*)(void))(function), METH_VARARGS | METH_KEYWORDS

static PyMethodDef methods[] = {
    {"put", NAMED(native_value_put),
     "put($self, /, key, data, depth=None)\n--\n\n"
     "Store a value. True: stored. False: the key is there and keeps its first value."},
    {"get", NAMED(native_value_get),
     "get($self, /, key, into=None)\n--\n\n"
     "The value as bytes; or, into a buffer of exactly its size, the number of its bytes.\n"
     "Raises NotFoundError, SizeMismatchError."},
    {"exists", native_value_exists, METH_O,
     "exists($self, key, /)\n--\n\nWhether the key is held. Does not count as a use of it."},
    {"remove", native_value_remove, METH_O,
     "remove($self, key, /)\n--\n\nForget the key. False if there was none."},
    {"batch_put", NAMED(native_batch_put),
     "batch_put($self, /, keys, data, sizes=None, depths=None)\n--\n\n"
     "Store many. `data`: buffers or (pointer, size) tuples; or, with `sizes`, pointers.\n"
     "A Status for each."},
    {"batch_get", NAMED(native_batch_get),
     "batch_get($self, /, keys, into, sizes=None)\n--\n\n"
     "Read many. `into`: writable buffers or (pointer, size) tuples; or, with `sizes`, pointers.\n"
     "A Status for each; what is not OK leaves its buffer undefined."},
    {"batch_exists", native_batch_exists, METH_O,
     "batch_exists($self, keys, /)\n--\n\nA bool for each key."},
    {"batch_exists_consecutive", native_batch_exists_consecutive, METH_O,
     "batch_exists_consecutive($self, keys, /)\n--\n\n"
     "How many keys from the first on are held, up to the first that is not."},
    {"batch_remove", native_batch_remove, METH_O,
     "batch_remove($self, keys, /)\n--\n\nForget many. A Status for each."},
    {"batch_put_ranges", NAMED(native_batch_put_ranges),
     "batch_put_ranges($self, /, keys, object_sizes, pointers, sizes, offsets, counts=None, "
     "depths=None)\n--\n\n"
     "Store values that lie in pieces. A list of pieces for each key; or, with `counts` (how many\n"
     "each key has), flat. The pieces tile the object exactly. A Status for each key."},
    {"batch_get_ranges", NAMED(native_batch_get_ranges),
     "batch_get_ranges($self, /, keys, pointers, sizes, offsets, counts=None, "
     "object_sizes=None)\n--\n\n"
     "Read pieces of values. A Status for each key."},
    {"flush", NAMED(client_flush),
     "flush($self, /, timeout=None)\n--\n\n"
     "Make what was stored durable, within `timeout` seconds."},
    {"clear", client_clear, METH_NOARGS, "clear($self, /)\n--\n\nForget every key."},
    {"close", NAMED(client_close), "close($self, /, timeout=None)\n--\n\nEnd service. Idempotent."},
    {"stat", native_held_stat, METH_O, NULL},
    {"list", NAMED(native_held_list), NULL},
    {"stats", native_held_stats, METH_NOARGS,
     "stats($self, /)\n--\n\nStatistics by name: counters and gauges."},
    {"register_memory", client_register, METH_VARARGS, NULL},
    {"deregister_memory", client_deregister, METH_O, NULL},
    {"external_report", native_external_report, METH_VARARGS, NULL},
    {"external_revoke", native_external_revoke, METH_VARARGS, NULL},
    {"external_revoke_all", native_external_revoke_all, METH_VARARGS, NULL},
    {"external_match", native_external_match, METH_VARARGS, NULL},
    {"external_hits", native_external_hits, METH_O,
     "external_hits($self, hashes, /)\n--\n\n"
     "How often each hash was matched with count_as_hit; 0 for one that is not known."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, (void *)PyType_GenericNew},
    {Py_tp_init, (void *)client_init},
    {Py_tp_dealloc, (void *)client_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {Py_sq_contains, (void *)native_value_contains},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "umbp._umbp.Client",
    .basicsize = sizeof(struct client),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

int native_client_add(PyObject *module)
{
    static PyTypeObject *type;
    return native_type_add(module, "Client", &spec, &type);
}
