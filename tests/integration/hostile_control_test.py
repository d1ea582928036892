#!/usr/bin/env python3
"""Clients of the control socket that are wrong, slow, many or gone: each is refused or dropped, the
server answers an honest one within two seconds after each, memory stays bounded, nothing was changed."""
import json
import os
import socket
import sys
import time

from served_pool import ServedPool

ANSWER_S_MAX = 2
IDLE_CONNECTIONS = 63  # the server takes 64
IDLE_BYTES_MAX = 256 << 10  # each: a thread and its buffers
QUIET_S = 1.0  # a server that says nothing for so long has nothing to say


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)  # without a time limit: with one, a queue that is full for a moment is an error
    s.settimeout(10)
    return s


def exchange(path, data, half_close=False):
    """What the server says until it closes or waits for more."""
    s = connect(path)
    got = b""
    try:
        s.sendall(data)
        if half_close:
            s.shutdown(socket.SHUT_WR)
        s.settimeout(QUIET_S)
        while piece := s.recv(65536):
            got += piece
            if b"\r\n\r\n" in got and b"Content-Length" in got:
                head, body = got.split(b"\r\n\r\n", 1)
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                if len(body) >= length:
                    break
    except (ConnectionError, TimeoutError):
        pass
    s.close()
    return got


def status_of(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else None


def http(method, target, body=b"", length=None, more=b""):
    if isinstance(body, str):
        body = body.encode()
    length = len(body) if length is None else length
    return (f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n".encode() + more +
            b"\r\n" + body)


def cases():
    """(name, bytes, half-close, statuses that are right; None: closed or silent)"""
    post = "POST", "/v1/volumes"
    name = '{"name":%s,"size":1048576}'
    yield "no request at all", b"", True, {None}
    yield "garbage", b"\xff\xfe\0\1" * 64 + b"\r\n\r\n", False, {None, 400, 405, 505}
    yield "a line without end", b"GET /" + b"a" * (1 << 20), True, {None, 400, 404, 413, 414, 431}
    yield "a header without end", b"GET /v1/pool HTTP/1.1\r\nX: " + b"a" * (1 << 20), True, {None, 400, 413, 431}
    yield "10,000 headers", b"GET /v1/pool HTTP/1.1\r\n" + b"X: y\r\n" * 10000 + b"\r\n", False, {None, 400, 413, 431}
    yield "an unknown method", http("BREW", "/v1/pool"), False, {405, 404, 400}
    yield "a known method where it is not", http("DELETE", "/v1/pool"), False, {405}
    yield "an unknown address", http("GET", "/v1/teapot"), False, {404}
    yield "a climbing address", http("GET", "/v1/volumes/../../etc/passwd"), False, {404, 400, 405}
    yield "a bad percent", http("GET", "/v1/volumes/%zz"), False, {400, 404}
    yield "a NUL in a name", http("GET", "/v1/volumes/a%00b"), False, {400, 404}
    yield "length 2^63", http(*post, "{}", 2**63), True, {None, 400, 413}
    yield "length -1", http(*post, "{}", -1), False, {None, 400}
    yield "length of words", http(*post, "{}", "many"), False, {None, 400}
    yield "a body above 1 MiB", http(*post, b"[" * ((1 << 20) + 1)), False, {None, 413}
    yield "a body cut off", http(*post, '{"name":"cut"', 4096), True, {None, 400}
    yield "chunks of a bad size", (b"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                                   b"zzzz\r\n{}\r\n0\r\n\r\n"), True, {None, 400}
    yield "brackets 100,000 deep", http(*post, "[" * 100000), False, {400}
    yield "objects 50,000 deep", http(*post, '{"name":' * 50000), False, {400}
    yield "no JSON", http(*post, "name=disk"), False, {400}
    yield "an array", http(*post, "[1,2,3]"), False, {400}
    yield "UTF-8 that is none", http(*post, b'{"name":"\xff\xfe","size":1048576}'), False, {400}
    yield "a lone surrogate", http(*post, name % '"\\ud800"'), False, {400}
    yield "a NUL in the name", http(*post, name % '"a\\u0000b"'), False, {400}
    yield "a name that climbs", http(*post, name % '"../x"'), False, {400}
    yield "a name of 1 MB", http(*post, name % ('"' + "n" * 1000000 + '"')), False, {400}
    yield "a number for a name", http(*post, name % "7"), False, {400}
    yield "a size below 0", http(*post, '{"name":"x","size":-1}'), False, {400}
    yield "a size of 10^400", http(*post, '{"name":"x","size":1e400}'), False, {400}
    yield "a size of 2^64", http(*post, '{"name":"x","size":18446744073709551616}'), False, {400}
    yield "a size of 1.5", http(*post, '{"name":"x","size":1.5}'), False, {400}
    yield "a size in words", http(*post, '{"name":"x","size":"1G"}'), False, {400}
    yield "a field too many", http(*post, '{"name":"x","size":1048576,"y":0}'), False, {400}
    yield "a field too few", http(*post, '{"name":"x"}'), False, {400}
    yield "an id beyond 24 bits", http(*post, '{"name":"x","size":1048576,"dev_id":16777216}'), False, {400}
    snapshots = "POST", "/v1/snapshots"
    yield "snapshots of nothing", http(*snapshots, '{"snapshots":[{"source":"no","name":"x"}]}'), False, {404}
    yield "no snapshots", http(*snapshots, '{"snapshots":[]}'), False, {400}
    yield "a kernel message of garbage", http("POST", "/v1/pool/message", '{"message":"explode now"}'), False, {400}
    yield "growing backwards", http("POST", "/v1/pool/grow", '{"data_size":1}'), False, {400}
    yield "a diff of 2^64 ranges", http("GET", "/v1/volumes/disk/diff?max=18446744073709551616"), False, {400}
    yield "a diff from nowhere", http("GET", "/v1/volumes/disk/diff?from=no"), False, {404}
    yield "a poll of -1 s", http("GET", "/v1/pool?while_mode=write&timeout_s=-1"), False, {400}
    yield "50 requests at once", http("GET", "/v1/server") * 50, True, {200}


def honest(pool):
    """The server answers, in time; returns what volumes there are. Its last place may be taken until it
    notices that the client before left."""
    begin = time.monotonic()
    answer = b""
    while not answer and time.monotonic() - begin < ANSWER_S_MAX:
        answer = exchange(pool.control, http("GET", "/v1/volumes"))
    took = time.monotonic() - begin
    assert status_of(answer) == 200, answer[:200]
    assert took <= ANSWER_S_MAX, f"an honest client waited {took:.1f} s"
    return sorted(v["name"] for v in json.loads(answer.split(b"\r\n\r\n", 1)[1])["volumes"])


def main():
    with ServedPool("hostile-control", {"disk": 4 << 20}) as pool:
        assert os.stat(pool.control).st_mode & 0o777 == 0o600, oct(os.stat(pool.control).st_mode)
        count = 0
        for name, data, half_close, wanted in cases():
            count += 1
            found = status_of(exchange(pool.control, data, half_close))
            assert found in wanted, f"{name}: status {found}, not one of {wanted}"
            assert honest(pool) == ["disk"], f"{name}: volumes changed"
        begin_bytes = pool.memory_bytes()
        idle = [connect(pool.control) for _ in range(IDLE_CONNECTIONS)]
        for s in idle[::2]:
            s.sendall(b"GET /v1/po")
        assert honest(pool) == ["disk"], "beside idle connections"
        grown = pool.memory_bytes() - begin_bytes
        assert grown <= IDLE_CONNECTIONS * IDLE_BYTES_MAX, f"memory grew by {grown} bytes"
        for s in idle:
            s.close()
        for _ in range(200):
            connect(pool.control).close()
        end = time.monotonic() + ANSWER_S_MAX  # the server notices that they are gone
        while status_of(exchange(pool.control, http("GET", "/v1/server"))) != 200:
            assert time.monotonic() < end, "gone clients still count"
        pool.stop()
        pool.judge()
    print(f"{IDLE_CONNECTIONS} idle connections: {grown // IDLE_CONNECTIONS} bytes each")
    print(f"ok: {count + 2} cases")


if __name__ == "__main__":
    sys.exit(main())
