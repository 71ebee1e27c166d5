# SPDX-License-Identifier: Apache-2.0
"""Our own SGLang backend, made as SGLang makes it: by its factory, from a module path."""

import os

import pytest
import sglang_support
from sglang_support import keys_of, roundtrip
from wait_support import wait_until


@pytest.fixture(scope="module", autouse=True)
def sglang():
    sglang_support.or_skip()


@pytest.fixture
def store_of(monkeypatch):
    """store_of(pool=None, options={...}, **ranks): through SGLang's factory and registrations."""
    from sglang.srt.mem_cache.storage import StorageBackendFactory

    for name in ("LOCAL_RANK", "UMBP_ROLE", "UMBP_SSD_DIR", "UMBP_DRAM_CAPACITY"):
        monkeypatch.delenv(name, raising=False)
    stores = []

    def make(pool=None, options=None, interface_v1=1, more=None, **ranks):
        extra = {"backend_name": "umbp", "module_path": "umbp.sglang",
                 "class_name": "UmbpStorage", "interface_v1": interface_v1,
                 "umbp": dict({"dram.bytes": "64MiB"}, **(options or {}))}
        extra.update(more or {})
        config = sglang_support.storage_config(extra_config=extra, **ranks)
        store = StorageBackendFactory.create_backend("dynamic", config, pool)
        stores.append(store)
        if pool is not None:
            store.register_mem_pool_host(pool)
        store.on_host_pools_registered()
        return store

    yield make
    for store in stores:
        store.close()


@pytest.mark.parametrize("layout", ["page_first", "layer_first"])
@pytest.mark.parametrize("mla", [False, True])
def test_pages_come_back_whole_in_any_layout(store_of, layout, mla):
    pool = sglang_support.host_pool(mla=mla, layout=layout)
    store = store_of(pool, is_mla_model=mla)
    assert roundtrip(store, pool)
    assert store.batch_exists(keys_of(0, 1, 2, 9, 1)) == 3
    assert store.exists(keys_of(2)[0]) and not store.exists(keys_of(3)[0])


def test_a_page_is_one_value(store_of):
    pool = sglang_support.host_pool(layout="layer_first")
    store = store_of(pool)
    assert roundtrip(store, pool)
    assert store._client.stats()["keys"] == 3


def test_a_missing_page_is_false_and_its_neighbours_are_not(store_of):
    pool = sglang_support.host_pool()
    store = store_of(pool)
    assert roundtrip(store, pool, pages=(0, 2))
    assert store.batch_get_v1(keys_of(0, 1, 2), pool.indices([0, 1, 2])) == [True, False, True]


def test_the_first_value_stays_and_clear_forgets_it(store_of):
    pool = sglang_support.host_pool()
    store = store_of(pool)
    pool.fill(0, 1)
    first = pool.content(0)
    for seed in (1, 2):
        pool.fill(0, seed)
        assert store.batch_set_v1(keys_of(0), pool.indices([0])) == [True]
    assert store.batch_get_v1(keys_of(0), pool.indices([0])) == [True]
    assert pool.content(0) == first
    store.clear()
    assert store.batch_exists(keys_of(0)) == 0
    assert store.batch_get_v1(keys_of(0), pool.indices([0])) == [False]


@pytest.mark.parametrize("change", [
    {"model_name": "another/model"}, {"tp_size": 2}, {"tp_rank": 1, "tp_size": 2},
    {"pp_size": 2}, {"attn_cp_size": 2}, {"pool": {"page_size": 8}}, {"pool": {"row_bytes": 128}},
    {"pool": {"layout": "layer_first"}}, {"pool": {"layers": 6, "row_bytes": 32}},
])
def test_what_another_model_rank_or_layout_wrote_is_not_found(store_of, change):
    # The values are in one store on purpose: only the keys can keep them apart.
    change = dict(change)
    other = sglang_support.host_pool(**change.pop("pool", {}))
    pool = sglang_support.host_pool()
    first = store_of(pool)
    assert roundtrip(first, pool)
    second = store_of(other, **change)
    second._client.close()
    second._client = first._client
    assert second.batch_exists(keys_of(0, 1, 2)) == 0
    assert second.batch_get_v1(keys_of(0), other.indices([0])) == [False]


def test_split_heads_are_values_of_their_own_at_the_depth_of_their_page(store_of):
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorageExtraInfo

    pool = sglang_support.host_pool(layout="page_head", heads=4)
    split = {"tp_lcm_size": 4, "should_split_heads": True}
    two = store_of(pool, tp_size=2, **split)
    info = HiCacheStorageExtraInfo(prefix_keys=keys_of(7, 8, 9))
    assert roundtrip(two, pool, pages=(0, 1), extra_info=info)
    assert sorted(entry.depth for entry in two._client.list()) == [3, 3, 4, 4]
    assert two.batch_exists(keys_of(0, 1, 2)) == 2


def test_deep_pages_leave_before_their_prefix(store_of):
    pool = sglang_support.host_pool(pages=64, row_bytes=4096, layers=4, page_size=4)
    store = store_of(pool, {"dram.bytes": 32 * pool.part_bytes,
                            "eviction.policy": "prefix_aware_lru",
                            "eviction.candidate_window": 64})
    sglang_support.put_a_chain_and_others(store, pool)
    assert 0 < store.batch_exists(keys_of(*range(12))) < 12


def test_the_interface_of_whole_tensors_works(store_of):
    import torch

    pool = sglang_support.host_pool()
    store = store_of(pool, interface_v1=0)
    pages = (0, 1, 2)
    for page in pages:
        pool.fill(page, page)
    before = [pool.content(page) for page in pages]
    data = [pool.get_data_page(page * pool.page_size) for page in pages]
    assert store.batch_set(keys_of(*pages), data) is True
    assert store.batch_exists(keys_of(0, 1, 2, 3)) == 3
    targets = [pool.get_dummy_flat_data_page() for _ in range(4)]
    found = store.batch_get(keys_of(0, 1, 2, 3), targets)
    assert [tensor is None for tensor in found] == [False, False, False, True]
    for page, tensor in zip(pages, found):
        pool.set_from_flat_data_page(page * pool.page_size, tensor)
    assert [pool.content(page) for page in pages] == before
    assert store.set("single", torch.ones(7)) and torch.equal(
        store.get("single", torch.zeros(7)), torch.ones(7))
    assert store.get("single", torch.zeros(8)) is None
    with pytest.raises(ValueError, match="contiguous"):
        store.get("single", torch.zeros(7, 2)[:, 0])


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

    def transfer(some):
        return PoolTransfer(PoolName.SWA, host_indices=side.indices(some), keys=keys_of(*some))

    assert store.batch_set_v2([transfer([0, 1, 2, 4, 5])]) == {PoolName.SWA: [True] * 5}
    found = store.batch_exists_v2(keys_of(*pages), [transfer(pages)])
    assert (found.kv_hit_pages, found.extra_pool_hit_pages[PoolName.SWA]) == (3, 3)
    assert found.restorable_prefix_pages == [1, 2, 3]
    trailing = PoolTransfer(PoolName.SWA, keys=keys_of(0, 1),
                            hit_policy=PoolHitPolicy.TRAILING_PAGES)
    found = store.batch_exists_v2(keys_of(*pages), [trailing])
    assert (found.kv_hit_pages, found.restorable_prefix_pages) == (6, [1, 2, 3, 6])
    for page in pages:
        side.wipe(page)
    assert store.batch_get_v2([transfer([0, 1, 3])]) == {PoolName.SWA: [True, True, False]}
    assert [side.content(page) for page in (0, 1)] == before[:2]
    with pytest.raises(ValueError, match="no host pool mamba"):
        store.batch_get_v2([PoolTransfer(PoolName.MAMBA, keys=["x"],
                                         host_indices=side.indices([0]))])


def test_the_answers_of_v2_are_those_of_sglangs_file_backend(store_of, tmp_path):
    import random

    from sglang.srt.mem_cache.hicache_storage import (
        HiCacheFile, PoolHitPolicy, PoolName, PoolTransfer)

    wish = os.environ.get("UMBP_TEST_SEED", "20240607")
    seed = random.randrange(1 << 32) if wish == "random" else int(wish, 0)
    print("seed", seed)
    random.seed(seed)
    pool, side = sglang_support.host_pool(), sglang_support.host_pool(row_bytes=32)
    ours = store_of(pool)
    theirs = HiCacheFile(sglang_support.storage_config(), str(tmp_path))
    for store in (ours, theirs):
        store.register_mem_pool_host(pool)
        store.register_mem_host_pool_v2(pool, PoolName.KV)
        store.register_mem_host_pool_v2(side, PoolName.SWA)
    for turn in range(12):
        base = 100 * (turn + 1)
        for number in range(8):
            name = keys_of(base + number)
            if random.random() < 0.85:
                kv = PoolTransfer(PoolName.KV, host_indices=pool.indices([0]), keys=name)
                ours.batch_set_v1(name, pool.indices([0]))
                theirs.batch_set_v2([kv])
            if random.random() < 0.6:
                swa = PoolTransfer(PoolName.SWA, host_indices=side.indices([0]), keys=name)
                assert ours.batch_set_v2([swa]) == theirs.batch_set_v2([swa])
        asked = keys_of(*range(base, base + 8))
        for policy in (PoolHitPolicy.ALL_PAGES, PoolHitPolicy.TRAILING_PAGES):
            for trailing in (1, 2, 3):
                question = PoolTransfer(PoolName.SWA, keys=asked[:trailing], hit_policy=policy)
                assert ours.batch_exists_v2(asked, [question]) == theirs.batch_exists_v2(
                    asked, [question])


def test_values_are_served_after_a_restart(store_of, tmp_path):
    pool = sglang_support.host_pool()
    options = {"ssd.dir": str(tmp_path / "cache"), "ssd.bytes": "16MiB"}
    store = store_of(pool, options, tp_rank=1, tp_size=2)
    assert roundtrip(store, pool)
    before = [pool.content(page) for page in (0, 1, 2)]
    store.close()
    again = store_of(pool, options, tp_rank=1, tp_size=2)
    for page in (0, 1, 2):
        pool.wipe(page)
    assert again.batch_get_v1(keys_of(0, 1, 2), pool.indices([0, 1, 2])) == [True] * 3
    assert [pool.content(page) for page in (0, 1, 2)] == before
    assert (tmp_path / "cache" / "test-model" / "tp1of2" / "umbp.super").exists()


def test_ranks_that_hold_the_same_bytes_share_one_directory(store_of, tmp_path):
    pool = sglang_support.host_pool(mla=True)
    options = {"ssd.dir": str(tmp_path), "ssd.bytes": "16MiB"}
    ranks = {"is_mla_model": True, "tp_size": 2}
    follower = store_of(pool, options, tp_rank=1, **ranks)
    leader = store_of(pool, options, tp_rank=0, **ranks)
    assert roundtrip(leader, pool, pages=(0, 1))
    assert leader.flush()
    before = pool.content(0), pool.content(1)
    wait_until(lambda: follower.batch_exists(keys_of(0, 1)) == 2, "the follower has read the log")
    pool.wipe(0), pool.wipe(1)
    assert follower.batch_get_v1(keys_of(0, 1), pool.indices([0, 1])) == [True, True]
    assert (pool.content(0), pool.content(1)) == before
    assert follower.batch_set_v1(keys_of(7), pool.indices([7])) == [False]


def test_ranks_that_hold_the_same_bytes_need_a_directory(store_of):
    with pytest.raises(ValueError, match="name one in ssd.dir"):
        store_of(is_mla_model=True, tp_size=2)


def test_a_wrong_option_is_named(store_of):
    import umbp

    with pytest.raises(umbp.Error, match="dram.bytes"):
        store_of(options={"dram.byte": "1GiB"})
    with pytest.raises(ValueError, match="chooses the role itself"):
        store_of(options={"role": "leader"})


def test_options_come_from_a_file_the_environment_and_the_dictionary(
        store_of, tmp_path, monkeypatch):
    file = tmp_path / "umbp.conf"
    file.write_text("[dram]\nbytes = 8MiB\n[eviction]\npolicy = s3fifo\n[copy]\nworkers = 3\n")
    monkeypatch.setenv("UMBP_EVICTION_POLICY", "prefix_aware_lru")
    monkeypatch.setenv("UMBP_COPY_WORKERS", "4")
    monkeypatch.setenv("UMBP_PROMOTE_ON_READ", "no")
    store = store_of(options={"copy": {"workers": 5}, "promote.on_read": True},
                     more={"umbp_config": str(file)})
    config = store._config
    assert config["promote.on_read"] is True  # the default, said against the environment
    assert (config["eviction.policy"], config["copy.workers"]) == ("prefix_aware_lru", 5)
    assert config["dram.bytes"] == 64 << 20  # the dictionary's


def test_a_logical_anchor_holds_nothing_and_answers_yes(store_of):
    from sglang.srt.mem_cache.memory_pool_host import LogicalHostPool

    anchor = LogicalHostPool(64, 4)
    store = store_of(anchor)
    import torch

    assert store.batch_set_v1(keys_of(0), torch.arange(4)) == [True]
    assert store.batch_get_v1(keys_of(0), torch.arange(4)) == [True]
    assert store.batch_exists_v2(keys_of(0, 1)).kv_hit_pages == 2


def test_a_pool_that_does_not_say_where_its_pages_are_is_refused(store_of):
    pool = sglang_support.host_pool(layout="page_head")
    pool.get_page_buffer_meta = None
    with pytest.raises(ValueError, match="does not say where its pages are"):
        store_of(pool)


def test_after_close_everything_is_a_miss_and_nothing_raises(store_of, caplog):
    pool = sglang_support.host_pool()
    store = store_of(pool)
    assert roundtrip(store, pool)
    store.close()
    store.close()
    assert store.batch_exists(keys_of(0)) == 0
    assert store.batch_get_v1(keys_of(0), pool.indices([0])) == [False]
    assert store.batch_set_v1(keys_of(0), pool.indices([0])) == [False]
    assert store.flush() is False
    store.clear()
    assert len([r for r in caplog.records if r.name == "umbp.sglang"]) == 1  # once a minute


def test_many_threads_read_and_write_their_own_bytes(store_of):
    pool = sglang_support.host_pool(pages=64, row_bytes=1024)
    sglang_support.read_and_write_in_threads(store_of(pool), pool)
