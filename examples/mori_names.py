# SPDX-License-Identifier: Apache-2.0
"""The names that engines already call, over umbp: pip install . ./python/mori-compat

    python examples/mori_names.py
"""

import ctypes
import tempfile

from mori.umbp import UMBPClient, UMBPConfig, UMBPHostMemAllocator

PAGE_BYTES = 256 << 10
PAGES = 8


def main():
    with tempfile.TemporaryDirectory() as folder:
        config = UMBPConfig.from_environment()  # UMBP_DRAM_CAPACITY and its kin
        config.dram.capacity_bytes = 64 << 20
        config.ssd.storage_dir = folder + "/cache"
        config.ssd.capacity_bytes = 256 << 20
        client = UMBPClient(config)

        # Pages of an engine: here in memory of ours, by address.
        allocator = UMBPHostMemAllocator()
        memory = allocator.alloc(PAGES * PAGE_BYTES)
        keys = ["%064x_0_k" % page for page in range(PAGES)]
        ptrs = [memory.ptr + page * PAGE_BYTES for page in range(PAGES)]
        sizes = [PAGE_BYTES] * PAGES
        for page, ptr in enumerate(ptrs):
            ctypes.memset(ptr, page + 1, PAGE_BYTES)

        # Depth is a page's place in its prefix: the deepest leave first.
        put = client.batch_put_from_ptr_with_depth(keys, ptrs, sizes, list(range(PAGES)))
        print("stored", put.count(True), "of", PAGES)
        print("a prefix of", client.batch_exists_consecutive(keys + ["missing"]), "pages is held")

        ctypes.memset(memory.ptr, 0, PAGES * PAGE_BYTES)
        got = client.batch_get_into_ptr(keys, ptrs, sizes)
        same = all(ctypes.string_at(ptr, 1)[0] == page + 1 for page, ptr in enumerate(ptrs))
        print("read", got.count(True), "of", PAGES, "and they are" if same else "BUT NOT", "the same")

        # One layer of a page, without the rest of it.
        client.batch_get_ranges_into_ptr(keys[:1], [[ptrs[7]]], [[4096]], [[8192]])

        client.close()
        allocator.free(memory)
        if not (all(put) and all(got) and same):
            raise SystemExit("something is wrong")


if __name__ == "__main__":
    main()
