/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <string.h>

#include <umbp/umbp.h>

static void status_has_a_name_and_a_text_for_every_number(void **state)
{
    (void)state;
#define CHECK(number, name, text_)                                                                 \
    assert_int_equal(UMBP_##name, number);                                                         \
    assert_string_equal(umbp_status_name((enum umbp_status)number), #name);                        \
    assert_string_equal(umbp_status_text((enum umbp_status)number), text_);
    UMBP_STATUS_MAP(CHECK)
#undef CHECK
}

static void status_texts_differ_and_have_no_full_stop(void **state)
{
    (void)state;
    for (int i = 0; i <= UMBP_FORKED; i++) {
        const char *text = umbp_status_text((enum umbp_status)i);
        assert_true(strlen(text) > 0);
        assert_true(text[strlen(text) - 1] != '.');
        for (int j = 0; j < i; j++) {
            assert_string_not_equal(text, umbp_status_text((enum umbp_status)j));
        }
    }
}

static void status_of_no_known_number_is_unknown(void **state)
{
    (void)state;
    assert_string_equal(umbp_status_name((enum umbp_status)9999), "UNKNOWN");
    assert_string_equal(umbp_status_name((enum umbp_status) - 1), "UNKNOWN");
    assert_string_equal(umbp_status_text((enum umbp_status)9999), "unknown status");
}

static void status_success_is_ok_and_already_exists_only(void **state)
{
    (void)state;
    for (int i = 0; i <= UMBP_FORKED; i++) {
        assert_int_equal(umbp_status_is_success((enum umbp_status)i), i <= 1);
    }
}

static void version_has_three_numbers_and_the_api_version_is_the_headers(void **state)
{
    (void)state;
    unsigned major, minor, patch;
    char rest;
    assert_int_equal(sscanf(umbp_version(), "%u.%u.%u%c", &major, &minor, &patch, &rest), 3);
    assert_int_equal(umbp_api_version(), UMBP_API_VERSION);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_has_a_name_and_a_text_for_every_number),
        cmocka_unit_test(status_texts_differ_and_have_no_full_stop),
        cmocka_unit_test(status_of_no_known_number_is_unknown),
        cmocka_unit_test(status_success_is_ok_and_already_exists_only),
        cmocka_unit_test(version_has_three_numbers_and_the_api_version_is_the_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
