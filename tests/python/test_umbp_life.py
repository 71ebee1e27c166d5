# SPDX-License-Identifier: Apache-2.0
"""The life of a client: closing, threads, signals, forks, the end of the interpreter."""
import gc
import os
import signal
import threading
import unittest
import warnings
import weakref

import umbp
from umbp import Status
import umbp_support
from process_support import Child, stopped
from umbp_support import Case, client, ssd_folder, wait_until_others_run_during
from wait_support import run_threads, threads_beside, wait_until


def every_call(made):
    buffer = bytearray(1)
    return [
        lambda: made.put("k", b"v"), lambda: made.get("k"), lambda: made.get("k", buffer),
        lambda: made.exists("k"), lambda: "k" in made, lambda: made.remove("k"),
        lambda: made.stat("k"), lambda: made.list(), lambda: made.stats(), lambda: made.flush(),
        lambda: made.clear(), lambda: made.batch_put(["k"], [b"v"]),
        lambda: made.batch_get(["k"], [buffer]), lambda: made.batch_exists(["k"]),
        lambda: made.batch_exists_consecutive(["k"]), lambda: made.batch_remove(["k"]),
        lambda: made.batch_put_ranges(["k"], [1], [[8]], [[1]], [[0]]),
        lambda: made.batch_get_ranges(["k"], [[8]], [[1]], [[0]]),
        lambda: made.register_memory(8, 8), lambda: made.deregister_memory(8),
    ]


class Closing(Case):
    def test_after_close_every_call_is_closed(self):
        made = client()
        made.close()
        made.close()
        self.assertIs(made.closed, True)
        for call in every_call(made) + [lambda: made.deployment, lambda: made.is_distributed,
                                        lambda: made.supports_ranges]:
            with self.assertRaises(umbp.ClosedError) as caught:
                call()
            self.assertIs(caught.exception.status, Status.CLOSED)
        self.assertIn("closed", repr(made))

    def test_with_closes_also_after_an_exception(self):
        with self.assertRaises(ZeroDivisionError):
            with client() as made:
                self.assertIs(made.closed, False)
                1 / 0
        self.assertIs(made.closed, True)

    def test_a_client_that_was_never_made_is_closed(self):
        made = umbp.Client.__new__(umbp.Client)
        for call in every_call(made)[:-2]:
            with self.assertRaises(umbp.ClosedError):
                call()
        made.close()
        self.assertEqual(repr(made), "<umbp.Client closed>")
        with self.assertRaises(umbp.InvalidValueError):
            umbp.Client(dram={"bytes": 1})

    def test_a_client_is_made_once(self):
        made = self.small()
        buffer = bytearray(100)
        made.register_memory(buffer)
        before = made.config
        with self.assertRaisesRegex(RuntimeError, "already"):
            made.__init__({"dram.bytes": "64MiB"})
        made.put("k", b"v")
        self.assertEqual(made.config, before)
        with self.assertRaises(BufferError):
            buffer.extend(b"more")  # it is registered still

    def test_a_dropped_client_warns_and_is_closed(self):
        with ssd_folder() as folder:
            made = client(ssd={"dir": folder, "bytes": "64MiB"})
            made.put("k", b"v")
            gone = weakref.ref(made)
            with self.assertWarnsRegex(ResourceWarning, "unclosed"):
                del made
                gc.collect()
            self.assertIsNone(gone())
            with client(ssd={"dir": folder, "bytes": "64MiB"}) as again:  # nobody locks it
                self.assertEqual(again.get("k"), b"v")

    def test_properties_tell_what_it_is(self):
        made = self.small()
        self.assertEqual((made.deployment, made.is_distributed, made.supports_ranges),
                         ("local", False, True))
        self.assertEqual(made.config.dram.bytes, 32 << 20)
        made.config.dram.bytes = "1MiB"
        self.assertEqual(made.config.dram.bytes, 32 << 20)

    def test_what_was_stored_is_there_after_a_restart(self):
        with ssd_folder() as folder:
            options = {"ssd": {"dir": folder, "bytes": "64MiB"}}
            with client(**options) as made:
                made.batch_put([f"k{i}" for i in range(50)], [bytes([i]) * 5000 for i in range(50)])
                made.flush()
                made.flush(timeout=30)
            with client(**options) as made:
                into = [bytearray(5000) for _ in range(50)]
                self.assertEqual(set(made.batch_get([f"k{i}" for i in range(50)], into)),
                                 {Status.OK})
                self.assertEqual(into, [bytes([i]) * 5000 for i in range(50)])

    def test_a_directory_has_one_owner(self):
        with ssd_folder() as folder:
            options = {"ssd": {"dir": folder, "bytes": "64MiB"}}
            with client(**options):
                with self.assertRaises(umbp.LockedError):
                    client(**options)
            client(**options).close()

    def test_a_timeout_is_seconds(self):
        made = self.small()
        for timeout in (0, 0.001, 5, 1e12, None):
            made.flush(timeout)
        for timeout in (-1, float("nan"), -0.1):
            with self.assertRaisesRegex(ValueError, "timeout"):
                made.flush(timeout)
        with self.assertRaises(TypeError):
            made.close("soon")
        self.assertIs(made.closed, False)


class Threads(Case):
    def test_many_threads_use_one_client(self):
        made = self.small(dram={"bytes": "64MiB"})

        def work(number):
            for i in range(200):
                key = f"{number % 4}-{i}"
                value = key.encode() * 50
                made.put(key, value)
                self.assertEqual(made.get(key), value)
                self.assertEqual(made.batch_exists([key] * 5), [True] * 5)

        run_threads(8, work)

    def test_closing_amid_calls_is_safe(self):
        for _ in range(10):
            made = client()
            made.put("k", bytes(100000))
            begun = threading.Barrier(5, timeout=60)

            def work(number):
                begun.wait()
                if number == 0:
                    made.close()
                    return
                with self.assertRaises(umbp.ClosedError):
                    while True:
                        made.get("k", bytearray(100000))

            run_threads(5, work)

    def test_others_run_while_a_call_is_in_the_library(self):
        made = self.small(dram={"bytes": "256MiB", "prefault": True})
        made.put("k", bytes(64 << 20))
        into = bytearray(64 << 20)
        wait_until_others_run_during(lambda: made.get("k", into))


class Signals(Case):
    """What a call needs stands still while its signal comes, so no call can end before it."""

    COMMON = """
            import os, signal, sys
            import umbp

            class Stop(Exception):
                pass

            def handler(*unused):
                raise Stop

            signal.signal(signal.SIGALRM, handler)

            def store(folder):  # all is left to a flush, by threads of the library
                made = umbp.Client({"dram.bytes": "32MiB", "dram.prefault": False, "ssd.dir": folder,
                                    "ssd.bytes": "64MiB", "ssd.driver": "posix",
                                    "copy.mode": "on_evict"})
                made.batch_put([str(i) for i in range(32)],
                               [bytes([i]) * (1 << 16) for i in range(32)])
                return made

            def talk(line):
                print(line)
                sys.stdin.readline()
            """

    def interrupt(self, child):
        """At its word, with the library's threads stopped, by a signal once its call is on its way;
        what it says of that is returned."""
        self.assertEqual(child.hear(), "now")
        with stopped(child.threads()):
            child.say("go")
            wait_until(lambda: child.threads("umbp-job"), "the call is on its way")
            child.kill(signal.SIGALRM)
            return child.hear()

    def test_ctrl_c_leaves_the_making_of_a_large_host_buffer(self):
        with Child(self.COMMON + """
            def mapped():
                with open("/proc/self/statm") as file:
                    return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")

            before = mapped()
            said = None
            while said != "left":
                talk("now")
                said = "left"
                try:
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    umbp.HostBuffer(1 << 29, prefault_threads=1)
                    said = "made"
                except KeyboardInterrupt:
                    pass
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                talk(said)
            while mapped() > before + (1 << 28):
                talk("not yet")
            talk("given back")  # it is nobody's
            """) as child:
            # Nothing that it waits for can be stopped beforehand, so it is stopped when it is seen.
            said = None
            while said != "left":
                self.assertEqual(child.hear(), "now")
                child.say("go")
                wait_until(lambda: child.threads("umbp-job") or child.has_spoken(), "it is made")
                with stopped(child.threads("umbp-job")) as jobs:
                    if jobs:
                        child.kill(signal.SIGINT)
                    said = child.hear()
                self.assertIn(said, ("made", "left"))
                child.say("go")

            def given_back():
                said = child.hear()
                child.say("go")
                return said == "given back"

            wait_until(given_back, "its memory is given back")
            child.ends_well()

    def test_a_handler_that_raises_leaves_a_flush(self):
        with ssd_folder() as folder, Child(self.COMMON + f"""
            with store({folder!r}) as client:
                talk("now")
                try:
                    client.flush()
                except Stop:
                    talk("left")
                client.flush()
                assert client.get("5") == bytes([5]) * (1 << 16)
            """) as child:
            self.assertEqual(self.interrupt(child), "left")
            child.say("go")
            child.ends_well()

    def test_a_handler_that_forks_gives_the_child_an_error_and_the_parent_its_flush(self):
        umbp_support.or_skip_forks()
        with ssd_folder() as folder, Child(self.COMMON + f"""
            import warnings
            warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads, from 3.12 on

            def fork(*unused):
                pid = os.fork()
                if pid == 0:
                    signal.alarm(30)  # the end, should it be stuck
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)
                    return
                talk(f"the child: {{os.waitpid(pid, 0)[1]}}")

            signal.signal(signal.SIGALRM, fork)
            with store({folder!r}) as client:
                parent = os.getpid()
                talk("now")
                try:
                    client.flush()
                except umbp.ForkedError:
                    os._exit(0 if os.getpid() != parent else 1)
                assert os.getpid() == parent
                assert client.get("5") == bytes([5]) * (1 << 16)
            """) as child:
            self.assertEqual(self.interrupt(child), "the child: 0")
            child.say("go")
            child.ends_well()

    def test_a_handler_that_raises_in_close_leaves_it_to_be_closed_again(self):
        with ssd_folder() as folder, Child(self.COMMON + f"""
            client = store({folder!r})
            talk("now")
            try:
                client.close()
            except Stop:
                try:
                    client.get("1")
                except umbp.ClosedError:
                    talk("left")
            client.close()
            assert client.closed
            # The second waited for the first: nobody has the directory.
            with umbp.Client(client.config) as again:
                assert again.batch_exists_consecutive([str(i) for i in range(32)]) == 32
            """) as child:
            self.assertEqual(self.interrupt(child), "left")
            child.say("go")
            child.ends_well()


class Forks(Case):
    def setUp(self):
        umbp_support.or_skip_forks()

    def in_child(self, code):
        """Run `code(...)` in a forked child; its exit status, with a deadline."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads, from 3.12 on
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(60)
                code()
                status = 0
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        self.assertEqual(status, 0)

    def test_a_child_gets_a_clear_error_and_no_deadlock(self):
        made = self.small()
        made.put("k", b"v")

        def work():
            made.get("k")
            made.put("k2", b"v")

        def child():
            for call in every_call(made):
                try:
                    call()
                except umbp.ForkedError as error:
                    assert error.status is Status.FORKED
                    assert "parent process" in str(error)
                else:
                    raise AssertionError("no error in a child")
            made.close()

        with threads_beside(3, work):
            for _ in range(5):
                self.in_child(child)
        self.assertEqual(made.get("k"), b"v")

    def test_a_child_can_make_a_client_of_its_own(self):
        made = self.small()

        def child():
            with client() as own:
                own.put("k", b"v")
                assert own.get("k") == b"v"

        self.in_child(child)
        self.assertNotIn("k", made)

    def test_a_child_that_drops_the_client_does_nothing_to_the_parent(self):
        with ssd_folder() as folder:
            holder = [client(ssd={"dir": folder, "bytes": "64MiB"})]
            holder[0].put("k", b"v")

            def child():
                with warnings.catch_warnings(record=True) as warned:
                    warnings.simplefilter("always")
                    holder.clear()
                    gc.collect()
                assert not warned, warned

            self.in_child(child)
            holder[0].flush()
            self.assertEqual(holder[0].get("k"), b"v")
            holder[0].close()

    def test_a_child_may_end_like_any_program(self):
        self.run_well("""
            import os, sys, umbp
            with umbp.Client({"dram.bytes": "32MiB"}) as client:
                client.put("k", b"v")
                pid = os.fork()
                if pid == 0:
                    sys.exit(0)  # through __exit__ and atexit
                assert os.waitpid(pid, 0)[1] == 0
                assert client.get("k") == b"v"
            """)

    def test_multiprocessing_by_fork_and_by_spawn(self):
        # `spawn` needs a file to import.
        import tempfile
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "run.py")
            with open(path, "w", encoding="utf-8") as file:
                file.write("import multiprocessing, umbp\n"
                           "def work(config):\n"
                           "    with umbp.Client(config) as client:\n"
                           "        client.put('k', b'v')\n"
                           "        return client.get('k')\n"
                           "if __name__ == '__main__':\n"
                           "    config = umbp.Config(dram={'bytes': '32MiB'})\n"
                           "    umbp.Client(config).close()\n"
                           "    for how in ('fork', 'spawn'):\n"
                           "        with multiprocessing.get_context(how).Pool(2) as pool:\n"
                           "            assert pool.map(work, [config] * 4) == [b'v'] * 4\n")
            self.run_well(f"import runpy; runpy.run_path({path!r}, run_name='__main__')")


class Exit(Case):
    def test_the_interpreter_ends_with_threads_inside(self):
        for i in range(5):
            self.run_well("""
                import threading, umbp
                client = umbp.Client({"dram.bytes": "128MiB", "dram.prefault": False})
                client.put("k", bytes(16 << 20))
                begun = threading.Semaphore(0)
                def work():
                    into = bytearray(16 << 20)
                    begun.release()
                    while True:
                        try:
                            client.get("k", into)
                            client.batch_get(["k"], [into])
                        except umbp.ClosedError:
                            pass
                for _ in range(4):
                    threading.Thread(target=work, daemon=True).start()
                for _ in range(4):
                    begun.acquire()
                """)

    def test_an_open_client_is_closed_at_exit_and_its_values_are_kept(self):
        with ssd_folder() as folder:
            self.run_well(f"""
                import umbp
                client = umbp.Client({{"dram.bytes": "64MiB", "ssd.dir": {folder!r},
                                       "ssd.bytes": "64MiB"}})
                for i in range(200):
                    client.put(str(i), bytes([i]) * 10000)
                """)
            with client(ssd={"dir": folder, "bytes": "64MiB"}) as made:
                self.assertEqual(made.batch_exists_consecutive([str(i) for i in range(200)]), 200)

    def test_clients_that_call_themselves_equal_are_each_closed_at_exit(self):
        output = self.run_well("""
            import umbp
            class Equal(umbp.Client):
                def __eq__(self, other):
                    return True  # and so no hash
                def close(self, timeout=None):
                    super().close(timeout)
                    print("closed")
            clients = [Equal({"dram.bytes": "32MiB", "dram.prefault": False}) for _ in range(3)]
            """)
        self.assertEqual(output, "closed\n" * 3)

    def test_a_client_in_a_module_in_a_cycle_and_after_sys_exit(self):
        self.run_well("""
            import sys, umbp
            class Holder: pass
            holder = Holder()
            holder.me = holder
            holder.client = umbp.Client({"dram.bytes": "32MiB"})
            sys.modules["kept"] = holder
            sys.exit(0)
            """)

    def test_subinterpreters_are_refused_with_a_sentence(self):
        output = self.run_well("""
            import sys
            try:
                import _interpreters as interpreters  # 3.13
            except ImportError:
                try:
                    import _xxsubinterpreters as interpreters
                except ImportError:
                    print("refused: there are none")
                    sys.exit()
            code = '''
            import sys
            sys.path[:] = %r
            try:
                import umbp
            except ImportError as error:
                assert "subinterpreter" in str(error), error
            else:
                raise SystemExit("it was imported")
            ''' % sys.path
            import textwrap
            import umbp
            for config in ("isolated", "legacy"):
                try:
                    made = interpreters.create(config)
                except (TypeError, ValueError):
                    made = interpreters.create()
                try:
                    problem = (interpreters.exec if hasattr(interpreters, "exec") else
                               interpreters.run_string)(made, textwrap.dedent(code))
                    assert problem is None, problem
                finally:
                    interpreters.destroy(made)
            print("refused")
            """)
        self.assertIn("refused", output)

    def test_the_module_can_be_imported_anew(self):
        self.run_well("""
            import sys, umbp
            first = umbp
            for name in [n for n in sys.modules if n.split(".")[0] == "umbp"]:
                del sys.modules[name]
            import umbp
            with umbp.Client({"dram.bytes": "32MiB"}) as client:
                try:
                    client.get("k")
                except umbp.NotFoundError:
                    pass
            """)


if __name__ == "__main__":
    unittest.main()
