/* SPDX-License-Identifier: Apache-2.0 */
#include <umbp/status.h>
#include <umbp/umbp.h>

const char *umbp_version(void) { return UMBP_BUILD_VERSION; }

unsigned umbp_api_version(void) { return UMBP_API_VERSION; }

const char *umbp_status_name(enum umbp_status status)
{
    switch (status) {
#define STATUS_NAME(number, name, text)                                                            \
    case UMBP_##name:                                                                              \
        return #name;
        UMBP_STATUS_MAP(STATUS_NAME)
#undef STATUS_NAME
    }
    return "UNKNOWN";
}

const char *umbp_status_text(enum umbp_status status)
{
    switch (status) {
#define STATUS_TEXT(number, name, text)                                                            \
    case UMBP_##name:                                                                              \
        return text;
        UMBP_STATUS_MAP(STATUS_TEXT)
#undef STATUS_TEXT
    }
    return "unknown status";
}
