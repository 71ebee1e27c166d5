/* SPDX-License-Identifier: Apache-2.0 */
/* The local scheme without an SSD, with several buffers and odd numbers of shards: the contract. */
#include "contract.h"

static const char *const plain[] = {NULL};

int main(void)
{
    const struct contract_factory factory = {
        .name = "local, memory only",
        .deployment = UMBP_DEPLOYMENT_LOCAL,
        .is_distributed = false,
        .supports_ranges = true,
        .options = plain,
    };
    return contract_run(&factory);
}
