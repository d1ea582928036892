#!/usr/bin/env python3
"""Every thin_* tool on the pools that real kernels made: against what 0.9.0 printed then, and against the
originals that are installed here (0.9.0, 1.x), in both directions."""
import glob
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
SOURCE = os.environ.get("UTHIN_SOURCE", os.path.join(os.path.dirname(__file__), "../.."))
OLD = "/usr/sbin"
NEW = os.path.join(SOURCE, ".cache/thin-tools-1/bin")
LS_FIELDS = ("DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS,SHARED_BLOCKS,MAPPED_BYTES,EXCLUSIVE_BYTES,MAPPED,"
             "TRANSACTION,CREATE_TIME,SNAP_TIME")
LEAKED = "crash-6-128k"


def run(folder, tool, *arguments):
    return subprocess.run([os.path.join(folder, tool), *arguments], capture_output=True, timeout=30,
                          stdin=subprocess.DEVNULL)


def installed(folder):
    return os.path.exists(os.path.join(folder, "thin_check"))


def recorded(pool, name):
    path = os.path.join(pool, name)
    if os.path.exists(path + ".zst"):
        return subprocess.run(["zstd", "-dcq", path + ".zst"], capture_output=True, check=True).stdout.decode()
    if not os.path.exists(path):
        return None
    with open(path) as text:
        return text.read()


def without_status(text):
    return re.sub(r"\n?\[stderr\].*|\[rc \d+\]\s*\Z", "", text, flags=re.S)


class Corpus(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.pools = {}
        for pool in sorted(glob.glob(os.path.join(SOURCE, "tests/data/corpus/*/"))):
            name = os.path.basename(pool.rstrip("/"))
            image = cls.path(name)
            subprocess.run(["zstd", "-dqf", pool + "metadata.img.zst", "-o", image], check=True)
            cls.pools[name] = (pool, image)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def path(cls, name):
        return os.path.join(cls.folder.name, name)

    def each(self, step=1):
        """all pools, or every step-th: each call of 1.x waits for half a second"""
        self.assertEqual(len(self.pools), 56)
        for name, (pool, image) in list(self.pools.items())[::step]:
            with self.subTest(pool=name):
                yield name, pool, image

    def output(self, tool, *arguments):
        outcome = run(BIN, tool, *arguments)
        self.assertEqual(outcome.returncode, 0, (tool, arguments, outcome.stderr))
        return outcome.stdout.decode()

    def test_check_passes_but_for_the_leak(self):
        for name, _, image in self.each():
            outcome = run(BIN, "thin_check", image)
            self.assertEqual(outcome.returncode, 64 if name == LEAKED else 0, outcome.stderr)

    def test_check_prints_what_1_x_prints(self):
        if not installed(NEW):
            self.skipTest("no 1.x here")
        for _, _, image in self.each(8):
            self.assertEqual(run(BIN, "thin_check", image).stdout, run(NEW, "thin_check", image).stdout)

    def test_the_leak_is_mended_on_request_only(self):
        with open(self.pools[LEAKED][1], "rb") as image:
            before = image.read()
        for option in ("--auto-repair", "--clear-needs-check-flag"):
            copy = self.path("copy")
            with open(copy, "wb") as target:
                target.write(before)
            self.assertEqual(run(BIN, "thin_check", "--ignore-non-fatal-errors", copy).returncode, 0)
            report = json.loads(run(BIN, "thin_check", "--json", copy).stdout)
            self.assertEqual((report["fatal"], report["leaked_data_blocks"]), (0, 1))
            flag_set = json.loads(run(BIN, "thin_check", "--json", copy).stdout)["needs_check"]
            mended = run(BIN, "thin_check", option, copy)
            self.assertEqual(mended.returncode, 0)
            self.assertIn(b"Repaired leaked blocks\n", mended.stderr)
            self.assertEqual(b"Cleared needs_check flag\n" in mended.stderr, flag_set)
            report = json.loads(self.output("thin_check", "--json", copy))
            self.assertEqual((report["repairable"], report["cosmetic"]), (0, 0))
            self.assertEqual(self.output("thin_dump", copy), self.output("thin_dump", self.pools[LEAKED][1]))
            for originals in filter(installed, (OLD, NEW)):
                self.assertEqual(run(originals, "thin_check", "-q", copy).returncode, 0)

    def test_needs_check_is_cleared_after_a_good_check(self):
        image = self.pools["needs-check-write-error"][1]
        copy = self.path("copy")
        subprocess.run(["cp", image, copy], check=True)
        self.assertTrue(json.loads(self.output("thin_check", "--json", copy))["needs_check"])
        self.output("thin_check", "-q", "--clear-needs-check-flag", copy)
        self.assertFalse(json.loads(self.output("thin_check", "--json", copy))["needs_check"])

    def test_dump_without_sharing_is_the_text_of_0_9(self):
        for _, pool, image in self.each():
            text = self.output("thin_dump", "--no-sharing", image)
            self.assertEqual(text.strip(), without_status(recorded(pool, "thin_dump.xml")).strip())

    def test_dump_is_the_text_of_1_x(self):
        if not installed(NEW):
            self.skipTest("no 1.x here")
        for _, _, image in self.each(8):
            for form in ("xml", "human_readable"):
                theirs = run(NEW, "thin_dump", "-f", form, image).stdout.decode()
                self.assertEqual(self.output("thin_dump", "--format", form, image).strip(), theirs.strip())

    def test_ls_is_the_text_of_0_9(self):
        for _, pool, image in self.each():
            text = self.output("thin_ls", "--format", LS_FIELDS, image)
            # No bytes are "0b" in 1.x, as in ours, and "0" in 0.9.
            words = ["0" if word == "0b" else word for word in text.split()]
            self.assertEqual(words, without_status(recorded(pool, "thin_ls.txt")).split())

    def test_rmap_names_at_least_the_blocks_of_1_x(self):
        if not installed(NEW):
            self.skipTest("no 1.x here")

        def blocks(text):
            found = set()
            for line in text.splitlines():
                begin, end, thin, first = map(int, re.match(
                    r"data (\d+)\.\.(\d+) -> thin\((\d+)\) (\d+)\.\.\d+$", line).groups())
                found.update((block, thin, first + block - begin) for block in range(begin, end))
            return found
        for _, _, image in self.each(8):
            ours = blocks(self.output("thin_rmap", "--region", "0..1000000", image))
            theirs = run(NEW, "thin_rmap", "--region", "0..1000000", image).stdout.decode()
            self.assertLessEqual(blocks(theirs), ours)
            mapped = self.output("thin_ls", "--no-headers", "-o", "MAPPED_BLOCKS", image).split()
            self.assertEqual(len(ours), sum(map(int, mapped)))

    def test_delta_is_the_text_of_1_x(self):
        if not installed(NEW):
            self.skipTest("no 1.x here")
        for _, _, image in self.each(11):
            devices = self.output("thin_ls", "--no-headers", "-o", "DEV", image).split()[:3]
            for other in devices:
                arguments = ("--snap1", devices[0], "--thin2=" + other, image)
                theirs = run(NEW, "thin_delta", *arguments).stdout.decode()
                self.assertEqual(self.output("thin_delta", *arguments).strip(), theirs.strip())

    def test_what_is_restored_passes_every_check_and_dumps_the_same(self):
        xml, target = self.path("xml"), self.path("restored")
        for _, _, image in self.each(7):
            for options in ([], ["--no-sharing"]):
                text = self.output("thin_dump", *options, image)
                with open(xml, "w") as out:
                    out.write(text)
                with open(target, "wb") as out:
                    out.truncate(8 << 20)
                self.output("thin_restore", "-i", xml, "-o", target)
                report = json.loads(self.output("thin_check", "--json", target))
                self.assertEqual(report["cosmetic"], 0, report["findings"])
                again = self.output("thin_dump", "--no-sharing", target)
                wanted = self.output("thin_dump", "--no-sharing", image)
                self.assertEqual(again, wanted.replace('flags="1"', 'flags="0"'))
                for originals in filter(installed, (OLD, NEW)):
                    self.assertEqual(run(originals, "thin_check", "-q", target).returncode, 0)

    def test_packs_cross_between_the_families(self):
        if not installed(NEW):
            self.skipTest("no 1.x here")
        packed, unpacked = self.path("packed"), self.path("unpacked")
        for _, _, image in self.each(11):
            sizes = {}
            for packer, unpacker in ((BIN, BIN), (BIN, NEW), (NEW, BIN)):
                for tool, folder, source, target in (("thin_metadata_pack", packer, image, packed),
                                                     ("thin_metadata_unpack", unpacker, packed, unpacked)):
                    outcome = run(folder, tool, "-f", "-i", source, "-o", target)
                    self.assertEqual(outcome.returncode, 0, outcome.stderr)
                sizes[packer] = os.path.getsize(packed)
                if packer != NEW:  # 1.x loses blocks at random
                    self.assertEqual(self.output("thin_dump", unpacked), self.output("thin_dump", image))
                    self.assertEqual(run(BIN, "thin_check", unpacked).stdout, run(BIN, "thin_check", image).stdout)
            if os.path.getsize(image) % (128 * 4096) == 0:  # of such it loses none
                self.assertLessEqual(sizes[BIN], sizes[NEW])


if __name__ == "__main__":
    if not os.path.exists(os.path.join(BIN, "thin_tools")):
        sys.exit(77)
    unittest.main()
