/* SPDX-License-Identifier: Apache-2.0 */
/* Config: options by name, as text. The package's Python makes sections and types of it. */
#include "native.h"

#define TEXT_BYTES 4096

struct native_config {
    PyObject_HEAD struct native_config_box *box;
};

static PyTypeObject *config_type;

static void box_unref(struct native_config_box *box)
{
    if (box && atomic_fetch_sub(&box->refs, 1) == 1) {
        umbp_config_destroy(box->config);
        free(box);
    }
}

struct native_config_box *native_config_take(PyObject *object)
{
    int is = PyObject_IsInstance(object, (PyObject *)config_type);
    if (is <= 0) {
        if (is == 0) {
            PyErr_SetString(PyExc_TypeError, "a configuration, please");
        }
        return NULL;
    }
    struct native_config_box *box = ((struct native_config *)object)->box;
    if (atomic_exchange(&box->busy, true)) {
        (void)native_raise(UMBP_BUSY, "the configuration is in use by another thread");
        return NULL;
    }
    atomic_fetch_add(&box->refs, 1);
    return box;
}

void native_config_give_back(struct native_config_box *box)
{
    atomic_store(&box->busy, false);
    box_unref(box);
}

/* ---- life ---- */

static PyObject *config_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    (void)args;
    (void)named;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct native_config *self = (struct native_config *)alloc(type, 0);
    if (!self) {
        return NULL;
    }
    self->box = calloc(1, sizeof(*self->box));
    if (!self->box || umbp_config_create(&self->box->config) != UMBP_OK) {
        free(self->box);
        self->box = NULL;
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    atomic_store(&self->box->refs, 1);
    return (PyObject *)self;
}

static void config_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    box_unref(((struct native_config *)object)->box);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* ---- methods ---- */

static PyObject *raise_config(enum umbp_status status, struct native_config_box *box)
{
    const char *why = umbp_config_error(box->config);
    return native_raise(status, "%s", why && why[0] ? why : umbp_status_text(status));
}

static PyObject *finish(enum umbp_status status, struct native_config_box *box)
{
    if (status != UMBP_OK) {
        (void)raise_config(status, box);
    }
    native_config_give_back(box);
    if (status != UMBP_OK) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *config_set(PyObject *self, PyObject *args)
{
    const char *name;
    PyObject *value; /* bytes: a path may be no UTF-8 */
    if (!PyArg_ParseTuple(args, "sO&:set", &name, PyUnicode_FSConverter, &value)) {
        return NULL;
    }
    struct native_config_box *box = native_config_take(self);
    PyObject *result =
        box ? finish(umbp_config_set(box->config, name, PyBytes_AsString(value)), box) : NULL;
    Py_DECREF(value);
    return result;
}

static PyObject *config_get(PyObject *self, PyObject *args)
{
    const char *name;
    char text[TEXT_BYTES];
    if (!PyArg_ParseTuple(args, "s:get", &name)) {
        return NULL;
    }
    struct native_config_box *box = native_config_take(self);
    if (!box) {
        return NULL;
    }
    enum umbp_status status = umbp_config_get(box->config, name, text, sizeof(text));
    if (status == UMBP_UNKNOWN_OPTION) {
        /* An attempt to set it changes nothing, and says what is near. */
        status = umbp_config_set(box->config, name, "");
        status = status == UMBP_OK ? UMBP_UNKNOWN_OPTION : status;
    }
    if (status != UMBP_OK) {
        return finish(status, box);
    }
    native_config_give_back(box);
    return PyUnicode_DecodeFSDefault(text);
}

static PyObject *config_load_env(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct native_config_box *box = native_config_take(self);
    if (!box) {
        return NULL;
    }
    umbp_config_load_env(box->config);
    return finish(UMBP_OK, box);
}

static PyObject *config_load_file(PyObject *self, PyObject *args)
{
    PyObject *path;
    enum umbp_status status;
    if (!PyArg_ParseTuple(args, "O&:load_file", PyUnicode_FSConverter, &path)) {
        return NULL;
    }
    struct native_config_box *box = native_config_take(self);
    if (!box) {
        Py_DECREF(path);
        return NULL;
    }
    const char *name = PyBytes_AsString(path);
    Py_BEGIN_ALLOW_THREADS;
    status = umbp_config_load_file(box->config, name);
    Py_END_ALLOW_THREADS;
    Py_DECREF(path);
    return finish(status, box);
}

static PyObject *config_validate(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct native_config_box *box = native_config_take(self);
    return box ? finish(umbp_config_validate(box->config), box) : NULL;
}

static PyMethodDef methods[] = {
    {"set", config_set, METH_VARARGS, NULL},
    {"get", config_get, METH_VARARGS, NULL},
    {"load_env", config_load_env, METH_NOARGS, NULL},
    {"load_file", config_load_file, METH_VARARGS, NULL},
    {"validate", config_validate, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, (void *)config_new},
    {Py_tp_dealloc, (void *)config_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "umbp._umbp.Config",
    .basicsize = sizeof(struct native_config),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

int native_config_add(PyObject *module)
{
    return native_type_add(module, "Config", &spec, &config_type);
}
