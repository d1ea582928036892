#!/usr/bin/env python3
"""What every thin_* tool owes its caller, whatever it does: help, version, exit codes, one-line errors,
inputs that are no metadata, an output that stays as it was, a reader that goes away."""
import fcntl
import os
import struct
import subprocess
import sys
import tempfile
import unittest

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
SOURCE = os.environ.get("UTHIN_SOURCE", os.path.join(os.path.dirname(__file__), "../.."))
IMAGE = "tests/data/corpus/deletes/metadata.img.zst"
FAILED, USAGE = 64, 2
SECONDS_MAX = 10


def data_beside(target):
    """a sparse data device, large enough for the image's pool"""
    return os.path.join(os.path.dirname(target), "data")


# name: how to call it with an input and an output
READERS = {
    "thin_check": lambda source, target: [source],
    "thin_dump": lambda source, target: [source],
    "thin_ls": lambda source, target: [source],
    "thin_delta": lambda source, target: ["--snap1", "1", "--snap2", "3", source],
    "thin_rmap": lambda source, target: ["--region", "0..1000", source],
    "thin_metadata_pack": lambda source, target: ["-f", "-i", source, "-o", target],
    "thin_trim": lambda source, target: ["--metadata-dev", source, "--data-dev", data_beside(target), "--dry-run"],
    "thin_migrate": lambda source, target: ["--metadata-dev", source, "--dev-id", "1", "--data-dev",
                                            data_beside(target), "--dest-file", target],
}
WRITERS = {
    "thin_repair": lambda source, target: ["-i", source, "-o", target],
    "thin_restore": lambda source, target: ["-i", source, "-o", target],
    "thin_metadata_unpack": lambda source, target: ["-f", "-i", source, "-o", target],
    "thin_shrink": lambda source, target: ["--no-copy", "--nr-blocks", "100", "-i", source, "-o", target],
}
TOOLS = [*READERS, *WRITERS, "thin_metadata_size"]


def run(tool, *arguments, **options):
    return subprocess.run([os.path.join(BIN, tool), *arguments], capture_output=True, timeout=SECONDS_MAX,
                          stdin=subprocess.DEVNULL, **options)


class Contract(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.image = os.path.join(cls.folder.name, "metadata")
        with open(os.path.join(cls.folder.name, "data"), "wb") as data:
            data.truncate(1 << 34)
        subprocess.run(["zstd", "-dqf", os.path.join(SOURCE, IMAGE), "-o", cls.image], check=True)
        with open(cls.image, "rb") as image:
            cls.bytes = image.read()
        cls.xml = cls.file("xml", run("thin_dump", cls.image).stdout)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def file(cls, name, content):
        path = os.path.join(cls.folder.name, name)
        if os.path.exists(path):
            os.chmod(path, 0o600)
        with open(path, "wb") as target:
            target.write(content)
        return path

    def refused(self, outcome, status=FAILED):
        """one line on stderr, nothing that looks like a crash"""
        self.assertEqual(outcome.returncode, status, outcome)
        if status == FAILED:
            self.assertEqual(len(outcome.stderr.splitlines()), 1, outcome.stderr)

    def all_readers_and_writers(self):
        for table in (READERS, WRITERS):
            for tool, call in table.items():
                with self.subTest(tool=tool):
                    yield tool, call, os.path.join(self.folder.name, "target")

    def test_version_is_a_bare_triple(self):
        for tool in TOOLS:
            for option in ("-V", "--version"):
                outcome = run(tool, option)
                self.assertEqual(outcome.returncode, 0)
                self.assertRegex(outcome.stdout.decode(), r"\A\d+\.\d+\.\d+\n\Z")

    def test_help_goes_to_stdout_and_names_the_tool(self):
        for tool in TOOLS:
            for option in ("-h", "--help"):
                outcome = run(tool, option)
                self.assertEqual((outcome.returncode, outcome.stderr), (0, b""))
                self.assertIn(f"Usage: {tool} ", outcome.stdout.decode())

    def test_what_is_not_understood_is_a_usage_error(self):
        for tool in TOOLS:
            for arguments in (["--no-such-option"], ["-Z"], []):
                outcome = run(tool, *arguments)
                self.refused(outcome, USAGE)
                self.assertIn(b"Usage: ", outcome.stderr)
                self.assertEqual(outcome.stdout, b"")

    def test_the_tool_is_found_by_the_first_argument_too(self):
        self.assertEqual(run("thin_tools", "thin_check", "-V").stdout, run("thin_check", "-V").stdout)
        self.assertEqual(run("thin_tools", "nonsense").returncode, FAILED)

    def test_inputs_that_are_not_there_or_no_files_are_refused(self):
        for tool, call, target in self.all_readers_and_writers():
            self.file("target", bytes(1 << 20))
            for source, why in ((os.path.join(self.folder.name, "absent"), b"Couldn't find input file"),
                                (self.folder.name, b"Not a block device or regular file")):
                outcome = run(tool, *call(source, target))
                self.refused(outcome)
                self.assertIn(why, outcome.stderr)

    def test_inputs_that_are_no_metadata_are_refused(self):
        for tool, call in READERS.items():
            with self.subTest(tool=tool):
                target = os.path.join(self.folder.name, "target")
                for source, why in ((self.file("tiny", b"x" * 100), b"too small"),
                                    (self.xml, b"This looks like XML")):
                    outcome = run(tool, *call(source, target))
                    self.refused(outcome)
                    self.assertIn(why, outcome.stderr)

    def test_damaged_metadata_is_told_in_one_line(self):
        damaged = bytearray(self.bytes)
        damaged[100] ^= 1
        for name, content in (("flipped", damaged), ("zeros", bytes(1 << 16)), ("ones", b"\xff" * (1 << 16))):
            source = self.file(name, content)
            for tool in ("thin_check", "thin_dump", "thin_ls", "thin_delta", "thin_rmap"):
                with self.subTest(tool=tool, name=name):
                    outcome = run(tool, *READERS[tool](source, ""))
                    self.refused(outcome)
                    self.assertEqual(outcome.stdout, b"")

    def test_any_flipped_byte_is_survived(self):
        state = 12345
        for _ in range(60):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            damaged = bytearray(self.bytes)
            damaged[state >> 32 & 0x7ffff] ^= 1 << (state >> 24 & 7)
            source = self.file("flipped", damaged)
            for tool in ("thin_check", "thin_dump"):
                self.assertIn(run(tool, source).returncode, (0, FAILED))

    def test_read_only_inputs_work(self):
        source = self.file("read-only", self.bytes)
        os.chmod(source, 0o400)
        for tool, call in READERS.items():
            with self.subTest(tool=tool):
                outcome = run(tool, *call(source, os.path.join(self.folder.name, "packed")))
                self.assertEqual(outcome.returncode, 0, outcome.stderr)

    def test_quiet_says_nothing(self):
        for arguments in ([self.image], [self.file("zeros", bytes(1 << 16))]):
            outcome = run("thin_check", "-q", *arguments)
            self.assertEqual((outcome.stdout, outcome.stderr), (b"", b""))

    def test_a_bad_text_leaves_the_output_as_it_was(self):
        with open(self.xml, "rb") as text:
            good = text.read()
        for content in (b"", b"nonsense", good[:-30], good.replace(b'time="0"', b'time="99999999"', 1),
                        good.replace(b"<device", b"<gadget", 1)):
            target = self.file("target", self.bytes)
            self.refused(run("thin_restore", "-i", self.file("bad", content), "-o", target))
            with open(target, "rb") as after:
                self.assertEqual(after.read(), self.bytes)

    def test_an_output_that_is_too_small_is_left_alone(self):
        target = self.file("target", b"x" * 4096 * 9)
        for tool, source in (("thin_restore", self.xml), ("thin_repair", self.image)):
            outcome = run(tool, "-i", source, "-o", target)
            self.refused(outcome)
            self.assertIn(b"Output file too small", outcome.stderr)
            with open(target, "rb") as after:
                self.assertEqual(after.read(), b"x" * 4096 * 9)

    def made_pool(self, name):
        pool = os.path.join(self.folder.name, name)
        made = run("uthin", "pool", "create", pool, "--data-size", "64M")
        self.assertEqual(made.returncode, 0, made)
        return pool

    def content(self, path):
        with open(path, "rb") as file:
            return file.read()

    def test_an_output_that_is_the_input_is_left_alone(self):
        pool = self.made_pool("both")
        metadata, same = f"{pool}/metadata", self.file("same", self.bytes)
        packed, xml = os.path.join(self.folder.name, "same-packed"), self.file("same-xml", self.content(self.xml))
        self.assertEqual(run("thin_metadata_pack", "-i", same, "-o", packed).returncode, 0)
        shrink = ("thin_shrink", "--no-copy", "--nr-blocks", "100")
        for source, target, *call in (
                (pool, metadata, "thin_metadata_pack", "-f", "-i", pool, "-o", metadata),
                (pool, metadata, "thin_repair", "-i", pool, "-o", metadata),
                (metadata, pool, "thin_repair", "-i", metadata, "-o", pool),
                (pool, metadata, *shrink, "--binary", "-i", pool, "-o", metadata),
                (pool, metadata, "thin_dump", "-o", metadata, pool),
                (same, same, "thin_dump", "-o", same, same),
                (same, same, "thin_metadata_pack", "-f", "-i", same, "-o", same),
                (packed, packed, "thin_metadata_unpack", "-f", "-i", packed, "-o", packed),
                (xml, xml, "thin_restore", "-i", xml, "-o", xml),
                (xml, xml, *shrink, "-i", xml, "-o", xml)):
            with self.subTest(call=call):
                written = metadata if target == pool else target
                before = self.content(written)
                outcome = run(*call)
                self.refused(outcome)
                self.assertIn(f"{source} and {target} are the same file", outcome.stderr.decode())
                self.assertEqual(self.content(written), before)

    def test_an_output_that_somebody_uses_is_left_alone(self):
        target = self.file("used", self.bytes)
        packed = os.path.join(self.folder.name, "packed")
        self.assertEqual(run("thin_metadata_pack", "-f", "-i", self.image, "-o", packed).returncode, 0)
        with open(target, "r+b") as held:
            # As a running pool locks its metadata: F_OFD_SETLK.
            fcntl.fcntl(held, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
            for call in (["thin_metadata_pack", "-f", "-i", self.image, "-o", target],
                         ["thin_metadata_unpack", "-f", "-i", packed, "-o", target],
                         ["thin_dump", "-o", target, self.image],
                         ["thin_shrink", "--no-copy", "--nr-blocks", "400", "-i", self.xml, "-o", target]):
                with self.subTest(call=call):
                    outcome = run(*call)
                    self.refused(outcome)
                    self.assertIn(target.encode(), outcome.stderr)
                    self.assertEqual(self.content(target), self.bytes)

    def test_a_reader_that_goes_away_is_no_noise(self):
        read_end, write_end = os.pipe()
        os.close(read_end)
        for tool in ("thin_dump", "thin_ls", "thin_delta", "thin_rmap"):
            with self.subTest(tool=tool):
                outcome = subprocess.run([os.path.join(BIN, tool), *READERS[tool](self.image, "")],
                                         stdout=write_end, stderr=subprocess.PIPE, timeout=SECONDS_MAX)
                self.assertEqual((outcome.returncode, outcome.stderr), (FAILED, b""))
        os.close(write_end)

    def test_a_packed_file_that_is_none_is_named(self):
        for name, content in (("no-pack", b"nonsense" * 100), ("short-pack", b"")):
            source = self.file(name, content)
            outcome = run("thin_metadata_unpack", "-i", source, "-o", os.path.join(self.folder.name, "unpacked"))
            self.refused(outcome)
            self.assertIn(source.encode(), outcome.stderr)

    def test_messages_that_cannot_be_written_change_nothing_else(self):
        damaged = bytearray(self.bytes)
        damaged[5 * 4096 + 40] ^= 4
        damaged = self.file("flipped", damaged)
        before = self.content(damaged)
        calls = [(FAILED, tool, *call(os.path.join(self.folder.name, "absent"), "/none"))
                 for table in (READERS, WRITERS) for tool, call in table.items()]
        calls += [(USAGE, tool, "--no-such-option") for tool in TOOLS]
        calls += [(FAILED, "thin_tools", "nonsense"), (FAILED, "thin_check", damaged),
                  (FAILED, "thin_check", "--clear-needs-check-flag", damaged),
                  (0, "thin_repair", "--explain", "-v", "-i", self.image)]
        read_end, write_end = os.pipe()
        os.close(read_end)
        with open("/dev/full", "wb") as full:
            for status, tool, *arguments in calls:
                for name, options in (("full", {"stderr": full}), ("gone", {"stderr": write_end}),
                                      ("closed", {"preexec_fn": lambda: os.close(2)})):
                    with self.subTest(tool=tool, arguments=arguments, stderr=name):
                        outcome = subprocess.run([os.path.join(BIN, tool), *arguments], stdin=subprocess.DEVNULL,
                                                 stdout=subprocess.DEVNULL, timeout=SECONDS_MAX, **options)
                        self.assertEqual(outcome.returncode, status)
                        self.assertEqual(self.content(damaged), before)
        os.close(write_end)

    def test_results_that_cannot_be_written_are_an_error(self):
        trim = ["--data-dev", data_beside(self.image), "--metadata-dev", self.image]
        calls = [["thin_check", self.image], ["thin_check", "--json", self.image], ["thin_trim", "--dry-run", *trim],
                 ["thin_trim", *trim], ["thin_repair", "--json", "-i", self.image, "-o", self.file("target", bytes(1 << 20))]]
        calls += [[tool, option] for tool in TOOLS for option in ("--help", "--version")]
        read_end, write_end = os.pipe()
        os.close(read_end)
        with open("/dev/full", "wb") as full:
            for tool, *arguments in calls:
                for name, before, options in (
                        ("full", [], {"stdout": full}), ("unbuffered", ["stdbuf", "-o0"], {"stdout": full}),
                        ("closed", [], {"preexec_fn": lambda: os.close(1)}), ("gone", [], {"stdout": write_end})):
                    with self.subTest(tool=tool, arguments=arguments, stdout=name):
                        outcome = subprocess.run([*before, os.path.join(BIN, tool), *arguments],
                                                 stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=SECONDS_MAX,
                                                 **options)
                        self.assertEqual(outcome.returncode, FAILED)
                        self.assertRegex(outcome.stderr.decode(), r"\A\Z" if name == "gone" else
                                         rf"\A{tool}: output error: standard output: .*\n\Z")
        os.close(write_end)

    def test_a_full_disk_is_an_error(self):
        outcome = run("thin_dump", "-o", "/dev/full", self.image)
        self.refused(outcome)
        self.assertIn(b"No space left on device", outcome.stderr)


if __name__ == "__main__":
    if not os.path.exists(os.path.join(BIN, "thin_tools")):
        sys.exit(77)
    unittest.main()
