# SPDX-License-Identifier: Apache-2.0
"""What the master asks of public nodes that are full: EvictKey, with the public Python stack as the
nodes."""
import concurrent.futures
import socket
import threading
import time
import unittest

import grpc

from grpc_support import DRAM, Case, Node, capacity, pb, peer_pb, peer_stubs
from wait_support import wait_until

STATUS = grpc.StatusCode
SIZE = 100


class Service(peer_stubs.UMBPPeerServicer):
    """Frees what it is asked to, and reports it."""

    def __init__(self):
        self.calls = []  # the keys of each

    def EvictKey(self, request, context):
        self.calls.append(list(request.keys))
        return peer_pb.EvictKeyResponse(evicted=[
            peer_pb.EvictKeyEntry(key=key, bytes_freed=SIZE) for key in request.keys])


class Failing(Service):
    def EvictKey(self, request, context):
        self.calls.append(list(request.keys))
        context.abort(STATUS.RESOURCE_EXHAUSTED, 'say "no"\n and more')


class Hanging(Service):
    def __init__(self):
        super().__init__()
        self.over = threading.Event()

    def EvictKey(self, request, context):
        self.calls.append(list(request.keys))
        self.over.wait(120)
        return peer_pb.EvictKeyResponse()


class Raw(Service):
    """Answers with bytes of its own."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def handler(self):
        def reply(request, context):
            self.calls.append(request)
            return self.answer
        return grpc.method_handlers_generic_handler(
            "umbp.UMBPPeer", {"EvictKey": grpc.unary_unary_rpc_method_handler(reply)})


class WithPeers(Case):
    def start(self, *flags, **options):
        self.master = super().start("--eviction-check-interval-sec", "1", *flags, **options)
        self.stub = self.stub_of(self.master)
        return self.master

    def serve(self, service, port=0, **options):
        """The address of a peer that is `service`."""
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), **options)
        if isinstance(service, Raw):
            server.add_generic_rpc_handlers([service.handler()])
        else:
            peer_stubs.add_UMBPPeerServicer_to_server(service, server)
        service.port = server.add_insecure_port(f"127.0.0.1:{port}")
        service.server = server
        server.start()
        self.addCleanup(lambda: server.stop(0).wait(20))
        if isinstance(service, Hanging):
            self.addCleanup(service.over.set)
        return f"127.0.0.1:{service.port}"

    def node(self, name, address, count=10):
        """Holds name-0 ..., all of one age, in a tier that has no more room."""
        node = Node(self.stub, name, capacity(total=count * SIZE), peer=address)
        node.add(*[f"{name}-{i}" for i in range(count)], size=SIZE)
        self.fill(node, count * SIZE, 0)
        return node

    def fill(self, node, total, available):
        node.capacities = [capacity(total=total, available=available)]
        node.beat()

    def until_asked(self, service, times=1):
        wait_until(lambda: len(service.calls) >= times, f"{times} calls came")

    def metric(self, name, **labels):
        text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        return self.master.metrics().get(
            f"umbp_master_evict_{name}{'{' + text + '}' if text else ''}", 0)

    def until_metric(self, condition, name, **labels):
        wait_until(lambda: condition(self.metric(name, **labels)), f"evict_{name} is right")

    def log_lines(self):
        return [line for line in self.master.log.splitlines() if " evict_key " in line]


class Victims(WithPeers):
    def test_a_full_node_is_asked_for_its_coldest_keys_down_to_the_low_watermark(self):
        self.start()
        service = Service()
        node = Node(self.stub, "a", capacity(total=1000), peer=self.serve(service))
        for i in range(10):
            node.add(f"k{i}", size=SIZE)
            time.sleep(0.05)  # ages are told apart by some 17 ms
        self.stub.RouteGet(pb.RouteGetRequest(key="k1"), timeout=60)  # now the youngest
        self.fill(node, 1000, 0)
        self.until_asked(service)
        self.assertEqual(service.calls[0], ["k0", "k2", "k3"])
        node.remove("k0", "k2", "k3")
        self.fill(node, 1000, 300)
        found = self.stub.BatchLookup(
            pb.BatchLookupRequest(keys=[f"k{i}" for i in range(10)]), timeout=60).found
        self.assertEqual(list(found), [i not in (0, 2, 3) for i in range(10)])
        self.until_metric(lambda value: value >= 1, "key_total", code="OK")
        self.until_metric(lambda value: value >= 3, "freed_keys_total")
        self.until_metric(lambda value: value >= 3 * SIZE, "freed_bytes_total")
        self.until_metric(lambda value: value == 1, "peers")

    def test_of_keys_of_one_age_the_deepest_go_first(self):
        self.start()
        service = Service()
        node = Node(self.stub, "a", capacity(total=1000), peer=self.serve(service))
        node.sequence += 1
        events = node.events(*[(True, f"k{i}", DRAM, SIZE) for i in range(10)])
        for i, event in enumerate(events):
            event.depth_plus_one = 1 + i * 7 % 10
        self.stub.Heartbeat(pb.HeartbeatRequest(node_id="a", bundles=[
            pb.EventBundle(seq=node.sequence, events=events)],
            tier_capacities=node.capacities), timeout=60)
        self.fill(node, 1000, 0)
        self.until_asked(service)
        self.assertEqual(service.calls[0], ["k7", "k4", "k1"])  # depths 9, 8, 7

    def test_keys_that_were_routed_to_a_reader_are_spared(self):
        self.start("--lease-duration-sec", "600")
        service = Service()
        node = Node(self.stub, "a", capacity(total=1000), peer=self.serve(service))
        node.add(*[f"k{i}" for i in range(10)], size=SIZE)
        for i in set(range(10)) - {2, 7}:
            self.stub.RouteGet(pb.RouteGetRequest(key=f"k{i}"), timeout=60)
        self.fill(node, 1000, 0)  # three are over, two are free to go
        self.until_asked(service, 2)
        for keys in service.calls:
            self.assertEqual(sorted(keys), ["k2", "k7"])

    def test_many_victims_go_in_several_calls(self):
        self.start()
        service = Service()
        self.node("a", self.serve(service), count=8000)
        self.until_asked(service, 3)
        self.assertEqual([len(keys) for keys in service.calls[:3]], [1024, 1024, 352])
        self.assertEqual(len({key for keys in service.calls[:3] for key in keys}), 2400)

    def test_long_keys_go_in_calls_that_a_public_node_takes(self):
        self.start()
        service = Service()
        node = Node(self.stub, "a", capacity(total=4000 * SIZE),
                    peer=self.serve(service, options=[("grpc.max_receive_message_length",
                                                       1 << 20)]))
        keys = [f"{i:04}" + "k" * 1020 for i in range(4000)]
        node.add(*keys, size=SIZE)
        self.fill(node, 4000 * SIZE, 0)
        self.until_asked(service, 2)
        self.assertEqual(len(service.calls[0]) + len(service.calls[1]), 1200)
        self.assertEqual(len(service.calls[0]), (1 << 20) // 1027)
        self.assertEqual(self.log_lines(), [])

    def test_the_bytes_are_the_public_ones(self):
        self.start()
        service = Raw(bytes.fromhex("0a05 0a016b 1064") + bytes.fromhex("0a03 0a017a"))
        node = Node(self.stub, "a", capacity(total=2 * SIZE), peer=self.serve(service))
        node.add("k", "z", size=SIZE)
        self.fill(node, 2 * SIZE, 0)
        self.until_asked(service)
        self.assertIn(service.calls[0], (bytes.fromhex("0a016b"), bytes.fromhex("0a017a")))
        self.until_metric(lambda value: value >= 100, "freed_bytes_total")

    def test_a_node_of_umbps_own_evicts_by_itself(self):
        self.start()
        own, public = Service(), Service()
        node = Node(self.stub, "own", capacity(total=1000), peer=self.serve(own),
                    fabric_address="tcp://127.0.0.1:1")
        node.add(*[f"own-{i}" for i in range(10)], size=SIZE)
        self.fill(node, 1000, 0)
        self.node("public", self.serve(public))
        self.until_asked(public, 2)
        self.assertEqual(own.calls, [])

    def test_the_channel_goes_with_the_node(self):
        self.start()
        service = Service()
        self.node("a", self.serve(service))
        self.until_asked(service)
        self.until_metric(lambda value: value == 1, "peers")
        self.stub.UnregisterClient(pb.UnregisterClientRequest(node_id="a"), timeout=60)
        self.until_metric(lambda value: value == 0, "peers")


class BadPeers(WithPeers):
    def good(self):
        service = Service()
        self.node("good", self.serve(service))
        return service

    def silent(self):
        """Takes connections and says nothing."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        return f"127.0.0.1:{listener.getsockname()[1]}"

    def noisy(self, data):
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)

        def run():
            while True:
                try:
                    sock, _ = listener.accept()
                    with sock:
                        sock.sendall(data)
                except OSError:
                    if listener.fileno() < 0:
                        return
        threading.Thread(target=run, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    def test_a_peer_that_hangs_holds_up_nobody_and_not_the_end(self):
        self.start("--evictkey-deadline-ms", "600000")
        hanging = Hanging()
        self.node("a", self.serve(hanging))
        self.node("b", self.silent())
        self.until_asked(hanging)
        good = self.good()
        self.until_asked(good, 3)
        self.assertEqual(len(hanging.calls), 1)  # one at a time
        self.assertTrue(self.stub.BatchLookup(pb.BatchLookupRequest(keys=["a-1"]),
                                              timeout=60).found[0])
        self.assertGreaterEqual(self.metric("skipped_keys_total", reason="busy"), 1)
        self.until_metric(lambda value: value == 2, "calls_running")
        self.assertEqual(self.master.stop(), 0)  # long before the deadline

    def test_a_node_that_leaves_amid_its_call_leaves_nothing_behind(self):
        self.start("--evictkey-deadline-ms", "600000")
        hanging = Hanging()
        self.node("a", self.serve(hanging))
        self.until_metric(lambda value: value == 1, "calls_running")
        self.stub.UnregisterClient(pb.UnregisterClientRequest(node_id="a"), timeout=60)
        self.until_metric(lambda value: value == 0, "peers")
        self.until_metric(lambda value: value == 0, "calls_running")

    def check_lines(self, peers):
        """A line for each of {name: (address, its possible statuses)}; a good one is asked on."""
        for name, (address, _) in peers.items():
            self.node(name, address)
        good = self.good()

        def lines_of(name):
            return [line for line in self.log_lines() if f'node="{name}"' in line]

        for name, (_, statuses) in peers.items():
            with self.subTest(name):
                wait_until(lambda: lines_of(name), f"{name} has its line")
                line = lines_of(name)[0]
                self.assertTrue(any(f"code={one.name} " in line for one in statuses), line)
        asked = len(good.calls)
        self.until_asked(good, asked + 5)  # long enough for the bad ones to have failed again
        self.assertGreaterEqual(self.metric("skipped_keys_total", reason="backoff"), 1)
        for name in peers:
            self.assertEqual(len(lines_of(name)), 1, name)  # not at the pace of the failures
        self.assertEqual(lines_of("good"), [])

    def test_peers_that_do_not_answer_in_time_are_left_alone(self):
        self.start("--evictkey-deadline-ms", "3000")  # in which a good one does answer
        hanging = Hanging()
        self.check_lines({
            "hangs": (self.serve(hanging), [STATUS.DEADLINE_EXCEEDED]),
            "silent": (self.silent(), [STATUS.DEADLINE_EXCEEDED]),
        })

    def test_peers_that_answer_anything_else_get_a_status(self):
        self.start("--evictkey-deadline-ms", "20000")
        entry = peer_pb.EvictKeyResponse(evicted=[
            peer_pb.EvictKeyEntry(key="a", bytes_freed=1)]).SerializeToString()
        self.check_lines({
            "refuses": (self.serve(Failing()), [STATUS.RESOURCE_EXHAUSTED]),
            "not there": ("127.0.0.1:1", [STATUS.UNAVAILABLE]),
            "no such host": ("no-such-host.invalid:1", [STATUS.UNAVAILABLE,
                                                        STATUS.DEADLINE_EXCEEDED]),
            "no http": (self.noisy(b"SSH-2.0-x\r\n" * 10), [STATUS.UNAVAILABLE]),
            "no message": (self.serve(Raw(b"\x0a\xff")), [STATUS.INTERNAL]),
            "too large": (self.serve(Raw(entry * (1 << 20))), [STATUS.RESOURCE_EXHAUSTED]),
            "compressed": (self.serve(Raw(entry * 1000), compression=grpc.Compression.Gzip),
                           [STATUS.UNIMPLEMENTED, STATUS.INTERNAL]),
            "other service": (self.master.address, [STATUS.UNIMPLEMENTED]),
        })
        refused = [line for line in self.log_lines() if 'node="refuses"' in line]
        self.assertIn("message=\"say 'no'? and more\"", refused[0])

    def test_addresses_that_are_none_are_not_called(self):
        self.start()
        path = "unix-abstract:umbp-evict-test"
        for i, address in enumerate(("", "a", "a:", ":1", "a:0", "a:65536", "a:1:2", path,
                                     "unix:/tmp/x", "xds:///a:1", "[::1:1", "[]:1", "a b:1",
                                     "dns:///a:1", "http://a:1", "a/b:1", "a%41:1")):
            self.node(f"n{i}", address)
        good = self.good()
        self.until_asked(good, 2)
        self.until_metric(lambda value: value == 1, "peers")
        self.assertGreaterEqual(self.metric("skipped_keys_total", reason="address"), 17 * 3)
        self.assertEqual(self.log_lines(), [])

    def test_a_peer_that_dies_is_asked_again_when_it_is_back(self):
        self.start()
        service = Service()
        self.node("a", self.serve(service))
        self.until_asked(service)
        service.server.stop(0).wait(20)
        wait_until(self.log_lines, "the failure is told")
        asked = len(service.calls)
        self.serve(service, port=service.port)
        self.until_asked(service, asked + 1)
        wait_until(lambda: " code=OK " in self.log_lines()[-1], "so is the recovery")


if __name__ == "__main__":
    unittest.main()
