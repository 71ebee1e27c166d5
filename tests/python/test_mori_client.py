# SPDX-License-Identifier: Apache-2.0
"""UMBPClient: the published calls, their results, and what stands in no caller's way."""

import ctypes
import subprocess
import sys

import mori.cpp
import mori.umbp
import pytest
from umbp_support import wait_until_others_run_during
from wait_support import run_threads, wait_until

KIB = 1024
MIB = 1024 * KIB


class Pages:
    """Memory in pages, by address."""

    def __init__(self, count, page_bytes=4 * KIB):
        self.page_bytes = page_bytes
        self.memory = (ctypes.c_ubyte * (count * page_bytes))()
        self.base = ctypes.addressof(self.memory)
        self.ptrs = [self.base + at * page_bytes for at in range(count)]
        self.sizes = [page_bytes] * count

    def fill(self, page, value):
        ctypes.memset(self.ptrs[page], value & 0xFF, self.page_bytes)

    def read(self, page, size=None):
        return ctypes.string_at(self.ptrs[page], size or self.page_bytes)


def config_of(**changes):
    config = mori.umbp.UMBPConfig()
    config.dram.capacity_bytes = 64 * MIB
    config.dram.prefault = False
    config.ssd.enabled = False
    for name, value in changes.items():
        setattr(config, name, value)
    return config


@pytest.fixture
def client():
    made = mori.umbp.UMBPClient(config_of())
    yield made
    made.close()


# ---- single values


def test_a_value_comes_back(client):
    pages = Pages(2)
    pages.fill(0, 7)
    assert client.put_from_ptr("key", pages.ptrs[0], 4096) is True
    assert client.exists("key") is True
    assert client.get_into_ptr("key", pages.ptrs[1], 4096) is True
    assert pages.read(1) == bytes([7]) * 4096


def test_putting_again_is_true_and_keeps_the_first_value(client):
    pages = Pages(2)
    pages.fill(0, 1)
    assert client.put_from_ptr("key", pages.ptrs[0], 4096) is True
    pages.fill(0, 2)
    assert client.put_from_ptr("key", pages.ptrs[0], 100) is True
    assert client.get_into_ptr("key", pages.ptrs[1], 4096) is True
    assert pages.read(1) == bytes([1]) * 4096


@pytest.mark.parametrize("size", [0, 1, 4095, 4097])
def test_another_size_than_the_stored_is_false(client, size):
    pages = Pages(3)
    assert client.put_from_ptr("key", pages.ptrs[0], 4096)
    assert client.get_into_ptr("key", pages.ptrs[1], size) is False


def test_a_miss_is_false(client):
    pages = Pages(1)
    assert client.get_into_ptr("none", pages.ptrs[0], 4096) is False
    assert client.exists("none") is False


@pytest.mark.parametrize("key", ["schlüssel", "鍵", b"\x00\xff raw", "x" * 1024])
def test_keys_are_text_or_bytes(client, key):
    pages = Pages(1)
    assert client.put_from_ptr(key, pages.ptrs[0], 10) is True
    assert client.exists(key) is True
    raw = key if isinstance(key, bytes) else key.encode()
    assert client.exists(raw) is True


@pytest.mark.parametrize("key", ["", "x" * 1025])
def test_keys_of_bad_length_are_false(client, key):
    pages = Pages(1)
    assert client.put_from_ptr(key, pages.ptrs[0], 10) is False
    assert client.get_into_ptr(key, pages.ptrs[0], 10) is False
    assert client.exists(key) is False
    assert client.batch_put_from_ptr([key, "good"], [pages.ptrs[0]] * 2, [9, 9]) == [False, True]
    assert client.batch_exists([key, "good"]) == [False, True]


def test_a_null_pointer_is_false(client):
    assert client.put_from_ptr("key", 0, 10) is False
    assert client.batch_put_from_ptr(["key"], [0], [10]) == [False]
    pages = Pages(1)
    assert client.put_from_ptr("key", pages.ptrs[0], 10)
    assert client.get_into_ptr("key", 0, 10) is False


def test_a_value_larger_than_the_tier_is_false_and_evicts_nothing(client):
    pages = Pages(1)
    assert client.put_from_ptr("small", pages.ptrs[0], 10)
    big = (ctypes.c_ubyte * (65 * MIB))()
    assert client.put_from_ptr("big", ctypes.addressof(big), 65 * MIB) is False
    assert client.exists("small") is True


# ---- batches


def test_batches_answer_for_each_key_in_order(client):
    pages = Pages(6)
    for page in range(3):
        pages.fill(page, page + 1)
    keys = ["a", "b", "c"]
    assert client.batch_put_from_ptr(keys, pages.ptrs[:3], pages.sizes[:3]) == [True] * 3
    assert client.batch_exists(["a", "x", "c"]) == [True, False, True]
    assert client.batch_exists_consecutive(["a", "b", "x", "c"]) == 2
    assert client.batch_exists_consecutive(["x", "a"]) == 0
    got = client.batch_get_into_ptr(["a", "x", "c"], pages.ptrs[3:], pages.sizes[:3])
    assert got == [True, False, True]
    assert (pages.read(3)[0], pages.read(5)[0]) == (1, 3)


def test_stored_there_already_and_refused_in_one_batch(client):
    pages = Pages(1)
    assert client.put_from_ptr("old", pages.base, 9)
    p = pages.base
    assert client.batch_put_from_ptr(["old", "new", ""], [p] * 3, [9] * 3) == [True, True, False]


def test_empty_batches_are_empty(client):
    assert client.batch_put_from_ptr([], [], []) == []
    assert client.batch_put_from_ptr_with_depth([], [], [], []) == []
    assert client.batch_get_into_ptr([], [], []) == []
    assert client.batch_exists([]) == []
    assert client.batch_exists_consecutive([]) == 0
    assert client.batch_put_ranges_from_ptr([], [], [], [], []) == []
    assert client.batch_get_ranges_into_ptr([], [], [], []) == []


def test_a_key_twice_in_a_batch_keeps_the_first_value(client):
    pages = Pages(3)
    pages.fill(0, 1)
    pages.fill(1, 2)
    assert client.batch_put_from_ptr(["k", "k"], pages.ptrs[:2], pages.sizes[:2]) == [True, True]
    assert client.get_into_ptr("k", pages.ptrs[2], 4096)
    assert pages.read(2)[0] == 1


@pytest.mark.parametrize("depths", [[0, 1, 2], [-1, -1, -1], [-1, 5, -1], [], [3], [1] * 9])
def test_depths_may_be_missing_or_minus_one(client, depths):
    pages = Pages(3)
    keys = ["a", "b", "c"]
    put = client.batch_put_from_ptr_with_depth(keys, pages.ptrs, pages.sizes, depths)
    assert put == [True] * 3
    known = [client._native.stat(key).depth for key in keys]
    wanted = [depth if depth >= 0 else None for depth in (depths + [-1] * 3)[:3]]
    assert known == wanted


def test_deep_values_leave_before_shallow_ones():
    config = config_of()
    config.dram.capacity_bytes = 1 * MIB
    config.eviction.policy = "prefix_aware_lru"
    config.eviction.candidate_window = 64
    client = mori.umbp.UMBPClient(config)
    pages = Pages(1, 64 * KIB)
    for depth in range(8):  # the root is the oldest
        assert client.batch_put_from_ptr_with_depth(
            ["d%d" % depth], pages.ptrs, pages.sizes, [depth]) == [True]
    for number in range(10):
        assert client.batch_put_from_ptr_with_depth(
            ["r%d" % number], pages.ptrs, pages.sizes, [0]) == [True]
    held = client.batch_exists(["d%d" % depth for depth in range(8)])
    assert held[0] and not held[7]


def test_a_batch_of_ten_thousand_and_one_above_the_limit_of_a_call(client):
    pages = Pages(1, 64)
    for count in (10000, 65537):
        keys = ["%d-%d" % (count, at) for at in range(count)]
        ptrs, sizes = [pages.base] * count, [64] * count
        assert client.batch_put_from_ptr(keys, ptrs, sizes) == [True] * count
        assert client.batch_get_into_ptr(keys, ptrs, sizes) == [True] * count
        assert client.batch_exists(keys) == [True] * count
        assert client.batch_exists_consecutive(keys + ["none"]) == count
        assert client.batch_put_from_ptr_with_depth(keys, ptrs, sizes, [1] * count) == [True] * count


# ---- ranges


def test_ranged_puts_tile_and_ranged_gets_pick(client):
    pages = Pages(4, 100)
    pages.fill(0, 1)
    pages.fill(1, 2)
    assert client.supports_ranged_io() is True
    assert client.batch_put_ranges_from_ptr(
        ["two", "one"], [150, 100], [[pages.ptrs[1], pages.ptrs[0]], [pages.ptrs[0]]],
        [[50, 100], [100]], [[100, 0], [0]]) == [True, True]
    assert client.batch_get_ranges_into_ptr(
        ["two", "none", "one"], [[pages.ptrs[2], pages.ptrs[3]], [pages.base], [pages.base]],
        [[10, 1], [1], [1]], [[95, 149], [0], [100]]) == [True, False, False]
    assert pages.read(2, 10) == bytes([1] * 5 + [2] * 5) and pages.read(3, 1) == bytes([2])


@pytest.mark.parametrize("sizes,offsets", [
    ([50, 49], [0, 50]), ([50, 50], [0, 49]), ([50, 51], [0, 50]), ([100, 0], [0, 100]),
    ([50, 50], [0, 2 ** 64 - 1])])
def test_badly_tiled_objects_are_false_and_their_neighbours_are_not(client, sizes, offsets):
    pages = Pages(1, 100)
    p = pages.base
    assert client.batch_put_ranges_from_ptr(
        ["bad", "good"], [100, 100], [[p, p], [p]], [sizes, [100]], [offsets, [0]]) == [False, True]
    assert client.batch_exists(["bad", "good"]) == [False, True]
    # As published: tiling is looked at before the key is.
    assert client.batch_put_ranges_from_ptr(
        ["good"], [100], [[p, p]], [sizes], [offsets]) == [False]


@pytest.mark.parametrize("ptrs,sizes,offsets", [
    ([[1]], [[10], [10]], [[0], [0]]), ([[1], [1]], [[10, 10], [10]], [[0], [0]]),
    ([[1], [1]], [[10], [10]], [[0], [0, 1]]), ([[1], [1]], [[10], [10]], [])])
def test_badly_shaped_ranges_make_every_item_false(client, ptrs, sizes, offsets):
    assert client.batch_put_ranges_from_ptr(
        ["a", "b"], [10, 10], ptrs, sizes, offsets) == [False, False]
    assert client.batch_get_ranges_into_ptr(["a", "b"], ptrs, sizes, offsets) == [False, False]


def test_offsets_go_by_the_published_names_and_by_a_plain_one(client):
    pages = Pages(1, 10)
    p = [[pages.base]]
    put, get = client.batch_put_ranges_from_ptr, client.batch_get_ranges_into_ptr
    assert put(keys=["a"], object_sizes=[10], ptrs=p, sizes=[[10]], dst_offsets=[[0]]) == [True]
    assert put(["b"], [10], p, [[10]], offsets=[[0]]) == [True]
    assert get(keys=["a"], ptrs=p, sizes=[[10]], src_offsets=[[0]]) == [True]
    assert get(["b"], p, [[10]], offsets=[[0]]) == [True]
    for wrong in ({}, {"offsets": [[0]], "dst_offsets": [[0]]}):
        with pytest.raises(TypeError, match="offsets"):
            put(["c"], [10], p, [[10]], **wrong)


# ---- what callers get wrong


def test_lists_of_different_lengths_are_a_value_error(client):
    pages = Pages(2)
    for call in (client.batch_put_from_ptr, client.batch_get_into_ptr):
        with pytest.raises(ValueError, match="keys has 2"):
            call(["a", "b"], pages.ptrs[:1], pages.sizes)
        with pytest.raises(ValueError, match="sizes has 1"):
            call(["a", "b"], pages.ptrs, pages.sizes[:1])
    assert client.batch_exists(["a", "b"]) == [False, False]


def test_negative_numbers_are_a_value_error(client):
    pages = Pages(1)
    for ptr, size in ((-1, 10), (pages.base, -10), (2 ** 64, 10)):
        with pytest.raises(ValueError):
            client.batch_put_from_ptr(["a"], [ptr], [size])
        with pytest.raises(ValueError):
            client.put_from_ptr("a", ptr, size)
    with pytest.raises(ValueError):
        client.batch_put_ranges_from_ptr(["a"], [10], [[pages.base]], [[-10]], [[0]])


@pytest.mark.parametrize("key", [None, 7, 1.5, ["a"]])
def test_keys_of_other_types_are_a_type_error(client, key):
    with pytest.raises(TypeError):
        client.put_from_ptr(key, 1, 1)
    with pytest.raises(TypeError):
        client.batch_exists(["a", key])


def test_pointers_of_other_types_are_a_type_error(client):
    with pytest.raises(TypeError):
        client.put_from_ptr("a", "1", 1)
    with pytest.raises(TypeError):
        client.batch_put_from_ptr(["a"], [1.5], [1])


def test_argument_names_are_the_published_ones(client):
    pages = Pages(1)
    p = pages.base
    assert client.put_from_ptr(key="k", src=p, size=9)
    assert client.get_into_ptr(key="k", dst=p, size=9)
    assert client.exists(key="k")
    assert client.batch_put_from_ptr(keys=["k"], ptrs=[p], sizes=[9]) == [True]
    assert client.batch_put_from_ptr_with_depth(keys=["k"], ptrs=[p], sizes=[9], depths=[1]) == [True]
    assert client.batch_get_into_ptr(keys=["k"], ptrs=[p], sizes=[9]) == [True]
    assert client.batch_exists(keys=["k"]) == [True]
    assert client.batch_exists_consecutive(keys=["k"]) == 1
    tier = mori.umbp.UMBPTierType.DRAM
    assert client.register_memory(ptr=p, size=9) is True
    assert client.deregister_memory(ptr=p) is None
    assert client.report_external_kv_blocks(hashes=["h"], tier=tier) is True
    assert client.revoke_external_kv_blocks(hashes=["h"], tier=tier) is True
    assert client.revoke_all_external_kv_blocks_at_tier(tier=tier) is True
    assert client.match_external_kv(hashes=["h"], count_as_hit=True) == []
    assert client.get_external_kv_hit_counts(hashes=["h"]) == []
    mori.umbp.UMBPClient(config=config_of()).close()


# ---- upkeep, and what it is


def test_clear_and_flush(client):
    pages = Pages(1)
    assert client.put_from_ptr("a", pages.base, 10)
    assert client.flush() is True
    assert client.clear() is True
    assert client.exists("a") is False


def test_it_is_local_and_says_so(client):
    mode = mori.umbp.UMBPDeploymentMode
    assert client.is_distributed() is False
    assert client.get_deployment_mode() is mode.Local
    assert type(client.get_backend_mode()).StandaloneProcess is mode.StandaloneProcess
    assert client.get_backend_mode().name == "Local"


def test_memory_that_the_cpu_can_not_read_is_not_registered(client):
    pages = Pages(1)
    cpu, gpu = mori.cpp.MemoryLocationType.CPU, mori.cpp.MemoryLocationType.GPU
    assert client.register_memory(pages.base, pages.page_bytes) is True
    assert client.register_memory(pages.base, pages.page_bytes) is True
    assert client.register_memory(pages.base, 1, cpu, -1) is True
    assert client.register_memory(pages.base, 1, gpu, 0) is False
    assert client.register_memory(0, 10) is False
    assert client.register_memory(pages.base, 0) is False
    assert client.register_memory(1 << 20, 10) is False
    import mmap
    with mmap.mmap(-1, 4096) as mapped:
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        assert client.register_memory(address, 4096) is True
    assert client.register_memory(address, 4096) is False  # unmapped


def test_tiers_are_tiers(client):
    with pytest.raises(TypeError, match="UMBPTierType"):
        client.report_external_kv_blocks(["h"], 2)


def test_after_close_everything_is_false(client):
    pages = Pages(1)
    p = pages.base
    assert client.put_from_ptr("a", p, 10)
    client.close()
    client.close()
    assert client.put_from_ptr("b", p, 10) is False
    assert client.get_into_ptr("a", p, 10) is False
    assert client.exists("a") is False
    assert client.batch_put_from_ptr(["b"], [p], [10]) == [False]
    assert client.batch_put_from_ptr_with_depth(["b"], [p], [10], [1]) == [False]
    assert client.batch_get_into_ptr(["a", "b"], [p, p], [10, 10]) == [False, False]
    assert client.batch_exists(["a"]) == [False]
    assert client.batch_exists_consecutive(["a"]) == 0
    assert client.batch_put_ranges_from_ptr(["b"], [10], [[p]], [[10]], [[0]]) == [False]
    assert client.batch_get_ranges_into_ptr(["a"], [[p]], [[10]], [[0]]) == [False]
    assert client.clear() is False and client.flush() is False
    assert client.get_deployment_mode() is mori.umbp.UMBPDeploymentMode.Local


def test_the_last_reference_is_the_end(tmp_path):
    config = config_of()
    config.ssd.enabled = True
    config.ssd.storage_dir = str(tmp_path / "a" / "b")
    config.ssd.capacity_bytes = 16 * MIB
    pages = Pages(1)
    client = mori.umbp.UMBPClient(config)
    assert client.put_from_ptr("a", pages.base, 10)
    with pytest.raises(RuntimeError, match="in use by process"):
        mori.umbp.UMBPClient(config)
    del client
    again = mori.umbp.UMBPClient(config)  # the directory is free, and nothing is lost
    assert again.get_into_ptr("a", pages.base, 10) is True
    again.close()


def test_a_follower_reads_and_its_puts_are_false(tmp_path):
    def made(role):
        config = config_of(role=role)
        config.ssd.enabled = True
        config.ssd.storage_dir = str(tmp_path / "shared")
        config.ssd.capacity_bytes = 16 * MIB
        return mori.umbp.UMBPClient(config)

    roles = mori.umbp.UMBPRole
    follower = made(roles.SharedSSDFollower)
    leader = made(roles.SharedSSDLeader)
    pages = Pages(2)
    pages.fill(0, 9)
    p = pages.base
    assert leader.put_from_ptr("a", p, 4096) and leader.flush()
    wait_until(lambda: follower.exists("a"), "the follower has read the log")
    assert follower.get_into_ptr("a", pages.ptrs[1], 4096) and pages.read(1) == pages.read(0)
    assert follower.supports_ranged_io() is False
    assert follower.put_from_ptr("b", p, 10) is False
    assert follower.batch_put_from_ptr(["b"], [p], [10]) == [False]
    assert follower.batch_put_from_ptr_with_depth(["b"], [p], [10], [0]) == [False]
    assert follower.batch_put_ranges_from_ptr(["b"], [10], [[p]], [[10]], [[0]]) == [False]
    assert follower.exists("b") is False
    assert follower.clear() is True and leader.exists("a") is True
    follower.close(), leader.close()


def test_threads_run_beside_one_another_while_a_batch_copies(client):
    pages = Pages(4, 8 * MIB)
    keys = ["a", "b", "c", "d"]
    assert client.batch_put_from_ptr(keys, pages.ptrs, pages.sizes) == [True] * 4
    wait_until_others_run_during(
        lambda: client.batch_get_into_ptr(keys, pages.ptrs, pages.sizes))


def test_many_threads_on_one_client(client):
    def work(number):
        pages = Pages(16)
        for turn in range(20):
            keys = ["%d.%d.%d" % (number, turn, at) for at in range(8)]
            for at in range(8):
                pages.fill(at, number * 31 + turn * 7 + at)
            assert client.batch_put_from_ptr(keys, pages.ptrs[:8], pages.sizes[:8]) == [True] * 8
            assert client.batch_get_into_ptr(keys, pages.ptrs[8:], pages.sizes[:8]) == [True] * 8
            assert [pages.read(at) for at in range(8)] == [pages.read(at) for at in range(8, 16)]

    run_threads(8, work)


def test_in_a_forked_child_everything_is_false_and_a_client_of_its_own_works():
    code = """
import ctypes, os, sys, mori.umbp as u
def made():
    c = u.UMBPConfig(); c.dram.capacity_bytes = 8 << 20; c.ssd.enabled = False
    return u.UMBPClient(c)
data = (ctypes.c_ubyte * 64)(); p = ctypes.addressof(data)
client = made()
assert client.put_from_ptr("a", p, 64)
pid = os.fork()
if pid == 0:
    bad = client.exists("a") or client.get_into_ptr("a", p, 64) or client.put_from_ptr("b", p, 64)
    bad = bad or client.batch_exists(["a"]) != [False] or client.flush()
    own = made()
    good = own.put_from_ptr("c", p, 64) and own.exists("c")
    os._exit(0 if good and not bad else 1)
_, status = os.waitpid(pid, 0)
assert status == 0, status
assert client.exists("a") and not client.exists("c")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_no_reference_is_left_behind(client):
    pages = Pages(4)
    keys = ["key%d" % at for at in range(4)]
    absent = ["absent%d" % at for at in range(4)]

    def all_calls():
        client.batch_put_from_ptr(keys, pages.ptrs, pages.sizes)
        client.batch_put_from_ptr_with_depth(keys, pages.ptrs, pages.sizes, [-1, 1])
        client.batch_get_into_ptr(keys + absent, pages.ptrs * 2, pages.sizes * 2)
        client.batch_exists(keys)
        client.batch_exists_consecutive(keys)
        client.batch_put_ranges_from_ptr(keys, [4096] * 4, [[p] for p in pages.ptrs],
                                         [[4096]] * 4, [[0]] * 4)
        client.get_into_ptr("none", pages.base, 1)

    for _ in range(50):
        all_calls()
    before = [sys.getrefcount(thing) for thing in (keys[0], pages.ptrs[0], None, keys)]
    blocks = sys.getallocatedblocks()
    for _ in range(500):
        all_calls()
    after = [sys.getrefcount(thing) for thing in (keys[0], pages.ptrs[0], None, keys)]
    assert all(abs(new - old) < 20 for new, old in zip(after, before)), (before, after)
    assert abs(sys.getallocatedblocks() - blocks) < 200


# ---- creation


@pytest.mark.parametrize("change,words", [
    (lambda c: setattr(c.dram, "capacity_bytes", 0), "dram.capacity_bytes must be > 0"),
    (lambda c: setattr(c.ssd, "capacity_bytes", 0), "ssd.capacity_bytes must be > 0"),
    (lambda c: setattr(c.ssd, "segment_size_bytes", 0), "ssd.segment_size_bytes must be > 0"),
    (lambda c: (setattr(c.dram, "use_hugepages", True), setattr(c.dram, "hugepage_size", 3)),
     "power of two"),
    (lambda c: setattr(c.copy_pipeline, "queue_depth", 0), "copy_pipeline.queue_depth"),
    (lambda c: setattr(c.copy_pipeline, "worker_threads", 0), "copy_pipeline.worker_threads"),
    (lambda c: setattr(c.copy_pipeline, "batch_max_ops", 0), "copy_pipeline.batch_max_ops"),
    (lambda c: setattr(c.ssd, "spdk_proxy_max_channels", 0), "spdk_proxy_max_channels"),
    (lambda c: setattr(c.ssd, "high_watermark", 0.7), "0 < low_watermark < high_watermark"),
    (lambda c: setattr(c.ssd, "ssd_backend", "floppy"), "must be one of: file"),
    (lambda c: setattr(c.ssd, "ssd_backend", "spdk"), "does not have"),
    (lambda c: setattr(c, "distributed", mori.umbp.UMBPDistributedConfig()),
     "master_address must not be empty"),
    (lambda c: setattr(c, "standalone_process", mori.umbp.UMBPStandaloneProcessConfig()),
     "address must not be empty"),
])
def test_what_can_not_be_used_is_refused_by_name(tmp_path, change, words):
    config = config_of()
    config.ssd.enabled = True
    config.ssd.storage_dir = str(tmp_path / "d")
    change(config)
    with pytest.raises(RuntimeError, match="invalid UMBP config: .*" + words):
        mori.umbp.UMBPClient(config)
    assert not (tmp_path / "d").exists()


def test_the_node_daemon_is_refused_with_what_to_do():
    config = config_of()
    config.distributed = mori.umbp.UMBPDistributedConfig()
    master = config.distributed.master_config
    master.master_address, master.node_id, master.node_address = "m:1", "n", "a"
    config.standalone_process = mori.umbp.UMBPStandaloneProcessConfig()
    with pytest.raises(RuntimeError, match="mutually exclusive"):
        mori.umbp.UMBPClient(config)
    config.distributed = None
    config.standalone_process.address = "unix:///x"
    with pytest.raises(RuntimeError, match="no node daemon"):
        mori.umbp.UMBPClient(config)


def test_a_directory_that_can_not_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    config = config_of()
    config.ssd.enabled = True
    config.ssd.storage_dir = str(tmp_path / "file" / "below")
    with pytest.raises(RuntimeError, match="file/below"):
        mori.umbp.UMBPClient(config)


def test_something_else_than_a_config_is_a_type_error():
    with pytest.raises(TypeError, match="UMBPConfig"):
        mori.umbp.UMBPClient({"dram": 1})
