/* SPDX-License-Identifier: Apache-2.0 */
/* The benchmark runs and its figures are sane. With MASTER_BENCH_KEYS (and
 * MASTER_BENCH_NODES) set it prints them. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>

#include "master/master.h"

static void the_benchmark_measures_every_figure(void **state)
{
    struct master_bench_figures f;
    const char *text = getenv("MASTER_BENCH_KEYS");
    uint64_t keys = text ? strtoull(text, NULL, 10) : 10000;
    (void)state;
    const char *nodes = getenv("MASTER_BENCH_NODES");
    assert_ok(master_bench(keys, nodes ? strtoull(nodes, NULL, 10) : 8, &f));
    assert_true(f.ingest_per_s > 0 && f.remove_per_s > 0 && f.route_get_per_s > 0);
    assert_true(f.lookup_per_s > 0 && f.route_put_per_s > 0 && f.full_sync_s > 0);
    assert_true(f.bytes_per_key >= 32);
    assert_true(f.keyed_bytes_per_key > f.bytes_per_key);
    if (text) {
        printf("keys %llu nodes %llu\n", (unsigned long long)f.keys, (unsigned long long)f.nodes);
        printf("ingest %.2f M/s, remove %.2f M/s\n", f.ingest_per_s / 1e6, f.remove_per_s / 1e6);
        printf("route-get %.2f M/s, lookup %.2f M/s, route-put %.2f M/s\n", f.route_get_per_s / 1e6,
               f.lookup_per_s / 1e6, f.route_put_per_s / 1e6);
        printf("bytes/key: counted %.1f, resident %.1f, with key bytes %.1f\n", f.bytes_per_key,
               f.resident_per_key, f.keyed_bytes_per_key);
        printf("full sync %.3f s, sweep %.4f s, longest tick %.4f s\n", f.full_sync_s, f.sweep_s,
               f.longest_tick_s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_benchmark_measures_every_figure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
