/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The format on disk: codecs, what decoders refuse, and a golden file. tests/golden/ssd_v1.inc
 * holds the super file and a sealed segment as rows of {block, offset, bytes}, zero rows left out.
 * It must never change while the version is 1. With UMBP_PRINT_GOLDEN set, this program prints it.
 */
#include "ssd_fixture.h"
#include "tier_ssd/ssd_priv.h"

#define GOLDEN_BLOCKS 9u
#define ROW 16u

static const uint8_t uuid[SSD_UUID_BYTES] = {0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe,
                                             0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef};

static uint32_t put_value(uint8_t *blocks, uint32_t block, uint64_t tag, const char *key,
                          uint64_t generation, uint64_t bytes, struct ssd_entry *entry_out)
{
    uint8_t *at = blocks + block * SSD_BLOCK_BYTES;
    uint32_t key_bytes = (uint32_t)strlen(key);
    uint8_t *value = calloc(1, bytes + 1);
    for (uint64_t i = 0; i < bytes; i++) {
        value[i] = (uint8_t)(i * 7 + generation);
    }
    struct ssd_record record = {
        .kind = SSD_KIND_VALUE,
        .segment = 0x1234,
        .block = block,
        .generation = generation,
        .value_bytes = bytes,
        .depth = 9,
        .value_crc = crc32c(0, value, bytes),
        .key_bytes = key_bytes,
        .key = (const uint8_t *)key,
    };
    ssd_record_encode(&record, tag, at);
    bool is_inline = ssd_value_is_inline(bytes, key_bytes);
    memcpy(at + (is_inline ? SSD_RECORD_HEAD_BYTES + key_bytes : SSD_BLOCK_BYTES), value, bytes);
    free(value);
    *entry_out = (struct ssd_entry){
        .kind = SSD_KIND_VALUE,
        .block = block,
        .generation = generation,
        .value_bytes = bytes,
        .depth = 9,
        .value_crc = record.value_crc,
        .key_bytes = key_bytes,
        .key = (const uint8_t *)key,
    };
    return block + (uint32_t)ssd_record_blocks(bytes, key_bytes);
}

/* Block 0: super. Then a segment: header, inline value, value of two blocks, tombstones, one footer
 * page, trailer. */
static void build_golden(uint8_t *blocks)
{
    struct ssd_identity identity = ssd_identity_of(uuid);
    struct ssd_super super = {.clear_generation = 5, .next_segment = 0x2000};
    struct ssd_entry entries[3];
    uint8_t *segment = blocks + SSD_BLOCK_BYTES;
    memset(blocks, 0, GOLDEN_BLOCKS * SSD_BLOCK_BYTES);
    memcpy(super.uuid, uuid, sizeof(uuid));
    ssd_super_encode(&super, blocks);
    ssd_header_encode(&identity, 0x1234, segment);
    uint32_t next = put_value(segment, 1, identity.tag, "inline", 100, 50, &entries[0]);
    next = put_value(segment, next, identity.tag, "large", 101, 5000, &entries[1]);
    uint8_t *tomb = segment + next * SSD_BLOCK_BYTES;
    size_t payload = ssd_tomb_encode(102, "gone", 4, tomb + SSD_RECORD_HEAD_BYTES);
    struct ssd_record record = {
        .kind = SSD_KIND_TOMBSTONES,
        .segment = 0x1234,
        .block = next,
        .generation = 102,
        .value_bytes = payload,
        .value_crc = crc32c(0, tomb + SSD_RECORD_HEAD_BYTES, payload),
    };
    ssd_record_encode(&record, identity.tag, tomb);
    entries[2] = (struct ssd_entry){.kind = SSD_KIND_TOMBSTONES,
                                    .block = next,
                                    .generation = 102,
                                    .key_bytes = 4,
                                    .key = (const uint8_t *)"gone"};
    next++;
    uint8_t *page = segment + next * SSD_BLOCK_BYTES;
    ssd_page_begin(page, identity.tag, 0x1234, 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(ssd_page_add(page, &entries[i]));
    }
    ssd_page_seal(page);
    struct ssd_trailer trailer = {
        .segment = 0x1234, .footer_block = next, .pages = 1, .entries = 3};
    memcpy(trailer.uuid, uuid, sizeof(uuid));
    ssd_trailer_encode(&trailer, page + SSD_BLOCK_BYTES);
    assert_int_equal(1 + next + 2, GOLDEN_BLOCKS);
}

static const struct golden_row {
    uint32_t block;
    uint32_t offset;
    uint8_t bytes[ROW];
} golden_rows[] = {
#include "../golden/ssd_v1.inc"
};

static void print_golden(const uint8_t *blocks)
{
    for (uint32_t at = 0; at < GOLDEN_BLOCKS * SSD_BLOCK_BYTES; at += ROW) {
        static const uint8_t zero[ROW];
        if (memcmp(blocks + at, zero, ROW) != 0) {
            printf("{%u, 0x%03x, {", at / SSD_BLOCK_BYTES, at % SSD_BLOCK_BYTES);
            for (unsigned i = 0; i < ROW; i++) {
                printf("%s0x%02x", i ? ", " : "", blocks[at + i]);
            }
            printf("}},\n");
        }
    }
}

static void read_golden(uint8_t *blocks)
{
    memset(blocks, 0, GOLDEN_BLOCKS * SSD_BLOCK_BYTES);
    for (unsigned i = 0; i < ARRAY_COUNT(golden_rows); i++) {
        const struct golden_row *row = &golden_rows[i];
        assert_true(row->block < GOLDEN_BLOCKS && row->offset <= SSD_BLOCK_BYTES - ROW);
        memcpy(blocks + row->block * SSD_BLOCK_BYTES + row->offset, row->bytes, ROW);
    }
}

static void what_is_encoded_is_what_the_golden_file_says(void **state)
{
    (void)state;
    static uint8_t blocks[GOLDEN_BLOCKS * SSD_BLOCK_BYTES];
    static uint8_t golden[GOLDEN_BLOCKS * SSD_BLOCK_BYTES];
    build_golden(blocks);
    if (getenv("UMBP_PRINT_GOLDEN")) {
        print_golden(blocks);
    }
    read_golden(golden);
    for (uint32_t at = 0; at < sizeof(golden); at++) {
        if (blocks[at] != golden[at]) {
            print_error("block %u offset %04x: %02x, golden %02x\n", at / SSD_BLOCK_BYTES,
                        at % SSD_BLOCK_BYTES, blocks[at], golden[at]);
            fail();
        }
    }
}

struct golden_seen {
    unsigned records;
    unsigned tombstones;
    struct ssd_record_info last;
};

static void golden_visit(void *context, const struct ssd_record_info *info)
{
    struct golden_seen *seen = context;
    assert_int_equal(info->generation, 100 + seen->records + seen->tombstones);
    if (info->is_tombstone) {
        seen->tombstones++;
        assert_memory_equal(info->key.data, "gone", 4);
        return;
    }
    seen->records++;
    assert_int_equal(info->depth, 9);
    assert_int_equal(info->location.segment, 0x1234);
    seen->last = *info;
}

static void a_directory_of_golden_files_opens_and_reads(void **state)
{
    (void)state;
    static uint8_t golden[GOLDEN_BLOCKS * SSD_BLOCK_BYTES];
    uint8_t value[5000];
    struct disk *disk = fx_memory_disk();
    struct disk_file file;
    read_golden(golden);
    assert_ok(disk_make_directory(disk, "d"));
    assert_ok(disk_open(disk, "d/umbp.super", DISK_OPEN_WRITE | DISK_OPEN_CREATE, &file));
    assert_ok(disk_write_at(disk, file, golden, SSD_BLOCK_BYTES, 0));
    disk_close(disk, file);
    assert_ok(disk_open(disk, "d/0000000000001234.seg", DISK_OPEN_WRITE | DISK_OPEN_CREATE, &file));
    assert_ok(
        disk_write_at(disk, file, golden + SSD_BLOCK_BYTES, sizeof(golden) - SSD_BLOCK_BYTES, 0));
    disk_close(disk, file);
    struct golden_seen seen = {0};
    struct ssd_visitor visitor = {.record = golden_visit, .context = &seen};
    struct fx fx;
    fx_init(&fx, disk, "d");
    fx.options.read_only = true;
    assert_ok(ssd_open(&fx.options, &visitor, &fx.tier, &fx.recovery, fx.error, sizeof(fx.error)));
    assert_int_equal(seen.records, 2);
    assert_int_equal(seen.tombstones, 1);
    assert_int_equal(fx.recovery.scanned_segments, 0);
    assert_int_equal(fx.recovery.max_generation, 102);
    struct ssd_range range = {value, sizeof(value), 0};
    struct ssd_read read = {.key = {"large", 5},
                            .generation = 101,
                            .value_bytes = sizeof(value),
                            .location = seen.last.location,
                            .ranges = &range,
                            .range_count = 1};
    assert_ok(ssd_read(fx.tier, &read, 1, NULL, NULL, fx_soon()));
    for (unsigned i = 0; i < sizeof(value); i++) {
        assert_int_equal(value[i], (uint8_t)(i * 7 + 101));
    }
    fx_close(&fx);
    disk_destroy(disk);
}

static void every_flipped_bit_of_a_block_is_noticed(void **state)
{
    (void)state;
    static uint8_t blocks[GOLDEN_BLOCKS * SSD_BLOCK_BYTES];
    struct ssd_identity identity = ssd_identity_of(uuid);
    struct ssd_super super;
    struct ssd_record record;
    struct ssd_trailer trailer;
    uint32_t version;
    uint8_t *segment = blocks + SSD_BLOCK_BYTES;
    build_golden(blocks);
    for (uint32_t bit = 0; bit < SSD_BLOCK_BYTES * 8; bit++) {
        uint8_t mask = (uint8_t)(1u << (bit % 8));
        uint32_t at = bit / 8;
        blocks[at] ^= mask;
        assert_int_not_equal(ssd_super_decode(blocks, &super, &version), UMBP_OK);
        blocks[at] ^= mask;
        segment[at] ^= mask;
        assert_int_not_equal(ssd_header_decode(segment, &identity, 0x1234), UMBP_OK);
        segment[at] ^= mask;
        uint8_t *page = segment + 6 * SSD_BLOCK_BYTES;
        page[at] ^= mask;
        assert_false(ssd_page_is_valid(page, identity.tag, 0x1234, 0));
        page[at] ^= mask;
        uint8_t *end = segment + 7 * SSD_BLOCK_BYTES;
        end[at] ^= mask;
        assert_int_not_equal(ssd_trailer_decode(end, &identity, 0x1234, 8, &trailer), UMBP_OK);
        end[at] ^= mask;
        if (at < SSD_RECORD_HEAD_BYTES + 6) { /* the value has a checksum of its own */
            segment[SSD_BLOCK_BYTES + at] ^= mask;
            assert_false(
                ssd_record_decode(segment + SSD_BLOCK_BYTES, identity.tag, 0x1234, 1, &record));
            segment[SSD_BLOCK_BYTES + at] ^= mask;
        }
    }
    assert_ok(ssd_super_decode(blocks, &super, &version));
    assert_int_equal(super.next_segment, 0x2000);
    assert_int_equal(super.clear_generation, 5);
    assert_ok(ssd_trailer_decode(segment + 7 * SSD_BLOCK_BYTES, &identity, 0x1234, 8, &trailer));
    assert_true(ssd_record_decode(segment + SSD_BLOCK_BYTES, identity.tag, 0x1234, 1, &record));
}

static void a_record_is_valid_in_its_own_place_only(void **state)
{
    (void)state;
    uint8_t block[SSD_BLOCK_BYTES];
    struct ssd_record record = {.kind = SSD_KIND_VALUE,
                                .segment = 7,
                                .block = 3,
                                .key_bytes = 1,
                                .key = (const uint8_t *)"k"};
    struct ssd_record out;
    memset(block, 0, sizeof(block));
    ssd_record_encode(&record, 99, block);
    assert_true(ssd_record_decode(block, 99, 7, 3, &out));
    assert_false(ssd_record_decode(block, 98, 7, 3, &out));
    assert_false(ssd_record_decode(block, 99, 8, 3, &out));
    assert_false(ssd_record_decode(block, 99, 7, 4, &out));
}

static void a_footer_page_takes_entries_until_it_is_full(void **state)
{
    (void)state;
    uint8_t page[SSD_BLOCK_BYTES];
    uint8_t key[SSD_KEY_BYTES_MAX];
    memset(key, 'k', sizeof(key));
    for (uint32_t key_bytes = 1; key_bytes <= SSD_KEY_BYTES_MAX; key_bytes += 31) {
        struct ssd_entry entry = {
            .kind = SSD_KIND_VALUE, .block = 1, .key_bytes = key_bytes, .key = key};
        uint32_t added = 0;
        ssd_page_begin(page, 1, 2, 3);
        while (ssd_page_add(page, &entry)) {
            added++;
            entry.generation++;
        }
        ssd_page_seal(page);
        assert_int_equal(added, SSD_PAGE_ROOM / ssd_entry_bytes(key_bytes));
        assert_true(ssd_page_is_valid(page, 1, 2, 3));
        assert_false(ssd_page_is_valid(page, 1, 2, 4));
        uint32_t at = 0;
        bool plausible = true;
        uint32_t found = 0;
        while (ssd_page_next(page, 10, &at, &entry, &plausible)) {
            assert_int_equal(entry.generation, found++);
        }
        assert_true(plausible);
        assert_int_equal(found, added);
        at = 0;
        assert_false(ssd_page_next(page, 1, &at, &entry, &plausible)); /* block 1 is the footer */
        assert_false(plausible);
    }
}

static void tombstone_payloads_end_where_their_bytes_end(void **state)
{
    (void)state;
    uint8_t payload[200];
    struct ssd_entry entry;
    size_t bytes = ssd_tomb_encode(1, "abc", 3, payload);
    bytes += ssd_tomb_encode(2, "defgh", 5, payload + bytes);
    for (size_t cut = 0; cut <= bytes; cut++) {
        size_t at = 0;
        unsigned found = 0;
        while (ssd_tomb_next(payload, cut, &at, &entry)) {
            found++;
        }
        assert_int_equal(found, cut == bytes ? 2 : cut >= 15 ? 1 : 0);
        assert_true(at <= cut);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_encoded_is_what_the_golden_file_says),
        cmocka_unit_test(a_directory_of_golden_files_opens_and_reads),
        cmocka_unit_test(every_flipped_bit_of_a_block_is_noticed),
        cmocka_unit_test(a_record_is_valid_in_its_own_place_only),
        cmocka_unit_test(a_footer_page_takes_entries_until_it_is_full),
        cmocka_unit_test(tombstone_payloads_end_where_their_bytes_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
