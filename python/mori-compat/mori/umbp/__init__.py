# SPDX-License-Identifier: Apache-2.0
"""The UMBP names by which engines import them; all of mori.cpp's classes."""

from mori import cpp as _cpp

__all__ = [
    name for name in _cpp.__all__ if name.startswith("UMBP") or name == "CacheRemoteAdmission"
]

globals().update({name: getattr(_cpp, name) for name in __all__})
