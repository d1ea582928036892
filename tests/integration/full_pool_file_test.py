#!/usr/bin/env python3
"""A pool whose files are sparse, on a file system that becomes full. Without space for the data the pool
has no data space: writes wait, or fail with ENOSPC where they are told to; reads, overwrites and
flushes go on, and writing does when there is space again. Without space for the metadata it is
read-only with the cause, and goes on after `uthin pool check --repair`. What was flushed is there,
after a SIGKILL in the midst of it as well."""
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import threading
import time

from nbd_client import CMD_WRITE, Client
from served_pool import ServedPool

BLOCK = 65536
SMALL_MIB, LARGE_MIB, VOLUME_MIB = 16, 64, 48
ENOSPC = 28
WAIT_S_MAX = 60


def command(*words):
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def expect(what, wanted, found):
    if wanted != found:
        raise AssertionError(f"{what}: expected {wanted!r}, found {found!r}")


def expect_piece(what, piece, text):
    if piece not in text:
        raise AssertionError(f"{what}: {piece!r} is not in {text!r}")


def wait_until(what, holds):
    end = time.monotonic() + WAIT_S_MAX
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"after {WAIT_S_MAX} s not yet: {what}")
        time.sleep(0.1)


class Place:
    """A folder without much space: `make_space()` changes that."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder

    def make_space(self):
        raise NotImplementedError

    def bind(self, pool):
        """The server was started."""


class Tmpfs(Place):
    @staticmethod
    @contextlib.contextmanager
    def mounted(base):
        done = command("mount", "-t", "tmpfs", "-o", f"size={SMALL_MIB}m", "uthin-test", base)
        if done.returncode != 0:
            yield f"tmpfs: mounting does not work here: {done.stderr.strip()}"
            return
        try:
            yield Tmpfs("tmpfs", base)
        finally:
            command("umount", "-l", base)

    def make_space(self):
        expect("remount", 0, command("mount", "-o", f"remount,size={LARGE_MIB}m", self.folder).returncode)


class OnLoop(Place):
    """A file system in a file; another file takes most of its space."""
    MIB = {"ext4": 128, "xfs": 400}

    @staticmethod
    @contextlib.contextmanager
    def mounted(kind, base):
        image = base + ".image"
        with open(image, "wb") as file:
            file.truncate(OnLoop.MIB[kind] << 20)
        made = command(f"mkfs.{kind}", "-q", image) if shutil.which(f"mkfs.{kind}") else None
        if made is None or made.returncode != 0:
            yield f"{kind}: cannot be made: {made.stderr.strip() if made else 'mkfs is not installed'}"
            return
        done = command("mount", "-o", "loop", image, base)
        if done.returncode != 0:
            yield f"{kind}: mounting a loop device does not work here: {done.stderr.strip()}"
            return
        try:
            filler = os.path.join(base, "filler")
            free = os.statvfs(base).f_bavail * os.statvfs(base).f_bsize
            command("fallocate", "-l", str(free - (SMALL_MIB << 20)), filler)
            yield OnLoop(kind, base)
        finally:
            command("umount", "-l", base)
            os.unlink(image)

    def make_space(self):
        os.unlink(os.path.join(self.folder, "filler"))


class FileSizeLimit(Place):
    """No mount: the server may write no further into any file (RLIMIT_FSIZE, EFBIG)."""

    @staticmethod
    @contextlib.contextmanager
    def mounted(base):
        yield FileSizeLimit("ulimit -f", base)

    def bind(self, pool):
        self.pid = pool.server.pid
        self.limit(SMALL_MIB << 20)

    def limit(self, size_bytes):
        for pid in [self.pid, *command("pgrep", "-P", str(self.pid)).stdout.split()]:
            resource.prlimit(int(pid), resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))

    def make_space(self):
        self.limit(resource.RLIM_INFINITY)


def content(number, version=0):
    return bytes([(number * 7 + version * 31) % 251 + 1]) * BLOCK


class Disk:
    """The volume, and what it must hold."""

    def __init__(self, pool):
        self.pool, self.known = pool, {}
        self.client = Client(pool.nbd, "disk")

    def connect(self):
        self.client = Client(self.pool.nbd, "disk")

    def reconnects(self):
        """The server may not have seen yet that the last connection is gone."""
        self.connect()
        try:
            self.client.flush()
        except RuntimeError:
            self.client.socket.close()
            return False
        return True

    def write(self, number, version=0):
        self.client.write(number * BLOCK, content(number, version))
        self.known[number] = content(number, version)

    def verify(self, what, reader=None):
        reader = reader or Client(self.pool.nbd, "disk")
        for number in range(VOLUME_MIB << 20 >> 16):
            expect(f"{what}: block {number}", self.known.get(number, bytes(BLOCK)), reader.read(number * BLOCK, BLOCK))


def mode(pool):
    text = pool.uthin("pool", "status", "").stdout
    return next(line.split(None, 1)[1] for line in text.splitlines() if line.startswith("mode"))


def sparse_file(place, name, size_mib):
    path = os.path.join(place.folder, name)
    with open(path, "wb") as file:
        file.truncate(size_mib << 20)
    return path


def fill_until_full(disk):
    """The first block whose write waits; it is under way when this returns."""
    number = 0
    for number in range(VOLUME_MIB << 20 >> 16):
        handle = disk.client.start(CMD_WRITE, number * BLOCK, BLOCK, content(number))
        answers = []
        waiter = threading.Thread(target=lambda: answers.append(disk.client.finish()), daemon=True)
        waiter.start()
        waiter.join(0.01)
        wait_until("an answer, or a full pool", lambda: answers or mode(disk.pool).startswith("out_of_data_space"))
        waiter.join(0.2)
        if not answers:
            return number, waiter, answers
        expect(f"write of block {number}", (handle, 0), answers[0])
        disk.known[number] = content(number)
    raise AssertionError("the file system does not become full")


def check_full_mode(disk, path):
    found = mode(disk.pool)
    expect_piece("mode", "out_of_data_space: the data device has no space left", found)
    expect_piece("mode", path, found)
    expect_piece("mode", "writes go on when it has some", found)


def data_waits(place, pool, disk, path):
    """-> the blocks that were there when the pool became full"""
    number, waiter, answers = fill_until_full(disk)
    check_full_mode(disk, path)
    before = len(disk.known)
    beside = Disk(pool)
    beside.known = disk.known
    beside.write(3, version=1)
    beside.client.flush()
    disk.verify("full")
    expect("the held write", [], answers)

    place.make_space()
    waiter.join(WAIT_S_MAX)
    expect("the held write's error", 0, answers[0][1] if answers else "none yet")
    disk.known[number] = content(number)
    wait_until("the pool's mode is write", lambda: mode(pool) == "write")
    for more in range(number + 1, number + 20):
        disk.write(more)
    disk.client.flush()
    disk.verify("with space again")
    return before


def data_fails(pool, disk, path):
    """no-space=error: ENOSPC, of each write that needs space; what was flushed survives a SIGKILL"""
    expect("pool set", 0, pool.uthin("pool", "set", "", "no-space=error").returncode)
    number = 0
    try:
        for number in range(VOLUME_MIB << 20 >> 16):
            disk.write(number)
        raise AssertionError("the file system does not become full")
    except RuntimeError as refused:
        expect_piece(f"write of block {number}", f"error {ENOSPC}", str(refused))
    check_full_mode(disk, path)
    disk.client.flush()
    disk.write(2, version=2)
    disk.client.flush()
    disk.verify("full")
    pool.kill()
    pool.start()
    disk.connect()
    disk.verify("after SIGKILL")
    return number


def data_case(place, cache):
    path = sparse_file(place, "data", LARGE_MIB)
    with ServedPool("full-file", {"disk": VOLUME_MIB << 20},
                    create=("--data", path, "--metadata-size", "4M", "--cache", cache)) as pool:
        if not isinstance(place, FileSizeLimit):
            failed_at = data_fails(pool, Disk(pool), path)
            expect("pool set", 0, pool.uthin("pool", "set", "", "no-space=queue").returncode)
            Disk(pool).client.trim(0, VOLUME_MIB << 20)
            wait_until("the discard reached the file", lambda: os.stat(path).st_blocks == 0)
        place.bind(pool)
        disk = Disk(pool)
        before = data_waits(place, pool, disk, path)
        pool.stop()
        pool.judge()
        os.unlink(path)
    print(f"data on {place.name}, cache {cache}: {before} blocks until it was full"
          + ("" if isinstance(place, FileSizeLimit) else f"; with errors {failed_at}"), flush=True)


def fill_up(folder):
    with open(os.path.join(folder, "rest"), "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))


def metadata_case(place):
    """Overwriting all of it is what the superblock can; new blocks of the sparse file are not to be had."""
    path = sparse_file(place, "metadata", 8)
    with ServedPool("full-file", {"disk": VOLUME_MIB << 20},
                    create=("--data-size", f"{LARGE_MIB}M", "--metadata", path)) as pool:
        disk = Disk(pool)
        for number in range(40):
            disk.write(number)
        disk.client.flush()
        durable = dict(disk.known)
        fill_up(place.folder)
        flushes = 0
        try:
            for number in range(40, VOLUME_MIB << 20 >> 16):
                disk.write(number)
                disk.client.flush()
                durable = dict(disk.known)
                flushes += 1
            raise AssertionError("the metadata's file system does not become full")
        except RuntimeError as refused:
            expect_piece("flush", "error 5", str(refused))
        found = mode(pool)
        expect_piece("mode", "read_only: ", found)
        expect_piece("mode", "No space left on device", found)
        expect_piece("mode", "needs_check", found)
        refused = pool.uthin("volume", "create", "other", "--size", "1M", may_fail=True)
        expect_piece("creating a volume", "run 'uthin pool check --repair'", refused.stderr)
        disk.known = durable
        disk.verify("read-only", disk.client)  # a new connection would be one that may write: refused

        os.unlink(os.path.join(place.folder, "rest"))
        expect("repair", 0, pool.uthin("pool", "check", "", "--repair").returncode)
        expect("mode", "write", mode(pool))
        # What this connection wrote since was lost: it is told so until the volume is opened again.
        disk.client.socket.close()
        wait_until("the volume was opened again", disk.reconnects)
        for number in range(100, 140):
            disk.write(number)
        disk.client.flush()
        pool.kill()
        pool.start()
        disk.verify("after SIGKILL")
        pool.stop()
        pool.judge(path)
        os.unlink(path)
    print(f"metadata on {place.name}: {flushes} flushes with the file system full, then read-only", flush=True)


def places():
    """ways to have little space"""
    yield "ulimit -f", FileSizeLimit.mounted
    if os.geteuid() != 0:
        print("skipped: tmpfs, ext4, xfs: mounting needs root")
        return
    yield "tmpfs", Tmpfs.mounted
    for kind in OnLoop.MIB:
        yield kind, lambda base, kind=kind: OnLoop.mounted(kind, base)


def main():
    base = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"uthin-full-pool-file.{os.getpid()}")
    try:
        for name, mounted in places():
            for what in ("none", "writeback", "metadata"):
                if what == "metadata" and name == "ulimit -f":
                    continue  # it holds for every file, pool.json and the catalogue too
                os.mkdir(base)
                with mounted(base) as place:
                    if isinstance(place, str):
                        print(f"skipped: {place}", flush=True)
                    elif what == "metadata":
                        metadata_case(place)
                    else:
                        data_case(place, what)
                shutil.rmtree(base, ignore_errors=True)
    finally:
        command("umount", "-l", base)
        shutil.rmtree(base, ignore_errors=True)
    print("ok")


if __name__ == "__main__":
    sys.exit(main())
