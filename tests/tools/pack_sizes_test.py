#!/usr/bin/env python3
"""thin_metadata_pack of 1 to 600 blocks: what it packs comes back byte for byte, whichever family unpacks it, and the
same image gives the same pack, however many processors there are. (1.x loses a chunk of any size that is no multiple
of its own, and which one changes from run to run.) Tier 0 tries each 29th size, tier 1 all."""
import os
import random
import struct
import subprocess
import sys
import tempfile
import unittest

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
SOURCE = os.environ.get("UTHIN_SOURCE", os.path.join(os.path.dirname(__file__), "../.."))
NEW = os.path.join(SOURCE, ".cache/thin-tools-1/bin")
WHOLE = os.environ.get("UTHIN_TIER", "0") != "0"
SEED = int(os.environ.get("UTHIN_SEED", "20261122"))
BLOCK, BLOCKS_MAX = 4096, 600
SUPERBLOCK, NODE, BITMAP, INDEX, NONE = 160774, 121107, 240779, 160478, None
CRC_TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82f63b78 if byte & 1 else 0)
    CRC_TABLE.append(byte)


def sealed(kind, content):
    """with the checksum of its kind"""
    crc = 0xffffffff
    for byte in content[4:]:
        crc = CRC_TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return struct.pack("<I", crc ^ kind) + content[4:]


def node(where, chance):
    """a mapping leaf, or something that only has the checksum of one"""
    if chance.random() < 0.2:
        return struct.pack("<II", 0, chance.choice((1, 2, 3))) + chance.randbytes(BLOCK - 8)
    key, data, keys, values = chance.randrange(1 << 40), chance.randrange(1 << 30), [], []
    for _ in range(252):
        key, data = key + chance.choice((1, 1, 1, 9)), data + chance.choice((1, 1, 1, -70))
        keys.append(key)
        values.append((data << 24 | chance.choice((3, 3, 4))) % (1 << 64))
    return struct.pack("<IIQIIII252Q252Q", 0, 2, where, 252, 252, 8, 0, *keys, *values) + bytes(32)


def make_image(chance):
    """(what there is, what comes back: blocks of no kind are zeros)"""
    there, back = bytearray(), bytearray()
    for where in range(BLOCKS_MAX):
        kind = SUPERBLOCK if where == 0 else chance.choice((NODE, NODE, NODE, BITMAP, INDEX, NONE))
        content = node(where, chance) if kind == NODE else chance.randbytes(BLOCK)
        content = content if kind is NONE else sealed(kind, content)
        there += content
        back += bytes(BLOCK) if kind is NONE else content
    return bytes(there), bytes(back)


class PackSizes(unittest.TestCase):
    def run_tool(self, folder, tool, source, target, processors=None):
        call = [os.path.join(folder, tool), "-f", "-i", source, "-o", target]
        outcome = subprocess.run(call, capture_output=True, timeout=60, stdin=subprocess.DEVNULL,
                                 preexec_fn=processors and (lambda: os.sched_setaffinity(0, processors)))
        self.assertEqual(outcome.returncode, 0, outcome)
        with open(target, "rb") as written:
            return written.read()

    def test_every_size_comes_back(self):
        print(f"seed: UTHIN_SEED={SEED}")
        there, back = make_image(random.Random(SEED))
        sizes = range(1, BLOCKS_MAX + 1) if WHOLE else [*range(1, BLOCKS_MAX, 29), 48, 127, 128, 129, BLOCKS_MAX]
        one_processor = {min(os.sched_getaffinity(0))}
        theirs = 0
        with tempfile.TemporaryDirectory() as folder:
            image, packed, again, out = (os.path.join(folder, name) for name in ("image", "packed", "again", "out"))
            for blocks in sizes:
                with self.subTest(blocks=blocks):
                    with open(image, "wb") as file:
                        file.write(there[:blocks * BLOCK])
                    first = self.run_tool(BIN, "thin_metadata_pack", image, packed)
                    self.assertEqual(self.run_tool(BIN, "thin_metadata_pack", image, again, one_processor), first)
                    self.assertTrue(self.run_tool(BIN, "thin_metadata_unpack", packed, out) == back[:blocks * BLOCK])
                    if os.path.exists(NEW) and (WHOLE or blocks % 4 == 0):
                        self.assertTrue(self.run_tool(NEW, "thin_metadata_unpack", packed, out) == back[:blocks * BLOCK])
                        theirs += 1
        print(f"{len(sizes)} sizes, of which 1.x unpacked {theirs}")


if __name__ == "__main__":
    if not os.path.exists(os.path.join(BIN, "thin_tools")):
        sys.exit(77)
    unittest.main()
