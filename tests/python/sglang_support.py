# SPDX-License-Identifier: Apache-2.0
"""SGLang's storage code as published, without a GPU and without what SGLang depends on.

`activate()` makes `import sglang.srt.mem_cache.storage...` work: SGLang's files come from the
package index (or from the folder that UMBP_TEST_SGLANG names), torch is a CPU torch. All of SGLang's
storage code is its own: hicache_storage, the backend factory, umbp_store, umbp_host_allocator,
pool_host, memory_pool_host. Stood in for are six modules around it, by the names in STAND_INS:

    sglang                        its __init__ imports the whole server
    sglang.srt.utils              asks for every accelerator's libraries; here: there is none
    sglang.srt.utils.network      asks for the server's arguments; here: a class name
    sglang.kernels.ops.kvcache.*  GPU kernels; here: raise when called
    sglang.srt.mem_cache.memory_pool   GPU pools; here: class names for isinstance

Debian's torch is older than SGLang's, and gets the one method that it lacks (untyped_storage).

What can't be had raises Unavailable; tests skip with its words, or fail where UMBP_TEST_REQUIRE names
"sglang" (CI).
"""

import hashlib
import importlib
import os
import subprocess
import sys
import tempfile
import types
import zipfile

from wait_support import run_threads

VERSION = "0.5.23"
_WANTED = ("sglang/srt/",)


class Unavailable(Exception):
    pass


def _no_kernel(*args, **named):
    raise RuntimeError("there is no GPU in this test")


def _false(*args):
    return False


STAND_INS = {
    "sglang.srt.utils": {n: _false for n in ("is_cuda", "is_hip", "is_mps", "is_npu", "is_xpu")},
    "sglang.srt.utils.common": {"human_readable_int": int},
    "sglang.srt.utils.network": {"NetworkAddress": type("NetworkAddress", (), {})},
    "sglang.kernels": {},
    "sglang.kernels.ops": {},
    "sglang.kernels.ops.kvcache": {},
    "sglang.kernels.ops.kvcache.hicache": {
        "can_use_write_back_jit_kernel": _false,
        "transfer_hicache_all_layer_mla_staged_lf_pf": _no_kernel,
    },
    "sglang.kernels.ops.kvcache.hisparse": {"transfer_cache_dsv4_mla": _no_kernel},
    "sglang.srt.mem_cache.memory_pool": {"MHATokenToKVPool": type("MHATokenToKVPool", (), {})},
}


def _cache_folder():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "umbp-tests", "sglang-" + VERSION)


def _fetch(folder):
    """SGLang's wheel from the package index, without its dependencies; its Python files of srt."""
    with tempfile.TemporaryDirectory() as wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                   "--only-binary=:all:", "--dest", wheels, "sglang==" + VERSION]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable("sglang could not be downloaded: %s" % error)
        names = os.listdir(wheels)
        if done.returncode != 0 or len(names) != 1:
            raise Unavailable("no sglang %s from the package index: %s"
                              % (VERSION, done.stderr.strip()[-300:]))
        with tempfile.TemporaryDirectory(dir=_made(os.path.dirname(folder))) as unpacked:
            with zipfile.ZipFile(os.path.join(wheels, names[0])) as wheel:
                wheel.extractall(unpacked, [
                    n for n in wheel.namelist() if n.startswith(_WANTED) and n.endswith(".py")
                ])
            try:
                os.rename(unpacked, folder)  # whole or not at all
            except OSError:
                if not os.path.isdir(folder):
                    raise
            os.makedirs(unpacked, exist_ok=True)  # for the clean-up


def _made(folder):
    os.makedirs(folder, exist_ok=True)
    return folder


def folder():
    named = os.environ.get("UMBP_TEST_SGLANG")
    if named:
        return named
    cached = _cache_folder()
    if not os.path.isdir(cached):
        _fetch(cached)
    return cached


def activate():
    """Once in a process. Raises Unavailable."""
    if "sglang" in sys.modules:
        return
    for needed in ("torch", "msgspec", "psutil"):
        try:
            importlib.import_module(needed)
        except ImportError as error:
            raise Unavailable("no %s: %s" % (needed, error))
    import torch

    if not hasattr(torch.Tensor, "untyped_storage"):
        torch.Tensor.untyped_storage = lambda tensor: tensor.storage().untyped()
    # From the environment: SGLang's own way to say "this machine is a CPU".
    os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
    path = os.path.join(folder(), "sglang")
    for name, members in [("sglang", {})] + sorted(STAND_INS.items()):
        module = types.ModuleType(name)
        module.__path__ = [path] if name == "sglang" else []
        vars(module).update(members)
        sys.modules[name] = module


def or_skip():
    """For a fixture: activate, or skip the test; where UMBP_TEST_REQUIRE says so, fail it."""
    import pytest

    try:
        activate()
    except Unavailable as error:
        if "sglang" in os.environ.get("UMBP_TEST_REQUIRE", ""):
            pytest.fail(str(error))
        pytest.skip(str(error))


def storage_config(**changes):
    """A HiCacheStorageConfig of one rank, with changes."""
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig

    values = {
        "tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "attn_cp_rank": 0,
        "attn_cp_size": 1, "is_mla_model": False, "enable_storage_metrics": False,
        "is_page_first_layout": True, "model_name": "test/model",
    }
    values.update(changes)
    return HiCacheStorageConfig(**values)


def keys_of(*numbers):
    """Of pages, as SGLang's radix cache makes them."""
    return [hashlib.sha256(b"page %d" % number).hexdigest() for number in numbers]


def roundtrip(store, pool, pages=(0, 1, 2), seed=0, **named):
    """Pages out and back in, other bytes between; True if every byte came back. Their keys are those
    of `seed` and on."""
    keys = keys_of(*(seed + page for page in pages))
    before = []
    for page in pages:
        pool.fill(page, seed + page + 1)
        before.append(pool.content(page))
    assert store.batch_set_v1(keys, pool.indices(pages), **named) == [True] * len(pages)
    for page in pages:
        pool.wipe(page)
    assert store.batch_get_v1(keys, pool.indices(pages)) == [True] * len(pages)
    return [pool.content(page) for page in pages] == before


def read_and_write_in_threads(store, pool):
    """Eight of them, each with eight pages of `pool` (of 64) and keys to itself."""

    def work(number):
        pages = [number * 8 + at for at in range(8)]
        for turn in range(6):
            assert roundtrip(store, pool, pages, seed=turn * 1000)
            assert store.batch_exists(keys_of(*(turn * 1000 + page for page in pages))) == 8

    run_threads(8, work)


def put_a_chain_and_others(store, pool):
    """A chain of the pages 0 to 11, its root the oldest (LRU would lose it first), then eight roots."""
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorageExtraInfo

    for page in list(range(12)) + list(range(20, 28)):
        info = HiCacheStorageExtraInfo(prefix_keys=keys_of(*range(page)) if page < 12 else [])
        pool.fill(page, page)
        assert store.batch_set_v1(keys_of(page), pool.indices([page]), info) == [True]


def host_pool(**named):
    """A host pool on SGLang's own HostKVCache; see HostPool."""
    return _host_pool_class()(**named)


_made_class = []


def _host_pool_class():
    if _made_class:
        return _made_class[0]
    import torch
    from sglang.srt.mem_cache.memory_pool_host import HostKVCache

    class HostPool(HostKVCache):
        """Pages of K and V (or K alone, as with MLA) without a device pool behind them. The memory
        comes from SGLang's allocator of the kind `allocator_type`."""

        def __init__(self, pages=16, page_size=4, layers=3, row_bytes=64, mla=False,
                     layout="page_first", allocator_type="default", heads=1):
            self.layers, self.row_bytes, self.mla, self.heads = layers, row_bytes, mla, heads
            self.layer_num = layers
            super().__init__(
                dtype=torch.uint8, device_capacity_tokens=0,
                size_per_token=self.get_size_per_token(), start_layer=0, end_layer=layers,
                host_to_device_ratio=1.0, host_size=0, page_size=page_size, layout=layout,
                pin_memory=False, device="cpu", allocator_type=allocator_type, is_dummy=True,
                host_token_capacity=pages * page_size,
            )
            self.kv_buffer = self.init_kv_buffer()

        @property
        def part_bytes(self):
            """Of one page's K, or V."""
            return self.page_size * self.layers * self.row_bytes

        @property
        def v_buffer(self):
            return None if self.mla else self.kv_buffer[1]

        def get_size_per_token(self):
            return self.layers * self.row_bytes * (1 if self.mla else 2)

        def get_ksize_per_token(self):
            return self.layers * self.row_bytes

        def init_kv_buffer(self):
            parts = 1 if self.mla else 2
            bytes_each = self.page_num * self.part_bytes
            return self.allocator.allocate((parts, bytes_each), torch.uint8, "cpu")

        def load_to_device_per_layer(self, *args, **named):
            raise NotImplementedError

        def backup_from_device_all_layer(self, *args, **named):
            raise NotImplementedError

        def _pages(self, indices):
            indices = indices.tolist()
            assert len(indices) % self.page_size == 0
            return [indices[at] // self.page_size for at in range(0, len(indices), self.page_size)]

        def get_page_buffer_meta(self, indices):
            base, v = self.kv_buffer.data_ptr(), self.page_num * self.part_bytes
            pointers = []
            if self.layout == "layer_first":
                piece = self.page_size * self.row_bytes
                for page in self._pages(indices):
                    for layer in range(self.layers):
                        k = base + (layer * self.page_num + page) * piece
                        pointers += [k] if self.mla else [k, k + v]
                return pointers, [piece] * len(pointers)
            for page in self._pages(indices):
                k = base + page * self.part_bytes
                pointers += [k] if self.mla else [k, k + v]
            return pointers, [self.part_bytes] * len(pointers)

        def get_split_heads_page_buffer_meta(self, indices, split_factor):
            base, v = self.kv_buffer.data_ptr(), self.page_num * self.part_bytes
            piece = self.part_bytes // split_factor
            pointers = []
            for page in self._pages(indices):
                for split in range(split_factor):
                    k = base + page * self.part_bytes + split * piece
                    pointers += [k, k + v]
            return pointers, [piece] * len(pointers)

        # For the tests: a page's bytes, wherever they lie.
        def _views(self, page):
            indices = torch.arange(page * self.page_size, (page + 1) * self.page_size)
            base = self.kv_buffer.data_ptr()
            flat = self.kv_buffer.view(-1)
            for pointer, size in zip(*self.get_page_buffer_meta(indices)):
                yield flat[pointer - base:pointer - base + size]

        def fill(self, page, seed):
            for number, view in enumerate(self._views(page)):
                generator = torch.Generator().manual_seed(seed * 1000 + number)
                view.copy_(torch.randint(0, 256, (len(view),), dtype=torch.uint8,
                                         generator=generator))

        def wipe(self, page):
            for view in self._views(page):
                view.zero_()

        def content(self, page):
            return b"".join(view.numpy().tobytes() for view in self._views(page))

        def indices(self, pages):
            return torch.cat([
                torch.arange(page * self.page_size, (page + 1) * self.page_size) for page in pages
            ])

        def get_data_page(self, index, flat=True):
            return torch.cat(list(self._views(int(index) // self.page_size)))

        def get_dummy_flat_data_page(self):
            return torch.zeros(self.page_size * self.size_per_token, dtype=torch.uint8)

        def set_from_flat_data_page(self, index, data_page):
            at = 0
            for view in self._views(int(index) // self.page_size):
                view.copy_(data_page[at:at + len(view)])
                at += len(view)

    _made_class.append(HostPool)
    return HostPool
