#!/usr/bin/env python3
"""The damage matrix, row by row: what each kind of check says of a pool with one thing wrong, whether it can be
mended in place, whether it dumps, and what a repair keeps of its six mappings."""
import os
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml_tree

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
SOURCE = os.environ.get("UTHIN_SOURCE", os.path.join(os.path.dirname(__file__), "../.."))
FAILED = 64
# Image: full check, --super-block-only, --skip-mappings, --ignore-non-fatal-errors, --auto-repair and a full
# check after it, dump (+ passes, - fails), then the mappings that a repair keeps (- refuses). Devices 1 and 2
# share one tree of three mappings, so that what it loses is lost twice; of two leaves with 100 mappings each in
# second_leaf_checksum.
ROWS = """
    clean                        ++++++ 6
    needs_check                  ++++++ 6
    superblock_version_3         ++++++ 6
    superblock_checksum          ------ -
    superblock_blank             ------ -
    superblock_incompat          -----+ 6
    bottom_checksum              -++--- 0
    second_leaf_checksum         -++--- 200
    details_checksum             -+---- 6
    top_checksum                 -+---- 6
    data_bitmap_checksum         -++--+ 6
    data_index_checksum          -++--+ 6
    data_overflow_checksum       -++--+ 6
    metadata_bitmap_checksum     -++--+ 6
    metadata_index_checksum      -++--+ 6
    data_leak_1                  -+++++ 6
    data_leak_2                  -+++++ 6
    metadata_leak_1              -+++++ 6
    metadata_leak_2              -+++++ 6
    data_counts_low              -++--+ 6
    data_missing_overflow        -++--+ 6
    metadata_count_low           -++--+ 6
    node_number                  -++--- 0
    keys_out_of_order            -++--- 4
    too_many_entries             -++--- 0
    value_size                   -++--- 0
    loop                         -++--- 0
    pointer_beyond_device        -++--- 0
    root_is_details              -++--- 3
    mapping_beyond_data          -++--+ 4
    mapping_time                 -++--+ 6
    mapped_blocks                -+++-+ 6
    details_lack_device          -+---- 6
    top_lacks_device             -+---- 6
    data_map_too_long            -----+ -
    metadata_map_too_long        -----+ 6
    held_broken                  -+---+ 6
"""


def run(tool, *arguments):
    return subprocess.run([os.path.join(BIN, tool), *arguments], capture_output=True, timeout=30,
                          stdin=subprocess.DEVNULL)


class DamageMatrix(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        subprocess.run([sys.executable, os.path.join(SOURCE, "tests/support/make_defect_images.py"), cls.folder.name],
                       check=True, stdout=subprocess.DEVNULL)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def path(cls, name):
        return os.path.join(cls.folder.name, name)

    def passes(self, tool, *arguments):
        outcome = run(tool, *arguments)
        self.assertIn(outcome.returncode, (0, FAILED), outcome)
        return outcome.returncode == 0

    def mended(self, image):
        copy = self.path("copy")
        subprocess.run(["cp", image, copy], check=True)
        if self.passes("thin_check", "--auto-repair", copy):
            return self.passes("thin_check", copy)
        with open(image, "rb") as before, open(copy, "rb") as after:
            self.assertEqual(before.read(), after.read(), "a refused repair changed the image")
        return False

    def kept_by_repair(self, image):
        output = self.path("output")
        with open(output, "wb") as file:
            file.truncate(1 << 20)
        if not self.passes("thin_repair", "-i", image, "-o", output):
            return "-"
        self.assertTrue(self.passes("thin_check", output))
        dumped = xml_tree.fromstring(run("thin_dump", "--no-sharing", output).stdout)
        return str(sum(int(run_of.get("length", "1")) for device in dumped for run_of in device))

    def row_of(self, name):
        image = self.path(name + ".img")
        seen = [self.passes("thin_check", *option, image) for option in
                ([], ["--super-block-only"], ["--skip-mappings"], ["--ignore-non-fatal-errors"])]
        seen += [self.mended(image), self.passes("thin_dump", image)]
        return "".join("+" if passed else "-" for passed in seen) + " " + self.kept_by_repair(image)

    def test_every_row(self):
        rows = dict(line.split(maxsplit=1) for line in ROWS.strip().splitlines())
        for name, expected in rows.items():
            with self.subTest(damage=name):
                self.assertEqual(self.row_of(name), expected)

    def test_a_lost_superblock_costs_nothing_when_its_numbers_are_given(self):
        for name in ("superblock_checksum", "superblock_blank"):
            output = self.path("output")
            with open(output, "wb") as file:
                file.truncate(1 << 20)
            self.assertTrue(self.passes("thin_repair", "-i", self.path(name + ".img"), "-o", output, "--transaction-id",
                                        "9", "--data-block-size", "128", "--nr-data-blocks", "100"))
            self.assertTrue(self.passes("thin_check", output))
            dumped = run("thin_dump", "--no-sharing", output).stdout.decode()
            self.assertIn('transaction="9" flags="0" version="2" data_block_size="128" nr_data_blocks="100"', dumped)
            self.assertEqual(dumped.count('length="3"'), 2)


if __name__ == "__main__":
    if not os.path.exists(os.path.join(BIN, "thin_tools")):
        sys.exit(77)
    unittest.main()
