#!/usr/bin/env python3
"""thin_ls -o DEV listed the devices of the details tree and exited 0, also where the top mapping tree held others:
a device without details was not there, one without mappings looked like any other. With a column that needs the
mappings it refused such a pool; now it always does, as 1.x."""
import os
import subprocess
import sys
import tempfile

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
SOURCE = os.environ.get("UTHIN_SOURCE", os.path.join(os.path.dirname(__file__), "../.."))


def main():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, os.path.join(SOURCE, "tests/support/make_defect_images.py"), folder],
                       check=True, stdout=subprocess.DEVNULL)
        for damage, why in (("details_lack_device", "a mapping tree but no details"),
                            ("top_lacks_device", "details but no mapping tree")):
            for columns in ("DEV", "DEV,MAPPED", "DEV,TRANSACTION,CREATE_TIME,SNAP_TIME"):
                listed = subprocess.run([os.path.join(BIN, "thin_ls"), "-o", columns, f"{folder}/{damage}.img"],
                                        capture_output=True, text=True)
                assert listed.returncode == 64 and why in listed.stderr and listed.stdout == "", listed
        clean = subprocess.run([os.path.join(BIN, "thin_ls"), "-o", "DEV", f"{folder}/clean.img"], capture_output=True,
                               text=True, check=True)
        assert clean.stdout == "DEV \n  1 \n  2 \n", clean


main()
