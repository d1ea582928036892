#!/usr/bin/env python3
"""A mutant whose device had snap_time 268435476 passed the check, since all it costs is copies of blocks that are not
shared, and dumped; but thin_restore refused the text: it took the limit of 24 bits of a mapping's time for one of a
device's times, which have 32 and which 1.x restores."""
import os
import subprocess
import tempfile

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
SOURCE = os.environ.get("UTHIN_SOURCE", os.path.join(os.path.dirname(__file__), "../.."))
THEIRS = os.path.join(SOURCE, ".cache/thin-tools-1/bin")
DEVICE = '  <device dev_id="1" mapped_blocks="4" transaction="0" creation_time="4294967295" snap_time="268435476">\n'
XML = ('<superblock uuid="" time="20" transaction="1" version="2" data_block_size="128" nr_data_blocks="4096">\n' + DEVICE
       + '    <range_mapping origin_begin="0" data_begin="0" length="4" time="19"/>\n  </device>\n</superblock>\n')


def main():
    with tempfile.TemporaryDirectory() as folder:
        xml, image = (os.path.join(folder, name) for name in ("xml", "image"))
        with open(xml, "w") as text:
            text.write(XML)
        with open(image, "wb") as target:
            target.truncate(1 << 20)
        for tool, *arguments in (("thin_restore", "-i", xml, "-o", image), ("thin_check", "-q", image)):
            done = subprocess.run([os.path.join(BIN, tool), *arguments], capture_output=True, text=True)
            assert done.returncode == 0, done
        # The pool's time stays below the limit: mappings will be made at it.
        for folder_of_tools in filter(os.path.exists, (BIN, THEIRS)):
            dumped = subprocess.run([os.path.join(folder_of_tools, "thin_dump"), image], check=True, capture_output=True,
                                    text=True).stdout
            assert dumped.strip() == XML.strip(), dumped
        for name, value in (("creation_time", 1 << 32), ("snap_time", 1 << 32), ("time", 1 << 24)):
            with open(xml, "w") as text:
                text.write(XML.replace(' time="19"', f' time="{value}"') if name == "time" else
                           XML.replace(DEVICE, DEVICE.replace('4294967295' if name == "creation_time" else '268435476',
                                                              str(value))))
            refused = subprocess.run([os.path.join(BIN, "thin_restore"), "-i", xml, "-o", image], capture_output=True,
                                     text=True)
            assert refused.returncode == 64 and f'{name}="{value}"' in refused.stderr, refused


main()
