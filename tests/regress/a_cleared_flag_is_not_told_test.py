#!/usr/bin/env python3
"""thin_check --clear-needs-check-flag --json said "needs_check": true of the flag that it had just cleared. (Found by
reading.)"""
import json
import os
import struct
import subprocess
import tempfile

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
SUPERBLOCK_SALT = 160774
FLAGS_AT = 4


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def set_needs_check(path):
    with open(path, "r+b") as f:
        block = bytearray(f.read(4096))
        stored = struct.unpack_from("<I", block)[0]
        assert crc32c(block[4:]) ^ SUPERBLOCK_SALT == stored, "the checksum is another one"
        struct.pack_into("<I", block, FLAGS_AT, 1)
        struct.pack_into("<I", block, 0, crc32c(block[4:]) ^ SUPERBLOCK_SALT)
        f.seek(0)
        f.write(block)


def check(path, *options):
    ran = subprocess.run([os.path.join(BIN, "thin_check"), "--json", *options, path], stdout=subprocess.PIPE, check=True)
    return json.loads(ran.stdout)


def main():
    with tempfile.TemporaryDirectory() as folder:
        pool = os.path.join(folder, "pool")
        subprocess.run([os.path.join(BIN, "uthin"), "pool", "create", pool, "--data-size", "16M", "--metadata-size", "2M"],
                       check=True, stdout=subprocess.DEVNULL)
        metadata = os.path.join(pool, "metadata")
        set_needs_check(metadata)
        assert check(metadata)["needs_check"] is True
        assert check(metadata, "--clear-needs-check-flag")["needs_check"] is False
        assert check(metadata)["needs_check"] is False


main()
