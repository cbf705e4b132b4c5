"""What a run's network saw of an image in an epoch, drawn again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from manyview.data import Splits
from manyview.data.loader import Batches
from manyview.errors import DataError, RunError, brief, shown, unknown
from manyview.foundation.taken import check_overrides
from manyview.foundation.words import counted
from manyview.optimize.optimize import clock_of
from manyview.recipe.batches import batches_of
from manyview.recipe.recipe import Recipe
from manyview.show.sheet import Column, compose, drawn_columns, short_path
from manyview.training.run import Run, run_of
from manyview.views.plan import mixes, of_stream
from manyview.views.streams import IMAGE
from manyview.words.load import Use


@dataclass(frozen=True)
class Replayed:
    """picture: a contact sheet of one row. name: the image's, its index and the epoch, in a line. seed: the run's."""

    picture: Image.Image
    name: str
    seed: int


def replay(
    run: Run | str | Path,
    index: int,
    epoch: int,
    *,
    data: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    use: Use | Sequence[Use] = (),
    stream: str = IMAGE,
) -> Replayed:
    """Draws exactly what a run's network saw of an image of a stream in an epoch of that stream.

    run: or its folder. index: the image's, as in its split of the source. stream: `image`, or `unlabeled` where the run
    has it. data: the data sets, if the run was given any. overrides: where data are, `data.root=DIR`. use: words of its
    own that the run was made with, which must be the very same. Raises ManyviewError for an image or an epoch that the
    run has not seen.
    """
    if type(index) is not int or type(epoch) is not int or epoch < 0:
        raise RunError(f"replay: index and epoch are whole numbers from 0 on, got {brief(index)} and {brief(epoch)}")
    film = open_film(run, data=data, overrides=overrides, use=use)
    shown_again = film.shown(index, epoch, stream)
    return Replayed(compose(shown_again.columns), shown_again.name, film.recipe.seed)


@dataclass(frozen=True)
class Shown:
    """What the network saw of one image: the image and each view, a column of one row each. name: see `Replayed`."""

    columns: list[Column]
    name: str


@dataclass(frozen=True)
class Film:
    """A run with its data, all of whose views can be drawn again. steps: of the whole run. batches: by stream."""

    run: Run
    recipe: Recipe
    splits: Splits
    steps: int
    batches: Mapping[str, Batches]

    def shown(self, index: int, epoch: int, stream: str = IMAGE) -> Shown:
        """As `replay`. Raises ManyviewError for an image or an epoch that the run has not seen."""
        if stream not in self.batches:
            raise RunError(f"--stream: {unknown('stream', stream, self.batches)}")
        batches, train = self.batches[stream], self.splits.streams[stream]
        position, step = self._place(index, epoch, stream)
        together = np.array([position])
        if mixes(of_stream(self.recipe.view_plan, stream)):
            beside = replace(batches, world=self.run.processes(step)).beside(position, epoch)
            assert beside is not None
            together = beside
        images, kept, _ = batches.read(together, epoch)
        if position not in kept:
            raise DataError(f"image {index} cannot be read: it was skipped in training")
        caption = f"{short_path(shown(train.name(position)))}\nindex {index}, epoch {epoch}"
        row, names = kept.tolist().index(position), [caption] * len(kept)
        columns = drawn_columns(
            self.recipe, images, names, train.index[kept].tolist(), epoch, [row], stream=stream
        )  # fmt: skip
        of = "" if stream == IMAGE else f" of the stream {stream}"
        return Shown(columns, f"{shown(train.name(position))}, index {index}{of}, epoch {epoch}")

    def _place(self, index: int, epoch: int, stream: str) -> tuple[int, int]:
        """(position, update) of an image in an epoch."""
        batches, train = self.batches[stream], self.splits.streams[stream]
        if epoch * batches.steps_per_epoch >= self.steps:
            last = (self.steps - 1) // batches.steps_per_epoch
            raise RunError(f"--epoch {epoch}: this run has {f'epochs 0 to {last}' if last else 'epoch 0 alone'}")
        found = (train.index == index).nonzero()[0]
        step = batches.step_of(int(found[0]), epoch) if len(found) else None
        if step is not None and step < self.steps:
            return int(found[0]), step
        by_distance = np.abs(train.index - index).argsort(kind="stable")
        seen = (n for n in by_distance if (at := batches.step_of(int(n), epoch)) is not None and at < self.steps)
        near = f"; the nearest that epoch {epoch} saw is {train.index[next(seen)]}"
        if not len(found):
            between = f"{counted(len(train), 'image')} between {train.index.min()} and {train.index.max()}"
            raise DataError(f"no training image has index {index}; this run trained on {between}{near}")
        if step is None:
            raise DataError(f"image {index} was left over in epoch {epoch}: it filled no batch{near}")
        raise DataError(
            f"image {index} was not reached in epoch {epoch}: the run ended before, after {self.steps} steps{near}"
        )


def open_film(
    run: Run | str | Path,
    *,
    data: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    use: Use | Sequence[Use] = (),
) -> Film:
    """Opens a run with its data; arguments as of `replay`. Raises ManyviewError."""
    folder = run_of(run, use)
    check_overrides(overrides, "replay: overrides")
    folder.tell_renderer()
    recipe = folder.recipe(*overrides, exact=True)
    splits = folder.splits(recipe, data)
    known = batches_of(recipe, splits, "workers", None)
    streams = {IMAGE: replace(known, streams={}), **known.streams}
    return Film(folder, recipe, splits, clock_of(recipe.train, splits.counts).steps, streams)
