# SPDX-License-Identifier: Apache-2.0
"""What the tests of umbp share."""
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest

import umbp
from wait_support import threads_beside, wait_until

KIB = 1 << 10
MIB = 1 << 20


class Index:
    """An integer by __index__ alone."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class Indexes(list):
    """Many integers with an __index__ beside, as some tensors have."""

    def __index__(self):
        raise TypeError("only one integer can be an index")


def client(**options):
    """A small store in memory."""
    options.setdefault("dram", {})
    options["dram"] = {"bytes": "32MiB", "prefault": False, **options["dram"]}
    return umbp.Client(options)


@contextlib.contextmanager
def ssd_folder():
    with tempfile.TemporaryDirectory(prefix="umbp-test-") as folder:
        yield os.path.join(folder, "ssd")


def rng():
    wish = os.environ.get("UMBP_TEST_SEED", "20240607")
    seed = random.SystemRandom().getrandbits(32) if wish == "random" else int(wish, 0)
    print(f"UMBP_TEST_SEED={seed}", file=sys.stderr)
    return random.Random(seed)


def or_skip_forks():
    """gcc's AddressSanitizer does not hold its allocator's locks over a fork: a child of a process
    with threads hangs in malloc now and then, whoever wrote the code."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        if "libasan" in maps.read():
            raise unittest.SkipTest("a forked child can hang in AddressSanitizer's own malloc")


def wait_until_others_run_during(call):
    """Until another thread has run while this one was in `call()`, which so lets go of the GIL:
    nobody is made to give it up meanwhile."""
    turns = 0

    def work():
        nonlocal turns
        turns += 1
        time.sleep(0)  # this one always gives it up

    def others_ran():
        before = turns
        call()
        return turns > before

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        with threads_beside(1, work):
            wait_until(others_ran, "another thread runs during the call")
    finally:
        sys.setswitchinterval(interval)


def run_python(code, timeout=120, environment=None, **options):
    """Run code in an interpreter of its own; returns the finished process."""
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=timeout,
                          capture_output=True, text=True,
                          env={**os.environ, **(environment or {})}, **options)


class Case(unittest.TestCase):
    def small(self, **options):
        made = client(**options)
        self.addCleanup(made.close)
        return made

    def run_well(self, code, **options):
        """The code ends with 0; its output is returned."""
        done = run_python(code, **options)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout
