/* SPDX-License-Identifier: Apache-2.0 */
/* What the implementations of fabric.h share. Never leaves the room. */
#ifndef FABRIC_FABRIC_PRIV_H
#define FABRIC_FABRIC_PRIV_H

#include "base/base.h"
#include "fabric/fabric.h"

/* -------------------------------------------------------------------- timers (a pairing heap) --
 */

struct timer_heap {
    struct fabric_timer *root; /* the earliest */
};

void fabric_heap_set(struct timer_heap *heap, struct fabric_timer *timer, uint64_t deadline_ns);
void fabric_heap_cancel(struct timer_heap *heap, struct fabric_timer *timer);
/* Takes the earliest out if it is due. NULL: none is. */
struct fabric_timer *fabric_heap_pop(struct timer_heap *heap, uint64_t now_ns);
static inline uint64_t fabric_heap_next_ns(const struct timer_heap *heap)
{
    return heap->root ? heap->root->deadline_ns : DEADLINE_NEVER;
}

/* --------------------------------------------------------------------------------- addresses ---
 */

/*
 * "host:port", "[v6]:port" into its halves, without the brackets. INVALID_VALUE: no port, a port
 * over 65,535, too long.
 */
#define FABRIC_HOST_MAX 256u
MUST_USE enum umbp_status fabric_address_split(const char *address, char host_out[FABRIC_HOST_MAX],
                                               uint16_t *port_out);
void fabric_address_join(char out[FABRIC_ADDRESS_MAX], const char *host, uint16_t port);

/* ----------------------------------------------------------------------------------- options ---
 */

/* Zeros become defaults. INVALID_VALUE names what is wrong in `error_out`. */
MUST_USE enum umbp_status fabric_options_check(const struct fabric_options *options,
                                               struct fabric_options *full_out, char *error_out,
                                               size_t error_bytes);

/* The bytes of all parts, or SIZE_MAX if that overflows or there are too many of them. */
size_t fabric_parts_bytes(const struct iovec *parts, unsigned part_count);
void fabric_parts_copy(void *to, const struct iovec *parts, unsigned part_count);

#endif
