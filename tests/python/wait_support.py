# SPDX-License-Identifier: Apache-2.0
"""How all tests wait: for a condition, or for threads, until a deadline that no working machine comes
near."""
import contextlib
import threading
import time


def wait_until(condition, what, seconds=60):
    """Until `condition()` is true; fails with `what` it waited for."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s in vain until {what}")
        time.sleep(0.002)


class _Crew:
    """work(0), work(1), ... in threads of their own."""

    def __init__(self, count, work):
        self._failures = []
        self._threads = [threading.Thread(target=self._run, args=(work, number), daemon=True)
                         for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, work, number):
        try:
            work(number)
        except BaseException as error:
            self._failures.append(error)

    def join(self, seconds):
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0, end - time.monotonic()))
        if self._failures:
            raise self._failures[0]
        if any(thread.is_alive() for thread in self._threads):
            raise AssertionError(f"a thread did not end within {seconds} s")


def run_threads(count, work, seconds=120):
    """work(0), work(1), ... beside one another; raises what the first to fail raised."""
    _Crew(count, work).join(seconds)


@contextlib.contextmanager
def threads_beside(count, work, seconds=120):
    """While the block runs, `count` threads call work() again and again. Raises likewise."""
    over = threading.Event()

    def repeat(_):
        while not over.is_set():
            work()

    crew = _Crew(count, repeat)
    try:
        yield
    finally:
        over.set()
        crew.join(seconds)
