# SPDX-License-Identifier: Apache-2.0
"""The names by which engines know the public MORI UMBP, over umbp.

Only ``mori.umbp`` and ``mori.cpp`` are here. The rest of the public MORI project (collectives, RDMA
transfers, kernels) is another program; its distribution and this one can't share an installation,
because both own the folder ``mori``. docs/compatibility.md says what maps to what.
"""

import importlib
import os
import warnings

__all__ = ["cpp", "umbp", "__version__"]

__version__ = "0.1.0"

_HERE = os.path.dirname(os.path.abspath(__file__))
_OURS = ("cpp", "umbp")
_THEIRS = ("ccl", "cco", "io", "ir", "jax", "jit", "kernel_profiler", "ops", "shmem", "tools")


def _warn_of_the_other(folder):
    """Two distributions in one folder: the one installed last has overwritten the other's files."""
    if os.path.exists(os.path.join(folder, "libmori_pybinds.so")):
        warnings.warn(
            "two distributions share the folder %s: umbp-mori's files lie over those of the MORI "
            "project, whose other modules (mori.io, mori.ops, ...) no longer work. Uninstall both "
            "and install the one you want; SGLang can use umbp without the mori names, by its "
            "dynamic backend (umbp.sglang)." % folder,
            RuntimeWarning,
            stacklevel=3,
        )


_warn_of_the_other(_HERE)


def __getattr__(name):
    if name in _OURS:
        return importlib.import_module("." + name, __name__)
    if name in _THEIRS:
        raise AttributeError(
            "mori.%s belongs to the MORI project; umbp-mori has only mori.umbp and mori.cpp" % name
        )
    raise AttributeError("module 'mori' has no attribute %r" % name)


def __dir__():
    return sorted(list(globals()) + list(_OURS))
