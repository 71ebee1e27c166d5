# SPDX-License-Identifier: Apache-2.0
"""SGLang's HiCache on umbp, by its dynamic backend:

    --hicache-storage-backend dynamic --hicache-storage-backend-extra-config '{
        "backend_name": "umbp", "module_path": "umbp.sglang", "class_name": "UmbpStorage",
        "interface_v1": 1, "umbp": {"dram.bytes": "64GiB", "ssd.dir": "/var/lib/umbp"}}'

"umbp" holds options of umbp by name, "umbp_config" the path of a file of them; the environment
counts below both. With "interface_v1" pages go between SGLang's host pool and the store without a
copy in between; without it SGLang flattens each page into a tensor first.

A page is one value, however many pieces of memory it has. A value's key is the page's hash, then
the pool and a digest of all that its bytes depend on: model, ranks, page size, dtype, layout, sizes.
So no model, rank or layout can read what another wrote, even out of one directory.

Ranks. Each has a store of its own: `dram.bytes` of memory, and where `ssd.dir` is set a directory
below it. Where all ranks of a group hold the same bytes (MLA), SGLang has one of them write; that
one leads and the others follow it in one directory, which they therefore need. Sidecar pools that
differ by rank though the KV does not (Mamba states beside MLA) are not stored on followers.

The pool. With "scheme": "pool" and "pool.masters" each rank is a node of one cluster, which holds
pages for all of them, on whatever machine: every rank writes, and who comes second with a page that
is there has stored it. There are no followers; each rank that has an SSD has a directory of its own.
pool.node_id gets the rank's name behind it, and pool.port, where it is given, the rank's number added.

Threading: every method may be called from any thread. No method raises for a miss or for a store
that fails: it answers "not there", and says so in the log at most once a minute.
"""

import hashlib
import logging
import os
import threading
import time

import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage

import umbp

__all__ = ["UmbpStorage"]

_log = logging.getLogger(__name__)

_COMPLAIN_SECONDS = 60.0
_SHAPE = ("layer_num", "start_layer", "end_layer", "head_num", "head_dim", "v_head_dim")
_OK = umbp.Status.OK
_EXISTS = umbp.Status.ALREADY_EXISTS


class _Ranks:
    """Where this process is, from a HiCacheStorageConfig of any version."""

    def __init__(self, config):
        def number(name, default):
            value = getattr(config, name, None)
            return default if value is None else value

        self.model = number("model_name", "") or "model"
        self.replicated = bool(number("is_mla_model", False))
        self.tp = (number("tp_rank", 0), number("tp_size", 1))
        self.dp = number("dp_rank", 0)
        self.stages = {
            "pp": (number("pp_rank", 0), number("pp_size", 1)),
            "cp": (number("attn_cp_rank", 0), number("attn_cp_size", 1)),
            "dcp": (number("dcp_rank", 0), number("dcp_size", 1)),
        }
        self.logical_page_size = number("logical_page_size", 0)
        self.splits = 1
        self.tp_lcm_size = number("tp_lcm_size", 0)
        if number("should_split_heads", False):
            self.splits = self.tp_lcm_size // self.tp[1]
        self.writes = number(
            "is_storage_writer", not self.replicated or self.tp[0] == self.stages["dcp"][0]
        )
        self.shares = self.replicated and self.tp[1] > self.stages["dcp"][1]

    def name(self, shared):
        """Of this rank; `shared`: the same for ranks that hold the same bytes."""
        parts = [] if self.replicated and shared else ["tp%dof%d" % self.tp]
        parts += ["%s%dof%d" % (name, *rank) for name, rank in self.stages.items() if rank[1] > 1]
        if self.dp:
            parts.append("dp%d" % self.dp)
        return "_".join(parts) or "all"

    def number(self):
        """Of this rank, from 0."""
        number = self.dp
        for rank, size in (*self.stages.values(), self.tp):
            number = number * size + rank
        return number

    def folder(self, shared):
        """A path of its own for whoever must not share a directory."""
        model = "".join(c if c.isalnum() or c in "._-" else "-" for c in self.model).strip("-.")
        return os.path.join(model or "model", self.name(shared))


class _Pool:
    """One host pool: how its pages become values, and their keys."""

    def __init__(self, name, host_pool, ranks, flat):
        self.host_pool = host_pool
        self.page_size = getattr(host_pool, "page_size", 1) or 1
        self.holds_nothing = getattr(host_pool, "kv_buffer", self) is None
        self.splits = ranks.splits if name == "kv" and not flat else 1
        self.sharded = not ranks.replicated or name == "mamba"
        self.sizes = ()
        if not flat and not self.holds_nothing:
            self.sizes = self._look()
        self.suffixes = [self._suffix(name, ranks, split, flat) for split in range(self.splits)]

    def _meta(self, indices):
        if self.splits > 1:
            pointers, sizes = self.host_pool.get_split_heads_page_buffer_meta(indices, self.splits)
        else:
            pointers, sizes = self.host_pool.get_page_buffer_meta(indices)
        if isinstance(sizes, int):
            sizes = [sizes] * len(pointers)
        elif len(sizes) == 1 and len(pointers) != 1:
            sizes = list(sizes) * len(pointers)
        return pointers, sizes

    def _look(self):
        """The sizes of a page's pieces."""
        _, sizes = self._meta(torch.arange(self.page_size, dtype=torch.int64))
        if not sizes or len(sizes) % self.splits:
            raise ValueError("a page of this pool has %d pieces" % len(sizes))
        return tuple(int(size) for size in sizes)

    def _suffix(self, name, ranks, split, flat):
        what = [
            ("model", ranks.model),
            ("pool", str(name)),
            ("page", self.page_size, ranks.logical_page_size),
            ("layout", "flat" if flat else "pieces", str(getattr(self.host_pool, "layout", ""))),
            ("dtype", str(getattr(self.host_pool, "dtype", ""))),
            ("format", str(getattr(self.host_pool, "storage_format_tag", None))),
            ("sizes", self.sizes),
            ("shape", [getattr(self.host_pool, field, None) for field in _SHAPE]),
            sorted(ranks.stages.items()),
        ]
        if self.splits > 1:
            what.append(("split", ranks.tp[0] * self.splits + split, ranks.tp_lcm_size))
        elif self.sharded:
            what.append(("tp", ranks.tp))
        digest = hashlib.blake2b(repr(what).encode(), digest_size=8).hexdigest()
        return "/%s-%s" % (name, digest)

    def names(self, keys):
        if len(self.suffixes) == 1:
            suffix = self.suffixes[0]
            return [key + suffix for key in keys]
        return [key + suffix for key in keys for suffix in self.suffixes]

    def per_page(self, results):
        """Results of values as results of pages: all of a page's, or it failed."""
        if self.splits == 1:
            return results
        return [
            all(results[at : at + self.splits]) for at in range(0, len(results), self.splits)
        ]

    def pieces(self, keys, indices):
        """(pointers, sizes, offsets, pieces a value, bytes of each value), flat."""
        if len(indices) != len(keys) * self.page_size:
            raise ValueError(
                "%d indices for %d pages of %d" % (len(indices), len(keys), self.page_size)
            )
        pointers, sizes = self._meta(indices)
        if list(sizes) != list(self.sizes) * len(keys) or len(pointers) != len(sizes):
            raise ValueError("the pieces of this pool's pages have changed")
        each = len(self.sizes) // self.splits
        offsets, totals = [], []
        for at in range(0, len(self.sizes), each):
            total = 0
            for size in self.sizes[at : at + each]:
                offsets.append(total)
                total += size
            totals.append(total)
        return pointers, sizes, offsets * len(keys), each, totals * len(keys)


class UmbpStorage(HiCacheStorage):
    """HiCacheStorage over one umbp.Client."""

    def __init__(self, storage_config, _unused=None):
        extra = dict(getattr(storage_config, "extra_config", None) or {})
        self._ranks = _Ranks(storage_config)
        self._flat = not extra.get("interface_v1", 0)
        self._config = self._configure(extra)
        self._pools = {}
        self._complained = 0.0
        self._complaints_lock = threading.Lock()  # guards _complained
        self._client = umbp.Client(self._config)
        if self._flat:
            self._pools["kv"] = _Pool("kv", None, self._ranks, True)

    # ---- the configuration

    def _configure(self, extra):
        ranks = self._ranks
        config = umbp.Config()
        if extra.get("umbp_config"):
            config.load_file(extra["umbp_config"])
        config.load_env()
        options = extra.get("umbp") or {}
        if "role" in options:
            raise ValueError("umbp.sglang chooses the role itself, by SGLang's ranks")
        config.update(options)  # all of them: one may say the default against the environment
        config.set("role", "standalone")
        is_local = config.get("scheme") == "local"
        if config.get("scheme") == "pool":
            self._name_node(config)
        folder = config.get("ssd.dir")
        has_ssd = folder and config.get("ssd.bytes") and config.get("ssd.enabled") != "false"
        if is_local and ranks.shares and not has_ssd:
            raise ValueError(
                "%d ranks hold the same pages and one of them writes: the others read them from "
                "its directory, so name one in ssd.dir" % ranks.tp[1]
            )
        if has_ssd:
            folder = os.path.join(folder, ranks.folder(shared=is_local))
            os.makedirs(folder, exist_ok=True)
            config.set("ssd.dir", folder)
        if is_local and ranks.shares:
            config.set("role", "leader" if ranks.writes else "follower")
        return config

    def _name_node(self, config):
        """Ranks of one machine read the same options and environment, and are nodes of their own."""
        ranks = self._ranks
        if config.get("pool.node_id"):
            config.set("pool.node_id", "%s/%s" % (config.get("pool.node_id"), ranks.name(False)))
        if config.get("pool.port"):
            config.set("pool.port", config.get("pool.port") + ranks.number())

    # ---- host pools

    def register_mem_pool_host(self, mem_pool_host):
        super().register_mem_pool_host(mem_pool_host)
        if not self._flat:
            self._pools["kv"] = self._pool("kv", mem_pool_host)

    def register_mem_host_pool_v2(self, host_pool, host_pool_name):
        super().register_mem_host_pool_v2(host_pool, host_pool_name)
        if str(host_pool_name) == "kv":
            return
        pool = self._pool(str(host_pool_name), host_pool)
        if pool.sharded and self._config.get("role") == "follower":
            _log.warning("pool %s differs by rank and is not stored on followers", host_pool_name)
        self._pools[str(host_pool_name)] = pool

    def _pool(self, name, host_pool):
        if self._client.is_distributed:
            self._announce(host_pool)
        try:
            return _Pool(name, host_pool, self._ranks, False)
        except (NotImplementedError, AttributeError, AssertionError, TypeError, ValueError) as error:
            raise ValueError(
                "host pool %s does not say where its pages are (%s: %s); choose another "
                "--hicache-mem-layout, or leave interface_v1 out"
                % (name, type(error).__name__, error)
            ) from error

    def _announce(self, host_pool):
        """The pool's memory, for a network that wants it registered; others go through staging."""
        getter = getattr(host_pool, "get_hybrid_pool_buffer", None)
        buffers = (getter() if getter is not None else None) or [
            getattr(host_pool, "kv_buffer", None)
        ]
        for buffer in buffers:
            for tensor in buffer if isinstance(buffer, (list, tuple)) else [buffer]:
                if not isinstance(tensor, torch.Tensor) or tensor.numel() == 0:
                    continue
                storage = tensor.untyped_storage()
                if tensor.device.type != "cpu":
                    continue
                try:
                    self._client.register_memory(storage.data_ptr(), storage.nbytes())
                except umbp.AlreadyExistsError:
                    pass  # several tensors of one storage
                except umbp.Error as error:
                    _log.warning("host memory was not registered: %s", error)

    def _complain(self, what, error):
        now = time.monotonic()
        with self._complaints_lock:
            if self._complained and now - self._complained < _COMPLAIN_SECONDS:
                return
            self._complained = now
        _log.warning("%s: %s", what, error)

    # ---- pages

    def _put(self, pool, keys, indices, depths):
        pointers, sizes, offsets, each, totals = pool.pieces(keys, indices)
        names = pool.names(keys)
        if depths is not None and pool.splits > 1:
            depths = [depth for depth in depths for _ in range(pool.splits)]
        try:
            if each == 1:
                results = self._client.batch_put(names, pointers, totals, depths)
            else:
                results = self._client.batch_put_ranges(
                    names, totals, pointers, sizes, offsets, each, depths
                )
        except umbp.Error as error:
            self._complain("pages were not stored", error)
            return [False] * len(keys)
        stored = [status is _OK or status is _EXISTS for status in results]
        if not all(stored):
            status = next(s for s, good in zip(results, stored) if not good)
            self._complain("%d of %d values were not stored" % (stored.count(False), len(stored)),
                           status.text)
        return pool.per_page(stored)

    def _get(self, pool, keys, indices):
        pointers, sizes, offsets, each, totals = pool.pieces(keys, indices)
        names = pool.names(keys)
        try:
            if each == 1:
                results = self._client.batch_get(names, pointers, totals)
            else:
                results = self._client.batch_get_ranges(
                    names, pointers, sizes, offsets, each, totals
                )
        except umbp.Error as error:
            self._complain("pages were not read", error)
            return [False] * len(keys)
        return pool.per_page([status is _OK for status in results])

    def _has(self, pool, keys):
        try:
            return pool.per_page(self._client.batch_exists(pool.names(keys)))
        except umbp.Error as error:
            self._complain("pages were not looked up", error)
            return [False] * len(keys)

    @staticmethod
    def _depths(extra_info, count):
        prefix = getattr(extra_info, "prefix_keys", None)
        if prefix is None:
            return None
        return list(range(len(prefix), len(prefix) + count))

    def batch_get_v1(self, keys, host_indices, extra_info=None):
        pool = self._pools["kv"]
        if pool.holds_nothing:
            return [True] * len(keys)
        return self._get(pool, keys, host_indices)

    def batch_set_v1(self, keys, host_indices, extra_info=None):
        pool = self._pools["kv"]
        if pool.holds_nothing:
            return [True] * len(keys)
        return self._put(pool, keys, host_indices, self._depths(extra_info, len(keys)))

    def batch_exists(self, keys, extra_info=None):
        """How many pages are there from the first on."""
        pool = self._pools["kv"]
        try:
            hits = self._client.batch_exists_consecutive(pool.names(keys))
        except umbp.Error as error:
            self._complain("pages were not looked up", error)
            return 0
        return hits // pool.splits

    def exists(self, key):
        return self.batch_exists([key]) == 1

    # ---- pages of several pools

    def batch_exists_v2(self, keys, pool_transfers=None, extra_info=None):
        from sglang.srt.mem_cache.hicache_storage import PoolHitPolicy, PoolTransferResult

        if self._pools["kv"].holds_nothing:
            pages = len(keys)
        else:
            pages = self.batch_exists(keys, extra_info)
        hits = {_kv_name(): pages} if pages else {}
        lengths = list(range(1, pages + 1))  # prefixes that every pool can restore
        for transfer in pool_transfers or []:
            if not lengths:
                break
            there = self._has(self._known(transfer.name), keys[:pages])
            if transfer.hit_policy == PoolHitPolicy.ALL_PAGES:
                held = there.index(False) if False in there else pages
                good = set(range(1, held + 1))
            elif transfer.hit_policy == PoolHitPolicy.TRAILING_PAGES:
                good = _prefixes_that_end_in(there, max(1, len(transfer.keys or ())))
            else:
                raise ValueError("hit policy %s is not supported" % transfer.hit_policy)
            if good:
                hits[transfer.name] = max(good)
            lengths = [length for length in lengths if length in good]
        result = PoolTransferResult(lengths[-1] if lengths else 0, hits)
        if hasattr(result, "restorable_prefix_pages"):
            result.restorable_prefix_pages = lengths
        return result

    def batch_get_v2(self, transfers, extra_info=None):
        return {
            transfer.name: self._move(transfer, lambda pool, keys, at: self._get(pool, keys, at))
            for transfer in transfers
        }

    def batch_set_v2(self, transfers, extra_info=None):
        def put(pool, keys, at):
            return self._put(pool, keys, at, None)

        return {transfer.name: self._move(transfer, put) for transfer in transfers}

    def _move(self, transfer, how):
        keys = transfer.keys or []
        if not keys or transfer.host_indices is None:
            return [False] * len(keys)
        return how(self._known(transfer.name), keys, transfer.host_indices)

    def _known(self, name):
        pool = self._pools.get(str(name))
        if pool is None:
            raise ValueError("no host pool %s was registered" % name)
        return pool

    # ---- whole tensors: the interface before v1

    def get(self, key, target_location=None, target_sizes=None):
        if target_location is None:
            return None
        return self.batch_get([key], [target_location])[0]

    def batch_get(self, keys, target_locations=None, target_sizes=None):
        """The tensors that were filled, None for those that were not."""
        tensors = list(target_locations or [])
        if len(tensors) != len(keys):
            raise ValueError("%d tensors for %d keys" % (len(tensors), len(keys)))
        if not all(tensor.is_contiguous() for tensor in tensors):
            raise ValueError("a tensor to read into is contiguous")
        try:
            results = self._client.batch_get(
                self._pools["kv"].names(keys), *_memory(tensors)
            )
        except umbp.Error as error:
            self._complain("pages were not read", error)
            return [None] * len(keys)
        return [tensor if s is _OK else None for s, tensor in zip(results, tensors)]

    def set(self, key, value=None, target_location=None, target_sizes=None):
        return value is not None and self.batch_set([key], [value])

    def batch_set(self, keys, values=None, target_locations=None, target_sizes=None):
        tensors = [tensor.contiguous() for tensor in values or []]
        if len(tensors) != len(keys):
            raise ValueError("%d tensors for %d keys" % (len(tensors), len(keys)))
        try:
            results = self._client.batch_put(self._pools["kv"].names(keys), *_memory(tensors))
        except umbp.Error as error:
            self._complain("pages were not stored", error)
            return False
        return all(status is _OK or status is _EXISTS for status in results)

    # ---- upkeep

    def clear(self):
        try:
            self._client.clear()
        except umbp.Error as error:
            self._complain("clear", error)

    def flush(self):
        try:
            self._client.flush()
        except umbp.Error as error:
            self._complain("flush", error)
            return False
        return True

    def get_stats(self):
        return None  # SGLang then takes its own

    def close(self):
        try:
            self._client.close()
        except umbp.Error as error:
            self._complain("close", error)


def _kv_name():
    from sglang.srt.mem_cache.hicache_storage import PoolName

    return PoolName.KV


def _memory(tensors):
    return (
        [tensor.data_ptr() for tensor in tensors],
        [tensor.numel() * tensor.element_size() for tensor in tensors],
    )


def _prefixes_that_end_in(there, trailing):
    """Lengths whose last `trailing` pages (or all, if there are fewer) are all there."""
    good = set()
    run = 0
    for length, held in enumerate(there, 1):
        run = run + 1 if held else 0
        if run >= min(trailing, length):
            good.add(length)
    return good
