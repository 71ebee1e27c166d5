/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a slot says: one location within it, several in a block beside it. Key bytes, where they are
 * kept, lie in that block too. Engines' keys begin with 64 hex digits, which take half the room.
 */
#include "master/master_priv.h"

#define HEX_DIGITS 64u

static struct many *many_of(const struct slot *slot)
{
    return slot->word & WORD_MANY ? (struct many *)(uintptr_t)(slot->word & WORD_POINTER) : NULL;
}

static size_t many_bytes(const struct many *many)
{
    return sizeof(struct many) + many->capacity * sizeof(struct place) + many->stored_bytes;
}

static uint8_t *many_key(const struct many *many)
{
    return (uint8_t *)many + sizeof(struct many) + many->capacity * sizeof(struct place);
}

uint64_t word_of(const struct location *location)
{
    return location->bytes | (uint64_t)location->owner << WORD_OWNER_SHIFT |
           (uint64_t)location->tiers << WORD_TIERS_SHIFT;
}

static struct location location_of(uint64_t word, uint32_t epoch)
{
    return (struct location){
        .bytes = word & MASTER_VALUE_BYTES_MAX,
        .owner = (uint32_t)(word >> WORD_OWNER_SHIFT) & 0x3FFF,
        .epoch = epoch,
        .tiers = (uint8_t)(word >> WORD_TIERS_SHIFT & 7),
    };
}

static uint64_t place_word(const struct place *place)
{
    return (uint64_t)place->word_high << 32 | place->word_low;
}

static void place_set(struct place *place, uint64_t word, uint32_t epoch)
{
    *place = (struct place){epoch, (uint32_t)word, (uint32_t)(word >> 32)};
}

uint32_t slot_count(const struct slot *slot)
{
    const struct many *many = many_of(slot);
    return many ? many->count : 1;
}

struct location slot_at(const struct slot *slot, uint32_t index)
{
    const struct many *many = many_of(slot);
    if (!many) {
        return location_of(slot->word, slot->extra & EPOCH_MASK);
    }
    return location_of(place_word(&many->places[index]), many->places[index].epoch);
}

uint32_t slot_find(const struct slot *slot, uint32_t owner)
{
    uint32_t locations = slot_count(slot);
    for (uint32_t i = 0; i < locations; i++) {
        if (slot_at(slot, i).owner == owner) {
            return i;
        }
    }
    return UINT32_MAX;
}

void slot_set(struct slot *slot, uint32_t index, const struct location *location)
{
    struct many *many = many_of(slot);
    if (many) {
        place_set(&many->places[index], word_of(location), location->epoch);
        return;
    }
    slot->word = word_of(location) | (slot->word & WORD_ROUTED);
    slot->extra = (slot->extra & ~EPOCH_MASK) | location->epoch;
}

/* A block with room for `capacity` places and `stored` key bytes that takes over what the slot
 * says; the slot is unchanged when there is no memory. */
static struct many *many_grow(struct table *table, struct slot *slot, uint32_t capacity,
                              uint32_t stored)
{
    struct many *old = many_of(slot);
    struct many *many = mem_alloc(sizeof(struct many) + capacity * sizeof(struct place) + stored);
    if (!many) {
        return NULL;
    }
    memset(many, 0, sizeof(*many));
    many->capacity = (uint8_t)capacity;
    many->stored_bytes = (uint16_t)stored;
    uint32_t locations = slot_count(slot);
    for (uint32_t i = 0; i < locations; i++) {
        struct location location = slot_at(slot, i);
        place_set(&many->places[i], word_of(&location), location.epoch);
    }
    many->count = (uint16_t)locations;
    if (old && old->stored_bytes) {
        ASSERT(old->stored_bytes == stored);
        many->key_bytes = old->key_bytes;
        many->is_packed = old->is_packed;
        memcpy(many_key(many), many_key(old), stored);
    }
    ASSERT(((uintptr_t)many & ~WORD_POINTER) == 0);
    slot_drop(table, slot);
    slot->word = (uint64_t)(uintptr_t)many | WORD_MANY | (slot->word & WORD_ROUTED);
    atomic_fetch_add_explicit(&table->bytes, many_bytes(many), memory_order_relaxed);
    return many;
}

enum umbp_status slot_append(struct table *table, struct slot *slot,
                             const struct location *location)
{
    struct many *many = many_of(slot);
    uint32_t locations = slot_count(slot);
    if (locations == MASTER_LOCATIONS_MAX) {
        return UMBP_LIMIT;
    }
    if (!many || many->count == many->capacity) {
        uint32_t capacity = locations < 4 ? locations + 1 : locations + locations / 2;
        many = many_grow(table, slot,
                         capacity < MASTER_LOCATIONS_MAX ? capacity : MASTER_LOCATIONS_MAX,
                         many ? many->stored_bytes : 0);
        if (!many) {
            return UMBP_NO_MEMORY;
        }
    }
    place_set(&many->places[many->count++], word_of(location), location->epoch);
    return UMBP_OK;
}

void slot_take(struct table *table, struct slot *slot, uint32_t index)
{
    struct many *many = many_of(slot);
    ASSERT(many && many->count > 1);
    many->places[index] = many->places[--many->count];
    if (many->count == 1 && !many->key_bytes) {
        struct location last = slot_at(slot, 0);
        slot_drop(table, slot);
        slot->word &= WORD_ROUTED;
        slot_set(slot, 0, &last);
    }
}

void slot_drop(struct table *table, struct slot *slot)
{
    struct many *many = many_of(slot);
    if (many) {
        atomic_fetch_sub_explicit(&table->bytes, many_bytes(many), memory_order_relaxed);
        mem_free(many);
    }
}

/* -------------------------------------------------------------------------------- keys --- */

static int digit_of(uint8_t c) /* lower case only: the way back must be exact */
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool pack(const uint8_t *key, size_t bytes, uint8_t *packed_out)
{
    if (bytes < HEX_DIGITS) {
        return false;
    }
    for (size_t i = 0; i < HEX_DIGITS; i += 2) {
        int high = digit_of(key[i]);
        int low = digit_of(key[i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        packed_out[i / 2] = (uint8_t)(high << 4 | low);
    }
    return true;
}

enum umbp_status slot_keep_key(struct table *table, struct slot *slot, const void *key,
                               size_t bytes)
{
    uint8_t packed[HEX_DIGITS / 2];
    const struct many *old = many_of(slot);
    if (!key || !bytes || bytes > UMBP_KEY_BYTES_MAX || (old && old->key_bytes)) {
        return UMBP_OK;
    }
    bool is_packed = pack(key, bytes, packed);
    size_t stored = is_packed ? bytes - HEX_DIGITS / 2 : bytes;
    struct many *many = many_grow(table, slot, old ? old->capacity : 1, (uint32_t)stored);
    if (!many) {
        return UMBP_NO_MEMORY;
    }
    many->is_packed = is_packed;
    many->key_bytes = (uint16_t)bytes;
    if (is_packed) {
        memcpy(many_key(many), packed, sizeof(packed));
        memcpy(many_key(many) + sizeof(packed), (const uint8_t *)key + HEX_DIGITS,
               bytes - HEX_DIGITS);
    } else {
        memcpy(many_key(many), key, bytes);
    }
    return UMBP_OK;
}

size_t slot_key(const struct slot *slot, void *key_out)
{
    const struct many *many = many_of(slot);
    uint8_t *key = key_out;
    if (!many || !many->key_bytes) {
        return 0;
    }
    const uint8_t *stored = many_key(many);
    if (!many->is_packed) {
        memcpy(key, stored, many->key_bytes);
        return many->key_bytes;
    }
    for (size_t i = 0; i < HEX_DIGITS; i++) {
        key[i] = (uint8_t) "0123456789abcdef"[i % 2 ? stored[i / 2] & 15 : stored[i / 2] >> 4];
    }
    memcpy(key + HEX_DIGITS, stored + HEX_DIGITS / 2, many->key_bytes - HEX_DIGITS);
    return many->key_bytes;
}
