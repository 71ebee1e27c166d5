/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include "base/hash.h"

/* Fingerprints are kept on disk: these values, computed with xxhsum and libxxhash 0.8.1, may never
 * change. */
static void hash_key_gives_the_values_of_xxh3(void **state)
{
    (void)state;
    struct fingerprint empty = hash_key("", 0, 0);
    assert_true(empty.low == UINT64_C(0x6001C324468D497F));
    assert_true(empty.high == UINT64_C(0x99AA06D3014798D8));
    assert_true(hash_bytes("", 0, 0) == UINT64_C(0x2D06800538D394C2));
}

static void hash_key_depends_on_every_byte_the_length_and_the_seed(void **state)
{
    (void)state;
    unsigned char key[1024];
    test_fill(key, sizeof key, 1);
    struct fingerprint whole = hash_key(key, sizeof key, 5);
    for (size_t i = 0; i < sizeof key; i++) {
        key[i] ^= 1;
        struct fingerprint other = hash_key(key, sizeof key, 5);
        assert_true(other.low != whole.low && other.high != whole.high);
        key[i] ^= 1;
    }
    struct fingerprint again = hash_key(key, sizeof key, 5);
    assert_true(again.low == whole.low && again.high == whole.high);
    assert_true(hash_key(key, sizeof key, 6).low != whole.low);
    assert_true(hash_key(key, sizeof key - 1, 5).low != whole.low);
    assert_true(hash_bytes(key, 100, 1) != hash_bytes(key, 100, 2));
}

static void hash_key_takes_every_length(void **state)
{
    (void)state;
    unsigned char key[1024];
    uint64_t seen[1025];
    test_fill(key, sizeof key, 2);
    for (size_t bytes = 0; bytes <= sizeof key; bytes++) {
        seen[bytes] = hash_key(key, bytes, 0).low;
        for (size_t i = 0; i < bytes; i++) {
            assert_true(seen[i] != seen[bytes]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hash_key_gives_the_values_of_xxh3),
        cmocka_unit_test(hash_key_depends_on_every_byte_the_length_and_the_seed),
        cmocka_unit_test(hash_key_takes_every_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
