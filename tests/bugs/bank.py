#!/usr/bin/env python3
"""The bank of deliberate bugs: reads tests/bugs/*.toml and plants the bugs in copies of the sources.

    bank.py write ROOT OUT    writes OUT/<path> for each source with bugs, prints the paths

A copy is rewritten only when its text changes, so that a build compiles what is new."""
import glob
import os
import sys
import tomllib
from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    number: int
    story: str
    file: str        # path from the root of the tree
    edits: tuple     # pairs: the original text, which is there exactly once, and what replaces it
    harnesses: tuple  # pairs: a test program without "_tests", and a filter of its tests
    hang: bool = False  # not to end is a way of being seen
    order: str = ""     # "path: text" of the ORDER comment that it breaks, where that is not near
    bank: str = ""      # the file that lists it


@dataclass(frozen=True)
class Excuse:
    """an ORDER comment without a bug, and why"""
    file: str
    text: str
    reason: str
    bank: str = ""


class BankError(Exception):
    pass


def harness_of(text):
    """"unit_pool Volume.*" is the filter Volume.* of the program unit_pool_tests"""
    program, _, test_filter = text.partition(" ")
    if not program or not test_filter:
        raise BankError(f"'{text}' is not 'PROGRAM FILTER'")
    return program, test_filter


def load(root):
    """all bugs by number, and the excuses"""
    bugs, excuses = [], []
    for path in sorted(glob.glob(os.path.join(root, "tests/bugs/*.toml"))):
        name = os.path.relpath(path, root)
        with open(path, "rb") as f:
            try:
                table = tomllib.load(f)
            except tomllib.TOMLDecodeError as wrong:
                raise BankError(f"{name}: {wrong}") from wrong
        for one in table.get("bug", []):
            try:
                edits = [(edit["find"], edit["replace"]) for edit in [one, *one.get("also", [])]]
                bugs.append(Bug(one["number"], one["story"], one["file"], tuple(edits),
                                tuple(harness_of(h) for h in one["seen_by"]), one.get("hang", False),
                                one.get("order", ""), name))
            except KeyError as missing:
                raise BankError(f"{name}: bug {one.get('number', '?')} lacks {missing}") from missing
        excuses += [Excuse(one["file"], one["text"], one["reason"], name)
                    for one in table.get("no_bug", [])]
    return sorted(bugs, key=lambda bug: bug.number), excuses


def places_of(bug, text):
    """where in `text` the edits of the bug go: (begin, end, bug, replacement)"""
    places = []
    for find, replace in bug.edits:
        if text.count(find) != 1:
            first = find.strip().splitlines()[0]
            raise BankError(f"{bug.bank}: bug {bug.number}: '{first}...' is in {bug.file} "
                            f"{text.count(find)} times, not once")
        begin = text.index(find)
        places.append((begin, begin + len(find), bug, replace))
    return places


def planted(text, bugs):
    """`text` of a file with the bugs in it"""
    places = sorted((place for bug in bugs for place in places_of(bug, text)), key=lambda place: place[0])
    at, pieces = 0, []
    for begin, end, bug, replace in places:
        if begin < at:
            raise BankError(f"{bug.bank}: bug {bug.number} overlaps another one of {bug.file}")
        pieces += [text[at:begin], replace]
        at = end
    return "".join(pieces) + text[at:]


def write(root, out):
    bugs, _ = load(root)
    here = os.path.join(root, "tests/bugs/uthin_bug.h")
    for path in sorted({bug.file for bug in bugs}):
        source = os.path.join(root, path)
        with open(source, encoding="utf-8") as f:
            text = planted(f.read(), [bug for bug in bugs if bug.file == path])
        text = f'#include "{here}"\n' + text
        copy = os.path.join(out, path)
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        old = open(copy, encoding="utf-8").read() if os.path.exists(copy) else None
        if text != old:
            with open(copy, "w", encoding="utf-8") as f:
                f.write(text)
        print(path)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] != "write":
        sys.exit(__doc__)
    try:
        write(os.path.abspath(sys.argv[2]), sys.argv[3])
    except BankError as wrong:
        sys.exit(f"bugs: {wrong}")
