# SPDX-License-Identifier: Apache-2.0
"""The configuration: every published field with its published default.

What a field comes to here is in _mapping.py and docs/compatibility.md.
"""

from ._enums import (
    CacheRemoteAdmission,
    UMBPDurabilityMode,
    UMBPIoBackend,
    UMBPMedium,
    UMBPRole,
    UMBPSsdLayoutMode,
)
from ._structs import Bool, Count, Enumerated, Float, Nested, Optional, Struct, Text, Texts

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


class UMBPDramConfig(Struct):
    __slots__ = ()
    capacity_bytes = Count(4 * GIB)
    use_shared_memory = Bool(False)
    shm_name = Text("/umbp_dram")
    high_watermark = Float(0.9)
    low_watermark = Float(0.7)
    use_hugepages = Bool(False)
    hugepage_size = Count(2 * MIB)
    numa_node = Count(-1, bits=32, signed=True)
    prefault = Bool(True)


class UMBPIoConfig(Struct):
    __slots__ = ()
    backend = Enumerated(UMBPIoBackend.IoUring)
    queue_depth = Count(4096)


class UMBPDurabilityConfig(Struct):
    __slots__ = ()
    mode = Enumerated(UMBPDurabilityMode.Strict)
    enable_background_gc = Bool(True)


class UMBPSsdConfig(Struct):
    __slots__ = ()
    enabled = Bool(True)
    storage_dir = Text("/tmp/umbp_ssd")
    capacity_bytes = Count(32 * GIB)
    layout_mode = Enumerated(UMBPSsdLayoutMode.SegmentedLog)
    segment_size_bytes = Count(256 * MIB)
    high_watermark = Float(0.9)
    low_watermark = Float(0.7)
    io = Nested(UMBPIoConfig)
    durability = Nested(UMBPDurabilityConfig)
    ssd_backend = Text("file")
    spdk_bdev_name = Text("")
    spdk_reactor_mask = Text("0x1")
    spdk_mem_size_mb = Count(256, bits=32, signed=True)
    spdk_nvme_pci_addr = Text("")
    spdk_nvme_ctrl_name = Text("NVMe0")
    spdk_io_workers = Count(4, bits=32, signed=True)
    spdk_proxy_shm_name = Text("/umbp_spdk_proxy")
    spdk_proxy_bin = Text("")
    spdk_proxy_tenant_id = Count(0, bits=32)
    spdk_proxy_tenant_quota_bytes = Count(0)
    spdk_proxy_max_channels = Count(8, bits=32)
    spdk_proxy_data_per_channel_mb = Count(32)
    spdk_proxy_startup_timeout_ms = Count(30000, bits=32, signed=True)
    spdk_proxy_auto_start = Bool(True)
    spdk_proxy_idle_exit_timeout_ms = Count(30000, bits=32, signed=True)
    spdk_proxy_allow_borrow = Bool(False)
    spdk_proxy_reserved_shared_bytes = Count(0)
    # Of the public project's unmerged branches:
    shard_io_threads = Count(0, bits=32, signed=True)
    tier_io_threads = Count(4, bits=32, signed=True)
    direct_io = Bool(True)
    verify_crc = Bool(True)
    single_flight_reads = Bool(True)


class UMBPEvictionConfig(Struct):
    __slots__ = ()
    policy = Text("lru")
    candidate_window = Count(16)
    auto_promote_on_read = Bool(True)


class UMBPCopyPipelineConfig(Struct):
    __slots__ = ()
    async_enabled = Bool(True)
    queue_depth = Count(4096)
    worker_threads = Count(2)
    batch_max_ops = Count(128)


class UMBPMasterClientConfig(Struct):
    __slots__ = ()
    master_address = Text("")
    node_id = Text("")
    node_address = Text("")
    auto_heartbeat = Bool(True)
    tags = Texts()


class UMBPIoEngineConfig(Struct):
    __slots__ = ()
    host = Text("")
    port = Count(0, bits=16)


class UMBPHbmConfig(Struct):
    """Of the public project's unmerged branches."""

    __slots__ = ()
    device = Count(0, bits=32, signed=True)
    capacity_bytes = Count(0)


class UMBPDistributedConfig(Struct):
    __slots__ = ()
    master_config = Nested(UMBPMasterClientConfig)
    io_engine = Nested(UMBPIoEngineConfig)
    staging_buffer_size = Count(64 * MIB)
    ssd_staging_buffer_size = Count(256 * MIB)
    ssd_staging_buffer_slots = Count(16, bits=32, signed=True)
    peer_service_port = Count(0, bits=16)
    cache_remote_fetches = Bool(True)
    cache_remote_admission = Enumerated(CacheRemoteAdmission.SIZE)
    admission_max_block_bytes = Count(16 * MIB)
    dram_page_size = Count(0)
    # Of the public project's unmerged branches:
    ranged_scratch_size = Count(0)
    ssd_staging_use_hugepages = Bool(False)
    ssd_staging_hugepage_size = Count(2 * MIB)
    medium = Enumerated(UMBPMedium.DRAM)
    hbm = Nested(UMBPHbmConfig)


class UMBPStandaloneProcessConfig(Struct):
    __slots__ = ()
    address = Text("")
    auto_start = Bool(False)
    startup_timeout_ms = Count(30000, bits=32, signed=True)
    worker_node_id = Text("")
    worker_node_address = Text("")
    tags = Texts()


class UMBPConfig(Struct):
    __slots__ = ()
    dram = Nested(UMBPDramConfig)
    ssd = Nested(UMBPSsdConfig)
    eviction = Nested(UMBPEvictionConfig)
    copy_pipeline = Nested(UMBPCopyPipelineConfig)
    role = Enumerated(UMBPRole.Standalone)
    follower_mode = Bool(False)
    force_ssd_copy_on_write = Bool(False)
    distributed = Optional(UMBPDistributedConfig)
    standalone_process = Optional(UMBPStandaloneProcessConfig)

    @staticmethod
    def from_environment():
        """A configuration with what the UMBP_* variables say."""
        from ._environment import load

        config = UMBPConfig()
        load(config)
        return config

    def resolve_role(self):
        """The role that counts: a role, or what the older two fields ask for."""
        if self.role is not UMBPRole.Standalone:
            return self.role
        if self.follower_mode:
            return UMBPRole.SharedSSDFollower
        if self.force_ssd_copy_on_write:
            return UMBPRole.SharedSSDLeader
        return UMBPRole.Standalone
