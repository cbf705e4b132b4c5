"""Before the first step: what can be known to be wrong is found out, and small data sets come into memory."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyview.branches.spec import FEATURES, LOGITS
from manyview.branches.teacher import check_classes
from manyview.data import BadImage, Splits, preload
from manyview.data.loader import read_images
from manyview.errors import ManyviewWarning, RecipeError, reason
from manyview.foundation.modes import evaluating
from manyview.foundation.words import counted
from manyview.recipe.settings import Data, Train
from manyview.show.display import Display
from manyview.step import Step
from manyview.views.plan import TEST
from manyview.views.streams import IMAGE


def images_together(train: Train, images: int | Mapping[str, int], world: int) -> int:
    """How many images a process draws at once, of so many for training. Raises RecipeError if there is none.

    images: how many there are, or how many of each stream; then it is those of the first stream that are told.
    Warns where a batch is larger than the data: it is all of them then, whatever lr was meant for it.
    """
    parts = world * train.accumulate
    if train.batch_size % parts:
        raise RecipeError(f"train.batch_size: {train.batch_size} is not divisible by {_told(world, train.accumulate)}")
    counts = {IMAGE: images} if isinstance(images, int) else images
    for stream, count in counts.items():
        which, asked = "training images" if stream == IMAGE else f"{stream} images", train.batch_of(stream)
        if count < parts:
            raise RecipeError(f"train.batch_size: {count:,} {which} are too few for {_told(world, train.accumulate)}")
        if count < asked:
            _warn_of_few(count, count - count % parts, parts, asked, which, alone=len(counts) == 1)
    first = next(iter(counts))
    return min(train.batch_of(first), counts[first] - counts[first] % parts) // parts


def _told(world: int, accumulate: int) -> str:
    """What a batch is shared by."""
    shared = [counted(world, "process", "processes")] * (world > 1) + [counted(accumulate, "part")] * (accumulate > 1)
    return " x ".join(shared)


def _warn_of_few(count: int, whole: int, parts: int, asked: int, which: str, alone: bool) -> None:
    """There are fewer images than a batch of their stream has; so each update sees all that its parts can share."""
    if alone:
        told = f"train.batch_size is {asked:,}, but there are {count:,} {which}: each update sees {whole:,} and is an "
        told += f"epoch; train.batch_size={max(parts, whole // 4 // parts * parts)} would make several"
    else:
        told = f"a batch has room for {asked:,} {which}, and there are {count:,}: each update sees {whole:,} of them"
    warnings.warn(told, ManyviewWarning, stacklevel=3)


def check_teachers(step: Step, classes: Sequence[str]) -> None:
    """Raises RecipeError, or warns, where scores of a frozen teacher are of other classes than the data's."""
    for name in step.branches:
        branch = step.branch(name)
        if branch.spec.frozen is not None and LOGITS in branch.inputs and "backbone" in branch.starts:
            check_classes(name, branch.starts["backbone"], classes)


def rehearse(step: Step, splits: Splits, together: int = 2) -> None:
    """Draws the views of two training images of each stream and looks at one to evaluate, before anything is written.

    The networks look at one image of each size, so that those that cannot read it say so now.

    together: images that a process will draw at once; of two that come one by one, none can be mixed with the other.

    Raises ManyviewError for ops that do not fit the images. Images that cannot be read are the loader's affair.
    """
    with contextlib.suppress(BadImage):
        seen: dict[str, Tensor] = {}
        for stream, of in splits.streams.items():
            images, kept, _ = read_images(of, np.arange(min(2, together, len(of))))
            index = of.index[kept].tolist()
            views = step.views(images, index=index, epoch=0, only=step.rendered_views, stream=stream)
            seen |= {name: view.images[:1] for name, view in views.items()}
        check_sizes(step, seen)
    held = splits.val or splits.test
    with contextlib.suppress(BadImage):
        if held is not None:
            check_sizes(step, {TEST: step.test_pixels(read_images(held, np.arange(1))[0])})


@torch.no_grad()
def check_sizes(step: Step, images: Mapping[str, Tensor]) -> None:
    """Raises RecipeError where a network cannot read images of such a size. images: view, or `test` -> [1, C, h, w].

    Nothing of the networks changes: they look in evaluation mode.
    """
    reads = {
        (read.branch, read.view.partition(".")[0]) for plan in step.recipe.relation_plan for read in plan.all_reads
    }
    reads.add((step.main.spec.name, TEST))
    sizes = {(branch, images[view].shape): images[view] for branch, view in sorted(reads) if view in images}
    with evaluating(step):
        for (branch, shape), image in sizes.items():
            try:
                step.branch(branch).read(image, [FEATURES])
            except Exception as error:  # a layer left without pixels or a successor: networks have no common base
                size = "x".join(map(str, shape[-2:]))
                raise RecipeError(
                    f"branches.{branch}.backbone: {step.branch(branch).spec.backbone} cannot read views of {size}: "
                    f"{reason(error)}"
                ) from None


def in_memory(splits: Splits, data: Data, display: Display) -> Splits:
    """Small data sets of one size are decoded once, into memory; not where each reading may be at another scale."""
    loaded: dict[str, Any] = {}
    for name in ("train", "val", "test", "unlabeled"):
        images = getattr(splits, name)
        if images is not None and not data.reduced:
            with display.evaluating(f"decode {name}", len(images)) as tick:
                loaded[name] = preload(images, int(data.memory * 2**30), progress=tick)
    return replace(splits, **loaded)
