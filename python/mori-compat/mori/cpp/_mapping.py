# SPDX-License-Identifier: Apache-2.0
"""A UMBPConfig as umbp's options. docs/compatibility.md has the table for people."""

import logging
import os

from ._enums import CacheRemoteAdmission, UMBPDurabilityMode, UMBPIoBackend, UMBPRole

_log = logging.getLogger("mori.umbp")

_DRAM_LEAST = 4096
_SSD_LEAST = 1 << 20
_SEGMENT_LEAST = 64 << 10
_SEGMENT_MOST = 16 << 30
_DRIVERS = {"file": None, "posix": "posix", "io_uring": "io_uring"}
_NOT_HERE = ("spdk", "spdk_proxy", "dummy_storage")
_POLICIES = ("lru", "prefix_aware_lru", "s3fifo")


class Invalid(ValueError):
    """The configuration can't be used; str() says why."""


def _is_power_of_two(number):
    return number & (number - 1) == 0


def validate(config):
    """What the public UMBP refuses, in its order."""
    dram, ssd, copy = config.dram, config.ssd, config.copy_pipeline
    distributed, process = config.distributed, config.standalone_process
    checks = [
        (dram.capacity_bytes > 0, "dram.capacity_bytes must be > 0"),
        (not ssd.enabled or ssd.capacity_bytes > 0, "ssd.capacity_bytes must be > 0"),
        (not ssd.enabled or ssd.segment_size_bytes > 0, "ssd.segment_size_bytes must be > 0"),
        (
            not dram.use_hugepages or _is_power_of_two(dram.hugepage_size),
            "dram.hugepage_size must be a power of two",
        ),
        (copy.queue_depth > 0, "copy_pipeline.queue_depth must be > 0"),
        (copy.worker_threads > 0, "copy_pipeline.worker_threads must be > 0"),
        (copy.batch_max_ops > 0, "copy_pipeline.batch_max_ops must be > 0"),
        (ssd.spdk_proxy_max_channels > 0, "ssd.spdk_proxy_max_channels must be > 0"),
    ]
    if distributed is not None:
        for name in ("master_address", "node_id", "node_address"):
            checks.append(
                (
                    getattr(distributed.master_config, name) != "",
                    "distributed.master_config.%s must not be empty" % name,
                )
            )
        checks.append(
            (process is None, "distributed and standalone_process are mutually exclusive")
        )
    if process is not None:
        checks.append((process.address != "", "standalone_process.address must not be empty"))
        checks.append(
            (process.startup_timeout_ms > 0, "standalone_process.startup_timeout_ms must be > 0")
        )
    checks.append(
        (
            not ssd.enabled or ssd.ssd_backend in _DRIVERS or ssd.ssd_backend in _NOT_HERE,
            "ssd.ssd_backend must be one of: file, spdk, spdk_proxy, dummy_storage",
        )
    )
    checks.append(
        (
            not ssd.enabled or 0 < ssd.low_watermark < ssd.high_watermark <= 1,
            "ssd watermarks must satisfy 0 < low_watermark < high_watermark <= 1",
        )
    )
    for holds, message in checks:
        if not holds:
            raise Invalid(message)


def refuse_what_is_not_here(config):
    if config.standalone_process is not None:
        raise Invalid(
            "standalone_process is set, and this version of umbp has no node daemon: leave "
            "config.standalone_process at None (SGLang: unset UMBP_STANDALONE_ADDRESS)"
        )
    if config.ssd.enabled and config.ssd.ssd_backend in _NOT_HERE:
        raise Invalid(
            "ssd.ssd_backend is %s, which this version of umbp does not have: use file"
            % config.ssd.ssd_backend
        )


def _clamp(name, value, least, most):
    taken = min(max(value, least), most)
    if taken != value:
        _log.warning("%s is %d; %d is used, the nearest that umbp takes", name, value, taken)
    return taken


def _watermarks(struct, prefix):
    """Passed on as a pair if one was chosen; else umbp's own defaults (None)."""
    if not struct._is_touched("high_watermark", "low_watermark"):
        return [(prefix + ".high_watermark", None), (prefix + ".low_watermark", None)]
    low = min(struct.low_watermark, struct.high_watermark)
    return [
        (prefix + ".high_watermark", "%.6f" % struct.high_watermark),
        (prefix + ".low_watermark", "%.6f" % low),
    ]


def _dram_options(dram, in_pool):
    # Neighbours on the host read a node of the pool fastest where they can map its memory.
    shared = dram.use_shared_memory or (in_pool and not dram._is_touched("use_shared_memory"))
    kind = {
        (False, False): "anonymous",
        (False, True): "huge_pages",
        (True, False): "shared",
        (True, True): "shared_huge_pages",
    }[shared, dram.use_hugepages]
    return [
        ("dram.bytes", str(_clamp("dram.capacity_bytes", dram.capacity_bytes, _DRAM_LEAST, 1 << 46))),
        ("dram.backing", kind),
        ("dram.numa_node", "any" if dram.numa_node < 0 else str(dram.numa_node)),
        ("dram.prefault", "true" if dram.prefault else "false"),
    ] + _watermarks(dram, "dram")


def _ssd_options(ssd):
    capacity = _clamp("ssd.capacity_bytes", ssd.capacity_bytes, _SSD_LEAST, 1 << 50)
    segment = ssd.segment_size_bytes
    if ssd._is_touched("segment_size_bytes"):
        segment = _clamp("ssd.segment_size_bytes", segment, _SEGMENT_LEAST, _SEGMENT_MOST)
    options = [
        ("ssd.enabled", "true"),
        ("ssd.dir", ssd.storage_dir),
        ("ssd.bytes", str(capacity)),
        ("ssd.segment_bytes", str(min(segment, capacity // 8))),
        (
            "ssd.durability",
            "strict" if ssd.durability.mode is UMBPDurabilityMode.Strict else "relaxed",
        ),
    ]
    driver = _DRIVERS[ssd.ssd_backend]
    if driver is None and ssd.io._is_touched("backend"):
        driver = "posix" if ssd.io.backend is UMBPIoBackend.Posix else "auto"
    if driver is not None:
        options.append(("ssd.driver", driver))
    if ssd.io._is_touched("queue_depth"):
        options.append(("ssd.queue_depth", str(min(ssd.io.queue_depth, 1024))))
    return options + _watermarks(ssd, "ssd")


_ADMISSIONS = {
    CacheRemoteAdmission.SIZE: "size",
    CacheRemoteAdmission.NEVER: "never",
    CacheRemoteAdmission.ALWAYS: "always",
}
_ANY_ADDRESS = ("", "0.0.0.0", "::", "*")
_STAGING_LEAST = 1 << 20
_STAGING_MOST = 64 << 30


def host_of(address):
    """Of "host", "host:port", "[v6]" and "[v6]:port"."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


def _pool_options(distributed):
    master, engine = distributed.master_config, distributed.io_engine
    # The published recipes leave the engine's host at 127.0.0.1 and name the node's address.
    host = host_of(master.node_address)
    if host in _ANY_ADDRESS:
        host = host_of(engine.host)
    tags = []
    for tag in master.tags:
        if "," in tag or not tag.strip():
            raise Invalid("distributed.master_config.tags: %r: a tag is key=value, without a comma"
                          % tag)
        tags.append(tag.strip())
    recache = "never"
    if distributed.cache_remote_fetches:
        recache = _ADMISSIONS[distributed.cache_remote_admission]
    options = [
        ("scheme", "pool"),
        ("pool.serve", "true"),
        ("pool.masters", master.master_address),
        ("pool.node_id", master.node_id),
        ("pool.address", "" if host in _ANY_ADDRESS else host),
        ("pool.port", str(engine.port or distributed.peer_service_port)),
        ("pool.tags", ",".join(tags)),
        ("pool.recache", recache),
        ("pool.recache_bytes", str(min(distributed.admission_max_block_bytes, 1 << 40))),
    ]
    for field, option in (("staging_buffer_size", "pool.staging_bytes"),
                          ("ssd_staging_buffer_size", "pool.ssd_staging_bytes")):
        taken = _clamp("distributed." + field, getattr(distributed, field), _STAGING_LEAST,
                       _STAGING_MOST)
        options.append((option, str(taken)))
    return options


def options_of(config):
    """Names and values for umbp.Config.set, of a configuration that `validate` let pass."""
    # In the pool every process has a store, and a directory, of its own.
    role = config.resolve_role() if config.distributed is None else UMBPRole.Standalone
    policy = config.eviction.policy
    if policy not in _POLICIES:
        _log.warning("eviction.policy is %r, which is none; lru is used", policy)
        policy = "lru"
    copy = config.copy_pipeline
    options = _dram_options(config.dram, config.distributed is not None)
    if config.ssd.enabled:
        options += _ssd_options(config.ssd)
        options.append(
            (
                "role",
                {
                    UMBPRole.Standalone: "standalone",
                    UMBPRole.SharedSSDLeader: "leader",
                    UMBPRole.SharedSSDFollower: "follower",
                }[role],
            )
        )
        if role is UMBPRole.SharedSSDLeader:
            options.append(("copy.mode", "on_commit"))
    else:
        options += [("ssd.enabled", "false"), ("role", "standalone")]
    return options + [
        ("eviction.policy", policy),
        (
            "eviction.candidate_window",
            str(_clamp("eviction.candidate_window", config.eviction.candidate_window or 1, 1, 4096)),
        ),
        ("promote.on_read", "true" if config.eviction.auto_promote_on_read else "false"),
        (
            "copy.workers",
            str(_clamp("copy_pipeline.worker_threads", copy.worker_threads, 1, 16)),
        ),
        (
            "copy.queue_depth",
            str(_clamp("copy_pipeline.queue_depth", copy.queue_depth, 1, 1 << 20)),
        ),
    ] + (
        [("scheme", "local")] if config.distributed is None else _pool_options(config.distributed)
    )


def make_directory(config):
    """The public UMBP makes the whole path; umbp only the last part."""
    if config.ssd.enabled and config.ssd.storage_dir:
        try:
            os.makedirs(config.ssd.storage_dir, exist_ok=True)
        except OSError:
            pass  # the client says what is wrong with it, and how
