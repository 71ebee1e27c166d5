# SPDX-License-Identifier: Apache-2.0
"""Single values: every kind of key and buffer, and what is refused."""
import array
import ctypes
import mmap
import unittest

import umbp
from umbp import Status
from umbp_support import Case, Index

try:
    import numpy
except ImportError:
    numpy = None


class Values(Case):
    def test_what_was_put_is_got(self):
        client = self.small()
        self.assertIs(client.put("a", b"hello"), True)
        self.assertEqual(client.get("a"), b"hello")
        self.assertIs(client.exists("a"), True)
        self.assertIn("a", client)
        self.assertNotIn("b", client)
        self.assertIs(client.remove("a"), True)
        self.assertIs(client.remove("a"), False)
        self.assertIs(client.exists("a"), False)

    def test_the_first_value_of_a_key_stays(self):
        client = self.small()
        self.assertIs(client.put("a", b"first"), True)
        self.assertIs(client.put("a", b"second"), False)
        self.assertEqual(client.get("a"), b"first")

    def test_a_str_and_its_utf8_are_one_key(self):
        client = self.small()
        for key in ("plain", "Schlüssel", "鍵", "\U0001f511", "with\0nul"):
            with self.subTest(key):
                client.put(key, key.encode())
                self.assertEqual(client.get(key.encode()), key.encode())
                self.assertIn(key, client)

    def test_any_bytes_are_a_key(self):
        client = self.small()
        for key in (b"\0", b"\xff\xfe", bytes(range(256)), b"x" * 1024):
            client.put(key, key)
            self.assertEqual(client.get(key), key)

    def test_keys_of_bad_length_are_invalid(self):
        client = self.small()
        for key in ("", b"", "x" * 1025, "ü" * 513):
            for call in (lambda: client.put(key, b"v"), lambda: client.get(key),
                         lambda: client.get(key, bytearray(1)), lambda: client.exists(key),
                         lambda: client.remove(key), lambda: client.stat(key),
                         lambda: key in client):
                with self.assertRaises(umbp.InvalidKeyError) as caught:
                    call()
                self.assertIs(caught.exception.status, Status.INVALID_KEY)

    def test_a_str_with_surrogates_is_refused_with_a_sentence(self):
        client = self.small()
        for call in (lambda: client.put("a\udc80", b"v"), lambda: client.exists("\ud800")):
            with self.assertRaisesRegex(umbp.InvalidKeyError, "surrogates.*give bytes"):
                call()
        with self.assertRaisesRegex(umbp.InvalidKeyError, r"keys\[1\].*surrogates"):
            client.batch_exists(["a", "\udfff"])

    def test_keys_of_other_types_are_refused_and_named(self):
        client = self.small()
        for key in (1, None, 1.5, bytearray(b"a"), memoryview(b"a"), ["a"], object()):
            with self.assertRaisesRegex(TypeError, "key.*str or bytes, not " + type(key).__name__):
                client.put(key, b"v")
            with self.assertRaisesRegex(TypeError, r"keys\[0\]"):
                client.batch_remove([key])

    def test_everything_with_a_buffer_can_be_put(self):
        client = self.small()
        text = bytes(range(64))
        with mmap.mmap(-1, 64) as mapped:
            mapped[:] = text
            sources = [text, bytearray(text), memoryview(text), array.array("B", text),
                       array.array("Q", [1, 2, 3]), (ctypes.c_char * 64)(*text), mapped,
                       memoryview(bytes(128))[64:]]
            for i, source in enumerate(sources):
                client.put(f"k{i}", source)
                self.assertEqual(client.get(f"k{i}"), bytes(memoryview(source).cast("B")))

    def test_a_pointer_and_its_size_are_a_buffer(self):
        client = self.small()
        memory = (ctypes.c_char * 16)(*b"0123456789abcdef")
        client.put("k", (ctypes.addressof(memory), 16))
        other = (ctypes.c_char * 16)()
        self.assertEqual(client.get("k", (ctypes.addressof(other), 16)), 16)
        self.assertEqual(other.raw, memory.raw)

    def test_a_get_fills_a_buffer_of_the_exact_size(self):
        client = self.small()
        client.put("k", b"12345")
        into = bytearray(5)
        self.assertEqual(client.get("k", into), 5)
        self.assertEqual(client.get("k", into=into), 5)
        self.assertEqual(into, b"12345")
        wide = array.array("b", bytes(8))
        self.assertEqual(client.get("k", memoryview(wide)[1:6]), 5)
        self.assertEqual(wide.tobytes(), b"\0" + b"12345" + b"\0\0")
        for size in (0, 4, 6):
            with self.assertRaises(umbp.SizeMismatchError):
                client.get("k", bytearray(size))

    def test_a_read_only_buffer_is_not_filled(self):
        client = self.small()
        client.put("k", b"12345")
        for into in (b"abcde", memoryview(b"abcde"), memoryview(bytearray(5)).toreadonly()):
            with self.assertRaisesRegex((BufferError, TypeError), "into"):
                client.get("k", into)
            with self.assertRaisesRegex((BufferError, TypeError), r"into\[0\]"):
                client.batch_get(["k"], [into])

    def test_a_buffer_with_gaps_is_refused(self):
        client = self.small()
        gaps = memoryview(bytearray(10))[::2]
        with self.assertRaises((BufferError, ValueError)):
            client.put("k", gaps)
        client.put("k", b"12345")
        with self.assertRaises((BufferError, ValueError)):
            client.get("k", gaps)

    def test_null_negative_and_odd_memory_is_refused(self):
        client = self.small()
        with self.assertRaisesRegex(umbp.InvalidValueError, "the pointer is null"):
            client.put("k", (0, 5))
        client.put("k", b"12345")
        with self.assertRaisesRegex(umbp.InvalidValueError, "the pointer is null"):
            client.get("k", (0, 5))
        for pair, problem in (((-1, 5), "negative"), ((8, -5), "negative"), ((1 << 64, 5), r"2\*\*64"),
                              ((8,), "pointer, size"), ((8, 5, 1), "pointer, size")):
            with self.assertRaisesRegex(ValueError, problem):
                client.put("n", pair)
        for pair in (("8", 5), (8, 5.0), (None, 5)):
            with self.assertRaisesRegex(TypeError, "data"):
                client.put("n", pair)
        for data in (5, None, "text", [1, 2], object()):
            with self.assertRaisesRegex(TypeError, "data.*buffer protocol"):
                client.put("n", data)
        self.assertNotIn("n", client)

    def test_an_empty_value_is_a_value(self):
        client = self.small()
        client.put("empty", b"")
        self.assertEqual(client.get("empty"), b"")
        self.assertEqual(client.get("empty", bytearray()), 0)
        self.assertEqual(client.stat("empty").bytes, 0)

    def test_a_miss_carries_its_status_and_key(self):
        client = self.small()
        for call in (lambda: client.get("gone"), lambda: client.get("gone", bytearray(3)),
                     lambda: client.stat("gone")):
            with self.assertRaises(umbp.NotFoundError) as caught:
                call()
            self.assertIs(caught.exception.status, Status.NOT_FOUND)
            self.assertIsInstance(caught.exception, LookupError)
            self.assertIsInstance(caught.exception, umbp.Error)
            self.assertIn("'gone'", str(caught.exception))

    def test_a_value_larger_than_the_store_is_too_large(self):
        client = self.small()
        with self.assertRaises(umbp.TooLargeError):
            client.put("k", bytes(40 << 20))

    def test_a_depth_is_kept_and_checked(self):
        client = self.small()
        client.put("d", b"v", depth=7)
        client.put("n", b"v")
        client.put("none", b"v", None)
        self.assertEqual([client.stat(k).depth for k in ("d", "n", "none")], [7, None, None])
        for depth in (-1, 1 << 32, 1 << 70):
            with self.assertRaisesRegex(ValueError, "^depth is "):
                client.put("x", b"v", depth)
        for depth in ("1", 1.5, [1], (1,)):
            with self.assertRaisesRegex(TypeError, "^depth: '.*' object cannot be interpreted"):
                client.put("x", b"v", depth)
        client.put("x", b"v", Index(9))
        self.assertEqual(client.stat("x").depth, 9)

    def test_list_and_stat_tell_what_is_held(self):
        client = self.small()
        for i in range(100):
            client.put(f"k{i}", bytes(i), depth=i)
        entries = {entry.key: entry for entry in client.list()}
        self.assertEqual(set(entries), {b"k%d" % i for i in range(100)})
        self.assertEqual(entries[b"k42"], client.stat("k42")._replace(key=b"k42"))
        self.assertEqual(entries[b"k42"][1:3], (42, 42))
        self.assertIs(entries[b"k42"].in_dram, True)
        self.assertIs(entries[b"k42"].in_ssd, False)
        self.assertEqual(len(client.list(limit=7)), 7)
        self.assertEqual(client.list(0), [])
        for limit in (-1, 1 << 63, 1 << 70):
            with self.assertRaisesRegex(ValueError, "^limit is "):
                client.list(limit)
        with self.assertRaisesRegex(TypeError, "^limit: "):
            client.list("x")
        client.clear()
        self.assertEqual(client.list(), [])

    def test_statistics_count(self):
        client = self.small()
        client.put("k", bytes(1000))
        client.get("k")
        stats = client.stats()
        self.assertTrue(all(type(k) is str and type(v) is int for k, v in stats.items()))
        self.assertGreaterEqual(stats["dram.bytes_used"], 1000)
        self.assertGreater(len(stats), 10)

    def test_wrong_numbers_of_arguments_are_type_errors(self):
        client = self.small()
        for call in (lambda: client.put("k"), lambda: client.put("k", b"v", 1, 2),
                     lambda: client.get(), lambda: client.get("k", size=3),
                     lambda: client.exists(), lambda: client.flush(1, 2),
                     lambda: client.batch_put(["k"]), lambda: umbp.Client({}, {})):
            with self.assertRaises(TypeError):
                call()


class Memory(Case):
    def test_registered_memory_is_held_until_it_is_deregistered(self):
        client = self.small()
        buffer = bytearray(100)
        client.register_memory(buffer)
        with self.assertRaises(BufferError):
            buffer.extend(b"more")  # it would move
        with self.assertRaisesRegex(umbp.Error, "overlaps"):
            client.register_memory(buffer)
        client.deregister_memory(buffer)
        buffer.extend(b"more")
        with self.assertRaises(umbp.NotFoundError):
            client.deregister_memory(buffer)

    def test_closing_lets_registered_memory_go(self):
        client = self.small()
        buffer = bytearray(100)
        client.register_memory(buffer)
        client.close()
        buffer.extend(b"more")

    def test_pointers_can_be_registered(self):
        client = self.small()
        buffer = ctypes.create_string_buffer(100)
        pointer = ctypes.addressof(buffer)
        client.register_memory(pointer, 50)
        client.register_memory((pointer + 50, 50))
        client.deregister_memory(pointer)
        client.deregister_memory((pointer + 50, 50))
        client.register_memory(Index(pointer), Index(50))
        client.deregister_memory(Index(pointer))
        for pair, why in (((0, 5), "pointer is null"), ((pointer, 0), "size is 0"),
                          ((pointer, (1 << 64) - 1), "address space")):
            with self.assertRaisesRegex(umbp.InvalidValueError, why):
                client.register_memory(*pair)
        for pair, name in (((-1, 5), "data"), ((pointer, -1), "size"), ((1 << 64, 5), "data")):
            with self.assertRaisesRegex(ValueError, f"^{name} is "):
                client.register_memory(*pair)
        for arguments, name in ((("x", 5), "data"), ((1.5, 1), "data"), ((pointer, 1.5), "size"),
                                ((None,), "data"), ((pointer,), "data"), (("abc",), "data")):
            with self.assertRaisesRegex(TypeError, f"^{name}: "):
                client.register_memory(*arguments)

    @unittest.skipIf(numpy is None, "no NumPy")
    def test_an_array_is_deregistered_as_it_was_registered(self):
        client = self.small()
        array = numpy.zeros(16, dtype=numpy.int64)
        client.register_memory(array)
        client.deregister_memory(array)
        client.register_memory(array.ctypes.data, array.nbytes)
        client.deregister_memory(numpy.uint64(array.ctypes.data))


if __name__ == "__main__":
    unittest.main()
