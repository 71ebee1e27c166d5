# SPDX-License-Identifier: Apache-2.0
"""SGLang's own UMBPStore and host allocator, unchanged, over umbp."""

import pytest
import sglang_support
from sglang_support import keys_of, roundtrip
from wait_support import wait_until


@pytest.fixture(scope="module", autouse=True)
def sglang():
    sglang_support.or_skip()


@pytest.fixture
def store_of(monkeypatch):
    """store_of(pool=None, extra={...}, **ranks): a store by SGLang's own factory."""
    from sglang.srt.mem_cache.storage import StorageBackendFactory

    for name in ("LOCAL_RANK", "UMBP_ROLE", "UMBP_MASTER_ADDRESS", "UMBP_STANDALONE_ADDRESS",
                 "SGLANG_DP_RANK", "UMBP_SSD_DIR", "UMBP_DRAM_CAPACITY"):
        monkeypatch.delenv(name, raising=False)
    stores = []

    def make(pool=None, extra=None, **ranks):
        settings = {"dram_capacity_bytes": 64 << 20, "ssd_enabled": False}
        settings.update(extra or {})
        config = sglang_support.storage_config(extra_config=settings, **ranks)
        store = StorageBackendFactory.create_backend("mori", config, pool)
        if pool is not None:
            store.register_mem_pool_host(pool)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


def test_it_is_sglangs_own_file_and_class(store_of):
    from sglang.srt.mem_cache.storage.umbp import umbp_store

    assert umbp_store.__file__.startswith(sglang_support.folder())
    assert type(store_of()) is umbp_store.UMBPStore


@pytest.mark.parametrize("mla", [False, True])
def test_pages_come_back_whole(store_of, mla):
    pool = sglang_support.host_pool(mla=mla)
    store = store_of(pool, is_mla_model=mla)
    assert roundtrip(store, pool)
    assert store.batch_exists(keys_of(0, 1, 2, 9, 1)) == 3


def test_pages_of_split_heads_come_back_at_another_tensor_parallelism(store_of):
    pool = sglang_support.host_pool(layout="page_head", heads=4)
    split = {"tp_lcm_size": 4, "should_split_heads": True}
    store = store_of(pool, tp_size=2, **split)
    keys = keys_of(0, 1)
    pool.fill(0, 5), pool.fill(1, 6)
    before = pool.content(0), pool.content(1)
    assert store.batch_set_v1(keys, pool.indices([0, 1])) == [True, True]
    assert all(store.client.exists("%s_%d_%s" % (keys[0], rank, part))
               for rank in (0, 1) for part in "kv")
    pool.wipe(0), pool.wipe(1)
    assert store.batch_get_v1(keys, pool.indices([0, 1])) == [True, True]
    assert (pool.content(0), pool.content(1)) == before
    # Rank 1 of 4 has the second half of the heads of rank 0 of 2.
    part = sglang_support.host_pool(layout="page_head", heads=2, row_bytes=pool.row_bytes // 2)
    other = store_of(part, tp_size=4, tp_rank=1, **split)
    other.client = store.client
    assert other.batch_get_v1(keys, part.indices([0, 1])) == [True, True]
    half = part.part_bytes
    assert [part.content(page) for page in (0, 1)] == [
        whole[half:2 * half] + whole[3 * half:] for whole in before]


def test_the_first_value_stays_and_putting_again_is_a_success(store_of):
    pool = sglang_support.host_pool()
    store = store_of(pool)
    pool.fill(0, 1)
    first = pool.content(0)
    assert store.batch_set_v1(keys_of(0), pool.indices([0])) == [True]
    pool.fill(0, 2)
    assert store.batch_set_v1(keys_of(0), pool.indices([0])) == [True]
    assert store.batch_get_v1(keys_of(0), pool.indices([0])) == [True]
    assert pool.content(0) == first


def test_clear_forgets_everything(store_of):
    pool = sglang_support.host_pool()
    store = store_of(pool)
    assert roundtrip(store, pool)
    store.clear()
    assert store.batch_exists(keys_of(0, 1, 2)) == 0
    assert store.batch_get_v1(keys_of(0), pool.indices([0])) == [False]


def test_a_missing_page_is_false_and_its_neighbours_are_not(store_of):
    pool = sglang_support.host_pool()
    store = store_of(pool)
    assert roundtrip(store, pool, pages=(0, 2))
    assert store.batch_get_v1(keys_of(0, 1, 2), pool.indices([0, 1, 2])) == [True, False, True]


def test_deep_pages_leave_before_their_prefix(store_of):
    pool = sglang_support.host_pool(pages=64, row_bytes=4096, layers=4, page_size=4)
    page_bytes = 2 * pool.part_bytes
    store = store_of(pool, {"dram_capacity_bytes": 16 * page_bytes,
                            "eviction_policy": "prefix_aware_lru",
                            "eviction_candidate_window": 64})
    sglang_support.put_a_chain_and_others(store, pool)
    held = store.batch_exists(keys_of(*range(12)))
    assert 0 < held < 12, "the root is held and the leaf is not"


def test_the_calls_before_v1_work(store_of):
    import torch

    store = store_of()
    source = torch.arange(256, dtype=torch.uint8)
    target = torch.zeros(256, dtype=torch.uint8)
    assert store.set("one", None, source.data_ptr(), 256)
    assert store.exists("one") and not store.exists("two")
    assert store.get("one", target.data_ptr(), 256) == target.data_ptr()
    assert torch.equal(source, target)
    assert store.get("one", target.data_ptr(), 255) is None
    pointers = [source.data_ptr(), source.data_ptr() + 128]
    assert store.batch_set(["a", "b"], None, pointers, [128, 128])
    assert store.batch_get(["a", "b", "c"], pointers + [target.data_ptr()], [128, 128, 9]) == 2


def test_pools_beside_the_kv_go_by_v2(store_of):
    from sglang.srt.mem_cache.hicache_storage import PoolHitPolicy, PoolName, PoolTransfer

    pool, side = sglang_support.host_pool(), sglang_support.host_pool(row_bytes=32)
    store = store_of(pool)
    store.register_mem_host_pool_v2(side, PoolName.SWA)
    pages = list(range(6))
    assert roundtrip(store, pool, pages)
    for page in pages:
        side.fill(page, 100 + page)
    before = [side.content(page) for page in pages]

    def transfer(some, policy=PoolHitPolicy.ALL_PAGES):
        return PoolTransfer(PoolName.SWA, host_indices=side.indices(some), keys=keys_of(*some),
                            hit_policy=policy)

    assert store.batch_set_v2([transfer([0, 1, 2, 4])]) == {PoolName.SWA: [True] * 4}
    found = store.batch_exists_v2(keys_of(*pages), [transfer(pages)])
    assert (found.kv_hit_pages, found.extra_pool_hit_pages[PoolName.SWA]) == (3, 3)
    trailing = PoolTransfer(PoolName.SWA, keys=keys_of(0), hit_policy=PoolHitPolicy.TRAILING_PAGES)
    assert store.batch_exists_v2(keys_of(*pages), [trailing]).kv_hit_pages == 5
    for page in pages:
        side.wipe(page)
    assert store.batch_get_v2([transfer([0, 1, 3])]) == {PoolName.SWA: [True, True, False]}
    assert [side.content(page) for page in (0, 1)] == before[:2]


def test_pages_survive_on_the_ssd_in_segments(store_of, tmp_path):
    pool = sglang_support.host_pool(pages=64, row_bytes=4096)
    page_bytes = 2 * pool.part_bytes
    extra = {"dram_capacity_bytes": 8 * page_bytes, "ssd_enabled": True,
             "ssd_storage_dir": str(tmp_path / "deep" / "er"), "ssd_capacity_bytes": 64 << 20,
             "ssd_segment_size_bytes": 1 << 20, "ssd_io_backend": "posix",
             "ssd_durability_mode": "relaxed", "ssd_copy_worker_threads": 1}
    store = store_of(pool, extra)
    pages = list(range(32))  # four times what memory holds
    before = []
    for page in pages:
        pool.fill(page, page + 1)
        before.append(pool.content(page))
        assert store.batch_set_v1(keys_of(page), pool.indices([page])) == [True]
        assert store.flush()
    assert store.batch_exists(keys_of(*pages)) == 32
    for page in pages:
        pool.wipe(page)
    for page in pages:
        assert store.batch_get_v1(keys_of(page), pool.indices([page])) == [True]
    assert [pool.content(page) for page in pages] == before
    assert list((tmp_path / "deep" / "er").iterdir())
    # And after a restart.
    store.close()
    again = store_of(pool, extra)
    assert again.batch_exists(keys_of(*pages)) == 32


def test_followers_read_what_their_leader_wrote(store_of, tmp_path):
    pool = sglang_support.host_pool(mla=True)
    extra = {"ssd_storage_dir": str(tmp_path / "shared"), "ssd_capacity_bytes": 16 << 20}
    ranks = {"is_mla_model": True, "tp_size": 3}
    early = store_of(pool, extra, tp_rank=1, **ranks)  # before there is a leader
    leader = store_of(pool, extra, tp_rank=0, **ranks)
    late = store_of(pool, extra, tp_rank=2, **ranks)
    assert not leader.is_mla_follower and early.is_mla_follower and late.is_mla_follower
    assert roundtrip(leader, pool, pages=(0, 1))
    assert leader.flush()
    before = pool.content(0), pool.content(1)
    for follower in (early, late):
        wait_until(lambda: follower.batch_exists(keys_of(0, 1)) == 2, "it has read the log")
        pool.wipe(0), pool.wipe(1)
        assert follower.batch_get_v1(keys_of(0, 1), pool.indices([0, 1])) == [True, True]
        assert (pool.content(0), pool.content(1)) == before
        # SGLang says True for a follower; the client itself refuses.
        assert follower.batch_set_v1(keys_of(7), pool.indices([7])) == [True]
        assert follower.client.put_from_ptr("x", pool.kv_buffer.data_ptr(), 8) is False
        assert not leader.exists(keys_of(7)[0] + "__k")


def test_ranks_without_mla_have_directories_of_their_own(store_of, tmp_path):
    extra = {"ssd_enabled": True, "ssd_storage_dir": str(tmp_path), "ssd_capacity_bytes": 16 << 20}
    for rank in (0, 1):
        pool = sglang_support.host_pool()
        assert roundtrip(store_of(pool, extra, tp_rank=rank, tp_size=2), pool)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["tp0", "tp1"]


@pytest.mark.parametrize("hugepages", ["0", "1"])
def test_sglangs_host_tensors_come_from_umbp(store_of, monkeypatch, hugepages):
    monkeypatch.setenv("SGLANG_HICACHE_HOST_HUGEPAGE", hugepages)
    pool = sglang_support.host_pool(allocator_type="mori")
    assert type(pool.allocator).__name__ == "UMBPHostTensorAllocator"
    assert pool.allocator.mapped_size_for(pool.kv_buffer.data_ptr()) >= pool.kv_buffer.numel()
    assert roundtrip(store_of(pool), pool)


def test_many_threads_read_and_write_their_own_bytes(store_of):
    pool = sglang_support.host_pool(pages=64, row_bytes=1024)
    sglang_support.read_and_write_in_threads(store_of(pool), pool)


def test_the_node_daemon_is_refused_with_a_reason(store_of, monkeypatch):
    monkeypatch.setenv("UMBP_STANDALONE_ADDRESS", "unix:///nowhere")
    with pytest.raises(RuntimeError, match="no node daemon"):
        store_of()


def test_a_closed_store_is_closed_for_good(store_of, tmp_path):
    extra = {"ssd_enabled": True, "ssd_storage_dir": str(tmp_path), "ssd_capacity_bytes": 16 << 20}
    store = store_of(extra=extra)
    store.close()
    store.close()
    store_of(extra=extra)  # the directory is free again
