#!/usr/bin/env python3
"""Every option of both families of thin-provisioning-tools is understood by ours, in the ways that getopt_long and
clap allow: from the lists below, and from what the originals that are installed here say of themselves."""
import os
import re
import subprocess
import sys
import tempfile
import unittest

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
SOURCE = os.environ.get("UTHIN_SOURCE", os.path.join(os.path.dirname(__file__), "../.."))
FAMILIES = ("/usr/sbin", os.path.join(SOURCE, ".cache/thin-tools-1/bin"))
USAGE = 2
# 0.9.0 and 1.3, with what only their sources or manual pages name: tool, flags, options with a value.
OPTIONS = """
    thin_check            -q --quiet -m --metadata-snap --metadata-snapshot --auto-repair --clear-needs-check-flag
                          --ignore-non-fatal-errors --skip-mappings --super-block-only
                          | --override-mapping-root=1 --override-details-root=1
    thin_delta            -m --metadata-snap --verbose
                          | -m6 --metadata-snap=6 --thin1=1 --snap1=1 --thin2=1 --snap2=1 --root1=1 --root2=1
    thin_dump             -q --quiet -r --repair -m --metadata-snap --skip-mappings
                          | -f=xml --format=human_readable -m6 -m=6 --metadata-snap=6 -o=f --output=f --dev-id=1
                          --data-block-size=128 --nr-data-blocks=1 --transaction-id=1
    thin_ls               -m --metadata-snap --no-headers
                          | -m6 -o=DEV --format=DEV,MAPPED_BLOCKS,EXCLUSIVE_SECTORS,SHARED_BYTES,HIGHEST_BLOCK,HIGHEST_SECTOR
                          --format=HIGHEST_BYTE,MAPPED,EXCLUSIVE,SHARED,HIGHEST_MAPPED,TRANSACTION,CREATE_TIME,SNAP_TIME
    thin_metadata_pack    -f --force | -i=f --input=f -o=f --output=f
    thin_metadata_size    -n --numeric-only
                          | -b=64k --block-size=64k -s=1t --pool-size=1t -m=1 --max-thins=1 -u=s --unit=s -nshort
                          -nlong -n=short --numeric-only=long
    thin_metadata_unpack  -f --force | -i=f --input=f -o=f --output=f
    thin_migrate          -q --quiet --zero-dest
                          | --source-dev=d --src-device=d --dest-dev=d --dest-file=f --buffer-size-meg=1 --delta-id=1
    thin_repair           -q --quiet
                          | -i=f --input=f -o=f --output=f --data-block-size=128 --nr-data-blocks=1 --transaction-id=1
    thin_restore          -q --quiet
                          | -i=f --input=f -o=f --output=f --data-block-size=128 --nr-data-blocks=1 --transaction-id=1
    thin_rmap             | --region=1..2
    thin_shrink           --no-copy --binary | -i=f --input=f -o=f --output=f --data=d --nr-blocks=1
    thin_trim             -q --quiet | --metadata-dev=d --data-dev=d
"""


def table():
    """tool: (flags, options with a value)"""
    found = {}
    for entry in re.split(r"\n    (?=thin_)", OPTIONS.strip()):
        tool, rest = entry.split(maxsplit=1)
        found[tool] = tuple(part.split() for part in rest.split("|"))
    return found


def run(tool, *arguments):
    return subprocess.run([os.path.join(BIN, tool), *arguments], capture_output=True, timeout=30, text=True,
                          stdin=subprocess.DEVNULL)


class Options(unittest.TestCase):
    def understood(self, tool, *arguments):
        """what stands before --help has been taken when the help comes"""
        outcome = run(tool, *arguments, "--help")
        self.assertEqual((outcome.returncode, outcome.stderr), (0, ""), (tool, arguments))

    def test_every_option_is_understood(self):
        for tool, (flags, valued) in table().items():
            with self.subTest(tool=tool):
                for option in [*flags, *valued, "-v", "-vv", "--io-engine=sync", "--io-engine=spindle"]:
                    self.understood(tool, option)
                for option in valued:
                    name, equals, value = option.partition("=")
                    if equals and not (name, tool) in (("-m", "thin_dump"), ("-n", "thin_metadata_size")) \
                            and name not in ("--metadata-snap", "--numeric-only"):
                        self.understood(tool, name, value)  # an optional value must be attached
                        self.understood(tool, name + value if len(name) == 2 else option)
                for option in flags:
                    if option.startswith("--"):
                        self.assertEqual(run(tool, option + "=1", "--help").returncode,
                                         0 if option.startswith("--metadata-snap") and tool != "thin_check" else USAGE)

    def test_the_lists_name_all_that_the_originals_name(self):
        seen = 0
        for folder in FAMILIES:
            for tool, (flags, valued) in table().items():
                if not os.path.exists(os.path.join(folder, tool)):
                    continue
                said = subprocess.run([os.path.join(folder, tool), "--help"], capture_output=True, text=True)
                shown = re.sub(r'".*?"|e\.g\..*', "", said.stdout + said.stderr)
                known = {name.partition("=")[0] for name in [*flags, *valued]} | {"-h", "--help", "-V", "--version"}
                for name in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*|(?<![\w-])-[a-zA-Z](?![\w-])", shown):
                    with self.subTest(tool=tool, folder=folder):
                        self.assertIn(name, known)
                        seen += 1
        if seen == 0:
            self.skipTest("no originals here")
        print(f"{seen} options named by the originals")

    def test_options_may_follow_operands_be_joined_and_abbreviated(self):
        with tempfile.TemporaryDirectory() as folder:
            image, target = os.path.join(folder, "image"), os.path.join(folder, "target")
            pool = os.path.join(SOURCE, "tests/data/corpus/deletes/metadata.img.zst")
            subprocess.run(["zstd", "-dqf", pool, "-o", image], check=True)
            with open(target, "wb") as file:
                file.truncate(4 << 20)
            for call in (["thin_check", image, "-q"], ["thin_check", "-q", "--", image], ["thin_check", "--super", image],
                         ["thin_dump", image, "--dev-id", "1", "-fhuman_readable"], ["thin_dump", "-qf", "xml", image],
                         ["thin_ls", image, "-oDEV", "--no-h"], ["thin_delta", image, "--thin1=1", "--snap2", "3"],
                         ["thin_repair", "", f"-i{image}", f"--out={target}"]):
                self.assertEqual(run(*call).returncode, 0, call)
            for call in (["thin_check", image, image], ["thin_dump", image, target], ["thin_check", "--s", image],
                         ["thin_repair", "", "", "-i", image, "-o", target], ["thin_restore", "", "-i", image, "-o", target],
                         ["thin_check", "--auto-repair", "--skip-mappings", image],
                         ["thin_check", "--clear-needs-check-flag", "-m", image], ["thin_dump", "-r", "-m", image]):
                outcome = run(*call)
                self.assertEqual((outcome.returncode, outcome.stdout), (USAGE, ""), call)


if __name__ == "__main__":
    if not os.path.exists(os.path.join(BIN, "thin_tools")):
        sys.exit(77)
    unittest.main()
