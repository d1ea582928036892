#!/usr/bin/env python3
"""./dev bench tools: our thin_* tools side by side with thin-provisioning-tools 1.1.0.

bench_tools.py [--rounds N] [--mappings N] [--only TOOL[,TOOL]] [--input NAME[,NAME]] [--ours-only]

Each row runs ours and theirs in turns, N rounds (5), and prints medians. CPU is user + system time
of the process; ratios below 1 are in our favour. The last columns say what the row is held to and
how far ours is from the floor: reading the file once with one checksum of each block.
Everything lies in build/bench, the figures in build/bench/tools.json.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(os.environ.get("UTHIN_BIN", ROOT / "build/release/bin"))
THEIRS = Path(os.environ.get("UTHIN_PEER_BIN", ROOT / ".cache/thin-tools-1/bin"))
WORK = Path(os.environ.get("UTHIN_BENCH_DIR", ROOT / "build/bench"))
TARGETS = {"check": 0.3, "dump": 0.25, "restore": 0.5, "repair": 0.3, "delta": 0.5, "ls": 0.4,
           "rmap": 0.5}
MEMORY_MARGIN = 16 << 20
SMALL_POOL_WALL = 0.020
INPUTS = {
    "fragmented": "run length 1",
    "runs": "runs of 1024",
    "snapshots": "1000 snapshots of one tree",
}


def measured(command):
    line = subprocess.run([BIN / "uthin-bench-measure", "run", *map(str, command)], check=True,
                          stdout=subprocess.PIPE, text=True).stdout.split()
    if line[3] != "0":
        sys.exit(f"bench: {' '.join(map(str, command))} ended with {line[3]}")
    return {"wall": float(line[0]), "cpu": float(line[1]), "peak": int(line[2])}


def make_inputs(names, mappings):
    WORK.mkdir(parents=True, exist_ok=True)
    for name in names:
        count = {"snapshots": mappings // 100, "small": 1000}.get(name, mappings)
        image = WORK / f"{name}-{count}.bin"
        if not image.exists():
            partial = image.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            subprocess.run([BIN / "uthin-bench-images", name, partial, str(count)], check=True)
            partial.rename(image)
        xml = image.with_suffix(".xml")
        if not xml.exists():
            subprocess.run([THEIRS / "thin_dump", image, "-o", xml], check=True,
                           stderr=subprocess.DEVNULL)
        yield name, image, xml


def arguments(tool, image, xml, output):
    return {
        "check": [image],
        "dump": [image],
        "restore": ["-i", xml, "-o", output],
        "repair": ["-i", image, "-o", output],
        "delta": ["--snap1", 1, "--snap2", 2, image],
        "ls": ["-o", "DEV,MAPPED,EXCLUSIVE,SHARED", image],
        "rmap": ["--region", "0..500" if "snapshots" in image.name else "0..500000", image],
    }[tool]


def sides(tool, image, xml, ours_only):
    found = {}
    for side, folder in (("ours", BIN), ("theirs", THEIRS)):
        output = WORK / f"output.{side}"
        if not (folder / f"thin_{tool}").exists() or (side == "theirs" and ours_only):
            continue
        with open(output, "ab") as file:
            file.truncate(image.stat().st_size)
        found[side] = [folder / f"thin_{tool}", *arguments(tool, image, xml, output)]
    return found


def compare(commands, rounds):
    """The medians of each side, interleaved; the spread is (max - min) / median."""
    runs = {side: [] for side in commands}
    for _ in range(rounds):
        for side, command in commands.items():
            runs[side].append(measured(command))
    row = {}
    for side, of_side in runs.items():
        for key in ("wall", "cpu", "peak"):
            values = [run[key] for run in of_side]
            median = statistics.median(values)
            row.setdefault(side, {})[key] = median
            row[side][key + "_spread"] = (max(values) - min(values)) / median if median else 0.0
    if len(row) == 2:
        row["ratio"] = {key: row["ours"][key] / max(row["theirs"][key], 1e-3)
                        for key in ("wall", "cpu")}
        row["memory_above"] = row["ours"]["peak"] - row["theirs"]["peak"]
    return row


def print_row(name, tool, row, floor):
    ours = row["ours"]
    text = (f"{name:<11}{tool:<8}{ours['cpu'] * 1e3:8.0f} ±{ours['cpu_spread'] * 50:3.0f}%"
            f"{ours['wall'] * 1e3:8.0f} ms{ours['peak'] / 2**20:7.0f} MiB")
    if "theirs" in row:
        theirs, ratio, target = row["theirs"], row["ratio"], TARGETS[tool]
        row["met"] = (ratio["cpu"] <= target and ratio["wall"] <= target and
                      row["memory_above"] <= MEMORY_MARGIN)
        text += (f" |{theirs['cpu'] * 1e3:8.0f} ±{theirs['cpu_spread'] * 50:3.0f}%"
                 f"{theirs['wall'] * 1e3:8.0f} ms{theirs['peak'] / 2**20:7.0f} MiB"
                 f" |{ratio['cpu']:6.2f}{ratio['wall']:6.2f}  {target:<5}"
                 f"{'met' if row['met'] else 'MISSED':<7}")
    row["floors"] = ours["cpu"] / floor["cpu"] if floor["cpu"] else 0.0
    print(text + f"{row['floors']:5.1f} floors", flush=True)


def bench_small(rounds, wanted, ours_only):
    report = {}
    for name, image, xml in make_inputs(["small"], 0):
        print(f"\nsmall pool, start to end (at most {SMALL_POOL_WALL * 1e3:.0f} ms)")
        for tool in wanted:
            commands = sides(tool, image, xml, ours_only)
            if "ours" not in commands:
                continue
            row = compare(commands, rounds)
            row["met"] = row["ours"]["wall"] <= SMALL_POOL_WALL
            report[tool] = row
            theirs = f"   theirs {row['theirs']['wall'] * 1e3:6.1f} ms" if "theirs" in row else ""
            print(f"  thin_{tool:<8}{row['ours']['wall'] * 1e3:6.1f} ms{theirs}   "
                  f"{'met' if row['met'] else 'MISSED'}", flush=True)
    return report


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mappings", type=int, default=5_000_000)
    parser.add_argument("--only", default=",".join(TARGETS))
    parser.add_argument("--input", default=",".join(INPUTS))
    parser.add_argument("--ours-only", action="store_true")
    options = parser.parse_args()
    wanted = options.only.split(",")
    version = subprocess.run([THEIRS / "thin_check", "-V"], stdout=subprocess.PIPE, text=True,
                             check=True).stdout.strip()
    print(f"thin-provisioning-tools {version}, {platform.machine()}, {os.cpu_count()} CPUs, "
          f"load {os.getloadavg()[0]:.1f}, {options.rounds} rounds\n")
    print(f"{'input':<11}{'tool':<8}{'ours: CPU ms':>14}{'wall':>9}{'peak':>11} |"
          f"{'theirs: CPU ms':>14}{'wall':>11}{'peak':>10} |{'CPU':>6}{'wall':>6}  target")
    report = {"peer": version, "cpus": os.cpu_count(), "mappings": options.mappings, "rows": {}}
    for name, image, xml in make_inputs(options.input.split(","), options.mappings):
        floor = compare({"ours": [BIN / "uthin-bench-measure", "floor", image]},
                        options.rounds)["ours"]
        print(f"{name:<11}{'floor':<8}{floor['cpu'] * 1e3:8.0f} ±{floor['cpu_spread'] * 50:3.0f}%"
              f"{floor['wall'] * 1e3:8.0f} ms   {INPUTS[name]}, {image.stat().st_size >> 20} MiB",
              flush=True)
        rows = report["rows"].setdefault(name, {"floor": floor})
        for tool in wanted:
            commands = sides(tool, image, xml, options.ours_only)
            if "ours" in commands:
                rows[tool] = compare(commands, options.rounds)
                print_row(name, tool, rows[tool], floor)
    report["small"] = bench_small(options.rounds, wanted, options.ours_only)
    for side in ("ours", "theirs"):
        (WORK / f"output.{side}").unlink(missing_ok=True)
    (WORK / "tools.json").write_text(json.dumps(report, indent=1) + "\n")
    missed = [row for rows in [*report["rows"].values(), report["small"]]
              for row in rows.values() if row.get("met") is False]
    print(f"\n{len(missed)} rows missed their target; figures in {WORK / 'tools.json'}")


if __name__ == "__main__":
    main()
