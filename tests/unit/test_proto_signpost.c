/* SPDX-License-Identifier: Apache-2.0 */
/* The signpost's two messages, byte for byte. */
#include <string.h>

#include "proto/signpost.h"
#include "support.h"

static void the_question_has_these_bytes(void **state)
{
    uint8_t question[PROTO_SIGNPOST_QUESTION_BYTES];
    (void)state;
    proto_signpost_question(question);
    assert_memory_equal(question, "UMBPSIGN\1\0\1\0\0\0\0\0", 16);
    assert_ok(proto_signpost_question_open(question));
    question[8] = 0; /* from 0 to 1 */
    assert_ok(proto_signpost_question_open(question));
    question[8] = 2;
    question[10] = 3;
    assert_status(proto_signpost_question_open(question), UMBP_VERSION);
    question[10] = 1;
    assert_status(proto_signpost_question_open(question), UMBP_CORRUPT);
    question[0] = 'X';
    assert_status(proto_signpost_question_open(question), UMBP_CORRUPT);
}

static struct proto_signpost example(void)
{
    struct proto_signpost signpost = {
        .hash_seed = UINT64_C(0x0102030405060708), .cluster = "blue", .version = "1"};
    memcpy(signpost.doors[0], "tcp://:7", 8);
    signpost.door_count = 1;
    return signpost;
}

static void the_answer_has_these_bytes(void **state)
{
    static const char golden[] = "UMBPPOST\1\0\0\0\x19\0\0\0\x08\7\6\5\4\3\2\1\0\0\0\0";
    static const char body[] = "\2\0\4\0blue\3\0\1\0"
                               "1\1\0\x08\0tcp://:7";
    uint8_t answer[PROTO_SIGNPOST_ANSWER_MAX];
    struct proto_signpost signpost = example(), back;
    size_t bytes, length;
    (void)state;
    assert_ok(proto_signpost_encode(&signpost, UMBP_OK, answer, sizeof answer, &bytes));
    assert_int_equal(bytes, 32 + sizeof body - 1);
    assert_memory_equal(answer, golden, 28);
    assert_memory_equal(answer + 32, body, sizeof body - 1);
    assert_ok(proto_signpost_length(answer, &length));
    assert_int_equal(length, bytes);
    assert_ok(proto_signpost_decode(answer, bytes, &back));
    assert_memory_equal(&back, &signpost, sizeof back);
    for (size_t i = 0; i < bytes; i++) { /* no byte may change */
        answer[i] ^= 0x20;
        assert_status(proto_signpost_decode(answer, bytes, &back), UMBP_CORRUPT);
        answer[i] ^= 0x20;
    }
    for (size_t i = 0; i < bytes; i++) { /* nor be missing */
        assert_status(proto_signpost_decode(answer, i, &back), UMBP_CORRUPT);
    }
}

static void the_largest_answer_fits(void **state)
{
    uint8_t answer[PROTO_SIGNPOST_ANSWER_MAX];
    struct proto_signpost signpost = {.door_count = PROTO_SIGNPOST_DOORS_MAX}, back;
    size_t bytes;
    (void)state;
    memset(signpost.cluster, 'c', PROTO_SIGNPOST_TEXT_MAX);
    memset(signpost.version, 'v', PROTO_SIGNPOST_TEXT_MAX);
    for (size_t i = 0; i < PROTO_SIGNPOST_DOORS_MAX; i++) {
        memset(signpost.doors[i], 'd', PROTO_SIGNPOST_TEXT_MAX);
    }
    assert_ok(proto_signpost_encode(&signpost, UMBP_OK, answer, sizeof answer, &bytes));
    assert_ok(proto_signpost_decode(answer, bytes, &back));
    assert_memory_equal(&back, &signpost, sizeof back);
    assert_status(proto_signpost_encode(&signpost, UMBP_OK, answer, bytes - 1, &bytes), UMBP_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_question_has_these_bytes),
        cmocka_unit_test(the_answer_has_these_bytes),
        cmocka_unit_test(the_largest_answer_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
