# SPDX-License-Identifier: Apache-2.0
"""Config: every option of the table, nested and typed, and messages that help."""
import copy
import os
import pathlib
import pickle
import tempfile
import unittest

import umbp
from umbp import Config, Status
from umbp_support import Case
from wait_support import run_threads


class Options(Case):
    def test_every_option_can_be_read_and_set_to_its_own_value(self):
        config = Config()
        self.assertGreater(len(umbp.options()), 40)
        for option in umbp.options():
            with self.subTest(option.name):
                value = config.get(option.name)
                config.set(option.name, value)
                self.assertEqual(config[option.name], value)
                at = config
                for part in option.name.split(".")[:-1]:
                    at = getattr(at, part)
                leaf = option.name.split(".")[-1]
                self.assertEqual(getattr(at, leaf), value)
                self.assertIn(leaf, dir(at))
                setattr(at, leaf, None)
        self.assertEqual(config, Config())
        self.assertEqual(config.changed(), {})

    def test_no_option_hides_behind_a_method(self):
        for option in umbp.options():
            self.assertFalse(hasattr(Config, option.name.split(".")[0]), option.name)

    def test_values_have_types(self):
        config = Config()
        self.assertEqual(config.dram.bytes, 4 << 30)
        self.assertIs(type(config.dram.bytes), int)
        self.assertIs(config.dram.prefault, True)
        self.assertEqual(config.dram.high_watermark, 0.95)
        self.assertEqual(config.eviction.policy, "lru")
        self.assertEqual(config.dram.numa_node, "any")
        self.assertEqual(config.scheme, "local")
        self.assertEqual(config.ssd.dir, "")
        self.assertIs(type(config.op_timeout_ms), int)

    def test_anything_sensible_can_be_assigned(self):
        config = Config()
        for value, want in (("64MiB", 64 << 20), (1 << 20, 1 << 20), ("1048577", 1048577)):
            config.dram.bytes = value
            self.assertEqual(config.dram.bytes, want)
        config.dram.prefault = False
        config.dram.numa_node = 1
        config.dram.high_watermark = 1
        config.dram.low_watermark = 0.25
        config.ssd.dir = pathlib.Path("/tmp/x")
        config.ssd.enabled = True
        self.assertEqual((config.dram.prefault, config.dram.numa_node, config.dram.high_watermark,
                          config.dram.low_watermark, config.ssd.dir, config.ssd.enabled),
                         (False, 1, 1.0, 0.25, "/tmp/x", "true"))
        config.ssd.dir = b"/tmp/\xff"
        self.assertEqual(config.ssd.dir, os.fsdecode(b"/tmp/\xff"))
        del config.ssd.dir
        self.assertEqual(config.ssd.dir, "")
        config.dram = {"bytes": "1MiB", "buffers": 2}
        self.assertEqual((config.dram.bytes, config.dram.buffers), (1 << 20, 2))

    def test_options_come_flat_nested_and_by_name(self):
        for config in (Config({"dram.bytes": 1 << 20, "scheme": "local"}),
                       Config({"dram": {"bytes": "1MiB"}}), Config(dram={"bytes": "1MiB"}),
                       Config({"dram.bytes": 5 << 20}, dram={"bytes": "1MiB"}),
                       Config([("dram.bytes", "1MiB")]), Config(Config(dram={"bytes": "1MiB"}))):
            self.assertEqual(config.changed(), {"dram.bytes": 1 << 20})
        self.assertEqual(repr(config), "Config({'dram.bytes': 1048576})")

    def test_copies_are_their_own(self):
        config = Config({"dram.bytes": "1MiB", "eviction.policy": "s3fifo"})
        for other in (Config(config), copy.copy(config), copy.deepcopy(config),
                      pickle.loads(pickle.dumps(config))):
            self.assertEqual(other, config)
            other.dram.bytes = "2MiB"
            self.assertNotEqual(other, config)
        self.assertEqual(config.dram.bytes, 1 << 20)


class Refused(Case):
    def test_an_unknown_name_names_the_nearest(self):
        config = Config()
        for call in (lambda: config.set("dram.bites", 1), lambda: config.get("dram.bites"),
                     lambda: config["dram.bites"], lambda: setattr(config.dram, "bites", 1),
                     lambda: config.dram.bites, lambda: Config({"dram.bites": 1}),
                     lambda: Config(dram={"bites": 1}), lambda: umbp.Client({"dram.bites": 1})):
            with self.assertRaisesRegex(umbp.UnknownOptionError, "dram.bites.*dram.bytes") as caught:
                call()
            self.assertIs(caught.exception.status, Status.UNKNOWN_OPTION)
        self.assertFalse(hasattr(config.dram, "bites"))
        self.assertFalse(hasattr(config, "drum"))
        with self.assertRaises(AttributeError):
            config.dram.bytes.x

    def test_a_bad_value_names_the_option_and_changes_nothing(self):
        config = Config()
        for name, value in (("dram.bytes", "many"), ("dram.bytes", -1), ("dram.bytes", 0),
                            ("dram.high_watermark", 1.5), ("dram.high_watermark", float("nan")),
                            ("eviction.policy", "best"), ("dram.prefault", "perhaps"),
                            ("copy.workers", 17), ("copy.workers", 1 << 70),
                            ("scheme", ""), ("dram.numa_node", "somewhere")):
            before = config.to_dict()
            with self.assertRaisesRegex(umbp.InvalidValueError, name):
                config.set(name, value)
            self.assertEqual(config.to_dict(), before)

    def test_values_of_other_types_are_named(self):
        config = Config()
        for value in ([], {}, object(), 1j):
            with self.assertRaisesRegex(TypeError, "dram.bytes"):
                config.set("dram.bytes", value)
        for values in ("x", b"x", 5, [5], ["abc"], object()):
            with self.assertRaisesRegex(TypeError, "^config: a mapping of options"):
                Config(values)
        for values, where in (({1: 2}, "config"), ([(1, 2)], "config"), ({"dram": {1: 2}}, "dram")):
            with self.assertRaisesRegex(TypeError, f"^{where}: an option's name is a str"):
                Config(values)
        for text in ("a\0b", b"a\0b"):
            with self.assertRaisesRegex(ValueError, "ssd.dir: a NUL"):
                config.set("ssd.dir", text)
        with self.assertRaises(TypeError):
            config.set(5, 5)

    def test_a_configuration_is_no_sequence_of_anything(self):
        for call in (list, dict, lambda config: "dram" in config):
            with self.assertRaisesRegex(TypeError, "not iterable"):
                call(Config())

    def test_a_section_is_said_to_be_one(self):
        config = Config()
        for call in (lambda: Config({"dram": 5}), lambda: Config(dram=5), lambda: Config({"dram": None}),
                     lambda: umbp.Client(dram="1GiB"), lambda: config.set("dram", 5),
                     lambda: setattr(config, "dram", 5)):
            with self.assertRaisesRegex(TypeError, "dram is a section: a mapping of its options"):
                call()
        for call in (lambda: config["dram"], lambda: config.get("dram")):
            with self.assertRaisesRegex(umbp.UnknownOptionError, "dram.* is a section.*dram.bytes"):
                call()

    def test_what_only_shows_across_options_shows_in_validate(self):
        config = Config(dram={"low_watermark": 0.9, "high_watermark": 0.5})
        with self.assertRaisesRegex(umbp.InvalidValueError, "low_watermark"):
            config.validate()
        with self.assertRaisesRegex(umbp.InvalidValueError, "low_watermark"):
            umbp.Client(config)
        Config().validate()

    def test_a_scheme_that_is_not_built_in_is_unsupported(self):
        with self.assertRaisesRegex(umbp.UnsupportedError, "not in this build"):
            umbp.Client(scheme="process")


class Sources(Case):
    def test_a_file_is_read_whole_or_not_at_all(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "umbp.conf")
            path.write_text("[dram]\nbytes = 8MiB\n[eviction]\npolicy = s3fifo\n")
            config = Config.from_file(path, dram={"buffers": 2})
            self.assertEqual(config.changed(), {"dram.bytes": 8 << 20, "eviction.policy": "s3fifo",
                                                "dram.buffers": 2})
            path.write_text("[dram]\nbytes = 16MiB\nbites = 1\n")
            with self.assertRaisesRegex(umbp.UnknownOptionError, "umbp.conf.*bites"):
                config.load_file(os.fspath(path))
            self.assertEqual(config.dram.bytes, 8 << 20)
            with self.assertRaises(umbp.Error):
                Config.from_file(pathlib.Path(folder, "none"))
            long = "/" + "/".join(["d" * 250] * 15)
            path.write_text(f"[ssd]\ndir = {long}  ; far away\nbytes = 1GiB\n")
            self.assertEqual(Config.from_file(path).changed(),
                             {"ssd.dir": long, "ssd.bytes": 1 << 30})

    def test_the_environment_counts_and_a_bad_value_warns(self):
        output = self.run_well("""
            import umbp
            import os
            os.dup2(1, 2)  # what is warned of is told too
            config = umbp.Config.from_env(copy={"workers": 3})
            print(config.changed())
            """, environment={"UMBP_DRAM_CAPACITY": "12345678", "UMBP_COPY_QUEUE_DEPTH": "lots",
                              "UMBP_COPY_WORKERS": "5"})
        warning, told = output.splitlines()
        self.assertEqual(told, "{'dram.bytes': 12345678, 'copy.workers': 3}")
        self.assertRegex(warning, "^warn .*UMBP_COPY_QUEUE_DEPTH.*lots")
        self.assertEqual(Config().dram.bytes, 4 << 30)

    def test_a_default_that_is_given_counts_against_the_environment_and_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "umbp.conf")
            path.write_text("[eviction]\npolicy = s3fifo\n[dram]\nprefault = no\n")
            config = Config.from_file(path, {"eviction.policy": "lru"}, dram={"prefault": True})
            self.assertEqual(config.changed(), {})
        output = self.run_well("""
            import umbp
            print(umbp.Config.from_env({"eviction.policy": "lru"})["eviction.policy"])
            """, environment={"UMBP_EVICTION_POLICY": "s3fifo"})
        self.assertEqual(output, "lru\n")

    def test_a_configuration_in_use_by_another_thread_is_busy_or_waits_for_nobody(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "umbp.conf")
            path.write_text("[dram]\nbytes = 8MiB\n")
            config = Config()

            def use(_):
                for _ in range(300):
                    try:
                        config.load_file(path)
                        config.get("dram.bytes")
                    except umbp.BusyError:
                        pass

            run_threads(4, use)
            self.assertEqual(config.dram.bytes, 8 << 20)


if __name__ == "__main__":
    unittest.main()
