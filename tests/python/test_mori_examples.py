# SPDX-License-Identifier: Apache-2.0
"""The example of the mori names runs."""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
EXAMPLES = os.path.join(os.path.dirname(os.path.dirname(HERE)), "examples")


def test_the_example_runs(tmp_path):
    done = subprocess.run([sys.executable, os.path.join(EXAMPLES, "mori_names.py")], cwd=tmp_path,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "read 8 of 8 and they are the same" in done.stdout
