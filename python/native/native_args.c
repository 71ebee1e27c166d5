/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments: keys, integers, buffers. Everything that is wrong is said with its name and index. */
#include "native.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define NAME_BYTES 64

/* ---- scratch ---- */

void native_scratch_init(struct native_scratch *scratch)
{
    scratch->used = 0;
    scratch->heap_count = 0;
}

void *native_scratch_get(struct native_scratch *scratch, size_t count, size_t item_bytes)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, item_bytes, &bytes)) {
        return PyErr_NoMemory();
    }
    size_t left = sizeof(scratch->stack) - scratch->used;
    if (bytes <= left) {
        void *at = scratch->stack + scratch->used;
        size_t rounded = (bytes + 63) & ~(size_t)63;
        scratch->used += rounded < left ? rounded : left;
        return at;
    }
    if (scratch->heap_count == sizeof(scratch->heap) / sizeof(scratch->heap[0])) {
        return PyErr_NoMemory();
    }
    void *at = PyMem_Malloc(bytes);
    if (!at) {
        return PyErr_NoMemory();
    }
    scratch->heap[scratch->heap_count++] = at;
    return at;
}

void native_scratch_fini(struct native_scratch *scratch)
{
    for (unsigned i = 0; i < scratch->heap_count; i++) {
        PyMem_Free(scratch->heap[i]);
    }
}

/* ---- messages ---- */

/* "sizes", "sizes[3]", "sizes[3][7]" */
static const char *name_of(char *text, const char *name, Py_ssize_t outer, Py_ssize_t index)
{
    if (outer >= 0 && index >= 0) {
        (void)snprintf(text, NAME_BYTES, "%s[%zd][%zd]", name, outer, index);
    } else if (outer >= 0 || index >= 0) {
        (void)snprintf(text, NAME_BYTES, "%s[%zd]", name, outer >= 0 ? outer : index);
    } else {
        (void)snprintf(text, NAME_BYTES, "%s", name);
    }
    return text;
}

/* Put the name before the message of the exception that is set, if it is of a kind that arguments
 * cause; others (MemoryError, KeyboardInterrupt) stay as they are. */
static int prefix_error(const char *name)
{
    PyObject *kinds[] = {PyExc_TypeError, PyExc_ValueError, PyExc_BufferError, PyExc_OverflowError};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (!PyErr_ExceptionMatches(kinds[i])) {
            continue;
        }
        PyObject *type;
        PyObject *value;
        PyObject *trace;
        PyErr_Fetch(&type, &value, &trace);
        PyObject *kind = kinds[i] == PyExc_OverflowError ? PyExc_ValueError : kinds[i];
        PyErr_Format(kind, "%s: %S", name, value ? value : type);
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(trace);
        break;
    }
    return -1;
}

static const char *type_name(PyObject *object, PyObject **keep)
{
    *keep = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__name__");
    const char *name = *keep ? PyUnicode_AsUTF8AndSize(*keep, NULL) : NULL;
    if (!name) {
        PyErr_Clear();
        return "object";
    }
    return name;
}

/* TypeError "NAME: WANTED, not TYPE". */
static int wrong_type(const char *name, const char *wanted, PyObject *object)
{
    PyObject *keep;
    const char *had = type_name(object, &keep);
    PyErr_Format(PyExc_TypeError, "%s: %s, not %s", name, wanted, had);
    Py_XDECREF(keep);
    return -1;
}

/* ---- keys ---- */

int native_key(PyObject *object, Py_ssize_t index, struct umbp_key *key_out)
{
    char text[NAME_BYTES];
    Py_ssize_t bytes = 0;
    if (PyUnicode_Check(object)) {
        const char *data = PyUnicode_AsUTF8AndSize(object, &bytes);
        if (!data) {
            if (PyErr_ExceptionMatches(PyExc_UnicodeError)) {
                PyErr_Clear();
                name_of(text, index < 0 ? "key" : "keys", -1, index);
                (void)native_raise(UMBP_INVALID_KEY,
                                   "%s: this str has surrogates and so no UTF-8; give bytes", text);
            }
            return -1;
        }
        *key_out = (struct umbp_key){data, (size_t)bytes};
        return 0;
    }
    if (PyBytes_Check(object)) {
        key_out->data = PyBytes_AsString(object);
        key_out->bytes = (size_t)PyBytes_Size(object);
        return 0;
    }
    name_of(text, index < 0 ? "key" : "keys", -1, index);
    return wrong_type(text, "a key is a str or bytes", object);
}

PyObject *native_tuple(PyObject *sequence, const char *name)
{
    PyObject *tuple = PySequence_Tuple(sequence);
    if (!tuple && PyErr_ExceptionMatches(PyExc_TypeError)) {
        (void)prefix_error(name);
    }
    return tuple;
}

PyObject *native_keys_open(PyObject *keys, size_t *count_out)
{
    if (PyUnicode_Check(keys) || PyBytes_Check(keys)) {
        PyErr_SetString(PyExc_TypeError, "keys: a sequence of keys, not a single one");
        return NULL;
    }
    PyObject *tuple = native_tuple(keys, "keys");
    if (!tuple) {
        return NULL;
    }
    *count_out = (size_t)PyTuple_Size(tuple);
    if (*count_out > UMBP_BATCH_MAX) {
        (void)native_raise(UMBP_LIMIT, "keys: %zu, and a batch has at most %u", *count_out,
                           UMBP_BATCH_MAX);
        Py_DECREF(tuple);
        return NULL;
    }
    return tuple;
}

int native_keys_fill(PyObject *tuple, size_t count, void *items, size_t item_bytes)
{
    char *at = items;
    for (size_t i = 0; i < count; i++, at += item_bytes) {
        if (native_key(PyTuple_GetItem(tuple, (Py_ssize_t)i), (Py_ssize_t)i,
                       (struct umbp_key *)(void *)at) != 0) {
            return -1;
        }
    }
    return 0;
}

int native_key_list_open(struct native_key_list *list, PyObject *keys)
{
    native_scratch_init(&list->scratch);
    list->tuple = native_keys_open(keys, &list->count);
    if (!list->tuple) {
        return -1;
    }
    list->keys = native_scratch_get(&list->scratch, list->count, sizeof(*list->keys));
    if (!list->keys ||
        native_keys_fill(list->tuple, list->count, list->keys, sizeof(*list->keys)) != 0) {
        native_key_list_close(list);
        return -1;
    }
    return 0;
}

void native_key_list_close(struct native_key_list *list)
{
    native_scratch_fini(&list->scratch);
    Py_DECREF(list->tuple);
}

/* ---- integers ---- */

static int int_refused(const struct native_ints *ints, Py_ssize_t index, const char *why)
{
    char text[NAME_BYTES];
    PyErr_Format(PyExc_ValueError, "%s %s", name_of(text, ints->name, ints->outer, index), why);
    return -1;
}

/* By far the most common: an int from 0 to 2**63 - 1. False, without an exception, for others. */
static bool plain_int(PyObject *object, uint64_t *value_out)
{
    int overflow = 0;
    if (!PyLong_Check(object)) {
        return false;
    }
    long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
    *value_out = (uint64_t)value;
    return !overflow && value >= 0;
}

/* One int, or whatever has __index__. */
static int int_of(const struct native_ints *ints, PyObject *object, Py_ssize_t index,
                  uint64_t *value_out)
{
    char text[NAME_BYTES];
    int overflow = 0;
    if (plain_int(object, value_out)) {
        return 0;
    }
    PyObject *number = PyNumber_Index(object);
    if (!number) {
        return prefix_error(name_of(text, ints->name, ints->outer, index));
    }
    int result = 0;
    long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (overflow > 0) {
        *value_out = PyLong_AsUnsignedLongLong(number);
        if (PyErr_Occurred()) {
            PyErr_Clear();
            result = int_refused(ints, index, "is 2**64 or more");
        }
    } else if (overflow < 0 || value < 0) {
        result = int_refused(ints, index, "is negative");
    } else {
        *value_out = (uint64_t)value;
    }
    Py_DECREF(number);
    return result;
}

int native_u64(PyObject *object, const char *name, uint64_t *value_out)
{
    const struct native_ints ints = {.name = name, .outer = -1};
    return int_of(&ints, object, -1, value_out);
}

static int int_up_to(PyObject *object, const char *name, uint64_t most, const char *why,
                     uint64_t *value_out)
{
    const struct native_ints ints = {.name = name, .outer = -1};
    if (int_of(&ints, object, -1, value_out) != 0) {
        return -1;
    }
    return *value_out > most ? int_refused(&ints, -1, why) : 0;
}

int native_u32(PyObject *object, const char *name, uint32_t *value_out)
{
    uint64_t value;
    if (int_up_to(object, name, UINT32_MAX, "is 2**32 or more", &value) != 0) {
        return -1;
    }
    *value_out = (uint32_t)value;
    return 0;
}

int native_size(PyObject *object, const char *name, size_t *value_out)
{
    uint64_t value;
    if (int_up_to(object, name, PY_SSIZE_T_MAX, "is 2**63 or more", &value) != 0) {
        return -1;
    }
    *value_out = (size_t)value;
    return 0;
}

int native_is_one(PyObject *object)
{
    if (PyLong_Check(object)) {
        return 1;
    }
    if (!PyIndex_Check(object)) {
        return 0;
    }
    PyObject *walk = PyObject_GetIter(object);
    if (walk) {
        Py_DECREF(walk);
        return 0;
    }
    if (!PyErr_ExceptionMatches(PyExc_TypeError)) {
        return -1;
    }
    PyErr_Clear();
    return 1;
}

static int open_view(struct native_ints *ints, PyObject *object)
{
    char text[NAME_BYTES];
    name_of(text, ints->name, ints->outer, -1);
    if (PyObject_GetBuffer(object, &ints->view, NATIVE_BUFFER_ND | NATIVE_BUFFER_FORMAT) != 0) {
        return prefix_error(text);
    }
    const struct native_buffer *view = &ints->view;
    const char *format = view->format ? view->format : "B";
    const char *code = format;
    if (*code == '@' || *code == '=' || *code == '<') {
        code++;
    }
    bool known = code[0] && !code[1] && strchr("qQlLnNPiI", code[0]) != NULL;
    if (!known || (view->itemsize != 8 && view->itemsize != 4)) {
        PyErr_Format(PyExc_TypeError, "%s: an array of 4- or 8-byte integers, not of '%s'", text,
                     format);
        goto release;
    }
    if (view->ndim != 1) {
        PyErr_Format(PyExc_ValueError, "%s: an array of one dimension, not of %d", text,
                     view->ndim);
        goto release;
    }
    ints->is_view = true;
    ints->is_signed = strchr("qlni", code[0]) != NULL;
    ints->count = (size_t)(view->len / view->itemsize);
    return 0;

release:
    PyBuffer_Release(&ints->view);
    return -1;
}

int native_ints_open(struct native_ints *ints, PyObject *object, const char *name, Py_ssize_t outer)
{
    char text[NAME_BYTES];
    ints->name = name;
    ints->outer = outer;
    ints->tuple = NULL;
    ints->is_view = false;
    ints->is_one = false;
    ints->count = 0;
    const int is_one = native_is_one(object);
    if (is_one < 0) {
        return -1;
    }
    if (is_one) {
        ints->is_one = true;
        return int_of(ints, object, -1, &ints->one);
    }
    if (PyUnicode_Check(object)) {
        return wrong_type(name_of(text, name, outer, -1), "a sequence of integers", object);
    }
    if (!PyList_Check(object) && !PyTuple_Check(object) && PyObject_CheckBuffer(object)) {
        return open_view(ints, object);
    }
    ints->tuple = native_tuple(object, name_of(text, name, outer, -1));
    if (!ints->tuple) {
        return -1;
    }
    ints->count = (size_t)PyTuple_Size(ints->tuple);
    return 0;
}

int native_ints_expect(const struct native_ints *ints, size_t count, const char *of_what)
{
    char text[NAME_BYTES];
    if (ints->is_one || ints->count == count) {
        return 0;
    }
    PyErr_Format(PyExc_ValueError, "%s has %zu items, %s has %zu",
                 name_of(text, ints->name, ints->outer, -1), ints->count, of_what, count);
    return -1;
}

static int fill_view(const struct native_ints *ints, size_t count, char *at, size_t step)
{
    const char *from = ints->view.buf;
    uint64_t all = 0; /* so that negative values need no branch each */
    for (size_t i = 0; i < count; i++, at += step) {
        uint64_t value;
        if (ints->view.itemsize == 8) {
            memcpy(&value, from + i * 8, 8);
        } else {
            uint32_t half;
            memcpy(&half, from + i * 4, 4);
            value = ints->is_signed ? (uint64_t)(int64_t)(int32_t)half : half;
        }
        all |= value;
        memcpy(at, &value, sizeof(value));
    }
    if (!ints->is_signed || !(all >> 63)) {
        return 0;
    }
    at -= step * count;
    for (size_t i = 0; i < count; i++, at += step) {
        uint64_t value;
        memcpy(&value, at, sizeof(value));
        if (value >> 63) {
            return int_refused(ints, (Py_ssize_t)i, "is negative");
        }
    }
    return 0;
}

int native_ints_fill(const struct native_ints *ints, size_t count, void *at, size_t step)
{
    char *to = at;
    if (ints->is_view) {
        return fill_view(ints, count, to, step);
    }
    for (size_t i = 0; i < count; i++, to += step) {
        uint64_t value = ints->one;
        if (!ints->is_one &&
            int_of(ints, PyTuple_GetItem(ints->tuple, (Py_ssize_t)i), (Py_ssize_t)i, &value) != 0) {
            return -1;
        }
        memcpy(to, &value, sizeof(value));
    }
    return 0;
}

int native_ints_fill_u32(const struct native_ints *ints, size_t count, void *at, size_t step)
{
    char *to = at;
    for (size_t i = 0; i < count; i++, to += step) {
        uint64_t value = ints->one;
        if (ints->is_view) {
            struct native_ints rest = *ints;
            rest.view.buf = (char *)ints->view.buf + i * (size_t)ints->view.itemsize;
            if (fill_view(&rest, 1, (char *)&value, sizeof(value)) != 0) {
                PyErr_Clear();
                return int_refused(ints, (Py_ssize_t)i, "is negative");
            }
        } else if (!ints->is_one && int_of(ints, PyTuple_GetItem(ints->tuple, (Py_ssize_t)i),
                                           (Py_ssize_t)i, &value) != 0) {
            return -1;
        }
        if (value > UINT32_MAX) {
            return int_refused(ints, ints->is_one ? -1 : (Py_ssize_t)i, "is 2**32 or more");
        }
        uint32_t half = (uint32_t)value;
        memcpy(to, &half, sizeof(half));
    }
    return 0;
}

void native_ints_close(struct native_ints *ints)
{
    if (ints->is_view) {
        PyBuffer_Release(&ints->view);
        ints->is_view = false;
    }
    Py_CLEAR(ints->tuple);
}

/* ---- memory ---- */

static int pair_open(PyObject *pair, const char *name, Py_ssize_t index,
                     struct native_memory *memory_out)
{
    char text[NAME_BYTES];
    uint64_t pointer;
    uint64_t bytes;
    if (PyTuple_Size(pair) != 2) {
        PyErr_Format(PyExc_ValueError, "%s: a tuple (pointer, size), not of %zd items",
                     name_of(text, name, -1, index), PyTuple_Size(pair));
        return -1;
    }
    PyObject *first = PyTuple_GetItem(pair, 0);
    PyObject *second = PyTuple_GetItem(pair, 1);
    if (!plain_int(first, &pointer) || !plain_int(second, &bytes)) {
        struct native_ints ints = {.name = name_of(text, name, -1, index), .outer = -1};
        if (int_of(&ints, first, 0, &pointer) != 0 || int_of(&ints, second, 1, &bytes) != 0) {
            return -1;
        }
    }
    memory_out->view.obj = NULL;
    memory_out->data = (void *)(uintptr_t)pointer;
    memory_out->bytes = bytes;
    return 0;
}

int native_memory_open(PyObject *object, bool writable, const char *name, Py_ssize_t index,
                       struct native_memory *memory_out)
{
    char text[NAME_BYTES];
    if (PyTuple_Check(object)) {
        return pair_open(object, name, index, memory_out);
    }
    if (!PyObject_CheckBuffer(object)) {
        return wrong_type(name_of(text, name, -1, index),
                          "an object with the buffer protocol or a tuple (pointer, size)", object);
    }
    if (PyObject_GetBuffer(object, &memory_out->view,
                           writable ? NATIVE_BUFFER_WRITABLE : NATIVE_BUFFER_SIMPLE) != 0) {
        return prefix_error(name_of(text, name, -1, index));
    }
    memory_out->data = memory_out->view.buf;
    memory_out->bytes = (uint64_t)memory_out->view.len;
    return 0;
}

void native_memory_close(struct native_memory *memory)
{
    if (memory->view.obj) {
        PyBuffer_Release(&memory->view);
    }
}

/* ---- time ---- */

int native_timeout(PyObject *seconds, uint32_t *timeout_ms_out)
{
    if (!seconds || seconds == Py_None) {
        *timeout_ms_out = 0;
        return 0;
    }
    double value = PyFloat_AsDouble(seconds);
    if (PyErr_Occurred()) {
        return prefix_error("timeout");
    }
    if (!(value >= 0)) {
        PyErr_SetString(PyExc_ValueError, "timeout: seconds of 0 or more, or None");
        return -1;
    }
    double ms = ceil(value * 1000);
    *timeout_ms_out = ms < 1 ? 1 : ms > (double)UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
    return 0;
}
