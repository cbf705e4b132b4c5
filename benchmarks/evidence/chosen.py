"""What the runs on validation decide, by the rules of docs/evidence.md: which trial of an arm, which arms go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from arms import BASELINES, PHASES, trials

Lines = Sequence[Mapping[str, Any]]
GOES_ON, CLOSE = -0.5, 1.0
"""Points of validation top-1 to the better baseline: above the one an arm goes on, below the other with more seeds."""


def means(lines: Lines, setting: str, phase: str) -> dict[str, float]:
    """Recipe -> its mean of validation top-1 over the seeds of a phase. Raises SystemExit where one is missing."""
    asked = PHASES[phase]
    seeds = range(asked.first, asked.first + asked.seeds)
    own = [line for line in lines if (line["setting"], line["split"]) == (f"{setting}/{phase}", "val")]
    found: dict[str, float] = {}
    for recipe in dict.fromkeys(line["recipe"] for line in own):
        values = {line["seed"]: line["measures"]["top1"] for line in own if line["recipe"] == recipe}
        if missing := [seed for seed in seeds if values.get(seed) is None]:
            raise SystemExit(f"{setting}/{phase}: {recipe} has no result of seed {missing[0]}; finish that phase first")
        found[recipe] = float(np.mean([values[seed] for seed in seeds]))
    return found


def tuned(lines: Lines, setting: str, arm: str) -> tuple[str, ...]:
    """The best trial's overrides. Raises SystemExit where an arm was not tuned with all of its trials."""
    found, asked = means(lines, setting, "tune"), trials(arm)
    if missing := [name for name in asked if name not in found]:
        raise SystemExit(f"{setting}: {arm} is not tuned, {missing[0]} is missing; run the phase tune first")
    return asked[max(asked, key=lambda name: found[name])]


def going_on(lines: Lines, setting: str, phase: str) -> list[str]:
    """The arms that a phase on test is for, baselines left out; those that are close, for `claim_close`."""
    found = means(lines, setting, "screen")
    if missing := [name for name in BASELINES if name not in found]:
        raise SystemExit(f"{setting}: {missing[0]} is not screened; run the phase screen first")
    better = max(found[name] for name in BASELINES)
    differences = {arm: mean - better for arm, mean in found.items() if arm not in BASELINES}
    upper = CLOSE if phase == "claim_close" else np.inf
    return [arm for arm, difference in differences.items() if GOES_ON < difference < upper]
