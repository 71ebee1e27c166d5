/* SPDX-License-Identifier: Apache-2.0 */
/* The module: who may load it, the errors, the option table, the log level; making types. */
#include "native.h"

#include <stdarg.h>

#define STATUSES 64 /* more than there are, and than will soon be */

/* Exception classes and Status members by number, given by the package once it has made them. */
static PyObject *error_classes[STATUSES];
static PyObject *status_members[STATUSES];

/* ---- errors ---- */

static PyObject *class_of(enum umbp_status status)
{
    unsigned number = (unsigned)status;
    PyObject *found = number < STATUSES ? error_classes[number] : NULL;
    return found ? found : PyExc_RuntimeError;
}

PyObject *native_raise(enum umbp_status status, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    PyErr_FormatV(class_of(status), format, list);
    va_end(list);
    return NULL;
}

PyObject *native_raise_status(enum umbp_status status, const char *what)
{
    return native_raise(status, "%s: %s", what, umbp_status_text(status));
}

PyObject *native_raise_of_key(enum umbp_status status, const char *what, PyObject *key)
{
    return native_raise(status, "%s %R: %s", what, key, umbp_status_text(status));
}

/* A new reference to the Status member. */
static PyObject *member_of(enum umbp_status status)
{
    unsigned number = (unsigned)status;
    PyObject *member = number < STATUSES ? status_members[number] : NULL;
    if (!member) {
        return PyLong_FromLong((long)status);
    }
    Py_INCREF(member);
    return member;
}

PyObject *native_status_list(const enum umbp_status *statuses, size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list && i < count; i++) {
        PyObject *member = member_of(statuses[i]);
        if (!member || PyList_SetItem(list, (Py_ssize_t)i, member) != 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

/* ---- functions ---- */

/* [(number, name, text)], which the package makes its Status and its exceptions from. */
static PyObject *statuses(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    static const struct {
        int number;
        const char *name;
    } rows[] = {
#define ROW(number, name, text) {number, #name},
        UMBP_STATUS_MAP(ROW)
#undef ROW
    };
    const size_t count = sizeof(rows) / sizeof(rows[0]);
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list && i < count; i++) {
        PyObject *row = Py_BuildValue("(iss)", rows[i].number, rows[i].name,
                                      umbp_status_text((enum umbp_status)rows[i].number));
        if (!row || PyList_SetItem(list, (Py_ssize_t)i, row) != 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

/* use(number, member, error class or None) */
static PyObject *use(PyObject *self, PyObject *args)
{
    int number;
    PyObject *member;
    PyObject *class;
    (void)self;
    if (!PyArg_ParseTuple(args, "iOO:use", &number, &member, &class)) {
        return NULL;
    }
    if (number < 0 || number >= STATUSES) {
        PyErr_SetString(PyExc_ValueError, "a status that this module has no place for");
        return NULL;
    }
    Py_INCREF(member);
    Py_INCREF(class);
    Py_XDECREF(status_members[number]);
    Py_XDECREF(error_classes[number]);
    status_members[number] = member;
    if (class == Py_None) {
        Py_DECREF(class);
        class = NULL;
    }
    error_classes[number] = class;
    Py_RETURN_NONE;
}

/* [(name, type, default, range, environment, help)] */
static PyObject *options(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list; i++) {
        struct umbp_option_info info = {.struct_bytes = sizeof(info)};
        if (umbp_option_describe(i, &info) != UMBP_OK) {
            break;
        }
        PyObject *row = Py_BuildValue("(ssssss)", info.name, info.type, info.default_value,
                                      info.range, info.environment, info.help);
        if (!row || PyList_Append(list, row) != 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *version(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return PyUnicode_FromString(umbp_version());
}

static PyObject *set_log_level(PyObject *self, PyObject *name)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    (void)self;
    for (unsigned i = 0; PyUnicode_Check(name) && i < sizeof(names) / sizeof(names[0]); i++) {
        if (PyUnicode_CompareWithASCIIString(name, names[i]) == 0) {
            umbp_log_set((enum umbp_log_level)i, NULL, NULL);
            Py_RETURN_NONE;
        }
    }
    PyErr_Format(PyExc_ValueError, "log level: error, warn, info or debug, not %R", name);
    return NULL;
}

/* memory_of(object, writable) -> (pointer, size). For objects that the caller keeps. */
static PyObject *memory_of(PyObject *self, PyObject *args)
{
    PyObject *object;
    int writable;
    struct native_memory memory;
    (void)self;
    if (!PyArg_ParseTuple(args, "Op:memory_of", &object, &writable) ||
        native_memory_open(object, writable != 0, "data", -1, &memory) != 0) {
        return NULL;
    }
    PyObject *pair = Py_BuildValue("(KK)", (unsigned long long)(uintptr_t)memory.data,
                                   (unsigned long long)memory.bytes);
    native_memory_close(&memory);
    return pair;
}

static PyObject *is_one(PyObject *self, PyObject *object)
{
    (void)self;
    int is = native_is_one(object);
    return is < 0 ? NULL : PyBool_FromLong(is);
}

static PyMethodDef functions[] = {
    {"statuses", statuses, METH_NOARGS, NULL},
    {"use", use, METH_VARARGS, NULL},
    {"options", options, METH_NOARGS, NULL},
    {"version", version, METH_NOARGS, NULL},
    {"set_log_level", set_log_level, METH_O, NULL},
    {"memory_of", memory_of, METH_VARARGS, NULL},
    {"is_one", is_one, METH_O, NULL},
    {"bench_batch", native_bench_batch, METH_VARARGS, NULL},
    {"time_calls", native_bench_time_calls, METH_O, NULL},
    {"library_ns", native_bench_library_ns, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* ---- lists and types ---- */

PyObject *native_int_list(const uint64_t *values, size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list && i < count; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(values[i]);
        if (!value || PyList_SetItem(list, (Py_ssize_t)i, value) != 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

int native_type_add(PyObject *module, const char *name, PyType_Spec *spec, PyTypeObject **type)
{
    if (!*type) {
        *type = (PyTypeObject *)PyType_FromSpec(spec);
        if (!*type) {
            return -1;
        }
    }
    Py_INCREF(*type);
    if (PyModule_AddObject(module, name, (PyObject *)*type) != 0) {
        Py_DECREF(*type);
        return -1;
    }
    return 0;
}

/* ---- who may load it ---- */

static int exec(PyObject *module)
{
    if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0) {
        PyErr_SetString(PyExc_ImportError, "umbp can't be used in a subinterpreter");
        return -1;
    }
    if (umbp_api_version() != UMBP_API_VERSION) {
        PyErr_SetString(PyExc_ImportError, "umbp: built against another version of the library");
        return -1;
    }
    if (PyModule_AddIntConstant(module, "BATCH_MAX", UMBP_BATCH_MAX) != 0 ||
        PyModule_AddIntConstant(module, "KEY_BYTES_MAX", UMBP_KEY_BYTES_MAX) != 0) {
        return -1;
    }
    return native_config_add(module) || native_client_add(module) || native_host_add(module) ? -1
                                                                                             : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)exec}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "umbp._umbp",
    .m_doc = "The native part of umbp. Use the package's names.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__umbp(void);
PyMODINIT_FUNC PyInit__umbp(void) { return PyModuleDef_Init(&definition); }
