# SPDX-License-Identifier: Apache-2.0
from typing import Dict, Type

from . import Error as Error, Status as Status

CLASSES: Dict[str, Type[Error]]
