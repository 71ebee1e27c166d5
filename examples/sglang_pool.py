# SPDX-License-Identifier: Apache-2.0
"""Two SGLang engines that share pages: umbp's dynamic backend with the pool, on one machine.

    umbp_master 127.0.0.1:15558 &
    python examples/sglang_pool.py 127.0.0.1:15558

A server is started so, on every machine, with the master's address (docs/compatibility.md):

    python -m sglang.launch_server ... --enable-hierarchical-cache \\
        --hicache-storage-backend dynamic --hicache-storage-backend-extra-config '{
            "backend_name": "umbp", "module_path": "umbp.sglang", "class_name": "UmbpStorage",
            "interface_v1": 1,
            "umbp": {"scheme": "pool", "pool.masters": "master:15558", "dram.bytes": "64GiB"}}'

Here both engines are stores of this process, each a node of the cluster, made by SGLang's factory.
"""

import sys
import time

import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig
from sglang.srt.mem_cache.storage import StorageBackendFactory

PAGES = 4


def engine(master):
    config = HiCacheStorageConfig(
        tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1,
        is_mla_model=False, enable_storage_metrics=False, is_page_first_layout=True,
        model_name="example/model",
        extra_config={
            "backend_name": "umbp",
            "module_path": "umbp.sglang",
            "class_name": "UmbpStorage",
            "umbp": {"scheme": "pool", "pool.masters": master, "dram.bytes": "64MiB"},
        })
    return StorageBackendFactory.create_backend("dynamic", config, None)


def main():
    if len(sys.argv) != 2:
        raise SystemExit("usage: sglang_pool.py MASTER (host:port of an umbp_master)")
    one, two = engine(sys.argv[1]), engine(sys.argv[1])
    pages = [torch.randn(16, 2, 64) for _ in range(PAGES)]
    keys = ["page-%d" % page for page in range(PAGES)]
    stored = one.batch_set(keys, pages)
    deadline = time.monotonic() + 10
    while two.batch_exists(keys) < PAGES and time.monotonic() < deadline:
        time.sleep(0.01)  # the master learns of them within milliseconds
    read = two.batch_get(keys, [torch.empty(16, 2, 64) for _ in range(PAGES)])
    same = all(tensor is not None and torch.equal(tensor, page)
               for tensor, page in zip(read, pages))
    print("made", type(one).__module__, " stored:", stored, " the other reads the same:", same)
    one.close()
    two.close()
    if not stored or not same:
        raise SystemExit("something is wrong")


if __name__ == "__main__":
    main()
