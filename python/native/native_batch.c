/* SPDX-License-Identifier: Apache-2.0 */
/* Batches of whole values. */
#include "native.h"

#include <stddef.h>
#include <string.h>

/* What a batch holds while it runs. */
struct batch {
    struct native_scratch scratch;
    PyObject *keys; /* a tuple */
    size_t count;
    struct native_memory *memories; /* where values came as buffers, as far as they are open */
    size_t memories_open;
    enum umbp_status *statuses;
};

static int batch_begin(struct batch *batch, PyObject *keys)
{
    native_scratch_init(&batch->scratch);
    batch->memories = NULL;
    batch->memories_open = 0;
    batch->keys = native_keys_open(keys, &batch->count);
    return batch->keys ? 0 : -1;
}

static void batch_end(struct batch *batch)
{
    for (size_t i = 0; i < batch->memories_open; i++) {
        native_memory_close(&batch->memories[i]);
    }
    native_scratch_fini(&batch->scratch);
    Py_XDECREF(batch->keys);
}

/* Items of any kind that begin with a key, and the keys in them. */
static void *batch_items(struct batch *batch, size_t item_bytes)
{
    void *items = native_scratch_get(&batch->scratch, batch->count, item_bytes);
    if (!items || native_keys_fill(batch->keys, batch->count, items, item_bytes) != 0) {
        return NULL;
    }
    batch->statuses = native_scratch_get(&batch->scratch, batch->count, sizeof(*batch->statuses));
    return batch->statuses ? items : NULL;
}

/* One column of integers, into a field of the items. */
static int batch_column(const struct batch *batch, PyObject *object, const char *name,
                        bool one_for_all, char *at, size_t step, bool is_u32)
{
    struct native_ints ints;
    if (native_ints_open(&ints, object, name, -1) != 0) {
        return -1;
    }
    int failed = native_ints_expect(&ints, batch->count, "keys");
    if (!failed && ints.is_one && !one_for_all) {
        PyErr_Format(PyExc_TypeError, "%s: one for each key, not one for all", name);
        failed = -1;
    }
    if (!failed) {
        failed = is_u32 ? native_ints_fill_u32(&ints, batch->count, at, step)
                        : native_ints_fill(&ints, batch->count, at, step);
    }
    native_ints_close(&ints);
    return failed;
}

/* Values as buffers and pairs, into the data and bytes of items. */
static int batch_memories(struct batch *batch, PyObject *object, const char *name, bool writable,
                          char *data_at, char *bytes_at, size_t step)
{
    if (PyUnicode_Check(object) || PyBytes_Check(object) || PyLong_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s: a sequence, one for each key", name);
        return -1;
    }
    PyObject *tuple = native_tuple(object, name);
    if (!tuple) {
        return -1;
    }
    int failed = -1;
    size_t count = (size_t)PyTuple_Size(tuple);
    if (count != batch->count) {
        PyErr_Format(PyExc_ValueError, "%s has %zu items, keys has %zu", name, count, batch->count);
        goto done;
    }
    batch->memories = native_scratch_get(&batch->scratch, count, sizeof(*batch->memories));
    if (!batch->memories) {
        goto done;
    }
    for (size_t i = 0; i < count; i++) {
        struct native_memory *memory = &batch->memories[i];
        if (native_memory_open(PyTuple_GetItem(tuple, (Py_ssize_t)i), writable, name, (Py_ssize_t)i,
                               memory) != 0) {
            goto done;
        }
        batch->memories_open++;
        memcpy(data_at + i * step, &memory->data, sizeof(memory->data));
        memcpy(bytes_at + i * step, &memory->bytes, sizeof(memory->bytes));
    }
    failed = 0;
done:
    Py_DECREF(tuple);
    return failed;
}

/* Either pointers and sizes, or buffers. */
static int batch_values(struct batch *batch, PyObject *values, PyObject *sizes, const char *name,
                        bool writable, char *data_at, char *bytes_at, size_t step)
{
    if (sizes == Py_None) {
        return batch_memories(batch, values, name, writable, data_at, bytes_at, step);
    }
    if (batch_column(batch, values, name, false, data_at, step, false) != 0) {
        return -1;
    }
    return batch_column(batch, sizes, "sizes", true, bytes_at, step, false);
}

static PyObject *batch_result(const struct batch *batch, enum umbp_status status, const char *name)
{
    if (status != UMBP_OK) {
        return native_raise_status(status, name);
    }
    return native_status_list(batch->statuses, batch->count);
}

PyObject *native_batch_put(PyObject *self, PyObject *args, PyObject *named)
{
    NATIVE_KEYWORDS(names, "keys", "data", "sizes", "depths");
    PyObject *keys;
    PyObject *data;
    PyObject *sizes = Py_None;
    PyObject *depths = Py_None;
    PyObject *result = NULL;
    struct batch batch;
    if (!PyArg_ParseTupleAndKeywords(args, named, "OO|OO:batch_put", names, &keys, &data, &sizes,
                                     &depths) ||
        batch_begin(&batch, keys) != 0) {
        return NULL;
    }
    struct umbp_put_item *items = batch_items(&batch, sizeof(*items));
    if (!items) {
        goto end;
    }
    const size_t step = sizeof(*items);
    char *at = (char *)items;
    if (batch_values(&batch, data, sizes, "data", false, at + offsetof(struct umbp_put_item, data),
                     at + offsetof(struct umbp_put_item, bytes), step) != 0) {
        goto end;
    }
    for (size_t i = 0; i < batch.count; i++) {
        items[i].depth = UMBP_DEPTH_NONE;
        items[i].reserved = 0;
    }
    if (depths != Py_None &&
        batch_column(&batch, depths, "depths", true, at + offsetof(struct umbp_put_item, depth),
                     step, true) != 0) {
        goto end;
    }
    struct umbp_client *client = native_client_enter(self);
    if (client) {
        enum umbp_status status;
        NATIVE_CALL(status = umbp_batch_put(client, items, batch.count, batch.statuses));
        native_client_leave(self);
        result = batch_result(&batch, status, "batch_put");
    }
end:
    batch_end(&batch);
    return result;
}

PyObject *native_batch_get(PyObject *self, PyObject *args, PyObject *named)
{
    NATIVE_KEYWORDS(names, "keys", "into", "sizes");
    PyObject *keys;
    PyObject *into;
    PyObject *sizes = Py_None;
    PyObject *result = NULL;
    struct batch batch;
    if (!PyArg_ParseTupleAndKeywords(args, named, "OO|O:batch_get", names, &keys, &into, &sizes) ||
        batch_begin(&batch, keys) != 0) {
        return NULL;
    }
    struct umbp_get_item *items = batch_items(&batch, sizeof(*items));
    char *at = (char *)items;
    if (!items ||
        batch_values(&batch, into, sizes, "into", true, at + offsetof(struct umbp_get_item, data),
                     at + offsetof(struct umbp_get_item, bytes), sizeof(*items)) != 0) {
        goto end;
    }
    struct umbp_client *client = native_client_enter(self);
    if (client) {
        enum umbp_status status;
        NATIVE_CALL(status = umbp_batch_get(client, items, batch.count, batch.statuses));
        native_client_leave(self);
        result = batch_result(&batch, status, "batch_get");
    }
end:
    batch_end(&batch);
    return result;
}

/* ---- keys only ---- */

static PyObject *bool_list(const uint8_t *found, size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list && i < count; i++) {
        if (PyList_SetItem(list, (Py_ssize_t)i, PyBool_FromLong(found[i])) != 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

PyObject *native_batch_exists(PyObject *self, PyObject *keys)
{
    struct native_key_list list;
    PyObject *result = NULL;
    if (native_key_list_open(&list, keys) != 0) {
        return NULL;
    }
    uint8_t *found = native_scratch_get(&list.scratch, list.count, sizeof(*found));
    struct umbp_client *client = found ? native_client_enter(self) : NULL;
    if (client) {
        enum umbp_status status;
        NATIVE_CALL(status = umbp_batch_exists(client, list.keys, list.count, found));
        native_client_leave(self);
        result = status == UMBP_OK ? bool_list(found, list.count)
                                   : native_raise_status(status, "batch_exists");
    }
    native_key_list_close(&list);
    return result;
}

PyObject *native_batch_exists_consecutive(PyObject *self, PyObject *keys)
{
    struct native_key_list list;
    PyObject *result = NULL;
    if (native_key_list_open(&list, keys) != 0) {
        return NULL;
    }
    struct umbp_client *client = native_client_enter(self);
    if (client) {
        enum umbp_status status;
        size_t hits = 0;
        NATIVE_CALL(status = umbp_batch_exists_consecutive(client, list.keys, list.count, &hits));
        native_client_leave(self);
        result = status == UMBP_OK ? PyLong_FromSize_t(hits)
                                   : native_raise_status(status, "batch_exists_consecutive");
    }
    native_key_list_close(&list);
    return result;
}

PyObject *native_batch_remove(PyObject *self, PyObject *keys)
{
    struct native_key_list list;
    PyObject *result = NULL;
    if (native_key_list_open(&list, keys) != 0) {
        return NULL;
    }
    enum umbp_status *statuses = native_scratch_get(&list.scratch, list.count, sizeof(*statuses));
    struct umbp_client *client = statuses ? native_client_enter(self) : NULL;
    if (client) {
        enum umbp_status status;
        NATIVE_CALL(status = umbp_batch_remove(client, list.keys, list.count, statuses));
        native_client_leave(self);
        result = status == UMBP_OK ? native_status_list(statuses, list.count)
                                   : native_raise_status(status, "batch_remove");
    }
    native_key_list_close(&list);
    return result;
}
