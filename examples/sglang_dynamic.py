# SPDX-License-Identifier: Apache-2.0
"""SGLang's HiCache on umbp by its dynamic backend, without any name of mori: pip install . sglang

A server is started so (docs/compatibility.md):

    python -m sglang.launch_server ... --enable-hierarchical-cache \\
        --hicache-storage-backend dynamic --hicache-storage-backend-extra-config '{
            "backend_name": "umbp", "module_path": "umbp.sglang", "class_name": "UmbpStorage",
            "interface_v1": 1, "umbp": {"dram.bytes": "64GiB", "ssd.dir": "/var/lib/umbp"}}'

This makes the same class by SGLang's own factory and gives it whole pages as tensors, which needs no
host pool and so no GPU.
"""

import tempfile

import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig
from sglang.srt.mem_cache.storage import StorageBackendFactory

PAGES = 4


def main():
    with tempfile.TemporaryDirectory() as folder:
        config = HiCacheStorageConfig(
            tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1,
            is_mla_model=False, enable_storage_metrics=False, is_page_first_layout=True,
            model_name="example/model",
            extra_config={
                "backend_name": "umbp",
                "module_path": "umbp.sglang",
                "class_name": "UmbpStorage",
                "umbp": {
                    "dram": {"bytes": "64MiB"},
                    "ssd": {"dir": folder, "bytes": "256MiB"},
                    "eviction.policy": "s3fifo",
                },
            })
        store = StorageBackendFactory.create_backend("dynamic", config, None)
        print("made", type(store).__module__)

        pages = [torch.randn(16, 2, 64) for _ in range(PAGES)]
        keys = ["page-%d" % page for page in range(PAGES)]
        stored = store.batch_set(keys, pages)
        held = store.batch_exists(keys + ["missing"])
        read = store.batch_get(keys, [torch.empty(16, 2, 64) for _ in range(PAGES)])
        same = all(tensor is not None and torch.equal(tensor, page)
                   for tensor, page in zip(read, pages))
        print("stored:", stored, " held:", held, " the same:", same)
        store.close()
        if not stored or held != PAGES or not same:
            raise SystemExit("something is wrong")


if __name__ == "__main__":
    main()
