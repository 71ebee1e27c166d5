/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the fuzz targets of the master's and the node's fabric ports share: a peer that passed the
 * handshake and says a list of frames, over the simulated network. An input is a list of {flags,
 * u16 bytes, frame}; flags 1: magic, version, length and sum are put right first; 2: a message, not
 * a call; 4: it shows its memory; 8: the connection ends behind it.
 */
#ifndef TESTS_FUZZ_PORT_FUZZ_H
#define TESTS_FUZZ_PORT_FUZZ_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fabric/fabric_sim.h"
#include "proto/proto.h"

#define FRAMES_MAX 64u
#define PEER_BYTES (64u * 1024u)

struct port {
    struct fabric_sim *sim;
    struct fabric *served;
    struct fabric *asker;
    struct fabric_region *region;
    uint8_t *memory; /* that the asker shows */
    fabric_peer peer;
    bool is_answered;
    enum umbp_status status;       /* of the last answer */
    enum umbp_status reply_status; /* and of the frame in it */
};

static inline void check(bool is_good)
{
    if (!is_good) {
        abort();
    }
}

static inline uint64_t port_in_ms(const struct port *port, uint64_t ms)
{
    return clock_deadline_ns(fabric_sim_clock(port->sim), ms);
}

static inline void port_on_connected(void *context, enum umbp_status status, fabric_peer peer)
{
    struct port *port = context;
    check(status == UMBP_OK);
    port->peer = peer;
    port->is_answered = true;
}

static inline void port_on_answer(void *context, const struct fabric_reply *reply)
{
    struct port *port = context;
    struct proto_frame frame;
    check(!port->is_answered);
    port->is_answered = true;
    port->status = reply->status;
    if (reply->status == UMBP_OK) {
        /* What it answers is always a frame. */
        check(proto_frame_open(reply->data, reply->bytes, &frame) == UMBP_OK);
        port->reply_status = frame.header.status;
    }
}

static inline bool port_is_answered(void *context) { return ((struct port *)context)->is_answered; }

static inline void port_connect(struct port *port)
{
    port->is_answered = false;
    check(fabric_connect(port->asker, "port", port_in_ms(port, 1000), port_on_connected, port) ==
          UMBP_OK);
    check(fabric_sim_run_until(port->sim, port_is_answered, port, port_in_ms(port, 2000)));
}

static inline void port_open(struct port *port, const struct fabric_handlers *handlers)
{
    const struct fabric_options served = {.struct_bytes = sizeof(served), .listen = "port"};
    const struct fabric_options asking = {.struct_bytes = sizeof(asking)};
    check(fabric_sim_open(port->sim, 0, &served, handlers, &port->served) == UMBP_OK);
    check(fabric_sim_open(port->sim, 1, &asking, &(struct fabric_handlers){0}, &port->asker) ==
          UMBP_OK);
    port->memory = calloc(1, PEER_BYTES);
    check(fabric_region_create(port->asker, port->memory, PEER_BYTES,
                               FABRIC_REMOTE_READ | FABRIC_REMOTE_WRITE, -1, 0,
                               &port->region) == UMBP_OK);
}

static inline void port_call(struct port *port, const void *frame, size_t bytes, bool exposes)
{
    const struct iovec part = {(void *)(uintptr_t)frame, bytes};
    const struct fabric_call call = {.peer = port->peer,
                                     .parts = &part,
                                     .part_count = 1,
                                     .deadline_ns = port_in_ms(port, 100),
                                     .exposes_memory = exposes,
                                     .done = port_on_answer,
                                     .context = port};
    port->is_answered = false;
    if (fabric_call(port->asker, &call) == UMBP_OK) {
        check(fabric_sim_run_until(port->sim, port_is_answered, port, port_in_ms(port, 1500)));
    }
}

static inline void port_mend(uint8_t *frame, size_t bytes)
{
    const uint32_t magic = PROTO_MAGIC;
    const uint16_t version = PROTO_VERSION;
    uint32_t body_bytes = (uint32_t)(bytes - PROTO_HEADER_BYTES);
    memcpy(frame, &magic, sizeof(magic));
    memcpy(frame + 4, &version, sizeof(version));
    memcpy(frame + 24, &body_bytes, sizeof(body_bytes));
    uint32_t crc = crc32c(0, frame, 44);
    crc = crc32c(crc, frame + PROTO_HEADER_BYTES, body_bytes);
    memcpy(frame + 44, &crc, sizeof(crc));
}

static inline void port_hear(struct port *port, const uint8_t *data, size_t bytes)
{
    for (unsigned i = 0; i < FRAMES_MAX && bytes >= 3; i++) {
        uint8_t flags = data[0];
        size_t length = (size_t)data[1] | (size_t)data[2] << 8;
        data += 3;
        bytes -= 3;
        length = length < bytes ? length : bytes;
        uint8_t *frame = malloc(length + 1);
        memcpy(frame, data, length);
        if (flags & 1 && length >= PROTO_HEADER_BYTES) {
            port_mend(frame, length);
        }
        if (!(fabric_peer_flags(port->asker, port->peer) & FABRIC_PEER_UP)) {
            port_connect(port);
        }
        if (flags & 2) {
            const struct iovec part = {frame, length};
            (void)!fabric_send(port->asker, port->peer, &part, 1);
            fabric_sim_run(port->sim, port_in_ms(port, 1));
        } else {
            port_call(port, frame, length, flags & 4);
        }
        if (flags & 8) {
            fabric_disconnect(port->asker, port->peer);
        }
        free(frame);
        data += length;
        bytes -= length;
    }
    fabric_sim_run(port->sim, port_in_ms(port, 1000));
}

/* Its own endpoint is closed first. */
static inline void port_close_asker(struct port *port)
{
    check(fabric_close(port->asker, 0) == UMBP_OK);
    fabric_destroy(port->asker);
    fabric_sim_run(port->sim, port_in_ms(port, 1000));
}

#endif
