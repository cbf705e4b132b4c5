"""The parts of `benchmarks/gpu.sh`, one after another, each with a limit.

    bash benchmarks/gpu.sh [--data DIR] [--seconds N] [--parts NAMES] [--out FOLDER]    # on a GPU, at most ten minutes
    bash benchmarks/gpu.sh --dry                             # every part on the CPU with tiny sizes: whether it runs

A line is printed and OUT/gpu.json written as each row is there; OUT/gpu.md, the table, comes at the end. The exit
status is 1 where a check is not as it should be, or a part fails or had to be ended.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from gpu.bench import Bench, Row
from gpu.by_hand import by_hand
from gpu.each_op import each_op
from gpu.parts import Part, limited, rows_of
from gpu.report import shown, table, write
from gpu.same_again import same_again
from gpu.same_gradients import same_gradients
from gpu.same_pixels import same_pixels
from gpu.three_recipes import three_recipes
from gpu.to_94 import to_94
from gpu.updates import updates
from views import machine

GRACE = 15.0  # seconds that a row which has begun may take beyond its part's limit
PATIENT = 120.0  # seconds that a part of a dry run has, on a machine that is busy with other things


def about_gpu(bench: Bench) -> Iterator[Row]:
    """Which device it is."""
    if bench.device.type != "cuda":
        yield {"what": "no GPU"}
        return
    found = torch.cuda.get_device_properties(bench.device)
    yield {"what": found.name, "gib": found.total_memory / 2**30, "cuda": torch.version.cuda}


PARTS = {  # in this order: what must be right, what is asked for most, the rest
    "device": Part(about_gpu, 30),
    "same_pixels": Part(same_pixels, 60),
    "same_again": Part(same_again, 20),
    "same_gradients": Part(same_gradients, 30),
    "updates": Part(updates, 90),
    "to_94": Part(to_94, 180),
    "each_op": Part(each_op, 45),
    "three_recipes": Part(three_recipes, 120),
    "by_hand": Part(by_hand, 45),
}


def run_part(part: Part, bench: Bench, found: dict[str, Any], most: float) -> Iterator[None]:
    """Runs a part into `found`, its rows, seconds and how it ended; gives way after each row."""
    if most <= 0:
        found["ended"] = "no time was left"
        print(f"  {found['ended']}", flush=True)
        return
    began = time.monotonic()
    for row in rows_of(part, limited(part, bench, most), GRACE):
        if isinstance(row, str):
            found["ended"] = row
        else:
            found["rows"].append(row)
        print(f"  {row if isinstance(row, str) else shown(row)}", flush=True)
        found["seconds"] = time.monotonic() - began
        yield
    if not found["rows"] and not found["ended"]:
        found["ended"] = "it gave nothing"


def is_right(found: dict[str, Any]) -> bool:
    """Whether a part ended by itself, and all that it checked is as it should be."""
    return not found["ended"] and all(row.get("right", True) for row in found["rows"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, runs the parts, prints, writes; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU: does everything run?")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10, see data.root; without it images are synthetic")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--seconds", type=float, default=600.0, help="of all parts together")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives gpu.json, gpu.md and the run")
    args = parser.parse_args(arguments)
    names = args.parts.split(",")
    if missing := [name for name in names if name not in PARTS]:
        parser.error(f"no part {', '.join(missing)}; parts: {', '.join(PARTS)}")
    until = time.monotonic() + args.seconds
    bench = Bench(torch.device("cpu" if args.dry else "cuda"), args.dry, args.data, args.out, until)
    args.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {**machine(), "date": time.strftime("%Y-%m-%d"), "dry": args.dry, "parts": {}}
    for name in names:
        print(f"\n{name}", flush=True)
        part = Part(PARTS[name].run, PATIENT) if args.dry else PARTS[name]
        found = report["parts"][name] = {"rows": [], "seconds": 0.0, "ended": None}
        for _ in run_part(part, bench, found, until - time.monotonic() - GRACE):
            write(args.out / "gpu.json", report)
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    report["about"] = f"{report['cpu']}, {report['cores']} cores; {report['date']}; {versions}"
    report["failed"] = [name for name, found in report["parts"].items() if not is_right(found)]
    write(args.out / "gpu.json", report)
    (args.out / "gpu.md").write_text(table(report) + "\n")
    print(f"\n{report['about']}" + ("" if args.dry else f"\n{args.out / 'gpu.md'}"))
    print(f"not right: {', '.join(report['failed'])}" if report["failed"] else "all is right")
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
