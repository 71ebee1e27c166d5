# SPDX-License-Identifier: Apache-2.0
"""UMBP_* variables into a configuration.

The library reads the same names with the same grammar, and is asked to do so first: it warns, once
for each name and process, of values that can't be read. What is read here takes the good ones and
leaves the fields at their defaults for the others; it warns itself only of names that the library
does not know. A variable that is set to nothing counts as not set.
"""

import logging
import os
import re
import threading

import umbp

from ._enums import UMBPDurabilityMode, UMBPRole

_log = logging.getLogger("mori.umbp")
_warned = set()
_warned_lock = threading.Lock()

_UNITS = {
    "": 1,
    "b": 1,
    **{u: 1024**n for n, u in enumerate(("k", "m", "g", "t", "p"), 1)},
    **{u + "ib": 1024**n for n, u in enumerate(("k", "m", "g", "t", "p"), 1)},
    **{u + "b": 1000**n for n, u in enumerate(("k", "m", "g", "t", "p"), 1)},
}
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


class Bad(ValueError):
    """A value that can't be read."""


def parse_size(text):
    match = re.fullmatch(r"(\d+)(?:\.(\d{1,6}))?\s*([a-zA-Z]*)", text)
    unit = _UNITS.get(match.group(3).lower()) if match else None
    if unit is None:
        raise Bad("not a size")
    whole, part = match.group(1), match.group(2) or ""
    scaled = int(whole + part) * unit
    if scaled % 10 ** len(part) != 0:
        raise Bad("not a whole number of bytes")
    return scaled // 10 ** len(part)


def parse_bool(text):
    word = text.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise Bad("not a bool")


def parse_fraction(text):
    match = re.fullmatch(r"(\d*\.?\d*)(%?)", text)
    if not match or not re.search(r"\d", match.group(1)):
        raise Bad("not a fraction")
    value = float(match.group(1)) / (100 if match.group(2) else 1)
    if not 0.01 <= value <= 1:
        raise Bad("a fraction is from 0.01 to 1")
    return value


def parse_count(text):
    if not re.fullmatch(r"\d+", text):
        raise Bad("not a count")
    return int(text)


def parse_node(text):
    if text.lower() in ("any", "-1"):
        return -1
    node = parse_count(text)
    if node > 1023:
        raise Bad("not a node")
    return node


def parse_policy(text):
    if text.lower() not in ("lru", "prefix_aware_lru", "s3fifo"):
        raise Bad("no such policy")
    return text.lower()


def parse_durability(text):
    words = {"strict": UMBPDurabilityMode.Strict, "relaxed": UMBPDurabilityMode.Relaxed}
    if text.lower() not in words:
        raise Bad("strict or relaxed")
    return words[text.lower()]


def parse_role(text):
    words = {
        "leader": UMBPRole.SharedSSDLeader,
        "follower": UMBPRole.SharedSSDFollower,
        "standalone": UMBPRole.Standalone,
    }
    if text.lower() not in words:
        raise Bad("leader, follower or standalone")
    return words[text.lower()]


# Where a value goes, how it is read, the names (the first that holds a good value counts).
_LIBRARY_KNOWS = (
    ("dram.capacity_bytes", parse_size, ("UMBP_DRAM_CAPACITY", "UMBP_DRAM_BYTES")),
    ("dram.high_watermark", parse_fraction, ("UMBP_DRAM_HIGH_WM", "UMBP_DRAM_HIGH_WATERMARK")),
    ("dram.low_watermark", parse_fraction, ("UMBP_DRAM_LOW_WM", "UMBP_DRAM_LOW_WATERMARK")),
    ("dram.use_hugepages", parse_bool, ("UMBP_DRAM_USE_HUGEPAGES",)),
    ("dram.numa_node", parse_node, ("UMBP_DRAM_NUMA_NODE",)),
    ("dram.prefault", parse_bool, ("UMBP_DRAM_PREFAULT",)),
    ("ssd.enabled", parse_bool, ("UMBP_SSD_ENABLED",)),
    ("ssd.storage_dir", str, ("UMBP_SSD_DIR",)),
    ("ssd.capacity_bytes", parse_size, ("UMBP_SSD_CAPACITY", "UMBP_SSD_BYTES")),
    ("ssd.high_watermark", parse_fraction, ("UMBP_SSD_HIGH_WM", "UMBP_SSD_HIGH_WATERMARK")),
    ("ssd.low_watermark", parse_fraction, ("UMBP_SSD_LOW_WM", "UMBP_SSD_LOW_WATERMARK")),
    ("ssd.ssd_backend", str.lower, ("UMBP_SSD_BACKEND",)),
    ("ssd.durability.mode", parse_durability, ("UMBP_SSD_DURABILITY",)),
    ("eviction.policy", parse_policy, ("UMBP_EVICTION_POLICY",)),
)

_ONLY_HERE = (
    ("dram.hugepage_size", parse_size, ("UMBP_DRAM_HUGEPAGE_SIZE",)),
    ("ssd.spdk_nvme_pci_addr", str, ("UMBP_SPDK_NVME_PCI",)),
    ("ssd.spdk_bdev_name", str, ("UMBP_SPDK_BDEV",)),
    ("ssd.spdk_reactor_mask", str, ("UMBP_SPDK_REACTOR_MASK",)),
    ("ssd.spdk_mem_size_mb", parse_count, ("UMBP_SPDK_MEM_MB",)),
    ("ssd.spdk_nvme_ctrl_name", str, ("UMBP_SPDK_NVME_CTRL",)),
    ("ssd.spdk_io_workers", parse_count, ("UMBP_SPDK_IO_WORKERS",)),
    ("ssd.spdk_proxy_shm_name", str, ("UMBP_SPDK_PROXY_SHM",)),
    ("ssd.spdk_proxy_tenant_id", parse_count, ("UMBP_SPDK_PROXY_TENANT_ID",)),
    ("ssd.spdk_proxy_tenant_quota_bytes", parse_size, ("UMBP_SPDK_PROXY_TENANT_QUOTA_BYTES",)),
    (
        "ssd.spdk_proxy_max_channels",
        parse_count,
        ("UMBP_SPDK_PROXY_MAX_CHANNELS", "UMBP_SPDK_PROXY_MAX_RANKS"),
    ),
    (
        "ssd.spdk_proxy_data_per_channel_mb",
        parse_count,
        ("UMBP_SPDK_PROXY_DATA_PER_CHANNEL_MB", "UMBP_SPDK_PROXY_DATA_MB"),
    ),
    ("ssd.spdk_proxy_bin", str, ("UMBP_SPDK_PROXY_BIN",)),
    ("ssd.spdk_proxy_startup_timeout_ms", parse_count, ("UMBP_SPDK_PROXY_TIMEOUT_MS",)),
    ("ssd.spdk_proxy_auto_start", parse_bool, ("UMBP_SPDK_PROXY_AUTO_START",)),
    ("ssd.spdk_proxy_idle_exit_timeout_ms", parse_count, ("UMBP_SPDK_PROXY_IDLE_EXIT_TIMEOUT_MS",)),
    ("ssd.spdk_proxy_allow_borrow", parse_bool, ("UMBP_SPDK_PROXY_ALLOW_BORROW",)),
    (
        "ssd.spdk_proxy_reserved_shared_bytes",
        parse_size,
        ("UMBP_SPDK_PROXY_RESERVED_SHARED_BYTES",),
    ),
)

_RANKS = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID")


def _warn_once(name, text, why):
    with _warned_lock:
        if name in _warned:
            return
        _warned.add(name)
    _log.warning("%s=%r is not taken (%s); its default counts", name, text[:80], why)


def _assign(config, path, value):
    *outer, name = path.split(".")
    for part in outer:
        config = getattr(config, part)
    setattr(config, name, value)


def _take(config, path, parse, names, warn):
    for name in names:
        text = os.environ.get(name, "").strip()
        if not text:
            continue
        try:
            _assign(config, path, parse(text))
            return
        except (Bad, TypeError) as error:
            if warn:
                _warn_once(name, text, str(error))


def _role():
    text = os.environ.get("UMBP_ROLE", "").strip()
    if text:
        try:
            return parse_role(text)
        except Bad:
            return UMBPRole.Standalone
    for name in _RANKS:
        text = os.environ.get(name, "").strip()
        if text:
            if not re.fullmatch(r"\d+", text):
                return UMBPRole.Standalone
            return UMBPRole.SharedSSDLeader if int(text) == 0 else UMBPRole.SharedSSDFollower
    return UMBPRole.Standalone


def load(config):
    """Take what the environment says into a UMBPConfig."""
    umbp.Config().load_env()  # for its warnings
    for path, parse, names in _LIBRARY_KNOWS:
        _take(config, path, parse, names, warn=False)
    for path, parse, names in _ONLY_HERE:
        _take(config, path, parse, names, warn=True)
    if "UMBP_SPDK_NVME_PCI" in os.environ and "UMBP_SSD_BACKEND" not in os.environ:
        config.ssd.ssd_backend = "spdk"
    config.role = _role()
