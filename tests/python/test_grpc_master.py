# SPDX-License-Identifier: Apache-2.0
"""A node, a client and a scheduler of the public Python stack against our master."""
import concurrent.futures
import unittest

import grpc

from grpc_support import DRAM, GIB, HBM, SSD, Case, Node, capacity, pb, stubs
from wait_support import wait_until

OUTCOME = pb.RoutePutOutcome
ALIVE, UNKNOWN = pb.CLIENT_STATUS_ALIVE, pb.CLIENT_STATUS_UNKNOWN


class WithMaster(Case):
    def setUp(self):
        self.master = self.start()
        self.stub = self.stub_of(self.master)

    def lookup(self, *keys):
        return list(self.stub.BatchLookup(pb.BatchLookupRequest(keys=keys), timeout=60).found)

    def get(self, key, **fields):
        return self.stub.RouteGet(pb.RouteGetRequest(key=key, **fields), timeout=60)

    def put(self, key, size=100, **fields):
        return self.stub.RoutePut(pb.RoutePutRequest(key=key, block_size=size, **fields),
                                  timeout=60)


class Nodes(WithMaster):
    def test_a_node_registers_and_is_told_how_often_to_beat(self):
        node = Node(self.stub, "a")
        self.assertEqual(node.registered.heartbeat_interval_ms, 5000)
        self.assertEqual(node.registered.ack_seq, 0)

    def test_a_second_live_node_with_the_same_id_is_refused(self):
        Node(self.stub, "a")
        with self.fails_with(grpc.StatusCode.ALREADY_EXISTS, "already alive"):
            Node(self.stub, "a")

    def test_a_node_without_an_id_is_refused(self):
        with self.fails_with(grpc.StatusCode.INVALID_ARGUMENT):
            Node(self.stub, "")
        with self.fails_with(grpc.StatusCode.INVALID_ARGUMENT):
            Node(self.stub, "x" * 256)

    def test_a_beat_of_a_node_that_is_not_known_says_so(self):
        reply = self.stub.Heartbeat(pb.HeartbeatRequest(node_id="ghost"), timeout=60)
        self.assertEqual(reply.status, UNKNOWN)

    def test_what_a_node_reports_is_found_and_goes_with_it(self):
        node = Node(self.stub, "a")
        reply = node.add("x", "y")
        self.assertEqual((reply.status, reply.acked_seq, reply.request_full_sync),
                         (ALIVE, 1, False))
        self.assertEqual(self.lookup("x", "y", "z"), [True, True, False])
        node.remove("x")
        self.assertEqual(self.lookup("x", "y"), [False, True])
        self.stub.UnregisterClient(pb.UnregisterClientRequest(node_id="a"), timeout=60)
        self.assertEqual(self.lookup("x", "y"), [False, False])
        self.stub.UnregisterClient(pb.UnregisterClientRequest(node_id="a"), timeout=60)
        Node(self.stub, "a")  # the name is free again

    def test_a_beat_without_events_is_no_gap(self):
        node = Node(self.stub, "a")
        node.add("x")
        reply = node.beat()
        self.assertEqual((reply.status, reply.acked_seq, reply.request_full_sync),
                         (ALIVE, 1, False))

    def test_a_bundle_sent_again_is_skipped(self):
        node = Node(self.stub, "a")
        node.add("x")
        node.remove("x")
        node.sequence = 0
        self.assertEqual(node.add("x").acked_seq, 2)
        self.assertEqual(self.lookup("x"), [False])

    def test_a_gap_asks_for_a_full_sync_which_replaces_all(self):
        node = Node(self.stub, "a")
        node.add("old", "both")
        node.sequence += 5
        reply = node.add("lost")
        self.assertTrue(reply.request_full_sync)
        self.assertEqual(reply.acked_seq, 1)
        self.assertEqual(self.lookup("lost"), [False])
        events = node.events((True, "both", DRAM, 1), (True, "new", SSD, 2))
        reply = self.stub.Heartbeat(
            pb.HeartbeatRequest(node_id="a", is_full_sync=True, delta_seq_baseline=7,
                                bundles=[pb.EventBundle(seq=7, events=events)],
                                tier_capacities=node.capacities), timeout=60)
        self.assertEqual((reply.status, reply.acked_seq, reply.request_full_sync),
                         (ALIVE, 7, False))
        self.assertEqual(self.lookup("old", "both", "new"), [False, True, True])
        node.sequence = 7
        self.assertFalse(node.add("next").request_full_sync)
        self.assertEqual(self.lookup("next"), [True])

    def test_a_large_full_sync_comes_in_pieces(self):
        node = Node(self.stub, "a")
        node.add("old")
        keys = [f"{i:064x}" for i in range(40000)]
        for piece in range(4):
            part = keys[piece * 10000:(piece + 1) * 10000]
            events = node.events(*[(True, key, DRAM, 1) for key in part])
            reply = self.stub.Heartbeat(
                pb.HeartbeatRequest(node_id="a", is_full_sync=True, delta_seq_baseline=9,
                                    bundles=[pb.EventBundle(events=events)], sync_id=3,
                                    sync_chunk=piece, sync_has_more=piece < 3), timeout=60)
            self.assertEqual(reply.status, ALIVE)
            if piece < 3:
                self.assertEqual(self.lookup("old"), [True])
        self.assertEqual(reply.acked_seq, 9)
        self.assertFalse(reply.request_full_sync)
        self.assertEqual(self.lookup("old"), [False])
        self.assertTrue(all(self.lookup(*keys)))

    def test_a_node_that_falls_silent_is_forgotten_and_may_come_back(self):
        master = self.start(environment={"UMBP_HEARTBEAT_TTL_SEC": "1",
                                         "UMBP_MAX_MISSED_HEARTBEATS": "1",
                                         "UMBP_REAPER_INTERVAL_SEC": "1"})
        self.stub = self.stub_of(master)
        node = Node(self.stub, "a")
        self.assertEqual(node.registered.heartbeat_interval_ms, 500)
        node.add("x")
        wait_until(lambda: self.lookup("x") == [False], "its keys are gone")
        wait_until(lambda: master.metrics()["mori_umbp_client_count"] == 0, "it is gone")
        reply = node.beat()
        self.assertTrue(reply.status == UNKNOWN or reply.request_full_sync)
        if reply.status == UNKNOWN:
            node = Node(self.stub, "a")
        node.sequence = 0
        self.assertIsNotNone(node.add("x"))


class Routes(WithMaster):
    def test_a_get_names_the_fastest_tier_of_a_holder(self):
        a, b = Node(self.stub, "a"), Node(self.stub, "b", capacity(SSD), capacity(HBM))
        a.add("x", size=7)
        b.add("x", tier=SSD, size=7)
        reply = self.get("x")
        self.assertEqual((reply.found, reply.node_id, reply.tier, reply.size, reply.peer_address),
                         (True, "a", DRAM, 7, "a:2"))
        b.add("x", tier=HBM, size=7)
        self.assertEqual((self.get("x").node_id, self.get("x").tier), ("b", HBM))
        self.assertEqual(self.get("x", exclude_nodes=["b"]).node_id, "a")
        self.assertFalse(self.get("x", exclude_nodes=["a", "b", "nobody"]).found)
        self.assertFalse(self.get("y").found)

    def test_a_put_goes_where_there_is_room(self):
        Node(self.stub, "small", capacity(total=1000))
        Node(self.stub, "large", capacity(total=GIB))
        Node(self.stub, "disk", capacity(SSD, total=100 * GIB))
        reply = self.put("x", 10000)
        self.assertEqual((reply.outcome, reply.node_id, reply.tier, reply.peer_address),
                         (OUTCOME.ROUTE_PUT_OUTCOME_ROUTED, "large", DRAM, "large:2"))
        self.assertEqual(self.put("x", 10000, exclude_nodes=["large"]).outcome,
                         OUTCOME.ROUTE_PUT_OUTCOME_UNAVAILABLE)
        self.assertEqual(self.put("x", 2 * GIB).outcome, OUTCOME.ROUTE_PUT_OUTCOME_UNAVAILABLE)

    def test_a_put_of_what_is_there_is_told_so(self):
        Node(self.stub, "a").add("x")
        reply = self.put("x")
        self.assertEqual((reply.outcome, reply.node_id, reply.tier, reply.peer_address),
                         (OUTCOME.ROUTE_PUT_OUTCOME_ALREADY_EXISTS, "", 0, ""))

    def test_batches_answer_each_key_in_its_place(self):
        Node(self.stub, "a").add("x", size=5)
        reply = self.stub.BatchRoutePut(
            pb.BatchRoutePutRequest(keys=["x", "y", "z" * 1025, ""],
                                    block_sizes=[5, 6, 7, 8]), timeout=60)
        self.assertEqual([entry.outcome for entry in reply.entries],
                         [OUTCOME.ROUTE_PUT_OUTCOME_ALREADY_EXISTS,
                          OUTCOME.ROUTE_PUT_OUTCOME_ROUTED,
                          OUTCOME.ROUTE_PUT_OUTCOME_UNAVAILABLE,
                          OUTCOME.ROUTE_PUT_OUTCOME_UNAVAILABLE])
        self.assertEqual(reply.entries[1].peer_address, "a:2")
        reply = self.stub.BatchRouteGet(pb.BatchRouteGetRequest(keys=["q", "x", "x"]), timeout=60)
        self.assertEqual([(node.node_id, node.peer_address) for node in reply.nodes],
                         [("a", "a:2")])
        self.assertEqual(list(reply.node_ref), [0, 1, 1])
        self.assertEqual(list(reply.tier), [0, DRAM, DRAM])
        self.assertEqual(list(reply.size), [0, 5, 5])

    def test_a_batch_over_several_nodes_names_each_node_once(self):
        for i in range(5):
            Node(self.stub, f"n{i}").add(*[f"k{i}_{j}" for j in range(20)], size=i + 1)
        keys = [f"k{i}_{j}" for j in range(20) for i in range(5)]
        reply = self.stub.BatchRouteGet(pb.BatchRouteGetRequest(keys=keys), timeout=60)
        self.assertEqual(len(reply.nodes), 5)
        for key, ref, size in zip(keys, reply.node_ref, reply.size):
            self.assertEqual(reply.nodes[ref - 1].node_id, "n" + key[1])
            self.assertEqual(size, int(key[1]) + 1)

    def test_empty_batches_are_answered_empty(self):
        self.assertEqual(self.lookup(), [])
        self.assertEqual(len(self.stub.BatchRoutePut(pb.BatchRoutePutRequest()).entries), 0)
        self.assertEqual(len(self.stub.BatchRouteGet(pb.BatchRouteGetRequest()).node_ref), 0)

    def test_a_batch_larger_than_the_cores_is_cut_up(self):
        node = Node(self.stub, "a")
        node.add("first", "last")
        keys = ["first"] + [f"{i}" for i in range(70000)] + ["last"]
        found = self.lookup(*keys)
        self.assertEqual((len(found), sum(found), found[0], found[-1]), (70002, 2, True, True))

    def test_bad_arguments_are_refused(self):
        with self.fails_with(grpc.StatusCode.INVALID_ARGUMENT, "same length"):
            self.stub.BatchRoutePut(pb.BatchRoutePutRequest(keys=["a"]), timeout=60)
        with self.fails_with(grpc.StatusCode.INVALID_ARGUMENT):
            self.put("")
        with self.fails_with(grpc.StatusCode.INVALID_ARGUMENT):
            self.get("")

    def test_keys_that_differ_behind_a_zero_byte_are_different(self):
        Node(self.stub, "a").add("x\0a")
        self.assertEqual(self.lookup("x", "x\0a", "x\0b"), [False, True, False])

    def test_many_clients_at_once_get_right_answers(self):
        node = Node(self.stub, "a")
        node.add(*[f"k{i}" for i in range(0, 2000, 2)])

        def ask(thread):
            stub = stubs.UMBPMasterStub(self.channel(self.master.address))
            for _ in range(20):
                keys = [f"k{(i * 7 + thread) % 2000}" for i in range(128)]
                found = stub.BatchLookup(pb.BatchLookupRequest(keys=keys), timeout=60).found
                if list(found) != [int(key[1:]) % 2 == 0 for key in keys]:
                    return False
            return True

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            self.assertTrue(all(pool.map(ask, range(32))))


class ExternalKv(WithMaster):
    def report(self, node, hashes, tier=DRAM):
        self.stub.ReportExternalKvBlocks(
            pb.ReportExternalKvBlocksRequest(node_id=node, hashes=hashes, tier=tier), timeout=60)

    def revoke(self, node, hashes, tier=DRAM):
        self.stub.RevokeExternalKvBlocks(
            pb.RevokeExternalKvBlocksRequest(node_id=node, hashes=hashes, tier=tier), timeout=60)

    def match(self, *hashes, hit=False):
        reply = self.stub.MatchExternalKv(
            pb.MatchExternalKvRequest(hashes=hashes, count_as_hit=hit), timeout=60)
        return {match.node_id: {bucket.tier: sorted(bucket.hashes)
                                for bucket in match.hashes_by_tier} for match in reply.matches}

    def hits(self, *hashes):
        reply = self.stub.GetExternalKvHitCounts(
            pb.GetExternalKvHitCountsRequest(hashes=hashes), timeout=60)
        return {entry.hash: entry.hit_count_total for entry in reply.entries}

    def test_tiers_add_up_and_are_revoked_one_by_one(self):
        Node(self.stub, "a")
        self.report("a", ["x", "y"])
        self.report("a", ["x"], HBM)
        self.assertEqual(self.match("x", "y", "z"), {"a": {HBM: ["x"], DRAM: ["x", "y"]}})
        self.revoke("a", ["x", "nothing"])
        self.assertEqual(self.match("x", "y"), {"a": {HBM: ["x"], DRAM: ["y"]}})
        self.stub.RevokeAllExternalKvBlocksAtTier(
            pb.RevokeAllExternalKvBlocksAtTierRequest(node_id="a", tier=HBM), timeout=60)
        self.assertEqual(self.match("x", "y"), {"a": {DRAM: ["y"]}})
        self.stub.RevokeAllExternalKvBlocksAtTier(
            pb.RevokeAllExternalKvBlocksAtTierRequest(node_id="a"), timeout=60)
        self.assertEqual(self.match("x", "y"), {"a": {DRAM: ["y"]}})  # a forgotten tier is none
        self.stub.RevokeAllExternalKvBlocksForNode(
            pb.RevokeAllExternalKvBlocksForNodeRequest(node_id="a"), timeout=60)
        self.assertEqual(self.match("x", "y"), {})

    def test_each_node_has_its_own(self):
        for name in "ab":
            Node(self.stub, name)
            self.report(name, ["x", name])
        self.assertEqual(self.match("x", "a", "b"), {"a": {DRAM: ["a", "x"]},
                                                     "b": {DRAM: ["b", "x"]}})
        self.stub.UnregisterClient(pb.UnregisterClientRequest(node_id="a"), timeout=60)
        self.assertEqual(self.match("x", "a"), {"b": {DRAM: ["x"]}})

    def test_the_peers_address_comes_with_a_match(self):
        Node(self.stub, "a")
        self.report("a", ["x"])
        reply = self.stub.MatchExternalKv(pb.MatchExternalKvRequest(hashes=["x"]), timeout=60)
        self.assertEqual(reply.matches[0].peer_address, "a:2")

    def test_hits_are_counted_for_routing_only_and_once_a_call(self):
        Node(self.stub, "a")
        self.report("a", ["x", "y"])
        self.match("x", "y")
        self.assertEqual(self.hits("x", "y"), {})
        self.match("x", "x", "unknown", hit=True)
        self.match("x", "y", hit=True)
        self.assertEqual(self.hits("x", "y", "unknown"), {"x": 2, "y": 1})

    def test_a_node_that_is_not_alive_is_not_heard_and_not_told(self):
        self.report("ghost", ["x"])
        self.assertEqual(self.match("x"), {})

    def test_bad_arguments_are_refused(self):
        Node(self.stub, "a")
        for call in (self.report, self.revoke):
            with self.fails_with(grpc.StatusCode.INVALID_ARGUMENT, "node_id must not be empty"):
                call("", ["x"])
            with self.fails_with(grpc.StatusCode.INVALID_ARGUMENT, "hashes must not be empty"):
                call("a", [])
        with self.fails_with(grpc.StatusCode.INVALID_ARGUMENT, "node_id must not be empty"):
            self.stub.RevokeAllExternalKvBlocksForNode(
                pb.RevokeAllExternalKvBlocksForNodeRequest(), timeout=60)

    def test_a_query_of_hits_is_bounded(self):
        master = self.start(environment={"UMBP_HIT_QUERY_MAX_BATCH": "3"})
        self.stub = self.stub_of(master)
        self.assertEqual(self.hits("a", "b", "c"), {})
        with self.fails_with(grpc.StatusCode.INVALID_ARGUMENT, "UMBP_HIT_QUERY_MAX_BATCH=3"):
            self.hits("a", "b", "c", "d")


class Metrics(WithMaster):
    def report(self, *samples, node="a"):
        self.stub.ReportMetrics(pb.ReportMetricsRequest(node_id=node, metrics=samples), timeout=60)

    def test_the_masters_own_have_their_public_names(self):
        node = Node(self.stub, "a", capacity(DRAM, 1000, 250), tags=["role=prefill"])
        node.beat((True, "x", DRAM, 1), tier_kv_counts=[pb.TierKvCount(tier=DRAM, count=1)])
        self.get("x")
        self.put("y")
        metrics = self.master.metrics()
        self.assertEqual(metrics["mori_umbp_client_count"], 1)
        expected = {
            "mori_umbp_client_capacity_total_bytes": 1000,
            "mori_umbp_client_capacity_available_bytes": 250,
            "mori_umbp_client_capacity_used_bytes": 750,
            "mori_umbp_client_capacity_utilization_ratio": 0.75,
            "mori_umbp_client_kv_live_count": 1,
            "mori_umbp_client_route_get_total": 1,
            "mori_umbp_client_route_put_total": 1,
        }
        for name, value in expected.items():
            found = [metrics[key] for key in metrics
                     if key.startswith(name + "{") and 'node="a"' in key
                     and ("tier=" not in key or 'tier="DRAM"' in key)]
            self.assertEqual(found, [value], name)

    def test_what_clients_report_adds_up(self):
        Node(self.stub, "a", tags=["role=prefill", "no sign", "bad-name=x"])
        counter = pb.MetricSample(name="mori_umbp_ssd_read_total", help="reads", counter_delta=2,
                                  labels=[pb.MetricLabel(name="status", value='o"k\\\n')])
        histogram = pb.MetricSample(
            name="mori_umbp_master_client_rpc_latency_seconds", help="latency",
            labels=[pb.MetricLabel(name="rpc", value="X"), pb.MetricLabel(name="node", value="b")],
            histogram_aggregate=pb.HistogramAggregate(bounds=[0.1, 1], bucket_counts=[1, 3],
                                                      count=4, sum=7.5))
        gauge = pb.MetricSample(name="mori_umbp_ssd_staging_slots_in_use", gauge_value=5)
        self.report(counter, histogram, gauge, node="other")
        self.report(counter, histogram, gauge, node="other")
        metrics = self.master.metrics()
        self.assertEqual(
            metrics['mori_umbp_ssd_read_total{node="other",status="o\\"k\\\\\\n"}'], 4)
        self.assertEqual(metrics['mori_umbp_ssd_staging_slots_in_use{node="other"}'], 5)
        name = "mori_umbp_master_client_rpc_latency_seconds"
        self.assertEqual(metrics[name + '_bucket{node="other",rpc="X",le="0.1"}'], 2)
        self.assertEqual(metrics[name + '_bucket{node="other",rpc="X",le="1"}'], 6)
        self.assertEqual(metrics[name + '_bucket{node="other",rpc="X",le="+Inf"}'], 8)
        self.assertEqual(metrics[name + '_sum{node="other",rpc="X"}'], 15)
        self.assertEqual(metrics[name + '_count{node="other",rpc="X"}'], 8)

    def test_tags_of_a_node_become_labels(self):
        Node(self.stub, "a", tags=["role=prefill", "no sign"])
        self.report(pb.MetricSample(name="some_total", counter_delta=1))
        self.assertEqual(self.master.metrics()['some_total{node="a",role="prefill"}'], 1)

    def test_bad_samples_are_dropped_and_counted_and_never_break_the_page(self):
        good = pb.MetricSample(name="good_total", counter_delta=1)
        bad = [
            pb.MetricSample(name="bad name", counter_delta=1),
            pb.MetricSample(name="", counter_delta=1),
            pb.MetricSample(name="falls_total", counter_delta=-1),
            pb.MetricSample(name="nan_total", counter_delta=float("nan")),
            pb.MetricSample(name="good_total", gauge_value=1),
            pb.MetricSample(name="h", histogram_aggregate=pb.HistogramAggregate(
                bounds=[2, 1], bucket_counts=[1, 1], count=1)),
            pb.MetricSample(name="h", histogram_aggregate=pb.HistogramAggregate(
                bounds=[1, 2], bucket_counts=[2, 1], count=2)),
            pb.MetricSample(name="labelled", gauge_value=1,
                            labels=[pb.MetricLabel(name="a-b", value="x")]),
        ]
        impostor = pb.MetricSample(name="mori_umbp_client_count", gauge_value=99)
        self.report(good, *bad, impostor)
        metrics = self.master.metrics()
        self.assertEqual(metrics['good_total{node="a"}'], 1)
        self.assertEqual(metrics["umbp_master_metrics_dropped_total"], len(bad))
        self.assertEqual(metrics["mori_umbp_client_count"], 0)
        self.assertFalse([key for key in metrics if "99" in key])

    def test_the_number_of_series_is_bounded(self):
        for batch in range(20):
            self.report(*[pb.MetricSample(name="many", gauge_value=1, labels=[
                pb.MetricLabel(name="i", value=f"{batch}_{i}")]) for i in range(1000)])
        metrics = self.master.metrics()
        self.assertEqual(len([key for key in metrics if key.startswith("many{")]), 16384)
        self.assertEqual(metrics["umbp_master_metrics_dropped_total"], 20000 - 16384)

    def test_calls_are_counted_by_method_and_status(self):
        self.lookup("x")
        with self.fails_with(grpc.StatusCode.INVALID_ARGUMENT):
            self.get("")
        metrics = self.master.metrics()
        self.assertEqual(metrics['umbp_master_rpc_total{rpc="BatchLookup",code="OK"}'], 1)
        self.assertEqual(metrics['umbp_master_rpc_total{rpc="RouteGet",code="INVALID_ARGUMENT"}'],
                         1)
        self.assertEqual(metrics['umbp_master_rpc_latency_seconds_count{rpc="BatchLookup"}'], 1)


if __name__ == "__main__":
    unittest.main()
