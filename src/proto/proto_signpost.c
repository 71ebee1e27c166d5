/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/signpost.h"

enum record_kind {
    RECORD_DOOR = 1,
    RECORD_CLUSTER = 2,
    RECORD_VERSION = 3,
};

/* Offsets in the answer's header. */
enum {
    AT_VERSION = 8,
    AT_STATUS = 10,
    AT_BODY_BYTES = 12,
    AT_SEED = 16,
    AT_ZERO = 24,
    AT_CRC = 28,
};

static void put(uint8_t *at, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint64_t take(const uint8_t *at, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++) {
        value |= (uint64_t)at[i] << (8 * i);
    }
    return value;
}

void proto_signpost_question(uint8_t question_out[PROTO_SIGNPOST_QUESTION_BYTES])
{
    memset(question_out, 0, PROTO_SIGNPOST_QUESTION_BYTES);
    memcpy(question_out, PROTO_SIGNPOST_QUESTION_MAGIC, 8);
    put(question_out + 8, PROTO_SIGNPOST_VERSION, 2);
    put(question_out + 10, PROTO_SIGNPOST_VERSION, 2);
}

enum umbp_status proto_signpost_question_open(const uint8_t question[PROTO_SIGNPOST_QUESTION_BYTES])
{
    uint64_t lowest = take(question + 8, 2);
    uint64_t highest = take(question + 10, 2);
    if (memcmp(question, PROTO_SIGNPOST_QUESTION_MAGIC, 8) != 0 || lowest > highest) {
        return UMBP_CORRUPT;
    }
    return lowest <= PROTO_SIGNPOST_VERSION && PROTO_SIGNPOST_VERSION <= highest ? UMBP_OK
                                                                                 : UMBP_VERSION;
}

static uint32_t checksum(const uint8_t *answer, size_t bytes)
{
    uint32_t crc = crc32c(0, answer, AT_CRC);
    return crc32c(crc, answer + PROTO_SIGNPOST_ANSWER_HEADER_BYTES,
                  bytes - PROTO_SIGNPOST_ANSWER_HEADER_BYTES);
}

static bool add_record(uint8_t *answer, size_t room, size_t *at, enum record_kind kind,
                       const char *text)
{
    size_t bytes = strlen(text);
    ASSERT(bytes <= PROTO_SIGNPOST_TEXT_MAX);
    if (room - *at < 4 + bytes) {
        return false;
    }
    put(answer + *at, kind, 2);
    put(answer + *at + 2, bytes, 2);
    memcpy(answer + *at + 4, text, bytes);
    *at += 4 + bytes;
    return true;
}

enum umbp_status proto_signpost_encode(const struct proto_signpost *signpost,
                                       enum umbp_status status, uint8_t *answer,
                                       size_t answer_bytes, size_t *bytes_out)
{
    ASSERT(status == UMBP_OK || status == UMBP_VERSION);
    ASSERT(signpost->door_count <= PROTO_SIGNPOST_DOORS_MAX);
    size_t at = PROTO_SIGNPOST_ANSWER_HEADER_BYTES;
    if (answer_bytes < at) {
        return UMBP_LIMIT;
    }
    if (status == UMBP_OK) {
        bool fits = add_record(answer, answer_bytes, &at, RECORD_CLUSTER, signpost->cluster) &&
                    add_record(answer, answer_bytes, &at, RECORD_VERSION, signpost->version);
        for (uint32_t i = 0; fits && i < signpost->door_count; i++) {
            fits = add_record(answer, answer_bytes, &at, RECORD_DOOR, signpost->doors[i]);
        }
        if (!fits) {
            return UMBP_LIMIT;
        }
    }
    memcpy(answer, PROTO_SIGNPOST_ANSWER_MAGIC, 8);
    put(answer + AT_VERSION, PROTO_SIGNPOST_VERSION, 2);
    put(answer + AT_STATUS, status, 2);
    put(answer + AT_BODY_BYTES, at - PROTO_SIGNPOST_ANSWER_HEADER_BYTES, 4);
    put(answer + AT_SEED, status == UMBP_OK ? signpost->hash_seed : 0, 8);
    put(answer + AT_ZERO, 0, 4);
    put(answer + AT_CRC, checksum(answer, at), 4);
    *bytes_out = at;
    return UMBP_OK;
}

enum umbp_status proto_signpost_length(const uint8_t header[PROTO_SIGNPOST_ANSWER_HEADER_BYTES],
                                       size_t *bytes_out)
{
    uint64_t body = take(header + AT_BODY_BYTES, 4);
    if (memcmp(header, PROTO_SIGNPOST_ANSWER_MAGIC, 8) != 0 ||
        body > PROTO_SIGNPOST_ANSWER_MAX - PROTO_SIGNPOST_ANSWER_HEADER_BYTES) {
        return UMBP_CORRUPT;
    }
    *bytes_out = PROTO_SIGNPOST_ANSWER_HEADER_BYTES + (size_t)body;
    return UMBP_OK;
}

/* A text without control characters. */
static bool take_text(const uint8_t *at, size_t bytes, char *text)
{
    if (bytes > PROTO_SIGNPOST_TEXT_MAX) {
        return false;
    }
    for (size_t i = 0; i < bytes; i++) {
        if (at[i] < 0x20 || at[i] == 0x7f) {
            return false;
        }
    }
    memset(text, 0, PROTO_SIGNPOST_TEXT_MAX + 1); /* the last of several counts */
    memcpy(text, at, bytes);
    return true;
}

static bool take_record(uint64_t kind, const uint8_t *at, size_t bytes,
                        struct proto_signpost *signpost)
{
    switch (kind) {
    case RECORD_DOOR:
        if (signpost->door_count == PROTO_SIGNPOST_DOORS_MAX) {
            return true; /* a later version may know more of them */
        }
        return take_text(at, bytes, signpost->doors[signpost->door_count++]);
    case RECORD_CLUSTER:
        return take_text(at, bytes, signpost->cluster);
    case RECORD_VERSION:
        return take_text(at, bytes, signpost->version);
    default:
        return true;
    }
}

enum umbp_status proto_signpost_decode(const uint8_t *answer, size_t bytes,
                                       struct proto_signpost *signpost_out)
{
    size_t length;
    if (bytes < PROTO_SIGNPOST_ANSWER_HEADER_BYTES ||
        proto_signpost_length(answer, &length) != UMBP_OK || length != bytes ||
        take(answer + AT_CRC, 4) != checksum(answer, bytes) || take(answer + AT_ZERO, 4) != 0) {
        return UMBP_CORRUPT;
    }
    if (take(answer + AT_STATUS, 2) == UMBP_VERSION) {
        return UMBP_VERSION;
    }
    if (take(answer + AT_VERSION, 2) != PROTO_SIGNPOST_VERSION ||
        take(answer + AT_STATUS, 2) != UMBP_OK) {
        return UMBP_CORRUPT;
    }
    struct proto_signpost signpost = {.hash_seed = take(answer + AT_SEED, 8)};
    for (size_t at = PROTO_SIGNPOST_ANSWER_HEADER_BYTES; at < bytes;) {
        if (bytes - at < 4) {
            return UMBP_CORRUPT;
        }
        size_t record = (size_t)take(answer + at + 2, 2);
        if (bytes - at - 4 < record ||
            !take_record(take(answer + at, 2), answer + at + 4, record, &signpost)) {
            return UMBP_CORRUPT;
        }
        at += 4 + record;
    }
    *signpost_out = signpost;
    return UMBP_OK;
}
