# SPDX-License-Identifier: Apache-2.0
"""HostBuffer: memory of every kind, as a buffer."""
import ctypes
import gc
import mmap
import os
import subprocess
import sys
import unittest

import umbp
from umbp import HostBuffer, Status
from umbp_support import Case

try:
    import numpy
except ImportError:
    numpy = None

KINDS = ("anonymous", "huge_pages", "shared", "shared_huge_pages")


class Host(Case):
    def setUp(self):
        umbp.set_log_level("error")  # falling back from huge pages warns
        self.addCleanup(umbp.set_log_level, "warn")

    def test_every_kind_is_zeroed_writable_memory(self):
        for kind in KINDS:
            with self.subTest(kind), HostBuffer(10001, kind) as buffer:
                self.assertEqual(len(buffer), 10001)
                self.assertEqual(buffer.bytes, 10001)
                self.assertEqual(bytes(buffer), bytes(10001))
                self.assertEqual(buffer.pointer % buffer.page_bytes, 0)
                self.assertEqual(buffer.mapped_bytes % buffer.page_bytes, 0)
                self.assertIn(buffer.backing, (kind, kind.replace("huge_pages", "anonymous")
                                               .replace("shared_anonymous", "shared")))
                self.assertEqual(buffer.fd is not None, "shared" in kind)
                self.assertEqual(buffer.name is not None, "shared" in kind)
                with memoryview(buffer) as view:
                    self.assertFalse(view.readonly)
                    self.assertEqual((view.format, view.shape), ("B", (10001,)))
                    view[5:8] = b"abc"
                self.assertEqual(ctypes.string_at(buffer.pointer + 5, 3), b"abc")

    def test_it_serves_as_the_memory_of_calls(self):
        client = self.small()
        with HostBuffer(4096) as buffer:
            with memoryview(buffer) as view:
                view[:] = bytes(range(256)) * 16
            client.put("k", buffer)
            client.register_memory(buffer)
            with HostBuffer(4096) as other:
                self.assertEqual(client.get("k", other), 4096)
                self.assertEqual(bytes(other), bytes(buffer))
                pointers = [other.pointer, other.pointer + 2048]
                self.assertEqual(client.batch_put(["a", "b"], pointers, 2048),
                                 [Status.OK, Status.OK])
            client.deregister_memory(buffer)

    def test_it_is_not_given_back_while_seen(self):
        buffer = HostBuffer(100)
        view = memoryview(buffer)
        with self.assertRaisesRegex(BufferError, "1 views"):
            buffer.close()
        self.assertFalse(buffer.closed)
        view[0] = 1
        view.release()
        buffer.close()
        buffer.close()
        self.assertTrue(buffer.closed)
        for call in (lambda: buffer.pointer, lambda: buffer.fd, lambda: buffer.backing):
            with self.assertRaisesRegex(ValueError, "closed"):
                call()
        with self.assertRaisesRegex(BufferError, "closed"):
            memoryview(buffer)
        self.assertIn("closed", repr(buffer))

    def test_a_view_keeps_it_alive(self):
        view = memoryview(HostBuffer(1 << 20))
        gc.collect()
        view[:] = bytes(1 << 20)
        view[-1] = 7
        self.assertEqual(view[-1], 7)

    @unittest.skipIf(numpy is None, "no NumPy")
    def test_it_is_the_base_of_numpy_arrays(self):
        array = numpy.frombuffer(HostBuffer(4096, "shared"), dtype=numpy.float32)
        gc.collect()
        array[:] = 1.5
        self.assertEqual(array.sum(), 1536)
        client = self.small()
        client.put("k", array)
        into = numpy.zeros(1024, dtype=numpy.float32)
        client.get("k", into)
        self.assertTrue((into == array).all())

    def test_another_process_sees_and_writes_a_shared_one(self):
        with HostBuffer(8192, "shared") as buffer:
            with memoryview(buffer) as view:
                view[:5] = b"hello"
            code = ("import mmap, os, sys\n"
                    "fd = os.open(sys.argv[1], os.O_RDWR)\n"
                    "with mmap.mmap(fd, 8192) as m:\n"
                    "    assert m[:5] == b'hello'\n"
                    "    m[5:11] = b' world'\n")
            subprocess.run([sys.executable, "-c", code, buffer.name], check=True, timeout=60)
            self.assertEqual(bytes(buffer)[:11], b"hello world")
            with mmap.mmap(buffer.fd, 8192) as other:
                self.assertEqual(other[:11], b"hello world")
            with self.assertRaises(OSError):
                os.ftruncate(buffer.fd, 100)

    def test_a_node_can_be_asked_for(self):
        with HostBuffer(4096, numa_node=0, prefault=True, prefault_threads=2) as buffer:
            self.assertEqual(bytes(buffer), bytes(4096))
        for node in (1023, 1 << 20):
            with self.assertRaisesRegex(umbp.UnsupportedError, "node"):
                HostBuffer(4096, numa_node=node)
        HostBuffer(4096, prefault=False).close()

    def test_what_cannot_be_is_refused(self):
        for size in (0, -1):
            with self.assertRaisesRegex(ValueError, "bytes"):
                HostBuffer(size)
        for size in ("1MiB", 1.5, None):
            with self.assertRaises(TypeError):
                HostBuffer(size)
        for name, value in (("bytes", 1 << 63), ("bytes", 1 << 64), ("bytes", -1),
                            ("numa_node", -1), ("numa_node", 1 << 32), ("numa_node", 1 << 70),
                            ("prefault_threads", -1), ("prefault_threads", 1 << 32),
                            ("prefault_threads", 1 << 40), ("prefault_threads", 1 << 70)):
            with self.assertRaisesRegex(ValueError, f"^{name} is "):
                HostBuffer(**{"bytes": 4096, "prefault": False, name: value})
        for name in ("bytes", "numa_node", "prefault_threads"):
            with self.assertRaisesRegex(TypeError, f"^{name}: 'float'"):
                HostBuffer(**{"bytes": 4096, "prefault": False, name: 1.5})
        with self.assertRaises(umbp.NoMemoryError) as caught:
            HostBuffer(1 << 62)
        self.assertIsInstance(caught.exception, MemoryError)
        with self.assertRaisesRegex(ValueError, "backing.*golden"):
            HostBuffer(100, "golden")
        with self.assertRaises(ValueError):
            HostBuffer(100, numa_node=-1)
        with self.assertRaises(TypeError):
            HostBuffer()
        buffer = HostBuffer(100)
        with self.assertRaisesRegex(RuntimeError, "already"):
            buffer.__init__(100)
        buffer.close()


if __name__ == "__main__":
    unittest.main()
