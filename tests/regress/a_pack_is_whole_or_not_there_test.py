#!/usr/bin/env python3
"""thin_metadata_pack into a pipe waited for the pipe's content; a pack that could not be written to its end looked
like a whole one, and a limit of the size of files ended the tools with a signal. (Found by reading.)"""
import os
import random
import resource
import subprocess
import tempfile

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
BLOCKS, LIMIT = 20_000, 16 << 10


def run(tool, *words, **options):
    return subprocess.run([os.path.join(BIN, tool), *words], stdin=subprocess.DEVNULL, timeout=20,
                          **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options})


def must(tool, *words):
    ran = run(tool, *words)
    assert ran.returncode == 0, ran
    return ran.stdout


def fails_at_the_limit(tool, *words):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    ran = run(tool, *words, preexec_fn=limit)
    assert ran.returncode == 64, ran
    assert ran.stderr.count(b"\n") == 1 and ran.stderr.startswith(tool.encode() + b": "), ran


def content(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def xml():
    """mappings in no order, so that they pack badly"""
    order = list(range(BLOCKS))
    random.Random(5).shuffle(order)
    singles = "".join(f'<single_mapping origin_block="{2 * at}" data_block="{block}" time="0"/>\n'
                      for at, block in enumerate(order))
    return (f'<superblock uuid="" time="0" transaction="1" version="2" data_block_size="128" nr_data_blocks="{BLOCKS}">'
            f'\n<device dev_id="1" mapped_blocks="{BLOCKS}" transaction="0" creation_time="0" snap_time="0">\n{singles}'
            '</device>\n</superblock>\n')


def main():
    with tempfile.TemporaryDirectory() as folder:
        text, metadata, again, pack = (os.path.join(folder, name) for name in ("xml", "metadata", "again", "pack"))
        write(text, xml())
        for path in metadata, again:
            with open(path, "wb") as file:
                file.truncate(4 << 20)
        must("thin_restore", "-i", text, "-o", metadata)
        dumped = must("thin_dump", metadata)

        write(pack, "of an earlier pack")
        must("thin_metadata_pack", "-i", metadata, "-o", pack)
        good = content(pack)
        assert len(good) > 2 * LIMIT, len(good)
        stdout = os.path.join(folder, "stdout")  # what /dev/stdout is, and nobody misses it
        os.symlink("/proc/self/fd/1", stdout)
        piped = must("thin_metadata_pack", "-i", metadata, "-o", stdout)
        assert piped == good and os.path.islink(stdout)
        with open(again + ".pack", "wb") as file:
            file.write(piped)
        must("thin_metadata_unpack", "-i", again + ".pack", "-o", again)
        must("thin_check", again)
        assert must("thin_dump", again) == dumped

        names = sorted(os.listdir(folder))
        fails_at_the_limit("thin_metadata_pack", "-i", metadata, "-o", pack)
        assert content(pack) == b""
        assert sorted(os.listdir(folder)) == names
        assert run("thin_metadata_unpack", "-f", "-i", pack, "-o", again).returncode == 64
        must("thin_check", again)
        fails_at_the_limit("thin_dump", metadata, "-o", os.path.join(folder, "dumped"))
        fails_at_the_limit("thin_restore", "-i", text, "-o", again)
        must("thin_check", metadata)
        assert run("thin_check", again).returncode != 0, "half restored, and taken for whole"


main()
