#!/usr/bin/env python3
"""Includes go downwards only: base <- io <- persistent_data <- thin_metadata <- pool <- replication
<- frontends <- tools; include/uthin includes nothing of src/; files of one folder do not include each
other in a circle; src/ does not include tests."""
import os
import posixpath
import re

import tree

LAYERS = ["base", "io", "persistent_data", "thin_metadata", "pool", "replication"]
MAY_USE = {layer: set(LAYERS[:i + 1]) for i, layer in enumerate(LAYERS)}
MAY_USE["frontends"] = set(LAYERS) | {"frontends"}
# The command line is a client of the control socket.
MAY_USE["tools"] = set(LAYERS) | {"frontends", "tools"}
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)
TEST_FOLDERS = {"support", "unit", "contract", "model", "crash", "fault", "regress", "tools"}


def includes(root, path):
    text = tree.blanked(tree.read(root, path), keep_strings=True)
    for match in INCLUDE.finditer(text):
        yield tree.line_of(text, match.start(1)), match.group(1)


def resolved(root, path, target):
    """the included file relative to root: beside the includer, in src/ or in include/"""
    for base in (posixpath.dirname(path), "src", "include"):
        candidate = posixpath.normpath(posixpath.join(base, target))
        if os.path.exists(os.path.join(root, candidate)):
            return candidate
    return None


def folder_of(path):
    parts = path.split("/")
    return parts[1] if parts[0] == "src" and len(parts) > 2 else None


def check_direction(root, path, line, target, found):
    own = folder_of(path)
    if path.startswith("include/"):
        if not target.startswith("uthin/") or (found and not found.startswith("include/")):
            yield path, line, f'a public header includes "{target}"'
    elif own not in MAY_USE:
        yield path, line, f"src/{own} is not a layer of tests/lint/layering_test.py"
    elif found is None:
        if target.split("/")[0] in TEST_FOLDERS - {"tools"} or target.startswith("tests/"):
            yield path, line, f'src/ includes a test\'s "{target}"'
    elif folder_of(found) and folder_of(found) not in MAY_USE[own]:
        yield path, line, f'{own} includes "{target}", which lies above it'


def find_cycles(graph):
    """one cycle for each strongly connected knot that a depth-first walk meets"""
    state, cycles = {}, []

    def walk(node, trail):
        state[node] = "open"
        for line, after in graph.get(node, ()):
            if state.get(after) == "open":
                cycles.append((node, line, trail[trail.index(after):] + [after]))
            elif after not in state:
                walk(after, trail + [after])
        state[node] = "done"

    for node in sorted(graph):
        if node not in state:
            walk(node, [node])
    return cycles


def checks_of(root):
    graph = {}
    for path in tree.files(root, ("include", "src")):
        for line, target in includes(root, path):
            found = resolved(root, path, target)
            yield from check_direction(root, path, line, target, found)
            if found:
                graph.setdefault(path, []).append((line, found))
    for path, line, trail in find_cycles(graph):
        yield path, line, "includes go in a circle: " + " -> ".join(trail)


PLANTED = [
    ("good", {"src/base/a.h": "", "src/io/b.h": '#include "base/a.h"\n#include "uthin/c.h"\n',
              "include/uthin/c.h": '#include "uthin/d.h"\n', "include/uthin/d.h": ""}, None),
    ("in a comment", {"src/base/a.h": '// #include "io/b.h"\n', "src/io/b.h": ""}, None),
    ("upwards", {"src/io/b.h": "", "src/base/a.cpp": '#include "io/b.h"\n'}, "lies above it"),
    ("frontends from pool", {"src/frontends/n/f.h": "",
                             "src/pool/p.cpp": '#include "frontends/n/f.h"\n'}, "lies above it"),
    ("relative", {"src/io/b.h": "", "src/base/a.cpp": '#include "../io/b.h"\n'}, "lies above it"),
    ("public", {"include/uthin/c.h": '#include "base/a.h"\n', "src/base/a.h": ""}, "public header"),
    ("circle", {"src/io/a.h": '#include "io/b.h"\n', "src/io/b.h": '#include "io/a.h"\n'}, "circle"),
    ("test helper", {"src/io/a.cpp": '#include "support/seed.h"\n'}, "a test's"),
    ("new folder", {"src/misc/a.h": "", "src/misc/b.cpp": '#include "misc/a.h"\n'}, "not a layer"),
]

tree.run(checks_of, PLANTED, "include direction and circles of include/ and src/")
