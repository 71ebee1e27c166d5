# SPDX-License-Identifier: Apache-2.0
"""Batches in every form, and batches that are wrong."""
import array
import ctypes
import threading
import unittest

import umbp
from umbp import Status
from umbp_support import Case, Index, Indexes, rng
from wait_support import threads_beside, wait_until

try:
    import numpy
except ImportError:
    numpy = None

OK, ALREADY, MISS = Status.OK, Status.ALREADY_EXISTS, Status.NOT_FOUND


class Slots:
    """Memory cut into equal slots."""

    def __init__(self, count, bytes_each):
        self.memory = bytearray(count * bytes_each)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.bytes_each = bytes_each
        self.pointers = [self.base + i * bytes_each for i in range(count)]
        self.sizes = [bytes_each] * count

    def __getitem__(self, i):
        return bytes(self.memory[i * self.bytes_each:(i + 1) * self.bytes_each])


def keys_of(count, prefix="k"):
    return [f"{prefix}{i}" for i in range(count)]


def values_of(count):
    return [bytes([i % 251]) * 100 for i in range(count)]


class Forms(Case):
    COUNT = 300  # beyond the stretch of stack that small batches use

    def int_forms(self, numbers):
        forms = {
            "list": numbers, "tuple": tuple(numbers), "array Q": array.array("Q", numbers),
            "array q": array.array("q", numbers), "generator": (n for n in numbers),
            "memoryview": memoryview(array.array("L", numbers)),
            "ctypes": (ctypes.c_uint64 * len(numbers))(*numbers),
        }
        if numpy is not None:
            forms["numpy int64"] = numpy.array(numbers, dtype=numpy.int64)
            forms["numpy uint64"] = numpy.array(numbers, dtype=numpy.uint64)
            forms["numpy scalars"] = list(numpy.array(numbers, dtype=numpy.uint64))
        return forms

    def test_pointers_and_sizes_come_in_every_form(self):
        client = self.small()
        source = Slots(self.COUNT, 100)
        source.memory[:] = b"".join(values_of(self.COUNT))
        names = list(self.int_forms([1]))
        for name in names:
            with self.subTest(name):
                keys = keys_of(self.COUNT, name)
                into = Slots(self.COUNT, 100)
                statuses = client.batch_put(keys, self.int_forms(source.pointers)[name],
                                            self.int_forms(source.sizes)[name])
                self.assertEqual(statuses, [OK] * self.COUNT)
                statuses = client.batch_get(keys, self.int_forms(into.pointers)[name],
                                            self.int_forms(into.sizes)[name])
                self.assertEqual(statuses, [OK] * self.COUNT)
                self.assertEqual(into.memory, source.memory)
                client.clear()

    def test_sizes_may_be_of_4_bytes_or_one_for_all(self):
        client = self.small()
        source, into = Slots(8, 100), Slots(8, 100)
        source.memory[:] = bytes(range(200)) * 4
        forms = [array.array("i", source.sizes), array.array("I", source.sizes), 100, Index(100),
                 Indexes(source.sizes)]
        if numpy is not None:
            forms += [numpy.int64(100), numpy.uint8(100), numpy.array(100)]
        for i, sizes in enumerate(forms):
            keys = keys_of(8, f"s{i}")
            self.assertEqual(client.batch_put(keys, source.pointers, sizes), [OK] * 8)
            self.assertEqual(client.batch_get(keys, into.pointers, sizes), [OK] * 8)
            self.assertEqual(into.memory, source.memory)
            into.memory[:] = bytes(800)
        for i, depths in enumerate(forms[2:4] + forms[5:]):
            client.batch_put([f"d{i}"], source.pointers[:1], 100, depths)
            self.assertEqual(client.stat(f"d{i}").depth, 100)
        with self.assertRaisesRegex(ValueError, r"^depths is 2\*\*32 or more"):
            client.batch_put(["d"], source.pointers[:1], 100, 1 << 32)

    def test_buffers_and_pairs_may_be_mixed(self):
        client = self.small()
        source = Slots(1, 100)
        data = [b"bytes", bytearray(b"array"), (source.base, 100), memoryview(b"view")[1:],
                array.array("H", [1, 2])]
        keys = keys_of(5)
        self.assertEqual(client.batch_put(keys, data), [OK] * 5)
        into = [bytearray(5), bytearray(5), bytearray(100), bytearray(3), array.array("H", [0, 0])]
        self.assertEqual(client.batch_get(keys, into), [OK] * 5)
        self.assertEqual([bytes(b) for b in into],
                         [b"bytes", b"array", bytes(100), b"iew", array.array("H", [1, 2]).tobytes()])

    @unittest.skipIf(numpy is None, "no NumPy")
    def test_the_rows_of_a_numpy_array_are_values(self):
        client = self.small()
        source = numpy.arange(40, dtype=numpy.float32).reshape(4, 10)
        into = numpy.zeros_like(source)
        self.assertEqual(client.batch_put(keys_of(4), source), [OK] * 4)
        self.assertEqual(client.batch_get(keys_of(4), into), [OK] * 4)
        self.assertTrue((source == into).all())
        with self.assertRaises((ValueError, BufferError)):
            client.batch_put(["t"], [source.T])
        with self.assertRaises((ValueError, BufferError)):
            client.batch_get(["k0"], [source[:, :1]])

    def test_keys_come_in_every_iterable(self):
        client = self.small()
        client.put("a", b"1")
        for keys in (["a", "b"], ("a", "b"), {"a": 1, "b": 2}, iter(["a", b"b"]),
                     (k for k in "ab")):
            self.assertEqual(client.batch_exists(keys), [True, False])
        for keys in ("ab", b"ab", 5, None):
            with self.assertRaisesRegex(TypeError, "keys"):
                client.batch_exists(keys)

    def test_depths_are_kept(self):
        client = self.small()
        client.batch_put(keys_of(3), [b"v"] * 3, depths=[5, 6, 7])
        client.batch_put(["one"], [b"v"], None, 9)
        client.batch_put(["flat"], [b"v"], depths=array.array("q", [3]))
        self.assertEqual([client.stat(k).depth for k in keys_of(3) + ["one", "flat"]],
                         [5, 6, 7, 9, 3])
        for depths in ([1 << 32], [-1], array.array("q", [-1])):
            with self.assertRaisesRegex(ValueError, r"depths\[0\]"):
                client.batch_put(["x"], [b"v"], depths=depths)


class Outcomes(Case):
    def test_one_bad_item_fails_alone(self):
        client = self.small()
        long = "x" * 1025
        keys = ["good", "", long, b"\xff", "null", "huge"]
        data = [b"v", b"v", b"v", b"v", (0, 5), (1, 1 << 40)]
        self.assertEqual(client.batch_put(keys, data),
                         [OK, Status.INVALID_KEY, Status.INVALID_KEY, OK, Status.INVALID_VALUE,
                          Status.TOO_LARGE])
        into = [bytearray(1), bytearray(1), bytearray(1), bytearray(2), (0, 1)]
        self.assertEqual(client.batch_get(["good", "", "miss", b"\xff", "good"], into),
                         [OK, Status.INVALID_KEY, MISS, Status.SIZE_MISMATCH,
                          Status.INVALID_VALUE])
        self.assertEqual(client.batch_exists(["good", "", long, "miss", b"\xff"]),
                         [True, False, False, False, True])
        self.assertEqual(client.batch_remove(["good", "", "miss"]),
                         [OK, Status.INVALID_KEY, MISS])

    def test_statuses_are_members_of_status(self):
        client = self.small()
        status, = client.batch_put(["k"], [b"v"])
        self.assertIs(status, Status.OK)
        self.assertTrue(status.is_success)
        status, = client.batch_put(["k"], [b"v"])
        self.assertIs(status, Status.ALREADY_EXISTS)
        self.assertTrue(status.is_success)
        status, = client.batch_get(["m"], [bytearray(1)])
        self.assertFalse(status.is_success)
        self.assertEqual(status.text, "no such key")

    def test_a_key_twice_is_stored_once(self):
        client = self.small()
        self.assertEqual(client.batch_put(["a", "a", "b"], [b"1", b"2", b"3"]), [OK, ALREADY, OK])
        one, two = bytearray(1), bytearray(1)
        self.assertEqual(client.batch_get(["a", "a"], [one, two]), [OK, OK])
        self.assertEqual((one, two), (b"1", b"1"))

    def test_leading_hits_are_counted(self):
        client = self.small()
        client.batch_put(["a", "b", "d"], [b"v"] * 3)
        for keys, hits in ((["a", "b", "c", "d"], 2), (["c", "a"], 0), (["d", "b", "a"], 3),
                           ([], 0), (["a", "", "b"], 1)):
            self.assertEqual(client.batch_exists_consecutive(keys), hits)

    def test_empty_batches_are_fine(self):
        client = self.small()
        for result in (client.batch_put([], []), client.batch_put([], [], []),
                       client.batch_get([], []), client.batch_get([], array.array("Q"), []),
                       client.batch_exists([]), client.batch_remove([]),
                       client.batch_put_ranges([], [], [], [], []),
                       client.batch_get_ranges([], [], [], [])):
            self.assertEqual(result, [])

    def test_batches_of_10000(self):
        client = self.small()
        count = 10000
        source, into = Slots(count, 16), Slots(count, 16)
        random = rng()
        source.memory[:] = random.randbytes(count * 16) if hasattr(random, "randbytes") else \
            bytes(random.getrandbits(8) for _ in range(count * 16))
        keys = keys_of(count)
        self.assertEqual(client.batch_put(keys, source.pointers, source.sizes), [OK] * count)
        self.assertEqual(client.batch_get(keys, array.array("Q", into.pointers), 16), [OK] * count)
        self.assertEqual(into.memory, source.memory)
        self.assertEqual(client.batch_exists(keys), [True] * count)
        self.assertEqual(client.batch_exists_consecutive(keys), count)
        again = [bytearray(16) for _ in range(count)]
        self.assertEqual(client.batch_get(keys, again), [OK] * count)
        self.assertEqual(b"".join(again), source.memory)
        self.assertEqual(client.batch_remove(keys), [OK] * count)

    def test_a_batch_over_the_limit_is_refused_whole(self):
        client = self.small()
        with self.assertRaises(umbp.LimitError):
            client.batch_exists(["k"] * (umbp.BATCH_MAX + 1))
        self.assertEqual(len(client.batch_exists(["k"] * umbp.BATCH_MAX)), umbp.BATCH_MAX)


class Refused(Case):
    def test_lengths_that_differ_name_both(self):
        client = self.small()
        keys = ["a", "b", "c"]
        into = [bytearray(1)] * 3
        for call, words in (
                (lambda: client.batch_put(keys, [b"1", b"2"]), "data has 2 items, keys has 3"),
                (lambda: client.batch_put(keys, [1, 2], [1, 1, 1]), "data has 2 items, keys has 3"),
                (lambda: client.batch_put(keys, [1, 2, 3], [1]), "sizes has 1 items, keys has 3"),
                (lambda: client.batch_put(keys, into, depths=[1]),
                 "depths has 1 items, keys has 3"),
                (lambda: client.batch_get(keys, into[:1]), "into has 1 items, keys has 3"),
                (lambda: client.batch_get(keys, array.array("Q", [1] * 4), [1] * 3),
                 "into has 4 items, keys has 3")):
            with self.assertRaisesRegex(ValueError, words):
                call()
        self.assertEqual(client.list(), [])

    def test_negative_and_overlarge_numbers_are_named(self):
        client = self.small()
        for sizes, words in (([1, -1], r"sizes\[1\] is negative"),
                             ([1, 1 << 64], r"sizes\[1\] is 2\*\*64 or more"),
                             ([-(1 << 70), 1], r"sizes\[0\] is negative"),
                             (array.array("q", [1, -1]), r"sizes\[1\] is negative"),
                             (array.array("i", [-1, 1]), r"sizes\[0\] is negative"),
                             (-1, "sizes is negative"), (Index(-1), "sizes is negative")):
            with self.assertRaisesRegex(ValueError, words):
                client.batch_put(["a", "b"], [8, 8], sizes)
        with self.assertRaisesRegex(ValueError, r"data\[0\] is negative"):
            client.batch_put(["a"], [-8], [1])

    def test_numbers_of_other_types_are_named(self):
        client = self.small()
        for sizes, words in ((["1"], r"sizes\[0\]"), ([1.0], r"sizes\[0\]"), ([None], r"sizes\[0\]"),
                             ("1", "sizes"), (1.5, "sizes"), (b"12345678", "sizes.*'B'"),
                             (array.array("d", [1.0]), "sizes.*'d'"),
                             (array.array("H", [1]), "sizes.*'H'"), (object(), "sizes")):
            with self.assertRaisesRegex(TypeError, words):
                client.batch_put(["a"], [8], sizes)
        with self.assertRaisesRegex(TypeError, "data: one for each key"):
            client.batch_put(["a"], 8, [1])
        with self.assertRaisesRegex(TypeError, "data: one for each key"):
            client.batch_put(["a"], Index(8), [1])
        with self.assertRaisesRegex(TypeError, r"data\[0\].*buffer protocol.*not int"):
            client.batch_put(["a"], [8])
        with self.assertRaisesRegex(ValueError, "one dimension"):
            client.batch_put(["a"], [8], memoryview(array.array("Q", [1])).cast("B").cast("Q", [1, 1]))
        for data in (b"v", "v"):
            with self.assertRaisesRegex(TypeError, "data.*sequence"):
                client.batch_put(["a"], data)

    def test_an_exception_from_an_argument_comes_through(self):
        client = self.small()

        class Bad:
            def __index__(self):
                raise ZeroDivisionError("mine")

        def keys():
            yield "a"
            raise KeyError("mine too")

        with self.assertRaises(ZeroDivisionError):
            client.batch_put(["a"], [Bad()], [1])
        with self.assertRaises(KeyError):
            client.batch_exists(keys())

    def test_an_argument_may_close_the_client_meanwhile(self):
        client = self.small()

        class Closes:
            def __index__(self):
                client.close()
                return 8

        with self.assertRaises(umbp.ClosedError):
            client.batch_put(["a"], [Closes()], [1])

    def test_buffers_are_let_go_after_errors(self):
        client = self.small()
        first = bytearray(1)
        with self.assertRaises(TypeError):
            client.batch_put(["a", "b"], [first, 5])
        first.extend(b"x")  # BufferError if it were still held
        with self.assertRaises((BufferError, TypeError)):
            client.batch_get(["a", "b"], [first, b"ro"])
        first.extend(b"x")


class Held(Case):
    """What a call uses stays as it is until the call is done, whatever other threads do."""

    def test_lists_may_change_while_a_batch_runs(self):
        client = self.small(dram={"bytes": "64MiB"})
        random = rng()
        count = 64
        values = [bytes([i]) * 4096 for i in range(count)]
        client.batch_put(keys_of(count), values)
        keys, into = keys_of(count), [bytearray(4096) for _ in range(count)]
        problems = []

        def disturb():
            i = random.randrange(count)
            keys[i] = "".join(["k", str(i)])  # another object, the same key
            into[i] = bytearray(4096)
            try:
                into[i].clear()
            except BufferError:
                pass
            into[i] = bytearray(4096)

        with threads_beside(1, disturb):
            for _ in range(300):
                statuses = client.batch_get(keys, into)
                wrong = [s for s in statuses if s not in (OK, Status.SIZE_MISMATCH)]
                if wrong:
                    problems.append(wrong)
        self.assertEqual(problems, [])

    def test_a_buffer_cannot_be_resized_while_a_call_reads_it(self):
        client = self.small(dram={"bytes": "256MiB"})
        value = bytearray(32 << 20)
        refused = threading.Event()

        def resize():
            try:
                value.append(0)
                del value[-1]
            except BufferError:
                refused.set()

        def put():
            client.put("k", value)
            client.remove("k")
            return refused.is_set()

        with threads_beside(1, resize):
            wait_until(put, "a resize is refused")


class Ranges(Case):
    def setUp(self):
        self.client = self.small()
        self.source = Slots(1, 1000)
        self.source.memory[:] = bytes(i % 253 for i in range(1000))
        self.whole = bytes(self.source.memory)

    def put(self, keys, sizes, *columns, **more):
        return self.client.batch_put_ranges(keys, sizes, *columns, **more)

    def test_pieces_that_tile_an_object_are_stored(self):
        base = self.source.base
        statuses = self.put(["a", "b"], [300, 200],
                            [[base, base + 100], [base + 500]], [[100, 200], [200]],
                            [[0, 100], [0]])
        self.assertEqual(statuses, [OK, OK])
        self.assertEqual(self.client.get("a"), self.whole[:300])
        self.assertEqual(self.client.get("b"), self.whole[500:700])

    def test_flat_and_nested_are_the_same(self):
        base = self.source.base
        pointers, sizes, offsets = [base + 100, base, base + 500], [200, 100, 200], [100, 0, 0]
        as_array = [array.array("Q", c) for c in (pointers, sizes, offsets)]
        for name, columns, counts in (
                ("lists", (pointers, sizes, offsets), [2, 1]),
                ("arrays", as_array, array.array("Q", [2, 1])),
                ("arrays 32", (as_array[0], array.array("I", sizes), array.array("i", offsets)),
                 [2, 1])):
            with self.subTest(name):
                statuses = self.put(["a", "b"], [300, 200], *columns, counts=counts, depths=[4, 5])
                self.assertEqual(statuses, [OK, OK])
                self.assertEqual(self.client.get("a"), self.whole[:300])
                self.assertEqual(self.client.get("b"), self.whole[500:700])
                self.assertEqual(self.client.stat("b").depth, 5)
                into = Slots(3, 100)
                statuses = self.client.batch_get_ranges(
                    ["a", "b"], array.array("Q", into.pointers), 100, [50, 150, 0], [2, 1])
                self.assertEqual(statuses, [OK, OK])
                self.assertEqual(bytes(into.memory), self.whole[50:250] + self.whole[500:600])
                self.client.clear()

    def test_nested_columns_may_hold_arrays_and_ints(self):
        base = self.source.base
        self.assertEqual(self.put(["a"], 300, [array.array("Q", [base, base + 100, base + 200])],
                                  100, [range(0, 300, 100)]), [OK])
        self.assertEqual(self.client.get("a"), self.whole[:300])
        into = Slots(2, 100)
        self.assertEqual(self.client.batch_get_ranges(["a", "gone"], into.pointers, 100, 0,
                                                      object_sizes=[300, 0]), [OK, MISS])
        self.assertEqual(into[0], self.whole[:100])
        for one in [Index(100)] + ([numpy.int64(100)] if numpy is not None else []):
            into.memory[:] = bytes(200)
            self.assertEqual(self.client.batch_get_ranges(["a", "a"], [[p] for p in into.pointers],
                                                          one, one), [OK, OK])
            self.assertEqual(into.memory, self.whole[100:200] * 2)
        self.assertEqual(self.client.batch_get_ranges(["a"], [into.pointers], 100, [[0, 200]],
                                                      object_sizes=[299]), [Status.SIZE_MISMATCH])

    def test_a_bad_tiling_fails_alone(self):
        base = self.source.base
        statuses = self.put(["gap", "overlap", "short", "good"], [200, 200, 200, 100],
                            [[base, base], [base, base], [base], [base]],
                            [[100, 99], [100, 100], [100], [100]],
                            [[0, 101], [0, 99], [0], [0]])
        bad = Status.INVALID_RANGE
        self.assertEqual(statuses, [bad, bad, bad, OK])
        into = Slots(1, 200)
        self.assertEqual(self.client.batch_get_ranges(
            ["good", "good"], [[into.base], [into.base]], [[101], [100]], [[0], [0]]), [bad, OK])

    def test_shapes_that_differ_are_named(self):
        for columns, words in (
                (([[1]], [[1], [1]], [[0], [0]]), "pointers has 1 items, keys has 2"),
                (([[1], [1]], [[1], [1, 1]], [[0], [0]]),
                 r"sizes\[1\] has 2 items, pointers has 1"),
                (([[1], [1]], [[1], [1]], [[0], []]), r"offsets\[1\] has 0 items"),
                (([[1], [1]], [[1], [-1]], [[0], [0]]), r"sizes\[1\]\[0\] is negative"),
                (([[1], [1]], [["x"], [1]], [[0], [0]]), r"sizes\[0\]\[0\]")):
            with self.assertRaisesRegex((ValueError, TypeError), words):
                self.put(["a", "b"], [1, 1], *columns)
        for counts, words in (([1], "counts has 1"), ([1, 2], "add up"),
                              ([3, -1], r"counts\[1\] is negative"),
                              ([1 << 63, 1 << 63], "add up"), ([0, 0], "add up")):
            with self.assertRaisesRegex(ValueError, words):
                self.put(["a", "b"], [1, 1], [1, 1], [1, 1], [0, 0], counts=counts)
        with self.assertRaisesRegex(TypeError, "pointers"):
            self.put(["a", "b"], [1, 1], [1, "x"], [1, 1], [0, 0])

    def test_many_pieces(self):
        count, pieces = 40, 61
        source, into = Slots(count * pieces, 16), Slots(count * pieces, 16)
        source.memory[:] = bytes(i * 7 % 256 for i in range(len(source.memory)))
        offsets = [16 * (i % pieces) for i in range(count * pieces)]
        self.assertEqual(self.put(keys_of(count), 16 * pieces, source.pointers, 16, offsets,
                                  counts=[pieces] * count), [OK] * count)

        def nest(column):
            return [column[i * pieces:(i + 1) * pieces] for i in range(count)]

        self.assertEqual(self.client.batch_get_ranges(
            keys_of(count), nest(into.pointers), nest(into.sizes), nest(offsets)), [OK] * count)
        self.assertEqual(into.memory, source.memory)


if __name__ == "__main__":
    unittest.main()
