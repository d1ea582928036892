#!/usr/bin/env python3
"""uthin replicate deleted its new snapshot whenever the other side's end was not heard, also where that had published
it and only its word was lost: the replica was on a snapshot that the source had no more, and no round went on from
there, for ever. (Found by reading.)"""
import json
import os
import subprocess
import tempfile

BIN = os.environ.get("UTHIN_BIN", "build/release/bin")
UTHIN = os.path.join(BIN, "uthin")
MIB = 1 << 20
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# As ssh: a host and a line for its shell. What is in the folder `faults` happens to one receiver each: the connection
# is lost after its last step, or after so many bytes of the stream.
SSH = """#!/bin/sh
[ "$1" = host ] || exit 254
case "$2" in *" 'receive' "*)
    for fault in FAULTS/*; do
        [ -e "$fault" ] || break
        bytes=$(cat "$fault")
        rm "$fault"
        if [ "$bytes" ]; then
            head -c "$bytes" | sh -c "$2"
            exit 255
        fi
        sh -c "$2" && touch FOLDER/published
        exit 255
    done ;;
esac
exec sh -c "$2"
"""


def run(*words, stdin=None):
    return subprocess.run([UTHIN, *words], check=True, stdout=subprocess.PIPE, input=stdin).stdout


class Pair:
    """Two pools and a line between them."""

    def __init__(self, folder):
        self.folder = folder
        self.here, self.there, self.faults = (os.path.join(folder, name) for name in ("here", "there", "faults"))
        os.mkdir(self.faults)
        ssh = os.path.join(folder, "ssh")
        with open(ssh, "w") as script:
            script.write(SSH.replace("FAULTS", self.faults).replace("FOLDER", folder))
        os.chmod(ssh, 0o755)
        self.environment = dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}")
        for pool in (self.here, self.there):
            run("pool", "create", pool, "--data-size", "32M", "--metadata-size", "2M")
        run("volume", "create", f"{self.here}/v", "--size", "16M")

    def change(self, byte, length=100_000):
        run("write", f"{self.here}/v", "--offset", str(byte * 12345), stdin=os.urandom(length))

    def loses(self, after_bytes=""):
        """The next line that carries a stream."""
        with open(os.path.join(self.faults, "next"), "w") as fault:
            fault.write(str(after_bytes))

    def round(self):
        return subprocess.run([UTHIN, "replicate", f"{self.here}/v", f"ssh://host{self.there}", "--once", "--json",
                               "--remote-uthin", UTHIN], env=self.environment, capture_output=True, text=True,
                              timeout=120)

    def works(self):
        done = self.round()
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    def fails(self):
        done = self.round()
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "host" in done.stderr, done

    def loses_its_end(self):
        published = os.path.join(self.folder, "published")
        self.loses()
        self.fails()
        assert os.path.exists(published), "the receiver did not come to its end"
        os.remove(published)

    def names(self, pool):
        return sorted(volume["name"] for volume in json.loads(run("volume", "list", pool, "--json"))["volumes"])

    def is_same(self):
        return run("read", f"{self.here}/v") == run("read", f"{self.there}/v")

    def judge(self):
        """One common snapshot, and nothing else; clean pools."""
        assert self.is_same(), "the replica reads otherwise"
        here, there = self.names(self.here), self.names(self.there)
        assert here == there and len(here) == 2 and here[0] == "v", (here, there)
        assert json.loads(run("transfer", "list", self.there, "--json"))["transfers"] == []
        for pool in (self.here, self.there):
            run("pool", "check", pool)


def after_good_rounds(pair):
    pair.change(1)
    assert pair.works()["whole"]
    pair.change(2)
    pair.loses_its_end()
    assert pair.is_same(), "it was not published"
    pair.change(3)
    report = pair.works()
    assert not report["whole"] and report["data"] < MIB, report


def in_the_first_round(pair):
    pair.change(1)
    pair.loses_its_end()
    pair.change(2)
    assert not pair.works()["whole"]


def again_and_again(pair):
    pair.change(1)
    pair.works()
    for byte in range(2, 6):
        pair.change(byte)
        pair.loses_its_end()
        assert len(pair.names(pair.here)) <= 4, pair.names(pair.here)
    pair.change(6)
    pair.works()


def of_a_stream_that_is_gone_on_with(pair):
    pair.change(1)
    pair.works()
    pair.change(2, 6 * MIB)
    pair.loses(after_bytes=3 * MIB)
    pair.fails()
    pair.loses()
    pair.round()  # another snapshot may follow at once
    assert os.path.exists(os.path.join(pair.folder, "published"))
    pair.change(3)
    pair.works()
    assert not pair.works()["whole"]


def that_failed_indeed(pair):
    pair.change(1)
    pair.works()
    before = pair.names(pair.there)
    for byte in (2, 3):
        pair.loses(after_bytes=100)
        pair.change(byte)
        pair.fails()
        assert pair.names(pair.there) == before
        assert len(pair.names(pair.here)) <= 3, pair.names(pair.here)
    pair.works()


def main():
    for scenario in (after_good_rounds, in_the_first_round, again_and_again, of_a_stream_that_is_gone_on_with,
                     that_failed_indeed):
        with tempfile.TemporaryDirectory(prefix="uthin-unknown.", dir=MEMORY) as folder:
            pair = Pair(folder)
            scenario(pair)
            pair.judge()
        print(f"{scenario.__name__.replace('_', ' ')}: ok")


main()
