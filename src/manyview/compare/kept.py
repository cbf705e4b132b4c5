"""What runs kept of every image and task, in pairs: the same images for both recipes, the same tasks of one seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyview.compare.comparison import Comparison, Entry
from manyview.compare.images import OverImages, over_images
from manyview.compare.intervals import t_interval
from manyview.training.noted import read_noted
from manyview.training.predictions import kept_predictions

PREDICTED = {"top1": "predicted", "aggregated_top1": "aggregated_predicted"}
"""Measure -> what was kept of it."""

TASKS = "_tasks"

Kept = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class OverTasks:
    """Few-shot tasks of one seed, the same for two recipes. mean, low, high: of the difference, in percent, and its
    95 % interval, which is about the tasks that these images allow, not about other images or seeds.
    """

    tasks: int
    mean: float
    low: float
    high: float


def over_images_of(comparison: Comparison, main: str) -> dict[str, OverImages]:
    """Recipe -> what it and the reference say of each image, by the measure `main`.

    Seeds count whose runs of both were kept here and are of the same images; where a seed changes these, the first
    seed's, and what are its own.
    """
    name = PREDICTED.get(main)
    if name is None:
        return {}
    reference = _kept(comparison, comparison.entries[0])
    found = {}
    for entry in comparison.entries[1:]:
        ours = _kept(comparison, entry)
        pairs = [seed for seed in ours if seed in reference and name in ours[seed] and name in reference[seed]]
        marks = {seed: _mark(comparison, entry, seed) for seed in pairs}
        alike = [
            seed
            for seed in pairs
            if marks[seed] == marks[pairs[0]] == _mark(comparison, comparison.entries[0], seed)
            and _same_labels(ours[seed], reference[seed], ours[pairs[0]])
        ]
        if alike:
            labels = ours[alike[0]]["labels"].astype(np.int64)
            this, other = ({seed: of[seed][name].astype(np.int64) for seed in alike} for of in (ours, reference))
            found[entry.name] = over_images(this, other, labels)
    return found


def over_tasks_of(comparison: Comparison) -> dict[tuple[str, str], dict[int, OverTasks]]:
    """(measure, recipe) -> seed -> its few-shot tasks beside the reference's."""
    reference = _kept(comparison, comparison.entries[0])
    found: dict[tuple[str, str], dict[int, OverTasks]] = {}
    for entry in comparison.entries[1:]:
        for seed, ours in _kept(comparison, entry).items():
            theirs = reference.get(seed, {})
            for name in ours:
                if name.endswith(TASKS) and name in theirs and len(ours[name]) == len(theirs[name]):
                    pairs = _paired_tasks(ours[name].astype(np.float64) - theirs[name])
                    found.setdefault((name.removesuffix(TASKS), entry.name), {})[seed] = pairs
    return found


def _paired_tasks(difference: NDArray[np.float64]) -> OverTasks:
    low, high = t_interval(difference) or (-math.inf, math.inf)
    return OverTasks(len(difference), float(difference.mean()), low, high)


def _kept(comparison: Comparison, entry: Entry) -> dict[int, Kept]:
    kept = {seed: kept_predictions(comparison.run(entry, seed).folder, comparison.split) for seed in comparison.seeds}
    return {seed: arrays for seed, arrays in kept.items() if arrays}


def _mark(comparison: Comparison, entry: Entry, seed: int) -> Any:
    """Which images they are, as the run noted it: labels in the same order may be of others, as of sorted folders."""
    path = comparison.run(entry, seed).folder / "splits.json"
    return read_noted(path).get(comparison.split) if path.is_file() else None


def _same_labels(*kept: Kept) -> bool:
    first = kept[0].get("labels")
    return first is not None and all(np.array_equal(first, each.get("labels", ())) for each in kept[1:])
