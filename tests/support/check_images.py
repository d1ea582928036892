#!/usr/bin/env python3
"""usage: check_images.py TOOLS_DIR IMAGE...

Runs thin_check of TOOLS_DIR and tests/oracle/decode.py on each image. Prints for each image one line
"ok IMAGE" or "BAD IMAGE" with what both said below it; exit 1 if any is bad. One start of Python
serves all images. thin_check 1.1 spends half a second asleep whatever the image, so many run at once."""
import concurrent.futures
import contextlib
import io
import os
import subprocess
import sys
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "oracle"))
sys.dont_write_bytecode = True
import decode  # noqa: E402

THIN_CHECKS_AT_ONCE = 16


def run_decode(image):
    """-> (clean, text)"""
    text = io.StringIO()
    sys.argv = ["decode.py", image]
    try:
        with contextlib.redirect_stdout(text):
            _, img = decode.main()
        return not img.errors, text.getvalue()
    except Exception:  # a damaged image may break the walk itself
        return False, text.getvalue() + traceback.format_exc()


def run_thin_check(tools, image):
    """-> (exit status, text)"""
    done = subprocess.run([os.path.join(tools, "thin_check"), image], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def main():
    tools, images = sys.argv[1], sys.argv[2:]
    bad = 0
    with concurrent.futures.ThreadPoolExecutor(THIN_CHECKS_AT_ONCE) as pool:
        verdicts = [pool.submit(run_thin_check, tools, image) for image in images]
        for image, verdict in zip(images, verdicts):
            clean, text = run_decode(image)
            status, output = verdict.result()
            if clean and status == 0:
                print("ok", image)
                continue
            bad += 1
            print("BAD", image)
            print(f"thin_check: exit {status}\n{output}decode.py: "
                  f"{'clean' if clean else 'errors'}\n{'' if clean else text}")
    return 1 if bad or not images else 0


sys.exit(main())
