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

KIB = 1 << 10
MIB = 1 << 20


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
    seed = int(os.environ.get("UMBP_TEST_SEED", "0")) or random.SystemRandom().getrandbits(32)
    print(f"UMBP_TEST_SEED={seed}", file=sys.stderr)
    return random.Random(seed)


def or_skip_forks():
    """gcc's AddressSanitizer does not hold its allocator's locks over a fork: a child of a process
    with threads hangs in malloc now and then, whoever wrote the code."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        if "libasan" in maps.read():
            raise unittest.SkipTest("a forked child can hang in AddressSanitizer's own malloc")


def wait_until(what, seconds=30):
    """Until `what()` is true; fails after some time that no working machine needs."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise AssertionError("waited in vain")
        time.sleep(0.002)


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
