"""What a step makes of its splits: each goes through the network once, whatever is then measured."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
import torch
from torch import Tensor

from manyview.branches import FEATURES, LOGITS
from manyview.data import Images, Splits
from manyview.data.loader import read_images
from manyview.errors import DataError
from manyview.step import Step

Progress = Callable[[int, int], None]


class Watch(Protocol):
    """Shows long work while the block lasts; gives f(done, total). `Display.evaluating` is one."""

    def __call__(self, what: str, count: int, unit: str = "images") -> AbstractContextManager[Progress]: ...


@contextlib.contextmanager
def unwatched(what: str, count: int, unit: str = "images") -> Iterator[Progress]:
    """Shows nothing."""
    yield lambda done, total: None


@dataclass(frozen=True)
class Outputs:
    """What a step gives for the labelled images of a split, on the CPU.

    features: float32 [N, dim]. labels: int64 [N]. logits, aggregated: scores [N, classes] where it classifies.
    """

    features: Tensor
    labels: Tensor
    logits: Tensor | None = None
    aggregated: Tensor | None = None


def collect(
    step: Step,
    images: Images,
    *,
    aggregated: bool = False,
    batch_size: int = 256,
    skipped: list[str] | None = None,
    progress: Progress | None = None,
) -> Outputs:
    """Runs every labelled image through the step in evaluation mode, none dropped; leaves the mode as it was.

    skipped: receives a line on each image that cannot be read; without it, such an image raises BadImage.
    Raises DataError if no image has a label, or none can be read.
    """
    labelled = np.flatnonzero(images.labels >= 0)
    if not len(labelled):
        raise DataError(f"none of {len(images)} images has a label")
    training = step.training
    step.eval()
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(labelled), batch_size):
        positions = labelled[start : start + batch_size]
        batch, kept, bad = read_images(images, positions, skip=skipped is not None)
        if skipped is not None:
            skipped += bad
        if len(kept):
            for name, value in step.predict(batch, aggregated=aggregated).items():
                parts.setdefault(name, []).append(value.cpu())
            parts.setdefault("labels", []).append(torch.from_numpy(images.labels[kept]))
        if progress is not None:
            progress(start + len(positions), len(labelled))
    step.train(training)
    if not parts:
        raise DataError(f"none of {len(labelled)} images could be read; the first: {images.name(int(labelled[0]))}")
    whole = {name: torch.cat(values) for name, values in parts.items()}
    return Outputs(whole[FEATURES], whole["labels"], whole.get(LOGITS), whole.get("aggregated"))


@final
class Features:
    """A step's outputs on its splits, with the weights that it has now: make a new one when they have changed.

    skipped: receives a line on each image that cannot be read, see `collect`. watch: shows how far a split is.
    """

    def __init__(
        self, step: Step, splits: Splits, *, skipped: list[str] | None = None, watch: Watch = unwatched
    ) -> None:
        self.step, self.splits, self.skipped, self.watch = step, splits, skipped, watch
        self._known: dict[str, Outputs] = {}

    def of(self, split: str, *, aggregated: bool = False) -> Outputs:
        """The outputs on `train`, `val` or `test`; the first call passes it through the network.

        aggregated: with scores averaged over an orbit. Raises DataError for a split that is not there or has no labels.
        """
        images = {"train": self.splits.train, "val": self.splits.val, "test": self.splits.test}.get(split)
        if images is None:
            raise DataError(f"no split '{split}'; this run has {self.splits.note}")
        known = self._known.get(split)
        if known is None or (aggregated and known.aggregated is None):
            if not (images.labels >= 0).any():
                raise DataError(f"split '{split}' has no labelled images to evaluate; this run has {self.splits.note}")
            with self.watch(split, len(images)) as tick:
                known = collect(self.step, images, aggregated=aggregated, skipped=self.skipped, progress=tick)
            self._known[split] = known
        return known
