/* SPDX-License-Identifier: Apache-2.0 */
/* Two endpoints that are connected, over any implementation, driven by fabric_wait alone. */
#ifndef FABRIC_RIG_H
#define FABRIC_RIG_H

#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "fabric/fabric.h"

#define RIG_MS(fabric, ms) (fabric_now_ns(fabric) + (uint64_t)(ms)*NS_PER_MS)

struct rig_end {
    struct fabric *fabric;
    _Atomic fabric_peer peer; /* the last that came up */
    _Atomic unsigned ups, downs, requests, messages;
    _Atomic int down_reason;
    struct fabric_latch up, down;
    struct fabric_request *_Atomic held;
    _Atomic bool keep;
    enum umbp_status accepts;
    char identity[64];
    bool hello_ok;
    uint32_t last_message;
    bool in_order;
};

/* What a call, connect or transfer came to. */
struct rig_wait {
    struct rig_end *end;
    struct fabric_latch latch;
    enum umbp_status status;
    fabric_peer peer;
    uint64_t epoch;
    size_t bytes;
    uint8_t *data; /* a copy */
    unsigned count;
    uint64_t at_ns;
};

static void rig_wait_init(struct rig_wait *wait, struct rig_end *end)
{
    memset(wait, 0, sizeof(*wait));
    wait->end = end;
    fabric_latch_init(&wait->latch, 1);
}

static void rig_on_reply(void *context, const struct fabric_reply *reply)
{
    struct rig_wait *wait = context;
    wait->count++;
    wait->status = reply->status;
    wait->epoch = reply->epoch;
    wait->bytes = reply->bytes;
    wait->at_ns = fabric_now_ns(wait->end->fabric);
    if (reply->bytes > 0) {
        wait->data = malloc(reply->bytes);
        memcpy(wait->data, reply->data, reply->bytes);
    }
    fabric_latch_down(wait->end->fabric, &wait->latch);
}

__attribute__((unused)) static void rig_on_done(void *context, enum umbp_status status)
{
    struct rig_wait *wait = context;
    wait->count++;
    wait->status = status;
    wait->at_ns = fabric_now_ns(wait->end->fabric);
    fabric_latch_down(wait->end->fabric, &wait->latch);
}

static void rig_on_connect(void *context, enum umbp_status status, fabric_peer peer)
{
    struct rig_wait *wait = context;
    wait->count++;
    wait->status = status;
    wait->peer = peer;
    fabric_latch_down(wait->end->fabric, &wait->latch);
}

static enum umbp_status rig_accept(void *context, const struct fabric_hello *hello)
{
    struct rig_end *end = context;
    end->hello_ok = hello->identity_bytes > 0 && hello->version > 0;
    snprintf(end->identity, sizeof(end->identity), "%.*s", (int)hello->identity_bytes,
             (const char *)hello->identity);
    return end->accepts;
}

static void rig_up(void *context, fabric_peer peer, const struct fabric_hello *hello)
{
    struct rig_end *end = context;
    (void)hello;
    end->peer = peer;
    if (atomic_fetch_add(&end->ups, 1) == 0) {
        fabric_latch_down(end->fabric, &end->up);
    }
}

static void rig_down(void *context, fabric_peer peer, enum umbp_status reason)
{
    struct rig_end *end = context;
    (void)peer;
    end->down_reason = (int)reason;
    if (atomic_fetch_add(&end->downs, 1) == 0) {
        fabric_latch_down(end->fabric, &end->down);
    }
}

/* Echoes, with the bytes reversed so that nobody mistakes it for what was sent. */
static void rig_request(void *context, struct fabric_request *request)
{
    struct rig_end *end = context;
    atomic_fetch_add(&end->requests, 1);
    if (atomic_load(&end->keep)) {
        atomic_store(&end->held, request);
        return;
    }
    uint8_t *copy = malloc(request->bytes + 1);
    const uint8_t *data = request->data;
    for (size_t i = 0; i < request->bytes; i++) {
        copy[i] = data[request->bytes - 1 - i];
    }
    struct iovec part = {copy, request->bytes};
    fabric_answer(end->fabric, request, UMBP_OK, &part, 1);
    free(copy);
}

static void rig_message(void *context, fabric_peer peer, const void *data, size_t bytes)
{
    struct rig_end *end = context;
    uint32_t number = 0;
    (void)peer;
    memcpy(&number, data, bytes < 4 ? bytes : 4);
    end->in_order = end->in_order && number == end->last_message + 1;
    end->last_message = number;
    atomic_fetch_add(&end->messages, 1);
}

static struct fabric_handlers rig_handlers(struct rig_end *end)
{
    memset(end, 0, sizeof(*end));
    end->in_order = true;
    fabric_latch_init(&end->up, 1);
    fabric_latch_init(&end->down, 1);
    return (struct fabric_handlers){rig_accept, rig_up, rig_down, rig_request, rig_message, end};
}

/* Waits for what the latch counts, on the endpoint that counts it down. */
#define rig_settle(wait)                                                                           \
    assert_int_equal(                                                                              \
        fabric_wait((wait)->end->fabric, &(wait)->latch, RIG_MS((wait)->end->fabric, 60000)),      \
        UMBP_OK)

static enum umbp_status rig_connect(struct rig_end *end, const char *address, fabric_peer *peer_out)
{
    struct rig_wait wait;
    rig_wait_init(&wait, end);
    enum umbp_status status =
        fabric_connect(end->fabric, address, RIG_MS(end->fabric, 60000), rig_on_connect, &wait);
    if (status) {
        return status;
    }
    rig_settle(&wait);
    assert_int_equal(wait.count, 1);
    *peer_out = wait.peer;
    return wait.status;
}

static enum umbp_status rig_call_start(struct rig_wait *wait, struct rig_end *end, fabric_peer peer,
                                       const void *data, size_t bytes, uint64_t timeout_ms,
                                       bool exposes)
{
    struct iovec part = {(void *)(uintptr_t)data, bytes};
    rig_wait_init(wait, end);
    struct fabric_call call = {
        .peer = peer,
        .parts = &part,
        .part_count = 1,
        .deadline_ns = RIG_MS(end->fabric, timeout_ms),
        .exposes_memory = exposes,
        .done = rig_on_reply,
        .context = wait,
    };
    return fabric_call(end->fabric, &call);
}

#endif
