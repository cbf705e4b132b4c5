"""How long each recipe of a comparison trains, so that all are given the same: operations, passes, images, or time."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from manyview.data import Splits
from manyview.data.batch import Batch
from manyview.data.loader import stream
from manyview.data.render import choose_rendering
from manyview.errors import RunError
from manyview.foundation.environment import best_device
from manyview.foundation.files import read_mapping, write_json
from manyview.optimize.optimize import clock_of, images_of, make_optimizer, make_schedule
from manyview.recipe.batches import batches_of
from manyview.recipe.recipe import Recipe
from manyview.recipe.stepping import rows_per_image
from manyview.recipe.streams import read_of
from manyview.show.one_update import one_update
from manyview.step import Step
from manyview.training.recompute import save_memory

BUDGETS = {
    "flops": "as many floating-point operations as the first recipe: forward, backward, teachers and second passes at "
    "their own cost",
    "images": "as many images as the first recipe sees",
    "forwards": "as many images through the networks as the first recipe, all views, branches and passes counted",
    "seconds": "as long as the first recipe takes, by the time of a training step on this machine",
    "own": "its own length",
}
ROUNDS, WARM_UP, TIMED = 5, 4, 8  # in each round, every recipe's steps before the clock starts, and those it counts


@dataclass(frozen=True)
class Length:
    """What a recipe is given. images_per_step: of all streams. rows_per_image: that pass networks, see `Step`.

    flops_per_step: floating-point operations of an update, see `show.step_flops`; None where they cannot be counted.
    """

    steps: int
    steps_per_epoch: int
    images_per_step: int
    rows_per_image: float
    flops_per_step: int | None = None

    @property
    def flops(self) -> int | None:
        """Of all updates."""
        return None if self.flops_per_step is None else self.steps * self.flops_per_step

    @property
    def images(self) -> int:
        """Images seen, repetitions counted."""
        return self.steps * self.images_per_step

    @property
    def forwards(self) -> int:
        """Images that pass networks in training: each view, each branch that looks at it, and each time, is one."""
        return round(self.images * self.rows_per_image)

    @property
    def epochs(self) -> float:
        """Epochs, in parts."""
        return self.steps / self.steps_per_epoch


def own_length(recipe: Recipe, counts: Mapping[str, int], rows: Mapping[str, int]) -> Length:
    """The length that a recipe asks for on so many images of each stream. rows: that pass networks for one of each."""
    clock, images = clock_of(recipe.train, counts), images_of(recipe.train, counts)
    return Length(clock.steps, clock.steps_per_epoch, sum(images.values()), rows_per_image(rows, images))


def equal_steps(own: Length, reference: Length, budget: str, speed: tuple[float, float] | None = None) -> int:
    """The number of steps, at least 1, that comes nearest to what the reference is given.

    budget: one of BUDGETS. speed: seconds a step of this recipe and of the reference, for `seconds`.
    """
    match budget:
        case "own":
            return own.steps
        case "images":
            total, each = float(reference.images), float(own.images_per_step)
        case "forwards":
            total, each = float(reference.forwards), float(own.images_per_step * own.rows_per_image)
        case "flops" if own.flops_per_step and reference.flops:
            total, each = float(reference.flops), float(own.flops_per_step)
        case "seconds" if speed is not None:
            total, each = reference.steps * speed[1], speed[0]
        case _:
            raise ValueError(
                f"budget is one of {', '.join(BUDGETS)}; seconds needs the speeds, flops their counts; got {budget!r}"
            )
    return max(1, math.floor(total / each + 0.5))


# ---------------------------------------------------------------------------------------------------------------- time


def step_seconds(path: Path, recipes: Mapping[str, tuple[Recipe, Step]], splits: Splits) -> dict[str, float]:
    """Recipe -> seconds of a training step on this machine; the first recipe is the reference.

    They are kept in the file `path`, so that a comparison that goes on uses the same. A recipe that is not in it, or
    has changed, is timed beside the reference, and only the ratio of the two is taken. Raises RunError.
    """
    marks = {name: _mark(recipe) for name, (recipe, _) in recipes.items()}
    known = {name: seconds for name, (mark, seconds) in _read(path).items() if marks.get(name) == mark}
    reference = next(iter(recipes))
    if reference not in known:
        known = {}  # timed beside another
    missing = [name for name in recipes if name not in known]
    if missing:
        timed = time_steps({name: recipes[name] for name in dict.fromkeys([reference, *missing])}, splits)
        scale = known.get(reference, timed[reference]) / timed[reference]
        known |= {name: timed[name] * scale for name in missing}
        write_json(path, {name: {"recipe": marks[name], "seconds_per_step": known[name]} for name in recipes})
    return known


def _mark(recipe: Recipe) -> str:
    return hashlib.blake2b(recipe.to_yaml().encode(), digest_size=16).hexdigest()


def _read(path: Path) -> dict[str, tuple[str, float]]:
    """Recipe -> its mark and its seconds a step, as they were written."""
    try:
        kept: Any = read_mapping(path) if path.is_file() else {}
        found = {name: (entry["recipe"], float(entry["seconds_per_step"])) for name, entry in kept.items()}
        if odd := [seconds for _, seconds in found.values() if not 0 < seconds < math.inf]:
            raise ValueError(f"{odd[0]:g} seconds a step")
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged: {error}; remove it, and the recipes are timed anew") from None


def time_steps(recipes: Mapping[str, tuple[Recipe, Step]], splits: Splits) -> dict[str, float]:
    """Name -> the time of a training step in seconds, data and views included: the median of some rounds.

    In each round the recipes take turns, and each begins with steps that are not counted; so whatever slows the machine
    meets all of them alike, and none renders views while another is timed. The steps are trained by it.
    """
    trials = {name: _Trial.of(recipe, step, splits) for name, (recipe, step) in recipes.items()}
    times: dict[str, list[float]] = {name: [] for name in recipes}
    for number in range(ROUNDS):
        for name, trial in trials.items():
            times[name].append(trial.seconds(number * (WARM_UP + TIMED)))
    return {name: median(found) for name, found in times.items()}


@dataclass(frozen=True)
class _Trial:
    """Training steps as `train` makes them, but for what it logs, measures and saves."""

    recipe: Recipe
    step: Step
    optimizer: torch.optim.Optimizer
    set_lr: Callable[[int], float]
    stream: Callable[[int, int], Generator[Batch, None, None]]
    device: torch.device

    @classmethod
    def of(cls, recipe: Recipe, step: Step, splits: Splits) -> _Trial:
        """With views made where training makes them."""
        splits = read_of(recipe, splits)
        train, device = recipe.train, torch.device(best_device())
        clock = clock_of(train, splits.counts)
        place = choose_rendering(recipe.data.render, splits.streams.values(), device.type).place
        batches = batches_of(recipe, splits, place, step.num_classes)

        def steps(first: int, stop: int) -> Generator[Batch, None, None]:
            return stream(batches, first, stop, place, recipe.data.workers, pin=device.type == "cuda")

        step.train().to(device)
        save_memory(step)
        if train.compile:
            step.compile_parts()
        optimizer = make_optimizer(train, step)
        step.attach(optimizer)
        return cls(recipe, step, optimizer, make_schedule(train, optimizer, clock), steps, device)

    def seconds(self, first: int) -> float:
        """The mean time of TIMED steps after WARM_UP others, from step `first` on."""
        train, began = self.recipe.train, 0.0
        stop = first + WARM_UP + TIMED
        with closing(self.stream(first * train.accumulate, stop * train.accumulate)) as stream:
            for number in range(first, stop):
                if number == first + WARM_UP:
                    began = self._now()
                self.set_lr(number)
                read = (next(stream).to(self.device) for _ in range(train.accumulate))
                one_update(self.step, self.optimizer, read)
            return (self._now() - began) / TIMED

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
