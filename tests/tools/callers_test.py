#!/usr/bin/env python3
"""The calls of LVM2, stratisd, thin-send-recv, wyng and scripts, to the letter, and what each of them makes of
the answer."""
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml_tree

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
SOURCE = os.environ.get("UTHIN_SOURCE", os.path.join(os.path.dirname(__file__), "../.."))
USAGE = 2
# What LVM2 2.03.22 and later writes when it makes a pool of a volume that has data.
LVM_XML = """<superblock uuid="" time="0" transaction="1" version="2" data_block_size="128" nr_data_blocks="4096">
 <device dev_id="1" mapped_blocks="4096" transaction="0" creation_time="0" snap_time="0">
  <range_mapping origin_begin="0" data_begin="0" length="4096" time="0"/>
 </device>
</superblock>"""
# thin-send-recv's lexer: this order, nothing between, the flags and the version only if they are there.
HEADER = (r'<superblock uuid="[^"]*" time="\d+" transaction="\d+"(?: flags="\d+")?(?: version="\d+")? '
          r'data_block_size="\d+" nr_data_blocks="\d+">\n')


def run(tool, *arguments, **options):
    return subprocess.run([os.path.join(BIN, tool), *map(str, arguments)], capture_output=True, timeout=30, **options)


class Callers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.held, cls.leaked = cls.unpacked("metasnap-held"), cls.unpacked("crash-6-128k")
        listed = run("thin_ls", "-m", "--no-headers", "-o", "DEV", cls.held).stdout.split()
        cls.first, cls.second = map(int, listed[:2])

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def path(cls, name):
        return os.path.join(cls.folder.name, name)

    @classmethod
    def unpacked(cls, name):
        pool = os.path.join(SOURCE, "tests/data/corpus", name, "metadata.img.zst")
        subprocess.run(["zstd", "-dqf", pool, "-o", cls.path(name)], check=True)
        return cls.path(name)

    @classmethod
    def blank(cls, name, size=4 << 20):
        with open(cls.path(name), "wb") as file:
            file.truncate(size)
        return cls.path(name)

    def passed(self, outcome):
        self.assertEqual(outcome.returncode, 0, outcome)
        return outcome.stdout.decode()

    def test_lvm_asks_for_the_version(self):
        for tool in ("thin_check", "thin_dump", "thin_repair", "thin_restore"):
            line = self.passed(run(tool, "-V")).splitlines()[0]
            version = re.match(r"(\d+)\.(\d+)\.(\d+)$", line)
            self.assertGreaterEqual(tuple(map(int, version.groups())), (0, 9, 0))

    def test_lvm_checks_before_it_activates(self):
        copy = self.unpacked("needs-check-write-error")
        outcome = run("thin_check", "-q", "--clear-needs-check-flag", copy)
        self.assertEqual((self.passed(outcome), outcome.stderr), ("", b""))
        self.assertFalse(json.loads(self.passed(run("thin_check", "--json", copy)))["needs_check"])

    def test_lvm_reads_the_first_line_of_a_dump_and_goes_away(self):
        # Larger than a pipe holds, so that the tool notices.
        with open(self.path("xml"), "w") as text:
            text.write(LVM_XML.split("\n")[0].replace("4096", "90000") + "\n <device dev_id=\"1\" mapped_blocks=\"9999\" "
                       "transaction=\"0\" creation_time=\"0\" snap_time=\"0\">\n")
            for block in range(9999):
                text.write(f'<single_mapping origin_block="{2 * block}" data_block="{3 * block}" time="0"/>\n')
            text.write(" </device>\n</superblock>")
        image = self.blank("large")
        self.passed(run("thin_restore", "-i", self.path("xml"), "-o", image))
        with subprocess.Popen([os.path.join(BIN, "thin_dump"), image], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as dump:
            line = dump.stdout.readline(4096)
            dump.stdout.close()
            self.assertEqual(dump.stderr.read(), b"")
            self.assertNotEqual(dump.wait(30), 0)
        self.assertEqual(re.search(rb' transaction="(\d+)"', line)[1], b"1")

    def test_lvm_restores_a_file_without_a_name(self):
        with tempfile.TemporaryFile() as text:
            text.write(LVM_XML.encode())
            text.flush()
            target = self.blank("target")
            self.passed(run("thin_restore", "-i", f"/proc/{os.getpid()}/fd/{text.fileno()}", "-o", target))
        self.passed(run("thin_check", "-q", target))
        self.assertIn('length="4096"', self.passed(run("thin_dump", target)))

    def test_stratisd_repairs_and_asks_for_sizes(self):
        self.passed(run("thin_check", "--auto-repair", self.leaked))
        self.passed(run("thin_repair", "-i", self.leaked, "-o", self.blank("target", 16 << 20)))
        self.passed(run("thin_check", "-q", self.path("target")))
        for block, pool, thins in ((1 << 20, 126 << 20, 1), (1 << 20, 127 << 20, 1), (1 << 16, 1 << 40, 1000),
                                   (1 << 20, 2 << 20, 0)):
            text = self.passed(run("thin_metadata_size", "-b", f"{block}b", "-s", f"{pool}b", "-m", thins, "-n"))
            self.assertEqual(int(text.strip()), 8 * (1 + -(-pool // block // 126) + thins), text)

    def test_sizes_are_printed_as_1_x_prints_them(self):
        for arguments, text in ((("-b64k", "-s1t", "-m1000"), "1073232 sectors"),
                                (("-b64k", "-s1t", "-m1000", "-n"), "1073232"),
                                (("-b64k", "-s1t", "-m1000", "-nshort"), "1073232s"),
                                (("-b64k", "-s1t", "-m1000", "-n=long"), "1073232sectors"),
                                (("-b64k", "-s1t", "-m1000", "-uG"), "0.549494784 gigabytes"),
                                (("-b64k", "-s1t", "-m1k", "-n"), "1073424"),  # like 0.9
                                (("-b64k", "-s1t", "-m2M", "-n"), "17065232"),
                                (("-b", "1m", "-s", "1g", "-m", "2300", "-u", "m"), "9.02 mebibytes")):
            self.assertEqual(self.passed(run("thin_metadata_size", *arguments)), text + "\n", arguments)
        for arguments in (("-b", "1k", "-s", "1g", "-m", "1"), ("-b", "64k", "-s", "32k", "-m", "1"),
                          ("-b", "64k", "-s", "1g", "-m", "1q"), ("-b", "64k", "-s", "1g", "-m", "M"),
                          ("-b", "64k", "-s", "1g", "-m", "99999999E"), ("-b", "64kib", "-s", "1g", "-m", "1"),
                          ("-s", "1g", "-m", "1")):
            self.assertNotEqual(run("thin_metadata_size", *arguments).returncode, 0, arguments)

    def test_thin_send_lexes_deltas_and_dumps(self):
        text = self.passed(run("thin_delta", "-m", "--snap1", self.first, "--snap2", self.second, self.held))
        element = r'    <(?:same|different|left_only|right_only) begin="\d+" length="\d+"/>\n'
        self.assertRegex(text, rf'\A{HEADER}  <diff left="{self.first}" right="{self.second}">\n(?:{element})+'
                               r'  </diff>\n</superblock>\n?\Z')
        text = self.passed(run("thin_dump", "-m", "--dev-id", self.first, self.held))
        mapping = (r'    (?:<single_mapping origin_block="\d+" data_block="\d+" time="\d+"/>|'
                   r'<range_mapping origin_begin="\d+" data_begin="\d+" length="\d+" time="\d+"/>)\n')
        self.assertRegex(text, rf'\A{HEADER}  <device dev_id="{self.first}" mapped_blocks="\d+" transaction="\d+" '
                               rf'creation_time="\d+" snap_time="\d+">\n(?:{mapping})+  </device>\n</superblock>\n?\Z')

    def test_wyng_filters_lines_and_parses_the_rest(self):
        self.assertGreaterEqual(self.passed(run("thin_delta", "-V"))[:5], "0.7.4")
        text = self.passed(run("thin_delta", "--metadata-snap", f"--thin1={self.first}", f"--thin2={self.second}",
                               self.held))
        kept = "\n".join(line for line in text.splitlines() if not re.search(r"^\s*<same .*/>$", line))
        parsed = xml_tree.fromstring(kept)
        self.assertEqual(int(parsed.get("data_block_size")) % 128, 0)
        changes = [child.tag for child in parsed.find("diff")]
        self.assertTrue(changes)
        self.assertNotIn("same", changes)

    def test_a_wrong_call_is_told_from_a_failure(self):
        self.assertEqual(run("thin_check", "--no-such-option", self.held).returncode, USAGE)
        self.assertEqual(run("thin_delta", "--snap1", 1, self.held).returncode, USAGE)


if __name__ == "__main__":
    if not os.path.exists(os.path.join(BIN, "thin_tools")):
        sys.exit(77)
    unittest.main()
