/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool scheme: a client of a node in another process keeps the contract, on one host, where
 * they read each other's memory, and over TCP.
 */
#include <string.h>

#include "contract.h"
#include "support_cluster.h"

static struct test_master master;
static struct test_member node;
static bool is_clean; /* the last case ended well, and its master can serve the next */

static void master_begin(void)
{
    test_cluster_end(NULL); /* of a case that failed */
    test_master_start(&master, NULL);
    test_member_start(&node, &master, NULL);
    test_member_close(&node);
    is_clean = true;
}

static void begin(const char *const *options, const char **client_options_out)
{
    if (!is_clean) {
        master_begin();
    }
    is_clean = false;
    test_member_open(&node, options); /* a new node for each case, in one process */
    const char *own[] = {"pool.masters", master.address, "pool.serve", "false", NULL};
    memcpy(client_options_out, own, sizeof(own));
}

static void end(void)
{
    test_member_is_idle(&node);
    /* What was shown to the client it has let go, and not the owner, tired of waiting. */
    assert_int_equal(test_member_stat(&node, "node.pins_expired"), 0);
    test_member_close(&node);
    is_clean = true;
}

static uint64_t stat_of_node(const char *name) { return test_member_stat(&node, name); }

static enum umbp_status clear_node(void)
{
    test_member_tell(&node, "clear x");
    assert_string_equal(test_member_answer(&node, TEST_WAIT_MS), umbp_status_name(UMBP_OK));
    return UMBP_OK;
}

int main(int argc, char **argv)
{
    static const char *const host[] = {"scheme", "pool", NULL};
    static const char *const tcp[] = {"scheme", "pool", "pool.same_host", "false", NULL};
    static const char *const also[] = {"puts.existing",  "pool.puts_known", "misses",
                                       "pool.misses",    "hits.dram",       "pool.hits_remote",
                                       "bytes.dram_out", "pool.bytes_got",  NULL};
    static const struct contract_owner around = {
        .has_values = true,
        .begin = begin,
        .end = end,
        .stat = stat_of_node,
        .clear = clear_node,
    };
    struct contract_factory factory = {
        .name = "pool, client and node on one host",
        .deployment = UMBP_DEPLOYMENT_POOL,
        .is_distributed = true,
        .supports_ranges = true,
        .options = host,
        .also_counts = also,
        .exists_trails = true,
        .owner = &around,
    };
    if (test_member_wanted(argc, argv)) {
        return test_member_main(argc, argv);
    }
    master_begin();
    int failed = contract_run(&factory);
    factory.name = "pool, client and node over TCP";
    factory.options = tcp;
    failed += contract_run(&factory);
    if (is_clean) {
        test_member_end(&node);
        test_master_stop(&master);
    }
    test_cluster_end(NULL);
    return failed;
}
