/* SPDX-License-Identifier: Apache-2.0 */
#include "rpc/rpc_priv.h"

static const char http2_preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
_Static_assert(sizeof http2_preface - 1 == RPC_GREETING_BYTES, "RFC 9113, 3.4");
_Static_assert(PROTO_SIGNPOST_QUESTION_BYTES <= RPC_GREETING_BYTES, "one look shows all of it");

/* What `count` bytes say of something that begins with `magic`. */
static bool may_begin(const uint8_t *bytes, size_t count, const void *magic, size_t magic_bytes)
{
    return memcmp(bytes, magic, size_min(count, magic_bytes)) == 0;
}

enum rpc_greeting rpc_greeting_of(const uint8_t *bytes, size_t count)
{
    static const uint8_t tls[] = {0x16, 0x03}; /* a handshake record, of version 3.something */
    if (count == 0) {
        return RPC_GREETING_WAIT;
    }
    /* The whole preface, since gRPC would wait for the rest of it for ever. */
    if (may_begin(bytes, count, http2_preface, RPC_GREETING_BYTES)) {
        return count < RPC_GREETING_BYTES ? RPC_GREETING_WAIT : RPC_GREETING_HTTP2;
    }
    if (may_begin(bytes, count, PROTO_SIGNPOST_QUESTION_MAGIC, 8)) {
        return count < PROTO_SIGNPOST_QUESTION_BYTES ? RPC_GREETING_WAIT : RPC_GREETING_SIGNPOST;
    }
    if (may_begin(bytes, count, tls, sizeof tls)) {
        return count < sizeof tls ? RPC_GREETING_WAIT : RPC_GREETING_TLS;
    }
    return RPC_GREETING_STRANGER;
}
