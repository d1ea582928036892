#!/usr/bin/env python3
"""The kernel lab itself: two pools of the corpus are activated by a real kernel, and each thin reads as
the map that was taken when it was made: by map, by content and by checksum."""
import hashlib
import json
import os
import subprocess
import sys
import tempfile

import lab

CORPUS = os.path.join(lab.SOURCE, "tests", "data", "corpus")
MIXED = 0xFFFFFFFF


def unpack(name, to):
    subprocess.run(["zstd", "-dqf", "--sparse", os.path.join(CORPUS, name), "-o", to], check=True)
    return to


def maps_of(scenario):
    """{thin id: text of its map}"""
    path = os.path.join(CORPUS, scenario, "maps.txt")
    command = ["zstd", "-dcq", path + ".zst"] if os.path.exists(path + ".zst") else ["cat", path]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    maps = {}
    for part in text.split("thin ")[1:]:
        head, body = part.split("\n", 1)
        maps[int(head)] = body
    return maps


def size_of(text):
    begin, length = text.splitlines()[-1].split()[:2]
    return int(begin) + int(length)


def content_of(text):
    """all bytes of a thin, from its map"""
    parts = []
    for line in text.splitlines():
        begin, length, tag, delta = map(int, line.split())
        assert tag != MIXED, "the scenario was chosen without mixed sectors"
        if tag == 0:
            parts.append(bytes(length * 512))
        else:
            parts += [((tag << 40) | (at + delta)).to_bytes(8, "little") * 64
                      for at in range(begin, begin + length)]
    return b"".join(parts)


def check(scenario, work):
    with open(os.path.join(CORPUS, scenario, "scenario.json"), encoding="utf-8") as f:
        facts = json.load(f)
    maps = maps_of(scenario)
    thins = {thin: size_of(text) for thin, text in sorted(maps.items())[:4]}
    pool = lab.Pool(unpack(f"{scenario}/metadata.img.zst", f"{work}/metadata"),
                    unpack(f"{scenario}/data.img.zst", f"{work}/data"), facts["block_sectors"],
                    features=facts["features"])
    if "extra.img" in facts["sha256"]:
        pool.external_origin = unpack(f"{scenario}/extra.img.zst", f"{work}/origin")
    by_map = lab.activate(pool, thins, read="map").maps
    found = lab.activate(pool, thins)
    raw = lab.activate(pool, thins, read="raw", out_dir=work).raw
    for thin in thins:
        expected = content_of(maps[thin])
        assert by_map[thin] == maps[thin], f"{scenario} thin {thin}: the map differs"
        digest = hashlib.sha256(expected).hexdigest()
        assert found.sha256[thin] == digest, f"{scenario} thin {thin}: the checksum differs"
        with open(raw[thin], "rb") as f:
            assert f.read() == expected, f"{scenario} thin {thin}: the content differs"
        assert f"t{thin}: 0 {thins[thin]} thin " in found.status, found.status
    print(f"{scenario}: {len(thins)} thins read as their maps say")


def check_failure_shows(work):
    """a damaged superblock: the guest's refusal must come back as an error"""
    with open(f"{work}/metadata", "r+b") as f:
        f.seek(40)
        f.write(b"\xff\xff")
    try:
        lab.activate(lab.Pool(f"{work}/metadata", f"{work}/data", 128), {})
    except lab.LabError as error:
        assert "failed: run dmsetup create pool" in str(error), str(error)
        print("a damaged superblock is refused, and the refusal comes back")
        return
    sys.exit("the kernel activated a pool with a damaged superblock")


def main():
    lab.require()
    for scenario in ("snap-break-64k", "external-origin-192k"):
        with tempfile.TemporaryDirectory() as work:
            check(scenario, work)
    with tempfile.TemporaryDirectory() as work:
        unpack("fresh-64k/metadata.img.zst", f"{work}/metadata")
        unpack("fresh-64k/data.img.zst", f"{work}/data")
        check_failure_shows(work)


main()
