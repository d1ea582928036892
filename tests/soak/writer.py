"""A client that writes stamps to one volume, all the time, and reads what it wrote."""
import random
import threading
import time

from server import PATIENCE_SECONDS
from nbd_client import Client
from stamped import CELL, CELLS_PER_BLOCK, Change, Content, Violation, cell_bytes, stamps_of

PACE_SECONDS = 0.02  # at most, between two requests
CELLS_MAX = 64


class Writer(threading.Thread):
    """`lock` is held for a request: who has it finds no request in flight. `model_lock` guards the model
    and what is recorded of it, and is never held while a request runs."""

    def __init__(self, number, name, cells, seed, on_violation):
        super().__init__(daemon=True)
        self.number, self.name = number, name
        self.random = random.Random(seed)
        self.content = Content(number, cells)
        self.lock, self.model_lock = threading.Lock(), threading.Lock()
        self.connected, self.running, self.may_break = threading.Event(), True, False
        self.client = None
        self.stamp = self.requests = self.flushes = 0
        self.in_flight, self.before = None, None  # a change, and the model before it
        self.recording = None
        self.on_violation = on_violation

    # ---- for the one who administers

    def connect(self, socket_path):
        with self.lock:
            self.client, self.may_break = patient_client(socket_path, self.name), False
        self.connected.set()

    def disconnect(self):
        self.connected.clear()
        with self.lock:
            if self.client is not None:
                self.client.socket.close()
                self.client = None

    def begin_recording(self):
        with self.model_lock:
            if self.in_flight is not None:
                self.recording = [self.in_flight]
                return self.before.copy()
            self.recording = []
            return self.content.copy()

    def end_recording(self):
        with self.model_lock:
            changes, self.recording = self.recording, None
            return changes

    def server_ended(self, killed):
        """Nothing runs any more. What the server had not answered may have happened or not."""
        if killed:
            self.content.allow_after_kill()
        elif self.in_flight is not None:
            for cell in self.in_flight.cells:
                others = self.content.others.get(cell, frozenset())
                self.content.others[cell] = others | self.before.allowed(cell)
        self.content.flushed()
        self.in_flight = self.before = None

    # ---- the thread

    def run(self):
        while self.running:
            if not self.connected.wait(0.1):
                continue
            with self.lock:
                if self.client is None:
                    continue
                try:
                    self.request()
                    self.requests += 1
                except (OSError, RuntimeError) as problem:
                    # A server that ends refuses what comes too late (ESHUTDOWN), or says nothing.
                    if not self.may_break:
                        self.on_violation(f"{self.name}: {problem}")
                    self.client.socket.close()
                    self.client = None
                    self.connected.clear()
                except Violation as problem:
                    self.on_violation(f"{self.name}: {problem}")
                    return
            time.sleep(self.random.uniform(0, PACE_SECONDS))

    def request(self):
        count = min(self.random.choice((1, 1, 2, 8, 16, 40, CELLS_MAX)), len(self.content.now))
        first = self.random.randrange(len(self.content.now) - count + 1)
        kind = self.random.choices((self.write, self.read, self.discard, self.zero, self.flush),
                                   (50, 25, 8, 4, 13))[0]
        kind(first, count)

    def changed(self, change, send):
        with self.model_lock:
            # Only the cells of the change are looked at, but a recording may need all.
            self.before = self.content.copy()
            self.content.apply(change)
            self.in_flight = change
            if self.recording is not None:
                self.recording.append(change)
        send()
        with self.model_lock:
            self.in_flight = self.before = None

    def write(self, first, count):
        self.stamp += 1
        data = b"".join(cell_bytes(self.number, cell, self.stamp) for cell in range(first, first + count))
        self.changed(Change(range(first, first + count), self.stamp),
                     lambda: self.client.write(first * CELL, data))

    def zero(self, first, count):
        self.changed(Change(range(first, first + count), 0),
                     lambda: self.client.write_zeroes(first * CELL, count * CELL))

    def discard(self, first, count):
        if self.random.random() < 0.5:  # whole blocks: zeros at once
            first -= first % CELLS_PER_BLOCK
            count = min(CELLS_PER_BLOCK * self.random.randrange(1, 9), len(self.content.now) - first)
            self.changed(Change(range(first, first + count), 0),
                         lambda: self.client.trim(first * CELL, count * CELL))
            return
        count = min(count, CELLS_PER_BLOCK - first % CELLS_PER_BLOCK)
        self.changed(Change(range(first, first + count), 0, partly=True),
                     lambda: self.client.trim(first * CELL, count * CELL))

    def read(self, first, count):
        found = stamps_of(self.number, first, self.client.read(first * CELL, count * CELL))
        self.content.expect(self.name, first, found)

    def flush(self, _first, _count):
        self.client.flush()
        self.flushes += 1
        with self.model_lock:
            self.content.flushed()


def patient_client(socket_path, export):
    client = Client(socket_path, export)
    client.socket.settimeout(PATIENCE_SECONDS)
    return client


def read_all(socket_path, export, volume):
    """-> stamps of all cells, through a connection of its own"""
    client = patient_client(socket_path, export)
    try:
        found = []
        for at in range(0, client.size, 1 << 20):
            found += stamps_of(volume, at // CELL, client.read(at, min(1 << 20, client.size - at)))
        return found
    finally:
        client.socket.close()
