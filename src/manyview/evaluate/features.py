"""What a model makes of its data: each split goes through the network once, whatever is then measured.

Features are held as float16 where that is exact enough: where no row moves by more than a thousandth of its length,
which is so for all but very large or very small ones. They are rounded before the first use, so that what is measured
does not depend on whether they came from the network or from the cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from manyview.branches.spec import FEATURES, LOGITS
from manyview.data import Images, Splits
from manyview.data.images import Ints
from manyview.data.once import Once, read_once
from manyview.errors import DataError, Unreadable
from manyview.evaluate.model import Model
from manyview.foundation.words import counted

Progress = Callable[[int, int], None]
T = TypeVar("T")
ROUNDING = 1e-3


class Watch(Protocol):
    """Shows long work while the block lasts; gives f(done, total). `Display.evaluating` is one."""

    def __call__(self, what: str, count: int, unit: str = "images") -> AbstractContextManager[Progress]: ...


@contextlib.contextmanager
def unwatched(what: str, count: int, unit: str = "images") -> Iterator[Progress]:
    """Shows nothing."""
    yield lambda done, total: None


class Entry(Protocol):
    """The place of a model's outputs on some images among those that are kept."""

    @property
    def key(self) -> str:
        """A digest of all that they depend on; it changes as soon as an image or a weight does."""

    def load(self) -> dict[str, Tensor] | None:
        """Tensors by name; None if there are none."""

    def store(self, tensors: dict[str, Tensor]) -> None:
        """Keeps tensors."""


Keeper = Callable[[Model, Images], Entry]


@dataclass(frozen=True)
class Outputs:
    """What a model gives for the labelled images of a split, on the CPU.

    features: float32 [N, dim]. labels: int64 [N]. logits, aggregated: scores [N, classes] where it classifies.
    """

    features: Tensor
    labels: Tensor
    logits: Tensor | None = None
    aggregated: Tensor | None = None


def collect(
    model: Model,
    images: Images,
    *,
    aggregated: bool = False,
    batch_size: int = 256,
    workers: int = 0,
    skipped: list[str] | None = None,
    progress: Progress | None = None,
) -> Outputs:
    """Runs every labelled image through the model, none dropped.

    workers: processes that read ahead, see `data.once`; the outputs are the same with any number. skipped: receives a
    line on each image that cannot be read; without it, such an image raises BadImage.
    Raises DataError if no image has a label, or none can be read.
    """
    labelled = np.flatnonzero(images.labels >= 0)
    if not len(labelled):
        raise DataError(f"none of {counted(len(images), 'image')} has a label")
    parts: dict[str, list[Tensor]] = {}
    plan = Once(images, labelled, batch_size, skip=skipped is not None)
    for batch, kept in _batches(plan, workers, skipped, progress):
        with torch.no_grad():
            read = model.read(model.prepare(batch), aggregated=aggregated)
        for name, value in read.items():
            parts.setdefault(name, []).append(value.cpu())
        parts.setdefault("labels", []).append(torch.from_numpy(images.labels[kept]))
    if not parts:
        raise Unreadable(f"none of {counted(len(labelled), 'image')} could be read; the first: {(skipped or [''])[0]}")
    whole = {name: torch.cat(values) for name, values in parts.items()}
    return Outputs(whole[FEATURES], whole["labels"], whole.get(LOGITS), whole.get("aggregated"))


def _batches(
    plan: Once, workers: int, skipped: list[str] | None, progress: Progress | None
) -> Iterator[tuple[Tensor | list[Tensor], Ints]]:
    """Images as they are read, and their positions, with what `collect` tells meanwhile."""
    total = len(plan.positions)
    with contextlib.closing(read_once(plan, workers)) as stream:
        for number, part in enumerate(stream, 1):
            if skipped is not None:
                skipped += part.skipped
            if len(part.kept):
                yield part.images, part.kept
            if progress is not None:
                progress(min(number * plan.batch_size, total), total)


def halved(features: Tensor) -> Tensor:
    """Features [N, dim] as float16 where that is exact enough, else as they are."""
    half = features.half()
    moved = (half.float() - features).norm(dim=1)
    return half if bool((moved <= ROUNDING * features.norm(dim=1)).all()) else features


@final
class Features:
    """A model's outputs on its splits, with the weights that it has now: make a new one when they have changed.

    seed: of all that protocols draw. skipped: receives a line on each image that cannot be read, see `collect`. watch:
    shows how far long work is. keeper: where outputs are kept for the next time, unless an image could not be read,
    which then is tried again; None keeps them in memory alone. workers: processes that read images, see `data.workers`.
    """

    def __init__(
        self,
        model: Model,
        splits: Splits,
        *,
        seed: int = 0,
        skipped: list[str] | None = None,
        watch: Watch = unwatched,
        keeper: Keeper | None = None,
        workers: int = 0,
    ) -> None:
        self.model, self.splits, self.seed = model, splits, seed
        self.skipped, self.watch, self.keeper, self.workers = skipped, watch, keeper, workers
        self._known: dict[str, Outputs] = {}
        self._made: dict[Any, Any] = {}

    def on(self, splits: Splits) -> Features:
        """The same model's on other data."""
        return Features(
            self.model,
            splits,
            seed=self.seed,
            skipped=self.skipped,
            watch=self.watch,
            keeper=self.keeper,
            workers=self.workers,
        )

    @property
    def classes(self) -> int:
        """How many classes the data have."""
        return len(self.splits.classes)

    @property
    def classifies(self) -> bool:
        """Whether the model's scores are of the data's classes: by their names, or if it knows none, their number."""
        labels = self.model.labels
        if labels is None:
            return False
        return labels == self.splits.classes if any(labels) else len(labels) == self.classes

    def images(self, split: str) -> Images:
        """The images of `train`, `val` or `test`. Raises DataError for a split that is not there."""
        images = {"train": self.splits.train, "val": self.splits.val, "test": self.splits.test}.get(split)
        if images is None:
            raise DataError(f"no split '{split}'; this run has {self.splits.note}")
        return images

    def batches(
        self, images: Images, positions: Ints | None = None, batch_size: int = 256, watch: str = ""
    ) -> Iterator[tuple[Tensor | list[Tensor], Ints]]:
        """Images as they are read, and their positions; those that cannot be read are left out where a run says so.

        positions: which, by default all, labelled or not. watch: what to call this in the progress bar.
        """
        wanted = np.arange(len(images)) if positions is None else positions
        plan = Once(images, wanted, batch_size, skip=self.skipped is not None)
        with self.watch(watch, len(wanted)) as tick:
            yield from _batches(plan, self.workers, self.skipped, tick)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made at the first call with this key: a probe that several protocols use, say."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def of(self, split: str, *, aggregated: bool = False) -> Outputs:
        """The outputs on `train`, `val` or `test`; the first call passes it through the network, or finds it kept.

        Scores are left out where they are not of the data's classes. aggregated: with scores averaged over the model's
        orbit. Raises DataError for a split that is not there or has no labels.
        """
        images = self.images(split)
        known = self._known.get(split)
        if known is None or (aggregated and known.aggregated is None):
            if not (images.labels >= 0).any():
                raise DataError(f"split '{split}' has no labelled images to evaluate; this run has {self.splits.note}")
            known = self._known[split] = self._collected(split, images, aggregated)
        if not self.classifies:
            known = replace(known, logits=None, aggregated=None)
        return replace(known, features=known.features.float())

    def _collected(self, split: str, images: Images, aggregated: bool) -> Outputs:
        """Outputs found kept, else made, and kept where every image could be read and none changed meanwhile."""
        entry = None if self.keeper is None else self.keeper(self.model, images)
        if entry is not None:
            tensors = entry.load() or {}
            if tensors and not (aggregated and "aggregated" not in tensors):
                return Outputs(**tensors)
        skipped: list[str] | None = None if self.skipped is None else []
        with self.watch(split, len(images)) as tick:
            try:
                outputs = collect(
                    self.model, images, aggregated=aggregated, workers=self.workers, skipped=skipped, progress=tick
                )
            except Unreadable as error:
                raise Unreadable(f"{error} (split '{split}')") from None
        outputs = replace(outputs, features=halved(outputs.features))
        if self.skipped is not None:
            self.skipped += skipped or []
        if entry is not None and not skipped and self._unchanged(images, entry):
            entry.store({name: value for name, value in vars(outputs).items() if value is not None})
        return outputs

    def _unchanged(self, images: Images, entry: Entry) -> bool:
        """Whether images and weights are still those that the entry was made for."""
        return self.keeper is not None and self.keeper(self.model, images).key == entry.key
