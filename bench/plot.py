#!/usr/bin/env python3
"""plot.py FOLDER: pictures of the figures that ./dev bench left in FOLDER, by gnuplot.

engine.json, growth.json -> growth-*.svg (cost against size) and engine.svg (share of the raw device);
nbd.json -> nbd.svg (CPU of a request, ours and theirs).
"""
import json
import re
import subprocess
import sys
from pathlib import Path

SERIES = re.compile(r"growth/(\w+)/(\d+)/(.+)")


def gnuplot(picture, script, tables):
    """tables: {name: rows}, each a list of columns"""
    data = ""
    for name, rows in tables.items():
        lines = "\n".join(" ".join(f'"{c}"' if isinstance(c, str) else f"{c:g}" for c in row)
                          for row in rows)
        data += f"${name} << END_OF_TABLE\n{lines}\nEND_OF_TABLE\n"
    head = f"set terminal svg size 900,500 font 'sans,12'\nset output '{picture}'\nset grid\n"
    subprocess.run(["gnuplot"], input=head + data + script + "\n", text=True, check=True)
    print(picture)


def growth(folder, values):
    curves = {}
    for value in values:
        found = SERIES.fullmatch(value["name"])
        if found:
            what, size, cost = found.groups()
            curves.setdefault(what, {}).setdefault(f"{cost} ({value['unit']})", []).append(
                [int(size), value["value"]])
    for what, of in curves.items():
        tables = {f"t{i}": rows for i, rows in enumerate(of.values())}
        lines = ", ".join(f"$t{i} using 1:2 with linespoints title '{cost}'"
                          for i, cost in enumerate(of))
        gnuplot(folder / f"growth-{what}.svg",
                f"set logscale x\nset key outside\nset xlabel '{what}'\nset yrange [0:*]\nplot {lines}",
                tables)


def bars(picture, label, rows):
    gnuplot(picture, "set style fill solid 0.6\nset boxwidth 0.7\nset yrange [0:*]\n"
            f"set ylabel '{label}'\nset xtics rotate by -35 font ',9'\nset bmargin 9\n"
            "plot $t using 0:2:xtic(1) with boxes notitle, "
            "$t using 0:3 with points pointtype 7 title 'target'", {"t": rows})


def main():
    folder = Path(sys.argv[1])
    for name in ("engine", "growth"):
        if (folder / f"{name}.json").exists():
            figures = json.loads((folder / f"{name}.json").read_text())
            growth(folder, figures["values"])
            rows = [[row["name"], row["ratio_cpu"]["median"], row["at_least"]]
                    for row in figures["comparisons"] if "at_least" in row]
            if rows:
                bars(folder / f"{name}.svg", "throughput / raw device (CPU time)", rows)
    if (folder / "nbd.json").exists():
        rows = [[f"{row['load']} {row['ours']} / {row['theirs']}", row["ratio"]["cpu"], row["target"]]
                for row in json.loads((folder / "nbd.json").read_text())["rows"]]
        bars(folder / "nbd.svg", "CPU of the server / that of the other", rows)


if __name__ == "__main__":
    main()
