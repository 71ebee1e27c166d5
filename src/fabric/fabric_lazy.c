/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libfabric's functions by their own names, handed on to the plugin (fabric_lazy_priv.h says why).
 * They are hidden: nobody outside can meet them instead of libfabric's own.
 */
#include "fabric/fabric_lazy_priv.h"

#include <dlfcn.h>
#include <pthread.h>
#include <rdma/fi_errno.h>
#include <stdlib.h>

#include "base/log.h"

static pthread_once_t load_once = PTHREAD_ONCE_INIT;
static const struct fabric_lazy_functions *loaded; /* NULL: it can't be had */

static void load(void)
{
    /* Never closed: its providers have threads. */
    void *plugin = dlopen(FABRIC_LAZY_FILE, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (plugin) {
        loaded = dlsym(plugin, FABRIC_LAZY_SYMBOL);
    }
    if (!loaded) {
        const char *why = dlerror();
        log_write(UMBP_LOG_ERROR, "fabric.no_library", "why=\"%s\"", why ? why : "");
    }
}

static const struct fabric_lazy_functions *functions(void)
{
    (void)pthread_once(&load_once, load);
    return loaded;
}

int fi_getinfo(uint32_t version, const char *node, const char *service, uint64_t flags,
               const struct fi_info *hints, struct fi_info **info)
{
    return functions() ? loaded->getinfo(version, node, service, flags, hints, info) : -FI_ENOSYS;
}

void fi_freeinfo(struct fi_info *info)
{
    if (functions()) {
        loaded->freeinfo(info);
    }
}

struct fi_info *fi_dupinfo(const struct fi_info *info)
{
    return functions() ? loaded->dupinfo(info) : NULL;
}

int fi_fabric(struct fi_fabric_attr *attr, struct fid_fabric **fabric, void *context)
{
    return functions() ? loaded->fabric(attr, fabric, context) : -FI_ENOSYS;
}
