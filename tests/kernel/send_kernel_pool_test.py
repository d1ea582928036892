#!/usr/bin/env python3
"""Pools that a kernel made, with a metadata snapshot held, are sent into a pool of uthin with other blocks; the
real kernel activates that one and reads every thin as it read the original."""
import json
import os
import subprocess
import tempfile

import lab

BIN = os.environ.get("UTHIN_BIN", os.path.join(lab.SOURCE, "build", "release", "bin"))
UTHIN = os.path.join(BIN, "uthin")
CORPUS = os.path.join(lab.SOURCE, "tests", "data", "corpus")
POOLS = ("metasnap-held", "k612-metasnap-held")


def uthin(*words):
    done = subprocess.run([UTHIN, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def volumes_of(pool):
    return json.loads(uthin("volume", "list", pool, "--json"))["volumes"]


def send(work, name, read_only):
    """-> thins compared"""
    source = os.path.join(CORPUS, name)
    with open(os.path.join(source, "scenario.json"), encoding="utf-8") as f:
        block_sectors = json.load(f)["block_sectors"]
    folder = os.path.join(work, f"{name}-{read_only}")
    os.mkdir(folder)
    for image in ("metadata.img", "data.img"):
        subprocess.run(["zstd", "-dq", f"{source}/{image}.zst", "-o", f"{folder}/{image}"], check=True)
    adopted, target = f"{folder}/adopted", f"{folder}/target"
    flags = ["--read-only"] if read_only else []
    uthin("pool", "adopt", adopted, "--metadata", f"{folder}/metadata.img", "--data", f"{folder}/data.img", *flags)
    held = uthin("pool", "metadata-snapshot", adopted, "show")
    assert any(c.isdigit() for c in held), held
    # An adopted thin that maps nothing has no length, and the kernel activates none of length 0.
    thins = {v["dev_id"]: v["size"] // 512 for v in volumes_of(adopted) if v["size"]}
    assert thins, name
    original = lab.activate(lab.Pool(f"{folder}/metadata.img", f"{folder}/data.img", block_sectors), thins)
    uthin("pool", "create", target, "--data-size", "128M", "--metadata-size", "2M", "--block-size", "192K")
    for thin in thins:
        command = f"set -o pipefail; {UTHIN} send {adopted}/thin-{thin} | {UTHIN} receive {target}/copy-{thin}"
        subprocess.run(["bash", "-c", command], check=True, stdout=subprocess.DEVNULL)
    assert uthin("pool", "metadata-snapshot", adopted, "show") == held, "the metadata snapshot was not left alone"
    copies = {v["name"]: v for v in volumes_of(target)}
    assert set(copies) == {f"copy-{thin}" for thin in thins}, copies
    uthin("pool", "release", target)
    wanted = {copies[f"copy-{thin}"]["dev_id"]: (thin, sectors) for thin, sectors in thins.items()}
    found = lab.activate(lab.Pool(f"{target}/metadata", f"{target}/data", 384),
                         {copy: sectors for copy, (_, sectors) in wanted.items()})
    for copy, (thin, sectors) in wanted.items():
        assert found.sha256[copy] == original.sha256[thin], f"{name}: thin {thin} differs"
        print(f"{name}{' (read-only)' if read_only else ''}: the kernel reads {sectors} sectors of the copy of thin "
              f"{thin} as in the original", flush=True)
    return len(thins)


def main():
    lab.require()
    with tempfile.TemporaryDirectory(prefix="uthin-kernel.") as work:
        count = sum(send(work, name, read_only) for name in POOLS for read_only in (False, True))
    assert count >= len(POOLS)


main()
