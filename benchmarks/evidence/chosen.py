"""What the runs on validation decide, by the rules of docs/evidence.md: which trial of an arm, which arms go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from arms import ARMS, BASELINES, PHASES, SETTINGS, trials

from manyview.compare.intervals import paired

Lines = Sequence[Mapping[str, Any]]
SCREENED, GOES_ON, CLOSE = -3.0, -0.5, 1.0
"""Points of validation top-1 to the better baseline: an arm whose best trial is above the first is screened, one whose
screening is above the second claims, and one that is below the third as well does so with more seeds."""


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
    setting = SETTINGS[setting].tuned_in or setting
    found, asked = means(lines, setting, "tune"), trials(arm)
    if missing := [name for name in asked if name not in found]:
        raise SystemExit(f"{setting}: {arm} is not tuned, {missing[0]} is missing; run the phase tune first")
    return asked[max(asked, key=lambda name: found[name])]


def screened(lines: Lines, setting: str) -> list[str]:
    """The arms that are screened, baselines left out: all whose best trial is not far behind a baseline's."""
    found = means(lines, setting, "tune")
    best = {arm: max(found.get(name, -np.inf) for name in trials(arm)) for arm in ARMS}
    better = max(best[name] for name in BASELINES)
    return [arm for arm in ARMS if arm not in BASELINES and best[arm] - better > SCREENED]


def going_on(lines: Lines, setting: str, phase: str) -> list[str]:
    """The arms that a phase on test is for, baselines left out; those that are close, for `claim_close`."""
    if other := SETTINGS[setting].arms_of:
        return winners(lines, other)
    found = means(lines, setting, "screen")
    better = max(_of(found, name, setting) for name in BASELINES)
    differences = {arm: mean - better for arm, mean in found.items() if arm not in BASELINES}
    upper = CLOSE if phase == "claim_close" else np.inf
    return [arm for arm, difference in differences.items() if GOES_ON < difference < upper]


def winners(lines: Lines, setting: str) -> list[str]:
    """The arms whose interval on test lies above 0, the best three of them; where there is none, the best arm alone."""
    own = [line for line in lines if (line["setting"], line["split"]) == (setting, "test")]
    values: dict[str, dict[int, float]] = {}
    for line in own:
        values.setdefault(line["recipe"], {})[line["seed"]] = line["measures"]["top1"]
    mean = {name: float(np.mean([*of.values()])) for name, of in values.items()}
    better = max(BASELINES, key=lambda name: _of(mean, name, setting))
    found = {
        name: paired(np.array([of[seed] - values[better][seed] for seed in of if seed in values[better]]))
        for name, of in values.items()
        if name not in BASELINES
    }
    ranked = sorted(found, key=lambda name: -found[name].mean)
    above = [name for name in ranked if (interval := found[name].t) is not None and interval[0] > 0]
    return above[:3] or ranked[:1]


def _of(found: Mapping[str, float], name: str, setting: str) -> float:
    if name not in found:
        raise SystemExit(f"{setting}: {name} is missing; finish the phase before")
    return found[name]
