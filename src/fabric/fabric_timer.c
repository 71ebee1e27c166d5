/* SPDX-License-Identifier: Apache-2.0 */
/* Pairing heap (Fredman, Sedgewick, Sleator, Tarjan 1986): intrusive, so that it allocates nothing.
 */
#include "fabric/fabric_priv.h"

static struct fabric_timer *meld(struct fabric_timer *a, struct fabric_timer *b)
{
    if (!a) {
        return b;
    }
    if (!b) {
        return a;
    }
    if (b->deadline_ns < a->deadline_ns) {
        struct fabric_timer *swap = a;
        a = b;
        b = swap;
    }
    b->previous = a; /* of a first child: the parent */
    b->next = a->child;
    if (b->next) {
        b->next->previous = b;
    }
    a->child = b;
    a->next = NULL;
    a->previous = NULL;
    return a;
}

/* Two passes: pairs from left to right, then all from right to left. */
static struct fabric_timer *meld_children(struct fabric_timer *first)
{
    struct fabric_timer *pairs = NULL;
    while (first) {
        struct fabric_timer *a = first;
        struct fabric_timer *b = a->next;
        first = b ? b->next : NULL;
        a->next = a->previous = NULL;
        if (b) {
            b->next = b->previous = NULL;
        }
        struct fabric_timer *pair = meld(a, b);
        pair->next = pairs;
        pairs = pair;
    }
    struct fabric_timer *root = NULL;
    while (pairs) {
        struct fabric_timer *pair = pairs;
        pairs = pair->next;
        pair->next = NULL;
        root = meld(root, pair);
    }
    return root;
}

void fabric_heap_cancel(struct timer_heap *heap, struct fabric_timer *timer)
{
    if (!timer->is_set) {
        return;
    }
    struct fabric_timer *children = meld_children(timer->child);
    if (heap->root == timer) {
        heap->root = children;
    } else {
        if (timer->previous->child == timer) {
            timer->previous->child = timer->next;
        } else {
            timer->previous->next = timer->next;
        }
        if (timer->next) {
            timer->next->previous = timer->previous;
        }
        heap->root = meld(heap->root, children);
    }
    timer->child = timer->next = timer->previous = NULL;
    timer->is_set = false;
}

void fabric_heap_set(struct timer_heap *heap, struct fabric_timer *timer, uint64_t deadline_ns)
{
    fabric_heap_cancel(heap, timer);
    timer->deadline_ns = deadline_ns;
    timer->child = timer->next = timer->previous = NULL;
    timer->is_set = true;
    heap->root = meld(heap->root, timer);
}

struct fabric_timer *fabric_heap_pop(struct timer_heap *heap, uint64_t now_ns)
{
    struct fabric_timer *timer = heap->root;
    if (!timer || timer->deadline_ns > now_ns) {
        return NULL;
    }
    fabric_heap_cancel(heap, timer);
    return timer;
}
