#!/usr/bin/env python3
"""metadata_snapshot_load.py BIN POOL SECONDS [TOOLS]: serves the pool, writes, trims, snapshots and
deletes, reserves the metadata snapshot, and compares what each thin_dump -m says under load with a plain
dump of a copy of the metadata, taken when it was reserved. TOOLS: folder of the 1.x tools."""
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree

from nbd_client import Client

BLOCK = 64 << 10
VOLUMES = ("a", "b", "c")
COMMITS_MIN = 3
binaries, pool, seconds, tools = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
seed = int(os.environ.get("UTHIN_SEED", "20261122"))
print(f"UTHIN_SEED={seed}")


def fail(text):
    sys.exit(f"metadata snapshot: {text}")


def run(*command, status=0):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if status is not None and done.returncode != status:
        fail(f"{' '.join(command)}: status {done.returncode}: {done.stderr}")
    return done


def uthin(*arguments, status=0):
    return run(binaries + "/uthin", *arguments, status=status)


def one_line(done, piece):
    if done.stderr.count("\n") != 1 or piece not in done.stderr:
        fail(f"{' '.join(done.args)}: wanted one line with '{piece}', found: {done.stderr!r}")


class Load:
    """Writers on their own connections, and somebody who makes and deletes snapshots."""

    def __init__(self, tag):
        self.running, self.go, self.idle = True, threading.Event(), threading.Semaphore(0)
        self.operations, self.tag, self.killed, self.problem = 0, tag, False, None
        self.threads = [threading.Thread(target=self.guarded, args=(self.write, name, number))
                        for number, name in enumerate(VOLUMES)]
        self.threads.append(threading.Thread(target=self.guarded, args=(self.administer, None, 9)))
        self.go.set()
        for thread in self.threads:
            thread.start()

    def guarded(self, work, *arguments):
        try:
            work(*arguments)
        except (OSError, RuntimeError) as problem:
            if not self.killed:
                self.problem = self.problem or problem
        finally:
            self.idle.release()

    def wait_for_go(self):
        if not self.go.is_set():
            self.idle.release()
            self.go.wait()

    def write(self, name, number):
        client, chance = Client(pool + "/nbd.sock", name), random.Random(seed * 10 + number)
        while self.running:
            self.wait_for_go()
            length = chance.choice((512, 4096, BLOCK, 3 * BLOCK))
            offset = chance.randrange((client.size - length) // 512) * 512
            if chance.random() < 0.15:
                client.trim(offset // BLOCK * BLOCK, 8 * BLOCK if offset < client.size // 2 else BLOCK)
            else:
                client.write(offset, bytes([chance.randrange(1, 256)]) * length)
            if chance.random() < 0.05:
                client.flush()
            self.operations += 1

    def administer(self, _, number):
        chance, made, count = random.Random(seed * 10 + number), [], 0
        while self.running:
            self.wait_for_go()
            made.append(f"{self.tag}-{count}")
            count += 1
            uthin("snapshot", "create", f"{pool}/{chance.choice(VOLUMES)}", made[-1], status=None)
            if len(made) > 4:
                uthin("volume", "delete", f"{pool}/{made.pop(chance.randrange(4))}", status=None)
            time.sleep(chance.uniform(0, 0.2))

    def pause(self):
        self.go.clear()
        for _ in self.threads:
            self.idle.acquire(timeout=60)
        self.check()

    def resume(self):
        self.go.set()

    def check(self):
        if self.problem:
            fail(f"the load failed: {self.problem}")

    def stop(self):
        self.running = False
        self.go.set()
        for thread in self.threads:
            thread.join()


def start():
    server = subprocess.Popen([binaries + "/uthin", "serve", pool], stdout=subprocess.PIPE)
    line = server.stdout.readline()
    if not line.startswith(b"nbd+unix:"):
        fail(f"the server does not start: {line!r}, status {server.wait()}")
    return server


class Control(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(pool + "/control.sock")


def ask(path):
    connection = Control("localhost", timeout=60)
    connection.request("GET", path)
    return connection.getresponse().read().decode()


def commits():
    return int(re.search(r"^uthin_pool_commits_total (\d+)$", ask("/metrics"), re.M).group(1))


def held_block():
    """The fourth word of the kernel's status line; `-` when nothing is held."""
    return uthin("pool", "status", pool, "--kernel").stdout.split()[3]


def expanded(text):
    """-> {device: (attributes, [(thin block, data block, time, length)])}, no matter how a dump cuts runs."""
    root = xml.etree.ElementTree.fromstring(text)
    shared = {element.get("name"): element for element in root.iter("def")}
    devices = {}

    def walk(element, runs):
        for child in element:
            if child.tag == "ref":
                walk(shared[child.get("name")], runs)
                continue
            ranged = child.tag == "range_mapping"
            run_of = (int(child.get("origin_begin" if ranged else "origin_block")),
                      int(child.get("data_begin" if ranged else "data_block")),
                      int(child.get("time")), int(child.get("length", "1")))
            last = runs[-1] if runs else None
            if last and last[0] + last[3] == run_of[0] and last[1] + last[3] == run_of[1] \
                    and last[2] == run_of[2]:
                runs[-1] = (*last[:3], last[3] + run_of[3])
            else:
                runs.append(run_of)

    for element in root.findall("device"):
        runs = []
        walk(element, runs)
        devices[int(element.get("dev_id"))] = (dict(element.attrib), runs)
    return root.get("transaction"), root.get("time"), devices


def live_dumps(block):
    own = binaries + "/thin_dump"
    commands = [("/usr/sbin/thin_dump", f"-m{block}", pool + "/metadata"),
                (own, f"-m{block}", pool + "/metadata"), (own, "-m", pool)]
    if tools:
        commands.append((tools + "/thin_dump", "-m", pool + "/metadata"))
    return commands


def expect_dumps(block, wanted, when):
    for command in live_dumps(block):
        found = expanded(run(*command).stdout)
        if found != wanted:
            fail(f"{' '.join(command)} {when}: not the state when it was reserved "
                 f"({len(found[2])} devices, {sum(len(d[1]) for d in found[2].values())} runs; wanted "
                 f"{len(wanted[2])} and {sum(len(d[1]) for d in wanted[2].values())})")
    return len(live_dumps(block))


def reserve_paused(load):
    """The reference comes from a dump without -m of a copy: it does not go through the held root."""
    load.pause()
    while json.loads(ask("/v1/pool"))["deletions_running"]:
        time.sleep(0.05)
    uthin("pool", "metadata-snapshot", pool, "reserve")
    shutil.copyfile(pool + "/metadata", pool + "/copy")
    wanted = expanded(run("/usr/sbin/thin_dump", pool + "/copy").stdout)
    os.unlink(pool + "/copy")
    load.resume()
    return wanted


def expect_refusals():
    one_line(uthin("message", pool, "reserve_metadata_snap", status=1), "Device or resource busy")
    one_line(uthin("pool", "metadata-snapshot", pool, "reserve", status=1), "held already")
    for name in (pool, pool + "/metadata"):
        for tool in ("thin_dump", "thin_check", "thin_ls"):
            one_line(run(f"{binaries}/{tool}", name, status=64), "owned by another process")
    run(binaries + "/thin_ls", "-m", pool)
    run(binaries + "/thin_check", "-m", pool)


def dump_under_load(load, block, wanted):
    first, begin, dumps, operations = commits(), time.monotonic(), 0, load.operations
    while time.monotonic() - begin < seconds or commits() - first < COMMITS_MIN:
        dumps += expect_dumps(block, wanted, "under load")
        load.check()
        time.sleep(0.1)
    print(f"{dumps} dumps of {len(wanted[2])} devices, {sum(len(d[1]) for d in wanted[2].values())} "
          f"runs, while {load.operations - operations} writes and trims and {commits() - first} "
          "commits went on")
    if load.operations == operations:
        fail("there was no load")


def main():
    server = start()
    load = Load("before")
    try:
        time.sleep(1)
        if held_block() != "-":
            fail("something is held before anything was reserved")
        wanted = reserve_paused(load)
        block = held_block()
        expect_refusals()
        dump_under_load(load, block, wanted)

        load.killed = True
        server.send_signal(signal.SIGKILL)
        server.wait()
        load.stop()
        expect_dumps(block, wanted, "after SIGKILL")
        server = start()
        load = Load("after")
        if held_block() != block:
            fail(f"held at {block} before SIGKILL, at {held_block()} afterwards")
        one_line(uthin("message", pool, "reserve_metadata_snap", status=1), "busy")
        dump_under_load(load, block, wanted)

        # Released and reserved again in the midst of the load: all dumps are of one state.
        uthin("pool", "metadata-snapshot", pool, "release")
        if held_block() != "-":
            fail("it is held still after its release")
        uthin("message", pool, "reserve_metadata_snap")
        block = held_block()
        again = expanded(run("/usr/sbin/thin_dump", f"-m{block}", pool + "/metadata").stdout)
        if again == wanted:
            fail("the second snapshot shows the state of the first")
        dump_under_load(load, block, again)
        uthin("message", pool, "release_metadata_snap")
        one_line(uthin("message", pool, "release_metadata_snap", status=1), "no metadata snapshot")
        load.check()
        load.running = False
        load.stop()
        server.terminate()
        if server.wait() != 0:
            fail("the last server did not end well")
    finally:
        load.killed, load.running = True, False
        load.go.set()
        if server.poll() is None:
            server.kill()


main()
