/* SPDX-License-Identifier: Apache-2.0 */
/* From the bytes of a request to its handler, without gRPC. */
#include "rpc/rpc_priv.h"

static void *allocate(void *context, size_t bytes) { return rpc_arena_alloc(context, bytes); }

static void give_back(void *context, void *block)
{
    (void)context;
    (void)block;
}

/* A look at eight bytes at a time; almost every text is ASCII. */
static size_t ascii_prefix(const uint8_t *text, size_t bytes)
{
    size_t at = 0;
    for (; bytes - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, text + at, 8);
        if (word & UINT64_C(0x8080808080808080)) {
            break;
        }
    }
    while (at < bytes && text[at] < 0x80) {
        at++;
    }
    return at;
}

/* The bytes of the character that begins here; 0: none does. RFC 3629, table 3-7 of Unicode. */
static size_t character_bytes(const uint8_t *at, size_t left)
{
    uint8_t first = at[0];
    size_t bytes = first >= 0xc2 && first <= 0xdf   ? 2
                   : first >= 0xe0 && first <= 0xef ? 3
                   : first >= 0xf0 && first <= 0xf4 ? 4
                                                    : 0;
    if (bytes == 0 || bytes > left) {
        return 0;
    }
    uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (at[1] < low || at[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < bytes; i++) {
        if ((at[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return bytes;
}

bool rpc_is_utf8(const void *text, size_t bytes)
{
    if (bytes == 0) {
        return true; /* `text` may be NULL */
    }
    const uint8_t *at = text;
    const uint8_t *end = at + bytes;
    for (;;) {
        at += ascii_prefix(at, (size_t)(end - at));
        if (at == end) {
            return true;
        }
        size_t character = character_bytes(at, (size_t)(end - at));
        if (character == 0) {
            return false;
        }
        at += character;
    }
}

static bool value_is_utf8(const ProtobufCFieldDescriptor *field, const void *value)
{
    if (field->type == PROTOBUF_C_TYPE_BYTES) {
        const ProtobufCBinaryData *data = value;
        return rpc_is_utf8(data->data, data->len);
    }
    const ProtobufCMessage *const *message = value;
    return *message == NULL || rpc_texts_are_utf8(*message);
}

/* Our build's messages have bytes where the public file has string, since protobuf-c's strings end
 * at their first NUL. These two are bytes there too. */
static bool field_is_text(const ProtobufCFieldDescriptor *field)
{
    return field->type == PROTOBUF_C_TYPE_MESSAGE ||
           (field->type == PROTOBUF_C_TYPE_BYTES && strcmp(field->name, "engine_desc") != 0 &&
            strcmp(field->name, "desc") != 0);
}

bool rpc_texts_are_utf8(const ProtobufCMessage *message)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        const char *at = (const char *)message + field->offset;
        const char *quantifier = (const char *)message + field->quantifier_offset;
        if (!field_is_text(field)) {
            continue;
        }
        if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0 &&
            *(const uint32_t *)(const void *)quantifier != field->id) {
            continue;
        }
        if (field->label != PROTOBUF_C_LABEL_REPEATED) {
            if (!value_is_utf8(field, at)) {
                return false;
            }
            continue;
        }
        size_t count = *(const size_t *)(const void *)quantifier;
        size_t step = field->type == PROTOBUF_C_TYPE_BYTES ? sizeof(ProtobufCBinaryData)
                                                           : sizeof(ProtobufCMessage *);
        const char *items = *(const char *const *)(const void *)at;
        for (size_t k = 0; k < count; k++) {
            if (!value_is_utf8(field, items + k * step)) {
                return false;
            }
        }
    }
    return true;
}

ProtobufCMessage *rpc_unpack(const ProtobufCMessageDescriptor *type, struct rpc_arena *arena,
                             const void *bytes, size_t count)
{
    ProtobufCAllocator allocator = {allocate, give_back, arena};
    return protobuf_c_message_unpack(type, &allocator, count, count > 0 ? bytes : (const void *)"");
}

enum rpc_code rpc_method_run(const struct rpc_method *method, void *context,
                             struct rpc_arena *arena, const void *bytes, size_t count,
                             struct rpc_call *call_out)
{
    struct rpc_call call = {.arena = arena};
    enum rpc_code code;
    ProtobufCMessage *request = rpc_unpack(method->request, arena, bytes, count);
    call.request = request;
    call.reply = rpc_arena_alloc(arena, method->reply->sizeof_message);
    if (call.reply == NULL) {
        code = RPC_RESOURCE_EXHAUSTED;
        call.message = "no memory left to decode the message";
    } else if (request == NULL) {
        code = RPC_INTERNAL;
        call.message = "the bytes are not a message of this method, or it takes too much memory";
    } else if (!rpc_texts_are_utf8(request)) {
        code = RPC_INTERNAL;
        call.message = "a text of the message is not UTF-8";
    } else {
        protobuf_c_message_init(method->reply, call.reply);
        code = method->handle(context, &call);
    }
    *call_out = call;
    return code;
}

const char *rpc_code_name(unsigned code)
{
    static const char *const names[RPC_CODE_COUNT] = {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    };
    ASSERT(code < RPC_CODE_COUNT);
    return names[code];
}
