/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The signpost: how a client that was given the master's gRPC address finds the master's fabric
 * door, without speaking gRPC. It connects to the gRPC port over TCP (or a unix socket), sends one
 * question where a gRPC client would send its HTTP/2 preface, reads one answer, and is done: the
 * master closes the connection.
 *
 *   question, 16 bytes: "UMBPSIGN", lowest and highest version (u16 each), u32 zero
 *   answer, 32 bytes:   "UMBPPOST", u16 version, u16 status, u32 body bytes, u64 hash seed,
 *                       u32 zero, u32 CRC32C of the 28 bytes before it and of the body
 *   body:               records {u16 kind, u16 bytes, bytes}; unknown kinds are skipped
 *
 * Little-endian. Codecs only: no sockets, no state, no allocation; any thread. Hostile bytes get a
 * status. Limits: those below.
 */
#ifndef PROTO_SIGNPOST_H
#define PROTO_SIGNPOST_H

#include "base/base.h"

#define PROTO_SIGNPOST_QUESTION_BYTES 16u
#define PROTO_SIGNPOST_ANSWER_HEADER_BYTES 32u
#define PROTO_SIGNPOST_ANSWER_MAX 4096u
#define PROTO_SIGNPOST_VERSION 1u
#define PROTO_SIGNPOST_DOORS_MAX 8u
#define PROTO_SIGNPOST_TEXT_MAX 255u
/* The first eight bytes of a question, and of an answer. */
#define PROTO_SIGNPOST_QUESTION_MAGIC "UMBPSIGN"
#define PROTO_SIGNPOST_ANSWER_MAGIC "UMBPPOST"

struct proto_signpost {
    uint64_t hash_seed; /* with which the cluster hashes keys */
    char cluster[PROTO_SIGNPOST_TEXT_MAX + 1];
    char version[PROTO_SIGNPOST_TEXT_MAX + 1]; /* of the master, to be shown */
    /* Addresses of the fabric door, best first; none: the master has no fabric door. One with an
     * empty host (":7000") is at the host that was asked. */
    char doors[PROTO_SIGNPOST_DOORS_MAX][PROTO_SIGNPOST_TEXT_MAX + 1];
    uint32_t door_count;
};

void proto_signpost_question(uint8_t question_out[PROTO_SIGNPOST_QUESTION_BYTES]);
/* UMBP_CORRUPT: not a question. UMBP_VERSION: none of this build's versions is in its range. */
MUST_USE enum umbp_status
proto_signpost_question_open(const uint8_t question[PROTO_SIGNPOST_QUESTION_BYTES]);

/* The whole answer. `status` is UMBP_OK or UMBP_VERSION (then without a body). UMBP_LIMIT when it
 * does not fit; PROTO_SIGNPOST_ANSWER_MAX bytes always do. */
MUST_USE enum umbp_status proto_signpost_encode(const struct proto_signpost *signpost,
                                                enum umbp_status status, uint8_t *answer,
                                                size_t answer_bytes, size_t *bytes_out);
/* How long an answer is whose header this is. UMBP_CORRUPT: not one. */
MUST_USE enum umbp_status
proto_signpost_length(const uint8_t header[PROTO_SIGNPOST_ANSWER_HEADER_BYTES], size_t *bytes_out);
/* A whole answer. UMBP_CORRUPT: not one, or broken. UMBP_VERSION: the master speaks no version of
 * the question's range. */
MUST_USE enum umbp_status proto_signpost_decode(const uint8_t *answer, size_t bytes,
                                                struct proto_signpost *signpost_out);

#endif
