#!/usr/bin/env python3
"""uthin with a closed standard stream opened the pool's files under the stream's number: what it printed went over
the pool, and uthin write took the pool's own bytes for its input. (Found by reading.)"""
import os
import subprocess
import tempfile

UTHIN = os.path.join(os.environ.get("UTHIN_BIN", "build/release/bin"), "uthin")
MIB = 1 << 20
DATA = bytes(range(1, 256)) * (4 * MIB // 255)


def run(*words, **options):
    return subprocess.run([UTHIN, *words], check=True, stdout=subprocess.PIPE, **options).stdout


def fails(closed, *words):
    """with these streams closed; it says so in a line, if it can"""
    def close():
        for stream in closed:
            os.close(stream)
    ran = subprocess.run([UTHIN, *words], stdin=subprocess.DEVNULL, capture_output=True, preexec_fn=close, timeout=60)
    assert ran.returncode == 1, (closed, words, ran)
    assert ran.stderr.count(b"\n") == (0 if 2 in closed else 1), (closed, words, ran)


def main():
    with tempfile.TemporaryDirectory() as folder:
        pool = os.path.join(folder, "pool")
        run("pool", "create", pool, "--data-size", "16M", "--metadata-size", "2M")
        run("volume", "create", f"{pool}/v", "--size", "8M")
        run("write", f"{pool}/v", input=DATA)
        run("snapshot", "create", f"{pool}/v", f"{pool}/s")
        before = run("read", f"{pool}/v")
        assert before == DATA.ljust(8 * MIB, b"\0")
        for closed, *words in (((1,), "read", f"{pool}/v"),
                               ((0, 1), "read", f"{pool}/v"),
                               ((1,), "send", f"{pool}/v"),
                               ((0, 1, 2), "send", f"{pool}/s"),
                               ((1,), "volume", "list", pool),
                               ((0,), "write", f"{pool}/v"),
                               ((0, 2), "write", f"{pool}/v", "--offset", "1M"),
                               ((2,), "volume", "create", f"{pool}/v", "--size", "1M"),
                               ((0, 1, 2), "volume", "show", f"{pool}/none")):
            fails(closed, *words)
            for name in "vs":
                assert run("read", f"{pool}/{name}") == before, (closed, words, f"{name} holds something else")
        run("pool", "check", pool)
        for name, size in ("metadata", 2 * MIB), ("data", 16 * MIB):
            assert os.path.getsize(os.path.join(pool, name)) == size, name


main()
