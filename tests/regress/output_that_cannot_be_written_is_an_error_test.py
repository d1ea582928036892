#!/usr/bin/env python3
"""A list of uthin into a full disk or a pipe that nobody reads ended the process with a signal, in the middle of what
it did; so did an error line that could not be written. What was short was lost and the status was 0. (Found by
reading.)"""
import os
import subprocess
import tempfile

UTHIN = os.path.join(os.environ.get("UTHIN_BIN", "build/release/bin"), "uthin")
MIB, BLOCK = 1 << 20, 64 << 10
SIZE, RANGES = 256 * MIB, 2048


def run(*words):
    return subprocess.run([UTHIN, *words], check=True, stdout=subprocess.PIPE, timeout=60).stdout


def fails(output, *words):
    """one line that tells so, and the status of a failure"""
    ran = subprocess.run([UTHIN, *words], stdout=output, stderr=subprocess.PIPE, timeout=60)
    assert ran.returncode == 1, (words, ran)
    assert ran.stderr.startswith(b"uthin: standard output") and ran.stderr.count(b"\n") == 1, (words, ran)


def main():
    with tempfile.TemporaryDirectory() as folder, open("/dev/full", "wb") as full:
        pool, image = (os.path.join(folder, name) for name in ("pool", "image"))
        with open(image, "wb") as f:  # every second block
            for at in range(0, SIZE, 2 * BLOCK):
                f.seek(at)
                f.write(b"x" * 4096)
            f.truncate(SIZE)
        run("pool", "create", pool, "--data-size", "160M", "--metadata-size", "4M", "--skip-block-zeroing")
        run("volume", "create", f"{pool}/empty", "--size", str(SIZE))
        run("import", image, f"{pool}/v")
        diff = ("diff", f"{pool}/empty", f"{pool}/v")
        assert run(*diff).count(b"\n") == RANGES + 1
        lists = (diff, ("--json", *diff), ("volume", "list", pool), ("--json", "volume", "list", pool),
                 ("pool", "status", pool), ("--help",), ("--version",))
        for words in lists:
            assert run(*words)
            fails(full, *words)
            reader, writer = os.pipe()
            os.close(reader)
            fails(writer, *words)
            os.close(writer)
        for words, status in ((("volume", "show", f"{pool}/none"), 1), (("volume", "show"), 2)):
            ran = subprocess.run([UTHIN, *words], stdout=subprocess.PIPE, stderr=full, timeout=60)
            assert ran.returncode == status and ran.stdout == b"", ran
        run("pool", "check", pool)


main()
