#!/usr/bin/env python3
"""thin_check took /dev/loop0 over the metadata file of a served pool for a disk that nobody owned, and so
would a second server have: the lock is on the file, and the loop device has another number. Whoever opens a
loop device owns the file behind it, too."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from served_pool import BIN, ServedPool  # noqa: E402


def main():
    with ServedPool("loop", {"disk": 1 << 20}) as pool:
        metadata = f"{pool.path}/metadata"
        made = subprocess.run(["losetup", "--show", "-f", metadata], capture_output=True, text=True)
        if made.returncode != 0:
            print(f"skipped: no loop device to be had: {made.stderr.strip()}")
            sys.exit(77)
        device = made.stdout.strip()
        try:
            check = [os.path.join(BIN, "thin_check"), device]
            live = subprocess.run(check, capture_output=True, text=True)
            pool.stop()
            idle = subprocess.run(check, capture_output=True, text=True)
        finally:
            subprocess.run(["losetup", "-d", device], check=True)
        assert live.returncode != 0 and "owned by another process" in live.stderr, live
        assert idle.returncode == 0, idle


main()
