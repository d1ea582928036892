#!/usr/bin/env python3
"""Every header compiles when it is the only thing included. For one that its own source includes before
anything else the build shows it; the others are compiled here. Results are kept in the build folder under
a hash of the header with all that it includes from the tree, so a second run takes no time."""
import concurrent.futures
import hashlib
import os
import re
import subprocess
import tempfile

import tree

COMPILER = os.environ.get("CXX", "g++-12")
FLAGS = ["-fsyntax-only", "-std=gnu++23", "-Iinclude", "-Isrc", "-Itests"]
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)


ANY_INCLUDE = re.compile(r'^\s*#\s*include\s*([<"][^>"]+[>"])', re.M)


def is_shown_by_the_build(root, path):
    source = path.removesuffix(".h") + ".cpp"
    if not os.path.exists(os.path.join(root, source)):
        return False
    first = ANY_INCLUDE.search(tree.read(root, source))
    return first is not None and first.group(1) == f'"{path.split("/", 1)[1]}"'


def closure(root, path, seen):
    """path and what it includes from the tree"""
    if path in seen:
        return
    seen.add(path)
    for target in INCLUDE.findall(tree.read(root, path)):
        for base in (os.path.dirname(path), "include", "src", "tests"):
            found = os.path.normpath(os.path.join(base, target))
            if os.path.exists(os.path.join(root, found)):
                closure(root, found, seen)
                break


def key_of(root, path):
    seen = set()
    closure(root, path, seen)
    digest = hashlib.sha256(repr([COMPILER, FLAGS, path]).encode())
    for part in sorted(seen):
        digest.update(part.encode() + b"\0" + tree.read(root, part).encode() + b"\0")
    return digest.hexdigest()


def compile_error(root, path):
    """None, or the compiler's first error"""
    folder = path.split("/")[0]
    name = path.split("/", 1)[1] if folder in ("include", "src", "tests") else path
    done = subprocess.run([COMPILER, *FLAGS, "-x", "c++", "-"], cwd=root, text=True,
                          input=f'#include "{name}"\n', capture_output=True)
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    return (errors or done.stderr.splitlines() or ["the compiler failed"])[0]


def checks_of(root, cache):
    os.makedirs(cache, exist_ok=True)
    headers = [(path, os.path.join(cache, key_of(root, path)))
               for path in tree.files(root, endings=(".h",)) if not is_shown_by_the_build(root, path)]
    todo = [(path, mark) for path, mark in headers if not os.path.exists(mark)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = pool.map(lambda item: compile_error(root, item[0]), todo)
        for (path, mark), error in zip(todo, outcomes):
            if error is None:
                open(mark, "w", encoding="utf-8").close()
            else:
                yield path, 1, "does not compile alone: " + error


PLANTED = [
    ("good", {"src/io/a.h": '#include <string>\n#include "b.h"\nstd::string f(b);\n',
              "src/io/b.h": "#pragma once\nstruct b {};\n"}, None),
    ("missing include", {"src/io/a.h": "std::string f();\n"}, "does not compile alone"),
    ("its own source first", {"src/io/a.h": "std::string f();\n", "src/io/a.cpp": '#include "io/a.h"\n'}, None),
    ("its own source, but not first", {"src/io/a.h": "std::string f();\n",
                                       "src/io/a.cpp": '#include <string>\n#include "io/a.h"\n'},
     "does not compile alone"),
]


def cached_checks(root):
    built = os.environ.get("UTHIN_BIN")
    if root == tree.source_root() and built:
        yield from checks_of(root, os.path.join(os.path.dirname(built), "lint-headers"))
    else:
        with tempfile.TemporaryDirectory(prefix="uthin-lint-") as cache:
            yield from checks_of(root, cache)


tree.run(cached_checks, PLANTED, f"headers compiled alone with {COMPILER}")
