"""One update by itself, as training makes it on one process, without logs, checkpoints and measures: to be timed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from manyview.data.batch import Batch
from manyview.optimize.clip import clipped_together
from manyview.optimize.passes import Pass, passes_of
from manyview.step import Step
from manyview.views.streams import IMAGE


def one_update(step: Step, optimizer: torch.optim.Optimizer, parts: Iterable[Batch]) -> None:
    """Every look of the optimiser at every part of a batch, forward and backward, and its step.

    parts: as many as `Train.accumulate` says, on the step's device; each is asked for when it is looked at.
    """
    train, passes = step.recipe.train, passes_of(optimizer)
    device = next(step.parameters()).device.type
    parts = shown(parts, passes, step)
    for look in passes:
        with look.looking():
            for batch in parts:
                with torch.autocast(device, torch.bfloat16, enabled=train.precision == "bf16"):
                    output = step(batch)
                (look.loss(output) / train.accumulate).backward()
        if look.then is None and train.clip:
            for together in clipped_together(step):
                torch.nn.utils.clip_grad_norm_(together, train.clip)
        (look.then or optimizer.step)()
        optimizer.zero_grad()


def shown(parts: Iterable[Batch], passes: Sequence[Pass], step: Step) -> Iterable[Batch]:
    """The parts as they are read, where there is one look at them; for several they are kept, with their views."""
    return parts if len(passes) == 1 else [_rendered(batch, step) for batch in parts]


def _rendered(batch: Batch, step: Step, stream: str = IMAGE) -> Batch:
    images: Any = batch.images
    if not isinstance(images, Mapping):
        images = step.views(batch, only=step.rendered_views, stream=stream)
    streams = {name: _rendered(other, step, name) for name, other in batch.streams.items()}
    return replace(batch, images=images, streams=streams, drawn=None)


__all__ = ["one_update", "shown"]
