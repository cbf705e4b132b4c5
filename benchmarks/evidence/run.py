"""Runs of docs/evidence.md, one phase of one setting, at equal FLOPs:

    python benchmarks/evidence/run.py SETTING PHASE ROOT OUT [--arms ARM,…] [--part K/N]

SETTING and PHASE: see arms.py. ROOT holds the folders cifar10 and tiny-imagenet, as parquet files. Every finished run
becomes a line of runs.jsonl beside this file; what stands there is not trained again, here or on another machine. What
phases on validation decide (the best trial of each arm, the arms that go on) is read from there, too. --arms: only
these; the baselines are always among them, and the first of them is the reference. --part 1/2: every second recipe
alone, where another process trains the others. Then:  python benchmarks/evidence/tables.py
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from arms import EDGE, PHASES, SETTINGS, trials
from chosen import Lines, going_on, screened, tuned, winners
from tiny20 import tiny20

from manyview.compare.compare import compare
from manyview.compare.ledger import read_lines

HERE = Path(__file__).parent
RUNS = HERE / "runs.jsonl"


def recipes(setting: str, phase: str, only: Sequence[str], runs: Path = RUNS) -> dict[str, tuple[str, ...]]:
    """Name -> overrides of the setting's base, of all that a phase trains.

    Raises SystemExit for a phase that there is not.
    """
    lines, of = read_lines(runs), SETTINGS[setting]
    if phase == "tune" and (of.tuned_in or not of.tunes):
        whose = f"its trials are those of {of.tuned_in}" if of.tuned_in else "its arms are as published"
        raise SystemExit(f"{setting}: nothing is tuned on it; {whose}")
    if phase in ("screen", "edge") and not of.screens:
        whose = f"the best two of {of.arms_of}" if of.arms_of else "all that it has"
        raise SystemExit(f"{setting}: nothing is screened on it; its arms are {whose}")
    asked = only or _asked(lines, setting, phase)
    arms = [*of.baselines, *(arm for arm in asked if arm not in of.baselines)]
    if phase == "tune":
        return {name: (*of.arms[arm], *tried) for arm in arms for name, tried in trials(arm).items()}
    beyond = (EDGE,) if phase == "edge" else ()
    return {arm: (*of.arms[arm], *tuned(lines, setting, arm), *beyond) for arm in arms}


def _asked(lines: Lines, setting: str, phase: str) -> list[str]:
    if phase == "edge":
        return winners(lines, setting)
    if PHASES[phase].split == "test" or SETTINGS[setting].arms_of:
        return going_on(lines, setting, phase)
    return list(SETTINGS[setting].arms) if phase == "tune" else screened(lines, setting)


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    part, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"wanted K/N with K from 1 to N, as 1/2, got {text!r}")
    return part, parts


def main() -> None:
    """Trains what is not there yet and prints the tables of `manyview compare`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("phase", choices=PHASES)
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", type=lambda text: text.split(","), default=[])
    parser.add_argument("--part", type=_part, default=(1, 1))
    args = parser.parse_args()
    setting, asked, (part, parts) = SETTINGS[args.setting], PHASES[args.phase], args.part
    if unknown := [name for name in args.arms if name not in setting.arms]:
        parser.error(f"{args.setting}: no arm is called {unknown[0]!r}; arms: {', '.join(setting.arms)}")
    made = recipes(args.setting, args.phase, args.arms)
    if setting.data == "tiny-20":
        tiny20(args.root / "tiny-imagenet", args.out / "tiny-20")
    compare(
        [f"{HERE / setting.base}@{name}" for name in made],
        args.out / f"{args.setting}-{args.phase}",
        seeds=asked.seeds,
        first_seed=asked.first,
        overrides=[
            f"data.root={(args.out if setting.data == 'tiny-20' else args.root) / setting.data}",
            *setting.overrides,
            *(f"{name}:{override}" for name, overrides in made.items() for override in overrides),
        ],
        budget="flops",
        measure=setting.measure[0],
        split=asked.split,
        only=list(made)[part - 1 :: parts],
        runs=RUNS,
        setting=args.setting if asked.split == "test" else f"{args.setting}/{args.phase}",
    )


if __name__ == "__main__":
    main()
