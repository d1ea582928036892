#!/usr/bin/env python3
"""scripts/report-harnesses adds up what the harnesses print and never loses a violation: logs of programs are
written down here, and what it must say of them."""
import os
import subprocess
import sys
import tempfile

import tree

BEGIN = "seed: UTHIN_SEED=7\n"
END = "[  PASSED  ] 1 test.\n"
RUN = "[ RUN      ] A.x\n{}[       OK ] A.x (3 ms)\n"

# (what, the log, exit status, words of the row of A.x, pieces of the output)
EXAMPLES = [
    ("cases of a kind are added up",
     BEGIN + RUN.format("one: cuts=2 states=30 violations=0\ntwo: cuts=1 states=12 seconds=1.5 violations=0\n") + END,
     0, "42 states 7 0", ["in all, of 1 tests", ": 0 violations"]),
    ("operations may come first", BEGIN + RUN.format("80 operations, 64 KiB blocks: read=3\n") + END,
     0, "80 operations 7 0", []),
    ("operations that a shrunk failure needs are none", BEGIN + RUN.format("shrunk to 3 operations, seed 1\n") + END,
     0, "1 test 7 0", []),
    ("violations of a test that passed", BEGIN + RUN.format("one: states=30 violations=2\n") + END,
     1, "30 states 7 2", [": 2 violations"]),
    ("a test that failed", BEGIN + RUN.format("one: states=30 violations=0\n").replace("[       OK ]", "[  FAILED  ]")
     + END, 1, "30 states 7 1", [": 1 violations"]),
    ("a program that broke off", BEGIN + RUN.format("") + "[ RUN      ] A.y\none: states=9 violations=0\n",
     1, "1 test 7 0", ["A.y (did not end)", "its log has no end"]),
    ("a program that died behind its tests", BEGIN + RUN.format(""), 1, "1 test 7 0", ["its log has no end"]),
]


def main():
    command = os.path.join(tree.source_root(), "scripts", "report-harnesses")
    failures = []
    for what, log, status, row, pieces in EXAMPLES:
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "crash.log"), "w", encoding="utf-8") as f:
                f.write(log)
            ran = subprocess.run([command, "--logs", folder, "--bugs", os.path.join(folder, "none"), "crash"],
                                 capture_output=True, text=True, check=False)
        rows = [" ".join(line.split()[2:]) for line in ran.stdout.splitlines() if line.startswith("crash A.x ")]
        if ran.returncode != status or rows != [row] or any(piece not in ran.stdout for piece in pieces):
            failures.append(f"{what}: status {ran.returncode}\n{ran.stdout}{ran.stderr}")
    print("\n".join(failures) or f"{len(EXAMPLES)} logs")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
