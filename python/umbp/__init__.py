# SPDX-License-Identifier: Apache-2.0
"""umbp: a KV-cache pool for LLM inference engines.

    import umbp

    with umbp.Client({"dram.bytes": "64GiB", "ssd.dir": "/var/lib/umbp"}) as client:
        client.put("3f9a...", page)             # True: stored; False: it was there
        client.get("3f9a...", into=page)        # NotFoundError: compute it again
        statuses = client.batch_get(keys, pointers, sizes)

docs/python.md is the manual.
"""
import sysconfig as _sysconfig

if _sysconfig.get_config_var("Py_GIL_DISABLED"):
    raise ImportError("umbp needs an interpreter with the GIL: its extension is built against the "
                      "limited API, which free-threaded builds do not have")

from . import _umbp
from ._errors import CLASSES as _CLASSES, Error, Status
from ._config import Config, Option, options
from ._client import Client, Entry, ExternalMatch, HostBuffer, Tier

globals().update(_CLASSES)

__version__ = _umbp.version()
BATCH_MAX = _umbp.BATCH_MAX
KEY_BYTES_MAX = _umbp.KEY_BYTES_MAX


def set_log_level(level):
    """Write log lines of this level and above ("error", "warn", "info", "debug") to standard
    error. For the whole process."""
    _umbp.set_log_level(level)


__all__ = ["BATCH_MAX", "Client", "Config", "Entry", "Error", "ExternalMatch", "HostBuffer",
           "KEY_BYTES_MAX", "Option", "Status", "Tier", "options", "set_log_level", *sorted(_CLASSES)]
