"""What runs decide by the rules of docs/evidence.md: on validation, which trial of an arm and which arms go on; on
test, which two of `overfitted` go on to other settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from arms import PHASES, SETTINGS, trials
from tables import rows

Lines = Sequence[Mapping[str, Any]]
SCREENED, GOES_ON, CLOSE = -3.0, 0.0, 1.0
"""Points of validation top-1 to the better baseline: an arm whose best trial is above the first is screened, one whose
screening is above the second claims, and one that is below the third as well does so with more seeds."""


def means(lines: Lines, setting: str, phase: str) -> dict[str, float]:
    """Recipe -> its mean of validation's primary measure over the seeds of a phase.

    Raises SystemExit where one is missing.
    """
    asked, (measure, _) = PHASES[phase], SETTINGS[setting].measure
    seeds = range(asked.first, asked.first + asked.seeds)
    own = [line for line in lines if (line["setting"], line["split"]) == (f"{setting}/{phase}", "val")]
    found: dict[str, float] = {}
    for recipe in dict.fromkeys(line["recipe"] for line in own):
        values = {line["seed"]: line["measures"].get(measure) for line in own if line["recipe"] == recipe}
        if missing := [seed for seed in seeds if values.get(seed) is None]:
            raise SystemExit(f"{setting}/{phase}: {recipe} has no result of seed {missing[0]}; finish that phase first")
        found[recipe] = float(np.mean([values[seed] for seed in seeds]))
    return found


def tuned(lines: Lines, setting: str, arm: str) -> tuple[str, ...]:
    """The best trial's overrides; none in a setting that tunes nothing.

    Raises SystemExit where an arm was not tuned with all of its trials.
    """
    if not SETTINGS[setting].tunes:
        return ()
    setting = SETTINGS[setting].tuned_in or setting
    return trials(arm)[_best(means(lines, setting, "tune"), setting, arm)]


def screened(lines: Lines, setting: str) -> list[str]:
    """The arms that are screened, baselines left out: all whose best trial is not far behind a baseline's.

    Raises SystemExit where an arm was not tuned with all of its trials.
    """
    found, of = means(lines, setting, "tune"), SETTINGS[setting]
    best = {arm: found[_best(found, setting, arm)] for arm in of.arms}
    better = max(best[name] for name in of.baselines)
    return [arm for arm in of.arms if arm not in of.baselines and best[arm] - better > SCREENED]


def _best(found: Mapping[str, float], setting: str, arm: str) -> str:
    asked = trials(arm)
    if missing := [name for name in asked if name not in found]:
        raise SystemExit(f"{setting}: {arm} is not tuned, {missing[0]} is missing; run the phase tune first")
    return max(asked, key=lambda name: found[name])


def going_on(lines: Lines, setting: str, phase: str) -> list[str]:
    """The arms that a phase behind the screening is for, baselines left out; those that are close, for `claim_close`.

    A setting whose arms come from another screens none of its own: its arms that were close there are. One that has
    arms of its own and screens none has all of them claim.
    """
    of = SETTINGS[setting]
    other = of.arms_of
    if other is None and not of.screens:
        return [arm for arm in of.arms if arm not in of.baselines]
    close = _close(lines, other or setting, CLOSE if phase == "claim_close" else np.inf)
    return close if other is None else [arm for arm in winners(lines, other) if phase != "claim_close" or arm in close]


def _close(lines: Lines, setting: str, upper: float) -> list[str]:
    """The arms of a screening that went on and were less than `upper` ahead."""
    found, asked = means(lines, setting, "screen"), screened(lines, setting)
    baselines = SETTINGS[setting].baselines
    if missing := [name for name in (*baselines, *asked) if name not in found]:
        raise SystemExit(f"{setting}: {missing[0]} is not screened; finish the phase screen first")
    better = max(found[name] for name in baselines)
    return [arm for arm in asked if GOES_ON < found[arm] - better < upper]


def winners(lines: Lines, setting: str) -> list[str]:
    """The arms whose interval on test lies above 0, the best two of them; where there is none, the best arm alone.

    Raises SystemExit unless all that went on have claimed with the seeds of `claim`.
    """
    made, baselines = rows(lines, setting), SETTINGS[setting].baselines
    claimed = {row.arm: row.values for row in made}
    for arm in (*baselines, *going_on(lines, setting, "claim")):
        if missing := [seed for seed in range(PHASES["claim"].seeds) if seed not in claimed.get(arm, {})]:
            raise SystemExit(f"{setting}: {arm} has no claim of seed {missing[0]}; finish the phase claim first")
    ranked = [row for row in made if row.arm not in baselines]
    above = [row.arm for row in ranked if row.ahead]
    return above[:2] or [row.arm for row in ranked[:1]]
