#!/usr/bin/env python3
"""thin_trim, thin_shrink and thin_migrate: the tools that touch data. What a pool's devices read as is
computed here from the XML of thin_dump and the data file, not by the tools under test."""
import fcntl
import hashlib
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import unittest

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
SOURCE = os.environ.get("UTHIN_SOURCE", os.path.join(os.path.dirname(__file__), "../.."))
NEWER = os.path.join(SOURCE, ".cache/thin-tools-1/bin")
SEED = int(os.environ.get("UTHIN_SEED", "20261122"))
FAILED, USAGE, BAD_METADATA = 64, 2, 65
MIB = 1 << 20
BLOCK = 65536


def run(tool, *arguments, **options):
    return subprocess.run([os.path.join(BIN, tool), *map(str, arguments)], capture_output=True, timeout=60,
                          **{"stdin": subprocess.DEVNULL, **options})


def must(tool, *arguments, **options):
    outcome = run(tool, *arguments, **options)
    if outcome.returncode != 0:
        raise AssertionError(f"{tool} {arguments}: {outcome}")
    return outcome.stdout


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def mappings_of(xml):
    """device: {virtual block: data block}; pool's number of data blocks"""
    devices, pieces, target = {}, {}, None
    for tag in re.findall(r"<[^>]+>", xml):
        word = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        if tag.startswith("<superblock"):
            blocks = int(word["nr_data_blocks"])
        elif tag.startswith("<def"):
            target = pieces[word["name"]] = {}
        elif tag.startswith("<device"):
            target = devices[int(word["dev_id"])] = {}
        elif tag.startswith("<ref"):
            target.update(pieces[word["name"]])
        elif tag.startswith("<single"):
            target[int(word["origin_block"])] = int(word["data_block"])
        elif tag.startswith("<range"):
            for index in range(int(word["length"])):
                target[int(word["origin_begin"]) + index] = int(word["data_begin"]) + index
    return devices, blocks


def contents_of(xml, data):
    """device: {virtual block: hash of what it reads as}"""
    devices, _ = mappings_of(xml)
    with open(data, "rb") as file:
        def read(block):
            file.seek(block * BLOCK)
            return hashlib.sha256(file.read(BLOCK)).digest()
        return {device: {at: read(block) for at, block in table.items()} for device, table in devices.items()}


def dump(metadata):
    return must("thin_dump", metadata).decode()


def allocated(path):
    return os.stat(path).st_blocks * 512


class Held:
    """a file locked as a running pool locks it"""

    def __init__(self, path):
        self.file = open(path, "r+b")
        fcntl.fcntl(self.file, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))  # F_OFD_SETLK

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def make_pool(pool):
    """three devices with a shared part, and free blocks that once held something"""
    bytes_of = random.Random(SEED).randbytes

    def write(volume, offset, length):
        must("uthin", "write", f"{pool}/{volume}", "--offset", offset, stdin=None, input=bytes_of(length))

    must("uthin", "pool", "create", pool, "--data-size", 64 * MIB, "--no-discard-passdown")
    for name in ("a", "gone", "b"):
        must("uthin", "volume", "create", f"{pool}/{name}", "--size", 20 * MIB)
    write("gone", 0, 6 * MIB)
    write("a", MIB, 3 * MIB)
    write("b", 7 * MIB, 2 * MIB)
    must("uthin", "snapshot", "create", f"{pool}/a", f"{pool}/s")
    for offset in range(2, 18, 3):
        write("a", offset * MIB, BLOCK)
    must("uthin", "volume", "delete", f"{pool}/gone")


class DataTools(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = tempfile.TemporaryDirectory()
        make_pool(f"{cls.model.name}/pool")

    @classmethod
    def tearDownClass(cls):
        cls.model.cleanup()

    def setUp(self):
        self.holder = tempfile.TemporaryDirectory()
        self.pool = self.path("pool")
        subprocess.run(["cp", "-r", "--sparse=always", f"{self.model.name}/pool", self.pool], check=True)
        self.metadata, self.data = f"{self.pool}/metadata", f"{self.pool}/data"

    def tearDown(self):
        self.holder.cleanup()

    def path(self, name):
        return os.path.join(self.holder.name, name)

    def empty(self, name, size):
        with open(self.path(name), "wb") as file:
            file.truncate(size)
        return self.path(name)

    def read(self, volume):
        return must("uthin", "read", volume)

    def refused(self, outcome, why, status=FAILED):
        self.assertEqual(outcome.returncode, status, outcome)
        self.assertEqual(len(outcome.stderr.splitlines()), 1, outcome.stderr)
        self.assertIn(why, outcome.stderr.decode())

    def expect_clean(self, metadata):
        self.assertEqual(run("thin_check", metadata).returncode, 0, run("thin_check", metadata))
        if os.path.exists(NEWER):
            newer = subprocess.run([os.path.join(NEWER, "thin_check"), metadata], capture_output=True)
            self.assertEqual(newer.returncode, 0, newer)

    def damage(self, name):
        with open(self.metadata, "rb") as file:
            image = bytearray(file.read())
        devices_root = struct.unpack_from("<Q", image, 320)[0]
        image[devices_root * 4096 + 100] ^= 1
        with open(self.path(name), "wb") as file:
            file.write(image)
        return self.path(name)


class Disks(DataTools):
    """the same on block devices, where loop devices can be had"""

    def setUp(self):
        super().setUp()
        self.disks = []
        self.data = self.disk(self.data)
        self.metadata = self.disk(self.metadata)

    def tearDown(self):
        for disk in self.disks:
            subprocess.run(["losetup", "-d", disk], check=True)
        super().tearDown()

    def disk(self, file):
        made = subprocess.run(["losetup", "-f", "--show", file], capture_output=True, text=True)
        if made.returncode != 0:
            for disk in self.disks:
                subprocess.run(["losetup", "-d", disk], check=True)
            self.holder.cleanup()
            raise unittest.SkipTest("no loop devices here")
        self.disks.append(made.stdout.strip())
        return self.disks[-1]

    def test_trim_discards(self):
        file = f"{self.pool}/data"
        devices, _ = mappings_of(dump(self.metadata))
        used = len({block for table in devices.values() for block in table.values()})
        before = contents_of(dump(self.metadata), self.data)
        self.assertGreater(allocated(file), used * BLOCK)
        must("thin_trim", "--metadata-dev", self.metadata, "--data-dev", self.data)
        os.sync()
        self.assertLess(allocated(file), (used + 1) * BLOCK)
        self.assertEqual(contents_of(dump(self.metadata), self.data), before)

    def test_shrink_writes_to_disks(self):
        before = contents_of(dump(self.metadata), self.data)
        output = self.disk(self.empty("output", 2 * MIB))
        outcome = run("thin_shrink", "--binary", "-i", self.metadata, "-o", output, "--data", self.data, "--nr-blocks",
                      100)
        self.assertEqual(outcome.returncode, 0, outcome)
        self.expect_clean(output)
        self.assertEqual(contents_of(dump(output), self.data), before)

    def test_migrate_fills_a_disk_of_the_same_length(self):
        target = self.path("target")
        with open(target, "wb") as file:
            file.write(b"x" * 20 * MIB)
        disk = self.disk(target)
        source = ("--metadata-dev", self.metadata, "--data-dev", self.data, "--dev-id", 0, "--verify")
        must("thin_migrate", *source, "--dest-dev", disk)
        plain = self.path("plain")
        must("thin_migrate", *source, "--size", 20 * MIB, "--dest-file", plain)
        self.assertEqual(digest(disk), digest(plain))
        self.refused(run("thin_migrate", *source, "--size", 10 * MIB, "--dest-dev", disk), "lengths differ")
        with Held(plain):
            self.refused(run("thin_migrate", *source, "--dest-file", plain), plain)


class Trim(DataTools):
    def test_free_blocks_become_holes_and_used_ones_stay(self):
        before = {name: self.read(f"{self.pool}/{name}") for name in "abs"}
        devices, blocks = mappings_of(dump(self.metadata))
        used = {block for table in devices.values() for block in table.values()}
        self.assertGreater(allocated(self.data), len(used) * BLOCK)
        with open(self.data, "rb") as file:
            content = file.read()
        outcome = must("thin_trim", "--metadata-dev", self.metadata, "--data-dev", self.data).decode()
        self.assertRegex(outcome, r"\ATRANSACTION_ID=\d+\nMETADATA_FREE_BLOCKS=\d+\n")
        self.assertLess(allocated(self.data), (len(used) + 1) * BLOCK)
        with open(self.data, "rb") as file:
            for block in range(blocks):
                expected = content[block * BLOCK:(block + 1) * BLOCK] if block in used else bytes(BLOCK)
                self.assertEqual(file.read(BLOCK), expected, block)
        self.assertEqual({name: self.read(f"{self.pool}/{name}") for name in "abs"}, before)

    def test_a_dry_run_lists_exactly_the_free_blocks_and_changes_nothing(self):
        devices, blocks = mappings_of(dump(self.metadata))
        used = {block for table in devices.values() for block in table.values()}
        before = digest(self.data), allocated(self.data)
        listed = set()
        for line in must("thin_trim", "--dry-run", "--metadata-dev", self.pool).decode().splitlines():
            begin, end = map(int, line.split(".."))
            listed |= set(range(begin, end))
        self.assertEqual(listed, set(range(blocks)) - used)
        self.assertEqual((digest(self.data), allocated(self.data)), before)

    def test_a_pool_directory_names_its_data_device(self):
        self.assertEqual(must("thin_trim", "-q", "--metadata-dev", self.pool), b"")
        self.refused(run("thin_trim", "--metadata-dev", self.metadata), "no data device")

    def test_a_pool_in_use_is_refused(self):
        before = digest(self.data)
        for path in (self.metadata, self.data):
            with Held(path):
                self.refused(run("thin_trim", "--metadata-dev", self.pool), path)
        self.assertEqual(digest(self.data), before)

    def test_damaged_metadata_discards_nothing(self):
        before = digest(self.data)
        outcome = run("thin_trim", "--metadata-dev", self.damage("damaged"), "--data-dev", self.data)
        self.refused(outcome, "metadata contains errors (run thin_check for details)", BAD_METADATA)
        self.assertEqual(digest(self.data), before)

    def test_a_data_device_that_is_too_small_is_refused(self):
        short = self.empty("short", 64 * MIB - BLOCK)
        self.refused(run("thin_trim", "--metadata-dev", self.metadata, "--data-dev", short),
                     f"unexpected data device size, wanted {64 * MIB} bytes")


class Shrink(DataTools):
    def shrink(self, *arguments):
        return run("thin_shrink", *arguments)

    def test_every_device_reads_as_before_and_the_input_is_not_changed(self):
        before = contents_of(dump(self.metadata), self.data)
        volumes = {name: self.read(f"{self.pool}/{name}") for name in "abs"}
        used = len({b for t in mappings_of(dump(self.metadata))[0].values() for b in t.values()})
        state = digest(self.metadata)
        output = self.empty("output", 2 * MIB)
        outcome = self.shrink("--binary", "-i", self.pool, "-o", output, "--nr-blocks", used + 3)
        self.assertEqual(outcome.returncode, 0, outcome)
        self.expect_clean(output)
        devices, blocks = mappings_of(dump(output))
        self.assertEqual(blocks, used + 3)
        self.assertEqual(len({b for t in devices.values() for b in t.values()}), used)  # still shared
        # The old pool works until the new metadata is taken into use.
        self.assertEqual(digest(self.metadata), state)
        self.assertEqual(contents_of(dump(self.metadata), self.data), before)
        os.truncate(self.data, (used + 3) * BLOCK)
        self.assertEqual(contents_of(dump(output), self.data), before)
        os.rename(output, self.metadata)
        self.assertEqual({name: self.read(f"{self.pool}/{name}") for name in "abs"}, volumes)

    def test_xml_of_both_dialects(self):
        before = contents_of(dump(self.metadata), self.data)
        for option in ((), ("--no-sharing",)):
            text = self.path("text")
            with open(text, "wb") as file:
                file.write(must("thin_dump", *option, self.metadata))
            copy = self.path("copy")
            subprocess.run(["cp", "--sparse=always", self.data, copy], check=True)
            outcome = self.shrink("-i", text, "-o", self.path("smaller"), "--data", copy, "--nr-blocks", 100)
            self.assertEqual(outcome.returncode, 0, outcome)
            os.truncate(copy, 100 * BLOCK)
            with open(self.path("smaller"), encoding="utf-8") as file:
                self.assertEqual(contents_of(file.read(), copy), before)
            restored = self.empty("restored", 2 * MIB)
            must("thin_restore", "-i", self.path("smaller"), "-o", restored)
            self.expect_clean(restored)

    def test_without_copying_the_data_stays_as_it_was(self):
        before = digest(self.data)
        output = self.empty("output", 2 * MIB)
        self.assertEqual(self.shrink("--binary", "--no-copy", "-i", self.metadata, "-o", output, "--nr-blocks",
                                     100).returncode, 0)
        self.assertEqual(digest(self.data), before)
        self.expect_clean(output)

    def test_refusals_leave_data_and_output_as_they_were(self):
        must("uthin", "pool", "metadata-snapshot", self.pool, "reserve")
        held = self.path("held")
        subprocess.run(["cp", self.metadata, held], check=True)
        must("uthin", "pool", "metadata-snapshot", self.pool, "release")
        small = self.path("small")
        with open(small, "wb") as file:
            file.write(b"x" * 4096 * 10)
        output = self.path("output")
        with open(output, "wb") as file:
            file.write(b"x" * 2 * MIB)
        whole = ("--binary", "-i", self.metadata, "--data", self.data)
        before = digest(self.data), digest(small), digest(output), sorted(os.listdir(self.holder.name))
        for why, arguments in (
                ("Insufficient free space", (*whole, "-o", output, "--nr-blocks", 20)),
                ("cannot be shrunk", (*whole, "-o", output, "--nr-blocks", 5000)),
                ("cannot be shrunk", (*whole, "-o", output, "--nr-blocks", 0)),
                ("out of metadata space", (*whole, "-o", small, "--nr-blocks", 100)),
                ("release it first", ("--binary", "-i", held, "--data", self.data, "-o", output, "--nr-blocks", 100)),
                ("Couldn't find data device",
                 ("--binary", "-i", self.metadata, "--data", self.path("absent"), "-o", output, "--nr-blocks", 100)),
                ("no data device", ("--binary", "-i", self.metadata, "-o", output, "--nr-blocks", 100)),
                ("same file", (*whole, "-o", self.metadata, "--nr-blocks", 100)),
                ("Couldn't find output file", (*whole, "-o", self.path("none"), "--nr-blocks", 100))):
            with self.subTest(why=why):
                self.refused(self.shrink(*arguments), why)
                self.assertEqual((digest(self.data), digest(small), digest(output),
                                  sorted(os.listdir(self.holder.name))), before)

    def test_damaged_metadata_is_refused(self):
        output = self.empty("output", 2 * MIB)
        self.refused(self.shrink("--binary", "-i", self.damage("damaged"), "-o", output, "--data", self.data,
                                 "--nr-blocks", 100), "metadata contains errors")
        bad = self.path("bad")
        with open(bad, "w", encoding="utf-8") as file:
            file.write(dump(self.metadata)[:-30])
        result = self.path("result")
        self.refused(self.shrink("-i", bad, "-o", result, "--data", self.data, "--nr-blocks", 100), "superblock")
        self.assertFalse(os.path.exists(result))

    def test_a_data_device_in_use_is_refused(self):
        output = self.empty("output", 2 * MIB)
        before = digest(self.data)
        with Held(self.data):
            self.refused(self.shrink("--binary", "-i", self.pool, "-o", output, "--nr-blocks", 100), self.data)
        self.assertEqual(digest(self.data), before)


    @unittest.skipUnless(os.path.exists(NEWER), "thin-provisioning-tools 1.1 were not fetched")
    def test_blocks_go_where_the_original_puts_them(self):
        for scenario in ("snap-chain-50-64k", "random-1-64k", "deletes", "many-thins-500"):
            with self.subTest(scenario=scenario):
                image = self.path("image")
                packed = os.path.join(SOURCE, "tests/data/corpus", scenario, "metadata.img.zst")
                subprocess.run(["zstd", "-dqf", packed, "-o", image], check=True)
                used = json.loads(must("thin_check", "--json", image))["data_blocks_used"]
                text, data = self.path("text"), self.empty("none", 1 << 40)
                must("thin_dump", "-o", text, image)
                lines = []
                for folder in (BIN, NEWER):
                    output = self.empty("output", 0)
                    subprocess.run([os.path.join(folder, "thin_shrink"), "-i", text, "-o", output, "--data", data,
                                    "--nr-blocks", str(used + 5), "--no-copy"], check=True, capture_output=True)
                    with open(output, encoding="utf-8") as file:
                        lines.append(file.read().splitlines())
                # 1.1.0 leaves the old size in the superblock.
                self.assertEqual(lines[0][0], re.sub(r'nr_data_blocks="\d+"', f'nr_data_blocks="{used + 5}"', lines[1][0]))
                self.assertEqual(lines[0][1:], lines[1][1:])


class Migrate(DataTools):
    def test_a_volume_into_a_file_with_its_holes(self):
        target = self.path("target")
        must("thin_migrate", "--source-dev", f"{self.pool}/a", "--dest-file", target, "--verify")
        with open(target, "rb") as file:
            self.assertEqual(file.read(), self.read(f"{self.pool}/a"))
        mapped = len(mappings_of(dump(self.metadata))[0][0]) * BLOCK
        self.assertLess(allocated(target), mapped + BLOCK)

    def test_a_volume_into_another_pool(self):
        other = self.path("other")
        must("uthin", "pool", "create", other, "--data-size", 32 * MIB, "--block-size", "128K")
        must("thin_migrate", "--source-dev", f"{self.pool}/s", "--dest-dev", f"{other}/copy", "--verify", "-q")
        self.assertEqual(self.read(f"{other}/copy"), self.read(f"{self.pool}/s"))
        self.assertEqual(run("uthin", "pool", "check", other).returncode, 0)
        # What was in the way of a hole is gone.
        must("thin_migrate", "--source-dev", f"{self.pool}/b", "--dest-dev", f"{other}/copy")
        self.assertEqual(self.read(f"{other}/copy"), self.read(f"{self.pool}/b"))

    def test_a_delta_brings_the_older_device_up_to_date(self):
        ids = {name: index for index, name in enumerate(("a", "gone", "b", "s"))}
        target = self.path("target")
        must("thin_migrate", "--source-dev", f"{self.pool}/s", "--dest-file", target)
        outcome = run("thin_migrate", "--source-dev", f"{self.pool}/a", "--delta-id", ids["s"], "--dest-file", target,
                      "--verify")
        self.assertEqual(outcome.returncode, 0, outcome)
        with open(target, "rb") as file:
            self.assertEqual(file.read(), self.read(f"{self.pool}/a"))
        # 6 blocks were written after the snapshot was taken.
        self.assertIn(f"copied {6 * BLOCK} bytes", outcome.stderr.decode())
        self.refused(run("thin_migrate", "--source-dev", f"{self.pool}/a", "--delta-id", ids["s"], "--dest-file",
                         self.path("none")), "--delta-id needs a destination")
        self.refused(run("thin_migrate", "--source-dev", f"{self.pool}/a", "--delta-id", 99, "--dest-file", target),
                     "there is no device 99")

    def test_the_metadata_snapshot_of_a_pool_in_use(self):
        must("uthin", "pool", "metadata-snapshot", self.pool, "reserve")
        expected = self.read(f"{self.pool}/s")
        arguments = ["--metadata-dev", self.pool, "--dev-id", 3, "--size", 20 * MIB, "--dest-file"]
        with Held(self.metadata), Held(self.data):
            self.refused(run("thin_migrate", *arguments, self.path("none")), self.metadata)
            must("thin_migrate", "-m", *arguments, self.path("target"), "--verify")
        with open(self.path("target"), "rb") as file:
            self.assertEqual(file.read(), expected)
        must("uthin", "pool", "metadata-snapshot", self.pool, "release")
        self.refused(run("thin_migrate", "-m", *arguments, self.path("none")), "holds no metadata snapshot")

    def test_lengths(self):
        source = ("--source-dev", f"{self.pool}/a", "--dest-file")
        long = self.empty("long", 21 * MIB)
        self.refused(run("thin_migrate", *source, long), f"lengths differ: input({20 * MIB}) != output({21 * MIB})")
        must("thin_migrate", *source, self.empty("short", MIB))
        with open(self.path("short"), "rb") as file:
            self.assertEqual(file.read(), self.read(f"{self.pool}/a"))
        must("uthin", "volume", "create", f"{self.pool}/other", "--size", 10 * MIB)
        made = json.loads(must("uthin", "volume", "show", f"{self.pool}/other", "--json"))["dev_id"]
        self.refused(run("thin_migrate", "--metadata-dev", self.metadata, "--data-dev", self.data, "--dev-id", made,
                         "--dest-file", self.path("none")), "say how long it is with --size")

    def test_lengths_that_differ_name_the_destination(self):
        longer = self.empty("longer", 20 * MIB + BLOCK)
        self.refused(run("thin_migrate", "--source-dev", f"{self.pool}/a", "--dest-file", longer),
                     f"lengths differ: input({20 * MIB}) != output({20 * MIB + BLOCK}): {longer}")
        other = self.path("other")
        must("uthin", "pool", "create", other, "--data-size", 32 * MIB)
        must("uthin", "volume", "create", f"{other}/short", "--size", MIB)
        self.refused(run("thin_migrate", "--source-dev", f"{self.pool}/a", "--dest-dev", f"{other}/short"),
                     f"lengths differ: input({20 * MIB}) != output({MIB}): {other}/short")
        outcome = run("thin_migrate", "--metadata-dev", self.pool, "--dev-id", 0, "--dest-dev", f"{other}/short")
        self.refused(outcome, f"{other}/short")
        self.assertIn("device 0 maps", outcome.stderr.decode())

    def test_a_shorter_file_is_made_as_long_as_the_device(self):
        shorter = self.path("shorter")
        with open(shorter, "wb") as file:
            file.write(b"x" * MIB)
        must("thin_migrate", "--source-dev", f"{self.pool}/a", "--dest-file", shorter)
        with open(shorter, "rb") as file:
            self.assertEqual(file.read(), self.read(f"{self.pool}/a"))

    def test_the_source_is_no_destination(self):
        must("uthin", "pool", "metadata-snapshot", self.pool, "reserve")
        state = digest(self.metadata), digest(self.data)
        parts = ("--metadata-dev", self.metadata, "--data-dev", self.data)
        for source in (("--metadata-dev", self.pool), parts):
            for target in (self.metadata, self.data):
                with self.subTest(source=source, target=target):
                    outcome = run("thin_migrate", "-m", *source, "--dev-id", 0, "--size", 128 * MIB, "--dest-file",
                                  target)
                    self.refused(outcome, f"and {target} are the same file")
                    self.assertEqual((digest(self.metadata), digest(self.data)), state)

    def test_what_failed_leaves_nothing_behind(self):
        other = self.path("other")
        must("uthin", "pool", "create", other, "--data-size", 2 * MIB, "--block-size", "64K")
        must("uthin", "pool", "set", other, "no-space=error")
        self.refused(run("thin_migrate", "--source-dev", f"{self.pool}/a", "--dest-dev", f"{other}/copy"), "no free data")
        self.assertEqual(json.loads(must("uthin", "volume", "list", other, "--json")), {"volumes": []})
        short = self.empty("data", MIB)
        target = self.path("target")
        self.refused(run("thin_migrate", "--metadata-dev", self.metadata, "--data-dev", short, "--dev-id", 0,
                         "--dest-file", target), "is mapped, but the device has 16")
        self.assertFalse(os.path.exists(target))

    def test_usage(self):
        volume = f"{self.pool}/a"
        for arguments in (["--source-dev", volume], ["--dest-file", "x"], ["--metadata-dev", "x", "--dest-file", "y"],
                          ["--source-dev", volume, "--dest-file", "x", "--dest-dev", "y"],
                          ["--source-dev", volume, "--dev-id", "1", "--dest-file", "x"],
                          ["--source-dev", volume, "--dest-file", "x", "--buffer-size-meg", "0"],
                          ["--metadata-dev", "x", "--dev-id", "1", "--dest-file", "y", "--size", "0"],
                          ["--metadata-dev", "x", "--dev-id", "1", "--dest-file", "y", "--size", "100"],
                          ["--source-dev", volume, "--dest-file", "x", "--buffer-size-meg", "5000"]):
            outcome = run("thin_migrate", *arguments, cwd=self.holder.name)
            self.assertEqual((outcome.returncode, outcome.stdout), (USAGE, b""), arguments)
            self.assertIn(b"Usage: thin_migrate", outcome.stderr)

    def test_sources_and_targets_that_are_none_are_refused(self):
        target = self.path("target")
        self.refused(run("thin_migrate", "--source-dev", f"{self.pool}/none", "--dest-file", target), "source volume")
        self.refused(run("thin_migrate", "--source-dev", self.data, "--dest-file", target), "is no volume")
        self.refused(run("thin_migrate", "--source-dev", f"{self.pool}/a", "--dest-dev", self.data),
                     "Not a block device")
        self.refused(run("thin_migrate", "--source-dev", f"{self.pool}/a", "--dest-file", self.pool),
                     "is a directory")
        self.assertFalse(os.path.exists(target))


if __name__ == "__main__":
    if not os.path.exists(os.path.join(BIN, "thin_tools")):
        sys.exit(77)
    os.environ.setdefault("TMPDIR", "/tmp")
    print(f"seed: UTHIN_SEED={SEED}", flush=True)
    unittest.main()
