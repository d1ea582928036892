#!/usr/bin/env python3
"""thin_shrink to XML put its result in the place of a symbolic link that it was given; what the link led to stayed as
it was. (Found by reading.)"""
import os
import subprocess
import tempfile

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
MIB = 1 << 20


def run(tool, *words, **options):
    return subprocess.run([os.path.join(BIN, tool), *words], check=True, stdout=subprocess.PIPE, timeout=60,
                          **options).stdout


def content(path):
    with open(path, "rb") as file:
        return file.read()


def main():
    with tempfile.TemporaryDirectory() as folder:
        pool, text, restored = (os.path.join(folder, name) for name in ("pool", "xml", "restored"))
        run("uthin", "pool", "create", pool, "--data-size", "16M", "--metadata-size", "2M")
        run("uthin", "volume", "create", f"{pool}/v", "--size", "8M")
        run("uthin", "write", f"{pool}/v", "--offset", "1M", input=b"x" * 3 * MIB)
        metadata = os.path.join(pool, "metadata")
        with open(text, "wb") as file:
            file.write(run("thin_dump", metadata))

        os.mkdir(os.path.join(folder, "there"))
        link, target = (os.path.join(folder, name) for name in ("link", "there/target"))
        os.symlink("there/target", link)
        names = sorted(os.listdir(folder))

        def write_through_the_link(tool, *words):
            with open(target, "wb") as file:
                file.write(b"what was here before")
            run(tool, *words, "-o", link)
            assert os.path.islink(link) and os.readlink(link) == "there/target", tool
            assert os.listdir(os.path.dirname(target)) == ["target"] and not os.path.islink(target), tool
            assert content(target) != b"what was here before", tool

        write_through_the_link("thin_shrink", "-q", "-i", text, "--no-copy", "--nr-blocks", "200")
        assert b'nr_data_blocks="200"' in content(target)
        with open(restored, "wb") as file:
            file.truncate(2 * MIB)
        run("thin_restore", "-i", target, "-o", restored)
        run("thin_check", restored)
        os.unlink(restored)

        write_through_the_link("thin_metadata_pack", "-i", metadata)
        run("thin_metadata_unpack", "-i", target, "-o", restored)
        assert run("thin_dump", restored) == content(text), "another pack"
        os.unlink(restored)
        assert sorted(os.listdir(folder)) == names
        run("uthin", "pool", "check", pool)


main()
