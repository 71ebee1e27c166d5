/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a configuration file: they load or they fail with a text; after a failure nothing
 * has changed; what loads prints and parses back to the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_priv.h"

static void check(bool holds)
{
    if (!holds) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct umbp_config *config;
    char text[CONFIG_TEXT_BYTES_MAX + 1];
    char again[CONFIG_TEXT_BYTES_MAX + 1];

    check(umbp_config_create(&config) == UMBP_OK);
    enum umbp_status status = config_load_text(config, "fuzz", (const char *)data, bytes);
    check((status == UMBP_OK) == (umbp_config_error(config)[0] == '\0'));
    for (size_t i = 0; i < CONFIG_OPTION_COUNT; i++) {
        const char *name = config_options[i].name;
        check(umbp_config_get(config, name, text, sizeof text) == UMBP_OK);
        if (status != UMBP_OK) {
            check(strcmp(text, config_options[i].default_value) == 0);
        } else {
            check(umbp_config_set(config, name, text) == UMBP_OK);
            check(umbp_config_get(config, name, again, sizeof again) == UMBP_OK);
            check(strcmp(text, again) == 0);
        }
    }
    status = umbp_config_validate(config);
    check((status == UMBP_OK) == (umbp_config_error(config)[0] == '\0'));
    umbp_config_destroy(config);
    return 0;
}
