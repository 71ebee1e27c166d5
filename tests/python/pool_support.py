# SPDX-License-Identifier: Apache-2.0
"""A master of the test's own, for tests of the pool scheme.

The program is $UMBP_TEST_MASTER, or build/umbp_master: the Python package does not bring it. Tests
skip without it, and where umbp was built without the pool; where UMBP_TEST_REQUIRE names "pool" (CI)
they fail instead.
"""
import os
import pathlib
import signal
import subprocess
import threading
import time
import unittest

import umbp

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("UMBP_TEST_MASTER", str(ROOT / "build" / "umbp_master"))


def has_pool():
    """Whether this build of umbp has the pool scheme: a client of it is not refused as a whole."""
    try:
        umbp.Client({"scheme": "pool", "pool.masters": "nonsense"})
    except umbp.UnsupportedError:
        return False
    except umbp.Error:
        return True
    raise AssertionError("a client was made of nonsense")


def missing():
    """What is missing for these tests, in words, or None."""
    if not has_pool():
        return "umbp was built without the pool (no libfabric)"
    if not os.access(PROGRAM, os.X_OK):
        return f"no umbp_master at {PROGRAM} (UMBP_TEST_MASTER names another)"
    return None


def or_skip():
    """Before a test: skip it, or fail it where it has to run."""
    why = missing()
    if why and "pool" in os.environ.get("UMBP_TEST_REQUIRE", ""):
        raise AssertionError(why)
    if why:
        raise unittest.SkipTest(why)


def wait_until(what, seconds=30):
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise AssertionError("waited in vain")
        time.sleep(0.002)


class Master:
    """umbp_master on a free port of the loopback."""

    def __init__(self, listen="127.0.0.1:0"):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("UMBP_")}
        self.process = subprocess.Popen([PROGRAM, listen, "0"], env=environment, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.log = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        words = self.process.stdout.readline().split()
        if words[:1] != ["ready"]:
            self.stop()
            raise RuntimeError(f"umbp_master did not start: {self.log}")
        self.address = dict(word.split("=", 1) for word in words[1:])["grpc"].split(",")[0]

    def _read(self):
        for line in self.process.stderr:
            self.log += line

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(10)
        self.process.stdout.close()
        self.process.stderr.close()


def client(master, **options):
    """A small client of the pool; a node, unless pool.serve says otherwise."""
    values = {"scheme": "pool", "pool.masters": master.address, "dram.bytes": "32MiB",
              "dram.prefault": False, "pool.ssd_staging_bytes": "4MiB"}
    values.update({name.replace("__", "."): value for name, value in options.items()})
    made = umbp.Client(values)
    if made.config.pool.serve:
        wait_until(lambda: made.stats()["node.registrations"] > 0)
    return made
