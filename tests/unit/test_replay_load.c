/* SPDX-License-Identifier: Apache-2.0 */
/* Where replay's requests come from, and what their blocks hold. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tool_replay.h"

static bool parse(const char *line, struct replay_load *load, char *why)
{
    return replay_line_parse(line, strlen(line), load, why, 256);
}

static void a_line_becomes_a_request(void **state)
{
    (void)state;
    struct replay_load load = {0};
    char why[256] = "";
    assert_true(parse("{\"timestamp\": 12, \"input_length\": 6758, \"output_length\": 500, "
                      "\"hash_ids\": [0, 7, 9223372036854775807]}",
                      &load, why));
    assert_true(parse("{\"hash_ids\":[],\"timestamp\":13,\"more\":{\"a\":[null]}}\r", &load, why));
    assert_int_equal(load.request_count, 2);
    assert_int_equal(load.requests[0].timestamp_ms, 12);
    assert_int_equal(load.requests[0].count, 3);
    assert_int_equal(load.blocks[1], 7);
    assert_int_equal(load.blocks[2], INT64_MAX);
    assert_int_equal(load.requests[1].count, 0);
    assert_int_equal(replay_load_longest(&load), 3);
    replay_load_fini(&load);
}

static void a_bad_line_says_what_is_wrong_and_adds_nothing(void **state)
{
    (void)state;
    static const char *const lines[][2] = {
        {"", "not JSON"},
        {"nonsense", "not JSON"},
        {"[1]", "not a JSON object"},
        {"{\"timestamp\": 1, \"hash_ids\": [1]", "not JSON"},
        {"{\"timestamp\": 1, \"hash_ids\": [1]} {}", "not JSON"},
        {"{\"timestamp\": 1, \"timestamp\": 2, \"hash_ids\": [1]}", "duplicate"},
        {"{\"hash_ids\": [1]}", "there is no \"timestamp\""},
        {"{\"timestamp\": 1}", "there is no \"hash_ids\""},
        {"{\"timestamp\": 1.5, \"hash_ids\": [1]}", "\"timestamp\" is not a whole number"},
        {"{\"timestamp\": -1, \"hash_ids\": [1]}", "\"timestamp\" is not a whole number"},
        {"{\"timestamp\": 1, \"hash_ids\": 1}", "\"hash_ids\" is not an array"},
        {"{\"timestamp\": 1, \"hash_ids\": [1, \"2\"]}", "item 2 of \"hash_ids\""},
        {"{\"timestamp\": 1, \"hash_ids\": [-1]}", "item 1 of \"hash_ids\""},
        {"{\"timestamp\": 1, \"hash_ids\": [9223372036854775808]}", "not JSON: too big"},
        {"{\"timestamp\": 1, \"input_length\": \"x\", \"hash_ids\": [1]}", "\"input_length\""},
    };
    struct replay_load load = {0};
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        char why[256] = "";
        assert_false(parse(lines[i][0], &load, why));
        if (strstr(why, lines[i][1]) == NULL) {
            fail_msg("%s: \"%s\"", lines[i][0], why);
        }
        assert_int_equal(load.request_count, 0);
        assert_int_equal(load.block_count, 0);
    }
    replay_load_fini(&load);
}

static void a_request_of_more_blocks_than_a_batch_takes_is_refused(void **state)
{
    (void)state;
    size_t count = UMBP_BATCH_MAX + 1;
    char *line = malloc(count * 2 + 64);
    struct replay_load load = {0};
    char why[256];
    size_t at = (size_t)snprintf(line, 64, "{\"timestamp\":0,\"hash_ids\":[");
    for (size_t i = 0; i < count; i++) {
        line[at++] = '1';
        line[at++] = i + 1 < count ? ',' : ']';
    }
    line[at++] = '}';
    assert_false(replay_line_parse(line, at, &load, why, sizeof why));
    assert_non_null(strstr(why, "65537 ids"));
    free(line);
    replay_load_fini(&load);
}

static char *write_trace(const char *dir, const char *text)
{
    char *path = test_path(dir, "trace.jsonl");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    return path;
}

static void a_trace_is_read_up_to_the_limit_and_errors_name_the_line(void **state)
{
    (void)state;
    char *dir = test_dir_create();
    struct replay_load load = {0};
    char why[512];
    char *path = write_trace(dir, "{\"timestamp\":0,\"hash_ids\":[1,2]}\n"
                                  "\n"
                                  "{\"timestamp\":5,\"hash_ids\":[1,2,3]}\n"
                                  "{\"timestamp\":5,\"hash_ids\":{}}");
    assert_ok(replay_load_trace(path, 2, &load, why, sizeof why));
    assert_int_equal(load.request_count, 2);
    assert_int_equal(load.block_count, 5);
    replay_load_fini(&load);
    assert_status(replay_load_trace(path, 3, &load, why, sizeof why), UMBP_INVALID_VALUE);
    assert_non_null(strstr(why, "trace.jsonl:4: \"hash_ids\" is not an array"));
    assert_null(load.requests);
    free(path);

    path = write_trace(dir, "\n \n");
    assert_status(replay_load_trace(path, 3, &load, why, sizeof why), UMBP_INVALID_VALUE);
    assert_non_null(strstr(why, "no requests"));
    free(path);
    path = test_path(dir, "nothing");
    assert_status(replay_load_trace(path, 3, &load, why, sizeof why), UMBP_IO);
    assert_non_null(strstr(why, "nothing: No such file"));
    assert_status(replay_load_trace(dir, 3, &load, why, sizeof why), UMBP_IO);
    free(path);
    test_dir_remove(dir);
}

static void a_line_across_the_readers_buffer_is_whole_and_an_endless_one_is_refused(void **state)
{
    (void)state;
    char *dir = test_dir_create();
    char *path = test_path(dir, "trace.jsonl");
    struct replay_load load = {0};
    char why[512];
    size_t blanks = REPLAY_LINE_BYTES_MAX / 3;
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 7; i++) {
        fprintf(file, "{\"timestamp\":%d,%*s\"hash_ids\":[%d]}\n", i, (int)blanks, "", i);
    }
    fclose(file);
    assert_ok(replay_load_trace(path, UINT64_MAX, &load, why, sizeof why));
    assert_int_equal(load.request_count, 7);
    assert_int_equal(load.blocks[6], 6);
    replay_load_fini(&load);

    file = fopen(path, "w");
    fprintf(file, "{\"timestamp\":0,%*s\"hash_ids\":[0]}\n", (int)REPLAY_LINE_BYTES_MAX, "");
    fclose(file);
    assert_status(replay_load_trace(path, UINT64_MAX, &load, why, sizeof why), UMBP_INVALID_VALUE);
    assert_non_null(strstr(why, "trace.jsonl:1: the line is longer"));
    free(path);
    test_dir_remove(dir);
}

/* ------------------------------------------------------------------------- chat --------- */

static void the_generated_load_is_the_same_for_the_same_seed(void **state)
{
    (void)state;
    struct replay_load a;
    struct replay_load b;
    assert_ok(replay_load_chat(7, 1000, &a));
    assert_ok(replay_load_chat(7, 500, &b));
    assert_int_equal(a.request_count, 1000);
    assert_int_equal(b.request_count, 500);
    assert_memory_equal(a.blocks, b.blocks, b.block_count * sizeof *b.blocks);
    replay_load_fini(&b);
    assert_ok(replay_load_chat(8, 1000, &b));
    assert_true(a.block_count != b.block_count ||
                memcmp(a.blocks, b.blocks, a.block_count * sizeof *a.blocks) != 0);
    replay_load_fini(&a);
    replay_load_fini(&b);
}

/* One figure that pins the generator: a change of it makes published results incomparable. */
static void the_generated_load_has_not_changed(void **state)
{
    (void)state;
    struct replay_load load;
    assert_ok(replay_load_chat(1, 6000, &load));
    uint64_t hash = hash_bytes(load.blocks, load.block_count * sizeof *load.blocks, 0);
    assert_int_equal(load.block_count, 253888);
    assert_int_equal(hash, UINT64_C(0xe279a17a392a74b6));
    replay_load_fini(&load);
}

static void the_generated_load_is_what_its_model_says(void **state)
{
    (void)state;
    struct replay_load load;
    uint64_t largest = 0;
    size_t distinct = 0;
    size_t starts[64] = {0};
    assert_ok(replay_load_chat(3, 6000, &load));
    uint64_t last_ms = 0;
    for (size_t r = 0; r < load.request_count; r++) {
        const struct replay_request *request = &load.requests[r];
        assert_true(request->timestamp_ms >= last_ms);
        assert_true(request->count >= 3 && request->count <= 512);
        last_ms = request->timestamp_ms;
        for (size_t i = 0; i < request->count; i++) {
            uint64_t block = load.blocks[request->first + i];
            largest = block > largest ? block : largest;
        }
    }
    assert_true(largest < load.block_count);
    /* 6000 requests of sessions of 5 turns, one in 1.5 s: half an hour, and a pause or two */
    assert_true(last_ms > 1200000 && last_ms < 3600000);
    /* blocks are used again: most of what is asked for was asked for before */
    uint8_t *seen = calloc(largest + 1, 1);
    for (size_t i = 0; i < load.block_count; i++) {
        distinct += !seen[load.blocks[i]];
        seen[load.blocks[i]] = 1;
    }
    assert_true(distinct * 2 < load.block_count);
    assert_true(distinct * 8 > load.block_count);
    /* Zipf: the first system prompt begins far more prompts than the tenth */
    uint64_t first[64];
    size_t prompts = 0;
    for (size_t r = 0; r < load.request_count; r++) {
        uint64_t block = load.blocks[load.requests[r].first];
        size_t p = 0;
        while (p < prompts && first[p] != block) {
            p++;
        }
        if (p == prompts) {
            assert_true(prompts < 64);
            first[prompts++] = block;
        }
        starts[p]++;
    }
    size_t of_first = 0;
    for (size_t p = 0; p < prompts; p++) {
        of_first = first[p] == 0 ? starts[p] : of_first;
    }
    assert_true(prompts > 48);
    /* its share is 1 / H(64) = 0.21 of the sessions */
    assert_true(of_first * 100 > load.request_count * 14);
    assert_true(of_first * 100 < load.request_count * 29);
    free(seen);
    replay_load_fini(&load);
}

/* ---------------------------------------------------------------------- content --------- */

static void assert_flip_is_seen(const struct replay_content *content, uint8_t *data, size_t at)
{
    data[at] ^= 0x10;
    assert_false(replay_content_check(content, 5, data));
    data[at] ^= 0x10;
}

static void swap_halves(uint8_t *data, size_t bytes)
{
    uint8_t *first = malloc(bytes / 2);
    memcpy(first, data, bytes / 2);
    memmove(data, data + bytes / 2, bytes / 2);
    memcpy(data + bytes / 2, first, bytes / 2);
    free(first);
}

static void contents_differ_by_block_seed_place_and_any_byte(void **state)
{
    (void)state;
    static uint8_t room[262144]; /* a value ends where it ends: a sanitizer sees one byte more */
    static const size_t sizes[] = {8, 9, 31, 32, 33, 4096, 4099, 262144};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        struct replay_content content;
        struct replay_content other;
        size_t bytes = sizes[s];
        uint8_t *data = room + sizeof room - bytes;
        assert_ok(replay_content_init(&content, 1, bytes));
        assert_ok(replay_content_init(&other, 2, bytes));
        replay_content_fill(&content, 5, data);
        assert_true(replay_content_check(&content, 5, data));
        assert_false(replay_content_check(&content, 6, data));
        assert_false(replay_content_check(&other, 5, data));
        size_t step = bytes > 100 ? bytes / 61 : 1;
        for (size_t at = 0; at < bytes; at += step) {
            assert_flip_is_seen(&content, data, at);
        }
        assert_flip_is_seen(&content, data, bytes - 1);
        if (bytes % 64 == 0) { /* the right bytes in the wrong place */
            swap_halves(data, bytes);
            assert_false(replay_content_check(&content, 5, data));
        }
        replay_content_fini(&content);
        replay_content_fini(&other);
    }
}

static void keys_are_hex_and_differ_by_block_seed_and_size(void **state)
{
    (void)state;
    char a[REPLAY_KEY_BYTES];
    char b[REPLAY_KEY_BYTES];
    struct replay_content content = {.seed = 1, .block_bytes = 4096};
    replay_content_key(&content, 1, a);
    for (size_t i = 0; i < sizeof a; i++) {
        assert_non_null(memchr("0123456789abcdef", a[i], 16));
    }
    replay_content_key(&content, 2, b);
    assert_memory_not_equal(a, b, sizeof a);
    content.seed = 2;
    replay_content_key(&content, 1, b);
    assert_memory_not_equal(a, b, sizeof a);
    content.seed = 1;
    content.block_bytes = 8192;
    replay_content_key(&content, 1, b);
    assert_memory_not_equal(a, b, sizeof a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_becomes_a_request),
        cmocka_unit_test(a_bad_line_says_what_is_wrong_and_adds_nothing),
        cmocka_unit_test(a_request_of_more_blocks_than_a_batch_takes_is_refused),
        cmocka_unit_test(a_trace_is_read_up_to_the_limit_and_errors_name_the_line),
        cmocka_unit_test(a_line_across_the_readers_buffer_is_whole_and_an_endless_one_is_refused),
        cmocka_unit_test(the_generated_load_is_the_same_for_the_same_seed),
        cmocka_unit_test(the_generated_load_has_not_changed),
        cmocka_unit_test(the_generated_load_is_what_its_model_says),
        cmocka_unit_test(contents_differ_by_block_seed_place_and_any_byte),
        cmocka_unit_test(keys_are_hex_and_differ_by_block_seed_and_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
