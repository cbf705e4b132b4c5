"""Runs of docs/evidence.md, one phase of one setting, at equal FLOPs:

    python benchmarks/evidence/run.py SETTING PHASE ROOT OUT [ARM]…

SETTING and PHASE: see arms.py. ROOT holds CIFAR-10 (see `data.root`). Every finished run becomes a line of runs.jsonl
beside this file; what stands there is not trained again, here or on another machine. What phases on validation decide
(the best trial of each arm, the arms that go on) is read from there, too. ARM: only these; the baselines are always
among them, and the first of them is the reference. Then:  python benchmarks/evidence/tables.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from arms import ARMS, BASELINES, PHASES, SETTINGS, trials
from chosen import going_on, tuned

from manyview.compare.compare import compare
from manyview.compare.ledger import read_lines

HERE = Path(__file__).parent
RUNS = HERE / "runs.jsonl"


def recipes(setting: str, phase: str, only: list[str], runs: Path = RUNS) -> dict[str, tuple[str, ...]]:
    """Name -> overrides of base.yaml, of all that a phase trains."""
    lines = read_lines(runs)
    asked = only or (going_on(lines, setting, phase) if PHASES[phase].split == "test" else list(ARMS))
    arms = [*BASELINES, *(arm for arm in asked if arm not in BASELINES)]
    if phase == "tune":
        return {name: (*ARMS[arm], *tried) for arm in arms for name, tried in trials(arm).items()}
    return {arm: (*ARMS[arm], *tuned(lines, setting, arm)) for arm in arms}


def main(setting: str, phase: str, root: str, out: str, *only: str) -> None:
    """Trains what is not there yet and prints the tables of `manyview compare`."""
    asked, made = PHASES[phase], recipes(setting, phase, list(only))
    compare(
        [f"{HERE / 'base.yaml'}@{name}" for name in made],
        Path(out) / f"{setting}-{phase}",
        seeds=asked.seeds,
        first_seed=asked.first,
        overrides=[
            f"data.root={root}",
            *SETTINGS[setting],
            *(f"{name}:{override}" for name, overrides in made.items() for override in overrides),
        ],
        budget="flops",
        measure="top1",
        split=asked.split,
        runs=RUNS,
        setting=setting if asked.split == "test" else f"{setting}/{phase}",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
