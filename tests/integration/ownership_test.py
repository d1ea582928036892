#!/usr/bin/env python3
"""Who may open a pool, and what happens to those who may not: 24 cases of paths, owners, permissions and
ends. A refused command says why in one line and changes nothing; a pool that lost its owner opens at once."""
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time

from nbd_client import Client
from served_pool import BIN, ServedPool

NOBODY = 65534


def tool(*arguments, user=None):
    program = [os.path.join(BIN, arguments[0]), *arguments[1:]]
    if arguments[0] == "uthin":
        program[1:1] = ["--wait", "0s"]
    if user is not None:
        program = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *program]
    return subprocess.run(program, capture_output=True, text=True, timeout=60)


def refused(done, *pieces):
    """It failed, in one line that holds one of the pieces, and not by a signal."""
    text = done.stderr.strip()
    assert done.returncode > 0, f"{done.args}: status {done.returncode}: {text}"
    assert len(text.splitlines()) == 1, f"{done.args}: {text}"
    assert any(piece in text for piece in pieces), f"{done.args}: none of {pieces} in: {text}"


def accepted(done):
    assert done.returncode == 0, f"{done.args}: {done.stderr}"
    return done


OWNED = "owned by another process"


class Pools:
    """A served pool, an idle one beside it, and a folder for what the cases make."""

    def __init__(self, pool):
        self.served, self.folder = pool, pool.folder
        self.idle = os.path.join(self.folder, "idle")
        accepted(tool("uthin", "pool", "create", self.idle, "--data-size", "16M"))
        accepted(tool("uthin", "volume", "create", f"{self.idle}/v", "--size", "4M"))

    def other(self, name, metadata, data):
        """A pool directory of its own around other files; what adopting them says."""
        path = os.path.join(self.folder, name)
        done = tool("uthin", "pool", "adopt", path, "--metadata", metadata, "--data", data)
        if done.returncode != 0:
            shutil.rmtree(path, ignore_errors=True)
        return done

    def idle_copy(self, name):
        path = os.path.join(self.folder, name)
        shutil.copytree(self.idle, path)
        return path


def sum_of(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def same_path(p):
    refused(tool("uthin", "serve", p.served.path), "another process listens")
    refused(tool("uthin", "serve", p.served.path, "--socket", p.folder + "/2.sock"), OWNED)


def symbolic_link(p):
    link = os.path.join(p.folder, "link")
    os.symlink(p.served.path, link)
    refused(tool("uthin", "serve", link, "--socket", link + ".sock"), OWNED)


def hard_link(p):
    names = [os.path.join(p.folder, f"hard-{name}") for name in ("metadata", "data")]
    os.link(f"{p.served.path}/metadata", names[0])
    os.link(f"{p.served.path}/data", names[1])
    refused(p.other("hard", *names), OWNED)


def bind_mount(p):
    at = os.path.join(p.folder, "bound")
    os.mkdir(at)
    if subprocess.run(["mount", "--bind", p.served.path, at], capture_output=True).returncode != 0:
        return "mount --bind is not permitted here"
    try:
        refused(tool("uthin", "serve", at, "--socket", at + ".sock"), OWNED)
    finally:
        subprocess.run(["umount", at], check=True)


def loop_device(p):
    done = subprocess.run(["losetup", "--show", "-f", f"{p.served.path}/metadata"], capture_output=True, text=True)
    if done.returncode != 0:
        return "there are no loop devices here"
    device = done.stdout.strip()
    try:
        refused(tool("thin_check", device), "owned", "in use")
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def second_metadata(p):
    refused(p.other("second-metadata", f"{p.served.path}/metadata", f"{p.idle}/data"), OWNED)


def second_data(p):
    # Not adopted for reading either: the server writes to it.
    refused(p.other("second-data", f"{p.idle}/metadata", f"{p.served.path}/data"), OWNED)


def swapped(p):
    path = p.idle_copy("swapped")
    os.rename(f"{path}/metadata", f"{path}/m")
    os.rename(f"{path}/data", f"{path}/metadata")
    os.rename(f"{path}/m", f"{path}/data")
    before = sum_of(f"{path}/metadata"), sum_of(f"{path}/data")
    refused(tool("uthin", "volume", "list", path), "metadata", "superblock", "blank", "small")
    assert before == (sum_of(f"{path}/metadata"), sum_of(f"{path}/data")), "something was written"


def reader_beside_writer(p):
    for name in ("thin_check", "thin_dump", "thin_ls"):
        refused(tool(name, f"{p.served.path}/metadata"), OWNED)


def repair_beside_writer(p):
    output = os.path.join(p.folder, "repaired")
    refused(tool("thin_repair", "-i", f"{p.served.path}/metadata", "-o", output), OWNED)
    assert not os.path.exists(output) or os.path.getsize(output) == 0


def writer_beside_writer(p):
    before = sum_of(f"{p.idle}/metadata")
    refused(tool("thin_restore", "-i", "/dev/null", "-o", f"{p.served.path}/metadata"), OWNED)
    assert before == sum_of(f"{p.idle}/metadata")


def commands_go_through_the_server(p):
    accepted(tool("uthin", "volume", "create", f"{p.served.path}/made", "--size", "1M"))
    accepted(tool("uthin", "volume", "delete", f"{p.served.path}/made"))


def killed_owner(p):
    p.served.kill()
    begin = time.monotonic()
    p.served.start()
    print(f"  served again {time.monotonic() - begin:.2f} s after SIGKILL")


def forked_owner(p):
    """A child that inherited everything is not a second owner, and its end gives nothing away."""
    before = p.served.server.pid
    refused(tool("uthin", "serve", p.served.path, "--socket", p.folder + "/3.sock"), OWNED)
    assert p.served.server.poll() is None and p.served.server.pid == before


def read_only_files(p):
    path = p.idle_copy("read-only")
    for name in ("metadata", "data"):
        os.chmod(f"{path}/{name}", 0o444)
    os.chown(path, NOBODY, NOBODY)
    for name in os.listdir(path):
        os.chown(f"{path}/{name}", NOBODY, NOBODY)
    os.chmod(p.folder, 0o755)
    refused(tool("uthin", "volume", "create", f"{path}/x", "--size", "1M", user=NOBODY), "ermission", "read-only")


def a_directory(p):
    path = p.idle_copy("directory")
    os.remove(f"{path}/data")
    os.mkdir(f"{path}/data")
    refused(tool("uthin", "volume", "list", path), "data")


def a_fifo(p):
    path = p.idle_copy("fifo")
    os.remove(f"{path}/data")
    os.mkfifo(f"{path}/data")
    refused(tool("uthin", "volume", "list", path), "data")


def too_small(p):
    path = p.idle_copy("small")
    os.truncate(f"{path}/data", 65536)
    refused(tool("uthin", "volume", "list", path), "data")
    os.truncate(f"{path}/metadata", 100)
    refused(tool("uthin", "volume", "list", path), "metadata")


def odd_size(p):
    """A data file that is longer by a part of a block is a pool all the same."""
    path = p.idle_copy("odd")
    os.truncate(f"{path}/data", os.path.getsize(f"{path}/data") + 12345)
    accepted(tool("uthin", "volume", "list", path))


def no_permission(p):
    os.chmod(p.folder, 0o755)
    os.chmod(p.idle, 0o700)
    refused(tool("uthin", "volume", "list", p.idle, user=NOBODY), "ermission")


def control_socket_of_another(p):
    os.chmod(p.folder, 0o755)
    os.chmod(p.served.path, 0o755)
    refused(tool("uthin", "volume", "list", p.served.path, user=NOBODY), "ermission")


def unlinked_while_open(p):
    path = f"{p.served.path}/data"
    os.rename(path, path + ".away")
    client = Client(p.served.nbd, "disk")
    client.write(0, b"u" * 4096)
    client.flush()
    assert client.read(0, 4096) == b"u" * 4096
    client.socket.close()
    os.rename(path + ".away", path)


def chmod_while_open(p):
    path = f"{p.served.path}/metadata"
    os.chmod(path, 0)
    client = Client(p.served.nbd, "disk")
    client.write(65536, b"c" * 4096)
    client.flush()
    client.socket.close()
    os.chmod(path, 0o600)


def ended_during_commits(p):
    """TERM, then KILL, in the middle of writes and flushes: the next owner finds all that was flushed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        client = Client(p.served.nbd, "disk")
        flushed = 0
        p.served.server.send_signal(signal.SIGSTOP)
        p.served.server.send_signal(signal.SIGCONT)  # interrupted system calls
        try:
            for stamp in range(1, 200):
                client.write(stamp * 4096, bytes([stamp]) * 4096)
                client.flush()
                flushed = stamp
                if stamp == 20:
                    p.served.server.send_signal(number)
        except (OSError, RuntimeError):
            pass
        client.socket.close()
        p.served.server.wait(timeout=30)
        p.served.start()
        client = Client(p.served.nbd, "disk")
        for stamp in range(1, flushed + 1):
            assert client.read(stamp * 4096, 4096) == bytes([stamp]) * 4096, f"{number}: write {stamp} is lost"
        client.socket.close()


CASES = [same_path, symbolic_link, hard_link, bind_mount, loop_device, second_metadata, second_data, swapped,
         reader_beside_writer, repair_beside_writer, writer_beside_writer, commands_go_through_the_server,
         killed_owner, forked_owner, read_only_files, a_directory, a_fifo, too_small, odd_size, no_permission,
         control_socket_of_another, unlinked_while_open, chmod_while_open, ended_during_commits]


def main():
    if os.geteuid() != 0:
        print("skipped: other users and their files need root")
        sys.exit(77)
    not_run = 0
    with ServedPool("ownership", {"disk": 4 << 20}) as pool:
        pools = Pools(pool)
        for case in CASES:
            name = case.__name__.replace("_", " ")
            try:
                reason = case(pools)
            except AssertionError as problem:
                sys.exit(f"{name}: {problem}")
            if reason:
                not_run += 1
                print(f"not run: {name}: {reason}")
        pool.stop()
        pool.judge()
    print(f"ok: {len(CASES) - not_run} of {len(CASES)} cases")


main()
