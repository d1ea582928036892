#!/usr/bin/env python3
"""soak.py HOURS [--keep]: a served pool that is used as a busy machine would, for HOURS (0.5 is half an hour).

Four clients write stamps, discard, flush and read back. Meanwhile volumes are snapshotted, rolled back,
resized, deleted and sent to another pool, the pool grows, is checked and trimmed. In the first third of each
round (an hour at most) the server is ended every few seconds, by SIGTERM or by SIGKILL in the midst of a
command; in the rest one process serves on, and its memory and descriptors must stay flat. At the end all that was
acknowledged reads back, the judges of metadata agree, and blocks in use are what a recount gives, 0 when
all volumes are deleted. The seed decides what is done; how it interleaves is up to the machine."""
import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

import server as server_module
from server import SOURCE, UTHIN, Server, asked, run
from nbd_client import Client
from stamped import BLOCK, CELL, Content, Violation, cell_bytes, expect_prefix, stamps_of
from writer import Writer, read_all

VOLUMES = 4
VOLUME_BLOCKS_MIN, VOLUME_BLOCKS_MAX = 256, 768
SNAPSHOTS_MAX = 12
ROUND_SECONDS_MAX = 3600
DATA_BYTES, DATA_BYTES_MAX = 1 << 30, 2 << 30
METADATA_BYTES, METADATA_BYTES_MAX = 8 << 20, 16 << 20
BLOCKS_PER_BITMAP = 16320
SUSPENDED_SECONDS_MIN = 30  # between two commands: the machine or we were stopped, which is no soaking
SENT_MAX = 5  # streams of a volume before the copy is made anew


class Snapshot:
    def __init__(self, name, writer, content):
        self.name, self.writer, self.content = name, writer, content
        self.base = False  # of the next stream


class Soak:
    def __init__(self, folder, seed):
        self.random = random.Random(seed)
        self.pool, self.other = os.path.join(folder, "pool"), os.path.join(folder, "copy")
        self.server = Server(self.pool, os.path.join(folder, "server.log"))
        self.problems, self.snapshots, self.sent = [], {}, {}
        self.counts = dict.fromkeys(
            ("commands", "snapshots", "deletes", "rollbacks", "resizes", "streams", "restarts", "kills"), 0)
        self.made = 0
        self.data_bytes, self.metadata_bytes = DATA_BYTES, METADATA_BYTES
        run("pool", "create", self.pool, "--data-size", str(DATA_BYTES), "--metadata-size", str(METADATA_BYTES))
        run("pool", "create", self.other, "--data-size", "1G")
        self.empty = self.recount()
        self.writers = []
        for number in range(VOLUMES):
            blocks = self.random.randrange(VOLUME_BLOCKS_MIN, VOLUME_BLOCKS_MAX)
            run("volume", "create", f"{self.pool}/v{number}", "--size", str(blocks * BLOCK))
            self.writers.append(Writer(number + 1, f"v{number}", blocks * BLOCK // CELL, seed * 100 + number,
                                       self.problems.append))

    def of(self, name):
        return f"{self.pool}/{name}"

    def new_name(self, kind):
        self.made += 1
        return f"{kind}-{self.made}"

    def command(self, *arguments):
        self.counts["commands"] += 1
        run(*arguments)

    # ---- verification

    def verify(self, name, content):
        found = read_all(self.server.nbd, name, content.volume)
        if len(found) != len(content.now):
            raise Violation(f"{name}: has {len(found)} cells, not {len(content.now)}")
        content.expect(name, 0, found)
        content.settle(found)

    def verify_some_snapshot(self):
        if self.snapshots:
            one = self.random.choice(list(self.snapshots.values()))
            self.verify(one.name, one.content)

    def expect_names(self):
        listed = {v["name"] for v in asked("volume", "list", self.pool)["volumes"]}
        known = {w.name for w in self.writers} | set(self.snapshots)
        if listed != known:
            raise Violation(f"volumes that are missing: {known - listed}, that nobody made: {listed - known}")

    # ---- what is done while clients write

    def snapshot(self):
        """Of one volume or two at one instant; what the clients wrote meanwhile is in it up to a point."""
        writers = self.random.sample(self.writers, self.random.choice((1, 1, 2)))
        names = [self.new_name("snap") for _ in writers]
        before = [writer.begin_recording() for writer in writers]
        pairs = [word for writer, name in zip(writers, names) for word in (self.of(writer.name), name)]
        self.command("snapshot", "create", *pairs)
        for writer, name, content in zip(writers, names, before):
            self.keep_snapshot(writer, name, content, writer.end_recording())

    def keep_snapshot(self, writer, name, before, changes):
        found = read_all(self.server.nbd, name, before.volume)
        if len(found) != len(before.now):
            raise Violation(f"{name}: has {len(found)} cells, not {len(before.now)}")
        expect_prefix(name, before, changes, found)
        self.know_snapshot(writer, name, found)

    def know_snapshot(self, writer, name, found):
        content = Content(writer.number, 0)
        content.settle(found)
        self.snapshots[name] = Snapshot(name, writer, content)
        self.counts["snapshots"] += 1

    def free_snapshots(self):
        return [one for one in self.snapshots.values() if not one.base]

    def delete(self):
        if self.free_snapshots():
            one = self.random.choice(self.free_snapshots())
            self.delete_command(one.name)
            del self.snapshots[one.name]
            self.counts["deletes"] += 1

    def wait_until_free(self, name):
        """A connection that verified it may still be ending."""
        for _ in range(100):
            if not asked("volume", "show", self.of(name))["in_use"]:
                return
            time.sleep(0.05)
        raise Violation(f"{name} stays in use, but nobody is connected to it")

    def delete_command(self, name):
        self.wait_until_free(name)
        self.command("volume", "delete", self.of(name))

    def rename(self):
        if self.free_snapshots():
            one = self.random.choice(self.free_snapshots())
            name = self.new_name("named")
            self.command("volume", "rename", self.of(one.name), name)
            self.snapshots[name] = self.snapshots.pop(one.name)
            one.name = name

    def rollback(self):
        if not self.snapshots:
            return
        one = self.random.choice(list(self.snapshots.values()))
        writer = one.writer
        anew = len(one.content.now) != len(writer.content.now) or self.random.random() < 0.3
        if anew:  # else under the eyes of its client
            writer.disconnect()
        with writer.lock:
            self.command("volume", "rollback", self.of(writer.name), "--to", one.name, "--force")
            writer.content = one.content.copy()
        if anew:
            writer.connect(self.server.nbd)
        self.counts["rollbacks"] += 1

    def resize(self):
        writer = self.random.choice(self.writers)
        blocks = self.random.randrange(VOLUME_BLOCKS_MIN, VOLUME_BLOCKS_MAX)
        writer.disconnect()
        self.command("volume", "resize", self.of(writer.name), "--size", str(blocks * BLOCK))
        writer.content.resize(blocks * BLOCK // CELL)
        writer.connect(self.server.nbd)
        self.counts["resizes"] += 1

    def grow_pool(self):
        if self.random.random() < 0.5 and self.data_bytes < DATA_BYTES_MAX:
            self.data_bytes += 1000 * BLOCK
            self.command("pool", "grow", self.pool, "--data-size", str(self.data_bytes))
        elif self.metadata_bytes < METADATA_BYTES_MAX:
            self.metadata_bytes += 1 << 20
            self.command("pool", "grow", self.pool, "--metadata-size", str(self.metadata_bytes))

    def check(self):
        self.command("pool", "check", self.pool)
        self.expect_names()

    def trim(self):
        self.command("pool", "trim", self.pool)

    def empty_volume(self):
        name = self.new_name("empty")
        self.command("volume", "create", self.of(name), "--size", "64M")
        if any(stamp != 0 for stamp in read_all(self.server.nbd, name, 0)):
            raise Violation(f"{name}: a new volume holds something")
        self.delete_command(name)

    # ---- streams to another pool

    def send(self):
        if not self.snapshots:
            return
        one = self.random.choice(list(self.snapshots.values()))
        name = one.writer.name
        base, count = self.sent.get(name, (None, 0))
        if base is one:
            return
        if base is not None and count >= SENT_MAX:
            self.forget_copy(name)
            base, count = None, 0
        self.wait_until_free(one.name)  # else a snapshot of it is sent, which is no base
        arguments = [UTHIN, "send", self.of(one.name)]
        arguments += ["--from", self.of(base.name)] if base else []
        sender = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        receiver = subprocess.run([UTHIN, "receive", f"{self.other}/{name}"], stdin=sender.stdout,
                                  capture_output=True, text=True, check=False)
        sender.stdout.close()
        complaint = sender.communicate()[1]
        if sender.returncode != 0 or receiver.returncode != 0:
            raise Violation(f"sending {one.name}: {complaint.decode()}{receiver.stderr}")
        copied = subprocess.run([UTHIN, "read", f"{self.other}/{name}"], capture_output=True, check=True).stdout
        found = stamps_of(one.content.volume, 0, copied)
        one.content.expect(f"the copy of {one.name}", 0, found)
        if len(found) != len(one.content.now):
            raise Violation(f"the copy of {one.name} has {len(found)} cells, not {len(one.content.now)}")
        if base:
            base.base = False
            run("volume", "delete", f"{self.other}/{base.name}")
        one.base = True
        self.sent[name] = (one, count + 1)
        self.counts["streams"] += 1

    def forget_copy(self, name):
        base, _ = self.sent.pop(name)
        base.base = False
        run("volume", "delete", f"{self.other}/{name}")
        run("volume", "delete", f"{self.other}/{base.name}")

    # ---- ends of the server

    def restart(self):
        for writer in self.writers:
            writer.may_break = True
        if self.random.random() < 0.3:
            self.server.terminate()
            self.begin_again(False, None)
        else:
            self.begin_again(True, self.kill_in_a_command())
            self.counts["kills"] += 1
        self.counts["restarts"] += 1

    def kill_in_a_command(self):
        """-> settles, when the server runs again, what the command had done"""
        kinds = [self.killed_snapshot]
        kinds += [self.killed_delete, self.killed_rename] if self.free_snapshots() else []
        kinds += [self.killed_rollback] if self.snapshots else []
        arguments, settle = self.random.choice(kinds)()
        command = subprocess.Popen([UTHIN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        time.sleep(self.random.uniform(0, 0.08))
        self.server.kill()
        command.communicate()
        self.counts["commands"] += 1
        return lambda listed: settle(command.returncode == 0, listed)

    def killed_snapshot(self):
        writer, name = self.random.choice(self.writers), self.new_name("snap")
        before = writer.begin_recording()

        def settle(done, listed):
            changes = writer.end_recording()
            if name in listed:
                # A command that comes too late for the server opens the pool itself: then it took what
                # the kill had left, which is held against the model next.
                found = read_all(self.server.nbd, name, writer.number)
                if found == read_all(self.server.nbd, writer.name, writer.number):
                    self.know_snapshot(writer, name, found)
                else:
                    self.keep_snapshot(writer, name, before, changes)
            elif done:
                raise Violation(f"{name} is missing, but its command had returned")

        return ("snapshot", "create", self.of(writer.name), name), settle

    def killed_delete(self):
        one = self.random.choice(self.free_snapshots())

        def settle(done, listed):
            if one.name not in listed:
                del self.snapshots[one.name]
                self.counts["deletes"] += 1
            elif done:
                raise Violation(f"{one.name} is there, but deleting it had returned")

        return ("volume", "delete", self.of(one.name)), settle

    def killed_rename(self):
        one, name = self.random.choice(self.free_snapshots()), self.new_name("named")

        def settle(done, listed):
            if done or name in listed:
                self.snapshots[name] = self.snapshots.pop(one.name)
                one.name = name

        return ("volume", "rename", self.of(one.name), name), settle

    def killed_rollback(self):
        """The client does not write meanwhile: afterwards all of it is old, or all of it is the snapshot."""
        one = self.random.choice(list(self.snapshots.values()))
        writer = one.writer
        writer.disconnect()

        def settle(done, listed):
            found = read_all(self.server.nbd, writer.name, writer.number)
            if done or found == one.content.now:
                writer.content = one.content.copy()
                self.counts["rollbacks"] += 1

        return ("volume", "rollback", self.of(writer.name), "--to", one.name, "--force"), settle

    def begin_again(self, killed, settle):
        for writer in self.writers:
            writer.disconnect()
            writer.server_ended(killed)
        if self.random.random() < 0.2:
            run("pool", "check", self.pool)
        self.server.start()
        if settle is not None:
            settle({v["name"] for v in asked("volume", "list", self.pool)["volumes"]})
        self.expect_names()
        self.verify_some_snapshot()
        for writer in self.writers:
            self.verify(writer.name, writer.content)
            writer.connect(self.server.nbd)

    # ---- the run

    def step(self):
        work = ((self.snapshot, 30), (self.delete, 20), (self.verify_some_snapshot, 12), (self.rename, 4),
                (self.rollback, 6), (self.resize, 6), (self.check, 5), (self.send, 6), (self.trim, 2),
                (self.empty_volume, 3), (self.grow_pool, 1))
        if len(self.snapshots) > SNAPSHOTS_MAX:
            self.delete()
        self.random.choices([w for w, _ in work], [weight for _, weight in work])[0]()
        if self.problems:
            raise Violation(self.problems[0])

    def line(self, seconds):
        resident, descriptors = self.server.life.sample()
        status = asked("pool", "status", self.pool)
        counts = " ".join(f"{name}={value}" for name, value in self.counts.items())
        print(f"{seconds / 60:.0f} min: requests={sum(w.requests for w in self.writers)} {counts} "
              f"rss={resident / 2**20:.1f}MiB fds={descriptors} data={status['data_used_blocks']} "
              f"metadata={status['metadata_used_blocks']}", flush=True)

    def damage(self):
        """Behind the model's back: what a cell of the last volume holds goes to another one."""
        client = Client(self.server.nbd, self.writers[-1].name)
        client.write(0, cell_bytes(self.writers[-1].number, 1, 1) * 64)
        client.socket.close()

    def run(self, seconds, damage):
        self.server.start()
        for writer in self.writers:
            writer.connect(self.server.nbd)
            writer.start()
        length = seconds / -(-seconds // ROUND_SECONDS_MAX)
        now, told, next_restart, last = 0.0, 0, 0.0, time.monotonic()
        while now < seconds:
            passed, last = time.monotonic() - last, time.monotonic()
            now += passed if passed < SUSPENDED_SECONDS_MIN else 0
            if now % length < length / 3 and next_restart <= now < seconds:
                self.restart()
                next_restart = now + self.random.uniform(1, 6)
            if damage and now >= seconds / 2:
                self.damage()
                damage = False
            self.step()
            time.sleep(self.random.uniform(0, 0.6))
            self.server.life.sample()
            if now >= told + 60:
                told += 60
                self.line(now)
        self.finish()

    def finish(self):
        for writer in self.writers:
            writer.running = False
            writer.join()
            writer.disconnect()
            self.verify(writer.name, writer.content)
        for one in self.snapshots.values():
            self.verify(one.name, one.content)
        self.expect_names()
        if self.problems:
            raise Violation(self.problems[0])
        judged = [life for life in self.server.lives if life.judged()]
        for life in judged:
            life.expect_flat()
        self.server.terminate()
        for writer in self.writers:
            data = subprocess.run([UTHIN, "read", self.of(writer.name)], capture_output=True, check=True).stdout
            writer.content.expect(writer.name, 0, stamps_of(writer.number, 0, data))
        self.judge()
        used = self.recount()
        for name in [w.name for w in self.writers] + list(self.snapshots):
            run("volume", "delete", self.of(name), "--force")
        empty = self.recount()
        self.judge()
        if (empty[0], empty[2]) != (0, self.empty[2]):  # but for the bitmaps of what has grown
            raise Violation(f"blocks in use by no volume: {empty}, in a new pool {self.empty}")
        print(f"blocks in use, as recounted: data {used[0]}, metadata {used[1]}; without volumes {empty[0]} and "
              f"{empty[1]} (new pool: {self.empty[1]})")

    def recount(self):
        """What is used is what is reachable; a pool's status counts what is kept back for commits as used."""
        status, found = asked("pool", "status", self.pool), asked("pool", "check", self.pool)
        kept_back = min(status["metadata_blocks"] // 10, 1024)
        for counted, used, extra in (("data_blocks_used", "data_used_blocks", 0),
                                     ("metadata_blocks_used", "metadata_used_blocks", kept_back)):
            if found[counted] + extra != status[used]:
                raise Violation(f"{used}: {status[used]}, recounted {found[counted]} + {extra}")
        if status["deletions_running"] or not found["clean"]:
            raise Violation(f"not settled or not clean: {found}")
        bitmaps = sum(-(-status[size] // BLOCKS_PER_BITMAP) for size in ("data_blocks", "metadata_blocks"))
        return found["data_blocks_used"], found["metadata_blocks_used"], found["metadata_blocks_used"] - bitmaps

    def judge(self):
        metadata = os.path.join(self.pool, "metadata")
        run(metadata, program=os.path.join(server_module.BIN, "thin_check"))
        tools = subprocess.run([os.path.join(SOURCE, "scripts/fetch-thin-tools")], capture_output=True,
                               text=True, check=False)
        if tools.returncode == 0:
            run(os.path.join(SOURCE, "tests/support/check_images.py"), tools.stdout.strip(), metadata,
                program=sys.executable)

    def summary(self, seconds, violations):
        judged = [life for life in self.server.lives if life.judged()]
        flat = " ".join(
            f"rss_second_quarter={life.quarter(2)[0] / 2**20:.1f}MiB "
            f"rss_last_quarter={life.quarter(4)[0] / 2**20:.1f}MiB "
            f"fds_second_quarter={life.quarter(2)[1]} fds_last_quarter={life.quarter(4)[1]}" for life in judged)
        counts = " ".join(f"{name}={value}" for name, value in self.counts.items())
        return (f"soak: seconds={seconds:.0f} requests={sum(w.requests for w in self.writers)} "
                f"flushes={sum(w.flushes for w in self.writers)} {counts} "
                f"{flat or 'memory not judged: no life of the server was long enough'} violations={violations}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hours", type=float)
    parser.add_argument("--damage", action="store_true",
                        help="write behind the model's back: the soak must see it")
    arguments = parser.parse_args()
    seed = int(os.environ.get("UTHIN_SEED", "20261122"))
    print(f"UTHIN_SEED={seed}", flush=True)
    folder = tempfile.mkdtemp(prefix="uthin-soak.")
    soak, violations, begin = None, 0, time.monotonic()
    try:
        soak = Soak(folder, seed)
        soak.run(arguments.hours * 3600, arguments.damage)
    except (Violation, OSError, RuntimeError, subprocess.SubprocessError) as violation:
        violations = 1
        state = soak.server.state() if soak is not None else ""
        print(f"violation: {violation!r}{state}", flush=True)
    finally:
        if soak is not None:
            soak.server.end()
            print(soak.summary(time.monotonic() - begin, violations), flush=True)
        if violations and not arguments.damage:
            print(f"kept: {folder}", flush=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if violations else 0)


main()
