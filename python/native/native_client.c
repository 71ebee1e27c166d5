/* SPDX-License-Identifier: Apache-2.0 */
/* Client: its life, single values, upkeep. Batches are in native_batch.c and native_ranges.c. */
#include "native.h"

#include <string.h>
#include <unistd.h>

#define ERROR_BYTES 512
#define STATS_ON_STACK 128
#define GET_TRIES 8

#define KEYWORDS(name, ...) static char *name[] = {__VA_ARGS__, NULL}

static struct native_client *client_of(PyObject *self) { return (struct native_client *)self; }

/* ---- the box ---- */

static void box_unref(struct native_client_box *box)
{
    if (box && atomic_fetch_sub(&box->refs, 1) == 1) {
        umbp_client_destroy(box->client);
        free(box);
    }
}

struct umbp_client *native_client_enter(PyObject *self)
{
    struct native_client *client = client_of(self);
    if (!client->box || client->closing) {
        (void)native_raise_status(UMBP_CLOSED, "umbp");
        return NULL;
    }
    client->active++;
    return client->box->client;
}

void native_client_leave(PyObject *self)
{
    struct native_client *client = client_of(self);
    client->active--;
    if (client->finished && client->active == 0) {
        struct native_client_box *box = client->box;
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
    KEYWORDS(names, "config");
    struct native_client *client = client_of(self);
    PyObject *config;
    if (!PyArg_ParseTupleAndKeywords(args, named, "O:Client", names, &config)) {
        return -1;
    }
    if (client->box || client->closing) {
        PyErr_SetString(PyExc_RuntimeError, "this client is made already");
        return -1;
    }
    struct making *making = calloc(1, sizeof(*making));
    struct native_client_box *box = calloc(1, sizeof(*box));
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
    struct native_client *client = client_of(self);
    PyTypeObject *type = Py_TYPE(self);
    struct native_client_box *box = client->box;
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
    struct native_client_box *box;
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
static int upkeep_do(struct native_client *client, enum upkeep_kind kind, uint32_t timeout_ms,
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
static bool is_parents(const struct native_client *client)
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
    KEYWORDS(names, "timeout");
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
    KEYWORDS(names, "timeout");
    struct native_client *client = client_of(self);
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

/* ---- single values ---- */

static PyObject *raise_of_key(enum umbp_status status, const char *what, PyObject *key)
{
    return native_raise(status, "%s %R: %s", what, key, umbp_status_text(status));
}

static PyObject *client_put(PyObject *self, PyObject *args, PyObject *named)
{
    KEYWORDS(names, "key", "data", "depth");
    PyObject *key_object;
    PyObject *data;
    PyObject *depth_object = Py_None;
    uint32_t depth = UMBP_DEPTH_NONE;
    struct umbp_key key;
    struct native_memory memory;
    enum umbp_status status = UMBP_OK;
    if (!PyArg_ParseTupleAndKeywords(args, named, "OO|O:put", names, &key_object, &data,
                                     &depth_object) ||
        native_key(key_object, -1, &key) != 0) {
        return NULL;
    }
    if (depth_object != Py_None) {
        struct native_ints ints;
        if (native_ints_open(&ints, depth_object, "depth", -1) != 0) {
            return NULL;
        }
        int failed = native_ints_expect(&ints, 1, "put") != 0 ||
                     native_ints_fill_u32(&ints, 1, &depth, sizeof(depth)) != 0;
        native_ints_close(&ints);
        if (failed) {
            return NULL;
        }
    }
    if (native_memory_open(data, false, "data", -1, &memory) != 0) {
        return NULL;
    }
    struct umbp_client *client = native_client_enter(self);
    if (client) {
        NATIVE_CALL(status = umbp_put(client, key, memory.data, memory.bytes, depth));
        native_client_leave(self);
    }
    native_memory_close(&memory);
    if (!client) {
        return NULL;
    }
    if (!umbp_status_is_success(status)) {
        return raise_of_key(status, "put", key_object);
    }
    return PyBool_FromLong(status == UMBP_OK);
}

static PyObject *get_into(PyObject *self, PyObject *key_object, struct umbp_key key, PyObject *into)
{
    struct native_memory memory;
    enum umbp_status status = UMBP_OK;
    if (native_memory_open(into, true, "into", -1, &memory) != 0) {
        return NULL;
    }
    struct umbp_client *client = native_client_enter(self);
    if (client) {
        NATIVE_CALL(status = umbp_get(client, key, memory.data, memory.bytes));
        native_client_leave(self);
    }
    native_memory_close(&memory);
    if (!client) {
        return NULL;
    }
    if (status != UMBP_OK) {
        return raise_of_key(status, "get", key_object);
    }
    return PyLong_FromUnsignedLongLong(memory.bytes);
}

/* The size is asked for first; between the two, a value may be replaced by one of another size. */
static PyObject *get_bytes(PyObject *self, PyObject *key_object, struct umbp_key key)
{
    PyObject *value = NULL;
    enum umbp_status status = UMBP_OK;
    struct umbp_client *client = native_client_enter(self);
    if (!client) {
        return NULL;
    }
    for (unsigned i = 0; i < GET_TRIES; i++) {
        struct umbp_entry_info info = {.struct_bytes = sizeof(info)};
        NATIVE_CALL(status = umbp_stat(client, key, &info));
        if (status != UMBP_OK) {
            break;
        }
        value = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)info.bytes);
        if (!value) {
            native_client_leave(self);
            return NULL;
        }
        char *data = PyBytes_AsString(value);
        NATIVE_CALL(status = umbp_get(client, key, data, info.bytes));
        if (status != UMBP_SIZE_MISMATCH) {
            break;
        }
        Py_CLEAR(value);
    }
    native_client_leave(self);
    if (status != UMBP_OK) {
        Py_XDECREF(value);
        return raise_of_key(status, "get", key_object);
    }
    return value;
}

static PyObject *client_get(PyObject *self, PyObject *args, PyObject *named)
{
    KEYWORDS(names, "key", "into");
    PyObject *key_object;
    PyObject *into = Py_None;
    struct umbp_key key;
    if (!PyArg_ParseTupleAndKeywords(args, named, "O|O:get", names, &key_object, &into) ||
        native_key(key_object, -1, &key) != 0) {
        return NULL;
    }
    return into == Py_None ? get_bytes(self, key_object, key)
                           : get_into(self, key_object, key, into);
}

/* 1, 0, or -1 with an exception. */
static int contains(PyObject *self, PyObject *key_object)
{
    struct umbp_key key;
    enum umbp_status status;
    if (native_key(key_object, -1, &key) != 0) {
        return -1;
    }
    struct umbp_client *client = native_client_enter(self);
    if (!client) {
        return -1;
    }
    NATIVE_CALL(status = umbp_exists(client, key));
    native_client_leave(self);
    if (status != UMBP_OK && status != UMBP_NOT_FOUND) {
        (void)raise_of_key(status, "exists", key_object);
        return -1;
    }
    return status == UMBP_OK;
}

static PyObject *client_exists(PyObject *self, PyObject *key)
{
    int found = contains(self, key);
    return found < 0 ? NULL : PyBool_FromLong(found);
}

static PyObject *client_remove(PyObject *self, PyObject *key_object)
{
    struct umbp_key key;
    enum umbp_status status;
    if (native_key(key_object, -1, &key) != 0) {
        return NULL;
    }
    struct umbp_client *client = native_client_enter(self);
    if (!client) {
        return NULL;
    }
    NATIVE_CALL(status = umbp_remove(client, key));
    native_client_leave(self);
    if (status != UMBP_OK && status != UMBP_NOT_FOUND) {
        return raise_of_key(status, "remove", key_object);
    }
    return PyBool_FromLong(status == UMBP_OK);
}

/* ---- what is held ---- */

static PyObject *entry(const struct umbp_entry_info *info)
{
    PyObject *depth = Py_None;
    if (info->depth == UMBP_DEPTH_NONE) {
        Py_INCREF(depth);
    } else {
        depth = PyLong_FromUnsignedLong(info->depth);
    }
    PyObject *key = PyBytes_FromStringAndSize(info->key.data, (Py_ssize_t)info->key.bytes);
    if (!key || !depth) {
        Py_XDECREF(key);
        Py_XDECREF(depth);
        return NULL;
    }
    return Py_BuildValue("(NKNIOO)", key, (unsigned long long)info->bytes, depth,
                         (unsigned)info->pins, info->in_dram ? Py_True : Py_False,
                         info->in_ssd ? Py_True : Py_False);
}

static PyObject *client_stat(PyObject *self, PyObject *key_object)
{
    struct umbp_key key;
    struct umbp_entry_info info = {.struct_bytes = sizeof(info)};
    enum umbp_status status;
    if (native_key(key_object, -1, &key) != 0) {
        return NULL;
    }
    struct umbp_client *client = native_client_enter(self);
    if (!client) {
        return NULL;
    }
    NATIVE_CALL(status = umbp_stat(client, key, &info));
    native_client_leave(self);
    if (status != UMBP_OK) {
        return raise_of_key(status, "stat", key_object);
    }
    info.key = key;
    return entry(&info);
}

/* Entries one behind the other: the structure, then its key. Offsets, since the memory moves. */
struct listing {
    char *memory;
    size_t used;
    size_t capacity;
    size_t count;
    size_t most; /* entries to stop at */
    bool no_memory;
};

static bool listing_visit(void *context, const struct umbp_entry_info *info)
{
    struct listing *list = context;
    size_t need = (sizeof(*info) + info->key.bytes + 7) & ~(size_t)7;
    if (list->count == list->most) {
        return false;
    }
    if (list->capacity - list->used < need) {
        size_t capacity = list->capacity ? list->capacity * 2 : 65536;
        char *memory = realloc(list->memory, capacity);
        if (!memory) {
            list->no_memory = true;
            return false;
        }
        list->memory = memory;
        list->capacity = capacity;
    }
    memcpy(list->memory + list->used, info, sizeof(*info));
    memcpy(list->memory + list->used + sizeof(*info), info->key.data, info->key.bytes);
    list->used += need;
    list->count++;
    return true;
}

static PyObject *listing_objects(const struct listing *list)
{
    PyObject *result = PyList_New((Py_ssize_t)list->count);
    const char *at = list->memory;
    for (size_t i = 0; result && i < list->count; i++) {
        struct umbp_entry_info info;
        memcpy(&info, at, sizeof(info));
        info.key.data = at + sizeof(info);
        PyObject *row = entry(&info);
        if (!row || PyList_SetItem(result, (Py_ssize_t)i, row) != 0) {
            Py_CLEAR(result);
        }
        at += (sizeof(info) + info.key.bytes + 7) & ~(size_t)7;
    }
    return result;
}

static PyObject *client_list(PyObject *self, PyObject *args, PyObject *named)
{
    KEYWORDS(names, "limit");
    PyObject *limit = Py_None;
    struct listing list = {.most = SIZE_MAX};
    enum umbp_status status;
    if (!PyArg_ParseTupleAndKeywords(args, named, "|O:list", names, &limit)) {
        return NULL;
    }
    if (limit != Py_None) {
        Py_ssize_t most = PyNumber_AsSsize_t(limit, PyExc_OverflowError);
        if (most < 0) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_ValueError, "limit is negative");
            }
            return NULL;
        }
        list.most = (size_t)most;
    }
    struct umbp_client *client = native_client_enter(self);
    if (!client) {
        return NULL;
    }
    NATIVE_CALL(status = umbp_list(client, listing_visit, &list));
    native_client_leave(self);
    PyObject *result = NULL;
    if (list.no_memory) {
        (void)PyErr_NoMemory();
    } else if (status != UMBP_OK) {
        (void)native_raise_status(status, "list");
    } else {
        result = listing_objects(&list);
    }
    free(list.memory);
    return result;
}

static PyObject *stats_dict(const struct umbp_stat_value *values, size_t count)
{
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict && i < count; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(values[i].value);
        if (!value || PyDict_SetItemString(dict, values[i].name, value) != 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(value);
    }
    return dict;
}

static PyObject *client_stats(PyObject *self, PyObject *unused)
{
    struct umbp_stat_value some[STATS_ON_STACK];
    struct umbp_stat_value *values = some;
    size_t capacity = STATS_ON_STACK;
    size_t count = 0;
    enum umbp_status status;
    (void)unused;
    struct umbp_client *client = native_client_enter(self);
    if (!client) {
        return NULL;
    }
    NATIVE_CALL(status = umbp_stats(client, values, capacity, &count));
    if (status == UMBP_OK && count > capacity) {
        capacity = count;
        values = PyMem_Malloc(capacity * sizeof(*values));
        if (!values) {
            native_client_leave(self);
            return PyErr_NoMemory();
        }
        NATIVE_CALL(status = umbp_stats(client, values, capacity, &count));
    }
    native_client_leave(self);
    PyObject *result = status == UMBP_OK ? stats_dict(values, count < capacity ? count : capacity)
                                         : native_raise_status(status, "stats");
    if (values != some) {
        PyMem_Free(values);
    }
    return result;
}

/* ---- memory ---- */

static PyObject *client_register(PyObject *self, PyObject *args)
{
    unsigned long long pointer;
    unsigned long long bytes;
    enum umbp_status status;
    if (!PyArg_ParseTuple(args, "KK:register_memory", &pointer, &bytes)) {
        return NULL;
    }
    struct umbp_client *client = native_client_enter(self);
    if (!client) {
        return NULL;
    }
    NATIVE_CALL(status = umbp_register_memory(client, (void *)(uintptr_t)pointer, bytes));
    native_client_leave(self);
    if (status != UMBP_OK) {
        return native_raise(status, "register_memory: %s",
                            status == UMBP_ALREADY_EXISTS ? "it overlaps memory that is registered"
                                                          : umbp_status_text(status));
    }
    Py_RETURN_NONE;
}

static PyObject *client_deregister(PyObject *self, PyObject *args)
{
    unsigned long long pointer;
    enum umbp_status status;
    if (!PyArg_ParseTuple(args, "K:deregister_memory", &pointer)) {
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
    {"put", NAMED(client_put),
     "put($self, /, key, data, depth=None)\n--\n\n"
     "Store a value. True: stored. False: the key is there and keeps its first value."},
    {"get", NAMED(client_get),
     "get($self, /, key, into=None)\n--\n\n"
     "The value as bytes; or, into a buffer of exactly its size, the number of its bytes.\n"
     "Raises NotFoundError, SizeMismatchError."},
    {"exists", client_exists, METH_O,
     "exists($self, key, /)\n--\n\nWhether the key is held. Does not count as a use of it."},
    {"remove", client_remove, METH_O,
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
    {"stat", client_stat, METH_O, NULL},
    {"list", NAMED(client_list), NULL},
    {"stats", client_stats, METH_NOARGS,
     "stats($self, /)\n--\n\nStatistics by name: counters and gauges."},
    {"register_memory", client_register, METH_VARARGS, NULL},
    {"deregister_memory", client_deregister, METH_VARARGS, NULL},
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
    {Py_sq_contains, (void *)contains},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "umbp._umbp.Client",
    .basicsize = sizeof(struct native_client),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

int native_client_add(PyObject *module)
{
    static PyTypeObject *type;
    if (!type) {
        type = (PyTypeObject *)PyType_FromSpec(&spec);
        if (!type) {
            return -1;
        }
    }
    Py_INCREF(type);
    if (PyModule_AddObject(module, "Client", (PyObject *)type) != 0) {
        Py_DECREF(type);
        return -1;
    }
    return 0;
}
