/* SPDX-License-Identifier: Apache-2.0 */
/* What the gRPC door is made of, without gRPC: arenas, addresses, greetings, UTF-8, decoding. */
#include <stdlib.h>
#include <string.h>

#include <umbp_wire.pb-c.h>

#include "rpc/rpc_priv.h"
#include "support.h"

static void an_arena_gives_back_all_that_it_took(void **state)
{
    struct rpc_budget budget;
    struct rpc_arena *arena;
    struct test_rng rng;
    (void)state;
    test_rng_init(&rng, 1);
    rpc_budget_init(&budget, 32 << 20);
    assert_ok(rpc_arena_create(&budget, &arena));
    uint64_t idle = budget.left_bytes;
    for (int round = 0; round < 50; round++) {
        uint64_t limit = test_rng_below(&rng, 8 << 20);
        uint64_t taken = 0;
        rpc_arena_reset(arena, limit);
        for (;;) {
            size_t bytes = (size_t)test_rng_below(&rng, 1 << (test_rng_below(&rng, 20)));
            uint8_t *block = rpc_arena_alloc(arena, bytes);
            if (block == NULL) {
                assert_true(taken + bytes > limit);
                break;
            }
            assert_int_equal((uintptr_t)block % 16, 0);
            memset(block, 0x5a, bytes);
            taken += bytes + (bytes == 0); /* so that it ends */
            if (taken > limit) {
                break;
            }
        }
    }
    rpc_arena_reset(arena, 0);
    assert_int_equal(budget.left_bytes, idle);
    assert_null(rpc_arena_alloc(arena, 1));
    rpc_arena_reset(arena, UINT64_MAX);
    assert_null(rpc_arena_alloc(arena, 64 << 20)); /* over the budget */
    assert_null(rpc_arena_calloc(arena, SIZE_MAX / 2, 3));
    assert_null(rpc_arena_alloc(arena, SIZE_MAX));
    rpc_arena_destroy(arena);
    assert_int_equal(budget.left_bytes, 32 << 20);
}

static bool deny(void *context, size_t bytes)
{
    (void)bytes;
    return (*(unsigned *)context)-- > 0;
}

static void an_arena_without_memory_says_so(void **state)
{
    struct rpc_budget budget;
    struct rpc_arena *arena;
    (void)state;
    rpc_budget_init(&budget, 32 << 20);
    for (unsigned allowed = 0; allowed < 2; allowed++) {
        unsigned left = allowed;
        mem_set_hook(deny, &left);
        enum umbp_status status = rpc_arena_create(&budget, &arena);
        mem_set_hook(NULL, NULL);
        assert_status(status, UMBP_NO_MEMORY);
        assert_int_equal(budget.left_bytes, 32 << 20);
    }
    rpc_budget_init(&budget, 1000);
    assert_status(rpc_arena_create(&budget, &arena), UMBP_NO_MEMORY);
}

static void addresses_are_read_and_written_back(void **state)
{
    static const char *const texts[][2] = {
        {"127.0.0.1:80", "127.0.0.1:80"},
        {"0.0.0.0:0", "0.0.0.0:0"},
        {"[::1]:5", "[::1]:5"},
        {"unix:/a/b", "unix:/a/b"},
        {"unix:///a/b", "unix:/a/b"},
        {"unix:relative", "unix:relative"},
        {"unix-abstract:x", "unix-abstract:x"},
    };
    static const char *const bad[] = {
        "",      ":",     "1.2.3.4", "1.2.3.4:x",      "1.2.3.4:-1", "::1:1",
        "[::1]", "[]:1x", "unix:",   "unix-abstract:", "a b:1"};
    struct rpc_address addresses[8];
    char error[256], text[256];
    size_t count;
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        assert_ok(rpc_address_resolve(texts[i][0], addresses, 8, &count, error, sizeof error));
        assert_int_equal(count, 1);
        rpc_address_format(&addresses[0], text, sizeof text);
        assert_string_equal(text, texts[i][1]);
    }
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        error[0] = '\0';
        assert_status(rpc_address_resolve(bad[i], addresses, 8, &count, error, sizeof error),
                      UMBP_INVALID_VALUE);
        assert_true(error[0] != '\0');
    }
    char long_path[300] = "unix:";
    memset(long_path + 5, 'x', 200);
    assert_status(rpc_address_resolve(long_path, addresses, 8, &count, error, sizeof error),
                  UMBP_INVALID_VALUE);
    assert_ok(rpc_address_resolve(":7", addresses, 8, &count, error, sizeof error));
    assert_true(count >= 1); /* all families that there are */
}

static void a_greeting_is_known_as_soon_as_it_can_be(void **state)
{
    const uint8_t *preface = (const uint8_t *)"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    uint8_t question[PROTO_SIGNPOST_QUESTION_BYTES];
    const uint8_t tls[] = {0x16, 0x03, 0x01};
    (void)state;
    proto_signpost_question(question);
    for (size_t i = 0; i < 24; i++) {
        assert_int_equal(rpc_greeting_of(preface, i), RPC_GREETING_WAIT);
    }
    assert_int_equal(rpc_greeting_of(preface, 24), RPC_GREETING_HTTP2);
    for (size_t i = 0; i < sizeof question; i++) {
        assert_int_equal(rpc_greeting_of(question, i), RPC_GREETING_WAIT);
    }
    assert_int_equal(rpc_greeting_of(question, sizeof question), RPC_GREETING_SIGNPOST);
    assert_int_equal(rpc_greeting_of(tls, 1), RPC_GREETING_WAIT);
    assert_int_equal(rpc_greeting_of(tls, 3), RPC_GREETING_TLS);
    /* Each single byte that differs makes a stranger of it. */
    for (size_t i = 0; i < 24; i++) {
        uint8_t copy[24];
        memcpy(copy, preface, 24);
        copy[i] ^= 1;
        assert_int_equal(rpc_greeting_of(copy, 24), RPC_GREETING_STRANGER);
        assert_int_equal(rpc_greeting_of(copy, i + 1), RPC_GREETING_STRANGER);
    }
}

/* The rule itself, slow and plain: decode, and see whether it is the shortest form of a character
 * that there is. */
static bool plain_utf8(const uint8_t *at, size_t bytes)
{
    while (bytes > 0) {
        uint32_t value;
        size_t size = at[0] < 0x80       ? 1
                      : at[0] >> 5 == 6  ? 2
                      : at[0] >> 4 == 14 ? 3
                      : at[0] >> 3 == 30 ? 4
                                         : 0;
        if (size == 0 || size > bytes) {
            return false;
        }
        value = size == 1 ? at[0] : at[0] & (0x7fu >> size);
        for (size_t i = 1; i < size; i++) {
            if (at[i] >> 6 != 2) {
                return false;
            }
            value = value << 6 | (at[i] & 0x3fu);
        }
        static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
        if (value < least[size] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) {
            return false;
        }
        at += size;
        bytes -= size;
    }
    return true;
}

static void utf8_is_told_from_what_is_not(void **state)
{
    struct test_rng rng;
    (void)state;
    test_rng_init(&rng, 2);
    assert_true(rpc_is_utf8(NULL, 0));
    for (uint32_t first = 0; first < 0x10000; first++) {
        const uint8_t two[] = {(uint8_t)first, (uint8_t)(first >> 8), 0x80, 0x80, 'a'};
        for (size_t bytes = 1; bytes <= sizeof two; bytes++) {
            assert_int_equal(rpc_is_utf8(two, bytes), plain_utf8(two, bytes));
        }
    }
    for (int i = 0; i < 20000; i++) {
        uint8_t text[24];
        for (size_t k = 0; k < sizeof text; k++) {
            text[k] = 'x';
        }
        size_t at = (size_t)test_rng_below(&rng, 20);
        for (size_t k = 0; k < 4; k++) {
            text[at + k] = (uint8_t)test_rng_next(&rng);
        }
        assert_int_equal(rpc_is_utf8(text, sizeof text), plain_utf8(text, sizeof text));
    }
}

static enum rpc_code take_all(void *context, struct rpc_call *call)
{
    (void)context;
    (void)call;
    return RPC_OK;
}

static void every_allocation_of_decoding_may_fail(void **state)
{
    static const struct rpc_method method = {"/x/y", &umbp__heartbeat_request__descriptor,
                                             &umbp__heartbeat_response__descriptor, take_all};
    struct rpc_budget budget;
    struct rpc_arena *arena;
    struct rpc_call call;
    /* node "n", two bundles of two events each */
    const uint8_t bundle[] = {0x12, 14,  0x08, 1, 0x12, 4, 0x12, 2,
                              'k',  '1', 0x12, 4, 0x12, 2, 'k',  '2'};
    uint8_t bytes[3 + 2 * sizeof bundle] = {0x0a, 1, 'n'};
    (void)state;
    memcpy(bytes + 3, bundle, sizeof bundle);
    memcpy(bytes + 3 + sizeof bundle, bundle, sizeof bundle);
    rpc_budget_init(&budget, 1 << 20);
    assert_ok(rpc_arena_create(&budget, &arena));
    bool was_refused = false;
    uint64_t limit = 0;
    for (;; limit += 8) {
        rpc_arena_reset(arena, limit);
        enum rpc_code code = rpc_method_run(&method, NULL, arena, bytes, sizeof bytes, &call);
        if (code == RPC_OK) {
            break;
        }
        assert_true(code == RPC_RESOURCE_EXHAUSTED || code == RPC_INTERNAL);
        assert_non_null(call.message);
        was_refused = true;
        assert_true(limit < 100000);
    }
    assert_true(was_refused);
    const Umbp__HeartbeatRequest *request = (const Umbp__HeartbeatRequest *)call.request;
    assert_int_equal(request->n_bundles, 2);
    assert_int_equal(request->bundles[1]->n_events, 2);
    assert_memory_equal(request->bundles[1]->events[1]->key.data, "k2", 2);
    rpc_arena_destroy(arena);
}

static void a_peers_address_is_a_host_and_a_port_or_none(void **state)
{
    static const char *const good[][2] = {
        {"10.0.0.1:2", "dns:///10.0.0.1:2"},
        {"node-1.rack_2.example:65535", "dns:///node-1.rack_2.example:65535"},
        {"[::1]:50051", "dns:///[::1]:50051"},
        {"a:00080", "dns:///a:80"},
    };
    static const char *const bad[] = {
        "",
        "a",
        "a:",
        ":1",
        "a:0",
        "a:65536",
        "a:-1",
        "a:1x",
        "a:1:2",
        "::1:5",
        "[::1]",
        "[::1:5",
        "[]:5",
        "[a/b]:5",
        "unix:/tmp/x",
        "unix:a:1",
        "xds:///a:1",
        "dns:///a:1",
        "a b:1",
        "a/b:1",
        "a@b:1",
        "a%41:1",
        "a?x:1",
        "\xc3\xa4:1",
        "a:18446744073709551617",
        "unix-abstract:x",
    };
    char target[RPC_PEER_TARGET_BYTES];
    char longest[MASTER_TEXT_BYTES_MAX + 1];
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(good); i++) {
        assert_ok(rpc_peer_target(good[i][0], target));
        assert_string_equal(target, good[i][1]);
    }
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        snprintf(target, sizeof target, "untouched");
        assert_status(rpc_peer_target(bad[i], target), UMBP_INVALID_VALUE);
        assert_string_equal(target, "untouched");
    }
    memset(longest, 'a', sizeof longest - 1);
    memcpy(longest + sizeof longest - 7, ":65535", 7);
    assert_ok(rpc_peer_target(longest, target));
    assert_string_equal(target + strlen("dns:///"), longest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_arena_gives_back_all_that_it_took),
        cmocka_unit_test(an_arena_without_memory_says_so),
        cmocka_unit_test(addresses_are_read_and_written_back),
        cmocka_unit_test(a_greeting_is_known_as_soon_as_it_can_be),
        cmocka_unit_test(utf8_is_told_from_what_is_not),
        cmocka_unit_test(every_allocation_of_decoding_may_fail),
        cmocka_unit_test(a_peers_address_is_a_host_and_a_port_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
