/* SPDX-License-Identifier: Apache-2.0 */
/* Between routing and placement. */
#ifndef MASTER_MASTER_ROUTE_PRIV_H
#define MASTER_MASTER_ROUTE_PRIV_H

#include "master/master_priv.h"

/* A set of nodes by index, made of a call's handles. */
struct route_excludes {
    bool is_empty;
    uint64_t bits[MASTER_NODES_MAX / 64];
};

static inline bool route_is_excluded(const struct route_excludes *excludes, uint32_t node)
{
    return !excludes->is_empty && (excludes->bits[node / 64] >> (node % 64) & 1);
}

/* Place what is MASTER_UNAVAILABLE in `routes`; node indexes for handles. */
void put_place(struct master *master, const struct route_excludes *excludes, uint32_t requester,
               const uint64_t *sizes, uint64_t size, size_t count, struct master_route *routes);

#endif
