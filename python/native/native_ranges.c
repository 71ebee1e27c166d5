/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batches of values in pieces. Pointers, sizes and offsets come
 *
 *     nested     one list (or flat array) of integers for each key, or
 *     flat       all pieces behind one another, with `counts`: how many each key has.
 *
 * An int in the place of a list is for all.
 */
#include "native.h"

#include <stddef.h>

#define COLUMNS 3

static const char *const column_names[COLUMNS] = {"pointers", "sizes", "offsets"};
static const size_t column_fields[COLUMNS] = {offsetof(struct umbp_range, data),
                                              offsetof(struct umbp_range, bytes),
                                              offsetof(struct umbp_range, offset)};

struct pieces {
    PyObject *keys;
    size_t key_count;
    struct umbp_range_item *items;
    enum umbp_status *statuses;
    struct umbp_range *ranges;
    size_t count;
    size_t capacity;
};

static int pieces_grow(struct pieces *pieces, size_t more)
{
    size_t need = pieces->count + more;
    if (need <= pieces->capacity) {
        return 0;
    }
    size_t capacity = pieces->capacity * 2 > need ? pieces->capacity * 2 : need;
    struct umbp_range *ranges = capacity <= SIZE_MAX / 2 / sizeof(*ranges)
                                    ? PyMem_Realloc(pieces->ranges, capacity * sizeof(*ranges))
                                    : NULL;
    if (!ranges) {
        (void)PyErr_NoMemory();
        return -1;
    }
    pieces->ranges = ranges;
    pieces->capacity = capacity;
    return 0;
}

static void pieces_free(struct pieces *pieces)
{
    PyMem_Free(pieces->items);
    PyMem_Free(pieces->statuses);
    PyMem_Free(pieces->ranges);
    Py_XDECREF(pieces->keys);
}

/* The pieces of one key, or (outer < 0) all of them, appended. `count_out` is how many. */
static int append(struct pieces *pieces, PyObject *const columns[COLUMNS], Py_ssize_t outer,
                  size_t *count_out)
{
    struct native_ints ints[COLUMNS];
    unsigned open = 0;
    int failed = -1;
    size_t count = 0;
    const char *counted = NULL;

    for (; open < COLUMNS; open++) {
        if (native_ints_open(&ints[open], columns[open], column_names[open], outer) != 0) {
            goto close;
        }
        if (!counted && !ints[open].is_one) {
            counted = column_names[open];
            count = ints[open].count;
        }
    }
    if (!counted) {
        count = 1;
        counted = "a single piece";
    }
    for (unsigned c = 0; c < COLUMNS; c++) {
        if (native_ints_expect(&ints[c], count, counted) != 0) {
            goto close;
        }
    }
    if (pieces_grow(pieces, count) != 0) {
        goto close;
    }
    for (unsigned c = 0; c < COLUMNS; c++) {
        char *at = (char *)(pieces->ranges + pieces->count) + column_fields[c];
        if (count && native_ints_fill(&ints[c], count, at, sizeof(struct umbp_range)) != 0) {
            goto close;
        }
    }
    pieces->count += count;
    *count_out = count;
    failed = 0;
close:
    while (open-- > 0) {
        native_ints_close(&ints[open]);
    }
    return failed;
}

/* Each key's part of the column: an item of a sequence, or the one int. */
static int nested(struct pieces *pieces, PyObject *const columns[COLUMNS])
{
    PyObject *outer[COLUMNS] = {NULL, NULL, NULL};
    int is_one[COLUMNS];
    int failed = -1;
    for (unsigned c = 0; c < COLUMNS; c++) {
        is_one[c] = native_is_one(columns[c]);
        if (is_one[c] < 0) {
            goto release;
        }
        if (is_one[c]) {
            outer[c] = columns[c];
            Py_INCREF(outer[c]);
            continue;
        }
        outer[c] = native_tuple(columns[c], column_names[c]);
        if (!outer[c]) {
            goto release;
        }
        size_t count = (size_t)PyTuple_Size(outer[c]);
        if (count != pieces->key_count) {
            PyErr_Format(PyExc_ValueError, "%s has %zu items, keys has %zu", column_names[c], count,
                         pieces->key_count);
            goto release;
        }
    }
    for (size_t i = 0; i < pieces->key_count; i++) {
        PyObject *inner[COLUMNS];
        for (unsigned c = 0; c < COLUMNS; c++) {
            inner[c] = is_one[c] ? outer[c] : PyTuple_GetItem(outer[c], (Py_ssize_t)i);
        }
        if (append(pieces, inner, (Py_ssize_t)i, &pieces->items[i].range_count) != 0) {
            goto release;
        }
    }
    failed = 0;
release:
    for (unsigned c = 0; c < COLUMNS; c++) {
        Py_XDECREF(outer[c]);
    }
    return failed;
}

static int column(struct pieces *pieces, PyObject *object, const char *name, size_t field,
                  bool is_u32)
{
    struct native_ints ints;
    if (native_ints_open(&ints, object, name, -1) != 0) {
        return -1;
    }
    char *at = (char *)pieces->items + field;
    const size_t step = sizeof(*pieces->items);
    int failed = native_ints_expect(&ints, pieces->key_count, "keys");
    if (!failed) {
        failed = is_u32 ? native_ints_fill_u32(&ints, pieces->key_count, at, step)
                        : native_ints_fill(&ints, pieces->key_count, at, step);
    }
    native_ints_close(&ints);
    return failed;
}

static int flat(struct pieces *pieces, PyObject *const columns[COLUMNS], PyObject *counts)
{
    size_t total;
    size_t sum = 0;
    if (column(pieces, counts, "counts", offsetof(struct umbp_range_item, range_count), false) !=
            0 ||
        append(pieces, columns, -1, &total) != 0) {
        return -1;
    }
    for (size_t i = 0; i < pieces->key_count; i++) {
        if (__builtin_add_overflow(sum, pieces->items[i].range_count, &sum) || sum > total) {
            break;
        }
    }
    if (sum != total) {
        PyErr_Format(PyExc_ValueError, "counts add up to another number than the %zu pieces",
                     total);
        return -1;
    }
    return 0;
}

static int pieces_parse(struct pieces *pieces, PyObject *keys, PyObject *const columns[COLUMNS],
                        PyObject *counts)
{
    pieces->keys = native_keys_open(keys, &pieces->key_count);
    if (!pieces->keys) {
        return -1;
    }
    size_t count = pieces->key_count ? pieces->key_count : 1;
    pieces->items = PyMem_Calloc(count, sizeof(*pieces->items));
    pieces->statuses = PyMem_Calloc(count, sizeof(*pieces->statuses));
    if (!pieces->items || !pieces->statuses) {
        (void)PyErr_NoMemory();
        return -1;
    }
    if (native_keys_fill(pieces->keys, pieces->key_count, pieces->items, sizeof(*pieces->items)) !=
        0) {
        return -1;
    }
    if ((counts == Py_None ? nested(pieces, columns) : flat(pieces, columns, counts)) != 0) {
        return -1;
    }
    const struct umbp_range *at = pieces->ranges;
    for (size_t i = 0; i < pieces->key_count; i++) {
        pieces->items[i].ranges = at;
        pieces->items[i].depth = UMBP_DEPTH_NONE;
        at += at ? pieces->items[i].range_count : 0;
    }
    return 0;
}

typedef enum umbp_status batch_function(struct umbp_client *, const struct umbp_range_item *,
                                        size_t, enum umbp_status *);

static PyObject *pieces_call(PyObject *self, const struct pieces *pieces, batch_function *call,
                             const char *name)
{
    enum umbp_status status;
    struct umbp_client *client = native_client_enter(self);
    if (!client) {
        return NULL;
    }
    NATIVE_CALL(status = call(client, pieces->items, pieces->key_count, pieces->statuses));
    native_client_leave(self);
    return status == UMBP_OK ? native_status_list(pieces->statuses, pieces->key_count)
                             : native_raise_status(status, name);
}

PyObject *native_batch_put_ranges(PyObject *self, PyObject *args, PyObject *named)
{
    NATIVE_KEYWORDS(names, "keys", "object_sizes", "pointers", "sizes", "offsets", "counts",
                    "depths");
    PyObject *keys;
    PyObject *object_sizes;
    PyObject *columns[COLUMNS];
    PyObject *counts = Py_None;
    PyObject *depths = Py_None;
    PyObject *result = NULL;
    struct pieces pieces = {0};
    if (!PyArg_ParseTupleAndKeywords(args, named, "OOOOO|OO:batch_put_ranges", names, &keys,
                                     &object_sizes, &columns[0], &columns[1], &columns[2], &counts,
                                     &depths)) {
        return NULL;
    }
    if (pieces_parse(&pieces, keys, columns, counts) == 0 &&
        column(&pieces, object_sizes, "object_sizes",
               offsetof(struct umbp_range_item, object_bytes), false) == 0 &&
        (depths == Py_None ||
         column(&pieces, depths, "depths", offsetof(struct umbp_range_item, depth), true) == 0)) {
        result = pieces_call(self, &pieces, umbp_batch_put_ranges, "batch_put_ranges");
    }
    pieces_free(&pieces);
    return result;
}

PyObject *native_batch_get_ranges(PyObject *self, PyObject *args, PyObject *named)
{
    NATIVE_KEYWORDS(names, "keys", "pointers", "sizes", "offsets", "counts", "object_sizes");
    PyObject *keys;
    PyObject *columns[COLUMNS];
    PyObject *counts = Py_None;
    PyObject *object_sizes = Py_None;
    PyObject *result = NULL;
    struct pieces pieces = {0};
    if (!PyArg_ParseTupleAndKeywords(args, named, "OOOO|OO:batch_get_ranges", names, &keys,
                                     &columns[0], &columns[1], &columns[2], &counts,
                                     &object_sizes)) {
        return NULL;
    }
    if (pieces_parse(&pieces, keys, columns, counts) == 0 &&
        (object_sizes == Py_None ||
         column(&pieces, object_sizes, "object_sizes",
                offsetof(struct umbp_range_item, object_bytes), false) == 0)) {
        result = pieces_call(self, &pieces, umbp_batch_get_ranges, "batch_get_ranges");
    }
    pieces_free(&pieces);
    return result;
}
