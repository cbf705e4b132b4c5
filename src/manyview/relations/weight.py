"""How strongly a relation counts over a run: Tied-Augment's weight schedules, as pure functions.

In a recipe: `weight=20`, `weight=warmup(20)`, `weight=linear(20)`, `weight=random(20)`, `weight=random_sign(20)`,
`weight=alternating(20)`. The official code's "warmup" equals its "linear"; here they differ, as the names say. Its
"probabilistic" is `random_sign`, its "negate_odd" `alternating(20)`, its "negate_even" `alternating(-20)`. A negative
weight, or peak, pushes apart what a positive one ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from manyview.views.draws import Draws


@dataclass(frozen=True)
class Moment:
    """Where a run stands: updates done, the part of the run done in [0, 1], the seed, and whose weight is drawn."""

    update: int
    progress: float
    seed: int
    relation: str = ""


@dataclass(frozen=True)
class Weight:
    """A schedule and its peak, of either sign. `fraction`: the part of the run that `warmup` takes."""

    peak: float = 1.0
    schedule: str = "constant"
    fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown weight schedule '{self.schedule}'; schedules: {', '.join(SCHEDULES)}")
        if type(self.peak) not in (int, float) or not math.isfinite(self.peak):
            raise ValueError(f"weight must be a finite number, got {self.peak!r}")
        if type(self.fraction) not in (int, float) or not 0 < self.fraction <= 1:
            raise ValueError(f"warmup's fraction must be in (0, 1], got {self.fraction!r}")
        if self.fraction != 0.1 and self.schedule != "warmup":
            raise ValueError(f"only warmup takes a fraction of the run, {self.schedule} has none")

    def at(self, moment: Moment) -> float:
        """The weight at a moment of the run."""
        return self.peak * SCHEDULES[self.schedule](self, moment)

    @property
    def follows_progress(self) -> bool:
        """Whether it depends on how much of the run is done, so that the run's length must be known."""
        return self.schedule in ("warmup", "linear")

    def __str__(self) -> str:
        return f"{self.peak:g}" if self.schedule == "constant" else f"{self.schedule}({self.peak:g})"


def _uniform(moment: Moment) -> float:
    return float(Draws(moment.seed, 0, [moment.update], "weight", moment.relation).uniform("value")[0, 0])


SCHEDULES: dict[str, Callable[[Weight, Moment], float]] = {
    "constant": lambda weight, moment: 1.0,
    "warmup": lambda weight, moment: min(1.0, moment.progress / weight.fraction),
    "linear": lambda weight, moment: moment.progress,
    "random": lambda weight, moment: 2 * _uniform(moment) - 1,
    "random_sign": lambda weight, moment: 1.0 if _uniform(moment) < 0.5 else -1.0,
    "alternating": lambda weight, moment: -1.0 if moment.update % 2 else 1.0,
}
