"""What a model gives for images: every labelled one once, on one process or shared out among several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from manyview.branches.spec import FEATURES, LOGITS
from manyview.data import Images
from manyview.data.images import Ints
from manyview.data.once import Once, Part, read_once
from manyview.data.reading import PATIENCE
from manyview.errors import DataError, ManyviewError, Unreadable
from manyview.evaluate.crew import Crew
from manyview.evaluate.model import Model
from manyview.evaluate.rows import MEMORY, Lying, Store, exact_as_half, rows_of
from manyview.foundation.words import counted

Progress = Callable[[int, int], None]
AGGREGATED = "aggregated"


@final
class Outputs:
    """What a model gives for the labelled images of a split, in memory or in a file.

    labels: int64 [N]. rows: the features [N, dim], read as float32 by the block. `features`, `logits` and `aggregated`
    (scores [N, classes] where it classifies) are whole, float32, on the CPU; of many images they take much memory.
    """

    def __init__(
        self, features: Lying, labels: Lying, logits: Lying | None = None, aggregated: Lying | None = None
    ) -> None:
        self.labels, self.rows = labels[:], rows_of(features)
        self._features, self._logits, self._aggregated = features, logits, aggregated

    @property
    def features(self) -> Tensor:
        """float32 [N, dim]."""
        return self.rows[:]

    @property
    def logits(self) -> Tensor | None:
        """float32 [N, classes]."""
        return None if self._logits is None else rows_of(self._logits)[:]

    @property
    def aggregated(self) -> Tensor | None:
        """float32 [N, classes], over the model's orbit."""
        return None if self._aggregated is None else rows_of(self._aggregated)[:]

    @property
    def has_aggregated(self) -> bool:
        """Whether scores over the orbit are among them."""
        return self._aggregated is not None

    def unclassified(self) -> Outputs:
        """Without scores."""
        return Outputs(self._features, self.labels)

    def tensors(self) -> dict[str, Lying]:
        """What there is by name, as it lies: what `Outputs(**tensors)` takes."""
        scores = {"logits": self._logits, AGGREGATED: self._aggregated}
        named = {"features": self._features, "labels": self.labels, **scores}
        return {name: each for name, each in named.items() if each is not None}


def collect(
    model: Model,
    images: Images,
    *,
    aggregated: bool = False,
    batch_size: int = 256,
    workers: int = 0,
    skipped: list[str] | None = None,
    progress: Progress | None = None,
    halves: bool = False,
    memory: int = MEMORY,
    crew: Crew | None = None,
    patience: float = PATIENCE,
) -> Outputs | None:
    """Runs every labelled image through the model, none dropped and none twice.

    workers: processes that read ahead, see `data.once`; the outputs are the same with any number. skipped: receives a
    line on each image that cannot be read; without it, such an image raises BadImage. halves: keep features as float16
    where that is exact enough. memory: bytes of each kind that stay in memory, see `Store`. crew: processes that all
    call this, of which each takes its share; the outputs, the same, are the first's, and None on the others. patience:
    seconds that a worker may be at an image.
    Raises DataError if no image has a label, or none can be read.
    """
    labelled = np.flatnonzero(images.labels >= 0)
    if not len(labelled):
        raise DataError(f"none of {counted(len(images), 'image')} has a label")
    rank, world = (0, 1) if crew is None else (crew.rank, crew.world)
    plan = Once(images, labelled, batch_size, skipped is not None, rank, world, patience)

    @torch.no_grad()
    def look(part: Part) -> Seen:
        if not len(part.kept):
            return Seen({}, part.skipped)
        read = model.read(model.prepare(part.images), aggregated=aggregated)
        found = {name: value.cpu() for name, value in read.items()}
        return Seen(found | {"labels": torch.from_numpy(images.labels[part.kept])}, part.skipped)

    stores: dict[str, Store] = {}
    with contextlib.closing(seen_by(plan, workers, look, crew)) as parts:
        for number, seen in enumerate(parts, 1):
            if skipped is not None:
                skipped += seen.skipped
            for name, value in seen.found.items():
                if name not in stores:
                    stores[name] = Store(len(labelled), memory, halves=halves and name == FEATURES)
                stores[name].add(value)
            if progress is not None:
                progress(min(number * batch_size, len(labelled)), len(labelled))
    if crew is not None and not crew.leads:
        return None
    if not stores:
        raise Unreadable(f"none of {counted(len(labelled), 'image')} could be read; the first: {(skipped or [''])[0]}")
    lying = {name: store.lying() for name, store in stores.items()}
    return Outputs(lying[FEATURES], lying["labels"], lying.get(LOGITS), lying.get(AGGREGATED))


@dataclass(frozen=True)
class Seen:
    """What a part of the images gave, tensors by name; skipped: a line on each that could not be read."""

    found: dict[str, Tensor]
    skipped: list[str]


def seen_by(plan: Once, workers: int, look: Callable[[Part], Seen], crew: Crew | None) -> Generator[Seen, None, None]:
    """What the parts gave, in their order; of several processes, all of which call this, on the first alone."""
    with contextlib.closing(read_once(plan, workers)) as parts:
        if crew is None:
            yield from map(look, parts)
            return
        left = len(plan)
        try:
            while left:
                try:
                    answer: Seen | ManyviewError = look(next(parts))
                except ManyviewError as error:  # which all have to know of
                    answer = error
                failed, answers = crew.anywhere(isinstance(answer, ManyviewError)), crew.joined(answer)
                begun, left = len(plan) - left, 0 if failed else left - 1
                for each in answers[: plan.parts - begun * crew.world]:
                    if isinstance(each, ManyviewError):
                        raise each
                    yield each
        finally:
            if left and crew.leads:  # whoever asked gave up: so do the others
                crew.anywhere(True)
                crew.joined(None)


def batches_of(
    plan: Once, workers: int, skipped: list[str] | None, progress: Progress | None
) -> Iterator[tuple[Tensor | list[Tensor], Ints]]:
    """Images as they are read, and their positions, with what `collect` tells meanwhile."""
    total = len(plan.positions)
    with contextlib.closing(read_once(plan, workers)) as parts:
        for number, part in enumerate(parts, 1):
            if skipped is not None:
                skipped += part.skipped
            if len(part.kept):
                yield part.images, part.kept
            if progress is not None:
                progress(min(number * plan.batch_size, total), total)


def halved(features: Tensor) -> Tensor:
    """Features [N, dim] as float16 where that is exact enough, else as they are."""
    return features.half() if exact_as_half(features) else features
