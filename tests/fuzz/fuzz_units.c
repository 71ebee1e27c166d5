/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes and counts as a user may type them: no text may crash the parser, and what it takes, it
 * must take again in plain digits. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char text[64] = {0};
    char digits[24];
    uint64_t value;
    uint64_t again = 0;

    memcpy(text, data, size_min(bytes, sizeof text - 1));
    if (units_parse_bytes(text, &value)) {
        snprintf(digits, sizeof digits, "%" PRIu64, value);
        ASSERT(units_parse_bytes(digits, &again) && again == value);
    }
    if (units_parse_count(text, &value)) {
        ASSERT(units_parse_bytes(text, &again) && again == value);
    }
    return 0;
}
