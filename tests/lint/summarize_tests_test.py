#!/usr/bin/env python3
"""scripts/summarize-tests counts cases, not programs, and never loses a failure: results of ctest and
GoogleTest are written down here, and what it must say of them."""
import os
import subprocess
import sys
import tempfile

import tree

CTEST = '<testsuite>{}</testsuite>'
ENTRY = '<testcase name="{}" status="{}">{}<system-out>{}</system-out></testcase>'
SKIP_77 = '<skipped message="SKIP_RETURN_CODE=77"/>'
GTEST = '<testsuites><testsuite name="A">{}</testsuite></testsuites>'
RUN = '<testcase classname="A" name="{}" status="run" result="completed">{}</testcase>'
FAILURE = '<failure message="x">x</failure>'
SKIPPED = ('<testcase classname="A" name="s" status="run" result="skipped">'
           '<skipped message="a.cpp:3&#x0A;no device">x</skipped></testcase>')

# (what, {file: text}, ctest's status, exit status, pieces of the output, last line)
EXAMPLES = [
    ("all is well", {"ctest.xml": CTEST.format(ENTRY.format("a", "run", "", "")
                                               + ENTRY.format("script", "run", "", "")),
                     "a_tests.xml": GTEST.format(RUN.format("x", "") + RUN.format("y", "") + SKIPPED)},
     0, 0, ["SKIPPED: A.s: no device"], "3 passed, 0 failed, 1 skipped"),
    ("a case fails", {"ctest.xml": CTEST.format(ENTRY.format("a", "fail", "", "")),
                      "a_tests.xml": GTEST.format(RUN.format("x", "") + RUN.format("y", FAILURE))},
     8, 1, ["FAILED: A.y"], "1 passed, 1 failed, 0 skipped"),
    ("a program dies after its last case",
     {"ctest.xml": CTEST.format(ENTRY.format("a", "fail", "", "leak found")),
      "a_tests.xml": GTEST.format(RUN.format("x", ""))},
     8, 1, ["FAILED: a (the program: leak found)"], "1 passed, 1 failed, 0 skipped"),
    ("a program dies before it writes", {"ctest.xml": CTEST.format(ENTRY.format("a", "fail", "", ""))},
     8, 1, ["FAILED: a"], "0 passed, 1 failed, 0 skipped"),
    ("a result is cut short", {"ctest.xml": CTEST.format(ENTRY.format("a", "fail", "", "")),
                               "a_tests.xml": "<testsuites><test"},
     8, 1, ["FAILED: a"], "0 passed, 1 failed, 0 skipped"),
    ("a script skips", {"ctest.xml": CTEST.format(ENTRY.format("s", "notrun", SKIP_77, "x\nno kernel\n")
                                                  + ENTRY.format("t", "run", "", ""))},
     0, 0, ["SKIPPED: s: no kernel"], "1 passed, 0 failed, 1 skipped"),
    ("a program is missing", {"ctest.xml": CTEST.format(
        ENTRY.format("s", "notrun", '<skipped message="Unable to find executable"/>', ""))},
     8, 1, ["FAILED: s"], "0 passed, 1 failed, 0 skipped"),
    ("ctest itself breaks", {}, 3, 1, ["no result of ctest"], "0 passed, 1 failed, 0 skipped"),
    ("nothing ran", {"ctest.xml": CTEST.format("")}, 0, 1, [], "0 passed, 0 failed, 0 skipped"),
]


def main():
    command = os.path.join(tree.source_root(), "scripts", "summarize-tests")
    for what, files, ctest_status, status, pieces, last in EXAMPLES:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
                    f.write(text)
            done = subprocess.run([command, folder, str(ctest_status)], text=True, capture_output=True)
        good = (done.returncode == status and all(piece in done.stdout for piece in pieces)
                and done.stdout.splitlines()[-1] == last)
        if not good:
            sys.exit(f"{what}: status {done.returncode}, wanted {status} and '{last}':\n{done.stdout}"
                     f"{done.stderr}")
    print(f"counting of test cases; {len(EXAMPLES)} examples")


main()
