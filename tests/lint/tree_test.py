#!/usr/bin/env python3
"""What lies in the tree belongs there: nothing large or binary outside tests/data, no stray files, each
header has its guard and a comment at its head, each test runs and has a source of the same stem (or
stands in tests/lint/tests_without_source.txt with the reason)."""
import os
import posixpath
import subprocess

import tree

LARGE_BYTES = 1_000_000
DATA_FOLDERS = ("tests/data/", "tests/fuzz/corpus/")
PICTURES = (".png", ".svg", ".ico")
STRAY_ENDINGS = ("~", ".orig", ".rej", ".bak", ".swp", ".o", ".a", ".so", ".pyc", ".log", ".tmp", ".img")
STRAY_NAMES = {"core", "a.out", "nohup.out", "vgcore"}
TOP = {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "LICENSE", "dev",
       "CMakeLists.txt", "CMakePresets.json", ".clang-format", ".clang-tidy", ".editorconfig",
       ".gitignore", ".gitattributes", ".ci", "include", "src", "tests", "fuzz", "bench", "sim", "docs",
       "scripts"}
LIST = "tests/lint/tests_without_source.txt"


def tracked(root):
    """what git has; every file where there is no repository (a planted tree, an unpacked archive)"""
    if os.path.exists(os.path.join(root, ".git")):
        out = subprocess.run(["git", "-c", f"safe.directory={root}", "ls-files", "-z"], cwd=root,
                             check=True, capture_output=True, text=True).stdout
        return [p for p in out.split("\0") if p and os.path.exists(os.path.join(root, p))]
    found = []
    for at, names, leaves in os.walk(root):
        names[:] = [n for n in names if n not in ("__pycache__", "build", ".cache", "demo-pool")]
        found += [os.path.relpath(os.path.join(at, f), root) for f in leaves]
    return sorted(found)


def check_file(root, path):
    full = os.path.join(root, path)
    name = posixpath.basename(path)
    if path.split("/")[0] not in TOP:
        yield path, 1, "stray: not an entry of the top folder (tests/lint/tree_test.py lists them)"
    if path.startswith(DATA_FOLDERS):
        return
    if name in STRAY_NAMES or name.endswith(STRAY_ENDINGS):
        yield path, 1, "stray file"
    if os.path.getsize(full) > LARGE_BYTES:
        yield path, 1, f"{os.path.getsize(full)} bytes outside tests/data"
    with open(full, "rb") as f:
        if b"\0" in f.read(65536) and not name.endswith(PICTURES):
            yield path, 1, "binary outside tests/data"


def check_header(root, path):
    text = tree.read(root, path)
    if "\n#pragma once\n" not in "\n" + text:
        yield path, 1, "header without #pragma once"
    if not text.startswith(("//", "/*")):
        yield path, 1, "header without a comment at its head"


def check_script(root, path):
    if not os.access(os.path.join(root, path), os.X_OK):
        yield path, 1, "test script is not executable"


def listed_tests(root):
    lines = tree.read(root, LIST).splitlines()
    return {line.split()[0]: n for n, line in enumerate(lines, 1) if line.strip() and line[0] != "#"}


def has_source(stem, stems):
    """a source called stem, or one that stem extends: pool_metadata_abort belongs to pool_metadata"""
    words = stem.split("_")
    return any("_".join(words[:n]) in stems for n in range(len(words), 0, -1))


def check_tests(root, paths):
    registered = tree.read(root, "tests/CMakeLists.txt").split()
    registered = {word.rstrip(")") for word in registered}
    sources = [p for p in paths if p.startswith(("src/", "include/", "tests/support/"))]
    stems = {posixpath.splitext(posixpath.basename(p))[0] for p in sources}
    listed, seen = listed_tests(root), set()
    for path in paths:
        if not path.startswith("tests/") or not path.endswith("_test.cpp"):
            continue
        folder = posixpath.dirname(path)[len("tests/"):]
        if folder not in registered:
            yield path, 1, f"never runs: tests/CMakeLists.txt does not name {folder}"
        stem = posixpath.basename(path)[:-len("_test.cpp")]
        if folder.startswith("unit/") and not has_source(stem, stems):
            seen.add(path)
            if path not in listed:
                yield path, 1, f"no source is called {stem}: rename the test or put it in {LIST}"
    for path in sorted(set(listed) - seen):
        yield LIST, listed[path], f"{path} needs no entry"


def checks_of(root):
    paths = tracked(root)
    for path in paths:
        yield from check_file(root, path)
        if path.endswith(".h"):
            yield from check_header(root, path)
        if path.startswith("tests/") and path.endswith(("_test.py", "_test.sh")):
            yield from check_script(root, path)
    yield from check_tests(root, paths)


HEADER = "// What it is.\n#pragma once\n"
CMAKE = {"tests/CMakeLists.txt": "foreach(folder unit/io\n crash)\n"}
PLANTED = [
    ("good", {**CMAKE, "src/io/a.h": HEADER, "tests/unit/io/a_test.cpp": "",
              "tests/unit/io/a_lock_test.cpp": "", "tests/crash/any_test.cpp": ""}, None),
    ("large", {"docs/a.md": "x" * 1_000_001}, "bytes outside tests/data"),
    ("binary", {"scripts/a": "x\0y"}, "binary outside tests/data"),
    ("stray at the top", {"notes.txt": "x"}, "stray: not an entry"),
    ("stray", {"src/io/a.cpp.orig": "x"}, "stray file"),
    ("no guard", {"src/io/a.h": "// A.\n"}, "without #pragma once"),
    ("no comment", {"src/io/a.h": "#pragma once\n"}, "without a comment"),
    ("no source", {**CMAKE, "tests/unit/io/b_test.cpp": ""}, "no source is called b"),
    ("listed", {**CMAKE, "tests/unit/io/b_test.cpp": "", LIST: "tests/unit/io/b_test.cpp why\n"}, None),
    ("stale entry", {**CMAKE, LIST: "tests/unit/io/b_test.cpp why\n"}, "needs no entry"),
    ("not registered", {**CMAKE, "tests/models/b_test.cpp": ""}, "never runs"),
    ("not executable", {"tests/tools/b_test.py": ""}, "not executable"),
]

tree.run(checks_of, PLANTED, "files of the tree")
