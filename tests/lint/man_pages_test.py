#!/usr/bin/env python3
"""Every thin_* tool has a manual page, it says what the tool's --help says, and man(1) can show it."""
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE = os.environ.get("UTHIN_SOURCE", os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
BIN = os.environ.get("UTHIN_BIN", os.path.join(SOURCE, "build/release/bin"))

sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("make_man", os.path.join(SOURCE, "scripts/make-man"))
make_man = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
loader.exec_module(make_man)


class ManPages(unittest.TestCase):
    def setUp(self):
        self.holder = tempfile.TemporaryDirectory()
        self.pages = os.path.join(self.holder.name, "pages")
        shutil.copytree(make_man.PAGES, self.pages)

    def tearDown(self):
        self.holder.cleanup()

    def change(self, tool, old, new):
        path = make_man.page_path(tool, self.pages)
        with open(path, encoding="utf-8") as page:
            text = page.read()
        self.assertIn(old, text)
        with open(path, "w", encoding="utf-8") as page:
            page.write(text.replace(old, new, 1))

    def test_the_pages_say_what_the_tools_say(self):
        self.assertEqual(list(make_man.faults_of(BIN)), [])

    def test_a_stale_page_is_found(self):
        for old, new, fault in (("Print help", "Print help!", "not what --help says"),
                                ("## Exit status", "## Status", "the sections are not"),
                                ("# thin_rmap(8)", "# thin_map(8)", "its title or name")):
            shutil.copy(make_man.page_path("thin_rmap", make_man.PAGES), self.pages)
            self.change("thin_rmap", old, new)
            faults = list(make_man.faults_of(BIN, self.pages))
            self.assertEqual(len(faults), 1)
            self.assertIn(fault, faults[0])

    def test_missing_pages_and_pages_of_no_tool_are_found(self):
        os.rename(make_man.page_path("thin_ls", self.pages), make_man.page_path("thin_lsof", self.pages))
        self.assertEqual(list(make_man.faults_of(BIN, self.pages)),
                         ["docs/man/thin_ls.8.md: missing", "docs/man/thin_lsof.8.md: there is no such tool"])

    def test_every_page_can_be_shown(self):
        for tool in make_man.tools_of(BIN):
            with self.subTest(tool=tool):
                roff = make_man.page_in_roff(tool, BIN)
                for section in (".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS", ".SH DESCRIPTION", ".SH EXIT STATUS"):
                    self.assertIn("\n" + section + "\n", roff)
                self.assertNotIn("`", roff)
                if shutil.which("groff"):
                    shown = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-Kutf8"], input=roff, text=True,
                                           capture_output=True, check=True)
                    self.assertEqual(shown.stderr, "")
                    self.assertIn(tool, shown.stdout)

    def test_what_roff_would_take_for_a_request_is_text(self):
        self.assertEqual(make_man.inline(".and `.so`"), "\\&.and \\fB\\&.so\\fR")
        self.assertEqual(make_man.inline("'a\\b-c"), "\\&'a\\eb\\-c")


if __name__ == "__main__":
    if not os.path.exists(os.path.join(BIN, "thin_tools")):
        sys.exit(77)
    unittest.main()
