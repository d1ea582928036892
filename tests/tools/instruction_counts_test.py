#!/usr/bin/env python3
"""Instructions of lookup, insert, remove, breaking of sharing, commit and snapshot, as callgrind counts
them, against bench/instruction_counts.json: at most a tenth more. Counts do not depend on what else the
machine does. A snapshot of 64 GiB takes as many as one of 1 GiB (at most a tenth more); with UTHIN_TIER=1
so does one of 1 TiB.

instruction_counts_test.py [--renew]   --renew: what is counted now becomes the baseline (see
docs/benchmarking.md: with a new compiler, or for a change that is worth it and says why)."""
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(os.environ.get("UTHIN_SOURCE", Path(__file__).resolve().parents[2]))
BIN = Path(os.environ.get("UTHIN_BIN", SOURCE / "build/release/bin"))
BASELINE = SOURCE / "bench/instruction_counts.json"
MORE_AT_MOST = 1.10
# Another compiler or C library lays code out in another way.
MORE_AT_MOST_ELSEWHERE = 1.25
SIZE_MATTERS_AT_MOST = 1.10
# The C library's copying must not depend on what the processor is good at.
TUNABLES = "glibc.cpu.hwcaps=-ERMS,-FSRM,-AVX512F,-AVX512VL,-AVX2"


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


def toolchain():
    with open(BIN / "uthin-bench-counts", "rb") as f:
        compilers = sorted(set(re.findall(rb"GCC: \([^)]*\) [0-9.]+|clang version [0-9.]+", f.read())))
    return {"machine": platform.machine(), "compiler": b", ".join(compilers).decode(),
            "libc": platform.libc_ver()[1]}


def count(names):
    """{workload: instructions}"""
    with tempfile.TemporaryDirectory(prefix="uthin-counts-") as folder:
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no",
                   f"--callgrind-out-file={folder}/out", str(BIN / "uthin-bench-counts"), *names]
        environment = {**os.environ, "GLIBC_TUNABLES": TUNABLES}
        try:
            ran = subprocess.run(command, env=environment, capture_output=True, text=True)
        except FileNotFoundError:
            skip("valgrind is not installed (./dev setup)")
        if ran.returncode != 0:
            if "uthin-bench-counts:" in ran.stderr:
                sys.exit(ran.stderr)
            skip(f"valgrind cannot run here: {ran.stderr.strip().splitlines()[-1:]}")
        found = {}
        for dump in Path(folder).iterdir():
            text = dump.read_text()
            name = re.search(r"^desc: Trigger: Client Request: (\S+)$", text, re.M)
            total = re.search(r"^(?:totals|summary): (\d+)", text, re.M)
            if name and total:
                found[name.group(1)] = int(total.group(1))
        return found


def compare(counts, baseline):
    """problems found"""
    here = toolchain()
    same = all(here[key] == baseline["toolchain"][key] for key in here)
    limit = MORE_AT_MOST if same else MORE_AT_MOST_ELSEWHERE
    if not same:
        print(f"another toolchain than the baseline's ({here} instead of {baseline['toolchain']}): "
              f"the limit is {limit}")
    for name, expected in baseline["instructions"].items():
        if name not in counts:
            yield f"{name}: not counted"
            continue
        ratio = counts[name] / expected
        print(f"{name:<22}{counts[name]:>12} instructions, baseline {expected:>12}: {ratio:.3f}")
        if ratio > limit:
            yield (f"{name}: {counts[name]} instructions instead of {expected}; if they are worth it, "
                   f"renew with {sys.argv[0]} --renew and say why")
    for name in ("snapshot-64g", "snapshot-1t"):
        if name in counts:
            size = counts[name] / counts["snapshot-1g"]
            print(f"{name} against snapshot-1g: {size:.3f}")
            if size > SIZE_MATTERS_AT_MOST:
                yield f"{name} takes {size:.3f} times the instructions of snapshot-1g"


def main():
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"toolchain": {}}
    renew = sys.argv[1:] == ["--renew"]
    if not renew and platform.machine() != baseline["toolchain"].get("machine"):
        skip(f"the baseline is of {baseline['toolchain'].get('machine')}, this is {platform.machine()}")
    counts = count([])
    if int(os.environ.get("UTHIN_TIER", "0")) > 0 and not renew:
        counts.update(count(["snapshot-1t"]))
    if renew:
        new = {"toolchain": toolchain(), "instructions": dict(sorted(counts.items()))}
        BASELINE.write_text(json.dumps(new, indent=1) + "\n")
        print(f"{BASELINE}: {len(counts)} workloads")
        return
    problems = list(compare(counts, baseline))
    for problem in problems:
        print(f"FAILED {problem}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
