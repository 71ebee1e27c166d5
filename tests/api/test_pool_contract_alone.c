/* SPDX-License-Identifier: Apache-2.0 */
/* The pool scheme: one node alone with its master keeps the contract. */
#include "contract.h"
#include "support_cluster.h"

static struct test_master master;
static bool is_clean; /* the last case ended well, and its master can serve the next */

static void master_begin(void)
{
    test_cluster_end(NULL); /* of a case that failed */
    test_master_start(&master, NULL);
    is_clean = true;
}

static void begin(const char *const *options, const char **client_options_out)
{
    (void)options;
    if (!is_clean) {
        master_begin();
    }
    is_clean = false;
    client_options_out[0] = "pool.masters";
    client_options_out[1] = master.address;
    client_options_out[2] = NULL;
}

static void end(void) { is_clean = true; }

int main(void)
{
    static const char *const options[] = {"scheme", "pool", NULL};
    static const char *const also[] = {"puts.existing", "pool.puts_known", "misses", "pool.misses",
                                       NULL};
    static const struct contract_owner around = {.begin = begin, .end = end};
    const struct contract_factory factory = {
        .name = "pool, one node alone",
        .deployment = UMBP_DEPLOYMENT_POOL,
        .is_distributed = true,
        .supports_ranges = true,
        .options = options,
        .also_counts = also,
        .owner = &around,
    };
    master_begin();
    int failed = contract_run(&factory);
    test_cluster_end(NULL);
    return failed;
}
