#!/usr/bin/env python3
"""docs/scenarios.md names tests that exist, and at least 150 of them; a scenario that announces a
difference from the kernel ("!Dn") is explained in docs/kernel-differences.md, and has been recorded."""
import os
import re

import tree

TABLE = "docs/scenarios.md"
DIFFERENCES = "docs/kernel-differences.md"
SCENARIOS = "tests/data/scenarios"
MAPPED_MIN = 150


def fault_of(root, word):
    """what is wrong with one name of a test, or None"""
    if word.startswith("scenario:"):
        path = f"{SCENARIOS}/{word[len('scenario:'):]}.scenario"
        return None if os.path.exists(os.path.join(root, path)) else f"there is no {path}"
    path, _, test = word.partition(":")
    if not os.path.exists(os.path.join(root, path)):
        return f"there is no {path}"
    suite, _, name = test.partition(".")
    if test and not re.search(rf"TEST(_F|_P)?\({suite},\s*{name}\)", tree.read(root, path)):
        return f"{path} has no test {test}"
    return None


def check_table(root, mapped_min):
    mapped = 0
    for number, line in enumerate(tree.read(root, TABLE).splitlines(), 1):
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != 4 or cells[1] in ("theirs", "---"):
            continue
        words = re.findall(r"`([^`]+)`", cells[2])
        if not words and not cells[2].startswith("none: "):
            yield TABLE, number, f"neither a test nor a reason: {cells[1]}"
        mapped += 1 if words else 0
        for word in words:
            fault = fault_of(root, word)
            if fault:
                yield TABLE, number, fault
    if mapped < mapped_min:
        yield TABLE, 1, f"{mapped} scenarios have a test, {mapped_min} should"


def check_differences(root):
    explained = set(re.findall(r"^\| (D\d+) \|", tree.read(root, DIFFERENCES), re.M))
    for path in tree.files(root, ("tests/data",), (".scenario",)):
        if not path.startswith(SCENARIOS):
            continue
        for number, line in enumerate(tree.read(root, path).splitlines(), 1):
            announced = re.match(r"\s*[!?](\w+)", line)
            if announced and announced.group(1) not in explained:
                yield path, number, f"{DIFFERENCES} does not explain {announced.group(1)}"
        record = path[:-len(".scenario")] + ".kernel"
        if not os.path.exists(os.path.join(root, record)):
            yield path, 1, "no outcome of a kernel: tests/kernel/scenarios_test.py --record"


def checks_of(root):
    # A planted tree is small.
    small = not os.path.exists(os.path.join(root, "CMakeLists.txt"))
    yield from check_table(root, 0 if small else MAPPED_MIN)
    yield from check_differences(root)


HEAD = "| theirs | ours |\n| --- | --- |\n"
WHY = "| D5 | x | y |\n"
PLANTED = [
    ("good", {TABLE: HEAD + "| a | `scenario:s`, `tests/u/a_test.cpp:A.B` |\n| b | none: why |\n",
              "tests/u/a_test.cpp": "TEST(A, B) {}", DIFFERENCES: WHY,
              f"{SCENARIOS}/s.scenario": "!D5=0 flush t0\n", f"{SCENARIOS}/s.kernel": ""}, None),
    ("no scenario", {TABLE: HEAD + "| a | `scenario:s` |\n"}, "there is no tests/data/scenarios/s.scenario"),
    ("no file", {TABLE: HEAD + "| a | `tests/u/b_test.cpp` |\n"}, "there is no tests/u/b_test.cpp"),
    ("no test", {TABLE: HEAD + "| a | `tests/u/a_test.cpp:A.C` |\n", "tests/u/a_test.cpp": "TEST(A, B) {}"},
     "has no test A.C"),
    ("nothing", {TABLE: HEAD + "| a | |\n"}, "neither a test nor a reason"),
    ("not explained", {f"{SCENARIOS}/s.scenario": "?D7 status p\n", f"{SCENARIOS}/s.kernel": ""},
     "does not explain D7"),
    ("not recorded", {f"{SCENARIOS}/s.scenario": "status p\n"}, "no outcome of a kernel"),
]

tree.run(checks_of, PLANTED, "docs/scenarios.md and the scenarios themselves")
