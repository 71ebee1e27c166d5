# SPDX-License-Identifier: Apache-2.0
"""SGLang's own HiCache backend, unchanged, on umbp: pip install . ./python/mori-compat sglang

A server is started so (docs/compatibility.md):

    python -m sglang.launch_server ... --enable-hierarchical-cache --hicache-mem-layout page_first \\
        --hicache-storage-backend mori --hicache-storage-backend-extra-config '{...}'

This drives the same class, made by SGLang's own factory, without a server and without a GPU.
"""

import tempfile

import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig
from sglang.srt.mem_cache.storage import StorageBackendFactory

PAGE_BYTES = 64 << 10


def main():
    with tempfile.TemporaryDirectory() as folder:
        config = HiCacheStorageConfig(
            tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1,
            is_mla_model=False, enable_storage_metrics=False, is_page_first_layout=True,
            model_name="example/model",
            extra_config={
                "dram_capacity_bytes": 64 << 20,
                "ssd_storage_dir": folder + "/cache",
                "ssd_capacity_bytes": 256 << 20,
                "eviction_policy": "prefix_aware_lru",
            })
        store = StorageBackendFactory.create_backend("mori", config, None)
        print("made", type(store).__module__)

        pages = torch.arange(4 * PAGE_BYTES, dtype=torch.int64).to(torch.uint8).view(4, PAGE_BYTES)
        before = pages.clone()
        keys = ["page-%d" % page for page in range(4)]
        ptrs = [pages[page].data_ptr() for page in range(4)]
        sizes = [PAGE_BYTES] * 4
        stored = store.batch_set(keys, None, ptrs, sizes)
        pages.zero_()
        read = store.batch_get(keys, ptrs, sizes)
        print("stored:", stored, " read:", read, " the same:", torch.equal(pages, before))
        store.close()
        if not stored or read != 4 or not torch.equal(pages, before):
            raise SystemExit("something is wrong")


if __name__ == "__main__":
    main()
