/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frames: what goes in comes out, what is not whole or not right is refused, and the bytes on
 * the wire never change while the version is 1 (tests/golden/proto_v1.inc: a frame a row, in hex).
 * With UMBP_PRINT_GOLDEN set, this program prints the golden file. With UMBP_WRITE_CORPUS set to a
 * folder, it writes the fuzz target's first corpus there.
 */
#include "support.h"

#include <inttypes.h>
#include <stdio.h>

#include "proto_support.h"

static const char *const golden[] = {
#include "../golden/proto_v1.inc"
};

static size_t make_sample(unsigned which, uint8_t *frame)
{
    size_t bytes = 0;
    assert_ok(sample_encode(which, (struct proto_buffer){frame, SAMPLE_BYTES_MAX}, &bytes));
    assert_true(bytes >= PROTO_HEADER_BYTES && bytes <= SAMPLE_BYTES_MAX);
    return bytes;
}

static void fix_sum(uint8_t *frame, size_t bytes)
{
    uint32_t crc = crc32c(0, frame, 44);
    crc = crc32c(crc, frame + PROTO_HEADER_BYTES, bytes - PROTO_HEADER_BYTES);
    memcpy(frame + 44, &crc, sizeof(crc));
}

static void every_body_that_is_encoded_can_be_opened_and_walked(void **state)
{
    uint8_t data[SAMPLE_BYTES_MAX];
    struct proto_frame frame;
    (void)state;
    for (unsigned i = 0; i < SAMPLES; i++) {
        struct proto_sum sum = {0};
        size_t bytes = make_sample(i, data);
        assert_ok(proto_frame_open(data, bytes, &frame));
        assert_ok(proto_walk_any(&frame, &sum));
        assert_int_equal(frame.header.request_id, 0x1122334455667788);
        assert_string_not_equal(proto_op_name(frame.header.op), "?");
    }
}

static void the_bytes_of_version_1_stay_as_they_are(void **state)
{
    uint8_t data[SAMPLE_BYTES_MAX];
    char text[2 * SAMPLE_BYTES_MAX + 1];
    bool print = getenv("UMBP_PRINT_GOLDEN") != NULL;
    (void)state;
    for (unsigned i = 0; i < SAMPLES; i++) {
        size_t bytes = make_sample(i, data);
        for (size_t b = 0; b < bytes; b++) {
            snprintf(text + 2 * b, 3, "%02x", data[b]);
        }
        if (print) {
            printf("\"%s\",\n", text);
            continue;
        }
        assert_true(i < ARRAY_COUNT(golden));
        assert_string_equal(text, golden[i]);
    }
    if (!print) {
        assert_int_equal(ARRAY_COUNT(golden), SAMPLES);
    }
}

static void a_frame_that_is_cut_or_longer_is_refused(void **state)
{
    uint8_t data[SAMPLE_BYTES_MAX + 1];
    struct proto_frame frame;
    (void)state;
    for (unsigned i = 0; i < SAMPLES; i++) {
        size_t bytes = make_sample(i, data);
        data[bytes] = 0;
        for (size_t cut = 0; cut < bytes; cut++) {
            assert_status(proto_frame_open(data, cut, &frame), UMBP_CORRUPT);
        }
        assert_status(proto_frame_open(data, bytes + 1, &frame), UMBP_CORRUPT);
    }
}

static void a_flipped_bit_anywhere_is_refused(void **state)
{
    uint8_t data[SAMPLE_BYTES_MAX];
    struct proto_frame frame;
    (void)state;
    for (unsigned i = 0; i < SAMPLES; i++) {
        size_t bytes = make_sample(i, data);
        for (size_t bit = 0; bit < bytes * 8; bit++) {
            data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            assert_int_not_equal(proto_frame_open(data, bytes, &frame), UMBP_OK);
            data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
        assert_ok(proto_frame_open(data, bytes, &frame));
    }
}

/* A body with a part missing or left over, under a right sum. */
static void a_body_that_does_not_add_up_is_refused(void **state)
{
    uint8_t data[SAMPLE_BYTES_MAX + 8];
    struct proto_frame frame;
    (void)state;
    for (unsigned i = 0; i < SAMPLES; i++) {
        struct proto_sum sum = {0};
        size_t whole = make_sample(i, data);
        uint8_t *copy = malloc(whole + 1);
        for (size_t bytes = PROTO_HEADER_BYTES + 1; bytes <= whole + 1; bytes++) {
            memcpy(copy, data, size_min(bytes, whole));
            if (bytes == whole || whole == PROTO_HEADER_BYTES) {
                continue;
            }
            if (bytes > whole) {
                copy[whole] = 0;
            }
            uint32_t body_bytes = (uint32_t)(bytes - PROTO_HEADER_BYTES);
            memcpy(copy + 24, &body_bytes, sizeof(body_bytes));
            fix_sum(copy, bytes);
            assert_ok(proto_frame_open(copy, bytes, &frame));
            assert_status(proto_walk_any(&frame, &sum), UMBP_CORRUPT);
        }
        free(copy);
    }
}

/* Under a right sum any byte may be anything: nothing is read outside (for the sanitizers). */
static void hostile_bytes_give_a_status(void **state)
{
    uint8_t data[SAMPLE_BYTES_MAX];
    struct test_rng rng;
    struct proto_frame frame;
    unsigned refused = 0;
    (void)state;
    test_rng_init(&rng, 1);
    for (unsigned round = 0; round < 20000; round++) {
        struct proto_sum sum = {0};
        size_t bytes = make_sample((unsigned)test_rng_below(&rng, SAMPLES), data);
        uint8_t *copy = malloc(bytes);
        memcpy(copy, data, bytes);
        for (uint64_t n = 1 + test_rng_below(&rng, 4); n; n--) {
            copy[test_rng_below(&rng, bytes)] = (uint8_t)test_rng_next(&rng);
        }
        fix_sum(copy, bytes);
        if (proto_frame_open(copy, bytes, &frame) != UMBP_OK ||
            proto_walk_any(&frame, &sum) != UMBP_OK) {
            refused++;
        }
        free(copy);
    }
    assert_true(refused > 1000);
}

static void other_versions_are_told_apart_from_noise(void **state)
{
    uint8_t data[SAMPLE_BYTES_MAX];
    struct proto_frame frame;
    const uint16_t later = PROTO_VERSION + 1;
    (void)state;
    size_t bytes = make_sample(0, data);
    memcpy(data + 4, &later, sizeof(later));
    fix_sum(data, bytes);
    assert_status(proto_frame_open(data, bytes, &frame), UMBP_VERSION);
    memset(data + 4, 0, 2);
    fix_sum(data, bytes);
    assert_status(proto_frame_open(data, bytes, &frame), UMBP_VERSION);
    data[0] ^= 1;
    assert_status(proto_frame_open(data, bytes, &frame), UMBP_CORRUPT);
}

static void versions_agree_on_the_highest_that_both_speak(void **state)
{
    uint16_t version = 9;
    (void)state;
    assert_ok(proto_version_agree(1, 3, 2, 5, &version));
    assert_int_equal(version, 3);
    assert_ok(proto_version_agree(4, 4, 1, 9, &version));
    assert_int_equal(version, 4);
    version = 9;
    assert_status(proto_version_agree(1, 2, 3, 4, &version), UMBP_VERSION);
    assert_status(proto_version_agree(2, 1, 1, 2, &version), UMBP_VERSION);
    assert_int_equal(version, 9);
}

static void an_unknown_op_and_an_unknown_status_are_no_error_of_the_frame(void **state)
{
    uint8_t data[PROTO_HEADER_BYTES];
    struct proto_frame frame;
    size_t bytes = 0;
    const uint16_t strange = 999;
    struct proto_buffer buffer = {data, sizeof(data)};
    (void)state;
    assert_ok(proto_bare_encode(buffer, (struct proto_call){.request_id = 4}, (enum proto_op)777,
                                PROTO_FLAG_REPLY, UMBP_OK, 0, &bytes));
    memcpy(data + 10, &strange, sizeof(strange));
    fix_sum(data, bytes);
    assert_ok(proto_frame_open(data, bytes, &frame));
    assert_int_equal(frame.header.op, 777);
    assert_string_equal(proto_op_name(frame.header.op), "?");
    assert_int_equal(frame.header.status, UMBP_UNSUPPORTED);
}

static void what_does_not_fit_is_a_limit_and_what_can_not_be_sent_is_invalid(void **state)
{
    uint8_t data[SAMPLE_BYTES_MAX];
    size_t bytes = 1234;
    const struct umbp_key empty = {"", 0};
    const struct umbp_key long_key = {data, UMBP_KEY_BYTES_MAX + 1};
    const struct proto_piece piece = {1, {2, 3}, 10};
    struct proto_put put = {.key = {"k", 1}, .bytes = 11, .pieces = &piece, .piece_count = 1};
    const struct proto_range range = {5, 6, 0, {0, 0}};
    const struct proto_get get = {.key = {"k", 1}, .bytes = 10, .ranges = &range, .range_count = 1};
    struct proto_buffer buffer = {data, sizeof(data)};
    (void)state;
    for (unsigned i = 0; i < SAMPLES; i++) {
        size_t whole = make_sample(i, data);
        assert_status(sample_encode(i, (struct proto_buffer){data, whole - 1}, &bytes), UMBP_LIMIT);
        assert_ok(sample_encode(i, (struct proto_buffer){data, whole}, &bytes));
        assert_int_equal(bytes, whole);
    }
    bytes = 1234;
    assert_status(proto_keys_encode(buffer, SAMPLE_CALL, PROTO_EXISTS, 0, &empty, 1, &bytes),
                  UMBP_INVALID_VALUE);
    assert_status(proto_keys_encode(buffer, SAMPLE_CALL, PROTO_EXISTS, 0, &long_key, 1, &bytes),
                  UMBP_INVALID_VALUE);
    assert_status(proto_put_encode(buffer, SAMPLE_CALL, &put, 1, &bytes), UMBP_INVALID_VALUE);
    put.bytes = 9;
    assert_status(proto_put_encode(buffer, SAMPLE_CALL, &put, 1, &bytes), UMBP_INVALID_VALUE);
    assert_status(proto_get_encode(buffer, SAMPLE_CALL, &get, 1, &bytes), UMBP_INVALID_VALUE);
    assert_int_equal(bytes, 1234);
}

static void the_number_that_fits_is_the_number_that_encodes(void **state)
{
    uint8_t data[SAMPLE_BYTES_MAX];
    struct proto_put puts[64];
    struct proto_get gets[64];
    const struct proto_piece piece = {1, {2, 3}, 10};
    const struct proto_range range = {0, 10, 1, {2, 3}};
    (void)state;
    for (unsigned i = 0; i < 64; i++) {
        puts[i] = (struct proto_put){
            .key = sample_keys[i % 3], .bytes = 10, .pieces = &piece, .piece_count = 1};
        gets[i] = (struct proto_get){
            .key = sample_keys[i % 3], .bytes = 10, .ranges = &range, .range_count = 1};
    }
    for (size_t room = 0; room < sizeof(data); room += 13) {
        struct proto_buffer buffer = {data, room};
        size_t bytes = 0;
        uint32_t fit = proto_put_fit(puts, 64, room);
        assert_int_equal(proto_put_encode(buffer, SAMPLE_CALL, puts, fit, &bytes),
                         room < PROTO_HEADER_BYTES ? UMBP_LIMIT : UMBP_OK);
        assert_true(fit == 64 ||
                    proto_put_encode(buffer, SAMPLE_CALL, puts, fit + 1, &bytes) == UMBP_LIMIT);
        fit = proto_get_fit(gets, 64, room);
        assert_int_equal(proto_get_encode(buffer, SAMPLE_CALL, gets, fit, &bytes),
                         room < PROTO_HEADER_BYTES ? UMBP_LIMIT : UMBP_OK);
        assert_true(fit == 64 ||
                    proto_get_encode(buffer, SAMPLE_CALL, gets, fit + 1, &bytes) == UMBP_LIMIT);
    }
}

static void more_items_than_a_batch_may_have_are_refused(void **state)
{
    size_t capacity = PROTO_FRAME_MAX;
    uint8_t *data = calloc(1, capacity);
    uint8_t *tiers = calloc(1, UMBP_BATCH_MAX + 1);
    struct proto_frame frame;
    struct proto_buffer buffer = {data, capacity};
    size_t bytes = 0;
    const uint32_t too_many = UMBP_BATCH_MAX + 1;
    (void)state;
    assert_status(proto_found_encode(buffer, SAMPLE_REPLY, tiers, UMBP_BATCH_MAX + 1, &bytes),
                  UMBP_LIMIT);
    assert_ok(proto_found_encode(buffer, SAMPLE_REPLY, tiers, UMBP_BATCH_MAX, &bytes));
    assert_ok(proto_frame_open(data, bytes, &frame));
    memcpy(data + 12, &too_many, sizeof(too_many));
    fix_sum(data, bytes);
    assert_status(proto_frame_open(data, bytes, &frame), UMBP_LIMIT);
    free(tiers);
    free(data);
}

/* ------------------------------------------------------------- single bodies, in full ---- */

static void a_put_comes_out_as_it_went_in(void **state)
{
    uint8_t data[SAMPLE_BYTES_MAX];
    struct proto_frame frame;
    struct proto_walk walk;
    struct proto_put item;
    (void)state;
    assert_ok(proto_frame_open(data, make_sample(0, data), &frame));
    assert_int_equal(frame.header.time_left_ms, 2500);
    assert_ok(proto_put_open(&frame, &walk));
    assert_true(proto_put_next(&walk, &item));
    assert_int_equal(item.key.bytes, 5);
    assert_memory_equal(item.key.data, "alpha", 5);
    assert_int_equal(item.bytes, 5000);
    assert_int_equal(item.depth, 3);
    assert_true(item.has_crc);
    assert_int_equal(item.crc, 0xe3069283);
    assert_int_equal(item.piece_count, 2);
    struct proto_piece piece = proto_piece_at(item.rows, 1);
    assert_memory_equal(&piece, &sample_pieces[1], sizeof(piece));
    assert_true(proto_put_next(&walk, &item));
    assert_false(item.has_crc);
    piece = proto_piece_at(item.rows, 0);
    assert_memory_equal(&piece, &sample_pieces[2], sizeof(piece));
    assert_true(proto_put_next(&walk, &item));
    assert_int_equal(item.bytes, 0);
    assert_false(proto_put_next(&walk, &item));
}

static void a_registration_comes_out_as_it_went_in(void **state)
{
    uint8_t data[SAMPLE_BYTES_MAX];
    struct proto_frame frame;
    struct proto_register node;
    (void)state;
    assert_ok(proto_frame_open(data, make_sample(13, data), &frame));
    assert_ok(proto_register_decode(&frame, &node));
    assert_memory_equal(node.id.data, "node-1", node.id.bytes);
    assert_memory_equal(node.address.data, "tcp://10.0.0.1:7100", node.address.bytes);
    assert_memory_equal(node.peer_address.data, "10.0.0.1:7101", node.peer_address.bytes);
    assert_int_equal(node.tag_count, 3);
    assert_int_equal(proto_tag_at(node.tag_rows, node.tag_flat, 1).bytes, 0);
    assert_memory_equal(proto_tag_at(node.tag_rows, node.tag_flat, 2).data, "gpu", 3);
    assert_int_equal(proto_capacity_at(node.capacity_rows, 1).tier, PROTO_TIER_SSD);
    assert_int_equal(proto_capacity_at(node.capacity_rows, 1).total_bytes, 1ull << 40);
}

static void a_route_reply_carries_routes_and_nodes(void **state)
{
    uint8_t data[SAMPLE_BYTES_MAX];
    struct proto_frame frame;
    struct proto_members members;
    struct proto_walk walk;
    struct proto_route route;
    struct proto_node node;
    (void)state;
    assert_ok(proto_frame_open(data, make_sample(19, data), &frame));
    assert_ok(proto_routes_open(&frame, &members, &walk));
    assert_int_equal(members.node_count, 2);
    assert_true(proto_route_next(&walk, &route));
    assert_int_equal(route.node_index, 3);
    assert_int_equal(route.replicas, 2);
    assert_true(proto_route_next(&walk, &route));
    assert_int_equal(route.status, UMBP_NOT_FOUND);
    assert_false(proto_route_next(&walk, &route));
    assert_true(proto_node_next(&members.walk, &node));
    assert_int_equal(node.capacity_count, 2);
    assert_int_equal(proto_capacity_at(node.capacity_rows, 0).used_bytes, 12345678);
    assert_true(proto_node_next(&members.walk, &node));
    assert_int_equal(node.index, 5);
    assert_memory_equal(node.id.data, "node-2", node.id.bytes);
    assert_false(proto_node_next(&members.walk, &node));
}

static void events_keep_print_tier_and_key(void **state)
{
    uint8_t data[SAMPLE_BYTES_MAX];
    struct proto_frame frame;
    struct proto_beat beat;
    struct proto_walk walk;
    struct proto_event event;
    (void)state;
    assert_ok(proto_frame_open(data, make_sample(15, data), &frame));
    assert_ok(proto_beat_open(&frame, &beat, &walk));
    assert_int_equal(beat.sequence, 42);
    assert_int_equal(beat.capacity_count, 2);
    assert_true(proto_event_next(&walk, &event));
    assert_int_equal(event.print.high, 2);
    assert_true(event.is_add);
    assert_null(event.key.data);
    assert_true(proto_event_next(&walk, &event));
    assert_false(event.is_add);
    assert_int_equal(event.tier, PROTO_TIER_SSD);
    assert_memory_equal(event.key.data, "0123456789abcdef", event.key.bytes);
    assert_false(proto_event_next(&walk, &event));
    assert_ok(proto_frame_open(data, make_sample(16, data), &frame));
    assert_ok(proto_beat_open(&frame, &beat, &walk));
    assert_true(beat.is_last);
    assert_int_equal(beat.chunk, 2);
}

static void write_corpus(const char *folder)
{
    uint8_t data[SAMPLE_BYTES_MAX + 1];
    for (unsigned i = 0; i < SAMPLES; i++) {
        char path[512];
        data[0] = 1;
        size_t bytes = make_sample(i, data + 1);
        snprintf(path, sizeof(path), "%s/sample%02u", folder, i);
        FILE *file = fopen(path, "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(data, 1, bytes + 1, file), bytes + 1);
        fclose(file);
    }
}

int main(void)
{
    if (getenv("UMBP_WRITE_CORPUS")) {
        write_corpus(getenv("UMBP_WRITE_CORPUS"));
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_body_that_is_encoded_can_be_opened_and_walked),
        cmocka_unit_test(the_bytes_of_version_1_stay_as_they_are),
        cmocka_unit_test(a_frame_that_is_cut_or_longer_is_refused),
        cmocka_unit_test(a_flipped_bit_anywhere_is_refused),
        cmocka_unit_test(a_body_that_does_not_add_up_is_refused),
        cmocka_unit_test(hostile_bytes_give_a_status),
        cmocka_unit_test(other_versions_are_told_apart_from_noise),
        cmocka_unit_test(versions_agree_on_the_highest_that_both_speak),
        cmocka_unit_test(an_unknown_op_and_an_unknown_status_are_no_error_of_the_frame),
        cmocka_unit_test(what_does_not_fit_is_a_limit_and_what_can_not_be_sent_is_invalid),
        cmocka_unit_test(the_number_that_fits_is_the_number_that_encodes),
        cmocka_unit_test(more_items_than_a_batch_may_have_are_refused),
        cmocka_unit_test(a_put_comes_out_as_it_went_in),
        cmocka_unit_test(a_registration_comes_out_as_it_went_in),
        cmocka_unit_test(a_route_reply_carries_routes_and_nodes),
        cmocka_unit_test(events_keep_print_tier_and_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
