/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An endpoint around an endpoint, that makes operations go wrong: refused, failed later, delayed,
 * torn (a list of which only a first part is done), or ending their connection. For tests. It works
 * around every implementation of fabric.h and keeps that contract, "exactly once" above all.
 *
 * Threading: as fabric.h. Rules may be set at any time. Ownership: the wrapper owns the inner
 * endpoint from fabric_fault_create on, also when that fails. Limits: FABRIC_FAULT_RULES rules.
 */
#ifndef FABRIC_FABRIC_FAULT_H
#define FABRIC_FABRIC_FAULT_H

#include "fabric/fabric.h"

#define FABRIC_FAULT_RULES 16u

enum fabric_fault_op {
    FABRIC_FAULT_CONNECT,
    FABRIC_FAULT_CALL,
    FABRIC_FAULT_SEND,
    FABRIC_FAULT_READ,
    FABRIC_FAULT_WRITE,
    FABRIC_FAULT_PULL, /* fabric_pull_wait too, but for `delay_ms` */
    FABRIC_FAULT_OPS,
};

struct fabric_fault_rule {
    enum fabric_fault_op op;
    uint64_t
        first; /* the first of that kind that it is about, from 1 on, counted from its setting */
    uint64_t every;          /* then every so many; 0: only that one */
    enum umbp_status refuse; /* returned at once; nothing is done */
    enum umbp_status fail;   /* it is done, but completes with this */
    uint32_t delay_ms;       /* its completion comes later */
    bool tear;       /* a list: its first half is done, then it fails (with `fail`, or IO) */
    bool disconnect; /* its connection ends after it was submitted */
};

/* NO_MEMORY, and then `inner` is destroyed. */
MUST_USE enum umbp_status fabric_fault_create(struct fabric *inner, struct fabric **fabric_out);
/* LIMIT: no place. Of several rules that fit, the first that was set counts. */
MUST_USE enum umbp_status fabric_fault_set(struct fabric *fault,
                                           const struct fabric_fault_rule *rule);
void fabric_fault_clear(struct fabric *fault);
/* How many operations met a rule. */
uint64_t fabric_fault_hits(struct fabric *fault);

#endif
