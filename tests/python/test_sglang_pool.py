# SPDX-License-Identifier: Apache-2.0
"""SGLang's own UMBPStore in distributed mode, and our plug-in with the pool: two processes (and ranks
of one) that share pages by a master of the test's own."""

import os
import subprocess
import sys

import pool_support
import pytest
import sglang_support
from master_support import Master
from sglang_support import keys_of
from wait_support import wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
PAGES = [0, 1, 2, 3]


@pytest.fixture(scope="module", autouse=True)
def sglang():
    sglang_support.or_skip()


@pytest.fixture(scope="module")
def master():
    pool_support.or_skip()
    made = Master()
    yield made
    made.stop()


def mori_settings(master, number):
    return {"master_address": master, "node_address": "127.0.0.1", "node_id": "engine-%d" % number,
            "io_engine_host": "127.0.0.1", "dram_capacity_bytes": 64 << 20, "ssd_enabled": False,
            "node_tags": ["engine=sglang"]}


def own_settings(master, number):
    return {"backend_name": "umbp", "module_path": "umbp.sglang", "class_name": "UmbpStorage",
            "interface_v1": 1,
            "umbp": {"scheme": "pool", "pool.masters": master, "dram.bytes": "64MiB",
                     "dram.prefault": False, "pool.node_id": "own-%d" % number}}


KINDS = {"mori": mori_settings, "dynamic": own_settings}


def store_of(kind, extra, pool, **ranks):
    """As SGLang makes and prepares it."""
    from sglang.srt.mem_cache.storage import StorageBackendFactory

    config = sglang_support.storage_config(extra_config=extra, **ranks)
    store = StorageBackendFactory.create_backend(kind, config, pool)
    store.register_mem_pool_host(pool)
    return store


@pytest.fixture
def made(monkeypatch):
    for name in [name for name in os.environ if name.startswith("UMBP_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    stores = []

    def make(*arguments, **ranks):
        stores.append(store_of(*arguments, **ranks))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def fill(pool, seed):
    for page in PAGES:
        pool.fill(page, seed + page)
    return [pool.content(page) for page in PAGES]


def wipe(pool):
    for page in PAGES:
        pool.wipe(page)


def other_engine(kind, address, seed, ranks):
    """In a process of its own: put pages, say so, and end when told."""
    sglang_support.activate()
    pool = sglang_support.host_pool()
    store = store_of(kind, KINDS[kind](address, 2), pool, **ranks)
    fill(pool, seed)
    stored = store.batch_set_v1(keys_of(*PAGES), pool.indices(PAGES))
    print("stored", stored == [True] * len(PAGES), flush=True)
    sys.stdin.readline()
    store.close()


@pytest.mark.parametrize("kind", ["mori", "dynamic"])
def test_pages_of_another_process_are_found_and_read(master, made, kind):
    code = ("import test_sglang_pool as test; test.other_engine(%r, %r, 7, {})"
            % (kind, master.address))
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith("UMBP_") or "TEST" in name}
    environment["PYTHONPATH"] = os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")])
    other = subprocess.Popen([sys.executable, "-c", code], env=environment, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        pool = sglang_support.host_pool()
        store = made(kind, KINDS[kind](master.address, 1), pool)
        assert other.stdout.readline() == "stored True\n"
        expected = fill(pool, 7)
        wipe(pool)
        wait_until(lambda: store.batch_exists(keys_of(*PAGES, 99)) == len(PAGES), "they are known")
        assert store.batch_get_v1(keys_of(*PAGES), pool.indices(PAGES)) == [True] * len(PAGES)
        assert [pool.content(page) for page in PAGES] == expected
        # A page that is somewhere is stored, and keeps its first bytes.
        fill(pool, 1000)
        assert store.batch_set_v1(keys_of(*PAGES), pool.indices(PAGES)) == [True] * len(PAGES)
        assert store.batch_get_v1(keys_of(*PAGES), pool.indices(PAGES)) == [True] * len(PAGES)
        assert [pool.content(page) for page in PAGES] == expected
        assert store.batch_get_v1(keys_of(99), pool.indices([0])) == [False]
    finally:
        other.stdin.close()
        assert other.wait(60) == 0
        other.stdout.close()


def test_sglangs_store_knows_that_it_is_distributed(master, made):
    import mori.umbp

    pool = sglang_support.host_pool()
    store = made("mori", mori_settings(master.address, 3), pool)
    assert store.client.is_distributed() is True
    assert store.client.get_deployment_mode() is mori.umbp.UMBPDeploymentMode.Distributed
    assert store._zero_copy_registered is True
    options = store.client._native.config
    assert options.get("pool.node_id").startswith("engine-3")
    assert options.get("pool.tags") == "engine=sglang"


def test_every_rank_of_mla_puts_and_gets_in_the_pool(master, made):
    pools = [sglang_support.host_pool(mla=True) for _ in range(2)]
    stores = []
    for rank in (0, 1):
        extra = dict(mori_settings(master.address, 4), node_id=["mla-0", "mla-1"])
        stores.append(made("mori", extra, pools[rank], is_mla_model=True, tp_rank=rank, tp_size=2))
    assert not any(store.is_mla_follower for store in stores)
    keys = keys_of(*(200 + page for page in PAGES))
    expected = fill(pools[1], 55)
    assert stores[1].batch_set_v1(keys, pools[1].indices(PAGES)) == [True] * len(PAGES)
    wait_until(lambda: stores[0].batch_exists(keys) == len(PAGES), "they are known")
    assert stores[0].batch_get_v1(keys, pools[0].indices(PAGES)) == [True] * len(PAGES)
    assert [pools[0].content(page) for page in PAGES] == expected


def test_kv_events_reach_the_master_by_sglangs_subscriber(master, made):
    import mori.umbp
    from sglang.srt.disaggregation.kv_events import BlockRemoved, BlockStored
    from sglang.srt.mem_cache.storage.umbp.umbp_store import KVEventsSubscriber

    store = made("mori", mori_settings(master.address, 5), sglang_support.host_pool())
    subscriber = KVEventsSubscriber.__new__(KVEventsSubscriber)  # without its ZeroMQ thread
    subscriber._umbp_client, subscriber._dp_rank = store.client, None
    subscriber._tier_hbm, subscriber._tier_dram = (mori.umbp.UMBPTierType.HBM,
                                                   mori.umbp.UMBPTierType.DRAM)
    subscriber.on_event(BlockStored(block_hashes=[11, 12], parent_block_hash=None, token_ids=[],
                                    block_size=1, lora_id=None, medium="GPU"), 0.0, None)
    match, = store.client.match_external_kv(["11", "12", "13"])
    assert match.hashes_by_tier == {mori.umbp.UMBPTierType.HBM: ["11", "12"]}
    subscriber.on_event(BlockRemoved(block_hashes=[11], medium="GPU"), 0.0, None)
    match, = store.client.match_external_kv(["11", "12"])
    assert match.hashes_by_tier == {mori.umbp.UMBPTierType.HBM: ["12"]}


def test_ranks_of_our_plug_in_are_nodes_with_names_ports_and_directories_of_their_own(
        master, made, tmp_path):
    stores = []
    for rank in (0, 1):
        extra = own_settings(master.address, 9)
        extra["umbp"].update({"ssd.dir": str(tmp_path), "ssd.bytes": "16MiB"})
        stores.append(made("dynamic", extra, sglang_support.host_pool(mla=True), is_mla_model=True,
                           tp_rank=rank, tp_size=2))
    options = [store._client.config for store in stores]
    assert [o.get("pool.node_id") for o in options] == ["own-9/tp0of2", "own-9/tp1of2"]
    assert options[0].get("ssd.dir") != options[1].get("ssd.dir")
    assert {o.get("role") for o in options} == {"standalone"}
    pool = stores[0]._pools["kv"].host_pool
    expected = fill(pool, 77)
    keys = keys_of(*(300 + page for page in PAGES))
    assert stores[0].batch_set_v1(keys, pool.indices(PAGES)) == [True] * len(PAGES)
    other = stores[1]._pools["kv"].host_pool
    wait_until(lambda: stores[1].batch_exists(keys) == len(PAGES), "they are known")
    assert stores[1].batch_get_v1(keys, other.indices(PAGES)) == [True] * len(PAGES)
    assert [other.content(page) for page in PAGES] == expected


def test_ports_count_up_by_rank():
    from umbp.sglang import _Ranks

    def number(**ranks):
        return _Ranks(sglang_support.storage_config(**ranks)).number()

    assert [number(tp_rank=rank, tp_size=4) for rank in range(4)] == [0, 1, 2, 3]
    assert number(tp_rank=1, tp_size=4, pp_rank=1, pp_size=2) == 5
