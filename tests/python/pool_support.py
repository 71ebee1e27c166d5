# SPDX-License-Identifier: Apache-2.0
"""A small client of the pool, and whether there can be one.

The Python package does not bring the master's program (master_support.py says where it is). Tests skip
without it, and where umbp was built without the pool; where UMBP_TEST_REQUIRE names "pool" (CI) they
fail instead.
"""
import os
import unittest

import umbp
from master_support import PROGRAM
from wait_support import wait_until


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


def client(master, **options):
    """A small client of the pool; a node, unless pool.serve says otherwise."""
    values = {"scheme": "pool", "pool.masters": master.address, "dram.bytes": "32MiB",
              "dram.prefault": False, "pool.ssd_staging_bytes": "4MiB"}
    values.update({name.replace("__", "."): value for name, value in options.items()})
    made = umbp.Client(values)
    if made.config.pool.serve:
        wait_until(lambda: made.stats()["node.registrations"] > 0, "a master has the node")
    return made
