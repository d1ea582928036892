#!/usr/bin/env python3
"""./dev bench nbd: volumes over NBD side by side with other servers.

bench_nbd.py [--rounds N] [--size MIB] [--requests N] [--only NAME[,NAME]]

Ours with its data in memory and in a file against nbdkit's memory and file plugins and qemu-nbd with
a qcow2 image (the block layer and NBD server of qemu-storage-daemon). Files are used through the page cache by
both sides (our cache=writeback), but for "-direct", where both go around it. The load is fio's nbd engine, 4 KiB,
queue depth 32, over a Unix socket. Servers take turns, N rounds (5); CPU is user + system time of the server
process for one request; medians are compared, and beside them the least of the rounds. Figures go to build/bench/nbd.json.
"""
import argparse
import json
import mmap
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(os.environ.get("UTHIN_BIN", ROOT / "build/release/bin"))
WORK = Path(os.environ.get("UTHIN_BENCH_DIR", ROOT / "build/bench")) / "nbd"
BLOCK = 64 << 10
MIB = 1 << 20
# (load, our server, the other one, at most this much of its CPU)
ROWS = [
    ("read", "uthin-memory", "nbdkit-memory", 1.15),
    ("write", "uthin-memory", "nbdkit-memory", 1.15),
    ("read", "uthin-file", "nbdkit-file", 1.15),
    ("write", "uthin-file", "nbdkit-file", 1.15),
    ("read", "uthin-file", "qcow2", 0.65),
    ("write", "uthin-file", "qcow2", 0.65),
    ("first-write", "uthin-file", "qcow2", 0.5),
    ("after-snapshot", "uthin-file", "qcow2", 0.5),
    ("read", "uthin-direct", "qcow2-direct", 0.65),
    ("write", "uthin-direct", "qcow2-direct", 0.65),
    ("first-write", "uthin-direct", "qcow2-direct", 0.5),
    ("after-snapshot", "uthin-direct", "qcow2-direct", 0.5),
]


def run(*command, **more):
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE,
                          text=True, **more).stdout


class Server:
    """a process that answers at self.uri; `snapshot` may stop and start it"""

    def __init__(self, name, size):
        self.name, self.size = name, size
        self.folder = WORK / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.socket = self.folder / "s"
        self.process = None
        self.snapshots = 0
        self.make()
        self.start()

    def make(self):
        pass

    export = ""

    @property
    def uri(self):
        return f"nbd+unix:///{self.export}?socket={self.socket}"

    def start(self):
        self.socket.unlink(missing_ok=True)
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen([str(word) for word in self.command()], stdin=subprocess.DEVNULL,
                                        stdout=log, stderr=log)
        for _ in range(600):
            if self.answers():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        sys.exit(f"bench: {self.name} does not start; see {self.folder}/log")

    def answers(self):
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket))
                return True
            except OSError:
                return False

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def cpu_seconds(self):
        # clock_getcpuclockid(3): exact, and with the threads that ended. /proc counts in ticks of 10 ms.
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def fresh(self):
        """the same, nothing written"""
        self.stop()
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.make()
        self.start()


class Nbdkit(Server):
    def make(self):
        if self.name == "nbdkit-file":
            with open(self.folder / "image", "wb") as f:
                f.truncate(self.size)

    def command(self):
        what = (["memory", self.size] if self.name == "nbdkit-memory"
                else ["file", self.folder / "image"])
        return ["nbdkit", "--foreground", "--unix", self.socket, *what]


class Qcow2(Server):
    def make(self):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=64k,lazy_refcounts=on",
            self.folder / "image", self.size)

    def command(self):
        cache = "none" if self.name.endswith("-direct") else "writeback"
        return ["qemu-nbd", "--persistent", "--shared=0", "--format=qcow2", f"--cache={cache}",
                "--aio=threads", "--discard=unmap", f"--socket={self.socket}", self.folder / "image"]

    def snapshot(self):
        self.stop()
        self.snapshots += 1
        run("qemu-img", "snapshot", "-c", f"s{self.snapshots}", self.folder / "image")
        self.start()


class Uthin(Server):
    export = "v"

    def make(self):
        data = f"memory:{4 * self.size}" if self.name == "uthin-memory" else None
        pool = self.folder / "pool"
        where = ["--data", data] if data else ["--data-size", 64 * self.size]  # sparse
        if self.name == "uthin-file":
            where += ["--cache", "writeback"]
        run(BIN / "uthin", "pool", "create", pool, *where)
        run(BIN / "uthin", "volume", "create", pool / "v", "--size", self.size)

    def command(self):
        return ["nbdkit", "--foreground", "--unix", self.socket, BIN / "nbdkit-uthin-plugin.so",
                self.folder / "pool"]

    def snapshot(self):
        self.snapshots += 1
        run(BIN / "uthin", "snapshot", "create", self.folder / "pool/v", f"s{self.snapshots}")


def server(name, size):
    kind = {"nbdkit": Nbdkit, "qcow2": Qcow2, "uthin": Uthin}[name.split("-")[0]]
    return kind(name, size)


def fio(of, *options):
    out = run("fio", "--name=load", "--ioengine=nbd", f"--uri={of.uri}", "--output-format=json",
              "--group_reporting", *options)
    job = json.loads(out[out.index("{"):])["jobs"][0]
    return job["read"]["total_ios"] + job["write"]["total_ios"], job["job_runtime"] / 1e3


def fill(of):
    fio(of, "--rw=write", "--bs=1m", "--iodepth=8", f"--size={of.size}", "--end_fsync=1")


def touch_free_memory(size):
    """a virtual machine's host may have taken free pages back: whoever uses one next pays for it, up to
    200 us for 64 KiB, in the CPU time of the side whose turn it happens to be"""
    mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def load(of, what, requests, round_number):
    """what one request took: CPU of the server and wall time, in microseconds"""
    touch_free_memory(3 * of.size)
    if what in ("read", "write"):
        options = [f"--rw=rand{what}", f"--size={of.size}", f"--io_size={requests * 4096}", "--norandommap",
                   f"--randseed={round_number + 1}"]
    else:
        # One page in each block of the image.
        options = [f"--rw=write:{(BLOCK - 4096) // 1024}k", f"--size={of.size}",
                   f"--io_size={of.size // BLOCK * 4096}"]
    before = of.cpu_seconds()
    done, seconds = fio(of, "--bs=4k", "--iodepth=32", *options)
    return {"cpu": (of.cpu_seconds() - before) * 1e6 / done, "wall": seconds * 1e6 / done,
            "requests": done}


def compare(row, size, requests, rounds):
    what, ours, theirs, _ = row
    sides = {name: server(name, size) for name in (ours, theirs)}
    runs = {name: [] for name in sides}
    try:
        for of in sides.values():
            fill(of)
        for round_number in range(rounds):
            for name, of in sides.items():
                if what == "first-write":
                    of.fresh()
                elif what == "after-snapshot":
                    of.snapshot()
                runs[name].append(load(of, what, requests, round_number))
    finally:
        for of in sides.values():
            of.stop()
            shutil.rmtree(of.folder)
    figures = {}
    for name, taken in runs.items():
        for key in ("cpu", "wall"):
            values = [one[key] for one in taken]
            figures.setdefault(name, {})[key] = {
                "median": statistics.median(values), "least": min(values), "most": max(values)}
    return figures


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, help="MiB")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    report, missed = [], 0
    print(f"{'load':<16}{'ours':<14}{'CPU us':>8}  {'theirs':<14}{'CPU us':>8}{'CPU':>7}{'least':>7}{'wall':>7}  "
          "target")
    for row in ROWS:
        what, ours, theirs, target = row
        if options.only and what not in options.only.split(","):
            continue
        figures = compare(row, options.size * MIB, options.requests, options.rounds)
        ratio = {key: figures[ours][key]["median"] / max(figures[theirs][key]["median"], 1e-3)
                 for key in ("cpu", "wall")}
        ratio["least"] = figures[ours]["cpu"]["least"] / max(figures[theirs]["cpu"]["least"], 1e-3)
        met = ratio["cpu"] <= target
        missed += not met
        report.append({"load": what, "ours": ours, "theirs": theirs, "figures": figures, "ratio": ratio,
                       "target": target, "met": met})
        print(f"{what:<16}{ours:<14}{figures[ours]['cpu']['median']:8.2f}  {theirs:<14}"
              f"{figures[theirs]['cpu']['median']:8.2f}{ratio['cpu']:7.2f}{ratio['least']:7.2f}"
              f"{ratio['wall']:7.2f}  "
              f"{target:<5}{'met' if met else 'MISSED'}", flush=True)
    (WORK.parent / "nbd.json").write_text(json.dumps(
        {"rounds": options.rounds, "size_mib": options.size, "rows": report}, indent=1) + "\n")
    print(f"{missed} rows missed their target; figures in {WORK.parent / 'nbd.json'}")


if __name__ == "__main__":
    main()
