# SPDX-License-Identifier: Apache-2.0
"""A process to talk with, whose threads can be stopped one by one.

A thread is stopped by ptrace (SIGSTOP stops whole processes): what waits for it can't end before it runs
again, on any machine. Where ptrace is forbidden, tests skip with those words.
"""
import contextlib
import ctypes
import errno
import os
import queue
import subprocess
import sys
import textwrap
import threading
import unittest

from wait_support import wait_until

_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_ALSO_THREADS = 0x40000000  # __WALL

_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long


def _has_stopped(tid):
    return os.waitpid(tid, os.WNOHANG | _ALSO_THREADS)[0] == tid


def _is_ending(tid):
    """Of those ptrace says "forbidden" too."""
    try:
        with open(f"/proc/{tid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@contextlib.contextmanager
def stopped(tids):
    """While the block runs, these threads of a child stand still; gives those that were still there."""
    held = []
    try:
        for tid in tids:
            if _ptrace(_SEIZE, tid, None, None) == 0:
                held.append(tid)
                _ptrace(_INTERRUPT, tid, None, None)
                wait_until(lambda: _has_stopped(tid), f"thread {tid} stands still")
            elif ctypes.get_errno() == errno.EPERM and not _is_ending(tid):
                raise unittest.SkipTest("threads can't be stopped: ptrace is forbidden here")
        yield held
    finally:
        for tid in held:
            if _ptrace(_DETACH, tid, None, None) != 0:  # its process was killed
                with contextlib.suppress(ChildProcessError):
                    wait_until(lambda: _has_stopped(tid), f"thread {tid} has ended")


class Child:
    """An interpreter that runs `code`. Lines go to its input and come from its output."""

    def __init__(self, code):
        self._process = subprocess.Popen([sys.executable, "-u", "-c", textwrap.dedent(code)],
                                         text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join(60)
        self._process.stdin.close()
        self._process.stdout.close()

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line.strip())
        self._lines.put("(its end)")

    def say(self, line):
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self, seconds=60):
        """Its next line."""
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"the child said nothing for {seconds} s") from None

    def has_spoken(self):
        return not self._lines.empty()

    def ends_well(self):
        assert self._process.wait(60) == 0

    def kill(self, number):
        self._process.send_signal(number)

    def threads(self, name=None):
        """Those of this name; without one, all but the first. By their ids."""
        folder, found = f"/proc/{self._process.pid}/task", []
        for tid in map(int, os.listdir(folder)):
            try:
                with open(f"{folder}/{tid}/comm", encoding="ascii", errors="replace") as file:
                    comm = file.read().strip()
            except OSError:
                continue  # it has just ended
            if comm == name if name else tid != self._process.pid:
                found.append(tid)
        return found
