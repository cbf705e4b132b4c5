"""Floating-point operations of an update, counted without computing: on meta tensors, which have shapes alone.

Two images of each stream are rendered, and their views' shapes are stretched to the batch that the recipe asks for. A
copy of the step then makes the whole update of them: every part of the batch, every look of the optimiser at it,
forward and backward; teachers, crops of every size, the networks of relations and the optimiser's own products. torch's
FlopCounterMode counts convolutions, matrix products and attention, a multiplication and an addition being two. So the
number is a function of the recipe, the same on every machine, and is had in about a second whatever the network. Where
a mask chooses rows by their values, all are counted.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from manyview.data import BadImage, Splits
from manyview.data.batch import Batch
from manyview.data.images import ArrayImages, Images, Subset
from manyview.data.loader import read_images
from manyview.errors import ManyviewError, ManyviewWarning, RecipeError, reason
from manyview.foundation.words import counted
from manyview.optimize.optimize import images_of, make_optimizer
from manyview.optimize.passes import passes_of
from manyview.recipe.recipe import Recipe
from manyview.recipe.settings import Train
from manyview.recipe.streams import streams_seen
from manyview.step import Step
from manyview.views.streams import IMAGE

UNSEEN = 64  # the side of random images where no view says what it needs
FEW = 2  # images that are rendered; of one alone none can be mixed with another


def flops_of_update(recipe: Recipe, step: Step, images: Mapping[str, int], splits: Splits | None = None) -> int:
    """The operations of one update of so many images of each stream. The step stays as it is.

    splits: the recipe's data, two images of which are looked at; None for random ones. A teacher whose features are
    kept looks as any other. Raises RecipeError where a network or a relation asks for values, which shapes have not.
    """
    from torch.fx.experimental import _config as shapes_config  # both only where something is counted
    from torch.utils.flop_counter import FlopCounterMode

    train = recipe.train
    part = {stream: max(1, count // train.accumulate) for stream, count in images.items()}
    drawn = random_splits(recipe, step, dict.fromkeys(images, FEW))
    try:
        small = _small(step, splits or drawn)
    except BadImage:  # which is the loader's affair
        small = _small(step, drawn)
    batch = _stretched(small, part)
    shapes = copy.deepcopy(step).to("meta").train()
    shapes.total_steps = shapes.total_steps or 1
    try:
        chosen = shapes_config.patch(meta_nonzero_assume_all_nonzero=True)  # type: ignore[attr-defined]
        with warnings.catch_warnings(), chosen, FlopCounterMode(display=False) as counter:
            warnings.simplefilter("ignore", ManyviewWarning)  # of habits, which are training's to tell
            optimizer = make_optimizer(train, shapes)
            for look in passes_of(optimizer):
                with look.looking():
                    for _ in range(train.accumulate):
                        look.loss(shapes(batch)).backward()
                (look.then or optimizer.step)()
    except ManyviewError:
        raise
    except Exception as error:  # what meta tensors refuse has no common base
        raise RecipeError(f"its operations cannot be counted, since it asks for values: {reason(error)}") from None
    return int(counter.get_total_flops())


def work_line(recipe: Recipe, step: Step, splits: Splits | None, steps: int | None) -> str:
    """What an update costs, for people. steps: of the whole run, where that is known."""
    counts = {stream: recipe.train.batch_of(stream) for stream in streams_seen(recipe)}
    try:
        flops = flops_of_update(
            recipe, step, counts if splits is None else images_of(recipe.train, splits.counts), splits
        )
    except RecipeError as error:
        return f"work: {error}"
    run = "" if steps is None else f", {flops * steps:.3g} FLOPs in {counted(steps, 'step')}"
    again = f"; what {what} computes again is not counted" if (what := saves(recipe.train)) else ""
    return f"work: {flops / 1e9:,.4g} GFLOPs a step, forward and backward, counted on the shapes alone{run}{again}"


def saves(train: Train) -> str:
    """The settings that have activations computed again, which costs up to a further forward pass; "" for none."""
    asked = {"checkpointing": train.checkpointing, f"micro_batch={train.micro_batch}": train.micro_batch}
    return " and ".join(f"train.{key}" for key, value in asked.items() if value)


def _small(step: Step, splits: Splits) -> Batch:
    """Two rendered images of each stream."""

    def of(stream: str, images: Images) -> Batch:
        pixels, kept, _ = read_images(images, np.resize(np.arange(min(FEW, len(images))), FEW))
        labels = torch.from_numpy(images.labels[kept].copy()) if stream == IMAGE else None
        batch = Batch(pixels, labels, images.index[kept], 0, labelled=bool((images.labels[kept] >= 0).all()))
        return replace(batch, images=step.views(batch, only=step.rendered_views, stream=stream))

    first, *others = (of(stream, images) for stream, images in splits.streams.items())
    return replace(first, streams=dict(zip([name for name in splits.streams if name != IMAGE], others, strict=True)))


def _stretched(batch: Batch, images: Mapping[str, int], stream: str = IMAGE) -> Batch:
    """The shapes of the same batch with so many images of each stream."""
    count = images[stream]

    def stretch(tensor: Tensor) -> Tensor:
        return torch.empty((len(tensor) // FEW * count, *tensor.shape[1:]), dtype=tensor.dtype, device="meta")

    views = {name: view.moved(stretch) for name, view in batch.images.items()}  # type: ignore[union-attr]
    labels = None if batch.labels is None else stretch(batch.labels)
    numbers = torch.empty(count, dtype=torch.int64, device="meta")
    streams = {name: _stretched(other, images, name) for name, other in batch.streams.items()}
    return replace(batch, images=views, labels=labels, index=None, numbers=numbers, streams=streams)


def random_splits(recipe: Recipe, step: Step, counts: Mapping[str, int]) -> Splits:
    """So many random images of each stream that the recipe reads."""
    train, *others = (_random_images(recipe, step, counts[stream]) for stream in streams_seen(recipe))
    unlabeled = Subset(others[0], np.arange(len(others[0])), hidden=True) if others else None
    return Splits(train, None, None, (), "random", unlabeled=unlabeled)


def _random_images(recipe: Recipe, step: Step, count: int) -> ArrayImages:
    """So many random images, a little larger than the first view, with labels in turn."""
    side = UNSEEN if step.trained_size is None else math.ceil(max(step.trained_size) * 8 / 7)
    drawn = torch.Generator().manual_seed(recipe.seed)
    shape = (count, recipe.data.channels or 3, side, side)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=drawn)
    return ArrayImages(pixels, np.arange(count) % max(1, step.num_classes), np.arange(count), "random images")
