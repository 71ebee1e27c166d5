/* SPDX-License-Identifier: Apache-2.0 */
/* The external KV index: what engines keep outside of the pool, told to the masters by hash. */
#include "native.h"

#include <string.h>

/* ---- telling ---- */

typedef enum umbp_status (*tell_function)(struct umbp_client *client, const struct umbp_key *hashes,
                                          size_t count, enum umbp_tier tier);

static PyObject *tell(PyObject *self, PyObject *args, const char *name, tell_function function)
{
    PyObject *hashes;
    int tier;
    struct native_key_list list;
    enum umbp_status status = UMBP_OK;
    if (!PyArg_ParseTuple(args, "Oi", &hashes, &tier) || native_key_list_open(&list, hashes) != 0) {
        return NULL;
    }
    struct umbp_client *client = native_client_enter(self);
    if (client) {
        NATIVE_CALL(status = function(client, list.keys, list.count, (enum umbp_tier)tier));
        native_client_leave(self);
    }
    native_key_list_close(&list);
    if (!client) {
        return NULL;
    }
    if (status != UMBP_OK) {
        return native_raise_status(status, name);
    }
    Py_RETURN_NONE;
}

PyObject *native_external_report(PyObject *self, PyObject *args)
{
    return tell(self, args, "external_report", umbp_external_report);
}

PyObject *native_external_revoke(PyObject *self, PyObject *args)
{
    return tell(self, args, "external_revoke", umbp_external_revoke);
}

PyObject *native_external_revoke_all(PyObject *self, PyObject *args)
{
    int tier;
    enum umbp_status status;
    if (!PyArg_ParseTuple(args, "i", &tier)) {
        return NULL;
    }
    struct umbp_client *client = native_client_enter(self);
    if (!client) {
        return NULL;
    }
    NATIVE_CALL(status = umbp_external_revoke_all(client, (enum umbp_tier)tier));
    native_client_leave(self);
    if (status != UMBP_OK) {
        return native_raise_status(status, "external_revoke_all");
    }
    Py_RETURN_NONE;
}

/* ---- matching ---- */

/* Matches come node by node: each node's texts are kept once, rows name them by number. */
struct match_row {
    uint32_t node;
    uint32_t index;
    enum umbp_tier tier;
};

struct match_list {
    struct match_row *rows;
    size_t row_count;
    size_t row_capacity;
    char **texts; /* a node's id and address, one behind the other */
    size_t node_count;
    size_t node_capacity;
    bool no_memory;
};

static void *grown(void *memory, size_t *capacity, size_t item_bytes)
{
    size_t more = *capacity ? *capacity * 2 : 64;
    void *larger = realloc(memory, more * item_bytes);
    if (larger) {
        *capacity = more;
    }
    return larger;
}

static const char *address_of(const char *texts) { return texts + strlen(texts) + 1; }

static bool is_last_node(const struct match_list *list, const struct umbp_external_match *match)
{
    if (list->node_count == 0) {
        return false;
    }
    const char *texts = list->texts[list->node_count - 1];
    return strcmp(texts, match->node_id) == 0 &&
           strcmp(address_of(texts), match->peer_address) == 0;
}

static bool add_node(struct match_list *list, const struct umbp_external_match *match)
{
    size_t id_bytes = strlen(match->node_id) + 1;
    size_t address_bytes = strlen(match->peer_address) + 1;
    if (list->node_count == list->node_capacity) {
        char **texts = grown(list->texts, &list->node_capacity, sizeof(*texts));
        if (!texts) {
            return false;
        }
        list->texts = texts;
    }
    char *texts = malloc(id_bytes + address_bytes);
    if (!texts) {
        return false;
    }
    memcpy(texts, match->node_id, id_bytes);
    memcpy(texts + id_bytes, match->peer_address, address_bytes);
    list->texts[list->node_count++] = texts;
    return true;
}

static void match_visit(void *context, const struct umbp_external_match *match)
{
    struct match_list *list = context;
    if (list->no_memory) {
        return;
    }
    if (!is_last_node(list, match) && !add_node(list, match)) {
        list->no_memory = true;
        return;
    }
    if (list->row_count == list->row_capacity) {
        struct match_row *rows = grown(list->rows, &list->row_capacity, sizeof(*rows));
        if (!rows) {
            list->no_memory = true;
            return;
        }
        list->rows = rows;
    }
    list->rows[list->row_count++] =
        (struct match_row){(uint32_t)(list->node_count - 1), match->index, match->tier};
}

static void match_list_free(struct match_list *list)
{
    for (size_t i = 0; i < list->node_count; i++) {
        free(list->texts[i]);
    }
    free(list->texts);
    free(list->rows);
}

static PyObject *text_object(const char *text)
{
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "surrogateescape");
}

/* A list of (hash as it was given, its number, tier, node id, peer address). */
static PyObject *match_objects(const struct match_list *list, PyObject *hashes)
{
    PyObject *result = PyList_New((Py_ssize_t)list->row_count);
    PyObject *id = NULL;
    PyObject *address = NULL;
    uint32_t node = UINT32_MAX;
    for (size_t i = 0; result && i < list->row_count; i++) {
        const struct match_row *row = &list->rows[i];
        if (row->node != node) {
            Py_XDECREF(id);
            Py_XDECREF(address);
            node = row->node;
            id = text_object(list->texts[node]);
            address = text_object(address_of(list->texts[node]));
        }
        PyObject *hash = PyTuple_GetItem(hashes, (Py_ssize_t)row->index);
        PyObject *entry = !hash || !id || !address ? NULL
                                                   : Py_BuildValue("(OIiOO)", hash, row->index,
                                                                   (int)row->tier, id, address);
        if (!entry || PyList_SetItem(result, (Py_ssize_t)i, entry) != 0) {
            Py_CLEAR(result);
        }
    }
    Py_XDECREF(id);
    Py_XDECREF(address);
    return result;
}

PyObject *native_external_match(PyObject *self, PyObject *args)
{
    PyObject *hashes;
    int counts_as_hit = 0;
    struct native_key_list asked;
    struct match_list found = {0};
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "O|p:external_match", &hashes, &counts_as_hit) ||
        native_key_list_open(&asked, hashes) != 0) {
        return NULL;
    }
    struct umbp_client *client = native_client_enter(self);
    if (client) {
        enum umbp_status status;
        NATIVE_CALL(status = umbp_external_match(client, asked.keys, asked.count,
                                                 counts_as_hit != 0, match_visit, &found));
        native_client_leave(self);
        if (found.no_memory) {
            (void)PyErr_NoMemory();
        } else if (status != UMBP_OK) {
            (void)native_raise_status(status, "external_match");
        } else {
            result = match_objects(&found, asked.tuple);
        }
    }
    match_list_free(&found);
    native_key_list_close(&asked);
    return result;
}

PyObject *native_external_hits(PyObject *self, PyObject *hashes)
{
    struct native_key_list list;
    PyObject *result = NULL;
    if (native_key_list_open(&list, hashes) != 0) {
        return NULL;
    }
    uint64_t *hits = native_scratch_get(&list.scratch, list.count, sizeof(*hits));
    struct umbp_client *client = hits ? native_client_enter(self) : NULL;
    if (client) {
        enum umbp_status status;
        NATIVE_CALL(status = umbp_external_hits(client, list.keys, list.count, hits));
        native_client_leave(self);
        result = status == UMBP_OK ? native_int_list(hits, list.count)
                                   : native_raise_status(status, "external_hits");
    }
    native_key_list_close(&list);
    return result;
}
