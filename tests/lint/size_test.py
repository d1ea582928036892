#!/usr/bin/env python3
"""Files fit in 800 lines, C++ lines in 100 columns, functions on a screen of 70 lines. Longer functions
stand in tests/lint/long_functions.txt as "path name lines"; that list only shrinks."""
import re

import tree

FILE_LINES_MAX, COLUMNS_MAX, FUNCTION_LINES_MAX, DEV_LINES_MAX = 800, 100, 70, 199
LIST = "tests/lint/long_functions.txt"
SCOPE = re.compile(r"^(?:template\s*<[^{]*>\s*)?(?:inline\s+)?(?:namespace|class|struct|union|extern)\b")
DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.M)
CONTROL = {"if", "for", "while", "switch", "catch", "noexcept", "alignas", "decltype", "requires"}


def name_of(header):
    test = re.match(r"\s*(\w*TEST\w*|BENCHMARK\w*)\s*\(([^)]*)\)", header)
    if test:
        return re.sub(r"\s+", "", f"{test.group(1)}({test.group(2)})")
    for match in re.finditer(r"([\w:~]+|operator[^\s(]*)\s*\(", header):
        if match.group(1) not in CONTROL:
            return match.group(1)
    return "?"


def functions(text):
    """(name, first line, number of lines) of each function body outside other functions. The tree is
    formatted code, so that braces and semicolons alone are enough to tell."""
    text = DIRECTIVE.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), tree.blanked(text))
    stack, start = [], 0
    for match in re.finditer(r"[{};]", text):
        at, char = match.start(), match.group(0)
        if char == "{":
            header = text[start:at]
            begin = start + len(header) - len(header.lstrip())
            inside = any(kind == "function" for kind, _, _ in stack)
            if SCOPE.match(header.strip()) and not inside:
                stack.append(("scope", begin, ""))
            elif "(" in header and "=" not in header.split("(")[0] and not inside:
                stack.append(("function", begin, name_of(header)))
            else:
                stack.append(("other", begin, ""))
        elif char == "}" and stack:
            kind, begin, name = stack.pop()
            if kind == "function":
                first = tree.line_of(text, begin)
                yield name, first, tree.line_of(text, at) - first + 1
        start = at + 1


def listed_functions(root):
    listed = {}
    for number, line in enumerate(tree.read(root, LIST).splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            path, name, lines = line.split()
            listed[path, name] = (number, int(lines))
    return listed


def check_functions(root, path, text, listed, seen):
    for name, line, lines in functions(text):
        if lines <= FUNCTION_LINES_MAX:
            continue
        seen.add((path, name))
        allowed = listed.get((path, name), (0, FUNCTION_LINES_MAX))[1]
        if lines > allowed:
            yield path, line, f"function {name} has {lines} lines, more than {allowed}"
        elif lines < allowed:
            yield LIST, listed[path, name][0], f"{name} has shrunk to {lines} lines: so must its entry"


def checks_of(root):
    listed, seen = listed_functions(root), set()
    for path in tree.files(root, endings=(".h", ".cpp", ".py", ".sh")):
        text = tree.read(root, path)
        count = text.count("\n")
        if count > FILE_LINES_MAX:
            yield path, count, f"{count} lines, more than {FILE_LINES_MAX}"
        if not path.endswith((".h", ".cpp")):
            continue
        for number, line in enumerate(text.split("\n"), 1):
            if len(line) > COLUMNS_MAX:
                yield path, number, f"{len(line)} columns, more than {COLUMNS_MAX}"
        yield from check_functions(root, path, text, listed, seen)
    for path, name in sorted(set(listed) - seen):
        yield LIST, listed[path, name][0], f"{path} {name} is not too long any more: take it out"
    count = tree.read(root, "dev").count("\n")
    if count > DEV_LINES_MAX:
        yield "dev", count, f"{count} lines, more than {DEV_LINES_MAX}"


def body(lines):
    return "".join(f"    f({i});\n" for i in range(lines))


LONG = "namespace a {\nint b::long_one(int c) const {\n" + body(80) + "}\n}\n"
PLANTED = [
    ("good", {"src/io/a.cpp": "namespace a {\nclass b : c {\n" + "    int f() { return 1; }\n" * 90
              + "};\nint x[] = {\n" + "    1,\n" * 90 + "};\nint g() {\n" + body(68) + "}\n}\n"}, None),
    ("long function", {"src/io/a.cpp": LONG}, "function b::long_one has 82 lines"),
    ("long test", {"tests/unit/io/a_test.cpp": "TEST(A, B) {\n" + body(75) + "}\n"}, "TEST(A,B)"),
    ("listed", {"src/io/a.cpp": LONG, LIST: "src/io/a.cpp b::long_one 82\n"}, None),
    ("grown", {"src/io/a.cpp": LONG, LIST: "src/io/a.cpp b::long_one 81\n"}, "more than 81"),
    ("shrunk", {"src/io/a.cpp": LONG, LIST: "src/io/a.cpp b::long_one 90\n"}, "so must its entry"),
    ("gone", {"src/io/a.cpp": "", LIST: "src/io/a.cpp b::long_one 90\n"}, "take it out"),
    ("long file", {"src/io/a.h": "\n" * 801}, "801 lines"),
    ("wide line", {"src/io/a.h": "// " + "x" * 98 + "\n"}, "101 columns"),
    ("long dev", {"dev": "\n" * 200}, "200 lines"),
]

tree.run(checks_of, PLANTED, "sizes of files, lines and functions")
