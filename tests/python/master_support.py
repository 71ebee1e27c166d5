# SPDX-License-Identifier: Apache-2.0
"""A master of the test's own: $UMBP_TEST_MASTER, or build/umbp_master."""
import os
import pathlib
import signal
import subprocess
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("UMBP_TEST_MASTER", str(ROOT / "build" / "umbp_master"))


class Master:
    """umbp_master on a free port of the loopback; `log` is what it wrote to standard error so far.
    metrics: "any" for a free port, "0" for none."""

    def __init__(self, *flags, listen="127.0.0.1:0", metrics="0", environment=None):
        env = {name: value for name, value in os.environ.items() if not name.startswith("UMBP_")}
        env.update(environment or {})
        self.process = subprocess.Popen([PROGRAM, listen, metrics, *flags], env=env, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.log = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        guard = threading.Timer(60, self.process.kill)  # so that the line comes, or the end
        guard.start()
        words = self.process.stdout.readline().split()
        guard.cancel()
        if words[:1] != ["ready"]:
            self.stop()
            raise RuntimeError(f"umbp_master did not start: {self.log}")
        told = dict(word.split("=", 1) for word in words[1:])
        self.addresses = told["grpc"].split(",")
        self.address = self.addresses[0]
        self.metrics_port = int(told["metrics"])

    def _read(self):
        for line in self.process.stderr:
            self.log += line

    def stop(self, number=signal.SIGTERM, seconds=60):
        """Its exit code. Raises subprocess.TimeoutExpired, and kills it, if it does not end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._reader.join(10)
            self.process.stdout.close()
            self.process.stderr.close()
