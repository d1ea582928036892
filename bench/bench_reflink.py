#!/usr/bin/env python3
"""./dev bench reflink: a snapshot of a volume side by side with a reflink copy of a file on XFS.

bench_reflink.py [--rounds N] [--sizes MIB[,MIB]]

Both hold the same number of 64 KiB blocks, written in random order. XFS lives in a sparse file behind
a loop device (root only); the pool is made of plain files. Sides take turns, N rounds (5), medians are printed: wall and
CPU time of `cp --reflink=always` and of `uthin snapshot create`, both whole processes. Figures go to build/bench/reflink.json.
"""
import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(os.environ.get("UTHIN_BIN", ROOT / "build/release/bin"))
WORK = Path(os.environ.get("UTHIN_BENCH_DIR", ROOT / "build/bench")) / "reflink"
BLOCK = 64 << 10
MIB = 1 << 20


def run(*command):
    """-> seconds of wall and CPU time of the process"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.monotonic()
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    wall = time.monotonic() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Reflink:
    """a file on XFS, every second block of it written in random order: as many extents"""

    def __init__(self, size):
        self.image, self.folder = WORK / "xfs", WORK / "mounted"
        self.folder.mkdir()
        with open(self.image, "wb") as f:
            f.truncate(4 * size + (1 << 30))
        run("mkfs.xfs", "-q", self.image)
        run("mount", "-o", "loop", self.image, self.folder)
        self.copies = 0
        order = list(range(0, 2 * size // BLOCK, 2))
        random.Random(1).shuffle(order)
        piece = os.urandom(BLOCK)
        with open(self.folder / "origin", "wb") as f:
            for block in order:
                os.pwrite(f.fileno(), piece, block * BLOCK)
            os.fsync(f.fileno())

    def snapshot(self):
        self.copies += 1
        return run("cp", "--reflink=always", self.folder / "origin", self.folder / f"copy{self.copies}")

    def close(self):
        run("umount", self.folder)


class Uthin:
    """a volume, all of it written in random order"""

    def __init__(self, size):
        self.pool, self.copies = WORK / "pool", 0
        run(BIN / "uthin", "pool", "create", self.pool, "--data-size", 4 * size + MIB)
        run(BIN / "uthin", "volume", "create", self.pool / "origin", "--size", size)
        socket = WORK / "s"
        server = subprocess.Popen(["nbdkit", "--foreground", "--unix", socket, BIN / "nbdkit-uthin-plugin.so",
                                   self.pool], stdout=subprocess.DEVNULL)
        while not socket.exists():
            time.sleep(0.02)
        try:
            run("fio", "--name=fill", "--ioengine=nbd", f"--uri=nbd+unix:///origin?socket={socket}", "--rw=randwrite",
                "--bs=64k", "--iodepth=16", f"--size={size}", "--end_fsync=1")
        finally:
            server.terminate()
            server.wait()

    def snapshot(self):
        self.copies += 1
        return run(BIN / "uthin", "snapshot", "create", self.pool / "origin", f"copy{self.copies}")

    def close(self):
        pass


def compare(size, rounds):
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    sides = {}
    try:
        sides = {"uthin": Uthin(size), "reflink": Reflink(size)}
        taken = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                taken[name].append(side.snapshot())
    finally:
        for side in sides.values():
            side.close()
        shutil.rmtree(WORK, ignore_errors=True)
    return {name: {"wall_ms": 1e3 * statistics.median(wall for wall, _ in runs),
                   "cpu_ms": 1e3 * statistics.median(cpu for _, cpu in runs)} for name, runs in taken.items()}


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", default="64,512,2048", help="MiB that are written")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench reflink: mounting a file system needs root")
    report = []
    print(f"{'MiB mapped':>10}{'uthin ms':>10}{'CPU':>8}{'reflink ms':>12}{'CPU':>8}{'wall':>8}{'CPU':>8}")
    for size in map(int, options.sizes.split(",")):
        figures = compare(size * MIB, options.rounds)
        ours, theirs = figures["uthin"], figures["reflink"]
        report.append({"mib": size, "figures": figures})
        print(f"{size:>10}{ours['wall_ms']:>10.1f}{ours['cpu_ms']:>8.1f}{theirs['wall_ms']:>12.1f}{theirs['cpu_ms']:>8.1f}"
              f"{ours['wall_ms'] / theirs['wall_ms']:>8.2f}{ours['cpu_ms'] / theirs['cpu_ms']:>8.2f}", flush=True)
    WORK.parent.mkdir(parents=True, exist_ok=True)
    (WORK.parent / "reflink.json").write_text(json.dumps({"rounds": options.rounds, "rows": report}, indent=1) + "\n")


if __name__ == "__main__":
    main()
