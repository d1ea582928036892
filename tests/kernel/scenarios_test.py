#!/usr/bin/env python3
"""A real kernel and uthin run the same scenarios: errno of each step, status lines, content of every thin
and metadata must agree (docs/kernel-differences.md names what may not). By default a few of
tests/data/scenarios and a few generated ones; with UTHIN_TIER=1 all of them, 200 generated ones, the
recorded outcomes against what the kernel says today, and 20 rounds on the same images in turn.
UTHIN_SEED=N repeats a run; --record writes the kernel's outcomes into tests/data/scenarios."""
import glob
import os
import random
import subprocess
import sys
import tempfile

import lab

SCENARIOS = os.path.join(lab.SOURCE, "tests", "data", "scenarios")
UTHIN = os.path.join(os.environ["UTHIN_BIN"], "uthin-scenarios")
GUEST = os.path.join(os.environ["UTHIN_BIN"], "uthin-guest-scenarios")
LONG = os.environ.get("UTHIN_TIER", "0") != "0"
SAMPLE = ("documentation-example", "break-sharing-both-sides", "discard-shared",
          "external-origin-fractional-tail", "out-of-space-error", "metadata-snapshot-pins-space")


def by_kernel(paths, work, disks=()):
    """{name: outcome}, one boot for all"""
    out = os.path.join(work, "out")
    files = [f"{GUEST}:/lab/scenarios"] + [f"{p}:/s/{os.path.basename(p)}" for p in paths]
    names = " ".join("/s/" + os.path.basename(p) for p in paths)
    script = f"needmod loop dm-flakey dm-dust\nchmod 755 /lab/scenarios\n" \
             f"/lab/scenarios {'--disks' if disks else ''} /out {names}\n"
    status, output = lab.run_guest(script, disks, out, timeout_seconds=1500, memory_mib=768, files=files,
                                   out_mib=256)
    if status != 0:
        sys.exit(f"the guest ended with status {status}:\n{output[-3000:]}")
    outcomes = {}
    for path in paths:
        name = os.path.basename(path)
        done = subprocess.run([UTHIN, "complete", f"{out}/{name}.outcome", f"{out}/dumps"], check=True,
                              capture_output=True, text=True)
        outcomes[name] = done.stdout
    return outcomes


def compare(path, outcome, work):
    kernel = os.path.join(work, "kernel.outcome")
    with open(kernel, "w", encoding="utf-8") as f:
        f.write(outcome)
    done = subprocess.run([UTHIN, "compare", path, kernel], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode != 0:
        print(f"{os.path.basename(path)}:\n{done.stdout}")
    return done.returncode == 0


def generate(seed, work):
    path = os.path.join(work, f"generated-{seed}.scenario")
    with open(path, "w", encoding="utf-8") as f:
        subprocess.run([UTHIN, "generate", str(seed)], check=True, stdout=f)
    return path


def check_scenarios(work, seed):
    everything = sorted(glob.glob(f"{SCENARIOS}/*.scenario"))
    paths = everything if LONG else [f"{SCENARIOS}/{name}.scenario" for name in SAMPLE]
    paths += [generate(seed + i, work) for i in range(200 if LONG else 6)]
    failed = 0
    batch = 40
    for at in range(0, len(paths), batch):
        part = paths[at:at + batch]
        with tempfile.TemporaryDirectory(dir=work) as here:
            outcomes = by_kernel(part, here)
            failed += sum(not compare(path, outcomes[os.path.basename(path)], here) for path in part)
    print(f"{len(paths) - failed} of {len(paths)} scenarios agree, seed {seed}")
    return failed == 0


def record(work):
    paths = sorted(glob.glob(f"{SCENARIOS}/*.scenario"))
    for at in range(0, len(paths), 40):
        with tempfile.TemporaryDirectory(dir=work) as here:
            for name, outcome in by_kernel(paths[at:at + 40], here).items():
                with open(f"{SCENARIOS}/{name[:-len('.scenario')]}.kernel", "w", encoding="utf-8") as f:
                    f.write(outcome)
    print(f"recorded {len(paths)} outcomes")


def round_of(number, chooser):
    """one owner's turn on images that the other left"""
    lines = ["create pool 0 65536 thin-pool /dev/disk0 /dev/disk1 128 0 1 no_discard_passdown"]
    if number == 0:
        lines.append("message pool create_thin 0")
    lines += [f"create t{i} 0 8192 thin /dev/mapper/pool {i}" for i in range(min(number + 1, 4))]
    for _ in range(12):
        thin = chooser.randrange(min(number + 1, 4))
        at = chooser.randrange(1000) * 8
        if chooser.randrange(4) == 0:
            lines.append(f"discard t{thin} {at} {min(256, 8192 - at)}")
        else:
            lines.append(f"write t{thin} {at} {min(8 * chooser.randrange(1, 40), 8192 - at)} "
                         f"{chooser.randrange(1, 9999)}")
    lines.append("status pool")
    if number < 3:
        lines += ["suspend t0", f"message pool create_snap {number + 1} 0", "resume t0"]
    lines += ["map t0", "dump disk0"]
    return "\n".join(lines) + "\n"


def check_alternation(work, seed):
    """the kernel and uthin in turn on one pair of images; a copy of each state goes to the other one too"""
    chooser = random.Random(seed)
    disks = [os.path.join(work, "metadata"), os.path.join(work, "data")]
    for path, mib in zip(disks, (4, 32)):
        with open(path, "wb") as f:
            f.truncate(mib << 20)
    rounds = 20 if LONG else 2
    for number in range(rounds):
        path = os.path.join(work, "round.scenario")
        with open(path, "w", encoding="utf-8") as f:
            f.write(round_of(number, chooser))
        copies = [d + ".copy" for d in disks]
        for disk, copy in zip(disks, copies):
            lab.copy_sparse(disk, copy)
        with tempfile.TemporaryDirectory(dir=work) as here:
            kernel = by_kernel([path], here, disks if number % 2 == 0 else copies)["round.scenario"]
        done = subprocess.run([UTHIN, "on", *(copies if number % 2 == 0 else disks), path], text=True,
                              capture_output=True)
        mine, theirs = (os.path.join(work, n) for n in ("round.uthin", "round.kernel"))
        for name, text in ((mine, done.stdout), (theirs, kernel)):
            with open(name, "w", encoding="utf-8") as f:
                f.write(text)
        same = subprocess.run([UTHIN, "differences", path, theirs, mine], text=True, capture_output=True)
        if same.returncode != 0:
            print(f"round {number}:\n{same.stdout}{same.stderr}{done.stderr}")
            return False
    print(f"{rounds} rounds in turn on the same images agree, seed {seed}")
    return True


def main():
    lab.require()
    seed = int(os.environ.get("UTHIN_SEED", "20261127"))
    with tempfile.TemporaryDirectory(prefix="uthin-scenarios.") as work:
        if sys.argv[1:] == ["--record"]:
            record(work)
            return
        good = check_scenarios(work, seed)
        good = check_alternation(work, seed) and good
    sys.exit(0 if good else 1)


main()
