# SPDX-License-Identifier: Apache-2.0
"""The package: stubs that agree with the code, the program inside, what it needs and what not."""
import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
import unittest

import umbp
from umbp import _umbp
from umbp_support import Case

HERE = os.path.dirname(umbp.__file__)


def stub():
    with open(os.path.join(HERE, "__init__.pyi"), encoding="utf-8") as file:
        return ast.parse(file.read())


def stub_classes():
    return {node.name: node for node in stub().body if isinstance(node, ast.ClassDef)}


def public(names):
    return {name for name in names if not name.startswith("_")}


class Stubs(Case):
    def test_the_stub_of_config_is_made_from_the_option_table(self):
        made = subprocess.run([sys.executable, "-m", "umbp._stub"], capture_output=True, text=True,
                              check=True, timeout=60).stdout
        with open(os.path.join(HERE, "_config.pyi"), encoding="utf-8") as file:
            self.assertEqual(file.read(), made, "it is stale: python -m umbp._stub > python/umbp/_config.pyi")

    def test_every_public_name_has_a_stub(self):
        names = set()
        for node in stub().body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                names.add(node.name)
            elif isinstance(node, ast.AnnAssign):
                names.add(node.target.id)
            elif isinstance(node, ast.ImportFrom) and node.level:
                names.update(alias.name for alias in node.names)
        self.assertEqual(public(names), public(umbp.__all__))
        for name in umbp.__all__:
            self.assertTrue(hasattr(umbp, name), name)

    def test_the_numbers_of_status_are_right(self):
        numbers = {node.targets[0].id: node.value.value for node in stub_classes()["Status"].body
                   if isinstance(node, ast.Assign)}
        self.assertEqual(numbers, {status.name: int(status) for status in umbp.Status})

    def test_exceptions_have_the_bases_that_the_stub_says(self):
        for name, node in stub_classes().items():
            kind = getattr(umbp, name)
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                continue
            bases = [base.attr if isinstance(base, ast.Attribute) else base.id
                     for base in node.bases]
            self.assertEqual([base.__name__ for base in kind.__bases__], bases)
            if kind is not umbp.Error:
                self.assertIsInstance(kind.status, umbp.Status)
                self.assertTrue(issubclass(kind, umbp.Error))

    def test_methods_and_their_parameters_agree(self):
        for name in ("Client", "HostBuffer", "Entry"):
            kind, node = getattr(umbp, name), stub_classes()[name]
            functions = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
            fields = {item.target.id for item in node.body if isinstance(item, ast.AnnAssign)}
            inherited = set(dir(tuple)) if name == "Entry" else set()
            real = public(dir(kind)) - inherited
            self.assertEqual(real, public(functions) | (fields - inherited), name)
            for method, item in functions.items():
                if method.startswith("_") or item.decorator_list:
                    continue
                arguments = item.args.posonlyargs + item.args.args + item.args.kwonlyargs
                signature = inspect.signature(getattr(kind, method))
                self.assertEqual([a.arg for a in arguments], list(signature.parameters), method)


class Package(Case):
    def test_the_program_runs(self):
        done = subprocess.run([sys.executable, "-m", "umbp", "version"], capture_output=True,
                              text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(umbp.__version__, done.stdout)
        done = subprocess.run([sys.executable, "-m", "umbp", "no-such-thing"], capture_output=True,
                              timeout=60)
        self.assertNotEqual(done.returncode, 0)

    def test_the_command_is_installed(self):
        command = os.path.join(os.path.dirname(sys.executable), "umbp")
        if not os.path.exists(command):
            self.skipTest("umbp is on the path, not installed")
        done = subprocess.run([command, "version"], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, umbp.__version__ in done.stdout), (0, True))

    def test_importing_it_imports_little(self):
        output = self.run_well("""
            import sys, umbp
            print({name.split(".")[0] for name in sys.modules} & {"numpy", "torch", "ctypes"})
            """)
        self.assertEqual(output, "set()\n")

    def test_a_free_threaded_interpreter_is_refused_with_a_sentence(self):
        self.run_well("""
            import sysconfig
            real = sysconfig.get_config_var
            sysconfig.get_config_var = lambda name: 1 if name == "Py_GIL_DISABLED" else real(name)
            try:
                import umbp
            except ImportError as error:
                assert "GIL" in str(error)
            else:
                raise SystemExit("imported")
            """)

    def test_the_benchmark_measures_every_form(self):
        done = subprocess.run([sys.executable, "-m", "umbp.bench", "--json", "--rounds", "20",
                               "--bytes", "4096"], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual((report["batch"], report["bytes"], report["rounds"]), (128, 4096, 20))
        self.assertEqual({row["operation"] for row in report["rows"]}, {"get", "put", "exists"})
        for row in report["rows"]:
            self.assertGreater(row["handling_us"], 0)
            self.assertGreater(row["c_us"], 0)
            self.assertGreaterEqual(row["whole_us"], row["library_us"])
        done = subprocess.run([sys.executable, "-m", "umbp.bench", "--rounds", "5", "--batch", "3"],
                              capture_output=True, text=True, timeout=120)
        self.assertIn("handling", done.stdout)

    def test_the_benchmark_says_what_it_cannot_measure(self):
        for flags, code, why in ((["--batch", "0"], 2, "1 to 65536"), (["--batch", "x"], 2, "int"),
                                 (["--bytes", "1000000000000"], 1, "out of memory"),
                                 (["--bytes", str(1 << 70)], 1, "bytes is 2")):
            done = subprocess.run([sys.executable, "-m", "umbp.bench", *flags], timeout=60,
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertRegex(done.stderr, why)
            self.assertNotIn("Traceback", done.stderr)

    def test_every_public_name_says_that_it_is_of_the_package(self):
        for name in umbp.__all__:
            value = getattr(umbp, name)
            if callable(value):
                self.assertEqual(value.__module__, "umbp", name)

    @unittest.skipUnless(shutil.which("readelf"), "no readelf")
    def test_the_extension_exports_its_one_name_and_needs_no_python_library(self):
        names = subprocess.run(["readelf", "-W", "--dyn-syms", _umbp.__file__], check=True,
                               capture_output=True, text=True).stdout.splitlines()
        defined = [line.split()[-1] for line in names if " GLOBAL " in line and " UND " not in line]
        if any("asan" in line for line in names):
            self.skipTest("built with AddressSanitizer")
        self.assertEqual(defined, ["PyInit__umbp"])
        needed = subprocess.run(["readelf", "-d", _umbp.__file__], check=True, capture_output=True,
                                text=True).stdout
        needed = [line.split("[")[1].rstrip("]") for line in needed.splitlines() if "NEEDED" in line]
        allowed = ("libc.", "ld-linux", "libisal", "libm.", "libpthread", "librt", "libdl")
        self.assertEqual([n for n in needed if not n.startswith(allowed)], [])

    def test_what_is_no_folder_is_not_taken_for_one_by_the_wheels_script(self):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts/wheel")
        for arguments, code in ((["--help"], 0), (["-h"], 0), ([], 1), ([""], 1), (["--out"], 1),
                                (["one", "two"], 1)):
            done = subprocess.run([script, *arguments], capture_output=True, text=True, timeout=60)
            self.assertEqual((done.returncode, "scripts/wheel OUT" in done.stderr), (code, True))

    def test_log_levels_are_names(self):
        for level in ("error", "info", "debug", "warn"):
            umbp.set_log_level(level)
        for level in ("loud", "", None, 3):
            with self.assertRaises(ValueError):
                umbp.set_log_level(level)
        umbp.set_log_level("warn")


if __name__ == "__main__":
    unittest.main()
