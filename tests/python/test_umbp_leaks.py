# SPDX-License-Identifier: Apache-2.0
"""No call keeps what it took: references, Python's memory, and the heap of C, good paths and bad."""
import array
import ctypes
import gc
import os
import sys
import unittest

import umbp
from umbp import Config, HostBuffer, Status
from umbp_support import Case
from wait_support import wait_until

ROUNDS = 2000
SLACK = 32 * 1024  # of all rounds together: less than a smallest block a round


class _Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
                 "fordblks", "keepcost")]


def heap_bytes():
    """What malloc has given out; 0 where another allocator is in front."""
    libc = ctypes.CDLL(None)
    try:
        libc.mallinfo2.restype = _Mallinfo
    except AttributeError:
        return 0
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd


class Leaks(Case):
    def setUp(self):
        self.client = self.small()
        self.buffer = bytearray(64)
        self.pointer = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer))
        self.keys = [f"key-{i}" for i in range(8)]
        self.flat = array.array("Q", [self.pointer] * 8)
        self.data = [bytes(64)] * 8

    def calls(self):
        client, keys, flat, data = self.client, self.keys, self.flat, self.data
        into = [self.buffer] * 8
        nested = [[self.pointer, self.pointer]] * 8
        client.batch_put(keys, data)
        return {
            "put": lambda: client.put("key-0", data[0], 5),
            "get": lambda: client.get("key-0"),
            "get into": lambda: client.get("key-0", self.buffer),
            "miss": lambda: client.get("miss"),
            "miss into": lambda: client.get(b"miss", self.buffer),
            "wrong size": lambda: client.get("key-0", bytearray(3)),
            "read-only": lambda: client.get("key-0", b"ro"),
            "bad key": lambda: client.put("a\udc80", b"v"),
            "bad key type": lambda: client.put(5, b"v"),
            "bad data": lambda: client.put("k", "text"),
            "bad pair": lambda: client.put("k", (1, -1)),
            "bad depth": lambda: client.put("k", b"v", -1),
            "exists": lambda: client.exists("key-0"),
            "in": lambda: "key-0" in client,
            "stat": lambda: client.stat("key-0"),
            "list": lambda: client.list(),
            "stats": lambda: client.stats(),
            "remove": lambda: (client.put("r", b"v"), client.remove("r"), client.remove("r")),
            "batch_put": lambda: client.batch_put(keys, data, depths=[1] * 8),
            "batch_put flat": lambda: client.batch_put(keys, flat, 64, flat and 3),
            "batch_get": lambda: client.batch_get(keys, into),
            "batch_get flat": lambda: client.batch_get(keys, flat, [64] * 8),
            "batch generator": lambda: client.batch_get((k for k in keys), iter(into)),
            "batch last is bad": lambda: client.batch_get(keys, into[:7] + [5]),
            "batch last is read-only": lambda: client.batch_get(keys, into[:7] + [b"ro"]),
            "batch last key is bad": lambda: client.batch_get(keys[:7] + [5], into),
            "batch lengths": lambda: client.batch_put(keys, data[:7]),
            "batch sizes": lambda: client.batch_put(keys, flat, [64] * 7 + [-1]),
            "batch array of": lambda: client.batch_put(keys, flat, array.array("d", [1.0] * 8)),
            "batch_exists": lambda: client.batch_exists(keys),
            "consecutive": lambda: client.batch_exists_consecutive(keys),
            "batch_remove": lambda: client.batch_remove(["none"] * 8),
            "large batch": lambda: client.batch_get(keys * 40, into * 40),
            "put ranges": lambda: client.batch_put_ranges(keys, 64, nested, 32, [[0, 32]] * 8),
            "get ranges": lambda: client.batch_get_ranges(keys, nested, 32, [[0, 32]] * 8),
            "get ranges flat": lambda: client.batch_get_ranges(keys, flat, 32, 0, counts=[1] * 8),
            "ranges bad": lambda: client.batch_get_ranges(keys, nested, 32, [[0, 32]] * 7 + [[0]]),
            "ranges bad counts": lambda: client.batch_get_ranges(keys, flat, 32, 0, [9] * 8),
            "register": lambda: (client.register_memory(self.data[0]),
                                 client.deregister_memory(self.data[0])),
            "external report": lambda: client.external_report(keys, umbp.Tier.HBM),
            "external match": lambda: client.external_match(keys * 40),
            "external hits": lambda: client.external_hits(keys),
            "external bad": lambda: client.external_match(keys + [5]),
            "register bad": lambda: client.register_memory(0, 5),
            "config": lambda: Config({"dram.bytes": "1MiB"}).to_dict(),
            "config bad": lambda: Config({"dram.bites": "1MiB"}),
            "host": lambda: memoryview(HostBuffer(100)),
            "host bad": lambda: HostBuffer(100, "golden"),
            "properties": lambda: (client.deployment, client.closed, client.config),
        }

    def test_no_call_leaks(self):
        watched = [None, True, False, Status.OK, Status.NOT_FOUND, Status.ALREADY_EXISTS,
                   self.data[0], self.buffer, self.keys, self.keys[0], self.flat, umbp.Error,
                   umbp.NotFoundError, umbp.HostBuffer, umbp.Config, self.client]

        def repeat(call, rounds):
            for _ in range(rounds):
                try:
                    call()
                except (umbp.Error, ValueError, TypeError, BufferError):
                    pass

        def grown(call, rounds):
            """By how much: references (the most), Python's blocks, bytes of C's heap."""
            gc.collect()
            references = [sys.getrefcount(o) for o in watched]
            blocks = sys.getallocatedblocks()
            heap = heap_bytes()
            repeat(call, rounds)
            gc.collect()
            heap = heap_bytes() - heap
            blocks = sys.getallocatedblocks() - blocks
            changes = [sys.getrefcount(o) - r for o, r in zip(watched, references)]
            return max(map(abs, changes)), blocks, heap

        for name, call in self.calls().items():
            with self.subTest(name):
                rounds = ROUNDS // 4 if name in ("host", "large batch", "config") else ROUNDS
                repeat(call, 50)
                # The library's threads use the heap too, now and then. A leak is there every time.
                for _ in range(4):
                    references, blocks, heap = grown(call, rounds)
                    if references < rounds // 10 and blocks < rounds // 10 and heap < SLACK:
                        break
                else:
                    self.fail(f"{references} references, {blocks} blocks, {heap} bytes")

    def test_clients_give_everything_back(self):
        def once():
            with umbp.Client({"dram.bytes": "1MiB", "dram.prefault": False}) as client:
                client.put("k", b"v")
                client.register_memory(self.buffer)

        def holdings():
            with open("/proc/self/status", encoding="ascii") as file:
                threads = [int(line.split()[1]) for line in file if line.startswith("Threads:")][0]
            with open("/proc/self/maps", encoding="ascii") as file:
                maps = sum(1 for _ in file)
            return threads, maps

        for _ in range(20):
            once()
        gc.collect()
        blocks, (threads, maps) = sys.getallocatedblocks(), holdings()
        for _ in range(300):
            once()
        gc.collect()
        self.assertLess(sys.getallocatedblocks() - blocks, 200)
        # One that has been waited for is counted a moment longer.
        wait_until(lambda: holdings()[0] <= threads, "the library's threads are gone")
        _, after_maps = holdings()
        if "asan" not in os.environ.get("LD_PRELOAD", ""):  # it keeps freed memory for a while
            self.assertLess(after_maps - maps, 100)  # malloc may make a few


if __name__ == "__main__":
    unittest.main()
