#!/usr/bin/env python3
"""kill9_load.py UTHIN POOL KILLS [METADATA]: serves the pool, writes stamped sectors over several connections
with flushes between while snapshots come and go, kills the server with SIGKILL, has the metadata judged
(METADATA: the file, when it is not POOL/metadata), starts it again, and holds every sector against what a
completed flush promised, and every snapshot against what its command had said."""
import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time

from nbd_client import Client

SECTOR = 512
CONNECTIONS = 4
AREA = 16 << 20  # of each connection
SNAPSHOTS_MAX = 40
PATIENCE_SECONDS = 3600  # a busy machine may stop everything for minutes; ctest ends what hangs
JUDGE_EVERY = 20  # kills; thin_check of our own looks at each
uthin, pool, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
metadata = sys.argv[4] if len(sys.argv) > 4 else os.path.join(pool, "metadata")
HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get("UTHIN_SOURCE", os.path.dirname(os.path.dirname(HERE)))
seed = int(os.environ.get("UTHIN_SEED", "20261122"))
print(f"UTHIN_SEED={seed}")


def connect():
    client = Client(pool + "/nbd.sock", "disk")
    client.socket.settimeout(PATIENCE_SECONDS)
    return client


class Area:
    """What one connection wrote to its part of the volume. Per sector: the oldest stamp that may be
    there (promised by a flush) and the newest (issued)."""

    def __init__(self, number):
        self.begin = number * AREA
        self.random = random.Random(seed * 1000 + number)
        self.promised = {}
        self.issued = {}
        self.unflushed = {}
        self.stamp = 0
        self.flushes = self.writes = 0

    def work(self, client):
        while True:
            count = self.random.choice((1, 8, 8, 64, 300))
            first = self.random.randrange(AREA // SECTOR - count)
            self.stamp += 1
            for sector in range(first, first + count):
                self.issued[sector] = self.stamp
            client.write(self.begin + first * SECTOR, b"".join(
                struct.pack("<QQ", self.begin + sector * SECTOR, self.stamp) * (SECTOR // 16)
                for sector in range(first, first + count)))
            self.writes += 1
            for sector in range(first, first + count):
                self.unflushed[sector] = self.stamp
            if self.random.random() < 0.1:
                client.flush()
                self.flushes += 1
                self.promised.update(self.unflushed)
                self.unflushed.clear()

    def verify(self, client):
        for chunk in range(0, AREA, 1 << 20):
            data = client.read(self.begin + chunk, 1 << 20)
            for at in range(0, len(data), SECTOR):
                sector = (chunk + at) // SECTOR
                place, stamp = struct.unpack_from("<QQ", data, at)
                low, high = self.promised.get(sector, 0), self.issued.get(sector, 0)
                if not low <= stamp <= high or (stamp and place != self.begin + chunk + at):
                    sys.exit(f"sector at {self.begin + chunk + at}: stamp {stamp} of place {place}; "
                             f"promised {low}, issued {high}")
                if data[at:at + 16] * (SECTOR // 16) != data[at:at + SECTOR]:
                    sys.exit(f"sector at {self.begin + chunk + at} is torn")


def start():
    server = subprocess.Popen([uthin, "serve", pool], stdout=subprocess.PIPE)
    line = server.stdout.readline()
    if not line.startswith(b"nbd+unix:"):
        sys.exit(f"the server does not start after a kill: {line!r} status {server.wait()}")
    return server


def quiet(function, *arguments):
    try:
        function(*arguments)
    except OSError:
        pass  # the server was killed


def run(*arguments):
    return subprocess.run([uthin, *arguments], capture_output=True, text=True, check=False)


class Administrator:
    """Makes and deletes snapshots. Of each name it knows whether it must be there (True), must not be
    (False), or may be, since its command was cut off (None)."""

    def __init__(self):
        self.random, self.names, self.made, self.ended = random.Random(seed + 1), {}, 0, True

    def work(self):
        while not self.ended:
            there = [name for name, known in self.names.items() if known]
            if len(there) > SNAPSHOTS_MAX or (there and self.random.random() < 0.4):
                self.command(self.random.choice(there), False, "volume", "delete", "{}")
            else:
                self.made += 1
                self.command(f"snap-{self.made}", True, "snapshot", "create", f"{pool}/disk", "{}")
            time.sleep(self.random.uniform(0, 0.1))

    def command(self, name, there_afterwards, group, verb, *arguments):
        self.names[name] = None
        paths = [word.format(name if group == "snapshot" else f"{pool}/{name}") for word in arguments]
        if run(group, verb, *paths).returncode == 0:
            self.names[name] = there_afterwards
        elif not self.ended:
            self.names[name] = not there_afterwards  # refused: the next check tells

    def verify(self):
        listed = json.loads(run("volume", "list", pool, "--json").stdout)["volumes"]
        found = {volume["name"] for volume in listed} - {"disk"}
        for name, known in self.names.items():
            if known is not None and known != (name in found):
                sys.exit(f"{name}: {'missing' if known else 'still there'}, against what its command said")
        if found - set(self.names):
            sys.exit(f"volumes that nobody made: {found - set(self.names)}")
        self.names = dict.fromkeys(found, True)


def round_of_load(server, areas, administrator, clock):
    administrator.ended = False
    clients = [connect() for _ in areas]
    threads = [threading.Thread(target=quiet, args=(area.work, client))
               for area, client in zip(areas, clients)]
    threads.append(threading.Thread(target=administrator.work))
    for thread in threads:
        thread.start()
    time.sleep(clock.uniform(0.2, 1.2))
    administrator.ended = True
    server.send_signal(signal.SIGKILL)
    server.wait()
    for thread in threads:
        thread.join()
    time.sleep(0.05)  # a server of the disks notices that its client is gone


def judge(number):
    """The metadata as the kill left them."""
    done = subprocess.run([os.path.join(os.path.dirname(uthin), "thin_check"), metadata], capture_output=True,
                          text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"thin_check after kill {number}: {done.stdout}{done.stderr}")
    if number % JUDGE_EVERY != 0:
        return
    tools = subprocess.run([os.path.join(SOURCE, "scripts/fetch-thin-tools")], capture_output=True, text=True,
                           check=False)
    if tools.returncode != 0:
        return  # the test says so at its end
    done = subprocess.run([sys.executable, os.path.join(HERE, "../support/check_images.py"), tools.stdout.strip(),
                           metadata], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"the judges after kill {number}: {done.stdout[:4000]}{done.stderr}")


def kill_and_verify(server, areas, administrator, clock, number):
    """-> the server that runs now, and how long it took to start"""
    round_of_load(server, areas, administrator, clock)
    judge(number)
    check = run("pool", "check", pool)
    if check.returncode != 0:
        sys.exit(f"check after kill {number}: {check.stdout}{check.stderr}")
    begin = time.monotonic()
    server = start()
    took = time.monotonic() - begin
    try:
        administrator.verify()
        client = connect()
        for area in areas:
            area.verify(client)
            area.unflushed.clear()
    except BaseException:
        server.kill()
        raise
    return server, took


def main():
    areas, administrator = [Area(number) for number in range(CONNECTIONS)], Administrator()
    clock = random.Random(seed)
    server = start()
    done, slowest, violations = 0, 0.0, 1
    try:
        for done in range(1, kills + 1):
            server, took = kill_and_verify(server, areas, administrator, clock, done)
            slowest = max(slowest, took)
        if not all(area.flushes for area in areas):
            sys.exit("a connection never completed a flush: too little was tested")
        server.terminate()
        if server.wait() != 0:
            sys.exit("the last server did not end well")
        violations = 0
    finally:
        if server.poll() is None:
            server.kill()
        print(f"kills={done} writes={sum(a.writes for a in areas)} flushes={sum(a.flushes for a in areas)} "
              f"snapshots={administrator.made} slowest_start={slowest:.2f}s violations={violations}")


main()
