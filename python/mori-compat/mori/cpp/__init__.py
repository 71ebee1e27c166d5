# SPDX-License-Identifier: Apache-2.0
"""Every UMBP name of the public binding module (docs/compatibility.md)."""

from . import _enums
from ._client import UMBPClient
from ._config import (
    UMBPConfig,
    UMBPCopyPipelineConfig,
    UMBPDistributedConfig,
    UMBPDramConfig,
    UMBPDurabilityConfig,
    UMBPEvictionConfig,
    UMBPHbmConfig,
    UMBPIoConfig,
    UMBPIoEngineConfig,
    UMBPMasterClientConfig,
    UMBPSsdConfig,
    UMBPStandaloneProcessConfig,
)
from ._enums import *  # noqa: F403
from ._external import (
    UMBPExternalKvHitCountEntry,
    UMBPExternalKvMatch,
    UMBPExternalKvNodeMatch,
    UMBPMasterClient,
)
from ._host import UMBPHostBufferHandle, UMBPHostMemAllocator

__all__ = [
    *_enums.__all__,
    "UMBPClient",
    "UMBPConfig",
    "UMBPCopyPipelineConfig",
    "UMBPDistributedConfig",
    "UMBPDramConfig",
    "UMBPDurabilityConfig",
    "UMBPEvictionConfig",
    "UMBPExternalKvHitCountEntry",
    "UMBPExternalKvMatch",
    "UMBPExternalKvNodeMatch",
    "UMBPHbmConfig",
    "UMBPHostBufferHandle",
    "UMBPHostMemAllocator",
    "UMBPIoConfig",
    "UMBPIoEngineConfig",
    "UMBPMasterClient",
    "UMBPMasterClientConfig",
    "UMBPSsdConfig",
    "UMBPStandaloneProcessConfig",
]

for _kind in _enums.EXPORTED_VALUES:
    globals().update(_kind.__members__)
    __all__ += list(_kind.__members__)
del _kind
