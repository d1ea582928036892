#!/usr/bin/env python3
"""./dev bench kernel: what dm-thin of the real kernel costs beside the RAM disk that it stands on.

bench_kernel.py [--rounds N]

Debian's kernel runs in an emulated machine (tests/kernel/lab, method icount) in which a nanosecond is one instruction: the figures
are instructions of fio's system call, the block layer and dm-thin for one request of 4 KiB at depth 1, and repeat on a busy
machine. N rounds (2), medians. Beside them the ratios of CPU time that the last `./dev bench engine` has measured
for uthin in one process, without system calls; "raw" of the new blocks is a plain write of 4 KiB for the kernel, and all that has
to be done (zero or copy 64 KiB, write 4 KiB) for ours. Figures go to build/bench/kernel.json.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = Path(os.environ.get("UTHIN_BENCH_DIR", ROOT / "build/bench"))
LAB = ROOT / "tests/kernel/lab/kernel-lab"


def guest():
    """-> {row: (raw, thin)}"""
    if shutil.which("qemu-system-x86_64") is None:
        sys.exit("bench kernel: qemu-system-x86_64 is missing; apt install qemu-system-x86")
    cache = os.environ.setdefault("KERNEL_LAB_CACHE", str(ROOT / ".cache/kernel-lab"))
    os.makedirs(cache, exist_ok=True)
    done = subprocess.run([LAB, "run", "--method", "icount", "--script", ROOT / "bench/kernel_ratio.sh", "--mem", "1400", "--fio",
                           "--timeout", "900"], stdout=subprocess.PIPE, text=True, check=False)
    rows = {}
    for line in done.stdout.splitlines():
        name, raw, thin = line.split()
        rows[name] = (int(raw), int(thin))
    if done.returncode != 0 or not rows or any(0 in pair for pair in rows.values()):
        sys.exit(f"bench kernel: the guest ended with {done.returncode}; it printed {done.stdout!r}")
    return rows


def ours():
    """-> {row: ratio} of the last ./dev bench engine, if there was one"""
    try:
        report = json.loads((OUT / "engine.json").read_text())
    except FileNotFoundError:
        return {}
    return {row["name"]: row["ratio_cpu"]["median"] for row in report["comparisons"]}


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = [guest() for _ in range(parser.parse_args().rounds)]
    engine = ours()
    report = []
    print(f"{'row':<26}{'raw':>8}{'dm-thin':>9}{'of raw':>8}  {'uthin, of raw':<14}")
    for name in rounds[0]:
        raw, thin = (statistics.median(one[name][i] for one in rounds) for i in (0, 1))
        report.append({"name": name, "raw": raw, "thin": thin, "ratio": raw / thin, "uthin": engine.get(name)})
        mine = f"{engine[name]:.2f}" if name in engine else "-"
        print(f"{name:<26}{raw:>8.0f}{thin:>9.0f}{raw / thin:>8.2f}  {mine:<14}")
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "kernel.json").write_text(json.dumps({"rounds": rounds, "rows": report}, indent=1) + "\n")


if __name__ == "__main__":
    main()
