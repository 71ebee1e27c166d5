/* SPDX-License-Identifier: Apache-2.0 */
/* The plugin of fabric_lazy_priv.h: libumbp-fabric.so. */
#include <rdma/fi_errno.h>

#include "fabric/fabric_lazy_priv.h"

extern const struct fabric_lazy_functions umbp_fabric_functions;

__attribute__((visibility("default"))) const struct fabric_lazy_functions umbp_fabric_functions = {
    .getinfo = fi_getinfo,
    .freeinfo = fi_freeinfo,
    .dupinfo = fi_dupinfo,
    .fabric = fi_fabric,
    .strerror = fi_strerror,
};
