#!/usr/bin/env python3
"""uthin import into a volume that maps nothing wrote no zeros and no holes: where the volume stands on an external
origin, that showed through in their place. (Found by reading.)"""
import os
import subprocess
import tempfile

UTHIN = os.path.join(os.environ.get("UTHIN_BIN", "build/release/bin"), "uthin")
MIB = 1 << 20


def run(*words):
    return subprocess.run([UTHIN, *words], check=True, stdout=subprocess.PIPE).stdout


def main():
    with tempfile.TemporaryDirectory() as folder:
        pool, origin, image = (os.path.join(folder, name) for name in ("pool", "origin", "image"))
        with open(origin, "wb") as f:
            f.write(b"o" * 4 * MIB)
        with open(image, "wb") as f:  # a hole, something, zeros, a hole
            f.seek(MIB)
            f.write(b"x" * 100_000 + bytes(MIB))
            f.truncate(4 * MIB)
        run("pool", "create", pool, "--data-size", "16M", "--metadata-size", "2M")
        run("volume", "create", f"{pool}/v", "--external-origin", origin, "--size", "4M")
        assert run("read", f"{pool}/v") == b"o" * 4 * MIB
        run("import", image, f"{pool}/v")
        with open(image, "rb") as f:
            assert run("read", f"{pool}/v") == f.read(), "the origin shows through"
        run("pool", "check", pool)


main()
