# SPDX-License-Identifier: Apache-2.0
"""The configuration, the enumerations, the environment, host memory: names, types, defaults."""

import copy
import ctypes
import os
import pickle
import subprocess
import sys
import warnings

import mori
import mori.cpp
import mori.umbp
import pytest

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

DEFAULTS = {
    "UMBPDramConfig": dict(
        capacity_bytes=4 * GIB, use_shared_memory=False, shm_name="/umbp_dram", high_watermark=0.9,
        low_watermark=0.7, use_hugepages=False, hugepage_size=2 * MIB, numa_node=-1, prefault=True),
    "UMBPIoConfig": dict(backend=mori.umbp.UMBPIoBackend.IoUring, queue_depth=4096),
    "UMBPDurabilityConfig": dict(
        mode=mori.umbp.UMBPDurabilityMode.Strict, enable_background_gc=True),
    "UMBPSsdConfig": dict(
        enabled=True, storage_dir="/tmp/umbp_ssd", capacity_bytes=32 * GIB,
        layout_mode=mori.umbp.UMBPSsdLayoutMode.SegmentedLog, segment_size_bytes=256 * MIB,
        high_watermark=0.9, low_watermark=0.7, ssd_backend="file", spdk_bdev_name="",
        spdk_reactor_mask="0x1", spdk_mem_size_mb=256, spdk_nvme_pci_addr="",
        spdk_nvme_ctrl_name="NVMe0", spdk_io_workers=4, spdk_proxy_shm_name="/umbp_spdk_proxy",
        spdk_proxy_bin="", spdk_proxy_tenant_id=0, spdk_proxy_tenant_quota_bytes=0,
        spdk_proxy_max_channels=8, spdk_proxy_data_per_channel_mb=32,
        spdk_proxy_startup_timeout_ms=30000, spdk_proxy_auto_start=True,
        spdk_proxy_idle_exit_timeout_ms=30000, spdk_proxy_allow_borrow=False,
        spdk_proxy_reserved_shared_bytes=0, shard_io_threads=0, tier_io_threads=4, direct_io=True,
        verify_crc=True, single_flight_reads=True),
    "UMBPEvictionConfig": dict(policy="lru", candidate_window=16, auto_promote_on_read=True),
    "UMBPCopyPipelineConfig": dict(
        async_enabled=True, queue_depth=4096, worker_threads=2, batch_max_ops=128),
    "UMBPMasterClientConfig": dict(
        master_address="", node_id="", node_address="", auto_heartbeat=True, tags=[]),
    "UMBPIoEngineConfig": dict(host="", port=0),
    "UMBPDistributedConfig": dict(
        staging_buffer_size=64 * MIB, ssd_staging_buffer_size=256 * MIB,
        ssd_staging_buffer_slots=16, peer_service_port=0, cache_remote_fetches=True,
        cache_remote_admission=mori.umbp.CacheRemoteAdmission.SIZE,
        admission_max_block_bytes=16 * MIB, dram_page_size=0, ranged_scratch_size=0,
        ssd_staging_use_hugepages=False, ssd_staging_hugepage_size=2 * MIB,
        medium=mori.umbp.UMBPMedium.DRAM),
    "UMBPHbmConfig": dict(device=0, capacity_bytes=0),
    "UMBPStandaloneProcessConfig": dict(
        address="", auto_start=False, startup_timeout_ms=30000, worker_node_id="",
        worker_node_address="", tags=[]),
    "UMBPConfig": dict(
        role=mori.umbp.UMBPRole.Standalone, follower_mode=False, force_ssd_copy_on_write=False,
        distributed=None, standalone_process=None),
}

NESTED = {
    ("UMBPConfig", "dram"): "UMBPDramConfig", ("UMBPConfig", "ssd"): "UMBPSsdConfig",
    ("UMBPConfig", "eviction"): "UMBPEvictionConfig",
    ("UMBPConfig", "copy_pipeline"): "UMBPCopyPipelineConfig",
    ("UMBPSsdConfig", "io"): "UMBPIoConfig",
    ("UMBPSsdConfig", "durability"): "UMBPDurabilityConfig",
    ("UMBPDistributedConfig", "master_config"): "UMBPMasterClientConfig",
    ("UMBPDistributedConfig", "io_engine"): "UMBPIoEngineConfig",
    ("UMBPDistributedConfig", "hbm"): "UMBPHbmConfig",
}

ENUMERATIONS = {
    "UMBPRole": dict(Standalone=0, SharedSSDLeader=1, SharedSSDFollower=2),
    "UMBPDeploymentMode": dict(Local=0, StandaloneProcess=1, Distributed=2),
    "UMBPSsdLayoutMode": dict(SegmentedLog=1),
    "UMBPIoBackend": dict(Posix=0, IoUring=1),
    "UMBPDurabilityMode": dict(Strict=0, Relaxed=1),
    "UMBPTierType": dict(Unknown=0, HBM=1, DRAM=2, SSD=3),
    "UMBPHostBufferBacking": dict(
        Anonymous=0, AnonymousHugetlb=1, AnonymousShm=2, AnonymousShmHugetlb=3),
    "CacheRemoteAdmission": dict(SIZE=0, NEVER=1, ALWAYS=2),
}


# ---- names


def test_every_public_name_is_in_both_modules():
    names = list(DEFAULTS) + list(ENUMERATIONS) + [
        "UMBPClient", "UMBPHostMemAllocator", "UMBPHostBufferHandle", "UMBPMasterClient",
        "UMBPExternalKvMatch", "UMBPExternalKvNodeMatch", "UMBPExternalKvHitCountEntry"]
    for name in names:
        assert getattr(mori.umbp, name) is getattr(mori.cpp, name), name
        assert name in mori.umbp.__all__ and name in mori.cpp.__all__


def test_what_is_not_umbps_is_said_to_be_the_other_projects():
    with pytest.raises(AttributeError, match="MORI project"):
        mori.io
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mori.nonsense


def test_files_of_the_real_mori_in_the_same_folder_are_warned_about(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mori._warn_of_the_other(str(tmp_path))
    (tmp_path / "libmori_pybinds.so").write_text("")
    with pytest.warns(RuntimeWarning, match="two distributions share the folder"):
        mori._warn_of_the_other(str(tmp_path))


# ---- structures


@pytest.mark.parametrize("name", list(DEFAULTS))
def test_fields_and_defaults_are_the_published_ones(name):
    struct = getattr(mori.umbp, name)()
    for field, value in DEFAULTS[name].items():
        got = getattr(struct, field)
        assert got == value and type(got) is type(value), field
    for (owner, field), kind in NESTED.items():
        if owner == name:
            assert type(getattr(struct, field)).__name__ == kind
    known = set(DEFAULTS[name]) | {field for owner, field in NESTED if owner == name}
    assert {field for field, _ in type(struct)._fields()} == known


@pytest.mark.parametrize("name", list(DEFAULTS))
def test_a_structure_takes_no_arguments_and_no_other_fields(name):
    made = getattr(mori.umbp, name)
    with pytest.raises(TypeError):
        made(1)
    with pytest.raises(AttributeError):
        made().nonsense = 1


def test_values_of_wrong_types_change_nothing():
    config = mori.umbp.UMBPConfig()
    wrong = [
        (config.dram, "capacity_bytes", ["4", 1.5, None, -1, 1 << 64]),
        (config.dram, "numa_node", [1 << 31, -(1 << 31) - 1, "0"]),
        (config.dram, "high_watermark", ["0.5", None, [1]]),
        (config.dram, "shm_name", [1, None]),
        (config.ssd, "enabled", ["true", [1], {}]),
        (config.ssd, "spdk_proxy_tenant_id", [1 << 32, -1]),
        (config.ssd.io, "backend", [0, "Posix", mori.umbp.UMBPRole.Standalone]),
        (config, "role", [1, "leader"]),
        (config, "dram", [None, config.ssd]),
        (config, "distributed", [config.dram, 1]),
    ]
    for struct, field, values in wrong:
        before = repr(struct)
        for value in values:
            with pytest.raises(TypeError, match=field):
                setattr(struct, field, value)
        assert repr(struct) == before
    distributed = mori.umbp.UMBPDistributedConfig()
    with pytest.raises(TypeError):
        distributed.io_engine.port = 65536
    for tags in ("abc", [1], 7):
        with pytest.raises(TypeError):
            distributed.master_config.tags = tags


def test_values_that_fit_are_taken_as_the_binding_takes_them():
    class Seven:
        def __index__(self):
            return 7

    config = mori.umbp.UMBPConfig()
    config.dram.capacity_bytes = Seven()
    config.dram.high_watermark = 1
    config.ssd.enabled = 0
    config.ssd.storage_dir = b"/by/tes"
    assert (config.dram.capacity_bytes, config.dram.high_watermark) == (7, 1.0)
    assert config.ssd.enabled is False and config.ssd.storage_dir == "/by/tes"
    config.dram.numa_node = -1
    config.dram.capacity_bytes = (1 << 64) - 1


def test_what_is_read_is_inside_and_what_is_assigned_is_copied():
    config = mori.umbp.UMBPConfig()
    config.dram.capacity_bytes = 5
    assert config.dram.capacity_bytes == 5
    dram = mori.umbp.UMBPDramConfig()
    dram.capacity_bytes = 6
    config.dram = dram
    dram.capacity_bytes = 7
    assert config.dram.capacity_bytes == 6
    distributed = mori.umbp.UMBPDistributedConfig()
    distributed.master_config.tags = ["a", "b"]
    config.distributed = distributed
    distributed.master_config.node_id = "later"
    config.distributed.master_config.master_address = "inside"
    assert config.distributed.master_config.node_id == ""
    assert config.distributed.master_config.master_address == "inside"
    config.distributed.master_config.tags.append("lost")
    assert config.distributed.master_config.tags == ["a", "b"]
    config.distributed = None
    assert config.distributed is None
    twin = copy.deepcopy(config)
    twin.dram.capacity_bytes = 8
    assert config.dram.capacity_bytes == 6
    assert repr(pickle.loads(pickle.dumps(config))) == repr(config)


def test_roles_resolve_as_published():
    roles = mori.umbp.UMBPRole
    config = mori.umbp.UMBPConfig()
    assert config.resolve_role() is roles.Standalone
    config.force_ssd_copy_on_write = True
    assert config.resolve_role() is roles.SharedSSDLeader
    config.follower_mode = True
    assert config.resolve_role() is roles.SharedSSDFollower
    config.role = roles.SharedSSDLeader
    assert config.resolve_role() is roles.SharedSSDLeader


# ---- enumerations


@pytest.mark.parametrize("name", list(ENUMERATIONS))
def test_enumerations_have_the_published_names_and_numbers(name):
    kind = getattr(mori.umbp, name)
    assert {member: int(value) for member, value in kind.__members__.items()} == ENUMERATIONS[name]
    for member, number in ENUMERATIONS[name].items():
        value = getattr(kind, member)
        assert kind(number) is value and value.name == member and value.value == number
        assert value != number and value == value and hash(value) is not None
        assert str(value) == "%s.%s" % (name, member)
        assert repr(value) == "<%s.%s: %d>" % (name, member, number)
        assert [0, 10, 20, 30][value] == 10 * number  # __index__
    if name != "CacheRemoteAdmission":
        for member in ENUMERATIONS[name]:
            assert getattr(mori.cpp, member) is getattr(kind, member)


def test_answers_about_external_blocks_count_distinct_hashes():
    tier = mori.umbp.UMBPTierType
    for made in (mori.umbp.UMBPExternalKvMatch(), mori.umbp.UMBPExternalKvNodeMatch()):
        assert (made.node_id, made.peer_address, made.hashes_by_tier) == ("", "", {})
        made.node_id = "n"
        made.hashes_by_tier = {tier.HBM: ["a", "b"], tier.DRAM: ["b", "c"]}
        assert made.matched_hash_count() == 3
        assert made.hashes_by_tier[tier.HBM] == ["a", "b"]
        assert "node_id='n' matched=3" in repr(made)
    entry = mori.umbp.UMBPExternalKvHitCountEntry()
    entry.hash, entry.hit_count_total = "h", 7
    assert repr(entry) == "<UMBPExternalKvHitCountEntry hash='h' hit_count_total=7>"


# ---- the environment, in a process of its own each


def in_environment(code, *arguments, **variables):
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("UMBP_", "MORI_", "LOCAL_RANK"))}
    environment.update(variables)
    done = subprocess.run([sys.executable, "-c", "import mori.umbp\n" + code, *arguments],
                          env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done


def field_in_environment(path, **variables):
    code = "print(repr(mori.umbp.UMBPConfig.from_environment().%s), end='')" % path
    done = in_environment(code, **variables)
    return done.stdout, done.stderr


@pytest.mark.parametrize("name,text,path,shown", [
    ("UMBP_DRAM_CAPACITY", "1073741824", "dram.capacity_bytes", str(GIB)),
    ("UMBP_DRAM_CAPACITY", "2GiB", "dram.capacity_bytes", str(2 * GIB)),
    ("UMBP_DRAM_CAPACITY", "4G", "dram.capacity_bytes", str(4 * GIB)),
    ("UMBP_DRAM_CAPACITY", "1.5GB", "dram.capacity_bytes", "1500000000"),
    ("UMBP_DRAM_BYTES", "1MiB", "dram.capacity_bytes", str(MIB)),
    ("UMBP_DRAM_HIGH_WM", "0.8", "dram.high_watermark", "0.8"),
    ("UMBP_DRAM_LOW_WM", "50%", "dram.low_watermark", "0.5"),
    ("UMBP_DRAM_USE_HUGEPAGES", "true", "dram.use_hugepages", "True"),
    ("UMBP_DRAM_HUGEPAGE_SIZE", "1GiB", "dram.hugepage_size", str(GIB)),
    ("UMBP_DRAM_NUMA_NODE", "1", "dram.numa_node", "1"),
    ("UMBP_DRAM_NUMA_NODE", "-1", "dram.numa_node", "-1"),
    ("UMBP_DRAM_PREFAULT", "0", "dram.prefault", "False"),
    ("UMBP_SSD_ENABLED", "off", "ssd.enabled", "False"),
    ("UMBP_SSD_DIR", "/some/where", "ssd.storage_dir", "'/some/where'"),
    ("UMBP_SSD_CAPACITY", "1TiB", "ssd.capacity_bytes", str(1 << 40)),
    ("UMBP_SSD_HIGH_WM", "0.95", "ssd.high_watermark", "0.95"),
    ("UMBP_SSD_BACKEND", "posix", "ssd.ssd_backend", "'posix'"),
    ("UMBP_SSD_DURABILITY", "relaxed", "ssd.durability.mode", "<UMBPDurabilityMode.Relaxed: 1>"),
    ("UMBP_EVICTION_POLICY", "prefix_aware_lru", "eviction.policy", "'prefix_aware_lru'"),
    ("UMBP_ROLE", "leader", "role", "<UMBPRole.SharedSSDLeader: 1>"),
    ("UMBP_ROLE", "follower", "role", "<UMBPRole.SharedSSDFollower: 2>"),
    ("LOCAL_RANK", "0", "role", "<UMBPRole.SharedSSDLeader: 1>"),
    ("OMPI_COMM_WORLD_LOCAL_RANK", "3", "role", "<UMBPRole.SharedSSDFollower: 2>"),
    ("UMBP_SPDK_NVME_PCI", "0000:47:00.0", "ssd.ssd_backend", "'spdk'"),
    ("UMBP_SPDK_PROXY_MAX_RANKS", "16", "ssd.spdk_proxy_max_channels", "16"),
    ("UMBP_SPDK_PROXY_TENANT_QUOTA_BYTES", "1GiB", "ssd.spdk_proxy_tenant_quota_bytes", str(GIB)),
    ("UMBP_SPDK_PROXY_AUTO_START", "no", "ssd.spdk_proxy_auto_start", "False"),
])
def test_good_values_are_taken_without_a_word(name, text, path, shown):
    assert field_in_environment(path, **{name: text}) == (shown, "")


@pytest.mark.parametrize("name,text,path,shown", [
    ("UMBP_DRAM_CAPACITY", "plenty", "dram.capacity_bytes", str(4 * GIB)),
    ("UMBP_DRAM_CAPACITY", "-1", "dram.capacity_bytes", str(4 * GIB)),
    ("UMBP_DRAM_HIGH_WM", "high", "dram.high_watermark", "0.9"),
    ("UMBP_DRAM_HIGH_WM", "7", "dram.high_watermark", "0.9"),
    ("UMBP_DRAM_USE_HUGEPAGES", "2", "dram.use_hugepages", "False"),
    ("UMBP_DRAM_HUGEPAGE_SIZE", "huge", "dram.hugepage_size", str(2 * MIB)),
    ("UMBP_DRAM_NUMA_NODE", "x", "dram.numa_node", "-1"),
    ("UMBP_SSD_ENABLED", "maybe", "ssd.enabled", "True"),
    ("UMBP_SSD_CAPACITY", "1e9", "ssd.capacity_bytes", str(32 * GIB)),
    ("UMBP_EVICTION_POLICY", "fifo", "eviction.policy", "'lru'"),
    ("UMBP_ROLE", "chief", "role", "<UMBPRole.Standalone: 0>"),
    ("LOCAL_RANK", "first", "role", "<UMBPRole.Standalone: 0>"),
    ("UMBP_SPDK_IO_WORKERS", "many", "ssd.spdk_io_workers", "4"),
    ("UMBP_SPDK_PROXY_TENANT_ID", "-3", "ssd.spdk_proxy_tenant_id", "0"),
])
def test_a_bad_value_is_the_default_and_exactly_one_warning(name, text, path, shown):
    code = """
import sys
for _ in range(3):
    c = mori.umbp.UMBPConfig.from_environment()
print(repr(c.%s), end='')
if sys.argv[1:] == ["client"]:
    c.dram.capacity_bytes, c.ssd.enabled = 8 << 20, False
    mori.umbp.UMBPClient(c).close()
""" % path
    for arguments in ([], ["client"]):
        done = in_environment(code, *arguments, **{name: text})
        assert done.stdout == shown
        assert len([line for line in done.stderr.splitlines() if name in line]) == 1, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("name,path", [
    ("UMBP_DRAM_CAPACITY", "dram.capacity_bytes"), ("UMBP_SSD_DIR", "ssd.storage_dir"),
    ("UMBP_ROLE", "role"), ("UMBP_SPDK_MEM_MB", "ssd.spdk_mem_size_mb")])
def test_a_variable_set_to_nothing_counts_as_not_set(name, path):
    assert field_in_environment(path, **{name: ""}) == field_in_environment(path)


def test_a_role_in_words_beats_the_rank():
    shown, _ = field_in_environment("role", UMBP_ROLE="standalone", LOCAL_RANK="3")
    assert shown == "<UMBPRole.Standalone: 0>"
    shown, _ = field_in_environment("role", SLURM_LOCALID="0", MPI_LOCALRANKID="5")
    assert shown == "<UMBPRole.SharedSSDLeader: 1>"


def test_a_plain_config_ignores_the_environment():
    code = "print(mori.umbp.UMBPConfig().dram.capacity_bytes, end='')"
    assert in_environment(code, UMBP_DRAM_CAPACITY="1MiB").stdout == str(4 * GIB)


# ---- what the fields come to


def options_of(change):
    from mori.cpp import _mapping

    config = mori.umbp.UMBPConfig()
    change(config)
    _mapping.validate(config)
    return dict(_mapping.options_of(config))


def test_defaults_come_to_umbps_options(caplog):
    assert options_of(lambda c: None) == {
        "dram.bytes": str(4 * GIB), "dram.backing": "anonymous", "dram.numa_node": "any",
        "dram.prefault": "true", "dram.high_watermark": None, "dram.low_watermark": None,
        "ssd.enabled": "true", "ssd.dir": "/tmp/umbp_ssd", "ssd.bytes": str(32 * GIB),
        "ssd.segment_bytes": str(256 * MIB), "ssd.durability": "strict",
        "ssd.high_watermark": None, "ssd.low_watermark": None, "role": "standalone",
        "scheme": "local", "eviction.policy": "lru", "eviction.candidate_window": "16",
        "promote.on_read": "true", "copy.workers": "2", "copy.queue_depth": "4096"}
    assert not caplog.records


@pytest.mark.parametrize("change,option,value", [
    (lambda c: setattr(c.dram, "use_shared_memory", True), "dram.backing", "shared"),
    (lambda c: setattr(c.dram, "use_hugepages", True), "dram.backing", "huge_pages"),
    (lambda c: (setattr(c.dram, "use_hugepages", 1), setattr(c.dram, "use_shared_memory", 1)),
     "dram.backing", "shared_huge_pages"),
    (lambda c: setattr(c.dram, "numa_node", 3), "dram.numa_node", "3"),
    (lambda c: setattr(c.dram, "high_watermark", 0.8), "dram.high_watermark", "0.800000"),
    (lambda c: setattr(c.dram, "high_watermark", 0.8), "dram.low_watermark", "0.700000"),
    (lambda c: setattr(c.dram, "high_watermark", 0.5), "dram.low_watermark", "0.500000"),
    (lambda c: setattr(c.ssd.io, "backend", mori.umbp.UMBPIoBackend.Posix), "ssd.driver", "posix"),
    (lambda c: setattr(c.ssd.io, "backend", mori.umbp.UMBPIoBackend.IoUring), "ssd.driver", "auto"),
    (lambda c: setattr(c.ssd, "ssd_backend", "posix"), "ssd.driver", "posix"),
    (lambda c: setattr(c.ssd.io, "queue_depth", 4096), "ssd.queue_depth", "1024"),
    (lambda c: setattr(c.ssd.durability, "mode", mori.umbp.UMBPDurabilityMode.Relaxed),
     "ssd.durability", "relaxed"),
    (lambda c: setattr(c.ssd, "capacity_bytes", 8 * MIB), "ssd.segment_bytes", str(MIB)),
    (lambda c: setattr(c.ssd, "enabled", False), "ssd.enabled", "false"),
    (lambda c: setattr(c, "follower_mode", True), "role", "follower"),
    (lambda c: setattr(c, "force_ssd_copy_on_write", True), "role", "leader"),
    (lambda c: (setattr(c, "follower_mode", True), setattr(c.ssd, "enabled", False)),
     "role", "standalone"),
    (lambda c: setattr(c.eviction, "candidate_window", 0), "eviction.candidate_window", "1"),
    (lambda c: setattr(c.eviction, "auto_promote_on_read", False), "promote.on_read", "false"),
    (lambda c: setattr(c.copy_pipeline, "worker_threads", 3), "copy.workers", "3"),
])
def test_fields_come_to_options(change, option, value):
    assert options_of(change)[option] == value


@pytest.mark.parametrize("change,option,value", [
    (lambda c: setattr(c.dram, "capacity_bytes", 1), "dram.bytes", "4096"),
    (lambda c: setattr(c.ssd, "capacity_bytes", 4096), "ssd.bytes", str(MIB)),
    (lambda c: setattr(c.copy_pipeline, "worker_threads", 99), "copy.workers", "16"),
    (lambda c: setattr(c.eviction, "candidate_window", 1 << 20), "eviction.candidate_window", "4096"),
    (lambda c: setattr(c.eviction, "policy", "fifo"), "eviction.policy", "lru"),
])
def test_what_umbp_does_not_take_becomes_the_nearest_with_a_warning(change, option, value, caplog):
    assert options_of(change)[option] == value
    assert [record.name for record in caplog.records] == ["mori.umbp"]


def test_every_option_is_taken_by_umbp(tmp_path):
    """What the mapping says is what the client has."""
    config = mori.umbp.UMBPConfig()
    config.dram.capacity_bytes, config.dram.prefault = 16 * MIB, False
    config.dram.high_watermark, config.dram.low_watermark = 0.8, 0.6
    config.ssd.storage_dir, config.ssd.capacity_bytes = str(tmp_path / "x" / "y"), 16 * MIB
    config.ssd.io.queue_depth = 64
    config.ssd.durability.mode = mori.umbp.UMBPDurabilityMode.Relaxed
    config.eviction.policy = "s3fifo"
    config.copy_pipeline.worker_threads = 3
    client = mori.umbp.UMBPClient(config)
    have = client._native.config
    assert have["dram.bytes"] == 16 * MIB and have["dram.prefault"] is False
    assert (have["dram.high_watermark"], have["dram.low_watermark"]) == (0.8, 0.6)
    assert have["ssd.dir"] == str(tmp_path / "x" / "y") and have["ssd.queue_depth"] == 64
    assert have["ssd.durability"] == "relaxed" and have["eviction.policy"] == "s3fifo"
    assert have["copy.workers"] == 3 and have["role"] == "standalone"
    client.close()


def test_options_without_a_field_come_from_the_environment():
    code = """
c = mori.umbp.UMBPConfig()
c.dram.capacity_bytes, c.ssd.enabled = 8 << 20, False
client = mori.umbp.UMBPClient(c)
print(client._native.config["copy.threads"], client._native.config["dram.high_watermark"], end='')
client.close()
"""
    done = in_environment(code, UMBP_DRAM_READ_THREADS="1", UMBP_DRAM_HIGH_WM="0.5")
    assert done.stdout == "1 0.95"  # the second has a field, which a plain config left alone


# ---- host memory


def test_host_memory_is_mapped_written_and_given_back():
    allocator = mori.umbp.UMBPHostMemAllocator()
    page = os.sysconf("SC_PAGE_SIZE")
    for backing in mori.umbp.UMBPHostBufferBacking:
        handle = allocator.alloc(12345, backing, hugepage_size=2 * MIB, numa_node=-1, prefault=True)
        assert handle and handle.ptr and handle.requested_size == 12345
        assert handle.mapped_size >= 12345 and handle.mapped_size % page == 0
        assert handle.ptr % handle.actual_alignment == 0
        shared = backing.name.startswith("AnonymousShm")
        assert handle.actual_backing.name.startswith("AnonymousShm") is shared
        huge = handle.actual_backing.name.endswith("Hugetlb")
        assert handle.actual_alignment == (2 * MIB if huge else page)
        data = (ctypes.c_ubyte * handle.mapped_size).from_address(handle.ptr)
        data[0] = data[handle.mapped_size - 1] = 0xA5
        assert (data[0], data[handle.mapped_size - 1]) == (0xA5, 0xA5)
        allocator.free(handle)
        assert not handle
        assert (handle.ptr, handle.requested_size, handle.mapped_size) == (0, 0, 0)
        allocator.free(handle)


def test_host_memory_outlives_its_handle_and_its_allocator():
    import gc

    allocator = mori.umbp.UMBPHostMemAllocator()
    handle = allocator.alloc(64 * KIB)
    pointer = handle.ptr
    data = (ctypes.c_ubyte * (64 * KIB)).from_address(pointer)
    del handle, allocator
    gc.collect()
    data[64 * KIB - 1] = 7
    assert data[64 * KIB - 1] == 7
    from mori.cpp import _host

    _host._held.pop(pointer).close()


@pytest.mark.parametrize("size", [0, 1 << 60])
def test_host_memory_that_can_not_be_had_is_a_false_handle(size):
    handle = mori.umbp.UMBPHostMemAllocator().alloc(size)
    assert not handle and handle.ptr == 0
    assert repr(handle) == "<UMBPHostBufferHandle ptr=0x0 requested_size=0 mapped_size=0>"


def test_host_memory_of_a_node_that_is_not_there_is_a_false_handle():
    assert not mori.umbp.UMBPHostMemAllocator().alloc(4096, numa_node=1000)


def test_wrong_arguments_of_the_allocator_are_type_errors():
    allocator = mori.umbp.UMBPHostMemAllocator()
    for arguments in (("4096",), (-1,), (4096, 0), (4096, "Anonymous")):
        with pytest.raises(TypeError):
            allocator.alloc(*arguments)
    with pytest.raises(TypeError):
        allocator.free(7)
    with pytest.raises(AttributeError):
        mori.umbp.UMBPHostBufferHandle().ptr = 7
    assert not mori.umbp.UMBPHostBufferHandle()
