#!/usr/bin/env python3
"""thin_dump -m and thin_delta -m said nr_data_blocks="0", as both families of the originals do: the superblock of a
metadata snapshot names no space maps. Such a dump could not be restored without --nr-data-blocks. The pool's own
superblock, through which the snapshot is found, knows the size; thin_check -m said METADATA_FREE_BLOCKS=0 too."""
import os
import re
import subprocess
import tempfile

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
SOURCE = os.environ.get("UTHIN_SOURCE", os.path.join(os.path.dirname(__file__), "../.."))


def output(tool, *arguments):
    return subprocess.run([os.path.join(BIN, tool), *arguments], check=True, capture_output=True, text=True).stdout


def size_in(text):
    return re.search(r' nr_data_blocks="(\d+)">\n', text)[1]


def main():
    with tempfile.TemporaryDirectory() as folder:
        pool, xml, copy = (os.path.join(folder, name) for name in ("pool", "xml", "copy"))
        for scenario in ("metasnap-held", "k612-metasnap-held"):
            packed = os.path.join(SOURCE, "tests/data/corpus", scenario, "metadata.img.zst")
            subprocess.run(["zstd", "-dqf", packed, "-o", pool], check=True)
            size = size_in(output("thin_dump", pool))
            assert int(size) > 0
            held = output("thin_dump", "-m", pool)
            assert size_in(held) == size, held[:200]
            assert size_in(output("thin_delta", "-m", "--snap1", "0", "--snap2", "1", pool)) == size
            assert output("thin_check", "-m", pool) == output("thin_check", pool)
            with open(xml, "w") as text:
                text.write(held)
            with open(copy, "wb") as target:
                target.truncate(1 << 20)
            output("thin_restore", "-i", xml, "-o", copy)
            assert output("thin_dump", copy).split("\n", 1)[1] == held.split("\n", 1)[1]


main()
