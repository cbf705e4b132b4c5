"""What a run's network saw of an image in an epoch, drawn again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from manyview.errors import DataError, RunError, brief, shown, unknown
from manyview.foundation.taken import check_overrides
from manyview.foundation.words import counted
from manyview.optimize.optimize import clock_of
from manyview.recipe.batches import batches_of
from manyview.show.sheet import contact_sheet, short_path
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
    folder = run_of(run, use)
    check_overrides(overrides, "replay: overrides")
    recipe = folder.recipe(*overrides, exact=True)
    splits = folder.splits(recipe, data)
    clock, known = clock_of(recipe.train, splits.counts), batches_of(recipe, splits, "workers", None)
    streams = {IMAGE: replace(known, streams={}), **known.streams}
    if stream not in streams:
        raise RunError(f"--stream: {unknown('stream', stream, streams)}")
    batches, train = streams[stream], splits.streams[stream]
    if epoch * batches.steps_per_epoch >= clock.steps:
        last = (clock.steps - 1) // batches.steps_per_epoch
        raise RunError(f"--epoch {epoch}: this run has {f'epochs 0 to {last}' if last else 'epoch 0 alone'}")
    found = (train.index == index).nonzero()[0]
    step = batches.step_of(int(found[0]), epoch) if len(found) else None
    if step is None or step >= clock.steps:
        by_distance = np.abs(train.index - index).argsort(kind="stable")
        seen = (n for n in by_distance if (at := batches.step_of(int(n), epoch)) is not None and at < clock.steps)
        near = f"; the nearest that epoch {epoch} saw is {train.index[next(seen)]}"
        if not len(found):
            between = f"{counted(len(train), 'image')} between {train.index.min()} and {train.index.max()}"
            raise DataError(f"no training image has index {index}; this run trained on {between}{near}")
        if step is None:
            raise DataError(f"image {index} was left over in epoch {epoch}: it filled no batch{near}")
        raise DataError(
            f"image {index} was not reached in epoch {epoch}: the run ended before, after {clock.steps} steps{near}"
        )
    position, together = int(found[0]), found
    if mixes(of_stream(recipe.view_plan, stream)):
        beside = replace(batches, world=folder.processes(step)).beside(position, epoch)
        assert beside is not None
        together = beside
    folder.tell_renderer()
    images, kept, _ = batches.read(together, epoch)
    if position not in kept:
        raise DataError(f"image {index} cannot be read: it was skipped in training")
    caption = f"{short_path(shown(train.name(position)))}\nindex {index}, epoch {epoch}"
    row, names = kept.tolist().index(position), [caption] * len(kept)
    picture = contact_sheet(recipe, images, names, train.index[kept].tolist(), epoch, [row], stream=stream)
    of = "" if stream == IMAGE else f" of the stream {stream}"
    return Replayed(picture, f"{shown(train.name(position))}, index {index}{of}, epoch {epoch}", recipe.seed)
