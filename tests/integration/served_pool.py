"""A served pool in a folder of its own, for tests in Python. Programs come from UTHIN_BIN."""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get("UTHIN_SOURCE", os.path.dirname(os.path.dirname(HERE)))
BIN = os.environ.get("UTHIN_BIN", os.path.join(SOURCE, "build", "release", "bin"))
START_S_MAX = 30


class ServedPool:
    """`volumes`: name to size in bytes; `options` go to `uthin serve`, `create` to `uthin pool create`. With
    `read_delay_ms` the data lies behind an NBD server that takes its time. The context's end removes all."""

    def __init__(self, name, volumes, *options, read_delay_ms=0, create=("--data-size", "256M")):
        self.folder = tempfile.mkdtemp(prefix=f"uthin-{name}.")
        self.path = os.path.join(self.folder, "pool")
        self.options = options
        self.server = None
        self.nbd = os.path.join(self.path, "nbd.sock")
        self.control = os.path.join(self.path, "control.sock")
        self.log = os.path.join(self.folder, "server.log")
        self.slow_disk = None
        if read_delay_ms:
            disk = os.path.join(self.folder, "disk.sock")
            self.slow_disk = subprocess.Popen(
                ["nbdkit", "-f", "-U", disk, "--filter=delay", "memory", "256M", f"delay-read={read_delay_ms}ms"])
            self._wait_for(disk)
            self._run("pool", "create", self.path, "--data", f"nbd+unix:///?socket={disk}")
        else:
            self._run("pool", "create", self.path, *create)
        for volume, size_bytes in volumes.items():
            self.uthin("volume", "create", volume, "--size", str(size_bytes))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        if kind is not None and os.path.exists(self.log):
            with open(self.log, encoding="utf-8", errors="replace") as log:
                sys.stderr.write(log.read()[-4000:])
        self.kill()
        if self.slow_disk is not None:
            self.slow_disk.kill()
            self.slow_disk.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, *arguments, may_fail=False):
        done = subprocess.run([os.path.join(BIN, "uthin"), *arguments], capture_output=True, text=True,
                              timeout=60)
        if done.returncode != 0 and not may_fail:
            sys.exit(f"uthin {' '.join(arguments)}: {done.stderr}")
        return done

    def uthin(self, group, command, volume, *arguments, may_fail=False):
        """A command on a volume of the pool."""
        return self._run(group, command, f"{self.path}/{volume}", *arguments, may_fail=may_fail)

    def start(self):
        with open(self.log, "ab") as log:
            self.server = subprocess.Popen([os.path.join(BIN, "uthin"), "serve", self.path, *self.options],
                                           stdout=subprocess.PIPE, stderr=log)
        end = time.monotonic() + START_S_MAX
        os.set_blocking(self.server.stdout.fileno(), False)
        while not (self.server.stdout.read() or b"").strip():
            if self.server.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the server does not start")
            time.sleep(0.05)

    @staticmethod
    def _wait_for(path):
        end = time.monotonic() + START_S_MAX
        while not os.path.exists(path):
            if time.monotonic() > end:
                sys.exit(f"{path} does not appear")
            time.sleep(0.05)

    def memory_bytes(self):
        with open(f"/proc/{self.server.pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        raise RuntimeError("the server is gone")

    def stop(self):
        self.server.send_signal(signal.SIGTERM)
        if self.server.wait(timeout=30) != 0:
            sys.exit(f"the server ended with {self.server.returncode}")
        self.server = None

    def kill(self):
        if self.server is not None:
            self.server.kill()
            self.server.wait()
            self.server = None

    def judge(self, metadata=None):
        """The metadata of the stopped pool is clean."""
        metadata = metadata or os.path.join(self.path, "metadata")
        done = subprocess.run([os.path.join(BIN, "thin_check"), metadata], capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            sys.exit(f"thin_check: {done.stdout}{done.stderr}")
