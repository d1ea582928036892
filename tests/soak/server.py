"""The served pool of a soak: commands, starting and ending the server, and what it takes of the machine."""
import json
import os
import signal
import statistics
import subprocess
import sys
import time

from stamped import Violation

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get("UTHIN_SOURCE", os.path.dirname(os.path.dirname(HERE)))
BIN = os.environ.get("UTHIN_BIN", os.path.join(SOURCE, "build", "release", "bin"))
UTHIN = os.path.join(BIN, "uthin")
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))  # nbd_client, for those who import this

MEMORY_SLACK_BYTES = 2 << 20
MEMORY_SLACK_FACTOR = 1.10
PATIENCE_SECONDS = 3600  # a machine may be suspended meanwhile
RINGS_MAX = 8 + 16  # kept when idle, and one for each thread of a client
JUDGED_SECONDS_MIN, JUDGED_SAMPLES_MIN = 200, 100  # a shorter life is still warming up


def run(*arguments, status=0, program=UTHIN):
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False,
                          timeout=PATIENCE_SECONDS)
    if status is not None and done.returncode != status:
        raise Violation(f"{os.path.basename(program)} {' '.join(arguments)}: status {done.returncode}: "
                        f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


def asked(*arguments):
    return json.loads(run(*arguments, "--json").stdout)


class Life:
    """One process of the server: (seconds since its start, resident bytes, descriptors)."""

    def __init__(self, pid):
        self.pid, self.begin, self.samples = pid, time.monotonic(), []

    def sample(self):
        with open(f"/proc/{self.pid}/status", encoding="ascii") as status:
            resident = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))
        descriptors = self.descriptors()
        self.samples.append((time.monotonic() - self.begin, resident, descriptors))
        return resident, descriptors

    def descriptors(self):
        """without the rings that src/io/uring_batch.cpp keeps: there are as many as were once busy together"""
        folder, count, rings = f"/proc/{self.pid}/fd", 0, 0
        for name in os.listdir(folder):
            try:
                is_ring = "io_uring" in os.readlink(f"{folder}/{name}")
            except FileNotFoundError:
                continue
            count, rings = count + (not is_ring), rings + is_ring
        if rings > RINGS_MAX:
            raise Violation(f"{rings} rings of io_uring, {RINGS_MAX} may be kept")
        return count

    def quarter(self, number):
        """-> median of resident bytes, least number of descriptors: a connection that just ends may be
        counted by some samples, a descriptor that leaks is in all of them"""
        count = len(self.samples)
        of_it = self.samples[count * (number - 1) // 4:count * number // 4]
        return statistics.median(s[1] for s in of_it), min(s[2] for s in of_it)

    def judged(self):
        return len(self.samples) >= JUDGED_SAMPLES_MIN and self.samples[-1][0] >= JUDGED_SECONDS_MIN

    def expect_flat(self):
        (early, early_descriptors), (late, late_descriptors) = self.quarter(2), self.quarter(4)
        if late > early * MEMORY_SLACK_FACTOR + MEMORY_SLACK_BYTES:
            raise Violation(f"memory grows: {early} bytes in the second quarter, {late} in the last one")
        if late_descriptors != early_descriptors:
            raise Violation(f"descriptors: {early_descriptors} in the second quarter, {late_descriptors} in "
                            "the last one")


class Server:
    def __init__(self, pool, log):
        self.pool, self.log_path = pool, log
        self.nbd = os.path.join(pool, "nbd.sock")
        self.process, self.life, self.lives = None, None, []

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([UTHIN, "serve", self.pool], stdout=subprocess.PIPE, stderr=log)
        line = self.process.stdout.readline()
        if not line.startswith(b"nbd+unix:"):
            raise Violation(f"the server does not start: {line!r}, status {self.process.wait()}")
        self.life = Life(self.process.pid)
        self.lives.append(self.life)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired as problem:
            raise Violation(f"the server does not end; its threads: {self.threads()}") from problem
        self.process.stdout.close()
        if status != 0:
            raise Violation(f"the server ended with {status}")

    def threads(self):
        """what each of them waits for"""
        tasks = f"/proc/{self.process.pid}/task"
        states = []
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/stat", encoding="ascii") as stat, \
                    open(f"{tasks}/{task}/wchan", encoding="ascii") as wchan:
                states.append(stat.read().rsplit(")", 1)[1].split()[0] + " " + wchan.read())
        return states

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def state(self):
        status = self.process.poll() if self.process is not None else None
        return "" if status is None else f"; the last server had ended with status {status}"

    def end(self):
        """whatever happened"""
        if self.process is not None and self.process.poll() is None:
            self.kill()
