"""What the tests of the tree share: its files, comments and strings taken away, reports, self-tests.

Each test calls run(checks_of, planted): `checks_of(root)` yields (file, line, message) for a tree,
`planted` lists (name, {file: text}, expected piece of a message): trees in which the test must find
something, so that it is shown to be able to fail each time it runs."""
import os
import re
import sys
import tempfile

CODE_FOLDERS = ("include", "src", "tests", "fuzz", "bench", "sim")


def source_root():
    here = os.path.dirname(os.path.abspath(__file__))
    return os.environ.get("UTHIN_SOURCE", os.path.dirname(os.path.dirname(here)))


def files(root, folders=CODE_FOLDERS, endings=(".h", ".cpp")):
    """relative paths, sorted; what git ignores (build/, .cache/) is outside these folders"""
    found = []
    for folder in folders:
        for at, names, leaves in os.walk(os.path.join(root, folder)):
            names[:] = [n for n in names if n != "__pycache__"]
            found += [os.path.relpath(os.path.join(at, f), root) for f in leaves
                      if f.endswith(endings)]
    return sorted(found)


def read(root, path):
    """the text; empty when the file has gone meanwhile"""
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as f:
            return f.read()
    except FileNotFoundError:
        return ""


TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|'
                   r"(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'", re.S)


def blanked(text, keep_strings=False):
    """C++ with comments and literals turned into blanks; lines stay where they are"""
    def blank(match):
        token = match.group(0)
        if keep_strings and not token.startswith("/"):
            return token
        return re.sub(r"[^\n]", " ", token)
    return TOKEN.sub(blank, text)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def run(checks_of, planted, what):
    for name, tree, expected in planted:
        with tempfile.TemporaryDirectory() as folder:
            for path, content in tree.items():
                os.makedirs(os.path.dirname(os.path.join(folder, path)), exist_ok=True)
                with open(os.path.join(folder, path), "w", encoding="utf-8") as f:
                    f.write(content)
            found = list(checks_of(folder))
        if expected is None and found:
            sys.exit(f"self-test '{name}': a good tree was refused: {found}")
        if expected is not None and not any(expected in message for _, _, message in found):
            sys.exit(f"self-test '{name}': the planted violation was not found: {found}")
    problems = list(checks_of(source_root()))
    for path, line, message in problems:
        print(f"{path}:{line}: {message}")
    print(f"{what}; {len(planted)} self-tests; {len(problems)} problems")
    sys.exit(1 if problems else 0)
