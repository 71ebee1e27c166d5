/* SPDX-License-Identifier: Apache-2.0 */
/* Single values: put, get, exists, remove. */
#include "native.h"

#define GET_TRIES 8

static PyObject *raise_of_value(enum umbp_status status, const char *what, PyObject *key,
                                const struct native_memory *memory)
{
    if (status == UMBP_INVALID_VALUE && !memory->data) {
        return native_raise(status, "%s %R: the pointer is null", what, key);
    }
    return native_raise_of_key(status, what, key);
}

PyObject *native_value_put(PyObject *self, PyObject *args, PyObject *named)
{
    NATIVE_KEYWORDS(names, "key", "data", "depth");
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
    if ((depth_object != Py_None && native_u32(depth_object, "depth", &depth) != 0) ||
        native_memory_open(data, false, "data", -1, &memory) != 0) {
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
        return raise_of_value(status, "put", key_object, &memory);
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
        return raise_of_value(status, "get", key_object, &memory);
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
        return native_raise_of_key(status, "get", key_object);
    }
    return value;
}

PyObject *native_value_get(PyObject *self, PyObject *args, PyObject *named)
{
    NATIVE_KEYWORDS(names, "key", "into");
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

int native_value_contains(PyObject *self, PyObject *key_object)
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
        (void)native_raise_of_key(status, "exists", key_object);
        return -1;
    }
    return status == UMBP_OK;
}

PyObject *native_value_exists(PyObject *self, PyObject *key)
{
    int found = native_value_contains(self, key);
    return found < 0 ? NULL : PyBool_FromLong(found);
}

PyObject *native_value_remove(PyObject *self, PyObject *key_object)
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
        return native_raise_of_key(status, "remove", key_object);
    }
    return PyBool_FromLong(status == UMBP_OK);
}
