#!/usr/bin/env python3
"""kill9_load.py UTHIN POOL KILLS: serves the pool, writes stamped sectors over several connections with
flushes and snapshots between, kills the server with SIGKILL, starts it again, and holds every sector
against what a completed flush promised."""
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
uthin, pool, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
seed = int(os.environ.get("UTHIN_SEED", "20261122"))
print(f"UTHIN_SEED={seed}")


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


def round_of_load(server, areas, clock, number):
    clients = [Client(pool + "/nbd.sock", "disk") for _ in areas]
    threads = [threading.Thread(target=quiet, args=(area.work, client))
               for area, client in zip(areas, clients)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + clock.uniform(0.3, 1.5)
    snapshots = 0
    while time.monotonic() < end:
        run("snapshot", "create", pool + "/disk", f"snap-{number}-{snapshots}")
        if snapshots % 3 == 2:
            run("volume", "delete", f"{pool}/snap-{number}-{snapshots - 1}")
        snapshots += 1
        time.sleep(clock.uniform(0, 0.1))
    server.send_signal(signal.SIGKILL)
    server.wait()
    for thread in threads:
        thread.join()
    return snapshots


def main():
    areas = [Area(number) for number in range(CONNECTIONS)]
    clock = random.Random(seed)
    server = start()
    snapshots = 0
    slowest = 0.0
    try:
        for number in range(kills):
            snapshots += round_of_load(server, areas, clock, number)
            check = run("pool", "check", pool)
            if check.returncode != 0:
                sys.exit(f"check after kill {number}: {check.stdout}{check.stderr}")
            begin = time.monotonic()
            server = start()
            slowest = max(slowest, time.monotonic() - begin)
            client = Client(pool + "/nbd.sock", "disk")
            for area in areas:
                area.verify(client)
                area.unflushed.clear()
        print(f"{kills} kills, {sum(a.writes for a in areas)} writes, "
              f"{sum(a.flushes for a in areas)} flushes, {snapshots} snapshots, slowest start "
              f"{slowest:.2f} s")
        if not all(area.flushes for area in areas):
            sys.exit("a connection never completed a flush: too little was tested")
        server.terminate()
        if server.wait() != 0:
            sys.exit("the last server did not end well")
    finally:
        if server.poll() is None:
            server.kill()


main()
