/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HostBuffer: the library's host memory as a Python object with the buffer protocol.
 *
 * The memory is given back by close() or with the object, and never while a view of it is out
 * (a memoryview, a NumPy array, a call that reads it): close() refuses then, and a view keeps the
 * object alive. Pointers that were taken as integers are the caller's to be careful with.
 */
#include "native.h"

#include <string.h>

struct native_host {
    PyObject_HEAD struct umbp_host_buffer *buffer; /* NULL: closed, or not made */
    struct umbp_host_buffer_info info;
    size_t views;
};

static const char *const backing_names[] = {"anonymous", "huge_pages", "shared",
                                            "shared_huge_pages"};

struct making {
    struct umbp_host_buffer_options options;
    struct umbp_host_buffer *buffer;
    enum umbp_status status;
};

static struct native_host *host_of(PyObject *self) { return (struct native_host *)self; }

static void making_run(void *context)
{
    struct making *making = context;
    making->status = umbp_host_buffer_create(&making->options, &making->buffer);
}

static void making_abandon(void *context)
{
    struct making *making = context;
    if (making->status == UMBP_OK) {
        umbp_host_buffer_destroy(making->buffer);
    }
}

static void making_release(void *context) { free(context); }

static const struct native_job_ops making_ops = {making_run, making_abandon, making_release};

static int host_options(PyObject *args, PyObject *named, struct umbp_host_buffer_options *options)
{
    NATIVE_KEYWORDS(names, "bytes", "backing", "numa_node", "prefault", "prefault_threads");
    PyObject *bytes;
    const char *backing = backing_names[0];
    PyObject *node = Py_None;
    PyObject *threads = NULL;
    int prefault = 1;
    size_t size;
    *options = (struct umbp_host_buffer_options){.struct_bytes = sizeof(*options)};
    if (!PyArg_ParseTupleAndKeywords(args, named, "O|sOpO:HostBuffer", names, &bytes, &backing,
                                     &node, &prefault, &threads) ||
        native_size(bytes, "bytes", &size) != 0 ||
        (threads && native_u32(threads, "prefault_threads", &options->prefault_threads) != 0)) {
        return -1;
    }
    if (size == 0) {
        PyErr_SetString(PyExc_ValueError, "bytes must be more than 0");
        return -1;
    }
    options->bytes = size;
    options->prefault = prefault != 0;
    unsigned i = 0;
    while (i < 4 && strcmp(backing, backing_names[i]) != 0) {
        i++;
    }
    if (i == 4) {
        PyErr_Format(PyExc_ValueError,
                     "HostBuffer: backing is anonymous, huge_pages, shared or shared_huge_pages, "
                     "not \"%s\"",
                     backing);
        return -1;
    }
    options->backing = (enum umbp_host_backing)i;
    if (node != Py_None) {
        if (native_u32(node, "numa_node", &options->numa_node) != 0) {
            return -1;
        }
        options->bind = true;
    }
    return 0;
}

static int host_init(PyObject *self, PyObject *args, PyObject *named)
{
    struct native_host *host = host_of(self);
    struct making *making = calloc(1, sizeof(*making));
    if (!making) {
        (void)PyErr_NoMemory();
        return -1;
    }
    if (host_options(args, named, &making->options) != 0) {
        goto release;
    }
    if (native_job_run(&making_ops, making) != 0) {
        return -1;
    }
    if (making->status != UMBP_OK) {
        (void)native_raise(making->status, "HostBuffer of %llu bytes: %s",
                           (unsigned long long)making->options.bytes,
                           making->status == UMBP_UNSUPPORTED ? "no such NUMA node here"
                                                              : umbp_status_text(making->status));
        goto release;
    }
    if (host->buffer || host->info.bytes) {
        making_abandon(making);
        PyErr_SetString(PyExc_RuntimeError, "this HostBuffer is made already");
        goto release;
    }
    host->buffer = making->buffer;
    host->info.struct_bytes = sizeof(host->info);
    (void)!umbp_host_buffer_describe(host->buffer, &host->info);
    making_release(making);
    return 0;

release:
    making_release(making);
    return -1;
}

static void give_back(struct native_host *host)
{
    struct umbp_host_buffer *buffer = host->buffer;
    host->buffer = NULL;
    if (buffer) {
        Py_BEGIN_ALLOW_THREADS;
        umbp_host_buffer_destroy(buffer);
        Py_END_ALLOW_THREADS;
    }
}

static void host_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    give_back(host_of(self));
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static bool is_open(const struct native_host *host)
{
    if (!host->buffer) {
        PyErr_SetString(PyExc_ValueError, "this HostBuffer is closed");
        return false;
    }
    return true;
}

static PyObject *host_close(PyObject *self, PyObject *unused)
{
    struct native_host *host = host_of(self);
    (void)unused;
    if (host->views) {
        PyErr_Format(PyExc_BufferError, "HostBuffer: %zu views of it are still there", host->views);
        return NULL;
    }
    give_back(host);
    Py_RETURN_NONE;
}

/* ---- the buffer protocol ---- */

static int host_view(PyObject *self, struct native_buffer *view, int flags)
{
    struct native_host *host = host_of(self);
    if (!host->buffer) {
        view->obj = NULL;
        PyErr_SetString(PyExc_BufferError, "this HostBuffer is closed");
        return -1;
    }
    if (PyBuffer_FillInfo(view, self, host->info.data, (Py_ssize_t)host->info.bytes, 0, flags) !=
        0) {
        return -1;
    }
    host->views++;
    return 0;
}

static void host_unview(PyObject *self, struct native_buffer *view)
{
    (void)view;
    host_of(self)->views--;
}

/* ---- properties ---- */

static Py_ssize_t host_length(PyObject *self) { return (Py_ssize_t)host_of(self)->info.bytes; }

static PyObject *host_ask(PyObject *self, void *what)
{
    struct native_host *host = host_of(self);
    if (!is_open(host)) {
        return NULL;
    }
    switch (*(const char *)what) {
    case 'p':
        return PyLong_FromVoidPtr(host->info.data);
    case 'm':
        return PyLong_FromUnsignedLongLong(host->info.mapped_bytes);
    case 'g':
        return PyLong_FromUnsignedLongLong(host->info.page_bytes);
    case 'b':
        return PyUnicode_FromString(backing_names[host->info.backing]);
    default:
        break;
    }
    if (host->info.fd < 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLong(host->info.fd);
}

static PyObject *host_bytes(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSsize_t(host_length(self));
}

static PyObject *host_closed(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(!host_of(self)->buffer);
}

static PyGetSetDef properties[] = {
    {"bytes", host_bytes, NULL, "Its size.", NULL},
    {"pointer", host_ask, NULL, "The address of its first byte.", "p"},
    {"mapped_bytes", host_ask, NULL, "Its size in whole pages.", "m"},
    {"page_bytes", host_ask, NULL, "The size of its pages.", "g"},
    {"backing", host_ask, NULL, "What it is made of, after falling back.", "b"},
    {"fd", host_ask, NULL, "Its file descriptor, None unless shared.", "f"},
    {"closed", host_closed, NULL, "Whether its memory was given back.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
    {"close", host_close, METH_NOARGS,
     "close($self, /)\n--\n\nGive the memory back. BufferError while views of it are out."},
    {NULL, NULL, 0, NULL},
};

/* The limited API names these two slots from 3.11 on; their numbers were the same before. */
#ifndef Py_bf_getbuffer
#define Py_bf_getbuffer 1
#define Py_bf_releasebuffer 2
#endif

static PyType_Slot slots[] = {
    {Py_tp_new, (void *)PyType_GenericNew},
    {Py_tp_init, (void *)host_init},
    {Py_tp_dealloc, (void *)host_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {Py_sq_length, (void *)host_length},
    {Py_bf_getbuffer, (void *)host_view},
    {Py_bf_releasebuffer, (void *)host_unview},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "umbp._umbp.HostBuffer",
    .basicsize = sizeof(struct native_host),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

int native_host_add(PyObject *module)
{
    static PyTypeObject *type;
    return native_type_add(module, "HostBuffer", &spec, &type);
}
