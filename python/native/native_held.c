/* SPDX-License-Identifier: Apache-2.0 */
/* What a client holds: one entry, all of them, and its statistics. */
#include "native.h"

#include <string.h>

#define STATS_ON_STACK 128

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

PyObject *native_held_stat(PyObject *self, PyObject *key_object)
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
        return native_raise_of_key(status, "stat", key_object);
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

PyObject *native_held_list(PyObject *self, PyObject *args, PyObject *named)
{
    NATIVE_KEYWORDS(names, "limit");
    PyObject *limit = Py_None;
    struct listing list = {.most = SIZE_MAX};
    enum umbp_status status;
    if (!PyArg_ParseTupleAndKeywords(args, named, "|O:list", names, &limit) ||
        (limit != Py_None && native_size(limit, "limit", &list.most) != 0)) {
        return NULL;
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

PyObject *native_held_stats(PyObject *self, PyObject *unused)
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
