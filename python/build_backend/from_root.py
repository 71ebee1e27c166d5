# SPDX-License-Identifier: Apache-2.0
"""The build backend of the folder above: every hook runs there."""
import os

import mesonpy

os.chdir(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

for _name in dir(mesonpy):
    if _name.startswith(("build_", "get_requires_for_", "prepare_metadata_")):
        globals()[_name] = getattr(mesonpy, _name)
