"""A batch: some images of a stream, as they were read or rendered, and beside them those of other streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from manyview.errors import BatchError
from manyview.views.engine.render import Source
from manyview.views.view import Drawn, View, moved_params


@dataclass(frozen=True)
class Batch:
    """One process's part of a step.

    images: uint8 [B, 3, H, W]; or B images of unlike sizes; or rendered views by name. labels: int64 [B], -1 where an
    image has none; None for no labels at all. index: the images' places in their data set, int64 [B], a tensor or
    whatever a step takes. epoch: the passage over it, from 0 on. skipped: what could not be read, one line each.
    labelled: whether every image has a label; it is kept because looking at labels on a GPU means waiting for it.
    streams: the parts of other streams, by name, whose B, index and epoch are their own. drawn: where images are still
    to be rendered, what their views have drawn, see `sample_views`; None: nothing yet. numbers: the index where the
    images lie, once they were moved, for relations that remember images.
    """

    images: Source | Mapping[str, View]
    labels: Tensor | None
    index: Any
    epoch: Any
    skipped: Sequence[str] = ()
    labelled: bool = True
    streams: Mapping[str, Batch] = field(default_factory=dict)
    drawn: Drawn | None = None
    numbers: Tensor | None = None

    @property
    def targets(self) -> Tensor | None:
        """The labels, as a step takes them: None unless every image has one."""
        return self.labels if self.labelled else None

    @property
    def unread(self) -> list[str]:
        """What could not be read, of all streams."""
        return [*self.skipped, *(line for other in self.streams.values() for line in other.unread)]

    def to(self, device: torch.device) -> Batch:
        """Images, labels and what was drawn, on a device. The index stays, too: draws are made on the CPU."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which they travel to a GPU while it works."""
        return self._with(torch.Tensor.pin_memory)

    def _with(self, move: Callable[[Tensor], Tensor]) -> Batch:
        images: Any = self.images
        if isinstance(images, Tensor):
            images = move(images)
        elif isinstance(images, Mapping):
            images = {name: view.moved(move) for name, view in images.items()}
        else:
            images = [move(image) for image in images]
        labels = None if self.labels is None else move(self.labels)
        streams = {name: other._with(move) for name, other in self.streams.items()}
        drawn = None if self.drawn is None else moved_params(self.drawn, move)
        numbers = self.index if self.numbers is None else self.numbers
        numbers = move(numbers) if isinstance(numbers, Tensor) else None
        return replace(self, images=images, labels=labels, streams=streams, drawn=drawn, numbers=numbers)


def as_batch(images: Any, labels: Any, index: Any, epoch: Any, streams: Mapping[str, Batch]) -> Batch:
    """What a step is called with: a batch, which has all the rest, or its parts. Raises BatchError for both."""
    if not isinstance(images, Batch):
        return Batch(images, labels, index, epoch, streams=streams)
    beside = {"labels": labels, "index": index, "epoch": epoch, "streams": streams or None}
    for name in (name for name, value in beside.items() if value is not None):
        raise BatchError(f"step(batch): a Batch has its own {name}; leave out {name}=…")
    return images


__all__ = ["Batch", "as_batch"]
