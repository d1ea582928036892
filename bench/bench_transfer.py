#!/usr/bin/env python3
"""Moving what changed, side by side with what people use now: `./dev bench transfer [--size MIB] [--rounds N]`.

A volume is half full of random data; 1 % of the data changes between two snapshots, in pieces of 64 KiB. A copy of
the first snapshot is brought to the second
  uthin      uthin send --from | uthin receive, into another pool (verified, whole or not at all)
  since      nbdcopy of the export B@since-A into a file
  nbdcopy    nbdcopy of the whole snapshot into a file
  qemu-img   qemu-img convert of the whole snapshot into a file
  delta+dd   thin_delta of a metadata snapshot, then dd of each range through nbdfuse (where FUSE works)
Every result is compared with the snapshot. Wall time, CPU time of all processes (the server's included), bytes moved;
the median of the rounds. The figures mean something on a quiet machine only."""
import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree

SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.environ.get("UTHIN_BIN", os.path.join(SOURCE, "build/release/bin"))
UTHIN = os.path.join(BIN, "uthin")
BLOCK = 64 << 10


def run(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, **options).stdout


class Lab:
    def __init__(self, folder, size, seed):
        self.folder, self.size = folder, size
        self.random = random.Random(seed)
        self.pool = os.path.join(folder, "pool")
        run(UTHIN, "pool", "create", self.pool, "--data-size", str(2 * size))
        run(UTHIN, "volume", "create", self.pool + "/v", "--size", str(size))
        content = b"".join(self.random.randbytes(1 << 20) for _ in range(size >> 21))
        run(UTHIN, "write", self.pool + "/v", input=content)
        run(UTHIN, "snapshot", "create", self.pool + "/v", "a")
        blocks = size // 2 // BLOCK
        self.server = None
        self.serve()
        for block in self.random.sample(range(blocks), max(1, blocks // 100)):
            run(UTHIN, "write", self.pool + "/v", "--offset", str(block * BLOCK), input=self.random.randbytes(BLOCK))
        run(UTHIN, "snapshot", "create", self.pool + "/v", "b")
        self.expected = os.path.join(folder, "expected")
        run(UTHIN, "export", self.pool + "/b", self.expected)
        self.base = os.path.join(folder, "base")
        run(UTHIN, "export", self.pool + "/a", self.base)
        self.uri = f"nbd+unix:///NAME?socket={self.pool}/nbd.sock"

    def serve(self):
        self.server = subprocess.Popen([UTHIN, "serve", self.pool], stdout=subprocess.PIPE)
        self.server.stdout.readline()

    def stop(self):
        self.server.terminate()
        self.server.wait()

    def cpu(self):
        with open(f"/proc/{self.server.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        server = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return server + children.ru_utime + children.ru_stime

    def changed(self):
        ranges = json.loads(run(UTHIN, "diff", self.pool + "/a", self.pool + "/b", "--json"))["ranges"]
        return sum(r["length"] for r in ranges)

    def mapped(self):
        return json.loads(run(UTHIN, "volume", "show", self.pool + "/b", "--json"))["mapped"]

    def fresh_copy(self):
        copy = os.path.join(self.folder, "copy")
        shutil.copyfile(self.base, copy)
        return copy

    def check(self, path):
        subprocess.run(["cmp", path, self.expected], check=True)

    # ---- each prepares, and gives what is measured and what checks it
    def uthin(self):
        target = os.path.join(self.folder, "target")
        shutil.rmtree(target, ignore_errors=True)
        run(UTHIN, "pool", "create", target, "--data-size", str(2 * self.size))
        subprocess.run(f"{UTHIN} send {self.pool}/a | {UTHIN} receive {target}/v", shell=True, check=True,
                       stdout=subprocess.DEVNULL)
        moved = []

        def measured():
            text = subprocess.run(
                f"{UTHIN} send {self.pool}/b --from a | tee >(wc -c >&2) | {UTHIN} receive {target}/v",
                shell=True, check=True, executable="/bin/bash", stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE).stderr
            moved.append(int(text))
            return moved[-1]

        def check():
            run(UTHIN, "export", target + "/v", target + ".image")
            self.check(target + ".image")
            os.remove(target + ".image")

        return measured, check

    def since(self):
        copy = self.fresh_copy()

        def measured():
            run("nbdcopy", "--sparse=0", "--destination-is-zero", "--request-size=65536", "--", self.uri.replace("NAME", "b@since-a"),
                "[", "nbdkit", "--exit-with-parent", "file", copy, "]")
            return self.changed()
        return measured, lambda: self.check(copy)

    def nbdcopy(self):
        copy = self.fresh_copy()

        def measured():
            run("nbdcopy", self.uri.replace("NAME", "b"), copy)
            return self.mapped()
        return measured, lambda: self.check(copy)

    def qemu_img(self):
        copy = os.path.join(self.folder, "copy")

        def measured():
            run("qemu-img", "convert", "-f", "raw", "-O", "raw", self.uri.replace("NAME", "b"), copy)
            return self.mapped()
        return measured, lambda: self.check(copy)

    def delta_dd(self):
        copy = self.fresh_copy()
        mount = os.path.join(self.folder, "fuse")
        os.makedirs(mount, exist_ok=True)
        fuse = subprocess.Popen(["nbdfuse", mount + "/b", self.uri.replace("NAME", "b")],
                                stderr=subprocess.DEVNULL)
        for _ in range(50):
            if os.path.exists(mount + "/b"):
                break
            time.sleep(0.1)
        else:
            fuse.kill()
            fuse.wait()
            return None, None
        ids = {v["name"]: v["dev_id"] for v in json.loads(run(UTHIN, "volume", "list", self.pool, "--json"))["volumes"]}

        def measured():
            run(UTHIN, "pool", "metadata-snapshot", self.pool, "reserve")
            xml = run("thin_delta", "-m", "--snap1", str(ids["a"]), "--snap2", str(ids["b"]), self.pool + "/metadata")
            run(UTHIN, "pool", "metadata-snapshot", self.pool, "release")
            moved = 0
            for element in ElementTree.fromstring(xml).iter():
                if element.tag in ("different", "right_only"):
                    begin, length = int(element.get("begin")), int(element.get("length"))
                    run("dd", f"if={mount}/b", f"of={copy}", f"bs={BLOCK}", f"skip={begin}", f"seek={begin}",
                        f"count={length}", "conv=notrunc", "status=none")
                    moved += length * BLOCK
            run("sync", copy)
            return moved

        def check():
            subprocess.run(["fusermount3", "-u", mount], check=True)
            fuse.wait()
            self.check(copy)
        return measured, check


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="of the volume, in MiB")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="uthin-bench-")
    lab = None
    try:
        lab = Lab(folder, arguments.size << 20, int(os.environ.get("UTHIN_SEED", "20261122")))
        print(f"volume {arguments.size} MiB, mapped {lab.mapped() >> 20} MiB, changed {lab.changed() / 2**20:.1f} MiB, "
              f"{arguments.rounds} rounds, load {os.getloadavg()[0]:.1f}")
        print(f"{'way':<10} {'wall s':>8} {'CPU s':>8} {'MiB moved':>10}")
        for name in ("uthin", "since", "nbdcopy", "qemu_img", "delta_dd"):
            walls, cpus, moved = [], [], 0
            for _ in range(arguments.rounds):
                measured, check = getattr(lab, name)()
                if measured is None:
                    break
                wall, cpu = time.monotonic(), lab.cpu()
                moved = measured()
                walls.append(time.monotonic() - wall)
                cpus.append(lab.cpu() - cpu)
                check()
            if not walls:
                print(f"{name:<10} not run: nbdfuse cannot mount here")
                continue
            print(f"{name:<10} {statistics.median(walls):>8.2f} {statistics.median(cpus):>8.2f} {moved / 2**20:>10.1f}")
        lab.stop()
        lab = None
    finally:
        if lab is not None and lab.server is not None:
            lab.server.kill()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
