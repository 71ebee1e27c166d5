# SPDX-License-Identifier: Apache-2.0
"""The enumerations. Like the public binding's: not numbers, but with ``int()`` and ``.value``."""

import enum

__all__ = [
    "CacheRemoteAdmission",
    "MemoryLocationType",
    "UMBPDeploymentMode",
    "UMBPDurabilityMode",
    "UMBPHostBufferBacking",
    "UMBPIoBackend",
    "UMBPMedium",
    "UMBPRole",
    "UMBPSsdLayoutMode",
    "UMBPTierType",
]


class _Enumeration(enum.Enum):
    def __int__(self):
        return self.value

    __index__ = __int__

    def __str__(self):
        return "%s.%s" % (type(self).__name__, self.name)


class UMBPRole(_Enumeration):
    Standalone = 0
    SharedSSDLeader = 1
    SharedSSDFollower = 2


class UMBPDeploymentMode(_Enumeration):
    Local = 0
    StandaloneProcess = 1
    Distributed = 2


class UMBPSsdLayoutMode(_Enumeration):
    SegmentedLog = 1


class UMBPIoBackend(_Enumeration):
    Posix = 0
    IoUring = 1


class UMBPDurabilityMode(_Enumeration):
    Strict = 0
    Relaxed = 1


class UMBPTierType(_Enumeration):
    Unknown = 0
    HBM = 1
    DRAM = 2
    SSD = 3


class UMBPHostBufferBacking(_Enumeration):
    Anonymous = 0
    AnonymousHugetlb = 1
    AnonymousShm = 2
    AnonymousShmHugetlb = 3


class CacheRemoteAdmission(_Enumeration):
    SIZE = 0
    NEVER = 1
    ALWAYS = 2


class UMBPMedium(_Enumeration):
    """Of the public project's unmerged branches."""

    DRAM = 0
    HBM = 1
    SSD = 2


class MemoryLocationType(_Enumeration):
    """Where a registered buffer lies (the public binding has it for its transfers)."""

    Unknown = 0
    CPU = 1
    GPU = 2


# The public binding also puts the values of these into its module: mori.cpp.DRAM.
EXPORTED_VALUES = (
    UMBPHostBufferBacking,
    UMBPTierType,
    UMBPRole,
    UMBPDeploymentMode,
    UMBPSsdLayoutMode,
    UMBPIoBackend,
    UMBPDurabilityMode,
)
