# SPDX-License-Identifier: Apache-2.0
"""Host memory by the public names.

As in the public binding a handle is a plain record: the memory it speaks of lives until `free`, not
until the last handle is gone, since tensors are made from its address alone.
"""

import threading

import umbp

from ._enums import UMBPHostBufferBacking

__all__ = ["UMBPHostBufferHandle", "UMBPHostMemAllocator"]

_BACKINGS = {
    UMBPHostBufferBacking.Anonymous: "anonymous",
    UMBPHostBufferBacking.AnonymousHugetlb: "huge_pages",
    UMBPHostBufferBacking.AnonymousShm: "shared",
    UMBPHostBufferBacking.AnonymousShmHugetlb: "shared_huge_pages",
}
_BACKINGS_BACK = {name: backing for backing, name in _BACKINGS.items()}

# What is allocated, by address. The lock guards the dict alone.
_held = {}
_held_lock = threading.Lock()


class UMBPHostBufferHandle:
    """Memory, as long as it is true. Only an allocator fills one."""

    __slots__ = ("_ptr", "_requested_size", "_mapped_size", "_actual_backing", "_actual_alignment")

    def __init__(self):
        self._empty()

    def _empty(self):
        self._ptr = 0
        self._requested_size = 0
        self._mapped_size = 0
        self._actual_backing = UMBPHostBufferBacking.Anonymous
        self._actual_alignment = 0

    @property
    def ptr(self):
        return self._ptr

    @property
    def requested_size(self):
        return self._requested_size

    @property
    def mapped_size(self):
        return self._mapped_size

    @property
    def actual_backing(self):
        return self._actual_backing

    @property
    def actual_alignment(self):
        return self._actual_alignment

    def __bool__(self):
        return self._ptr != 0

    def __repr__(self):
        return "<UMBPHostBufferHandle ptr=0x%x requested_size=%d mapped_size=%d>" % (
            self._ptr,
            self._requested_size,
            self._mapped_size,
        )


class UMBPHostMemAllocator:
    """Allocates; keeps nothing itself, so that it may go before what it gave."""

    def alloc(
        self,
        size,
        backing=UMBPHostBufferBacking.Anonymous,
        hugepage_size=2 << 20,
        numa_node=-1,
        prefault=True,
    ):
        """A handle; a false one when the memory can't be had."""
        if not isinstance(backing, UMBPHostBufferBacking):
            raise TypeError("backing is a UMBPHostBufferBacking, not %r" % (backing,))
        for name, value in (("size", size), ("hugepage_size", hugepage_size)):
            if not isinstance(value, int) or value < 0:
                raise TypeError("%s is a whole number, not %r" % (name, value))
        handle = UMBPHostBufferHandle()
        try:
            buffer = umbp.HostBuffer(
                size,
                backing=_BACKINGS[backing],
                numa_node=None if numa_node < 0 else numa_node,
                prefault=bool(prefault),
            )
        except (umbp.Error, MemoryError, ValueError, OverflowError):
            return handle
        handle._ptr = buffer.pointer
        handle._requested_size = size
        handle._mapped_size = buffer.mapped_bytes
        handle._actual_backing = _BACKINGS_BACK[buffer.backing]
        handle._actual_alignment = buffer.page_bytes
        with _held_lock:
            _held[handle._ptr] = buffer
        return handle

    def free(self, handle):
        """Give the memory back and empty the handle. One that is empty stays so."""
        if not isinstance(handle, UMBPHostBufferHandle):
            raise TypeError("handle is a UMBPHostBufferHandle, not %r" % (handle,))
        with _held_lock:
            buffer = _held.pop(handle._ptr, None)
        handle._empty()
        if buffer is not None:
            buffer.close()
