#!/usr/bin/env python3
"""A dump and a restore stream: ten times the mappings take no more memory but for what is kept of each leaf."""
import os
import subprocess
import sys
import tempfile
import unittest

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
LONG = os.environ.get("UTHIN_TIER", "0") != "0"
FEW, MANY = (2_000_000, 50_000_000) if LONG else (200_000, 2_000_000)
MIB = 1 << 20
# What is kept of a leaf of some 250 mappings, and the two bits of each block in an image's space maps;
# the slack is the allocator's.
BYTES_PER_MAPPING_MAX, SLACK_BYTES = 1.5, 2 * MIB
PEAK_MAX = 256 * MIB
# 1.1.0's dump of one mapping without a neighbour takes more than this in text alone.
BYTES_OF_TEXT_MIN = 60


def peak_of(tool, *arguments):
    """the largest resident memory of a run, in bytes; stdout goes nowhere"""
    line = subprocess.run([os.path.join(BIN, "uthin-bench-measure"), "run", os.path.join(BIN, tool), *arguments],
                          check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    if line[3] != "0":
        raise AssertionError(f"{tool} ended with {line[3]}")
    return int(line[2])


class Memory(unittest.TestCase):
    def peaks(self, kind, mappings):
        with tempfile.TemporaryDirectory() as folder:
            image, xml, copy = (os.path.join(folder, name) for name in ("image", "xml", "copy"))
            subprocess.run([os.path.join(BIN, "uthin-bench-images"), kind, image, str(mappings)], check=True)
            dump = peak_of("thin_dump", image, "-o", xml)
            if kind == "fragmented":
                self.assertGreater(os.path.getsize(xml), BYTES_OF_TEXT_MIN * mappings)
            with open(copy, "wb") as target:
                target.truncate(os.path.getsize(image))
            restore = peak_of("thin_restore", "-i", xml, "-o", copy)
            return {"dump": dump, "restore": restore}

    def test_neither_grows_with_the_number_of_mappings(self):
        for kind in ("fragmented", "runs"):
            few, many = self.peaks(kind, FEW), self.peaks(kind, MANY)
            for tool in few:
                with self.subTest(kind=kind, tool=tool):
                    print(f"{kind}, {tool}: {few[tool] / MIB:.1f} MiB for {FEW:,} mappings, "
                          f"{many[tool] / MIB:.1f} for {MANY:,}")
                    self.assertLess(many[tool], PEAK_MAX)
                    self.assertLess(many[tool] - few[tool], (MANY - FEW) * BYTES_PER_MAPPING_MAX + SLACK_BYTES)


if __name__ == "__main__":
    if not os.path.exists(os.path.join(BIN, "uthin-bench-images")):
        print("skipped: uthin-bench-images is not built")
        sys.exit(77)
    unittest.main()
