/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local scheme with an SSD tier: the contract, with copies made soon after each put (strict)
 * and with copies made when values leave memory (relaxed).
 */
#include "contract.h"

static const char *const on_commit[] = {"ssd.bytes", "64MiB", "ssd.segment_bytes", "2MiB", NULL};
static const char *const on_evict[] = {"ssd.bytes",
                                       "64MiB",
                                       "ssd.segment_bytes",
                                       "2MiB",
                                       "copy.mode",
                                       "on_evict",
                                       "ssd.durability",
                                       "relaxed",
                                       "eviction.policy",
                                       "prefix_aware_lru",
                                       "ssd.driver",
                                       "posix",
                                       NULL};

int main(void)
{
    struct contract_factory factory = {
        .name = "local, memory and SSD, copied when put",
        .deployment = UMBP_DEPLOYMENT_LOCAL,
        .is_distributed = false,
        .supports_ranges = true,
        .options = on_commit,
        .has_ssd = true,
    };
    int failed = contract_run(&factory);
    factory.name = "local, memory and SSD, copied when evicted";
    factory.options = on_evict;
    return failed + contract_run(&factory);
}
