# SPDX-License-Identifier: Apache-2.0
"""The program umbp_master: bytes on the wire, sockets, TLS, options, signals, health."""
import concurrent.futures
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import unittest
import zlib

import grpc

from grpc_support import Case, Master, Node, pb, stubs
from master_support import PROGRAM
from wait_support import wait_until

STATUS = grpc.StatusCode


def raw(channel, method, data, **options):
    return channel.unary_unary(f"/umbp.UMBPMaster/{method}")(data, timeout=60, **options)


def hex_bytes(*parts):
    return bytes.fromhex("".join(parts).replace(" ", ""))


class Wire(Case):
    def setUp(self):
        self.master = self.start()
        self.wire = self.channel(self.master.address)

    def test_messages_have_the_public_bytes(self):
        """Requests and replies as the public C++ client and server write them."""
        def call(method, request, reply):
            self.assertEqual(raw(self.wire, method, hex_bytes(request)).hex(),
                             hex_bytes(reply).hex(), method)

        # node_id "n", node_address "h:1", a DRAM tier of 4096 bytes with 4096 free, peer "p:2",
        # engine_desc ff00, tag "a=b" (field 13)
        call("RegisterClient",
             "0a016e 1203683a31 1a08 0802 108020 188020 2203703a32 2a02ff00 6a03613d62",
             "088827")  # 5000 ms; ack_seq 0 is not written
        # bundle 1: ADD "k", DRAM, size 5; ADD is 0 and not written
        call("Heartbeat", "0a016e 120b 0801 1207 12016b 1802 2005",
             "0801 1001")
        call("Heartbeat", "0a016e 1202 0803", "0801 1001 1801")  # bundle 3 is a gap
        call("BatchLookup", "1201 6b 1201 7a", "0a020100")
        call("RouteGet", "0a016b", "0801 12016e 1802 2005 2a03703a32")
        call("RouteGet", "0a017a", "")
        call("RoutePut", "0a017a 1805", "0801 12016e 1802 2203703a32")
        call("RoutePut", "0a016b 1805", "0802")
        # block_sizes packed, as proto3 writes them, and then one by one
        call("BatchRoutePut", "12016b 1201 7a 1a020505",
             "0a02 0802 0a0c 0801 12016e 1802 2203703a32")
        call("BatchRoutePut", "12016b 1201 7a 1805 1805",
             "0a02 0802 0a0c 0801 12016e 1802 2203703a32")
        call("BatchRouteGet", "12016b 12017a", "0a08 0a016e 1203703a32 12020100 1a020200 22020500")
        call("ReportExternalKvBlocks", "0a016e 120168 1802", "")
        call("MatchExternalKv", "0a0168 1001", "0a0f 0a016e 1203703a32 1a05 0802 120168")
        call("GetExternalKvHitCounts", "0a0168", "0a05 0a0168 1001")
        call("RevokeExternalKvBlocks", "0a016e 120168 1802", "")
        call("MatchExternalKv", "0a0168", "")
        call("RevokeAllExternalKvBlocksAtTier", "0a016e 1002", "")
        call("RevokeAllExternalKvBlocksForNode", "0a016e", "")
        call("ReportMetrics", "0a016e 120c 0a0163 21 000000000000f03f", "")
        call("UnregisterClient", "0a016e", "")
        call("BatchLookup", "1201 6b", "0a0100")

    def test_fields_of_a_later_version_are_skipped(self):
        # field 2000 as varint, as bytes, as 64 and 32 bits
        later = "807d07 827d03616263 817d0000000000000000 857d00000000"
        self.assertEqual(raw(self.wire, "BatchLookup", hex_bytes("12016b", later)).hex(), "0a0100")

    def test_bytes_that_are_no_message_get_a_status(self):
        for data in ("12", "12ff", "0a0a61", "1380", "ffffffffffffffffffff01", "00", "07",
                     "1202c080", "1203eda080", "1204f5808080"):
            with self.fails_with(STATUS.INTERNAL):
                raw(self.wire, "BatchLookup", hex_bytes(data))
        self.assertEqual(raw(self.wire, "BatchLookup", b"").hex(), "")

    def test_unknown_methods_and_services_get_a_status(self):
        for path in ("/umbp.UMBPMaster/Nothing", "/other.Service/BatchLookup", "/", "/a/b/c"):
            with self.fails_with(STATUS.UNIMPLEMENTED):
                self.wire.unary_unary(path)(b"", timeout=60)

    def test_a_message_over_the_bound_gets_a_status(self):
        with self.fails_with(STATUS.RESOURCE_EXHAUSTED):
            raw(self.wire, "BatchLookup", b"\0" * (64 << 20) + b"\0")
        raw(self.wire, "BatchLookup", b"")

    def test_compressed_messages_are_refused_before_they_are_inflated(self):
        bomb = pb.BatchLookupRequest(keys=["a" * (1 << 20)] * 60).SerializeToString()
        before = self.resident()
        for _ in range(3):
            with self.fails_with(STATUS.UNIMPLEMENTED):
                raw(self.wire, "BatchLookup", bomb, compression=grpc.Compression.Gzip)
        self.assertLess(self.resident() - before, 50 << 20)

    def resident(self):
        with open(f"/proc/{self.master.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def test_port_scans_and_garbage_leave_nothing_behind(self):
        host, port = self.master.address.rsplit(":", 1)
        raw(self.wire, "BatchLookup", b"")
        folder = f"/proc/{self.master.process.pid}/fd"
        before = len(os.listdir(folder))
        seed = b"umbp"
        for number in range(300):
            with socket.create_connection((host, int(port)), 60) as sock:
                seed = zlib.crc32(seed).to_bytes(4, "big") * 16
                if number % 3 == 1:
                    sock.sendall(seed)
                elif number % 3 == 2:
                    sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + seed)
        wait_until(lambda: len(os.listdir(folder)) <= before, "the connections are closed")
        raw(self.wire, "BatchLookup", b"")
        # the last may not have been accepted when the descriptors were few already
        wait_until(lambda: self.master.metrics()["umbp_master_strangers_total"] == 100,
                   "all strangers are counted")

    def test_a_call_ends_at_its_deadline_while_the_master_stands_still(self):
        raw(self.wire, "BatchLookup", b"")
        self.master.process.send_signal(signal.SIGSTOP)
        try:
            with self.fails_with(STATUS.DEADLINE_EXCEEDED):
                self.wire.unary_unary("/umbp.UMBPMaster/BatchLookup")(b"", timeout=0.2)
        finally:
            self.master.process.send_signal(signal.SIGCONT)
        self.assertEqual(raw(self.wire, "BatchLookup", hex_bytes("12016b")).hex(), "0a0100")


def ask_signpost(address, lowest=1, highest=1):
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address[5:])
    else:
        host, port = address.rsplit(":", 1)
        sock = socket.create_connection((host, int(port)), 60)
    with sock:
        sock.settimeout(60)
        sock.sendall(b"UMBPSIGN" + struct.pack("<HHI", lowest, highest, 0))
        answer = b""
        while True:
            part = sock.recv(4096)
            if not part:
                break
            answer += part
    magic, version, status, body_bytes, seed, zero, _ = struct.unpack("<8sHHIQII", answer[:32])
    body, records = answer[32:], []
    assert (magic, version, zero, len(body)) == (b"UMBPPOST", 1, 0, body_bytes), answer
    while body:
        kind, size = struct.unpack("<HH", body[:4])
        records.append((kind, body[4:4 + size].decode()))
        body = body[4 + size:]
    return status, seed, records


class Sockets(Case):
    def test_a_unix_socket_serves_and_is_its_owners_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/master.sock"
            master = self.start(listen=f"unix:{path},127.0.0.1:0")
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
            self.assertEqual(len(master.addresses), 2)
            for address in master.addresses:
                raw(self.channel(address), "BatchLookup", b"")
                self.assertEqual(ask_signpost(address)[0], 0)
            self.assertEqual(master.stop(), 0)
            self.assertFalse(os.path.exists(path))

    def test_a_killed_masters_socket_is_taken_over(self):
        with tempfile.TemporaryDirectory() as folder:
            first = self.start(listen=f"unix:{folder}/s")
            first.stop(signal.SIGKILL)
            second = self.start(listen=f"unix:{folder}/s")
            raw(self.channel(second.address), "BatchLookup", b"")
            with self.assertRaisesRegex(RuntimeError, "in use"):
                Master(listen=f"unix:{folder}/s")

    def test_localhost_is_all_its_addresses(self):
        master = self.start(listen="localhost:0")
        port = master.address.rsplit(":", 1)[1]
        raw(self.channel(f"localhost:{port}"), "BatchLookup", b"")

    def test_the_signpost_names_the_cluster(self):
        master = self.start("--cluster", "blue", "--hash-seed", "1234567890123")
        status, seed, records = ask_signpost(master.address)
        self.assertEqual((status, seed), (0, 1234567890123))
        self.assertIn((2, "blue"), records)
        self.assertEqual(ask_signpost(master.address, 7, 9)[0], 17)  # UMBP_VERSION
        self.assertEqual(master.metrics()["umbp_master_signposts_total"], 2)

    def test_five_hundred_clients_connect_at_once(self):
        master = self.start()

        def one(_):
            with grpc.insecure_channel(master.address,
                                       [("grpc.use_local_subchannel_pool", 1)]) as channel:
                return raw(channel, "BatchLookup", hex_bytes("12016b")).hex()

        with concurrent.futures.ThreadPoolExecutor(100) as pool:
            self.assertEqual(set(pool.map(one, range(500))), {"0a0100"})
        raw(self.channel(master.address), "BatchLookup", b"")


@unittest.skipUnless(shutil.which("openssl"), "makes its certificates with openssl")
class Tls(Case):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        for name in ("server", "client"):
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                 f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
                 "-keyout", cls.path(f"{name}.key"), "-out", cls.path(f"{name}.pem")],
                check=True, capture_output=True)

    @classmethod
    def path(cls, name):
        return f"{cls.folder.name}/{name}"

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def secure(self, address, **credentials):
        channel = grpc.secure_channel(
            address, grpc.ssl_channel_credentials(self.read("server.pem"), **credentials),
            [("grpc.use_local_subchannel_pool", 1)])
        self.addCleanup(channel.close)
        return channel

    def flags(self):
        return ["--tls-certificate", self.path("server.pem"), "--tls-key", self.path("server.key")]

    def test_tls_and_the_signpost_share_a_port_and_plain_calls_are_refused(self):
        master = self.start(*self.flags())
        stub = stubs.UMBPMasterStub(self.secure(master.address))
        node = Node(stub, "a")
        keys = [f"{i:064x}" for i in range(20000)]
        node.add(*keys)  # more than one buffer of the relay, both ways
        self.assertTrue(all(stub.BatchLookup(pb.BatchLookupRequest(keys=keys), timeout=60).found))
        self.assertEqual(ask_signpost(master.address)[0], 0)
        with self.fails_with(STATUS.UNAVAILABLE):
            raw(self.channel(master.address), "BatchLookup", b"")
        self.assertTrue(all(stub.BatchLookup(pb.BatchLookupRequest(keys=keys), timeout=60).found))
        self.assertEqual(master.stop(), 0)

    def test_clients_without_the_asked_for_certificate_are_refused(self):
        master = self.start(*self.flags(), "--tls-client-ca", self.path("client.pem"))
        with self.fails_with(STATUS.UNAVAILABLE):
            raw(self.secure(master.address), "BatchLookup", b"")
        good = self.secure(master.address, private_key=self.read("client.key"),
                           certificate_chain=self.read("client.pem"))
        raw(good, "BatchLookup", b"")

    def test_garbage_behind_a_tls_greeting_is_cut_off(self):
        master = self.start(*self.flags())
        folder = f"/proc/{master.process.pid}/fd"
        channel = self.secure(master.address)
        raw(channel, "BatchLookup", b"")
        before = len(os.listdir(folder))
        host, port = master.address.rsplit(":", 1)
        for number in range(50):
            with socket.create_connection((host, int(port)), 60) as sock:
                sock.sendall(b"\x16\x03\x01" + bytes([number]) * 200)
        wait_until(lambda: len(os.listdir(folder)) <= before, "the connections are closed")
        raw(channel, "BatchLookup", b"")

    def test_files_that_are_no_certificate_end_the_start(self):
        for flags in (["--tls-certificate", "/nowhere", "--tls-key", "/nowhere"],
                      ["--tls-certificate", self.path("server.pem")],
                      ["--tls-certificate", self.path("server.key"), "--tls-key",
                       self.path("server.key")]):
            with self.assertRaisesRegex(RuntimeError, "tls-|nowhere|certificate"):
                Master(*flags)


class Program(Case):
    def run_master(self, *arguments, **environment):
        env = {name: value for name, value in os.environ.items() if not name.startswith("UMBP_")}
        return subprocess.run([PROGRAM, *arguments], env={**env, **environment}, timeout=60,
                              capture_output=True, text=True)

    def test_two_arguments_are_the_public_usage(self):
        master = self.start(listen="127.0.0.1:0", metrics="0")
        self.assertEqual(master.metrics_port, 0)
        raw(self.channel(master.address), "BatchLookup", b"")

    def test_signals_end_it_well_but_for_the_hang_up(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            master = self.start()
            channel = self.channel(master.address)
            raw(channel, "BatchLookup", b"")
            master.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "action=none" in master.log, "it has seen the signal")
            raw(channel, "BatchLookup", b"")
            self.assertEqual(master.stop(number), 0)
            self.assertIn("stopped", master.log)

    def test_health_readiness_and_strange_paths(self):
        master = self.start()
        self.assertEqual(master.http("/healthz"), (200, "ok\n"))
        self.assertEqual(master.http("/readyz"), (200, "ready\n"))
        self.assertEqual(master.http("/")[0], 404)
        self.assertEqual(master.http("/metrics/x")[0], 404)

    def test_scraping_does_not_stop_calls(self):
        master = self.start()
        stub = self.stub_of(master)
        Node(stub, "a").add(*[f"k{i}" for i in range(1000)])
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            scrapes = [pool.submit(master.metrics) for _ in range(50)]
            for _ in range(200):
                stub.BatchLookup(pb.BatchLookupRequest(keys=["k1"]), timeout=60)
            for scrape in scrapes:
                self.assertEqual(scrape.result()["mori_umbp_client_count"], 1)

    def test_resolved_timing_is_logged_with_its_sources(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write("[master]\nreaper_interval_sec = 7\nlease-duration-sec = 9\n")
            file.flush()
            master = self.start("--config", file.name, "--max-missed-heartbeats", "4",
                                environment={"UMBP_HEARTBEAT_TTL_SEC": "11",
                                             "UMBP_LEASE_DURATION_SEC": " +6",
                                             "UMBP_ROUTE_PUT_SELECT_ALGO": " random "})
            self.assertEqual(master.stop(), 0)
        self.assertIn("heartbeat_ttl=11s reaper_interval=7s max_missed=4 "
                      "eviction.check_interval=5s lease_duration=6s", master.log)
        self.assertIn("select_algo=random node_affinity=none", master.log)
        self.assertIn('heartbeat-ttl-sec="11"(environment)', master.log)
        self.assertIn('reaper-interval-sec="7"(file)', master.log)
        self.assertIn('max-missed-heartbeats="4"(flag)', master.log)

    def test_a_bad_environment_is_the_default_with_one_warning_each(self):
        bad = {"UMBP_HEARTBEAT_TTL_SEC": "10abc", "UMBP_REAPER_INTERVAL_SEC": "0",
               "UMBP_MAX_MISSED_HEARTBEATS": "-5", "UMBP_LEASE_DURATION_SEC": "0x10",
               "UMBP_ROUTE_PUT_NODE_AFFINITY": "Same", "UMBP_MASTER_MAX_CONNECTIONS": "many"}
        master = self.start(environment={**bad, "UMBP_EVICTION_CHECK_INTERVAL_SEC": ""})
        self.assertEqual(master.stop(), 0)
        for name in bad:
            self.assertEqual(master.log.count(f"name={name} "), 1, name)
        self.assertEqual(master.log.count("bad_environment"), len(bad))
        self.assertIn("heartbeat_ttl=10s reaper_interval=5s max_missed=3 ", master.log)

    def test_a_bad_flag_or_file_ends_the_start_with_a_sentence(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write("heartbeat_tll_sec = 3\n")
            file.flush()
            cases = [
                (["--heartbeat-tll-sec", "3"], "heartbeat-ttl-sec"),
                (["--heartbeat-ttl-sec", "x"], "heartbeat-ttl-sec"),
                (["--heartbeat-ttl-sec", "0"], "a number from 1 to 1000000, in s"),
                (["--heartbeat-ttl-sec", "5s"], "which is not written"),
                (["--heartbeat-ttl-sec"], "needs a value"),
                (["--cluster", "a", "--cluster", "b"], "twice"),
                (["--route-put-select-algo", "best"], "most_available, random"),
                (["127.0.0.1:0", "port"], "not a port"),
                (["a", "0", "c"], "too many"),
                (["--config", "/nowhere"], "can't read"),
                (["--config", file.name], "nearest is heartbeat-ttl-sec"),
            ]
            for arguments, words in cases:
                done = self.run_master(*arguments)
                self.assertEqual(done.returncode, 2, arguments)
                self.assertIn(words, done.stderr, arguments)
                self.assertNotIn("bad_environment", done.stderr, arguments)
                self.assertEqual(done.stdout, "")

    def test_a_bad_address_is_the_one_that_is_blamed(self):
        for arguments, words in [
                (["nowhere", "0"], 'listen: "nowhere" is no address'),
                (["127.0.0.1:99999", "0"], 'listen: "127.0.0.1:99999" is no address'),
                (["[::1:0", "0"], 'listen: "[::1:0" is no address'),
                (["no.such.host.invalid:1", "0"],
                 'listen: "no.such.host.invalid:1": the host is not known here'),
                (["--listen", "127.0.0.1:0,no.such.host.invalid:1"],
                 'listen: "no.such.host.invalid:1": the host is not known here'),
                (["127.0.0.1:0", "any", "--metrics-host", "some"], 'metrics-host: "some" is no')]:
            done = self.run_master(*arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn(words, done.stderr, arguments)
            self.assertEqual(done.stdout, "")

    def test_help_names_each_option_and_its_variable(self):
        done = self.run_master("--help")
        self.assertEqual(done.returncode, 0)
        for words in ("--heartbeat-ttl-sec", "UMBP_HEARTBEAT_TTL_SEC", "--listen",
                      "--route-put-node-affinity", "default 9091"):
            self.assertIn(words, done.stdout)

    def test_a_port_in_use_is_told(self):
        master = self.start()
        done = self.run_master(master.address, "0")
        self.assertEqual(done.returncode, 3)
        self.assertIn("in use", done.stderr)
        done = self.run_master("127.0.0.1:0", str(master.metrics_port))
        self.assertEqual(done.returncode, 3)
        self.assertIn("metrics", done.stderr)


if __name__ == "__main__":
    unittest.main()
