#!/usr/bin/env python3
"""What the originals do wrong or each in its own way (docs/tools.md): one case for each of their defects and for each
difference between the families, as ours decides it. What other tests show already is named in the table there."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
SOURCE = os.environ.get("UTHIN_SOURCE", os.path.join(os.path.dirname(__file__), "../.."))
FAILED, USAGE = 64, 2
FULL = "/dev/full"


def run(tool, *arguments, **options):
    return subprocess.run([os.path.join(BIN, tool), *map(str, arguments)], capture_output=True, text=True, timeout=60,
                          stdin=subprocess.DEVNULL, **options)


def header(**given):
    attributes = {"uuid": "", "time": 3, "transaction": 7, "version": 2, "data_block_size": 128, "nr_data_blocks": 1024,
                  **given}
    return "<superblock " + " ".join(f'{name}="{value}"' for name, value in attributes.items()) + ">\n"


def device(dev_id, *runs, mapped=None):
    """runs of (virtual block, data block, length)"""
    lines = "".join(f'<range_mapping origin_begin="{v}" data_begin="{d}" length="{n}" time="0"/>\n' for v, d, n in runs)
    return (f'<device dev_id="{dev_id}" mapped_blocks="{mapped or sum(n for _, _, n in runs)}" transaction="0" '
            f'creation_time="0" snap_time="0">\n{lines}</device>\n')


class UpstreamDefects(unittest.TestCase):
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

    @classmethod
    def corpus(cls, scenario):
        packed = os.path.join(SOURCE, "tests/data/corpus", scenario, "metadata.img.zst")
        subprocess.run(["zstd", "-dqf", packed, "-o", cls.path(scenario)], check=True)
        return cls.path(scenario)

    def content(self, path):
        with open(path, "rb") as file:
            return file.read()

    def text(self, tool, *arguments):
        outcome = run(tool, *arguments)
        self.assertEqual(outcome.returncode, 0, outcome)
        return outcome.stdout

    def refused(self, outcome, why):
        self.assertEqual(outcome.returncode, FAILED, outcome)
        self.assertIn(why, outcome.stderr)

    def restore(self, xml, *options, output="restored"):
        with open(self.path("xml"), "w") as file:
            file.write(xml)
        with open(self.path(output), "ab") as file:
            file.truncate(1 << 20)
        return run("thin_restore", "-i", self.path("xml"), "-o", self.path(output), *options)

    def image(self, *devices, **given):
        outcome = self.restore(header(**given) + "".join(devices) + "</superblock>")
        self.assertEqual(outcome.returncode, 0, outcome)
        return self.path("restored")

    # ---- defects, D1 to D12

    def test_d2_verbose_deltas_join_only_what_is_contiguous_on_both_sides(self):
        # 1.x prints one range of 20 from data block 0.
        image = self.image(device(1, (0, 0, 10), (10, 500, 10)), device(2, (0, 0, 10), (10, 500, 10)))
        same = self.text("thin_delta", "--verbose", "--thin1", 1, "--thin2", 2, image)
        self.assertIn('    <same>\n      <range begin="0" data_begin="0" length="10"/>\n'
                      '      <range begin="10" data_begin="500" length="10"/>\n    </same>\n', same)
        plain = self.text("thin_delta", "--thin1", 1, "--thin2", 2, image)
        self.assertIn('    <same begin="0" length="20"/>\n', plain)

    def test_d3_details_and_roots_are_paired_by_id(self):
        for damage, why in (("details_lack_device", "a mapping tree but no details"),
                            ("top_lacks_device", "details but no mapping tree")):
            for tool, *arguments in (("thin_dump",), ("thin_dump", "--no-sharing"), ("thin_ls",), ("thin_ls", "-o", "DEV")):
                outcome = run(tool, *arguments, self.path(damage + ".img"))
                self.refused(outcome, why)
                self.assertEqual(outcome.stderr.count("\n"), 1)
                self.assertNotIn("</superblock>", outcome.stdout)

    def test_d4_a_check_clears_the_flag_only_when_told_to(self):
        image = self.path("flagged")
        for options in (["--skip-mappings"], ["--super-block-only"], ["--ignore-non-fatal-errors"], []):
            shutil.copy(self.path("needs_check.img"), image)
            before = self.content(image)
            self.text("thin_check", *options, image)
            self.assertEqual(self.content(image), before)
            self.assertIn('flags="1"', self.text("thin_dump", image))
        for options in (["--skip-mappings"], ["--super-block-only"], []):
            shutil.copy(self.path("needs_check.img"), image)
            self.text("thin_check", *options, "--clear-needs-check-flag", image)
            self.assertNotIn("flags", self.text("thin_dump", image))

    def test_d5_what_is_written_is_flushed_before_and_after_the_superblock(self):
        if not shutil.which("strace"):
            self.skipTest("no strace here")
        leaked = self.corpus("crash-6-128k")
        self.image(device(1, (0, 0, 10)))
        for tool, *arguments in (("thin_restore", "-i", self.path("xml"), "-o", self.path("restored")),
                                 ("thin_repair", "-i", leaked, "-o", self.path("restored")),
                                 ("thin_check", "-q", "--auto-repair", leaked)):
            trace = self.path("trace")
            done = subprocess.run(["strace", "-f", "-e", "trace=fsync,fdatasync", "-o", trace, os.path.join(BIN, tool),
                                   *arguments], capture_output=True, text=True, timeout=60)
            if done.returncode != 0 and "ptrace" in done.stderr.lower():
                self.skipTest("nothing can be traced here: " + done.stderr)
            self.assertEqual(done.returncode, 0, done)
            self.assertGreaterEqual(len(re.findall(rb"sync\(\d+\) += 0", self.content(trace))), 2, tool)

    def test_d6_a_restore_that_fails_leaves_the_old_pool_or_none(self):
        image = self.image(device(1, (0, 0, 10)))
        before = self.content(image)
        # Too many leaves for the output: noticed while they are written.
        large = "".join(device(number, *((2 * block, block, 1) for block in range(500))) for number in range(200))
        self.refused(self.restore(header() + large + "</superblock>"), "out of metadata space")
        if self.content(image) != before:
            self.assertEqual(run("thin_check", "-q", image).returncode, FAILED)
            self.assertEqual(run("thin_dump", image).returncode, FAILED)
        before = self.content(image)
        self.refused(self.restore(header() + device(1, (0, 0, 10))), "")
        self.assertEqual(self.content(image), before)

    def test_d7_ids_are_unique_and_times_fit(self):
        for body, why in ((device(1, (0, 0, 4)) + device(1, (0, 0, 4)), "there are two devices 1"),
                          (device(1, (0, 0, 4)).replace(' time="0"/', ' time="16777216"/'), "16777215"),
                          (device(1, (0, 1021, 4)), "the pool has 1024"),
                          (device(1, (4, 0, 4), (0, 4, 4)), "out of order")):
            self.refused(self.restore(header() + body + "</superblock>"), why)
        self.refused(self.restore(header(data_block_size=100) + "</superblock>"), "multiple of 128")

    def test_d7_mapped_blocks_are_counted(self):
        image = self.image(device(1, (0, 0, 4), mapped=77))
        self.assertIn('mapped_blocks="4"', self.text("thin_dump", image))
        self.text("thin_check", image)

    def test_d8_options_have_the_effect_that_they_say(self):
        held = self.corpus("metasnap-held")
        for option in ("--metadata-snap=99999", "-m99999"):
            for tool, *arguments in (("thin_dump",), ("thin_ls",), ("thin_delta", "--thin1", 0, "--thin2", 1)):
                self.refused(run(tool, option, *arguments, held), "metadata snapshot does not match that in superblock")
        self.assertEqual(self.text("thin_dump", "-m33", held), self.text("thin_dump", "-m", held))
        devices = re.findall(r'dev_id="(\d+)"', self.text("thin_dump", "-m", "--skip-mappings", "--dev-id", 1, held))
        self.assertEqual(devices, ["1"])

    def test_d10_names_of_the_manual_pages_parse(self):
        held = self.corpus("metasnap-held")
        self.text("thin_check", "--metadata-snapshot", held)
        self.refused(run("thin_migrate", "--src-device", "/none", "--dest-file", self.path("copy")), "")
        self.text("thin_metadata_size", "-b", "64k", "-s", "1t", "-m", "1k")

    def test_d11_results_that_are_lost_are_errors(self):
        image = self.image(device(1, (0, 0, 10)))
        self.refused(run("thin_dump", "-o", FULL, image), "No space left on device")
        with open(FULL, "w") as full:
            done = subprocess.run([os.path.join(BIN, "thin_dump"), image], stdout=full, stderr=subprocess.PIPE, text=True)
        self.refused(done, "No space left on device")

    def test_d12_a_data_block_mapped_twice_counts_twice(self):
        # In one leaf, and in two.
        for runs in (((0, 5, 1), (1, 5, 1)), ((0, 5, 1), *((2 * block, block, 1) for block in range(300, 900)), (2000, 5, 1))):
            self.text("thin_check", self.image(device(1, *runs)))

    # ---- differences between the families

    def test_exit_status(self):
        self.assertEqual(run("thin_check", "/none").returncode, FAILED)
        self.assertEqual(run("thin_check", "--nonsense").returncode, USAGE)

    def test_dumps_share_by_default_and_end_with_a_newline(self):
        shared = self.path("clean.img")
        self.assertRegex(self.text("thin_dump", shared), r'(?s)<def name="\d+">.*<ref name="\d+"/>.*</superblock>\n\Z')
        plain = self.text("thin_dump", "--no-sharing", shared)
        self.assertNotRegex(plain, "<def|<ref")
        self.assertRegex(plain, r"</superblock>\n\Z")

    def test_flags_are_named_when_they_are_set(self):
        self.assertNotIn("flags", self.text("thin_dump", self.path("clean.img")).split("\n")[0])
        self.assertIn(' flags="1" version', self.text("thin_dump", self.path("needs_check.img")).split("\n")[0])
        # 0.9's dialect always names them.
        self.assertIn(' flags="0" version', self.text("thin_dump", "--no-sharing", self.path("clean.img")).split("\n")[0])

    def test_data_counts_are_checked_and_leaks_can_be_mended(self):
        image = self.path("leaked")
        shutil.copy(self.path("data_leak_1.img"), image)
        self.assertEqual(run("thin_check", image).returncode, FAILED)
        self.text("thin_check", "--ignore-non-fatal-errors", image)
        self.text("thin_check", "--auto-repair", image)
        self.text("thin_check", image)
        self.assertEqual(run("thin_check", self.path("data_counts_low.img")).returncode, FAILED)

    def test_a_partial_salvage_is_told_and_can_be_refused(self):
        damaged = self.path("second_leaf_checksum.img")
        with open(self.path("salvaged"), "wb") as file:
            file.truncate(1 << 20)
        before = self.content(self.path("salvaged"))
        self.refused(run("thin_repair", "--no-loss", "-i", damaged, "-o", self.path("salvaged")),
                     "something would be lost; nothing was written")
        self.assertEqual(self.content(self.path("salvaged")), before)
        outcome = run("thin_repair", "-i", damaged, "-o", self.path("salvaged"))
        self.assertEqual(outcome.returncode, 0)
        self.assertIn("lost", outcome.stderr)
        self.text("thin_check", self.path("salvaged"))


if __name__ == "__main__":
    if not os.path.exists(os.path.join(BIN, "thin_tools")):
        sys.exit(77)
    unittest.main()
