#!/usr/bin/env python3
"""Only src/base knows time, randomness and threads, only src/io makes device calls: that is what makes
the simulator possible. Unfinished or switched-off work is nowhere."""
import re

import tree

UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX)\b|\bDISABLED_\w*")
# (pattern, folders of src/ where it is at home)
CALLS = [
    (re.compile(r"\bclock_gettime\b|\bgettimeofday\b|\bstd::chrono::\w+_clock\b"), ["base"]),
    (re.compile(r"\bs?rand\s*\(|\bstd::random_device\b|\bstd::mt19937\w*"), ["base"]),
    (re.compile(r"\bstd::j?thread\b|\bstd::this_thread\b|\bstd::async\b|\bpthread_create\b"),
     ["base"]),
    (re.compile(r"\bp(?:read|write)v?2?(?:64)?\s*\(|\bf(?:data)?sync\s*\(|\bio_uring\w*|"
                r"\bfallocate\s*\("), ["io"]),
    (re.compile(r"\bstd::(?:cout|cerr|clog|endl)\b|#\s*include\s*<iostream>"), []),
]


# Uses with a reason: {file: pieces of the banned text that it may hold}. Only shrinks.
EXCEPTIONS = {}


def checks_of(root):
    for path in tree.files(root, endings=(".h", ".cpp", ".py", ".sh", ".txt")):
        if path.startswith("tests/lint/"):
            continue  # speaks of these words
        text = tree.read(root, path)
        for match in UNFINISHED.finditer(text):
            yield path, tree.line_of(text, match.start()), f"unfinished work: {match.group(0)}"
    for path in tree.files(root, ("include", "src")):
        text = tree.blanked(tree.read(root, path))
        parts = path.split("/")
        for pattern, homes in CALLS:
            if parts[0] == "src" and parts[1] in homes:
                continue
            for match in pattern.finditer(text):
                word = match.group(0).strip()
                if any(word.startswith(w) for w in EXCEPTIONS.get(path, ())):
                    continue
                home = " and ".join(f"src/{h}" for h in homes) or "nowhere in src"
                yield path, tree.line_of(text, match.start()), f"{word} is at home in {home}"


PLANTED = [
    ("good", {"src/base/clock.cpp": "clock_gettime(x);", "src/io/f.cpp": "::pread(1, b, 2, 3);",
              "src/pool/p.cpp": "// std::thread is not used, nor fsync(\nint operand(int);\n"
                                'const char* s = "fsync(fd)";'}, None),
    ("time", {"src/pool/p.cpp": "auto t = std::chrono::steady_clock::now();"}, "src/base"),
    ("randomness", {"src/thin_metadata/p.cpp": "int x = rand();"}, "src/base"),
    ("thread", {"src/pool/p.h": "std::thread t;"}, "src/base"),
    ("device call", {"src/persistent_data/p.cpp": "::fdatasync(fd);"}, "src/io"),
    ("io_uring above io", {"src/pool/p.cpp": "io_uring_prep_read(a);"}, "src/io"),
    ("iostreams", {"src/tools/t.cpp": "#include <iostream>\n"}, "nowhere in src"),
    ("unfinished", {"tests/unit/io/a_test.cpp": "// TO" "DO later\n"}, "unfinished work"),
    ("switched off", {"tests/unit/io/a_test.cpp": "TEST(A, DISABLED_b) {}\n"}, "unfinished work"),
]

tree.run(checks_of, PLANTED, "banned words in include/, src/ and tests/")
