# SPDX-License-Identifier: Apache-2.0
"""The examples run, each in a process of its own."""

import os
import subprocess
import sys

import pool_support
import pytest
import sglang_support
from master_support import Master

HERE = os.path.dirname(os.path.abspath(__file__))
EXAMPLES = os.path.join(os.path.dirname(os.path.dirname(HERE)), "examples")


@pytest.fixture(scope="module", autouse=True)
def sglang():
    sglang_support.or_skip()


@pytest.mark.parametrize("name,words", [
    ("sglang_mori.py", "made sglang.srt.mem_cache.storage.umbp.umbp_store"),
    ("sglang_dynamic.py", "made umbp.sglang"),
])
def test_the_example_runs(name, words, tmp_path):
    assert words in run(name, tmp_path)


def test_the_example_of_the_pool_runs(tmp_path):
    pool_support.or_skip()
    master = Master()
    try:
        assert "reads the same: True" in run("sglang_pool.py", tmp_path, master.address)
    finally:
        master.stop()


def run(name, tmp_path, *arguments):
    """Its output."""
    code = ("import runpy, sys, sglang_support; sglang_support.activate(); "
            "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')")
    environment = dict(os.environ, PYTHONPATH=HERE, PYTHONSAFEPATH="1")
    done = subprocess.run([sys.executable, "-c", code, os.path.join(EXAMPLES, name), *arguments],
                          env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
