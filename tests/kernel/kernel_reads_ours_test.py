#!/usr/bin/env python3
"""Pools made by uthin are activated by a real kernel, and every sector of every thin is what was written.
Then the kernel writes, snapshots, discards and deletes, and uthin reads what it left behind."""
import hashlib
import os
import subprocess
import sys
import tempfile

import lab

BIN = os.environ.get("UTHIN_BIN", os.path.join(lab.SOURCE, "build", "release", "bin"))
PROGRAM = os.path.join(BIN, "uthin-test-pools")
ROUND_TRIPS = ("blocks-192k", "snapshots-of-snapshots", "metadata-snapshot-held", "discards", "rolled-back")
NEW_ID = 4711
SECTOR = 512


def sha256_of(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def make(folder):
    """-> [(name, block sectors, {thin id: sectors})]"""
    done = subprocess.run([PROGRAM, "make", folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    pools = []
    for line in done.stdout.splitlines():
        name, block_sectors, *thins = line.split()
        pools.append((name, int(block_sectors), {int(i): int(s) for i, s in (t.split(":") for t in thins)}))
    return pools


def check_images(images):
    tools = os.path.join(lab.SOURCE, ".cache", "thin-tools-1", "bin")
    if os.environ.get("UTHIN_NO_ORACLE") == "1":
        print("UTHIN_NO_ORACLE=1: images are not checked")
        return
    done = subprocess.run([os.path.join(lab.SOURCE, "tests", "support", "check_images.py"), tools, *images],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def stamp(content, sector, count, tag):
    """as `labio write` does"""
    for at in range(sector, sector + count):
        content[at * SECTOR:(at + 1) * SECTOR] = ((tag << 40) | at).to_bytes(8, "little") * (SECTOR // 8)


def kernel_work(first, block_sectors, thins, content):
    """-> (script, {thin id: what it must read as afterwards}); `content` is changed"""
    sectors = thins[first]
    begin = 5 * block_sectors
    second = sectors // 2 + 3
    script = [f"on {first} {sectors}", f"w {first} {block_sectors - 3} {2 * block_sectors} 901",
              f"snap {NEW_ID} {first}", f"w {first} {second} 300 902",
              f"disc {first} {begin} {2 * block_sectors}", f"off {first}"]
    stamp(content, block_sectors - 3, 2 * block_sectors, 901)
    snapshot = bytes(content)
    stamp(content, second, 300, 902)
    content[begin * SECTOR:(begin + 2 * block_sectors) * SECTOR] = bytes(2 * block_sectors * SECTOR)
    return "\n".join(script) + "\n", {first: bytes(content), NEW_ID: snapshot}


def round_trip(folder, name, block_sectors, thins):
    first = min(thins)
    with open(os.path.join(folder, f"t{first}.raw"), "rb") as f:
        content = bytearray(f.read())
    script, changed = kernel_work(first, block_sectors, thins, content)
    gone = max(thins)
    script += f"msg delete {gone}\n"
    thins = {thin: sectors for thin, sectors in thins.items() if thin != gone}
    thins[NEW_ID] = thins[first]
    expected = {thin: sha256_of(os.path.join(folder, f"t{thin}.raw")) for thin in thins if thin not in changed}
    expected |= {thin: hashlib.sha256(data).hexdigest() for thin, data in changed.items()}
    metadata, data = os.path.join(folder, "kernel-metadata"), os.path.join(folder, "kernel-data")
    found = lab.activate(lab.Pool(f"{folder}/metadata", f"{folder}/data", block_sectors), thins,
                         script=script, keep=(metadata, data))
    assert found.sha256 == expected, f"{name}: the kernel does not read what it wrote itself"
    for thin, sectors in thins.items():
        command = [PROGRAM, "read", metadata, data, str(thin), str(sectors)]
        done = subprocess.run(command, capture_output=True, check=True)
        assert hashlib.sha256(done.stdout).hexdigest() == expected[thin], f"{name}: thin {thin} differs"
    return metadata


def main():
    lab.require()
    with tempfile.TemporaryDirectory(prefix="uthin-kernel.") as work:
        pools = make(work)
        assert len(pools) >= 10, pools
        check_images([os.path.join(work, name, "metadata") for name, _, _ in pools])
        thin_count = sector_count = 0
        for name, block_sectors, thins in pools:
            folder = os.path.join(work, name)
            found = lab.activate(lab.Pool(f"{folder}/metadata", f"{folder}/data", block_sectors), thins)
            for thin in thins:
                raw = os.path.join(folder, f"t{thin}.raw")
                assert found.sha256[thin] == sha256_of(raw), f"{name}: thin {thin} differs"
            thin_count += len(thins)
            sector_count += sum(thins.values())
            print(f"{name}: the kernel reads {len(thins)} thins, {sum(thins.values())} sectors, as written",
                  flush=True)
        changed = []
        for name, block_sectors, thins in pools:
            if name in ROUND_TRIPS:
                changed.append(round_trip(os.path.join(work, name), name, block_sectors, thins))
                print(f"{name}: uthin reads what the kernel wrote into it", flush=True)
        assert len(changed) == len(ROUND_TRIPS)
        check_images(changed)
        print(f"{len(pools)} pools, {thin_count} thins, {sector_count} sectors; {len(changed)} round trips")


main()
