# SPDX-License-Identifier: Apache-2.0
from typing import Dict, List, Union

GOAL_US: float

def measure(batch: int = 128, value_bytes: int = 65536,
            rounds: int = 1000) -> List[Dict[str, Union[str, float]]]: ...
def main() -> None: ...
