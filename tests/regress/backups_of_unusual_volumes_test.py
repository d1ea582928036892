#!/usr/bin/env python3
"""A backup of a device without size was damaged from the start; after a flatten each failed until --full; one of a
snapshot in use was noted as of that instead of its volume. Long names were cut within a character, so that no snapshot
could be made for a backup or a replica. (Found by reading.)"""
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from nbd_client import Client  # noqa: E402
from served_pool import BIN, ServedPool  # noqa: E402

UTHIN = os.path.join(BIN, "uthin")
MIB = 1 << 20
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run(*words, stdin=None):
    return subprocess.run([UTHIN, *words], check=True, stdout=subprocess.PIPE, input=stdin, timeout=120).stdout


def is_refused(*words):
    """With one line, and nothing on standard output."""
    done = subprocess.run([UTHIN, *words], capture_output=True, timeout=120)
    text = done.stderr.decode()
    assert done.returncode == 1 and text.count("\n") == 1 and done.stdout == b"", done
    return text


def names(pool):
    return sorted(volume["name"] for volume in json.loads(run("volume", "list", pool, "--json"))["volumes"])


def points(repository):
    found = json.loads(run("backup", "list", repository, "--json"))["backups"]
    with open(os.path.join(repository, "manifest.json"), encoding="utf-8") as text:
        stored = json.load(text)["points"]
    assert [point["number"] for point in stored] == [point["number"] for point in found]
    for point, again in zip(stored, found):
        assert (point["volume"], point["volume_uuid"]) == (again["volume"], again["volume_uuid"]), (point, again)
    return found


def holds(repository):
    """Every file, and what is in it."""
    found = {}
    for folder, _, files in os.walk(repository):
        for name in files:
            with open(os.path.join(folder, name), "rb") as file:
                found[name] = file.read()
    return found


def write(volume, offset, length=100_000):
    run("write", volume, "--offset", str(offset), stdin=os.urandom(length))


def make_pool(folder, name="pool"):
    pool = os.path.join(folder, name)
    run("pool", "create", pool, "--data-size", "32M", "--metadata-size", "2M")
    return pool


def a_device_without_size(folder):
    pool, repository = make_pool(folder), os.path.join(folder, "repository")
    run("volume", "create", f"{pool}/v", "--size", "1M")
    run("backup", f"{pool}/v", repository)
    run("message", pool, "create_thin 7")
    run("message", pool, "create_snap 8 7")
    before, volumes = holds(repository), names(pool)
    for device in ("thin-7", "thin-8"):
        for words in (("send",), ("backup",)):
            said = is_refused(*words, f"{pool}/{device}", *([repository] if words[0] == "backup" else []))
            assert device in said and "'uthin volume resize'" in said, said
    assert holds(repository) == before and names(pool) == volumes
    run("volume", "resize", f"{pool}/thin-7", "--size", "1M")
    write(f"{pool}/thin-7", 300_000)
    run("backup", f"{pool}/thin-7", repository)
    write(f"{pool}/thin-7", 500_000)
    run("backup", f"{pool}/thin-7", repository)
    run("backup", "verify", repository)
    run("restore", repository, f"{pool}/restored", "--volume", "thin-7")
    assert run("read", f"{pool}/restored") == run("read", f"{pool}/thin-7")
    run("pool", "check", pool)


def a_volume_that_was_flattened(folder):
    pool, repository, origin = make_pool(folder), os.path.join(folder, "repository"), os.path.join(folder, "origin")
    with open(origin, "wb") as file:
        file.write(os.urandom(4 * MIB))
    volume, wanted = f"{pool}/v", {}

    def back_up(number):
        run("backup", volume, repository)
        wanted[number] = run("read", volume)

    run("volume", "create", volume, "--external-origin", origin, "--size", "6M")
    write(volume, MIB)
    back_up(1)
    write(volume, 2 * MIB)
    back_up(2)
    run("flatten", volume)
    write(volume, 3 * MIB)
    back_up(3)
    write(volume, 5 * MIB)
    back_up(4)
    os.remove(origin)
    assert [bool(point["base"]) for point in points(repository)] == [False, True, False, True]
    run("backup", "verify", repository)
    for number, content in wanted.items():
        run("restore", repository, f"{pool}/r", "--point", str(number))
        assert run("read", f"{pool}/r") == content, f"backup {number}"
        run("volume", "delete", f"{pool}/r")
    run("restore", repository, f"{pool}/r", "--volume", "v")
    assert run("read", f"{pool}/r") == run("read", volume)
    run("volume", "delete", f"{pool}/r")
    assert len(names(pool)) == 2, names(pool)  # the volume, and the base of the next one
    run("pool", "check", pool)


def a_snapshot_in_use(folder):
    repository = os.path.join(folder, "repository")
    with ServedPool("backup-in-use", {"other": MIB, "v": 4 * MIB}) as pool:
        write(f"{pool.path}/v", 0)
        run("snapshot", "create", f"{pool.path}/v", "s")
        write(f"{pool.path}/v", MIB)
        run("backup", f"{pool.path}/other", repository)
        run("backup", f"{pool.path}/v", repository)
        volumes = names(pool.path)
        client = Client(pool.nbd, "s")
        assert len(client.read(0, 4096)) == 4096
        shown = json.loads(run("volume", "show", f"{pool.path}/s", "--json"))
        assert shown["in_use"] and shown["parent"] == "v", shown
        run("backup", f"{pool.path}/s", repository)
        uuid = json.loads(run("volume", "show", f"{pool.path}/v", "--json"))["uuid"]
        assert [point["volume"] for point in points(repository)] == ["other", "v", "v"]
        assert [point["volume_uuid"] == uuid for point in points(repository)] == [False, True, True]
        assert names(pool.path) == volumes, "a snapshot is left"
        run("backup", f"{pool.path}/other", repository)
        run("restore", repository, f"{pool.path}/restored", "--volume", "v")
        assert run("read", f"{pool.path}/restored") == run("read", f"{pool.path}/s")
        write(f"{pool.path}/v", 2 * MIB)
        run("backup", f"{pool.path}/v", repository)
        run("restore", repository, f"{pool.path}/again", "--volume", "v")
        assert run("read", f"{pool.path}/again") == run("read", f"{pool.path}/v")
        run("backup", "verify", repository)
        client.socket.close()
        pool.stop()
        pool.judge()


def names_that_are_cut(folder):
    pool, other, repository = make_pool(folder), make_pool(folder, "other"), os.path.join(folder, "repository")
    # 240 bytes; a character across byte 200 of backups, and one across byte 180 of replicas; four bytes each.
    for name in ("ä" * 120, "x" * 199 + "ä" + "y" * 30, "x" * 179 + "ä" + "z" * 30, "a" + "\N{GRINNING FACE}" * 60):
        volume = f"{pool}/{name}"
        run("volume", "create", volume, "--size", "1M")
        for offset in (0, 300_000):
            write(volume, offset)
            run("backup", volume, repository)
            run("replicate", volume, other, "--once")
        assert run("read", f"{other}/{name}") == run("read", volume), name
        run("restore", repository, f"{pool}/restored", "--volume", name)
        assert run("read", f"{pool}/restored") == run("read", volume), name
        run("volume", "delete", f"{pool}/restored")
        # The label that remembers a failure takes the beginning of what was said.
        nowhere = f"{folder}/{name}"
        is_refused("replicate", volume, nowhere, "--once")
        states = json.loads(run("replicate", volume, "--status", "--json"))["replicas"]
        error = [state["error"] for state in states if state["target"] == nowhere]
        assert len(error) == 1 and 490 < len(error[0].encode()) <= 500, states
    run("backup", "verify", repository)
    for one in (pool, other):
        run("pool", "check", one)


def main():
    for scenario in (a_device_without_size, a_volume_that_was_flattened, a_snapshot_in_use, names_that_are_cut):
        with tempfile.TemporaryDirectory(prefix="uthin-unusual.", dir=MEMORY) as folder:
            scenario(folder)
        print(f"{scenario.__name__.replace('_', ' ')}: ok")


main()
