#!/usr/bin/env python3
"""A client that hung up while its replies filled the socket ended the service of all: nbdkit 1.32 fails an
assertion of its own then (raw_send_socket). The server starts anew, in the same process and within seconds;
what was flushed is there, an end stays an end, and no other abort is hidden."""
import os
import signal
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from nbd_client import CMD_READ, Client  # noqa: E402
from served_pool import START_S_MAX, ServedPool  # noqa: E402

ROUNDS = 5
REQUESTS = 32
REQUEST_BYTES = 1 << 20  # far more than a socket holds
FAILS_S_MAX = 10  # after the client has gone; nbdkit 1.38 does not fail, and nothing is cut off
NOTICE = b"the server starts anew"


def rude(pool):
    """A connection whose replies fill the socket."""
    lost = Client(pool.nbd, "disk").socket
    lost.sendall(b"".join(struct.pack(">LHHQQL", 0x25609513, 0, CMD_READ, i, i * REQUEST_BYTES, REQUEST_BYTES)
                          for i in range(REQUESTS)))
    time.sleep(0.3)
    return lost


def times_anew(pool):
    with open(pool.log, "rb") as log:
        return log.read().count(NOTICE)


def served(pool, client, call):
    """By the connection that was there, or a new one when that was closed."""
    end = time.monotonic() + START_S_MAX
    while True:
        try:
            client = client or Client(pool.nbd, "disk")
            return client, call(client)
        except OSError:
            client = None
            assert pool.server.poll() is None, f"the server ended with {pool.server.returncode}"
            assert time.monotonic() < end, f"not back after {START_S_MAX} s"
            time.sleep(0.02)


def main():
    with ServedPool("lost-client", {"disk": 64 << 20}) as pool:
        client = Client(pool.nbd, "disk")
        pid, took = pool.server.pid, []
        for stamp in range(ROUNDS):
            data, before = bytes([65 + stamp]) * 4096, times_anew(pool)
            client, _ = served(pool, client, lambda c, data=data: (c.write(0, data), c.flush()))
            rude(pool).close()
            # Until the failure, if there will be one, the old connection goes on.
            end = time.monotonic() + FAILS_S_MAX
            while times_anew(pool) == before and time.monotonic() < end:
                time.sleep(0.02)
            begin = time.monotonic()
            client, found = served(pool, client, lambda c: c.read(0, 4096))
            assert found == data, "what was flushed is gone"
            took.append(time.monotonic() - begin)
        assert pool.server.pid == pid and pool.server.poll() is None
        print(f"{ROUNDS} lost clients, started anew {times_anew(pool)} times, back after "
              f"{', '.join(f'{t:.2f}' for t in took)} s")
        pool.uthin("volume", "create", "another", "--size", "4M")  # through the control socket

        before = times_anew(pool)
        lost = rude(pool)
        pool.server.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        lost.close()
        pool.stop()
        assert times_anew(pool) == before, "a server that was told to end came back"
        pool.judge()

        pool.start()
        pool.server.send_signal(signal.SIGABRT)
        status = pool.server.wait(timeout=30)
        assert status == -signal.SIGABRT, f"another abort ended the server with {status}"
        pool.server = None
        pool.judge()


main()
