"""Real dm-thin as a judge: boots a small kernel (User-mode Linux, an ordinary process, about 2 s) on
copies of a pool's metadata and data, activates thins and reads them.

    pool = lab.Pool(metadata, data, block_sectors=128)
    found = lab.activate(pool, {0: 32768, 1: 32768})       # {thin id: size in sectors}
    found.sha256[0]                                         # of all that thin 0 reads as
    found = lab.activate(pool, {0: 32768}, read="raw", out_dir=d)      # found.raw[0]: a file
    found = lab.activate(pool, {0: 32768}, read="map")      # found.maps[0]: text of `labio map`
    found = lab.activate(pool, {}, script="msg create_thin 7\\n", keep=(m, d))    # and changes it

`script` runs in the guest after the pool is active, before the thins are, in the vocabulary of
lab/guest/lib.sh. The caller's images are never written; `keep` names files for the changed copies.
require() ends the calling test with status 77 (skipped) and a reason where no kernel can be had."""
import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.environ.get("UTHIN_SOURCE", os.path.dirname(os.path.dirname(HERE)))
LAB = os.path.join(HERE, "lab", "kernel-lab")
SKIPPED = 77
os.environ.setdefault("KERNEL_LAB_CACHE", os.path.join(SOURCE, ".cache", "kernel-lab"))


class LabError(Exception):
    """the guest did not do what it was asked for; the text holds its output"""


@dataclasses.dataclass
class Pool:
    metadata: str
    data: str
    block_sectors: int
    external_origin: str = ""   # gives every activated thin that origin
    features: str = ""          # as in the table line, without the count
    low_water_blocks: int = 0
    data_sectors: int = 0       # of the pool's table; 0: the data image's size


@dataclasses.dataclass
class Found:
    sha256: dict    # {thin id: hex}
    raw: dict       # {thin id: path}
    maps: dict      # {thin id: text}
    status: str     # dmsetup status of pool and thins while they were active
    output: str     # what the guest printed, the script's output included


def require(method="uml"):
    """fetches the kernel; exit 77 with the reason where that cannot be done"""
    os.makedirs(os.environ["KERNEL_LAB_CACHE"], exist_ok=True)
    lock = os.path.join(os.environ["KERNEL_LAB_CACHE"], "lock")
    setup = ["flock", lock, sys.executable, LAB, "setup", "--method", method]
    done = subprocess.run(setup, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0 and os.geteuid() == 0:   # perhaps only the package lists are missing
        subprocess.run(["apt-get", "-qq", "update"], capture_output=True, check=False)
        done = subprocess.run(setup, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        lines = done.stdout.strip().splitlines() or ["no output"]
        print(f"skipped: no kernel '{method}' to run: {lines[-1]}")
        sys.exit(SKIPPED)


def run_guest(script, disks, out_dir, method="uml", timeout_seconds=300, memory_mib=512, files=(),
              out_mib=64):
    """runs a shell script in the guest on raw images (written in place), with `files` ("SOURCE:PATH")
    brought along; what it leaves in /out comes to out_dir; -> (status, output)"""
    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "script")
        with open(path, "w", encoding="utf-8") as f:
            f.write(script)
        command = [sys.executable, LAB, "run", "--method", method, "--script", path, "--out", out_dir,
                   "--timeout", str(timeout_seconds), "--mem", str(memory_mib), "--quiet",
                   "--file", os.path.join(HERE, "lab", "guest", "lib.sh")]
        command += ["--out-mb", str(out_mib)]
        for disk in disks:
            command += ["--disk", disk]
        for name in files:
            command += ["--file", name]
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              errors="replace")
        return done.returncode, done.stdout


def copy_sparse(source, to):
    subprocess.run(["cp", "--sparse=always", source, to], check=True)
    os.chmod(to, 0o600)


def read_commands(thins, read):
    """for each thin what to do with /dev/mapper/tID once it is active"""
    offset_mib = 0
    for thin, sectors in sorted(thins.items()):
        device = f"/dev/mapper/t{thin}"
        if read == "sha256":
            yield f"sha256sum <{device} >/out/t{thin}.sha256 || exit 21"
        elif read == "map":
            yield f"labio map {device} >/out/t{thin}.map || exit 21"
        elif read == "raw":
            yield f"dd if={device} of=$RAW bs=1M seek={offset_mib} conv=notrunc 2>/dev/null || exit 21"
            offset_mib += -(-sectors // 2048)


def guest_script(pool, thins, read, script, raw_disk):
    origin = "/dev/disk2" if pool.external_origin else ""
    lines = [f"BS={pool.block_sectors} LW={pool.low_water_blocks} FEAT={shlex.quote(pool.features)}",
             f"RAW={raw_disk}", ". /lab/lib.sh",
             'need() { "$@" || { echo "failed: $*"; tail -n 3 /out/commands.log; dmesg | tail -n 8; exit 20; }; }',
             f'need run dmsetup create pool --table "$(pool_table {pool.data_sectors or ""})"', script]
    for thin, sectors in sorted(thins.items()):
        lines.append(f"need on {thin} {sectors} {origin}")
    lines.append("dmsetup status | sort >/out/status")
    lines += read_commands(thins, read)
    lines += [f"need off {thin}" for thin in sorted(thins)]
    lines += ["need run dmsetup remove pool", "sync", "exit 0"]
    return "\n".join(lines) + "\n"


def split_raw(image, thins, out_dir):
    """cuts the disk that the guest wrote into one sparse file for each thin"""
    raw, offset_bytes = {}, 0
    for thin, sectors in sorted(thins.items()):
        raw[thin] = os.path.join(out_dir, f"t{thin}.raw")
        length_bytes = sectors * 512
        subprocess.run(["dd", f"if={image}", f"of={raw[thin]}", "bs=1M", "conv=sparse", "status=none",
                        f"skip={offset_bytes >> 20}", f"count={length_bytes}", "iflag=count_bytes"],
                       check=True)
        os.truncate(raw[thin], length_bytes)
        offset_bytes += -(-length_bytes // (1 << 20)) << 20
    return raw


def texts_of(thins, out, ending):
    found = {}
    for thin in thins:
        path = os.path.join(out, f"t{thin}.{ending}")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                found[thin] = f.read()
    return found


def activate(pool, thins, read="sha256", script="", out_dir=None, keep=None, method="uml",
             timeout_seconds=300):
    """see the head of this file; LabError when anything in the guest fails"""
    with tempfile.TemporaryDirectory(prefix="uthin-lab.") as work:
        disks = [os.path.join(work, "metadata"), os.path.join(work, "data")]
        copy_sparse(pool.metadata, disks[0])
        copy_sparse(pool.data, disks[1])
        if pool.external_origin:
            disks.append(os.path.join(work, "origin"))
            copy_sparse(pool.external_origin, disks[2])
        raw_image = os.path.join(work, "raw")
        raw_disk = ""
        if read == "raw":
            raw_disk = f"/dev/disk{len(disks)}"
            with open(raw_image, "wb") as f:
                f.truncate(sum(-(-s // 2048) << 20 for s in thins.values()))
            disks.append(raw_image)
        out = os.path.join(work, "out")
        status, output = run_guest(guest_script(pool, thins, read, script, raw_disk), disks, out, method,
                                   timeout_seconds)
        if status != 0:
            raise LabError(f"the guest ended with status {status}:\n{output}")
        if keep:
            shutil.move(disks[0], keep[0])
            shutil.move(disks[1], keep[1])
        with open(os.path.join(out, "status"), encoding="utf-8") as f:
            status_text = f.read()
        sums = {thin: text.split()[0] for thin, text in texts_of(thins, out, "sha256").items()}
        raw = split_raw(raw_image, thins, out_dir or ".") if read == "raw" else {}
        return Found(sums, raw, texts_of(thins, out, "map"), status_text, output)
