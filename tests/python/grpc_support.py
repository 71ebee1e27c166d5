# SPDX-License-Identifier: Apache-2.0
"""A master of the test's own, and stubs that are made from proto/*.proto when this is loaded."""
import contextlib
import sys
import tempfile
import unittest
import urllib.error
import urllib.request

import grpc
import master_support
from grpc_tools import protoc
from master_support import ROOT

GIB = 1 << 30
HBM, DRAM, SSD = 1, 2, 3

with tempfile.TemporaryDirectory(prefix="umbp-stubs-") as _folder:
    if protoc.main(["", f"-I{ROOT / 'proto'}", f"--python_out={_folder}",
                    f"--grpc_python_out={_folder}", "umbp.proto", "umbp_peer.proto"]) != 0:
        raise RuntimeError("proto/*.proto do not compile")
    sys.path.insert(0, _folder)
    try:
        import umbp_pb2 as pb
        import umbp_pb2_grpc as stubs
        import umbp_peer_pb2 as peer_pb
        import umbp_peer_pb2_grpc as peer_stubs
    finally:
        sys.path.remove(_folder)


class Master(master_support.Master):
    """With its metrics as a scraper reads them."""

    def __init__(self, *flags, metrics="any", **options):
        super().__init__(*flags, metrics=metrics, **options)

    def http(self, path):
        """(status, text)"""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}",
                                        timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self):
        """{series as text: value}; fails on what a scraper would not take."""
        status, text = self.http("/metrics")
        assert status == 200, status
        return parse_metrics(text)


def parse_metrics(text):
    series, families = {}, []
    for line in text.splitlines():
        if line.startswith("# HELP "):
            families.append(line.split()[2])
            continue
        if line.startswith("# TYPE "):
            assert line.split()[2] == families[-1], line
            assert line.split()[3] in ("counter", "gauge", "histogram"), line
            continue
        name, value = line.rsplit(" ", 1)
        assert name.split("{")[0].startswith(families[-1]), line
        assert name not in series, f"twice: {name}"
        series[name] = float(value)
    assert len(families) == len(set(families)), "a family is there twice"
    return series


class Case(unittest.TestCase):
    """Each test has `self.master` with `self.stub`, made by `self.start`."""

    def start(self, *flags, **options):
        master = Master(*flags, **options)
        self.addCleanup(master.stop)
        return master

    def channel(self, target, *options):
        channel = grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1),
                                                         *options])
        self.addCleanup(channel.close)
        return channel

    def stub_of(self, master):
        return stubs.UMBPMasterStub(self.channel(master.address))

    @contextlib.contextmanager
    def fails_with(self, code, words=""):
        with self.assertRaises(grpc.RpcError) as caught:
            yield
        self.assertEqual(caught.exception.code(), code, caught.exception)
        self.assertIn(words, caught.exception.details())


def capacity(tier=DRAM, total=GIB, available=None):
    return pb.TierCapacity(tier=tier, total_capacity_bytes=total,
                           available_capacity_bytes=total if available is None else available)


class Node:
    """A node as the public client plays it."""

    def __init__(self, stub, name, *capacities, tags=(), peer=None, **fields):
        self.stub, self.name, self.sequence = stub, name, 0
        self.capacities = list(capacities) or [capacity()]
        self.registered = stub.RegisterClient(
            pb.RegisterClientRequest(node_id=name, node_address=f"{name}:1",
                                     tags=tags,
                                     peer_address=f"{name}:2" if peer is None else peer,
                                     engine_desc=b"\x00\xff engine",
                                     tier_capacities=self.capacities, **fields), timeout=60)
        self.sequence = self.registered.ack_seq

    def events(self, *events):
        return [pb.KvEvent(kind=pb.KvEvent.ADD if add else pb.KvEvent.REMOVE, key=key, tier=tier,
                           size=size if add else 0) for add, key, tier, size in events]

    def beat(self, *events, **fields):
        bundles = []
        if events:
            self.sequence += 1
            bundles = [pb.EventBundle(seq=self.sequence, events=self.events(*events))]
        return self.stub.Heartbeat(
            pb.HeartbeatRequest(node_id=self.name, bundles=bundles,
                                tier_capacities=self.capacities, **fields), timeout=60)

    def add(self, *keys, tier=DRAM, size=100):
        return self.beat(*[(True, key, tier, size) for key in keys])

    def remove(self, *keys, tier=DRAM):
        return self.beat(*[(False, key, tier, 0) for key in keys])
