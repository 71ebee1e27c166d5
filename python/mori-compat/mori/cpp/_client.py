# SPDX-License-Identifier: Apache-2.0
"""UMBPClient: the published calls over umbp.Client.

Batches go to the extension as they came; what is added is one call and the turning of statuses into
bools, for which a batch that went well needs no look at its items.
"""

import ctypes
import errno
import logging
import os

import umbp

from . import _external, _mapping
from ._config import UMBPConfig
from ._enums import MemoryLocationType, UMBPDeploymentMode, UMBPRole

__all__ = ["UMBPClient"]

_log = logging.getLogger("mori.umbp")

_OK = umbp.Status.OK
_EXISTS = umbp.Status.ALREADY_EXISTS
_NO_DEPTH = 0xFFFFFFFF


def _got(statuses):
    """Bools of a get: OK alone."""
    if statuses.count(_OK) == len(statuses):
        return [True] * len(statuses)
    return [status is _OK for status in statuses]


def _stored(statuses):
    """Bools of a put: stored, or there already."""
    count = len(statuses)
    stored = statuses.count(_OK)
    if stored == count or stored + statuses.count(_EXISTS) == count:
        return [True] * count
    return [status is _OK or status is _EXISTS for status in statuses]


def _cpu_can_read(pointer, size):
    """Whether the first and the last byte can be read, asked of the kernel and not by trying."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.write.restype = ctypes.c_ssize_t
    libc.write.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    reader, writer = os.pipe()
    try:
        for at in (pointer, pointer + size - 1):
            if libc.write(writer, at, 1) != 1:
                code = ctypes.get_errno()
                if code != errno.EFAULT:
                    _log.warning("register_memory could not look at memory: %s", os.strerror(code))
                return False
        return True
    finally:
        os.close(reader)
        os.close(writer)


def _shapes_differ(key_count, columns):
    """Whether ranged arguments are badly shaped: outer lengths, or one key's inner ones."""
    if any(len(column) != key_count for column in columns):
        return True
    return any(len({len(inner) for inner in inners}) > 1 for inners in zip(*columns))


class UMBPClient:
    """A client of what the configuration describes. Misses and failures are False."""

    def __init__(self, config=None):
        if config is None:
            config = UMBPConfig()
        if not isinstance(config, UMBPConfig):
            raise TypeError("config is a UMBPConfig, not %r" % (config,))
        self._native = None
        try:
            _mapping.validate(config)
            _mapping.refuse_what_is_not_here(config)
            native = umbp.Config()
            native.load_env()  # what no field speaks for; every field's option is set below
            for name, value in _mapping.options_of(config):
                native.set(name, value)
            _mapping.make_directory(config)
            self._native = umbp.Client(native)
        except (_mapping.Invalid, umbp.Error) as error:
            raise RuntimeError("invalid UMBP config: %s" % error) from error
        self._is_distributed = config.distributed is not None
        self._reads_only = (
            not self._is_distributed and config.resolve_role() is UMBPRole.SharedSSDFollower
        )
        if self._is_distributed and not _external.wait_until_known(self._native):
            _log.warning("no master has registered this node yet; it goes on trying")

    def close(self):
        """End service now. Later calls are False."""
        if self._native is not None:
            try:
                self._native.close()
            except umbp.Error as error:
                _log.warning("close: %s", error)

    def __del__(self):
        # The published binding has no close: the last reference is the end.
        if getattr(self, "_native", None) is not None and not self._native.closed:
            self.close()

    # ---- single values

    def put_from_ptr(self, key, src, size):
        if self._reads_only:
            return False
        try:
            self._native.put(key, (src, size))
        except umbp.Error:
            return False
        return True

    def get_into_ptr(self, key, dst, size):
        try:
            self._native.get(key, (dst, size))
        except umbp.Error:
            return False
        return True

    def exists(self, key):
        try:
            return self._native.exists(key)
        except umbp.Error:
            return False

    # ---- batches

    def batch_put_from_ptr(self, keys, ptrs, sizes):
        if self._reads_only:
            return [False] * len(keys)
        try:
            return _stored(self._native.batch_put(keys, ptrs, sizes))
        except umbp.Error:
            return self._in_parts(self.batch_put_from_ptr, keys, ptrs, sizes)

    def batch_put_from_ptr_with_depth(self, keys, ptrs, sizes, depths):
        if self._reads_only:
            return [False] * len(keys)
        count = len(keys)
        if len(depths) != count or (count and min(depths) < 0):
            depths = [depth if depth >= 0 else _NO_DEPTH for depth in depths[:count]]
            depths += [_NO_DEPTH] * (count - len(depths))
        try:
            return _stored(self._native.batch_put(keys, ptrs, sizes, depths))
        except umbp.Error:
            return self._in_parts(self.batch_put_from_ptr_with_depth, keys, ptrs, sizes, depths)

    def batch_get_into_ptr(self, keys, ptrs, sizes):
        try:
            return _got(self._native.batch_get(keys, ptrs, sizes))
        except umbp.Error:
            return self._in_parts(self.batch_get_into_ptr, keys, ptrs, sizes)

    def batch_exists(self, keys):
        try:
            return self._native.batch_exists(keys)
        except umbp.Error:
            return self._in_parts(self.batch_exists, keys)

    def batch_exists_consecutive(self, keys):
        hits = 0
        for at in range(0, len(keys), umbp.BATCH_MAX):
            part = keys[at : at + umbp.BATCH_MAX]
            try:
                found = self._native.batch_exists_consecutive(part)
            except umbp.Error:
                break
            hits += found
            if found < len(part):
                break
        return hits

    def _in_parts(self, call, keys, *columns):
        """A batch that failed as a whole: too large for one call, or a client that is closed."""
        if len(keys) <= umbp.BATCH_MAX:
            return [False] * len(keys)
        results = []
        for at in range(0, len(keys), umbp.BATCH_MAX):
            end = at + umbp.BATCH_MAX
            results += call(keys[at:end], *(column[at:end] for column in columns))
        return results

    # ---- ranges

    def supports_ranged_io(self):
        return not self._reads_only

    def batch_put_ranges_from_ptr(
        self, keys, object_sizes, ptrs, sizes, dst_offsets=None, *, offsets=None
    ):
        offsets = self._offsets("dst_offsets", dst_offsets, offsets)
        if self._reads_only:
            return [False] * len(keys)
        try:
            return _stored(self._native.batch_put_ranges(keys, object_sizes, ptrs, sizes, offsets))
        except umbp.Error:
            return self._in_parts(
                self.batch_put_ranges_from_ptr, keys, object_sizes, ptrs, sizes, offsets
            )
        except ValueError:
            if len(object_sizes) == len(keys) and not _shapes_differ(
                len(keys), (ptrs, sizes, offsets)
            ):
                raise
            return [False] * len(keys)

    def batch_get_ranges_into_ptr(self, keys, ptrs, sizes, src_offsets=None, *, offsets=None):
        offsets = self._offsets("src_offsets", src_offsets, offsets)
        try:
            return _got(self._native.batch_get_ranges(keys, ptrs, sizes, offsets))
        except umbp.Error:
            return self._in_parts(self.batch_get_ranges_into_ptr, keys, ptrs, sizes, offsets)
        except ValueError:
            if not _shapes_differ(len(keys), (ptrs, sizes, offsets)):
                raise
            return [False] * len(keys)

    @staticmethod
    def _offsets(name, published, ours):
        if (published is None) == (ours is None):
            raise TypeError("give %s (or offsets), and only once" % name)
        return published if ours is None else ours

    # ---- upkeep

    def clear(self):
        try:
            self._native.clear()
        except umbp.Error as error:
            _log.warning("clear: %s", error)
            return False
        return True

    def flush(self):
        try:
            self._native.flush()
        except umbp.Error as error:
            _log.warning("flush: %s", error)
            return False
        return True

    # ---- what it is

    def is_distributed(self):
        return self._is_distributed

    def get_deployment_mode(self):
        if self._is_distributed:
            return UMBPDeploymentMode.Distributed
        return UMBPDeploymentMode.Local

    def get_backend_mode(self):
        return self.get_deployment_mode()

    # ---- memory

    def register_memory(self, ptr, size, loc=MemoryLocationType.CPU, device=-1):
        """For the network, where there is one. GPU memory can't be used here."""
        if not isinstance(loc, MemoryLocationType):
            raise TypeError("loc is a MemoryLocationType, not %r" % (loc,))
        if ptr <= 0 or size <= 0:
            return False
        if loc is MemoryLocationType.GPU or not _cpu_can_read(ptr, size):
            _log.warning("register_memory: the CPU can't read %#x; GPU memory is not for this "
                         "version of umbp", ptr)
            return False
        if not self._is_distributed:
            return True
        try:
            self._native.register_memory(ptr, size)
        except umbp.AlreadyExistsError:
            return True
        except umbp.Error as error:
            _log.warning("register_memory: %s", error)
            return False
        return True

    def deregister_memory(self, ptr):
        if self._is_distributed:
            try:
                self._native.deregister_memory(ptr)
            except umbp.Error:
                pass  # it was not registered

    # ---- blocks that the engine holds itself. Local has nobody to tell, as published

    def report_external_kv_blocks(self, hashes, tier):
        _external.check_tier(tier)
        return self._tell(self._native.external_report, hashes, tier)

    def revoke_external_kv_blocks(self, hashes, tier):
        _external.check_tier(tier)
        return self._tell(self._native.external_revoke, hashes, tier)

    def revoke_all_external_kv_blocks_at_tier(self, tier):
        _external.check_tier(tier)
        if not self._is_distributed:
            return True
        try:
            _external.revoke_all(self._native, tier)
        except umbp.Error as error:
            _log.warning("external KV: %s", error)
            return False
        return True

    def _tell(self, call, hashes, tier):
        if not self._is_distributed:
            return True
        try:
            _external.tell(call, hashes, tier)
        except umbp.Error as error:
            _log.warning("external KV: %s", error)
            return False
        return True

    def match_external_kv(self, hashes, count_as_hit=False):
        if not self._is_distributed:
            return []
        try:
            return _external.matches(
                self._native, hashes, count_as_hit, _external.UMBPExternalKvMatch
            )
        except umbp.Error as error:
            _log.warning("external KV: %s", error)
            return []

    def get_external_kv_hit_counts(self, hashes):
        if not self._is_distributed:
            return []
        try:
            return _external.hit_counts(self._native, hashes)
        except umbp.Error as error:
            _log.warning("external KV: %s", error)
            return []
