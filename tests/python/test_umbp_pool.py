# SPDX-License-Identifier: Apache-2.0
"""The pool scheme through umbp.Client, with a master of its own; and what it is without one."""
import os
import subprocess
import sys
import unittest

import pool_support
import umbp
import umbp_support
from master_support import Master
from umbp_support import KIB
from wait_support import run_threads, wait_until


class WithoutPool(umbp_support.Case):
    def test_the_local_scheme_has_no_external_index(self):
        made = self.small()
        for call in (lambda: made.external_report(["h"], umbp.Tier.HBM),
                     lambda: made.external_revoke(["h"], umbp.Tier.HBM),
                     lambda: made.external_revoke_all(umbp.Tier.HBM),
                     lambda: made.external_match(["h"]),
                     lambda: made.external_hits(["h"])):
            with self.assertRaises(umbp.UnsupportedError):
                call()

    def test_a_build_without_the_pool_refuses_its_scheme_with_a_sentence(self):
        if pool_support.has_pool():
            self.skipTest("this build has the pool")
        with self.assertRaisesRegex(umbp.UnsupportedError, "not in this build"):
            umbp.Client({"scheme": "pool", "pool.masters": "127.0.0.1:1"})

    def test_libfabric_is_not_loaded_until_the_pool_is_used(self):
        code = """
            import umbp
            with umbp.Client({"dram.bytes": "1MiB"}) as client:
                client.put("k", b"v")
            print("libfabric" in open("/proc/self/maps").read())
        """
        self.assertEqual(self.run_well(code).strip(), "False")


class Pool(umbp_support.Case):
    @classmethod
    def setUpClass(cls):
        pool_support.or_skip()
        cls.master = Master()
        cls.addClassCleanup(cls.master.stop)

    def node(self, **options):
        made = pool_support.client(self.master, **options)
        self.addCleanup(made.close)
        return made

    def test_a_value_put_by_one_node_is_read_by_another_and_by_a_client_without_a_store(self):
        one, two = self.node(), self.node(pool__recache="never")
        asker = self.node(pool__serve=False)
        self.assertEqual((one.deployment, one.is_distributed, asker.deployment),
                         ("pool", True, "pool"))
        value = os.urandom(300 * KIB)
        self.assertTrue(one.put("shared", value))
        wait_until(lambda: "shared" in two and "shared" in asker, "both know it")
        self.assertEqual(two.get("shared"), value)
        self.assertEqual(asker.get("shared"), value)
        into = bytearray(len(value))
        self.assertEqual(asker.batch_get(["shared", "no such"], [into, bytearray(1)]),
                         [umbp.Status.OK, umbp.Status.NOT_FOUND])
        self.assertEqual(into, value)
        self.assertTrue(asker.remove("shared"))
        wait_until(lambda: "shared" not in one, "it is removed everywhere")

    def test_a_client_without_a_store_puts_into_nodes_and_ranges_come_back(self):
        self.node()
        asker = self.node(pool__serve=False)
        memory = umbp.HostBuffer(64 * KIB, prefault=False)
        asker.register_memory(memory)
        view = memoryview(memory)
        view[:] = os.urandom(64 * KIB)
        half = 32 * KIB
        self.assertEqual(asker.batch_put_ranges(["r"], [64 * KIB], [[memory.pointer + half,
                                                                     memory.pointer]],
                                                [[half, half]], [[0, half]]), [umbp.Status.OK])
        wait_until(lambda: "r" in asker, "it is known")
        self.assertEqual(asker.get("r"), bytes(view[half:]) + bytes(view[:half]))
        asker.deregister_memory(memory)
        view.release()

    def test_what_engines_hold_is_told_matched_counted_and_revoked(self):
        one, two = self.node(pool__node_id="one"), self.node(pool__node_id="two")
        asker = self.node(pool__serve=False)
        one.external_report(["p0", b"p1"], umbp.Tier.HBM)
        one.external_report(["p0"], umbp.Tier.DRAM)
        two.external_report(["p1", "p2"], umbp.Tier.DRAM)
        found = asker.external_match(["p0", b"p1", "p3"])
        self.assertEqual(sorted((m.node_id, m.tier, m.index, m.hash) for m in found),
                         [("one", umbp.Tier.HBM, 0, "p0"), ("one", umbp.Tier.HBM, 1, b"p1"),
                          ("one", umbp.Tier.DRAM, 0, "p0"), ("two", umbp.Tier.DRAM, 1, b"p1")])
        self.assertIsInstance(found[0], umbp.ExternalMatch)
        self.assertIsInstance(found[0].tier, umbp.Tier)
        self.assertEqual(asker.external_hits(["p0", "p1", "p3"]), [0, 0, 0])
        asker.external_match(["p0", "p3"], count_as_hit=True)
        two.external_match(["p0"], True)
        self.assertEqual(asker.external_hits(["p0", "p1", "p3"]), [2, 0, 0])
        one.external_revoke(["p0"], umbp.Tier.HBM)
        self.assertEqual([m.tier for m in asker.external_match(["p0"])], [umbp.Tier.DRAM])
        one.external_revoke_all(umbp.Tier.DRAM)
        self.assertEqual([m.tier for m in asker.external_match(["p0", "p1"])
                          if m.node_id == "one"], [umbp.Tier.HBM])
        one.external_revoke_all()
        two.external_revoke_all()
        self.assertEqual(asker.external_match(["p0", "p1", "p2"]), [])
        self.assertEqual((asker.external_match([]), asker.external_hits([])), ([], []))

    def test_many_hashes_are_matched_in_one_call(self):
        one = self.node()
        hashes = [f"many-{number}" for number in range(5000)]
        one.external_report(hashes, umbp.Tier.SSD)
        self.assertEqual([m.hash for m in sorted(one.external_match(hashes), key=lambda m: m.index)],
                         hashes)
        one.external_revoke_all()

    def test_the_calls_of_the_index_keep_nothing(self):
        one = self.node()
        hashes = [f"kept-{number}" for number in range(200)]

        def round_of_calls():
            one.external_report(hashes, umbp.Tier.HBM)
            self.assertEqual(len(one.external_match(hashes, True)), 200)
            one.external_hits(hashes)
            one.external_revoke(hashes, umbp.Tier.HBM)
            one.external_revoke_all()

        for _ in range(5):
            round_of_calls()
        counts = sys.getrefcount(hashes[0]), sys.getrefcount(hashes), sys.getrefcount(umbp.Tier.HBM)
        before = sys.getallocatedblocks()
        for _ in range(100):
            round_of_calls()
        self.assertLess(sys.getallocatedblocks() - before, 100)  # less than one a round
        self.assertEqual(counts, (sys.getrefcount(hashes[0]), sys.getrefcount(hashes),
                                  sys.getrefcount(umbp.Tier.HBM)))

    def test_wrong_arguments_of_the_index_do_nothing(self):
        one = self.node()
        for call, error in (
            (lambda: one.external_report("h", umbp.Tier.HBM), TypeError),
            (lambda: one.external_report([1], umbp.Tier.HBM), TypeError),
            (lambda: one.external_report(["h"], "hbm"), TypeError),
            (lambda: one.external_report(["h"], 9), ValueError),
            (lambda: one.external_report(["h"], umbp.Tier.NONE), umbp.InvalidValueError),
            (lambda: one.external_report(["h", ""], umbp.Tier.HBM), umbp.InvalidKeyError),
            (lambda: one.external_match(["h"] * 65537), umbp.LimitError),
            (lambda: one.external_match(7), TypeError),
            (lambda: one.external_hits(None), TypeError),
        ):
            with self.assertRaises(error):
                call()
        self.assertEqual(one.external_match(["h"]), [])
        asker = self.node(pool__serve=False)
        with self.assertRaises(umbp.UnsupportedError):
            asker.external_report(["h"], umbp.Tier.HBM)

    def test_without_a_master_a_node_serves_itself_and_says_that_it_is_alone(self):
        with umbp.Client({"scheme": "pool", "pool.masters": "127.0.0.1:1", "dram.bytes": "8MiB",
                          "dram.prefault": False}) as alone:
            self.assertTrue(alone.put("mine", b"value"))
            self.assertEqual(alone.get("mine"), b"value")
            self.assertFalse(alone.exists("other"))
            for call in (lambda: alone.external_report(["h"], umbp.Tier.HBM),
                         lambda: alone.external_match(["h"])):
                with self.assertRaises((umbp.IoError, umbp.TimeoutError)):
                    call()

    def test_an_address_that_is_none_is_refused_with_a_sentence(self):
        for masters, words in (("nonsense", "host:port"), ("", "pool.masters"),
                               (self.master.address + ",,", "commas")):
            with self.assertRaisesRegex(umbp.InvalidValueError, words):
                umbp.Client({"scheme": "pool", "pool.masters": masters})

    def test_threads_put_and_get_through_two_nodes_at_once(self):
        nodes = [self.node(), self.node()]

        def work(number):
            mine, other = nodes[number % 2], nodes[1 - number % 2]
            keys = [f"t{number}-{at}" for at in range(20)]
            values = [os.urandom(8 * KIB) for _ in keys]
            assert all(s.is_success for s in mine.batch_put(keys, values))
            wait_until(lambda: all(other.batch_exists(keys)), "the other node knows them")
            into = [bytearray(8 * KIB) for _ in keys]
            assert other.batch_get(keys, into) == [umbp.Status.OK] * len(keys)
            assert into == values

        run_threads(4, work)

    def test_a_forked_child_is_refused_and_makes_a_client_of_its_own(self):
        umbp_support.or_skip_forks()
        code = """
            import os, umbp
            options = {"scheme": "pool", "pool.masters": os.environ["TEST_MASTER"],
                       "dram.bytes": "8MiB", "dram.prefault": False}
            mine = umbp.Client(options)
            mine.put("of the parent", b"value")
            child = os.fork()
            if child == 0:
                try:
                    mine.get("of the parent")
                except umbp.ForkedError:
                    with umbp.Client({**options, "pool.serve": False}) as own:
                        os._exit(0 if own.get("of the parent") == b"value" else 3)
                os._exit(4)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), mine.get("of the parent"))
        """
        output = self.run_well(code, environment={"TEST_MASTER": self.master.address})
        self.assertEqual(output.strip(), "0 b'value'")

    def test_an_interpreter_ends_with_nodes_open_and_threads_inside(self):
        code = """
            import threading, umbp
            made = umbp.Client({"scheme": "pool", "pool.masters": %r, "dram.bytes": "8MiB",
                                "dram.prefault": False})
            def work():
                while True:
                    made.put("k", b"v")
                    made.exists("other")
            for _ in range(2):
                threading.Thread(target=work, daemon=True).start()
        """ % self.master.address
        self.run_well(code)

    def test_the_program_of_the_package_is_a_node_and_a_client_of_the_pool(self):
        command = [sys.executable, "-m", "umbp"]
        node = subprocess.Popen([*command, "node", "--masters", self.master.address, "--dram.bytes",
                                 "8MiB", "--log.level", "error"], stdout=subprocess.PIPE, text=True)
        try:
            self.assertTrue(node.stdout.readline().startswith("ready"))
            asker = self.node(pool__serve=False)
            wait_until(lambda: self._puts(asker), "there is a node to put into")
            self.assertEqual(asker.get("for the node"), b"bytes")
        finally:
            node.terminate()
            self.assertEqual(node.wait(30), 0)
            node.stdout.close()

    @staticmethod
    def _puts(asker):
        try:
            asker.put("for the node", b"bytes")
            return True
        except umbp.Error:
            return False


if __name__ == "__main__":
    unittest.main()
