# SPDX-License-Identifier: Apache-2.0
"""UMBPClient in distributed mode and UMBPMasterClient, with a master of the test's own."""

import ctypes
import os

import mori.cpp
import mori.umbp
import pool_support
import pytest
import umbp
from master_support import Master
from wait_support import wait_until

MIB = 1 << 20
HBM, DRAM, SSD = (mori.umbp.UMBPTierType.HBM, mori.umbp.UMBPTierType.DRAM,
                  mori.umbp.UMBPTierType.SSD)


@pytest.fixture(scope="module")
def master():
    pool_support.or_skip()
    made = Master()
    yield made
    made.stop()


def config_of(address, node_id, **distributed):
    config = mori.umbp.UMBPConfig()
    config.dram.capacity_bytes = 32 * MIB
    config.dram.prefault = False
    config.ssd.enabled = False
    config.distributed = mori.umbp.UMBPDistributedConfig()
    config.distributed.master_config.master_address = address
    config.distributed.master_config.node_id = node_id
    config.distributed.master_config.node_address = "127.0.0.1"
    config.distributed.io_engine.host = "127.0.0.1"
    config.distributed.ssd_staging_buffer_size = 4 * MIB
    for name, value in distributed.items():
        setattr(config.distributed, name, value)
    return config


@pytest.fixture
def client_of(master):
    made = []

    def make(node_id, **distributed):
        made.append(mori.umbp.UMBPClient(config_of(master.address, node_id, **distributed)))
        return made[-1]

    yield make
    for client in made:
        client.close()


def native_options(client):
    return client._native.config


class Buffer:
    def __init__(self, content):
        self.memory = ctypes.create_string_buffer(content, len(content))
        self.ptr, self.size = ctypes.addressof(self.memory), len(content)


def test_it_is_distributed(client_of):
    client = client_of("mode")
    assert client.is_distributed() is True
    assert client.get_deployment_mode() is mori.umbp.UMBPDeploymentMode.Distributed
    assert client.get_backend_mode() is mori.umbp.UMBPDeploymentMode.Distributed
    assert client.supports_ranged_io() is True


def test_what_one_client_puts_another_gets(client_of):
    one, two = client_of("one"), client_of("two")
    contents = [os.urandom(100_000) for _ in range(8)]
    sources = [Buffer(content) for content in contents]
    keys = ["page-%d" % number for number in range(8)]
    ptrs, sizes = [b.ptr for b in sources], [b.size for b in sources]
    assert one.register_memory(ptrs[0], sizes[0]) is True
    assert one.register_memory(ptrs[0], sizes[0]) is True  # again: as published, no failure
    assert one.batch_put_from_ptr_with_depth(keys, ptrs, sizes, list(range(8))) == [True] * 8
    wait_until(lambda: two.batch_exists_consecutive(keys) == 8, "two knows them")
    targets = [Buffer(bytes(100_000)) for _ in range(8)]
    assert two.batch_get_into_ptr(keys + ["none"], [b.ptr for b in targets] + [targets[0].ptr],
                                  sizes + [5]) == [True] * 8 + [False]
    assert [b.memory.raw for b in targets] == contents
    assert two.get_into_ptr(keys[0], targets[0].ptr, 99) is False  # another size
    assert two.put_from_ptr(keys[0], ptrs[1], sizes[1]) is True  # the first value stays
    assert one.get_into_ptr(keys[0], targets[0].ptr, sizes[0]) is True
    assert targets[0].memory.raw == contents[0]
    one.deregister_memory(ptrs[0])
    one.deregister_memory(ptrs[0])
    assert one.register_memory(1 << 40, 4096) is False
    assert one.register_memory(ptrs[0], 8, mori.cpp.MemoryLocationType.GPU) is False


def test_ranges_of_a_value_are_read_by_another_client(client_of):
    one, two = client_of("ranges one"), client_of("ranges two")
    source, target = Buffer(bytes(range(256))), Buffer(bytes(16))
    assert one.batch_put_ranges_from_ptr(["r"], [256], [[source.ptr + 128, source.ptr]],
                                         [[128, 128]], [[128, 0]]) == [True]
    wait_until(lambda: two.exists("r"), "two knows it")
    assert two.batch_get_ranges_into_ptr(["r"], [[target.ptr]], [[16]], [[100]]) == [True]
    assert target.memory.raw == bytes(range(100, 116))


@pytest.mark.parametrize("fields,options", [
    ({}, {"pool.recache": "size", "pool.recache_bytes": 16 * MIB, "pool.staging_bytes": 64 * MIB}),
    ({"cache_remote_fetches": False}, {"pool.recache": "never"}),
    ({"cache_remote_admission": mori.umbp.CacheRemoteAdmission.ALWAYS}, {"pool.recache": "always"}),
    ({"cache_remote_admission": mori.umbp.CacheRemoteAdmission.NEVER}, {"pool.recache": "never"}),
    ({"admission_max_block_bytes": 123456}, {"pool.recache_bytes": 123456}),
    ({"staging_buffer_size": 5, "dram_page_size": 12345, "ssd_staging_buffer_slots": 3},
     {"pool.staging_bytes": MIB}),
])
def test_each_field_becomes_its_option(client_of, fields, options):
    config = native_options(client_of("fields", **fields))
    fixed = {"scheme": "pool", "pool.node_id": "fields", "pool.address": "127.0.0.1",
             "pool.ssd_staging_bytes": 4 * MIB}
    for name, value in {**fixed, **options}.items():
        assert config.get(name) == value, name


@pytest.mark.parametrize("host,node_address,taken", [
    ("127.0.0.1", "10.9.9.9", "10.9.9.9"), ("0.0.0.0", "127.0.0.1:7000", "127.0.0.1"),
    ("", "[::1]:80", "::1"), ("", "0.0.0.0", ""), ("node-7", "0.0.0.0:5", "node-7"),
])
def test_the_address_is_the_nodes_and_else_the_engines(host, node_address, taken):
    config = config_of("m:1", "n")
    config.distributed.io_engine.host = host
    config.distributed.master_config.node_address = node_address
    options = dict(mori.cpp._client._mapping.options_of(config))
    assert options["pool.address"] == taken
    assert options["pool.port"] == "0"
    config.distributed.peer_service_port = 7001
    assert dict(mori.cpp._client._mapping.options_of(config))["pool.port"] == "7001"
    config.distributed.io_engine.port = 7000
    assert dict(mori.cpp._client._mapping.options_of(config))["pool.port"] == "7000"


@pytest.mark.parametrize("fields,backing", [
    ({}, "shared"), ({"use_hugepages": True}, "shared_huge_pages"),
    ({"use_shared_memory": False}, "anonymous"), ({"use_shared_memory": True}, "shared"),
])
def test_a_nodes_memory_is_shared_unless_that_was_refused(fields, backing):
    config = config_of("m:1", "n")
    for name, value in fields.items():
        setattr(config.dram, name, value)
    assert dict(mori.cpp._client._mapping.options_of(config))["dram.backing"] == backing
    config.distributed = None
    expected = "anonymous" if not config.dram.use_shared_memory else "shared"
    if not config.dram.use_hugepages:
        assert dict(mori.cpp._client._mapping.options_of(config))["dram.backing"] == expected


def test_a_leader_role_does_not_count_in_the_pool(master, tmp_path):
    config = config_of(master.address, "leader")
    config.role = mori.umbp.UMBPRole.SharedSSDFollower
    config.ssd.enabled, config.ssd.storage_dir = True, str(tmp_path / "ssd")
    config.ssd.capacity_bytes = 64 * MIB
    client = mori.umbp.UMBPClient(config)
    source = Buffer(b"value")
    assert client.put_from_ptr("k", source.ptr, 5) is True
    assert native_options(client).get("role") == "standalone"
    client.close()


def test_tags_reach_the_options_and_a_comma_is_refused(master):
    config = config_of(master.address, "tagged")
    config.distributed.master_config.tags = ["engine=sglang", "plain"]
    client = mori.umbp.UMBPClient(config)
    assert native_options(client).get("pool.tags") == "engine=sglang,plain"
    assert client._native.stats()["node.registrations"] == 1
    client.close()
    config.distributed.master_config.tags = ["a,b"]
    with pytest.raises(RuntimeError, match="tags"):
        mori.umbp.UMBPClient(config)


def test_blocks_that_engines_hold_are_told_and_found(client_of):
    one, two = client_of("kv one"), client_of("kv two")
    assert one.report_external_kv_blocks(["h1", "h2"], HBM) is True
    assert one.report_external_kv_blocks(["h1"], DRAM) is True
    assert two.report_external_kv_blocks(["h2"], SSD) is True
    found = {match.node_id: match for match in two.match_external_kv(["h1", "h2", "h3"])}
    assert sorted(found) == ["kv one", "kv two"]
    assert found["kv one"].hashes_by_tier == {HBM: ["h1", "h2"], DRAM: ["h1"]}
    assert found["kv one"].matched_hash_count() == 2
    assert found["kv two"].hashes_by_tier == {SSD: ["h2"]}
    assert two.get_external_kv_hit_counts(["h1", "h2"]) == []
    one.match_external_kv(["h1", "h9"], count_as_hit=True)
    assert [(e.hash, e.hit_count_total) for e in two.get_external_kv_hit_counts(["h1", "h2"])] == [
        ("h1", 1)]
    assert one.revoke_external_kv_blocks(["h2"], HBM) is True
    assert one.revoke_all_external_kv_blocks_at_tier(mori.umbp.UMBPTierType.Unknown) is True
    assert two.match_external_kv(["h1"])[0].hashes_by_tier == {HBM: ["h1"], DRAM: ["h1"]}
    assert one.revoke_all_external_kv_blocks_at_tier(HBM) is True
    assert two.match_external_kv(["h1"])[0].hashes_by_tier == {DRAM: ["h1"]}
    assert one.report_external_kv_blocks(["h"], mori.umbp.UMBPTierType.Unknown) is False
    with pytest.raises(TypeError):
        one.report_external_kv_blocks(["h"], 1)


def test_failures_are_false_and_empty_and_never_an_exception(master):
    client = mori.umbp.UMBPClient(config_of(master.address, "closed"))
    client.close()
    buffer = Buffer(b"x")
    assert client.put_from_ptr("k", buffer.ptr, 1) is False
    assert client.report_external_kv_blocks(["h"], HBM) is False
    assert client.revoke_all_external_kv_blocks_at_tier(HBM) is False
    assert client.match_external_kv(["h"]) == []
    assert client.get_external_kv_hit_counts(["h"]) == []
    assert client.register_memory(buffer.ptr, 1) is False


def test_a_configuration_that_can_not_be_had_is_a_runtime_error():
    if not pool_support.has_pool():
        with pytest.raises(RuntimeError, match="not in this build"):
            mori.umbp.UMBPClient(config_of("127.0.0.1:1", "n"))
        return
    with pytest.raises(RuntimeError, match="host:port"):
        mori.umbp.UMBPClient(config_of("nonsense", "n"))


# ---- the master's client


def test_the_master_client_registers_reports_and_asks(master):
    client = mori.cpp.UMBPMasterClient(master.address, node_id="scheduler's", node_address="a:1")
    assert client.is_registered() is False
    assert client.match_external_kv(["m1"]) == []
    with pytest.raises(RuntimeError, match="ReportExternalKvBlocks failed: .*not registered"):
        client.report_external_kv_blocks("scheduler's", ["m1"], HBM)
    client.register_self({DRAM: (MIB, MIB)})
    client.register_self({})
    assert client.is_registered() is True
    client.report_external_kv_blocks("scheduler's", ["m1", "m2"], HBM)
    with pytest.raises(RuntimeError, match="speaks for"):
        client.report_external_kv_blocks("another", ["m1"], HBM)
    match, = client.match_external_kv(["m1", "m3"], True)
    assert type(match) is mori.cpp.UMBPExternalKvNodeMatch
    assert (match.node_id, match.hashes_by_tier) == ("scheduler's", {HBM: ["m1"]})
    entry, = client.get_external_kv_hit_counts(["m1", "m2"])
    assert (entry.hash, entry.hit_count_total) == ("m1", 1)
    client.revoke_external_kv_blocks("scheduler's", ["m1"], HBM)
    assert client.match_external_kv(["m1"]) == []
    client.revoke_all_external_kv_blocks_at_tier("scheduler's", HBM)
    assert client.match_external_kv(["m2"]) == []
    client.unregister_self()
    client.unregister_self()
    assert client.is_registered() is False
    with pytest.raises(RuntimeError):
        client.report_external_kv_blocks("scheduler's", ["m1"], HBM)


def test_a_master_client_without_a_name_or_a_master_fails_with_runtime_errors(master):
    with pytest.raises(RuntimeError, match="node_id"):
        mori.cpp.UMBPMasterClient(master.address).register_self()
    alone = mori.cpp.UMBPMasterClient("127.0.0.1:1", "n")
    with pytest.raises(RuntimeError, match="MatchExternalKv failed"):
        alone.match_external_kv(["h"])
    with pytest.raises(RuntimeError, match="GetExternalKvHitCounts failed"):
        mori.cpp.UMBPMasterClient("nonsense", "n").get_external_kv_hit_counts(["h"])
    with pytest.raises(TypeError, match="master_address"):
        mori.cpp.UMBPMasterClient(7)
    with pytest.raises(TypeError, match="tier"):
        alone.report_external_kv_blocks("n", ["h"], 1)


def test_the_version_of_umbp_has_what_is_used_here():
    assert issubclass(umbp.ExternalMatch, tuple) and umbp.Tier.HBM == 1
