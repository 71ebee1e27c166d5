/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The codecs of everything on disk. Little-endian, explicit offsets. Decoders trust nothing: each
 * field is checked against the block that it came in before it is used.
 *
 *   super, segment header, footer page, trailer: a block whose last four bytes are the CRC32C of
 * the rest; magic, version record: its CRC covers head and key only, the value has its own
 */
#include <endian.h>

#include "tier_ssd/ssd_priv.h"

#define MAGIC_SUPER UINT64_C(0x5250555350424d55)   /* "UMBPSUPR" */
#define MAGIC_HEADER UINT64_C(0x4d47455350424d55)  /* "UMBPSEGM" */
#define MAGIC_TRAILER UINT64_C(0x444e455350424d55) /* "UMBPSEND" */
#define MAGIC_PAGE UINT32_C(0x54464d55)            /* "UMFT" */
#define MAGIC_RECORD UINT32_C(0x43524d55)          /* "UMRC" */

static void put_u16(uint8_t *to, uint32_t value)
{
    uint16_t le = htole16((uint16_t)value);
    memcpy(to, &le, sizeof(le));
}

static void put_u32(uint8_t *to, uint32_t value)
{
    uint32_t le = htole32(value);
    memcpy(to, &le, sizeof(le));
}

static void put_u64(uint8_t *to, uint64_t value)
{
    uint64_t le = htole64(value);
    memcpy(to, &le, sizeof(le));
}

static uint32_t get_u16(const uint8_t *from)
{
    uint16_t le;
    memcpy(&le, from, sizeof(le));
    return le16toh(le);
}

static uint32_t get_u32(const uint8_t *from)
{
    uint32_t le;
    memcpy(&le, from, sizeof(le));
    return le32toh(le);
}

static uint64_t get_u64(const uint8_t *from)
{
    uint64_t le;
    memcpy(&le, from, sizeof(le));
    return le64toh(le);
}

struct ssd_identity ssd_identity_of(const uint8_t *uuid)
{
    struct ssd_identity identity;
    memcpy(identity.uuid, uuid, SSD_UUID_BYTES);
    identity.tag = get_u64(uuid);
    return identity;
}

static void block_seal(uint8_t *block)
{
    put_u32(block + SSD_BLOCK_CRC_OFFSET, crc32c(0, block, SSD_BLOCK_CRC_OFFSET));
}

static bool block_holds(const uint8_t *block)
{
    return get_u32(block + SSD_BLOCK_CRC_OFFSET) == crc32c(0, block, SSD_BLOCK_CRC_OFFSET);
}

bool ssd_block_is_zero(const uint8_t *block)
{
    return block[0] == 0 && memcmp(block, block + 1, SSD_BLOCK_BYTES - 1) == 0;
}

bool ssd_block_is_structure(const uint8_t *block)
{
    uint64_t magic = get_u64(block);
    return get_u32(block) == MAGIC_PAGE || magic == MAGIC_TRAILER || magic == MAGIC_HEADER;
}

/* --------------------------------------------------------------------- super, header ----- */

/*
 *   0 magic  8 version u32  12 block bytes u32  16 uuid  32 clear generation u64
 *   40 next segment u32  ..  4092 crc u32
 */
void ssd_super_encode(const struct ssd_super *super, uint8_t *block)
{
    memset(block, 0, SSD_BLOCK_BYTES);
    put_u64(block, MAGIC_SUPER);
    put_u32(block + 8, SSD_FORMAT_VERSION);
    put_u32(block + 12, SSD_BLOCK_BYTES);
    memcpy(block + 16, super->uuid, SSD_UUID_BYTES);
    put_u64(block + 32, super->clear_generation);
    put_u32(block + 40, super->next_segment);
    block_seal(block);
}

enum umbp_status ssd_super_decode(const uint8_t *block, struct ssd_super *super_out,
                                  uint32_t *version_out)
{
    if (get_u64(block) != MAGIC_SUPER) {
        return UMBP_CORRUPT;
    }
    /* The version comes before the checksum: a newer one may check itself in another way. */
    *version_out = get_u32(block + 8);
    if (*version_out > SSD_FORMAT_VERSION) {
        return UMBP_VERSION;
    }
    if (!block_holds(block) || *version_out == 0 || get_u32(block + 12) != SSD_BLOCK_BYTES) {
        return UMBP_CORRUPT;
    }
    memcpy(super_out->uuid, block + 16, SSD_UUID_BYTES);
    super_out->clear_generation = get_u64(block + 32);
    super_out->next_segment = get_u32(block + 40);
    return super_out->next_segment == 0 ? UMBP_CORRUPT : UMBP_OK;
}

/* Header and trailer share: 0 magic  8 version u32  12 segment u32  16 uuid  ..  4092 crc */
static void framed_encode(uint64_t magic, const uint8_t *uuid, uint32_t segment, uint8_t *block)
{
    memset(block, 0, SSD_BLOCK_BYTES);
    put_u64(block, magic);
    put_u32(block + 8, SSD_FORMAT_VERSION);
    put_u32(block + 12, segment);
    memcpy(block + 16, uuid, SSD_UUID_BYTES);
}

static enum umbp_status framed_decode(const uint8_t *block, uint64_t magic,
                                      const struct ssd_identity *identity, uint32_t segment)
{
    if (get_u64(block) != magic || !block_holds(block)) {
        return UMBP_CORRUPT;
    }
    if (get_u32(block + 8) > SSD_FORMAT_VERSION) {
        return UMBP_VERSION;
    }
    if (memcmp(block + 16, identity->uuid, SSD_UUID_BYTES) != 0) {
        return UMBP_NOT_FOUND;
    }
    return get_u32(block + 12) == segment ? UMBP_OK : UMBP_CORRUPT;
}

void ssd_header_encode(const struct ssd_identity *identity, uint32_t segment, uint8_t *block)
{
    framed_encode(MAGIC_HEADER, identity->uuid, segment, block);
    block_seal(block);
}

bool ssd_header_uuid(const uint8_t *block, uint8_t *uuid_out)
{
    if (get_u64(block) != MAGIC_HEADER || !block_holds(block)) {
        return false;
    }
    memcpy(uuid_out, block + 16, SSD_UUID_BYTES);
    return true;
}

enum umbp_status ssd_header_decode(const uint8_t *block, const struct ssd_identity *identity,
                                   uint32_t segment)
{
    return framed_decode(block, MAGIC_HEADER, identity, segment);
}

/* ---------------------------------------------------------------------------- record ----- */

/*
 *   0 magic u32  4 crc u32 of [8, 64 + key)   8 tag u64  16 generation u64  24 value bytes u64
 *   32 segment u32  36 block u32  40 depth u32  44 value crc u32  48 key bytes u16  50 kind u8
 *   51 zero [13]  64 key, inline value or payload
 */
void ssd_record_encode(const struct ssd_record *record, uint64_t tag, uint8_t *block)
{
    memset(block, 0, SSD_RECORD_HEAD_BYTES);
    put_u32(block, MAGIC_RECORD);
    put_u64(block + 8, tag);
    put_u64(block + 16, record->generation);
    put_u64(block + 24, record->value_bytes);
    put_u32(block + 32, record->segment);
    put_u32(block + 36, record->block);
    put_u32(block + 40, record->depth);
    put_u32(block + 44, record->value_crc);
    put_u16(block + 48, record->key_bytes);
    block[50] = (uint8_t)record->kind;
    if (record->key_bytes > 0) {
        memcpy(block + SSD_RECORD_HEAD_BYTES, record->key, record->key_bytes);
    }
    put_u32(block + 4, crc32c(0, block + 8, SSD_RECORD_HEAD_BYTES - 8 + record->key_bytes));
}

static bool record_is_plausible(const struct ssd_record *record)
{
    switch (record->kind) {
    case SSD_KIND_VALUE:
        return record->key_bytes >= 1 && record->key_bytes <= SSD_KEY_BYTES_MAX &&
               record->value_bytes <= SSD_VALUE_BYTES_MAX;
    case SSD_KIND_TOMBSTONES:
        return record->key_bytes == 0 && record->value_bytes >= 1 &&
               record->value_bytes <= SSD_TOMB_PAYLOAD_MAX;
    }
    return false;
}

bool ssd_record_decode(const uint8_t *block, uint64_t tag, uint32_t segment, uint32_t block_index,
                       struct ssd_record *record_out)
{
    if (get_u32(block) != MAGIC_RECORD || get_u64(block + 8) != tag ||
        get_u32(block + 32) != segment || get_u32(block + 36) != block_index) {
        return false;
    }
    uint32_t key_bytes = get_u16(block + 48);
    if (key_bytes > SSD_KEY_BYTES_MAX ||
        get_u32(block + 4) != crc32c(0, block + 8, SSD_RECORD_HEAD_BYTES - 8 + key_bytes)) {
        return false;
    }
    struct ssd_record record = {
        .kind = (enum ssd_kind)block[50],
        .segment = segment,
        .block = block_index,
        .generation = get_u64(block + 16),
        .value_bytes = get_u64(block + 24),
        .depth = get_u32(block + 40),
        .value_crc = get_u32(block + 44),
        .key_bytes = key_bytes,
        .key = block + SSD_RECORD_HEAD_BYTES,
    };
    if (!record_is_plausible(&record)) {
        return false;
    }
    *record_out = record;
    return true;
}

/* Payload of a tombstone record, one key: generation u64, key bytes u32, key. */
size_t ssd_tomb_encode(uint64_t generation, const void *key, uint32_t key_bytes, uint8_t *to)
{
    put_u64(to, generation);
    put_u32(to + 8, key_bytes);
    memcpy(to + SSD_TOMB_HEAD_BYTES, key, key_bytes);
    return SSD_TOMB_HEAD_BYTES + key_bytes;
}

bool ssd_tomb_next(const uint8_t *payload, size_t bytes, size_t *at, struct ssd_entry *entry_out)
{
    if (bytes - *at < SSD_TOMB_HEAD_BYTES) {
        return false;
    }
    uint32_t key_bytes = get_u32(payload + *at + 8);
    if (key_bytes == 0 || key_bytes > SSD_KEY_BYTES_MAX ||
        key_bytes > bytes - *at - SSD_TOMB_HEAD_BYTES) {
        return false;
    }
    *entry_out = (struct ssd_entry){
        .kind = SSD_KIND_TOMBSTONES,
        .generation = get_u64(payload + *at),
        .key_bytes = key_bytes,
        .key = payload + *at + SSD_TOMB_HEAD_BYTES,
    };
    *at += SSD_TOMB_HEAD_BYTES + key_bytes;
    return true;
}

/* ---------------------------------------------------------------------------- footer ----- */

/*
 * Page:  0 magic u32  4 segment u32  8 tag u64  16 page u32  20 used u32 (bytes of entries)
 *        24 zero u64  32 entries  ..  4092 crc u32
 * Entry: 0 generation u64  8 value bytes u64  16 block u32  20 depth u32  24 value crc u32
 *        28 key bytes u16  30 kind u8  31 zero  32 key
 */
void ssd_page_begin(uint8_t *page, uint64_t tag, uint32_t segment, uint32_t index)
{
    memset(page, 0, SSD_BLOCK_BYTES);
    put_u32(page, MAGIC_PAGE);
    put_u32(page + 4, segment);
    put_u64(page + 8, tag);
    put_u32(page + 16, index);
}

bool ssd_page_add(uint8_t *page, const struct ssd_entry *entry)
{
    uint32_t used = get_u32(page + 20);
    if (ssd_entry_bytes(entry->key_bytes) > SSD_PAGE_ROOM - used) {
        return false;
    }
    uint8_t *to = page + SSD_PAGE_HEAD_BYTES + used;
    put_u64(to, entry->generation);
    put_u64(to + 8, entry->value_bytes);
    put_u32(to + 16, entry->block);
    put_u32(to + 20, entry->depth);
    put_u32(to + 24, entry->value_crc);
    put_u16(to + 28, entry->key_bytes);
    to[30] = (uint8_t)entry->kind;
    to[31] = 0;
    memcpy(to + SSD_ENTRY_HEAD_BYTES, entry->key, entry->key_bytes);
    put_u32(page + 20, used + ssd_entry_bytes(entry->key_bytes));
    return true;
}

void ssd_page_seal(uint8_t *page) { block_seal(page); }

bool ssd_page_is_valid(const uint8_t *page, uint64_t tag, uint32_t segment, uint32_t index)
{
    return get_u32(page) == MAGIC_PAGE && get_u32(page + 4) == segment &&
           get_u64(page + 8) == tag && get_u32(page + 16) == index &&
           get_u32(page + 20) <= SSD_PAGE_ROOM && block_holds(page);
}

static bool entry_is_plausible(const struct ssd_entry *entry, uint32_t footer_block)
{
    if (entry->key_bytes < 1 || entry->block < 1 || entry->block >= footer_block) {
        return false;
    }
    if (entry->kind == SSD_KIND_TOMBSTONES) {
        return entry->value_bytes == 0;
    }
    return entry->kind == SSD_KIND_VALUE && entry->value_bytes <= SSD_VALUE_BYTES_MAX &&
           ssd_record_blocks(entry->value_bytes, entry->key_bytes) <= footer_block - entry->block;
}

bool ssd_page_next(const uint8_t *page, uint32_t footer_block, uint32_t *at,
                   struct ssd_entry *entry_out, bool *plausible)
{
    uint32_t used = get_u32(page + 20);
    if (*at >= used) {
        return false;
    }
    const uint8_t *from = page + SSD_PAGE_HEAD_BYTES + *at;
    uint32_t left = used - *at;
    uint32_t key_bytes = left >= SSD_ENTRY_HEAD_BYTES ? get_u16(from + 28) : 0;
    if (left < SSD_ENTRY_HEAD_BYTES || key_bytes > SSD_KEY_BYTES_MAX ||
        key_bytes > left - SSD_ENTRY_HEAD_BYTES) {
        *plausible = false;
        return false;
    }
    struct ssd_entry entry = {
        .kind = (enum ssd_kind)from[30],
        .block = get_u32(from + 16),
        .generation = get_u64(from),
        .value_bytes = get_u64(from + 8),
        .depth = get_u32(from + 20),
        .value_crc = get_u32(from + 24),
        .key_bytes = key_bytes,
        .key = from + SSD_ENTRY_HEAD_BYTES,
    };
    if (!entry_is_plausible(&entry, footer_block)) {
        *plausible = false;
        return false;
    }
    *at += ssd_entry_bytes(key_bytes);
    *entry_out = entry;
    return true;
}

/* Behind the shared fields: 32 footer block u32  36 pages u32  40 entries u32 */
void ssd_trailer_encode(const struct ssd_trailer *trailer, uint8_t *block)
{
    framed_encode(MAGIC_TRAILER, trailer->uuid, trailer->segment, block);
    put_u32(block + 32, trailer->footer_block);
    put_u32(block + 36, trailer->pages);
    put_u32(block + 40, trailer->entries);
    block_seal(block);
}

enum umbp_status ssd_trailer_decode(const uint8_t *block, const struct ssd_identity *identity,
                                    uint32_t segment, uint64_t file_blocks,
                                    struct ssd_trailer *trailer_out)
{
    enum umbp_status status = framed_decode(block, MAGIC_TRAILER, identity, segment);
    if (status != UMBP_OK) {
        return status;
    }
    struct ssd_trailer trailer = {
        .segment = segment,
        .footer_block = get_u32(block + 32),
        .pages = get_u32(block + 36),
        .entries = get_u32(block + 40),
    };
    memcpy(trailer.uuid, identity->uuid, SSD_UUID_BYTES);
    if (trailer.footer_block < 1 ||
        (uint64_t)trailer.footer_block + trailer.pages + 1 != file_blocks ||
        trailer.entries > (uint64_t)trailer.pages * (SSD_PAGE_ROOM / ssd_entry_bytes(1))) {
        return UMBP_CORRUPT;
    }
    *trailer_out = trailer;
    return UMBP_OK;
}
