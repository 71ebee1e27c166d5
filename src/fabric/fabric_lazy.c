/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libfabric's functions by their own names, handed on to the plugin (fabric_lazy_priv.h says why).
 * They are hidden: nobody outside can meet them instead of libfabric's own.
 */
#include "fabric/fabric_lazy_priv.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <rdma/fi_errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/signals.h"

static pthread_once_t load_once = PTHREAD_ONCE_INIT;
static const struct fabric_lazy_functions *loaded; /* NULL: it can't be had */

/* `path` without its last `parts` names, and the plugin's behind; NULL if it has not so many. */
static void *open_beside(char path[PATH_MAX], unsigned parts)
{
    char file[PATH_MAX + sizeof(FABRIC_LAZY_FILE) + 1];
    for (unsigned i = 0; i < parts; i++) {
        char *slash = strrchr(path, '/');
        if (!slash) {
            return NULL;
        }
        *slash = '\0';
    }
    (void)snprintf(file, sizeof(file), "%s/%s", path, FABRIC_LAZY_FILE);
    return dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE); /* never closed: it has threads */
}

/* Not along a RUNPATH: under AddressSanitizer that would be the sanitizer's. */
static void load(void)
{
    char path[PATH_MAX] = "";
    struct signals_saved saved;
    Dl_info here;
    void *plugin = NULL;
    signals_save(&saved);
    if (dladdr(&load_once, &here) && here.dli_fname) {
        (void)snprintf(path, sizeof(path), "%s", here.dli_fname);
        plugin = open_beside(path, 1); /* the extension: umbp/_umbp.abi3.so */
    }
    ssize_t bytes = plugin ? -1 : readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (bytes > 0) {
        path[bytes] = '\0';
        plugin = open_beside(path, 2); /* the program: umbp/_bin/umbp */
    }
    signals_restore(&saved);
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

const char *fi_strerror(int number)
{
    return functions() ? loaded->strerror(number) : "libfabric is not here";
}
