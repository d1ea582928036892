#!/usr/bin/env python3
"""NBD clients that are wrong, rude, slow or gone: each case has its own connection and must end (an
answer or a closed socket) within seconds, while an honest client beside it reads what it wrote, at
most three times slower than alone, and the server's memory stays bounded."""
import os
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time

from nbd_client import CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, Client
from served_pool import ServedPool

CMD_DISC, CMD_CACHE, CMD_ZERO, CMD_STATUS = 2, 5, 6, 7
OPTIONS = {1: "EXPORT_NAME", 2: "ABORT", 3: "LIST", 5: "STARTTLS", 6: "INFO", 7: "GO",
           8: "STRUCTURED_REPLY", 9: "LIST_META", 10: "SET_META", 0x7FFF: "unknown"}
EXPORT_BYTES = 64 << 20
CASE_S_MAX = 10  # of a case; a loaded machine
IDLE_CONNECTIONS = 300
IDLE_BYTES_MAX = 128 << 10  # each
DELAY_MS = 20


# Older ones end on an assertion of their own (connections.c, raw_send_socket), whatever the plugin, when a
# client leaves while its replies fill the socket: the server starts anew then, which cuts honest clients off, too
# (regress/lost_client_ends_service_test.py).
NBDKIT_MIN = (1, 38)


def nbdkit_version():
    text = subprocess.run(["nbdkit", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(n) for n in re.search(r"(\d+)\.(\d+)", text).groups())


MAY_LEAVE_EARLY = nbdkit_version() >= NBDKIT_MIN


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(CASE_S_MAX)
    s.connect(path)
    return s


def greet(path, flags=3):
    s = connect(path)
    got = b""
    while len(got) < 18:
        got += s.recv(18 - len(got))
    s.sendall(struct.pack(">L", flags))
    return s


def option(number, data=b"", length=None, magic=b"IHAVEOPT"):
    return magic + struct.pack(">LL", number, len(data) if length is None else length) + data


def request(kind, offset=0, length=0, flags=0, cookie=1, magic=0x25609513):
    return struct.pack(">LHHQQL", magic, flags, kind, cookie, offset & (2**64 - 1), length)


def transmission(path, name="disk"):
    return Client(path, name).socket


def drain(s):
    """What comes until the server closes or falls silent; never longer than a case may take."""
    got, end = b"", time.monotonic() + CASE_S_MAX
    s.settimeout(0.3)
    while time.monotonic() < end:
        try:
            piece = s.recv(1 << 16)
        except TimeoutError:
            return got
        except ConnectionError:
            return got
        if not piece:
            return got
        got += piece
    raise AssertionError("the server talks without end")


def put(s, data):
    try:
        s.sendall(data)
    except (ConnectionError, TimeoutError):
        pass  # closed already: a good answer to most of this


def error_of(s):
    """The error number of a simple reply; None: closed instead of one."""
    head = b""
    try:
        while len(head) < 16:
            piece = s.recv(16 - len(head))
            if not piece:
                return None
            head += piece
    except ConnectionError:
        return None
    magic, code, _ = struct.unpack(">LLQ", head)
    assert magic == 0x67446698, f"reply {magic:#x}"
    return code


def handshake_cases(path):
    for number, name in OPTIONS.items():
        for what, data, length in (("length 0", b"", None), ("4096 bytes of garbage", b"\xff" * 4096, None),
                                   ("length 2^32-1", b"\0" * 64, 2**32 - 1)):
            def run(number=number, data=data, length=length):
                s = greet(path)
                put(s, option(number, data, length))
                if length is not None:
                    s.shutdown(socket.SHUT_WR)
                drain(s)
                s.close()
            yield f"option {name}, {what}", run

    def sent(data, flags=3):
        def run():
            s = greet(path, flags)
            put(s, data)
            drain(s)
            s.close()
        return run
    yield "all client flags", sent(option(3), 0xFFFFFFFF)
    yield "wrong option magic", sent(option(3, magic=b"IHAVEOPX"))
    yield "100 options", sent(option(8) * 100)
    yield "name of 4096 bytes", sent(option(7, struct.pack(">L", 4096) + b"n" * 4096 + b"\0\0"))
    yield "name of 2^32-1 bytes", sent(option(7, struct.pack(">L", 2**32 - 1) + b"n\0\0"))
    yield "name that climbs", sent(option(7, struct.pack(">L", 12) + b"../../../etc" + b"\0\0"))
    yield "65535 info requests", sent(option(7, struct.pack(">L", 4) + b"disk" +
                                             struct.pack(">H", 65535) + b"\0\0" * 8))
    yield "export that is not there", sent(option(7, struct.pack(">L", 4) + b"gone" + b"\0\0"))

    def cut():
        whole = option(7, struct.pack(">L", 4) + b"disk" + b"\0\0")
        for length in range(0, len(whole)):
            s = greet(path)
            put(s, whole[:length])
            s.close()
    yield "an option cut at every byte", cut

    def at_once():
        for _ in range(50):
            connect(path).close()
    yield "50 connections that say nothing", at_once


def transmission_cases(path):
    def answered(data, wanted, half_close=False):
        """`wanted`: set of error numbers; None in it: closing is an answer too."""
        def run():
            s = transmission(path)
            put(s, data)
            if half_close:
                s.shutdown(socket.SHUT_WR)
            code = error_of(s)
            assert code in wanted, f"error {code}, not one of {wanted}"
            s.close()
        return run
    refused = {1, 5, 22, 28, 75, 95, None}
    yield "wrong request magic", answered(request(CMD_READ, 0, 512, magic=0x12345678), {None, 22})
    yield "unknown command", answered(request(99, 0, 512), refused)
    yield "unknown flags", answered(request(CMD_READ, 0, 512, flags=0xFFFF), refused)
    yield "read of nothing", answered(request(CMD_READ, 0, 0), refused | {0})
    yield "write of nothing", answered(request(CMD_WRITE, 0, 0), refused | {0})
    yield "trim of nothing", answered(request(CMD_TRIM, 0, 0), refused | {0})
    yield "read of 64 MiB and a byte", answered(request(CMD_READ, 0, (64 << 20) + 1), refused)
    yield "read of 4 GiB less a byte", answered(request(CMD_READ, 0, 2**32 - 1), refused)
    yield "write of 4 GiB less a byte", answered(request(CMD_WRITE, 0, 2**32 - 1), refused, True)
    for name, kind in (("read", CMD_READ), ("trim", CMD_TRIM), ("zero", CMD_ZERO), ("cache", CMD_CACHE)):
        yield f"{name} past the end", answered(request(kind, EXPORT_BYTES - 512, 1024), refused)
        yield f"{name} that wraps", answered(request(kind, 2**64 - 512, 1024), refused)
    yield "write past the end", answered(
        request(CMD_WRITE, EXPORT_BYTES - 512, 1024) + b"w" * 1024, refused)
    yield "trim of 4 GiB less a byte", answered(request(CMD_TRIM, 0, 2**32 - 1), refused)
    yield "zero of 4 GiB less a byte", answered(request(CMD_ZERO, 0, 2**32 - 1), refused)
    yield "block status never negotiated", answered(request(CMD_STATUS, 0, 512), refused)
    yield "flush with a length", answered(request(CMD_FLUSH, 7, 9), refused | {0})
    yield "read of three bytes at one", answered(request(CMD_READ, 1, 3), {0})

    def cut_write():
        whole = request(CMD_WRITE, 1 << 20, 4096) + b"c" * 4096
        for length in (1, 15, 27, 28, 29, 28 + 511, 28 + 4095):
            s = transmission(path)
            put(s, whole[:length])
            s.close()
    yield "a write cut in its header and payload", cut_write

    def half_close():
        s = transmission(path)
        put(s, request(CMD_READ, 0, 65536))
        s.shutdown(socket.SHUT_WR)
        drain(s)
        s.close()
    yield "half-closed with a request in flight", half_close

    def in_flight():
        s = transmission(path)
        put(s, b"".join(request(CMD_READ, i * 65536, 65536, cookie=i) for i in range(64)))
        s.close()
    if MAY_LEAVE_EARLY:
        yield "gone with 64 requests in flight", in_flight
    else:
        print(f"not run: clients that leave with many requests in flight; nbdkit {nbdkit_version()} itself "
              "fails an assertion then")

    def same_cookie():
        s = transmission(path)
        put(s, request(CMD_READ, 0, 512) * 20)
        assert len(drain(s)) == 20 * (16 + 512)
        s.close()
    yield "20 requests of one cookie", same_cookie

    def flush_storm():
        s = transmission(path)
        put(s, b"".join(request(CMD_FLUSH, cookie=i) for i in range(300)) + request(CMD_DISC))
        s.shutdown(socket.SHUT_WR)
        drain(s)
        s.close()
    yield "300 flushes and a disconnect", flush_storm

    def status_of_all():
        s = greet(path)
        name = struct.pack(">L", 4) + b"disk"
        query = b"base:allocation"
        put(s, option(8) + option(10, name + struct.pack(">LL", 1, len(query)) + query) +
            option(7, name + b"\0\0") + request(CMD_STATUS, 0, 2**32 - 1))
        s.shutdown(socket.SHUT_WR)
        drain(s)
        s.close()
    yield "block status of 4 GiB less a byte", status_of_all


class Honest(threading.Thread):
    """Writes, flushes and reads back on its own connection, and notes how long a read took."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.client = Client(path, "disk")
        self.reads, self.failure, self.ending = [], None, False

    def run(self):
        stamp = 0
        try:
            while not self.ending:
                stamp += 1
                data = struct.pack(">Q", stamp) * 512
                offset = (stamp % 64) * 65536 + (32 << 20)
                self.client.write(offset, data)
                begin = time.monotonic()
                found = self.client.read(offset, len(data))
                self.reads.append((begin, time.monotonic() - begin))
                assert found == data, f"block {offset} holds something else"
                if stamp % 20 == 0:
                    self.client.flush()
        except Exception as problem:  # told by the main thread
            self.failure = problem

    def took_since(self, begin):
        return sorted(t for at, t in self.reads if at >= begin)


def idle_connections(pool, honest):
    begin_bytes = pool.memory_bytes()
    idle = [greet(pool.nbd, 3) if i % 2 else transmission(pool.nbd) for i in range(IDLE_CONNECTIONS)]
    time.sleep(1)
    grown = pool.memory_bytes() - begin_bytes
    begin = time.monotonic()
    slow = greet(pool.nbd)  # a byte at a time
    for byte in option(7, struct.pack(">L", 4) + b"disk" + b"\0\0")[:12]:
        slow.sendall(bytes([byte]))
        time.sleep(0.2)
    took = honest.took_since(begin)
    for s in idle + [slow]:
        s.close()
    print(f"{IDLE_CONNECTIONS} idle connections: {grown // IDLE_CONNECTIONS} bytes each; "
          f"reads beside them: median {statistics.median(took) * 1000:.1f} ms")
    assert grown <= IDLE_CONNECTIONS * IDLE_BYTES_MAX, f"memory grew by {grown} bytes"
    return took


def never_drained(pool, honest):
    """Asks for far more than sockets hold and takes nothing: back pressure, not memory."""
    begin_bytes, begin = pool.memory_bytes(), time.monotonic()
    rude = [transmission(pool.nbd) for _ in range(4)]
    for s in rude:
        s.setblocking(False)
        for i in range(400):
            try:
                s.send(request(CMD_READ, 0, 1 << 20, cookie=i))
            except BlockingIOError:
                break
    time.sleep(2)
    grown, took = pool.memory_bytes() - begin_bytes, honest.took_since(begin)
    print(f"1600 MiB asked for and not taken: memory grew by {grown >> 20} MiB; "
          f"reads beside it: median {statistics.median(took) * 1000:.1f} ms")
    assert grown <= 4 * 16 * (2 << 20) + (16 << 20), f"memory grew by {grown >> 20} MiB"
    return took, rude


def flush_is_seen_by_others(pool):
    a, b = Client(pool.nbd, "disk"), Client(pool.nbd, "disk")
    a.write(48 << 20, b"m" * 4096)
    b.flush()
    pool.kill()
    pool.start()
    assert Client(pool.nbd, "disk").read(48 << 20, 4096) == b"m" * 4096
    print("written by one connection, flushed by another, killed: it is there")


def removed_while_connected(pool):
    pool.uthin("volume", "create", "extra", "--size", "4M")
    client = Client(pool.nbd, "extra")
    client.write(0, b"e" * 4096)
    refused = pool.uthin("volume", "delete", "extra", may_fail=True)
    assert refused.returncode != 0 and "in use" in refused.stderr, refused.stderr
    assert client.read(0, 4096) == b"e" * 4096
    client.socket.close()
    print("an export with a client is not deleted, and the client goes on")


def main():
    with ServedPool("hostile-nbd", {"disk": EXPORT_BYTES}, read_delay_ms=DELAY_MS) as pool:
        assert os.stat(pool.nbd).st_mode & 0o077 == 0, "others may connect to the NBD socket"
        honest = Honest(pool.nbd)
        honest.start()
        time.sleep(2)
        alone = honest.took_since(0)
        cases = list(handshake_cases(pool.nbd)) + list(transmission_cases(pool.nbd))
        begin = time.monotonic()
        for name, run in cases:
            started = time.monotonic()
            try:
                run()
            except Exception as problem:
                sys.exit(f"{name}: {problem!r}")
            took = time.monotonic() - started
            if took > CASE_S_MAX:
                sys.exit(f"{name}: took {took:.1f} s")
            if honest.failure is not None or not honest.is_alive():
                sys.exit(f"{name}: the honest client failed: {honest.failure!r}")
        beside = honest.took_since(begin)
        beside_idle = idle_connections(pool, honest)
        beside_rude, rude = never_drained(pool, honest)
        honest.ending = True
        honest.join()
        if honest.failure is not None:
            sys.exit(f"the honest client failed: {honest.failure!r}")
        print(f"{len(cases)} cases in {time.monotonic() - begin:.1f} s; reads: alone median "
              f"{statistics.median(alone) * 1000:.1f} ms, beside them "
              f"{statistics.median(beside) * 1000:.1f} ms, worst {beside[-1] * 1000:.1f} ms")
        for took in (beside, beside_idle, beside_rude):
            assert statistics.median(took) <= 3 * statistics.median(alone), "others are held up"
        begin = time.monotonic()
        pool.server.send_signal(signal.SIGTERM)
        time.sleep(1)
        pool.stop()  # once more, with the rude ones still there
        print(f"ended {time.monotonic() - begin:.1f} s after the first SIGTERM, beside clients that take no replies")
        for s in rude:
            s.close()
        pool.start()
        removed_while_connected(pool)
        flush_is_seen_by_others(pool)
        pool.stop()
        pool.judge()
    print(f"ok: {len(cases) + 5} cases")


main()
