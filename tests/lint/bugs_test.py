#!/usr/bin/env python3
"""The deliberate bugs of tests/bugs fit the sources: each original text is there exactly once, numbers
are unique, harnesses exist, and every ORDER comment of src/ has a bug near it or a stated reason."""
import glob
import os
import re
import sys

import tree

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../bugs"))
import bank  # noqa: E402

NEAR_LINES = 25


def suites(root):
    """"unit_pool" -> names like "Volume.Reads" of its tests"""
    found = {}
    for path in glob.glob(os.path.join(root, "tests/**/*_test.cpp"), recursive=True):
        folder = os.path.relpath(os.path.dirname(path), os.path.join(root, "tests")).replace("/", "_")
        text = tree.read(root, os.path.relpath(path, root))
        tests = re.findall(r"^(?:TYPED_)?TEST(?:_F|_P)?\(\s*(\w+),\s*(\w+)\)", text, re.M)
        found.setdefault(folder, set()).update(f"{suite}.{name}" for suite, name in tests)
    return found


def matches(pattern, test):
    # A test with parameters is called Group/Suite.Test/Value.
    suite, dot, name = pattern.partition(".")
    pattern = suite.rpartition("/")[2] + dot + name.partition("/")[0]
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(f"{expression}", test) is not None


def check_harnesses(bug, known):
    if not bug.harnesses:
        yield f"bug {bug.number} names no harness"
    for program, test_filter in bug.harnesses:
        if program not in known:
            yield f"bug {bug.number}: there is no program {program}_tests"
            continue
        for pattern in test_filter.split(":"):
            if not any(matches(pattern, test) for test in known[program]):
                yield f"bug {bug.number}: {program}_tests has no test {pattern}"


def check_orders(root, bugs, excuses):
    places = {}
    for bug in bugs:
        try:
            for begin, _, _, _ in bank.places_of(bug, tree.read(root, bug.file)):
                places.setdefault(bug.file, []).append(tree.line_of(tree.read(root, bug.file), begin))
        except bank.BankError:
            pass  # told already
    said = [(excuse.file, excuse.text) for excuse in excuses]
    said += [tuple(part.strip() for part in bug.order.split(":", 1)) for bug in bugs if bug.order]
    used = set()
    for path in tree.files(root, ("src",)):
        for number, line in enumerate(tree.read(root, path).splitlines(), 1):
            if "ORDER:" not in line:
                continue
            named = [one for one in said if one[0] == path and one[1] in line]
            used.update(named)
            near = any(abs(place - number) <= NEAR_LINES for place in places.get(path, []))
            if not named and not near:
                yield path, number, "no bug of tests/bugs breaks this order, and no reason is stated"
    for path, text in said:
        if (path, text) not in used:
            yield path, 1, f"tests/bugs tells of 'ORDER: {text}', which is not there"


def checks_of(root):
    try:
        bugs, excuses = bank.load(root)
    except bank.BankError as wrong:
        yield "tests/bugs", 1, str(wrong)
        return
    known = suites(root)
    numbers = [bug.number for bug in bugs]
    for bug in bugs:
        complaints = list(check_harnesses(bug, known))
        if numbers.count(bug.number) > 1 or bug.number <= 0:
            complaints.append(f"bug {bug.number} is there more than once")
        if not any(f"uthin_bug({bug.number})" in replace for _, replace in bug.edits):
            complaints.append(f"bug {bug.number} does not ask uthin_bug({bug.number})")
        for _, replace in bug.edits:
            for other in re.findall(r"uthin_bug\((\d+)\)", replace):
                if int(other) != bug.number:
                    complaints.append(f"bug {bug.number} asks for bug {other}")
        try:
            bank.places_of(bug, tree.read(root, bug.file))
        except bank.BankError as wrong:
            complaints.append(str(wrong))
        for complaint in complaints:
            yield bug.bank, 1, complaint
    for path in sorted({bug.file for bug in bugs}):
        try:
            bank.planted(tree.read(root, path), [bug for bug in bugs if bug.file == path])
        except bank.BankError as wrong:
            yield path, 1, str(wrong)
        if path.endswith(".h"):
            layer = path.split("/")[1]
            for user in tree.files(root):
                if f'"{path.removeprefix("src/")}"' in tree.read(root, user) and not user.startswith(f"src/{layer}/"):
                    yield user, 1, f"includes {path}, of which only {layer} gets the copy with bugs"
    yield from check_orders(root, bugs, excuses)


def bug_text(number=1, find="f();", harness="unit_x A.*", more=""):
    return (f"[[bug]]\nnumber = {number}\nstory = 's'\nfile = 'src/x/x.cpp'\nfind = '{find}'\n"
            f"replace = 'if (!uthin_bug({number})) f();'\nseen_by = ['{harness}']\n{more}\n")


SOURCE = "// ORDER: A1. First f.\nf();\ng();\n"
TEST = "TEST(A, B) {}\n"


def planted_tree(bugs, source=SOURCE):
    return {"tests/bugs/x.toml": bugs, "src/x/x.cpp": source, "tests/unit/x/x_test.cpp": TEST}


PLANTED = [
    ("good", planted_tree(bug_text()), None),
    ("text gone", planted_tree(bug_text(find="h();")), "0 times"),
    ("text twice", planted_tree(bug_text(), SOURCE + "f();\n"), "2 times"),
    ("number twice", planted_tree(bug_text() + bug_text(find="g();")), "more than once"),
    ("overlap", planted_tree(bug_text() + bug_text(2)), "overlaps"),
    ("wrong number", planted_tree(bug_text().replace("uthin_bug(1)", "uthin_bug(2)")), "does not ask"),
    ("no program", planted_tree(bug_text(harness="unit_y A.*")), "no program"),
    ("no test", planted_tree(bug_text(harness="unit_x C.*")), "has no test"),
    ("order without a bug", planted_tree(bug_text(), SOURCE + "\n" * 40 + "// ORDER: B2.\n"), "no reason"),
    ("order with a reason", planted_tree(
        bug_text() + "[[no_bug]]\nfile = 'src/x/x.cpp'\ntext = 'B2.'\nreason = 'r'\n",
        SOURCE + "\n" * 40 + "// ORDER: B2.\n"), None),
    ("reason without an order", planted_tree(
        bug_text() + "[[no_bug]]\nfile = 'src/x/x.cpp'\ntext = 'B2.'\nreason = 'r'\n"), "not there"),
]

if __name__ == "__main__":
    tree.run(checks_of, PLANTED, "the deliberate bugs fit the sources")
