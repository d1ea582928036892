#!/usr/bin/env python3
"""The soak in small: a few seconds of it find nothing, and it sees bytes that somebody else wrote. In the
long tier six minutes of it, enough for memory and descriptors to be judged."""
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
HOURS = "0.1" if int(os.environ.get("UTHIN_TIER", "0")) else "0.0015"


def soak(*arguments):
    done = subprocess.run([sys.executable, os.path.join(HERE, "soak.py"), *arguments], capture_output=True,
                          text=True, check=False)
    print(done.stdout, done.stderr, sep="", flush=True)
    return done


def main():
    done = soak(HOURS)
    if done.returncode != 0 or "violations=0" not in done.stdout:
        sys.exit("the soak found something")
    if not int(re.search(r" restarts=(\d+)", done.stdout).group(1)) or " requests=0 " in done.stdout:
        sys.exit("the soak did nothing")
    if HOURS == "0.1" and "rss_last_quarter" not in done.stdout:
        sys.exit("memory was not judged")
    done = soak("0.0006", "--damage")
    if done.returncode != 1 or "torn or foreign bytes" not in done.stdout:
        sys.exit("the soak does not see foreign bytes")
    print("ok")


main()
