/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libfabric, loaded when the first endpoint is opened (builds of the Python package only). Debian's
 * libfabric sleeps for 200 ms when it is loaded (its PSM libraries look for their hardware), which
 * an import should not cost that never asks for the pool.
 *
 * The plugin is linked with libfabric and holds the addresses of the few functions that are no
 * inline calls of an endpoint's own tables; so the linker has chosen their versions, and a wheel's
 * tools find libfabric to put it in. It lies beside the extension.
 */
#ifndef FABRIC_LAZY_PRIV_H
#define FABRIC_LAZY_PRIV_H

#include <rdma/fabric.h>

struct fabric_lazy_functions {
    int (*getinfo)(uint32_t version, const char *node, const char *service, uint64_t flags,
                   const struct fi_info *hints, struct fi_info **info);
    void (*freeinfo)(struct fi_info *info);
    struct fi_info *(*dupinfo)(const struct fi_info *info);
    int (*fabric)(struct fi_fabric_attr *attr, struct fid_fabric **fabric, void *context);
    const char *(*strerror)(int number);
};

#define FABRIC_LAZY_FILE "libumbp-fabric.so"
#define FABRIC_LAZY_SYMBOL "umbp_fabric_functions"

#endif
